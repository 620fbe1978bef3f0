//! Locks on ranges of a disk, for whoever has to read bytes before it can write them.
//!
//! ```text
//!   holders and waiters, in order of arrival:   S 0..8   X 4..8   S 0..4   S 6..9
//!                                                held     waits    held     waits (behind X: it is fair)
//! ```
//!
//! A lock is held once no earlier one, held or waiting, overlaps it, unless both are shared. Arrival order makes it fair;
//! giving up a wait leaves no trace. Works on any executor and across threads.
//!
//! **Lock order:** one guard at a time per task, or ranges that do not overlap, taken in ascending order.

use crate::block::ByteRange;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::task::{Poll, Waker};

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Shared,
    Exclusive,
}

struct Entry {
    range: ByteRange,
    mode: Mode,
    held: bool,
    waker: Option<Waker>,
}

impl Entry {
    fn excludes(&self, other: &Self) -> bool {
        let exclusive = self.mode == Mode::Exclusive || other.mode == Mode::Exclusive;
        exclusive && self.range.overlaps(other.range)
    }
}

#[derive(Default)]
struct State {
    /// By order of arrival.
    entries: BTreeMap<u64, Entry>,
    arrivals: u64,
    waiting: usize,
    /// Exclusive ones, held or waiting. Without any, whoever shares need not look around.
    exclusive: usize,
}

impl State {
    fn arrive(&mut self, range: ByteRange, mode: Mode) -> u64 {
        let mut entry = Entry { range, mode, held: false, waker: None };
        self.exclusive += usize::from(mode == Mode::Exclusive);
        entry.held =
            self.exclusive == 0 || !self.entries.values().any(|earlier| earlier.excludes(&entry));
        self.waiting += usize::from(!entry.held);
        self.arrivals += 1;
        self.entries.insert(self.arrivals, entry);
        self.arrivals
    }

    /// Removes an entry and gives the wakers of those that hold their locks now.
    fn leave(&mut self, number: u64) -> Vec<Waker> {
        let left = self.entries.remove(&number).expect("a guard leaves once");
        self.waiting -= usize::from(!left.held);
        self.exclusive -= usize::from(left.mode == Mode::Exclusive);
        if self.waiting == 0 {
            return Vec::new();
        }
        let candidates: Vec<u64> = self
            .entries
            .range(number..)
            .filter(|(_, entry)| !entry.held && left.excludes(entry))
            .map(|(number, _)| *number)
            .collect();
        let mut woken = Vec::new();
        for number in candidates {
            let entry = &self.entries[&number];
            if self.entries.range(..number).any(|(_, earlier)| earlier.excludes(entry)) {
                continue;
            }
            let entry = self.entries.get_mut(&number).expect("it was just there");
            entry.held = true;
            self.waiting -= 1;
            woken.extend(entry.waker.take());
        }
        woken
    }
}

/// The locks of one disk. Clones are the same locks.
#[derive(Clone, Default)]
pub struct RangeLocks {
    state: Arc<Mutex<State>>,
}

impl RangeLocks {
    /// No locks held.
    pub fn new() -> Self {
        Self::default()
    }

    /// Waits until no exclusive lock overlaps `range`, in order of arrival. An empty range overlaps nothing.
    pub async fn lock_shared(&self, range: ByteRange) -> RangeGuard {
        self.lock(range, Mode::Shared).await
    }

    /// Waits until no lock at all overlaps `range`, in order of arrival. An empty range overlaps nothing.
    pub async fn lock_exclusive(&self, range: ByteRange) -> RangeGuard {
        self.lock(range, Mode::Exclusive).await
    }

    async fn lock(&self, range: ByteRange, mode: Mode) -> RangeGuard {
        // The guard exists while it still waits: dropping this future drops it, and its place in the queue is free.
        let number = self.state.lock().arrive(range, mode);
        let guard = RangeGuard { state: Arc::clone(&self.state), number };
        std::future::poll_fn(|context| {
            let mut state = guard.state.lock();
            let entry = state.entries.get_mut(&number).expect("it stays until the guard's drop");
            if entry.held {
                return Poll::Ready(());
            }
            entry.waker = Some(context.waker().clone());
            Poll::Pending
        })
        .await;
        guard
    }
}

/// A held lock; released on drop.
#[must_use = "the lock is released when the guard is dropped"]
pub struct RangeGuard {
    state: Arc<Mutex<State>>,
    number: u64,
}

impl Drop for RangeGuard {
    fn drop(&mut self) {
        let woken = self.state.lock().leave(self.number);
        // Outside the lock: a waker may do anything.
        for waker in woken {
            waker.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::ByteOffset;
    use crate::faults::{Seed, run};
    use futures_util::poll;
    use std::cell::Cell;
    use std::pin::pin;
    use std::rc::Rc;

    fn range(start: u64, end: u64) -> ByteRange {
        ByteRange::new(ByteOffset::new(start), ByteOffset::new(end)).expect("ordered")
    }

    /// Runs an example that has no choices.
    fn example(test: impl Future<Output = ()>) {
        run(&mut Seed::new(0), |_| test);
    }

    #[test]
    fn shared_locks_overlap_and_exclusive_ones_do_not() {
        example(async {
            let locks = RangeLocks::new();
            let one = locks.lock_shared(range(0, 8)).await;
            let two = locks.lock_shared(range(4, 12)).await;
            let apart = locks.lock_exclusive(range(12, 20)).await;
            let mut both = pin!(locks.lock_exclusive(range(7, 8)));
            assert!(poll!(both.as_mut()).is_pending());
            drop(one);
            assert!(poll!(both.as_mut()).is_pending());
            drop(two);
            assert!(poll!(both.as_mut()).is_ready());
            drop(apart);
        });
    }

    #[test]
    fn who_came_first_is_first() {
        example(async {
            let locks = RangeLocks::new();
            let reader = locks.lock_shared(range(0, 8)).await;
            let mut writer = pin!(locks.lock_exclusive(range(0, 4)));
            assert!(poll!(writer.as_mut()).is_pending());
            let mut late = pin!(locks.lock_shared(range(2, 8)));
            assert!(poll!(late.as_mut()).is_pending(), "it would starve the writer");
            drop(reader);
            assert!(poll!(late.as_mut()).is_pending());
            let Poll::Ready(held) = poll!(writer.as_mut()) else { panic!("it is its turn") };
            drop(held);
            assert!(poll!(late.as_mut()).is_ready());
        });
    }

    #[test]
    fn giving_up_a_wait_lets_later_ones_pass() {
        example(async {
            let locks = RangeLocks::new();
            let reader = locks.lock_shared(range(0, 8)).await;
            let mut writer = Box::pin(locks.lock_exclusive(range(0, 8)));
            assert!(poll!(writer.as_mut()).is_pending());
            let mut late = pin!(locks.lock_shared(range(0, 8)));
            assert!(poll!(late.as_mut()).is_pending());
            drop(writer);
            assert!(poll!(late.as_mut()).is_ready());
            drop(reader);
            assert!(locks.state.lock().entries.is_empty(), "nothing is left behind");
        });
    }

    #[test]
    fn exclusive_holders_are_alone_in_any_order() {
        for number in 0..100 {
            let mut seed = Seed::new(number);
            let mut choices = seed.fork();
            run(&mut seed, |spawner| async move {
                let locks = RangeLocks::new();
                let bytes: Rc<[Cell<i32>; 8]> = Rc::default();
                let (done, mut finished) = tokio::sync::mpsc::channel::<()>(1);
                for _ in 0..30 {
                    let start = choices.below(8);
                    let end = start + 1 + choices.below(8 - start);
                    let exclusive = choices.chance(1, 2);
                    let hurry = choices.chance(1, 4);
                    let (locks, bytes, done) = (locks.clone(), Rc::clone(&bytes), done.clone());
                    spawner.spawn(async move {
                        let range = range(start, end);
                        if hurry {
                            // Asks and gives up.
                            let _ = poll!(pin!(locks.lock_exclusive(range)));
                        }
                        let guard = if exclusive {
                            locks.lock_exclusive(range).await
                        } else {
                            locks.lock_shared(range).await
                        };
                        let mine = if exclusive { -100 } else { 1 };
                        let area = usize::try_from(start).expect("small")
                            ..usize::try_from(end).expect("small");
                        for byte in &bytes[area.clone()] {
                            assert!(byte.get() >= 0 && (!exclusive || byte.get() == 0));
                            byte.set(byte.get() + mine);
                        }
                        tokio::task::yield_now().await;
                        for byte in &bytes[area] {
                            byte.set(byte.get() - mine);
                        }
                        drop(guard);
                        drop(done);
                    });
                }
                drop(done);
                assert_eq!(finished.recv().await, None);
                assert!(locks.state.lock().entries.is_empty(), "nothing is left behind");
            });
        }
    }
}
