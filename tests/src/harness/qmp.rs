//! QEMU's block layer, driven over QMP: `qemu-storage-daemon`, or a whole `qemu-system`.

use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// How long anything may take that has to come.
const PATIENCE: Duration = Duration::from_secs(60);

/// A process with a QMP socket; killed when dropped.
pub struct Qmp {
    child: Child,
    reader: BufReader<UnixStream>,
    writer: UnixStream,
    /// Events that nobody waited for yet.
    events: Vec<Value>,
}

impl Qmp {
    /// Starts `qemu-storage-daemon`, its socket in `folder`.
    #[track_caller]
    pub fn storage_daemon(folder: &Path) -> Self {
        Self::storage_daemon_of("qemu-storage-daemon", folder)
    }

    /// Starts `program`, which is `qemu-storage-daemon` of any version.
    #[track_caller]
    pub fn storage_daemon_of(program: &str, folder: &Path) -> Self {
        let socket = folder.join(format!("qmp-{}", next_number()));
        let chardev = format!("socket,id=qmp,path={},server=on,wait=off", socket.display());
        let mut command = Command::new(program);
        command.args(["--chardev", &chardev, "--monitor", "chardev=qmp"]);
        Self::start(command, &socket)
    }

    /// Starts `qemu-system-x86_64` without a machine: the monitor that a guest's emulator has, without a guest.
    #[track_caller]
    pub fn system(folder: &Path) -> Self {
        let socket = folder.join(format!("qmp-{}", next_number()));
        let listen = format!("unix:{},server=on,wait=off", socket.display());
        let mut command = Command::new("qemu-system-x86_64");
        command.args(["-machine", "none", "-nodefaults", "-display", "none", "-qmp", &listen]);
        // A second monitor, for whoever else has something to say.
        let second = format!("unix:{},server=on,wait=off", folder.join("monitor").display());
        command.args(["-qmp", &second]);
        Self::start(command, &socket)
    }

    /// Starts `command`, which listens for QMP at `socket`.
    #[track_caller]
    pub fn start(mut command: Command, socket: &Path) -> Self {
        command.stdin(Stdio::null());
        let child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let begun = Instant::now();
        let stream = loop {
            match UnixStream::connect(socket) {
                Ok(stream) => break stream,
                Err(error) => assert!(begun.elapsed() < PATIENCE, "{command:?}: {error}"),
            }
            thread::sleep(Duration::from_millis(5));
        };
        stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
        let writer = stream.try_clone().expect("a socket");
        let mut qmp = Self { child, reader: BufReader::new(stream), writer, events: Vec::new() };
        assert!(qmp.receive()["QMP"].is_object(), "it greets");
        qmp.ok("qmp_capabilities", &json!({}));
        qmp
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Does a command, whatever comes of it.
    #[track_caller]
    pub fn attempt(&mut self, command: &str, arguments: &Value) -> Result<Value, String> {
        let request = json!({ "execute": command, "arguments": arguments });
        writeln!(self.writer, "{request}").expect("it listens");
        loop {
            let said = self.receive();
            if let Some(value) = said.get("return") {
                return Ok(value.clone());
            }
            if let Some(error) = said.get("error") {
                return Err(error["desc"].as_str().unwrap_or_default().to_owned());
            }
            self.events.push(said);
        }
    }

    /// Does a command that has to succeed.
    #[track_caller]
    pub fn ok(&mut self, command: &str, arguments: &Value) -> Value {
        self.attempt(command, arguments).unwrap_or_else(|error| panic!("{command}: {error}"))
    }

    /// Waits for an event; its data.
    #[track_caller]
    pub fn event(&mut self, name: &str) -> Value {
        if let Some(at) = self.events.iter().position(|event| event["event"] == name) {
            return self.events.remove(at)["data"].clone();
        }
        loop {
            let said = self.receive();
            if said["event"] == name {
                return said["data"].clone();
            }
            self.events.push(said);
        }
    }

    /// A raw file as a block node.
    #[track_caller]
    pub fn add_file(&mut self, node: &str, path: &Path) {
        let file = json!({ "driver": "file", "filename": path, "discard": "unmap" });
        self.ok("blockdev-add", &json!({ "driver": "raw", "node-name": node, "file": file }));
    }

    /// Serves a node over NBD, writable, at a socket in `folder`; its URI.
    #[track_caller]
    pub fn serve(&mut self, node: &str, folder: &Path) -> String {
        let socket = folder.join(format!("nbd-{}", next_number()));
        let address = json!({ "type": "unix", "data": { "path": socket } });
        self.ok("nbd-server-start", &json!({ "addr": address }));
        let export = json!({ "type": "nbd", "id": "served", "node-name": node, "writable": true });
        self.ok("block-export-add", &export);
        format!("nbd+unix:///{node}?socket={}", socket.display())
    }

    /// An export over a Unix socket as a block node, which waits `reconnect` seconds for a server that is gone.
    #[track_caller]
    pub fn add_nbd(&mut self, node: &str, socket: &Path, export: &str, reconnect: u32) {
        let nbd = nbd_node(node, socket, export, reconnect);
        self.ok("blockdev-add", &nbd);
    }

    /// Mirrors the node `disk` to an export, which is the node `replica` then, as job `feed`: writes wait for it. Until it is ready.
    #[track_caller]
    pub fn mirror(&mut self, socket: &Path, export: &str) {
        self.add_nbd("replica", socket, export, 60);
        let mirror = json!({
            "job-id": "feed", "device": "disk", "target": "replica", "sync": "full",
            "copy-mode": "write-blocking", "auto-dismiss": false,
        });
        self.ok("blockdev-mirror", &mirror);
        self.event("BLOCK_JOB_READY");
    }

    /// Waits until a job has ended, and dismisses it; why it failed, if it did.
    #[track_caller]
    pub fn conclude(&mut self, job: &str) -> Option<String> {
        let begun = Instant::now();
        loop {
            let jobs = self.ok("query-jobs", &json!({}));
            let jobs = jobs.as_array().expect("a list");
            let status = jobs.iter().find(|one| one["id"] == job).expect("it is there").clone();
            if status["status"] == "concluded" {
                self.ok("job-dismiss", &json!({ "id": job }));
                return status["error"].as_str().map(ToOwned::to_owned);
            }
            assert!(begun.elapsed() < PATIENCE, "{job} does not end: {status}");
            thread::sleep(Duration::from_millis(10));
        }
    }

    #[track_caller]
    fn receive(&mut self) -> Value {
        let mut line = String::new();
        let count = self.reader.read_line(&mut line).expect("it answers");
        assert!(count > 0, "it has gone");
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error} in {line}"))
    }
}

impl Drop for Qmp {
    fn drop(&mut self) {
        // It may have ended, or been killed by the test.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What `blockdev-add` takes for an export over a Unix socket.
pub fn nbd_node(node: &str, socket: &Path, export: &str, reconnect: u32) -> Value {
    json!({
        "driver": "nbd",
        "node-name": node,
        "server": { "type": "unix", "path": socket },
        "export": export,
        "reconnect-delay": reconnect,
    })
}

fn next_number() -> u32 {
    use std::sync::atomic::{AtomicU32, Ordering};
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    NUMBER.fetch_add(1, Ordering::Relaxed)
}
