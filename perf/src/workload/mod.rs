//! The workloads, and what they share: one target with one machine that has a history.
//!
//! ```text
//!   copy       an empty target takes the image           beside  nbdcopy into qemu-nbd
//!   unchanged  a pass in which nothing changed           beside  reading and hashing the file
//!   open       connect ─▶ first block of a named point   beside  the same of a raw file in qemu-nbd
//!   nbd        4 KiB at random, 32 at a time             beside  the same of a raw file in qemu-nbd
//!   serve      a raw image, and a point of a million changes   beside  a bare loop, qemu-nbd, nbdkit, a qcow2 chain
//!   iscsi      an image, and a point of a million changes      beside  tgt
//!   fold       history moves into an image              beside  the same writes while no fold is under way
//!   images     raw, VHDX and VMDK as disks               beside  qemu-img bench of the same file
//!   convert    every pair of them                        beside  qemu-img convert
//!   instants   any moment of a stream in order
//!   bytes      journal, index and image per byte          beside  other ways to lay out keys
//!   snapshots  changes, and a point every second          beside  snapshots of btrfs, xfs and qcow2
//! ```
//!
//! They run in this order: `open` and `nbd` want a machine with some thousand batches of history.

mod bytes;
mod convert;
mod copy;
mod fold;
mod images;
mod instants;
mod iscsi;
mod long_history;
mod nbd;
mod open;
mod serve;
mod snapshots;
mod unchanged;

use crate::figure::{Report, Series};
use crate::host;
use crate::image::Image;
use crate::target::Target;
use anyhow::Context;
use std::path::{Path, PathBuf};

/// Passes that make the history; in each, 4 KiB of every MiB change, which makes a batch per MiB.
const HISTORY_PASSES: u64 = 8;
/// The machine that has one.
const MACHINE: &str = "web";

/// What can be measured.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub(crate) enum Workload {
    /// The first copy of an image
    Copy,
    /// A pass over an image that did not change
    Unchanged,
    /// Opening a point by name
    Open,
    /// Random reads of a point, random writes of a branch
    Nbd,
    /// A raw image and a long history over NBD, beside the limit and other servers
    Serve,
    /// An image and a long history over iSCSI, beside tgt
    Iscsi,
    /// Folding history into an image, and writes meanwhile
    Fold,
    /// Raw, VHDX and VMDK images as disks
    Images,
    /// Conversions between them
    Convert,
    /// Finding any instant of a stream that delivers in order
    Instants,
    /// Bytes of journal, index and image
    Bytes,
    /// Changes with a point every second; needs root
    Snapshots,
}

impl Workload {
    pub(crate) const ALL: [Self; 12] = [
        Self::Copy,
        Self::Unchanged,
        Self::Open,
        Self::Nbd,
        Self::Serve,
        Self::Iscsi,
        Self::Fold,
        Self::Images,
        Self::Convert,
        Self::Instants,
        Self::Bytes,
        Self::Snapshots,
    ];
}

/// What to measure with.
pub(crate) struct Settings {
    pub(crate) landfall: PathBuf,
    pub(crate) rounds: u32,
    pub(crate) size_bytes: u64,
    /// Of each round of random access.
    pub(crate) seconds: u32,
}

/// Where it is measured.
struct Stage<'a> {
    settings: &'a Settings,
    /// For files of a workload.
    scratch: &'a Path,
    target: Target,
    image: Image,
}

/// Measures `workloads` in the folder `scratch`.
pub(crate) fn run(
    settings: &Settings,
    workloads: &[Workload],
    scratch: &Path,
) -> anyhow::Result<Report> {
    let parent = scratch.parent().unwrap_or(scratch);
    let mut host = host::now(parent);
    let has = |workload| workloads.contains(&workload);
    say("making an image and starting a target");
    let image = Image::make(&scratch.join("disk.raw"), settings.size_bytes)?;
    let target = Target::start(&settings.landfall, scratch)?;
    let stage = Stage { settings, scratch, target, image };
    let mut figures = Vec::new();
    if has(Workload::Copy) {
        figures.push(copy::measure(&stage).context("copy")?);
    }
    if has(Workload::Unchanged) || has(Workload::Open) || has(Workload::Nbd) {
        stage.target.add_machine(MACHINE, settings.size_bytes)?;
        stage.target.replicate(MACHINE, &stage.image)?;
    }
    if has(Workload::Unchanged) {
        figures.extend(unchanged::measure(&stage).context("unchanged")?);
    }
    if has(Workload::Open) || has(Workload::Nbd) {
        say("making a history");
        for pass in 0..HISTORY_PASSES {
            stage.image.change(pass)?;
            stage.target.replicate(MACHINE, &stage.image)?;
        }
    }
    if has(Workload::Open) {
        figures.push(open::measure(&stage).context("open")?);
    }
    if has(Workload::Nbd) {
        figures.extend(nbd::measure(&stage).context("nbd")?);
    }
    if has(Workload::Serve) {
        figures.extend(serve::measure(&stage).context("serve")?);
    }
    if has(Workload::Iscsi) {
        figures.extend(iscsi::measure(&stage).context("iscsi")?);
    }
    if has(Workload::Fold) {
        figures.extend(fold::measure(&stage).context("fold")?);
    }
    if has(Workload::Images) {
        figures.extend(images::measure(&stage).context("images")?);
    }
    if has(Workload::Convert) {
        figures.extend(convert::measure(&stage).context("convert")?);
    }
    if has(Workload::Instants) {
        figures.extend(instants::measure(&stage).context("instants")?);
    }
    if has(Workload::Bytes) {
        figures.extend(bytes::measure(&stage).context("bytes")?);
    }
    if has(Workload::Snapshots) {
        figures.extend(snapshots::measure(&stage).context("snapshots")?);
    }
    host.load_after = host::load();
    Ok(Report::new(host, figures))
}

impl Stage<'_> {
    /// Landfall and its peer in turns, once each per round. Who begins changes from round to round.
    fn in_turns(
        &self,
        what: &str,
        mut ours: impl FnMut(u32) -> anyhow::Result<f64>,
        mut theirs: impl FnMut(u32) -> anyhow::Result<f64>,
    ) -> anyhow::Result<(Series, Series)> {
        let (mut our_series, mut their_series) = (Series::default(), Series::default());
        for round in 0..self.settings.rounds {
            say(&format!("{what}, round {} of {}", round + 1, self.settings.rounds));
            if round.is_multiple_of(2) {
                our_series.push(ours(round)?);
                their_series.push(theirs(round)?);
            } else {
                their_series.push(theirs(round)?);
                our_series.push(ours(round)?);
            }
        }
        Ok((our_series, their_series))
    }

    fn size_mib(&self) -> u64 {
        self.settings.size_bytes >> 20
    }

    /// Batches of the history.
    fn batches(&self) -> u64 {
        HISTORY_PASSES * self.size_mib()
    }
}

/// Progress, for whoever waits.
pub(crate) fn say(text: &str) {
    eprintln!("landfall-perf: {text}");
}
