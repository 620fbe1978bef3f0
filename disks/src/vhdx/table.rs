//! The BAT and the sector bitmaps as the table of a mapped disk.
//!
//! A page is 512 payload blocks; the entries of sector bitmaps that lie between theirs are skipped. What an entry says that
//! a [`Place`] does not (a block was unmapped, or never defined) stays as it is until the block changes.

use super::Guids;
use super::container::{Container, structures};
use super::journal::{Journal, MAX_CHANGES};
use super::resize::{self, Resizing};
use super::sectors::Sectors;
use crate::block::{ByteOffset, ByteRange};
use crate::disk::{DiskError, IoFuture};
use crate::image::{ImageFile, Malformed};
use crate::mapped::{Changes, Extent, PageChange, Place, PresenceChange, Shape, Space, Table};
use crate::uring::buffer::Buffer;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use vhdx_parse::{
    BAT_ENTRY_BYTES, BITMAP_BLOCK_BYTES, BatLayout, BitmapEntry, LOG_SECTOR_BYTES, PayloadEntry,
    RegionTable,
};

/// Payload blocks of a page.
const PAGE_BLOCKS: u64 = 512;

/// The file is made longer by at least this, so that most blocks find it long enough.
const GROWTH_BYTES: u64 = 4 << 20;

/// Most sectors of the BAT that a page touches: the smallest chunk has 16 blocks, so 512 entries come with up to 32 of bitmaps.
const SECTORS_PER_PAGE: usize = 3;

/// What is known of the file, and changes only with the size of the disk.
#[derive(Clone)]
pub(super) struct Facts {
    pub(super) layout: BatLayout,
    pub(super) regions: RegionTable,
    pub(super) structures: Arc<Vec<(Extent, &'static str)>>,
}

/// What writing needs besides.
pub(super) struct Writer {
    pub(super) journal: Journal,
    /// Sector bitmap blocks that have their space but perhaps no entry yet, by chunk.
    bitmaps: BTreeMap<u64, u64>,
    /// A change of the size that is on its way.
    pub(super) resizing: Option<Resizing>,
}

/// Where the blocks of one file are.
pub(super) struct VhdxTable {
    pub(super) file: Arc<ImageFile>,
    facts: Mutex<Facts>,
    pub(super) differencing: bool,
    pub(super) fixed: bool,
    pub(super) size_place: u64,
    pub(super) writer: tokio::sync::Mutex<Writer>,
    /// Held by whoever makes the file longer, so that nobody makes it shorter again.
    growth: tokio::sync::Mutex<()>,
    /// Set when the free space is known, which takes this table.
    space: OnceLock<Arc<Space>>,
}

/// Why a part of the table cannot be used.
pub(super) enum LoadError {
    Malformed(Malformed),
    Disk(DiskError),
}

impl From<DiskError> for LoadError {
    fn from(error: DiskError) -> Self {
        Self::Disk(error)
    }
}

impl LoadError {
    /// What a request to `range` of the disk is told.
    fn for_disk(self, range: ByteRange) -> DiskError {
        match self {
            Self::Malformed(problem) => DiskError::Damaged { range, what: problem.to_string() },
            Self::Disk(error) => error,
        }
    }
}

impl VhdxTable {
    pub(super) fn new(container: &Container, guids: &Guids) -> Self {
        let file = &container.file;
        let facts = Facts {
            layout: container.layout(),
            regions: container.regions.clone(),
            structures: Arc::new(container.structures()),
        };
        let journal = Journal::new(Arc::clone(file), Arc::clone(guids), container.current);
        Self {
            file: Arc::clone(file),
            facts: Mutex::new(facts),
            differencing: container.is_differencing(),
            fixed: container.metadata.leave_blocks_allocated,
            size_place: container.size_place,
            writer: tokio::sync::Mutex::new(Writer {
                journal,
                bitmaps: BTreeMap::new(),
                resizing: None,
            }),
            growth: tokio::sync::Mutex::default(),
            space: OnceLock::new(),
        }
    }

    /// Says which space of the file is free. Called once, before the first change.
    pub(super) fn set_space(&self, space: Arc<Space>) {
        assert!(self.space.set(space).is_ok(), "the space of a file is found once");
    }

    pub(super) fn space(&self) -> &Arc<Space> {
        self.space.get().expect("a file that is written knows its space")
    }

    pub(super) fn facts(&self) -> Facts {
        self.facts.lock().clone()
    }

    /// Makes the file at least `end` bytes long.
    pub(super) async fn reach(&self, end: u64) -> Result<(), DiskError> {
        let _alone = self.growth.lock().await;
        if self.file.length() < end {
            let length = self.file.length().next_multiple_of(GROWTH_BYTES);
            self.file.set_length(end.max(length)).await?;
        }
        Ok(())
    }

    /// After a change of the size, or of where the BAT is.
    pub(super) fn set_facts(&self, layout: BatLayout, regions: RegionTable, journal: &Journal) {
        let structures = Arc::new(structures(&journal.header(), &regions));
        *self.facts.lock() = Facts { layout, regions, structures };
    }

    /// Entries `first..=last` as stored.
    async fn entries(
        &self,
        facts: &Facts,
        first: u64,
        last: u64,
    ) -> Result<impl Fn(u64) -> u64 + use<>, DiskError> {
        let at = facts.place_of(first);
        let length = (last - first + 1) * BAT_ENTRY_BYTES;
        let range = ByteRange::at(ByteOffset::new(at), length).expect("the BAT is in the file");
        let bytes = self.file.read(range).await?;
        Ok(move |index: u64| {
            let start = usize::try_from((index - first) * BAT_ENTRY_BYTES).expect("in memory");
            u64::from_le_bytes(bytes[start..start + 8].try_into().expect("eight bytes"))
        })
    }

    /// Reads from the BAT with `read`, again if it moved meanwhile: its old space may hold something else by then.
    async fn read_table<T>(
        &self,
        read: impl AsyncFn(&Facts) -> Result<T, LoadError>,
    ) -> Result<T, LoadError> {
        loop {
            let facts = self.facts();
            let found = read(&facts).await;
            if self.facts().regions.bat() == facts.regions.bat() {
                return found;
            }
        }
    }

    async fn load_page(&self, facts: &Facts, page: u64) -> Result<Vec<Place>, LoadError> {
        let first = page * PAGE_BLOCKS;
        let end = (first + PAGE_BLOCKS).min(facts.layout.payload_blocks());
        let mut places = vec![Place::Absent; usize::try_from(PAGE_BLOCKS).expect("small")];
        if first >= end {
            return Ok(places);
        }
        let index = |block| facts.layout.payload_index(block);
        let entries = self.entries(facts, index(first), index(end - 1)).await?;
        for (place, block) in places.iter_mut().zip(first..end) {
            let at = facts.place_of(index(block));
            let entry = PayloadEntry::parse(entries(index(block)), self.differencing, at)
                .map_err(|problem| LoadError::Malformed(problem.into()))?;
            if let Some(offset) = entry.offset() {
                let extent = Extent { offset, length: facts.layout.block_bytes() };
                self.check_place(facts, "VHDX BAT entry", at, extent)?;
            }
            *place = place_of(entry);
        }
        Ok(places)
    }

    /// That a block lies in the file, and on none of its structures.
    fn check_place(
        &self,
        facts: &Facts,
        structure: &'static str,
        entry: u64,
        extent: Extent,
    ) -> Result<(), LoadError> {
        let problem = wrong_place(&facts.structures, self.file.length(), structure, entry, extent);
        problem.map_or(Ok(()), |problem| Err(LoadError::Malformed(problem)))
    }

    async fn read_presence(&self, facts: &Facts, block: u64) -> Result<Vec<u8>, LoadError> {
        let chunk = facts.layout.chunk_of(block);
        let index = facts.layout.bitmap_index(chunk);
        let at = facts.place_of(index);
        let raw = self.entries(facts, index, index).await?(index);
        let structure = "VHDX BAT entry of a sector bitmap";
        let entry =
            BitmapEntry::parse(raw, at).map_err(|problem| LoadError::Malformed(problem.into()))?;
        let BitmapEntry::Present(offset) = entry else {
            return Err(LoadError::Malformed(no_bitmap(at, block)));
        };
        self.check_place(facts, structure, at, Extent { offset, length: BITMAP_BLOCK_BYTES })?;
        let (start, length) = facts.layout.bitmap_bytes(block);
        let range = ByteRange::at(ByteOffset::new(offset + start), length).expect("in the file");
        Ok(self.file.read(range).await?.to_vec())
    }

    async fn commit_changes(&self, changes: &Changes) -> Result<(), DiskError> {
        let mut writer = self.writer.lock().await;
        resize::settle(self, &mut writer).await?;
        let facts = self.facts();
        let presence = self.wanted_presence(&facts, changes).await?;
        let mut sectors = Sectors::new(&self.file);
        for change in &presence {
            self.change_presence(&facts, &mut writer, change, &mut sectors).await?;
        }
        // Bitmaps and the entries that name them are never durable after blocks that need them.
        let bits = presence.iter().map(|change| change.bits.len() / LOG_SECTOR_BYTES + 4);
        let most = bits.sum::<usize>() + SECTORS_PER_PAGE * changes.pages.len();
        if !presence.is_empty() && most > MAX_CHANGES {
            writer.journal.commit(sectors.into_changes()).await?;
            writer.journal.flush().await?;
            sectors = Sectors::new(&self.file);
        }
        for page in &changes.pages {
            self.change_page(&facts, page, &mut sectors).await?;
        }
        let changes = sectors.into_changes();
        if !changes.is_empty() {
            writer.journal.commit(changes).await?;
        }
        writer.bitmaps.clear();
        Ok(())
    }

    /// Presence of the blocks that are partly present after the commit; that of others means nothing.
    async fn wanted_presence<'a>(
        &self,
        facts: &Facts,
        changes: &'a Changes,
    ) -> Result<Vec<&'a PresenceChange>, DiskError> {
        let mut wanted = Vec::new();
        for change in &changes.presence {
            let (page, within) = (change.block / PAGE_BLOCKS, change.block % PAGE_BLOCKS);
            let changed = changes.pages.iter().find(|changed| changed.page == page);
            let within = usize::try_from(within).expect("within a page");
            let partial = match changed {
                Some(changed) => matches!(changed.entries[within], Place::Partial(_)),
                None => {
                    let index = facts.layout.payload_index(change.block);
                    self.entries(facts, index, index).await?(index) & 7 == 7
                }
            };
            if partial {
                wanted.push(change);
            }
        }
        Ok(wanted)
    }

    async fn change_presence(
        &self,
        facts: &Facts,
        writer: &mut Writer,
        change: &PresenceChange,
        sectors: &mut Sectors<'_>,
    ) -> Result<(), DiskError> {
        let chunk = facts.layout.chunk_of(change.block);
        let entry = facts.place_of(facts.layout.bitmap_index(chunk));
        let raw = sectors.read_u64(entry).await?;
        let found = BitmapEntry::parse(raw, entry).map_err(|problem| {
            let range = ByteRange::up_to(facts.layout.disk_bytes());
            LoadError::Malformed(problem.into()).for_disk(range)
        })?;
        let bitmap = match found {
            BitmapEntry::Present(offset) => offset,
            BitmapEntry::NotPresent => {
                let offset = self.place_bitmap(writer, chunk).await?;
                let range = ByteRange::at(ByteOffset::new(offset), BITMAP_BLOCK_BYTES);
                sectors.zero(range.expect("in the file"));
                let raw = BitmapEntry::Present(offset).encode();
                sectors.write(entry, &raw.to_le_bytes()).await?;
                offset
            }
        };
        let (start, length) = facts.layout.bitmap_bytes(change.block);
        assert_eq!(change.bits.len() as u64, length, "presence of block {}", change.block);
        sectors.write(bitmap + start, &change.bits).await
    }

    /// Space for the sector bitmap of a chunk. A commit that is given up finds it again.
    async fn place_bitmap(&self, writer: &mut Writer, chunk: u64) -> Result<u64, DiskError> {
        if let Some(offset) = writer.bitmaps.get(&chunk) {
            return Ok(*offset);
        }
        let (extent, _) = self.space().take(BITMAP_BLOCK_BYTES)?;
        writer.bitmaps.insert(chunk, extent.offset);
        self.reach(extent.end()).await?;
        Ok(extent.offset)
    }

    async fn change_page(
        &self,
        facts: &Facts,
        page: &PageChange,
        sectors: &mut Sectors<'_>,
    ) -> Result<(), DiskError> {
        let blocks = page.page * PAGE_BLOCKS..facts.layout.payload_blocks();
        let pairs: Vec<(u64, Place)> = blocks.zip(page.entries.iter().copied()).collect();
        let (Some((first, _)), Some((last, _))) = (pairs.first(), pairs.last()) else {
            return Ok(());
        };
        let index = |block| facts.layout.payload_index(block);
        let entries = self.entries(facts, index(*first), index(*last)).await?;
        for (block, place) in pairs {
            let at = facts.place_of(index(block));
            let stored = PayloadEntry::parse(entries(index(block)), self.differencing, at);
            if stored.is_ok_and(|stored| place_of(stored) == place) {
                continue;
            }
            sectors.write(at, &entry_of(place).encode().to_le_bytes()).await?;
        }
        Ok(())
    }
}

impl Facts {
    /// Where in the file an entry of the BAT is.
    pub(super) fn place_of(&self, index: u64) -> u64 {
        self.regions.bat().offset + index * BAT_ENTRY_BYTES
    }
}

/// What is wrong with the place of a block, if anything is. `entry` is where it is named.
pub(super) fn wrong_place(
    structures: &[(Extent, &'static str)],
    file_bytes: u64,
    structure: &'static str,
    entry: u64,
    extent: Extent,
) -> Option<Malformed> {
    let malformed = |expected: String| Malformed {
        structure,
        offset: entry,
        field: "FileOffsetMB",
        value: (extent.offset / vhdx_parse::MIB).to_string(),
        expected: expected.into(),
    };
    if extent.end() > file_bytes {
        let expected = format!("{} bytes within the file, {file_bytes} bytes", extent.length);
        return Some(malformed(expected));
    }
    let touches = |other: &Extent| extent.offset < other.end() && other.offset < extent.end();
    let (other, name) = structures.iter().find(|(other, _)| touches(other))?;
    Some(malformed(format!("a place apart from {name}, {}..{}", other.offset, other.end())))
}

/// `block` is partly present, but the `entry` at that place of the file says that its chunk has no sector bitmap.
pub(super) fn no_bitmap(entry: u64, block: u64) -> Malformed {
    Malformed {
        structure: "VHDX BAT entry of a sector bitmap",
        offset: entry,
        field: "State",
        value: "0".to_owned(),
        expected: format!("6, as block {block} is partly present").into(),
    }
}

fn place_of(entry: PayloadEntry) -> Place {
    match entry {
        PayloadEntry::NotPresent => Place::Absent,
        // Whatever was there, the parent is not asked for it.
        PayloadEntry::Undefined | PayloadEntry::Zero | PayloadEntry::Unmapped => Place::Zero,
        PayloadEntry::FullyPresent(offset) => Place::At(offset),
        PayloadEntry::PartiallyPresent(offset) => Place::Partial(offset),
    }
}

fn entry_of(place: Place) -> PayloadEntry {
    match place {
        Place::Absent => PayloadEntry::NotPresent,
        Place::Zero => PayloadEntry::Zero,
        Place::At(offset) => PayloadEntry::FullyPresent(offset),
        Place::Partial(offset) => PayloadEntry::PartiallyPresent(offset),
        Place::Packed(_) => unreachable!("no block of a VHDX is compressed"),
    }
}

impl Table for VhdxTable {
    fn shape(&self) -> Shape {
        let layout = self.facts.lock().layout;
        Shape {
            block_bytes: layout.block_bytes(),
            page_entries: PAGE_BLOCKS,
            lead_bytes: 0,
            stores_zero: true,
            presence_unit: self.differencing.then(|| layout.logical_sector()),
        }
    }

    fn load(&self, page: u64) -> IoFuture<'_, Vec<Place>> {
        Box::pin(async move {
            let loaded = self.read_table(async |facts| self.load_page(facts, page).await).await;
            let bytes = PAGE_BLOCKS * self.shape().block_bytes;
            loaded.map_err(|error| {
                error.for_disk(ByteRange::at(ByteOffset::new(page * bytes), bytes).expect("small"))
            })
        })
    }

    fn begin_changes(&self) -> IoFuture<'_, ()> {
        Box::pin(async move { self.writer.lock().await.journal.begin().await })
    }

    fn commit<'a>(&'a self, changes: &'a Changes) -> IoFuture<'a, ()> {
        Box::pin(self.commit_changes(changes))
    }

    fn resize(&self, size_bytes: u64) -> IoFuture<'_, ()> {
        Box::pin(resize::resize(self, size_bytes))
    }

    fn lengthen<'a>(&'a self, _file: &'a ImageFile, end: u64) -> IoFuture<'a, ()> {
        Box::pin(self.reach(end))
    }

    fn load_presence(&self, block: u64) -> IoFuture<'_, Vec<u8>> {
        Box::pin(async move {
            let loaded =
                self.read_table(async |facts| self.read_presence(facts, block).await).await;
            let bytes = self.shape().block_bytes;
            loaded.map_err(|error| {
                error.for_disk(ByteRange::at(ByteOffset::new(block * bytes), bytes).expect("small"))
            })
        })
    }

    fn unpack(&self, block: u64, _offset: u64) -> IoFuture<'_, Buffer> {
        unreachable!("block {block}: no block of a VHDX is compressed")
    }
}
