//! Where the history of a trunk should begin: at the oldest moment that its policy keeps.
//!
//! ```text
//!   points   held ─ held ─ start ─ ○ ─ ○ ─ ○ …           wanted: the first that the policy keeps by itself
//!              ▲ up to here it can be folded             holders: whoever holds something older
//! ```
//!
//! To be asked after a pass of thinning: what the policy let go is off the catalogue then, so all that can lie before the
//! wanted start are moments that somebody holds, and the start there is. Whether it is worth a fold is for others to say.
//! **Invariant:** what is asked for is never above the newest consistent point nor above anything held, and while the clock
//! is not trusted nothing is.

use crate::ids::{LineId, Sequence};
use crate::lease::Holder;
use crate::line::Line;
use crate::manifest::ManifestError;
use crate::manifest::history::HistoryStart;
use crate::name::Name;
use crate::point::PointHead;
use crate::policy::{ClockAlarm, Holds, Policy, Scope, decide};
use crate::retention::Retention;
use crate::thinning::{Shown, holds};
use crate::time::Timestamp;
use landfall_disks::uring::offload;
use std::sync::Arc;

/// Where the histories of all trunks should begin.
#[derive(Clone, Debug)]
pub enum HistoryWanted {
    /// One for each trunk that has a point.
    Known(Vec<WantedStart>),
    /// Nobody knows what time it is.
    Suspended(ClockAlarm),
}

/// Where the history of a trunk should begin.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WantedStart {
    /// The machine.
    pub machine: Name,
    /// Its trunk.
    pub line: LineId,
    /// Where its history begins, if anything was folded.
    pub start: Option<HistoryStart>,
    /// The oldest moment that its policy keeps.
    pub wanted: StartMoment,
    /// Up to where it can be folded: there, or to what is held before. None where that moves nothing.
    pub reachable: Option<StartMoment>,
    /// Who holds a moment before the wanted one.
    pub holders: Vec<Holder>,
}

/// A moment that history can begin at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StartMoment {
    /// Its sequence.
    pub sequence: Sequence,
    /// When it was committed.
    pub commit_time: Timestamp,
}

impl StartMoment {
    fn of(head: &PointHead) -> Self {
        Self { sequence: head.sequence, commit_time: head.commit_time }
    }
}

impl Retention {
    /// Where the histories of all trunks should begin by their policies.
    pub async fn wanted_starts(&self) -> Result<HistoryWanted, ManifestError> {
        let now = {
            let mut thinning = self.thinning.lock().await;
            match self.look_at_clock(&mut thinning).await? {
                Ok(now) => now,
                Err(alarm) => return Ok(HistoryWanted::Suspended(alarm)),
            }
        };
        let trunks: Vec<_> = {
            let state = self.manifest.state();
            let machines = self.machines.read();
            let shown = Shown::of(&state);
            let trunk = |line: &Arc<Line>| {
                let there = !line.is_branch() && line.is_indexed();
                let entry = state.lines.get(&line.id()).filter(|_| there)?;
                // What cannot be opened cannot be folded.
                self.keys().writing(entry.machine).ok()?;
                let machine = state.machines.get(&entry.machine)?.name.clone();
                let policy = self.policy_of(&state, entry.group);
                let holds = holds(entry, &shown, line, now);
                Some((machine, Arc::clone(line), policy, holds))
            };
            machines.lines.values().filter_map(trunk).collect()
        };
        let mut starts = Vec::new();
        for (machine, line, policy, holds) in trunks {
            let of = Arc::clone(&line);
            let wanted = offload(move || first_kept(&of, &holds, &policy, now)).await;
            starts.extend(wanted.map(|wanted| self.wanted_start(machine, &line, wanted)));
        }
        Ok(HistoryWanted::Known(starts))
    }

    fn wanted_start(&self, machine: Name, line: &Arc<Line>, wanted: StartMoment) -> WantedStart {
        let holders = self.holders_below(line.id(), wanted.sequence);
        let held = holders.iter().map(Holder::sequence).min();
        let at_held = |held: Sequence| {
            let point = line.points(|points| points.at(held))?;
            Some(StartMoment { sequence: held, commit_time: point.commit_time })
        };
        let reachable = held.map_or(Some(wanted), at_held);
        let start = line.start();
        let disks = self.disks_of(line);
        let floor = disks.iter().filter_map(|disk| disk.floor()).min();
        // The mark that ends a first copy comes right behind its floor, with nothing between them.
        let present = start.as_ref().map(|start| start.sequence);
        let present = present.or(floor.map(Sequence::next));
        let moves = |to: &StartMoment| present.is_some_and(|present| to.sequence > present);
        let reachable = reachable.filter(moves);
        WantedStart { machine, line: line.id(), start, wanted, reachable, holders }
    }
}

/// The oldest moment that the policy keeps, whoever else holds what lies before it. Blocks.
fn first_kept(line: &Line, holds: &Holds, policy: &Policy, now: Timestamp) -> Option<StartMoment> {
    let end = Timestamp::from_nanoseconds(u64::MAX);
    let slot = policy.rules().last().map_or(std::time::Duration::ZERO, |rule| rule.every);
    // All that are held, the first that is not, and those that share a slot with it.
    let mut heads: Vec<PointHead> = Vec::new();
    let mut free: Option<PointHead> = None;
    line.points(|points| {
        for head in points.heads(Timestamp::default(), end) {
            if free.is_some_and(|free| head.commit_time.since(free.commit_time) > slot) {
                break;
            }
            heads.push(head);
            if free.is_none() && !holds.holds(head.sequence) {
                free = Some(head);
            }
        }
    });
    let first = heads.first()?;
    if free.is_some_and(|free| free.sequence == first.sequence) {
        return Some(StartMoment::of(first));
    }
    let between = |from: Timestamp, to: Timestamp| {
        let there = |head: &&PointHead| (from..to).contains(&head.commit_time);
        heads.iter().filter(there).copied().collect::<Vec<_>>().into_iter()
    };
    let decision = decide(between, None, &Holds::default(), policy, now, Scope::Everything);
    let goes = |at: Sequence| decision.drop.iter().any(|range| range.drops(at));
    let stays = |head: &&PointHead| {
        free.is_some_and(|free| free.sequence == head.sequence) || !goes(head.sequence)
    };
    heads.iter().find(stays).map(StartMoment::of)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{GroupId, LaneId, MachineId};
    use crate::line::LineState;
    use crate::manifest::state::LineEntry;
    use crate::point::{Point, PointKind};
    use crate::policy::Hold;

    /// A trunk with points at these minutes, whose sequences are the minutes.
    fn line(minutes: &[u64]) -> Line {
        let (group, lane) = (GroupId::new(1), LaneId::new(0));
        let entry = LineEntry::new(LineId::new(1), MachineId::new(1), group, lane);
        let line = Line::new(&entry, None, LineState::default());
        let point = |minute: &u64| Point {
            sequence: Sequence::new(*minute),
            commit_time: at(*minute),
            source_time: at(*minute),
            kind: PointKind::Crash,
            label: None,
        };
        line.add_points(minutes.iter().map(point).collect());
        line
    }

    fn at(minute: u64) -> Timestamp {
        Timestamp::from_nanoseconds(minute * 60_000_000_000)
    }

    fn kept(line: &Line, held: &[(u64, Hold)], policy: &str, now: u64) -> Option<u64> {
        let mut holds = Holds::default();
        held.iter().for_each(|(at, why)| holds.add(Sequence::new(*at), *why));
        let policy: Policy = policy.parse().expect("a policy");
        first_kept(line, &holds, &policy, at(now)).map(|moved| moved.sequence.number())
    }

    #[test]
    fn what_only_somebody_holds_or_begins_history_is_not_wanted() {
        let line = line(&[10, 20, 100, 200]);
        let policy = "keep all for 2h";
        assert_eq!(kept(&line, &[], policy, 210), Some(10), "thinning has not been here");
        let start = (10, Hold::Floor);
        assert_eq!(kept(&line, &[start], policy, 210), Some(20));
        assert_eq!(kept(&line, &[start, (20, Hold::Pin)], policy, 210), Some(100));
        // What is held and kept by the policy as well is wanted.
        assert_eq!(kept(&line, &[start], policy, 120), Some(10));
        assert_eq!(kept(&line, &[start, (20, Hold::Pin)], policy, 135), Some(20));
        // The newest stays, whoever holds it and however old it is.
        let all = [10, 20, 100, 200].map(|at| (at, Hold::Lock));
        assert_eq!(kept(&line, &all, policy, 9000), Some(200));
        assert_eq!(kept(&line, &all, "keep all", 9000), Some(10));
    }

    #[test]
    fn the_best_of_a_slot_is_wanted_and_others_of_it_are_not() {
        let line = line(&[60, 70, 130, 200]);
        let policy = "keep all for 0s, hourly for 10h";
        assert_eq!(kept(&line, &[(60, Hold::Floor)], policy, 210), Some(60));
        let line = self::line(&[55, 60, 70, 130]);
        let held = [(55, Hold::Floor), (60, Hold::Pin), (70, Hold::Pin)];
        assert_eq!(kept(&line, &held, policy, 210), Some(55));
        assert_eq!(kept(&line, &held, policy, 660), Some(60), "the slot of 55 is out of reach");
    }

    #[test]
    fn a_trunk_without_points_wants_nothing() {
        assert_eq!(kept(&line(&[]), &[], "keep all for 0s", 10), None);
    }
}
