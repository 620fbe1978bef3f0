//! Serving over iSCSI: a machine whose image is all there is of it, and a point behind which lies a long history.
//!
//! ```text
//!   from memory       landfall, all of it in the read cache   │ tgt through the page cache, which holds all of its file
//!   from the device   landfall without a read cache           │ tgt direct │ fio on the file, no target
//! ```
//!
//! landfall serves a machine whose image is all there is of it, and the newest point of a million changes of 4 KiB; the others a raw
//! file each. All take turns within a round, and begin at another one in each. Whoever reads from memory has read everything once
//! before. Reads of 1 MiB pass by landfall's cache, so there they all are in one table. fio has the file to itself, which is all that
//! the device gives anybody.
//!
//! iscsi-perf reads at any sector: most of its requests of 4 KiB touch two blocks, which lie apart where there is a history.

use super::long_history::{self, CHANGES};
use super::{Settings, Stage, say};
use crate::figure::{Figure, Peer, Series, Unit};
use crate::peer::fio_file;
use crate::target::{NO_READ_CACHE, Target};
use crate::tgt::{Reads, Store, Tgt, iscsi_perf, warm};
use anyhow::Context;
use std::path::PathBuf;

const MACHINE: &str = "plain";
const LISTEN: &str = "\n[listen]\niscsi = \"127.0.0.1:0\"\n";
/// Room for the whole disk.
const READ_CACHE: &str = "\n[memory]\nread_cache = \"2GiB\"\n";
/// Time in which every server here reads as much as several times the disk.
const WARMING_SECONDS: u32 = 5;

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

    fn of_tgt(tgt: &Tgt) -> Self {
        Self::unit(tgt.name(), tgt.uri())
    }

    /// Reads per second.
    fn rate(&self, reads: Reads, settings: &Settings) -> anyhow::Result<f64> {
        match &self.read {
            Read::Unit(uri) => iscsi_perf(uri, reads, settings.seconds),
            Read::File(file) => fio_file(file, settings.size_bytes, reads.load(), settings.seconds),
        }
    }
}

pub(super) fn measure(stage: &Stage<'_>) -> anyhow::Result<Vec<Figure>> {
    let cached = Tgt::on_a_copy(stage, Store::Cached)?;
    let direct = Tgt::on_a_copy(stage, Store::Direct)?;
    let [in_memory, on_device] = [&cached, &direct].map(Contender::of_tgt);
    let file = stage.scratch.join("iscsi-device.raw");
    stage.image.copy_to(&file)?;
    let device = Contender { name: "fio on the file, no target".into(), read: Read::File(file) };
    let random = "4 KiB at random, 32 at a time, one session";
    let sequential = "1 MiB after the other, 32 at a time, one session";
    let mut figures = Vec::new();
    {
        let (_target, image) = image(stage, "iscsi-image-cached", READ_CACHE)?;
        let all = [&image, &in_memory];
        warm_up(&all)?;
        let what = format!("reads of a raw image, from memory: {random}");
        figures.push(figure(stage, ("iscsi-raw-read-cached", what), Reads::Random, &all)?);
    }
    {
        let (_target, image) = image(stage, "iscsi-image", NO_READ_CACHE)?;
        let what = format!("reads of a raw image, from the device: {random}");
        let all = [&image, &on_device, &device];
        figures.push(figure(stage, ("iscsi-raw-read", what), Reads::Random, &all)?);
        let what = format!("reads of a raw image: {sequential}");
        let all = [&image, &in_memory, &on_device, &device];
        figures.push(figure(stage, ("iscsi-raw-read-1m", what), Reads::Sequential, &all)?);
    }
    let of = format!("a point of {CHANGES} changes");
    {
        let (_target, point) = point(stage, "iscsi-point-cached", READ_CACHE)?;
        let all = [&point, &in_memory];
        warm_up(&all)?;
        let what = format!("reads of {of}, from memory: {random}; tgt serves a raw image");
        figures.push(figure(stage, ("iscsi-point-read-cached", what), Reads::Random, &all)?);
    }
    let (_target, point) = point(stage, "iscsi-point", NO_READ_CACHE)?;
    let what = format!("reads of {of}, from the device: {random}; the others have a raw image");
    let all = [&point, &on_device, &device];
    figures.push(figure(stage, ("iscsi-point-read", what), Reads::Random, &all)?);
    Ok(figures)
}

/// Has everybody read all of the disk.
fn warm_up(contenders: &[&Contender]) -> anyhow::Result<()> {
    for contender in contenders {
        let Read::Unit(uri) = &contender.read else { unreachable!("a file has no memory") };
        warm(uri, WARMING_SECONDS).with_context(|| contender.name.clone())?;
    }
    Ok(())
}

/// Rounds of all `contenders`, the first of which is landfall.
fn figure(
    stage: &Stage<'_>,
    (name, what): (&str, String),
    reads: Reads,
    contenders: &[&Contender],
) -> anyhow::Result<Figure> {
    let Settings { rounds, .. } = *stage.settings;
    let mut series = vec![Series::default(); contenders.len()];
    for round in 0..rounds {
        say(&format!("{name}, round {} of {rounds}", round + 1));
        for turn in 0..contenders.len() {
            let turn = (turn + round as usize) % contenders.len();
            let rate = contenders[turn].rate(reads, stage.settings);
            series[turn].push(rate.with_context(|| contenders[turn].name.clone())?);
        }
    }
    let mut series = series.into_iter();
    let landfall = series.next().context("nobody was measured")?;
    let peers = contenders[1..].iter().zip(series);
    let peers = peers.map(|(peer, series)| Peer { name: peer.name.clone(), series }).collect();
    Ok(Figure { name: name.into(), what, unit: Unit::RequestsPerSecond, landfall, peers })
}

impl Tgt {
    fn on_a_copy(stage: &Stage<'_>, store: Store) -> anyhow::Result<Self> {
        let folder = stage.scratch.join(format!("tgt-{store:?}"));
        std::fs::create_dir(&folder)?;
        let file = folder.join("disk.raw");
        stage.image.copy_to(&file)?;
        Self::start(&file, &folder, store)
    }
}

/// A machine that was copied: there is nothing of it but the image.
fn image(stage: &Stage<'_>, name: &str, memory: &str) -> anyhow::Result<(Target, Contender)> {
    let (folder, config) = (stage.scratch.join(name), format!("{LISTEN}{memory}"));
    let target = Target::with_config(&stage.settings.landfall, &folder, &config)?;
    target.add_machine(MACHINE, stage.settings.size_bytes)?;
    target.replicate(MACHINE, &stage.image)?;
    let uri = target.export_iscsi(&format!("{MACHINE}@latest"))?;
    Ok((target, Contender::unit("landfall", uri)))
}

/// The newest point of a long history.
fn point(stage: &Stage<'_>, name: &str, memory: &str) -> anyhow::Result<(Target, Contender)> {
    let (target, machine, _) = long_history::start(stage, name, &format!("{LISTEN}{memory}"))?;
    let uri = target.export_iscsi(&format!("{machine}@latest"))?;
    Ok((target, Contender::unit("landfall", uri)))
}
