//! One `landfall replicate --once`, watched: the moments at which a kill is worth most are those just after it says that it
//! is connected.

use landfall_tests::harness::{Source, Target};
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// How long a source may say nothing: its longest pause is half a minute.
const PATIENCE: Duration = Duration::from_secs(90);

/// What the process tells.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Told {
    /// A stream is at work.
    AtWork,
    /// The stream goes on where it was.
    Resumed,
    /// The pass begins again by comparing.
    BegunAgain,
    /// Anything else.
    Other,
    /// It has ended.
    Ended,
}

/// The process.
pub(crate) struct Replicate {
    child: Child,
    told: Receiver<Told>,
    errors: JoinHandle<String>,
}

impl Replicate {
    /// Starts a pass.
    pub(crate) fn start(target: &Target, source: &Source) -> Self {
        let address = target.delta().to_string();
        let disk = source.as_disk("os");
        let arguments = ["replicate", "web", "--disk", &disk, "--to", &address, "--once"];
        let mut command = target.command(&arguments);
        let piped = command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = piped.spawn().expect("the binary starts");
        let stderr = child.stderr.take().expect("piped");
        let (tell, told) = channel();
        let errors = thread::spawn(move || {
            let mut all = String::new();
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                all.push_str(&line);
                all.push('\n');
                // Whoever has heard enough has dropped the receiver.
                let _ = tell.send(understand(&line));
            }
            let _ = tell.send(Told::Ended);
            all
        });
        Self { child, told, errors }
    }

    /// What it tells next.
    pub(crate) fn next(&self) -> Told {
        match self.told.recv_timeout(PATIENCE) {
            Ok(told) => told,
            Err(RecvTimeoutError::Disconnected) => Told::Ended,
            Err(RecvTimeoutError::Timeout) => panic!("the source says nothing for {PATIENCE:?}"),
        }
    }

    /// The sequence of the point it made, if its number reached it. The process must have ended well.
    pub(crate) fn point(mut self) -> Option<u64> {
        let mut out = String::new();
        let mut stdout = self.child.stdout.take().expect("piped");
        stdout.read_to_string(&mut out).expect("read");
        let status = self.child.wait().expect("ended");
        let errors = self.errors.join().expect("reads to the end");
        assert!(status.success(), "replicate: {status}\n{out}{errors}");
        assert!(out.starts_with("web: crash point "), "{out}{errors}");
        assert_eq!(out.lines().count(), 1, "{out}");
        if out.contains("before its number came") {
            return None;
        }
        let (_, rest) = out.split_once(" seq ").expect("a point has a sequence");
        let (number, _) = rest.split_once(':').expect("and says what it took");
        Some(number.parse().expect("a number"))
    }
}

fn understand(line: &str) -> Told {
    if line.contains(": connected to ") {
        Told::AtWork
    } else if line.contains(": resumed at position ") {
        Told::Resumed
    } else if line.contains("the pass begins again by comparing") {
        Told::BegunAgain
    } else {
        Told::Other
    }
}
