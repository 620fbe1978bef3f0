//! VHDs of all kinds over files that fail and over files of the kernel.

mod crashes;
mod files;
mod reference;

use super::format::{Timestamp, UniqueId};
use super::{NewKind, Recipe, check, create};
use crate::conformance;
use crate::disk::{Disk, DiskError, Durability, ZeroMode};
use crate::faults::{FaultFolder, Seed, run};
use crate::file::{Caching, FileError, Folder, OpenMode};
use crate::image::{Access, BesideTheImage, Format, Image, ImageError, Location, Opener, Report};
use crate::mapped::Layer;
use crate::uring::{Directory, Engine, EngineSettings};
use crate::{Buffer, ByteOffset, ByteRange};
use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const KIB: u32 = 1 << 10;

/// All kinds that can be written. The smallest blocks have bitmaps as long as their data.
const KINDS: [NewKind; 5] = [
    NewKind::Fixed,
    NewKind::Dynamic { block_bytes: 512 },
    NewKind::Dynamic { block_bytes: 8 * KIB },
    NewKind::Dynamic { block_bytes: 64 * KIB },
    NewKind::DYNAMIC,
];

fn range(start: u64, length: u64) -> ByteRange {
    ByteRange::at(ByteOffset::new(start), length).expect("small")
}

fn filled(length: usize, byte: u8) -> Buffer {
    let mut buffer = Buffer::zeroed(length);
    buffer.fill(byte);
    buffer
}

fn recipe(kind: NewKind, size_bytes: u64) -> Recipe {
    Recipe { kind, size_bytes, unique_id: UniqueId([0xa5; 16]), timestamp: Timestamp(7) }
}

fn location(folder: &(impl Folder + Clone + 'static), name: &str) -> Location {
    Location { folder: Arc::new(folder.clone()), path: PathBuf::from(name) }
}

async fn open(location: &Location, access: Access) -> Result<Image, ImageError> {
    Opener::new(&BesideTheImage).open(location, Some(Format::Vhd), access).await
}

async fn open_disk(location: &Location, access: Access) -> Arc<dyn Layer> {
    open(location, access).await.expect("opened").disk
}

async fn examine(location: &Location, repair: bool) -> Report {
    check(&mut Opener::new(&BesideTheImage), location, repair).await.expect("checked")
}

async fn write(disk: &dyn Disk, at: u64, data: Buffer) -> Result<(), DiskError> {
    disk.write(ByteOffset::new(at), data, Durability::Cached).await
}

/// All bytes of a file.
async fn bytes_of(location: &Location) -> Vec<u8> {
    let opened = location.folder.open(&location.path, OpenMode::Read, Caching::Buffered).await;
    let file = opened.expect("opened");
    let length = usize::try_from(file.length().await.expect("measured")).expect("small");
    file.read_at(0, Buffer::zeroed(length)).await.expect("read").to_vec()
}

/// Makes a file of these bytes, in place of any there is.
async fn put(location: &Location, bytes: &[u8]) {
    match location.folder.remove(&location.path).await {
        Ok(()) | Err(FileError::NotFound { .. }) => {}
        Err(error) => panic!("{error}"),
    }
    let mode = OpenMode::CreateNew;
    let file = location.folder.open(&location.path, mode, Caching::Buffered).await;
    let file = file.expect("created");
    file.write_at(0, Buffer::copy_of(bytes)).await.expect("written");
    file.flush().await.expect("flushed");
    location.folder.sync(Path::new("")).await.expect("synced");
}

fn in_memory(number: u64, test: impl AsyncFn(&FaultFolder)) {
    let mut seed = Seed::new(number);
    let folder = FaultFolder::new(seed.fork());
    run(&mut seed, |_| test(&folder));
}

/// A new disk under a name of its own.
async fn next_disk(
    folder: &(impl Folder + Clone + 'static),
    made: &Cell<u32>,
    kind: NewKind,
    size: u64,
) -> Arc<dyn Disk> {
    made.set(made.get() + 1);
    let location = location(folder, &format!("image-{}", made.get()));
    create(&location, &recipe(kind, size)).await.expect("created");
    open_disk(&location, Access::Write).await
}

#[test]
fn conforms_in_memory() {
    // The smallest blocks would take the suite longer than all others together.
    let kinds = KINDS.into_iter().filter(|kind| *kind != NewKind::Dynamic { block_bytes: 512 });
    for (number, kind) in kinds.enumerate() {
        let mut seed = Seed::new(number as u64);
        let mut choices = seed.fork();
        let folder = FaultFolder::new(seed.fork());
        let made = Cell::new(0);
        run(&mut seed, |_| {
            let make = async |size| next_disk(&folder, &made, kind, size).await;
            conformance::writable(&mut choices, make)
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
        for kind in [NewKind::Fixed, NewKind::DYNAMIC] {
            let make = async |size| next_disk(&root, &made, kind, size).await;
            conformance::writable(&mut Seed::new(1), make).await;
        }
    };
    engine.cores()[0].block_on(test).expect("running");
}

#[test]
fn conforms_read_only() {
    for (number, kind) in KINDS.into_iter().enumerate() {
        let mut seed = Seed::new(number as u64);
        let mut choices = seed.fork();
        let folder = FaultFolder::new(seed.fork());
        let made = Cell::new(0);
        run(&mut seed, |_| async {
            let make = async |content: Vec<u8>| {
                let disk = next_disk(&folder, &made, kind, content.len() as u64).await;
                write(&*disk, 0, Buffer::copy_of(&content)).await.expect("written");
                disk.flush().await.expect("flushed");
                drop(disk);
                let location = location(&folder, &format!("image-{}", made.get()));
                open_disk(&location, Access::Read).await as Arc<dyn Disk>
            };
            conformance::read_only(&mut choices, make).await;
        });
    }
}

/// A dynamic disk as QEMU lays it out: data that is not aligned, and a first block that is all there.
async fn foreign(location: &Location, block_bytes: u32, size: u64) {
    let bytes = reference::Builder::new(size, block_bytes).block(0, &[], &[0xff; 64]).build();
    put(location, &bytes).await;
}

#[test]
fn conforms_with_the_layout_of_others() {
    for (number, block_bytes) in [4 * KIB, 64 * KIB, 2048 * KIB].into_iter().enumerate() {
        let mut seed = Seed::new(number as u64);
        let mut choices = seed.fork();
        let folder = FaultFolder::new(seed.fork());
        let made = Cell::new(0);
        run(&mut seed, |_| {
            let make = async |size| {
                made.set(made.get() + 1);
                let location = location(&folder, &format!("image-{}", made.get()));
                foreign(&location, block_bytes, size).await;
                let disk = open_disk(&location, Access::Write).await;
                assert_eq!(disk.geometry().physical_sector, 512, "it is not aligned");
                disk as Arc<dyn Disk>
            };
            conformance::writable(&mut choices, make)
        });
    }
}

#[test]
fn data_of_new_disks_is_aligned_and_the_footer_is_the_last_sector() {
    in_memory(1, async |folder| {
        let location = location(folder, "image");
        create(&location, &recipe(NewKind::DYNAMIC, 64 << 20)).await.expect("created");
        for round in 0..4u64 {
            let disk = open_disk(&location, Access::Write).await;
            assert_eq!(disk.geometry().physical_sector, 4096);
            for block in [round, 20 + round] {
                write(&*disk, block << 21, filled(512, 9)).await.expect("written");
                disk.flush().await.expect("flushed");
            }
            drop(disk);
            let bytes = bytes_of(&location).await;
            let (copy, footer) = (&bytes[..512], &bytes[bytes.len() - 512..]);
            assert!(copy == footer && copy.starts_with(b"conectix"));
            let blocks = (round + 1) * 2;
            assert_eq!(bytes.len() as u64, 8192 + blocks * ((2 << 20) + 4096) + 512);
        }
    });
}

/// Random operations with growth and reopening; what the disk holds is compared with a model, what the file holds with a reader
/// that shares no code.
fn model_test(kind: Option<NewKind>, number: u64) {
    in_memory(number, async |folder| {
        let mut seed = Seed::new(number);
        let location = location(folder, "image");
        let mut model = vec![0; 300 * 512];
        match kind {
            Some(kind) => create(&location, &recipe(kind, 300 * 512)).await.expect("created"),
            None => foreign(&location, 4 * KIB, 300 * 512).await,
        }
        for _ in 0..12 {
            let disk = open_disk(&location, Access::Write).await;
            for _ in 0..25 {
                step(&*disk, &mut model, &mut seed).await;
            }
            disk.flush().await.expect("flushed");
            drop(disk);
            let read = reference::read(&bytes_of(&location).await).expect("it is sound");
            assert!(read == model, "{kind:?}, seed {number}");
            assert!(examine(&location, false).await.findings.is_empty());
        }
    });
}

async fn step(disk: &dyn Disk, model: &mut Vec<u8>, seed: &mut Seed) {
    let size = model.len() as u64;
    let start = seed.below(size);
    let part = range(start, seed.below((size - start).min(9000)) + 1);
    let index = |at: ByteOffset| usize::try_from(at.bytes()).expect("small");
    let places = index(part.start())..index(part.end());
    match seed.below(12) {
        0..6 => {
            let target = &mut model[places];
            seed.fill(target);
            write(disk, start, Buffer::copy_of(target)).await.expect("written");
        }
        6 => {
            model[places].fill(0);
            let mode = *seed.pick(&[ZeroMode::Unmap, ZeroMode::Allocate]);
            disk.write_zeroes(part, mode, Durability::Durable).await.expect("zeroed");
        }
        7 => {
            let inner = part.whole_blocks();
            model[index(inner.start())..index(inner.end())].fill(0);
            disk.discard(part).await.expect("discarded");
        }
        8 if model.len() < 4000 * 512 => {
            let more = (1 + seed.below(300)) * 512;
            disk.resize(size + more).await.expect("grown");
            model.resize(usize::try_from(size + more).expect("small"), 0);
        }
        9 => disk.flush().await.expect("flushed"),
        _ => assert!(*disk.read(part).await.expect("read") == model[places]),
    }
}

#[test]
fn what_is_written_grown_and_reopened_is_what_a_model_says() {
    for kind in KINDS.map(Some).into_iter().chain([None]) {
        for number in 0..20 {
            model_test(kind, number);
        }
    }
}
