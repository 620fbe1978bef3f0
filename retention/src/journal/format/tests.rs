//! Round trips, and what damage is noticed.

use super::extent::EXTENT_BYTES;
use super::record::RECORD_HEADER_BYTES;
use super::*;
use crate::ids::*;
use crate::name::{Label, MAX_LABEL_BYTES};
use crate::point::PointKind;
use crate::sealing::Tag;
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
        seal: None,
        extents,
    }
}

/// The same, sealed by a key, where it has bodies.
fn sealed(lengths: &[(bool, u64)]) -> Record {
    let mut record = record(lengths, None);
    let bodies: u64 = record.extents.iter().map(RecordExtent::body_bytes).sum();
    let blocks = u8::try_from(bodies / UNIT).expect("few");
    let head = Record::sealed_head_bytes(lengths.len(), 0, usize::from(blocks));
    let more = head - Record::head_bytes(lengths.len(), 0);
    for extent in &mut record.extents {
        if let ExtentContent::Data { body, .. } = &mut extent.content {
            *body += u32::try_from(more).expect("little");
        }
    }
    let tags = (0..blocks).map(|at| Tag([at; 16])).collect();
    let seal = RecordSeal { key: KeyId::new(3), segment: SegmentId::new(4), unit: 5, tags };
    record.seal = (blocks > 0).then_some(seal);
    record
}

fn encoded(record: &Record) -> Vec<u8> {
    let label = record.label_bytes();
    let tags = record.seal.as_ref().map_or(0, |seal| seal.tags.len());
    let head = Record::sealed_head_bytes(record.extents.len(), label, tags);
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
fn any_flipped_bit_of_a_sealed_head_is_noticed() {
    let bytes = encoded(&sealed(&[(true, 1), (false, 3), (true, 2)]));
    let covered = RECORD_HEADER_BYTES + 3 * EXTENT_BYTES + 3 * 16;
    for bit in 0..covered * 8 {
        let mut broken = bytes.clone();
        broken[bit / 8] ^= 1 << (bit % 8);
        assert!(Record::parse(&broken, 99).is_err(), "bit {bit} went unnoticed");
    }
}

#[test]
fn every_block_of_a_sealed_record_has_its_own_nonce_and_tag() {
    let made = sealed(&[(true, 2), (false, 3), (true, 3)]);
    let at = |extent, first| {
        let (origin, tags) = made.seal_of(extent, first, 99)?;
        assert_eq!(
            (origin.key, origin.segment, origin.salt),
            (KeyId::new(3), SegmentId::new(4), 99)
        );
        Some((origin.unit, tags[0].0[0]))
    };
    // One unit of head, and bodies behind each other.
    let all = [(0, 0), (0, 1), (2, 0), (2, 1), (2, 2)].map(|(extent, first)| at(extent, first));
    assert_eq!(all, [(6, 0), (7, 1), (8, 2), (9, 3), (10, 4)].map(Some));
    assert_eq!(at(1, 0), None, "zeroes are not sealed");
    assert_eq!(record(&[(true, 1)], None).seal_of(0, 0, 99), None);
}

#[test]
fn half_a_seal_is_none() {
    let refused = |change: &dyn Fn(&mut Record)| {
        let mut record = sealed(&[(true, 1)]);
        change(&mut record);
        Record::parse(&encoded(&record), 99).err()
    };
    assert_eq!(refused(&|_| ()), None);
    let seal = Some(FormatError::Field("seal"));
    let changed = |record: &mut Record, change: &dyn Fn(&mut RecordSeal)| {
        change(record.seal.as_mut().expect("it is sealed"));
    };
    // A key, and where the record was: both or none.
    assert_eq!(refused(&|record| changed(record, &|seal| seal.unit = 0)), seal);
    assert_eq!(refused(&|record| changed(record, &|seal| seal.unit = 1 << 18)), seal);
    assert!(refused(&|record| changed(record, &|seal| seal.key = KeyId::new(0))).is_some());
    let mut nothing = record(&[(false, 1)], None);
    nothing.seal = sealed(&[(true, 1)]).seal.map(|seal| RecordSeal { tags: Vec::new(), ..seal });
    assert_eq!(Record::parse(&encoded(&nothing), 99).err(), seal, "nothing to seal");
}

/// A record that aborts the first extent of each of two earlier ones.
fn aborting(of: [u64; 2]) -> Record {
    let mut record = record(&[(false, 1), (false, 3)], None);
    for (extent, of) in record.extents.iter_mut().zip(of) {
        extent.content = ExtentContent::Abort { of: Sequence::new(of) };
    }
    record
}

#[test]
fn an_abort_says_of_which_record_and_its_root_holds_it_to_that() {
    let made = aborting([76, 5]);
    assert_eq!(Record::parse(&encoded(&made), 99), Ok(made.clone()));
    assert_eq!(made.aborts().map(Sequence::number).collect::<Vec<_>>(), [76, 5]);
    assert_ne!(made.root(), aborting([76, 6]).root());
    assert_ne!(made.root(), record(&[(false, 1), (false, 3)], None).root());
    for nonsense in [77, 78] {
        let parsed = Record::parse(&encoded(&aborting([1, nonsense])), 99);
        assert_eq!(parsed, Err(FormatError::Field("extent target")), "it aborts what comes later");
    }
    let parsed = Record::parse(&encoded(&aborting([1, 0])), 99);
    assert_eq!(parsed, Err(FormatError::Field("extent reserved")), "it aborts nothing");
}

#[test]
fn what_is_void_stays_in_root_chain_length_and_seal() {
    let whole = sealed(&[(true, 2), (false, 3), (true, 3)]);
    let mut void = whole.clone();
    for number in [0, 1] {
        void.extents[number].content = void.extents[number].content.voided();
    }
    assert_ne!(void, whole);
    assert_eq!((void.root(), void.chain()), (whole.root(), whole.chain()));
    assert_eq!(void.length_bytes(), whole.length_bytes());
    assert_eq!(void.seal_of(2, 1, 99), whole.seal_of(2, 1, 99), "tags count from the first body");
    assert_eq!(encoded(&void), encoded(&whole));
}

#[test]
fn a_record_of_another_life_is_told_apart() {
    let bytes = encoded(&record(&[(true, 1)], None));
    assert_eq!(Record::parse(&bytes, 98), Err(FormatError::Salt));
}

#[test]
fn the_longest_record_fits_the_limit() {
    let blocks = usize::try_from(MAX_BODY_BYTES / UNIT).expect("2048");
    let head = Record::sealed_head_bytes(MAX_EXTENTS, MAX_LABEL_BYTES, blocks);
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
    fn sealed_records_read_back(
        lengths in proptest::collection::vec((any::<bool>(), 1u64..9), 0..25),
    ) {
        let record = sealed(&lengths);
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
