//! `landfall restore`: writes disks as they were at a moment into files.
//!
//! ```text
//!   NAME ─control─▶ one moment, absolute names ─NBD─▶ OUTPUT.partial ─sync, rename─▶ OUTPUT
//! ```
//!
//! **Invariants:** a file under its final name is complete and durable; what was there is replaced only with `--force`,
//! and only once the new one is complete.

mod copy;
mod output;
mod progress;

use super::{Place, say};
use crate::http::client::escaped;
use crate::http::messages::{Moment, MomentDisk};
use crate::units::ByteSize;
use anyhow::{Context, bail, ensure};
use clap::ValueEnum;
use copy::{Copied, Server};
use output::Output;
use progress::Progress;
use std::path::{Path, PathBuf};
use std::time::Instant;
use tokio::signal::unix::{SignalKind, signal};

/// Write disks as they were at a moment into files
///
/// The files are sparse. Each is written as FILE.partial and gets its name when it is complete and durable.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  landfall restore web@-15m --output /srv/web.raw             # a machine with one disk
  landfall restore db@tag:before-update --output /srv/db/     # all disks: /srv/db/os.raw, /srv/db/data.raw
  landfall restore db@2026-11-21T14:03:05Z --disk data --output /srv/data.raw

To write into a device, copy from the address that `landfall point list` shows: nbdcopy URI /dev/sdX")]
pub(super) struct Restore {
    /// MACHINE@WHEN or MACHINE/DISK@WHEN
    name: String,
    /// This disk only
    #[arg(long)]
    disk: Option<String>,
    /// Format of the files
    #[arg(long, value_enum, default_value_t = ImageFormat::Raw)]
    format: ImageFormat,
    /// File for one disk; folder for several, which get DISK.raw in it
    #[arg(long, value_name = "FILE-OR-DIR")]
    output: PathBuf,
    /// Replace files that exist
    #[arg(long)]
    force: bool,
}

/// What restored files can be.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum ImageFormat {
    /// The bytes of the disk and nothing else
    Raw,
}

/// A signal came before everything was restored.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("stopped by a signal: what was not complete has been removed")]
pub(super) struct Interrupted;

impl Restore {
    pub(super) fn run(self, place: &Place) -> anyhow::Result<()> {
        let ImageFormat::Raw = self.format;
        let control = place.control()?;
        let name = with_disk(&self.name, self.disk.as_deref())?;
        let moment: Moment = control.get(&format!("/v1/moment?name={}", escaped(&name)))?;
        let server = Server::of(&moment)?;
        let files = files(&moment.disks, &self.output)?;
        for (_, path) in &files {
            output::check(path, self.force)?;
        }
        say(&format!("{} of {}", moment.name, moment.time));
        for (disk, path) in files {
            let begun = Instant::now();
            let copied = tokio_uring::start(restore(&server, disk, &path, self.force))?;
            say(&done(disk, &path, copied, begun));
        }
        Ok(())
    }
}

fn done(disk: &MomentDisk, path: &Path, copied: Copied, begun: Instant) -> String {
    format!(
        "disk {} restored to {}: {} of data, {} of holes, {:.1} s",
        disk.name,
        path.display(),
        ByteSize::new(copied.data_bytes),
        ByteSize::new(disk.size_bytes - copied.data_bytes),
        begun.elapsed().as_secs_f64()
    )
}

/// Puts the disk of `--disk` into the name of a moment.
fn with_disk(name: &str, disk: Option<&str>) -> anyhow::Result<String> {
    let Some(disk) = disk else { return Ok(name.to_owned()) };
    let (place, when) = match name.split_once('@') {
        Some((place, when)) => (place, format!("@{when}")),
        None => (name, String::new()),
    };
    match place.split_once('/') {
        None => Ok(format!("{place}/{disk}{when}")),
        Some((_, named)) if named == disk => Ok(name.to_owned()),
        Some((_, named)) => bail!("the name says disk {named}, --disk says {disk}"),
    }
}

/// Where each disk goes.
fn files<'a>(
    disks: &'a [MomentDisk],
    output: &Path,
) -> anyhow::Result<Vec<(&'a MomentDisk, PathBuf)>> {
    let means_folder = output.as_os_str().as_encoded_bytes().ends_with(b"/");
    if let ([disk], false, false) = (disks, means_folder, output.is_dir()) {
        return Ok(vec![(disk, output.to_owned())]);
    }
    ensure!(
        !output.exists() || output.is_dir(),
        "{} is a file; {} disks need a folder, or name one with --disk",
        output.display(),
        disks.len()
    );
    std::fs::create_dir_all(output).with_context(|| output.display().to_string())?;
    Ok(disks.iter().map(|disk| (disk, output.join(format!("{}.raw", disk.name)))).collect())
}

async fn restore(
    server: &Server,
    disk: &MomentDisk,
    path: &Path,
    force: bool,
) -> anyhow::Result<Copied> {
    let mut interrupt = signal(SignalKind::interrupt()).context("listening for signals")?;
    let mut terminate = signal(SignalKind::terminate()).context("listening for signals")?;
    let output = Output::create(path, disk.size_bytes)?;
    let progress = Progress::new(&disk.name, disk.size_bytes);
    let copied = tokio::select! {
        copied = copy::run(server, disk, &output, &progress) => copied,
        _ = interrupt.recv() => Err(Interrupted.into()),
        _ = terminate.recv() => Err(Interrupted.into()),
    };
    progress.clear();
    match copied {
        Ok(copied) => output.finish(force).await.map(|()| copied),
        Err(error) => {
            output.discard();
            Err(error)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk(name: &str) -> MomentDisk {
        MomentDisk { name: name.to_owned(), size_bytes: 1, nbd_name: String::new() }
    }

    #[test]
    fn the_disk_goes_into_the_name() {
        let name = |name, disk| with_disk(name, disk).expect("they agree");
        assert_eq!(name("web@-15m", Some("os")), "web/os@-15m");
        assert_eq!(name("web~b", Some("os")), "web~b/os");
        assert_eq!(name("web/os@seq:1", Some("os")), "web/os@seq:1");
        assert_eq!(name("web@app", None), "web@app");
        assert!(with_disk("web/os", Some("data")).is_err());
    }

    #[test]
    fn one_disk_may_be_a_file_and_several_need_a_folder() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("x.raw");
        let (one, two) = ([disk("os")], [disk("os"), disk("data")]);
        let paths = |disks, output: &Path| -> Vec<PathBuf> {
            files(disks, output).unwrap().into_iter().map(|(_, path)| path).collect()
        };
        assert_eq!(paths(&one, &file), std::slice::from_ref(&file));
        assert_eq!(paths(&one, folder.path()), [folder.path().join("os.raw")]);
        let new = folder.path().join("new");
        assert_eq!(paths(&two, &new), [new.join("os.raw"), new.join("data.raw")]);
        std::fs::write(&file, "x").unwrap();
        assert!(files(&two, &file).unwrap_err().to_string().contains("--disk"));
    }
}
