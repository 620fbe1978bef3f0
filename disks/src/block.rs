//! Block vocabulary: byte offsets, ranges and the geometry of a disk.
//!
//! Every position on a disk is a [`ByteOffset`], every stretch a half-open [`ByteRange`]. History is kept in blocks of
//! [`BLOCK_SIZE`] bytes, numbered by [`Block`]. The types have no `Deref` and no arithmetic of their own but what is
//! named here, so a length can never be taken for a position.
//!
//! **Invariant:** a `ByteRange` never wraps: `start <= end`, both within `u64`.

use std::fmt;

/// Size of a block in the journal and the index, in bytes.
pub const BLOCK_SIZE: u64 = 4096;

/// [`BLOCK_SIZE`] as a buffer length.
pub const BLOCK_BYTES: usize = 4096;

/// Largest disk that is accepted, in bytes: 64 TiB, the limit of VHDX and of most hypervisors.
pub const MAX_DISK_SIZE: u64 = 64 << 40;

/// A position on a disk, in bytes from its start.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ByteOffset(u64);

impl ByteOffset {
    /// The offset `bytes` from the start of a disk.
    pub const fn new(bytes: u64) -> Self {
        Self(bytes)
    }

    /// Bytes from the start of the disk.
    pub const fn bytes(self) -> u64 {
        self.0
    }

    /// The block this offset lies in.
    pub const fn block(self) -> Block {
        Block(self.0 / BLOCK_SIZE)
    }
}

impl fmt::Debug for ByteOffset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "@{}", self.0)
    }
}

impl fmt::Display for ByteOffset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// Number of a 4 KiB block of a disk.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Block(u64);

impl Block {
    /// Block number `index`.
    pub const fn new(index: u64) -> Self {
        Self(index)
    }

    /// Position in the sequence of blocks of a disk.
    pub const fn index(self) -> u64 {
        self.0
    }

    /// Where the block starts.
    pub const fn offset(self) -> ByteOffset {
        ByteOffset(self.0 * BLOCK_SIZE)
    }
}

/// A half-open stretch of a disk, in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct ByteRange {
    start: u64,
    end: u64,
}

impl ByteRange {
    /// `start..end`; `None` when `start > end`.
    pub const fn new(start: ByteOffset, end: ByteOffset) -> Option<Self> {
        if start.0 <= end.0 { Some(Self { start: start.0, end: end.0 }) } else { None }
    }

    /// `length` bytes from `start`; `None` when the end does not fit `u64`.
    pub const fn at(start: ByteOffset, length: u64) -> Option<Self> {
        match start.0.checked_add(length) {
            Some(end) => Some(Self { start: start.0, end }),
            None => None,
        }
    }

    /// The bytes `0..length`.
    pub const fn up_to(length: u64) -> Self {
        Self { start: 0, end: length }
    }

    /// First byte.
    pub const fn start(self) -> ByteOffset {
        ByteOffset(self.start)
    }

    /// One past the last byte.
    pub const fn end(self) -> ByteOffset {
        ByteOffset(self.end)
    }

    /// Length in bytes.
    pub const fn length(self) -> u64 {
        self.end - self.start
    }

    /// Whether no byte lies in the range.
    pub const fn is_empty(self) -> bool {
        self.start == self.end
    }

    /// Whether `other` lies wholly inside.
    pub const fn contains(self, other: Self) -> bool {
        self.start <= other.start && other.end <= self.end
    }

    /// What both have in common; empty at this range's start when they are apart.
    pub fn intersection(self, other: Self) -> Self {
        let start = self.start.max(other.start);
        let end = self.end.min(other.end);
        if start < end { Self { start, end } } else { Self { start: self.start, end: self.start } }
    }

    /// Whether both have a byte in common.
    pub fn overlaps(self, other: Self) -> bool {
        !self.intersection(other).is_empty()
    }

    /// The smallest range of whole units of `unit` bytes (a power of two) around this one.
    pub fn widen(self, unit: u64) -> Self {
        assert!(unit.is_power_of_two(), "unit {unit} is not a power of two");
        let end = self.end.checked_add(unit - 1).expect("a disk ends far below 2^64") & !(unit - 1);
        Self { start: self.start & !(unit - 1), end }
    }

    /// Whether start and end are multiples of `unit` bytes (a power of two).
    pub fn is_aligned(self, unit: u64) -> bool {
        assert!(unit.is_power_of_two(), "unit {unit} is not a power of two");
        (self.start | self.end) & (unit - 1) == 0
    }

    /// The whole blocks of [`BLOCK_SIZE`] in this range; empty, at a place within it, if there are none.
    pub fn whole_blocks(self) -> Self {
        let start = self.start.checked_next_multiple_of(BLOCK_SIZE).unwrap_or(self.end);
        let start = start.min(self.end);
        Self { start, end: (self.end / BLOCK_SIZE * BLOCK_SIZE).max(start) }
    }

    /// Cuts at `offset`, which must lie within the range or at one of its ends.
    pub fn split_at(self, offset: ByteOffset) -> (Self, Self) {
        assert!(self.start <= offset.0 && offset.0 <= self.end, "{offset:?} outside {self:?}");
        (Self { start: self.start, end: offset.0 }, Self { start: offset.0, end: self.end })
    }

    /// The range cut at every multiple of `unit` bytes (a power of two), in order.
    pub fn chunks(self, unit: u64) -> impl Iterator<Item = Self> {
        assert!(unit.is_power_of_two(), "unit {unit} is not a power of two");
        let mut at = self.start;
        std::iter::from_fn(move || {
            (at < self.end).then(|| {
                let end = ((at & !(unit - 1)).saturating_add(unit)).min(self.end);
                let chunk = Self { start: at, end };
                at = end;
                chunk
            })
        })
    }
}

impl fmt::Debug for ByteRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}..{}", self.start, self.end)
    }
}

impl fmt::Display for ByteRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}..{}", self.start, self.end)
    }
}

/// What a consumer must know of a disk before its first request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Geometry {
    /// Size in bytes; a multiple of `logical_sector`.
    pub size_bytes: u64,
    /// Smallest addressable unit a guest sees, in bytes: 512 or 4096.
    pub logical_sector: u32,
    /// Unit that is written without reading around it, in bytes.
    pub physical_sector: u32,
    /// Writes are refused with [`DiskError::ReadOnly`](crate::DiskError::ReadOnly).
    pub read_only: bool,
}

impl Geometry {
    /// The whole disk.
    pub const fn whole(&self) -> ByteRange {
        ByteRange::up_to(self.size_bytes)
    }
}

/// Whether every byte is zero; in strides a compiler makes vectors of.
pub fn is_zero(bytes: &[u8]) -> bool {
    let (strides, rest) = bytes.as_chunks::<256>();
    strides.iter().all(|stride| stride.iter().fold(0, |all, byte| all | byte) == 0)
        && rest.iter().all(|byte| *byte == 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn range(start: u64, end: u64) -> ByteRange {
        ByteRange::new(ByteOffset::new(start), ByteOffset::new(end)).expect("ordered")
    }

    #[test]
    fn a_range_cannot_wrap_or_run_backwards() {
        assert_eq!(ByteRange::at(ByteOffset::new(u64::MAX), 2), None);
        assert_eq!(ByteRange::new(ByteOffset::new(2), ByteOffset::new(1)), None);
    }

    #[test]
    fn widening_reaches_whole_blocks() {
        assert_eq!(range(1, 4097).widen(BLOCK_SIZE), range(0, 8192));
        assert_eq!(range(4096, 4096).widen(BLOCK_SIZE), range(4096, 4096));
    }

    proptest! {
        #[test]
        fn chunks_tile_the_range(start in 0u64..100_000, length in 0u64..100_000) {
            let whole = range(start, start + length);
            let mut at = whole.start();
            for chunk in whole.chunks(4096) {
                prop_assert_eq!(chunk.start(), at);
                prop_assert!(!chunk.is_empty());
                prop_assert_eq!(chunk.start().bytes() / 4096, (chunk.end().bytes() - 1) / 4096);
                at = chunk.end();
            }
            prop_assert_eq!(at, whole.end());
        }

        #[test]
        fn intersection_is_what_both_contain(a in 0u64..100, b in 0u64..100, c in 0u64..100, d in 0u64..100) {
            let one = range(a.min(b), a.max(b));
            let two = range(c.min(d), c.max(d));
            let both = one.intersection(two);
            prop_assert_eq!(!both.is_empty(), one.overlaps(two));
            prop_assert!(one.contains(both));
            prop_assert!(both.is_empty() || two.contains(both));
        }
    }
}
