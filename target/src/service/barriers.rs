//! Barriers of groups as a task: each group gets a common point as often as it is told to, if its machines are there.
//!
//! A group whose machines are late is said to be so once, when that begins and whenever the reason is another; others do not
//! wait for it.

use super::tasks::Tasks;
use futures_util::future::join_all;
use landfall_disks::uring::{Core, sleep};
use landfall_retention::Retention;
use landfall_retention::groups::{BarrierMade, GroupError, GroupStatus};
use landfall_retention::name::Name;
use landfall_retention::point::PointKind;
use landfall_retention::time::{Clock, SystemClock};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

/// How often it looks whose time has come.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// Makes barriers and counts them.
pub(crate) struct Barriers {
    retention: Weak<Retention>,
    core: Core,
    tasks: Tasks,
    groups: Mutex<BTreeMap<Name, OfGroup>>,
}

/// What became of the barriers of a group since the start.
#[derive(Clone, Debug, Default)]
pub(crate) struct OfGroup {
    /// When the last one was begun.
    begun: Option<Instant>,
    /// Those that made a common point.
    pub(crate) made: u64,
    /// Those that found that nothing was written.
    pub(crate) unchanged: u64,
    /// Those that failed.
    pub(crate) failed: u64,
    /// For how long the last one held writes back.
    pub(crate) held: Option<Duration>,
    /// Why the last one failed, if it did.
    pub(crate) failure: Option<String>,
}

impl Barriers {
    /// For a store.
    pub(crate) fn new(retention: &Arc<Retention>, core: &Core) -> Self {
        let (retention, core) = (Arc::downgrade(retention), core.clone());
        Self { retention, core, tasks: Tasks::new(), groups: Mutex::default() }
    }

    /// Starts the task.
    pub(crate) fn start(self: &Arc<Self>) {
        let own = Arc::clone(self);
        let task = self.tasks.begin();
        self.core.spawn(move || async move {
            let _task = task;
            let look = async || {
                own.look().await;
                sleep(LOOK_EVERY).await;
            };
            while own.tasks.until_stopped(look()).await.is_some() {}
        });
    }

    /// Stops it; no group is held back any more when this returns.
    pub(crate) async fn stop(&self) {
        self.tasks.stop().await;
    }

    /// Makes a barrier of each group whose time has come.
    async fn look(&self) {
        let Some(retention) = self.retention.upgrade() else { return };
        let groups = retention.groups_with_barriers();
        self.groups.lock().retain(|name, _| groups.iter().any(|(group, ..)| group == name));
        let due = groups.iter().filter(|(group, every, _)| self.is_due(group, *every));
        let made = due.map(|(group, _, patience)| self.make(&retention, group, *patience));
        join_all(made.collect::<Vec<_>>()).await;
    }

    /// Whether its time has come; then it begins now.
    fn is_due(&self, group: &Name, every: Duration) -> bool {
        let mut groups = self.groups.lock();
        let of = groups.entry(group.clone()).or_default();
        let due = of.begun.is_none_or(|begun| begun.elapsed() >= every);
        if due {
            of.begun = Some(Instant::now());
        }
        due
    }

    async fn make(&self, retention: &Retention, group: &Name, patience: Duration) {
        let mut patience = pin!(sleep(patience));
        let kind = PointKind::Crash;
        self.note(group, retention.make_barrier(group, kind, None, patience.as_mut()).await);
    }

    fn note(&self, group: &Name, made: Result<BarrierMade, GroupError>) {
        let mut groups = self.groups.lock();
        let of = groups.entry(group.clone()).or_default();
        match made {
            Ok(BarrierMade { point, unchanged, held }) => {
                *(if unchanged { &mut of.unchanged } else { &mut of.made }) += 1;
                of.held = Some(held);
                if of.failure.take().is_some() {
                    tracing::info!(group = %group, number = point.number, "common points again");
                }
            }
            Err(error) => {
                of.failed += 1;
                let failure = error.to_string();
                if of.failure.as_ref() != Some(&failure) {
                    tracing::warn!("{failure}");
                }
                of.failure = Some(failure);
            }
        }
    }

    /// What became of the barriers of each group.
    pub(crate) fn counters(&self) -> BTreeMap<Name, OfGroup> {
        self.groups.lock().clone()
    }

    /// Why the last barrier of a group failed.
    pub(crate) fn failure(&self, group: &Name) -> Option<String> {
        self.groups.lock().get(group)?.failure.clone()
    }

    /// The same of all groups of which barriers are made by themselves.
    pub(crate) fn failures(&self) -> Vec<String> {
        self.groups.lock().values().filter_map(|of| of.failure.clone()).collect()
    }

    /// How old the newest moment is that all machines of a group have in common.
    pub(crate) fn age(&self, group: &GroupStatus) -> Option<Duration> {
        let newest = group.newest.as_ref()?.point.time;
        let until = group.holds_until.map_or(newest, |until| until.max(newest));
        Some(SystemClock.now().since(until))
    }
}
