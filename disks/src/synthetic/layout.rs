//! Which bytes of the file come from where.

use crate::block::{ByteOffset, ByteRange};
use crate::vhd::format::UNUSED_ENTRY;
use std::ops::Range;
use vhdx_parse::{BatLayout, BatSlot, PayloadEntry};

/// Sectors, the unit in which VMDK and VHD tell places.
const SECTOR_BYTES: u64 = 512;

/// The file, as a plan. What no part of it covers reads as zeroes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Layout {
    /// Size of the disk.
    pub(crate) disk_bytes: u64,
    /// Length of the file.
    pub(crate) length: u64,
    /// Bytes that are known from the start, and where they are.
    pub(crate) fixed: Vec<(u64, Vec<u8>)>,
    /// What follows from the map of the disk.
    pub(crate) tables: Vec<Table>,
    /// Where the content of the disk is; nowhere in a file that leads to another one.
    pub(crate) units: Option<Units>,
}

/// How the units of the disk lie in the file: one behind the other, each behind a bitmap of its sectors if there are such.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Units {
    /// Where the first is, with its bitmap.
    pub(crate) start: u64,
    /// Bytes of a unit.
    pub(crate) bytes: u64,
    /// Bytes of its bitmap: all ones for a unit with data.
    pub(crate) bitmap_bytes: u64,
    /// From one to the next.
    pub(crate) stride: u64,
}

/// A table of places.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Table {
    /// Where it is.
    pub(crate) at: u64,
    /// How many entries it has, those that stand for nothing included.
    pub(crate) count: u64,
    /// What they are like.
    pub(crate) entries: Entries,
}

/// The entries of a table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Entries {
    /// Grain tables of a VMDK, one behind the other: sectors, little-endian; 0 is no place.
    Grains,
    /// The BAT of a VHDX.
    Bat(BatLayout),
    /// The BAT of a VHD: sectors, big-endian; all ones is no place.
    VhdBat,
}

/// Where a stretch of the file comes from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Source<'a> {
    /// These bytes.
    Bytes(&'a [u8]),
    /// Entries of a table, and how many bytes before the stretch the first of them begins.
    Entries { table: Table, entries: Range<u64>, before: u64 },
    /// All ones if the unit has data, zeroes otherwise.
    Bitmap(u64),
    /// This part of the disk.
    Disk(ByteRange),
    /// Nowhere.
    Zeroes,
}

/// A stretch of the file that has one source.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Stretch<'a> {
    pub(super) range: ByteRange,
    pub(super) source: Source<'a>,
}

impl Units {
    /// Where in the file the entry of a unit leads to.
    fn place(&self, unit: u64) -> u64 {
        self.start + unit * self.stride
    }

    /// Where the last of `count` units ends.
    pub(crate) fn end(&self, count: u64) -> u64 {
        self.place(count.saturating_sub(1)) + self.bitmap_bytes + self.bytes
    }
}

impl Entries {
    /// Bytes of an entry.
    fn bytes(self) -> u64 {
        match self {
            Self::Grains | Self::VhdBat => 4,
            Self::Bat(_) => vhdx_parse::BAT_ENTRY_BYTES,
        }
    }

    /// The unit that an entry stands for; it may lie past the end of the disk.
    fn unit(self, index: u64) -> Option<u64> {
        match self {
            Self::Grains | Self::VhdBat => Some(index),
            Self::Bat(layout) => match layout.slot(index) {
                BatSlot::Payload(block) => Some(block),
                BatSlot::Bitmap(_) => None,
            },
        }
    }

    /// The entry of a unit that is at `place`, or nowhere.
    fn encode(self, place: Option<u64>, to: &mut Vec<u8>) {
        let sector = |place: u64| {
            u32::try_from(place / SECTOR_BYTES).expect("the layout was made so that it fits")
        };
        match self {
            Self::Grains => to.extend(place.map_or(0, sector).to_le_bytes()),
            Self::VhdBat => to.extend(place.map_or(UNUSED_ENTRY, sector).to_be_bytes()),
            Self::Bat(_) => {
                let entry = place.map_or(PayloadEntry::NotPresent, PayloadEntry::FullyPresent);
                to.extend(entry.encode().to_le_bytes());
            }
        }
    }
}

impl Table {
    fn range(&self) -> ByteRange {
        range(self.at, self.at + self.count * self.entries.bytes())
    }

    /// The units that some of its entries stand for; between the first and the last there may be entries for none.
    pub(super) fn units(&self, entries: &Range<u64>) -> Range<u64> {
        let mut units = entries.clone().filter_map(|index| self.entries.unit(index));
        // The entries of bitmaps stand alone, so the ends are found at once.
        let first = units.next();
        let last = entries.clone().rev().find_map(|index| self.entries.unit(index));
        match (first, last) {
            (Some(first), Some(last)) => first..last + 1,
            _ => 0..0,
        }
    }
}

impl Layout {
    /// The same, of which it is known that its parts lie in the file and do not overlap.
    pub(crate) fn checked(self) -> Self {
        assert!(self.is_apart(), "parts of a file that overlap");
        self
    }

    /// Length of the file.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Size of the disk.
    pub fn disk_bytes(&self) -> u64 {
        self.disk_bytes
    }

    fn is_apart(&self) -> bool {
        let fixed = self.fixed.iter().map(|(at, bytes)| range(*at, at + bytes.len() as u64));
        let mut parts: Vec<ByteRange> = fixed.chain(self.tables.iter().map(Table::range)).collect();
        parts.extend(self.units.map(|units| range(units.start, units.end(self.count()))));
        parts.sort_by_key(|part| part.start());
        let in_order = parts.windows(2).all(|pair| pair[0].end() <= pair[1].start());
        in_order && parts.last().is_none_or(|last| last.end().bytes() <= self.length)
    }

    /// Units of the disk; the last may reach past its end.
    fn count(&self) -> u64 {
        self.units.map_or(0, |units| self.disk_bytes.div_ceil(units.bytes))
    }

    /// The part of the disk that some units are, as far as the disk has them.
    pub(super) fn in_disk(&self, units: &Range<u64>) -> ByteRange {
        let Some(Units { bytes, .. }) = self.units else { return ByteRange::up_to(0) };
        let offset = |unit: u64| unit.saturating_mul(bytes).min(self.disk_bytes);
        range(offset(units.start), offset(units.end))
    }

    /// Bytes of a unit.
    pub(super) fn unit_bytes(&self) -> u64 {
        self.units.map_or(1, |units| units.bytes)
    }

    /// The bytes of `entries`; `present` has a word for each of the units that they stand for, from the first one on.
    pub(super) fn encode(&self, table: &Table, entries: Range<u64>, present: &[bool]) -> Vec<u8> {
        let first = table.units(&entries).start;
        let mut bytes = Vec::new();
        for index in entries {
            let place = table.entries.unit(index).and_then(|unit| {
                let known = present.get(usize::try_from(unit - first).ok()?);
                self.units.filter(|_| known == Some(&true)).map(|units| units.place(unit))
            });
            table.entries.encode(place, &mut bytes);
        }
        bytes
    }

    /// What is at `at` of the file, which is before its end, and as much of what follows as has the same source, up to
    /// `end`.
    pub(super) fn stretch(&self, at: ByteOffset, end: ByteOffset) -> Stretch<'_> {
        let at = at.bytes();
        let until = end.bytes().min(self.length);
        for (start, bytes) in &self.fixed {
            let part = range(*start, start + bytes.len() as u64);
            if let Some(range) = rest(part, at, until) {
                let inner = index(at - start)..index(range.end().bytes() - start);
                return Stretch { range, source: Source::Bytes(&bytes[inner]) };
            }
        }
        for table in &self.tables {
            if let Some(range) = rest(table.range(), at, until) {
                let bytes = table.entries.bytes();
                let first = (at - table.at) / bytes;
                let entries = first..(range.end().bytes() - table.at).div_ceil(bytes);
                let before = (at - table.at) % bytes;
                return Stretch {
                    range,
                    source: Source::Entries { table: *table, entries, before },
                };
            }
        }
        self.units.and_then(|units| self.in_units(&units, at, until)).unwrap_or_else(|| {
            let range = range(at, self.next_start(at).min(until));
            Stretch { range, source: Source::Zeroes }
        })
    }

    fn in_units(&self, units: &Units, at: u64, until: u64) -> Option<Stretch<'_>> {
        let inside = at.checked_sub(units.start)?;
        if units.stride == units.bytes {
            // Without gaps all of the disk is one stretch.
            let left = self.disk_bytes.checked_sub(inside).filter(|left| *left > 0)?;
            let length = left.min(until - at);
            let part = range(inside, inside + length);
            return Some(Stretch { range: range(at, at + length), source: Source::Disk(part) });
        }
        let (unit, inside) = (inside / units.stride, inside % units.stride);
        if unit >= self.count() {
            return None;
        }
        if let Some(left) = units.bitmap_bytes.checked_sub(inside).filter(|left| *left > 0) {
            let range = range(at, (at + left).min(until));
            return Some(Stretch { range, source: Source::Bitmap(unit) });
        }
        let part = self.in_disk(&(unit..unit + 1));
        let start = part.start().bytes() + (inside - units.bitmap_bytes);
        let left = part.end().bytes().checked_sub(start).filter(|left| *left > 0)?;
        let length = left.min(until - at);
        let part = range(start, start + length);
        Some(Stretch { range: range(at, at + length), source: Source::Disk(part) })
    }

    /// Where the next thing behind `at` begins that is no zeroes; the end of the file if nothing does.
    fn next_start(&self, at: u64) -> u64 {
        let fixed = self.fixed.iter().map(|(start, _)| *start);
        let tables = self.tables.iter().map(|table| table.at);
        let unit = self.units.and_then(|units| {
            let next = at.saturating_sub(units.start).div_ceil(units.stride);
            (next < self.count()).then(|| units.place(next))
        });
        let starts = fixed.chain(tables).chain(unit).filter(|start| *start > at);
        starts.min().unwrap_or(self.length).min(self.length)
    }
}

/// `start..end`, of which the caller knows that it does not run backwards.
fn range(start: u64, end: u64) -> ByteRange {
    ByteRange::new(ByteOffset::new(start), ByteOffset::new(end)).expect("in order")
}

/// What of `part` lies in `at..until`, if `at` does.
fn rest(part: ByteRange, at: u64, until: u64) -> Option<ByteRange> {
    let inside = part.start().bytes() <= at && at < part.end().bytes();
    inside.then(|| range(at, part.end().bytes().min(until)))
}

fn index(bytes: u64) -> usize {
    usize::try_from(bytes).expect("it is in memory")
}
