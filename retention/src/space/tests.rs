use super::*;
use crate::ids::{GroupId, LaneId, MachineId};
use crate::index::IndexBatch;
use crate::index::memory::MemoryIndex;
use crate::index::usage_key::{SAMPLE_BYTES, Sampler};
use crate::line::LineState;
use crate::manifest::state::LineEntry;
use crate::point::{Point, PointKind};

const MIB: u64 = SAMPLE_BYTES;

fn line(number: u32) -> Arc<Line> {
    let (group, lane) = (GroupId::new(1), LaneId::new(0));
    let entry = LineEntry::new(LineId::new(number), MachineId::new(1), group, lane);
    Arc::new(Line::new(&entry, None, LineState::default()))
}

/// A machine with points at 10, 20 … 60, a MiB of records between any two sequences; 30 is fuzzy.
fn subject(held: &[u64]) -> (Subject, MemoryIndex) {
    let (trunk, index, mut sampler) = (line(1), MemoryIndex::default(), Sampler::default());
    for sequence in 1..=60 {
        let mut batch = IndexBatch::default();
        let at = (trunk.id(), Sequence::new(sequence));
        sampler.note(&index, &mut batch, at, MIB).expect("in memory");
        index.write(batch).expect("in memory");
    }
    let point = |sequence: u64| Point {
        sequence: Sequence::new(sequence),
        commit_time: Timestamp::from_nanoseconds(sequence),
        source_time: Timestamp::default(),
        kind: if sequence == 30 { PointKind::Fuzzy } else { PointKind::Crash },
        label: None,
    };
    trunk.add_points((1..=6).map(|at| point(at * 10)).collect());
    let mut holds = Holds::default();
    held.iter().for_each(|at| holds.add(Sequence::new(*at), Hold::Pin));
    let subject = Subject {
        machine: Name::parse("web").expect("a name"),
        policy: Policy::default(),
        trunk,
        branches: vec![(Name::parse("b").expect("a name"), line(2))],
        holds,
    };
    (subject, index)
}

fn decided(held: &[u64], quota: u64, then: WhenFull, floor: u64) -> Option<(Option<u64>, u64)> {
    let (subject, index) = subject(held);
    let lines = measure(&index, &subject).expect("sound");
    let used: Vec<u64> = lines.iter().map(|line| line.used / MIB).collect();
    assert_eq!(used, [60, 0]);
    let quota = Quota { bytes: quota * MIB, then, floor_bytes: floor * MIB };
    let decided = decide(&index, &subject, &quota, 60 * MIB).expect("sound");
    decided.map(|(begin, freed)| (begin.map(Sequence::number), freed / MIB))
}

#[test]
fn the_oldest_points_go_until_the_rest_fits_with_some_room() {
    let shorten = |quota| decided(&[], quota, WhenFull::Shorten, 0);
    assert_eq!(shorten(64), None, "a sixteenth is free");
    // Records up to the first point go with it, and those up to the second.
    assert_eq!(shorten(60), Some((Some(20), 20)));
    assert_eq!(shorten(43), Some((Some(20), 20)));
    // A fuzzy point goes in its turn, not before those that hold its space.
    assert_eq!(shorten(40), Some((Some(30), 30)));
    assert_eq!(shorten(31), Some((Some(40), 40)));
    // The newest stays however little room it leaves.
    assert_eq!(shorten(1), Some((Some(60), 60)));
}

#[test]
fn what_is_held_ends_what_may_go_and_a_floor_is_kept() {
    let shorten = |held: &[u64], floor| decided(held, 20, WhenFull::Shorten, floor);
    assert_eq!(shorten(&[], 0), Some((Some(50), 50)));
    assert_eq!(shorten(&[30], 0), Some((Some(30), 30)));
    assert_eq!(shorten(&[10], 0), Some((None, 0)));
    assert_eq!(shorten(&[], 19), Some((Some(40), 40)), "one more would go below it");
    assert_eq!(decided(&[], 20, WhenFull::Hold, 0), None, "nothing goes");
}

#[test]
fn where_the_journal_is_smaller_than_what_is_needed_of_it_all_count_for_less() {
    assert_eq!(scaled(10, 100, 50), 10);
    assert_eq!(scaled(10, 50, 100), 5);
    assert_eq!(scaled(u64::MAX, u64::MAX - 1, u64::MAX), u64::MAX - 1);
    assert_eq!(scaled(0, 0, 0), 0);
}
