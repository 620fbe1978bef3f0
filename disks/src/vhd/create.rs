//! Making new disks: all of zeroes, whole before they have their name.
//!
//! ```text
//!   fixed     [a hole] [footer]
//!   dynamic   [footer] [header] … 4096 [BAT: all unused] … [footer]        the BAT is padded to 4 KiB
//! ```

use super::format::{
    BLOCK_BYTES, DEFAULT_BLOCK_BYTES, DynamicHeader, FOOTER_BYTES, Footer, HEADER_BYTES, Kind,
    MAX_DISK_BYTES, MAX_ENTRIES, SECTOR_BYTES, Timestamp, UniqueId,
};
use super::found::{FOOTER, write_footer};
use crate::block::{BLOCK_SIZE, ByteOffset};
use crate::image::{ImageError, ImageFile, Location};
use crate::uring::buffer::Buffer;

/// Where the header of a new disk is: behind the copy of the footer.
const HEADER_OFFSET: u64 = 512;
/// Where its BAT is.
const TABLE_OFFSET: u64 = 4096;
/// The BAT is written in pieces of this many bytes.
const PIECE_BYTES: u64 = 1 << 20;

/// Which kind of disk is made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NewKind {
    /// All bytes of the disk in order; space is taken as they are written.
    Fixed,
    /// Blocks as they are written.
    Dynamic {
        /// Bytes of a block: a power of two.
        block_bytes: u32,
    },
}

impl NewKind {
    /// Dynamic, with blocks of 2 MiB as almost all are.
    pub const DYNAMIC: Self = Self::Dynamic { block_bytes: DEFAULT_BLOCK_BYTES };
}

/// What to make.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Recipe {
    /// The kind of disk.
    pub kind: NewKind,
    /// Size of the disk: whole sectors, at most 2040 GiB.
    pub size_bytes: u64,
    /// Which disk this is; no other may have it.
    pub unique_id: UniqueId,
    /// When it is made.
    pub timestamp: Timestamp,
}

/// Makes a disk of zeroes at `location`, durably.
pub async fn create(location: &Location, recipe: &Recipe) -> Result<(), ImageError> {
    let size = recipe.size_bytes;
    let refused = |why: &str| Err(ImageError::cannot_create(location.display(), why));
    if size == 0 || !size.is_multiple_of(SECTOR_BYTES) {
        return refused("a disk is whole sectors of 512 bytes, at least one");
    }
    if size > MAX_DISK_BYTES {
        return refused("a VHD has at most 2040 GiB");
    }
    match recipe.kind {
        NewKind::Fixed => create_fixed(location, recipe).await,
        NewKind::Dynamic { block_bytes } => {
            if !block_bytes.is_power_of_two() || !BLOCK_BYTES.contains(&block_bytes) {
                return refused("a block is a power of two from 512 bytes to 256 MiB");
            }
            let entries = u32::try_from(size.div_ceil(u64::from(block_bytes)));
            match entries {
                Ok(entries) if entries <= MAX_ENTRIES => {
                    create_dynamic(location, recipe, block_bytes, entries).await
                }
                _ => refused("more than 16777216 blocks; take larger ones"),
            }
        }
    }
}

async fn create_fixed(location: &Location, recipe: &Recipe) -> Result<(), ImageError> {
    let size = recipe.size_bytes;
    let footer = Footer::new(Kind::Fixed, size, recipe.unique_id, recipe.timestamp, None);
    let file = ImageFile::create(&*location.folder, &location.path, size + FOOTER).await?;
    write_footer(&file, &footer, size).await?;
    Ok(file.publish(&*location.folder, &location.path).await?)
}

async fn create_dynamic(
    location: &Location,
    recipe: &Recipe,
    block_bytes: u32,
    entries: u32,
) -> Result<(), ImageError> {
    let (size, header_offset) = (recipe.size_bytes, Some(HEADER_OFFSET));
    let footer =
        Footer::new(Kind::Dynamic, size, recipe.unique_id, recipe.timestamp, header_offset);
    let header = DynamicHeader::new(TABLE_OFFSET, entries, block_bytes);
    let end = (TABLE_OFFSET + header.table_bytes()).next_multiple_of(BLOCK_SIZE);
    let file = ImageFile::create(&*location.folder, &location.path, end + FOOTER).await?;
    let mut start = Buffer::zeroed(usize::try_from(TABLE_OFFSET).expect("small"));
    start[..FOOTER_BYTES].copy_from_slice(&footer.encode());
    start[FOOTER_BYTES..FOOTER_BYTES + HEADER_BYTES].copy_from_slice(&header.encode());
    file.write(ByteOffset::new(0), start).await?;
    let mut at = TABLE_OFFSET;
    while at < end {
        let length = PIECE_BYTES.min(end - at);
        let mut unused = Buffer::zeroed(usize::try_from(length).expect("a piece is in memory"));
        unused.fill(0xff);
        file.write(ByteOffset::new(at), unused).await?;
        at += length;
    }
    write_footer(&file, &footer, end).await?;
    Ok(file.publish(&*location.folder, &location.path).await?)
}
