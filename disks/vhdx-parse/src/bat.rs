//! The block allocation table (section 2.5): where each block of the disk lies in the file.
//!
//! ```text
//!   entry 0 … ratio-1   payload blocks of chunk 0
//!   entry ratio         sector bitmap of chunk 0: one bit a sector, used by differencing disks
//! alone
//!   entry ratio+1 …     payload blocks of chunk 1, then its bitmap, and so on
//! ```
//!
//! A chunk is what one sector bitmap block of 1 MiB describes: 2^23 sectors.

use crate::error::{At, Malformed};
use crate::{MAX_DISK_BYTES, MAX_FILE_BYTES, MIB};

/// Smallest payload block.
pub const MIN_BLOCK_BYTES: u32 = 1 << 20;

/// Largest payload block.
pub const MAX_BLOCK_BYTES: u32 = 256 << 20;

/// Bytes of a sector bitmap block.
pub const BITMAP_BLOCK_BYTES: u64 = MIB;

/// Sectors that one sector bitmap block describes.
pub const SECTORS_PER_CHUNK: u64 = BITMAP_BLOCK_BYTES * 8;

/// Bytes of an entry.
pub const BAT_ENTRY_BYTES: u64 = 8;

const STATE_MASK: u64 = 0b111;
const OFFSET_MASK: u64 = !(MIB - 1);

/// What the BAT says of a payload block (section 2.5.1.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PayloadEntry {
    /// Never written here: zeroes, or for a differencing disk what the parent holds.
    NotPresent,
    /// Anything may be read. The parent is not asked.
    Undefined,
    /// Zeroes. The parent is not asked.
    Zero,
    /// Given up by the guest; reads as zeroes here. The parent is not asked.
    Unmapped,
    /// All of it lies at this offset.
    FullyPresent(u64),
    /// Of a differencing disk: the sectors whose bits are set lie at this offset, the others in the
    /// parent.
    PartiallyPresent(u64),
}

impl PayloadEntry {
    /// Reads the entry that was found at `offset` of the file. `differencing` disks alone have
    /// partial blocks.
    ///
    /// The states without content may carry an offset in files of others, who remember where the
    /// block was; it means nothing.
    pub fn parse(raw: u64, differencing: bool, offset: u64) -> Result<Self, Malformed> {
        let at = At::new("VHDX BAT entry", offset);
        let found = place(at, raw)?;
        match raw & STATE_MASK {
            0 => Ok(Self::NotPresent),
            1 => Ok(Self::Undefined),
            2 => Ok(Self::Zero),
            3 => Ok(Self::Unmapped),
            6 => Ok(Self::FullyPresent(used(at, found)?)),
            7 if differencing => Ok(Self::PartiallyPresent(used(at, found)?)),
            7 => Err(at.malformed("State", 7, "a whole block, as the disk has no parent")),
            state => Err(at.malformed("State", state, "0, 1, 2, 3, 6 or 7")),
        }
    }

    /// The entry as stored. States without content carry offset 0.
    ///
    /// # Panics
    ///
    /// If a place is no multiple of 1 MiB.
    pub fn encode(self) -> u64 {
        match self {
            Self::NotPresent => 0,
            Self::Undefined => 1,
            Self::Zero => 2,
            Self::Unmapped => 3,
            Self::FullyPresent(offset) => aligned(offset) | 6,
            Self::PartiallyPresent(offset) => aligned(offset) | 7,
        }
    }

    /// Where its content lies, if there is any.
    pub fn offset(self) -> Option<u64> {
        match self {
            Self::FullyPresent(offset) | Self::PartiallyPresent(offset) => Some(offset),
            _ => None,
        }
    }
}

/// What the BAT says of a sector bitmap block (section 2.5.1.2).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BitmapEntry {
    /// No sector of the chunk is marked.
    NotPresent,
    /// The bitmap lies at this offset.
    Present(u64),
}

impl BitmapEntry {
    /// Reads the entry that was found at `offset` of the file.
    pub fn parse(raw: u64, offset: u64) -> Result<Self, Malformed> {
        let at = At::new("VHDX BAT entry of a sector bitmap", offset);
        let found = place(at, raw)?;
        match raw & STATE_MASK {
            0 => Ok(Self::NotPresent),
            6 => Ok(Self::Present(used(at, found)?)),
            state => Err(at.malformed("State", state, "0 or 6")),
        }
    }

    /// The entry as stored.
    ///
    /// # Panics
    ///
    /// If the place is no multiple of 1 MiB.
    pub fn encode(self) -> u64 {
        match self {
            Self::NotPresent => 0,
            Self::Present(offset) => aligned(offset) | 6,
        }
    }
}

fn aligned(offset: u64) -> u64 {
    assert!(offset.is_multiple_of(MIB), "a block at {offset} is not at a multiple of 1 MiB");
    offset
}

fn place(at: At, raw: u64) -> Result<u64, Malformed> {
    let reserved = raw & !(STATE_MASK | OFFSET_MASK);
    at.expect(reserved == 0, "Reserved", format_args!("{reserved:#x}"), "0")?;
    Ok(raw & OFFSET_MASK)
}

/// The place of a block that has content.
fn used(at: At, offset: u64) -> Result<u64, Malformed> {
    // The first MiB belongs to the headers.
    let possible = (MIB..MAX_FILE_BYTES).contains(&offset);
    at.expect(
        possible,
        "FileOffsetMB",
        offset / MIB,
        "a place behind the headers and in the file",
    )?;
    Ok(offset)
}

/// What an entry of the table is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BatSlot {
    /// The payload block with this number; it may lie past the end of the disk.
    Payload(u64),
    /// The sector bitmap of the chunk with this number.
    Bitmap(u64),
}

/// The arithmetic of the table for one disk.
///
/// ```
/// use vhdx_parse::{BatLayout, BatSlot};
///
/// let layout = BatLayout::new(40 << 30, 32 << 20, 512);
/// assert_eq!(layout.chunk_ratio(), 128);
/// assert_eq!(layout.payload_blocks(), 1280);
/// assert_eq!(layout.entries(false), 1280 + 9); // the bitmap of the last chunk is left out
/// assert_eq!(layout.entries(true), 10 * 129);
/// assert_eq!(layout.payload_index(128), 129);
/// assert_eq!(layout.slot(128), BatSlot::Bitmap(0));
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BatLayout {
    disk_bytes: u64,
    block_bytes: u64,
    logical_sector: u64,
}

impl BatLayout {
    /// The layout of a disk of `disk_bytes` in blocks of `block_bytes`.
    ///
    /// # Panics
    ///
    /// If no [`Metadata`](crate::Metadata) could say so: a block size or sector size that is not
    /// allowed, or a disk over 64 TiB.
    pub fn new(disk_bytes: u64, block_bytes: u32, logical_sector: u32) -> Self {
        assert!(
            block_bytes.is_power_of_two()
                && (MIN_BLOCK_BYTES..=MAX_BLOCK_BYTES).contains(&block_bytes)
                && [512, 4096].contains(&logical_sector)
                && disk_bytes <= MAX_DISK_BYTES,
            "no disk has {disk_bytes} bytes in blocks of {block_bytes} and sectors of {logical_sector}"
        );
        Self { disk_bytes, block_bytes: block_bytes.into(), logical_sector: logical_sector.into() }
    }

    /// Size of the disk.
    pub fn disk_bytes(&self) -> u64 {
        self.disk_bytes
    }

    /// Size of a payload block.
    pub fn block_bytes(&self) -> u64 {
        self.block_bytes
    }

    /// Size of a sector, the unit of the sector bitmaps.
    pub fn logical_sector(&self) -> u64 {
        self.logical_sector
    }

    /// Payload blocks that one sector bitmap block describes.
    pub fn chunk_ratio(&self) -> u64 {
        SECTORS_PER_CHUNK * self.logical_sector / self.block_bytes
    }

    /// Payload blocks of the disk; the last may reach past its end.
    pub fn payload_blocks(&self) -> u64 {
        self.disk_bytes.div_ceil(self.block_bytes)
    }

    /// Chunks of the disk, each with a sector bitmap.
    pub fn chunks(&self) -> u64 {
        self.payload_blocks().div_ceil(self.chunk_ratio())
    }

    /// Entries the table must have.
    pub fn entries(&self, differencing: bool) -> u64 {
        let blocks = self.payload_blocks();
        if differencing {
            self.chunks() * (self.chunk_ratio() + 1)
        } else {
            blocks + blocks.saturating_sub(1) / self.chunk_ratio()
        }
    }

    /// Bytes the table must have.
    pub fn table_bytes(&self, differencing: bool) -> u64 {
        self.entries(differencing) * BAT_ENTRY_BYTES
    }

    /// The entry of a payload block.
    pub fn payload_index(&self, block: u64) -> u64 {
        block + block / self.chunk_ratio()
    }

    /// The entry of the sector bitmap of a chunk.
    pub fn bitmap_index(&self, chunk: u64) -> u64 {
        chunk * (self.chunk_ratio() + 1) + self.chunk_ratio()
    }

    /// What an entry is for.
    pub fn slot(&self, index: u64) -> BatSlot {
        let (chunk, place) = (index / (self.chunk_ratio() + 1), index % (self.chunk_ratio() + 1));
        if place == self.chunk_ratio() {
            BatSlot::Bitmap(chunk)
        } else {
            BatSlot::Payload(chunk * self.chunk_ratio() + place)
        }
    }

    /// The chunk a payload block belongs to.
    pub fn chunk_of(&self, block: u64) -> u64 {
        block / self.chunk_ratio()
    }

    /// Where in its sector bitmap block the bits of a payload block lie: first byte and bytes.
    /// Whole bytes, as the
    /// smallest block has 256 sectors.
    pub fn bitmap_bytes(&self, block: u64) -> (u64, u64) {
        let bytes = self.block_bytes / self.logical_sector / 8;
        (block % self.chunk_ratio() * bytes, bytes)
    }
}

/// The stretches of equal bits in part of a sector bitmap: bit 0 of byte 0 is the first sector.
///
/// Gives `(present, sectors)`, in order, for `sectors` bits from bit `first` on; neighbours differ.
///
/// ```
/// use vhdx_parse::bitmap_runs;
///
/// let runs: Vec<_> = bitmap_runs(&[0b1111_0000, 0b0000_0001], 2, 14).collect();
/// assert_eq!(runs, [(false, 2), (true, 5), (false, 7)]);
/// ```
///
/// # Panics
///
/// If the bitmap has fewer bits.
pub fn bitmap_runs(
    bitmap: &[u8],
    first: usize,
    sectors: usize,
) -> impl Iterator<Item = (bool, usize)> + '_ {
    let end = first + sectors;
    assert!(end <= bitmap.len() * 8, "{end} bits of {} bytes", bitmap.len());
    let mut at = first;
    std::iter::from_fn(move || {
        (at < end).then(|| {
            let start = at;
            let present = bitmap[at / 8] >> (at % 8) & 1 == 1;
            let uniform = if present { 0xff } else { 0 };
            while at < end && (bitmap[at / 8] >> (at % 8) & 1 == 1) == present {
                at += 1;
                while at.is_multiple_of(8) && at + 8 <= end && bitmap[at / 8] == uniform {
                    at += 8;
                }
            }
            (present, at - start)
        })
    })
}

/// Sets or clears `sectors` bits from bit `first` on.
///
/// # Panics
///
/// If the bitmap has fewer bits.
pub fn set_bitmap(bitmap: &mut [u8], first: usize, sectors: usize, present: bool) {
    let end = first + sectors;
    assert!(end <= bitmap.len() * 8, "{end} bits of {} bytes", bitmap.len());
    let mut at = first;
    while at < end {
        if at.is_multiple_of(8) && at + 8 <= end {
            bitmap[at / 8] = if present { 0xff } else { 0 };
            at += 8;
            continue;
        }
        let bit = 1 << (at % 8);
        if present {
            bitmap[at / 8] |= bit;
        } else {
            bitmap[at / 8] &= !bit;
        }
        at += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn layouts() -> impl Strategy<Value = BatLayout> {
        let sector = prop_oneof![Just(512u32), Just(4096)];
        (1u64..MAX_DISK_BYTES / 4096, 20u32..=28, sector)
            .prop_map(|(sectors, block, sector)| BatLayout::new(sectors * 4096, 1 << block, sector))
    }

    proptest! {
        #[test]
        fn entries_and_back(offset in 1u64..1 << 20, state in 0u64..8, differencing: bool) {
            let raw = (offset * MIB) | state;
            if let Ok(entry) = PayloadEntry::parse(raw, differencing, 0) {
                let expected = if state >= 6 { raw } else { state };
                prop_assert_eq!(entry.encode(), expected);
            } else {
                prop_assert!([4, 5].contains(&state) || state == 7 && !differencing);
            }
            if let Ok(entry) = BitmapEntry::parse(raw, 0) {
                prop_assert_eq!(entry.encode(), if state == 6 { raw } else { 0 });
            } else {
                prop_assert!(![0, 6].contains(&state));
            }
        }

        #[test]
        fn any_entry(raw: u64, differencing: bool) {
            let _ = PayloadEntry::parse(raw, differencing, 0);
            let _ = BitmapEntry::parse(raw, 0);
        }

        #[test]
        fn slots_and_indices_agree(layout in layouts(), block: u64) {
            let block = block % layout.payload_blocks();
            let index = layout.payload_index(block);
            prop_assert_eq!(layout.slot(index), BatSlot::Payload(block));
            prop_assert!(index < layout.entries(false) && index < layout.entries(true));
            let chunk = layout.chunk_of(block);
            prop_assert_eq!(layout.slot(layout.bitmap_index(chunk)), BatSlot::Bitmap(chunk));
            prop_assert!(layout.bitmap_index(chunk) < layout.entries(true));
            let (start, bytes) = layout.bitmap_bytes(block);
            prop_assert!(start + bytes <= BITMAP_BLOCK_BYTES);
            // The last entry of a disk without a parent is that of its last block.
            prop_assert_eq!(layout.entries(false) - 1, layout.payload_index(layout.payload_blocks() - 1));
        }

        #[test]
        fn runs_are_the_bits(bitmap in proptest::collection::vec(
            prop_oneof![Just(0u8), Just(0xff), any::<u8>()], 1..40), first: usize, sectors: usize) {
            let first = first % (bitmap.len() * 8);
            let sectors = sectors % (bitmap.len() * 8 - first + 1);
            let bits: Vec<bool> =
                (first..first + sectors).map(|bit| bitmap[bit / 8] >> (bit % 8) & 1 == 1).collect();
            let runs: Vec<(bool, usize)> = bitmap_runs(&bitmap, first, sectors).collect();
            prop_assert!(runs.windows(2).all(|pair| pair[0].0 != pair[1].0));
            let found: Vec<bool> =
                runs.iter().flat_map(|(present, count)| std::iter::repeat_n(*present, *count)).collect();
            prop_assert_eq!(found, bits);
        }

        #[test]
        fn setting_changes_those_bits_alone(
            bitmap in proptest::collection::vec(any::<u8>(), 1..40), first: usize, sectors: usize, present: bool,
        ) {
            let first = first % (bitmap.len() * 8);
            let sectors = sectors % (bitmap.len() * 8 - first + 1);
            let mut changed = bitmap.clone();
            set_bitmap(&mut changed, first, sectors, present);
            for bit in 0..bitmap.len() * 8 {
                let [before, after] =
                    [&bitmap, &changed].map(|bytes| bytes[bit / 8] >> (bit % 8) & 1 == 1);
                let inside = (first..first + sectors).contains(&bit);
                prop_assert_eq!(after, if inside { present } else { before });
            }
        }
    }

    #[test]
    fn what_no_entry_says() {
        for (raw, field) in
            [(6, "FileOffsetMB"), (MIB | 8 | 6, "Reserved"), (4, "State"), (5, "State")]
        {
            assert_eq!(
                PayloadEntry::parse(raw, true, 0).expect_err("wrong").field,
                field,
                "{raw:#x}"
            );
        }
        let partial = PayloadEntry::parse(MIB | 7, false, 3 << 20).expect_err("no parent");
        assert_eq!((partial.offset, partial.value.as_str()), (3 << 20, "7"));
        assert_eq!(BitmapEntry::parse(MIB | 7, 0).expect_err("a payload state").field, "State");
    }

    #[test]
    fn the_largest_tables() {
        let layout = BatLayout::new(MAX_DISK_BYTES, MIN_BLOCK_BYTES, 512);
        assert_eq!((layout.chunk_ratio(), layout.chunks()), (4096, 16_384));
        assert_eq!(layout.table_bytes(true), (64 << 20) * 8 + 16_384 * 8);
        let layout = BatLayout::new(MAX_DISK_BYTES, MAX_BLOCK_BYTES, 4096);
        assert_eq!((layout.chunk_ratio(), layout.payload_blocks()), (128, 1 << 18));
    }
}
