//! One fold as a task: begun, told about, and taken up again where it failed.

use super::pacing::{AtWork, InTurns};
use super::{Folding, words};
use landfall_retention::ids::{LineId, Sequence};
use landfall_retention::name::Name;
use landfall_retention::point::{Point, PointQuery};
use landfall_retention::{FoldError, GroupSpace, ResolveError, Retention, StartMoment};
use std::sync::Arc;
use std::time::Instant;

/// Points that are asked for together.
const POINTS_AT_ONCE: usize = 1000;

impl Folding {
    /// Starts the fold of one trunk to `floor`.
    pub(super) fn start_fold(
        self: &Arc<Self>,
        retention: &Arc<Retention>,
        line: LineId,
        floor: Sequence,
    ) {
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
        let task = self.tasks.begin();
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
        let Some(folded) = self.tasks.until_stopped(retention.fold_to(line, floor, &pace)).await
        else {
            return;
        };
        drop(pace);
        let took = begun.elapsed();
        let policy = retention.policy(machine).map(|status| status.policy);
        if let (Some(after), Ok(policy)) = (begins(retention, machine), policy)
            && before.is_none_or(|before| before.sequence < after.sequence)
        {
            let quota = pressed.as_ref().and_then(|space| space.policy.space());
            match &given_up {
                Some(Ok(points)) => {
                    for point in points {
                        tracing::warn!("{}", words::given_up(machine, point, quota));
                    }
                }
                Some(Err(error)) => {
                    tracing::error!(%error, "{machine}: cannot list the points that went");
                }
                None => {}
            }
            tracing::info!("{}", words::begins_later(machine, before, after, &policy, quota));
        }
        let mut state = self.state.lock();
        let trunk = state.trunks.entry(line).or_default();
        match folded {
            Ok(report) => {
                self.count(|counters| {
                    counters.folds += 1;
                    counters.data_bytes += report.data_bytes;
                    counters.zero_bytes += report.zero_bytes;
                });
                tracing::info!("{}", words::folded(machine, &report, took));
                trunk.failing.went_well();
                trunk.last = Some((report, took));
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
                self.count(|counters| counters.failures += 1);
                let (pause, news) = trunk.failing.failed(error.to_string(), Instant::now());
                if news {
                    tracing::error!("{}", words::failed(machine, &error, pause));
                }
            }
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

fn machine_of(retention: &Retention, line: LineId) -> Option<Name> {
    let mut machines = retention.machines().into_iter().map(|machine| machine.name);
    machines.find(|machine| retention.trunk(machine).is_ok_and(|trunk| trunk == line))
}

/// Points that a fold to `floor` gives up, oldest first.
fn points_below(
    retention: &Retention,
    machine: &Name,
    floor: Sequence,
) -> Result<Vec<Point>, ResolveError> {
    let mut given_up = Vec::new();
    let mut query = PointQuery::all(POINTS_AT_ONCE);
    loop {
        let page = retention.points(machine, None, &query)?;
        let last = page.last().map(|status| status.point.sequence);
        let below = page.into_iter().map(|status| status.point);
        let before = given_up.len();
        given_up.extend(below.take_while(|point| point.sequence < floor));
        match last {
            Some(last) if given_up.len() - before == POINTS_AT_ONCE => query.after = Some(last),
            _ => return Ok(given_up),
        }
    }
}

/// Where the history of a machine begins, if anything was folded.
fn begins(retention: &Retention, machine: &Name) -> Option<StartMoment> {
    let start = retention.history(machine).ok()?.start?;
    Some(StartMoment { sequence: start.sequence, commit_time: start.commit_time })
}
