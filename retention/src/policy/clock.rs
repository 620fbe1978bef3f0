//! What time it is for dropping and unlocking: the wall clock, as long as nobody moved it.
//!
//! ```text
//!   wall clock    ──────────┐ 14:00:05        ┌────────── 2036
//!   uptime        ── +5 s ──┤                 ├── +5 s ──      differ by over a minute: alarm
//!   trusted time  ──────────┴ 14:00:05 ───────┘ stands still until somebody acknowledges
//! ```
//!
//! Commit times follow the wall clock and never go back; trusted time moves with them, but never by a jump. While an alarm
//! stands there is no trusted time: nothing is thinned, no lock ends. Between two runs of the target there is no uptime to
//! compare with: a time before the last one seen, or over [`MAX_DOWNTIME`] after it, raises the alarm as well.

use crate::time::Timestamp;
use std::time::Duration;

/// A wall clock that moves by this much more or less than the time that went by was set.
pub const MAX_STEP: Duration = Duration::from_secs(60);
/// A target that was stopped for longer than this does not believe the clock it finds.
pub const MAX_DOWNTIME: Duration = Duration::from_secs(3600);

/// The clock is not where it should be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ClockAlarm {
    /// What time it should have been.
    pub expected: Timestamp,
    /// What the clock said.
    pub found: Timestamp,
}

/// What a look at the clock showed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ClockStep {
    /// The time can be trusted.
    Steady(Timestamp),
    /// The clock was moved just now: the alarm has to be recorded.
    Moved(ClockAlarm),
    /// An alarm stands.
    Suspended(ClockAlarm),
}

/// Follows the wall clock and notices when somebody moves it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TrustedClock {
    /// The newest trusted time.
    seen: Timestamp,
    /// Wall clock and uptime at the last look of this run.
    last: Option<(Timestamp, Duration)>,
    alarm: Option<ClockAlarm>,
}

impl TrustedClock {
    /// A clock that goes on after `seen`, the newest time on record; zero if there is none.
    pub fn new(seen: Timestamp, alarm: Option<ClockAlarm>) -> Self {
        Self { seen, last: None, alarm }
    }

    /// Looks at the clock. `uptime` grows evenly, from any start, whatever is done to the wall clock.
    pub fn look(&mut self, wall: Timestamp, uptime: Duration) -> ClockStep {
        let before = self.last.replace((wall, uptime));
        if let Some(alarm) = self.alarm {
            return ClockStep::Suspended(alarm);
        }
        let (expected, late) = match before {
            Some((then, up)) => (later(then, uptime.saturating_sub(up)), MAX_STEP),
            None if self.seen == Timestamp::default() => (wall, MAX_STEP),
            None => (self.seen, MAX_DOWNTIME),
        };
        if expected.since(wall) > MAX_STEP || wall.since(expected) > late {
            let alarm = ClockAlarm { expected, found: wall };
            self.alarm = Some(alarm);
            return ClockStep::Moved(alarm);
        }
        self.seen = self.seen.max(wall);
        ClockStep::Steady(self.seen)
    }

    /// Somebody says that the clock is right now.
    pub fn acknowledge(&mut self, wall: Timestamp, uptime: Duration) {
        self.alarm = None;
        self.seen = wall;
        self.last = Some((wall, uptime));
    }

    /// The newest trusted time. While an alarm stands it does not move.
    pub fn seen(&self) -> Timestamp {
        self.seen
    }

    /// The alarm that stands.
    pub fn alarm(&self) -> Option<ClockAlarm> {
        self.alarm
    }
}

fn later(time: Timestamp, by: Duration) -> Timestamp {
    let by = u64::try_from(by.as_nanos()).unwrap_or(u64::MAX);
    Timestamp::from_nanoseconds(time.nanoseconds().saturating_add(by))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const fn at(seconds: u64) -> Timestamp {
        Timestamp::from_nanoseconds(seconds * 1_000_000_000)
    }

    const fn up(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_step_of_over_a_minute_either_way_stops_time_until_it_is_acknowledged() {
        for found in [1_000_071, 999_949, 90_000_000, 5] {
            let mut clock = TrustedClock::new(at(1_000_000), None);
            assert_eq!(clock.look(at(1_000_000), up(7)), ClockStep::Steady(at(1_000_000)));
            let alarm = ClockAlarm { expected: at(1_000_010), found: at(found) };
            assert_eq!(clock.look(at(found), up(17)), ClockStep::Moved(alarm));
            assert_eq!(clock.look(at(found + 60), up(77)), ClockStep::Suspended(alarm));
            // Nor does going back help: what happened in between is not known.
            assert_eq!(clock.look(at(1_000_080), up(87)), ClockStep::Suspended(alarm));
            assert_eq!(clock.seen(), at(1_000_000));
            clock.acknowledge(at(found + 80), up(97));
            assert_eq!(clock.look(at(found + 90), up(107)), ClockStep::Steady(at(found + 90)));
        }
    }

    #[test]
    fn slewing_is_followed_and_time_never_goes_back() {
        let mut clock = TrustedClock::new(Timestamp::default(), None);
        assert_eq!(clock.look(at(500), up(0)), ClockStep::Steady(at(500)));
        assert_eq!(clock.look(at(460), up(10)), ClockStep::Steady(at(500)));
        assert_eq!(clock.look(at(530), up(70)), ClockStep::Steady(at(530)));
    }

    #[test]
    fn after_a_start_only_a_short_pause_is_believed() {
        let start = |wall| TrustedClock::new(at(10_000), None).look(at(wall), up(0));
        assert_eq!(start(10_000 + 3600), ClockStep::Steady(at(13_600)));
        assert_eq!(start(9_950), ClockStep::Steady(at(10_000)));
        for wrong in [13_601, 9_939, 0] {
            let alarm = ClockAlarm { expected: at(10_000), found: at(wrong) };
            assert_eq!(start(wrong), ClockStep::Moved(alarm), "{wrong}");
        }
        let alarm = ClockAlarm { expected: at(1), found: at(2) };
        let mut suspended = TrustedClock::new(at(10_000), Some(alarm));
        assert_eq!(suspended.look(at(10_001), up(0)), ClockStep::Suspended(alarm));
    }

    proptest! {
        /// Whatever a clock does, trusted time never gets ahead of the time that went by plus what slewing allows.
        #[test]
        fn jumps_never_add_up(steps in proptest::collection::vec((0u64..600, -100_000i64..100_000), 1..40)) {
            let mut clock = TrustedClock::new(at(1_000_000), None);
            let (mut wall, mut uptime) = (1_000_000i64, 0u64);
            clock.look(at(1_000_000), up(0));
            for (passed, moved) in steps {
                uptime += passed;
                wall += i64::try_from(passed).unwrap() + moved;
                let before = clock.seen();
                clock.look(at(wall.max(0).unsigned_abs()), up(uptime));
                prop_assert!(clock.seen() >= before);
                prop_assert!(clock.seen().since(before) <= up(passed) + MAX_STEP);
            }
        }
    }
}
