//! Raw images over files that fail and over files of the kernel.

use super::RawDisk;
use crate::conformance::{self, Profile};
use crate::disk::{Disk, DiskError, Durability, ZeroMode};
use crate::faults::{Fault, FaultFolder, Seed, run};
use crate::file::{Caching, FileError, FileFuture, FileIo, Folder, OpenMode};
use crate::image::{Access, ImageFile};
use crate::uring::tests::devices::LoopDevice;
use crate::uring::{Directory, Engine, EngineSettings};
use crate::{Buffer, ByteOffset, ByteRange};
use std::cell::{Cell, RefCell};
use std::path::{Path, PathBuf};
use std::sync::Arc;

const IMAGE: &str = "image";

fn filled(length: usize, byte: u8) -> Buffer {
    let mut buffer = Buffer::zeroed(length);
    buffer.fill(byte);
    buffer
}

/// A folder of the fault-injecting kind, and a disk in it.
async fn disk(folder: &FaultFolder, size: u64) -> RawDisk {
    RawDisk::create(folder, Path::new(IMAGE), size).await.expect("created")
}

async fn write(disk: &RawDisk, at: u64, data: Buffer) -> Result<(), DiskError> {
    disk.write(ByteOffset::new(at), data, Durability::Cached).await
}

/// Runs a test without interest in its choices.
fn in_memory(test: impl AsyncFn(&FaultFolder)) {
    let mut seed = Seed::new(7);
    let folder = FaultFolder::new(seed.fork());
    run(&mut seed, |_| test(&folder));
}

/// Makes one image after another.
async fn next_disk(folder: &dyn Folder, made: &Cell<u32>, size: u64) -> Arc<dyn Disk> {
    made.set(made.get() + 1);
    let path = PathBuf::from(format!("image-{}", made.get()));
    Arc::new(RawDisk::create(folder, &path, size).await.expect("created"))
}

#[test]
fn conforms_in_memory() {
    for number in 0..5 {
        let mut seed = Seed::new(number);
        let mut choices = seed.fork();
        let folder = FaultFolder::new(seed.fork());
        let made = Cell::new(0);
        run(&mut seed, |_| {
            conformance::writable(&mut choices, async |size| next_disk(&folder, &made, size).await)
        });
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
        let make = async |size| next_disk(&root, &made, size).await;
        conformance::writable(&mut Seed::new(1), make).await;
    };
    engine.cores()[0].block_on(test).expect("running");
}

#[test]
fn conforms_with_large_sectors() {
    let profile = Profile { logical_sector: 4096, grows: true };
    let mut seed = Seed::new(4);
    let mut choices = seed.fork();
    let folder = FaultFolder::new(seed.fork());
    let made = Cell::new(0);
    run(&mut seed, |_| async {
        let make = async |size| {
            made.set(made.get() + 1);
            let path = PathBuf::from(format!("image-{}", made.get()));
            drop(RawDisk::create(&folder, &path, size).await.expect("created"));
            let file = ImageFile::open(&folder, &path, Access::Write).await.expect("opened");
            Arc::new(RawDisk::over(file, 4096).expect("whole sectors")) as Arc<dyn Disk>
        };
        conformance::writable_as(profile, &mut choices, make).await;
        let path = Path::new("odd");
        drop(RawDisk::create(&folder, path, 4096 + 512).await.expect("created"));
        for sector in [4096, 1024] {
            let file = ImageFile::open(&folder, path, Access::Read).await.expect("opened");
            let refused = RawDisk::over(file, sector).map(drop);
            match sector {
                4096 => assert!(matches!(refused, Err(DiskError::InvalidSize { .. }))),
                _ => assert!(matches!(refused, Err(DiskError::InvalidSector { bytes: 1024 }))),
            }
        }
    });
}

/// Needs loop devices, and so the rights of root.
#[test]
fn devices_conform() {
    for logical_sector in [512, 4096] {
        let profile = Profile { logical_sector, grows: false };
        let settings = EngineSettings { cores: 1, ring_entries: 64, blocking_threads: 2 };
        let engine = Engine::start(settings).expect("tests run on a kernel with io_uring");
        let test = async move || {
            let devices = RefCell::new(Vec::new());
            let make = async |size| {
                let device = LoopDevice::new(size, logical_sector);
                let (folder, name) = (device.folder(), device.name());
                // What is said of the sectors of a device is of no account.
                let file = ImageFile::open(&folder, &name, Access::Write).await.expect("opened");
                let disk = RawDisk::over(file, 512).expect("whole sectors");
                devices.borrow_mut().push(device);
                Arc::new(disk) as Arc<dyn Disk>
            };
            conformance::writable_as(profile, &mut Seed::new(1), make).await;
        };
        engine.cores()[0].block_on(test).expect("running");
    }
}

#[test]
fn a_device_holds_the_bytes_of_the_disk() {
    let device = LoopDevice::new(64 << 10, 4096);
    let settings = EngineSettings { cores: 1, ring_entries: 64, blocking_threads: 2 };
    let engine = Engine::start(settings).expect("tests run on a kernel with io_uring");
    let test = async move || {
        let (folder, name) = (device.folder(), device.name());
        let disk = RawDisk::open(&folder, &name, Some(64 << 10), false).await.expect("opened");
        write(&disk, 5000, filled(3000, 9)).await.expect("written");
        disk.flush().await.expect("flushed");
        let again = RawDisk::open(&folder, &name, None, false).await.map(drop);
        assert!(matches!(again, Err(DiskError::File(FileError::Locked { .. }))), "{again:?}");
        let mut expected = vec![0; 64 << 10];
        expected[5000..8000].fill(9);
        assert!(std::fs::read(device.backing()).expect("read") == expected);
    };
    engine.cores()[0].block_on(test).expect("running");
}

#[test]
fn conforms_read_only() {
    let mut seed = Seed::new(3);
    let mut choices = seed.fork();
    let folder = FaultFolder::new(seed.fork());
    run(&mut seed, |_| async {
        conformance::read_only(&mut choices, async |content: Vec<u8>| {
            let path = Path::new(IMAGE);
            if folder.list(Path::new("")).await.expect("listed").contains(&IMAGE.to_owned()) {
                folder.remove(path).await.expect("removed");
            }
            let image = disk(&folder, content.len() as u64).await;
            write(&image, 0, Buffer::copy_of(&content)).await.expect("written");
            drop(image);
            let image = RawDisk::open(&folder, path, None, true).await.expect("opened");
            Arc::new(image) as Arc<dyn Disk>
        })
        .await;
    });
}

#[test]
fn the_file_is_as_long_as_the_disk() {
    let folder = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).expect("a folder");
    let root = Directory::open(folder.path()).expect("it exists");
    let engine = Engine::start(EngineSettings { cores: 1, ..EngineSettings::default() });
    let engine = engine.expect("tests run on a kernel with io_uring");
    engine.cores()[0]
        .block_on(move || async move {
            let path = Path::new(IMAGE);
            let disk = RawDisk::create(&root, path, 10_240).await.expect("created");
            write(&disk, 3000, filled(7240, 9)).await.expect("written");
            disk.flush().await.expect("flushed");
            let bytes = std::fs::read(folder.path().join(IMAGE)).expect("read");
            assert_eq!(bytes, [vec![0; 3000], vec![9; 7240]].concat());
        })
        .expect("running");
}

#[test]
fn flushed_and_durable_writes_survive_a_power_cut() {
    for number in 0..100 {
        let mut seed = Seed::new(number);
        let folder = FaultFolder::new(seed.fork());
        run(&mut seed, |_| async {
            let disk = disk(&folder, 4096 * 3 + 512).await;
            write(&disk, 100, filled(8000, 1)).await.expect("written");
            write(&disk, 12_200, filled(600, 2)).await.expect("written");
            disk.flush().await.expect("flushed");
            let at = ByteOffset::new(200);
            disk.write(at, filled(10, 3), Durability::Durable).await.expect("written");
            let zeroes = ByteRange::at(ByteOffset::new(300), 5000).expect("small");
            disk.write_zeroes(zeroes, ZeroMode::Unmap, Durability::Durable).await.expect("zeroed");
            // Not flushed; it must not harm its neighbours in the block.
            write(&disk, 500, filled(1, 4)).await.expect("written");
        });
        let next = folder.crash(&mut seed);
        run(&mut seed, |_| async {
            let disk = RawDisk::open(&next, Path::new(IMAGE), Some(12_800), false).await;
            let disk = disk.expect("it was created durably");
            let mut found = disk.read(disk.geometry().whole()).await.expect("read").to_vec();
            assert!([0, 4].contains(&found[500]), "seed {number}: {}", found[500]);
            found[500] = 0;
            let mut expected = vec![0; 12_800];
            expected[100..8100].fill(1);
            expected[12_200..].fill(2);
            expected[200..210].fill(3);
            expected[300..5300].fill(0);
            assert!(found == expected, "seed {number}");
        });
    }
}

#[test]
fn a_failed_write_poisons_and_reads_go_on() {
    in_memory(async |folder| {
        let disk = disk(folder, 8192).await;
        write(&disk, 0, filled(4096, 1)).await.expect("written");
        folder.fail_next(Fault::Write);
        let failed = write(&disk, 4096, filled(4096, 2)).await;
        assert!(matches!(failed, Err(DiskError::File(_))), "{failed:?}");
        for refused in [
            write(&disk, 0, filled(4096, 3)).await,
            disk.write_zeroes(ByteRange::up_to(512), ZeroMode::Unmap, Durability::Cached).await,
            disk.discard(ByteRange::up_to(8192)).await,
            disk.flush().await,
            disk.resize(16_384).await,
        ] {
            assert!(matches!(refused, Err(DiskError::Failed(_))), "{refused:?}");
        }
        let read = disk.read(ByteRange::up_to(4096)).await.expect("reads go on");
        assert!(read.iter().all(|byte| *byte == 1));
        drop(disk);
        let disk = RawDisk::open(folder, Path::new(IMAGE), None, false).await.expect("reopened");
        write(&disk, 0, filled(4096, 3)).await.expect("a new start");
    });
}

#[test]
fn a_failed_flush_poisons() {
    in_memory(async |folder| {
        let disk = disk(folder, 8192).await;
        folder.fail_next(Fault::Flush);
        disk.flush().await.expect_err("ordered");
        let refused = write(&disk, 0, filled(4096, 3)).await;
        assert!(matches!(refused, Err(DiskError::Failed(_))), "{refused:?}");
    });
}

#[test]
fn a_failed_read_is_only_that() {
    in_memory(async |folder| {
        let disk = disk(folder, 8192).await;
        folder.fail_next(Fault::Read);
        disk.read(ByteRange::up_to(512)).await.expect_err("ordered");
        disk.read(ByteRange::up_to(512)).await.expect("once");
        write(&disk, 0, filled(4096, 3)).await.expect("nothing is wrong with writes");
    });
}

#[test]
fn a_full_file_system_harms_nothing() {
    in_memory(async |folder| {
        let disk = disk(folder, 4 * 4096).await;
        write(&disk, 0, filled(4096, 1)).await.expect("written");
        folder.set_capacity(Some(4096));
        let full = write(&disk, 4096, filled(4096, 2)).await;
        assert!(matches!(full, Err(DiskError::NoSpace(_))), "{full:?}");
        let range = ByteRange::up_to(8192);
        let full = disk.write_zeroes(range, ZeroMode::Allocate, Durability::Cached).await;
        assert!(matches!(full, Err(DiskError::NoSpace(_))), "{full:?}");
        write(&disk, 0, filled(4096, 3)).await.expect("that space is there");
        folder.set_capacity(None);
        write(&disk, 4096, filled(4096, 2)).await.expect("there is space again");
        let read = disk.read(range).await.expect("read");
        assert_eq!(*read, *[vec![3; 4096], vec![2; 4096]].concat());
    });
}

#[test]
fn discarding_gives_space_back() {
    in_memory(async |folder| {
        let disk = disk(folder, 16 * 4096).await;
        folder.set_capacity(Some(16 * 4096));
        write(&disk, 0, filled(16 * 4096, 1)).await.expect("written");
        let middle = ByteRange::at(ByteOffset::new(100), 3 * 4096).expect("small");
        disk.discard(middle).await.expect("discarded");
        assert_eq!(folder.free_bytes().await.expect("measured"), 2 * 4096);
        disk.write_zeroes(middle, ZeroMode::Unmap, Durability::Cached).await.expect("zeroed");
        assert_eq!(folder.free_bytes().await.expect("measured"), 2 * 4096);
    });
}

/// A file of a file system that can neither punch holes nor zero ranges, as tmpfs of older kernels.
struct Plain(Arc<dyn FileIo>);

impl Plain {
    fn refuse(&self) -> FileFuture<'_, ()> {
        let source = Arc::new(std::io::Error::from_raw_os_error(libc::EOPNOTSUPP));
        let refused = FileError::Os { path: PathBuf::from(IMAGE), operation: "zeroing", source };
        Box::pin(std::future::ready(Err(refused)))
    }
}

impl FileIo for Plain {
    fn read_at(&self, offset: u64, into: Buffer) -> FileFuture<'_, Buffer> {
        self.0.read_at(offset, into)
    }

    fn write_at(&self, offset: u64, from: Buffer) -> FileFuture<'_, Buffer> {
        self.0.write_at(offset, from)
    }

    fn flush(&self) -> FileFuture<'_, ()> {
        self.0.flush()
    }

    fn length(&self) -> FileFuture<'_, u64> {
        self.0.length()
    }

    fn set_length(&self, length: u64) -> FileFuture<'_, ()> {
        self.0.set_length(length)
    }

    fn allocate(&self, offset: u64, length: u64) -> FileFuture<'_, ()> {
        self.0.allocate(offset, length)
    }

    fn punch_hole(&self, _offset: u64, _length: u64) -> FileFuture<'_, ()> {
        self.refuse()
    }

    fn zero_range(&self, _offset: u64, _length: u64) -> FileFuture<'_, ()> {
        self.refuse()
    }

    fn next_data(&self, offset: u64) -> FileFuture<'_, Option<(u64, u64)>> {
        self.0.next_data(offset)
    }

    fn lock_exclusive(&self) -> FileFuture<'_, ()> {
        self.0.lock_exclusive()
    }

    fn lock_shared(&self) -> FileFuture<'_, ()> {
        self.0.lock_shared()
    }
}

#[test]
fn conforms_where_holes_cannot_be_punched() {
    let mut seed = Seed::new(5);
    let mut choices = seed.fork();
    let folder = FaultFolder::new(seed.fork());
    let made = Cell::new(0);
    run(&mut seed, |_| async {
        let make = async |size| {
            made.set(made.get() + 1);
            let path = PathBuf::from(format!("image-{}", made.get()));
            let direct = folder.open(&path, OpenMode::CreateNew, Caching::Direct).await;
            let direct = direct.expect("created");
            direct.set_length(size).await.expect("resized");
            let buffered = folder.open(&path, OpenMode::ReadWrite, Caching::Buffered).await;
            let [direct, buffered] = [direct, buffered.expect("opened")].map(Plain).map(Arc::new);
            let file = ImageFile::new(path, direct, buffered, size, Access::Write);
            Arc::new(RawDisk::over(file, 512).expect("whole sectors")) as Arc<dyn Disk>
        };
        conformance::writable(&mut choices, make).await;
    });
}

#[test]
fn an_image_is_opened_for_writing_once_and_has_its_size() {
    in_memory(async |folder| {
        let path = Path::new(IMAGE);
        let image = disk(folder, 8192).await;
        let again = RawDisk::open(folder, path, None, false).await.map(drop);
        assert!(matches!(again, Err(DiskError::File(FileError::Locked { .. }))), "{again:?}");
        RawDisk::open(folder, path, None, true).await.expect("reading harms nobody");
        drop(image);
        RawDisk::open(folder, path, Some(8192), false).await.expect("free again");
        let wrong = RawDisk::open(folder, path, Some(4096), false).await.map(drop);
        let Err(DiskError::WrongSize { found_bytes, expected_bytes }) = wrong else {
            panic!("{wrong:?}")
        };
        assert_eq!((found_bytes, expected_bytes), (8192, 4096));
        let exists = RawDisk::create(folder, path, 8192).await.map(drop);
        assert!(matches!(exists, Err(DiskError::File(FileError::Exists { .. }))), "{exists:?}");
        for size in [0, 100, 513, u64::MAX] {
            let refused = RawDisk::create(folder, Path::new("other"), size).await.map(drop);
            assert!(matches!(refused, Err(DiskError::InvalidSize { .. })), "{refused:?}");
        }
    });
}
