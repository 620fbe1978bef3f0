//! The disk: its parts, and the requests of [`Disk`].

use super::generations::Generations;
use super::resident::Resident;
use super::resolve::Presence;
use super::space::{Extent, Space};
use super::table::{Page, Place, Shape, Table};
use crate::block::{ByteOffset, ByteRange, Geometry};
use crate::disk::{Disk, DiskError, Durability, IoFuture, MappedRange, ZeroMode};
use crate::image::{Access, ImageFile};
use crate::range_locks::RangeLocks;
use crate::uring::buffer::Buffer;
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Entries kept in memory beyond those in use, per disk: 8 MiB of them, enough for 64 GiB of blocks of 64 KiB.
const RESIDENT_ENTRIES: u64 = 1 << 20;
/// Blocks whose presence bits are kept in memory beyond those in use.
const RESIDENT_PRESENCE: usize = 256;

/// What a disk is made of.
pub struct Setup {
    /// Where blocks are.
    pub table: Arc<dyn Table>,
    /// What holds them. Its [`Access`] decides whether the disk can be written.
    pub file: Arc<ImageFile>,
    /// Which parts of the file are free; shared with the table if that needs space for itself.
    pub space: Arc<Space>,
    /// What holds the content of absent blocks; zeroes if there is none.
    pub parent: Option<Arc<dyn Disk>>,
    /// Size of the disk, in bytes.
    pub size_bytes: u64,
    /// Bytes of the guest's sectors.
    pub logical_sector: u32,
    /// Bytes of the sectors of the medium, as the guest is told.
    pub physical_sector: u32,
}

/// A disk whose blocks lie anywhere in a file.
pub struct MappedDisk {
    pub(super) table: Arc<dyn Table>,
    pub(super) shape: Shape,
    pub(super) file: Arc<ImageFile>,
    pub(super) space: Arc<Space>,
    pub(super) parent: Option<Arc<dyn Disk>>,
    pub(super) size_bytes: AtomicU64,
    logical_sector: u32,
    physical_sector: u32,
    pub(super) pages: Resident<Page>,
    pub(super) presence: Resident<Presence>,
    /// Held exclusively, block by block, where a block's content is merged with the parent's.
    pub(super) locks: RangeLocks,
    pub(super) generations: Generations,
    /// Given up since the last commit.
    pub(super) freed: Mutex<Vec<Extent>>,
    /// One extension of the file at a time.
    pub(super) growth: tokio::sync::Mutex<()>,
    pub(super) begun: tokio::sync::OnceCell<()>,
    /// One commit or change of size at a time.
    pub(super) committing: tokio::sync::Mutex<()>,
    /// Shared by what gives blocks up, exclusive while the size changes: the last block grows with the disk, and what covered all
    /// of it does so no longer. Taken after `committing`.
    pub(super) resizing: tokio::sync::RwLock<()>,
    /// Flushes that were asked for, and how many of them the commits so far have covered.
    pub(super) asked: AtomicU64,
    pub(super) covered: AtomicU64,
}

impl MappedDisk {
    /// Puts a disk together.
    pub fn new(setup: Setup) -> Self {
        let shape = setup.table.shape();
        assert!(shape.block_bytes.is_power_of_two() && shape.block_bytes >= 512, "{shape:?}");
        let resident = usize::try_from(RESIDENT_ENTRIES / shape.page_entries).expect("small");
        Self {
            table: setup.table,
            shape,
            file: setup.file,
            generations: Generations::new(&setup.space),
            space: setup.space,
            parent: setup.parent,
            size_bytes: AtomicU64::new(setup.size_bytes),
            logical_sector: setup.logical_sector,
            physical_sector: setup.physical_sector,
            pages: Resident::new(resident.max(4)),
            presence: Resident::new(RESIDENT_PRESENCE),
            locks: RangeLocks::new(),
            freed: Mutex::default(),
            growth: tokio::sync::Mutex::default(),
            begun: tokio::sync::OnceCell::new(),
            committing: tokio::sync::Mutex::default(),
            resizing: tokio::sync::RwLock::default(),
            asked: AtomicU64::new(0),
            covered: AtomicU64::new(0),
        }
    }

    /// The block that `offset` lies in.
    pub(super) fn block_of(&self, offset: ByteOffset) -> u64 {
        offset.bytes() / self.shape.block_bytes
    }

    /// The bytes of a block, also those past the end of the disk.
    pub(super) fn block_range(&self, block: u64) -> ByteRange {
        let start = ByteOffset::new(block * self.shape.block_bytes);
        ByteRange::at(start, self.shape.block_bytes).expect("a disk ends far below 2^64")
    }

    /// The bytes of a block that belong to the disk.
    pub(super) fn block_on_disk(&self, block: u64) -> ByteRange {
        self.geometry().whole().intersection(self.block_range(block))
    }

    /// How far into its block `offset` is.
    pub(super) fn within_block(&self, offset: ByteOffset) -> u64 {
        offset.bytes() % self.shape.block_bytes
    }

    pub(super) fn entry_of(&self, block: u64) -> (u64, usize) {
        let index = usize::try_from(block % self.shape.page_entries).expect("a page is in memory");
        (block / self.shape.page_entries, index)
    }

    /// Where the block is, if its entry is in memory.
    pub(super) fn known_place(&self, block: u64) -> Option<Place> {
        let (number, index) = self.entry_of(block);
        self.pages.get(number).map(|page| page.get(index))
    }

    pub(super) async fn page(&self, number: u64) -> Result<Arc<Page>, DiskError> {
        let load = async || self.table.load(number).await.map(|places| Page::new(&places));
        self.pages.get_or_load(number, load).await
    }

    pub(super) fn check_write(&self, range: ByteRange) -> Result<(), DiskError> {
        DiskError::check_writable(&self.geometry(), range)
    }

    /// Notes the first change of this opening, as the format wants it.
    pub(super) async fn begin(&self) -> Result<(), DiskError> {
        if !self.begun.initialized() {
            Box::pin(self.begun.get_or_try_init(|| self.table.begin_changes())).await?;
        }
        Ok(())
    }

    async fn make_durable(&self, durability: Durability) -> Result<(), DiskError> {
        match durability {
            Durability::Cached => Ok(()),
            Durability::Durable => Box::pin(self.commit()).await,
        }
    }
}

impl Disk for MappedDisk {
    fn geometry(&self) -> Geometry {
        Geometry {
            size_bytes: self.size_bytes.load(Ordering::Acquire),
            logical_sector: self.logical_sector,
            physical_sector: self.physical_sector,
            read_only: self.file.access().is_read_only(),
        }
    }

    fn read(&self, range: ByteRange) -> IoFuture<'_, Buffer> {
        Box::pin(async move {
            DiskError::check_range(&self.geometry(), range)?;
            if range.is_empty() {
                return Ok(Buffer::zeroed(0));
            }
            let _generation = self.generations.enter();
            self.read_range(range).await
        })
    }

    fn write(&self, at: ByteOffset, data: Buffer, durability: Durability) -> IoFuture<'_, ()> {
        Box::pin(async move {
            let range = DiskError::written(&self.geometry(), at, data.len() as u64)?;
            self.check_write(range)?;
            if !range.is_empty() {
                let _generation = self.generations.enter();
                self.begin().await?;
                self.write_range(range, data).await?;
            }
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
            if !range.is_empty() {
                let _generation = self.generations.enter();
                self.begin().await?;
                self.zero_range(range, mode).await?;
            }
            self.make_durable(durability).await
        })
    }

    fn discard(&self, range: ByteRange) -> IoFuture<'_, ()> {
        Box::pin(async move {
            self.check_write(range)?;
            let blocks = range.whole_blocks();
            if blocks.is_empty() {
                return Ok(());
            }
            let _generation = self.generations.enter();
            self.begin().await?;
            self.zero_range(blocks, ZeroMode::Unmap).await
        })
    }

    fn flush(&self) -> IoFuture<'_, ()> {
        Box::pin(async move {
            match self.file.access() {
                Access::Read | Access::ReadShared => Ok(()),
                Access::Write => self.commit().await,
            }
        })
    }

    fn map(&self, range: ByteRange) -> IoFuture<'_, Vec<MappedRange>> {
        Box::pin(async move {
            DiskError::check_range(&self.geometry(), range)?;
            let _generation = self.generations.enter();
            self.map_range(range).await
        })
    }

    fn resize(&self, size_bytes: u64) -> IoFuture<'_, ()> {
        Box::pin(async move {
            self.check_write(ByteRange::default())?;
            self.change_size(size_bytes).await
        })
    }
}
