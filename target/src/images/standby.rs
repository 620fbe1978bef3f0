//! Folders of standby files: any that somebody named, opened anew for each use, since they come and go with their file systems.

use super::create::{self, Kind};
use futures_util::future::LocalBoxFuture;
use landfall_disks::file::{FileError, Folder};
use landfall_disks::image::{Format, Wishes};
use landfall_disks::uring::{Directory, offload};
use landfall_retention::ids::DiskIdentity;
use landfall_retention::standby::StandbyPlaces;
use landfall_retention::standby::sidecar::FileStamp;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

/// The folders of this host.
pub(crate) struct StandbyFolders;

impl StandbyPlaces for StandbyFolders {
    fn folder<'a>(
        &'a self,
        path: &'a str,
    ) -> LocalBoxFuture<'a, Result<Arc<dyn Folder>, FileError>> {
        let path = path.to_owned();
        Box::pin(offload(move || {
            Directory::open(&path).map(|folder| Arc::new(folder) as Arc<dyn Folder>)
        }))
    }

    fn stamp<'a>(
        &'a self,
        path: &'a str,
        name: &'a str,
    ) -> LocalBoxFuture<'a, Result<FileStamp, FileError>> {
        let (path, name) = (Path::new(path).join(name), name.to_owned());
        Box::pin(offload(move || match std::fs::metadata(&path) {
            Ok(found) => Ok(FileStamp {
                name,
                inode: found.ino(),
                length_bytes: found.len(),
                modified: nanoseconds(found.mtime(), found.mtime_nsec()),
                changed: nanoseconds(found.ctime(), found.ctime_nsec()),
            }),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                Err(FileError::NotFound { path })
            }
            Err(error) => {
                let (operation, source) = ("looking at the file", Arc::new(error));
                Err(FileError::Os { path, operation, source })
            }
        }))
    }

    fn wishes(&self, format: Format, size_bytes: u64, identity: DiskIdentity) -> Wishes {
        create::wishes(format, &Kind::usual(format), size_bytes, identity)
    }
}

/// Times before 1970 are that moment.
fn nanoseconds(seconds: i64, nanoseconds: i64) -> u64 {
    let part = |value: i64| u64::try_from(value).unwrap_or_default();
    part(seconds).saturating_mul(1_000_000_000).saturating_add(part(nanoseconds))
}

#[cfg(test)]
mod tests {
    use super::*;
    use landfall_retention::standby::sidecar::StampChange;
    use std::time::{Duration, SystemTime};

    #[test]
    fn whoever_touches_a_file_changes_what_is_said_of_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("a");
        let stamp = || {
            let found = StandbyFolders.stamp(folder.path().to_str().expect("text"), "a");
            futures_util::FutureExt::now_or_never(found).expect("off a core it is done at once")
        };
        assert!(matches!(stamp(), Err(FileError::NotFound { .. })));
        std::fs::write(&path, b"landfall").expect("written");
        let left = stamp().expect("it is there");
        assert_eq!(left.compare(&stamp().expect("it is there")), StampChange::None);
        let copy = folder.path().join("b");
        std::fs::rename(&path, &copy).expect("moved");
        std::fs::copy(&copy, &path).expect("copied");
        let file = std::fs::File::options().write(true).open(&path).expect("it is there");
        let then = SystemTime::UNIX_EPOCH + Duration::from_nanos(left.modified);
        file.set_modified(then).expect("as cp -p does");
        assert_eq!(left.compare(&stamp().expect("it is there")), StampChange::Moved);
        file.set_modified(then + Duration::from_nanos(1)).expect("as a write does");
        assert_eq!(left.compare(&stamp().expect("it is there")), StampChange::Written);
    }
}
