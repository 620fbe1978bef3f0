//! `image-server` as a process of its own: peers write an image over NBD while tests look at its files.

use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStdin, Command, Stdio};

/// A process that has an image open for writing and serves it.
pub(crate) struct Server {
    child: Child,
    /// It ends when this does.
    input: Option<ChildStdin>,
    socket: String,
}

impl Server {
    /// Serves `image` on `socket`, which is made.
    #[track_caller]
    pub(crate) fn start(image: &str, socket: &str) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_image-server"));
        command.args([image, socket]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("it can be started");
        let input = child.stdin.take();
        let mut said = String::new();
        let output = child.stdout.take().expect("a pipe");
        BufReader::new(output).read_line(&mut said).expect("it speaks");
        let server = Self { child, input, socket: socket.to_owned() };
        assert_eq!(said, "open\n", "{image} is not served");
        server
    }

    /// Where peers find the disk.
    pub(crate) fn uri(&self) -> String {
        format!("nbd+unix:///disk?socket={}", self.socket)
    }

    /// Ends it in good order.
    #[track_caller]
    pub(crate) fn close(mut self) {
        drop(self.input.take());
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
