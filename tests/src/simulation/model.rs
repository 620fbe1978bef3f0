//! What the store must hold: plain bytes for the source, every point and every branch.

use super::branching::BranchWrite;
use super::keys::Nonces;
use super::standing::Standing;
use landfall_disks::faults::Seed;
use landfall_disks::{BLOCK_SIZE, ByteOffset, ByteRange};
use landfall_retention::ids::{Generation, LineId, Position, Sequence, StreamId};
use landfall_retention::journal::format::Chain;
use landfall_retention::sealing::KeyEncryptionKey;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

/// Sizes of the machine's disks at first: one crosses a leaf and ends within a block, one is small.
pub(super) const SIZES: [u64; 2] = [(1 << 20) + (64 << 10) + 512, 80 << 10];

/// Content of all disks at one moment.
pub(super) type Snapshot = Arc<Vec<Vec<u8>>>;

/// A file, the first of some bytes of it, and what they were.
pub(super) type Damaged = (PathBuf, u64, Vec<u8>);

/// A batch that was sent.
#[derive(Clone, Debug)]
pub(super) struct Sent {
    pub(super) disk: usize,
    pub(super) changes: Vec<(ByteRange, Change)>,
}

/// What a range becomes.
#[derive(Clone, Debug)]
pub(super) enum Change {
    Data(Vec<u8>),
    Zero,
}

/// A branch as acknowledged.
#[derive(Clone)]
pub(super) struct Branch {
    pub(super) content: Vec<Vec<u8>>,
    /// Moments of it that were noted, by sequence.
    pub(super) moments: BTreeMap<u64, Snapshot>,
    /// Writes that were under way at the power cut, apart from each other: each happened or did not.
    pub(super) uncertain: Vec<BranchWrite>,
    /// The branch it starts from, or the trunk, and where.
    pub(super) parent: Option<String>,
    pub(super) origin: u64,
    /// Those of its moments that are points.
    pub(super) marked: BTreeSet<u64>,
    /// It was the trunk, and takes no writes.
    pub(super) sealed: bool,
}

/// The whole truth.
pub(super) struct Model {
    pub(super) source: Vec<Vec<u8>>,
    pub(super) stream: StreamId,
    pub(super) generation: Generation,
    /// The source compares with what is there, and has not come to the end.
    pub(super) comparing: bool,
    /// Whether the machine was added, and whether its first copy counts.
    pub(super) added: bool,
    pub(super) seeded: bool,
    /// Sent and not acknowledged.
    pub(super) unacknowledged: BTreeMap<Position, Sent>,
    /// A mark that was sent and not acknowledged.
    pub(super) pending_mark: Option<(Position, Snapshot)>,
    /// The last mark of an earlier generation: it became a point or did not.
    pub(super) maybe_point: Option<(Position, Snapshot)>,
    pub(super) points: BTreeMap<u64, Snapshot>,
    /// Whether the source delivers in order: every batch is a moment.
    pub(super) in_order: bool,
    /// Some of the instants there are, and those of batches that were under way.
    pub(super) instants: BTreeMap<u64, Snapshot>,
    pub(super) maybe_instants: BTreeMap<u64, Snapshot>,
    /// Every sequence that was an instant.
    pub(super) were_instants: BTreeSet<u64>,
    /// Sequences in the middle of passes.
    pub(super) between: BTreeSet<u64>,
    /// Where the trunk was a branch: every sequence was an instant.
    pub(super) windows: Vec<(u64, u64)>,
    /// A branch that was to become the trunk, and what the trunk is called then, without an answer.
    pub(super) maybe_promoted: Option<(String, String)>,
    /// Where history begins, and where a fold that was not answered wanted it.
    pub(super) start: u64,
    pub(super) maybe_start: Option<u64>,
    /// A disk that was asked to grow, and to what size, without an answer.
    pub(super) maybe_grown: Option<(usize, u64)>,
    /// A branch, a disk of it that was asked to grow, and to what size, without an answer.
    pub(super) maybe_branch_grown: Option<(String, usize, u64)>,
    /// What the point holds that a disk that had grown may have left.
    pub(super) grown_point: Option<Snapshot>,
    pub(super) branches: BTreeMap<String, Branch>,
    pub(super) branches_made: u32,
    /// A policy was being applied: any moment may be gone.
    pub(super) thinning: bool,
    /// Whether what is written is sealed, by keys that these wrap, the newest first.
    pub(super) sealed: bool,
    pub(super) keks: Vec<KeyEncryptionKey>,
    /// What was ever found on the medium under each nonce.
    pub(super) nonces: Nonces,
    /// Heads of lines that were written down.
    pub(super) heads: Vec<(LineId, Sequence, Chain)>,
    /// What a medium damaged, and whether one was well again since a scrub last looked.
    pub(super) damaged: Option<Damaged>,
    pub(super) mended: bool,
    pub(super) standing: Standing,
    log: Vec<String>,
}

impl Model {
    pub(super) fn new(seed: &mut Seed) -> Self {
        let mut stream = [0; 16];
        seed.fill(&mut stream);
        let source = SIZES.iter().map(|size| first_content(*size, seed)).collect();
        Self {
            source,
            stream: StreamId::new(stream),
            generation: Generation::default(),
            comparing: false,
            added: false,
            seeded: false,
            unacknowledged: BTreeMap::new(),
            pending_mark: None,
            maybe_point: None,
            points: BTreeMap::new(),
            in_order: false,
            instants: BTreeMap::new(),
            maybe_instants: BTreeMap::new(),
            were_instants: BTreeSet::new(),
            between: BTreeSet::new(),
            windows: Vec::new(),
            maybe_promoted: None,
            start: 0,
            maybe_start: None,
            maybe_grown: None,
            maybe_branch_grown: None,
            grown_point: None,
            branches: BTreeMap::new(),
            branches_made: 0,
            thinning: false,
            sealed: seed.chance(1, 2),
            keks: Vec::new(),
            nonces: Nonces::new(),
            heads: Vec::new(),
            damaged: None,
            mended: false,
            standing: Standing::default(),
            log: Vec::new(),
        }
    }

    /// Size of a disk of the source, in bytes.
    pub(super) fn size(&self, disk: usize) -> u64 {
        self.source[disk].len() as u64
    }

    /// A disk of the source became larger: zeroes, as far as it knows.
    pub(super) fn grow(&mut self, disk: usize, size_bytes: u64) {
        self.source[disk].resize(usize::try_from(size_bytes).expect("small"), 0);
    }

    /// A disk of a branch became larger, and `point` is the first moment that has it.
    pub(super) fn grow_branch(&mut self, name: &str, disk: usize, size_bytes: u64, point: u64) {
        let branch = self.branches.get_mut(name).expect("it was there");
        branch.content[disk].resize(usize::try_from(size_bytes).expect("small"), 0);
        branch.moments.insert(point, Arc::new(branch.content.clone()));
        branch.marked.insert(point);
        self.say(format!("disk {disk} grew to {size_bytes} on {name}, point seq:{point}"));
    }

    pub(super) fn say(&mut self, line: String) {
        self.log.push(line);
    }

    pub(super) fn into_log(self) -> Vec<String> {
        self.log
    }

    /// Points and instants of the trunk.
    pub(super) fn moments(&self) -> BTreeMap<u64, Snapshot> {
        self.points.iter().chain(&self.instants).map(|(at, held)| (*at, held.clone())).collect()
    }

    /// History begins at `start`: the moments below are gone.
    pub(super) fn begin_at(&mut self, start: u64) {
        self.start = start;
        self.points = self.points.split_off(&start);
        self.instants = self.instants.split_off(&start);
    }

    pub(super) fn snapshot(&self) -> Snapshot {
        Arc::new(self.source.clone())
    }

    /// A change of the source that has to be sent.
    pub(super) fn change_source(&mut self, seed: &mut Seed) -> Sent {
        let disk = seed.index(SIZES.len());
        let size = self.size(disk);
        let blocks = size.div_ceil(BLOCK_SIZE);
        let mut changes: Vec<(ByteRange, Change)> = Vec::new();
        for _ in 0..=seed.below(3) {
            let first = seed.below(blocks);
            let longest = if seed.chance(1, 4) { 40 } else { 3 };
            let count = 1 + seed.below(longest);
            let end = ((first + count) * BLOCK_SIZE).min(size);
            let start = ByteOffset::new(first * BLOCK_SIZE);
            let range = ByteRange::new(start, ByteOffset::new(end)).expect("first < blocks");
            if changes.iter().any(|(other, _)| other.overlaps(range)) {
                continue;
            }
            let change = random_change(range, seed);
            changes.push((range, change));
        }
        let sent = Sent { disk, changes };
        sent.apply(&mut self.source);
        sent
    }
}

impl Sent {
    pub(super) fn apply(&self, disks: &mut [Vec<u8>]) {
        for (range, change) in &self.changes {
            let slice = &mut disks[self.disk][bytes(*range)];
            match change {
                Change::Data(data) => slice.copy_from_slice(data),
                Change::Zero => slice.fill(0),
            }
        }
    }
}

fn random_change(range: ByteRange, seed: &mut Seed) -> Change {
    if seed.chance(1, 4) {
        return Change::Zero;
    }
    let mut data = vec![0; usize::try_from(range.length()).expect("small")];
    seed.fill(&mut data);
    Change::Data(data)
}

fn first_content(size: u64, seed: &mut Seed) -> Vec<u8> {
    let mut content = vec![0; usize::try_from(size).expect("small")];
    for chunk in content.chunks_mut(32 << 10) {
        if seed.chance(1, 2) {
            seed.fill(chunk);
        }
    }
    content
}

/// The indices of a range.
pub(super) fn bytes(range: ByteRange) -> std::ops::Range<usize> {
    let at = |offset: ByteOffset| usize::try_from(offset.bytes()).expect("small");
    at(range.start())..at(range.end())
}
