//! Starts targets, runs commands against them, reads exports over NBD.

use landfall_disks::image::{Access, BesideTheImage, Location, Opener};
use landfall_disks::uring::{Directory, Engine, EngineSettings};
use landfall_disks::vhdx::{self, CreateOptions};
use landfall_disks::{Buffer, ByteOffset, ByteRange, Durability, ZeroMode};
use landfall_protocols::nbd::client::{Client, Connection, negotiate};
use serde_json::Value;
use std::fs::OpenOptions;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use tempfile::TempDir;
use tokio::net::UnixStream;

const BINARY: &str = env!("CARGO_BIN_EXE_landfall");

/// A target in a folder of its own, killed when dropped.
pub(crate) struct Target {
    folder: TempDir,
    process: Option<Child>,
    /// What it printed until it was ready.
    pub(crate) greeting: String,
    /// Warnings and errors that the test is about.
    expected: Vec<&'static str>,
}

impl Target {
    /// A new target, ready to be used.
    pub(crate) fn start() -> Self {
        Self::with_config("")
    }

    /// A new target with this text in its `landfall.toml`.
    pub(crate) fn with_config(text: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::create_dir(folder.path().join("data")).expect("a folder");
        std::fs::write(folder.path().join("data/landfall.toml"), text).expect("written");
        let (process, greeting, expected) = (None, String::new(), Vec::new());
        let mut target = Self { folder, process, greeting, expected };
        target.resume();
        target
    }

    /// Warnings and errors with this text may be in the log; any other one fails the test.
    pub(crate) fn expect_log(&mut self, text: &'static str) {
        self.expected.push(text);
    }

    /// Starts it again, in the same folder.
    pub(crate) fn resume(&mut self) {
        let log = OpenOptions::new().create(true).append(true).open(self.path("log"));
        let mut process = self
            .command(&["serve", "--delta", "127.0.0.1:0", "--nbd", "off", "--http", "127.0.0.1:0"])
            .stdout(Stdio::piped())
            .stderr(log.expect("a log"))
            .spawn()
            .expect("the binary starts");
        let mut greeting = String::new();
        let mut lines = BufReader::new(process.stdout.take().expect("piped"));
        while !greeting.contains("ready after") {
            let read = lines.read_line(&mut greeting).expect("readable");
            assert!(read > 0, "the target ended while starting: {greeting}{}", self.log());
        }
        self.process = Some(process);
        self.greeting = greeting;
    }

    /// Ends it in good order; it must say that it did.
    pub(crate) fn stop(&mut self) {
        let mut process = self.process.take().expect("it runs");
        signal(&process, rustix::process::Signal::TERM);
        let status = process.wait().expect("it ends");
        assert_eq!(status.code(), Some(0), "{status}");
    }

    /// Ends it at once.
    pub(crate) fn kill(&mut self) {
        let mut process = self.process.take().expect("it runs");
        signal(&process, rustix::process::Signal::KILL);
        process.wait().expect("it ends");
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.process.as_ref().expect("it runs").id()
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    /// A place in its folder, beside the data.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The data folder.
    pub(crate) fn data(&self) -> PathBuf {
        self.path("data")
    }

    /// A command of landfall in its folder.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(BINARY);
        command
            .args(arguments)
            .current_dir(self.folder.path())
            .env("LANDFALL_DATA", self.data())
            .env_remove("LANDFALL_CONFIG")
            .env_remove("LANDFALL_PKI")
            .env_remove("RUST_LOG");
        command
    }

    /// Runs a command that must succeed; what it printed.
    pub(crate) fn run(&self, arguments: &[&str]) -> String {
        let output = self.output(arguments);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert!(output.status.success(), "{arguments:?} failed: {}", text(&output.stderr));
        text(&output.stdout)
    }

    /// Runs a command that must succeed, with `--json`.
    pub(crate) fn json(&self, arguments: &[&str]) -> Value {
        let text = self.run(&[arguments, &["--json"]].concat());
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
    }

    /// Runs a command that must fail; what it said.
    pub(crate) fn refused(&self, arguments: &[&str]) -> String {
        let output = self.output(arguments);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {output:?}");
        String::from_utf8(output.stderr).expect("text")
    }

    fn output(&self, arguments: &[&str]) -> Output {
        self.command(arguments).stdin(Stdio::null()).output().expect("the binary starts")
    }

    /// A machine `web` with one disk of `content`, replicated once from `disk.raw`.
    pub(crate) fn with_machine(self, content: &[u8]) -> Self {
        std::fs::write(self.path("disk.raw"), content).expect("written");
        let disk = format!("name=os,size={}", content.len());
        self.run(&["machine", "add", "web", "--disk", &disk]);
        self.replicate();
        self
    }

    /// Replicates `disk.raw` once.
    pub(crate) fn replicate(&self) {
        self.run(&["replicate", "web", "--disk", "os=disk.raw", "--once"]);
    }

    /// The points of `web`, oldest first.
    pub(crate) fn points(&self) -> Vec<Value> {
        self.json(&["point", "list", "web"])["points"].as_array().expect("a list").clone()
    }

    /// All bytes of an export, and whether it can be written.
    pub(crate) fn read(&self, export: &str) -> Result<(Vec<u8>, bool), String> {
        self.over_nbd(export, async |client: &Client| {
            let whole = ByteRange::up_to(client.size_bytes());
            let bytes = client.read(whole).await.map_err(|error| error.to_string())?;
            Ok((bytes.to_vec(), !client.is_read_only()))
        })
    }

    /// Writes into an export.
    pub(crate) fn write(&self, export: &str, at: u64, bytes: &[u8]) -> Result<(), String> {
        let data = Buffer::copy_of(bytes);
        self.over_nbd(export, async move |client: &Client| {
            let written = client.write(ByteOffset::new(at), data, Durability::Durable).await;
            written.map_err(|error| error.to_string())
        })
    }

    fn over_nbd<T>(
        &self,
        export: &str,
        work: impl AsyncFnOnce(&Client) -> Result<T, String>,
    ) -> Result<T, String> {
        on_tokio(async {
            let (client, connection) = self.connect(export).await?;
            let work = async move { work(&client).await };
            let (done, ended) = tokio::join!(work, connection.run());
            ended.map_err(|error| error.to_string())?;
            done
        })
    }

    /// Does something with several connections to one export.
    pub(crate) fn with_clients(
        &self,
        export: &str,
        count: usize,
        work: impl AsyncFnOnce(&[Client]),
    ) {
        on_tokio(async {
            let mut clients = Vec::new();
            let mut connections = Vec::new();
            for _ in 0..count {
                let (client, connection) = self.connect(export).await.expect("it opens");
                clients.push(client);
                connections.push(tokio::spawn(connection.run()));
            }
            work(&clients).await;
            drop(clients);
            for connection in connections {
                connection.await.expect("no panic").expect("a good end");
            }
        });
    }

    pub(crate) async fn connect(
        &self,
        export: &str,
    ) -> Result<(Client, Connection<UnixStream>), String> {
        let stream = UnixStream::connect(self.data().join("nbd.sock")).await.expect("it listens");
        negotiate(stream, export).await.map_err(|error| error.to_string())
    }
}

fn on_tokio<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(work)
}

impl Drop for Target {
    fn drop(&mut self) {
        if self.process.is_some() {
            self.kill();
        }
        let log = self.log();
        if std::thread::panicking() {
            eprintln!("--- log of the target\n{log}");
            return;
        }
        for line in log.lines() {
            let is_alarm = line.contains(" WARN ") || line.contains(" ERROR ");
            let is_expected = self.expected.iter().any(|text| line.contains(text));
            assert!(!is_alarm || is_expected, "the target logged: {line}");
        }
    }
}

fn signal(process: &Child, signal: rustix::process::Signal) {
    let pid = i32::try_from(process.id()).ok().and_then(rustix::process::Pid::from_raw);
    rustix::process::kill_process(pid.expect("a process id"), signal).expect("it runs");
}

/// So many bytes that do not repeat, different for every `seed`.
pub(crate) fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

/// Bytes a file takes on its file system.
pub(crate) fn allocated(path: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata(path).expect("it exists").blocks() * 512
}

/// Everything that `/metrics` says.
pub(crate) fn metrics(target: &Target) -> String {
    let (status, text) = get(target, "/metrics");
    assert_eq!(status, 200, "{text}");
    text
}

/// The value of a metric without labels.
pub(crate) fn metric(target: &Target, name: &str) -> u64 {
    let text = metrics(target);
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    value.and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("no {name} in\n{text}"))
}

/// A request to the metrics listener, by hand.
pub(crate) fn get(target: &Target, path: &str) -> (u16, String) {
    use std::io::{Read, Write};
    let status = target.json(&["status"]);
    let address = status["listen"]["http"].as_str().expect("it listens");
    let mut stream = std::net::TcpStream::connect(address).expect("it listens");
    write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    let code = head.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status");
    (code, body.to_owned())
}

/// Requests to the control socket over one connection; what was answered, all of it with 200.
pub(crate) fn control<'a>(
    target: &Target,
    requests: impl IntoIterator<Item = (&'a str, &'a str, Value)>,
) -> Vec<String> {
    use std::io::{Read, Write};
    let socket = target.data().join("landfall.sock");
    let mut stream = BufReader::new(std::os::unix::net::UnixStream::connect(socket).unwrap());
    let mut answers = Vec::new();
    for (method, path, body) in requests {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n\r\n",
            body.len()
        );
        stream.get_mut().write_all((head + &body).as_bytes()).unwrap();
        let (mut length, mut line) = (0, String::new());
        stream.read_line(&mut line).unwrap();
        assert!(line.starts_with("HTTP/1.1 200"), "{method} {path}: {line}");
        while line.trim() != "" {
            line.clear();
            stream.read_line(&mut line).unwrap();
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().expect("a length");
            }
        }
        let mut answer = vec![0; length];
        stream.read_exact(&mut answer).unwrap();
        answers.push(String::from_utf8(answer).expect("text"));
    }
    answers
}

/// Runs `qemu-img`, which must be there and succeed; what it printed.
pub(crate) fn qemu_img(arguments: &[&str]) -> String {
    let output = Command::new("qemu-img").args(arguments).output().expect("qemu-img is installed");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let failed = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "qemu-img {arguments:?}: {said}{failed}");
    said
}

/// Does something with image files, on an engine of its own.
pub(crate) fn on_engine<T: Send + 'static>(work: impl AsyncFnOnce() -> T + Send + 'static) -> T {
    let settings = EngineSettings { cores: 1, ..EngineSettings::default() };
    let engine = Engine::start(settings).expect("an engine");
    engine.cores()[0].block_on(move || work()).expect("the core runs")
}

/// Where an image is.
fn place(path: &Path) -> Location {
    let folder = Directory::open(path.parent().expect("in a folder")).expect("it exists");
    Location { folder: Arc::new(folder), path: path.file_name().expect("a file").into() }
}

/// Makes a VHDX that stands on nothing.
pub(crate) fn make_vhdx(path: &Path, size_bytes: u64) {
    let at = place(path);
    on_engine(async move || {
        let options = CreateOptions { block_bytes: 1 << 20, ..CreateOptions::dynamic(size_bytes) };
        let guids = vhdx::kernel_guids();
        vhdx::create(&*at.folder, &at.path, &options, &guids).await.expect("created");
    });
}

/// Makes a VHDX that stands on `parent`, in the same folder, which `qemu-img` cannot.
pub(crate) fn make_child(parent: &Path, path: &Path) {
    let (parent, at) = (place(parent), place(path));
    on_engine(async move || {
        let info = vhdx::info(&parent).await.expect("sound");
        let relative = format!(".\\{}", parent.path.display());
        let options = CreateOptions::child_of(&info, &relative);
        let guids = vhdx::kernel_guids();
        vhdx::create(&*at.folder, &at.path, &options, &guids).await.expect("created");
    });
}

/// Writes into an image of any format, or makes a stretch of it zeroes.
pub(crate) fn write_image(path: &Path, at: u64, bytes: &[u8]) {
    let (place, data) = (place(path), Buffer::copy_of(bytes));
    let zero = bytes.iter().all(|byte| *byte == 0);
    on_engine(async move || {
        let mut opener = Opener::new(&BesideTheImage);
        let image = opener.open(&place, None, Access::Write).await.expect("sound");
        let at = ByteOffset::new(at);
        if zero {
            let range = ByteRange::at(at, data.len() as u64).expect("a range");
            let zeroed = image.disk.write_zeroes(range, ZeroMode::Unmap, Durability::Durable);
            zeroed.await.expect("zeroed");
        } else {
            image.disk.write(at, data, Durability::Durable).await.expect("written");
        }
        image.disk.flush().await.expect("flushed");
    });
}
