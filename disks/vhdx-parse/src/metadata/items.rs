//! The known items (section 2.6.2), read and written together: what the disk is.

use super::locator::ParentLocator;
use super::table::{ItemEntry, KnownItem, METADATA_TABLE_BYTES, MetadataTable};
use crate::bat::{MAX_BLOCK_BYTES, MIN_BLOCK_BYTES};
use crate::error::{At, Malformed};
use crate::{Guid, MAX_DISK_BYTES};

/// What the disk is: the meaning of all known items.
///
/// ```
/// use vhdx_parse::{Guid, Metadata, MetadataTable, KnownItem, RegionTable};
///
/// let metadata = Metadata {
///     block_bytes: 32 << 20,
///     leave_blocks_allocated: false,
///     disk_bytes: 40 << 30,
///     disk_id: Guid::from_random([3; 16]),
///     logical_sector: 512,
///     physical_sector: 4096,
///     parent: None,
/// };
/// let bytes = metadata.encode();
/// let region = RegionTable::new(3 << 20, 1 << 20, 2 << 20, 1 << 20).metadata();
/// let table = MetadataTable::parse(&bytes, region).unwrap();
/// let found = Metadata::parse(&table, |item| {
///     let (offset, length) = table.find(item)?;
///     let start = (offset - region.offset) as usize;
///     Some(bytes[start..start + length as usize].to_vec())
/// });
/// assert_eq!(found.unwrap(), metadata);
/// ```
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Metadata {
    /// Bytes of a payload block: a power of two from 1 MiB to 256 MiB.
    pub block_bytes: u32,
    /// A fixed disk: blocks are not given back.
    pub leave_blocks_allocated: bool,
    /// Size of the disk in bytes: whole logical sectors, at most 64 TiB.
    pub disk_bytes: u64,
    /// Identity of the disk, the same in parent and child.
    pub disk_id: Guid,
    /// 512 or 4096.
    pub logical_sector: u32,
    /// 512 or 4096.
    pub physical_sector: u32,
    /// For a differencing disk: which file holds what this one does not.
    pub parent: Option<ParentLocator>,
}

impl Metadata {
    /// Makes the meaning of items; `content` gives the bytes of each item that
    /// [`MetadataTable::find`] finds.
    pub fn parse(
        table: &MetadataTable,
        mut content: impl FnMut(KnownItem) -> Option<Vec<u8>>,
    ) -> Result<Self, Malformed> {
        let mut item = |item: KnownItem| {
            let missing = At::new("VHDX metadata table", table.region().offset);
            let found = table.find(item).zip(content(item));
            found
                .map(|((offset, _), bytes)| (At::new(item.structure(), offset), bytes))
                .ok_or_else(|| missing.malformed("entries", "a table without it", item.structure()))
        };
        let (at, bytes) = item(KnownItem::FileParameters)?;
        let [block_bytes, flags] = [0, 4].map(|place| u32_at(at, &bytes, place));
        let (block_bytes, flags) = (block_bytes?, flags?);
        let possible = block_bytes.is_power_of_two()
            && (MIN_BLOCK_BYTES..=MAX_BLOCK_BYTES).contains(&block_bytes);
        at.expect(possible, "BlockSize", block_bytes, "a power of two from 1 MiB to 256 MiB")?;
        let logical_sector = sector(item(KnownItem::LogicalSectorSize)?, "LogicalSectorSize")?;
        let physical_sector = sector(item(KnownItem::PhysicalSectorSize)?, "PhysicalSectorSize")?;
        let disk_bytes = disk_size(item(KnownItem::VirtualDiskSize)?, logical_sector)?;
        let (at, bytes) = item(KnownItem::VirtualDiskId)?;
        let disk_id = at.take(&bytes, 16)?.try_into().expect("sixteen bytes");
        let parent = if flags & HAS_PARENT != 0 {
            let (at, bytes) = item(KnownItem::ParentLocator)?;
            Some(ParentLocator::parse(&bytes, at.offset)?)
        } else {
            None
        };
        Ok(Self {
            block_bytes,
            leave_blocks_allocated: flags & LEAVE_BLOCKS_ALLOCATED != 0,
            disk_bytes,
            disk_id: Guid::from_stored(disk_id),
            logical_sector,
            physical_sector,
            parent,
        })
    }

    /// The bytes of the region: the table, and the items behind it.
    ///
    /// # Panics
    ///
    /// If the parent locator is longer than an item may be.
    pub fn encode(&self) -> Vec<u8> {
        let flag = |set: bool, bit: u32| if set { bit } else { 0 };
        let flags = flag(self.leave_blocks_allocated, LEAVE_BLOCKS_ALLOCATED)
            | flag(self.parent.is_some(), HAS_PARENT);
        let parameters = [self.block_bytes.to_le_bytes(), flags.to_le_bytes()].concat();
        let mut items = vec![
            (KnownItem::FileParameters, parameters),
            (KnownItem::VirtualDiskSize, encode_disk_size(self.disk_bytes).to_vec()),
            (KnownItem::VirtualDiskId, self.disk_id.stored().to_vec()),
            (KnownItem::LogicalSectorSize, self.logical_sector.to_le_bytes().to_vec()),
            (KnownItem::PhysicalSectorSize, self.physical_sector.to_le_bytes().to_vec()),
        ];
        if let Some(parent) = &self.parent {
            items.push((KnownItem::ParentLocator, parent.encode()));
        }
        let mut entries = Vec::new();
        let mut contents = Vec::new();
        for (item, content) in items {
            let offset = u32::try_from(METADATA_TABLE_BYTES + contents.len()).expect("few items");
            let length = u32::try_from(content.len()).expect("a short item");
            assert!(length <= super::MAX_ITEM_BYTES, "{} of {length} bytes", item.structure());
            entries.push(ItemEntry::known(item, offset, length));
            contents.extend_from_slice(&content);
        }
        [MetadataTable::encode(&entries), contents].concat()
    }
}

const LEAVE_BLOCKS_ALLOCATED: u32 = 1;
const HAS_PARENT: u32 = 2;

/// The content of the item [`KnownItem::VirtualDiskSize`]: all that a change of the size of a disk
/// changes in the metadata.
pub fn encode_disk_size(disk_bytes: u64) -> [u8; 8] {
    disk_bytes.to_le_bytes()
}

fn u32_at(at: At, bytes: &[u8], place: usize) -> Result<u32, Malformed> {
    let bytes = &at.take(bytes, place + 4)?[place..];
    Ok(u32::from_le_bytes(bytes.try_into().expect("four bytes")))
}

fn sector((at, bytes): (At, Vec<u8>), field: &'static str) -> Result<u32, Malformed> {
    let size = u32_at(at, &bytes, 0)?;
    at.expect([512, 4096].contains(&size), field, size, "512 or 4096")?;
    Ok(size)
}

fn disk_size((at, bytes): (At, Vec<u8>), logical_sector: u32) -> Result<u64, Malformed> {
    let size = u64::from_le_bytes(at.take(&bytes, 8)?.try_into().expect("eight bytes"));
    at.expect(
        size > 0 && size.is_multiple_of(logical_sector.into()) && size <= MAX_DISK_BYTES,
        "VirtualDiskSize",
        size,
        format!("a multiple of {logical_sector}, at least that, at most 64 TiB"),
    )?;
    Ok(size)
}

#[cfg(test)]
mod tests {
    use super::super::locator::tests::locators;
    use super::*;
    use crate::{METADATA_REGION, MIB, Region};
    use proptest::prelude::*;

    const REGION: Region =
        Region { guid: METADATA_REGION, offset: 2 * MIB, length: 2 << 20, required: true };

    fn read(bytes: &[u8]) -> Result<Metadata, Malformed> {
        let table = MetadataTable::parse(bytes, REGION)?;
        Metadata::parse(&table, |item| {
            let (offset, length) = table.find(item)?;
            let start = usize::try_from(offset - REGION.offset).expect("small");
            Some(bytes[start..start + usize::try_from(length).expect("small")].to_vec())
        })
    }

    fn example() -> Metadata {
        Metadata {
            block_bytes: 2 << 20,
            leave_blocks_allocated: false,
            disk_bytes: 1 << 30,
            disk_id: Guid::from_random([1; 16]),
            logical_sector: 512,
            physical_sector: 4096,
            parent: None,
        }
    }

    proptest! {
        #[test]
        fn round_trip(
            block in 20u32..=28,
            leave_blocks_allocated: bool,
            sectors in 1u64..=MAX_DISK_BYTES / 4096,
            id: [u8; 16],
            logical in prop_oneof![Just(512u32), Just(4096)],
            physical in prop_oneof![Just(512u32), Just(4096)],
            parent in proptest::option::of(locators()),
        ) {
            let metadata = Metadata {
                block_bytes: 1 << block,
                leave_blocks_allocated,
                disk_bytes: sectors * u64::from(logical),
                disk_id: Guid::from_stored(id),
                logical_sector: logical,
                physical_sector: physical,
                parent,
            };
            prop_assert_eq!(read(&metadata.encode()), Ok(metadata));
        }

        #[test]
        fn any_items(changes in proptest::collection::vec((0usize..48, any::<u8>()), 0..8)) {
            let mut bytes = example().encode();
            for (place, byte) in changes {
                if let Some(target) = bytes.get_mut(METADATA_TABLE_BYTES + place) {
                    *target = byte;
                }
            }
            let _ = read(&bytes);
        }
    }

    #[test]
    fn what_no_disk_can_be() {
        let cases = [
            (Metadata { block_bytes: 3 << 20, ..example() }, "BlockSize"),
            (Metadata { block_bytes: 512 << 20, ..example() }, "BlockSize"),
            (Metadata { block_bytes: 1 << 19, ..example() }, "BlockSize"),
            (Metadata { logical_sector: 1024, ..example() }, "LogicalSectorSize"),
            (Metadata { physical_sector: 0, ..example() }, "PhysicalSectorSize"),
            (Metadata { disk_bytes: MAX_DISK_BYTES + 512, ..example() }, "VirtualDiskSize"),
            (Metadata { disk_bytes: 513, ..example() }, "VirtualDiskSize"),
            (Metadata { disk_bytes: 0, ..example() }, "VirtualDiskSize"),
        ];
        for (metadata, field) in cases {
            let problem = read(&metadata.encode()).expect_err("impossible");
            assert_eq!(problem.field, field);
            assert!(problem.offset >= REGION.offset + 65_536, "{problem}");
        }
    }

    #[test]
    fn every_item_is_needed() {
        for missing in KnownItem::ALL {
            let entries: Vec<ItemEntry> = KnownItem::ALL
                .into_iter()
                .zip(0..)
                .filter(|(item, _)| *item != missing)
                .map(|(item, number)| ItemEntry::known(item, 65_536 + number * 16, 16))
                .collect();
            let table =
                MetadataTable::parse(&MetadataTable::encode(&entries), REGION).expect("valid");
            let found = Metadata::parse(&table, |item| {
                let mut bytes = vec![0; 16];
                bytes[..4].copy_from_slice(
                    &match item {
                        KnownItem::FileParameters => 1u32 << 20,
                        KnownItem::VirtualDiskSize => 4096,
                        _ => 512,
                    }
                    .to_le_bytes(),
                );
                Some(bytes)
            });
            match missing {
                KnownItem::ParentLocator => assert!(found.is_ok(), "{found:?}"),
                item => assert_eq!(found.expect_err("missing").expected, item.structure()),
            }
        }
    }
}
