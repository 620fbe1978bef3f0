//! A page of changes: walks over all windows and size classes, merged in address order. Pure but for the index it asks.
//!
//! ```text
//!   window × class ─▶ Written ─┐
//!   window × class ─▶ Written ─┼─▶ least start first ─▶ joined where they touch ─▶ page, and where the next one starts
//!   window × class ─▶ Written ─┘
//! ```
//!
//! **Invariant:** nothing below where the next page starts is missing from this one, whatever ended it: its length, the
//! effort it may take, or the end of the part. It gets past at least one block.

use crate::ids::DiskId;
use crate::index::block_key::SizeClass;
use crate::index::written::{Effort, Found, SequenceWindow, Written};
use crate::index::{IndexError, IndexStore};
use landfall_disks::{BLOCK_SIZE, Block, ByteOffset, ByteRange};
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// How far a page is to go.
#[derive(Clone, Copy, Debug)]
pub(super) struct PageLimits {
    /// Most ranges of it.
    pub(super) ranges: usize,
    /// Entries of the index that it may look at, about.
    pub(super) effort: u64,
}

/// Some of what was written, in address order, apart from each other.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Page {
    pub(super) ranges: Vec<ByteRange>,
    /// Where to go on; `None` at the end of what was asked for.
    pub(super) next: Option<ByteOffset>,
}

/// Reads a page of what was written in `windows` to a part of a disk. Blocks, so it runs off the I/O core.
pub(super) fn page(
    index: &dyn IndexStore,
    windows: &[SequenceWindow],
    (disk, part): (DiskId, ByteRange),
    limits: PageLimits,
) -> Result<Page, IndexError> {
    if part.is_empty() {
        return Ok(Page::default());
    }
    let ends = (part.start().block(), Block::new(part.end().bytes().div_ceil(BLOCK_SIZE)));
    let walks = windows.iter().flat_map(|window| {
        SizeClass::ALL.map(|class| Written::new(index.cursor(), (disk, class), *window, ends))
    });
    let mut merge = Merge {
        walks: walks.collect(),
        found: BinaryHeap::new(),
        paused: None,
        effort: Effort::of(limits.effort),
    };
    for walk in 0..merge.walks.len() {
        merge.go_on(walk)?;
    }
    merge.into_page(part, limits.ranges)
}

struct Merge<'a> {
    walks: Vec<Written<'a>>,
    /// The next block of each walk that has one.
    found: BinaryHeap<Reverse<(Block, usize)>>,
    /// Some walk got no further than this.
    paused: Option<Block>,
    effort: Effort,
}

impl Merge<'_> {
    fn go_on(&mut self, walk: usize) -> Result<(), IndexError> {
        match self.walks[walk].next(&mut self.effort)? {
            Found::Written(block) => self.found.push(Reverse((block, walk))),
            Found::Paused(at) => {
                self.paused = Some(self.paused.map_or(at, |paused| paused.min(at)));
            }
            Found::Ended => {}
        }
        Ok(())
    }

    fn into_page(mut self, part: ByteRange, most: usize) -> Result<Page, IndexError> {
        let mut ranges: Vec<ByteRange> = Vec::new();
        while let Some(Reverse((block, walk))) = self.found.pop() {
            if self.paused.is_some_and(|paused| block >= paused) {
                break;
            }
            let whole = ByteRange::at(block.offset(), self.walks[walk].class().bytes());
            let range = whole.expect("on a disk").intersection(part);
            let joins = ranges.last_mut().filter(|last| range.start() <= last.end());
            if let Some(last) = joins {
                let end = last.end().max(range.end());
                *last = ByteRange::new(last.start(), end).expect("it only grows");
            } else if ranges.len() == most {
                return Ok(Page { ranges, next: Some(range.start()) });
            } else {
                ranges.push(range);
            }
            self.go_on(walk)?;
        }
        // What was found may reach further than the walk that got least far.
        let covered = ranges.last().map_or(part.start(), |last| last.end());
        let next = self.paused.map(|paused| paused.offset().max(covered));
        Ok(Page { ranges, next: next.filter(|next| *next < part.end()) })
    }
}
