//! Bytes: of journal per byte received, of index per byte of journal, of image per byte received; and what other keys would take.
//!
//! ```text
//!   load ─▶ stream ─▶ journal (its bytes) ─▶ fold to the newest point (bytes written to the image)
//!     └───▶ keys of each scheme ─▶ RocksDB, compacted (its bytes)
//! ```
//!
//! Nothing here depends on how busy the machine is, so each is measured once.

mod schemes;

use super::{Stage, say};
use crate::figure::{Figure, Peer, Series, Unit};
use crate::history::{MACHINE, Shape, Store, add_machine, data, disk_name, open_stream};
use anyhow::Context;
use landfall_disks::{BLOCK_SIZE, Block, ByteRange, uring};
use landfall_retention::name::Name;
use landfall_retention::point::PointKind;
use landfall_retention::time::Timestamp;
use landfall_retention::{FoldPace, StreamExtent};
use schemes::Scheme;
use std::path::Path;
use std::sync::Arc;

/// The disk that is changed.
const DISK_BYTES: u64 = 256 << 20;

/// What comes in.
#[derive(Clone, Copy)]
struct Load {
    name: &'static str,
    what: &'static str,
    change_bytes: u64,
    /// Places are multiples of this.
    aligned_to: u64,
    changes_per_batch: u64,
    batches: u64,
    sequential: bool,
}

const RANDOM: Load = Load {
    name: "4k-64",
    what: "4 KiB at random, 64 in a batch",
    change_bytes: 4 << 10,
    aligned_to: 4 << 10,
    changes_per_batch: 64,
    batches: 512,
    sequential: false,
};
const MEDIUM: Load = Load {
    name: "64k",
    what: "64 KiB at random, 16 in a batch",
    change_bytes: 64 << 10,
    aligned_to: 64 << 10,
    changes_per_batch: 16,
    batches: 128,
    ..RANDOM
};
const LOADS: [Load; 6] = [
    Load {
        name: "4k-1",
        what: "4 KiB at random, one in a batch",
        changes_per_batch: 1,
        batches: 4096,
        ..RANDOM
    },
    Load {
        name: "4k-8",
        what: "4 KiB at random, 8 in a batch",
        changes_per_batch: 8,
        batches: 2048,
        ..RANDOM
    },
    RANDOM,
    MEDIUM,
    Load {
        name: "64k-unaligned",
        what: "64 KiB at multiples of 4 KiB, 15 in a batch",
        aligned_to: 4 << 10,
        changes_per_batch: 15,
        ..MEDIUM
    },
    Load {
        name: "sequential",
        what: "1 MiB in order, one in a batch",
        change_bytes: 1 << 20,
        aligned_to: 1 << 20,
        changes_per_batch: 1,
        batches: 128,
        sequential: true,
    },
];

/// One change of a batch.
#[derive(Clone, Copy, Debug)]
pub(super) struct Change {
    pub(super) batch: u64,
    pub(super) range: ByteRange,
}

impl Load {
    fn received_bytes(self) -> u64 {
        self.change_bytes * self.changes_per_batch * self.batches
    }

    /// Its changes; those of a batch apart from each other.
    fn changes(self) -> Vec<Change> {
        let mut random = blake3::Hasher::new().update(self.name.as_bytes()).finalize_xof();
        let stride = DISK_BYTES / self.changes_per_batch;
        let places = (stride - self.change_bytes) / self.aligned_to + 1;
        let mut changes = Vec::new();
        for batch in 0..self.batches {
            for number in 0..self.changes_per_batch {
                let mut place = [0; 8];
                random.fill(&mut place);
                let within = u64::from_le_bytes(place) % places * self.aligned_to;
                let start = match self.sequential {
                    true => batch * self.change_bytes % DISK_BYTES,
                    false => number * (stride / self.aligned_to * self.aligned_to) + within,
                };
                let block = Block::new(start / BLOCK_SIZE);
                let range = ByteRange::at(block.offset(), self.change_bytes).expect("on the disk");
                changes.push(Change { batch, range });
            }
        }
        changes
    }
}

pub(super) fn measure(stage: &Stage<'_>) -> anyhow::Result<Vec<Figure>> {
    let mut figures = Vec::new();
    for load in LOADS {
        say(&format!("bytes of {}", load.what));
        let folder = stage.scratch.join(format!("bytes-{}", load.name));
        let changes = load.changes();
        let (journal, image) = received(&folder.join("data"), load, &changes)?;
        let received = as_float(load.received_bytes());
        let figure = |of: &str, what: &str, ours, peer: Option<Peer>| Figure {
            name: format!("bytes-{of}-{}", load.name),
            what: format!("{what}; {}", load.what),
            unit: Unit::Factor,
            landfall: one(ours),
            peers: peer.into_iter().collect(),
        };
        figures.push(figure(
            "journal",
            "bytes of journal per byte received",
            journal / received,
            None,
        ));
        figures.push(figure(
            "image",
            "bytes written to the image by a fold, per byte received",
            image / received,
            None,
        ));
        let ours = schemes::bytes(Scheme::Classes, &folder.join("classes"), &changes)?;
        for (other, name) in
            [(Scheme::PerBlock, "a key per 4 KiB"), (Scheme::Chains, "a chain of changes per MiB")]
        {
            let theirs = schemes::bytes(other, &folder.join(other.name()), &changes)?;
            let peer = Peer { name: name.into(), series: one(as_float(theirs) / journal) };
            let of = format!("index-{}", other.name());
            let what = "bytes of index per byte of journal";
            figures.push(figure(&of, what, as_float(ours) / journal, Some(peer)));
        }
        std::fs::remove_dir_all(&folder)?;
    }
    Ok(figures)
}

/// Bytes of journal that the load takes, and bytes that a fold of all of it writes to the image.
fn received(folder: &Path, load: Load, changes: &[Change]) -> anyhow::Result<(f64, f64)> {
    std::fs::create_dir_all(folder)?;
    let store = Store::open(folder)?;
    let shape = Shape { entries: 0, points: 0, disks: 1, disk_bytes: DISK_BYTES, body_every: 1 };
    add_machine(&store, shape)?;
    let retention = Arc::clone(&store.retention);
    let changes = changes.to_vec();
    let receiving = move || async move {
        let stream = open_stream(&retention, shape).await?;
        let disk = stream.disks().first().with_context(|| disk_name(0))?.id;
        let mut position = stream.position().next();
        let time = Timestamp::default();
        stream.mark(position, PointKind::Crash, None, time).await?;
        let before = retention.journal().await?.lanes.iter().map(|lane| lane.bytes).sum::<u64>();
        let mut random = blake3::Hasher::new().update(b"bytes").finalize_xof();
        for batch in changes.chunks(usize::try_from(load.changes_per_batch)?) {
            let mut extents = Vec::new();
            for change in batch {
                let mut bytes = vec![0; usize::try_from(change.range.length())?];
                random.fill(&mut bytes);
                extents.push(StreamExtent { range: change.range, content: data(&bytes) });
            }
            position = position.next();
            stream.apply(position, disk, time, extents).await?;
        }
        let after = retention.journal().await?.lanes.iter().map(|lane| lane.bytes).sum::<u64>();
        let point = stream.mark(position.next(), PointKind::Crash, None, time).await?;
        let line = retention.trunk(&Name::parse(MACHINE)?)?;
        let sleep = |time| Box::pin(uring::sleep(time)) as futures_util::future::LocalBoxFuture<_>;
        let pace = FoldPace { bytes_per_second: None, sleep: &sleep };
        let folded = retention.fold_to(line, point.sequence, &pace).await?;
        anyhow::Ok((after - before, folded.data_bytes))
    };
    let (journal, image) = store.core().block_on(receiving).context("the I/O core ended")??;
    store.close()?;
    Ok((as_float(journal), as_float(image)))
}

fn one(value: f64) -> Series {
    let mut series = Series::default();
    series.push(value);
    series
}

#[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
fn as_float(number: u64) -> f64 {
    number as f64
}
