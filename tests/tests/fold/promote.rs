//! A branch that becomes the trunk: what every moment reads then, what is folded and given back afterwards, and power cuts at
//! every flush of it.

use super::past::*;
use landfall_disks::faults::Seed;
use landfall_disks::{Buffer, ByteOffset, ByteRange, Durability};
use landfall_retention::ids::{Generation, Sequence, StreamId};
use landfall_retention::point::PointQuery;
use landfall_retention::{ChangeError, FoldPace, Retention, StreamError, StreamRequest};
use std::future::ready;
use std::time::Duration;

/// Bytes of a disk at a moment.
async fn read(store: &Retention, at: &str, disk: usize) -> Vec<u8> {
    let found = store.resolve(&moment(at)).await.unwrap_or_else(|error| panic!("{at}: {error}"));
    let view = store.view(&found, &name(&format!("d{disk}"))).expect(at);
    view.read(view.geometry().whole()).await.expect(at).to_vec()
}

pub(crate) async fn branch_at(store: &Retention, at: u64, branch: &str) {
    let place = store.resolve(&moment(&format!("web@seq:{at}"))).await.expect("a point");
    store.add_branch(&place, name(branch)).await.expect("a new branch");
}

/// Writes `count` blocks to a branch, which go into `content` as well.
pub(crate) async fn write(store: &Retention, branch: &str, content: &mut [u8], count: u8) {
    let head = store.branch_disk(&name("web"), &name(branch), &name("d0")).expect("there");
    for number in 1..=count {
        let at = usize::from(number % 7) * 4096;
        let data = Buffer::copy_of(&[number; 4096]);
        head.write(ByteOffset::new(at as u64), data, Durability::Durable).await.expect("space");
        content[at..at + 4096].fill(number);
    }
}

pub(crate) async fn promote(store: &Retention, branch: &str) -> Result<u64, ChangeError> {
    let promoted = store.promote_branch(&name("web"), &name(branch), &name("old")).await?;
    assert!(promoted.old.sealed);
    Ok(promoted.head.number())
}

async fn check_past(store: &Retention, points: &Points, origin: usize) {
    for (at, content) in &points[..=origin] {
        for (disk, content) in content.iter().enumerate() {
            assert!(read(store, &format!("web@seq:{at}"), disk).await == *content, "seq:{at}");
        }
    }
    for (at, content) in &points[origin + 1..] {
        let at = format!("web~old@seq:{at}");
        assert!(read(store, &at, 0).await == content[0], "{at}");
    }
}

#[test]
fn the_branch_is_what_latest_means_and_older_points_and_the_old_trunk_read_on() {
    let (world, points) = past(41, 8);
    let mut content = points[4].1[0].clone();
    with_store(&world, async |store, _| {
        branch_at(&store, points[4].0, "b").await;
        write(&store, "b", &mut content, 20).await;
        let open = store.branch_disk(&name("web"), &name("b"), &name("d0")).expect("there");
        let reader = store.resolve(&moment(&format!("web@seq:{}", points[3].0))).await;
        let reader = store.view(&reader.expect("a point"), &name("d0")).expect("a point");
        let head = promote(&store, "b").await.expect("nobody uses it");
        assert_eq!(head, points[4].0 + 21, "its writes, and the point at its head");
        let late = open.write(ByteOffset::new(0), Buffer::zeroed(4096), Durability::Durable);
        assert!(late.await.is_err(), "a trunk is written by streams alone");
        // Who had a point open keeps it: it holds the history of the new trunk.
        assert!(fold(&store, points[4].0).await.is_err());
        let bytes = reader.read(ByteRange::up_to(SIZES[0])).await.expect("open");
        assert!(bytes[..] == points[3].1[0][..]);
        drop(reader);
        let listed = store.machines();
        assert_eq!(listed[0].points, 6, "five points of the old trunk, and one at the head");
        assert_eq!(listed[0].branches.len(), 1);
    });
    let mut world = world;
    for life in 0..3 {
        if life == 2 {
            world = world.without_index();
        }
        with_store(&world, async |store, _| {
            assert!(read(&store, "web@latest", 0).await == content, "life {life}");
            check_past(&store, &points, 4).await;
            let instant = format!("web@seq:{}", points[4].0 + 3);
            assert_eq!(read(&store, &instant, 0).await[3 * 4096], 3, "each write stays a moment");
            let latest = store.resolve(&moment("web~old@latest")).await.expect("it has points");
            assert_eq!(latest.sequence, Sequence::new(points[8].0));
        });
    }
}

#[test]
fn the_new_trunk_is_fed_by_whoever_starts_anew_and_folded_past_its_origin() {
    let (world, points) = past(42, 6);
    let mut content = points[3].1.clone();
    with_store(&world, async |store, _| {
        let old = open_stream(&store, 0).await;
        branch_at(&store, points[3].0, "b").await;
        write(&store, "b", &mut content[0], 9).await;
        let busy = promote(&store, "b").await;
        assert!(matches!(busy, Err(ChangeError::InUse { .. })), "{busy:?}");
        let generation = old.generation();
        drop(old);
        let head = promote(&store, "b").await.expect("nobody uses it");
        let request = StreamRequest {
            machine: name("web"),
            stream: StreamId::new([1; 16]),
            generation,
            disks: (0..2).map(|disk| (name(&format!("d{disk}")), SIZES[disk])).collect(),
            peer: "source".into(),
        };
        let refused = store.open_stream(request).await.map(|_| ());
        assert!(matches!(refused, Err(StreamError::FailedOver { .. })), "{refused:?}");
        let stream = open_stream(&store, 0).await;
        let mut random = Seed::new(5);
        let mut made = Vec::new();
        for round in 0..3 {
            for number in 1..=10 {
                change(&stream, round * 11 + number, &mut content, &mut random).await;
            }
            let at = mark(&stream, round * 11 + 11, 50).await;
            made.push((at, content.clone()));
        }
        drop(stream);
        // The old trunk holds history at the origin, until it is discarded.
        assert!(fold(&store, head).await.is_err());
        store.discard_branch(&name("web"), &name("old")).await.expect("nothing starts from it");
        fold(&store, head).await.expect("nobody holds anything");
        fold(&store, made[1].0).await.expect("nobody holds anything");
        check_images(&world.folder, &made[1].1).await;
        let pace = FoldPace { bytes_per_second: None, sleep: &|_| Box::pin(ready(())) };
        let gone = store.forget(&pace).await.expect("readable");
        assert!(gone.segments > 0, "{gone:?}: the old trunk is in segments that nobody needs");
        for (at, content) in &made[1..] {
            assert!(read(&store, &format!("web@seq:{at}"), 0).await == content[0]);
        }
        assert!(read(&store, "web@latest", 1).await == content[1]);
    });
    let world = world.crash(&mut Seed::new(1)).without_index();
    with_store(&world, async |store, _| {
        for (disk, content) in content.iter().enumerate() {
            assert!(read(&store, "web@latest", disk).await == *content);
        }
    });
}

/// A policy lists some writes of a branch as points, and no record says so: a start may leave them out again. The head of what
/// became the trunk is a point for good.
#[test]
fn the_head_is_a_point_for_good_also_if_a_policy_had_listed_it() {
    for writes in [1, 20] {
        let (world, points) = past(45, 2);
        let (origin, mut content) = (points[1].0, points[1].1[0].clone());
        let newest = |store: &Retention, branch: Option<&str>| {
            let (branch, all) = (branch.map(name), PointQuery::all(usize::MAX));
            let listed = store.points(&name("web"), branch.as_ref(), &all).expect("it is there");
            listed.last().map(|one| one.point.sequence.number())
        };
        let head = with_store(&world, async |store, _| {
            branch_at(&store, origin, "b").await;
            for _ in 0..writes {
                write(&store, "b", &mut content, 1).await;
                world.clock.pass(Duration::from_secs(2));
            }
            assert_eq!(newest(&store, Some("b")), None, "nobody marked anything");
            let policy = "keep all for 0s, secondly for 1h".parse().expect("a policy");
            store.set_policy(&name("web"), policy).await.expect("it is recorded");
            store.thin().await.expect("it thins");
            assert_eq!(newest(&store, Some("b")), Some(origin + writes), "listed by the policy");
            let head = promote(&store, "b").await.expect("nobody uses it");
            assert_eq!(newest(&store, None), Some(head));
            head
        });
        let mut world = world;
        for index in ["there", "gone"] {
            if index == "gone" {
                world = world.without_index();
            }
            with_store(&world, async |store, _| {
                for at in ["web@latest".to_owned(), format!("web@seq:{}", origin + writes)] {
                    assert!(read(&store, &at, 0).await == content, "{at}");
                }
                assert_eq!(newest(&store, None), head, "{writes} writes, the index is {index}");
            });
        }
    }
}

/// At every flush: it is promoted, or not at all, and can be promoted then.
#[test]
fn every_power_cut_leaves_the_branch_or_the_new_trunk() {
    let (mut before, mut after) = (0, 0);
    for flushes in 1.. {
        let (world, points) = past(43, 3);
        let mut content = points[1].1[0].clone();
        with_store(&world, async |store, _| {
            branch_at(&store, points[1].0, "b").await;
            write(&store, "b", &mut content, 5).await;
        });
        world.folder.crash_after_flushes(flushes);
        let done = with_store(&world, async |store, _| promote(&store, "b").await.is_ok());
        let whole_way = done == Some(true) && !world.folder.is_dead();
        let world = world.crash(&mut Seed::new(flushes));
        with_store(&world, async |store, _| {
            let branches = store.machines()[0].branches.clone();
            let named = |of: &str| branches.iter().any(|branch| branch.name == name(of));
            assert_ne!(named("b"), named("old"), "half a promotion after {flushes} flushes");
            assert!(done != Some(true) || named("old"), "it was acknowledged");
            if named("b") {
                before += 1;
                assert!(read(&store, "web~b@latest", 0).await == content);
                let latest = store.resolve(&moment("web@latest")).await.expect("points");
                assert_eq!(latest.sequence.number(), points[3].0);
                promote(&store, "b").await.expect("nobody uses it");
            } else {
                after += 1;
            }
            assert!(read(&store, "web@latest", 0).await == content);
            check_past(&store, &points, 1).await;
        });
        if whole_way {
            break;
        }
    }
    assert!(before > 1 && after > 0, "{before} before, {after} after");
}

#[test]
fn a_branch_of_a_branch_is_promoted_and_the_old_trunk_after_it() {
    let (world, points) = past(44, 5);
    let mut first = points[2].1[0].clone();
    with_store(&world, async |store, _| {
        branch_at(&store, points[2].0, "a").await;
        write(&store, "a", &mut first, 4).await;
        let place = store.resolve(&moment("web~a@latest")).await.expect("its head");
        store.add_branch(&place, name("b")).await.expect("a new branch");
        let mut second = first.clone();
        write(&store, "a", &mut first, 9).await;
        write(&store, "b", &mut second, 6).await;
        promote(&store, "b").await.expect("nobody uses it");
        assert!(read(&store, "web@latest", 0).await == second);
        assert!(read(&store, "web~a@latest", 0).await == first);
        check_past(&store, &points, 2).await;
        // What is left of the branch in between takes writes as ever.
        write(&store, "a", &mut first, 3).await;
        assert!(read(&store, "web~a@latest", 0).await == first);
        let back = store.promote_branch(&name("web"), &name("old"), &name("tried")).await;
        assert_eq!(back.expect("nobody uses it").head.number(), points[5].0);
        assert!(read(&store, "web@latest", 0).await == points[5].1[0]);
        assert!(read(&store, "web~tried@latest", 0).await == second);
        assert!(read(&store, "web~a@latest", 0).await == first);
        for (at, content) in &points {
            assert!(read(&store, &format!("web@seq:{at}"), 0).await == content[0]);
        }
        let writable = store.branch_disk(&name("web"), &name("tried"), &name("d0"));
        let writable = writable.expect("it reads");
        let sealed = writable.write(ByteOffset::new(0), Buffer::zeroed(4096), Durability::Durable);
        assert!(sealed.await.is_err());
        assert_ne!(Generation::new(0), store.machines()[0].generation);
    });
}
