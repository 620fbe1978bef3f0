//! Promotions on the state alone: whose everything is afterwards, and which records do not fit.

use super::*;
use crate::ids::{ContentId, DiskId, ExportId, Generation, GroupId, MachineId};
use crate::manifest::history::HistoryStart;
use crate::manifest::record::ManifestRecord;
use crate::name::Name;
use crate::replica::span::Place;
use crate::time::Timestamp;
use proptest::prelude::*;

const MACHINE: MachineId = MachineId::new(1);
const DISK: DiskId = DiskId::new(1);
const TRUNK: LineId = LineId::new(1);

fn at(sequence: u64) -> Sequence {
    Sequence::new(sequence)
}

fn line(number: u32) -> LineId {
    LineId::new(number)
}

fn named(text: &str) -> Name {
    Name::parse(text).expect("a name")
}

fn time(nanoseconds: u64) -> Timestamp {
    Timestamp::from_nanoseconds(nanoseconds)
}

fn branch(number: u32, parent: u32, origin: u64) -> ManifestRecord {
    ManifestRecord::BranchStarted {
        line: line(number),
        name: named(&format!("b{number}")),
        parent: line(parent),
        origin: at(origin),
        origin_time: time(origin * 10),
    }
}

fn promoted(number: u32, old: &str, instants: u64, generation: u64) -> ManifestRecord {
    ManifestRecord::BranchPromoted {
        line: line(number),
        old: named(old),
        instants: at(instants),
        generation: Generation::new(generation),
    }
}

fn pinned(number: u32, sequence: u64) -> ManifestRecord {
    ManifestRecord::PointPinned { line: line(number), sequence: at(sequence) }
}

fn dropped(number: u32, first: u64, last: u64, kept: &[u64]) -> ManifestRecord {
    let kept = kept.iter().copied().map(at).collect();
    ManifestRecord::PointsDropped { line: line(number), first: at(first), last: at(last), kept }
}

fn grown(above: u64, size_bytes: u64) -> ManifestRecord {
    ManifestRecord::DiskGrown { disk: DISK, above: at(above), size_bytes }
}

fn exported(number: u32, of: u32, sequence: Option<u64>) -> ManifestRecord {
    ManifestRecord::ExportAdded {
        export: ExportId::new(number),
        name: "m".into(),
        line: line(of),
        sequence: sequence.map(at),
        writable: false,
    }
}

/// A machine with a disk whose first copy ended at 2.
fn machine() -> Vec<ManifestRecord> {
    vec![
        ManifestRecord::MachineAdded {
            machine: MACHINE,
            name: named("m"),
            display_name: String::new(),
            group: GroupId::new(1),
            trunk: TRUNK,
            lane: LaneId::new(0),
        },
        ManifestRecord::DiskAdded {
            disk: DISK,
            machine: MACHINE,
            name: named("d"),
            size_bytes: 4096,
            format: "raw".into(),
            image: "d".into(),
        },
        ManifestRecord::SeedFinished { disk: DISK, floor: at(2) },
    ]
}

/// The sum of records, which must come back from a snapshot.
fn state(records: &[ManifestRecord]) -> ManifestState {
    let mut state = ManifestState::default();
    for record in machine().iter().chain(records) {
        state.apply(record).unwrap_or_else(|misfit| panic!("{record:?}: {misfit}"));
    }
    let mut again = ManifestState::default();
    state.records().iter().for_each(|record| again.apply(record).expect("our own"));
    assert_eq!(again, state, "a snapshot adds up to something else");
    state
}

fn written(state: &ManifestState, number: u32) -> Vec<(u32, u64, u64)> {
    let stretches = state.lines[&line(number)].stretches();
    stretches.map(|one| (one.line.number(), one.above.number(), one.up_to.number())).collect()
}

#[test]
fn the_trunk_takes_over_what_its_ancestors_had_and_they_go_on_from_it() {
    // Line 2 leaves the trunk at 10, line 3 leaves line 2 at 15; lines 4 to 7 hang at either side of those places.
    let tree = [branch(2, 1, 10), branch(3, 2, 15), branch(4, 1, 5), branch(5, 1, 12)];
    let held = [branch(6, 2, 13), branch(7, 2, 20), pinned(1, 9), pinned(1, 11), pinned(2, 14)];
    let more = [pinned(2, 16), pinned(3, 17), exported(1, 1, Some(8)), exported(2, 1, Some(30))];
    let mut records = [tree.to_vec(), held.to_vec(), more.to_vec()].concat();
    records.extend([exported(3, 1, None), exported(4, 3, None)]);
    records.extend([dropped(1, 0, 40, &[5, 8, 9, 10, 11, 12, 30]), dropped(3, 15, 16, &[])]);
    records.push(promoted(3, "old", 18, 1));
    let state = state(&records);
    let trunk = &state.lines[&line(3)];
    assert_eq!(
        (state.machines[&MACHINE].trunk, trunk.origin, &trunk.branch),
        (line(3), None, &None)
    );
    assert_eq!(written(&state, 3), [(1, 0, 10), (2, 10, 15), (3, 15, u64::MAX)]);
    assert_eq!(written(&state, 1), [(1, 10, u64::MAX)]);
    assert_eq!(written(&state, 2), [(2, 15, u64::MAX)]);
    let origins = [1, 2, 4, 5, 6, 7].map(|of| state.lines[&line(of)].origin.expect("a branch"));
    let hung = origins.map(|(parent, origin)| (parent.number(), origin.number()));
    assert_eq!(hung, [(3, 10), (3, 15), (3, 5), (1, 12), (3, 13), (2, 20)]);
    assert_eq!(state.lines[&line(1)].branch, Some(named("old")));
    assert!(state.lines[&line(1)].sealed && !state.lines[&line(2)].sealed);
    assert_eq!([1, 2].map(|of| state.lines[&line(of)].born), [time(100), time(150)]);
    let pins =
        |of: u32| state.lines[&line(of)].pins.iter().map(|pin| pin.number()).collect::<Vec<_>>();
    assert_eq!((pins(3), pins(2), pins(1)), (vec![9, 14, 17], vec![16], vec![11]));
    let gone = |of: u32, sequence: u64| state.lines[&line(of)].dropped.contains(at(sequence));
    assert!(gone(3, 7) && !gone(3, 9) && !gone(3, 12) && gone(3, 16) && gone(1, 13));
    assert!(!gone(3, 13), "that was dropped of what is not the trunk any more");
    let exports: Vec<_> =
        state.exports.values().map(|e| (e.line.number(), e.name.as_str())).collect();
    assert_eq!(exports, [(3, "m@seq:8"), (1, "m~old@seq:30"), (3, "m"), (3, "m")]);
    assert_eq!(trunk.generation, Generation::new(1));
    assert_eq!(trunk.oldest_welcome, Generation::new(1));
}

#[test]
fn what_was_the_trunk_can_become_it_again_and_what_is_left_of_it_be_discarded() {
    let once = [branch(2, 1, 10), promoted(2, "old", 12, 1)];
    let back = [once.to_vec(), vec![promoted(1, "b2", 0, 2)]].concat();
    let again = state(&back);
    assert_eq!(again.machines[&MACHINE].trunk, TRUNK);
    assert_eq!(
        (written(&again, 1), written(&again, 2)),
        (vec![(1, 0, u64::MAX)], vec![(2, 10, u64::MAX)])
    );
    assert!(again.lines[&line(2)].sealed && !again.lines[&TRUNK].sealed);
    let without = [once.to_vec(), vec![ManifestRecord::BranchDiscarded { line: TRUNK }]].concat();
    let mut without = state(&without);
    assert_eq!(written(&without, 2), [(1, 0, 10), (2, 10, u64::MAX)]);
    assert!(without.is_written_as(TRUNK) && !without.lines.contains_key(&TRUNK));
    without.apply(&branch(1, 2, 11)).expect_err("its id is that of what the trunk was written as");
    let removed = ManifestRecord::MachineRemoved { machine: MACHINE };
    without.apply(&removed).expect("nothing is locked");
    assert!(!without.is_written_as(TRUNK));
}

#[test]
fn history_begins_where_it_began_and_moves_on_along_the_new_trunk() {
    let start = |sequence| HistoryStart {
        sequence: at(sequence),
        commit_time: time(1),
        source_time: Timestamp::default(),
        kind: None,
        label: None,
    };
    let fold =
        |of: u32, sequence| ManifestRecord::FoldStarted { line: line(of), start: start(sequence) };
    let mut state = state(&[fold(1, 6), branch(2, 1, 10), promoted(2, "old", 12, 1)]);
    assert_eq!(state.lines[&line(2)].start, Some(start(6)));
    state.apply(&fold(1, 11)).expect_err("that is a branch");
    state.apply(&fold(2, 11)).expect_err("the old trunk starts at 10");
    state.apply(&fold(2, 10)).expect("nobody holds anything older");
    state.apply(&ManifestRecord::BranchDiscarded { line: TRUNK }).expect("nothing is locked");
    state.apply(&fold(2, 30)).expect("nobody holds anything older");
    state.apply(&ManifestRecord::FoldDone { disk: DISK, floor: at(30) }).expect("up to the start");
}

#[test]
fn sizes_follow_the_moments_they_are_those_of() {
    let size = |state: &ManifestState, place: &[(u32, u64)]| {
        let place = place.iter().map(|(of, moment)| (line(*of), at(*moment))).collect();
        state.disks[&DISK].span.size_in(&Place::new(place))
    };
    let on_branch = ManifestRecord::BranchDiskGrown {
        line: line(2),
        disk: DISK,
        above: at(13),
        size_bytes: 12288,
    };
    let content = ManifestRecord::ContentNamed {
        disk: DISK,
        sequence: at(15),
        content: ContentId::new([1; 32]),
    };
    let before = [grown(5, 8192), branch(2, 1, 10), grown(12, 20480), on_branch, content];
    let after = state(&[before.to_vec(), vec![promoted(2, "old", 14, 1)]].concat());
    let trunk = [5, 6, 13, 14].map(|moment| size(&after, &[(2, moment)]));
    assert_eq!(trunk, [4096, 8192, 8192, 12288]);
    let old = [11, 12, 13].map(|moment| size(&after, &[(1, moment), (2, 10)]));
    assert_eq!(old, [8192, 8192, 20480]);
    assert_eq!(after.disks[&DISK].content, None, "that is what the old trunk held");
    let back = state(
        &[before.to_vec(), vec![promoted(2, "old", 14, 1), promoted(1, "b2", 0, 2)]].concat(),
    );
    let there = state(&before);
    assert_eq!(back.disks[&DISK].span, there.disks[&DISK].span, "there and back again");
}

#[test]
fn disks_that_came_or_went_on_the_old_trunk_did_so_there() {
    let second = DiskId::new(2);
    let joins = [
        ManifestRecord::DiskAdded {
            disk: second,
            machine: MACHINE,
            name: named("e"),
            size_bytes: 4096,
            format: "raw".into(),
            image: "e".into(),
        },
        ManifestRecord::SeedFinished { disk: second, floor: at(20) },
        ManifestRecord::DiskJoined { disk: second, since: at(20) },
        ManifestRecord::DiskRemoved { disk: DISK, until: at(25) },
    ];
    let records =
        [vec![branch(2, 1, 10)], joins.to_vec(), vec![promoted(2, "old", 12, 1)]].concat();
    let after = state(&records);
    let has = |disk: DiskId, place: &[(u32, u64)]| {
        let place = place.iter().map(|(of, moment)| (line(*of), at(*moment))).collect();
        after.disks[&disk].span.is_in(&Place::new(place))
    };
    let trunk = [9, 11, 30].map(|moment| [has(DISK, &[(2, moment)]), has(second, &[(2, moment)])]);
    assert_eq!(trunk, [[true, false]; 3]);
    let old = [15, 21, 26].map(|moment| {
        let place = [(1, moment), (2, 10)];
        [has(DISK, &place), has(second, &place)]
    });
    assert_eq!(old, [[true, false], [true, true], [false, true]]);
    let back = state(&[records, vec![promoted(1, "b2", 0, 2)]].concat());
    let there = state(&[vec![branch(2, 1, 10)], joins.to_vec()].concat());
    for disk in [DISK, second] {
        assert_eq!(back.disks[&disk].span, there.disks[&disk].span, "there and back again");
    }
}

#[test]
fn records_that_would_tear_a_history_apart_do_not_fit() {
    let before = state(&[branch(2, 1, 10), branch(3, 2, 15), exported(1, 1, Some(4))]);
    let old = ManifestRecord::BranchAdded {
        line: line(4),
        name: named("b4"),
        parent: TRUNK,
        origin: at(9),
        origin_time: time(90),
    };
    let inherits = |of: u32, from: u32, up_to: u64| ManifestRecord::LineInherits {
        line: line(of),
        stretch: Inherited { from: line(from), up_to: at(up_to) },
    };
    let settled = state(&[branch(2, 1, 10), promoted(2, "old", 12, 1)]);
    let unnumbered = state(std::slice::from_ref(&old));
    for (state, record) in [
        (&before, promoted(1, "old", 1, 1)),
        (&before, promoted(9, "old", 1, 1)),
        (&before, promoted(2, "b3", 12, 1)),
        (&before, promoted(2, "old", 12, 0)),
        (&before, branch(5, 2, 9)),
        (&before, pinned(3, 14)),
        (&before, inherits(2, 9, 10)),
        (&before, inherits(2, 2, 20)),
        (&before, inherits(1, 9, u64::MAX)),
        (&settled, promoted(1, "b3", 12, 1)),
        (&settled, pinned(1, 9)),
        (&unnumbered, promoted(4, "old", 1, 1)),
    ] {
        let mut tried = state.clone();
        assert!(tried.apply(&record).is_err(), "{record:?}");
        assert_eq!(tried, *state, "{record:?} changed something");
    }
    let writable = ManifestRecord::ExportAdded {
        export: ExportId::new(9),
        name: "m~b2".into(),
        line: line(2),
        sequence: None,
        writable: true,
    };
    let mut busy = before;
    busy.apply(&writable).expect("a branch");
    busy.apply(&promoted(2, "old", 12, 1)).expect_err("somebody may write to it");
}

proptest! {
    /// Any tree of branches, any of them promoted, any number of times: what every line wrote is one history's, all that a
    /// moment saw it sees still, and a snapshot holds it.
    #[test]
    fn promotions_change_what_things_are_called_and_nothing_else(
        branches in proptest::collection::vec((0usize..8, 0u64..30), 1..8),
        promotions in proptest::collection::vec(0usize..8, 1..6),
    ) {
        let mut state = state(&[]);
        for (next, (parent, further)) in (2..).zip(branches) {
            let lines: Vec<_> = state.lines.values().cloned().collect();
            let parent = &lines[parent % lines.len()];
            let record = branch(next, parent.id.number(), parent.base.number().max(3) + further);
            state.apply(&record).expect("it fits");
        }
        let path = |state: &ManifestState, of: LineId, moment: u64| {
            let mut path: Vec<(u32, u64)> = Vec::new();
            let (mut of, mut moment) = (Some(of), at(moment));
            while let Some(entry) = of.and_then(|of| state.lines.get(&of)) {
                let seen: Vec<_> = entry.stretches().filter(|one| one.above < moment).collect();
                for one in seen.iter().rev() {
                    let seen = (one.line.number(), one.up_to.min(moment).number());
                    match path.last() {
                        Some((line, _)) if *line == seen.0 => {}
                        _ => path.push(seen),
                    }
                }
                moment = entry.origin.map_or(moment, |(_, origin)| if moment < entry.base { moment } else { origin });
                of = entry.origin.map(|(parent, _)| parent);
            }
            path
        };
        for (number, pick) in (1..).zip(promotions) {
            let candidates: Vec<LineId> =
                state.lines.values().filter(|one| one.origin.is_some()).map(|one| one.id).collect();
            let line = candidates[pick % candidates.len()];
            let moments: Vec<(LineId, u64)> = state
                .lines
                .values()
                .flat_map(|one| [1, 9, 40].map(|after| (one.id, one.own_above().number() + after)))
                .collect();
            let before: Vec<_> = moments.iter().map(|(of, moment)| path(&state, *of, *moment)).collect();
            let record = promoted(line.number(), &format!("old{number}"), 50, number);
            state.apply(&record).expect("it fits");
            for ((of, moment), before) in moments.iter().zip(before) {
                prop_assert_eq!(path(&state, *of, *moment), before, "{:?} at {}", of, moment);
            }
            for (of, owned) in state.written(None) {
                for two in owned.windows(2) {
                    prop_assert!(two[0].up_to <= two[1].above, "{:?}: {:?}", of, owned);
                }
            }
        }
    }
}
