//! Disks whose files were bent.
//!
//! A sound disk of some kind is made in memory, bytes of its files are changed, and it is opened. Oracle: what is accepted reads
//! the same, sector by sector, through a reader that shares no code with ours and looks at the bytes alone; a sector that cannot be
//! read is one for which that reader, too, finds no bytes, or that lies in a grain table with such an entry. What is written to an
//! accepted disk is there afterwards, and nothing else changed. Nothing panics, and memory stays bounded.

#![no_main]

mod vmdk_reference;

use arbitrary::Arbitrary;
use landfall_disks::faults::{FaultFolder, Seed, run};
use landfall_disks::file::{Caching, FileError, Folder, OpenMode};
use landfall_disks::image::{Access, BesideTheImage, Format, Location, Opener};
use landfall_disks::vmdk;
use landfall_disks::{Buffer, ByteOffset, ByteRange, DiskError, Durability};
use libfuzzer_sys::fuzz_target;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use vmdk_reference::{Files, Reference};

/// Longest file; longer ones are found by nothing more.
const MAX_FILE: usize = 512 << 10;
const SECTOR: u64 = 512;

#[derive(Arbitrary, Debug)]
struct Input {
    kind: u8,
    /// Sectors of the disk.
    size: u16,
    /// Which file, where in it, and the bytes that go there.
    patches: Vec<(bool, u32, Vec<u8>)>,
    /// Entries of tables are worth a look of their own: which, and what it becomes.
    entries: Vec<(u8, u32)>,
    cut: Option<u16>,
    /// Text that is added to the descriptor, in place of a line.
    text: Option<(u8, String)>,
    write: Option<(u16, u8)>,
}

fn put(bytes: &mut Vec<u8>, at: usize, data: &[u8]) {
    let end = at + data.len();
    if bytes.len() < end {
        bytes.resize(end.next_multiple_of(512), 0);
    }
    bytes[at..end].copy_from_slice(data);
}

fn words(values: &[u32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

fn long_words(values: &[u64]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

fn descriptor(kind: &str, lines: &[String]) -> Vec<u8> {
    let lines = lines.join("\n");
    format!("# Disk DescriptorFile\nversion=1\nCID=12345678\nparentCID=ffffffff\ncreateType=\"{kind}\"\n\n{lines}\n")
        .into_bytes()
}

struct Hosted {
    capacity: u64,
    zeroed: bool,
    descriptor: Option<Vec<u8>>,
}

/// A hosted sparse extent with small grains and tables: every structure within some sectors of the others.
fn hosted(made: Hosted, entries: &[(u8, u32)]) -> Vec<u8> {
    let (grain, per_table) = (8_u64, 128_u64);
    let grains = made.capacity.div_ceil(grain);
    let tables = grains.div_ceil(per_table);
    let mut bytes = Vec::new();
    let flags = if made.zeroed { 7 } else { 3 };
    put(&mut bytes, 0, b"KDMV");
    put(&mut bytes, 4, &words(&[2, flags]));
    let embedded = u64::from(made.descriptor.is_some());
    put(&mut bytes, 12, &long_words(&[made.capacity, grain, embedded, 4 * embedded]));
    put(&mut bytes, 44, &words(&[128]));
    let redundant = 5;
    let primary = redundant + 4 + tables;
    let overhead = (primary + 4 + tables).next_multiple_of(8);
    put(&mut bytes, 48, &long_words(&[redundant, primary, overhead]));
    put(&mut bytes, 73, b"\n \r\n");
    put(&mut bytes, 512, &made.descriptor.unwrap_or_default());
    let place = |sector: u64| usize::try_from(sector * SECTOR).expect("small");
    let mut next = overhead;
    let mut table = vec![0_u32; usize::try_from(tables * per_table).expect("small")];
    for index in (0..grains).filter(|index| index % 3 != 1) {
        let entry = usize::try_from(index).expect("small");
        if made.zeroed && index % 5 == 2 {
            table[entry] = 1;
            continue;
        }
        if next > 600 {
            break;
        }
        table[entry] = u32::try_from(next).expect("small");
        let fill = u8::try_from(index % 255 + 1).expect("small");
        put(&mut bytes, place(next), &[fill; 4096]);
        next += grain;
    }
    for (which, value) in entries {
        let index = usize::from(*which) % table.len();
        table[index] = *value;
    }
    for directory in [redundant, primary] {
        let first = u32::try_from(directory + 4).expect("small");
        let sectors: Vec<u32> =
            (0..u32::try_from(tables).expect("small")).map(|n| first + n).collect();
        put(&mut bytes, place(directory), &words(&sectors));
        put(&mut bytes, place(directory + 4), &words(&table));
    }
    bytes
}

fn stream(size: u64, entries: &[(u8, u32)]) -> Vec<u8> {
    use vmdk::format::stream::{Level, PackedGrain, StreamWriter};
    let line = [format!("RW {size} SPARSE \"disk.vmdk\"")];
    let (mut writer, mut bytes) = StreamWriter::start(size, &descriptor("streamOptimized", &line));
    for number in 0..size.div_ceil(128).min(4) {
        let sectors = (size - number * 128).min(128);
        let length = usize::try_from(sectors * SECTOR).expect("small");
        let grain: Vec<u8> =
            (0..length).map(|at| u8::try_from((at / 700 + 1) % 256).expect("small")).collect();
        let packed = PackedGrain::pack(number, &grain, Level::DEFAULT).expect("not zero");
        writer.push(&packed, &mut bytes).expect("short");
    }
    writer.finish(&mut bytes).expect("short");
    for (which, value) in entries {
        // Bytes of markers and packed grains.
        let at = 65_536 + usize::from(*which) * 7;
        if at + 4 < bytes.len() {
            bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
        }
    }
    bytes
}

fn cowd(size: u64, entries: &[(u8, u32)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    put(&mut bytes, 0, b"COWD");
    let sectors = u32::try_from(size).expect("small");
    put(&mut bytes, 4, &words(&[1, 3, sectors, 1, 4, sectors.div_ceil(4096), 0]));
    put(&mut bytes, 4 * 512, &words(&[8]));
    let mut table = vec![0_u32; 4096];
    for number in 0..20 {
        table[usize::try_from(number * 3).expect("small")] = 40 + number;
        let at = usize::try_from((40 + number) * 512).expect("small");
        put(&mut bytes, at, &[u8::try_from(number + 1).expect("small"); 512]);
    }
    for (which, value) in entries {
        table[usize::from(*which)] = *value;
    }
    put(&mut bytes, 8 * 512, &words(&table));
    bytes
}

fn sesparse(size: u64, entries: &[(u8, u32)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut header = vec![0xcafe_babe, 0x2_0000_0001, size, 8, 64, 0, 0, 0, 0, 0];
    header.extend([1, 1, 0, 0, 0, 0, 2, 4, 64, 64, 0, 0, 0, 0, 128, 64]);
    put(&mut bytes, 0, &long_words(&header));
    put(&mut bytes, 512, &long_words(&[0xcafe_cafe, 0, 0, 0]));
    put(&mut bytes, 1024, &long_words(&[0x1000_0000_0000_0000]));
    let mut table = vec![0_u64; 4096];
    for number in 0..8_u64 {
        table[usize::try_from(number * 2).expect("small")] = 3 << 60 | number << 48;
        let at = usize::try_from((128 + number * 8) * 512).expect("small");
        put(&mut bytes, at, &[u8::try_from(number + 1).expect("small"); 4096]);
    }
    for (which, value) in entries {
        table[usize::from(*which)] = u64::from(*value) << 32 | u64::from(*value >> 16);
    }
    put(&mut bytes, 64 * 512, &long_words(&table));
    bytes
}

/// The files of a disk of some kind; the first is the one to open.
fn files(input: &Input) -> Vec<(&'static str, Vec<u8>)> {
    let size = u64::from(input.size % 2048) + 1;
    let one = |line: String| vec![line];
    let sparse = one(format!("RW {size} SPARSE \"disk.vmdk\""));
    match input.kind % 8 {
        kind @ (0 | 1) => {
            let descriptor = Some(descriptor("monolithicSparse", &sparse));
            let made = Hosted { capacity: size, zeroed: kind == 1, descriptor };
            vec![("disk.vmdk", hosted(made, &input.entries))]
        }
        2 => vec![("disk.vmdk", stream(size, &input.entries))],
        3 => {
            let lines = one(format!("RW {size} VMFSSPARSE \"e.bin\""));
            vec![
                ("disk.vmdk", descriptor("vmfsSparse", &lines)),
                ("e.bin", cowd(size, &input.entries)),
            ]
        }
        4 => {
            let lines = one(format!("RW {size} SESPARSE \"e.bin\""));
            vec![
                ("disk.vmdk", descriptor("seSparse", &lines)),
                ("e.bin", sesparse(size, &input.entries)),
            ]
        }
        5 => {
            let lines = one(format!("RW {size} FLAT \"e.bin\" 1"));
            let bytes =
                (0..(size + 1) * 512).map(|at| u8::try_from(at / 100 % 251).expect("small"));
            vec![("disk.vmdk", descriptor("monolithicFlat", &lines)), ("e.bin", bytes.collect())]
        }
        6 => {
            let lines = [format!("RW {size} SPARSE \"e.bin\""), "RW 17 ZERO".to_owned()];
            let made = Hosted { capacity: size, zeroed: false, descriptor: None };
            vec![
                ("disk.vmdk", descriptor("custom", &lines)),
                ("e.bin", hosted(made, &input.entries)),
            ]
        }
        _ => vec![(
            "disk.vmdk",
            hosted(Hosted { capacity: size, zeroed: true, descriptor: None }, &input.entries),
        )],
    }
}

fn bend(input: &Input, files: &mut [(&'static str, Vec<u8>)]) {
    if let Some((line, text)) = &input.text {
        let first = &mut files[0].1;
        if !first.starts_with(b"KDMV") {
            let whole = String::from_utf8_lossy(first).into_owned();
            let mut lines: Vec<&str> = whole.split('\n').collect();
            let place = usize::from(*line) % lines.len();
            lines[place] = text;
            *first = lines.join("\n").into_bytes();
        }
    }
    for (second, at, data) in input.patches.iter().take(16) {
        let last = files.len() - 1;
        let bytes = &mut files[if *second { last } else { 0 }].1;
        let at = usize::try_from(*at).expect("a 64-bit machine") % (bytes.len() + 1);
        for (byte, new) in bytes[at..].iter_mut().zip(data) {
            *byte = *new;
        }
    }
    if let Some(cut) = input.cut {
        let bytes = &mut files.last_mut().expect("there is one").1;
        let length = bytes.len().saturating_sub(usize::from(cut));
        bytes.truncate(length);
    }
}

async fn store(folder: &FaultFolder, name: &str, bytes: &[u8]) {
    let file = folder.open(Path::new(name), OpenMode::CreateNew, Caching::Buffered).await;
    let file = file.expect("a new file");
    if !bytes.is_empty() {
        file.write_at(0, Buffer::copy_of(bytes)).await.expect("written");
    }
}

async fn fetch(folder: &FaultFolder, name: &str) -> Option<Vec<u8>> {
    let file = folder.open(Path::new(name), OpenMode::Read, Caching::Buffered).await;
    let file = match file {
        Ok(file) => file,
        Err(FileError::NotFound { .. }) => return None,
        Err(error) => panic!("{error}"),
    };
    let length = file.length().await.expect("measured");
    let length = usize::try_from(length).expect("small");
    if length > 64 << 20 {
        return None;
    }
    Some(file.read_at(0, Buffer::zeroed(length)).await.expect("read").to_vec())
}

/// Sectors that are looked at: the first ones, the last ones, and some between.
fn looked_at(sectors: u64) -> Vec<u64> {
    let step = (sectors / 120).max(1);
    let mut found: Vec<u64> = (0..sectors.min(12)).collect();
    found.extend((0..120).map(|number| number * step));
    found.extend(sectors.saturating_sub(3)..sectors);
    found.retain(|sector| *sector < sectors);
    found
}

/// Whether some sector that shares a grain table with `sector` cannot be read: tables are refused as a whole.
fn table_is_broken(reference: &Reference<'_>, sector: u64, known: &mut HashMap<u64, bool>) -> bool {
    let near = reference.neighbours(sector);
    *known
        .entry(near.start)
        .or_insert_with(|| near.into_iter().any(|near| reference.read(near).is_err()))
}

async fn compare(
    opener: &mut Opener<'_>,
    location: &Location,
    files: &Files,
    changed: &[(u64, u8)],
) -> bool {
    let Ok(image) = opener.open(location, Some(Format::Vmdk), Access::Read).await else {
        return false;
    };
    if image.parent.is_some() {
        return false;
    }
    let disk = image.disk;
    let size = disk.geometry().size_bytes;
    let reference = Reference::open(files, "disk.vmdk").expect("what is accepted has a descriptor");
    assert_eq!(size, reference.sectors() * SECTOR);
    let mut tables = HashMap::new();
    for sector in looked_at(size / SECTOR) {
        let range = ByteRange::at(ByteOffset::new(sector * SECTOR), SECTOR).expect("small");
        match (disk.read(range).await, reference.read(sector)) {
            (Ok(found), Ok(expected)) => {
                let written = changed.iter().rev().find(|(other, _)| *other == sector);
                let expected = written.map_or(expected, |(_, byte)| [*byte; 512]);
                assert!(*found == expected, "sector {sector}");
            }
            (Ok(_), Err(_)) => panic!("sector {sector} has no bytes"),
            (Err(DiskError::Damaged { .. }), expected) => {
                let bent = expected.is_err() || table_is_broken(&reference, sector, &mut tables);
                assert!(bent, "sector {sector} can be read");
            }
            (Err(error), _) => panic!("sector {sector}: {error}"),
        }
    }
    true
}

fuzz_target!(|input: Input| {
    let mut made = files(&input);
    bend(&input, &mut made);
    if made.iter().any(|(_, bytes)| bytes.len() > MAX_FILE) {
        return;
    }
    let mut seed = Seed::new(1);
    let folder = FaultFolder::new(seed.fork());
    run(&mut seed, |_| async {
        for (name, bytes) in &made {
            store(&folder, name, bytes).await;
        }
        let shared: Arc<dyn Folder> = Arc::new(folder.clone());
        let location = Location { folder: shared, path: PathBuf::from("disk.vmdk") };
        let mut opener = Opener::new(&BesideTheImage);
        let all: Files =
            made.iter().map(|(name, bytes)| ((*name).to_owned(), bytes.clone())).collect();
        let accepted = compare(&mut opener, &location, &all, &[]).await;
        let report = vmdk::check(&mut opener, &location, false).await;
        let Some((at, byte)) = input.write.filter(|_| accepted && report.is_ok()) else { return };
        let Ok(image) = opener.open(&location, Some(Format::Vmdk), Access::Write).await else {
            return;
        };
        let sectors = image.disk.geometry().size_bytes / SECTOR;
        let sector = u64::from(at) % sectors;
        let mut data = Buffer::zeroed(512);
        data.fill(byte);
        let offset = ByteOffset::new(sector * SECTOR);
        let written = image.disk.write(offset, data, Durability::Durable).await;
        drop(image);
        let mut changed = Vec::new();
        match written {
            Ok(()) => changed.push((sector, byte)),
            // A part of zeroes without a file.
            Err(DiskError::NoSpace(_)) => {}
            Err(error) => panic!("what can be opened for writing can be written: {error}"),
        }
        let compared = compare(&mut opener, &location, &all, &changed).await;
        assert!(compared, "a disk that was written can be opened");
        // The same through the bytes that are in the files now.
        let mut now = Files::new();
        for (name, _) in &made {
            let Some(bytes) = fetch(&folder, name).await else { return };
            now.insert((*name).to_owned(), bytes);
        }
        compare(&mut opener, &location, &now, &[]).await;
    });
});
