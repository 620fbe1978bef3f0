//! A dynamic VHD that nobody wrote.
//!
//! ```text
//!   0       512      4096        pad   bitmap  data of block 0  pad   bitmap  data of block 1  …
//!   footer │ header │ BAT, 0xff … │    │ 512 B │ 2 MiB          │     │ 512 B │ 2 MiB          │ footer
//! ```
//!
//! Data begins at multiples of 4 KiB, so that it lies in pages as it does on the disk.

use super::format::{
    DEFAULT_BLOCK_BYTES, DynamicHeader, Footer, Kind, MAX_DISK_BYTES, SECTOR_BYTES, Timestamp,
    UniqueId, bitmap_bytes,
};
use crate::block::BLOCK_SIZE;
use crate::synthetic::{self, Entries, Layout, Table, Units};

/// Where the header is: behind the copy of the footer.
const HEADER_OFFSET: u64 = 512;
/// Where the BAT is.
const TABLE_OFFSET: u64 = 4096;

/// The layout of a VHD of the disk; why there is none.
pub(crate) fn synthetic(recipe: &synthetic::Recipe) -> Result<Layout, String> {
    let size = recipe.size_bytes;
    if size == 0 || !size.is_multiple_of(SECTOR_BYTES) {
        return Err("it has whole sectors of 512 bytes, at least one".to_owned());
    }
    if size > MAX_DISK_BYTES {
        return Err("a VHD has at most 2040 GiB".to_owned());
    }
    let blocks = size.div_ceil(DEFAULT_BLOCK_BYTES.into());
    let entries = u32::try_from(blocks).expect("a disk of 2040 GiB has a million");
    let header = DynamicHeader::new(TABLE_OFFSET, entries, DEFAULT_BLOCK_BYTES);
    let time = Timestamp::of(recipe.time);
    let id = UniqueId(recipe.disk_id);
    let footer = Footer::new(Kind::Dynamic, size, id, time, Some(HEADER_OFFSET)).encode();
    let table_end = (TABLE_OFFSET + header.table_bytes()).next_multiple_of(BLOCK_SIZE);
    let bitmap = bitmap_bytes(DEFAULT_BLOCK_BYTES);
    let lead = bitmap.next_multiple_of(BLOCK_SIZE);
    let bytes = u64::from(DEFAULT_BLOCK_BYTES);
    let start = table_end + lead - bitmap;
    let units = Units { start, bytes, bitmap_bytes: bitmap, stride: lead + bytes };
    let end = units.end(blocks);
    // Entries without a block are unused, up to where the blocks begin.
    let count = (table_end - TABLE_OFFSET) / 4;
    let table = Table { at: TABLE_OFFSET, count, entries: Entries::VhdBat };
    let fixed = vec![
        (0, footer.to_vec()),
        (HEADER_OFFSET, header.encode().to_vec()),
        (end, footer.to_vec()),
    ];
    let length = end + SECTOR_BYTES;
    Ok(Layout { disk_bytes: size, length, fixed, tables: vec![table], units: Some(units) }
        .checked())
}
