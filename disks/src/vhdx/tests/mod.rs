//! VHDX images over files that fail and over files of the kernel.

mod checks;
mod crashes;
mod fixtures;
mod parents;
mod qemu;
mod reopened;
mod resizing;

use super::{CreateOptions, Guid, Guids, Kind, create, info, open_with};
use crate::conformance::{self, Profile};
use crate::disk::{Disk, DiskError, Durability};
use crate::faults::{FaultFolder, Seed, run};
use crate::file::Folder;
use crate::image::{Access, BesideTheImage, Image, ImageError, ImageFile, Location, Opener};
use crate::uring::{Directory, Engine, EngineSettings};
use crate::{Buffer, ByteOffset, ByteRange};
use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

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

async fn read_all(disk: &dyn Disk) -> Vec<u8> {
    disk.read(disk.geometry().whole()).await.expect("read").to_vec()
}

/// GUIDs that no two calls give alike, and every run alike.
fn guids() -> Guids {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    Arc::new(|| {
        let number = NEXT.fetch_add(1, Ordering::Relaxed).to_le_bytes();
        Guid::from_random([number, number].concat().try_into().expect("sixteen bytes"))
    })
}

/// Folders of tests are handles of which there may be several.
trait Shared: Folder + Clone + 'static {}

impl<F: Folder + Clone + 'static> Shared for F {}

fn at(folder: &impl Shared, path: &str) -> Location {
    Location { folder: Arc::new(folder.clone()), path: PathBuf::from(path) }
}

async fn open(location: &Location, access: Access) -> Result<Image, ImageError> {
    let file = ImageFile::open(&*location.folder, &location.path, access).await?;
    let mut opener = Opener::new(&BesideTheImage);
    open_with(&mut opener, location, file, access, &guids()).await
}

async fn open_disk(location: &Location, access: Access) -> Arc<dyn Disk> {
    open(location, access).await.expect("opened").disk
}

async fn create_at(folder: &impl Shared, path: &str, options: &CreateOptions) -> Location {
    create(folder, Path::new(path), options, &guids()).await.expect("created");
    at(folder, path)
}

fn in_memory(number: u64, test: impl AsyncFn(&FaultFolder)) {
    let mut seed = Seed::new(number);
    let folder = FaultFolder::new(seed.fork());
    run(&mut seed, |_| test(&folder));
}

/// Runs a test on a folder of the kernel.
fn on_the_ring<Fut: Future<Output = ()> + 'static>(
    test: impl FnOnce(Directory, PathBuf) -> Fut + Send + 'static,
) {
    let folder = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).expect("a folder");
    let root = Directory::open(folder.path()).expect("it exists");
    let settings = EngineSettings { cores: 1, ring_entries: 64, blocking_threads: 2 };
    let engine = Engine::start(settings).expect("tests run on a kernel with io_uring");
    let path = folder.path().to_owned();
    engine.cores()[0].block_on(move || test(root, path)).expect("running");
}

/// What every suite runs on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Sort {
    Fixed,
    Dynamic,
    /// With a parent of zeroes, which reads like none.
    Child,
}

const SORTS: [(Sort, u32); 6] = [
    (Sort::Fixed, 512),
    (Sort::Dynamic, 512),
    (Sort::Child, 512),
    (Sort::Fixed, 4096),
    (Sort::Dynamic, 4096),
    (Sort::Child, 4096),
];

/// Makes an image of `size` zero bytes in blocks of 1 MiB.
async fn make(
    folder: &impl Shared,
    path: &str,
    (sort, sector): (Sort, u32),
    size: u64,
) -> Location {
    let dynamic = CreateOptions {
        block_bytes: 1 << 20,
        logical_sector: sector,
        ..CreateOptions::dynamic(size)
    };
    let options = match sort {
        Sort::Fixed => CreateOptions { kind: Kind::Fixed, ..dynamic },
        Sort::Dynamic => dynamic,
        Sort::Child => {
            let parent = format!("{path}.parent");
            let parent_at = create_at(folder, &parent, &dynamic).await;
            child_of(&parent_at).await
        }
    };
    create_at(folder, path, &options).await
}

/// A child of the image at `parent`, in the same folder, in blocks of 1 MiB.
async fn child_of(parent: &Location) -> CreateOptions {
    let info = info(parent).await.expect("it is an image");
    let name = parent.path.file_name().expect("a file").to_string_lossy();
    CreateOptions { block_bytes: 1 << 20, ..CreateOptions::child_of(&info, &format!(".\\{name}")) }
}

fn profile(sector: u32) -> Profile {
    Profile { logical_sector: sector, ..Profile::default() }
}

#[test]
fn conforms_in_memory() {
    for (number, sort) in (0..).zip(SORTS) {
        let mut seed = Seed::new(number);
        let mut choices = seed.fork();
        let folder = FaultFolder::new(seed.fork());
        let made = Cell::new(0);
        run(&mut seed, |_| {
            let make = async |size| {
                made.set(made.get() + 1);
                let path = format!("{}.vhdx", made.get());
                let location = make(&folder, &path, sort, size).await;
                open_disk(&location, Access::Write).await
            };
            conformance::writable_as(profile(sort.1), &mut choices, make)
        });
    }
}

#[test]
fn conforms_on_the_ring() {
    on_the_ring(async |root, _| {
        let made = Cell::new(0);
        for sort in SORTS {
            let make = async |size| {
                made.set(made.get() + 1);
                let path = format!("{}.vhdx", made.get());
                let location = make(&root, &path, sort, size).await;
                open_disk(&location, Access::Write).await
            };
            conformance::writable_as(profile(sort.1), &mut Seed::new(1), make).await;
        }
    });
}

#[test]
fn conforms_read_only() {
    for (number, sort) in (10..).zip(SORTS) {
        let mut seed = Seed::new(number);
        let mut choices = seed.fork();
        let folder = FaultFolder::new(seed.fork());
        let made = Cell::new(0);
        run(&mut seed, |_| {
            let make = async |content: Vec<u8>| {
                made.set(made.get() + 1);
                let path = format!("{}.vhdx", made.get());
                let location = make(&folder, &path, sort, content.len() as u64).await;
                let disk = open_disk(&location, Access::Write).await;
                write(&*disk, 0, Buffer::copy_of(&content)).await.expect("written");
                disk.flush().await.expect("flushed");
                drop(disk);
                open_disk(&location, Access::Read).await
            };
            conformance::read_only_as(profile(sort.1), &mut choices, make)
        });
    }
}
