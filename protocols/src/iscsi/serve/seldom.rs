//! Lines of the log that others can cause are written now and then: the first at once, those that
//! come soon after it are counted.

use parking_lot::Mutex;
use std::time::{Duration, Instant};

/// Least time between two lines of a kind.
const PAUSE: Duration = Duration::from_secs(10);

/// Lines of one kind.
#[derive(Default)]
pub(super) struct Seldom(Mutex<Lines>);

#[derive(Default)]
struct Lines {
    last: Option<Instant>,
    left_out: u64,
}

impl Seldom {
    /// If a line may be written `now`, how many were left out before it.
    pub(super) fn left_out_before(&self, now: Instant) -> Option<u64> {
        let mut lines = self.0.lock();
        if lines.last.is_some_and(|last| now.duration_since(last) < PAUSE) {
            lines.left_out += 1;
            return None;
        }
        lines.last = Some(now);
        Some(std::mem::take(&mut lines.left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_too_often_is_counted() {
        let (seldom, begun) = (Seldom::default(), Instant::now());
        assert_eq!(seldom.left_out_before(begun), Some(0));
        for _ in 0..3 {
            assert_eq!(seldom.left_out_before(begun + PAUSE / 2), None);
        }
        assert_eq!(seldom.left_out_before(begun + PAUSE), Some(3));
        assert_eq!(seldom.left_out_before(begun + PAUSE * 2), Some(0));
    }
}
