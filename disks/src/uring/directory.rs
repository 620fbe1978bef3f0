//! A folder of the file system. Everything here may block and goes through [`offload`].
//!
//! Paths are resolved beneath the root by the kernel (`RESOLVE_BENEATH`), so neither `..` nor a symbolic link leads out
//! of it, whatever is renamed meanwhile.

use super::blocking::offload;
use super::file::{File, file_error};
use crate::file::{Caching, FileError, FileFuture, FileIo, Folder, OpenMode};
use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use std::ffi::{OsStr, OsString};
use std::os::fd::OwnedFd;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

/// An open folder. Usable from every thread; off-core its requests run inline.
#[derive(Clone)]
pub struct Directory {
    root: Arc<Root>,
}

struct Root {
    descriptor: OwnedFd,
    path: PathBuf,
}

impl Directory {
    /// Opens the folder at `path`, which must exist.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, FileError> {
        let path = path.as_ref();
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let descriptor = rustix::fs::open(path, flags, Mode::empty())
            .map_err(|errno| file_error(path, "opening", errno.into()))?;
        Ok(Self { root: Arc::new(Root { descriptor, path: path.to_path_buf() }) })
    }

    /// Runs `call` with the root on the blocking pool.
    fn call<'a, T: Send + 'static>(
        &self,
        path: &Path,
        call: impl FnOnce(&Root, &Path) -> Result<T, FileError> + Send + 'static,
    ) -> FileFuture<'a, T> {
        let root = Arc::clone(&self.root);
        let path = path.to_path_buf();
        Box::pin(offload(move || call(&root, &path)))
    }
}

impl Folder for Directory {
    fn open<'a>(
        &'a self,
        path: &'a Path,
        mode: OpenMode,
        caching: Caching,
    ) -> FileFuture<'a, Arc<dyn FileIo>> {
        self.call(path, move |root, path| {
            let file: Arc<dyn FileIo> = Arc::new(root.open_file(path, mode, caching)?);
            Ok(file)
        })
    }

    fn list<'a>(&'a self, path: &'a Path) -> FileFuture<'a, Vec<String>> {
        self.call(path, |root, path| root.list(path))
    }

    fn create_folder<'a>(&'a self, path: &'a Path) -> FileFuture<'a, ()> {
        self.call(path, |root, path| root.create_folder(path))
    }

    fn rename<'a>(&'a self, from: &'a Path, to: &'a Path) -> FileFuture<'a, ()> {
        let to = to.to_path_buf();
        self.call(from, move |root, from| {
            let (from_folder, from_name) = root.parent(from)?;
            let (to_folder, to_name) = root.parent(&to)?;
            rustix::fs::renameat(&from_folder, &from_name, &to_folder, &to_name)
                .map_err(|errno| root.error(from, "renaming", errno))
        })
    }

    fn remove<'a>(&'a self, path: &'a Path) -> FileFuture<'a, ()> {
        self.call(path, |root, path| {
            let (folder, name) = root.parent(path)?;
            rustix::fs::unlinkat(&folder, &name, AtFlags::empty())
                .map_err(|errno| root.error(path, "removing", errno))
        })
    }

    fn sync<'a>(&'a self, path: &'a Path) -> FileFuture<'a, ()> {
        self.call(path, |root, path| {
            let folder = root.folder(path)?;
            rustix::fs::fsync(&folder).map_err(|errno| root.error(path, "syncing", errno))
        })
    }

    fn free_bytes(&self) -> FileFuture<'_, u64> {
        self.call(Path::new(""), |root, path| {
            let stat = rustix::fs::fstatvfs(&root.descriptor)
                .map_err(|errno| root.error(path, "measuring free space", errno))?;
            Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
        })
    }

    fn display(&self) -> PathBuf {
        self.root.path.clone()
    }
}

impl Root {
    fn error(&self, path: &Path, operation: &'static str, errno: Errno) -> FileError {
        let full = self.path.join(path);
        match errno {
            // What the kernel says when a path leaves the folder it is resolved beneath.
            Errno::XDEV => FileError::Outside { path: full },
            _ => file_error(&full, operation, errno.into()),
        }
    }

    /// Refuses what leaves the folder by its spelling. The kernel refuses the rest.
    fn check(&self, path: &Path) -> Result<(), FileError> {
        let stays =
            path.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
        if stays { Ok(()) } else { Err(FileError::Outside { path: self.path.join(path) }) }
    }

    fn resolve(&self, path: &Path, flags: OFlags, mode: Mode) -> Result<OwnedFd, Errno> {
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        loop {
            let flags = flags | OFlags::CLOEXEC;
            match rustix::fs::openat2(&self.descriptor, path, flags, mode, resolve) {
                // A rename elsewhere raced with the resolution.
                Err(Errno::AGAIN | Errno::INTR) => {}
                result => return result,
            }
        }
    }

    fn open_file(&self, path: &Path, mode: OpenMode, caching: Caching) -> Result<File, FileError> {
        self.check(path)?;
        let (flags, create) = match mode {
            OpenMode::Read => (OFlags::RDONLY, Mode::empty()),
            OpenMode::ReadWrite => (OFlags::RDWR, Mode::empty()),
            OpenMode::CreateNew => {
                (OFlags::RDWR | OFlags::CREATE | OFlags::EXCL, Mode::RUSR | Mode::WUSR)
            }
        };
        let flags = match caching {
            Caching::Direct => flags | OFlags::DIRECT,
            Caching::Buffered => flags,
        };
        let opened = match self.resolve(path, flags, create) {
            // Not every file system has O_DIRECT. The page cache is slower there and as correct: flushes do not differ.
            Err(Errno::INVAL) if caching == Caching::Direct => {
                let full = self.path.join(path);
                tracing::warn!(path = %full.display(), "no direct I/O here, using the page cache");
                self.resolve(path, flags - OFlags::DIRECT, create)
            }
            opened => opened,
        };
        let owned = opened.map_err(|errno| self.error(path, "opening", errno))?;
        File::new(owned, &self.path.join(path), caching)
    }

    fn folder(&self, path: &Path) -> Result<OwnedFd, FileError> {
        self.check(path)?;
        self.resolve(path, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())
            .map_err(|errno| self.error(path, "opening", errno))
    }

    /// The folder that holds `path`, and the name there.
    fn parent(&self, path: &Path) -> Result<(OwnedFd, OsString), FileError> {
        self.check(path)?;
        let Some(name) = path.file_name() else {
            return Err(FileError::Outside { path: self.path.join(path) });
        };
        let parent = path.parent().unwrap_or(Path::new(""));
        Ok((self.folder(parent)?, name.to_os_string()))
    }

    fn list(&self, path: &Path) -> Result<Vec<String>, FileError> {
        let folder = self.folder(path)?;
        let failed = |errno| self.error(path, "listing", errno);
        let mut names = Vec::new();
        for entry in rustix::fs::Dir::new(folder).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name().to_string_lossy();
            if name != "." && name != ".." {
                names.push(name.into_owned());
            }
        }
        names.sort();
        Ok(names)
    }

    fn create_folder(&self, path: &Path) -> Result<(), FileError> {
        self.check(path)?;
        let mut made = PathBuf::new();
        for part in path.components() {
            let Component::Normal(name) = part else { continue };
            self.create_one(&made, name)?;
            made.push(name);
        }
        Ok(())
    }

    /// Makes one folder, durably: folders are made rarely, and forgetting one would take all files in it.
    fn create_one(&self, parent: &Path, name: &OsStr) -> Result<(), FileError> {
        let folder = self.folder(parent)?;
        let failed = |errno| self.error(&parent.join(name), "creating", errno);
        match rustix::fs::mkdirat(&folder, name, Mode::RWXU) {
            Ok(()) => rustix::fs::fsync(&folder).map_err(failed),
            Err(Errno::EXIST) => Ok(()),
            Err(errno) => Err(failed(errno)),
        }
    }
}
