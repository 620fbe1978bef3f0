//! Requests in flight, and their replies put together from chunks.
//!
//! ```text
//!   Head ─▶ Head (chunk: four more bytes) ─▶ Payload ──────▶ Head        everything small
//!     │                                 └──▶ Offset ─▶ Data ─▶ Head      content goes where it belongs at once
//!     └───▶ Data (simple reply to a read) ────────────────────▶ Head
//! ```
//!
//! The caller fills [`Transactions::target`] from the stream and reports how far it got; nothing is buffered twice.
//!
//! **Invariant:** what is in flight is bounded by what was asked; the server cannot make this side allocate more than the
//! limits below.

use super::{Breach, ClientError, ServerError};
use crate::nbd::session::ContextId;
use crate::nbd::wire::transmission::{
    CHUNK_DONE, ChunkHeader, ChunkKind, Cookie, Descriptor, ErrorCode, ErrorHead, OffsetData,
    OffsetHole, STATE_HOLE, STATE_ZERO, SimpleReply,
};
use crate::nbd::wire::{SIMPLE_REPLY_MAGIC, STRUCTURED_REPLY_MAGIC};
use landfall_disks::{Buffer, ByteOffset, ByteRange, Content, MappedRange};
use std::collections::HashMap;
use zerocopy::FromBytes;

/// Most payload of a chunk that carries no content, in bytes: a block status of 2^20 descriptors.
const MAX_PAYLOAD: u32 = 4 + 8 * (1 << 20);

/// Most content chunks in the reply to one read.
const MAX_CHUNKS: usize = 1 << 16;

const SIMPLE: usize = size_of::<SimpleReply>();
const CHUNK: usize = size_of::<ChunkHeader>();

/// What a reply has to look like.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Query {
    /// Content of this range; not empty.
    Read(ByteRange),
    /// Status of this range in a context.
    BlockStatus(ByteRange, ContextId),
    /// Success or an error.
    Plain,
}

/// What a request came to.
#[derive(Debug)]
pub enum Outcome {
    /// The bytes.
    Read(Buffer),
    /// Consecutive stretches from the start of the range on; they may end before it or reach beyond it.
    BlockStatus(Vec<MappedRange>),
    /// Done.
    Done,
}

/// A request that was answered.
pub type Finished = (Cookie, Result<Outcome, ServerError>);

struct Pending {
    query: Query,
    data: Option<Buffer>,
    covered: Vec<ByteRange>,
    status: Option<Vec<MappedRange>>,
    error: Option<ServerError>,
}

/// A chunk whose payload is being received. A simple reply counts as one that is done.
struct Chunk {
    cookie: Cookie,
    pending: Pending,
    kind: ChunkKind,
    done: bool,
    length: u32,
}

enum Place {
    /// In `head`, up to this length.
    Head(usize),
    /// In `head`: the offset of content.
    Offset(Chunk),
    /// In the buffer of the request.
    Data(Chunk, ByteRange),
    /// In `payload`.
    Payload(Chunk),
}

/// Requests in flight on one connection.
pub struct Transactions {
    in_flight: HashMap<Cookie, Pending>,
    place: Place,
    filled: usize,
    head: [u8; CHUNK],
    payload: Vec<u8>,
}

impl Default for Transactions {
    fn default() -> Self {
        Self {
            in_flight: HashMap::new(),
            place: Place::Head(SIMPLE),
            filled: 0,
            head: [0; CHUNK],
            payload: Vec::new(),
        }
    }
}

impl Transactions {
    /// Expects a reply to a request that is sent under `cookie`, which no other request in flight has.
    pub fn begin(&mut self, cookie: Cookie, query: Query) {
        let data = match query {
            Query::Read(range) => {
                Some(Buffer::zeroed(usize::try_from(range.length()).expect("a read fits memory")))
            }
            Query::BlockStatus(..) | Query::Plain => None,
        };
        let pending = Pending { query, data, covered: Vec::new(), status: None, error: None };
        let before = self.in_flight.insert(cookie, pending);
        assert!(before.is_none(), "two requests under {cookie:?}");
    }

    /// Requests that are not answered yet, but for one whose reply is being received.
    pub fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// Whether nothing is in flight and no reply half received.
    pub fn is_idle(&self) -> bool {
        self.in_flight.is_empty() && matches!(self.place, Place::Head(SIMPLE)) && self.filled == 0
    }

    /// Where the next bytes from the stream belong. Not empty.
    pub fn target(&mut self) -> &mut [u8] {
        let filled = self.filled;
        match &mut self.place {
            Place::Head(length) => &mut self.head[filled..*length],
            Place::Offset(_) => &mut self.head[filled..size_of::<OffsetData>()],
            Place::Payload(_) => &mut self.payload[filled..],
            Place::Data(chunk, range) => {
                let window = window_of(&chunk.pending, *range);
                let data = chunk.pending.data.as_mut().expect("only a read gets data");
                &mut data[window][filled..]
            }
        }
    }

    /// `count` bytes were put at the start of the target. After an error the connection is of no use.
    pub fn advance(&mut self, count: usize) -> Result<Option<Finished>, ClientError> {
        let left = self.target().len();
        assert!(count <= left, "{count} bytes in a place of {left}");
        self.filled += count;
        if count < left {
            return Ok(None);
        }
        self.filled = 0;
        match std::mem::replace(&mut self.place, Place::Head(SIMPLE)) {
            Place::Head(SIMPLE) => self.simple_head(),
            Place::Head(_) => self.chunk_head(),
            Place::Offset(chunk) => self.offset(chunk),
            Place::Data(chunk, _) => self.end_of(chunk),
            Place::Payload(chunk) => self.payload(chunk),
        }
        .map_err(ClientError::Breach)
    }

    fn take(&mut self, cookie: u64) -> Result<Pending, Breach> {
        self.in_flight.remove(&Cookie::new(cookie)).ok_or(Breach::Cookie(cookie))
    }

    fn simple_head(&mut self) -> Result<Option<Finished>, Breach> {
        let reply = SimpleReply::read_from_bytes(&self.head[..SIMPLE]).expect("sixteen bytes");
        match reply.magic.get() {
            STRUCTURED_REPLY_MAGIC => {
                // A chunk's head is longer; what is here stays.
                self.place = Place::Head(CHUNK);
                self.filled = SIMPLE;
                return Ok(None);
            }
            SIMPLE_REPLY_MAGIC => {}
            other => return Err(Breach::Magic(u64::from(other))),
        }
        let cookie = Cookie::new(reply.cookie.get());
        let mut pending = self.take(cookie.number())?;
        let (kind, length) = (ChunkKind::OffsetData, 0);
        if reply.error.get() != 0 {
            let code = ErrorCode::from_number(reply.error.get());
            pending.error = Some(ServerError { code, message: String::new(), at: None });
        } else if let Query::Read(range) = pending.query {
            pending.cover(range)?;
            let chunk = Chunk { cookie, pending, kind, done: true, length };
            self.place = Place::Data(chunk, range);
            return Ok(None);
        }
        self.end_of(Chunk { cookie, pending, kind, done: true, length })
    }

    fn chunk_head(&mut self) -> Result<Option<Finished>, Breach> {
        let header = ChunkHeader::read_from_bytes(&self.head).expect("twenty bytes");
        let (cookie, length) = (Cookie::new(header.cookie.get()), header.length.get());
        let pending = self.take(cookie.number())?;
        let kind = ChunkKind::from(header.kind.get());
        let done = header.flags.get() & CHUNK_DONE != 0;
        let chunk = Chunk { cookie, pending, kind, done, length };
        match (kind, chunk.pending.query) {
            (ChunkKind::None, _) if length == 0 && done => self.end_of(chunk),
            (ChunkKind::OffsetData, Query::Read(_)) if length > 8 => {
                self.place = Place::Offset(chunk);
                Ok(None)
            }
            (ChunkKind::OffsetHole, Query::Read(_))
            | (ChunkKind::BlockStatus, Query::BlockStatus(..)) => self.expect_payload(chunk),
            (kind, _) if kind.is_error() => self.expect_payload(chunk),
            (kind, _) => Err(Breach::Chunk(kind.number())),
        }
    }

    fn expect_payload(&mut self, chunk: Chunk) -> Result<Option<Finished>, Breach> {
        if chunk.length > MAX_PAYLOAD {
            return Err(Breach::Length(chunk.length));
        }
        self.payload.clear();
        self.payload.resize(usize::try_from(chunk.length).expect("limited above"), 0);
        if self.payload.is_empty() {
            return self.payload(chunk);
        }
        self.place = Place::Payload(chunk);
        Ok(None)
    }

    fn offset(&mut self, mut chunk: Chunk) -> Result<Option<Finished>, Breach> {
        let (head, _) = OffsetData::read_from_prefix(&self.head).expect("eight bytes");
        let length = u64::from(chunk.length) - 8;
        let range = ByteRange::at(ByteOffset::new(head.offset.get()), length)
            .ok_or(Breach::Length(chunk.length))?;
        chunk.pending.cover(range)?;
        self.place = Place::Data(chunk, range);
        Ok(None)
    }

    fn payload(&mut self, mut chunk: Chunk) -> Result<Option<Finished>, Breach> {
        let bad = Breach::Chunk(chunk.kind.number());
        match (chunk.kind, chunk.pending.query) {
            (ChunkKind::OffsetHole, _) => {
                let hole = OffsetHole::read_from_bytes(&self.payload).map_err(|_| bad)?;
                let start = ByteOffset::new(hole.offset.get());
                let length = u64::from(hole.length.get());
                let range = ByteRange::at(start, length).filter(|range| !range.is_empty());
                // The buffer is zeroed and no other chunk may write there.
                chunk.pending.cover(range.ok_or(bad)?)?;
            }
            (ChunkKind::BlockStatus, Query::BlockStatus(range, context)) => {
                let status = parse_status(&self.payload, range, context).ok_or(bad)?;
                if chunk.pending.status.replace(status).is_some() {
                    return Err(bad);
                }
            }
            (kind, _) => {
                let error = parse_error(&self.payload, kind).ok_or(bad)?;
                chunk.pending.error.get_or_insert(error);
            }
        }
        self.end_of(chunk)
    }

    /// The chunk is complete: so is its request, or more is to come.
    fn end_of(&mut self, chunk: Chunk) -> Result<Option<Finished>, Breach> {
        let Chunk { cookie, pending, done, .. } = chunk;
        if !done {
            self.in_flight.insert(cookie, pending);
            return Ok(None);
        }
        Ok(Some((cookie, pending.finish()?)))
    }
}

impl Pending {
    /// Notes that content of `range` arrives.
    fn cover(&mut self, range: ByteRange) -> Result<(), Breach> {
        let Query::Read(whole) = self.query else { return Err(Breach::Content(range)) };
        if !whole.contains(range) || self.covered.len() >= MAX_CHUNKS {
            return Err(Breach::Content(range));
        }
        self.covered.push(range);
        Ok(())
    }

    fn finish(mut self) -> Result<Result<Outcome, ServerError>, Breach> {
        if let Some(error) = self.error {
            return Ok(Err(error));
        }
        match self.query {
            Query::Plain => Ok(Ok(Outcome::Done)),
            Query::BlockStatus(..) => {
                self.status.map(|status| Ok(Outcome::BlockStatus(status))).ok_or(Breach::Incomplete)
            }
            Query::Read(whole) => {
                self.covered.sort_by_key(|range| range.start());
                let mut at = whole.start();
                for range in self.covered {
                    if range.start() < at {
                        return Err(Breach::Content(range));
                    }
                    if range.start() > at {
                        return Err(Breach::Incomplete);
                    }
                    at = range.end();
                }
                if at != whole.end() {
                    return Err(Breach::Incomplete);
                }
                Ok(Ok(Outcome::Read(self.data.expect("a read has its buffer"))))
            }
        }
    }
}

/// Where `range` lies in the buffer of the read it belongs to.
fn window_of(pending: &Pending, range: ByteRange) -> std::ops::Range<usize> {
    let Query::Read(whole) = pending.query else { unreachable!("only a read gets data") };
    let offset = |at: ByteOffset| {
        usize::try_from(at.bytes() - whole.start().bytes()).expect("within a buffer")
    };
    offset(range.start())..offset(range.end())
}

fn parse_status(payload: &[u8], range: ByteRange, context: ContextId) -> Option<Vec<MappedRange>> {
    let (id, rest) = payload.split_first_chunk::<4>()?;
    if u32::from_be_bytes(*id) != context.number() || rest.is_empty() {
        return None;
    }
    let mut at = range.start();
    let mut status = Vec::with_capacity(rest.len() / size_of::<Descriptor>());
    for descriptor in <[Descriptor]>::ref_from_bytes(rest).ok()? {
        let range = ByteRange::at(at, u64::from(descriptor.length.get()))?;
        if range.is_empty() {
            return None;
        }
        let flags = descriptor.status.get();
        let content = match (flags & STATE_HOLE != 0, flags & STATE_ZERO != 0) {
            (true, true) => Content::Hole,
            (false, true) => Content::Zero,
            // A hole that is not known to read as zeroes has to be read.
            (_, false) => Content::Data,
        };
        status.push(MappedRange { range, content });
        at = range.end();
    }
    Some(status)
}

fn parse_error(payload: &[u8], kind: ChunkKind) -> Option<ServerError> {
    let (head, rest) = ErrorHead::read_from_prefix(payload).ok()?;
    let message = rest.get(..usize::from(head.message_length.get()))?;
    let tail = &rest[message.len()..];
    let at = match kind {
        ChunkKind::ErrorOffset => Some(u64::from_be_bytes(*tail.first_chunk::<8>()?)),
        _ => None,
    };
    let message = String::from_utf8_lossy(message).into_owned();
    Some(ServerError { code: ErrorCode::from_number(head.error.get()), message, at })
}
