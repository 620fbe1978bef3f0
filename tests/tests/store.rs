//! The store as its callers see it: what is refused, what survives damage and loss, what names mean.

use landfall_disks::faults::{Fault, Seed, run};
use landfall_disks::file::Folder as _;
use landfall_disks::{Buffer, ByteOffset, ByteRange, DiskError, Durability};
use landfall_retention::ids::{ContentId, Position, Sequence};
use landfall_retention::name::Label;
use landfall_retention::point::PointKind;
use landfall_retention::time::Timestamp;
use landfall_retention::{
    AppendError, BlockHash, ChangeError, DiskState, NewExport, ResolveError, Retention, Stream,
    StreamError, StreamRequest,
};
use landfall_tests::web::{IMAGE, add_web, mark, put, read, request, with_store};
use landfall_tests::world::{World, moment, name};
use std::path::{Path, PathBuf};

const SIZE: u64 = 256 << 10;

/// A store with machine `web` of one disk `os` whose blocks are all `1` at its first point.
fn seeded() -> World {
    let world = World::new(&mut Seed::new(3));
    with_store(&world, |store, _| {
        Box::pin(async move {
            add_web(&store, SIZE).await.expect("a new machine");
            let stream = open(&store, 1, 0).await.expect("nobody streams");
            put(&stream, 1, 0, vec![1; 256 << 10]).await.expect("a seed");
            mark(&stream, 2).await;
        })
    });
    world
}

async fn open(store: &Retention, stream: u8, generation: u64) -> Result<Stream, StreamError> {
    store.open_stream(request(stream, generation, SIZE)).await
}

/// The stream of the source, which has written to the first block since its last point.
async fn with_a_write(store: &Retention) -> Stream {
    let stream = open(store, 1, 0).await.expect("nobody streams");
    put(&stream, 1, 0, vec![2; 4096]).await.expect("in order");
    stream
}

fn block(index: u64) -> ByteRange {
    ByteRange::at(ByteOffset::new(index * 4096), 4096).expect("a block")
}

#[test]
fn streams_are_refused_for_what_is_wrong_with_them() {
    let world = seeded();
    with_store(&world, |store, _| {
        Box::pin(async move {
            let unknown = StreamRequest { machine: name("db"), ..request(1, 0, SIZE) };
            let error = store.open_stream(unknown).await.err().expect("no such machine");
            assert!(
                matches!(error, StreamError::UnknownMachine { known, .. } if known == [name("web")])
            );
            let unknown =
                StreamRequest { disks: vec![(name("data"), SIZE)], ..request(1, 0, SIZE) };
            let error = store.open_stream(unknown).await.err().expect("no such disk");
            assert!(
                matches!(error, StreamError::UnknownDisk { known, .. } if known == [name("os")])
            );
            let larger =
                StreamRequest { disks: vec![(name("os"), SIZE * 2)], ..request(1, 0, SIZE) };
            let error = store.open_stream(larger).await.err().expect("another size");
            assert!(matches!(error, StreamError::SizeMismatch { ours: SIZE, .. }));
            let error = open(&store, 9, 1).await.err().expect("never had that generation");
            assert!(matches!(error, StreamError::OldGeneration { .. }));

            let stream = open(&store, 1, 0).await.expect("nobody streams");
            let error = open(&store, 2, 0).await.err().expect("somebody streams");
            assert!(matches!(error, StreamError::Busy { peer, .. } if peer == "source 1"));
            let error = put(&stream, 2, 0, vec![2; 4096]).await.expect_err("skipped one");
            assert!(matches!(error, StreamError::SkippedPosition { .. }));
            let error = put(&stream, 1, 0, vec![2; 4096]).await.expect_err("failed before");
            assert!(matches!(error, StreamError::Failed(_)));
        })
    });
}

#[test]
fn ranges_that_do_not_fit_the_disk_are_refused() {
    for (offset, length) in [(SIZE - 4096, 8192), (SIZE, 4096), (512, 4096), (0, 100)] {
        let world = seeded();
        with_store(&world, move |store, _| {
            Box::pin(async move {
                let stream = open(&store, 1, 0).await.expect("nobody streams");
                let error = put(&stream, 1, offset, vec![2; length]).await.expect_err("no fit");
                assert!(matches!(error, StreamError::BadRange { size_bytes: SIZE, .. }), "{error}");
            })
        });
    }
}

#[test]
fn the_same_source_takes_its_stream_over_and_goes_on_exactly() {
    let world = seeded();
    with_store(&world, |store, _| {
        Box::pin(async move {
            let old = open(&store, 1, 0).await.expect("nobody streams");
            let generation = old.generation().number();
            put(&old, 1, 0, vec![2; 4096]).await.expect("in order");
            let new = open(&store, 1, generation).await.expect("the same source");
            assert_eq!(new.position(), Position::new(1));
            let error = put(&old, 2, 0, vec![3; 4096]).await.expect_err("taken over");
            assert!(matches!(error, StreamError::TakenOver));
            drop(old);
            put(&new, 2, 0, vec![4; 4096]).await.expect("in order");
            let point = mark(&new, 3).await;
            let at = format!("web@seq:{}", point.sequence);
            assert_eq!(read(&store, &at, block(0)).await.expect("a point"), [4; 4096]);
        })
    });
    // After a restart the position is that of the journal, and another source ends the generation.
    with_store(&world, |store, _| {
        Box::pin(async move {
            let stream = open(&store, 1, 2).await.expect("vouched for by the journal");
            assert_eq!(stream.position(), Position::new(3));
            let (position, _) = stream.last_mark().expect("it was a mark");
            assert_eq!(position, Position::new(3));
            drop(stream);
            drop(open(&store, 2, 0).await.expect("another source"));
            let error = open(&store, 1, 2).await.err().expect("the generation is over");
            assert!(matches!(error, StreamError::OldGeneration { .. }));
        })
    });
}

#[test]
fn names_mean_what_they_say_and_errors_name_what_exists() {
    let world = seeded();
    with_store(&world, |store, _| {
        Box::pin(async move {
            let stream = with_a_write(&store).await;
            let app = Some(Label::parse("before patch").expect("a label"));
            let at = Position::new(2);
            let app =
                stream.mark(at, PointKind::App, app, Timestamp::default()).await.expect("a point");
            put(&stream, 3, 0, vec![3; 4096]).await.expect("in order");
            let fuzzy = Position::new(4);
            stream
                .mark(fuzzy, PointKind::Fuzzy, None, Timestamp::default())
                .await
                .expect("a point");

            for when in
                ["latest", "app", "tag:before patch", "seq:3", &app.commit_time.to_string(), "-0s"]
            {
                let found = store.resolve(&moment(&format!("web@{when}"))).await.expect(when);
                assert_eq!(found.sequence, app.sequence, "{when}");
            }
            let fuzzy = store.resolve(&moment("web@seq:5")).await.expect("kept");
            assert_eq!(fuzzy.kind, Some(PointKind::Fuzzy));
            let error = store.resolve(&moment("web@seq:2")).await.expect_err("between points");
            assert!(error.to_string().contains("nearest are seq:1 and seq:3"), "{error}");
            let error =
                store.resolve(&moment("web@2001-01-01T00:00:00Z")).await.expect_err("before");
            assert!(matches!(error, ResolveError::NoSuchPoint { .. }), "{error}");
            let error = store.resolve(&moment("db")).await.expect_err("no machine");
            assert!(error.to_string().contains("machines: web"), "{error}");
            let error = store.resolve(&moment("web~x")).await.expect_err("no branch");
            assert!(error.to_string().contains("there are none"), "{error}");
        })
    });
}

#[test]
fn a_mark_in_the_middle_of_a_pass_is_refused() {
    let world = seeded();
    with_store(&world, |store, _| {
        Box::pin(async move {
            let point = store.mark(&name("web"), None, PointKind::Crash, None).await;
            assert_eq!(point.expect("at a point").sequence, Sequence::new(2));
            let _stream = with_a_write(&store).await;
            let error = store.mark(&name("web"), None, PointKind::Crash, None).await;
            assert!(matches!(error, Err(ChangeError::InPass { .. })));
        })
    });
}

#[test]
fn branches_nest_and_are_thrown_away() {
    let world = seeded();
    with_store(&world, |store, _| {
        Box::pin(async move {
            let at = store.resolve(&moment("web")).await.expect("a point");
            store.add_branch(&at, name("a")).await.expect("a new name");
            let again = store.add_branch(&at, name("a")).await;
            assert!(matches!(again, Err(ChangeError::Exists { .. })));
            let disk = store.branch_disk(&name("web"), &name("a"), &name("os")).expect("a branch");
            let data = Buffer::copy_of(&[7; 100]);
            disk.write(ByteOffset::new(4000), data, Durability::Durable).await.expect("a write");
            let at = store.resolve(&moment("web~a")).await.expect("its head");
            store.add_branch(&at, name("b")).await.expect("a branch of a branch");
            let inner = store.branch_disk(&name("web"), &name("b"), &name("os")).expect("a branch");
            let mut expected = vec![1; 8192];
            expected[4000..4100].fill(7);
            let range = ByteRange::up_to(8192);
            assert_eq!(inner.read(range).await.expect("both layers").to_vec(), expected);
            assert_eq!(read(&store, "web", range).await.expect("the trunk"), vec![1; 8192]);

            let error = store.discard_branch(&name("web"), &name("a")).await.expect_err("has one");
            assert!(error.to_string().contains("web~b"), "{error}");
            let export = NewExport {
                machine: name("web"),
                branch: Some(name("b")),
                sequence: None,
                writable: true,
                iscsi: None,
            };
            let export = store.add_export(export).await.expect("a branch can be written");
            let error = store.discard_branch(&name("web"), &name("b")).await.expect_err("exported");
            assert!(matches!(error, ChangeError::InUse { .. }));
            store.remove_export(export.id).await.expect("it exists");
            store.discard_branch(&name("web"), &name("b")).await.expect("unused");
            // Whoever still has it open must not be shown its parent instead.
            assert!(matches!(inner.read(range).await, Err(DiskError::Gone(_))));
        })
    });
}

#[test]
fn whoever_reads_in_order_to_write_is_alone_with_its_blocks() {
    let world = seeded();
    with_store(&world, |store, _| {
        Box::pin(async move {
            let at = store.resolve(&moment("web")).await.expect("a point");
            store.add_branch(&at, name("a")).await.expect("a new name");
            let [web, branch, os] = ["web", "a", "os"].map(name);
            let open = || store.branch_disk_to_lock(&web, &branch, &os).expect("a branch");
            let ((disk, locks), (_, others)) = (open(), open());
            let plain = store.branch_disk(&web, &branch, &os).expect("a branch");
            let block = ByteRange::up_to(4096);
            let held = locks.lock_exclusive(block).await;
            let mut too = std::pin::pin!(others.lock_shared(block));
            assert!(futures_util::poll!(too.as_mut()).is_pending(), "another target waits");
            let bytes = |value| Buffer::copy_of(&[value; 512]);
            let mut write = plain.write(block.start(), bytes(2), Durability::Durable);
            assert!(futures_util::poll!(write.as_mut()).is_pending(), "another protocol waits");
            // Whoever holds the blocks does not wait for itself.
            disk.write(block.start(), bytes(1), Durability::Durable).await.expect("a write");
            drop(held);
            drop(too.await);
            write.await.expect("its turn has come");
            let found = plain.read(ByteRange::up_to(512)).await.expect("what came last");
            assert_eq!(found.to_vec(), [2; 512]);
        })
    });
}

#[test]
fn a_damaged_block_is_reported_and_nothing_else_with_it() {
    let world = seeded();
    with_store(&world, |store, _| {
        Box::pin(async move {
            let stream = open(&store, 1, 0).await.expect("nobody streams");
            put(&stream, 1, 0, vec![2; 12 << 10]).await.expect("in order");
            mark(&stream, 2).await;
            store.close().await.expect("a clean end");
        })
    });
    // The batch of three blocks: its second one loses a bit. Its head fills the block before its body.
    let (segment, body) = find_body(&world);
    world.folder.corrupt(segment, body + 4096 + 10, 1);
    with_store(&world, |store, report| {
        Box::pin(async move {
            assert!(report.damage[0].contains("case F"), "{:?}", report.damage);
            let damaged = read(&store, "web", block(1)).await;
            assert!(matches!(damaged, Err(DiskError::Damaged { range, .. }) if range == block(1)));
            assert_eq!(read(&store, "web", block(0)).await.expect("good"), [2; 4096]);
            assert_eq!(read(&store, "web", block(2)).await.expect("good"), [2; 4096]);
            assert_eq!(read(&store, "web@seq:1", block(1)).await.expect("older"), [1; 4096]);
            let stream = open(&store, 1, 0).await.expect("nobody streams");
            let hashes = stream.hashes(stream.disks()[0].id, ByteRange::up_to(SIZE)).await;
            assert_eq!(hashes.expect("hashes")[0], BlockHash::Unknown, "so that it is sent again");
        })
    });
}

/// Segment and offset of the first body of twos.
fn find_body(world: &World) -> (PathBuf, u64) {
    use landfall_disks::file::{Caching, OpenMode};
    let files = world.folder.files();
    let segments = files.into_iter().filter(|file| file.extension().is_some_and(|e| e == "seg"));
    let mut found = segments.filter_map(|path| {
        let at = run(&mut Seed::new(1), |_| async {
            let mode = (OpenMode::Read, Caching::Direct);
            let file = world.folder.open(&path, mode.0, mode.1).await.expect("it is there");
            let length = file.length().await.expect("open");
            for at in (0..length).step_by(4096) {
                let block = file.read_at(at, Buffer::zeroed(4096)).await.expect("within the file");
                if block.iter().all(|byte| *byte == 2) {
                    return Some(at);
                }
            }
            None
        });
        at.map(|at| (path, at))
    });
    found.next().expect("it was written")
}

#[test]
fn a_lost_record_makes_what_it_may_have_changed_read_as_damaged() {
    let world = seeded();
    with_store(&world, |store, _| {
        Box::pin(async move {
            let stream = with_a_write(&store).await;
            mark(&stream, 2).await;
            put(&stream, 3, 4096, vec![3; 4096]).await.expect("in order");
            mark(&stream, 4).await;
            store.tick().await;
        })
    });
    let (segment, body) = find_body(&world);
    world.folder.corrupt(segment, body - 4096, 256);
    // Without an index everything is read again, and the record at seq:2 is found missing.
    let world = world.without_index();
    with_store(&world, |store, report| {
        Box::pin(async move {
            assert!(
                report.damage.iter().any(|line| line.contains("case E")),
                "{:?}",
                report.damage
            );
            assert_eq!(read(&store, "web@seq:1", block(0)).await.expect("before it"), [1; 4096]);
            let lost = read(&store, "web@seq:3", block(0)).await;
            assert!(
                matches!(lost, Err(DiskError::Damaged { .. })),
                "it was changed by what is lost"
            );
            assert_eq!(
                read(&store, "web@seq:5", block(1)).await.expect("written since"),
                [3; 4096]
            );
            let error = open(&store, 1, 2).await.err().expect("its position is not vouched for");
            assert!(matches!(error, StreamError::OldGeneration { .. }));
            let stream = open(&store, 1, 0).await.expect("compares and goes on");
            put(&stream, 1, 0, vec![4; 256 << 10]).await.expect("in order");
            mark(&stream, 2).await;
            let whole = ByteRange::up_to(SIZE);
            assert_eq!(read(&store, "web", whole).await.expect("healed"), vec![4; 256 << 10]);
        })
    });
}

/// What was written up to a moment that somebody holds may be among what is lost, also if the line has more that is.
#[test]
fn a_moment_among_those_that_were_lost_reads_as_damaged() {
    let world = seeded();
    with_store(&world, |store, _| {
        Box::pin(async move {
            let stream = with_a_write(&store).await;
            assert_eq!(mark(&stream, 2).await.sequence, Sequence::new(3));
            put(&stream, 3, 4096, vec![3; 4096]).await.expect("in order");
            mark(&stream, 4).await;
            put(&stream, 5, 0, vec![4; 4096]).await.expect("in order");
            mark(&stream, 6).await;
            let among = store.resolve(&moment("web@seq:3")).await.expect("a point");
            store.add_branch(&among, name("test")).await.expect("a new branch");
            store.tick().await;
        })
    });
    // Heads and bodies from seq:2 to seq:6, and nothing of seq:7.
    let (segment, body) = find_body(&world);
    world.folder.corrupt(segment, body - 4096, 7 * 4096);
    let world = world.without_index();
    with_store(&world, |store, report| {
        Box::pin(async move {
            let lost = |line: &String| line.contains("lost records seq:2 to seq:6");
            assert!(report.damage.iter().any(lost), "{:?}", report.damage);
            assert_eq!(read(&store, "web@seq:1", block(0)).await.expect("before it"), [1; 4096]);
            for held in ["web~test", "web@seq:7"] {
                let found = read(&store, held, block(0)).await;
                assert!(matches!(found, Err(DiskError::Damaged { .. })), "{held}: {found:?}");
            }
        })
    });
}

#[test]
fn a_lost_image_is_not_invented_and_a_resync_heals_new_points() {
    let world = seeded();
    run(&mut Seed::new(1), |_| async {
        world.folder.remove(Path::new(IMAGE)).await.expect("it is there");
    });
    for _ in 0..2 {
        with_store(&world, |store, _| {
            Box::pin(async move {
                let state = store.machines()[0].disks[0].state.clone();
                assert!(matches!(state, DiskState::NeedsResync(_)), "{state:?}");
                let unknown = read(&store, "web@seq:1", block(0)).await;
                assert!(matches!(unknown, Err(DiskError::Unknown { .. })));
            })
        });
    }
    with_store(&world, |store, _| {
        Box::pin(async move {
            let stream = open(&store, 1, 0).await.expect("nobody streams");
            let hashes = stream.hashes(stream.disks()[0].id, ByteRange::up_to(SIZE)).await;
            assert_eq!(hashes.expect("hashes"), vec![BlockHash::Unknown; 4]);
            put(&stream, 1, 0, vec![5; 256 << 10]).await.expect("in order");
            mark(&stream, 2).await;
            let whole = ByteRange::up_to(SIZE);
            assert_eq!(read(&store, "web", whole).await.expect("healed"), vec![5; 256 << 10]);
            assert!(read(&store, "web@seq:1", block(0)).await.is_err());
        })
    });
}

#[test]
fn a_failed_flush_refuses_writes_until_the_store_is_reopened() {
    let world = seeded();
    let folder = world.folder.clone();
    with_store(&world, |store, _| {
        Box::pin(async move {
            let stream = with_a_write(&store).await;
            folder.fail_next(Fault::Flush);
            let error = put(&stream, 2, 0, vec![3; 4096]).await.expect_err("the flush failed");
            assert!(matches!(error, StreamError::Append(AppendError::Failed(_))), "{error}");
            let lanes = store.journal().await.expect("it can be looked at").lanes;
            assert_eq!(lanes.iter().filter(|lane| lane.failed.is_some()).count(), 1);
            drop(stream);
            let error = open(&store, 1, 2).await.err().expect("the lane is out of order");
            assert!(matches!(error, StreamError::Append(AppendError::Failed(_))), "{error}");
            assert_eq!(read(&store, "web", block(0)).await.expect("reads go on"), [1; 4096]);
        })
    });
    let world = world.crash(&mut Seed::new(5));
    with_store(&world, |store, report| {
        Box::pin(async move {
            assert_eq!(report.damage, Vec::<String>::new());
            let stream = open(&store, 1, 2).await.expect("vouched for");
            let next = stream.position().number() + 1;
            assert!((2..=3).contains(&next), "what was acknowledged is there");
            put(&stream, next, 0, vec![3; 4096]).await.expect("in order");
        })
    });
}

#[test]
fn a_content_is_known_for_as_long_as_the_disk_holds_just_that() {
    let world = seeded();
    let content = ContentId::new([9; 32]);
    with_store(&world, |store, _| {
        Box::pin(async move {
            let stream = open(&store, 1, 0).await.expect("nobody streams");
            let os = &stream.disks()[0];
            assert_eq!(os.content, None, "nobody named it");
            let point = mark(&stream, 1).await.sequence;
            stream.name_contents(point, &[(os.id, content)]).await.expect("noted");
            assert_eq!(stream.disks()[0].content, Some(content));
        })
    });
    // Another source, after a restart, which begins a pass and does not end it.
    with_store(&world, |store, _| {
        Box::pin(async move {
            let stream = open(&store, 2, 0).await.expect("nobody streams");
            assert_eq!(stream.disks()[0].content, Some(content));
            put(&stream, 1, 0, vec![2; 4096]).await.expect("in order");
            assert_eq!(stream.disks()[0].content, None, "it holds something else");
        })
    });
    with_store(&world, |store, _| {
        Box::pin(async move {
            let stream = open(&store, 2, 0).await.expect("nobody streams");
            assert_eq!(stream.disks()[0].content, None);
        })
    });
    // What lay in an image that is lost is not what it was.
    let world = seeded();
    with_store(&world, |store, _| {
        Box::pin(async move {
            let stream = open(&store, 1, 0).await.expect("nobody streams");
            let point = mark(&stream, 1).await.sequence;
            let named = [(stream.disks()[0].id, content)];
            stream.name_contents(point, &named).await.expect("noted");
        })
    });
    run(&mut Seed::new(1), |_| async {
        world.folder.remove(Path::new(IMAGE)).await.expect("it is there");
    });
    with_store(&world, |store, _| {
        Box::pin(async move {
            let stream = open(&store, 1, 0).await.expect("nobody streams");
            assert_eq!(stream.disks()[0].content, None);
        })
    });
}
