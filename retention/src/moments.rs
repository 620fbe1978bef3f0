//! Which moments of a line can be looked at, as far as it has been written. Pure.
//!
//! ```text
//!   moments      ●───────────●─────────────────●───── ○ through
//!   versions     a   b   c     d   e        f     g        a block written seven times
//!                        │         └ f ┐    │     │
//!   seen by              ●             └────●     ○        a, b, d and e are seen by nobody
//! ```
//!
//! A version is needed for the first moment at or after it, unless the block was written again up to there. A view from that
//! moment, or from any later one that the version is newest for, passes that place. **Invariants:** what is no moment never
//! becomes one: moments are added beyond `through` alone, so what nobody sees once is seen by nobody for good.

use crate::ids::Sequence;
use crate::manifest::dropped::Dropped;
use crate::ordered::Ordered;
use std::sync::Arc;

/// The moments of a line up to a sequence; whatever lies above it counts as one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Moments {
    through: Sequence,
    which: Which,
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum Which {
    /// Sorted.
    These(Arc<[Sequence]>),
    AllBut(Arc<Dropped>),
    Stretches(Stretches),
}

/// Points, and the instants of ordered stretches from a sequence on.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Stretches {
    points: Arc<[Sequence]>,
    ordered: Arc<Ordered>,
    from: Sequence,
    dropped: Arc<Dropped>,
}

impl Moments {
    /// Those listed, and no others up to `through`.
    pub fn these(moments: Vec<Sequence>, through: Sequence) -> Self {
        Self { through, which: Which::These(sorted(moments)) }
    }

    /// Those listed, and from `from` on those of ordered stretches that were not dropped.
    pub fn these_and(
        moments: Vec<Sequence>,
        (ordered, from): (Arc<Ordered>, Sequence),
        dropped: Arc<Dropped>,
        through: Sequence,
    ) -> Self {
        let stretches = Stretches { points: sorted(moments), ordered, from, dropped };
        Self { through, which: Which::Stretches(stretches) }
    }

    /// All that were not dropped.
    pub fn all_but(dropped: Arc<Dropped>, through: Sequence) -> Self {
        Self { through, which: Which::AllBut(dropped) }
    }

    /// Up to where they are known.
    pub fn through(&self) -> Sequence {
        self.through
    }

    /// The moment that a version of `sequence` would be there for: the first at or after it. A block that was written again
    /// up to there needs the version no more.
    pub fn seen_at(&self, sequence: Sequence) -> Sequence {
        if sequence >= self.through {
            return sequence;
        }
        let first = match &self.which {
            Which::These(moments) => first_of(moments, sequence),
            Which::AllBut(dropped) => dropped.above(sequence),
            Which::Stretches(one) => {
                let point = first_of(&one.points, sequence);
                point.into_iter().chain(one.instant_at_or_above(sequence)).min()
            }
        };
        first.map_or(self.through, |first| first.min(self.through))
    }

    /// Whether `sequence` can be looked at.
    pub fn contains(&self, sequence: Sequence) -> bool {
        sequence > self.through
            || match &self.which {
                Which::These(moments) => moments.binary_search(&sequence).is_ok(),
                Which::AllBut(dropped) => !dropped.contains(sequence),
                Which::Stretches(one) => {
                    one.points.binary_search(&sequence).is_ok()
                        || one.instant_at_or_above(sequence) == Some(sequence)
                }
            }
    }

    /// How many of `first..=last` are moments, or a number that changes whenever that does.
    pub(crate) fn tally(&self, first: Sequence, last: Sequence) -> u64 {
        match &self.which {
            Which::These(moments) => between(moments, first, last),
            Which::AllBut(dropped) => dropped.within(first, last),
            Which::Stretches(one) => {
                let instants = one.ordered.stretches(last).map(|stretch| {
                    let first = stretch.first.max(first).max(one.from);
                    let last = stretch.last.min(last);
                    if first <= last { one.dropped.within(first, last) } else { 0 }
                });
                between(&one.points, first, last) + instants.sum::<u64>()
            }
        }
    }
}

impl Stretches {
    fn instant_at_or_above(&self, sequence: Sequence) -> Option<Sequence> {
        self.ordered.left_above(sequence.max(self.from), &self.dropped)
    }
}

fn sorted(mut moments: Vec<Sequence>) -> Arc<[Sequence]> {
    moments.sort_unstable();
    moments.dedup();
    moments.into()
}

fn first_of(moments: &[Sequence], sequence: Sequence) -> Option<Sequence> {
    moments.get(moments.partition_point(|moment| *moment < sequence)).copied()
}

fn between(moments: &[Sequence], first: Sequence, last: Sequence) -> u64 {
    let below = |end: Sequence| moments.partition_point(|moment| *moment < end);
    (below(last.next()) - below(first)) as u64
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
        /// A version is seen by some moment if and only if it is the newest at the place that it says.
        #[test]
        fn a_version_is_needed_exactly_if_some_moment_sees_it(
            moments in proptest::collection::btree_set(0u64..60, 0..20),
            versions in proptest::collection::btree_set(0u64..80, 1..30),
            through in 0u64..70,
            how in 0u8..3,
            stretch in (0u64..50, 0u64..30),
        ) {
            let mut known: BTreeSet<u64> =
                moments.into_iter().filter(|one| *one <= through).collect();
            let these = if how == 2 {
                let points = known.iter().copied().map(at).collect();
                let (mut ordered, mut dropped) = (Ordered::default(), Dropped::default());
                let (first, last) = (stretch.0, stretch.0 + stretch.1);
                ordered.begin(at(first));
                ordered.end(at(last));
                // History begins within the stretch, a point or two of it were dropped, and it may go on.
                let (from, gone) = (first + 1, first + 3);
                dropped.drop_all_but(at(gone), at(gone + 1), &[]);
                known.extend((from..=last.min(through)).filter(|one| !(gone..=gone + 1).contains(one)));
                Moments::these_and(points, (Arc::new(ordered), at(from)), Arc::new(dropped), at(through))
            } else if how == 1 {
                let mut dropped = Dropped::default();
                let kept: Vec<_> = known.iter().copied().map(at).collect();
                dropped.drop_all_but(at(0), at(through), &kept);
                Moments::all_but(Arc::new(dropped), at(through))
            } else {
                Moments::these(known.iter().copied().map(at).collect(), at(through))
            };
            // What is there when the line has come to `through` counts like a moment: any that comes next would see it.
            let looks: Vec<u64> =
                (0..90).filter(|look| *look >= through || known.contains(look)).collect();
            let newest = |look: u64| versions.range(..=look).next_back().copied();
            for version in &versions {
                let seen = looks.iter().any(|look| newest(*look) == Some(*version));
                let place = these.seen_at(at(*version)).number();
                prop_assert_eq!(newest(place) == Some(*version), seen, "{} at {}", version, place);
            }
            for look in 0..90 {
                let there = look > through || known.contains(&look);
                prop_assert_eq!(these.contains(at(look)), there);
            }
        }

        /// Nothing that is dropped or written later makes a version needed again.
        #[test]
        fn what_nobody_sees_is_never_seen_again(
            moments in proptest::collection::btree_set(0u64..60, 0..20),
            gone in proptest::collection::btree_set(0u64..60, 0..20),
            later in 0u64..40,
        ) {
            let through = 60;
            let moments: Vec<_> = moments.into_iter().collect();
            let before = Moments::these(moments.iter().copied().map(at).collect(), at(through));
            let left = moments.into_iter().filter(|one| !gone.contains(one)).chain(through + 1..=through + later);
            let after = Moments::these(left.map(at).collect(), at(through + later));
            for version in 0..=through {
                prop_assert!(after.seen_at(at(version)) >= before.seen_at(at(version)));
            }
        }
    }

    #[test]
    fn a_change_of_what_is_there_shows_in_the_tally() {
        let moments = |list: &[u64]| Moments::these(list.iter().copied().map(at).collect(), at(90));
        assert_eq!(moments(&[3, 5, 9]).tally(at(4), at(9)), 2);
        let mut dropped = Dropped::default();
        let all = |dropped: &Dropped| {
            Moments::all_but(Arc::new(dropped.clone()), at(90)).tally(at(4), at(9))
        };
        assert_eq!(all(&dropped), 6);
        dropped.drop_all_but(at(1), at(7), &[at(5)]);
        assert_eq!(all(&dropped), 3);
    }
}
