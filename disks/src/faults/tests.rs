//! That faults happen, and that what must be kept is kept.

use super::{Fault, FaultFolder, Seed, run};
use crate::Buffer;
use crate::file::{Caching, FileError, FileIo, Folder, OpenMode};
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

const FILE: &str = "file";

fn filled(length: usize, byte: u8) -> Buffer {
    let mut buffer = Buffer::zeroed(length);
    buffer.fill(byte);
    buffer
}

async fn create(folder: &FaultFolder) -> Arc<dyn FileIo> {
    let path = Path::new(FILE);
    let file = folder.open(path, OpenMode::CreateNew, Caching::Buffered).await.expect("created");
    folder.sync(Path::new("")).await.expect("synced");
    file
}

async fn content(folder: &FaultFolder) -> Vec<u8> {
    let path = Path::new(FILE);
    let file = folder.open(path, OpenMode::Read, Caching::Buffered).await.expect("opened");
    let length = usize::try_from(file.length().await.expect("measured")).expect("small");
    file.read_at(0, Buffer::zeroed(length)).await.expect("read").to_vec()
}

/// What is found after a crash at the end of `work`, for many seeds.
fn after_crash(work: impl AsyncFn(&FaultFolder)) -> BTreeSet<Vec<u8>> {
    (0..300)
        .map(|number| {
            let mut seed = Seed::new(number);
            let folder = FaultFolder::new(seed.fork());
            run(&mut seed, |_| work(&folder));
            let next = folder.crash(&mut seed);
            run(&mut seed, |_| content(&next))
        })
        .collect()
}

#[test]
fn flushed_bytes_are_kept_whatever_happens() {
    let found = after_crash(async |folder| {
        let file = create(folder).await;
        file.write_at(0, filled(5000, 7)).await.expect("written");
        file.flush().await.expect("flushed");
    });
    assert_eq!(found, BTreeSet::from([vec![7; 5000]]));
}

#[test]
fn a_crash_may_take_one_write_alone() {
    let found: BTreeSet<Vec<u8>> = (0..100)
        .map(|number| {
            let mut seed = Seed::new(number);
            let folder = FaultFolder::new(seed.fork());
            run(&mut seed, |_| async {
                let file = create(&folder).await;
                for place in 0..3 {
                    file.write_at(place * 512, filled(512, 1)).await.expect("written");
                }
                file.flush().await.expect("flushed");
                for place in 0..3 {
                    file.write_at(place * 512, filled(512, 2)).await.expect("written");
                }
            });
            let next = folder.crash_losing_one(&mut seed);
            run(&mut seed, |_| content(&next))
        })
        .collect();
    let but_for = |lost: usize| {
        let mut bytes = vec![2; 3 * 512];
        bytes[lost * 512..(lost + 1) * 512].fill(1);
        bytes
    };
    assert!(found.is_subset(&(0..3).map(but_for).collect()), "more than one, or none");
    assert_eq!(found.len(), 3);
}

#[test]
fn unflushed_sectors_are_kept_dropped_and_torn() {
    let found = after_crash(async |folder| {
        let file = create(folder).await;
        file.write_at(0, filled(2048, 1)).await.expect("written");
        file.flush().await.expect("flushed");
        file.write_at(0, filled(2048, 2)).await.expect("written");
    });
    assert!(found.contains(&vec![1; 2048]), "none kept");
    assert!(found.contains(&vec![2; 2048]), "all kept");
    let reordered = [vec![1; 512], vec![2; 512], vec![1; 512], vec![2; 512]].concat();
    assert!(found.contains(&reordered), "later sectors without earlier ones");
    let torn = |bytes: &Vec<u8>| bytes[..512].windows(2).any(|pair| pair == [2, 1]);
    assert!(found.iter().any(torn), "a torn sector");
    assert!(found.iter().flatten().all(|byte| [1, 2].contains(byte)));
}

#[test]
fn an_unflushed_length_is_old_or_new() {
    let found = after_crash(async |folder| {
        let file = create(folder).await;
        file.write_at(0, filled(512, 1)).await.expect("written");
        file.flush().await.expect("flushed");
        file.write_at(512, filled(512, 2)).await.expect("written");
    });
    let lengths: BTreeSet<usize> = found.iter().map(Vec::len).collect();
    assert_eq!(lengths, BTreeSet::from([512, 1024]));
    assert!(found.contains(&[vec![1; 512], vec![0; 512]].concat()), "the length without the bytes");
    assert!(found.iter().all(|bytes| bytes[..512] == [1; 512]));
}

#[test]
fn a_write_that_runs_beside_a_flush_is_not_promised() {
    let found = after_crash(async |folder| {
        let file = create(folder).await;
        file.write_at(0, filled(512, 1)).await.expect("written");
        file.flush().await.expect("flushed");
        let both = futures_util::future::join(file.write_at(0, filled(512, 2)), file.flush());
        let (written, flushed) = both.await;
        written.expect("written");
        flushed.expect("flushed");
    });
    assert!(found.contains(&vec![1; 512]) && found.contains(&vec![2; 512]));
}

#[test]
fn a_flush_need_not_save_what_is_visible_but_not_completed() {
    let mut found = BTreeSet::new();
    for number in 0..300 {
        let mut seed = Seed::new(number);
        let folder = FaultFolder::new(seed.fork());
        let visible = run(&mut seed, |_| async {
            let file = create(&folder).await;
            file.write_at(0, filled(512, 1)).await.expect("written");
            file.flush().await.expect("flushed");
            let mut write = file.write_at(0, filled(512, 2));
            while content(&folder).await != [2; 512] {
                if futures_util::poll!(&mut write).is_ready() {
                    return false;
                }
            }
            file.flush().await.expect("flushed");
            true
        });
        if visible {
            let next = folder.crash(&mut seed);
            found.insert(run(&mut seed, |_| content(&next)));
        }
    }
    assert!(found.contains(&vec![1; 512]) && found.contains(&vec![2; 512]));
}

#[test]
fn names_are_durable_after_a_sync_only() {
    let mut seen = BTreeSet::new();
    for number in 0..200 {
        let mut seed = Seed::new(number);
        let folder = FaultFolder::new(seed.fork());
        let (one, two, three) = (Path::new("d/one"), Path::new("d/two"), Path::new("d/three"));
        run(&mut seed, |_| async {
            folder.create_folder(Path::new("d")).await.expect("made");
            for path in [one, two] {
                let file = folder.open(path, OpenMode::CreateNew, Caching::Buffered).await;
                drop(file.expect("created"));
            }
            folder.sync(Path::new("d")).await.expect("synced");
            folder.rename(one, three).await.expect("renamed");
            folder.remove(two).await.expect("removed");
        });
        let next = folder.crash(&mut seed);
        seen.insert(run(&mut seed, |_| async { next.list(Path::new("d")).await.expect("listed") }));
    }
    let expected = [vec!["one"], vec!["one", "two"], vec!["three"], vec!["three", "two"]];
    assert_eq!(seen, expected.map(|names| names.into_iter().map(str::to_owned).collect()).into());
}

#[test]
fn the_power_goes_at_the_chosen_flush() {
    let mut seed = Seed::new(1);
    let folder = FaultFolder::new(seed.fork());
    run(&mut seed, |_| async {
        let file = create(&folder).await;
        assert_eq!(folder.flushes(), 1);
        folder.crash_after_flushes(2);
        file.flush().await.expect("the first is well");
        file.flush().await.expect_err("the second is not");
        assert!(folder.is_dead());
        file.read_at(0, Buffer::zeroed(0)).await.expect_err("nothing works any more");
        folder.list(Path::new("")).await.expect_err("nothing works any more");
    });
}

#[test]
fn ordered_faults_happen_once() {
    let mut seed = Seed::new(1);
    let folder = FaultFolder::new(seed.fork());
    run(&mut seed, |_| async {
        let file = create(&folder).await;
        file.write_at(0, filled(512, 1)).await.expect("written");
        for fault in [Fault::Read, Fault::Write, Fault::Flush] {
            folder.fail_next(fault);
        }
        file.read_at(0, Buffer::zeroed(512)).await.expect_err("ordered");
        file.read_at(0, Buffer::zeroed(512)).await.expect("once");
        file.write_at(0, filled(512, 2)).await.expect_err("ordered");
        file.write_at(0, filled(512, 2)).await.expect("once");
        file.flush().await.expect_err("ordered");
        file.flush().await.expect("once");
    });
}

#[test]
fn what_a_failed_flush_lost_is_not_saved_by_the_next() {
    let found = after_crash(async |folder| {
        let file = create(folder).await;
        file.write_at(0, filled(512, 1)).await.expect("written");
        file.flush().await.expect("flushed");
        file.write_at(0, filled(512, 2)).await.expect("written");
        folder.fail_next(Fault::Flush);
        file.flush().await.expect_err("ordered");
        file.flush().await.expect("it has nothing to do");
    });
    assert_eq!(found, BTreeSet::from([vec![1; 512], vec![2; 512]]));
}

#[test]
fn a_dropped_write_leaves_each_sector_old_or_new() {
    let mut seen = BTreeSet::new();
    for number in 0..200 {
        let mut seed = Seed::new(number);
        let folder = FaultFolder::new(seed.fork());
        seen.insert(run(&mut seed, |_| async {
            let file = create(&folder).await;
            file.write_at(0, filled(1024, 1)).await.expect("written");
            let mut write = file.write_at(0, filled(1024, 2));
            let polled = futures_util::poll!(&mut write);
            drop(write);
            (polled.is_ready(), content(&folder).await)
        }));
    }
    let parts = |one, two| (false, [vec![one; 512], vec![two; 512]].concat());
    for (one, two) in [(1, 1), (1, 2), (2, 1), (2, 2)] {
        assert!(seen.contains(&parts(one, two)), "{one} {two}");
    }
    assert!(seen.iter().all(|(_, bytes)| bytes.iter().all(|byte| [1, 2].contains(byte))));
}

#[test]
fn space_ends() {
    let mut seed = Seed::new(1);
    let folder = FaultFolder::new(seed.fork());
    run(&mut seed, |_| async {
        let file = create(&folder).await;
        folder.set_capacity(Some(3 * 4096));
        file.write_at(0, filled(8192, 1)).await.expect("there is room");
        assert_eq!(folder.free_bytes().await.expect("measured"), 4096);
        let full = file.write_at(8192, filled(8192, 2)).await.map(drop);
        assert!(matches!(full, Err(FileError::NoSpace { .. })), "{full:?}");
        let full = file.allocate(8192, 8192).await;
        assert!(matches!(full, Err(FileError::NoSpace { .. })), "{full:?}");
        assert_eq!(content(&folder).await, [1; 8192]);
        file.write_at(4096, filled(4096, 3)).await.expect("overwriting takes none");
        file.punch_hole(0, 4096).await.expect("punched");
        file.allocate(8192, 8192).await.expect("two pages are free");
        file.write_at(8192, filled(8192, 4)).await.expect("they were allocated");
        assert_eq!(file.next_data(0).await.expect("sought"), Some((4096, 16384)));
    });
}

#[test]
fn damage_is_seen_now_and_after_a_crash() {
    let found = after_crash(async |folder| {
        let file = create(folder).await;
        file.write_at(0, filled(512, 0)).await.expect("written");
        file.flush().await.expect("flushed");
        folder.corrupt(FILE, 3, 2);
        assert_eq!(content(folder).await[..6], [0, 0, 0, 255, 255, 0]);
    });
    let found = found.first().expect("a content");
    assert_eq!(found[..6], [0, 0, 0, 255, 255, 0]);
}

#[test]
#[should_panic(expected = "is not aligned")]
fn direct_files_are_as_strict_as_the_kernel() {
    let mut seed = Seed::new(1);
    let folder = FaultFolder::new(seed.fork());
    run(&mut seed, |_| async {
        let path = Path::new(FILE);
        let file = folder.open(path, OpenMode::CreateNew, Caching::Direct).await.expect("created");
        let _ = file.write_at(0, Buffer::zeroed(512)).await;
    });
}

#[test]
fn locks_are_per_handle() {
    let mut seed = Seed::new(1);
    let folder = FaultFolder::new(seed.fork());
    run(&mut seed, |_| async {
        let one = create(&folder).await;
        let path = Path::new(FILE);
        let two = folder.open(path, OpenMode::ReadWrite, Caching::Buffered).await.expect("opened");
        one.lock_exclusive().await.expect("free");
        let refused = two.lock_exclusive().await;
        assert!(matches!(refused, Err(FileError::Locked { .. })), "{refused:?}");
        let refused = two.lock_shared().await;
        assert!(matches!(refused, Err(FileError::Locked { .. })), "{refused:?}");
        drop(one);
        two.lock_exclusive().await.expect("free again");
    });
}

#[test]
fn readers_share_a_lock_and_keep_writers_away() {
    let mut seed = Seed::new(1);
    let folder = FaultFolder::new(seed.fork());
    run(&mut seed, |_| async {
        let one = create(&folder).await;
        let path = Path::new(FILE);
        let two = folder.open(path, OpenMode::Read, Caching::Buffered).await.expect("opened");
        one.lock_shared().await.expect("free");
        two.lock_shared().await.expect("a reader more");
        let refused = one.lock_exclusive().await;
        assert!(matches!(refused, Err(FileError::Locked { .. })), "{refused:?}");
        drop(two);
        one.lock_exclusive().await.expect("it is the last reader");
    });
}

/// Polls of a task that does nothing else: more than anything here takes.
async fn a_while() {
    for _ in 0..200 {
        tokio::task::yield_now().await;
    }
}

#[test]
fn what_stalls_is_answered_when_it_goes_on() {
    let mut seed = Seed::new(1);
    let folder = FaultFolder::new(seed.fork());
    run(&mut seed, |spawner| async move {
        let file = create(&folder).await;
        file.write_at(0, filled(512, 1)).await.expect("written");
        let (done, mut finished) = tokio::sync::mpsc::unbounded_channel();
        let stall = folder.stall();
        let writes = [(0, 2), (1024, 3)].map(|(at, byte)| {
            let (file, done) = (Arc::clone(&file), done.clone());
            async move {
                file.write_at(at, filled(512, byte)).await.expect("written");
                done.send("written").expect("the test listens");
            }
        });
        writes.into_iter().for_each(|write| spawner.spawn(write));
        let flush = async move {
            file.flush().await.expect("flushed");
            done.send("flushed").expect("the test listens");
        };
        spawner.spawn(flush);
        a_while().await;
        assert_eq!((stall.held(), finished.try_recv().ok()), (3, None));
        assert_eq!(content(&folder).await[0], 2, "reads are answered, and see what was written");
        drop(stall);
        let mut answers = Vec::new();
        while let Some(answer) = finished.recv().await {
            answers.push(answer);
        }
        answers.sort_unstable();
        assert_eq!(answers, ["flushed", "written", "written"]);
    });
}

#[test]
fn a_stall_may_begin_behind_some_flushes_and_end_in_a_power_cut() {
    let mut seed = Seed::new(1);
    let folder = FaultFolder::new(seed.fork());
    run(&mut seed, |spawner| async move {
        let file = create(&folder).await;
        let stall = folder.stall_after_flushes(1);
        for byte in [1, 2] {
            file.write_at(0, filled(512, byte)).await.expect("no flush is held yet");
            if byte == 1 {
                file.flush().await.expect("the first is answered");
            }
        }
        let (done, mut failed) = tokio::sync::oneshot::channel();
        let flush = async move {
            done.send(file.flush().await.is_err()).expect("the test listens");
        };
        spawner.spawn(flush);
        a_while().await;
        assert!(stall.held() == 1 && failed.try_recv().is_err());
        let found = content(&folder.crash(&mut Seed::new(1))).await;
        assert!(found.iter().all(|byte| [1, 2].contains(byte)), "what was flushed, or more");
        assert!(failed.await.expect("it ends"), "the power is gone");
    });
}

#[test]
fn the_same_seed_gives_the_same_run_and_others_differ() {
    let order = |number| {
        let mut seed = Seed::new(number);
        let folder = FaultFolder::new(seed.fork());
        run(&mut seed, |spawner| async move {
            let file = create(&folder).await;
            let (done, mut finished) = tokio::sync::mpsc::unbounded_channel();
            for byte in 0..20u8 {
                let (file, done) = (Arc::clone(&file), done.clone());
                spawner.spawn(async move {
                    file.write_at(u64::from(byte), filled(1, byte)).await.expect("written");
                    done.send(byte).expect("the test listens");
                });
            }
            drop(done);
            let mut order = Vec::new();
            while let Some(byte) = finished.recv().await {
                order.push(byte);
            }
            order
        })
    };
    assert_eq!(order(5), order(5));
    assert_ne!(order(5), order(6));
}

#[test]
#[should_panic(expected = "nothing is ready")]
fn a_dead_lock_is_noticed() {
    run(&mut Seed::new(1), |_| std::future::pending::<()>());
}
