//! The tasks of a service: all of them are told to stop, and whoever stops them waits until none is left.

use futures_util::future::{Either, select};
use std::pin::pin;
use std::sync::Arc;
use tokio::sync::watch;

/// How many tasks there are, and whether they are to stop.
pub(super) struct Tasks {
    stop: watch::Sender<bool>,
    running: Arc<watch::Sender<usize>>,
}

impl Tasks {
    pub(super) fn new() -> Self {
        Self { stop: watch::Sender::new(false), running: Arc::new(watch::Sender::new(0)) }
    }

    /// One more.
    pub(super) fn begin(&self) -> Task {
        self.running.send_modify(|running| *running += 1);
        Task(Arc::clone(&self.running))
    }

    /// Stops all of them and waits until they have ended.
    pub(super) async fn stop(&self) {
        self.stop.send_replace(true);
        // An error would say that the sender is gone, and it is ours.
        let _ = self.running.subscribe().wait_for(|running| *running == 0).await;
    }

    /// What `work` gives, or nothing if all are to stop.
    pub(super) async fn until_stopped<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        let mut stopped = self.stop.subscribe();
        let stops = pin!(stopped.wait_for(|stop| *stop));
        match select(stops, pin!(work)).await {
            Either::Left(_) => None,
            Either::Right((done, _)) => Some(done),
        }
    }
}

/// A task, until it is dropped.
pub(super) struct Task(Arc<watch::Sender<usize>>);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.send_modify(|running| *running -= 1);
    }
}
