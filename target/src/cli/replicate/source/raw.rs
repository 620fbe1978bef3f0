//! A raw file or block device that is read with tokio-uring: where its data lies, its bytes, and whether it stood still.
//!
//! A file that is in use is read all the same; what it gives is fuzzy. A block device keeps no times of change: it never
//! counts as still.

use super::stamp::Watched;
use anyhow::{Context, ensure};
use landfall_disks::{ByteOffset, ByteRange};
use rustix::fs::{FileType, SeekFrom};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use tokio_uring::buf::BoundedBuf;

/// Size of an image file or block device, in bytes.
pub(in crate::cli::replicate) fn size_of(path: &Path) -> anyhow::Result<u64> {
    let file = fs::File::open(path).with_context(|| path.display().to_string())?;
    let size = end_of(&file).with_context(|| path.display().to_string())?;
    ensure!(size > 0, "{} is empty", path.display());
    Ok(size)
}

fn end_of(file: &fs::File) -> std::io::Result<u64> {
    Ok(rustix::fs::seek(file, SeekFrom::End(0))?)
}

/// A raw file, open for one pass.
pub(in crate::cli::replicate) struct RawSource {
    path: PathBuf,
    file: Rc<tokio_uring::fs::File>,
    /// The same file, for the calls io_uring has not.
    plain: fs::File,
    watched: Watched,
    is_device: bool,
    size_bytes: u64,
}

impl RawSource {
    /// Opens the file, which has to have `size_bytes`.
    pub(super) async fn open(path: &Path, size_bytes: u64) -> anyhow::Result<Self> {
        let named = || path.display().to_string();
        let plain = fs::File::open(path).with_context(named)?;
        let size = end_of(&plain).with_context(named)?;
        ensure!(
            size == size_bytes,
            "{} has {size} bytes now and had {size_bytes} when this command began",
            path.display()
        );
        let metadata = plain.metadata().with_context(named)?;
        let watched = Watched::begin(path).await?;
        let kind = FileType::from_raw_mode(metadata.mode());
        let reading = plain.try_clone().with_context(named)?;
        Ok(Self {
            path: path.to_owned(),
            file: Rc::new(tokio_uring::fs::File::from_std(reading)),
            plain,
            watched,
            is_device: kind == FileType::BlockDevice,
            size_bytes,
        })
    }

    /// Why the file cannot be said to have stood still since it was opened; nothing when it did.
    pub(super) fn movement(&self) -> anyhow::Result<Option<String>> {
        let path = self.path.display();
        if self.is_device {
            return Ok(Some(format!("{path} is a device, which does not tell whether it changed")));
        }
        let now = self.plain.metadata().with_context(|| path.to_string())?;
        Ok(self.watched.movement(&now))
    }

    /// Stretches that hold data; everything between them is holes. Blocks for as long as the file system needs.
    pub(super) async fn data(&self) -> anyhow::Result<Vec<ByteRange>> {
        let file = self.plain.try_clone().with_context(|| self.path.display().to_string())?;
        let size = self.size_bytes;
        tokio::task::spawn_blocking(move || data_of(&file, size))
            .await
            .context("looking for holes")?
            .with_context(|| self.path.display().to_string())
    }

    /// Fills `into` from `offset`.
    pub(super) fn read(
        &self,
        offset: u64,
        into: Vec<u8>,
    ) -> impl Future<Output = anyhow::Result<Vec<u8>>> + 'static {
        let (file, path) = (Rc::clone(&self.file), self.path.clone());
        async move {
            let length = into.len();
            // As far as its length only: memory that was used before has room for more.
            let (result, into) = file.read_exact_at(into.slice(..length), offset).await;
            result
                .with_context(|| format!("{}: {length} bytes at {offset}", path.display()))
                .map(|()| into.into_inner())
        }
    }
}

fn data_of(file: &fs::File, size: u64) -> std::io::Result<Vec<ByteRange>> {
    let mut found = Vec::new();
    let mut at = 0;
    while at < size {
        let start = match rustix::fs::seek(file, SeekFrom::Data(at)) {
            Ok(start) => start,
            // Only a hole follows.
            Err(rustix::io::Errno::NXIO) => break,
            // A device, or a file system that does not tell.
            Err(rustix::io::Errno::INVAL | rustix::io::Errno::OPNOTSUPP) => at,
            Err(error) => return Err(error.into()),
        };
        let end = match rustix::fs::seek(file, SeekFrom::Hole(start)) {
            Ok(end) => end,
            Err(rustix::io::Errno::INVAL | rustix::io::Errno::OPNOTSUPP) => size,
            Err(error) => return Err(error.into()),
        };
        let (start, end) = (start.min(size), end.min(size));
        found.extend(ByteRange::new(ByteOffset::new(start), ByteOffset::new(end)));
        at = end.max(start + 1);
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Seek, Write};

    fn range(start: u64, end: u64) -> ByteRange {
        ByteRange::new(ByteOffset::new(start), ByteOffset::new(end)).expect("ordered")
    }

    #[test]
    fn holes_are_found() {
        let mut file = tempfile::tempfile().expect("a file");
        file.set_len(16 << 20).expect("set");
        file.seek(std::io::SeekFrom::Start(4 << 20)).expect("moved");
        file.write_all(&[1; 65536]).expect("written");
        let found = data_of(&file, 16 << 20).expect("asked");
        assert_eq!(found, [range(4 << 20, (4 << 20) + 65536)]);
    }

    #[test]
    fn the_end_is_read_into_memory_with_room_for_more() {
        tokio_uring::start(async {
            let folder = tempfile::tempdir().expect("a folder");
            let path = folder.path().join("disk");
            fs::write(&path, [7; 5000]).expect("written");
            let source = RawSource::open(&path, 5000).await.expect("opened");
            let mut memory = Vec::with_capacity(1 << 20);
            memory.resize(904, 0);
            assert_eq!(source.read(4096, memory).await.expect("read"), [7; 904]);
        });
    }

    #[test]
    fn a_file_that_is_written_replaced_or_cut_did_not_stand_still() {
        tokio_uring::start(async {
            let folder = tempfile::tempdir().expect("a folder");
            let path = folder.path().join("disk");
            fs::write(&path, [1; 8192]).expect("written");
            let open = || RawSource::open(&path, 8192);
            let still = open().await.expect("opened");
            assert_eq!(still.movement().expect("asked"), None);

            fs::OpenOptions::new()
                .write(true)
                .open(&path)
                .and_then(|mut file| file.write_all(b"x"))
                .expect("written");
            let moved = still.movement().expect("asked").expect("moved");
            assert!(moved.ends_with("changed while it was read"), "{moved}");

            let before = open().await.expect("opened");
            let other = folder.path().join("other");
            fs::write(&other, [1; 8192]).expect("written");
            fs::rename(&other, &path).expect("renamed");
            let moved = before.movement().expect("asked").expect("moved");
            assert!(moved.contains("disk"), "{moved}");

            fs::write(&path, [1; 4096]).expect("written");
            let cut = open().await.err().expect("refused").to_string();
            assert!(cut.contains("has 4096 bytes now and had 8192"), "{cut}");
        });
    }
}
