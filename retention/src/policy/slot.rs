//! The best point of every slot of a rule, found in one walk from the oldest point to the newest.

use super::Rule;
use crate::ids::Sequence;
use crate::point::{PointHead, PointKind};
use crate::time::Timestamp;
use std::time::Duration;

/// Walks over points and remembers the best of the present slot.
pub(super) struct SlotWalk {
    width: u64,
    /// Slots that end at or before it are no longer covered.
    horizon: u64,
    present: Option<(u64, PointHead)>,
    /// The best points of covered slots, in order.
    pub(super) best: Vec<(Sequence, Timestamp)>,
}

/// Nanoseconds of a length of time; a policy reaches back a hundred years at most.
pub(super) fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

impl SlotWalk {
    pub(super) fn new(rule: &Rule, now: Timestamp) -> Self {
        let horizon = now.earlier(rule.reach).nanoseconds();
        Self { width: nanoseconds(rule.every), horizon, present: None, best: Vec::new() }
    }

    /// The next point, newer than all before.
    pub(super) fn take(&mut self, point: &PointHead) {
        let slot = point.commit_time.nanoseconds() / self.width;
        match &mut self.present {
            Some((present, best)) if *present == slot => {
                if is_better(point, best) {
                    *best = *point;
                }
            }
            _ => {
                self.close();
                self.present = Some((slot, *point));
            }
        }
    }

    /// Ends the present slot.
    pub(super) fn close(&mut self) {
        let Some((slot, best)) = self.present.take() else { return };
        // All points of a slot go at the same time: a slot that is only partly too old would lose its best point first.
        let end = (slot + 1).saturating_mul(self.width);
        if end > self.horizon {
            self.best.push((best.sequence, best.commit_time));
        }
    }
}

/// App points first, fuzzy ones last; then those with a name; then the older one, which newer ones do not displace.
fn is_better(point: &PointHead, than: &PointHead) -> bool {
    let rank = |point: &PointHead| {
        let kind = match point.kind {
            PointKind::App => 0,
            PointKind::Crash => 1,
            PointKind::Fuzzy => 2,
        };
        (kind, !point.labelled, point.sequence)
    };
    rank(point) < rank(than)
}
