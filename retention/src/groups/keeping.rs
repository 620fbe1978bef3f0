//! What a group's policy keeps of its common points: decided once for all members, so that they keep the same ones.
//!
//! A pass that looked at each machine alone would keep that point of a slot here and the one beside it there. So the policy
//! is asked about the common points as if they were those of one line; whatever somebody holds of one member is held. What it
//! keeps, every member holds.

use crate::ids::{GroupId, LineId, Sequence};
use crate::manifest::groups::{CommonMember, CommonPoint, GroupEntry};
use crate::point::PointHead;
use crate::policy::{Hold, Holds, Policy, Scope, decide};
use crate::time::Timestamp;
use std::collections::HashMap;

/// Adds to what is held of lines what the policies of their groups keep of common points.
pub(crate) fn hold_common<'a>(
    groups: impl Iterator<Item = &'a GroupEntry>,
    policy: impl Fn(GroupId) -> Policy,
    holds: &mut HashMap<LineId, Holds>,
    now: Timestamp,
) {
    for group in groups.filter(|group| !group.points.is_empty()) {
        for point in kept(group, &policy(group.id), holds, now) {
            for member in &point.members {
                if let Some(of_line) = holds.get_mut(&member.line) {
                    of_line.add(member.sequence, Hold::Common);
                }
            }
        }
    }
}

/// The common points that the policy keeps at `now`.
fn kept<'a>(
    group: &'a GroupEntry,
    policy: &Policy,
    held: &HashMap<LineId, Holds>,
    now: Timestamp,
) -> Vec<&'a CommonPoint> {
    // Declared ones may be of earlier moments than those before them: what they are called here is their place in time.
    let mut points: Vec<&CommonPoint> = group.points.values().map(|point| &**point).collect();
    points.sort_by_key(|point| point.age());
    let place = |index: usize| Sequence::new(index as u64 + 1);
    let mut holds = Holds::default();
    for (index, point) in points.iter().enumerate() {
        let is_held = |member: &CommonMember| {
            held.get(&member.line).is_some_and(|holds| holds.holds(member.sequence))
        };
        if point.members.iter().any(is_held) {
            holds.add(place(index), Hold::Pin);
        }
    }
    let head = |(index, point): (usize, &&CommonPoint)| PointHead {
        sequence: place(index),
        commit_time: point.time,
        kind: point.kind,
        labelled: point.label.is_some(),
    };
    let heads: Vec<PointHead> = points.iter().enumerate().map(head).collect();
    let within = |from: Timestamp, to: Timestamp| {
        let range = move |head: &PointHead| from <= head.commit_time && head.commit_time < to;
        heads.iter().copied().filter(range)
    };
    let decision = decide(within, None, &holds, policy, now, Scope::Everything);
    let goes = |index: usize| decision.drop.iter().any(|range| range.drops(place(index)));
    let stays = |(index, point): (usize, &'a CommonPoint)| (!goes(index)).then_some(point);
    points.into_iter().enumerate().filter_map(stays).collect()
}
