//! Things loaded on demand and kept in memory: pages of a table, presence bits of blocks.
//!
//! A thing is evicted only if nobody holds it and it is not changed, so there is never a second copy that misses a change.

use parking_lot::Mutex;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

/// Loads of different things run beside each other, of one thing one at a time; this many at once.
const LOADERS: usize = 16;

struct State<V> {
    loaded: HashMap<u64, Arc<V>>,
    /// What is looked at for eviction, the longest unseen first.
    order: VecDeque<u64>,
    changed: BTreeMap<u64, Arc<V>>,
}

/// Loaded things by number.
pub(super) struct Resident<V> {
    state: Mutex<State<V>>,
    loading: [tokio::sync::Mutex<()>; LOADERS],
    limit: usize,
}

impl<V> Resident<V> {
    /// Keeps `limit` things that nobody holds or changed.
    pub(super) fn new(limit: usize) -> Self {
        let state =
            State { loaded: HashMap::new(), order: VecDeque::new(), changed: BTreeMap::new() };
        Self { state: Mutex::new(state), loading: Default::default(), limit }
    }

    /// The thing, if it is in memory.
    pub(super) fn get(&self, key: u64) -> Option<Arc<V>> {
        self.state.lock().loaded.get(&key).cloned()
    }

    /// The thing, loaded if it is not in memory.
    pub(super) async fn get_or_load<E>(
        &self,
        key: u64,
        load: impl AsyncFnOnce() -> Result<V, E>,
    ) -> Result<Arc<V>, E> {
        if let Some(found) = self.get(key) {
            return Ok(found);
        }
        let loader = usize::try_from(key % LOADERS as u64).expect("a small number");
        let _alone = self.loading[loader].lock().await;
        if let Some(found) = self.get(key) {
            return Ok(found);
        }
        let loaded = Arc::new(load().await?);
        self.keep(key, &loaded);
        Ok(loaded)
    }

    /// Puts a thing in that was not loaded but made, in place of any there is.
    pub(super) fn insert(&self, key: u64, made: V) -> Arc<V> {
        let made = Arc::new(made);
        self.keep(key, &made);
        made
    }

    fn keep(&self, key: u64, value: &Arc<V>) {
        let mut state = self.state.lock();
        if state.loaded.insert(key, Arc::clone(value)).is_none() {
            state.order.push_back(key);
        }
        // Every thing is looked at once at most: all may be in use.
        for _ in 0..state.order.len() {
            if state.loaded.len() <= self.limit {
                break;
            }
            let Some(oldest) = state.order.pop_front() else { break };
            let unused = |held: &Arc<V>| Arc::strong_count(held) == 1;
            if state.loaded.get(&oldest).is_some_and(unused) {
                state.loaded.remove(&oldest);
            } else {
                state.order.push_back(oldest);
            }
        }
    }

    /// Forgets the thing and that it changed.
    pub(super) fn remove(&self, key: u64) {
        let mut state = self.state.lock();
        state.changed.remove(&key);
        if state.loaded.remove(&key).is_some() {
            state.order.retain(|other| *other != key);
        }
    }

    /// Notes that `value` differs from what is stored. Called after the change.
    pub(super) fn changed(&self, key: u64, value: &Arc<V>) {
        self.state.lock().changed.insert(key, Arc::clone(value));
    }

    /// What changed since this was called last. The caller stores it or [gives it back](Resident::not_stored).
    pub(super) fn take_changed(&self) -> BTreeMap<u64, Arc<V>> {
        std::mem::take(&mut self.state.lock().changed)
    }

    /// What was taken is not stored after all. What has been removed since stays so.
    pub(super) fn not_stored(&self, taken: BTreeMap<u64, Arc<V>>) {
        let mut state = self.state.lock();
        for (key, value) in taken {
            if state.loaded.get(&key).is_some_and(|current| Arc::ptr_eq(current, &value)) {
                state.changed.insert(key, value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::faults::{Seed, run};
    use std::cell::Cell;

    async fn load(resident: &Resident<u64>, key: u64, loads: &Cell<u32>) -> Arc<u64> {
        let load = async || {
            loads.set(loads.get() + 1);
            tokio::task::yield_now().await;
            Ok::<u64, ()>(key * 10)
        };
        resident.get_or_load(key, load).await.expect("it does not fail")
    }

    #[test]
    fn the_unused_are_evicted_and_the_held_and_changed_stay() {
        run(&mut Seed::new(1), |_| async {
            let (resident, loads) = (Resident::new(2), Cell::new(0));
            let held = load(&resident, 1, &loads).await;
            let changed = load(&resident, 2, &loads).await;
            resident.changed(2, &changed);
            drop(changed);
            for key in 3..8 {
                assert_eq!(*load(&resident, key, &loads).await, key * 10);
            }
            assert_eq!(loads.get(), 7);
            assert!(Arc::ptr_eq(&held, &load(&resident, 1, &loads).await));
            load(&resident, 2, &loads).await;
            assert_eq!(loads.get(), 7, "neither was loaded again");
            load(&resident, 3, &loads).await;
            assert_eq!(loads.get(), 8, "this one was");
        });
    }

    #[test]
    fn what_was_not_stored_is_taken_again() {
        run(&mut Seed::new(1), |_| async {
            let (resident, loads) = (Resident::new(2), Cell::new(0));
            for key in 0..3 {
                let value = load(&resident, key, &loads).await;
                resident.changed(key, &value);
            }
            let taken = resident.take_changed();
            assert_eq!(taken.len(), 3);
            assert!(resident.take_changed().is_empty());
            resident.remove(1);
            resident.not_stored(taken);
            assert_eq!(resident.take_changed().into_keys().collect::<Vec<_>>(), [0, 2]);
        });
    }

    #[test]
    fn one_thing_is_loaded_once() {
        run(&mut Seed::new(1), |_| async {
            let (resident, loads) = (Resident::new(2), Cell::new(0));
            let both = futures_util::join!(load(&resident, 5, &loads), load(&resident, 5, &loads));
            assert!(Arc::ptr_eq(&both.0, &both.1));
            assert_eq!(loads.get(), 1);
        });
    }
}
