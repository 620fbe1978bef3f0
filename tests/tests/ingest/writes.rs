//! Writes: durable when answered, and not kept twice.

use super::*;
use landfall_disks::faults::Seed;
use landfall_retention::StreamState;
use landfall_tests::web::with_store;
use landfall_tests::world::World;

#[test]
fn a_first_copy_is_there_after_a_power_cut_without_a_point() {
    let mut seed = Seed::new(1);
    let world = World::new(&mut seed);
    with_store(&world, |store, _| {
        Box::pin(async move {
            let disk = fed_web(&store).await;
            write(&disk, 4096, &[7; 8192]).await.expect("taken");
            write(&disk, SIZE - 700, &[9; 700]).await.expect("taken");
            let state = store.streams()[0].state.expect("it was opened").state;
            assert_eq!(state, StreamState::Seed);
            // Nobody says anything any more.
            std::mem::forget(disk);
        })
    });
    let world = world.crash(&mut seed);
    with_store(&world, |store, _| {
        Box::pin(async move {
            let disk = enter(&store, "os").await;
            let mut expected = vec![0; usize::try_from(SIZE).expect("small")];
            expected[4096..12_288].fill(7);
            expected[usize::try_from(SIZE).expect("small") - 700..].fill(9);
            assert!(read(&*disk).await == expected, "an answered write is gone");
            // The client replays what was in flight, and goes on.
            write(&disk, 100, &[5; 50]).await.expect("taken");
            expected[100..150].fill(5);
            let point = leave(&disk).await.expect("a point").expect("it is due");
            assert_eq!((point.sequence.number(), points(&store)), (1, 1));
            assert!(at(&store, "@latest", "os").await == expected);
            let state = store.streams()[0].state.expect("it was opened").state;
            assert_eq!(state, StreamState::Catchup);
        })
    });
}

#[test]
fn what_is_there_already_costs_nothing() {
    let world = World::new(&mut Seed::new(2));
    with_store(&world, |store, _| {
        Box::pin(async move {
            add_web(&store, &["os"], IngestMode::Sync).await;
            let mut content: Vec<u8> = (0..SIZE).map(|at| (at % 251) as u8 | 1).collect();
            content[40_960..81_920].fill(0);
            let disk = enter(&store, "os").await;
            write(&disk, 0, &content).await.expect("taken");
            zero(&disk, 40_960, 40_960).await.expect("taken");
            leave(&disk).await.expect("a point");
            let disk = enter(&store, "os").await;
            let before = head(&store);
            // Everything again, as a mirror that begins anew does: from the image, in pieces of any size.
            for start in (0..SIZE).step_by(100_000) {
                let end = (start + 100_000).min(SIZE);
                let piece = &content[start as usize..end as usize];
                write(&disk, start, piece).await.expect("taken");
            }
            zero(&disk, 40_960, 40_960).await.expect("taken");
            disk.discard(range(45_056, 8192)).await.expect("taken");
            assert_eq!(head(&store), before, "a record of what was there");
            // One block in the middle of many: it alone is written, and found in the journal from now on.
            content[200_000] ^= 1;
            write(&disk, 102_400, &content[102_400..307_200]).await.expect("taken");
            assert_eq!(head(&store), before + 1);
            write(&disk, 102_400, &content[102_400..307_200]).await.expect("taken");
            content[SIZE as usize - 1] ^= 1;
            write(&disk, SIZE - 512, &content[SIZE as usize - 512..]).await.expect("taken");
            write(&disk, SIZE - 512, &content[SIZE as usize - 512..]).await.expect("taken");
            assert_eq!(head(&store), before + 2);
            leave(&disk).await.expect("a point");
            assert!(at(&store, "@latest", "os").await == content);
            let disk = name("os");
            let (from, to) = (moment_of(&store, "web@seq:1").await, moment_of(&store, "web").await);
            let changes = store.changes(from, to, &disk).expect("two moments");
            let page = changes.page(ByteOffset::new(0), 10).await.expect("a page");
            let bytes: u64 = page.ranges.iter().map(|one| one.range.length()).sum();
            assert_eq!(bytes, 4096 + 1536, "two blocks, the last of them cut");
        })
    });
}

async fn moment_of(store: &Retention, text: &str) -> landfall_retention::Moment {
    store.resolve(&moment(text)).await.expect(text)
}

#[test]
fn zeroing_everything_costs_a_record() {
    let world = World::new(&mut Seed::new(3));
    with_store(&world, |store, _| {
        Box::pin(async move {
            let disk = fed_web(&store).await;
            write(&disk, 0, &vec![3; SIZE as usize]).await.expect("taken");
            leave(&disk).await.expect("a point");
            let disk = enter(&store, "os").await;
            let before = head(&store);
            zero(&disk, 0, SIZE).await.expect("taken");
            zero(&disk, 0, SIZE).await.expect("taken");
            disk.discard(ByteRange::up_to(SIZE)).await.expect("taken");
            write(&disk, 8192, &[0; 65_536]).await.expect("taken");
            assert_eq!(head(&store), before + 1);
            leave(&disk).await.expect("a point");
            assert!(at(&store, "@latest", "os").await.iter().all(|byte| *byte == 0));
            assert!(at(&store, "@seq:1", "os").await.iter().all(|byte| *byte == 3));
        })
    });
}

#[test]
fn a_full_journal_refuses_and_the_next_write_may_succeed() {
    let world = World::new(&mut Seed::new(4));
    let folder = world.folder.clone();
    with_store(&world, |store, _| {
        Box::pin(async move {
            add_web(&store, &["os"], IngestMode::Ordered).await;
            let disk = enter(&store, "os").await;
            write(&disk, 0, &vec![1; SIZE as usize]).await.expect("taken");
            store.mark_fed(&name("web"), CRASH, None).await.expect("a point");
            assert!(status(&store).in_order);
            folder.set_capacity(Some(0));
            let mut refused = None;
            for at in 0..200 {
                let written = write(&disk, at * 4096, &[2; 4096]).await;
                refused = written.err().map(|error| (at, error));
                if refused.is_some() {
                    break;
                }
            }
            let Some((refused_at, DiskError::NoSpace(_))) = refused else {
                panic!("{refused:?} from a full journal");
            };
            assert!(!status(&store).in_order, "order outlived a write that was refused");
            let again = write(&disk, refused_at * 4096, &[2; 4096]).await;
            assert!(matches!(again, Err(DiskError::NoSpace(_))), "{again:?}");
            // Leaving like this, in good order and after a flush, makes no point.
            assert!(leave(&disk).await.expect("it leaves").is_none());
            assert_eq!(points(&store), 1);
            folder.set_capacity(None);
            let disk = enter(&store, "os").await;
            write(&disk, refused_at * 4096, &[2; 4096]).await.expect("taken");
            assert!(leave(&disk).await.expect("it leaves").is_some());
            let content = at(&store, "@latest", "os").await;
            let twos = content.iter().filter(|byte| **byte == 2).count();
            assert_eq!(twos as u64, (refused_at + 1) * 4096);
        })
    });
}

use landfall_retention::point::PointKind;

const CRASH: PointKind = PointKind::Crash;
