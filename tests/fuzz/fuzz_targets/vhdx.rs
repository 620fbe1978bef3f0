//! VHDX images: a sound one, bent in every structure, its checksums made right again or not.
//!
//! Oracle: what is opened reads the same through a slow reader that shares nothing with the code under test, sector by sector,
//! whether its log is replayed in memory or in the file; and what is written to it then is read back after it is opened again.

#![no_main]

mod vhdx_reference;

use arbitrary::Arbitrary;
use landfall_disks::faults::{FaultFolder, Seed, run};
use landfall_disks::file::{Caching, Folder, OpenMode};
use landfall_disks::image::{Access, BesideTheImage, Format, Image, Location, Opener};
use landfall_disks::{Buffer, ByteOffset, ByteRange, Disk, Durability};
use libfuzzer_sys::fuzz_target;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use vhdx_parse::{
    Guid, HEADER_1_OFFSET, HEADER_2_OFFSET, Header, LogChange, LogEntry, LogEntryHeader, MIB,
    Metadata, ParentLocator, REGION_TABLE_1_OFFSET, REGION_TABLE_2_OFFSET, RegionTable,
};
use vhdx_reference::{Bytes, Files};

const FILE_BYTES: u64 = 8 << 20;
/// Where a log places things at most, and what the slow reader takes into memory: far below what one allocation may have, so that
/// the limit of allocations speaks of the code under test alone.
const LONGEST_FILE: u64 = 16 << 20;
const DISK_BYTES: u64 = (2 << 20) + 8192;
/// Where the sector bitmap of the first chunk is, if an entry says so.
const BITMAP: u64 = 7 * MIB;
/// Parts of each MiB of file and disk that have content and are compared: the first and the last bytes.
const HEAD: u64 = 24 << 10;
const TAIL: u64 = 8 << 10;
/// How much is compared of a disk that is larger than it was made.
const MOST_BYTES: u64 = 8 << 20;

#[derive(Arbitrary, Debug)]
struct Change {
    zero: bool,
    /// Sectors of 4 KiB from 192 KiB, or of the BAT, or of the bitmap, or anywhere.
    region: u8,
    sector: u16,
    entries: [Entry; 3],
}

#[derive(Arbitrary, Debug, Clone, Copy)]
struct Entry {
    index: u8,
    place: u8,
    state: u8,
}

#[derive(Arbitrary, Debug)]
struct Logged {
    /// Sectors of the ring that are skipped before the entry.
    gap: u8,
    /// How many entries back its tail is.
    tail: u8,
    sequence_step: u8,
    changes: Vec<Change>,
    torn: Option<u16>,
    last_mib: u8,
}

#[derive(Arbitrary, Debug)]
struct Edit {
    structure: u8,
    place: u16,
    value: u8,
}

#[derive(Arbitrary, Debug)]
struct Input {
    large_sectors: bool,
    differencing: bool,
    fixed: bool,
    bat: Vec<Entry>,
    bitmap: Vec<(u16, u8)>,
    log: Vec<Logged>,
    log_in_use: bool,
    edits: Vec<Edit>,
    seal: bool,
    cut_kib: Option<u16>,
    write_at: u32,
    write_bytes: u16,
}

fn guid(number: u8) -> Guid {
    Guid::from_random([number; 16])
}

/// The word of a BAT entry.
fn raw(entry: Entry) -> u64 {
    u64::from(entry.place % 12) * MIB | u64::from(entry.state % 8)
}

/// Entries around the places that matter: the first blocks, and the bitmap of the first chunk.
fn index(entry: Entry, ratio: u64) -> u64 {
    match entry.index {
        255 => ratio,
        other => u64::from(other) % 6,
    }
}

/// Every sector of the file has content of its own, so that one that is read from elsewhere is noticed.
fn pattern() -> Bytes {
    let mut file = Bytes::default();
    file.set_length(FILE_BYTES);
    for mib in (4 * MIB..FILE_BYTES).step_by(1 << 20) {
        for at in (mib..mib + HEAD).chain(mib + MIB - TAIL..mib + MIB).step_by(512) {
            let word = (at / 512).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes();
            file.write(at, &word.repeat(64));
        }
    }
    file
}

fn metadata(input: &Input, parent: Option<ParentLocator>) -> Metadata {
    Metadata {
        block_bytes: 1 << 20,
        leave_blocks_allocated: input.fixed,
        disk_bytes: DISK_BYTES,
        disk_id: guid(1),
        logical_sector: if input.large_sectors { 4096 } else { 512 },
        physical_sector: 4096,
        parent,
    }
}

/// Headers in the first MiB, log in the second, metadata, BAT, then four blocks of which the last may be a bitmap.
fn sound(metadata: &Metadata, header: Header) -> Bytes {
    thread_local! {
        static EMPTY: Bytes = pattern();
    }
    let mut file = EMPTY.with(Bytes::clone);
    file.write(0, b"vhdxfile");
    file.write(HEADER_1_OFFSET, &header.encode());
    let second = Header { sequence_number: header.sequence_number + 1, ..header };
    file.write(HEADER_2_OFFSET, &second.encode());
    let regions = RegionTable::new(3 * MIB, 1 << 20, 2 * MIB, 1 << 20).encode();
    file.write(REGION_TABLE_1_OFFSET, &regions);
    file.write(REGION_TABLE_2_OFFSET, &regions);
    file.write(2 * MIB, &metadata.encode());
    file
}

fn header(number: u8, log_guid: Guid) -> Header {
    Header {
        sequence_number: 5,
        file_write_guid: guid(number),
        data_write_guid: guid(number + 1),
        log_guid,
        log_offset: MIB,
        log_length: 1 << 20,
    }
}

fn change(input: &Input, change: &Change, ratio: u64, file: &Bytes) -> LogChange {
    let offset = match change.region % 4 {
        0 => REGION_TABLE_1_OFFSET + u64::from(change.sector % 32) * 4096,
        1 => 3 * MIB + u64::from(change.sector % 9) * 4096,
        2 => BITMAP + u64::from(change.sector % 4) * 4096,
        _ => u64::from(change.sector) * 4096 % LONGEST_FILE,
    };
    if change.zero {
        return LogChange::Zero { offset, length: u64::from(input.write_bytes % 4) * 4096 };
    }
    let mut bytes = Box::new([0; 4096]);
    if let Some(present) = file.read(offset, 4096) {
        bytes.copy_from_slice(&present);
    }
    for entry in change.entries {
        let place = usize::try_from(index(entry, ratio) % 512 * 8).expect("small");
        bytes[place..place + 8].copy_from_slice(&raw(entry).to_le_bytes());
    }
    LogChange::Data { offset, bytes }
}

fn write_log(input: &Input, file: &mut Bytes, ratio: u64) {
    let (mut place, mut sequence) = (0u32, 0u64);
    let mut places = Vec::new();
    for logged in input.log.iter().take(6) {
        place += u32::from(logged.gap % 4) * 4096;
        sequence += u64::from(logged.sequence_step % 3).max(1);
        places.push(place);
        let back = usize::from(logged.tail) % places.len();
        let changes = logged.changes.iter().take(4).map(|c| change(input, c, ratio, file));
        let changes: Vec<LogChange> = changes.collect();
        let length = u32::try_from(LogEntry::encoded_length(&changes)).expect("short");
        let header = LogEntryHeader {
            entry_length: length,
            tail: places[places.len() - 1 - back],
            sequence_number: sequence,
            log_guid: guid(9),
            flushed_file_offset: 4 * MIB,
            last_file_offset: u64::from(logged.last_mib % 12) * MIB,
        };
        let mut bytes = LogEntry { header, changes }.encode();
        if let Some(torn) = logged.torn {
            let at = usize::from(torn) % bytes.len();
            bytes[at] ^= 0x40;
        }
        file.write(MIB + u64::from(place), &bytes);
        place += length;
    }
}

fn seal(file: &mut Bytes, at: u64, length: u64) {
    file.zero(at + 4, 4);
    let sum = crc32c::crc32c(&file.read(at, length).expect("it is not cut yet"));
    file.write(at + 4, &sum.to_le_bytes());
}

fn build(input: &Input) -> Files {
    let mut files = Files::new();
    let parent = sound(&metadata(input, None), header(3, Guid::ZERO));
    let parent_guid = header(3, Guid::ZERO).data_write_guid;
    let locator = ParentLocator::new(parent_guid, &[("relative_path", ".\\parent.vhdx")]);
    let metadata = metadata(input, input.differencing.then_some(locator));
    let log_guid = if input.log_in_use { guid(9) } else { Guid::ZERO };
    let mut file = sound(&metadata, header(5, log_guid));
    let ratio = (1 << 23) * u64::from(metadata.logical_sector) / MIB;
    for entry in &input.bat {
        file.write(3 * MIB + index(*entry, ratio) * 8, &raw(*entry).to_le_bytes());
    }
    for (place, byte) in &input.bitmap {
        file.write(BITMAP + u64::from(*place % 1024), &[*byte]);
    }
    write_log(input, &mut file, ratio);
    for edit in input.edits.iter().take(16) {
        let (start, span) = match edit.structure % 7 {
            0 => (0, 520),
            1 => (HEADER_1_OFFSET, 128),
            2 => (HEADER_2_OFFSET, 128),
            3 => (REGION_TABLE_1_OFFSET, 128),
            4 => (REGION_TABLE_2_OFFSET, 128),
            5 => (2 * MIB, 320),
            _ => (2 * MIB + 65_536, 512),
        };
        file.write(start + u64::from(edit.place) % span, &[edit.value]);
    }
    if input.seal {
        seal(&mut file, HEADER_1_OFFSET, 4096);
        seal(&mut file, HEADER_2_OFFSET, 4096);
        seal(&mut file, REGION_TABLE_1_OFFSET, 65_536);
        seal(&mut file, REGION_TABLE_2_OFFSET, 65_536);
    }
    if let Some(cut) = input.cut_kib {
        file.set_length(FILE_BYTES.min(u64::from(cut) << 10));
    }
    // A parent with blocks of its own, so that what comes from it is told from zeroes.
    let mut parent = parent;
    for block in 0..3u64 {
        parent.write(3 * MIB + block * 8, &(((4 + block) * MIB) | 6).to_le_bytes());
    }
    files.insert("parent.vhdx".to_owned(), parent);
    files.insert("image.vhdx".to_owned(), file);
    files
}

async fn lay(folder: &FaultFolder, files: &Files) {
    for (name, bytes) in files {
        let path = Path::new(name);
        let file = folder.open(path, OpenMode::CreateNew, Caching::Buffered).await.expect("new");
        for (at, run) in bytes.content() {
            file.write_at(at, Buffer::copy_of(&run)).await.expect("written");
        }
        file.set_length(bytes.length()).await.expect("resized");
    }
}

/// The file as it is now, unless it grew past what the slow reader takes: one written block of an image may have 256 MiB.
async fn collect(folder: &FaultFolder, name: &str) -> Option<Bytes> {
    let path = Path::new(name);
    let file = folder.open(path, OpenMode::Read, Caching::Buffered).await.expect("there");
    let mut bytes = Bytes::default();
    let length = file.length().await.expect("measured");
    if length > 2 * LONGEST_FILE {
        return None;
    }
    let mut from = 0;
    while let Some((start, end)) = file.next_data(from).await.expect("there") {
        let part = Buffer::zeroed(usize::try_from(end - start).expect("short"));
        bytes.write(start, &file.read_at(start, part).await.expect("read"));
        from = end;
    }
    bytes.set_length(length);
    Some(bytes)
}

async fn open(folder: &FaultFolder, access: Access) -> Option<Image> {
    let location = Location { folder: Arc::new(folder.clone()), path: PathBuf::from("image.vhdx") };
    Opener::new(&BesideTheImage).open(&location, Some(Format::Vhdx), access).await.ok()
}

async fn read(disk: &dyn Disk, range: ByteRange) -> Option<Vec<u8>> {
    disk.read(range).await.ok().map(|bytes| bytes.to_vec())
}

/// That the disk reads as the slow reader says, wherever it reads at all.
async fn compare(disk: &dyn Disk, files: &Files) {
    let slow = vhdx_reference::Image::open(files, "image.vhdx").expect("it was accepted");
    let geometry = disk.geometry();
    assert_eq!(slow.size(), geometry.size_bytes);
    assert_eq!(slow.sector_size(), u64::from(geometry.logical_sector));
    let unit = slow.sector_size();
    let whole = ByteRange::up_to(slow.size().min(MOST_BYTES));
    for block in whole.chunks(MIB) {
        let start = block.start().bytes();
        let parts = [(0, HEAD), (MIB / 2, 4096), (MIB - TAIL, TAIL)];
        let parts = parts.map(|(at, length)| ByteRange::at(ByteOffset::new(start + at), length));
        for part in parts.into_iter().flatten().map(|part| whole.intersection(part)) {
            // Where the whole cannot be read, some of it may.
            let step = if read(disk, part).await.is_some() { MIB } else { unit };
            for part in part.chunks(step) {
                let Some(found) = read(disk, part).await else { continue };
                let first = part.start().bytes() / unit;
                for (number, sector) in (first..).zip(found.chunks(unit as usize)) {
                    assert!(slow.sector(number).as_deref() == Some(sector), "sector {number}");
                }
            }
        }
    }
}

async fn check(input: &Input, folder: &FaultFolder) {
    let mut files = build(input);
    lay(folder, &files).await;
    let Some(image) = open(folder, Access::Read).await else { return };
    compare(&*image.disk, &files).await;
    drop(image);
    let Some(image) = open(folder, Access::Write).await else { return };
    compare(&*image.disk, &files).await;
    let size = image.disk.geometry().size_bytes;
    let at = u64::from(input.write_at) % size;
    let length = u64::from(input.write_bytes).min(size - at);
    let data = vec![0xab; usize::try_from(length).expect("small")];
    let written = ByteRange::at(ByteOffset::new(at), length).expect("on the disk");
    let done = image.disk.write(written.start(), Buffer::copy_of(&data), Durability::Durable).await;
    drop(image);
    let image = open(folder, Access::Read).await.expect("it was open for writing");
    if let Some(file) = collect(folder, "image.vhdx").await {
        files.insert("image.vhdx".to_owned(), file);
        compare(&*image.disk, &files).await;
    }
    if done.is_ok() {
        assert!(*image.disk.read(written).await.expect("just written") == *data);
    }
}

fuzz_target!(|input: Input| {
    let mut seed = Seed::new(1);
    let folder = FaultFolder::new(seed.fork());
    run(&mut seed, |_| check(&input, &folder));
});
