//! The contract between whoever holds blocks and whoever asks for them.
//!
//! A [`Disk`] is an image file, a view of a past moment or a writable branch; NBD, iSCSI, restore and replication see
//! nothing else. The trait is object safe, its futures are bound to the I/O core that made them.
//!
//! **Invariants** every implementation keeps, and `conformance` checks:
//! - A request is checked against the geometry before anything else: out of range or misaligned requests fail and
//!   change nothing.
//! - A completed write is seen by every read that starts afterwards, on any core.
//! - A completed [`Disk::flush`] makes every write that completed before it *started* durable; nothing more is promised.
//! - Dropping a future before it completes leaves each byte of a write either old or new, and the disk usable.
//! - After a failed write or flush the disk refuses further writes with [`DiskError::Failed`] until it is reopened.

use crate::block::{ByteOffset, ByteRange, Geometry};
use crate::file::FileError;
use crate::image::ImageFile;
use crate::ticket::{Change, Ticket};
use crate::uring::buffer::Buffer;
use futures_util::future::LocalBoxFuture;

/// What every operation of a [`Disk`] returns: a future that stays on its I/O core.
pub type IoFuture<'a, T> = LocalBoxFuture<'a, Result<T, DiskError>>;

/// Blocks that can be read and, unless the geometry says otherwise, written.
pub trait Disk: Send + Sync {
    /// Size, sectors, and whether writes are refused. Changes only by [`Disk::resize`].
    fn geometry(&self) -> Geometry;

    /// Reads exactly `range`, which may start and end at any byte within the disk.
    ///
    /// The buffer belongs to the operation until it completes; its window is exactly `range`, whatever was read around
    /// it for alignment, so an aligned caller gets the bytes without a copy.
    fn read(&self, range: ByteRange) -> IoFuture<'_, Buffer>;

    /// Writes `data` at `at`. With [`Durability::Durable`] the bytes (not necessarily earlier ones) are durable on return.
    /// Refused unless the implementation has something better.
    fn write(&self, _at: ByteOffset, _data: Buffer, _durability: Durability) -> IoFuture<'_, ()> {
        read_only()
    }

    /// Makes `range` read as zeroes. Refused unless the implementation has something better.
    fn write_zeroes(
        &self,
        _range: ByteRange,
        _mode: ZeroMode,
        _durability: Durability,
    ) -> IoFuture<'_, ()> {
        read_only()
    }

    /// Tells that the content of `range` is no longer needed. Afterwards it reads as zeroes or as before, block by
    /// block; every implementation here gives zeroes for whole blocks and leaves partial ones alone. Refused unless the
    /// implementation has something better.
    fn discard(&self, _range: ByteRange) -> IoFuture<'_, ()> {
        read_only()
    }

    /// The same as the call that `change` is, unless `ticket` is aborted before it is committed: then nothing of it is ever
    /// seen, and the answer is [`DiskError::Aborted`]. Whoever aborts needs not wait for that answer; reads that start later do,
    /// where the disk cannot know yet. Of what was aborted too late no further change is made. Here, and wherever nothing better is
    /// known, a change cannot be taken back once it begins.
    fn change<'a>(&'a self, change: Change, ticket: &Ticket) -> IoFuture<'a, ()> {
        if ticket.is_unwanted() || !ticket.commit() {
            return Box::pin(async { Err(DiskError::Aborted) });
        }
        match change {
            Change::Write { at, data, durability } => self.write(at, data, durability),
            Change::WriteZeroes { range, mode, durability } => {
                self.write_zeroes(range, mode, durability)
            }
            Change::Discard(range) => self.discard(range),
        }
    }

    /// Makes every completed write durable.
    fn flush(&self) -> IoFuture<'_, ()>;

    /// What is known of the content of `range`: consecutive, non-empty, in order, covering a non-empty prefix of it.
    /// An implementation may stop early; callers go on from the last end.
    fn map(&self, range: ByteRange) -> IoFuture<'_, Vec<MappedRange>>;

    /// Grows the disk to `size_bytes`; new bytes read as zeroes. Shrinking is refused, and growing too unless the
    /// implementation has something better.
    fn resize(&self, _size_bytes: u64) -> IoFuture<'_, ()> {
        read_only()
    }

    /// A number that changes before any write to `range`, from wherever, is answered: while it stays the same, so does the
    /// content. It may change without a write. None if nobody can say, or the disk is gone.
    fn version(&self, _range: ByteRange) -> Option<u64> {
        None
    }

    /// The file that is the disk, byte for byte from the first to the last, if there is one: files can share blocks.
    fn file(&self) -> Option<&ImageFile> {
        None
    }
}

fn read_only<'a>() -> IoFuture<'a, ()> {
    Box::pin(async { Err(DiskError::ReadOnly) })
}

/// How much must be on stable storage when a write returns.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Durability {
    /// Visible to reads; a later flush makes it durable.
    Cached,
    /// On stable storage (force unit access).
    Durable,
}

/// How a range may be zeroed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ZeroMode {
    /// Space may be given back.
    Unmap,
    /// Space stays allocated, so that a later write cannot run out of it.
    Allocate,
}

/// What a stretch of a disk holds, as far as is known without reading it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Content {
    /// Bytes that have to be read.
    Data,
    /// Allocated, and known to read as zeroes.
    Zero,
    /// Not allocated; reads as zeroes.
    Hole,
}

/// One stretch of a [`Disk::map`] answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MappedRange {
    /// Where.
    pub range: ByteRange,
    /// What.
    pub content: Content,
}

/// Why a request to a disk was refused or failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DiskError {
    /// The range reaches past the end of the disk.
    #[error("range {range} reaches past the end of the disk ({size_bytes} bytes)")]
    OutOfRange {
        /// What was asked for.
        range: ByteRange,
        /// Where the disk ends.
        size_bytes: u64,
    },
    /// A write to a read-only disk.
    #[error("the disk is read-only")]
    ReadOnly,
    /// Asked to shrink, or to grow past [`MAX_DISK_SIZE`](crate::MAX_DISK_SIZE) or to a size that is not whole sectors.
    #[error("cannot resize from {from_bytes} to {to_bytes} bytes")]
    Resize {
        /// Present size.
        from_bytes: u64,
        /// Size that was asked for.
        to_bytes: u64,
    },
    /// A size no disk can have.
    #[error("a disk cannot have {size_bytes} bytes: whole sectors of 512 or 4096, at most 64 TiB")]
    InvalidSize {
        /// Size that was asked for or found.
        size_bytes: u64,
    },
    /// A sector no disk can have.
    #[error("a disk cannot have sectors of {bytes} bytes: 512 or 4096")]
    InvalidSector {
        /// What was asked for.
        bytes: u32,
    },
    /// The image is not as long as the disk.
    #[error("the image has {found_bytes} bytes instead of {expected_bytes}")]
    WrongSize {
        /// Length of the image.
        found_bytes: u64,
        /// Size of the disk.
        expected_bytes: u64,
    },
    /// The stored bytes fail their checksum. They are never returned.
    #[error("damaged data in {range}: {what}")]
    Damaged {
        /// The part of the request that is damaged.
        range: ByteRange,
        /// Where it lies and which check failed.
        what: String,
    },
    /// The content of the range is not known: it lay in an image that is lost.
    #[error("content of {range} is unknown: {what}")]
    Unknown {
        /// The part of the request that is unknown.
        range: ByteRange,
        /// What is missing, and what heals it.
        what: String,
    },
    /// What is stored is encrypted, and the key is not there.
    #[error("content of {range} is sealed: {what}")]
    Sealed {
        /// The part of the request that is.
        range: ByteRange,
        /// Which key is missing, and why.
        what: String,
    },
    /// No space for the write; what was there before is unharmed, and a later write may succeed.
    #[error("no space left for the write: {0}")]
    NoSpace(String),
    /// An earlier write or flush failed; the disk refuses writes until it is reopened.
    #[error("an earlier write failed ({0}); the disk refuses writes until it is reopened")]
    Failed(String),
    /// The change was aborted before anybody could see any of it.
    #[error("the change was aborted")]
    Aborted,
    /// The disk is no more, for whoever has it open (a discarded branch, a machine that was removed).
    #[error("the disk is gone: {0}")]
    Gone(String),
    /// The disk cannot be used now; it will be there again (a service that stops, a key that is missing).
    #[error("the disk is not available: {0}")]
    Unavailable(String),
    /// The file below failed.
    #[error(transparent)]
    File(#[from] FileError),
}

impl DiskError {
    /// Checks `range` against `geometry`: the first test of every request.
    pub fn check_range(geometry: &Geometry, range: ByteRange) -> Result<(), Self> {
        if geometry.whole().contains(range) {
            Ok(())
        } else {
            Err(Self::OutOfRange { range, size_bytes: geometry.size_bytes })
        }
    }

    /// Checks that a write to `range` is allowed by `geometry`.
    pub fn check_writable(geometry: &Geometry, range: ByteRange) -> Result<(), Self> {
        if geometry.read_only {
            return Err(Self::ReadOnly);
        }
        Self::check_range(geometry, range)
    }

    /// The range of a write of `length` bytes at `at`, if there is such a range at all.
    pub fn written(geometry: &Geometry, at: ByteOffset, length: u64) -> Result<ByteRange, Self> {
        ByteRange::at(at, length).ok_or_else(|| Self::OutOfRange {
            range: ByteRange::new(at, ByteOffset::new(u64::MAX)).expect("nothing is greater"),
            size_bytes: geometry.size_bytes,
        })
    }
}
