//! Grain directories and grain tables of hosted sparse extents, and where they lie.
//!
//! ```text
//!   made here   [header][descriptor, 20 sectors][redundant: directory, tables][primary: directory, tables] pad [grain][grain]
//!   directory   a 32-bit sector number per grain table
//!   table       a 32-bit sector number per grain; 0: not here; 1: zeroes, if the header says so
//! ```
//!
//! "Virtual Disk Format 5.0", section "Hosted Sparse Extents". All tables of a new extent exist from the start, as VMware and qemu
//! have it; they are holes until something is written.

use super::header::{Directory, SparseHeader, Stretch, Version};
use super::{MAX_SPARSE_SECTORS, SECTOR_BYTES, entry_u32, malformed};
use crate::image::Malformed;

/// Sectors of an embedded descriptor.
pub const DESCRIPTOR_SECTORS: u64 = 20;
/// Sectors of a grain of the extents that are made here; everybody's.
pub const GRAIN_SECTORS: u64 = 128;
/// Entries of a grain table; everybody's.
pub const TABLE_ENTRIES: u32 = 512;

/// Where the content of a grain is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Grain {
    /// Not in this extent.
    Absent,
    /// Nowhere: it is zero.
    Zero,
    /// From this sector.
    At(u32),
}

impl Grain {
    /// The entry that says so.
    pub fn entry(self) -> u32 {
        match self {
            Self::Absent => 0,
            Self::Zero => 1,
            Self::At(sector) => sector,
        }
    }
}

/// The header of a new extent of `capacity` sectors, with places for all its metadata.
///
/// Entries have 32 bits, so neither the capacity nor the file can be larger than 2 TiB; `capacity` must not be.
pub fn new_header(capacity: u64, zeroed_grains: bool) -> SparseHeader {
    assert!((1..=MAX_SPARSE_SECTORS).contains(&capacity), "{capacity} sectors in a sparse extent");
    let mut header = SparseHeader {
        version: if zeroed_grains { Version::Two } else { Version::One },
        newline_test: true,
        redundant: true,
        zeroed_grains,
        compressed: false,
        markers: false,
        other_flags: 0,
        capacity,
        grain_sectors: GRAIN_SECTORS,
        descriptor: Some(Stretch { start: 1, count: DESCRIPTOR_SECTORS }),
        table_entries: TABLE_ENTRIES,
        redundant_directory: None,
        directory: Directory::InFooter,
        overhead: 0,
        unclean_shutdown: false,
    };
    let metadata = header.directory_sectors() + header.tables() * header.table_sectors();
    let redundant = 1 + DESCRIPTOR_SECTORS;
    header.redundant_directory = Some(redundant);
    header.directory = Directory::At(redundant + metadata);
    header.overhead = (redundant + 2 * metadata).next_multiple_of(GRAIN_SECTORS);
    header
}

/// The bytes of a directory.
pub fn encode_directory(tables: &[u32], sectors: u64) -> Vec<u8> {
    let mut bytes: Vec<u8> = tables.iter().flat_map(|sector| sector.to_le_bytes()).collect();
    let whole = usize::try_from(sectors * SECTOR_BYTES).expect("a directory fits memory");
    bytes.resize(whole.max(bytes.len()), 0);
    bytes
}

/// Tables one behind the other, the first at `start`. `start` is that of the directory plus its sectors, as a rule.
pub fn consecutive_tables(header: &SparseHeader, start: u64) -> Vec<u32> {
    (0..header.tables())
        .map(|number| start + number * header.table_sectors())
        .map(|sector| {
            u32::try_from(sector).expect("metadata of 2 TiB are at the start of the file")
        })
        .collect()
}

/// Reads the directory that starts at sector `start`: the sector of each grain table, or 0 where there is none.
///
/// `bytes` has at least one entry for each table of `header`.
pub fn parse_directory(
    header: &SparseHeader,
    bytes: &[u8],
    start: u64,
    file_sectors: u64,
) -> Result<Vec<u32>, Malformed> {
    let count = usize::try_from(header.tables()).expect("limited by the header");
    let end = file_sectors.saturating_sub(header.table_sectors());
    (0..count)
        .map(|index| {
            let sector = entry_u32(bytes, index);
            // 1 marks a table of zeroed grains in extents that have them, in some descriptions of the format; nobody makes it.
            if sector == 0 || (sector > 1 && u64::from(sector) <= end) {
                return Ok(sector);
            }
            let offset = start * SECTOR_BYTES + index as u64 * 4;
            let expected = format!("0, or a sector from 2 to {end}");
            Err(malformed("VMDK grain directory", offset, "entry", sector, expected))
        })
        .collect()
}

/// That no two entries of a directory lead to the same sectors: one table in several places would make a small file a large disk,
/// and a write to one grain a write to many.
pub fn check_apart(header: &SparseHeader, tables: &[u32], start: u64) -> Result<(), Malformed> {
    let mut sorted: Vec<(u32, usize)> =
        tables.iter().copied().zip(0..).filter(|(sector, _)| *sector > 1).collect();
    sorted.sort_unstable();
    for pair in sorted.windows(2) {
        let ((one, _), (other, index)) = (pair[0], pair[1]);
        if u64::from(other - one) < header.table_sectors() {
            let offset = start * SECTOR_BYTES + index as u64 * 4;
            let expected = format!("a table apart from the one at sector {one}");
            return Err(malformed("VMDK grain directory", offset, "entry", other, expected));
        }
    }
    Ok(())
}

/// The parts of an extent that are not grains.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Metadata {
    /// Sorted, and no two touch.
    stretches: Vec<Stretch>,
    /// Whether some of the parts share sectors.
    overlap: bool,
}

impl Metadata {
    /// Header, descriptor, directories and tables of an extent. Tables are given as sectors, 0 for none.
    pub fn of<'a>(
        header: &SparseHeader,
        directory: u64,
        tables: impl Iterator<Item = &'a u32>,
    ) -> Self {
        let directories = [Some(directory), header.redundant_directory];
        let mut stretches = vec![Stretch { start: 0, count: 1 }];
        stretches.extend(header.descriptor);
        let count = header.directory_sectors();
        stretches.extend(directories.into_iter().flatten().map(|start| Stretch { start, count }));
        let count = header.table_sectors();
        let tables = tables.filter(|sector| **sector > 1);
        stretches.extend(tables.map(|sector| Stretch { start: (*sector).into(), count }));
        stretches.sort_unstable_by_key(|stretch| stretch.start);
        let mut merged: Vec<Stretch> = Vec::new();
        let mut overlap = false;
        for stretch in stretches {
            match merged.last_mut() {
                Some(last) if stretch.start <= last.start + last.count => {
                    overlap |= stretch.start < last.start + last.count;
                    let end = (last.start + last.count).max(stretch.start + stretch.count);
                    last.count = end - last.start;
                }
                _ => merged.push(stretch),
            }
        }
        Self { stretches: merged, overlap }
    }

    /// Whether header, descriptor, directories and tables have no sector in common.
    pub fn is_apart(&self) -> bool {
        !self.overlap
    }

    /// Whether some of the `count` sectors from `start` on are metadata.
    pub fn overlaps(&self, start: u64, count: u64) -> bool {
        let after = self.stretches.partition_point(|stretch| stretch.start < start + count);
        after.checked_sub(1).is_some_and(|before| {
            let stretch = self.stretches[before];
            stretch.start + stretch.count > start
        })
    }

    /// The stretches, in order.
    pub fn stretches(&self) -> &[Stretch] {
        &self.stretches
    }
}

/// What is needed to tell good entries of grain tables from bad ones.
#[derive(Clone, Copy, Debug)]
pub struct Bounds<'a> {
    /// The header of the extent.
    pub header: &'a SparseHeader,
    /// Where no grain can be.
    pub metadata: &'a Metadata,
    /// Whole sectors of the file.
    pub file_sectors: u64,
}

impl Bounds<'_> {
    /// Grains in table `table`: fewer than it has entries if the disk ends within it.
    pub fn grains_of(&self, table: u64) -> usize {
        let entries = u64::from(self.header.table_entries);
        let left = self.header.grains().saturating_sub(table * entries);
        usize::try_from(left.min(entries)).expect("a table fits memory")
    }

    /// Reads table `table`, which starts at `sector`: a grain for each that the disk has.
    pub fn parse_table(
        &self,
        table: u64,
        sector: u32,
        bytes: &[u8],
    ) -> Result<Vec<Grain>, Malformed> {
        (0..self.grains_of(table))
            .map(|index| {
                let number = table * u64::from(self.header.table_entries) + index as u64;
                let offset = u64::from(sector) * SECTOR_BYTES + index as u64 * 4;
                self.parse_entry(number, entry_u32(bytes, index), offset)
            })
            .collect()
    }

    /// Reads the entry of grain `number`, which stands `offset` bytes into the file.
    fn parse_entry(&self, number: u64, entry: u32, offset: u64) -> Result<Grain, Malformed> {
        let fail =
            |expected: String| Err(malformed("VMDK grain table", offset, "entry", entry, expected));
        match entry {
            0 => return Ok(Grain::Absent),
            1 if self.header.zeroed_grains => return Ok(Grain::Zero),
            _ => {}
        }
        let start = u64::from(entry);
        // What a packed grain takes is known when its marker is read.
        let there = if self.header.compressed {
            1
        } else {
            let before = number * self.header.grain_sectors;
            (self.header.capacity - before).min(self.header.grain_sectors)
        };
        if start + there > self.file_sectors {
            return fail(format!("a grain within the {} sectors of the file", self.file_sectors));
        }
        if self.metadata.overlaps(start, there) {
            return fail(
                "a grain apart from header, descriptor, directories and tables".to_owned(),
            );
        }
        Ok(Grain::At(entry))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_new_extent_is_laid_out_as_qemu_does() {
        // 10 MiB: 160 grains, one table; directory one sector, table four, twice.
        let header = new_header(20_480, false);
        assert_eq!((header.redundant_directory, header.directory), (Some(21), Directory::At(26)));
        assert_eq!((header.overhead, header.grains(), header.tables()), (128, 160, 1));
        let header = new_header(MAX_SPARSE_SECTORS, true);
        assert_eq!((header.tables(), header.directory_sectors()), (65_536, 512));
        assert_eq!(header.version, Version::Two);
    }

    #[test]
    fn entries_out_of_bounds_have_their_message() {
        let header = new_header(20_480, true);
        let metadata = Metadata::of(&header, 26, [22, 27].iter());
        assert_eq!(metadata.stretches(), [Stretch { start: 0, count: 31 }]);
        assert!(metadata.is_apart());
        for tables in [[22, 23], [0, 25], [2, 27]] {
            assert!(!Metadata::of(&header, 26, tables.iter()).is_apart(), "{tables:?}");
        }
        let bounds = Bounds { header: &header, metadata: &metadata, file_sectors: 1000 };
        for (entry, found) in
            [(0, Grain::Absent), (1, Grain::Zero), (31, Grain::At(31)), (872, Grain::At(872))]
        {
            assert_eq!(bounds.parse_entry(0, entry, 0), Ok(found));
        }
        for (entry, message) in [
            (30, "entry is 30; expected a grain apart from header"),
            (873, "entry is 873; expected a grain within the 1000 sectors of the file"),
            (u32::MAX, "entry is 4294967295; expected a grain within"),
        ] {
            let found = bounds.parse_entry(0, entry, 11_264).expect_err(message).to_string();
            let expected = format!("VMDK grain table at 11264: {message}");
            assert!(found.starts_with(&expected), "{found}\n{expected}");
        }
        let header = new_header(20_480, false);
        let bounds = Bounds { header: &header, ..bounds };
        bounds.parse_entry(0, 1, 0).expect_err("the header does not have zeroed grains");
        // The last grain may be cut short.
        let header = new_header(20_481, false);
        let bounds = Bounds { header: &header, ..bounds };
        assert_eq!(bounds.parse_entry(160, 999, 0), Ok(Grain::At(999)));
        bounds.parse_entry(159, 999, 0).expect_err("the one before is whole");
    }

    #[test]
    fn tables_are_apart() {
        let header = new_header(65_536 * 3, false);
        assert_eq!(check_apart(&header, &[40, 0, 44], 21), Ok(()));
        assert_eq!(check_apart(&header, &[1, 0, 1], 21), Ok(()), "two tables of zeroes");
        let found = check_apart(&header, &[43, 0, 40], 21).expect_err("they overlap").to_string();
        assert_eq!(
            found,
            "VMDK grain directory at 10752: entry is 43; expected a table apart from the one at sector 40"
        );
    }

    #[test]
    fn directories_lead_into_the_file() {
        let header = new_header(65_536 * 3, false);
        let bytes = encode_directory(&[40, 0, 96], 1);
        assert_eq!(parse_directory(&header, &bytes, 21, 100), Ok(vec![40, 0, 96]));
        let found = parse_directory(&header, &bytes, 21, 99).expect_err("past the end").to_string();
        assert_eq!(
            found,
            "VMDK grain directory at 10760: entry is 96; expected 0, or a sector from 2 to 95"
        );
    }

    proptest! {
        #[test]
        fn layouts_do_not_overlap(capacity in 1u64..=MAX_SPARSE_SECTORS) {
            let header = new_header(capacity, false);
            let (Some(redundant), Directory::At(primary)) = (header.redundant_directory, header.directory) else {
                panic!("both are there")
            };
            let sectors = header.directory_sectors() + header.tables() * header.table_sectors();
            prop_assert!(redundant == 21 && redundant + sectors <= primary);
            prop_assert!(primary + sectors <= header.overhead);
            prop_assert!(header.overhead.is_multiple_of(128));
            prop_assert_eq!(SparseHeader::parse(&header.encode(), 0), Ok(header));
        }

        #[test]
        fn overlaps_are_found(
            tables in prop::collection::vec(0u32..200, 0..10),
            start in 0u64..250,
            count in 1u64..20,
        ) {
            let header = new_header(20_480, false);
            let metadata = Metadata::of(&header, 26, tables.iter());
            let is_metadata = |sector: u64| {
                sector <= 21
                    || sector == 26
                    || tables.iter().any(|table| {
                        let table = u64::from(*table);
                        table != 0 && (table..table + 4).contains(&sector)
                    })
            };
            prop_assert_eq!(metadata.overlaps(start, count), (start..start + count).any(is_metadata));
        }
    }
}
