//! Compacted segments: what the manifest knows of them.
//!
//! ```text
//!   SegmentCompacted 12, from 3 and 7 ─▶ index points into 12, flushed ─▶ SegmentReleased 3, 7 ─▶ 12 stands for itself
//! ```
//!
//! **Invariant:** as long as a segment that was compacted is still there, it is listed: whoever finds it so after a crash goes
//! on where the index is pointed anew, which can be done any number of times.

use super::format::{FrameError, Reader, Writer};
use super::record::ManifestRecord;
use super::state::{ManifestState, Misfit};
use crate::ids::{LaneId, LaneSequence, SegmentId};
use crate::journal::compacted::MAX_TABLE_BYTES;
use crate::journal::format::{MAX_SEGMENT_BYTES, UNIT};

/// First kind of this module.
pub(super) const SEGMENT_COMPACTED: u16 = 48;
/// Most segments that become one.
pub const MAX_FROM: usize = 64;

/// A compacted segment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CompactedEntry {
    /// Its number.
    pub id: SegmentId,
    /// The lane that its records were written through.
    pub lane: LaneId,
    /// Its salt.
    pub salt: u64,
    /// Length of its file.
    pub size_bytes: u64,
    /// Where its two tables start, in bytes; each takes half of the rest.
    pub table: u64,
    /// The highest lane sequence of its records.
    pub through: LaneSequence,
    /// Segments that it was made of and that are still there, in order.
    pub from: Vec<SegmentId>,
}

impl CompactedEntry {
    pub(super) fn encode(&self, to: &mut Writer<'_>) {
        to.u16(SEGMENT_COMPACTED);
        to.u32(self.id.number());
        to.u16(self.lane.number());
        to.u64(self.salt);
        to.u64(self.size_bytes);
        to.u64(self.table);
        to.u64(self.through.number());
        assert!(self.from.len() <= MAX_FROM, "{} segments became one", self.from.len());
        to.u16(u16::try_from(self.from.len()).expect("far fewer"));
        self.from.iter().for_each(|from| to.u32(from.number()));
    }

    pub(super) fn decode(from: &mut Reader<'_>) -> Result<Self, FrameError> {
        let id = SegmentId::new(from.u32()?);
        let lane = LaneId::new(from.u16()?);
        let (salt, size_bytes, table) = (from.u64()?, from.u64()?, from.u64()?);
        let through = LaneSequence::new(from.u64()?);
        let tables = size_bytes.checked_sub(table).ok_or(FrameError::Field("table"))?;
        let sizes = size_bytes <= MAX_SEGMENT_BYTES
            && table >= UNIT
            && table.is_multiple_of(UNIT)
            && tables > 0
            && tables.is_multiple_of(2 * UNIT)
            && tables / 2 <= MAX_TABLE_BYTES as u64 + UNIT;
        if !sizes {
            return Err(FrameError::Field("sizes of a compacted segment"));
        }
        let count = usize::from(from.u16()?);
        if count > MAX_FROM {
            return Err(FrameError::Field("from"));
        }
        let mut list: Vec<SegmentId> = Vec::with_capacity(count);
        for _ in 0..count {
            let next = SegmentId::new(from.u32()?);
            if list.last().is_some_and(|last| *last >= next) {
                return Err(FrameError::Field("order of from"));
            }
            list.push(next);
        }
        Ok(Self { id, lane, salt, size_bytes, table, through, from: list })
    }
}

impl ManifestState {
    pub(super) fn add_compacted(&mut self, entry: &CompactedEntry) -> Result<(), Misfit> {
        let misfit = |what: String| Misfit { record: "SegmentCompacted", what };
        if self.segments.contains_key(&entry.id) || self.compacted.contains_key(&entry.id) {
            return Err(misfit(format!("{:?} was there before", entry.id)));
        }
        for from in &entry.from {
            let ended = self.segments.get(from).filter(|one| one.ended.is_some());
            let lane = ended.map(|one| one.lane);
            // One whose own originals are there is not known to stand for them.
            let whole = self.compacted.get(from).filter(|one| one.from.is_empty());
            if lane.or(whole.map(|one| one.lane)) != Some(entry.lane) {
                return Err(misfit(format!("{from:?} cannot be compacted")));
            }
            if self.compacted.values().any(|other| other.from.contains(from)) {
                return Err(misfit(format!("{from:?} was compacted already")));
            }
        }
        self.given.segment = self.given.segment.max(entry.id);
        self.compacted.insert(entry.id, entry.clone());
        Ok(())
    }

    /// Takes out a segment of any kind, which needs an end if a lane wrote it.
    pub(super) fn release_segment(&mut self, segment: SegmentId) -> Result<(), Misfit> {
        let ended = self.segments.get(&segment).is_some_and(|entry| entry.ended.is_some());
        if ended {
            self.segments.remove(&segment);
        } else if self.compacted.remove(&segment).is_none() {
            return Err(Misfit::missing("SegmentReleased", segment));
        }
        for other in self.compacted.values_mut() {
            other.from.retain(|from| *from != segment);
        }
        Ok(())
    }

    pub(super) fn compacted_records(&self, into: &mut Vec<ManifestRecord>) {
        // One that another is made of has the lower number.
        into.extend(self.compacted.values().cloned().map(ManifestRecord::SegmentCompacted));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::format::{encode_frame, parse_frame};

    const LANE: LaneId = LaneId::new(0);

    fn born(segment: u32, lane: u16) -> [ManifestRecord; 2] {
        let (segment, first) = (SegmentId::new(segment), LaneSequence::new(u64::from(segment)));
        let lane = LaneId::new(lane);
        [
            ManifestRecord::SegmentBorn { segment, lane, salt: 1, first, size_bytes: 1 << 20 },
            ManifestRecord::SegmentEnded { segment, end: 8192, next: first.next() },
        ]
    }

    fn entry(id: u32, from: &[u32]) -> CompactedEntry {
        CompactedEntry {
            id: SegmentId::new(id),
            lane: LANE,
            salt: 2,
            size_bytes: 4 * UNIT,
            table: 2 * UNIT,
            through: LaneSequence::new(9),
            from: from.iter().copied().map(SegmentId::new).collect(),
        }
    }

    fn compacted(id: u32, from: &[u32]) -> ManifestRecord {
        ManifestRecord::SegmentCompacted(entry(id, from))
    }

    fn released(segment: u32) -> ManifestRecord {
        ManifestRecord::SegmentReleased { segment: SegmentId::new(segment) }
    }

    fn state() -> ManifestState {
        let mut state = ManifestState::default();
        let [open, _] = born(4, 0);
        let all = [born(1, 0), born(2, 0), born(3, 1)].concat();
        all.iter().chain([&open]).for_each(|record| state.apply(record).expect("it fits"));
        state
    }

    #[test]
    fn only_what_stands_for_itself_is_compacted_and_once() {
        let mut state = state();
        state.apply(&compacted(9, &[1])).expect("it fits");
        assert_eq!(state.given.segment, SegmentId::new(9));
        for misfit in [
            compacted(9, &[2]),
            compacted(2, &[]),
            compacted(10, &[3]),
            compacted(10, &[4]),
            compacted(10, &[5]),
            compacted(10, &[1, 2]),
            compacted(10, &[2, 9]),
            released(8),
            released(4),
        ] {
            assert!(state.clone().apply(&misfit).is_err(), "{misfit:?}");
        }
        state.apply(&released(1)).expect("it has an end");
        assert_eq!(state.compacted[&SegmentId::new(9)].from, []);
        state.apply(&compacted(10, &[2, 9])).expect("its originals are gone");
        let mut again = ManifestState::default();
        state.records().iter().for_each(|record| again.apply(record).expect("a snapshot"));
        assert_eq!(again, state);
        state.apply(&released(9)).expect("it is there");
        state.apply(&released(2)).expect("it is there");
        state.apply(&released(10)).expect("it is there");
        assert!(state.compacted.is_empty());
    }

    #[test]
    fn sizes_that_make_no_sense_are_refused() {
        let refused = |change: &dyn Fn(&mut CompactedEntry)| {
            let mut entry = entry(9, &[1, 2]);
            change(&mut entry);
            let mut bytes = Vec::new();
            encode_frame(0, &[ManifestRecord::SegmentCompacted(entry)], &mut bytes);
            parse_frame(&bytes, 0).is_err()
        };
        assert!(!refused(&|_| ()));
        assert!(refused(&|entry| entry.table = 0));
        assert!(refused(&|entry| entry.table = 4 * UNIT));
        assert!(refused(&|entry| entry.table = 5 * UNIT));
        assert!(refused(&|entry| entry.table = UNIT));
        assert!(refused(&|entry| entry.size_bytes += 1));
        assert!(refused(&|entry| entry.size_bytes = 2 * MAX_SEGMENT_BYTES));
        assert!(refused(&|entry| entry.from.reverse()));
        assert!(refused(&|entry| entry.from.fill(SegmentId::new(3))));
    }
}
