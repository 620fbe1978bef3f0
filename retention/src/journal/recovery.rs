//! Where the truth ends in a segment: the decision table of recovery. Pure: bytes in, verdict out.
//!
//! Reading goes record by record. At a place where lane sequence *n* is due there is one of:
//!
//! | case | what is there | later in the segment | verdict |
//! |---|---|---|---|
//! | A | record *n*, head and bodies good | | it stands |
//! | B | no record | no record of this life | the end; nothing was torn, or the tear left no trace |
//! | C | record *n*, a body does not match its hash | nothing vouches for *n* | torn tail: the end |
//! | D | no record | records, none vouching for *n* | torn and reordered tail: the end, the later ones were never acknowledged |
//! | E | no record | a record that vouches for *n* | media damage: what lay between is lost, reading goes on there |
//! | F | record *n*, a body does not match its hash | a record that vouches for *n* | media damage: the record stands, the body reads as damaged |
//! | G | a record of this life with another lane sequence | | as if no record were there: B, D or E |
//! | H | the file ends before a logged end | | media damage: what lay beyond is lost |
//! | I | the segment's header is not good | no record | an empty segment: the crash hit its making |
//! | J | bytes at or beyond a logged end | | never looked at |
//! | K | no record, or a bad body, before a logged end | nothing | media damage: a logged end vouches for all before it |
//!
//! A record *vouches* for *n* when its `durable_through` is at least *n*: it was written when *n* was known durable, so
//! *n* may have been acknowledged and is never cut off.

use super::aborts::apply_aborts;
use super::format::{ExtentContent, Record, SEGMENT_HEADER_BYTES, SegmentHeader, UNIT};
use crate::ids::LaneSequence;
use crate::manifest::compacted::CompactedEntry;
use crate::manifest::state::SegmentEntry;
use std::ops::Range;

/// What was found in a segment.
#[derive(Debug, PartialEq, Eq)]
pub struct Examination {
    /// The records that stand, in order.
    pub records: Vec<FoundRecord>,
    /// First byte after the last record that stands.
    pub end: u64,
    /// Lane sequence that is due there.
    pub next: LaneSequence,
    /// Damage of the medium: never a torn tail.
    pub damage: Vec<Damage>,
}

/// A record that stands.
#[derive(Debug, PartialEq, Eq)]
pub struct FoundRecord {
    /// Where it starts in the segment.
    pub offset: u64,
    /// What its head says.
    pub record: Record,
    /// Which of its extents have a body that does not match its hash (case F).
    pub damaged_bodies: Vec<usize>,
    /// Whether records before it are lost (case E).
    pub after_loss: bool,
}

/// Damaged bytes of a segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// Which bytes.
    pub bytes: Range<u64>,
    /// The letter of the case.
    pub case: char,
}

impl Damage {
    /// Both tables of a compacted segment (case L).
    pub(crate) fn of_tables(entry: &CompactedEntry) -> Self {
        Self { bytes: entry.table..entry.size_bytes, case: 'L' }
    }
}

/// Reads a segment from its bytes. `bytes` may be shorter than the segment; with a logged end, bytes beyond it are not
/// looked at.
pub fn examine(entry: &SegmentEntry, bytes: &[u8]) -> Examination {
    examine_durable(entry, bytes, None)
}

/// The same where it is known from elsewhere that all records up to `durable` were: nothing of them is a torn tail.
pub(crate) fn examine_durable(
    entry: &SegmentEntry,
    bytes: &[u8],
    durable: Option<LaneSequence>,
) -> Examination {
    let logged_end = entry.ended.map(|(end, _)| end);
    let visible = match logged_end {
        Some(end) => &bytes[..bytes.len().min(usize::try_from(end).unwrap_or(usize::MAX))],
        None => bytes,
    };
    let mut reading = Reading {
        entry,
        durable,
        bytes: visible,
        found: Examination {
            records: Vec::new(),
            end: SEGMENT_HEADER_BYTES,
            next: entry.first,
            damage: Vec::new(),
        },
        after_loss: false,
    };
    // Case I needs no branch of its own: without a good header the records decide, and there are none.
    reading.check_header();
    while reading.step() {}
    reading.finish(logged_end);
    apply_aborts(&mut reading.found.records, |found| &mut found.record);
    forgive_void(&mut reading.found);
    reading.found
}

/// What is void is nobody's: a body of it that is not what was written is no damage.
fn forgive_void(Examination { records, damage, .. }: &mut Examination) {
    for one in records.iter_mut().filter(|one| !one.damaged_bodies.is_empty()) {
        let extents = &one.record.extents;
        let void = |at: &usize| matches!(extents[*at].content, ExtentContent::Void { .. });
        one.damaged_bodies.retain(|at| !void(at));
        if one.damaged_bodies.is_empty() {
            damage.retain(|damage| damage.bytes.start != one.offset);
        }
    }
}

struct Reading<'a> {
    entry: &'a SegmentEntry,
    durable: Option<LaneSequence>,
    bytes: &'a [u8],
    found: Examination,
    after_loss: bool,
}

impl Reading<'_> {
    /// A bad header before good records is damage, but loses nothing: the manifest has all it says.
    fn check_header(&mut self) {
        let good = SegmentHeader::parse(self.bytes)
            .is_ok_and(|h| h.segment == self.entry.id && h.salt == self.entry.salt);
        if !good && self.next_record_after(0).is_some() {
            self.found.damage.push(Damage { bytes: 0..SEGMENT_HEADER_BYTES, case: 'I' });
        }
    }

    /// Takes one record, or skips one damaged place. False at the end.
    fn step(&mut self) -> bool {
        let at = self.found.end;
        if at >= self.bytes.len() as u64 {
            return false;
        }
        match self.record_at(at) {
            Some(record) if record.lane_sequence == self.found.next => self.take(at, record),
            _ => self.skip(at),
        }
    }

    fn record_at(&self, at: u64) -> Option<Record> {
        let bytes = self.bytes.get(usize::try_from(at).ok()?..)?;
        Record::parse(bytes, self.entry.salt).ok()
    }

    /// Cases A, C, F, K.
    fn take(&mut self, at: u64, record: Record) -> bool {
        let length = record.length_bytes();
        let damaged_bodies = self.damaged_bodies(at, &record);
        if !damaged_bodies.is_empty() {
            let vouched =
                self.entry.ended.is_some() || self.vouched_for(record.lane_sequence, at + length);
            if !vouched {
                return false;
            }
            let case = if self.entry.ended.is_some() { 'K' } else { 'F' };
            self.found.damage.push(Damage { bytes: at..at + length, case });
        }
        self.found.end = at + length;
        self.found.next = record.lane_sequence.next();
        let after_loss = std::mem::take(&mut self.after_loss);
        self.found.records.push(FoundRecord { offset: at, record, damaged_bodies, after_loss });
        true
    }

    /// Cases B, D, E, G, K.
    fn skip(&mut self, at: u64) -> bool {
        let due = self.found.next;
        let logged = self.entry.ended.is_some();
        let mut from = at;
        while let Some((offset, record)) = self.next_record_after(from) {
            from = offset;
            let later = record.lane_sequence > due;
            if later && (logged || self.vouched_for(due, offset)) {
                let case = if logged { 'K' } else { 'E' };
                self.found.damage.push(Damage { bytes: at..offset, case });
                self.found.end = offset;
                self.found.next = record.lane_sequence;
                self.after_loss = true;
                return true;
            }
        }
        false
    }

    /// Cases H and K: a logged end vouches for everything before it.
    fn finish(&mut self, logged_end: Option<u64>) {
        let Some((end, next)) = logged_end.zip(self.entry.ended.map(|(_, next)| next)) else {
            return;
        };
        if self.found.end < end {
            let case = if (self.bytes.len() as u64) < end { 'H' } else { 'K' };
            self.found.damage.push(Damage { bytes: self.found.end..end, case });
        }
        self.found.end = end;
        self.found.next = next;
    }

    /// The first record of this life that starts after `at`.
    fn next_record_after(&self, at: u64) -> Option<(u64, Record)> {
        let mut offset = at + UNIT;
        while offset < self.bytes.len() as u64 {
            if let Some(record) = self.record_at(offset) {
                return Some((offset, record));
            }
            offset += UNIT;
        }
        None
    }

    /// Whether a record at or after `from` was written knowing that `sequence` is durable, or somebody else knows.
    fn vouched_for(&self, sequence: LaneSequence, from: u64) -> bool {
        if self.durable.is_some_and(|durable| sequence <= durable) {
            return true;
        }
        let mut at = from.saturating_sub(UNIT);
        while let Some((offset, record)) = self.next_record_after(at) {
            if record.durable_through >= sequence && record.lane_sequence > sequence {
                return true;
            }
            at = offset;
        }
        false
    }

    fn damaged_bodies(&self, at: u64, record: &Record) -> Vec<usize> {
        let matches = |extent: &super::format::RecordExtent| {
            extent.content.body().is_none_or(|(body, hash)| {
                let start = at + u64::from(body);
                body_bytes(self.bytes, start, extent.body_bytes())
                    .is_some_and(|bytes| *blake3::hash(bytes).as_bytes() == hash)
            })
        };
        let extents = record.extents.iter().enumerate();
        extents.filter(|(_, extent)| !matches(extent)).map(|(index, _)| index).collect()
    }
}

/// `length` bytes at `start` of a segment, if they are all there.
pub(crate) fn body_bytes(bytes: &[u8], start: u64, length: u64) -> Option<&[u8]> {
    let start = usize::try_from(start).ok()?;
    let end = start.checked_add(usize::try_from(length).ok()?)?;
    bytes.get(start..end)
}

#[cfg(test)]
mod tests {
    use super::super::format::{Chain, RecordExtent, RecordKind};
    use super::*;
    use crate::ids::*;
    use crate::time::Timestamp;
    use landfall_disks::{ByteOffset, ByteRange};

    const SALT: u64 = 42;
    const FIRST: u64 = 10;

    /// A segment as a lane writes it: `(lane sequence, durable_through)` a record, each with one 4 KiB body.
    struct Writer {
        bytes: Vec<u8>,
        starts: Vec<usize>,
    }

    fn entry(ended: Option<(u64, u64)>) -> SegmentEntry {
        SegmentEntry {
            id: SegmentId::new(1),
            lane: LaneId::new(0),
            salt: SALT,
            first: LaneSequence::new(FIRST),
            size_bytes: 1 << 20,
            ended: ended.map(|(end, next)| (end, LaneSequence::new(next))),
        }
    }

    fn segment(records: &[(u64, u64)]) -> Writer {
        let mut bytes = vec![0; 4096];
        SegmentHeader {
            lane: LaneId::new(0),
            segment: SegmentId::new(1),
            salt: SALT,
            first: LaneSequence::new(FIRST),
            size_bytes: 1 << 20,
            created: Timestamp::default(),
        }
        .encode(&mut bytes);
        let mut starts = Vec::new();
        for (lane_sequence, durable_through) in records {
            starts.push(bytes.len());
            let body = [u8::try_from(*lane_sequence).unwrap(); 4096];
            let hash = *blake3::hash(&body).as_bytes();
            let record = Record {
                kind: RecordKind::Batch,
                boundary: true,
                lane_sequence: LaneSequence::new(*lane_sequence),
                durable_through: LaneSequence::new(*durable_through),
                group: GroupId::new(1),
                line: LineId::new(1),
                sequence: Sequence::new(*lane_sequence),
                generation: Generation::default(),
                stream: StreamId::NONE,
                position: Position::default(),
                source_time: Timestamp::default(),
                commit_time: Timestamp::default(),
                previous_chain: Chain::default(),
                seal: None,
                extents: vec![RecordExtent {
                    disk: DiskId::new(1),
                    range: ByteRange::at(ByteOffset::new(0), 4096).unwrap(),
                    content: ExtentContent::Data { body: 4096, hash },
                }],
            };
            let at = bytes.len();
            bytes.resize(at + 4096, 0);
            record.encode(SALT, &mut bytes[at..]);
            bytes.extend_from_slice(&body);
        }
        bytes.resize(bytes.len() + 5 * 4096, 0);
        Writer { bytes, starts }
    }

    impl Writer {
        fn ruin_head(mut self, record: usize) -> Self {
            self.bytes[self.starts[record]..][..4096].fill(0);
            self
        }

        fn ruin_body(mut self, record: usize) -> Self {
            self.bytes[self.starts[record] + 4096 + 7] ^= 1;
            self
        }

        fn examine(&self, ended: Option<(u64, u64)>) -> (Vec<u64>, u64, String) {
            let found = examine(&entry(ended), &self.bytes);
            let stand = found.records.iter().map(|r| r.record.lane_sequence.number()).collect();
            let cases = found.damage.iter().map(|damage| damage.case).collect();
            assert!(found.next.number() >= FIRST);
            (stand, found.end, cases)
        }
    }

    #[test]
    fn case_a_good_records_stand() {
        let found = segment(&[(10, 9), (11, 9), (12, 11)]).examine(None);
        assert_eq!(found, (vec![10, 11, 12], 4096 + 3 * 8192, String::new()));
    }

    #[test]
    fn case_b_nothing_there_is_the_end() {
        assert_eq!(segment(&[]).examine(None), (vec![], 4096, String::new()));
        let torn_without_trace = segment(&[(10, 9), (11, 10)]).ruin_head(1);
        assert_eq!(torn_without_trace.examine(None), (vec![10], 4096 + 8192, String::new()));
    }

    #[test]
    fn case_c_a_torn_body_at_the_end_is_cut_off() {
        let found = segment(&[(10, 9), (11, 10)]).ruin_body(1).examine(None);
        assert_eq!(found, (vec![10], 4096 + 8192, String::new()));
    }

    #[test]
    fn case_c_also_when_a_later_record_of_the_same_flush_is_whole() {
        let found = segment(&[(10, 9), (11, 10), (12, 10)]).ruin_body(1).examine(None);
        assert_eq!(found, (vec![10], 4096 + 8192, String::new()));
    }

    #[test]
    fn case_d_a_whole_record_after_a_torn_one_does_not_come_back() {
        let found = segment(&[(10, 9), (11, 10), (12, 10)]).ruin_head(1).examine(None);
        assert_eq!(found, (vec![10], 4096 + 8192, String::new()));
    }

    #[test]
    fn case_e_a_lost_record_that_was_vouched_for_is_damage() {
        let found = segment(&[(10, 9), (11, 10), (12, 11)]).ruin_head(1).examine(None);
        assert_eq!(found, (vec![10, 12], 4096 + 3 * 8192, "E".into()));
    }

    #[test]
    fn case_e_goes_on_at_the_first_record_that_is_left() {
        let found = segment(&[(10, 9), (11, 10), (12, 10), (13, 12)]).ruin_head(1).examine(None);
        assert_eq!(found, (vec![10, 12, 13], 4096 + 4 * 8192, "E".into()));
    }

    #[test]
    fn case_f_a_bad_body_that_was_vouched_for_is_damage() {
        let writer = segment(&[(10, 9), (11, 10), (12, 11)]).ruin_body(1);
        assert_eq!(writer.examine(None), (vec![10, 11, 12], 4096 + 3 * 8192, "F".into()));
        let found = examine(&entry(None), &writer.bytes);
        assert_eq!(found.records[1].damaged_bodies, [0]);
    }

    /// Nobody is ever given it, so nobody need heal it, and what else is in its segment can be given back.
    #[test]
    fn a_bad_body_of_what_is_void_is_no_damage() {
        let mut writer = segment(&[(10, 9), (11, 10), (12, 11)]).ruin_body(0).ruin_body(1);
        let at = writer.starts[2];
        let mut abort = Record::parse(&writer.bytes[at..], SALT).expect("the last one");
        abort.extents[0].content = ExtentContent::Abort { of: Sequence::new(11) };
        writer.bytes[at..].fill(0);
        abort.encode(SALT, &mut writer.bytes[at..][..4096]);
        for (ended, case) in [(None, "F"), (Some((4096 + 2 * 8192 + 4096, 13)), "K")] {
            let (stand, _, cases) = writer.examine(ended);
            assert_eq!((stand, cases), (vec![10, 11, 12], case.into()), "10 is somebody's");
            let found = examine(&entry(ended), &writer.bytes);
            let bad: Vec<_> = found.records.iter().map(|one| one.damaged_bodies.len()).collect();
            assert_eq!((bad, found.damage[0].bytes.start), (vec![1, 0, 0], 4096));
        }
    }

    #[test]
    fn case_g_a_record_out_of_its_turn_is_none() {
        let found = segment(&[(10, 9), (12, 10)]).examine(None);
        assert_eq!(found, (vec![10], 4096 + 8192, String::new()));
        let found = segment(&[(10, 9), (10, 9), (11, 10)]).examine(None);
        assert_eq!(found, (vec![10], 4096 + 8192, String::new()));
    }

    #[test]
    fn case_h_a_file_shorter_than_its_logged_end_is_damage() {
        let mut writer = segment(&[(10, 9), (11, 10)]);
        writer.bytes.truncate(4096 + 8192);
        let end = 4096 + 2 * 8192;
        assert_eq!(writer.examine(Some((end, 12))), (vec![10], end, "H".into()));
    }

    #[test]
    fn case_i_a_segment_whose_making_was_cut_is_empty() {
        let mut writer = segment(&[]);
        writer.bytes[..4096].fill(0);
        assert_eq!(writer.examine(None), (vec![], 4096, String::new()));
        let mut writer = segment(&[(10, 9)]);
        writer.bytes[..4096].fill(0);
        assert_eq!(writer.examine(None), (vec![10], 4096 + 8192, "I".into()));
    }

    #[test]
    fn case_j_bytes_beyond_a_logged_end_are_never_parsed() {
        let end = 4096 + 8192;
        let found = segment(&[(10, 9), (11, 10), (12, 11)]).examine(Some((end, 11)));
        assert_eq!(found, (vec![10], end, String::new()));
    }

    #[test]
    fn case_k_a_logged_end_vouches_for_all_before_it() {
        let end = 4096 + 2 * 8192;
        let writer = segment(&[(10, 9), (11, 10)]).ruin_head(1);
        assert_eq!(writer.examine(Some((end, 12))), (vec![10], end, "K".into()));
        let writer = segment(&[(10, 9), (11, 10)]).ruin_body(1);
        assert_eq!(writer.examine(Some((end, 12))), (vec![10, 11], end, "K".into()));
        let writer = segment(&[(10, 9), (11, 10)]).ruin_head(0);
        assert_eq!(writer.examine(Some((end, 12))), (vec![11], end, "K".into()));
    }

    #[test]
    fn an_earlier_life_of_the_segment_is_not_seen() {
        let writer = segment(&[(10, 9)]);
        let other_salt = SegmentEntry { salt: SALT + 1, ..entry(None) };
        assert_eq!(examine(&other_salt, &writer.bytes).records, []);
    }
}
