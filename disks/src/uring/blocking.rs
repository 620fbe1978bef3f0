//! Threads for calls that block: what io_uring lacks, and long computations that must not hold up a core.

use super::local;
use parking_lot::{Condvar, Mutex};
use std::collections::VecDeque;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::thread::JoinHandle;
use tokio::sync::oneshot;

type Work = Box<dyn FnOnce() + Send>;

#[derive(Default)]
struct Queue {
    work: VecDeque<Work>,
    closed: bool,
}

/// A fixed number of threads and one queue.
#[derive(Default)]
pub(super) struct Pool {
    queue: Mutex<Queue>,
    filled: Condvar,
}

impl Pool {
    /// Starts `threads` threads that run until [`Pool::close`].
    pub(super) fn start(self: &Arc<Self>, threads: usize) -> io::Result<Vec<JoinHandle<()>>> {
        (0..threads)
            .map(|number| {
                let pool = Arc::clone(self);
                let name = format!("blocking-{number}");
                std::thread::Builder::new().name(name).spawn(move || pool.serve())
            })
            .collect()
    }

    fn serve(&self) {
        let mut queue = self.queue.lock();
        loop {
            if let Some(work) = queue.work.pop_front() {
                drop(queue);
                work();
                queue = self.queue.lock();
            } else if queue.closed {
                return;
            } else {
                self.filled.wait(&mut queue);
            }
        }
    }

    fn push(&self, work: Work) {
        self.queue.lock().work.push_back(work);
        self.filled.notify_one();
    }

    /// Lets the threads finish what is queued and end.
    pub(super) fn close(&self) {
        self.queue.lock().closed = true;
        self.filled.notify_all();
    }
}

/// Runs `work` on the blocking pool and gives its result. On a thread without an engine it runs inline.
///
/// Dropping the future does not stop work that has been queued: what it does, it does to its end.
pub async fn offload<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let Some(pool) = local::with_current(|current| current.map(|local| Arc::clone(&local.pool)))
    else {
        return work();
    };
    let (done, result) = oneshot::channel();
    pool.push(Box::new(move || {
        // The receiver may be gone: its task was dropped, and the result with it.
        let _ = done.send(catch_unwind(AssertUnwindSafe(work)));
    }));
    match result.await.expect("queued work is run even while the pool closes") {
        Ok(value) => value,
        Err(panic) => resume_unwind(panic),
    }
}
