//! The decision against a naive one that looks at every point and every slot, at many times.

use super::*;
use crate::ids::Sequence;
use crate::point::{PointHead, PointKind};
use crate::time::Timestamp;
use proptest::prelude::*;
use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};

const SECOND: u64 = 1_000_000_000;

fn at(seconds: u64) -> Timestamp {
    Timestamp::from_nanoseconds(seconds * SECOND)
}

/// Points by sequence, which is also by time.
type Points = BTreeMap<Sequence, PointHead>;

fn between(points: &Points, from: Timestamp, to: Timestamp) -> impl Iterator<Item = PointHead> {
    let all: Vec<_> = points.values().collect();
    let first = all.partition_point(|point| point.commit_time < from);
    let last = all.partition_point(|point| point.commit_time < to).max(first);
    all[first..last].iter().map(|point| **point).collect::<Vec<_>>().into_iter()
}

fn decide_all(points: &Points, holds: &Holds, policy: &Policy, now: Timestamp) -> Decision {
    let ask = |from, to| between(points, from, to);
    decide(ask, None, holds, policy, now, Scope::Everything)
}

fn apply(points: &mut Points, decision: &Decision) -> usize {
    let before = points.len();
    points.retain(|sequence, _| !decision.drop.iter().any(|range| range.drops(*sequence)));
    before - points.len()
}

/// What stays, found by asking every question of every point.
fn naive(points: &Points, holds: &Holds, policy: &Policy, now: Timestamp) -> BTreeSet<Sequence> {
    let Some(keep_all) = policy.keep_all() else { return points.keys().copied().collect() };
    let newest = points.values().next_back().map(|point| point.sequence);
    let consistent = points.values().rev().find(|point| point.kind.is_consistent());
    let newest = [newest, consistent.map(|point| point.sequence)];
    let best_of_a_slot = |point: &PointHead| {
        policy.rules().iter().any(|rule| {
            let width = rule.every.as_nanos();
            let slot = |point: &PointHead| u128::from(point.commit_time.nanoseconds()) / width;
            let end = (slot(point) + 1) * width;
            let covered = end > u128::from(now.earlier(rule.reach).nanoseconds());
            let same = points.values().filter(|other| slot(other) == slot(point));
            let best = same.min_by_key(|p| (p.kind, !p.labelled, p.sequence)).expect("itself");
            covered && best.sequence == point.sequence
        })
    };
    let stays = |point: &&PointHead| {
        point.commit_time > now.earlier(keep_all)
            || holds.holds(point.sequence)
            || newest.contains(&Some(point.sequence))
            || best_of_a_slot(point)
    };
    points.values().filter(stays).map(|point| point.sequence).collect()
}

/// Points with gaps of a few seconds, now and then of hours.
fn line(most: usize) -> impl Strategy<Value = Points> {
    let gap = prop_oneof![20 => 1u64..90, 2 => 300u64..4000, 1 => 10_000u64..90_000];
    let kind = prop_oneof![6 => Just(PointKind::Crash), 1 => Just(PointKind::App), 1 => Just(PointKind::Fuzzy)];
    let point = (gap, 1u64..5, kind, proptest::bool::weighted(0.1));
    proptest::collection::vec(point, 0..most).prop_map(|points| {
        let (mut seconds, mut sequence) = (1_700_000_000, 0);
        let mut made = Points::new();
        for (gap, skip, kind, labelled) in points {
            (seconds, sequence) = (seconds + gap, sequence + skip);
            let sequence = Sequence::new(sequence);
            made.insert(sequence, PointHead { sequence, commit_time: at(seconds), kind, labelled });
        }
        made
    })
}

/// Policies of a size that a line of some hundred points says something about; slots that do not nest are among them.
fn policy() -> impl Strategy<Value = Policy> {
    let rule = (prop_oneof![Just(60), Just(3600), Just(86_400), 1u64..9000], 1u64..200_000);
    let keep_all = prop_oneof![9 => (0u64..4000).prop_map(Some), 1 => Just(None)];
    (keep_all, proptest::collection::vec(rule, 0..4)).prop_filter_map(
        "idle",
        |(keep_all, rules)| {
            let seconds = Duration::from_secs;
            let rule = |(every, reach)| Rule { every: seconds(every), reach: seconds(reach) };
            let mut rules: Vec<_> = rules.into_iter().map(rule).collect();
            rules.sort_by_key(|rule| rule.every);
            Policy::new(keep_all.map(seconds), rules, None).ok()
        },
    )
}

fn holds(points: &Points, every: usize) -> Holds {
    let mut holds = Holds::default();
    for (sequence, hold) in points.keys().step_by(every).zip(Hold::ALL.into_iter().cycle()) {
        holds.add(*sequence, hold);
    }
    holds
}

fn end(points: &Points) -> u64 {
    points.values().next_back().map_or(0, |point| point.commit_time.nanoseconds() / SECOND)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn it_decides_as_asking_about_every_point_does(
        points in line(200), policy in policy(), every in 1usize..60, later in 0u64..100_000,
    ) {
        let (holds, now) = (holds(&points, every), at(end(&points) + later));
        let decision = decide_all(&points, &holds, &policy, now);
        let wanted = naive(&points, &holds, &policy, now);
        let mut left = points.clone();
        let dropped = apply(&mut left, &decision);
        prop_assert_eq!(left.keys().copied().collect::<BTreeSet<_>>(), wanted);
        prop_assert_eq!(decision.dropped.points, dropped as u64);
        prop_assert_eq!(decision.kept.points, left.len() as u64);
        prop_assert_eq!(decision.kept.oldest, left.values().next().map(|point| point.commit_time));
        // What is decided is done with.
        let again = decide_all(&left, &holds, &policy, now);
        prop_assert_eq!((again.drop, again.dropped.points), (Vec::new(), 0));
    }

    #[test]
    fn what_is_held_and_the_newest_never_go(
        points in line(120), policy in policy(), every in 1usize..20, later in 0u64..10_000_000,
    ) {
        let (holds, now) = (holds(&points, every), at(end(&points) + later));
        let decision = decide_all(&points, &holds, &policy, now);
        let goes = |point: &PointHead| decision.drop.iter().any(|range| range.drops(point.sequence));
        for point in points.values().step_by(every) {
            prop_assert!(!goes(point), "{:?} is held", point.sequence);
        }
        let newest = points.values().rev().find(|point| point.kind.is_consistent());
        prop_assert!(!newest.is_some_and(goes));
        prop_assert_eq!(decision.newest, newest.map(|point| point.commit_time));
    }

    #[test]
    fn every_slot_that_a_rule_covers_keeps_a_point_and_the_best_one(
        points in line(200), policy in policy(), later in 0u64..10_000,
    ) {
        let now = at(end(&points) + later);
        let decision = decide_all(&points, &Holds::default(), &policy, now);
        let mut left = points.clone();
        apply(&mut left, &decision);
        for rule in policy.rules() {
            for point in points.values().filter(|p| now.since(p.commit_time) <= rule.reach) {
                let slot = |p: &PointHead| u128::from(p.commit_time.nanoseconds()) / rule.every.as_nanos();
                let same = left.values().filter(|other| slot(other) == slot(point));
                let best = same.map(|other| other.kind).min();
                prop_assert!(best.is_some_and(|kind| kind <= point.kind), "{rule}: {point:?}");
            }
        }
    }

    /// The heart of it: however often it runs, and looking only at what may have changed.
    #[test]
    fn running_it_every_minute_leaves_what_running_it_once_leaves(
        points in line(160), policy in policy(), every in 2usize..60, step in 30u64..4000, instants: bool,
    ) {
        let mut holds = holds(&points, every);
        let last = at(end(&points) + 5000);

        let (mut left, mut arriving) = (Points::new(), points.values().peekable());
        let mut now = at(1_700_000_000);
        let mut scope = Scope::Everything;
        let mut through = Sequence::default();
        while now < last {
            let later = at(now.nanoseconds() / SECOND + step);
            now = later.min(last);
            while let Some(point) = arriving.next_if(|point| point.commit_time <= now) {
                left.insert(point.sequence, *point);
            }
            let ask = |from, to| between(&left, from, to);
            // Now and then somebody lets go.
            let all = Sequence::default()..=Sequence::new(u64::MAX);
            let released = holds.within(all).nth(2).and_then(|at| left.get(&at)).copied();
            if let Some(point) = released {
                holds.let_go(point.sequence);
            }
            if let Scope::Since { released: of_scope, .. } = &mut scope {
                of_scope.extend(released.map(|point| point.commit_time));
            }
            let passes = instants.then_some(through);
            let decision = decide(ask, passes, &holds, &policy, now, scope.clone());
            let everything = decide_all(&left, &holds, &policy, now);
            let mut by_all = left.clone();
            apply(&mut by_all, &everything);
            apply(&mut left, &decision);
            prop_assert_eq!(&left, &by_all, "{:?} at {}", scope, now);
            through = decision.drop.iter().map(|range| range.last).fold(through, Sequence::max);
            let newest = decision.newest;
            scope = Scope::Since { then: now, newest, released: Vec::new() };
        }
        // What was let go while it was older than all rules is gone, as if nobody had ever held it.
        let mut once = points.clone();
        apply(&mut once, &decide_all(&points, &holds, &policy, last));
        prop_assert_eq!(left, once);
    }

    #[test]
    fn instants_between_points_go_with_them(points in line(120), keep in 0u64..3000) {
        let rule = Rule { every: Duration::from_secs(600), reach: Duration::from_secs(40_000) };
        let policy = Policy::new(Some(Duration::from_secs(keep)), vec![rule], None).expect("sound");
        let now = at(end(&points) + 100);
        let mut holds = Holds::default();
        holds.add(Sequence::new(3), Hold::Pin);
        let ask = |from, to| between(&points, from, to);
        let decision = decide(ask, Some(Sequence::default()), &holds, &policy, now, Scope::Everything);
        let old = |point: &&PointHead| point.commit_time <= now.earlier(policy.keep_all().unwrap());
        let last = points.values().rfind(old).map_or(0, |point| point.sequence.number() + 1);
        let kept = naive(&points, &holds, &policy, now);
        for number in 0..600 {
            let sequence = Sequence::new(number);
            let goes = decision.drop.iter().any(|range| range.drops(sequence));
            let wanted = number < last && number != 3 && !kept.contains(&sequence);
            prop_assert_eq!(goes, wanted, "{:?}", sequence);
        }
    }
}

/// A lock ends at its date and not before, by the time that is passed in and by no other.
#[test]
fn a_lock_holds_until_its_date() {
    let mut points = Points::new();
    for number in 1..=9 {
        let sequence = Sequence::new(number);
        let (commit_time, kind) = (at(1_700_000_000 + number), PointKind::Crash);
        points.insert(sequence, PointHead { sequence, commit_time, kind, labelled: false });
    }
    let policy: Policy = "keep all for 1m".parse().expect("a policy");
    let until = at(1_800_000_000);
    let locks = BTreeMap::from([(Sequence::new(4), until)]);
    for (now, locked) in [(at(1_799_999_999), true), (until, false)] {
        let mut holds = Holds::default();
        holds.add_locks(&locks, now);
        let mut left = points.clone();
        apply(&mut left, &decide_all(&points, &holds, &policy, now));
        let left: Vec<u64> = left.keys().map(|sequence| sequence.number()).collect();
        assert_eq!(left, if locked { vec![4, 9] } else { vec![9] }, "at {now}");
    }
}

#[test]
fn a_pass_after_another_looks_only_at_what_may_have_changed() {
    let mut points = Points::new();
    let start = 1_700_000_000;
    for number in 0..100_000 {
        let sequence = Sequence::new(number);
        let (commit_time, kind) = (at(start + 60 * number), PointKind::Crash);
        points.insert(sequence, PointHead { sequence, commit_time, kind, labelled: false });
    }
    let policy: Policy = "keep all for 2h, minutely for 40d, hourly for 60d".parse().unwrap();
    let now = at(start + 60 * 100_000);
    let decision = decide_all(&points, &Holds::default(), &policy, now);
    apply(&mut points, &decision);
    assert!(points.len() > 50_000, "{}", points.len());
    let seen = Cell::new(0);
    let ask = |from, to| between(&points, from, to).inspect(|_| seen.set(seen.get() + 1));
    let (newest, released) = (decision.newest, Vec::new());
    let scope = Scope::Since { then: now, newest, released };
    let later = at(start + 60 * 100_001);
    let decision = decide(ask, None, &Holds::default(), &policy, later, scope);
    assert!(seen.get() < 1000, "{} of {} points were looked at", seen.get(), points.len());
    assert!(decision.dropped.points < 61, "{}", decision.dropped.points);
}

#[test]
fn a_simulated_day_reads_as_people_expect() {
    let mut points = Points::new();
    let midnight = 1_699_920_000;
    for number in 0..2 * 86_400 / 10 {
        let sequence = Sequence::new(number + 1);
        let kind = if number % 360 == 200 { PointKind::App } else { PointKind::Crash };
        let commit_time = at(midnight + 10 * number);
        points.insert(sequence, PointHead { sequence, commit_time, kind, labelled: false });
    }
    let policy: Policy = "keep all for 2h, minutely for 24h, hourly for 7d".parse().unwrap();
    let now = at(midnight + 2 * 86_400);
    let decision = decide_all(&points, &Holds::default(), &policy, now);
    // Two hours of a point each ten seconds, but for the first of them; a point a minute for a day, one an hour for both.
    assert_eq!(decision.window.points, 719);
    assert_eq!(decision.rules.iter().map(|rule| rule.points).collect::<Vec<_>>(), [1440, 48]);
    assert_eq!(decision.kept.points, 719 + (22 * 60 + 1) + 24);
    assert_eq!(decision.kept.oldest, Some(at(midnight + 2000)), "the app point of the first hour");
    assert_eq!(decision.only_held, 0);
    assert_eq!(decision.drop.len(), 1);
}
