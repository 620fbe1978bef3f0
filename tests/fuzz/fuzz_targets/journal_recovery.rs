//! Recovery of a segment that lost parts of what was written to it.
//!
//! Oracle: which records stand, what of them is void, which bodies are reported, where the truth ends and which damage is named,
//! worked out from what was written and what was ruined, without looking at bytes.

#![no_main]

use arbitrary::Arbitrary;
use landfall_disks::{ByteOffset, ByteRange};
use landfall_retention::ids::{
    DiskId, Generation, GroupId, LaneId, LaneSequence, LineId, Position, SegmentId, Sequence,
    StreamId,
};
use landfall_retention::journal::format::{
    Chain, ExtentContent, Record, RecordExtent, RecordKind, SEGMENT_HEADER_BYTES, SegmentHeader,
    UNIT,
};
use landfall_retention::journal::recovery::{Damage, Examination, FoundRecord, examine};
use landfall_retention::manifest::state::SegmentEntry;
use landfall_retention::time::Timestamp;
use libfuzzer_sys::fuzz_target;

const SALT: u64 = 0x1122_3344_5566_7788;
const FIRST: u64 = 10;
const MOST_RECORDS: usize = 24;

#[derive(Arbitrary, Debug)]
struct Input {
    /// How far `durable_through` lies behind, whether it is of another line, and what each extent is: see [`extent`].
    records: Vec<(u8, bool, Vec<u8>)>,
    /// Which record, its head or one of its bodies, which byte of it, by what.
    ruins: Vec<(u8, Option<u8>, u16, u8)>,
    ruin_header: bool,
    /// The end that was logged, as a number of records.
    logged: Option<u8>,
    /// Units that the file lacks at its end.
    cut: u8,
    /// Whole records of an earlier life behind the last one.
    earlier_life: u8,
}

struct Written {
    record: Record,
    offset: u64,
    head_ok: bool,
    head_end: u64,
    ruined: Vec<usize>,
}

/// Extents of earlier records, each with the sequence of its record: what may be aborted.
type Earlier = Vec<(Sequence, RecordExtent)>;

/// Data of one block or two, zeroes, or an abort of one of the `earlier` ones; sometimes of another disk, where nothing is. One of an
/// extent of the other line, which has other sequences, aborts nothing either.
fn extent(what: u8, earlier: &Earlier, (block, body): (u64, &mut u64), fill: u8) -> RecordExtent {
    let at = |blocks: u64| ByteRange::at(ByteOffset::new(block), blocks * UNIT).expect("small");
    let disk = DiskId::new(1);
    match what % 4 {
        3 if !earlier.is_empty() => {
            let (of, target) = earlier[usize::from(what / 4 % 32) % earlier.len()];
            let disk = DiskId::new(if what < 128 { 1 } else { 2 });
            RecordExtent { disk, content: ExtentContent::Abort { of }, ..target }
        }
        0 | 3 => RecordExtent { disk, range: at(1), content: ExtentContent::Zero },
        blocks => {
            let range = at(blocks.into());
            let start = u32::try_from(*body).expect("small");
            *body += range.length();
            let bytes = vec![fill; usize::try_from(range.length()).expect("small")];
            let content =
                ExtentContent::Data { body: start, hash: *blake3::hash(&bytes).as_bytes() };
            RecordExtent { disk, range, content }
        }
    }
}

fn record(
    number: u64,
    (behind, other_line): (u8, bool),
    extents: &[u8],
    earlier: &Earlier,
) -> Record {
    let mut body = Record::head_bytes(extents.len(), 0);
    let extents = extents
        .iter()
        .zip((0..).step_by(8192))
        .map(|(what, block)| extent(*what, earlier, (block, &mut body), fill(number)));
    Record {
        extents: extents.collect(),
        kind: RecordKind::Batch,
        boundary: false,
        lane_sequence: LaneSequence::new(number),
        durable_through: LaneSequence::new((number - 1).saturating_sub(behind.into())),
        group: GroupId::new(1),
        line: LineId::new(if other_line { 2 } else { 1 }),
        sequence: Sequence::new(number),
        generation: Generation::default(),
        stream: StreamId::NONE,
        position: Position::default(),
        source_time: Timestamp::default(),
        commit_time: Timestamp::default(),
        previous_chain: Chain::default(),
        seal: None,
    }
}

fn fill(number: u64) -> u8 {
    u8::try_from(number % 251).expect("small") + 1
}

fn append(bytes: &mut Vec<u8>, record: &Record, salt: u64) {
    let start = bytes.len();
    let head = Record::head_bytes(record.extents.len(), 0);
    bytes.resize(start + usize::try_from(head).expect("small"), 0);
    record.encode(salt, &mut bytes[start..]);
    let end = start + usize::try_from(record.length_bytes()).expect("small");
    bytes.resize(end, fill(record.lane_sequence.number()));
}

/// What must be found: the table of recovery over what is known to be good.
fn expected(
    entry: &SegmentEntry,
    written: &[Written],
    visible: u64,
    header_ok: bool,
) -> Examination {
    let whole = |w: &&Written| w.head_ok && w.head_end <= visible;
    let mut found = Examination {
        records: Vec::new(),
        end: SEGMENT_HEADER_BYTES,
        next: entry.first,
        damage: Vec::new(),
    };
    if !header_ok && written.iter().any(|w| whole(&w)) {
        found.damage.push(Damage { bytes: 0..SEGMENT_HEADER_BYTES, case: 'I' });
    }
    let logged = entry.ended.is_some();
    let vouched = |number: LaneSequence, behind: &[Written]| {
        logged || behind.iter().filter(whole).any(|w| w.record.durable_through >= number)
    };
    let mut after_loss = false;
    let mut at = 0;
    while let Some(w) = written.get(at) {
        if !whole(&w) {
            let Some(next) = (at + 1..written.len()).find(|next| whole(&&written[*next])) else {
                break;
            };
            if !vouched(found.next, &written[at + 1..]) {
                break;
            }
            let case = if logged { 'K' } else { 'E' };
            found.damage.push(Damage { bytes: found.end..written[next].offset, case });
            found.end = written[next].offset;
            found.next = written[next].record.lane_sequence;
            (after_loss, at) = (true, next);
            continue;
        }
        let cut_off = |index: &usize| {
            let ExtentContent::Data { body, .. } = w.record.extents[*index].content else {
                return false;
            };
            w.offset + u64::from(body) + w.record.extents[*index].range.length() > visible
        };
        let damaged_bodies: Vec<usize> = (0..w.record.extents.len())
            .filter(|index| w.ruined.contains(index) || cut_off(index))
            .collect();
        let end = w.offset + w.record.length_bytes();
        if !damaged_bodies.is_empty() {
            if !vouched(w.record.lane_sequence, &written[at + 1..]) {
                break;
            }
            let case = if logged { 'K' } else { 'F' };
            found.damage.push(Damage { bytes: w.offset..end, case });
        }
        let record = w.record.clone();
        found.records.push(FoundRecord { offset: w.offset, record, damaged_bodies, after_loss });
        (found.end, found.next) = (end, w.record.lane_sequence.next());
        (after_loss, at) = (false, at + 1);
    }
    found
}

/// Marks what standing records abort of standing records: that is void, and nobody cares what its body is.
fn void(found: &mut Examination) {
    let aborts = |one: &FoundRecord| {
        let (line, extents) = (one.record.line, one.record.extents.clone());
        extents.into_iter().filter_map(move |extent| match extent.content {
            ExtentContent::Abort { of } => Some((line, of, extent.disk, extent.range)),
            _ => None,
        })
    };
    let aborted: Vec<_> = found.records.iter().flat_map(aborts).collect();
    for one in &mut found.records {
        for (number, extent) in one.record.extents.iter_mut().enumerate() {
            let (line, sequence) = (one.record.line, one.record.sequence);
            if !aborted.contains(&(line, sequence, extent.disk, extent.range)) {
                continue;
            }
            extent.content = match extent.content {
                ExtentContent::Data { body, hash } => {
                    ExtentContent::Void { data: Some((body, hash)) }
                }
                ExtentContent::Zero => ExtentContent::Void { data: None },
                other => other,
            };
            if !matches!(extent.content, ExtentContent::Void { .. }) {
                continue;
            }
            let was_damaged = one.damaged_bodies.contains(&number);
            one.damaged_bodies.retain(|damaged| *damaged != number);
            if was_damaged && one.damaged_bodies.is_empty() {
                found.damage.retain(|damage| damage.bytes.start != one.offset);
            }
        }
    }
}

fuzz_target!(|input: Input| {
    let mut bytes = vec![0; 4096];
    let header = SegmentHeader {
        lane: LaneId::new(0),
        segment: SegmentId::new(1),
        salt: SALT,
        first: LaneSequence::new(FIRST),
        size_bytes: 1 << 20,
        created: Timestamp::default(),
    };
    header.encode(&mut bytes);
    let (mut written, mut earlier) = (Vec::new(), Earlier::new());
    for (number, (behind, other_line, extents)) in
        (FIRST..).zip(input.records.iter().take(MOST_RECORDS))
    {
        let extents = &extents[..extents.len().min(3)];
        let record = record(number, (*behind, *other_line), extents, &earlier);
        earlier.extend(record.extents.iter().map(|extent| (record.sequence, *extent)));
        let offset = bytes.len() as u64;
        append(&mut bytes, &record, SALT);
        let head_end = offset + 256 + 80 * extents.len() as u64;
        written.push(Written { record, offset, head_ok: true, head_end, ruined: Vec::new() });
    }
    let end = bytes.len() as u64;
    for number in 0..input.earlier_life % 4 {
        append(
            &mut bytes,
            &record(
                FIRST + written.len() as u64 + u64::from(number),
                (0, false),
                &[1],
                &Earlier::new(),
            ),
            SALT + 1,
        );
    }
    bytes.resize(bytes.len() + 2 * 4096, 0);

    // One change per head at most: two might undo each other.
    for (which, part, byte, by) in &input.ruins {
        let count = written.len();
        let Some(w) = written.get_mut(usize::from(*which) % count.max(1)) else { break };
        let by = (*by).max(1);
        match part {
            None if w.head_ok => {
                let at = w.offset + u64::from(*byte) % (w.head_end - w.offset);
                bytes[usize::try_from(at).expect("small")] ^= by;
                w.head_ok = false;
            }
            Some(extent) => {
                let index = usize::from(*extent) % w.record.extents.len().max(1);
                let Some(extent) = w.record.extents.get(index) else { continue };
                let ExtentContent::Data { body, .. } = extent.content else { continue };
                let at = w.offset + u64::from(body) + u64::from(*byte) % extent.range.length();
                if !w.ruined.contains(&index) {
                    bytes[usize::try_from(at).expect("small")] ^= by;
                    w.ruined.push(index);
                }
            }
            None => {}
        }
    }
    if input.ruin_header {
        bytes[20] ^= 1;
    }
    let length = bytes.len() - (usize::from(input.cut) * 4096).min(bytes.len());
    bytes.truncate(length);

    let ended = input.logged.map(|records| {
        let records = usize::from(records) % (written.len() + 1);
        let end = written.get(records).map_or(end, |w| w.offset);
        (end, LaneSequence::new(FIRST + records as u64))
    });
    let entry = SegmentEntry {
        id: header.segment,
        lane: header.lane,
        salt: SALT,
        first: header.first,
        size_bytes: header.size_bytes,
        ended,
    };
    let visible = ended.map_or(bytes.len() as u64, |(end, _)| end.min(bytes.len() as u64));
    let header_ok = !input.ruin_header && bytes.len() >= 64;
    let mut expected = expected(&entry, &written, visible, header_ok);
    if let Some((end, next)) = ended {
        if expected.end < end {
            let case = if (bytes.len() as u64) < end { 'H' } else { 'K' };
            expected.damage.push(Damage { bytes: expected.end..end, case });
        }
        (expected.end, expected.next) = (end, next);
    }
    void(&mut expected);
    assert_eq!(examine(&entry, &bytes), expected);
});
