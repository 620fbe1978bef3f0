//! Opening an image of any format, with everything it stands on.

use super::error::ImageError;
use super::file::{Access, ImageFile};
use super::format::{Format, probe};
use super::gate::{Gate, Location, Purpose};
use crate::file::FileError;
use crate::mapped::Layer;
use crate::raw::RawDisk;
use futures_util::FutureExt;
use futures_util::future::LocalBoxFuture;
use std::path::PathBuf;
use std::sync::Arc;

/// Most parents that are followed. Hyper-V and vSphere make far shorter chains.
pub const MAX_PARENTS: usize = 64;

/// What tells one content of an image from another, in the way of its format.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Identity {
    /// What it is called: `CID`, `DataWriteGuid`, `unique id`.
    pub kind: &'static str,
    /// As the format's tools print it.
    pub value: String,
}

impl std::fmt::Display for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.kind, self.value)
    }
}

/// An open image.
pub struct Image {
    /// Its format.
    pub format: Format,
    /// Which kind of the format, in the words of its tools: `monolithicSparse`, `dynamic`.
    pub kind: String,
    /// All files that it is made of, its own first, without those of parents.
    pub files: Vec<PathBuf>,
    /// What it contains.
    pub disk: Arc<dyn Layer>,
    /// What identifies its content, for formats that have it. Changes when the content does.
    pub identity: Option<Identity>,
    /// Bytes of the units in which it takes space, if it does not in bytes.
    pub block_bytes: Option<u64>,
    /// More about it, by name, as the format has it.
    pub details: Vec<(&'static str, String)>,
    /// What it reads from where it has nothing itself.
    pub parent: Option<Box<Image>>,
}

impl Image {
    /// The image and all it stands on, the topmost first.
    pub fn chain(&self) -> impl Iterator<Item = &Self> {
        std::iter::successors(Some(self), |image| image.parent.as_deref())
    }
}

/// Opens images and what they refer to.
pub struct Opener<'a> {
    gate: &'a dyn Gate,
    /// Size of the guest's sectors in raw files, which do not tell it.
    raw_sector: u32,
    /// Images that are being opened, the topmost first.
    chain: Vec<PathBuf>,
}

impl<'a> Opener<'a> {
    /// Opens other files through `gate` only.
    pub fn new(gate: &'a dyn Gate) -> Self {
        Self { gate, raw_sector: 512, chain: Vec::new() }
    }

    /// Takes raw files for disks with sectors of `bytes`, 512 or 4096. Block devices tell theirs.
    pub fn raw_sector(mut self, bytes: u32) -> Self {
        self.raw_sector = bytes;
        self
    }

    /// Opens the image at `location`, as what it seems to be unless `format` is given. Parents are opened for reading.
    pub fn open<'b>(
        &'b mut self,
        location: &'b Location,
        format: Option<Format>,
        access: Access,
    ) -> LocalBoxFuture<'b, Result<Image, ImageError>> {
        Box::pin(async move {
            self.enter(location)?;
            let opened = self.open_entered(location, format, access).await;
            self.chain.pop();
            opened
        })
    }

    async fn open_entered(
        &mut self,
        location: &Location,
        format: Option<Format>,
        access: Access,
    ) -> Result<Image, ImageError> {
        let file = ImageFile::open(&*location.folder, &location.path, access).await?;
        let format = match format {
            Some(format) => format,
            None => probe(&file).await?,
        };
        // On the heap: a chain of parents is opened one inside the other, and the stack would have all formats at each step.
        match format {
            Format::Raw => self.open_raw(location, file),
            Format::Vhdx => crate::vhdx::open(self, location, file, access).boxed_local().await,
            Format::Vhd => crate::vhd::open(self, location, file, access).boxed_local().await,
            Format::Vmdk => crate::vmdk::open(self, location, file, access).await,
        }
    }

    fn enter(&mut self, location: &Location) -> Result<(), ImageError> {
        let path = location.display();
        let top = || self.chain.first().unwrap_or(&path).clone();
        if self.chain.contains(&path) {
            return Err(ImageError::ChainLoop { path: top(), again: path });
        }
        if self.chain.len() > MAX_PARENTS {
            return Err(ImageError::ChainTooLong { path: top(), limit: MAX_PARENTS });
        }
        self.chain.push(path);
        Ok(())
    }

    fn open_raw(&self, location: &Location, file: ImageFile) -> Result<Image, ImageError> {
        let files = vec![location.display()];
        let kind = if file.sectors().is_some() { "block device" } else { "raw" };
        let disk = Arc::new(RawDisk::over(file, self.raw_sector)?);
        Ok(Image {
            format: Format::Raw,
            kind: kind.to_owned(),
            files,
            disk,
            identity: None,
            block_bytes: None,
            details: Vec::new(),
            parent: None,
        })
    }

    /// Opens a file that holds a part of the image at `from`.
    pub async fn extent(
        &self,
        from: &Location,
        reference: &str,
        access: Access,
    ) -> Result<(Location, ImageFile), ImageError> {
        let mut tried = Vec::new();
        for place in self.gate.admit(from, reference, Purpose::Extent)? {
            match ImageFile::open(&*place.folder, &place.path, access).await {
                Ok(file) => return Ok((place, file)),
                Err(FileError::NotFound { path }) => tried.push(path),
                Err(error) => return Err(error.into()),
            }
        }
        Err(missing(from, reference, tried))
    }

    /// Opens the parent of the image at `from`: the first that is there and of which `accept` finds no fault. `references` are
    /// the names that the image has for it, the best first.
    pub async fn parent(
        &mut self,
        from: &Location,
        references: &[String],
        access: Access,
        accept: impl Fn(&Image) -> Result<(), ImageError>,
    ) -> Result<Image, ImageError> {
        let access = match access {
            Access::ReadShared => Access::ReadShared,
            Access::Read | Access::Write => Access::Read,
        };
        let mut tried = Vec::new();
        let mut refused = None;
        for reference in references {
            let places = match self.gate.admit(from, reference, Purpose::Parent) {
                Ok(places) => places,
                Err(error) => {
                    refused.get_or_insert(error);
                    continue;
                }
            };
            for place in places {
                match self.open(&place, None, access).await {
                    Ok(image) => match accept(&image) {
                        Ok(()) => return Ok(image),
                        Err(error) => refused = Some(error),
                    },
                    Err(ImageError::File(FileError::NotFound { path })) => tried.push(path),
                    Err(error) => return Err(error),
                }
            }
        }
        let names = references.join(", ");
        Err(refused.unwrap_or_else(|| missing(from, &names, tried)))
    }
}

fn missing(from: &Location, reference: &str, mut tried: Vec<PathBuf>) -> ImageError {
    tried.dedup();
    ImageError::Missing { path: from.display(), reference: reference.to_owned(), tried }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::faults::{FaultFolder, Seed, run};
    use crate::image::BesideTheImage;
    use std::path::Path;

    fn at(folder: &FaultFolder, path: &str) -> Location {
        Location { folder: Arc::new(folder.clone()), path: PathBuf::from(path) }
    }

    fn in_memory(test: impl AsyncFn(&FaultFolder)) {
        let mut seed = Seed::new(7);
        let folder = FaultFolder::new(seed.fork());
        run(&mut seed, |_| test(&folder));
    }

    #[test]
    fn what_is_no_image_of_a_kind_is_raw() {
        in_memory(async |folder| {
            RawDisk::create(folder, Path::new("os.raw"), 8192).await.expect("created");
            let mut opener = Opener::new(&BesideTheImage);
            let image = opener.open(&at(folder, "os.raw"), None, Access::Write).await;
            let image = image.expect("opened");
            assert_eq!((image.format, image.chain().count()), (Format::Raw, 1));
            assert_eq!(image.disk.geometry().size_bytes, 8192);
            let again = opener.open(&at(folder, "os.raw"), None, Access::Read).await.err();
            let locked = matches!(again, Some(ImageError::File(FileError::Locked { .. })));
            assert!(locked, "a reader would see what is being written: {again:?}");
        });
    }

    #[test]
    fn a_chain_neither_comes_back_nor_goes_on_for_ever() {
        in_memory(async |folder| {
            let mut opener = Opener::new(&BesideTheImage);
            opener.enter(&at(folder, "a")).expect("the first");
            opener.enter(&at(folder, "b")).expect("another");
            let error = opener.enter(&at(folder, "a")).expect_err("it was there before");
            assert!(matches!(error, ImageError::ChainLoop { .. }), "{error}");
            for number in 0..MAX_PARENTS - 1 {
                opener.enter(&at(folder, &number.to_string())).expect("not too many");
            }
            let error = opener.enter(&at(folder, "last")).expect_err("too many");
            assert!(error.to_string().contains("more than 64 parents"), "{error}");
        });
    }

    #[test]
    fn a_parent_is_looked_for_under_all_its_names() {
        in_memory(async |folder| {
            RawDisk::create(folder, Path::new("base.raw"), 8192).await.expect("created");
            let mut opener = Opener::new(&BesideTheImage);
            let child = at(folder, "child");
            let names = ["../gone.raw", "C:\\vms\\moved.raw", "base.raw"].map(str::to_owned);
            let found = opener.parent(&child, &names, Access::Write, |_| Ok(())).await;
            let found = found.expect("the third is there");
            assert!(found.disk.geometry().read_only);
            let error = opener.parent(&child, &names[1..2], Access::Read, |_| Ok(())).await;
            let error = error.err().expect("it is not there").to_string();
            assert!(error.contains("moved.raw"), "{error}");
        });
    }
}
