//! The header of a hosted sparse extent: 512 bytes at its start, and again as the footer of a stream.
//!
//! ```text
//!   0 magic "KDMV"   4 version   8 flags   12 capacity   20 grainSize   28 descriptorOffset   36 descriptorSize
//!   44 numGTEsPerGT  48 rgdOffset          56 gdOffset   64 overHead    72 uncleanShutdown
//!   73 "\n \r\n"     77 compressAlgorithm  79 pad to 512
//! ```
//!
//! "Virtual Disk Format 5.0", section "Hosted Sparse Extents". Offsets and sizes in it are sectors.

use super::{MAX_SPARSE_SECTORS, SECTOR_BYTES, SECTOR_LENGTH, malformed};
use crate::block::MAX_DISK_SIZE;
use crate::image::Malformed;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// The first bytes of a hosted sparse extent: `VMDK` as a little-endian number.
pub const MAGIC: [u8; 4] = *b"KDMV";

/// Name of the structure in messages.
const HEADER: &str = "VMDK sparse header";

/// Value of gdOffset in the header of a stream: the directory is found by way of the footer.
const DIRECTORY_AT_END: u64 = u64::MAX;

const FLAG_NEWLINE_TEST: u32 = 1;
const FLAG_REDUNDANT: u32 = 1 << 1;
const FLAG_ZEROED_GRAINS: u32 = 1 << 2;
const FLAG_COMPRESSED: u32 = 1 << 16;
const FLAG_MARKERS: u32 = 1 << 17;
/// Who does not know one of these must not read the extent; the lower ones may be ignored.
const FLAGS_INCOMPATIBLE: u32 = 0xffff_0000;

const NEWLINES: [u8; 4] = *b"\n \r\n";
const DEFLATE: u16 = 1;

/// Smallest grain, in sectors.
const MIN_GRAIN: u64 = 8;
/// Largest grain that is accepted, in sectors: 1 MiB, the most that one packed grain may inflate to. VMware makes 64 KiB.
const MAX_GRAIN: u64 = 2048;
/// Bounds of the entries of a grain table. Everybody makes 512.
const MIN_ENTRIES: u32 = 128;
const MAX_ENTRIES: u32 = 4096;
/// Most entries of a grain directory: 16 MiB in memory.
const MAX_TABLES: u64 = 1 << 22;

/// Where `uncleanShutdown` stands.
pub const UNCLEAN_SHUTDOWN_OFFSET: u64 = 72;

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawHeader {
    magic: [u8; 4],
    version: U32,
    flags: U32,
    capacity: U64,
    grain_size: U64,
    descriptor_offset: U64,
    descriptor_size: U64,
    gtes_per_gt: U32,
    rgd_offset: U64,
    gd_offset: U64,
    overhead: U64,
    unclean_shutdown: u8,
    newlines: [u8; 4],
    compress_algorithm: U16,
    pad: [u8; 433],
}

// 4 + 2*4 + 4*8 + 4 + 3*8 + 1 + 4 + 2 + 433
const _: () = assert!(size_of::<RawHeader>() == SECTOR_LENGTH);
const _: () = assert!(std::mem::offset_of!(RawHeader, unclean_shutdown) == 72);

/// A version of the hosted sparse format.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Version {
    /// The first.
    One,
    /// Has zeroed grains.
    Two,
    /// Streams, and extents of disks with changed block tracking, which a writer that does not track would break.
    Three,
}

impl Version {
    /// The number in the header.
    pub fn number(self) -> u32 {
        match self {
            Self::One => 1,
            Self::Two => 2,
            Self::Three => 3,
        }
    }
}

/// Where the grain directory lies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Directory {
    /// At this sector.
    At(u64),
    /// Told by the footer (`GD_AT_END`).
    InFooter,
}

/// A stretch of whole sectors of a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stretch {
    /// First sector.
    pub start: u64,
    /// How many.
    pub count: u64,
}

/// What the header of a hosted sparse extent says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SparseHeader {
    /// Version of the format.
    pub version: Version,
    /// The bytes for finding damage by text transfers are there.
    pub newline_test: bool,
    /// The redundant grain directory is in use.
    pub redundant: bool,
    /// An entry of 1 means a grain of zeroes.
    pub zeroed_grains: bool,
    /// Grains are packed.
    pub compressed: bool,
    /// Everything is introduced by a marker.
    pub markers: bool,
    /// Flags without a meaning here that may be ignored; kept.
    pub other_flags: u32,
    /// Size of the part of the disk this extent holds, in sectors.
    pub capacity: u64,
    /// Sectors of a grain; a power of two.
    pub grain_sectors: u64,
    /// Where the descriptor is embedded.
    pub descriptor: Option<Stretch>,
    /// Entries of a grain table; a power of two.
    pub table_entries: u32,
    /// First sector of the redundant grain directory.
    pub redundant_directory: Option<u64>,
    /// Where the grain directory is.
    pub directory: Directory,
    /// Sectors before the first grain.
    pub overhead: u64,
    /// The extent was not closed in order.
    pub unclean_shutdown: bool,
}

impl SparseHeader {
    /// Reads the header that stands `offset` bytes into its file.
    pub fn parse(bytes: &[u8], offset: u64) -> Result<Self, Malformed> {
        let fail = |field, value: String, expected: String| {
            Err(malformed(HEADER, offset, field, value, expected))
        };
        let Ok((raw, _)) = RawHeader::read_from_prefix(bytes) else {
            return fail("length", bytes.len().to_string(), "512 bytes".to_owned());
        };
        if raw.magic != MAGIC {
            return fail("magicNumber", format!("{:02x?}", raw.magic), "\"KDMV\"".to_owned());
        }
        let version = match raw.version.get() {
            1 => Version::One,
            2 => Version::Two,
            3 => Version::Three,
            other => return fail("version", other.to_string(), "1, 2 or 3".to_owned()),
        };
        let header = Self {
            version,
            newline_test: raw.flags.get() & FLAG_NEWLINE_TEST != 0,
            redundant: raw.flags.get() & FLAG_REDUNDANT != 0,
            zeroed_grains: raw.flags.get() & FLAG_ZEROED_GRAINS != 0,
            compressed: raw.flags.get() & FLAG_COMPRESSED != 0,
            markers: raw.flags.get() & FLAG_MARKERS != 0,
            other_flags: raw.flags.get()
                & !(FLAG_NEWLINE_TEST
                    | FLAG_REDUNDANT
                    | FLAG_ZEROED_GRAINS
                    | FLAG_COMPRESSED
                    | FLAG_MARKERS),
            capacity: raw.capacity.get(),
            grain_sectors: raw.grain_size.get(),
            descriptor: (raw.descriptor_offset.get() != 0).then_some(Stretch {
                start: raw.descriptor_offset.get(),
                count: raw.descriptor_size.get(),
            }),
            table_entries: raw.gtes_per_gt.get(),
            redundant_directory: (raw.rgd_offset.get() != 0).then_some(raw.rgd_offset.get()),
            directory: match raw.gd_offset.get() {
                DIRECTORY_AT_END => Directory::InFooter,
                sector => Directory::At(sector),
            },
            overhead: raw.overhead.get(),
            unclean_shutdown: raw.unclean_shutdown != 0,
        };
        if header.newline_test && raw.newlines != NEWLINES {
            let found = format!("{:02x?}", raw.newlines);
            let expected = "[0a, 20, 0d, 0a]: the file went through a text transfer";
            return fail("end of line characters", found, expected.to_owned());
        }
        header.check_flags(raw.compress_algorithm.get(), offset)?;
        header.check_sizes(offset)?;
        header.check_places(offset)?;
        Ok(header)
    }

    fn check_flags(&self, algorithm: u16, offset: u64) -> Result<(), Malformed> {
        let fail = |field, value, expected: &'static str| {
            Err(malformed(HEADER, offset, field, value, expected))
        };
        if self.other_flags & FLAGS_INCOMPATIBLE != 0 {
            let value = format!("{:#x}", self.flags());
            return fail("flags", value, "none of the upper 16 but compressed and markers");
        }
        if self.compressed != self.markers {
            let value = format!("{:#x}", self.flags());
            return fail("flags", value, "compressed grains and markers together");
        }
        match (self.compressed, algorithm) {
            (true, DEFLATE) | (false, 0) => Ok(()),
            (true, other) => fail("compressAlgorithm", other.to_string(), "1 (deflate)"),
            (false, other) => fail("compressAlgorithm", other.to_string(), "0 without compression"),
        }
    }

    fn check_sizes(&self, offset: u64) -> Result<(), Malformed> {
        let fail = |field, value: u64, expected: String| {
            Err(malformed(HEADER, offset, field, value, expected))
        };
        let grain = self.grain_sectors;
        if !grain.is_power_of_two() || !(MIN_GRAIN..=MAX_GRAIN).contains(&grain) {
            let expected = format!("a power of two from {MIN_GRAIN} to {MAX_GRAIN} sectors");
            return fail("grainSize", grain, expected);
        }
        let entries = self.table_entries;
        if !entries.is_power_of_two() || !(MIN_ENTRIES..=MAX_ENTRIES).contains(&entries) {
            let expected = format!("a power of two from {MIN_ENTRIES} to {MAX_ENTRIES}");
            return fail("numGTEsPerGT", entries.into(), expected);
        }
        // A packed grain takes less room than it stands for, so a stream may stand for more than its entries can address.
        let (most, why) = if self.compressed {
            (MAX_DISK_SIZE / SECTOR_BYTES, "64 TiB")
        } else {
            (MAX_SPARSE_SECTORS, "2 TiB: entries of grain tables are sector numbers of 32 bits")
        };
        if self.capacity == 0 || self.capacity > most {
            return fail("capacity", self.capacity, format!("1 to {most} sectors ({why})"));
        }
        if self.tables() > MAX_TABLES {
            return fail("capacity", self.capacity, format!("at most {MAX_TABLES} grain tables"));
        }
        Ok(())
    }

    fn check_places(&self, offset: u64) -> Result<(), Malformed> {
        let fail = |field, value: u64, expected: String| {
            Err(malformed(HEADER, offset, field, value, expected))
        };
        // Enough that no sum of a place and a length below wraps, and that bytes fit 64 bits.
        let most = MAX_DISK_SIZE / SECTOR_BYTES;
        if self.overhead > most {
            return fail("overHead", self.overhead, format!("at most {most} sectors"));
        }
        if let Some(sector) = self.redundant_directory.filter(|sector| *sector > most) {
            return fail("rgdOffset", sector, format!("at most {most} sectors"));
        }
        match self.directory {
            Directory::At(sector) if sector == 0 || sector > most => {
                return fail("gdOffset", sector, format!("1 to {most} sectors"));
            }
            Directory::InFooter if !self.compressed => {
                let expected = "a sector; only streams have their directory at the end";
                return fail("gdOffset", DIRECTORY_AT_END, expected.to_owned());
            }
            _ => {}
        }
        if let Some(stretch) = self.descriptor {
            if stretch.start > most {
                return fail("descriptorOffset", stretch.start, format!("at most {most} sectors"));
            }
            let most = super::descriptor::MAX_DESCRIPTOR_BYTES as u64 / SECTOR_BYTES;
            if stretch.count == 0 || stretch.count > most {
                return fail("descriptorSize", stretch.count, format!("1 to {most} sectors"));
            }
        }
        Ok(())
    }

    fn flags(&self) -> u32 {
        [
            (self.newline_test, FLAG_NEWLINE_TEST),
            (self.redundant, FLAG_REDUNDANT),
            (self.zeroed_grains, FLAG_ZEROED_GRAINS),
            (self.compressed, FLAG_COMPRESSED),
            (self.markers, FLAG_MARKERS),
        ]
        .into_iter()
        .filter(|(set, _)| *set)
        .fold(self.other_flags, |flags, (_, flag)| flags | flag)
    }

    /// The 512 bytes of the header.
    pub fn encode(&self) -> [u8; SECTOR_LENGTH] {
        let stretch = self.descriptor.unwrap_or(Stretch { start: 0, count: 0 });
        let raw = RawHeader {
            magic: MAGIC,
            version: U32::new(self.version.number()),
            flags: U32::new(self.flags()),
            capacity: U64::new(self.capacity),
            grain_size: U64::new(self.grain_sectors),
            descriptor_offset: U64::new(stretch.start),
            descriptor_size: U64::new(stretch.count),
            gtes_per_gt: U32::new(self.table_entries),
            rgd_offset: U64::new(self.redundant_directory.unwrap_or(0)),
            gd_offset: U64::new(match self.directory {
                Directory::At(sector) => sector,
                Directory::InFooter => DIRECTORY_AT_END,
            }),
            overhead: U64::new(self.overhead),
            unclean_shutdown: self.unclean_shutdown.into(),
            newlines: if self.newline_test { NEWLINES } else { [0; 4] },
            compress_algorithm: U16::new(if self.compressed { DEFLATE } else { 0 }),
            pad: [0; 433],
        };
        raw.as_bytes().try_into().expect("512 bytes, as asserted")
    }

    /// Grains of the extent; the last one may be cut short by the capacity.
    pub fn grains(&self) -> u64 {
        self.capacity.div_ceil(self.grain_sectors)
    }

    /// Grain tables of the extent, which are also the entries of its directory.
    pub fn tables(&self) -> u64 {
        self.grains().div_ceil(self.table_entries.into())
    }

    /// Sectors of one grain table.
    pub fn table_sectors(&self) -> u64 {
        u64::from(self.table_entries) * 4 / SECTOR_BYTES
    }

    /// Sectors of the grain directory.
    pub fn directory_sectors(&self) -> u64 {
        (self.tables() * 4).div_ceil(SECTOR_BYTES)
    }

    /// Bytes of a grain.
    pub fn grain_bytes(&self) -> u64 {
        self.grain_sectors * SECTOR_BYTES
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    pub(crate) fn example() -> SparseHeader {
        SparseHeader {
            version: Version::One,
            newline_test: true,
            redundant: true,
            zeroed_grains: false,
            compressed: false,
            markers: false,
            other_flags: 0,
            capacity: 20_480,
            grain_sectors: 128,
            descriptor: Some(Stretch { start: 1, count: 20 }),
            table_entries: 512,
            redundant_directory: Some(21),
            directory: Directory::At(26),
            overhead: 128,
            unclean_shutdown: false,
        }
    }

    /// Changes bytes of a good header and tells what is said of it.
    fn complaint(at: usize, bytes: &[u8]) -> String {
        let mut header = example().encode();
        header[at..at + bytes.len()].copy_from_slice(bytes);
        SparseHeader::parse(&header, 1024).expect_err("malformed").to_string()
    }

    #[test]
    fn every_rule_has_its_message() {
        for (at, bytes, message) in [
            (0, &b"VMDK"[..], "magicNumber is [56, 4d, 44, 4b]; expected \"KDMV\""),
            (4, &[4], "version is 4; expected 1, 2 or 3"),
            (8, &[3, 0, 4], "flags is 0x40003; expected none of the upper 16"),
            (8, &[3, 0, 1], "flags is 0x10003; expected compressed grains and markers together"),
            (8, &[3, 0, 3], "compressAlgorithm is 0; expected 1 (deflate)"),
            (12, &[0; 8], "capacity is 0; expected 1 to 4294967296 sectors (2 TiB"),
            (12, &[1, 0, 0, 0, 1, 0, 0, 0], "capacity is 4294967297; expected 1 to 4294967296"),
            (20, &[3], "grainSize is 3; expected a power of two from 8 to 2048 sectors"),
            (20, &[0, 16], "grainSize is 4096; expected"),
            (28, &[0xff; 8], "descriptorOffset is 18446744073709551615; expected at most"),
            (36, &[0], "descriptorSize is 0; expected 1 to 2048 sectors"),
            (44, &[0, 0], "numGTEsPerGT is 0; expected a power of two from 128 to 4096"),
            (48, &[0xff; 8], "rgdOffset is 18446744073709551615; expected at most"),
            (56, &[0; 8], "gdOffset is 0; expected 1 to"),
            (56, &[0xff; 8], "gdOffset is 18446744073709551615; expected a sector; only streams"),
            (64, &[0xff; 8], "overHead is 18446744073709551615; expected at most"),
            (75, b"\n", "end of line characters is [0a, 20, 0a, 0a]; expected"),
            (77, &[1], "compressAlgorithm is 1; expected 0 without compression"),
        ] {
            let found = complaint(at, bytes);
            let expected = format!("VMDK sparse header at 1024: {message}");
            assert!(found.starts_with(&expected), "{found}\n{expected}");
        }
        let short = SparseHeader::parse(&[0; 511], 0).expect_err("short").to_string();
        assert_eq!(short, "VMDK sparse header at 0: length is 511; expected 512 bytes");
    }

    proptest! {
        #[test]
        fn what_was_encoded_is_parsed(
            version in prop::sample::select(vec![Version::One, Version::Two, Version::Three]),
            (newline_test, redundant, zeroed_grains) in any::<(bool, bool, bool)>(),
            (compressed, unclean_shutdown, in_footer) in any::<(bool, bool, bool)>(),
            other_flags in 0u32..0x1000,
            (capacity, grain, entries) in (1u64..=MAX_SPARSE_SECTORS, 3u32..12, 7u32..13),
            (descriptor, redundant_directory, overhead) in (0u64..999, 0u64..999, 0u64..999),
        ) {
            let header = SparseHeader {
                version,
                newline_test,
                redundant,
                zeroed_grains,
                compressed,
                markers: compressed,
                other_flags: other_flags << 3,
                capacity,
                grain_sectors: 1 << grain,
                descriptor: (descriptor > 0).then_some(Stretch { start: descriptor, count: 20 }),
                table_entries: 1 << entries,
                redundant_directory: (redundant_directory > 0).then_some(redundant_directory),
                directory: if in_footer && compressed {
                    Directory::InFooter
                } else {
                    Directory::At(overhead + 1)
                },
                overhead,
                unclean_shutdown,
            };
            prop_assume!(header.tables() <= MAX_TABLES);
            prop_assert_eq!(SparseHeader::parse(&header.encode(), 0), Ok(header));
        }

        #[test]
        fn anything_is_refused_or_within_bounds(mut bytes in prop::collection::vec(any::<u8>(), 512)) {
            bytes[..4].copy_from_slice(&MAGIC);
            bytes[4..8].copy_from_slice(&[1, 0, 0, 0]);
            if let Ok(header) = SparseHeader::parse(&bytes, 0) {
                prop_assert!(header.tables() <= MAX_TABLES);
            }
        }
    }
}
