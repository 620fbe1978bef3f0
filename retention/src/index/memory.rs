//! An index in memory, for simulation and fuzzing: it forgets its unflushed tail the way RocksDB without a log does.

use super::forgotten::Forgotten;
use super::{Cursor, IndexBatch, IndexError, IndexStore};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

type Entries = BTreeMap<Vec<u8>, Vec<u8>>;

/// The store. A cursor sees the entries as they were when it was opened.
#[derive(Default)]
pub struct MemoryIndex {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    visible: Arc<Entries>,
    durable: Entries,
    unflushed: Vec<IndexBatch>,
    forgotten: Arc<Forgotten>,
}

impl MemoryIndex {
    /// What a power cut leaves: everything flushed, and the first `kept` of the batches written since.
    pub fn after_crash(&self, kept: usize) -> Self {
        let inner = self.inner.lock();
        let mut durable = inner.durable.clone();
        for batch in inner.unflushed.iter().take(kept) {
            apply(&mut durable, batch.clone());
        }
        let visible = Arc::new(durable.clone());
        Self { inner: Mutex::new(Inner { visible, durable, ..Inner::default() }) }
    }

    /// What a checkpoint of it is: all it has, durably.
    pub fn checkpoint(&self) -> Self {
        let visible = Arc::clone(&self.inner.lock().visible);
        let durable = (*visible).clone();
        Self { inner: Mutex::new(Inner { visible, durable, ..Inner::default() }) }
    }

    /// Lets go of what may vanish and `goes` picks; how many entries went.
    pub fn vanish(&self, mut goes: impl FnMut(&[u8]) -> bool) -> usize {
        let mut inner = self.inner.lock();
        let mut pass = inner.forgotten.pass();
        let mut may_go = |key: &&Vec<u8>| pass.goes(key) && goes(key);
        let gone: Vec<_> = inner.visible.keys().filter(&mut may_go).cloned().collect();
        for key in &gone {
            Arc::make_mut(&mut inner.visible).remove(key);
            inner.durable.remove(key);
        }
        gone.len()
    }

    /// Batches written since the last flush.
    pub fn unflushed(&self) -> usize {
        self.inner.lock().unflushed.len()
    }
}

fn apply(entries: &mut Entries, batch: IndexBatch) {
    for (start, end) in batch.removed_ranges {
        let doomed: Vec<_> = entries.range(start..end).map(|(key, _)| key.clone()).collect();
        for key in doomed {
            entries.remove(&key);
        }
    }
    entries.extend(batch.puts);
}

impl IndexStore for MemoryIndex {
    fn write(&self, batch: IndexBatch) -> Result<(), IndexError> {
        let mut inner = self.inner.lock();
        inner.unflushed.push(batch.clone());
        apply(Arc::make_mut(&mut inner.visible), batch);
        Ok(())
    }

    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, IndexError> {
        Ok(self.inner.lock().visible.get(key).cloned())
    }

    fn cursor(&self) -> Box<dyn Cursor + '_> {
        let entries = Arc::clone(&self.inner.lock().visible);
        Box::new(MemoryCursor { entries, at: None })
    }

    fn flush(&self) -> Result<(), IndexError> {
        let mut inner = self.inner.lock();
        inner.durable = (*inner.visible).clone();
        inner.unflushed.clear();
        Ok(())
    }

    fn set_forgotten(&self, forgotten: Forgotten) {
        self.inner.lock().forgotten = Arc::new(forgotten);
    }

    fn compact(&self) -> Result<(), IndexError> {
        self.vanish(|_| true);
        Ok(())
    }

    fn size_bytes(&self) -> u64 {
        let inner = self.inner.lock();
        inner.visible.iter().map(|(key, value)| (key.len() + value.len()) as u64).sum()
    }
}

struct MemoryCursor {
    entries: Arc<Entries>,
    at: Option<(Vec<u8>, Vec<u8>)>,
}

impl Cursor for MemoryCursor {
    fn seek(&mut self, key: &[u8]) -> Result<(), IndexError> {
        let range = (Bound::Included(key), Bound::Unbounded);
        let next = self.entries.range::<[u8], _>(range).next();
        self.at = next.map(|(key, value)| (key.clone(), value.clone()));
        Ok(())
    }

    fn seek_back(&mut self, key: &[u8]) -> Result<(), IndexError> {
        let range = (Bound::Unbounded, Bound::Included(key));
        let last = self.entries.range::<[u8], _>(range).next_back();
        self.at = last.map(|(key, value)| (key.clone(), value.clone()));
        Ok(())
    }

    fn advance(&mut self) -> Result<(), IndexError> {
        if let Some((key, _)) = self.at.take() {
            let range = (Bound::Excluded(key.as_slice()), Bound::Unbounded);
            let next = self.entries.range::<[u8], _>(range).next();
            self.at = next.map(|(key, value)| (key.clone(), value.clone()));
        }
        Ok(())
    }

    fn entry(&self) -> Option<(&[u8], &[u8])> {
        self.at.as_ref().map(|(key, value)| (key.as_slice(), value.as_slice()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(store: &MemoryIndex, key: &[u8]) {
        let mut batch = IndexBatch::default();
        batch.put(key, b"x");
        store.write(batch).unwrap();
    }

    #[test]
    fn a_crash_forgets_a_suffix_of_what_was_not_flushed() {
        let store = MemoryIndex::default();
        put(&store, b"a");
        store.flush().unwrap();
        put(&store, b"b");
        put(&store, b"c");
        let after = store.after_crash(1);
        let has = |key: &[u8]| after.get(key).unwrap().is_some();
        assert_eq!((has(b"a"), has(b"b"), has(b"c")), (true, true, false));
    }

    #[test]
    fn a_cursor_does_not_see_later_writes() {
        let store = MemoryIndex::default();
        put(&store, b"a");
        let mut cursor = store.cursor();
        put(&store, b"b");
        cursor.seek(b"b").unwrap();
        assert!(cursor.entry().is_none());
    }
}
