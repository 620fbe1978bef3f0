use super::*;
use crate::ids::{GroupId, LaneSequence, Position, SegmentId, StreamId};
use crate::index::block_key::{put_data, put_zeroes};
use crate::index::memory::MemoryIndex;
use crate::index::{IndexBatch, IndexStore};
use crate::journal::format::{Chain, RecordExtent};
use crate::leaf::{BlockPlace, Layer, LeafIndex, resolve};
use crate::point::PointKind;
use crate::time::Timestamp;
use landfall_disks::faults::Seed;
use landfall_disks::{Block, ByteOffset};
use std::collections::BTreeSet;

const TRUNK: LineId = LineId::new(1);
const BRANCH: LineId = LineId::new(2);
const DISK: DiskId = DiskId::new(7);
const BLOCKS: u64 = 300;

fn record(line: LineId, sequence: u64, kind: RecordKind, extents: Vec<RecordExtent>) -> Record {
    Record {
        kind,
        boundary: false,
        lane_sequence: LaneSequence::new(sequence),
        durable_through: LaneSequence::default(),
        group: GroupId::new(1),
        line,
        sequence: Sequence::new(sequence),
        generation: crate::ids::Generation::default(),
        stream: StreamId::NONE,
        position: Position::default(),
        source_time: Timestamp::default(),
        commit_time: Timestamp::default(),
        previous_chain: Chain::default(),
        seal: None,
        extents,
    }
}

/// What a look at a moment would find in one place: which record wrote it.
type Places = Vec<BlockPlace>;

fn look(index: &MemoryIndex, layers: &[(LineId, u64)], floor: u64) -> Places {
    let layer = |(line, newest): &(LineId, u64)| Layer {
        line: *line,
        above: Sequence::default(),
        newest: Sequence::new(*newest),
        gap: None,
        folded: *line == TRUNK,
    };
    let layers: Vec<_> = layers.iter().map(layer).collect();
    let mut places = Vec::new();
    for leaf in 0..=BLOCKS / 256 {
        let leaf = LeafIndex::of(ByteOffset::new(leaf << 20));
        let floor = || Sequence::new(floor);
        let found = resolve(index, &layers, floor, DISK, leaf).expect("whole");
        let first = leaf.range().start().block().index();
        places.extend((first..first + 256).map(|block| found.place(Block::new(block))));
    }
    places
}

/// Random histories of a trunk and a branch: a block of a record is needed if and only if some moment that can be looked at
/// finds it.
#[test]
fn exactly_what_some_moment_sees_is_needed() {
    let (mut kept, mut gone) = (0, 0);
    for seed in 0..40 {
        let random = &mut Seed::new(seed);
        let index = MemoryIndex::default();
        let mut records = Vec::new();
        let (last, origin) = (60 + random.below(60), 20 + random.below(30));
        for (line, count) in [(TRUNK, last), (BRANCH, 40)] {
            for sequence in 1..=count {
                let longest = *random.pick(&[2, 40, 150]);
                let blocks = 1 + random.below(longest);
                let first = random.below(BLOCKS - blocks) / 16 * *random.pick(&[1, 16]);
                let at = ByteOffset::new(first * BLOCK_SIZE);
                let range = ByteRange::at(at, blocks * BLOCK_SIZE).expect("small");
                let version = (line, DISK, Sequence::new(sequence));
                let mut batch = IndexBatch::default();
                let content = if random.chance(1, 5) {
                    put_zeroes(&mut batch, version, range);
                    ExtentContent::Zero
                } else {
                    let sums = vec![1; usize::try_from(blocks).expect("few")];
                    let segment = u32::try_from(sequence).expect("few") + line.number() * 1000;
                    put_data(&mut batch, version, range, (SegmentId::new(segment), 1), &sums);
                    ExtentContent::Data { body: 4096, hash: [0; 32] }
                };
                index.write(batch).expect("in memory");
                let extent = RecordExtent { disk: DISK, range, content };
                records.push(record(line, sequence, RecordKind::Batch, vec![extent]));
            }
        }
        let floor = random.below(origin);
        let through = last - random.below(10);
        let points: BTreeSet<u64> = (floor..=through).filter(|_| random.chance(1, 8)).collect();
        let held = points.iter().copied().chain([floor, origin]).map(Sequence::new).collect();
        let sight = sight(held, through, floor);
        let mut looks = Vec::new();
        for moment in points.iter().copied().chain([floor, origin]).chain(through..=last + 1) {
            looks.push(look(&index, &[(TRUNK, moment)], floor));
        }
        for moment in (0..=41).filter(|moment| *moment % 8 == 3 || *moment >= 34) {
            looks.push(look(&index, &[(BRANCH, moment), (TRUNK, origin)], floor));
        }
        for record in &records {
            let needed = sight.needed(&mut *index.cursor(), record).expect("in memory");
            let extent = &record.extents[0];
            if extent.content == ExtentContent::Zero {
                continue;
            }
            let own = record.sequence.number() + u64::from(record.line.number()) * 1000;
            let own = SegmentId::new(u32::try_from(own).expect("few"));
            for block in 0..extent.range.length() / BLOCK_SIZE {
                let at = extent.range.start().block().index() + block;
                let sees = |places: &Places| {
                    let place = places[usize::try_from(at).expect("few")];
                    matches!(place, BlockPlace::Journal { segment, .. } if segment == own)
                };
                let seen = looks.iter().any(sees);
                let runs = needed.data.first().map_or(&[][..], |(_, runs)| runs);
                let live =
                    runs.iter().any(|(first, count)| (*first..first + count).contains(&block));
                assert_eq!(live, seen, "seed {seed}: block {at} of {:?}", record.sequence);
                if live { kept += 1 } else { gone += 1 }
            }
        }
    }
    assert!(kept > 1000 && gone > 1000, "{kept} kept, {gone} gone");
}

fn sight(moments: Vec<Sequence>, through: u64, floor: u64) -> Sight {
    let (above, up_to) = (Sequence::default(), Sequence::MAX);
    let trunk = LineSight {
        above,
        up_to,
        moments: Moments::these(moments, Sequence::new(through)),
        floors: [(DISK, Sequence::new(floor))].into(),
    };
    let seen = (0..=34).filter(|moment| moment % 8 == 3).map(Sequence::new).collect();
    let moments = Moments::these(seen, Sequence::new(34));
    let branch = LineSight { above, up_to, moments, floors: BTreeMap::new() };
    Sight { lines: [(TRUNK, vec![trunk]), (BRANCH, vec![branch])].into() }
}

#[test]
fn moments_stay_and_records_of_lines_that_are_gone_do_not() {
    let sight = sight(vec![Sequence::new(20)], 30, 0);
    let index = MemoryIndex::default();
    let mark = || RecordKind::Mark { kind: PointKind::Fuzzy, label: None };
    let nothing = |line: u32, sequence: u64, kind: RecordKind| {
        let record = record(LineId::new(line), sequence, kind, Vec::new());
        sight.needed(&mut *index.cursor(), &record).expect("in memory").is_nothing()
    };
    assert!(!nothing(1, 20, mark()), "a point that is kept");
    assert!(nothing(1, 21, mark()), "one that was dropped");
    assert!(!nothing(1, 31, mark()), "one that came meanwhile");
    assert!(nothing(1, 20, RecordKind::Batch), "it changes nothing and is no moment");
    assert!(nothing(3, 20, mark()), "its line is gone");
    assert!(nothing(0, 0, RecordKind::Vouch));
}
