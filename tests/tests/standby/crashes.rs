//! Power cuts at every flush: what a sidecar says is true, and the standby goes on from there.

use super::keeping::*;
use super::past::*;
use landfall_disks::faults::Seed;
use landfall_disks::image::Format;
use landfall_retention::standby::sidecar::Holds;
use landfall_tests::world::World;

const POINTS: usize = 5;

/// How often files were found whole, between and unknown.
type Seen = [u32; 3];

async fn note(world: &World, points: &Points, format: Format, seen: &mut Seen) {
    for found in truth(world, points, format).await.into_iter().flatten() {
        seen[match found.holds {
            Holds::Moment { .. } => 0,
            Holds::Between { .. } => 1,
            Holds::Unknown { .. } => 2,
        }] += 1;
    }
}

#[test]
fn every_power_cut_leaves_sidecars_that_are_true_and_a_standby_that_goes_on() {
    for format in FORMATS {
        let mut seen = Seen::default();
        let seeds = if format == Format::Raw { 3 } else { 1 };
        for seed in 0..seeds {
            for flushes in 1.. {
                let (world, points) = with_standby((seed, POINTS), format);
                let mut random = Seed::new(seed * 1000 + flushes);
                let ended = with_store(&world, async |store, _| {
                    bring_to(&store, &world, points[1].0).await;
                    world.folder.crash_after_flushes(flushes);
                    bring(&store, &world, &format!("web@seq:{}", points[3].0), false).await.is_ok()
                });
                let world = world.crash(&mut random);
                with_store(&world, async |store, _| {
                    note(&world, &points, format, &mut seen).await;
                    // To the point it was on its way to, a later one, or back.
                    let to = *random.pick(&[3, 4, 5, 2, 1, 0]);
                    let report = bring_to(&store, &world, points[to].0).await;
                    assert!(report.made.is_empty(), "the files are there");
                    check_at(&world, &points, to, format).await;
                    if to >= 3 {
                        assert_eq!(report.compared, [], "history has all that is needed");
                    }
                });
                if ended == Some(true) {
                    assert!(flushes > 8, "a record, two sidecars twice, folders and two files");
                    break;
                }
            }
        }
        assert!(seen[0] > 4 && seen[1] > 4 && seen[2] == 0, "{format}: {seen:?}");
    }
}

#[test]
fn every_power_cut_of_the_first_copy_leaves_what_can_be_gone_on_with() {
    for format in FORMATS {
        let mut seen = Seen::default();
        for flushes in 1.. {
            let (world, points) = with_standby((7, POINTS), format);
            let mut random = Seed::new(flushes);
            let at = format!("web@seq:{}", points[2].0);
            let ended = with_store(&world, async |store, _| {
                world.folder.crash_after_flushes(flushes);
                bring(&store, &world, &at, false).await.is_ok()
            });
            let world = world.crash(&mut random);
            with_store(&world, async |store, _| {
                note(&world, &points, format, &mut seen).await;
                bring_to(&store, &world, points[4].0).await;
                check_at(&world, &points, 4, format).await;
            });
            if ended == Some(true) {
                break;
            }
        }
        assert!(seen[0] > 0 && seen[1] == 0 && seen[2] > 4, "{format}: {seen:?}");
    }
}

#[test]
fn power_cuts_one_after_another_lose_nothing_of_the_way() {
    for seed in 0..40 {
        let (mut world, points) = with_standby((seed, POINTS), Format::Raw);
        let mut random = Seed::new(seed);
        with_store(&world, async |store, _| bring_to(&store, &world, points[2].0).await);
        for _ in 0..6 {
            let to = random.index(points.len());
            let at = format!("web@seq:{}", points[to].0);
            with_store(&world, async |store, _| {
                world.folder.crash_after_flushes(1 + random.below(9));
                // It comes to its end or does not.
                let _ = bring(&store, &world, &at, false).await;
            });
            world = world.crash(&mut random);
            with_store(&world, async |_, _| truth(&world, &points, Format::Raw).await);
        }
        let to = random.index(points.len());
        with_store(&world, async |store, _| {
            bring_to(&store, &world, points[to].0).await;
            check_at(&world, &points, to, Format::Raw).await;
        });
    }
}
