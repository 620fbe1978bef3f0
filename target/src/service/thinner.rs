//! Thinning as a task: once a minute, and whenever a policy has changed, with a line in the log for what went.

use crate::units::{Span, counted};
use landfall_disks::uring::{Core, sleep};
use landfall_retention::name::Name;
use landfall_retention::policy::{ClockAlarm, Decision};
use landfall_retention::{Retention, ThinReport, ThinnedLine};
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;
use tokio::sync::Notify;

/// How often policies are applied.
const THIN_EVERY: Duration = Duration::from_secs(60);

/// Applies policies and counts what went.
#[derive(Default)]
pub(crate) struct Thinner {
    passes: AtomicU64,
    failures: AtomicU64,
    dropped: AtomicU64,
    /// The alarm that was logged last: each is logged once.
    logged: Mutex<Option<ClockAlarm>>,
    /// Raised after each pass: history may begin later now.
    pub(super) passed: Arc<Notify>,
}

/// What a thinner has counted since the start.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct ThinnerCounters {
    /// Passes that ended well.
    pub(crate) passes: u64,
    /// Passes that were cut off.
    pub(crate) failures: u64,
    /// Points that were dropped.
    pub(crate) dropped: u64,
}

impl Thinner {
    /// Starts the task; it ends with the store.
    pub(crate) fn start(self: &Arc<Self>, core: &Core, retention: &Arc<Retention>) {
        let (thinner, retention) = (Arc::clone(self), Arc::downgrade(retention));
        core.spawn(move || async move {
            loop {
                {
                    let Some(retention) = retention.upgrade() else { return };
                    thinner.pass(&retention).await;
                }
                sleep(THIN_EVERY).await;
            }
        });
    }

    /// Applies all policies once; what went.
    pub(crate) async fn pass(&self, retention: &Retention) -> ThinReport {
        let thinned = retention.thin().await;
        self.passed.notify_one();
        match thinned {
            Ok(report) => {
                self.passes.fetch_add(1, Relaxed);
                self.log(&report);
                report
            }
            Err(error) => {
                self.failures.fetch_add(1, Relaxed);
                tracing::error!(%error, "policies could not be applied; the next try is in a minute");
                ThinReport::default()
            }
        }
    }

    fn log(&self, report: &ThinReport) {
        let mut logged = self.logged.lock();
        if let Some(alarm) = report.suspended.filter(|alarm| Some(*alarm) != *logged) {
            tracing::warn!("{}", in_words(&alarm));
        }
        *logged = report.suspended;
        for line in &report.lines {
            self.dropped.fetch_add(line.decision.dropped.points, Relaxed);
            tracing::info!("{}", dropped(line));
        }
    }

    /// What was counted.
    pub(crate) fn counters(&self) -> ThinnerCounters {
        ThinnerCounters {
            passes: self.passes.load(Relaxed),
            failures: self.failures.load(Relaxed),
            dropped: self.dropped.load(Relaxed),
        }
    }
}

/// A clock alarm and what to do about it.
pub(crate) fn in_words(alarm: &ClockAlarm) -> String {
    let (later, earlier, way) = if alarm.found > alarm.expected {
        (alarm.found, alarm.expected, "ahead of")
    } else {
        (alarm.expected, alarm.found, "behind")
    };
    format!(
        "the clock shows {}, which is {} {way} the time expected: nothing is dropped and no lock ends until \
         somebody has looked: landfall policy acknowledge-clock",
        alarm.found,
        Span(later.since(earlier))
    )
}

/// `dropped 59 points of web between … and …; of the points looked at, 3 stay`.
fn dropped(line: &ThinnedLine) -> String {
    let ThinnedLine { machine, branch, decision } = line;
    let Decision { dropped, dropped_newest, kept, .. } = decision;
    let name = line_name(machine, branch.as_ref());
    let points = counted(dropped.points, "point");
    let times = match (dropped.oldest, dropped_newest) {
        (Some(oldest), Some(newest)) if oldest != *newest => {
            format!(" between {oldest} and {newest}")
        }
        (Some(at), _) => format!(" of {at}"),
        _ => String::new(),
    };
    format!("dropped {points} of {name}{times}; of the points looked at, {} stay", kept.points)
}

fn line_name(machine: &Name, branch: Option<&Name>) -> String {
    branch.map_or_else(|| machine.to_string(), |branch| format!("{machine}~{branch}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use landfall_retention::policy::KeepTally;
    use landfall_retention::time::Timestamp;

    #[test]
    fn what_went_is_said_in_one_line() {
        let at = |seconds: u64| Timestamp::from_nanoseconds(seconds * 1_000_000_000);
        let decision = Decision {
            dropped: KeepTally { points: 59, oldest: Some(at(60)) },
            dropped_newest: Some(at(119)),
            kept: KeepTally { points: 3, oldest: None },
            ..Decision::default()
        };
        let machine = Name::parse("web").expect("a name");
        let line = ThinnedLine { machine, branch: None, decision };
        assert_eq!(
            dropped(&line),
            "dropped 59 points of web between 1970-01-01T00:01:00Z and 1970-01-01T00:01:59Z; \
             of the points looked at, 3 stay"
        );
    }

    #[test]
    fn an_alarm_says_which_way_and_what_to_do() {
        let at = |seconds: u64| Timestamp::from_nanoseconds(seconds * 1_000_000_000);
        let text = in_words(&ClockAlarm { expected: at(0), found: at(7200) });
        assert!(text.contains("2 h ahead of") && text.contains("acknowledge-clock"), "{text}");
        let text = in_words(&ClockAlarm { expected: at(7200), found: at(0) });
        assert!(text.contains("2 h behind"), "{text}");
    }
}
