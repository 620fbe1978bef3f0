//! A single-threaded executor whose every choice follows from a seed.
//!
//! It is no engine: `uring::sleep` and files of the kernel do not work on it, `uring::offload` runs inline.

use super::Seed;
use futures_util::future::LocalBoxFuture;
use std::cell::RefCell;
use std::future::Future;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

/// Whether a task has been woken.
struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Release);
    }
}

struct Task {
    future: LocalBoxFuture<'static, ()>,
    woken: Arc<Woken>,
}

/// Starts tasks beside the main future.
#[derive(Clone, Default)]
pub struct Spawner {
    started: Rc<RefCell<Vec<Task>>>,
}

impl Spawner {
    /// Adds a task. It is dropped, finished or not, when the main future is done.
    pub fn spawn(&self, future: impl Future<Output = ()> + 'static) {
        let woken = Arc::new(Woken(AtomicBool::new(true)));
        self.started.borrow_mut().push(Task { future: Box::pin(future), woken });
    }
}

/// Runs the future that `make` gives, and the tasks it spawns, until it is done.
///
/// Panics when nothing is ready and the main future is not done: a dead-lock of the code under test.
pub fn run<Fut: Future>(seed: &mut Seed, make: impl FnOnce(Spawner) -> Fut) -> Fut::Output {
    let spawner = Spawner::default();
    let mut main = pin!(make(spawner.clone()));
    let main_woken = Arc::new(Woken(AtomicBool::new(true)));
    let mut tasks: Vec<Task> = Vec::new();
    loop {
        tasks.append(&mut spawner.started.borrow_mut());
        let ready: Vec<Option<usize>> = std::iter::once((None, &main_woken))
            .chain(tasks.iter().enumerate().map(|(place, task)| (Some(place), &task.woken)))
            .filter(|(_, woken)| woken.0.load(Ordering::Acquire))
            .map(|(place, _)| place)
            .collect();
        assert!(
            !ready.is_empty(),
            "nothing is ready: {} tasks wait for each other",
            tasks.len() + 1
        );
        match *seed.pick(&ready) {
            None => {
                if let Poll::Ready(value) = poll(main.as_mut(), &main_woken) {
                    return value;
                }
            }
            Some(place) => {
                let task = &mut tasks[place];
                if poll(task.future.as_mut(), &task.woken).is_ready() {
                    // Keeps the order of the others, which the choice of the next one depends on.
                    drop(tasks.remove(place));
                }
            }
        }
    }
}

fn poll<Fut: Future + ?Sized>(
    future: std::pin::Pin<&mut Fut>,
    woken: &Arc<Woken>,
) -> Poll<Fut::Output> {
    woken.0.store(false, Ordering::Release);
    let waker = Waker::from(Arc::clone(woken));
    future.poll(&mut Context::from_waker(&waker))
}

/// Lets other tasks run once.
pub(super) async fn yield_once() {
    let mut yielded = false;
    std::future::poll_fn(|context| {
        if std::mem::replace(&mut yielded, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}
