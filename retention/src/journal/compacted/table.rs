//! The table of a compacted segment: what is kept of which record, and where it lies. Pure.
//!
//! ```text
//!   table    header 32 │ record │ record │ …
//!   record   head length 4 │ pieces 4 │ salt 8 │ head, as it was written first │ piece …
//!   piece    extent 4 │ first block 4 │ blocks 4 │ unit 4 │ hash 32 │ CRC32C of each block
//! ```
//!
//! The head of a record stays byte for byte what it was: header, label and extent table, with the hashes of extents of which
//! only a part is kept, or nothing. So root and chain are checked as on the first day. Integers are little-endian.

use crate::ids::SegmentId;
use crate::journal::aborts::apply_aborts;
use crate::journal::format::{
    ExtentContent, FormatError, MAX_BODY_BYTES, MAX_EXTENTS, Record, RecordExtent, RecordKind, UNIT,
};
use landfall_disks::{ByteOffset, ByteRange};
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

const TABLE_MAGIC: [u8; 4] = *b"LFKT";
const VERSION: u16 = 1;
/// Longest table that is written or read.
pub const MAX_TABLE_BYTES: usize = 64 << 20;
/// Pieces a record may have: one for every other block of its bodies, and half a one for each of its extents.
const MAX_PIECES: u64 = (MAX_BODY_BYTES / UNIT + MAX_EXTENTS as u64) / 2;

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy)]
#[repr(C)]
struct TableHeaderBytes {
    magic: [u8; 4],
    version: U16,
    reserved: [u8; 2],
    /// CRC32C of the whole table, this field zero.
    checksum: U32,
    records: U32,
    /// Of the whole table.
    length: U32,
    segment: U32,
    /// Of the compacted segment.
    salt: U64,
}
const TABLE_HEADER_BYTES: usize = size_of::<TableHeaderBytes>();
const _: () = assert!(TABLE_HEADER_BYTES == 4 + 2 + 2 + 4 + 4 + 4 + 4 + 8);
const CHECKSUM_AT: std::ops::Range<usize> = 8..12;

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy)]
#[repr(C)]
struct KeptRecordBytes {
    head_length: U32,
    pieces: U32,
    /// Of the segment that the record was first written to: its head repeats it.
    salt: U64,
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy)]
#[repr(C)]
struct PieceBytes {
    extent: U32,
    first_block: U32,
    blocks: U32,
    unit: U32,
    hash: [u8; 32],
}
const _: () = assert!(size_of::<PieceBytes>() == 4 + 4 + 4 + 4 + 32);

/// Consecutive blocks of an extent that are kept.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Piece {
    /// Which extent of the record.
    pub extent: u32,
    /// First block of it that is kept, counted from its start.
    pub first_block: u32,
    /// First 4 KiB unit of the compacted segment that belongs to it.
    pub unit: u32,
    /// BLAKE3 of the bytes.
    pub hash: [u8; 32],
    /// CRC32C of each block; there are as many blocks.
    pub checksums: Vec<u32>,
}

impl Piece {
    /// Bytes it has.
    pub fn length(&self) -> u64 {
        self.checksums.len() as u64 * UNIT
    }

    /// Which bytes of its disk it is.
    pub fn range(&self, extent: &RecordExtent) -> ByteRange {
        let start = extent.range.start().bytes() + u64::from(self.first_block) * UNIT;
        ByteRange::at(ByteOffset::new(start), self.length()).expect("within the extent")
    }
}

/// What is kept of a record.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KeptRecord {
    /// What its head says.
    pub record: Record,
    /// Its head as it was first written.
    pub head: Vec<u8>,
    /// Salt of the segment that it was first written to.
    pub salt: u64,
    /// What is kept of its data, in the order of extents and blocks.
    pub pieces: Vec<Piece>,
}

/// Writes a table.
pub fn encode_table(segment: SegmentId, salt: u64, records: &[KeptRecord]) -> Vec<u8> {
    let mut bytes = vec![0; TABLE_HEADER_BYTES];
    for kept in records {
        let prefix = KeptRecordBytes {
            head_length: U32::new(small(kept.head.len())),
            pieces: U32::new(small(kept.pieces.len())),
            salt: U64::new(kept.salt),
        };
        bytes.extend_from_slice(prefix.as_bytes());
        bytes.extend_from_slice(&kept.head);
        for piece in &kept.pieces {
            let fixed = PieceBytes {
                extent: U32::new(piece.extent),
                first_block: U32::new(piece.first_block),
                blocks: U32::new(small(piece.checksums.len())),
                unit: U32::new(piece.unit),
                hash: piece.hash,
            };
            bytes.extend_from_slice(fixed.as_bytes());
            piece.checksums.iter().for_each(|sum| bytes.extend_from_slice(&sum.to_le_bytes()));
        }
    }
    let header = TableHeaderBytes {
        magic: TABLE_MAGIC,
        version: U16::new(VERSION),
        reserved: [0; 2],
        checksum: U32::ZERO,
        records: U32::new(small(records.len())),
        length: U32::new(small(bytes.len())),
        segment: U32::new(segment.number()),
        salt: U64::new(salt),
    };
    bytes[..TABLE_HEADER_BYTES].copy_from_slice(header.as_bytes());
    let checksum = crc32c::crc32c(&bytes);
    bytes[CHECKSUM_AT].copy_from_slice(&checksum.to_le_bytes());
    bytes
}

fn small(number: usize) -> u32 {
    u32::try_from(number).expect("a table is far below 4 GiB")
}

/// Reads the table at the start of `bytes`; pieces lie in units `1..units` of the segment.
pub fn parse_table(
    bytes: &[u8],
    segment: SegmentId,
    salt: u64,
    units: u32,
) -> Result<Vec<KeptRecord>, FormatError> {
    let (header, _) = TableHeaderBytes::read_from_prefix(bytes).map_err(|_| FormatError::Short)?;
    if header.magic != TABLE_MAGIC {
        return Err(FormatError::Magic);
    }
    let length = header.length.get() as usize;
    if !(TABLE_HEADER_BYTES..=MAX_TABLE_BYTES).contains(&length) {
        return Err(FormatError::Field("table length"));
    }
    let table = bytes.get(..length).ok_or(FormatError::Short)?;
    let sum = crc32c::crc32c_append(crc32c::crc32c(&table[..CHECKSUM_AT.start]), &[0; 4]);
    if crc32c::crc32c_append(sum, &table[CHECKSUM_AT.end..]) != header.checksum.get() {
        return Err(FormatError::Checksum);
    }
    if header.version.get() != VERSION {
        return Err(FormatError::Version(header.version.get()));
    }
    if header.salt.get() != salt {
        return Err(FormatError::Salt);
    }
    if header.reserved != [0; 2] || header.segment.get() != segment.number() {
        return Err(FormatError::Field("table header"));
    }
    let mut rest = &table[TABLE_HEADER_BYTES..];
    let mut records = Vec::new();
    for _ in 0..header.records.get() {
        let (kept, after) = parse_record(rest, units)?;
        records.push(kept);
        rest = after;
    }
    if !rest.is_empty() {
        return Err(FormatError::Field("records"));
    }
    apply_aborts(&mut records, |kept| &mut kept.record);
    let void = |kept: &KeptRecord| {
        let mut extents =
            kept.pieces.iter().map(|piece| &kept.record.extents[piece.extent as usize]);
        extents.any(|extent| matches!(extent.content, ExtentContent::Void { .. }))
    };
    if records.iter().any(void) {
        return Err(FormatError::Field("extent of a piece"));
    }
    Ok(records)
}

fn parse_record(bytes: &[u8], units: u32) -> Result<(KeptRecord, &[u8]), FormatError> {
    let (prefix, rest) =
        KeptRecordBytes::read_from_prefix(bytes).map_err(|_| FormatError::Short)?;
    let salt = prefix.salt.get();
    let head = rest.get(..prefix.head_length.get() as usize).ok_or(FormatError::Short)?;
    let record = Record::parse(head, salt)?;
    if record.head_length() != head.len() || record.kind == RecordKind::Vouch {
        return Err(FormatError::Field("head"));
    }
    let mut rest = &rest[head.len()..];
    if u64::from(prefix.pieces.get()) > MAX_PIECES {
        return Err(FormatError::Field("pieces"));
    }
    let mut pieces: Vec<Piece> = Vec::new();
    for _ in 0..prefix.pieces.get() {
        let (piece, after) = parse_piece(rest, &record, units)?;
        let behind = pieces.last().is_none_or(|last| {
            let end = last.first_block + small(last.checksums.len());
            (last.extent, end) <= (piece.extent, piece.first_block)
        });
        if !behind {
            return Err(FormatError::Field("order of pieces"));
        }
        pieces.push(piece);
        rest = after;
    }
    Ok((KeptRecord { record, head: head.to_vec(), salt, pieces }, rest))
}

fn parse_piece<'a>(
    bytes: &'a [u8],
    record: &Record,
    units: u32,
) -> Result<(Piece, &'a [u8]), FormatError> {
    let (fixed, rest) = PieceBytes::read_from_prefix(bytes).map_err(|_| FormatError::Short)?;
    let extent = record.extents.get(fixed.extent.get() as usize);
    let extent = extent.filter(|extent| matches!(extent.content, ExtentContent::Data { .. }));
    let extent = extent.ok_or(FormatError::Field("extent of a piece"))?;
    let (first, blocks) = (u64::from(fixed.first_block.get()), u64::from(fixed.blocks.get()));
    if blocks == 0 || first + blocks > extent.range.length() / UNIT {
        return Err(FormatError::Field("blocks of a piece"));
    }
    let unit = fixed.unit.get();
    if unit == 0 || u64::from(unit) + blocks > u64::from(units) {
        return Err(FormatError::Field("unit of a piece"));
    }
    let (sums, rest) =
        rest.split_at_checked(fixed.blocks.get() as usize * 4).ok_or(FormatError::Short)?;
    let checksums =
        sums.chunks_exact(4).map(|sum| u32::from_le_bytes([sum[0], sum[1], sum[2], sum[3]]));
    let piece = Piece {
        extent: fixed.extent.get(),
        first_block: fixed.first_block.get(),
        unit,
        hash: fixed.hash,
        checksums: checksums.collect(),
    };
    Ok((piece, rest))
}

#[cfg(test)]
mod tests;
