//! A part of a parent, for an extent that is a part of a child.

use crate::block::{ByteOffset, ByteRange, Geometry};
use crate::disk::{Disk, DiskError, IoFuture, MappedRange};
use crate::uring::buffer::Buffer;
use std::sync::Arc;

/// The bytes of a disk from an offset on, read only.
pub(super) struct Window {
    disk: Arc<dyn Disk>,
    start: u64,
}

impl Window {
    /// What follows `start`; nothing if the disk ends before that.
    pub(super) fn new(disk: Arc<dyn Disk>, start: u64) -> Self {
        Self { disk, start }
    }

    fn in_disk(&self, range: ByteRange) -> Result<ByteRange, DiskError> {
        DiskError::check_range(&self.geometry(), range)?;
        let start = ByteOffset::new(self.start + range.start().bytes());
        Ok(ByteRange::at(start, range.length()).expect("within the disk"))
    }
}

impl Disk for Window {
    fn geometry(&self) -> Geometry {
        let geometry = self.disk.geometry();
        let size_bytes = geometry.size_bytes.saturating_sub(self.start);
        Geometry { size_bytes, read_only: true, ..geometry }
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
                let start = ByteOffset::new(part.range.start().bytes() - self.start);
                part.range = ByteRange::at(start, part.range.length()).expect("within the disk");
            }
            Ok(mapped)
        })
    }
}
