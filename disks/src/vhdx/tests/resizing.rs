//! Growing: with room in the BAT, with a BAT that has to move, with blocks that have to be there at once.

use super::{Sort, at, create_at, filled, guids, in_memory, make, open_disk, read_all, write};
use crate::disk::Disk;
use crate::faults::{FaultFolder, Seed, run};
use crate::file::{Caching, OpenMode};
use crate::image::{Access, Location};
use crate::vhdx::{CreateOptions, check_with, info};
use crate::{ByteOffset, Durability};
use std::cell::Cell;
use std::task::Poll;

const GIB: u64 = 1 << 30;

async fn is_clean(location: &Location, what: &str) {
    let report = check_with(location, false, &guids()).await.expect(what);
    assert!(report.is_clean(), "{what}: {:?}", report.findings);
}

/// A BAT of 1 MiB has room for 128 GiB in blocks of 1 MiB; more than that needs a larger one.
#[test]
fn the_bat_moves_when_it_is_full() {
    in_memory(1, async |folder| {
        for sort in [(Sort::Dynamic, 512), (Sort::Child, 512), (Sort::Dynamic, 4096)] {
            let name = format!("{sort:?}.vhdx");
            let image = make(folder, &name, sort, 4 << 20).await;
            let disk = open_disk(&image, Access::Write).await;
            write(&*disk, 1 << 20, filled(4096, 1)).await.expect("written");
            for size in [100 * GIB, 300 * GIB, 2048 * GIB] {
                disk.resize(size).await.expect("grown");
                is_as_written(&*disk).await;
                let end = disk.read(super::range(size - 4096, 4096)).await.expect("read");
                assert!(end.iter().all(|byte| *byte == 0));
                // Space that the old BAT had is used again, and nothing of it is seen.
                write(&*disk, size - 8192, filled(4096, 2)).await.expect("written");
                disk.flush().await.expect("flushed");
                let end = disk.read(super::range(size - 8192, 8192)).await.expect("read");
                assert!(end[..4096].iter().all(|byte| *byte == 2));
                assert!(end[4096..].iter().all(|byte| *byte == 0));
            }
            drop(disk);
            is_clean(&image, &name).await;
            let disk = open_disk(&image, Access::Read).await;
            assert_eq!(disk.geometry().size_bytes, 2048 * GIB);
            is_as_written(&*disk).await;
        }
    });
}

async fn is_as_written(disk: &dyn Disk) {
    let start = disk.read(super::range(0, 4 << 20)).await.expect("read");
    assert!(start[1 << 20..(1 << 20) + 4096].iter().all(|byte| *byte == 1));
    assert_eq!(start.iter().filter(|byte| **byte != 0).count(), 4096);
}

#[test]
fn blocks_of_a_fixed_disk_are_there_at_once() {
    in_memory(2, async |folder| {
        let image = make(folder, "fixed.vhdx", (Sort::Fixed, 512), (2 << 20) + 512).await;
        let disk = open_disk(&image, Access::Write).await;
        write(&*disk, 0, filled((2 << 20) + 512, 3)).await.expect("written");
        for size in [(2 << 20) + 1024, 4 << 20, 9 << 20] {
            disk.resize(size).await.expect("grown");
        }
        drop(disk);
        is_clean(&image, "fixed").await;
        let report = check_with(&image, false, &guids()).await.expect("checked");
        assert_eq!((report.blocks, report.placed), (9, 9));
        let found = read_all(&*open_disk(&image, Access::Read).await).await;
        assert!(found[..(2 << 20) + 512].iter().all(|byte| *byte == 3));
        assert!(found[(2 << 20) + 512..].iter().all(|byte| *byte == 0));
    });
}

/// The largest disk there is, in the blocks of which it has most and fewest.
#[test]
fn sixty_four_tebibytes() {
    in_memory(3, async |folder| {
        for block in [32 << 20, 256 << 20] {
            let options = CreateOptions { block_bytes: block, ..CreateOptions::dynamic(64 << 40) };
            let image = create_at(folder, &format!("{block}.vhdx"), &options).await;
            let disk = open_disk(&image, Access::Write).await;
            let last = (64 << 40) - 4096;
            write(&*disk, last, filled(4096, 4)).await.expect("written");
            disk.flush().await.expect("flushed");
            assert!(disk.resize((64 << 40) + 512).await.is_err());
            drop(disk);
            let disk = open_disk(&image, Access::Read).await;
            let found = disk.read(super::range(last, 4096)).await.expect("read");
            assert!(found.iter().all(|byte| *byte == 4));
        }
    });
}

/// What the power takes when it goes.
#[derive(Clone, Copy, Debug)]
enum Crash {
    Any,
    One,
}

/// A resize is there or not after a crash at each of its flushes, and the content is.
#[test]
fn a_crash_leaves_the_old_size_or_the_new_one() {
    for sort in [(Sort::Dynamic, 512), (Sort::Fixed, 512), (Sort::Child, 4096)] {
        for (number, crash) in
            (0..4).map(|n| (n, Crash::Any)).chain((0..12).map(|n| (n, Crash::One)))
        {
            let mut flush = 1;
            while crash_while_growing(sort, number, flush, crash) {
                flush += 1;
            }
            assert!(flush > 4, "{sort:?}: only {flush} flushes");
        }
    }
}

fn crash_while_growing(sort: (Sort, u32), number: u64, flush: u64, crash: Crash) -> bool {
    // Enough for a larger BAT, but for the fixed one, whose BAT moves anyway.
    let to = if sort.0 == Sort::Fixed { 6 << 20 } else { 200 * GIB };
    let mut seed = Seed::new(number);
    let folder = FaultFolder::new(seed.fork());
    let grown = Cell::new(false);
    run(&mut seed, |_| async {
        let image = make(&folder, "image.vhdx", sort, 3 << 20).await;
        let disk = open_disk(&image, Access::Write).await;
        let data = filled(8192, 1);
        disk.write(ByteOffset::new(4096), data, Durability::Durable).await.expect("written");
        folder.crash_after_flushes(flush);
        let Ok(()) = disk.resize(to).await else { return };
        grown.set(true);
        // Where the old BAT was there may be a block now; replaying old entries would harm it.
        let Ok(()) = write(&*disk, 2 << 20, filled(1 << 20, 2)).await else { return };
        let _ = disk.flush().await;
    });
    let reached = folder.is_dead();
    let next = match crash {
        Crash::Any => folder.crash(&mut seed),
        Crash::One => folder.crash_losing_one(&mut seed),
    };
    let what = format!("{sort:?}, seed {number}, flush {flush}, {crash:?}");
    run(&mut seed, |_| async {
        let image = at(&next, "image.vhdx");
        let report = check_with(&image, false, &guids()).await.expect(&what);
        let header_alone = |name: &str| name == "VHDX header";
        assert!(report.findings.iter().all(|f| header_alone(f.problem.structure)), "{what}");
        let size = info(&image).await.expect(&what).disk_bytes;
        assert!(size == to || size == 3 << 20 && !grown.get(), "{what}: {size}");
        for access in [Access::Read, Access::Write] {
            let disk = open_disk(&image, access).await;
            assert_eq!(disk.geometry().size_bytes, size, "{what}");
            let found = disk.read(super::range(0, 2 << 20)).await.expect(&what);
            assert!(found[4096..12_288].iter().all(|byte| *byte == 1), "{what}");
            assert_eq!(found.iter().filter(|byte| **byte != 0).count(), 8192, "{what}");
        }
    });
    reached
}

/// A page of the BAT that is on its way while the BAT moves, and a guest writes where it was.
#[test]
fn a_page_is_not_read_from_where_the_bat_was() {
    for polls in 1..6 {
        for number in 0..24 {
            in_memory(number, async |folder| {
                let image = make(folder, "image.vhdx", (Sort::Dynamic, 512), 100 * GIB).await;
                let disk = open_disk(&image, Access::Write).await;
                write(&*disk, 50 * GIB, filled(4096, 1)).await.expect("written");
                disk.flush().await.expect("flushed");
                drop(disk);
                let disk = open_disk(&image, Access::Write).await;
                let mut late = disk.read(super::range(50 * GIB, 4096));
                let mut early = None;
                for _ in 0..polls {
                    if let Poll::Ready(found) = futures_util::poll!(late.as_mut()) {
                        early = Some(found);
                        break;
                    }
                }
                disk.resize(300 * GIB).await.expect("grown");
                // All ones are entries that nobody can make sense of.
                write(&*disk, 0, filled(1 << 20, 0xff)).await.expect("written");
                let found = match early {
                    Some(found) => found,
                    None => late.await,
                };
                assert!(found.expect("read").iter().all(|byte| *byte == 1), "{polls}, {number}");
            });
        }
    }
}

/// What a page in memory does not know of is not taken away with the next commit.
#[test]
fn new_blocks_of_a_fixed_disk_keep_their_space() {
    in_memory(4, async |folder| {
        let image = make(folder, "fixed.vhdx", (Sort::Fixed, 512), 2 << 20).await;
        let disk = open_disk(&image, Access::Write).await;
        write(&*disk, 0, filled(4096, 1)).await.expect("written");
        disk.resize(6 << 20).await.expect("grown");
        write(&*disk, 4 << 20, filled(4096, 2)).await.expect("written");
        disk.flush().await.expect("flushed");
        drop(disk);
        let report = check_with(&image, false, &guids()).await.expect("checked");
        assert!(report.is_clean(), "{:?}", report.findings);
        assert_eq!((report.blocks, report.placed), (6, 6));
        let length = image.folder.open(&image.path, OpenMode::Read, Caching::Buffered).await;
        let length = length.expect("there").length().await.expect("measured");
        assert!(length < 16 << 20, "{length} bytes: blocks have two places");
    });
}
