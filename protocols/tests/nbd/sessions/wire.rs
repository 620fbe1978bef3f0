//! A client that knows nothing but the wire: it says anything, and takes replies apart as they come.

use crate::memory::PATIENCE;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::ops::Range;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

/// How requests and replies look.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Form {
    Simple,
    Structured,
    Extended,
}

/// The contexts that are selected where there can be any, numbered from 1.
pub(super) const CONTEXTS: [&str; 2] = ["base:allocation", "test:every:3"];

/// A request as it stands on the wire, but for its cookie.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Request {
    pub(super) flags: u16,
    pub(super) command: u16,
    pub(super) offset: u64,
    pub(super) length: u64,
}

impl Request {
    pub(super) fn range(&self) -> Range<u64> {
        self.offset..self.offset.saturating_add(self.length)
    }
}

/// One reply, put together from its chunks.
#[derive(Debug, Default)]
pub(super) struct Reply {
    pub(super) cookie: u64,
    pub(super) error: Option<u32>,
    /// Of an error that says so.
    pub(super) error_at: Option<u64>,
    /// Where each piece of data lies, in the order they came; one that is told as a hole is its zeroes.
    pub(super) pieces: Vec<(u64, Vec<u8>)>,
    /// Number of a context, and length and meaning of its extents.
    pub(super) status: Vec<(u32, Vec<(u64, u64)>)>,
    pub(super) chunks: usize,
    /// The offset of the request, where replies repeat it.
    pub(super) offset: Option<u64>,
}

/// A connection past its negotiation.
pub(super) struct Connection {
    pub(super) form: Form,
    stream: UnixStream,
    replies: Receiver<Reply>,
    reader: JoinHandle<io::Result<()>>,
    cookies: u64,
}

impl Connection {
    pub(super) fn open(socket: &Path, form: Form, export: &str) -> Self {
        let mut stream = UnixStream::connect(socket).expect("connected");
        stream.set_read_timeout(Some(PATIENCE)).expect("a time-out");
        stream.set_write_timeout(Some(PATIENCE)).expect("a time-out");
        negotiate(&mut stream, form, export);
        let (sender, replies) = channel();
        let of = stream.try_clone().expect("a handle");
        // Replies are taken at any time, so that requests never wait for room to answer them.
        let reader = std::thread::spawn(move || read_replies(of, form, &sender));
        Self { form, stream, replies, reader, cookies: 0 }
    }

    /// A cookie that no other request has. That of a simple read says how many bytes come with success.
    pub(super) fn cookie(&mut self, request: &Request) -> u64 {
        self.cookies += 1;
        let data = if request.command == 0 { request.length & 0xffff_ffff } else { 0 };
        self.cookies << 32 | data
    }

    pub(super) fn header(&self, request: &Request, cookie: u64) -> Vec<u8> {
        let Request { flags, command, offset, length } = request;
        let magic = if self.form == Form::Extended { 0x21e4_1c71u32 } else { 0x2560_9513 };
        let mut header = magic.to_be_bytes().to_vec();
        header.extend(flags.to_be_bytes());
        header.extend(command.to_be_bytes());
        header.extend(cookie.to_be_bytes());
        header.extend(offset.to_be_bytes());
        match self.form {
            Form::Extended => header.extend(length.to_be_bytes()),
            Form::Simple | Form::Structured => {
                header.extend(u32::try_from(*length).expect("32 bits here").to_be_bytes());
            }
        }
        header
    }

    pub(super) fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).expect("sent");
    }

    pub(super) fn reply(&self) -> Reply {
        self.replies.recv_timeout(PATIENCE).expect("a reply")
    }

    /// After a farewell: nothing comes that was not asked for, and then the end.
    pub(super) fn ends(self) {
        let ended = self.reader.join().expect("the reader ends");
        ended.expect("the end comes between two replies");
        let late = self.replies.try_iter().next();
        assert!(late.is_none(), "nobody asked for {late:?}");
    }

    /// Goes without a word.
    pub(super) fn vanish(self) {
        // The reader has a handle of its own.
        self.stream.shutdown(Shutdown::Both).expect("open until now");
        drop(self.stream);
        // It may be cut off anywhere.
        let _ = self.reader.join().expect("the reader ends");
    }
}

fn negotiate(stream: &mut UnixStream, form: Form, export: &str) {
    let mut greeting = [0; 18];
    stream.read_exact(&mut greeting).expect("a greeting");
    stream.write_all(&3u32.to_be_bytes()).expect("sent");
    let counted = |text: &str| {
        let length = u32::try_from(text.len()).expect("short");
        [&length.to_be_bytes()[..], text.as_bytes()].concat()
    };
    let contexts = CONTEXTS.map(counted).concat();
    let select = [counted(export), 2u32.to_be_bytes().to_vec(), contexts].concat();
    let go = [counted(export), vec![0, 0]].concat();
    let options = match form {
        Form::Simple => vec![(7u32, go)],
        Form::Structured => vec![(8, Vec::new()), (10, select), (7, go)],
        Form::Extended => vec![(11, Vec::new()), (10, select), (7, go)],
    };
    for (option, data) in options {
        let length = u32::try_from(data.len()).expect("short");
        stream.write_all(b"IHAVEOPT").expect("sent");
        stream.write_all(&[option.to_be_bytes(), length.to_be_bytes()].concat()).expect("sent");
        stream.write_all(&data).expect("sent");
        loop {
            let mut head = [0; 20];
            stream.read_exact(&mut head).expect("a reply");
            std::io::copy(&mut stream.take(number(&head[16..])), &mut io::sink())
                .expect("its data");
            match number(&head[12..16]) {
                1 => break,
                3 | 4 => {}
                error => panic!("option {option} is answered with {error:#x}"),
            }
        }
    }
}

fn number(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// Takes replies until the stream ends, which it may between two of them.
fn read_replies(mut stream: UnixStream, form: Form, to: &Sender<Reply>) -> io::Result<()> {
    let mut open: Vec<Reply> = Vec::new();
    loop {
        let mut magic = [0; 4];
        match stream.read(&mut magic[..1])? {
            0 if open.is_empty() => return Ok(()),
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            _ => stream.read_exact(&mut magic[1..])?,
        }
        let done = match (number(&magic), form) {
            (0x6744_6698, Form::Simple | Form::Structured) => simple(&mut stream, form)?,
            (0x668e_33ef, Form::Structured) | (0x6e8a_278c, Form::Extended) => {
                match chunk(&mut stream, form, &mut open)? {
                    Some(done) => done,
                    None => continue,
                }
            }
            (magic, form) => panic!("a reply of {form:?} starts with {magic:#x}"),
        };
        if to.send(done).is_err() {
            return Ok(());
        }
    }
}

fn take(stream: &mut UnixStream, length: u64) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; usize::try_from(length).expect("small")];
    stream.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn simple(stream: &mut UnixStream, form: Form) -> io::Result<Reply> {
    let head = take(stream, 12)?;
    let (error, cookie) = (number(&head[..4]), number(&head[4..]));
    let mut reply = Reply { cookie, chunks: 1, ..Reply::default() };
    match u32::try_from(error).expect("four bytes") {
        0 => {
            let data = cookie & 0xffff_ffff;
            assert!(data == 0 || form == Form::Simple, "content has to be structured");
            if data > 0 {
                reply.pieces.push((u64::MAX, take(stream, data)?));
            }
        }
        code => reply.error = Some(code),
    }
    Ok(reply)
}

/// One chunk of a reply; all of it, if it was the last one.
fn chunk(stream: &mut UnixStream, form: Form, open: &mut Vec<Reply>) -> io::Result<Option<Reply>> {
    let head = take(stream, if form == Form::Extended { 28 } else { 16 })?;
    let (flags, kind, cookie) = (number(&head[..2]), number(&head[2..4]), number(&head[4..12]));
    let payload =
        take(stream, number(if form == Form::Extended { &head[20..] } else { &head[12..] }))?;
    let at = match open.iter().position(|reply| reply.cookie == cookie) {
        Some(at) => at,
        None => {
            let offset = (form == Form::Extended).then(|| number(&head[12..20]));
            open.push(Reply { cookie, offset, ..Reply::default() });
            open.len() - 1
        }
    };
    let reply = &mut open[at];
    reply.chunks += 1;
    assert!(flags <= 1, "flags {flags:#x}");
    match kind {
        0 => assert!(flags == 1 && payload.is_empty(), "NONE is the last one, and empty"),
        1 => {
            assert!(payload.len() > 8, "data of no bytes");
            reply.pieces.push((number(&payload[..8]), payload[8..].to_vec()));
        }
        2 => {
            assert!(payload.len() == 12 && number(&payload[8..]) > 0, "a hole of no bytes");
            let length = usize::try_from(number(&payload[8..])).expect("small");
            reply.pieces.push((number(&payload[..8]), vec![0; length]));
        }
        5 if form == Form::Structured => {
            let extents = payload[4..].chunks(8);
            let extents = extents.map(|one| (number(&one[..4]), number(&one[4..]))).collect();
            reply.status.push((number(&payload[..4]) as u32, extents));
        }
        6 if form == Form::Extended => {
            let extents = payload[8..].chunks(16);
            assert_eq!(number(&payload[4..8]), extents.len() as u64);
            let extents = extents.map(|one| (number(&one[..8]), number(&one[8..]))).collect();
            reply.status.push((number(&payload[..4]) as u32, extents));
        }
        0x8001 | 0x8002 => {
            let words = usize::try_from(number(&payload[4..6])).expect("small");
            let tail = &payload[6 + words..];
            assert!(
                (1..=4096).contains(&words) && std::str::from_utf8(&payload[6..][..words]).is_ok()
            );
            assert_eq!(tail.len(), if kind == 0x8002 { 8 } else { 0 });
            reply.error = Some(number(&payload[..4]) as u32);
            reply.error_at = (kind == 0x8002).then(|| number(tail));
        }
        other => panic!("a chunk of type {other:#x}"),
    }
    Ok((flags == 1).then(|| open.remove(at)))
}
