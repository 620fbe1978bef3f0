//! Tasks, time and threads.

use super::{engine, first};
use crate::uring::{
    CoreStopped, Elapsed, Engine, EngineError, EngineSettings, offload, sleep, spawn, timeout,
};
use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::{Notify, oneshot};

#[test]
fn no_cores_is_refused() {
    let settings = EngineSettings { cores: 0, ..EngineSettings::default() };
    assert!(matches!(Engine::start(settings), Err(EngineError::Settings(_))));
}

#[test]
fn a_value_comes_back() {
    let engine = engine();
    let name = first(&engine)
        .block_on(|| async { std::thread::current().name().map(str::to_owned) })
        .expect("running");
    assert_eq!(name.as_deref(), Some("io-0"));
}

#[test]
fn tasks_of_one_core_share_its_thread() {
    let engine = engine();
    let sum = first(&engine).block_on(|| async {
        let sum = Rc::new(Cell::new(0));
        let done = Rc::new(Notify::new());
        for number in 1..=100 {
            let (sum, done) = (Rc::clone(&sum), Rc::clone(&done));
            spawn(async move {
                sleep(Duration::from_micros(100 - number)).await;
                sum.set(sum.get() + number);
                done.notify_one();
            });
        }
        while sum.get() < 5050 {
            done.notified().await;
        }
        sum.get()
    });
    assert_eq!(sum, Ok(5050));
}

#[test]
fn a_wake_up_from_another_thread_ends_the_sleep() {
    let engine = engine();
    for _ in 0..200 {
        let (send, receive) = oneshot::channel();
        let (started, is_started) = std::sync::mpsc::channel();
        let core = first(&engine);
        let waiting = std::thread::spawn(move || {
            core.block_on(move || async move {
                started.send(()).expect("the test waits");
                receive.await.expect("sent")
            })
        });
        is_started.recv().expect("started");
        send.send(7).expect("awaited");
        assert_eq!(waiting.join().expect("no panic"), Ok(7));
    }
}

#[test]
fn cores_wake_each_other() {
    let engine = engine();
    let [one, two] = engine.cores() else { panic!("two cores") };
    let two = two.clone();
    let hops = one.block_on(move || async move {
        let mut hops = 0u32;
        for _ in 0..1000 {
            hops = two.run(move || async move { hops + 1 }).await.expect("running");
        }
        hops
    });
    assert_eq!(hops, Ok(1000));
}

#[test]
fn a_sleep_takes_its_time_and_no_more() {
    let engine = engine();
    let took = first(&engine).block_on(|| async {
        let start = Instant::now();
        sleep(Duration::from_millis(30)).await;
        start.elapsed()
    });
    let took = took.expect("running");
    assert!(took >= Duration::from_millis(30), "{took:?}");
    assert!(took < Duration::from_secs(5), "{took:?}");
}

#[test]
fn a_timeout_ends_what_would_not_end() {
    let engine = engine();
    let outcome = first(&engine).block_on(|| async {
        let late = timeout(Duration::from_millis(10), std::future::pending::<()>()).await;
        let early = timeout(Duration::from_secs(60), async { 3 }).await;
        (late, early)
    });
    assert_eq!(outcome, Ok((Err(Elapsed), Ok(3))));
}

#[test]
fn a_busy_task_does_not_starve_the_clock() {
    let engine = engine();
    let outcome = first(&engine).block_on(|| async {
        let stop = Rc::new(Cell::new(false));
        let busy = Rc::clone(&stop);
        spawn(async move {
            while !busy.get() {
                tokio::task::yield_now().await;
            }
        });
        sleep(Duration::from_millis(5)).await;
        stop.set(true);
    });
    assert_eq!(outcome, Ok(()));
}

#[test]
fn offloaded_work_runs_elsewhere_and_comes_back() {
    let engine = engine();
    let (there, here) = first(&engine)
        .block_on(|| async {
            let there = offload(|| std::thread::current().name().map(str::to_owned)).await;
            (there, std::thread::current().name().map(str::to_owned))
        })
        .expect("running");
    assert!(there.as_deref().is_some_and(|name| name.starts_with("blocking-")), "{there:?}");
    assert_eq!(here.as_deref(), Some("io-0"));
}

#[test]
fn offloaded_work_does_not_hold_up_the_core() {
    let engine = engine();
    let outcome = first(&engine).block_on(|| async {
        let (release, blocked) = std::sync::mpsc::channel();
        let blocking = offload(move || blocked.recv().expect("released"));
        let releasing = async {
            sleep(Duration::from_millis(5)).await;
            release.send(9).expect("awaited");
        };
        futures_util::future::join(blocking, releasing).await.0
    });
    assert_eq!(outcome, Ok(9));
}

#[test]
fn offload_without_an_engine_runs_inline() {
    let mut work = std::pin::pin!(offload(|| std::thread::current().id()));
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    let std::task::Poll::Ready(ran_on) = work.as_mut().poll(&mut context) else {
        panic!("inline work is done at once")
    };
    assert_eq!(ran_on, std::thread::current().id());
}

#[test]
#[should_panic(expected = "the assertion of a task")]
fn a_panic_reaches_who_waits() {
    let engine = engine();
    let _ = first(&engine).block_on(|| async { panic!("the assertion of a task") });
}

#[test]
fn a_panic_ends_its_task_only() {
    let engine = engine();
    first(&engine).spawn(|| async { panic!("expected by the test") });
    assert_eq!(first(&engine).block_on(|| async { 1 }), Ok(1));
}

#[test]
#[should_panic(expected = "sleeping needs an I/O core")]
fn off_core_a_sleep_says_what_it_needs() {
    let mut sleeping = std::pin::pin!(sleep(Duration::from_secs(1)));
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    let _ = sleeping.as_mut().poll(&mut context);
}

/// Raises a flag when it is dropped.
struct Flag(Arc<AtomicBool>);

impl Drop for Flag {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

#[test]
fn stopping_drops_tasks_and_tells_who_waits() {
    let engine = engine();
    let core = first(&engine);
    let dropped = Arc::new(AtomicBool::new(false));
    let flag = Flag(Arc::clone(&dropped));
    let (started, is_started) = std::sync::mpsc::channel();
    let waiting = {
        let core = core.clone();
        std::thread::spawn(move || {
            core.block_on(move || async move {
                let _flag = flag;
                started.send(()).expect("the test waits");
                std::future::pending::<()>().await;
            })
        })
    };
    is_started.recv().expect("started");
    engine.stop();
    assert!(dropped.load(Ordering::SeqCst));
    assert_eq!(waiting.join().expect("no panic"), Err(CoreStopped));
    assert_eq!(core.block_on(|| async {}), Err(CoreStopped));
}

#[test]
fn what_a_task_spawns_while_it_is_dropped_is_dropped_too() {
    struct Spawns(Arc<AtomicUsize>);
    impl Drop for Spawns {
        fn drop(&mut self) {
            let ran = Arc::clone(&self.0);
            spawn(async move {
                ran.fetch_add(1, Ordering::SeqCst);
            });
        }
    }
    let engine = engine();
    let ran = Arc::new(AtomicUsize::new(0));
    let spawns = Spawns(Arc::clone(&ran));
    let (started, is_started) = std::sync::mpsc::channel();
    first(&engine).spawn(move || async move {
        let _spawns = spawns;
        started.send(()).expect("the test waits");
        std::future::pending::<()>().await;
    });
    is_started.recv().expect("started");
    engine.stop();
    assert_eq!(ran.load(Ordering::SeqCst), 0);
    assert_eq!(Arc::strong_count(&ran), 1);
}
