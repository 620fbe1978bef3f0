//! The two directions of a connection, in the clear or over TLS.
//!
//! ```text
//!   Incoming   read_exact ◀── plaintext ◀── TLS ◀── what the socket has received
//!   Outgoing   send ──▶ TLS ──▶ sealed pieces ──▶ socket
//! ```
//!
//! rustls does no I/O: the halves share its state and each moves its own bytes.
//!
//! **Invariant:** what was received in the clear before TLS began is not carried over: bytes already here are fed to TLS, which
//! takes them for a part of its handshake and fails. So nobody can slip in an option before the client's own.

use crate::pki::Subject;
use landfall_disks::Buffer;
use landfall_disks::uring::net::{Receiver, Sender};
use landfall_disks::uring::timeout;
use rustls::{ServerConfig, ServerConnection};
use std::cell::RefCell;
use std::io::{self, Read, Write};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// Ciphertext asked of the socket at once, in bytes.
const RECEIVE_BYTES: usize = 256 << 10;

/// Plaintext sealed before it is sent, in bytes.
const SEAL_BYTES: usize = 256 << 10;

/// How long a client has to take the end of TLS off the socket.
pub(super) const FAREWELL: Duration = Duration::from_secs(1);

type Tls = Rc<RefCell<ServerConnection>>;

/// Why TLS did not come about.
#[derive(Debug, thiserror::Error)]
pub(super) enum SecureError {
    #[error(transparent)]
    Socket(#[from] io::Error),
    #[error("TLS failed: {0}")]
    Tls(#[from] rustls::Error),
    #[error("the certificate of the client: {0}")]
    Certificate(String),
}

/// Both directions.
pub(super) struct Link {
    pub(super) incoming: Incoming,
    pub(super) outgoing: Outgoing,
}

/// What comes from the client.
pub(super) enum Incoming {
    Plain(Receiver),
    Secure(SecureReceiver),
}

/// What goes to the client.
pub(super) enum Outgoing {
    Plain(Sender),
    Secure(SecureSender),
}

pub(super) struct SecureReceiver {
    receiver: Receiver,
    tls: Tls,
    /// Ciphertext, of which `start..end` was not fed to TLS yet.
    buffer: Buffer,
    start: usize,
    end: usize,
}

pub(super) struct SecureSender {
    sender: Sender,
    tls: Tls,
}

impl Link {
    /// A connection in the clear.
    pub(super) fn plain(receiver: Receiver, sender: Sender) -> Self {
        Self { incoming: Incoming::Plain(receiver), outgoing: Outgoing::Plain(sender) }
    }

    /// Does the handshake of TLS, the client's bytes of it being next; who the client is. Panics over TLS.
    pub(super) async fn secure(
        self,
        config: &Arc<ServerConfig>,
    ) -> Result<(Self, Subject), SecureError> {
        let (Incoming::Plain(receiver), Outgoing::Plain(sender)) = (self.incoming, self.outgoing)
        else {
            panic!("TLS begins once")
        };
        let mut connection = ServerConnection::new(Arc::clone(config))?;
        // What is written is sent at once, in pieces that have a limit of their own.
        connection.set_buffer_limit(None);
        let tls = Rc::new(RefCell::new(connection));
        let buffer = Buffer::zeroed(RECEIVE_BYTES);
        let mut incoming =
            SecureReceiver { receiver, tls: Rc::clone(&tls), buffer, start: 0, end: 0 };
        let mut outgoing = SecureSender { sender, tls: Rc::clone(&tls) };
        while tls.borrow().is_handshaking() {
            if incoming.is_fed() {
                incoming.receive().await?;
            }
            let fed = incoming.feed();
            // Also when it failed: the client is told what it did wrong.
            outgoing.flush().await?;
            fed?;
        }
        outgoing.flush().await?;
        let subject = {
            let connection = tls.borrow();
            let shown = connection.peer_certificates().and_then(|shown| shown.first());
            let shown = shown.ok_or_else(|| SecureError::Certificate("none was shown".into()))?;
            Subject::of(shown).map_err(|error| SecureError::Certificate(error.to_string()))?
        };
        let link =
            Self { incoming: Incoming::Secure(incoming), outgoing: Outgoing::Secure(outgoing) };
        Ok((link, subject))
    }
}

impl Incoming {
    /// Receives exactly `length` bytes; `UnexpectedEof` when the client ends before. Over TLS a dropped call may lose
    /// bytes: it is dropped only when the connection ends.
    pub(super) async fn read_exact(&mut self, length: usize) -> io::Result<Buffer> {
        match self {
            Self::Plain(receiver) => receiver.read_exact(length).await,
            Self::Secure(receiver) => receiver.read_exact(length).await,
        }
    }
}

impl Outgoing {
    /// Sends all bytes of `parts`, in order. After an error nothing can be sent any more.
    pub(super) async fn send(&mut self, parts: Vec<Buffer>) -> io::Result<()> {
        match self {
            Self::Plain(sender) => sender.send(parts).await,
            Self::Secure(sender) => sender.send(parts).await,
        }
    }

    /// Tells the client that nothing more will come.
    pub(super) async fn shutdown(self) {
        match self {
            Self::Plain(sender) => sender.shutdown(),
            Self::Secure(sender) => sender.shutdown().await,
        }
    }
}

impl SecureReceiver {
    fn is_fed(&self) -> bool {
        self.start == self.end
    }

    async fn receive(&mut self) -> io::Result<()> {
        let buffer = std::mem::replace(&mut self.buffer, Buffer::zeroed(0));
        // A dropped call has left its buffer to the socket.
        let buffer = if buffer.is_empty() { Buffer::zeroed(RECEIVE_BYTES) } else { buffer };
        (self.start, self.end) = (0, 0);
        let (buffer, count) = self.receiver.recv(buffer).await?;
        (self.buffer, self.end) = (buffer, count);
        if count == 0 { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(()) }
    }

    /// Hands received ciphertext to TLS, as much of it as it takes.
    fn feed(&mut self) -> Result<(), SecureError> {
        let mut tls = self.tls.borrow_mut();
        let mut rest = &self.buffer[self.start..self.end];
        self.start += tls.read_tls(&mut rest)?;
        tls.process_new_packets()?;
        Ok(())
    }

    async fn read_exact(&mut self, length: usize) -> io::Result<Buffer> {
        let mut whole = Buffer::zeroed(length);
        let mut filled = 0;
        while filled < length {
            let read = self.tls.borrow_mut().reader().read(&mut whole[filled..]);
            match read {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if self.is_fed() {
                        self.receive().await?;
                    }
                    self.feed().map_err(|error| match error {
                        SecureError::Socket(error) => error,
                        other => io::Error::other(other),
                    })?;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(whole)
    }
}

impl SecureSender {
    async fn send(&mut self, parts: Vec<Buffer>) -> io::Result<()> {
        let mut sealed = 0;
        for part in parts {
            for piece in part.chunks(SEAL_BYTES) {
                self.tls.borrow_mut().writer().write_all(piece)?;
                sealed += piece.len();
                if sealed >= SEAL_BYTES {
                    self.flush().await?;
                    sealed = 0;
                }
            }
        }
        self.flush().await
    }

    /// Sends what TLS has ready.
    async fn flush(&mut self) -> io::Result<()> {
        let mut bytes = Vec::new();
        {
            let mut tls = self.tls.borrow_mut();
            while tls.wants_write() {
                tls.write_tls(&mut bytes)?;
            }
        }
        if bytes.is_empty() {
            return Ok(());
        }
        self.sender.send(vec![Buffer::copy_of(&bytes)]).await
    }

    async fn shutdown(mut self) {
        self.tls.borrow_mut().send_close_notify();
        // Whoever does not take it, or has gone, misses nothing but the farewell.
        match timeout(FAREWELL, self.flush()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::trace!(%error, "a client was gone before the end of TLS"),
            Err(_elapsed) => tracing::trace!("a client did not take the end of TLS"),
        }
        self.sender.shutdown();
    }
}
