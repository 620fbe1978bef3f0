//! How replies look: many of them gathered into one list of buffers, the data of reads among them uncopied.
//!
//! With structured replies, success without payload is still told by a simple reply (16 bytes instead of 20), errors by
//! an error chunk, which has room for words. With extended headers everything is a chunk.

use super::plan::StatusExtent;
use super::terms::{ContextId, Replies};
use crate::gather::Gather;
use crate::nbd::wire::clip;
use crate::nbd::wire::extended::{ExtendedChunkHeader, ExtendedDescriptor, ExtendedStatusHead};
use crate::nbd::wire::transmission::{
    CHUNK_DONE, ChunkHeader, ChunkKind, Command, Cookie, Descriptor, ErrorCode, ErrorHead,
    OffsetData, OffsetHole, Request, SimpleReply,
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
    /// Descriptors per context that was asked for; at least one each.
    Status(Vec<(ContextId, Vec<StatusExtent>)>),
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
    gather: Gather,
}

impl Batch {
    /// Whether there is nothing to send.
    pub fn is_empty(&self) -> bool {
        self.gather.is_empty()
    }

    /// Appends the reply to `request`.
    pub fn push(&mut self, replies: Replies, request: &Request, answer: Answer) {
        let brief = match replies {
            Replies::Simple => true,
            Replies::Structured => {
                matches!(answer, Answer::Done) && request.command != Command::Read
            }
            Replies::Extended => false,
        };
        if brief {
            return self.simple(request.cookie, answer);
        }
        let mut chunks = Chunks { batch: self, request, extended: replies == Replies::Extended };
        match answer {
            Answer::Done => chunks.end(),
            Answer::Data(pieces) => chunks.pieces(pieces),
            Answer::Status(contexts) => chunks.status(contexts),
            Answer::Failed(failure) => chunks.failure(&failure),
        }
    }

    /// What to send, in order.
    pub fn into_parts(self) -> Vec<Buffer> {
        self.gather.into_parts()
    }

    fn simple(&mut self, cookie: Cookie, answer: Answer) {
        let error = match &answer {
            Answer::Failed(failure) => Some(failure.code),
            Answer::Done | Answer::Data(_) | Answer::Status(_) => None,
        };
        self.gather.put(SimpleReply::new(cookie, error).as_bytes());
        match answer {
            Answer::Data(pieces) => {
                for piece in pieces {
                    match piece {
                        Piece::Data { bytes, .. } => self.gather.attach(bytes),
                        Piece::Hole(_) => unreachable!("simple replies have no holes"),
                    }
                }
            }
            Answer::Status(_) => unreachable!("block status needs structured replies"),
            Answer::Done | Answer::Failed(_) => {}
        }
    }
}

/// The reply to one request, in chunks, at the end of a batch.
struct Chunks<'a> {
    batch: &'a mut Batch,
    request: &'a Request,
    extended: bool,
}

impl Chunks<'_> {
    fn chunk(&mut self, kind: ChunkKind, flags: u16, payload: usize) {
        let length = u32::try_from(payload).expect("a payload is far below 4 GiB");
        if self.extended {
            let header = ExtendedChunkHeader::new(self.request, kind, flags, length.into());
            self.batch.gather.put(header.as_bytes());
        } else {
            let header = ChunkHeader::new(self.request.cookie, kind, flags, length);
            self.batch.gather.put(header.as_bytes());
        }
    }

    fn put(&mut self, bytes: &[u8]) {
        self.batch.gather.put(bytes);
    }

    fn end(&mut self) {
        self.chunk(ChunkKind::None, CHUNK_DONE, 0);
    }

    fn pieces(&mut self, pieces: Vec<Piece>) {
        if pieces.is_empty() {
            return self.end();
        }
        let last = pieces.len() - 1;
        for (index, piece) in pieces.into_iter().enumerate() {
            // All bytes are in memory already, so the last chunk of content may say that it is the last.
            let flags = if index == last { CHUNK_DONE } else { 0 };
            match piece {
                Piece::Data { at, bytes } => {
                    let payload = size_of::<OffsetData>() + bytes.len();
                    self.chunk(ChunkKind::OffsetData, flags, payload);
                    self.put(OffsetData { offset: at.bytes().into() }.as_bytes());
                    self.batch.gather.attach(bytes);
                }
                Piece::Hole(range) => {
                    self.chunk(ChunkKind::OffsetHole, flags, size_of::<OffsetHole>());
                    let length = u32::try_from(range.length()).expect("a read is far below 4 GiB");
                    let (offset, length) = (range.start().bytes().into(), length.into());
                    self.put(OffsetHole { offset, length }.as_bytes());
                }
            }
        }
    }

    fn status(&mut self, contexts: Vec<(ContextId, Vec<StatusExtent>)>) {
        let Some(last) = contexts.len().checked_sub(1) else { return self.end() };
        for (index, (id, extents)) in contexts.into_iter().enumerate() {
            let flags = if index == last { CHUNK_DONE } else { 0 };
            if self.extended {
                self.extended_status(id, &extents, flags);
            } else {
                self.compact_status(id, &extents, flags);
            }
        }
    }

    fn compact_status(&mut self, id: ContextId, extents: &[StatusExtent], flags: u16) {
        let payload = size_of::<u32>() + extents.len() * size_of::<Descriptor>();
        self.chunk(ChunkKind::BlockStatus, flags, payload);
        self.put(&id.number().to_be_bytes());
        for extent in extents {
            let length = u32::try_from(extent.length).expect("lists of compact replies see to it");
            let descriptor = Descriptor { length: length.into(), status: extent.status.into() };
            self.put(descriptor.as_bytes());
        }
    }

    fn extended_status(&mut self, id: ContextId, extents: &[StatusExtent], flags: u16) {
        let descriptors = extents.len() * size_of::<ExtendedDescriptor>();
        let payload = size_of::<ExtendedStatusHead>() + descriptors;
        self.chunk(ChunkKind::ExtendedBlockStatus, flags, payload);
        let count = u32::try_from(extents.len()).expect("a list has a limit far below");
        self.put(
            ExtendedStatusHead { context: id.number().into(), count: count.into() }.as_bytes(),
        );
        for extent in extents {
            // Every meaning is one of 32 bits, of which the upper 32 here are zero.
            let (length, status) = (extent.length.into(), u64::from(extent.status).into());
            self.put(ExtendedDescriptor { length, status }.as_bytes());
        }
    }

    fn failure(&mut self, failure: &Failure) {
        let message = clip(&failure.message).as_bytes();
        let (kind, tail) = match failure.at {
            Some(_) => (ChunkKind::ErrorOffset, size_of::<u64>()),
            None => (ChunkKind::Error, 0),
        };
        let payload = size_of::<ErrorHead>() + message.len() + tail;
        self.chunk(kind, CHUNK_DONE, payload);
        let length = u16::try_from(message.len()).expect("clipped to 4096 bytes");
        let head = ErrorHead { error: failure.code.number().into(), message_length: length.into() };
        self.put(head.as_bytes());
        self.put(message);
        if let Some(at) = failure.at {
            self.put(&at.bytes().to_be_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nbd::wire::MAX_REQUEST;
    use crate::nbd::wire::transmission::CommandFlags;

    fn request(command: Command) -> Request {
        let (flags, cookie) = (CommandFlags::NONE, Cookie::new(0x11));
        Request { command, flags, cookie, offset: 0x22, length: 0 }
    }

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
            batch.push(replies, &request(Command::Write), Answer::Done);
            assert_eq!(flat(batch), expected);
        }
    }

    #[test]
    fn a_structured_read_never_gets_a_simple_reply() {
        let mut batch = Batch::default();
        batch.push(Replies::Structured, &request(Command::Read), Answer::Data(Vec::new()));
        let expected = [0x66, 0x8e, 0x33, 0xef, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x11, 0, 0, 0, 0];
        assert_eq!(flat(batch), expected);
    }

    #[test]
    fn data_is_sent_from_the_buffer_it_was_read_into() {
        let bytes = Buffer::copy_of(b"data");
        let address = bytes.as_ptr();
        let mut batch = Batch::default();
        batch.push(Replies::Simple, &request(Command::Write), Answer::Done);
        let piece = Piece::Data { at: ByteOffset::new(0), bytes };
        batch.push(Replies::Simple, &request(Command::Read), Answer::Data(vec![piece]));
        batch.push(Replies::Simple, &request(Command::Write), Answer::Done);
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
        batch.push(Replies::Structured, &request(Command::Read), Answer::Data(pieces));
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
        batch.push(Replies::Structured, &request(Command::Read), Answer::Failed(failure));
        let bytes = flat(batch);
        assert_eq!(bytes[4..8], [0, 1, 0x80, 2]);
        let payload = [0, 0, 0, 16, 0, 0, 0, 5, 0, 2, b'n', b'o', 0, 0, 0, 0, 0, 0, 0x10, 0];
        assert_eq!(bytes[16..], payload);
    }

    #[test]
    fn a_long_message_is_cut() {
        let mut batch = Batch::default();
        let failure = Failure { code: ErrorCode::Io, message: "x".repeat(70_000), at: None };
        batch.push(Replies::Structured, &request(Command::Flush), Answer::Failed(failure));
        assert_eq!(flat(batch).len(), 20 + 6 + 4096);
    }

    /// A chunk of data may be longer than a payload by the offset it begins with.
    #[test]
    fn the_largest_read_is_one_chunk() {
        let bytes = Buffer::zeroed(MAX_REQUEST as usize);
        let mut batch = Batch::default();
        let piece = Piece::Data { at: ByteOffset::new(0), bytes };
        batch.push(Replies::Structured, &request(Command::Read), Answer::Data(vec![piece]));
        let parts = batch.into_parts();
        assert_eq!(parts[0][16..20], ((32u32 << 20) + 8).to_be_bytes());
        assert_eq!(parts.iter().map(|part| part.len()).sum::<usize>(), (32 << 20) + 20 + 8);
    }

    #[test]
    fn with_extended_headers_everything_is_a_chunk_that_repeats_the_offset() {
        let head = |kind: [u8; 2], length: u8| {
            let mut head = vec![0x6e, 0x8a, 0x27, 0x8c, 0, 1, kind[0], kind[1]];
            head.extend([0, 0, 0, 0, 0, 0, 0, 0x11, 0, 0, 0, 0, 0, 0, 0, 0x22]);
            head.extend([0, 0, 0, 0, 0, 0, 0, length]);
            head
        };
        let sent = |command, answer| {
            let mut batch = Batch::default();
            batch.push(Replies::Extended, &request(command), answer);
            flat(batch)
        };
        assert_eq!(sent(Command::Write, Answer::Done), head([0, 0], 0));
        assert_eq!(sent(Command::Read, Answer::Data(Vec::new())), head([0, 0], 0));
        let failure = Failure { code: ErrorCode::Io, message: "no".into(), at: None };
        let failed = [head([0x80, 1], 8), vec![0, 0, 0, 5, 0, 2, b'n', b'o']].concat();
        assert_eq!(sent(Command::Flush, Answer::Failed(failure)), failed);
        let read = [head([0, 1], 10), vec![0, 0, 0, 0, 0, 0, 0, 0x22, b'h', b'i']].concat();
        assert_eq!(sent(Command::Read, Answer::Data(vec![data(0x22, b"hi")])), read);
        let extent = StatusExtent { length: 1 << 40, status: u32::MAX - 1 };
        let status = Answer::Status(vec![(ContextId::new(7), vec![extent])]);
        let mut described = vec![0, 0, 0, 7, 0, 0, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0];
        described.extend([0, 0, 0, 0, 0xff, 0xff, 0xff, 0xfe]);
        let told = [head([0, 6], 24), described].concat();
        assert_eq!(sent(Command::BlockStatus, status), told);
        assert_eq!(sent(Command::BlockStatus, Answer::Status(Vec::new())), head([0, 0], 0));
    }
}
