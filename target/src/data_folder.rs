//! The data folder, held by one process at a time.
//!
//! The lock is the kernel's (`flock`): it ends with the process, however that ends, and is never stale. The process id in
//! the file is for people only.

use rustix::fs::FlockOperation;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Name of the lock inside the data folder.
pub(crate) const LOCK_FILE: &str = "landfall.lock";

/// A data folder that is ours until this is dropped.
pub(crate) struct DataFolder {
    _lock: File,
}

/// Why the folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DataFolderError {
    /// Another process has it.
    #[error(
        "the folder {path} is in use by process {holder}; stop that one, or choose another folder"
    )]
    InUse {
        /// The folder.
        path: PathBuf,
        /// Process id, as the holder wrote it.
        holder: String,
    },
    /// It cannot be made, or its lock not be taken.
    #[error("{path}: {operation} failed: {source}")]
    File {
        /// Which file or folder.
        path: PathBuf,
        /// What was tried.
        operation: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
}

impl DataFolder {
    /// Takes the folder at `path`, making it if it is not there.
    pub(crate) fn take(path: &Path) -> Result<Self, DataFolderError> {
        make(path)?;
        let lock = path.join(LOCK_FILE);
        let failed = |operation| {
            let path = lock.clone();
            move |source| DataFolderError::File { path, operation, source }
        };
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&lock)
            .map_err(failed("opening"))?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                return Err(DataFolderError::InUse {
                    path: path.to_owned(),
                    holder: holder(&mut file),
                });
            }
            Err(errno) => return Err(failed("locking")(errno.into())),
        }
        file.set_len(0).map_err(failed("writing"))?;
        writeln!(file, "{}", std::process::id()).map_err(failed("writing"))?;
        Ok(Self { _lock: file })
    }
}

/// Makes `path` and its parents; what is new is for its owner only.
pub(crate) fn make(path: &Path) -> Result<(), DataFolderError> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(|source| DataFolderError::File {
        path: path.to_owned(),
        operation: "creating the folder",
        source,
    })?;
    // A folder that a power cut forgets would take everything in it.
    if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        fs::File::open(parent).and_then(|parent| parent.sync_all()).map_err(|source| {
            DataFolderError::File { path: parent.to_owned(), operation: "syncing", source }
        })?;
    }
    Ok(())
}

/// What the holder of the lock wrote, or why that is not known.
fn holder(file: &mut File) -> String {
    let mut text = String::new();
    let read = file.rewind().and_then(|()| file.take(32).read_to_string(&mut text));
    let digits = text.trim();
    if read.is_ok() && !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()) {
        digits.to_owned()
    } else {
        "(unknown)".to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_has_one_holder() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deep/data");
        let held = DataFolder::take(&path).expect("nobody has it");
        let refused = DataFolder::take(&path).err().expect("somebody has it").to_string();
        assert!(refused.contains(&std::process::id().to_string()), "{refused}");
        drop(held);
        DataFolder::take(&path).expect("it was given back");
    }
}
