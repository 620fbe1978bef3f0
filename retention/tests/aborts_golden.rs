//! The bytes of what is aborted, kept: a segment of the journal as it stands in `tests/fixtures/`.
//!
//! The fixture is never edited. A change that makes this fail cannot read what is on people's disks, or shows what nobody may see.

mod fixture_text;

use fixture_text::{bytes_of, text_of};
use landfall_disks::{Block, ByteRange};
use landfall_retention::ids::*;
use landfall_retention::journal::format::{
    Chain, ExtentContent, Record, RecordExtent, RecordKind, SegmentHeader,
};
use landfall_retention::journal::recovery::examine;
use landfall_retention::manifest::state::SegmentEntry;
use landfall_retention::time::Timestamp;

const SEGMENT: &str = include_str!("../../tests/fixtures/journal-v1-aborts.hex");
const SALT: u64 = 0x0123_4567_89ab_cdef;
const ID: SegmentId = SegmentId::new(17);
const SIZE: u64 = 64 << 20;

fn extent(block: u64, blocks: u64, content: ExtentContent) -> RecordExtent {
    let range = ByteRange::at(Block::new(block).offset(), blocks * 4096).expect("on a disk");
    RecordExtent { disk: DiskId::new(4), range, content }
}

fn data(body: u32, byte: u8) -> ExtentContent {
    ExtentContent::Data { body, hash: *blake3::hash(&[byte; 4096]).as_bytes() }
}

/// A group of two records of a branch, and what aborts block 3 and the zeroes of the first, and all of the second.
fn records() -> [Record; 3] {
    let first = Record {
        kind: RecordKind::Batch,
        boundary: true,
        lane_sequence: LaneSequence::new(1000),
        durable_through: LaneSequence::new(999),
        group: GroupId::new(1),
        line: LineId::new(2),
        sequence: Sequence::new(42),
        generation: Generation::default(),
        stream: StreamId::NONE,
        position: Position::default(),
        source_time: Timestamp::from_nanoseconds(1_700_000_000_000_000_001),
        commit_time: Timestamp::from_nanoseconds(1_700_000_000_000_000_002),
        previous_chain: Chain([0xc4; 32]),
        extents: vec![
            extent(3, 1, data(4096, 0xa3)),
            extent(5, 1, data(8192, 0xa5)),
            extent(100, 70_000, ExtentContent::Zero),
        ],
        seal: None,
    };
    let second = Record {
        lane_sequence: LaneSequence::new(1001),
        sequence: Sequence::new(43),
        commit_time: first.commit_time.next(),
        previous_chain: first.chain(),
        extents: vec![extent(3, 1, data(4096, 0xb3))],
        ..first.clone()
    };
    let abort = |of| ExtentContent::Abort { of: Sequence::new(of) };
    let third = Record {
        lane_sequence: LaneSequence::new(1002),
        durable_through: LaneSequence::new(1001),
        sequence: Sequence::new(44),
        commit_time: second.commit_time.next(),
        previous_chain: second.chain(),
        extents: vec![
            extent(3, 1, abort(42)),
            extent(100, 70_000, abort(42)),
            extent(3, 1, abort(43)),
        ],
        ..first.clone()
    };
    [first, second, third]
}

fn segment() -> Vec<u8> {
    let header = SegmentHeader {
        lane: LaneId::new(0),
        segment: ID,
        salt: SALT,
        first: LaneSequence::new(1000),
        size_bytes: SIZE,
        created: Timestamp::from_nanoseconds(1_700_000_000_000_000_000),
    };
    let mut bytes = vec![0; 4096];
    header.encode(&mut bytes);
    let bodies: [&[u8]; 3] = [&[0xa3, 0xa5], &[0xb3], &[]];
    for (record, bodies) in records().iter().zip(bodies) {
        let start = bytes.len();
        bytes.resize(start + 4096, 0);
        record.encode(SALT, &mut bytes[start..]);
        bodies.iter().for_each(|byte| bytes.extend([*byte; 4096]));
    }
    bytes
}

#[test]
fn a_segment_with_aborts_is_written_as_ever_and_what_they_abort_is_void() {
    assert_eq!(text_of(&segment()), SEGMENT);
    let entry = SegmentEntry {
        id: ID,
        lane: LaneId::new(0),
        salt: SALT,
        first: LaneSequence::new(1000),
        size_bytes: SIZE,
        ended: None,
    };
    let found = examine(&entry, &bytes_of(SEGMENT));
    assert_eq!((found.records.len(), &found.damage[..]), (3, &[][..]));
    let mut expected = records();
    let void =
        |content: &mut ExtentContent| *content = ExtentContent::Void { data: content.body() };
    void(&mut expected[0].extents[0].content);
    void(&mut expected[0].extents[2].content);
    void(&mut expected[1].extents[0].content);
    for (found, expected) in found.records.iter().zip(&expected) {
        assert_eq!(found.record, *expected);
    }
    let chains =
        found.records.windows(2).all(|two| two[1].record.previous_chain == two[0].record.chain());
    assert!(chains, "the chain is that of what was written");
}
