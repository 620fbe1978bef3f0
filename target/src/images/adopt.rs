//! Files that exist and become the image of a disk: what they are, and why some cannot be taken.
//!
//! The target writes to what it adopts. So a file must hold a whole disk by itself, and nothing else may stand on it: a child
//! in the same folder reads through it, and knows it by an identity that the first write changes. Children elsewhere cannot
//! be seen from here.

use super::Images;
use landfall_disks::file::FileError;
use landfall_disks::image::{Access, BesideTheImage, Format, Image, ImageError, Location, Opener};
use landfall_disks::uring::offload;
use std::path::PathBuf;

/// A file that may be adopted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Existing {
    /// Its format.
    pub(crate) format: Format,
    /// Size of the disk in it.
    pub(crate) size_bytes: u64,
}

impl Images {
    /// What the file at `path` is, taken as `format` or as what its content says. Nothing is written.
    pub(crate) async fn look(
        &self,
        path: &str,
        format: Option<Format>,
    ) -> Result<Existing, ImageError> {
        let location = self.place(path)?;
        let mut opener = Opener::new(&BesideTheImage);
        let image = opener.open(&location, format, Access::Read).await?;
        if let Some(parent) = &image.parent {
            return Err(is_child(location.display(), parent));
        }
        if image.identity.is_some()
            && let Some(child) = child_of(&location).await?
        {
            let what = format!(
                "{} stands on it and would be broken by the first write; merge or move it first",
                child.display()
            );
            return Err(ImageError::unsupported(location.display(), what));
        }
        Ok(Existing { format: image.format, size_bytes: image.disk.geometry().size_bytes })
    }
}

/// An image that has a parent cannot be a machine's: it holds a part of the disk only.
pub(super) fn is_child(path: PathBuf, parent: &Image) -> ImageError {
    let parent = parent.files.first().map_or_else(String::new, |path| path.display().to_string());
    let what = format!("it holds only what differs from its parent {parent}; convert it first");
    ImageError::unsupported(path, what)
}

/// An image in the same folder that stands on the one at `location`.
async fn child_of(location: &Location) -> Result<Option<PathBuf>, ImageError> {
    let within = location.path.parent().map(PathBuf::from).unwrap_or_default();
    let own = location.display();
    for name in location.folder.list(&within).await? {
        let neighbour = Location { folder: location.folder.clone(), path: within.join(name) };
        let path = neighbour.display();
        // Opening a pipe would wait for somebody to write into it.
        let is_file = offload({
            let path = path.clone();
            move || path.metadata().is_ok_and(|metadata| metadata.is_file())
        });
        if path == own || !is_file.await {
            continue;
        }
        let mut opener = Opener::new(&BesideTheImage);
        match opener.open(&neighbour, None, Access::ReadShared).await {
            Ok(image) => {
                if image.chain().skip(1).any(|parent| parent.files.first() == Some(&own)) {
                    return Ok(Some(path));
                }
            }
            Err(ImageError::File(FileError::NotFound { .. })) => {}
            Err(error @ (ImageError::Malformed { .. } | ImageError::File(_))) => {
                let what = format!(
                    "{} may stand on it and cannot be read ({error}); mend that one, or move it away",
                    path.display()
                );
                return Err(ImageError::unsupported(own, what));
            }
            // No image, or one whose parent is another file or another content: nothing here can break it.
            Err(_) => {}
        }
    }
    Ok(None)
}
