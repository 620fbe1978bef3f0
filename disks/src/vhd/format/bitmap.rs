//! Sector bitmaps: which sectors of a block the file has ("Sector Bitmap and Data").
//!
//! A bit per sector, the highest bit of a byte first; padded to whole sectors.

use super::SECTOR_BYTES;

/// Bytes of the bitmap ahead of each block of `block_bytes`.
pub fn bitmap_bytes(block_bytes: u32) -> u64 {
    (u64::from(block_bytes) / SECTOR_BYTES).div_ceil(8).next_multiple_of(SECTOR_BYTES)
}

/// Whether the bits of all sectors are set. A block is a power of two of sectors, so only the first byte can be a part.
pub fn is_all_present(bitmap: &[u8], block_bytes: u32) -> bool {
    let sectors = u64::from(block_bytes) / SECTOR_BYTES;
    let Ok(whole) = usize::try_from(sectors / 8) else { return false };
    let rest = u32::try_from(sectors % 8).expect("below 8");
    let Some((full, padding)) = bitmap.split_at_checked(whole) else { return false };
    let last = padding.first().is_none_or(|byte| byte.leading_ones() >= rest);
    full.iter().all(|byte| *byte == 0xff) && (rest == 0 || last && !padding.is_empty())
}

/// The bits as the rest of this crate keeps them: the lowest bit of a byte first, without the padding.
pub fn to_presence(bitmap: &[u8], block_bytes: u32) -> Vec<u8> {
    let sectors = u64::from(block_bytes) / SECTOR_BYTES;
    let bytes = usize::try_from(sectors.div_ceil(8)).expect("a bitmap is in memory");
    bitmap.iter().take(bytes).map(|byte| byte.reverse_bits()).collect()
}

/// The bitmap of a block whose bits are kept the other way round.
pub fn from_presence(bits: &[u8], block_bytes: u32) -> Vec<u8> {
    let mut bitmap: Vec<u8> = bits.iter().map(|byte| byte.reverse_bits()).collect();
    bitmap.resize(usize::try_from(bitmap_bytes(block_bytes)).expect("a bitmap is in memory"), 0);
    bitmap
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bitmap_is_whole_sectors() {
        assert_eq!(bitmap_bytes(512), 512);
        assert_eq!(bitmap_bytes(2 << 20), 512);
        assert_eq!(bitmap_bytes(4 << 20), 1024);
        assert_eq!(bitmap_bytes(256 << 20), 65_536);
    }

    #[test]
    fn the_first_sector_is_the_highest_bit() {
        let mut bitmap = vec![0; 512];
        bitmap[0] = 0x81;
        bitmap[2] = 0x40;
        assert_eq!(to_presence(&bitmap, 12_288), [0x81, 0, 0x02]);
        assert_eq!(from_presence(&[0x81, 0, 0x02], 12_288), bitmap);
    }

    #[test]
    fn all_present_is_all_sectors_and_not_the_padding() {
        assert!(is_all_present(&[0xff; 512], 2 << 20));
        let mut bitmap = vec![0xff; 512];
        bitmap[511] = 0xfe;
        assert!(!is_all_present(&bitmap, 2 << 20));
        assert!(is_all_present(&bitmap, 1 << 20));
        assert!(is_all_present(&[0x80], 512));
        assert!(!is_all_present(&[0x7f], 512));
        assert!(is_all_present(&[0xc0], 1024));
        assert!(!is_all_present(&[0x80], 1024));
        assert!(!is_all_present(&[], 1024));
        assert!(!is_all_present(&[0xff; 100], 2 << 20));
    }
}
