//! An image of any format, read with all the images it stands on by the I/O engine, on a thread of its own.
//!
//! Its files are watched as raw ones are, all of them: those of parents count. A file that somebody writes who takes locks
//! as QEMU does is refused; one that is written without locks is seen to move.
//!
//! What the content is called (`ContentId`) is made of what the format calls it (`DataWriteGuid`, `CID`, unique id), of
//! length and time of change of every file, and of the parents' names. The format alone does not do: none of them changes its
//! own id with every write. Nothing of it depends on the path, so another host that sees the same files calls it the same.

use super::SourceFile;
use super::stamp::Watched;
use crate::cli::replicate::chain::{self, Changes};
use anyhow::{Context, anyhow, ensure};
use landfall_disks::file::FileError;
use landfall_disks::image::{Access, BesideTheImage, Format, Image, ImageError, Location, Opener};
use landfall_disks::mapped::{Layer, OwnRange};
use landfall_disks::uring::{Core, Directory, Engine, EngineSettings};
use landfall_disks::{ByteRange, Content, DiskError};
use landfall_protocols::delta::ContentId;
use std::cell::OnceCell;
use std::path::Path;
use std::sync::Arc;

/// The engine, started when the first image needs it.
#[derive(Default)]
pub(in crate::cli::replicate) struct SourceEngine(OnceCell<Engine>);

impl SourceEngine {
    fn core(&self) -> anyhow::Result<Core> {
        if self.0.get().is_none() {
            let settings = EngineSettings { cores: 1, ..EngineSettings::default() };
            let engine = Engine::start(settings).context("starting the I/O engine")?;
            assert!(self.0.set(engine).is_ok(), "one thread asks");
        }
        Ok(self.0.get().expect("it was started").cores()[0].clone())
    }

    /// Size of the disk in an image.
    pub(in crate::cli::replicate) fn size_of(&self, file: &SourceFile) -> anyhow::Result<u64> {
        let (path, format) = (file.path.clone(), file.format);
        let opened = self.core()?.block_on(move || async move { open(&path, format).await })?;
        Ok(opened.map_err(|error| explain(&file.path, error))?.disk.geometry().size_bytes)
    }
}

/// An image, open for one pass.
pub(in crate::cli::replicate) struct ImageSource {
    core: Core,
    path: String,
    /// The images that the disk is read from, the topmost first, each with what its content is called.
    layers: Vec<(Arc<dyn Layer>, Option<ContentId>)>,
    watched: Vec<Watched>,
    size_bytes: u64,
}

impl ImageSource {
    /// Opens the image, whose disk has to have `size_bytes`.
    pub(in crate::cli::replicate) async fn open(
        file: &SourceFile,
        size_bytes: u64,
        engine: &SourceEngine,
    ) -> anyhow::Result<Self> {
        let core = engine.core()?;
        let open = async || {
            let (path, format) = (file.path.clone(), file.format);
            let opened = core.run(move || async move { open(&path, format).await }).await?;
            opened.map_err(|error| explain(&file.path, error))
        };
        // Which files there are to watch is known when it is open; what is read must have been opened after that.
        let first = open().await?;
        let mut watched = Vec::new();
        for path in first.chain().flat_map(|image| &image.files) {
            watched.push(Watched::begin(path).await?);
        }
        let image = open().await?;
        let files = |image: &Image| -> Vec<_> {
            image.chain().flat_map(|image| image.files.clone()).collect()
        };
        let path = file.path.display().to_string();
        ensure!(files(&first) == files(&image), "{path} changed while it was opened");
        let found = image.disk.geometry().size_bytes;
        ensure!(
            found == size_bytes,
            "{path} has {found} bytes now and had {size_bytes} when this command began"
        );
        let contents = contents(&image, &watched);
        let layers = image.chain().map(|image| Arc::clone(&image.disk)).zip(contents).collect();
        Ok(Self { core, path, layers, watched, size_bytes })
    }

    /// A chain that was opened elsewhere, of no files.
    #[cfg(test)]
    pub(in crate::cli::replicate) fn over(
        core: Core,
        layers: Vec<(Arc<dyn Layer>, Option<ContentId>)>,
        size_bytes: u64,
    ) -> Self {
        Self { core, path: "a chain".to_owned(), layers, watched: Vec::new(), size_bytes }
    }

    pub(super) fn movement(&self) -> Option<String> {
        self.watched.iter().find_map(Watched::movement_by_name)
    }

    pub(super) fn content(&self) -> Option<ContentId> {
        self.layers[0].1
    }

    /// Runs `work` on the disk as a guest sees it, on the engine.
    async fn on_core<T: Send + 'static>(
        &self,
        work: impl AsyncFnOnce(Arc<dyn Layer>) -> Result<T, DiskError> + Send + 'static,
    ) -> anyhow::Result<T> {
        let disk = Arc::clone(&self.layers[0].0);
        let done = self.core.run(move || async move { work(disk).await }).await?;
        done.with_context(|| self.path.clone())
    }

    pub(super) async fn data(&self) -> anyhow::Result<Vec<ByteRange>> {
        let whole = ByteRange::up_to(self.size_bytes);
        self.on_core(async move |disk| {
            let mut rest = whole;
            let mut data = Vec::new();
            while !rest.is_empty() {
                let mut end = rest.start();
                for part in disk.map(rest).await? {
                    end = part.range.end();
                    data.extend((part.content == Content::Data).then_some(part.range));
                }
                rest = rest.split_at(end).1;
            }
            Ok(data)
        })
        .await
    }

    pub(super) async fn read(&self, offset: u64, mut into: Vec<u8>) -> anyhow::Result<Vec<u8>> {
        let range = ByteRange::at(landfall_disks::ByteOffset::new(offset), into.len() as u64);
        let range = range.context("a range of the disk")?;
        let bytes = self.on_core(async move |disk| disk.read(range).await).await?;
        into.copy_from_slice(&bytes);
        Ok(into)
    }

    /// What the images above the one whose content is `held` have of their own.
    pub(super) async fn changes_since(&self, held: Option<ContentId>) -> anyhow::Result<Changes> {
        let contents: Vec<_> = self.layers.iter().map(|(_, content)| *content).collect();
        let Some(above) = chain::above(&contents, held) else {
            let has_parent = self.layers.len() > 1;
            return Ok(if has_parent { Changes::UnknownBase } else { Changes::NotAsked });
        };
        let layers: Vec<_> =
            self.layers[..above].iter().map(|(layer, _)| Arc::clone(layer)).collect();
        let size_bytes = self.size_bytes;
        let found = self.core.run(move || async move {
            let mut owned = Vec::new();
            for layer in &layers {
                owned.push(own_ranges(&**layer).await?);
            }
            Ok::<_, DiskError>(chain::changed(&owned, size_bytes))
        });
        Ok(Changes::Known(found.await?.with_context(|| self.path.clone())?))
    }
}

/// All that an image has of its own.
async fn own_ranges(layer: &dyn Layer) -> Result<Vec<OwnRange>, DiskError> {
    let mut rest = layer.geometry().whole();
    let mut owned: Vec<OwnRange> = Vec::new();
    while !rest.is_empty() {
        for part in layer.own(rest).await? {
            rest = rest.split_at(part.range.end()).1;
            match owned.last_mut() {
                Some(last) if last.content == part.content => {
                    let joined = ByteRange::new(last.range.start(), part.range.end());
                    last.range = joined.expect("parts come in order");
                }
                _ => owned.push(part),
            }
        }
    }
    Ok(owned)
}

async fn open(path: &Path, format: Format) -> Result<Image, ImageError> {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let outside = || FileError::Outside { path: path.clone() };
    let (folder, name) = path.parent().zip(path.file_name()).ok_or_else(outside)?;
    let location = Location { folder: Arc::new(Directory::open(folder)?), path: name.into() };
    Opener::new(&BesideTheImage).open(&location, Some(format), Access::Read).await
}

fn explain(path: &Path, error: ImageError) -> anyhow::Error {
    match &error {
        ImageError::File(FileError::Locked { .. })
        | ImageError::Disk(DiskError::File(FileError::Locked { .. })) => anyhow!(
            "{error}; an image that is being written cannot be read: replicate a snapshot of {}",
            path.display()
        ),
        _ => error.into(),
    }
}

/// What the content of each image of a chain is called, the topmost first; `watched` are their files in the same order.
fn contents(image: &Image, watched: &[Watched]) -> Vec<Option<ContentId>> {
    let Some((files, of_parents)) = watched.split_at_checked(image.files.len()) else {
        return vec![None; image.chain().count()];
    };
    let below = image.parent.as_deref().map(|parent| contents(parent, of_parents));
    let below = below.unwrap_or_default();
    let named = match (&image.identity, below.first()) {
        (None, _) | (_, Some(None)) => None,
        (Some(identity), parent) => {
            let mut hasher = blake3::Hasher::new_derive_key("landfall content of a source 1");
            let mut field = |bytes: &[u8]| {
                hasher.update(&(bytes.len() as u64).to_le_bytes()).update(bytes);
            };
            field(image.format.name().as_bytes());
            field(identity.kind.as_bytes());
            field(identity.value.as_bytes());
            field(&image.disk.geometry().size_bytes.to_le_bytes());
            for file in files {
                let (seconds, nanoseconds) = file.stamp.modified;
                field(&file.stamp.size_bytes.to_le_bytes());
                field(&seconds.to_le_bytes());
                field(&nanoseconds.to_le_bytes());
            }
            field(&parent.copied().flatten().map_or([0; 32], ContentId::bytes));
            ContentId::new(*hasher.finalize().as_bytes())
        }
    };
    std::iter::once(named).chain(below).collect()
}
