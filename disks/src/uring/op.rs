//! One operation as a future: what it holds, how it starts, and what dropping it means.
//!
//! An `Op` names a flight of its core's ring. Dropping it before completion asks the kernel to cancel; buffer and
//! descriptor stay with the ring until the completion arrives. An `Op` may be *dropped* on any thread (the request goes
//! through the core's mailbox), but must be awaited on the core that started it.

use super::buffer::Buffer;
use super::descriptor::Descriptor;
use super::local;
use super::mailbox::Mailbox;
use super::ring::{Key, Token};
use io_uring::{opcode, squeue, types};
use std::future::Future;
use std::io;
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

/// The most bytes one operation moves: the kernel's own limit is just below 2 GiB.
pub(super) const MAX_LENGTH: usize = 1 << 30;

/// Memory an operation owns until it completes.
pub(super) enum Held {
    Nothing,
    Buffer(Buffer),
    Message(Box<Message>),
}

impl Held {
    /// The buffer of a read, write, receive or send.
    pub(super) fn into_buffer(self) -> Buffer {
        match self {
            Self::Buffer(buffer) => buffer,
            _ => unreachable!("the operation was started with a buffer"),
        }
    }

    /// The message of a vectored send.
    pub(super) fn into_message(self) -> Box<Message> {
        match self {
            Self::Message(message) => message,
            _ => unreachable!("the operation was started with a message"),
        }
    }
}

/// Several buffers sent by one operation, with the structures the kernel reads them through.
pub(super) struct Message {
    parts: Vec<Buffer>,
    vectors: Vec<libc::iovec>,
    header: libc::msghdr,
}

impl Message {
    /// Most parts in one operation; `UIO_MAXIOV` of the kernel is 1024.
    pub(super) const MAX_PARTS: usize = 256;

    pub(super) fn new(parts: Vec<Buffer>) -> Box<Self> {
        assert!(parts.len() <= Self::MAX_PARTS, "{} parts in one message", parts.len());
        let vectors = Vec::with_capacity(parts.len());
        // SAFETY: `msghdr` is a C structure of integers and pointers, for which zero is a value.
        let header = unsafe { std::mem::zeroed() };
        Box::new(Self { parts, vectors, header })
    }

    /// Points the header at everything behind the first `sent` bytes.
    fn aim(&mut self, mut sent: usize) -> *const libc::msghdr {
        self.vectors.clear();
        for part in &mut self.parts {
            let skipped = sent.min(part.len());
            sent -= skipped;
            if skipped < part.len() {
                let rest = &mut part[skipped..];
                let base = rest.as_mut_ptr().cast();
                self.vectors.push(libc::iovec { iov_base: base, iov_len: rest.len() });
            }
        }
        self.header.msg_iov = self.vectors.as_mut_ptr();
        self.header.msg_iovlen = self.vectors.len();
        &raw const self.header
    }

    /// Bytes of all parts.
    pub(super) fn length(&self) -> usize {
        self.parts.iter().map(|part| part.len()).sum()
    }
}

/// An operation in flight.
#[must_use = "an operation that is not awaited is cancelled"]
pub(super) struct Op {
    key: Option<Key>,
    mailbox: Arc<Mailbox>,
}

impl Op {
    /// Starts an operation on the current core's ring; panics off-core.
    ///
    /// # Safety
    /// As for [`Ring::start`](super::ring::Ring::start).
    unsafe fn start(
        what: &str,
        descriptor: &Descriptor,
        held: Held,
        entry: impl FnOnce(types::Fd, &mut Held) -> squeue::Entry,
    ) -> Self {
        local::require(what, |local| {
            // SAFETY: the caller's promise is the same.
            let key = unsafe { local.ring.borrow_mut().start(descriptor.clone(), held, entry) };
            Self { key: Some(key), mailbox: Arc::clone(&local.mailbox) }
        })
    }

    /// The same, handed over before the end of the turn.
    ///
    /// # Safety
    /// As for [`Ring::start`](super::ring::Ring::start).
    unsafe fn start_at_once(
        what: &str,
        descriptor: &Descriptor,
        held: Held,
        entry: impl FnOnce(types::Fd, &mut Held) -> squeue::Entry,
    ) -> Self {
        // SAFETY: the caller's promise is the same.
        let started = unsafe { Self::start(what, descriptor, held, entry) };
        local::require(what, |local| local.ring.borrow_mut().hand_over());
        started
    }

    /// Reads into `window` of `buffer` from `offset` of the file.
    pub(super) fn read(
        file: &Descriptor,
        buffer: Buffer,
        window: Range<usize>,
        offset: u64,
    ) -> Self {
        // SAFETY: the entry points into the buffer, which `held` owns.
        unsafe {
            Self::start_at_once("reading a file", file, Held::Buffer(buffer), |fd, held| {
                let (start, length) = span(held, window);
                opcode::Read::new(fd, start, length).offset(offset).build()
            })
        }
    }

    /// Writes `window` of `buffer` at `offset` of the file.
    pub(super) fn write(
        file: &Descriptor,
        buffer: Buffer,
        window: Range<usize>,
        offset: u64,
    ) -> Self {
        // SAFETY: the entry points into the buffer, which `held` owns.
        unsafe {
            Self::start_at_once("writing a file", file, Held::Buffer(buffer), |fd, held| {
                let (start, length) = span(held, window);
                opcode::Write::new(fd, start, length).offset(offset).build()
            })
        }
    }

    /// `fdatasync`.
    pub(super) fn sync_data(file: &Descriptor) -> Self {
        // SAFETY: the entry refers to no memory.
        unsafe {
            Self::start("flushing a file", file, Held::Nothing, |fd, _| {
                opcode::Fsync::new(fd).flags(types::FsyncFlags::DATASYNC).build()
            })
        }
    }

    /// `fallocate` with `mode`.
    pub(super) fn allocate(file: &Descriptor, mode: i32, offset: u64, length: u64) -> Self {
        // SAFETY: the entry refers to no memory.
        unsafe {
            Self::start("allocating in a file", file, Held::Nothing, |fd, _| {
                opcode::Fallocate::new(fd, length).offset(offset).mode(mode).build()
            })
        }
    }

    /// Receives at most the length of `window` bytes into it.
    pub(super) fn receive(socket: &Descriptor, buffer: Buffer, window: Range<usize>) -> Self {
        // SAFETY: the entry points into the buffer, which `held` owns.
        unsafe {
            Self::start("receiving from a socket", socket, Held::Buffer(buffer), |fd, held| {
                let (start, length) = span(held, window);
                opcode::Recv::new(fd, start, length).build()
            })
        }
    }

    /// Sends `window` of `buffer`.
    pub(super) fn send(socket: &Descriptor, buffer: Buffer, window: Range<usize>) -> Self {
        // SAFETY: the entry points into the buffer, which `held` owns.
        unsafe {
            Self::start("sending to a socket", socket, Held::Buffer(buffer), |fd, held| {
                let (start, length) = span(held, window);
                let flags = libc::MSG_NOSIGNAL | libc::MSG_WAITALL;
                opcode::Send::new(fd, start, length).flags(flags).build()
            })
        }
    }

    /// Sends all parts of `message` behind its first `sent` bytes.
    pub(super) fn send_message(socket: &Descriptor, message: Box<Message>, sent: usize) -> Self {
        // SAFETY: the entry points to the header, which points to the vectors, which point into the buffers: all on
        // the heap, all owned by the box in `held`.
        unsafe {
            Self::start("sending to a socket", socket, Held::Message(message), |fd, held| {
                let Held::Message(message) = held else { unreachable!("it is a message") };
                let flags = (libc::MSG_NOSIGNAL | libc::MSG_WAITALL).cast_unsigned();
                opcode::SendMsg::new(fd, message.aim(sent)).flags(flags).build()
            })
        }
    }

    /// Completes when a read of the descriptor would not block.
    pub(super) fn readable(descriptor: &Descriptor) -> Self {
        // SAFETY: the entry refers to no memory.
        unsafe {
            Self::start("waiting for a socket", descriptor, Held::Nothing, |fd, _| {
                let events = libc::POLLIN.cast_unsigned();
                opcode::PollAdd::new(fd, u32::from(events)).build()
            })
        }
    }
}

/// Where the kernel finds `window` of the held buffer; at most [`MAX_LENGTH`] bytes of it.
fn span(held: &mut Held, window: Range<usize>) -> (*mut u8, u32) {
    let Held::Buffer(buffer) = held else { unreachable!("it is a buffer") };
    let window = &mut buffer[window];
    let length = window.len().min(MAX_LENGTH);
    (window.as_mut_ptr(), u32::try_from(length).expect("MAX_LENGTH is below 2^32"))
}

impl Future for Op {
    type Output = (io::Result<usize>, Held);

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let key = self.key.expect("an operation is not polled after it has completed");
        let taken = local::require("awaiting an operation", |local| {
            assert!(
                Arc::ptr_eq(&local.mailbox, &self.mailbox),
                "an operation is awaited on another core than it was started on"
            );
            local.ring.borrow_mut().take(key, context.waker())
        });
        let Some((result, held)) = taken else { return Poll::Pending };
        self.key = None;
        let result = match usize::try_from(result) {
            Ok(count) => Ok(count),
            Err(_) => Err(io::Error::from_raw_os_error(-result)),
        };
        Poll::Ready((result, held))
    }
}

impl Op {
    /// As dropping it, but keeps `token` until the kernel is done with the operation, and then drops it.
    pub(super) fn abandon(mut self, token: Token) {
        self.give_up(Some(token));
    }

    fn give_up(&mut self, token: Option<Token>) {
        let Some(key) = self.key.take() else { return };
        let released = local::with_current(|current| match current {
            Some(local) if Arc::ptr_eq(&local.mailbox, &self.mailbox) => {
                local.ring.borrow_mut().orphan(key, token)
            }
            _ => {
                self.mailbox.orphan(key, token);
                None
            }
        });
        // Outside the borrow: a token may do anything.
        drop(released);
    }
}

impl Drop for Op {
    fn drop(&mut self) {
        self.give_up(None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_goes_on_where_a_short_send_ended() {
        let parts: [&[u8]; 3] = [b"abc", b"", b"defgh"];
        let mut message = Message::new(parts.map(Buffer::copy_of).into());
        assert_eq!(message.length(), 8);
        for sent in 0..=8 {
            message.aim(sent);
            assert_eq!(message.header.msg_iovlen, message.vectors.len());
            let rest: Vec<u8> = message
                .vectors
                .iter()
                .flat_map(|vector| {
                    let start = vector.iov_base.cast::<u8>().cast_const();
                    // SAFETY: a vector points into a buffer of `message`, and nothing writes to it here.
                    unsafe { std::slice::from_raw_parts(start, vector.iov_len) }.iter().copied()
                })
                .collect();
            assert_eq!(rest, b"abcdefgh"[sent..], "after {sent}");
        }
    }
}
