//! The standby of one machine between two looks: whether its time has come, what somebody asked for, what came of it last.
//!
//! ```text
//!   waits ── its time, or asked ──▶ runs ── well ──▶ waits for its interval
//!     ▲                              └── fails ──▶ waits a minute, twice as long each time, an hour at most
//!     └── somebody asks, or resumes: at once
//! ```

use crate::service::folding::Failing;
use landfall_retention::manifest::standby::HeldMoment;
use landfall_retention::name::MomentName;
use landfall_retention::standby::{StandbyError, StandbyProgress, StandbyReport};
use landfall_retention::time::Timestamp;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Notify;

/// How often a file that another process has is tried again before that is said: a killed target, or a backup of it, lets go soon.
const LOCKED_TRIES: u32 = 3;

/// Something that somebody asked for.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    /// To be waited for.
    pub(super) number: u64,
    pub(super) to: MomentName,
    pub(super) overwrite: bool,
}

/// What is under way.
#[derive(Clone, Debug)]
pub(crate) struct Running {
    /// How far it is, once something is written.
    pub(crate) progress: Option<StandbyProgress>,
    cancel: Arc<Notify>,
}

/// What ended last.
#[derive(Clone, Debug)]
pub(crate) struct Ended {
    /// When.
    pub(crate) ended: Timestamp,
    /// How long it took.
    pub(crate) took: Duration,
    /// What came of it: nothing where there was nothing to do.
    pub(crate) outcome: Result<Option<StandbyReport>, String>,
    /// What was asked for, if that was it.
    asked: Option<u64>,
}

impl Ended {
    pub(super) fn new(
        asked: Option<u64>,
        ended: Timestamp,
        took: Duration,
        brought: Result<Option<StandbyReport>, StandbyError>,
    ) -> Self {
        Self { ended, took, outcome: brought.map_err(|error| error.to_string()), asked }
    }
}

/// What is known of a standby.
#[derive(Clone, Debug, Default)]
pub(crate) struct Look {
    /// What its files hold, as far as this run of the target knows.
    pub(crate) held: Option<HeldMoment>,
    /// What is under way.
    pub(crate) running: Option<Running>,
    /// What ended last, of those that did something or failed.
    pub(crate) last: Option<Ended>,
    /// Why it is not brought forward.
    pub(crate) failure: Option<String>,
    /// The highest number that was asked for and has ended, and what came of it.
    pub(crate) answered: Option<(u64, Result<(), String>)>,
}

/// One.
#[derive(Default)]
pub(super) struct One {
    held: Option<HeldMoment>,
    asked: Option<Asked>,
    numbers: u64,
    running: Option<Running>,
    last: Option<Ended>,
    answered: Option<(u64, Result<(), String>)>,
    failing: Failing,
    locked: u32,
    begun: Option<Instant>,
}

impl One {
    pub(super) fn look(&self) -> Look {
        Look {
            held: self.held,
            running: self.running.clone(),
            last: self.last.clone(),
            failure: self.failing.why().map(str::to_owned),
            answered: self.answered.clone(),
        }
    }

    /// What was asked for before and did not begin is not done any more.
    pub(super) fn ask(&mut self, to: MomentName, overwrite: bool) -> u64 {
        self.numbers += 1;
        self.asked = Some(Asked { number: self.numbers, to, overwrite });
        self.numbers
    }

    pub(super) fn take_up(&mut self) {
        self.failing = Failing::default();
        self.begun = None;
    }

    pub(super) fn runs(&self) -> bool {
        self.running.is_some()
    }

    pub(super) fn held(&self) -> Option<HeldMoment> {
        self.held
    }

    pub(super) fn begun(&self) -> Option<Instant> {
        self.begun
    }

    pub(super) fn is_due(&self, paused: bool, every: Duration, now: Instant) -> bool {
        if self.running.is_some() {
            return false;
        }
        let waited = self.begun.is_none_or(|begun| now.duration_since(begun) >= every);
        let again = self.failing.why().is_some() || self.locked > 0;
        self.asked.is_some() || (!paused && self.failing.may_try(now) && (waited || again))
    }

    /// It begins; gives what was asked for, if anything was.
    pub(super) fn begin(&mut self, now: Instant) -> Option<Asked> {
        self.running = Some(Running { progress: None, cancel: Arc::default() });
        self.begun = Some(now);
        self.asked.take()
    }

    pub(super) fn cancelled(&self) -> Option<Arc<Notify>> {
        self.running.as_ref().map(|running| Arc::clone(&running.cancel))
    }

    /// Breaks off what is under way; whether anything is.
    pub(super) fn cancel(&mut self) -> bool {
        self.asked = None;
        let Some(running) = &self.running else { return false };
        running.cancel.notify_one();
        true
    }

    pub(super) fn goes_on(&mut self, progress: &StandbyProgress) {
        if let Some(running) = &mut self.running {
            running.progress = Some(progress.clone());
        }
        // From here on they hold nothing.
        self.held = None;
    }

    /// They hold again what they held.
    pub(super) fn is_back_at(&mut self, held: HeldMoment) {
        self.held = Some(held);
    }

    pub(super) fn ended(&mut self) {
        self.running = None;
    }

    /// Whether it is too early to say that it failed.
    pub(super) fn is_to_be_waited_for(
        &self,
        brought: &Result<Option<StandbyReport>, StandbyError>,
        asked: &Option<Asked>,
    ) -> bool {
        let locked = brought.as_ref().is_err_and(StandbyError::is_locked);
        locked && asked.is_none() && self.locked < LOCKED_TRIES
    }

    pub(super) fn wait_a_little(&mut self, asked: Option<Asked>) {
        self.locked += 1;
        self.failing.overtaken(Instant::now());
        if self.asked.is_none() {
            self.asked = asked;
        }
    }

    /// Whether that is news.
    pub(super) fn went_well(&mut self) -> bool {
        self.locked = 0;
        self.failing.went_well()
    }

    /// The pause until the next try, and whether it is news.
    pub(super) fn failed(&mut self, error: &StandbyError) -> (Duration, bool) {
        self.failing.failed(error.to_string(), Instant::now())
    }

    pub(super) fn end(&mut self, ended: Ended) {
        if let Ok(Some(report)) = &ended.outcome {
            self.held = Some(report.to.at);
        }
        if let Some(number) = ended.asked {
            self.answered = Some((number, ended.outcome.clone().map(|_| ())));
        }
        let did_nothing = matches!(ended.outcome, Ok(None));
        if !did_nothing {
            self.last = Some(ended);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use landfall_disks::file::FileError;
    use landfall_disks::image::ImageError;
    use landfall_retention::name::MomentName;
    use std::path::PathBuf;

    const MINUTE: Duration = Duration::from_secs(60);

    fn latest() -> MomentName {
        MomentName::parse("web@latest").expect("a moment")
    }

    fn ended(one: &mut One, asked: Option<u64>, outcome: Result<Option<StandbyReport>, String>) {
        let (ended, took) = (Timestamp::default(), Duration::ZERO);
        one.end(Ended { ended, took, outcome, asked });
        one.ended();
    }

    #[test]
    fn it_is_due_after_its_interval_and_when_asked() {
        let (mut one, now) = (One::default(), Instant::now());
        assert!(one.is_due(false, MINUTE, now) && !one.is_due(true, MINUTE, now));
        assert!(one.begin(now).is_none() && !one.is_due(false, MINUTE, now + MINUTE));
        ended(&mut one, None, Ok(None));
        assert!(!one.is_due(false, MINUTE, now) && one.is_due(false, MINUTE, now + MINUTE));
        let number = one.ask(latest(), true);
        assert!(one.is_due(true, MINUTE, now), "whoever asks is heard, paused or not");
        assert!(one.begin(now).is_some_and(|asked| asked.number == number && asked.overwrite));
        ended(&mut one, Some(number), Err("no".into()));
        assert_eq!(one.look().answered, Some((number, Err("no".into()))));
    }

    #[test]
    fn what_fails_waits_longer_than_its_interval_until_somebody_resumes() {
        let (mut one, now) = (One::default(), Instant::now());
        one.begin(now);
        let error = StandbyError::Gone;
        let (pause, news) = one.failed(&error);
        assert!(news && pause >= MINUTE);
        one.failed(&error);
        one.ended();
        assert!(!one.is_due(false, Duration::from_secs(10), now + MINUTE));
        one.take_up();
        assert!(one.is_due(false, MINUTE, now));
    }

    #[test]
    fn a_file_that_is_in_use_for_a_moment_is_no_failure() {
        let locked = || {
            let path = PathBuf::from("web-os.raw");
            let source = ImageError::File(FileError::Locked { path: path.clone() });
            Err(StandbyError::Image { path, source: Box::new(source) })
        };
        let mut one = One::default();
        for _ in 0..LOCKED_TRIES {
            assert!(one.is_to_be_waited_for(&locked(), &None));
            one.wait_a_little(None);
        }
        assert!(!one.is_to_be_waited_for(&locked(), &None), "by now it is said");
        let asked = Some(Asked { number: 1, to: latest(), overwrite: false });
        assert!(!One::default().is_to_be_waited_for(&locked(), &asked), "who asks is told");
    }

    #[test]
    fn what_is_broken_off_ends_and_holds_nothing() {
        let mut one = One::default();
        assert!(!one.cancel());
        one.ask(latest(), false);
        one.begin(Instant::now());
        assert!(one.cancel() && one.cancelled().is_some());
        one.ended();
        assert!(!one.cancel() && one.held().is_none());
    }
}
