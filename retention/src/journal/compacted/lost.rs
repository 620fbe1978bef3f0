//! What is lost with the tables of a compacted segment. Pure.
//!
//! They are the one place that says what was kept of records whose own segments are gone, besides the index. So any line may
//! have lost what the manifest knows it to have had there.

use crate::ids::{LaneSequence, LineId};
use crate::index::gap_key::Lost;
use crate::manifest::compacted::CompactedEntry;
use crate::manifest::lineage::Owned;
use crate::manifest::released::ReleasedRun;
use std::collections::BTreeMap;

/// Of each line of the lane, what was released up to where `entry` may have kept something. `released` is of its lane, and
/// `written` says whose each sequence is by now: a gap is looked for there.
pub(crate) fn lost_with<'a>(
    entry: &CompactedEntry,
    released: impl Iterator<Item = (LaneSequence, &'a ReleasedRun)>,
    written: &BTreeMap<LineId, Vec<Owned>>,
) -> Vec<Lost> {
    let mut lost = Vec::new();
    for (_, run) in released.filter(|(first, _)| *first <= entry.through) {
        for (line, of) in &run.lines {
            for owned in written.get(line).into_iter().flatten() {
                let first = of.first.max(owned.above.next());
                let last = of.tail.sequence.min(owned.up_to);
                if first <= last {
                    lost.push(Lost { line: *line, first, last });
                }
            }
        }
    }
    lost
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{LaneId, SegmentId, Sequence};
    use crate::index::tail_key::LineTail;
    use crate::journal::format::Chain;
    use crate::manifest::released::ReleasedLine;

    fn run(next: u64, lines: &[(u32, u64, u64)]) -> ReleasedRun {
        let line = |(line, first, last): &(u32, u64, u64)| {
            let tail = LineTail { sequence: Sequence::new(*last), ..LineTail::default() };
            let (first, chain_before) = (Sequence::new(*first), Chain::default());
            (LineId::new(*line), ReleasedLine { first, chain_before, tail })
        };
        ReleasedRun { next: LaneSequence::new(next), lines: lines.iter().map(line).collect() }
    }

    #[test]
    fn a_line_may_have_lost_what_it_had_in_runs_that_came_before() {
        let entry = CompactedEntry {
            id: SegmentId::new(9),
            lane: LaneId::new(0),
            salt: 1,
            size_bytes: 8192,
            table: 4096,
            through: LaneSequence::new(20),
            from: Vec::new(),
        };
        let runs = [
            (1, run(11, &[(1, 1, 6), (2, 1, 4)])),
            (15, run(30, &[(1, 9, 14)])),
            (40, run(50, &[(1, 20, 22)])),
        ];
        // Of line 1 a branch took over what comes after 3; line 3 is of nobody here.
        let owned = |owner, above, up_to| Owned {
            owner: LineId::new(owner),
            above: Sequence::new(above),
            up_to: Sequence::new(up_to),
        };
        let written = BTreeMap::from([
            (LineId::new(1), vec![owned(5, 0, 3), owned(1, 3, u64::MAX)]),
            (LineId::new(2), vec![owned(2, 4, u64::MAX)]),
        ]);
        let runs = runs.iter().map(|(first, run)| (LaneSequence::new(*first), run));
        let lost: Vec<_> = lost_with(&entry, runs, &written)
            .iter()
            .map(|lost| (lost.line.number(), lost.first.number(), lost.last.number()))
            .collect();
        assert_eq!(lost, [(1, 1, 3), (1, 4, 6), (1, 9, 14)]);
    }
}
