//! The small frames: acknowledgements, marks, passes, the hash exchange, keep-alive, farewell.

use super::{
    FrameError, FrameKind, HASH_BYTES, MAX_DISKS, MAX_HASH_BLOCKS, MAX_LABEL, finished, frame,
    take, zero,
};
use crate::delta::identity::{ContentId, DiskSlot, Position, Timestamp};
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Everything up to `position` is durable, and `credit_bytes` more may be sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ack {
    /// Highest position that is durable together with all before it.
    pub position: Position,
    /// Bytes of `Batch` frames given back since the last `Ack`.
    pub credit_bytes: u64,
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawAck {
    position: U64,
    credit_bytes: U64,
}

const _: () = assert!(size_of::<RawAck>() == 16);

impl Ack {
    /// The frame.
    pub fn encode(&self) -> Vec<u8> {
        let raw = RawAck {
            position: self.position.number().into(),
            credit_bytes: self.credit_bytes.into(),
        };
        frame(FrameKind::Ack, &[raw.as_bytes()])
    }

    /// The meaning of a body.
    pub fn parse(body: &[u8]) -> Result<Self, FrameError> {
        let (raw, rest) = take::<RawAck>(FrameKind::Ack, body)?;
        finished(FrameKind::Ack, rest)?;
        Ok(Self {
            position: Position::new(raw.position.get()),
            credit_bytes: raw.credit_bytes.get(),
        })
    }
}

/// What the source knows of the moment it marks.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum MarkKind {
    /// Applications were quiesced.
    App,
    /// The source stood still: what a power cut would leave.
    Crash,
    /// The source was changing while it was read.
    Fuzzy,
}

impl MarkKind {
    fn number(self) -> u8 {
        match self {
            Self::App => 1,
            Self::Crash => 2,
            Self::Fuzzy => 3,
        }
    }

    fn from_number(kind: FrameKind, number: u8) -> Result<Self, FrameError> {
        match number {
            1 => Ok(Self::App),
            2 => Ok(Self::Crash),
            3 => Ok(Self::Fuzzy),
            value => Err(FrameError::Value { kind, field: "kind of mark", value: value.into() }),
        }
    }
}

/// The disks are consistent at this position; completes a pass.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mark {
    /// Its place in the stream.
    pub position: Position,
    /// When the source stood like this, by the source's clock.
    pub source_time: Timestamp,
    /// What is known of the moment.
    pub kind: MarkKind,
    /// A name for the point; empty for none. No control characters.
    pub label: String,
    /// What the source calls the content of each disk of the stream, in the order of the slots; or none at all. Only where
    /// both ends have [`Features::contents`](super::Features::contents).
    pub contents: Vec<Option<ContentId>>,
    /// From here on the source delivers every write, in order: each batch is a moment, until a pass begins, a fuzzy mark
    /// comes, or the connection ends. Only where both ends have [`Features::order`](super::Features::order), and
    /// [`Features::synchronous`](super::Features::synchronous) for one that is.
    pub order: Option<WriteOrder>,
}

/// When a source that delivers its writes in order tells whoever made them that they are done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WriteOrder {
    /// Whenever it likes; the target comes behind.
    Asynchronous,
    /// After the target has acknowledged them.
    Synchronous,
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawMark {
    position: U64,
    source_time: U64,
    kind: u8,
    label_length: u8,
    content_count: U16,
    flags: u8,
    reserved: [u8; 3],
}

// 8 position, 8 time, 1 + 1 + 2, 1 flags, 3 reserved
const _: () = assert!(size_of::<RawMark>() == 24);

impl Mark {
    const IN_ORDER: u8 = 1;
    const SYNCHRONOUS: u8 = 2;

    /// Whether `label` may stand in a mark.
    pub fn is_label(label: &str) -> bool {
        label.len() <= MAX_LABEL && !label.chars().any(char::is_control)
    }

    /// The frame.
    pub fn encode(&self) -> Vec<u8> {
        assert!(Self::is_label(&self.label), "label {:?} was not checked", self.label);
        assert!(self.contents.len() <= MAX_DISKS, "one content per disk of the stream");
        let raw = RawMark {
            position: self.position.number().into(),
            source_time: self.source_time.nanoseconds().into(),
            kind: self.kind.number(),
            label_length: u8::try_from(self.label.len()).expect("at most 128"),
            content_count: u16::try_from(self.contents.len()).expect("at most 64").into(),
            flags: match self.order {
                None => 0,
                Some(WriteOrder::Asynchronous) => Self::IN_ORDER,
                Some(WriteOrder::Synchronous) => Self::IN_ORDER | Self::SYNCHRONOUS,
            },
            reserved: [0; 3],
        };
        let contents = encode_contents(self.contents.iter().copied());
        frame(FrameKind::Mark, &[raw.as_bytes(), self.label.as_bytes(), &contents])
    }

    /// The meaning of a body.
    pub fn parse(body: &[u8]) -> Result<Self, FrameError> {
        let kind = FrameKind::Mark;
        let (raw, rest) = take::<RawMark>(kind, body)?;
        let order = match raw.flags {
            0 => None,
            Self::IN_ORDER => Some(WriteOrder::Asynchronous),
            flags if flags == Self::IN_ORDER | Self::SYNCHRONOUS => Some(WriteOrder::Synchronous),
            flags => return Err(FrameError::Value { kind, field: "flags", value: flags.into() }),
        };
        zero(kind, "end", &raw.reserved)?;
        let needed = usize::from(raw.label_length);
        let text =
            rest.get(..needed).ok_or(FrameError::Short { kind, length: rest.len(), needed })?;
        let count = usize::from(raw.content_count.get());
        if count > MAX_DISKS {
            let value = count as u64;
            return Err(FrameError::Value { kind, field: "count of contents", value });
        }
        let mut rest = &rest[needed..];
        let mut contents = Vec::with_capacity(count);
        for _ in 0..count {
            let (content, later) = take_content(kind, rest)?;
            contents.push(content);
            rest = later;
        }
        finished(kind, rest)?;
        let label = std::str::from_utf8(text)
            .ok()
            .filter(|label| Self::is_label(label))
            .ok_or(FrameError::Text { kind, field: "label" })?;
        Ok(Self {
            position: Position::new(raw.position.get()),
            source_time: Timestamp::from_nanoseconds(raw.source_time.get()),
            kind: MarkKind::from_number(kind, raw.kind)?,
            label: label.to_owned(),
            contents,
            order,
        })
    }
}

/// Ids one behind the other; zeroes for none.
pub(super) fn encode_contents(contents: impl Iterator<Item = Option<ContentId>>) -> Vec<u8> {
    contents.flat_map(|content| content.map_or([0; HASH_BYTES], ContentId::bytes)).collect()
}

/// One of them, and what follows.
pub(super) fn take_content(
    kind: FrameKind,
    body: &[u8],
) -> Result<(Option<ContentId>, &[u8]), FrameError> {
    let short = FrameError::Short { kind, length: body.len(), needed: HASH_BYTES };
    let (bytes, rest) = body.split_first_chunk::<HASH_BYTES>().ok_or(short)?;
    Ok((ContentId::new(*bytes), rest))
}

/// The point that became of a mark. Acknowledges its position as well.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Marked {
    /// Position of the mark.
    pub position: Position,
    /// Sequence of the point in its line.
    pub sequence: u64,
    /// When it was committed, by the target's clock.
    pub commit_time: Timestamp,
    /// Kind of the point; the target may know worse of it than the source.
    pub kind: MarkKind,
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy)]
#[repr(C)]
pub(super) struct RawMarked {
    position: U64,
    sequence: U64,
    commit_time: U64,
    kind: u8,
    reserved: [u8; 7],
}

const _: () = assert!(size_of::<RawMarked>() == 32);

impl RawMarked {
    pub(super) const NONE: Self = Self {
        position: U64::ZERO,
        sequence: U64::ZERO,
        commit_time: U64::ZERO,
        kind: 0,
        reserved: [0; 7],
    };

    pub(super) fn of(marked: &Marked) -> Self {
        assert!(marked.position > Position::default(), "positions of marks start at one");
        Self {
            position: marked.position.number().into(),
            sequence: marked.sequence.into(),
            commit_time: marked.commit_time.nanoseconds().into(),
            kind: marked.kind.number(),
            reserved: [0; 7],
        }
    }

    pub(super) fn meaning(&self, kind: FrameKind) -> Result<Option<Marked>, FrameError> {
        if self.as_bytes().iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        zero(kind, "mark", &self.reserved)?;
        if self.position.get() == 0 {
            return Err(FrameError::Value { kind, field: "position of mark", value: 0 });
        }
        Ok(Some(Marked {
            position: Position::new(self.position.get()),
            sequence: self.sequence.get(),
            commit_time: Timestamp::from_nanoseconds(self.commit_time.get()),
            kind: MarkKind::from_number(kind, self.kind)?,
        }))
    }
}

impl Marked {
    /// The frame.
    pub fn encode(&self) -> Vec<u8> {
        frame(FrameKind::Marked, &[RawMarked::of(self).as_bytes()])
    }

    /// The meaning of a body.
    pub fn parse(body: &[u8]) -> Result<Self, FrameError> {
        let kind = FrameKind::Marked;
        let (raw, rest) = take::<RawMarked>(kind, body)?;
        finished(kind, rest)?;
        raw.meaning(kind)?.ok_or(FrameError::Value { kind, field: "position of mark", value: 0 })
    }
}

/// How a pass goes about its work.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PassKind {
    /// Everything that is not a hole is sent.
    Copy,
    /// Hashes are compared; what differs is sent.
    Compare,
}

/// A pass begins: until its mark nothing is consistent. Carries no position; a repeated one changes nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PassBegin {
    /// Number of the pass in its stream, from 1; told again after a resume.
    pub pass: u64,
    /// Bytes that will be looked at, for progress.
    pub bytes_total: u64,
    /// How.
    pub kind: PassKind,
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawPassBegin {
    pass: U64,
    bytes_total: U64,
    kind: u8,
    reserved: [u8; 7],
}

const _: () = assert!(size_of::<RawPassBegin>() == 24);

impl PassBegin {
    /// The frame.
    pub fn encode(&self) -> Vec<u8> {
        let kind = match self.kind {
            PassKind::Copy => 1,
            PassKind::Compare => 2,
        };
        let raw = RawPassBegin {
            pass: self.pass.into(),
            bytes_total: self.bytes_total.into(),
            kind,
            reserved: [0; 7],
        };
        frame(FrameKind::PassBegin, &[raw.as_bytes()])
    }

    /// The meaning of a body.
    pub fn parse(body: &[u8]) -> Result<Self, FrameError> {
        let kind = FrameKind::PassBegin;
        let (raw, rest) = take::<RawPassBegin>(kind, body)?;
        zero(kind, "end", &raw.reserved)?;
        finished(kind, rest)?;
        let how = match raw.kind {
            1 => PassKind::Copy,
            2 => PassKind::Compare,
            value => {
                return Err(FrameError::Value { kind, field: "kind of pass", value: value.into() });
            }
        };
        Ok(Self { pass: raw.pass.get(), bytes_total: raw.bytes_total.get(), kind: how })
    }
}

/// Asks for the hashes of `count` blocks of a disk from block `first`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HashRequest {
    /// Which disk.
    pub disk: DiskSlot,
    /// First block, in units of [`HASH_BLOCK_SIZE`](crate::delta::HASH_BLOCK_SIZE).
    pub first: u64,
    /// How many, 1 to [`MAX_HASH_BLOCKS`].
    pub count: u32,
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy)]
#[repr(C)]
struct RawBlocks {
    disk: U16,
    reserved: U16,
    count: U32,
    first: U64,
}

const _: () = assert!(size_of::<RawBlocks>() == HASHES_HEAD_BYTES);

/// Fixed part of a `Hashes` body.
pub(super) const HASHES_HEAD_BYTES: usize = 16;

impl RawBlocks {
    fn of(request: &HashRequest) -> Self {
        Self {
            disk: request.disk.number().into(),
            reserved: 0.into(),
            count: request.count.into(),
            first: request.first.into(),
        }
    }

    fn meaning(&self, kind: FrameKind) -> Result<HashRequest, FrameError> {
        zero(kind, "head", self.reserved.as_bytes())?;
        let count = self.count.get();
        if count == 0 || count > MAX_HASH_BLOCKS {
            return Err(FrameError::Value { kind, field: "block count", value: count.into() });
        }
        Ok(HashRequest { disk: DiskSlot::new(self.disk.get()), first: self.first.get(), count })
    }
}

impl HashRequest {
    /// The frame.
    pub fn encode(&self) -> Vec<u8> {
        frame(FrameKind::HashRequest, &[RawBlocks::of(self).as_bytes()])
    }

    /// The meaning of a body.
    pub fn parse(body: &[u8]) -> Result<Self, FrameError> {
        let (raw, rest) = take::<RawBlocks>(FrameKind::HashRequest, body)?;
        finished(FrameKind::HashRequest, rest)?;
        raw.meaning(FrameKind::HashRequest)
    }
}

/// What the target holds of one block.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BlockHash {
    /// It cannot say; the block has to be sent.
    Unknown,
    /// It reads as zeroes.
    Zero,
    /// Content with this BLAKE3 (of the real bytes, where the disk ends within the block).
    Hash([u8; HASH_BYTES]),
}

/// The answer to a [`HashRequest`], block by block.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Hashes {
    /// The request.
    pub request: HashRequest,
    /// `request.count` answers.
    pub blocks: Vec<BlockHash>,
}

impl Hashes {
    /// The frame: one state byte per block, then the hashes of those that have one, in order.
    pub fn encode(&self) -> Vec<u8> {
        assert_eq!(self.blocks.len(), self.request.count as usize, "one answer per block");
        let mut states = Vec::with_capacity(self.blocks.len());
        let mut hashes = Vec::with_capacity(self.blocks.len() * HASH_BYTES);
        for block in &self.blocks {
            states.push(match block {
                BlockHash::Unknown => 0u8,
                BlockHash::Zero => 1,
                BlockHash::Hash(hash) => {
                    hashes.extend_from_slice(hash);
                    2
                }
            });
        }
        frame(FrameKind::Hashes, &[RawBlocks::of(&self.request).as_bytes(), &states, &hashes])
    }

    /// The meaning of a body.
    pub fn parse(body: &[u8]) -> Result<Self, FrameError> {
        let kind = FrameKind::Hashes;
        let (raw, rest) = take::<RawBlocks>(kind, body)?;
        let request = raw.meaning(kind)?;
        let count = request.count as usize;
        let (states, mut hashes) = rest.split_at_checked(count).ok_or(FrameError::Short {
            kind,
            length: rest.len(),
            needed: count,
        })?;
        let mut blocks = Vec::with_capacity(count);
        for state in states {
            blocks.push(match state {
                0 => BlockHash::Unknown,
                1 => BlockHash::Zero,
                2 => {
                    let (hash, later) = take::<[u8; HASH_BYTES]>(kind, hashes)?;
                    hashes = later;
                    BlockHash::Hash(*hash)
                }
                value => {
                    let value = u64::from(*value);
                    return Err(FrameError::Value { kind, field: "block state", value });
                }
            });
        }
        finished(kind, hashes)?;
        Ok(Self { request, blocks })
    }
}

/// Body of `Ping` and `Pong`: the answer repeats the question's token.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ping {
    /// Anything.
    pub token: u64,
}

impl Ping {
    /// The question.
    pub fn encode(&self) -> Vec<u8> {
        frame(FrameKind::Ping, &[U64::new(self.token).as_bytes()])
    }

    /// The answer.
    pub fn encode_pong(&self) -> Vec<u8> {
        frame(FrameKind::Pong, &[U64::new(self.token).as_bytes()])
    }

    /// The meaning of a body, of `Ping` and `Pong` alike.
    pub fn parse(kind: FrameKind, body: &[u8]) -> Result<Self, FrameError> {
        let (raw, rest) = take::<U64>(kind, body)?;
        finished(kind, rest)?;
        Ok(Self { token: raw.get() })
    }
}

/// Why one side leaves in good order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Bye {
    /// Nothing is left to send; everything sent is acknowledged.
    Done,
    /// The program is being stopped; what is not acknowledged stays with the source.
    Stopping,
}

impl Bye {
    /// The frame.
    pub fn encode(self) -> Vec<u8> {
        let reason = match self {
            Self::Done => 1u64,
            Self::Stopping => 2,
        };
        frame(FrameKind::Bye, &[U64::new(reason).as_bytes()])
    }

    /// The meaning of a body.
    pub fn parse(body: &[u8]) -> Result<Self, FrameError> {
        let kind = FrameKind::Bye;
        let (raw, rest) = take::<U64>(kind, body)?;
        finished(kind, rest)?;
        match raw.get() {
            1 => Ok(Self::Done),
            2 => Ok(Self::Stopping),
            value => Err(FrameError::Value { kind, field: "reason", value }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::HEADER_BYTES;
    use super::*;
    use proptest::prelude::*;

    fn block() -> impl Strategy<Value = BlockHash> {
        prop_oneof![
            Just(BlockHash::Unknown),
            Just(BlockHash::Zero),
            any::<[u8; 32]>().prop_map(BlockHash::Hash),
        ]
    }

    fn mark_kind() -> impl Strategy<Value = MarkKind> {
        prop_oneof![Just(MarkKind::App), Just(MarkKind::Crash), Just(MarkKind::Fuzzy)]
    }

    fn write_order() -> impl Strategy<Value = Option<WriteOrder>> {
        let orders = [None, Some(WriteOrder::Asynchronous), Some(WriteOrder::Synchronous)];
        prop::sample::select(orders.to_vec())
    }

    /// Encodes, parses, and refuses every shorter and longer body.
    fn round_trip<T: PartialEq + std::fmt::Debug>(
        value: &T,
        frame: &[u8],
        parse: impl Fn(&[u8]) -> Result<T, FrameError>,
    ) {
        let body = &frame[HEADER_BYTES..];
        assert_eq!(parse(body).as_ref(), Ok(value));
        for end in 0..body.len() {
            assert!(parse(&body[..end]).is_err(), "{end} of {} bytes passed", body.len());
        }
        assert!(parse(&[body, &[0]].concat()).is_err(), "a longer body passed");
    }

    proptest! {
        #[test]
        fn small_frames_round_trip(
            position in 1u64.., number: u64, time: u64, kind in mark_kind(),
            label in "[^\\p{Cc}]{0,20}", copy: bool, first: u64, count in 1u32..=MAX_HASH_BLOCKS,
            disk: u16, order in write_order(), contents in prop::collection::vec(any::<[u8; 32]>(), 0..=MAX_DISKS),
        ) {
            let position = Position::new(position);
            let time = Timestamp::from_nanoseconds(time);
            let ack = Ack { position, credit_bytes: number };
            round_trip(&ack, &ack.encode(), Ack::parse);
            let contents = contents.into_iter().map(ContentId::new).collect();
            let mark = Mark { position, source_time: time, kind, label, contents, order };
            round_trip(&mark, &mark.encode(), Mark::parse);
            let marked = Marked { position, sequence: number, commit_time: time, kind };
            round_trip(&marked, &marked.encode(), Marked::parse);
            let how = if copy { PassKind::Copy } else { PassKind::Compare };
            let begin = PassBegin { pass: number, bytes_total: first, kind: how };
            round_trip(&begin, &begin.encode(), PassBegin::parse);
            let request = HashRequest { disk: DiskSlot::new(disk), first, count };
            round_trip(&request, &request.encode(), HashRequest::parse);
            let ping = Ping { token: number };
            round_trip(&ping, &ping.encode(), |body| Ping::parse(FrameKind::Ping, body));
            for bye in [Bye::Done, Bye::Stopping] {
                round_trip(&bye, &bye.encode(), Bye::parse);
            }
        }

        #[test]
        fn hashes_round_trip(blocks in prop::collection::vec(block(), 1..40), first: u64) {
            let count = u32::try_from(blocks.len()).expect("small");
            let request = HashRequest { disk: DiskSlot::new(1), first, count };
            let hashes = Hashes { request, blocks };
            round_trip(&hashes, &hashes.encode(), Hashes::parse);
        }

        #[test]
        fn no_bytes_make_a_parser_panic(body in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = (Ack::parse(&body), Mark::parse(&body), Marked::parse(&body));
            let _ = (PassBegin::parse(&body), HashRequest::parse(&body), Hashes::parse(&body));
            let _ = (Bye::parse(&body), Ping::parse(FrameKind::Ping, &body));
        }
    }

    #[test]
    fn labels_without_control_characters_only() {
        assert!(Mark::is_label("before the upgrade, ä"));
        assert!(!Mark::is_label("a\nb"));
        assert!(!Mark::is_label(&"x".repeat(MAX_LABEL + 1)));
    }

    #[test]
    fn a_request_for_no_or_too_many_blocks_is_refused() {
        for count in [0, MAX_HASH_BLOCKS + 1] {
            let request = HashRequest { disk: DiskSlot::new(0), first: 0, count };
            let refused = HashRequest::parse(&request.encode()[HEADER_BYTES..]);
            assert!(matches!(refused, Err(FrameError::Value { field: "block count", .. })));
        }
    }
}
