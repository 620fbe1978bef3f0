//! Bytes of the journal, version 1: segment headers, record headers, extent tables. See `docs/formats/journal.md`.
//!
//! ```text
//!   segment   ├ header 4 KiB ┤├ record ┤├ record ┤ … ├ never parsed: zeroes, a torn tail, an older life ┤
//!   record    ├ header 256 │ label │ extent table, 80 each │ zeroes to 4 KiB ┤├ bodies, 4 KiB aligned ┤
//! ```
//!
//! Pure functions from bytes to meaning and back. A header is trusted without its bodies: its checksum covers header,
//! label and table, the table holds the BLAKE3 of every body. Every length is checked against a named limit before it
//! is used; reserved bytes are written zero and checked.

use crate::ids::{
    DiskId, Generation, GroupId, LaneId, LaneSequence, LineId, Position, SegmentId, Sequence,
    StreamId,
};
use crate::name::{Label, MAX_LABEL_BYTES};
use crate::point::PointKind;
use crate::time::Timestamp;
use landfall_disks::{BLOCK_SIZE, ByteOffset, ByteRange, MAX_DISK_SIZE};
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Everything in a segment starts at a multiple of this many bytes.
pub const UNIT: u64 = BLOCK_SIZE;
/// Bytes at the start of a segment before its first record.
pub const SEGMENT_HEADER_BYTES: u64 = UNIT;
/// Extents a record may have.
pub const MAX_EXTENTS: usize = 1024;
/// Bytes of data a record may carry.
pub const MAX_BODY_BYTES: u64 = 8 << 20;
/// Longest record: header, label, full table and bodies, each rounded up.
pub const MAX_RECORD_BYTES: u64 = MAX_BODY_BYTES + 25 * UNIT;
/// Smallest segment: its header and the longest record.
pub const MIN_SEGMENT_BYTES: u64 = SEGMENT_HEADER_BYTES + MAX_RECORD_BYTES;
/// Largest segment: places count units in 32 bits, far above this; the limit keeps recovery of one segment short.
pub const MAX_SEGMENT_BYTES: u64 = 1 << 30;

const SEGMENT_MAGIC: [u8; 8] = *b"LFSEGMNT";
const RECORD_MAGIC: [u8; 4] = *b"LFRC";

/// Versions of the journal format.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u16)]
enum Version {
    /// Landfall 0.1: plain bodies, no compression, no encryption.
    V1 = 1,
}

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

/// First 256 bytes of a record.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy)]
#[repr(C)]
struct RecordHeaderBytes {
    magic: [u8; 4],
    version: U16,
    kind: u8,
    /// Bit 0: this sequence may be a point.
    flags: u8,
    /// CRC32C of header (this field zero), label and table.
    checksum: U32,
    extent_count: U32,
    /// Whole record, a multiple of 4096.
    length: U32,
    label_length: U16,
    mark_kind: u8,
    /// Whole-record codec and key: reserved, zero.
    codec: u8,
    key_id: U32,
    lane_sequence: U64,
    /// Lane sequence known durable when this record was written.
    durable_through: U64,
    salt: U64,
    group: U32,
    line: U32,
    sequence: U64,
    generation: U64,
    stream: [u8; 16],
    position: U64,
    source_time: U64,
    commit_time: U64,
    /// BLAKE3 over what the extents are.
    root: [u8; 32],
    /// Chain value of the line before this record.
    chain: [u8; 32],
    reserved: [u8; 76],
}
const RECORD_HEADER_BYTES: usize = size_of::<RecordHeaderBytes>();
const _: () = assert!(RECORD_HEADER_BYTES == 256);

/// One entry of an extent table.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy)]
#[repr(C)]
struct ExtentBytes {
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
    /// BLAKE3 of the plain content; zero for extents without content.
    hash: [u8; 32],
    /// Where a `ref` points: a sequence of the same line.
    target: U64,
    reserved_b: [u8; 8],
}
const EXTENT_BYTES: usize = size_of::<ExtentBytes>();
const _: () = assert!(EXTENT_BYTES == 8 + 8 + 4 + 1 + 1 + 2 + 4 + 4 + 32 + 8 + 8);

const FLAG_BOUNDARY: u8 = 1;

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

/// What a record is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum RecordKind {
    /// Changes of disks.
    Batch,
    /// A recovery point.
    Mark {
        /// What the point promises.
        kind: PointKind,
        /// Its label.
        label: Option<Label>,
    },
    /// Nothing but `durable_through`: written by an idle lane to vouch for its last batch.
    Vouch,
}

/// What the header of a record says, its extents included.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Record {
    /// What it is.
    pub kind: RecordKind,
    /// Whether this sequence may be a point.
    pub boundary: bool,
    /// Position in the lane.
    pub lane_sequence: LaneSequence,
    /// What was durable when it was written.
    pub durable_through: LaneSequence,
    /// Group of the line.
    pub group: GroupId,
    /// The line that grows by it.
    pub line: LineId,
    /// Position in the line.
    pub sequence: Sequence,
    /// Generation of the line's stream.
    pub generation: Generation,
    /// Stream it came from, or [`StreamId::NONE`].
    pub stream: StreamId,
    /// Position in that stream.
    pub position: Position,
    /// When the source says it happened.
    pub source_time: Timestamp,
    /// When the target committed it.
    pub commit_time: Timestamp,
    /// Chain value of the line before it.
    pub previous_chain: Chain,
    /// What it changes, in the order of the table; disjoint per disk.
    pub extents: Vec<RecordExtent>,
}

/// The running hash over a line's history.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Chain(pub [u8; 32]);

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

/// What an extent holds. `size`, `ref`, `abort` and `gap` have their numbers in the format; version 1 refuses them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ExtentContent {
    /// Bytes that follow the table.
    Data {
        /// Where they start, from the start of the record.
        body: u32,
        /// Their BLAKE3.
        hash: [u8; 32],
    },
    /// Zeroes.
    Zero,
}

/// Numbers of extent kinds in the format. Those without a meaning in version 1 are reserved by name.
mod extent_kind {
    pub(super) const DATA: u8 = 1;
    pub(super) const ZERO: u8 = 2;
    // 3 size, 4 ref, 5 abort, 6 gap
    pub(super) const LAST_RESERVED: u8 = 6;
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

impl Record {
    /// Bytes of a record with `extents` extents and a label of `label` bytes, before its first body.
    pub fn head_bytes(extents: usize, label: usize) -> u64 {
        let bytes = RECORD_HEADER_BYTES + label + extents * EXTENT_BYTES;
        (bytes as u64).next_multiple_of(UNIT)
    }

    /// Bytes of the whole record.
    pub fn length_bytes(&self) -> u64 {
        let bodies: u64 = self.extents.iter().map(RecordExtent::body_bytes).sum();
        Self::head_bytes(self.extents.len(), self.label_bytes()) + bodies
    }

    /// An empty record that vouches for everything through `durable_through`.
    pub fn vouch(lane_sequence: LaneSequence, durable_through: LaneSequence) -> Self {
        Self {
            kind: RecordKind::Vouch,
            boundary: false,
            lane_sequence,
            durable_through,
            group: GroupId::default(),
            line: LineId::default(),
            sequence: Sequence::default(),
            generation: Generation::default(),
            stream: StreamId::NONE,
            position: Position::default(),
            source_time: Timestamp::default(),
            commit_time: Timestamp::default(),
            previous_chain: Chain::default(),
            extents: Vec::new(),
        }
    }

    fn label_bytes(&self) -> usize {
        match &self.kind {
            RecordKind::Mark { label: Some(label), .. } => label.as_str().len(),
            _ => 0,
        }
    }

    /// BLAKE3 over what the extents are: disk, range, kind and content hash of each, but not where their bodies lie, so
    /// that a record keeps its root when it is moved.
    pub fn root(&self) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new();
        for extent in &self.extents {
            let (kind, hash) = match extent.content {
                ExtentContent::Data { hash, .. } => (extent_kind::DATA, hash),
                ExtentContent::Zero => (extent_kind::ZERO, [0; 32]),
            };
            hasher.update(&extent.disk.number().to_le_bytes());
            hasher.update(&extent.range.start().bytes().to_le_bytes());
            hasher.update(&extent.range.length().to_le_bytes());
            hasher.update(&[kind]);
            hasher.update(&hash);
        }
        *hasher.finalize().as_bytes()
    }

    /// Chain value of the line after this record.
    pub fn chain(&self) -> Chain {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.previous_chain.0);
        hasher.update(&self.root());
        hasher.update(&self.line.number().to_le_bytes());
        hasher.update(&self.sequence.number().to_le_bytes());
        hasher.update(&self.commit_time.nanoseconds().to_le_bytes());
        let (kind, mark, label) = self.kind_bytes();
        hasher.update(&[kind, mark]);
        hasher.update(label.as_bytes());
        Chain(*hasher.finalize().as_bytes())
    }

    fn kind_bytes(&self) -> (u8, u8, &str) {
        match &self.kind {
            RecordKind::Batch => (1, 0, ""),
            RecordKind::Mark { kind, label } => {
                (2, point_kind_byte(*kind), label.as_ref().map_or("", Label::as_str))
            }
            RecordKind::Vouch => (3, 0, ""),
        }
    }

    fn table(&self) -> Vec<u8> {
        let mut table = Vec::with_capacity(self.extents.len() * EXTENT_BYTES);
        for extent in &self.extents {
            table.extend_from_slice(extent.encode().as_bytes());
        }
        table
    }

    /// Writes header, label and table to the start of `into`, which must hold [`Record::head_bytes`] zero bytes.
    pub fn encode(&self, salt: u64, into: &mut [u8]) {
        let (kind, mark_kind, label) = self.kind_bytes();
        let table = self.table();
        let length = u32::try_from(self.length_bytes()).expect("a record is far below 4 GiB");
        let header = RecordHeaderBytes {
            magic: RECORD_MAGIC,
            version: U16::new(Version::V1 as u16),
            kind,
            flags: if self.boundary { FLAG_BOUNDARY } else { 0 },
            checksum: U32::ZERO,
            extent_count: U32::new(u32::try_from(self.extents.len()).expect("at most MAX_EXTENTS")),
            length: U32::new(length),
            label_length: U16::new(u16::try_from(label.len()).expect("a label is short")),
            mark_kind,
            codec: 0,
            key_id: U32::ZERO,
            lane_sequence: U64::new(self.lane_sequence.number()),
            durable_through: U64::new(self.durable_through.number()),
            salt: U64::new(salt),
            group: U32::new(self.group.number()),
            line: U32::new(self.line.number()),
            sequence: U64::new(self.sequence.number()),
            generation: U64::new(self.generation.number()),
            stream: self.stream.bytes(),
            position: U64::new(self.position.number()),
            source_time: U64::new(self.source_time.nanoseconds()),
            commit_time: U64::new(self.commit_time.nanoseconds()),
            root: self.root(),
            chain: self.previous_chain.0,
            reserved: [0; 76],
        };
        let table_start = RECORD_HEADER_BYTES + label.len();
        let head_end = table_start + table.len();
        into[..RECORD_HEADER_BYTES].copy_from_slice(header.as_bytes());
        into[RECORD_HEADER_BYTES..table_start].copy_from_slice(label.as_bytes());
        into[table_start..head_end].copy_from_slice(&table);
        let checksum = crc32c::crc32c(&into[..head_end]);
        into[8..12].copy_from_slice(&checksum.to_le_bytes());
    }

    /// Reads the record that starts at the start of `bytes`. `bytes` may end anywhere: [`FormatError::Short`] is
    /// answered when header, label or table are cut off; bodies are not looked at.
    pub fn parse(bytes: &[u8], salt: u64) -> Result<Self, FormatError> {
        let (header, _) =
            RecordHeaderBytes::read_from_prefix(bytes).map_err(|_| FormatError::Short)?;
        if header.magic != RECORD_MAGIC {
            return Err(FormatError::Magic);
        }
        let extent_count = header.extent_count.get() as usize;
        let label_length = usize::from(header.label_length.get());
        if extent_count > MAX_EXTENTS {
            return Err(FormatError::Field("extent_count"));
        }
        if label_length > MAX_LABEL_BYTES {
            return Err(FormatError::Field("label_length"));
        }
        let table_start = RECORD_HEADER_BYTES + label_length;
        let head_end = table_start + extent_count * EXTENT_BYTES;
        let head = bytes.get(..head_end).ok_or(FormatError::Short)?;
        if header.checksum.get() != checksum_with_field_zero(head) {
            return Err(FormatError::Checksum);
        }
        check_header(&header, salt)?;
        let table = &head[table_start..];
        let label = std::str::from_utf8(&head[RECORD_HEADER_BYTES..table_start])
            .map_err(|_| FormatError::Field("label"))?;
        let record = Self {
            kind: parse_kind(&header, label)?,
            boundary: header.flags & FLAG_BOUNDARY != 0,
            lane_sequence: LaneSequence::new(header.lane_sequence.get()),
            durable_through: LaneSequence::new(header.durable_through.get()),
            group: GroupId::new(header.group.get()),
            line: LineId::new(header.line.get()),
            sequence: Sequence::new(header.sequence.get()),
            generation: Generation::new(header.generation.get()),
            stream: StreamId::new(header.stream),
            position: Position::new(header.position.get()),
            source_time: Timestamp::from_nanoseconds(header.source_time.get()),
            commit_time: Timestamp::from_nanoseconds(header.commit_time.get()),
            previous_chain: Chain(header.chain),
            extents: parse_table(table, extent_count, label_length)?,
        };
        if u64::from(header.length.get()) != record.length_bytes() {
            return Err(FormatError::Field("length"));
        }
        if header.root != record.root() {
            return Err(FormatError::Field("root"));
        }
        Ok(record)
    }
}

impl RecordExtent {
    /// Bytes its body takes in the record.
    pub fn body_bytes(&self) -> u64 {
        match self.content {
            ExtentContent::Data { .. } => self.range.length(),
            ExtentContent::Zero => 0,
        }
    }

    fn encode(&self) -> ExtentBytes {
        let (kind, body, hash) = match self.content {
            ExtentContent::Data { body, hash } => (extent_kind::DATA, body, hash),
            ExtentContent::Zero => (extent_kind::ZERO, 0, [0; 32]),
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
            target: U64::ZERO,
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
        if reserved || bytes.target.get() != 0 {
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
            extent_kind::ZERO => {
                if bytes.body.get() != 0 || bytes.stored_length.get() != 0 || bytes.hash != [0; 32]
                {
                    return Err(FormatError::Field("zero extent"));
                }
                ExtentContent::Zero
            }
            kind if (extent_kind::ZERO..=extent_kind::LAST_RESERVED).contains(&kind) => {
                return Err(FormatError::Unsupported("extent kind"));
            }
            _ => return Err(FormatError::Field("extent kind")),
        };
        Ok(Self { disk: DiskId::new(bytes.disk.get()), range, content })
    }
}

fn checksum_with_field_zero(head: &[u8]) -> u32 {
    let sum = crc32c::crc32c(&head[..8]);
    let sum = crc32c::crc32c_append(sum, &[0; 4]);
    crc32c::crc32c_append(sum, &head[12..])
}

fn check_header(header: &RecordHeaderBytes, salt: u64) -> Result<(), FormatError> {
    if header.version.get() != Version::V1 as u16 {
        return Err(FormatError::Version(header.version.get()));
    }
    if header.salt.get() != salt {
        return Err(FormatError::Salt);
    }
    if header.codec != 0 || header.key_id.get() != 0 {
        return Err(FormatError::Unsupported("record codec"));
    }
    if header.flags & !FLAG_BOUNDARY != 0 || header.reserved != [0; 76] {
        return Err(FormatError::Field("reserved"));
    }
    if u64::from(header.length.get()) > MAX_RECORD_BYTES {
        return Err(FormatError::Field("length"));
    }
    if header.durable_through.get() >= header.lane_sequence.get() {
        return Err(FormatError::Field("durable_through"));
    }
    Ok(())
}

fn parse_kind(header: &RecordHeaderBytes, label: &str) -> Result<RecordKind, FormatError> {
    match (header.kind, header.mark_kind, label) {
        (1, 0, "") => Ok(RecordKind::Batch),
        (2, mark, label) if header.extent_count.get() == 0 => {
            let kind = match mark {
                1 => PointKind::App,
                2 => PointKind::Crash,
                3 => PointKind::Fuzzy,
                _ => return Err(FormatError::Field("mark_kind")),
            };
            let label = match label {
                "" => None,
                label => Some(Label::parse(label).map_err(|_| FormatError::Field("label"))?),
            };
            Ok(RecordKind::Mark { kind, label })
        }
        (3, 0, "") if header.extent_count.get() == 0 => Ok(RecordKind::Vouch),
        _ => Err(FormatError::Field("kind")),
    }
}

fn parse_table(
    table: &[u8],
    extents: usize,
    label_bytes: usize,
) -> Result<Vec<RecordExtent>, FormatError> {
    let mut parsed = Vec::with_capacity(extents);
    let mut next_body = Record::head_bytes(extents, label_bytes);
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

fn point_kind_byte(kind: PointKind) -> u8 {
    match kind {
        PointKind::App => 1,
        PointKind::Crash => 2,
        PointKind::Fuzzy => 3,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn record(lengths: &[(bool, u64)], label: Option<&str>) -> Record {
        let kind = match label {
            Some(label) => RecordKind::Mark {
                kind: PointKind::App,
                label: (!label.is_empty()).then(|| Label::parse(label).unwrap()),
            },
            None => RecordKind::Batch,
        };
        let mut body = Record::head_bytes(lengths.len(), 0);
        let mut at = 0;
        let extents = lengths
            .iter()
            .map(|(data, blocks)| {
                let range = ByteRange::at(ByteOffset::new(at), blocks * UNIT).unwrap();
                at = range.end().bytes() + UNIT;
                let content = if *data {
                    let content =
                        ExtentContent::Data { body: u32::try_from(body).unwrap(), hash: [7; 32] };
                    body += range.length();
                    content
                } else {
                    ExtentContent::Zero
                };
                RecordExtent { disk: DiskId::new(3), range, content }
            })
            .collect();
        Record {
            kind,
            boundary: true,
            lane_sequence: LaneSequence::new(9),
            durable_through: LaneSequence::new(4),
            group: GroupId::new(1),
            line: LineId::new(2),
            sequence: Sequence::new(77),
            generation: Generation::new(5),
            stream: StreamId::new([6; 16]),
            position: Position::new(8),
            source_time: Timestamp::from_nanoseconds(11),
            commit_time: Timestamp::from_nanoseconds(12),
            previous_chain: Chain([13; 32]),
            extents,
        }
    }

    fn encoded(record: &Record) -> Vec<u8> {
        let label = record.label_bytes();
        let head = Record::head_bytes(record.extents.len(), label);
        let mut bytes = vec![0; usize::try_from(head).unwrap()];
        record.encode(99, &mut bytes);
        bytes
    }

    #[test]
    fn any_flipped_bit_of_a_head_is_noticed() {
        let record = record(&[(true, 1), (false, 3)], None);
        let bytes = encoded(&record);
        let covered = RECORD_HEADER_BYTES + 2 * EXTENT_BYTES;
        for bit in 0..covered * 8 {
            let mut broken = bytes.clone();
            broken[bit / 8] ^= 1 << (bit % 8);
            assert!(Record::parse(&broken, 99).is_err(), "bit {bit} went unnoticed");
        }
    }

    #[test]
    fn a_record_of_another_life_is_told_apart() {
        let bytes = encoded(&record(&[(true, 1)], None));
        assert_eq!(Record::parse(&bytes, 98), Err(FormatError::Salt));
    }

    #[test]
    fn the_longest_record_fits_the_limit() {
        let head = Record::head_bytes(MAX_EXTENTS, MAX_LABEL_BYTES);
        assert!(head + MAX_BODY_BYTES <= MAX_RECORD_BYTES);
    }

    #[test]
    fn segment_headers_read_back() {
        let header = SegmentHeader {
            lane: LaneId::new(1),
            segment: SegmentId::new(7),
            salt: 42,
            first: LaneSequence::new(1000),
            size_bytes: 64 << 20,
            created: Timestamp::from_nanoseconds(5),
        };
        let mut block = vec![1; 4096];
        header.encode(&mut block);
        assert_eq!(SegmentHeader::parse(&block), Ok(header));
        block[17] ^= 1;
        assert_eq!(SegmentHeader::parse(&block), Err(FormatError::Checksum));
    }

    proptest! {
        #[test]
        fn records_read_back(
            lengths in proptest::collection::vec((any::<bool>(), 1u64..20), 0..60),
        ) {
            let record = record(&lengths, None);
            let bytes = encoded(&record);
            prop_assert_eq!(Record::parse(&bytes, 99), Ok(record));
        }

        #[test]
        fn marks_read_back(label in "[a-z]{0,20}") {
            let record = record(&[], Some(&label));
            prop_assert_eq!(Record::parse(&encoded(&record), 99), Ok(record));
        }

        #[test]
        fn no_bytes_can_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            let _ = Record::parse(&bytes, 0);
            let _ = SegmentHeader::parse(&bytes);
        }

        #[test]
        fn a_sealed_lie_cannot_panic(at in 0usize..416, value in any::<u8>()) {
            let mut bytes = encoded(&record(&[(true, 1), (false, 3)], None));
            bytes[at] = value;
            bytes[8..12].fill(0);
            let checksum = crc32c::crc32c(&bytes[..416]);
            bytes[8..12].copy_from_slice(&checksum.to_le_bytes());
            let _ = Record::parse(&bytes, 99);
        }
    }
}
