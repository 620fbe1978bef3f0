//! How fast history is folded: as fast as the disks go while nobody writes, else in turns with rests between them that keep
//! acknowledgements within a tenth of what they take without.
//!
//! ```text
//!   fold a   ▐██▌            ▐██▌              a turn: the work of one window of a few MiB
//!   fold b         ▐██▌            ▐██▌        one turn at a time, in the order they were asked for
//!   lanes    ····  ····  ····                  groups take so long during turns, and so long during rests
//! ```
//!
//! Groups of the journal are timed during turns and during rests. If they take r times as long during turns, folding for a
//! share s of the time makes them slower by s (r - 1) on average; the rests are made long enough for that to be what is
//! allowed. **Invariants:** whoever does not come back from his turn holds the others up once, for [`LONGEST_TURN`]; however
//! busy the lanes are, a fold goes on.

use futures_util::future::LocalBoxFuture;
use landfall_disks::uring::{sleep, timeout};
use landfall_retention::{LaneLoad, Pace};
use parking_lot::Mutex;
use std::cell::Cell;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Notify;

/// After so long the next one has its turn, whatever became of the one before.
const LONGEST_TURN: Duration = Duration::from_secs(2);
/// A rest is never longer.
const LONGEST_REST: Duration = Duration::from_secs(5);
/// Share of the time that is folded however much that slows.
const LEAST_SHARE: f64 = 0.02;
/// Share that is folded at most while somebody writes: without rests there is nothing to compare with.
const MOST_SHARE: f64 = 0.8;
/// Share while too little is known.
const FIRST_SHARE: f64 = 0.2;
/// Groups that must have been timed before their mean means something.
const ENOUGH_GROUPS: f64 = 8.0;
/// What an older measurement still weighs when one more has come.
const KEPT_WEIGHT: f64 = 0.9;

/// Limits of folding.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) struct PaceLimits {
    /// Most bytes that are folded in a second; none is as fast as the disks go.
    pub(crate) bytes_per_second: Option<u64>,
    /// By which part acknowledgements may get slower on average: 0.1 is a tenth.
    pub(crate) slowdown: f64,
}

/// What groups took lately, turns apart from rests.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
struct Balance {
    turns: Timed,
    rests: Timed,
}

/// Groups and their time, older ones weighing less.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
struct Timed {
    groups: f64,
    seconds: f64,
}

impl Timed {
    fn add(&mut self, load: LaneLoad) {
        #[expect(clippy::cast_precision_loss, reason = "a mean of some thousand")]
        let groups = load.groups as f64;
        self.groups = self.groups * KEPT_WEIGHT + groups;
        self.seconds = self.seconds * KEPT_WEIGHT + load.busy.as_secs_f64();
    }

    fn mean(&self) -> f64 {
        self.seconds / self.groups
    }
}

impl Balance {
    /// The share of the time that may be folded.
    fn share(&self, slowdown: f64) -> f64 {
        if self.turns.groups + self.rests.groups < 1.0 {
            return 1.0;
        }
        if self.turns.groups.min(self.rests.groups) < ENOUGH_GROUPS {
            return FIRST_SHARE;
        }
        let slower = self.turns.mean() / self.rests.mean() - 1.0;
        if slower > 0.0 { (slowdown / slower).clamp(LEAST_SHARE, MOST_SHARE) } else { MOST_SHARE }
    }

    /// The rest after a turn of this length.
    fn rest(&self, worked: Duration, bytes: u64, limits: &PaceLimits) -> Duration {
        let for_writers = worked.mul_f64(1.0 / self.share(limits.slowdown) - 1.0);
        let for_rate = limits.bytes_per_second.map_or(Duration::ZERO, |rate| {
            let nanoseconds = u128::from(bytes) * 1_000_000_000 / u128::from(rate.max(1));
            let whole = Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX));
            whole.saturating_sub(worked)
        });
        for_writers.min(LONGEST_REST).max(for_rate)
    }
}

/// Lets folds have their turns.
pub(crate) struct Governor {
    limits: PaceLimits,
    load: Box<dyn Fn() -> LaneLoad + Send + Sync>,
    /// Held by whoever is next.
    queue: tokio::sync::Mutex<()>,
    ended: Notify,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    balance: Balance,
    turn: Option<Turn>,
    turns: u64,
    /// When the last turn ended, and what the lanes had done then.
    rest: Option<(Instant, LaneLoad)>,
    /// No turn begins before.
    free_at: Option<Instant>,
}

#[derive(Clone, Copy)]
struct Turn {
    number: u64,
    since: Instant,
    load: LaneLoad,
    bytes: u64,
}

fn between(then: LaneLoad, now: LaneLoad) -> LaneLoad {
    LaneLoad {
        groups: now.groups.saturating_sub(then.groups),
        busy: now.busy.saturating_sub(then.busy),
    }
}

impl Governor {
    /// One for all folds; `load` says what the lanes have done.
    pub(crate) fn new(
        limits: PaceLimits,
        load: impl Fn() -> LaneLoad + Send + Sync + 'static,
    ) -> Self {
        Self {
            limits,
            load: Box::new(load),
            queue: tokio::sync::Mutex::default(),
            ended: Notify::new(),
            state: Mutex::default(),
        }
    }

    /// The share of the time that is folded at present.
    pub(crate) fn share(&self) -> f64 {
        self.state.lock().balance.share(self.limits.slowdown)
    }

    /// Waits for a turn; gives its number.
    async fn turn(&self, bytes: u64) -> u64 {
        let _next = self.queue.lock().await;
        loop {
            let left = {
                let mut state = self.state.lock();
                let left = state.turn.map(|turn| LONGEST_TURN.saturating_sub(turn.since.elapsed()));
                if left == Some(Duration::ZERO) {
                    // It says nothing about turns that end.
                    state.turn = None;
                    state.rest = None;
                }
                left.filter(|left| *left > Duration::ZERO)
            };
            let Some(left) = left else { break };
            // Either way the state is looked at again.
            let _ = timeout(left, self.ended.notified()).await;
        }
        let free_at = self.state.lock().free_at;
        if let Some(rest) = free_at.and_then(|at| at.checked_duration_since(Instant::now())) {
            sleep(rest).await;
        }
        let load = (self.load)();
        let mut state = self.state.lock();
        if let Some((_, then)) = state.rest.take() {
            state.balance.rests.add(between(then, load));
        }
        state.turns += 1;
        let number = state.turns;
        state.turn = Some(Turn { number, since: Instant::now(), load, bytes });
        number
    }

    /// A turn ends, unless it was taken for lost.
    fn end(&self, number: u64) {
        let load = (self.load)();
        let mut state = self.state.lock();
        let Some(turn) = state.turn.filter(|turn| turn.number == number) else { return };
        state.turn = None;
        state.balance.turns.add(between(turn.load, load));
        let now = Instant::now();
        let worked = now.duration_since(turn.since);
        state.free_at = now.checked_add(state.balance.rest(worked, turn.bytes, &self.limits));
        state.rest = Some((now, load));
        drop(state);
        self.ended.notify_one();
    }
}

/// Since when somebody has had his turn.
#[derive(Default)]
pub(crate) struct AtWork(Mutex<Option<Instant>>);

impl AtWork {
    /// For how long, if he has it.
    pub(crate) fn for_how_long(&self) -> Option<Duration> {
        self.0.lock().map(|since| since.elapsed())
    }
}

/// The pace of one fold.
pub(crate) struct InTurns {
    governor: Arc<Governor>,
    turn: Cell<Option<u64>>,
    at_work: Arc<AtWork>,
}

impl InTurns {
    /// One more that takes turns; `at_work` says how long the present one lasts.
    pub(crate) fn new(governor: &Arc<Governor>, at_work: &Arc<AtWork>) -> Self {
        Self { governor: Arc::clone(governor), turn: Cell::default(), at_work: Arc::clone(at_work) }
    }

    fn end(&self) {
        *self.at_work.0.lock() = None;
        if let Some(turn) = self.turn.take() {
            self.governor.end(turn);
        }
    }
}

impl Pace for InTurns {
    fn admit<'a>(&'a self, bytes: u64, _: &'a dyn Fn() -> usize) -> LocalBoxFuture<'a, ()> {
        Box::pin(async move {
            self.end();
            self.turn.set(Some(self.governor.turn(bytes).await));
            *self.at_work.0.lock() = Some(Instant::now());
        })
    }
}

impl Drop for InTurns {
    fn drop(&mut self) {
        self.end();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use landfall_disks::uring::{Engine, EngineSettings, spawn};
    use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

    const TENTH: PaceLimits = PaceLimits { bytes_per_second: None, slowdown: 0.1 };

    fn load(groups: u64, milliseconds_each: u64) -> LaneLoad {
        LaneLoad { groups, busy: Duration::from_millis(groups * milliseconds_each) }
    }

    fn balance(turns: LaneLoad, rests: LaneLoad) -> Balance {
        let mut balance = Balance::default();
        (0..50).for_each(|_| {
            balance.turns.add(turns);
            balance.rests.add(rests);
        });
        balance
    }

    #[test]
    fn the_rest_makes_the_average_slower_by_what_is_allowed() {
        let turn = Duration::from_millis(40);
        // Twice as slow: one part of ten may be folded.
        let slow = balance(load(10, 4), load(10, 2));
        let rest = slow.rest(turn, 0, &TENTH);
        assert!(rest.abs_diff(Duration::from_millis(360)) < Duration::from_millis(1), "{rest:?}");
        // No slower, or quicker: rests go on, to have something to compare with.
        let same = balance(load(10, 2), load(10, 2)).rest(turn, 0, &TENTH);
        assert!(same.abs_diff(Duration::from_millis(10)) < Duration::from_millis(1), "{same:?}");
        // However slow it makes them, it goes on.
        let worst = balance(load(10, 1000), load(10, 1)).rest(turn, 0, &TENTH);
        assert!(worst < Duration::from_millis(1961), "{worst:?}");
        // Nobody writes.
        assert_eq!(Balance::default().rest(turn, 4 << 20, &TENTH), Duration::ZERO);
        let mut quiet = slow;
        (0..100).for_each(|_| {
            quiet.turns.add(LaneLoad::default());
            quiet.rests.add(LaneLoad::default());
        });
        assert_eq!(quiet.rest(turn, 0, &TENTH), Duration::ZERO);
    }

    #[test]
    fn a_rate_is_kept_whoever_writes() {
        let limits = PaceLimits { bytes_per_second: Some(1 << 20), ..TENTH };
        let rest = Balance::default().rest(Duration::from_millis(100), 1 << 20, &limits);
        assert_eq!(rest, Duration::from_millis(900));
    }

    #[test]
    fn one_that_never_comes_back_holds_the_others_up_once() {
        let settings = EngineSettings { cores: 1, ..EngineSettings::default() };
        let engine = Engine::start(settings).expect("an engine");
        let governor = Arc::new(Governor::new(TENTH, LaneLoad::default));
        let turns = Arc::new([AtomicU64::new(0), AtomicU64::new(0)]);
        let (own, counted) = (Arc::clone(&governor), Arc::clone(&turns));
        let begun = Instant::now();
        engine.cores()[0]
            .block_on(move || async move {
                let lost = InTurns::new(&own, &Arc::default());
                lost.admit(1, &|| 0).await;
                for number in 0..2 {
                    let (governor, turns) = (Arc::clone(&own), Arc::clone(&counted));
                    spawn(async move {
                        let pace = InTurns::new(&governor, &Arc::default());
                        loop {
                            pace.admit(1, &|| 0).await;
                            turns[number].fetch_add(1, Relaxed);
                            sleep(Duration::from_millis(1)).await;
                        }
                    });
                }
                sleep(LONGEST_TURN + Duration::from_millis(300)).await;
                drop(lost);
            })
            .expect("it runs");
        assert!(begun.elapsed() < LONGEST_TURN * 2, "slower than anything here");
        let [first, second] = [turns[0].load(Relaxed), turns[1].load(Relaxed)];
        assert!(first > 3 && first.abs_diff(second) <= 1, "{first} and {second} turns");
    }
}
