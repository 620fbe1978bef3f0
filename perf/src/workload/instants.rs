//! Finding any instant of a stream that delivers in order: what the index answers, and what it takes for that.
//!
//! Instants are entries of their own in the index, so it is asked directly; every answer is compared with what was put there.

use super::{Stage, say};
use crate::figure::{Figure, Series, Unit};
use crate::history::Numbers;
use anyhow::ensure;
use landfall_retention::ids::{LineId, Sequence};
use landfall_retention::index::moment_key::{
    Boundary, boundary_at, boundary_at_or_before, boundary_at_or_below, put_boundary,
};
use landfall_retention::index::rocks::{RocksIndex, RocksSettings};
use landfall_retention::index::{IndexBatch, IndexError, IndexStore};
use landfall_retention::time::Timestamp;
use std::time::Instant;

const LINE: LineId = LineId::new(1);
const INSTANTS: u64 = 5_000_000;
/// Written to the index together.
const BATCH: u64 = 1000;
const LOOK_UPS_PER_ROUND: u32 = 2000;

type Ask = fn(&RocksIndex, u64) -> Result<Option<Boundary>, IndexError>;

const QUESTIONS: [(&str, &str, Ask); 3] = [
    ("instant-by-sequence", "by its sequence", |store, number| {
        boundary_at(store, LINE, Sequence::new(number))
    }),
    ("instant-at-or-below", "newest at or below a sequence, as latest asks", |store, number| {
        boundary_at_or_below(store, LINE, Sequence::new(number))
    }),
    ("instant-by-time", "newest at or before a time", |store, number| {
        boundary_at_or_before(store, LINE, Sequence::new(INSTANTS), time(number))
    }),
];

/// A few hundred microseconds apart, as writes are.
fn time(sequence: u64) -> Timestamp {
    let jitter = sequence.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 46;
    Timestamp::from_nanoseconds(1_795_000_000_000_000_000 + sequence * 300_000 + jitter)
}

pub(super) fn measure(stage: &Stage<'_>) -> anyhow::Result<Vec<Figure>> {
    say("making an index of instants");
    let store = RocksIndex::open(&stage.scratch.join("instants"), RocksSettings::default())?;
    let mut batch = IndexBatch::default();
    for number in 1..=INSTANTS {
        let boundary = Boundary { sequence: Sequence::new(number), commit_time: time(number) };
        put_boundary(&mut batch, LINE, boundary);
        if number % BATCH == 0 {
            store.write(std::mem::take(&mut batch))?;
        }
    }
    store.flush()?;
    store.compact()?;
    let bytes = store.size_bytes();
    let mut random = Numbers(3);
    let mut figures = Vec::new();
    for (name, what, ask) in QUESTIONS {
        let mut landfall = Series::default();
        for round in 0..stage.settings.rounds {
            say(&format!("{name}, round {} of {}", round + 1, stage.settings.rounds));
            let begun = Instant::now();
            for _ in 0..LOOK_UPS_PER_ROUND {
                let number = 1 + random.below(INSTANTS);
                let found = ask(&store, number)?.map(|found| found.sequence.number());
                ensure!(found == Some(number), "{name}: {found:?} instead of {number}");
            }
            landfall.push(begun.elapsed().as_secs_f64() / f64::from(LOOK_UPS_PER_ROUND));
        }
        let what = format!(
            "any of {INSTANTS} instants of a line, {what}; the index has {bytes} bytes for them \
             (rounds are means of {LOOK_UPS_PER_ROUND})"
        );
        figures.push(Figure {
            name: name.into(),
            what,
            unit: Unit::Seconds,
            landfall,
            peers: Vec::new(),
        });
    }
    Ok(figures)
}
