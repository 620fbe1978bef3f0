//! A source that delivers in order, on a store: any instant while order stands, none after it, points once the window
//! has passed, and a state that survives restarts.

use landfall_disks::faults::Seed;
use landfall_disks::{Buffer, ByteOffset, ByteRange, Durability};
use landfall_retention::ids::{Generation, Position, StreamId};
use landfall_retention::point::{Point, PointKind, PointQuery};
use landfall_retention::time::Timestamp;
use landfall_retention::{
    ImageSpec, Instants, NewDisk, NewMachine, ResolveError, Retention, Stream, StreamContent,
    StreamError, StreamExtent, StreamRequest, StreamState, WriteOrder,
};
use landfall_tests::web::with_store;
use landfall_tests::world::{World, moment, name};
use std::sync::Arc;
use std::time::Duration;

const SIZE: u64 = 64 << 10;

async fn add_web(store: &Retention) {
    let disk = |disk: &str| NewDisk {
        name: name(disk),
        image: ImageSpec { format: "raw".into(), path: format!("{disk}.raw"), size_bytes: SIZE },
        adopt: false,
    };
    let disks = vec![disk("os"), disk("data")];
    let machine = NewMachine { name: name("web"), display_name: String::new(), disks };
    store.add_machine(machine).await.expect("a new machine");
}

async fn open(store: &Retention, generation: u64, disks: &[&str]) -> Stream {
    let request = StreamRequest {
        machine: name("web"),
        stream: StreamId::new([1; 16]),
        generation: Generation::new(generation),
        disks: disks.iter().map(|disk| (name(disk), SIZE)).collect(),
        peer: "source".into(),
    };
    store.open_stream(request).await.expect("nobody streams")
}

fn next(stream: &Stream) -> Position {
    stream.applied().next()
}

/// Block 0 of the first disk becomes `byte`.
async fn write(stream: &Stream, byte: u8) {
    let data = vec![byte; 4096];
    let hash = *blake3::hash(&data).as_bytes();
    let content = StreamContent::Data { bytes: Buffer::copy_of(&data), hash };
    let extents = vec![StreamExtent { range: ByteRange::up_to(4096), content }];
    let disk = stream.disks()[0].id;
    stream.apply(next(stream), disk, Timestamp::default(), extents).await.expect("applied");
}

async fn order(stream: &Stream, kind: PointKind) -> Result<Point, StreamError> {
    let asynchronous = WriteOrder::Asynchronous;
    stream.mark_in_order(next(stream), kind, None, Timestamp::default(), asynchronous).await
}

async fn mark(stream: &Stream, kind: PointKind) -> Point {
    stream.mark(next(stream), kind, None, Timestamp::default()).await.expect("a point")
}

async fn first_byte(store: &Retention, at: &str) -> u8 {
    let found = store.resolve(&moment(at)).await.unwrap_or_else(|error| panic!("{at}: {error}"));
    let view = store.view(&found, &name("os")).expect(at);
    view.read(ByteRange::up_to(4096)).await.expect(at)[0]
}

async fn instants(store: &Retention) -> Vec<(u64, u64, bool)> {
    let found = store.instants(&name("web")).await.expect("it is there");
    let of = |one: &Instants| (one.from.sequence.number(), one.to.sequence.number(), one.grows);
    found.iter().map(of).collect()
}

fn state(store: &Retention) -> Option<(StreamState, u64)> {
    store.streams()[0].state.map(|change| (change.state, change.at.number()))
}

/// A first copy, then four instants, of the bytes 11 to 14, at the sequences 2 to 5.
async fn in_order(store: &Retention) -> Stream {
    add_web(store).await;
    let stream = open(store, 0, &["os", "data"]).await;
    assert_eq!(state(store), Some((StreamState::Seed, 0)));
    write(&stream, 10).await;
    let point = order(&stream, PointKind::Crash).await.expect("a point");
    assert_eq!((point.sequence.number(), state(store)), (1, Some((StreamState::Ordered, 1))));
    for byte in 11..=14 {
        write(&stream, byte).await;
    }
    stream
}

#[test]
fn any_instant_opens_by_sequence_and_time_and_latest_is_the_newest() {
    let world = World::new(&mut Seed::new(1));
    with_store(&world, |store, _| {
        Box::pin(async move {
            let stream = in_order(&store).await;
            for (byte, at) in (10..=14).zip(1..) {
                let found = store.resolve(&moment(&format!("web@seq:{at}"))).await.expect("there");
                assert_eq!(first_byte(&store, &format!("web@seq:{at}")).await, byte);
                assert_eq!(first_byte(&store, &format!("web@{}", found.commit_time)).await, byte);
            }
            assert_eq!(first_byte(&store, "web@latest").await, 14);
            assert_eq!(instants(&store).await, [(1, 5, true)]);
            // An instant is as good as a point for a branch, and for what changed.
            let third = store.resolve(&moment("web@seq:3")).await.expect("an instant");
            store.add_branch(&third, name("b")).await.expect("a branch");
            let disk = store.branch_disk(&name("web"), &name("b"), &name("os")).expect("a disk");
            assert_eq!(disk.read(ByteRange::up_to(4096)).await.expect("it reads")[0], 12);
            let data = Buffer::copy_of(&[99; 4096]);
            let written = disk.write(ByteOffset::new(0), data, Durability::Durable).await;
            written.expect("a branch is written to");
            assert_eq!(first_byte(&store, "web@seq:3").await, 12);
            let newest = store.resolve(&moment("web@latest")).await.expect("an instant");
            let changes = store.changes(third, newest, &name("os")).expect("two moments");
            let page = changes.page(ByteOffset::new(0), 10).await.expect("a page");
            assert_eq!(page.ranges.len(), 1);
            // A mark by hand finds the disks consistent.
            let marked = store.mark(&name("web"), None, PointKind::Crash, None).await;
            assert_eq!(marked.expect("between two writes").sequence.number(), 6);
            drop(stream);
        })
    });
}

#[test]
fn order_ends_with_a_pass_a_fuzzy_mark_and_a_break() {
    let world = World::new(&mut Seed::new(2));
    with_store(&world, |store, _| {
        Box::pin(async move {
            let stream = in_order(&store).await;
            stream.end_order().await.expect("it ends");
            assert_eq!(state(&store), Some((StreamState::Catchup, 5)));
            write(&stream, 15).await;
            let between = store.resolve(&moment("web@seq:6")).await;
            assert!(matches!(between, Err(ResolveError::NotABoundary { .. })), "{between:?}");
            assert_eq!(first_byte(&store, "web@latest").await, 14);
            order(&stream, PointKind::App).await.expect("a point");
            write(&stream, 16).await;
            assert_eq!(instants(&store).await, [(1, 5, false), (7, 8, true)]);
            mark(&stream, PointKind::Fuzzy).await;
            assert_eq!(state(&store), Some((StreamState::Catchup, 8)));
            write(&stream, 17).await;
            let between = store.resolve(&moment("web@seq:10")).await;
            assert!(matches!(between, Err(ResolveError::NotABoundary { .. })), "{between:?}");
            order(&stream, PointKind::Crash).await.expect("a point");
            // It is gone without a word, and comes back exactly where it was.
            let generation = stream.generation().number();
            drop(stream);
            assert_eq!(instants(&store).await.last(), Some(&(11, 11, false)));
            let stream = open(&store, generation, &["os", "data"]).await;
            assert_eq!(state(&store), Some((StreamState::Catchup, 11)));
            write(&stream, 18).await;
            let between = store.resolve(&moment("web@seq:12")).await;
            assert!(matches!(between, Err(ResolveError::NotABoundary { .. })), "{between:?}");
            // Afresh: nothing is a moment until the comparison has ended.
            drop(stream);
            let stream = open(&store, 0, &["os", "data"]).await;
            assert_eq!(state(&store), Some((StreamState::Resync, 12)));
            mark(&stream, PointKind::Fuzzy).await;
            assert_eq!(state(&store), Some((StreamState::Catchup, 13)));
        })
    });
}

#[test]
fn order_is_refused_where_nobody_could_vouch_for_an_instant() {
    let world = World::new(&mut Seed::new(3));
    with_store(&world, |store, _| {
        Box::pin(async move {
            add_web(&store).await;
            let stream = open(&store, 0, &["os"]).await;
            let without = order(&stream, PointKind::Crash).await;
            assert!(
                matches!(&without, Err(StreamError::OrderWithout { disk }) if *disk == name("data")),
                "{without:?}"
            );
            drop(stream);
            let stream = open(&store, 0, &["os", "data"]).await;
            let fuzzy = order(&stream, PointKind::Fuzzy).await;
            assert!(matches!(fuzzy, Err(StreamError::OrderAtFuzzy)), "{fuzzy:?}");
            assert_eq!(state(&store), Some((StreamState::Seed, 0)));
        })
    });
}

#[test]
fn order_ends_with_the_target_and_its_instants_stay() {
    let world = World::new(&mut Seed::new(4));
    with_store(&world, |store, _| {
        Box::pin(async move {
            let stream = in_order(&store).await;
            // The target is killed: nobody says that order ends.
            std::mem::forget(stream);
        })
    });
    for world in [world.crash(&mut Seed::new(5))].map(World::without_index) {
        with_store(&world, |store, _| {
            Box::pin(async move {
                assert_eq!(state(&store), Some((StreamState::Catchup, 5)));
                assert_eq!(store.streams()[0].open.as_ref().map(|open| open.position), None);
                assert_eq!(instants(&store).await, [(1, 5, false)]);
                assert_eq!(first_byte(&store, "web@latest").await, 14);
                assert_eq!(first_byte(&store, "web@seq:4").await, 13);
                let marked = store.mark(&name("web"), None, PointKind::Crash, None).await;
                assert_eq!(marked.expect("the disks are consistent").sequence.number(), 6);
            })
        });
    }
}

#[test]
fn instants_stay_for_the_window_and_become_points_after_it() {
    let world = World::new(&mut Seed::new(6));
    let clock = Arc::clone(&world.clock);
    with_store(&world, |store, _| {
        Box::pin(async move {
            let policy = "keep all for 10m, every 1m for 2h".parse().expect("a policy");
            let stream = in_order(&store).await;
            store.set_policy(&name("web"), policy).await.expect("it is recorded");
            for byte in 15..=70 {
                clock.pass(Duration::from_secs(20));
                write(&stream, byte).await;
            }
            // Sequence n holds the byte n + 9; a minute has three.
            store.thin().await.expect("it thins");
            let found = instants(&store).await;
            let [(from, 61, true)] = found[..] else { panic!("{found:?}") };
            assert!((28..=33).contains(&from), "ten minutes are thirty instants: {from}");
            for at in from..=61 {
                let byte = u8::try_from(at + 9).expect("small");
                assert_eq!(first_byte(&store, &format!("web@seq:{at}")).await, byte);
            }
            let all = PointQuery::all(1000);
            let points = store.points(&name("web"), None, &all).expect("it is there");
            let left: Vec<u64> = points.iter().map(|one| one.point.sequence.number()).collect();
            assert!((8..=12).contains(&left.len()), "one a minute: {left:?}");
            for at in 1..from {
                let name = format!("web@seq:{at}");
                if left.contains(&at) {
                    let byte = u8::try_from(at + 9).expect("small");
                    assert_eq!(first_byte(&store, &name).await, byte);
                } else {
                    let gone = store.resolve(&moment(&name)).await;
                    assert!(matches!(gone, Err(ResolveError::Dropped { .. })), "{at}: {gone:?}");
                }
            }
        })
    });
}

#[test]
fn without_rules_instants_go_with_the_window() {
    let world = World::new(&mut Seed::new(8));
    let clock = Arc::clone(&world.clock);
    with_store(&world, |store, _| {
        Box::pin(async move {
            let stream = in_order(&store).await;
            let policy = "keep all for 10m".parse().expect("a policy");
            store.set_policy(&name("web"), policy).await.expect("it is recorded");
            for byte in 15..=100 {
                clock.pass(Duration::from_secs(20));
                write(&stream, byte).await;
                if byte % 9 == 0 {
                    store.thin().await.expect("it thins");
                }
            }
            store.thin().await.expect("it thins");
            let found = instants(&store).await;
            let [(from, 91, true)] = found[..] else { panic!("{found:?}") };
            assert!((58..=63).contains(&from), "ten minutes are thirty instants: {from}");
            let gone = store.resolve(&moment("web@seq:20")).await;
            assert!(matches!(gone, Err(ResolveError::Dropped { .. })), "{gone:?}");
        })
    });
}
