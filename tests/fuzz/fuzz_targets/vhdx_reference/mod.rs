//! A slow reader of VHDX files, written from the specification on its own: whole files in memory, one sector after the other,
//! nothing shared with the code under test.
//!
//! It takes what it finds at its word wherever the specification does not say what a reader must refuse; the target compares
//! only what the code under test accepts.

mod bytes;

pub(crate) use bytes::Bytes;

/// Files by name.
pub(crate) type Files = std::collections::BTreeMap<String, Bytes>;

const MIB: u64 = 1 << 20;

/// An image as it is after its log was replayed.
pub(crate) struct Image {
    bytes: Bytes,
    bat: u64,
    block_size: u64,
    size: u64,
    sector_size: u64,
    /// Of a differencing image. Only the name beside the image is followed.
    parent: Option<Box<Image>>,
}

/// Parents that are followed.
const MOST_PARENTS: usize = 4;

/// A file is shorter than this, also after a log was replayed.
const LONGEST: u64 = 1 << 26;

fn u32_at(bytes: &[u8], at: u64) -> Option<u64> {
    Some(u64::from(u32::from_le_bytes(part(bytes, at, 4)?.try_into().ok()?)))
}

fn u64_at(bytes: &[u8], at: u64) -> Option<u64> {
    Some(u64::from_le_bytes(part(bytes, at, 8)?.try_into().ok()?))
}

fn part(bytes: &[u8], at: u64, length: u64) -> Option<&[u8]> {
    let (at, length) = (usize::try_from(at).ok()?, usize::try_from(length).ok()?);
    bytes.get(at..at.checked_add(length)?)
}

/// A number of so many bytes in the file.
fn number(file: &Bytes, at: u64, length: u64) -> Option<u64> {
    let bytes = file.read(at, length)?;
    Some(bytes.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte)))
}

/// A GUID from its text, in stored order.
fn guid(text: &str) -> Option<[u8; 16]> {
    let digits: String = text.trim_matches(['{', '}']).chars().filter(|c| *c != '-').collect();
    let number = u128::from_str_radix(&digits, 16).ok()?;
    let mut bytes = number.to_be_bytes();
    bytes[..4].reverse();
    bytes[4..6].reverse();
    bytes[6..8].reverse();
    Some(bytes)
}

/// The checksum of a structure, whose field for it counts as zero.
fn is_sealed(bytes: &[u8]) -> bool {
    let mut copy = bytes.to_vec();
    let stored = u32::from_le_bytes(copy[4..8].try_into().expect("four bytes"));
    copy[4..8].fill(0);
    crc32c::crc32c(&copy) == stored
}

/// Where the current header is.
fn current_header(file: &Bytes) -> Option<u64> {
    let valid = |at: u64| {
        let header = file.read(at, 4096)?;
        (header.starts_with(b"head") && is_sealed(&header)).then_some(at)
    };
    match (valid(64 << 10), valid(128 << 10)) {
        (Some(one), Some(two)) => {
            let (first, second) = (number(file, one + 8, 8)?, number(file, two + 8, 8)?);
            Some(if first >= second { one } else { two })
        }
        (one, two) => one.or(two),
    }
}

/// An entry of the log: where it is in the ring, its bytes in order.
struct Entry {
    at: u64,
    bytes: Vec<u8>,
}

impl Entry {
    fn sequence(&self) -> u64 {
        u64_at(&self.bytes, 16).expect("long enough")
    }

    fn tail(&self) -> u64 {
        u32_at(&self.bytes, 12).expect("long enough")
    }

    /// The entry at `at`, if every part of it is valid.
    fn find(ring: &[u8], at: u64, log_guid: &[u8]) -> Option<Self> {
        let size = ring.len() as u64;
        let head = part(ring, at, 64)?;
        let length = u32_at(head, 8)?;
        let whole = head.starts_with(b"loge")
            && part(head, 32, 16)? == log_guid
            && length > 0
            && length % 4096 == 0
            && length <= size;
        whole.then_some(())?;
        let before = length.min(size - at);
        let bytes = [part(ring, at, before)?, part(ring, 0, length - before)?].concat();
        let entry = Self { at, bytes };
        let possible = entry.sequence() > 0 && entry.tail() % 4096 == 0 && entry.tail() < size;
        (possible && is_sealed(&entry.bytes)).then_some(())?;
        let mut data = 0;
        for number in 0..u32_at(&entry.bytes, 24)? {
            let descriptor = part(&entry.bytes, 64 + number * 32, 32)?;
            (u64_at(descriptor, 24)? == entry.sequence()).then_some(())?;
            let end = match &descriptor[..4] {
                b"zero" => u64_at(descriptor, 8)?,
                b"desc" => {
                    let sector = entry.data_sector(data)?;
                    let sequence = u32_at(sector, 4)? << 32 | u32_at(sector, 4092)?;
                    (sector.starts_with(b"data") && sequence == entry.sequence()).then_some(())?;
                    data += 1;
                    4096
                }
                _ => return None,
            };
            let target = u64_at(descriptor, 16)?;
            let inside = target.checked_add(end)? <= 128 << 40;
            (inside && target % 4096 == 0 && end % 4096 == 0).then_some(())?;
        }
        let sectors = (length - entry.descriptors_end()?) / 4096;
        (sectors == data).then_some(entry)
    }

    fn descriptors_end(&self) -> Option<u64> {
        let end = (64 + 32 * u32_at(&self.bytes, 24)?).next_multiple_of(4096);
        (end <= self.bytes.len() as u64).then_some(end)
    }

    fn data_sector(&self, number: u64) -> Option<&[u8]> {
        part(&self.bytes, self.descriptors_end()? + number * 4096, 4096)
    }

    /// Makes the changes in the file.
    fn apply(&self, file: &mut Bytes) -> Option<()> {
        let mut data = 0;
        for number in 0..u32_at(&self.bytes, 24)? {
            let descriptor = part(&self.bytes, 64 + number * 32, 32)?;
            let is_zero = descriptor.starts_with(b"zero");
            let length = if is_zero { u64_at(descriptor, 8)? } else { 4096 };
            if length == 0 {
                // No zeroes are a multiple of 4 KiB, too (section 2.3.1.2), wherever they would go.
                continue;
            }
            let start = u64_at(descriptor, 16)?;
            let end = start.checked_add(length).filter(|end| *end < LONGEST)?;
            if file.length() < end {
                file.set_length(end.next_multiple_of(MIB));
            }
            if is_zero {
                file.zero(start, length);
                continue;
            }
            let mut sector = self.data_sector(data)?.to_vec();
            sector[..8].copy_from_slice(&descriptor[8..16]);
            sector[4092..].copy_from_slice(&descriptor[4..8]);
            file.write(start, &sector);
            data += 1;
        }
        Some(())
    }
}

/// The sequence of section 2.3.3, tried from every sector of the ring.
fn active_sequence(ring: &[u8], log_guid: &[u8]) -> Vec<Entry> {
    let mut best: Vec<Entry> = Vec::new();
    for start in (0..ring.len() as u64).step_by(4096) {
        let mut sequence: Vec<Entry> = Vec::new();
        let (mut at, mut total) = (start, 0);
        while let Some(entry) = Entry::find(ring, at, log_guid) {
            let follows = sequence.last().is_none_or(|e| e.sequence() + 1 == entry.sequence());
            total += entry.bytes.len();
            if !follows || total > ring.len() {
                break;
            }
            at = (at + entry.bytes.len() as u64) % ring.len() as u64;
            sequence.push(entry);
        }
        let Some(head) = sequence.last() else { continue };
        let (tail, number) = (head.tail(), head.sequence());
        let Some(first) = sequence.iter().position(|entry| entry.at == tail) else { continue };
        if best.last().is_none_or(|head| head.sequence() < number) {
            best = sequence.split_off(first);
        }
    }
    best
}

/// The file with its log replayed.
fn replayed(file: &Bytes) -> Option<Bytes> {
    let mut bytes = file.clone();
    let header = current_header(&bytes)?;
    let log_guid = bytes.read(header + 48, 16)?;
    if log_guid == [0; 16] {
        return Some(bytes);
    }
    let (length, offset) = (number(&bytes, header + 68, 4)?, number(&bytes, header + 72, 8)?);
    let ring = bytes.read(offset, length)?;
    let entries = active_sequence(&ring, &log_guid);
    for entry in &entries {
        entry.apply(&mut bytes)?;
    }
    if let Some(head) = entries.last() {
        let last = u64_at(&head.bytes, 56).filter(|last| *last < LONGEST)?;
        if bytes.length() < last {
            bytes.set_length(last.next_multiple_of(MIB));
        }
    }
    Some(bytes)
}

/// The region table that counts.
fn region_table(bytes: &Bytes) -> Option<Vec<u8>> {
    let valid = |at: u64| {
        let table = bytes.read(at, 65_536)?;
        (table.starts_with(b"regi") && is_sealed(&table)).then_some(table)
    };
    valid(192 << 10).or_else(|| valid(256 << 10))
}

/// Where a region is.
fn region(table: &[u8], id: &str) -> Option<u64> {
    let id = guid(id)?;
    (0..u32_at(table, 8)?)
        .map(|number| 16 + number * 32)
        .find(|at| part(table, *at, 16) == Some(&id))
        .and_then(|at| u64_at(table, at + 16))
}

/// Where an item of the metadata region is.
fn item(bytes: &Bytes, metadata: u64, id: &str) -> Option<u64> {
    let id = guid(id)?;
    (0..number(bytes, metadata + 10, 2)?)
        .map(|number| metadata + 32 + number * 32)
        .find(|at| {
            let user = number(bytes, *at + 24, 4).is_none_or(|flags| flags & 1 != 0);
            !user && bytes.read(*at, 16).is_some_and(|found| found == id)
        })
        .and_then(|at| Some(metadata + number(bytes, at + 16, 4)?))
}

/// The value of a key of the parent locator.
fn locator(bytes: &Bytes, metadata: u64, key: &str) -> Option<String> {
    let at = item(bytes, metadata, "a8d35f2d-b30b-454d-abf7-d3d84834ab0c")?;
    let text = |offset: u64, length: u64| {
        let bytes = bytes.read(at + offset, length)?;
        let units = bytes.chunks_exact(2).map(|two| u16::from_le_bytes([two[0], two[1]]));
        String::from_utf16(&units.collect::<Vec<_>>()).ok()
    };
    (0..number(bytes, at + 18, 2)?).map(|number| at + 20 + number * 12).find_map(|entry| {
        let field = |place, length| number(bytes, entry + place, length);
        let found = text(field(0, 4)?, field(8, 2)?)?;
        let value = text(field(4, 4)?, field(10, 2)?)?;
        (found == key).then_some(value)
    })
}

impl Image {
    /// Reads the file, replays its log, and finds its structures and its parents.
    pub(crate) fn open(files: &Files, name: &str) -> Option<Self> {
        Self::open_below(files, name, MOST_PARENTS)
    }

    fn open_below(files: &Files, name: &str, parents: usize) -> Option<Self> {
        let bytes = replayed(files.get(name)?)?;
        let table = region_table(&bytes)?;
        let metadata = region(&table, "8b7ca206-4790-4b9a-b8fe-575f050f886e")?;
        let item = |id| item(&bytes, metadata, id);
        let parameters = item("caa16737-fa36-4d43-b3b6-33f0aa44e76b")?;
        let parent = if number(&bytes, parameters + 4, 4)? & 2 != 0 {
            let name = locator(&bytes, metadata, "relative_path")?;
            let name = name.trim_start_matches(".\\");
            Some(Box::new(Self::open_below(files, name, parents.checked_sub(1)?)?))
        } else {
            None
        };
        Some(Self {
            bat: region(&table, "2dc27766-f623-4200-9d64-115e9bfd4a08")?,
            block_size: number(&bytes, parameters, 4)?,
            size: number(&bytes, item("2fa54224-cd1b-4876-b211-5dbed83bf4b8")?, 8)?,
            sector_size: number(&bytes, item("8141bf1d-a96f-4709-ba47-f233a8faab5f")?, 4)?,
            bytes,
            parent,
        })
    }

    /// Size of the disk in bytes.
    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    /// Size of a sector.
    pub(crate) fn sector_size(&self) -> u64 {
        self.sector_size
    }

    fn bat_entry(&self, index: u64) -> Option<u64> {
        number(&self.bytes, self.bat + index * 8, 8)
    }

    /// What the parent has in a sector: zeroes behind its end.
    fn parents_sector(&self, sector: u64) -> Option<Vec<u8>> {
        let parent = self.parent.as_ref()?;
        if sector >= parent.size.div_ceil(self.sector_size) {
            return Some(vec![0; usize::try_from(self.sector_size).ok()?]);
        }
        parent.sector(sector)
    }

    /// The content of a sector of the disk.
    pub(crate) fn sector(&self, sector: u64) -> Option<Vec<u8>> {
        let (unit, block_size) = (self.sector_size, self.block_size);
        let has_parent = self.parent.is_some();
        let ratio = (1 << 23) * unit / block_size;
        let block = sector * unit / block_size;
        let entry = self.bat_entry(block + block / ratio)?;
        let here = || {
            let offset = entry / MIB * MIB + sector * unit % block_size;
            self.bytes.read(offset, unit)
        };
        let zeroes = || usize::try_from(unit).ok().map(|unit| vec![0; unit]);
        match entry % 8 {
            0 if has_parent => self.parents_sector(sector),
            0..=3 => zeroes(),
            6 => here(),
            7 if has_parent => {
                let bitmap = self.bat_entry(block / ratio * (ratio + 1) + ratio)?;
                (bitmap % 8 == 6).then_some(())?;
                let bit = sector % (1 << 23);
                let byte = number(&self.bytes, bitmap / MIB * MIB + bit / 8, 1)?;
                if byte >> (bit % 8) & 1 == 1 { here() } else { self.parents_sector(sector) }
            }
            _ => None,
        }
    }
}
