//! The limit: a bare loop on the `io-uring` crate that answers NBD requests of 4 KiB from a file, and can do nothing else.
//!
//! ```text
//!   socket ─recv─▶ inbox ─request─▶ slot ─read, write─▶ file
//!   socket ◀───── one sendmsg for everything that is ready ─────┘
//! ```
//!
//! No checks of ranges, no formats, no other tasks, no way to stop but the end of the connection: what a server that does
//! all that is measured against. A ring and a thread per connection. Simple replies, reads and writes of one block.
//!
//! The only unsafe code outside the engine (`tests/tests/architecture.rs`): a yardstick that went through the engine would
//! measure the engine with itself.

#![expect(unsafe_code, reason = "the yardstick stands outside of what it measures")]

use anyhow::{Context, bail, ensure};
use io_uring::{IoUring, opcode, squeue, types};
use landfall_disks::{BLOCK_BYTES, Buffer};
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;

/// Requests under way at once.
const SLOTS: usize = 64;
/// Bytes received and not parsed yet.
const INBOX: usize = 256 << 10;
const REQUEST: usize = 28;
const REPLY: usize = 16;
/// What completions of the socket are known by; slots are known by their number.
const RECEIVED: u64 = u64::MAX;
const SENT: u64 = u64::MAX - 1;

/// Serves `file` on the Unix socket `socket` until it is killed.
pub(crate) fn serve(file: &Path, socket: &Path) -> anyhow::Result<()> {
    let direct = rustix::fs::OFlags::DIRECT.bits().cast_signed();
    let file = OpenOptions::new().read(true).write(true).custom_flags(direct).open(file)?;
    let file = Arc::new(file);
    let size = file.metadata()?.len();
    let listener = UnixListener::bind(socket).with_context(|| socket.display().to_string())?;
    for stream in listener.incoming() {
        let (mut stream, file) = (stream?, Arc::clone(&file));
        std::thread::spawn(move || {
            match negotiate(&mut stream, size) {
                Ok(false) => {}
                // Whoever only looked whether somebody listens has gone.
                Err(error) => eprintln!("limit: {error:#}"),
                Ok(true) => {
                    if let Err(error) = Bare::new(&file, &stream).and_then(Bare::run) {
                        eprintln!("limit: {error:#}");
                        // At once: the kernel may still be writing into memory of this connection.
                        std::process::abort();
                    }
                }
            }
        });
    }
    Ok(())
}

/// Fixed newstyle, GO only; whether transmission begins.
fn negotiate(stream: &mut UnixStream, size: u64) -> anyhow::Result<bool> {
    const FIXED_NO_ZEROES: u16 = 3;
    const HAS_FLAGS_AND_FLUSH: u16 = 1 | 1 << 2;
    const GO: u32 = 7;
    const ACK: u32 = 1;
    const INFO: u32 = 3;
    const UNSUPPORTED: u32 = 0x8000_0001;
    stream.write_all(b"NBDMAGICIHAVEOPT")?;
    stream.write_all(&FIXED_NO_ZEROES.to_be_bytes())?;
    match stream.read_exact(&mut [0; 4]) {
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(false),
        read => read?,
    }
    loop {
        let mut head = [0; 16];
        match stream.read_exact(&mut head) {
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(false),
            read => read?,
        }
        let (option, length) = (number(&head[8..]), number(&head[12..]));
        let mut data = vec![0; length as usize];
        stream.read_exact(&mut data)?;
        let mut reply = |kind: u32, data: &[u8]| {
            let mut bytes = 0x0003_e889_0455_65a9_u64.to_be_bytes().to_vec();
            for word in [option, kind, u32::try_from(data.len())?] {
                bytes.extend(word.to_be_bytes());
            }
            bytes.extend(data);
            anyhow::Ok(stream.write_all(&bytes)?)
        };
        if option != GO {
            reply(UNSUPPORTED, &[])?;
            continue;
        }
        let mut export = vec![0, 0];
        export.extend(size.to_be_bytes());
        export.extend(HAS_FLAGS_AND_FLUSH.to_be_bytes());
        reply(INFO, &export)?;
        reply(ACK, &[])?;
        return Ok(true);
    }
}

fn number(bytes: &[u8]) -> u32 {
    u32::from_be_bytes(bytes[..4].try_into().expect("four bytes"))
}

/// A request and its block.
struct Slot {
    block: Buffer,
    reply: [u8; REPLY],
    has_payload: bool,
}

/// A connection after its negotiation.
struct Bare {
    ring: IoUring,
    file: RawFd,
    socket: RawFd,
    slots: Vec<Slot>,
    free: Vec<usize>,
    inbox: Box<[u8]>,
    /// Of the inbox, what was parsed and what has come in.
    parsed: usize,
    filled: usize,
    receiving: bool,
    ready: Vec<usize>,
    sending: Vec<usize>,
    parts: Vec<libc::iovec>,
    message: Box<libc::msghdr>,
    ended: bool,
}

impl Bare {
    fn new(file: &File, stream: &UnixStream) -> anyhow::Result<Self> {
        let ring = IoUring::builder().setup_single_issuer().setup_defer_taskrun().build(256)?;
        let slot =
            || Slot { block: Buffer::zeroed(BLOCK_BYTES), reply: [0; REPLY], has_payload: false };
        // SAFETY: all zeroes are a message without parts.
        let message = unsafe { std::mem::zeroed() };
        Ok(Self {
            ring,
            file: file.as_raw_fd(),
            socket: stream.as_raw_fd(),
            slots: std::iter::repeat_with(slot).take(SLOTS).collect(),
            free: (0..SLOTS).collect(),
            inbox: vec![0; INBOX].into(),
            parsed: 0,
            filled: 0,
            receiving: false,
            ready: Vec::new(),
            sending: Vec::new(),
            parts: Vec::new(),
            message: Box::new(message),
            ended: false,
        })
    }

    fn run(mut self) -> anyhow::Result<()> {
        while !self.ended || self.free.len() < SLOTS {
            self.parse()?;
            self.receive()?;
            self.send()?;
            if self.ended && self.free.len() == SLOTS {
                break;
            }
            self.ring.submit_and_wait(1)?;
            let completed: Vec<_> = self.ring.completion().collect();
            for entry in completed {
                self.complete(entry.user_data(), entry.result())?;
            }
        }
        Ok(())
    }

    /// Starts what has come in whole, as far as there are slots.
    fn parse(&mut self) -> anyhow::Result<()> {
        let mut at = self.parsed;
        while let Some(head) = self.inbox[at..self.filled].first_chunk::<REQUEST>() {
            let command = u16::from_be_bytes([head[6], head[7]]);
            let offset = u64::from_be_bytes(head[16..24].try_into()?);
            let (length, taken) = (number(&head[24..]) as usize, at + REQUEST);
            let Some(number) = self.free.last().copied() else { break };
            if command == 2 {
                self.ended = true;
                break;
            }
            ensure!(command < 2 && length == BLOCK_BYTES, "{command} of {length} bytes");
            let payload = if command == 1 { length } else { 0 };
            if self.filled < taken + payload {
                break;
            }
            let slot = &mut self.slots[number];
            slot.reply[..4].copy_from_slice(&0x6744_6698_u32.to_be_bytes());
            slot.reply[8..].copy_from_slice(&head[8..16]);
            slot.has_payload = command == 0;
            let (file, start) = (types::Fd(self.file), slot.block.as_mut_ptr());
            let entry = if command == 0 {
                opcode::Read::new(file, start, 4096).offset(offset).build()
            } else {
                slot.block.copy_from_slice(&self.inbox[taken..taken + payload]);
                opcode::Write::new(file, start, 4096).offset(offset).build()
            };
            self.free.pop();
            self.push(entry.user_data(number as u64))?;
            at = taken + payload;
            self.parsed = at;
        }
        Ok(())
    }

    fn receive(&mut self) -> anyhow::Result<()> {
        if self.receiving || self.ended {
            return Ok(());
        }
        self.inbox.copy_within(self.parsed..self.filled, 0);
        self.filled -= self.parsed;
        self.parsed = 0;
        if self.filled == INBOX {
            return Ok(());
        }
        self.receiving = true;
        let room = &mut self.inbox[self.filled..];
        let length = u32::try_from(room.len())?;
        let entry = opcode::Recv::new(types::Fd(self.socket), room.as_mut_ptr(), length);
        self.push(entry.build().user_data(RECEIVED))
    }

    /// Everything that is ready, in one message.
    fn send(&mut self) -> anyhow::Result<()> {
        if !self.sending.is_empty() || self.ready.is_empty() {
            return Ok(());
        }
        std::mem::swap(&mut self.ready, &mut self.sending);
        self.parts.clear();
        for number in &self.sending {
            let slot = &mut self.slots[*number];
            let part = |bytes: &mut [u8]| libc::iovec {
                iov_base: bytes.as_mut_ptr().cast(),
                iov_len: bytes.len(),
            };
            self.parts.push(part(&mut slot.reply));
            if slot.has_payload {
                self.parts.push(part(&mut slot.block));
            }
        }
        self.message.msg_iov = self.parts.as_mut_ptr();
        self.message.msg_iovlen = self.parts.len();
        let entry = opcode::SendMsg::new(types::Fd(self.socket), &raw const *self.message);
        // All of it, or an error.
        let flags = (libc::MSG_WAITALL | libc::MSG_NOSIGNAL).cast_unsigned();
        self.push(entry.flags(flags).build().user_data(SENT))
    }

    fn push(&mut self, entry: squeue::Entry) -> anyhow::Result<()> {
        // SAFETY: what entries point to (blocks, inbox, parts, message) is owned by `self`; none of it is moved or written to
        // before its completion, and none freed: `run` waits for all of them, or the process ends.
        let pushed = unsafe { self.ring.submission().push(&entry) };
        pushed.context("the ring has room for every slot")
    }

    fn complete(&mut self, what: u64, result: i32) -> anyhow::Result<()> {
        if result < 0 {
            bail!(std::io::Error::from_raw_os_error(-result));
        }
        let count = usize::try_from(result)?;
        match what {
            RECEIVED => {
                self.receiving = false;
                self.ended |= count == 0;
                self.filled += count;
            }
            SENT => {
                let length: usize = self.parts.iter().map(|part| part.iov_len).sum();
                ensure!(count == length, "{count} of {length} bytes were sent");
                self.free.append(&mut self.sending);
            }
            slot => {
                ensure!(count == BLOCK_BYTES, "{count} bytes instead of a block");
                self.ready.push(usize::try_from(slot)?);
            }
        }
        Ok(())
    }
}
