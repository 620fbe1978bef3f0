//! The file, as a disk that is read only.

use super::layout::{Layout, Source, Table};
use crate::block::{ByteOffset, ByteRange, Geometry};
use crate::disk::{Content, Disk, DiskError, IoFuture, MappedRange};
use crate::uring::buffer::Buffer;
use std::ops::Range;
use std::sync::Arc;

/// An image of a disk that lies nowhere.
pub struct SyntheticImage {
    layout: Layout,
    disk: Arc<dyn Disk>,
}

impl SyntheticImage {
    /// The image of `disk` that `layout` describes.
    ///
    /// # Panics
    ///
    /// If the layout is for a disk of another size.
    pub fn new(layout: Layout, disk: Arc<dyn Disk>) -> Self {
        assert_eq!(layout.disk_bytes(), disk.geometry().size_bytes, "a layout of another disk");
        Self { layout, disk }
    }

    /// Whether each of some units holds data, as far as the disk has them.
    async fn present(&self, units: &Range<u64>) -> Result<Vec<bool>, DiskError> {
        let whole = self.layout.in_disk(units);
        let unit_bytes = self.layout.unit_bytes();
        let first = whole.start().bytes() / unit_bytes;
        let index = |unit: u64| usize::try_from(unit - first).expect("it is in memory");
        let mut present = vec![false; index(whole.end().bytes().div_ceil(unit_bytes))];
        let mut left = whole;
        while !left.is_empty() {
            let end_before = left.start();
            for part in self.disk.map(left).await? {
                let known = part.range.intersection(left);
                if part.content == Content::Data && !known.is_empty() {
                    let from = known.start().bytes() / unit_bytes;
                    let to = known.end().bytes().div_ceil(unit_bytes);
                    present[index(from)..index(to)].fill(true);
                }
                let (_, rest) = left.split_at(part.range.end().min(left.end()).max(left.start()));
                left = rest;
            }
            assert!(left.start() > end_before, "a map tells of something");
        }
        Ok(present)
    }

    async fn entries(
        &self,
        table: &Table,
        entries: Range<u64>,
        before: u64,
        to: &mut [u8],
    ) -> Result<(), DiskError> {
        let present = self.present(&table.units(&entries)).await?;
        let bytes = self.layout.encode(table, entries, &present);
        let before = usize::try_from(before).expect("part of an entry");
        to.copy_from_slice(&bytes[before..][..to.len()]);
        Ok(())
    }

    async fn is_present(&self, unit: u64) -> Result<bool, DiskError> {
        Ok(self.present(&(unit..unit + 1)).await? == [true])
    }

    async fn assemble(&self, range: ByteRange) -> Result<Buffer, DiskError> {
        let mut buffer = Buffer::zeroed(usize::try_from(range.length()).expect("in memory"));
        let mut at = range.start();
        while at < range.end() {
            let stretch = self.layout.stretch(at, range.end());
            let inner = |offset: ByteOffset| {
                usize::try_from(offset.bytes() - range.start().bytes()).expect("in memory")
            };
            let to = &mut buffer[inner(at)..inner(stretch.range.end())];
            match stretch.source {
                Source::Bytes(bytes) => to.copy_from_slice(bytes),
                Source::Zeroes => {}
                Source::Disk(part) => to.copy_from_slice(&self.disk.read(part).await?),
                Source::Bitmap(unit) if self.is_present(unit).await? => to.fill(0xff),
                Source::Bitmap(_) => {}
                Source::Entries { table, entries, before } => {
                    self.entries(&table, entries, before, to).await?;
                }
            }
            at = stretch.range.end();
        }
        Ok(buffer)
    }
}

impl Disk for SyntheticImage {
    fn geometry(&self) -> Geometry {
        let geometry = self.disk.geometry();
        Geometry { size_bytes: self.layout.length(), read_only: true, ..geometry }
    }

    fn read(&self, range: ByteRange) -> IoFuture<'_, Buffer> {
        Box::pin(async move {
            DiskError::check_range(&self.geometry(), range)?;
            if range.is_empty() {
                return Ok(Buffer::zeroed(0));
            }
            // Mostly all of it is content, and then nothing is copied.
            let stretch = self.layout.stretch(range.start(), range.end());
            match stretch.source {
                Source::Disk(part) if stretch.range == range => self.disk.read(part).await,
                _ => self.assemble(range).await,
            }
        })
    }

    fn flush(&self) -> IoFuture<'_, ()> {
        Box::pin(std::future::ready(Ok(())))
    }

    fn map(&self, range: ByteRange) -> IoFuture<'_, Vec<MappedRange>> {
        Box::pin(async move {
            DiskError::check_range(&self.geometry(), range)?;
            if range.is_empty() {
                return Ok(Vec::new());
            }
            let stretch = self.layout.stretch(range.start(), range.end());
            let whole = |content| Ok(vec![MappedRange { range: stretch.range, content }]);
            match stretch.source {
                Source::Bytes(_) | Source::Entries { .. } => whole(Content::Data),
                Source::Zeroes => whole(Content::Hole),
                Source::Bitmap(unit) if self.is_present(unit).await? => whole(Content::Data),
                Source::Bitmap(_) => whole(Content::Hole),
                Source::Disk(part) => {
                    let mut mapped = self.disk.map(part).await?;
                    for known in &mut mapped {
                        let there = known.range.intersection(part);
                        let inside = there.start().bytes() - part.start().bytes();
                        let start = ByteOffset::new(stretch.range.start().bytes() + inside);
                        known.range = ByteRange::at(start, there.length()).expect("in the file");
                    }
                    mapped.retain(|known| !known.range.is_empty());
                    Ok(mapped)
                }
            }
        })
    }
}
