//! What another policy would keep of the history that there is, and what that takes.
//!
//! ```text
//!   points on record ─▶ decide ─▶ kept ─┐
//!   versions in the index ──────────────┴▶ needed by a kept point? ─▶ bytes of the journal
//! ```
//!
//! Points are decided about as thinning does it, at the present time. Space is counted, not modelled: a version of the
//! index counts if it is what some kept point, or the head, reads at its place. What it leaves out is said: heads of
//! records, versions that are only partly covered by newer ones (they count whole), what branches need.

use crate::ids::{LineId, Sequence};
use crate::index::block_key::{SizeClass, line_range, parse_key};
use crate::index::{IndexError, IndexStore};
use crate::line::Line;
use crate::moment::ResolveError;
use crate::name::Name;
use crate::policy::{Decision, Holds, Policy, Scope, decide};
use crate::retention::Retention;
use crate::thinning::{Shown, holds};
use crate::time::Timestamp;
use landfall_disks::uring::offload;
use std::sync::Arc;

/// Most entries of the index that a simulation looks at: some ten seconds of work.
const MAX_ENTRIES: u64 = 10_000_000;

/// What a policy would do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Simulation {
    /// The policy.
    pub policy: Policy,
    /// The time it was decided at.
    pub now: Timestamp,
    /// Points on record: what was dropped before cannot be brought back by any policy.
    pub points: u64,
    /// When the oldest of them was committed.
    pub oldest: Option<Timestamp>,
    /// What would be kept.
    pub decision: Decision,
    /// What that would take.
    pub space: SpaceEstimate,
}

/// Bytes of data in the journal that the trunk needs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SpaceEstimate {
    /// Entries of the index that were looked at.
    pub entries: u64,
    /// Whether those were all.
    pub complete: bool,
    /// Bytes that those entries stand for.
    pub recorded_bytes: u64,
    /// Bytes of them that the points kept, and the head, would need.
    pub needed_bytes: u64,
}

impl Retention {
    /// Replays the points of a machine's trunk against another policy.
    pub async fn simulate(
        &self,
        machine: &Name,
        policy: Policy,
    ) -> Result<Simulation, ResolveError> {
        let line = self.line_named(machine, None)?;
        let now = self.surroundings.clock.now();
        let holds = {
            let state = self.manifest.state();
            let entry = state.lines.get(&line.id());
            entry.map_or_else(Holds::default, |entry| holds(entry, &Shown::of(&state), &line, now))
        };
        let index = Arc::clone(&self.surroundings.index);
        let simulated = offload(move || {
            let tail = line.tail().sequence;
            let heads: Vec<_> = line.points(|points| {
                let end = Timestamp::from_nanoseconds(u64::MAX);
                points.heads(Timestamp::default(), end).collect()
            });
            let between = |from: Timestamp, to: Timestamp| {
                let first = heads.partition_point(|head| head.commit_time < from);
                let last = heads.partition_point(|head| head.commit_time < to);
                heads[first..last.max(first)].iter().copied()
            };
            let decision = decide(between, None, &holds, &policy, now, Scope::Everything);
            let goes = |at: Sequence| decision.drop.iter().any(|range| range.drops(at));
            let kept = heads.iter().map(|head| head.sequence).filter(|at| !goes(*at));
            let mut kept: Vec<Sequence> = kept.chain([tail]).collect();
            kept.dedup();
            let space = estimate_history(&*index, &line, &kept)?;
            let (points, oldest) = (heads.len() as u64, heads.first().map(|head| head.commit_time));
            Ok::<_, IndexError>(Simulation { policy, now, points, oldest, decision, space })
        });
        Ok(simulated.await?)
    }
}

/// The bytes of the versions of a history that `kept`, which is sorted, needs from the journal.
fn estimate_history(
    index: &dyn IndexStore,
    line: &Line,
    kept: &[Sequence],
) -> Result<SpaceEstimate, IndexError> {
    let mut space = SpaceEstimate { complete: true, ..SpaceEstimate::default() };
    for stretch in line.ancestry().stretches {
        // What comes later sees the last of a stretch.
        let to = kept.partition_point(|at| *at <= stretch.up_to);
        let mut seen = kept[..to].to_vec();
        seen.extend((to < kept.len()).then_some(stretch.up_to));
        seen.dedup();
        let found = estimate(index, stretch.line, &seen, MAX_ENTRIES - space.entries)?;
        space.entries += found.entries;
        space.complete &= found.complete;
        space.recorded_bytes += found.recorded_bytes;
        space.needed_bytes += found.needed_bytes;
    }
    Ok(space)
}

/// The bytes of the versions of a line that `kept`, which is sorted, needs from the journal. What the oldest of them reads
/// lies in the image once history was folded up to it.
fn estimate(
    index: &dyn IndexStore,
    line: LineId,
    kept: &[Sequence],
    most: u64,
) -> Result<SpaceEstimate, IndexError> {
    let mut space = SpaceEstimate::default();
    let (start, end) = line_range(line);
    let mut cursor = index.cursor();
    cursor.seek(&start)?;
    let mut place: Option<Vec<u8>> = None;
    // The version above the present one at the same place; none above the newest.
    let mut newer: Option<Sequence> = None;
    while let Some((key, value)) = cursor.entry() {
        if key >= end.as_slice() {
            space.complete = true;
            return Ok(space);
        }
        if space.entries == most {
            return Ok(space);
        }
        let found = parse_key(key).ok_or_else(|| crate::index::damaged(key))?;
        let same = place.as_deref() == Some(found.place);
        if !same {
            (place, newer) = (Some(found.place.to_vec()), None);
        }
        // A version of zeroes takes no space.
        let bytes = if value.first() == Some(&0) { 0 } else { SizeClass::bytes(found.class) };
        space.entries += 1;
        space.recorded_bytes += bytes;
        let first = kept.partition_point(|at| *at < found.sequence);
        let reader = kept.get(first).filter(|at| newer.is_none_or(|newer| **at < newer));
        let folded = kept.first().is_some_and(|oldest| found.sequence <= *oldest);
        if reader.is_some() && !folded {
            space.needed_bytes += bytes;
        }
        newer = Some(found.sequence);
        cursor.advance()?;
    }
    space.complete = true;
    Ok(space)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{DiskId, SegmentId};
    use crate::index::IndexBatch;
    use crate::index::block_key::{put_data, put_zeroes};
    use crate::index::memory::MemoryIndex;
    use landfall_disks::{ByteOffset, ByteRange};

    const LINE: LineId = LineId::new(4);

    fn range(block: u64, blocks: u64) -> ByteRange {
        ByteRange::at(ByteOffset::new(block * 4096), blocks * 4096).expect("small")
    }

    fn index() -> MemoryIndex {
        let index = MemoryIndex::default();
        let mut batch = IndexBatch::default();
        let mut write = |line: LineId, sequence: u64, block: u64, blocks: u64| {
            let version = (line, DiskId::new(1), Sequence::new(sequence));
            let sums = vec![0; usize::try_from(blocks).unwrap()];
            let place = (SegmentId::new(1), 8);
            put_data(&mut batch, version, range(block, blocks), place, &sums);
        };
        // Block 0 at 1 to 9, block 1 at 4 only, sixteen blocks at 6; another line does not count.
        (1..=9).for_each(|sequence| write(LINE, sequence, 0, 1));
        write(LINE, 4, 1, 1);
        write(LINE, 6, 16, 16);
        write(LineId::new(5), 7, 0, 1);
        write(LineId::new(3), 7, 0, 1);
        put_zeroes(&mut batch, (LINE, DiskId::new(1), Sequence::new(5)), range(1, 1));
        index.write(batch).expect("memory");
        index
    }

    #[test]
    fn what_a_kept_point_reads_is_counted_once() {
        let index = index();
        let needed = |kept: &[u64]| {
            let kept: Vec<_> = kept.iter().copied().map(Sequence::new).collect();
            let space = estimate(&index, LINE, &kept, 1000).expect("memory");
            assert!(space.complete);
            assert_eq!((space.entries, space.recorded_bytes), (12, (10 + 16) * 4096));
            space.needed_bytes / 4096
        };
        // Everything but what lies at or below the oldest.
        assert_eq!(needed(&[1, 2, 3, 4, 5, 6, 7, 8, 9]), 8 + 1 + 16);
        // 3 is the floor; 4 and 9 read block 0, block 1 is needed at 4 and zero at 9.
        assert_eq!(needed(&[3, 4, 9]), 2 + 1 + 16);
        assert_eq!(needed(&[3, 9]), 1 + 16);
        assert_eq!(needed(&[7, 9]), 1);
        assert_eq!(needed(&[9]), 0);
    }

    #[test]
    fn a_long_index_is_cut_short_and_said_to_be() {
        let kept = [Sequence::new(9)];
        let space = estimate(&index(), LINE, &kept, 11).expect("memory");
        assert_eq!((space.entries, space.complete), (11, false));
        assert!(estimate(&index(), LINE, &kept, 12).expect("memory").complete);
    }
}
