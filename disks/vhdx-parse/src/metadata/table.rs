//! The metadata table (section 2.6.1): which items there are, and where.

use crate::error::{At, Malformed};
use crate::{Guid, Region};
use zerocopy::little_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Bytes of the table at the start of the region.
pub const METADATA_TABLE_BYTES: usize = 64 << 10;

/// Most items of a table.
pub const MAX_ITEMS: u16 = 2047;

/// Most items that are marked as made by a user.
const MAX_USER_ITEMS: usize = 1024;

/// Longest item, in bytes.
pub const MAX_ITEM_BYTES: u32 = 1 << 20;

const SIGNATURE: &[u8; 8] = b"metadata";

const IS_USER: u32 = 1;
const IS_VIRTUAL_DISK: u32 = 2;
const IS_REQUIRED: u32 = 4;

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct StoredTable {
    signature: [u8; 8],
    reserved: U16,
    entry_count: U16,
    reserved_2: [u8; 20],
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct StoredEntry {
    item_id: [u8; 16],
    offset: U32,
    length: U32,
    flags: U32,
    reserved: U32,
}

const _: () = assert!(size_of::<StoredTable>() == 32);
// 16 + 4 * 4
const _: () = assert!(size_of::<StoredEntry>() == 32);
const _: () = assert!(32 + 32 * 2047 == METADATA_TABLE_BYTES);

/// The items of section 2.6.2.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum KnownItem {
    /// Block size, and whether there is a parent (2.6.2.1).
    FileParameters,
    /// Size of the disk (2.6.2.2).
    VirtualDiskSize,
    /// Identity of the disk, the same in parent and child (2.6.2.3).
    VirtualDiskId,
    /// Unit a guest addresses (2.6.2.4).
    LogicalSectorSize,
    /// Unit that is written without reading around it (2.6.2.5).
    PhysicalSectorSize,
    /// Which file the parent is (2.6.2.6).
    ParentLocator,
}

impl KnownItem {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::FileParameters,
        Self::VirtualDiskSize,
        Self::VirtualDiskId,
        Self::LogicalSectorSize,
        Self::PhysicalSectorSize,
        Self::ParentLocator,
    ];

    /// The id in the table.
    pub const fn id(self) -> Guid {
        match self {
            Self::FileParameters => Guid::from_groups(
                0xcaa1_6737,
                0xfa36,
                0x4d43,
                [0xb3, 0xb6, 0x33, 0xf0, 0xaa, 0x44, 0xe7, 0x6b],
            ),
            Self::VirtualDiskSize => Guid::from_groups(
                0x2fa5_4224,
                0xcd1b,
                0x4876,
                [0xb2, 0x11, 0x5d, 0xbe, 0xd8, 0x3b, 0xf4, 0xb8],
            ),
            Self::VirtualDiskId => Guid::from_groups(
                0xbeca_12ab,
                0xb2e6,
                0x4523,
                [0x93, 0xef, 0xc3, 0x09, 0xe0, 0x00, 0xc7, 0x46],
            ),
            Self::LogicalSectorSize => Guid::from_groups(
                0x8141_bf1d,
                0xa96f,
                0x4709,
                [0xba, 0x47, 0xf2, 0x33, 0xa8, 0xfa, 0xab, 0x5f],
            ),
            Self::PhysicalSectorSize => Guid::from_groups(
                0xcda3_48c7,
                0x445d,
                0x4471,
                [0x9c, 0xc9, 0xe9, 0x88, 0x52, 0x51, 0xc5, 0x56],
            ),
            Self::ParentLocator => Guid::from_groups(
                0xa8d3_5f2d,
                0xb30b,
                0x454d,
                [0xab, 0xf7, 0xd3, 0xd8, 0x48, 0x34, 0xab, 0x0c],
            ),
        }
    }

    /// The item with that id.
    pub fn of(id: Guid) -> Option<Self> {
        Self::ALL.into_iter().find(|item| item.id() == id)
    }

    /// Its name, for messages.
    pub const fn structure(self) -> &'static str {
        match self {
            Self::FileParameters => "VHDX file parameters",
            Self::VirtualDiskSize => "VHDX virtual disk size",
            Self::VirtualDiskId => "VHDX virtual disk id",
            Self::LogicalSectorSize => "VHDX logical sector size",
            Self::PhysicalSectorSize => "VHDX physical sector size",
            Self::ParentLocator => "VHDX parent locator",
        }
    }

    /// Whether it speaks of the disk, and not of this file.
    const fn is_virtual_disk(self) -> bool {
        !matches!(self, Self::FileParameters | Self::ParentLocator)
    }
}

/// One entry of the table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ItemEntry {
    /// Which item.
    pub id: Guid,
    /// Bytes from the start of the metadata region; 0 when the item is empty.
    pub offset: u32,
    /// Bytes of the item.
    pub length: u32,
    /// Made by a user, not by the system.
    pub is_user: bool,
    /// Speaks of the disk, and not of this file.
    pub is_virtual_disk: bool,
    /// Whoever does not know it must not open the file.
    pub is_required: bool,
}

impl ItemEntry {
    /// The entry of a known item.
    pub const fn known(item: KnownItem, offset: u32, length: u32) -> Self {
        Self {
            id: item.id(),
            offset,
            length,
            is_user: false,
            is_virtual_disk: item.is_virtual_disk(),
            is_required: true,
        }
    }

    /// Which known item it is, if it is one. Items of users never are.
    pub fn item(&self) -> Option<KnownItem> {
        if self.is_user { None } else { KnownItem::of(self.id) }
    }

    fn end(&self) -> u32 {
        self.offset + self.length
    }
}

/// All entries of a metadata table, checked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MetadataTable {
    region: Region,
    entries: Vec<ItemEntry>,
}

impl MetadataTable {
    /// Reads the table at the start of `region`, and checks every rule; a required item that is
    /// unknown is refused.
    pub fn parse(bytes: &[u8], region: Region) -> Result<Self, Malformed> {
        let at = At::new("VHDX metadata table", region.offset);
        at.signature(bytes, SIGNATURE)?;
        let bytes = at.take(bytes, METADATA_TABLE_BYTES)?;
        let (table, entries) = StoredTable::read_from_prefix(bytes).expect("a table is longer");
        let count = table.entry_count.get();
        at.expect(count <= MAX_ITEMS, "EntryCount", count, "at most 2047")?;
        let mut found = Vec::new();
        let entries = entries.chunks_exact(size_of::<StoredEntry>());
        for (number, entry) in (0..count).zip(entries) {
            let place = region.offset + 32 + u64::from(number) * 32;
            found.push(parse_entry(entry, place, region)?);
        }
        let users = found.iter().filter(|entry| entry.is_user).count();
        at.expect(users <= MAX_USER_ITEMS, "EntryCount", users, "at most 1024 items of users")?;
        check_apart(&found, region)?;
        Ok(Self { region, entries: found })
    }

    /// All entries, in the order of the table.
    pub fn entries(&self) -> &[ItemEntry] {
        &self.entries
    }

    /// Where a known item lies in the file: offset and bytes.
    pub fn find(&self, item: KnownItem) -> Option<(u64, u32)> {
        let entry = self.entries.iter().find(|entry| entry.item() == Some(item))?;
        Some((self.region.offset + u64::from(entry.offset), entry.length))
    }

    /// The region the table was found in.
    pub fn region(&self) -> Region {
        self.region
    }

    /// The bytes of a table.
    ///
    /// # Panics
    ///
    /// If there are more entries than a table holds.
    pub fn encode(entries: &[ItemEntry]) -> Vec<u8> {
        let count = u16::try_from(entries.len()).expect("few items");
        assert!(count <= MAX_ITEMS, "{count} items do not fit a table");
        let table = StoredTable {
            signature: *SIGNATURE,
            reserved: 0.into(),
            entry_count: count.into(),
            reserved_2: [0; 20],
        };
        let mut bytes = table.as_bytes().to_vec();
        for entry in entries {
            let flag = |set: bool, bit: u32| if set { bit } else { 0 };
            let flags = flag(entry.is_user, IS_USER)
                | flag(entry.is_virtual_disk, IS_VIRTUAL_DISK)
                | flag(entry.is_required, IS_REQUIRED);
            let stored = StoredEntry {
                item_id: *entry.id.stored(),
                offset: entry.offset.into(),
                length: entry.length.into(),
                flags: flags.into(),
                reserved: 0.into(),
            };
            bytes.extend_from_slice(stored.as_bytes());
        }
        bytes.resize(METADATA_TABLE_BYTES, 0);
        bytes
    }
}

fn parse_entry(bytes: &[u8], place: u64, region: Region) -> Result<ItemEntry, Malformed> {
    let at = At::new("VHDX metadata table entry", place);
    let stored = StoredEntry::read_from_bytes(bytes).expect("cut to its size");
    let flags = stored.flags.get();
    let entry = ItemEntry {
        id: Guid::from_stored(stored.item_id),
        offset: stored.offset.get(),
        length: stored.length.get(),
        is_user: flags & IS_USER != 0,
        is_virtual_disk: flags & IS_VIRTUAL_DISK != 0,
        is_required: flags & IS_REQUIRED != 0,
    };
    at.expect(!entry.id.is_zero(), "ItemId", entry.id, "the id of an item")?;
    let known = entry.item().is_some() || !entry.is_required;
    at.expect(known, "ItemId", entry.id, "a known item, as it is required")?;
    at.expect(entry.length <= MAX_ITEM_BYTES, "Length", entry.length, "at most 1 MiB")?;
    if entry.length == 0 {
        at.expect(entry.offset == 0, "Offset", entry.offset, "0, as the item is empty")?;
        return Ok(entry);
    }
    let inside = usize::try_from(entry.offset).is_ok_and(|offset| offset >= METADATA_TABLE_BYTES)
        && entry.offset.checked_add(entry.length).is_some_and(|end| end <= region.length);
    at.expect(
        inside,
        "Offset",
        entry.offset,
        format!(
            "{} bytes between 65536 and the end of the region, {}",
            entry.length, region.length
        ),
    )?;
    Ok(entry)
}

/// That no two items are the same or have a byte in common.
fn check_apart(entries: &[ItemEntry], region: Region) -> Result<(), Malformed> {
    let at = At::new("VHDX metadata table", region.offset);
    let mut sorted: Vec<&ItemEntry> = entries.iter().collect();
    sorted.sort_by_key(|entry| (entry.id, entry.is_user));
    for pair in sorted.windows(2) {
        let same = (pair[0].id, pair[0].is_user) == (pair[1].id, pair[1].is_user);
        at.expect(!same, "ItemId", pair[1].id, "one item of that kind")?;
    }
    sorted.retain(|entry| entry.length > 0);
    sorted.sort_by_key(|entry| entry.offset);
    for pair in sorted.windows(2) {
        at.expect(
            pair[0].end() <= pair[1].offset,
            "Offset",
            pair[1].offset,
            format!("a place at or after {}, where item {} ends", pair[0].end(), pair[0].id),
        )?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{METADATA_REGION, MIB};
    use proptest::prelude::*;

    const REGION: Region =
        Region { guid: METADATA_REGION, offset: 2 * MIB, length: 1 << 20, required: true };

    fn entry(number: u8, offset: u32, length: u32) -> ItemEntry {
        ItemEntry {
            id: Guid::from_random([number; 16]),
            offset,
            length,
            is_user: false,
            is_virtual_disk: false,
            is_required: false,
        }
    }

    fn refusal(entries: &[ItemEntry]) -> Malformed {
        MetadataTable::parse(&MetadataTable::encode(entries), REGION).expect_err("it is wrong")
    }

    proptest! {
        #[test]
        fn round_trip(lengths in proptest::collection::vec((1u32..2000, any::<bool>(), any::<bool>()), 0..20)) {
            let mut offset = 65_536;
            let mut entries = Vec::new();
            for (number, (length, is_user, is_virtual_disk)) in (0..).zip(lengths) {
                entries.push(ItemEntry { is_user, is_virtual_disk, ..entry(number, offset, length) });
                offset += length;
            }
            let found = MetadataTable::parse(&MetadataTable::encode(&entries), REGION).expect("valid");
            prop_assert_eq!(found.entries(), entries);
        }

        #[test]
        fn any_bytes(count: u16, bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let mut table = MetadataTable::encode(&[]);
            table[10..12].copy_from_slice(&count.to_le_bytes());
            table[32..32 + bytes.len()].copy_from_slice(&bytes);
            let _ = MetadataTable::parse(&table, REGION);
        }
    }

    #[test]
    fn required_items_must_be_known() {
        let unknown = ItemEntry { is_required: true, ..entry(1, 65_536, 8) };
        let problem = refusal(&[unknown]);
        assert_eq!((problem.field, problem.offset), ("ItemId", 2 * MIB + 32));
        let mine =
            ItemEntry { is_user: true, ..ItemEntry::known(KnownItem::VirtualDiskSize, 65_536, 8) };
        assert_eq!(refusal(&[mine]).field, "ItemId", "an item of a user is none of the known ones");
    }

    #[test]
    fn items_stand_apart_and_inside_the_region() {
        for (items, field) in [
            (vec![entry(1, 65_536, 8), entry(2, 65_540, 8)], "Offset"),
            (vec![entry(1, 65_536, 8), entry(1, 65_544, 8)], "ItemId"),
            (vec![entry(1, 65_535, 8)], "Offset"),
            (vec![entry(1, (1 << 20) - 7, 8)], "Offset"),
            (vec![entry(1, u32::MAX, 8)], "Offset"),
            (vec![entry(1, 65_536, MAX_ITEM_BYTES + 1)], "Length"),
            (vec![entry(1, 65_536, 0)], "Offset"),
        ] {
            assert_eq!(refusal(&items).field, field, "{items:?}");
        }
    }

    #[test]
    fn ids_are_those_of_the_specification() {
        let texts = KnownItem::ALL.map(|item| item.id().to_string());
        assert_eq!(texts[0], "caa16737-fa36-4d43-b3b6-33f0aa44e76b");
        assert_eq!(texts[1], "2fa54224-cd1b-4876-b211-5dbed83bf4b8");
        assert_eq!(texts[2], "beca12ab-b2e6-4523-93ef-c309e000c746");
        assert_eq!(texts[3], "8141bf1d-a96f-4709-ba47-f233a8faab5f");
        assert_eq!(texts[4], "cda348c7-445d-4471-9cc9-e9885251c556");
        assert_eq!(texts[5], "a8d35f2d-b30b-454d-abf7-d3d84834ab0c");
    }
}
