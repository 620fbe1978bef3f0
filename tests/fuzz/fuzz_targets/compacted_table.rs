//! Tables of compacted segments.
//!
//! Oracle: whatever is understood is written again byte for byte, and every piece of it lies within its extent and within the
//! segment; any other bytes are refused.

#![no_main]

use landfall_retention::ids::SegmentId;
use landfall_retention::journal::compacted::{encode_table, parse_table};
use landfall_retention::journal::format::{ExtentContent, UNIT};
use libfuzzer_sys::fuzz_target;

const SEGMENT: u32 = 12;
const SALT: u64 = 0x1122_3344_5566_7788;
const UNITS: u32 = 4096;
const HEADER: usize = 32;

fuzz_target!(|input: (Vec<u8>, bool)| {
    let (mut bytes, sealed) = input;
    if sealed && bytes.len() >= HEADER {
        seal(&mut bytes);
    }
    let Ok(records) = parse_table(&bytes, SegmentId::new(SEGMENT), SALT, UNITS) else { return };
    let written = encode_table(SegmentId::new(SEGMENT), SALT, &records);
    assert_eq!(written[..], bytes[..written.len()]);
    for kept in &records {
        let mut end = (0, 0);
        for piece in &kept.pieces {
            let extent = &kept.record.extents[piece.extent as usize];
            assert!(matches!(extent.content, ExtentContent::Data { .. }));
            assert!(extent.range.contains(piece.range(extent)));
            assert!(u64::from(piece.unit) + piece.length() / UNIT <= u64::from(UNITS));
            assert!((piece.extent, piece.first_block) >= end);
            let blocks = u32::try_from(piece.checksums.len()).expect("few");
            end = (piece.extent, piece.first_block + blocks);
        }
    }
});

/// Makes header and checksums fit, those of the heads of records too, so that what lies behind them is reached.
fn seal(bytes: &mut [u8]) {
    let length = u32::try_from(bytes.len()).expect("small");
    bytes[..4].copy_from_slice(b"LFKT");
    bytes[4..8].copy_from_slice(&[1, 0, 0, 0]);
    bytes[16..20].copy_from_slice(&length.to_le_bytes());
    bytes[20..24].copy_from_slice(&SEGMENT.to_le_bytes());
    bytes[24..32].copy_from_slice(&SALT.to_le_bytes());
    let mut at = HEADER;
    for _ in 0..u32::from_le_bytes(bytes[12..16].try_into().expect("four")).min(64) {
        let Some(prefix) = bytes.get(at..at + 16) else { break };
        let head = u32::from_le_bytes(prefix[..4].try_into().expect("four")) as usize;
        let Some(record) = bytes.get_mut(at + 16..).and_then(|rest| rest.get_mut(..head)) else {
            break;
        };
        if head < 256 {
            break;
        }
        record[8..12].fill(0);
        let checksum = crc32c::crc32c(record);
        record[8..12].copy_from_slice(&checksum.to_le_bytes());
        // Pieces are of any length: only the first record is sealed for sure.
        at += 16 + head;
    }
    bytes[8..12].fill(0);
    let checksum = crc32c::crc32c(bytes);
    bytes[8..12].copy_from_slice(&checksum.to_le_bytes());
}
