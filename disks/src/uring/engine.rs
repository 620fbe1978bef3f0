//! The engine: its threads, the turn each core goes round in, and the order in which everything stops.
//!
//! Stopping a core: the mailbox is closed, all tasks are dropped (which cancels what they had in flight), the ring waits
//! for the kernel to let go of every buffer, and only then goes the ring itself.

use super::blocking::Pool;
use super::buffer::Buffer;
use super::core::Core;
use super::descriptor::Descriptor;
use super::executor::Executor;
use super::local::{self, Local};
use super::mailbox::Mailbox;
use super::op::Op;
use super::probe::{self, EngineError};
use super::ring::{Ring, Wait};
use super::timer::Timers;
use rustix::event::EventfdFlags;
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

/// Stack of a core. Images stand on images, and each is opened and read inside the one above it.
const STACK_BYTES: usize = 8 << 20;

/// Tasks polled before completions are looked at again.
const POLLS_PER_TURN: usize = 128;

/// How an engine is sized.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EngineSettings {
    /// I/O cores, each a thread with its ring.
    pub cores: usize,
    /// Entries of each submission queue; rounded up to a power of two by the kernel.
    pub ring_entries: u32,
    /// Threads for calls that block, shared by all cores.
    pub blocking_threads: usize,
}

impl Default for EngineSettings {
    fn default() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Self { cores, ring_entries: 512, blocking_threads: 4 }
    }
}

/// The threads of the engine. Dropping it stops them.
pub struct Engine {
    cores: Vec<Core>,
    core_threads: Vec<JoinHandle<()>>,
    pool: Arc<Pool>,
    pool_threads: Vec<JoinHandle<()>>,
}

impl Engine {
    /// Probes the kernel and starts the cores.
    pub fn start(settings: EngineSettings) -> Result<Self, EngineError> {
        if settings.cores == 0 {
            return Err(EngineError::Settings("at least one core is needed"));
        }
        if settings.ring_entries == 0 {
            return Err(EngineError::Settings("a ring needs at least one entry"));
        }
        if settings.blocking_threads == 0 {
            return Err(EngineError::Settings("at least one blocking thread is needed"));
        }
        let pool = Arc::new(Pool::default());
        let mut engine = Self {
            cores: Vec::new(),
            core_threads: Vec::new(),
            pool: Arc::clone(&pool),
            pool_threads: Vec::new(),
        };
        // From here on a return drops `engine`, which stops what was started.
        engine.pool_threads =
            pool.start(settings.blocking_threads).map_err(EngineError::Threads)?;
        for number in 0..settings.cores {
            let (core, thread) = start_core(number, settings.ring_entries, &pool)?;
            engine.cores.push(core);
            engine.core_threads.push(thread);
        }
        Ok(engine)
    }

    /// The cores, in a fixed order.
    pub fn cores(&self) -> &[Core] {
        &self.cores
    }

    /// Drops all tasks, waits for the kernel to finish, and joins the threads.
    pub fn stop(self) {
        drop(self);
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        for core in &self.cores {
            core.mailbox().stop();
        }
        if local::is_core() {
            // A thread cannot join itself. The cores stop all the same, and the pool once its queue is empty.
            tracing::error!(
                "the engine was dropped on one of its own cores; its threads end unattended"
            );
            self.pool.close();
            return;
        }
        for thread in self.core_threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("the thread of an I/O core panicked");
            }
        }
        self.pool.close();
        for thread in self.pool_threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a thread of the blocking pool panicked");
            }
        }
    }
}

fn start_core(
    number: usize,
    entries: u32,
    pool: &Arc<Pool>,
) -> Result<(Core, JoinHandle<()>), EngineError> {
    // Blocking on purpose: io_uring answers a read of a non-blocking descriptor with EAGAIN.
    let bell = rustix::event::eventfd(0, EventfdFlags::CLOEXEC)
        .map_err(|errno| EngineError::Threads(errno.into()))?;
    let read_end = bell.try_clone().map_err(EngineError::Threads)?;
    let mailbox = Arc::new(Mailbox::new(bell));
    let (ready, is_ready) = mpsc::sync_channel(1);
    let thread = {
        let (mailbox, pool) = (Arc::clone(&mailbox), Arc::clone(pool));
        std::thread::Builder::new()
            .name(format!("io-{number}"))
            .stack_size(STACK_BYTES)
            .spawn(move || {
                // The ring is made here: it belongs to the thread that submits to it.
                let ring = match probe::open_ring(entries) {
                    Ok(io) => Ring::new(io),
                    Err(error) => {
                        // `start` waits for this answer.
                        let _ = ready.send(Err(error));
                        return;
                    }
                };
                let _ = ready.send(Ok(()));
                serve(ring, mailbox, pool, Descriptor::new(read_end));
            })
            .map_err(EngineError::Threads)?
    };
    let started = is_ready
        .recv()
        .unwrap_or(Err(EngineError::Settings("the thread of a core ended at its start")));
    match started {
        Ok(()) => Ok((Core::new(mailbox), thread)),
        Err(error) => {
            // It has nothing left to do; a panic would have been reported above.
            let _ = thread.join();
            Err(error)
        }
    }
}

/// The life of a core's thread.
fn serve(ring: Ring, mailbox: Arc<Mailbox>, pool: Arc<Pool>, bell: Descriptor) {
    let local = Rc::new(Local {
        executor: Executor::new(),
        ring: RefCell::new(ring),
        timers: RefCell::new(Timers::default()),
        mailbox,
        pool,
    });
    local::set(Some(Rc::clone(&local)));
    local.executor.spawn(Box::pin(listen(bell)), &local.mailbox);
    while take_mail(&local) {
        local.executor.poll_ready(POLLS_PER_TURN);
        turn(&local);
    }
    // Jobs are dropped unrun: who waits for one is told that the core has stopped.
    drop(local.mailbox.close());
    local.executor.close();
    drain(&local);
    local::set(None);
}

/// Waits until the kernel has let go of all memory.
fn drain(local: &Local) {
    let (mut woken, mut freed) = (Vec::new(), Vec::new());
    local.ring.borrow_mut().orphan_all(&mut freed);
    let mut turns = 0u32;
    while local.ring.borrow().in_kernel() > 0 {
        let wait = Wait::AtMost(Duration::from_secs(1));
        local.ring.borrow_mut().turn(&wait, &mut woken, &mut freed);
        // Outside the borrow, as everywhere.
        freed.clear();
        woken.clear();
        turns += 1;
        if turns.is_multiple_of(10) {
            let operations = local.ring.borrow().in_kernel();
            tracing::warn!(operations, "an I/O core that stops still waits for the kernel");
        }
    }
}

/// Keeps a read of the eventfd in flight: its completion is what ends the core's sleep.
async fn listen(bell: Descriptor) {
    let mut word = Buffer::zeroed(size_of::<u64>());
    loop {
        let (result, held) = Op::read(&bell, word, 0..size_of::<u64>(), 0).await;
        if let Err(error) = result {
            assert_eq!(error.raw_os_error(), Some(libc::EINTR), "reading an eventfd: {error}");
        }
        word = held.into_buffer();
    }
}

/// Acts on what other threads left; `false` when the core shall stop.
fn take_mail(local: &Local) -> bool {
    let Some(mail) = local.mailbox.drain() else { return true };
    for (key, token) in mail.orphans {
        let released = local.ring.borrow_mut().orphan(key, token);
        drop(released);
    }
    for task in mail.woken {
        local.executor.queue(task);
    }
    for job in mail.jobs {
        job();
    }
    !mail.stop
}

/// Hands operations to the kernel, sleeps if there is nothing else to do, and wakes what has become ready.
fn turn(local: &Local) {
    let mut woken = Vec::new();
    let mut freed = Vec::new();
    local.timers.borrow_mut().fire(&mut woken);
    let idle = woken.is_empty() && !local.executor.has_ready() && local.mailbox.fall_asleep();
    let wait = match (idle, local.timers.borrow().next()) {
        (false, _) => Wait::No,
        (true, None) => Wait::Forever,
        (true, Some(Duration::ZERO)) => Wait::No,
        (true, Some(time)) => Wait::AtMost(time),
    };
    local.ring.borrow_mut().turn(&wait, &mut woken, &mut freed);
    local.mailbox.awake();
    // Outside the borrows: wakers and destructors may do anything, also start or drop operations.
    drop(freed);
    for waker in woken {
        waker.wake();
    }
}
