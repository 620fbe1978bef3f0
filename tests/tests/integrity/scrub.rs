//! Scrub: what is damaged is found, said, healed where its content is to be had, and remembered where not.

use super::*;
use landfall_disks::faults::FaultFolder;
use landfall_disks::file::{Caching, Folder as _, OpenMode};
use landfall_retention::index::IndexBatch;
use landfall_retention::index::IndexStore as _;
use landfall_retention::manifest::integrity::{DamagedPlace, ScrubPosition};
use landfall_retention::{
    ChainBreak, HeadVerdict, HealedFrom, ScrubOrder, ScrubProgress, ScrubReport,
};
use std::path::PathBuf;

pub(super) async fn scrub_with(
    store: &Arc<Retention>,
    order: &ScrubOrder,
    watch: &dyn Fn(&ScrubProgress) -> bool,
) -> ScrubReport {
    let sleep = |_| -> LocalBoxFuture<'static, ()> { Box::pin(std::future::ready(())) };
    let pace = FoldPace { bytes_per_second: None, sleep: &sleep };
    store.scrub(order, &pace, watch).await.expect("it can go on")
}

pub(super) async fn scrub(store: &Arc<Retention>) -> ScrubReport {
    let report = scrub_with(store, &ScrubOrder::all(None), &|_| true).await;
    assert!(report.complete);
    assert_eq!(report.index_dangling, 0);
    report
}

/// A block that is nowhere else.
pub(super) fn noise(byte: u8) -> Vec<u8> {
    let mut block = vec![byte; index(BLOCK_SIZE)];
    block[17] = 99;
    block
}

/// Where a block lies in the journal.
pub(super) fn in_journal(world: &World, wanted: &[u8]) -> (PathBuf, u64) {
    let (folder, wanted) = (world.folder.clone(), wanted.to_vec());
    run(&mut Seed::new(1), |_| async move { find(&folder, &wanted).await })
}

async fn find(folder: &FaultFolder, wanted: &[u8]) -> (PathBuf, u64) {
    for path in folder.files() {
        if path.extension().is_none_or(|extension| extension != "seg") {
            continue;
        }
        let file = folder.open(&path, OpenMode::Read, Caching::Buffered).await.expect("there");
        let length = index(file.length().await.expect("known"));
        let bytes = file.read_at(0, Buffer::zeroed(length)).await.expect("read");
        if let Some(block) = bytes.chunks(4096).position(|block| block == wanted) {
            return (path, block as u64 * BLOCK_SIZE);
        }
    }
    panic!("it is nowhere")
}

/// [`seeded`], then a point with other blocks.
pub(super) fn changed(blocks: &[(u64, Vec<u8>)]) -> World {
    let world = seeded(false);
    let blocks = blocks.to_vec();
    with_store(&world, |store, _| {
        Box::pin(async move {
            let stream = open(&store).await;
            let mut at = 1;
            for (number, data) in blocks {
                put(&stream, at, number * BLOCK_SIZE, &data).await;
                at += 1;
            }
            mark(&stream, at).await;
            store.close().await.expect("closed");
        })
    });
    world
}

#[test]
fn damage_of_an_image_is_said_with_the_points_it_touches_and_remembered() {
    let world = changed(&[(9, noise(1))]);
    let at = |block: u64| block * BLOCK_SIZE + 5;
    for block in [5, 9] {
        world.folder.corrupt(IMAGE, at(block), 1);
    }
    with_store(&world, |store, _| {
        Box::pin(async move {
            let report = scrub(&store).await;
            assert_eq!(report.healed, []);
            let blocks: Vec<_> =
                report.damage.iter().filter_map(|damage| damage.place.range()).collect();
            assert_eq!(blocks, [block(5), block(9)]);
            let everywhere = store.touched(report.damage[0].place).await.expect("known");
            assert_eq!((everywhere.points, everywhere.head), (2, true));
            assert_eq!(everywhere.disk, Some(name("os")));
            // Block 9 was written anew since: only the first point reads it from the image.
            let old = store.touched(report.damage[1].place).await.expect("known");
            assert_eq!((old.points, old.head), (1, false));
            assert_eq!(old.newest.map(|point| point.sequence), Some(Sequence::new(1)));
        })
    });
    // It is still known after a restart, and gone once the medium is well.
    world.folder.corrupt(IMAGE, at(5), 1);
    with_store(&world, |store, _| {
        Box::pin(async move {
            assert_eq!(store.scrubbed().damage.len(), 2);
            let report = scrub(&store).await;
            assert_eq!(report.damage.len(), 1);
            assert_eq!(report.healed.len(), 1);
            assert_eq!(report.healed[0].from, HealedFrom::Rewritten);
            assert_eq!(store.scrubbed().damage.len(), 1);
            assert_eq!(store.scrubbed().position, ScrubPosition::Done);
        })
    });
}

#[test]
fn an_image_is_healed_by_what_the_journal_still_has() {
    let world = changed(&[(5, noise(1)), (700, noise(2))]);
    with_store(&world, |store, _| {
        Box::pin(async move {
            fold_to(&store, Sequence::new(4)).await;
            store.close().await.expect("closed");
        })
    });
    for block in [5, 700] {
        world.folder.corrupt(IMAGE, block * BLOCK_SIZE + 9, 3);
    }
    with_store(&world, |store, _| {
        Box::pin(async move {
            assert!(is_damaged(block(5), &read(&store, "web@latest", block(5)).await));
            let report = scrub(&store).await;
            assert_eq!(report.damage, []);
            let from: Vec<_> = report.healed.iter().map(|healed| healed.from).collect();
            assert_eq!(from, [HealedFrom::Journal, HealedFrom::Journal]);
            let found = read(&store, "web@latest", block(5)).await.expect("healed");
            assert_eq!(found, noise(1));
            assert_eq!(read(&store, "web@latest", block(700)).await.expect("healed"), noise(2));
            assert_eq!(scrub(&store).await.healed, []);
        })
    });
}

#[test]
fn the_journal_is_healed_by_the_image_if_that_has_the_same_bytes() {
    let same = content()[index(5 * BLOCK_SIZE)..index(6 * BLOCK_SIZE)].to_vec();
    let world = changed(&[(5, same.clone()), (7, noise(3))]);
    for damaged in [same, noise(3)] {
        let (path, at) = in_journal(&world, &damaged);
        world.folder.corrupt(path, at + 100, 1);
    }
    with_store(&world, |store, _| {
        Box::pin(async move {
            let report = scrub(&store).await;
            assert_eq!(report.healed.len(), 1);
            assert_eq!(report.healed[0].from, HealedFrom::Image);
            assert!(is_good(block(5), &read(&store, "web@latest", block(5)).await));
            // The other one is nowhere else: the newer point cannot read it, the older can.
            let [damage] = report.damage[..] else { panic!("{:?}", report.damage) };
            assert!(matches!(damage.place, DamagedPlace::Version { .. }), "{damage:?}");
            let touched = store.touched(damage.place).await.expect("known");
            assert_eq!((touched.range, touched.points, touched.head), (Some(block(7)), 1, true));
            assert!(is_damaged(block(7), &read(&store, "web@latest", block(7)).await));
            assert!(is_good(block(7), &read(&store, "web@seq:1", block(7)).await));
            // A pass of the source makes new points whole, and the old one stays what it is.
            let stream = open(&store).await;
            let next = compare(&stream, 1).await;
            mark(&stream, next).await;
            assert!(is_good(block(7), &read(&store, "web@latest", block(7)).await));
            let report = scrub(&store).await;
            let touched = store.touched(report.damage[0].place).await.expect("known");
            assert_eq!((touched.points, touched.head), (1, false));
        })
    });
}

#[test]
fn an_index_that_lost_entries_gets_them_from_the_journal() {
    let world = changed(&[(5, noise(1)), (32, vec![7; 64 << 10])]);
    let mut batch = IndexBatch::default();
    batch.remove_range([1], [2]);
    world.index.write(batch).expect("in memory");
    with_store(&world, |store, _| {
        Box::pin(async move {
            let lost = read(&store, "web@latest", block(5)).await.expect("the image");
            assert_ne!(lost, noise(1), "the test takes nothing away");
            let order = ScrubOrder { heal: false, ..ScrubOrder::all(None) };
            assert_eq!(scrub_with(&store, &order, &|_| true).await.index_healed, 2);
            assert_eq!(scrub(&store).await.index_healed, 2);
            assert_eq!(read(&store, "web@latest", block(33)).await.expect("there"), [7; 4096]);
            assert_eq!(scrub(&store).await.index_healed, 0);
        })
    });
}

#[test]
fn what_is_not_known_of_an_image_becomes_known() {
    let world = seeded(false);
    let folder = world.folder.clone();
    let hashes = folder.files().into_iter().find(|path| path.ends_with("1.hashes"));
    run(&mut Seed::new(1), |_| async move {
        folder.remove(&hashes.expect("there")).await.expect("removed");
    });
    with_store(&world, |store, _| {
        Box::pin(async move {
            assert!(store.has_unknown_images());
            let report = scrub(&store).await;
            assert_eq!((report.noted_bytes, report.damage), (SIZE, vec![]));
            assert!(!store.has_unknown_images());
            assert_eq!(scrub(&store).await.noted_bytes, 0);
        })
    });
    for block in [0, 700, SIZE / BLOCK_SIZE] {
        world.folder.corrupt(IMAGE, block * BLOCK_SIZE, 1);
    }
    with_store(&world, |store, _| {
        Box::pin(async move {
            for number in [0, 700, SIZE / BLOCK_SIZE] {
                assert!(is_damaged(block(number), &read(&store, "web@seq:1", block(number)).await));
            }
        })
    });
}

#[test]
fn a_round_that_is_stopped_goes_on_after_a_restart() {
    let world = changed(&[(5, noise(1))]);
    with_store(&world, |store, _| {
        Box::pin(async move {
            let stop_in_the_image = |progress: &ScrubProgress| match progress.position {
                ScrubPosition::Image(_, at) => at.bytes() == 0,
                _ => true,
            };
            let order = ScrubOrder::all(None);
            let report = scrub_with(&store, &order, &stop_in_the_image).await;
            assert!(!report.complete);
            let position = store.scrubbed().position;
            assert!(
                matches!(position, ScrubPosition::Image(_, at) if at.bytes() > 0),
                "{position:?}"
            );
            assert_eq!(store.scrubbed().ended, Timestamp::default());
        })
    });
    with_store(&world, |store, _| {
        Box::pin(async move {
            let report = scrub(&store).await;
            assert_eq!(report.journal_bytes, 0, "the journal was looked at before");
            assert!(report.image_bytes < SIZE);
            assert_eq!(store.scrubbed().position, ScrubPosition::Done);
            assert_ne!(store.scrubbed().ended, Timestamp::default());
        })
    });
}

#[test]
fn a_chain_is_held_against_heads_and_its_holes_are_named() {
    let world = changed(&[(5, noise(1)), (6, noise(2)), (7, noise(3))]);
    let (old, new) = with_store(&world, |store, _| {
        Box::pin(async move {
            let old = store.heads(None).expect("there").remove(0);
            let stream = open(&store).await;
            put(&stream, 1, 8 * BLOCK_SIZE, &noise(4)).await;
            mark(&stream, 2).await;
            (old, store.heads(None).expect("there").remove(0))
        })
    });
    let heads = vec![
        (old.line, old.sequence, old.chain),
        (new.line, new.sequence, old.chain),
        (new.line, new.sequence.next(), new.chain),
    ];
    let order = ScrubOrder::chains(None, heads);
    with_store(&world, |store, _| {
        let order = order.clone();
        Box::pin(async move {
            let report = scrub_with(&store, &order, &|_| true).await;
            let [chain] = &report.chains[..] else { panic!("{:?}", report.chains) };
            assert_eq!((&chain.machine, &chain.breaks[..]), (&name("web"), &[][..]));
            let beyond = HeadVerdict::Beyond { last: new.sequence };
            let verdicts: Vec<_> = chain.heads.iter().map(|(_, verdict)| *verdict).collect();
            assert_eq!(verdicts, [HeadVerdict::Same, HeadVerdict::Differs, beyond]);
        })
    });
    // The head of a record in the middle; its body follows it.
    let (path, at) = in_journal(&world, &noise(2));
    world.folder.corrupt(path, at - BLOCK_SIZE + 30, 1);
    with_store(&world, |store, _| {
        Box::pin(async move {
            let report = scrub_with(&store, &order, &|_| true).await;
            let lost = Sequence::new(3);
            let missing = ChainBreak::Missing { first: lost, last: lost };
            assert_eq!(report.chains[0].breaks, [missing]);
            assert!(matches!(report.damage[0].place, DamagedPlace::Records { .. }));
        })
    });
}

/// What is damaged, as blocks.
fn said(report: &ScrubReport) -> Vec<ByteRange> {
    report.damage.iter().filter_map(|damage| damage.place.range()).collect()
}

#[test]
fn the_last_record_of_an_open_segment_is_no_torn_tail() {
    let world = seeded(false);
    let folder = world.folder.clone();
    with_store(&world, |store, _| {
        Box::pin(async move {
            let stream = open(&store).await;
            put(&stream, 1, 9 * BLOCK_SIZE, &noise(1)).await;
            assert_eq!(scrub(&store).await.damage, []);
            let (path, at) = find(&folder, &noise(1)).await;
            folder.corrupt(&path, at - BLOCK_SIZE + 30, 1);
            let report = scrub(&store).await;
            let [damage] = &report.damage[..] else { panic!("{:?}", report.damage) };
            assert!(
                matches!(damage.place, DamagedPlace::Records { start, .. } if start == at - 4096)
            );
            folder.corrupt(&path, at - BLOCK_SIZE + 30, 1);
            // The same of a body.
            folder.corrupt(&path, at, 1);
            let report = scrub(&store).await;
            assert!(matches!(report.damage[0].place, DamagedPlace::Version { .. }));
            assert_eq!(said(&report), [block(9)]);
            folder.corrupt(&path, at, 1);
            assert_eq!(scrub(&store).await.damage, []);
        })
    });
}

#[test]
fn a_version_that_the_index_has_where_nothing_is_is_damage() {
    use landfall_retention::ids::{DiskId, SegmentId};
    use landfall_retention::index::block_key::put_data;
    let world = changed(&[(5, noise(1))]);
    let index = Arc::clone(&world.index);
    with_store(&world, |store, _| {
        Box::pin(async move {
            let line = store.heads(None).expect("there")[0].line;
            let mut batch = IndexBatch::default();
            let version = (line, DiskId::new(1), Sequence::new(3));
            put_data(&mut batch, version, block(11), (SegmentId::new(999), 7), &[77]);
            index.write(batch).expect("in memory");
            let report = scrub_with(&store, &ScrubOrder::all(None), &|_| true).await;
            assert_eq!((report.index_dangling, said(&report)), (1, vec![block(11)]));
            let touched = store.touched(report.damage[0].place).await.expect("known");
            assert_eq!((touched.points, touched.head), (1, true));
            assert!(is_damaged(block(11), &read(&store, "web@latest", block(11)).await));
            assert_eq!(store.scrubbed().damage.len(), 1, "it is remembered");
            // A pass of the source hides it, and then nobody sees it any more.
            let stream = open(&store).await;
            let next = compare(&stream, 1).await;
            mark(&stream, next).await;
            assert!(is_good(block(11), &read(&store, "web@latest", block(11)).await));
        })
    });
}

#[test]
fn a_read_that_fails_once_is_no_damage() {
    use landfall_disks::faults::Fault;
    let world = changed(&[(5, noise(1))]);
    let folder = world.folder.clone();
    with_store(&world, |store, _| {
        Box::pin(async move {
            for _ in 0..3 {
                folder.fail_next(Fault::Read);
                let report = scrub(&store).await;
                assert_eq!((report.damage, report.healed), (vec![], vec![]));
            }
        })
    });
}

#[test]
fn an_image_that_is_smaller_than_its_disk_is_looked_at_up_to_its_end() {
    let world = seeded(false);
    with_store(&world, |store, _| {
        Box::pin(async move {
            let grown = store.grow_disk(&name("web"), &name("os"), SIZE + (1 << 20)).await;
            assert_eq!(grown.expect("nobody streams").to_bytes, SIZE + (1 << 20));
            let report = scrub(&store).await;
            assert_eq!((report.image_bytes, report.damage), (SIZE, vec![]));
        })
    });
    world.folder.corrupt(IMAGE, SIZE - 1, 1);
    with_store(&world, |store, _| {
        Box::pin(async move {
            assert_eq!(said(&scrub(&store).await), [block(SIZE / BLOCK_SIZE)]);
        })
    });
}

#[test]
fn a_machine_that_was_looked_at_is_noted() {
    let world = changed(&[(5, noise(1))]);
    with_store(&world, |store, _| {
        Box::pin(async move {
            assert_eq!(store.machines_scrubbed(), []);
            let stopped = scrub_with(&store, &ScrubOrder::all(None), &|_| false).await;
            assert!(!stopped.complete && store.machines_scrubbed().is_empty());
            scrub_with(&store, &ScrubOrder::all(Some(name("web"))), &|_| true).await;
            let [(machine, first)] = &store.machines_scrubbed()[..] else { panic!("not noted") };
            assert_eq!((machine, store.scrubbed().ended), (&name("web"), Timestamp::default()));
            scrub(&store).await;
            assert!(store.machines_scrubbed()[0].1 > *first);
            store.close().await.expect("closed");
        })
    });
    with_store(&world, |store, _| {
        Box::pin(async move { assert_eq!(store.machines_scrubbed().len(), 1) })
    });
}
