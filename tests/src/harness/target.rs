//! A target as a process of its own.

use super::command::{Said, spelled};
use super::{Log, Metrics};
use rustix::process::{Pid, Signal};
use serde_json::Value;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// How long a target may take until it is ready, and until it has stopped.
const PATIENCE: Duration = Duration::from_secs(60);

/// The binary under test: `LANDFALL_BIN`, or the one that was built beside this program.
pub fn binary() -> PathBuf {
    let beside = || {
        let here = std::env::current_exe().expect("this program has a path");
        here.ancestors().nth(2).expect("target/release/deps/PROGRAM").join("landfall")
    };
    let path = std::env::var_os("LANDFALL_BIN").map_or_else(beside, PathBuf::from);
    assert!(path.exists(), "{} is not there: `make build` makes it", path.display());
    path
}

/// What the configuration of a target says besides where it listens.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Size of a segment of the journal.
    pub segment: &'static str,
    /// Free space the journal leaves.
    pub reserve: &'static str,
    /// Folder of the journal, if it is not in the data folder.
    pub journal: Option<PathBuf>,
    /// The data folder, if it is not in that of the test.
    pub data: Option<PathBuf>,
    /// How long points are kept.
    pub keep: &'static str,
    /// Section `[fold]`.
    pub fold: &'static str,
    /// Further sections, with their headings.
    pub more: &'static str,
}

impl Default for Settings {
    /// Segments so small that every test fills some.
    fn default() -> Self {
        Self {
            segment: "4MiB",
            reserve: "64MiB",
            journal: None,
            data: None,
            keep: "keep all for 2h, minutely for 24h",
            fold: "",
            more: "",
        }
    }
}

/// A target, and the folder that is all it knows.
pub struct Target {
    folder: TempDir,
    data: PathBuf,
    running: Option<Running>,
    log: Log,
    addresses: Addresses,
}

struct Running {
    child: Child,
    output: JoinHandle<()>,
    errors: JoinHandle<()>,
}

/// Where it listens; the delta port stays the same when it is started again.
#[derive(Clone, Copy)]
struct Addresses {
    delta: SocketAddr,
    nbd: SocketAddr,
    http: SocketAddr,
}

impl Target {
    /// Starts one with the usual settings.
    #[track_caller]
    pub fn start() -> Self {
        Self::with(&Settings::default())
    }

    /// Starts one.
    #[track_caller]
    pub fn with(settings: &Settings) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let journal = settings.journal.as_deref().unwrap_or(Path::new("journal"));
        let data = settings.data.clone().unwrap_or_else(|| folder.path().join("data"));
        let text = format!(
            "data = {:?}\n[listen]\ndelta = \"127.0.0.1:0\"\nnbd = \"127.0.0.1:0\"\n\
             http = \"127.0.0.1:0\"\niscsi = \"127.0.0.1:0\"\n[paths]\njournal = {journal:?}\n[journal]\nsegment = {:?}\n\
             reserve = {:?}\n[memory]\nleaf_cache = \"16MiB\"\nindex_cache = \"16MiB\"\n\
             [policy]\nkeep = {:?}\n[fold]\n{}\n{}\n",
            data, settings.segment, settings.reserve, settings.keep, settings.fold, settings.more,
        );
        std::fs::write(folder.path().join("landfall.toml"), text).expect("written");
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 0));
        let addresses = Addresses { delta: nowhere, nbd: nowhere, http: nowhere };
        let mut target = Self { folder, data, running: None, log: Log::default(), addresses };
        target.start_again();
        target
    }

    /// Starts it after [`Target::kill`] or [`Target::stop`], at the same delta port.
    #[track_caller]
    pub fn start_again(&mut self) {
        let begun = Instant::now();
        while !self.try_start() {
            // Somebody's connection may have got the port meanwhile.
            assert!(begun.elapsed() < PATIENCE, "the port stays taken:\n{}", self.log.text());
            thread::sleep(Duration::from_millis(200));
        }
        self.learn_addresses();
    }

    /// Begins to start it, and does not wait until it is ready.
    pub fn begin_start(&mut self) -> mpsc::Receiver<()> {
        assert!(self.running.is_none(), "it is running");
        let mut child = Command::new(binary())
            .arg("--config")
            .arg(self.config())
            .args(["serve", "--delta", &self.addresses.delta.to_string()])
            .env_remove("RUST_LOG")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary starts");
        let errors = self.log.follow(child.stderr.take().expect("piped"));
        let stdout = child.stdout.take().expect("piped");
        let (ready, is_ready) = mpsc::channel();
        let output = thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if line.starts_with("ready after ") {
                    // Whoever does not wait for it has dropped the receiver.
                    let _ = ready.send(());
                }
            }
        });
        self.running = Some(Running { child, output, errors });
        is_ready
    }

    /// Whether it became ready; an address in use is the one failure that is allowed.
    #[track_caller]
    fn try_start(&mut self) -> bool {
        let before = self.log.count(&["Address already in use"]);
        if self.begin_start().recv_timeout(PATIENCE).is_ok() {
            return true;
        }
        self.end(Signal::KILL);
        let taken = self.log.count(&["Address already in use"]) > before;
        assert!(taken, "the target did not become ready:\n{}", self.log.text());
        self.log.expect("Address already in use");
        false
    }

    #[track_caller]
    fn learn_addresses(&mut self) {
        let status = self.json(&["status", "--json"]);
        let address = |name: &str| {
            let text = status["listen"][name].as_str().expect("it listens there");
            text.parse().expect("an address")
        };
        let (delta, nbd, http) = (address("delta"), address("nbd"), address("http"));
        self.addresses = Addresses { delta, nbd, http };
    }

    /// The configuration file.
    pub fn config(&self) -> PathBuf {
        self.folder.path().join("landfall.toml")
    }

    /// A folder for the files of the test; the data folder is `data` in it, unless the settings say otherwise.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The data folder.
    pub fn data(&self) -> PathBuf {
        self.data.clone()
    }

    /// The NBD socket.
    pub fn socket(&self) -> PathBuf {
        self.data().join("nbd.sock")
    }

    /// The address of delta streams.
    pub fn delta(&self) -> SocketAddr {
        self.addresses.delta
    }

    /// The URI of an export over the socket.
    pub fn uri(&self, name: &str) -> String {
        format!("nbd+unix:///{name}?socket={}", self.socket().display())
    }

    /// The URI of an export over TCP.
    pub fn tcp_uri(&self, name: &str) -> String {
        format!("nbd://{}/{name}", self.addresses.nbd)
    }

    /// Its log.
    pub fn log(&self) -> &Log {
        &self.log
    }

    /// Its metrics.
    #[track_caller]
    pub fn metrics(&self) -> Metrics {
        Metrics::scrape(self.addresses.http)
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.running.as_ref().expect("it is running").child.id()
    }

    /// A command of the binary that talks to this target.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(binary());
        command.arg("--config").arg(self.config()).args(arguments).env_remove("RUST_LOG");
        command.stdin(Stdio::null());
        command
    }

    /// Runs a command and waits for its end.
    pub fn landfall(&self, arguments: &[&str]) -> Said {
        let output = self.command(arguments).output().expect("the binary starts");
        Said::new(spelled("landfall", arguments), &output)
    }

    /// Runs a command that has to succeed; the JSON it printed.
    #[track_caller]
    pub fn json(&self, arguments: &[&str]) -> Value {
        self.landfall(arguments).json()
    }

    /// Kills it: nothing is finished, nothing is said.
    #[track_caller]
    pub fn kill(&mut self) {
        self.check_alive();
        self.end(Signal::KILL);
    }

    /// Kills it while it may not be ready yet, or has found its port taken.
    pub fn kill_starting(&mut self) {
        self.log.expect("Address already in use");
        self.end(Signal::KILL);
    }

    /// Stops it in good order, as a service manager would.
    #[track_caller]
    pub fn stop(&mut self) {
        self.check_alive();
        let code = self.end(Signal::TERM);
        assert_eq!(code, Some(0), "the target did not stop well:\n{}", self.log.text());
        self.check_log();
    }

    #[track_caller]
    fn check_alive(&mut self) {
        let running = self.running.as_mut().expect("it is running");
        if let Some(status) = running.child.try_wait().expect("asked") {
            panic!("the target ended by itself, {status}:\n{}", self.log.text());
        }
    }

    /// Sends `signal` and waits for the end; the exit code if there is one.
    fn end(&mut self, signal: Signal) -> Option<i32> {
        let Running { mut child, output, errors } = self.running.take()?;
        let begun = Instant::now();
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).expect("a process id");
        if child.try_wait().expect("asked").is_none() {
            rustix::process::kill_process(pid, signal).expect("signalled");
        }
        let status = loop {
            if let Some(status) = child.try_wait().expect("asked") {
                break status;
            }
            if begun.elapsed() > PATIENCE {
                child.kill().expect("killed");
            }
            thread::sleep(Duration::from_millis(1));
        };
        for reader in [output, errors] {
            reader.join().expect("a reader of output does not panic");
        }
        status.code()
    }

    /// Fails if the log holds something alarming that was not expected.
    #[track_caller]
    pub fn check_log(&self) {
        let alarming = self.log.alarming();
        assert!(
            alarming.is_empty(),
            "not expected:\n{}\nin\n{}",
            alarming.join("\n"),
            self.log.text()
        );
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        if thread::panicking() {
            self.end(Signal::KILL);
            eprintln!("the log of the target:\n{}", self.log.text());
            return;
        }
        if self.running.is_some() {
            self.check_alive();
            self.end(Signal::KILL);
        }
        self.check_log();
    }
}
