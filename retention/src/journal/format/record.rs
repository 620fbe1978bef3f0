//! Records: header, label, extent table and tags; their bodies are not looked at here.

use super::extent::{EXTENT_BYTES, count_blocks, parse_table};
use super::{
    ExtentContent, FormatError, MAX_EXTENTS, MAX_RECORD_BYTES, MAX_SEGMENT_BYTES, RecordExtent,
    UNIT, Version,
};
use crate::ids::{
    Generation, GroupId, KeyId, LaneSequence, LineId, Position, SegmentId, Sequence, StreamId,
};
use crate::name::{Label, MAX_LABEL_BYTES};
use crate::point::PointKind;
use crate::sealing::{SealOrigin, TAG_BYTES, Tag};
use crate::time::Timestamp;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

const RECORD_MAGIC: [u8; 4] = *b"LFRC";
const FLAG_BOUNDARY: u8 = 1;
#[expect(clippy::cast_possible_truncation, reason = "4096")]
const UNIT_BYTES: u32 = UNIT as u32;

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
    /// Whole-record codec: reserved, zero.
    codec: u8,
    /// Data key that its bodies are sealed by; zero if they are plain.
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
    /// Of a sealed record: where it was first written to. Zero otherwise.
    segment: U32,
    unit: U32,
    reserved: [u8; 68],
}
pub(super) const RECORD_HEADER_BYTES: usize = size_of::<RecordHeaderBytes>();
const _: () = assert!(RECORD_HEADER_BYTES == 256);

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
    /// How its bodies are sealed, if they are. A record without bodies never is.
    pub seal: Option<RecordSeal>,
}

/// How the bodies of a record are sealed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RecordSeal {
    /// The data key.
    pub key: KeyId,
    /// The segment that the record was first written to.
    pub segment: SegmentId,
    /// The unit of that segment that the record started at.
    pub unit: u32,
    /// A tag for each block of its bodies, in their order.
    pub tags: Vec<Tag>,
}

/// The running hash over a line's history.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Chain(pub [u8; 32]);

impl Record {
    /// Bytes of a plain record with `extents` extents and a label of `label` bytes, before its first body.
    pub fn head_bytes(extents: usize, label: usize) -> u64 {
        Self::sealed_head_bytes(extents, label, 0)
    }

    /// Bytes of a record with `tags` sealed blocks, before its first body.
    pub fn sealed_head_bytes(extents: usize, label: usize, tags: usize) -> u64 {
        let bytes = RECORD_HEADER_BYTES + label + extents * EXTENT_BYTES + tags * TAG_BYTES;
        (bytes as u64).next_multiple_of(UNIT)
    }

    /// Bytes of its header, label, table and tags, without what fills them up.
    pub fn head_length(&self) -> usize {
        let table = self.extents.len() * EXTENT_BYTES;
        RECORD_HEADER_BYTES + self.label_bytes() + table + self.tags().len() * TAG_BYTES
    }

    fn tags(&self) -> &[Tag] {
        self.seal.as_ref().map_or(&[], |seal| &seal.tags)
    }

    /// Bytes of the whole record.
    pub fn length_bytes(&self) -> u64 {
        let bodies: u64 = self.extents.iter().map(RecordExtent::body_bytes).sum();
        let tags = self.tags().len();
        Self::sealed_head_bytes(self.extents.len(), self.label_bytes(), tags) + bodies
    }

    /// How blocks of an extent with data are sealed, if they are: where its block `first` was first written to in a segment
    /// with this salt, and the tags from there on.
    pub fn seal_of(&self, extent: usize, first: u32, salt: u64) -> Option<(SealOrigin, &[Tag])> {
        let seal = self.seal.as_ref()?;
        let ExtentContent::Data { body, .. } = self.extents.get(extent)?.content else {
            return None;
        };
        let (head, _) = self.extents.iter().find_map(|one| one.content.body())?;
        let units = |bytes: u32| bytes / UNIT_BYTES;
        let unit = seal.unit + units(body) + first;
        let origin = SealOrigin { key: seal.key, segment: seal.segment, salt, unit };
        let from = (units(body - head) + first) as usize;
        seal.tags.get(from..).map(|tags| (origin, tags))
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
            seal: None,
        }
    }

    /// The sequences of its line that it aborts something of.
    pub fn aborts(&self) -> impl Iterator<Item = Sequence> {
        self.extents.iter().filter_map(|extent| match extent.content {
            ExtentContent::Abort { of } => Some(of),
            _ => None,
        })
    }

    pub(super) fn label_bytes(&self) -> usize {
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
            let (kind, hash) = extent.content.root_bytes();
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

    /// Writes header, label, table and tags to the start of `into`, which must hold as many zero bytes as
    /// there are before the first body.
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
            key_id: U32::new(self.seal.as_ref().map_or(0, |seal| seal.key.number())),
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
            segment: U32::new(self.seal.as_ref().map_or(0, |seal| seal.segment.number())),
            unit: U32::new(self.seal.as_ref().map_or(0, |seal| seal.unit)),
            reserved: [0; 68],
        };
        let table_start = RECORD_HEADER_BYTES + label.len();
        let table_end = table_start + table.len();
        let head_end = self.head_length();
        into[..RECORD_HEADER_BYTES].copy_from_slice(header.as_bytes());
        into[RECORD_HEADER_BYTES..table_start].copy_from_slice(label.as_bytes());
        into[table_start..table_end].copy_from_slice(&table);
        let tags = into[table_end..head_end].chunks_exact_mut(TAG_BYTES);
        tags.zip(self.tags()).for_each(|(at, tag)| at.copy_from_slice(&tag.0));
        let checksum = crc32c::crc32c(&into[..head_end]);
        into[8..12].copy_from_slice(&checksum.to_le_bytes());
    }

    /// Reads the record that starts at the start of `bytes`. `bytes` may end anywhere: [`FormatError::Short`] is
    /// answered when header, label, table or tags are cut off; bodies are not looked at.
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
        let table_end = table_start + extent_count * EXTENT_BYTES;
        let blocks = match header.key_id.get() {
            0 => 0,
            _ => count_blocks(bytes.get(table_start..table_end).ok_or(FormatError::Short)?)?,
        };
        let head_end = table_end + blocks * TAG_BYTES;
        let head = bytes.get(..head_end).ok_or(FormatError::Short)?;
        if header.checksum.get() != checksum_with_field_zero(head) {
            return Err(FormatError::Checksum);
        }
        check_header(&header, salt)?;
        let seal = parse_seal(&header, &head[table_end..])?;
        let first_body = Self::sealed_head_bytes(extent_count, label_length, blocks);
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
            extents: parse_table(&head[table_start..table_end], first_body)?,
            seal,
        };
        if u64::from(header.length.get()) != record.length_bytes() {
            return Err(FormatError::Field("length"));
        }
        if record.aborts().any(|of| of >= record.sequence) {
            return Err(FormatError::Field("extent target"));
        }
        if header.root != record.root() {
            return Err(FormatError::Field("root"));
        }
        Ok(record)
    }
}

/// What a header and its tags say of sealing.
fn parse_seal(header: &RecordHeaderBytes, tags: &[u8]) -> Result<Option<RecordSeal>, FormatError> {
    let (key, segment, unit) = (header.key_id.get(), header.segment.get(), header.unit.get());
    if key == 0 {
        return if (segment, unit) == (0, 0) { Ok(None) } else { Err(FormatError::Field("seal")) };
    }
    let end = u64::from(unit) * UNIT + u64::from(header.length.get());
    if tags.is_empty() || unit == 0 || end > MAX_SEGMENT_BYTES {
        return Err(FormatError::Field("seal"));
    }
    let tags = tags.as_chunks().0.iter().copied().map(Tag).collect();
    let (key, segment) = (KeyId::new(key), SegmentId::new(segment));
    Ok(Some(RecordSeal { key, segment, unit, tags }))
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
    if header.codec != 0 {
        return Err(FormatError::Unsupported("record codec"));
    }
    if header.flags & !FLAG_BOUNDARY != 0 || header.reserved != [0; 68] {
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

fn point_kind_byte(kind: PointKind) -> u8 {
    match kind {
        PointKind::App => 1,
        PointKind::Crash => 2,
        PointKind::Fuzzy => 3,
    }
}
