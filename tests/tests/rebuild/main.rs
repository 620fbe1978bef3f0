//! An index that lacks much of the journal: what is refused meanwhile, what goes on, and that a crash in the middle loses nothing.

mod failures;
mod promises;

use futures_util::future::LocalBoxFuture;
use landfall_disks::faults::Seed;
use landfall_disks::{ByteOffset, ByteRange};
use landfall_retention::ids::{Position, Sequence};
use landfall_retention::name::Name;
use landfall_retention::point::{PointKind, PointQuery};
use landfall_retention::{
    ChangeError, FoldError, FoldPace, HistoryWanted, NewExport, ResolveError, Retention,
    ScrubError, ScrubOrder, Settings, Stream, StreamError,
};
use landfall_tests::web::{add_web, mark, put, read, request, with_settings, with_store};
use landfall_tests::world::{World, moment, name};
use std::sync::Arc;
use std::time::Duration;

const SIZE: u64 = 256 << 10;
const PART: usize = 128 << 10;
/// Points after the first copy, each with another content of the first half of the disk.
const ROUNDS: u8 = 12;

fn pace() -> FoldPace<'static> {
    fn at_once(_: Duration) -> LocalBoxFuture<'static, ()> {
        Box::pin(std::future::ready(()))
    }
    FoldPace { bytes_per_second: None, sleep: &at_once }
}

fn one_segment() -> Settings {
    Settings { index_at_once: 1, ..World::settings() }
}

/// A point of each round, in several segments, a branch of the first, and an index that is gone. Gives the sequences.
fn history(folded: bool) -> (World, Vec<u64>) {
    let world = World::new(&mut Seed::new(5));
    let points = with_store(&world, move |store, _| {
        Box::pin(async move {
            add_web(&store, SIZE).await.expect("a new machine");
            let stream = store.open_stream(request(1, 0, SIZE)).await.expect("nobody streams");
            put(&stream, 1, 0, vec![1; 256 << 10]).await.expect("a seed");
            let mut points = vec![mark(&stream, 2).await.sequence.number()];
            let first = store.resolve(&moment("web@latest")).await.expect("a point");
            if !folded {
                store.add_branch(&first, name("test")).await.expect("a new branch");
            }
            for round in 0..ROUNDS {
                points.push(more(&stream, round).await);
            }
            if folded {
                let trunk = store.trunk(&name("web")).expect("it is there");
                let last = Sequence::new(points[points.len() - 1]);
                store.fold_to(trunk, last, &pace()).await.expect("nobody holds it");
            }
            points
        })
    });
    (world.without_index(), points)
}

/// One more round: a batch and a mark.
async fn more(stream: &Stream, round: u8) -> u64 {
    let at = 3 + 2 * u64::from(round);
    put(stream, at, 0, vec![10 + round; PART]).await.expect("room");
    mark(stream, at + 1).await.sequence.number()
}

async fn check(store: &Retention, points: &[u64]) {
    for (number, at) in points.iter().enumerate() {
        let whole = read(store, &format!("web@seq:{at}"), ByteRange::up_to(SIZE)).await;
        let whole = whole.expect("it is whole");
        let round = u8::try_from(number).expect("few");
        let first = if round == 0 { 1 } else { 9 + round };
        assert!(whole[..PART].iter().all(|byte| *byte == first), "seq:{at}");
        assert!(whole[PART..].iter().all(|byte| *byte == 1), "seq:{at}");
    }
}

fn waits<T: std::fmt::Debug>(what: &str, result: Result<T, ResolveError>) {
    assert!(matches!(result, Err(ResolveError::NotIndexed { .. })), "{what}: {result:?}");
}

fn waits_to_change<T: std::fmt::Debug>(what: &str, result: Result<T, ChangeError>) {
    let resolve = matches!(result, Err(ChangeError::Resolve(ResolveError::NotIndexed { .. })));
    assert!(resolve, "{what}: {result:?}");
}

async fn everything_that_needs_it_waits(store: &Arc<Retention>) {
    let (web, test) = (name("web"), name("test"));
    for at in ["web@latest", "web@seq:4", "web@-15m", "web@app", "web~test@latest"] {
        waits(at, store.resolve(&moment(at)).await);
    }
    let all = PointQuery::all(10);
    waits("points", store.points(&web, None, &all));
    waits("instants", store.instants(&web).await);
    waits("branch disk", store.branch_disk(&web, &test, &name("os")).map(|_| ()));
    waits("heads", store.heads(None));
    let pin = store.pin(&moment("web@latest")).await;
    waits_to_change("pin", pin);
    waits_to_change("mark", store.mark(&web, None, PointKind::Crash, None).await);
    waits_to_change("discard", store.discard_branch(&web, &test).await);
    waits_to_change("promote", store.promote_branch(&web, &test, &name("old")).await);
    waits_to_change("grow", store.grow_disk(&web, &name("os"), 2 * SIZE).await);
    let export = |branch: Option<Name>| NewExport {
        machine: name("web"),
        branch,
        sequence: None,
        writable: false,
        iscsi: None,
    };
    waits_to_change("export", store.add_export(export(None)).await);
    waits_to_change("export", store.add_export(export(Some(name("test")))).await);
    let trunk = store.trunk(&web).expect("it is there");
    let folded = store.fold_to(trunk, Sequence::new(4), &pace()).await;
    assert!(matches!(folded, Err(FoldError::NotIndexed(_))), "{folded:?}");
    assert!(store.forget(&pace()).await.expect("nothing to do").waits_for_index);
    assert!(store.compact(&pace()).await.expect("nothing to do").waits_for_index);
    let scrubbed = store.scrub(&ScrubOrder::all(None), &pace(), &|_| true).await;
    assert!(matches!(scrubbed, Err(ScrubError::NotIndexed(_))), "{scrubbed:?}");
    assert!(store.look_at_space(&Arc::default()).await.expect("it does not look").is_empty());
    match store.wanted_starts().await.expect("it does not look") {
        HistoryWanted::Known(starts) => assert!(starts.is_empty(), "{starts:?}"),
        HistoryWanted::Suspended(alarm) => panic!("{alarm:?}"),
    }
    let policy = "keep all for 0s, hourly for 1h".parse().expect("a policy");
    store.set_policy(&web, policy).await.expect("it is there");
    assert!(store.thin().await.expect("nothing to do").lines.is_empty());
}

#[test]
fn what_needs_the_rest_of_the_index_waits_and_the_source_goes_on() {
    let (world, mut points) = history(false);
    with_settings(&world, one_segment(), move |store, report| {
        Box::pin(async move {
            assert!(report.index_left >= 2 && report.index_rebuilt, "{report:?}");
            assert_eq!(store.index_status().left, report.index_left);
            let waits = store.machines()[0].waits.expect("it waits");
            assert_eq!((waits.trunk_opens, waits.stream_goes_on), (false, true));
            assert_eq!(waits.why.files, report.index_left);
            everything_that_needs_it_waits(&store).await;
            // Another source would have to compare; the one that was there goes on, and may not compare either.
            let other = store.open_stream(request(2, 0, SIZE)).await.err();
            assert!(matches!(other, Some(StreamError::NotIndexed { .. })), "{other:?}");
            let stream =
                store.open_stream(request(1, 1, SIZE)).await.expect("it is known where it was");
            assert_eq!(stream.position(), Position::new(2 + 2 * u64::from(ROUNDS)));
            let disk = stream.disks()[0].id;
            let hashes = stream.hashes(disk, ByteRange::up_to(SIZE)).await;
            assert!(matches!(hashes, Err(StreamError::NotIndexed { .. })), "{hashes:?}");
            points.push(more(&stream, ROUNDS).await);
            waits_until_whole(&store).await;
            points.push(more(&stream, ROUNDS + 1).await);
            check(&store, &points).await;
            let hashes = stream.hashes(disk, ByteRange::up_to(SIZE)).await.expect("all is known");
            assert_eq!(hashes.len(), 4);
            store.heads(None).expect("all ends are known");
            let branch = store.branch_disk(&name("web"), &name("test"), &name("os"));
            let found = branch.expect("it opens").read(ByteRange::up_to(SIZE)).await;
            assert!(found.expect("the first copy").iter().all(|byte| *byte == 1));
            assert!(!store.thin().await.expect("a policy").lines.is_empty());
            assert_eq!(store.look_at_space(&Arc::default()).await.expect("counted").len(), 1);
        })
    });
    with_store(&world, |_, report| {
        Box::pin(async move { assert_eq!(report.records_replayed, 0, "{report:?}") })
    });
}

async fn waits_until_whole(store: &Retention) {
    let mut left = store.index_status().left;
    while store.index_more(&pace()).await.expect("it can be read") {
        let now = store.index_status().left;
        assert!(now < left || now == 0, "{now} of {left} are left");
        left = now;
    }
    let status = store.index_status();
    assert!(status.whole && status.left == 0 && status.failure.is_none(), "{status:?}");
    assert!(store.machines()[0].waits.is_none());
}

#[test]
fn a_machine_whose_images_hold_the_rest_waits_for_nothing() {
    let (world, points) = history(true);
    with_settings(&world, one_segment(), move |store, report| {
        Box::pin(async move {
            assert!(report.index_left >= 2, "{report:?}");
            assert!(store.machines()[0].waits.is_none());
            let newest = [points[0], points[points.len() - 1]];
            let read =
                read(&store, &format!("web@seq:{}", newest[1]), ByteRange::up_to(SIZE)).await;
            assert!(read.expect("it is whole")[..PART].iter().all(|byte| *byte == 9 + ROUNDS));
            let before = store.resolve(&moment(&format!("web@seq:{}", newest[0]))).await;
            assert!(matches!(before, Err(ResolveError::BeforeHistory { .. })), "{before:?}");
            let latest = store.resolve(&moment("web@latest")).await.expect("a point");
            store.add_branch(&latest, name("new")).await.expect("it can be branched from");
            let stream = store.open_stream(request(2, 0, SIZE)).await.expect("it can compare");
            let hashes = stream.hashes(stream.disks()[0].id, ByteRange::up_to(SIZE)).await;
            assert_eq!(hashes.expect("all is known").len(), 4);
            // What the index lacks may still be asked of the journal.
            assert!(store.forget(&pace()).await.expect("nothing to do").waits_for_index);
            waits_until_whole(&store).await;
            assert!(store.forget(&pace()).await.expect("released").segments > 0);
        })
    });
}

/// Whatever the index forgot of it by then, the next start begins again, and what was acknowledged meanwhile is there.
#[test]
fn every_crash_in_the_middle_leaves_an_index_that_is_begun_again() {
    for seed in 0..24 {
        let (world, mut points) = history(false);
        let steps = seed % 5;
        let came = with_settings(&world, one_segment(), move |store, _| {
            Box::pin(async move {
                let stream = store.open_stream(request(1, 1, SIZE)).await.expect("it goes on");
                let first = more(&stream, ROUNDS).await;
                for _ in 0..steps {
                    store.index_more(&pace()).await.expect("it can be read");
                }
                [first, more(&stream, ROUNDS + 1).await]
            })
        });
        points.extend(came);
        let world = world.crash(&mut Seed::new(seed));
        let settings = if seed % 2 == 0 { one_segment() } else { World::settings() };
        with_settings(&world, settings, move |store, _| {
            Box::pin(async move {
                waits_until_whole(&store).await;
                check(&store, &points).await;
                let stream = store.open_stream(request(1, 1, SIZE)).await.expect("it goes on");
                let position = Position::new(2 + 2 * u64::from(ROUNDS + 2));
                assert_eq!(stream.position(), position, "after {steps} steps");
            })
        });
    }
}
