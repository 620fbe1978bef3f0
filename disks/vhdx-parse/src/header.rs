//! The two headers (section 2.2.2): where the log is, and which state of the file is the current
//! one.
//!
//! ```text
//!   64 KiB   header 1  sequence 6            an update writes the one that is not current, with
//! the
//!   128 KiB  header 2  sequence 7 ◀ current  next sequence number, and flushes: one of them is
//! always whole
//! ```

use crate::error::{At, Malformed, seal};
use crate::{Guid, MIB};
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Bytes of a header.
pub const HEADER_BYTES: usize = 4096;

/// Where the first header lies.
pub const HEADER_1_OFFSET: u64 = 64 << 10;

/// Where the second header lies.
pub const HEADER_2_OFFSET: u64 = 128 << 10;

/// Longest log that is accepted, in bytes. The specification has no limit; 1 MiB is what everybody
/// writes.
pub const MAX_LOG_BYTES: u32 = 256 << 20;

const SIGNATURE: &[u8; 4] = b"head";
const STRUCTURE: &str = "VHDX header";

/// Byte for byte; the rest of the 4096 bytes is reserved.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Stored {
    signature: [u8; 4],
    checksum: U32,
    sequence_number: U64,
    file_write_guid: [u8; 16],
    data_write_guid: [u8; 16],
    log_guid: [u8; 16],
    log_version: U16,
    version: U16,
    log_length: U32,
    log_offset: U64,
}

// 4 + 4 + 8 + 3 * 16 + 2 + 2 + 4 + 8
const _: () = assert!(size_of::<Stored>() == 80);

/// What a header says.
///
/// ```
/// use vhdx_parse::{Guid, HEADER_1_OFFSET, Header};
///
/// let header = Header {
///     sequence_number: 7,
///     file_write_guid: Guid::from_random([1; 16]),
///     data_write_guid: Guid::from_random([2; 16]),
///     log_guid: Guid::ZERO,
///     log_offset: 1 << 20,
///     log_length: 1 << 20,
/// };
/// assert_eq!(Header::parse(&header.encode(), HEADER_1_OFFSET).unwrap(), header);
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    /// Grows by one per update of either header.
    pub sequence_number: u64,
    /// Changed before the first change of anything in the file after it was opened.
    pub file_write_guid: Guid,
    /// Changed before the first change of what a guest can see. A differencing file names its
    /// parent by it.
    pub data_write_guid: Guid,
    /// Which log entries are valid; zero when there are none to be replayed.
    pub log_guid: Guid,
    /// Where the log lies, in bytes.
    pub log_offset: u64,
    /// Bytes of the log.
    pub log_length: u32,
}

impl Header {
    /// Reads the header that was found at `offset`, and checks every rule.
    pub fn parse(bytes: &[u8], offset: u64) -> Result<Self, Malformed> {
        let stored = sealed(bytes, offset)?;
        let at = At::new(STRUCTURE, offset);
        let version = stored.version.get();
        at.expect(version == 1, "Version", version, "1")?;
        let log_guid = Guid::from_stored(stored.log_guid);
        let log_version = stored.log_version.get();
        // An empty log of any version is as good as none.
        let usable = log_version == 0 || log_guid.is_zero();
        at.expect(usable, "LogVersion", log_version, "0, as the log is not empty")?;
        let (log_offset, log_length) = (stored.log_offset.get(), stored.log_length.get());
        let whole = log_length > 0 && u64::from(log_length).is_multiple_of(MIB);
        at.expect(whole, "LogLength", log_length, "a multiple of 1 MiB, and not 0")?;
        at.expect(
            log_length <= MAX_LOG_BYTES,
            "LogLength",
            log_length,
            "at most 256 MiB, the limit of this implementation",
        )?;
        let aligned = log_offset >= MIB && log_offset.is_multiple_of(MIB);
        at.expect(aligned, "LogOffset", log_offset, "a multiple of 1 MiB, and not 0")?;
        at.expect(
            log_offset
                .checked_add(log_length.into())
                .is_some_and(|end| end <= crate::MAX_FILE_BYTES),
            "LogOffset",
            log_offset,
            "a place within the largest file",
        )?;
        Ok(Self {
            sequence_number: stored.sequence_number.get(),
            file_write_guid: Guid::from_stored(stored.file_write_guid),
            data_write_guid: Guid::from_stored(stored.data_write_guid),
            log_guid,
            log_offset,
            log_length,
        })
    }

    /// The bytes to store, sealed by their checksum.
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let stored = Stored {
            signature: *SIGNATURE,
            checksum: 0.into(),
            sequence_number: self.sequence_number.into(),
            file_write_guid: *self.file_write_guid.stored(),
            data_write_guid: *self.data_write_guid.stored(),
            log_guid: *self.log_guid.stored(),
            log_version: 0.into(),
            version: 1.into(),
            log_length: self.log_length.into(),
            log_offset: self.log_offset.into(),
        };
        let mut bytes = [0; HEADER_BYTES];
        bytes[..size_of::<Stored>()].copy_from_slice(stored.as_bytes());
        seal(&mut bytes);
        bytes
    }
}

/// Signature and checksum: what makes a header "valid" in the words of the specification.
fn sealed(bytes: &[u8], offset: u64) -> Result<Stored, Malformed> {
    let at = At::new(STRUCTURE, offset);
    at.signature(bytes, SIGNATURE)?;
    let bytes = at.take(bytes, HEADER_BYTES)?;
    at.checksum(bytes)?;
    let (stored, _) = Stored::read_from_prefix(bytes).expect("a header is longer");
    Ok(stored)
}

/// One of the two places of a header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HeaderSlot {
    /// At 64 KiB.
    First,
    /// At 128 KiB.
    Second,
}

impl HeaderSlot {
    /// Where it lies in the file.
    pub const fn offset(self) -> u64 {
        match self {
            Self::First => HEADER_1_OFFSET,
            Self::Second => HEADER_2_OFFSET,
        }
    }

    /// Where the next update goes when this one is current.
    pub const fn other(self) -> Self {
        match self {
            Self::First => Self::Second,
            Self::Second => Self::First,
        }
    }
}

/// The current header, and where it was found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CurrentHeader {
    /// What it says.
    pub header: Header,
    /// Which of the two it is.
    pub slot: HeaderSlot,
}

impl CurrentHeader {
    /// Chooses between the two: the only valid one, or the one with the higher sequence number.
    ///
    /// Two valid headers with one number are accepted if they are the same, byte for byte: some
    /// tools write that, though by
    /// the specification neither would be current.
    pub fn choose(first: &[u8], second: &[u8]) -> Result<Self, Malformed> {
        let one = sealed(first, HEADER_1_OFFSET);
        let two = sealed(second, HEADER_2_OFFSET);
        let slot = match (&one, &two) {
            (Err(problem), Err(_)) => return Err(problem.clone()),
            (Ok(_), Err(_)) => HeaderSlot::First,
            (Err(_), Ok(_)) => HeaderSlot::Second,
            (Ok(one), Ok(two)) => {
                let (one, two) = (one.sequence_number.get(), two.sequence_number.get());
                let same = first[..HEADER_BYTES] == second[..HEADER_BYTES];
                At::new(STRUCTURE, HEADER_2_OFFSET).expect(
                    one != two || same,
                    "SequenceNumber",
                    two,
                    "another one than that of the first header, or the same header",
                )?;
                if one >= two { HeaderSlot::First } else { HeaderSlot::Second }
            }
        };
        let bytes = if slot == HeaderSlot::First { first } else { second };
        Ok(Self { header: Header::parse(bytes, slot.offset())?, slot })
    }

    /// The state after an update to `header`, whose sequence number is set: its bytes go to the
    /// slot of the result.
    #[must_use]
    pub fn updated(&self, header: Header) -> Self {
        let sequence_number = self.header.sequence_number.wrapping_add(1);
        Self { header: Header { sequence_number, ..header }, slot: self.slot.other() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn header(sequence_number: u64) -> Header {
        Header {
            sequence_number,
            file_write_guid: Guid::from_random([1; 16]),
            data_write_guid: Guid::from_random([2; 16]),
            log_guid: Guid::ZERO,
            log_offset: MIB,
            log_length: 1 << 20,
        }
    }

    proptest! {
        #[test]
        fn round_trip(
            sequence_number: u64,
            guids: [[u8; 16]; 3],
            log_offset in 1u64..1 << 20,
            log_length in 1u32..=256,
        ) {
            let [file, data, log] = guids.map(Guid::from_stored);
            let header = Header {
                sequence_number,
                file_write_guid: file,
                data_write_guid: data,
                log_guid: log,
                log_offset: log_offset * MIB,
                log_length: log_length << 20,
            };
            prop_assert_eq!(Header::parse(&header.encode(), HEADER_1_OFFSET), Ok(header));
        }

        #[test]
        fn a_flipped_bit_is_seen(byte in 0..HEADER_BYTES, bit in 0..8) {
            let mut bytes = header(1).encode();
            bytes[byte] ^= 1u8 << bit;
            prop_assert!(Header::parse(&bytes, HEADER_1_OFFSET).is_err());
        }

        #[test]
        fn any_fields_behind_a_seal(fields: Vec<u8>) {
            let mut bytes = header(1).encode();
            let length = fields.len().min(72);
            bytes[8..8 + length].copy_from_slice(&fields[..length]);
            seal(&mut bytes);
            let _ = Header::parse(&bytes, HEADER_1_OFFSET);
        }
    }

    #[test]
    fn the_one_that_is_whole_and_newer_is_current() {
        let (one, two, none) = (header(1).encode(), header(2).encode(), [0; HEADER_BYTES]);
        let choose = |first: &[u8], second: &[u8]| {
            CurrentHeader::choose(first, second)
                .map(|found| (found.header.sequence_number, found.slot))
        };
        assert_eq!(choose(&one, &two), Ok((2, HeaderSlot::Second)));
        assert_eq!(choose(&two, &one), Ok((2, HeaderSlot::First)));
        assert_eq!(choose(&one, &none), Ok((1, HeaderSlot::First)));
        assert_eq!(choose(&none, &one), Ok((1, HeaderSlot::Second)));
        assert_eq!(choose(&two, &two), Ok((2, HeaderSlot::First)));
        assert_eq!(choose(&none, &none).expect_err("none").field, "Signature");
        let mut other = header(2);
        other.data_write_guid = Guid::ZERO;
        let problem = choose(&two, &other.encode()).expect_err("which of them?");
        assert_eq!((problem.field, problem.offset), ("SequenceNumber", HEADER_2_OFFSET));
    }

    #[test]
    fn a_newer_version_is_no_reason_to_use_the_older_header() {
        let mut newer = header(2).encode();
        newer[66] = 2;
        seal(&mut newer);
        let problem = CurrentHeader::choose(&header(1).encode(), &newer).expect_err("version 2");
        assert_eq!((problem.field, problem.value.as_str()), ("Version", "2"));
    }

    #[test]
    fn an_update_goes_to_the_other_slot() {
        let current = CurrentHeader { header: header(5), slot: HeaderSlot::First };
        let next = current.updated(header(0));
        assert_eq!((next.header.sequence_number, next.slot), (6, HeaderSlot::Second));
    }
}
