//! Disks of every kind, over files that fail and over files of the kernel.

mod chains;
mod crashes;
mod exports;
mod samples;

use super::format::descriptor::CreateType;
use super::{Recipe, check, create};
use crate::conformance;
use crate::disk::{Disk, DiskError, Durability, ZeroMode};
use crate::faults::{FaultFolder, Seed, run};
use crate::file::Folder;
use crate::image::{Access, BesideTheImage, Image, ImageError, Location, Opener, Report};
use crate::uring::{Directory, Engine, EngineSettings};
use crate::{Buffer, ByteOffset, ByteRange};
use std::cell::Cell;
use std::path::PathBuf;
use std::sync::Arc;

const MIB: u64 = 1 << 20;

/// The kinds that are written, and whether they are sparse.
fn writable_kinds() -> [(CreateType, bool); 5] {
    [
        (CreateType::MonolithicSparse, true),
        (CreateType::TwoGbMaxExtentSparse, true),
        (CreateType::MonolithicFlat, false),
        (CreateType::TwoGbMaxExtentFlat, false),
        (CreateType::Vmfs, false),
    ]
}

fn range(start: u64, length: u64) -> ByteRange {
    ByteRange::at(ByteOffset::new(start), length).expect("small")
}

fn filled(length: usize, byte: u8) -> Buffer {
    let mut buffer = Buffer::zeroed(length);
    buffer.fill(byte);
    buffer
}

fn at(folder: &Arc<dyn Folder>, name: &str) -> Location {
    Location { folder: Arc::clone(folder), path: PathBuf::from(name) }
}

/// Runs a test over files in memory.
fn in_memory(number: u64, test: impl AsyncFn(Arc<dyn Folder>, FaultFolder)) {
    let mut seed = Seed::new(number);
    let folder = FaultFolder::new(seed.fork());
    run(&mut seed, |_| test(Arc::new(folder.clone()), folder.clone()));
}

async fn open(location: &Location, access: Access) -> Result<Image, ImageError> {
    Opener::new(&BesideTheImage).open(location, None, access).await
}

async fn new_disk(location: &Location, recipe: &Recipe) -> Image {
    create(location, recipe).await.expect("created");
    open(location, Access::Write).await.expect("opened")
}

async fn look(location: &Location, repair: bool) -> Report {
    check(&mut Opener::new(&BesideTheImage), location, repair).await.expect("checked")
}

async fn write(disk: &dyn Disk, at: u64, data: Buffer) -> Result<(), DiskError> {
    disk.write(ByteOffset::new(at), data, Durability::Cached).await
}

async fn read(disk: &dyn Disk, start: u64, length: u64) -> Vec<u8> {
    disk.read(range(start, length)).await.expect("read").to_vec()
}

/// Puts bytes into a file as they are.
async fn put(folder: &Arc<dyn Folder>, name: &str, bytes: &[u8]) {
    use crate::file::{Caching, FileError, OpenMode};
    let path = PathBuf::from(name);
    match folder.remove(&path).await {
        Ok(()) | Err(FileError::NotFound { .. }) => {}
        Err(error) => panic!("{error}"),
    }
    let file = folder.open(&path, OpenMode::CreateNew, Caching::Buffered).await.expect("created");
    file.write_at(0, Buffer::copy_of(bytes)).await.expect("written");
}

/// All bytes of a file.
async fn get(folder: &Arc<dyn Folder>, name: &str) -> Vec<u8> {
    use crate::file::{Caching, OpenMode};
    let path = PathBuf::from(name);
    let file = folder.open(&path, OpenMode::Read, Caching::Buffered).await.expect("opened");
    let length = file.length().await.expect("measured");
    let into = Buffer::zeroed(usize::try_from(length).expect("small"));
    file.read_at(0, into).await.expect("read").to_vec()
}

#[test]
fn every_kind_conforms_in_memory() {
    for (kind, _) in writable_kinds() {
        for zeroed_grains in [false, true] {
            let mut choices = Seed::new(3);
            in_memory(1, async |folder, _| {
                let made = Cell::new(0);
                let make = async |size| {
                    made.set(made.get() + 1);
                    let location = at(&folder, &format!("disk{}.vmdk", made.get()));
                    let recipe = Recipe { zeroed_grains, ..Recipe::new(kind.clone(), size) };
                    new_disk(&location, &recipe).await.disk as Arc<dyn Disk>
                };
                conformance::writable(&mut choices.clone(), make).await;
                for number in 1..=made.get() {
                    let location = at(&folder, &format!("disk{number}.vmdk"));
                    let report = look(&location, false).await;
                    assert_eq!(report.findings, [], "{kind:?}");
                }
            });
            choices.next_u64();
        }
    }
}

#[test]
fn sparse_disks_conform_on_the_ring() {
    let folder = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).expect("a folder");
    let root: Arc<dyn Folder> = Arc::new(Directory::open(folder.path()).expect("it exists"));
    let settings = EngineSettings { cores: 1, ring_entries: 64, blocking_threads: 2 };
    let engine = Engine::start(settings).expect("tests run on a kernel with io_uring");
    let test = async move || {
        let made = Cell::new(0);
        let make = async |size| {
            made.set(made.get() + 1);
            let location = at(&root, &format!("disk{}.vmdk", made.get()));
            let recipe = Recipe::new(CreateType::MonolithicSparse, size);
            new_disk(&location, &recipe).await.disk as Arc<dyn Disk>
        };
        conformance::writable(&mut Seed::new(1), make).await;
    };
    engine.cores()[0].block_on(test).expect("running");
}

#[test]
fn every_kind_conforms_read_only() {
    for (kind, _) in writable_kinds() {
        in_memory(2, async |folder, _| {
            let made = Cell::new(0);
            conformance::read_only(&mut Seed::new(5), async |content: Vec<u8>| {
                made.set(made.get() + 1);
                let location = at(&folder, &format!("disk{}.vmdk", made.get()));
                let recipe = Recipe::new(kind.clone(), content.len() as u64);
                let image = new_disk(&location, &recipe).await;
                write(&*image.disk, 0, Buffer::copy_of(&content)).await.expect("written");
                image.disk.flush().await.expect("flushed");
                drop(image);
                open(&location, Access::Read).await.expect("opened").disk as Arc<dyn Disk>
            })
            .await;
        });
    }
}

/// What the disk should hold; ranges that were never written are zero.
struct Model(Vec<u8>);

impl Model {
    fn any(&self, seed: &mut Seed) -> ByteRange {
        let sectors = self.0.len() as u64 / 512;
        let start = seed.below(sectors);
        let most = *seed.pick(&[8, 200, 1000]);
        range(start * 512, (1 + seed.below(most.min(sectors - start))) * 512)
    }

    fn of(&mut self, range: ByteRange) -> &mut [u8] {
        let [start, end] = [range.start(), range.end()]
            .map(|offset| usize::try_from(offset.bytes()).expect("small"));
        &mut self.0[start..end]
    }
}

/// Reads, writes, zeroes, discards, growth and reopening at random, held against plain bytes.
async fn live(location: &Location, seed: &mut Seed, size: u64, lives: usize) {
    let mut model = Model(vec![0; usize::try_from(size).expect("small")]);
    for life in 0..lives {
        let image = open(location, Access::Write).await.expect("opened");
        let disk = &*image.disk;
        for _ in 0..40 {
            let range = model.any(seed);
            match seed.below(10) {
                0..4 => {
                    let part = model.of(range);
                    seed.fill(part);
                    write(disk, range.start().bytes(), Buffer::copy_of(part))
                        .await
                        .expect("written");
                }
                4 | 5 => {
                    model.of(range).fill(0);
                    let mode = *seed.pick(&[ZeroMode::Unmap, ZeroMode::Allocate]);
                    disk.write_zeroes(range, mode, Durability::Cached).await.expect("zeroed");
                }
                6 => {
                    let blocks = range.whole_blocks();
                    model.of(blocks).fill(0);
                    disk.discard(range).await.expect("discarded");
                }
                7 => disk.flush().await.expect("flushed"),
                8 if seed.chance(1, 4) => {
                    let grown = model.0.len() as u64 + 512 * (1 + seed.below(500));
                    disk.resize(grown).await.expect("grown");
                    model.0.resize(usize::try_from(grown).expect("small"), 0);
                }
                _ => {
                    let found = disk.read(range).await.expect("read");
                    assert!(*found == *model.of(range), "life {life}: {range}");
                }
            }
        }
        disk.flush().await.expect("flushed");
        drop(image);
        let report = look(location, false).await;
        assert_eq!(report.findings, [], "life {life}");
        let image = open(location, Access::Read).await.expect("opened");
        assert_eq!(image.disk.geometry().size_bytes, model.0.len() as u64);
        let found = read(&*image.disk, 0, model.0.len() as u64).await;
        assert!(found == model.0, "life {life}");
    }
}

#[test]
fn disks_hold_what_was_written_through_many_lives() {
    for (kind, _) in writable_kinds() {
        for number in 0..6 {
            in_memory(number, async |folder, _| {
                let location = at(&folder, "disk.vmdk");
                let mut seed = Seed::new(number);
                let size = 512 * (1 + seed.below(6000));
                let recipe =
                    Recipe { zeroed_grains: number % 2 == 1, ..Recipe::new(kind.clone(), size) };
                create(&location, &recipe).await.expect("created");
                live(&location, &mut seed, size, 5).await;
            });
        }
    }
}

#[test]
fn a_disk_grows_beyond_its_directories_and_its_extents() {
    for kind in [
        CreateType::MonolithicSparse,
        CreateType::TwoGbMaxExtentSparse,
        CreateType::TwoGbMaxExtentFlat,
    ] {
        in_memory(9, async |folder, _| {
            let location = at(&folder, "disk.vmdk");
            let image = new_disk(&location, &Recipe::new(kind.clone(), MIB)).await;
            let disk = &*image.disk;
            write(disk, MIB - 512, filled(512, 1)).await.expect("written");
            // 128 tables of 32 MiB fill a sector of the directory; extents end at 2047 MiB.
            for size in [40 * MIB, 5000 * MIB, 9000 * MIB] {
                disk.resize(size).await.expect("grown");
                write(disk, size - 1024, filled(1024, 2)).await.expect("written");
            }
            write(disk, 2047 * MIB - 512, filled(1024, 3)).await.expect("across two extents");
            disk.flush().await.expect("flushed");
            drop(image);
            assert_eq!(look(&location, false).await.findings, []);
            let image = open(&location, Access::Read).await.expect("opened");
            let disk = &*image.disk;
            assert_eq!(disk.geometry().size_bytes, 9000 * MIB);
            let files = image.files.len();
            assert_eq!(
                files,
                if kind == CreateType::MonolithicSparse { 1 } else { 6 },
                "{:?}",
                image.files
            );
            assert_eq!(read(disk, MIB - 512, 1024).await, [vec![1; 512], vec![0; 512]].concat());
            for size in [40 * MIB, 5000 * MIB] {
                let expected = [vec![0; 512], vec![2; 1024], vec![0; 512]].concat();
                assert_eq!(read(disk, size - 1536, 2048).await, expected);
            }
            assert_eq!(read(disk, 9000 * MIB - 1024, 1024).await, vec![2; 1024]);
            assert_eq!(read(disk, 2047 * MIB - 512, 1024).await, vec![3; 1024]);
        });
    }
}

#[test]
fn a_sparse_disk_ends_at_two_tebibytes_and_says_why() {
    in_memory(1, async |folder, _| {
        let location = at(&folder, "disk.vmdk");
        let recipe = Recipe::new(CreateType::MonolithicSparse, 2 << 40);
        let image = new_disk(&location, &recipe).await;
        write(&*image.disk, (2 << 40) - 512, filled(512, 7)).await.expect("its last sector");
        image.disk.flush().await.expect("flushed");
        let refused = image.disk.resize((2 << 40) + 512).await.expect_err("too large").to_string();
        assert!(refused.contains("sector numbers of 32 bits"), "{refused}");
        drop(image);
        let image = open(&location, Access::Read).await.expect("opened");
        assert_eq!(read(&*image.disk, (2 << 40) - 512, 512).await, vec![7; 512]);
        let recipe = Recipe::new(CreateType::MonolithicSparse, (2 << 40) + 512);
        let refused = create(&at(&folder, "other.vmdk"), &recipe).await.expect_err("too large");
        assert!(refused.to_string().contains("sector numbers of 32 bits"), "{refused}");
    });
}

#[test]
fn the_content_gets_one_new_identity_in_every_opening_that_writes() {
    for (kind, _) in writable_kinds() {
        in_memory(4, async |folder, _| {
            let location = at(&folder, "disk.vmdk");
            let cid = async || {
                let image = open(&location, Access::Read).await.expect("opened");
                let long = image.details.iter().find(|(name, _)| *name == "long content id");
                let long = long.expect("there is one").1.clone();
                let cid = image.identity.expect("there is one").value;
                assert!(long.ends_with(&cid), "{long} {cid}");
                cid
            };
            create(&location, &Recipe::new(kind.clone(), MIB)).await.expect("created");
            let first = cid().await;
            let image = open(&location, Access::Write).await.expect("opened");
            image.disk.flush().await.expect("flushed");
            read(&*image.disk, 0, 512).await;
            drop(image);
            assert_eq!(cid().await, first, "nothing was written");
            let image = open(&location, Access::Write).await.expect("opened");
            write(&*image.disk, 0, filled(512, 1)).await.expect("written");
            let descriptor = get(&folder, "disk.vmdk").await;
            write(&*image.disk, 0, filled(512, 2)).await.expect("written");
            image.disk.discard(range(0, MIB)).await.expect("discarded");
            drop(image);
            let second = cid().await;
            assert_ne!(second, first);
            let found = descriptor.windows(second.len()).any(|text| text == second.as_bytes());
            assert!(found, "it was there with the first write, and no later one changed it");
        });
    }
}

#[test]
fn the_flag_is_on_while_tables_are_behind_and_off_at_rest() {
    in_memory(4, async |folder, _| {
        let location = at(&folder, "disk.vmdk");
        let recipe = Recipe::new(CreateType::MonolithicSparse, MIB);
        let image = new_disk(&location, &recipe).await;
        write(&*image.disk, 0, filled(512, 1)).await.expect("written");
        image.disk.flush().await.expect("flushed");
        drop(image);
        let mut bytes = get(&folder, "disk.vmdk").await;
        assert_eq!(bytes[72], 0);
        // As a crash between the copies leaves it.
        bytes[72] = 1;
        let redundant = 22 * 512;
        bytes[redundant..redundant + 4].fill(0);
        put(&folder, "disk.vmdk", &bytes).await;
        let report = look(&location, false).await;
        let found: Vec<String> =
            report.findings.iter().map(|finding| finding.problem.to_string()).collect();
        assert_eq!(
            found,
            [
                "VMDK redundant grain table at 11264: content is not that of table 0 at 13824; expected the same",
                "VMDK sparse header at 0: uncleanShutdown is 1; expected 0",
            ]
        );
        drop(open(&location, Access::Write).await.expect("opened, and put right"));
        assert_eq!(look(&location, false).await.findings, []);
        put(&folder, "disk.vmdk", &bytes).await;
        assert!(look(&location, true).await.is_clean());
        assert_eq!(look(&location, false).await.findings, []);
        let image = open(&location, Access::Read).await.expect("opened");
        assert_eq!(read(&*image.disk, 0, 512).await, vec![1; 512]);
    });
}

#[test]
fn a_broken_table_is_repaired_from_its_copy() {
    in_memory(4, async |folder, _| {
        let location = at(&folder, "disk.vmdk");
        let image = new_disk(&location, &Recipe::new(CreateType::MonolithicSparse, MIB)).await;
        write(&*image.disk, 0, filled(512, 1)).await.expect("written");
        image.disk.flush().await.expect("flushed");
        drop(image);
        let mut bytes = get(&folder, "disk.vmdk").await;
        let primary = 27 * 512;
        bytes[primary..primary + 4].fill(0xff);
        put(&folder, "disk.vmdk", &bytes).await;
        let image = open(&location, Access::Read).await.expect("the header is sound");
        let damaged = image.disk.read(range(0, 512)).await.expect_err("no such grain");
        assert!(matches!(damaged, DiskError::Damaged { .. }), "{damaged}");
        let told = "VMDK grain table at 13824: entry is 4294967295; expected a grain within";
        assert!(damaged.to_string().contains(told), "{damaged}");
        drop(image);
        open(&location, Access::Write).await.err().expect("nobody writes beside damage");
        let report = look(&location, true).await;
        assert!(report.is_clean() && report.findings.len() == 1, "{report:?}");
        let image = open(&location, Access::Write).await.expect("opened");
        assert_eq!(read(&*image.disk, 0, 512).await, vec![1; 512]);
    });
}

#[test]
fn a_grain_whose_end_is_missing_is_not_filled_up_with_zeroes() {
    in_memory(1, async |folder, _| {
        // Two tables: the one of the last grain is looked at in any case.
        let size = 40 * MIB;
        let location = at(&folder, "disk.vmdk");
        let image = new_disk(&location, &Recipe::new(CreateType::MonolithicSparse, size)).await;
        for start in [0, MIB] {
            write(&*image.disk, start, filled(65_536, 7)).await.expect("written");
        }
        image.disk.flush().await.expect("flushed");
        drop(image);
        let whole = get(&folder, "disk.vmdk").await;
        let end = whole.iter().rposition(|byte| *byte == 7).expect("grains have content") + 1;
        // Less than a sector is missing, or less than what a file is rounded up to.
        for missing in [1, 512, 4000] {
            let cut = &whole[..end - missing];
            put(&folder, "disk.vmdk", cut).await;
            let refused = open(&location, Access::Write).await.err().expect("it would be hidden");
            assert!(refused.to_string().contains("within the"), "{refused}");
            assert!(get(&folder, "disk.vmdk").await == cut, "it was changed");
            let image = open(&location, Access::Read).await.expect("opened");
            let damaged = image.disk.read(range(MIB, 512)).await.expect_err("it is damaged");
            assert!(matches!(damaged, DiskError::Damaged { .. }), "{damaged}");
        }
    });
}

#[test]
fn space_that_was_discarded_is_used_again() {
    in_memory(4, async |folder, memory| {
        let location = at(&folder, "disk.vmdk");
        let image = new_disk(&location, &Recipe::new(CreateType::MonolithicSparse, 64 * MIB)).await;
        let disk = &*image.disk;
        for round in 0..8u8 {
            write(disk, u64::from(round) * 8 * MIB, filled(8 << 20, round + 1))
                .await
                .expect("written");
            disk.flush().await.expect("flushed");
            disk.discard(range(u64::from(round) * 8 * MIB, 8 * MIB)).await.expect("discarded");
            disk.flush().await.expect("flushed");
        }
        let length = get(&folder, "disk.vmdk").await.len();
        assert!(length < 24 << 20, "{length} bytes for a disk of nothing");
        drop(image);
        let report = look(&location, false).await;
        assert_eq!((report.placed, report.blocks), (0, 1024));
        drop(memory);
    });
}
