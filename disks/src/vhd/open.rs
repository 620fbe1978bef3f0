//! Opening: which disk a file is, whether it is sound, and what it stands on.

use super::fixed::FixedDisk;
use super::format::{DynamicHeader, Footer, Kind, Platform};
use super::found::{FOOTER, Found, Tail, stretch, write_footer};
use super::sparse::{Sparse, space_of};
use super::table::BlockTable;
use crate::block::BLOCK_SIZE;
use crate::disk::Disk;
use crate::image::{
    Access, Format, Identity, Image, ImageError, ImageFile, Location, Malformed, Opener,
};
use crate::mapped::{MappedDisk, Setup, Space, Table};
use futures_util::future::LocalBoxFuture;
use std::sync::Arc;

/// What the format calls the identity of a disk. It stays when the content changes.
const IDENTITY: &str = "unique id";

/// Opens the VHD in `file`, which is at `location`.
///
/// One that is opened for writing is put in order first: a footer that is missing is written again.
pub async fn open(
    opener: &mut Opener<'_>,
    location: &Location,
    file: ImageFile,
    access: Access,
) -> Result<Image, ImageError> {
    let found = apart(Found::in_file(&file)).await?;
    let file = Arc::new(file);
    let unsupported = |what: &str| Err(ImageError::unsupported(location.display(), what));
    if access == Access::Write {
        if found.footer.kind == Kind::Differencing {
            return unsupported("differencing VHDs can be read, not written");
        }
        if found.footer.saved_state {
            return unsupported("a machine is suspended on this disk, so it can only be read");
        }
        if found.tail == Tail::Old {
            return unsupported("written before Virtual PC 2004, so it can only be read");
        }
    }
    if found.footer.kind == Kind::Fixed {
        return apart(open_fixed(location, file, found)).await;
    }
    let prepared = Box::new(apart(prepare(location, file, found)).await?);
    let parent = match prepared.footer.kind {
        Kind::Differencing => {
            let parent = open_parent(opener, location, &prepared).await?;
            Some(Box::new(parent))
        }
        _ => None,
    };
    Ok(assemble(location, *prepared, parent))
}

/// A step whose frame is on the stack only while it runs, and not once for each parent: a future of a type that is known is
/// made a part of the function that awaits it.
#[inline(never)]
fn apart<'a, T>(
    step: impl Future<Output = Result<T, ImageError>> + 'a,
) -> LocalBoxFuture<'a, Result<T, ImageError>> {
    Box::pin(step)
}

fn identity(footer: &Footer) -> Identity {
    Identity { kind: IDENTITY, value: footer.unique_id.to_string() }
}

fn details(footer: &Footer) -> Vec<(&'static str, String)> {
    vec![
        ("creator", footer.creator.to_string()),
        ("geometry", footer.geometry.to_string()),
        ("timestamp", format!("{} s after 2000", footer.timestamp.0)),
        ("saved state", if footer.saved_state { "yes" } else { "no" }.to_owned()),
    ]
}

async fn open_fixed(
    location: &Location,
    file: Arc<ImageFile>,
    found: Found,
) -> Result<Image, ImageError> {
    let footer = found.footer.clone();
    let disk = FixedDisk::open(file, found).await?;
    Ok(Image {
        format: Format::Vhd,
        kind: footer.kind.to_string(),
        files: vec![location.display()],
        disk: Arc::new(disk),
        identity: Some(identity(&footer)),
        block_bytes: None,
        details: details(&footer),
        parent: None,
    })
}

/// A dynamic or differencing disk that lacks its parent at most.
struct Prepared {
    footer: Footer,
    header: DynamicHeader,
    references: Vec<String>,
    table: BlockTable,
    space: Arc<Space>,
    file: Arc<ImageFile>,
}

/// Reads what `file` holds, checks all of it, and puts it in order if it may be written.
async fn prepare(
    location: &Location,
    file: Arc<ImageFile>,
    found: Found,
) -> Result<Prepared, ImageError> {
    let (footer, mut tail) = (found.footer.clone(), found.tail);
    let sparse = Sparse::read(Arc::clone(&file), found).await?;
    let header = sparse.header.clone();
    let references = references(&sparse).await?;
    let (mut table, usage, mut problems, harmless) = sparse.examine().await?;
    if !problems.is_empty() {
        return Err(ImageError::malformed(location.display(), problems.swap_remove(0)));
    }
    if file.access() == Access::Write && !harmless.is_empty() {
        tail = Tail::There(put_in_order(&file, &footer, tail).await?);
    }
    let end = match tail {
        Tail::There(at) => at,
        _ => file.length(),
    };
    let space = Arc::new(space_of(&usage, end, table.shape().lead_bytes));
    table.become_whole(Arc::clone(&space), end);
    Ok(Prepared { footer, header, references, table, space, file })
}

/// Not part of the function that opens parents, for its frame is on the stack once for each of them.
#[inline(never)]
fn assemble(location: &Location, prepared: Prepared, parent: Option<Box<Image>>) -> Image {
    let Prepared { footer, header, references, table, space, file } = prepared;
    let aligned = table.shape().lead_bytes.is_multiple_of(BLOCK_SIZE);
    let setup = Setup {
        table: Arc::new(table),
        file,
        space,
        parent: parent.as_ref().map(|parent| Arc::clone(&parent.disk) as Arc<dyn Disk>),
        size_bytes: footer.size_bytes(),
        logical_sector: 512,
        physical_sector: if aligned { 4096 } else { 512 },
    };
    let mut details = details(&footer);
    if footer.kind == Kind::Differencing {
        details.push(("parent", references.join(", ")));
        details.push(("parent unique id", header.parent_id.to_string()));
    }
    Image {
        format: Format::Vhd,
        kind: footer.kind.to_string(),
        files: vec![location.display()],
        disk: Arc::new(MappedDisk::new(setup)),
        identity: Some(identity(&footer)),
        block_bytes: Some(header.block_bytes.into()),
        details,
        parent,
    }
}

/// Writes footer and copy where they belong, durably; where the footer is then. The one that counts is written last, so that one
/// of both is always whole.
pub(super) async fn put_in_order(
    file: &ImageFile,
    footer: &Footer,
    tail: Tail,
) -> Result<u64, ImageError> {
    let at = match tail {
        Tail::There(at) => {
            write_footer(file, footer, 0).await?;
            at
        }
        Tail::Old | Tail::Missing | Tail::Early(_) => {
            let at = file.length().next_multiple_of(FOOTER);
            file.set_length(at + FOOTER).await?;
            write_footer(file, footer, at).await?;
            at
        }
    };
    file.flush().await?;
    Ok(at)
}

/// The names that a differencing disk has for its parent, the best first.
pub(super) async fn references(sparse: &Sparse) -> Result<Vec<String>, ImageError> {
    if sparse.found.footer.kind != Kind::Differencing {
        return Ok(Vec::new());
    }
    let header = &sparse.header;
    let wrong = |field, value: String, expected: &'static str| {
        let structure = "VHD dynamic header";
        let (offset, expected) = (sparse.header_offset, expected.into());
        let problem = Malformed { structure, offset, field, value, expected };
        ImageError::malformed(sparse.file.path(), problem)
    };
    let mut names: Vec<String> = Vec::new();
    for platform in Platform::NAMES {
        for locator in header.locators.iter().filter(|locator| locator.platform == platform) {
            let length = u64::from(locator.length);
            let end = locator.offset.checked_add(length);
            if end.is_none_or(|end| end > sparse.file.length()) {
                let value = locator.offset.to_string();
                return Err(wrong("platform data offset", value, "a name within the file"));
            }
            let bytes = sparse.file.read(stretch(locator.offset, length)).await?;
            names.extend(platform.decode(&bytes));
        }
    }
    names.extend(header.parent_name());
    if names.is_empty() {
        return Err(wrong("parent locators", "none".to_owned(), "at least one name"));
    }
    let mut seen = std::collections::BTreeSet::new();
    names.retain(|name| seen.insert(name.clone()));
    Ok(names)
}

async fn open_parent(
    opener: &mut Opener<'_>,
    location: &Location,
    prepared: &Prepared,
) -> Result<Image, ImageError> {
    let expected = prepared.header.parent_id.to_string();
    let accept = |parent: &Image| {
        let found = match &parent.identity {
            Some(identity) if parent.format == Format::Vhd => identity.value.clone(),
            _ => format!("none, being {}", parent.format),
        };
        if found == expected {
            return Ok(());
        }
        Err(ImageError::ParentMismatch {
            path: location.display(),
            parent: parent.files.first().cloned().unwrap_or_default(),
            kind: IDENTITY,
            expected: expected.clone(),
            found,
        })
    };
    opener.parent(location, &prepared.references, prepared.file.access(), accept).await
}
