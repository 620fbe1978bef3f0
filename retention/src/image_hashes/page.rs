//! A page in memory: what is known of 2.5 MiB of a disk, block by block. Pure.
//!
//! ```text
//!   granule, 64 KiB    ├ block 0 ┤├ block 1 ┤ … ├ block 15 ┤    a CRC32C each, if it is known
//!                      ├──────────── BLAKE3 ───────────────┤    if all of them are, and nothing changed since
//! ```
//!
//! **Invariant:** what is not known is written as zero, so a page has one form.

use super::format::{GRANULE_BLOCKS, PAGE_BLOCKS, PAGE_GRANULES};
use landfall_disks::{BLOCK_BYTES, BLOCK_SIZE, ByteOffset, ByteRange, MAX_DISK_SIZE};
use std::sync::LazyLock;

/// Bytes of a disk that a page describes.
pub(crate) const PAGE_SPAN: u64 = PAGE_BLOCKS as u64 * BLOCK_SIZE;
/// Bytes of a granule.
pub(crate) const GRANULE_SIZE: u64 = GRANULE_BLOCKS as u64 * BLOCK_SIZE;

/// CRC32C and BLAKE3 of zeroes: of a block, and of a granule.
static ZEROES: LazyLock<(u32, [u8; 32])> = LazyLock::new(|| {
    let granule = [0; GRANULE_BLOCKS * BLOCK_BYTES];
    (crc32c::crc32c(&granule[..BLOCK_BYTES]), *blake3::hash(&granule).as_bytes())
});

/// CRC32C of a block of zeroes.
pub(crate) fn zero_checksum() -> u32 {
    ZEROES.0
}

/// Number of a page.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct PageNumber(u64);

impl PageNumber {
    /// No page of any disk has this number or a higher one.
    pub(super) const END: u64 = MAX_DISK_SIZE / PAGE_SPAN + 1;
    /// Behind all pages there can be.
    pub(super) const MAX: Self = Self(u64::MAX);

    /// Page `number`.
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    /// Its number.
    pub const fn number(self) -> u64 {
        self.0
    }

    /// The page that describes a byte.
    pub(crate) const fn of(offset: ByteOffset) -> Self {
        Self(offset.bytes() / PAGE_SPAN)
    }

    /// What it describes.
    pub(crate) fn range(self) -> ByteRange {
        ByteRange::at(ByteOffset::new(self.0 * PAGE_SPAN), PAGE_SPAN).expect("disks end far below")
    }

    pub(super) const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

/// What is known of the blocks of a page.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Page {
    pub(super) hashed: u64,
    pub(super) known: [u16; PAGE_GRANULES],
    pub(super) checksums: [u32; PAGE_BLOCKS],
    pub(super) hashes: [[u8; 32]; PAGE_GRANULES],
}

impl Page {
    /// A page that knows nothing.
    pub fn unknown() -> Self {
        Self {
            hashed: 0,
            known: [0; PAGE_GRANULES],
            checksums: [0; PAGE_BLOCKS],
            hashes: [[0; 32]; PAGE_GRANULES],
        }
    }

    /// A page of zeroes.
    pub fn zeroes() -> Self {
        let (checksum, hash) = *ZEROES;
        Self {
            hashed: (1 << PAGE_GRANULES) - 1,
            known: [u16::MAX; PAGE_GRANULES],
            checksums: [checksum; PAGE_BLOCKS],
            hashes: [hash; PAGE_GRANULES],
        }
    }

    /// CRC32C of a block of the page, if it is known.
    pub fn checksum(&self, block: usize) -> Option<u32> {
        let known = self.known[block / GRANULE_BLOCKS] >> (block % GRANULE_BLOCKS) & 1 != 0;
        known.then(|| self.checksums[block])
    }

    /// BLAKE3 of a granule, if it is known.
    pub fn hash(&self, granule: usize) -> Option<[u8; 32]> {
        (self.hashed >> granule & 1 != 0).then(|| self.hashes[granule])
    }

    /// Notes the CRC32C of a block that was written: the hash of its granule says nothing any more.
    pub fn set_block(&mut self, block: usize, checksum: u32) {
        self.drop_hash(block / GRANULE_BLOCKS);
        self.known[block / GRANULE_BLOCKS] |= 1 << (block % GRANULE_BLOCKS);
        self.checksums[block] = checksum;
    }

    /// Notes the BLAKE3 of a granule whose blocks are all known.
    pub fn set_hash(&mut self, granule: usize, hash: [u8; 32]) {
        assert!(self.known[granule] == u16::MAX, "a hash of blocks that are not known");
        self.hashed |= 1 << granule;
        self.hashes[granule] = hash;
    }

    /// A block is not known any more.
    pub fn forget_block(&mut self, block: usize) {
        self.drop_hash(block / GRANULE_BLOCKS);
        self.known[block / GRANULE_BLOCKS] &= !(1 << (block % GRANULE_BLOCKS));
        self.checksums[block] = 0;
    }

    /// Zeroes in some blocks.
    pub fn set_zeroes(&mut self, blocks: std::ops::Range<usize>) {
        let (checksum, hash) = *ZEROES;
        blocks.clone().for_each(|block| self.set_block(block, checksum));
        let whole = blocks.start.div_ceil(GRANULE_BLOCKS)..blocks.end / GRANULE_BLOCKS;
        whole.for_each(|granule| self.set_hash(granule, hash));
    }

    fn drop_hash(&mut self, granule: usize) {
        self.hashed &= !(1 << granule);
        self.hashes[granule] = [0; 32];
    }

    /// Whether everything is known to be zero.
    pub fn is_zero(&self) -> bool {
        *self == Self::zeroes()
    }
}

/// The blocks of a page that lie in `range` (whole blocks), by their number within it.
pub(super) fn blocks_within(number: PageNumber, range: ByteRange) -> std::ops::Range<usize> {
    let inside = number.range().intersection(range);
    let index = |offset: ByteOffset| {
        let within = (offset.bytes() - number.range().start().bytes()).div_ceil(BLOCK_SIZE);
        usize::try_from(within).expect("a page has 640 blocks")
    };
    index(inside.start())..index(inside.end())
}

/// The pages that describe `range`.
pub(super) fn pages_of(range: ByteRange) -> impl Iterator<Item = PageNumber> {
    let first = range.start().bytes() / PAGE_SPAN;
    let end = if range.is_empty() { first } else { range.end().bytes().div_ceil(PAGE_SPAN) };
    (first..end).map(PageNumber)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_block_takes_the_hash_of_its_granule_with_it() {
        let mut page = Page::zeroes();
        page.set_block(17, 1);
        assert_eq!((page.hash(0).is_some(), page.hash(1)), (true, None));
        // Zeroes beside something that only looks like zeroes are no granule of zeroes.
        page.set_zeroes(17..32);
        assert!(!page.is_zero() && page.hash(1).is_none());
        page.set_zeroes(16..32);
        assert!(page.is_zero());
        page.forget_block(17);
        assert_eq!((page.checksum(17), page.hash(1)), (None, None));
        assert_eq!(page.checksum(16), Some(zero_checksum()));
    }

    #[test]
    fn ranges_fall_into_pages_and_blocks() {
        let range = |start: u64, end: u64| {
            let at = |block: u64| ByteOffset::new(block * BLOCK_SIZE);
            ByteRange::new(at(start), at(end)).expect("in order")
        };
        let pages: Vec<_> = pages_of(range(639, 641)).map(PageNumber::number).collect();
        assert_eq!(pages, [0, 1]);
        assert_eq!(pages_of(range(640, 640)).count(), 0);
        assert_eq!(blocks_within(PageNumber::new(0), range(639, 641)), 639..640);
        assert_eq!(blocks_within(PageNumber::new(1), range(639, 641)), 0..1);
        // A disk may end within a block.
        let cut = ByteRange::up_to(641 * BLOCK_SIZE - 512);
        assert_eq!(blocks_within(PageNumber::new(1), cut), 0..1);
    }
}
