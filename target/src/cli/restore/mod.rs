//! `landfall restore`: writes disks as they were at a moment into files.
//!
//! ```text
//!   NAME ─control─▶ one moment, absolute names ─NBD─▶ OUTPUT.partial ─sync, rename─▶ OUTPUT
//! ```
//!
//! A raw file that lies on the file system of the machine's raw image starts as a second name for the image's blocks, where the
//! file system can do that, and gets blocks of its own where the moment differs. What differs is found by comparing all of it:
//! the image is a guess that costs nothing when it is wrong, and nothing depends on who writes to it.
//!
//! Raw files are written with tokio-uring; images of a format by the I/O engine, which knows formats, on a thread of its own.
//!
//! **Invariants:** a file under its final name is complete and durable; what was there is replaced only with `--force`,
//! and only once the new one is complete.

mod copy;
mod image;
pub(super) mod link;
mod output;
pub(super) mod partial;
pub(super) mod remote;

use super::{Place, say};
use crate::cli::progress::Progress;
use crate::http::client::escaped;
use crate::http::messages::{Moment, MomentDisk};
use crate::images::create::Kind;
use crate::units::ByteSize;
use anyhow::{Context, bail, ensure};
use copy::Copied;
use image::Wanted;
use landfall_disks::image::Format;
use link::{Link, Server};
use output::Output;
use partial::Partial;
use std::path::{Path, PathBuf};
use std::time::Instant;
use tokio::signal::unix::{SignalKind, signal};

/// Write disks as they were at a moment into files
///
/// The files are small: what is zeroes takes no space. Each is written as FILE.partial and gets its name when it is complete
/// and durable; an image of several files is written in a folder FILE.partial.
///
/// A VMDK is made as ESXi boots it: FILE.vmdk and FILE-flat.vmdk (kind vmfs). Other kinds are monolithicSparse,
/// monolithicFlat, twoGbMaxExtentSparse, twoGbMaxExtentFlat and streamOptimized; a VHDX or VHD is dynamic or fixed. Images
/// carry the identity that the machine's disk has, so that guests find the disk they know.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  landfall restore web@-15m --output /srv/web.raw             # a machine with one disk
  landfall restore db@tag:before-update --output /srv/db/     # all disks: /srv/db/os.raw, /srv/db/data.raw
  landfall restore db@2026-11-21T14:03:05Z --disk data --output /srv/data.raw
  landfall restore web@latest --format vhdx --output /srv/web.vhdx
  landfall restore web@latest --format vmdk --kind streamOptimized --output /srv/web.vmdk

To write into a device, copy from the address that `landfall point list` shows: nbdcopy URI /dev/sdX")]
pub(super) struct Restore {
    /// MACHINE@WHEN or MACHINE/DISK@WHEN
    name: String,
    /// This disk only
    #[arg(long)]
    disk: Option<String>,
    /// Format of the files: raw, vmdk, vhdx or vhd
    #[arg(long, default_value_t = Format::Raw)]
    format: Format,
    /// Kind of the format [default: vmfs for VMDK, dynamic for VHDX and VHD]
    #[arg(long, value_name = "KIND")]
    kind: Option<String>,
    /// File for one disk; folder for several, which get DISK.FORMAT in it
    #[arg(long, value_name = "FILE-OR-DIR")]
    output: PathBuf,
    /// Replace files that exist
    #[arg(long)]
    force: bool,
}

/// A signal came before everything was restored.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("stopped by a signal: what was not complete has been removed")]
pub(super) struct Interrupted;

impl Restore {
    pub(super) fn run(self, place: &Place) -> anyhow::Result<()> {
        let kind = match &self.kind {
            None => Kind::usual(self.format),
            Some(name) => Kind::named(self.format, name).map_err(anyhow::Error::msg)?,
        };
        let control = place.control()?;
        let name = with_disk(&self.name, self.disk.as_deref())?;
        let moment: Moment = control.get(&format!("/v1/moment?name={}", escaped(&name)))?;
        let server = Server::of(&moment)?;
        let files = files(&moment.disks, &self.output, self.format)?;
        for (_, path) in &files {
            output::check(path, self.force)?;
        }
        say(&format!("{} of {}", moment.name, moment.time));
        let wanted = Wanted { format: self.format, kind };
        for (disk, path) in files {
            let begun = Instant::now();
            let progress = Progress::new(&disk.name, disk.size_bytes);
            let made = match self.format {
                Format::Raw => {
                    let restored = restore(&server, disk, &path, self.force, &progress);
                    let copied = tokio_uring::start(restored)?;
                    copied.in_words(disk.size_bytes)
                }
                _ => {
                    let restored =
                        restore_image(&server, disk, &path, self.force, &wanted, &progress);
                    let bytes = ByteSize::new(tokio_uring::start(restored)?);
                    format!("{} {}, {bytes} on disk", self.format, wanted.kind.name())
                }
            };
            let took = begun.elapsed().as_secs_f64();
            say(&format!("disk {} restored to {}: {made}, {took:.1} s", disk.name, path.display()));
        }
        Ok(())
    }
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
    format: Format,
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
    Ok(disks.iter().map(|disk| (disk, output.join(format!("{}.{format}", disk.name)))).collect())
}

async fn restore(
    server: &Server,
    disk: &MomentDisk,
    path: &Path,
    force: bool,
    progress: &Progress,
) -> anyhow::Result<Copied> {
    let mut output = Output::create(path, disk.size_bytes)?;
    let copied = unless_stopped(async {
        let link = Link::open(server, disk).await?;
        if let Some(image) = &disk.image {
            output.take_over(Path::new(image)).await?;
        }
        let copied = copy::run(link.client(), &output, progress).await?;
        link.close().await?;
        Ok(copied)
    });
    let copied = copied.await;
    progress.clear();
    match copied {
        Ok(copied) => output.finish(force).await.map(|()| copied),
        Err(error) => {
            output.discard();
            Err(error)
        }
    }
}

/// The same into an image of a format; how many bytes its files take.
async fn restore_image(
    server: &Server,
    disk: &MomentDisk,
    path: &Path,
    force: bool,
    wanted: &Wanted,
    progress: &Progress,
) -> anyhow::Result<u64> {
    let partial = Partial::create(path)?;
    let written = unless_stopped(image::run(server, disk, &partial, wanted, progress)).await;
    progress.clear();
    match written.and_then(|bytes| partial.check(force).map(|()| bytes)) {
        Ok(bytes) => partial.finish(force).map(|()| bytes),
        Err(error) => {
            partial.discard();
            Err(error)
        }
    }
}

/// Does `work`, unless a signal comes first.
async fn unless_stopped<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let mut interrupt = signal(SignalKind::interrupt()).context("listening for signals")?;
    let mut terminate = signal(SignalKind::terminate()).context("listening for signals")?;
    tokio::select! {
        done = work => done,
        _ = interrupt.recv() => Err(Interrupted.into()),
        _ = terminate.recv() => Err(Interrupted.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk(name: &str) -> MomentDisk {
        MomentDisk {
            name: name.to_owned(),
            size_bytes: 1,
            nbd_name: String::new(),
            identity: String::new(),
            image: None,
            format: String::new(),
        }
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
            files(disks, output, Format::Raw).unwrap().into_iter().map(|(_, path)| path).collect()
        };
        assert_eq!(paths(&one, &file), std::slice::from_ref(&file));
        assert_eq!(paths(&one, folder.path()), [folder.path().join("os.raw")]);
        let new = folder.path().join("new");
        assert_eq!(paths(&two, &new), [new.join("os.raw"), new.join("data.raw")]);
        std::fs::write(&file, "x").unwrap();
        assert!(files(&two, &file, Format::Raw).unwrap_err().to_string().contains("--disk"));
    }
}
