//! Extent tables: what a record changes, 80 bytes an entry.

use super::{FormatError, MAX_BODY_BYTES, UNIT};
use crate::ids::{DiskId, Sequence};
use landfall_disks::{BLOCK_BYTES, ByteOffset, ByteRange, MAX_DISK_SIZE};
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// One entry of an extent table.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy)]
#[repr(C)]
pub(super) struct ExtentBytes {
    offset: U64,
    length: U64,
    disk: U32,
    kind: u8,
    codec: u8,
    reserved_a: [u8; 2],
    /// From the start of the record to the body, a multiple of 4096; zero without a body.
    body: U32,
    /// Bytes of the body as stored.
    stored_length: U32,
    /// BLAKE3 of the body as stored; zero for extents without content.
    hash: [u8; 32],
    /// What is aborted: a sequence of the same line.
    target: U64,
    reserved_b: [u8; 8],
}
pub(super) const EXTENT_BYTES: usize = size_of::<ExtentBytes>();
const _: () = assert!(EXTENT_BYTES == 8 + 8 + 4 + 1 + 1 + 2 + 4 + 4 + 32 + 8 + 8);

/// One change of a record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RecordExtent {
    /// The disk.
    pub disk: DiskId,
    /// Which bytes: whole blocks.
    pub range: ByteRange,
    /// What they become.
    pub content: ExtentContent,
}

/// What an extent holds. `size`, `ref` and `gap` have their numbers in the format; version 1 refuses them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ExtentContent {
    /// Bytes that follow the table.
    Data {
        /// Where they start, from the start of the record.
        body: u32,
        /// Their BLAKE3, as they are stored.
        hash: [u8; 32],
    },
    /// Zeroes.
    Zero,
    /// What an earlier record of the line says of exactly this range is void.
    Abort {
        /// The sequence of that record.
        of: Sequence,
    },
    /// Data, or zeroes, that a later record aborts. Nothing on the medium says so but that record: whoever has read both
    /// marks it.
    Void {
        /// Body and hash, as in data.
        data: Option<(u32, [u8; 32])>,
    },
}

impl ExtentContent {
    /// Where its body starts, from the start of the record, and the hash of that; void or not.
    pub fn body(&self) -> Option<(u32, [u8; 32])> {
        match *self {
            Self::Data { body, hash } => Some((body, hash)),
            Self::Void { data } => data,
            Self::Zero | Self::Abort { .. } => None,
        }
    }

    /// The same, aborted.
    pub(crate) fn voided(self) -> Self {
        match self {
            Self::Data { .. } | Self::Zero => Self::Void { data: self.body() },
            Self::Abort { .. } | Self::Void { .. } => self,
        }
    }

    /// Kind and hash, as table and root have them; an abort has what it is of in place of a hash, in the root.
    pub(super) fn root_bytes(&self) -> (u8, [u8; 32]) {
        match (self, self.body()) {
            (_, Some((_, hash))) => (extent_kind::DATA, hash),
            (Self::Abort { of }, _) => {
                let mut hash = [0; 32];
                hash[..8].copy_from_slice(&of.number().to_le_bytes());
                (extent_kind::ABORT, hash)
            }
            (_, None) => (extent_kind::ZERO, [0; 32]),
        }
    }
}

/// Numbers of extent kinds in the format. Those without a meaning in version 1 are reserved by name.
pub(super) mod extent_kind {
    pub(in crate::journal::format) const DATA: u8 = 1;
    pub(in crate::journal::format) const ZERO: u8 = 2;
    // 3 size, 4 ref, 6 gap
    pub(in crate::journal::format) const ABORT: u8 = 5;
    pub(in crate::journal::format) const LAST_RESERVED: u8 = 6;
}

impl RecordExtent {
    /// Bytes its body takes in the record.
    pub fn body_bytes(&self) -> u64 {
        self.content.body().map_or(0, |_| self.range.length())
    }

    pub(super) fn encode(&self) -> ExtentBytes {
        let (body, hash) = self.content.body().unwrap_or_default();
        let (kind, _) = self.content.root_bytes();
        let target = match self.content {
            ExtentContent::Abort { of } => of.number(),
            _ => 0,
        };
        ExtentBytes {
            offset: U64::new(self.range.start().bytes()),
            length: U64::new(self.range.length()),
            disk: U32::new(self.disk.number()),
            kind,
            codec: 0,
            reserved_a: [0; 2],
            body: U32::new(body),
            stored_length: U32::new(
                u32::try_from(self.body_bytes()).expect("at most MAX_BODY_BYTES"),
            ),
            hash,
            target: U64::new(target),
            reserved_b: [0; 8],
        }
    }

    /// Reads one entry; `next_body` is where its body has to start if it has one.
    fn parse(bytes: &ExtentBytes, next_body: u64) -> Result<Self, FormatError> {
        let (start, length) = (bytes.offset.get(), bytes.length.get());
        let range = ByteRange::at(ByteOffset::new(start), length)
            .filter(|range| range.is_aligned(UNIT) && !range.is_empty())
            .filter(|range| range.end().bytes() <= MAX_DISK_SIZE)
            .ok_or(FormatError::Field("extent range"))?;
        if bytes.codec != 0 {
            return Err(FormatError::Unsupported("extent codec"));
        }
        let reserved = bytes.reserved_a != [0; 2] || bytes.reserved_b != [0; 8];
        let aborts = bytes.kind == extent_kind::ABORT;
        if reserved || aborts != (bytes.target.get() != 0) {
            return Err(FormatError::Field("extent reserved"));
        }
        let content = match bytes.kind {
            extent_kind::DATA => {
                let body = bytes.body.get();
                if length > MAX_BODY_BYTES || u64::from(bytes.stored_length.get()) != length {
                    return Err(FormatError::Field("extent stored_length"));
                }
                if u64::from(body) != next_body {
                    return Err(FormatError::Field("extent body"));
                }
                ExtentContent::Data { body, hash: bytes.hash }
            }
            kind @ (extent_kind::ZERO | extent_kind::ABORT) => {
                if bytes.body.get() != 0 || bytes.stored_length.get() != 0 || bytes.hash != [0; 32]
                {
                    return Err(FormatError::Field("extent without a body"));
                }
                match kind {
                    extent_kind::ZERO => ExtentContent::Zero,
                    _ => ExtentContent::Abort { of: Sequence::new(bytes.target.get()) },
                }
            }
            kind if (extent_kind::ZERO..=extent_kind::LAST_RESERVED).contains(&kind) => {
                return Err(FormatError::Unsupported("extent kind"));
            }
            _ => return Err(FormatError::Field("extent kind")),
        };
        Ok(Self { disk: DiskId::new(bytes.disk.get()), range, content })
    }
}

/// Blocks of the bodies that a table speaks of, as long as no other field of it was looked at.
pub(super) fn count_blocks(table: &[u8]) -> Result<usize, FormatError> {
    let mut carried = 0;
    for bytes in table.chunks_exact(EXTENT_BYTES) {
        let entry = ExtentBytes::read_from_bytes(bytes).map_err(|_| FormatError::Short)?;
        carried += u64::from(entry.stored_length.get());
    }
    match usize::try_from(carried.min(MAX_BODY_BYTES + 1)) {
        Ok(bytes) if bytes as u64 <= MAX_BODY_BYTES => Ok(bytes / BLOCK_BYTES),
        _ => Err(FormatError::Field("extent lengths")),
    }
}

/// Reads a whole table; bodies must follow each other without a hole, the first at `first_body`.
pub(super) fn parse_table(table: &[u8], first_body: u64) -> Result<Vec<RecordExtent>, FormatError> {
    let mut parsed = Vec::with_capacity(table.len() / EXTENT_BYTES);
    let mut next_body = first_body;
    let mut carried = 0;
    for bytes in table.chunks_exact(EXTENT_BYTES) {
        let entry = ExtentBytes::read_from_bytes(bytes).map_err(|_| FormatError::Short)?;
        let extent = RecordExtent::parse(&entry, next_body)?;
        next_body += extent.body_bytes();
        carried += extent.body_bytes();
        if carried > MAX_BODY_BYTES {
            return Err(FormatError::Field("extent lengths"));
        }
        parsed.push(extent);
    }
    Ok(parsed)
}
