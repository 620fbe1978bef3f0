//! The shared part of sparse formats, through a toy format, over files that fail and over files of the kernel.

mod crashes;
mod resizing;
mod toy;

use self::toy::Kind;
use super::{Conflict, Extent, Layer, MappedDisk, Place};
use crate::conformance;
use crate::disk::{Content, Disk, DiskError, Durability, ZeroMode};
use crate::faults::{Fault, FaultFolder, Seed, run};
use crate::file::Folder;
use crate::image::Access;
use crate::raw::RawDisk;
use crate::uring::{Directory, Engine, EngineSettings};
use crate::{Buffer, ByteOffset, ByteRange};
use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const KIB: u64 = 1 << 10;

/// Small blocks; large blocks; no zero entries and data that is not aligned; sectors that are told apart.
const KINDS: [Kind; 4] = [
    Kind { block_bytes: 8 * KIB, lead_bytes: 0, stores_zero: true, presence_unit: None },
    Kind { block_bytes: 1024 * KIB, lead_bytes: 0, stores_zero: true, presence_unit: None },
    Kind { block_bytes: 64 * KIB, lead_bytes: 512, stores_zero: false, presence_unit: None },
    Kind { block_bytes: 64 * KIB, lead_bytes: 0, stores_zero: true, presence_unit: Some(512) },
];

fn range(start: u64, length: u64) -> ByteRange {
    ByteRange::at(ByteOffset::new(start), length).expect("small")
}

fn filled(length: usize, byte: u8) -> Buffer {
    let mut buffer = Buffer::zeroed(length);
    buffer.fill(byte);
    buffer
}

async fn write(disk: &dyn Disk, at: u64, data: Buffer) -> Result<(), DiskError> {
    disk.write(ByteOffset::new(at), data, Durability::Cached).await
}

/// A parent that is all zeroes reads like none, so the same suite serves.
async fn zero_parent(folder: &dyn Folder, name: &str, size: u64) -> Arc<dyn Disk> {
    let path = PathBuf::from(format!("{name}.parent"));
    Arc::new(RawDisk::create(folder, &path, size).await.expect("created"))
}

async fn next_disk(
    folder: &dyn Folder,
    made: &Cell<u32>,
    kind: Kind,
    child: bool,
    size: u64,
) -> Arc<dyn Disk> {
    made.set(made.get() + 1);
    let name = format!("image-{}", made.get());
    let parent = if child { Some(zero_parent(folder, &name, size).await) } else { None };
    Arc::new(toy::create(folder, Path::new(&name), kind, size, parent).await)
}

fn in_memory(number: u64, test: impl AsyncFn(&FaultFolder)) {
    let mut seed = Seed::new(number);
    let folder = FaultFolder::new(seed.fork());
    run(&mut seed, |_| test(&folder));
}

#[test]
fn conforms_in_memory() {
    for (number, kind) in KINDS.into_iter().enumerate() {
        for child in [false, true] {
            let mut seed = Seed::new(number as u64);
            let mut choices = seed.fork();
            let folder = FaultFolder::new(seed.fork());
            let made = Cell::new(0);
            run(&mut seed, |_| {
                let make = async |size| next_disk(&folder, &made, kind, child, size).await;
                conformance::writable(&mut choices, make)
            });
        }
    }
}

#[test]
fn conforms_on_the_ring() {
    let folder = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).expect("a folder");
    let root = Directory::open(folder.path()).expect("it exists");
    let settings = EngineSettings { cores: 1, ring_entries: 64, blocking_threads: 2 };
    let engine = Engine::start(settings).expect("tests run on a kernel with io_uring");
    let test = async move || {
        let made = Cell::new(0);
        for kind in KINDS {
            let make = async |size| next_disk(&root, &made, kind, false, size).await;
            conformance::writable(&mut Seed::new(1), make).await;
        }
    };
    engine.cores()[0].block_on(test).expect("running");
}

#[test]
fn a_child_reads_what_it_does_not_have_from_its_parent() {
    for (number, kind) in KINDS.into_iter().enumerate() {
        in_memory(number as u64, async |folder| {
            let size = 4 << 20;
            let parent = zero_parent(folder, "child", size).await;
            write(&*parent, 0, filled(3 << 20, 7)).await.expect("written");
            let path = Path::new("child");
            let child = toy::create(folder, path, kind, size + 4096, Some(parent.clone())).await;
            let mut expected = [vec![7; 3 << 20], vec![0; (1 << 20) + 4096]].concat();
            assert!(*child.read(child.geometry().whole()).await.expect("read") == *expected);
            for (at, length, byte) in [(100, 1000, 1), (70_000, 66_000, 2), (2 << 20, 600_000, 3)] {
                write(&child, at, filled(length, byte)).await.expect("written");
                let at = usize::try_from(at).expect("small");
                expected[at..at + length].fill(byte);
            }
            child.discard(range(1 << 20, 512 << 10)).await.expect("discarded");
            expected[1 << 20..(1 << 20) + (512 << 10)].fill(0);
            assert!(*child.read(child.geometry().whole()).await.expect("read") == *expected);
            child.flush().await.expect("flushed");
            drop(child);
            let child = toy::open(folder, path, kind, Access::Read, Some(parent)).await;
            assert!(*child.read(child.geometry().whole()).await.expect("read") == *expected);
        });
    }
}

#[test]
fn a_child_tells_what_is_its_own() {
    in_memory(3, async |folder| {
        let parent = zero_parent(folder, "child", 1 << 20).await;
        let kind = KINDS[3];
        let child =
            toy::create(folder, Path::new("child"), kind, 1 << 20, Some(parent.clone())).await;
        write(&child, 66_000, filled(1000, 1)).await.expect("written");
        child.discard(range(128 * KIB, 64 * KIB)).await.expect("discarded");
        let own: Vec<_> = child
            .own(child.geometry().whole())
            .await
            .expect("listed")
            .into_iter()
            .filter_map(|part| Some((part.range, part.content?)))
            .collect();
        let sectors = range(66_000, 1000).widen(512);
        assert_eq!(own, [(sectors, Content::Data), (range(128 * KIB, 64 * KIB), Content::Hole)]);
    });
}

async fn used_bytes(disk: &MappedDisk) -> u64 {
    disk.space.end() - disk.space.free_bytes()
}

#[test]
fn discarded_space_is_used_again_and_the_file_does_not_grow() {
    for kind in KINDS {
        in_memory(5, async |folder| {
            let disk = toy::create(folder, Path::new("image"), kind, 4 << 20, None).await;
            let before = used_bytes(&disk).await;
            write(&disk, 0, filled(2 << 20, 1)).await.expect("written");
            disk.flush().await.expect("flushed");
            let end = disk.space.end();
            for round in 2..6 {
                disk.discard(range(0, 2 << 20)).await.expect("discarded");
                disk.flush().await.expect("flushed");
                assert_eq!(used_bytes(&disk).await, before);
                write(&disk, 0, filled(2 << 20, round)).await.expect("written");
                disk.flush().await.expect("flushed");
            }
            assert_eq!(disk.space.end(), end, "{kind:?}");
            let read = disk.read(disk.geometry().whole()).await.expect("read");
            assert!(read[..2 << 20].iter().all(|byte| *byte == 5));
            assert!(read[2 << 20..].iter().all(|byte| *byte == 0));
        });
    }
}

#[test]
fn space_that_is_used_again_shows_nothing_of_its_past() {
    in_memory(6, async |folder| {
        for kind in KINDS {
            let path = PathBuf::from(format!("{kind:?}"));
            let disk = toy::create(folder, &path, kind, 4 << 20, None).await;
            write(&disk, 0, filled(1 << 20, 0xee)).await.expect("written");
            disk.flush().await.expect("flushed");
            disk.discard(range(0, 1 << 20)).await.expect("discarded");
            disk.flush().await.expect("flushed");
            write(&disk, 3 << 20, filled(10, 1)).await.expect("written");
            let read = disk.read(disk.geometry().whole()).await.expect("read");
            assert!(read.iter().all(|byte| *byte != 0xee));
        }
    });
}

#[test]
fn many_writes_into_one_new_block_take_the_space_of_one() {
    in_memory(12, async |folder| {
        let disk = toy::create(folder, Path::new("image"), KINDS[1], 4 << 20, None).await;
        let before = disk.space.end();
        let writes = (0..32).map(|number| write(&disk, number * 8192, filled(8192, 1)));
        for written in futures_util::future::join_all(writes).await {
            written.expect("written");
        }
        assert_eq!(disk.space.end(), before + (1 << 20));
    });
}

#[test]
fn freed_space_waits_for_the_flush() {
    in_memory(8, async |folder| {
        let disk = toy::create(folder, Path::new("image"), KINDS[0], 1 << 20, None).await;
        write(&disk, 0, filled(8192, 1)).await.expect("written");
        disk.flush().await.expect("flushed");
        disk.discard(range(0, 8192)).await.expect("discarded");
        let before = disk.space.free_bytes();
        let reader = disk.generations.enter();
        disk.flush().await.expect("flushed");
        assert_eq!(disk.space.free_bytes(), before, "a request from before may read it");
        drop(reader);
        assert_eq!(disk.space.free_bytes(), before + 8192);
    });
}

#[test]
fn a_failed_commit_is_tried_again_after_lack_of_space_only() {
    in_memory(9, async |folder| {
        let path = Path::new("image");
        let disk = toy::create(folder, path, KINDS[0], 1 << 20, None).await;
        write(&disk, 0, filled(8192, 1)).await.expect("written");
        folder.fail_next(Fault::Flush);
        disk.flush().await.expect_err("ordered");
        let refused = disk.flush().await;
        assert!(matches!(refused, Err(DiskError::Failed(_))), "{refused:?}");
        let refused = write(&disk, 0, filled(8192, 1)).await;
        assert!(matches!(refused, Err(DiskError::Failed(_))), "{refused:?}");
        disk.read(range(0, 8192)).await.expect("reads go on");
        drop(disk);

        let disk = toy::open(folder, path, KINDS[0], Access::Write, None).await;
        folder.set_capacity(Some(0));
        let full = write(&disk, 64 * KIB, filled(8192, 1)).await;
        assert!(matches!(full, Err(DiskError::NoSpace(_))), "{full:?}");
        folder.set_capacity(None);
        write(&disk, 64 * KIB, filled(8192, 2)).await.expect("there is space again");
        disk.flush().await.expect("flushed");
        drop(disk);
        let disk = toy::open(folder, path, KINDS[0], Access::Read, None).await;
        let read = disk.read(range(64 * KIB, 8192)).await.expect("read");
        assert!(read.iter().all(|byte| *byte == 2));
    });
}

#[test]
fn an_abandoned_flush_loses_no_changes() {
    for polls in 1..30 {
        in_memory(polls, async |folder| {
            let path = Path::new("image");
            let disk = toy::create(folder, path, KINDS[0], 1 << 20, None).await;
            write(&disk, 0, filled(8192, 1)).await.expect("written");
            {
                let mut flush = disk.flush();
                for _ in 0..polls {
                    if futures_util::poll!(flush.as_mut()).is_ready() {
                        break;
                    }
                }
            }
            disk.flush().await.expect("flushed");
            drop(disk);
            let disk = toy::open(folder, path, KINDS[0], Access::Read, None).await;
            let read = disk.read(range(0, 8192)).await.expect("read");
            assert!(read.iter().all(|byte| *byte == 1), "after {polls} polls");
        });
    }
}

#[test]
fn allocated_zeroes_take_space_and_holes_are_told_apart() {
    in_memory(10, async |folder| {
        let disk = toy::create(folder, Path::new("image"), KINDS[1], 4 << 20, None).await;
        let zero = range(1 << 20, 8192);
        disk.write_zeroes(zero, ZeroMode::Allocate, Durability::Cached).await.expect("zeroed");
        write(&disk, 2 << 20, filled(4096, 1)).await.expect("written");
        let mapped = disk.map(disk.geometry().whole()).await.expect("mapped");
        let of = |content| {
            let parts = mapped.iter().filter(|part| part.content == content);
            parts.map(|part| part.range.length()).sum::<u64>()
        };
        assert_eq!(of(Content::Hole), 2 << 20);
        assert!(of(Content::Data) <= 8192 + 4096, "{mapped:?}");
        assert!(of(Content::Zero) >= (2 << 20) - 8192 - 4096, "{mapped:?}");
    });
}

#[test]
fn conflicts_are_found_and_named() {
    in_memory(11, async |folder| {
        let (path, kind) = (Path::new("image"), KINDS[0]);
        let disk = toy::create(folder, path, kind, 1 << 20, None).await;
        write(&disk, 0, filled(3 * 8192, 1)).await.expect("written");
        disk.flush().await.expect("flushed");
        drop(disk);
        let table = toy::table(folder, path, kind).await;
        let usage = toy::usage(&table, 1 << 20, table.file_bytes()).await;
        assert_eq!((usage.placed, usage.zero, usage.conflicts.len()), (3, 0, 0));
        let end = table.file_bytes();
        let first = 1 << 20;
        table.put_entry(9, Place::At(first + 4096)).await;
        table.put_entry(10, Place::At(4096)).await;
        table.put_entry(11, Place::At(end)).await;
        let usage = toy::usage(&table, 1 << 20, end).await;
        let extent = |offset| Extent { offset, length: 8192 };
        let expected = [
            Conflict::PastTheEnd { block: 11, extent: extent(end) },
            Conflict::WithStructure { block: 10, extent: extent(4096), structure: "toy header" },
            Conflict::BetweenBlocks { blocks: (0, 9), extent: extent(first + 4096) },
            Conflict::BetweenBlocks { blocks: (1, 9), extent: extent(first + 4096) },
        ];
        for conflict in &expected {
            assert!(usage.conflicts.contains(conflict), "{conflict:?} in {:?}", usage.conflicts);
        }
    });
}

#[test]
fn what_is_written_at_once_lies_in_one_piece() {
    for seed in 0..50 {
        in_memory(seed, async |folder| {
            let (path, length) = (Path::new("together"), 512 << 10);
            let disk = toy::create(folder, path, KINDS[0], 8 << 20, None).await;
            let disk = &disk;
            let writes = (0..8).map(|n| write(disk, n * length, filled(512 << 10, 1)));
            for written in futures_util::future::join_all(writes).await {
                written.expect("there is room");
            }
            for n in 0..8 {
                let pieces = disk.resolve(range(n * length, length), usize::MAX).await;
                assert_eq!(pieces.expect("resolved").len(), 1, "write {n}");
            }
            assert_eq!(disk.space.free_bytes(), 0, "what was taken ahead is in use");
        });
    }
}

#[test]
fn what_was_taken_ahead_and_is_not_needed_is_free_again() {
    in_memory(1, async |folder| {
        let disk = toy::create(folder, Path::new("twice"), KINDS[0], 8 << 20, None).await;
        let before = disk.space.end();
        let one = write(&disk, 0, filled(512 << 10, 1));
        let other = write(&disk, 256 << 10, filled(512 << 10, 1));
        let (one, other) = futures_util::join!(one, other);
        one.and(other).expect("written");
        let used = disk.space.end() - before - disk.space.free_bytes();
        assert_eq!(used, 768 << 10, "each block has one home");
        assert!(disk.space.free_bytes() > 0, "both took space for the blocks they share");
    });
}
