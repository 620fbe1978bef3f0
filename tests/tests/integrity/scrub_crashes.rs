//! Power cuts while a scrub heals: at every flush, with torn and reordered writes. Nothing is lost by it, nothing wrong is served,
//! and the next scrub ends what was begun.

use super::scrub::{changed, in_journal, noise, scrub, scrub_with};
use super::*;
use landfall_retention::ScrubOrder;
use landfall_retention::index::{IndexBatch, IndexStore as _};

/// Blocks and what every point but the first holds there; the image has them, too.
fn written() -> Vec<(u64, Vec<u8>)> {
    vec![(5, noise(1)), (9, noise(2)), (320, vec![0; 4096]), (700, noise(3))]
}

/// Blocks of the image and of the journal, a header-less one among them, that a medium damaged; all of it is to be had elsewhere.
fn damaged(with_index: bool) -> World {
    let world = changed(&written());
    with_store(&world, |store, _| {
        Box::pin(async move {
            fold_to(&store, Sequence::new(6)).await;
            store.close().await.expect("closed");
        })
    });
    for block in [5, 320, 700] {
        world.folder.corrupt(IMAGE, block * BLOCK_SIZE + 9, 3);
    }
    // Of this block the image is good.
    let (path, at) = in_journal(&world, &noise(2));
    world.folder.corrupt(path, at + 100, 900);
    if with_index { world } else { world.without_index() }
}

/// Everything reads as it was, or is refused; gives how many blocks are.
async fn refused(store: &Retention) -> usize {
    let mut refused = 0;
    for (number, data) in written() {
        match read(store, "web@latest", block(number)).await {
            Ok(found) => assert_eq!(found, data, "block {number}"),
            Err(DiskError::Damaged { .. }) => refused += 1,
            Err(error) => panic!("block {number}: {error}"),
        }
    }
    refused
}

#[test]
fn every_power_cut_of_healing_leaves_what_was_and_the_next_scrub_heals_it() {
    let mut cut_off = 0;
    for seed in 0..6 {
        for flushes in 1.. {
            let world = damaged(seed % 2 == 0);
            let mut random = Seed::new(seed * 1000 + flushes);
            let folder = world.folder.clone();
            let ended = with_store(&world, move |store, _| {
                Box::pin(async move {
                    assert_eq!(refused(&store).await, 3, "the test damages nothing");
                    folder.crash_after_flushes(flushes);
                    let sleep =
                        |_| -> LocalBoxFuture<'static, ()> { Box::pin(std::future::ready(())) };
                    let pace = FoldPace { bytes_per_second: None, sleep: &sleep };
                    let order = ScrubOrder::all(None);
                    store.scrub(&order, &pace, &|_| true).await.is_ok()
                })
            });
            let world = world.crash(&mut random);
            with_store(&world, |store, _| {
                Box::pin(async move {
                    assert!(refused(&store).await <= 3);
                    let report = scrub(&store).await;
                    assert_eq!(report.damage, [], "seed {seed}, flush {flushes}");
                    assert_eq!(refused(&store).await, 0);
                    let report = scrub(&store).await;
                    assert_eq!((report.healed, report.index_healed), (vec![], 0));
                    assert_eq!(store.scrubbed().damage, []);
                })
            });
            if ended {
                assert!(flushes > 4, "an image and a segment are flushed each time");
                break;
            }
            cut_off += 1;
        }
    }
    assert!(cut_off > 24, "{cut_off}");
}

#[test]
fn every_power_cut_of_healing_the_index_leaves_it_to_be_healed() {
    for flushes in 1.. {
        let world = changed(&written());
        let mut batch = IndexBatch::default();
        batch.remove_range([1], [2]);
        world.index.write(batch).expect("in memory");
        world.index.flush().expect("in memory");
        let folder = world.folder.clone();
        let ended = with_store(&world, move |store, _| {
            Box::pin(async move {
                folder.crash_after_flushes(flushes);
                let sleep = |_| -> LocalBoxFuture<'static, ()> { Box::pin(std::future::ready(())) };
                let pace = FoldPace { bytes_per_second: None, sleep: &sleep };
                store.scrub(&ScrubOrder::all(None), &pace, &|_| true).await.is_ok()
            })
        });
        let world = world.crash(&mut Seed::new(flushes));
        with_store(&world, |store, _| {
            Box::pin(async move {
                scrub(&store).await;
                assert_eq!(refused(&store).await, 0);
                let order = ScrubOrder { heal: false, ..ScrubOrder::all(None) };
                assert_eq!(scrub_with(&store, &order, &|_| true).await.index_healed, 0);
            })
        });
        if ended {
            break;
        }
    }
}
