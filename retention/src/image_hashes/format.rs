//! Bytes of a file of block hashes, version 1. See `docs/formats/image-hashes.md`.
//!
//! ```text
//!   0        header                4 KiB    how far pages that are not there mean zeroes; the floor of what is described
//!   4 KiB    log header            4 KiB    numbers of the pages that follow, or zeroes
//!   8 KiB    pages of the log      254 of them
//!   1 MiB    page 0, page 1, …     4 KiB each, for 2.5 MiB of the disk; all zero where nothing was ever noted
//! ```
//!
//! Pure functions from bytes to meaning and back. Every block of 4 KiB ends with its CRC32C; there is one way to write
//! what a block means, and any other bytes are refused. Integers are little-endian.

use super::page::{Page, PageNumber};
use crate::ids::{DiskId, Sequence};
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Bytes of a header, of a page, and of the pieces that are written whole.
pub const PAGE_BYTES: usize = 4096;
/// 64 KiB granules of the disk that a page describes.
pub const PAGE_GRANULES: usize = 40;
/// 4 KiB blocks of a granule.
pub const GRANULE_BLOCKS: usize = 16;
/// 4 KiB blocks of the disk that a page describes.
pub const PAGE_BLOCKS: usize = PAGE_GRANULES * GRANULE_BLOCKS;
/// Pages that are written together at most.
pub const LOG_PAGES: usize = 254;
/// Where the log starts in the file.
pub const LOG_OFFSET: u64 = PAGE_BYTES as u64;
/// Where page 0 is in the file.
pub const PAGES_OFFSET: u64 = 1 << 20;

const HEADER_MAGIC: [u8; 8] = *b"LFIMGHSH";
const LOG_MAGIC: [u8; 8] = *b"LFHSHLOG";
const PAGE_MAGIC: [u8; 4] = *b"LFHP";
const VERSION: u16 = 1;
/// Number by which the log means the header of the file.
const HEADER_NUMBER: u64 = u64::MAX;
const CHECKED_BYTES: usize = PAGE_BYTES - 4;

/// Why a block of the file is not what it should be.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum HashesError {
    /// Fewer bytes than a block has.
    #[error("cut off")]
    Short,
    /// Something else.
    #[error("no block of a file of image hashes")]
    Magic,
    /// Damaged bytes.
    #[error("checksum does not match")]
    Checksum,
    /// A version this program does not know.
    #[error("format version {0} is not known here")]
    Version(u16),
    /// A field outside its limits; the text names it.
    #[error("field `{0}` is out of its limits")]
    Field(&'static str),
}

/// First 4 KiB of the file.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy)]
#[repr(C)]
struct HeaderBytes {
    magic: [u8; 8],
    version: U16,
    reserved_a: [u8; 2],
    disk: U32,
    /// Of the data folder, from the manifest.
    folder: [u8; 16],
    zero_pages: U64,
    floor: U64,
    reserved_b: [u8; 4044],
    checksum: U32,
}
const _: () = assert!(size_of::<HeaderBytes>() == 8 + 2 + 2 + 4 + 16 + 8 + 8 + 4044 + 4);
const _: () = assert!(size_of::<HeaderBytes>() == PAGE_BYTES);

/// What the first block says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    /// Whose image is described.
    pub disk: DiskId,
    /// The data folder it belongs to.
    pub folder: [u8; 16],
    /// A page below this number that is not there stands for zeroes; one at or above it for what nobody knows.
    pub zero_pages: PageNumber,
    /// Everything up to here that was folded is described. Zero until the first copy is complete.
    pub floor: Sequence,
}

impl Header {
    /// The header as the first block of the file.
    pub fn encode(&self, block: &mut [u8]) {
        let header = HeaderBytes {
            magic: HEADER_MAGIC,
            version: U16::new(VERSION),
            reserved_a: [0; 2],
            disk: U32::new(self.disk.number()),
            folder: self.folder,
            zero_pages: U64::new(self.zero_pages.number()),
            floor: U64::new(self.floor.number()),
            reserved_b: [0; 4044],
            checksum: U32::ZERO,
        };
        block[..PAGE_BYTES].copy_from_slice(header.as_bytes());
        seal(block);
    }

    /// Reads the first block of the file.
    pub fn parse(block: &[u8]) -> Result<Self, HashesError> {
        let (header, _) = HeaderBytes::ref_from_prefix(block).map_err(|_| HashesError::Short)?;
        if header.magic != HEADER_MAGIC {
            return Err(HashesError::Magic);
        }
        check_seal(block)?;
        if header.version.get() != VERSION {
            return Err(HashesError::Version(header.version.get()));
        }
        if header.reserved_a != [0; 2] || header.reserved_b != [0; 4044] {
            return Err(HashesError::Field("reserved"));
        }
        Ok(Self {
            disk: DiskId::new(header.disk.get()),
            folder: header.folder,
            zero_pages: PageNumber::new(header.zero_pages.get()),
            floor: Sequence::new(header.floor.get()),
        })
    }
}

/// The block before the pages of the log.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy)]
#[repr(C)]
struct LogBytes {
    magic: [u8; 8],
    count: U32,
    /// CRC32C over all pages that follow.
    pages_checksum: U32,
    reserved_a: [u8; 48],
    numbers: [U64; LOG_PAGES],
    reserved_b: [u8; 1996],
    checksum: U32,
}
const _: () = assert!(size_of::<LogBytes>() == 8 + 4 + 4 + 48 + 8 * LOG_PAGES + 1996 + 4);
const _: () = assert!(size_of::<LogBytes>() == PAGE_BYTES);
const _: () = assert!(LOG_OFFSET + (1 + LOG_PAGES as u64) * PAGE_BYTES as u64 <= PAGES_OFFSET);

/// Which block of the file a block of the log is to be.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Target {
    /// A page.
    Page(PageNumber),
    /// The header.
    Header,
}

impl Target {
    /// Where it lies in the file.
    pub fn offset(self) -> u64 {
        match self {
            Self::Header => 0,
            Self::Page(number) => page_offset(number),
        }
    }
}

/// What the log is about to change: as many blocks as targets follow it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LogHeader {
    /// What the blocks are to be, in rising order; at most [`LOG_PAGES`].
    pub targets: Vec<Target>,
    /// CRC32C over the blocks.
    pub pages_checksum: u32,
}

impl LogHeader {
    /// The block before those of the log.
    pub fn encode(&self, block: &mut [u8]) {
        let mut numbers = [U64::ZERO; LOG_PAGES];
        for (slot, target) in numbers.iter_mut().zip(&self.targets) {
            *slot = U64::new(match target {
                Target::Header => HEADER_NUMBER,
                Target::Page(number) => number.number(),
            });
        }
        let log = LogBytes {
            magic: LOG_MAGIC,
            count: U32::new(u32::try_from(self.targets.len()).expect("at most LOG_PAGES")),
            pages_checksum: U32::new(self.pages_checksum),
            reserved_a: [0; 48],
            numbers,
            reserved_b: [0; 1996],
            checksum: U32::ZERO,
        };
        block[..PAGE_BYTES].copy_from_slice(log.as_bytes());
        seal(block);
    }

    /// Reads the block before those of the log. `None`: there is nothing in the log.
    pub fn parse(block: &[u8]) -> Result<Option<Self>, HashesError> {
        let (log, _) = LogBytes::ref_from_prefix(block).map_err(|_| HashesError::Short)?;
        if log.as_bytes().iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        if log.magic != LOG_MAGIC {
            return Err(HashesError::Magic);
        }
        check_seal(block)?;
        let count = log.count.get() as usize;
        if count == 0 || count > LOG_PAGES {
            return Err(HashesError::Field("count"));
        }
        let (used, unused) = log.numbers.split_at(count);
        let reserved = log.reserved_a != [0; 48] || log.reserved_b != [0; 1996];
        if reserved || unused.iter().any(|number| *number != U64::ZERO) {
            return Err(HashesError::Field("reserved"));
        }
        if used.windows(2).any(|pair| pair[0].get() >= pair[1].get()) {
            return Err(HashesError::Field("numbers"));
        }
        let target = |number: &U64| match number.get() {
            HEADER_NUMBER => Ok(Target::Header),
            number if number < PageNumber::END => Ok(Target::Page(PageNumber::new(number))),
            _ => Err(HashesError::Field("numbers")),
        };
        let targets = used.iter().map(target).collect::<Result<_, _>>()?;
        Ok(Some(Self { targets, pages_checksum: log.pages_checksum.get() }))
    }
}

/// A page: what is known of 2.5 MiB of the disk.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy)]
#[repr(C)]
struct PageBytes {
    magic: [u8; 4],
    reserved_a: [u8; 4],
    number: U64,
    /// Bit *n*: the BLAKE3 of granule *n* is known.
    hashed: U64,
    reserved_b: [u8; 40],
    /// Of each granule, bit *n*: the CRC32C of block *n* is known.
    known: [U16; PAGE_GRANULES],
    /// CRC32C of each block; zero where it is not known.
    checksums: [U32; PAGE_BLOCKS],
    /// BLAKE3 of each granule; zero where it is not known.
    hashes: [[u8; 32]; PAGE_GRANULES],
    reserved_c: [u8; 108],
    checksum: U32,
}
const _: () = assert!(size_of::<PageBytes>() == 64 + 80 + 2560 + 1280 + 108 + 4);
const _: () = assert!(size_of::<PageBytes>() == PAGE_BYTES);

/// Where a page lies in the file.
pub fn page_offset(number: PageNumber) -> u64 {
    PAGES_OFFSET + number.number() * PAGE_BYTES as u64
}

/// Writes page `number`.
pub fn encode_page(number: PageNumber, page: &Page, block: &mut [u8]) {
    let bytes = PageBytes {
        magic: PAGE_MAGIC,
        reserved_a: [0; 4],
        number: U64::new(number.number()),
        hashed: U64::new(page.hashed),
        reserved_b: [0; 40],
        known: page.known.map(U16::new),
        checksums: page.checksums.map(U32::new),
        hashes: page.hashes,
        reserved_c: [0; 108],
        checksum: U32::ZERO,
    };
    block[..PAGE_BYTES].copy_from_slice(bytes.as_bytes());
    seal(block);
}

/// Reads the page that is due to be `number`. `None`: nothing was ever written there.
pub fn parse_page(number: PageNumber, block: &[u8]) -> Result<Option<Box<Page>>, HashesError> {
    let (bytes, _) = PageBytes::ref_from_prefix(block).map_err(|_| HashesError::Short)?;
    if bytes.magic == [0; 4] && bytes.as_bytes().iter().all(|byte| *byte == 0) {
        return Ok(None);
    }
    if bytes.magic != PAGE_MAGIC {
        return Err(HashesError::Magic);
    }
    check_seal(block)?;
    if bytes.number.get() != number.number() {
        return Err(HashesError::Field("number"));
    }
    let reserved =
        bytes.reserved_a != [0; 4] || bytes.reserved_b != [0; 40] || bytes.reserved_c != [0; 108];
    if reserved {
        return Err(HashesError::Field("reserved"));
    }
    let page = Page {
        hashed: bytes.hashed.get(),
        known: bytes.known.map(U16::get),
        checksums: bytes.checksums.map(U32::get),
        hashes: bytes.hashes,
    };
    if page.hashed >> PAGE_GRANULES != 0 {
        return Err(HashesError::Field("hashed"));
    }
    for granule in 0..PAGE_GRANULES {
        let hashed = page.hashed >> granule & 1 != 0;
        let whole = page.known[granule] == u16::MAX;
        if hashed && !whole || !hashed && page.hashes[granule] != [0; 32] {
            return Err(HashesError::Field("hashes"));
        }
    }
    let unknown =
        |block: usize| page.known[block / GRANULE_BLOCKS] >> (block % GRANULE_BLOCKS) & 1 == 0;
    if (0..PAGE_BLOCKS).any(|block| unknown(block) && page.checksums[block] != 0) {
        return Err(HashesError::Field("checksums"));
    }
    Ok(Some(Box::new(page)))
}

fn seal(block: &mut [u8]) {
    let checksum = crc32c::crc32c(&block[..CHECKED_BYTES]);
    block[CHECKED_BYTES..PAGE_BYTES].copy_from_slice(&checksum.to_le_bytes());
}

fn check_seal(block: &[u8]) -> Result<(), HashesError> {
    let (checked, rest) = block.split_at_checked(CHECKED_BYTES).ok_or(HashesError::Short)?;
    let stored = rest.first_chunk().ok_or(HashesError::Short)?;
    if crc32c::crc32c(checked) == u32::from_le_bytes(*stored) {
        Ok(())
    } else {
        Err(HashesError::Checksum)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn page() -> Page {
        let mut page = Page::unknown();
        page.set_block(3, 77);
        (16..32).for_each(|block| page.set_block(block, 5));
        page.set_hash(1, [9; 32]);
        page
    }

    fn encoded(number: u64, page: &Page) -> Vec<u8> {
        let mut block = vec![1; PAGE_BYTES];
        encode_page(PageNumber::new(number), page, &mut block);
        block
    }

    #[test]
    fn every_flipped_bit_of_a_page_is_noticed_and_its_place_too() {
        let block = encoded(7, &page());
        assert_eq!(parse_page(PageNumber::new(7), &block), Ok(Some(Box::new(page()))));
        let elsewhere = parse_page(PageNumber::new(8), &block);
        assert_eq!(elsewhere, Err(HashesError::Field("number")));
        for bit in 0..PAGE_BYTES * 8 {
            let mut broken = block.clone();
            broken[bit / 8] ^= 1 << (bit % 8);
            assert!(parse_page(PageNumber::new(7), &broken).is_err(), "bit {bit} went unnoticed");
        }
        assert_eq!(parse_page(PageNumber::new(7), &[0; PAGE_BYTES]), Ok(None));
        assert_eq!(parse_page(PageNumber::new(7), &block[..4095]), Err(HashesError::Short));
    }

    #[test]
    fn headers_read_back_and_flipped_bits_are_noticed() {
        let header = Header {
            disk: DiskId::new(3),
            folder: [7; 16],
            zero_pages: PageNumber::new(9),
            floor: Sequence::new(12),
        };
        let mut block = vec![1; PAGE_BYTES];
        header.encode(&mut block);
        assert_eq!(Header::parse(&block), Ok(header));
        let targets = vec![Target::Page(PageNumber::new(2)), Target::Header];
        let log = LogHeader { targets, pages_checksum: 4 };
        let mut log_block = vec![1; PAGE_BYTES];
        log.encode(&mut log_block);
        assert_eq!(LogHeader::parse(&log_block), Ok(Some(log)));
        assert_eq!(LogHeader::parse(&[0; PAGE_BYTES]), Ok(None));
        for bit in 0..PAGE_BYTES * 8 {
            block[bit / 8] ^= 1 << (bit % 8);
            log_block[bit / 8] ^= 1 << (bit % 8);
            assert!(Header::parse(&block).is_err(), "bit {bit} went unnoticed");
            assert!(LogHeader::parse(&log_block).is_err(), "bit {bit} went unnoticed");
            block[bit / 8] ^= 1 << (bit % 8);
            log_block[bit / 8] ^= 1 << (bit % 8);
        }
    }

    #[test]
    fn what_nobody_writes_is_refused_though_it_is_sealed() {
        let (hashed, known, checksum) = (16, 64, 144);
        for (at, field) in
            [(hashed, "hashes"), (hashed + 5, "hashed"), (20, "hashes"), (24, "reserved")]
        {
            let mut block = encoded(0, &page());
            block[at] ^= 1;
            seal(&mut block);
            assert_eq!(parse_page(PageNumber::new(0), &block), Err(HashesError::Field(field)));
        }
        for at in [known, checksum] {
            let mut block = encoded(0, &page());
            block[at] ^= 8;
            seal(&mut block);
            assert_eq!(
                parse_page(PageNumber::new(0), &block),
                Err(HashesError::Field("checksums"))
            );
        }
    }

    proptest! {
        #[test]
        fn no_bytes_can_panic(bytes in proptest::collection::vec(any::<u8>(), 0..4200)) {
            let _ = Header::parse(&bytes);
            let _ = LogHeader::parse(&bytes);
            let _ = parse_page(PageNumber::new(0), &bytes);
        }
    }
}
