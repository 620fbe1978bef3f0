#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

mod bat;
mod error;
mod guid;
mod header;
mod identifier;
mod log;
mod metadata;
mod region;

pub use self::bat::{
    BAT_ENTRY_BYTES, BITMAP_BLOCK_BYTES, BatLayout, BatSlot, BitmapEntry, MAX_BLOCK_BYTES,
    MIN_BLOCK_BYTES, PayloadEntry, SECTORS_PER_CHUNK, bitmap_runs, set_bitmap,
};
pub use self::error::Malformed;
pub use self::guid::{Guid, GuidError};
pub use self::header::{
    CurrentHeader, HEADER_1_OFFSET, HEADER_2_OFFSET, HEADER_BYTES, Header, HeaderSlot,
    MAX_LOG_BYTES,
};
pub use self::identifier::{
    FILE_IDENTIFIER_BYTES, FILE_IDENTIFIER_OFFSET, FILE_SIGNATURE, FileIdentifier,
};
pub use self::log::{
    ActiveLog, DESCRIPTORS_IN_FIRST_SECTOR, LOG_SECTOR_BYTES, LogChange, LogEntry, LogEntryHeader,
    LogRing, Patch, Replay,
};
pub use self::metadata::{
    ItemEntry, KnownItem, LOCATOR_TYPE_VHDX, LocatorEntry, MAX_ITEM_BYTES, MAX_ITEMS,
    MAX_LOCATOR_ENTRIES, METADATA_TABLE_BYTES, Metadata, MetadataTable, ParentLocator, ParentPath,
    PathKind, encode_disk_size,
};
pub use self::region::{
    BAT_REGION, MAX_REGIONS, METADATA_REGION, REGION_TABLE_1_OFFSET, REGION_TABLE_2_OFFSET,
    REGION_TABLE_BYTES, Region, RegionTable,
};

/// Unit of everything that has a region or a block of its own, in bytes.
pub const MIB: u64 = 1 << 20;

/// Bytes before the first place a region or block may have: identifier, headers, region tables.
pub const HEADER_SECTION_BYTES: u64 = MIB;

/// Largest disk: 64 TiB.
pub const MAX_DISK_BYTES: u64 = 64 << 40;

/// Largest file that is believed: twice the largest disk. A place beyond it is an error, not a
/// reason to make a file that long.
pub const MAX_FILE_BYTES: u64 = 2 * MAX_DISK_BYTES;
