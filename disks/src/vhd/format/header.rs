//! The dynamic header: where the blocks are, and of which parent a differencing disk was made ("Dynamic Disk Header Format").

use super::footer::UniqueId;
use super::locator::Platform;
use super::{BLOCK_BYTES, MAX_ENTRIES, SECTOR_BYTES, Structure, Timestamp, checksum, quoted};
use crate::image::Malformed;
use std::borrow::Cow;
use zerocopy::big_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Bytes of a dynamic header.
pub const HEADER_BYTES: usize = 1024;

/// Parent locators of a header.
pub const LOCATORS: usize = 8;

/// Longest name of a parent that is read, in bytes: the longest path of Windows.
const MAX_LOCATOR_BYTES: u32 = 64 << 10;

const COOKIE: [u8; 8] = *b"cxsparse";
const VERSION: u32 = 0x0001_0000;
const NOWHERE: u64 = u64::MAX;

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Clone, Copy)]
#[repr(C)]
struct RawLocator {
    platform: [u8; 4],
    space: U32,
    length: U32,
    reserved: U32,
    offset: U64,
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Clone, Copy)]
#[repr(C)]
struct Raw {
    cookie: [u8; 8],
    data_offset: U64,
    table_offset: U64,
    version: U32,
    max_entries: U32,
    block_size: U32,
    checksum: U32,
    parent_id: [u8; 16],
    parent_timestamp: U32,
    reserved: U32,
    parent_name: [u8; 512],
    locators: [RawLocator; LOCATORS],
    reserved_end: [u8; 256],
}

// 8 + 8 + 8 + 4 + 4 + 4 + 4 + 16 + 4 + 4 + 512 + 8 * (4 + 4 + 4 + 4 + 8) + 256
const _: () = assert!(size_of::<Raw>() == HEADER_BYTES);
const CHECKSUM: std::ops::Range<usize> = 36..40;
const _: () = assert!(std::mem::offset_of!(Raw, checksum) == CHECKSUM.start);
// What a growing disk changes is in one sector, which is written whole or not at all.
const _: () = assert!(std::mem::offset_of!(Raw, checksum) < 512);

/// Where a name of the parent is kept, for one kind of system ("Parent Locator Entry").
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ParentLocator {
    /// How the name is to be read.
    pub platform: Platform,
    /// Space of the name in the file, in bytes; in sectors if it is less than the name, as the specification has it.
    pub space: u32,
    /// Bytes of the name.
    pub length: u32,
    /// Where it is in the file.
    pub offset: u64,
}

/// A dynamic header.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DynamicHeader {
    /// Where the BAT is in the file.
    pub table_offset: u64,
    /// Entries of the BAT.
    pub max_entries: u32,
    /// Bytes of a block.
    pub block_bytes: u32,
    /// The unique id of the parent.
    pub parent_id: UniqueId,
    /// When the parent was last changed, as far as its file system knew.
    pub parent_timestamp: Timestamp,
    /// Name of the parent as it is stored: UTF-16, big-endian.
    parent_name: [u8; 512],
    /// Where more names of the parent are; the first unused one ends the list for nobody.
    pub locators: [ParentLocator; LOCATORS],
    /// Not ours to interpret.
    reserved: (u32, [u32; LOCATORS], [u8; 256]),
}

impl DynamicHeader {
    /// The header of a new dynamic disk.
    pub fn new(table_offset: u64, max_entries: u32, block_bytes: u32) -> Self {
        let unused = ParentLocator { platform: Platform::None, space: 0, length: 0, offset: 0 };
        Self {
            table_offset,
            max_entries,
            block_bytes,
            parent_id: UniqueId([0; 16]),
            parent_timestamp: Timestamp(0),
            parent_name: [0; 512],
            locators: [unused; LOCATORS],
            reserved: (0, [0; LOCATORS], [0; 256]),
        }
    }

    /// Reads a header that was found at `offset` of its file. Its BAT has a block for every byte of `size_bytes`.
    pub fn parse(
        bytes: &[u8; HEADER_BYTES],
        offset: u64,
        size_bytes: u64,
    ) -> Result<Self, Malformed> {
        let at = Structure { name: "VHD dynamic header", offset };
        let raw = Raw::read_from_bytes(bytes).expect("it has that size");
        at.check(raw.cookie == COOKIE, "cookie", quoted(&raw.cookie), "\"cxsparse\"")?;
        let sum = checksum(bytes, CHECKSUM);
        if sum != raw.checksum.get() {
            let found = format!("{:#010x}", raw.checksum.get());
            return Err(at.wrong("checksum", found, format!("{sum:#010x}, as of its bytes")));
        }
        let version = raw.version.get();
        at.check(version >> 16 == 1, "header version", format!("{version:#010x}"), "1.x")?;
        let header = Self {
            table_offset: raw.table_offset.get(),
            max_entries: raw.max_entries.get(),
            block_bytes: raw.block_size.get(),
            parent_id: UniqueId(raw.parent_id),
            parent_timestamp: Timestamp(raw.parent_timestamp.get()),
            parent_name: raw.parent_name,
            locators: raw.locators.map(|locator| ParentLocator {
                platform: Platform::of(locator.platform),
                space: locator.space.get(),
                length: locator.length.get(),
                offset: locator.offset.get(),
            }),
            reserved: (
                raw.reserved.get(),
                raw.locators.map(|locator| locator.reserved.get()),
                raw.reserved_end,
            ),
        };
        header.check_sizes(at, size_bytes)?;
        Ok(header)
    }

    fn check_sizes(&self, at: Structure, size_bytes: u64) -> Result<(), Malformed> {
        let block = self.block_bytes;
        let right = block.is_power_of_two() && BLOCK_BYTES.contains(&block);
        at.check(right, "block size", block, "a power of two from 512 bytes to 256 MiB")?;
        let needed = blocks_of(size_bytes, block);
        if u64::from(self.max_entries) < needed {
            let expected = format!("at least {needed}, the blocks of the disk");
            return Err(at.wrong("max table entries", self.max_entries, expected));
        }
        at.check(
            self.max_entries <= MAX_ENTRIES,
            "max table entries",
            self.max_entries,
            "at most 16777216",
        )?;
        at.check(
            self.table_offset.is_multiple_of(SECTOR_BYTES) && self.table_offset > 0,
            "table offset",
            self.table_offset,
            "a multiple of 512, past the first sector",
        )?;
        for locator in self.locators {
            let short = locator.platform == Platform::None || locator.length <= MAX_LOCATOR_BYTES;
            at.check(short, "platform data length", locator.length, "at most 65536")?;
        }
        Ok(())
    }

    /// The same header with another BAT.
    pub fn with_table(&self, table_offset: u64, max_entries: u32) -> Self {
        Self { table_offset, max_entries, ..self.clone() }
    }

    /// Bytes of the BAT in the file: whole sectors.
    pub fn table_bytes(&self) -> u64 {
        (u64::from(self.max_entries) * 4).next_multiple_of(SECTOR_BYTES)
    }

    /// The name of the parent that stands in the header itself, if it is one.
    pub fn parent_name(&self) -> Option<String> {
        Platform::decode_big_endian(&self.parent_name)
    }

    /// The bytes of the header.
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let (reserved, between, end) = self.reserved;
        let mut locators = self.locators.iter().zip(between);
        let mut raw = Raw {
            cookie: COOKIE,
            data_offset: U64::new(NOWHERE),
            table_offset: U64::new(self.table_offset),
            version: U32::new(VERSION),
            max_entries: U32::new(self.max_entries),
            block_size: U32::new(self.block_bytes),
            checksum: U32::new(0),
            parent_id: self.parent_id.0,
            parent_timestamp: U32::new(self.parent_timestamp.0),
            reserved: U32::new(reserved),
            parent_name: self.parent_name,
            locators: std::array::from_fn(|_| {
                let (locator, reserved) = locators.next().expect("both have the same number");
                RawLocator {
                    platform: locator.platform.code(),
                    space: U32::new(locator.space),
                    length: U32::new(locator.length),
                    reserved: U32::new(reserved),
                    offset: U64::new(locator.offset),
                }
            }),
            reserved_end: end,
        };
        raw.checksum = U32::new(checksum(raw.as_bytes(), CHECKSUM));
        let mut bytes = [0; HEADER_BYTES];
        bytes.copy_from_slice(raw.as_bytes());
        bytes
    }

    /// That the BAT lies in a file of `length` bytes.
    pub fn check_place(&self, offset: u64, length: u64) -> Result<(), Malformed> {
        let at = Structure { name: "VHD dynamic header", offset };
        // The last sector may be cut behind the last entry.
        let bytes = u64::from(self.max_entries) * 4;
        if self.table_offset.checked_add(bytes).is_some_and(|end| end <= length) {
            return Ok(());
        }
        let expected: Cow<'static, str> =
            format!("a table of {bytes} bytes within the file of {length}").into();
        Err(at.wrong("table offset", self.table_offset, expected))
    }
}

/// Blocks of `block_bytes` that a disk of `size_bytes` has, the last one perhaps in part.
pub(in crate::vhd) fn blocks_of(size_bytes: u64, block_bytes: u32) -> u64 {
    size_bytes.div_ceil(u64::from(block_bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn changed(
        header: &DynamicHeader,
        change: impl FnOnce(&mut [u8; HEADER_BYTES]),
    ) -> [u8; HEADER_BYTES] {
        let mut bytes = header.encode();
        change(&mut bytes);
        let sum = checksum(&bytes, CHECKSUM);
        bytes[CHECKSUM].copy_from_slice(&sum.to_be_bytes());
        bytes
    }

    fn header() -> DynamicHeader {
        DynamicHeader::new(1536, 5, 2 << 20)
    }

    #[test]
    fn what_is_wrong_is_named() {
        let good = header();
        let mut flipped = good.encode();
        flipped[20] ^= 1;
        for (bytes, text) in [
            (changed(&good, |b| b[0] = b'C'), "cookie is \"Cxsparse\"; expected \"cxsparse\""),
            (changed(&good, |b| b[24..28].fill(0)), "header version is 0x00000000; expected 1.x"),
            (changed(&good, |b| b[35] = 1), "block size is 2097153; expected a power of two"),
            (changed(&good, |b| b[32..36].fill(0)), "block size is 0; expected a power of two"),
            (changed(&good, |b| b[31] = 4), "max table entries is 4; expected at least 5"),
            (changed(&good, |b| b[28] = 1), "max table entries is 16777221; expected at most"),
            (changed(&good, |b| b[23] = 1), "table offset is 1537; expected a multiple of 512"),
            (changed(&good, |b| b[16..24].fill(0)), "table offset is 0; expected a multiple"),
            (
                changed(&good, |b| {
                    b[576..580].copy_from_slice(b"W2ku");
                    b[584] = 1;
                }),
                "platform data length is 16777216; expected at most 65536",
            ),
            (flipped, "checksum is 0x"),
        ] {
            let error = DynamicHeader::parse(&bytes, 512, 10 << 20).expect_err(text).to_string();
            assert!(error.starts_with("VHD dynamic header at 512: "), "{error}");
            assert!(error.contains(text), "{error}");
        }
        DynamicHeader::parse(&good.encode(), 512, (10 << 20) + 512).expect_err("a block more");
    }

    #[test]
    fn the_table_lies_in_the_file() {
        header().check_place(512, 1536 + 20).expect("just so");
        let error = header().check_place(512, 1536 + 19).expect_err("a byte short").to_string();
        assert!(error.contains("table offset is 1536; expected a table of 20 bytes"), "{error}");
        let far = DynamicHeader { table_offset: u64::MAX - 511, ..header() };
        far.check_place(512, 1 << 40).expect_err("it wraps");
    }

    proptest! {
        #[test]
        fn headers_are_read_as_they_were_written(
            table in 1u64..1 << 40,
            entries in 5u32..1000,
            shift in 20u32..28,
            bytes in prop::collection::vec(any::<u8>(), HEADER_BYTES - 40)
        ) {
            // What has no meaning for the blocks is anything, but for lengths of names.
            let header = DynamicHeader::new(table * 512, entries, 1 << shift);
            let bytes = changed(&header, |encoded| {
                encoded[40..].copy_from_slice(&bytes);
                for locator in 0..LOCATORS {
                    encoded[576 + locator * 24 + 8..][..2].fill(0);
                }
            });
            let read = DynamicHeader::parse(&bytes, 512, 5 << 20);
            prop_assert_eq!(read.expect("it is sound").encode(), bytes);
        }

        #[test]
        fn any_bytes_are_judged(bytes in prop::collection::vec(any::<u8>(), HEADER_BYTES)) {
            let mut bytes: [u8; HEADER_BYTES] = bytes.try_into().expect("that many");
            let _ = DynamicHeader::parse(&bytes, 0, 1 << 20);
            bytes[..8].copy_from_slice(b"cxsparse");
            let sum = checksum(&bytes, CHECKSUM);
            bytes[CHECKSUM].copy_from_slice(&sum.to_be_bytes());
            let _ = DynamicHeader::parse(&bytes, 0, 1 << 20);
        }
    }
}
