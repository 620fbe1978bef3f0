//! Thinning: policies applied to the lines of a store, a pass at a time.
//!
//! ```text
//!   trusted time? ─▶ per line: plan (pure, off the core) ─▶ readers? ─▶ not to be opened any more ─▶ manifest ─▶ catalogue
//!                                                              │                                        │ refused
//!                                                              └─ they keep their moment                 └─ as before
//! ```
//!
//! **Invariants:** a moment is marked as gone under the lock of its line, under which readers are counted too: either it is
//! gone before somebody opens it, or whoever opened it holds it. The manifest refuses to drop what is pinned, locked,
//! branched from or exported, whatever a plan says. While the clock cannot be trusted nothing is dropped. What is gone
//! cannot be chosen; its space comes back when history is folded.

use crate::groups::hold_common;
use crate::ids::{GroupId, LineId, MachineId, Sequence};
use crate::index::{IndexError, IndexStore};
use crate::line::Line;
use crate::manifest::ManifestError;
use crate::manifest::dropped::drop_records;
use crate::manifest::record::ManifestRecord;
use crate::manifest::state::{LineEntry, ManifestState};
use crate::name::Name;
use crate::point::{Point, PointHead, PointKind};
use crate::policy::{
    ClockAlarm, ClockStep, Decision, DropRange, Hold, Holds, Policy, Scope, TrustedClock, decide,
};
use crate::retention::Retention;
use crate::time::{Clock, Timestamp};
use landfall_disks::uring::offload;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

/// How often the trusted time is put on record although nothing is dropped.
const RECORD_TIME_EVERY: Duration = Duration::from_secs(600);

/// What a pass remembers for the next one.
pub(crate) struct Thinning {
    clock: TrustedClock,
    lines: HashMap<LineId, LastPass>,
}

struct LastPass {
    policy: Policy,
    holds: Holds,
    then: Timestamp,
    newest: Option<Timestamp>,
}

/// Why a pass was cut off. What it had dropped until then is dropped; the rest is for the next pass.
#[derive(Debug, thiserror::Error)]
pub enum ThinError {
    /// The index failed.
    #[error(transparent)]
    Index(#[from] IndexError),
    /// The manifest refused.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
}

/// What a pass did.
#[derive(Clone, Debug, Default)]
pub struct ThinReport {
    /// Lines of which something was dropped.
    pub lines: Vec<ThinnedLine>,
    /// The clock alarm that forbade to drop anything.
    pub suspended: Option<ClockAlarm>,
}

/// A line of which something was dropped.
#[derive(Clone, Debug)]
pub struct ThinnedLine {
    /// The machine.
    pub machine: Name,
    /// The branch, or the trunk.
    pub branch: Option<Name>,
    /// What went and what stays, as far as it was looked at.
    pub decision: Decision,
}

/// A line as a pass sees it.
struct Subject {
    line: Arc<Line>,
    machine: Name,
    branch: Option<Name>,
    policy: Policy,
    holds: Holds,
}

impl Thinning {
    /// Looks at the clock at once: the later, the less it says about the pause before the start. `newest_commit` stands in
    /// for the time on record in a data folder that has none.
    pub(crate) fn new(
        state: &ManifestState,
        newest_commit: Timestamp,
        present: &dyn Clock,
    ) -> Self {
        let recorded = Some(state.clock.seen).filter(|seen| *seen != Timestamp::default());
        let mut clock = TrustedClock::new(recorded.unwrap_or(newest_commit), state.clock.alarm);
        // An alarm is put on record by the first pass.
        clock.look(present.now(), present.uptime());
        Self { clock, lines: HashMap::new() }
    }
}

impl Retention {
    /// Drops what policies no longer keep. To be called every minute or so, and when a policy has changed.
    pub async fn thin(&self) -> Result<ThinReport, ThinError> {
        let mut thinning = self.thinning.lock().await;
        let now = match self.look_at_clock(&mut thinning).await? {
            Ok(now) => now,
            Err(alarm) => {
                return Ok(ThinReport { lines: Vec::new(), suspended: Some(alarm) });
            }
        };
        let subjects = self.subjects(now);
        let there: HashSet<LineId> = subjects.iter().map(|subject| subject.line.id()).collect();
        thinning.lines.retain(|id, _| there.contains(id));
        let mut report = ThinReport::default();
        for subject in subjects {
            let id = subject.line.id();
            let scope = scope(thinning.lines.get(&id), &subject);
            let (policy, holds) = (subject.policy.clone(), subject.holds.clone());
            let (machine, branch) = (subject.machine.clone(), subject.branch.clone());
            let line = Arc::clone(&subject.line);
            let index = Arc::clone(&self.surroundings.index);
            let decision = offload(move || plan(&*index, &subject, now, scope)).await?;
            if !self.drop_points(&line, &decision.drop, now).await? {
                // Somebody took hold of one of them in between: the next pass knows.
                thinning.lines.remove(&id);
                continue;
            }
            let newest = decision.newest;
            thinning.lines.insert(id, LastPass { policy, holds, then: now, newest });
            if decision.dropped.points > 0 {
                report.lines.push(ThinnedLine { machine, branch, decision });
            }
        }
        if !report.lines.is_empty() {
            self.refresh_forgotten();
        }
        Ok(report)
    }

    /// The trusted time, or the alarm that stands. Both are put on record.
    pub(crate) async fn look_at_clock(
        &self,
        thinning: &mut Thinning,
    ) -> Result<Result<Timestamp, ClockAlarm>, ManifestError> {
        let clock = &self.surroundings.clock;
        let step = thinning.clock.look(clock.now(), clock.uptime());
        let recorded = self.manifest.state().clock;
        match step {
            ClockStep::Steady(now) => {
                if now.since(recorded.seen) >= RECORD_TIME_EVERY {
                    self.manifest.append(vec![ManifestRecord::ClockSeen { time: now }]).await?;
                }
                Ok(Ok(now))
            }
            ClockStep::Moved(alarm) | ClockStep::Suspended(alarm) => {
                // An alarm that could not be recorded is recorded by the next pass.
                if recorded.alarm.is_none() {
                    self.manifest.append(vec![ManifestRecord::ClockAlarmRaised(alarm)]).await?;
                }
                Ok(Err(alarm))
            }
        }
    }

    /// Somebody says that the clock is right: time goes on from what it shows.
    pub async fn acknowledge_clock(&self) -> Result<Timestamp, ManifestError> {
        let mut thinning = self.thinning.lock().await;
        let clock = &self.surroundings.clock;
        let time = clock.now();
        self.manifest.append(vec![ManifestRecord::ClockAlarmAcknowledged { time }]).await?;
        thinning.clock.acknowledge(time, clock.uptime());
        Ok(time)
    }

    /// The clock alarm that stands.
    pub fn clock_alarm(&self) -> Option<ClockAlarm> {
        self.manifest.state().clock.alarm
    }

    /// The policy of a group: its own, or the one that those have that were given none.
    pub(crate) fn policy_of(&self, state: &ManifestState, group: GroupId) -> Policy {
        state.policies.get(&group).unwrap_or(&self.default_policy).clone()
    }

    fn subjects(&self, now: Timestamp) -> Vec<Subject> {
        let state = self.manifest.state();
        let machines = self.machines.read();
        let shown = Shown::of(&state);
        let held = |line: &Arc<Line>| {
            Some((line.id(), holds(state.lines.get(&line.id())?, &shown, line, now)))
        };
        let mut all_held: HashMap<LineId, Holds> =
            machines.lines.values().filter_map(held).collect();
        let policy = |group| self.policy_of(&state, group);
        hold_common(state.groups.values(), policy, &mut all_held, now);
        let name = |id: MachineId| state.machines.get(&id).map(|machine| machine.name.clone());
        let subject = |line: &Arc<Line>| {
            let entry = state.lines.get(&line.id()).filter(|_| line.is_indexed())?;
            Some(Subject {
                machine: name(entry.machine)?,
                branch: entry.branch.clone(),
                policy: self.policy_of(&state, entry.group),
                holds: all_held.get(&line.id()).cloned().unwrap_or_default(),
                line: Arc::clone(line),
            })
        };
        machines.lines.values().filter_map(subject).collect()
    }

    /// Drops moments of a line; `false` if somebody has taken hold of one of them.
    async fn drop_points(
        &self,
        line: &Arc<Line>,
        ranges: &[DropRange],
        now: Timestamp,
    ) -> Result<bool, ManifestError> {
        if ranges.is_empty() {
            return Ok(true);
        }
        self.keep_instants(line, ranges).await;
        if !line.begin_drop(ranges) {
            return Ok(false);
        }
        let drops = ranges
            .iter()
            .flat_map(|range| drop_records(line.id(), range.first, range.last, &range.kept));
        let records = std::iter::once(ManifestRecord::ClockSeen { time: now }).chain(drops);
        let recorded = self.manifest.append(records.collect()).await;
        match recorded {
            Ok(()) => {
                line.finish_drop(ranges);
                Ok(true)
            }
            Err(error) => {
                let state = self.manifest.state();
                line.reset_dropped(state.lines.get(&line.id()).map(|entry| &entry.dropped));
                match error {
                    ManifestError::Overtaken(_) => Ok(false),
                    error => Err(error),
                }
            }
        }
    }

    /// Kept moments that nobody marked become points: from here on they are listed, and thinned like any other.
    async fn keep_instants(&self, line: &Arc<Line>, ranges: &[DropRange]) {
        let unmarked: Vec<Sequence> = line.points(|points| {
            let kept = ranges.iter().flat_map(|range| range.kept.iter().copied());
            kept.filter(|sequence| points.at(*sequence).is_none()).collect()
        });
        if unmarked.is_empty() {
            return;
        }
        let (index, of) = (Arc::clone(&self.surroundings.index), Arc::clone(line));
        let found = offload(move || instants(&*index, &of, &unmarked)).await;
        match found {
            Ok(points) => line.add_points(points),
            // They stay what they are: moments that can be opened, and that a listing leaves out.
            Err(error) => tracing::warn!(%error, "moments that were kept cannot be listed"),
        }
    }
}

/// Moments that branches start from and that exports show, by line: looked for once for all lines.
#[derive(Default)]
pub(crate) struct Shown {
    held: HashMap<LineId, Vec<(Sequence, Hold)>>,
}

impl Shown {
    pub(crate) fn of(state: &ManifestState) -> Self {
        let origins = state.lines.values().filter_map(|line| line.origin);
        let origins = origins.map(|(parent, origin)| (parent, origin, Hold::Branch));
        let exports = state.exports.values();
        let exports =
            exports.filter_map(|export| Some((export.line, export.sequence?, Hold::Export)));
        let mut shown = Self::default();
        for (line, sequence, why) in origins.chain(exports) {
            shown.held.entry(line).or_default().push((sequence, why));
        }
        shown
    }
}

/// What is held of a line: what the manifest says, and what somebody has open.
pub(crate) fn holds(entry: &LineEntry, shown: &Shown, line: &Line, now: Timestamp) -> Holds {
    let mut holds = Holds::default();
    line.readers().into_iter().for_each(|reader| holds.add(reader, Hold::Lease));
    let start = entry.start.iter();
    start.for_each(|start| holds.add(start.sequence, Hold::Floor));
    holds.add_locks(&entry.locks, now);
    entry.pins.iter().for_each(|pin| holds.add(*pin, Hold::Pin));
    for (sequence, why) in shown.held.get(&entry.id).into_iter().flatten() {
        holds.add(*sequence, *why);
    }
    holds
}

/// What is to be looked at, after the last pass or for the first time.
fn scope(last: Option<&LastPass>, subject: &Subject) -> Scope {
    match last {
        Some(last) if last.policy == subject.policy => {
            let released = last.holds.beyond(&subject.holds);
            let times = |sequence| subject.line.points(|points| points.at(sequence));
            let released = released.filter_map(times).map(|point| point.commit_time).collect();
            Scope::Since { then: last.then, newest: last.newest, released }
        }
        _ => Scope::Everything,
    }
}

/// What goes of a line. Blocks.
fn plan(
    index: &dyn IndexStore,
    subject: &Subject,
    now: Timestamp,
    scope: Scope,
) -> Result<Decision, IndexError> {
    let line = &subject.line;
    let mut through = None;
    if line.has_instants() {
        choose_instants(index, subject, now, &scope)?;
        through = Some(line.dropped().through());
    }
    // A point that comes while this is decided is for the next pass.
    let tail = line.tail().sequence;
    let points = |from: Timestamp, to: Timestamp| {
        let known = |head: &PointHead| head.sequence <= tail;
        let heads: Vec<_> =
            line.points(|points| points.heads(from, to).take_while(known).collect());
        heads.into_iter()
    };
    Ok(decide(points, through, &subject.holds, &subject.policy, now, scope))
}

/// Makes a point of the newest instant of every slot of the densest rule that has left the window and has no point.
fn choose_instants(
    index: &dyn IndexStore,
    subject: &Subject,
    now: Timestamp,
    scope: &Scope,
) -> Result<(), IndexError> {
    let Subject { line, policy, .. } = subject;
    let Some(keep_all) = policy.keep_all() else { return Ok(()) };
    let Some(rule) = policy.rules().first() else {
        // None stays, but there has to be a point up to which they go.
        let tail = line.tail().sequence;
        let last = line.boundary_at_or_before(index, tail, now.earlier(keep_all))?;
        let left = last.filter(|last| !line.dropped().contains(last.sequence));
        line.add_points(left.map(|l| unmarked(l.sequence, l.commit_time)).into_iter().collect());
        return Ok(());
    };
    let width = u64::try_from(rule.every.as_nanos()).unwrap_or(u64::MAX);
    let from = match scope {
        Scope::Everything => now.earlier(rule.reach),
        Scope::Since { then, .. } => then.earlier(keep_all),
    };
    let first = from.nanoseconds() / width;
    let tail = line.tail().sequence;
    let start = line.start().map(|start| start.sequence).unwrap_or_default();
    // From slot to slot, back in time: slots in which nothing was written cost nothing.
    let mut behind = now.earlier(keep_all).nanoseconds() / width;
    while behind > first {
        let last = Timestamp::from_nanoseconds(behind * width - 1);
        let Some(found) = line.boundary_at_or_before(index, tail, last)? else { break };
        let slot = found.commit_time.nanoseconds() / width;
        if slot < first || found.sequence < start {
            break;
        }
        let start = Timestamp::from_nanoseconds(slot * width);
        let end = Timestamp::from_nanoseconds((slot + 1) * width);
        if line.points(|points| points.heads(start, end).next().is_none()) {
            line.add_points(vec![unmarked(found.sequence, found.commit_time)]);
        }
        behind = slot;
    }
    Ok(())
}

/// The points that these sequences are, if they are boundaries. Blocks.
pub(crate) fn instants(
    index: &dyn IndexStore,
    line: &Line,
    sequences: &[Sequence],
) -> Result<Vec<Point>, IndexError> {
    let mut points = Vec::new();
    for sequence in sequences {
        let found = line.boundary_at(index, *sequence)?;
        points.extend(found.map(|found| unmarked(found.sequence, found.commit_time)));
    }
    Ok(points)
}

/// A moment that nobody marked: what a power cut would have left.
fn unmarked(sequence: Sequence, commit_time: Timestamp) -> Point {
    Point { sequence, commit_time, source_time: commit_time, kind: PointKind::Crash, label: None }
}
