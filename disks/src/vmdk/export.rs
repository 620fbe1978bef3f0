//! Stream-optimised disks, written from the first grain to the last.
//!
//! Grains are packed off the I/O core, some at a time, and written in the order of the disk. The file is written from front to end
//! and never read, so it may as well be a part of an OVA.

use super::create::{ContentName, Recipe, describe};
use super::format::SECTOR_BYTES;
use super::format::descriptor::{CreateType, ExtentAccess, ExtentKind, ExtentLine};
use super::format::stream::{Level, PackedGrain, StreamWriter};
use super::format::tables::{DESCRIPTOR_SECTORS, GRAIN_SECTORS};
use crate::block::{ByteOffset, ByteRange, MAX_DISK_SIZE};
use crate::disk::{Content, Disk};
use crate::image::{ImageError, ImageFile, Location};
use crate::uring::buffer::Buffer;
use crate::uring::offload;
use futures_util::StreamExt;
use futures_util::stream::FuturesOrdered;

/// Bytes of a grain of an export.
pub const GRAIN_BYTES: u64 = GRAIN_SECTORS * SECTOR_BYTES;
/// What is written at once.
const WRITE_BYTES: usize = 1 << 20;
/// Grains that are read and packed at the same time.
const AHEAD: usize = 16;

/// A stream-optimised disk that is being written.
pub struct Export {
    location: Location,
    file: ImageFile,
    writer: StreamWriter,
    /// Bytes that are not written yet, and where they go.
    pending: Vec<u8>,
    offset: u64,
}

impl Export {
    /// Starts a disk of the size of `recipe` at `location`. It has its name when it is finished.
    pub async fn start(location: &Location, recipe: &Recipe) -> Result<Self, ImageError> {
        let refuse = |why: &str| Err(ImageError::cannot_create(location.display(), why));
        let size = recipe.size_bytes;
        if size == 0 || size > MAX_DISK_SIZE || !size.is_multiple_of(SECTOR_BYTES) {
            return refuse("its size must be whole sectors of 512 bytes, at most 64 TiB");
        }
        if recipe.parent.is_some() {
            return refuse("a streamOptimized disk has no parent");
        }
        let name = location.path.file_name().and_then(|name| name.to_str());
        let Some(name) = name.filter(|name| !name.contains(['"', '\n', '\r', '\0'])) else {
            return refuse("its name must be text without quotes and line ends");
        };
        let recipe = Recipe { kind: CreateType::StreamOptimized, ..recipe.clone() };
        let line = ExtentLine {
            access: ExtentAccess::ReadWrite,
            sectors: size / SECTOR_BYTES,
            kind: ExtentKind::Sparse,
            file: name.to_owned(),
            start: 0,
            rest: String::new(),
        };
        let text = describe(&recipe, ContentName::fresh(), &[line]);
        if text.len() as u64 > DESCRIPTOR_SECTORS * SECTOR_BYTES {
            return refuse("its name is too long");
        }
        let (writer, pending) = StreamWriter::start(size / SECTOR_BYTES, text.as_bytes());
        let file = ImageFile::create(&*location.folder, &location.path, 0).await?;
        Ok(Self { location: location.clone(), file, writer, pending, offset: 0 })
    }

    /// Writes a grain. Grains come in the order of the disk; those that are left out are zeroes.
    pub async fn push(&mut self, grain: &PackedGrain) -> Result<(), ImageError> {
        self.writer.push(grain, &mut self.pending).map_err(|error| self.too_long(error))?;
        if self.pending.len() >= WRITE_BYTES {
            let whole = self.pending.len() / WRITE_BYTES * WRITE_BYTES;
            self.write(whole).await?;
        }
        Ok(())
    }

    /// Ends the stream, durably, and gives the file its name.
    pub async fn finish(mut self) -> Result<(), ImageError> {
        let location = self.location.clone();
        let too_long = |error: super::format::stream::StreamTooLong| {
            ImageError::cannot_create(location.display(), error.to_string())
        };
        let mut end = Vec::new();
        let writer = std::mem::replace(&mut self.writer, StreamWriter::start(1, b"").0);
        writer.finish(&mut end).map_err(too_long)?;
        self.pending.append(&mut end);
        self.write(self.pending.len()).await?;
        Ok(self.file.publish(&*location.folder, &location.path).await?)
    }

    fn too_long(&self, error: super::format::stream::StreamTooLong) -> ImageError {
        ImageError::cannot_create(self.location.display(), error.to_string())
    }

    async fn write(&mut self, length: usize) -> Result<(), ImageError> {
        let end = self.offset + length as u64;
        self.file.set_length(end).await?;
        let data = Buffer::copy_of(&self.pending[..length]);
        self.file.write(ByteOffset::new(self.offset), data).await?;
        self.pending.drain(..length);
        self.offset = end;
        Ok(())
    }
}

/// Writes all of `disk` to a new stream-optimised disk at `location`; `progress` is told how many bytes of the disk are done.
///
/// The size is that of the disk, whatever the recipe says.
pub async fn export(
    disk: &dyn Disk,
    location: &Location,
    recipe: &Recipe,
    level: Level,
    mut progress: impl FnMut(u64),
) -> Result<(), ImageError> {
    let whole = disk.geometry().whole();
    let recipe = Recipe { size_bytes: whole.length(), ..recipe.clone() };
    let mut export = Export::start(location, &recipe).await?;
    let pack = async |number: u64| -> Result<Option<PackedGrain>, ImageError> {
        let range = ByteRange::at(ByteOffset::new(number * GRAIN_BYTES), GRAIN_BYTES);
        let range = range.expect("on the disk").intersection(whole);
        let grain = disk.read(range).await?;
        Ok(offload(move || PackedGrain::pack(number, &grain, level)).await)
    };
    let mut grains = Grains::new(disk, whole);
    let mut packing = FuturesOrdered::new();
    loop {
        while packing.len() < AHEAD {
            let Some(number) = grains.next().await? else { break };
            packing.push_back(pack(number));
        }
        let Some(packed) = packing.next().await else { break };
        if let Some(grain) = packed? {
            export.push(&grain).await?;
        }
        progress(grains.at.min(whole.end().bytes()));
    }
    drop(packing);
    export.finish().await
}

/// The grains of a disk that may hold something, in order.
struct Grains<'a> {
    disk: &'a dyn Disk,
    whole: ByteRange,
    /// Where the next look goes.
    at: u64,
    /// Where the data that was found ends.
    data_end: u64,
}

impl<'a> Grains<'a> {
    fn new(disk: &'a dyn Disk, whole: ByteRange) -> Self {
        Self { disk, whole, at: 0, data_end: 0 }
    }

    async fn next(&mut self) -> Result<Option<u64>, ImageError> {
        let end = self.whole.end().bytes();
        while self.at >= self.data_end && self.at < end {
            let rest = ByteRange::new(ByteOffset::new(self.at), self.whole.end());
            for found in self.disk.map(rest.expect("before the end")).await? {
                if found.content == Content::Data {
                    self.at = found.range.start().bytes();
                    self.data_end = found.range.end().bytes();
                    break;
                }
                self.at = found.range.end().bytes();
            }
        }
        if self.at >= end {
            return Ok(None);
        }
        let number = self.at / GRAIN_BYTES;
        // A grain is taken once, however many stretches of data lie in it.
        self.at = (number + 1) * GRAIN_BYTES;
        Ok(Some(number))
    }
}
