//! Power cuts: at every flush of a fold, with torn and reordered writes and an index that forgets.

use super::past::*;
use landfall_disks::faults::Seed;
use landfall_tests::world::World;

const POINTS: usize = 6;
/// The point that history is to begin at.
const KEPT: usize = 3;

/// What a power cut left: nothing happened, or history begins at the new floor and the fold may be ended.
fn check_after(world: &World, points: &Points) -> bool {
    let start = points[KEPT].0;
    let begun = with_store(world, async |store, _| {
        // Whatever may be forgotten is.
        let gone = world.index.vanish(|_| true);
        let begun = store.history(&name("web")).expect("it is there").start.is_some();
        check(&store, points, if begun { start } else { 0 }).await;
        for (line, floor) in store.unfinished_folds() {
            assert_eq!((line, floor.number()), (trunk(&store), start));
        }
        fold(&store, start).await.expect("nothing fails any more");
        check(&store, points, start).await;
        check_images(&world.folder, &points[KEPT].1).await;
        assert!(gone + world.index.vanish(|_| true) > 0, "nothing was forgotten");
        check(&store, points, start).await;
        begun
    });
    begun.expect("no second power cut")
}

#[test]
fn every_power_cut_of_a_fold_leaves_every_point_and_a_fold_that_can_be_ended() {
    let mut seen = [0_u32; 2];
    for seed in 0..6 {
        for flushes in 1.. {
            let (world, points) = past(seed, POINTS);
            let mut random = Seed::new(seed * 1000 + flushes);
            let ended = with_store(&world, async |store, _| {
                world.folder.crash_after_flushes(flushes);
                fold(&store, points[KEPT].0).await.is_ok()
            });
            let world = world.crash(&mut random);
            let world = if random.chance(1, 3) { world.without_index() } else { world };
            let begun = check_after(&world, &points);
            seen[usize::from(begun)] += 1;
            let world = world.crash(&mut random).without_index();
            with_store(&world, async |store, _| check(&store, &points, points[KEPT].0).await);
            if ended == Some(true) {
                assert!(begun && flushes > 3, "a fold of two disks flushes four times at least");
                break;
            }
        }
    }
    assert!(seen.iter().all(|count| *count > 0), "{seen:?}");
}

#[test]
fn a_fold_cut_off_is_overtaken_by_a_later_one() {
    for seed in 0..8 {
        let (world, points) = past(seed, POINTS);
        with_store(&world, async |store, _| {
            world.folder.crash_after_flushes(2);
            fold(&store, points[2].0).await.expect_err("the power was cut");
        });
        let world = world.crash(&mut Seed::new(seed));
        with_store(&world, async |store, _| {
            let later = points[4].0;
            fold(&store, later).await.expect("nothing fails any more");
            check(&store, &points, later).await;
            check_images(&world.folder, &points[4].1).await;
        });
    }
}
