//! Bytes of the journal, version 1: segment headers, record headers, extent tables. See `docs/formats/journal.md`.
//!
//! ```text
//!   segment   ├ header 4 KiB ┤├ record ┤├ record ┤ … ├ never parsed: zeroes, a torn tail, an older life ┤
//!   record    ├ header 256 │ label │ extent table, 80 each │ tags, 16 each │ zeroes to 4 KiB ┤├ bodies, 4 KiB aligned ┤
//! ```
//!
//! Pure functions from bytes to meaning and back. A header is trusted without its bodies: its checksum covers header,
//! label, table and tags, the table holds the BLAKE3 of every body as it is stored. Only sealed records have tags. Every length is checked against a named limit before it
//! is used; reserved bytes are written zero and checked.

mod extent;
mod record;
mod segment;
#[cfg(test)]
mod tests;

pub use extent::{ExtentContent, RecordExtent};
pub use record::{Chain, Record, RecordKind, RecordSeal};
pub use segment::SegmentHeader;

use landfall_disks::BLOCK_SIZE;

/// Everything in a segment starts at a multiple of this many bytes.
pub const UNIT: u64 = BLOCK_SIZE;
/// Bytes at the start of a segment before its first record.
pub const SEGMENT_HEADER_BYTES: u64 = UNIT;
/// Extents a record may have.
pub const MAX_EXTENTS: usize = 1024;
/// Bytes of data a record may carry.
pub const MAX_BODY_BYTES: u64 = 8 << 20;
/// Longest record: header, label, full table, a tag for each block, and bodies, rounded up.
pub const MAX_RECORD_BYTES: u64 = MAX_BODY_BYTES + 29 * UNIT;
/// Smallest segment: its header and the longest record.
pub const MIN_SEGMENT_BYTES: u64 = SEGMENT_HEADER_BYTES + MAX_RECORD_BYTES;
/// Largest segment: places count units in 32 bits, far above this; the limit keeps recovery of one segment short.
pub const MAX_SEGMENT_BYTES: u64 = 1 << 30;

/// Versions of the journal format.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u16)]
pub(super) enum Version {
    /// Landfall 0.1: plain bodies, no compression, no encryption.
    V1 = 1,
}

/// Why bytes are not a segment header or a record.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum FormatError {
    /// Other bytes than a header starts with.
    #[error("no header here")]
    Magic,
    /// The checksum does not fit.
    #[error("header checksum does not match")]
    Checksum,
    /// A version this program does not know.
    #[error("format version {0} is not known here")]
    Version(u16),
    /// Belongs to another life of the segment.
    #[error("salt belongs to an earlier life of this segment")]
    Salt,
    /// Fewer bytes than the header says.
    #[error("cut off")]
    Short,
    /// A count, length or kind outside its limits; the text names the field.
    #[error("field `{0}` is out of its limits")]
    Field(&'static str),
    /// A feature reserved by the format that this version does not have.
    #[error("uses `{0}`, which this version does not have")]
    Unsupported(&'static str),
}
