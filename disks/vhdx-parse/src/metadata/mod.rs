//! The metadata (section 2.6): what the disk is, besides its blocks.
//!
//! ```text
//!   region  ├─ table, 64 KiB: entries name items ─┤─ items, at any offset from 64 KiB on ─ …
//! ```
//!
//! Reading takes two steps, as the caller does the I/O: [`MetadataTable::parse`] says where the
//! known items lie, and
//! [`Metadata::parse`] makes their meaning of them.

mod items;
mod locator;
mod table;

pub use self::items::{Metadata, encode_disk_size};
pub use self::locator::{
    LOCATOR_TYPE_VHDX, LocatorEntry, MAX_LOCATOR_ENTRIES, ParentLocator, ParentPath, PathKind,
};
pub use self::table::{
    ItemEntry, KnownItem, MAX_ITEM_BYTES, MAX_ITEMS, METADATA_TABLE_BYTES, MetadataTable,
};
