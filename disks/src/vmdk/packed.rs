//! Stream-optimised extents, read by random access: packed grains, found by the tables that the footer leads to.
//!
//! A grain is unpacked as a whole, off the I/O core, and the last few stay in memory: who reads in order unpacks each once.

use super::format::stream::{GRAIN_MARKER_BYTES, parse_grain_marker, unpack_grain};
use super::format::{SECTOR_BYTES, malformed};
use super::sparse::{Outline, damaged, load_table};
use crate::block::{ByteOffset, ByteRange};
use crate::disk::{DiskError, IoFuture};
use crate::image::{ImageError, ImageFile};
use crate::mapped::{Changes, Place, Shape, Table};
use crate::uring::buffer::Buffer;
use crate::uring::offload;
use parking_lot::{Mutex, RwLock};
use std::collections::VecDeque;
use std::sync::Arc;

/// Most bytes of unpacked grains that are kept.
const CACHE_BYTES: u64 = 8 << 20;
/// What is read at first: the marker, and most packed grains as a whole.
const FIRST_READ: u64 = 32 << 10;

/// The grain tables of a stream.
pub(super) struct PackedTable {
    file: Arc<ImageFile>,
    outline: RwLock<Outline>,
    cache: Mutex<VecDeque<(u64, Arc<Vec<u8>>)>>,
}

impl PackedTable {
    pub(super) fn new(file: Arc<ImageFile>, outline: Outline) -> Self {
        Self { file, outline: RwLock::new(outline), cache: Mutex::default() }
    }

    fn cached(&self, number: u64) -> Option<Arc<Vec<u8>>> {
        let mut cache = self.cache.lock();
        let place = cache.iter().position(|(other, _)| *other == number)?;
        let found = cache.remove(place)?;
        let grain = Arc::clone(&found.1);
        cache.push_back(found);
        Some(grain)
    }

    fn keep(&self, number: u64, grain: &Arc<Vec<u8>>) {
        let mut cache = self.cache.lock();
        let most = usize::try_from(CACHE_BYTES).expect("small") / grain.len();
        while cache.len() >= most.max(1) {
            cache.pop_front();
        }
        if cache.iter().all(|(other, _)| *other != number) {
            cache.push_back((number, Arc::clone(grain)));
        }
    }

    async fn read_grain(&self, number: u64, offset: u64) -> Result<Arc<Vec<u8>>, ImageError> {
        let fail = |problem| ImageError::malformed(self.file.path(), problem);
        let header = self.outline.read().header.clone();
        let end = self.file.length();
        let first = ByteRange::at(ByteOffset::new(offset), FIRST_READ.min(end - offset));
        let mut bytes = self.file.read(first.expect("within the file")).await?;
        let size = parse_grain_marker(&header, number, &bytes, offset).map_err(fail)?;
        let whole = GRAIN_MARKER_BYTES as u64 + size;
        if offset + whole > end {
            let expected = format!("{} bytes, which are left in the file", end - offset);
            return Err(fail(malformed("VMDK grain marker", offset, "size", size, expected)));
        }
        if whole > bytes.len() as u64 {
            let all = ByteRange::at(ByteOffset::new(offset), whole).expect("within the file");
            bytes = self.file.read(all).await?;
        }
        let unpacked = offload(move || {
            let end = GRAIN_MARKER_BYTES + usize::try_from(size).expect("checked");
            let packed = &bytes[GRAIN_MARKER_BYTES..end];
            let grain = usize::try_from(header.grain_bytes()).expect("checked");
            let mut into = vec![0; grain];
            unpack_grain(&header, number, packed, offset, &mut into).map(|()| into)
        });
        Ok(Arc::new(unpacked.await.map_err(fail)?))
    }
}

fn read_only() -> IoFuture<'static, ()> {
    Box::pin(std::future::ready(Err(DiskError::ReadOnly)))
}

impl Table for PackedTable {
    fn shape(&self) -> Shape {
        self.outline.read().shape()
    }

    fn load(&self, page: u64) -> IoFuture<'_, Vec<Place>> {
        Box::pin(load_table(&self.file, &self.outline, page, Place::Packed))
    }

    fn begin_changes(&self) -> IoFuture<'_, ()> {
        read_only()
    }

    fn commit<'a>(&'a self, _changes: &'a Changes) -> IoFuture<'a, ()> {
        read_only()
    }

    fn resize(&self, _size_bytes: u64) -> IoFuture<'_, ()> {
        read_only()
    }

    fn unpack(&self, block: u64, offset: u64) -> IoFuture<'_, Buffer> {
        Box::pin(async move {
            if let Some(grain) = self.cached(block) {
                return Ok(Buffer::copy_of(&grain));
            }
            let grain = self.read_grain(block, offset).await.map_err(|error| {
                let outline = self.outline.read();
                let length = outline.header.grain_bytes();
                let range = ByteRange::at(ByteOffset::new(block * length), length);
                let whole = ByteRange::up_to(outline.header.capacity * SECTOR_BYTES);
                damaged(range.expect("on the disk").intersection(whole), error)
            })?;
            self.keep(block, &grain);
            Ok(Buffer::copy_of(&grain))
        })
    }
}
