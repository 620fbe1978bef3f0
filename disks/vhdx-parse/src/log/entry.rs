//! One entry of the log (section 2.3.1): its header, what it changes, and the bytes.

use crate::error::{At, Malformed, checksum, seal};
use crate::{Guid, MAX_FILE_BYTES};
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Unit of the log, and of what it changes, in bytes.
pub const LOG_SECTOR_BYTES: usize = 4096;

const SECTOR: u64 = 4096;

/// Descriptors that fit the sector of the entry header.
pub const DESCRIPTORS_IN_FIRST_SECTOR: usize = 126;

const DESCRIPTORS_PER_SECTOR: usize = 128;

/// Bytes of a sector that its data sector holds; the first eight and the last four are in the
/// descriptor.
const BODY: std::ops::Range<usize> = 8..4092;

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct StoredHeader {
    signature: [u8; 4],
    checksum: U32,
    entry_length: U32,
    tail: U32,
    sequence_number: U64,
    descriptor_count: U32,
    reserved: U32,
    log_guid: [u8; 16],
    flushed_file_offset: U64,
    last_file_offset: U64,
}

/// A data descriptor, and with other words a zero descriptor: `ZeroLength` stands where
/// `LeadingBytes` does.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct StoredDescriptor {
    signature: [u8; 4],
    trailing_bytes: [u8; 4],
    leading_bytes: [u8; 8],
    file_offset: U64,
    sequence_number: U64,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct StoredSector {
    signature: [u8; 4],
    sequence_high: U32,
    data: [u8; 4084],
    sequence_low: U32,
}

// 4 * 4 + 8 + 2 * 4 + 16 + 2 * 8
const _: () = assert!(size_of::<StoredHeader>() == 64);
// 2 * 4 + 3 * 8
const _: () = assert!(size_of::<StoredDescriptor>() == 32);
// 2 * 4 + 4084 + 4
const _: () = assert!(size_of::<StoredSector>() == LOG_SECTOR_BYTES);
const _: () = assert!(64 + 32 * DESCRIPTORS_IN_FIRST_SECTOR == LOG_SECTOR_BYTES);

/// What the header of an entry says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LogEntryHeader {
    /// Bytes of the entry: whole sectors.
    pub entry_length: u32,
    /// Where in the log the oldest entry lies that is to be replayed if this is the newest.
    pub tail: u32,
    /// One more than that of the entry before.
    pub sequence_number: u64,
    /// Which log the entry belongs to; entries of another are void.
    pub log_guid: Guid,
    /// The file was at least this long, durably, when the entry was written: if it is shorter now,
    /// it was cut.
    pub flushed_file_offset: u64,
    /// All that is in use of the file ends here or before.
    pub last_file_offset: u64,
}

/// A change of the file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum LogChange {
    /// The sector at `offset` becomes `bytes`.
    Data {
        /// A multiple of 4 KiB.
        offset: u64,
        /// All of the sector.
        bytes: Box<[u8; LOG_SECTOR_BYTES]>,
    },
    /// `length` bytes at `offset` become zeroes.
    Zero {
        /// A multiple of 4 KiB.
        offset: u64,
        /// A multiple of 4 KiB.
        length: u64,
    },
}

impl LogChange {
    /// The bytes of the file it is about: offset and length.
    pub fn range(&self) -> (u64, u64) {
        match self {
            Self::Data { offset, .. } => (*offset, SECTOR),
            Self::Zero { offset, length } => (*offset, *length),
        }
    }
}

/// A whole entry.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LogEntry {
    /// What the header says.
    pub header: LogEntryHeader,
    /// What it changes, in order.
    pub changes: Vec<LogChange>,
}

/// Sectors that the header and `descriptors` take.
fn descriptor_sectors(descriptors: usize) -> usize {
    1 + descriptors.saturating_sub(DESCRIPTORS_IN_FIRST_SECTOR).div_ceil(DESCRIPTORS_PER_SECTOR)
}

/// Reads the header of an entry of at most `limit` bytes, without looking at anything behind it.
///
/// `offset` is where it lies in the file, for messages.
pub(super) fn parse_header(
    bytes: &[u8],
    offset: u64,
    limit: u32,
) -> Result<(LogEntryHeader, u32), Malformed> {
    let at = At::new("VHDX log entry", offset);
    at.signature(bytes, b"loge")?;
    let bytes = at.take(bytes, size_of::<StoredHeader>())?;
    let stored = StoredHeader::read_from_bytes(bytes).expect("cut to its size");
    let (length, tail) = (stored.entry_length.get(), stored.tail.get());
    let whole = length > 0 && u64::from(length).is_multiple_of(SECTOR) && length <= limit;
    at.expect(whole, "EntryLength", length, format!("a multiple of 4096 up to {limit}"))?;
    let inside = u64::from(tail).is_multiple_of(SECTOR) && tail < limit;
    at.expect(inside, "Tail", tail, format!("a multiple of 4096 below {limit}"))?;
    let sequence_number = stored.sequence_number.get();
    at.expect(sequence_number > 0, "SequenceNumber", sequence_number, "at least 1")?;
    let count = stored.descriptor_count.get();
    let sectors = usize::try_from(length).expect("at most the log") / LOG_SECTOR_BYTES;
    let fits = usize::try_from(count).is_ok_and(|count| {
        // No sum of these overflows: descriptors are bounded by the sectors they take.
        count <= sectors * DESCRIPTORS_PER_SECTOR && descriptor_sectors(count) <= sectors
    });
    at.expect(fits, "DescriptorCount", count, format!("as many as fit {length} bytes"))?;
    let header = LogEntryHeader {
        entry_length: length,
        tail,
        sequence_number,
        log_guid: Guid::from_stored(stored.log_guid),
        flushed_file_offset: stored.flushed_file_offset.get(),
        last_file_offset: stored.last_file_offset.get(),
    };
    Ok((header, count))
}

impl LogEntry {
    /// Reads a whole entry: `bytes` has exactly its length. `limit` is the length of the log,
    /// `offset` where the entry lies in the file.
    ///
    /// Everything is checked: what was torn or is partly of an older entry is refused.
    pub fn parse(bytes: &[u8], offset: u64, limit: u32) -> Result<Self, Malformed> {
        let at = At::new("VHDX log entry", offset);
        let (header, count) = parse_header(bytes, offset, limit)?;
        let length = usize::try_from(header.entry_length).expect("at most the log");
        let bytes = at.take(bytes, length)?;
        at.checksum(bytes)?;
        let count = usize::try_from(count).expect("as many as fit");
        let (head, mut sectors) = bytes.split_at(descriptor_sectors(count) * LOG_SECTOR_BYTES);
        let mut changes = Vec::new();
        let descriptors = head[size_of::<StoredHeader>()..].chunks_exact(32).take(count);
        for (number, descriptor) in (0u64..).zip(descriptors) {
            let at = At::new("VHDX log descriptor", offset + 64 + number * 32);
            changes.push(parse_descriptor(at, descriptor, &mut sectors, header.sequence_number)?);
        }
        at.expect(
            sectors.is_empty(),
            "EntryLength",
            header.entry_length,
            format!("{} bytes less: as many data sectors as data descriptors", sectors.len()),
        )?;
        Ok(Self { header, changes })
    }

    /// Bytes that an entry of these changes takes in the log.
    pub fn encoded_length(changes: &[LogChange]) -> usize {
        let data = changes.iter().filter(|change| matches!(change, LogChange::Data { .. })).count();
        (descriptor_sectors(changes.len()) + data) * LOG_SECTOR_BYTES
    }

    /// The bytes of the entry, sealed by their checksum. The length in the header is set to what
    /// they have.
    ///
    /// # Panics
    ///
    /// If a change is not aligned to 4 KiB, or there are more than fit an entry.
    pub fn encode(&self) -> Vec<u8> {
        let header = &self.header;
        let length = Self::encoded_length(&self.changes);
        let stored = StoredHeader {
            signature: *b"loge",
            checksum: 0.into(),
            entry_length: u32::try_from(length).expect("an entry fits a log").into(),
            tail: header.tail.into(),
            sequence_number: header.sequence_number.into(),
            descriptor_count: u32::try_from(self.changes.len()).expect("few").into(),
            reserved: 0.into(),
            log_guid: *header.log_guid.stored(),
            flushed_file_offset: header.flushed_file_offset.into(),
            last_file_offset: header.last_file_offset.into(),
        };
        let mut bytes = Vec::with_capacity(length);
        bytes.extend_from_slice(stored.as_bytes());
        for change in &self.changes {
            bytes.extend_from_slice(descriptor(change, header.sequence_number).as_bytes());
        }
        bytes.resize(descriptor_sectors(self.changes.len()) * LOG_SECTOR_BYTES, 0);
        for change in &self.changes {
            if let LogChange::Data { bytes: data, .. } = change {
                bytes.extend_from_slice(data_sector(data, header.sequence_number).as_bytes());
            }
        }
        seal(&mut bytes);
        debug_assert_eq!(checksum(&bytes).to_le_bytes(), bytes[4..8]);
        bytes
    }
}

fn descriptor(change: &LogChange, sequence_number: u64) -> StoredDescriptor {
    let (offset, length) = change.range();
    assert!(offset.is_multiple_of(SECTOR) && length.is_multiple_of(SECTOR), "{offset}, {length}");
    let (signature, trailing_bytes, leading_bytes) = match change {
        LogChange::Data { bytes, .. } => (
            *b"desc",
            bytes[BODY.end..].try_into().expect("four bytes"),
            bytes[..BODY.start].try_into().expect("eight bytes"),
        ),
        LogChange::Zero { length, .. } => (*b"zero", [0; 4], length.to_le_bytes()),
    };
    StoredDescriptor {
        signature,
        trailing_bytes,
        leading_bytes,
        file_offset: offset.into(),
        sequence_number: sequence_number.into(),
    }
}

fn data_sector(bytes: &[u8; LOG_SECTOR_BYTES], sequence_number: u64) -> StoredSector {
    let half = |number: u64| u32::try_from(number & 0xffff_ffff).expect("masked").into();
    StoredSector {
        signature: *b"data",
        sequence_high: half(sequence_number >> 32),
        data: bytes[BODY].try_into().expect("that many bytes"),
        sequence_low: half(sequence_number),
    }
}

fn parse_descriptor(
    at: At,
    bytes: &[u8],
    sectors: &mut &[u8],
    sequence_number: u64,
) -> Result<LogChange, Malformed> {
    let stored = StoredDescriptor::read_from_bytes(bytes).expect("cut to its size");
    let found = stored.sequence_number.get();
    at.expect(found == sequence_number, "SequenceNumber", found, sequence_number.to_string())?;
    let offset = stored.file_offset.get();
    let inside = |length: u64| offset.checked_add(length).is_some_and(|end| end <= MAX_FILE_BYTES);
    let aligned = offset.is_multiple_of(SECTOR) && inside(SECTOR);
    at.expect(aligned, "FileOffset", offset, "a multiple of 4096 within the largest file")?;
    match &stored.signature {
        b"zero" => {
            let length = u64::from_le_bytes(stored.leading_bytes);
            let whole = length.is_multiple_of(SECTOR) && inside(length);
            at.expect(whole, "ZeroLength", length, "a multiple of 4096 within the largest file")?;
            Ok(LogChange::Zero { offset, length })
        }
        b"desc" => {
            let Some((sector, rest)) = sectors.split_at_checked(LOG_SECTOR_BYTES) else {
                return Err(at.malformed("data sector", "absent", "one for every data descriptor"));
            };
            *sectors = rest;
            let sector = StoredSector::ref_from_bytes(sector).expect("cut to its size");
            let found =
                u64::from(sector.sequence_high.get()) << 32 | u64::from(sector.sequence_low.get());
            at.signature(&sector.signature, b"data")?;
            at.expect(found == sequence_number, "data sector", found, sequence_number.to_string())?;
            let mut bytes = Box::new([0; LOG_SECTOR_BYTES]);
            bytes[..BODY.start].copy_from_slice(&stored.leading_bytes);
            bytes[BODY].copy_from_slice(&sector.data);
            bytes[BODY.end..].copy_from_slice(&stored.trailing_bytes);
            Ok(LogChange::Data { offset, bytes })
        }
        _ => Err(at.signature(&stored.signature, b"desc").expect_err("it is neither")),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;

    pub(crate) fn changes(most: usize) -> impl Strategy<Value = Vec<LogChange>> {
        let change = prop_oneof![
            (0u64..64, any::<u64>()).prop_map(|(sector, fill)| {
                let mut bytes = Box::new([0; LOG_SECTOR_BYTES]);
                for (place, piece) in (0u64..).zip(bytes.chunks_exact_mut(8)) {
                    piece.copy_from_slice(&fill.wrapping_mul(place + 1).to_le_bytes());
                }
                LogChange::Data { offset: (1 << 20) + sector * SECTOR, bytes }
            }),
            (0u64..64, 0u64..20).prop_map(|(sector, length)| LogChange::Zero {
                offset: (1 << 20) + sector * SECTOR,
                length: length * SECTOR
            }),
        ];
        proptest::collection::vec(change, 0..most)
    }

    pub(crate) fn entry(sequence_number: u64, tail: u32, changes: Vec<LogChange>) -> LogEntry {
        let header = LogEntryHeader {
            entry_length: u32::try_from(LogEntry::encoded_length(&changes)).expect("short"),
            tail,
            sequence_number,
            log_guid: Guid::from_random([7; 16]),
            flushed_file_offset: 4 << 20,
            last_file_offset: 5 << 20,
        };
        LogEntry { header, changes }
    }

    const LIMIT: u32 = 1 << 20;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn round_trip(sequence in 1u64.., changes in changes(200)) {
            let entry = entry(sequence, 0, changes);
            prop_assert_eq!(LogEntry::parse(&entry.encode(), 0, LIMIT), Ok(entry));
        }

        #[test]
        fn a_torn_entry_is_none(changes in changes(20), sector: usize, older: bool) {
            let bytes = entry(9, 0, changes.clone()).encode();
            // One sector is not there, or that of an earlier entry of the same shape.
            let before = if older { entry(8, 0, changes).encode() } else { vec![0; bytes.len()] };
            let sector = sector % (bytes.len() / 512) * 512;
            let mut torn = bytes.clone();
            torn[sector..sector + 512].copy_from_slice(&before[sector..sector + 512]);
            // An entry may differ from the other in one sector only; then one of the two is there, and whole.
            let whole = torn == bytes || torn == before;
            prop_assert!(whole || LogEntry::parse(&torn, 0, LIMIT).is_err());
        }

        #[test]
        fn any_bytes_behind_a_seal(changes in changes(5), edits in proptest::collection::vec((0usize..300, any::<u8>()), 0..8)) {
            let mut bytes = entry(9, 0, changes).encode();
            for (place, byte) in edits {
                bytes[place] = byte;
            }
            seal(&mut bytes);
            let _ = LogEntry::parse(&bytes, 0, LIMIT);
        }
    }

    #[test]
    fn descriptors_of_many_sectors() {
        for count in [0, 126, 127, 126 + 128, 126 + 129] {
            let zero = LogChange::Zero { offset: 1 << 20, length: SECTOR };
            let entry = entry(1, 0, vec![zero; count]);
            let expected = 1 + count.saturating_sub(126).div_ceil(128);
            assert_eq!(entry.encode().len(), expected * LOG_SECTOR_BYTES);
            assert_eq!(LogEntry::parse(&entry.encode(), 0, LIMIT), Ok(entry));
        }
    }

    #[test]
    fn counts_are_checked_before_anything_is_allocated() {
        let mut bytes = entry(1, 0, Vec::new()).encode();
        bytes[24..28].copy_from_slice(&u32::MAX.to_le_bytes());
        seal(&mut bytes);
        let problem = LogEntry::parse(&bytes, 77, LIMIT).expect_err("too many");
        assert_eq!((problem.field, problem.offset), ("DescriptorCount", 77));
    }
}
