//! Tables as other programs make them, bent in every way, and none at all.

use super::{Found, MAX_PARTITIONS, MAX_READS, MAX_TABLE_BYTES, Partition, Scheme, find, gpt};
use crate::disk::{Disk, DiskError, IoFuture, MappedRange};
use crate::faults::{Seed, run};
use crate::{Buffer, ByteOffset, ByteRange, Geometry};
use proptest::prelude::*;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A disk in memory that counts what is read of it.
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
        assert!(range.length() <= MAX_TABLE_BYTES, "{range} at once");
        assert!(self.reads.fetch_add(1, Ordering::Relaxed) < MAX_READS, "too many reads");
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

fn look(bytes: Vec<u8>) -> Found {
    let size = bytes.len() as u64;
    let disk = Memory { bytes, reads: AtomicUsize::new(0) };
    let mut found = None;
    run(&mut Seed::new(1), |_| async {
        found = Some(find(&disk).await.expect("it does not fail"))
    });
    let found = found.expect("it ran");
    assert!(found.partitions.len() <= MAX_PARTITIONS);
    let numbers: Vec<u32> = found.partitions.iter().map(|one| one.number).collect();
    assert!(numbers.windows(2).all(|pair| pair[0] < pair[1]), "{numbers:?}");
    for Partition { range, .. } in &found.partitions {
        assert!(!range.is_empty() && range.end().bytes() <= size, "{range}");
    }
    found
}

/// Numbers, first sectors and sectors.
fn listed(found: &Found) -> Vec<(u32, u64, u64)> {
    let one =
        |one: &Partition| (one.number, one.range.start().bytes() / 512, one.range.length() / 512);
    found.partitions.iter().map(one).collect()
}

fn entry(sector: &mut [u8], place: usize, kind: u8, start: u32, count: u32) {
    let at = 446 + place * 16;
    sector[at + 4] = kind;
    sector[at + 8..at + 12].copy_from_slice(&start.to_le_bytes());
    sector[at + 12..at + 16].copy_from_slice(&count.to_le_bytes());
    sector[510..512].copy_from_slice(&[0x55, 0xaa]);
}

fn at(bytes: &mut [u8], sector: usize) -> &mut [u8] {
    &mut bytes[sector * 512..][..512]
}

/// Two primary partitions, and three logical ones in an extended one.
fn mbr() -> Vec<u8> {
    let mut bytes = vec![0; 1000 * 512];
    entry(at(&mut bytes, 0), 0, 0x83, 8, 92);
    entry(at(&mut bytes, 0), 1, 0x0f, 100, 500);
    entry(at(&mut bytes, 0), 3, 0x07, 600, 400);
    entry(at(&mut bytes, 100), 0, 0x83, 8, 92);
    entry(at(&mut bytes, 100), 1, 0x05, 200, 100);
    entry(at(&mut bytes, 300), 0, 0x82, 2, 98);
    entry(at(&mut bytes, 300), 1, 0x05, 400, 100);
    entry(at(&mut bytes, 500), 0, 0x83, 1, 50);
    bytes
}

#[test]
fn an_mbr_has_primary_and_logical_partitions() {
    let found = look(mbr());
    assert_eq!((found.scheme, found.left_out), (Scheme::Mbr, 0));
    let logical = [(5, 108, 92), (6, 302, 98), (7, 501, 50)];
    assert_eq!(listed(&found), [&[(1, 8, 92), (4, 600, 400)][..], &logical].concat());
}

#[test]
fn chains_that_do_not_end_are_ended_and_partitions_off_the_disk_are_left_out() {
    let mut bytes = mbr();
    entry(at(&mut bytes, 500), 1, 0x05, 400, 100);
    assert_eq!(look(bytes).partitions.len(), 5, "an EBR that leads to itself");
    let mut bytes = mbr();
    entry(at(&mut bytes, 500), 1, 0x05, 0, 100);
    assert_eq!(look(bytes).partitions.len(), 5, "one that leads to the first");
    let mut bytes = mbr();
    entry(at(&mut bytes, 100), 1, 0x05, u32::MAX, 100);
    assert_eq!(look(bytes).partitions.len(), 3, "one that leads off the disk");
    let mut bytes = mbr();
    entry(at(&mut bytes, 0), 0, 0x83, 8, 993);
    let found = look(bytes);
    assert_eq!((found.partitions.len(), found.left_out), (4, 1));
    // As many as fit, each a sector behind its EBR.
    let mut bytes = vec![0; 1000 * 512];
    entry(at(&mut bytes, 0), 0, 0x05, 2, 998);
    for sector in (2..998).step_by(2) {
        entry(at(&mut bytes, sector), 0, 0x83, 1, 1);
        entry(at(&mut bytes, sector), 1, 0x05, u32::try_from(sector).unwrap(), 2);
    }
    assert_eq!(look(bytes).partitions.len(), MAX_PARTITIONS);
}

#[test]
fn a_boot_sector_of_a_file_system_is_no_table() {
    let mut bytes = vec![0; 4096];
    assert_eq!(look(bytes.clone()).scheme, Scheme::None);
    bytes[510..512].copy_from_slice(&[0x55, 0xaa]);
    assert_eq!(look(bytes.clone()).scheme, Scheme::Mbr, "an empty one");
    bytes[446..500].copy_from_slice(&[0x20; 54]);
    assert_eq!(look(bytes).scheme, Scheme::None);
    assert_eq!(look(vec![0; 100]).scheme, Scheme::None);
}

/// A GPT with two partitions and one off the disk, whose sectors have `sector` bytes.
fn gpt(sector: usize) -> Vec<u8> {
    let count = 1000;
    let mut bytes = vec![0; count * sector];
    entry(&mut bytes[..512], 0, 0xee, 1, u32::MAX);
    let mut entries = vec![0; 128 * 128];
    for (place, first, last, name) in
        [(0, 40, 49, "EFI\u{7} Ω"), (4, 50, 899, ""), (5, 50, 1000, "x")]
    {
        let at = &mut entries[place * 128..][..128];
        at[0] = 7;
        at[32..40].copy_from_slice(&u64::to_le_bytes(first));
        at[40..48].copy_from_slice(&u64::to_le_bytes(last));
        let name: Vec<u8> = name.encode_utf16().flat_map(u16::to_le_bytes).collect();
        at[56..56 + name.len()].copy_from_slice(&name);
    }
    let sectors = entries.len() / sector;
    for (here, other, first) in [(1, count - 1, 2), (count - 1, 1, count - 1 - sectors)] {
        bytes[first * sector..][..entries.len()].copy_from_slice(&entries);
        let header = &mut bytes[here * sector..][..92];
        header[..8].copy_from_slice(b"EFI PART");
        header[8..12].copy_from_slice(&0x1_0000_u32.to_le_bytes());
        header[12..16].copy_from_slice(&92_u32.to_le_bytes());
        header[24..32].copy_from_slice(&(here as u64).to_le_bytes());
        header[32..40].copy_from_slice(&(other as u64).to_le_bytes());
        header[72..80].copy_from_slice(&(first as u64).to_le_bytes());
        header[80..84].copy_from_slice(&128_u32.to_le_bytes());
        header[84..88].copy_from_slice(&128_u32.to_le_bytes());
        header[88..92].copy_from_slice(&gpt::crc(&entries).to_le_bytes());
        seal(header);
    }
    bytes
}

fn seal(header: &mut [u8]) {
    header[16..20].fill(0);
    let sum = gpt::crc(header);
    header[16..20].copy_from_slice(&sum.to_le_bytes());
}

#[test]
fn a_gpt_is_found_in_sectors_of_both_sizes() {
    for sector in [512, 4096] {
        let found = look(gpt(sector));
        assert_eq!((found.scheme, found.left_out), (Scheme::Gpt, 1));
        let units = sector as u64 / 512;
        assert_eq!(listed(&found), [(1, 40 * units, 10 * units), (5, 50 * units, 850 * units)]);
        assert_eq!(found.partitions[0].name.as_deref(), Some("EFI Ω"));
        assert_eq!(found.partitions[1].name, None);
    }
}

#[test]
fn the_copy_stands_in_and_without_it_there_are_no_partitions() {
    let good = look(gpt(512));
    for place in [512, 512 + 40, 1024 + 32] {
        let mut bytes = gpt(512);
        bytes[place] ^= 1;
        assert_eq!(look(bytes.clone()), good, "byte {place}");
        bytes[999 * 512 + 56] ^= 1;
        let found = look(bytes);
        assert_eq!((found.scheme, found.partitions.len()), (Scheme::BadGpt, 0));
    }
}

#[test]
fn headers_that_ask_for_too_much_are_not_believed() {
    for (field, value) in
        [(80, u32::MAX), (84, u32::MAX), (84, 64), (84, 192), (80, 9000), (12, 91)]
    {
        let mut bytes = gpt(512);
        for header in [1, 999] {
            let header = &mut bytes[header * 512..][..92];
            header[field..field + 4].copy_from_slice(&value.to_le_bytes());
            seal(header);
        }
        assert_eq!(look(bytes).scheme, Scheme::BadGpt, "{value} at {field}");
    }
}

proptest! {
    #[test]
    fn any_change_of_a_table_is_judged(
        large: bool,
        changes in prop::collection::vec((0usize..600, 0usize..512, any::<u8>()), 1..20),
        reseal: bool,
    ) {
        let mut bytes = if large { gpt(512) } else { mbr() };
        for (sector, byte, value) in changes {
            // Mostly where tables are.
            let sector = [0, 1, 2, 3, 100, 300, 999].get(sector % 10).copied().unwrap_or(sector);
            bytes[sector * 512 + byte] = value;
        }
        if large && reseal {
            bytes[..8].fill(0);
            entry(&mut bytes[..512], 0, 0xee, 1, 1);
            bytes[512..520].copy_from_slice(b"EFI PART");
            bytes[524..528].copy_from_slice(&92_u32.to_le_bytes());
            let sum = gpt::crc(&bytes[1024..1024 + 128 * 128]);
            bytes[600..604].copy_from_slice(&sum.to_le_bytes());
            seal(&mut bytes[512..604]);
        }
        look(bytes);
    }

    #[test]
    fn anything_is_judged(bytes in prop::collection::vec(any::<u8>(), 0..4096), mark: bool) {
        let mut bytes = bytes;
        if mark && bytes.len() >= 512 {
            bytes[510..512].copy_from_slice(&[0x55, 0xaa]);
            [446, 462, 478, 494].into_iter().for_each(|status| bytes[status] &= 0x80);
        }
        look(bytes);
    }
}
