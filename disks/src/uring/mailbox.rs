//! What other threads leave for a core: jobs to run, tasks to wake, operations to give up.
//!
//! ```text
//!   other thread                         core
//!   ────────────                         ────
//!   lock, push, unlock                   asleep = true
//!   filled = true                        filled?  ── yes ──▶ asleep = false, drain
//!   asleep.swap(false)? ── yes ──▶ write eventfd  ── no ───▶ sleep in io_uring_enter (an eventfd read is in flight)
//! ```
//!
//! **Invariant:** `filled` and `asleep` are sequentially consistent, so of a sender that pushes and a core that falls
//! asleep at the same moment at least one sees the other: no wake-up is lost.

use super::executor::TaskWake;
use super::ring::{Key, Token};
use parking_lot::Mutex;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// A closure to be run on the core, outside any task.
pub(super) type Job = Box<dyn FnOnce() + Send>;

/// What has come in since the core last looked.
#[derive(Default)]
pub(super) struct Mail {
    pub(super) jobs: Vec<Job>,
    pub(super) woken: Vec<Arc<TaskWake>>,
    /// Operations whose futures were dropped on another thread.
    pub(super) orphans: Vec<(Key, Option<Token>)>,
    pub(super) stop: bool,
}

struct Contents {
    mail: Mail,
    closed: bool,
}

/// The mailbox of one core.
pub(super) struct Mailbox {
    contents: Mutex<Contents>,
    filled: AtomicBool,
    asleep: AtomicBool,
    bell: OwnedFd,
}

impl Mailbox {
    /// An empty mailbox; `bell` is a blocking eventfd which the core reads while it sleeps.
    pub(super) fn new(bell: OwnedFd) -> Self {
        Self {
            contents: Mutex::new(Contents { mail: Mail::default(), closed: false }),
            filled: AtomicBool::new(false),
            asleep: AtomicBool::new(false),
            bell,
        }
    }

    /// Leaves a job. Given back, not run, when the core has stopped.
    pub(super) fn post(&self, job: Job) -> Result<(), Job> {
        let mut job = Some(job);
        self.put(|mail| mail.jobs.extend(job.take()));
        job.map_or(Ok(()), Err)
    }

    /// Wakes a task of this core from another thread.
    pub(super) fn wake(&self, task: Arc<TaskWake>) {
        self.put(|mail| mail.woken.push(task));
    }

    /// Gives up an operation whose future was dropped on another thread.
    pub(super) fn orphan(&self, key: Key, token: Option<Token>) {
        self.put(|mail| mail.orphans.push((key, token)));
    }

    /// Asks the core to stop.
    pub(super) fn stop(&self) {
        self.put(|mail| mail.stop = true);
    }

    fn put(&self, into: impl FnOnce(&mut Mail)) {
        {
            let mut contents = self.contents.lock();
            if contents.closed {
                return;
            }
            into(&mut contents.mail);
        }
        self.filled.store(true, Ordering::SeqCst);
        if self.asleep.swap(false, Ordering::SeqCst) {
            // The counter of an eventfd cannot overflow from ones; any other failure would lose the wake-up.
            rustix::io::retry_on_intr(|| rustix::io::write(&self.bell, &1u64.to_le_bytes()))
                .expect("an eventfd takes a one");
        }
    }

    /// Everything that has come in, if anything has.
    pub(super) fn drain(&self) -> Option<Mail> {
        if !self.filled.load(Ordering::SeqCst) {
            return None;
        }
        self.filled.store(false, Ordering::SeqCst);
        Some(std::mem::take(&mut self.contents.lock().mail))
    }

    /// Announces that the core is about to sleep. `false`: something came in meanwhile, do not.
    pub(super) fn fall_asleep(&self) -> bool {
        self.asleep.store(true, Ordering::SeqCst);
        if self.filled.load(Ordering::SeqCst) {
            self.asleep.store(false, Ordering::SeqCst);
            return false;
        }
        true
    }

    /// The core is awake again; senders need not ring.
    pub(super) fn awake(&self) {
        self.asleep.store(false, Ordering::SeqCst);
    }

    /// Takes what is left and refuses everything from now on.
    pub(super) fn close(&self) -> Mail {
        let mut contents = self.contents.lock();
        contents.closed = true;
        std::mem::take(&mut contents.mail)
    }
}
