//! A reader of VMDK that is slow and plain: it looks everything up again for each sector, in bytes that are all in memory.
//!
//! It shares no code with the reader under test. It knows disks without a parent, in the kinds of extents that are read, and does
//! not judge what it does not need: an image that is refused for other reasons may well be read here.

use flate2::read::ZlibDecoder;
use std::collections::HashMap;
use std::io::Read;

pub type Files = HashMap<String, Vec<u8>>;

const SECTOR: usize = 512;

/// Why a sector cannot be read.
#[derive(Debug)]
pub struct Broken;

/// A part of the disk.
struct Extent {
    sectors: u64,
    kind: String,
    file: String,
    start: u64,
}

/// A disk, as its descriptor has it.
pub struct Reference<'a> {
    files: &'a Files,
    extents: Vec<Extent>,
}

fn number(bytes: &[u8], at: u64, length: usize) -> Result<u64, Broken> {
    let at = usize::try_from(at).map_err(|_| Broken)?;
    let end = at.checked_add(length).ok_or(Broken)?;
    let mut value = [0; 8];
    value[..length].copy_from_slice(bytes.get(at..end).ok_or(Broken)?);
    Ok(u64::from_le_bytes(value))
}

fn sector(bytes: &[u8], number: u64) -> Result<[u8; SECTOR], Broken> {
    let at = usize::try_from(number).ok().and_then(|number| number.checked_mul(SECTOR));
    let at = at.ok_or(Broken)?;
    let found = bytes.get(at..at.checked_add(SECTOR).ok_or(Broken)?).ok_or(Broken)?;
    Ok(found.try_into().expect("a sector"))
}

/// The bytes of the header that counts: the footer, if the header says so.
fn header(bytes: &[u8]) -> Result<&[u8], Broken> {
    if number(bytes, 56, 8)? == u64::MAX {
        return bytes.get(bytes.len().checked_sub(1024).ok_or(Broken)?..).ok_or(Broken);
    }
    Ok(bytes)
}

impl<'a> Reference<'a> {
    /// Reads the descriptor of the disk whose first file is `main`.
    pub fn open(files: &'a Files, main: &str) -> Result<Self, Broken> {
        let bytes = files.get(main).ok_or(Broken)?;
        let embedded = bytes.starts_with(b"KDMV");
        let text = if embedded {
            let start = usize::try_from(number(bytes, 28, 8)?).map_err(|_| Broken)?;
            let count = usize::try_from(number(bytes, 36, 8)?).map_err(|_| Broken)?;
            bytes.get(start * SECTOR..(start + count) * SECTOR).ok_or(Broken)?
        } else {
            &bytes[..]
        };
        let text = text.split(|byte| *byte == 0).next().unwrap_or_default();
        // An embedded descriptor may be missing; then the header says how large the extent is.
        let bare = embedded && (text.is_empty() || number(bytes, 28, 8)? == 0);
        let mut extents = Vec::new();
        if bare {
            let sectors = number(header(bytes)?, 12, 8)?;
            let (kind, file) = ("SPARSE".to_owned(), main.to_owned());
            extents.push(Extent { sectors, kind, file, start: 0 });
        }
        for line in text.split(|byte| *byte == b'\n').filter(|_| !bare) {
            let line: String = line.iter().map(|byte| char::from(*byte)).collect();
            let mut words = line.split_whitespace();
            let access = words.next().unwrap_or_default();
            if !["RW", "RDONLY"].contains(&access) {
                continue;
            }
            let sectors = words.next().unwrap_or_default().parse().map_err(|_| Broken)?;
            let kind = words.next().unwrap_or_default().to_owned();
            let mut quotes = line.split('"');
            let (_, name, behind) = (quotes.next(), quotes.next(), quotes.next());
            let start = behind.unwrap_or_default().split_whitespace().next();
            let start = start.and_then(|start| start.parse().ok()).unwrap_or(0);
            let name = if embedded { main } else { name.unwrap_or_default() };
            extents.push(Extent { sectors, kind, file: name.to_owned(), start });
        }
        Ok(Self { files, extents })
    }

    /// Size of the disk, in sectors.
    pub fn sectors(&self) -> u64 {
        self.extents.iter().map(|extent| extent.sectors).sum()
    }

    /// A sector of the disk.
    pub fn read(&self, number: u64) -> Result<[u8; SECTOR], Broken> {
        let mut before = 0;
        for extent in &self.extents {
            if number < before + extent.sectors {
                return self.read_extent(extent, number - before);
            }
            before += extent.sectors;
        }
        Err(Broken)
    }

    /// The sectors whose entries are in the same table as that of `number`.
    pub fn neighbours(&self, number: u64) -> std::ops::Range<u64> {
        let mut before = 0;
        for extent in &self.extents {
            let end = before + extent.sectors;
            if number < end {
                let bytes = self.files.get(&extent.file).map_or(&[][..], |bytes| &bytes[..]);
                let unit = table_sectors(bytes, &extent.kind).unwrap_or(1).max(1);
                let start = before + (number - before) / unit * unit;
                return start..(start + unit).min(end);
            }
            before = end;
        }
        number..number
    }

    fn read_extent(&self, extent: &Extent, number: u64) -> Result<[u8; SECTOR], Broken> {
        if extent.kind == "ZERO" {
            return Ok([0; SECTOR]);
        }
        let bytes = self.files.get(&extent.file).ok_or(Broken)?;
        if ["FLAT", "VMFS"].contains(&extent.kind.as_str()) {
            return sector(bytes, extent.start + number);
        }
        if bytes.starts_with(b"COWD") {
            read_cowd(bytes, number)
        } else if bytes.starts_with(b"KDMV") {
            read_hosted(bytes, number)
        } else {
            read_sesparse(bytes, number)
        }
    }
}

/// Sectors of the disk that one grain table is about.
fn table_sectors(bytes: &[u8], kind: &str) -> Result<u64, Broken> {
    if ["ZERO", "FLAT", "VMFS"].contains(&kind) {
        Ok(1)
    } else if bytes.starts_with(b"COWD") {
        Ok(number(bytes, 16, 4)? * 4096)
    } else if bytes.starts_with(b"KDMV") {
        let header = header(bytes)?;
        Ok(number(header, 20, 8)? * number(header, 44, 4)?)
    } else {
        Ok(8 * 4096)
    }
}

fn read_hosted(bytes: &[u8], disk_sector: u64) -> Result<[u8; SECTOR], Broken> {
    let header = header(bytes)?;
    let flags = number(header, 8, 4)?;
    let capacity = number(header, 12, 8)?;
    let grain = number(header, 20, 8)?;
    let entries = number(header, 44, 4)?;
    let directory = number(header, 56, 8)?;
    let (index, within) = (disk_sector / grain, disk_sector % grain);
    let table = number(bytes, directory * 512 + index / entries * 4, 4)?;
    let zeroed = flags & 4 != 0;
    let place = match table {
        0 => 0,
        1 if zeroed => 1,
        table => number(bytes, table * 512 + index % entries * 4, 4)?,
    };
    let packed = flags & 1 << 16 != 0;
    let there = if packed { 1 } else { (capacity - index * grain).min(grain) };
    let is_grain = place > 1 || place == 1 && !zeroed;
    if is_grain && place + there > bytes.len() as u64 / 512 {
        return Err(Broken);
    }
    if is_grain && overlaps_metadata(bytes, header, place, there)? {
        return Err(Broken);
    }
    match place {
        0 => Ok([0; SECTOR]),
        1 if zeroed => Ok([0; SECTOR]),
        _ if !packed => sector(bytes, place + within),
        _ => {
            let at = usize::try_from(place * 512).map_err(|_| Broken)?;
            let lba = number(bytes, place * 512, 8)?;
            let size = usize::try_from(number(bytes, place * 512 + 8, 4)?).map_err(|_| Broken)?;
            if lba != index * grain || size == 0 || size as u64 > 2 * grain * 512 {
                return Err(Broken);
            }
            let packed = bytes.get(at + 12..at + 12 + size).ok_or(Broken)?;
            let most = grain * 512;
            let mut unpacked = Vec::new();
            let decoder = ZlibDecoder::new(packed);
            decoder.take(most + 1).read_to_end(&mut unpacked).map_err(|_| Broken)?;
            let needed = (capacity - index * grain).min(grain) * 512;
            let length = unpacked.len() as u64;
            if length > most || length < needed {
                return Err(Broken);
            }
            sector(&unpacked, within)
        }
    }
}

/// Whether some of the sectors are header, descriptor, a directory or a table.
fn overlaps_metadata(bytes: &[u8], header: &[u8], start: u64, count: u64) -> Result<bool, Broken> {
    let (capacity, grain) = (number(header, 12, 8)?, number(header, 20, 8)?);
    let entries = number(header, 44, 4)?;
    let tables = capacity.div_ceil(grain).div_ceil(entries);
    let (redundant, directory) = (number(header, 48, 8)?, number(header, 56, 8)?);
    let touches =
        |other: u64, length: u64| other != 0 && start < other + length && other < start + count;
    let directory_sectors = (tables * 4).div_ceil(512);
    // The descriptor is where the header at the start of the file says.
    let descriptor = touches(number(bytes, 28, 8)?, number(bytes, 36, 8)?);
    if start == 0 || descriptor {
        return Ok(true);
    }
    if touches(redundant, directory_sectors) || touches(directory, directory_sectors) {
        return Ok(true);
    }
    for table in 0..tables {
        let place = number(bytes, directory * 512 + table * 4, 4)?;
        if place > 1 && touches(place, entries * 4 / 512) {
            return Ok(true);
        }
    }
    Ok(false)
}

fn read_cowd(bytes: &[u8], disk_sector: u64) -> Result<[u8; SECTOR], Broken> {
    let grain = number(bytes, 16, 4)?;
    let directory = number(bytes, 20, 4)?;
    let (index, within) = (disk_sector / grain, disk_sector % grain);
    let table = number(bytes, directory * 512 + index / 4096 * 4, 4)?;
    if table == 0 {
        return Ok([0; SECTOR]);
    }
    match number(bytes, table * 512 + index % 4096 * 4, 4)? {
        0 => Ok([0; SECTOR]),
        place => sector(bytes, place + within),
    }
}

fn read_sesparse(bytes: &[u8], disk_sector: u64) -> Result<[u8; SECTOR], Broken> {
    // Parts start at word 10 of the header, each with offset and size.
    let part = |part: u64| number(bytes, 80 + part * 16, 8);
    let (directory, tables, grains) = (part(3)?, part(4)?, part(7)?);
    let (index, within) = (disk_sector / 8, disk_sector % 8);
    let entry = number(bytes, directory * 512 + index / 4096 * 8, 8)?;
    if entry == 0 {
        return Ok([0; SECTOR]);
    }
    let table = tables + (entry & 0xffff_ffff) * 64;
    let entry = number(bytes, table * 512 + index % 4096 * 8, 8)?;
    match entry >> 60 {
        0 if entry != 0 => Err(Broken),
        0..=2 => Ok([0; SECTOR]),
        3 => {
            let number = (entry & 0x0fff_0000_0000_0000) >> 48 | (entry & 0xffff_ffff_ffff) << 12;
            // Grains there are, by the size of their part.
            if number >= self::number(bytes, 88 + 7 * 16, 8)? / 8 {
                return Err(Broken);
            }
            let place = number.checked_mul(8).and_then(|place| place.checked_add(grains + within));
            sector(bytes, place.ok_or(Broken)?)
        }
        _ => Err(Broken),
    }
}
