//! Operations that change a file and whose futures were dropped: later ones on the same bytes wait for them.
//!
//! The kernel may finish a write that nobody waits for any more. Were a later write to the same bytes to start meanwhile,
//! the older one could land last.

use super::op::{Held, Op};
use super::ring::Token;
use crate::block::ByteRange;
use parking_lot::Mutex;
use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use tokio::sync::Notify;

/// The abandoned operations of one file.
#[derive(Default)]
pub(super) struct Abandoned {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    /// Length of `ranges`, so that the usual case takes no lock.
    count: AtomicUsize,
    ranges: Mutex<Vec<ByteRange>>,
    over: Notify,
}

/// One range; dropped when its operation is over.
struct Entry {
    shared: Arc<Shared>,
    range: ByteRange,
}

impl Abandoned {
    /// Waits until no abandoned operation touches `range`.
    pub(super) async fn wait(&self, range: ByteRange) {
        while self.shared.count.load(Ordering::Acquire) > 0 {
            let mut over = pin!(self.shared.over.notified());
            // Registered before the look, so that an end in between is not missed.
            over.as_mut().enable();
            if !self.shared.ranges.lock().iter().any(|other| other.overlaps(range)) {
                return;
            }
            over.await;
        }
    }

    /// Awaits `op`; dropped before that, it is entered here until the kernel is done.
    pub(super) fn guard(&self, op: Op, range: ByteRange) -> Guarded<'_> {
        Guarded { op: Some(op), abandoned: self, range }
    }

    /// An entry for `range` that lasts until the token is dropped.
    pub(super) fn token(&self, range: ByteRange) -> Token {
        self.shared.ranges.lock().push(range);
        self.shared.count.fetch_add(1, Ordering::Release);
        Box::new(Entry { shared: Arc::clone(&self.shared), range })
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        {
            let mut ranges = self.shared.ranges.lock();
            let place = ranges.iter().position(|range| *range == self.range);
            ranges.swap_remove(place.expect("an entry stands in the list until its drop"));
        }
        self.shared.count.fetch_sub(1, Ordering::Release);
        self.shared.over.notify_waiters();
    }
}

/// An operation that is not forgotten when its future is dropped.
pub(super) struct Guarded<'a> {
    op: Option<Op>,
    abandoned: &'a Abandoned,
    range: ByteRange,
}

impl Future for Guarded<'_> {
    type Output = (io::Result<usize>, Held);

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let op = self.op.as_mut().expect("a future is not polled after it has completed");
        let polled = Pin::new(op).poll(context);
        if polled.is_ready() {
            self.op = None;
        }
        polled
    }
}

impl Drop for Guarded<'_> {
    fn drop(&mut self) {
        if let Some(op) = self.op.take() {
            op.abandon(self.abandoned.token(self.range));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::ByteOffset;
    use crate::uring::buffer::Buffer;
    use crate::uring::descriptor::Descriptor;
    use crate::uring::{Engine, EngineSettings, timeout};
    use futures_util::poll;
    use std::os::unix::net::UnixStream;
    use std::time::Duration;

    fn range(start: u64, end: u64) -> ByteRange {
        ByteRange::new(ByteOffset::new(start), ByteOffset::new(end)).expect("ordered")
    }

    #[test]
    fn only_what_overlaps_waits_and_only_until_the_end() {
        let abandoned = Abandoned::default();
        let mut context = Context::from_waker(std::task::Waker::noop());
        let token = abandoned.token(range(4, 8));
        let mut apart = pin!(abandoned.wait(range(0, 4)));
        assert!(apart.as_mut().poll(&mut context).is_ready());
        let mut over = pin!(abandoned.wait(range(7, 9)));
        assert!(over.as_mut().poll(&mut context).is_pending());
        drop(token);
        assert!(over.as_mut().poll(&mut context).is_ready());
    }

    #[test]
    fn an_operation_is_entered_when_it_is_dropped_and_leaves_when_it_is_over() {
        let settings = EngineSettings { cores: 1, ring_entries: 8, blocking_threads: 1 };
        let engine = Engine::start(settings).expect("tests run on a kernel with io_uring");
        let test = async || {
            let (ours, _theirs) = UnixStream::pair().expect("a pair");
            let socket = Descriptor::new(ours.into());
            let abandoned = Abandoned::default();
            let op = Op::receive(&socket, Buffer::zeroed(8), 0..8);
            let mut guarded = abandoned.guard(op, range(0, 8));
            assert!(poll!(&mut guarded).is_pending());
            assert_eq!(abandoned.shared.count.load(Ordering::SeqCst), 0);
            drop(guarded);
            assert_eq!(abandoned.shared.count.load(Ordering::SeqCst), 1);
            // Its cancellation comes back from the kernel.
            let waited = timeout(Duration::from_secs(10), abandoned.wait(range(0, 1))).await;
            assert_eq!(waited, Ok(()));
            assert_eq!(abandoned.shared.count.load(Ordering::SeqCst), 0);
        };
        engine.cores()[0].block_on(test).expect("running");
    }
}
