//! The structures of a VHD, without any I/O: bytes in, meaning or [`Malformed`] out.
//!
//! ```text
//!   fixed      [data ......................................................] [footer]
//!
//!   dynamic,   [footer] [dynamic header] [BAT] [bitmap | data] [bitmap | data] … [footer]
//!   differencing  copy    0x400 bytes     │     ▲
//!                                         └─────┘ an entry is the sector at which the bitmap of its block starts
//! ```
//!
//! All integers are big-endian. "Virtual Hard Disk Image Format Specification", Microsoft, version 1.0 (October 11, 2006);
//! the headings cited here are its own, it has no section numbers.

mod bitmap;
mod footer;
mod geometry;
mod header;
mod locator;

pub use bitmap::{bitmap_bytes, from_presence, is_all_present, to_presence};
pub use footer::{Creator, FOOTER_BYTES, Footer, Kind, OLD_FOOTER_BYTES, Timestamp, UniqueId};
pub use geometry::Chs;
pub use header::{DynamicHeader, HEADER_BYTES, LOCATORS, ParentLocator};
pub use locator::Platform;

use crate::image::Malformed;
use std::borrow::Cow;

/// Bytes of a sector; the format knows no others.
pub const SECTOR_BYTES: u64 = 512;

/// Largest disk: 2040 GiB ("Hard Disk Footer Format"; the largest that Hyper-V and QEMU open).
pub const MAX_DISK_BYTES: u64 = 2040 << 30;

/// An entry of the BAT that has no block ("Block Allocation Table and Data Blocks").
pub const UNUSED_ENTRY: u32 = 0xffff_ffff;

/// Most entries of a BAT that is opened here: the largest disk in blocks of 128 KiB. A BAT is held in memory.
pub const MAX_ENTRIES: u32 = 1 << 24;

/// Smallest and largest block that is opened here, in bytes.
pub const BLOCK_BYTES: std::ops::RangeInclusive<u32> = 512..=(256 << 20);

/// The block of almost every VHD, and of those that are made here.
pub const DEFAULT_BLOCK_BYTES: u32 = 2 << 20;

/// The one's complement of the sum of all bytes but those of the checksum itself ("Checksum").
fn checksum(bytes: &[u8], field: std::ops::Range<usize>) -> u32 {
    let all = bytes.iter().enumerate().filter(|(place, _)| !field.contains(place));
    // 1024 bytes of 255 are far below 2^32.
    !all.map(|(_, byte)| u32::from(*byte)).sum::<u32>()
}

/// Names a field of one structure that breaks the rules.
#[derive(Clone, Copy)]
struct Structure {
    name: &'static str,
    offset: u64,
}

impl Structure {
    fn wrong(
        self,
        field: &'static str,
        value: impl ToString,
        expected: impl Into<Cow<'static, str>>,
    ) -> Malformed {
        let value = value.to_string();
        Malformed {
            structure: self.name,
            offset: self.offset,
            field,
            value,
            expected: expected.into(),
        }
    }

    fn check(
        self,
        right: bool,
        field: &'static str,
        value: impl ToString,
        expected: &'static str,
    ) -> Result<(), Malformed> {
        if right { Ok(()) } else { Err(self.wrong(field, value, expected)) }
    }
}

/// Text of a field that should be text.
fn quoted(bytes: &[u8]) -> String {
    format!("\"{}\"", bytes.escape_ascii())
}
