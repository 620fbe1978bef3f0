//! Records: that each reads back, and that nothing else is read.

use super::*;
use crate::ids::{KeyId, Position};
use crate::index::tail_key::LineTail;
use crate::journal::format::Chain;
use crate::manifest::FrameError;
use crate::manifest::format::{encode_frame, parse_frame};
use crate::manifest::iscsi::ChapAccount;
use crate::name::Label;
use crate::point::PointKind;
use crate::sealing::{KekId, WRAPPED_BYTES, WrappedKey};
use crate::stream::StreamState;
use zeroize::Zeroizing;

fn start(kind: Option<PointKind>, label: Option<&str>) -> HistoryStart {
    HistoryStart {
        sequence: Sequence::new(3),
        commit_time: Timestamp::from_nanoseconds(18),
        source_time: Timestamp::from_nanoseconds(kind.map_or(0, |_| 17)),
        kind,
        label: label.map(|text| Label::parse(text).unwrap()),
    }
}

fn released() -> ReleasedLine {
    let tail = LineTail {
        sequence: Sequence::new(9),
        commit_time: Timestamp::from_nanoseconds(18),
        generation: Generation::new(9),
        stream: StreamId::new([1; 16]),
        position: Position::new(20),
        chain: Chain([2; 32]),
    };
    ReleasedLine { first: Sequence::new(3), chain_before: Chain([3; 32]), tail }
}

fn change(state: StreamState) -> StreamChange {
    StreamChange { state, at: Sequence::new(23), time: Timestamp::from_nanoseconds(24) }
}

fn one_of_each() -> Vec<ManifestRecord> {
    [of_machines_and_journal(), of_history_and_keeping(), of_lineages()].concat()
}

fn of_machines_and_journal() -> Vec<ManifestRecord> {
    let name = Name::parse("web").unwrap();
    let (machine, line, sequence) = (MachineId::new(1), LineId::new(2), Sequence::new(3));
    vec![
        ManifestRecord::MachineAdded {
            machine,
            name: name.clone(),
            display_name: "Web server".into(),
            group: GroupId::new(4),
            trunk: line,
            lane: LaneId::new(5),
        },
        ManifestRecord::MachineRemoved { machine },
        ManifestRecord::DiskAdded {
            disk: DiskId::new(6),
            machine,
            name: name.clone(),
            size_bytes: 7,
            format: "raw".into(),
            image: "/images/web/os.raw".into(),
        },
        ManifestRecord::SeedFinished { disk: DiskId::new(6), floor: sequence },
        ManifestRecord::ImageLost { disk: DiskId::new(6), reason: "gone".into() },
        ManifestRecord::BranchAdded {
            line,
            name,
            parent: LineId::new(8),
            origin: sequence,
            origin_time: Timestamp::from_nanoseconds(9),
        },
        ManifestRecord::BranchDiscarded { line },
        ManifestRecord::GenerationRaised {
            line,
            generation: Generation::new(9),
            oldest_welcome: Generation::new(8),
            stream: StreamId::new([1; 16]),
        },
        ManifestRecord::SegmentBorn {
            segment: SegmentId::new(10),
            lane: LaneId::new(5),
            salt: 11,
            first: LaneSequence::new(12),
            size_bytes: 13,
        },
        ManifestRecord::SegmentEnded {
            segment: SegmentId::new(10),
            end: 14,
            next: LaneSequence::new(15),
        },
        ManifestRecord::ExportAdded {
            export: ExportId::new(16),
            name: "web~b".into(),
            line,
            sequence: None,
            writable: true,
        },
        ManifestRecord::ExportAdded {
            export: ExportId::new(17),
            name: "web@seq:3".into(),
            line,
            sequence: Some(sequence),
            writable: false,
        },
        ManifestRecord::ExportRemoved { export: ExportId::new(16) },
        ManifestRecord::PointPinned { line, sequence },
        ManifestRecord::PointUnpinned { line, sequence },
    ]
}

fn of_history_and_keeping() -> Vec<ManifestRecord> {
    let (line, sequence) = (LineId::new(2), Sequence::new(3));
    let (key, machine, at) = (KeyId::new(30), MachineId::new(1), Timestamp::from_nanoseconds(31));
    let kek = KekId::new([32; 8]);
    let wrapped = WrappedKey { kek, nonce: [33; 12], wrapped: [34; WRAPPED_BYTES] };
    vec![
        ManifestRecord::FoldStarted { line, start: start(Some(PointKind::App), Some("before")) },
        ManifestRecord::FoldStarted { line, start: start(None, None) },
        ManifestRecord::FoldDone { disk: DiskId::new(6), floor: sequence },
        ManifestRecord::PolicySet { group: GroupId::new(4), policy: Policy::default() },
        ManifestRecord::PointLocked { line, sequence, until: Timestamp::from_nanoseconds(18) },
        ManifestRecord::PointsDropped {
            line,
            first: Sequence::new(4),
            last: Sequence::new(u64::MAX),
            kept: [4, 5, 200, 100_000, u64::MAX].map(Sequence::new).to_vec(),
        },
        ManifestRecord::PointsDropped { line, first: sequence, last: sequence, kept: Vec::new() },
        ManifestRecord::ClockSeen { time: Timestamp::from_nanoseconds(19) },
        ManifestRecord::ClockAlarmRaised(ClockAlarm {
            expected: Timestamp::from_nanoseconds(20),
            found: Timestamp::from_nanoseconds(21),
        }),
        ManifestRecord::ClockAlarmAcknowledged { time: Timestamp::from_nanoseconds(22) },
        ManifestRecord::DiskGrown { disk: DiskId::new(6), above: sequence, size_bytes: 1 << 40 },
        ManifestRecord::DiskJoined { disk: DiskId::new(6), since: sequence },
        ManifestRecord::DiskRemoved { disk: DiskId::new(6), until: sequence },
        ManifestRecord::DiskForgotten { disk: DiskId::new(6) },
        ManifestRecord::StreamChanged { line, change: change(StreamState::Seed) },
        ManifestRecord::StreamChanged { line, change: change(StreamState::Resync) },
        ManifestRecord::StreamChanged { line, change: change(StreamState::Catchup) },
        ManifestRecord::StreamChanged { line, change: change(StreamState::Ordered) },
        ManifestRecord::StretchOrdered { line, first: sequence, last: Sequence::new(9) },
        ManifestRecord::SegmentReleased { segment: SegmentId::new(10) },
        ManifestRecord::RecordsReleased {
            lane: LaneId::new(5),
            first: LaneSequence::new(12),
            next: LaneSequence::new(15),
        },
        ManifestRecord::LineReleased {
            lane: LaneId::new(5),
            at: LaneSequence::new(12),
            line,
            released: released(),
        },
        ManifestRecord::SegmentCompacted(CompactedEntry {
            id: SegmentId::new(19),
            lane: LaneId::new(5),
            salt: 20,
            size_bytes: 5 << 12,
            table: 3 << 12,
            through: LaneSequence::new(14),
            from: vec![SegmentId::new(10), SegmentId::new(12)],
        }),
        ManifestRecord::Key(KeyRecord::Added { key, machine, at, wrapped }),
        ManifestRecord::Key(KeyRecord::Rewrapped { key, wrapped }),
        ManifestRecord::Key(KeyRecord::Destroyed { machine, at }),
        ManifestRecord::Key(KeyRecord::Gone { key, machine, at, destroyed: at }),
        ManifestRecord::Key(KeyRecord::Given { key }),
        ManifestRecord::IdsGiven(GivenIds { line, ..GivenIds::default() }),
    ]
}

fn of_lineages() -> Vec<ManifestRecord> {
    let (line, sequence, disk) = (LineId::new(7), Sequence::new(3), DiskId::new(6));
    let name = Name::parse("test").unwrap();
    vec![
        ManifestRecord::BranchStarted {
            line,
            name: name.clone(),
            parent: LineId::new(2),
            origin: sequence,
            origin_time: Timestamp::from_nanoseconds(23),
        },
        ManifestRecord::BranchPromoted {
            line,
            old: name,
            instants: Sequence::new(24),
            generation: Generation::new(25),
        },
        ManifestRecord::LineInherits {
            line,
            stretch: Inherited { from: LineId::new(2), up_to: sequence },
        },
        ManifestRecord::LineSettled { line, sealed: true, born: Timestamp::from_nanoseconds(23) },
        ManifestRecord::BranchDiskGrown { line, disk, above: sequence, size_bytes: 1 << 41 },
        ManifestRecord::BranchDiskEnds { line, disk, since: Some(sequence), until: None },
        ManifestRecord::BranchDiskEnds { line, disk, since: None, until: Some(sequence) },
        ManifestRecord::IngestSet { machine: MachineId::new(1), mode: Some(IngestMode::Ordered) },
        ManifestRecord::IscsiSet { export: ExportId::new(26), access: iscsi_access() },
        ManifestRecord::AbortsBegun,
    ]
}

fn iscsi_access() -> Arc<IscsiAccess> {
    let account = |user: &str, secret: &str| {
        Some(ChapAccount { user: user.into(), secret: Zeroizing::new(secret.into()) })
    };
    Arc::new(IscsiAccess {
        initiators: vec!["iqn.2026-11.example:a".into(), "iqn.2026-11.example:b".into()],
        chap: account("host", "a secret of both"),
        mutual: account("target", "another secret"),
        removable: true,
    })
}

#[test]
fn every_record_reads_back() {
    let records = one_of_each();
    let mut bytes = Vec::new();
    encode_frame(5, &records, &mut bytes);
    assert_eq!(parse_frame(&bytes, 5), Ok((records, bytes.len())));
    assert_eq!(parse_frame(&bytes, 6), Err(FrameError::Number { found: 5, expected: 6 }));
}

/// What does not read back to the very same bytes is refused, or two snapshots of one state could differ.
#[test]
fn there_is_one_way_to_write_what_was_dropped() {
    let record = |last, kept: &[u64]| ManifestRecord::PointsDropped {
        line: LineId::new(2),
        first: Sequence::new(10),
        last: Sequence::new(last),
        kept: kept.iter().copied().map(Sequence::new).collect(),
    };
    let mut bytes = Vec::new();
    encode_frame(0, &[record(300, &[12, 290])], &mut bytes);
    // Frame head, kind, line, first; then last 8, count 2, the first varint.
    let (last, count, first) = (16 + 2 + 4 + 8, 16 + 2 + 4 + 16, 16 + 2 + 4 + 18);
    let changed = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = bytes.clone();
        change(&mut bytes);
        let checksum = {
            let length = u32::from_le_bytes(bytes[..4].try_into().unwrap()) as usize;
            crc32c::crc32c(&bytes[8..16 + length])
        };
        bytes[4..8].copy_from_slice(&checksum.to_le_bytes());
        parse_frame(&bytes, 0).map(|_| ())
    };
    assert_eq!(changed(&|_| ()), Ok(()));
    assert_eq!(changed(&|b| b[last] = 9), Err(FrameError::Field("kept")));
    assert_eq!(changed(&|b| b[last..last + 2].fill(0)), Err(FrameError::Field("last")));
    assert_eq!(changed(&|b| b[count + 1] = 0xff), Err(FrameError::Field("kept")));
    // 290 - 13 needs two bytes; with a zero as the second it is not the shortest form.
    assert_eq!(changed(&|b| b[first + 2] = 0), Err(FrameError::Field("number")));
    let policy = |text: &str| {
        let mut bytes = Vec::new();
        let policy = "keep all for 2h, minutely for 24h".parse().unwrap();
        let record = ManifestRecord::PolicySet { group: GroupId::new(1), policy };
        encode_frame(0, &[record], &mut bytes);
        let at = bytes.windows(4).position(|four| four == b"keep").unwrap();
        bytes[at..at + text.len()].copy_from_slice(text.as_bytes());
        let length = u32::from_le_bytes(bytes[..4].try_into().unwrap()) as usize;
        let checksum = crc32c::crc32c(&bytes[8..16 + length]);
        bytes[4..8].copy_from_slice(&checksum.to_le_bytes());
        parse_frame(&bytes, 0).map(|_| ())
    };
    assert_eq!(policy("keep all for 3h,"), Ok(()));
    assert_eq!(policy("Keep"), Err(FrameError::Field("policy")));
    assert_eq!(policy("keep all for 2h, minutely for 1d "), Err(FrameError::Field("policy")));
}

#[test]
fn every_flipped_bit_and_every_cut_is_noticed() {
    let mut bytes = Vec::new();
    encode_frame(5, &one_of_each()[..3], &mut bytes);
    let length = u32::from_le_bytes(bytes[..4].try_into().unwrap()) as usize;
    for bit in 0..(16 + length) * 8 {
        let mut broken = bytes.clone();
        broken[bit / 8] ^= 1 << (bit % 8);
        assert!(parse_frame(&broken, 5).is_err(), "bit {bit} went unnoticed");
    }
    for cut in 0..bytes.len() {
        assert_eq!(parse_frame(&bytes[..cut], 5), Err(FrameError::Short));
    }
}
