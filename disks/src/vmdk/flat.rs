//! Extents without tables: plain bytes in a file, and zeroes in none.

use crate::block::{ByteOffset, ByteRange, Geometry};
use crate::disk::{Content, Disk, DiskError, Durability, IoFuture, MappedRange, ZeroMode};
use crate::image::{Access, ImageFile};
use crate::mapped::{Layer, OwnRange};
use crate::uring::buffer::Buffer;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// What a guest is told of the medium.
pub(super) const PHYSICAL_SECTOR: u32 = 4096;

fn own_of(mapped: Vec<MappedRange>) -> Vec<OwnRange> {
    let own = |part: MappedRange| OwnRange { range: part.range, content: Some(part.content) };
    mapped.into_iter().map(own).collect()
}

/// A part of a disk that lies in a file as it is.
pub(super) struct FlatExtent {
    file: Arc<ImageFile>,
    /// Where in the file it starts, in bytes.
    start: u64,
    size_bytes: AtomicU64,
}

impl FlatExtent {
    /// The extent; the file must be long enough.
    pub(super) fn new(file: Arc<ImageFile>, start: u64, size_bytes: u64) -> Self {
        Self { file, start, size_bytes: AtomicU64::new(size_bytes) }
    }

    fn in_file(&self, range: ByteRange) -> ByteRange {
        let start = ByteOffset::new(self.start + range.start().bytes());
        ByteRange::at(start, range.length()).expect("a file ends far below 2^64")
    }

    async fn make_durable(&self, durability: Durability) -> Result<(), DiskError> {
        match durability {
            Durability::Cached => Ok(()),
            Durability::Durable => self.file.flush().await,
        }
    }
}

impl Disk for FlatExtent {
    fn geometry(&self) -> Geometry {
        Geometry {
            size_bytes: self.size_bytes.load(Ordering::Acquire),
            logical_sector: 512,
            physical_sector: PHYSICAL_SECTOR,
            read_only: self.file.access().is_read_only(),
        }
    }

    fn read(&self, range: ByteRange) -> IoFuture<'_, Buffer> {
        Box::pin(async move {
            DiskError::check_range(&self.geometry(), range)?;
            self.file.read(self.in_file(range)).await
        })
    }

    fn write(&self, at: ByteOffset, data: Buffer, durability: Durability) -> IoFuture<'_, ()> {
        Box::pin(async move {
            let range = DiskError::written(&self.geometry(), at, data.len() as u64)?;
            DiskError::check_writable(&self.geometry(), range)?;
            self.file.write(self.in_file(range).start(), data).await?;
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
            DiskError::check_writable(&self.geometry(), range)?;
            self.file.zero(self.in_file(range), mode).await?;
            self.make_durable(durability).await
        })
    }

    fn discard(&self, range: ByteRange) -> IoFuture<'_, ()> {
        // Zeroed rather than discarded: blocks of the disk need not be blocks of the file.
        let blocks = range.whole_blocks();
        match DiskError::check_writable(&self.geometry(), range) {
            Ok(()) => self.write_zeroes(blocks, ZeroMode::Unmap, Durability::Cached),
            Err(refused) => Box::pin(std::future::ready(Err(refused))),
        }
    }

    fn flush(&self) -> IoFuture<'_, ()> {
        Box::pin(async move {
            match self.file.access() {
                Access::Write => self.file.flush().await,
                _ => Ok(()),
            }
        })
    }

    fn map(&self, range: ByteRange) -> IoFuture<'_, Vec<MappedRange>> {
        Box::pin(async move {
            DiskError::check_range(&self.geometry(), range)?;
            let mut mapped = self.file.map(self.in_file(range)).await?;
            for part in &mut mapped {
                let start = ByteOffset::new(part.range.start().bytes() - self.start);
                part.range = ByteRange::at(start, part.range.length()).expect("within the extent");
            }
            Ok(mapped)
        })
    }

    fn resize(&self, size_bytes: u64) -> IoFuture<'_, ()> {
        Box::pin(async move {
            let from_bytes = self.geometry().size_bytes;
            if size_bytes < from_bytes {
                return Err(DiskError::Resize { from_bytes, to_bytes: size_bytes });
            }
            let end = self.start + size_bytes;
            // Something behind the extent is about to become a part of it.
            let behind = ByteRange::new(
                ByteOffset::new(self.start + from_bytes),
                ByteOffset::new(end.min(self.file.length())),
            );
            if let Some(behind) = behind {
                self.file.zero(behind, ZeroMode::Unmap).await?;
            }
            if self.file.length() < end {
                self.file.set_length(end).await?;
            }
            self.file.flush().await?;
            self.size_bytes.store(size_bytes, Ordering::Release);
            Ok(())
        })
    }
}

impl Layer for FlatExtent {
    fn own(&self, range: ByteRange) -> IoFuture<'_, Vec<OwnRange>> {
        Box::pin(async move { Ok(own_of(self.map(range).await?)) })
    }
}

/// A part of a disk that is zeroes and has no file.
pub(super) struct ZeroExtent {
    geometry: Geometry,
}

impl ZeroExtent {
    pub(super) fn new(size_bytes: u64, read_only: bool) -> Self {
        let geometry = Geometry {
            size_bytes,
            logical_sector: 512,
            physical_sector: PHYSICAL_SECTOR,
            read_only,
        };
        Self { geometry }
    }

    fn zeroed(&self, range: ByteRange) -> IoFuture<'_, ()> {
        Box::pin(std::future::ready(DiskError::check_writable(&self.geometry, range)))
    }
}

impl Disk for ZeroExtent {
    fn geometry(&self) -> Geometry {
        self.geometry
    }

    fn read(&self, range: ByteRange) -> IoFuture<'_, Buffer> {
        Box::pin(async move {
            DiskError::check_range(&self.geometry, range)?;
            Ok(Buffer::zeroed(usize::try_from(range.length()).expect("a read fits memory")))
        })
    }

    fn write(&self, at: ByteOffset, data: Buffer, _durability: Durability) -> IoFuture<'_, ()> {
        Box::pin(async move {
            let range = DiskError::written(&self.geometry, at, data.len() as u64)?;
            DiskError::check_writable(&self.geometry, range)?;
            if data.iter().all(|byte| *byte == 0) {
                return Ok(());
            }
            Err(DiskError::NoSpace(format!("{range} is in a ZERO extent, which has no file")))
        })
    }

    fn write_zeroes(
        &self,
        range: ByteRange,
        _mode: ZeroMode,
        _durability: Durability,
    ) -> IoFuture<'_, ()> {
        self.zeroed(range)
    }

    fn discard(&self, range: ByteRange) -> IoFuture<'_, ()> {
        self.zeroed(range)
    }

    fn flush(&self) -> IoFuture<'_, ()> {
        Box::pin(std::future::ready(Ok(())))
    }

    fn map(&self, range: ByteRange) -> IoFuture<'_, Vec<MappedRange>> {
        Box::pin(async move {
            DiskError::check_range(&self.geometry, range)?;
            let hole = MappedRange { range, content: Content::Hole };
            Ok(if range.is_empty() { Vec::new() } else { vec![hole] })
        })
    }

    fn resize(&self, size_bytes: u64) -> IoFuture<'_, ()> {
        let from_bytes = self.geometry.size_bytes;
        let refused = DiskError::Resize { from_bytes, to_bytes: size_bytes };
        Box::pin(std::future::ready(Err(refused)))
    }
}

impl Layer for ZeroExtent {
    fn own(&self, range: ByteRange) -> IoFuture<'_, Vec<OwnRange>> {
        Box::pin(async move { Ok(own_of(self.map(range).await?)) })
    }
}
