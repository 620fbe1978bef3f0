//! What the kernel keeps of a file, by which it is seen whether the file stood still.
//!
//! Identity, size and times of change are compared. Time stamps move in ticks of a few milliseconds, so a file that changed
//! just now is given a moment before its stamp is taken; a change within the same tick could not be told otherwise.

use anyhow::Context;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Longer than the tick of any kernel's time stamps.
const TICK: Duration = Duration::from_millis(25);

/// What the kernel says of a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Stamp {
    device: u64,
    inode: u64,
    /// Its length.
    pub(super) size_bytes: u64,
    /// When its content last changed, in seconds and nanoseconds.
    pub(super) modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    /// The stamp in `metadata`.
    pub(super) fn of(metadata: &fs::Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size_bytes: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    /// Whether the last change is so recent that another one could carry the same time.
    pub(super) fn is_fresh(&self) -> bool {
        let (seconds, nanoseconds) = self.changed.max(self.modified);
        let at = u64::try_from(seconds).unwrap_or(0);
        let at = Duration::new(at, u32::try_from(nanoseconds).unwrap_or(0));
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        now < at + TICK
    }
}

/// A file that is watched.
#[derive(Clone, Debug)]
pub(super) struct Watched {
    path: PathBuf,
    /// As it was when the watch began.
    pub(super) stamp: Stamp,
}

impl Watched {
    /// Watches the file at `path` from now on, after a moment if it changed just before.
    pub(super) async fn begin(path: &Path) -> anyhow::Result<Self> {
        let look = || fs::metadata(path).with_context(|| path.display().to_string());
        let mut stamp = Stamp::of(&look()?);
        for _ in 0..3 {
            if !stamp.is_fresh() {
                break;
            }
            tokio::time::sleep(TICK).await;
            stamp = Stamp::of(&look()?);
        }
        Ok(Self { path: path.to_owned(), stamp })
    }

    /// Why the file cannot be said to have stood still, given what the kernel says `now` of the one that was opened.
    pub(super) fn movement(&self, now: &fs::Metadata) -> Option<String> {
        let path = self.path.display();
        if Stamp::of(now) != self.stamp || self.stamp.is_fresh() {
            return Some(format!("{path} changed while it was read"));
        }
        let named = fs::metadata(&self.path).map(|named| Stamp::of(&named));
        let same = named.is_ok_and(|named| {
            (named.device, named.inode) == (self.stamp.device, self.stamp.inode)
        });
        (!same).then(|| format!("{path} was replaced while it was read"))
    }

    /// The same, of whatever has the name now.
    pub(super) fn movement_by_name(&self) -> Option<String> {
        match fs::metadata(&self.path) {
            Ok(now) => self.movement(&now),
            Err(error) => Some(format!("{}: {error}", self.path.display())),
        }
    }
}
