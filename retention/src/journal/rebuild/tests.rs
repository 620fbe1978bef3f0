//! Reading backwards finds what reading forwards finds, whatever was lost, released or kept; and says of nothing that it is
//! there before it is.

use super::lines::Lines;
use super::segment::index_segment;
use super::{Ending, Piece, pieces};
use crate::ids::*;
use crate::index::block_key::parse_key;
use crate::index::gap_key::Lost;
use crate::index::memory::MemoryIndex;
use crate::index::tail_key::{LineTail, put_progress, read_moved, read_progress, read_tail};
use crate::index::{IndexBatch, IndexStore};
use crate::journal::compacted::KeptRecord;
use crate::journal::format::{Chain, ExtentContent, Record, RecordExtent, RecordKind};
use crate::journal::indexing::{index_kept, tail_after};
use crate::journal::recovery::{Examination, FoundRecord};
use crate::journal::replay::Replay;
use crate::manifest::compacted::CompactedEntry;
use crate::manifest::released::{ReleasedLine, ReleasedRun};
use crate::manifest::state::{ManifestState, SegmentEntry};
use crate::point::PointKind;
use crate::time::Timestamp;
use landfall_disks::faults::Seed;
use landfall_disks::{Block, ByteRange};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

const LANE: LaneId = LaneId::new(0);
const LINES: [LineId; 4] = [LineId::new(1), LineId::new(2), LineId::new(3), LineId::new(4)];
const STREAM: StreamId = StreamId::new([7; 16]);

/// A segment, what was written to it, and what of that is lost.
type Segment = (SegmentEntry, Vec<Record>, BTreeSet<LaneSequence>);

/// Some lines in one lane: what was written, and what is left of it.
#[derive(Default)]
struct Journal {
    written: Vec<Segment>,
    segments: Vec<Segment>,
    released: Vec<(LaneSequence, ReleasedRun)>,
    kept: Vec<(CompactedEntry, Vec<KeptRecord>)>,
}

impl Journal {
    fn write(seed: &mut Seed) -> Self {
        let mut journal = Self::default();
        let mut tails: BTreeMap<LineId, LineTail> = BTreeMap::new();
        let mut next = LaneSequence::new(1);
        for number in 1..=2 + seed.below(8) {
            let (first, mut records) = (next, Vec::new());
            for _ in 0..=seed.below(6) {
                let line = LINES[seed.index(LINES.len())];
                let record = record(seed, next, line, tails.entry(line).or_default());
                records.push(record);
                next = next.next();
            }
            let id = SegmentId::new(u32::try_from(number).expect("few"));
            let ended = Some((4096, next));
            let entry = SegmentEntry { id, lane: LANE, salt: 9, first, size_bytes: 4096, ended };
            let lossy = seed.chance(1, 4);
            let lost = records.iter().map(|record| record.lane_sequence);
            let lost = lost.filter(|_| lossy && seed.chance(1, 3)).collect();
            journal.segments.push((entry, records, lost));
        }
        journal.written.clone_from(&journal.segments);
        journal.let_go(seed);
        journal
    }

    /// Some segments are gone, and some of their records kept.
    fn let_go(&mut self, seed: &mut Seed) {
        let goes = |lost: &BTreeSet<_>, seed: &mut Seed| lost.is_empty() && seed.chance(1, 3);
        let mut kept: Vec<KeptRecord> = Vec::new();
        let all = std::mem::take(&mut self.segments);
        let mut number = 100;
        for (entry, records, lost) in all {
            if !goes(&lost, seed) {
                self.segments.push((entry, records, lost));
                continue;
            }
            let next = entry.ended.expect("all have").1;
            let run = ReleasedRun { next, lines: released(&records) };
            match self.released.last_mut().filter(|(_, last)| last.next == entry.first) {
                Some((_, last)) => join(last, run),
                None => self.released.push((entry.first, run)),
            }
            let stays = |record: Record| KeptRecord {
                record,
                head: Vec::new(),
                salt: 9,
                pieces: Vec::new(),
            };
            kept.extend(records.into_iter().filter(|_| seed.chance(1, 2)).map(stays));
            if !kept.is_empty() && seed.chance(1, 2) {
                number += 1;
                self.keep(number, std::mem::take(&mut kept));
            }
        }
        if !kept.is_empty() {
            self.keep(number + 1, kept);
        }
    }

    fn keep(&mut self, number: u32, records: Vec<KeptRecord>) {
        let through = records.iter().map(|kept| kept.record.lane_sequence).max().expect("some");
        let (id, size_bytes, table) = (SegmentId::new(number), 4 * 4096, 2 * 4096);
        let (lane, salt, from) = (LANE, 9, Vec::new());
        let entry = CompactedEntry { id, lane, salt, size_bytes, table, through, from };
        self.kept.push((entry, records));
    }

    /// An index that has all up to some record, from before anything was let go. Nothing, if a line ends there with what it may
    /// have lost: it would not have gone on with the same number.
    fn until(&self, seed: &mut Seed) -> Option<MemoryIndex> {
        let made = Arc::new(MemoryIndex::default());
        let store: Arc<dyn IndexStore> = Arc::clone(&made) as Arc<dyn IndexStore>;
        let lines = LINES.map(|line| (line, Sequence::default()));
        let mut replay = Replay::new(LANE, &lines, store).expect("in memory");
        let whole = seed.index(self.written.len());
        for of in &self.written[..whole] {
            replay.take_segment(&of.0, examination(of), &[]).expect("in memory");
        }
        let cut = &self.written[whole];
        let (mut found, next) = (examination(cut), cut.1[seed.index(cut.1.len())].lane_sequence);
        found.records.retain(|found| found.record.lane_sequence < next);
        found.next = next;
        replay.take_segment(&cut.0, found, &[]).expect("in memory");
        replay.finish(SegmentId::default()).expect("in memory");
        let read = self.written.iter().flat_map(|(_, records, _)| records);
        let read: Vec<_> = read.filter(|record| record.lane_sequence < next).collect();
        let ends_well = LINES.into_iter().all(|line| {
            let of_line = read.iter().filter(|record| record.line == line);
            let last = of_line.map(|record| record.sequence).max().unwrap_or_default();
            read_tail(&*made, line).expect("in memory").sequence == last
        });
        ends_well.then(|| made.checkpoint())
    }

    fn state(&self) -> ManifestState {
        let mut state = ManifestState::default();
        state.segments.extend(self.segments.iter().map(|(entry, ..)| (entry.id, *entry)));
        state.compacted.extend(self.kept.iter().map(|(entry, _)| (entry.id, entry.clone())));
        for (first, run) in &self.released {
            state.released.insert(LANE, *first, run.clone());
        }
        state
    }

    fn forwards(&self, index: &MemoryIndex) -> MemoryIndex {
        let made = Arc::new(index.checkpoint());
        let store: Arc<dyn IndexStore> = Arc::clone(&made) as Arc<dyn IndexStore>;
        let lines = LINES.map(|line| (line, Sequence::default()));
        let mut replay = Replay::new(LANE, &lines, store).expect("in memory");
        for (entry, records) in &self.kept {
            if replay.lacks(entry) {
                replay.take_compacted(entry, records.clone()).expect("in memory");
            }
        }
        let mut pieces: Vec<_> =
            self.segments.iter().map(|of| (of.0.first, Some(of), None)).collect();
        pieces.extend(self.released.iter().map(|(first, run)| (*first, None, Some(run))));
        pieces.sort_by_key(|(first, ..)| *first);
        for (_, segment, run) in pieces {
            run.into_iter().for_each(|run| replay.take_released(run));
            if let Some(of) = segment {
                replay.take_segment(&of.0, examination(of), &[]).expect("in memory");
            }
        }
        replay.finish(self.newest()).expect("in memory");
        made.checkpoint()
    }

    fn newest(&self) -> SegmentId {
        self.kept.iter().map(|(entry, _)| entry.id).max().unwrap_or_default()
    }

    /// Step by step; `look` sees what is said after each.
    fn backwards(
        &self,
        index: &MemoryIndex,
        mut look: impl FnMut(&MemoryIndex, &Lines),
    ) -> MemoryIndex {
        let index = index.checkpoint();
        let progress = read_progress(&index, LANE).expect("in memory");
        let moved = read_moved(&index, LANE).expect("in memory");
        let mut next = progress.next();
        let mut pieces = pieces(LANE, &self.state(), progress, moved, &mut next);
        let last = self.written.last().and_then(|(entry, ..)| entry.ended);
        assert_eq!(Some(next), last.map(|(_, next)| next), "the lane goes on elsewhere");
        let known: BTreeSet<_> = LINES.into_iter().collect();
        let before = LINES.map(|line| (line, read_tail(&index, line).expect("in memory")));
        let mut lines = Lines::new(before);
        let mut taken = Vec::new();
        while let Some(piece) = pieces.pop() {
            let mut gaps = Vec::new();
            match &piece {
                Piece::Segment(entry) => {
                    let of = self.segments.iter().find(|of| of.0.id == entry.id).expect("there");
                    let found = examination(of);
                    let done = index_segment(&known, progress, entry, found, &[]);
                    done.batches.into_iter().for_each(|b| index.write(b).expect("in memory"));
                    gaps = lines.take_segment(&done.stretch);
                    taken.push(done.taken);
                }
                Piece::Released(at, run) => gaps = lines.take_released(*at, run),
                Piece::Compacted(entry) => {
                    let (_, records) =
                        self.kept.iter().find(|(of, _)| of.id == entry.id).expect("there");
                    let mut batch = IndexBatch::default();
                    records.iter().for_each(|kept| index_kept(&mut batch, kept, entry.id));
                    index.write(batch).expect("in memory");
                }
            }
            put(&index, &gaps);
            lines.goes_on_at(pieces.last().map(Piece::end));
            look(&index, &lines);
        }
        put(&index, &lines.finish());
        look(&index, &lines);
        let tails = lines.tails().collect();
        let taken = taken.into_iter().rev().flatten().collect();
        let ending = Ending { lane: LANE, moved: self.newest(), tails, taken };
        let (batch, _) = ending.entries(&index, &[]).expect("in memory");
        index.write(batch).expect("in memory");
        index
    }
}

fn put(index: &MemoryIndex, gaps: &[Lost]) {
    let mut batch = IndexBatch::default();
    gaps.iter().for_each(|lost| lost.put(&mut batch));
    index.write(batch).expect("in memory");
}

/// The next record of a line: a mark or zeroes, from a stream or not.
fn record(seed: &mut Seed, at: LaneSequence, line: LineId, tail: &mut LineTail) -> Record {
    let streamed = line == LINES[0] && seed.chance(2, 3);
    let block = ByteRange::at(Block::new(seed.below(64)).offset(), 4096).expect("small");
    let disk = DiskId::new(1);
    let marks = seed.chance(1, 4);
    let zeroes = RecordExtent { disk, range: block, content: ExtentContent::Zero };
    let record = Record {
        kind: match marks {
            true => RecordKind::Mark { kind: PointKind::Crash, label: None },
            false => RecordKind::Batch,
        },
        boundary: marks,
        lane_sequence: at,
        durable_through: LaneSequence::default(),
        group: GroupId::new(1),
        line,
        sequence: tail.sequence.next(),
        generation: Generation::new(u64::from(streamed)),
        stream: if streamed { STREAM } else { StreamId::NONE },
        position: if streamed { tail.position.next() } else { Position::default() },
        source_time: Timestamp::default(),
        commit_time: Timestamp::from_nanoseconds(at.number()),
        previous_chain: Chain::default(),
        seal: None,
        extents: if marks { Vec::new() } else { vec![zeroes] },
    };
    *tail = tail_after(tail, &record);
    record
}

/// A segment as it is read: without what was lost.
fn examination((entry, records, lost): &Segment) -> Examination {
    let mut found = Vec::new();
    let mut after_loss = false;
    for record in records {
        if lost.contains(&record.lane_sequence) {
            after_loss = true;
            continue;
        }
        let (record, damaged_bodies) = (record.clone(), Vec::new());
        found.push(FoundRecord { offset: 4096, record, damaged_bodies, after_loss });
        after_loss = false;
    }
    let (end, next) = entry.ended.expect("all have");
    Examination { records: found, end, next, damage: Vec::new() }
}

/// What the manifest keeps of records.
fn released(records: &[Record]) -> BTreeMap<LineId, ReleasedLine> {
    let mut lines: BTreeMap<LineId, ReleasedLine> = BTreeMap::new();
    for record in records {
        let (first, chain_before) = (record.sequence, record.previous_chain);
        let new = ReleasedLine { first, chain_before, tail: LineTail::default() };
        let line = lines.entry(record.line).or_insert(new);
        line.tail = tail_after(&line.tail, record);
    }
    lines
}

fn join(run: &mut ReleasedRun, later: ReleasedRun) {
    run.next = later.next;
    for (line, of) in later.lines {
        match run.lines.get_mut(&line) {
            Some(earlier) => earlier.tail = of.tail_after(&earlier.tail),
            None => {
                run.lines.insert(line, of);
            }
        }
    }
}

/// All entries but those that say how far the lane is.
fn entries(index: &MemoryIndex) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut cursor = index.cursor();
    cursor.seek(&[]).expect("in memory");
    let mut entries = BTreeMap::new();
    while let Some((key, value)) = cursor.entry() {
        if key[0] != 5 {
            entries.insert(key.to_vec(), value.to_vec());
        }
        cursor.advance().expect("in memory");
    }
    entries
}

#[test]
fn reading_backwards_ends_where_reading_forwards_does_and_promises_nothing_before() {
    for seed in 0..3000 {
        let mut random = Seed::new(seed);
        let journal = Journal::write(&mut random);
        let before = match random.chance(1, 2) {
            true => journal.until(&mut random).unwrap_or_default(),
            false => MemoryIndex::default(),
        };
        let forwards = journal.forwards(&before);
        let all = entries(&forwards);
        let ends = LINES.map(|line| read_tail(&forwards, line).expect("in memory"));
        let backwards = journal.backwards(&before, |index, lines| {
            for (line, end) in LINES.into_iter().zip(&ends) {
                let above = lines.indexed_above(line);
                for key in all.keys() {
                    let Some(version) = parse_key(key) else { continue };
                    let promised = version.line == line && version.sequence > above;
                    let there = !promised || index.get(key).expect("in memory").is_some();
                    assert!(there, "seed {seed}: {line:?} {:?} > {above:?}", version.sequence);
                }
                if let Some(tail) = lines.tail(line, line == LINES[0]) {
                    assert_eq!(tail, *end, "seed {seed}: {line:?}");
                }
            }
        });
        assert_eq!(entries(&backwards), all, "seed {seed}");
    }
}

/// What stands for a loss at the end of a line was no record, so no run of records that are gone has it.
#[test]
fn a_line_never_ends_below_where_the_index_had_it() {
    let at = |sequence| LineTail { sequence: Sequence::new(sequence), ..LineTail::default() };
    let mut lines = Lines::new([(LINES[0], at(4)), (LINES[1], at(0))]);
    let line = |last| {
        let (first, chain_before) = (Sequence::new(1), Chain::default());
        ReleasedLine { first, chain_before, tail: at(last) }
    };
    let of = BTreeMap::from([(LINES[0], line(3)), (LINES[1], line(2))]);
    let run = ReleasedRun { next: LaneSequence::new(10), lines: of };
    assert_eq!(lines.take_released(LaneSequence::new(1), &run), []);
    lines.goes_on_at(None);
    assert_eq!(lines.finish(), []);
    let ends: Vec<_> = lines.tails().map(|(line, tail)| (line, tail.sequence.number())).collect();
    assert_eq!(ends, [(LINES[0], 4), (LINES[1], 2)]);
}

/// A step that is done twice changes nothing: whoever begins again after a crash comes to the same end.
#[test]
fn a_rebuild_that_was_cut_off_ends_where_one_that_was_not_does() {
    for seed in 0..500 {
        let journal = Journal::write(&mut Seed::new(seed));
        let empty = MemoryIndex::default();
        let mut at = 0;
        let cut_off = Seed::new(seed).below(8);
        let mut left = MemoryIndex::default();
        let whole = journal.backwards(&empty, |index, _| {
            at += 1;
            if at == cut_off {
                left = index.checkpoint();
            }
        });
        let mut batch = IndexBatch::default();
        put_progress(&mut batch, LANE, LaneSequence::default());
        left.write(batch).expect("in memory");
        let again = journal.backwards(&left, |_, _| {});
        assert_eq!(entries(&again), entries(&whole), "seed {seed}");
    }
}
