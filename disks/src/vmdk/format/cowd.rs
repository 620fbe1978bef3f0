//! ESX sparse extents ("COWD"): the deltas of `vmfsSparse` disks. Read only.
//!
//! ```text
//!   0 magic "COWD"   4 version   8 flags   12 numSectors   16 grainSize   20 gdOffset   24 numGDEntries   28 freeSector
//!   32 root: cylinders, heads, sectors; child: parent file name, generation … to 2048
//! ```
//!
//! "Virtual Disk Format 5.0", section "ESX Server Sparse Extents". A grain table has 4096 entries; a grain is one sector as a rule,
//! so the delta of a snapshot holds exactly what was written. There is no redundant directory.

use super::{SECTOR_BYTES, malformed};
use crate::image::Malformed;
use zerocopy::little_endian::U32;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// The first bytes of the extent.
pub const MAGIC: [u8; 4] = *b"COWD";

/// Bytes of the header that have a meaning here.
pub const HEADER_BYTES: usize = 512;

/// Entries of a grain table.
pub const TABLE_ENTRIES: u64 = 4096;

const HEADER: &str = "COWD header";

/// Largest grain that is accepted, in sectors. ESX makes 1, other tools up to 128.
const MAX_GRAIN: u64 = 2048;

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawHeader {
    magic: [u8; 4],
    version: U32,
    flags: U32,
    sectors: U32,
    grain_size: U32,
    gd_offset: U32,
    gd_entries: U32,
    free_sector: U32,
}

// 4 + 7*4
const _: () = assert!(size_of::<RawHeader>() == 32);

/// What the header of an ESX sparse extent says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CowdHeader {
    /// Size of the part of the disk this extent holds, in sectors.
    pub capacity: u64,
    /// Sectors of a grain; a power of two.
    pub grain_sectors: u64,
    /// First sector of the grain directory.
    pub directory: u64,
    /// Entries of the grain directory.
    pub directory_entries: u64,
    /// The first sector that was never used.
    pub free_sector: u64,
    /// Kept; nobody says what they mean.
    pub flags: u32,
}

impl CowdHeader {
    /// Reads the header at the start of the file.
    pub fn parse(bytes: &[u8]) -> Result<Self, Malformed> {
        let fail = |field, value: String, expected: String| {
            Err(malformed(HEADER, 0, field, value, expected))
        };
        let Ok((raw, _)) = RawHeader::read_from_prefix(bytes) else {
            return fail("length", bytes.len().to_string(), "at least 32 bytes".to_owned());
        };
        if raw.magic != MAGIC {
            return fail("magicNumber", format!("{:02x?}", raw.magic), "\"COWD\"".to_owned());
        }
        if raw.version.get() != 1 {
            return fail("version", raw.version.to_string(), "1".to_owned());
        }
        let header = Self {
            capacity: raw.sectors.get().into(),
            grain_sectors: raw.grain_size.get().into(),
            directory: raw.gd_offset.get().into(),
            directory_entries: raw.gd_entries.get().into(),
            free_sector: raw.free_sector.get().into(),
            flags: raw.flags.get(),
        };
        if header.capacity == 0 {
            return fail("numSectors", "0".to_owned(), "at least 1".to_owned());
        }
        if !header.grain_sectors.is_power_of_two() || header.grain_sectors > MAX_GRAIN {
            let expected = format!("a power of two from 1 to {MAX_GRAIN} sectors");
            return fail("grainSize", header.grain_sectors.to_string(), expected);
        }
        if header.directory == 0 {
            return fail("gdOffset", "0".to_owned(), "at least 1".to_owned());
        }
        // At most 2^32 / 4096 for the smallest grain: 4 MiB of directory, so the rule is the limit as well.
        let most = header.tables().next_multiple_of(SECTOR_BYTES / 4);
        if header.directory_entries < header.tables() || header.directory_entries > most {
            let expected = format!("{} for {} sectors", header.tables(), header.capacity);
            return fail("numGDEntries", header.directory_entries.to_string(), expected);
        }
        Ok(header)
    }

    /// The start of a header, for tests and samples; the rest of its 2048 bytes is zero.
    pub fn encode(&self) -> [u8; 32] {
        let small = |value: u64| U32::new(u32::try_from(value).expect("parsed from 32 bits"));
        let raw = RawHeader {
            magic: MAGIC,
            version: U32::new(1),
            flags: U32::new(self.flags),
            sectors: small(self.capacity),
            grain_size: small(self.grain_sectors),
            gd_offset: small(self.directory),
            gd_entries: small(self.directory_entries),
            free_sector: small(self.free_sector),
        };
        raw.as_bytes().try_into().expect("32 bytes, as asserted")
    }

    /// Grain tables the capacity needs.
    pub fn tables(&self) -> u64 {
        self.capacity.div_ceil(self.grain_sectors * TABLE_ENTRIES)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn example() -> CowdHeader {
        CowdHeader {
            capacity: 20_480,
            grain_sectors: 1,
            directory: 4,
            directory_entries: 5,
            free_sector: 100,
            flags: 3,
        }
    }

    #[test]
    fn every_rule_has_its_message() {
        for (at, bytes, message) in [
            (0, &b"DWOC"[..], "magicNumber is [44, 57, 4f, 43]; expected \"COWD\""),
            (4, &[2], "version is 2; expected 1"),
            (12, &[0; 4], "numSectors is 0; expected at least 1"),
            (16, &[0], "grainSize is 0; expected a power of two from 1 to 2048 sectors"),
            (16, &[6], "grainSize is 6; expected"),
            (20, &[0], "gdOffset is 0; expected at least 1"),
            (24, &[4], "numGDEntries is 4; expected 5 for 20480 sectors"),
            (24, &[0, 1], "numGDEntries is 256; expected 5"),
        ] {
            let mut header = example().encode();
            header[at..at + bytes.len()].copy_from_slice(bytes);
            let found = CowdHeader::parse(&header).expect_err(message).to_string();
            assert!(found.starts_with(&format!("COWD header at 0: {message}")), "{found}");
        }
    }

    proptest! {
        #[test]
        fn what_was_encoded_is_parsed(
            capacity in 1u32..,
            grain in 0u32..12,
            directory in 1u32..,
            free_sector in any::<u32>(),
            flags in any::<u32>(),
        ) {
            let mut header = CowdHeader {
                capacity: capacity.into(),
                grain_sectors: 1 << grain,
                directory: directory.into(),
                directory_entries: 0,
                free_sector: free_sector.into(),
                flags,
            };
            header.directory_entries = header.tables();
            prop_assert_eq!(CowdHeader::parse(&header.encode()), Ok(header));
        }
    }
}
