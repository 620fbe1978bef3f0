//! Raw images: a disk whose bytes are those of a file, at the same place.
//!
//! ```text
//!                  file                                 block device
//!   sectors        as whoever opens it says (512e)      its own (512e, 512n, 4Kn)
//!   growth         the file becomes longer              refused: the device is as long as it is
//! ```
//!
//! Sectors are what a guest is told. Requests may start and end at any byte, whatever the sectors are.
//!
//! **Invariant:** the file is as long as the disk. How requests reach it is told at
//! [`ImageFile`].

use crate::block::{ByteOffset, ByteRange, Geometry, MAX_DISK_SIZE};
use crate::disk::{Disk, DiskError, Durability, IoFuture, MappedRange, ZeroMode};
use crate::file::{Folder, Sectors};
use crate::image::{Access, ImageFile};
use crate::mapped::{Layer, OwnRange};
use crate::uring::buffer::Buffer;
use std::path::Path;
use tokio::sync::Mutex;

/// Smallest unit a guest addresses, in bytes, of images that are made here or that nobody knows more of. Sizes are multiples
/// of it.
pub const SECTOR_SIZE: u32 = 512;

/// A raw image file, or a block device.
pub struct RawDisk {
    file: ImageFile,
    sectors: Sectors,
    /// One change of size at a time, or a late one might shrink.
    resizing: Mutex<()>,
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
        check_size(size_bytes, SECTOR_SIZE)?;
        let file = ImageFile::create(folder, path, size_bytes).await?;
        file.publish(folder, path).await?;
        Self::over(file, SECTOR_SIZE)
    }

    /// Opens the image at `path`. Its length must be `expected_size`, if that is given.
    ///
    /// A file may be open for writing once: the second attempt, also of another process, fails with
    /// [`FileError::Locked`](crate::file::FileError::Locked).
    pub async fn open(
        folder: &dyn Folder,
        path: &Path,
        expected_size: Option<u64>,
        read_only: bool,
    ) -> Result<Self, DiskError> {
        let access = if read_only { Access::ReadShared } else { Access::Write };
        let file = ImageFile::open(folder, path, access).await?;
        let found_bytes = file.length();
        let expected_bytes = expected_size.unwrap_or(found_bytes);
        if found_bytes != expected_bytes {
            return Err(DiskError::WrongSize { found_bytes, expected_bytes });
        }
        Self::over(file, SECTOR_SIZE)
    }

    /// The disk that `file` holds, with logical sectors of `sector_bytes` (512 or 4096) unless it is a device, which has its own.
    pub fn over(file: ImageFile, sector_bytes: u32) -> Result<Self, DiskError> {
        if !matches!(sector_bytes, 512 | 4096) {
            return Err(DiskError::InvalidSector { bytes: sector_bytes });
        }
        let told = Sectors { logical: sector_bytes, physical: 4096 };
        let sectors = file.sectors().unwrap_or(told);
        check_size(file.length(), sectors.logical)?;
        Ok(Self { file, sectors, resizing: Mutex::new(()) })
    }

    async fn make_durable(&self, durability: Durability) -> Result<(), DiskError> {
        match durability {
            Durability::Cached => Ok(()),
            Durability::Durable => self.file.flush().await,
        }
    }
}

fn check_size(size_bytes: u64, sector_bytes: u32) -> Result<(), DiskError> {
    let whole = size_bytes.is_multiple_of(u64::from(sector_bytes));
    if whole && size_bytes > 0 && size_bytes <= MAX_DISK_SIZE {
        Ok(())
    } else {
        Err(DiskError::InvalidSize { size_bytes })
    }
}

impl Disk for RawDisk {
    fn geometry(&self) -> Geometry {
        Geometry {
            size_bytes: self.file.length(),
            logical_sector: self.sectors.logical,
            physical_sector: self.sectors.physical,
            read_only: self.file.access().is_read_only(),
        }
    }

    fn read(&self, range: ByteRange) -> IoFuture<'_, Buffer> {
        Box::pin(async move {
            DiskError::check_range(&self.geometry(), range)?;
            self.file.read(range).await
        })
    }

    fn write(&self, at: ByteOffset, data: Buffer, durability: Durability) -> IoFuture<'_, ()> {
        Box::pin(async move {
            let range = DiskError::written(&self.geometry(), at, data.len() as u64)?;
            DiskError::check_writable(&self.geometry(), range)?;
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
            DiskError::check_writable(&self.geometry(), range)?;
            self.file.zero(range, mode).await?;
            self.make_durable(durability).await
        })
    }

    fn discard(&self, range: ByteRange) -> IoFuture<'_, ()> {
        Box::pin(async move {
            DiskError::check_writable(&self.geometry(), range)?;
            self.file.discard(range).await
        })
    }

    fn flush(&self) -> IoFuture<'_, ()> {
        Box::pin(async move {
            match self.file.access() {
                Access::Read | Access::ReadShared => Ok(()),
                Access::Write => self.file.flush().await,
            }
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
            DiskError::check_writable(&self.geometry(), ByteRange::default())?;
            let _alone = self.resizing.lock().await;
            let from_bytes = self.file.length();
            let fixed = self.file.sectors().is_some() && size_bytes != from_bytes;
            let valid = check_size(size_bytes, self.sectors.logical).is_ok();
            if size_bytes < from_bytes || fixed || !valid {
                return Err(DiskError::Resize { from_bytes, to_bytes: size_bytes });
            }
            self.file.set_length(size_bytes).await?;
            // A guest that was told of the new size must find it after a power cut.
            self.file.flush().await
        })
    }

    fn file(&self) -> Option<&ImageFile> {
        Some(&self.file)
    }
}

impl Layer for RawDisk {
    fn own(&self, range: ByteRange) -> IoFuture<'_, Vec<OwnRange>> {
        Box::pin(async move {
            let mapped = self.map(range).await?;
            let own =
                |part: MappedRange| OwnRange { range: part.range, content: Some(part.content) };
            Ok(mapped.into_iter().map(own).collect())
        })
    }
}

#[cfg(test)]
mod tests;
