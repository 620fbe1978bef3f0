//! Folding as a task: what policies let go gives its space back, without anybody asking.
//!
//! ```text
//!   thinned ─▶ look: where should each history begin? ─▶ due ─▶ fold ─┐ one task a trunk, in turns (pacing.rs)
//!                 ▲                                        │ fails ──▶ later, and later
//!                 └──────── a fold has ended ◀─────────────┤
//!                                                          └▶ forget, until nothing is left to be looked at ─▶ compact
//! ```
//!
//! The same look sees what each group takes of the journal, and makes histories begin later where a quota wants it (space.rs).
//!
//! **Invariants:** a trunk that fails or whose disk does not answer holds no other one up. History begins later only with a
//! line in the log that says from when on, and by which policy. Nothing here is needed for what is there to be read: cut off
//! anywhere, the next start takes it up.

mod counters;
mod fold;
mod forecast;
mod pacing;
mod release;
mod space;
mod trunk;
mod words;

pub(crate) use counters::FoldingCounters;
pub(crate) use forecast::{Growth, Shrinking};
pub(crate) use pacing::PaceLimits;
pub(super) use pacing::{AtWork, Governor, InTurns};
pub(super) use trunk::Failing;
pub(crate) use words::{shrinks as shrinks_in_words, volume_fills as volume_in_words};

use super::tasks::Tasks;
use crate::exports::Levels;
use landfall_disks::uring::{Core, timeout};
use landfall_retention::ids::{LineId, Sequence};
use landfall_retention::{GroupSpace, HistoryWanted, Retention, StartMoment, WantedStart};
use parking_lot::Mutex;
use release::Release;
use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};
use tokio::sync::Notify;
use trunk::Trunk;

/// A look is taken at least so often.
const LOOK_EVERY: Duration = Duration::from_secs(60);
/// Folds that are under way at once, not counting those whose disk does not answer.
const FOLDS_AT_ONCE: usize = 16;

/// How folding goes.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) struct FoldingSettings {
    /// A history is folded when its start can move by so much.
    pub(crate) every: Duration,
    /// How fast.
    pub(crate) pace: PaceLimits,
    /// Bytes that have to be free for the journal to grow.
    pub(crate) needed_bytes: u64,
}

/// Folds histories and gives back what nobody needs.
pub(crate) struct Folding {
    settings: FoldingSettings,
    retention: Weak<Retention>,
    cores: Vec<Core>,
    governor: Arc<Governor>,
    /// Who tells initiators how much space is left.
    levels: Arc<Levels>,
    /// Raised when there is something to look at: policies were applied, a fold has ended.
    wake: Arc<Notify>,
    tasks: Tasks,
    state: Mutex<State>,
    counters: Mutex<FoldingCounters>,
}

#[derive(Default)]
struct State {
    trunks: BTreeMap<LineId, Trunk>,
    release: Release,
    /// Why the last look failed.
    looking: Failing,
    /// How the journal grows.
    growth: Growth,
    /// The volume is used up within a day, which was logged.
    volume_fills: bool,
}

/// What is known of the history of one machine.
#[derive(Clone, Debug, Default)]
pub(crate) struct TrunkFolding {
    /// The oldest moment that its policy keeps.
    pub(crate) wanted: Option<StartMoment>,
    /// Who holds what is older, in words.
    pub(crate) held_by: Vec<landfall_retention::Holder>,
    /// By how much history reaches further back than its policy wants because of them.
    pub(crate) held_for: Duration,
    /// Why the last fold failed.
    pub(crate) failure: Option<String>,
    /// A fold waits for a disk that does not answer.
    pub(crate) stalled: bool,
    /// How long the last fold took that went well, with its rests.
    pub(crate) last_took: Option<Duration>,
    /// Bytes it wrote to images.
    pub(crate) last_bytes: Option<u64>,
    /// What it takes of the journal.
    pub(crate) space: Option<GroupSpace>,
    /// How fast that grows.
    pub(crate) growth: Growth,
    /// What its quota is about to do to it.
    pub(crate) shrinks: Option<Shrinking>,
}

impl Folding {
    /// For a store; `wake` is raised when policies were applied. What is found of space goes to `levels`, too.
    pub(crate) fn new(
        settings: FoldingSettings,
        retention: &Arc<Retention>,
        cores: &[Core],
        levels: Arc<Levels>,
        wake: Arc<Notify>,
    ) -> Self {
        let weak = Arc::downgrade(retention);
        let of = weak.clone();
        let load = move || of.upgrade().map(|store| store.lane_load()).unwrap_or_default();
        Self {
            settings,
            retention: weak,
            cores: cores.to_vec(),
            governor: Arc::new(Governor::new(settings.pace, load)),
            levels,
            wake,
            tasks: Tasks::new(),
            state: Mutex::new(State { release: Release::new(), ..State::default() }),
            counters: Mutex::default(),
        }
    }

    /// Starts the task.
    pub(crate) fn start(self: &Arc<Self>) {
        let own = Arc::clone(self);
        let task = self.tasks.begin();
        self.cores[0].spawn(move || async move {
            let _task = task;
            let look = async || {
                own.look().await;
                // Nobody having asked is as good a reason to look.
                let _ = timeout(LOOK_EVERY, own.wake.notified()).await;
            };
            while own.tasks.until_stopped(look()).await.is_some() {}
        });
    }

    /// Stops all of it and waits until nothing of it is left. What is cut off is taken up by the next start.
    pub(crate) async fn stop(&self) {
        self.tasks.stop().await;
    }

    /// Takes a look at every history, and starts what is due.
    async fn look(self: &Arc<Self>) {
        let Some(retention) = self.retention.upgrade() else { return };
        match retention.wanted_starts().await {
            Ok(found) => {
                self.state.lock().looking.went_well();
                // Without a trusted time nothing new is wanted; what was cut off is ended all the same.
                let found = match found {
                    HistoryWanted::Known(found) => found,
                    HistoryWanted::Suspended(_) => Vec::new(),
                };
                self.note(&retention, found);
            }
            Err(error) => {
                let text = error.to_string();
                if self.state.lock().looking.failed(text, Instant::now()).1 {
                    tracing::error!(%error, "cannot tell which history may go; trying again every minute");
                }
            }
        }
        self.look_at_space(&retention).await;
        for (line, floor) in self.take_due(&retention) {
            self.start_fold(&retention, line, floor);
        }
        // Whatever was dropped or written since may have left segments half-dead. Where nothing did, that is found at once.
        self.start_release(&retention);
    }

    /// Takes over what was found, and says who holds history back.
    fn note(&self, retention: &Retention, found: Vec<WantedStart>) {
        let lines = retention.line_ids();
        let mut state = self.state.lock();
        let trunks = &mut state.trunks;
        trunks.retain(|line, trunk| lines.contains(line) || trunk.running.is_some());
        trunks.values_mut().for_each(|trunk| trunk.found = None);
        for found in found {
            let trunk = trunks.entry(found.line).or_default();
            if found.holders != trunk.logged {
                if !found.holders.is_empty() {
                    tracing::info!("{}", words::held_back(&found));
                }
                trunk.logged.clone_from(&found.holders);
            }
            trunk.found = Some(found);
        }
    }

    /// The folds that are to begin: those first that waited longest.
    fn take_due(&self, retention: &Retention) -> Vec<(LineId, Sequence)> {
        let unfinished: BTreeMap<_, _> = retention.unfinished_folds().into_iter().collect();
        let now = Instant::now();
        let mut state = self.state.lock();
        for line in unfinished.keys() {
            state.trunks.entry(*line).or_default();
        }
        let active = |trunk: &&Trunk| trunk.running.is_some() && !trunk.is_stalled();
        let room = FOLDS_AT_ONCE.saturating_sub(state.trunks.values().filter(active).count());
        let every = self.settings.every;
        let mut due: Vec<_> = state
            .trunks
            .iter()
            .filter_map(|(line, trunk)| {
                let floor = trunk.due(unfinished.get(line).copied(), every, now)?;
                Some((trunk.begun, *line, floor))
            })
            .collect();
        due.sort();
        due.truncate(room);
        due.into_iter().map(|(_, line, floor)| (line, floor)).collect()
    }

    /// What was counted.
    pub(crate) fn counters(&self) -> FoldingCounters {
        *self.counters.lock()
    }

    fn count(&self, that: impl FnOnce(&mut FoldingCounters)) {
        that(&mut self.counters.lock());
    }

    /// Why segments are not released, if that fails.
    pub(crate) fn forget_failure(&self) -> Option<String> {
        self.state.lock().release.failure().map(str::to_owned)
    }

    /// The share of the time that a fold is at work at present.
    pub(crate) fn share(&self) -> f64 {
        self.governor.share()
    }

    /// What gives turns to folds, and to whatever else moves bytes beside them.
    pub(super) fn governor(&self) -> &Arc<Governor> {
        &self.governor
    }

    /// What is known of the history of the trunk `line`.
    pub(crate) fn of(&self, line: LineId) -> TrunkFolding {
        let state = self.state.lock();
        let Some(trunk) = state.trunks.get(&line) else { return TrunkFolding::default() };
        let found = trunk.found.as_ref();
        TrunkFolding {
            wanted: found.map(|found| found.wanted),
            held_by: found.map(|found| found.holders.clone()).unwrap_or_default(),
            held_for: found.map(words::held_for).unwrap_or_default(),
            failure: trunk.failing.why().map(str::to_owned),
            stalled: trunk.is_stalled(),
            last_took: trunk.last.as_ref().map(|(_, took)| *took),
            last_bytes: trunk.last.as_ref().map(|(report, _)| report.data_bytes),
            space: trunk.space.clone(),
            growth: trunk.growth.clone(),
            shrinks: trunk.shrinks,
        }
    }
}
