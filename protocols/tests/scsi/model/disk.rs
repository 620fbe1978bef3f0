//! A disk in memory: what every block holds, whether it is mapped, damaged, durable; and how many more may be mapped.

use landfall_disks::{
    Buffer, ByteOffset, ByteRange, Content, Disk, DiskError, Durability, Geometry, IoFuture,
    MappedRange, ZeroMode,
};
use std::sync::Mutex;

pub const BLOCK: usize = 512;

/// Blocks and what is known of them. Model and disk have one each, changed by code of their own.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Blocks {
    /// What a read gives.
    pub bytes: Vec<u8>,
    /// What would be left after a power cut.
    pub durable: Vec<u8>,
    pub mapped: Vec<bool>,
    pub damaged: Vec<bool>,
    /// Blocks that may still be mapped.
    pub room: usize,
    pub read_only: bool,
    /// What the disk calls blocks that are not mapped: as a sparse file does, or as a branch.
    pub unmapped: Content,
}

impl Blocks {
    pub fn new(blocks: usize) -> Self {
        Self {
            bytes: vec![0; blocks * BLOCK],
            durable: vec![0; blocks * BLOCK],
            mapped: vec![false; blocks],
            damaged: vec![false; blocks],
            room: usize::MAX,
            read_only: false,
            unmapped: Content::Hole,
        }
    }

    pub fn grow(&mut self, blocks: usize) {
        let count = self.mapped.len() + blocks;
        self.bytes.resize(count * BLOCK, 0);
        self.durable.resize(count * BLOCK, 0);
        self.mapped.resize(count, false);
        self.damaged.resize(count, false);
    }
}

/// The disk of a test: done at once, with whole blocks only.
pub struct MemoryDisk(pub Mutex<Blocks>);

impl MemoryDisk {
    pub fn new(blocks: Blocks) -> Self {
        Self(Mutex::new(blocks))
    }
}

fn bytes_of(range: ByteRange) -> std::ops::Range<usize> {
    let at = |offset: ByteOffset| usize::try_from(offset.bytes()).expect("small");
    at(range.start())..at(range.end())
}

fn blocks_of(range: ByteRange) -> std::ops::Range<usize> {
    let bytes = bytes_of(range);
    assert!(
        bytes.start.is_multiple_of(BLOCK) && bytes.end.is_multiple_of(BLOCK),
        "{range} is not whole blocks"
    );
    bytes.start / BLOCK..bytes.end / BLOCK
}

fn range_of(start: usize, end: usize) -> ByteRange {
    let at = |block: usize| ByteOffset::new((block * BLOCK) as u64);
    ByteRange::new(at(start), at(end)).expect("ordered")
}

impl MemoryDisk {
    fn store(
        &self,
        range: ByteRange,
        data: &[u8],
        map: Option<bool>,
        durability: Durability,
    ) -> Result<(), DiskError> {
        DiskError::check_writable(&self.geometry(), range)?;
        let mut held = self.0.lock().expect("no panic before");
        let blocks = blocks_of(range);
        if map == Some(true) {
            let more = held.mapped[blocks.clone()].iter().filter(|mapped| !**mapped).count();
            if more > held.room {
                return Err(DiskError::NoSpace("the memory of the test".into()));
            }
            held.room -= more;
        }
        if let Some(map) = map {
            held.mapped[blocks.clone()].fill(map);
        }
        held.damaged[blocks].fill(false);
        held.bytes[bytes_of(range)].copy_from_slice(data);
        if durability == Durability::Durable {
            held.durable[bytes_of(range)].copy_from_slice(data);
        }
        Ok(())
    }
}

impl Disk for MemoryDisk {
    fn geometry(&self) -> Geometry {
        let held = self.0.lock().expect("no panic before");
        Geometry {
            size_bytes: held.bytes.len() as u64,
            logical_sector: BLOCK as u32,
            physical_sector: 4096,
            read_only: held.read_only,
        }
    }

    fn read(&self, range: ByteRange) -> IoFuture<'_, Buffer> {
        Box::pin(async move {
            DiskError::check_range(&self.geometry(), range)?;
            let held = self.0.lock().expect("no panic before");
            let blocks = blocks_of(range);
            if let Some(bad) = held.damaged[blocks.clone()].iter().position(|damaged| *damaged) {
                let range = range_of(blocks.start + bad, blocks.start + bad + 1);
                return Err(DiskError::Damaged { range, what: "as told".into() });
            }
            Ok(Buffer::copy_of(&held.bytes[bytes_of(range)]))
        })
    }

    fn write(&self, at: ByteOffset, data: Buffer, durability: Durability) -> IoFuture<'_, ()> {
        Box::pin(async move {
            let range = DiskError::written(&self.geometry(), at, data.len() as u64)?;
            assert!(!range.is_empty(), "nothing is not written");
            self.store(range, &data, Some(true), durability)
        })
    }

    fn write_zeroes(
        &self,
        range: ByteRange,
        mode: ZeroMode,
        durability: Durability,
    ) -> IoFuture<'_, ()> {
        Box::pin(async move {
            let map = match mode {
                ZeroMode::Unmap => Some(false),
                ZeroMode::Allocate => Some(true),
            };
            let zeroes = vec![0; usize::try_from(range.length()).expect("small")];
            self.store(range, &zeroes, map, durability)
        })
    }

    fn flush(&self) -> IoFuture<'_, ()> {
        let mut held = self.0.lock().expect("no panic before");
        held.durable = held.bytes.clone();
        Box::pin(async { Ok(()) })
    }

    fn map(&self, range: ByteRange) -> IoFuture<'_, Vec<MappedRange>> {
        Box::pin(async move {
            DiskError::check_range(&self.geometry(), range)?;
            let held = self.0.lock().expect("no panic before");
            let mapped = blocks_of(range).map(|block| MappedRange {
                range: range_of(block, block + 1),
                content: if held.mapped[block] { Content::Data } else { held.unmapped },
            });
            // Stops early, as an implementation may.
            Ok(mapped.take(7).collect())
        })
    }
}
