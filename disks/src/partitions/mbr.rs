//! Master boot records, and the chains of extended ones.
//!
//! ```text
//!   446   four entries of 16 bytes: status, CHS, type, CHS, first sector, sectors        510   55 aa
//! ```
//!
//! Of an extended boot record (EBR) the first entries are a logical partition, counted from the EBR, and the next EBR, counted
//! from the start of the extended partition. There is no document that all follow; this is what Linux reads
//! (`block/partitions/msdos.c`).

use super::{Found, MAX_PARTITIONS, Scheme, Sectors};
use zerocopy::little_endian::U32;
use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

#[derive(FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawEntry {
    status: u8,
    first_chs: [u8; 3],
    kind: u8,
    last_chs: [u8; 3],
    start: U32,
    count: U32,
}

#[derive(FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawRecord {
    code: [u8; 446],
    entries: [RawEntry; 4],
    signature: [u8; 2],
}

// 1 + 3 + 1 + 3 + 4 + 4, and 446 + 4 * 16 + 2
const _: () = assert!(size_of::<RawEntry>() == 16);
const _: () = assert!(size_of::<RawRecord>() == 512);

const SIGNATURE: [u8; 2] = [0x55, 0xaa];

/// What an entry says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Entry {
    kind: u8,
    start: u64,
    count: u64,
}

impl Entry {
    fn is_extended(self) -> bool {
        matches!(self.kind, 0x05 | 0x0f | 0x85) && self.count > 0
    }

    /// It stands for a GPT.
    pub(super) fn is_protective(self) -> bool {
        self.kind == 0xee
    }

    fn is_used(self) -> bool {
        self.kind != 0 && self.count > 0
    }
}

/// The entries of a boot record; none if it is something else. A boot sector of a file system ends with the same signature, but
/// has text or code where entries have a status.
pub(super) fn parse(sector: &[u8]) -> Option<[Entry; 4]> {
    let (raw, _) = RawRecord::ref_from_prefix(sector).ok()?;
    let possible = |entry: &RawEntry| matches!(entry.status, 0 | 0x80);
    if raw.signature != SIGNATURE || !raw.entries.iter().all(possible) {
        return None;
    }
    let entry = |place: usize| {
        let RawEntry { kind, start, count, .. } = &raw.entries[place];
        Entry { kind: *kind, start: start.get().into(), count: count.get().into() }
    };
    Some([entry(0), entry(1), entry(2), entry(3)])
}

/// Walks along the chain of a boot record: tells which sector is wanted next, and takes it.
pub(super) struct Walk {
    sectors: Sectors,
    found: Found,
    /// The first sector of the extended partition, and of the EBR that is wanted.
    chain: Option<(u64, u64)>,
    /// EBRs that were taken: a chain that comes back to one of them ends.
    seen: Vec<u64>,
}

impl Walk {
    pub(super) fn new(record: &[Entry; 4], sectors: Sectors) -> Self {
        let mut found = Found::nothing(Scheme::Mbr);
        for (number, entry) in (1..).zip(record) {
            if entry.is_used() && !entry.is_extended() {
                found.add(number, sectors.range(entry.start..entry.start + entry.count), None);
            }
        }
        let extended = record.iter().find(|entry| entry.is_extended());
        let chain = extended.map(|entry| (entry.start, entry.start));
        Self { sectors, found, chain, seen: Vec::new() }
    }

    /// The sector that is to be taken next.
    pub(super) fn next(&self) -> Option<u64> {
        let (_, at) = self.chain?;
        (self.seen.len() < MAX_PARTITIONS && !self.seen.contains(&at)).then_some(at)
    }

    /// The sector that was wanted.
    pub(super) fn take(&mut self, sector: &[u8]) {
        let Some((base, at)) = self.chain.take() else { return };
        self.seen.push(at);
        let Some(record) = parse(sector) else { return };
        // The last two entries are of no use to anybody, and some programs leave anything there.
        for entry in &record[..2] {
            if entry.is_used() && !entry.is_extended() {
                let number = 5 + u32::try_from(self.seen.len() - 1).expect("few");
                let start = at + entry.start;
                self.found.add(number, self.sectors.range(start..start + entry.count), None);
                break;
            }
        }
        let next = record[..2].iter().find(|entry| entry.is_extended());
        self.chain = next.map(|entry| (base, base + entry.start));
    }

    pub(super) fn finish(self) -> Found {
        self.found
    }
}
