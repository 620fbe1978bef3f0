//! From points, holders, a policy and a time to the points that go.
//!
//! ```text
//!   points, oldest first ─▶ per rule: best of each slot ─┐
//!   holders, the newest ─────────────────────────────────┴▶ kept; all else that is older than the window goes
//! ```
//!
//! Two walks over the points and memory for those that a rule keeps. A pass after another, with the same
//! policy, looks only at what may have changed since: what has left the window, slots that have left a rule's reach,
//! what was the newest then, and what is no longer held.

use super::slot::{SlotWalk, nanoseconds};
use super::{Holds, Policy};
use crate::ids::Sequence;
use crate::point::PointHead;
use crate::time::Timestamp;
use std::collections::BTreeSet;

/// What a decision looks at.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Scope {
    /// Every point.
    Everything,
    /// What may have changed since an earlier decision with the same policy.
    Since {
        /// Its time.
        then: Timestamp,
        /// When the newest consistent point of then was committed; nothing if there was none.
        newest: Option<Timestamp>,
        /// When points were committed that were held then and are not any more.
        released: Vec<Timestamp>,
    },
}

/// Moments that go: all from `first` to `last` but those kept.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DropRange {
    /// The first that may go.
    pub first: Sequence,
    /// The last that may go.
    pub last: Sequence,
    /// Those in between that stay, in order.
    pub kept: Vec<Sequence>,
}

/// How many points something keeps.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct KeepTally {
    /// How many.
    pub points: u64,
    /// When the oldest of them was committed.
    pub oldest: Option<Timestamp>,
}

/// What goes, and why the rest stays. A point that has several reasons to stay counts for each.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Decision {
    /// What goes.
    pub drop: Vec<DropRange>,
    /// How many points go.
    pub dropped: KeepTally,
    /// When the newest point that goes was committed.
    pub dropped_newest: Option<Timestamp>,
    /// What the window keeps.
    pub window: KeepTally,
    /// What each rule of the policy keeps, in its order.
    pub rules: Vec<KeepTally>,
    /// What holders keep.
    pub held: KeepTally,
    /// Points that only holders or their being the newest keep.
    pub only_held: u64,
    /// All points that stay.
    pub kept: KeepTally,
    /// When the newest consistent point was committed.
    pub newest: Option<Timestamp>,
}

impl KeepTally {
    fn count(&mut self, at: Timestamp) {
        self.points += 1;
        self.oldest = Some(self.oldest.map_or(at, |oldest| oldest.min(at)));
    }
}

impl DropRange {
    /// Whether it drops `sequence`.
    pub fn drops(&self, sequence: Sequence) -> bool {
        (self.first..=self.last).contains(&sequence) && self.kept.binary_search(&sequence).is_err()
    }
}

/// What goes of a line. `points` gives the points committed from one time to before another, oldest first. A line that has
/// more moments than points says with `instants` up to where they were decided about; they go with the points around them.
///
/// Points within the scope and their reasons are counted, no others. The answer depends on nothing but the arguments.
pub fn decide<I: Iterator<Item = PointHead>>(
    points: impl Fn(Timestamp, Timestamp) -> I,
    instants: Option<Sequence>,
    holds: &Holds,
    policy: &Policy,
    now: Timestamp,
    scope: Scope,
) -> Decision {
    let end = Timestamp::from_nanoseconds(u64::MAX);
    let mut decision =
        Decision { rules: vec![KeepTally::default(); policy.rules.len()], ..Decision::default() };
    // However long nothing came, the newest points lie somewhere behind the last decision.
    let (newest, newest_consistent) = newest_of(&points, &scope);
    decision.newest = newest_consistent.map(|point| point.commit_time);
    let newest: Vec<Sequence> =
        [newest, newest_consistent].into_iter().flatten().map(|point| point.sequence).collect();
    let windows = match (policy.keep_all, scope) {
        (None, Scope::Everything) => {
            points(Timestamp::default(), end).for_each(|point| {
                decision.window.count(point.commit_time);
                decision.kept.count(point.commit_time);
            });
            return decision;
        }
        (None, Scope::Since { .. }) => return decision,
        (Some(_), Scope::Everything) => vec![(Timestamp::default(), end)],
        (Some(_), Scope::Since { then, newest, released }) => {
            changed(policy, then, newest, &released, now)
        }
    };
    for (from, to) in windows {
        decide_window(&points, (from, to), instants, holds, &newest, policy, now, &mut decision);
    }
    decision
}

/// The newest point and the newest consistent one.
fn newest_of<I: Iterator<Item = PointHead>>(
    points: &impl Fn(Timestamp, Timestamp) -> I,
    scope: &Scope,
) -> (Option<PointHead>, Option<PointHead>) {
    let end = Timestamp::from_nanoseconds(u64::MAX);
    let from = match scope {
        Scope::Since { newest: Some(newest), .. } => *newest,
        _ => Timestamp::default(),
    };
    points(from, end).fold((None, None), |(_, consistent), point| {
        (Some(point), if point.kind.is_consistent() { Some(point) } else { consistent })
    })
}

/// Where the answer may differ from that of an earlier time: times that do not overlap, in order.
fn changed(
    policy: &Policy,
    then: Timestamp,
    newest: Option<Timestamp>,
    released: &[Timestamp],
    now: Timestamp,
) -> Vec<(Timestamp, Timestamp)> {
    let window = policy.keep_all.unwrap_or_default();
    let mut windows = Vec::new();
    // Left the window since, or shares a slot with a point that came since.
    let from = then.earlier(window.max(policy.widest()));
    windows.push((from, now.earlier(window).next()));
    for rule in &policy.rules {
        let width = nanoseconds(rule.every);
        let start = then.earlier(rule.reach).nanoseconds() / width * width;
        let end = now.earlier(rule.reach).nanoseconds() / width * width;
        let end = end.saturating_add(width);
        windows.push((Timestamp::from_nanoseconds(start), Timestamp::from_nanoseconds(end)));
    }
    // Was kept as the newest then, or is fuzzy and came after it.
    windows.push((newest.unwrap_or_default(), then.next()));
    windows.extend(released.iter().map(|released| (*released, released.next())));
    windows.retain(|(from, to)| from < to);
    windows.sort();
    let mut merged: Vec<(Timestamp, Timestamp)> = Vec::new();
    for (from, to) in windows {
        match merged.last_mut() {
            Some(last) if from <= last.1 => last.1 = last.1.max(to),
            _ => merged.push((from, to)),
        }
    }
    merged
}

/// Decides about the points committed in `window`, looking a slot further at either side.
#[expect(clippy::too_many_arguments, reason = "the arguments of `decide` and where to")]
fn decide_window<I: Iterator<Item = PointHead>>(
    points: &impl Fn(Timestamp, Timestamp) -> I,
    window: (Timestamp, Timestamp),
    instants: Option<Sequence>,
    holds: &Holds,
    newest: &[Sequence],
    policy: &Policy,
    now: Timestamp,
    decision: &mut Decision,
) {
    let (from, to) = window;
    let margin = nanoseconds(policy.widest());
    let around = (
        Timestamp::from_nanoseconds(from.nanoseconds().saturating_sub(margin)),
        Timestamp::from_nanoseconds(to.nanoseconds().saturating_add(margin)),
    );
    let mut walks: Vec<SlotWalk> =
        policy.rules.iter().map(|rule| SlotWalk::new(rule, now)).collect();
    points(around.0, around.1).for_each(|point| walks.iter_mut().for_each(|w| w.take(&point)));
    walks.iter_mut().for_each(SlotWalk::close);
    let mut ruled = BTreeSet::new();
    for (walk, tally) in walks.iter().zip(&mut decision.rules) {
        for (sequence, commit_time) in &walk.best {
            if (from..to).contains(commit_time) {
                tally.count(*commit_time);
                ruled.insert(*sequence);
            }
        }
    }
    let keep_after = now.earlier(policy.keep_all.unwrap_or_default());
    let (mut range, mut kept): (Option<(Sequence, Sequence)>, Vec<Sequence>) = (None, Vec::new());
    let mut goes = false;
    for point in points(from, to) {
        let (at, sequence) = (point.commit_time, point.sequence);
        let held = holds.holds(sequence);
        if held {
            decision.held.count(at);
        }
        if at > keep_after {
            decision.window.count(at);
            decision.kept.count(at);
            continue;
        }
        let first = range.map_or(sequence, |(first, _)| first);
        range = Some((first, sequence));
        let by_rule = ruled.contains(&sequence);
        if by_rule || held || newest.contains(&sequence) {
            decision.kept.count(at);
            decision.only_held += u64::from(!by_rule);
            kept.push(sequence);
        } else {
            goes = true;
            decision.dropped.count(at);
            decision.dropped_newest = Some(at);
        }
    }
    let Some((first, last)) = range.filter(|_| goes || instants.is_some()) else { return };
    // Instants between what was decided about before and the first point go with it.
    let first = match instants {
        _ if from == Timestamp::default() => Sequence::default(),
        Some(through) => first.min(through.next()),
        None => first,
    };
    kept.extend(holds.within(first..=last));
    kept.sort_unstable();
    kept.dedup();
    decision.drop.push(DropRange { first, last, kept });
}
