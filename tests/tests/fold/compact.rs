//! Segments that are needed in part: what moves, what goes, and power cuts at every step.

use super::past::*;
use futures_util::FutureExt;
use landfall_disks::faults::{Fault, Seed, run};
use landfall_disks::file::{Caching, Folder as _, OpenMode};
use landfall_disks::{Buffer, ByteOffset, DiskError, Durability};
use landfall_retention::ids::{LaneId, SegmentId};
use landfall_retention::index::tail_key::read_moved;
use landfall_retention::point::PointQuery;
use landfall_retention::{CompactError, Compacted, FoldPace, Opened, Retention, Settings};
use landfall_tests::world::World;
use std::cell::Cell;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

const POINTS: usize = 24;
/// Points that somebody pinned.
const PINNED: [usize; 2] = [5, 15];

async fn compact_once(store: &Retention) -> Result<Compacted, CompactError> {
    let sleep = |_| std::future::ready(()).boxed_local();
    store.compact(&FoldPace { bytes_per_second: None, sleep: &sleep }).await
}

/// Compacts until there is nothing left to do; gives the sum.
pub(super) async fn compact(store: &Retention) -> Compacted {
    let mut sum = Compacted::default();
    for _ in 0..20 {
        let some = compact_once(store).await.expect("nothing fails");
        assert_eq!((some.damaged, some.short_of_space), (0, false));
        sum.segments += some.segments;
        sum.bytes_moved += some.bytes_moved;
        sum.bytes_freed += some.bytes_freed;
        if some.segments == 0 && some.left == 0 {
            return sum;
        }
    }
    panic!("compaction does not come to an end: {sum:?}");
}

/// Segment files there are, and their bytes.
fn files(world: &World) -> usize {
    segment_files(world).len()
}

pub(super) fn segment_files(world: &World) -> Vec<PathBuf> {
    let all = world.folder.files().into_iter();
    all.filter(|path| path.extension().is_some_and(|extension| extension == "seg")).collect()
}

async fn segment_bytes(store: &Retention) -> u64 {
    store.journal().await.expect("the folder answers").segment_bytes
}

/// Pins some points, and drops most others; gives those that are left.
pub(super) async fn thin(world: &World, store: &Retention, points: &Points) -> Points {
    for pinned in PINNED {
        let at = format!("web@seq:{}", points[pinned].0);
        store.pin(&moment(&at)).await.expect("a point");
    }
    drop_most(world, store, points).await
}

pub(super) async fn drop_most(world: &World, store: &Retention, points: &Points) -> Points {
    let policy = "keep all for 0s, hourly for 1d".parse().expect("a policy");
    store.set_policy(&name("web"), policy).await.expect("a machine");
    world.clock.pass(Duration::from_secs(5));
    store.thin().await.expect("nothing fails");
    left(store, points)
}

fn left(store: &Retention, points: &Points) -> Points {
    let listed = store.points(&name("web"), None, &PointQuery::all(1000)).expect("it is there");
    let listed: BTreeSet<u64> = listed.iter().map(|one| one.point.sequence.number()).collect();
    points.iter().filter(|(sequence, _)| listed.contains(sequence)).cloned().collect()
}

/// A machine of whose history most was dropped.
fn thinned(seed: u64) -> (World, Points) {
    let (world, points) = past(seed, POINTS);
    let points = with_store(&world, async |store, _| thin(&world, &store, &points).await);
    (world, points.expect("no power cut"))
}

#[test]
fn what_nobody_sees_goes_and_every_point_left_reads_on() {
    let (world, points) = past(31, POINTS);
    let points = with_store(&world, async |store, _| {
        let before = segment_bytes(&store).await;
        let nothing = compact(&store).await;
        assert!(nothing.bytes_freed * 2 < before, "all points are there: {nothing:?} of {before}");
        check(&store, &points, 0).await;
        let kept = thin(&world, &store, &points).await;
        assert!(kept.len() < 6 && kept.len() >= PINNED.len(), "{} points", kept.len());
        // Leaves that name segments which go.
        check(&store, &kept, 0).await;
        let done = compact(&store).await;
        assert!(done.segments >= 4 && done.bytes_moved > 0, "{done:?}");
        assert!(done.bytes_freed > 2 * done.bytes_moved, "{done:?}");
        let after = segment_bytes(&store).await;
        assert!(after * 3 < before * 2, "{after} of {before} bytes");
        check(&store, &kept, 0).await;
        kept
    });
    let points = points.expect("no power cut");
    let world = world.crash(&mut Seed::new(1));
    let found = resumes(&world, &points);
    let world = world.without_index();
    assert_eq!(resumes(&world, &points), found, "a rebuilt index says the same");
}

/// Every point is there, and history goes on; gives where the stream and the head are.
fn resumes(world: &World, points: &Points) -> (u64, u64) {
    let found = with_store(world, async |store, _| {
        world.index.vanish(|_| true);
        check(&store, points, 0).await;
        let stream = open_stream(&store, 1).await;
        (stream.position().number(), store.machines()[0].head.number())
    });
    found.expect("no power cut")
}

#[test]
fn what_was_damaged_since_it_was_looked_at_is_not_copied_as_if_it_were_good() {
    let (world, points) = past(33, POINTS);
    let found = with_store(&world, async |store, _| {
        let sleep = |_| std::future::ready(()).boxed_local();
        let pace = FoldPace { bytes_per_second: None, sleep: &sleep };
        let looked_at = store.forget(&pace).await.expect("nothing fails").examined;
        let kept = thin(&world, &store, &points).await;
        // The first body of each segment.
        for path in segment_files(&world) {
            world.folder.corrupt(path, 2 * 4096 + 17, 1);
        }
        let mut damaged = 0;
        for _ in 0..4 {
            damaged += compact_once(&store).await.expect("nothing fails").damaged;
        }
        assert!(looked_at > 4 && damaged > 4, "{damaged} of {looked_at}");
        refused(&store, &kept).await
    });
    assert!(found.is_some_and(|refused| refused > 0), "nothing that is read was hit");
}

#[test]
fn what_was_compacted_is_compacted_again_folded_and_forgotten() {
    let (world, mut points) = thinned(32);
    with_store(&world, async |store, _| {
        compact(&store).await;
        // Nobody wants the first pinned point any more.
        let at = format!("web@seq:{}", points[1].0);
        store.unpin(&moment(&at)).await.expect("a point");
        points = drop_most(&world, &store, &points).await;
        compact(&store).await;
        check(&store, &points, 0).await;
    });
    let world = world.crash(&mut Seed::new(3)).without_index();
    resumes(&world, &points);
    with_store(&world, async |store, _| {
        let last = points.last().expect("some").clone();
        let at = format!("web@seq:{}", points[points.len() - 2].0);
        store.unpin(&moment(&at)).await.expect("a point");
        fold(&store, last.0).await.expect("nobody holds anything");
        check_images(&world.folder, &last.1).await;
        let sleep = |_| std::future::ready(()).boxed_local();
        let pace = FoldPace { bytes_per_second: None, sleep: &sleep };
        store.forget(&pace).await.expect("nothing fails");
        assert_eq!(files(&world), 0, "compacted segments are forgotten like others");
        check(&store, &points, last.0).await;
    });
}

#[test]
fn a_branch_keeps_what_it_sees_and_its_own_writes() {
    let (world, points) = past(33, POINTS);
    let mut expected = points[7].1[0].clone();
    let mut moments = Vec::new();
    with_store(&world, async |store, _| {
        let place = store.resolve(&moment(&format!("web@seq:{}", points[7].0))).await;
        store.add_branch(&place.expect("a point"), name("b")).await.expect("a new branch");
        let branch = store.branch_disk(&name("web"), &name("b"), &name("d0")).expect("there");
        for number in 1..=40_u8 {
            let data = Buffer::copy_of(&[number; 8192]);
            let at = u64::from(number % 3) * 4096;
            branch.write(ByteOffset::new(at), data, Durability::Durable).await.expect("space");
            let at = usize::try_from(at).expect("small");
            expected[at..at + 8192].fill(number);
            moments.push((number, expected.clone()));
        }
    });
    with_store(&world, async |store, _| {
        let kept = thin(&world, &store, &points).await;
        assert!(kept.iter().any(|(sequence, _)| *sequence == points[7].0), "a branch starts there");
        assert!(compact(&store).await.segments >= 2);
        check(&store, &kept, 0).await;
        let mut there = 0;
        for (sequence, content) in &moments {
            let at = format!("web~b@seq:{}", points[7].0 + u64::from(*sequence));
            if let Ok(found) = store.resolve(&moment(&at)).await {
                let view = store.view(&found, &name("d0")).expect("there");
                let read = view.read(view.geometry().whole()).await.expect("readable");
                assert!(read[..] == content[..], "{at} differs");
                there += 1;
            }
        }
        assert!(there > 0, "nothing of the branch is left");
        let branch = store.branch_disk(&name("web"), &name("b"), &name("d0")).expect("there");
        let head = branch.read(branch.geometry().whole()).await.expect("readable");
        assert!(head[..] == expected[..], "the branch differs");
    });
    let world = world.crash(&mut Seed::new(1)).without_index();
    with_store(&world, async |store, _| {
        let branch = store.branch_disk(&name("web"), &name("b"), &name("d0")).expect("there");
        let head = branch.read(branch.geometry().whole()).await.expect("readable");
        assert!(head[..] == expected[..], "the branch differs without the index");
        store.discard_branch(&name("web"), &name("b")).await.expect("nobody uses it");
        check(&store, &left(&store, &points), 0).await;
        compact(&store).await;
        check(&store, &left(&store, &points), 0).await;
    });
}

#[test]
fn whoever_has_a_moment_open_keeps_it() {
    let (world, points) = past(34, POINTS);
    with_store(&world, async |store, _| {
        let at = moment(&format!("web@seq:{}", points[10].0));
        let place = store.resolve(&at).await.expect("a point");
        let view = store.view(&place, &name("d0")).expect("a point");
        let kept = thin(&world, &store, &points).await;
        assert!(kept.iter().any(|(sequence, _)| *sequence == points[10].0), "it is being read");
        assert!(compact(&store).await.segments > 0);
        let read = view.read(view.geometry().whole()).await.expect("readable");
        assert!(read[..] == points[10].1[0][..], "an open view differs");
    });
}

#[test]
fn reads_that_began_before_end_before_a_segment_goes() {
    for seed in 35..39 {
        let (world, points) = thinned(seed);
        with_store(&world, async |store, spawner| {
            let reader = Reader::start(&store, &spawner, &points);
            reader.has_read(2).await;
            assert!(compact(&store).await.segments > 0);
            reader.has_read(1).await;
        });
    }
}

#[test]
fn a_fold_reads_what_is_being_moved() {
    for seed in 39..43 {
        let (world, points) = thinned(seed);
        let last = points.last().expect("some").clone();
        with_store(&world, async |store, _| {
            for pinned in &points[..points.len() - 1] {
                // Some of these were never pinned.
                let _ = store.unpin(&moment(&format!("web@seq:{}", pinned.0))).await;
            }
            let (folded, compacted) =
                futures_util::join!(fold(&store, last.0), compact_once(&store));
            folded.expect("nobody holds anything");
            compacted.expect("nothing fails");
            check(&store, &points, last.0).await;
            check_images(&world.folder, &last.1).await;
        });
    }
}

#[test]
fn every_power_cut_of_a_compaction_leaves_every_point() {
    let (mut left_over, mut unfinished) = (0, 0);
    for seed in 0..5 {
        for flushes in 1.. {
            let (world, points) = thinned(seed);
            let before = files(&world);
            let mut random = Seed::new(seed * 1000 + flushes);
            let ended = with_store(&world, async |store, _| {
                world.folder.crash_after_flushes(flushes);
                compact_once(&store).await.map(|done| done.segments)
            });
            let world = world.crash(&mut random);
            let world = if random.chance(1, 2) { world.without_index() } else { world };
            let found = files(&world);
            with_store(&world, async |store, _| {
                world.index.vanish(|_| random.chance(1, 2));
                check(&store, &points, 0).await;
                let known = store.journal().await.expect("the folder answers").segments;
                assert_eq!(files(&world), known, "a file that nobody knows");
                left_over += usize::from(found > known);
                // The copy is on record, and so is everything that it was made of.
                unfinished += usize::from(known > before);
                compact(&store).await;
                assert!(files(&world) < before, "what was cut off was not ended");
                check(&store, &points, 0).await;
            });
            let world = world.crash(&mut random).without_index();
            resumes(&world, &points);
            if let Some(Ok(segments)) = ended {
                assert!(segments > 0 && flushes > 4, "{flushes} flushes, {segments} segments");
                break;
            }
        }
    }
    assert!(left_over > 0, "no cut left a file that nobody knew");
    assert!(unfinished > 0, "no cut came between a copy and the end of its originals");
}

#[test]
fn a_compaction_that_fails_loses_nothing_and_is_repeated() {
    for fault in [Fault::Read, Fault::Write, Fault::Flush] {
        for wait in 0_u32.. {
            let (world, points) = thinned(50);
            let failed = with_store(&world, async |store, _| {
                let (folder, left) = (world.folder.clone(), Cell::new(wait));
                let sleep = move |_: Duration| {
                    if left.replace(left.get().wrapping_sub(1)) == 0 {
                        folder.fail_next(fault);
                    }
                    std::future::ready(()).boxed_local()
                };
                let pace = FoldPace { bytes_per_second: Some(1 << 30), sleep: &sleep };
                let failed = store.compact(&pace).await.is_err();
                check(&store, &points, 0).await;
                failed
            });
            with_store(&world, async |store, _| {
                let known = store.journal().await.expect("the folder answers").segments;
                assert_eq!(files(&world), known, "{fault:?} left a file");
                check(&store, &points, 0).await;
                compact(&store).await;
                check(&store, &points, 0).await;
            });
            if failed == Some(false) {
                assert!(wait > 4, "{fault:?} {wait} pauses");
                break;
            }
        }
    }
}

#[test]
fn without_space_for_a_copy_nothing_is_moved() {
    let (world, points) = thinned(51);
    with_store(&world, async |store, _| {
        world.folder.set_capacity(Some(0));
        let short = compact_once(&store).await;
        world.folder.set_capacity(None);
        let short = short.expect("it is said, and no error");
        assert!(short.short_of_space && short.bytes_moved == 0, "{short:?}");
        check(&store, &points, 0).await;
        assert!(compact(&store).await.segments > 0);
        check(&store, &points, 0).await;
    });
}

/// Where the tables of a compacted segment are.
async fn tables(world: &World, path: &Path) -> Vec<u64> {
    let file = world.folder.open(path, OpenMode::Read, Caching::Buffered).await.expect("there");
    let length = usize::try_from(file.length().await.expect("there")).expect("small");
    let bytes = file.read_at(0, Buffer::zeroed(length)).await.expect("readable");
    let units = (0..).step_by(4096).zip(bytes.chunks(4096));
    units.filter(|(_, unit)| unit.starts_with(b"LFKT")).map(|(at, _)| at).collect()
}

/// Compacted segments, each with where its tables are.
async fn compacted(world: &World) -> Vec<(PathBuf, Vec<u64>)> {
    let mut found = Vec::new();
    for path in segment_files(world) {
        let tables = tables(world, &path).await;
        if tables.len() == 2 {
            found.push((path, tables));
        }
    }
    found
}

/// That whatever is read of points is what was there, or damaged; how many reads were damaged.
async fn true_or_damaged(store: &Retention, points: &Points) -> usize {
    let mut damaged = 0;
    for (sequence, content) in points {
        for (disk, expected) in content.iter().enumerate() {
            match read(store, &format!("web@seq:{sequence}"), disk).await {
                Ok(found) => assert!(found == *expected, "seq:{sequence}"),
                Err(DiskError::Damaged { .. }) => damaged += 1,
                Err(error) => panic!("{error}"),
            }
        }
    }
    damaged
}

#[test]
fn one_table_is_enough_to_rebuild_the_index_and_without_both_what_may_be_lost_is_said() {
    let (world, points) = thinned(52);
    let mut compacted = Vec::new();
    with_store(&world, async |store, _| {
        compact(&store).await;
        compacted = self::compacted(&world).await;
    });
    assert!(!compacted.is_empty());
    for (path, tables) in &compacted {
        world.folder.corrupt(path, tables[0] + 40, 1);
    }
    let world = world.without_index();
    resumes(&world, &points);
    for (path, tables) in &compacted {
        world.folder.corrupt(path, tables[1] + 40, 1);
    }
    // The index knows all that the tables know.
    resumes(&world, &points);
    // Nor do they keep anything else from being given back.
    with_store(&world, async |store, _| {
        let some = compact_once(&store).await.expect("the others are looked at");
        assert_eq!(some.damaged, compacted.len());
        let sleep = |_| std::future::ready(()).boxed_local();
        let pace = FoldPace { bytes_per_second: None, sleep: &sleep };
        store.forget(&pace).await.expect("the others are looked at");
    });
    // All of it at the start, and piece by piece.
    let mut world = world;
    for at_once in [usize::MAX, 1] {
        world = world.without_index();
        let settings = Settings { index_at_once: at_once, ..World::settings() };
        let (surroundings, points, compacted) = (world.surroundings(), &points, compacted.len());
        run(&mut Seed::new(1), |spawner| async move {
            let opened = Retention::open(surroundings, settings).await;
            let Opened { retention: store, lanes, report } = opened.expect("the store opens");
            lanes.into_iter().for_each(|lane| spawner.spawn(lane.run()));
            let sleep = |_| std::future::ready(()).boxed_local();
            let pace = FoldPace { bytes_per_second: None, sleep: &sleep };
            while store.index_more(&pace).await.expect("nothing is in the way") {}
            let mut said = report.damage;
            said.extend(store.index_status().damage);
            let tables = said.iter().filter(|line| line.ends_with("(case L)")).count();
            assert_eq!(tables, compacted, "{said:?}");
            let listed = left(&store, points);
            assert!(true_or_damaged(&store, &listed).await > 0, "nobody needed them");
        });
    }
}

/// Which compacted segments an index leads into must not be told wrongly: too many, and it leads to what is gone.
#[test]
fn an_index_that_was_built_behind_the_lanes_leads_where_the_one_before_did() {
    let (world, points) = thinned(54);
    let marker = |world: &World| {
        [0, 1].map(|lane| read_moved(&*world.index, LaneId::new(lane)).expect("in memory"))
    };
    with_store(&world, async |store, _| {
        compact(&store).await;
    });
    let before = marker(&world);
    assert!(before.iter().flatten().any(|moved| moved.number() > 0), "{before:?}");
    let world = world.without_index();
    run(&mut Seed::new(1), |spawner| {
        let settings = Settings { index_at_once: 1, ..World::settings() };
        let (surroundings, points) = (world.surroundings(), &points);
        async move {
            let opened = Retention::open(surroundings, settings).await;
            let Opened { retention: store, lanes, .. } = opened.expect("the store opens");
            lanes.into_iter().for_each(|lane| spawner.spawn(lane.run()));
            let sleep = |_| std::future::ready(()).boxed_local();
            let pace = FoldPace { bytes_per_second: None, sleep: &sleep };
            while store.index_more(&pace).await.expect("nothing is in the way") {}
            check(&store, points, 0).await;
        }
    });
    let number = |moved: Option<SegmentId>| moved.unwrap_or_default();
    assert_eq!(marker(&world).map(number), before.map(number));
}

#[test]
fn a_damaged_block_that_was_moved_is_said_and_nothing_else_with_it() {
    let (world, points) = thinned(53);
    with_store(&world, async |store, _| {
        compact(&store).await;
        for (path, _) in compacted(&world).await {
            world.folder.corrupt(&path, 4096 + 17, 1);
        }
        let damaged = true_or_damaged(&store, &points).await;
        assert!(damaged > 0, "nobody reads the first block that was moved");
    });
}
