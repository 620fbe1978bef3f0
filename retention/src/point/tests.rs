//! The catalogue against a plain list of points, and its speed and size at a million of them.

use super::*;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

fn point(sequence: u64, seconds: u64, kind: PointKind) -> Point {
    Point {
        sequence: Sequence::new(sequence),
        commit_time: at(seconds),
        source_time: Timestamp::default(),
        kind,
        label: sequence.is_multiple_of(2).then(|| Label::parse("even").unwrap()),
    }
}

fn at(seconds: u64) -> Timestamp {
    Timestamp::from_nanoseconds(seconds * 1_000_000_000)
}

fn catalogue() -> Catalogue {
    let mut catalogue = Catalogue::default();
    for (sequence, seconds, kind) in
        [(1, 10, PointKind::App), (4, 20, PointKind::Crash), (6, 30, PointKind::Fuzzy)]
    {
        catalogue.insert(point(sequence, seconds, kind));
    }
    catalogue
}

#[test]
fn fuzzy_points_are_kept_but_not_chosen() {
    let catalogue = catalogue();
    assert_eq!(catalogue.latest().map(|p| p.sequence.number()), Some(4));
    assert_eq!(catalogue.at_or_before(at(35)).map(|p| p.sequence.number()), Some(4));
    assert_eq!(catalogue.at_or_before(at(30)).map(|p| p.sequence.number()), Some(6));
    assert_eq!(catalogue.newest().map(|p| p.sequence.number()), Some(6));
}

#[test]
fn times_and_labels_choose_the_newest() {
    let catalogue = catalogue();
    assert_eq!(catalogue.app().map(|p| p.sequence.number()), Some(1));
    assert_eq!(catalogue.at_or_before(at(9)), None);
    assert_eq!(catalogue.at_or_before(at(19)).map(|p| p.sequence.number()), Some(1));
    let label = Label::parse("even").unwrap();
    assert_eq!(catalogue.labelled(&label).map(|p| p.sequence.number()), Some(6));
}

/// What a catalogue is asked to do.
#[derive(Clone, Debug)]
enum Step {
    /// Points behind the last: how many sequences and seconds later, which kind, which label.
    Append(Vec<(u64, u64, usize, usize)>),
    /// One that may lie anywhere, found half-way between two others.
    Within(usize, usize),
    /// Only every so many of these stay.
    Retain(u64, u64, u64),
    /// None below this stay.
    DropBelow(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    // Some are so far apart that no chunk holds two of them.
    let skip = prop_oneof![8 => 1u64..9, 1 => (1u64 << 29)..(1 << 31)];
    let append = proptest::collection::vec((skip, 1u64..4, 0usize..3, 0usize..6), 0..400);
    let step = prop_oneof![
        3 => append.prop_map(Step::Append),
        1 => (0usize..2000, 0usize..3).prop_map(|(at, kind)| Step::Within(at, kind)),
        2 => (0u64..6000, 0u64..3000, 2u64..40).prop_map(|(from, count, every)| {
            Step::Retain(from, from + count, every)
        }),
        1 => (0u64..3000).prop_map(Step::DropBelow),
    ];
    proptest::collection::vec(step, 1..12)
}

fn labels() -> [Label; 2] {
    ["before the patch", "after the patch"].map(|text| Label::parse(text).unwrap())
}

/// Does the steps to a catalogue and to a plain map.
fn build(steps: Vec<Step>) -> (Catalogue, BTreeMap<Sequence, Point>) {
    let (mut catalogue, mut model) = (Catalogue::default(), BTreeMap::new());
    let (mut sequence, mut seconds) = (0, 0);
    for step in steps {
        match step {
            Step::Append(points) => {
                for (skip, later, kind, label) in points {
                    (sequence, seconds) = (sequence + skip, seconds + later);
                    let made = Point {
                        source_time: at(seconds / 2),
                        label: labels().get(label).cloned(),
                        ..point(sequence, seconds, PointKind::ALL[kind])
                    };
                    catalogue.insert(made.clone());
                    model.entry(made.sequence).or_insert(made);
                }
            }
            Step::Within(index, kind) => {
                let mut two = model.values().skip(index).take(2);
                let (Some(one), Some(two)) = (two.next(), two.next()) else { continue };
                let number = one.sequence.number().midpoint(two.sequence.number());
                let nanoseconds =
                    one.commit_time.nanoseconds().midpoint(two.commit_time.nanoseconds());
                let made = Point {
                    sequence: Sequence::new(number),
                    commit_time: Timestamp::from_nanoseconds(nanoseconds),
                    source_time: at(3),
                    kind: PointKind::ALL[kind],
                    label: None,
                };
                catalogue.insert(made.clone());
                model.entry(made.sequence).or_insert(made);
            }
            Step::Retain(first, last, every) => {
                let range = Sequence::new(first)..=Sequence::new(last);
                let stays = |sequence: Sequence| sequence.number().is_multiple_of(every);
                let before = model.len();
                model.retain(|at, _| !range.contains(at) || stays(*at));
                let gone = catalogue.retain(range, stays);
                assert_eq!(gone, before - model.len());
            }
            Step::DropBelow(first) => {
                catalogue.drop_below(Sequence::new(first));
                model.retain(|at, _| *at >= Sequence::new(first));
            }
        }
    }
    (catalogue, model)
}

fn newest<'a>(
    model: impl DoubleEndedIterator<Item = &'a Point>,
    fits: impl Fn(&Point) -> bool,
) -> Option<Point> {
    model.rev().find(|point| fits(point)).cloned()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 192, ..ProptestConfig::default() })]

    #[test]
    fn it_answers_as_a_plain_list_does(
        steps in steps(),
        times in proptest::collection::vec(0u64..8000, 20),
        sequences in proptest::collection::vec(0u64..12_000, 20),
    ) {
        let (catalogue, model) = build(steps);
        prop_assert_eq!(catalogue.len(), model.len());
        prop_assert_eq!(catalogue.iter().collect::<Vec<_>>(), model.values().cloned().collect::<Vec<_>>());
        let counts = PointKind::ALL.map(|kind| model.values().filter(|p| p.kind == kind).count());
        prop_assert_eq!(catalogue.counts(), counts);
        prop_assert_eq!(catalogue.latest(), newest(model.values(), |p| p.kind.is_consistent()));
        prop_assert_eq!(catalogue.app(), newest(model.values(), |p| p.kind == PointKind::App));
        prop_assert_eq!(catalogue.oldest(), model.values().next().cloned());
        prop_assert_eq!(catalogue.newest(), newest(model.values(), |_| true));
        for label in labels() {
            let wanted = newest(model.values(), |p| p.label.as_ref() == Some(&label));
            prop_assert_eq!(catalogue.labelled(&label), wanted);
        }
        let own = model.values().map(|p| p.commit_time).step_by(97);
        for time in times.into_iter().map(at).chain(own).collect::<Vec<_>>() {
            let wanted = newest(model.values(), |p| {
                p.commit_time == time || p.commit_time < time && p.kind.is_consistent()
            });
            prop_assert_eq!(catalogue.at_or_before(time), wanted);
        }
        let own = model.keys().copied().step_by(97);
        let top = [Sequence::new(u64::MAX)];
        for sequence in sequences.into_iter().map(Sequence::new).chain(own).chain(top).collect::<Vec<_>>() {
            prop_assert_eq!(catalogue.at(sequence), model.get(&sequence).cloned());
            let below = model.range(..sequence).next_back().map(|(_, p)| p.clone());
            let above = model.range(sequence..).map(|(_, p)| p).find(|p| p.sequence > sequence);
            prop_assert_eq!(catalogue.neighbours(sequence), (below, above.cloned()));
        }
    }

    #[test]
    fn pages_put_together_are_the_listing(
        steps in steps(),
        from in 0u64..4000,
        length in 0u64..6000,
        kinds in 1u8..8,
        page in 1usize..300,
        newest_first: bool,
    ) {
        let (catalogue, model) = build(steps);
        let kinds: KindSet =
            PointKind::ALL.into_iter().zip([1, 2, 4]).filter(|(_, bit)| kinds & bit != 0).map(|(kind, _)| kind).collect();
        let order = if newest_first { PointOrder::NewestFirst } else { PointOrder::OldestFirst };
        let mut query =
            PointQuery { from: at(from), to: at(from + length), kinds, order, ..PointQuery::all(page) };
        let mut listed = Vec::new();
        loop {
            let found = catalogue.list(&query);
            prop_assert!(found.len() <= page);
            query.after = found.last().map(|point| point.sequence);
            let last = found.len() < page;
            listed.extend(found);
            if last {
                break;
            }
        }
        let between = |p: &&Point| (at(from)..=at(from + length)).contains(&p.commit_time);
        let mut wanted: Vec<Point> =
            model.values().filter(between).filter(|p| kinds.has(p.kind)).cloned().collect();
        let heads: Vec<_> = catalogue.heads(at(from), at(from + length)).collect();
        let before = |p: &&Point| (at(from)..at(from + length)).contains(&p.commit_time);
        let modelled: Vec<_> = model.values().filter(before).map(|p| PointHead {
            sequence: p.sequence,
            commit_time: p.commit_time,
            kind: p.kind,
            labelled: p.label.is_some(),
        }).collect();
        prop_assert_eq!(heads, modelled);
        if newest_first {
            wanted.reverse();
        }
        prop_assert_eq!(listed, wanted);
    }
}

/// The bounds are generous: they are there to catch a walk over all points, which takes milliseconds, not a slow machine.
#[test]
fn a_million_points_are_small_and_found_at_once() {
    const COUNT: u64 = 1_000_000;
    const LOOKUPS: u32 = 10_000;
    let mut catalogue = Catalogue::default();
    for number in 0..COUNT {
        // The only app point is the very oldest: finding the newest of a kind must not walk either.
        let kind = if number == 0 { PointKind::App } else { PointKind::Crash };
        let label = (number == 1).then(|| Label::parse("first").unwrap());
        catalogue.insert(Point { label, ..point(7 * number, 2 * number, kind) });
    }
    let bytes = catalogue.size_bytes() as u64;
    assert!(bytes < 24 * COUNT, "{bytes} bytes for {COUNT} points");

    let timed = |what: &str, ask: &dyn Fn(u64) -> bool| {
        let begun = Instant::now();
        for round in 0..u64::from(LOOKUPS) {
            let number = round.wrapping_mul(0x9e37_79b9_7f4a_7c15) % COUNT;
            assert!(ask(number), "{what} of {number}");
        }
        let each = begun.elapsed() / LOOKUPS;
        assert!(each < Duration::from_micros(200), "{what} takes {each:?}");
        each
    };
    let label = Label::parse("first").unwrap();
    let found = |point: Option<Point>, number: u64| {
        point.is_some_and(|point| point.sequence.number() == 7 * number)
    };
    timed("at", &|number| found(catalogue.at(Sequence::new(7 * number)), number));
    timed("at or before", &|number| found(catalogue.at_or_before(at(2 * number + 1)), number));
    timed("newest app", &|_| found(catalogue.app(), 0));
    timed("by label", &|_| found(catalogue.labelled(&label), 1));
    timed("a page of 20", &|number| {
        let order = PointOrder::NewestFirst;
        let query = PointQuery { to: at(2 * number), order, ..PointQuery::all(20) };
        found(catalogue.list(&query).first().cloned(), number)
    });
    let begun = Instant::now();
    let all = Sequence::default()..=Sequence::new(u64::MAX);
    let gone = catalogue.retain(all, |sequence| sequence.number().is_multiple_of(7 * 60));
    assert!(begun.elapsed() < Duration::from_secs(2), "thinning took {:?}", begun.elapsed());
    assert_eq!(gone as u64, COUNT - COUNT.div_ceil(60));
    let (left, bytes) = (catalogue.len(), catalogue.size_bytes());
    assert!(bytes < 24 * left + (1 << 20), "{bytes} bytes for the {left} points left");
}
