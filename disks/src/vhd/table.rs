//! The BAT and the bitmaps of a dynamic or differencing disk, as the [`Table`] of a mapped disk.
//!
//! ```text
//!   BAT entry ──▶ [bitmap][data of the block]         the entry is the sector of the bitmap
//!                          ▲ aligned to 4 KiB in what is made here: the bitmap is the end of a block of its own
//! ```
//!
//! **Invariants** of what is stored, so that the file opens after a crash at any moment, here and in other programs:
//! - An entry is stored only after the bitmap of its block and the data are durable.
//! - The first sector has a copy of the footer, always; the last one has the footer, but for the time in which the file is
//!   made longer.
//! - Nothing is stored in a sector that another structure used, before what replaces that is durable.
//!
//! A bitmap is believed also in a dynamic disk: a sector without its bit reads as zeroes, as the specification has it. Blocks
//! that are written here have all bits, for there are programs that do not look.

use super::format::{
    DynamicHeader, Footer, SECTOR_BYTES, UNUSED_ENTRY, bitmap_bytes, from_presence, is_all_present,
    to_presence,
};
use super::found::{FOOTER, stretch, write_footer};
use super::resize::Pending;
use crate::block::ByteOffset;
use crate::disk::{DiskError, IoFuture, ZeroMode};
use crate::image::ImageFile;
use crate::mapped::{Changes, Place, Shape, Space, Table};
use crate::uring::buffer::Buffer;
use futures_util::future::try_join_all;
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Entries of a page. Their bitmaps are read together when one of them is asked for.
const PAGE_ENTRIES: u64 = 32;

/// Bitmaps written beside each other.
const BITMAPS_AT_ONCE: usize = 32;

/// Changed entries this far apart are written together, with those in between.
const ENTRIES_APART: u64 = 1024;

/// The entries of the BAT as they are stored.
pub(super) struct Bat {
    pub(super) entries: Vec<u32>,
    /// Blocks whose entry may be stored or not: writing it was given up.
    unsure: BTreeSet<u64>,
}

/// Where the blocks of a disk are.
pub(super) struct BlockTable {
    pub(super) file: Arc<ImageFile>,
    pub(super) header_offset: u64,
    pub(super) header: Mutex<DynamicHeader>,
    pub(super) bat: Mutex<Bat>,
    pub(super) size_bytes: AtomicU64,
    /// The footer, and where it is at the end of the file, if it is.
    pub(super) tail: tokio::sync::Mutex<(Footer, Option<u64>)>,
    /// A change of size that is not stored as a whole.
    pub(super) pending: Mutex<Option<Pending>>,
    pub(super) space: Option<Arc<Space>>,
    /// Bitmaps are read with the entries; without, every block is taken for complete.
    reads_bitmaps: bool,
    block_bytes: u32,
    /// Bytes ahead of the data of each block that nothing else uses, the bitmap last.
    lead_bytes: u64,
}

impl BlockTable {
    /// A table of stored entries, for the examination of a file; it becomes one for a disk with bitmaps and space.
    pub(super) fn new(
        file: Arc<ImageFile>,
        footer: Footer,
        header: DynamicHeader,
        entries: Vec<u32>,
        lead_bytes: u64,
    ) -> Self {
        let block_bytes = header.block_bytes;
        let size_bytes = AtomicU64::new(footer.size_bytes());
        let header_offset = footer.header_offset.expect("only a fixed disk has none");
        Self {
            file,
            header_offset,
            header: Mutex::new(header),
            bat: Mutex::new(Bat { entries, unsure: BTreeSet::new() }),
            size_bytes,
            tail: tokio::sync::Mutex::new((footer, None)),
            pending: Mutex::default(),
            space: None,
            reads_bitmaps: false,
            block_bytes,
            lead_bytes,
        }
    }

    /// Makes it the table of a disk: with bitmaps, and with the space of a file that has its footer at `footer_at`.
    pub(super) fn become_whole(&mut self, space: Arc<Space>, footer_at: u64) {
        self.space = Some(space);
        self.reads_bitmaps = true;
        self.tail.get_mut().1 = Some(footer_at);
    }

    /// Blocks of the disk.
    pub(super) fn blocks(&self) -> u64 {
        self.size_bytes.load(Ordering::Acquire).div_ceil(u64::from(self.block_bytes))
    }

    fn bitmap_bytes(&self) -> u64 {
        bitmap_bytes(self.block_bytes)
    }

    /// Where the data of an entry's block is.
    pub(super) fn data_of(&self, entry: u32) -> Option<u64> {
        (entry != UNUSED_ENTRY).then(|| u64::from(entry) * SECTOR_BYTES + self.bitmap_bytes())
    }

    fn entry_of(&self, place: Place) -> u32 {
        let Some(data) = place.offset() else { return UNUSED_ENTRY };
        let sector = (data - self.bitmap_bytes()) / SECTOR_BYTES;
        u32::try_from(sector).expect("space ends where entries do")
    }

    pub(super) fn entry(&self, block: u64) -> u32 {
        let index = usize::try_from(block).expect("a BAT is in memory");
        self.bat.lock().entries.get(index).copied().unwrap_or(UNUSED_ENTRY)
    }

    async fn read_bitmap(&self, data: u64) -> Result<Buffer, DiskError> {
        let length = self.bitmap_bytes();
        self.file.read(stretch(data - length, length)).await
    }

    async fn place_of(&self, entry: u32) -> Result<Place, DiskError> {
        let Some(data) = self.data_of(entry) else { return Ok(Place::Absent) };
        if !self.reads_bitmaps {
            return Ok(Place::At(data));
        }
        let bitmap = self.read_bitmap(data).await?;
        let complete = is_all_present(&bitmap, self.block_bytes);
        Ok(if complete { Place::At(data) } else { Place::Partial(data) })
    }

    async fn load_page(&self, page: u64) -> Result<Vec<Place>, DiskError> {
        let blocks = self.blocks();
        let first = page * PAGE_ENTRIES;
        let entries: Vec<u32> = (first..first + PAGE_ENTRIES)
            .map(|block| if block < blocks { self.entry(block) } else { UNUSED_ENTRY })
            .collect();
        try_join_all(entries.into_iter().map(|entry| self.place_of(entry))).await
    }

    /// Writes the bitmap of a block whose data is at `data`, with all that is before it and belongs to the block.
    async fn write_bitmap(&self, data: u64, bitmap: &[u8]) -> Result<(), DiskError> {
        let length = usize::try_from(self.lead_bytes).expect("a bitmap is in memory");
        let mut lead = Buffer::zeroed(length);
        lead[length - bitmap.len()..].copy_from_slice(bitmap);
        self.file.write(ByteOffset::new(data - self.lead_bytes), lead).await
    }

    /// Entries that are to be stored, and bitmaps that are to be stored before them, by where their block is.
    fn decide(&self, changes: &Changes) -> (BTreeMap<u64, u32>, BTreeMap<u64, Vec<u8>>) {
        let mut entries = BTreeMap::new();
        let mut bitmaps = BTreeMap::new();
        let bat = self.bat.lock();
        for page in &changes.pages {
            let first = page.page * PAGE_ENTRIES;
            for (block, place) in (first..).zip(&page.entries) {
                let entry = self.entry_of(*place);
                let index = usize::try_from(block).expect("a BAT is in memory");
                let Some(stored) = bat.entries.get(index) else {
                    assert!(entry == UNUSED_ENTRY, "block {block} is past the end of the table");
                    continue;
                };
                if *stored == entry && !bat.unsure.contains(&block) {
                    continue;
                }
                entries.insert(block, entry);
                if let Place::At(data) = place {
                    let length = usize::try_from(self.bitmap_bytes()).expect("it is in memory");
                    bitmaps.insert(*data, vec![0xff; length]);
                }
            }
        }
        for change in &changes.presence {
            let index = usize::try_from(change.block).expect("a BAT is in memory");
            let stored = bat.entries.get(index).copied();
            let entry = entries.get(&change.block).copied().or(stored);
            if let Some(data) = entry.and_then(|entry| self.data_of(entry)) {
                bitmaps.insert(data, from_presence(&change.bits, self.block_bytes));
            }
        }
        (entries, bitmaps)
    }

    async fn store(&self, changes: &Changes) -> Result<(), DiskError> {
        self.settle().await?;
        let footer_moved = self.restore_footer().await?;
        let (entries, bitmaps) = self.decide(changes);
        let all: Vec<_> = bitmaps.iter().collect();
        for some in all.chunks(BITMAPS_AT_ONCE) {
            let writes = some.iter().map(|(data, bitmap)| self.write_bitmap(**data, bitmap));
            try_join_all(writes).await?;
        }
        if !bitmaps.is_empty() || footer_moved {
            self.file.flush().await?;
        }
        self.store_entries(&entries).await
    }

    /// Makes entries durable.
    pub(super) async fn store_entries(
        &self,
        entries: &BTreeMap<u64, u32>,
    ) -> Result<(), DiskError> {
        if entries.is_empty() {
            return Ok(());
        }
        self.bat.lock().unsure.extend(entries.keys());
        let table_offset = self.header.lock().table_offset;
        for (first, bytes) in self.stretches(entries) {
            let at = ByteOffset::new(table_offset + first * 4);
            self.file.write(at, Buffer::copy_of(&bytes)).await?;
        }
        self.file.flush().await?;
        let mut bat = self.bat.lock();
        for (block, entry) in entries {
            bat.entries[usize::try_from(*block).expect("a BAT is in memory")] = *entry;
            bat.unsure.remove(block);
        }
        Ok(())
    }

    /// The bytes of `entries` and of those between neighbours, by the first of each stretch.
    fn stretches(&self, entries: &BTreeMap<u64, u32>) -> Vec<(u64, Vec<u8>)> {
        let bat = self.bat.lock();
        let mut stretches: Vec<(u64, Vec<u8>)> = Vec::new();
        for (block, entry) in entries {
            let next = stretches.last().map(|(first, bytes)| first + bytes.len() as u64 / 4);
            match (stretches.last_mut(), next) {
                (Some((_, bytes)), Some(next)) if block - next <= ENTRIES_APART => {
                    for between in next..*block {
                        let index = usize::try_from(between).expect("a BAT is in memory");
                        bytes.extend(bat.entries[index].to_be_bytes());
                    }
                    bytes.extend(entry.to_be_bytes());
                }
                _ => stretches.push((*block, entry.to_be_bytes().to_vec())),
            }
        }
        stretches
    }

    /// Makes the file at least `end` bytes long, and longer by the footer. The sector that had the footer is zeroed first: it
    /// will be part of a block.
    pub(super) async fn extend(&self, end: u64) -> Result<(), DiskError> {
        let mut tail = self.tail.lock().await;
        if self.file.length() >= end {
            return Ok(());
        }
        if let Some(at) = tail.1 {
            self.file.zero(stretch(at, FOOTER), ZeroMode::Allocate).await?;
            tail.1 = None;
        }
        let end = end.next_multiple_of(SECTOR_BYTES);
        self.file.set_length(end + FOOTER).await?;
        write_footer(&self.file, &tail.0, end).await?;
        tail.1 = Some(end);
        Ok(())
    }

    /// Writes the footer at the end of the file, if moving it was given up half-way.
    async fn restore_footer(&self) -> Result<bool, DiskError> {
        let mut tail = self.tail.lock().await;
        let at = self.file.length() - FOOTER;
        if tail.1 == Some(at) {
            return Ok(false);
        }
        write_footer(&self.file, &tail.0, at).await?;
        tail.1 = Some(at);
        Ok(true)
    }
}

impl Table for BlockTable {
    fn shape(&self) -> Shape {
        Shape {
            block_bytes: u64::from(self.block_bytes),
            page_entries: PAGE_ENTRIES,
            lead_bytes: self.lead_bytes,
            stores_zero: false,
            presence_unit: Some(SECTOR_BYTES),
        }
    }

    fn load(&self, page: u64) -> IoFuture<'_, Vec<Place>> {
        Box::pin(self.load_page(page))
    }

    fn begin_changes(&self) -> IoFuture<'_, ()> {
        Box::pin(std::future::ready(Ok(())))
    }

    fn commit<'a>(&'a self, changes: &'a Changes) -> IoFuture<'a, ()> {
        Box::pin(self.store(changes))
    }

    fn resize(&self, size_bytes: u64) -> IoFuture<'_, ()> {
        Box::pin(self.change_size(size_bytes))
    }

    fn lengthen<'a>(&'a self, _file: &'a ImageFile, end: u64) -> IoFuture<'a, ()> {
        Box::pin(self.extend(end))
    }

    fn load_presence(&self, block: u64) -> IoFuture<'_, Vec<u8>> {
        Box::pin(async move {
            let Some(data) = self.data_of(self.entry(block)) else {
                unreachable!("block {block} was loaded as one that is partly present")
            };
            Ok(to_presence(&self.read_bitmap(data).await?, self.block_bytes))
        })
    }
}
