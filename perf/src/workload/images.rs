//! Image formats: `Disk` beside `qemu-img bench` on the same file, and our formats beside our raw.
//!
//! `qemu-img bench` goes through a file in strides; so do we, in the same ones. A stride of a prime number of blocks that is far
//! larger than a block of any format is as good as random for all involved: nothing is found twice in a row.

use super::{Stage, say};
use crate::figure::{Figure, Peer, Series, Unit};
use crate::process::output;
use anyhow::{Context, ensure};
use futures_util::TryStreamExt;
use futures_util::stream::FuturesUnordered;
use landfall_disks::image::{Access, BesideTheImage, Format, Location, Opener, Wishes, create};
use landfall_disks::uring::{Core, Directory, Engine, EngineSettings};
use landfall_disks::{Buffer, ByteOffset, ByteRange, Disk, Durability};
use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Instant;

/// What qemu-img writes; zeroes might be treated as such.
const PATTERN: u8 = 0xa5;
/// Blocks of 4 KiB between two small requests: a prime, and more than a block of VHDX.
const STRIDE_BLOCKS: u64 = 9973;
const SMALL: u64 = 4 << 10;
const LARGE: u64 = 1 << 20;

const FORMATS: [Format; 3] = [Format::Raw, Format::Vhdx, Format::Vmdk];

/// One way to go through an image.
#[derive(Clone, Copy)]
struct Way {
    name: &'static str,
    what: &'static str,
    bytes: u64,
    step: u64,
    writes: bool,
    /// Into an image that has nothing yet.
    allocating: bool,
}

impl Way {
    /// Requests under way.
    fn depth(self) -> u64 {
        if self.bytes == LARGE { 8 } else { 32 }
    }
}

const WAYS: [Way; 6] = [
    Way {
        name: "read-4k",
        what: "4 KiB reads in long strides",
        bytes: SMALL,
        step: SMALL * STRIDE_BLOCKS,
        writes: false,
        allocating: false,
    },
    Way {
        name: "write-4k",
        what: "4 KiB writes in long strides",
        bytes: SMALL,
        step: SMALL * STRIDE_BLOCKS,
        writes: true,
        allocating: false,
    },
    Way {
        name: "allocate-4k",
        what: "4 KiB writes in long strides into an empty image",
        bytes: SMALL,
        step: SMALL * STRIDE_BLOCKS,
        writes: true,
        allocating: true,
    },
    Way {
        name: "read-1m",
        what: "1 MiB reads in order",
        bytes: LARGE,
        step: LARGE,
        writes: false,
        allocating: false,
    },
    Way {
        name: "write-1m",
        what: "1 MiB writes in order",
        bytes: LARGE,
        step: LARGE,
        writes: true,
        allocating: false,
    },
    Way {
        name: "allocate-1m",
        what: "1 MiB writes in order into an empty image",
        bytes: LARGE,
        step: LARGE,
        writes: true,
        allocating: true,
    },
];

/// Two series per format.
#[derive(Default)]
struct Both {
    ours: [Series; FORMATS.len()],
    theirs: [Series; FORMATS.len()],
}

pub(super) fn measure(stage: &Stage<'_>) -> anyhow::Result<Vec<Figure>> {
    let settings = EngineSettings { cores: 1, ..EngineSettings::default() };
    let engine = Engine::start(settings).context("starting io_uring")?;
    let core = &engine.cores()[0];
    let folder = stage.scratch.join("images");
    std::fs::create_dir_all(&folder)?;
    let size_bytes = stage.settings.size_bytes;
    let mut figures = Vec::new();
    for way in WAYS {
        let count = requests(way, size_bytes);
        let mut both = Both::default();
        for round in 0..stage.settings.rounds {
            say(&format!("images, {}, round {} of {}", way.name, round + 1, stage.settings.rounds));
            for (index, format) in FORMATS.into_iter().enumerate() {
                // Who begins changes from round to round.
                for turn in [round, round + 1] {
                    let file = fresh(core, &folder, format, size_bytes, way)?;
                    let mine = turn.is_multiple_of(2);
                    let rate = if mine {
                        ours(core, &file, format, way, count)?
                    } else {
                        theirs(&file, format, way, count)?
                    };
                    let side = if mine { &mut both.ours } else { &mut both.theirs };
                    side[index].push(rate);
                }
            }
        }
        figures.extend(figures_of(way, both));
    }
    engine.stop();
    Ok(figures)
}

/// As many as go through the image once, but enough to measure and not so many that rounds take minutes.
fn requests(way: Way, size_bytes: u64) -> u64 {
    if way.bytes == LARGE { size_bytes / LARGE } else { (size_bytes / SMALL).min(40_000) }
}

fn figures_of(way: Way, both: Both) -> Vec<Figure> {
    let Both { ours, theirs } = both;
    let raw = ours[0].clone();
    let mut figures = Vec::new();
    for ((format, ours), theirs) in FORMATS.into_iter().zip(ours).zip(theirs) {
        let figure = |name: String, peer: &str, series: Series| Figure {
            name,
            what: format!("{}, {format}, {} under way", way.what, way.depth()),
            unit: Unit::RequestsPerSecond,
            landfall: ours.clone(),
            peers: vec![Peer { name: peer.to_owned(), series }],
        };
        let name = format!("{format}-{}", way.name);
        figures.push(figure(name.clone(), "qemu-img bench -t none", theirs));
        if format != Format::Raw {
            figures.push(figure(format!("{name}-to-raw"), "landfall, raw", raw.clone()));
        }
    }
    figures
}

/// The image to measure: empty, or with all its blocks in place.
fn fresh(
    core: &Core,
    folder: &Path,
    format: Format,
    size_bytes: u64,
    way: Way,
) -> anyhow::Result<PathBuf> {
    let name = if way.allocating { "empty" } else { "full" };
    let file = folder.join(format!("{name}.{format}"));
    if !way.allocating && file.exists() {
        return Ok(file);
    }
    if file.exists() {
        std::fs::remove_file(&file)?;
    }
    let location = locate(&file)?;
    let fill = !way.allocating;
    core.block_on(move || async move {
        let wishes = Wishes::new(format, size_bytes);
        create(&location, &wishes, None, &BesideTheImage).await?;
        if fill {
            let image =
                Opener::new(&BesideTheImage).open(&location, Some(format), Access::Write).await?;
            let way = Way { bytes: LARGE, step: LARGE, writes: true, ..WAYS[0] };
            go_through(&*image.disk, way, size_bytes / LARGE).await?;
            image.disk.flush().await?;
        }
        anyhow::Ok(())
    })
    .context("the I/O core ended")??;
    Ok(file)
}

fn locate(file: &Path) -> anyhow::Result<Location> {
    let parent = file.parent().context("a file is in a folder")?;
    let name = file.file_name().context("a file has a name")?;
    Ok(Location { folder: Arc::new(Directory::open(parent)?), path: name.into() })
}

fn ours(core: &Core, file: &Path, format: Format, way: Way, count: u64) -> anyhow::Result<f64> {
    let location = locate(file)?;
    core.block_on(move || async move {
        let mut opener = Opener::new(&BesideTheImage);
        let image = opener.open(&location, Some(format), Access::Write).await?;
        let begun = Instant::now();
        go_through(&*image.disk, way, count).await?;
        let took = begun.elapsed();
        image.disk.flush().await?;
        Ok(rate(count, took.as_secs_f64()))
    })
    .context("the I/O core ended")?
}

/// What `qemu-img bench` does: the same number of requests, the next one a step behind the last, modulo the size, and begun by the
/// end of another. To the block: with another way around the end the same disk takes 4 KiB writes 7 % slower.
async fn go_through(disk: &dyn Disk, way: Way, count: u64) -> anyhow::Result<()> {
    let size = disk.geometry().size_bytes;
    // So that nobody reaches across the end.
    ensure!(size.is_multiple_of(way.bytes), "an image of {size} bytes is not whole requests");
    let next = Cell::new((0, 0));
    let hands: FuturesUnordered<_> = (0..way.depth())
        .map(|_| async {
            loop {
                let (number, offset): (u64, u64) = next.get();
                if number == count {
                    return anyhow::Ok(());
                }
                next.set((number + 1, (offset + way.step) % size));
                request(disk, way, ByteOffset::new(offset)).await?;
            }
        })
        .collect();
    hands.try_collect().await
}

async fn request(disk: &dyn Disk, way: Way, at: ByteOffset) -> anyhow::Result<()> {
    if way.writes {
        // Not filled with every request, as qemu-img does not: what the memory holds is written.
        let data = Buffer::for_overwriting(usize::try_from(way.bytes)?);
        disk.write(at, data, Durability::Cached).await?;
    } else {
        disk.read(ByteRange::at(at, way.bytes).context("on the disk")?).await?;
    }
    Ok(())
}

fn theirs(file: &Path, format: Format, way: Way, count: u64) -> anyhow::Result<f64> {
    let mut command = Command::new("qemu-img");
    command.args(["bench", "-t", "none", "-i", "io_uring", "-f", format.name()]);
    command.args(["-c", &count.to_string(), "-d", &way.depth().to_string()]);
    command.args(["-s", &way.bytes.to_string(), "-S", &way.step.to_string()]);
    if way.writes {
        command.args(["-w", &format!("--pattern={PATTERN}")]);
    }
    let text = output(command.arg(file))?;
    let seconds = text
        .split("completed in ")
        .nth(1)
        .and_then(|rest| rest.split(' ').next())
        .and_then(|seconds| seconds.parse::<f64>().ok());
    let seconds = seconds.with_context(|| format!("no time in what qemu-img said: {text}"))?;
    ensure!(seconds > 0.0, "qemu-img measured no time at all");
    Ok(rate(count, seconds))
}

#[expect(clippy::cast_precision_loss, reason = "far fewer requests than 2^52")]
fn rate(count: u64, seconds: f64) -> f64 {
    count as f64 / seconds
}
