//! What a format says about its blocks, and what it is asked to make durable.

use crate::disk::{DiskError, IoFuture};
use crate::image::ImageFile;
use crate::uring::buffer::Buffer;
use std::sync::atomic::{AtomicU64, Ordering};

/// Where the content of a block is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place {
    /// Nowhere: it is the parent's content, zeroes without a parent.
    Absent,
    /// Nowhere: it is zeroes, whatever a parent has.
    Zero,
    /// In the file from this offset, in bytes.
    At(u64),
    /// Sectors that are marked present are in the file from this offset; the others are the parent's.
    Partial(u64),
    /// Compressed, at this offset of the file; only [`Table::unpack`] can read it.
    Packed(u64),
}

/// The three highest bits of an entry say what it is; offsets fit the rest.
const TAG_SHIFT: u32 = 61;
const OFFSET_MASK: u64 = (1 << TAG_SHIFT) - 1;

impl Place {
    fn pack(self) -> u64 {
        let (tag, offset) = match self {
            Self::Absent => (0, 0),
            Self::Zero => (1, 0),
            Self::At(offset) => (2, offset),
            Self::Partial(offset) => (3, offset),
            Self::Packed(offset) => (4, offset),
        };
        assert!(offset <= OFFSET_MASK, "offset {offset} is past the end of any file");
        tag << TAG_SHIFT | offset
    }

    fn unpack(packed: u64) -> Self {
        let offset = packed & OFFSET_MASK;
        match packed >> TAG_SHIFT {
            0 => Self::Absent,
            1 => Self::Zero,
            2 => Self::At(offset),
            3 => Self::Partial(offset),
            4 => Self::Packed(offset),
            tag => unreachable!("no entry is stored with tag {tag}"),
        }
    }

    /// Where the block's space starts in the file, if it has any that can be given back.
    pub fn offset(self) -> Option<u64> {
        match self {
            Self::At(offset) | Self::Partial(offset) => Some(offset),
            Self::Absent | Self::Zero | Self::Packed(_) => None,
        }
    }
}

/// The unchanging facts about a format's blocks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Shape {
    /// Bytes of a block; a power of two, at least a sector.
    pub block_bytes: u64,
    /// Entries of one page of the table: what is loaded and committed together.
    pub page_entries: u64,
    /// Bytes in the file ahead of each block's data that belong to the block.
    pub lead_bytes: u64,
    /// Whether the format has an entry for [`Place::Zero`].
    pub stores_zero: bool,
    /// Bytes of the sectors that [`Place::Partial`] tells apart, in formats that have it.
    pub presence_unit: Option<u64>,
}

impl Shape {
    /// Bytes of the file that a block takes.
    pub fn space_bytes(&self) -> u64 {
        self.lead_bytes + self.block_bytes
    }
}

/// Entries of a page of the table that changed since they were last committed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PageChange {
    /// Which page.
    pub page: u64,
    /// All its entries, changed or not.
    pub entries: Vec<Place>,
}

/// Presence bits of a block that changed since they were last committed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PresenceChange {
    /// Which block.
    pub block: u64,
    /// A bit per sector of the block, the lowest bit of the first byte first.
    pub bits: Vec<u8>,
}

/// What a commit has to make durable, all or nothing where the format can.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Changes {
    /// Changed pages, in ascending order.
    pub pages: Vec<PageChange>,
    /// Changed presence bits, in ascending order.
    pub presence: Vec<PresenceChange>,
}

impl Changes {
    /// Whether nothing changed.
    pub fn is_empty(&self) -> bool {
        self.pages.is_empty() && self.presence.is_empty()
    }
}

/// The file is made longer by at least this, so that most blocks find it long enough.
const GROWTH_BYTES: u64 = 4 << 20;

/// The table of a format: loads entries, and makes changed ones durable.
///
/// Calls of `commit` and `resize` never overlap. Each may be abandoned at any point; the next commit then covers what the
/// abandoned one was given.
pub trait Table: Send + Sync {
    /// The facts about the format's blocks.
    fn shape(&self) -> Shape;

    /// Reads and checks a page of entries. Entries past the end of the disk are [`Place::Absent`].
    fn load(&self, page: u64) -> IoFuture<'_, Vec<Place>>;

    /// Called once before the first change of the opening, for what a format notes then.
    fn begin_changes(&self) -> IoFuture<'_, ()>;

    /// Makes `changes` durable. What the entries point to is durable already.
    fn commit<'a>(&'a self, changes: &'a Changes) -> IoFuture<'a, ()>;

    /// Makes the disk `size_bytes` large, durably. Pages and presence bits are loaded meanwhile, and blocks get places, which the next
    /// commit stores.
    fn resize(&self, size_bytes: u64) -> IoFuture<'_, ()>;

    /// Makes `file`, which is too short, at least `end` bytes long; what is new reads as zeroes. Calls do not overlap each other,
    /// but those of `commit`. A format that has something at the end of its file moves it.
    fn lengthen<'a>(&'a self, file: &'a ImageFile, end: u64) -> IoFuture<'a, ()> {
        Box::pin(file.set_length(end.max(file.length().next_multiple_of(GROWTH_BYTES))))
    }

    /// Presence bits of a block that is [`Place::Partial`], in the order of [`PresenceChange::bits`].
    fn load_presence(&self, block: u64) -> IoFuture<'_, Vec<u8>> {
        let refused = format!("block {block}: the format has no partly present blocks");
        Box::pin(std::future::ready(Err(DiskError::Gone(refused))))
    }

    /// The content of a block that is [`Place::Packed`] at `offset`.
    fn unpack(&self, block: u64, offset: u64) -> IoFuture<'_, Buffer> {
        let refused = format!("block {block} at {offset}: the format has no compressed blocks");
        Box::pin(std::future::ready(Err(DiskError::Gone(refused))))
    }
}

/// A page of entries in memory.
pub(super) struct Page {
    entries: Box<[AtomicU64]>,
}

impl Page {
    pub(super) fn new(places: &[Place]) -> Self {
        Self { entries: places.iter().map(|place| AtomicU64::new(place.pack())).collect() }
    }

    pub(super) fn get(&self, index: usize) -> Place {
        Place::unpack(self.entries[index].load(Ordering::Acquire))
    }

    /// Puts `new` where `old` is; `false` if something else is there by now.
    pub(super) fn replace(&self, index: usize, old: Place, new: Place) -> bool {
        let (old, new) = (old.pack(), new.pack());
        self.entries[index].compare_exchange(old, new, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }

    pub(super) fn places(&self) -> Vec<Place> {
        (0..self.entries.len()).map(|index| self.get(index)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_kept_as_they_are() {
        for place in [
            Place::Absent,
            Place::Zero,
            Place::At(0),
            Place::At(OFFSET_MASK),
            Place::Partial(1 << 40),
            Place::Packed(513),
        ] {
            assert_eq!(Place::unpack(place.pack()), place);
        }
    }

    #[test]
    fn an_entry_is_replaced_once() {
        let page = Page::new(&[Place::Absent, Place::Zero]);
        assert!(page.replace(1, Place::Zero, Place::At(512)));
        assert!(!page.replace(1, Place::Zero, Place::At(1024)));
        assert_eq!(page.places(), [Place::Absent, Place::At(512)]);
    }
}
