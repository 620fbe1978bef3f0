//! Which blocks have a version in a window of sequences: one walk along the keys of a line, a disk and a size class.
//!
//! ```text
//!   block 3   9  7  2     window (4, 8]: 9 is too new, 7 is in it ─▶ block 3; the rest of block 3 is passed over
//!   block 5   3           none in the window
//!   block 6   8           ─▶ block 6
//! ```
//!
//! Only keys are read. A step to the next entry costs a small part of a seek, so a few versions that do not matter are
//! stepped over, and where more follow a seek goes past all of them: the cost is some steps and at most two seeks per
//! block that has versions, however many it has.

use super::block_key::{SizeClass, key, parse_key};
use super::{Cursor, IndexError, damaged};
use crate::ids::{DiskId, LineId, Sequence};
use landfall_disks::Block;

/// Versions of a block that are stepped over before a seek passes the rest. A seek costs about as much as this many steps.
const STEPS_BEFORE_SEEK: u32 = 12;
/// What a seek counts for when effort is added up.
const SEEK_EFFORT: u64 = STEPS_BEFORE_SEEK as u64;

/// Sequences of a line above one and up to another.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct SequenceWindow {
    pub(crate) line: LineId,
    /// The last that does not count.
    pub(crate) above: Sequence,
    /// The last that counts.
    pub(crate) up_to: Sequence,
}

/// How much of the index may be looked at yet: entries, of which a seek counts for several.
#[derive(Debug)]
pub(crate) struct Effort {
    left: u64,
}

impl Effort {
    /// Room for about so many entries.
    pub(crate) fn of(entries: u64) -> Self {
        Self { left: entries }
    }

    fn spend(&mut self, entries: u64) {
        self.left = self.left.saturating_sub(entries);
    }
}

/// What the next look found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Found {
    /// The entry that starts at this block has a version in the window.
    Written(Block),
    /// The effort ran out; nothing before this block was left out.
    Paused(Block),
    /// There is no more.
    Ended,
}

/// A walk over the blocks of one class.
pub(crate) struct Written<'a> {
    cursor: Box<dyn Cursor + 'a>,
    disk: DiskId,
    class: SizeClass,
    window: SequenceWindow,
    /// Everything before it was looked at.
    next: Block,
    end: Block,
    /// Whether the cursor stands at or after `next`, at an entry that was not looked at.
    placed: bool,
}

impl<'a> Written<'a> {
    /// A walk from the entry that `from` lies in to the last before `end`.
    pub(crate) fn new(
        cursor: Box<dyn Cursor + 'a>,
        (disk, class): (DiskId, SizeClass),
        window: SequenceWindow,
        (from, end): (Block, Block),
    ) -> Self {
        let next = Block::new(from.index() / class.blocks() * class.blocks());
        Self { cursor, disk, class, window, next, end, placed: false }
    }

    /// How many blocks an entry covers.
    pub(crate) fn class(&self) -> SizeClass {
        self.class
    }

    /// The next block with a version in the window. However little effort is left, it gets past one block.
    pub(crate) fn next(&mut self, effort: &mut Effort) -> Result<Found, IndexError> {
        let first = self.next;
        loop {
            if self.next >= self.end {
                return Ok(Found::Ended);
            }
            if effort.left == 0 && self.next > first {
                return Ok(Found::Paused(self.next));
            }
            if !self.placed {
                self.seek(effort)?;
            }
            let Some((block, sequence)) = self.entry()? else {
                self.next = self.end;
                return Ok(Found::Ended);
            };
            effort.spend(1);
            self.next = block;
            if sequence > self.window.up_to {
                // Newer than asked for: what counts may follow.
                self.pass(effort, |at, sequence, window| at > block || sequence <= window.up_to)?;
                continue;
            }
            self.next = Block::new(block.index() + self.class.blocks());
            self.placed = false;
            let written = sequence > self.window.above;
            if self.next < self.end && effort.left > 0 {
                self.pass(effort, |at, _, _| at > block)?;
            }
            if written {
                return Ok(Found::Written(block));
            }
        }
    }

    /// Goes to the first entry that is `wanted`: by steps if it is near, else by a seek to the newest version of `next`
    /// that may count.
    fn pass(
        &mut self,
        effort: &mut Effort,
        wanted: impl Fn(Block, Sequence, &SequenceWindow) -> bool,
    ) -> Result<(), IndexError> {
        for _ in 0..STEPS_BEFORE_SEEK {
            self.cursor.advance()?;
            effort.spend(1);
            match self.entry()? {
                Some((block, sequence)) if !wanted(block, sequence, &self.window) => {}
                _ => {
                    self.placed = true;
                    return Ok(());
                }
            }
        }
        self.seek(effort)
    }

    fn seek(&mut self, effort: &mut Effort) -> Result<(), IndexError> {
        let wanted = key(self.window.line, self.disk, self.class, self.next, self.window.up_to);
        self.cursor.seek(&wanted)?;
        effort.spend(SEEK_EFFORT);
        self.placed = true;
        Ok(())
    }

    /// Block and sequence of the entry under the cursor, if it still belongs to the walk.
    fn entry(&self) -> Result<Option<(Block, Sequence)>, IndexError> {
        let Some((at, _)) = self.cursor.entry() else { return Ok(None) };
        let of = key(self.window.line, self.disk, self.class, Block::new(0), Sequence::MAX);
        if at.get(..10) != Some(&of[..10]) {
            return Ok(None);
        }
        let parsed = parse_key(at).ok_or_else(|| damaged(at))?;
        Ok((parsed.block < self.end).then_some((parsed.block, parsed.sequence)))
    }
}

#[cfg(test)]
mod tests {
    use super::super::block_key::put_data;
    use super::super::memory::MemoryIndex;
    use super::super::{IndexBatch, IndexStore};
    use super::*;
    use crate::ids::SegmentId;
    use landfall_disks::{BLOCK_SIZE, ByteRange};
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    const LINE: LineId = LineId::new(1);
    const DISK: DiskId = DiskId::new(2);

    fn write(store: &MemoryIndex, line: LineId, sequence: u64, block: u64) {
        let mut batch = IndexBatch::default();
        let range = ByteRange::at(Block::new(block).offset(), BLOCK_SIZE).unwrap();
        let place = (SegmentId::new(1), 1);
        put_data(&mut batch, (line, DISK, Sequence::new(sequence)), range, place, &[7]);
        store.write(batch).unwrap();
    }

    fn window(above: u64, up_to: u64) -> SequenceWindow {
        SequenceWindow { line: LINE, above: Sequence::new(above), up_to: Sequence::new(up_to) }
    }

    /// All blocks, by walks of so much effort each; and what all of it cost.
    fn walk(store: &MemoryIndex, window: SequenceWindow, most: u64) -> (Vec<u64>, u64) {
        let (mut found, mut from, mut spent) = (Vec::new(), Block::new(0), 0);
        loop {
            let ends = (from, Block::new(1 << 20));
            let of = (DISK, SizeClass::Block);
            let mut walk = Written::new(store.cursor(), of, window, ends);
            let mut effort = Effort::of(most);
            let paused = loop {
                match walk.next(&mut effort).unwrap() {
                    Found::Written(block) => found.push(block.index()),
                    Found::Paused(at) => break Some(at),
                    Found::Ended => break None,
                }
            };
            spent += most - effort.left;
            match paused {
                None => return (found, spent),
                Some(at) => {
                    assert!(at > from, "a walk that gets nowhere");
                    from = at;
                }
            }
        }
    }

    /// A million versions would be as cheap as these ten thousand.
    #[test]
    fn a_block_written_ten_thousand_times_costs_two_seeks() {
        let store = MemoryIndex::default();
        (1..=10_000).for_each(|sequence| write(&store, LINE, sequence, 7));
        write(&store, LINE, 5_000, 9);
        for (above, up_to, blocks) in [
            (4_000, 6_000, vec![7, 9]),
            (9_999, 10_000, vec![7]),
            (0, 1, vec![7]),
            (4_999, 5_000, vec![7, 9]),
        ] {
            let (found, spent) = walk(&store, window(above, up_to), u64::MAX);
            assert_eq!(found, blocks, "({above}, {up_to}]");
            assert!(spent < 12 * SEEK_EFFORT, "{spent} for ({above}, {up_to}]");
        }
    }

    proptest! {
        #[test]
        fn every_block_with_a_version_in_the_window_is_found_and_no_other(
            versions in proptest::collection::vec((0u64..2, 0u64..12), 0..200),
            above in 0u64..200,
            length in 0u64..100,
            effort in 0u64..40,
        ) {
            let store = MemoryIndex::default();
            let mut expected = BTreeSet::new();
            for (number, (line, block)) in versions.iter().enumerate() {
                let sequence = number as u64 + 1;
                write(&store, LineId::new(1 + u32::try_from(*line).unwrap()), sequence, *block);
                if *line == 0 && sequence > above && sequence <= above + length {
                    expected.insert(*block);
                }
            }
            let (found, _) = walk(&store, window(above, above + length), effort);
            prop_assert_eq!(found, expected.into_iter().collect::<Vec<_>>());
        }
    }
}
