//! The `Batch` frame: a table of extents of one disk, then their stored content.
//!
//! ```text
//!   ┌ head 32 ┐┌ extent 0: 56 ┐┌ extent 1: 56 ┐ … ┌ content 0 ┐┌ content 1 ┐ …
//! ```
//!
//! Content follows in the order of the table without gaps; zero extents have none. Offset and length are whole 4 KiB
//! blocks, except that the last extent may end where the disk ends. Extents ascend and do not overlap.
//!
//! Only the table is understood here; content stays as it came until [`pack`](crate::delta::pack) has checked its hash.

use super::{
    FrameError, FrameKind, HASH_BYTES, HEADER_BYTES, Header, MAX_BATCH_BYTES, MAX_EXTENTS, take,
    zero,
};
use crate::delta::identity::{DiskSlot, Position, Timestamp};
use landfall_disks::{BLOCK_SIZE, ByteOffset, ByteRange, MAX_DISK_SIZE};
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// What an extent holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ExtentKind {
    /// Content that follows in the frame.
    Data {
        /// How it is stored.
        codec: Codec,
        /// Bytes it takes in the frame.
        stored_bytes: u32,
        /// BLAKE3 of the plain content.
        hash: [u8; HASH_BYTES],
    },
    /// Zeroes.
    Zero,
}

/// How content is stored in a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Codec {
    /// As it is.
    None,
    /// LZ4 block format, smaller than the plain content.
    Lz4,
}

/// One extent of a batch, as its table tells it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ExtentEntry {
    /// Where on the disk.
    pub range: ByteRange,
    /// What.
    pub kind: ExtentKind,
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawHead {
    position: U64,
    source_time: U64,
    disk: U16,
    extent_count: U16,
    /// Bit 0 is kept for "consistent after this batch", for sources that deliver writes in order.
    flags: U32,
    content_bytes: U32,
    reserved: U32,
}

pub(super) const HEAD_BYTES: usize = 32;
pub(super) const ENTRY_BYTES: usize = 56;

// 8 position + 8 time + 2 disk + 2 count + 4 flags + 4 content + 4 reserved
const _: () = assert!(size_of::<RawHead>() == HEAD_BYTES);

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawEntry {
    offset: U64,
    length: U64,
    stored_bytes: U32,
    kind: u8,
    codec: u8,
    reserved: U16,
    hash: [u8; HASH_BYTES],
}

// 8 + 8 range, 4 stored, 1 + 1 + 2, 32 hash
const _: () = assert!(size_of::<RawEntry>() == ENTRY_BYTES);

impl RawEntry {
    const DATA: u8 = 1;
    const ZERO: u8 = 2;

    fn of(entry: &ExtentEntry) -> Self {
        let (kind, codec, stored_bytes, hash) = match entry.kind {
            ExtentKind::Zero => (Self::ZERO, 0, 0, [0; HASH_BYTES]),
            ExtentKind::Data { codec, stored_bytes, hash } => {
                (Self::DATA, u8::from(codec == Codec::Lz4), stored_bytes, hash)
            }
        };
        Self {
            offset: entry.range.start().bytes().into(),
            length: entry.range.length().into(),
            stored_bytes: stored_bytes.into(),
            kind,
            codec,
            reserved: 0.into(),
            hash,
        }
    }

    fn meaning(&self, index: usize) -> Result<ExtentEntry, FrameError> {
        let broken = |what| FrameError::Extent { index, what };
        let range = ByteRange::at(ByteOffset::new(self.offset.get()), self.length.get())
            .filter(|range| range.end().bytes() <= MAX_DISK_SIZE)
            .ok_or(broken("reaches past the largest disk"))?;
        if range.is_empty() {
            return Err(broken("is empty"));
        }
        if !range.start().bytes().is_multiple_of(BLOCK_SIZE) {
            return Err(broken("does not start at a whole block"));
        }
        if self.reserved.get() != 0 {
            return Err(broken("has reserved bits set"));
        }
        let stored = u64::from(self.stored_bytes.get());
        let kind = match (self.kind, self.codec) {
            (Self::ZERO, 0) if stored == 0 && self.hash == [0; HASH_BYTES] => ExtentKind::Zero,
            (Self::ZERO, _) => return Err(broken("is zero and has content")),
            (Self::DATA, 0) if stored == range.length() => self.data(Codec::None),
            (Self::DATA, 1) if stored > 0 && stored < range.length() => self.data(Codec::Lz4),
            (Self::DATA, 0 | 1) => return Err(broken("has a stored length its codec rules out")),
            (Self::DATA, _) => return Err(broken("has an unknown codec")),
            _ => return Err(broken("is of an unknown kind")),
        };
        Ok(ExtentEntry { range, kind })
    }

    fn data(&self, codec: Codec) -> ExtentKind {
        ExtentKind::Data { codec, stored_bytes: self.stored_bytes.get(), hash: self.hash }
    }
}

/// A batch as it arrived: the table is checked, the content is not.
#[derive(Clone, PartialEq, Eq)]
pub struct BatchFrame {
    /// Its place in the stream.
    pub position: Position,
    /// When the source read it, by the source's clock.
    pub source_time: Timestamp,
    /// The disk it belongs to.
    pub disk: DiskSlot,
    /// Its extents.
    pub extents: Vec<ExtentEntry>,
    /// Bytes of plain content in all data extents; at most [`MAX_BATCH_BYTES`].
    pub plain_bytes: usize,
    body: Vec<u8>,
    content_start: usize,
}

impl std::fmt::Debug for BatchFrame {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BatchFrame")
            .field("position", &self.position)
            .field("disk", &self.disk)
            .field("extents", &self.extents)
            .finish_non_exhaustive()
    }
}

impl BatchFrame {
    /// The meaning of a body, which it keeps for the content.
    pub fn parse(body: Vec<u8>) -> Result<Self, FrameError> {
        let kind = FrameKind::Batch;
        let (head, mut rest) = take::<RawHead>(kind, &body)?;
        zero(kind, "head", head.reserved.as_bytes())?;
        zero(kind, "flags", head.flags.as_bytes())?;
        let count = usize::from(head.extent_count.get());
        if count == 0 || count > MAX_EXTENTS {
            return Err(FrameError::Value { kind, field: "extent count", value: count as u64 });
        }
        if rest.len() < count * ENTRY_BYTES {
            let (length, needed) = (rest.len(), count * ENTRY_BYTES);
            return Err(FrameError::Short { kind, length, needed });
        }
        let mut extents: Vec<ExtentEntry> = Vec::with_capacity(count);
        for index in 0..count {
            let (raw, later) = take::<RawEntry>(kind, rest)?;
            rest = later;
            let entry = raw.meaning(index)?;
            if extents.last().is_some_and(|last| last.range.end() > entry.range.start()) {
                let what = "does not lie behind the one before it";
                return Err(FrameError::Extent { index, what });
            }
            extents.push(entry);
        }
        let (plain, stored) = content_bytes(&extents);
        if plain > MAX_BATCH_BYTES as u64 {
            return Err(FrameError::Value { kind, field: "bytes of content", value: plain });
        }
        if stored != u64::from(head.content_bytes.get()) || stored != rest.len() as u64 {
            return Err(FrameError::Value { kind, field: "stored bytes", value: stored });
        }
        Ok(Self {
            position: Position::new(head.position.get()),
            source_time: Timestamp::from_nanoseconds(head.source_time.get()),
            disk: DiskSlot::new(head.disk.get()),
            plain_bytes: usize::try_from(plain).expect("checked against MAX_BATCH_BYTES"),
            content_start: body.len() - rest.len(),
            extents,
            body,
        })
    }

    /// Each extent with its stored content, which is empty for zeroes.
    pub fn contents(&self) -> impl Iterator<Item = (&ExtentEntry, &[u8])> {
        let mut rest = &self.body[self.content_start..];
        self.extents.iter().map(move |entry| {
            let length = match entry.kind {
                ExtentKind::Zero => 0,
                ExtentKind::Data { stored_bytes, .. } => stored_bytes as usize,
            };
            let (content, later) = rest.split_at(length);
            rest = later;
            (entry, content)
        })
    }

    /// Bytes the frame took on the wire, header included: what it costs in credit.
    pub fn cost_bytes(&self) -> u64 {
        (HEADER_BYTES + self.body.len()) as u64
    }
}

/// Plain and stored bytes of all data extents.
fn content_bytes(extents: &[ExtentEntry]) -> (u64, u64) {
    extents.iter().fold((0, 0), |(plain, stored), entry| match entry.kind {
        ExtentKind::Zero => (plain, stored),
        ExtentKind::Data { stored_bytes, .. } => {
            (plain + entry.range.length(), stored + u64::from(stored_bytes))
        }
    })
}

/// The frame of a batch whose position is set later, with [`set_position`]: content is packed before its place in the
/// stream is known.
pub fn encode_batch(
    source_time: Timestamp,
    disk: DiskSlot,
    extents: &[ExtentEntry],
    content: &[u8],
) -> Vec<u8> {
    let mut frame = begin_batch(extents.len(), content.len());
    frame.extend_from_slice(content);
    finish_batch(&mut frame, source_time, disk, extents);
    frame
}

/// The beginning of a frame with room for the table of `extents` extents and for `content_bytes` of content. Append the
/// content, then [`finish_batch`].
pub fn begin_batch(extents: usize, content_bytes: usize) -> Vec<u8> {
    assert!((1..=MAX_EXTENTS).contains(&extents), "1 to 1024 extents");
    let table_end = HEADER_BYTES + HEAD_BYTES + extents * ENTRY_BYTES;
    let mut frame = Vec::with_capacity(table_end + content_bytes);
    frame.resize(table_end, 0);
    frame
}

/// Fills in header, head and table of a frame from [`begin_batch`] that has its content.
pub fn finish_batch(
    frame: &mut [u8],
    source_time: Timestamp,
    disk: DiskSlot,
    extents: &[ExtentEntry],
) {
    let (plain, stored) = content_bytes(extents);
    assert!(plain <= MAX_BATCH_BYTES as u64, "{plain} bytes of content in one batch");
    let (header, body) = frame.split_at_mut(HEADER_BYTES);
    header.copy_from_slice(&Header::encode(FrameKind::Batch, body.len()));
    let (head, body) = body.split_at_mut(HEAD_BYTES);
    let (table, content) = body.split_at_mut(extents.len() * ENTRY_BYTES);
    assert_eq!(stored, content.len() as u64, "table and content disagree");
    let raw = RawHead {
        position: 0.into(),
        source_time: source_time.nanoseconds().into(),
        disk: disk.number().into(),
        extent_count: u16::try_from(extents.len()).expect("at most 1024").into(),
        flags: 0.into(),
        content_bytes: u32::try_from(content.len()).expect("at most 4 MiB").into(),
        reserved: 0.into(),
    };
    head.copy_from_slice(raw.as_bytes());
    for (place, entry) in table.chunks_exact_mut(ENTRY_BYTES).zip(extents) {
        place.copy_from_slice(RawEntry::of(entry).as_bytes());
    }
}

/// Writes `position` into a frame made by [`encode_batch`] or [`finish_batch`].
pub fn set_position(frame: &mut [u8], position: Position) {
    let at = HEADER_BYTES + std::mem::offset_of!(RawHead, position);
    frame[at..at + 8].copy_from_slice(U64::new(position.number()).as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn entry(start: u64, length: u64, kind: ExtentKind) -> ExtentEntry {
        ExtentEntry { range: ByteRange::at(ByteOffset::new(start), length).expect("small"), kind }
    }

    fn data(stored_bytes: u32, codec: Codec) -> ExtentKind {
        ExtentKind::Data { codec, stored_bytes, hash: [7; HASH_BYTES] }
    }

    /// Extents one after another with gaps, and content of the right length.
    fn batch() -> impl Strategy<Value = (Vec<ExtentEntry>, Vec<u8>)> {
        prop::collection::vec((0u64..4, 1u64..5, 0u8..3, any::<[u8; HASH_BYTES]>()), 1..20)
            .prop_map(|parts| {
                let mut at = 0;
                let mut content = Vec::new();
                let mut extents = Vec::new();
                for (gap, blocks, kind, hash) in parts {
                    at += gap * BLOCK_SIZE;
                    let length = blocks * BLOCK_SIZE;
                    let plain = u32::try_from(length).expect("small");
                    let kind = match kind {
                        0 => ExtentKind::Zero,
                        1 => ExtentKind::Data { codec: Codec::None, stored_bytes: plain, hash },
                        _ => ExtentKind::Data { codec: Codec::Lz4, stored_bytes: plain / 3, hash },
                    };
                    if let ExtentKind::Data { stored_bytes, .. } = kind {
                        content.resize(content.len() + stored_bytes as usize, hash[0]);
                    }
                    extents.push(entry(at, length, kind));
                    at += length;
                }
                (extents, content)
            })
    }

    proptest! {
        #[test]
        fn batches_round_trip((extents, content) in batch(), time: u64, disk: u16, position: u64) {
            let time = Timestamp::from_nanoseconds(time);
            let mut bytes = encode_batch(time, DiskSlot::new(disk), &extents, &content);
            set_position(&mut bytes, Position::new(position));
            let seen = BatchFrame::parse(bytes[HEADER_BYTES..].to_vec()).expect("well formed");
            prop_assert_eq!(seen.cost_bytes(), bytes.len() as u64);
            prop_assert_eq!(seen.position, Position::new(position));
            prop_assert_eq!((seen.source_time, seen.disk), (time, DiskSlot::new(disk)));
            prop_assert_eq!(&seen.extents, &extents);
            let joined: Vec<u8> = seen.contents().flat_map(|(_, bytes)| bytes.to_vec()).collect();
            prop_assert_eq!(joined, content);
            prop_assert!(BatchFrame::parse(bytes[HEADER_BYTES..bytes.len() - 1].to_vec()).is_err()
                || bytes.len() == HEADER_BYTES);
        }

        #[test]
        fn a_changed_table_is_refused_or_means_itself(
            (extents, content) in batch(), at: prop::sample::Index, byte: u8,
        ) {
            let time = Timestamp::default();
            let mut body = encode_batch(time, DiskSlot::new(0), &extents, &content)
                .split_off(HEADER_BYTES);
            let at = at.index(HEAD_BYTES + extents.len() * ENTRY_BYTES);
            body[at] = byte;
            if let Ok(seen) = BatchFrame::parse(body.clone()) {
                let mut again = encode_batch(seen.source_time, seen.disk, &seen.extents, &content);
                set_position(&mut again, seen.position);
                prop_assert_eq!(&again[HEADER_BYTES..], &body[..]);
            }
        }

        #[test]
        fn no_bytes_make_the_parser_panic(body in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = BatchFrame::parse(body);
        }
    }

    /// Parses a frame built around rules that `encode_batch` would refuse to break.
    fn reason(extents: &[ExtentEntry], content: usize) -> FrameError {
        let mut body = Vec::new();
        let head = RawHead {
            position: 1.into(),
            source_time: 0.into(),
            disk: 0.into(),
            extent_count: u16::try_from(extents.len()).expect("small").into(),
            flags: 0.into(),
            content_bytes: u32::try_from(content).expect("small").into(),
            reserved: 0.into(),
        };
        body.extend_from_slice(head.as_bytes());
        extents.iter().for_each(|entry| body.extend_from_slice(RawEntry::of(entry).as_bytes()));
        body.resize(body.len() + content, 0);
        BatchFrame::parse(body).expect_err("refused")
    }

    #[test]
    fn every_rule_of_the_table_is_checked() {
        let zero = ExtentKind::Zero;
        let what = |extents: &[ExtentEntry], content| match reason(extents, content) {
            FrameError::Extent { what, .. } => what,
            other => panic!("{other}"),
        };
        assert_eq!(what(&[entry(0, 0, zero)], 0), "is empty");
        assert_eq!(what(&[entry(512, 4096, zero)], 0), "does not start at a whole block");
        let overlapping = [entry(0, 8192, zero), entry(4096, 4096, zero)];
        assert_eq!(what(&overlapping, 0), "does not lie behind the one before it");
        assert_eq!(what(&[entry(MAX_DISK_SIZE, 4096, zero)], 0), "reaches past the largest disk");
        let stored = "has a stored length its codec rules out";
        assert_eq!(what(&[entry(0, 4096, data(4095, Codec::None))], 4095), stored);
        assert_eq!(what(&[entry(0, 4096, data(4096, Codec::Lz4))], 4096), stored);
        assert_eq!(what(&[entry(0, 4096, data(0, Codec::Lz4))], 0), stored);
    }

    #[test]
    fn counts_and_sums_are_limited() {
        assert!(matches!(reason(&[], 0), FrameError::Value { field: "extent count", .. }));
        let bomb = entry(0, MAX_BATCH_BYTES as u64 + BLOCK_SIZE, data(16, Codec::Lz4));
        assert!(matches!(reason(&[bomb], 16), FrameError::Value { field: "bytes of content", .. }));
        let short = entry(0, 4096, data(4096, Codec::None));
        assert!(matches!(reason(&[short], 4000), FrameError::Value { field: "stored bytes", .. }));
    }
}
