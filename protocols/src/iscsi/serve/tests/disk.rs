//! A disk in memory whose reads and writes wait when they are told to.

use futures_util::FutureExt;
use landfall_disks::{
    Buffer, ByteOffset, ByteRange, Content, Disk, DiskError, Durability, Geometry, IoFuture,
    MappedRange, ZeroMode,
};
use parking_lot::Mutex;
use tokio::sync::Semaphore;

/// Blocks in memory.
pub(super) struct MemoryDisk {
    bytes: Mutex<Vec<u8>>,
    /// Reads take a permit each, and give it back, before they start.
    pub(super) reads: Semaphore,
    /// Writes, likewise.
    pub(super) writes: Semaphore,
}

/// More than any test has in flight.
pub(super) const OPEN: usize = 1000;

impl MemoryDisk {
    pub(super) fn new(size_bytes: usize) -> Self {
        Self {
            bytes: Mutex::new(vec![0; size_bytes]),
            reads: Semaphore::new(OPEN),
            writes: Semaphore::new(OPEN),
        }
    }

    pub(super) fn content(&self) -> Vec<u8> {
        self.bytes.lock().clone()
    }

    fn put(&self, at: ByteOffset, bytes: &[u8]) {
        let at = usize::try_from(at.bytes()).expect("small");
        self.bytes.lock()[at..at + bytes.len()].copy_from_slice(bytes);
    }
}

fn length(range: ByteRange) -> usize {
    usize::try_from(range.length()).expect("small")
}

impl Disk for MemoryDisk {
    fn geometry(&self) -> Geometry {
        Geometry {
            size_bytes: u64::try_from(self.bytes.lock().len()).expect("small"),
            logical_sector: 512,
            physical_sector: 512,
            read_only: false,
        }
    }

    fn read(&self, range: ByteRange) -> IoFuture<'_, Buffer> {
        async move {
            DiskError::check_range(&self.geometry(), range)?;
            drop(self.reads.acquire().await);
            let at = usize::try_from(range.start().bytes()).expect("small");
            Ok(Buffer::copy_of(&self.bytes.lock()[at..at + length(range)]))
        }
        .boxed_local()
    }

    fn write(&self, at: ByteOffset, data: Buffer, _: Durability) -> IoFuture<'_, ()> {
        async move {
            drop(self.writes.acquire().await);
            self.put(at, &data);
            Ok(())
        }
        .boxed_local()
    }

    fn write_zeroes(&self, range: ByteRange, _: ZeroMode, _: Durability) -> IoFuture<'_, ()> {
        async move {
            self.put(range.start(), &vec![0; length(range)]);
            Ok(())
        }
        .boxed_local()
    }

    fn discard(&self, _: ByteRange) -> IoFuture<'_, ()> {
        async { Ok(()) }.boxed_local()
    }

    fn flush(&self) -> IoFuture<'_, ()> {
        async { Ok(()) }.boxed_local()
    }

    fn map(&self, range: ByteRange) -> IoFuture<'_, Vec<MappedRange>> {
        async move { Ok(vec![MappedRange { range, content: Content::Data }]) }.boxed_local()
    }
}
