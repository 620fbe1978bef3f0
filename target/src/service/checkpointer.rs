//! Checkpoints of the index as a task, and what takes the place of an index that is lost or damaged.
//!
//! ```text
//!   start  index ─▶ good │ gone, corrupt ─▶ newest good checkpoint │ none: empty
//!   every 10 minutes, if something was written ─▶ checkpoint ─▶ those that are too many go
//!          less free than streams must leave   ─▶ all go: they hold files that the index has done with
//! ```

use crate::config::Config;
use crate::volumes::free_bytes_at;
use anyhow::Context;
use landfall_retention::Retention;
use landfall_retention::index::rocks::{Checkpoints, Restored, RocksIndex, RocksSettings};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// Makes checkpoints and counts them.
pub(crate) struct Checkpointer {
    checkpoints: Checkpoints,
    every: Option<Duration>,
    /// Free space that streams must leave.
    reserve_bytes: u64,
    began: Instant,
    made: AtomicU64,
    failures: AtomicU64,
    /// Milliseconds from the beginning to the last one.
    last: AtomicU64,
    /// Whether one took the place of the index at the start.
    restored: AtomicBool,
}

/// What was counted since the start.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CheckpointCounters {
    /// Checkpoints that were made.
    pub(crate) made: u64,
    /// Checkpoints that could not be made.
    pub(crate) failures: u64,
    /// Since when there is no newer one; nothing before the first.
    pub(crate) age: Option<Duration>,
    /// Whether one took the place of the index at the start.
    pub(crate) restored: bool,
}

impl Checkpointer {
    /// For the index of `config`. Nothing is made yet.
    pub(crate) fn new(config: &Config) -> Self {
        Self {
            checkpoints: Checkpoints::of(&config.index),
            every: config.checkpoint_every,
            reserve_bytes: config.reserve_bytes,
            began: Instant::now(),
            made: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            last: AtomicU64::new(0),
            restored: AtomicBool::new(false),
        }
    }

    /// Opens the index, or what takes its place.
    pub(crate) fn open_index(&self, rocks: RocksSettings) -> anyhow::Result<RocksIndex> {
        let (index, restored) = self.checkpoints.open(rocks).context("opening the index")?;
        let (what, damage) = match restored {
            Restored::No => return Ok(index),
            Restored::From { checkpoint, damage } => {
                self.restored.store(true, Relaxed);
                let from = checkpoint.display();
                (
                    format!("checkpoint {from} takes its place; what came since is indexed again"),
                    damage,
                )
            }
            Restored::Nothing { damage } => (
                "no checkpoint is good: it is built anew from the whole journal".to_owned(),
                damage,
            ),
        };
        match damage {
            Some(error) => tracing::error!("the index is damaged: {what} ({error})"),
            None => tracing::warn!("the index is gone: {what}"),
        }
        Ok(index)
    }

    /// Makes checkpoints from now on, until the index is closed.
    /// One that is being built says that it has nothing of it yet: a checkpoint would be of no use.
    pub(crate) fn start(self: &Arc<Self>, index: &Arc<RocksIndex>, retention: &Arc<Retention>) {
        let Some(every) = self.every else { return };
        let (this, index) = (Arc::clone(self), Arc::downgrade(index));
        let retention = Arc::downgrade(retention);
        tokio::spawn(async move {
            let mut known = None;
            loop {
                tokio::time::sleep(every).await;
                let Some(index) = index.upgrade() else { return };
                let Some(whole) = retention.upgrade().map(|store| store.index_status().whole)
                else {
                    return;
                };
                if !whole {
                    continue;
                }
                if known == Some(index.written()) {
                    continue;
                }
                let maker = Arc::clone(&this);
                let made = tokio::task::spawn_blocking(move || {
                    let written = index.written();
                    maker.make(&index).map(|made| made.then_some(written))
                });
                match made.await {
                    Ok(Ok(written)) => known = written,
                    Ok(Err(error)) => this.note_failure(&error),
                    Err(error) => this.note_failure(&error.into()),
                }
            }
        });
    }

    /// Makes one if there is room; whether it did.
    fn make(&self, index: &RocksIndex) -> anyhow::Result<bool> {
        let folder = self.checkpoints.index();
        let free = free_bytes_at(folder).with_context(|| folder.display().to_string())?;
        if free < self.reserve_bytes {
            self.checkpoints.remove_all()?;
            tracing::warn!(
                "little space is left: checkpoints of the index are given up until there is more"
            );
            return Ok(false);
        }
        self.checkpoints.make(index)?;
        let millis = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last.store(millis.max(1), Relaxed);
        self.made.fetch_add(1, Relaxed);
        Ok(true)
    }

    fn note_failure(&self, error: &anyhow::Error) {
        self.failures.fetch_add(1, Relaxed);
        tracing::error!("a checkpoint of the index could not be made: {error:#}");
    }

    /// What was counted.
    pub(crate) fn counters(&self) -> CheckpointCounters {
        let last = Some(self.last.load(Relaxed)).filter(|last| *last > 0);
        let age = last.map(|last| self.began.elapsed().saturating_sub(Duration::from_millis(last)));
        CheckpointCounters {
            made: self.made.load(Relaxed),
            failures: self.failures.load(Relaxed),
            age,
            restored: self.restored.load(Relaxed),
        }
    }
}
