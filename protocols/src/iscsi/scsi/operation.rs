//! What a task does with data-out and disk, once its CDB was found right.

use super::compare::Merge;
use super::mode::SelectForm;
use super::provisioning::StatusQuery;
use super::verify::{Against, WriteCheck};
use super::write_same::Pattern;
use landfall_disks::{ByteRange, Durability, ZeroMode};

/// A piece of work.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Operation {
    /// Gives the bytes of a range.
    Read(ByteRange),
    /// Stores data-out, and looks at it again if told to.
    Write { range: ByteRange, durability: Durability, check: WriteCheck },
    /// Looks at a range.
    Verify { range: ByteRange, against: Against },
    /// Makes durable what was written.
    Flush,
    /// Flushes and ejects the medium.
    Eject,
    /// Unmaps what a list of this many bytes says.
    Unmap { list_bytes: usize },
    /// Writes a block many times.
    WriteSame { range: ByteRange, pattern: Pattern, zero: ZeroMode },
    /// Reads, decides, and writes, as one.
    Merge { range: ByteRange, durability: Durability, merge: Merge },
    /// Tells which blocks are mapped.
    LbaStatus(StatusQuery),
    /// Takes mode pages from a list of this many bytes.
    ModeSelect { form: SelectForm, list_bytes: usize },
}

impl Operation {
    /// Bytes of data-out it asks for.
    pub(super) fn data_out(&self, block_bytes: usize) -> usize {
        match *self {
            Self::Read(_) | Self::Flush | Self::Eject | Self::LbaStatus(_) => 0,
            Self::Write { range, .. } => bytes(range),
            Self::Verify { range, against } => match against {
                Against::Medium => 0,
                Against::Bytes => bytes(range),
                Against::OneBlock => block_bytes,
            },
            Self::Unmap { list_bytes } | Self::ModeSelect { list_bytes, .. } => list_bytes,
            Self::WriteSame { pattern: Pattern::Zeroes, .. } => 0,
            Self::WriteSame { .. } => block_bytes,
            Self::Merge { range, merge: Merge::Or, .. } => bytes(range),
            Self::Merge { range, merge: Merge::IfEqual, .. } => 2 * bytes(range),
        }
    }

    /// Most bytes of data-in it gives.
    pub(super) fn data_in_limit(&self) -> usize {
        match self {
            Self::Read(range) => bytes(*range),
            Self::LbaStatus(query) => query.allocation,
            _ => 0,
        }
    }
}

fn bytes(range: ByteRange) -> usize {
    usize::try_from(range.length()).expect("transfers are limited")
}
