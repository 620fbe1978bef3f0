//! Disks that grow, join a machine and leave it: what older points have of them, and what folds and power cuts make of it.

use super::past::*;
use landfall_disks::faults::Seed;
use landfall_disks::file::{Caching, Folder as _, OpenMode};
use landfall_disks::{ByteOffset, ByteRange};
use landfall_retention::ids::{ContentId, Generation, Sequence, StreamId};
use landfall_retention::name::Name;
use landfall_retention::{
    ChangeError, ImageSpec, NewDisk, ResolveError, Retention, Stream, StreamError, StreamRequest,
};
use landfall_tests::world::World;
use std::path::Path;

const NEW_SIZE: u64 = 96 << 10;

fn web() -> Name {
    name("web")
}

async fn stream_of(store: &Retention, disks: &[(&str, u64)]) -> Result<Stream, StreamError> {
    let request = StreamRequest {
        machine: web(),
        stream: StreamId::new([2; 16]),
        generation: Generation::default(),
        disks: disks.iter().map(|(disk, size)| (name(disk), *size)).collect(),
        peer: "source".into(),
    };
    store.open_stream(request).await
}

fn new_disk(disk: &str, path: &str) -> NewDisk {
    let image = ImageSpec { format: "raw".into(), path: path.into(), size_bytes: NEW_SIZE };
    NewDisk { name: name(disk), image, adopt: false }
}

/// Bytes of a whole disk at a moment, as large as it is there.
async fn whole(store: &Retention, at: &str, disk: &str) -> Result<Vec<u8>, ResolveError> {
    let moment = store.resolve(&moment(at)).await?;
    let view = store.view(&moment, &name(disk))?;
    Ok(view.read(view.geometry().whole()).await.expect(at).to_vec())
}

fn filled(byte: u8, length: u64) -> Vec<u8> {
    vec![byte; usize::try_from(length).expect("small")]
}

/// The same of a point.
async fn held(store: &Retention, at: u64, disk: &str) -> Result<Vec<u8>, ResolveError> {
    whole(store, &format!("web@seq:{at}"), disk).await
}

async fn refused(store: &Retention, at: u64, disk: &str) -> String {
    let read = whole(store, &format!("web@seq:{at}"), disk).await;
    read.expect_err("it has none").to_string()
}

async fn image_bytes(world: &World, path: &str) -> u64 {
    let file = world.folder.open(Path::new(path), OpenMode::Read, Caching::Buffered).await;
    file.expect("it is there").length().await.expect("it has one")
}

#[test]
fn a_disk_is_part_of_the_points_made_while_it_was_there() {
    let (world, points) = past(11, 2);
    let [d0, d1] = SIZES.map(|size| size);
    let made = with_store(&world, async |store, _| {
        store.add_disk(&web(), new_disk("d2", "disk-2.raw")).await.expect("a new disk");
        let twice = store.add_disk(&web(), new_disk("d2", "other.raw")).await;
        assert!(matches!(twice, Err(ChangeError::Exists { .. })), "{twice:?}");
        let stream = stream_of(&store, &[("d0", d0), ("d1", d1)]).await.expect("nobody streams");
        let without = mark(&stream, 1, 10).await;
        drop(stream);
        let all = [("d0", d0), ("d1", d1), ("d2", NEW_SIZE)];
        let stream = stream_of(&store, &all).await.expect("nobody streams");
        apply(&stream, 1, 2, vec![(0, Some(filled(7, NEW_SIZE)))]).await;
        let with = mark(&stream, 2, 11).await;
        let busy = store.remove_disk(&web(), &name("d1")).await;
        assert!(matches!(busy, Err(ChangeError::InUse { .. })), "{busy:?}");
        drop(stream);
        let place = store.resolve(&moment(&format!("web@seq:{with}"))).await.expect("a point");
        store.add_branch(&place, name("b")).await.expect("a new branch");
        assert!(!store.remove_disk(&web(), &name("d1")).await.expect("nobody streams"));
        let stream = stream_of(&store, &[("d0", d0), ("d2", NEW_SIZE)]).await.expect("idle");
        let after = mark(&stream, 1, 12).await;
        drop(stream);
        let gone = stream_of(&store, &all).await.err().expect("d1 was removed");
        assert!(matches!(gone, StreamError::UnknownDisk { .. }), "{gone}");
        (without, with, after)
    });
    let (without, with, after) = made.expect("no power cut");
    for _ in 0..2 {
        with_store(&world, async |store, _| {
            for (sequence, content) in &points {
                assert!(refused(&store, *sequence, "d2").await.contains("no complete copy"));
                for (disk, content) in ["d0", "d1"].into_iter().zip(content) {
                    assert!(held(&store, *sequence, disk).await.expect("there") == *content);
                }
            }
            assert!(refused(&store, without, "d2").await.contains("no complete copy"));
            assert!(held(&store, with, "d2").await.expect("there") == filled(7, NEW_SIZE));
            assert!(held(&store, with, "d1").await.expect("there") == points[2].1[1]);
            assert!(held(&store, after, "d2").await.expect("there") == filled(7, NEW_SIZE));
            assert!(refused(&store, after, "d1").await.contains("was removed at seq:"));
            let of_branch = store.branch_disk(&web(), &name("b"), &name("d1")).expect("it had it");
            assert_eq!(of_branch.geometry().size_bytes, d1);
            let again = store.add_disk(&web(), new_disk("d1", "other.raw")).await;
            assert!(matches!(again, Err(ChangeError::RemovedDisk { .. })), "{again:?}");
        });
    }
    with_store(&world, async |store, _| {
        store.discard_branch(&web(), &name("b")).await.expect("nobody uses it");
        fold(&store, with).await.expect("nobody holds anything");
        assert!(held(&store, with, "d1").await.expect("there") == points[2].1[1]);
        assert!(held(&store, with, "d2").await.expect("there") == filled(7, NEW_SIZE));
        fold(&store, after).await.expect("nobody holds anything");
        assert!(held(&store, after, "d2").await.expect("there") == filled(7, NEW_SIZE));
        let disks: Vec<_> = store.machines()[0].disks.iter().map(|d| d.name.clone()).collect();
        assert_eq!(disks, [name("d0"), name("d2")], "no moment is left that had it");
        store.add_disk(&web(), new_disk("d1", "other.raw")).await.expect("the name is free");
        assert!(store.remove_disk(&web(), &name("d1")).await.expect("idle"), "it never had a copy");
        store.remove_disk(&web(), &name("d2")).await.expect("idle");
        let last = store.remove_disk(&web(), &name("d0")).await;
        assert!(matches!(last, Err(ChangeError::LastDisk { .. })), "{last:?}");
    });
    with_store(&world, async |store, _| {
        assert!(held(&store, after, "d0").await.expect("there") == points[2].1[0]);
    });
}

#[test]
fn a_disk_grows_from_a_point_on_and_its_image_when_that_is_folded() {
    let (world, points) = past(12, 2);
    let size = SIZES[1] + (70 << 10) + 512;
    let grown = with_store(&world, async |store, _| {
        for (wanted, part) in [(SIZES[1] - 512, "does not shrink"), (SIZES[1] + 1, "512-byte")] {
            let error = store.grow_disk(&web(), &name("d1"), wanted).await.expect_err("refused");
            assert!(error.to_string().contains(part), "{error}");
        }
        let same = store.grow_disk(&web(), &name("d1"), SIZES[1]).await.expect("nothing to do");
        assert_eq!(same.point, None);
        let grown = store.grow_disk(&web(), &name("d1"), size).await.expect("idle");
        let refused = stream_of(&store, &[("d1", SIZES[1])]).await.err().expect("too small");
        assert!(matches!(refused, StreamError::SizeMismatch { .. }), "{refused}");
        let stream = stream_of(&store, &[("d1", size)]).await.expect("idle");
        let last = size / 4096 * 4096;
        apply(&stream, 1, 0, vec![(last, Some(filled(9, size - last)))]).await;
        let point = grown.point.expect("it was between two passes").sequence.number();
        (point, mark(&stream, 2, 20).await)
    });
    let (empty, written) = grown.expect("no power cut");
    let mut content = points[2].1[1].clone();
    content.resize(usize::try_from(size).expect("small"), 0);
    let blank = content.clone();
    let last = usize::try_from(size / 4096 * 4096).expect("small");
    content[last..].fill(9);
    let check = async |store: &Retention, start: u64| {
        let expected = points.iter().map(|(at, content)| (*at, &content[1]));
        for (at, expected) in expected.chain([(empty, &blank), (written, &content)]) {
            if at >= start {
                let found = whole(store, &format!("web@seq:{at}"), "d1").await.expect("there");
                assert!(found == *expected, "seq:{at}: {} bytes", found.len());
            }
        }
        let changes = async |from: u64, to: u64| {
            let from = store.resolve(&moment(&format!("web@seq:{from}"))).await.expect("there");
            let to = store.resolve(&moment(&format!("web@seq:{to}"))).await.expect("there");
            let changes = store.changes(from, to, &name("d1")).expect("there");
            let page = changes.page(ByteOffset::new(0), 100).await.expect("a page");
            let ranges: Vec<ByteRange> = page.ranges.iter().map(|changed| changed.range).collect();
            (changes.size_bytes(), ranges)
        };
        let end = ByteRange::up_to(size).split_at(ByteOffset::new(size / 4096 * 4096)).1;
        assert_eq!(changes(empty, written).await, (size, vec![end]));
        if start == 0 {
            assert_eq!(changes(written, points[2].0).await, (SIZES[1], vec![]));
        }
    };
    with_store(&world, async |store, _| {
        check(&store, 0).await;
        fold(&store, points[2].0).await.expect("nobody holds anything");
        assert_eq!(
            image_bytes(&world, "disk-1.raw").await,
            SIZES[1],
            "that point has the old size"
        );
        check(&store, points[2].0).await;
        fold(&store, empty).await.expect("nobody holds anything");
        assert_eq!(image_bytes(&world, "disk-1.raw").await, size);
        check(&store, empty).await;
    });
    with_store(&world, async |store, _| check(&store, empty).await);
}

/// Disks grow, come and go, and all of it is folded, while the power is cut at every flush: whatever of it happened, older
/// points are as they were, no image is lost, and it can be done again.
#[test]
fn every_power_cut_leaves_older_points_their_disks_and_sizes() {
    let size = SIZES[1] + (9 << 10);
    let mut cuts = 0;
    for flushes in 1.. {
        let (world, points) = past(13, 1);
        world.folder.crash_after_flushes(flushes);
        let ended = with_store(&world, async |store, _| {
            let grown = store.grow_disk(&web(), &name("d1"), size).await.ok()?;
            store.add_disk(&web(), new_disk("d2", "disk-2.raw")).await.ok()?;
            store.grow_disk(&web(), &name("d2"), NEW_SIZE * 2).await.ok()?;
            store.remove_disk(&web(), &name("d0")).await.ok()?;
            fold(&store, grown.point?.sequence.number()).await.ok()
        });
        let whole_way = ended.flatten().is_some();
        let world = world.crash(&mut Seed::new(flushes));
        with_store(&world, async |store, _| {
            let status = store.history(&web()).expect("it is there");
            let start = status.start.map_or(0, |start| start.sequence.number());
            for (at, content) in points.iter().filter(|(at, _)| *at >= start) {
                for (disk, content) in ["d0", "d1"].into_iter().zip(content) {
                    let found = whole(&store, &format!("web@seq:{at}"), disk).await.expect("there");
                    assert!(found == *content, "{disk} at seq:{at} after {flushes} flushes");
                }
            }
            for (line, floor) in store.unfinished_folds() {
                let pace = landfall_retention::FoldPace {
                    bytes_per_second: None,
                    sleep: &|_| Box::pin(std::future::ready(())),
                };
                store.fold_to(line, floor, &pace).await.expect("it can be ended");
            }
            // What was begun can be ended: sizes are as asked for, and the images with them.
            store.grow_disk(&web(), &name("d1"), size).await.expect("idle");
            let mut expected = points[1].1[1].clone();
            expected.resize(usize::try_from(size).expect("small"), 0);
            let stream = stream_of(&store, &[("d1", size)]).await.expect("idle");
            let position = stream.position().number();
            let at = mark(&stream, position + 1, 30).await;
            assert!(
                whole(&store, &format!("web@seq:{at}"), "d1").await.expect("there") == expected
            );
            drop(stream);
            fold(&store, at).await.expect("nobody holds anything");
            assert!(
                whole(&store, &format!("web@seq:{at}"), "d1").await.expect("there") == expected
            );
            if let Some(disk) = store.machines()[0].disks.iter().find(|d| d.name == name("d2")) {
                let size_bytes = disk.size_bytes;
                let stream = stream_of(&store, &[("d2", size_bytes)]).await.expect("idle");
                let position = stream.position().number();
                let last = size_bytes - 4096;
                apply(&stream, position + 1, 0, vec![(last, Some(filled(5, 4096)))]).await;
                let at = mark(&stream, position + 2, 31).await;
                let found = whole(&store, &format!("web@seq:{at}"), "d2").await.expect("there");
                assert_eq!(found.len() as u64, size_bytes);
                assert!(found[found.len() - 4096..] == filled(5, 4096));
            }
        });
        if whole_way {
            break;
        }
        cuts += 1;
    }
    assert!(cuts > 8, "{cuts} cuts");
}

#[test]
fn a_disk_that_had_grown_when_the_power_went_is_no_more_what_the_source_named() {
    let content = ContentId::new([7; 32]);
    let mut seen = [0; 2];
    for flushes in 1..5 {
        let (world, points) = past(25, 1);
        with_store(&world, async |store, _| {
            let stream = open_stream(&store, 1).await;
            let named = [(stream.disks()[1].id, content)];
            let point = Sequence::new(points[1].0);
            stream.name_contents(point, &named).await.expect("noted");
            assert_eq!(stream.disks()[1].content, Some(content));
            drop(stream);
            world.folder.crash_after_flushes(flushes);
            store.grow_disk(&web(), &name("d1"), SIZES[1] + 4096).await.is_ok()
        });
        let world = world.crash(&mut Seed::new(flushes));
        with_store(&world, async |store, _| {
            let size = store.machines()[0].disks[1].size_bytes;
            let stream = stream_of(&store, &[("d0", SIZES[0]), ("d1", size)]).await;
            let named = stream.expect("nobody streams").disks()[1].content;
            assert_eq!(named.is_some(), size == SIZES[1], "{flushes} flushes");
            seen[usize::from(size == SIZES[1])] += 1;
        });
    }
    assert!(seen.iter().all(|count| *count > 0), "{seen:?}");
}
