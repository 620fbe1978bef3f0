//! How fast any instant is found, and what it takes of the index, measured on RocksDB:
//! `cargo nextest run --run-ignored only -E 'test(any_instant_is_found)' --no-capture`. The figures stand in
//! `docs/decisions/0016-any-instant.md`.

use super::moment_key::{
    Boundary, boundary_at, boundary_at_or_above, boundary_at_or_before, boundary_at_or_below,
    put_boundary,
};
use super::rocks::{RocksIndex, RocksSettings};
use super::{IndexBatch, IndexStore};
use crate::ids::{LineId, Sequence};
use crate::time::Timestamp;
use landfall_disks::faults::Seed;
use std::time::Instant;

const LINE: LineId = LineId::new(1);
const INSTANTS: u64 = 5_000_000;
const LOOK_UPS: u32 = 20_000;

/// A few hundred microseconds apart, as writes are.
fn time(sequence: u64) -> Timestamp {
    let jitter = sequence.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 46;
    Timestamp::from_nanoseconds(1_795_000_000_000_000_000 + sequence * 300_000 + jitter)
}

#[test]
#[ignore = "a measurement of half a minute"]
fn any_instant_is_found_among_millions() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = RocksIndex::open(folder.path(), RocksSettings::default()).expect("a new one");
    let mut batch = IndexBatch::default();
    for number in 1..=INSTANTS {
        let boundary = Boundary { sequence: Sequence::new(number), commit_time: time(number) };
        put_boundary(&mut batch, LINE, boundary);
        if number % 1000 == 0 {
            store.write(std::mem::take(&mut batch)).expect("written");
        }
    }
    store.flush().expect("flushed");
    store.compact().expect("compacted");
    let bytes = store.size_bytes();
    println!("{bytes} bytes for {INSTANTS} instants, {} each", bytes / INSTANTS);
    let timed = |what: &str, ask: &dyn Fn(u64) -> Option<Boundary>| {
        let mut random = Seed::new(3);
        let begun = Instant::now();
        for _ in 0..LOOK_UPS {
            let number = 1 + random.below(INSTANTS);
            assert_eq!(ask(number).map(|found| found.sequence.number()), Some(number), "{what}");
        }
        println!("{what}: {:?} each", begun.elapsed() / LOOK_UPS);
    };
    let newest = Sequence::new(INSTANTS);
    timed("by sequence", &|number| {
        boundary_at(&store, LINE, Sequence::new(number)).expect("it reads")
    });
    timed("newest at or before a time", &|number| {
        boundary_at_or_before(&store, LINE, newest, time(number)).expect("it reads")
    });
    timed("newest at or below a sequence", &|number| {
        boundary_at_or_below(&store, LINE, Sequence::new(number)).expect("it reads")
    });
    timed("oldest at or above a sequence", &|number| {
        boundary_at_or_above(&store, LINE, Sequence::new(number)).expect("it reads")
    });
}
