//! The region table (section 2.2.3): where the BAT and the metadata lie. There are two copies; they
//! change through the log.

use crate::error::{At, Malformed, seal};
use crate::{Guid, MAX_FILE_BYTES, MIB};
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Bytes of a region table.
pub const REGION_TABLE_BYTES: usize = 64 << 10;

/// Where the first copy lies.
pub const REGION_TABLE_1_OFFSET: u64 = 192 << 10;

/// Where the second copy lies.
pub const REGION_TABLE_2_OFFSET: u64 = 256 << 10;

/// Most entries of a region table.
pub const MAX_REGIONS: u32 = 2047;

/// The region of the block allocation table.
pub const BAT_REGION: Guid = Guid::from_groups(
    0x2dc2_7766,
    0xf623,
    0x4200,
    [0x9d, 0x64, 0x11, 0x5e, 0x9b, 0xfd, 0x4a, 0x08],
);

/// The region of the metadata.
pub const METADATA_REGION: Guid = Guid::from_groups(
    0x8b7c_a206,
    0x4790,
    0x4b9a,
    [0xb8, 0xfe, 0x57, 0x5f, 0x05, 0x0f, 0x88, 0x6e],
);

const SIGNATURE: &[u8; 4] = b"regi";
const STRUCTURE: &str = "VHDX region table";

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct StoredTable {
    signature: [u8; 4],
    checksum: U32,
    entry_count: U32,
    reserved: U32,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct StoredRegion {
    guid: [u8; 16],
    file_offset: U64,
    length: U32,
    required: U32,
}

const _: () = assert!(size_of::<StoredTable>() == 16);
// 16 + 8 + 4 + 4
const _: () = assert!(size_of::<StoredRegion>() == 32);
const _: () = assert!(16 + 32 * 2047 <= REGION_TABLE_BYTES);

/// A stretch of the file that one structure has for itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Region {
    /// What lies in it.
    pub guid: Guid,
    /// Where it starts in the file, in bytes; a multiple of 1 MiB.
    pub offset: u64,
    /// Bytes; a multiple of 1 MiB.
    pub length: u32,
    /// Whoever does not know it must not open the file.
    pub required: bool,
}

impl Region {
    /// One past its last byte.
    pub fn end(&self) -> u64 {
        self.offset + u64::from(self.length)
    }
}

/// The regions of a file: the BAT, the metadata, and unknown ones that are not required.
///
/// ```
/// use vhdx_parse::{REGION_TABLE_1_OFFSET, RegionTable};
///
/// let table = RegionTable::new(3 << 20, 1 << 20, 2 << 20, 1 << 20);
/// let found = RegionTable::parse(&table.encode(), REGION_TABLE_1_OFFSET).unwrap();
/// assert_eq!(found.bat().offset, 3 << 20);
/// assert_eq!(found, table);
/// ```
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RegionTable {
    bat: Region,
    metadata: Region,
    others: Vec<Region>,
}

impl RegionTable {
    /// A table of the two known regions.
    pub fn new(
        bat_offset: u64,
        bat_length: u32,
        metadata_offset: u64,
        metadata_length: u32,
    ) -> Self {
        Self {
            bat: Region {
                guid: BAT_REGION,
                offset: bat_offset,
                length: bat_length,
                required: true,
            },
            metadata: Region {
                guid: METADATA_REGION,
                offset: metadata_offset,
                length: metadata_length,
                required: true,
            },
            others: Vec::new(),
        }
    }

    /// Where the block allocation table lies.
    pub fn bat(&self) -> Region {
        self.bat
    }

    /// Where the metadata lies.
    pub fn metadata(&self) -> Region {
        self.metadata
    }

    /// Regions that are unknown here and may be left alone.
    pub fn others(&self) -> &[Region] {
        &self.others
    }

    /// All regions.
    pub fn all(&self) -> impl Iterator<Item = Region> {
        [self.bat, self.metadata].into_iter().chain(self.others.iter().copied())
    }

    /// The same table with the BAT elsewhere.
    #[must_use]
    pub fn with_bat(&self, offset: u64, length: u32) -> Self {
        let bat = Region { offset, length, ..self.bat };
        Self { bat, ..self.clone() }
    }

    /// Uses the first copy if its seal is whole, else the second.
    pub fn choose(first: &[u8], second: &[u8]) -> Result<Self, Malformed> {
        match (sealed(first, REGION_TABLE_1_OFFSET), sealed(second, REGION_TABLE_2_OFFSET)) {
            (Ok(_), _) => Self::parse(first, REGION_TABLE_1_OFFSET),
            (Err(_), Ok(_)) => Self::parse(second, REGION_TABLE_2_OFFSET),
            (Err(problem), Err(_)) => Err(problem),
        }
    }

    /// Reads the table that was found at `offset`, and checks every rule; a required region that is
    /// unknown is refused.
    pub fn parse(bytes: &[u8], offset: u64) -> Result<Self, Malformed> {
        let table = sealed(bytes, offset)?;
        let at = At::new(STRUCTURE, offset);
        let count = table.entry_count.get();
        at.expect(count <= MAX_REGIONS, "EntryCount", count, "at most 2047")?;
        let mut regions = Vec::new();
        let entries = bytes[size_of::<StoredTable>()..].chunks_exact(size_of::<StoredRegion>());
        for (number, entry) in (0..count).zip(entries) {
            let place = offset + 16 + u64::from(number) * 32;
            regions.push(parse_entry(entry, place)?);
        }
        check_apart(&regions)?;
        let mut find = |guid: Guid, name| {
            let place = regions.iter().position(|region| region.guid == guid);
            place
                .map(|place| regions.remove(place))
                .ok_or_else(|| at.malformed("entries", "a table without it", name))
        };
        let bat = find(BAT_REGION, "a BAT region")?;
        let metadata = find(METADATA_REGION, "a metadata region")?;
        Ok(Self { bat, metadata, others: regions })
    }

    /// The bytes to store, in both copies, sealed by their checksum.
    ///
    /// # Panics
    ///
    /// If there are more regions than a table holds.
    pub fn encode(&self) -> Vec<u8> {
        let count = u32::try_from(self.all().count()).expect("few regions");
        assert!(count <= MAX_REGIONS, "{count} regions do not fit a table");
        let table = StoredTable {
            signature: *SIGNATURE,
            checksum: 0.into(),
            entry_count: count.into(),
            reserved: 0.into(),
        };
        let mut bytes = table.as_bytes().to_vec();
        for region in self.all() {
            let stored = StoredRegion {
                guid: *region.guid.stored(),
                file_offset: region.offset.into(),
                length: region.length.into(),
                required: u32::from(region.required).into(),
            };
            bytes.extend_from_slice(stored.as_bytes());
        }
        bytes.resize(REGION_TABLE_BYTES, 0);
        seal(&mut bytes);
        bytes
    }
}

fn sealed(bytes: &[u8], offset: u64) -> Result<StoredTable, Malformed> {
    let at = At::new(STRUCTURE, offset);
    at.signature(bytes, SIGNATURE)?;
    let bytes = at.take(bytes, REGION_TABLE_BYTES)?;
    at.checksum(&bytes[..REGION_TABLE_BYTES])?;
    let (table, _) = StoredTable::read_from_prefix(bytes).expect("a table is longer");
    Ok(table)
}

fn parse_entry(bytes: &[u8], place: u64) -> Result<Region, Malformed> {
    let at = At::new("VHDX region table entry", place);
    let stored = StoredRegion::read_from_bytes(bytes).expect("cut to its size");
    let guid = Guid::from_stored(stored.guid);
    let required = stored.required.get() & 1 != 0;
    let known = guid == BAT_REGION || guid == METADATA_REGION;
    at.expect(known || !required, "Guid", guid, "a known region, as it is required")?;
    let (offset, length) = (stored.file_offset.get(), stored.length.get());
    let aligned = offset >= MIB && offset.is_multiple_of(MIB);
    at.expect(aligned, "FileOffset", offset, "a multiple of 1 MiB, and not 0")?;
    let whole = u64::from(length).is_multiple_of(MIB) && (length > 0 || !known);
    at.expect(whole, "Length", length, "a multiple of 1 MiB, and not 0")?;
    at.expect(
        offset.checked_add(length.into()).is_some_and(|end| end <= MAX_FILE_BYTES),
        "FileOffset",
        offset,
        "a place within the largest file",
    )?;
    Ok(Region { guid, offset, length, required })
}

/// That no two regions are the same or have a byte in common.
fn check_apart(regions: &[Region]) -> Result<(), Malformed> {
    let mut sorted: Vec<&Region> = regions.iter().collect();
    sorted.sort_by_key(|region| region.guid);
    for pair in sorted.windows(2) {
        let at = At::new("VHDX region", pair[1].offset);
        at.expect(pair[0].guid != pair[1].guid, "Guid", pair[1].guid, "one region of that kind")?;
    }
    sorted.sort_by_key(|region| region.offset);
    for pair in sorted.windows(2) {
        let at = At::new("VHDX region", pair[1].offset);
        at.expect(
            pair[0].end() <= pair[1].offset,
            "FileOffset",
            pair[1].offset,
            format!("a place at or after {}, where region {} ends", pair[0].end(), pair[0].guid),
        )?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn with(regions: &[Region]) -> RegionTable {
        let mut table = RegionTable::new(3 * MIB, 1 << 20, 2 * MIB, 1 << 20);
        table.others = regions.to_vec();
        table
    }

    fn other(offset: u64, required: bool) -> Region {
        Region { guid: Guid::from_random([9; 16]), offset, length: 2 << 20, required }
    }

    fn refusal(bytes: &[u8]) -> Malformed {
        RegionTable::parse(bytes, REGION_TABLE_1_OFFSET).expect_err("it is wrong")
    }

    proptest! {
        #[test]
        fn round_trip(bat in 10u64..100_000, metadata in 1u32..9, optional: bool) {
            let mut table = RegionTable::new(bat * MIB, 5 << 20, MIB, metadata << 20);
            if optional {
                table.others.push(other((bat + 5) * MIB, false));
            }
            prop_assert_eq!(RegionTable::parse(&table.encode(), REGION_TABLE_2_OFFSET), Ok(table));
        }

        #[test]
        fn any_entries_behind_a_seal(count: u32, entries in proptest::collection::vec(any::<u8>(), 0..500)) {
            let mut bytes = vec![0; REGION_TABLE_BYTES];
            bytes[..4].copy_from_slice(SIGNATURE);
            bytes[8..12].copy_from_slice(&count.to_le_bytes());
            bytes[16..16 + entries.len()].copy_from_slice(&entries);
            seal(&mut bytes);
            let _ = RegionTable::parse(&bytes, REGION_TABLE_1_OFFSET);
        }
    }

    #[test]
    fn unknown_regions_are_kept_unless_they_are_required() {
        let table = with(&[other(8 * MIB, false)]);
        let found = RegionTable::parse(&table.encode(), REGION_TABLE_1_OFFSET).expect("optional");
        assert_eq!(found.others().len(), 1);
        let problem = refusal(&with(&[other(8 * MIB, true)]).encode());
        assert_eq!((problem.field, problem.offset), ("Guid", REGION_TABLE_1_OFFSET + 16 + 64));
    }

    #[test]
    fn regions_stand_apart() {
        let problem = refusal(&with(&[other(MIB, false)]).encode());
        assert_eq!((problem.field, problem.offset), ("FileOffset", 2 * MIB));
        let twice = with(&[other(8 * MIB, false), other(16 * MIB, false)]);
        assert_eq!(refusal(&twice.encode()).field, "Guid");
        assert_eq!(refusal(&with(&[other(MIB + 1, false)]).encode()).field, "FileOffset");
    }

    #[test]
    fn both_known_regions_must_be_there() {
        let mut bytes = with(&[]).encode();
        bytes[8] = 1;
        seal(&mut bytes);
        assert_eq!(refusal(&bytes).expected, "a metadata region");
    }

    #[test]
    fn the_second_copy_stands_in_for_a_broken_first() {
        let table = with(&[]);
        let bytes = table.encode();
        assert_eq!(RegionTable::choose(&[0; REGION_TABLE_BYTES], &bytes), Ok(table.clone()));
        assert_eq!(RegionTable::choose(&bytes, &[]), Ok(table));
        assert!(RegionTable::choose(&[], &[]).is_err());
    }
}
