//! Where standby files are: folders that the service opens, images in them, and the sidecars beside those.
//!
//! ```text
//!   write a sidecar   web-os.raw.landfall.new ─▶ flush ─▶ rename ─▶ sync the folder
//! ```

use super::sidecar::{FileStamp, MAX_BYTES, SUFFIX, Sidecar, SidecarFault};
use crate::ids::DiskIdentity;
use crate::name::Name;
use futures_util::future::LocalBoxFuture;
use landfall_disks::file::{Caching, FileError, Folder, OpenMode};
use landfall_disks::image::{
    self, Access, BesideTheImage, Format, Image, ImageError, Location, Opener, Wishes,
};
use landfall_disks::{Buffer, DiskError};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Opens folders of standby files; the service knows file systems.
pub trait StandbyPlaces: Send + Sync {
    /// Opens the folder at `path`, which must exist.
    fn folder<'a>(
        &'a self,
        path: &'a str,
    ) -> LocalBoxFuture<'a, Result<Arc<dyn Folder>, FileError>>;

    /// What the file system says of a file in the folder at `path`.
    fn stamp<'a>(
        &'a self,
        path: &'a str,
        name: &'a str,
    ) -> LocalBoxFuture<'a, Result<FileStamp, FileError>>;

    /// What a new image is to be like, of a disk that guests know as `identity`.
    fn wishes(&self, format: Format, size_bytes: u64, identity: DiskIdentity) -> Wishes;
}

/// The name of the file of a disk.
pub(super) fn file_name(machine: &Name, disk: &Name, format: Format) -> String {
    format!("{machine}-{disk}.{format}")
}

/// An open folder of standby files.
pub(super) struct Place<'a> {
    pub(super) places: &'a dyn StandbyPlaces,
    pub(super) path: &'a str,
    pub(super) folder: Arc<dyn Folder>,
    pub(super) format: Format,
}

impl<'a> Place<'a> {
    pub(super) async fn open(
        places: &'a dyn StandbyPlaces,
        path: &'a str,
        format: Format,
    ) -> Result<Self, FileError> {
        let folder = places.folder(path).await?;
        Ok(Self { places, path, folder, format })
    }

    /// A file as a person would name it.
    pub(super) fn path_of(&self, name: &str) -> PathBuf {
        Path::new(self.path).join(name)
    }

    pub(super) fn location(&self, name: &str) -> Location {
        Location { folder: Arc::clone(&self.folder), path: PathBuf::from(name) }
    }

    /// Whether there is a file of that name.
    pub(super) async fn exists(&self, name: &str) -> Result<bool, FileError> {
        match self.folder.open(Path::new(name), OpenMode::Read, Caching::Buffered).await {
            Ok(_) => Ok(true),
            Err(FileError::NotFound { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// What stands beside the file `name`; nothing if nothing does.
    pub(super) async fn sidecar(
        &self,
        name: &str,
    ) -> Result<Option<Result<Sidecar, SidecarFault>>, FileError> {
        let path = sidecar_name(name);
        let opened = self.folder.open(Path::new(&path), OpenMode::Read, Caching::Buffered).await;
        let file = match opened {
            Ok(file) => file,
            Err(FileError::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
        let length = usize::try_from(file.length().await?).unwrap_or(usize::MAX);
        if length > MAX_BYTES {
            return Ok(Some(Err(SidecarFault::TooLong(length))));
        }
        let bytes = file.read_at(0, Buffer::zeroed(length)).await?;
        Ok(Some(Sidecar::parse(&bytes)))
    }

    /// Puts a sidecar beside the file `name`; durable after [`Place::sync`].
    pub(super) async fn put(&self, name: &str, sidecar: &Sidecar) -> Result<(), FileError> {
        let (path, text) = (sidecar_name(name), sidecar.encode());
        let new = format!("{path}.new");
        match self.folder.remove(Path::new(&new)).await {
            Ok(()) | Err(FileError::NotFound { .. }) => {}
            Err(error) => return Err(error),
        }
        let file =
            self.folder.open(Path::new(&new), OpenMode::CreateNew, Caching::Buffered).await?;
        file.write_at(0, Buffer::copy_of(text.as_bytes())).await?;
        file.flush().await?;
        self.folder.rename(Path::new(&new), Path::new(&path)).await
    }

    /// Makes names of files durable.
    pub(super) async fn sync(&self) -> Result<(), FileError> {
        self.folder.sync(Path::new("")).await
    }

    /// Opens an image for writing, locked.
    pub(super) async fn open_image(&self, name: &str) -> Result<Image, ImageError> {
        let location = self.location(name);
        let mut opener = Opener::new(&BesideTheImage);
        let image = opener.open(&location, Some(self.format), Access::Write).await?;
        if image.parent.is_some() {
            let what = "it holds only what differs from its parent, which a standby never does";
            return Err(ImageError::unsupported(location.display(), what));
        }
        if image.disk.geometry().read_only {
            return Err(ImageError::Disk(DiskError::ReadOnly));
        }
        Ok(image)
    }

    /// Makes an image that reads as zeroes, and opens it.
    pub(super) async fn make_image(
        &self,
        name: &str,
        size_bytes: u64,
        identity: DiskIdentity,
    ) -> Result<Image, ImageError> {
        for left in parts(name) {
            // A crash may have come between the parts of an image and the file that names them.
            match self.folder.remove(Path::new(&left)).await {
                Ok(()) | Err(FileError::NotFound { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        let wishes = self.places.wishes(self.format, size_bytes, identity);
        image::create(&self.location(name), &wishes, None, &BesideTheImage).await?;
        self.open_image(name).await
    }

    /// What the content of an image that we have open is called, and its files as they are.
    pub(super) async fn left(
        &self,
        name: &str,
        image: &Image,
    ) -> Result<(Option<String>, Vec<FileStamp>), ImageError> {
        let content = match &image.identity {
            None => None,
            Some(_) => self.content(name).await?,
        };
        Ok((content, self.stamps(image).await?))
    }

    /// What an image calls its content at present.
    async fn content(&self, name: &str) -> Result<Option<String>, ImageError> {
        let image = self.open_to_read(name).await?;
        Ok(image.identity.map(|identity| identity.to_string()))
    }

    /// Opens an image beside whoever has it open, changing nothing.
    pub(super) async fn open_to_read(&self, name: &str) -> Result<Image, ImageError> {
        let mut opener = Opener::new(&BesideTheImage);
        opener.open(&self.location(name), Some(self.format), Access::ReadShared).await
    }

    /// The files of an image, as the file system has them.
    pub(super) async fn stamps(&self, image: &Image) -> Result<Vec<FileStamp>, ImageError> {
        let mut stamps = Vec::with_capacity(image.files.len());
        for path in &image.files {
            let name = path.file_name().and_then(std::ffi::OsStr::to_str);
            let plain = name.filter(|name| !name.contains(|c: char| c == ' ' || c.is_control()));
            let Some(name) = plain else {
                let what = "it consists of files that no standby consists of";
                return Err(ImageError::unsupported(path, what));
            };
            stamps.push(self.places.stamp(self.path, name).await?);
        }
        Ok(stamps)
    }

    /// Removes a standby file with what belongs to it; the sidecar goes last.
    pub(super) async fn remove(&self, name: &str) -> Result<(), FileError> {
        let sidecar = sidecar_name(name);
        for one in [name.to_owned()].into_iter().chain(parts(name)).chain([sidecar]) {
            match self.folder.remove(Path::new(&one)).await {
                Ok(()) | Err(FileError::NotFound { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        self.sync().await
    }
}

pub(super) fn sidecar_name(name: &str) -> String {
    format!("{name}{SUFFIX}")
}

/// Files that an image may consist of beside its own.
pub(super) fn parts(name: &str) -> Vec<String> {
    let stem = name.strip_suffix(".vmdk");
    stem.map(|stem| format!("{stem}-flat.vmdk")).into_iter().collect()
}
