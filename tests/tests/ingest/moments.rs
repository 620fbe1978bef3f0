//! When the disks of a machine are a moment, and who is let in.

use super::*;
use landfall_disks::faults::Seed;
use landfall_retention::ids::{Generation, StreamId};
use landfall_retention::point::PointKind;
use landfall_retention::{ChangeError, StreamError, StreamRequest, StreamState};
use landfall_tests::web::with_store;
use landfall_tests::world::World;

async fn mark(store: &Retention) -> Result<Point, IngestError> {
    store.mark_fed(&name("web"), PointKind::Crash, None).await
}

async fn open_stream(store: &Retention) -> Result<landfall_retention::Stream, StreamError> {
    let request = StreamRequest {
        machine: name("web"),
        stream: StreamId::new([1; 16]),
        generation: Generation::new(0),
        disks: vec![(name("os"), SIZE)],
        peer: "an agent".into(),
    };
    store.open_stream(request).await
}

#[test]
fn without_a_flush_or_a_farewell_there_is_no_point() {
    let world = World::new(&mut Seed::new(1));
    with_store(&world, |store, _| {
        Box::pin(async move {
            let disk = fed_web(&store).await;
            write(&disk, 0, &[1; 4096]).await.expect("taken");
            assert!(disk.leave(None).await.expect("it leaves").is_none(), "without a flush");
            let disk = enter(&store, "os").await;
            write(&disk, 0, &[2; 4096]).await.expect("taken");
            disk.flush().await.expect("it does");
            assert!(disk.leave(Some("lost")).await.expect("it leaves").is_none(), "broken");
            assert!(status(&store).disks[0].broken.is_some());
            // It goes away with nobody to say so.
            let disk = enter(&store, "os").await;
            write(&disk, 0, &[3; 4096]).await.expect("taken");
            disk.flush().await.expect("it does");
            drop(disk);
            // Whoever looks in between changes nothing.
            let looks = enter(&store, "os").await;
            assert!(looks.leave(None).await.expect("it leaves").is_none());
            assert_eq!((points(&store), status(&store).disks[0].broken.is_some()), (0, true));
            // Somebody says that it is a moment.
            assert_eq!(mark(&store).await.expect("a point").sequence.number(), 1);
            assert_eq!(at(&store, "@latest", "os").await[0], 3);
            let disk = enter(&store, "os").await;
            write(&disk, 0, &[4; 4096]).await.expect("taken");
            assert_eq!(mark(&store).await.expect("a point").sequence.number(), 3);
            write(&disk, 0, &[5; 4096]).await.expect("taken");
            let between = store.resolve(&moment("web@seq:4")).await;
            assert!(between.is_err(), "a moment between two points: {between:?}");
            assert_eq!(
                leave(&disk).await.expect("it leaves").map(|p| p.sequence.number()),
                Some(5)
            );
            let seen = [at(&store, "@seq:3", "os").await[0], at(&store, "", "os").await[0]];
            assert_eq!(seen, [4, 5]);
        })
    });
}

#[test]
fn a_machine_of_two_disks_waits_for_both() {
    let world = World::new(&mut Seed::new(2));
    with_store(&world, |store, _| {
        Box::pin(async move {
            add_web(&store, &["os", "data"], IngestMode::Sync).await;
            let os = enter(&store, "os").await;
            write(&os, 0, &[1; 4096]).await.expect("taken");
            assert!(leave(&os).await.expect("it leaves").is_none());
            let early = mark(&store).await;
            assert!(matches!(early, Err(IngestError::NotCopied { .. })), "{early:?}");
            let awaited: Vec<bool> = status(&store).disks.iter().map(|d| d.is_awaited).collect();
            assert_eq!(awaited, [false, true]);
            let data = enter(&store, "data").await;
            write(&data, 0, &[2; 4096]).await.expect("taken");
            let os = enter(&store, "os").await;
            write(&os, 0, &[3; 4096]).await.expect("taken");
            assert!(leave(&data).await.expect("it leaves").is_none(), "somebody writes to os");
            assert!(leave(&os).await.expect("it leaves").is_some());
            let seen = [at(&store, "", "os").await[0], at(&store, "", "data").await[0]];
            assert_eq!(seen, [3, 2]);
            // The next one waits for both again.
            let os = enter(&store, "os").await;
            write(&os, 0, &[4; 4096]).await.expect("taken");
            assert!(leave(&os).await.expect("it leaves").is_none());
            assert_eq!(at(&store, "", "os").await[0], 3);
            let data = enter(&store, "data").await;
            assert!(
                data.leave(None).await.expect("it leaves").is_some(),
                "it had nothing to bring"
            );
            assert_eq!(at(&store, "", "os").await[0], 4);
            let ordered = store.set_ingest(&name("web"), Some(IngestMode::Ordered)).await;
            let refused = ordered.expect_err("two disks have no order").to_string();
            assert!(refused.contains("2 disks"), "{refused}");
        })
    });
}

#[test]
fn one_client_and_one_kind_of_source() {
    let world = World::new(&mut Seed::new(3));
    with_store(&world, |store, _| {
        Box::pin(async move {
            add_web(&store, &["os"], IngestMode::Sync).await;
            let streams = open_stream(&store).await.err();
            assert!(matches!(streams, Some(StreamError::FedByWrites { .. })), "{streams:?}");
            let disk = enter(&store, "os").await;
            let second = open(&store, "os");
            let busy = second.enter().await.expect_err("somebody writes").to_string();
            assert!(busy.contains("web/os is being written by a client"), "{busy}");
            let refused = write(&second, 0, &[1; 512]).await;
            assert!(matches!(refused, Err(DiskError::Gone(_))), "{refused:?}");
            for mode in [None, Some(IngestMode::Ordered)] {
                let changed = store.set_ingest(&name("web"), mode).await;
                assert!(matches!(changed, Err(ChangeError::InUse { .. })), "{changed:?}");
            }
            write(&disk, 0, &[1; 512]).await.expect("taken");
            leave(&disk).await.expect("a point");
            second.enter().await.expect("nobody writes any more");
            second.leave(None).await.expect("it leaves");
            // From now on an agent feeds it, and nobody else.
            store.set_ingest(&name("web"), None).await.expect("nobody feeds it");
            let closed = second.enter().await.expect_err("it is not fed so").to_string();
            assert!(closed.contains("not fed over NBD"), "{closed}");
            let stream = open_stream(&store).await.expect("let in");
            let mode = store.set_ingest(&name("web"), Some(IngestMode::Sync)).await;
            assert!(matches!(mode, Err(ChangeError::InUse { .. })), "{mode:?}");
            drop(stream);
            store.set_ingest(&name("web"), Some(IngestMode::Sync)).await.expect("nobody feeds it");
        })
    });
}

async fn in_order(store: &Arc<Retention>) -> Arc<FedDisk> {
    add_web(store, &["os"], IngestMode::Ordered).await;
    let disk = enter(store, "os").await;
    write(&disk, 0, &[10; 4096]).await.expect("taken");
    assert_eq!(mark(store).await.expect("a point").sequence.number(), 1);
    for byte in 11..=14 {
        write(&disk, 0, &[byte; 4096]).await.expect("taken");
    }
    disk
}

async fn instants(store: &Retention) -> Vec<(u64, u64, bool)> {
    let found = store.instants(&name("web")).await.expect("it is there");
    found
        .iter()
        .map(|one| (one.from.sequence.number(), one.to.sequence.number(), one.grows))
        .collect()
}

#[test]
fn in_order_every_write_is_a_moment_until_the_client_goes() {
    let world = World::new(&mut Seed::new(4));
    with_store(&world, |store, _| {
        Box::pin(async move {
            let disk = in_order(&store).await;
            assert!(status(&store).in_order);
            assert_eq!(instants(&store).await, [(1, 5, true)]);
            for (byte, sequence) in (10..=14).zip(1..) {
                assert_eq!(at(&store, &format!("@seq:{sequence}"), "os").await[0], byte);
            }
            disk.leave(Some("lost")).await.expect("it leaves");
            assert!(!status(&store).in_order && status(&store).trouble.is_some());
            assert_eq!(instants(&store).await, [(1, 5, false)]);
            // It comes back, and nobody knows what it left out, until somebody does.
            let disk = enter(&store, "os").await;
            write(&disk, 0, &[15; 4096]).await.expect("taken");
            assert!(store.resolve(&moment("web@seq:6")).await.is_err());
            assert_eq!(at(&store, "@latest", "os").await[0], 14);
            mark(&store).await.expect("a point");
            write(&disk, 0, &[16; 4096]).await.expect("taken");
            assert_eq!(instants(&store).await, [(1, 5, false), (7, 8, true)]);
            // A farewell in good order ends it too, with a point.
            let point = leave(&disk).await.expect("it leaves").expect("a point");
            assert_eq!(point.sequence.number(), 9);
            assert_eq!(instants(&store).await, [(1, 5, false), (7, 8, false)]);
            // Without a client a mark is a mark.
            mark(&store).await.expect("a point");
            assert!(!status(&store).in_order);
            let state = store.streams()[0].state.expect("it was opened").state;
            assert_eq!(state, StreamState::Catchup);
        })
    });
}

#[test]
fn order_ends_with_the_target_and_the_client_goes_on_behind_it() {
    let mut seed = Seed::new(5);
    let world = World::new(&mut seed);
    with_store(&world, |store, _| {
        Box::pin(async move {
            std::mem::forget(in_order(&store).await);
        })
    });
    let world = world.crash(&mut seed);
    with_store(&world, |store, _| {
        Box::pin(async move {
            assert_eq!(instants(&store).await, [(1, 5, false)]);
            let disk = enter(&store, "os").await;
            write(&disk, 0, &[15; 4096]).await.expect("taken");
            assert!(store.resolve(&moment("web@seq:6")).await.is_err(), "a moment after the end");
            assert_eq!(at(&store, "@latest", "os").await[0], 14);
            assert!(leave(&disk).await.expect("it leaves").is_some());
            assert_eq!(at(&store, "@latest", "os").await[0], 15);
        })
    });
}

#[test]
fn a_promotion_lets_nobody_feed_the_new_trunk() {
    let world = World::new(&mut Seed::new(6));
    with_store(&world, |store, _| {
        Box::pin(async move {
            let disk = fed_web(&store).await;
            write(&disk, 0, &[1; 4096]).await.expect("taken");
            leave(&disk).await.expect("a point");
            let newest = store.resolve(&moment("web")).await.expect("a point");
            store.add_branch(&newest, name("b")).await.expect("a branch");
            let promoted = store.promote_branch(&name("web"), &name("b"), &name("before")).await;
            promoted.expect("nobody feeds the trunk");
            assert_eq!(store.ingest_mode(&name("web")), None);
            let refused = disk.enter().await.expect_err("nobody said so").to_string();
            assert!(refused.contains("not fed over NBD"), "{refused}");
            store.set_ingest(&name("web"), Some(IngestMode::Sync)).await.expect("somebody says so");
            let disk = enter(&store, "os").await;
            write(&disk, 0, &[2; 4096]).await.expect("taken");
            assert!(leave(&disk).await.expect("it leaves").is_some());
            assert_eq!(at(&store, "@latest", "os").await[0], 2);
        })
    });
}
