//! Folding: how fast history moves into an image, and what writes pay for it.
//!
//! ```text
//!   the image is rewritten ─▶ replicated ─▶ every point but the newest let go ─▶ a fold of the whole image
//!                                                                       beside it: fio on a branch, or passes of a stream
//! ```
//!
//! A round counts only if the fold was still under way when its writes had ended.

use super::{Stage, say};
use crate::figure::{Figure, Peer, Series, Unit};
use crate::image::Image;
use crate::peer::fio_write_latency;
use crate::target::Target;
use anyhow::{Context, ensure};
use std::time::{Duration, Instant};

/// The machine that is folded, and the one that is written to meanwhile.
const FOLDED: &str = "folded";
const WRITTEN: &str = "written";
/// Size of the second.
const WRITTEN_BYTES: u64 = 64 << 20;
/// Passes of a stream that are timed together.
const PASSES: u64 = 6;
/// A fold is due as soon as anything can be folded.
const CONFIG: &str = "[fold]\nevery = '1s'\n";
/// Slow enough not to end before the writes beside it have begun; what they leave a fold is far less.
const RATE: &str = "rate = '64MiB'\n";
/// How long a fold may take that nobody disturbs.
const PATIENCE: Duration = Duration::from_secs(600);

pub(super) fn measure(stage: &Stage<'_>) -> anyhow::Result<[Figure; 3]> {
    let (target, folded, _) = start(stage, "fold", CONFIG)?;
    let speed = speed(stage, &mut Folds { target: &target, image: folded, round: 0 })?;
    drop(target);
    let (target, folded, written) = start(stage, "fold-beside", &format!("{CONFIG}{RATE}"))?;
    let branch = target.export_branch(WRITTEN)?;
    let mut folds = Folds { target: &target, image: folded, round: 0 };
    let seconds = stage.settings.seconds;
    let latency = || fio_write_latency(&branch, WRITTEN_BYTES, seconds);
    let writes = beside(stage, &mut folds, "fold-branch-write", latency)?;
    let mut changes = 0;
    let passes = || {
        let mut took = Duration::ZERO;
        for _ in 0..PASSES {
            changes += 1;
            written.change(changes)?;
            took += target.replicate(WRITTEN, &written)?;
        }
        Ok(took.as_secs_f64() / f64::from(u32::try_from(PASSES).expect("few")))
    };
    let stream = beside(stage, &mut folds, "fold-stream", passes)?;
    let figure = |name: &str, what: &str, (landfall, alone): (Series, Series)| Figure {
        name: name.into(),
        what: what.into(),
        unit: Unit::Seconds,
        landfall,
        peers: vec![Peer { name: "no fold under way".into(), series: alone }],
    };
    Ok([
        Figure {
            name: "fold".into(),
            what: format!("{} MiB of history into a raw image, nothing else", stage.size_mib()),
            unit: Unit::MebibytesPerSecond,
            landfall: speed,
            peers: Vec::new(),
        },
        figure(
            "fold-branch-write",
            "median time of durable 4 KiB random writes of a branch, 32 at a time, while another machine is folded",
            writes,
        ),
        figure(
            "fold-stream",
            "a pass of `replicate` that sends 4 KiB of every MiB of 64, while another machine is folded",
            stream,
        ),
    ])
}

/// A target with both machines in a folder of that name; and their images.
fn start(stage: &Stage<'_>, name: &str, config: &str) -> anyhow::Result<(Target, Image, Image)> {
    let folder = stage.scratch.join(name);
    std::fs::create_dir(&folder).context("a folder")?;
    let target = Target::with_config(&stage.settings.landfall, &folder, config)?;
    let folded = Image::make(&folder.join("folded.raw"), stage.settings.size_bytes)?;
    let written = Image::make(&folder.join("written.raw"), WRITTEN_BYTES)?;
    for (machine, image) in [(FOLDED, &folded), (WRITTEN, &written)] {
        target.add_machine(machine, image.size_bytes())?;
        target.replicate(machine, image)?;
    }
    Ok((target, folded, written))
}

/// A machine that can be folded again and again.
struct Folds<'a> {
    target: &'a Target,
    image: Image,
    round: u64,
}

impl Folds<'_> {
    /// Has a fold of the whole image begin; how many had ended before.
    fn begin(&mut self) -> anyhow::Result<u64> {
        self.round += 1;
        self.image.rewrite(self.round)?;
        self.target.replicate(FOLDED, &self.image)?;
        let before = self.target.folds()?;
        self.target.let_go(FOLDED)?;
        Ok(before)
    }

    /// Waits until it has ended; bytes and seconds.
    fn ended(&self, before: u64) -> anyhow::Result<(f64, f64)> {
        let begun = Instant::now();
        loop {
            if self.target.folds()? > before {
                let last = self.target.last_fold(FOLDED)?;
                let bytes = last.bytes.context("no fold ended")?;
                let milliseconds = last.milliseconds.context("no fold ended")?;
                ensure!(bytes >= self.image.size_bytes(), "only {bytes} bytes were folded");
                #[expect(clippy::cast_precision_loss, reason = "a figure of three digits")]
                return Ok((bytes as f64, milliseconds as f64 / 1000.0));
            }
            ensure!(begun.elapsed() < PATIENCE, "the fold does not end");
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

fn speed(stage: &Stage<'_>, folds: &mut Folds<'_>) -> anyhow::Result<Series> {
    let mut speed = Series::default();
    for round in 0..stage.settings.rounds {
        say(&format!("fold, round {} of {}", round + 1, stage.settings.rounds));
        let before = folds.begin()?;
        let (bytes, seconds) = folds.ended(before)?;
        speed.push(bytes / f64::from(1 << 20) / seconds);
    }
    Ok(speed)
}

/// Something that is timed while a fold is under way, and alone.
fn beside(
    stage: &Stage<'_>,
    folds: &mut Folds<'_>,
    what: &str,
    timed: impl FnMut() -> anyhow::Result<f64>,
) -> anyhow::Result<(Series, Series)> {
    let timed = std::cell::RefCell::new(timed);
    let once = || (timed.borrow_mut())();
    stage.in_turns(
        what,
        |_| {
            let before = folds.begin()?;
            let seconds = once()?;
            ensure!(
                folds.target.folds()? == before,
                "the fold had ended before: take a larger --size-mib"
            );
            folds.ended(before)?;
            Ok(seconds)
        },
        |_| once(),
    )
}
