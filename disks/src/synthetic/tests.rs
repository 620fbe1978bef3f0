//! What is computed, read by the readers of each format, and in pieces.

use super::{Layout, Recipe, SyntheticImage};
use crate::disk::{Content, Disk, DiskError, Durability, IoFuture, MappedRange};
use crate::faults::{FaultFolder, Seed, run};
use crate::file::{Caching, Folder, OpenMode};
use crate::image::{Access, BesideTheImage, Format, Location, Opener, check};
use crate::raw::RawDisk;
use crate::{Buffer, ByteOffset, ByteRange, Geometry};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

const FORMATS: [Format; 3] = [Format::Vmdk, Format::Vhdx, Format::Vhd];

fn recipe(format: Format, size_bytes: u64) -> Recipe {
    Recipe {
        format,
        size_bytes,
        file_name: format!("os.{format}"),
        raw_name: "os.raw".to_owned(),
        disk_id: [3; 16],
        content_id: [9; 16],
        time: UNIX_EPOCH + Duration::from_secs(1_700_000_000),
    }
}

fn image(format: Format, disk: &Arc<dyn Disk>) -> SyntheticImage {
    let layout = Layout::of(&recipe(format, disk.geometry().size_bytes)).expect("possible");
    SyntheticImage::new(layout, Arc::clone(disk))
}

fn range(start: u64, length: u64) -> ByteRange {
    ByteRange::at(ByteOffset::new(start), length).expect("small")
}

async fn read(disk: &dyn Disk, part: ByteRange) -> Vec<u8> {
    disk.read(part).await.expect("read").to_vec()
}

/// A disk of `size` bytes with data at some places, one of them at its end.
async fn source(folder: &FaultFolder, seed: &mut Seed, size: u64) -> Arc<dyn Disk> {
    let disk = RawDisk::create(folder, Path::new("os.raw"), size).await.expect("created");
    for at in [0, 700_000, 5 << 20, size - 512].into_iter().filter(|at| at + 512 <= size) {
        let length = (1 + seed.below(200)) * 512;
        let mut data = Buffer::zeroed(usize::try_from(length.min(size - at)).expect("small"));
        seed.fill(&mut data);
        disk.write(ByteOffset::new(at), data, Durability::Cached).await.expect("written");
    }
    Arc::new(disk)
}

/// Writes the file down.
async fn keep(folder: &FaultFolder, name: &str, image: &dyn Disk) -> Location {
    let bytes = read(image, image.geometry().whole()).await;
    let path = PathBuf::from(name);
    let file = folder.open(&path, OpenMode::CreateNew, Caching::Buffered).await.expect("made");
    file.write_at(0, Buffer::copy_of(&bytes)).await.expect("written");
    Location { folder: Arc::new(folder.clone()), path }
}

#[test]
fn readers_of_the_format_find_the_disk_and_nothing_wrong() {
    let mut seed = Seed::new(11);
    for size in [512, (64 << 10) + 512, 3 << 20, (9 << 20) + 1536] {
        let folder = FaultFolder::new(seed.fork());
        let mut inner = seed.fork();
        run(&mut seed, |_| async move {
            let disk = source(&folder, &mut inner, size).await;
            let expected = read(&*disk, disk.geometry().whole()).await;
            for format in FORMATS {
                let location = keep(&folder, &format!("os.{format}"), &image(format, &disk)).await;
                let mut opener = Opener::new(&BesideTheImage);
                let opened = opener.open(&location, Some(format), Access::Read).await;
                let opened = opened.expect("opened");
                assert_eq!(opened.disk.geometry().size_bytes, size, "{format}");
                let found = read(&*opened.disk, opened.disk.geometry().whole()).await;
                assert!(found == expected, "{format} of {size} bytes");
                drop(opened);
                let mut opener = Opener::new(&BesideTheImage);
                let report = check(&mut opener, &location, Some(format), false).await;
                let report = report.expect("checked");
                assert!(report.findings.is_empty(), "{format}: {:?}", report.findings);
            }
        });
    }
}

#[test]
fn any_piece_is_a_piece_of_the_whole_and_holes_are_zeroes() {
    let mut seed = Seed::new(12);
    let folder = FaultFolder::new(seed.fork());
    let mut inner = seed.fork();
    run(&mut seed, |_| async move {
        let disk = source(&folder, &mut inner, (9 << 20) + 1536).await;
        for format in FORMATS {
            let image = image(format, &disk);
            let whole = image.geometry().whole();
            let bytes = read(&image, whole).await;
            let part = |range: ByteRange| {
                let index = |at: ByteOffset| usize::try_from(at.bytes()).expect("small");
                &bytes[index(range.start())..index(range.end())]
            };
            for _ in 0..300 {
                let start = inner.below(whole.length());
                let length = inner.below(70_000).min(whole.length() - start);
                let piece = range(start, length);
                assert!(read(&image, piece).await == part(piece), "{format} {piece}");
            }
            let (mut left, mut holes) = (whole, 0);
            while !left.is_empty() {
                for known in image.map(left).await.expect("mapped") {
                    assert_eq!(known.range.start(), left.start(), "{format}");
                    if known.content != Content::Data {
                        assert!(crate::is_zero(part(known.range)), "{format} {}", known.range);
                        holes += known.range.length();
                    }
                    left = left.split_at(known.range.end()).1;
                }
            }
            assert!(holes > 4 << 20, "{format} has {holes} bytes of holes");
            let beyond = range(whole.length() - 1, 2);
            assert!(matches!(image.read(beyond).await, Err(DiskError::OutOfRange { .. })));
        }
    });
}

/// A disk of any size that holds ones, all of it or its last sector only.
struct Ones {
    size: u64,
    from: u64,
}

impl Disk for Ones {
    fn geometry(&self) -> Geometry {
        let (logical_sector, physical_sector) = (512, 4096);
        Geometry { size_bytes: self.size, logical_sector, physical_sector, read_only: true }
    }

    fn read(&self, range: ByteRange) -> IoFuture<'_, Buffer> {
        let at = |place: u64| range.start().bytes() + place >= self.from;
        let bytes: Vec<u8> = (0..range.length()).map(|place| u8::from(at(place))).collect();
        Box::pin(std::future::ready(Ok(Buffer::copy_of(&bytes))))
    }

    fn flush(&self) -> IoFuture<'_, ()> {
        Box::pin(std::future::ready(Ok(())))
    }

    fn map(&self, range: ByteRange) -> IoFuture<'_, Vec<MappedRange>> {
        let (before, after) =
            range.split_at(ByteOffset::new(self.from).max(range.start()).min(range.end()));
        let parts = [(before, Content::Hole), (after, Content::Data)];
        let parts = parts.into_iter().filter(|(range, _)| !range.is_empty());
        let mapped = parts.map(|(range, content)| MappedRange { range, content }).collect();
        Box::pin(std::future::ready(Ok(mapped)))
    }
}

/// Every unit of the largest disks has a place that its entry can tell, and nothing of that size is in memory.
#[test]
fn the_largest_disks_have_their_last_block_where_the_table_says() {
    let little = |bytes: &[u8]| u64::from(u32::from_le_bytes(bytes.try_into().unwrap())) * 512;
    let big = |bytes: &[u8]| u64::from(u32::from_be_bytes(bytes.try_into().unwrap())) * 512 + 512;
    let bat = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().unwrap()) & !0xf_ffff;
    // The largest that a VMDK with tables has: 2 TiB less what stands before the grains.
    let vmdk = (2 << 40) - (257 << 20);
    type Place<'a> = &'a dyn Fn(&[u8]) -> u64;
    let cases: [(Format, u64, u64, usize, Place<'_>); 3] = [
        (Format::Vmdk, vmdk, 64 << 10, 4, &little),
        (Format::Vhdx, 64 << 40, 1 << 20, 8, &bat),
        (Format::Vhd, 2040 << 30, 2 << 20, 4, &big),
    ];
    for (format, size, unit, entry, place) in cases {
        run(&mut Seed::new(1), |_| async move {
            let from = size - 512;
            let disk: Arc<dyn Disk> = Arc::new(Ones { size, from });
            let image = image(format, &disk);
            let last_unit = (size - 1) / unit;
            let expected = read(&*disk, range(from, 512)).await;
            // The one entry of the last table that leads anywhere.
            let layout = Layout::of(&recipe(format, size)).expect("possible");
            let table = layout.tables.last().expect("there is one");
            let index = match format {
                Format::Vhdx => last_unit + last_unit / 4096,
                _ => last_unit,
            };
            let at = table.at + index * entry as u64;
            let before = read(&image, range(at - 8 * entry as u64, 8 * entry as u64)).await;
            let nowhere = if format == Format::Vhd { 0xff } else { 0 };
            assert!(before.iter().all(|byte| *byte == nowhere), "{format}: {before:x?}");
            let start = place(&read(&image, range(at, entry as u64)).await);
            let inside = start + from % unit;
            assert!(read(&image, range(inside, 512)).await == expected, "{format}");
            assert!(inside + 512 <= image.geometry().size_bytes, "{format}");
        });
    }
}

#[test]
fn a_vmdk_that_tables_cannot_tell_leads_to_the_raw_file() {
    run(&mut Seed::new(1), |_| async move {
        let disk: Arc<dyn Disk> = Arc::new(Ones { size: 2 << 40, from: 0 });
        let image = image(Format::Vmdk, &disk);
        let text = read(&image, image.geometry().whole()).await;
        let text = String::from_utf8(text).expect("text");
        assert!(text.contains("RW 4294967296 FLAT \"os.raw\" 0"), "{text}");
        assert!(text.contains("createType=\"monolithicFlat\"") && text.len() < 4096, "{text}");
    });
}

#[test]
fn what_a_format_cannot_hold_is_refused_with_the_reason() {
    let refused = |format, size| Layout::of(&recipe(format, size)).expect_err("no").to_string();
    assert!(refused(Format::Vhd, (2040 << 30) + 512).contains("at most 2040 GiB"));
    assert!(refused(Format::Vhdx, (64 << 40) + 512).contains("at most 64 TiB"));
    assert!(refused(Format::Raw, 512).contains("the disk itself"));
    for format in FORMATS {
        assert!(refused(format, 100).contains("whole sectors"), "{format}");
    }
}

#[test]
fn the_same_content_gives_the_same_file_and_another_one_another_name() {
    for format in FORMATS {
        let one = recipe(format, 1 << 20);
        let other = Recipe { content_id: [8; 16], ..one.clone() };
        assert_eq!(Layout::of(&one), Layout::of(&one), "{format}");
        // A VHD tells no contents apart.
        assert_eq!(Layout::of(&one) == Layout::of(&other), format == Format::Vhd, "{format}");
    }
}
