//! One image file, by the byte: what every format reads and writes through.
//!
//! ```text
//!   file   ├──────── whole blocks of 4 KiB ────────┤─ tail ─┤      as long as the file
//!   I/O    │  O_DIRECT; partial blocks are read,   │ page   │
//!          │  changed and written back under lock  │ cache  │
//! ```
//!
//! Offsets are those of the file, requests may start and end at any byte of it, and what is aligned moves without a copy.
//! The tail, less than a block, exists when the length is not a multiple of 4 KiB. Direct I/O could not touch it without
//! making the file longer, so it goes through a second, buffered handle; no other byte does.
//!
//! **Invariants**
//! - A write that covers blocks only in part holds them exclusively from before it reads them until it has written them
//!   back; every other write holds its blocks shared. So no two writes into one block lose bytes of each other.
//! - After a failed write or flush (lack of space excepted) no write starts: what reads return and what is on stable
//!   storage may differ from then on.
//! - A handle that may write has the file locked for itself; one that reads keeps writers away, unless it was asked not to.

mod io;
mod transfer;

use crate::block::{BLOCK_SIZE, ByteOffset, ByteRange};
use crate::disk::{DiskError, MappedRange, ZeroMode};
use crate::file::{Caching, FileError, FileIo, Folder, OpenMode, Sectors};
use crate::range_locks::RangeLocks;
use crate::uring::buffer::Buffer;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

/// Most stretches in one answer of [`ImageFile::map`].
const MAX_MAP_ENTRIES: usize = 1024;

/// What a file is opened for, and who else may have it open.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// Reading and writing, alone.
    Write,
    /// Reading, while nobody writes.
    Read,
    /// Reading, whoever else writes: what is read may be of different moments.
    ReadShared,
}

impl Access {
    /// Whether nothing may be changed.
    pub fn is_read_only(self) -> bool {
        self != Self::Write
    }
}

/// An open file of an image.
pub struct ImageFile {
    path: PathBuf,
    /// Whole blocks, without the page cache.
    direct: Arc<dyn FileIo>,
    /// The tail, through the page cache.
    buffered: Arc<dyn FileIo>,
    length: AtomicU64,
    access: Access,
    locks: RangeLocks,
    /// Why writes are refused.
    failed: OnceLock<String>,
    /// The file system cannot punch holes, or not zero ranges: zeroes are written instead.
    cannot_punch: AtomicBool,
    cannot_zero: AtomicBool,
}

impl ImageFile {
    /// Opens the file at `path`.
    ///
    /// It may be open for writing once, and not while it is open for [reading](Access::Read): the second attempt, also of
    /// another process, fails with [`FileError::Locked`].
    pub async fn open(folder: &dyn Folder, path: &Path, access: Access) -> Result<Self, FileError> {
        let mode = match access {
            Access::Write => OpenMode::ReadWrite,
            Access::Read | Access::ReadShared => OpenMode::Read,
        };
        let direct = folder.open(path, mode, Caching::Direct).await?;
        match access {
            Access::Write => direct.lock_exclusive().await?,
            Access::Read => direct.lock_shared().await?,
            Access::ReadShared => {}
        }
        let length = direct.length().await?;
        let buffered = folder.open(path, mode, Caching::Buffered).await?;
        Ok(Self::new(folder.display().join(path), direct, buffered, length, access))
    }

    /// Makes a file that is to be called `path`, of `length` zero bytes, and opens it for writing.
    ///
    /// It gets its name with [`ImageFile::publish`], when it is whole, so a crash leaves either nothing of that name or all of
    /// it.
    pub async fn create(folder: &dyn Folder, path: &Path, length: u64) -> Result<Self, FileError> {
        match folder.open(path, OpenMode::Read, Caching::Buffered).await {
            Err(FileError::NotFound { .. }) => {}
            Ok(_) => return Err(FileError::Exists { path: path.to_owned() }),
            Err(error) => return Err(error),
        }
        let unfinished = unfinished(path);
        match folder.remove(&unfinished).await {
            Ok(()) | Err(FileError::NotFound { .. }) => {}
            Err(error) => return Err(error),
        }
        let direct = folder.open(&unfinished, OpenMode::CreateNew, Caching::Direct).await?;
        direct.lock_exclusive().await?;
        direct.set_length(length).await?;
        let buffered = folder.open(&unfinished, OpenMode::ReadWrite, Caching::Buffered).await?;
        Ok(Self::new(folder.display().join(path), direct, buffered, length, Access::Write))
    }

    /// Makes what was written durable and gives the file the name it was [created](ImageFile::create) for.
    pub async fn publish(&self, folder: &dyn Folder, path: &Path) -> Result<(), DiskError> {
        self.flush().await?;
        folder.rename(&unfinished(path), path).await?;
        folder.sync(path.parent().unwrap_or(Path::new(""))).await?;
        Ok(())
    }

    pub(crate) fn new(
        path: PathBuf,
        direct: Arc<dyn FileIo>,
        buffered: Arc<dyn FileIo>,
        length: u64,
        access: Access,
    ) -> Self {
        Self {
            path,
            direct,
            buffered,
            length: AtomicU64::new(length),
            access,
            locks: RangeLocks::new(),
            failed: OnceLock::new(),
            cannot_punch: AtomicBool::new(false),
            cannot_zero: AtomicBool::new(false),
        }
    }

    /// The file as a person would name it.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What it was opened for.
    pub fn access(&self) -> Access {
        self.access
    }

    /// The sectors of the device it is, if it is one; then its length cannot change.
    pub fn sectors(&self) -> Option<Sectors> {
        self.direct.sectors()
    }

    /// Length in bytes.
    pub fn length(&self) -> u64 {
        self.length.load(Ordering::Acquire)
    }

    /// Reads exactly `range`; past the end it is [`FileError::Ended`].
    pub async fn read(&self, range: ByteRange) -> Result<Buffer, DiskError> {
        self.check(range)?;
        self.read_range(range).await
    }

    /// Fills `into` from `at`; past the end it is [`FileError::Ended`]. Needs no memory of its own where all is aligned.
    pub async fn read_into(&self, at: ByteOffset, into: Buffer) -> Result<Buffer, DiskError> {
        self.check(stretch(at, into.len()))?;
        self.read_exactly(at, into).await
    }

    /// Writes `data` at `at`, within the present length.
    pub async fn write(&self, at: ByteOffset, data: Buffer) -> Result<(), DiskError> {
        let range = stretch(at, data.len());
        self.check_write(range)?;
        self.write_range(range, data).await
    }

    /// Makes `range` read as zeroes.
    pub async fn zero(&self, range: ByteRange, mode: ZeroMode) -> Result<(), DiskError> {
        self.check_write(range)?;
        self.zero_range(range, mode).await
    }

    /// Gives back the space of the whole blocks in `range`, which read as zeroes afterwards; the rest stays.
    pub async fn discard(&self, range: ByteRange) -> Result<(), DiskError> {
        self.check_write(range)?;
        self.discard_range(range).await
    }

    /// Data and holes of `range`, as the file system tells; a prefix of it if there are many.
    pub async fn map(&self, range: ByteRange) -> Result<Vec<MappedRange>, DiskError> {
        self.check(range)?;
        self.map_range(range).await
    }

    /// Makes every completed write, and the length, durable.
    pub async fn flush(&self) -> Result<(), DiskError> {
        self.check_write(ByteRange::default())?;
        // One inode: this flushes what went through the buffered handle as well.
        self.judge(self.direct.flush().await)
    }

    /// Cuts or extends the file; new bytes read as zeroes. Durable with the next flush.
    pub async fn set_length(&self, length: u64) -> Result<(), DiskError> {
        self.check_write(ByteRange::default())?;
        let has_tail = |length: u64| !length.is_multiple_of(BLOCK_SIZE);
        // A tail changes hands: nothing else may run. Without one, nothing in flight is concerned.
        let _alone = if has_tail(self.length()) || has_tail(length) {
            Some(self.locks.lock_exclusive(ByteRange::up_to(u64::MAX)).await)
        } else {
            None
        };
        self.judge(self.direct.set_length(length).await)?;
        self.length.store(length, Ordering::Release);
        Ok(())
    }

    /// Takes over all bytes of `source`, and its blocks, where the file system can do that; `false`, and nothing is changed,
    /// where it cannot. It must not be longer than this file, which keeps what it has behind that.
    pub(crate) async fn share(&self, source: &Self) -> Result<bool, DiskError> {
        let all = ByteRange::up_to(source.length());
        self.check_write(all)?;
        if self.sectors().is_some() || source.sectors().is_some() {
            return Ok(false);
        }
        let _alone = self.locks.lock_exclusive(ByteRange::up_to(u64::MAX)).await;
        self.judge(self.direct.share(&*source.direct).await)
    }

    fn check(&self, range: ByteRange) -> Result<(), DiskError> {
        let length = self.length();
        if range.end().bytes() <= length {
            return Ok(());
        }
        let there = length.saturating_sub(range.start().bytes());
        Err(DiskError::File(FileError::Ended {
            path: self.path.clone(),
            offset: range.start().bytes(),
            wanted: usize::try_from(range.length()).unwrap_or(usize::MAX),
            got: usize::try_from(there).unwrap_or(usize::MAX),
        }))
    }

    fn check_write(&self, range: ByteRange) -> Result<(), DiskError> {
        if self.access.is_read_only() {
            return Err(DiskError::ReadOnly);
        }
        if let Some(why) = self.failed.get() {
            return Err(DiskError::Failed(why.clone()));
        }
        self.check(range)
    }

    /// The part of `range` in whole blocks of the file, and the part in its tail.
    fn divide(&self, range: ByteRange) -> (ByteRange, ByteRange) {
        let tail = ByteOffset::new(self.length() / BLOCK_SIZE * BLOCK_SIZE);
        range.split_at(tail.clamp(range.start(), range.end()))
    }

    /// Tells a lack of space from a failure, after which writes are refused.
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
}

/// The bytes of a transfer; cut at the end of all offsets, which no file reaches.
fn stretch(at: ByteOffset, length: usize) -> ByteRange {
    let end = at.bytes().saturating_add(length as u64);
    ByteRange::new(at, ByteOffset::new(end)).expect("the end is not before the start")
}

/// Name of a file that is being made.
fn unfinished(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".unfinished");
    name.into()
}
