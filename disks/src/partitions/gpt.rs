//! GUID partition tables: "UEFI Specification" 2.10, section 5.3.
//!
//! ```text
//!   header   0 "EFI PART"  8 revision  12 its bytes  16 CRC  24 where it is  32 where the other is  72 where the entries are
//!            80 how many  84 bytes of one  88 their CRC
//!   entry    0 type  16 id  32 first sector  40 last sector  48 attributes  56 name, UTF-16
//! ```

use super::{Found, MAX_TABLE_BYTES, Scheme, Sectors};
use crate::block::ByteRange;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

const SIGNATURE: [u8; 8] = *b"EFI PART";
const HEADER_BYTES: usize = 92;
const ENTRY_BYTES: u32 = 128;
const CRC: std::ops::Range<usize> = 16..20;

#[derive(FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawHeader {
    signature: [u8; 8],
    revision: U32,
    header_bytes: U32,
    header_crc: U32,
    reserved: U32,
    here: U64,
    other: U64,
    first_usable: U64,
    last_usable: U64,
    disk_id: [u8; 16],
    entries: U64,
    count: U32,
    entry_bytes: U32,
    entries_crc: U32,
}

#[derive(FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawEntry {
    kind: [u8; 16],
    id: [u8; 16],
    first: U64,
    last: U64,
    attributes: U64,
    name: [U16; 36],
}

// 8 + 4 * 4 + 4 * 8 + 16 + 8 + 3 * 4
const _: () = assert!(size_of::<RawHeader>() == HEADER_BYTES);
const _: () = assert!(std::mem::offset_of!(RawHeader, header_crc) == CRC.start);
// 16 + 16 + 3 * 8 + 72
const _: () = assert!(size_of::<RawEntry>() == ENTRY_BYTES as usize);

/// What a sound header says of the entries.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Header {
    first_sector: u64,
    count: u32,
    entry_bytes: u32,
    crc: u32,
}

impl Header {
    /// Reads the header that was found at sector `at`; none if there is none, or it is not sound.
    pub(super) fn parse(bytes: &[u8], at: u64, sectors: Sectors) -> Option<Self> {
        let (raw, _) = RawHeader::ref_from_prefix(bytes).ok()?;
        let length = usize::try_from(raw.header_bytes.get()).ok()?;
        if raw.signature != SIGNATURE || length < HEADER_BYTES || raw.here.get() != at {
            return None;
        }
        let mut sealed = bytes.get(..length)?.to_vec();
        sealed[CRC].fill(0);
        if crc(&sealed) != raw.header_crc.get() {
            return None;
        }
        // "128 x 2^n where n is an integer greater than or equal to zero"
        let entry_bytes = raw.entry_bytes.get();
        let possible = entry_bytes >= ENTRY_BYTES && entry_bytes.is_power_of_two();
        let header = Self {
            first_sector: raw.entries.get(),
            count: raw.count.get(),
            entry_bytes,
            crc: raw.entries_crc.get(),
        };
        (possible && header.bytes() <= MAX_TABLE_BYTES && header.entries(sectors).is_some())
            .then_some(header)
    }

    /// Bytes of all entries.
    fn bytes(&self) -> u64 {
        u64::from(self.count) * u64::from(self.entry_bytes)
    }

    /// Where the entries are, in whole sectors; none if that is not on the disk.
    pub(super) fn entries(&self, sectors: Sectors) -> Option<ByteRange> {
        let end = self.first_sector.checked_add(self.bytes().div_ceil(sectors.bytes))?;
        sectors.range(self.first_sector..end)
    }

    /// The partitions, if the entries are those that the header is for.
    pub(super) fn partitions(&self, entries: &[u8], sectors: Sectors) -> Option<Found> {
        let entries = entries.get(..usize::try_from(self.bytes()).ok()?)?;
        if crc(entries) != self.crc {
            return None;
        }
        let mut found = Found::nothing(Scheme::Gpt);
        let entry_bytes = usize::try_from(self.entry_bytes).ok()?;
        for (number, bytes) in (1..).zip(entries.chunks_exact(entry_bytes)) {
            let (raw, _) = RawEntry::ref_from_prefix(bytes).ok()?;
            if raw.kind == [0; 16] {
                continue;
            }
            let end = raw.last.get().checked_add(1);
            let range = end.and_then(|end| sectors.range(raw.first.get()..end));
            found.add(number, range, name(&raw.name));
        }
        Some(found)
    }
}

fn name(units: &[U16]) -> Option<String> {
    let units: Vec<u16> =
        units.iter().map(|unit| unit.get()).take_while(|unit| *unit != 0).collect();
    let name: String = String::from_utf16_lossy(&units);
    // It is shown on terminals.
    let name: String = name.chars().filter(|one| !one.is_control()).collect();
    (!name.is_empty()).then_some(name)
}

/// CRC-32 as of Ethernet ("CCITT32 ANSI CRC").
pub(super) fn crc(bytes: &[u8]) -> u32 {
    let mut crc = flate2::Crc::new();
    crc.update(bytes);
    crc.sum()
}
