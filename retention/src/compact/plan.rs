//! Which bytes of a segment go into a copy. Pure but for the index it asks.

use super::live::{Needed, Sight};
use super::source::{Contents, Records};
use crate::index::{Cursor, IndexError, IndexStore};
use crate::journal::compacted::{KeptRecord, Piece, table_bytes};
use crate::journal::format::{ExtentContent, Record, UNIT};
use crate::journal::indexing::block_checksums;
use std::ops::Range;

/// What is copied of a segment.
#[derive(Default)]
pub(super) struct Plan {
    /// Records with pieces that have no units yet, and where in the segment the bytes of each piece lie.
    pub(super) records: Vec<(KeptRecord, Vec<Range<usize>>)>,
    /// Bytes of pieces.
    pub(super) data_bytes: u64,
    /// Bytes of the table.
    pub(super) table_bytes: usize,
}

/// Why a segment is not copied.
#[derive(Debug, thiserror::Error)]
pub(super) enum PlanError {
    #[error(transparent)]
    Index(#[from] IndexError),
    /// Something of it is not what was written: it stays where it is.
    #[error("it is damaged")]
    Damaged,
}

impl Plan {
    /// What is needed of a segment. Blocks, so it runs off the I/O core.
    pub(super) fn of(
        contents: &Contents,
        sight: &Sight,
        index: &dyn IndexStore,
    ) -> Result<Self, PlanError> {
        let mut plan = Self::default();
        let mut cursor = index.cursor();
        match &contents.records {
            // It may have been whole when it was looked at first. What is bad must not get sums of its own.
            Records::Written(found, _) if !found.damage.is_empty() => {
                return Err(PlanError::Damaged);
            }
            Records::Written(found, salt) => {
                for one in &found.records {
                    let needed = plan.needed(sight, &mut *cursor, &one.record)?;
                    plan.take_written(&contents.bytes, one.offset, (&one.record, *salt), &needed);
                }
            }
            Records::Compacted(records) => {
                for kept in records {
                    let needed = plan.needed(sight, &mut *cursor, &kept.record)?;
                    plan.take_kept(&contents.bytes, kept, &needed)?;
                }
            }
        }
        Ok(plan)
    }

    /// A record that aborts something of one that is kept is kept with it.
    fn needed(
        &self,
        sight: &Sight,
        cursor: &mut dyn Cursor,
        record: &Record,
    ) -> Result<Needed, IndexError> {
        let mut needed = sight.needed(cursor, record)?;
        let keeps = |of| {
            let mut kept = self.records.iter().rev().map(|(kept, _)| &kept.record);
            kept.any(|kept| (kept.line, kept.sequence) == (record.line, of))
        };
        needed.itself = needed.itself || record.aborts().any(keeps);
        Ok(needed)
    }

    fn take_written(
        &mut self,
        bytes: &[u8],
        offset: u64,
        (record, salt): (&Record, u64),
        needed: &Needed,
    ) {
        if needed.is_nothing() {
            return;
        }
        let start = place(offset);
        let head = bytes[start..start + record.head_length()].to_vec();
        let (mut pieces, mut places) = (Vec::new(), Vec::new());
        for (number, runs) in &needed.data {
            let ExtentContent::Data { body, .. } = record.extents[*number].content else {
                unreachable!("only data has blocks")
            };
            for (first, blocks) in runs {
                let at = start + place(u64::from(body) + first * UNIT);
                let range = at..at + place(blocks * UNIT);
                pieces.push(piece(*number, *first, &bytes[range.clone()]));
                places.push(range);
            }
        }
        self.add(KeptRecord { record: record.clone(), head, salt, pieces }, places);
    }

    /// Of a record that was compacted before: what is needed, and there.
    fn take_kept(
        &mut self,
        bytes: &[u8],
        kept: &KeptRecord,
        needed: &Needed,
    ) -> Result<(), PlanError> {
        let (mut pieces, mut places) = (Vec::new(), Vec::new());
        for old in &kept.pieces {
            let number = old.extent as usize;
            let runs = needed.data.iter().find(|(of, _)| *of == number);
            let (start, end) = (
                u64::from(old.first_block),
                u64::from(old.first_block) + old.checksums.len() as u64,
            );
            for (first, blocks) in runs.map_or(&[][..], |(_, runs)| runs) {
                let (from, to) = ((*first).max(start), (first + blocks).min(end));
                if from >= to {
                    continue;
                }
                let at = place((u64::from(old.unit) + from - start) * UNIT);
                let range = at..at + place((to - from) * UNIT);
                let found = bytes.get(range.clone()).ok_or(PlanError::Damaged)?;
                let new = piece(number, from, found);
                let known = &old.checksums[place(from - start)..place(to - start)];
                if new.checksums != known {
                    return Err(PlanError::Damaged);
                }
                pieces.push(new);
                places.push(range);
            }
        }
        if needed.itself || !pieces.is_empty() {
            self.add(KeptRecord { pieces, ..kept.clone() }, places);
        }
        Ok(())
    }

    fn add(&mut self, kept: KeptRecord, places: Vec<Range<usize>>) {
        self.data_bytes += kept.pieces.iter().map(Piece::length).sum::<u64>();
        self.table_bytes += table_bytes(&kept);
        self.records.push((kept, places));
    }

    /// Bytes that it adds to a copy.
    pub(super) fn copy_bytes(&self) -> u64 {
        self.data_bytes + 2 * self.table_bytes as u64
    }
}

fn piece(extent: usize, first_block: u64, bytes: &[u8]) -> Piece {
    Piece {
        extent: u32::try_from(extent).expect("at most MAX_EXTENTS"),
        first_block: u32::try_from(first_block).expect("an extent is at most 8 MiB"),
        unit: 0,
        hash: *blake3::hash(bytes).as_bytes(),
        checksums: block_checksums(bytes),
    }
}

fn place(bytes: u64) -> usize {
    usize::try_from(bytes).expect("a segment fits memory")
}
