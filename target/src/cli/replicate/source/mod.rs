//! What a disk is replicated from: a raw file, or an image of any format with the images it stands on.
//!
//! ```text
//!   raw      tokio-uring, whoever else has the file open                        RawSource
//!   image    the I/O engine beside it, which knows formats and chains           ImageSource
//! ```

mod image;
mod raw;
mod stamp;

pub(super) use image::{ImageSource, SourceEngine};
pub(super) use raw::{RawSource, size_of};

use super::chain::Changes;
use anyhow::Context;
use landfall_disks::ByteRange;
use landfall_disks::image::{Format, probe_bytes};
use landfall_protocols::delta::ContentId;
use std::fs::File;
use std::os::unix::fs::{FileExt, FileTypeExt};
use std::path::{Path, PathBuf};

/// A file, and what it is taken for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct SourceFile {
    pub(super) path: PathBuf,
    pub(super) format: Format,
}

impl SourceFile {
    /// The file at `path`: of `format`, or of the one its content tells. A device is raw unless somebody says otherwise: what
    /// is in it is a guest's.
    pub(super) fn find(path: &Path, format: Option<Format>) -> anyhow::Result<Self> {
        let format = match format {
            Some(format) => format,
            None => probe(path).with_context(|| path.display().to_string())?,
        };
        Ok(Self { path: path.to_owned(), format })
    }
}

fn probe(path: &Path) -> std::io::Result<Format> {
    let file = File::open(path)?;
    let metadata = file.metadata()?;
    if metadata.file_type().is_block_device() {
        return Ok(Format::Raw);
    }
    let look = usize::try_from(metadata.len().min(512)).expect("at most 512");
    let (mut head, mut tail) = (vec![0; look], vec![0; look]);
    file.read_exact_at(&mut head, 0)?;
    file.read_exact_at(&mut tail, metadata.len() - look as u64)?;
    Ok(probe_bytes(&head, &tail))
}

/// A source, open for one pass.
pub(super) enum OpenSource {
    Raw(RawSource),
    Image(ImageSource),
}

impl OpenSource {
    /// Opens what has to have `size_bytes`.
    pub(super) async fn open(
        file: &SourceFile,
        size_bytes: u64,
        engine: &SourceEngine,
    ) -> anyhow::Result<Self> {
        match file.format {
            Format::Raw => RawSource::open(&file.path, size_bytes).await.map(Self::Raw),
            _ => ImageSource::open(file, size_bytes, engine).await.map(Self::Image),
        }
    }

    /// Why it cannot be said to have stood still since it was opened; nothing when it did.
    pub(super) fn movement(&self) -> anyhow::Result<Option<String>> {
        match self {
            Self::Raw(raw) => raw.movement(),
            Self::Image(image) => Ok(image.movement()),
        }
    }

    /// Stretches that hold data; everything between them reads as zeroes.
    pub(super) async fn data(&self) -> anyhow::Result<Vec<ByteRange>> {
        match self {
            Self::Raw(raw) => raw.data().await,
            Self::Image(image) => image.data().await,
        }
    }

    /// Fills `into` from `offset`.
    pub(super) async fn read(&self, offset: u64, into: Vec<u8>) -> anyhow::Result<Vec<u8>> {
        match self {
            Self::Raw(raw) => raw.read(offset, into).await,
            Self::Image(image) => image.read(offset, into).await,
        }
    }

    /// What its content is called, if it can be told from other content without reading it.
    pub(super) fn content(&self) -> Option<ContentId> {
        match self {
            Self::Raw(_) => None,
            Self::Image(image) => image.content(),
        }
    }

    /// What differs from `held`, if that is known without comparing.
    pub(super) async fn changes_since(&self, held: Option<ContentId>) -> anyhow::Result<Changes> {
        match self {
            Self::Raw(_) => Ok(Changes::NotAsked),
            Self::Image(image) => image.changes_since(held).await,
        }
    }
}
