//! What of a record is still needed, exact at 4 KiB. Pure but for the index it asks.
//!
//! ```text
//!   version ─▶ its line is gone, or its image has it?       nobody needs it
//!           ─▶ the first moment at or after it ─▶ written again up to there?   nobody needs it
//! ```
//!
//! A branch is a line of its own: what it wrote is looked at from its own moments, and the moment of the line below that it
//! starts from is one of those of that line. So is what is pinned, locked, exported or open.

use crate::ids::{DiskId, LineId, Sequence};
use crate::index::block_key::{SizeClass, newest_versions};
use crate::index::{Cursor, IndexError};
use crate::journal::format::{ExtentContent, MAX_BODY_BYTES, Record, RecordKind};
use crate::moments::Moments;
use landfall_disks::{BLOCK_SIZE, ByteRange};
use std::collections::BTreeMap;

/// What of every line can be looked at, and what images hold.
#[derive(Debug, Default)]
pub(crate) struct Sight {
    /// Of what each line wrote, stretch by stretch; what is in none is nobody's.
    pub(crate) lines: BTreeMap<LineId, Vec<LineSight>>,
}

/// What of a stretch of one line can be looked at.
#[derive(Debug)]
pub(crate) struct LineSight {
    /// It begins after this.
    pub(crate) above: Sequence,
    /// Its last sequence: what comes later is another history's.
    pub(crate) up_to: Sequence,
    pub(crate) moments: Moments,
    /// Up to where images hold its versions; a disk that is not listed has none of them there.
    pub(crate) floors: BTreeMap<DiskId, Sequence>,
}

/// What is needed of a record.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Needed {
    /// Per extent with data of which something is needed: its number, and runs of blocks as first and how many.
    pub(crate) data: Vec<(usize, Vec<(u64, u64)>)>,
    /// It is a moment, or has zeroes that somebody sees.
    pub(crate) itself: bool,
}

impl Needed {
    /// Whether nothing is.
    pub(crate) fn is_nothing(&self) -> bool {
        !self.itself && self.data.is_empty()
    }
}

impl Sight {
    /// What is seen of a record of a line.
    fn part(&self, line: LineId, sequence: Sequence) -> Option<&LineSight> {
        let holds = |part: &&LineSight| part.above < sequence && sequence <= part.up_to;
        self.lines.get(&line)?.iter().find(holds)
    }

    /// What is needed of `record`.
    pub(crate) fn needed(
        &self,
        cursor: &mut dyn Cursor,
        record: &Record,
    ) -> Result<Needed, IndexError> {
        let mut needed = Needed::default();
        let line = match (&record.kind, self.part(record.line, record.sequence)) {
            (RecordKind::Vouch, _) | (_, None) => return Ok(needed),
            (_, Some(line)) => line,
        };
        let moment = record.boundary || matches!(record.kind, RecordKind::Mark { .. });
        needed.itself = moment && line.moments.contains(record.sequence);
        for (number, extent) in record.extents.iter().enumerate() {
            let version = (record.line, extent.disk, record.sequence);
            match extent.content {
                ExtentContent::Abort { .. } | ExtentContent::Void { .. } => {}
                // Zeroes take next to no space: those that cover much stay until the image has them.
                ExtentContent::Zero if needed.itself => {}
                ExtentContent::Zero if extent.range.length() > MAX_BODY_BYTES => {
                    needed.itself = !line.is_in_image(extent.disk, record.sequence);
                }
                ExtentContent::Zero => {
                    needed.itself = self.live(cursor, version, extent.range)?.contains(&true);
                }
                ExtentContent::Data { .. } => {
                    let runs = runs(&self.live(cursor, version, extent.range)?);
                    if !runs.is_empty() {
                        needed.data.push((number, runs));
                    }
                }
            }
        }
        Ok(needed)
    }

    /// Which blocks of `range`, written by a version, somebody still sees.
    pub(crate) fn live(
        &self,
        cursor: &mut dyn Cursor,
        (line, disk, sequence): (LineId, DiskId, Sequence),
        range: ByteRange,
    ) -> Result<Vec<bool>, IndexError> {
        let first = range.start().block().index();
        let blocks = range.length() / BLOCK_SIZE;
        let all = |live| vec![live; usize::try_from(blocks).expect("at most 8 MiB")];
        let Some(sight) = self.part(line, sequence) else { return Ok(all(false)) };
        if sight.is_in_image(disk, sequence) {
            return Ok(all(false));
        }
        let seen_at = sight.moments.seen_at(sequence).min(sight.up_to);
        let mut live = all(true);
        if seen_at == sequence {
            return Ok(live);
        }
        for class in SizeClass::ALL {
            newest_versions(cursor, (line, disk, class), range, seen_at, |version| {
                if version.sequence > sequence {
                    let start = version.block.index();
                    let from = start.max(first) - first;
                    let to = (start + class.blocks()).min(first + blocks).saturating_sub(first);
                    (from..to).for_each(|block| {
                        live[usize::try_from(block).expect("within the range")] = false;
                    });
                }
            })?;
        }
        Ok(live)
    }
}

impl LineSight {
    fn is_in_image(&self, disk: DiskId, sequence: Sequence) -> bool {
        self.floors.get(&disk).is_some_and(|floor| sequence <= *floor)
    }
}

/// Runs of what is `true`: first and how many.
fn runs(live: &[bool]) -> Vec<(u64, u64)> {
    let mut runs: Vec<(u64, u64)> = Vec::new();
    for (block, _) in (0..).zip(live).filter(|(_, live)| **live) {
        match runs.last_mut() {
            Some((first, blocks)) if *first + *blocks == block => *blocks += 1,
            _ => runs.push((block, 1)),
        }
    }
    runs
}

#[cfg(test)]
mod tests;
