//! Versions of blocks: key kind 1.
//!
//! ```text
//!   key    1 │ line 4 │ disk 4 │ class 1 │ block 5 │ sequence, inverted 8                       = 23 bytes
//!   value  kind 1 │ codec 1 │ reserved 2 │ segment 4 │ unit 4 │ CRC32C of each 4 KiB 4 … 64      = 16 … 76 bytes
//!   sealed … │ key 4 │ first segment 4 │ first unit 4 │ salt 8 │ CRC32C of each 4 │ tag of each 16 = 52 … 352 bytes
//! ```
//!
//! A change is stored in the largest size class that fits, so long writes and whole-disk zeroing cost few keys; a read
//! takes the highest sequence over all classes. The sequence is inverted so that, for one block, the newest version
//! comes first and "newest at or below P" is one seek.

use super::{Cursor, IndexBatch, IndexError, IndexStore, damaged};
use crate::ids::{DiskId, KeyId, LineId, SegmentId, Sequence};
use crate::sealing::{BlockSeal, SealOrigin, TAG_BYTES, Tag};
use landfall_disks::{BLOCK_SIZE, Block, ByteRange};

/// First byte of every key of this kind.
pub(super) const KIND: u8 = 1;
const KEY_BYTES: usize = 23;

/// How much one entry covers.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(u8)]
pub enum SizeClass {
    /// 4 KiB.
    Block = 0,
    /// 64 KiB.
    Sixteen = 1,
    /// 16 MiB, zeroes only.
    Large = 2,
    /// 1 GiB, zeroes only.
    Huge = 3,
}

impl SizeClass {
    /// All classes, smallest first.
    pub const ALL: [Self; 4] = [Self::Block, Self::Sixteen, Self::Large, Self::Huge];

    /// Bytes an entry covers.
    pub const fn bytes(self) -> u64 {
        match self {
            Self::Block => BLOCK_SIZE,
            Self::Sixteen => 64 << 10,
            Self::Large => 16 << 20,
            Self::Huge => 1 << 30,
        }
    }

    /// Blocks an entry covers.
    pub const fn blocks(self) -> u64 {
        self.bytes() / BLOCK_SIZE
    }
}

/// Where a version lies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place {
    /// All zero.
    Zero,
    /// In a segment, as it is.
    Journal {
        /// Which segment.
        segment: SegmentId,
        /// First 4 KiB unit of the segment.
        unit: u32,
    },
}

/// One version as the index has it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Version {
    /// First block it covers; the class says how many.
    pub block: Block,
    /// When in the line it was written.
    pub sequence: Sequence,
    /// Where it lies.
    pub place: Place,
    /// CRC32C of each of its blocks, as they are stored; empty for zeroes.
    pub checksums: Vec<u32>,
    /// How its blocks are sealed, if they are.
    pub seal: Option<VersionSeal>,
}

/// How the blocks of a version are sealed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VersionSeal {
    /// Where the first of them was first written to.
    pub origin: SealOrigin,
    /// A tag each.
    pub tags: Vec<Tag>,
}

impl VersionSeal {
    /// How one of its blocks is sealed, which `line` wrote at `sequence`.
    pub(crate) fn block(&self, within: usize, line: LineId, sequence: Sequence) -> BlockSeal {
        let skip = u32::try_from(within).expect("a body is at most 8 MiB");
        let (origin, tag) = (self.origin.skip(skip), self.tags[within]);
        BlockSeal { origin, line, sequence, tag }
    }
}

/// The key of a version; `sequence` newest first.
pub fn key(
    line: LineId,
    disk: DiskId,
    class: SizeClass,
    block: Block,
    sequence: Sequence,
) -> [u8; KEY_BYTES] {
    let mut key = [0; KEY_BYTES];
    key[0] = KIND;
    key[1..5].copy_from_slice(&line.number().to_be_bytes());
    key[5..9].copy_from_slice(&disk.number().to_be_bytes());
    key[9] = class as u8;
    let block = block.index().to_be_bytes();
    assert!(block[..3] == [0; 3], "a disk has fewer than 2^40 blocks");
    key[10..15].copy_from_slice(&block[3..]);
    key[15..].copy_from_slice(&(!sequence.number()).to_be_bytes());
    key
}

/// What a key says.
pub(crate) struct VersionKey<'a> {
    /// Line, disk, class and block: the versions of one place share it, the newest first.
    pub(crate) place: &'a [u8],
    /// The line.
    pub(crate) line: LineId,
    /// The disk.
    pub(crate) disk: DiskId,
    /// How much it covers.
    pub(crate) class: SizeClass,
    /// First block it covers.
    pub(crate) block: Block,
    /// When in the line it was written.
    pub(crate) sequence: Sequence,
}

/// First key of this kind, and the key after the last.
pub(crate) const KIND_RANGE: ([u8; 1], [u8; 1]) = ([KIND], [KIND + 1]);

/// Reads an entry of this kind.
pub(crate) fn parse(key: &[u8], value: &[u8]) -> Option<(LineId, DiskId, SizeClass, Version)> {
    let class = parse_key(key)?.class;
    let number = |at: usize| key[at..at + 4].try_into().map(u32::from_be_bytes).ok();
    let (line, disk) = (LineId::new(number(1)?), DiskId::new(number(5)?));
    Some((line, disk, class, parse_entry(key, value, class)?))
}

/// One block of a version that lies in the journal.
pub(crate) struct BlockVersion {
    pub(crate) segment: SegmentId,
    pub(crate) unit: u32,
    /// CRC32C of what is stored.
    pub(crate) checksum: u32,
    pub(crate) seal: Option<BlockSeal>,
}

/// All versions of one block that lie in the journal; at most `limit` of each class.
pub(crate) fn versions_of(
    index: &dyn IndexStore,
    line: LineId,
    disk: DiskId,
    block: Block,
    limit: usize,
) -> Result<Vec<BlockVersion>, IndexError> {
    let mut found = Vec::new();
    let mut cursor = index.cursor();
    for class in [SizeClass::Block, SizeClass::Sixteen] {
        let first = Block::new(block.index() / class.blocks() * class.blocks());
        let within = slots(block.index() - first.index());
        let start = key(line, disk, class, first, Sequence::new(u64::MAX));
        cursor.seek(&start)?;
        for _ in 0..limit {
            let Some((at, value)) = cursor.entry().filter(|(at, _)| at.starts_with(&start[..15]))
            else {
                break;
            };
            let version = parse_entry(at, value, class).ok_or_else(|| damaged(at))?;
            if let Place::Journal { segment, unit } = version.place {
                let unit = unit + u32::try_from(within).expect("below 16");
                let seal = version.seal.map(|seal| seal.block(within, line, version.sequence));
                found.push(BlockVersion {
                    segment,
                    unit,
                    checksum: version.checksums[within],
                    seal,
                });
            }
            cursor.advance()?;
        }
    }
    Ok(found)
}

/// Reads a key.
pub(crate) fn parse_key(key: &[u8]) -> Option<VersionKey<'_>> {
    let whole: &[u8; KEY_BYTES] = key.try_into().ok()?;
    let class = SizeClass::ALL.into_iter().find(|class| *class as u8 == whole[9])?;
    if whole[0] != KIND {
        return None;
    }
    let mut block = [0; 8];
    block[3..].copy_from_slice(&whole[10..15]);
    let block = Block::new(u64::from_be_bytes(block));
    let sequence = Sequence::new(!u64::from_be_bytes(whole[15..].try_into().ok()?));
    let number = |at: usize| whole[at..at + 4].try_into().map(u32::from_be_bytes).ok();
    let (line, disk) = (LineId::new(number(1)?), DiskId::new(number(5)?));
    Some(VersionKey { place: &key[..15], line, disk, class, block, sequence })
}

/// First key of everything of a line, and the key after the last.
pub fn line_range(line: LineId) -> ([u8; 5], [u8; 5]) {
    let prefix = |number: u32| {
        let mut key = [KIND; 5];
        key[1..].copy_from_slice(&number.to_be_bytes());
        key
    };
    (prefix(line.number()), prefix(line.number().strict_add(1)))
}

/// First key of everything of a disk in a line, and the key after the last.
pub fn disk_range(line: LineId, disk: DiskId) -> ([u8; 9], [u8; 9]) {
    let prefix = |number: u32| {
        let mut key = [KIND; 9];
        key[1..5].copy_from_slice(&line.number().to_be_bytes());
        key[5..].copy_from_slice(&number.to_be_bytes());
        key
    };
    (prefix(disk.number()), prefix(disk.number().strict_add(1)))
}

fn encode_value(place: Place, checksums: &[u32]) -> Vec<u8> {
    let mut value = vec![0; 12];
    if let Place::Journal { segment, unit } = place {
        value[0] = 1;
        value[4..8].copy_from_slice(&segment.number().to_be_bytes());
        value[8..12].copy_from_slice(&unit.to_be_bytes());
    }
    for checksum in checksums {
        value.extend_from_slice(&checksum.to_be_bytes());
    }
    value
}

fn parse_entry(key: &[u8], value: &[u8], class: SizeClass) -> Option<Version> {
    let key: &[u8; KEY_BYTES] = key.try_into().ok()?;
    let mut block = [0; 8];
    block[3..].copy_from_slice(&key[10..15]);
    let sequence = !u64::from_be_bytes(key[15..].try_into().ok()?);
    let (head, mut rest) = value.split_at_checked(12)?;
    if head[1..4] != [0; 3] {
        return None;
    }
    let number = |at: usize| head[at..at + 4].try_into().map(u32::from_be_bytes).ok();
    let journal = || Some(Place::Journal { segment: SegmentId::new(number(4)?), unit: number(8)? });
    let mut seal = None;
    let place = match head[0] {
        0 if rest.is_empty() => Place::Zero,
        1 if rest.len() as u64 == class.blocks() * 4 => journal()?,
        2 => {
            let blocks = usize::try_from(class.blocks()).ok()?;
            let (origin, after) = rest.split_at_checked(SEAL_BYTES)?;
            let (sums, tags) = after.split_at_checked(blocks * 4)?;
            if tags.len() != blocks * TAG_BYTES {
                return None;
            }
            seal = Some(parse_seal(origin, tags)?);
            rest = sums;
            journal()?
        }
        _ => return None,
    };
    let checksums = rest
        .chunks_exact(4)
        .map(|bytes| u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
        .collect();
    Some(Version {
        block: Block::new(u64::from_be_bytes(block)),
        sequence: Sequence::new(sequence),
        place,
        checksums,
        seal,
    })
}

/// Bytes of the origin of a seal.
const SEAL_BYTES: usize = 20;

fn encode_sealed(place: Place, checksums: &[u32], origin: SealOrigin, tags: &[Tag]) -> Vec<u8> {
    let mut value = encode_value(place, &[]);
    value[0] = 2;
    value.extend_from_slice(&origin.key.number().to_be_bytes());
    value.extend_from_slice(&origin.segment.number().to_be_bytes());
    value.extend_from_slice(&origin.unit.to_be_bytes());
    value.extend_from_slice(&origin.salt.to_be_bytes());
    checksums.iter().for_each(|sum| value.extend_from_slice(&sum.to_be_bytes()));
    tags.iter().for_each(|tag| value.extend_from_slice(&tag.0));
    value
}

fn parse_seal(origin: &[u8], tags: &[u8]) -> Option<VersionSeal> {
    let number = |at: usize| origin[at..at + 4].try_into().map(u32::from_be_bytes).ok();
    let origin = SealOrigin {
        key: KeyId::new(number(0)?),
        segment: SegmentId::new(number(4)?),
        unit: number(8)?,
        salt: u64::from_be_bytes(origin[12..].try_into().ok()?),
    };
    let tags = tags.as_chunks().0.iter().copied().map(Tag).collect();
    Some(VersionSeal { origin, tags })
}

/// One entry: its class, what it covers, key and value.
pub(crate) type Entry = (SizeClass, ByteRange, [u8; KEY_BYTES], Vec<u8>);

/// The entries for data of `range`, whose bytes start at `unit` of `segment`; `seal` if it is sealed.
pub(crate) fn entries_of_data(
    (line, disk, sequence): (LineId, DiskId, Sequence),
    range: ByteRange,
    (segment, unit): (SegmentId, u32),
    checksums: &[u32],
    seal: Option<(SealOrigin, &[Tag])>,
) -> impl Iterator<Item = Entry> {
    let first = range.start().block().index();
    let entry = move |(class, piece): (SizeClass, ByteRange)| {
        let skip = piece.start().block().index() - first;
        let skip_units = u32::try_from(skip).expect("an extent is at most 8 MiB");
        let of_piece = slots(skip)..slots(skip) + slots(class.blocks());
        let checksums = &checksums[of_piece.clone()];
        let place = Place::Journal { segment, unit: unit + skip_units };
        let key = key(line, disk, class, piece.start().block(), sequence);
        let value = match seal {
            None => encode_value(place, checksums),
            Some((origin, tags)) => {
                encode_sealed(place, checksums, origin.skip(skip_units), &tags[of_piece])
            }
        };
        (class, piece, key, value)
    };
    pieces(range, SizeClass::Sixteen).map(entry)
}

/// Adds the entries for data of `range`, whose bytes start at `unit` of `segment`.
pub fn put_data(
    batch: &mut IndexBatch,
    version: (LineId, DiskId, Sequence),
    range: ByteRange,
    place: (SegmentId, u32),
    checksums: &[u32],
) {
    put_stored(batch, version, range, place, checksums, None);
}

/// Adds the entries for data of `range` that is sealed: its first block was first written to where `origin` says.
pub fn put_sealed(
    batch: &mut IndexBatch,
    version: (LineId, DiskId, Sequence),
    range: ByteRange,
    place: (SegmentId, u32),
    checksums: &[u32],
    seal: (SealOrigin, &[Tag]),
) {
    put_stored(batch, version, range, place, checksums, Some(seal));
}

/// The same for both.
pub(crate) fn put_stored(
    batch: &mut IndexBatch,
    version: (LineId, DiskId, Sequence),
    range: ByteRange,
    place: (SegmentId, u32),
    checksums: &[u32],
    seal: Option<(SealOrigin, &[Tag])>,
) {
    for (_, _, key, value) in entries_of_data(version, range, place, checksums, seal) {
        batch.put(key, value);
    }
}

fn slots(blocks: u64) -> usize {
    usize::try_from(blocks).expect("an extent is at most 8 MiB")
}

/// The entries for zeroes in `range`.
pub(crate) fn entries_of_zeroes(
    (line, disk, sequence): (LineId, DiskId, Sequence),
    range: ByteRange,
) -> impl Iterator<Item = Entry> {
    let entry = move |(class, piece): (SizeClass, ByteRange)| {
        let key = key(line, disk, class, piece.start().block(), sequence);
        (class, piece, key, encode_value(Place::Zero, &[]))
    };
    pieces(range, SizeClass::Huge).map(entry)
}

/// Adds the entries for zeroes in `range`.
pub fn put_zeroes(batch: &mut IndexBatch, version: (LineId, DiskId, Sequence), range: ByteRange) {
    for (_, _, key, value) in entries_of_zeroes(version, range) {
        batch.put(key, value);
    }
}

/// Cuts `range` (whole blocks) into the largest aligned pieces up to class `largest`.
fn pieces(range: ByteRange, largest: SizeClass) -> impl Iterator<Item = (SizeClass, ByteRange)> {
    let mut rest = range;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let class = SizeClass::ALL
            .into_iter()
            .rev()
            .filter(|class| *class <= largest)
            .find(|class| {
                rest.start().bytes().is_multiple_of(class.bytes()) && rest.length() >= class.bytes()
            })
            .expect("ranges in the journal are whole blocks");
        let end = ByteRange::at(rest.start(), class.bytes()).expect("within the range").end();
        let (piece, after) = rest.split_at(end);
        rest = after;
        Some((class, piece))
    })
}

/// Calls `found` with the newest version at or below `newest` of each block of `class` that overlaps `range`, in block
/// order. The cost is a seek or a step per block found, whatever the number of versions.
pub fn newest_versions(
    cursor: &mut dyn Cursor,
    (line, disk, class): (LineId, DiskId, SizeClass),
    range: ByteRange,
    newest: Sequence,
    mut found: impl FnMut(Version),
) -> Result<(), IndexError> {
    let units = range.widen(class.bytes());
    let end = units.end().block();
    let prefix = key(line, disk, class, Block::new(0), newest);
    let mut wanted = units.start().block();
    cursor.seek(&key(line, disk, class, wanted, newest))?;
    while wanted < end {
        let Some((at, value)) = cursor.entry() else { break };
        if at.get(..10) != Some(&prefix[..10]) {
            break;
        }
        let version = parse_entry(at, value, class).ok_or_else(|| damaged(at))?;
        if version.block >= end {
            break;
        }
        if version.sequence > newest {
            // Newer than asked for: its older versions follow, possibly many, so go straight to the right one.
            wanted = version.block;
            cursor.seek(&key(line, disk, class, wanted, newest))?;
            continue;
        }
        wanted = Block::new(version.block.index() + class.blocks());
        found(version);
        cursor.advance()?;
        let stale =
            cursor.entry().is_some_and(|(at, _)| *at < key(line, disk, class, wanted, newest)[..]);
        if stale {
            cursor.seek(&key(line, disk, class, wanted, newest))?;
        }
    }
    Ok(())
}

/// The first block at or after `from` that has any version of `class` in the line, whatever its sequence.
pub fn next_versioned_block(
    cursor: &mut dyn Cursor,
    (line, disk, class): (LineId, DiskId, SizeClass),
    from: Block,
) -> Result<Option<Block>, IndexError> {
    let from = Block::new(from.index() / class.blocks() * class.blocks());
    let start = key(line, disk, class, from, Sequence::new(u64::MAX));
    cursor.seek(&start)?;
    match cursor.entry() {
        Some((at, value)) if at.get(..10) == Some(&start[..10]) => parse_entry(at, value, class)
            .map(|version| Some(version.block))
            .ok_or_else(|| damaged(at)),
        _ => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::super::IndexStore;
    use super::super::memory::MemoryIndex;
    use super::*;
    use landfall_disks::ByteOffset;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    const LINE: LineId = LineId::new(1);
    const DISK: DiskId = DiskId::new(2);

    #[test]
    fn newer_versions_sort_first() {
        let at = |block, sequence| {
            key(LINE, DISK, SizeClass::Block, Block::new(block), Sequence::new(sequence))
        };
        assert!(at(1, 9) < at(1, 8));
        assert!(at(1, 0) < at(2, u64::MAX));
    }

    #[test]
    fn sealed_versions_read_back() {
        let store = MemoryIndex::default();
        let mut batch = IndexBatch::default();
        let key = KeyId::new(8);
        let origin = SealOrigin { key, segment: SegmentId::new(9), salt: 1 << 40, unit: 70 };
        let tags: Vec<Tag> = (0..21).map(|at| Tag([at; TAG_BYTES])).collect();
        let sums: Vec<u32> = (100..121).collect();
        let place = (SegmentId::new(3), 200);
        let version = (LINE, DISK, Sequence::new(5));
        put_sealed(&mut batch, version, range(14, 21), place, &sums, (origin, &tags));
        store.write(batch).unwrap();
        let mut blocks = 0;
        for class in SizeClass::ALL {
            let (of, newest) = ((LINE, DISK, class), Sequence::new(5));
            newest_versions(&mut *store.cursor(), of, range(0, 64), newest, |version| {
                let first = u32::try_from(version.block.index()).unwrap() - 14;
                let within = slots(u64::from(first))..slots(u64::from(first) + class.blocks());
                let segment = SegmentId::new(3);
                assert_eq!(version.place, Place::Journal { segment, unit: 200 + first });
                assert_eq!(version.checksums, sums[within.clone()]);
                let tags = tags[within].to_vec();
                assert_eq!(version.seal, Some(VersionSeal { origin: origin.skip(first), tags }));
                blocks += class.blocks();
            })
            .unwrap();
        }
        assert_eq!(blocks, 21);
    }

    #[test]
    fn zeroing_a_terabyte_costs_a_key_per_gibibyte() {
        let mut batch = IndexBatch::default();
        let range = ByteRange::at(ByteOffset::new(4096), 1 << 40).unwrap();
        put_zeroes(&mut batch, (LINE, DISK, Sequence::new(1)), range);
        // 1023 whole gibibytes and, at either ragged end, at most 15 + 255 + 63 smaller pieces.
        assert!(batch.len() <= 1023 + 2 * 333, "{} keys", batch.len());
    }

    fn range(start_block: u64, blocks: u64) -> ByteRange {
        ByteRange::at(Block::new(start_block).offset(), blocks * BLOCK_SIZE).unwrap()
    }

    proptest! {
        #[test]
        fn pieces_tile_the_range(start in 0u64..100_000, blocks in 0u64..100_000) {
            let whole = range(start, blocks);
            let mut at = whole.start();
            for (class, piece) in pieces(whole, SizeClass::Huge) {
                prop_assert_eq!(piece.start(), at);
                prop_assert_eq!(piece.length(), class.bytes());
                prop_assert!(piece.is_aligned(class.bytes()));
                at = piece.end();
            }
            prop_assert_eq!(at, whole.end());
        }

        #[test]
        fn the_newest_version_is_found_as_a_map_finds_it(
            writes in proptest::collection::vec((0u64..40, 1u64..40, any::<bool>()), 1..40),
            newest in 0u64..45,
            from in 0u64..60,
            length in 1u64..30,
        ) {
            let store = MemoryIndex::default();
            let mut model: BTreeMap<(SizeClass, u64), Vec<(u64, Place)>> = BTreeMap::new();
            for (number, (start, blocks, zero)) in writes.iter().enumerate() {
                let sequence = Sequence::new(number as u64 + 1);
                let mut batch = IndexBatch::default();
                let whole = range(*start, *blocks);
                let largest = if *zero { SizeClass::Huge } else { SizeClass::Sixteen };
                if *zero {
                    put_zeroes(&mut batch, (LINE, DISK, sequence), whole);
                } else {
                    let sums = vec![7; slots(*blocks)];
                    put_data(&mut batch, (LINE, DISK, sequence), whole, (SegmentId::new(3), 100), &sums);
                }
                store.write(batch).unwrap();
                for (class, piece) in pieces(whole, largest) {
                    let skip = u32::try_from(piece.start().block().index() - start).unwrap();
                    let place = if *zero { Place::Zero } else {
                        Place::Journal { segment: SegmentId::new(3), unit: 100 + skip }
                    };
                    model.entry((class, piece.start().block().index())).or_default()
                        .push((sequence.number(), place));
                }
            }
            for class in SizeClass::ALL {
                let wanted = range(from, length).widen(class.bytes());
                let expected: Vec<(u64, u64, Place)> = model
                    .iter()
                    .filter(|((of, block), _)| *of == class
                        && Block::new(*block).offset() >= wanted.start()
                        && Block::new(*block).offset() < wanted.end())
                    .filter_map(|((_, block), versions)| versions.iter().rev()
                        .find(|(sequence, _)| *sequence <= newest)
                        .map(|(sequence, place)| (*block, *sequence, *place)))
                    .collect();
                let mut found = Vec::new();
                newest_versions(
                    &mut *store.cursor(),
                    (LINE, DISK, class),
                    range(from, length),
                    Sequence::new(newest),
                    |version| found.push((
                        version.block.index(), version.sequence.number(), version.place)),
                ).unwrap();
                prop_assert_eq!(found, expected);
            }
        }
    }
}
