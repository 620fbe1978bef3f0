//! Partition tables of a disk that a guest wrote: bytes of anything, or a GPT that is sealed after it was bent.
//!
//! Oracle: whatever is found lies on the disk, is not empty, has a number above the one before it, and took a bounded number of
//! bounded reads. Primary partitions of an MBR are those that a second, shorter reading of its four entries gives.

#![no_main]

use arbitrary::Arbitrary;
use landfall_disks::faults::{Seed, run};
use landfall_disks::partitions::{Found, MAX_PARTITIONS, MAX_READS, MAX_TABLE_BYTES, Scheme, find};
use landfall_disks::{
    Buffer, ByteOffset, ByteRange, Disk, DiskError, Geometry, IoFuture, MappedRange,
};
use libfuzzer_sys::fuzz_target;
use std::sync::atomic::{AtomicUsize, Ordering};

const SECTOR: usize = 512;
/// Enough for both copies of a GPT of 128 entries, and for a chain.
const SECTORS: usize = 200;

#[derive(Arbitrary, Debug)]
struct Input {
    /// Sectors and what is in them from a byte on.
    writes: Vec<(u8, u16, Vec<u8>)>,
    /// The record ends as records do, and its entries have a status.
    is_record: bool,
    /// The first GPT header is one, and is sealed; its entries have as many bytes as it says.
    is_sealed: bool,
}

struct Memory {
    bytes: Vec<u8>,
    reads: AtomicUsize,
}

impl Disk for Memory {
    fn geometry(&self) -> Geometry {
        let size_bytes = self.bytes.len() as u64;
        Geometry { size_bytes, logical_sector: 512, physical_sector: 512, read_only: true }
    }

    fn read(&self, range: ByteRange) -> IoFuture<'_, Buffer> {
        assert!(range.length() <= MAX_TABLE_BYTES);
        assert!(self.reads.fetch_add(1, Ordering::Relaxed) < MAX_READS);
        let index = |at: ByteOffset| usize::try_from(at.bytes()).expect("small");
        let bytes = &self.bytes[index(range.start())..index(range.end())];
        Box::pin(std::future::ready(Ok(Buffer::copy_of(bytes))))
    }

    fn flush(&self) -> IoFuture<'_, ()> {
        Box::pin(std::future::ready(Ok(())))
    }

    fn map(&self, _range: ByteRange) -> IoFuture<'_, Vec<MappedRange>> {
        Box::pin(std::future::ready(Err(DiskError::ReadOnly)))
    }
}

fn crc(bytes: &[u8]) -> [u8; 4] {
    let mut crc = flate2::Crc::new();
    crc.update(bytes);
    crc.sum().to_le_bytes()
}

fn disk(input: &Input) -> Vec<u8> {
    let mut bytes = vec![0; SECTORS * SECTOR];
    for (sector, byte, data) in &input.writes {
        let at = usize::from(*sector) % SECTORS * SECTOR + usize::from(*byte) % SECTOR;
        let length = data.len().min(bytes.len() - at);
        bytes[at..at + length].copy_from_slice(&data[..length]);
    }
    if input.is_record {
        bytes[510..512].copy_from_slice(&[0x55, 0xaa]);
        for entry in 0..4 {
            bytes[446 + entry * 16] &= 0x80;
        }
    }
    if input.is_sealed {
        let length = |field: &[u8]| u32::from_le_bytes(field.try_into().expect("four bytes"));
        let (count, each) = (length(&bytes[592..596]), length(&bytes[596..600]));
        let first = u64::from_le_bytes(bytes[584..592].try_into().expect("eight bytes"));
        let table = usize::try_from(first).ok().and_then(|first| {
            let from = first.checked_mul(SECTOR)?;
            let table = u64::from(count) * u64::from(each);
            bytes.get(from..from.checked_add(usize::try_from(table).ok()?)?)
        });
        let sum = table.map(crc);
        let header = &mut bytes[SECTOR..SECTOR + 92];
        header[..8].copy_from_slice(b"EFI PART");
        header[12..16].copy_from_slice(&92_u32.to_le_bytes());
        header[24..32].copy_from_slice(&1_u64.to_le_bytes());
        if let Some(sum) = sum {
            header[88..92].copy_from_slice(&sum);
        }
        header[16..20].fill(0);
        let sum = crc(header);
        header[16..20].copy_from_slice(&sum);
    }
    bytes
}

/// The primary partitions of an MBR: number, first sector, sectors.
fn primary(record: &[u8]) -> Vec<(u32, u64, u64)> {
    let number = |field: &[u8]| u64::from(u32::from_le_bytes(field.try_into().expect("four")));
    (0..4_u32)
        .map(|entry| (entry + 1, &record[446 + entry as usize * 16..][..16]))
        .filter(|(_, entry)| !matches!(entry[4], 0 | 0x05 | 0x0f | 0x85))
        .map(|(place, entry)| (place, number(&entry[8..12]), number(&entry[12..16])))
        .filter(|(_, start, count)| *count > 0 && start + count <= SECTORS as u64)
        .collect()
}

fn check(found: &Found, bytes: &[u8]) {
    assert!(found.partitions.len() <= MAX_PARTITIONS);
    let numbers: Vec<u32> = found.partitions.iter().map(|one| one.number).collect();
    assert!(numbers.windows(2).all(|pair| pair[0] < pair[1]));
    for one in &found.partitions {
        assert!(!one.range.is_empty() && one.range.end().bytes() <= bytes.len() as u64);
        assert!(one.range.start().bytes().is_multiple_of(SECTOR as u64));
        assert!(one.name.is_none() || found.scheme == Scheme::Gpt);
    }
    if found.scheme == Scheme::Mbr {
        let sectors = |range: ByteRange| (range.start().bytes() / 512, range.length() / 512);
        let listed = found.partitions.iter().filter(|one| one.number <= 4);
        let listed: Vec<_> =
            listed.map(|one| (one.number, sectors(one.range).0, sectors(one.range).1)).collect();
        assert_eq!(listed, primary(bytes));
    }
}

fuzz_target!(|input: Input| {
    let bytes = disk(&input);
    let memory = Memory { bytes: bytes.clone(), reads: AtomicUsize::new(0) };
    run(&mut Seed::new(1), |_| async {
        let found = find(&memory).await.expect("a disk in memory does not fail");
        check(&found, &bytes);
    });
});
