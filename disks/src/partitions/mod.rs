//! The partitions of a disk, as its MBR or GPT has them.
//!
//! ```text
//!   MBR at 0 ─┬─ 0xee ─▶ GPT header ─▶ entries          the copy at the end of the disk if the first is not sound
//!             └─ extended ─▶ EBR ─▶ EBR ─▶ …            logical partitions, from number 5 on
//! ```
//!
//! Numbers are those that Linux gives. What is read was written by a guest: tables are checked before they are believed, and
//! only partitions that lie on the disk whole are told; of the others it is counted how many there are.
//!
//! The crates `gpt` 4.1 and `mbrman` 0.6 were looked at: they panic on, or allocate and read as much as, what a table says.
//!
//! **Invariant:** whatever a disk holds, at most [`MAX_READS`] reads of at most [`MAX_TABLE_BYTES`] are made of it.

mod gpt;
mod mbr;
#[cfg(test)]
mod tests;

use crate::block::{ByteOffset, ByteRange};
use crate::disk::{Disk, DiskError};
use crate::uring::buffer::Buffer;
use std::ops::Range;

/// Most partitions that are told. Linux has as many for most devices, or fewer.
pub const MAX_PARTITIONS: usize = 256;

/// Most bytes of the entries of a GPT; 16 KiB are usual.
pub const MAX_TABLE_BYTES: u64 = 1 << 20;

/// Most reads of a disk: the MBR, and an EBR for each partition; or header and entries of the two copies for two sizes of
/// sectors.
pub const MAX_READS: usize = 1 + MAX_PARTITIONS + 8;

/// Sectors of disks with an MBR, and of almost all with a GPT.
const SECTOR: u64 = 512;
/// What else a GPT may count in.
const LARGE_SECTOR: u64 = 4096;

/// A partition.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Partition {
    /// Its number, from 1 on.
    pub number: u32,
    /// Its part of the disk; not empty.
    pub range: ByteRange,
    /// What somebody called it; of a GPT only.
    pub name: Option<String>,
}

/// Which table there is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Scheme {
    /// None that is known.
    None,
    /// A master boot record.
    Mbr,
    /// A GUID partition table.
    Gpt,
    /// The master boot record says that there is one, and neither of its copies is sound.
    BadGpt,
}

/// What was found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Found {
    /// In which table.
    pub scheme: Scheme,
    /// In the order of their numbers.
    pub partitions: Vec<Partition>,
    /// How many there are that do not lie on the disk, or are too many.
    pub left_out: usize,
}

/// Sectors of a disk, as a table counts them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Sectors {
    pub(crate) bytes: u64,
    pub(crate) count: u64,
}

impl Sectors {
    fn of(disk: &dyn Disk, bytes: u64) -> Self {
        Self { bytes, count: disk.geometry().size_bytes / bytes }
    }

    /// The bytes of some sectors, if there are such on the disk.
    pub(crate) fn range(self, sectors: Range<u64>) -> Option<ByteRange> {
        let Range { start, end } = sectors;
        if start >= end || end > self.count {
            return None;
        }
        ByteRange::new(ByteOffset::new(start * self.bytes), ByteOffset::new(end * self.bytes))
    }
}

impl Found {
    fn nothing(scheme: Scheme) -> Self {
        Self { scheme, partitions: Vec::new(), left_out: 0 }
    }

    /// Takes a partition in, if it lies on the disk.
    fn add(&mut self, number: u32, range: Option<ByteRange>, name: Option<String>) {
        match range {
            Some(range) if self.partitions.len() < MAX_PARTITIONS => {
                self.partitions.push(Partition { number, range, name });
            }
            _ => self.left_out += 1,
        }
    }
}

/// Finds the partitions of a disk. It fails if the disk does.
pub async fn find(disk: &dyn Disk) -> Result<Found, DiskError> {
    let sectors = Sectors::of(disk, SECTOR);
    let Some(first) = read(disk, sectors.range(0..1)).await? else {
        return Ok(Found::nothing(Scheme::None));
    };
    let Some(record) = mbr::parse(&first) else { return Ok(Found::nothing(Scheme::None)) };
    if record.iter().any(|entry| entry.is_protective()) {
        return find_gpt(disk).await;
    }
    let mut walk = mbr::Walk::new(&record, sectors);
    while let Some(sector) = walk.next() {
        // A chain that leads off the disk ends there.
        let Some(bytes) = read(disk, sectors.range(sector..sector + 1)).await? else { break };
        walk.take(&bytes);
    }
    Ok(walk.finish())
}

async fn find_gpt(disk: &dyn Disk) -> Result<Found, DiskError> {
    for sectors in [SECTOR, LARGE_SECTOR].map(|bytes| Sectors::of(disk, bytes)) {
        for at in [1, sectors.count.saturating_sub(1)] {
            let Some(header) = read(disk, sectors.range(at..at.saturating_add(1))).await? else {
                continue;
            };
            let Some(header) = gpt::Header::parse(&header, at, sectors) else { continue };
            let Some(entries) = read(disk, header.entries(sectors)).await? else { continue };
            if let Some(found) = header.partitions(&entries, sectors) {
                return Ok(found);
            }
        }
    }
    Ok(Found::nothing(Scheme::BadGpt))
}

async fn read(disk: &dyn Disk, range: Option<ByteRange>) -> Result<Option<Buffer>, DiskError> {
    match range {
        Some(range) => disk.read(range).await.map(Some),
        None => Ok(None),
    }
}
