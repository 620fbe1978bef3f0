//! How fast what goes on in the background may go: folds, and the look for segments that nobody needs.
//!
//! Whoever moves bytes asks before each window of a few MiB. When he asks again, or gives up, that window is done.

use futures_util::future::LocalBoxFuture;
use std::time::Duration;

/// How long a fold waits for a busy lane before it looks again.
const BUSY_PAUSE: Duration = Duration::from_millis(2);
/// How often it looks: a lane that is never idle slows a fold down and does not stop it.
const BUSY_LOOKS: u32 = 10;

/// Bounds what work in the background takes from the disks below.
pub trait Pace {
    /// Returns when `bytes` may be moved. `waiting` says how many writes wait for the lane they are of.
    fn admit<'a>(&'a self, bytes: u64, waiting: &'a dyn Fn() -> usize) -> LocalBoxFuture<'a, ()>;
}

/// A rate, and pauses while the lane of the line has work waiting.
pub struct FoldPace<'a> {
    /// Most bytes a second that are written to images; none is as fast as the disks go.
    pub bytes_per_second: Option<u64>,
    /// Waits that long. Retention has no clock of its own.
    pub sleep: &'a (dyn Fn(Duration) -> LocalBoxFuture<'static, ()> + 'a),
}

impl Pace for FoldPace<'_> {
    fn admit<'a>(&'a self, bytes: u64, waiting: &'a dyn Fn() -> usize) -> LocalBoxFuture<'a, ()> {
        Box::pin(async move {
            for _ in 0..BUSY_LOOKS {
                if waiting() == 0 {
                    break;
                }
                (self.sleep)(BUSY_PAUSE).await;
            }
            if let Some(rate) = self.bytes_per_second {
                let nanoseconds = u128::from(bytes) * 1_000_000_000 / u128::from(rate.max(1));
                let pause = u64::try_from(nanoseconds).unwrap_or(u64::MAX);
                (self.sleep)(Duration::from_nanos(pause)).await;
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::{Cell, RefCell};
    use std::rc::Rc;

    #[test]
    fn the_rate_is_kept_and_a_busy_lane_waited_for_but_not_for_ever() {
        let slept = Rc::new(RefCell::new(Vec::new()));
        let sleep = |time: Duration| -> LocalBoxFuture<'static, ()> {
            slept.borrow_mut().push(time);
            Box::pin(std::future::ready(()))
        };
        let pace = FoldPace { bytes_per_second: Some(1 << 20), sleep: &sleep };
        let busy = Cell::new(3_usize);
        let waiting = || busy.replace(busy.get().saturating_sub(1));
        futures_util::FutureExt::now_or_never(pace.admit(512 << 10, &waiting)).expect("ready");
        let half = Duration::from_millis(500);
        assert_eq!(*slept.borrow(), [BUSY_PAUSE, BUSY_PAUSE, BUSY_PAUSE, half]);
        slept.borrow_mut().clear();
        let pace = FoldPace { bytes_per_second: None, ..pace };
        futures_util::FutureExt::now_or_never(pace.admit(1, &|| 1)).expect("ready");
        assert_eq!(slept.borrow().len(), BUSY_LOOKS as usize);
    }
}
