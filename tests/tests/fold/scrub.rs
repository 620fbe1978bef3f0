//! Scrub where history goes: segments that compaction made, and history that is thinned, folded, forgotten and compacted while it
//! is looked at.

use super::compact::{compact, drop_most, segment_files, thin};
use super::past::*;
use futures_util::FutureExt;
use futures_util::future::join;
use landfall_disks::faults::Seed;
use landfall_disks::file::{Caching, Folder as _, OpenMode};
use landfall_disks::{BLOCK_SIZE, Buffer};
use landfall_retention::manifest::integrity::DamagedPlace;
use landfall_retention::{
    ChainBreak, FoldPace, HealedFrom, Retention, ScrubOrder, ScrubProgress, ScrubReport,
};
use landfall_tests::world::World;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const POINTS: usize = 24;

pub(crate) async fn scrub_watched(
    store: &Arc<Retention>,
    watch: &dyn Fn(&ScrubProgress) -> bool,
) -> ScrubReport {
    let sleep = |_| std::future::ready(()).boxed_local();
    let pace = FoldPace { bytes_per_second: None, sleep: &sleep };
    let heads = store.heads(None).expect("all machines").into_iter();
    let heads = heads.map(|head| (head.line, head.sequence, head.chain)).collect();
    let order = ScrubOrder { heads, ..ScrubOrder::all(None) };
    store.scrub(&order, &pace, watch).await.expect("nothing fails")
}

pub(crate) async fn scrub(store: &Arc<Retention>) -> ScrubReport {
    scrub_watched(store, &|_| true).await
}

/// That a scrub found nothing.
pub(crate) fn check_sound(report: &ScrubReport) {
    assert!(report.complete);
    assert_eq!((&report.damage, &report.healed), (&vec![], &vec![]));
    assert_eq!((report.index_healed, report.index_dangling), (0, 0));
    for chain in &report.chains {
        assert_eq!(chain.breaks, Vec::<ChainBreak>::new());
    }
}

/// A machine of whose history most was dropped, and what was left compacted.
async fn compacted(world: &World, store: &Arc<Retention>, points: &Points) -> Points {
    let points = thin(world, store, points).await;
    compact(store).await;
    points
}

pub(crate) async fn bytes_of(world: &World, path: &Path) -> Vec<u8> {
    let file = world.folder.open(path, OpenMode::Read, Caching::Buffered).await.expect("there");
    let length = usize::try_from(file.length().await.expect("known")).expect("small");
    file.read_at(0, Buffer::zeroed(length)).await.expect("read").to_vec()
}

/// Files of compacted segments, and where their first table starts.
async fn copies(world: &World) -> Vec<(PathBuf, u64, u64)> {
    let mut found = Vec::new();
    for path in segment_files(world) {
        let bytes = bytes_of(world, &path).await;
        if bytes.starts_with(b"LFCOMPCT") {
            let table = u64::from_le_bytes(bytes[24..32].try_into().expect("eight"));
            found.push((path, table, bytes.len() as u64));
        }
    }
    found
}

#[test]
fn compacted_segments_are_looked_at_and_their_tables_healed() {
    let (world, points) = past(41, POINTS);
    with_store(&world, async |store, _| {
        compacted(&world, &store, &points).await;
        let sound = scrub(&store).await;
        check_sound(&sound);
        assert!(
            sound.chains[0]
                .heads
                .iter()
                .all(|(_, verdict)| { *verdict == landfall_retention::HeadVerdict::Same })
        );
        let copies = copies(&world).await;
        assert!(!copies.is_empty(), "nothing was compacted");
        for (path, table, end) in &copies {
            for copy in [*table, table + (end - table) / 2] {
                world.folder.corrupt(path, copy + 40, 2);
                let report = scrub(&store).await;
                assert_eq!(report.damage, []);
                let [healed] = report.healed[..] else { panic!("{:?}", report.healed) };
                assert_eq!(healed.from, HealedFrom::Copy);
                assert!(
                    matches!(healed.place, DamagedPlace::Records { start, .. } if start == copy)
                );
                check_sound(&scrub(&store).await);
            }
        }
    });
}

#[test]
fn of_a_compacted_segment_without_a_table_the_index_says_what_is_damaged() {
    let (world, points) = past(41, POINTS);
    with_store(&world, async |store, _| {
        let points = compacted(&world, &store, &points).await;
        let (path, table, end) = &copies(&world).await[0];
        let second = table + (end - table) / 2;
        [*table, second].iter().for_each(|copy| world.folder.corrupt(path, copy + 40, 2));
        let [neither] = scrub(&store).await.damage[..] else { panic!("neither is good") };
        let DamagedPlace::Records { start: 0, end: all, .. } = neither.place else {
            panic!("{neither:?}")
        };
        assert_eq!(all, *end);
        assert_eq!(refused(&store, &points).await, 0, "the index knows where all is");
        let mut said = 0;
        for at in (BLOCK_SIZE..*table).step_by(3 * 4096) {
            world.folder.corrupt(path, at + 77, 1);
            let report = scrub(&store).await;
            let bodies = report.damage.iter().filter(|damage| damage.place != neither.place);
            let mut touched = 0;
            for damage in bodies {
                touched += store.touched(damage.place).await.expect("known").points;
            }
            assert_eq!(touched, refused(&store, &points).await, "one block a point");
            said += touched;
            world.folder.corrupt(path, at + 77, 1);
        }
        assert!(said > 0, "nobody sees anything of what was compacted");
        [*table, second].iter().for_each(|copy| world.folder.corrupt(path, copy + 40, 2));
        assert_eq!(scrub(&store).await.damage, []);
        check_sound(&scrub(&store).await);
    });
}

#[test]
fn damage_of_a_compacted_segment_is_said_with_its_points_and_never_read() {
    let (world, points) = past(42, POINTS);
    with_store(&world, async |store, _| {
        let points = compacted(&world, &store, &points).await;
        let (path, table, _) = copies(&world).await.remove(0);
        let mut said = 0;
        for at in (BLOCK_SIZE..table).step_by(3 * 4096) {
            world.folder.corrupt(&path, at + 77, 1);
            let report = scrub(&store).await;
            let [damage] = &report.damage[..] else { panic!("{:?}", report.damage) };
            assert!(matches!(damage.place, DamagedPlace::Version { .. }));
            let touched = store.touched(damage.place).await.expect("known");
            let refused = refused(&store, &points).await;
            assert_eq!(touched.points, refused, "one block a point");
            said += refused;
            world.folder.corrupt(&path, at + 77, 1);
            let well = scrub(&store).await;
            assert_eq!((well.damage, well.healed[0].from), (vec![], HealedFrom::Rewritten));
        }
        assert!(said > 0, "nobody sees anything of what was compacted");
    });
}

#[test]
fn an_index_that_lost_what_was_compacted_gets_it_back() {
    use landfall_retention::index::{IndexBatch, IndexStore as _};
    let (world, points) = past(43, POINTS);
    with_store(&world, async |store, _| {
        let points = compacted(&world, &store, &points).await;
        let mut batch = IndexBatch::default();
        batch.remove_range([1], [2]);
        world.index.write(batch).expect("in memory");
        let report = scrub(&store).await;
        assert!(report.index_healed > 0);
        assert_eq!(report.damage, []);
        check(&store, &points, 0).await;
        check_sound(&scrub(&store).await);
    });
}

#[test]
fn whatever_goes_while_it_is_looked_at_is_no_damage() {
    let (mut went, mut missed) = (0, 0);
    for seed in 50..62 {
        let (world, points) = past(seed, POINTS);
        with_store(&world, async |store, _| {
            let mut random = Seed::new(seed);
            let watch = |_: &ScrubProgress| {
                world.index.vanish(|_| true);
                true
            };
            let later = points[POINTS - 2].0;
            let goes = async {
                let kept = if random.chance(1, 2) {
                    thin(&world, &store, &points).await
                } else {
                    drop_most(&world, &store, &points).await
                };
                let moved = compact(&store).await;
                // Refused where something is pinned.
                let folded = fold(&store, later).await.is_ok();
                let sleep = |_| std::future::ready(()).boxed_local();
                let pace = FoldPace { bytes_per_second: None, sleep: &sleep };
                let freed = store.forget(&pace).await.expect("nothing fails").segments;
                (kept, folded, moved.segments + freed)
            };
            let (report, (kept, folded, segments)) =
                join(scrub_watched(&store, &watch), goes).await;
            check_sound(&report);
            check_sound(&scrub(&store).await);
            let start = if folded { later } else { 0 };
            let kept: Points = kept.into_iter().filter(|(at, _)| *at >= start).collect();
            assert_eq!(refused(&store, &kept).await, 0);
            went += segments;
            missed += usize::from(report.chains[0].heads.is_empty());
        });
    }
    assert!(went > 24, "{went} segments went");
    assert_eq!(missed, 0);
}
