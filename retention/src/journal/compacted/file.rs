//! Files of compacted segments: written from the front, read back before anything rests on them.

use super::table::{KeptRecord, MAX_TABLE_BYTES, encode_table, parse_table};
use crate::ids::{LaneId, LaneSequence, SegmentId};
use crate::journal::format::{FormatError, MAX_SEGMENT_BYTES, UNIT};
use crate::journal::segment::{Segments, path};
use crate::manifest::compacted::CompactedEntry;
use crate::time::Timestamp;
use landfall_disks::file::{Caching, FileError, FileIo, OpenMode};
use landfall_disks::uring::offload;
use landfall_disks::{BLOCK_BYTES, Buffer};
use std::path::PathBuf;
use std::sync::Arc;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

const MAGIC: [u8; 8] = *b"LFCOMPCT";
const VERSION: u16 = 1;
/// Bytes that are written and read together.
const PIECE_BYTES: usize = 1 << 20;

/// First 64 bytes of the file; the rest of its first unit is zero. For people and tools: what it says is in the manifest too.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy)]
#[repr(C)]
struct HeaderBytes {
    magic: [u8; 8],
    version: U16,
    lane: U16,
    segment: U32,
    salt: U64,
    /// Where the tables start.
    table: U64,
    size_bytes: U64,
    created: U64,
    reserved: [u8; 12],
    /// CRC32C of the bytes before it.
    checksum: U32,
}
const _: () = assert!(size_of::<HeaderBytes>() == 8 + 2 + 2 + 4 + 8 + 8 + 8 + 8 + 12 + 4);

/// Why a compacted segment cannot be written or read.
#[derive(Debug, thiserror::Error)]
pub enum CompactedError {
    /// The file below failed.
    #[error(transparent)]
    File(#[from] FileError),
    /// Neither of its tables can be read.
    #[error("compacted segment {segment}: both tables are damaged: {source}")]
    Table {
        /// Which.
        segment: SegmentId,
        /// What is wrong with the second.
        source: FormatError,
    },
    /// What was written does not read back.
    #[error("compacted segment {segment}: what was just written at byte {offset} reads otherwise")]
    ReadBack {
        /// Which.
        segment: SegmentId,
        /// Where.
        offset: u64,
    },
}

impl CompactedError {
    /// Whether trying again gives nothing else: what the segment held is lost.
    pub(crate) fn is_loss(&self) -> bool {
        match self {
            Self::Table { .. } | Self::File(FileError::NotFound { .. }) => true,
            Self::File(_) | Self::ReadBack { .. } => false,
        }
    }
}

/// A compacted segment that is being written. The manifest does not know it yet, so a crash leaves a file that the next start
/// removes.
pub(crate) struct CompactedFile {
    segment: SegmentId,
    lane: LaneId,
    salt: u64,
    path: PathBuf,
    file: Arc<dyn FileIo>,
    /// Bytes written.
    at: u64,
    pending: Vec<u8>,
    records: Vec<KeptRecord>,
    table_bytes: usize,
}

impl CompactedFile {
    /// Makes the file; one of that name that a crash left is replaced.
    pub(crate) async fn create(
        segments: &Segments,
        (segment, lane): (SegmentId, LaneId),
        salt: u64,
    ) -> Result<Self, FileError> {
        let folder = segments.folder();
        let path = path(lane, segment);
        folder.create_folder(&PathBuf::from(lane.to_string())).await?;
        match folder.remove(&path).await {
            Ok(()) | Err(FileError::NotFound { .. }) => {}
            Err(error) => return Err(error),
        }
        let file = folder.open(&path, OpenMode::CreateNew, Caching::Direct).await?;
        let (records, pending) = (Vec::new(), Vec::with_capacity(PIECE_BYTES));
        Ok(Self { segment, lane, salt, path, file, at: UNIT, pending, records, table_bytes: 0 })
    }

    /// The unit that the next body will start at.
    pub(crate) fn next_unit(&self) -> u32 {
        let bytes = self.at + self.pending.len() as u64;
        u32::try_from(bytes / UNIT).expect("far below 16 TiB")
    }

    /// Whether there is room for bodies of so many bytes, and the table of their records.
    pub(crate) fn has_room(&self, bytes: u64, table_bytes: usize) -> bool {
        let table = self.table_bytes + table_bytes;
        let all = self.at + self.pending.len() as u64 + bytes + 2 * table as u64 + 3 * UNIT;
        all <= MAX_SEGMENT_BYTES && table < MAX_TABLE_BYTES / 2
    }

    /// Adds the bytes of a piece: whole units. They are written when enough have come together.
    pub(crate) async fn add_body(&mut self, mut bytes: &[u8]) -> Result<(), FileError> {
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at(bytes.len().min(PIECE_BYTES - self.pending.len()));
            self.pending.extend_from_slice(now);
            bytes = later;
            if self.pending.len() == PIECE_BYTES {
                self.write_pending().await?;
            }
        }
        Ok(())
    }

    /// Adds what is kept of a record; its pieces have their units.
    pub(crate) fn add_record(&mut self, kept: KeptRecord) {
        self.table_bytes += table_bytes(&kept);
        self.records.push(kept);
    }

    async fn write_pending(&mut self) -> Result<(), FileError> {
        let bytes = Buffer::copy_of(&self.pending);
        self.file.write_at(self.at, bytes).await?;
        self.at += self.pending.len() as u64;
        self.pending.clear();
        Ok(())
    }

    /// Writes tables and header, makes all of it durable and reads it back.
    pub(crate) async fn finish(
        mut self,
        segments: &Segments,
        created: Timestamp,
        from: Vec<SegmentId>,
    ) -> Result<CompactedEntry, CompactedError> {
        if !self.pending.is_empty() {
            self.write_pending().await?;
        }
        let table_at = self.at;
        let mut table = encode_table(self.segment, self.salt, &self.records);
        table.resize(table.len().next_multiple_of(BLOCK_BYTES), 0);
        for _ in 0..2 {
            for some in table.chunks(PIECE_BYTES) {
                self.file.write_at(self.at, Buffer::copy_of(some)).await?;
                self.at += some.len() as u64;
            }
        }
        self.file.write_at(0, self.header(table_at, created)).await?;
        self.file.flush().await?;
        segments.folder().sync(&PathBuf::from(self.lane.to_string())).await?;
        self.read_back(table_at, &table).await?;
        let through = self.records.iter().map(|kept| kept.record.lane_sequence).max();
        let entry = CompactedEntry {
            id: self.segment,
            lane: self.lane,
            salt: self.salt,
            size_bytes: self.at,
            table: table_at,
            through: through.unwrap_or_else(|| LaneSequence::new(0)),
            from,
        };
        segments.know(entry.id, entry.lane, entry.size_bytes, self.file);
        Ok(entry)
    }

    fn header(&self, table: u64, created: Timestamp) -> Buffer {
        let mut header = HeaderBytes {
            magic: MAGIC,
            version: U16::new(VERSION),
            lane: U16::new(self.lane.number()),
            segment: U32::new(self.segment.number()),
            salt: U64::new(self.salt),
            table: U64::new(table),
            size_bytes: U64::new(self.at),
            created: U64::new(created.nanoseconds()),
            reserved: [0; 12],
            checksum: U32::ZERO,
        };
        header.checksum = U32::new(crc32c::crc32c(&header.as_bytes()[..60]));
        let mut block = Buffer::zeroed(BLOCK_BYTES);
        block[..size_of::<HeaderBytes>()].copy_from_slice(header.as_bytes());
        block
    }

    /// That the medium gives what it was given: the originals go after this.
    async fn read_back(&self, table_at: u64, table: &[u8]) -> Result<(), CompactedError> {
        let wrong = |offset| CompactedError::ReadBack { segment: self.segment, offset };
        let pieces = self.records.iter().flat_map(|kept| &kept.pieces);
        let mut sums = pieces.flat_map(|piece| piece.checksums.iter().copied());
        let mut at = UNIT;
        while at < table_at {
            let length = (table_at - at).min(PIECE_BYTES as u64);
            let length = usize::try_from(length).expect("at most a MiB");
            let bytes = self.file.read_at(at, Buffer::for_overwriting(length)).await?;
            for block in bytes.chunks(BLOCK_BYTES) {
                if sums.next() != Some(crc32c::crc32c(block)) {
                    return Err(wrong(at));
                }
                at += UNIT;
            }
        }
        for _ in 0..2 {
            for some in table.chunks(PIECE_BYTES) {
                let bytes = self.file.read_at(at, Buffer::for_overwriting(some.len())).await?;
                if bytes[..] != *some {
                    return Err(wrong(at));
                }
                at += some.len() as u64;
            }
        }
        Ok(())
    }

    /// Removes the file again.
    pub(crate) async fn abandon(self, segments: &Segments) -> Result<(), FileError> {
        drop(self.file);
        segments.folder().remove(&self.path).await
    }
}

/// Bytes that a record takes in a table.
pub(crate) fn table_bytes(kept: &KeptRecord) -> usize {
    let pieces = kept.pieces.iter().map(|piece| 48 + 4 * piece.checksums.len());
    16 + kept.head.len() + pieces.sum::<usize>()
}

/// What a compacted segment holds, from the first of its tables that is good.
pub(crate) async fn read_table(
    segments: &Segments,
    entry: &CompactedEntry,
) -> Result<Vec<KeptRecord>, CompactedError> {
    let file = segments.file(entry.id).await?;
    let length = (entry.size_bytes - entry.table) / 2;
    let mut last = CompactedError::Table { segment: entry.id, source: FormatError::Short };
    for copy in 0..2 {
        let bytes =
            Buffer::for_overwriting(usize::try_from(length).expect("checked by the manifest"));
        let bytes = match file.read_at(entry.table + copy * length, bytes).await {
            Ok(bytes) => bytes,
            // A file that is too short has lost its second table at least.
            Err(FileError::Ended { .. }) => continue,
            // A sector that cannot be read is what the second is for.
            Err(error) => {
                last = error.into();
                continue;
            }
        };
        let (segment, salt) = (entry.id, entry.salt);
        let units = u32::try_from(entry.table / UNIT).expect("at most 1 GiB");
        match offload(move || parse_table(&bytes, segment, salt, units)).await {
            Ok(records) => return Ok(records),
            // It may be that the other one can be read again some time.
            Err(_) if matches!(last, CompactedError::File(_)) => {}
            Err(source) => last = CompactedError::Table { segment, source },
        }
    }
    Err(last)
}
