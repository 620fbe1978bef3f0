//! When freed space may be used again: not before everything that might still touch it has ended.
//!
//! ```text
//!   requests      ──a──────────┐   ┌─b──┐        ┌─c──
//!   generation    ├──── 1 ─────┼───┼────┼─┤├──── 2 ───────
//!   freed in 1                 ·   ·    · └ given back when a and b have ended; c began later and cannot know it
//! ```
//!
//! A request holds the generation it began in, and each generation holds the next, so a generation ends after all before
//! it. When it ends, the space that was freed in it is given back.

use super::space::{Extent, Space};
use parking_lot::Mutex;
use std::sync::{Arc, OnceLock};

/// A time between two releases of freed space. Whoever holds one keeps the space of its time.
pub(super) struct Generation {
    space: Arc<Space>,
    freed: Mutex<Vec<Extent>>,
    next: OnceLock<Arc<Generation>>,
}

impl Generation {
    fn new(space: &Arc<Space>) -> Arc<Self> {
        let space = Arc::clone(space);
        Arc::new(Self { space, freed: Mutex::default(), next: OnceLock::new() })
    }
}

impl Drop for Generation {
    fn drop(&mut self) {
        for extent in self.freed.get_mut().drain(..) {
            self.space.give_back(extent);
        }
        // One after the other, not one inside the other: a request that hung for long may hold very many.
        let mut next = self.next.take();
        while let Some(generation) = next {
            match Arc::into_inner(generation) {
                Some(mut ended) => {
                    next = ended.next.take();
                }
                None => break,
            }
        }
    }
}

/// The present generation of a disk.
pub(super) struct Generations {
    present: Mutex<Arc<Generation>>,
    space: Arc<Space>,
}

impl Generations {
    pub(super) fn new(space: &Arc<Space>) -> Self {
        Self { present: Mutex::new(Generation::new(space)), space: Arc::clone(space) }
    }

    /// What a request holds while it runs, from before it looks up where its blocks are.
    pub(super) fn enter(&self) -> Arc<Generation> {
        Arc::clone(&self.present.lock())
    }

    /// Gives `freed` back once all requests that have begun so far have ended.
    pub(super) fn release(&self, freed: Vec<Extent>) {
        if freed.is_empty() {
            return;
        }
        let next = Generation::new(&self.space);
        let ended = std::mem::replace(&mut *self.present.lock(), Arc::clone(&next));
        *ended.freed.lock() = freed;
        assert!(ended.next.set(next).is_ok(), "a generation is followed by one");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk_of(bytes: u64) -> (Arc<Space>, Generations) {
        let space = Arc::new(Space::new(0, 1, u64::MAX, "none"));
        space.take(bytes).expect("there is no limit");
        let generations = Generations::new(&space);
        (space, generations)
    }

    #[test]
    fn space_waits_for_those_who_were_there_before() {
        let (space, generations) = disk_of(100);
        let early = generations.enter();
        generations.release(vec![Extent { offset: 0, length: 10 }]);
        let late = generations.enter();
        generations.release(vec![Extent { offset: 10, length: 20 }]);
        let last = generations.enter();
        drop(late);
        assert_eq!(space.free_bytes(), 0, "the early one may know both");
        drop(early);
        assert_eq!(space.free_bytes(), 30);
        generations.release(vec![Extent { offset: 30, length: 5 }]);
        assert_eq!(space.free_bytes(), 30);
        drop(last);
        assert_eq!(space.free_bytes(), 35);
    }

    #[test]
    fn a_request_that_hangs_holds_any_number() {
        let count = 200_000;
        let (space, generations) = disk_of(count);
        let hangs = generations.enter();
        for offset in 0..count {
            generations.release(vec![Extent { offset, length: 1 }]);
        }
        assert_eq!(space.free_bytes(), 0);
        drop(hangs);
        assert_eq!(space.free_bytes(), count);
    }
}
