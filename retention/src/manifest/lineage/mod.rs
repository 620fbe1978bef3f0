//! Which lines a history was written as, and the records by which a branch becomes the trunk.
//!
//! ```text
//!   before                            after `BranchPromoted`
//!   L1  ────────●──────────▶ trunk    L1  ━━━━━━━━●──────────    branch `old`, sealed, from seq:10 of L2
//!               10\                               10┃
//!   L2             └───────▶ branch   L2            ┗━━━━━━━━━▶  trunk: L1 up to seq:10, then its own
//! ```
//!
//! Records and index entries keep the line they were written as. What changes is whose they are: the trunk takes over what
//! its ancestors wrote up to where it left them, with everything that is kept of it, and each ancestor becomes a branch of
//! it from there. A branch numbers its records on from its origin, so a sequence means one moment of a lineage.
//!
//! **Invariants:** the stretches of a line follow one another without a hole. A trunk has no origin. Every sequence of what
//! some line wrote belongs to one line at most; what belongs to none is needed by nobody.

mod format;
mod promotion;
mod records;

use super::state::{LineEntry, ManifestState, Misfit};
use crate::ids::{LaneId, LineId, Sequence};
use std::collections::BTreeMap;

/// A stretch of a history that was written as another line; it begins where the one before it ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Inherited {
    /// The line it was written as.
    pub from: LineId,
    /// Its last sequence.
    pub up_to: Sequence,
}

/// A stretch of a history.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stretch {
    /// The line it was written as.
    pub line: LineId,
    /// It begins after this.
    pub above: Sequence,
    /// Its last sequence; the highest there can be for what a line writes now.
    pub up_to: Sequence,
}

/// Whose a stretch of what a line wrote is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Owned {
    /// The line whose history it is.
    pub owner: LineId,
    /// It begins after this.
    pub above: Sequence,
    /// Its last sequence.
    pub up_to: Sequence,
}

impl Owned {
    /// Whether `sequence` is in it.
    pub fn holds(&self, sequence: Sequence) -> bool {
        self.above < sequence && sequence <= self.up_to
    }
}

impl LineEntry {
    /// What its history was written as, the oldest first; the last is what it writes itself.
    pub fn stretches(&self) -> impl Iterator<Item = Stretch> {
        let mut above = self.base;
        let own = Inherited { from: self.id, up_to: Sequence::MAX };
        self.inherited.iter().copied().chain([own]).map(move |one| {
            let Inherited { from: line, up_to } = one;
            let stretch = Stretch { line, above, up_to };
            above = up_to;
            stretch
        })
    }

    /// The sequence that its own first record follows.
    pub fn own_above(&self) -> Sequence {
        self.inherited.last().map_or(self.base, |last| last.up_to)
    }

    /// That its history begins at or before `sequence`.
    pub(super) fn check_begun(
        &self,
        sequence: Sequence,
        record: &'static str,
    ) -> Result<(), Misfit> {
        if sequence < self.base {
            let what = format!("{:?} begins at {:?}, after {sequence:?}", self.id, self.base);
            return Err(Misfit { record, what });
        }
        Ok(())
    }

    /// Takes the stretches up to `left` away from it; it begins there from now on.
    fn give_up_to(&mut self, left: Sequence) -> Vec<Inherited> {
        let (mut given, mut kept) = (Vec::new(), Vec::new());
        let own_above = self.own_above();
        for one in std::mem::take(&mut self.inherited) {
            if one.up_to <= left {
                given.push(one);
                continue;
            }
            let above = given.last().map_or(self.base, |last: &Inherited| last.up_to);
            if above < left && kept.is_empty() {
                given.push(Inherited { up_to: left, ..one });
            }
            kept.push(one);
        }
        if own_above < left {
            given.push(Inherited { from: self.id, up_to: left });
        }
        (self.inherited, self.base) = (kept, left);
        given
    }
}

impl ManifestState {
    /// Whether anything there is was written as `line`, or will be.
    pub(crate) fn is_written_as(&self, line: LineId) -> bool {
        let inherits = |entry: &LineEntry| entry.inherited.iter().any(|one| one.from == line);
        self.lines.contains_key(&line) || self.lines.values().any(inherits)
    }

    /// Whose what each line wrote is: stretches in order, of lines of `lane`, or of all.
    pub fn written(&self, lane: Option<LaneId>) -> BTreeMap<LineId, Vec<Owned>> {
        let mut written: BTreeMap<LineId, Vec<Owned>> = BTreeMap::new();
        let of_lane = |entry: &&LineEntry| lane.is_none_or(|lane| entry.lane == lane);
        for entry in self.lines.values().filter(of_lane) {
            for Stretch { line, above, up_to, .. } in entry.stretches() {
                written.entry(line).or_default().push(Owned { owner: entry.id, above, up_to });
            }
        }
        written.values_mut().for_each(|stretches| stretches.sort_by_key(|one| one.above));
        written
    }

    /// Whose a sequence of what a line wrote is.
    pub(crate) fn owner_of(&self, line: LineId, sequence: Sequence) -> Option<&LineEntry> {
        let wrote = |of: &Stretch| of.line == line && of.above < sequence && sequence <= of.up_to;
        self.lines.values().find(|entry| entry.stretches().any(|of| wrote(&of)))
    }

    /// The lane of what a line wrote, if some of it is somebody's.
    pub(crate) fn lane_of(&self, line: LineId) -> Option<LaneId> {
        let wrote = |entry: &&LineEntry| entry.stretches().any(|of| of.line == line);
        self.lines.values().find(wrote).map(|entry| entry.lane)
    }

    /// All lines, each after the one it starts from.
    pub(crate) fn lines_in_order(&self) -> Vec<&LineEntry> {
        let depth = |entry: &LineEntry| {
            let parent = |at: &LineEntry| self.lines.get(&at.origin?.0);
            std::iter::successors(Some(entry), |at| parent(at)).count()
        };
        let mut lines: Vec<_> = self.lines.values().collect();
        lines.sort_by_cached_key(|entry| (depth(entry), entry.id));
        lines
    }

    /// The lines between a branch and the trunk, nearest first, and where each was left.
    fn way_down(&self, line: LineId) -> Vec<(LineId, Sequence)> {
        let origin = |of: LineId| self.lines.get(&of).and_then(|entry| entry.origin);
        std::iter::successors(origin(line), |(parent, _)| origin(*parent)).collect()
    }
}

#[cfg(test)]
mod tests;
