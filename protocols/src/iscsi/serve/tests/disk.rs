//! A disk in memory whose reads and writes wait when they are told to. What is aborted while it
//! waits never comes to be.

use futures_util::FutureExt;
use landfall_disks::{
    Buffer, ByteOffset, ByteRange, Change, Content, Disk, DiskError, Durability, Geometry,
    IoFuture, MappedRange, Ticket, ZeroMode,
};
use parking_lot::Mutex;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::SeqCst;
use tokio::sync::Semaphore;

/// Blocks in memory.
pub(super) struct MemoryDisk {
    bytes: Mutex<Vec<u8>>,
    /// Reads take a permit each, and give it back, before they start.
    pub(super) reads: Semaphore,
    /// Writes, likewise.
    pub(super) writes: Semaphore,
    /// Changes that came to be, or were found to be aborted.
    pub(super) decided: AtomicUsize,
}

/// More than any test has in flight.
pub(super) const OPEN: usize = 1000;

impl MemoryDisk {
    pub(super) fn new(size_bytes: usize) -> Self {
        Self {
            bytes: Mutex::new(vec![0; size_bytes]),
            reads: Semaphore::new(OPEN),
            writes: Semaphore::new(OPEN),
            decided: AtomicUsize::new(0),
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

    fn change<'a>(&'a self, change: Change, ticket: &Ticket) -> IoFuture<'a, ()> {
        let ticket = ticket.clone();
        async move {
            drop(self.writes.acquire().await);
            let there = ticket.commit();
            match change {
                Change::Write { at, data, .. } if there => self.put(at, &data),
                Change::WriteZeroes { range, .. } if there => {
                    self.put(range.start(), &vec![0; length(range)]);
                }
                _ => {}
            }
            self.decided.fetch_add(1, SeqCst);
            if there { Ok(()) } else { Err(DiskError::Aborted) }
        }
        .boxed_local()
    }

    fn flush(&self) -> IoFuture<'_, ()> {
        async { Ok(()) }.boxed_local()
    }

    fn map(&self, range: ByteRange) -> IoFuture<'_, Vec<MappedRange>> {
        async move { Ok(vec![MappedRange { range, content: Content::Data }]) }.boxed_local()
    }
}
