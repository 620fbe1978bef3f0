//! The bytes of version 1 of a file of block hashes, kept: its header, a log and a page as they stand in
//! `tests/fixtures/image-hashes-v1.hex`.
//!
//! The fixture is never edited. A change that makes this fail cannot read what is on people's disks.

mod fixture_text;

use fixture_text::{bytes_of, text_of};
use landfall_retention::ids::{DiskId, Sequence};
use landfall_retention::image_hashes::format::{
    Header, LogHeader, PAGE_BYTES, Target, encode_page, parse_page,
};
use landfall_retention::image_hashes::{Page, PageNumber};

const FIXTURE: &str = include_str!("../../tests/fixtures/image-hashes-v1.hex");

fn header() -> Header {
    Header {
        disk: DiskId::new(4),
        folder: *b"fedcba9876543210",
        zero_pages: PageNumber::new(12),
        floor: Sequence::new(42),
    }
}

fn log() -> LogHeader {
    let targets = vec![Target::Page(PageNumber::new(3)), Target::Header];
    LogHeader { targets, pages_checksum: 0x0123_4567 }
}

fn page() -> Page {
    let mut page = Page::unknown();
    page.set_block(2, 0xdead_beef);
    (16..32).for_each(|block| page.set_block(block, 0x0101_0101));
    page.set_hash(1, [0xc4; 32]);
    page.set_zeroes(600..640);
    page
}

fn written() -> Vec<u8> {
    let mut bytes = vec![0; 3 * PAGE_BYTES];
    header().encode(&mut bytes);
    log().encode(&mut bytes[PAGE_BYTES..]);
    encode_page(PageNumber::new(3), &page(), &mut bytes[2 * PAGE_BYTES..]);
    bytes
}

#[test]
fn version_1_is_read() {
    let bytes = bytes_of(FIXTURE);
    assert_eq!(Header::parse(&bytes), Ok(header()));
    assert_eq!(LogHeader::parse(&bytes[PAGE_BYTES..]), Ok(Some(log())));
    let found = parse_page(PageNumber::new(3), &bytes[2 * PAGE_BYTES..]);
    assert_eq!(found, Ok(Some(Box::new(page()))));
}

#[test]
fn version_1_is_written_as_ever() {
    assert_eq!(text_of(&written()), FIXTURE);
}
