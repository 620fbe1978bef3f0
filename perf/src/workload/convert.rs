//! Conversions: every pair of formats, beside `qemu-img convert` with as much under way.

use super::Stage;
use crate::figure::{Figure, Peer, Unit};
use crate::process::{output, timed};
use anyhow::Context;
use landfall_disks::image::Format;
use std::path::{Path, PathBuf};
use std::process::Command;

const FORMATS: [Format; 3] = [Format::Raw, Format::Vhdx, Format::Vmdk];

pub(super) fn measure(stage: &Stage<'_>) -> anyhow::Result<Vec<Figure>> {
    let folder = stage.scratch.join("convert");
    std::fs::create_dir_all(&folder)?;
    let mut sources = Vec::new();
    for format in FORMATS {
        let source = folder.join(format!("source.{format}"));
        let mut command = Command::new("qemu-img");
        command.args(["convert", "-f", "raw", "-O", format.name()]);
        output(command.arg(stage.image.path()).arg(&source))?;
        sources.push((format, source));
    }
    let mut figures = Vec::new();
    for (from, source) in &sources {
        for to in FORMATS {
            let target = folder.join(format!("target.{to}"));
            let what = format!("convert {from} to {to}");
            let (landfall, series) = stage.in_turns(
                &what,
                |_| ours(stage, source, &target, to),
                |_| theirs(source, *from, &target, to),
            )?;
            let peer = "qemu-img convert -W -m 16 -t none".to_owned();
            figures.push(Figure {
                name: format!("convert-{from}-to-{to}"),
                what: format!("Convert an image of {} MiB from {from} to {to}", stage.size_mib()),
                unit: Unit::Seconds,
                landfall,
                peers: vec![Peer { name: peer, series }],
            });
        }
    }
    Ok(figures)
}

fn ours(stage: &Stage<'_>, source: &Path, target: &PathBuf, to: Format) -> anyhow::Result<f64> {
    prepare(source, target)?;
    let mut command = Command::new(&stage.settings.landfall);
    command.args(["image", "convert", "--format", to.name()]);
    Ok(timed(command.arg(source).arg(target))?.as_secs_f64())
}

fn theirs(source: &Path, from: Format, target: &PathBuf, to: Format) -> anyhow::Result<f64> {
    prepare(source, target)?;
    let mut command = Command::new("qemu-img");
    command.args(["convert", "-W", "-m", "16", "-t", "none", "-f", from.name()]);
    Ok(timed(command.args(["-O", to.name()]).arg(source).arg(target))?.as_secs_f64())
}

/// No target, and nothing of the source in memory: one of the two reads past the page cache.
fn prepare(source: &Path, target: &PathBuf) -> anyhow::Result<()> {
    if target.exists() {
        std::fs::remove_file(target).with_context(|| target.display().to_string())?;
    }
    let file = std::fs::File::open(source).with_context(|| source.display().to_string())?;
    file.sync_all()?;
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed)?;
    Ok(())
}
