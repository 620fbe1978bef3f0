//! Heads of journal records and segments.
//!
//! Oracle: whatever head is understood is written again byte for byte; a record that was written is understood, and is
//! the same.

#![no_main]

use arbitrary::Arbitrary;
use landfall_disks::{ByteOffset, ByteRange};
use landfall_retention::ids::{
    DiskId, Generation, GroupId, KeyId, LaneSequence, LineId, Position, SegmentId, Sequence,
    StreamId,
};
use landfall_retention::journal::format::{
    Chain, ExtentContent, MAX_BODY_BYTES, MAX_RECORD_BYTES, Record, RecordExtent, RecordKind,
    RecordSeal, SegmentHeader, UNIT,
};
use landfall_retention::name::Label;
use landfall_retention::point::PointKind;
use landfall_retention::sealing::{TAG_BYTES, Tag};
use landfall_retention::time::Timestamp;
use libfuzzer_sys::fuzz_target;

const HEADER: usize = 256;
const ENTRY: usize = 80;

#[derive(Arbitrary, Debug)]
enum Input {
    /// Bytes that were never ours, with a checksum that fits.
    Raw(Vec<u8>),
    /// A record of ours, and bytes of its head changed afterwards.
    Made {
        made: Made,
        edits: Vec<(u16, u8)>,
    },
    Segment(Vec<u8>),
}

#[derive(Arbitrary, Debug)]
struct Made {
    kind: u8,
    label: String,
    boundary: bool,
    lane_sequence: u64,
    behind: u64,
    numbers: [u64; 6],
    ids: (u32, u32),
    stream: [u8; 16],
    chain: [u8; 32],
    salt: u64,
    /// What it is sealed by, if it is: the key, and where it was first.
    seal: Option<(u32, u32, u32)>,
    /// Disk, first block, blocks, whether it has a body, and what its hash begins with; without a body, the sequence that it aborts, if
    /// that is an earlier one.
    extents: Vec<(u32, u32, u16, bool, u8)>,
}

impl Made {
    fn record(&self) -> Record {
        let kind = match self.kind % 5 {
            0 | 1 => RecordKind::Batch,
            2 => RecordKind::Vouch,
            other => RecordKind::Mark {
                kind: if other == 3 { PointKind::App } else { PointKind::Fuzzy },
                label: Label::parse(&self.label).ok(),
            },
        };
        let takes_extents = kind == RecordKind::Batch;
        let wanted = self.extents.iter().filter(|_| takes_extents).take(1024);
        let plain = Record::head_bytes(wanted.clone().count(), 0);
        let mut body = plain;
        let end = body + MAX_BODY_BYTES;
        let extents = wanted.clone().map(|(disk, block, blocks, data, hash)| {
            let length = (u64::from(*blocks) + 1) * UNIT;
            let start = ByteOffset::new(u64::from(*block) * UNIT);
            let range = ByteRange::at(start, length).expect("far below the end of a disk");
            let content = if *data && body + length <= end {
                let start = u32::try_from(body).expect("at most 8 MiB and the head");
                body += length;
                ExtentContent::Data { body: start, hash: [*hash; 32] }
            } else if *hash > 0 && u64::from(*hash) < self.numbers[0] {
                ExtentContent::Abort { of: Sequence::new(u64::from(*hash)) }
            } else {
                ExtentContent::Zero
            };
            RecordExtent { disk: DiskId::new(*disk), range, content }
        });
        let mut extents: Vec<RecordExtent> = extents.collect();
        let blocks = usize::try_from((body - plain) / UNIT).expect("at most 2048");
        let seal = self.seal.filter(|_| blocks > 0).map(|(key, segment, unit)| RecordSeal {
            key: KeyId::new(key.max(1)),
            segment: SegmentId::new(segment),
            unit: 1 + unit % 200_000,
            tags: (0..blocks).map(|at| Tag([at.to_le_bytes()[0]; TAG_BYTES])).collect(),
        });
        if seal.is_some() {
            let moved = Record::sealed_head_bytes(extents.len(), 0, blocks) - plain;
            for extent in &mut extents {
                if let ExtentContent::Data { body, .. } = &mut extent.content {
                    *body += u32::try_from(moved).expect("at most 32 KiB");
                }
            }
        }
        let lane_sequence = self.lane_sequence.max(1);
        Record {
            extents,
            kind,
            boundary: self.boundary,
            lane_sequence: LaneSequence::new(lane_sequence),
            durable_through: LaneSequence::new((lane_sequence - 1).saturating_sub(self.behind)),
            group: GroupId::new(self.ids.0),
            line: LineId::new(self.ids.1),
            sequence: Sequence::new(self.numbers[0]),
            generation: Generation::new(self.numbers[1]),
            stream: StreamId::new(self.stream),
            position: Position::new(self.numbers[2]),
            source_time: Timestamp::from_nanoseconds(self.numbers[3]),
            commit_time: Timestamp::from_nanoseconds(self.numbers[4]),
            previous_chain: Chain(self.chain),
            seal,
        }
    }
}

/// Header, label and table, and a tag for each block where there is a key.
fn head_length(bytes: &[u8]) -> Option<usize> {
    let header = bytes.get(..HEADER)?;
    let extents = u32::from_le_bytes(header[12..16].try_into().expect("four bytes")) as usize;
    let label = usize::from(u16::from_le_bytes([header[20], header[21]]));
    let key = u32::from_le_bytes(header[24..28].try_into().expect("four bytes"));
    let table = bytes.get(HEADER + label..HEADER + label + extents.checked_mul(ENTRY)?)?;
    let stored =
        |entry: &[u8]| u64::from(u32::from_le_bytes(entry[28..32].try_into().expect("four bytes")));
    let bodies: u64 = table.chunks_exact(ENTRY).map(stored).sum();
    let tags =
        if key == 0 { 0 } else { usize::try_from(bodies / UNIT).ok()?.checked_mul(TAG_BYTES)? };
    let length = (HEADER + label + table.len()).checked_add(tags)?;
    (length <= bytes.len()).then_some(length)
}

fn seal(bytes: &mut [u8]) {
    if let Some(length) = head_length(bytes) {
        bytes[8..12].fill(0);
        let checksum = crc32c::crc32c(&bytes[..length]);
        bytes[8..12].copy_from_slice(&checksum.to_le_bytes());
    }
}

fn salt_of(bytes: &[u8]) -> u64 {
    let salt = bytes.get(44..52).and_then(|salt| salt.try_into().ok());
    salt.map_or(0, u64::from_le_bytes)
}

fn written(record: &Record, salt: u64) -> Vec<u8> {
    let label = match &record.kind {
        RecordKind::Mark { label: Some(label), .. } => label.as_str().len(),
        _ => 0,
    };
    let tags = record.seal.as_ref().map_or(0, |seal| seal.tags.len());
    let head = Record::sealed_head_bytes(record.extents.len(), label, tags);
    let mut bytes = vec![0; usize::try_from(head).expect("a head")];
    record.encode(salt, &mut bytes);
    bytes
}

fn understood_is_canonical(bytes: &[u8]) {
    let salt = salt_of(bytes);
    let Ok(record) = Record::parse(bytes, salt) else { return };
    assert!(record.length_bytes() <= MAX_RECORD_BYTES);
    let length = head_length(bytes).expect("it was understood");
    assert_eq!(written(&record, salt)[..length], bytes[..length]);
    assert!(Record::parse(bytes, salt.wrapping_add(1)).is_err(), "another life");
}

fuzz_target!(|input: Input| {
    match input {
        Input::Raw(mut bytes) => {
            if let Some(magic) = bytes.get_mut(..6) {
                magic.copy_from_slice(b"LFRC\x01\x00");
            }
            seal(&mut bytes);
            understood_is_canonical(&bytes);
        }
        Input::Made { made, edits } => {
            let record = made.record();
            let mut bytes = written(&record, made.salt);
            assert_eq!(Record::parse(&bytes, made.salt).as_ref(), Ok(&record));
            let length = head_length(&bytes).expect("a whole head");
            for (at, value) in edits {
                bytes[usize::from(at) % length] = value;
            }
            seal(&mut bytes);
            understood_is_canonical(&bytes);
        }
        Input::Segment(mut bytes) => {
            bytes.resize(4096, 0);
            bytes[..10].copy_from_slice(b"LFSEGMNT\x01\x00");
            let checksum = crc32c::crc32c(&bytes[..60]);
            bytes[60..64].copy_from_slice(&checksum.to_le_bytes());
            if let Ok(header) = SegmentHeader::parse(&bytes) {
                let mut again = vec![1; 4096];
                header.encode(&mut again);
                assert_eq!(again[..64], bytes[..64]);
            }
        }
    }
});
