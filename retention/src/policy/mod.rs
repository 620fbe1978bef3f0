//! Policy: which points of a line are kept, and why. Pure: no clock, no files, no locks.
//!
//! ```text
//!   keep all for 2h, minutely for 24h, hourly for 7d, daily for 30d
//!
//!   30 d            7 d             24 h              2 h            now
//!    │  1 per day    │  1 per hour   │  1 per minute   │  every one   │
//!    └ older ones go, but for what somebody holds and the newest ─────┘
//! ```
//!
//! `text` reads and writes a policy, [`decide()`] turns points and a time into points to drop, [`relieve`] shortens history
//! that has grown beyond its quota, [`TrustedClock`] says what time it is for all of that.
//!
//! **Invariants:** slots are cut from the calendar (UTC), not from the present, and the best point of a slot is the same
//! whoever looks and whenever: so thinning every minute leaves what thinning once at the end would. What is held, locked
//! or the newest is never dropped. Without a trusted time nothing is dropped.

mod clock;
mod decide;
mod holds;
mod quota;
mod slot;
mod text;

pub use clock::{ClockAlarm, ClockStep, MAX_DOWNTIME, MAX_STEP, TrustedClock};
pub use decide::{Decision, DropRange, KeepTally, Scope, decide};
pub use holds::{Hold, Holds};
pub use quota::{Relief, Weighed, relieve};
pub use text::PolicyError;

use std::time::Duration;

/// Most thinning rules of a policy.
pub const MAX_RULES: usize = 8;
/// Longest text of a policy, in bytes.
pub const MAX_POLICY_BYTES: usize = 512;

/// How long and how densely points are kept, and how much space they may take.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Policy {
    /// Every point and every instant is kept for so long; `None` is for ever.
    keep_all: Option<Duration>,
    /// Thinning rules, the densest first; each reaches further back than the one before.
    rules: Vec<Rule>,
    /// How much space history may take.
    space: Option<Quota>,
}

/// One point per slot is kept for a while.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rule {
    /// Length of a slot; whole seconds.
    pub every: Duration,
    /// How far back the rule reaches.
    pub reach: Duration,
}

/// Bounds of the space that the history of a group takes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Quota {
    /// Most bytes.
    pub bytes: u64,
    /// What happens when they are used up.
    pub then: WhenFull,
    /// Bytes of history that are left to the group however much space others need; at most the quota.
    pub floor_bytes: u64,
}

/// What happens when the quota is used up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WhenFull {
    /// The oldest points are dropped before their time, with an event each.
    Shorten,
    /// Nothing is dropped; streams are refused.
    Hold,
}

impl Policy {
    /// A policy of these parts.
    pub fn new(
        keep_all: Option<Duration>,
        rules: Vec<Rule>,
        space: Option<Quota>,
    ) -> Result<Self, PolicyError> {
        text::check(keep_all, &rules, space.as_ref())?;
        Ok(Self { keep_all, rules, space })
    }

    /// For how long every point is kept; `None` is for ever.
    pub fn keep_all(&self) -> Option<Duration> {
        self.keep_all
    }

    /// The thinning rules, the densest first.
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// How much space history may take.
    pub fn space(&self) -> Option<Quota> {
        self.space
    }

    /// How far back any of it reaches; `None` is for ever.
    pub fn reach(&self) -> Option<Duration> {
        let keep_all = self.keep_all?;
        Some(self.rules.last().map_or(keep_all, |rule| rule.reach.max(keep_all)))
    }

    /// The longest slot.
    fn widest(&self) -> Duration {
        self.rules.last().map_or(Duration::ZERO, |rule| rule.every)
    }
}

impl Default for Policy {
    /// Everything for two hours, a point a minute for a day.
    fn default() -> Self {
        Self {
            keep_all: Some(Duration::from_secs(2 * 3600)),
            rules: vec![Rule {
                every: Duration::from_secs(60),
                reach: Duration::from_secs(24 * 3600),
            }],
            space: None,
        }
    }
}

#[cfg(test)]
mod tests;
