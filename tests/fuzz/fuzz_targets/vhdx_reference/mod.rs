//! A slow reader of VHDX files, written from the specification on its own: whole files in memory, one sector after the other,
//! nothing shared with the code under test.
//!
//! It takes what it finds at its word wherever the specification does not say what a reader must refuse; the target compares
//! only what the code under test accepts.

/// Files by name.
pub(crate) type Files = std::collections::BTreeMap<String, Vec<u8>>;

const MIB: u64 = 1 << 20;

/// An image as it is after its log was replayed.
pub(crate) struct Image {
    bytes: Vec<u8>,
    bat: u64,
    block_size: u64,
    size: u64,
    sector_size: u64,
    /// Of a differencing image. Only the name beside the image is followed.
    parent: Option<Box<Image>>,
}

/// Parents that are followed.
const MOST_PARENTS: usize = 4;

fn u16_at(bytes: &[u8], at: u64) -> Option<u64> {
    Some(u64::from(u16::from_le_bytes(part(bytes, at, 2)?.try_into().ok()?)))
}

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
fn current_header(file: &[u8]) -> Option<u64> {
    let valid = |at: u64| {
        let header = part(file, at, 4096)?;
        (header.starts_with(b"head") && is_sealed(header)).then_some(at)
    };
    match (valid(64 << 10), valid(128 << 10)) {
        (Some(one), Some(two)) => {
            let (first, second) = (u64_at(file, one + 8)?, u64_at(file, two + 8)?);
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
        part(ring, at, 4)?.starts_with(b"loge").then_some(())?;
        let turned: Vec<u8> =
            ring.iter().cycle().skip(usize::try_from(at).ok()?).take(ring.len()).copied().collect();
        let length = u32_at(&turned, 8)?;
        let whole = turned.starts_with(b"loge")
            && part(&turned, 32, 16)? == log_guid
            && length > 0
            && length % 4096 == 0
            && length <= size;
        let entry = Self { at, bytes: part(&turned, 0, length).filter(|_| whole)?.to_vec() };
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
    fn apply(&self, file: &mut Vec<u8>) -> Option<()> {
        let mut data = 0;
        for number in 0..u32_at(&self.bytes, 24)? {
            let descriptor = part(&self.bytes, 64 + number * 32, 32)?;
            let content = if descriptor.starts_with(b"zero") {
                vec![0; usize::try_from(u64_at(descriptor, 8)?).ok().filter(|n| *n < 1 << 26)?]
            } else {
                let mut sector = self.data_sector(data)?.to_vec();
                sector[..8].copy_from_slice(&descriptor[8..16]);
                sector[4092..].copy_from_slice(&descriptor[4..8]);
                data += 1;
                sector
            };
            if content.is_empty() {
                // No zeroes are a multiple of 4 KiB, too (section 2.3.1.2), wherever they would go.
                continue;
            }
            let start = usize::try_from(u64_at(descriptor, 16)?).ok().filter(|n| *n < 1 << 26)?;
            if file.len() < start + content.len() {
                file.resize((start + content.len()).next_multiple_of(1 << 20), 0);
            }
            file.get_mut(start..start + content.len())?.copy_from_slice(&content);
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
fn replayed(file: &[u8]) -> Option<Vec<u8>> {
    let mut bytes = file.to_vec();
    let header = current_header(&bytes)?;
    let log_guid = part(&bytes, header + 48, 16)?.to_vec();
    if log_guid == [0; 16] {
        return Some(bytes);
    }
    let (length, offset) = (u32_at(&bytes, header + 68)?, u64_at(&bytes, header + 72)?);
    let ring = part(&bytes, offset, length)?.to_vec();
    let entries = active_sequence(&ring, &log_guid);
    for entry in &entries {
        entry.apply(&mut bytes)?;
    }
    if let Some(head) = entries.last() {
        let last = usize::try_from(u64_at(&head.bytes, 56)?).ok().filter(|n| *n < 1 << 26)?;
        if bytes.len() < last {
            bytes.resize(last.next_multiple_of(1 << 20), 0);
        }
    }
    Some(bytes)
}

fn region(bytes: &[u8], id: &str) -> Option<u64> {
    let valid = |at: u64| {
        let table = part(bytes, at, 65_536)?;
        (table.starts_with(b"regi") && is_sealed(table)).then_some(at)
    };
    let table = valid(192 << 10).or_else(|| valid(256 << 10))?;
    let id = guid(id)?;
    (0..u32_at(bytes, table + 8)?)
        .map(|number| table + 16 + number * 32)
        .find(|at| part(bytes, *at, 16) == Some(&id))
        .and_then(|at| u64_at(bytes, at + 16))
}

/// Where an item of the metadata is.
fn item(bytes: &[u8], id: &str) -> Option<u64> {
    let region = region(bytes, "8b7ca206-4790-4b9a-b8fe-575f050f886e")?;
    let id = guid(id)?;
    (0..u16_at(bytes, region + 10)?)
        .map(|number| region + 32 + number * 32)
        .find(|at| {
            let user = u32_at(bytes, *at + 24).is_none_or(|flags| flags & 1 != 0);
            !user && part(bytes, *at, 16) == Some(&id)
        })
        .and_then(|at| Some(region + u32_at(bytes, at + 16)?))
}

/// The value of a key of the parent locator.
fn locator(bytes: &[u8], key: &str) -> Option<String> {
    let at = item(bytes, "a8d35f2d-b30b-454d-abf7-d3d84834ab0c")?;
    let text = |offset: u64, length: u64| {
        let bytes = part(bytes, at + offset, length)?;
        let units = bytes.chunks_exact(2).map(|two| u16::from_le_bytes([two[0], two[1]]));
        String::from_utf16(&units.collect::<Vec<_>>()).ok()
    };
    (0..u16_at(bytes, at + 18)?).map(|number| at + 20 + number * 12).find_map(|entry| {
        let [key_length, value_length] = [8, 10].map(|place| u16_at(bytes, entry + place));
        let found = text(u32_at(bytes, entry)?, key_length?)?;
        let value = text(u32_at(bytes, entry + 4)?, value_length?)?;
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
        let parameters = item(&bytes, "caa16737-fa36-4d43-b3b6-33f0aa44e76b")?;
        let parent = if u32_at(&bytes, parameters + 4)? & 2 != 0 {
            let name = locator(&bytes, "relative_path")?;
            let name = name.trim_start_matches(".\\");
            Some(Box::new(Self::open_below(files, name, parents.checked_sub(1)?)?))
        } else {
            None
        };
        Some(Self {
            bat: region(&bytes, "2dc27766-f623-4200-9d64-115e9bfd4a08")?,
            block_size: u32_at(&bytes, parameters)?,
            size: u64_at(&bytes, item(&bytes, "2fa54224-cd1b-4876-b211-5dbed83bf4b8")?)?,
            sector_size: u32_at(&bytes, item(&bytes, "8141bf1d-a96f-4709-ba47-f233a8faab5f")?)?,
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
        u64_at(&self.bytes, self.bat + index * 8)
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
            part(&self.bytes, offset, unit).map(<[u8]>::to_vec)
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
                let byte = part(&self.bytes, bitmap / MIB * MIB + bit / 8, 1)?[0];
                if byte >> (bit % 8) & 1 == 1 { here() } else { self.parents_sector(sector) }
            }
            _ => None,
        }
    }
}
