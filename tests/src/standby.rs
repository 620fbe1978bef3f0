//! Standby files in the faulty folder, and what a person finds of them there.

use crate::world::World;
use futures_util::future::LocalBoxFuture;
use landfall_disks::Buffer;
use landfall_disks::faults::FaultFolder;
use landfall_disks::file::{Caching, FileError, Folder, OpenMode};
use landfall_disks::image::{Access, BesideTheImage, Format, ImageError, Location, Opener, Wishes};
use landfall_retention::ids::DiskIdentity;
use landfall_retention::standby::StandbyPlaces;
use landfall_retention::standby::sidecar::{FileStamp, SUFFIX, Sidecar};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Every folder is the one there is.
pub struct Places(FaultFolder);

impl Places {
    /// Standby files beside everything else in the world.
    pub fn of(world: &World) -> Self {
        Self(world.folder.clone())
    }
}

impl StandbyPlaces for Places {
    fn folder<'a>(&'a self, _: &'a str) -> LocalBoxFuture<'a, Result<Arc<dyn Folder>, FileError>> {
        Box::pin(async { Ok(Arc::new(self.0.clone()) as Arc<dyn Folder>) })
    }

    /// There is no time of change here; what a file holds stands for it.
    fn stamp<'a>(
        &'a self,
        _: &'a str,
        name: &'a str,
    ) -> LocalBoxFuture<'a, Result<FileStamp, FileError>> {
        Box::pin(async move {
            let bytes = read_file(&self.0, name).await?;
            let modified = crc32c::crc32c(&bytes).into();
            let length_bytes = bytes.len() as u64;
            Ok(FileStamp { name: name.into(), inode: 1, length_bytes, modified, changed: modified })
        })
    }

    /// As the service makes them.
    fn wishes(&self, format: Format, size_bytes: u64, identity: DiskIdentity) -> Wishes {
        let kind = (format == Format::Vmdk).then(|| "vmfs".to_owned());
        let disk_id = Some(identity.bytes());
        Wishes { kind, disk_id, ..Wishes::new(format, size_bytes) }
    }
}

async fn read_file(folder: &FaultFolder, name: &str) -> Result<Vec<u8>, FileError> {
    let file = folder.open(Path::new(name), OpenMode::Read, Caching::Buffered).await?;
    let length = usize::try_from(file.length().await?).expect("small");
    Ok(file.read_at(0, Buffer::zeroed(length)).await?.to_vec())
}

/// What stands beside the file `name`, read as a person would: it has to be whole. `None` if nothing does.
pub async fn sidecar(folder: &FaultFolder, name: &str) -> Result<Option<Sidecar>, FileError> {
    match read_file(folder, &format!("{name}{SUFFIX}")).await {
        Ok(bytes) => Ok(Some(Sidecar::parse(&bytes).expect("a whole sidecar"))),
        Err(FileError::NotFound { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// What a hypervisor finds in the image `name`; it looks without writing and without asking who has it open.
pub async fn content(
    folder: &FaultFolder,
    name: &str,
    format: Format,
) -> Result<Vec<u8>, ImageError> {
    let location = Location { folder: Arc::new(folder.clone()), path: PathBuf::from(name) };
    let mut opener = Opener::new(&BesideTheImage);
    let image = opener.open(&location, Some(format), Access::ReadShared).await?;
    let whole = image.disk.geometry().whole();
    Ok(image.disk.read(whole).await?.to_vec())
}
