//! The mount itself: made, and taken away.

use super::filesystem::Folder;
use anyhow::Context;
use fuser::{BackgroundSession, Config, MountOption, Session, SessionACL};
use rustix::mount::UnmountFlags;
use std::io;
use std::path::Path;
use std::time::SystemTime;

/// What the kernel reads ahead of somebody who reads in order, in KiB. FUSE begins with 128, and only root may say otherwise.
const READ_AHEAD_KIB: u32 = 1024;

/// How it is mounted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Options {
    /// What `mount` shows as its source.
    pub(super) name: String,
    /// The time of everything.
    pub(super) time: SystemTime,
    /// Whether others than the owner may look.
    pub(super) allow_other: bool,
}

/// What became of the attempt to unmount.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Unmounted {
    /// It is gone.
    Gone,
    /// Nobody finds it any more, and those who use it do until they let go.
    InUse,
}

/// Mounts `folder` on `dir`.
pub(super) fn mount(
    folder: Folder,
    dir: &Path,
    options: &Options,
) -> anyhow::Result<BackgroundSession> {
    let mut config = Config::default();
    config.mount_options = vec![
        MountOption::FSName(options.name.clone()),
        // `fuse.landfall` in listings. fuser's own option does not reach the kernel.
        MountOption::CUSTOM("subtype=landfall".to_owned()),
        MountOption::RO,
        MountOption::NoExec,
        MountOption::DefaultPermissions,
    ];
    config.acl = if options.allow_other { SessionACL::All } else { SessionACL::Owner };
    let session = Session::new(folder, dir, &config)
        .and_then(Session::spawn)
        .with_context(|| format!("mounting on {}", dir.display()))?;
    if let Err(error) = read_ahead(dir) {
        tracing::debug!(%error, "the kernel reads ahead as it likes");
    }
    Ok(session)
}

fn read_ahead(dir: &Path) -> io::Result<()> {
    let device = rustix::fs::stat(dir)?.st_dev;
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    let place = format!("/sys/class/bdi/{major}:{minor}/read_ahead_kb");
    std::fs::write(place, READ_AHEAD_KIB.to_string())
}

/// Takes the mount away, also when somebody uses it. Waits until that somebody has let go where the kernel does not let us
/// unmount ourselves (`fusermount3`).
pub(super) fn unmount(session: BackgroundSession, dir: &Path) -> anyhow::Result<Unmounted> {
    match session.umount_and_join() {
        Ok(()) => Ok(Unmounted::Gone),
        Err(error) if error.raw_os_error() == Some(rustix::io::Errno::BUSY.raw_os_error()) => {
            rustix::mount::unmount(dir, UnmountFlags::DETACH)
                .with_context(|| format!("unmounting {}", dir.display()))?;
            Ok(Unmounted::InUse)
        }
        Err(error) => Err(error).with_context(|| format!("unmounting {}", dir.display())),
    }
}

/// Somebody else has unmounted it. fuser 0.18 unmounts once more when the session is dropped, which hits whatever is mounted
/// there by then or was below; so it is not dropped.
pub(super) fn leave(session: BackgroundSession) {
    std::mem::forget(session);
}
