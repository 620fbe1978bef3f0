//! The tasks of one core: polled on its thread only, woken from anywhere.
//!
//! A task is in the queue at most once. A poll that panics ends its task, is logged, and leaves the others alone; who
//! waits for the task's result gets the panic ([`Core::run`](super::Core::run)).

use super::local;
use super::mailbox::Mailbox;
use futures_util::future::LocalBoxFuture;
use slab::Slab;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

/// The part of a task that its wakers share.
pub(super) struct TaskWake {
    index: usize,
    queued: AtomicBool,
    mailbox: Arc<Mailbox>,
}

impl Wake for TaskWake {
    fn wake(self: Arc<Self>) {
        if self.queued.swap(true, Ordering::AcqRel) {
            return;
        }
        local::with_current(|current| match current {
            Some(local) if Arc::ptr_eq(&local.mailbox, &self.mailbox) => local.executor.queue(self),
            _ => {
                let mailbox = Arc::clone(&self.mailbox);
                mailbox.wake(self);
            }
        });
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.queued.load(Ordering::Acquire) {
            Arc::clone(self).wake();
        }
    }
}

struct Task {
    /// Absent while the task is being polled.
    future: Option<LocalBoxFuture<'static, ()>>,
    wake: Arc<TaskWake>,
    waker: Waker,
}

/// The tasks of one core and the queue of those that are ready.
pub(super) struct Executor {
    tasks: RefCell<Slab<Task>>,
    ready: RefCell<VecDeque<Arc<TaskWake>>>,
    closing: Cell<bool>,
}

impl Executor {
    pub(super) fn new() -> Self {
        Self {
            tasks: RefCell::new(Slab::new()),
            ready: RefCell::new(VecDeque::new()),
            closing: Cell::new(false),
        }
    }

    /// Makes `future` a task. Dropped at once when the core is stopping.
    pub(super) fn spawn(&self, future: LocalBoxFuture<'static, ()>, mailbox: &Arc<Mailbox>) {
        if self.closing.get() {
            return;
        }
        let wake = {
            let mut tasks = self.tasks.borrow_mut();
            let entry = tasks.vacant_entry();
            let wake = Arc::new(TaskWake {
                index: entry.key(),
                queued: AtomicBool::new(true),
                mailbox: Arc::clone(mailbox),
            });
            let waker = Waker::from(Arc::clone(&wake));
            entry.insert(Task { future: Some(future), wake: Arc::clone(&wake), waker });
            wake
        };
        self.queue(wake);
    }

    /// Queues a task whose `queued` flag the caller has just set.
    pub(super) fn queue(&self, task: Arc<TaskWake>) {
        self.ready.borrow_mut().push_back(task);
    }

    /// Whether a task waits to be polled.
    pub(super) fn has_ready(&self) -> bool {
        !self.ready.borrow().is_empty()
    }

    /// Polls at most `limit` tasks, so that completions are looked at between two rounds however busy tasks are.
    pub(super) fn poll_ready(&self, limit: usize) {
        for _ in 0..limit {
            let Some(wake) = self.ready.borrow_mut().pop_front() else { return };
            self.poll_one(&wake);
        }
    }

    fn poll_one(&self, wake: &Arc<TaskWake>) {
        // Cleared before the poll: a wake-up during it must queue the task again.
        wake.queued.store(false, Ordering::Release);
        let (mut future, waker) = {
            let mut tasks = self.tasks.borrow_mut();
            // A late wake-up of a task that has ended, whose place another may have taken.
            let Some(task) = tasks.get_mut(wake.index) else { return };
            if !Arc::ptr_eq(&task.wake, wake) {
                return;
            }
            let Some(future) = task.future.take() else { return };
            (future, task.waker.clone())
        };
        let mut context = Context::from_waker(&waker);
        let polled = catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(&mut context)));
        if matches!(polled, Ok(Poll::Pending)) {
            if let Some(task) = self.tasks.borrow_mut().get_mut(wake.index) {
                task.future = Some(future);
                return;
            }
        } else {
            self.tasks.borrow_mut().try_remove(wake.index);
        }
        if polled.is_err() {
            tracing::error!("a task panicked and was ended; its core goes on");
        }
        drop_quietly(future);
    }

    /// Drops every task, including those which drops of others make.
    pub(super) fn close(&self) {
        self.closing.set(true);
        loop {
            let tasks = std::mem::take(&mut *self.tasks.borrow_mut());
            self.ready.borrow_mut().clear();
            if tasks.is_empty() {
                return;
            }
            for (_, task) in tasks {
                drop_quietly(task.future);
            }
        }
    }
}

/// Drops what belongs to a task; a panic of its destructors must not take the core with it.
fn drop_quietly<T>(what: T) {
    if catch_unwind(AssertUnwindSafe(|| drop(what))).is_err() {
        tracing::error!("the destructor of a task panicked; its core goes on");
    }
}
