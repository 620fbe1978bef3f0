//! Ranges whose writing was refused and that were not written since. Pure.

use landfall_disks::ByteRange;
use std::collections::BTreeMap;

/// Most ranges that are told apart; a client with more has to begin anew to be whole again.
const MAX_RANGES: usize = 4096;

/// What a client was told that it could not write.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Refused {
    /// Ends by starts; apart from each other.
    ranges: BTreeMap<u64, u64>,
    /// There were more than are told apart.
    too_many: bool,
}

impl Refused {
    /// A write to `range` was refused.
    pub(super) fn add(&mut self, range: ByteRange) {
        let (mut start, mut end) = (range.start().bytes(), range.end().bytes());
        while let Some((other, other_end)) = self.touching(start, end) {
            self.ranges.remove(&other);
            (start, end) = (start.min(other), end.max(other_end));
        }
        if start < end {
            self.ranges.insert(start, end);
        }
        if self.ranges.len() > MAX_RANGES {
            self.ranges.clear();
            self.too_many = true;
        }
    }

    /// `range` was written.
    pub(super) fn remove(&mut self, range: ByteRange) {
        let (start, end) = (range.start().bytes(), range.end().bytes());
        if start >= end {
            return;
        }
        // What only touches stays as it is, so look strictly inside.
        while let Some((other, other_end)) = self.touching(start + 1, end - 1) {
            self.ranges.remove(&other);
            if other < start {
                self.ranges.insert(other, start);
            }
            if other_end > end {
                self.ranges.insert(end, other_end);
            }
        }
    }

    /// The first of them, in words; none if everything that was refused was written since.
    pub(super) fn first(&self) -> Option<String> {
        if self.too_many {
            return Some("many writes".to_owned());
        }
        let (start, end) = self.ranges.iter().next()?;
        Some(format!("a write to bytes {start} to {end}"))
    }

    /// A range that overlaps or touches `start..end`.
    fn touching(&self, start: u64, end: u64) -> Option<(u64, u64)> {
        let (other, other_end) = self.ranges.range(..=end).next_back()?;
        (*other_end >= start).then_some((*other, *other_end))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use landfall_disks::ByteOffset;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn range(start: u64, length: u64) -> ByteRange {
        ByteRange::at(ByteOffset::new(start), length).expect("small")
    }

    proptest! {
        #[test]
        fn what_is_left_is_what_was_not_written_since(
            steps in proptest::collection::vec((any::<bool>(), 0u64..40, 0u64..12), 0..40),
        ) {
            let (mut refused, mut model) = (Refused::default(), BTreeSet::new());
            for (written, start, length) in steps {
                let bytes = start..start + length;
                if written {
                    refused.remove(range(start, length));
                    bytes.for_each(|byte| { model.remove(&byte); });
                } else {
                    refused.add(range(start, length));
                    model.extend(bytes);
                }
                let left: BTreeSet<u64> =
                    refused.ranges.iter().flat_map(|(start, end)| *start..*end).collect();
                prop_assert_eq!(&left, &model);
                prop_assert_eq!(refused.first().is_none(), model.is_empty());
            }
        }
    }

    #[test]
    fn too_many_are_never_whole_again() {
        let mut refused = Refused::default();
        (0..=MAX_RANGES as u64).for_each(|at| refused.add(range(at * 10, 1)));
        refused.remove(range(0, u64::MAX / 2));
        assert_eq!(refused.first().as_deref(), Some("many writes"));
    }
}
