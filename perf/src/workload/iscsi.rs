//! Serving over iSCSI: a machine whose image is all there is of it, and a point behind which lies a long history.
//!
//! ```text
//!   a raw file each   landfall, newest point, all of it image   │ tgt through the page cache │ tgt direct
//!   a data folder     landfall, newest point of a million changes of 4 KiB
//! ```
//!
//! All take turns within a round, and begin at another one in each. The page cache holds all of tgt's file.

use super::long_history::{self, CHANGES};
use super::{Settings, Stage, say};
use crate::figure::{Figure, Peer, Series, Unit};
use crate::target::Target;
use crate::tgt::{Reads, Store, Tgt, iscsi_perf};
use anyhow::Context;

const MACHINE: &str = "plain";
const LISTEN: &str = "\n[listen]\niscsi = \"127.0.0.1:0\"\n";

/// A target with a unit.
struct Contender {
    name: String,
    uri: String,
}

pub(super) fn measure(stage: &Stage<'_>) -> anyhow::Result<[Figure; 3]> {
    let (target, image) = image(stage)?;
    let (long, machine, _) = long_history::start(stage, "iscsi-point", LISTEN)?;
    let point = contender("landfall", long.export_iscsi(&format!("{machine}@latest"))?);
    let (cached, direct) = (tgt(stage, Store::Cached)?, tgt(stage, Store::Direct)?);
    let peers = [contender(cached.name(), cached.uri()), contender(direct.name(), direct.uri())];
    let random = "4 KiB at random, 32 at a time, one session";
    let sequential = "1 MiB after the other, 8 at a time, one session";
    let figures = [
        figure(
            stage,
            "iscsi-raw-read",
            format!("reads of a raw image: {random}"),
            Reads::Random,
            (&image, &peers),
        )?,
        figure(
            stage,
            "iscsi-raw-read-1m",
            format!("reads of a raw image: {sequential}"),
            Reads::Sequential,
            (&image, &peers),
        )?,
        figure(
            stage,
            "iscsi-point-read",
            format!("reads of a point of {CHANGES} changes: {random}; tgt serves a raw image"),
            Reads::Random,
            (&point, &peers),
        )?,
    ];
    drop((target, long));
    Ok(figures)
}

fn contender(name: &str, uri: String) -> Contender {
    Contender { name: name.into(), uri }
}

/// Rounds of landfall and all `peers`.
fn figure(
    stage: &Stage<'_>,
    name: &str,
    what: String,
    reads: Reads,
    (landfall, peers): (&Contender, &[Contender]),
) -> anyhow::Result<Figure> {
    let Settings { rounds, seconds, .. } = *stage.settings;
    let all: Vec<_> = std::iter::once(landfall).chain(peers).collect();
    let mut series = vec![Series::default(); all.len()];
    for round in 0..rounds {
        say(&format!("{name}, round {} of {rounds}", round + 1));
        for turn in 0..all.len() {
            let turn = (turn + round as usize) % all.len();
            let rate = iscsi_perf(&all[turn].uri, reads, seconds);
            series[turn].push(rate.with_context(|| all[turn].name.clone())?);
        }
    }
    let mut series = series.into_iter();
    let landfall = series.next().context("nobody was measured")?;
    let peers = peers.iter().zip(series);
    let peers = peers.map(|(peer, series)| Peer { name: peer.name.clone(), series }).collect();
    Ok(Figure { name: name.into(), what, unit: Unit::RequestsPerSecond, landfall, peers })
}

fn tgt(stage: &Stage<'_>, store: Store) -> anyhow::Result<Tgt> {
    let folder = stage.scratch.join(format!("tgt-{store:?}"));
    std::fs::create_dir(&folder)?;
    let file = folder.join("disk.raw");
    stage.image.copy_to(&file)?;
    Tgt::start(&file, &folder, store)
}

/// A machine that was copied: there is nothing of it but the image.
fn image(stage: &Stage<'_>) -> anyhow::Result<(Target, Contender)> {
    let folder = stage.scratch.join("iscsi-image");
    let target = Target::with_config(&stage.settings.landfall, &folder, LISTEN)?;
    target.add_machine(MACHINE, stage.settings.size_bytes)?;
    target.replicate(MACHINE, &stage.image)?;
    let uri = target.export_iscsi(&format!("{MACHINE}@latest"))?;
    Ok((target, contender("landfall", uri)))
}
