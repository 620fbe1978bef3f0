//! Opening a moment: from `connect` until the first block of a point that is named by its time is there.
//!
//! Every round opens another point and reads another place of it, so nothing of it was resolved before.

use super::{HISTORY_PASSES, MACHINE, Stage};
use crate::figure::{Figure, Peer, Unit};
use crate::first_block::first_block;
use crate::peer::{QemuNbd, Writes};
use anyhow::ensure;
use std::path::Path;
use tokio::runtime::Runtime;

/// Opened in each round, so that a round is a median of its own.
const OPENED_PER_ROUND: u32 = 20;
/// Apart by more than a leaf.
const STRIDE_BYTES: u64 = 3 << 20;

pub(super) fn measure(stage: &Stage<'_>) -> anyhow::Result<Figure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let points = stage.target.points(MACHINE)?;
    ensure!(points.len() as u64 > HISTORY_PASSES, "the history has {} points", points.len());
    let names: Vec<String> =
        points.iter().map(|point| format!("{MACHINE}/os@{}", point.time)).collect();
    let server =
        QemuNbd::start(stage.image.path(), &stage.scratch.join("open.sock"), Writes::Cached)?;
    let ours = stage.target.nbd_socket();
    let size_bytes = stage.settings.size_bytes;
    let mut opened = 0u32;
    let mut next = || {
        opened += 1;
        let offset = u64::from(opened) * STRIDE_BYTES % size_bytes;
        (opened as usize % names.len(), offset)
    };
    let mut ours_once = || {
        let (point, offset) = next();
        first_random_block(&runtime, &ours, &names[point], offset)
    };
    let mut elsewhere = 0;
    let mut theirs_once = || {
        elsewhere = (elsewhere + STRIDE_BYTES) % size_bytes;
        first_random_block(&runtime, server.socket(), "", elsewhere)
    };
    let (landfall, theirs) = stage.in_turns(
        "opening a point",
        |_| median_of(OPENED_PER_ROUND, &mut ours_once),
        |_| median_of(OPENED_PER_ROUND, &mut theirs_once),
    )?;
    Ok(Figure {
        name: "open-point".into(),
        what: format!(
            "from connect to the first block of a point named by its time; {} points, {} batches in the journal \
             (rounds are medians of {OPENED_PER_ROUND})",
            points.len(),
            stage.batches()
        ),
        unit: Unit::Seconds,
        landfall,
        peers: vec![Peer { name: server.name("none"), series: theirs }],
    })
}

fn median_of(times: u32, once: &mut impl FnMut() -> anyhow::Result<f64>) -> anyhow::Result<f64> {
    let mut taken = crate::figure::Series::default();
    for _ in 0..times {
        taken.push(once()?);
    }
    Ok(taken.median())
}

/// Seconds from `connect` until 4 KiB at `offset` of the export are there.
fn first_random_block(
    runtime: &Runtime,
    socket: &Path,
    export: &str,
    offset: u64,
) -> anyhow::Result<f64> {
    let (block, took) = first_block(runtime, socket, export, offset)?;
    // Random bytes: a server that answers without reading is not measured.
    ensure!(block.iter().any(|byte| *byte != 0), "{export:?} reads as zeroes at {offset}");
    Ok(took.as_secs_f64())
}
