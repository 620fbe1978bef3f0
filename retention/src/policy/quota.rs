//! What to do when the history of a group has grown beyond its quota.
//!
//! Shortening drops fuzzy points first, then the oldest, each with what it alone keeps; it skips what is held and never
//! touches the newest consistent point. When nothing that may go frees enough, the quota holds: streams have to wait, and
//! the holders are named.

use super::{Holds, Quota, WhenFull};
use crate::ids::Sequence;
use crate::point::PointHead;

/// A point and the bytes that nobody would need without it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Weighed {
    /// The point.
    pub point: PointHead,
    /// Bytes that dropping it gives back.
    pub bytes: u64,
}

/// What follows from a quota.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Relief {
    /// History fits.
    Fits,
    /// These points go before their time; what they free is enough.
    Shorten {
        /// Which, oldest first.
        drop: Vec<Sequence>,
        /// Bytes they give back.
        frees: u64,
    },
    /// Nothing more may be taken until there is room.
    Hold {
        /// Points that may go nevertheless, though it is not enough, oldest first.
        drop: Vec<Sequence>,
        /// Bytes that are still too many after that.
        missing: u64,
        /// Held points that stand in the way, the oldest first.
        held: Vec<Sequence>,
    },
}

/// What to do about `used` bytes of history. `points` are all of the line, oldest first.
pub fn relieve(points: &[Weighed], holds: &Holds, quota: &Quota, used: u64) -> Relief {
    let Some(over) = used.checked_sub(quota.bytes).filter(|over| *over > 0) else {
        return Relief::Fits;
    };
    let held: Vec<Sequence> =
        points.iter().map(|one| one.point.sequence).filter(|at| holds.holds(*at)).collect();
    if quota.then == WhenFull::Hold {
        return Relief::Hold { drop: Vec::new(), missing: over, held };
    }
    let consistent = |one: &&Weighed| one.point.kind.is_consistent();
    let newest = points.iter().rev().find(consistent).map(|one| one.point.sequence);
    let free =
        |one: &&Weighed| !holds.holds(one.point.sequence) && Some(one.point.sequence) != newest;
    let fuzzy = points.iter().filter(|one| !one.point.kind.is_consistent());
    let order = fuzzy.chain(points.iter().filter(consistent)).filter(free);
    let (mut drop, mut frees) = (Vec::new(), 0u64);
    for one in order {
        let left = used - frees;
        // The floor is what the group is promised: one more point would go below it.
        if frees >= over || left.saturating_sub(one.bytes) < quota.floor_bytes {
            break;
        }
        drop.push(one.point.sequence);
        frees = frees.saturating_add(one.bytes).min(used);
    }
    drop.sort_unstable();
    if frees >= over {
        Relief::Shorten { drop, frees }
    } else {
        Relief::Hold { drop, missing: over - frees, held }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Hold;
    use super::*;
    use crate::point::PointKind;
    use crate::time::Timestamp;

    fn weighed(sequence: u64, kind: PointKind, bytes: u64) -> Weighed {
        let commit_time = Timestamp::from_nanoseconds(sequence);
        let sequence = Sequence::new(sequence);
        Weighed { point: PointHead { sequence, commit_time, kind, labelled: false }, bytes }
    }

    fn points() -> [Weighed; 5] {
        use PointKind::{App, Crash, Fuzzy};
        [
            weighed(1, Crash, 10),
            weighed(2, App, 10),
            weighed(3, Fuzzy, 10),
            weighed(4, Crash, 10),
            weighed(5, Fuzzy, 10),
        ]
    }

    fn quota(then: WhenFull, floor_bytes: u64) -> Quota {
        Quota { bytes: 100, then, floor_bytes }
    }

    fn sequences(numbers: &[u64]) -> Vec<Sequence> {
        numbers.iter().copied().map(Sequence::new).collect()
    }

    #[test]
    fn fuzzy_points_go_first_and_then_the_oldest() {
        let shorten = quota(WhenFull::Shorten, 0);
        let relieved = |used| relieve(&points(), &Holds::default(), &shorten, used);
        assert_eq!(relieved(100), Relief::Fits);
        assert_eq!(relieved(101), Relief::Shorten { drop: sequences(&[3]), frees: 10 });
        assert_eq!(relieved(125), Relief::Shorten { drop: sequences(&[1, 3, 5]), frees: 30 });
        let all = sequences(&[1, 2, 3, 5]);
        assert_eq!(relieved(141), Relief::Hold { drop: all, missing: 1, held: Vec::new() });
    }

    #[test]
    fn what_is_held_stays_and_is_named() {
        let mut holds = Holds::default();
        holds.add(Sequence::new(1), Hold::Lock);
        holds.add(Sequence::new(3), Hold::Lease);
        let shorten = quota(WhenFull::Shorten, 0);
        let relieved = |used| relieve(&points(), &holds, &shorten, used);
        assert_eq!(relieved(111), Relief::Shorten { drop: sequences(&[2, 5]), frees: 20 });
        let (drop, held) = (sequences(&[2, 5]), sequences(&[1, 3]));
        assert_eq!(relieved(130), Relief::Hold { drop, missing: 10, held: held.clone() });
        let hold = quota(WhenFull::Hold, 0);
        let held = Relief::Hold { drop: Vec::new(), missing: 1, held };
        assert_eq!(relieve(&points(), &holds, &hold, 101), held);
    }

    #[test]
    fn nothing_goes_below_the_floor() {
        let floor = quota(WhenFull::Shorten, 95);
        let drop = sequences(&[3, 5]);
        let held = Vec::new();
        let relieved = relieve(&points(), &Holds::default(), &floor, 121);
        assert_eq!(relieved, Relief::Hold { drop, missing: 1, held });
    }
}
