//! A file as it would be if its log were replayed, for those who must not write it (section 2.2.2).

use crate::block::{ByteOffset, ByteRange};
use crate::disk::DiskError;
use crate::file::{FileError, FileFuture, FileIo};
use crate::image::ImageFile;
use crate::uring::buffer::Buffer;
use std::path::PathBuf;
use std::sync::Arc;
use vhdx_parse::Replay;

/// The file below, with the patches of its log laid over it. Keeps the file, and so its lock.
struct Replayed {
    file: Arc<ImageFile>,
    replay: Replay,
}

/// `file` as it would be after `replay`.
pub(super) fn lay_over(file: Arc<ImageFile>, replay: Replay) -> ImageFile {
    let (path, length, access) = (file.path().to_owned(), replay.file_bytes(), file.access());
    let layer: Arc<dyn FileIo> = Arc::new(Replayed { file, replay });
    ImageFile::new(path, Arc::clone(&layer), layer, length, access)
}

impl Replayed {
    async fn read(&self, offset: u64, mut into: Buffer) -> Result<Buffer, FileError> {
        let end = offset.saturating_add(into.len() as u64);
        if end > self.replay.file_bytes() {
            let there = self.replay.file_bytes().saturating_sub(offset);
            return Err(FileError::Ended {
                path: self.path(),
                offset,
                wanted: into.len(),
                got: usize::try_from(there).expect("less than a buffer"),
            });
        }
        // What the file itself does not have yet reads as zeroes.
        let there = self.file.length().clamp(offset, end) - offset;
        let mut beyond = into.split_off(usize::try_from(there).expect("less than a buffer"));
        beyond.fill(0);
        if !into.is_empty() {
            let read = self.file.read_into(ByteOffset::new(offset), into).await;
            into = read.map_err(|error| self.file_error(error))?;
        }
        into.unsplit(beyond);
        self.replay.apply(offset, &mut into);
        Ok(into)
    }

    fn path(&self) -> PathBuf {
        self.file.path().to_owned()
    }

    fn file_error(&self, error: DiskError) -> FileError {
        match error {
            DiskError::File(error) => error,
            other => self.os_error("reading", std::io::Error::other(other)),
        }
    }

    fn os_error(&self, operation: &'static str, source: std::io::Error) -> FileError {
        FileError::Os { path: self.path(), operation, source: Arc::new(source) }
    }

    fn refuse<'a, T: 'a>(&'a self, operation: &'static str) -> FileFuture<'a, T> {
        let source = std::io::Error::from_raw_os_error(libc::EBADF);
        Box::pin(std::future::ready(Err(self.os_error(operation, source))))
    }
}

impl FileIo for Replayed {
    fn read_at(&self, offset: u64, into: Buffer) -> FileFuture<'_, Buffer> {
        Box::pin(self.read(offset, into))
    }

    fn write_at(&self, _offset: u64, _from: Buffer) -> FileFuture<'_, Buffer> {
        self.refuse("writing")
    }

    fn flush(&self) -> FileFuture<'_, ()> {
        self.refuse("flushing")
    }

    fn length(&self) -> FileFuture<'_, u64> {
        Box::pin(std::future::ready(Ok(self.replay.file_bytes())))
    }

    fn set_length(&self, _length: u64) -> FileFuture<'_, ()> {
        self.refuse("resizing")
    }

    fn allocate(&self, _offset: u64, _length: u64) -> FileFuture<'_, ()> {
        self.refuse("allocating")
    }

    fn punch_hole(&self, _offset: u64, _length: u64) -> FileFuture<'_, ()> {
        self.refuse("punching a hole")
    }

    fn zero_range(&self, _offset: u64, _length: u64) -> FileFuture<'_, ()> {
        self.refuse("zeroing")
    }

    fn next_data(&self, offset: u64) -> FileFuture<'_, Option<(u64, u64)>> {
        // Where the patches are is not worth a search: all may be data.
        let end = self.replay.file_bytes();
        Box::pin(std::future::ready(Ok((offset < end).then_some((offset, end)))))
    }

    fn lock_exclusive(&self) -> FileFuture<'_, ()> {
        self.refuse("locking")
    }

    fn lock_shared(&self) -> FileFuture<'_, ()> {
        // The file below is locked already.
        Box::pin(std::future::ready(Ok(())))
    }
}

/// Makes the changes of `replay` in the file, durably. They may be made again, if the power goes before the log is empty.
pub(super) async fn make(file: &ImageFile, replay: &Replay) -> Result<(), DiskError> {
    if replay.file_bytes() > file.length() {
        file.set_length(replay.file_bytes()).await?;
    }
    for (offset, patch) in replay.patches() {
        let at = ByteOffset::new(offset);
        match patch {
            vhdx_parse::Patch::Data(bytes) => file.write(at, Buffer::copy_of(&**bytes)).await?,
            vhdx_parse::Patch::Zero(length) => {
                let range = ByteRange::at(at, *length).expect("checked against the largest file");
                file.zero(range, crate::disk::ZeroMode::Unmap).await?;
            }
        }
    }
    file.flush().await
}
