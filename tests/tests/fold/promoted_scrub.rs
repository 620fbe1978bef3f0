//! Scrub of a machine whose history was written as several lines: all of it is looked at, under whatever line it was written,
//! and what is nobody's any more is not.

use super::compact::{compact, segment_files};
use super::past::*;
use super::promote::{branch_at, promote, write};
use super::scrub::{bytes_of, check_sound, scrub, scrub_watched};
use futures_util::FutureExt;
use futures_util::future::join;
use landfall_disks::faults::Seed;
use landfall_disks::{BLOCK_SIZE, ByteRange};
use landfall_retention::ids::{LineId, Sequence};
use landfall_retention::journal::format::Chain;
use landfall_retention::manifest::integrity::DamagedPlace;
use landfall_retention::{FoldPace, HeadVerdict, HealedFrom, Retention, ScrubOrder, ScrubProgress};
use landfall_tests::world::World;
use std::future::ready;
use std::path::Path;
use std::sync::Arc;

/// The point at which the branch leaves the trunk.
const ORIGIN: usize = 4;

type Heads = Vec<(LineId, Sequence, Chain)>;

fn heads(store: &Retention) -> Heads {
    let heads = store.heads(None).expect("all machines").into_iter();
    heads.map(|head| (head.line, head.sequence, head.chain)).collect()
}

/// The points that the new trunk has, its head the last of them.
async fn promoted(store: &Retention, points: &Points) -> Points {
    let mut content = points[ORIGIN].1.clone();
    branch_at(store, points[ORIGIN].0, "b").await;
    write(store, "b", &mut content[0], 9).await;
    let head = promote(store, "b").await.expect("nobody uses it");
    let mut left = points[..=ORIGIN].to_vec();
    left.push((head, content));
    left
}

#[test]
fn heads_of_a_line_that_another_history_took_over_are_compared_after_it_was_discarded() {
    let (world, points) = past(61, ORIGIN);
    with_store(&world, async |store, _| {
        let mut written_down = heads(&store);
        branch_at(&store, points[ORIGIN].0, "b").await;
        written_down.extend(heads(&store));
        // The old trunk goes on beyond the origin.
        let stream = open_stream(&store, 0).await;
        let mut content = points[ORIGIN].1.clone();
        for position in 1..9 {
            change(&stream, position, &mut content, &mut Seed::new(position)).await;
        }
        mark(&stream, 9, 20).await;
        drop(stream);
        write(&store, "b", &mut points[ORIGIN].1[0].clone(), 9).await;
        let beyond = heads(&store)[0];
        promote(&store, "b").await.expect("nobody uses it");
        let all = written_down.iter().copied().chain([beyond]).collect::<Heads>();
        let compare = async |heads: &Heads| {
            let order = ScrubOrder::chains(None, heads.clone());
            let sleep = |_| ready(()).boxed_local();
            let pace = FoldPace { bytes_per_second: None, sleep: &sleep };
            store.scrub(&order, &pace, &|_| true).await.expect("nothing fails").chains
        };
        let origin = Sequence::new(points[ORIGIN].0);
        for discarded in [false, true] {
            if discarded {
                store.discard_branch(&name("web"), &name("old")).await.expect("nobody needs it");
                assert!(store.has_written(beyond.0), "the trunk has what it wrote first");
            }
            let [old, new] = &compare(&all).await[..] else { panic!("two lines") };
            assert_eq!((old.after, new.after), (Sequence::default(), origin));
            assert_eq!((old.last, new.last), (discarded.then_some(origin), None));
            assert!(old.breaks.is_empty() && new.breaks.is_empty(), "{old:?} {new:?}");
            assert_eq!(old.branch, (!discarded).then(|| name("old")));
            let last =
                if discarded { HeadVerdict::Beyond { last: origin } } else { HeadVerdict::Same };
            assert_eq!(old.heads, [(origin, HeadVerdict::Same), (beyond.1, last)]);
            assert_eq!(new.heads, [(origin, HeadVerdict::Same)]);
        }
    });
}

#[test]
fn damage_of_what_the_trunk_took_over_is_said_with_its_points_and_of_what_is_nobodys_not() {
    let (world, points) = past(62, 6);
    with_store(&world, async |store, _| {
        let left = promoted(&store, &points).await;
        store.discard_branch(&name("web"), &name("old")).await.expect("nobody needs it");
        check_sound(&scrub(&store).await);
        let (mut said, mut nobodys) = (0, 0);
        for path in segment_files(&world) {
            let length = bytes_of(&world, &path).await.len() as u64;
            for at in (BLOCK_SIZE + 77..length).step_by(5 * 4096) {
                world.folder.corrupt(&path, at, 1);
                let report = scrub(&store).await;
                let refused = refused(&store, &left).await;
                if let [damage] = &report.damage[..]
                    && matches!(damage.place, DamagedPlace::Version { .. })
                {
                    let touched = store.touched(damage.place).await.expect("known");
                    assert_eq!(touched.machine, Some(name("web")));
                    assert_eq!(touched.points, refused, "one block a point");
                    said += refused;
                } else {
                    assert_eq!(refused, 0, "{:?}", report.damage);
                    nobodys += usize::from(report.damage.is_empty());
                }
                world.folder.corrupt(&path, at, 1);
                assert_eq!(scrub(&store).await.damage, []);
            }
        }
        assert!(said > 3 && nobodys > 0, "{said} said, {nobodys} nobody's");
    });
}

/// What a fold had begun to write when the power went is no damage, whichever line it was written as.
#[test]
fn a_fold_of_several_lines_that_was_cut_off_is_sound() {
    let mut begun = 0;
    for flushes in 1.. {
        let (world, points) = past(63, 6);
        let left = with_store(&world, async |store, _| {
            let left = promoted(&store, &points).await;
            store.discard_branch(&name("web"), &name("old")).await.expect("nobody needs it");
            check_sound(&scrub(&store).await);
            left
        });
        let left = left.expect("no power cut yet");
        let head = left.last().expect("its head");
        world.folder.crash_after_flushes(flushes);
        let ended = with_store(&world, async |store, _| fold(&store, head.0).await.is_ok());
        let world = world.crash(&mut Seed::new(flushes));
        with_store(&world, async |store, _| {
            begun += store.unfinished_folds().len();
            check_sound(&scrub(&store).await);
            fold(&store, head.0).await.expect("nothing fails any more");
            check_images(&world.folder, &head.1).await;
            check_sound(&scrub(&store).await);
        });
        if ended == Some(true) {
            break;
        }
    }
    assert!(begun > 1, "no fold was cut off");
}

#[test]
fn an_image_is_healed_by_what_any_line_of_the_trunk_wrote() {
    let (world, points) = past(64, 6);
    with_store(&world, async |store, _| {
        let left = promoted(&store, &points).await;
        fold(&store, left[ORIGIN].0).await.expect("the old trunk starts there");
        check_sound(&scrub(&store).await);
        let image = image_path(0);
        let mut healed = 0;
        for at in (100..SIZES[0]).step_by(9 * 4096) {
            world.folder.corrupt(Path::new(&image), at, 1);
            let report = scrub(&store).await;
            match &report.healed[..] {
                [one] => {
                    assert!(matches!(one.from, HealedFrom::Journal | HealedFrom::Zeroes));
                    healed += usize::from(one.from == HealedFrom::Journal);
                    assert_eq!(report.damage, []);
                }
                _ => {
                    assert_eq!(report.damage.len(), 1);
                    world.folder.corrupt(Path::new(&image), at, 1);
                    assert_eq!(scrub(&store).await.damage, []);
                }
            }
            check_images(&world.folder, &left[ORIGIN].1).await;
        }
        assert!(healed > 3, "{healed} blocks were healed");
    });
}

#[test]
fn a_moment_that_is_open_outlives_the_branch_it_was_found_on() {
    let (world, points) = past(65, 6);
    with_store(&world, async |store, _| {
        let open = async |at: usize| {
            let found = store.resolve(&moment(&format!("web@seq:{}", points[at].0))).await;
            store.view(&found.expect("a point"), &name("d0")).expect("a point")
        };
        let (kept, gone) = (open(2).await, open(6).await);
        promoted(&store, &points).await;
        store.discard_branch(&name("web"), &name("old")).await.expect("nothing starts from it");
        let whole = ByteRange::up_to(SIZES[0]);
        let bytes = kept.read(whole).await.expect("the trunk has it");
        assert!(bytes[..] == points[2].1[0][..]);
        assert!(gone.read(whole).await.is_err(), "that was the old trunk's alone");
        assert!(fold(&store, points[3].0).await.is_err(), "somebody reads what lies before");
        drop(kept);
        fold(&store, points[3].0).await.expect("nobody reads it any more");
    });
}

/// Rounds that are stopped and gone on with, while the old trunk is discarded and its records go.
#[test]
fn an_old_trunk_may_be_discarded_while_it_is_looked_at() {
    for seed in 70..76 {
        let (world, points) = past(seed, 8);
        with_store(&world, async |store: Arc<Retention>, _| {
            promoted(&store, &points).await;
            let discard = async {
                world.index.vanish(|_| true);
                store.discard_branch(&name("web"), &name("old")).await.expect("nobody needs it");
                give_back(&world, &store).await;
            };
            let watch = |_: &ScrubProgress| {
                world.index.vanish(|_| true);
                true
            };
            let (report, ()) = join(scrub_watched(&store, &watch), discard).await;
            check_sound(&report);
            check_sound(&scrub(&store).await);
        });
    }
}

async fn give_back(world: &World, store: &Arc<Retention>) {
    compact(store).await;
    let sleep = |_| ready(()).boxed_local();
    let pace = FoldPace { bytes_per_second: None, sleep: &sleep };
    store.forget(&pace).await.expect("nothing fails");
    world.index.vanish(|_| true);
}
