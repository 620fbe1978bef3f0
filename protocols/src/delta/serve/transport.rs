//! TLS over a socket of the engine, and frames out of it.
//!
//! rustls does no I/O here: ciphertext that was received is fed in, plaintext goes straight into the frame it belongs
//! to, and what TLS wants to send is sent.
//!
//! **Invariant:** every wait but [`Transport::send`] may be dropped without losing a byte.

use crate::delta::wire::{FrameError, FrameReader, RawFrame};
use landfall_disks::Buffer;
use landfall_disks::uring;
use landfall_disks::uring::net::{Receiver, Sender, Stream};
use rustls::{ServerConfig, ServerConnection};
use rustls_pki_types::CertificateDer;
use std::io::{self, Read, Write};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

/// Bytes asked of the socket at once.
const RECEIVE_BYTES: usize = 256 * 1024;

/// How long, and for how many bytes, what a refused peer still sends is thrown away: closing earlier could destroy the
/// refusal on its way.
const LINGER: Duration = Duration::from_secs(3);
const LINGER_BYTES: usize = 64 << 20;

/// Why nothing more comes over a connection.
#[derive(Debug, thiserror::Error)]
pub(super) enum TransportError {
    /// The peer ended TLS in good order.
    #[error("the peer closed the connection")]
    Closed,
    /// The socket ended or failed.
    #[error("the connection broke: {0}")]
    Socket(io::Error),
    /// TLS failed: not TLS at all, an old version, or a certificate that is not trusted.
    #[error("TLS failed: {0}")]
    Tls(rustls::Error),
    /// A peer that showed no certificate. The verifier demands one, so this cannot be reached.
    #[error("no certificate was shown")]
    Anonymous,
    /// Bytes that are no frame.
    #[error(transparent)]
    Frame(#[from] FrameError),
}

type Receiving = Pin<Box<dyn Future<Output = (Receiver, io::Result<(Buffer, usize)>)>>>;

/// Where the receiving half is.
enum Incoming {
    /// At rest, with received ciphertext that was not fed to TLS yet.
    Pending {
        receiver: Receiver,
        buffer: Buffer,
        start: usize,
        end: usize,
    },
    Receiving(Receiving),
    /// Ended or failed.
    Over,
}

pub(super) struct Transport {
    incoming: Incoming,
    sender: Sender,
    tls: ServerConnection,
    frames: FrameReader,
}

impl Transport {
    pub(super) fn new(stream: Stream, config: Arc<ServerConfig>) -> Result<Self, TransportError> {
        let mut tls = ServerConnection::new(config).map_err(TransportError::Tls)?;
        // What is written is sent at once, and frames have limits of their own.
        tls.set_buffer_limit(None);
        let (receiver, sender) = stream.split();
        let buffer = Buffer::zeroed(RECEIVE_BYTES);
        Ok(Self {
            incoming: Incoming::Pending { receiver, buffer, start: 0, end: 0 },
            sender,
            tls,
            frames: FrameReader::default(),
        })
    }

    /// Completes the TLS handshake; the peer's certificate.
    pub(super) async fn handshake(&mut self) -> Result<CertificateDer<'static>, TransportError> {
        loop {
            while self.feed()? {
                if !self.tls.is_handshaking() {
                    break;
                }
            }
            self.flush().await?;
            if !self.tls.is_handshaking() {
                break;
            }
            self.receive().await?;
        }
        let certificates = self.tls.peer_certificates().ok_or(TransportError::Anonymous)?;
        let certificate = certificates.first().ok_or(TransportError::Anonymous)?;
        Ok(certificate.clone().into_owned())
    }

    /// Waits for bytes. Call it only after [`Transport::next_frame`] gave nothing.
    pub(super) async fn receive(&mut self) -> Result<(), TransportError> {
        if let Incoming::Pending { .. } = self.incoming {
            let Incoming::Pending { mut receiver, buffer, start, end } =
                std::mem::replace(&mut self.incoming, Incoming::Over)
            else {
                unreachable!("matched above")
            };
            assert_eq!(start, end, "bytes that were received are used first");
            self.incoming = Incoming::Receiving(Box::pin(async move {
                let received = receiver.recv(buffer).await;
                (receiver, received)
            }));
        }
        let Incoming::Receiving(receiving) = &mut self.incoming else {
            return Err(TransportError::Socket(io::ErrorKind::NotConnected.into()));
        };
        let (receiver, received) = receiving.await;
        self.incoming = Incoming::Over;
        let (buffer, end) = received.map_err(TransportError::Socket)?;
        if end == 0 {
            return Err(TransportError::Socket(io::ErrorKind::UnexpectedEof.into()));
        }
        self.incoming = Incoming::Pending { receiver, buffer, start: 0, end };
        Ok(())
    }

    /// The next frame out of what was received; none when more has to be received first.
    pub(super) fn next_frame(&mut self, limit: usize) -> Result<Option<RawFrame>, TransportError> {
        loop {
            match self.tls.reader().read(self.frames.space()) {
                Ok(0) => return Err(TransportError::Closed),
                Ok(count) => {
                    if let Some(frame) = self.frames.advance(count, limit)? {
                        return Ok(Some(frame));
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if !self.feed()? {
                        return Ok(None);
                    }
                }
                Err(error) => return Err(TransportError::Socket(error)),
            }
        }
    }

    /// Encrypts and sends `frames`. Dropping it, or an error, leaves the connection unusable.
    pub(super) async fn send(&mut self, frames: &[Vec<u8>]) -> Result<(), TransportError> {
        for frame in frames {
            self.tls.writer().write_all(frame).map_err(TransportError::Socket)?;
        }
        self.flush().await
    }

    /// Says what TLS has to say at the end, then waits for the peer to close.
    pub(super) async fn close(mut self) {
        self.tls.send_close_notify();
        let closing = async {
            self.flush().await?;
            self.sender.shutdown();
            let mut discarded = 0;
            while discarded < LINGER_BYTES {
                if let Incoming::Pending { start, end, .. } = &mut self.incoming {
                    discarded += *end - *start;
                    *start = *end;
                }
                self.receive().await?;
            }
            Ok::<(), TransportError>(())
        };
        match uring::timeout(LINGER, closing).await {
            Ok(Ok(()) | Err(TransportError::Socket(_))) | Err(uring::Elapsed) => {}
            Ok(Err(error)) => tracing::debug!(%error, "while closing a connection"),
        }
    }

    /// Feeds received ciphertext to TLS; false when there is none.
    fn feed(&mut self) -> Result<bool, TransportError> {
        let Incoming::Pending { buffer, start, end, .. } = &mut self.incoming else {
            return Ok(false);
        };
        if start == end {
            return Ok(false);
        }
        let mut rest = &buffer[*start..*end];
        let count = self.tls.read_tls(&mut rest).map_err(TransportError::Socket)?;
        *start += count;
        self.tls.process_new_packets().map_err(TransportError::Tls)?;
        Ok(true)
    }

    /// Sends what TLS has ready.
    async fn flush(&mut self) -> Result<(), TransportError> {
        let mut bytes = Vec::new();
        while self.tls.wants_write() {
            self.tls.write_tls(&mut bytes).map_err(TransportError::Socket)?;
        }
        if bytes.is_empty() {
            return Ok(());
        }
        self.sender.send(vec![Buffer::copy_of(&bytes)]).await.map_err(TransportError::Socket)
    }
}
