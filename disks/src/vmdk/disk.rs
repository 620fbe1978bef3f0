//! A disk of extents, one behind the other, with one descriptor.
//!
//! ```text
//!   disk   │ extent 0: sparse │ extent 1: flat │ extent 2: zero │      most disks have one
//!   parent │                     the same bytes of the parent   │      of sparse extents alone
//! ```
//!
//! **Invariants**
//! - Before the first change of an opening the content has a new identity (CID), durably: a child that was made of the old content
//!   can never take the new one for it.
//! - Nothing is written while the disk changes its size.

use super::create::SPLIT_SECTORS;
use super::description::Description;
use super::extents;
use super::flat::{FlatExtent, PHYSICAL_SECTOR, ZeroExtent};
use super::format::descriptor::{CreateType, ExtentKind, ExtentLine, MAX_EXTENTS};
use super::format::{MAX_SPARSE_SECTORS, SECTOR_BYTES};
use super::sparse::FULL;
use crate::block::{ByteOffset, ByteRange, Geometry, MAX_DISK_SIZE};
use crate::disk::{Disk, DiskError, Durability, IoFuture, MappedRange, ZeroMode};
use crate::image::{Access, ImageError};
use crate::mapped::{Layer, MappedDisk, OwnRange};
use crate::uring::buffer::Buffer;
use futures_util::future::join_all;
use parking_lot::RwLock;
use std::sync::Arc;

/// What an extent is, opened.
pub(super) enum Body {
    /// Grains found by tables.
    Mapped(Box<MappedDisk>),
    Flat(FlatExtent),
    Zero(ZeroExtent),
}

/// An extent at its place of the disk.
#[derive(Clone)]
pub(super) struct Part {
    pub(super) range: ByteRange,
    pub(super) line: ExtentLine,
    pub(super) body: Arc<Body>,
}

impl Part {
    fn layer(&self) -> &dyn Layer {
        match &*self.body {
            Body::Mapped(disk) => &**disk,
            Body::Flat(disk) => disk,
            Body::Zero(disk) => disk,
        }
    }

    /// The part of `range` that lies here, as this extent counts.
    fn inside(&self, range: ByteRange) -> ByteRange {
        let here = self.range.intersection(range);
        let start = ByteOffset::new(here.start().bytes() - self.range.start().bytes());
        ByteRange::at(start, here.length()).expect("within the extent")
    }

    /// A range of this extent, as the disk counts.
    fn outside(&self, range: ByteRange) -> ByteRange {
        let start = ByteOffset::new(self.range.start().bytes() + range.start().bytes());
        ByteRange::at(start, range.length()).expect("within the disk")
    }
}

/// The extents, by their place.
struct Parts(Vec<Part>);

impl Parts {
    fn size_bytes(&self) -> u64 {
        self.0.last().map_or(0, |last| last.range.end().bytes())
    }

    /// The extents that have something of `range`; one, wherever it is, if it is empty.
    fn of(&self, range: ByteRange) -> &[Part] {
        let first = self.0.partition_point(|part| part.range.end() <= range.start());
        let first = first.min(self.0.len() - 1);
        let behind = self.0.partition_point(|part| part.range.start() < range.end());
        &self.0[first..behind.max(first + 1)]
    }
}

/// An open disk.
pub(super) struct VmdkDisk {
    parts: RwLock<Arc<Parts>>,
    access: Access,
    parent: Option<Arc<dyn Disk>>,
    description: tokio::sync::Mutex<Description>,
    /// The content has got its new identity.
    begun: tokio::sync::OnceCell<()>,
    /// Shared by what changes the content, exclusive for what changes the size.
    resizing: tokio::sync::RwLock<()>,
}

/// What went wrong with the descriptor, to those who know disks only.
fn disk_error(error: ImageError) -> DiskError {
    match error {
        ImageError::Disk(error) => error,
        ImageError::File(error) => DiskError::File(error),
        error => DiskError::Gone(error.to_string()),
    }
}

impl VmdkDisk {
    pub(super) fn new(
        parts: Vec<Part>,
        access: Access,
        parent: Option<Arc<dyn Disk>>,
        description: Description,
    ) -> Self {
        assert!(!parts.is_empty(), "a descriptor has extents");
        Self {
            parts: RwLock::new(Arc::new(Parts(parts))),
            access,
            parent,
            description: tokio::sync::Mutex::new(description),
            begun: tokio::sync::OnceCell::new(),
            resizing: tokio::sync::RwLock::default(),
        }
    }

    fn parts(&self) -> Arc<Parts> {
        Arc::clone(&self.parts.read())
    }

    /// Notes in the descriptor that the content is about to change.
    async fn begin(&self) -> Result<(), DiskError> {
        if self.begun.initialized() {
            return Ok(());
        }
        let renew = async || self.description.lock().await.renew_cid().await.map_err(disk_error);
        self.begun.get_or_try_init(renew).await.map(|_| ())
    }

    /// Flushes the extents of `range`; of all that were written since, if that is not known.
    async fn flush_parts(&self, parts: &[Part]) -> Result<(), DiskError> {
        if let [part] = parts {
            return part.layer().flush().await;
        }
        join_all(parts.iter().map(|part| part.layer().flush())).await.into_iter().collect()
    }

    async fn read_parts(&self, parts: &[Part], range: ByteRange) -> Result<Buffer, DiskError> {
        let length =
            |range: ByteRange| usize::try_from(range.length()).expect("a read fits memory");
        let reads = parts.iter().map(|part| part.layer().read(part.inside(range)));
        let mut whole = Buffer::for_overwriting(length(range));
        let mut at = 0;
        for read in join_all(reads).await {
            let read = read?;
            whole[at..at + read.len()].copy_from_slice(&read);
            at += read.len();
        }
        assert!(at == whole.len(), "extents follow each other without a gap");
        Ok(whole)
    }

    async fn write_parts(
        &self,
        parts: &[Part],
        range: ByteRange,
        data: Buffer,
        durability: Durability,
    ) -> Result<(), DiskError> {
        let mut rest = data;
        let mut writes = Vec::with_capacity(parts.len());
        for part in parts {
            let inside = part.inside(range);
            let length = usize::try_from(inside.length()).expect("a write fits memory");
            let tail = rest.split_off(length);
            writes.push(part.layer().write(inside.start(), rest, durability));
            rest = tail;
        }
        // All end before this does, also after a failure.
        join_all(writes).await.into_iter().collect()
    }

    async fn zero_parts(
        &self,
        range: ByteRange,
        mode: ZeroMode,
        durability: Durability,
    ) -> Result<(), DiskError> {
        let parts = self.parts();
        let zeroes = parts
            .of(range)
            .iter()
            .map(|part| part.layer().write_zeroes(part.inside(range), mode, durability));
        join_all(zeroes).await.into_iter().collect()
    }

    fn written(&self, at: ByteOffset, length: u64) -> Result<ByteRange, DiskError> {
        let geometry = self.geometry();
        let range = DiskError::written(&geometry, at, length)?;
        DiskError::check_writable(&geometry, range)?;
        Ok(range)
    }

    async fn grow(&self, to_bytes: u64) -> Result<(), DiskError> {
        let geometry = self.geometry();
        let from_bytes = geometry.size_bytes;
        DiskError::check_writable(&geometry, ByteRange::default())?;
        let whole = to_bytes.is_multiple_of(SECTOR_BYTES);
        if to_bytes < from_bytes || to_bytes > MAX_DISK_SIZE || !whole {
            return Err(DiskError::Resize { from_bytes, to_bytes });
        }
        if to_bytes == from_bytes {
            return Ok(());
        }
        let mut parts = self.parts().0.clone();
        let (kind, extents) = {
            let description = self.description.lock().await;
            (description.descriptor.create_type().clone(), description.descriptor.extents().count())
        };
        let last = parts.last_mut().expect("there is one");
        let plan = GrowthPlan::new(&kind, last, to_bytes, extents)?;
        self.begin().await?;
        let mut description = self.description.lock().await;
        // New files first, then the extent that grows, then the descriptor that tells of both.
        let mut added: Vec<Part> = Vec::new();
        let mut file = last.line.file.clone();
        let start = last.range.start();
        let mut end = start.bytes() + plan.last_sectors * SECTOR_BYTES;
        for sectors in plan.added {
            let line = ExtentLine { sectors, start: 0, file: file.clone(), ..last.line.clone() };
            let made = extents::next_extent(&description.location, line, end, self.parent.as_ref());
            let part = made.await.map_err(disk_error)?;
            end = part.range.end().bytes();
            file.clone_from(&part.line.file);
            added.push(part);
        }
        last.layer().resize(plan.last_sectors * SECTOR_BYTES).await?;
        last.line.sectors = plan.last_sectors;
        last.range = ByteRange::at(start, plan.last_sectors * SECTOR_BYTES).expect("on the disk");
        let lines = added.iter().map(|part| part.line.clone()).collect();
        description.resize(plan.last_sectors, lines).await.map_err(disk_error)?;
        parts.append(&mut added);
        *self.parts.write() = Arc::new(Parts(parts));
        Ok(())
    }
}

/// Which extents a larger disk has.
struct GrowthPlan {
    /// Size of the extent that is the last one now.
    last_sectors: u64,
    /// Sizes of those behind it.
    added: Vec<u64>,
}

impl GrowthPlan {
    fn new(
        kind: &CreateType,
        last: &Part,
        to_bytes: u64,
        extents: usize,
    ) -> Result<Self, DiskError> {
        let full = |why: &str| Err(DiskError::NoSpace(why.to_owned()));
        let needed = (to_bytes - last.range.start().bytes()) / SECTOR_BYTES;
        let split =
            matches!(kind, CreateType::TwoGbMaxExtentSparse | CreateType::TwoGbMaxExtentFlat);
        let most = match (split, &last.line.kind) {
            (_, ExtentKind::Zero) => return full("the last extent of the disk is zeroes"),
            (true, _) => SPLIT_SECTORS.max(last.line.sectors),
            (false, ExtentKind::Sparse) => MAX_SPARSE_SECTORS,
            (false, _) => MAX_DISK_SIZE / SECTOR_BYTES,
        };
        if !split && needed > most {
            return full(FULL);
        }
        let last_sectors = needed.min(most);
        let behind = needed - last_sectors;
        let count = behind.div_ceil(SPLIT_SECTORS);
        if extents as u64 + count > MAX_EXTENTS as u64 {
            return full("a descriptor has at most 4096 extents");
        }
        let size = |number: u64| (behind - number * SPLIT_SECTORS).min(SPLIT_SECTORS);
        Ok(Self { last_sectors, added: (0..count).map(size).collect() })
    }
}

const _: () = assert!(MAX_EXTENTS == 4096, "the message above names the number");

impl Disk for VmdkDisk {
    fn geometry(&self) -> Geometry {
        Geometry {
            size_bytes: self.parts.read().size_bytes(),
            logical_sector: 512,
            physical_sector: PHYSICAL_SECTOR,
            read_only: self.access.is_read_only(),
        }
    }

    fn read(&self, range: ByteRange) -> IoFuture<'_, Buffer> {
        Box::pin(async move {
            let parts = self.parts();
            let size_bytes = parts.size_bytes();
            if !ByteRange::up_to(size_bytes).contains(range) {
                return Err(DiskError::OutOfRange { range, size_bytes });
            }
            match parts.of(range) {
                [part] => part.layer().read(part.inside(range)).await,
                several => self.read_parts(several, range).await,
            }
        })
    }

    fn write(&self, at: ByteOffset, data: Buffer, durability: Durability) -> IoFuture<'_, ()> {
        Box::pin(async move {
            let range = self.written(at, data.len() as u64)?;
            let _no_growth = self.resizing.read().await;
            if !range.is_empty() {
                self.begin().await?;
            }
            let parts = self.parts();
            match parts.of(range) {
                [part] => part.layer().write(part.inside(range).start(), data, durability).await,
                several => self.write_parts(several, range, data, durability).await,
            }
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
            let _no_growth = self.resizing.read().await;
            if !range.is_empty() {
                self.begin().await?;
            }
            self.zero_parts(range, mode, durability).await
        })
    }

    fn discard(&self, range: ByteRange) -> IoFuture<'_, ()> {
        Box::pin(async move {
            DiskError::check_writable(&self.geometry(), range)?;
            let blocks = range.whole_blocks();
            if blocks.is_empty() {
                return Ok(());
            }
            let _no_growth = self.resizing.read().await;
            self.begin().await?;
            // As zeroes, for blocks of the disk need not be blocks of an extent.
            self.zero_parts(blocks, ZeroMode::Unmap, Durability::Cached).await
        })
    }

    fn flush(&self) -> IoFuture<'_, ()> {
        Box::pin(async move {
            if self.access.is_read_only() {
                return Ok(());
            }
            let _no_growth = self.resizing.read().await;
            self.flush_parts(&self.parts().0).await
        })
    }

    fn map(&self, range: ByteRange) -> IoFuture<'_, Vec<MappedRange>> {
        Box::pin(async move {
            DiskError::check_range(&self.geometry(), range)?;
            // The part where the range starts; callers go on from its end.
            let parts = self.parts();
            let part = &parts.of(range)[0];
            let mut mapped = part.layer().map(part.inside(range)).await?;
            for found in &mut mapped {
                found.range = part.outside(found.range);
            }
            Ok(mapped)
        })
    }

    fn resize(&self, size_bytes: u64) -> IoFuture<'_, ()> {
        Box::pin(async move {
            DiskError::check_writable(&self.geometry(), ByteRange::default())?;
            let _alone = self.resizing.write().await;
            self.grow(size_bytes).await
        })
    }
}

impl Layer for VmdkDisk {
    fn own(&self, range: ByteRange) -> IoFuture<'_, Vec<OwnRange>> {
        Box::pin(async move {
            DiskError::check_range(&self.geometry(), range)?;
            let parts = self.parts();
            let part = &parts.of(range)[0];
            let mut own = part.layer().own(part.inside(range)).await?;
            for found in &mut own {
                found.range = part.outside(found.range);
            }
            Ok(own)
        })
    }
}
