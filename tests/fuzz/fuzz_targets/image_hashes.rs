//! Blocks of files of image hashes.
//!
//! Oracle: a block that is understood is written again byte for byte, and a page says of every block what its bytes say
//! by the byte table of `docs/formats/image-hashes.md`.

#![no_main]

use landfall_retention::image_hashes::PageNumber;
use landfall_retention::image_hashes::format::{
    Header, LogHeader, PAGE_BLOCKS, PAGE_BYTES, PAGE_GRANULES, encode_page, parse_page,
};
use libfuzzer_sys::fuzz_target;

/// The input as a block whose checksum fits, so that what is behind the checksum is reached.
fn sealed(input: &[u8]) -> Vec<u8> {
    let mut block = vec![0; PAGE_BYTES];
    let length = input.len().min(PAGE_BYTES - 4);
    block[..length].copy_from_slice(&input[..length]);
    if length > 0 {
        let checksum = crc32c::crc32c(&block[..PAGE_BYTES - 4]);
        block[PAGE_BYTES - 4..].copy_from_slice(&checksum.to_le_bytes());
    }
    block
}

fn check_page(block: &[u8]) {
    let number = u64::from_le_bytes(block[8..16].try_into().expect("eight bytes"));
    let Ok(Some(page)) = parse_page(PageNumber::new(number), block) else { return };
    let mut written = vec![1; PAGE_BYTES];
    encode_page(PageNumber::new(number), &page, &mut written);
    assert_eq!(written, block);
    for index in 0..PAGE_BLOCKS {
        let known = block[64 + index / 8] >> (index % 8) & 1 != 0;
        let at = 144 + 4 * index;
        let checksum = u32::from_le_bytes(block[at..at + 4].try_into().expect("four bytes"));
        assert_eq!(page.checksum(index), known.then_some(checksum));
    }
    for granule in 0..PAGE_GRANULES {
        let hashed = block[16 + granule / 8] >> (granule % 8) & 1 != 0;
        let hash = &block[2704 + 32 * granule..][..32];
        assert_eq!(page.hash(granule).as_ref().map(|hash| &hash[..]), hashed.then_some(hash));
        assert!(!hashed || (0..16).all(|block| page.checksum(16 * granule + block).is_some()));
    }
}

fuzz_target!(|input: &[u8]| {
    for block in [input.to_vec(), sealed(input)] {
        let mut written = vec![1; PAGE_BYTES];
        if let Ok(header) = Header::parse(&block) {
            header.encode(&mut written);
            assert_eq!(written[..], block[..PAGE_BYTES]);
        }
        if let Ok(Some(log)) = LogHeader::parse(&block) {
            log.encode(&mut written);
            assert_eq!(written[..], block[..PAGE_BYTES]);
            assert!(log.targets.windows(2).all(|pair| pair[0] < pair[1]));
        }
        if block.len() >= PAGE_BYTES {
            check_page(&block[..PAGE_BYTES]);
        }
    }
});
