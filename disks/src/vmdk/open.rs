//! Opening: from the first bytes of a file to a disk.
//!
//! ```text
//!   file ─ text ───────────────────────▶ descriptor ─▶ parent (CID checked) ─▶ extents, each in its own file
//!        ─ "KDMV", descriptor embedded ─▶ descriptor ─▶ parent               ─▶ this file is the extent
//!        ─ "KDMV" alone ───────────────────────────────────────────────────▶ this file, read only
//! ```

use super::description::{Description, Home};
use super::disk::VmdkDisk;
use super::extents::Extents;
use super::format::descriptor::{ContentId, CreateType, Descriptor, MAX_DESCRIPTOR_BYTES};
use super::format::header::{self, SparseHeader};
use super::format::{SECTOR_BYTES, cowd, malformed, sesparse};
use super::sparse::read_header;
use crate::block::{ByteOffset, ByteRange};
use crate::disk::Disk;
use crate::image::{Access, Format, Identity, Image, ImageError, ImageFile, Location, Opener};
use futures_util::FutureExt;
use futures_util::future::LocalBoxFuture;
use std::path::Path;
use std::sync::Arc;

/// The first look at a disk: its descriptor, and where that was found.
pub(super) struct Look {
    pub(super) descriptor: Descriptor,
    /// The extent it is embedded in; without one, it has its own file.
    pub(super) embedded: Option<SparseHeader>,
    /// Where in its file it is, in bytes.
    pub(super) offset: u64,
}

/// Opens the disk whose first file is `file`.
///
/// Each step is a future of its own on the heap: a chain of parents is opened one inside the other, and what they keep on the stack
/// adds up.
pub(crate) fn open<'a>(
    opener: &'a mut Opener<'_>,
    location: &'a Location,
    file: ImageFile,
    access: Access,
) -> LocalBoxFuture<'a, Result<Image, ImageError>> {
    Box::pin(async move {
        let found = Look::at(&file).boxed_local().await?;
        check_writable(location, &found, access)?;
        let parent = open_parent(opener, location, &found.descriptor, access).boxed_local().await?;
        assemble(opener, location, (file, found, parent), access).boxed_local().await
    })
}

/// Puts a disk together, from its descriptor and its parent.
async fn assemble(
    opener: &mut Opener<'_>,
    location: &Location,
    (file, found, parent): (ImageFile, Look, Option<Box<Image>>),
    access: Access,
) -> Result<Image, ImageError> {
    let descriptor = &found.descriptor;
    let below = parent.as_ref().map(|parent| Arc::clone(&parent.disk) as Arc<dyn Disk>);
    let mut extents = Extents::new(opener, location, access, below.clone());
    let mut details = details(descriptor);
    let embedded = found.embedded.is_some();
    let (parts, file) = if embedded {
        let file = Arc::new(file);
        (extents.open_embedded(descriptor, &file).await?, Keep::Extent(file))
    } else {
        (extents.open_all(descriptor).await?, Keep::Descriptor(file))
    };
    let block_bytes = parts.iter().find_map(|opened| opened.grain_bytes);
    if let Some(header) =
        found.embedded.as_ref().or(parts.iter().find_map(|opened| opened.header.as_ref()))
    {
        details.push(("header version", header.version.number().to_string()));
        details.push(("unclean shutdown", header.unclean_shutdown.to_string()));
    }
    let mut files = vec![location.display()];
    files.extend(extents.used());
    let home = match file {
        Keep::Descriptor(file) => Home::Own(file),
        Keep::Extent(file) => {
            let table = parts.first().and_then(|opened| opened.table.clone());
            Home::Embedded(file, table)
        }
    };
    let identity = Identity { kind: "CID", value: descriptor.cid().to_string() };
    let kind = descriptor.create_type().name().to_owned();
    let parts = parts.into_iter().map(|opened| opened.part).collect();
    let description =
        Description { location: location.clone(), descriptor: found.descriptor, home };
    let disk = Arc::new(VmdkDisk::new(parts, access, below, description));
    Ok(Image {
        format: Format::Vmdk,
        kind,
        files,
        disk,
        identity: Some(identity),
        block_bytes,
        details,
        parent,
    })
}

/// What the first file of a disk is kept for.
enum Keep {
    Descriptor(ImageFile),
    Extent(Arc<ImageFile>),
}

/// Whether a file starts with `magic`.
pub(super) async fn starts_with(file: &ImageFile, magic: &[u8]) -> Result<bool, ImageError> {
    let length = magic.len() as u64;
    if file.length() < length {
        return Ok(false);
    }
    Ok(*file.read(ByteRange::up_to(length)).await? == *magic)
}

impl Look {
    /// Finds the descriptor in the first file of a disk.
    pub(super) async fn at(file: &ImageFile) -> Result<Self, ImageError> {
        let fail = |problem| ImageError::malformed(file.path(), problem);
        for (magic, name) in [(&cowd::MAGIC[..], "COWD"), (&sesparse::MAGIC[..], "seSparse")] {
            if starts_with(file, magic).await? {
                let what =
                    format!("an extent of a delta ({name}); the disk is opened by its descriptor");
                return Err(ImageError::unsupported(file.path(), what));
            }
        }
        if starts_with(file, &header::MAGIC).await? {
            return Self::embedded(file).await;
        }
        if file.length() > MAX_DESCRIPTOR_BYTES as u64 {
            let expected = format!("at most {MAX_DESCRIPTOR_BYTES} bytes");
            return Err(fail(malformed("VMDK descriptor", 0, "length", file.length(), expected)));
        }
        let bytes = file.read(ByteRange::up_to(file.length())).await?;
        let descriptor = Descriptor::parse(&bytes, 0).map_err(fail)?;
        Ok(Self { descriptor, embedded: None, offset: 0 })
    }

    async fn embedded(file: &ImageFile) -> Result<Self, ImageError> {
        let fail = |problem| ImageError::malformed(file.path(), problem);
        let header = read_header(file).await?;
        let Some(stretch) = header.descriptor else {
            let descriptor = bare_descriptor(file.path(), &header)?;
            return Ok(Self { descriptor, embedded: Some(header), offset: 0 });
        };
        let length = stretch.count * SECTOR_BYTES;
        let range = ByteRange::at(ByteOffset::new(stretch.start * SECTOR_BYTES), length);
        let range = range.expect("checked to be far below 2^64");
        if range.end().bytes() > file.length() {
            let expected = format!("{length} bytes within {} of the file", file.length());
            let (structure, field) = ("VMDK sparse header", "descriptorOffset");
            return Err(fail(malformed(structure, 0, field, stretch.start, expected)));
        }
        let bytes = file.read(range).await?;
        let offset = range.start().bytes();
        // Extents of a disk in several files may have room for a descriptor, and none in it.
        let descriptor = if bytes.first() == Some(&0) {
            bare_descriptor(file.path(), &header)?
        } else {
            Descriptor::parse(&bytes, offset).map_err(fail)?
        };
        Ok(Self { descriptor, embedded: Some(header), offset })
    }
}

/// A descriptor for an extent that has none: one of several of a disk, opened alone.
fn bare_descriptor(path: &Path, header: &SparseHeader) -> Result<Descriptor, ImageError> {
    let text = format!(
        "version=1\nCID={}\ncreateType=\"{BARE}\"\nRW {} SPARSE \"bare\"\n",
        ContentId::NONE,
        header.capacity
    );
    let parsed = Descriptor::parse(text.as_bytes(), 0);
    parsed.map_err(|problem| ImageError::malformed(path, problem))
}

/// What a single extent without a descriptor is called.
const BARE: &str = "extent";

/// Refuses to write what a writer would break.
fn check_writable(location: &Location, found: &Look, access: Access) -> Result<(), ImageError> {
    let refuse = |what: &str| Err(ImageError::unsupported(location.display(), what));
    if access.is_read_only() {
        return Ok(());
    }
    if found.descriptor.change_track_path().is_some() {
        return refuse("changed block tracking is on, which other writers break; it is read only");
    }
    match found.descriptor.create_type() {
        CreateType::StreamOptimized => {
            refuse("streamOptimized disks are read, and written as exports only")
        }
        CreateType::VmfsSparse | CreateType::SeSparse => refuse("deltas of ESX are read only"),
        CreateType::Other(name) if name == BARE => {
            refuse("an extent without a descriptor is read only")
        }
        _ => Ok(()),
    }
}

fn details(descriptor: &Descriptor) -> Vec<(&'static str, String)> {
    let mut details = vec![
        ("parent CID", descriptor.parent_cid().to_string()),
        ("extents", descriptor.extents().count().to_string()),
    ];
    for (name, key) in [
        ("parent", "parentFileNameHint"),
        ("adapter", "ddb.adapterType"),
        ("uuid", "ddb.uuid"),
        ("long content id", "ddb.longContentID"),
        ("hardware version", "ddb.virtualHWVersion"),
        ("tools version", "ddb.toolsVersion"),
        ("change tracking", "changeTrackPath"),
    ] {
        details.extend(descriptor.setting(key).map(|value| (name, value.to_owned())));
    }
    let geometry = ["cylinders", "heads", "sectors"]
        .map(|part| descriptor.setting(&format!("ddb.geometry.{part}")).unwrap_or("?"));
    details.push(("cylinders/heads/sectors", geometry.join("/")));
    details
}

async fn open_parent(
    opener: &mut Opener<'_>,
    location: &Location,
    descriptor: &Descriptor,
    access: Access,
) -> Result<Option<Box<Image>>, ImageError> {
    let fail = |field, value: String, expected: &'static str| {
        let problem = malformed("VMDK descriptor", 0, field, value, expected);
        Err(ImageError::malformed(location.display(), problem))
    };
    let expected = descriptor.parent_cid();
    let hint = match (descriptor.parent_hint(), expected == ContentId::NONE) {
        (None, true) => return Ok(None),
        (None, false) => {
            let wanted = "the name of the parent, as there is a parentCID";
            return fail("parentFileNameHint", "missing".to_owned(), wanted);
        }
        (Some(_), true) => {
            let wanted = "the CID of the parent, as there is a parentFileNameHint";
            return fail("parentCID", expected.to_string(), wanted);
        }
        (Some(hint), false) => [hint.to_owned()],
    };
    let accept = |parent: &Image| {
        let found = parent.identity.as_ref();
        let same = parent.format == Format::Vmdk
            && found.is_some_and(|identity| identity.value == expected.to_string());
        if same {
            return Ok(());
        }
        Err(ImageError::ParentMismatch {
            path: location.display(),
            parent: parent.files[0].clone(),
            kind: "CID",
            expected: expected.to_string(),
            found: found.map_or_else(|| parent.format.to_string(), |found| found.value.clone()),
        })
    };
    let parent = opener.parent(location, &hint, access, accept).boxed_local().await?;
    Ok(Some(Box::new(parent)))
}
