//! What an image has to take over to reach a new floor. Pure but for the index it asks.
//!
//! ```text
//!   leaves that were written to, in address order ─▶ newest version in (floor, new floor] of each block ─▶ writes
//!                                                     none: the image has it already
//! ```

use crate::ids::{DiskId, Sequence};
use crate::index::{IndexError, IndexStore};
use crate::leaf::{LEAF_BYTES, Layer, LeafIndex, next_written_leaf, resolve};
use crate::runs::{Run, add_block};
use landfall_disks::{Block, ByteOffset, ByteRange};

/// Bytes of journal that are read and written together.
const WINDOW_BYTES: u64 = 4 << 20;
/// Leaves that are looked at for one window.
const WINDOW_LEAVES: usize = 64;

/// A piece of a fold.
#[derive(Debug, Default)]
pub(super) struct Window {
    /// What to write, in address order.
    pub(super) writes: Vec<Write>,
    /// Where to go on; `None` at the end of the disk.
    pub(super) next: Option<ByteOffset>,
}

/// One write to the image.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Write {
    /// All zero.
    Zeroes(ByteRange),
    /// Runs of the journal that lie one behind the other on the disk.
    Data(ByteRange, Vec<(ByteRange, Run)>),
}

impl Write {
    pub(super) fn range(&self) -> ByteRange {
        match self {
            Self::Zeroes(range) | Self::Data(range, _) => *range,
        }
    }
}

/// Why a fold cannot be planned.
#[derive(Debug, thiserror::Error)]
pub(super) enum PlanError {
    #[error(transparent)]
    Index(#[from] IndexError),
    /// A lost record may have written it, and nothing did afterwards.
    #[error("what {0} held was lost")]
    Lost(ByteRange),
}

/// What is folded: what `layers`, all of the trunk, have above `floor`.
pub(super) struct Source {
    pub(super) layers: Vec<Layer>,
    pub(super) floor: Sequence,
    pub(super) disk: DiskId,
    pub(super) size_bytes: u64,
}

impl Source {
    /// The next window at or after `from`. Blocks, so it runs off the I/O core.
    pub(super) fn window(
        &self,
        index: &dyn IndexStore,
        from: ByteOffset,
    ) -> Result<Window, PlanError> {
        let layers = &self.layers[..];
        let mut writes = Vec::new();
        let mut at = from;
        for _ in 0..WINDOW_LEAVES {
            let next = next_written_leaf(index, layers, self.disk, LeafIndex::of(at))?;
            let Some(leaf) = next.filter(|leaf| leaf.range().start().bytes() < self.size_bytes)
            else {
                return Ok(Window { writes, next: None });
            };
            let places = resolve(index, layers, || self.floor, self.disk, leaf)?;
            let range = ByteRange::up_to(self.size_bytes).intersection(leaf.range());
            let mut runs = Vec::new();
            for block in range.start().block().index()..range.end().bytes().div_ceil(BLOCK) {
                let block = Block::new(block);
                add_block(&mut runs, block, places.place(block), places.seal(block));
            }
            add_writes(&mut writes, runs)?;
            at = leaf.range().end();
            if data_bytes(&writes) >= WINDOW_BYTES {
                break;
            }
        }
        let next = (at.bytes() < self.size_bytes).then_some(at);
        Ok(Window { writes, next })
    }
}

const BLOCK: u64 = landfall_disks::BLOCK_SIZE;
const _: () = assert!(WINDOW_BYTES >= LEAF_BYTES);

/// Bytes that come from the journal.
pub(super) fn data_bytes(writes: &[Write]) -> u64 {
    let data = writes.iter().filter(|write| matches!(write, Write::Data(..)));
    data.map(|write| write.range().length()).sum()
}

/// Adds runs, which follow each other on the disk, to the writes before them; joins those that touch.
fn add_writes(writes: &mut Vec<Write>, runs: Vec<(ByteRange, Run)>) -> Result<(), PlanError> {
    for (range, run) in runs {
        match (writes.last_mut(), run) {
            (_, Run::Image) => {}
            (_, Run::Lost) => return Err(PlanError::Lost(range)),
            (Some(Write::Zeroes(whole)), Run::Zero) if whole.end() == range.start() => {
                *whole = joined(*whole, range);
            }
            (_, Run::Zero) => writes.push(Write::Zeroes(range)),
            (Some(Write::Data(whole, pieces)), run) if whole.end() == range.start() => {
                *whole = joined(*whole, range);
                pieces.push((range, run));
            }
            (_, run) => writes.push(Write::Data(range, vec![(range, run)])),
        }
    }
    Ok(())
}

fn joined(first: ByteRange, second: ByteRange) -> ByteRange {
    ByteRange::new(first.start(), second.end()).expect("in order")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{LineId, SegmentId};
    use crate::index::IndexBatch;
    use crate::index::block_key::{put_data, put_zeroes};
    use crate::index::memory::MemoryIndex;

    const LINE: LineId = LineId::new(1);
    const DISK: DiskId = DiskId::new(2);

    fn range(first: u64, blocks: u64) -> ByteRange {
        ByteRange::at(ByteOffset::new(first * BLOCK), blocks * BLOCK).expect("small")
    }

    fn source(floor: u64, newest: u64, gap: Option<u64>) -> Source {
        let layer = Layer {
            line: LINE,
            above: Sequence::default(),
            newest: Sequence::new(newest),
            gap: gap.map(Sequence::new),
            folded: true,
        };
        Source {
            layers: vec![layer],
            floor: Sequence::new(floor),
            disk: DISK,
            size_bytes: (3 << 20) + 512,
        }
    }

    fn index() -> MemoryIndex {
        let store = MemoryIndex::default();
        let mut batch = IndexBatch::default();
        let mut data = |sequence: u64, first: u64, blocks: u64, unit: u32| {
            let sums = vec![7; usize::try_from(blocks).expect("few")];
            let version = (LINE, DISK, Sequence::new(sequence));
            let place = (SegmentId::new(3), unit);
            put_data(&mut batch, version, range(first, blocks), place, &sums);
        };
        data(4, 0, 1, 10);
        data(5, 1, 2, 20);
        data(6, 3, 1, 90);
        data(9, 2, 1, 50);
        data(7, 768, 1, 70);
        let zeroed = (LINE, DISK, Sequence::new(7));
        put_zeroes(&mut batch, zeroed, range(300, 8));
        // The same run goes on in the next leaf but one, and not in between.
        put_zeroes(&mut batch, zeroed, range(252, 4));
        put_zeroes(&mut batch, zeroed, range(512, 4));
        put_zeroes(&mut batch, zeroed, range(764, 4));
        store.write(batch).expect("in memory");
        store
    }

    #[test]
    fn only_what_changed_up_to_the_new_floor_is_written_and_neighbours_together() {
        let window = source(4, 8, None).window(&index(), ByteOffset::new(0)).expect("whole");
        assert_eq!(window.next, None);
        let ranges: Vec<_> = window.writes.iter().map(Write::range).collect();
        // Block 0 is in the image already; block 2 as of sequence 5; the last block ends with the disk.
        let zeroes = [range(252, 4), range(300, 8), range(512, 4), range(764, 4)];
        let mut expected = vec![range(1, 3)];
        expected.extend(zeroes);
        expected.push(range(768, 1));
        assert_eq!(ranges, expected);
        assert!(matches!(&window.writes[0], Write::Data(_, pieces) if pieces.len() == 2));
        assert_eq!(window.writes[1..5], zeroes.map(Write::Zeroes));
    }

    #[test]
    fn what_a_lost_record_may_have_written_is_not_made_up() {
        let lost = source(4, 8, Some(5)).window(&index(), ByteOffset::new(0));
        assert!(matches!(lost, Err(PlanError::Lost(at)) if at == range(0, 3)), "{lost:?}");
        let known = source(5, 8, Some(5)).window(&index(), ByteOffset::new(0)).expect("folded");
        assert_eq!(known.writes.len(), 6);
    }
}
