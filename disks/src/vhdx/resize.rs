//! Growing the disk: the stored size, and a larger BAT where the present one is too short.
//!
//! ```text
//!   the BAT has room    size, entries that were left behind the old end zeroed      one log entry
//!   it has none, or     new BAT in free space, written and flushed, then
//!   blocks are fixed    size and both region tables                                  one log entry
//! ```
//!
//! The one log entry is the moment at which the disk has its new size.

use super::journal::Journal;
use super::sectors::Sectors;
use super::table::{Facts, VhdxTable, Writer};
use crate::block::{ByteOffset, ByteRange};
use crate::disk::{DiskError, ZeroMode};
use crate::mapped::{Extent, Space};
use crate::uring::buffer::Buffer;
use std::sync::Arc;
use vhdx_parse::{
    BAT_ENTRY_BYTES, BatLayout, LOG_SECTOR_BYTES, MIB, PayloadEntry, REGION_TABLE_1_OFFSET,
    REGION_TABLE_2_OFFSET, RegionTable, encode_disk_size,
};

/// Bytes of a BAT that are copied together.
const PIECE: u64 = MIB;

/// Space for a larger BAT and its blocks, given back unless it is used.
struct Claims {
    space: Arc<Space>,
    extents: Vec<Extent>,
}

impl Claims {
    /// Takes `length` bytes that read as zeroes.
    async fn take(&mut self, table: &VhdxTable, length: u64) -> Result<u64, DiskError> {
        let (extent, fresh) = self.space.take(length)?;
        self.extents.push(extent);
        table.reach(extent.end()).await?;
        if !fresh {
            let range = ByteRange::at(ByteOffset::new(extent.offset), extent.length);
            table.file.zero(range.expect("in the file"), ZeroMode::Unmap).await?;
        }
        Ok(extent.offset)
    }
}

impl Drop for Claims {
    fn drop(&mut self) {
        for extent in self.extents.drain(..) {
            self.space.give_back(extent);
        }
    }
}

/// A new size whose log entry is being written.
pub(super) struct Resizing {
    layout: BatLayout,
    regions: RegionTable,
    claims: Claims,
}

impl Resizing {
    /// The entry is durable and in place.
    fn done(mut self, table: &VhdxTable, journal: &Journal) {
        let old = table.facts().regions.bat();
        let moved = old != self.regions.bat();
        self.claims.extents.clear();
        table.set_facts(self.layout, self.regions.clone(), journal);
        if moved {
            table.space().give_back(Extent { offset: old.offset, length: old.length.into() });
        }
    }
}

/// Completes what was given up half way, or drops it if it is not durable.
pub(super) async fn settle(table: &VhdxTable, writer: &mut Writer) -> Result<(), DiskError> {
    let happened = writer.journal.is_unfinished();
    writer.journal.finish().await?;
    if let Some(resizing) = writer.resizing.take()
        && happened
    {
        resizing.done(table, &writer.journal);
    }
    Ok(())
}

/// Makes the disk `disk_bytes` large, durably.
pub(super) async fn resize(table: &VhdxTable, disk_bytes: u64) -> Result<(), DiskError> {
    let mut writer = table.writer.lock().await;
    let writer = &mut *writer;
    settle(table, writer).await?;
    let old = table.facts();
    let [block, sector] = [old.layout.block_bytes(), old.layout.logical_sector()]
        .map(|bytes| u32::try_from(bytes).expect("at most 256 MiB"));
    let layout = BatLayout::new(disk_bytes, block, sector);
    let mut claims = Claims { space: Arc::clone(table.space()), extents: Vec::new() };
    let mut sectors = Sectors::new(&table.file);
    sectors.write(table.size_place, &encode_disk_size(disk_bytes)).await?;
    let fits = layout.table_bytes(table.differencing) <= old.regions.bat().length.into();
    let no_new_blocks = layout.payload_blocks() == old.layout.payload_blocks();
    let regions = if fits && (no_new_blocks || !table.fixed) {
        clear_behind(table, &old, &layout, &mut sectors).await?;
        old.regions
    } else {
        move_bat(table, &old, &layout, &mut claims, &mut sectors).await?
    };
    writer.journal.flush().await?;
    let changes = sectors.into_changes();
    // Known to whoever comes next, if this is given up.
    writer.resizing = Some(Resizing { layout, regions, claims });
    writer.journal.commit(changes).await?;
    let resizing = writer.resizing.take().expect("it was put there");
    resizing.done(table, &writer.journal);
    Ok(())
}

/// Zeroes entries between the old end of the table and the new one, if others left something there.
async fn clear_behind(
    table: &VhdxTable,
    old: &Facts,
    layout: &BatLayout,
    sectors: &mut Sectors<'_>,
) -> Result<(), DiskError> {
    let bat = old.regions.bat().offset;
    let [from, to] = [&old.layout, layout].map(|layout| layout.table_bytes(table.differencing));
    let Some(range) = ByteRange::new(ByteOffset::new(bat + from), ByteOffset::new(bat + to)) else {
        return Ok(());
    };
    for piece in range.chunks(PIECE) {
        if table.file.read(piece).await?.iter().all(|byte| *byte == 0) {
            continue;
        }
        let whole = piece.whole_blocks();
        if !whole.is_empty() {
            sectors.zero(whole);
        }
        let (before, rest) = piece.split_at(whole.start());
        let (_, after) = rest.split_at(whole.end());
        for edge in [before, after] {
            let zeroes = vec![0; usize::try_from(edge.length()).expect("less than a sector")];
            sectors.write(edge.start().bytes(), &zeroes).await?;
        }
    }
    Ok(())
}

/// Writes a BAT for the new size into free space, and changes the region tables to it.
async fn move_bat(
    table: &VhdxTable,
    old: &Facts,
    layout: &BatLayout,
    claims: &mut Claims,
    sectors: &mut Sectors<'_>,
) -> Result<RegionTable, DiskError> {
    let needed = layout.table_bytes(table.differencing);
    let length = needed.next_multiple_of(MIB);
    let bat = claims.take(table, length).await?;
    let kept = old.layout.table_bytes(table.differencing).min(needed);
    let from = old.regions.bat().offset;
    for piece in ByteRange::up_to(kept).chunks(PIECE) {
        let start = piece.start().bytes();
        let range = ByteRange::at(ByteOffset::new(from + start), piece.length());
        let entries = table.file.read(range.expect("the BAT is in the file")).await?;
        table.file.write(ByteOffset::new(bat + start), entries).await?;
    }
    if table.fixed {
        place_blocks(table, old, layout, bat, claims).await?;
    }
    let length = u32::try_from(length).expect("the largest BAT has 513 MiB");
    let regions = old.regions.with_bat(bat, length);
    let bytes = regions.encode();
    for copy in [REGION_TABLE_1_OFFSET, REGION_TABLE_2_OFFSET] {
        for (place, sector) in
            (copy..).step_by(LOG_SECTOR_BYTES).zip(bytes.chunks(LOG_SECTOR_BYTES))
        {
            let range = ByteRange::at(ByteOffset::new(place), sector.len() as u64);
            let present = table.file.read(range.expect("in the file")).await?;
            if *present != *sector {
                sectors.write(place, sector).await?;
            }
        }
    }
    Ok(regions)
}

/// Gives every new block of a fixed disk its space.
async fn place_blocks(
    table: &VhdxTable,
    old: &Facts,
    layout: &BatLayout,
    bat: u64,
    claims: &mut Claims,
) -> Result<(), DiskError> {
    let mut next = old.layout.payload_blocks();
    while next < layout.payload_blocks() {
        // As many as lie side by side in the table, and in one piece of it.
        let first = layout.payload_index(next);
        let mut entries: Vec<u8> = Vec::new();
        while next < layout.payload_blocks()
            && layout.payload_index(next) == first + entries.len() as u64 / BAT_ENTRY_BYTES
            && (entries.len() as u64) < PIECE
        {
            let offset = claims.take(table, layout.block_bytes()).await?;
            let entry = PayloadEntry::FullyPresent(offset).encode();
            entries.extend_from_slice(&entry.to_le_bytes());
            next += 1;
        }
        let place = ByteOffset::new(bat + first * BAT_ENTRY_BYTES);
        table.file.write(place, Buffer::copy_of(&entries)).await?;
    }
    Ok(())
}
