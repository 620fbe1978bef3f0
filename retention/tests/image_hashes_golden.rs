//! The bytes of version 1 of a file of block hashes, kept: its header, a log and a page as they stand in
//! `tests/fixtures/image-hashes-v1.hex`.
//!
//! The fixture is never edited. A change that makes this fail cannot read what is on people's disks.

use landfall_retention::ids::{DiskId, Sequence};
use landfall_retention::image_hashes::format::{
    Header, LogHeader, PAGE_BYTES, Target, encode_page, parse_page,
};
use landfall_retention::image_hashes::{Page, PageNumber};
use std::fmt::Write;

const FIXTURE: &str = include_str!("../../tests/fixtures/image-hashes-v1.hex");
const ROW: usize = 32;

/// Bytes as text: the length, then `offset times hex` for rows of 32 bytes that are not zero.
fn text_of(bytes: &[u8]) -> String {
    let mut text = format!("{}\n", bytes.len());
    let rows: Vec<&[u8]> = bytes.chunks(ROW).collect();
    let mut row = 0;
    while row < rows.len() {
        let times = rows[row..].iter().take_while(|other| **other == rows[row]).count();
        if rows[row].iter().any(|byte| *byte != 0) {
            write!(text, "{} {times} ", row * ROW).expect("a string takes it");
            rows[row].iter().for_each(|byte| write!(text, "{byte:02x}").expect("as above"));
            text.push('\n');
        }
        row += times;
    }
    text
}

fn bytes_of(text: &str) -> Vec<u8> {
    let mut lines = text.lines();
    let length = lines.next().and_then(|line| line.parse().ok()).expect("a length");
    let mut bytes = vec![0; length];
    for line in lines {
        let words: Vec<_> = line.split(' ').collect();
        let [at, times, hex] = words[..] else { panic!("{line}") };
        let (at, times): (usize, usize) = (at.parse().expect("at"), times.parse().expect("times"));
        let byte = |byte: usize| u8::from_str_radix(&hex[2 * byte..2 * byte + 2], 16).expect("hex");
        let row: Vec<u8> = (0..ROW).map(byte).collect::<Vec<_>>().repeat(times);
        bytes[at..at + row.len()].copy_from_slice(&row);
    }
    bytes
}

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
