//! Standby files as a task: those of each machine are brought to its newest point, every so often and when asked.
//!
//! ```text
//!   every second ─▶ look: whose time has come? ─▶ newest point ─▶ is it there already? ─▶ bring ─▶ next time
//!   asked for    ─▶                                                     in turns with folds │ fails ─▶ later, and later
//! ```
//!
//! A few at once, those first that waited longest, each in turns with all others and with folds: so neither a slow disk nor a
//! large machine holds the others up. **Invariants:** a standby that is paused is written only when somebody asks. Nothing
//! here is needed by anything else; cut off anywhere, the next look goes on.

mod one;
mod words;

pub(crate) use one::{Asked, Ended, Look};

use super::folding::{AtWork, Governor, InTurns};
use super::tasks::Tasks;
use crate::images::StandbyFolders;
use futures_util::future::{Either, select};
use landfall_disks::uring::{Core, timeout};
use landfall_retention::manifest::standby::HeldMoment;
use landfall_retention::name::{MomentName, Name, When};
use landfall_retention::standby::{StandbyError, StandbyOrder, StandbyReport, StandbyStatus};
use landfall_retention::time::{Clock, SystemClock};
use landfall_retention::{ResolveError, Retention};
use one::One;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};
use tokio::sync::Notify;

/// How often it looks whose time has come.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Machines whose files are written at once.
const AT_ONCE: usize = 4;
/// How long somebody who takes a standby away waits for its end.
const CANCEL_TIME: Duration = Duration::from_secs(10);

/// What was counted since the start.
#[derive(Debug, Default)]
pub(crate) struct StandbyCounters {
    /// Times that files were brought to another point.
    pub(crate) moves: AtomicU64,
    /// Times that this failed.
    pub(crate) failures: AtomicU64,
    /// Files that were compared as a whole.
    pub(crate) compared: AtomicU64,
    /// Bytes of data that were written.
    pub(crate) written_bytes: AtomicU64,
    /// Bytes that were made zero.
    pub(crate) zeroed_bytes: AtomicU64,
}

/// Keeps standby files near the newest points.
pub(crate) struct Standbys {
    retention: Weak<Retention>,
    cores: Vec<Core>,
    governor: Arc<Governor>,
    /// Raised when somebody asks for something.
    wake: Notify,
    tasks: Tasks,
    state: Mutex<BTreeMap<Name, One>>,
    counters: StandbyCounters,
}

impl Standbys {
    /// For a store; `governor` gives turns to them and to folds.
    pub(crate) fn new(
        retention: &Arc<Retention>,
        cores: &[Core],
        governor: &Arc<Governor>,
    ) -> Self {
        Self {
            retention: Arc::downgrade(retention),
            cores: cores.to_vec(),
            governor: Arc::clone(governor),
            wake: Notify::new(),
            tasks: Tasks::new(),
            state: Mutex::default(),
            counters: StandbyCounters::default(),
        }
    }

    /// Starts the task.
    pub(crate) fn start(self: &Arc<Self>) {
        let own = Arc::clone(self);
        let task = self.tasks.begin();
        self.cores[0].spawn(move || async move {
            let _task = task;
            let look = async || {
                own.look();
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

    /// Has the files of a machine brought to a moment as soon as may be; gives a number to wait for.
    pub(crate) fn ask(&self, machine: &Name, to: MomentName, overwrite: bool) -> u64 {
        let number = self.state.lock().entry(machine.clone()).or_default().ask(to, overwrite);
        self.wake.notify_one();
        number
    }

    /// What is known of the standby of a machine.
    pub(crate) fn of(&self, machine: &Name) -> Look {
        self.state.lock().get(machine).map(One::look).unwrap_or_default()
    }

    /// What was counted.
    pub(crate) fn counters(&self) -> &StandbyCounters {
        &self.counters
    }

    /// A new start: what failed before is tried at once.
    pub(crate) fn take_up(&self, machine: &Name) {
        if let Some(one) = self.state.lock().get_mut(machine) {
            one.take_up();
        }
        self.wake.notify_one();
    }

    /// Breaks off what is under way for a machine and waits for its end, for a while.
    pub(crate) async fn cancel(&self, machine: &Name) {
        let until = Instant::now() + CANCEL_TIME;
        while self.state.lock().get_mut(machine).is_some_and(One::cancel) && Instant::now() < until
        {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Starts what is due.
    fn look(self: &Arc<Self>) {
        let Some(retention) = self.retention.upgrade() else { return };
        let known = retention.standbys();
        for (status, asked) in self.take_due(&known) {
            self.begin(&retention, status, asked);
        }
    }

    /// Those that are to begin: those first that waited longest.
    fn take_due(&self, known: &[StandbyStatus]) -> Vec<(StandbyStatus, Option<Asked>)> {
        let now = Instant::now();
        let mut state = self.state.lock();
        state.retain(|name, one| one.runs() || known.iter().any(|known| known.machine == *name));
        let room = AT_ONCE.saturating_sub(state.values().filter(|one| one.runs()).count());
        let mut due: Vec<_> = known
            .iter()
            .filter(|status| {
                let one = state.entry(status.machine.clone()).or_default();
                one.is_due(status.paused, status.kept.every, now)
            })
            .collect();
        due.sort_by_key(|status| state.get(&status.machine).and_then(One::begun));
        due.truncate(room);
        let begin = |status: &StandbyStatus| {
            let asked = state.get_mut(&status.machine)?.begin(now);
            Some((status.clone(), asked))
        };
        due.into_iter().filter_map(begin).collect()
    }

    fn begin(
        self: &Arc<Self>,
        retention: &Arc<Retention>,
        status: StandbyStatus,
        asked: Option<Asked>,
    ) {
        let task = self.tasks.begin();
        let (own, retention) = (Arc::clone(self), Arc::clone(retention));
        let core = &self.cores[spread(&status.machine) % self.cores.len()];
        core.spawn(move || async move {
            let _task = task;
            let ends = RunEnds { standbys: &own, machine: status.machine.clone() };
            let begun = Instant::now();
            let brought = own.until_broken_off(&retention, &status, &asked).await;
            // Where it was taken away meanwhile, or its machine, nobody wants to know.
            let there = retention.standbys().iter().any(|one| one.machine == status.machine);
            if let Some(brought) = brought.filter(|_| there) {
                own.note(&status, asked, brought, begun.elapsed());
            }
            drop(ends);
        });
    }

    /// What came of it, or nothing if it is to end before.
    async fn until_broken_off(
        &self,
        retention: &Retention,
        status: &StandbyStatus,
        asked: &Option<Asked>,
    ) -> Option<Result<Option<StandbyReport>, StandbyError>> {
        let cancelled = self.state.lock().get(&status.machine)?.cancelled()?;
        let brought = self.tasks.until_stopped(self.bring(retention, status, asked));
        match select(pin!(cancelled.notified()), pin!(brought)).await {
            Either::Left(_) => None,
            Either::Right((brought, _)) => brought,
        }
    }

    /// Brings the files to the newest moment, or to the one that was asked for. Nothing if they hold it, or there is none.
    async fn bring(
        &self,
        retention: &Retention,
        status: &StandbyStatus,
        asked: &Option<Asked>,
    ) -> Result<Option<StandbyReport>, StandbyError> {
        let machine = &status.machine;
        let name = match asked {
            Some(asked) => asked.to.clone(),
            None => retention.standby_wants(machine)?,
        };
        let to = match retention.resolve(&name).await {
            Ok(to) => to,
            Err(
                ResolveError::NoPoints { .. }
                | ResolveError::NoSuchPoint { .. }
                | ResolveError::NotIndexed { .. },
            ) if asked.is_none() => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let held = self.state.lock().get(machine).and_then(One::held);
        let there = held.is_some_and(|held| (held.line, held.sequence) == (to.line, to.sequence));
        if asked.is_none() && there {
            return Ok(None);
        }
        let overwrite = asked.as_ref().is_some_and(|asked| asked.overwrite);
        let brought =
            self.bring_to(retention, machine, StandbyOrder { to, overwrite, compare: false }).await;
        if let (Err(StandbyError::Read { .. }), Some(held)) = (&brought, held) {
            self.bring_back(retention, machine, held).await;
        }
        brought.map(Some)
    }

    /// What they were to hold cannot be read: better what they held before than nothing that boots.
    async fn bring_back(&self, retention: &Retention, machine: &Name, held: HeldMoment) {
        let when = When::Sequence(held.sequence);
        let name = MomentName { machine: machine.clone(), branch: None, disk: None, when };
        let Ok(to) = retention.resolve(&name).await else { return };
        if to.line != held.line {
            return;
        }
        let order = StandbyOrder { to, overwrite: false, compare: false };
        match self.bring_to(retention, machine, order).await {
            Ok(report) => {
                if let Some(one) = self.state.lock().get_mut(machine) {
                    one.is_back_at(report.to.at);
                }
                tracing::warn!("{machine}: the standby was brought back to {}", report.to);
            }
            Err(error) => tracing::warn!(%error, "{machine}: the standby cannot be brought back"),
        }
    }

    async fn bring_to(
        &self,
        retention: &Retention,
        machine: &Name,
        order: StandbyOrder,
    ) -> Result<StandbyReport, StandbyError> {
        let at_work = Arc::new(AtWork::default());
        let pace = InTurns::new(&self.governor, &at_work);
        let watch = |progress: &_| {
            if let Some(one) = self.state.lock().get_mut(machine) {
                one.goes_on(progress);
            }
        };
        retention.bring_standby(machine, &order, &StandbyFolders, &pace, &watch).await
    }

    fn note(
        &self,
        status: &StandbyStatus,
        asked: Option<Asked>,
        brought: Result<Option<StandbyReport>, StandbyError>,
        took: Duration,
    ) {
        let machine = &status.machine;
        let mut state = self.state.lock();
        let Some(one) = state.get_mut(machine) else { return };
        if one.is_to_be_waited_for(&brought, &asked) {
            return one.wait_a_little(asked);
        }
        if let Ok(Some(report)) = &brought {
            let counters = &self.counters;
            counters.moves.fetch_add(u64::from(!report.written.is_empty()), Relaxed);
            counters.compared.fetch_add(report.compared.len() as u64, Relaxed);
            counters.written_bytes.fetch_add(report.written_bytes, Relaxed);
            counters.zeroed_bytes.fetch_add(report.zeroed_bytes, Relaxed);
            words::log_brought(machine, &status.kept.folder, report, asked.is_some());
        }
        match &brought {
            Ok(_) => {
                if one.went_well() {
                    tracing::info!("{machine}: the standby is brought forward again");
                }
            }
            // Whoever asked for a moment that is not there is told so.
            Err(StandbyError::Resolve(_)) if asked.is_some() => {}
            Err(error) => {
                self.counters.failures.fetch_add(1, Relaxed);
                let (pause, news) = one.failed(error);
                if news {
                    tracing::error!("{}", words::failed(machine, error, pause));
                }
            }
        }
        let ended = SystemClock.now();
        one.end(Ended::new(asked.map(|asked| asked.number), ended, took, brought));
    }
}

/// The same core for a machine, another one for another.
fn spread(machine: &Name) -> usize {
    machine.as_str().bytes().fold(0, |sum, byte| sum.wrapping_mul(31) + usize::from(byte))
}

/// However a run ends, the next one may begin.
struct RunEnds<'a> {
    standbys: &'a Standbys,
    machine: Name,
}

impl Drop for RunEnds<'_> {
    fn drop(&mut self) {
        if let Some(one) = self.standbys.state.lock().get_mut(&self.machine) {
            one.ended();
        }
        self.standbys.wake.notify_one();
    }
}
