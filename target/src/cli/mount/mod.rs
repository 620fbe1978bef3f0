//! `landfall mount`: the disks of a moment as files, through FUSE.
//!
//! ```text
//!   NAME ─control─▶ one moment ─NBD, a connection per disk─▶ files ◀─ questions ─ kernel
//!                                                              os.raw      the disk
//!                                                              os.vmdk     the same as the machine has it: synthetic
//!                                                              os.p1 …     its partitions
//! ```
//!
//! Questions about names and sizes are answered where they arrive, on a thread of fuser's; reads are handed to the thread
//! that has the connections, where each is a task, so that slow ones hold nobody up.
//!
//! **Invariant:** what is under a name never changes while it is mounted: every connection is to the absolute name of one
//! moment, which its lease keeps. One that is lost is not opened again, as the name may mean something else by then.

mod background;
mod files;
mod filesystem;
mod serve;
mod session;

use super::restore::link::Server;
use super::{Place, say};
use crate::http::client::escaped;
use crate::http::messages::Moment;
use crate::units::ByteSize;
use anyhow::{Context, bail, ensure};
pub(super) use background::NotMounted;
use files::File;
use landfall_disks::image::Format;
use landfall_retention::time::Timestamp;
use serve::Connections;
use session::Options;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Show disks as they were at a moment as files, without copying anything
///
/// DIR gets, of each disk: DISK.raw; the same as DISK.vmdk, DISK.vhdx or DISK.vhd if the machine's image has that format; and its
/// partitions as DISK.p1, DISK.p2 … Everything is read-only, and read from the target when it is read.
///
/// It stays in the foreground, and ends with Ctrl-C, SIGTERM or `umount DIR`, whichever comes first. Files that are open
/// then can be read until they are closed; a second signal ends that, too. The moment is kept for as long as it is mounted.
/// When the target goes away, reads fail and the mount stays until it is ended: mount it again afterwards.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  landfall mount web@-15m /mnt/web                            # and in another terminal:
  qemu-img convert -O qcow2 /mnt/web/os.raw os.qcow2
  mount -o ro,loop,noload /mnt/web/os.p1 /mnt/files           # an ext4; `umount /mnt/files` comes first
  landfall mount web~test/os /mnt/web --format vhdx --daemon  # the head of a branch as it is now, in the background

Needs root, or fusermount3 (Debian: fuse3).")]
pub(super) struct Mount {
    /// MACHINE@WHEN or MACHINE/DISK@WHEN
    name: String,
    /// An empty folder
    dir: PathBuf,
    /// Which image there is of each disk, besides raw: vmdk, vhdx or vhd [default: that of the machine]
    #[arg(long)]
    format: Option<Format>,
    /// Let other users read it, too
    #[arg(long)]
    allow_other: bool,
    /// Go to the background once it is mounted
    #[arg(long)]
    daemon: bool,
    /// Is the process in the background that --daemon starts
    #[arg(long, hide = true, conflicts_with = "daemon")]
    detach: bool,
}

impl Mount {
    pub(super) fn run(self, place: &Place) -> anyhow::Result<()> {
        let dir = mount_point(&self.dir)?;
        if self.daemon {
            return background::start();
        }
        let control = place.control()?;
        let moment: Moment = control.get(&format!("/v1/moment?name={}", escaped(&self.name)))?;
        ensure!(!moment.disks.is_empty(), "{} has no disks", moment.name);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let served = tokio::task::LocalSet::new().block_on(&runtime, self.serve(&moment, dir));
        // An unmount that waits for others may still be under way when a second signal has come.
        runtime.shutdown_background();
        served
    }

    async fn serve(&self, moment: &Moment, dir: PathBuf) -> anyhow::Result<()> {
        let server = Server::of(moment)?;
        let (lost, is_lost) = tokio::sync::mpsc::unbounded_channel();
        let (mut files, mut connections) = (Vec::new(), Vec::new());
        for disk in &moment.disks {
            let (content, connection) = files::connect(&server, disk, lost.clone()).await?;
            connections.push(connection);
            files.extend(files::of_disk(disk, content, self.format, time(moment)?).await?);
        }
        let named = dir.display().to_string();
        let options = Options {
            name: moment.name.clone(),
            time: time(moment)?,
            allow_other: self.allow_other,
        };
        let target = Connections { running: connections, lost: is_lost };
        let serving = serve::Serving::start(files, target, dir, &options)?;
        let mut text =
            format!("{} of {} is mounted on {named}, read-only:", moment.name, moment.time);
        for File { name, size_bytes, note, .. } in serving.files() {
            let size = ByteSize::new(*size_bytes);
            text.push_str(format!("\n  {name:<16} {size:>10}  {note}").trim_end());
        }
        say(&format!("{text}\nIt ends with Ctrl-C, SIGTERM, or: umount {named}"));
        if self.detach {
            background::detach()?;
        }
        serving.run().await
    }
}

/// When the moment was.
fn time(moment: &Moment) -> anyhow::Result<SystemTime> {
    let time = Timestamp::parse(&moment.time).context("the time of the moment")?;
    Ok(UNIX_EPOCH + Duration::from_nanos(time.nanoseconds()))
}

/// The folder to mount on, by its absolute name: one that is there and that hides nothing.
fn mount_point(dir: &Path) -> anyhow::Result<PathBuf> {
    let named = dir.display();
    let mut entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) => match error.kind() {
            ErrorKind::NotFound => bail!("{named} does not exist: make an empty folder first"),
            ErrorKind::NotADirectory => bail!("{named} is no folder"),
            ErrorKind::NotConnected => {
                bail!("{named} is what is left of a mount whose process ended: umount {named}")
            }
            _ => return Err(error).with_context(|| named.to_string()),
        },
    };
    ensure!(
        entries.next().is_none(),
        "{named} is not empty: what is in it would be hidden; name an empty folder"
    );
    dir.canonicalize().with_context(|| named.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_empty_folder_is_mounted_on() {
        let folder = tempfile::tempdir().unwrap();
        let refused = |path: &Path| mount_point(path).unwrap_err().to_string();
        let (file, missing) = (folder.path().join("file"), folder.path().join("missing"));
        assert_eq!(mount_point(folder.path()).unwrap(), folder.path().canonicalize().unwrap());
        std::fs::write(&file, "x").unwrap();
        assert!(refused(folder.path()).contains("is not empty"));
        assert!(refused(&file).contains("is no folder"));
        assert!(refused(&missing).contains("does not exist"));
    }
}
