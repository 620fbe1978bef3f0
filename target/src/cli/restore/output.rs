//! A file in the making: under another name until it is complete and durable.

use anyhow::{Context, bail, ensure};
use rustix::fs::{CWD, FallocateFlags, FlockOperation, RenameFlags};
use rustix::io::Errno;
use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};
use std::rc::Rc;

/// What is put behind the final name while the file is not complete.
const SUFFIX: &str = ".partial";

/// A file of holes that data is written into.
pub(super) struct Output {
    path: PathBuf,
    partial: PathBuf,
    /// For io_uring.
    file: Rc<tokio_uring::fs::File>,
    /// The same file; holds the lock.
    locked: File,
    size_bytes: u64,
    /// It started with the blocks of another file, and holds what that held.
    taken_over: bool,
}

/// That `path` may be written.
pub(super) fn check(path: &Path, force: bool) -> anyhow::Result<()> {
    match std::fs::symlink_metadata(path) {
        Err(_) => Ok(()),
        Ok(found) if !found.is_file() => {
            bail!("{} exists and is no ordinary file; it is not replaced", path.display())
        }
        Ok(_) => {
            ensure!(force, "{} exists; --force replaces it", path.display());
            Ok(())
        }
    }
}

/// Gives the complete, durable file `from` the name `to`.
pub(super) fn publish(from: &Path, to: &Path, force: bool) -> anyhow::Result<()> {
    check(to, force)?;
    let flags = if force { RenameFlags::empty() } else { RenameFlags::NOREPLACE };
    match rustix::fs::renameat_with(CWD, from, CWD, to, flags) {
        Ok(()) => Ok(()),
        // A file system without the flag; the check above has to do.
        Err(Errno::INVAL | Errno::NOSYS) => {
            std::fs::rename(from, to).with_context(|| from.display().to_string())
        }
        Err(errno) => Err(errno).with_context(|| to.display().to_string()),
    }
}

/// Makes names in a folder durable.
pub(super) fn sync_folder(folder: &Path) -> anyhow::Result<()> {
    File::open(folder)
        .and_then(|folder| folder.sync_all())
        .with_context(|| folder.display().to_string())
}

impl Output {
    /// Starts a file of `size_bytes` that is to become `path`.
    pub(super) fn create(path: &Path, size_bytes: u64) -> anyhow::Result<Self> {
        let mut partial = path.as_os_str().to_owned();
        partial.push(SUFFIX);
        let partial = PathBuf::from(partial);
        let named = || partial.display().to_string();
        let locked = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&partial)
            .with_context(named)?;
        ensure!(locked.metadata().with_context(named)?.is_file(), "{} is no file", named());
        match rustix::fs::flock(&locked, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => bail!("{} is being written by another restore", named()),
            Err(errno) => return Err(errno).with_context(named),
        }
        // What an earlier attempt left behind is of no use.
        locked.set_len(0).with_context(named)?;
        locked.set_len(size_bytes).with_context(named)?;
        let file = Rc::new(tokio_uring::fs::File::from_std(locked.try_clone()?));
        Ok(Self { path: path.to_owned(), partial, file, locked, size_bytes, taken_over: false })
    }

    /// Starts with what `image` holds, by sharing its blocks; with holes, as before, where that cannot be done for whatever
    /// reason. The image is as long as the file.
    pub(super) async fn take_over(&mut self, image: &Path) -> anyhow::Result<()> {
        let named = || self.partial.display().to_string();
        let target = self.locked.try_clone().with_context(named)?;
        let (image, size_bytes) = (image.to_owned(), self.size_bytes);
        // It waits for writes to the image, and takes its time if that lies in many pieces.
        let shared = tokio::task::spawn_blocking(move || -> std::io::Result<bool> {
            let source = File::open(image)?;
            if source.metadata()?.len() != size_bytes {
                return Ok(false);
            }
            rustix::fs::ioctl_ficlone(target, source)?;
            Ok(true)
        });
        self.taken_over = match shared.await.context("sharing blocks")? {
            Ok(shared) => shared,
            Err(error) => {
                tracing::debug!(%error, "no blocks are shared with the image");
                // Whatever it may have done before it failed.
                self.locked.set_len(0).with_context(named)?;
                self.locked.set_len(size_bytes).with_context(named)?;
                false
            }
        };
        Ok(())
    }

    /// Whether it may hold something where nothing was written yet.
    pub(super) fn is_taken_over(&self) -> bool {
        self.taken_over
    }

    /// What is at `offset` now.
    pub(super) async fn read(&self, offset: u64, length: usize) -> anyhow::Result<Vec<u8>> {
        let (read, bytes) = self.file.read_exact_at(vec![0; length], offset).await;
        read.with_context(|| format!("{}: {length} bytes at {offset}", self.partial.display()))?;
        Ok(bytes)
    }

    /// Makes a hole of `length` bytes at `offset`.
    pub(super) async fn punch(&self, offset: u64, length: u64) -> anyhow::Result<()> {
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        let flags = i32::try_from(flags.bits()).expect("low bits");
        let punched = self.file.fallocate(offset, length, flags).await;
        punched.with_context(|| format!("{}: a hole at {offset}", self.partial.display()))
    }

    /// Writes `bytes` at `offset`.
    pub(super) fn write(
        &self,
        offset: u64,
        bytes: Vec<u8>,
    ) -> impl Future<Output = anyhow::Result<()>> + 'static {
        let (file, partial) = (Rc::clone(&self.file), self.partial.clone());
        async move {
            let length = bytes.len();
            let (written, _) = file.write_all_at(bytes, offset).await;
            written.with_context(|| format!("{}: {length} bytes at {offset}", partial.display()))
        }
    }

    /// Makes the file durable and gives it its name.
    pub(super) async fn finish(self, force: bool) -> anyhow::Result<()> {
        let named = || self.partial.display().to_string();
        self.file.sync_all().await.with_context(named)?;
        publish(&self.partial, &self.path, force)?;
        let folder = self.path.parent().filter(|folder| !folder.as_os_str().is_empty());
        sync_folder(folder.unwrap_or(Path::new(".")))
    }

    /// Removes what there is.
    pub(super) fn discard(self) {
        if let Err(error) = std::fs::remove_file(&self.partial) {
            tracing::warn!(%error, "cannot remove {}", self.partial.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_gets_its_name_when_it_is_complete() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk.raw");
        tokio_uring::start(async {
            let output = Output::create(&path, 8192).unwrap();
            let second = Output::create(&path, 8192).err().expect("locked").to_string();
            assert!(second.contains("another restore"), "{second}");
            output.write(4096, vec![7; 4096]).await.unwrap();
            assert!(!path.exists());
            output.finish(false).await.unwrap();
        });
        let bytes = std::fs::read(&path).unwrap();
        assert!(bytes[..4096].iter().all(|b| *b == 0) && bytes[4096..].iter().all(|b| *b == 7));
        assert!(check(&path, false).unwrap_err().to_string().contains("--force"));
        tokio_uring::start(async {
            Output::create(&path, 512).unwrap().finish(true).await.unwrap();
            Output::create(&path, 512).unwrap().discard();
        });
        assert_eq!(std::fs::read(&path).unwrap(), [0; 512]);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
