//! Giving back as a task: segments that nobody needs go, then those that are needed in part are moved together.

use super::pacing::InTurns;
use super::trunk::{Failing, Trunk};
use super::{Folding, words};
use landfall_disks::uring::spawn;
use landfall_retention::{CompactError, Compacted, ForgetReport, Retention};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// While folds are under way, segments are compacted so often at most: what is folded is given back whole, without a copy.
const COMPACT_BESIDE_FOLDS: Duration = Duration::from_secs(600);

/// How giving back goes.
#[derive(Default)]
pub(super) struct Release {
    running: bool,
    /// There was a look while it ran.
    again: bool,
    failing: Failing,
    /// When segments were last compacted, or the task began.
    compacted: Option<Instant>,
}

impl Release {
    /// For a task that begins now.
    pub(super) fn new() -> Self {
        Self { compacted: Some(Instant::now()), ..Self::default() }
    }

    /// Why segments are not released, if that fails.
    pub(super) fn failure(&self) -> Option<&str> {
        self.failing.why()
    }
}

impl Folding {
    /// Starts to give back what nobody needs, or has that begin again when it has ended.
    pub(super) fn start_release(self: &Arc<Self>, retention: &Arc<Retention>) {
        {
            let mut state = self.state.lock();
            let release = &mut state.release;
            release.again = release.running;
            if release.running || !release.failing.may_try(Instant::now()) {
                return;
            }
            release.running = true;
        }
        let task = self.tasks.begin();
        let (own, retention) = (Arc::clone(self), Arc::clone(retention));
        spawn(async move {
            let _task = task;
            let ends = ReleaseEnds(&own);
            own.tasks.until_stopped(own.release(&retention)).await;
            drop(ends);
        });
    }

    /// Gives back segments until none is left to be looked at.
    async fn release(&self, retention: &Retention) {
        let begun = Instant::now();
        let mut given = ForgetReport::default();
        let failed = loop {
            let pace = InTurns::new(&self.governor, &Arc::default());
            match retention.forget(&pace).await {
                Ok(report) => {
                    self.count(|counters| {
                        counters.released_segments += report.segments as u64;
                        counters.released_bytes += report.bytes;
                    });
                    given.segments += report.segments;
                    given.bytes += report.bytes;
                    if report.left == 0 {
                        break None;
                    }
                }
                Err(error) => break Some(error.to_string()),
            }
        };
        if given.segments > 0 {
            tracing::info!("{}", words::released(&given, begun.elapsed()));
        }
        let failed = match failed {
            None => self.compact(retention).await.err().map(|error| error.to_string()),
            failed => failed,
        };
        let failing = &mut self.state.lock().release.failing;
        match failed {
            None => {
                failing.went_well();
            }
            Some(error) => {
                self.count(|counters| counters.forget_failures += 1);
                let (pause, news) = failing.failed(error.clone(), Instant::now());
                if news {
                    tracing::error!("{}", words::not_released(&error, pause));
                }
            }
        }
    }

    /// Moves together what is needed of segments that are needed in part, until no more can be done at present.
    async fn compact(&self, retention: &Retention) -> Result<(), CompactError> {
        let begun = Instant::now();
        {
            let mut state = self.state.lock();
            let at_work = |trunk: &Trunk| trunk.running.is_some() && !trunk.is_stalled();
            let folding = state.trunks.values().any(at_work);
            let lately =
                state.release.compacted.is_some_and(|at| at.elapsed() < COMPACT_BESIDE_FOLDS);
            if folding && lately {
                return Ok(());
            }
            state.release.compacted = Some(begun);
        }
        let mut sum = Compacted::default();
        let ended = loop {
            let pace = InTurns::new(&self.governor, &Arc::default());
            match retention.compact(&pace).await {
                Ok(done) => {
                    self.count(|counters| {
                        counters.released_segments += done.segments as u64;
                        counters.released_bytes += done.bytes_freed;
                        counters.compacted_segments += done.segments as u64;
                        counters.compacted_bytes += done.bytes_freed;
                        counters.moved_bytes += done.bytes_moved;
                    });
                    sum.segments += done.segments;
                    sum.bytes_freed += done.bytes_freed;
                    sum.bytes_moved += done.bytes_moved;
                    if done.left == 0 || (done.segments == 0 && done.examined == 0) {
                        break Ok(());
                    }
                }
                Err(error) => break Err(error),
            }
        };
        if sum.segments > 0 {
            tracing::info!("{}", words::compacted(&sum, begun.elapsed()));
        }
        ended
    }
}

/// However it ends, it may begin again.
struct ReleaseEnds<'a>(&'a Folding);

impl Drop for ReleaseEnds<'_> {
    fn drop(&mut self) {
        let again = {
            let release = &mut self.0.state.lock().release;
            release.running = false;
            std::mem::take(&mut release.again)
        };
        if again {
            self.0.wake.notify_one();
        }
    }
}
