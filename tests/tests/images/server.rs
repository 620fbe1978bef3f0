//! `landfall image serve` as a process of its own: peers write an image over NBD while tests look at its files.

use landfall_tests::harness::binary;
use rustix::process::{Pid, Signal, kill_process};
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

/// A process that has an image open for writing and serves it.
pub(crate) struct Server {
    child: Child,
    uri: String,
}

impl Server {
    /// Serves `image` on `socket`, which is made; `more` goes behind it.
    #[track_caller]
    pub(crate) fn start(image: &str, socket: &str, more: &[&str]) -> Self {
        Self::with(&[&["image", "serve", image, "--socket", socket], more].concat())
    }

    /// Serves `image` on a port of the kernel's choice.
    #[track_caller]
    pub(crate) fn listening(image: &str) -> Self {
        Self::with(&["image", "serve", image, "--listen", "127.0.0.1:0"])
    }

    #[track_caller]
    fn with(arguments: &[&str]) -> Self {
        let mut command = Command::new(binary());
        command.args(arguments).stdout(Stdio::piped());
        let mut child = command.spawn().expect("it can be started");
        let mut said = String::new();
        let output = child.stdout.take().expect("a pipe");
        BufReader::new(output).read_line(&mut said).expect("it speaks");
        let server = Self { child, uri: said.trim_end().to_owned() };
        assert!(server.uri.starts_with("nbd"), "{arguments:?} serves nothing: {said:?}");
        server
    }

    /// Where peers find the disk.
    pub(crate) fn uri(&self) -> &str {
        &self.uri
    }

    /// Ends it in good order.
    #[track_caller]
    pub(crate) fn close(mut self) {
        let id = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        kill_process(id.expect("a process"), Signal::TERM).expect("it is still there");
        let status = self.child.wait().expect("waited for");
        assert!(status.success(), "the server ended with {status}");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // A test that fails leaves nobody behind; one that is done has waited for it already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
