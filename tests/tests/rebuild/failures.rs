//! An index that fails once while it is built, at any of the places where it is asked for something.

use super::*;
use landfall_disks::faults::run;
use landfall_retention::index::forgotten::Forgotten;
use landfall_retention::index::{Cursor, IndexBatch, IndexError, IndexStore};
use landfall_retention::{IndexMoreError, Opened, Surroundings};
use std::sync::atomic::{AtomicUsize, Ordering};

/// Fails the call that is as many calls away as it says.
struct FailsOnce {
    index: Arc<dyn IndexStore>,
    calls_until: AtomicUsize,
}

/// No call fails.
const NEVER: usize = usize::MAX;

impl FailsOnce {
    fn arm(&self, calls: usize) {
        self.calls_until.store(calls, Ordering::Relaxed);
    }

    fn has_failed(&self) -> bool {
        self.calls_until.load(Ordering::Relaxed) == NEVER
    }

    fn call(&self) -> Result<(), IndexError> {
        match self.calls_until.load(Ordering::Relaxed) {
            NEVER => Ok(()),
            0 => {
                self.arm(NEVER);
                let (operation, message) = ("anything", "no space left on device".to_owned());
                Err(IndexError::Store { operation, message })
            }
            left => {
                self.arm(left - 1);
                Ok(())
            }
        }
    }
}

impl IndexStore for FailsOnce {
    fn write(&self, batch: IndexBatch) -> Result<(), IndexError> {
        self.call()?;
        self.index.write(batch)
    }

    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, IndexError> {
        self.call()?;
        self.index.get(key)
    }

    fn cursor(&self) -> Box<dyn Cursor + '_> {
        Box::new(FailingCursor { of: self, cursor: self.index.cursor() })
    }

    fn flush(&self) -> Result<(), IndexError> {
        self.call()?;
        self.index.flush()
    }

    fn set_forgotten(&self, forgotten: Forgotten) {
        self.index.set_forgotten(forgotten);
    }

    fn compact(&self) -> Result<(), IndexError> {
        self.call()?;
        self.index.compact()
    }

    fn size_bytes(&self) -> u64 {
        self.index.size_bytes()
    }
}

struct FailingCursor<'a> {
    of: &'a FailsOnce,
    cursor: Box<dyn Cursor + 'a>,
}

impl Cursor for FailingCursor<'_> {
    fn seek(&mut self, key: &[u8]) -> Result<(), IndexError> {
        self.of.call()?;
        self.cursor.seek(key)
    }

    fn seek_back(&mut self, key: &[u8]) -> Result<(), IndexError> {
        self.of.call()?;
        self.cursor.seek_back(key)
    }

    fn advance(&mut self) -> Result<(), IndexError> {
        self.cursor.advance()
    }

    fn entry(&self) -> Option<(&[u8], &[u8])> {
        self.cursor.entry()
    }
}

/// Builds the index of a world whose call number `calls` fails; whether there were so many.
fn fails_at(calls: usize) -> bool {
    let (world, points) = history(false);
    let (failed, lane_failed) = run(&mut Seed::new(7), |spawner| {
        let index = Arc::clone(&world.index) as Arc<dyn IndexStore>;
        let failing = Arc::new(FailsOnce { index, calls_until: AtomicUsize::new(NEVER) });
        let index = Arc::clone(&failing) as Arc<dyn IndexStore>;
        let surroundings = Surroundings { index, ..world.surroundings() };
        let points = points.clone();
        async move {
            let opened = Retention::open(surroundings, one_segment()).await;
            let Opened { retention: store, lanes, .. } = opened.expect("the store opens");
            lanes.into_iter().for_each(|lane| spawner.spawn(lane.run()));
            failing.arm(calls);
            let mut errors = 0;
            loop {
                match store.index_more(&pace()).await {
                    Ok(true) => {}
                    Ok(false) => break,
                    // Whoever writes to the lane hears of that, too.
                    Err(IndexMoreError::Lane(_)) => return (true, true),
                    Err(_) => errors += 1,
                }
                assert!(errors <= 1, "call {calls} fails again and again");
                let says_why = store.index_status().failure.is_some();
                assert!(!says_why || failing.has_failed(), "call {calls}");
            }
            let failed = failing.has_failed();
            failing.arm(NEVER);
            let status = store.index_status();
            assert!(status.whole && status.failure.is_none(), "call {calls}: {status:?}");
            check(&store, &points).await;
            let listed = store.points(&name("web"), None, &PointQuery::all(100));
            assert_eq!(listed.expect("it is whole").len(), points.len(), "call {calls}");
            let stream = store.open_stream(request(1, 1, SIZE)).await;
            let stream = stream.unwrap_or_else(|error| panic!("call {calls}: {error}"));
            more(&stream, ROUNDS).await;
            (failed, false)
        }
    });
    if lane_failed {
        with_store(&world, move |store, _| Box::pin(async move { check(&store, &points).await }));
    }
    failed
}

#[test]
fn what_failed_once_is_done_by_the_next_call() {
    let mut calls = 0;
    while fails_at(calls) {
        calls += 1;
    }
    assert!(calls > 10, "only {calls} calls");
}
