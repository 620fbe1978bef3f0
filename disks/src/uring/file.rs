//! A file on the ring.
//!
//! Reads, writes, flushes and allocation go to the ring of the core that asks; seeking and cutting, which io_uring lacks
//! or always blocks on, go through [`offload`]. Short transfers are continued, interrupted ones repeated. A block device is
//! a file of fixed length (`device`).

use super::abandoned::Abandoned;
use super::blocking::offload;
use super::buffer::Buffer;
use super::descriptor::Descriptor;
use super::device::{self, Kind};
use super::locks;
use super::op::{MAX_LENGTH, Op};
use crate::block::{ByteOffset, ByteRange};
use crate::file::{
    Caching, DIRECT_ALIGNMENT, FileError, FileFuture, FileIo, Sectors, assert_aligned,
};
use rustix::fs::SeekFrom;
use rustix::io::Errno;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// An open file. Usable from every core; a request of a thread that is none panics.
pub struct File {
    descriptor: Descriptor,
    path: Arc<Path>,
    caching: Caching,
    kind: Kind,
    abandoned: Abandoned,
}

impl File {
    pub(super) fn new(owned: OwnedFd, path: &Path, caching: Caching) -> Result<Self, FileError> {
        let kind = Kind::of(&owned)
            .map_err(|errno| file_error(path, "asking for the sectors", errno.into()))?;
        let descriptor = Descriptor::new(owned);
        Ok(Self { descriptor, path: path.into(), caching, kind, abandoned: Abandoned::default() })
    }

    fn measure(&self) -> Result<u64, FileError> {
        // Answered from memory by every local file system, so not worth a detour.
        let length = match self.kind {
            Kind::File => rustix::fs::fstat(&self.descriptor)
                .map(|stat| u64::try_from(stat.st_size).expect("a file has no negative length")),
            Kind::Device(_) => device::length(&self.descriptor),
        };
        length.map_err(|errno| self.error("measuring", errno.into()))
    }

    /// Refuses to make a device longer than it is.
    fn check_end(&self, wanted_bytes: u64) -> Result<(), FileError> {
        match self.kind {
            Kind::Device(_) if self.measure()? < wanted_bytes => self.refuse_length(wanted_bytes),
            _ => Ok(()),
        }
    }

    fn refuse_length(&self, wanted_bytes: u64) -> Result<(), FileError> {
        let (path, length_bytes) = (self.path.to_path_buf(), self.measure()?);
        Err(FileError::FixedLength { path, length_bytes, wanted_bytes })
    }

    fn error(&self, operation: &'static str, source: io::Error) -> FileError {
        file_error(&self.path, operation, source)
    }

    /// Where a transfer goes on after `done` bytes: direct I/O only at whole blocks, so a part may be moved twice.
    fn resume_at(&self, done: usize) -> usize {
        match self.caching {
            Caching::Direct => done & !(usize::try_from(DIRECT_ALIGNMENT).expect("small") - 1),
            Caching::Buffered => done,
        }
    }

    async fn read_all(&self, offset: u64, mut buffer: Buffer) -> Result<Buffer, FileError> {
        let wanted = buffer.len();
        let mut done = 0;
        self.abandoned.wait(stretch(offset, wanted as u64)).await;
        while done < wanted {
            let start = self.resume_at(done);
            let op = Op::read(&self.descriptor, buffer, start..wanted, offset + start as u64);
            let (result, held) = op.await;
            buffer = held.into_buffer();
            match result {
                Ok(count) if start + count > done => done = start + count,
                Ok(_) => {
                    let path = self.path.to_path_buf();
                    return Err(FileError::Ended { path, offset, wanted, got: done });
                }
                Err(error) if is_transient(&error) => {}
                Err(error) => return Err(self.error("reading", error)),
            }
        }
        Ok(buffer)
    }

    async fn write_all(&self, offset: u64, mut buffer: Buffer) -> Result<Buffer, FileError> {
        let wanted = buffer.len();
        let range = stretch(offset, wanted as u64);
        let mut done = 0;
        self.abandoned.wait(range).await;
        while done < wanted {
            let start = self.resume_at(done);
            let op = Op::write(&self.descriptor, buffer, start..wanted, offset + start as u64);
            let (result, held) = self.abandoned.guard(op, range).await;
            buffer = held.into_buffer();
            match result {
                Ok(count) if start + count > done => done = start + count,
                Ok(_) => return Err(self.error("writing", io::ErrorKind::WriteZero.into())),
                Err(error) if is_transient(&error) => {}
                Err(error) => return Err(self.error("writing", error)),
            }
        }
        Ok(buffer)
    }

    async fn sync(&self) -> Result<(), FileError> {
        loop {
            match Op::sync_data(&self.descriptor).await.0 {
                Ok(_) => return Ok(()),
                Err(error) if is_transient(&error) => {}
                Err(error) => return Err(self.error("flushing", error)),
            }
        }
    }

    async fn reserve(
        &self,
        operation: &'static str,
        mode: i32,
        offset: u64,
        length: u64,
    ) -> Result<(), FileError> {
        // The kernel refuses a length of zero; there is nothing to do then.
        if length == 0 {
            return Ok(());
        }
        let range = stretch(offset, length);
        self.abandoned.wait(range).await;
        let mut mode = mode;
        loop {
            let op = Op::allocate(&self.descriptor, mode, offset, length);
            match self.abandoned.guard(op, range).await.0 {
                Ok(_) => return Ok(()),
                Err(error) if is_transient(&error) => {}
                // Of a device that forgets nothing the kernel makes zeroes by writing them, if asked for zeroes.
                Err(error) if self.kind.is_device() && mode == PUNCH && is_unsupported(&error) => {
                    mode = libc::FALLOC_FL_ZERO_RANGE;
                }
                Err(error) => return Err(self.error(operation, error)),
            }
        }
    }

    /// What the kernel said to a lock. It never waits, so there was no detour to make.
    fn locked(&self, said: io::Result<()>) -> FileFuture<'_, ()> {
        let locked = said.map_err(|error| match error.raw_os_error() {
            Some(libc::EAGAIN | libc::EACCES) => {
                FileError::Locked { path: self.path.to_path_buf() }
            }
            _ => self.error("locking", error),
        });
        Box::pin(std::future::ready(locked))
    }

    async fn cut(&self, length: u64) -> Result<(), FileError> {
        if self.kind.is_device() {
            let same = self.measure()? == length;
            return if same { Ok(()) } else { self.refuse_length(length) };
        }
        let everything = ByteRange::up_to(u64::MAX);
        self.abandoned.wait(everything).await;
        let descriptor = self.descriptor.clone();
        // Work on the pool goes on when its future is dropped; the token says when it is over.
        let token = self.abandoned.token(everything);
        offload(move || {
            let cut = rustix::fs::ftruncate(&descriptor, length);
            drop(token);
            cut
        })
        .await
        .map_err(|errno| self.error("resizing", errno.into()))
    }

    async fn take_over(&self, source: &dyn FileIo) -> Result<bool, FileError> {
        let Some(source) = source.descriptor() else { return Ok(false) };
        let source = source.try_clone_to_owned().map_err(|error| self.error("sharing", error))?;
        let everything = ByteRange::up_to(u64::MAX);
        self.abandoned.wait(everything).await;
        let descriptor = self.descriptor.clone();
        let token = self.abandoned.token(everything);
        // It waits for writes to either file, and flushes what the page cache has of them.
        let shared = offload(move || {
            let shared = rustix::fs::ioctl_ficlone(&descriptor, &source);
            drop(token);
            shared
        });
        match shared.await {
            Ok(()) => Ok(true),
            Err(errno) if CANNOT_SHARE.contains(&errno) => Ok(false),
            Err(errno) => Err(self.error("sharing", errno.into())),
        }
    }
}

/// What the kernel says where blocks cannot be shared: two file systems, one that cannot, sizes it cannot do, no files, none
/// that knows the request, a file that must stay as it is.
const CANNOT_SHARE: [Errno; 6] =
    [Errno::XDEV, Errno::OPNOTSUPP, Errno::INVAL, Errno::ISDIR, Errno::NOTTY, Errno::TXTBSY];

/// The bytes an operation touches. The kernel refuses what does not fit a signed offset.
fn stretch(offset: u64, length: u64) -> ByteRange {
    ByteRange::at(ByteOffset::new(offset), length).expect("a file ends far below 2^64")
}

impl FileIo for File {
    fn read_at(&self, offset: u64, into: Buffer) -> FileFuture<'_, Buffer> {
        assert_aligned(self.caching, &self.path, offset, &into);
        Box::pin(self.read_all(offset, into))
    }

    fn write_at(&self, offset: u64, from: Buffer) -> FileFuture<'_, Buffer> {
        assert_aligned(self.caching, &self.path, offset, &from);
        Box::pin(self.write_all(offset, from))
    }

    fn flush(&self) -> FileFuture<'_, ()> {
        Box::pin(self.sync())
    }

    fn length(&self) -> FileFuture<'_, u64> {
        Box::pin(std::future::ready(self.measure()))
    }

    fn set_length(&self, length: u64) -> FileFuture<'_, ()> {
        Box::pin(self.cut(length))
    }

    fn allocate(&self, offset: u64, length: u64) -> FileFuture<'_, ()> {
        Box::pin(async move {
            self.check_end(offset.saturating_add(length))?;
            if self.kind.is_device() {
                // All of a device is there already.
                return Ok(());
            }
            self.reserve("allocating", 0, offset, length).await
        })
    }

    fn punch_hole(&self, offset: u64, length: u64) -> FileFuture<'_, ()> {
        Box::pin(self.reserve("punching a hole", PUNCH, offset, length))
    }

    fn zero_range(&self, offset: u64, length: u64) -> FileFuture<'_, ()> {
        Box::pin(async move {
            self.check_end(offset.saturating_add(length))?;
            self.reserve("zeroing", libc::FALLOC_FL_ZERO_RANGE, offset, length).await
        })
    }

    fn share<'a>(&'a self, source: &'a dyn FileIo) -> FileFuture<'a, bool> {
        Box::pin(self.take_over(source))
    }

    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        Some(self.descriptor.as_fd())
    }

    fn next_data(&self, offset: u64) -> FileFuture<'_, Option<(u64, u64)>> {
        Box::pin(async move {
            if self.kind.is_device() {
                let end = self.measure()?;
                return Ok((offset < end).then_some((offset, end)));
            }
            let descriptor = self.descriptor.clone();
            offload(move || find_data(&descriptor, offset))
                .await
                .map_err(|errno| self.error("seeking data", errno.into()))
        })
    }

    fn lock_exclusive(&self) -> FileFuture<'_, ()> {
        self.locked(locks::lock_exclusive(&self.descriptor))
    }

    fn lock_shared(&self) -> FileFuture<'_, ()> {
        self.locked(locks::lock_shared(&self.descriptor))
    }

    fn sectors(&self) -> Option<Sectors> {
        match self.kind {
            Kind::File => None,
            Kind::Device(sectors) => Some(sectors),
        }
    }
}

/// Gives space back and leaves the length.
const PUNCH: i32 = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;

/// The file system or device cannot do this at all.
fn is_unsupported(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::ENOSYS))
}

/// Worth repeating at once: nothing happened and nothing is wrong.
pub(super) fn is_transient(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EINTR | libc::EAGAIN))
}

/// What an error of the kernel means for the file at `path`.
pub(super) fn file_error(path: &Path, operation: &'static str, source: io::Error) -> FileError {
    let path = PathBuf::from(path);
    match source.raw_os_error() {
        Some(libc::ENOENT) => FileError::NotFound { path },
        Some(libc::EEXIST) => FileError::Exists { path },
        Some(libc::ENOSPC | libc::EDQUOT | libc::EFBIG) => FileError::NoSpace { path },
        _ => FileError::Os { path, operation, source: Arc::new(source) },
    }
}

fn find_data(descriptor: &Descriptor, offset: u64) -> Result<Option<(u64, u64)>, Errno> {
    // The file position is moved, which nobody uses: every transfer names its offset.
    let start = match rustix::fs::seek(descriptor, SeekFrom::Data(offset)) {
        Ok(start) => start,
        // No data after `offset`, or `offset` is at or past the end.
        Err(Errno::NXIO) => return Ok(None),
        Err(errno) => return Err(errno),
    };
    let end = rustix::fs::seek(descriptor, SeekFrom::Hole(start))?;
    Ok(Some((start, end)))
}

const _: () = assert!(MAX_LENGTH.is_multiple_of(4096), "a direct transfer is cut at whole blocks");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_room_is_told_from_other_errors() {
        let error =
            |number| file_error(Path::new("f"), "writing", io::Error::from_raw_os_error(number));
        for full in [libc::ENOSPC, libc::EDQUOT, libc::EFBIG] {
            assert!(matches!(error(full), FileError::NoSpace { .. }), "{full}");
        }
        for other in [libc::EIO, libc::EROFS, libc::EINVAL] {
            assert!(matches!(error(other), FileError::Os { .. }), "{other}");
        }
    }
}
