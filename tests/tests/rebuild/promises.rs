//! What is said of a line, and to the index, before all of it was read: nothing that something older may make untrue.

use super::*;
use landfall_retention::ids::{ContentId, LaneId, LineId};
use landfall_retention::index::memory::MemoryIndex;
use landfall_retention::index::tail_key::{LineTail, read_moved, read_progress, read_tail};
use landfall_retention::index::usage_key::bytes_at;
use std::path::PathBuf;

/// The segment that was written first.
fn oldest(world: &World) -> PathBuf {
    let files = world.folder.files().into_iter();
    let segments = files.filter(|path| path.extension().is_some_and(|end| end == "seg"));
    segments.min().expect("there are several")
}

/// Makes the head of the first record of a segment unreadable.
fn damage(world: &World) {
    world.folder.corrupt(oldest(world), 4096, 1);
}

/// Names what the disk holds at its newest point.
fn name_content(world: &World, round: u8) {
    with_store(world, move |store, _| {
        Box::pin(async move {
            let stream = store.open_stream(request(1, 1, SIZE)).await.expect("it goes on");
            let point = Sequence::new(more(&stream, round).await);
            let contents = [(stream.disks()[0].id, ContentId::new([7; 32]))];
            stream.name_contents(point, &contents).await.expect("the newest point");
        })
    });
}

/// A source that finds the content it knows sends nothing, so that must be sure.
#[test]
fn content_is_named_once_all_of_a_line_is_known() {
    for damaged in [false, true] {
        let (world, _) = history(false);
        name_content(&world, ROUNDS);
        let world = world.without_index();
        if damaged {
            damage(&world);
        }
        with_settings(&world, one_segment(), move |store, report| {
            Box::pin(async move {
                assert!(report.index_left >= 2, "{report:?}");
                let stream = store.open_stream(request(1, 1, SIZE)).await.expect("it goes on");
                assert_eq!(stream.disks()[0].content, None, "before it was all read");
                drop(stream);
                waits_until_whole(&store).await;
                let damage = store.index_status().damage;
                assert_eq!(!damage.is_empty(), damaged, "{damage:?}");
                if !damaged {
                    let stream = store.open_stream(request(1, 1, SIZE)).await.expect("it goes on");
                    assert_eq!(stream.disks()[0].content, Some(ContentId::new([7; 32])));
                }
            })
        });
    }
}

/// Nothing of what the index says of a lane once it has all of it.
fn says_nothing(index: &MemoryIndex, line: LineId) {
    assert_eq!(read_tail(index, line).expect("in memory"), LineTail::default());
    assert_eq!(bytes_at(index, line, Sequence::new(u64::MAX)).expect("in memory"), 0);
    // The other lane has nothing, and all of that is in the index.
    let lanes = [0, 1].map(LaneId::new).map(|lane| {
        let progress = read_progress(index, lane).expect("in memory");
        (progress.number(), read_moved(index, lane).expect("in memory"))
    });
    assert!(lanes.contains(&(0, None)), "{lanes:?}");
}

#[test]
fn the_index_says_nothing_of_a_lane_before_it_has_all_of_it() {
    let (world, _) = history(false);
    let index = Arc::clone(&world.index);
    with_settings(&world, one_segment(), move |store, _| {
        Box::pin(async move {
            let line = store.trunk(&name("web")).expect("it is there");
            says_nothing(&index, line);
            let stream = store.open_stream(request(1, 1, SIZE)).await.expect("it goes on");
            let newest = more(&stream, ROUNDS).await;
            says_nothing(&index, line);
            while store.index_more(&pace()).await.expect("it can be read") {
                says_nothing(&index, line);
            }
            assert_eq!(read_tail(&*index, line).expect("in memory").sequence.number(), newest);
            assert!(bytes_at(&*index, line, Sequence::new(newest)).expect("in memory") > 0);
        })
    });
}

/// Whoever begins again after a crash in the middle meets the damage that was not met yet.
#[test]
fn damage_that_was_not_met_before_a_crash_is_met_after_it() {
    let (world, _) = history(false);
    damage(&world);
    with_settings(&world, one_segment(), |store, _| {
        Box::pin(async move { assert!(store.index_more(&pace()).await.expect("it can be read")) })
    });
    with_store(&world, |store, report| {
        Box::pin(async move {
            assert!(!report.damage.is_empty());
            let kept = ByteRange::new(ByteOffset::new(PART as u64), ByteOffset::new(SIZE));
            let found = read(&store, "web@latest", kept.expect("in order")).await;
            assert!(found.is_err(), "what the first copy wrote there may have changed since");
        })
    });
}
