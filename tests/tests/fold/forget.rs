//! Segments that nobody needs: which go, what stays, and power cuts at every step.

use super::compact::segment_files;
use super::past::*;
use futures_util::FutureExt;
use landfall_disks::faults::Seed;
use landfall_retention::ids::{Generation, Position};
use landfall_retention::{FoldPace, ForgetReport, Retention};
use landfall_tests::world::World;

const POINTS: usize = 12;
const KEPT: usize = 9;

async fn forget(store: &Retention) -> ForgetReport {
    let sleep = |_| std::future::ready(()).boxed_local();
    let pace = FoldPace { bytes_per_second: None, sleep: &sleep };
    store.forget(&pace).await.expect("nothing fails")
}

/// Segment files there are.
fn files(world: &World) -> usize {
    let all = world.folder.files();
    all.iter().filter(|path| path.extension().is_some_and(|extension| extension == "seg")).count()
}

async fn segments(store: &Retention) -> usize {
    store.journal().await.expect("the folder answers").segments
}

#[test]
fn what_was_folded_gives_its_segments_back_and_everything_left_reads_on() {
    let (world, points) = past(21, POINTS);
    let start = points[KEPT].0;
    with_store(&world, async |store, _| {
        let before = segments(&store).await;
        assert!(before >= 4, "{before} segments show nothing");
        assert_eq!(forget(&store).await.segments, 0, "nothing was folded");
        // Leaves that name segments which go.
        check(&store, &points, 0).await;
        fold(&store, start).await.expect("nobody holds anything");
        let given = forget(&store).await;
        assert!(given.segments >= 2 && given.bytes >= 1 << 20, "{given:?}");
        assert_eq!(segments(&store).await, before - given.segments);
        assert_eq!(files(&world), before - given.segments);
        check(&store, &points, start).await;
        let again = forget(&store).await;
        assert_eq!((again.segments, again.examined), (0, 0), "it remembers what it looked at");
    });
    let world = world.crash(&mut Seed::new(1));
    let found = resumes(&world, &points, start);
    let world = world.without_index();
    assert_eq!(resumes(&world, &points, start), found, "a rebuilt index says the same");
}

#[test]
fn damaged_bodies_that_nobody_needs_do_not_hold_a_segment_and_damaged_heads_do() {
    for (at, goes) in [(2 * 4096 + 17, true), (30, true), (4096 + 30, false)] {
        let (world, points) = past(24, POINTS);
        let start = points[KEPT].0;
        with_store(&world, async |store, _| {
            fold(&store, start).await.expect("nobody holds anything");
            let all = world.folder.files().into_iter();
            let segments = all.filter(|path| path.extension().is_some_and(|kind| kind == "seg"));
            segments.for_each(|path| world.folder.corrupt(path, at, 1));
            let given = forget(&store).await;
            assert_eq!(given.segments > 1, goes, "byte {at}: {given:?}");
            assert_eq!(given.segments > 0, goes, "byte {at}: {given:?}");
            assert!(given.damaged > 0, "those that are needed are said");
        });
    }
}

/// Every point is there and the stream goes on where it was; gives position and head.
fn resumes(world: &World, points: &Points, start: u64) -> (Position, u64) {
    let found = with_store(world, async |store, _| {
        world.index.vanish(|_| true);
        check(&store, points, start).await;
        let stream = open_stream(&store, 1).await;
        assert_eq!(stream.generation(), Generation::new(1));
        (stream.position(), store.machines()[0].head.number())
    });
    found.expect("no power cut")
}

#[test]
fn a_machine_whose_every_record_is_folded_keeps_its_point_and_its_stream() {
    let (world, points) = past(22, POINTS);
    let last = points.last().expect("some").clone();
    let position = with_store(&world, async |store, _| {
        fold(&store, last.0).await.expect("nobody holds anything");
        last.0
    });
    // Every segment has an end at the next start, so all of them may go.
    with_store(&world, async |store, _| {
        assert!(forget(&store).await.segments > 0);
        assert_eq!((segments(&store).await, files(&world)), (0, 0));
        check(&store, &points, last.0).await;
    });
    let world = world.crash(&mut Seed::new(1)).without_index();
    with_store(&world, async |store, _| {
        check(&store, &points, last.0).await;
        check_images(&world.folder, &last.1).await;
        for name in ["web@latest".to_owned(), format!("web@tag:p{POINTS}")] {
            let found = store.resolve(&moment(&name)).await.expect(&name);
            assert_eq!(found.sequence.number(), last.0);
        }
        let stream = open_stream(&store, 1).await;
        let mut content = last.1.clone();
        let mut at = stream.position().number() + 1;
        change(&stream, at, &mut content, &mut Seed::new(5)).await;
        at += 1;
        let next = mark(&stream, at, 99).await;
        assert_eq!(Some(next), position.map(|last| last + 2), "sequences go on");
        let all = vec![last.clone(), (next, content)];
        check(&store, &all, 0).await;
    });
}

#[test]
fn a_branch_keeps_the_segments_it_needs_until_it_is_thrown_away() {
    let (world, points) = past(23, POINTS);
    let start = points[KEPT].0;
    with_store(&world, async |store, _| {
        let place = store.resolve(&moment(&format!("web@seq:{start}"))).await.expect("a point");
        store.add_branch(&place, name("b")).await.expect("a new branch");
        let branch = store.branch_disk(&name("web"), &name("b"), &name("d0")).expect("there");
        let data = landfall_disks::Buffer::copy_of(&[9; 4096]);
        let at = landfall_disks::ByteOffset::new(8192);
        branch.write(at, data, landfall_disks::Durability::Durable).await.expect("space");
    });
    with_store(&world, async |store, _| {
        let mut expected = points[KEPT].1[0].clone();
        expected[8192..12288].fill(9);
        let branch = store.branch_disk(&name("web"), &name("b"), &name("d0")).expect("there");
        fold(&store, points.last().expect("some").0).await.expect_err("the branch holds");
        fold(&store, start).await.expect("the branch starts there");
        forget(&store).await;
        let head = branch.read(branch.geometry().whole()).await.expect("readable");
        assert!(head[..] == expected[..], "the branch differs");
        let kept = segments(&store).await;
        store.discard_branch(&name("web"), &name("b")).await.expect("nobody uses it");
        fold(&store, points.last().expect("some").0).await.expect("nobody holds it");
        assert!(forget(&store).await.segments > 0, "of {kept}");
        assert_eq!(segments(&store).await, 0);
    });
}

#[test]
fn reads_that_began_before_end_before_a_segment_goes() {
    for seed in 24..30 {
        let (world, points) = past(seed, POINTS);
        let start = points[KEPT].0;
        with_store(&world, async |store, spawner| {
            let reader = Reader::start(&store, &spawner, &points[KEPT..]);
            reader.has_read(2).await;
            fold(&store, start).await.expect("nobody holds what is older");
            assert!(forget(&store).await.segments > 0);
            reader.has_read(1).await;
            check(&store, &points, start).await;
        });
    }
}

#[test]
fn every_power_cut_while_segments_go_leaves_every_point() {
    let mut left_over = 0;
    for seed in 0..4 {
        for flushes in 1.. {
            let (world, points) = past(seed, POINTS);
            let start = points[KEPT].0;
            let mut random = Seed::new(seed * 1000 + flushes);
            let ended = with_store(&world, async |store, _| {
                fold(&store, start).await.expect("nobody holds anything");
                world.folder.crash_after_flushes(flushes);
                let sleep = |_| std::future::ready(()).boxed_local();
                let pace = FoldPace { bytes_per_second: None, sleep: &sleep };
                store.forget(&pace).await.is_ok()
            });
            let world = world.crash(&mut random);
            let world = if random.chance(1, 2) { world.without_index() } else { world };
            let found = files(&world);
            with_store(&world, async |store, _| {
                check(&store, &points, start).await;
                let known = segments(&store).await;
                assert_eq!(files(&world), known, "a file that nobody knows");
                left_over += usize::from(found > known);
                forget(&store).await;
                check(&store, &points, start).await;
            });
            let world = world.crash(&mut random).without_index();
            resumes(&world, &points, start);
            if ended == Some(true) {
                break;
            }
        }
    }
    assert!(left_over > 0, "no cut came between release and removal");
}

/// Places that were resolved before a fold name the journal still, and the image has the content.
#[test]
fn what_was_folded_is_read_where_it_is_whole_when_the_journal_is_damaged() {
    let (world, points) = past(31, POINTS);
    let (start, content) = &points[KEPT];
    let at = format!("web@seq:{start}");
    with_store(&world, async |store, _| {
        assert!(read(&store, &at, 0).await.expect("readable") == content[0]);
        fold(&store, *start).await.expect("nobody holds what is older");
        for path in segment_files(&world) {
            for block in 1..512 {
                world.folder.corrupt(&path, block * 4096 + 17, 1);
            }
        }
        assert!(read(&store, &at, 0).await.expect("the image has it") == content[0]);
    });
}
