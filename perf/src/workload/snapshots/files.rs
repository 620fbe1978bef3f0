//! A raw file on btrfs or xfs, with a snapshot or a copy that shares its blocks per point.

use super::load::{Done, Load, Next, Pace};
use super::volume::{FileSystem, Volume};
use crate::image::Image;
use crate::peer::{QemuNbd, Writes};
use crate::process::output;
use anyhow::Context;
use futures_util::future::try_join_all;
use landfall_disks::raw::RawDisk;
use landfall_disks::uring::{Core, Directory};
use landfall_disks::{Disk, Durability};
use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The file, where points of it are made.
#[derive(Clone)]
pub(super) struct Files {
    system: FileSystem,
    live: PathBuf,
    points: PathBuf,
}

const NAME: &str = "disk.raw";

impl Files {
    /// Puts a copy of `image` there.
    pub(super) fn make(volume: &Volume, system: FileSystem, image: &Image) -> anyhow::Result<Self> {
        let (live, points) = (volume.at().join("live"), volume.at().join("points"));
        match system {
            FileSystem::Btrfs => {
                output(Command::new("btrfs").args(["-q", "subvolume", "create"]).arg(&live))?;
            }
            FileSystem::Xfs => std::fs::create_dir(&live)?,
        }
        std::fs::create_dir(&points)?;
        image.copy_to(&live.join(NAME))?;
        Ok(Self { system, live, points })
    }

    /// Runs the load against the file, in the way that is faster on its file system: xfs past the page cache, btrfs through
    /// it, where many changes make one extent tree update and not one each.
    pub(super) fn run(&self, core: &Core, load: Load, seconds: u32) -> anyhow::Result<Done> {
        match self.system {
            FileSystem::Btrfs => self.run_cached(load, seconds),
            FileSystem::Xfs => self.run_direct(core, load, seconds),
        }
    }

    fn run_cached(&self, mut load: Load, seconds: u32) -> anyhow::Result<Done> {
        let file = OpenOptions::new().write(true).open(self.live.join(NAME))?;
        let mut pace = Pace::begin(seconds);
        loop {
            match pace.next() {
                Next::Group => {
                    for (at, data) in load.group() {
                        file.write_all_at(&data, at.bytes())?;
                    }
                    file.sync_data()?;
                }
                Next::Point(number) => self.make_point(number)?,
                Next::End => return Ok(pace.done()),
            }
        }
    }

    fn run_direct(&self, core: &Core, mut load: Load, seconds: u32) -> anyhow::Result<Done> {
        let folder = Directory::open(&self.live)?;
        let maker = self.clone();
        let running = move || async move {
            let disk = RawDisk::open(&folder, Path::new(NAME), None, false).await?;
            let mut pace = Pace::begin(seconds);
            loop {
                match pace.next() {
                    Next::Group => {
                        let writes = load.group().into_iter();
                        let write = |(at, data)| disk.write(at, data, Durability::Cached);
                        try_join_all(writes.map(write)).await?;
                        disk.flush().await?;
                    }
                    Next::Point(number) => maker.make_point(number)?,
                    Next::End => return anyhow::Ok(pace.done()),
                }
            }
        };
        core.block_on(running).context("the I/O core ended")?
    }

    /// Durable on return: a snapshot of btrfs commits, a file that shares blocks is flushed with its folder.
    fn make_point(&self, number: u32) -> anyhow::Result<()> {
        let point = self.points.join(format!("{number:04}"));
        match self.system {
            FileSystem::Btrfs => {
                let mut snapshot = Command::new("btrfs");
                snapshot.args(["-q", "subvolume", "snapshot", "-r"]).arg(&self.live).arg(&point);
                output(&mut snapshot).map(drop)
            }
            FileSystem::Xfs => {
                std::fs::create_dir(&point)?;
                let copy = File::create_new(point.join(NAME))?;
                rustix::fs::ioctl_ficlone(&copy, File::open(self.live.join(NAME))?)?;
                copy.sync_all()?;
                File::open(&point)?.sync_all()?;
                Ok(File::open(&self.points)?.sync_all()?)
            }
        }
    }

    /// A server of a point: nobody serves the blocks of a snapshot before somebody is told to.
    pub(super) fn serve(&self, number: u32, socket: &Path) -> anyhow::Result<QemuNbd> {
        let file = self.points.join(format!("{number:04}")).join(NAME);
        QemuNbd::start_with(&["--format=raw", "--read-only"], &file, socket, Writes::Cached)
    }
}
