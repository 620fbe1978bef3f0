//! Images that the programs of the tests write, opened as the target opens those of its machines.

use anyhow::Context;
use landfall_disks::image::{Access, BesideTheImage, Location, Opener};
use landfall_disks::mapped::Layer;
use landfall_disks::uring::Directory;
use std::path::Path;
use std::sync::Arc;

/// Opens the image at `path` for writing. Called on an I/O core.
pub async fn open(path: &Path) -> anyhow::Result<Arc<dyn Layer>> {
    let folder = Directory::open(path.parent().context("a path with a folder")?)?;
    let name = path.file_name().context("a file")?.into();
    let location = Location { folder: Arc::new(folder), path: name };
    let image = Opener::new(&BesideTheImage).open(&location, None, Access::Write).await?;
    Ok(image.disk)
}
