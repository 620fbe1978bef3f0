//! Commands: the binary's own and those of peers. A peer that is not installed is a failure, never a skip.

use serde_json::Value;
use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

/// How a command ended and what it printed.
#[derive(Clone, Debug)]
pub struct Said {
    /// The command, for messages.
    pub command: String,
    /// Its exit code; none if a signal ended it.
    pub code: Option<i32>,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

impl Said {
    /// Reads what `command` left behind.
    pub fn new(command: String, output: &Output) -> Self {
        Self {
            command,
            code: output.status.code(),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// It succeeded: what it printed.
    #[track_caller]
    pub fn ok(self) -> String {
        assert_eq!(self.code, Some(0), "{} failed:\n{}{}", self.command, self.out, self.err);
        self.out
    }

    /// It succeeded: what it printed, as JSON.
    #[track_caller]
    pub fn json(self) -> Value {
        let out = self.ok();
        serde_json::from_str(&out).unwrap_or_else(|error| panic!("{error} in\n{out}"))
    }

    /// It failed in good order, with exit code 1 and one complaint that holds all `parts`.
    #[track_caller]
    pub fn refused(self, parts: &[&str]) {
        let Self { command, code, out, err } = self;
        assert_eq!(code, Some(1), "{command}:\n{out}{err}");
        let complaints: Vec<&str> =
            err.lines().filter(|line| line.starts_with("landfall: ")).collect();
        assert_eq!(complaints.len(), 1, "{command} does not complain once:\n{err}");
        for part in parts {
            assert!(complaints[0].contains(part), "{command}: {part:?} is not in\n{err}");
        }
    }
}

/// Runs a peer and waits for its end, however that is.
#[track_caller]
pub fn attempt(program: &str, arguments: &[&str]) -> Said {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null());
    match command.output() {
        Ok(output) => Said::new(spelled(program, arguments), &output),
        Err(error) => panic!("the peer {program} cannot be started: {error}"),
    }
}

/// Runs a peer, which has to succeed; what it printed.
#[track_caller]
pub fn run(program: &str, arguments: &[&str]) -> String {
    attempt(program, arguments).ok()
}

/// The program of the newer generation of peers, which `scripts/newer-peers` brings.
#[track_caller]
pub fn newer(program: &str) -> String {
    let cache = std::env::var_os("LANDFALL_CACHE").map(PathBuf::from).unwrap_or_else(|| {
        let folder = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
        let home = || PathBuf::from(std::env::var_os("HOME").expect("a home")).join(".cache");
        folder.unwrap_or_else(home).join("landfall")
    });
    let path = cache.join("trixie").join("peers").join(program);
    assert!(path.exists(), "no {}: run scripts/newer-peers", path.display());
    path.to_str().expect("a path of the tests is text").to_owned()
}

pub(super) fn spelled<S: AsRef<OsStr>>(program: &str, arguments: &[S]) -> String {
    let words = arguments.iter().map(|word| word.as_ref().to_string_lossy().into_owned());
    std::iter::once(program.to_owned()).chain(words).collect::<Vec<_>>().join(" ")
}
