//! Groups: what becomes of their common points, and that a snapshot says the same.

use super::super::format::{encode_frame, parse_frame};
use super::*;
use crate::ids::Generation;
use crate::manifest::history::HistoryStart;
use crate::manifest::tests::{machine, name};
use crate::policy::Policy;

const SHOP: GroupId = GroupId::new(9);
const BARRIERS: Barriers =
    Barriers { every: Some(Duration::from_secs(10)), patience: Duration::from_millis(1500) };

fn joins(number: u32, group: GroupId) -> ManifestRecord {
    ManifestRecord::MachineGrouped { machine: MachineId::new(number), group }
}

fn point(number: u64, members: &[(u32, u64)]) -> CommonPoint {
    let member = |(line, sequence): &(u32, u64)| CommonMember {
        line: LineId::new(*line),
        sequence: Sequence::new(*sequence),
    };
    CommonPoint {
        number,
        time: Timestamp::from_nanoseconds(number),
        kind: PointKind::Crash,
        label: None,
        members: members.iter().map(member).collect(),
    }
}

fn made(number: u64, members: &[(u32, u64)]) -> ManifestRecord {
    ManifestRecord::CommonPointMade { group: SHOP, point: Arc::new(point(number, members)) }
}

/// Three machines of the group, each with lines of the same number.
fn shop() -> ManifestState {
    let added =
        ManifestRecord::GroupAdded { group: SHOP, name: name("shop"), barriers: BARRIERS, last: 0 };
    let mut state = ManifestState::default();
    for record in [added, machine(1), machine(2), machine(3)] {
        state.apply(&record).expect("fits");
    }
    for number in 1..=3 {
        state.apply(&joins(number, SHOP)).expect("fits");
    }
    state
}

fn apply(state: &mut ManifestState, record: &ManifestRecord) {
    state.apply(record).unwrap_or_else(|misfit| panic!("{record:?}: {misfit}"));
    let mut again = ManifestState::default();
    for one in state.records() {
        again.apply(&one).unwrap_or_else(|misfit| panic!("{one:?}: {misfit}"));
    }
    assert_eq!(again, *state, "after {record:?} a snapshot says something else");
}

/// Numbers and members of the common points there are.
fn common(state: &ManifestState) -> Vec<(u64, Vec<(u32, u64)>)> {
    let members = |point: &CommonPoint| {
        let member = |m: &CommonMember| (m.line.number(), m.sequence.number());
        point.members.iter().map(member).collect()
    };
    state.groups[&SHOP].points.values().map(|point| (point.number, members(point))).collect()
}

#[test]
fn records_of_groups_read_back_and_nothing_else_is_read() {
    let label = Some(Label::parse("before the upgrade").expect("a label"));
    let labelled = CommonPoint { kind: PointKind::App, label, ..point(8, &[(1, 5), (4, 6)]) };
    let never = Barriers { every: None, ..BARRIERS };
    let records = vec![
        ManifestRecord::GroupAdded { group: SHOP, name: name("shop"), barriers: BARRIERS, last: 7 },
        ManifestRecord::GroupSet { group: SHOP, barriers: never },
        joins(3, SHOP),
        ManifestRecord::CommonPointMade { group: SHOP, point: Arc::new(labelled) },
        ManifestRecord::GroupRemoved { group: SHOP },
    ];
    let mut bytes = Vec::new();
    encode_frame(4, &records, &mut bytes);
    assert_eq!(parse_frame(&bytes, 4), Ok((records, bytes.len())));

    // Frame head, kind, group, number and time come before the kind of the point; an empty label before the count.
    let (at_kind, at_count) = (16 + 2 + 4 + 8 + 8, 16 + 2 + 4 + 8 + 8 + 1 + 2);
    let mut whole = Vec::new();
    encode_frame(0, &[made(1, &[(1, 1), (2, 2)])], &mut whole);
    let changed = |at: usize, to: u8| {
        let mut bytes = whole.clone();
        bytes[at] = to;
        let length = u32::from_le_bytes(bytes[..4].try_into().expect("four")) as usize;
        let checksum = crc32c::crc32c(&bytes[8..16 + length]);
        bytes[4..8].copy_from_slice(&checksum.to_le_bytes());
        parse_frame(&bytes, 0).map(|_| ())
    };
    assert_eq!(changed(at_kind, 1), Ok(()));
    for bad in [0, 3] {
        let refused = Err(FrameError::Field("kind of a common point"));
        assert_eq!(changed(at_kind, bad), refused);
    }
    let refused = Err(FrameError::Field("members of a common point"));
    assert_eq!(changed(at_count + 1, 0xff), refused);
}

#[test]
fn a_common_point_is_there_while_every_member_has_its_moment() {
    let mut state = shop();
    for number in 1..=5 {
        let at = number * 10;
        apply(&mut state, &made(number, &[(1, at), (2, at + 1), (3, at + 2)]));
    }
    let dropped = ManifestRecord::PointsDropped {
        line: LineId::new(2),
        first: Sequence::new(1),
        last: Sequence::new(25),
        kept: vec![Sequence::new(11)],
    };
    apply(&mut state, &dropped);
    let there = |state: &ManifestState| common(state).iter().map(|one| one.0).collect::<Vec<_>>();
    assert_eq!(there(&state), [1, 3, 4, 5]);
    let start = HistoryStart {
        sequence: Sequence::new(32),
        commit_time: Timestamp::from_nanoseconds(1),
        source_time: Timestamp::default(),
        kind: None,
        label: None,
    };
    apply(&mut state, &ManifestRecord::FoldStarted { line: LineId::new(3), start });
    assert_eq!(there(&state), [3, 4, 5], "history may begin at a common point");
    // What cannot be chosen cannot become one either.
    let refused = state.apply(&made(6, &[(1, 60), (2, 20)]));
    assert!(refused.is_err_and(|misfit| misfit.record == "CommonPointMade"));
    assert_eq!(state.groups[&SHOP].last, 5);
}

#[test]
fn machines_that_go_leave_the_others_their_moment_in_common() {
    let mut state = shop();
    apply(&mut state, &made(1, &[(1, 10), (2, 11), (3, 12)]));
    apply(&mut state, &made(2, &[(1, 20), (2, 21)]));
    apply(&mut state, &ManifestRecord::MachineRemoved { machine: MachineId::new(2) });
    assert_eq!(common(&state), [(1, vec![(1, 10), (3, 12)])]);
    let own = state.given.group.next();
    apply(&mut state, &joins(1, own));
    assert_eq!(common(&state).len(), 1, "who leaves takes nothing away");
    assert_eq!(state.lines[&LineId::new(1)].group, own);
    let removed = ManifestRecord::GroupRemoved { group: SHOP };
    assert!(state.apply(&removed).is_err(), "it has a machine");
    apply(&mut state, &joins(3, own.next()));
    apply(&mut state, &removed);
    assert!(state.groups.is_empty());
}

#[test]
fn a_policy_belongs_to_the_group_and_stays_with_it() {
    let mut state = shop();
    let policy: Policy = "keep all for 1h".parse().expect("a policy");
    let set = |group| ManifestRecord::PolicySet { group, policy: policy.clone() };
    apply(&mut state, &set(SHOP));
    for number in 1..=3 {
        apply(&mut state, &joins(number, GroupId::new(20 + number)));
    }
    assert!(state.policies.contains_key(&SHOP), "a group with a name needs no machine");
    apply(&mut state, &set(GroupId::new(21)));
    apply(&mut state, &joins(1, SHOP));
    assert!(!state.policies.contains_key(&GroupId::new(21)), "its own group is gone");
    let other = state.apply(&joins(3, GroupId::new(22)));
    assert!(other.is_err(), "the own group of another machine");
}

#[test]
fn common_points_follow_a_promotion() {
    let mut state = shop();
    apply(&mut state, &made(1, &[(1, 10), (2, 11)]));
    apply(&mut state, &made(2, &[(1, 20), (2, 21)]));
    let branch = LineId::new(8);
    let started = ManifestRecord::BranchStarted {
        line: branch,
        name: name("test"),
        parent: LineId::new(1),
        origin: Sequence::new(15),
        origin_time: Timestamp::from_nanoseconds(1),
    };
    apply(&mut state, &started);
    let promoted = ManifestRecord::BranchPromoted {
        line: branch,
        old: name("before"),
        instants: Sequence::new(15),
        generation: Generation::new(3),
    };
    apply(&mut state, &promoted);
    // The second is on the branch that the old trunk has become.
    assert_eq!(common(&state), [(1, vec![(2, 11), (8, 10)]), (2, vec![(1, 20), (2, 21)])]);
    apply(&mut state, &ManifestRecord::BranchDiscarded { line: LineId::new(1) });
    assert_eq!(common(&state), [(1, vec![(2, 11), (8, 10)])]);
}

#[test]
fn a_number_and_a_name_are_used_once() {
    let mut state = shop();
    apply(&mut state, &made(3, &[(1, 10), (2, 11)]));
    assert!(state.apply(&made(3, &[(1, 20), (2, 21)])).is_err());
    assert!(state.apply(&made(4, &[(1, 20)])).is_err(), "nothing is in common with nobody");
    assert!(state.apply(&made(4, &[(2, 20), (1, 21)])).is_err(), "in the order of lines");
    let group = GroupId::new(30);
    let again =
        ManifestRecord::GroupAdded { group, name: name("shop"), barriers: BARRIERS, last: 0 };
    assert!(state.apply(&again).is_err());
}
