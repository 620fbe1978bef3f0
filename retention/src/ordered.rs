//! Which stretches of a trunk are ordered: every sequence in them is a boundary. Pure.
//!
//! ```text
//!   sequence   ● ─ ─ ─ ─ ● ═ ═ ═ ═ ═ ═ ═ ● ─ ─ ─ ● ═ ═ ═ ═ ═ …
//!              pass       order begins    ends   begins anew, and goes on with every record
//! ```
//!
//! That a sequence is a boundary stands in its record and in the index; this says it for millions of them in sixteen
//! bytes. What was dropped of a stretch, and what was lost of it, is for others to say. **Invariants:** stretches are in
//! order and apart from each other; at most the last one is open.

use crate::ids::Sequence;
use crate::manifest::dropped::Dropped;

/// Consecutive sequences that all were boundaries when they were written, both ends among them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stretch {
    /// The point that order began with.
    pub first: Sequence,
    /// The last instant.
    pub last: Sequence,
}

/// The ordered stretches of a trunk, oldest first.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Ordered {
    ended: Vec<Stretch>,
    open: Option<Sequence>,
}

impl Ordered {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.ended.is_empty() && self.open.is_none()
    }

    /// Where the stretch begins that goes on with every record.
    pub fn open_since(&self) -> Option<Sequence> {
        self.open
    }

    /// Stretches that have ended.
    pub fn ended(&self) -> &[Stretch] {
        &self.ended
    }

    /// All stretches; the open one as far as `through`.
    pub fn stretches(&self, through: Sequence) -> impl Iterator<Item = Stretch> + '_ {
        let open = self.open.filter(|first| *first <= through);
        self.ended.iter().copied().chain(open.map(|first| Stretch { first, last: through }))
    }

    /// Whether `sequence` lies in one of them.
    pub fn contains(&self, sequence: Sequence) -> bool {
        self.above(sequence) == Some(sequence)
    }

    /// The lowest sequence at or above `sequence` that lies in one of them.
    pub fn above(&self, sequence: Sequence) -> Option<Sequence> {
        let at = self.ended.partition_point(|stretch| stretch.last < sequence);
        let first = self.ended.get(at).map(|stretch| stretch.first).or(self.open);
        first.map(|first| first.max(sequence))
    }

    /// The lowest sequence at or above `sequence` that lies in one of them and was not dropped.
    pub fn left_above(&self, sequence: Sequence, dropped: &Dropped) -> Option<Sequence> {
        let mut at = self.above(sequence)?;
        loop {
            let left = dropped.above(at)?;
            let next = self.above(left)?;
            if next == at {
                return Some(at);
            }
            at = next;
        }
    }

    /// Begins a stretch; `false` if it does not follow what there is.
    pub(crate) fn begin(&mut self, first: Sequence) -> bool {
        let follows = self.ended.last().is_none_or(|last| last.last < first);
        if self.open.is_some() || !follows {
            return false;
        }
        self.open = Some(first);
        true
    }

    /// Ends the open stretch; `false` if there is none that could end there.
    pub(crate) fn end(&mut self, last: Sequence) -> bool {
        match self.open.take_if(|first| *first <= last) {
            Some(first) => {
                self.ended.push(Stretch { first, last });
                true
            }
            None => false,
        }
    }

    /// What of the stretches that have ended lies above one sequence and up to another.
    pub(crate) fn clip(&self, above: Sequence, up_to: Sequence) -> impl Iterator<Item = Stretch> {
        let clipped = self.ended.iter().filter(|one| one.last > above).map(move |one| {
            let first = if one.first > above { one.first } else { above.next() };
            Stretch { first, last: one.last.min(up_to) }
        });
        clipped.filter(|one| one.first <= one.last).collect::<Vec<_>>().into_iter()
    }

    /// Those that have ended, which must be in order and apart from each other.
    pub(crate) fn of(ended: Vec<Stretch>) -> Self {
        debug_assert!(ended.windows(2).all(|two| two[0].last < two[1].first));
        Self { ended, open: None }
    }

    /// No longer remembers stretches that lie below `start`, all of them.
    pub(crate) fn forget_below(&mut self, start: Sequence) {
        self.ended.retain(|stretch| stretch.last >= start);
    }

    /// No longer remembers stretches of which nothing is left.
    pub(crate) fn forget_dropped(&mut self, dropped: &Dropped) {
        self.ended.retain(|stretch| dropped.within(stretch.first, stretch.last) > 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn at(number: u64) -> Sequence {
        Sequence::new(number)
    }

    proptest! {
        #[test]
        fn what_lies_in_a_stretch_is_found_and_nothing_else(
            lengths in proptest::collection::vec((1u64..9, 0u64..9), 0..8),
            open in any::<bool>(),
            kept in proptest::collection::btree_set(0u64..100, 0..20),
            gone in 0u64..100,
            ask in 0u64..150,
        ) {
            let (mut ordered, mut inside, mut next) = (Ordered::default(), BTreeSet::new(), 0);
            for (apart, length) in lengths {
                let first = next + apart;
                prop_assert!(ordered.begin(at(first)) && !ordered.begin(at(first + 1)));
                prop_assert!(ordered.end(at(first + length)) && !ordered.end(at(first + length)));
                inside.extend(first..=first + length);
                next = first + length;
            }
            if open {
                ordered.begin(at(next + 2));
                inside.extend(next + 2..400);
            }
            let mut dropped = Dropped::default();
            let kept: Vec<_> = kept.into_iter().filter(|one| *one <= gone).collect();
            dropped.drop_all_but(at(0), at(gone), &kept.iter().copied().map(at).collect::<Vec<_>>());
            prop_assert_eq!(ordered.contains(at(ask)), inside.contains(&ask));
            let above = inside.range(ask..).next().copied();
            prop_assert_eq!(ordered.above(at(ask)), above.map(at));
            let left = inside.range(ask..).find(|one| **one > gone || kept.contains(one)).copied();
            prop_assert_eq!(ordered.left_above(at(ask), &dropped), left.map(at));
            let told: BTreeSet<u64> = ordered.stretches(at(399))
                .flat_map(|one| one.first.number()..=one.last.number()).collect();
            prop_assert_eq!(&told, &inside);
            ordered.forget_dropped(&dropped);
            prop_assert_eq!(ordered.left_above(at(ask), &dropped), left.map(at));
        }
    }

    #[test]
    fn a_stretch_neither_ends_before_it_begins_nor_begins_before_the_last_ended() {
        let mut ordered = Ordered::default();
        assert!(!ordered.end(at(3)) && ordered.begin(at(5)) && !ordered.end(at(4)));
        assert!(ordered.end(at(9)) && !ordered.begin(at(9)) && ordered.begin(at(10)));
        ordered.forget_below(at(10));
        assert_eq!((ordered.ended(), ordered.open_since()), (&[][..], Some(at(10))));
    }
}
