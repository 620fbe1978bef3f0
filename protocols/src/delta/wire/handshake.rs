//! `Hello`, `Welcome`, `Refused`: agreeing on a version, on where to go on, or on nothing.
//!
//! Their layout never changes, so that any two versions can at least tell each other why they part.

use super::control::{Marked, RawMarked, encode_contents, take_content};
use super::{FrameError, FrameKind, MAX_DISKS, MAX_MESSAGE, RawFrame, finished, frame, take, zero};
use crate::delta::identity::{ContentId, Generation, MAX_NAME, Name, Position, StreamId};
use crate::delta::refusal::{RefusalCode, Retry};
use landfall_disks::MAX_DISK_SIZE;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// A name as it stands on the wire: its length and 63 bytes, zero after the end.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy)]
#[repr(C)]
struct RawName {
    length: u8,
    text: [u8; MAX_NAME],
}

impl RawName {
    fn of(name: &Name) -> Self {
        let bytes = name.as_str().as_bytes();
        let mut text = [0; MAX_NAME];
        text[..bytes.len()].copy_from_slice(bytes);
        Self { length: u8::try_from(bytes.len()).expect("a name has at most 63 bytes"), text }
    }

    fn meaning(&self, field: &'static str) -> Result<Name, FrameError> {
        let kind = FrameKind::Hello;
        let length = usize::from(self.length);
        let text = self.text.get(..length).ok_or(FrameError::Text { kind, field })?;
        zero(kind, field, &self.text[length..])?;
        let text = std::str::from_utf8(text).map_err(|_| FrameError::Text { kind, field })?;
        Name::new(text).map_err(|_| FrameError::Text { kind, field })
    }
}

/// What both ends can do beyond the least of their version.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Features {
    /// Content of extents may be compressed with LZ4 (block format).
    pub lz4: bool,
    /// The target remembers what the source calls the content of a disk at a mark.
    pub contents: bool,
    /// A mark may begin order: every batch after it is a moment.
    pub order: bool,
    /// A mark that begins order may say that the source is synchronous.
    pub synchronous: bool,
}

impl Features {
    /// All there are.
    pub const ALL: Self = Self { lz4: true, contents: true, order: true, synchronous: true };
    /// None.
    pub const NONE: Self = Self { lz4: false, contents: false, order: false, synchronous: false };
    const LZ4: u32 = 1;
    const CONTENTS: u32 = 2;
    const ORDER: u32 = 4;
    const SYNCHRONOUS: u32 = 8;

    /// What both have.
    pub fn common(self, other: Self) -> Self {
        Self {
            lz4: self.lz4 && other.lz4,
            contents: self.contents && other.contents,
            order: self.order && other.order,
            synchronous: self.synchronous && other.synchronous,
        }
    }

    fn bits(self) -> u32 {
        let bit = |has: bool, bit: u32| if has { bit } else { 0 };
        bit(self.lz4, Self::LZ4)
            | bit(self.contents, Self::CONTENTS)
            | bit(self.order, Self::ORDER)
            | bit(self.synchronous, Self::SYNCHRONOUS)
    }

    /// Unknown bits are left out: the source offers, the target picks what it knows.
    fn from_offer(bits: u32) -> Self {
        Self {
            lz4: bits & Self::LZ4 != 0,
            contents: bits & Self::CONTENTS != 0,
            order: bits & Self::ORDER != 0,
            synchronous: bits & Self::SYNCHRONOUS != 0,
        }
    }
}

/// How a stream gets its consistent moments.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StreamMode {
    /// Passes: blocks in any order, consistent when a mark completes the pass.
    Passes,
}

impl StreamMode {
    fn number(self) -> u8 {
        match self {
            Self::Passes => 1,
        }
    }

    fn from_number(number: u8) -> Result<Self, FrameError> {
        match number {
            1 => Ok(Self::Passes),
            // 2 is kept for sources that deliver every write in order.
            value => Err(FrameError::Value {
                kind: FrameKind::Hello,
                field: "mode",
                value: value.into(),
            }),
        }
    }
}

/// A disk as its source announces it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DiskEntry {
    /// Name of the disk within its machine.
    pub name: Name,
    /// Size in bytes.
    pub size_bytes: u64,
}

/// First frame of a source.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Hello {
    /// Oldest version the source speaks.
    pub min_version: u16,
    /// Newest version the source speaks.
    pub max_version: u16,
    /// What it can do.
    pub features: Features,
    /// How it gets consistent moments.
    pub mode: StreamMode,
    /// Which stream it is.
    pub stream: StreamId,
    /// Generation of the positions it holds; none when it holds no position.
    pub generation: Option<Generation>,
    /// The machine whose disks it sends.
    pub machine: Name,
    /// The disks; their order gives the slots of later frames.
    pub disks: Vec<DiskEntry>,
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy)]
#[repr(C)]
struct RawHello {
    min_version: U16,
    max_version: U16,
    features: U32,
    stream: [u8; 16],
    generation: U64,
    machine: RawName,
    disk_count: U16,
    mode: u8,
    reserved: [u8; 13],
}

// 2 + 2 + 4 versions and features, 16 stream, 8 generation, 64 machine, 2 + 1 + 13
const _: () = assert!(size_of::<RawHello>() == 112);

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy)]
#[repr(C)]
struct RawDiskEntry {
    size_bytes: U64,
    name: RawName,
}

// 8 size + 64 name
const _: () = assert!(size_of::<RawDiskEntry>() == 72);

impl Hello {
    /// The frame.
    pub fn encode(&self) -> Vec<u8> {
        assert!(!self.disks.is_empty() && self.disks.len() <= MAX_DISKS, "1 to 64 disks");
        let head = RawHello {
            min_version: self.min_version.into(),
            max_version: self.max_version.into(),
            features: self.features.bits().into(),
            stream: self.stream.bytes(),
            generation: self.generation.map_or(0, Generation::number).into(),
            machine: RawName::of(&self.machine),
            disk_count: u16::try_from(self.disks.len()).expect("at most 64").into(),
            mode: self.mode.number(),
            reserved: [0; 13],
        };
        let disks: Vec<RawDiskEntry> = self
            .disks
            .iter()
            .map(|disk| RawDiskEntry {
                size_bytes: disk.size_bytes.into(),
                name: RawName::of(&disk.name),
            })
            .collect();
        frame(FrameKind::Hello, &[head.as_bytes(), disks.as_bytes()])
    }

    /// The meaning of a body.
    pub fn parse(body: &[u8]) -> Result<Self, FrameError> {
        let kind = FrameKind::Hello;
        let (raw, mut rest) = take::<RawHello>(kind, body)?;
        zero(kind, "end", &raw.reserved)?;
        let count = usize::from(raw.disk_count.get());
        let value = |field, value| Err(FrameError::Value { kind, field, value });
        if count == 0 || count > MAX_DISKS {
            return value("disk count", count as u64);
        }
        if raw.min_version.get() > raw.max_version.get() {
            return value("oldest version", raw.min_version.get().into());
        }
        let mut disks = Vec::with_capacity(count);
        for _ in 0..count {
            let (entry, later) = take::<RawDiskEntry>(kind, rest)?;
            rest = later;
            let size_bytes = entry.size_bytes.get();
            if size_bytes == 0 || size_bytes > MAX_DISK_SIZE {
                return value("disk size", size_bytes);
            }
            let name = entry.name.meaning("disk name")?;
            if disks.iter().any(|earlier: &DiskEntry| earlier.name == name) {
                return Err(FrameError::Text { kind, field: "disk name (twice)" });
            }
            disks.push(DiskEntry { name, size_bytes });
        }
        finished(kind, rest)?;
        Ok(Self {
            min_version: raw.min_version.get(),
            max_version: raw.max_version.get(),
            features: Features::from_offer(raw.features.get()),
            mode: StreamMode::from_number(raw.mode)?,
            stream: StreamId::from_bytes(raw.stream),
            generation: Generation::new(raw.generation.get()),
            machine: raw.machine.meaning("machine name")?,
            disks,
        })
    }
}

/// What the target holds of a disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DiskState {
    /// Nothing was ever written: every byte reads as zero, the first copy needs no comparison.
    Empty,
    /// A first copy began and did not end.
    Seeding,
    /// A later pass began and did not end.
    Resync,
    /// The last pass was completed by a mark.
    InSync,
    /// The image was lost or cannot be vouched for; a pass is needed to have consistent points again.
    NeedsResync,
}

impl DiskState {
    const ALL: [Self; 5] =
        [Self::Empty, Self::Seeding, Self::Resync, Self::InSync, Self::NeedsResync];

    fn number(self) -> u8 {
        let index = Self::ALL.iter().position(|state| *state == self).expect("ALL is complete");
        u8::try_from(index + 1).expect("five states")
    }

    fn from_number(number: u8) -> Option<Self> {
        usize::from(number).checked_sub(1).and_then(|index| Self::ALL.get(index)).copied()
    }
}

/// A disk as the target answers it, in the order of the `Hello`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WelcomeDisk {
    /// Its size, which is the one announced.
    pub size_bytes: u64,
    /// What the target holds.
    pub state: DiskState,
    /// What the source called it at the last mark, if it is just that.
    pub content: Option<ContentId>,
}

/// The target's consent.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Welcome {
    /// The version both speak from now on.
    pub version: u16,
    /// What both can do.
    pub features: Features,
    /// Generation of all positions from now on.
    pub generation: Generation,
    /// Everything up to here is durable; the next is one more.
    pub position: Position,
    /// Bytes of `Batch` frames the source may send before the first `Ack`.
    pub credit_bytes: u64,
    /// Most bytes of content in a batch.
    pub max_batch_bytes: u32,
    /// A source that hears nothing for so long gives the connection up, and so does the target.
    pub idle_ms: u32,
    /// The last mark of this stream that became a point, in case its answer was lost.
    pub last_mark: Option<Marked>,
    /// The disks, in the order of the `Hello`.
    pub disks: Vec<WelcomeDisk>,
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy)]
#[repr(C)]
struct RawWelcome {
    version: U16,
    disk_count: U16,
    features: U32,
    generation: U64,
    position: U64,
    credit_bytes: U64,
    max_batch_bytes: U32,
    idle_ms: U32,
    /// All zero when there is none: a mark has a position above zero.
    last_mark: RawMarked,
    reserved: [u8; 8],
}

// 2 + 2 + 4, 8 generation, 8 position, 8 credit, 4 + 4, 32 mark, 8 reserved
const _: () = assert!(size_of::<RawWelcome>() == 80);

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy)]
#[repr(C)]
struct RawWelcomeDisk {
    size_bytes: U64,
    state: u8,
    reserved: [u8; 7],
}

const _: () = assert!(size_of::<RawWelcomeDisk>() == 16);

impl Welcome {
    /// The frame.
    pub fn encode(&self) -> Vec<u8> {
        assert!(self.disks.len() <= MAX_DISKS, "as many disks as the source named");
        let head = RawWelcome {
            version: self.version.into(),
            disk_count: u16::try_from(self.disks.len()).expect("at most 64").into(),
            features: self.features.bits().into(),
            generation: self.generation.number().into(),
            position: self.position.number().into(),
            credit_bytes: self.credit_bytes.into(),
            max_batch_bytes: self.max_batch_bytes.into(),
            idle_ms: self.idle_ms.into(),
            last_mark: self.last_mark.as_ref().map_or(RawMarked::NONE, RawMarked::of),
            reserved: [0; 8],
        };
        let disks: Vec<RawWelcomeDisk> = self
            .disks
            .iter()
            .map(|disk| RawWelcomeDisk {
                size_bytes: disk.size_bytes.into(),
                state: disk.state.number(),
                reserved: [0; 7],
            })
            .collect();
        let contents = self.disks.iter().map(|disk| disk.content);
        let contents = self.features.contents.then(|| encode_contents(contents));
        let contents = contents.unwrap_or_default();
        frame(FrameKind::Welcome, &[head.as_bytes(), disks.as_bytes(), &contents])
    }

    /// The meaning of a body.
    pub fn parse(body: &[u8]) -> Result<Self, FrameError> {
        let kind = FrameKind::Welcome;
        let (raw, mut rest) = take::<RawWelcome>(kind, body)?;
        zero(kind, "end", &raw.reserved)?;
        let value = |field, value| FrameError::Value { kind, field, value };
        let count = usize::from(raw.disk_count.get());
        if count > MAX_DISKS {
            return Err(value("disk count", count as u64));
        }
        let features = Features::from_offer(raw.features.get());
        if features.bits() != raw.features.get() {
            return Err(value("features", raw.features.get().into()));
        }
        let mut disks = Vec::with_capacity(count);
        for _ in 0..count {
            let (entry, later) = take::<RawWelcomeDisk>(kind, rest)?;
            rest = later;
            zero(kind, "disk", &entry.reserved)?;
            let state = DiskState::from_number(entry.state)
                .ok_or(value("disk state", entry.state.into()))?;
            let size_bytes = entry.size_bytes.get();
            disks.push(WelcomeDisk { size_bytes, state, content: None });
        }
        if features.contents {
            for disk in &mut disks {
                let (content, later) = take_content(kind, rest)?;
                (disk.content, rest) = (content, later);
            }
        }
        finished(kind, rest)?;
        Ok(Self {
            version: raw.version.get(),
            features,
            generation: Generation::new(raw.generation.get()).ok_or(value("generation", 0))?,
            position: Position::new(raw.position.get()),
            credit_bytes: raw.credit_bytes.get(),
            max_batch_bytes: raw.max_batch_bytes.get(),
            idle_ms: raw.idle_ms.get(),
            last_mark: raw.last_mark.meaning(kind)?,
            disks,
        })
    }
}

/// The target's no. The last frame it sends.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Refused {
    /// Which rule.
    pub code: RefusalCode,
    /// What the source should do, for codes it does not know.
    pub retry: Retry,
    /// For people: what was wrong, and what exists.
    pub message: String,
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy)]
#[repr(C)]
struct RawRefused {
    code: U16,
    retry: u8,
    reserved: u8,
    message_length: U32,
}

const _: () = assert!(size_of::<RawRefused>() == 8);

impl Refused {
    /// The frame. A message past [`MAX_MESSAGE`] is cut.
    pub fn encode(&self) -> Vec<u8> {
        let mut end = self.message.len().min(MAX_MESSAGE);
        while !self.message.is_char_boundary(end) {
            end -= 1;
        }
        let head = RawRefused {
            code: self.code.number().into(),
            retry: self.retry.number(),
            reserved: 0,
            message_length: u32::try_from(end).expect("cut above").into(),
        };
        frame(FrameKind::Refused, &[head.as_bytes(), &self.message.as_bytes()[..end]])
    }

    /// The meaning of a body.
    pub fn parse(body: &[u8]) -> Result<Self, FrameError> {
        let kind = FrameKind::Refused;
        let (raw, rest) = take::<RawRefused>(kind, body)?;
        zero(kind, "end", &[raw.reserved])?;
        let value = |field, value| FrameError::Value { kind, field, value };
        let length = raw.message_length.get() as usize;
        if length > MAX_MESSAGE {
            return Err(value("message length", length as u64));
        }
        let text = rest.get(..length).ok_or(FrameError::Short {
            kind,
            length: rest.len(),
            needed: length,
        })?;
        finished(kind, &rest[length..])?;
        let message = std::str::from_utf8(text)
            .map_err(|_| FrameError::Text { kind, field: "message" })?
            .to_owned();
        let retry = Retry::from_number(raw.retry).ok_or(value("retry", raw.retry.into()))?;
        Ok(Self { code: RefusalCode::from_number(raw.code.get()), retry, message })
    }
}

impl TryFrom<&RawFrame> for Refused {
    type Error = FrameError;

    fn try_from(frame: &RawFrame) -> Result<Self, FrameError> {
        Self::parse(&frame.body)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{HEADER_BYTES, MarkKind};
    use super::*;
    use crate::delta::identity::Timestamp;
    use proptest::prelude::*;

    fn name() -> impl Strategy<Value = Name> {
        "[a-z0-9][a-z0-9.-]{0,62}".prop_map(|text| Name::new(&text).expect("matches"))
    }

    prop_compose! {
        fn hello()(
            stream: [u8; 16],
            generation: u64,
            machine in name(),
            disks in prop::collection::btree_map("[a-z0-9][a-z0-9.-]{0,62}", 1..=MAX_DISK_SIZE, 1..64),
            lz4: bool,
            contents: bool,
            order: bool,
            synchronous: bool,
            max_version in 1u16..,
        ) -> Hello {
            Hello {
                min_version: 1,
                max_version,
                features: Features { lz4, contents, order, synchronous },
                mode: StreamMode::Passes,
                stream: StreamId::from_bytes(stream),
                generation: Generation::new(generation),
                machine,
                disks: disks.into_iter().map(|(name, size_bytes)| DiskEntry {
                    name: Name::new(&name).expect("matches"), size_bytes,
                }).collect(),
            }
        }
    }

    fn marked() -> impl Strategy<Value = Marked> {
        (1u64.., any::<u64>(), any::<u64>(), 0usize..3).prop_map(
            |(position, sequence, time, kind)| Marked {
                position: Position::new(position),
                sequence,
                commit_time: Timestamp::from_nanoseconds(time),
                kind: [MarkKind::Crash, MarkKind::App, MarkKind::Fuzzy][kind],
            },
        )
    }

    prop_compose! {
        fn welcome()(
            generation in 1u64..,
            position: u64,
            credit_bytes: u64,
            max_batch_bytes: u32,
            idle_ms: u32,
            last_mark in prop::option::of(marked()),
            disks in prop::collection::vec((any::<u64>(), 0usize..5, any::<[u8; 32]>()), 0..64),
            lz4: bool,
            contents: bool,
            order: bool,
            synchronous: bool,
        ) -> Welcome {
            Welcome {
                version: 1,
                features: Features { lz4, contents, order, synchronous },
                generation: Generation::new(generation).expect("above zero"),
                position: Position::new(position),
                credit_bytes,
                max_batch_bytes,
                idle_ms,
                last_mark,
                disks: disks.into_iter().map(|(size_bytes, state, content)| WelcomeDisk {
                    size_bytes,
                    state: DiskState::ALL[state],
                    content: ContentId::new(content).filter(|_| contents && content[0] > 64),
                }).collect(),
            }
        }
    }

    proptest! {
        #[test]
        fn hello_round_trips(hello in hello()) {
            prop_assert_eq!(Hello::parse(&hello.encode()[HEADER_BYTES..]), Ok(hello));
        }

        #[test]
        fn welcome_round_trips(welcome in welcome()) {
            prop_assert_eq!(Welcome::parse(&welcome.encode()[HEADER_BYTES..]), Ok(welcome));
        }

        #[test]
        fn refused_round_trips(code: u16, retry in 0u8..3, message in ".{0,80}") {
            let retry = Retry::from_number(retry).expect("three of them");
            let refused = Refused { code: RefusalCode::from_number(code), retry, message };
            prop_assert_eq!(Refused::parse(&refused.encode()[HEADER_BYTES..]), Ok(refused));
        }

        #[test]
        fn a_changed_or_cut_body_is_refused_or_means_itself(
            hello in hello(), at: prop::sample::Index, byte: u8, cut: prop::sample::Index,
        ) {
            let mut body = hello.encode().split_off(HEADER_BYTES);
            let at = at.index(body.len());
            body[at] = byte;
            if let Ok(meaning) = Hello::parse(&body) {
                // Unknown features are dropped on purpose; everything else must survive.
                if !(4..8).contains(&at) {
                    prop_assert_eq!(&meaning.encode()[HEADER_BYTES..], &body[..]);
                }
            }
            prop_assert!(Hello::parse(&body[..cut.index(body.len())]).is_err());
        }

        #[test]
        fn no_bytes_make_a_parser_panic(body in prop::collection::vec(any::<u8>(), 0..400)) {
            let _ = Hello::parse(&body);
            let _ = Welcome::parse(&body);
            let _ = Refused::parse(&body);
        }
    }

    #[test]
    fn a_long_message_is_cut_between_characters() {
        let message = "ä".repeat(MAX_MESSAGE);
        let refused = Refused { code: RefusalCode::Failed, retry: Retry::Later, message };
        let seen = Refused::parse(&refused.encode()[HEADER_BYTES..]).expect("well formed");
        assert_eq!(seen.message.len(), MAX_MESSAGE);
    }
}
