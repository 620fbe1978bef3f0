//! A model of lines as lists of writes, beside an index that has them.

use crate::ids::{DiskId, LineId, SegmentId, Sequence};
use crate::index::block_key::{put_data, put_zeroes};
use crate::index::memory::MemoryIndex;
use crate::index::moment_key::{Boundary, put_boundary};
use crate::index::{IndexBatch, IndexStore};
use crate::leaf::Layer;
use crate::time::Timestamp;
use landfall_disks::faults::Seed;
use landfall_disks::{BLOCK_SIZE, Block, ByteRange};

pub(crate) const DISK: DiskId = DiskId::new(2);
/// Two leaves and a piece; the disk ends within a block.
pub(crate) const BLOCKS: u64 = 520;
pub(crate) const SIZE_BYTES: u64 = BLOCKS * BLOCK_SIZE - 1024;

/// A line as the model has it.
pub(crate) struct ModelLine {
    pub(crate) parent: Option<(usize, u64)>,
    /// Blocks of each sequence, from 1 on.
    pub(crate) writes: Vec<ByteRange>,
    /// When each was committed, and whether it is a boundary.
    pub(crate) committed: Vec<(Timestamp, bool)>,
}

pub(crate) struct Model {
    pub(crate) store: MemoryIndex,
    pub(crate) lines: Vec<ModelLine>,
}

pub(crate) fn id(line: usize) -> LineId {
    LineId::new(u32::try_from(line).expect("few") + 1)
}

impl Model {
    /// A trunk, and branches of anything there is, with writes of all sizes.
    pub(crate) fn grown(seed: &mut Seed) -> Self {
        let trunk = ModelLine { parent: None, writes: Vec::new(), committed: Vec::new() };
        let mut model = Self { store: MemoryIndex::default(), lines: vec![trunk] };
        for _ in 0..60 {
            let line = seed.index(model.lines.len());
            if seed.chance(1, 10) {
                let origin = seed.below(model.lines[line].writes.len() as u64 + 1);
                let parent = Some((line, origin));
                model.lines.push(ModelLine { parent, writes: Vec::new(), committed: Vec::new() });
            } else {
                model.write(line, seed);
            }
        }
        model
    }

    pub(crate) fn write(&mut self, line: usize, seed: &mut Seed) {
        let most = *seed.pick(&[1, 3, 40, BLOCKS]);
        let blocks = 1 + seed.below(most);
        let first = seed.below(BLOCKS - blocks + 1);
        let range = ByteRange::at(Block::new(first).offset(), blocks * BLOCK_SIZE).expect("small");
        self.lines[line].writes.push(range);
        let sequence = Sequence::new(self.lines[line].writes.len() as u64);
        let mut batch = IndexBatch::default();
        let written: usize = self.lines.iter().map(|line| line.writes.len()).sum();
        let commit_time = Timestamp::from_nanoseconds(written as u64 * 700_000_000);
        let boundary = seed.chance(1, 3);
        self.lines[line].committed.push((commit_time, boundary));
        if boundary {
            put_boundary(&mut batch, id(line), Boundary { sequence, commit_time });
        }
        let version = (id(line), DISK, sequence);
        if seed.chance(1, 3) {
            put_zeroes(&mut batch, version, range);
        } else {
            // Every version has a place of its own, so places tell versions apart.
            let segment = SegmentId::new(
                id(line).number() * 1000 + u32::try_from(sequence.number()).expect("few"),
            );
            let sums: Vec<u32> = (0..blocks).map(|_| 7).collect();
            put_data(&mut batch, version, range, (segment, 1), &sums);
        }
        self.store.write(batch).expect("in memory");
    }

    pub(crate) fn layers(&self, line: usize, newest: u64) -> Vec<Layer> {
        let mut layers = vec![Layer {
            line: id(line),
            above: Sequence::default(),
            newest: Sequence::new(newest),
            gap: None,
            folded: self.lines[line].parent.is_none(),
        }];
        if let Some((parent, origin)) = self.lines[line].parent {
            layers.extend(self.layers(parent, origin));
        }
        layers
    }

    /// The version of each block: line and sequence of the last write.
    pub(crate) fn versions(&self, line: usize, newest: u64) -> Vec<(usize, u64)> {
        let mut versions = match self.lines[line].parent {
            Some((parent, origin)) => self.versions(parent, origin),
            None => vec![(usize::MAX, 0); usize::try_from(BLOCKS).expect("few")],
        };
        for (number, range) in self.lines[line].writes.iter().enumerate() {
            let sequence = number as u64 + 1;
            if sequence <= newest {
                for block in range.start().block().index()..range.end().block().index() {
                    versions[usize::try_from(block).expect("few")] = (line, sequence);
                }
            }
        }
        versions
    }

    /// When a sequence of a line was committed; where history begins, at the very first.
    pub(crate) fn committed(&self, line: usize, sequence: u64) -> Timestamp {
        let before = usize::try_from(sequence).expect("few").checked_sub(1);
        before.map(|at| self.lines[line].committed[at].0).unwrap_or_default()
    }

    pub(crate) fn moment(&self, seed: &mut Seed) -> (usize, u64) {
        let line = seed.index(self.lines.len());
        (line, seed.below(self.lines[line].writes.len() as u64 + 1))
    }
}
