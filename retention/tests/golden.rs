//! The bytes of version 1, kept: a segment of the journal and a manifest as they stand in `tests/fixtures/`.
//!
//! The fixtures are never edited. A change that makes this fail cannot read what is on people's disks.

mod fixture_text;

use fixture_text::{bytes_of, text_of};
use landfall_disks::{Block, ByteOffset, ByteRange};
use landfall_retention::StreamState;
use landfall_retention::ids::*;
use landfall_retention::index::block_key::{SizeClass, key};
use landfall_retention::index::tail_key::LineTail;
use landfall_retention::journal::compacted::{KeptRecord, Piece, encode_table, parse_table};
use landfall_retention::journal::format::{
    Chain, ExtentContent, Record, RecordExtent, RecordKind, SegmentHeader,
};
use landfall_retention::journal::recovery::{FoundRecord, examine};
use landfall_retention::manifest::compacted::CompactedEntry;
use landfall_retention::manifest::format::{
    HEADER_BYTES, encode_frame, encode_header, parse_frame, parse_header,
};
use landfall_retention::manifest::history::HistoryStart;
use landfall_retention::manifest::record::{GivenIds, ManifestRecord};
use landfall_retention::manifest::released::ReleasedLine;
use landfall_retention::manifest::state::{ManifestState, SegmentEntry};
use landfall_retention::manifest::streams::StreamChange;
use landfall_retention::name::{Label, Name};
use landfall_retention::ordered::Stretch;
use landfall_retention::point::PointKind;
use landfall_retention::policy::ClockAlarm;
use landfall_retention::time::Timestamp;

const SALT: u64 = 0x0123_4567_89ab_cdef;

fn range(block: u64, blocks: u64) -> ByteRange {
    ByteRange::at(ByteOffset::new(block * 4096), blocks * 4096).expect("small")
}

fn segment_header() -> SegmentHeader {
    SegmentHeader {
        lane: LaneId::new(1),
        segment: SegmentId::new(7),
        salt: SALT,
        first: LaneSequence::new(100),
        size_bytes: 64 << 20,
        created: Timestamp::from_nanoseconds(1_795_000_000_123_456_789),
    }
}

/// A batch of a stream, the mark that follows it, a write of a branch, and a record that vouches.
fn records() -> Vec<Record> {
    let data = |body, byte: u8, blocks: usize| ExtentContent::Data {
        body,
        hash: *blake3::hash(&[byte].repeat(4096).repeat(blocks)).as_bytes(),
    };
    let batch = Record {
        kind: RecordKind::Batch,
        boundary: false,
        lane_sequence: LaneSequence::new(100),
        durable_through: LaneSequence::new(99),
        group: GroupId::new(3),
        line: LineId::new(2),
        sequence: Sequence::new(41),
        generation: Generation::new(5),
        stream: StreamId::new(*b"0123456789abcdef"),
        position: Position::new(1000),
        source_time: Timestamp::from_nanoseconds(1_795_000_000_000_000_001),
        commit_time: Timestamp::from_nanoseconds(1_795_000_000_000_000_002),
        previous_chain: Chain([0xc4; 32]),
        seal: None,
        extents: vec![
            RecordExtent { disk: DiskId::new(4), range: range(3, 1), content: data(4096, 0x5a, 1) },
            RecordExtent {
                disk: DiskId::new(4),
                range: range(1 << 18, 1 << 12),
                content: ExtentContent::Zero,
            },
            RecordExtent {
                disk: DiskId::new(9),
                range: range(16, 2),
                content: data(8192, 0xa5, 2),
            },
        ],
    };
    let mark = Record {
        kind: RecordKind::Mark {
            kind: PointKind::App,
            label: Some(Label::parse("before patch 12").expect("a label")),
        },
        boundary: true,
        lane_sequence: LaneSequence::new(101),
        durable_through: LaneSequence::new(99),
        sequence: Sequence::new(42),
        position: Position::new(1001),
        commit_time: batch.commit_time.next(),
        previous_chain: batch.chain(),
        seal: None,
        extents: Vec::new(),
        ..batch.clone()
    };
    let branch = Record {
        kind: RecordKind::Batch,
        boundary: true,
        lane_sequence: LaneSequence::new(102),
        durable_through: LaneSequence::new(101),
        line: LineId::new(8),
        sequence: Sequence::new(1),
        generation: Generation::default(),
        stream: StreamId::NONE,
        position: Position::default(),
        previous_chain: Chain::default(),
        seal: None,
        extents: vec![RecordExtent {
            disk: DiskId::new(4),
            range: range(0, 1),
            content: data(4096, 0x77, 1),
        }],
        ..batch.clone()
    };
    let vouch = Record::vouch(LaneSequence::new(103), LaneSequence::new(102));
    vec![batch, mark, branch, vouch]
}

fn segment() -> Vec<u8> {
    let mut bytes = vec![0; 4096];
    segment_header().encode(&mut bytes);
    let bodies: [&[(u8, usize)]; 4] = [&[(0x5a, 1), (0xa5, 2)], &[], &[(0x77, 1)], &[]];
    for (record, bodies) in records().iter().zip(bodies) {
        let start = bytes.len();
        bytes.resize(start + 4096, 0);
        record.encode(SALT, &mut bytes[start..]);
        bodies.iter().for_each(|(byte, blocks)| bytes.extend([*byte].repeat(blocks * 4096)));
    }
    bytes
}

fn name(text: &str) -> Name {
    Name::parse(text).expect("a name")
}

/// Two frames: one record of each kind that a state keeps, then one of each that takes away.
fn frames() -> [Vec<ManifestRecord>; 2] {
    let (trunk, branch) = (LineId::new(2), LineId::new(8));
    let sequence = Sequence::new(42);
    let kept = vec![
        ManifestRecord::MachineAdded {
            machine: MachineId::new(1),
            name: name("web-1.example"),
            display_name: "Web, first floor – blue".into(),
            group: GroupId::new(3),
            trunk,
            lane: LaneId::new(1),
        },
        ManifestRecord::DiskAdded {
            disk: DiskId::new(4),
            machine: MachineId::new(1),
            name: name("os"),
            size_bytes: 40 << 30,
            format: "raw".into(),
            image: "web-1.example/os.raw".into(),
        },
        ManifestRecord::SeedFinished { disk: DiskId::new(4), floor: Sequence::new(40) },
        ManifestRecord::ImageLost { disk: DiskId::new(4), reason: "os.raw is missing".into() },
        ManifestRecord::GenerationRaised {
            line: trunk,
            generation: Generation::new(5),
            oldest_welcome: Generation::new(4),
            stream: StreamId::new(*b"0123456789abcdef"),
        },
        ManifestRecord::BranchAdded {
            line: branch,
            name: name("test"),
            parent: trunk,
            origin: sequence,
            origin_time: Timestamp::from_nanoseconds(1_795_000_000_000_000_003),
        },
        ManifestRecord::PointPinned { line: trunk, sequence },
        ManifestRecord::SegmentBorn {
            segment: SegmentId::new(7),
            lane: LaneId::new(1),
            salt: SALT,
            first: LaneSequence::new(100),
            size_bytes: 64 << 20,
        },
        ManifestRecord::SegmentEnded {
            segment: SegmentId::new(7),
            end: 36864,
            next: LaneSequence::new(104),
        },
        ManifestRecord::ExportAdded {
            export: ExportId::new(6),
            name: "web-1.example~test".into(),
            line: branch,
            sequence: None,
            writable: true,
        },
        ManifestRecord::ExportAdded {
            export: ExportId::new(7),
            name: "web-1.example@seq:42".into(),
            line: trunk,
            sequence: Some(sequence),
            writable: false,
        },
        ManifestRecord::IdsGiven(GivenIds {
            machine: MachineId::new(11),
            group: GroupId::new(12),
            disk: DiskId::new(13),
            line: LineId::new(14),
            segment: SegmentId::new(15),
            export: ExportId::new(16),
        }),
    ];
    let taken = vec![
        ManifestRecord::ExportRemoved { export: ExportId::new(6) },
        ManifestRecord::PointUnpinned { line: trunk, sequence },
        ManifestRecord::BranchDiscarded { line: branch },
        ManifestRecord::MachineRemoved { machine: MachineId::new(1) },
    ];
    [kept, taken]
}

/// What came later: policies, locks, dropped points and the clock.
fn keeping_frames() -> [Vec<ManifestRecord>; 2] {
    let [mut kept, _] = frames();
    kept.truncate(1);
    let (line, policy) = (LineId::new(2), "keep all for 2h, hourly for 7d, quota 1TiB shorten");
    let policy = policy.parse().expect("a policy");
    let time = |number: u64| Timestamp::from_nanoseconds(1_795_000_000_000_000_000 + number);
    let sequence = Sequence::new;
    kept.extend([
        ManifestRecord::PolicySet { group: GroupId::new(3), policy },
        ManifestRecord::PointLocked { line, sequence: sequence(42), until: time(9) },
        ManifestRecord::ClockSeen { time: time(4) },
        ManifestRecord::PointsDropped {
            line,
            first: sequence(1),
            last: sequence(1000),
            kept: [3, 4, 42, 500, 1000].map(sequence).to_vec(),
        },
    ]);
    let alarm = ClockAlarm { expected: time(5), found: time(1_000_000_000_000) };
    let clock = vec![
        ManifestRecord::ClockAlarmRaised(alarm),
        ManifestRecord::ClockAlarmAcknowledged { time: time(8) },
    ];
    [kept, clock]
}

fn manifest(frames: [Vec<ManifestRecord>; 2]) -> Vec<u8> {
    let mut bytes = encode_header(*b"fedcba9876543210").to_vec();
    for (number, records) in (0..).zip(frames) {
        encode_frame(number, &records, &mut bytes);
    }
    bytes
}

const JOURNAL_V1: &str = include_str!("../../tests/fixtures/journal-v1.hex");
const MANIFEST_V1: &str = include_str!("../../tests/fixtures/manifest-v1.hex");
const MANIFEST_KEEPING: &str = include_str!("../../tests/fixtures/manifest-v1-keeping.hex");
const COMPACTED_V1: &str = include_str!("../../tests/fixtures/compacted-v1.hex");
const MANIFEST_COMPACTED: &str = include_str!("../../tests/fixtures/manifest-v1-compacted.hex");
const MANIFEST_V1_DISKS: &str = include_str!("../../tests/fixtures/manifest-v1-disks.hex");
const MANIFEST_V1_STREAMS: &str = include_str!("../../tests/fixtures/manifest-v1-streams.hex");
const MANIFEST_LINEAGE: &str = include_str!("../../tests/fixtures/manifest-v1-lineage.hex");
const MANIFEST_V1_HISTORY: &str = include_str!("../../tests/fixtures/manifest-v1-history.hex");

#[test]
fn a_segment_of_version_1_is_read() {
    let bytes = bytes_of(JOURNAL_V1);
    assert_eq!(SegmentHeader::parse(&bytes), Ok(segment_header()));
    let header = segment_header();
    let entry = SegmentEntry {
        id: header.segment,
        lane: header.lane,
        salt: SALT,
        first: header.first,
        size_bytes: header.size_bytes,
        ended: None,
    };
    let found = examine(&entry, &bytes);
    let offsets = [4096, 20480, 24576, 32768];
    let expected: Vec<FoundRecord> = offsets
        .into_iter()
        .zip(records())
        .map(|(offset, record)| FoundRecord {
            offset,
            record,
            damaged_bodies: Vec::new(),
            after_loss: false,
        })
        .collect();
    assert_eq!(found.records, expected);
    assert_eq!((found.end, found.next), (36864, LaneSequence::new(104)));
    assert_eq!(found.damage, []);
}

#[test]
fn a_segment_is_written_as_ever() {
    assert_eq!(text_of(&segment()), JOURNAL_V1);
}

#[test]
fn chains_are_what_they_were() {
    let chains: Vec<String> = records()[..2]
        .iter()
        .map(|record| record.chain().0.iter().map(|byte| format!("{byte:02x}")).collect())
        .collect();
    assert_eq!(chains, CHAINS);
}

/// What the manifest in this fixture adds up to, which has these frames.
fn state_of(text: &str, frames: [Vec<ManifestRecord>; 2]) -> ManifestState {
    let bytes = bytes_of(text);
    assert_eq!(parse_header(&bytes), Ok(*b"fedcba9876543210"));
    let mut rest = &bytes[HEADER_BYTES..];
    let mut state = ManifestState::default();
    for (number, expected) in (0..).zip(frames) {
        let (records, length) = parse_frame(rest, number).expect("a whole frame");
        assert_eq!(records, expected);
        records.iter().for_each(|record| state.apply(record).expect("it fits"));
        rest = &rest[length..];
    }
    assert!(rest.is_empty());
    state
}

#[test]
fn a_manifest_of_version_1_is_read() {
    let state = state_of(MANIFEST_V1, frames());
    assert!(state.machines.is_empty() && state.lines.is_empty() && state.exports.is_empty());
    assert_eq!(state.given.line, LineId::new(14));
}

#[test]
fn policies_locks_and_dropped_points_are_read() {
    let state = state_of(MANIFEST_KEEPING, keeping_frames());
    let line = &state.lines[&LineId::new(2)];
    let kept = (1..=1001).map(Sequence::new).filter(|at| !line.dropped.contains(*at));
    assert_eq!(kept.collect::<Vec<_>>(), [3, 4, 42, 500, 1000, 1001].map(Sequence::new));
    assert!(line.lock_at(Sequence::new(42), state.clock.seen).is_some());
    assert_eq!(state.policies[&GroupId::new(3)].space().map(|quota| quota.bytes), Some(1 << 40));
    assert_eq!(state.clock.alarm, None);
}

#[test]
fn a_manifest_is_written_as_ever() {
    assert_eq!(text_of(&manifest(frames())), MANIFEST_V1);
    assert_eq!(text_of(&manifest(keeping_frames())), MANIFEST_KEEPING);
}

/// A machine with a segment; then its history begins later, twice; then the segment is released.
fn history_frames() -> [Vec<ManifestRecord>; 3] {
    let (line, disk, lane) = (LineId::new(2), DiskId::new(4), LaneId::new(1));
    let (first, next) = (LaneSequence::new(100), LaneSequence::new(104));
    let time = |after: u64| Timestamp::from_nanoseconds(1_795_000_000_000_000_000 + after);
    let [kept, _] = frames();
    let mut machine: Vec<_> = kept
        .into_iter()
        .filter(|record| {
            matches!(
                record,
                ManifestRecord::MachineAdded { .. }
                    | ManifestRecord::DiskAdded { .. }
                    | ManifestRecord::SeedFinished { .. }
                    | ManifestRecord::SegmentBorn { .. }
                    | ManifestRecord::SegmentEnded { .. }
            )
        })
        .collect();
    if let ManifestRecord::MachineAdded { display_name, .. } = &mut machine[0] {
        *display_name = "Web".into();
    }
    let boundary = HistoryStart {
        sequence: Sequence::new(41),
        commit_time: time(2),
        source_time: Timestamp::default(),
        kind: None,
        label: None,
    };
    let point = HistoryStart {
        sequence: Sequence::new(42),
        commit_time: time(3),
        source_time: time(1),
        kind: Some(PointKind::App),
        label: Some(Label::parse("before patch 12").expect("a label")),
    };
    let folded = vec![
        ManifestRecord::FoldStarted { line, start: boundary },
        ManifestRecord::FoldStarted { line, start: point },
        ManifestRecord::FoldDone { disk, floor: Sequence::new(42) },
    ];
    let tail = LineTail {
        sequence: Sequence::new(42),
        commit_time: time(3),
        generation: Generation::new(5),
        stream: StreamId::new(*b"0123456789abcdef"),
        position: Position::new(1001),
        chain: Chain([0xc5; 32]),
    };
    let released = ReleasedLine { first: Sequence::new(41), chain_before: Chain([0xc4; 32]), tail };
    let gone = vec![
        ManifestRecord::RecordsReleased { lane, first, next },
        ManifestRecord::LineReleased { lane, at: first, line, released },
        ManifestRecord::SegmentReleased { segment: SegmentId::new(7) },
    ];
    [machine, folded, gone]
}

#[test]
fn a_manifest_with_folds_and_released_segments_is_read() {
    let bytes = bytes_of(MANIFEST_V1_HISTORY);
    assert_eq!(parse_header(&bytes), Ok(*b"fedcba9876543210"));
    let mut rest = &bytes[HEADER_BYTES..];
    let mut state = ManifestState::default();
    for (number, expected) in (0..).zip(history_frames()) {
        let (records, length) = parse_frame(rest, number).expect("a whole frame");
        assert_eq!(records, expected);
        records.iter().for_each(|record| state.apply(record).expect("it fits"));
        rest = &rest[length..];
    }
    assert!(rest.is_empty() && state.segments.is_empty());
    assert_eq!(state.disks[&DiskId::new(4)].floor, Some(Sequence::new(42)));
    let (first, run) = state.released.of_lane(LaneId::new(1)).next().expect("one run");
    assert_eq!((first, run.next), (LaneSequence::new(100), LaneSequence::new(104)));
}

#[test]
fn folds_and_released_segments_are_written_as_ever() {
    let mut bytes = encode_header(*b"fedcba9876543210").to_vec();
    for (number, records) in (0..).zip(history_frames()) {
        encode_frame(number, &records, &mut bytes);
    }
    assert_eq!(text_of(&bytes), MANIFEST_V1_HISTORY);
}

/// A machine whose disk grows, that gets a second one, and loses it.
fn disk_frames() -> [Vec<ManifestRecord>; 3] {
    let [mut machine, _, _] = history_frames();
    machine.truncate(3);
    let (first, second, sequence) = (DiskId::new(4), DiskId::new(5), Sequence::new(42));
    let changed = vec![
        ManifestRecord::DiskGrown { disk: first, above: sequence, size_bytes: 80 << 30 },
        ManifestRecord::DiskAdded {
            disk: second,
            machine: MachineId::new(1),
            name: name("data"),
            size_bytes: 1 << 30,
            format: "raw".into(),
            image: "web-1.example/data.raw".into(),
        },
        ManifestRecord::SeedFinished { disk: second, floor: sequence },
        ManifestRecord::DiskJoined { disk: second, since: sequence },
    ];
    let left = vec![
        ManifestRecord::DiskRemoved { disk: second, until: Sequence::new(50) },
        ManifestRecord::DiskForgotten { disk: second },
    ];
    [machine, changed, left]
}

#[test]
fn disks_that_change_are_read_and_written_as_ever() {
    let bytes = bytes_of(MANIFEST_V1_DISKS);
    let mut rest = &bytes[HEADER_BYTES..];
    let mut state = ManifestState::default();
    let mut written = encode_header(*b"fedcba9876543210").to_vec();
    for (number, expected) in (0..).zip(disk_frames()) {
        let (records, length) = parse_frame(rest, number).expect("a whole frame");
        assert_eq!(records, expected);
        records.iter().for_each(|record| state.apply(record).expect("it fits"));
        encode_frame(number, &records, &mut written);
        rest = &rest[length..];
    }
    assert!(rest.is_empty());
    assert_eq!(text_of(&written), MANIFEST_V1_DISKS);
    let disks: Vec<_> = state.disks.values().map(|disk| (disk.id, &disk.span)).collect();
    let [(id, span)] = disks[..] else { panic!("{disks:?}") };
    assert_eq!(
        (id, span.newest_size(), span.size_at(Sequence::new(42))),
        (DiskId::new(4), 80 << 30, 40 << 30)
    );
}

/// A stream that went through everything, and a stretch of a snapshot.
fn stream_frames() -> [Vec<ManifestRecord>; 2] {
    let [mut machine, _, _] = history_frames();
    machine.truncate(1);
    let (line, sequence) = (LineId::new(2), Sequence::new);
    machine.push(ManifestRecord::StretchOrdered { line, first: sequence(3), last: sequence(5) });
    let states = [
        (StreamState::Seed, 5),
        (StreamState::Resync, 5),
        (StreamState::Catchup, 9),
        (StreamState::Ordered, 10),
        (StreamState::Catchup, 42),
    ];
    let changed = |(after, (state, at)): (u64, (StreamState, u64))| {
        let time = Timestamp::from_nanoseconds(1_795_000_000_000_000_000 + after);
        let change = StreamChange { state, at: sequence(at), time };
        ManifestRecord::StreamChanged { line, change }
    };
    [machine, (1..).zip(states).map(changed).collect()]
}

#[test]
fn states_of_streams_are_read_and_written_as_ever() {
    assert_eq!(text_of(&manifest(stream_frames())), MANIFEST_V1_STREAMS);
    let state = state_of(MANIFEST_V1_STREAMS, stream_frames());
    let stream = &state.lines[&LineId::new(2)].stream_entry;
    let stretch = |first, last| Stretch { first: Sequence::new(first), last: Sequence::new(last) };
    assert_eq!(stream.ordered.ended(), [stretch(3, 5), stretch(10, 42)]);
    let last = stream.state.map(|last| (last.state, last.at));
    assert_eq!(last, Some((StreamState::Catchup, Sequence::new(42))));
}

/// The example of `docs/formats/index.md`.
#[test]
fn keys_of_versions_are_what_they_were() {
    let (line, disk) = (LineId::new(2), DiskId::new(5));
    let key = key(line, disk, SizeClass::Block, Block::new(3), Sequence::new(12));
    let hex: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(hex, "010000000200000005000000000003fffffffffffffff3");
}

const CHAINS: [&str; 2] = [
    "c6347b9270874a6a45e02519008c9ab3f3854867271312a04edc9643970c725d",
    "ef4bead807eca6c0409d1384a2f3c95351e85c5325280871f0b646a7a6cb1b1d",
];

/// What is kept of the batch and the mark: the second of the last two blocks, and what was said of both.
fn kept_records() -> Vec<KeptRecord> {
    let bytes = segment();
    let head =
        |record: &Record, offset: usize| bytes[offset..offset + record.head_length()].to_vec();
    let [batch, mark, ..] = &records()[..] else { panic!("four records") };
    let body = [0xa5; 4096];
    let piece = Piece {
        extent: 2,
        first_block: 1,
        unit: 1,
        hash: *blake3::hash(&body).as_bytes(),
        checksums: vec![crc32c::crc32c(&body)],
    };
    let kept = |record: &Record, offset, pieces| KeptRecord {
        record: record.clone(),
        head: head(record, offset),
        salt: SALT,
        pieces,
    };
    vec![kept(batch, 4096, vec![piece]), kept(mark, 20480, Vec::new())]
}

#[test]
fn the_table_of_a_compacted_segment_is_what_it_was() {
    let written = encode_table(SegmentId::new(12), !SALT, &kept_records());
    assert_eq!(text_of(&written), COMPACTED_V1);
    let read = parse_table(&bytes_of(COMPACTED_V1), SegmentId::new(12), !SALT, 2);
    assert_eq!(read, Ok(kept_records()));
    let chains: Vec<Chain> = kept_records().iter().map(|kept| kept.record.chain()).collect();
    assert_eq!(chains, records()[..2].iter().map(Record::chain).collect::<Vec<_>>());
}

/// A segment was compacted; then it is released.
fn compacted_frames() -> [Vec<ManifestRecord>; 2] {
    let [machine, _, gone] = history_frames();
    let entry = CompactedEntry {
        id: SegmentId::new(12),
        lane: LaneId::new(1),
        salt: !SALT,
        size_bytes: 16384,
        table: 8192,
        through: LaneSequence::new(101),
        from: vec![SegmentId::new(7)],
    };
    let mut compacted = machine;
    compacted.push(ManifestRecord::SegmentCompacted(entry));
    [compacted, gone]
}

#[test]
fn a_manifest_with_compacted_segments_is_what_it_was() {
    assert_eq!(text_of(&manifest(compacted_frames())), MANIFEST_COMPACTED);
    let state = state_of(MANIFEST_COMPACTED, compacted_frames());
    let entry = &state.compacted[&SegmentId::new(12)];
    assert!(state.segments.is_empty() && entry.from.is_empty());
    assert_eq!(state.given.segment, SegmentId::new(12));
}

/// A branch whose disk grows is promoted; the old trunk stays as a branch, and all of it is written as a snapshot.
fn lineage_frames() -> [Vec<ManifestRecord>; 3] {
    let [mut machine, _, _] = history_frames();
    machine.truncate(3);
    let (line, disk, origin) = (LineId::new(9), DiskId::new(4), Sequence::new(42));
    let started = vec![
        ManifestRecord::BranchStarted {
            line,
            name: name("test"),
            parent: LineId::new(2),
            origin,
            origin_time: Timestamp::from_nanoseconds(1_700_000_000_000_000_000),
        },
        ManifestRecord::BranchDiskGrown { line, disk, above: origin, size_bytes: 80 << 30 },
    ];
    let promoted = vec![ManifestRecord::BranchPromoted {
        line,
        old: name("old"),
        instants: Sequence::new(50),
        generation: Generation::new(7),
    }];
    [machine, started, promoted]
}

#[test]
fn a_manifest_with_a_promoted_branch_is_what_it_was() {
    let frames = lineage_frames();
    let mut state = ManifestState::default();
    frames.iter().flatten().for_each(|record| state.apply(record).expect("it fits"));
    let [machine, started, promoted] = frames;
    let all = [machine, started, promoted, state.records()];
    let mut bytes = encode_header(*b"fedcba9876543210").to_vec();
    for (number, records) in (0..).zip(&all) {
        encode_frame(number, records, &mut bytes);
    }
    assert_eq!(text_of(&bytes), MANIFEST_LINEAGE);
    let trunk = &state.lines[&LineId::new(9)];
    assert_eq!((trunk.origin, trunk.generation), (None, Generation::new(7)));
    assert!(state.lines[&LineId::new(2)].sealed);
}
