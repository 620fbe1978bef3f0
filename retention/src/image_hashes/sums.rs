//! What is noted of bytes that go to an image: CRC32C of their blocks, BLAKE3 of the granules they fill. Pure.

use super::format::GRANULE_BLOCKS;
use super::page::{GRANULE_SIZE, Page, PageNumber, blocks_within, pages_of, zero_checksum};
use landfall_disks::{BLOCK_BYTES, BLOCK_SIZE, ByteOffset, ByteRange};

/// What a stretch of an image holds from now on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Sums {
    /// Zeroes, in whole blocks.
    Zeroes(ByteRange),
    /// Bytes.
    Data(DataSums),
}

/// What is known of the bytes of a stretch.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct DataSums {
    /// Whole blocks. Behind the end of the disk they are zero.
    range: ByteRange,
    /// CRC32C of each.
    checksums: Vec<u32>,
    /// BLAKE3 of each granule that lies wholly within, in order.
    hashes: Vec<[u8; 32]>,
}

impl Sums {
    /// Those of `bytes` at `start`, a block, of a disk of `size_bytes`. Hashes: not for an I/O core when they are many.
    pub(crate) fn of(start: ByteOffset, bytes: &[u8], size_bytes: u64) -> Self {
        let checksums = bytes.chunks(BLOCK_BYTES).map(block_checksum).collect();
        Self::with_checksums(start, bytes, checksums, size_bytes)
    }

    /// The same where the CRC32C of each block is known already, the last one filled up with zeroes.
    pub(crate) fn with_checksums(
        start: ByteOffset,
        bytes: &[u8],
        mut checksums: Vec<u32>,
        size_bytes: u64,
    ) -> Self {
        let mut end = start.bytes() + checksums.len() as u64 * BLOCK_SIZE;
        if end >= size_bytes {
            // Nothing but zeroes can be there, now or when the disk has grown.
            let filled = end.next_multiple_of(GRANULE_SIZE);
            let blocks =
                checksums.len() + usize::try_from((filled - end) / BLOCK_SIZE).expect("16");
            checksums.resize(blocks, zero_checksum());
            end = filled;
        }
        let range = ByteRange::new(start, ByteOffset::new(end)).expect("in order");
        let hashes = granules_within(range).map(|granule| {
            let from = usize::try_from(granule.start().bytes() - start.bytes()).expect("in memory");
            let granule = &bytes[from..bytes.len().min(from + GRANULE_BLOCKS * BLOCK_BYTES)];
            granule_hash(granule)
        });
        let hashes = hashes.collect();
        Self::Data(DataSums { range, checksums, hashes })
    }

    /// Zeroes in `range` of a disk of `size_bytes`, whose end may cut the last block.
    pub(crate) fn zeroes(range: ByteRange, size_bytes: u64) -> Self {
        let unit = if range.end().bytes() >= size_bytes { GRANULE_SIZE } else { BLOCK_SIZE };
        let end = range.end().bytes().next_multiple_of(unit);
        Self::Zeroes(ByteRange::new(range.start(), ByteOffset::new(end)).expect("in order"))
    }

    /// What they are of.
    pub(super) fn range(&self) -> ByteRange {
        match self {
            Self::Zeroes(range) => *range,
            Self::Data(sums) => sums.range,
        }
    }

    /// The pages that say it.
    pub(super) fn pages(&self) -> impl Iterator<Item = PageNumber> + use<> {
        pages_of(self.range())
    }

    /// Notes what lies in a page.
    pub(super) fn note(&self, number: PageNumber, page: &mut Page) {
        let blocks = blocks_within(number, self.range());
        let DataSums { range, checksums, hashes } = match self {
            Self::Zeroes(_) => return page.set_zeroes(blocks),
            Self::Data(sums) => sums,
        };
        let first = number.range().start().bytes();
        for block in blocks {
            let at = first + block as u64 * BLOCK_SIZE - range.start().bytes();
            let at = usize::try_from(at / BLOCK_SIZE).expect("in memory");
            page.set_block(block, checksums[at]);
        }
        for (granule, hash) in granules_within(*range).zip(hashes) {
            if number.range().contains(granule) {
                let within = (granule.start().bytes() - first) / GRANULE_SIZE;
                page.set_hash(usize::try_from(within).expect("below 40"), *hash);
            }
        }
    }
}

/// CRC32C of a block; one that the end of a disk cuts counts with zeroes behind it.
pub(crate) fn block_checksum(block: &[u8]) -> u32 {
    let sum = crc32c::crc32c(block);
    if block.len() == BLOCK_BYTES {
        return sum;
    }
    crc32c::crc32c_append(sum, &[0; BLOCK_BYTES][block.len()..])
}

/// BLAKE3 of a granule; one that the end of a disk cuts counts with zeroes behind it.
pub(crate) fn granule_hash(granule: &[u8]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(granule);
    let missing = GRANULE_BLOCKS * BLOCK_BYTES - granule.len();
    if missing > 0 {
        hasher.update(&[0; GRANULE_BLOCKS * BLOCK_BYTES][..missing]);
    }
    *hasher.finalize().as_bytes()
}

/// The granules that lie wholly within `range`.
fn granules_within(range: ByteRange) -> impl Iterator<Item = ByteRange> {
    range.chunks(GRANULE_SIZE).filter(|granule| granule.length() == GRANULE_SIZE)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(block: u64) -> ByteOffset {
        ByteOffset::new(block * BLOCK_SIZE)
    }

    #[test]
    fn blocks_and_whole_granules_are_noted_across_pages() {
        let bytes: Vec<u8> = (0..34 * BLOCK_BYTES)
            .map(|at| u8::try_from(at / 1000 % 251).expect("below 251"))
            .collect();
        let sums = Sums::of(at(623), &bytes, 1 << 40);
        let pages: Vec<_> = sums.pages().collect();
        assert_eq!(pages, [PageNumber::new(0), PageNumber::new(1)]);
        let (mut first, mut second) = (Page::unknown(), Page::unknown());
        sums.note(pages[0], &mut first);
        sums.note(pages[1], &mut second);
        assert_eq!(first.checksum(622), None);
        assert_eq!(first.checksum(623), Some(crc32c::crc32c(&bytes[..BLOCK_BYTES])));
        let granule = &bytes[BLOCK_BYTES..][..16 * BLOCK_BYTES];
        assert_eq!(first.hash(39), Some(*blake3::hash(granule).as_bytes()));
        let granule = &bytes[17 * BLOCK_BYTES..][..16 * BLOCK_BYTES];
        assert_eq!(second.hash(0), Some(*blake3::hash(granule).as_bytes()));
        assert_eq!((second.checksum(16).is_some(), second.checksum(17)), (true, None));
        assert_eq!(second.hash(1), None);
    }

    #[test]
    fn behind_the_end_of_a_disk_there_are_zeroes() {
        let bytes = vec![7; BLOCK_BYTES + 512];
        let sums = Sums::of(at(0), &bytes, bytes.len() as u64);
        let mut page = Page::unknown();
        sums.note(PageNumber::new(0), &mut page);
        let mut whole = bytes.clone();
        whole.resize(16 * BLOCK_BYTES, 0);
        assert_eq!(page.checksum(1), Some(crc32c::crc32c(&whole[BLOCK_BYTES..2 * BLOCK_BYTES])));
        assert_eq!(page.checksum(15), Some(zero_checksum()));
        assert_eq!(page.hash(0), Some(*blake3::hash(&whole).as_bytes()));
    }
}
