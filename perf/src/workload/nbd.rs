//! Random access over NBD: reads of a point, writes of a branch, by fio over one connection.
//!
//! Landfall's writes are durable and indexed when they are acknowledged, so they stand beside both kinds of qemu-nbd: one
//! whose writes may still be lost, and one that flushes each.

use super::{MACHINE, Stage};
use crate::figure::{Figure, Peer, Unit};
use crate::peer::{Access, Load, QemuNbd, Writes, fio};
use anyhow::Context;

pub(super) fn measure(stage: &Stage<'_>) -> anyhow::Result<[Figure; 3]> {
    let raw = stage.image.copy_to(&stage.scratch.join("peer.raw"))?;
    let start =
        |socket: &str, writes| QemuNbd::start(raw.path(), &stage.scratch.join(socket), writes);
    let cached = start("peer.sock", Writes::Cached)?;
    let point = stage.target.points(MACHINE)?.pop().context("no point")?;
    let point = point.uris.into_iter().next().context("the point has no address")?;
    let branch = stage.target.export_branch(MACHINE)?;
    let figure = |name: &str, what: String, access, ours: &str, peer: &QemuNbd, cache: &str| {
        let (size, seconds) = (stage.settings.size_bytes, stage.settings.seconds);
        let load = Load::random(access);
        let (landfall, series) = stage.in_turns(
            name,
            |_| fio(ours, size, load, seconds),
            |_| fio(&peer.uri(), size, load, seconds),
        )?;
        let peers = vec![Peer { name: peer.name(cache), series }];
        anyhow::Ok(Figure {
            name: name.into(),
            what,
            unit: Unit::RequestsPerSecond,
            landfall,
            peers,
        })
    };
    let reads = format!(
        "4 KiB random reads, 32 at a time, of the newest point, {} batches after the first copy",
        stage.batches()
    );
    let reads = figure("nbd-read", reads, Access::Read, &point, &cached, "none")?;
    let writes =
        "4 KiB random writes, 32 at a time, of a branch; landfall's are durable when answered";
    let writes = figure("nbd-write", writes.into(), Access::Write, &branch, &cached, "none")?;
    drop(cached);
    let durable = start("durable.sock", Writes::Durable)?;
    let both = "the same, beside a peer whose writes are durable when answered too";
    let both =
        figure("nbd-write-durable", both.into(), Access::Write, &branch, &durable, "directsync")?;
    Ok([reads, writes, both])
}
