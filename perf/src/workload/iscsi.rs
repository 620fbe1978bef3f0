//! Serving over iSCSI: a machine whose image is all there is of it, and a point behind which lies a long history.
//!
//! ```text
//!   a raw file each   landfall, newest point, all of it image   │ tgt through the page cache │ tgt direct │ fio, no target
//!   a data folder     landfall, newest point of a million changes of 4 KiB
//! ```
//!
//! All take turns within a round, and begin at another one in each. The page cache holds all of tgt's file: what it does with that
//! owes nothing to the device. fio has the file to itself, which is all that the device gives anybody who reads past the cache.

use super::long_history::{self, CHANGES};
use super::{Settings, Stage, say};
use crate::figure::{Figure, Peer, Series, Unit};
use crate::peer::fio_file;
use crate::target::Target;
use crate::tgt::{Reads, Store, Tgt, iscsi_perf};
use anyhow::Context;
use std::path::PathBuf;

const MACHINE: &str = "plain";
const LISTEN: &str = "\n[listen]\niscsi = \"127.0.0.1:0\"\n";

/// Who is measured.
struct Contender {
    name: String,
    read: Read,
}

/// What is read.
enum Read {
    /// A unit of a target.
    Unit(String),
    /// A file, with nobody between.
    File(PathBuf),
}

impl Contender {
    fn unit(name: &str, uri: String) -> Self {
        Self { name: name.into(), read: Read::Unit(uri) }
    }

    /// Reads per second.
    fn rate(&self, reads: Reads, settings: &Settings) -> anyhow::Result<f64> {
        match &self.read {
            Read::Unit(uri) => iscsi_perf(uri, reads, settings.seconds),
            Read::File(file) => fio_file(file, settings.size_bytes, reads.load(), settings.seconds),
        }
    }
}

pub(super) fn measure(stage: &Stage<'_>) -> anyhow::Result<[Figure; 3]> {
    let (target, image) = image(stage)?;
    let (long, machine, _) = long_history::start(stage, "iscsi-point", LISTEN)?;
    let point = Contender::unit("landfall", long.export_iscsi(&format!("{machine}@latest"))?);
    let (cached, direct) = (tgt(stage, Store::Cached)?, tgt(stage, Store::Direct)?);
    let file = stage.scratch.join("iscsi-device.raw");
    stage.image.copy_to(&file)?;
    let device = Contender { name: "fio on the file, no target".into(), read: Read::File(file) };
    let [cached_unit, direct_unit] =
        [&cached, &direct].map(|tgt| Contender::unit(tgt.name(), tgt.uri()));
    let peers = [cached_unit, direct_unit, device];
    let random = "4 KiB at random, 32 at a time, one session";
    let sequential = "1 MiB after the other, 32 at a time, one session";
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
    drop((target, long, cached, direct));
    Ok(figures)
}

/// Rounds of landfall and all `peers`.
fn figure(
    stage: &Stage<'_>,
    name: &str,
    what: String,
    reads: Reads,
    (landfall, peers): (&Contender, &[Contender]),
) -> anyhow::Result<Figure> {
    let Settings { rounds, .. } = *stage.settings;
    let all: Vec<_> = std::iter::once(landfall).chain(peers).collect();
    let mut series = vec![Series::default(); all.len()];
    for round in 0..rounds {
        say(&format!("{name}, round {} of {rounds}", round + 1));
        for turn in 0..all.len() {
            let turn = (turn + round as usize) % all.len();
            let rate = all[turn].rate(reads, stage.settings);
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
    Ok((target, Contender::unit("landfall", uri)))
}
