//! Leaves: where each block of 1 MiB of a disk lies, at one moment.
//!
//! ```text
//!   leaf of view P   block 0 ─▶ journal segment 7, unit 20, checksum
//!                    block 1 ─▶ image
//!                    block 2 ─▶ zero                       one scan of the index per class and line, then cached
//! ```
//!
//! **Invariant:** what a leaf of a fixed moment stands for never changes; it is dropped when a segment it names goes. The head of a line moves; its leaves
//! are patched by every write ([`HeadLeaves`]), after the index has it and before it is acknowledged.

use crate::ids::{DiskId, LineId, SegmentId, Sequence};
use crate::index::block_key::{
    Place, SizeClass, Version, VersionSeal, newest_versions, next_versioned_block,
};
use crate::index::{IndexError, IndexStore};
use crate::sealing::BlockSeal;
use landfall_disks::{BLOCK_SIZE, Block, ByteOffset, ByteRange};
use parking_lot::Mutex;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Blocks in a leaf.
pub(crate) const LEAF_BLOCKS: usize = 256;
/// Bytes of a disk that a leaf covers.
pub(crate) const LEAF_BYTES: u64 = LEAF_BLOCKS as u64 * BLOCK_SIZE;
/// Counters of changes, per line.
const CHANGE_COUNTERS: usize = 512;
/// Leaves of a head that are kept, per line: 4 KiB each.
const HEAD_LEAVES_KEPT: usize = 4096;

/// Where a block lies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum BlockPlace {
    /// Nothing in the journal: the image has it.
    Image,
    /// All zero.
    Zero,
    /// In a segment.
    Journal { segment: SegmentId, unit: u32, checksum: u32 },
    /// A record that may have changed it is lost.
    Lost,
}

/// Number of a leaf of a disk.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub(crate) struct LeafIndex(u64);

impl LeafIndex {
    /// The leaf `offset` lies in.
    pub(crate) fn of(offset: ByteOffset) -> Self {
        Self(offset.bytes() / LEAF_BYTES)
    }

    /// What it covers.
    pub(crate) fn range(self) -> ByteRange {
        ByteRange::at(ByteOffset::new(self.0 * LEAF_BYTES), LEAF_BYTES)
            .expect("disks end far below")
    }
}

/// Where the blocks of 1 MiB lie.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Leaf {
    places: Box<[BlockPlace; LEAF_BLOCKS]>,
    /// Of blocks in the journal that are sealed, where there are any.
    seals: Option<Box<Seals>>,
}

type Seals = [Option<BlockSeal>; LEAF_BLOCKS];

impl Leaf {
    /// The place of a block, which must lie in the leaf.
    pub(crate) fn place(&self, block: Block) -> BlockPlace {
        self.places[slot(block)]
    }

    /// How a block is sealed, if it lies in the journal and is; it must lie in the leaf.
    pub(crate) fn seal(&self, block: Block) -> Option<BlockSeal> {
        self.seals.as_ref().and_then(|seals| seals[slot(block)])
    }

    /// Memory that it takes.
    pub(crate) fn size_bytes(&self) -> u64 {
        let seals = self.seals.as_ref().map_or(0, |_| size_of::<Seals>());
        (size_of::<[BlockPlace; LEAF_BLOCKS]>() + seals) as u64
    }

    /// Whether a block of it lies in one of these segments.
    pub(crate) fn names(&self, segments: &BTreeSet<SegmentId>) -> bool {
        self.places.iter().any(|place| match place {
            BlockPlace::Journal { segment, .. } => segments.contains(segment),
            _ => false,
        })
    }

    fn set(&mut self, slot: usize, place: BlockPlace, seal: Option<BlockSeal>) {
        self.places[slot] = place;
        if seal.is_some() || self.seals.is_some() {
            self.seals.get_or_insert_with(|| Box::new([None; LEAF_BLOCKS]))[slot] = seal;
        }
    }
}

fn slot(block: Block) -> usize {
    usize::try_from(block.index() % LEAF_BLOCKS as u64).expect("below 256")
}

/// A stretch of history that a view looks through: one line, up to a sequence.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Layer {
    pub(crate) line: LineId,
    /// What counts of it comes after this.
    pub(crate) above: Sequence,
    /// Newest sequence that counts.
    pub(crate) newest: Sequence,
    /// Highest lost sequence of those that count.
    pub(crate) gap: Option<Sequence>,
    /// Whether it is the trunk's, so that images hold what lies at or below floors.
    pub(crate) folded: bool,
}

/// Resolves a leaf. Blocks, so it runs off the I/O core.
pub(crate) fn resolve(
    index: &dyn IndexStore,
    layers: &[Layer],
    floor: impl FnOnce() -> Sequence,
    disk: DiskId,
    leaf: LeafIndex,
) -> Result<Leaf, IndexError> {
    let mut resolved = Leaf { places: Box::new([BlockPlace::Image; LEAF_BLOCKS]), seals: None };
    seen_versions(index, layers, floor, disk, leaf, |slot, seen| match seen.version {
        Some((place, seal)) => resolved.set(slot, place, seal),
        None => resolved.set(slot, BlockPlace::Lost, None),
    })?;
    Ok(resolved)
}

/// The version that a look sees of a block.
pub(crate) struct Seen {
    /// Which of the layers it is of.
    pub(crate) layer: usize,
    /// What wrote it, or the lost record that may have.
    pub(crate) sequence: Sequence,
    /// Where it lies and how it is sealed, unless it is lost.
    pub(crate) version: Option<(BlockPlace, Option<BlockSeal>)>,
}

/// Hands over what is seen of each block of a leaf that is not in the image: newest layer first; in each, the highest sequence
/// over all size classes. Versions of the trunk at or below
/// the floor are in the image. The floor is asked for after the cursor was
/// opened: a cursor that misses entries was opened after the floor had passed them. Blocks, so it runs off the I/O core.
pub(crate) fn seen_versions(
    index: &dyn IndexStore,
    layers: &[Layer],
    floor: impl FnOnce() -> Sequence,
    disk: DiskId,
    leaf: LeafIndex,
    mut hand_over: impl FnMut(usize, Seen),
) -> Result<(), IndexError> {
    let range = leaf.range();
    let mut open = [true; LEAF_BLOCKS];
    let mut cursor = index.cursor();
    let trunk_floor = floor();
    for (number, layer) in layers.iter().enumerate() {
        let floor = if layer.folded { trunk_floor.max(layer.above) } else { layer.above };
        if layer.newest <= floor {
            continue;
        }
        let mut newest = Box::new([None; LEAF_BLOCKS]);
        let mut sealed = Vec::new();
        for class in SizeClass::ALL {
            let of = (layer.line, disk, class);
            newest_versions(&mut *cursor, of, range, layer.newest, |version| {
                if version.sequence > floor {
                    lay(&mut newest, &mut sealed, range, class, version);
                }
            })?;
        }
        for slot in (0..LEAF_BLOCKS).filter(|slot| open[*slot]).collect::<Vec<_>>() {
            let lost = layer.gap.filter(|gap| *gap > floor);
            let found =
                newest[slot].filter(|found: &Found| lost.is_none_or(|gap| found.sequence > gap));
            let (sequence, version) = match (found, lost) {
                (Some(found), _) => {
                    let seal = found.seal.map(|(nth, within)| {
                        let (of, sequence): (&VersionSeal, _) = (&sealed[nth], found.sequence);
                        of.block(within, layer.line, sequence)
                    });
                    (found.sequence, Some((found.place, seal)))
                }
                (None, Some(gap)) => (gap, None),
                (None, None) => continue,
            };
            hand_over(slot, Seen { layer: number, sequence, version });
            open[slot] = false;
        }
    }
    Ok(())
}

/// The newest version of a block that was found so far.
#[derive(Clone, Copy)]
struct Found {
    sequence: Sequence,
    place: BlockPlace,
    /// Which of the sealed versions it is part of, and which block of it.
    seal: Option<(usize, usize)>,
}

/// Lays a version over those found so far, where it is newer.
fn lay(
    newest: &mut [Option<Found>; LEAF_BLOCKS],
    sealed: &mut Vec<VersionSeal>,
    range: ByteRange,
    class: SizeClass,
    version: Version,
) {
    let nth = version.seal.as_ref().map(|_| sealed.len());
    let first = range.start().block().index();
    let start = version.block.index();
    for index in start.max(first)..(start + class.blocks()).min(first + LEAF_BLOCKS as u64) {
        let within = usize::try_from(index - start).expect("an entry with places covers 16 blocks");
        let place = match version.place {
            Place::Zero => BlockPlace::Zero,
            Place::Journal { segment, unit } => BlockPlace::Journal {
                segment,
                unit: unit + u32::try_from(within).expect("as above"),
                checksum: version.checksums[within],
            },
        };
        let slot = &mut newest[slot(Block::new(index))];
        if slot.is_none_or(|found| version.sequence > found.sequence) {
            let (sequence, seal) = (version.sequence, nth.map(|nth| (nth, within)));
            *slot = Some(Found { sequence, place, seal });
        }
    }
    sealed.extend(version.seal);
}

/// The first leaf at or after `from` that anything was ever written to in one of the layers.
pub(crate) fn next_written_leaf(
    index: &dyn IndexStore,
    layers: &[Layer],
    disk: DiskId,
    from: LeafIndex,
) -> Result<Option<LeafIndex>, IndexError> {
    let mut cursor = index.cursor();
    let mut next: Option<LeafIndex> = None;
    let start = from.range().start();
    for layer in layers {
        if layer.gap.is_some() {
            return Ok(Some(from));
        }
        for class in SizeClass::ALL {
            let of = (layer.line, disk, class);
            if let Some(block) = next_versioned_block(&mut *cursor, of, start.block())? {
                let leaf = LeafIndex::of(block.offset().max(start));
                next = Some(next.map_or(leaf, |next| next.min(leaf)));
            }
        }
    }
    Ok(next)
}

/// What a durable, indexed write means for the leaves of its line's head.
pub(crate) struct HeadChange {
    pub(crate) disk: DiskId,
    pub(crate) range: ByteRange,
    /// `None` for zeroes.
    pub(crate) data: Option<HeadData>,
}

/// Where the blocks of a write lie now.
pub(crate) struct HeadData {
    /// The segment, and the unit of the first block.
    pub(crate) place: (SegmentId, u32),
    /// Of each block.
    pub(crate) checksums: Vec<u32>,
    /// Line and sequence of the write, and how its blocks are sealed, if they are.
    pub(crate) seal: Option<(LineId, Sequence, VersionSeal)>,
}

/// Cached leaves of the head of one line.
pub(crate) struct HeadLeaves {
    slots: Mutex<HashMap<(DiskId, LeafIndex), Slot>>,
    /// Writes that were taken into account, of all leaves with the same remainder together.
    changes: Box<[AtomicU64; CHANGE_COUNTERS]>,
}

impl Default for HeadLeaves {
    fn default() -> Self {
        Self {
            slots: Mutex::default(),
            changes: Box::new([const { AtomicU64::new(0) }; CHANGE_COUNTERS]),
        }
    }
}

enum Slot {
    /// Being resolved by this many readers; `dirty` if a write came in between.
    Filling { readers: usize, dirty: bool },
    /// Up to date.
    Ready(Arc<Leaf>),
}

impl HeadLeaves {
    /// The leaf, if it is cached. Otherwise the caller must resolve it and call [`HeadLeaves::filled`].
    pub(crate) fn get_or_begin(&self, disk: DiskId, leaf: LeafIndex) -> Option<Arc<Leaf>> {
        let mut slots = self.slots.lock();
        match slots.get_mut(&(disk, leaf)) {
            Some(Slot::Ready(ready)) => return Some(Arc::clone(ready)),
            Some(Slot::Filling { readers, .. }) => *readers += 1,
            None => {
                if slots.len() >= HEAD_LEAVES_KEPT {
                    slots.retain(|_, slot| matches!(slot, Slot::Filling { .. }));
                }
                slots.insert((disk, leaf), Slot::Filling { readers: 1, dirty: false });
            }
        }
        None
    }

    /// Ends a fill: the leaf is kept if no write changed it since the fill began.
    pub(crate) fn filled(&self, disk: DiskId, leaf: LeafIndex, resolved: Option<&Arc<Leaf>>) {
        let mut slots = self.slots.lock();
        let Some(Slot::Filling { readers, dirty }) = slots.get_mut(&(disk, leaf)) else { return };
        *readers -= 1;
        match resolved {
            Some(resolved) if !*dirty => {
                slots.insert((disk, leaf), Slot::Ready(Arc::clone(resolved)));
            }
            _ if *readers == 0 => {
                slots.remove(&(disk, leaf));
            }
            _ => {}
        }
    }

    /// Drops leaves that name one of these segments.
    pub(crate) fn drop_naming(&self, segments: &BTreeSet<SegmentId>) {
        let stays = |slot: &Slot| match slot {
            Slot::Ready(leaf) => !leaf.names(segments),
            Slot::Filling { .. } => true,
        };
        self.slots.lock().retain(|_, slot| stays(slot));
    }

    /// Drops a leaf; one that is being resolved is used once and not kept.
    pub(crate) fn drop_one(&self, disk: DiskId, leaf: LeafIndex) {
        let mut slots = self.slots.lock();
        match slots.get_mut(&(disk, leaf)) {
            Some(Slot::Ready(_)) => {
                slots.remove(&(disk, leaf));
            }
            Some(Slot::Filling { dirty, .. }) => *dirty = true,
            None => {}
        }
    }

    /// Drops all leaves; those that are being resolved are used once and not kept.
    pub(crate) fn drop_all(&self) {
        self.slots.lock().retain(|_, slot| match slot {
            Slot::Ready(_) => false,
            Slot::Filling { dirty, .. } => {
                *dirty = true;
                true
            }
        });
    }

    /// Another number after every write to `range` that was acknowledged: counters only grow, so does their sum.
    pub(crate) fn version(&self, range: ByteRange) -> u64 {
        let counted = self.counters_of(range).map(|counter| counter.load(Ordering::Acquire));
        counted.fold(0, u64::wrapping_add)
    }

    /// The counters of the leaves that `range` touches, each once.
    fn counters_of(&self, range: ByteRange) -> impl Iterator<Item = &AtomicU64> {
        let first = range.start().bytes() / LEAF_BYTES;
        let end = range.end().bytes().div_ceil(LEAF_BYTES);
        let leaves = first..end.min(first + CHANGE_COUNTERS as u64);
        let place = |leaf: u64| usize::try_from(leaf % CHANGE_COUNTERS as u64).expect("below 512");
        leaves.map(move |leaf| &self.changes[place(leaf)])
    }

    /// Takes a write into account: after the index has it, before it is acknowledged.
    pub(crate) fn apply(&self, change: &HeadChange) {
        for counter in self.counters_of(change.range) {
            counter.fetch_add(1, Ordering::AcqRel);
        }
        let mut slots = self.slots.lock();
        if slots.is_empty() {
            return;
        }
        for piece in change.range.chunks(LEAF_BYTES) {
            let leaf = LeafIndex::of(piece.start());
            match slots.get_mut(&(change.disk, leaf)) {
                Some(Slot::Ready(ready)) => patch(Arc::make_mut(ready), change, piece),
                Some(Slot::Filling { dirty, .. }) => *dirty = true,
                None => {}
            }
        }
    }
}

fn patch(leaf: &mut Leaf, change: &HeadChange, piece: ByteRange) {
    let first = change.range.start().block().index();
    for index in piece.start().block().index()..piece.end().block().index() {
        let (place, seal) = match &change.data {
            None => (BlockPlace::Zero, None),
            Some(HeadData { place: (segment, unit), checksums, seal }) => {
                let within = usize::try_from(index - first).expect("a body is at most 8 MiB");
                let place = BlockPlace::Journal {
                    segment: *segment,
                    unit: unit + u32::try_from(within).expect("as above"),
                    checksum: checksums[within],
                };
                let seal = seal.as_ref();
                (place, seal.map(|(line, sequence, of)| of.block(within, *line, *sequence)))
            }
        };
        leaf.set(slot(Block::new(index)), place, seal);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::index::IndexBatch;
    use crate::index::block_key::put_data;
    use crate::index::memory::MemoryIndex;

    /// Compaction relies on it: of a version that was kept in part, the entry of the larger class is not taken away.
    #[test]
    fn of_two_entries_of_a_version_the_smaller_class_counts() {
        let (line, disk) = (LineId::new(1), DiskId::new(2));
        let range = |first: u64, blocks: u64| {
            ByteRange::at(Block::new(first).offset(), blocks * BLOCK_SIZE).expect("small")
        };
        let index = MemoryIndex::default();
        let mut batch = IndexBatch::default();
        let version = (line, disk, Sequence::new(5));
        put_data(&mut batch, version, range(16, 16), (SegmentId::new(3), 1), &[1; 16]);
        put_data(&mut batch, version, range(20, 1), (SegmentId::new(9), 40), &[1]);
        index.write(batch).expect("in memory");
        let above = Sequence::default();
        let newest = Sequence::new(5);
        let layers = [Layer { line, above, newest, gap: None, folded: true }];
        let leaf = LeafIndex::of(ByteOffset::new(0));
        let leaf = resolve(&index, &layers, Sequence::default, disk, leaf).expect("whole");
        let segment_of = |block: u64| match leaf.place(Block::new(block)) {
            BlockPlace::Journal { segment, unit, .. } => (segment.number(), unit),
            other => panic!("{other:?}"),
        };
        assert_eq!([19, 20, 21].map(segment_of), [(3, 4), (9, 40), (3, 6)]);
    }
}
