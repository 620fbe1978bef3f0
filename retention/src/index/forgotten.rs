//! What the index may lose: versions that images hold or that nobody sees, and what no moment is left of. Pure.
//!
//! ```text
//!   version   line, disk, sequence ≤ floor of the disk                        ─▶ may go
//!             written again before the next moment that can be looked at      ─▶ may go
//!   boundary, point   sequence < start of the history, or it was dropped      ─▶ may go
//!   bytes so far      sequence < start of the history                         ─▶ may go
//!   gap       sequence ≤ lowest floor of the line's disks                     ─▶ may go
//!   anything  of a line that is gone                                          ─▶ may go
//! ```
//!
//! Each entry may go or stay for itself, in any order. Nobody who looks at or above the start of history takes anything at
//! or below a floor into account, so an older version that a newer one uncovers is not seen either. Above a floor, a version
//! goes only if a newer one of the same place comes before the next moment: the newer one hides what lies below it from all
//! later looks, and there are none in between. Should the newer one go, it is for a still newer one of which the same holds.

use super::block_key::parse_key;
use crate::ids::{DiskId, LineId, Sequence};
use crate::manifest::dropped::Dropped;
use crate::manifest::lineage::Owned;
use crate::manifest::state::ManifestState;
use crate::moments::Moments;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// Up to where things may go, per disk and per line.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Forgotten {
    floors: HashMap<(LineId, DiskId), Sequence>,
    starts: HashMap<LineId, Sequence>,
    lowest: HashMap<LineId, Sequence>,
    dropped: HashMap<LineId, Arc<Dropped>>,
    moments: HashMap<LineId, Moments>,
    /// Whose what a line wrote is, where that is not all its own; what is nobody's may go.
    written: HashMap<LineId, Vec<Owned>>,
    /// Lines there are, and the highest there ever was: those in between are gone.
    lines: HashSet<LineId>,
    newest_line: LineId,
}

/// One walk over entries in the order of their keys.
#[derive(Debug)]
pub struct Pass {
    forgotten: Arc<Forgotten>,
    /// The version before, if the walk stands at one: what its place is, and its sequence.
    newer: Option<(Vec<u8>, Sequence)>,
}

impl Forgotten {
    /// What a manifest allows.
    pub fn of(state: &ManifestState) -> Self {
        let written = state.written(None);
        let mut forgotten = Self {
            lines: written.keys().copied().collect(),
            newest_line: state.given.line,
            ..Self::default()
        };
        let all_its_own = |line: LineId, owned: &[Owned]| matches!(owned, [one] if one.owner == line && one.up_to == Sequence::MAX);
        forgotten.written =
            written.into_iter().filter(|(line, owned)| !all_its_own(*line, owned)).collect();
        for line in state.lines.values().filter(|line| !line.dropped.is_empty()) {
            forgotten.dropped.insert(line.id, Arc::clone(&line.dropped));
        }
        for machine in state.machines.values() {
            let Some(start) = state.lines.get(&machine.trunk).and_then(|line| line.start.as_ref())
            else {
                continue;
            };
            forgotten.starts.insert(machine.trunk, start.sequence);
            let mut lowest = start.sequence;
            for disk in machine.disks.iter().filter_map(|disk| state.disks.get(disk)) {
                let floor = disk.floor.unwrap_or_default();
                lowest = lowest.min(floor);
                forgotten.floors.insert((machine.trunk, disk.id), floor);
            }
            forgotten.lowest.insert(machine.trunk, lowest);
        }
        forgotten
    }

    /// The same, and what nobody sees between the moments of lines.
    pub fn seeing(self, moments: impl IntoIterator<Item = (LineId, Moments)>) -> Self {
        Self { moments: moments.into_iter().collect(), ..self }
    }

    /// Whose a sequence of what a line wrote is, and up to where it is theirs.
    fn owner(&self, line: LineId, sequence: Sequence) -> Option<(LineId, Sequence)> {
        let Some(owned) = self.written.get(&line) else { return Some((line, Sequence::MAX)) };
        owned.iter().find(|one| one.holds(sequence)).map(|one| (one.owner, one.up_to))
    }

    /// Whether the entry at `key` may go whatever else there is. A key that does not parse stays, to be reported by whoever
    /// reads it.
    pub fn covers(&self, key: &[u8]) -> bool {
        if line_of(key).is_some_and(|line| line <= self.newest_line && !self.lines.contains(&line))
        {
            return true;
        }
        match key.first() {
            Some(1) => self.covers_version(key).unwrap_or(false),
            Some(2 | 3 | 6 | 7) => moment(key).is_some_and(|(line, at)| {
                self.owner(line, at).is_none_or(|(owner, _)| self.covers_moment(key[0], owner, at))
            }),
            _ => false,
        }
    }

    fn covers_moment(&self, kind: u8, line: LineId, at: Sequence) -> bool {
        let folded = self.starts.get(&line).is_some_and(|start| at < *start);
        match kind {
            2 | 3 => folded || self.dropped.get(&line).is_some_and(|gone| gone.contains(at)),
            7 => folded,
            _ => self.lowest.get(&line).is_some_and(|low| at <= *low),
        }
    }

    fn covers_version(&self, key: &[u8]) -> Option<bool> {
        let parsed = parse_key(key)?;
        let Some((owner, _)) = self.owner(parsed.line, parsed.sequence) else { return Some(true) };
        Some(parsed.sequence <= *self.floors.get(&(owner, parsed.disk))?)
    }

    /// Begins a walk over entries.
    pub fn pass(self: &Arc<Self>) -> Pass {
        Pass { forgotten: Arc::clone(self), newer: None }
    }
}

impl Pass {
    /// Whether the next entry may go. Keys come in order; entries may be left out.
    pub fn goes(&mut self, key: &[u8]) -> bool {
        let Some(version) = parse_key(key) else {
            self.newer = None;
            return self.forgotten.covers(key);
        };
        let newer = self.newer.as_ref().filter(|(place, _)| *place == version.place);
        let newer = newer.map(|(_, sequence)| *sequence);
        match &mut self.newer {
            Some((place, sequence)) if *place == version.place => *sequence = version.sequence,
            other => *other = Some((version.place.to_vec(), version.sequence)),
        }
        let newer = newer.filter(|newer| *newer > version.sequence);
        let owner = self.forgotten.owner(version.line, version.sequence);
        let hidden = newer.zip(owner).is_some_and(|(newer, (owner, up_to))| {
            let moments = self.forgotten.moments.get(&owner);
            // A newer one that is another history's hides nothing.
            moments.is_some_and(|moments| newer <= moments.seen_at(version.sequence).min(up_to))
        });
        hidden || self.forgotten.covers(key)
    }
}

/// The line that an entry belongs to, if it belongs to one.
fn line_of(key: &[u8]) -> Option<LineId> {
    let whole = match key.first()? {
        1 => parse_key(key).map(|_| ()),
        2 | 3 | 6 | 7 => moment(key).map(|_| ()),
        4 => (key.len() == 5).then_some(()),
        _ => None,
    };
    whole?;
    Some(LineId::new(u32::from_be_bytes(key[1..5].try_into().ok()?)))
}
/// Line and sequence of the keys of boundaries, points and gaps.
fn moment(key: &[u8]) -> Option<(LineId, Sequence)> {
    let key: &[u8; 13] = key.try_into().ok()?;
    let line = LineId::new(u32::from_be_bytes(key[1..5].try_into().ok()?));
    Some((line, Sequence::new(u64::from_be_bytes(key[5..].try_into().ok()?))))
}

#[cfg(test)]
mod tests {
    use super::super::IndexBatch;
    use super::super::block_key::{SizeClass, key};
    use super::super::gap_key::put_gap;
    use super::super::moment_key::{Boundary, put_boundary};
    use super::*;
    use crate::time::Timestamp;
    use landfall_disks::Block;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn forgotten() -> Forgotten {
        let line = LineId::new(1);
        let disk = |number, floor| ((line, DiskId::new(number)), Sequence::new(floor));
        Forgotten {
            floors: [disk(2, 9), disk(3, 5)].into(),
            starts: [(line, Sequence::new(9))].into(),
            lowest: [(line, Sequence::new(5))].into(),
            lines: [line, LineId::new(2)].into(),
            newest_line: LineId::new(4),
            ..Forgotten::default()
        }
    }

    fn version(line: u32, disk: u32, sequence: u64) -> bool {
        let (line, disk) = (LineId::new(line), DiskId::new(disk));
        let key = key(line, disk, SizeClass::Block, Block::new(7), Sequence::new(sequence));
        forgotten().covers(&key)
    }

    #[test]
    fn versions_go_up_to_the_floor_of_their_disk_and_of_no_other_line() {
        assert!(version(1, 2, 9) && version(1, 2, 0) && !version(1, 2, 10));
        assert!(version(1, 3, 5) && !version(1, 3, 6));
        assert!(!version(2, 2, 1), "a branch has no floor");
        assert!(!version(1, 4, 0), "a disk without a floor keeps all");
    }

    #[test]
    fn the_start_itself_stays_and_gaps_go_with_the_lowest_floor() {
        let keys = |at: u64| {
            let mut batch = IndexBatch::default();
            let line = LineId::new(1);
            let (sequence, commit_time) = (Sequence::new(at), Timestamp::default());
            put_boundary(&mut batch, line, Boundary { sequence, commit_time });
            put_gap(&mut batch, line, sequence);
            [0, 1].map(|number| forgotten().covers(&batch.puts[number].0))
        };
        assert_eq!(keys(5), [true, true]);
        assert_eq!(keys(8), [true, false]);
        assert_eq!(keys(9), [false, false]);
        let mut dropping = forgotten();
        let mut dropped = Dropped::default();
        dropped.drop_all_but(Sequence::new(10), Sequence::new(20), &[Sequence::new(15)]);
        dropping.dropped.insert(LineId::new(1), Arc::new(dropped));
        let goes = |at: u64| {
            let mut batch = IndexBatch::default();
            let (sequence, commit_time) = (Sequence::new(at), Timestamp::default());
            put_boundary(&mut batch, LineId::new(1), Boundary { sequence, commit_time });
            dropping.covers(&batch.puts[0].0)
        };
        assert_eq!([14, 15, 16, 21].map(goes), [true, false, true, false]);
        for other in [&b""[..], &[1], &[4, 0, 0, 0, 1], &[5, 0, 0], &[1; 22], &[2; 12]] {
            assert!(!forgotten().covers(other), "{other:?}");
        }
    }
    #[test]
    fn what_is_left_of_lines_that_are_gone_goes_and_what_lines_to_come_will_have_stays() {
        assert!(version(3, 2, 99) && version(4, 9, 1) && !version(5, 2, 1));
        assert!(forgotten().covers(&[4, 0, 0, 0, 3]) && !forgotten().covers(&[4, 0, 0, 0, 2]));
        assert!(!forgotten().covers(&[5, 0, 3]), "lanes are no lines");
    }

    proptest! {
        /// Whatever of what may go is gone, every moment sees the version that it saw.
        #[test]
        fn no_moment_sees_another_version_whatever_has_gone(
            moments in proptest::collection::btree_set(0u64..40, 0..12),
            versions in proptest::collection::btree_set((0u64..2, 0u64..50), 1..60),
            left in proptest::collection::vec(any::<bool>(), 60),
            through in 0u64..50,
        ) {
            let seen: Vec<_> = moments.into_iter().filter(|one| *one <= through).collect();
            let list = seen.iter().copied().map(Sequence::new).collect();
            let known = Moments::these(list, Sequence::new(through));
            let forgotten = forgotten().seeing([(LineId::new(2), known)]);
            let key_of = |(block, sequence): &(u64, u64)| {
                let (line, disk) = (LineId::new(2), DiskId::new(2));
                key(line, disk, SizeClass::Block, Block::new(*block), Sequence::new(*sequence))
            };
            let mut keys: Vec<_> = versions.iter().map(|one| (key_of(one), *one)).collect();
            keys.sort_unstable();
            let looks: Vec<u64> = (0..60).filter(|look| *look > through || seen.contains(look)).collect();
            // Twice: what the first walk left in the way goes in the second.
            let mut there: BTreeSet<(u64, u64)> = versions.clone();
            let mut left = left.into_iter().cycle();
            for _ in 0..2 {
                let mut pass = Arc::new(forgotten.clone()).pass();
                keys.retain(|(key, one)| {
                    let goes = pass.goes(key) && !left.next().expect("for ever");
                    if goes {
                        there.remove(one);
                    }
                    !goes
                });
                for block in 0..2 {
                    for look in &looks {
                        let newest = |all: &BTreeSet<(u64, u64)>| {
                            all.range((block, 0)..=(block, *look)).next_back().copied()
                        };
                        prop_assert_eq!(newest(&there), newest(&versions), "{} at {}", block, look);
                    }
                }
            }
        }
    }

    #[test]
    fn a_block_that_nobody_looked_at_in_between_keeps_its_newest_version() {
        let known = Moments::these(vec![Sequence::new(10)], Sequence::new(1000));
        let forgotten = Arc::new(forgotten().seeing([(LineId::new(2), known)]));
        let mut pass = forgotten.pass();
        let (line, disk) = (LineId::new(2), DiskId::new(2));
        let at =
            |sequence| key(line, disk, SizeClass::Block, Block::new(7), Sequence::new(sequence));
        let left: Vec<u64> =
            (1..=1005).rev().filter(|sequence| !pass.goes(&at(*sequence))).collect();
        assert_eq!(left, [1005, 1004, 1003, 1002, 1001, 1000, 10]);
    }
}
