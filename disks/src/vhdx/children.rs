//! Which images of a folder are differencing children of another.
//!
//! An image does not know its children. A child is found by the `DataWriteGuid` it names, whatever it calls the file; one
//! that lies elsewhere cannot be found. Whoever is about to write to an image, or to adopt it, asks here first.

use super::Guid;
use super::container::Container;
use crate::file::{Caching, FileError, Folder, OpenMode};
use crate::image::{Access, Format, ImageError, ImageFile, probe_bytes};
use crate::uring::buffer::Buffer;
use std::path::{Path, PathBuf};

/// What was found in a folder.
#[derive(Debug, Default)]
pub struct Children {
    /// Images that name the parent.
    pub found: Vec<PathBuf>,
    /// VHDX files of which it cannot be told, and why.
    pub unreadable: Vec<(PathBuf, ImageError)>,
}

/// The children of the image with `data_write_guid` among the files of `within`, a path in `folder`.
pub async fn children(
    folder: &dyn Folder,
    within: &Path,
    data_write_guid: Guid,
) -> Result<Children, FileError> {
    let mut children = Children::default();
    for name in folder.list(within).await? {
        let path = within.join(name);
        if !starts_as_vhdx(folder, &path).await {
            continue;
        }
        match names(folder, &path, data_write_guid).await {
            Ok(true) => children.found.push(path),
            Ok(false) => {}
            Err(error) => children.unreadable.push((path, error)),
        }
    }
    Ok(children)
}

/// Whether the image at `path` names the parent. It may be in use: what it says of its parent does not change.
async fn names(folder: &dyn Folder, path: &Path, parent: Guid) -> Result<bool, ImageError> {
    let file = ImageFile::open(folder, path, Access::ReadShared).await?;
    let image = Container::open(file, &super::no_guids()).await?;
    Ok(image.metadata.parent.is_some_and(|locator| locator.names(parent)))
}

/// Folders, short files and what cannot be read at all are no images.
async fn starts_as_vhdx(folder: &dyn Folder, path: &Path) -> bool {
    let Ok(file) = folder.open(path, OpenMode::Read, Caching::Buffered).await else {
        return false;
    };
    file.read_at(0, Buffer::zeroed(8))
        .await
        .is_ok_and(|start| probe_bytes(&start, &[]) == Format::Vhdx)
}
