//! `image-writer` as a process of its own: told what to write, frozen, killed.

use landfall_tests::churn::{Deed, Operation};
use rustix::fs::{FlockOperation, fcntl_lock};
use rustix::process::{Pid, Signal, kill_process};
use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(60);

/// A process that has an image open for writing.
pub(crate) struct Writer {
    image: String,
    child: Child,
    input: Option<ChildStdin>,
    output: ChildStdout,
    /// What it said, and nobody has looked at yet.
    said: String,
    /// The last round that it said is durable.
    flushed: Option<u32>,
}

impl Writer {
    fn start(image: &str) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_image-writer"));
        command.arg(image).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("it can be started");
        let output = child.stdout.take().expect("a pipe");
        rustix::io::ioctl_fionbio(&output, true).expect("a pipe that does not block");
        let input = child.stdin.take();
        let image = image.to_owned();
        Self { image, input, child, output, said: String::new(), flushed: None }
    }

    /// Opens `image` for writing.
    #[track_caller]
    pub(crate) fn open(image: &str) -> Self {
        let mut writer = Self::start(image);
        writer.until(|writer| writer.word("open\n"));
        writer
    }

    /// Tries to open `image`, which is refused.
    #[track_caller]
    pub(crate) fn is_refused(image: &str) {
        let mut writer = Self::start(image);
        drop(writer.input.take());
        let status = writer.child.wait().expect("waited for");
        writer.listen();
        assert_eq!((status.code(), writer.said.as_str()), (Some(1), ""), "{image} was opened");
    }

    /// Does one thing and waits for its end.
    #[track_caller]
    pub(crate) fn tell(&mut self, line: &str) {
        writeln!(self.input.as_mut().expect("a pipe"), "{line}").expect("it listens");
        self.until(|writer| writer.word("done\n"));
    }

    /// Does operations of one round.
    #[track_caller]
    pub(crate) fn perform(&mut self, operations: &[Operation], tag: u64) {
        for Operation { start, count, deed } in operations {
            let verb = match deed {
                Deed::Write => "write",
                Deed::Zero => "zero",
                Deed::Discard => "discard",
            };
            self.tell(&format!("{verb} {start} {count} {tag}"));
        }
    }

    /// Writes rounds of `session` until it is killed.
    pub(crate) fn churn(&mut self, session: u32) {
        writeln!(self.input.as_mut().expect("a pipe"), "churn {session}").expect("it listens");
    }

    /// The last round that is durable for sure.
    pub(crate) fn flushed(&mut self) -> Option<u32> {
        self.listen();
        while let Some((line, rest)) = self.said.split_once('\n') {
            let number = line.strip_prefix("flushed ").expect("its only words while it churns");
            self.flushed = Some(number.parse().expect("a number"));
            self.said = rest.to_owned();
        }
        self.flushed
    }

    /// Waits until a round later than `round` is durable.
    #[track_caller]
    pub(crate) fn wait_past(&mut self, round: Option<u32>) {
        self.until(|writer| writer.flushed() > round);
    }

    /// Stops every thread, and waits until the kernel has done what it was asked to.
    pub(crate) fn freeze(&self) {
        kill_process(Pid::from_child(&self.child), Signal::STOP).expect("it is ours");
        let begun = Instant::now();
        while !self.is_stopped() {
            assert!(begun.elapsed() < PATIENCE, "it does not stop");
            sleep(Duration::from_millis(1));
        }
        // Requests that are at the device go on without their process.
        sleep(Duration::from_millis(15));
    }

    fn is_stopped(&self) -> bool {
        let folder = format!("/proc/{}/task", self.child.id());
        let tasks = std::fs::read_dir(folder).expect("it is alive");
        tasks.filter_map(Result::ok).all(|task| {
            let stat = std::fs::read_to_string(task.path().join("stat")).unwrap_or_default();
            // Workers of io_uring are threads of the kernel that no signal stops.
            stat.contains("(iou-") || stat.is_empty() || stat.contains(") T ")
        })
    }

    /// Lets a frozen one go on.
    pub(crate) fn thaw(&self) {
        kill_process(Pid::from_child(&self.child), Signal::CONT).expect("it is ours");
    }

    /// Ends it as a power button would; answers the last round that it said is durable.
    pub(crate) fn kill(mut self) -> Option<u32> {
        self.child.kill().expect("it is ours");
        self.child.wait().expect("waited for");
        self.until_unlocked();
        self.flushed()
    }

    /// The kernel takes rings of io_uring apart, and lets go of the files they hold, a moment after their process has ended.
    fn until_unlocked(&self) {
        let begun = Instant::now();
        let folder = Path::new(&self.image).parent().expect("a folder");
        for entry in std::fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("readable").path();
            let Ok(file) = File::options().read(true).write(true).open(&path) else { continue };
            while fcntl_lock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
                assert!(begun.elapsed() < PATIENCE, "{} stays locked", path.display());
                sleep(Duration::from_millis(1));
            }
        }
    }

    /// Ends it in good order.
    #[track_caller]
    pub(crate) fn close(mut self) {
        drop(self.input.take());
        let status = self.child.wait().expect("waited for");
        assert!(status.success(), "the writer ended with {status}");
    }

    fn word(&mut self, word: &str) -> bool {
        match self.said.strip_prefix(word) {
            Some(rest) => self.said = rest.to_owned(),
            None => return false,
        }
        true
    }

    #[track_caller]
    fn until(&mut self, mut happened: impl FnMut(&mut Self) -> bool) {
        let begun = Instant::now();
        loop {
            // Asked before it is listened to: what an ended process said is all read then.
            let ended = self.child.try_wait().expect("waited for");
            self.listen();
            if happened(self) {
                return;
            }
            assert_eq!(ended, None, "the writer ended; it said {:?}", self.said);
            assert!(begun.elapsed() < PATIENCE, "nothing happens; it said {:?}", self.said);
            sleep(Duration::from_micros(500));
        }
    }

    /// Takes all that it has said so far.
    fn listen(&mut self) {
        let mut bytes = [0; 4096];
        loop {
            match self.output.read(&mut bytes) {
                Ok(0) => return,
                Ok(count) => self.said.push_str(&String::from_utf8_lossy(&bytes[..count])),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) => panic!("its output: {error}"),
            }
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        // A test that fails leaves nobody behind; one that is done has waited for it already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
