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

mod forecast;
mod pacing;
mod space;
mod trunk;
mod words;

pub(crate) use forecast::{Growth, Shrinking};
pub(crate) use pacing::PaceLimits;
pub(crate) use words::{shrinks as shrinks_in_words, volume_fills as volume_in_words};

use futures_util::future::{Either, select};
use landfall_disks::uring::{Core, spawn, timeout};
use landfall_retention::ids::{LineId, Sequence};
use landfall_retention::name::Name;
use landfall_retention::point::{Point, PointQuery};
use landfall_retention::{
    CompactError, Compacted, FoldError, ForgetReport, GroupSpace, HistoryWanted, Retention,
    StartMoment, WantedStart,
};
use pacing::{AtWork, Governor, InTurns};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};
use tokio::sync::{Notify, watch};
use trunk::{Failing, Trunk};

/// A look is taken at least so often.
const LOOK_EVERY: Duration = Duration::from_secs(60);
/// While folds are under way, segments are compacted so often at most: what is folded is given back whole, without a copy.
const COMPACT_BESIDE_FOLDS: Duration = Duration::from_secs(600);
/// Folds that are under way at once, not counting those whose disk does not answer.
const FOLDS_AT_ONCE: usize = 16;
/// Points that are asked for together.
const POINTS_AT_ONCE: usize = 1000;

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
    /// Raised when there is something to look at: policies were applied, a fold has ended.
    wake: Arc<Notify>,
    stop: watch::Sender<bool>,
    /// Tasks there are.
    tasks: watch::Sender<usize>,
    state: Mutex<State>,
    counters: Counters,
}

#[derive(Default)]
struct State {
    trunks: BTreeMap<LineId, Trunk>,
    /// Lines that were gone at the last look: with each one, segments may go.
    lines_gone: u64,
    forget: Forget,
    /// Why the last look failed.
    looking: Failing,
    /// How the journal grows.
    growth: Growth,
    /// The volume is used up within a day, which was logged.
    volume_fills: bool,
}

#[derive(Default)]
struct Forget {
    /// Something was folded or taken away since the last one.
    due: bool,
    running: bool,
    failing: Failing,
    /// When segments were last compacted, or the task began.
    compacted: Option<Instant>,
}

#[derive(Default)]
struct Counters {
    folds: AtomicU64,
    failures: AtomicU64,
    data_bytes: AtomicU64,
    zero_bytes: AtomicU64,
    released_segments: AtomicU64,
    released_bytes: AtomicU64,
    compacted_segments: AtomicU64,
    compacted_bytes: AtomicU64,
    moved_bytes: AtomicU64,
    forget_failures: AtomicU64,
}

/// What was counted since the start.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct FoldingCounters {
    /// Folds that ended well.
    pub(crate) folds: u64,
    /// Folds that were refused or cut off by something that failed.
    pub(crate) failures: u64,
    /// Bytes written to images by those that ended well.
    pub(crate) data_bytes: u64,
    /// Bytes of images that they made zero.
    pub(crate) zero_bytes: u64,
    /// Segments that were released.
    pub(crate) released_segments: u64,
    /// Their bytes.
    pub(crate) released_bytes: u64,
    /// Segments that were needed in part and are gone.
    pub(crate) compacted_segments: u64,
    /// Their bytes.
    pub(crate) compacted_bytes: u64,
    /// Bytes written anew for what was needed of them.
    pub(crate) moved_bytes: u64,
    /// Looks for free segments that failed.
    pub(crate) forget_failures: u64,
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
    /// For a store; `wake` is raised when policies were applied.
    pub(crate) fn new(
        settings: FoldingSettings,
        retention: &Arc<Retention>,
        cores: &[Core],
        wake: Arc<Notify>,
    ) -> Self {
        let weak = Arc::downgrade(retention);
        let of = weak.clone();
        let load = move || of.upgrade().map(|store| store.lane_load()).unwrap_or_default();
        let forget = Forget { due: true, compacted: Some(Instant::now()), ..Forget::default() };
        Self {
            settings,
            retention: weak,
            cores: cores.to_vec(),
            governor: Arc::new(Governor::new(settings.pace, load)),
            wake,
            stop: watch::Sender::new(false),
            tasks: watch::Sender::new(0),
            state: Mutex::new(State { forget, ..State::default() }),
            counters: Counters::default(),
        }
    }

    /// Starts the task.
    pub(crate) fn start(self: &Arc<Self>) {
        let own = Arc::clone(self);
        let task = Task::begin(self);
        self.cores[0].spawn(move || async move {
            let _task = task;
            let mut stopped = own.stop.subscribe();
            loop {
                let looked = own.until_stopped(own.look()).await;
                let next = async { timeout(LOOK_EVERY, own.wake.notified()).await };
                let stops = pin!(stopped.wait_for(|stop| *stop));
                if looked.is_none() || matches!(select(stops, pin!(next)).await, Either::Left(_)) {
                    return;
                }
            }
        });
    }

    /// Stops all of it and waits until nothing of it is left. What is cut off is taken up by the next start.
    pub(crate) async fn stop(&self) {
        self.stop.send_replace(true);
        // An error would say that the sender is gone, and it is ours.
        let _ = self.tasks.subscribe().wait_for(|tasks| *tasks == 0).await;
    }

    /// What `work` gives, or nothing if everything is to stop.
    async fn until_stopped<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        let mut stopped = self.stop.subscribe();
        let stops = pin!(stopped.wait_for(|stop| *stop));
        match select(stops, pin!(work)).await {
            Either::Left(_) => None,
            Either::Right((done, _)) => Some(done),
        }
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
        self.state.lock().forget.due = true;
        self.start_forget(&retention);
    }

    /// Takes over what was found, and says who holds history back.
    fn note(&self, retention: &Retention, found: Vec<WantedStart>) {
        let lines = retention.line_ids();
        let mut state = self.state.lock();
        let State { trunks, forget, lines_gone, .. } = &mut *state;
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
        let gone = retention.lines_gone();
        forget.due |= gone > *lines_gone;
        *lines_gone = gone;
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

    fn start_fold(self: &Arc<Self>, retention: &Arc<Retention>, line: LineId, floor: Sequence) {
        let at_work = Arc::new(AtWork::default());
        let (machine, pressed) = {
            let mut state = self.state.lock();
            let trunk = state.trunks.entry(line).or_default();
            trunk.running = Some(Arc::clone(&at_work));
            trunk.begun = Some(Instant::now());
            let wanted = trunk.found.as_ref().map(|found| found.wanted.sequence);
            // Further than the policy alone would have it.
            let pressed = trunk.space.clone().filter(|_| wanted.is_none_or(|at| floor > at));
            (trunk.found.as_ref().map(|found| found.machine.clone()), pressed)
        };
        let machine = machine.or_else(|| machine_of(retention, line));
        let task = Task::begin(self);
        let (own, retention) = (Arc::clone(self), Arc::clone(retention));
        // On the core of whatever: the work of a window is small beside its reads and writes.
        let core = &self.cores[usize::try_from(line.number()).unwrap_or(0) % self.cores.len()];
        core.spawn(move || async move {
            let _task = task;
            let ends = FoldEnds { folding: &own, line };
            if let Some(machine) = machine {
                own.fold(&retention, &machine, (line, floor), pressed, &at_work).await;
            }
            drop(ends);
        });
    }

    async fn fold(
        &self,
        retention: &Retention,
        machine: &Name,
        (line, floor): (LineId, Sequence),
        pressed: Option<GroupSpace>,
        at_work: &Arc<AtWork>,
    ) {
        let begun = Instant::now();
        let given_up = pressed.as_ref().map(|_| points_below(retention, machine, floor));
        let before = begins(retention, machine);
        if before.is_some_and(|before| before.sequence == floor) {
            tracing::info!("{machine}: going on with the fold to seq:{floor} that was cut off");
        }
        let pace = InTurns::new(&self.governor, at_work);
        let Some(folded) = self.until_stopped(retention.fold_to(line, floor, &pace)).await else {
            return;
        };
        drop(pace);
        let took = begun.elapsed();
        let policy = retention.policy(machine).map(|status| status.policy);
        if let (Some(after), Ok(policy)) = (begins(retention, machine), policy)
            && before.is_none_or(|before| before.sequence < after.sequence)
        {
            let quota = pressed.as_ref().and_then(|space| space.policy.space());
            for point in given_up.iter().flatten() {
                tracing::warn!("{}", words::given_up(machine, point, quota));
            }
            tracing::info!("{}", words::begins_later(machine, before, after, &policy, quota));
        }
        let mut state = self.state.lock();
        let State { trunks, forget, .. } = &mut *state;
        let trunk = trunks.entry(line).or_default();
        match folded {
            Ok(report) => {
                self.counters.folds.fetch_add(1, Relaxed);
                self.counters.data_bytes.fetch_add(report.data_bytes, Relaxed);
                self.counters.zero_bytes.fetch_add(report.zero_bytes, Relaxed);
                tracing::info!("{}", words::folded(machine, &report, took));
                trunk.failing.went_well();
                trunk.last = Some((report, took));
                forget.due = true;
            }
            // Somebody took hold of something in between, dropped it, or removed the machine: the next look knows.
            Err(
                FoldError::Held { .. }
                | FoldError::Gone
                | FoldError::UnderWay
                | FoldError::NotAMoment(_)
                | FoldError::AboveNewest { .. },
            ) => trunk.failing.overtaken(Instant::now()),
            Err(error) => {
                self.counters.failures.fetch_add(1, Relaxed);
                let (pause, news) = trunk.failing.failed(error.to_string(), Instant::now());
                if news {
                    tracing::error!("{}", words::failed(machine, &error, pause));
                }
            }
        }
    }

    fn start_forget(self: &Arc<Self>, retention: &Arc<Retention>) {
        {
            let mut state = self.state.lock();
            let forget = &mut state.forget;
            if !forget.due || forget.running || !forget.failing.may_try(Instant::now()) {
                return;
            }
            (forget.due, forget.running) = (false, true);
        }
        let task = Task::begin(self);
        let (own, retention) = (Arc::clone(self), Arc::clone(retention));
        spawn(async move {
            let _task = task;
            let ends = ForgetEnds(&own);
            own.until_stopped(own.forget(&retention)).await;
            drop(ends);
        });
    }

    /// Gives back segments until none is left to be looked at.
    async fn forget(&self, retention: &Retention) {
        let begun = Instant::now();
        let mut given = ForgetReport::default();
        let failed = loop {
            let pace = InTurns::new(&self.governor, &Arc::default());
            match retention.forget(&pace).await {
                Ok(report) => {
                    self.counters.released_segments.fetch_add(report.segments as u64, Relaxed);
                    self.counters.released_bytes.fetch_add(report.bytes, Relaxed);
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
        let mut state = self.state.lock();
        let forget = &mut state.forget;
        match failed {
            None => {
                forget.failing.went_well();
            }
            Some(error) => {
                self.counters.forget_failures.fetch_add(1, Relaxed);
                forget.due = true;
                let (pause, news) = forget.failing.failed(error.clone(), Instant::now());
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
                state.forget.compacted.is_some_and(|at| at.elapsed() < COMPACT_BESIDE_FOLDS);
            if folding && lately {
                return Ok(());
            }
            state.forget.compacted = Some(begun);
        }
        let mut sum = Compacted::default();
        let ended = loop {
            let pace = InTurns::new(&self.governor, &Arc::default());
            match retention.compact(&pace).await {
                Ok(done) => {
                    self.counters.released_segments.fetch_add(done.segments as u64, Relaxed);
                    self.counters.released_bytes.fetch_add(done.bytes_freed, Relaxed);
                    self.counters.compacted_segments.fetch_add(done.segments as u64, Relaxed);
                    self.counters.compacted_bytes.fetch_add(done.bytes_freed, Relaxed);
                    self.counters.moved_bytes.fetch_add(done.bytes_moved, Relaxed);
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

    /// What was counted.
    pub(crate) fn counters(&self) -> FoldingCounters {
        let Counters { folds, failures, data_bytes, zero_bytes, .. } = &self.counters;
        let Counters { released_segments, released_bytes, forget_failures, .. } = &self.counters;
        let Counters { compacted_segments, compacted_bytes, moved_bytes, .. } = &self.counters;
        FoldingCounters {
            folds: folds.load(Relaxed),
            failures: failures.load(Relaxed),
            data_bytes: data_bytes.load(Relaxed),
            zero_bytes: zero_bytes.load(Relaxed),
            released_segments: released_segments.load(Relaxed),
            released_bytes: released_bytes.load(Relaxed),
            compacted_segments: compacted_segments.load(Relaxed),
            compacted_bytes: compacted_bytes.load(Relaxed),
            moved_bytes: moved_bytes.load(Relaxed),
            forget_failures: forget_failures.load(Relaxed),
        }
    }

    /// Why segments are not released, if that fails.
    pub(crate) fn forget_failure(&self) -> Option<String> {
        self.state.lock().forget.failing.why().map(str::to_owned)
    }

    /// The share of the time that a fold is at work at present.
    pub(crate) fn share(&self) -> f64 {
        self.governor.share()
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

/// One of the tasks there are, until it is dropped.
struct Task(Weak<Folding>);

impl Task {
    fn begin(folding: &Arc<Folding>) -> Self {
        folding.tasks.send_modify(|tasks| *tasks += 1);
        Self(Arc::downgrade(folding))
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        if let Some(folding) = self.0.upgrade() {
            folding.tasks.send_modify(|tasks| *tasks -= 1);
        }
    }
}

/// However a fold ends, the next one may begin.
struct FoldEnds<'a> {
    folding: &'a Folding,
    line: LineId,
}

impl Drop for FoldEnds<'_> {
    fn drop(&mut self) {
        if let Some(trunk) = self.folding.state.lock().trunks.get_mut(&self.line) {
            trunk.running = None;
        }
        self.folding.wake.notify_one();
    }
}

struct ForgetEnds<'a>(&'a Folding);

impl Drop for ForgetEnds<'_> {
    fn drop(&mut self) {
        let due = {
            let forget = &mut self.0.state.lock().forget;
            forget.running = false;
            forget.due
        };
        // Something was folded while it ran.
        if due {
            self.0.wake.notify_one();
        }
    }
}

fn machine_of(retention: &Retention, line: LineId) -> Option<Name> {
    let mut machines = retention.machines().into_iter().map(|machine| machine.name);
    machines.find(|machine| retention.trunk(machine).is_ok_and(|trunk| trunk == line))
}

/// Points that a fold to `floor` gives up, oldest first.
fn points_below(retention: &Retention, machine: &Name, floor: Sequence) -> Vec<Point> {
    let mut given_up = Vec::new();
    let mut query = PointQuery::all(POINTS_AT_ONCE);
    loop {
        let Ok(page) = retention.points(machine, None, &query) else { return given_up };
        let last = page.last().map(|status| status.point.sequence);
        let below = page.into_iter().map(|status| status.point);
        let before = given_up.len();
        given_up.extend(below.take_while(|point| point.sequence < floor));
        match last {
            Some(last) if given_up.len() - before == POINTS_AT_ONCE => query.after = Some(last),
            _ => return given_up,
        }
    }
}

/// Where the history of a machine begins, if anything was folded.
fn begins(retention: &Retention, machine: &Name) -> Option<StartMoment> {
    let start = retention.history(machine).ok()?.start?;
    Some(StartMoment { sequence: start.sequence, commit_time: start.commit_time })
}
