//! Round trips, and what damage is noticed.

use super::extent::EXTENT_BYTES;
use super::record::RECORD_HEADER_BYTES;
use super::*;
use crate::ids::*;
use crate::name::{Label, MAX_LABEL_BYTES};
use crate::point::PointKind;
use crate::time::Timestamp;
use landfall_disks::{ByteOffset, ByteRange};
use proptest::prelude::*;

fn record(lengths: &[(bool, u64)], label: Option<&str>) -> Record {
    let kind = match label {
        Some(label) => RecordKind::Mark {
            kind: PointKind::App,
            label: (!label.is_empty()).then(|| Label::parse(label).unwrap()),
        },
        None => RecordKind::Batch,
    };
    let mut body = Record::head_bytes(lengths.len(), 0);
    let mut at = 0;
    let extents = lengths
        .iter()
        .map(|(data, blocks)| {
            let range = ByteRange::at(ByteOffset::new(at), blocks * UNIT).unwrap();
            at = range.end().bytes() + UNIT;
            let content = if *data {
                let content =
                    ExtentContent::Data { body: u32::try_from(body).unwrap(), hash: [7; 32] };
                body += range.length();
                content
            } else {
                ExtentContent::Zero
            };
            RecordExtent { disk: DiskId::new(3), range, content }
        })
        .collect();
    Record {
        kind,
        boundary: true,
        lane_sequence: LaneSequence::new(9),
        durable_through: LaneSequence::new(4),
        group: GroupId::new(1),
        line: LineId::new(2),
        sequence: Sequence::new(77),
        generation: Generation::new(5),
        stream: StreamId::new([6; 16]),
        position: Position::new(8),
        source_time: Timestamp::from_nanoseconds(11),
        commit_time: Timestamp::from_nanoseconds(12),
        previous_chain: Chain([13; 32]),
        extents,
    }
}

fn encoded(record: &Record) -> Vec<u8> {
    let label = record.label_bytes();
    let head = Record::head_bytes(record.extents.len(), label);
    let mut bytes = vec![0; usize::try_from(head).unwrap()];
    record.encode(99, &mut bytes);
    bytes
}

#[test]
fn any_flipped_bit_of_a_head_is_noticed() {
    let record = record(&[(true, 1), (false, 3)], None);
    let bytes = encoded(&record);
    let covered = RECORD_HEADER_BYTES + 2 * EXTENT_BYTES;
    for bit in 0..covered * 8 {
        let mut broken = bytes.clone();
        broken[bit / 8] ^= 1 << (bit % 8);
        assert!(Record::parse(&broken, 99).is_err(), "bit {bit} went unnoticed");
    }
}

#[test]
fn a_record_of_another_life_is_told_apart() {
    let bytes = encoded(&record(&[(true, 1)], None));
    assert_eq!(Record::parse(&bytes, 98), Err(FormatError::Salt));
}

#[test]
fn the_longest_record_fits_the_limit() {
    let head = Record::head_bytes(MAX_EXTENTS, MAX_LABEL_BYTES);
    assert!(head + MAX_BODY_BYTES <= MAX_RECORD_BYTES);
}

#[test]
fn segment_headers_read_back() {
    let header = SegmentHeader {
        lane: LaneId::new(1),
        segment: SegmentId::new(7),
        salt: 42,
        first: LaneSequence::new(1000),
        size_bytes: 64 << 20,
        created: Timestamp::from_nanoseconds(5),
    };
    let mut block = vec![1; 4096];
    header.encode(&mut block);
    assert_eq!(SegmentHeader::parse(&block), Ok(header));
    block[17] ^= 1;
    assert_eq!(SegmentHeader::parse(&block), Err(FormatError::Checksum));
}

proptest! {
    #[test]
    fn records_read_back(
        lengths in proptest::collection::vec((any::<bool>(), 1u64..20), 0..60),
    ) {
        let record = record(&lengths, None);
        let bytes = encoded(&record);
        prop_assert_eq!(Record::parse(&bytes, 99), Ok(record));
    }

    #[test]
    fn marks_read_back(label in "[a-z]{0,20}") {
        let record = record(&[], Some(&label));
        prop_assert_eq!(Record::parse(&encoded(&record), 99), Ok(record));
    }

    #[test]
    fn no_bytes_can_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        let _ = Record::parse(&bytes, 0);
        let _ = SegmentHeader::parse(&bytes);
    }

    #[test]
    fn a_sealed_lie_cannot_panic(at in 0usize..416, value in any::<u8>()) {
        let mut bytes = encoded(&record(&[(true, 1), (false, 3)], None));
        bytes[at] = value;
        bytes[8..12].fill(0);
        let checksum = crc32c::crc32c(&bytes[..416]);
        bytes[8..12].copy_from_slice(&checksum.to_le_bytes());
        let _ = Record::parse(&bytes, 99);
    }
}
