//! What a group may still take of the journal: counted down by its lanes, set anew by whoever looks at its quota.

use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use tokio::sync::Notify;

/// Of one group; all its lines count it down.
pub(crate) struct Allowance {
    left: AtomicU64,
    /// Left bytes at which somebody is to look.
    mark: AtomicU64,
    /// Why nothing is left, for those who are refused.
    why: Mutex<String>,
    bell: Arc<Notify>,
}

impl Allowance {
    /// Nothing yet; `bell` is rung when little is left.
    pub(crate) fn new(bell: Arc<Notify>) -> Self {
        let (left, mark) = (AtomicU64::new(u64::MAX), AtomicU64::new(0));
        Self { left, mark, why: Mutex::default(), bell }
    }

    /// So much is left from now on. `why` is told those who find nothing left.
    pub(crate) fn set(&self, left: u64, mark: u64, why: String) {
        *self.why.lock() = why;
        self.mark.store(mark, Relaxed);
        self.left.store(left, Relaxed);
    }

    /// Why nothing may be taken, if that is so.
    pub(crate) fn refusal(&self) -> Option<String> {
        (self.left.load(Relaxed) == 0).then(|| self.why.lock().clone())
    }

    /// A record of so many bytes was taken.
    pub(crate) fn spend(&self, bytes: u64) {
        let before = self.left.fetch_update(Relaxed, Relaxed, |left| {
            (left != u64::MAX).then(|| left.saturating_sub(bytes))
        });
        // Once for each mark: it is set anew by whoever looks.
        if let Ok(before) = before
            && before.saturating_sub(bytes) <= self.mark.load(Relaxed)
            && before > self.mark.swap(0, Relaxed)
        {
            self.bell.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    #[test]
    fn it_is_counted_down_and_the_bell_rung_once_when_little_is_left() {
        let bell = Arc::new(Notify::new());
        let rung = || bell.notified().now_or_never().is_some();
        let allowance = Allowance::new(Arc::clone(&bell));
        allowance.spend(1 << 40);
        assert!(allowance.refusal().is_none() && !rung(), "nobody counts");
        allowance.set(100, 20, "used up".into());
        allowance.spend(79);
        assert!(!rung());
        allowance.spend(5);
        assert!(rung() && allowance.refusal().is_none());
        allowance.spend(30);
        assert_eq!(allowance.refusal().as_deref(), Some("used up"));
        allowance.set(30, 0, String::new());
        assert!(allowance.refusal().is_none());
        allowance.spend(31);
        assert!(rung() && allowance.refusal().is_some(), "rung when nothing is left, too");
    }
}
