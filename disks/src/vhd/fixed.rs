//! Fixed disks: the bytes of the disk in order, then the footer.
//!
//! ```text
//!   file     [data: as long as the disk] [what nobody uses, in files of some programs] [footer]
//! ```
//!
//! **Growth** moves the only footer, so its order matters:
//!
//! 1. The file is extended, the footer of the new size is written at the new end; flush. A crash before the flush has ended
//!    may leave the new length without the new footer: then the old one is the last data of the file, and counts.
//! 2. The sector of the old footer is zeroed; flush. A crash before that leaves it, and the new footer says where it was, so
//!    it is known for what it is and reads as zeroes.
//!
//! Between 1 and its flush no other program opens the file, if the power fails just then: the format has no second copy.

use super::format::{Footer, MAX_DISK_BYTES};
use super::found::{FOOTER, Found, Tail, stretch, write_footer};
use crate::block::{ByteOffset, ByteRange, Geometry};
use crate::disk::{Disk, DiskError, Durability, IoFuture, MappedRange, ZeroMode};
use crate::image::{Access, ImageFile};
use crate::mapped::{Layer, OwnRange};
use crate::uring::buffer::Buffer;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A fixed disk.
pub(super) struct FixedDisk {
    file: Arc<ImageFile>,
    size_bytes: AtomicU64,
    /// A sector that reads as zeroes, whatever the file has there.
    stale: Option<u64>,
    end: tokio::sync::Mutex<End>,
}

/// What is behind the last byte of the disk.
struct End {
    footer: Footer,
    /// Where the footer is.
    at: u64,
    /// A change of size was given up half-way: the file may be too long, or without a footer.
    unsettled: bool,
}

impl FixedDisk {
    /// The disk in `file`. One that is opened for writing is put in order first, durably.
    pub(super) async fn open(file: Arc<ImageFile>, found: Found) -> Result<Self, DiskError> {
        let size = found.footer.size_bytes();
        let mut stale = found.stale;
        let at = match found.tail {
            Tail::There(at) | Tail::Early(at) => at,
            Tail::Old | Tail::Missing => size,
        };
        if file.access() == Access::Write {
            if let Tail::Early(_) = found.tail {
                file.set_length(at + FOOTER).await?;
                file.flush().await?;
            }
            if let Some(at) = stale.take() {
                file.zero(stretch(at, FOOTER), ZeroMode::Allocate).await?;
                file.flush().await?;
            }
        }
        let end = tokio::sync::Mutex::new(End { footer: found.footer, at, unsettled: false });
        Ok(Self { file, size_bytes: AtomicU64::new(size), stale, end })
    }

    /// Ends a change of size that was given up.
    async fn settle(&self, end: &mut End) -> Result<(), DiskError> {
        if end.unsettled {
            self.file.set_length(end.at + FOOTER).await?;
            write_footer(&self.file, &end.footer, end.at).await?;
            self.file.flush().await?;
            end.unsettled = false;
        }
        Ok(())
    }

    async fn grow(&self, to_bytes: u64) -> Result<(), DiskError> {
        let mut end = self.end.lock().await;
        self.settle(&mut end).await?;
        let from_bytes = self.geometry().size_bytes;
        let whole = to_bytes.is_multiple_of(FOOTER);
        if to_bytes < from_bytes || to_bytes > MAX_DISK_BYTES || !whole {
            return Err(DiskError::Resize { from_bytes, to_bytes });
        }
        if to_bytes == from_bytes {
            return Ok(());
        }
        if from_bytes < end.at {
            // Nobody knows what is between the disk and its footer.
            let between = stretch(from_bytes, end.at - from_bytes);
            self.file.zero(between, ZeroMode::Unmap).await?;
            self.file.flush().await?;
        }
        let mut footer = end.footer.resized(to_bytes);
        footer.original_bytes = end.at;
        end.unsettled = true;
        let at = to_bytes.max(end.at);
        if at > end.at {
            self.file.set_length(at + FOOTER).await?;
        }
        write_footer(&self.file, &footer, at).await?;
        self.file.flush().await?;
        if at > end.at {
            self.file.zero(stretch(end.at, FOOTER), ZeroMode::Allocate).await?;
            self.file.flush().await?;
        }
        *end = End { footer, at, unsettled: false };
        self.size_bytes.store(to_bytes, Ordering::Release);
        Ok(())
    }

    async fn make_durable(&self, durability: Durability) -> Result<(), DiskError> {
        match durability {
            Durability::Cached => Ok(()),
            Durability::Durable => self.file.flush().await,
        }
    }

    fn check_write(&self, range: ByteRange) -> Result<(), DiskError> {
        DiskError::check_writable(&self.geometry(), range)
    }
}

impl Disk for FixedDisk {
    fn geometry(&self) -> Geometry {
        Geometry {
            size_bytes: self.size_bytes.load(Ordering::Acquire),
            logical_sector: 512,
            physical_sector: 4096,
            read_only: self.file.access().is_read_only(),
        }
    }

    fn read(&self, range: ByteRange) -> IoFuture<'_, Buffer> {
        Box::pin(async move {
            DiskError::check_range(&self.geometry(), range)?;
            let mut buffer = self.file.read(range).await?;
            if let Some(at) = self.stale {
                let zeroes = range.intersection(stretch(at, FOOTER));
                let start = zeroes.start().bytes() - range.start().bytes();
                let index = |at: u64| usize::try_from(at).expect("within the buffer");
                buffer[index(start)..index(start + zeroes.length())].fill(0);
            }
            Ok(buffer)
        })
    }

    fn write(&self, at: ByteOffset, data: Buffer, durability: Durability) -> IoFuture<'_, ()> {
        Box::pin(async move {
            let range = DiskError::written(&self.geometry(), at, data.len() as u64)?;
            self.check_write(range)?;
            self.file.write(at, data).await?;
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
            self.file.zero(range, mode).await?;
            self.make_durable(durability).await
        })
    }

    fn discard(&self, range: ByteRange) -> IoFuture<'_, ()> {
        Box::pin(async move {
            self.check_write(range)?;
            self.file.discard(range).await
        })
    }

    fn flush(&self) -> IoFuture<'_, ()> {
        Box::pin(async move {
            if self.file.access().is_read_only() {
                return Ok(());
            }
            self.settle(&mut *self.end.lock().await).await?;
            self.file.flush().await
        })
    }

    fn map(&self, range: ByteRange) -> IoFuture<'_, Vec<MappedRange>> {
        Box::pin(async move {
            DiskError::check_range(&self.geometry(), range)?;
            self.file.map(range).await
        })
    }

    fn resize(&self, size_bytes: u64) -> IoFuture<'_, ()> {
        Box::pin(async move {
            self.check_write(ByteRange::default())?;
            self.grow(size_bytes).await
        })
    }
}

impl Layer for FixedDisk {
    fn own(&self, range: ByteRange) -> IoFuture<'_, Vec<OwnRange>> {
        Box::pin(async move {
            let mapped = self.map(range).await?;
            let own =
                |part: MappedRange| OwnRange { range: part.range, content: Some(part.content) };
            Ok(mapped.into_iter().map(own).collect())
        })
    }
}
