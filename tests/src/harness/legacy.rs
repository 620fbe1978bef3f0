//! An NBD client that is not ours, without options and structured replies: the `nbd` crate.

use super::length;
use nbd::client::{NbdClient, handshake};
use std::io::{Read, Result, Seek, SeekFrom, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// Bytes asked for at once.
const PIECE: usize = 1 << 20;

/// An open export.
pub struct Legacy {
    client: NbdClient<UnixStream>,
    /// Its size in bytes.
    pub size: u64,
    /// Whether the server says that it cannot be written.
    pub readonly: bool,
}

impl Legacy {
    /// Opens `name` at the server that listens on `socket`.
    pub fn open(socket: &Path, name: &str) -> Result<Self> {
        let mut stream = UnixStream::connect(socket)?;
        // A server that does not answer is a failure, not a wait.
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        let export = handshake(&mut stream, name.as_bytes())?;
        let (size, readonly) = (export.size, export.readonly);
        Ok(Self { client: NbdClient::new(stream, &export), size, readonly })
    }

    /// Reads `count` bytes at `offset`.
    pub fn read(&mut self, offset: u64, count: usize) -> Result<Vec<u8>> {
        let mut bytes = vec![0; count];
        self.client.seek(SeekFrom::Start(offset))?;
        for piece in bytes.chunks_mut(PIECE) {
            self.client.read_exact(piece)?;
        }
        Ok(bytes)
    }

    /// Writes `bytes` at `offset`; they are acknowledged when it returns.
    pub fn write(&mut self, offset: u64, bytes: &[u8]) -> Result<()> {
        self.client.seek(SeekFrom::Start(offset))?;
        self.client.write_all(bytes)
    }
}

/// The whole of an export.
pub fn read_all(socket: &Path, name: &str) -> Result<Vec<u8>> {
    let mut export = Legacy::open(socket, name)?;
    let size = length(export.size);
    export.read(0, size)
}
