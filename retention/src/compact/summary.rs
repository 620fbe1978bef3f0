//! What is remembered of a segment that was read once: which lines need it, and about how much of it.
//!
//! Victims are chosen by samples, so that looking for them costs next to nothing; what is copied is decided block by block.

use super::live::Sight;
use super::source::Source;
use crate::forget::Needed;
use crate::ids::{DiskId, LineId, SegmentId, Sequence};
use crate::index::tail_key::LineTail;
use crate::index::{Cursor, IndexError};
use crate::journal::compacted::{KeptRecord, table_bytes};
use crate::journal::format::{ExtentContent, Record, RecordKind};
use crate::journal::indexing::tail_after;
use crate::journal::recovery::Examination;
use crate::manifest::record::ManifestRecord;
use crate::manifest::released::ReleasedLine;
use crate::manifest::state::SegmentEntry;
use landfall_disks::{BLOCK_SIZE, ByteRange};
use parking_lot::Mutex;
use std::collections::{BTreeMap, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

/// Extents that are looked at for an estimate.
const SAMPLES: usize = 32;
/// Blocks of each that are.
const SAMPLE_BLOCKS: u64 = 64;

/// Summaries of segments that were looked at and stayed: a segment is read once, or twice.
pub(crate) type Summaries = HashMap<SegmentId, Arc<Summary>>;

/// Which records a segment has of which lines.
#[derive(Debug)]
pub(crate) struct Summary {
    lines: BTreeMap<LineId, ReleasedLine>,
    /// Every record of it was found and is good.
    whole: bool,
    /// Every record of it was found.
    known: bool,
    samples: Vec<(LineId, DiskId, Sequence, ByteRange)>,
    /// Bytes of data in it.
    data_bytes: u64,
    /// Bytes that its records take in a table, and those of marks among them.
    table_bytes: u64,
    mark_bytes: u64,
    estimate: Mutex<Option<Estimate>>,
}

/// How much of a segment is needed.
#[derive(Clone, Copy, Debug)]
struct Estimate {
    /// Of what it was made by.
    signature: u64,
    /// Bytes of a copy.
    bytes: u64,
}

impl Summary {
    /// Of a segment that a lane wrote.
    pub(crate) fn of_written(entry: &SegmentEntry, found: &Examination) -> Self {
        let next = entry.ended.map(|(_, next)| next);
        let bodies = found.records.iter().filter(|found| !found.damaged_bodies.is_empty()).count();
        let damaged = found.damage.iter().filter(|damage| damage.case != 'I').count();
        let whole = found.damage.is_empty() && bodies == 0 && next == Some(found.next);
        // The header of the segment says nothing that the manifest does not.
        let known = damaged == bodies && next == Some(found.next);
        let records = found.records.iter().map(|found| &found.record);
        let table = |record: &Record| 16 + record.head_length() as u64;
        Self::new(
            (whole, known),
            records.clone().map(|record| (record, data(record), table(record))),
        )
    }

    /// Of a compacted segment.
    pub(crate) fn of_compacted(records: &[KeptRecord]) -> Self {
        // They come from several segments, in any order.
        let mut records: Vec<_> = records.iter().collect();
        records.sort_by_key(|kept| kept.record.lane_sequence);
        let all = records.into_iter().map(|kept| {
            let piece = |piece: &crate::journal::compacted::Piece| {
                let extent = &kept.record.extents[piece.extent as usize];
                (extent.disk, piece.range(extent))
            };
            let pieces = kept.pieces.iter().map(piece).collect();
            (&kept.record, pieces, table_bytes(kept) as u64)
        });
        Self::new((true, true), all)
    }

    /// Of a segment that does not say what it has.
    pub(crate) fn unknown() -> Self {
        Self::new((false, false), std::iter::empty())
    }

    fn new<'a>(
        (whole, known): (bool, bool),
        records: impl Iterator<Item = (&'a Record, Vec<(DiskId, ByteRange)>, u64)>,
    ) -> Self {
        let mut lines: BTreeMap<LineId, ReleasedLine> = BTreeMap::new();
        let (mut data_bytes, mut all_tables, mut mark_bytes) = (0, 0, 0);
        let mut all = Vec::new();
        for (record, data, table) in records {
            if record.kind == RecordKind::Vouch {
                continue;
            }
            let line = lines.entry(record.line).or_insert(ReleasedLine {
                first: record.sequence,
                chain_before: record.previous_chain,
                tail: LineTail::default(),
            });
            line.tail = tail_after(&line.tail, record);
            all_tables += table;
            mark_bytes += if data.is_empty() { table } else { 0 };
            for (disk, range) in data {
                data_bytes += range.length();
                all.push((record.line, disk, record.sequence, range));
            }
        }
        let step = all.len().div_ceil(SAMPLES).max(1);
        let samples = all.into_iter().step_by(step).collect();
        let (estimate, table_bytes) = (Mutex::default(), all_tables);
        Self { lines, whole, known, samples, data_bytes, table_bytes, mark_bytes, estimate }
    }

    /// Whether nothing of it is damaged.
    pub(crate) fn is_whole(&self) -> bool {
        self.whole
    }

    /// Whether it is known which records it has, though bytes of what they changed may be damaged.
    pub(crate) fn is_known(&self) -> bool {
        self.known
    }

    /// Whether a record of it may be needed; `bounds` has what is of every line of which something is left.
    pub(crate) fn is_needed(&self, bounds: &BTreeMap<LineId, Vec<Needed>>) -> bool {
        let needed = |released: &ReleasedLine, one: &Needed| {
            let last = released.tail.sequence.min(one.up_to);
            last > one.above && last >= released.first
        };
        let above = |(line, released): (&LineId, &ReleasedLine)| {
            bounds.get(line).is_some_and(|all| all.iter().any(|one| needed(released, one)))
        };
        self.lines.iter().any(above)
    }

    /// What the manifest keeps of a segment that goes, in one frame with its release. The records of a compacted one are on
    /// record as gone already.
    pub(crate) fn records(&self, source: &Source) -> Vec<ManifestRecord> {
        let mut records = Vec::new();
        if let Source::Written(entry) = source {
            let (lane, first) = (entry.lane, entry.first);
            let next = entry.ended.map_or(first, |(_, next)| next);
            if first < next {
                records.push(ManifestRecord::RecordsReleased { lane, first, next });
            }
            let of_line = |(line, released): (&LineId, &ReleasedLine)| {
                let (at, line, released) = (first, *line, *released);
                ManifestRecord::LineReleased { lane, at, line, released }
            };
            records.extend(self.lines.iter().map(of_line));
        }
        records.push(ManifestRecord::SegmentReleased { segment: source.id() });
        records
    }

    /// About how many bytes a copy of what is needed would take, if that is known as things stand.
    pub(crate) fn known_estimate(&self, sight: &Sight) -> Option<u64> {
        let signature = self.signature(sight);
        self.estimate.lock().filter(|known| known.signature == signature).map(|known| known.bytes)
    }

    /// Looks at samples.
    pub(crate) fn estimate(
        &self,
        sight: &Sight,
        cursor: &mut dyn Cursor,
    ) -> Result<u64, IndexError> {
        let signature = self.signature(sight);
        let (mut live, mut all) = (0, 0);
        for (line, disk, sequence, range) in &self.samples {
            let some = ByteRange::at(range.start(), range.length().min(SAMPLE_BLOCKS * BLOCK_SIZE));
            let some = some.expect("part of a range");
            let found = sight.live(cursor, (*line, *disk, *sequence), some)?;
            live += found.iter().filter(|live| **live).count() as u64;
            all += found.len() as u64;
        }
        let share = |bytes: u64| (bytes * live).checked_div(all).unwrap_or(0);
        let tables = self.mark_bytes + share(self.table_bytes - self.mark_bytes);
        let bytes = share(self.data_bytes) + 2 * tables;
        *self.estimate.lock() = Some(Estimate { signature, bytes });
        Ok(bytes)
    }

    /// What was found when every block was looked at.
    pub(crate) fn correct(&self, sight: &Sight, bytes: u64) {
        *self.estimate.lock() = Some(Estimate { signature: self.signature(sight), bytes });
    }

    /// Changes whenever more of it may have become useless than by what was written since.
    fn signature(&self, sight: &Sight) -> u64 {
        let mut hasher = DefaultHasher::new();
        for (line, released) in &self.lines {
            for part in sight.lines.get(line).into_iter().flatten() {
                let end = part.moments.seen_at(released.tail.sequence);
                (line, end, part.moments.tally(released.first, end)).hash(&mut hasher);
                (part.above, part.up_to).hash(&mut hasher);
                part.floors.hash(&mut hasher);
            }
        }
        hasher.finish()
    }
}

fn data(record: &Record) -> Vec<(DiskId, ByteRange)> {
    let data = record.extents.iter();
    let data = data.filter(|extent| matches!(extent.content, ExtentContent::Data { .. }));
    data.map(|extent| (extent.disk, extent.range)).collect()
}
