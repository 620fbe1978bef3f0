//! Where along the trunk a disk is there, and how large it is there. Pure.
//!
//! ```text
//!            since            grown above 40                 until
//!   ─────────│────────────────│──────────────────────────────│─────────▶ sequences of the trunk
//!    not yet │ first size     │ new size                     │ removed
//! ```
//!
//! A moment of a branch has what the trunk has where the branch left it. **Invariant:** sizes only grow along the trunk,
//! and what a moment has never changes.

use crate::ids::Sequence;
use std::collections::BTreeMap;

/// Life and sizes of a disk.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DiskSpan {
    /// Size at the floor, and of everything up to the first time it grew, in bytes.
    pub first_bytes: u64,
    /// Its size at moments above a sequence, in bytes.
    pub grown: BTreeMap<Sequence, u64>,
    /// The last moment that does not have it yet: it was added when there were points.
    pub since: Option<Sequence>,
    /// The last moment that has it: it was removed then.
    pub until: Option<Sequence>,
}

impl DiskSpan {
    /// A disk that always was and will be.
    pub fn new(size_bytes: u64) -> Self {
        Self { first_bytes: size_bytes, grown: BTreeMap::new(), since: None, until: None }
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
