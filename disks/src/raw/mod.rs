//! Raw images: a disk whose bytes are those of a file, at the same place.
//!
//! ```text
//!   file   ├──────── whole blocks of 4 KiB ────────┤─ tail ─┤      length of the file = size of the disk
//!   I/O    │  O_DIRECT; partial blocks are read,   │ page   │
//!          │  changed and written back under lock  │ cache  │
//! ```
//!
//! The tail, less than a block, exists when the size is not a multiple of 4 KiB. Direct I/O could not touch it without
//! making the file longer, so it goes through a second, buffered handle; no other byte does.
//!
//! **Invariants**
//! - A write that covers blocks only in part holds them exclusively from before it reads them until it has written them
//!   back; every other write holds its blocks shared. So no two writes into one block lose bytes of each other.
//! - After a failed write or flush (lack of space excepted) no write starts: what reads return and what is on stable
//!   storage may differ from then on.
//! - A handle that may write has the file locked for itself.

mod io;
mod transfer;

use crate::block::{BLOCK_SIZE, ByteOffset, ByteRange, Geometry, MAX_DISK_SIZE};
use crate::disk::{Disk, DiskError, Durability, IoFuture, MappedRange, ZeroMode};
use crate::file::{Caching, FileError, FileIo, Folder, OpenMode};
use crate::range_locks::RangeLocks;
use crate::uring::buffer::Buffer;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

/// Smallest unit a guest addresses, in bytes. Sizes are multiples of it.
pub const SECTOR_SIZE: u32 = 512;

/// Most stretches in one answer of [`Disk::map`].
const MAX_MAP_ENTRIES: usize = 1024;

/// A raw image file.
pub struct RawDisk {
    /// Whole blocks, without the page cache.
    direct: Arc<dyn FileIo>,
    /// The tail, through the page cache.
    buffered: Arc<dyn FileIo>,
    size_bytes: AtomicU64,
    read_only: bool,
    locks: RangeLocks,
    /// Why writes are refused.
    failed: OnceLock<String>,
    /// The file system cannot punch holes, or not zero ranges: zeroes are written instead.
    cannot_punch: AtomicBool,
    cannot_zero: AtomicBool,
}

impl RawDisk {
    /// Makes a new image of zeroes at `path`, durably, and opens it for writing. It takes no space until it is written.
    ///
    /// It gets its name when it is whole, so a crash leaves either no image or one of full length.
    pub async fn create(
        folder: &dyn Folder,
        path: &Path,
        size_bytes: u64,
    ) -> Result<Self, DiskError> {
        check_size(size_bytes)?;
        match folder.open(path, OpenMode::Read, Caching::Buffered).await {
            Err(FileError::NotFound { .. }) => {}
            Ok(_) => return Err(FileError::Exists { path: path.to_owned() }.into()),
            Err(error) => return Err(error.into()),
        }
        let unfinished = unfinished(path);
        match folder.remove(&unfinished).await {
            Ok(()) | Err(FileError::NotFound { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        let direct = folder.open(&unfinished, OpenMode::CreateNew, Caching::Direct).await?;
        direct.lock_exclusive().await?;
        direct.set_length(size_bytes).await?;
        direct.flush().await?;
        folder.rename(&unfinished, path).await?;
        folder.sync(path.parent().unwrap_or(Path::new(""))).await?;
        let buffered = folder.open(path, OpenMode::ReadWrite, Caching::Buffered).await?;
        Ok(Self::new(direct, buffered, size_bytes, false))
    }

    /// Opens the image at `path`. Its length must be `expected_size`, if that is given.
    ///
    /// A file may be open for writing once: the second attempt, also of another process, fails with
    /// [`FileError::Locked`].
    pub async fn open(
        folder: &dyn Folder,
        path: &Path,
        expected_size: Option<u64>,
        read_only: bool,
    ) -> Result<Self, DiskError> {
        let mode = if read_only { OpenMode::Read } else { OpenMode::ReadWrite };
        let direct = folder.open(path, mode, Caching::Direct).await?;
        if !read_only {
            direct.lock_exclusive().await?;
        }
        let found_bytes = direct.length().await?;
        let expected_bytes = expected_size.unwrap_or(found_bytes);
        if found_bytes != expected_bytes {
            return Err(DiskError::WrongSize { found_bytes, expected_bytes });
        }
        check_size(found_bytes)?;
        let buffered = folder.open(path, mode, Caching::Buffered).await?;
        Ok(Self::new(direct, buffered, found_bytes, read_only))
    }

    fn new(
        direct: Arc<dyn FileIo>,
        buffered: Arc<dyn FileIo>,
        size_bytes: u64,
        read_only: bool,
    ) -> Self {
        Self {
            direct,
            buffered,
            size_bytes: AtomicU64::new(size_bytes),
            read_only,
            locks: RangeLocks::new(),
            failed: OnceLock::new(),
            cannot_punch: AtomicBool::new(false),
            cannot_zero: AtomicBool::new(false),
        }
    }

    /// The part of `range` in whole blocks of the file, and the part in its tail.
    fn divide(&self, range: ByteRange) -> (ByteRange, ByteRange) {
        let size = self.size_bytes.load(Ordering::Acquire);
        let tail = ByteOffset::new(size / BLOCK_SIZE * BLOCK_SIZE);
        range.split_at(tail.clamp(range.start(), range.end()))
    }

    fn check_write(&self, range: ByteRange) -> Result<(), DiskError> {
        DiskError::check_writable(&self.geometry(), range)?;
        match self.failed.get() {
            Some(why) => Err(DiskError::Failed(why.clone())),
            None => Ok(()),
        }
    }

    /// Tells a lack of space from a failure, after which the disk refuses writes.
    fn judge<T>(&self, result: Result<T, FileError>) -> Result<T, DiskError> {
        result.map_err(|error| match error {
            FileError::NoSpace { .. } => DiskError::NoSpace(error.to_string()),
            error => {
                // The first failure is the one to name.
                let _ = self.failed.set(error.to_string());
                DiskError::File(error)
            }
        })
    }

    async fn make_durable(&self, durability: Durability) -> Result<(), DiskError> {
        match durability {
            Durability::Cached => Ok(()),
            // One inode: this flushes what went through the buffered handle as well.
            Durability::Durable => self.judge(self.direct.flush().await),
        }
    }
}

/// Name of an image that is being made.
fn unfinished(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".unfinished");
    name.into()
}

fn check_size(size_bytes: u64) -> Result<(), DiskError> {
    let whole = size_bytes.is_multiple_of(u64::from(SECTOR_SIZE));
    if whole && size_bytes > 0 && size_bytes <= MAX_DISK_SIZE {
        Ok(())
    } else {
        Err(DiskError::InvalidSize { size_bytes })
    }
}

impl Disk for RawDisk {
    fn geometry(&self) -> Geometry {
        Geometry {
            size_bytes: self.size_bytes.load(Ordering::Acquire),
            logical_sector: SECTOR_SIZE,
            physical_sector: 4096,
            read_only: self.read_only,
        }
    }

    fn read(&self, range: ByteRange) -> IoFuture<'_, Buffer> {
        Box::pin(async move {
            DiskError::check_range(&self.geometry(), range)?;
            self.read_range(range).await
        })
    }

    fn write(&self, at: ByteOffset, data: Buffer, durability: Durability) -> IoFuture<'_, ()> {
        Box::pin(async move {
            let range = written(&self.geometry(), at, data.len() as u64)?;
            self.check_write(range)?;
            self.write_range(range, data).await?;
            self.make_durable(durability).await
        })
    }

    fn write_zeroes(
        &self,
        range: ByteRange,
        mode: ZeroMode,
        durability: Durability,
    ) -> IoFuture<'_, ()> {
        Box::pin(async move {
            self.check_write(range)?;
            self.zero_range(range, mode).await?;
            self.make_durable(durability).await
        })
    }

    fn discard(&self, range: ByteRange) -> IoFuture<'_, ()> {
        Box::pin(async move {
            self.check_write(range)?;
            self.discard_range(range).await
        })
    }

    fn flush(&self) -> IoFuture<'_, ()> {
        Box::pin(async move {
            if self.read_only {
                return Ok(());
            }
            self.check_write(ByteRange::default())?;
            self.make_durable(Durability::Durable).await
        })
    }

    fn map(&self, range: ByteRange) -> IoFuture<'_, Vec<MappedRange>> {
        Box::pin(async move {
            DiskError::check_range(&self.geometry(), range)?;
            self.map_range(range).await
        })
    }

    fn resize(&self, size_bytes: u64) -> IoFuture<'_, ()> {
        Box::pin(async move {
            self.check_write(ByteRange::default())?;
            // Nothing else may run: the tail changes hands.
            let _alone = self.locks.lock_exclusive(ByteRange::up_to(u64::MAX)).await;
            let from_bytes = self.size_bytes.load(Ordering::Acquire);
            if size_bytes < from_bytes || check_size(size_bytes).is_err() {
                return Err(DiskError::Resize { from_bytes, to_bytes: size_bytes });
            }
            self.judge(self.direct.set_length(size_bytes).await)?;
            // A guest that was told of the new size must find it after a power cut.
            self.judge(self.direct.flush().await)?;
            self.size_bytes.store(size_bytes, Ordering::Release);
            Ok(())
        })
    }
}

/// The range of a write, if it exists at all.
fn written(geometry: &Geometry, at: ByteOffset, length: u64) -> Result<ByteRange, DiskError> {
    ByteRange::at(at, length).ok_or_else(|| DiskError::OutOfRange {
        range: ByteRange::new(at, ByteOffset::new(u64::MAX)).expect("nothing is greater"),
        size_bytes: geometry.size_bytes,
    })
}

#[cfg(test)]
mod tests;
