//! A dynamic VHDX that nobody wrote.
//!
//! ```text
//!   0       1 MiB       2 MiB      3 MiB    …
//!   headers │ empty log │ metadata │ BAT    │ block 0, block 1, …
//! ```
//!
//! Blocks are as small as the format has them, so that few bytes of zeroes count as data.

use super::Guid;
use super::create::{BAT_OFFSET, CreateOptions, metadata_of, structures};
use crate::synthetic::{self, Entries, Layout, Table, Units};
use vhdx_parse::{BatLayout, MIB, MIN_BLOCK_BYTES};

/// The layout of a VHDX of the disk; why there is none.
pub(crate) fn synthetic(recipe: &synthetic::Recipe) -> Result<Layout, String> {
    let options = CreateOptions {
        block_bytes: MIN_BLOCK_BYTES,
        disk_id: Some(Guid::from_random(recipe.disk_id)),
        ..CreateOptions::dynamic(recipe.size_bytes)
    };
    options.check()?;
    let bat = BatLayout::new(options.disk_bytes, options.block_bytes, options.logical_sector);
    let bat_bytes = bat.table_bytes(false).next_multiple_of(MIB);
    // The content has its name; whoever opens the file has none of his own in it, as it cannot be written.
    let content = Guid::from_random(recipe.content_id);
    let metadata = metadata_of(&options, &|| content);
    let fixed = structures(&metadata, bat_bytes, (content, content));
    let table = Table { at: BAT_OFFSET, count: bat.entries(false), entries: Entries::Bat(bat) };
    let bytes = bat.block_bytes();
    let units = Units { start: BAT_OFFSET + bat_bytes, bytes, bitmap_bytes: 0, stride: bytes };
    let length = units.end(bat.payload_blocks());
    let disk_bytes = recipe.size_bytes;
    Ok(Layout { disk_bytes, length, fixed, tables: vec![table], units: Some(units) }.checked())
}
