//! A connection on which bytes are sent by hand, where a client would not send them.

use crate::memory::{PATIENCE, Server};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// A connection on which bytes are sent by hand.
pub(crate) struct Raw(UnixStream);

impl Raw {
    pub(crate) fn connect(server: &Server) -> Self {
        let stream = UnixStream::connect(server.socket()).expect("connected");
        stream.set_read_timeout(Some(PATIENCE)).expect("a time-out");
        Self(stream)
    }

    /// Negotiated by name only: simple replies.
    pub(crate) fn entered(server: &Server, export: &str) -> Self {
        let mut raw = Self::connect(server);
        raw.receive(18);
        raw.send(&3u32.to_be_bytes());
        raw.send(b"IHAVEOPT");
        raw.send(&1u32.to_be_bytes());
        raw.send(&u32::try_from(export.len()).expect("short").to_be_bytes());
        raw.send(export.as_bytes());
        raw.receive(10);
        raw
    }

    /// For whoever goes on in another way.
    pub(crate) fn into_stream(self) -> UnixStream {
        self.0
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).expect("sent");
    }

    /// Whether it could still be sent.
    pub(crate) fn try_send(&mut self, bytes: &[u8]) -> bool {
        self.0.write_all(bytes).is_ok()
    }

    pub(crate) fn receive(&mut self, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.0.read_exact(&mut bytes).expect("received");
        bytes
    }

    pub(crate) fn option(&mut self, option: u32, data: &[u8]) {
        self.send(b"IHAVEOPT");
        self.send(&option.to_be_bytes());
        self.send(&u32::try_from(data.len()).expect("short").to_be_bytes());
        self.send(data);
    }

    /// Kind and data of one reply to `option`.
    pub(crate) fn option_reply(&mut self, option: u32) -> (u32, Vec<u8>) {
        let head = self.receive(20);
        assert_eq!(head[..8], 0x0003_e889_0455_65a9u64.to_be_bytes());
        let number = |at: usize| u32::from_be_bytes(head[at..at + 4].try_into().expect("four"));
        assert_eq!(number(8), option);
        (number(12), self.receive(number(16) as usize))
    }

    pub(crate) fn request(
        &mut self,
        flags: u16,
        command: u16,
        cookie: u64,
        offset: u64,
        length: u32,
    ) {
        let mut header = 0x2560_9513u32.to_be_bytes().to_vec();
        header.extend(flags.to_be_bytes());
        header.extend(command.to_be_bytes());
        header.extend(cookie.to_be_bytes());
        header.extend(offset.to_be_bytes());
        header.extend(length.to_be_bytes());
        self.send(&header);
    }

    /// The error of a simple reply to `cookie`.
    pub(crate) fn error_of(&mut self, cookie: u64) -> u32 {
        let reply = self.receive(16);
        assert_eq!(reply[..4], [0x67, 0x44, 0x66, 0x98]);
        assert_eq!(reply[8..], cookie.to_be_bytes());
        u32::from_be_bytes([reply[4], reply[5], reply[6], reply[7]])
    }

    /// Whether nothing has come so far, and nothing comes for a moment.
    pub(crate) fn is_silent(&mut self) -> bool {
        self.0.set_read_timeout(Some(Duration::from_millis(50))).expect("a time-out");
        let read = self.0.read(&mut [0]);
        self.0.set_read_timeout(Some(PATIENCE)).expect("a time-out");
        matches!(read, Err(error) if error.kind() == ErrorKind::WouldBlock)
    }

    /// Whether the server has closed the connection.
    pub(crate) fn is_closed(&mut self) -> bool {
        match self.0.read(&mut [0]) {
            Ok(count) => count == 0,
            Err(error) => error.kind() == ErrorKind::ConnectionReset,
        }
    }
}
