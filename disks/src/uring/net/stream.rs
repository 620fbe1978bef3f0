//! Connections.
//!
//! A receive in flight belongs to the [`Receiver`], not to the future that started it: a dropped `recv` or `read_exact`
//! loses no bytes, the next call finds them.
//!
//! ```text
//!   unread ◀── surplus of read-ahead, and what a dropped call had begun
//!     │ copied first
//!   flight ◀── at most one receive; writes behind the bytes its buffer already holds
//! ```

use crate::uring::buffer::Buffer;
use crate::uring::descriptor::Descriptor;
use crate::uring::file::is_transient;
use crate::uring::op::{Message, Op};
use rustix::net::Shutdown;
use std::collections::VecDeque;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

/// Reads shorter than this are served out of a larger receive.
const READ_AHEAD: usize = 64 << 10;

/// A connected socket. `Send` until it is used: an accepted connection may be handed to another core.
#[derive(Debug)]
pub struct Stream {
    socket: Descriptor,
}

impl Stream {
    pub(super) fn new(socket: OwnedFd) -> Self {
        Self { socket: Descriptor::new(socket) }
    }

    /// Divides into the two directions, which may be used at the same time.
    pub fn split(self) -> (Receiver, Sender) {
        let receiver = Receiver {
            socket: self.socket.clone(),
            unread: VecDeque::new(),
            spare: None,
            flight: None,
        };
        (receiver, Sender { socket: self.socket, broken: false })
    }

    /// The address of TCP that the peer has reached.
    pub fn local(&self) -> io::Result<SocketAddr> {
        Ok(SocketAddr::try_from(rustix::net::getsockname(&self.socket)?)?)
    }

    /// Ends both directions; calls in flight return.
    pub fn shutdown(&self) {
        shutdown(&self.socket, Shutdown::Both);
    }
}

impl TryFrom<TcpStream> for Stream {
    type Error = io::Error;

    fn try_from(stream: TcpStream) -> io::Result<Self> {
        // On a non-blocking socket the ring answers EAGAIN instead of waiting.
        stream.set_nonblocking(false)?;
        stream.set_nodelay(true)?;
        Ok(Self::new(stream.into()))
    }
}

impl TryFrom<UnixStream> for Stream {
    type Error = io::Error;

    fn try_from(stream: UnixStream) -> io::Result<Self> {
        stream.set_nonblocking(false)?;
        Ok(Self::new(stream.into()))
    }
}

fn shutdown(socket: &Descriptor, how: Shutdown) {
    // ENOTCONN: the peer was faster. There is nothing else that can fail.
    if let Err(errno) = rustix::net::shutdown(socket, how) {
        tracing::trace!(%errno, "a connection was gone before its shutdown");
    }
}

/// Bytes received and not yet asked for.
struct Unread {
    buffer: Buffer,
    window: Range<usize>,
}

/// A receive in flight.
struct Flight {
    op: Op,
    /// Bytes its buffer held already.
    filled: usize,
}

/// The receiving half.
pub struct Receiver {
    socket: Descriptor,
    unread: VecDeque<Unread>,
    /// The read-ahead buffer while it is not in use.
    spare: Option<Buffer>,
    flight: Option<Flight>,
}

impl Receiver {
    /// Receives at least one byte; zero means that the peer has ended its direction. `into` must not be empty.
    ///
    /// Dropping the future loses nothing. The buffer that comes back has the length of `into`.
    pub async fn recv(&mut self, mut into: Buffer) -> io::Result<(Buffer, usize)> {
        assert!(!into.is_empty(), "receiving into no buffer cannot tell data from the end");
        if self.unread.is_empty() && self.flight.is_some() {
            self.settle().await?;
        }
        let count = self.copy_unread(&mut into);
        if count > 0 {
            return Ok((into, count));
        }
        self.receive(into, 0).await
    }

    /// Receives exactly `length` bytes; `UnexpectedEof` when the peer ends before.
    ///
    /// Dropping the future loses nothing: the bytes received so far are found by the next call.
    pub async fn read_exact(&mut self, length: usize) -> io::Result<Buffer> {
        if self.unread_length() < length && self.flight.is_some() {
            self.settle().await?;
        }
        while length < READ_AHEAD && self.unread_length() < length {
            let new = || Buffer::for_overwriting(READ_AHEAD);
            let spare = self.spare.take().unwrap_or_else(new);
            let (buffer, count) = self.receive(spare, 0).await?;
            self.unread.push_back(Unread { buffer, window: 0..count });
            if count == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        // Returned only when `length` bytes came; of a dropped or failed call only what came is kept.
        let mut whole = Buffer::for_overwriting(length);
        let mut filled = self.copy_unread(&mut whole);
        while filled < length {
            let count;
            (whole, count) = self.receive(whole, filled).await?;
            if count == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            filled += count;
        }
        Ok(whole)
    }

    /// Bytes that a call would get without waiting for the peer.
    pub fn unread_length(&self) -> usize {
        self.unread.iter().map(|part| part.window.len()).sum()
    }

    /// Receives behind the `filled` bytes of `buffer`.
    async fn receive(&mut self, mut buffer: Buffer, filled: usize) -> io::Result<(Buffer, usize)> {
        loop {
            let window = filled..buffer.len();
            let op = Op::receive(&self.socket, buffer, window);
            let flight = self.flight.insert(Flight { op, filled });
            let (result, held) = (&mut flight.op).await;
            self.flight = None;
            buffer = held.into_buffer();
            match result {
                Ok(count) => return Ok((buffer, count)),
                Err(error) if is_transient(&error) => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Completes the receive that a dropped call left, and keeps its bytes.
    async fn settle(&mut self) -> io::Result<()> {
        let Some(flight) = &mut self.flight else { return Ok(()) };
        let filled = flight.filled;
        let (result, held) = (&mut flight.op).await;
        self.flight = None;
        let count = *result.as_ref().unwrap_or(&0);
        let buffer = held.into_buffer();
        self.unread.push_back(Unread { buffer, window: 0..filled + count });
        match result {
            Err(error) if !is_transient(&error) => Err(error),
            _ => Ok(()),
        }
    }

    /// Moves unread bytes to the front of `into`; how many.
    fn copy_unread(&mut self, into: &mut [u8]) -> usize {
        let mut copied = 0;
        while let Some(part) = self.unread.front_mut() {
            let count = part.window.len().min(into.len() - copied);
            let from = part.window.start;
            into[copied..copied + count].copy_from_slice(&part.buffer[from..from + count]);
            copied += count;
            part.window.start += count;
            if !part.window.is_empty() {
                break;
            }
            let done = self.unread.pop_front().map(|part| part.buffer);
            self.spare = done.filter(|buffer| buffer.len() == READ_AHEAD).or(self.spare.take());
        }
        copied
    }
}

/// The sending half.
pub struct Sender {
    pub(in crate::uring) socket: Descriptor,
    /// A send failed or was dropped: what the peer has got of it is unknown.
    broken: bool,
}

impl Sender {
    /// Sends all bytes of `parts`, in order.
    ///
    /// A send that fails or is dropped may have left a part of a message with the peer; every later one then fails with
    /// `BrokenPipe`.
    pub async fn send(&mut self, mut parts: Vec<Buffer>) -> io::Result<()> {
        if self.broken {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        parts.retain(|part| !part.is_empty());
        self.broken = true;
        while parts.len() > Message::MAX_PARTS {
            let rest = parts.split_off(Message::MAX_PARTS);
            self.send_message(parts).await?;
            parts = rest;
        }
        match parts.pop() {
            None => {}
            Some(only) if parts.is_empty() => self.send_buffer(only).await?,
            Some(last) => {
                parts.push(last);
                self.send_message(parts).await?;
            }
        }
        self.broken = false;
        Ok(())
    }

    /// Tells the peer that nothing more will come.
    pub fn shutdown(&self) {
        shutdown(&self.socket, Shutdown::Write);
    }

    async fn send_buffer(&mut self, mut buffer: Buffer) -> io::Result<()> {
        let mut sent = 0;
        while sent < buffer.len() {
            let window = sent..buffer.len();
            let (result, held) = Op::send(&self.socket, buffer, window).await;
            buffer = held.into_buffer();
            sent += progress(result)?;
        }
        Ok(())
    }

    async fn send_message(&mut self, parts: Vec<Buffer>) -> io::Result<()> {
        let mut message = Message::new(parts);
        let length = message.length();
        let mut sent = 0;
        while sent < length {
            let (result, held) = Op::send_message(&self.socket, message, sent).await;
            message = held.into_message();
            sent += progress(result)?;
        }
        Ok(())
    }
}

/// Bytes a send has moved; none if it is to be repeated.
fn progress(result: io::Result<usize>) -> io::Result<usize> {
    match result {
        Ok(0) => Err(io::ErrorKind::WriteZero.into()),
        Ok(count) => Ok(count),
        Err(error) if is_transient(&error) => Ok(0),
        Err(error) => Err(error),
    }
}
