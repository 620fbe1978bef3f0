//! Where along the trunk a disk is there, and how large it is there. Pure.
//!
//! ```text
//!            since            grown above 40                 until
//!   ─────────│────────────────│──────────────────────────────│─────────▶ sequences of the trunk
//!    not yet │ first size     │ new size                     │ removed
//! ```
//!
//! A moment of a branch has what the trunk has where the branch left it, unless something else is noted of the branch, or of
//! one in between. **Invariant:** sizes only grow along a line, and what a moment has never changes.

use crate::ids::{LineId, Sequence};
use std::collections::BTreeMap;

/// Where a moment lies in the tree of lines of its machine: on its own line, then where each line below that was left; the
/// last is the trunk.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Place(Vec<(LineId, Sequence)>);

impl Place {
    pub(crate) fn new(lines: Vec<(LineId, Sequence)>) -> Self {
        Self(lines)
    }

    /// Where it rests on the trunk.
    pub(crate) fn on_trunk(&self) -> Sequence {
        self.0.last().map_or(Sequence::default(), |(_, moment)| *moment)
    }

    fn on_branches(&self) -> &[(LineId, Sequence)] {
        self.0.split_last().map_or(&[], |(_, branches)| branches)
    }
}

/// What is noted of a disk on a branch.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct BranchSpan {
    /// Its size at moments of the branch above a sequence, in bytes.
    pub grown: BTreeMap<Sequence, u64>,
    /// The last moment of the branch that does not have it yet; what the branch starts from has not either.
    pub since: Option<Sequence>,
    /// The last moment of the branch that has it.
    pub until: Option<Sequence>,
}

impl BranchSpan {
    /// Whether it may grow to `size_bytes` above `above`, as far as the branch says.
    pub(crate) fn may_grow(&self, above: Sequence, size_bytes: u64) -> bool {
        let last = self.grown.iter().next_back();
        let in_order = last.is_none_or(|(last, size)| *last <= above && *size < size_bytes);
        in_order && size_bytes > 0
    }

    fn is_empty(&self) -> bool {
        self.grown.is_empty() && self.since.is_none() && self.until.is_none()
    }
}

/// Life and sizes of a disk.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DiskSpan {
    /// Size at the floor, and of everything up to the first time it grew, in bytes.
    pub first_bytes: u64,
    /// Its size at moments above a sequence, in bytes.
    pub grown: BTreeMap<Sequence, u64>,
    /// The last moment that does not have it yet: it was added when there were points.
    pub since: Option<Sequence>,
    /// The last moment that has it: it was removed then. At or below `since`: only branches have it.
    pub until: Option<Sequence>,
    /// What is noted of branches.
    pub branches: BTreeMap<LineId, BranchSpan>,
}

impl DiskSpan {
    /// A disk that always was and will be.
    pub fn new(size_bytes: u64) -> Self {
        let (grown, branches) = (BTreeMap::new(), BTreeMap::new());
        Self { first_bytes: size_bytes, grown, since: None, until: None, branches }
    }

    /// Its size at a place.
    pub fn size_in(&self, place: &Place) -> u64 {
        let on_branch = place.on_branches().iter().find_map(|(line, moment)| {
            let grown = &self.branches.get(line)?.grown;
            grown.range(..moment).next_back().map(|(_, size)| *size)
        });
        on_branch.unwrap_or_else(|| self.size_at(place.on_trunk()))
    }

    /// The moment of a lineage by which a place has it, if it does.
    pub(crate) fn presence(&self, place: &Place) -> Option<Sequence> {
        for (line, moment) in place.on_branches() {
            let Some(branch) = self.branches.get(line) else { continue };
            if branch.until.is_some_and(|until| *moment > until) {
                return None;
            }
            if let Some(since) = branch.since {
                return (*moment > since).then_some(*moment);
            }
        }
        Some(place.on_trunk()).filter(|moment| self.has(*moment))
    }

    /// Whether a place has it.
    pub fn is_in(&self, place: &Place) -> bool {
        self.presence(place).is_some()
    }

    /// The last moment of the line that ends it before a place, if one does.
    pub(crate) fn ended_before(&self, place: &Place) -> Option<Sequence> {
        let ended = |until: Option<Sequence>, moment| until.filter(|until| moment > *until);
        let on_branch = place
            .on_branches()
            .iter()
            .find_map(|(line, moment)| ended(self.branches.get(line)?.until, *moment));
        on_branch.or_else(|| ended(self.until, place.on_trunk()))
    }

    /// Its size at a moment of the trunk.
    pub fn size_at(&self, moment: Sequence) -> u64 {
        self.grown.range(..moment).next_back().map_or(self.first_bytes, |(_, size)| *size)
    }

    /// Its size at the head of the trunk.
    pub fn newest_size(&self) -> u64 {
        self.grown.values().next_back().copied().unwrap_or(self.first_bytes)
    }

    /// Whether a moment of the trunk has it.
    pub fn has(&self, moment: Sequence) -> bool {
        self.since.is_none_or(|since| moment > since)
            && self.until.is_none_or(|until| moment <= until)
    }

    /// Whether it may grow to `size_bytes` above `above`.
    pub fn may_grow(&self, above: Sequence, size_bytes: u64) -> bool {
        let in_order = self.grown.keys().next_back().is_none_or(|last| *last <= above);
        in_order && size_bytes > self.newest_size() && self.until.is_none()
    }

    /// The branch `line` becomes the trunk. `way` has the lines it leads through, the nearest first, and where each is left;
    /// the last one is the trunk up to now.
    pub(crate) fn promote(&mut self, line: LineId, way: &[(LineId, Sequence)]) {
        let Some((trunk, left)) = way.last().copied() else { return };
        let mut old = BranchSpan { grown: self.grown.split_off(&left), ..BranchSpan::default() };
        let nowhere = self.since.zip(self.until).is_some_and(|(since, until)| until <= since);
        let mut there = (self.since, self.until);
        let mut absent = nowhere;
        if let (false, Some(since)) = (nowhere, self.since.filter(|since| *since >= left)) {
            (old.since, old.until, absent) = (Some(since), self.until, true);
        } else if let (false, Some(until)) = (nowhere, self.until.filter(|until| *until >= left)) {
            (old.until, there.1) = (Some(until), None);
        }
        let above = way[..way.len() - 1].iter().rev().copied();
        for (of, left) in above.chain([(line, Sequence::MAX)]) {
            let Some(mut branch) = self.branches.remove(&of) else { continue };
            let later = branch.grown.split_off(&left);
            self.grown.append(&mut std::mem::replace(&mut branch.grown, later));
            if branch.since.is_some_and(|since| since < left) {
                (there, absent) = ((branch.since.take(), None), false);
            }
            if branch.until.is_some_and(|until| until < left) {
                there.1 = branch.until.take();
            }
            self.branches.insert(of, branch);
            self.forget_empty(of);
        }
        (self.since, self.until) = match (absent, there) {
            (false, there) => there,
            // No moment of the trunk has it, and those of the branch keep it until history begins after this one.
            (true, (since, until)) => (since, Some(until.map_or(left, |until| until.min(left)))),
        };
        self.branches.insert(trunk, old);
        self.forget_empty(trunk);
    }

    /// Nothing is noted of a branch any more.
    pub(crate) fn forget_branch(&mut self, line: LineId) {
        self.branches.remove(&line);
    }

    pub(crate) fn forget_empty(&mut self, line: LineId) {
        if self.branches.get(&line).is_some_and(BranchSpan::is_empty) {
            self.branches.remove(&line);
        }
    }

    /// No moment below `floor` is left: sizes that only those had are forgotten.
    pub fn settle(&mut self, floor: Sequence) {
        self.first_bytes = self.size_at(floor);
        self.grown = self.grown.split_off(&floor);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(sequence: u64) -> Sequence {
        Sequence::new(sequence)
    }

    #[test]
    fn a_moment_keeps_its_size_whatever_comes_later() {
        let mut span = DiskSpan::new(100);
        assert!(
            span.may_grow(at(5), 200) && !span.may_grow(at(5), 100) && !span.may_grow(at(5), 99)
        );
        span.grown.insert(at(5), 200);
        span.grown.insert(at(9), 300);
        let sizes = |span: &DiskSpan| [0, 5, 6, 9, 10, 99].map(|moment| span.size_at(at(moment)));
        assert_eq!(sizes(&span), [100, 100, 200, 200, 300, 300]);
        assert_eq!(span.newest_size(), 300);
        assert!(!span.may_grow(at(8), 400), "sizes come in order");
        let before = span.clone();
        for floor in 0..12 {
            span.settle(at(floor));
            for moment in floor..12 {
                assert_eq!(span.size_at(at(moment)), before.size_at(at(moment)), "floor {floor}");
            }
        }
        assert!(span.grown.is_empty());
    }

    #[test]
    fn a_disk_is_there_between_its_ends() {
        let span = DiskSpan { since: Some(at(3)), until: Some(at(7)), ..DiskSpan::new(1) };
        let there: Vec<u64> = (0..10).filter(|moment| span.has(at(*moment))).collect();
        assert_eq!(there, [4, 5, 6, 7]);
        assert!(!span.may_grow(at(9), 2), "what was removed does not grow");
        assert!(DiskSpan::new(1).has(at(0)));
    }
}
