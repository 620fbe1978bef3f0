//! Scrub as a task: one round at a time, on demand and every so often, with what the last one found.
//!
//! ```text
//!   every 7 days, after a start that found images of which not all is known, or when asked ─▶ round ─▶ last result
//!                                                          stop, or the target ends ─▶ goes on there the next time
//!                                                          stop, or a failure ─▶ nothing begins by itself for an hour
//! ```

mod standby;

pub(crate) use standby::StandbyScrubbed;

use crate::units::{ByteSize, counted};
use landfall_disks::uring::{Core, sleep};
use landfall_retention::manifest::integrity::ScrubPosition;
use landfall_retention::name::Name;
use landfall_retention::time::{Clock, SystemClock, Timestamp};
use landfall_retention::{FoldPace, Retention, ScrubOrder, ScrubProgress, ScrubReport};
use parking_lot::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

/// How often it looks whether a round is due.
const LOOK_EVERY: Duration = Duration::from_secs(60);
/// Nothing begins by itself so soon after a start: there is enough to do.
const START_AFTER: Duration = Duration::from_secs(600);
/// Nor so soon after somebody stopped a round, or one failed.
const REST: Duration = Duration::from_secs(3600);

/// How often and how fast everything is looked at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct ScrubSettings {
    /// From the end of a round to the begin of the next; `None`: only when asked.
    pub(crate) every: Option<Duration>,
    /// Most bytes a second.
    pub(crate) rate: u64,
}

/// What is done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Work {
    /// Everything is looked at and healed.
    Scrub,
    /// Chains are looked at.
    Verify,
}

/// A round that is under way.
#[derive(Clone, Debug)]
pub(crate) struct Running {
    /// Its number since the start of the target.
    pub(crate) id: u64,
    /// What is done.
    pub(crate) work: Work,
    /// Of one machine, or of all.
    pub(crate) machine: Option<Name>,
    /// Since when.
    pub(crate) begun: Timestamp,
    /// How far it is.
    pub(crate) progress: Option<ScrubProgress>,
    stop: bool,
}

/// A round that ended.
#[derive(Clone, Debug)]
pub(crate) struct Ended {
    /// What it was.
    pub(crate) was: Running,
    /// When it ended.
    pub(crate) ended: Timestamp,
    /// What it found, or why it could not go on.
    pub(crate) outcome: Result<Arc<ScrubReport>, String>,
    /// What it found of standby files, if it got that far.
    pub(crate) standbys: Vec<StandbyScrubbed>,
}

/// Somebody was quicker.
#[derive(Debug, thiserror::Error)]
#[error("a scrub or a verification is under way already: see landfall scrub --status")]
pub(crate) struct Busy;

/// What was counted since the start.
#[derive(Debug, Default)]
pub(crate) struct ScrubCounters {
    /// Rounds that came to their end.
    pub(crate) rounds: AtomicU64,
    /// Rounds that failed.
    pub(crate) failures: AtomicU64,
    /// Bytes of the journal that were read.
    pub(crate) journal_bytes: AtomicU64,
    /// Bytes of images that were read.
    pub(crate) image_bytes: AtomicU64,
    /// Damaged places that were not known before, healed or not.
    pub(crate) found: AtomicU64,
    /// Places that were healed.
    pub(crate) healed: AtomicU64,
}

/// Runs rounds and remembers the last.
pub(crate) struct Scrubber {
    settings: ScrubSettings,
    state: Mutex<State>,
    counters: ScrubCounters,
}

#[derive(Default)]
struct State {
    rounds: u64,
    running: Option<Running>,
    last: Option<Ended>,
    /// When a round was stopped or failed.
    broken_off: Option<Instant>,
}

impl Scrubber {
    /// Nothing is under way.
    pub(crate) fn new(settings: ScrubSettings) -> Self {
        Self { settings, state: Mutex::default(), counters: ScrubCounters::default() }
    }

    /// Begins a round, `rate` bytes a second at most.
    pub(crate) fn begin(
        self: &Arc<Self>,
        core: &Core,
        retention: &Arc<Retention>,
        work: Work,
        order: ScrubOrder,
        rate: Option<u64>,
    ) -> Result<u64, Busy> {
        let id = {
            let mut state = self.state.lock();
            if state.running.is_some() {
                return Err(Busy);
            }
            state.rounds += 1;
            let id = state.rounds;
            state.running = Some(Running {
                id,
                work,
                machine: order.machine.clone(),
                begun: SystemClock.now(),
                progress: None,
                stop: false,
            });
            id
        };
        let (scrubber, retention) = (Arc::clone(self), Arc::clone(retention));
        let rate = rate.unwrap_or(self.settings.rate);
        core.spawn(move || async move {
            let sleep = |time| -> futures_util::future::LocalBoxFuture<'static, ()> {
                Box::pin(sleep(time))
            };
            let pace = FoldPace { bytes_per_second: Some(rate), sleep: &sleep };
            let watch = |progress: &ScrubProgress| scrubber.goes_on(progress);
            let ended = retention.scrub(&order, &pace, &watch).await;
            let whole = ended.as_ref().is_ok_and(|report| report.complete);
            let standbys = match work {
                Work::Scrub if whole => {
                    scrubber.standbys(&retention, order.machine.as_ref(), &pace).await
                }
                Work::Scrub | Work::Verify => None,
            };
            drop(retention);
            scrubber.end(ended.map_err(|error| error.to_string()), standbys);
        });
        Ok(id)
    }

    fn goes_on(&self, progress: &ScrubProgress) -> bool {
        let mut state = self.state.lock();
        let Some(running) = &mut state.running else { return false };
        running.progress = Some(progress.clone());
        !running.stop
    }

    fn end(&self, outcome: Result<ScrubReport, String>, standbys: Option<Vec<StandbyScrubbed>>) {
        let mut state = self.state.lock();
        let Some(was) = state.running.take() else { return };
        match &outcome {
            Ok(report) => {
                let counters = &self.counters;
                counters.rounds.fetch_add(u64::from(report.complete), Relaxed);
                counters.journal_bytes.fetch_add(report.journal_bytes, Relaxed);
                counters.image_bytes.fetch_add(report.image_bytes, Relaxed);
                counters.found.fetch_add(report.found_damaged, Relaxed);
                counters.healed.fetch_add(report.healed.len() as u64, Relaxed);
                tracing::info!(complete = report.complete, "{}", in_words(report));
            }
            Err(error) => {
                self.counters.failures.fetch_add(1, Relaxed);
                state.broken_off = Some(Instant::now());
                tracing::error!(error, "a scrub could not go on");
            }
        }
        let outcome = outcome.map(Arc::new);
        let standbys = standbys.unwrap_or_default();
        state.last = Some(Ended { was, ended: SystemClock.now(), outcome, standbys });
    }

    /// Stops what is under way, if anything is; it goes on there the next time.
    pub(crate) fn stop(&self) -> bool {
        let mut state = self.state.lock();
        let Some(running) = &mut state.running else { return false };
        running.stop = true;
        state.broken_off = Some(Instant::now());
        true
    }

    /// Stops what is under way and waits for its end, for a while.
    pub(crate) async fn stopped(&self, patience: Duration) {
        let until = Instant::now() + patience;
        while self.stop() && Instant::now() < until {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// What is under way, and what was last.
    pub(crate) fn look(&self) -> (Option<Running>, Option<Ended>) {
        let state = self.state.lock();
        (state.running.clone(), state.last.clone())
    }

    /// What was counted.
    pub(crate) fn counters(&self) -> &ScrubCounters {
        &self.counters
    }

    /// Starts the task that begins rounds; it ends with the store.
    pub(crate) fn start(self: &Arc<Self>, core: &Core, retention: &Arc<Retention>) {
        let (scrubber, weak) = (Arc::clone(self), Arc::downgrade(retention));
        let own = core.clone();
        core.spawn(move || async move {
            sleep(START_AFTER).await;
            let mut unknown_tried = false;
            while let Some(retention) = Weak::upgrade(&weak) {
                if scrubber.is_due(&retention, !unknown_tried) {
                    unknown_tried = true;
                    let order = ScrubOrder::all(None);
                    // Busy: it is under way, which is as good.
                    let _ = scrubber.begin(&own, &retention, Work::Scrub, order, None);
                }
                drop(retention);
                sleep(LOOK_EVERY).await;
            }
        });
    }

    /// Whether a round is to begin by itself; `unknown`: also if some image is not checked by reads yet.
    fn is_due(&self, retention: &Retention, unknown: bool) -> bool {
        let Some(every) = self.settings.every else { return false };
        if self.state.lock().broken_off.is_some_and(|at| at.elapsed() < REST) {
            return false;
        }
        if !retention.index_status().whole {
            return false;
        }
        let entry = retention.scrubbed();
        let unfinished = entry.position != ScrubPosition::Done;
        unfinished
            || SystemClock.now().since(entry.ended) >= every
            || (unknown && retention.has_unknown_images())
    }
}

/// What a round found, in a line.
fn in_words(report: &ScrubReport) -> String {
    let ScrubReport { journal_bytes, image_bytes, healed, damage, .. } = report;
    format!(
        "scrub read {} of the journal and {} of images: {} healed, {} damaged",
        ByteSize::new(*journal_bytes),
        ByteSize::new(*image_bytes),
        counted(healed.len() as u64, "place"),
        counted(damage.len() as u64, "place"),
    )
}
