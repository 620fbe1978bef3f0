//! A part of a disk, as a disk: of a parent for an extent of a child, a partition.

use crate::block::{ByteOffset, ByteRange, Geometry};
use crate::disk::{Disk, DiskError, IoFuture, MappedRange};
use crate::uring::buffer::Buffer;
use std::sync::Arc;

/// Some of the bytes of a disk, read only.
pub struct Window {
    disk: Arc<dyn Disk>,
    part: ByteRange,
}

impl Window {
    /// The bytes of `part`, as far as the disk has them.
    pub fn new(disk: Arc<dyn Disk>, part: ByteRange) -> Self {
        let part = part.intersection(disk.geometry().whole());
        Self { disk, part }
    }

    /// What follows `start`; nothing if the disk ends before that.
    pub(crate) fn behind(disk: Arc<dyn Disk>, start: u64) -> Self {
        let rest = ByteRange::new(ByteOffset::new(start), ByteOffset::new(u64::MAX));
        Self::new(disk, rest.expect("nothing is greater"))
    }

    fn in_disk(&self, range: ByteRange) -> Result<ByteRange, DiskError> {
        DiskError::check_range(&self.geometry(), range)?;
        let start = ByteOffset::new(self.part.start().bytes() + range.start().bytes());
        Ok(ByteRange::at(start, range.length()).expect("within the disk"))
    }
}

impl Disk for Window {
    fn geometry(&self) -> Geometry {
        Geometry { size_bytes: self.part.length(), read_only: true, ..self.disk.geometry() }
    }

    fn read(&self, range: ByteRange) -> IoFuture<'_, Buffer> {
        Box::pin(async move { self.disk.read(self.in_disk(range)?).await })
    }

    fn flush(&self) -> IoFuture<'_, ()> {
        Box::pin(std::future::ready(Ok(())))
    }

    fn map(&self, range: ByteRange) -> IoFuture<'_, Vec<MappedRange>> {
        Box::pin(async move {
            let mut mapped = self.disk.map(self.in_disk(range)?).await?;
            for part in &mut mapped {
                let start = part.range.start().bytes() - self.part.start().bytes();
                part.range = ByteRange::at(ByteOffset::new(start), part.range.length())
                    .expect("within the disk");
            }
            Ok(mapped)
        })
    }
}
