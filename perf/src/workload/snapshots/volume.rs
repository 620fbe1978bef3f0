//! A file system of a contender's own, in a file behind a loop device past the page cache: what reaches its medium is counted
//! by the kernel, and nobody else's.

use crate::process::output;
use anyhow::{Context, ensure};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Bytes of a sector in the kernel's counters, whatever the device has.
const SECTOR_BYTES: u64 = 512;

/// The file systems that can keep points by themselves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum FileSystem {
    Btrfs,
    Xfs,
}

/// A mounted file system; unmounted when dropped.
pub(super) struct Volume {
    at: PathBuf,
    device: PathBuf,
}

impl Volume {
    /// Makes one of `size_bytes` in `folder`. Needs root.
    pub(super) fn make(folder: &Path, system: FileSystem, size_bytes: u64) -> anyhow::Result<Self> {
        let (file, at) = (folder.join("volume"), folder.join("mounted"));
        std::fs::create_dir_all(&at)?;
        File::create_new(&file)?.set_len(size_bytes)?;
        let mut attach = Command::new("losetup");
        attach.args(["--find", "--show", "--direct-io=on"]).arg(&file);
        let device = PathBuf::from(output(&mut attach).context("loop devices need root")?);
        let mounted = mount(&device, &at, system);
        // From here on it is the mount that holds the device: both go together, whatever ends this program.
        output(Command::new("losetup").arg("--detach").arg(&device))?;
        mounted?;
        Ok(Self { at, device })
    }

    /// Where it is mounted.
    pub(super) fn at(&self) -> &Path {
        &self.at
    }

    /// Bytes that were written to its device so far, once everything is there.
    pub(super) fn written_bytes(&self) -> anyhow::Result<u64> {
        self.sync()?;
        let name = self.device.file_name().context("a device has a name")?;
        let path = Path::new("/sys/block").join(name).join("stat");
        let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        let sectors = text.split_whitespace().nth(6).and_then(|field| field.parse::<u64>().ok());
        Ok(sectors.context("the kernel counts no written sectors")? * SECTOR_BYTES)
    }

    /// Bytes that are in use.
    pub(super) fn used_bytes(&self) -> anyhow::Result<u64> {
        self.sync()?;
        let stat = rustix::fs::statvfs(&self.at)?;
        Ok((stat.f_blocks - stat.f_bfree) * stat.f_frsize)
    }

    fn sync(&self) -> anyhow::Result<()> {
        let root = File::open(&self.at)?;
        rustix::fs::syncfs(&root)?;
        ensure!(root.metadata()?.is_dir(), "{} is gone", self.at.display());
        Ok(())
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        // A server that was ended may hold it a moment longer; lazily, it goes when the last one lets go.
        let _ = output(Command::new("umount").arg("--lazy").arg(&self.at));
    }
}

fn mount(device: &Path, at: &Path, system: FileSystem) -> anyhow::Result<()> {
    let make: &[&str] = match system {
        FileSystem::Btrfs => &["mkfs.btrfs", "-q"],
        FileSystem::Xfs => &["mkfs.xfs", "-q", "-m", "reflink=1"],
    };
    output(Command::new(make[0]).args(&make[1..]).arg(device))?;
    output(Command::new("mount").arg(device).arg(at)).map(drop)
}
