//! Files by offset, and the folders they live in: the seam between everything above and the kernel.
//!
//! `uring::File` and `uring::Folder` are the production side, `faults::FaultFile` and `faults::FaultFolder` the
//! side that loses power, tears writes and runs out of space. Journal, manifest and images are written against these
//! two traits only, so the simulation drives the very code that runs in production.

use crate::uring::buffer::Buffer;
use futures_util::future::LocalBoxFuture;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A future of this seam: bound to the I/O core that made it.
pub type FileFuture<'a, T> = LocalBoxFuture<'a, Result<T, FileError>>;

/// Alignment, in bytes, of offset, length and buffer that is always enough for a file opened with [`Caching::Direct`].
pub const DIRECT_ALIGNMENT: u64 = 4096;

/// One open file, addressed by offset. It may be a block device, whose length is fixed.
///
/// Reads and writes of a [`Caching::Direct`] file must be aligned to [`DIRECT_ALIGNMENT`] in offset, length and memory
/// ([`Buffer`] is, at its start); a misaligned request is a bug of the caller and panics in every implementation.
///
/// A write, allocation or cut whose future is dropped may happen in full, in part or not at all; whatever it still does, it
/// does before anything that starts later on the same bytes through the same handle.
pub trait FileIo: Send + Sync {
    /// Fills `into` from `offset`. Fewer bytes than that before the end of the file is [`FileError::Ended`].
    fn read_at(&self, offset: u64, into: Buffer) -> FileFuture<'_, Buffer>;

    /// Writes all of `from` at `offset`, extending the file if need be. Not durable before [`FileIo::flush`].
    /// The buffer comes back so that it can be used again.
    fn write_at(&self, offset: u64, from: Buffer) -> FileFuture<'_, Buffer>;

    /// Makes every completed write, and the length, durable (`fdatasync`).
    fn flush(&self) -> FileFuture<'_, ()>;

    /// Length in bytes.
    fn length(&self) -> FileFuture<'_, u64>;

    /// Sets the length: cuts, or extends with a hole. A device keeps the length it has: [`FileError::FixedLength`].
    fn set_length(&self, length: u64) -> FileFuture<'_, ()>;

    /// Reserves space for `length` bytes at `offset`, extending the file; they read as zeroes where nothing was written.
    fn allocate(&self, offset: u64, length: u64) -> FileFuture<'_, ()>;

    /// Makes `length` bytes at `offset` read as zeroes and gives their space back (whole file system blocks of it).
    /// Never changes the length. On a device both are whole logical sectors, and where it cannot give space back, zeroes are
    /// written.
    fn punch_hole(&self, offset: u64, length: u64) -> FileFuture<'_, ()>;

    /// Makes `length` bytes at `offset` read as zeroes and keeps their space allocated, extending the file if need be.
    fn zero_range(&self, offset: u64, length: u64) -> FileFuture<'_, ()>;

    /// The next stretch of data at or after `offset`, as `(start, end)`; `None` when only holes follow. A device is all data.
    fn next_data(&self, offset: u64) -> FileFuture<'_, Option<(u64, u64)>>;

    /// Takes over all bytes of `source`, which becomes no other by that: both have the same blocks, and each gets its own where
    /// it is written (`FICLONE`). One moment of the source, whoever writes it. What this file has behind the end of the source
    /// stays.
    ///
    /// `false` where the kernel has no way to do that: other file systems, files of two of them, devices. Then nothing changed.
    fn share<'a>(&'a self, source: &'a dyn FileIo) -> FileFuture<'a, bool> {
        let _ = source;
        Box::pin(std::future::ready(Ok(false)))
    }

    /// The open file, for calls of the kernel that take two; `None` for what is none of the kernel's.
    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    /// Takes the file for this handle alone, until it is dropped: another handle's attempt, in this process or another,
    /// fails with [`FileError::Locked`]. So does any attempt of QEMU to read or write its content.
    fn lock_exclusive(&self) -> FileFuture<'_, ()>;

    /// Keeps writers away until this handle is dropped, other readers being welcome: fails with [`FileError::Locked`] while
    /// another handle has the file for itself, and makes [`FileIo::lock_exclusive`] of others fail from then on. The same
    /// holds for QEMU's readers and writers.
    ///
    /// Not for a handle that has the file for itself: it would give part of that up.
    fn lock_shared(&self) -> FileFuture<'_, ()>;

    /// The units in which a device is addressed and written. A file of a file system has none of its own.
    fn sectors(&self) -> Option<Sectors> {
        None
    }
}

/// The units of a device, in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sectors {
    /// Smallest unit that can be addressed: 512 or 4096.
    pub logical: u32,
    /// Unit that is written without reading around it.
    pub physical: u32,
}

/// Whether the page cache is used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Caching {
    /// `O_DIRECT`.
    Direct,
    /// Through the page cache.
    Buffered,
}

/// How a file is opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OpenMode {
    /// Must exist; writes fail.
    Read,
    /// Must exist.
    ReadWrite,
    /// Must not exist yet. Its name is durable only after [`Folder::sync`] on the folder that holds it.
    CreateNew,
}

/// A folder tree in which files are made, listed and removed. Paths are relative to its root and must stay inside.
pub trait Folder: Send + Sync {
    /// Opens or creates the file at `path`.
    fn open<'a>(
        &'a self,
        path: &'a Path,
        mode: OpenMode,
        caching: Caching,
    ) -> FileFuture<'a, Arc<dyn FileIo>>;

    /// Names in the folder `path`, sorted; files and folders alike.
    fn list<'a>(&'a self, path: &'a Path) -> FileFuture<'a, Vec<String>>;

    /// Creates the folder `path` and its parents, durably; no error if it exists.
    fn create_folder<'a>(&'a self, path: &'a Path) -> FileFuture<'a, ()>;

    /// Renames a file, replacing what is at `to`.
    fn rename<'a>(&'a self, from: &'a Path, to: &'a Path) -> FileFuture<'a, ()>;

    /// Removes a file.
    fn remove<'a>(&'a self, path: &'a Path) -> FileFuture<'a, ()>;

    /// Makes creations, renames and removals in the folder `path` durable.
    fn sync<'a>(&'a self, path: &'a Path) -> FileFuture<'a, ()>;

    /// Bytes that could still be allocated in the file system of the folder.
    fn free_bytes(&self) -> FileFuture<'_, u64>;

    /// The folder as a person would name it, for messages.
    fn display(&self) -> PathBuf;
}

/// Why an operation on a file failed.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FileError {
    /// No such file.
    #[error("{path}: no such file")]
    NotFound {
        /// The file.
        path: PathBuf,
    },
    /// A file that must be new exists.
    #[error("{path}: exists already")]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// The file ended before the buffer was full.
    #[error("{path}: ended after {got} of {wanted} bytes at offset {offset}")]
    Ended {
        /// The file.
        path: PathBuf,
        /// Where the read started.
        offset: u64,
        /// Bytes asked for.
        wanted: usize,
        /// Bytes there were.
        got: usize,
    },
    /// The file system is full (`ENOSPC`, `EDQUOT`).
    #[error("{path}: no space left")]
    NoSpace {
        /// The file.
        path: PathBuf,
    },
    /// Anything else the kernel said.
    #[error("{path}: {operation} failed: {source}")]
    Os {
        /// The file.
        path: PathBuf,
        /// What was asked, as a verb.
        operation: &'static str,
        /// The kernel's answer.
        source: Arc<std::io::Error>,
    },
    /// A block device was to become longer or shorter.
    #[error("{path}: a device of {length_bytes} bytes cannot have {wanted_bytes}")]
    FixedLength {
        /// The device.
        path: PathBuf,
        /// Its length.
        length_bytes: u64,
        /// The length it was to have.
        wanted_bytes: u64,
    },
    /// Somebody else has locked the file.
    #[error("{path}: in use by another process or handle")]
    Locked {
        /// The file.
        path: PathBuf,
    },
    /// The path leaves the folder it must stay in.
    #[error("{path}: leaves its folder")]
    Outside {
        /// The path that was asked for.
        path: PathBuf,
    },
}

/// That a request to a file of this kind is aligned; anything else is a bug of the caller.
pub(crate) fn assert_aligned(caching: Caching, path: &Path, offset: u64, buffer: &Buffer) {
    let unit = usize::try_from(DIRECT_ALIGNMENT).expect("a small constant");
    let aligned = offset.is_multiple_of(DIRECT_ALIGNMENT)
        && buffer.len().is_multiple_of(unit)
        && buffer.is_aligned(unit);
    assert!(
        caching == Caching::Buffered || aligned,
        "direct I/O of {} bytes at {offset} of {} is not aligned to {unit}",
        buffer.len(),
        path.display()
    );
}
