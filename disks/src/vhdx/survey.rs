//! Going through the whole BAT once: what is in use, what is wrong, what is free.
//!
//! Takes eight bytes of memory for each block that has a place, until it has ended.

use super::container::Container;
use super::table::{no_bitmap, wrong_place};
use crate::image::{ImageError, Malformed};
use crate::mapped::{Extent, Space};
use crate::uring::buffer::Buffer;
use vhdx_parse::{
    BAT_ENTRY_BYTES, BITMAP_BLOCK_BYTES, BatLayout, BatSlot, BitmapEntry, MAX_FILE_BYTES, MIB,
    PayloadEntry,
};

/// Most problems that are listed.
const MAX_PROBLEMS: usize = 64;

/// Bytes of the BAT that are looked at together.
const PIECE: usize = 1 << 20;

/// State of a payload block that is partly present.
const PARTIAL: u64 = 7;

/// What the BAT of a file says.
#[derive(Default)]
pub(super) struct Survey {
    /// Payload blocks that have a place.
    pub(super) placed: u64,
    /// Payload blocks that are zeroes by their entry.
    pub(super) zero: u64,
    /// What is wrong, at most a few dozen.
    pub(super) problems: Vec<Malformed>,
    /// What is in use, in order, apart from each other.
    used: Vec<Extent>,
}

/// A block that has a place: which MiB of the file, and which entry says so. One word, as there may be very many.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Placed(u64);

impl Placed {
    fn new(offset: u64, index: u64) -> Self {
        // Files end below 2^47, so places have 27 bits; a table has fewer than 2^27 entries.
        Self((offset / MIB) << 32 | index)
    }

    fn index(self) -> u64 {
        self.0 & 0xffff_ffff
    }

    fn extent(self, layout: &BatLayout) -> Extent {
        let length = match layout.slot(self.index()) {
            BatSlot::Payload(_) => layout.block_bytes(),
            BatSlot::Bitmap(_) => BITMAP_BLOCK_BYTES,
        };
        Extent { offset: (self.0 >> 32) * MIB, length }
    }
}

/// Goes through the BAT of a file.
pub(super) async fn survey(container: &Container) -> Result<Survey, ImageError> {
    let layout = container.layout();
    let differencing = container.is_differencing();
    let mut survey = Survey::default();
    let mut placed = Vec::new();
    // A block of the present chunk that needs its bitmap, whose entry follows those of the blocks.
    let mut partial = None;
    let (table, bytes) = (container.regions.bat().offset, layout.table_bytes(differencing));
    let mut at = 0;
    while at < bytes {
        let length = usize::try_from(bytes - at).unwrap_or(usize::MAX).min(PIECE);
        let piece: Buffer = container.reader().read("VHDX BAT", table + at, length).await?;
        for (index, raw) in (at / BAT_ENTRY_BYTES..).zip(piece.chunks_exact(8)) {
            let raw = u64::from_le_bytes(raw.try_into().expect("eight bytes"));
            let slot = layout.slot(index);
            match slot {
                BatSlot::Payload(block) if raw & 7 == PARTIAL => partial = Some(block),
                BatSlot::Payload(_) => {}
                BatSlot::Bitmap(_) => {
                    let needed = partial.take().filter(|_| differencing && raw & 7 == 0);
                    let entry = table + index * BAT_ENTRY_BYTES;
                    needed.into_iter().for_each(|block| survey.note(no_bitmap(entry, block)));
                }
            }
            match place(raw, slot, differencing, table + index * BAT_ENTRY_BYTES) {
                Ok(Some(offset)) => placed.push(Placed::new(offset, index)),
                Ok(None) => survey.zero += u64::from(raw & 7 != 0),
                Err(problem) => survey.note(problem),
            }
        }
        at += length as u64;
    }
    placed.sort_unstable();
    survey.account(container, &layout, &placed);
    Ok(survey)
}

/// Where the block of an entry is, if it has a place.
fn place(raw: u64, slot: BatSlot, differencing: bool, at: u64) -> Result<Option<u64>, Malformed> {
    match slot {
        BatSlot::Payload(_) => Ok(PayloadEntry::parse(raw, differencing, at)?.offset()),
        // Without a parent nobody looks at them.
        BatSlot::Bitmap(_) if !differencing => Ok(None),
        BatSlot::Bitmap(_) => match BitmapEntry::parse(raw, at)? {
            BitmapEntry::Present(offset) => Ok(Some(offset)),
            BitmapEntry::NotPresent => Ok(None),
        },
    }
}

impl Survey {
    fn note(&mut self, problem: Malformed) {
        if self.problems.len() < MAX_PROBLEMS {
            self.problems.push(problem);
        }
    }

    /// Finds what shares bytes with something else, and what is in use.
    fn account(&mut self, container: &Container, layout: &BatLayout, placed: &[Placed]) {
        let structures = container.structures();
        let entry = |index: u64| container.regions.bat().offset + index * BAT_ENTRY_BYTES;
        let name = |index: u64| match layout.slot(index) {
            BatSlot::Payload(_) => "VHDX BAT entry",
            BatSlot::Bitmap(_) => "VHDX BAT entry of a sector bitmap",
        };
        let mut runs: Vec<Extent> = Vec::new();
        let mut last: Option<(Extent, u64)> = None;
        for block in placed {
            let (extent, index) = (block.extent(layout), block.index());
            self.placed += u64::from(matches!(layout.slot(index), BatSlot::Payload(_)));
            let length = container.file.length();
            if let Some(problem) =
                wrong_place(&structures, length, name(index), entry(index), extent)
            {
                self.note(problem);
            }
            if let Some((other, other_index)) =
                last.filter(|(other, _)| other.end() > extent.offset)
            {
                self.note(Malformed {
                    structure: name(index),
                    offset: entry(index),
                    field: "FileOffsetMB",
                    value: (extent.offset / MIB).to_string(),
                    expected: format!(
                        "a place apart from {}..{}, which the entry at {} has",
                        other.offset,
                        other.end(),
                        entry(other_index)
                    )
                    .into(),
                });
            }
            if last.is_none_or(|(other, _)| other.end() < extent.end()) {
                last = Some((extent, index));
            }
            add(&mut runs, extent);
        }
        runs.extend(structures.iter().map(|(extent, _)| *extent));
        runs.sort_unstable();
        runs.into_iter().for_each(|extent| add(&mut self.used, extent));
    }

    /// The first problem as an error.
    pub(super) fn refuse(&self, container: &Container) -> Result<(), ImageError> {
        match self.problems.first() {
            Some(problem) => Err(ImageError::malformed(&container.path, problem.clone())),
            None => Ok(()),
        }
    }

    /// Where the last thing that is in use ends.
    pub(super) fn end(&self) -> u64 {
        self.used.last().map_or(0, Extent::end)
    }

    /// Bytes of a file of `length` that nothing uses.
    pub(super) fn unused(&self, length: u64) -> u64 {
        let used: u64 = self.used.iter().map(|extent| extent.length).sum();
        length.saturating_sub(used)
    }

    /// The space of a file of `length` bytes.
    pub(super) fn space(&self, length: u64) -> Space {
        let limit = "a VHDX file cannot be longer than 128 TiB";
        let space = Space::new(length.max(self.end()), MIB, MAX_FILE_BYTES, limit);
        let mut at = 0;
        for used in &self.used {
            if used.offset > at {
                space.give_back(Extent { offset: at, length: used.offset - at });
            }
            at = at.max(used.end());
        }
        if length > at {
            // Nobody knows what a crash left there.
            space.give_back(Extent { offset: at, length: length - at });
        }
        space
    }
}

/// Adds a stretch that starts at or after the last one, joined with it if they touch.
fn add(runs: &mut Vec<Extent>, next: Extent) {
    match runs.last_mut() {
        Some(last) if next.offset <= last.end() => {
            last.length = last.length.max(next.end() - last.offset);
        }
        _ => runs.push(next),
    }
}
