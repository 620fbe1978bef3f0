//! The first block of a segment.

use super::{FormatError, Version};
use crate::ids::{LaneId, LaneSequence, SegmentId};
use crate::time::Timestamp;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

const SEGMENT_MAGIC: [u8; 8] = *b"LFSEGMNT";

/// First 4 KiB of a segment file; the rest of them is zero.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy)]
#[repr(C)]
struct SegmentHeaderBytes {
    magic: [u8; 8],
    version: U16,
    /// Lane the segment belongs to.
    lane: U16,
    segment: U32,
    /// Repeated in every record: bytes of an earlier life of a recycled segment never pass for records.
    salt: U64,
    /// Lane sequence of the first record: recovery finds where to start without reading the records.
    first_lane_sequence: U64,
    size_bytes: U64,
    created: U64,
    reserved: [u8; 12],
    /// CRC32C of the bytes before it.
    checksum: U32,
}
const _: () = assert!(size_of::<SegmentHeaderBytes>() == 8 + 2 + 2 + 4 + 8 + 8 + 8 + 8 + 12 + 4);

/// What the first block of a segment says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SegmentHeader {
    /// The lane it belongs to.
    pub lane: LaneId,
    /// Its number, also in its file name.
    pub segment: SegmentId,
    /// What every record in it repeats.
    pub salt: u64,
    /// Lane sequence of its first record.
    pub first: LaneSequence,
    /// Length of the file when it was made.
    pub size_bytes: u64,
    /// When it was made.
    pub created: Timestamp,
}

impl SegmentHeader {
    /// The header as the first block of a segment.
    pub fn encode(&self, block: &mut [u8]) {
        let mut header = SegmentHeaderBytes {
            magic: SEGMENT_MAGIC,
            version: U16::new(Version::V1 as u16),
            lane: U16::new(self.lane.number()),
            segment: U32::new(self.segment.number()),
            salt: U64::new(self.salt),
            first_lane_sequence: U64::new(self.first.number()),
            size_bytes: U64::new(self.size_bytes),
            created: U64::new(self.created.nanoseconds()),
            reserved: [0; 12],
            checksum: U32::ZERO,
        };
        header.checksum = U32::new(crc32c::crc32c(&header.as_bytes()[..60]));
        block.fill(0);
        block[..size_of::<SegmentHeaderBytes>()].copy_from_slice(header.as_bytes());
    }

    /// Reads the first block of a segment.
    pub fn parse(block: &[u8]) -> Result<Self, FormatError> {
        let (header, _) =
            SegmentHeaderBytes::read_from_prefix(block).map_err(|_| FormatError::Short)?;
        if header.magic != SEGMENT_MAGIC {
            return Err(FormatError::Magic);
        }
        if header.checksum.get() != crc32c::crc32c(&header.as_bytes()[..60]) {
            return Err(FormatError::Checksum);
        }
        if header.version.get() != Version::V1 as u16 {
            return Err(FormatError::Version(header.version.get()));
        }
        if header.reserved != [0; 12] {
            return Err(FormatError::Field("reserved"));
        }
        Ok(Self {
            lane: LaneId::new(header.lane.get()),
            segment: SegmentId::new(header.segment.get()),
            salt: header.salt.get(),
            first: LaneSequence::new(header.first_lane_sequence.get()),
            size_bytes: header.size_bytes.get(),
            created: Timestamp::from_nanoseconds(header.created.get()),
        })
    }
}
