//! What the thread of a core has at hand, and how code running on it finds its own core.

use super::blocking::Pool;
use super::executor::Executor;
use super::mailbox::Mailbox;
use super::ring::Ring;
use super::timer::Timers;
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

/// The state of one core; lives on its thread alone.
pub(super) struct Local {
    pub(super) executor: Executor,
    pub(super) ring: RefCell<Ring>,
    pub(super) timers: RefCell<Timers>,
    pub(super) mailbox: Arc<Mailbox>,
    pub(super) pool: Arc<Pool>,
}

thread_local! {
    static CURRENT: RefCell<Option<Rc<Local>>> = const { RefCell::new(None) };
}

/// Calls `f` with the core of this thread; `None` on a thread that is not a core.
pub(super) fn with_current<T>(f: impl FnOnce(Option<&Local>) -> T) -> T {
    let mut f = Some(f);
    let called = CURRENT.try_with(|current| {
        let current = current.borrow();
        f.take().map(|f| f(current.as_deref()))
    });
    match (called, f) {
        (Ok(Some(value)), _) => value,
        // The thread is ending and its thread-locals are gone: it is no core any more.
        (_, Some(f)) => f(None),
        (_, None) => unreachable!("the closure was called and gave no value"),
    }
}

/// Calls `f` with the core of this thread, which `what` needs; panics on other threads.
pub(super) fn require<T>(what: &str, f: impl FnOnce(&Local) -> T) -> T {
    with_current(|current| match current {
        Some(local) => f(local),
        None => panic!(
            "{what} needs an I/O core, and this thread is none: run it with Core::run, Core::spawn or Core::block_on"
        ),
    })
}

/// Whether this thread is a core.
pub(super) fn is_core() -> bool {
    with_current(|current| current.is_some())
}

/// Makes `local` the core of this thread, or takes it away.
pub(super) fn set(local: Option<Rc<Local>>) {
    // Dropped outside the borrow: destructors may look for the current core.
    let previous = CURRENT.with(|current| current.replace(local));
    drop(previous);
}
