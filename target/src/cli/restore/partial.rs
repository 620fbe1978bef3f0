//! The files of an image in the making: in a folder of their own until they are complete and durable.
//!
//! ```text
//!   web.vmdk.partial/web-flat.vmdk ──▶ web-flat.vmdk      extents first
//!   web.vmdk.partial/web.vmdk      ──▶ web.vmdk           the file that names them last
//! ```

use super::output::{check, publish, sync_folder};
use anyhow::{Context, bail, ensure};
use rustix::fs::FlockOperation;
use rustix::io::Errno;
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// What is put behind the final name while the files are not complete.
const SUFFIX: &str = ".partial";

/// The folder. Held by one restore at a time.
pub(in crate::cli) struct Partial {
    path: PathBuf,
    folder: PathBuf,
    _locked: File,
}

impl Partial {
    /// Makes the folder for what is to become `path`. What an earlier attempt left in it is removed.
    pub(in crate::cli) fn create(path: &Path) -> anyhow::Result<Self> {
        ensure!(path.file_name().is_some(), "{} names no file", path.display());
        let mut folder = path.as_os_str().to_owned();
        folder.push(SUFFIX);
        let folder = PathBuf::from(folder);
        let named = || folder.display().to_string();
        match fs::create_dir(&folder) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
                let found = fs::symlink_metadata(&folder).with_context(named)?;
                ensure!(found.is_dir(), "{} is in the way", named());
            }
            Err(error) => return Err(error).with_context(named),
        }
        let locked = File::open(&folder).with_context(named)?;
        match rustix::fs::flock(&locked, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => bail!("{} is being written by another command", named()),
            Err(errno) => return Err(errno).with_context(named),
        }
        let partial = Self { path: path.to_owned(), folder: folder.clone(), _locked: locked };
        for left in partial.files()? {
            fs::remove_file(&left).with_context(|| left.display().to_string())?;
        }
        Ok(partial)
    }

    /// The file that is to get the name that was asked for.
    pub(in crate::cli) fn main(&self) -> PathBuf {
        self.folder.join(self.name())
    }

    fn name(&self) -> &std::ffi::OsStr {
        self.path.file_name().expect("it was checked")
    }

    fn files(&self) -> anyhow::Result<Vec<PathBuf>> {
        let named = || self.folder.display().to_string();
        let entries = fs::read_dir(&self.folder).with_context(named)?;
        let mut files = Vec::new();
        for entry in entries {
            files.push(entry.with_context(named)?.path());
        }
        files.sort();
        Ok(files)
    }

    /// Bytes the files take.
    pub(in crate::cli) fn allocated_bytes(&self) -> anyhow::Result<u64> {
        let mut bytes = 0;
        for file in self.files()? {
            bytes +=
                fs::metadata(&file).with_context(|| file.display().to_string())?.blocks() * 512;
        }
        Ok(bytes)
    }

    /// The folder in which the files are going to be.
    fn beside(&self) -> &Path {
        let beside = self.path.parent().filter(|folder| !folder.as_os_str().is_empty());
        beside.unwrap_or(Path::new("."))
    }

    /// Where a file of the folder is going to be.
    fn place(&self, file: &Path) -> PathBuf {
        self.beside().join(file.file_name().expect("a file of the folder"))
    }

    /// That all files may have their places.
    pub(in crate::cli) fn check(&self, force: bool) -> anyhow::Result<()> {
        self.files()?.iter().try_for_each(|file| check(&self.place(file), force))
    }

    /// Gives the files, which are complete and durable, their places. What fails on the way stays where it is: it may be the
    /// only copy.
    pub(in crate::cli) fn finish(self, force: bool) -> anyhow::Result<()> {
        let complete = || format!("the image is complete in {}", self.folder.display());
        self.place_all(force).with_context(complete)
    }

    fn place_all(&self, force: bool) -> anyhow::Result<()> {
        let (main, beside) = (self.main(), self.beside());
        let extents: Vec<_> = self.files()?.into_iter().filter(|file| *file != main).collect();
        if !extents.is_empty() && self.path.exists() {
            // An old descriptor must not be found with new extents.
            fs::remove_file(&self.path).with_context(|| self.path.display().to_string())?;
            sync_folder(beside)?;
        }
        for file in &extents {
            publish(file, &self.place(file), force)?;
        }
        sync_folder(beside)?;
        publish(&main, &self.path, force)?;
        fs::remove_dir(&self.folder).with_context(|| self.folder.display().to_string())?;
        sync_folder(beside)
    }

    /// Removes what there is.
    pub(in crate::cli) fn discard(self) {
        if let Err(error) = fs::remove_dir_all(&self.folder) {
            tracing::warn!(%error, "cannot remove {}", self.folder.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_get_their_places_together() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("web.vmdk");
        let begin = |text: &str| {
            let partial = Partial::create(&path).unwrap();
            fs::write(partial.main(), text).unwrap();
            fs::write(partial.main().with_file_name("web-flat.vmdk"), text).unwrap();
            partial
        };
        let first = begin("first");
        let second = Partial::create(&path).err().expect("locked").to_string();
        assert!(second.contains("another command"), "{second}");
        first.finish(false).unwrap();
        let read = |name: &str| fs::read_to_string(folder.path().join(name)).unwrap();
        assert_eq!((read("web.vmdk"), read("web-flat.vmdk")), ("first".into(), "first".into()));

        let second = begin("second");
        let refused = second.check(false).unwrap_err().to_string();
        second.discard();
        assert!(refused.contains("--force"), "{refused}");
        assert_eq!((read("web.vmdk"), read("web-flat.vmdk")), ("first".into(), "first".into()));
        begin("third").finish(true).unwrap();
        assert_eq!((read("web.vmdk"), read("web-flat.vmdk")), ("third".into(), "third".into()));
        begin("fourth").discard();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
    }
}
