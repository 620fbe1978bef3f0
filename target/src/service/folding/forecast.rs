//! When space will be used up at the present rate, and how far history will reach back then. Pure.
//!
//! ```text
//!   oldest point ──────────── now ─────────── used up at this rate
//!        └──────── history reaches ──────────────┘   less than the policy wants? it is going to shrink
//! ```

use landfall_retention::GroupSpace;
use landfall_retention::policy::WhenFull;
use landfall_retention::time::Timestamp;
use std::collections::VecDeque;
use std::time::Duration;

/// The rate is that of the last hour.
const WINDOW: Duration = Duration::from_secs(3600);
/// A rate over less time says nothing.
const SHORTEST: Duration = Duration::from_secs(120);
/// Who is to be warned is warned so long before.
const AHEAD: Duration = Duration::from_secs(24 * 3600);

/// How many bytes were ever taken, over the last hour.
#[derive(Clone, Debug, Default)]
pub(crate) struct Growth {
    /// Uptime and bytes, oldest first.
    seen: VecDeque<(Duration, u64)>,
}

impl Growth {
    /// At `uptime`, so many bytes had been taken.
    pub(super) fn note(&mut self, uptime: Duration, bytes: u64) {
        if self.seen.back().is_some_and(|(_, before)| *before > bytes) {
            // Counted anew: a branch and what it had taken are gone.
            self.seen.clear();
        }
        self.seen.push_back((uptime, bytes));
        while self.seen.get(1).is_some_and(|(at, _)| uptime.saturating_sub(*at) >= WINDOW) {
            self.seen.pop_front();
        }
    }

    /// Bytes a second; nothing before enough was seen.
    pub(crate) fn rate(&self) -> Option<f64> {
        let ((begun, first), (ended, last)) = (self.seen.front()?, self.seen.back()?);
        let time = ended.saturating_sub(*begun);
        #[expect(clippy::cast_precision_loss, reason = "a rate")]
        let bytes = (last - first) as f64;
        (time >= SHORTEST).then(|| bytes / time.as_secs_f64())
    }

    /// How long `left` bytes last; nothing if they do not get less.
    pub(crate) fn lasts(&self, left: u64) -> Option<Duration> {
        let rate = self.rate().filter(|rate| *rate >= 1.0)?;
        #[expect(clippy::cast_precision_loss, reason = "a time in whole minutes at best")]
        let seconds = left as f64 / rate;
        Duration::try_from_secs_f64(seconds).ok()
    }
}

/// A history that is going to be shorter than its policy wants, or a machine whose streams are going to be held.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Shrinking {
    /// The quota is used up in so long.
    pub(crate) full_in: Duration,
    /// So far will history reach back then.
    pub(crate) reaches: Duration,
    /// So far the policy wants it to; for ever if nothing.
    pub(crate) wanted: Option<Duration>,
    /// What happens then.
    pub(crate) then: WhenFull,
}

/// What the quota of a group is going to do to its history within a day, at the present rate.
pub(super) fn shrinking(space: &GroupSpace, growth: &Growth, now: Timestamp) -> Option<Shrinking> {
    let quota = space.policy.space()?;
    let full_in = growth.lasts(space.left_bytes()?).filter(|full_in| *full_in <= AHEAD)?;
    let reaches = now.since(space.oldest?).saturating_add(full_in);
    let wanted = space.policy.reach();
    let shorter = wanted.is_none_or(|wanted| reaches < wanted);
    shorter.then_some(Shrinking { full_in, reaches, wanted, then: quota.then })
}

#[cfg(test)]
mod tests {
    use super::*;
    use landfall_retention::ids::LineId;
    use landfall_retention::name::Name;

    const MINUTE: Duration = Duration::from_secs(60);
    const GIB: u64 = 1 << 30;

    fn space(policy: &str, used_bytes: u64) -> GroupSpace {
        GroupSpace {
            machine: Name::parse("web").expect("a name"),
            trunk: LineId::new(1),
            policy: policy.parse().expect("a policy"),
            used_bytes,
            branch_bytes: Vec::new(),
            appended_bytes: used_bytes,
            oldest: Some(Timestamp::from_nanoseconds(0)),
            begin_at: None,
            held: None,
        }
    }

    /// A GiB a minute.
    fn growth(minutes: u32) -> Growth {
        let mut growth = Growth::default();
        (0..=minutes).for_each(|at| growth.note(MINUTE * at, u64::from(at) * GIB));
        growth
    }

    #[test]
    fn the_rate_is_that_of_the_last_hour() {
        assert_eq!(growth(1).rate(), None);
        let mut growth = growth(300);
        assert!(growth.seen.len() < 64);
        assert_eq!(growth.lasts(60 * GIB).map(|time| time.as_secs()), Some(3600));
        (301..=361).for_each(|at| growth.note(MINUTE * at, 300 * GIB));
        assert_eq!((growth.rate(), growth.lasts(1)), (Some(0.0), None));
        growth.note(MINUTE * 362, 5);
        assert_eq!(growth.rate(), None);
    }

    #[test]
    fn it_is_said_before_history_is_shorter_than_wanted() {
        let now = Timestamp::from_nanoseconds(60 * 60_000_000_000);
        let at = |policy: &str, used: u64| shrinking(&space(policy, used * GIB), &growth(60), now);
        let found =
            at("keep all for 5h, quota 100GiB shorten", 60).expect("two hours are too short");
        assert_eq!((found.full_in, found.reaches), (MINUTE * 40, MINUTE * 100));
        assert_eq!(found.wanted, Some(MINUTE * 300));
        assert_eq!(
            at("keep all for 1h, quota 100GiB shorten", 60),
            None,
            "history reaches that far"
        );
        assert!(at("keep all, quota 100GiB hold", 60).is_some());
        assert_eq!(at("keep all, quota 9TiB hold", 60), None, "days from now");
        assert_eq!(at("keep all", 60), None, "no quota");
    }
}
