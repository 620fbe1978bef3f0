//! Time-outs: a heap of deadlines per core; the nearest one bounds how long the core sleeps in the kernel.

use super::local::{self, Local};
use std::collections::BTreeMap;
use std::future::Future;
use std::marker::PhantomData;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

/// When a timer fires; the number keeps timers of one instant apart.
type Deadline = (Instant, u64);

/// The timers of one core.
#[derive(Default)]
pub(super) struct Timers {
    waiting: BTreeMap<Deadline, Waker>,
    made: u64,
}

impl Timers {
    /// Moves the wakers of what is due to `woken`.
    pub(super) fn fire(&mut self, woken: &mut Vec<Waker>) {
        if self.waiting.is_empty() {
            return;
        }
        let now = Instant::now();
        while let Some(first) = self.waiting.first_entry() {
            if first.key().0 > now {
                return;
            }
            woken.push(first.remove());
        }
    }

    /// Time until the next timer is due.
    pub(super) fn next(&self) -> Option<Duration> {
        let ((due, _), _) = self.waiting.first_key_value()?;
        Some(due.saturating_duration_since(Instant::now()))
    }
}

/// Completes when its time has come.
#[must_use = "a future does nothing unless it is awaited"]
pub struct Sleep {
    due: Option<Instant>,
    /// Set once the timer stands in the heap of a core.
    number: Option<u64>,
    /// The heap is that of one thread.
    not_send: PhantomData<Rc<Local>>,
}

/// Waits for `duration`, on the current core. A duration past the end of the clock never ends.
pub fn sleep(duration: Duration) -> Sleep {
    Sleep { due: Instant::now().checked_add(duration), number: None, not_send: PhantomData }
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let Some(due) = self.due else { return Poll::Pending };
        if Instant::now() >= due {
            return Poll::Ready(());
        }
        local::require("sleeping", |local| {
            let mut timers = local.timers.borrow_mut();
            let number = *self.number.get_or_insert_with(|| {
                timers.made += 1;
                timers.made
            });
            timers.waiting.insert((due, number), context.waker().clone());
        });
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        let (Some(due), Some(number)) = (self.due, self.number) else { return };
        let waker = local::with_current(|current| {
            current.and_then(|local| local.timers.borrow_mut().waiting.remove(&(due, number)))
        });
        // Outside the borrow: dropping a waker may run anything.
        drop(waker);
    }
}

/// The time was over first.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("timed out")]
pub struct Elapsed;

/// Runs `future` for at most `duration`; then drops it, which cancels what it had in flight.
pub async fn timeout<T>(duration: Duration, future: impl Future<Output = T>) -> Result<T, Elapsed> {
    let mut future = pin!(future);
    let mut limit = pin!(sleep(duration));
    std::future::poll_fn(|context| {
        if let Poll::Ready(value) = future.as_mut().poll(context) {
            return Poll::Ready(Ok(value));
        }
        limit.as_mut().poll(context).map(|()| Err(Elapsed))
    })
    .await
}
