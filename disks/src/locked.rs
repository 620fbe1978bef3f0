//! A disk whose bytes are moved under range locks that others share, and hold alone where they read in order to write.
//!
//! ```text
//!   NBD   ─▶ Locked ── shared ────────────┐
//!   iSCSI ─▶ unit ──── shared, alone ──── locks ─▶ disk
//! ```
//!
//! Whoever has the same locks and holds a range alone finds it as it was until it lets go: what is compared and then written over
//! iSCSI is one thing to a client of NBD, too. **Invariant:** an operation holds nothing but its own range, and nothing once it has
//! ended, so it never waits for itself.

use crate::block::{ByteOffset, ByteRange, Geometry};
use crate::disk::{Disk, DiskError, Durability, IoFuture, MappedRange, ZeroMode};
use crate::range_locks::RangeLocks;
use crate::ticket::{Change, Ticket};
use crate::uring::buffer::Buffer;
use std::sync::Arc;

/// A disk that others read in order to write.
pub struct Locked {
    disk: Arc<dyn Disk>,
    locks: RangeLocks,
}

impl Locked {
    /// `disk`, whose operations hold what they touch in `locks`.
    pub fn new(disk: Arc<dyn Disk>, locks: RangeLocks) -> Self {
        Self { disk, locks }
    }
}

impl Disk for Locked {
    fn geometry(&self) -> Geometry {
        self.disk.geometry()
    }

    fn read(&self, range: ByteRange) -> IoFuture<'_, Buffer> {
        Box::pin(async move {
            let _held = self.locks.lock_shared(range).await;
            self.disk.read(range).await
        })
    }

    fn write(&self, at: ByteOffset, data: Buffer, durability: Durability) -> IoFuture<'_, ()> {
        Box::pin(async move {
            let range = DiskError::written(&self.disk.geometry(), at, data.len() as u64)?;
            let _held = self.locks.lock_shared(range).await;
            self.disk.write(at, data, durability).await
        })
    }

    fn write_zeroes(
        &self,
        range: ByteRange,
        mode: ZeroMode,
        durability: Durability,
    ) -> IoFuture<'_, ()> {
        Box::pin(async move {
            let _held = self.locks.lock_shared(range).await;
            self.disk.write_zeroes(range, mode, durability).await
        })
    }

    fn discard(&self, range: ByteRange) -> IoFuture<'_, ()> {
        Box::pin(async move {
            let _held = self.locks.lock_shared(range).await;
            self.disk.discard(range).await
        })
    }

    fn change<'a>(&'a self, change: Change, ticket: &Ticket) -> IoFuture<'a, ()> {
        let ticket = ticket.clone();
        Box::pin(async move {
            let range = match &change {
                Change::Write { at, data, .. } => {
                    DiskError::written(&self.disk.geometry(), *at, data.len() as u64)?
                }
                Change::WriteZeroes { range, .. } | Change::Discard(range) => *range,
            };
            let _held = self.locks.lock_shared(range).await;
            self.disk.change(change, &ticket).await
        })
    }

    fn flush(&self) -> IoFuture<'_, ()> {
        self.disk.flush()
    }

    fn map(&self, range: ByteRange) -> IoFuture<'_, Vec<MappedRange>> {
        self.disk.map(range)
    }

    fn resize(&self, size_bytes: u64) -> IoFuture<'_, ()> {
        self.disk.resize(size_bytes)
    }

    fn version(&self, range: ByteRange) -> Option<u64> {
        self.disk.version(range)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::faults::{Seed, run};
    use futures_util::poll;
    use std::pin::pin;

    /// Eight KiB of zeroes, in which writes are lost.
    struct Zeroes;

    impl Disk for Zeroes {
        fn geometry(&self) -> Geometry {
            let (logical_sector, physical_sector) = (512, 4096);
            Geometry { size_bytes: 8192, logical_sector, physical_sector, read_only: false }
        }

        fn read(&self, range: ByteRange) -> IoFuture<'_, Buffer> {
            let length = usize::try_from(range.length()).expect("small");
            Box::pin(async move { Ok(Buffer::zeroed(length)) })
        }

        fn write(&self, _: ByteOffset, _: Buffer, _: Durability) -> IoFuture<'_, ()> {
            Box::pin(async { Ok(()) })
        }

        fn write_zeroes(&self, _: ByteRange, _: ZeroMode, _: Durability) -> IoFuture<'_, ()> {
            Box::pin(async { Ok(()) })
        }

        fn discard(&self, _: ByteRange) -> IoFuture<'_, ()> {
            Box::pin(async { Ok(()) })
        }

        fn flush(&self) -> IoFuture<'_, ()> {
            Box::pin(async { Ok(()) })
        }

        fn map(&self, _: ByteRange) -> IoFuture<'_, Vec<MappedRange>> {
            Box::pin(async { Ok(Vec::new()) })
        }
    }

    #[test]
    fn operations_wait_for_whoever_holds_their_range() {
        run(&mut Seed::new(0), |_| async {
            let locks = RangeLocks::new();
            let disk = Locked::new(Arc::new(Zeroes), locks.clone());
            let range = ByteRange::up_to(4096);
            let (mode, cached) = (ZeroMode::Unmap, Durability::Cached);
            let elsewhere = ByteOffset::new(4096);
            let held = locks.lock_exclusive(range).await;
            let read = async { disk.read(range).await.map(|_| ()) };
            let write = disk.write(range.start(), Buffer::zeroed(512), cached);
            let ticket = Ticket::default();
            let mut waiting: Vec<IoFuture<'_, ()>> = vec![
                Box::pin(read),
                write,
                disk.write_zeroes(range, mode, cached),
                disk.discard(range),
                disk.change(Change::Discard(range), &ticket),
            ];
            for one in &mut waiting {
                assert!(poll!(one.as_mut()).is_pending(), "it has to wait");
            }
            let beside = pin!(disk.write(elsewhere, Buffer::zeroed(4096), cached));
            assert!(poll!(beside).is_ready(), "nobody holds that");
            drop(held);
            for one in waiting {
                one.await.expect("nobody holds it any more");
            }
            let _alone = locks.lock_exclusive(ByteRange::up_to(8192)).await;
        });
    }
}
