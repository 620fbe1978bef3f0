//! Fold against a model of every point: what stays, what goes, who holds what, and power cuts at every flush.

mod branch_sizes;
mod churn;
mod compact;
mod crashes;
mod forget;
mod past;
mod promote;
mod promoted_scrub;
mod provenance;
mod scrub;
mod shapes;

use futures_util::FutureExt;
use landfall_disks::faults::Fault;
use landfall_disks::{Buffer, ByteOffset, ByteRange, Durability};
use landfall_retention::ids::Sequence;
use landfall_retention::point::PointQuery;
use landfall_retention::{FoldError, Holder, NewExport, ResolveError};
use past::*;
use std::cell::{Cell, RefCell};
use std::rc::Rc;

#[test]
fn a_fold_moves_history_into_the_image_and_leaves_points_as_they_were() {
    let (world, points) = past(1, 8);
    for kept in [3, 4, 8] {
        let start = points[kept].0;
        with_store(&world, async |store, _| {
            let report = fold(&store, start).await.expect("nobody holds anything");
            assert_eq!(report.start, Sequence::new(start));
            assert_eq!(report.folded, [name("d0"), name("d1")]);
            assert!(report.data_bytes > 0);
            check(&store, &points, start).await;
            check_images(&world.folder, &points[kept].1).await;
            assert_eq!(store.unfinished_folds(), []);
            let status = store.history(&name("web")).expect("it is there");
            assert_eq!(status.start.map(|begins| begins.sequence), Some(Sequence::new(start)));
            assert!(status.floors.iter().all(|(_, at)| *at == Some(Sequence::new(start))));
            assert_eq!(status.folding, None);
            // Nothing is left to be done.
            assert_eq!(fold(&store, points[1].0).await.expect("done").folded, []);
        });
        with_store(&world, async |store, _| check(&store, &points, start).await);
    }
}

#[test]
fn names_of_what_was_folded_say_where_history_begins() {
    let (world, points) = past(2, 4);
    with_store(&world, async |store, _| {
        let times: Vec<_> = store.points(&name("web"), None, &PointQuery::all(100)).expect("there");
        let time = |index: usize| times[index].point.commit_time.to_string();
        fold(&store, points[2].0).await.expect("nobody holds anything");
        for gone in [format!("web@{}", time(1)), format!("web@seq:{}", points[1].0 + 1)] {
            let error = store.resolve(&moment(&gone)).await.expect_err(&gone);
            let begins = format!("its history now begins at {} (seq:{})", time(2), points[2].0);
            assert!(error.to_string().contains(&begins), "{error}");
        }
        let tag = store.resolve(&moment("web@tag:p1")).await;
        assert!(matches!(tag, Err(ResolveError::NoSuchPoint { .. })), "{tag:?}");
        for there in [format!("web@{}", time(2)), "web@tag:p2".into(), "web@latest".into()] {
            store.resolve(&moment(&there)).await.expect(&there);
        }
    });
}

#[test]
fn whoever_holds_an_older_moment_keeps_it_and_is_named() {
    let (world, points) = past(3, 4);
    with_store(&world, async |store, _| {
        let at = |index: usize| format!("web@seq:{}", points[index].0);
        let old = Sequence::new(points[1].0);
        let held = async |expected: Holder| {
            let refused = fold(&store, points[2].0).await;
            assert!(
                matches!(&refused, Err(FoldError::Held { holders, .. }) if *holders == [expected.clone()]),
                "{refused:?}"
            );
            assert_eq!(store.holders_below(trunk(&store), Sequence::new(points[2].0)), [expected]);
            check(&store, &points, 0).await;
        };
        store.pin(&moment(&at(1))).await.expect("a point");
        held(Holder::Pin(old)).await;
        store.unpin(&moment(&at(1))).await.expect("a point");

        let place = store.resolve(&moment(&at(1))).await.expect("a point");
        store.add_branch(&place, name("b")).await.expect("a new branch");
        held(Holder::Branch { name: name("b"), origin: old }).await;
        store.discard_branch(&name("web"), &name("b")).await.expect("nobody uses it");

        let export = NewExport {
            machine: name("web"),
            branch: None,
            sequence: Some(old),
            writable: false,
            iscsi: None,
        };
        let export = store.add_export(export).await.expect("a point");
        held(Holder::Export { name: at(1), sequence: old }).await;
        store.remove_export(export.id).await.expect("it is there");

        let view = store.view(&place, &name("d0")).expect("a point");
        held(Holder::Reader(old)).await;
        drop(view);
        // What lies at the floor itself holds nothing back.
        store.pin(&moment(&at(2))).await.expect("a point");
        fold(&store, points[2].0).await.expect("nobody holds anything older");
        check(&store, &points, points[2].0).await;

        let gone = store.view(&place, &name("d0")).map(|_| ());
        assert!(matches!(gone, Err(ResolveError::BeforeHistory { .. })), "{gone:?}");
        let gone = store.add_branch(&place, name("c")).await;
        assert!(gone.is_err_and(|error| error.to_string().contains("now begins at")));
        let export = NewExport {
            machine: name("web"),
            branch: None,
            sequence: Some(old),
            writable: false,
            iscsi: None,
        };
        let gone = store.add_export(export).await;
        assert!(gone.is_err_and(|error| error.to_string().contains("now begins at")));
    });
}

#[test]
fn history_begins_only_where_there_is_a_moment_and_never_above_the_newest() {
    let (world, points) = past(4, 3);
    with_store(&world, async |store, _| {
        let between = points[2].0 - 1;
        let refused = fold(&store, between).await;
        assert!(matches!(refused, Err(FoldError::NotAMoment(at)) if at.number() == between));
        let above = points[3].0 + 1;
        let refused = fold(&store, above).await;
        assert!(matches!(refused, Err(FoldError::AboveNewest { .. })), "{refused:?}");
        check(&store, &points, 0).await;
    });
}

#[test]
fn views_and_branches_read_on_while_a_fold_is_under_way() {
    let (world, points) = past(5, 8);
    with_store(&world, async |store, _| {
        let place = store.resolve(&moment(&format!("web@seq:{}", points[5].0))).await;
        let place = place.expect("a point");
        store.add_branch(&place, name("b")).await.expect("a new branch");
        let branch = store.branch_disk(&name("web"), &name("b"), &name("d0")).expect("it is there");
        let written = Buffer::copy_of(&[7; 8192]);
        branch.write(ByteOffset::new(4096), written, Durability::Durable).await.expect("space");
        let mut expected = points[5].1[0].clone();
        expected[4096..12288].fill(7);
        let looks = Rc::new(Cell::new(0));
        let view = store.view(&place, &name("d0")).expect("a point");
        let (counted, again) = (Rc::clone(&looks), std::sync::Arc::clone(&store));
        let (points_too, branch_too) = (points.clone(), std::sync::Arc::clone(&branch));
        let expected_too = expected.clone();
        let between = move |_| {
            let (store, points, counted) =
                (std::sync::Arc::clone(&again), points_too.clone(), Rc::clone(&counted));
            let (branch, expected) = (std::sync::Arc::clone(&branch_too), expected_too.clone());
            async move {
                counted.set(counted.get() + 1);
                check(&store, &points, points[4].0).await;
                let head = branch.read(ByteRange::up_to(SIZES[0])).await.expect("readable");
                assert!(head[..] == expected[..], "the branch differs");
                let again = fold(&store, points[4].0).await;
                assert!(matches!(again, Err(FoldError::UnderWay)), "{again:?}");
                let status = store.history(&name("web")).expect("it is there");
                assert!(counted.get() == 1 || status.folding.is_some());
            }
            .boxed_local()
        };
        fold_with(&store, points[4].0, &between).await.expect("nobody holds anything older");
        assert!(looks.get() >= 2, "a window per disk");
        let seen = view.read(ByteRange::up_to(SIZES[0])).await.expect("readable");
        assert!(seen[..] == points[5].1[0][..], "an open view differs");
        let head = branch.read(ByteRange::up_to(SIZES[0])).await.expect("readable");
        assert!(head[..] == expected[..], "the branch differs");
    });
}

#[test]
fn a_fold_that_fails_leaves_every_point_and_is_repeated() {
    for fault in [Fault::Read, Fault::Write, Fault::Flush] {
        let (world, points) = past(6, 6);
        let start = points[3].0;
        with_store(&world, async |store, _| {
            let folder = world.folder.clone();
            let armed = Rc::new(RefCell::new(Some(fault)));
            let between = move |_| {
                armed.borrow_mut().take().into_iter().for_each(|fault| folder.fail_next(fault));
                std::future::ready(()).boxed_local()
            };
            let failed = fold_with(&store, start, &between).await;
            let expected = match fault {
                Fault::Read => matches!(failed, Err(FoldError::Journal { .. })),
                _ => matches!(failed, Err(FoldError::Image { .. })),
            };
            assert!(expected, "{fault:?}: {failed:?}");
            check(&store, &points, start).await;
            assert_eq!(store.unfinished_folds(), [(trunk(&store), Sequence::new(start))]);
        });
        with_store(&world, async |store, _| {
            check(&store, &points, start).await;
            assert_eq!(store.unfinished_folds(), [(trunk(&store), Sequence::new(start))]);
            fold(&store, start).await.expect("nothing fails any more");
            check(&store, &points, start).await;
            check_images(&world.folder, &points[3].1).await;
        });
    }
}

#[test]
fn a_full_disk_below_the_image_is_said_and_the_fold_repeated_without_a_restart() {
    let (world, points) = past(7, 6);
    let start = points[4].0;
    with_store(&world, async |store, _| {
        // Discards gave space of the images back, so that writing there needs some.
        fold(&store, points[1].0).await.expect("space");
        let folder = world.folder.clone();
        let between = move |_| {
            folder.set_capacity(Some(0));
            std::future::ready(()).boxed_local()
        };
        let full = fold_with(&store, start, &between).await;
        world.folder.set_capacity(None);
        check(&store, &points, start).await;
        if let Err(error) = full {
            assert!(error.to_string().contains("no space"), "{error}");
            fold(&store, start).await.expect("there is space");
        }
        check(&store, &points, start).await;
        check_images(&world.folder, &points[4].1).await;
    });
}
