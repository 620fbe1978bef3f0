//! Which moments of a line are gone: runs of sequences that cannot be chosen any more.
//!
//! ```text
//!   dropped   1 ──── 59   61 ──── 119   121 ─ … ─ 7199          runs that neither touch nor overlap
//!   kept               60           120                7200 …    what lies between them
//! ```
//!
//! What is dropped stays dropped. Between two runs lies at least one kept sequence, so a line takes 16 bytes per point that
//! thinning left, however many it dropped. **Invariants:** runs are sorted, not empty, and at least one sequence apart.

use super::record::ManifestRecord;
use crate::ids::{LineId, Sequence};

/// Most kept sequences that one record lists: it stays far below the limit of a frame.
pub const MAX_KEPT: usize = 2000;
/// A stretch of kept sequences that is longer ends a record of a snapshot: it is not listed one by one.
const LISTED_STRETCH: u64 = 16;

/// The dropped moments of a line.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Dropped {
    runs: Vec<Run>,
    through: u64,
}

/// Consecutive sequences, both ends among them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Run {
    first: u64,
    last: u64,
}

impl Run {
    fn holds(self, sequence: u64) -> bool {
        (self.first..=self.last).contains(&sequence)
    }
}

impl Dropped {
    /// Whether `sequence` is gone.
    pub fn contains(&self, sequence: Sequence) -> bool {
        let sequence = sequence.number();
        let at = self.runs.partition_point(|run| run.last < sequence);
        self.runs.get(at).is_some_and(|run| run.holds(sequence))
    }

    /// Whether nothing is gone.
    pub fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// How many runs there are.
    pub fn runs(&self) -> usize {
        self.runs.len()
    }

    /// Up to where it was ever decided what goes.
    pub fn through(&self) -> Sequence {
        Sequence::new(self.through)
    }

    /// The highest sequence below the run that holds `sequence`, if there is one. Whether it is a moment is for others
    /// to say.
    pub fn below(&self, sequence: Sequence) -> Option<Sequence> {
        let at = self.runs.partition_point(|run| run.last < sequence.number());
        let run = self.runs.get(at).filter(|run| run.holds(sequence.number()));
        run.map_or(Some(sequence.number()), |run| run.first.checked_sub(1)).map(Sequence::new)
    }

    /// The lowest sequence at or above `sequence` that is not gone, if there is one.
    pub fn above(&self, sequence: Sequence) -> Option<Sequence> {
        let at = self.runs.partition_point(|run| run.last < sequence.number());
        let run = self.runs.get(at).filter(|run| run.holds(sequence.number()));
        run.map_or(Some(sequence.number()), |run| run.last.checked_add(1)).map(Sequence::new)
    }

    /// How many of `first..=last` are not gone.
    pub fn within(&self, first: Sequence, last: Sequence) -> u64 {
        let (first, last) = (first.number(), last.number());
        let from = self.runs.partition_point(|run| run.last < first);
        let touching = self.runs[from..].iter().take_while(|run| run.first <= last);
        let gone: u64 = touching.map(|run| run.last.min(last) - run.first.max(first) + 1).sum();
        (last - first).saturating_add(1).saturating_sub(gone)
    }

    /// What was left between what is gone, stretch by stretch; not what lies between stretches so long that nothing was
    /// ever decided about them.
    pub fn kept_between(&self) -> impl Iterator<Item = Sequence> {
        let stretches = self.runs.windows(2).map(|two| two[0].last + 1..two[1].first);
        let short = |stretch: &std::ops::Range<u64>| stretch.end - stretch.start <= LISTED_STRETCH;
        let end = self.runs.last().map(|run| run.last + 1..self.through.saturating_add(1));
        stretches.chain(end).filter(short).flatten().map(Sequence::new)
    }

    /// Drops all from `first` to `last` but `kept`, which is sorted.
    pub fn drop_all_but(&mut self, first: Sequence, last: Sequence, kept: &[Sequence]) {
        self.through = self.through.max(last.number());
        let mut start = first.number();
        for kept in kept.iter().map(|kept| kept.number()) {
            if start < kept {
                self.drop_run(Run { first: start, last: kept - 1 });
            }
            start = kept.saturating_add(1);
        }
        if start <= last.number() && kept.last() != Some(&last) {
            self.drop_run(Run { first: start, last: last.number() });
        }
    }

    fn drop_run(&mut self, new: Run) {
        // Runs that touch the new one become part of it.
        let from = self.runs.partition_point(|run| run.last.saturating_add(1) < new.first);
        let to = self.runs.partition_point(|run| run.first <= new.last.saturating_add(1)).max(from);
        let touched = &self.runs[from..to];
        let first = touched.first().map_or(new.first, |run| run.first.min(new.first));
        let last = touched.last().map_or(new.last, |run| run.last.max(new.last));
        self.runs.splice(from..to, [Run { first, last }]);
    }

    /// No longer remembers what is gone below `sequence`: nothing below it can be chosen for another reason.
    pub fn forget_below(&mut self, sequence: Sequence) {
        let sequence = sequence.number();
        self.runs.retain(|run| run.last >= sequence);
        if let Some(first) = self.runs.first_mut()
            && first.first < sequence
        {
            first.first = sequence;
        }
    }

    /// What of it lies above one sequence and up to another.
    pub(super) fn clip(&self, above: Sequence, up_to: Sequence) -> Self {
        let (first, last) = (above.number().saturating_add(1), up_to.number());
        let inside = |run: &Run| {
            let (first, last) = (run.first.max(first), run.last.min(last));
            (first <= last).then_some(Run { first, last })
        };
        let through = if self.through < first { 0 } else { self.through.min(last) };
        Self { runs: self.runs.iter().filter_map(inside).collect(), through }
    }

    /// What is gone in `other` is gone here, too.
    pub(super) fn add(&mut self, other: &Self) {
        other.runs.iter().for_each(|run| self.drop_run(*run));
        self.through = self.through.max(other.through);
    }

    /// Records that add up to it.
    pub(super) fn records(&self, line: LineId, into: &mut Vec<ManifestRecord>) {
        let mut runs = self.runs.iter().peekable();
        while let Some(run) = runs.next() {
            let (first, mut last, mut kept) = (run.first, run.last, Vec::new());
            while let Some(next) = runs.peek() {
                let stretch = next.first - last - 1;
                if stretch > LISTED_STRETCH || kept.len() as u64 + stretch > MAX_KEPT as u64 {
                    break;
                }
                kept.extend((last + 1..next.first).map(Sequence::new));
                last = next.last;
                runs.next();
            }
            let (first, last) = (Sequence::new(first), Sequence::new(last));
            into.push(ManifestRecord::PointsDropped { line, first, last, kept });
        }
        if self.through > self.runs.last().map_or(0, |run| run.last) {
            let (first, last) = (self.through(), self.through());
            into.push(ManifestRecord::PointsDropped { line, first, last, kept: vec![last] });
        }
    }
}

/// The records that drop all from `first` to `last` but `kept`, however many those are.
pub(crate) fn drop_records(
    line: LineId,
    first: Sequence,
    last: Sequence,
    kept: &[Sequence],
) -> Vec<ManifestRecord> {
    let mut records = Vec::new();
    let (mut first, mut kept) = (first, kept);
    while kept.len() > MAX_KEPT {
        let (now, later) = kept.split_at(MAX_KEPT);
        let last = now[MAX_KEPT - 1];
        records.push(ManifestRecord::PointsDropped { line, first, last, kept: now.to_vec() });
        (first, kept) = (last.next(), later);
    }
    if first <= last {
        records.push(ManifestRecord::PointsDropped { line, first, last, kept: kept.to_vec() });
    }
    records
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    const LINE: LineId = LineId::new(3);

    fn drops() -> impl Strategy<Value = Vec<(u64, u64, BTreeSet<u64>)>> {
        let kept = proptest::collection::btree_set(0u64..300, 0..40);
        proptest::collection::vec((0u64..300, 0u64..120, kept), 0..12)
    }

    fn apply(dropped: &mut Dropped, records: &[ManifestRecord]) {
        for record in records {
            let ManifestRecord::PointsDropped { line, first, last, kept } = record else {
                panic!("{record:?}");
            };
            assert_eq!(*line, LINE);
            assert!(kept.len() <= MAX_KEPT, "{} are listed", kept.len());
            dropped.drop_all_but(*first, *last, kept);
        }
    }

    proptest! {
        #[test]
        fn it_is_a_set(drops in drops(), below in 0u64..300) {
            let (mut dropped, mut model) = (Dropped::default(), BTreeSet::new());
            for (first, length, kept) in drops {
                let last = first + length;
                let kept: Vec<_> = kept.range(first..=last).copied().collect();
                model.extend((first..=last).filter(|number| !kept.contains(number)));
                let kept: Vec<_> = kept.into_iter().map(Sequence::new).collect();
                let records = drop_records(LINE, Sequence::new(first), Sequence::new(last), &kept);
                apply(&mut dropped, &records);
                let gaps = dropped.runs.windows(2).all(|two| two[0].last + 1 < two[1].first);
                prop_assert!(gaps, "{:?}", dropped.runs);
            }
            let mut again = Dropped::default();
            let mut records = Vec::new();
            dropped.records(LINE, &mut records);
            apply(&mut again, &records);
            prop_assert_eq!(&again, &dropped);
            for number in 0..600 {
                let sequence = Sequence::new(number);
                prop_assert_eq!(dropped.contains(sequence), model.contains(&number));
                let free = (0..=number).rev().find(|number| !model.contains(number));
                prop_assert_eq!(dropped.below(sequence), free.map(Sequence::new));
                let free = (number..).find(|number| !model.contains(number));
                prop_assert_eq!(dropped.above(sequence), free.map(Sequence::new));
                let within = (below..=below + number).filter(|number| !model.contains(number));
                let range = (Sequence::new(below), Sequence::new(below + number));
                prop_assert_eq!(dropped.within(range.0, range.1), within.count() as u64);
            }
            dropped.forget_below(Sequence::new(below));
            for number in 0..600 {
                let wanted = number >= below && model.contains(&number);
                prop_assert_eq!(dropped.contains(Sequence::new(number)), wanted);
            }
        }
    }

    #[test]
    fn a_hundred_thousand_kept_points_are_small_in_memory_and_in_a_snapshot() {
        let kept: Vec<_> = (1..=100_000).map(|number| Sequence::new(number * 60)).collect();
        let (first, last) = (Sequence::new(0), Sequence::new(6_000_030));
        let mut dropped = Dropped::default();
        let records = drop_records(LINE, first, last, &kept);
        assert_eq!(records.len(), 50);
        apply(&mut dropped, &records);
        assert_eq!(dropped.runs(), 100_001);
        let mut records = Vec::new();
        dropped.records(LINE, &mut records);
        let mut again = Dropped::default();
        apply(&mut again, &records);
        assert_eq!(again, dropped);
        let mut bytes = Vec::new();
        for (number, records) in (0..).zip(records.chunks(64)) {
            super::super::format::encode_frame(number, records, &mut bytes);
        }
        assert!(bytes.len() < 110_000, "{} bytes", bytes.len());
    }

    #[test]
    fn the_ends_of_all_numbers_are_no_trouble() {
        let mut dropped = Dropped::default();
        let last = Sequence::new(u64::MAX);
        dropped.drop_all_but(Sequence::new(5), last, &[Sequence::new(9)]);
        dropped.drop_all_but(Sequence::new(0), last, &[last]);
        assert!(dropped.contains(last) && dropped.contains(Sequence::new(9)));
        assert_eq!(dropped.below(last), None);
        assert_eq!(dropped.above(Sequence::new(0)), None);
        assert_eq!(dropped.runs(), 1);
    }
}
