//! Points kept by others: a snapshot of btrfs, a copy on xfs that shares blocks, an internal snapshot of qcow2, beside a mark.
//!
//! Each contender has a file system of its own behind a loop device, gets the same changes for the same time, flushes as
//! often, and makes a point every second that is durable before it goes on. Who begins changes from round to round.
//!
//! ```text
//!   rate      changes acknowledged per second, points included
//!   written   bytes that reached the device, per byte changed
//!   space     bytes that are in use afterwards, beyond the first copy, per byte changed
//!   open      from asking until the first block of a point is there over NBD: others start a server for it
//! ```

mod files;
mod load;
mod ours;
mod qcow2;
mod volume;

use super::{Stage, say};
use crate::figure::{Figure, Peer, Series, Unit};
use crate::first_block::first_block;
use crate::image::Image;
use files::Files;
use landfall_disks::BLOCK_SIZE;
use landfall_disks::uring::{Core, Engine, EngineSettings};
use load::{Done, Load};
use ours::Ours;
use qcow2::Qcow2;
use std::path::Path;
use std::time::Instant;
use tokio::runtime::Runtime;
use volume::{FileSystem, Volume};

/// Bytes of the disk that is changed.
const DISK_BYTES: u64 = 256 << 20;
/// Room for everything that a round may write.
const VOLUME_BYTES: u64 = 12 << 30;
/// A round is so many times as long as one of random access.
const TIMES_AS_LONG: u32 = 4;
/// Points opened per round.
const OPENED: u32 = 5;

/// Who keeps points.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Contender {
    Landfall,
    Btrfs,
    Xfs,
    Qcow2,
}

impl Contender {
    const ALL: [Self; 4] = [Self::Landfall, Self::Btrfs, Self::Xfs, Self::Qcow2];

    fn name(self) -> &'static str {
        match self {
            Self::Landfall => "landfall",
            Self::Btrfs => "btrfs, a snapshot per point",
            Self::Xfs => "xfs, a copy that shares blocks per point",
            Self::Qcow2 => "qcow2 on xfs, an internal snapshot per point",
        }
    }

    fn short(self) -> &'static str {
        match self {
            Self::Landfall => "landfall",
            Self::Btrfs => "btrfs",
            Self::Xfs => "xfs",
            Self::Qcow2 => "qcow2",
        }
    }
}

/// What was measured of a contender, round by round.
#[derive(Clone, Default)]
struct Found {
    rate: Series,
    written: Series,
    space: Series,
    open: Series,
}

pub(super) fn measure(stage: &Stage<'_>) -> anyhow::Result<Vec<Figure>> {
    let folder = stage.scratch.join("snapshots");
    std::fs::create_dir_all(&folder)?;
    let image = Image::make(&folder.join("first.raw"), DISK_BYTES)?;
    let settings = EngineSettings { cores: 1, ..EngineSettings::default() };
    let mut found: [Found; 4] = Default::default();
    for round in 0..stage.settings.rounds {
        for turn in 0..Contender::ALL.len() {
            let number = (turn + round as usize) % Contender::ALL.len();
            let contender = Contender::ALL[number];
            say(&format!(
                "a point every second, {}, round {} of {}",
                contender.short(),
                round + 1,
                stage.settings.rounds
            ));
            let place = folder.join(format!("{}-{round}", contender.short()));
            std::fs::create_dir_all(&place)?;
            let engine = Engine::start(settings)?;
            let turn =
                Turn { stage, image: &image, core: &engine.cores()[0], place: &place, round };
            turn.take(contender, &mut found[number])?;
            engine.stop();
            std::fs::remove_dir_all(&place)?;
        }
    }
    Ok(figures(&found))
}

/// One contender's turn.
struct Turn<'a> {
    stage: &'a Stage<'a>,
    image: &'a Image,
    core: &'a Core,
    place: &'a Path,
    round: u32,
}

impl Turn<'_> {
    fn load(&self) -> (Load, u32) {
        (Load::new(DISK_BYTES, self.round), self.stage.settings.seconds * TIMES_AS_LONG)
    }

    fn take(&self, contender: Contender, found: &mut Found) -> anyhow::Result<()> {
        let system = match contender {
            Contender::Btrfs => FileSystem::Btrfs,
            Contender::Landfall | Contender::Xfs | Contender::Qcow2 => FileSystem::Xfs,
        };
        let volume = Volume::make(self.place, system, VOLUME_BYTES)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (load, seconds) = self.load();
        let socket = |number: u32| self.place.join(format!("{number}.sock"));
        match contender {
            Contender::Landfall => {
                let ours = Ours::make(volume.at(), self.image)?;
                let mut points = Vec::new();
                self.ingest(&volume, found, || {
                    let (done, made) = ours.run(load, seconds)?;
                    points = made;
                    Ok(done)
                })?;
                let target = ours.serve(&self.stage.settings.landfall)?;
                for number in 0..OPENED.min(u32::try_from(points.len())?) {
                    let name = &points[number as usize];
                    found.open.push(self.open(&runtime, || Ok(()), &target.nbd_socket(), name)?);
                }
            }
            Contender::Btrfs | Contender::Xfs => {
                let files = Files::make(&volume, system, self.image)?;
                let done = self.ingest(&volume, found, || files.run(self.core, load, seconds))?;
                for number in 1..=OPENED.min(done.points) {
                    let serve = || files.serve(number, &socket(number));
                    found.open.push(self.open(&runtime, serve, &socket(number), "")?);
                }
            }
            Contender::Qcow2 => {
                let qcow2 = Qcow2::make(&volume, self.place, self.image)?;
                let done = self.ingest(&volume, found, || qcow2.run(load, seconds))?;
                for number in 1..=OPENED.min(done.points) {
                    let serve = || qcow2.serve(number, &socket(number));
                    found.open.push(self.open(&runtime, serve, &socket(number), "")?);
                }
            }
        }
        Ok(())
    }

    /// Runs the load, and looks at the device before and after.
    fn ingest(
        &self,
        volume: &Volume,
        found: &mut Found,
        run: impl FnOnce() -> anyhow::Result<Done>,
    ) -> anyhow::Result<Done> {
        let (written, used) = (volume.written_bytes()?, volume.used_bytes()?);
        let done = run()?;
        let changed = as_float(done.changes * BLOCK_SIZE);
        found.rate.push(as_float(done.changes) / done.seconds);
        found.written.push(as_float(volume.written_bytes()? - written) / changed);
        found.space.push(as_float(volume.used_bytes()?.saturating_sub(used)) / changed);
        Ok(done)
    }

    /// Seconds from asking for a server until the first block of what it serves is there.
    fn open<T>(
        &self,
        runtime: &Runtime,
        serve: impl FnOnce() -> anyhow::Result<T>,
        socket: &Path,
        name: &str,
    ) -> anyhow::Result<f64> {
        let begun = Instant::now();
        let server = serve()?;
        first_block(runtime, socket, name, DISK_BYTES / 2)?;
        let took = begun.elapsed().as_secs_f64();
        drop(server);
        Ok(took)
    }
}

#[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
fn as_float(number: u64) -> f64 {
    number as f64
}

/// Name, what was done, unit, and where it is.
type Metric = (&'static str, &'static str, Unit, fn(&Found) -> &Series);

fn figures(found: &[Found; 4]) -> Vec<Figure> {
    let metrics: [Metric; 4] = [
        (
            "rate",
            "4 KiB changes per second at random places, 512 per flush, a durable point every second",
            Unit::RequestsPerSecond,
            |found| &found.rate,
        ),
        ("written", "bytes written to the device for each byte changed", Unit::Factor, |found| {
            &found.written
        }),
        (
            "space",
            "bytes in use afterwards for each byte changed, beyond the first copy",
            Unit::Factor,
            |found| &found.space,
        ),
        (
            "open",
            "from asking until the first block of a point is there over NBD; others start a server",
            Unit::Seconds,
            |found| &found.open,
        ),
    ];
    let mut figures = Vec::new();
    for (metric, what, unit, of) in metrics {
        for (contender, peer) in Contender::ALL.into_iter().zip(found).skip(1) {
            figures.push(Figure {
                name: format!("points-{metric}-{}", contender.short()),
                what: what.into(),
                unit,
                landfall: of(&found[0]).clone(),
                peers: vec![Peer { name: contender.name().into(), series: of(peer).clone() }],
            });
        }
    }
    figures
}
