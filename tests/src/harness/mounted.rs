//! `landfall mount` as a process, and what it has mounted.

use super::command::attempt;
use super::target::Target;
use rustix::process::{Pid, Signal, kill_process};
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Stdio};
use std::thread::{self, JoinHandle, sleep};
use std::time::{Duration, Instant};

/// How long it may take to mount, or to end.
const PATIENCE: Duration = Duration::from_secs(30);

/// Whether something is mounted on `folder`.
pub fn is_mounted(folder: &Path) -> bool {
    let mounts = std::fs::read_to_string("/proc/self/mounts").expect("there are some");
    let at = folder.to_str().expect("a path of the tests is text");
    mounts.lines().any(|line| line.split(' ').nth(1) == Some(at))
}

/// Takes away what is mounted on a folder, when dropped: no test leaves a mount behind, however it ends.
pub struct Unmounter(PathBuf);

impl Unmounter {
    /// Watches `folder`.
    pub fn of(folder: &Path) -> Self {
        Self(folder.to_owned())
    }
}

impl Drop for Unmounter {
    fn drop(&mut self) {
        if is_mounted(&self.0) {
            attempt("umount", &["-l", self.0.to_str().expect("text")]);
        }
    }
}

/// A mount in the foreground. Ended and unmounted when dropped.
pub struct Mounted {
    child: Child,
    at: PathBuf,
    lines: BufReader<ChildStdout>,
    errors: Option<JoinHandle<String>>,
    _unmounter: Unmounter,
}

/// How the process ended, and what it said.
#[derive(Clone, Debug)]
pub struct Farewell {
    /// Its exit code; none if a signal ended it.
    pub code: Option<i32>,
    /// Standard output since it had mounted.
    pub out: String,
    /// Standard error.
    pub err: String,
}

impl Mounted {
    /// Mounts `name` in a new folder `at`, with more arguments, and waits until that is done.
    #[track_caller]
    pub fn start(target: &Target, name: &str, at: &Path, more: &[&str]) -> Self {
        std::fs::create_dir(at).expect("made");
        let folder = at.to_str().expect("a path of the tests is text");
        let mut command = target.command(&[&["mount", name, folder], more].concat());
        let mut child =
            command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
        let lines = BufReader::new(child.stdout.take().expect("piped"));
        let mut stderr = child.stderr.take().expect("piped");
        let errors = thread::spawn(move || {
            let mut text = String::new();
            stderr.read_to_string(&mut text).expect("text");
            text
        });
        let (at, errors) = (at.to_owned(), Some(errors));
        let _unmounter = Unmounter::of(&at);
        let mut mounted = Self { child, at, lines, errors, _unmounter };
        let mut said = String::new();
        while !said.contains("It ends with Ctrl-C, SIGTERM, or: umount ") {
            if mounted.lines.read_line(&mut said).expect("text") == 0 {
                let farewell = mounted.wait();
                panic!("{name} is not mounted: {farewell:?}\n{said}");
            }
        }
        assert!(is_mounted(&mounted.at), "it says that it is mounted:\n{said}");
        mounted
    }

    /// Where.
    pub fn at(&self) -> &Path {
        &self.at
    }

    /// A file of it.
    pub fn file(&self, name: &str) -> String {
        self.at.join(name).to_str().expect("a path of the tests is text").to_owned()
    }

    /// The names in it, in order.
    pub fn names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(&self.at).expect("a folder");
        let name = |entry: std::io::Result<std::fs::DirEntry>| {
            entry.expect("an entry").file_name().into_string().expect("text")
        };
        let mut names: Vec<String> = entries.map(name).collect();
        names.sort();
        names
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        kill_process(pid.expect("a process id"), signal).expect("it runs");
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("asked").is_none()
    }

    /// Waits for its end.
    #[track_caller]
    pub fn wait(&mut self) -> Farewell {
        let begun = Instant::now();
        while self.is_running() {
            assert!(begun.elapsed() < PATIENCE, "it does not end");
            sleep(Duration::from_millis(5));
        }
        let code = self.child.wait().expect("ended").code();
        let mut out = String::new();
        self.lines.read_to_string(&mut out).expect("text");
        let err = self.errors.take().map(|errors| errors.join().expect("it reads"));
        Farewell { code, out, err: err.unwrap_or_default() }
    }

    /// Waits for its end, which has to be a good one, with nothing left.
    #[track_caller]
    pub fn ends_well(mut self) -> String {
        let farewell = self.wait();
        assert_eq!(farewell.code, Some(0), "{farewell:?}");
        assert!(farewell.out.contains("is unmounted"), "{farewell:?}");
        assert!(!is_mounted(&self.at), "it is still mounted");
        farewell.err
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if self.is_running() {
            self.child.kill().expect("killed");
            self.child.wait().expect("ended");
        }
    }
}
