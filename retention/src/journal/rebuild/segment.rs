//! What one segment means for the index, whatever comes before or behind it. Pure.

use super::lines::{Stretch, Within};
use crate::ids::{LaneSequence, LineId, Sequence};
use crate::index::IndexBatch;
use crate::index::gap_key::Lost;
use crate::index::tail_key::LineTail;
use crate::index::usage_key::{Taken, Tally};
use crate::journal::indexing::{index_record, tail_after};
use crate::journal::recovery::{Damage, Examination, FoundRecord};
use crate::journal::replay::{ENTRIES_PER_WRITE, checksums};
use crate::manifest::state::SegmentEntry;
use std::collections::{BTreeMap, BTreeSet};

/// What a segment has.
pub(super) struct Indexed {
    /// Entries, in writes of a bounded size.
    pub(super) batches: Vec<IndexBatch>,
    /// First byte after its last record.
    pub(super) end: u64,
    /// Lane sequence that is due there.
    pub(super) next: LaneSequence,
    /// What it has of lines.
    pub(super) stretch: Stretch,
    /// What was lost between its records.
    pub(super) gaps: Vec<Lost>,
    /// Damaged places.
    pub(super) damage: Vec<Damage>,
    /// Records that the index did not have.
    pub(super) records: u64,
    /// Bytes of the records of lines, in order.
    pub(super) taken: Vec<Taken>,
}

/// The entries of records of `known` lines beyond `progress`.
pub(super) fn index_segment(
    known: &BTreeSet<LineId>,
    progress: LaneSequence,
    entry: &SegmentEntry,
    found: Examination,
    bytes: &[u8],
) -> Indexed {
    let mut reading = Reading::default();
    for record in &found.records {
        let sequence = record.record.lane_sequence;
        if record.after_loss && sequence > progress.next() {
            reading.losses += 1;
        }
        reading.last = Some(sequence);
        if sequence > progress {
            reading.take(known, entry, record, bytes);
        }
        if reading.batch.len() >= ENTRIES_PER_WRITE {
            reading.batches.push(std::mem::take(&mut reading.batch));
        }
    }
    // Loss that reaches the end of the segment has no record after it that would tell.
    let after_last = reading.last.map_or(entry.first, LaneSequence::next);
    if after_last < found.next && found.next > progress.next() {
        reading.losses += 1;
    }
    let Reading { mut batches, batch, losses, lines, gaps, records, tally, .. } = reading;
    batches.push(batch);
    let taken = tally.into_taken();
    let within = |(line, one): (LineId, Line)| {
        let (first, tail) = (one.first, one.tail);
        (line, Within { first, tail, lost_behind: one.losses < losses })
    };
    let lines = lines.into_iter().map(within).collect();
    Indexed {
        batches,
        end: found.end,
        next: found.next,
        stretch: Stretch { lines, lost: losses > 0 },
        gaps,
        damage: found.damage,
        records,
        taken,
    }
}

#[derive(Default)]
struct Reading {
    batches: Vec<IndexBatch>,
    batch: IndexBatch,
    lines: BTreeMap<LineId, Line>,
    /// Damaged places so far that may have had a record of any line.
    losses: usize,
    last: Option<LaneSequence>,
    gaps: Vec<Lost>,
    records: u64,
    tally: Tally,
}

struct Line {
    first: Sequence,
    tail: LineTail,
    /// Damaged places before its last record.
    losses: usize,
}

impl Reading {
    fn take(
        &mut self,
        known: &BTreeSet<LineId>,
        entry: &SegmentEntry,
        found: &FoundRecord,
        bytes: &[u8],
    ) {
        let record = &found.record;
        self.records += 1;
        // A record of a line that is gone has nothing to say; one that vouches has no line.
        if !known.contains(&record.line) {
            return;
        }
        let checksums = checksums(found, bytes);
        let segment = (entry.id, entry.salt);
        index_record(&mut self.batch, record, segment, found.offset, &checksums);
        self.tally.note((record.line, record.sequence), record.length_bytes());
        match self.lines.get_mut(&record.line) {
            None => {
                let tail = tail_after(&LineTail::default(), record);
                let (first, losses) = (record.sequence, self.losses);
                self.lines.insert(record.line, Line { first, tail, losses });
            }
            Some(line) => {
                if record.sequence > line.tail.sequence.next() {
                    let (first, last) = (line.tail.sequence.next(), record.sequence.previous());
                    let lost = Lost { line: record.line, first, last };
                    lost.put(&mut self.batch);
                    self.gaps.push(lost);
                }
                line.tail = tail_after(&line.tail, record);
                line.losses = self.losses;
            }
        }
    }
}
