//! The read cache: what it answers, what it must not hold on to.

use futures_util::future::LocalBoxFuture;
use landfall_disks::faults::{Seed, run};
use landfall_disks::file::Folder as _;
use landfall_disks::{Buffer, ByteOffset, ByteRange, DiskError, Durability};
use landfall_retention::ids::Sequence;
use landfall_retention::sealing::{Encryption, KeyEncryptionKey};
use landfall_retention::{BlockHash, FoldPace, HASH_BLOCK_BYTES, Retention, Settings, Stream};
use landfall_tests::web::{IMAGE, add_web, mark, put, read, request, with_settings, with_store};
use landfall_tests::world::{World, moment, name};
use std::time::Duration;

const BLOCK: u64 = 4096;
const SIZE: u64 = 1 << 20;

fn block(number: u64) -> ByteRange {
    ByteRange::at(ByteOffset::new(number * BLOCK), BLOCK).expect("on the disk")
}

fn filled(byte: u8) -> Vec<u8> {
    vec![byte; 4096]
}

async fn check(store: &Retention, at: &str, number: u64, byte: u8) {
    let found = read(store, at, block(number)).await.expect(at);
    assert!(found == filled(byte), "block {number} of {at}: {}, not {byte}", found[0]);
}

/// Reads that were answered from the cache, and those that were not, since the last time.
fn counted(store: &Retention, last: &mut (u64, u64)) -> (u64, u64) {
    let status = store.read_cache();
    let before = std::mem::replace(last, (status.hits, status.misses));
    (last.0 - before.0, last.1 - before.1)
}

/// A machine whose image has blocks of 1, with blocks 0 and 1 of 2 at `seq:3` and block 0 of 3 at `seq:5`.
async fn past(store: &Retention) -> Stream {
    add_web(store, SIZE).await.expect("a new machine");
    let stream = store.open_stream(request(1, 0, SIZE)).await.expect("nobody streams");
    put(&stream, 1, 0, vec![1; 64 << 10]).await.expect("taken");
    mark(&stream, 2).await;
    put(&stream, 3, 0, vec![2; 8192]).await.expect("taken");
    mark(&stream, 4).await;
    put(&stream, 5, 0, filled(3)).await.expect("taken");
    mark(&stream, 6).await;
    stream
}

/// Sequences of the points, oldest first.
fn points(store: &Retention) -> Vec<u64> {
    let query = landfall_retention::point::PointQuery::all(100);
    let points = store.points(&name("web"), None, &query).expect("it is there");
    points.iter().map(|point| point.point.sequence.number()).collect()
}

async fn fold(store: &Retention, floor: u64) {
    let at_once = |_: Duration| -> LocalBoxFuture<'static, ()> { Box::pin(std::future::ready(())) };
    let pace = FoldPace { bytes_per_second: None, sleep: &at_once };
    let trunk = store.trunk(&name("web")).expect("it is there");
    store.fold_to(trunk, Sequence::new(floor), &pace).await.expect("nobody holds it");
}

#[test]
fn moments_and_branches_share_what_lies_at_the_same_place() {
    with_store(&World::new(&mut Seed::new(1)), |store, _| {
        Box::pin(async move {
            past(&store).await;
            let points = points(&store);
            let at = |index: usize| format!("web@seq:{}", points[index]);
            let mut last = (0, 0);
            counted(&store, &mut last);
            for (moment, number, byte) in [(0, 0, 1), (1, 1, 2), (2, 0, 3), (0, 9, 1)] {
                check(&store, &at(moment), number, byte).await;
            }
            assert_eq!(counted(&store, &mut last), (0, 4), "nothing was there");
            // Block 1 lies in the journal, and where it was at the point before; block 9 in the image, at all of them.
            for (moment, number, byte) in [(0, 0, 1), (2, 1, 2), (2, 0, 3), (1, 9, 1), (2, 9, 1)] {
                check(&store, &at(moment), number, byte).await;
            }
            assert_eq!(counted(&store, &mut last), (5, 0));
            let latest = store.resolve(&moment("web@latest")).await.expect("a point");
            store.add_branch(&latest, name("b")).await.expect("a new branch");
            let branch = store.branch_disk(&name("web"), &name("b"), &name("os")).expect("there");
            counted(&store, &mut last);
            let byte = async |number: u64| branch.read(block(number)).await.expect("whole")[0];
            assert_eq!((byte(0).await, byte(1).await, byte(9).await), (3, 2, 1));
            assert_eq!(counted(&store, &mut last), (3, 0));
            let data = Buffer::copy_of(&filled(7));
            branch.write(ByteOffset::new(BLOCK), data, Durability::Durable).await.expect("space");
            assert_eq!((byte(0).await, byte(1).await, byte(1).await), (3, 7, 7));
            assert_eq!(counted(&store, &mut last), (2, 1), "written once, read once");
            check(&store, "web@latest", 1, 2).await;
        })
    });
}

#[test]
fn what_a_fold_writes_to_an_image_is_read_from_then_on() {
    with_store(&World::new(&mut Seed::new(2)), |store, _| {
        Box::pin(async move {
            past(&store).await;
            let points = points(&store);
            let oldest = format!("web@seq:{}", points[0]);
            for number in 0..3 {
                check(&store, &oldest, number, 1).await;
            }
            fold(&store, points[1]).await;
            let folded = format!("web@seq:{}", points[1]);
            for (number, byte) in [(0, 2), (1, 2), (2, 1)] {
                check(&store, &folded, number, byte).await;
            }
            fold(&store, points[2]).await;
            for (number, byte) in [(0, 3), (1, 2), (2, 1)] {
                check(&store, "web@latest", number, byte).await;
            }
        })
    });
}

#[test]
fn long_reads_pass_by() {
    with_store(&World::new(&mut Seed::new(3)), |store, _| {
        Box::pin(async move {
            past(&store).await;
            let before = store.read_cache();
            let whole = ByteRange::up_to(SIZE);
            read(&store, "web@latest", whole).await.expect("whole");
            assert_eq!(store.read_cache(), before);
            // The longest that is kept; the image holds its zeroes, too.
            read(&store, "web@latest", ByteRange::up_to(128 << 10)).await.expect("whole");
            assert_eq!(store.read_cache().bytes - before.bytes, 128 << 10);
        })
    });
}

#[test]
fn what_rots_behind_it_is_sent_again_by_its_source() {
    let world = World::new(&mut Seed::new(6));
    let folder = world.folder.clone();
    with_store(&world, |store, _| {
        Box::pin(async move {
            drop(past(&store).await);
            let first = ByteRange::up_to(HASH_BLOCK_BYTES);
            let before = read(&store, "web@latest", first).await.expect("whole");
            folder.corrupt(IMAGE, 9 * BLOCK + 5, 1);
            let after = read(&store, "web@latest", first).await.expect("in memory");
            assert!(after == before && store.read_cache().hits == 1);
            let stream = store.open_stream(request(1, 0, SIZE)).await.expect("nobody streams");
            let disk = stream.disks()[0].id;
            let hashes = stream.hashes(disk, first).await.expect("it is a range");
            assert!(matches!(hashes[..], [BlockHash::Unknown]), "{hashes:?}");
        })
    });
}

#[test]
fn what_nobody_can_prove_is_not_kept() {
    let world = World::new(&mut Seed::new(7));
    with_store(&world, |store, _| Box::pin(async move { drop(past(&store).await) }));
    let files = world.folder.files();
    let hashes = files.into_iter().find(|path| path.ends_with("1.hashes")).expect("one");
    let folder = world.folder.clone();
    run(&mut Seed::new(1), |_| async move { folder.remove(&hashes).await.expect("removed") });
    with_store(&world, |store, _| {
        Box::pin(async move {
            for _ in 0..2 {
                check(&store, "web@latest", 9, 1).await;
            }
            assert_eq!((store.read_cache().hits, store.read_cache().bytes), (0, 0), "of the image");
            for _ in 0..2 {
                check(&store, "web@latest", 0, 3).await;
            }
            assert_eq!((store.read_cache().hits, store.read_cache().bytes), (1, BLOCK));
        })
    });
}

#[test]
fn a_destroyed_key_takes_what_it_opened_from_memory() {
    let wrap_with = Some(KeyEncryptionKey::new([9; 32].into()));
    let encryption = Encryption { wrap_with, earlier: Vec::new() };
    let settings = Settings { encryption, ..World::settings() };
    with_settings(&World::new(&mut Seed::new(4)), settings, |store, _| {
        Box::pin(async move {
            drop(past(&store).await);
            let latest = store.resolve(&moment("web@latest")).await.expect("a point");
            let view = store.view(&latest, &name("os")).expect("a disk");
            for _ in 0..2 {
                assert_eq!(view.read(block(0)).await.expect("whole")[0], 3);
            }
            assert!(store.read_cache().hits > 0);
            store.destroy_keys(&name("web")).await.expect("nobody replicates");
            let found = view.read(block(0)).await;
            assert!(matches!(found, Err(DiskError::Sealed { .. })), "{found:?}");
        })
    });
}

#[test]
fn without_memory_everything_is_read() {
    let settings = Settings { read_cache_bytes: 0, ..World::settings() };
    with_settings(&World::new(&mut Seed::new(5)), settings, |store, _| {
        Box::pin(async move {
            past(&store).await;
            for _ in 0..2 {
                check(&store, "web@latest", 0, 3).await;
            }
            assert_eq!(store.read_cache(), landfall_retention::ReadCacheStatus::default());
        })
    });
}
