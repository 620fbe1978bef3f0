//! Disks that grow on a branch alone: who has which size, what a promotion makes of it, and power cuts.

use super::past::*;
use super::promote::branch_at;
use super::scrub::{check_sound, scrub};
use landfall_disks::faults::Seed;
use landfall_disks::file::{Caching, Folder as _, OpenMode};
use landfall_disks::{Buffer, ByteOffset, ByteRange, Disk, DiskError, Durability, ZeroMode};
use landfall_retention::ids::{Generation, StreamId};
use landfall_retention::point::PointKind;
use landfall_retention::{ChangeError, Retention, StreamError, StreamRequest};
use landfall_tests::world::World;
use std::path::Path;
use std::sync::Arc;

/// The disk that ends within a block, and what it grows to: the same block and two more.
const OLD: u64 = SIZES[0];
const NEW: u64 = OLD + (9 << 10);

/// Bytes of the first disk at a moment, as large as it is there.
async fn whole(store: &Retention, at: &str) -> Vec<u8> {
    let found = store.resolve(&moment(at)).await.unwrap_or_else(|error| panic!("{at}: {error}"));
    let view = store.view(&found, &name("d0")).expect(at);
    view.read(view.geometry().whole()).await.expect(at).to_vec()
}

fn head(store: &Retention, branch: &str) -> Arc<dyn Disk> {
    store.branch_disk(&name("web"), &name(branch), &name("d0")).expect("it is there")
}

async fn grow(store: &Retention, branch: &str, size: u64) -> Result<Option<u64>, ChangeError> {
    let grown = store.grow_branch_disk(&name("web"), &name(branch), &name("d0"), size).await?;
    assert_eq!(grown.to_bytes, size);
    Ok(grown.point.map(|point| point.sequence.number()))
}

/// Writes the same byte `length` times, also to what it should be then.
async fn fill(disk: &Arc<dyn Disk>, content: &mut [u8], at: u64, length: u64, byte: u8) {
    let (from, length) = (usize::try_from(at).expect("small"), usize::try_from(length));
    let bytes = vec![byte; length.expect("small")];
    content[from..from + bytes.len()].copy_from_slice(&bytes);
    let written = disk.write(ByteOffset::new(at), Buffer::copy_of(&bytes), Durability::Durable);
    written.await.expect("within the disk");
}

async fn image_bytes(world: &World) -> u64 {
    let path = image_path(0);
    let file = world.folder.open(Path::new(&path), OpenMode::Read, Caching::Buffered).await;
    file.expect("it is there").length().await.expect("it has one")
}

fn resized(content: &[u8], size: u64) -> Vec<u8> {
    let mut content = content.to_vec();
    content.resize(usize::try_from(size).expect("small"), 0);
    content
}

#[test]
fn a_disk_grows_on_a_branch_and_nowhere_else() {
    let (world, points) = past(81, 3);
    let at = points[2].0;
    let mut content = resized(&points[2].1[0], NEW);
    let mut grown_at = 0;
    with_store(&world, async |store, _| {
        branch_at(&store, at, "b").await;
        for (wanted, part) in [(OLD - 512, "does not shrink"), (OLD + 1, "512-byte")] {
            let error = grow(&store, "b", wanted).await.expect_err("refused");
            assert!(error.to_string().contains(part), "{error}");
        }
        assert_eq!(grow(&store, "b", OLD).await.expect("nothing to do"), None);
        // Somebody has it open, and goes on with the size he knows.
        let before = head(&store, "b");
        // The trunk is fed meanwhile.
        let stream = open_stream(&store, 1).await;
        grown_at = grow(&store, "b", NEW).await.expect("a branch").expect("a point");
        drop(stream);
        let after = head(&store, "b");
        assert_eq!((before.geometry().size_bytes, after.geometry().size_bytes), (OLD, NEW));
        fill(&after, &mut content, OLD, 700, 8).await;
        fill(&after, &mut content, NEW - 100, 100, 9).await;
        // They share a block: neither takes what the other wrote.
        fill(&before, &mut content, OLD - 512, 512, 7).await;
        let last = ByteRange::at(ByteOffset::new(OLD - 100), 100).expect("small");
        let zeroed = before.write_zeroes(last, ZeroMode::Unmap, Durability::Durable);
        zeroed.await.expect("within the disk");
        let end = usize::try_from(OLD).expect("small");
        content[end - 100..end].fill(0);
        let beyond = before.write(ByteOffset::new(OLD), Buffer::zeroed(512), Durability::Durable);
        assert!(matches!(beyond.await, Err(DiskError::OutOfRange { .. })));
        let latest = store.resolve(&moment("web~b@latest")).await.expect("its head");
        store.add_branch(&latest, name("c")).await.expect("a new branch");
        branch_at(&store, at, "d").await;
    });
    let blank = resized(&points[2].1[0], NEW);
    let check = async |store: Arc<Retention>| {
        assert!(whole(&store, &format!("web~b@seq:{at}")).await == points[2].1[0]);
        assert!(whole(&store, &format!("web~b@seq:{grown_at}")).await == blank);
        for (line, expected) in [("b", &content), ("c", &content), ("d", &points[2].1[0])] {
            assert!(whole(&store, &format!("web~{line}@latest")).await == *expected, "{line}");
            assert_eq!(head(&store, line).geometry().size_bytes, expected.len() as u64);
        }
        assert!(whole(&store, "web@latest").await == points[3].1[0]);
        assert_eq!(store.machines()[0].disks[0].size_bytes, OLD);
    };
    with_store(&world, async |store, _| check(store).await);
    let world = world.without_index();
    with_store(&world, async |store, _| check(store).await);
}

#[test]
fn a_promoted_branch_brings_its_size_and_its_image_grows_when_it_is_folded() {
    let (world, points) = past(82, 3);
    let mut content = resized(&points[1].1[0], NEW);
    let made = with_store(&world, async |store, _| {
        branch_at(&store, points[1].0, "b").await;
        // The trunk grows, too, by more: that stays with the old trunk.
        store.grow_disk(&name("web"), &name("d0"), NEW + 4096).await.expect("nobody streams");
        let grown_at = grow(&store, "b", NEW).await.expect("a branch").expect("a point");
        fill(&head(&store, "b"), &mut content, NEW - 100, 100, 9).await;
        let promoted = store.promote_branch(&name("web"), &name("b"), &name("old")).await;
        let promoted = promoted.expect("nobody uses it");
        assert_eq!(store.machines()[0].disks[0].size_bytes, NEW);
        let sealed = grow(&store, "old", NEW * 2).await;
        assert!(matches!(sealed, Err(ChangeError::NotWritable(_))), "{sealed:?}");
        let gone = grow(&store, "b", NEW * 2).await;
        assert!(matches!(gone, Err(ChangeError::Resolve(_))), "{gone:?}");
        let request = |size| StreamRequest {
            machine: name("web"),
            stream: StreamId::new([9; 16]),
            generation: Generation::default(),
            disks: vec![(name("d0"), size), (name("d1"), SIZES[1])],
            peer: "source".into(),
        };
        for size in [OLD, NEW + 4096] {
            let refused = store.open_stream(request(size)).await.map(|_| ());
            assert!(matches!(refused, Err(StreamError::SizeMismatch { .. })), "{refused:?}");
        }
        drop(store.open_stream(request(NEW)).await.expect("its size"));
        (grown_at, promoted.head.number())
    });
    let (grown_at, newest) = made.expect("no power cut");
    let read_all = async |store: &Retention, start: u64| {
        if start <= points[1].0 {
            assert!(whole(store, &format!("web@seq:{}", points[1].0)).await == points[1].1[0]);
        }
        assert!(
            whole(store, &format!("web@seq:{grown_at}")).await == resized(&points[1].1[0], NEW)
        );
        assert!(whole(store, "web@latest").await == content);
    };
    with_store(&world, async |store, _| {
        read_all(&store, 0).await;
        assert_eq!(whole(&store, "web~old@latest").await.len() as u64, NEW + 4096);
        fold(&store, points[1].0).await.expect("the old trunk starts there");
        assert_eq!(image_bytes(&world).await, OLD, "that point has the old size");
        read_all(&store, points[1].0).await;
        store.discard_branch(&name("web"), &name("old")).await.expect("nobody uses it");
        fold(&store, grown_at).await.expect("nobody holds anything");
        assert_eq!(image_bytes(&world).await, NEW);
        read_all(&store, grown_at).await;
        fold(&store, newest).await.expect("nobody holds anything");
        check_sound(&scrub(&store).await);
    });
    with_store(&world, async |store, _| assert!(whole(&store, "web@latest").await == content));
}

/// At every flush of growing, promoting and folding: the branch, or the machine, has one size or the other, and what was begun can
/// be ended.
#[test]
fn every_power_cut_leaves_a_size_that_somebody_asked_for() {
    let (mut cuts, mut grown) = (0, 0);
    for flushes in 1.. {
        let (world, points) = past(83, 2);
        with_store(&world, async |store, _| branch_at(&store, points[2].0, "b").await);
        world.folder.crash_after_flushes(flushes);
        let ended = with_store(&world, async |store, _| {
            let at = grow(&store, "b", NEW).await.ok()??;
            let web = name("web");
            store.promote_branch(&web, &name("b"), &name("old")).await.ok()?;
            store.discard_branch(&web, &name("old")).await.ok()?;
            fold(&store, at).await.ok()
        });
        let world = world.crash(&mut Seed::new(flushes));
        with_store(&world, async |store, _| {
            let branches = store.machines()[0].branches.clone();
            if branches.iter().any(|branch| branch.name == name("b")) {
                let found = whole(&store, "web~b@latest").await;
                assert!(found == resized(&points[2].1[0], found.len() as u64));
                let size = head(&store, "b").geometry().size_bytes;
                assert!(size == OLD || size == NEW, "{size}");
                grown += usize::from(size == NEW);
                grow(&store, "b", NEW).await.expect("idle");
                let promoted = store.promote_branch(&name("web"), &name("b"), &name("old")).await;
                promoted.expect("nobody uses it");
            }
            assert_eq!(store.machines()[0].disks[0].size_bytes, NEW);
            if store.machines()[0].branches.iter().any(|branch| branch.name == name("old")) {
                let discarded = store.discard_branch(&name("web"), &name("old")).await;
                discarded.expect("nobody uses it");
            }
            // Should there be no moment of the new size yet, this is the first.
            let marked = store.mark(&name("web"), None, PointKind::Crash, None).await;
            let at = marked.expect("a point").sequence.number();
            fold(&store, at).await.expect("nobody holds anything");
            assert!(whole(&store, "web@latest").await == resized(&points[2].1[0], NEW));
            assert_eq!(image_bytes(&world).await, NEW);
            check_sound(&scrub(&store).await);
        });
        if ended.flatten().is_some() {
            break;
        }
        cuts += 1;
    }
    assert!(cuts > 6 && grown > 0, "{cuts} cuts, {grown} between growing and what comes after it");
}
