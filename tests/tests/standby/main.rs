//! Standby files against a model of every point: brought forward and back, after power cuts at every flush, where history no
//! longer has what they hold, and where somebody else wrote to them.

mod checks;
mod crashes;
mod keeping;
#[path = "../fold/past.rs"]
#[expect(dead_code, reason = "what folds need more of it")]
mod past;

use futures_util::future::LocalBoxFuture;
use keeping::*;
use landfall_disks::faults::{Fault, Seed};
use landfall_disks::file::{Caching, Folder as _, OpenMode};
use landfall_disks::image::Format;
use landfall_disks::{Buffer, ByteOffset, Durability};
use landfall_retention::standby::{NotOurs, StandbyError};
use landfall_tests::standby::{Places, content};
use landfall_tests::world::World;
use past::*;
use std::path::Path;

async fn put_file(world: &World, name: &str, at: u64, bytes: &[u8]) {
    let path = Path::new(name);
    let file = match world.folder.open(path, OpenMode::ReadWrite, Caching::Buffered).await {
        Ok(file) => file,
        Err(_) => world
            .folder
            .open(path, OpenMode::CreateNew, Caching::Buffered)
            .await
            .expect("nothing is in the way"),
    };
    file.write_at(at, Buffer::copy_of(bytes)).await.expect("it is written");
    file.flush().await.expect("it is durable");
}

#[test]
fn a_standby_follows_from_point_to_point_and_only_what_changed_is_written() {
    for format in FORMATS {
        let (world, points) = with_standby((1, 6), format);
        with_store(&world, async |store, _| {
            for to in [1, 2, 4, 3, 6, 0, 5] {
                let report = bring_to(&store, &world, points[to].0).await;
                check_at(&world, &points, to, format).await;
                assert_eq!(report.compared, []);
                if to == 1 {
                    assert_eq!(report.made.len(), SIZES.len());
                    continue;
                }
                // A few dozen blocks of some hundred, and never what did not change.
                let total: u64 = SIZES.iter().sum();
                assert!(report.made.is_empty() && !report.written.is_empty());
                assert!(report.written_bytes + report.zeroed_bytes < total * 3 / 4, "{report:?}");
                let again = bring_to(&store, &world, points[to].0).await;
                assert_eq!((again.written.len(), again.written_bytes), (0, 0));
            }
        });
    }
}

#[test]
fn what_it_is_survives_a_restart_and_goes_with_its_machine() {
    let (world, points) = past(2, 3);
    with_store(&world, async |store, _| {
        add(&store, &world, Format::Raw).await;
        let twice = store.add_standby(&name("web"), kept(Format::Raw), &Places::of(&world)).await;
        assert!(matches!(twice, Err(StandbyError::Exists { .. })), "{twice:?}");
        store.pause_standby(&name("web"), true).await.expect("it is recorded");
        bring_to(&store, &world, points[1].0).await;
    });
    let world = world.crash(&mut Seed::new(2)).without_index();
    with_store(&world, async |store, _| {
        let known = store.standbys();
        assert_eq!((known.len(), known[0].paused), (1, true));
        assert_eq!(known[0].kept, kept(Format::Raw));
        let report = bring_to(&store, &world, points[3].0).await;
        assert_eq!(report.compared, [], "what the files hold is on record");
        check_at(&world, &points, 3, Format::Raw).await;
        store.remove_machine(&name("web")).await.expect("nobody streams");
        assert_eq!(store.standbys(), []);
        // The files stay what they are.
        check_at(&world, &points, 3, Format::Raw).await;
    });
}

#[test]
fn where_history_begins_after_what_the_files_hold_they_are_compared() {
    let (world, points) = past(3, 6);
    with_store(&world, async |store, _| {
        add(&store, &world, Format::Raw).await;
        bring_to(&store, &world, points[1].0).await;
        fold(&store, points[3].0).await.expect("a standby holds nothing");
        let report = bring_to(&store, &world, points[5].0).await;
        assert_eq!(report.compared, [name("d0"), name("d1")]);
        check_at(&world, &points, 5, Format::Raw).await;
        // What a fold did not reach is told as ever.
        fold(&store, points[4].0).await.expect("a standby holds nothing");
        assert_eq!(bring_to(&store, &world, points[6].0).await.compared, []);
        check_at(&world, &points, 6, Format::Raw).await;
    });
}

#[test]
fn what_a_policy_dropped_is_told_from_what_it_kept() {
    let (world, points) = past(4, 6);
    with_store(&world, async |store, _| {
        add(&store, &world, Format::Raw).await;
        bring_to(&store, &world, points[2].0).await;
        let policy = "keep all for 0s, every 1000s for 1h".parse().expect("a policy");
        store.set_policy(&name("web"), policy).await.expect("it is recorded");
        store.thin().await.expect("it is recorded");
        let gone = store.resolve(&moment(&format!("web@seq:{}", points[2].0))).await;
        gone.expect_err("it was dropped");
        world.index.vanish(|_| true);
        let report = bring_to(&store, &world, points[6].0).await;
        assert_eq!(report.compared, [], "the oldest point is still there");
        check_at(&world, &points, 6, Format::Raw).await;
    });
}

#[test]
fn from_one_line_to_another_only_what_differs_is_written() {
    let (world, points) = past(10, 4);
    with_store(&world, async |store, _| {
        add(&store, &world, Format::Raw).await;
        let at = store.resolve(&moment(&format!("web@seq:{}", points[2].0))).await;
        store.add_branch(&at.expect("a point"), name("b")).await.expect("a new branch");
        let disk = store.branch_disk(&name("web"), &name("b"), &name("d1")).expect("a disk");
        let bytes = Buffer::copy_of(&[7; 4096]);
        let written = disk.write(ByteOffset::new(8192), bytes, Durability::Durable).await;
        written.expect("a branch takes writes");
        let mut expected = points[2].1.clone();
        expected[1][8192..12288].fill(7);
        bring_to(&store, &world, points[4].0).await;
        let report = bring(&store, &world, "web~b@latest", false).await.expect("a moment");
        assert_eq!(report.compared, []);
        for (disk, expected) in expected.iter().enumerate() {
            let found = content(&world.folder, &file(disk, Format::Raw), Format::Raw).await;
            assert!(found.expect("readable") == *expected, "disk {disk}");
        }
        let report = bring_to(&store, &world, points[3].0).await;
        assert_eq!(report.compared, []);
        check_at(&world, &points, 3, Format::Raw).await;
        // A line that is gone tells nothing.
        bring(&store, &world, "web~b@latest", false).await.expect("a moment");
        store.discard_branch(&name("web"), &name("b")).await.expect("nobody holds it");
        let report = bring_to(&store, &world, points[3].0).await;
        assert_eq!(report.compared.len(), SIZES.len());
        check_at(&world, &points, 3, Format::Raw).await;
    });
}

#[test]
fn what_somebody_else_wrote_is_not_overwritten_until_that_is_said() {
    for format in FORMATS {
        let (world, points) = with_standby((5, 3), format);
        with_store(&world, async |store, _| {
            bring_to(&store, &world, points[1].0).await;
            let written = match format {
                Format::Vmdk => "web-d1-flat.vmdk".to_owned(),
                format => file(1, format),
            };
            put_file(&world, &written, 65536, b"a hypervisor was here").await;
            let at = format!("web@seq:{}", points[2].0);
            let refused = bring(&store, &world, &at, false).await;
            let Err(StandbyError::NotOurs { path, why: NotOurs::Written(_) }) = refused else {
                panic!("{refused:?}")
            };
            assert!(path.ends_with(file(1, format)), "{path:?}");
            let d0 = landfall_tests::standby::sidecar(&world.folder, &file(0, format)).await;
            let d0 = d0.expect("readable").expect("it is there");
            let held = d0.moment().expect("whole").at.sequence.number();
            assert_eq!(held, points[1].0, "the set was not touched");
            if format == Format::Raw {
                let report = bring(&store, &world, &at, true).await.expect("somebody said so");
                assert_eq!(report.compared, [name("d1")]);
                check_at(&world, &points, 2, format).await;
            }
        });
    }
}

#[test]
fn files_that_are_not_ours_are_left_alone() {
    let (world, points) = past(6, 2);
    with_store(&world, async |store, _| {
        put_file(&world, "web-d1.raw", 0, b"mine").await;
        let places = Places::of(&world);
        let added = store.add_standby(&name("web"), kept(Format::Raw), &places).await;
        assert!(matches!(added, Err(StandbyError::NotOurs { why: NotOurs::Unmarked, .. })));
        add(&store, &world, Format::Vmdk).await;
        // It comes after the standby was added.
        put_file(&world, "web-d1-flat.vmdk", 0, b"mine").await;
        let at = format!("web@seq:{}", points[1].0);
        let refused = bring(&store, &world, &at, true).await;
        assert!(matches!(refused, Err(StandbyError::NotOurs { why: NotOurs::Unmarked, .. })));
        let left = [Path::new("web-d1-flat.vmdk"), Path::new("web-d1.raw")];
        let there = world.folder.files();
        let standby = there.iter().filter(|path| path.starts_with("web-d0.vmdk"));
        assert_eq!(standby.count(), 0, "nothing was begun");
        assert!(left.iter().all(|path| there.iter().any(|one| one == path)));
        // Its own files of an earlier time are taken over, by comparing.
        world.folder.remove(left[0]).await.expect("it is there");
        bring_to(&store, &world, points[1].0).await;
        store.remove_standby(&name("web"), &places, false).await.expect("nobody writes");
        add(&store, &world, Format::Vmdk).await;
        let report = bring_to(&store, &world, points[2].0).await;
        assert_eq!(report.compared.len(), SIZES.len());
        world.folder.keep_sectors_whole();
        check_at(&world, &points, 2, Format::Vmdk).await;
        let removed = store.remove_standby(&name("web"), &places, true).await;
        assert_eq!(removed.expect("they are ours").len(), SIZES.len());
        let there = world.folder.files();
        let ours = |path: &&std::path::PathBuf| path.to_string_lossy().contains("vmdk");
        assert_eq!(there.iter().find(ours), None);
    });
}

#[test]
fn full_disks_and_failing_ones_leave_it_between_and_it_goes_on() {
    let (world, points) = past(8, 4);
    with_store(&world, async |store, _| {
        add(&store, &world, Format::Raw).await;
        bring_to(&store, &world, points[1].0).await;
        let at = format!("web@seq:{}", points[2].0);
        let used = 4096 * world.folder.files().len() as u64;
        world.folder.set_capacity(Some(used));
        let full = bring(&store, &world, &at, false).await.expect_err("there is no space");
        assert!(full.to_string().contains("no space"), "{full}");
        truth(&world, &points, Format::Raw).await;
        world.folder.set_capacity(None);
        for fault in [Fault::Write, Fault::Flush] {
            // Whatever it hits first: the sidecars of the files.
            world.folder.fail_next(fault);
            bring(&store, &world, &at, false).await.expect_err("the medium failed");
            truth(&world, &points, Format::Raw).await;
        }
    });
    let world = world.crash(&mut Seed::new(1));
    with_store(&world, async |store, _| {
        assert_eq!(bring_to(&store, &world, points[3].0).await.compared, []);
        check_at(&world, &points, 3, Format::Raw).await;
    });
}

#[test]
fn one_at_a_time_writes_to_a_standby() {
    let (world, points) = past(9, 2);
    with_store(&world, async |store, _| {
        add(&store, &world, Format::Raw).await;
        let to = store.resolve(&moment(&format!("web@seq:{}", points[1].0))).await;
        let order = landfall_retention::standby::StandbyOrder {
            to: to.expect("a point"),
            overwrite: false,
            compare: false,
        };
        let (web, places) = (name("web"), Places::of(&world));
        let sleep = |_| -> LocalBoxFuture<'static, ()> { Box::pin(std::future::pending()) };
        let pace = landfall_retention::FoldPace { bytes_per_second: Some(1), sleep: &sleep };
        let mut first = Box::pin(store.bring_standby(&web, &order, &places, &pace, &|_| {}));
        for _ in 0..1000 {
            let polled = futures_util::poll!(&mut first);
            assert!(polled.is_pending(), "it waits for ever");
            store.tick().await;
        }
        let second = bring(&store, &world, "web@latest", false).await;
        assert!(matches!(second, Err(StandbyError::UnderWay { .. })), "{second:?}");
        drop(first);
        bring(&store, &world, "web@latest", false).await.expect("the first was given up");
        check_at(&world, &points, 2, Format::Raw).await;
    });
}
