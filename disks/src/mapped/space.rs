//! The space of a file: who has which part, decided in memory.
//!
//! ```text
//!   file   [ metadata ][ used ][ free ][ used ][ free ]│ fresh ...
//!                                                      end: nothing was ever written behind it
//! ```
//!
//! Free space may hold old bytes. Fresh space reads as zeroes as soon as the file is long enough to have it.

use crate::disk::DiskError;
use parking_lot::Mutex;
use std::collections::BTreeMap;

/// A stretch of a file.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Extent {
    /// First byte.
    pub offset: u64,
    /// Bytes.
    pub length: u64,
}

impl Extent {
    /// One past the last byte.
    pub fn end(&self) -> u64 {
        self.offset + self.length
    }
}

struct State {
    /// Free stretches by offset; no two touch.
    free: BTreeMap<u64, u64>,
    /// Where fresh space starts.
    end: u64,
}

/// Which parts of a file are free.
pub struct Space {
    state: Mutex<State>,
    /// What is given out starts at multiples of this.
    alignment: u64,
    /// No byte at or past this can be used, and why.
    limit: u64,
    limit_reason: &'static str,
}

impl Space {
    /// Everything before `end` is in use, what follows is fresh. `limit` is the first byte that the format cannot address.
    pub fn new(end: u64, alignment: u64, limit: u64, limit_reason: &'static str) -> Self {
        let state = State { free: BTreeMap::new(), end };
        Self { state: Mutex::new(state), alignment, limit, limit_reason }
    }

    /// Where fresh space starts: the file has to be as long to hold all that was given out.
    pub fn end(&self) -> u64 {
        self.state.lock().end
    }

    /// Free bytes before the end.
    pub fn free_bytes(&self) -> u64 {
        self.state.lock().free.values().sum()
    }

    /// Takes `length` bytes for something that starts at a multiple of the alignment. The flag says whether they are fresh.
    pub fn take(&self, length: u64) -> Result<(Extent, bool), DiskError> {
        let mut state = self.state.lock();
        if let Some(extent) = self.take_free(&mut state, length) {
            return Ok((extent, false));
        }
        let extent = self.take_fresh(&mut state, length);
        let full = || DiskError::NoSpace(self.limit_reason.to_owned());
        Ok((extent.ok_or_else(full)?, true))
    }

    /// Takes `count` stretches of `length` side by side; `None` where there is no such piece, or where it would be fresh although
    /// single ones are free. The flag is as for [`Space::take`].
    pub fn take_run(&self, length: u64, count: u64) -> Option<(Extent, bool)> {
        let mut state = self.state.lock();
        let whole = length.checked_mul(count)?;
        if !length.is_multiple_of(self.alignment) {
            return None;
        }
        if let Some(extent) = self.take_free(&mut state, whole) {
            return Some((extent, false));
        }
        if let Some(single) = self.take_free(&mut state, length) {
            give(&mut state.free, single);
            return None;
        }
        self.take_fresh(&mut state, whole).map(|extent| (extent, true))
    }

    fn take_fresh(&self, state: &mut State, length: u64) -> Option<Extent> {
        let offset = state.end.next_multiple_of(self.alignment);
        let end = offset.checked_add(length).filter(|end| *end <= self.limit)?;
        // What was skipped for alignment was never written either, but it is not worth a second kind of free space.
        let before = std::mem::replace(&mut state.end, end);
        give(&mut state.free, Extent { offset: before, length: offset - before });
        Some(Extent { offset, length })
    }

    fn take_free(&self, state: &mut State, length: u64) -> Option<Extent> {
        let (hole, offset) = state.free.iter().find_map(|(start, free)| {
            let offset = start.next_multiple_of(self.alignment);
            let hole = Extent { offset: *start, length: *free };
            (offset + length <= hole.end()).then_some((hole, offset))
        })?;
        state.free.remove(&hole.offset);
        let taken = Extent { offset, length };
        give(&mut state.free, Extent { offset: hole.offset, length: offset - hole.offset });
        give(&mut state.free, Extent { offset: taken.end(), length: hole.end() - taken.end() });
        Some(taken)
    }

    /// Gives back what was taken, or never used. It may hold old bytes.
    pub fn give_back(&self, extent: Extent) {
        let mut state = self.state.lock();
        debug_assert!(extent.end() <= state.end, "{extent:?} was never taken");
        give(&mut state.free, extent);
    }
}

/// Adds a stretch to the free ones and joins it with its neighbours.
fn give(free: &mut BTreeMap<u64, u64>, mut extent: Extent) {
    if extent.length == 0 {
        return;
    }
    if let Some((before, length)) = free.range(..extent.offset).next_back() {
        let (before, length) = (*before, *length);
        assert!(before + length <= extent.offset, "{extent:?} is given back twice");
        if before + length == extent.offset {
            free.remove(&before);
            extent = Extent { offset: before, length: length + extent.length };
        }
    }
    if let Some((after, length)) = free.range(extent.offset..).next() {
        let (after, length) = (*after, *length);
        assert!(extent.end() <= after, "{extent:?} is given back twice");
        if extent.end() == after {
            free.remove(&after);
            extent.length += length;
        }
    }
    free.insert(extent.offset, extent.length);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn fresh_space_is_aligned_and_ends_at_the_limit() {
        let space = Space::new(1000, 512, 4096, "the format ends at 4096");
        assert_eq!(space.take(1024).unwrap(), (Extent { offset: 1024, length: 1024 }, true));
        assert_eq!(space.take(2048).unwrap(), (Extent { offset: 2048, length: 2048 }, true));
        let full = space.take(512).expect_err("the limit is reached");
        assert!(full.to_string().contains("ends at 4096"), "{full}");
        space.give_back(Extent { offset: 1024, length: 1024 });
        assert_eq!(space.take(512).unwrap(), (Extent { offset: 1024, length: 512 }, false));
    }

    #[test]
    fn runs_fill_gaps_that_are_large_enough_and_leave_no_others() {
        let space = Space::new(0, 512, 1 << 16, "far");
        let run = |offset, length, fresh| Some((Extent { offset, length }, fresh));
        assert_eq!(space.take_run(512, 8), run(0, 4096, true));
        space.give_back(Extent { offset: 1024, length: 1024 });
        assert_eq!(space.take_run(512, 3), None, "single ones are free, so the file does not grow");
        assert_eq!(space.take_run(512, 2), run(1024, 1024, false));
        assert_eq!(space.take_run(700, 2), None, "the second would not be aligned");
        assert_eq!(space.take_run(512, 1 << 20), None, "the format ends before");
        assert_eq!(space.end(), 4096);
    }

    proptest! {
        #[test]
        fn nothing_is_given_out_twice(
            steps in prop::collection::vec((0..3, 1u64..5, any::<prop::sample::Index>()), 1..60)
        ) {
            let space = Space::new(100, 64, 1 << 20, "far");
            let mut taken: Vec<Extent> = Vec::new();
            for (step, units, which) in steps {
                let extent = match step {
                    0 if !taken.is_empty() => {
                        space.give_back(taken.swap_remove(which.index(taken.len())));
                        None
                    }
                    1 => space.take_run(64, units).map(|(extent, _)| extent),
                    _ => Some(space.take(units * 64).unwrap().0),
                };
                if let Some(extent) = extent {
                    prop_assert!(extent.offset >= 100 && extent.offset.is_multiple_of(64));
                    prop_assert!(extent.end() <= space.end());
                    for other in &taken {
                        let apart = extent.end() <= other.offset || other.end() <= extent.offset;
                        prop_assert!(apart, "{extent:?} {other:?}");
                    }
                    taken.push(extent);
                }
                let used: u64 = taken.iter().map(|extent| extent.length).sum();
                prop_assert_eq!(space.free_bytes() + used + 100, space.end());
            }
        }
    }
}
