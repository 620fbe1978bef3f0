//! Going through a whole table once: what is free, and whether two things claim the same bytes.
//!
//! Takes memory in proportion to the blocks that have a place, eight bytes each, until it has ended.

use super::space::{Extent, Space};
use super::table::{Place, Table};
use crate::disk::DiskError;

/// Most conflicts that are listed.
const MAX_CONFLICTS: usize = 64;

/// Something that is wrong with the place of a block.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Conflict {
    /// The block shares bytes with a structure of the format.
    WithStructure {
        /// The block.
        block: u64,
        /// Where it is in the file.
        extent: Extent,
        /// The structure.
        structure: &'static str,
    },
    /// Two blocks share bytes.
    BetweenBlocks {
        /// The blocks.
        blocks: (u64, u64),
        /// Where the second is in the file.
        extent: Extent,
    },
    /// The block reaches past the end of the file.
    PastTheEnd {
        /// The block.
        block: u64,
        /// Where it is in the file.
        extent: Extent,
    },
}

/// What a table uses of its file.
#[derive(Debug, Default)]
pub struct Usage {
    /// Blocks that have a place in the file.
    pub placed: u64,
    /// Blocks that are zeroes by their entry.
    pub zero: u64,
    /// The first things that are wrong, at most a few dozen.
    pub conflicts: Vec<Conflict>,
    /// What is in use, in order, neighbours joined.
    used: Vec<Extent>,
}

impl Usage {
    /// The space of a file of `length` bytes of which this is in use.
    pub fn space(&self, length: u64, alignment: u64, limit: u64, reason: &'static str) -> Space {
        let last = self.used.last().map_or(0, Extent::end);
        let space = Space::new(length.max(last), alignment, limit, reason);
        let mut at = 0;
        for used in &self.used {
            if used.offset > at {
                space.give_back(Extent { offset: at, length: used.offset - at });
            }
            at = at.max(used.end());
        }
        if length > at {
            // Nobody knows what a crash left there.
            space.give_back(Extent { offset: at, length: length - at });
        }
        space
    }
}

/// Goes through the table of a disk of `blocks` blocks in a file of `length` bytes. `structures` are the parts of the file
/// that are no blocks.
pub async fn scan(
    table: &dyn Table,
    blocks: u64,
    length: u64,
    structures: &[(Extent, &'static str)],
) -> Result<Usage, DiskError> {
    let shape = table.shape();
    let mut usage = Usage::default();
    let mut offsets = Vec::new();
    let extent_at = |offset: u64| Extent {
        offset: offset.saturating_sub(shape.lead_bytes),
        length: shape.space_bytes(),
    };
    for page in 0..blocks.div_ceil(shape.page_entries) {
        let first = page * shape.page_entries;
        for (block, place) in (first..blocks).zip(table.load(page).await?) {
            usage.zero += u64::from(place == Place::Zero);
            let Some(offset) = place.offset() else { continue };
            usage.placed += 1;
            let extent = extent_at(offset);
            if extent.end() > length && usage.conflicts.len() < MAX_CONFLICTS {
                usage.conflicts.push(Conflict::PastTheEnd { block, extent });
            }
            offsets.push(extent.offset);
        }
    }
    offsets.sort_unstable();
    let mut shared: Vec<u64> = Vec::new();
    for pair in offsets.windows(2) {
        if pair[0] + shape.space_bytes() > pair[1] && shared.len() < MAX_CONFLICTS {
            shared.push(pair[1]);
        }
    }
    let mut used: Vec<Extent> = structures.iter().map(|(extent, _)| *extent).collect();
    used.sort_unstable();
    let touches = |extent: Extent| {
        structures
            .iter()
            .find(|(other, _)| extent.offset < other.end() && other.offset < extent.end())
    };
    let clash =
        offsets.iter().any(|offset| touches(extent_at(offset + shape.lead_bytes)).is_some());
    if clash || !shared.is_empty() {
        name_conflicts(table, blocks, &shared, &touches, &mut usage).await?;
    }
    usage.used = join(used, offsets, shape.space_bytes());
    Ok(usage)
}

/// Goes through the table again to tell which blocks are in conflict.
async fn name_conflicts<'a>(
    table: &dyn Table,
    blocks: u64,
    shared: &[u64],
    touches: &impl Fn(Extent) -> Option<&'a (Extent, &'static str)>,
    usage: &mut Usage,
) -> Result<(), DiskError> {
    let shape = table.shape();
    // Who claims each of the shared stretches first.
    let mut claims: Vec<Option<u64>> = vec![None; shared.len()];
    for page in 0..blocks.div_ceil(shape.page_entries) {
        let first = page * shape.page_entries;
        for (block, place) in (first..blocks).zip(table.load(page).await?) {
            let Some(offset) = place.offset() else { continue };
            let offset = offset.saturating_sub(shape.lead_bytes);
            let extent = Extent { offset, length: shape.space_bytes() };
            if let Some((_, structure)) = touches(extent)
                && usage.conflicts.len() < MAX_CONFLICTS
            {
                let structure = *structure;
                usage.conflicts.push(Conflict::WithStructure { block, extent, structure });
            }
            for (claim, start) in claims.iter_mut().zip(shared) {
                let inside = extent.offset <= *start && *start < extent.end();
                match claim {
                    _ if !inside => {}
                    None => *claim = Some(block),
                    Some(other) if usage.conflicts.len() < MAX_CONFLICTS => {
                        let blocks = (*other, block);
                        usage.conflicts.push(Conflict::BetweenBlocks { blocks, extent });
                    }
                    Some(_) => {}
                }
            }
        }
    }
    Ok(())
}

/// Merges structures and blocks, both sorted, into one list of disjoint stretches.
fn join(structures: Vec<Extent>, offsets: Vec<u64>, block: u64) -> Vec<Extent> {
    let mut joined: Vec<Extent> = Vec::new();
    let mut structures = structures.into_iter().peekable();
    let mut blocks = offsets.into_iter().map(|offset| Extent { offset, length: block }).peekable();
    loop {
        let next = match (structures.peek(), blocks.peek()) {
            (Some(one), Some(other)) if one <= other => structures.next(),
            (Some(_), None) => structures.next(),
            _ => blocks.next(),
        };
        let Some(next) = next else { return joined };
        match joined.last_mut() {
            Some(last) if next.offset <= last.end() => {
                last.length = last.length.max(next.end() - last.offset);
            }
            _ => joined.push(next),
        }
    }
}
