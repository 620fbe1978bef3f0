//! `kill -9` of the target at random moments while disks are replicated and a branch is written.
//!
//! ```text
//!   seed ─▶ passes of `landfall replicate --once`, the source changes between them
//!           killer   the target, when a stream is at work, or while it recovers; several times a pass
//!           writer   a legacy NBD client that writes to a branch and remembers what was acknowledged
//!           folds    in half of the lives points are let go at every start, and folded and released meanwhile
//!           keys     half of the lives seal what they write
//!           index    after one kill in five it is gone
//!        ─▶ after every pass: the points made since equal the source
//!        ─▶ at the end: every point again, the branch, one more kill, and all of it once more
//! ```
//!
//! The same `replicate` process goes on after every kill; what it was told is durable is never sent again, so a lost batch
//! shows as a point that differs. `LANDFALL_CRASH_SEEDS` says how many seeds (10 unless told), `LANDFALL_SEED` picks one.

mod life;
mod replicate;
mod writer;

use life::{Deeds, live};
use std::panic::catch_unwind;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

/// Seeds at once: most of the time a source waits before it tries again.
const AT_ONCE: usize = 4;

fn seeds() -> Vec<u64> {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse().expect("a number"));
    match number("LANDFALL_SEED") {
        Some(seed) => vec![seed],
        None => (0..number("LANDFALL_CRASH_SEEDS").unwrap_or(10)).collect(),
    }
}

#[test]
fn nothing_acknowledged_is_lost() {
    let seeds = seeds();
    let next = AtomicUsize::new(0);
    let (failed, deeds) = (Mutex::new(Vec::new()), Mutex::new(Deeds::default()));
    thread::scope(|scope| {
        for _ in 0..AT_ONCE.min(seeds.len()) {
            scope.spawn(|| {
                while let Some(seed) = seeds.get(next.fetch_add(1, Ordering::Relaxed)) {
                    match catch_unwind(|| live(*seed)) {
                        Ok(done) => deeds.lock().expect("whole").add(&done),
                        Err(_) => {
                            eprintln!("seed {seed} failed; alone: make crash SEED={seed}");
                            failed.lock().expect("whole").push(*seed);
                        }
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().expect("whole");
    assert!(failed.is_empty(), "failed seeds {failed:?}; alone: make crash SEED={}", failed[0]);
    let deeds = deeds.into_inner().expect("whole");
    println!("{} seeds: {deeds:?}", seeds.len());
    if seeds.len() >= 10 {
        // A suite whose kills hit nothing proves nothing.
        let per_seed = |count: usize| count >= seeds.len();
        assert!(per_seed(deeds.kills) && per_seed(deeds.points), "{deeds:?}");
        assert!(per_seed(deeds.writes) && per_seed(deeds.resumed * 4), "{deeds:?}");
        assert!(deeds.begun_again > 0 && deeds.killed_recovering > 0, "{deeds:?}");
        assert!(deeds.indexes_lost > 0 && deeds.indexes_restored > 0, "{deeds:?}");
        assert!(deeds.folded * 5 >= seeds.len() && deeds.folds_cut_off > 0, "{deeds:?}");
    }
}
