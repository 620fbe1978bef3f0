//! Space-efficient sparse extents ("seSparse"): deltas of VMFS 6 and of large disks. Read only.
//!
//! ```text
//!   const header (512)   magic 0xcafebabe, version, capacity, grain and table sizes, flags, then offset and size of each part
//!   volatile header      magic 0xcafecafe, free table, next transaction, replay_journal
//!   journal header, journal, grain directory, grain tables, free bitmap, back map, grains
//! ```
//!
//! Entries have 64 bits, the top four of which say what they are. VMware does not document the format; what is read here is what
//! qemu's driver established, and everything beyond that is refused. Offsets and sizes in headers are sectors.

use super::{SECTOR_BYTES, SECTOR_LENGTH, malformed};
use crate::block::MAX_DISK_SIZE;
use crate::image::Malformed;
use zerocopy::little_endian::U64;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

const CONST_HEADER: &str = "seSparse const header";
const VOLATILE_HEADER: &str = "seSparse volatile header";
const CONST_MAGIC: u64 = 0xcafe_babe;
const VOLATILE_MAGIC: u64 = 0xcafe_cafe;
const VERSION: u64 = 0x2_0000_0001;

/// Sectors of a grain.
pub const GRAIN_SECTORS: u64 = 8;
/// Sectors of a grain table.
pub const TABLE_SECTORS: u64 = 64;
/// Entries of a grain table.
pub const TABLE_ENTRIES: u64 = TABLE_SECTORS * SECTOR_BYTES / 8;

/// The first bytes of the file.
pub const MAGIC: [u8; 8] = CONST_MAGIC.to_le_bytes();

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone)]
#[repr(C)]
struct RawConst {
    magic: U64,
    version: U64,
    capacity: U64,
    grain_size: U64,
    table_size: U64,
    flags: U64,
    reserved: [U64; 4],
    volatile_header: [U64; 2],
    journal_header: [U64; 2],
    journal: [U64; 2],
    directory: [U64; 2],
    tables: [U64; 2],
    free_bitmap: [U64; 2],
    backmap: [U64; 2],
    grains: [U64; 2],
    pad: [u8; 304],
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawVolatile {
    magic: U64,
    free_table: U64,
    next_transaction: U64,
    replay_journal: U64,
    pad: [u8; 480],
}

// 10*8 + 8*16 + 304, and 4*8 + 480
const _: () = assert!(size_of::<RawConst>() == SECTOR_LENGTH);
const _: () = assert!(size_of::<RawVolatile>() == SECTOR_LENGTH);

/// What the const header says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SeSparseHeader {
    /// Size of the part of the disk this extent holds, in sectors.
    pub capacity: u64,
    /// Sector of the volatile header.
    pub volatile_header: u64,
    /// First sector of the grain directory.
    pub directory: u64,
    /// Sectors of the grain directory.
    pub directory_sectors: u64,
    /// First sector of the grain tables.
    pub tables: u64,
    /// Sectors of the grain tables.
    pub tables_sectors: u64,
    /// First sector of the grains.
    pub grains: u64,
    /// Sectors of the grains.
    pub grains_sectors: u64,
}

impl SeSparseHeader {
    /// Reads the const header at the start of the file.
    pub fn parse(bytes: &[u8]) -> Result<Self, Malformed> {
        let fail = |field, value: String, expected: String| {
            Err(malformed(CONST_HEADER, 0, field, value, expected))
        };
        let Ok((raw, _)) = RawConst::read_from_prefix(bytes) else {
            return fail("length", bytes.len().to_string(), "512 bytes".to_owned());
        };
        for (field, value, expected) in [
            ("magic", raw.magic, CONST_MAGIC),
            ("version", raw.version, VERSION),
            ("grainSize", raw.grain_size, GRAIN_SECTORS),
            ("grainTableSize", raw.table_size, TABLE_SECTORS),
            ("flags", raw.flags, 0),
            ("reserved1", raw.reserved[0], 0),
            ("reserved2", raw.reserved[1], 0),
            ("reserved3", raw.reserved[2], 0),
            ("reserved4", raw.reserved[3], 0),
        ] {
            if value.get() != expected {
                return fail(field, format!("{:#x}", value.get()), format!("{expected:#x}"));
            }
        }
        if raw.pad.iter().any(|byte| *byte != 0) {
            return fail("padding", "not zero".to_owned(), "zeroes".to_owned());
        }
        let most = MAX_DISK_SIZE / SECTOR_BYTES;
        for (field, value) in [
            ("capacity", raw.capacity),
            ("volatileHeaderOffset", raw.volatile_header[0]),
            ("grainDirOffset", raw.directory[0]),
            ("grainTablesOffset", raw.tables[0]),
            ("grainsOffset", raw.grains[0]),
        ] {
            if value.get() == 0 || value.get() > most {
                return fail(field, value.to_string(), format!("1 to {most} sectors"));
            }
        }
        for (field, value) in [
            ("grainDirSize", raw.directory[1]),
            ("grainTablesSize", raw.tables[1]),
            ("grainsSize", raw.grains[1]),
        ] {
            if value.get() > most {
                return fail(field, value.to_string(), format!("at most {most} sectors"));
            }
        }
        let header = Self {
            capacity: raw.capacity.get(),
            volatile_header: raw.volatile_header[0].get(),
            directory: raw.directory[0].get(),
            directory_sectors: raw.directory[1].get(),
            tables: raw.tables[0].get(),
            tables_sectors: raw.tables[1].get(),
            grains: raw.grains[0].get(),
            grains_sectors: raw.grains[1].get(),
        };
        // 64 TiB need 4 Mi entries, 32 MiB; what is read is what the capacity needs, so the capacity is the limit.
        let needed = (header.directory_entries() * 8).div_ceil(SECTOR_BYTES);
        if header.directory_sectors < needed {
            let expected = format!("at least {needed} sectors for {} sectors", header.capacity);
            return fail("grainDirSize", header.directory_sectors.to_string(), expected);
        }
        Ok(header)
    }

    /// Checks the volatile header, which says whether the extent is whole without its journal.
    pub fn check_volatile(&self, bytes: &[u8]) -> Result<(), Malformed> {
        let offset = self.volatile_header * SECTOR_BYTES;
        let fail = |field, value: String, expected: String| {
            Err(malformed(VOLATILE_HEADER, offset, field, value, expected))
        };
        let Ok((raw, _)) = RawVolatile::read_from_prefix(bytes) else {
            return fail("length", bytes.len().to_string(), "512 bytes".to_owned());
        };
        if raw.magic.get() != VOLATILE_MAGIC {
            let expected = format!("{VOLATILE_MAGIC:#x}");
            return fail("magic", format!("{:#x}", raw.magic.get()), expected);
        }
        if raw.replay_journal.get() != 0 {
            let expected = "0: a journal that must be replayed first cannot be read here";
            return fail("replayJournal", raw.replay_journal.to_string(), expected.to_owned());
        }
        if raw.pad.iter().any(|byte| *byte != 0) {
            return fail("padding", "not zero".to_owned(), "zeroes".to_owned());
        }
        Ok(())
    }

    /// Entries of the directory that the capacity needs.
    pub fn directory_entries(&self) -> u64 {
        self.capacity.div_ceil(GRAIN_SECTORS * TABLE_ENTRIES)
    }

    /// The sector of the grain table that entry `index` of the directory leads to; `None` without one.
    pub fn table_sector(&self, index: u64, entry: u64) -> Result<Option<u64>, Malformed> {
        let offset = self.directory * SECTOR_BYTES + index * 8;
        let fail = |expected: String| {
            let value = format!("{entry:#018x}");
            Err(malformed("seSparse grain directory entry", offset, "entry", value, expected))
        };
        if entry == 0 {
            return Ok(None);
        }
        if entry >> 32 != 0x1000_0000 {
            return fail("0, or 0x10000000 and the number of a table".to_owned());
        }
        let number = entry & 0xffff_ffff;
        let there = self.tables_sectors / TABLE_SECTORS;
        if number >= there {
            return fail(format!("one of {there} tables"));
        }
        Ok(Some(self.tables + number * TABLE_SECTORS))
    }

    /// What an entry of a grain table, which stands `offset` bytes into the file, says.
    pub fn grain(&self, entry: u64, offset: u64) -> Result<SeGrain, Malformed> {
        let fail = |expected: String| {
            let value = format!("{entry:#018x}");
            Err(malformed("seSparse grain table entry", offset, "entry", value, expected))
        };
        match entry >> 60 {
            0 if entry == 0 => Ok(SeGrain::Absent),
            // Unmapped by the guest, or zeroed: both read as zeroes whatever the parent holds.
            1 | 2 => Ok(SeGrain::Zero),
            3 => {
                let number = (entry >> 48) & 0xfff | (entry & 0xffff_ffff_ffff) << 12;
                let there = self.grains_sectors / GRAIN_SECTORS;
                if number >= there {
                    return fail(format!("one of {there} grains"));
                }
                Ok(SeGrain::At(self.grains + number * GRAIN_SECTORS))
            }
            _ => fail("0, or 1, 2 or 3 in the top four bits".to_owned()),
        }
    }
}

/// Where a grain is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SeGrain {
    /// In the parent.
    Absent,
    /// Nowhere: it is zero.
    Zero,
    /// At this sector.
    At(u64),
}

/// The two headers of an extent, for tests and samples: nothing of ours writes this format.
#[cfg(any(test, feature = "testing"))]
pub fn encode_headers(header: &SeSparseHeader) -> ([u8; SECTOR_LENGTH], [u8; SECTOR_LENGTH]) {
    let raw = RawConst {
        magic: U64::new(CONST_MAGIC),
        version: U64::new(VERSION),
        capacity: U64::new(header.capacity),
        grain_size: U64::new(GRAIN_SECTORS),
        table_size: U64::new(TABLE_SECTORS),
        flags: U64::ZERO,
        reserved: [U64::ZERO; 4],
        volatile_header: [header.volatile_header, 1].map(U64::new),
        journal_header: [U64::ZERO; 2],
        journal: [U64::ZERO; 2],
        directory: [header.directory, header.directory_sectors].map(U64::new),
        tables: [header.tables, header.tables_sectors].map(U64::new),
        free_bitmap: [U64::ZERO; 2],
        backmap: [U64::ZERO; 2],
        grains: [header.grains, header.grains_sectors].map(U64::new),
        pad: [0; 304],
    };
    let volatile = RawVolatile {
        magic: U64::new(VOLATILE_MAGIC),
        free_table: U64::ZERO,
        next_transaction: U64::ZERO,
        replay_journal: U64::ZERO,
        pad: [0; 480],
    };
    let bytes = |bytes: &[u8]| bytes.try_into().expect("512 bytes, as asserted");
    (bytes(raw.as_bytes()), bytes(volatile.as_bytes()))
}

/// The entry of an allocated grain, for tests and samples.
#[cfg(any(test, feature = "testing"))]
pub fn encode_grain(number: u64) -> u64 {
    3 << 60 | (number & 0xfff) << 48 | number >> 12
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn example() -> SeSparseHeader {
        SeSparseHeader {
            capacity: 100_000,
            volatile_header: 1,
            directory: 2,
            directory_sectors: 1,
            tables: 64,
            tables_sectors: 256,
            grains: 512,
            grains_sectors: 8 * 5000,
        }
    }

    #[test]
    fn every_rule_has_its_message() {
        for (at, bytes, message) in [
            (0, &[0xbf][..], "magic is 0xcafebabf; expected 0xcafebabe"),
            (8, &[2], "version is 0x200000002; expected 0x200000001"),
            (16, &[0; 8], "capacity is 0; expected 1 to"),
            (24, &[16], "grainSize is 0x10; expected 0x8"),
            (32, &[1], "grainTableSize is 0x1; expected 0x40"),
            (40, &[1], "flags is 0x1; expected 0x0"),
            (72, &[1], "reserved4 is 0x1; expected 0x0"),
            (80, &[0xff; 8], "volatileHeaderOffset is 18446744073709551615; expected"),
            (136, &[0], "grainDirSize is 0; expected at least 1 sectors for 100000"),
            (300, &[7], "padding is not zero; expected zeroes"),
        ] {
            let (mut header, _) = encode_headers(&example());
            header[at..at + bytes.len()].copy_from_slice(bytes);
            let found = SeSparseHeader::parse(&header).expect_err(message).to_string();
            let expected = format!("seSparse const header at 0: {message}");
            assert!(found.starts_with(&expected), "{found}\n{expected}");
        }
        for (at, message) in [
            (0, "magic is 0xcafecaff; expected 0xcafecafe"),
            (24, "replayJournal is 1; expected 0: a journal"),
            (500, "padding is not zero"),
        ] {
            let (_, mut header) = encode_headers(&example());
            header[at] |= 1;
            let found = example().check_volatile(&header).expect_err(message).to_string();
            let expected = format!("seSparse volatile header at 512: {message}");
            assert!(found.starts_with(&expected), "{found}\n{expected}");
        }
    }

    #[test]
    fn entries_say_what_they_are() {
        let header = example();
        assert_eq!(header.table_sector(0, 0), Ok(None));
        assert_eq!(header.table_sector(0, 0x1000_0000_0000_0003), Ok(Some(64 + 3 * 64)));
        for wrong in [1, 0x1000_0000_0000_0004, 0x2000_0000_0000_0000, u64::MAX] {
            header.table_sector(1, wrong).expect_err("no table");
        }
        assert_eq!(header.grain(0, 0), Ok(SeGrain::Absent));
        assert_eq!(header.grain(0x1000_0000_0000_0000, 0), Ok(SeGrain::Zero));
        assert_eq!(header.grain(0x2000_0000_0000_0000, 0), Ok(SeGrain::Zero));
        assert_eq!(header.grain(encode_grain(4999), 0), Ok(SeGrain::At(512 + 8 * 4999)));
        for wrong in [1, encode_grain(5000), 0x4000_0000_0000_0000, u64::MAX] {
            header.grain(wrong, 0).expect_err("no grain");
        }
    }

    proptest! {
        #[test]
        fn what_was_encoded_is_parsed(
            capacity in 1u64..1 << 32,
            parts in prop::array::uniform4(1u64..1 << 30),
            sizes in prop::array::uniform2(0u64..1 << 30),
            number in 0u64..1 << 40,
        ) {
            let mut header = SeSparseHeader {
                capacity,
                volatile_header: parts[0],
                directory: parts[1],
                directory_sectors: 0,
                tables: parts[2],
                tables_sectors: sizes[0],
                grains: parts[3],
                grains_sectors: sizes[1],
            };
            header.directory_sectors = header.directory_entries();
            let (bytes, volatile) = encode_headers(&header);
            prop_assert_eq!(SeSparseHeader::parse(&bytes), Ok(header.clone()));
            prop_assert_eq!(header.check_volatile(&volatile), Ok(()));
            header.grains_sectors = u64::MAX;
            let found = header.grain(encode_grain(number), 0);
            prop_assert_eq!(found, Ok(SeGrain::At(header.grains + number * GRAIN_SECTORS)));
        }
    }
}
