//! A file that fails on request.

use super::content::{Change, SECTOR};
use super::executor::yield_once;
use super::world::{Fault, Locks, World, input_output, no_space, os_error};
use crate::file::{Caching, FileError, FileFuture, FileIo, OpenMode, assert_aligned};
use crate::uring::buffer::Buffer;
use parking_lot::Mutex;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

/// One handle of a file in a [`FaultFolder`](super::FaultFolder). Works on any executor.
pub struct FaultFile {
    pub(super) world: Arc<Mutex<World>>,
    pub(super) inode: u64,
    pub(super) path: PathBuf,
    pub(super) mode: OpenMode,
    pub(super) caching: Caching,
    /// Tells the handles of one file apart, for locks.
    pub(super) handle: u64,
}

impl FaultFile {
    /// Flips every bit of a range, as failing media might. Reads see it, also after a crash.
    pub fn corrupt(&self, offset: u64, length: u64) {
        self.world.lock().corrupt(self.inode, offset, length);
    }

    fn alive(&self, operation: &'static str) -> Result<(), FileError> {
        self.world.lock().alive(&self.path, operation)
    }

    fn writable(&self, operation: &'static str) -> Result<(), FileError> {
        self.alive(operation)?;
        if self.mode == OpenMode::Read {
            let refused = io::Error::from_raw_os_error(libc::EBADF);
            return Err(os_error(&self.path, operation, refused));
        }
        Ok(())
    }

    async fn pause(&self) {
        pause(&self.world).await;
    }

    /// Makes the changes at one moment, and tells the caller at a later one.
    async fn make(&self, operation: &'static str, changes: Vec<Change>) -> Result<(), FileError> {
        let numbers: Vec<u64> = {
            let mut world = self.world.lock();
            changes.into_iter().map(|change| world.change(self.inode, change)).collect()
        };
        self.pause().await;
        stalled(&self.world, false).await;
        self.alive(operation)?;
        self.world.lock().complete(self.inode, &numbers);
        Ok(())
    }

    async fn read(&self, offset: u64, mut buffer: Buffer) -> Result<Buffer, FileError> {
        self.pause().await;
        self.alive("reading")?;
        let mut world = self.world.lock();
        if world.takes_fault(Fault::Read) {
            return Err(input_output(&self.path, "reading"));
        }
        let content = &world.inode(self.inode).volatile;
        let there = content.length().saturating_sub(offset);
        let wanted = buffer.len();
        if there < wanted as u64 {
            let got = usize::try_from(there).expect("less than a buffer");
            return Err(FileError::Ended { path: self.path.clone(), offset, wanted, got });
        }
        content.read(offset, &mut buffer);
        Ok(buffer)
    }

    async fn write(&self, offset: u64, buffer: Buffer) -> Result<Buffer, FileError> {
        let mut landing = Landing { file: self, offset, buffer: Some(buffer), landed: 0 };
        self.pause().await;
        self.writable("writing")?;
        let length = landing.rest().len();
        {
            let mut world = self.world.lock();
            if !world.has_room(self.inode, offset, length as u64) {
                landing.buffer = None;
                return Err(no_space(&self.path));
            }
            if world.takes_fault(Fault::Write) {
                // What has landed by then is decided as for a write that is dropped.
                return Err(input_output(&self.path, "writing"));
            }
            if world.takes_fault(Fault::Full) {
                return Err(no_space(&self.path));
            }
        }
        // In two steps at a sector, so that a concurrent read may see one half only.
        let middle = {
            let sectors = length as u64 / SECTOR;
            let whole = self.world.lock().seed.below(sectors + 1) * SECTOR;
            usize::try_from(whole).expect("within a buffer")
        };
        let mut numbers = landing.land(middle);
        self.pause().await;
        self.writable("writing")?;
        numbers.extend(landing.land(length));
        self.pause().await;
        stalled(&self.world, false).await;
        self.alive("writing")?;
        self.world.lock().complete(self.inode, &numbers);
        Ok(landing.buffer.take().expect("only here it is taken"))
    }

    async fn reserve(&self, offset: u64, length: u64) -> Result<(), FileError> {
        self.pause().await;
        self.writable("allocating")?;
        if !self.world.lock().has_room(self.inode, offset, length) {
            return Err(no_space(&self.path));
        }
        let changes = vec![Change::Grow(offset + length), Change::Reserve { offset, length }];
        self.make("allocating", changes).await
    }

    async fn zero(&self, offset: u64, length: u64) -> Result<(), FileError> {
        self.pause().await;
        self.writable("zeroing")?;
        if !self.world.lock().has_room(self.inode, offset, length) {
            return Err(no_space(&self.path));
        }
        let zero = Change::Zero { offset, length, keep: true };
        self.make("zeroing", vec![Change::Grow(offset + length), zero]).await
    }

    async fn punch(&self, offset: u64, length: u64) -> Result<(), FileError> {
        self.pause().await;
        self.writable("punching a hole")?;
        self.make("punching a hole", vec![Change::Zero { offset, length, keep: false }]).await
    }

    async fn lock(
        &self,
        operation: &'static str,
        take: impl FnOnce(&mut Locks, u64) -> bool,
    ) -> Result<(), FileError> {
        self.alive(operation)?;
        if take(&mut self.world.lock().inode(self.inode).locks, self.handle) {
            Ok(())
        } else {
            Err(FileError::Locked { path: self.path.clone() })
        }
    }

    async fn flush_all(&self) -> Result<(), FileError> {
        self.alive("flushing")?;
        // Only what was completed when the flush started: a flush promises nothing of what runs beside it.
        let numbers = self.world.lock().completed(self.inode);
        self.pause().await;
        stalled(&self.world, true).await;
        self.alive("flushing")?;
        {
            let mut world = self.world.lock();
            world.count_flush();
            if world.takes_fault(Fault::Flush) {
                world.lose(self.inode, &numbers);
                return Err(input_output(&self.path, "flushing"));
            }
        }
        self.alive("flushing")?;
        self.world.lock().settle(self.inode, &numbers);
        self.pause().await;
        self.alive("flushing")
    }
}

/// Lets other tasks run, as often as the seed says.
pub(super) async fn pause(world: &Mutex<World>) {
    loop {
        // Not held across the await.
        let again = world.lock().seed.chance(1, 3);
        if !again {
            return;
        }
        yield_once().await;
    }
}

/// Waits for as long as the folder stalls. What was to be written is there by then, and durable or not.
pub(super) async fn stalled(world: &Mutex<World>, is_flush: bool) {
    let over;
    let waiting = {
        let Some(held) = world.lock().holds(is_flush) else { return };
        over = held;
        over.notified()
    };
    waiting.await;
}

/// A write on its way. Dropped before it has landed, some of its sectors land all the same.
struct Landing<'a> {
    file: &'a FaultFile,
    offset: u64,
    buffer: Option<Buffer>,
    landed: usize,
}

impl Landing<'_> {
    fn rest(&self) -> &[u8] {
        self.buffer.as_ref().map_or(&[], |buffer| &buffer[self.landed..])
    }

    /// Makes the bytes up to `end` visible.
    fn land(&mut self, end: usize) -> Vec<u64> {
        let bytes = self.buffer.as_ref().map_or(&[][..], |buffer| &buffer[self.landed..end]);
        let offset = self.offset + self.landed as u64;
        let data: Arc<[u8]> = bytes.into();
        self.landed = end;
        if data.is_empty() {
            return Vec::new();
        }
        let grow = Change::Grow(offset + data.len() as u64);
        let mut world = self.file.world.lock();
        [grow, Change::Write { offset, data }]
            .map(|change| world.change(self.file.inode, change))
            .to_vec()
    }
}

impl Drop for Landing<'_> {
    fn drop(&mut self) {
        let writable = self.file.writable("writing").is_ok();
        if !writable || self.rest().is_empty() {
            return;
        }
        let room = {
            let world = self.file.world.lock();
            let offset = self.offset + self.landed as u64;
            world.has_room(self.file.inode, offset, self.rest().len() as u64)
        };
        while room && !self.rest().is_empty() {
            let at = self.offset + self.landed as u64;
            let to_boundary = usize::try_from(SECTOR - at % SECTOR).expect("at most a sector");
            let end = self.landed + to_boundary.min(self.rest().len());
            if self.file.world.lock().seed.chance(1, 2) {
                // Never completed: no flush need make it durable.
                self.land(end);
            } else {
                self.landed = end;
            }
        }
    }
}

impl FileIo for FaultFile {
    fn read_at(&self, offset: u64, into: Buffer) -> FileFuture<'_, Buffer> {
        assert_aligned(self.caching, &self.path, offset, &into);
        Box::pin(self.read(offset, into))
    }

    fn write_at(&self, offset: u64, from: Buffer) -> FileFuture<'_, Buffer> {
        assert_aligned(self.caching, &self.path, offset, &from);
        Box::pin(self.write(offset, from))
    }

    fn flush(&self) -> FileFuture<'_, ()> {
        Box::pin(self.flush_all())
    }

    fn length(&self) -> FileFuture<'_, u64> {
        Box::pin(async move {
            self.alive("measuring")?;
            Ok(self.world.lock().inode(self.inode).volatile.length())
        })
    }

    fn set_length(&self, length: u64) -> FileFuture<'_, ()> {
        Box::pin(async move {
            self.pause().await;
            self.writable("resizing")?;
            self.make("resizing", vec![Change::Length(length)]).await
        })
    }

    fn allocate(&self, offset: u64, length: u64) -> FileFuture<'_, ()> {
        Box::pin(self.reserve(offset, length))
    }

    fn punch_hole(&self, offset: u64, length: u64) -> FileFuture<'_, ()> {
        Box::pin(self.punch(offset, length))
    }

    fn zero_range(&self, offset: u64, length: u64) -> FileFuture<'_, ()> {
        Box::pin(self.zero(offset, length))
    }

    fn next_data(&self, offset: u64) -> FileFuture<'_, Option<(u64, u64)>> {
        Box::pin(async move {
            self.pause().await;
            self.alive("seeking data")?;
            Ok(self.world.lock().inode(self.inode).volatile.next_data(offset))
        })
    }

    fn lock_exclusive(&self) -> FileFuture<'_, ()> {
        Box::pin(self.lock("locking", Locks::take_exclusive))
    }

    fn lock_shared(&self) -> FileFuture<'_, ()> {
        Box::pin(self.lock("locking", Locks::take_shared))
    }
}

impl Drop for FaultFile {
    fn drop(&mut self) {
        self.world.lock().inode(self.inode).locks.release(self.handle);
    }
}
