//! What there is: journal, index, image and manifest, each with what a power cut may take; and the process.

use crate::Retention;
use std::collections::BTreeMap;

/// Blocks there are.
pub(crate) const BLOCKS: u8 = 2;
/// Records a segment has room for.
pub(crate) const SLOTS: u8 = 2;

/// One of the blocks.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Block(pub(crate) u8);

/// Position in the line; each is a point. 0 is before the first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Sequence(pub(crate) u8);

/// A segment of the journal.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SegmentId(pub(crate) u8);

/// One write, told from all others by its number: what a block holds. 0 is what it held at first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub(crate) struct Content(pub(crate) u8);

/// A write at its place in the line.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Record {
    pub(crate) sequence: Sequence,
    pub(crate) block: Block,
    pub(crate) content: Content,
}

/// Something on a medium, and what was written over it and not flushed.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub(crate) struct Cell<T> {
    pub(crate) durable: T,
    pub(crate) pending: Option<T>,
}

impl<T: Copy> Cell<T> {
    pub(crate) fn now(&self) -> T {
        self.pending.unwrap_or(self.durable)
    }

    pub(crate) fn flush(&mut self) {
        self.durable = self.now();
        self.pending = None;
    }

    /// The power fails, after what was pending reached the medium or before.
    pub(crate) fn settle(&mut self, landed: bool) {
        if landed {
            self.flush();
        }
        self.pending = None;
    }
}

/// The file of a segment.
pub(crate) type Segment = [Cell<Option<Record>>; SLOTS as usize];

/// Where a version lies.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Place {
    Journal(SegmentId, u8),
    Image,
}

/// What the index holds.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub(crate) struct Entries {
    pub(crate) versions: BTreeMap<(Block, Sequence), Place>,
    /// How far it is: the tail of the line, and the progress of its lane.
    pub(crate) through: Sequence,
}

/// The index: a power cut takes it back to its last flush.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub(crate) struct Index {
    pub(crate) durable: Entries,
    pub(crate) current: Entries,
}

/// What the manifest knows of a segment.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct SegmentEntry {
    pub(crate) first: Sequence,
    /// The sequence after its last, once that is logged.
    pub(crate) ended: Option<Sequence>,
}

/// Records that are gone.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct ReleasedRun {
    pub(crate) next: Sequence,
    /// Where the line stood after them.
    pub(crate) tail: Option<Sequence>,
}

/// The manifest: a change is durable, or did not happen.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub(crate) struct Manifest {
    pub(crate) segments: BTreeMap<SegmentId, SegmentEntry>,
    pub(crate) given: u8,
    pub(crate) released: BTreeMap<Sequence, ReleasedRun>,
    pub(crate) start: Sequence,
    pub(crate) floors: Floors,
    pub(crate) pin: Option<Sequence>,
}

/// The floor of each disk.
pub(crate) type Floors = [Sequence; BLOCKS as usize];

/// Harm that a step saw.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Fault {
    /// A read or a fold got something else than the point held, or met a file that was gone.
    WrongBytes,
    /// A start did not find what had been shown.
    AcknowledgedLost,
    /// A start found what an earlier one had not.
    CameBack,
    /// A start took the absence of a record for damage.
    Damage,
}

/// What is left to happen.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Left {
    pub(crate) writes: u8,
    pub(crate) crashes: u8,
    pub(crate) folds: u8,
    pub(crate) reads: u8,
    pub(crate) pins: u8,
}

/// The whole.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct State {
    pub(crate) journal: BTreeMap<SegmentId, Segment>,
    pub(crate) index: Index,
    pub(crate) image: [Cell<Content>; BLOCKS as usize],
    pub(crate) manifest: Manifest,
    pub(crate) process: Process,
    pub(crate) left: Left,
    /// The truth: what was shown to anybody, in order.
    pub(crate) history: Vec<(Block, Content)>,
    /// Contents that a start did not find: never to be seen again.
    pub(crate) lost: Vec<Content>,
    pub(crate) fault: Option<Fault>,
}

/// The process, and what only it knows.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Process {
    Down,
    /// The journal was read into the index, up to `tail`; `open` has where the truth of an open segment ends.
    Replayed {
        tail: Sequence,
        open: Option<(SegmentId, u8)>,
        flushed: bool,
    },
    Up(Up),
}

/// A process that serves.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub(crate) struct Up {
    pub(crate) tail: Sequence,
    /// The segment that is written to, and its next slot.
    pub(crate) segment: Option<(SegmentId, u8)>,
    pub(crate) group: Option<Group>,
    pub(crate) start: Sequence,
    pub(crate) floors: Floors,
    pub(crate) fold: Option<Fold>,
    pub(crate) release: Option<Release>,
    pub(crate) view: Option<View>,
}

/// Records that were written and not shown yet, in slots of the segment.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Group {
    pub(crate) first_slot: u8,
    pub(crate) records: Vec<Record>,
    pub(crate) flushed: bool,
}

/// How far a fold is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Fold {
    pub(crate) disk: u8,
    pub(crate) step: FoldStep,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum FoldStep {
    Write(Block),
    Flush,
    Log,
}

/// How far a release is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Release {
    pub(crate) segment: SegmentId,
    pub(crate) step: ReleaseStep,
    /// A read that began before is still under way.
    pub(crate) waits: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum ReleaseStep {
    Logged,
    LeavesDropped,
    /// Only where a broken rule takes the file first.
    Unlinked,
}

/// A block of a point that somebody has open.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct View {
    pub(crate) point: Sequence,
    pub(crate) block: Block,
    pub(crate) leaf: Option<Place>,
    pub(crate) read: Option<ReadStep>,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) enum ReadStep {
    /// With the floor, where a broken rule asks for it first.
    Begun(Option<Sequence>),
    /// What the cursor shows of the block.
    Looking(Option<Sequence>, Vec<(Sequence, Place)>),
    /// Decided, and not kept as a leaf yet.
    Decided(Place),
    Found(Place),
}

impl Sequence {
    pub(crate) fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl Block {
    pub(crate) fn all() -> impl Iterator<Item = Self> {
        (0..BLOCKS).map(Self)
    }

    pub(crate) fn at(self) -> usize {
        usize::from(self.0)
    }
}

impl Retention {
    pub(crate) fn disk_of(&self, block: Block) -> usize {
        usize::from(block.0 % self.disks)
    }

    pub(crate) fn all_floors(&self, floors: &Floors) -> impl Iterator<Item = Sequence> {
        floors.iter().copied().take(usize::from(self.disks))
    }
}

impl State {
    pub(crate) fn new(model: &Retention) -> Self {
        let Retention { writes, crashes, folds, reads, pins, .. } = *model;
        Self {
            journal: BTreeMap::new(),
            index: Index::default(),
            image: Default::default(),
            manifest: Manifest::default(),
            process: Process::Up(Up::default()),
            left: Left { writes, crashes, folds, reads, pins },
            history: Vec::new(),
            lost: Vec::new(),
            fault: None,
        }
    }

    pub(crate) fn up(&self) -> Option<&Up> {
        match &self.process {
            Process::Up(up) => Some(up),
            Process::Down | Process::Replayed { .. } => None,
        }
    }

    pub(crate) fn up_mut(&mut self) -> &mut Up {
        match &mut self.process {
            Process::Up(up) => up,
            Process::Down | Process::Replayed { .. } => unreachable!("only who is up acts"),
        }
    }

    /// What a block held at a point.
    pub(crate) fn truth(&self, point: Sequence, block: Block) -> Content {
        let until = &self.history[..usize::from(point.0).min(self.history.len())];
        let newest = until.iter().rev().find(|(of, _)| *of == block);
        newest.map_or(Content::default(), |(_, content)| *content)
    }

    /// The content at a place; `None` if the file is gone or holds something else there.
    pub(crate) fn fetch(&self, place: Place, block: Block) -> Option<Content> {
        match place {
            Place::Image => Some(self.image[block.at()].now()),
            Place::Journal(segment, slot) => {
                let record = self.journal.get(&segment)?[usize::from(slot)].now()?;
                (record.block == block).then_some(record.content)
            }
        }
    }

    pub(crate) fn note(&mut self, fault: Fault) {
        self.fault.get_or_insert(fault);
    }
}

/// Where a block of a point lies, by what a cursor shows and a floor.
pub(crate) fn resolve(
    versions: impl IntoIterator<Item = (Sequence, Place)>,
    floor: Sequence,
    point: Sequence,
) -> Place {
    let counts = versions.into_iter().filter(|(at, _)| *at > floor && *at <= point);
    counts.max_by_key(|(at, _)| *at).map_or(Place::Image, |(_, place)| place)
}

impl Entries {
    pub(crate) fn of_block(
        &self,
        block: Block,
    ) -> impl Iterator<Item = (Sequence, Place)> + use<'_> {
        let range = (block, Sequence(0))..=(block, Sequence(u8::MAX));
        self.versions.range(range).map(|((_, at), place)| (*at, *place))
    }
}
