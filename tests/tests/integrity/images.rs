//! Images: every block that lies only there is checked by what was noted when it was written.

use super::*;

/// Blocks of the first and the second page of hashes, and the one that the disk's end cuts.
const HIT: [u64; 3] = [5, 700, SIZE / BLOCK_SIZE];

fn flip(world: &World, block: u64) {
    let last = (block * BLOCK_SIZE + 511).min(SIZE - 1);
    world.folder.corrupt(IMAGE, last, 1);
}

async fn verify(store: &Retention, at: &str, damaged: &[u64]) {
    for number in [0, 4, 5, 6, 699, 700, 701, SIZE / BLOCK_SIZE] {
        let found = read(store, at, block(number)).await;
        if damaged.contains(&number) {
            assert!(is_damaged(block(number), &found), "block {number} at {at}: {found:?}");
        } else {
            assert!(is_good(block(number), &found), "block {number} at {at}");
        }
    }
}

#[test]
fn a_flipped_byte_of_an_image_is_an_error_and_never_data() {
    for adopt in [false, true] {
        let world = seeded(adopt);
        HIT.iter().for_each(|hit| flip(&world, *hit));
        with_store(&world, |store, _| {
            Box::pin(async move {
                verify(&store, "web@latest", &HIT).await;
                let all = read(&store, "web@latest", ByteRange::up_to(SIZE)).await;
                assert!(is_damaged(block(HIT[0]), &all), "{all:?}");
            })
        });
        HIT.iter().for_each(|hit| flip(&world, *hit));
        with_store(&world, |store, _| {
            Box::pin(async move { verify(&store, "web@latest", &[]).await })
        });
    }
}

#[test]
fn the_next_pass_of_the_source_sends_damaged_blocks_and_a_fold_heals_the_image() {
    let world = seeded(false);
    HIT.iter().for_each(|hit| flip(&world, *hit));
    with_store(&world, |store, _| {
        Box::pin(async move {
            let stream = open(&store).await;
            let next = compare(&stream, 1).await;
            assert_eq!(next, 4, "three granules are sent and nothing else");
            let point = mark(&stream, next).await;
            verify(&store, "web@seq:1", &HIT).await;
            verify(&store, "web@latest", &[]).await;
            fold_to(&store, point.sequence).await;
            verify(&store, "web@latest", &[]).await;
            store.close().await.expect("closed");
        })
    });
    flip(&world, 700);
    with_store(&world, |store, _| {
        Box::pin(async move { verify(&store, "web@latest", &[700]).await })
    });
}

#[test]
fn without_block_hashes_an_image_is_taken_as_it_is() {
    let world = seeded(false);
    let hashes = world.folder.files().into_iter().find(|path| path.ends_with("1.hashes"));
    let hashes = hashes.expect("they are there");
    let folder = world.folder.clone();
    run(&mut Seed::new(1), |_| async move {
        use landfall_disks::file::Folder as _;
        folder.remove(&hashes).await.expect("removed");
    });
    with_store(&world, |store, _| Box::pin(async move { verify(&store, "web@latest", &[]).await }));
}
