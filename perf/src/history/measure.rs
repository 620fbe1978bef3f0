//! What is measured of a history: by the daemon over NBD where a user would see it, in this process where calls are counted.

use super::fill::{
    Filled, MACHINE, Numbers, Shape, Witness, apply, data, disk_name, open_stream, range_of,
};
use super::store::Store;
use crate::figure::Series;
use crate::first_block::first_block;
use crate::target::Target;
use anyhow::{Context, ensure};
use futures_util::future::join_all;
use landfall_disks::{BLOCK_BYTES, BLOCK_SIZE, ByteOffset};
use landfall_retention::index::rocks::{Checkpoints, RocksIndex, RocksSettings};
use landfall_retention::name::{MomentName, Name};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

/// Batches of a round of ingest, the changes of each, and how many are under way.
const INGEST_BATCHES: u64 = 64;
const INGEST_CHANGES: u64 = 64;
const INGEST_AT_ONCE: u64 = 8;

/// Ranges of changes that are asked for together.
const CHANGES_PAGE: usize = 10_000;

/// A point and a witness, chosen evenly among all.
pub(super) struct Choice {
    numbers: Numbers,
    witnesses: Vec<Witness>,
}

impl Choice {
    pub(super) fn new(filled: &Filled, seed: u64) -> Self {
        Self { numbers: Numbers(seed), witnesses: filled.history.witnesses() }
    }

    fn next(&mut self, filled: &Filled) -> (u64, Witness) {
        let batch = self.numbers.below(filled.history.points.len() as u64);
        let witness = self.numbers.below(self.witnesses.len() as u64);
        (batch, self.witnesses[usize::try_from(witness).expect("an index")])
    }
}

/// Opens points named by their times, over connections of their own; seconds from `connect` to a first block, which is
/// compared with what was sent.
pub(super) fn open_points(
    target: &Target,
    filled: &Filled,
    choice: &mut Choice,
    count: u32,
) -> anyhow::Result<Series> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut series = Series::default();
    for _ in 0..count {
        let (batch, witness) = choice.next(filled);
        let (_, time) = filled.history.points[usize::try_from(batch)?];
        let name = format!("{MACHINE}/{}@{time}", disk_name(witness.disk));
        let offset = range_of(witness.block).start().bytes();
        let (block, took) = first_block(&runtime, &target.nbd_socket(), &name, offset)?;
        filled.history.check(witness, batch, &block).with_context(|| name.clone())?;
        series.push(took.as_secs_f64());
    }
    Ok(series)
}

/// What reads of 4 KiB cost of which nothing was resolved before.
#[derive(Default)]
pub(super) struct Cold {
    /// Times the index was asked, each.
    pub(super) asked: Series,
    /// Seconds, each.
    pub(super) seconds: Series,
}

/// Reads witnesses at points, each of which is opened for it.
pub(super) fn cold_reads(
    store: &Store,
    filled: &Filled,
    choice: &mut Choice,
    count: u32,
) -> anyhow::Result<Cold> {
    let mut cold = Cold::default();
    for _ in 0..count {
        let (batch, witness) = choice.next(filled);
        let (sequence, _) = filled.history.points[usize::try_from(batch)?];
        let moment = MomentName::parse(&format!("{MACHINE}@seq:{sequence}"))?;
        let disk = Name::parse(&disk_name(witness.disk))?;
        let (retention, index) = (Arc::clone(&store.retention), Arc::clone(&store.index));
        let reading = move || async move {
            let moment = retention.resolve(&moment).await?;
            let view = retention.view(&moment, &disk)?;
            let (asked, begun) = (index.asked(), Instant::now());
            let block = view.read(range_of(witness.block)).await?;
            anyhow::Ok((block, index.asked() - asked, begun.elapsed()))
        };
        let (block, asked, took) =
            store.core().block_on(reading).context("the I/O core ended")??;
        filled.history.check(witness, batch, &block)?;
        cold.asked.push(count_of(asked));
        cold.seconds.push(took.as_secs_f64());
    }
    Ok(cold)
}

/// What it takes to tell what changed on every disk from the point of one batch to that of another.
pub(super) struct Told {
    pub(super) blocks: u64,
    pub(super) seconds: f64,
}

/// Makes a checkpoint of an index that nobody has open; seconds.
pub(super) fn checkpoint(index: &Path) -> anyhow::Result<f64> {
    let store = RocksIndex::open(index, RocksSettings::default())?;
    let begun = Instant::now();
    Checkpoints::of(index).make(&store)?;
    Ok(begun.elapsed().as_secs_f64())
}

/// Asks for all changes, page after page, and compares what is told of the witnesses with what was sent.
pub(super) fn changes(
    store: &Store,
    filled: &Filled,
    shape: Shape,
    (after, through): (u64, u64),
) -> anyhow::Result<Told> {
    let mut told = Told { blocks: 0, seconds: 0.0 };
    let mut moments = [after, through].into_iter().map(|batch| {
        let (sequence, _) = filled.history.points[usize::try_from(batch)?];
        anyhow::Ok(MomentName::parse(&format!("{MACHINE}@seq:{sequence}"))?)
    });
    let [from, to] = [(); 2].map(|()| moments.next().expect("one for each batch"));
    let (from, to) = (from?, to?);
    let witnesses = filled.history.witnesses();
    for disk in 0..shape.disks {
        let name = Name::parse(&disk_name(disk))?;
        let retention = Arc::clone(&store.retention);
        let (from, to) = (from.clone(), to.clone());
        let telling = move || async move {
            let (from, to) = (retention.resolve(&from).await?, retention.resolve(&to).await?);
            let begun = Instant::now();
            let changes = retention.changes(from, to, &name)?;
            let (mut ranges, mut next) = (Vec::new(), Some(ByteOffset::new(0)));
            while let Some(from) = next {
                let page = changes.page(from, CHANGES_PAGE).await?;
                ranges.extend(page.ranges.into_iter().map(|changed| changed.range));
                next = page.next;
            }
            anyhow::Ok((ranges, begun.elapsed()))
        };
        let (ranges, took) = store.core().block_on(telling).context("the I/O core ended")??;
        for witness in witnesses.iter().filter(|witness| witness.disk == disk) {
            let block = range_of(witness.block);
            let at = ranges.partition_point(|range| range.end() <= block.start());
            let is_told = ranges.get(at).is_some_and(|range| range.start() <= block.start());
            let changed = filled.history.is_changed(*witness, after, through);
            ensure!(is_told == changed, "{witness:?} changed: {changed}, told: {is_told}");
        }
        told.blocks += ranges.iter().map(|range| range.length()).sum::<u64>() / BLOCK_SIZE;
        told.seconds += took.as_secs_f64();
    }
    Ok(told)
}

/// One round of ingest: batches of 4 KiB changes of random bytes at random places, a point every few of them. Changes per
/// second, from the first batch until the last is durable, indexed and acknowledged.
pub(super) fn ingest(store: &Store, shape: Shape, round: u32) -> anyhow::Result<f64> {
    let retention = Arc::clone(&store.retention);
    let ingesting = move || async move {
        let stream = open_stream(&retention, shape).await?;
        let disks: Vec<_> = stream.disks().iter().map(|disk| disk.id).collect();
        let mut numbers = Numbers(u64::from(round) + 1);
        let blocks = shape.disk_bytes / BLOCK_SIZE;
        ensure!(blocks > INGEST_CHANGES * 4, "a disk of {blocks} blocks is too small to write to");
        // Made before the time is taken: a source has its bytes and hashes.
        let mut batches = Vec::new();
        for _ in 0..INGEST_BATCHES {
            let mut extents = Vec::new();
            let stride = blocks / INGEST_CHANGES;
            for change in 0..INGEST_CHANGES {
                let block = change * stride + numbers.below(stride);
                let mut bytes = vec![0; BLOCK_BYTES];
                blake3::Hasher::new()
                    .update(&numbers.0.to_le_bytes())
                    .finalize_xof()
                    .fill(&mut bytes);
                extents.push(landfall_retention::StreamExtent {
                    range: range_of(block),
                    content: data(&bytes),
                });
            }
            let disk = usize::try_from(numbers.below(disks.len() as u64))?;
            batches.push((disks[disk], extents));
        }
        let mut position = stream.position();
        let mut batches = batches.into_iter().peekable();
        let begun = Instant::now();
        while batches.peek().is_some() {
            let mut under_way = Vec::new();
            for (disk, extents) in batches.by_ref().take(usize::try_from(INGEST_AT_ONCE)?) {
                let (changed, marked) = (position.next(), position.next().next());
                position = marked;
                under_way.push(apply(&stream, (changed, marked), disk, extents));
            }
            for point in join_all(under_way).await {
                point?;
            }
        }
        let changes = count_of(INGEST_BATCHES * INGEST_CHANGES);
        anyhow::Ok(changes / begun.elapsed().as_secs_f64())
    };
    store.core().block_on(ingesting).context("the I/O core ended")?
}

/// A count as a figure has it.
#[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
pub(super) fn count_of(count: u64) -> f64 {
    count as f64
}
