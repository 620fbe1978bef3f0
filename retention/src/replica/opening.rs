//! Disks at a start: their images and block hashes, many at once.
//!
//! A medium with moving parts takes a few seeks for each image, one after the other; a host has thousands of them.
//! **Invariant:** what was begun is ended, also when another image fails: nothing is half made but by a crash.

use super::verdict::{Verdict, judge};
use super::{Image, ImageSpec, ImageStore, ReplicaDisk, spec};
use crate::ids::{DiskId, DiskIdentity};
use crate::image_hashes::{self, Described, ImageHashes, PageCache};
use crate::manifest::Manifest;
use crate::manifest::record::ManifestRecord;
use crate::manifest::state::DiskEntry;
use crate::retention::{OpenError, Surroundings};
use futures_util::stream::{self, StreamExt};
use landfall_disks::image::ImageError;
use landfall_disks::{Disk, DiskError};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Disks that are opened at once.
const AT_ONCE: usize = 32;

/// All disks there are, and which images are gone, a line each.
pub(crate) async fn open_disks(
    manifest: &Manifest,
    surroundings: &Surroundings,
    hash_cache: &Arc<PageCache>,
) -> Result<(BTreeMap<DiskId, Arc<ReplicaDisk>>, Vec<String>), OpenError> {
    let entries: Vec<_> = manifest.state().disks.values().cloned().collect();
    let there: BTreeSet<_> = entries.iter().map(|entry| entry.id).collect();
    let known = |disk: DiskId| there.contains(&disk);
    if let Err(error) = image_hashes::remove_unknown(&*surroundings.data, known).await {
        tracing::warn!(%error, "block hashes of disks that are gone cannot be removed");
    }
    let opening = entries.iter().map(|entry| open_disk(manifest, surroundings, hash_cache, entry));
    let opened: Vec<_> = stream::iter(opening).buffered(AT_ONCE).collect().await;
    let (mut disks, mut lost) = (BTreeMap::new(), Vec::new());
    for disk in opened {
        let disk = disk?;
        if let Image::Lost(reason) = disk.image() {
            let before = entries.iter().any(|entry| entry.id == disk.id() && entry.lost.is_some());
            lost.extend((!before).then(|| format!("disk {}: {reason}", disk.name())));
        }
        disks.insert(disk.id(), Arc::new(disk));
    }
    Ok((disks, lost))
}

async fn open_disk(
    manifest: &Manifest,
    surroundings: &Surroundings,
    hash_cache: &Arc<PageCache>,
    entry: &DiskEntry,
) -> Result<ReplicaDisk, OpenError> {
    let (image, untouched) = open_image(manifest, &*surroundings.images, entry).await?;
    let of = Described { disk: entry.id, folder: manifest.folder_id() };
    let data = &*surroundings.data;
    let hashes = match (&image, entry.floor) {
        (Image::Lost(_), _) => ImageHashes::none(of, hash_cache),
        (Image::Present(_), Some(floor)) => ImageHashes::open(data, of, floor, hash_cache).await,
        (Image::Present(_), None) => ImageHashes::create(data, of, untouched, hash_cache).await,
    };
    Ok(ReplicaDisk::new(entry, image, untouched, hashes))
}

/// The image of a disk, and whether it is a new one.
async fn open_image(
    manifest: &Manifest,
    images: &dyn ImageStore,
    entry: &DiskEntry,
) -> Result<(Image, bool), OpenError> {
    let spec = spec(entry);
    let failed = |source| OpenError::Image { path: spec.path.clone(), source: Box::new(source) };
    if let Some(reason) = &entry.lost {
        // Once lost, a file of that name may be anything.
        return Ok((Image::Lost(reason.clone()), false));
    }
    let error = match open_grown(images, entry, &spec).await {
        Ok(image) => return Ok((Image::Present(image), false)),
        Err(error) => error,
    };
    let reason = match judge(&error, entry.floor.is_some()) {
        Verdict::Missing => {
            let identity = DiskIdentity::of(manifest.folder_id(), entry.id);
            let image = images.create(&spec, identity).await.map_err(failed)?;
            return Ok((Image::Present(image), true));
        }
        Verdict::Lost(reason) => {
            let record = ManifestRecord::ImageLost { disk: entry.id, reason: reason.clone() };
            manifest.append(vec![record]).await?;
            reason
        }
        Verdict::SetAside(reason) => reason,
        Verdict::Failed => return Err(failed(error)),
    };
    Ok((Image::Lost(reason), false))
}

/// The image of a disk, which may have been made larger when a crash came: a fold grows it before what it holds counts,
/// and the record of a disk without history comes before its image.
async fn open_grown(
    images: &dyn ImageStore,
    entry: &DiskEntry,
    spec: &ImageSpec,
) -> Result<Arc<dyn Disk>, ImageError> {
    let error = match images.open(spec).await {
        Err(error) => error,
        opened => return opened,
    };
    let ImageError::Disk(DiskError::WrongSize { found_bytes, .. }) = &error else {
        return Err(error);
    };
    let (size_bytes, found) =
        (*found_bytes, ImageSpec { size_bytes: *found_bytes, ..spec.clone() });
    if entry.floor.is_none() && size_bytes < spec.size_bytes {
        let image = images.open(&found).await?;
        image.resize(spec.size_bytes).await?;
        image.flush().await?;
        return Ok(image);
    }
    if entry.floor.is_some() && entry.span.grown.values().any(|grown| *grown == size_bytes) {
        return images.open(&found).await;
    }
    Err(error)
}

/// The image of a new disk.
pub(crate) async fn make_image(
    images: &dyn ImageStore,
    spec: &ImageSpec,
    identity: DiskIdentity,
    adopt: bool,
) -> Result<Arc<dyn Disk>, ImageError> {
    if adopt { images.open(spec).await } else { images.create(spec, identity).await }
}
