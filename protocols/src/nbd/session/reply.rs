//! How replies look: many of them gathered into one list of buffers, the data of reads among them uncopied.
//!
//! ```text
//!   heads   ├ reply 1 ┤├ reply 2 ┤├ chunk head ┤          ├ reply 4 ┤       one allocation, cut without copying
//!   data                                         ├ data ┤                    the buffers the disk filled
//! ```
//!
//! With structured replies, success without payload is still told by a simple reply (16 bytes instead of 20), errors by
//! an error chunk, which has room for words.

use super::action::{ContextId, Replies};
use crate::nbd::wire::clip;
use crate::nbd::wire::transmission::{
    CHUNK_DONE, ChunkHeader, ChunkKind, Command, Cookie, Descriptor, ErrorCode, ErrorHead,
    OffsetData, OffsetHole, SimpleReply,
};
use landfall_disks::{Buffer, ByteOffset, ByteRange};
use zerocopy::IntoBytes;

/// What a request came to.
#[derive(Debug)]
pub enum Answer {
    /// Done; nothing to send but that.
    Done,
    /// What was read: pieces that tile the request, in order. Exactly one, of data, if fragments were forbidden and the
    /// request is not empty.
    Data(Vec<Piece>),
    /// Descriptors per context; at least one each.
    Status(Vec<(ContextId, Vec<Descriptor>)>),
    /// Refused or failed.
    Failed(Failure),
}

/// One piece of what was read. Not empty.
#[derive(Debug)]
pub enum Piece {
    /// Bytes.
    Data {
        /// Where they lie.
        at: ByteOffset,
        /// The bytes.
        bytes: Buffer,
    },
    /// Zeroes.
    Hole(ByteRange),
}

/// Why there is nothing better to send.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Failure {
    /// For programs.
    pub code: ErrorCode,
    /// For people.
    pub message: String,
    /// The first byte concerned, if it is known; within the request.
    pub at: Option<ByteOffset>,
}

/// Replies that are sent together.
#[derive(Debug, Default)]
pub struct Batch {
    heads: Vec<u8>,
    /// Buffers that go between the heads, each with the length of the heads before it.
    data: Vec<(usize, Buffer)>,
}

impl Batch {
    /// Whether there is nothing to send.
    pub fn is_empty(&self) -> bool {
        self.heads.is_empty()
    }

    /// Appends the reply to the request `cookie`, a `command`.
    pub fn push(&mut self, replies: Replies, command: Command, cookie: Cookie, answer: Answer) {
        match (replies, answer) {
            (Replies::Simple, answer) => self.simple(cookie, answer),
            (Replies::Structured, Answer::Done) if command != Command::Read => {
                self.simple(cookie, Answer::Done);
            }
            (Replies::Structured, Answer::Done) => self.end(cookie),
            (Replies::Structured, Answer::Data(pieces)) => self.pieces(cookie, pieces),
            (Replies::Structured, Answer::Status(contexts)) => self.status(cookie, contexts),
            (Replies::Structured, Answer::Failed(failure)) => self.failure(cookie, &failure),
        }
    }

    /// What to send, in order.
    pub fn into_parts(self) -> Vec<Buffer> {
        let mut parts = Vec::with_capacity(2 * self.data.len() + 1);
        let mut heads = Buffer::copy_of(&self.heads);
        let mut done = 0;
        for (before, data) in self.data {
            let rest = heads.split_off(before - done);
            if !heads.is_empty() {
                parts.push(heads);
            }
            parts.push(data);
            (heads, done) = (rest, before);
        }
        if !heads.is_empty() {
            parts.push(heads);
        }
        parts
    }

    fn attach(&mut self, data: Buffer) {
        self.data.push((self.heads.len(), data));
    }

    fn simple(&mut self, cookie: Cookie, answer: Answer) {
        let error = match &answer {
            Answer::Failed(failure) => Some(failure.code),
            Answer::Done | Answer::Data(_) | Answer::Status(_) => None,
        };
        self.heads.extend(SimpleReply::new(cookie, error).as_bytes());
        match answer {
            Answer::Data(pieces) => {
                for piece in pieces {
                    match piece {
                        Piece::Data { bytes, .. } => self.attach(bytes),
                        Piece::Hole(_) => unreachable!("simple replies have no holes"),
                    }
                }
            }
            Answer::Status(_) => unreachable!("block status needs structured replies"),
            Answer::Done | Answer::Failed(_) => {}
        }
    }

    fn chunk(&mut self, cookie: Cookie, kind: ChunkKind, flags: u16, payload: usize) {
        let length = u32::try_from(payload).expect("a payload is far below 4 GiB");
        self.heads.extend(ChunkHeader::new(cookie, kind, flags, length).as_bytes());
    }

    fn end(&mut self, cookie: Cookie) {
        self.chunk(cookie, ChunkKind::None, CHUNK_DONE, 0);
    }

    fn pieces(&mut self, cookie: Cookie, pieces: Vec<Piece>) {
        if pieces.is_empty() {
            return self.end(cookie);
        }
        let last = pieces.len() - 1;
        for (index, piece) in pieces.into_iter().enumerate() {
            // All bytes are in memory already, so the last chunk of content may say that it is the last.
            let flags = if index == last { CHUNK_DONE } else { 0 };
            match piece {
                Piece::Data { at, bytes } => {
                    let payload = size_of::<OffsetData>() + bytes.len();
                    self.chunk(cookie, ChunkKind::OffsetData, flags, payload);
                    self.heads.extend(OffsetData { offset: at.bytes().into() }.as_bytes());
                    self.attach(bytes);
                }
                Piece::Hole(range) => {
                    self.chunk(cookie, ChunkKind::OffsetHole, flags, size_of::<OffsetHole>());
                    let length = u32::try_from(range.length()).expect("a read is far below 4 GiB");
                    let (offset, length) = (range.start().bytes().into(), length.into());
                    self.heads.extend(OffsetHole { offset, length }.as_bytes());
                }
            }
        }
    }

    fn status(&mut self, cookie: Cookie, contexts: Vec<(ContextId, Vec<Descriptor>)>) {
        let last = contexts.len() - 1;
        for (index, (id, descriptors)) in contexts.into_iter().enumerate() {
            let flags = if index == last { CHUNK_DONE } else { 0 };
            let payload = size_of::<u32>() + size_of_val(descriptors.as_slice());
            self.chunk(cookie, ChunkKind::BlockStatus, flags, payload);
            self.heads.extend(id.number().to_be_bytes());
            self.heads.extend(descriptors.as_bytes());
        }
    }

    fn failure(&mut self, cookie: Cookie, failure: &Failure) {
        let message = clip(&failure.message).as_bytes();
        let (kind, tail) = match failure.at {
            Some(_) => (ChunkKind::ErrorOffset, size_of::<u64>()),
            None => (ChunkKind::Error, 0),
        };
        let payload = size_of::<ErrorHead>() + message.len() + tail;
        self.chunk(cookie, kind, CHUNK_DONE, payload);
        let length = u16::try_from(message.len()).expect("clipped to 4096 bytes");
        let head = ErrorHead { error: failure.code.number().into(), message_length: length.into() };
        self.heads.extend(head.as_bytes());
        self.heads.extend(message);
        if let Some(at) = failure.at {
            self.heads.extend(at.bytes().to_be_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COOKIE: Cookie = Cookie::new(0x11);

    fn flat(batch: Batch) -> Vec<u8> {
        batch.into_parts().iter().flat_map(|part| part.to_vec()).collect()
    }

    fn data(at: u64, bytes: &[u8]) -> Piece {
        Piece::Data { at: ByteOffset::new(at), bytes: Buffer::copy_of(bytes) }
    }

    #[test]
    fn success_without_payload_is_simple_in_both_modes() {
        let expected = [0x67, 0x44, 0x66, 0x98, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x11];
        for replies in [Replies::Simple, Replies::Structured] {
            let mut batch = Batch::default();
            batch.push(replies, Command::Write, COOKIE, Answer::Done);
            assert_eq!(flat(batch), expected);
        }
    }

    #[test]
    fn a_structured_read_never_gets_a_simple_reply() {
        let mut batch = Batch::default();
        batch.push(Replies::Structured, Command::Read, COOKIE, Answer::Data(Vec::new()));
        let expected = [0x66, 0x8e, 0x33, 0xef, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x11, 0, 0, 0, 0];
        assert_eq!(flat(batch), expected);
    }

    #[test]
    fn data_is_sent_from_the_buffer_it_was_read_into() {
        let bytes = Buffer::copy_of(b"data");
        let address = bytes.as_ptr();
        let mut batch = Batch::default();
        batch.push(Replies::Simple, Command::Write, COOKIE, Answer::Done);
        let piece = Piece::Data { at: ByteOffset::new(0), bytes };
        batch.push(Replies::Simple, Command::Read, COOKIE, Answer::Data(vec![piece]));
        batch.push(Replies::Simple, Command::Write, COOKIE, Answer::Done);
        let parts = batch.into_parts();
        let lengths: Vec<_> = parts.iter().map(|part| part.len()).collect();
        assert_eq!(lengths, [32, 4, 16]);
        assert_eq!(parts[1].as_ptr(), address);
    }

    #[test]
    fn only_the_last_chunk_is_done() {
        let mut batch = Batch::default();
        let hole = Piece::Hole(ByteRange::at(ByteOffset::new(8), 4).expect("small"));
        let pieces = vec![data(4, b"abcd"), hole];
        batch.push(Replies::Structured, Command::Read, COOKIE, Answer::Data(pieces));
        let bytes = flat(batch);
        assert_eq!(bytes[4..8], [0, 0, 0, 1]);
        assert_eq!(bytes[16..32], [0, 0, 0, 12, 0, 0, 0, 0, 0, 0, 0, 4, b'a', b'b', b'c', b'd']);
        let second = &bytes[32..];
        assert_eq!(second[4..8], [0, 1, 0, 2]);
        assert_eq!(second[16..], [0, 0, 0, 12, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0, 4]);
    }

    #[test]
    fn an_error_says_why_and_where() {
        let mut batch = Batch::default();
        let at = Some(ByteOffset::new(0x1000));
        let failure = Failure { code: ErrorCode::Io, message: "no".into(), at };
        batch.push(Replies::Structured, Command::Read, COOKIE, Answer::Failed(failure));
        let bytes = flat(batch);
        assert_eq!(bytes[4..8], [0, 1, 0x80, 2]);
        let payload = [0, 0, 0, 16, 0, 0, 0, 5, 0, 2, b'n', b'o', 0, 0, 0, 0, 0, 0, 0x10, 0];
        assert_eq!(bytes[16..], payload);
    }

    #[test]
    fn a_long_message_is_cut() {
        let mut batch = Batch::default();
        let failure = Failure { code: ErrorCode::Io, message: "x".repeat(70_000), at: None };
        batch.push(Replies::Structured, Command::Flush, COOKIE, Answer::Failed(failure));
        assert_eq!(flat(batch).len(), 20 + 6 + 4096);
    }
}
