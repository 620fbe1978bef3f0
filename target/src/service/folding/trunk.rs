//! What is known of the history of one trunk between two folds: whether another one is due, and what the last ones came to.

use super::forecast::{Growth, Shrinking};
use super::pacing::AtWork;
use landfall_retention::ids::Sequence;
use landfall_retention::{FoldReport, GroupSpace, Holder, WantedStart};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The pause before the second try of what failed; doubled up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_secs(60);
const LONGEST_PAUSE: Duration = Duration::from_secs(3600);
/// The pause after something that came in between.
const SHORT_PAUSE: Duration = Duration::from_secs(5);
/// A turn that lasts longer is that of a disk which does not answer.
const STALLED_AFTER: Duration = Duration::from_secs(60);

/// Something that failed and is tried again.
#[derive(Clone, Debug, Default)]
pub(in crate::service) struct Failing {
    /// Why, as it was logged last; none while all is well.
    text: Option<String>,
    times: u32,
    not_before: Option<Instant>,
}

impl Failing {
    /// Why it fails, if it does.
    pub(in crate::service) fn why(&self) -> Option<&str> {
        self.text.as_deref()
    }

    /// Whether it may be tried at `now`.
    pub(in crate::service) fn may_try(&self, now: Instant) -> bool {
        self.not_before.is_none_or(|at| at <= now)
    }

    /// It failed once more: the pause until the next try, and whether that is news.
    pub(in crate::service) fn failed(&mut self, text: String, now: Instant) -> (Duration, bool) {
        let pause = FIRST_PAUSE.saturating_mul(1 << self.times.min(10)).min(LONGEST_PAUSE);
        self.times = self.times.saturating_add(1);
        self.not_before = now.checked_add(pause);
        let news = self.text.as_ref() != Some(&text);
        self.text = Some(text);
        (pause, news)
    }

    /// Something came in between that the next look knows of: not at once again, and no failure.
    pub(in crate::service) fn overtaken(&mut self, now: Instant) {
        self.not_before = now.checked_add(SHORT_PAUSE);
    }

    /// It went well; whether that is news.
    pub(in crate::service) fn went_well(&mut self) -> bool {
        std::mem::take(self).text.is_some()
    }
}

/// One trunk.
#[derive(Default)]
pub(super) struct Trunk {
    /// What was found by the last look.
    pub(super) found: Option<WantedStart>,
    /// What it takes, and what its quota wants.
    pub(super) space: Option<GroupSpace>,
    /// Why nothing may be added to it, as it was logged last.
    pub(super) held: Option<String>,
    /// How its history grows.
    pub(super) growth: Growth,
    /// What is about to shrink it, as it was logged last.
    pub(super) shrinks: Option<Shrinking>,
    /// A fold that is under way.
    pub(super) running: Option<Arc<AtWork>>,
    pub(super) failing: Failing,
    /// When the last one began; for fairness.
    pub(super) begun: Option<Instant>,
    /// What the last one that went well took.
    pub(super) last: Option<(FoldReport, Duration)>,
    /// Holders that were logged.
    pub(super) logged: Vec<Holder>,
}

impl Trunk {
    /// Where a fold is to go to, if one is due: `unfinished` is one that was cut off.
    pub(super) fn due(
        &self,
        unfinished: Option<Sequence>,
        every: Duration,
        now: Instant,
    ) -> Option<Sequence> {
        if self.running.is_some() || !self.failing.may_try(now) {
            return None;
        }
        let new = self.found.as_ref().and_then(|found| worth_it(found, every));
        // Where the quota is used up, every bit is worth it.
        let pressed = self.pressed().max(self.found.as_ref().and_then(|found| {
            let reachable = found.reachable?.sequence;
            self.space.as_ref().is_some_and(GroupSpace::is_short).then_some(reachable)
        }));
        let new = new.max(pressed);
        // What the old one cannot do, because a record of it is lost, a newer one may.
        if unfinished.is_some() && self.failing.why().is_some() {
            let further = self.found.as_ref().and_then(|found| found.reachable);
            return further.map(|further| further.sequence).max(unfinished);
        }
        new.max(unfinished)
    }

    /// Where its quota wants history to begin.
    pub(super) fn pressed(&self) -> Option<Sequence> {
        self.space.as_ref()?.begin_at
    }

    /// Whether the fold under way waits for a disk that does not answer.
    pub(super) fn is_stalled(&self) -> bool {
        let working = self.running.as_ref().and_then(|at_work| at_work.for_how_long());
        working.is_some_and(|time| time > STALLED_AFTER)
    }
}

/// Where history can move to, if that is far enough. How far is read off the commit times, so a restart forgets nothing.
fn worth_it(found: &WantedStart, every: Duration) -> Option<Sequence> {
    let reachable = found.reachable?;
    let far = found
        .start
        .as_ref()
        .is_none_or(|start| reachable.commit_time.since(start.commit_time) >= every);
    far.then_some(reachable.sequence)
}

#[cfg(test)]
mod tests {
    use super::*;
    use landfall_retention::StartMoment;
    use landfall_retention::ids::LineId;
    use landfall_retention::manifest::history::HistoryStart;
    use landfall_retention::name::Name;
    use landfall_retention::time::Timestamp;

    const HOUR: Duration = Duration::from_secs(3600);

    fn minute(at: u64) -> Timestamp {
        Timestamp::from_nanoseconds(at * 60_000_000_000)
    }

    /// History begins at minute `start` and may begin at `reachable`; sequences are minutes.
    fn trunk(start: Option<u64>, reachable: Option<u64>) -> Trunk {
        let moment = |at: u64| StartMoment { sequence: Sequence::new(at), commit_time: minute(at) };
        let start = start.map(|at| HistoryStart {
            sequence: Sequence::new(at),
            commit_time: minute(at),
            source_time: Timestamp::default(),
            kind: None,
            label: None,
        });
        let found = WantedStart {
            machine: Name::parse("web").expect("a name"),
            line: LineId::new(1),
            start,
            wanted: moment(1000),
            reachable: reachable.map(moment),
            holders: Vec::new(),
        };
        Trunk { found: Some(found), ..Trunk::default() }
    }

    #[test]
    fn a_fold_is_due_when_history_can_move_far_enough() {
        let now = Instant::now();
        let due = |trunk: Trunk, unfinished: Option<u64>| {
            let unfinished = unfinished.map(Sequence::new);
            trunk.due(unfinished, HOUR, now).map(Sequence::number)
        };
        assert_eq!(due(trunk(Some(10), Some(69)), None), None);
        assert_eq!(due(trunk(Some(10), Some(70)), None), Some(70));
        assert_eq!(due(trunk(None, Some(2)), None), Some(2), "the first one gives most");
        assert_eq!(due(trunk(Some(10), None), None), None);
        // One that was cut off is ended at once, or goes on to where the next one would.
        assert_eq!(due(trunk(Some(10), Some(20)), Some(10)), Some(10));
        assert_eq!(due(trunk(Some(10), Some(99)), Some(10)), Some(99));
        assert_eq!(due(Trunk::default(), Some(10)), Some(10));
        let mut running = trunk(Some(10), Some(99));
        running.running = Some(Arc::default());
        assert_eq!(due(running, Some(10)), None);
    }

    #[test]
    fn what_fails_is_tried_again_later_and_later_and_said_once() {
        let (now, mut failing) = (Instant::now(), Failing::default());
        assert!(failing.may_try(now));
        assert_eq!(failing.failed("x".into(), now), (FIRST_PAUSE, true));
        assert!(!failing.may_try(now) && failing.may_try(now + FIRST_PAUSE));
        assert_eq!(failing.failed("x".into(), now), (FIRST_PAUSE * 2, false));
        assert_eq!(failing.failed("y".into(), now), (FIRST_PAUSE * 4, true));
        for _ in 0..100 {
            failing.failed("y".into(), now);
        }
        assert_eq!(failing.failed("y".into(), now), (LONGEST_PAUSE, false));
        assert!(failing.went_well() && failing.may_try(now) && failing.why().is_none());
        assert!(!failing.went_well());
        assert_eq!(failing.failed("x".into(), now).0, FIRST_PAUSE);
    }

    #[test]
    fn what_a_lost_record_forbids_is_tried_with_a_later_point() {
        let now = Instant::now();
        let mut stuck = trunk(Some(10), Some(20));
        stuck.failing.failed("lost".into(), now);
        assert_eq!(stuck.due(Some(Sequence::new(10)), HOUR, now), None);
        let later = stuck.due(Some(Sequence::new(10)), HOUR, now + FIRST_PAUSE);
        assert_eq!(later, Some(Sequence::new(20)));
    }
}
