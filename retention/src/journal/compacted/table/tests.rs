use super::*;
use crate::ids::{DiskId, Generation, GroupId, LaneSequence, LineId, Position, Sequence, StreamId};
use crate::journal::format::Chain;
use crate::name::Label;
use crate::point::PointKind;
use crate::time::Timestamp;
use proptest::prelude::*;

const SEGMENT: SegmentId = SegmentId::new(12);
const SALT: u64 = 77;
const UNITS: u32 = 5000;

fn record(number: u64, kind: RecordKind, extents: &[(u64, bool)]) -> Record {
    let mut body = Record::head_bytes(extents.len(), 1);
    let mut start = 0;
    let extent = |(blocks, data): &(u64, bool)| {
        let range = ByteRange::at(ByteOffset::new(start), blocks * UNIT).expect("small");
        start = range.end().bytes() + UNIT;
        let content = if *data {
            let at = u32::try_from(body).expect("small");
            body += range.length();
            ExtentContent::Data { body: at, hash: [7; 32] }
        } else {
            ExtentContent::Zero
        };
        RecordExtent { disk: DiskId::new(3), range, content }
    };
    Record {
        kind,
        boundary: true,
        lane_sequence: LaneSequence::new(number + 1),
        durable_through: LaneSequence::new(number),
        group: GroupId::new(1),
        line: LineId::new(2),
        sequence: Sequence::new(number),
        generation: Generation::new(1),
        stream: StreamId::new([9; 16]),
        position: Position::new(number),
        source_time: Timestamp::default(),
        commit_time: Timestamp::from_nanoseconds(number),
        previous_chain: Chain([5; 32]),
        seal: None,
        extents: extents.iter().map(extent).collect(),
    }
}

/// What is kept of a record of which every other block of each extent is.
fn kept(record: &Record, salt: u64, unit: &mut u32) -> KeptRecord {
    let mut bytes = vec![0; usize::try_from(record.length_bytes()).expect("small")];
    record.encode(salt, &mut bytes);
    let head = bytes[..record.head_length()].to_vec();
    let mut pieces = Vec::new();
    for (number, extent) in (0..).zip(&record.extents) {
        if extent.content.body().is_none() {
            continue;
        }
        let blocks = u32::try_from(extent.range.length() / UNIT).expect("few");
        for first_block in (0..blocks).step_by(3) {
            let checksums: Vec<u32> = (first_block..(first_block + 2).min(blocks)).collect();
            let length = small(checksums.len());
            pieces.push(Piece {
                extent: number,
                first_block,
                unit: *unit,
                hash: [1; 32],
                checksums,
            });
            *unit += length;
        }
    }
    KeptRecord { record: record.clone(), head, salt, pieces }
}

fn some() -> Vec<KeptRecord> {
    let mut unit = 1;
    let label = Some(Label::parse("p").expect("a label"));
    let mark = RecordKind::Mark { kind: PointKind::App, label };
    [
        record(4, RecordKind::Batch, &[(7, true), (3, false), (1, true)]),
        record(9, mark, &[]),
        record(11, RecordKind::Batch, &[(20, true)]),
    ]
    .iter()
    .zip([1_u64, 1, 8])
    .map(|(record, salt)| kept(record, salt, &mut unit))
    .collect()
}

#[test]
fn what_is_written_reads_back_and_every_record_keeps_its_root_and_chain() {
    let records = some();
    let mut bytes = encode_table(SEGMENT, SALT, &records);
    bytes.resize(bytes.len() + 100, 0);
    let read = parse_table(&bytes, SEGMENT, SALT, UNITS).expect("just written");
    assert_eq!(read, records);
    for (read, written) in read.iter().zip(&records) {
        assert_eq!(read.record.root(), written.record.root());
        assert_eq!(read.record.chain(), written.record.chain());
    }
    assert_eq!(
        parse_table(&bytes, SegmentId::new(1), SALT, UNITS),
        Err(FormatError::Field("table header"))
    );
    assert_eq!(parse_table(&bytes, SEGMENT, 1, UNITS), Err(FormatError::Salt));
    assert_eq!(parse_table(&bytes, SEGMENT, SALT, 5), Err(FormatError::Field("unit of a piece")));
}

/// Encodes records that were changed in one place.
fn refused(change: impl FnOnce(&mut Vec<KeptRecord>)) -> FormatError {
    let mut records = some();
    change(&mut records);
    let bytes = encode_table(SEGMENT, SALT, &records);
    parse_table(&bytes, SEGMENT, SALT, UNITS).expect_err("it makes no sense")
}

#[test]
fn tables_that_no_sane_writer_writes_are_refused() {
    let field = FormatError::Field;
    assert_eq!(refused(|all| all[0].pieces[0].extent = 1), field("extent of a piece"));
    assert_eq!(refused(|all| all[0].pieces[0].extent = 9), field("extent of a piece"));
    assert_eq!(refused(|all| all[0].pieces[0].first_block = 6), field("blocks of a piece"));
    assert_eq!(refused(|all| all[0].pieces[0].checksums.clear()), field("blocks of a piece"));
    assert_eq!(refused(|all| all[0].pieces[0].unit = 0), field("unit of a piece"));
    assert_eq!(refused(|all| all[0].pieces.swap(0, 1)), field("order of pieces"));
    assert_eq!(refused(|all| all[0].salt = 99), FormatError::Salt);
    assert_eq!(refused(|all| all[0].head.push(0)), field("head"));
    assert_eq!(refused(|all| all[0].head.truncate(100)), FormatError::Short);
    let vouch = Record::vouch(LaneSequence::new(9), LaneSequence::new(8));
    assert_eq!(refused(|all| all.push(kept(&vouch, 1, &mut 1))), field("head"));
}

#[test]
fn what_is_aborted_is_void_where_it_is_kept_and_has_no_pieces() {
    let mut records = some();
    let (target, range) = (records[0].record.sequence, records[0].record.extents[1].range);
    let mut abort = record(12, RecordKind::Batch, &[(1, false)]);
    abort.extents[0].range = range;
    abort.extents[0].content = ExtentContent::Abort { of: target };
    records.push(kept(&abort, 8, &mut 1));
    let bytes = encode_table(SEGMENT, SALT, &records);
    let read = parse_table(&bytes, SEGMENT, SALT, UNITS).expect("just written");
    records[0].record.extents[1].content = ExtentContent::Void { data: None };
    assert_eq!(read, records);

    let range = records[0].record.extents[0].range;
    let refused = refused(|all| {
        abort.extents[0].range = range;
        all.push(kept(&abort, 8, &mut 1));
    });
    assert_eq!(refused, FormatError::Field("extent of a piece"), "nobody may see its bytes");
}

proptest! {
    #[test]
    fn a_changed_byte_is_noticed(at in any::<prop::sample::Index>(), by in 1u8..) {
        let mut bytes = encode_table(SEGMENT, SALT, &some());
        let at = at.index(bytes.len());
        bytes[at] ^= by;
        prop_assert!(parse_table(&bytes, SEGMENT, SALT, UNITS).is_err());
    }
}
