//! Making a new image.
//!
//! ```text
//!   0       1 MiB   2 MiB      3 MiB    …
//!   headers │ log   │ metadata │ BAT    │ blocks of a fixed disk
//! ```
//!
//! It gets its name when it is whole, so a crash leaves either no image or all of it. Blocks of a fixed disk have their
//! places from the start; the file system gives them space when they are written.

use super::Guids;
use super::open::VhdxInfo;
use crate::block::ByteOffset;
use crate::file::Folder;
use crate::image::{ImageError, ImageFile};
use crate::uring::buffer::Buffer;
use std::path::Path;
use vhdx_parse::{
    BatLayout, BatSlot, FileIdentifier, Guid, Header, HeaderSlot, MAX_BLOCK_BYTES, MAX_DISK_BYTES,
    MIB, MIN_BLOCK_BYTES, Metadata, ParentLocator, PayloadEntry, REGION_TABLE_1_OFFSET,
    REGION_TABLE_2_OFFSET, RegionTable,
};

/// Size of a block where nobody asked for another one, as Hyper-V has it.
const DYNAMIC_BLOCK_BYTES: u32 = 32 << 20;
const DIFFERENCING_BLOCK_BYTES: u32 = 2 << 20;

const LOG_OFFSET: u64 = MIB;
const LOG_BYTES: u32 = 1 << 20;
const METADATA_OFFSET: u64 = 2 * MIB;
const METADATA_BYTES: u32 = 1 << 20;
/// Where the BAT of a new image is.
pub(super) const BAT_OFFSET: u64 = 3 * MIB;

/// Bytes of the BAT that are written together.
const PIECE_ENTRIES: u64 = 1 << 17;

/// How the blocks of an image get their space.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Kind {
    /// All at once, when it is made.
    Fixed,
    /// Each when it is first written.
    Dynamic,
    /// As dynamic, and what it does not hold is the parent's.
    Differencing(ParentReference),
}

/// How a differencing image names its parent.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ParentReference {
    /// `DataWriteGuid` of the parent.
    pub data_write_guid: Guid,
    /// From the folder of the child, with backslashes, as `.\base.vhdx`.
    pub relative_path: String,
    /// From a drive of the machine that uses it, as `C:\disks\base.vhdx`.
    pub absolute_win32_path: Option<String>,
    /// From a volume, as `\\?\Volume{…}\disks\base.vhdx`.
    pub volume_path: Option<String>,
}

/// What a new image shall be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CreateOptions {
    /// How its blocks get their space.
    pub kind: Kind,
    /// Size of the disk: whole logical sectors, at most 64 TiB.
    pub disk_bytes: u64,
    /// A power of two from 1 MiB to 256 MiB.
    pub block_bytes: u32,
    /// 512 or 4096.
    pub logical_sector: u32,
    /// 512 or 4096.
    pub physical_sector: u32,
    /// Identity of the disk; a new one if there is none. A child has that of its parent.
    pub disk_id: Option<Guid>,
}

impl CreateOptions {
    /// A dynamic disk with blocks of 32 MiB and sectors of 512 bytes on a medium of 4096.
    pub fn dynamic(disk_bytes: u64) -> Self {
        Self {
            kind: Kind::Dynamic,
            disk_bytes,
            block_bytes: DYNAMIC_BLOCK_BYTES,
            logical_sector: 512,
            physical_sector: 4096,
            disk_id: None,
        }
    }

    /// The same as [`CreateOptions::dynamic`], with all blocks in their places.
    pub fn fixed(disk_bytes: u64) -> Self {
        Self { kind: Kind::Fixed, ..Self::dynamic(disk_bytes) }
    }

    /// A child of the image that `parent` describes, which lies at `relative_path` from it (as `.\base.vhdx`).
    pub fn child_of(parent: &VhdxInfo, relative_path: &str) -> Self {
        let reference = ParentReference {
            data_write_guid: parent.data_write_guid,
            relative_path: relative_path.to_owned(),
            absolute_win32_path: None,
            volume_path: None,
        };
        Self {
            kind: Kind::Differencing(reference),
            disk_bytes: parent.disk_bytes,
            block_bytes: DIFFERENCING_BLOCK_BYTES,
            logical_sector: parent.logical_sector,
            physical_sector: parent.physical_sector,
            disk_id: Some(parent.disk_id),
        }
    }

    pub(super) fn check(&self) -> Result<(), String> {
        let Self { disk_bytes, block_bytes, logical_sector, physical_sector, .. } = self;
        for (name, sector) in [("logical", logical_sector), ("physical", physical_sector)] {
            if ![512, 4096].contains(sector) {
                return Err(format!("{name} sectors have 512 or 4096 bytes, not {sector}"));
            }
        }
        let possible = block_bytes.is_power_of_two()
            && (MIN_BLOCK_BYTES..=MAX_BLOCK_BYTES).contains(block_bytes);
        if !possible {
            return Err(format!("blocks of {block_bytes} bytes: a power of two, 1 to 256 MiB"));
        }
        let whole = *disk_bytes > 0 && disk_bytes.is_multiple_of(u64::from(*logical_sector));
        if !whole || *disk_bytes > MAX_DISK_BYTES {
            return Err(format!(
                "a disk of {disk_bytes} bytes: whole sectors of {logical_sector}, at most 64 TiB"
            ));
        }
        Ok(())
    }

    fn is_child(&self) -> bool {
        matches!(self.kind, Kind::Differencing(_))
    }

    fn locator(&self) -> Option<ParentLocator> {
        let Kind::Differencing(parent) = &self.kind else { return None };
        let mut paths = vec![("relative_path", parent.relative_path.as_str())];
        paths.extend(parent.volume_path.as_deref().map(|path| ("volume_path", path)));
        paths.extend(
            parent.absolute_win32_path.as_deref().map(|path| ("absolute_win32_path", path)),
        );
        Some(ParentLocator::new(parent.data_write_guid, &paths))
    }
}

/// Makes a new image at `path`, durably. It reads as zeroes, or as its parent.
pub async fn create(
    folder: &dyn Folder,
    path: &Path,
    options: &CreateOptions,
    guids: &Guids,
) -> Result<(), ImageError> {
    let place = folder.display().join(path);
    options.check().map_err(|why| ImageError::cannot_create(&place, why))?;
    let fixed = options.kind == Kind::Fixed;
    let layout = BatLayout::new(options.disk_bytes, options.block_bytes, options.logical_sector);
    let bat_bytes = layout.table_bytes(options.is_child()).next_multiple_of(MIB);
    let blocks_offset = BAT_OFFSET + bat_bytes;
    let blocks = if fixed { layout.payload_blocks() } else { 0 };
    let length = blocks_offset + blocks * layout.block_bytes();
    let metadata = metadata_of(options, &**guids);
    let file = ImageFile::create(folder, path, length).await?;
    for (offset, bytes) in structures(&metadata, bat_bytes, (guids(), guids())) {
        file.write(ByteOffset::new(offset), Buffer::copy_of(&bytes)).await?;
    }
    if fixed {
        write_fixed_bat(&file, &layout, blocks_offset).await?;
    }
    Ok(file.publish(folder, path).await?)
}

/// What the metadata region of a new image says.
pub(super) fn metadata_of(options: &CreateOptions, guids: &dyn Fn() -> Guid) -> Metadata {
    Metadata {
        block_bytes: options.block_bytes,
        leave_blocks_allocated: options.kind == Kind::Fixed,
        disk_bytes: options.disk_bytes,
        disk_id: options.disk_id.unwrap_or_else(guids),
        logical_sector: options.logical_sector,
        physical_sector: options.physical_sector,
        parent: options.locator(),
    }
}

/// Everything of a new image but its BAT of `bat_bytes` and its blocks, in the order of the file. It has the GUIDs of file and
/// content that are given.
pub(super) fn structures(
    metadata: &Metadata,
    bat_bytes: u64,
    (file_write_guid, data_write_guid): (Guid, Guid),
) -> Vec<(u64, Vec<u8>)> {
    let bat_length = u32::try_from(bat_bytes).expect("the largest BAT has 513 MiB");
    let regions = RegionTable::new(BAT_OFFSET, bat_length, METADATA_OFFSET, METADATA_BYTES);
    let creator = concat!("landfall ", env!("CARGO_PKG_VERSION")).to_owned();
    let first = Header {
        sequence_number: 1,
        file_write_guid,
        data_write_guid,
        log_guid: Guid::ZERO,
        log_offset: LOG_OFFSET,
        log_length: LOG_BYTES,
    };
    let second = Header { sequence_number: 2, ..first };
    vec![
        (0, FileIdentifier { creator }.encode().to_vec()),
        (HeaderSlot::First.offset(), first.encode().to_vec()),
        (HeaderSlot::Second.offset(), second.encode().to_vec()),
        (REGION_TABLE_1_OFFSET, regions.encode().to_vec()),
        (REGION_TABLE_2_OFFSET, regions.encode().to_vec()),
        (METADATA_OFFSET, metadata.encode()),
    ]
}

/// All blocks, one after the other.
async fn write_fixed_bat(
    file: &ImageFile,
    layout: &BatLayout,
    blocks_offset: u64,
) -> Result<(), ImageError> {
    let entries = layout.entries(false);
    let mut first = 0;
    while first < entries {
        let piece = first..(first + PIECE_ENTRIES).min(entries);
        let raw = piece.clone().map(|index| match layout.slot(index) {
            BatSlot::Payload(block) => {
                PayloadEntry::FullyPresent(blocks_offset + block * layout.block_bytes()).encode()
            }
            BatSlot::Bitmap(_) => 0,
        });
        let bytes: Vec<u8> = raw.flat_map(u64::to_le_bytes).collect();
        let offset = ByteOffset::new(BAT_OFFSET + first * vhdx_parse::BAT_ENTRY_BYTES);
        file.write(offset, Buffer::copy_of(&bytes)).await?;
        first = piece.end;
    }
    Ok(())
}
