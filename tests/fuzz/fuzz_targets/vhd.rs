//! VHDs of all kinds, sound ones that are written to and ones that were bent.
//!
//! Oracle: a sound file is accepted; what is accepted reads, sector by sector, as a slow reader of another make says; what is
//! written, discarded and grown reads as a model says, here and through that reader, also after it was opened again; and an
//! opened file has nothing that a check finds.

#![no_main]

mod vhd_reference;

use arbitrary::Arbitrary;
use landfall_disks::faults::{FaultFolder, Seed, run};
use landfall_disks::file::{Caching, Folder, OpenMode};
use landfall_disks::image::{Access, BesideTheImage, Format, Image, Location, Opener};
use landfall_disks::{Buffer, ByteOffset, ByteRange, Disk, Durability, ZeroMode, vhd};
use libfuzzer_sys::fuzz_target;
use std::path::PathBuf;
use std::sync::Arc;
use vhd_reference::{Reference, number, seal};

/// Sectors of a disk at most, before it is bent or grows.
const MAX_SECTORS: u64 = 256;
/// Sectors that are compared of a disk that says it is larger.
const COMPARED: u64 = 1024;
const PARENT_ID: [u8; 16] = [0x77; 16];
const PARENT_BYTES: usize = 64 << 10;

#[derive(Arbitrary, Debug)]
struct Input {
    kind: u8,
    sectors: u8,
    block_shift: u8,
    blocks: Vec<Block>,
    /// Which structures are bent: footer, copy, header, BAT, anything; which byte of it, and to what.
    bends: Vec<(u8, u16, u8)>,
    /// Checksums that are wrong stay so.
    unsealed: bool,
    /// Bytes that the file lacks at its end.
    cut: u16,
    steps: Vec<(u8, u8, u8, u8)>,
}

#[derive(Arbitrary, Debug)]
struct Block {
    index: u8,
    byte: u8,
    bitmap: [u8; 2],
    gap: u8,
}

/// What the parent holds.
fn parent_content() -> Vec<u8> {
    (0..PARENT_BYTES).map(|at| (at / 512 % 251) as u8 + 1).collect()
}

fn footer(kind: u8, size: u64, id: [u8; 16]) -> Vec<u8> {
    let mut footer = vec![0; 512];
    footer[..8].copy_from_slice(b"conectix");
    footer[11] = 2;
    footer[13] = 1;
    footer[16..24].copy_from_slice(&if kind == 2 { u64::MAX } else { 512 }.to_be_bytes());
    footer[28..32].copy_from_slice(b"win ");
    footer[40..48].copy_from_slice(&size.to_be_bytes());
    footer[48..56].copy_from_slice(&size.to_be_bytes());
    footer[63] = kind;
    footer[68..84].copy_from_slice(&id);
    seal(&mut footer, 64);
    footer
}

impl Input {
    fn kind(&self) -> u8 {
        2 + self.kind % 3
    }

    fn size(&self) -> u64 {
        (1 + u64::from(self.sectors) % MAX_SECTORS) * 512
    }

    fn block_bytes(&self) -> usize {
        512 << (self.block_shift % 9)
    }

    /// A sound file.
    fn build(&self) -> Vec<u8> {
        let (kind, size) = (self.kind(), self.size());
        let footer = footer(kind, size, [0x11; 16]);
        if kind == 2 {
            let mut bytes = vec![0; usize::try_from(size).expect("small")];
            for block in &self.blocks {
                let start = usize::from(block.index) * 512 % bytes.len();
                bytes[start] = block.byte;
            }
            return [bytes, footer].concat();
        }
        let block_bytes = self.block_bytes();
        let entries = usize::try_from(size).expect("small").div_ceil(block_bytes);
        let mut bytes = [footer.clone(), self.header(entries)].concat();
        bytes.extend(vec![0xff; (entries * 4).next_multiple_of(512)]);
        bytes.extend(b"b\0a\0s\0e\0.\0v\0h\0d\0");
        bytes.resize(bytes.len().next_multiple_of(512), 0);
        let name = u64::try_from(bytes.len()).expect("small") - 512;
        bytes[512 + 592..512 + 600].copy_from_slice(&name.to_be_bytes());
        seal(&mut bytes[512..1536], 36);
        let bitmap_bytes = (block_bytes / 512).div_ceil(8).next_multiple_of(512);
        for block in &self.blocks {
            let at = 1536 + usize::from(block.index) % entries * 4;
            if bytes[at..at + 4] != [0xff; 4] {
                continue;
            }
            bytes.resize(bytes.len() + usize::from(block.gap % 8) * 512, 0xdd);
            let entry = u32::try_from(bytes.len() / 512).expect("small");
            bytes[at..at + 4].copy_from_slice(&entry.to_be_bytes());
            let mut bitmap = vec![0xff; bitmap_bytes];
            bitmap[..2].copy_from_slice(&block.bitmap);
            bytes.extend(bitmap);
            bytes.resize(bytes.len() + block_bytes, block.byte);
        }
        bytes.extend(footer);
        bytes
    }

    fn header(&self, entries: usize) -> Vec<u8> {
        let mut header = vec![0; 1024];
        header[..8].copy_from_slice(b"cxsparse");
        header[16..24].copy_from_slice(&1536u64.to_be_bytes());
        header[25] = 1;
        header[28..32].copy_from_slice(&u32::try_from(entries).expect("small").to_be_bytes());
        let block_bytes = u32::try_from(self.block_bytes()).expect("small");
        header[32..36].copy_from_slice(&block_bytes.to_be_bytes());
        if self.kind() == 4 {
            header[40..56].copy_from_slice(&PARENT_ID);
            header[576..580].copy_from_slice(b"W2ru");
            header[587] = 16;
        }
        header
    }

    /// The file with its bends; whether it is as it was.
    fn bent(&self) -> (Vec<u8>, bool) {
        let mut bytes = self.build();
        let whole = bytes.clone();
        let length = bytes.len();
        for (structure, at, byte) in &self.bends {
            let at = usize::from(*at);
            let at = match structure % 5 {
                0 => length - 512 + at % 512,
                1 => at % 512,
                2 => 512 + at % 1024,
                3 => 1536 + at % 512,
                _ => at,
            };
            bytes[at % length] = *byte;
        }
        if !self.unsealed {
            let header = number(&bytes, 16, 8).unwrap_or(u64::MAX);
            let kind = bytes[63];
            seal(&mut bytes[length - 512..], 64);
            if kind != 2 && bytes.starts_with(b"conectix") && length >= 1024 {
                seal(&mut bytes[..512], 64);
                let at = usize::try_from(header).unwrap_or(usize::MAX);
                if let Some(header) = bytes.get_mut(at..at.saturating_add(1024)) {
                    seal(header, 36);
                }
            }
        }
        bytes.truncate(length - usize::from(self.cut) % length);
        let same = bytes == whole;
        (bytes, same)
    }
}

async fn put(folder: &FaultFolder, name: &str, bytes: &[u8]) -> Location {
    let location = Location { folder: Arc::new(folder.clone()), path: PathBuf::from(name) };
    let opened = folder.open(&location.path, OpenMode::CreateNew, Caching::Buffered).await;
    opened.expect("new").write_at(0, Buffer::copy_of(bytes)).await.expect("written");
    location
}

async fn bytes_of(location: &Location) -> Vec<u8> {
    let opened = location.folder.open(&location.path, OpenMode::Read, Caching::Buffered).await;
    let file = opened.expect("there");
    let length = usize::try_from(file.length().await.expect("measured")).expect("small");
    file.read_at(0, Buffer::zeroed(length)).await.expect("read").to_vec()
}

async fn open(location: &Location, access: Access) -> Option<Image> {
    let mut opener = Opener::new(&BesideTheImage);
    opener.open(location, Some(Format::Vhd), access).await.ok()
}

/// Compares what a disk reads with the slow reader, at both ends if it is large.
async fn compare(disk: &dyn Disk, bytes: &[u8]) {
    let parent = parent_content();
    let reference = Reference::new(bytes, &parent).expect("what is accepted has a footer");
    let size = disk.geometry().size_bytes;
    assert_eq!(size, reference.size());
    let sectors = size / 512;
    let head = 0..sectors.min(COMPARED);
    let tail = sectors.saturating_sub(COMPARED).max(head.end)..sectors;
    for part in [head, tail] {
        let length = (part.end - part.start) * 512;
        let range = ByteRange::at(ByteOffset::new(part.start * 512), length).expect("small");
        let read = disk.read(range).await.expect("what is accepted can be read");
        for (sector, found) in part.zip(read.chunks(512)) {
            let expected = reference.sector(sector).expect("what is accepted makes sense");
            assert!(*found == expected, "sector {sector} of {sectors}");
        }
    }
}

async fn check_is_clean(location: &Location) {
    let report = vhd::check(&mut Opener::new(&BesideTheImage), location, false).await;
    let report = report.expect("it can be checked");
    assert!(report.is_clean() && report.findings.is_empty(), "{report:?}");
}

/// Writes, discards and grows, with a model of all bytes.
async fn change(disk: &dyn Disk, model: &mut Vec<u8>, steps: &[(u8, u8, u8, u8)]) {
    for (what, start, length, byte) in steps.iter().take(24) {
        let size = model.len();
        let start = (usize::from(*start) * 300) % size;
        let end = (start + usize::from(*length) * 97).min(size);
        let range = ByteRange::at(ByteOffset::new(start as u64), (end - start) as u64);
        let range = range.expect("small");
        match what % 6 {
            0..2 => {
                model[start..end].fill(*byte);
                let data = Buffer::copy_of(&model[start..end]);
                disk.write(range.start(), data, Durability::Cached).await.expect("written");
            }
            2 => {
                model[start..end].fill(0);
                let mode = if *byte < 128 { ZeroMode::Unmap } else { ZeroMode::Allocate };
                disk.write_zeroes(range, mode, Durability::Cached).await.expect("zeroed");
            }
            3 => {
                let inner = range.whole_blocks();
                let index = |at: ByteOffset| usize::try_from(at.bytes()).expect("small");
                model[index(inner.start())..index(inner.end())].fill(0);
                disk.discard(range).await.expect("discarded");
            }
            4 => disk.flush().await.expect("flushed"),
            _ => {
                model.resize(size + usize::from(*length) * 512, 0);
                disk.resize(model.len() as u64).await.expect("grown");
            }
        }
        let whole = disk.read(disk.geometry().whole()).await.expect("read");
        assert!(*whole == *model, "{what} {range}");
    }
    disk.flush().await.expect("flushed");
}

async fn test(folder: &FaultFolder, input: &Input) {
    let parent = [parent_content(), footer(2, PARENT_BYTES as u64, PARENT_ID)].concat();
    put(folder, "base.vhd", &parent).await;
    let (bytes, sound) = input.bent();
    let location = put(folder, "image.vhd", &bytes).await;
    match open(&location, Access::Read).await {
        Some(image) => compare(&*image.disk, &bytes).await,
        None => assert!(!sound, "a sound file is refused"),
    }
    assert!(bytes_of(&location).await == bytes, "reading changed the file");
    if sound {
        check_is_clean(&location).await;
    }
    let Some(image) = open(&location, Access::Write).await else { return };
    let disk = &image.disk;
    compare(&**disk, &bytes).await;
    let size = disk.geometry().size_bytes;
    if size > MAX_SECTORS * 512 {
        return;
    }
    let mut model = disk.read(disk.geometry().whole()).await.expect("read").to_vec();
    change(&**disk, &mut model, &input.steps).await;
    drop(image);
    check_is_clean(&location).await;
    let bytes = bytes_of(&location).await;
    let image = open(&location, Access::Read).await.expect("it was opened before");
    compare(&*image.disk, &bytes).await;
    let whole = image.disk.read(image.disk.geometry().whole()).await.expect("read");
    assert!(*whole == model, "it changed by being opened again");
}

fuzz_target!(|input: Input| {
    let mut seed = Seed::new(1);
    let folder = FaultFolder::new(seed.fork());
    run(&mut seed, |_| test(&folder, &input));
});
