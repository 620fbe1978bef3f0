//! The handle of an I/O core: how other threads get work onto it.

use super::local;
use super::mailbox::Mailbox;
use futures_util::FutureExt;
use std::any::Any;
use std::future::Future;
use std::panic::{AssertUnwindSafe, resume_unwind};
use std::sync::Arc;
use tokio::sync::oneshot;

/// The core was stopped before the work was done.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the I/O core has stopped")]
pub struct CoreStopped;

/// One I/O core. Cheap to clone; usable from every thread.
#[derive(Clone)]
pub struct Core {
    mailbox: Arc<Mailbox>,
}

/// What a run leaves: its value, or the panic that ended it.
type Outcome<T> = Result<T, Box<dyn Any + Send>>;

impl Core {
    pub(super) fn new(mailbox: Arc<Mailbox>) -> Self {
        Self { mailbox }
    }

    /// Makes a future on the core and runs it there. Without effect on a core that has stopped.
    pub fn spawn<F, Fut>(&self, make: F)
    where
        F: FnOnce() -> Fut + Send + 'static,
        Fut: Future<Output = ()> + 'static,
    {
        // `make` runs inside the task, so that a panic of it is the task's.
        let job = Box::new(move || spawn(async move { make().await }));
        if self.mailbox.post(job).is_err() {
            tracing::debug!("a task came to an I/O core that has stopped, and was dropped");
        }
    }

    /// Runs a future on the core and gives its value, or resumes its panic. Awaitable on any thread and executor.
    ///
    /// Dropping the returned future does not stop what runs on the core.
    pub async fn run<F, Fut, T>(&self, make: F) -> Result<T, CoreStopped>
    where
        F: FnOnce() -> Fut + Send + 'static,
        Fut: Future<Output = T> + 'static,
        T: Send + 'static,
    {
        outcome(self.start(make).await.map_err(|_| CoreStopped))
    }

    /// As [`Core::run`], for ordinary threads. Panics on an I/O core, which would wait for itself.
    pub fn block_on<F, Fut, T>(&self, make: F) -> Result<T, CoreStopped>
    where
        F: FnOnce() -> Fut + Send + 'static,
        Fut: Future<Output = T> + 'static,
        T: Send + 'static,
    {
        assert!(!local::is_core(), "block_on would stop the I/O core it is called on");
        outcome(self.start(make).blocking_recv().map_err(|_| CoreStopped))
    }

    fn start<F, Fut, T>(&self, make: F) -> oneshot::Receiver<Outcome<T>>
    where
        F: FnOnce() -> Fut + Send + 'static,
        Fut: Future<Output = T> + 'static,
        T: Send + 'static,
    {
        let (done, result) = oneshot::channel();
        self.spawn(move || async move {
            let value = AssertUnwindSafe(async move { make().await }).catch_unwind().await;
            // Nobody may be waiting any more.
            let _ = done.send(value);
        });
        result
    }

    pub(super) fn mailbox(&self) -> &Arc<Mailbox> {
        &self.mailbox
    }
}

impl std::fmt::Debug for Core {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Core({:p})", Arc::as_ptr(&self.mailbox))
    }
}

fn outcome<T>(received: Result<Outcome<T>, CoreStopped>) -> Result<T, CoreStopped> {
    match received? {
        Ok(value) => Ok(value),
        Err(panic) => resume_unwind(panic),
    }
}

/// Runs `future` as a task of the current core; panics on other threads.
pub fn spawn<Fut: Future<Output = ()> + 'static>(future: Fut) {
    local::require("spawning a task", |local| {
        local.executor.spawn(Box::pin(future), &local.mailbox);
    });
}
