//! Opening the extents of a disk: each a disk of its own, behind the one before it.

use super::create;
use super::deltas::DeltaTable;
use super::disk::{Body, Part};
use super::flat::{FlatExtent, PHYSICAL_SECTOR, ZeroExtent};
use super::format::descriptor::{Descriptor, ExtentAccess, ExtentKind, ExtentLine};
use super::format::header::{SparseHeader, Version};
use super::format::{MAX_SPARSE_SECTORS, SECTOR_BYTES, cowd, malformed};
use super::open::starts_with;
use super::packed::PackedTable;
use super::sparse::{FULL, Outline, SparseTable, structures};
use crate::block::{ByteOffset, ByteRange};
use crate::disk::Disk;
use crate::file::FileError;
use crate::image::{Access, ImageError, ImageFile, Location, Opener};
use crate::mapped::{Conflict, MappedDisk, Place, Setup, Space, Table, scan};
use crate::window::Window;
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

/// An extent, opened, and what else is wanted of it.
pub(super) struct Opened {
    pub(super) part: Part,
    pub(super) grain_bytes: Option<u64>,
    pub(super) header: Option<SparseHeader>,
    pub(super) table: Option<Arc<SparseTable>>,
}

/// The extents of a disk while they are being opened.
pub(super) struct Extents<'a, 'b> {
    opener: &'a mut Opener<'b>,
    location: &'a Location,
    access: Access,
    parent: Option<Arc<dyn Disk>>,
    /// Files of flat extents, of which one may hold several.
    files: HashMap<PathBuf, (Arc<ImageFile>, Vec<ByteRange>)>,
    used: Vec<PathBuf>,
}

impl<'a, 'b> Extents<'a, 'b> {
    /// None yet, of the disk at `location`.
    pub(super) fn new(
        opener: &'a mut Opener<'b>,
        location: &'a Location,
        access: Access,
        parent: Option<Arc<dyn Disk>>,
    ) -> Self {
        Self { opener, location, access, parent, files: HashMap::new(), used: Vec::new() }
    }

    /// The files that were opened.
    pub(super) fn used(self) -> Vec<PathBuf> {
        self.used
    }

    fn fail<T>(
        &self,
        number: usize,
        field: &'static str,
        value: String,
        expected: String,
    ) -> Result<T, ImageError> {
        let problem =
            malformed("VMDK descriptor", 0, field, format!("{value} (extent {number})"), expected);
        Err(ImageError::malformed(self.location.display(), problem))
    }

    fn check_line(&self, number: usize, line: &ExtentLine) -> Result<(), ImageError> {
        let unsupported = |what: String| {
            Err(ImageError::unsupported(self.location.display(), format!("extent {number} {what}")))
        };
        match (&line.kind, line.access) {
            (ExtentKind::Other(name), _) => {
                unsupported(format!("is of the kind {name}, which is not supported"))
            }
            (_, ExtentAccess::None) => unsupported("must not be accessed (NOACCESS)".to_owned()),
            (_, ExtentAccess::ReadOnly) if !self.access.is_read_only() => {
                unsupported("must not be written (RDONLY)".to_owned())
            }
            (ExtentKind::VmfsSparse | ExtentKind::SeSparse, _) if !self.access.is_read_only() => {
                unsupported(format!("is {}, which is read only", line.kind.name()))
            }
            _ => Ok(()),
        }
    }

    /// The one extent of a disk that has its descriptor in it. Its name is not looked at: files are renamed.
    pub(super) async fn open_embedded(
        &mut self,
        descriptor: &Descriptor,
        file: &Arc<ImageFile>,
    ) -> Result<Vec<Opened>, ImageError> {
        let mut lines = descriptor.extents();
        let line = lines.next().expect("a descriptor has extents");
        if lines.next().is_some() || line.kind != ExtentKind::Sparse {
            let what = "its embedded descriptor has other extents than the one it is embedded in";
            return Err(ImageError::unsupported(self.location.display(), what));
        }
        self.check_line(0, line)?;
        Ok(vec![self.open_sparse(0, line.clone(), Arc::clone(file), 0).await?])
    }

    /// The extents that the descriptor lists, each in a file of its own.
    pub(super) async fn open_all(
        &mut self,
        descriptor: &Descriptor,
    ) -> Result<Vec<Opened>, ImageError> {
        let mut opened = Vec::new();
        let mut start = 0;
        for (number, line) in descriptor.extents().enumerate() {
            self.check_line(number, line)?;
            let length = line.sectors * SECTOR_BYTES;
            let one = match line.kind {
                ExtentKind::Zero => {
                    let zero = ZeroExtent::new(length, self.access.is_read_only());
                    plain(start, line.clone(), Body::Zero(zero))
                }
                ExtentKind::Flat | ExtentKind::Vmfs => self.open_flat(number, line, start).await?,
                _ => {
                    let (place, file) =
                        self.opener.extent(self.location, &line.file, self.access).await?;
                    self.used.push(place.display());
                    self.open_sparse(number, line.clone(), Arc::new(file), start).await?
                }
            };
            start += length;
            opened.push(one);
        }
        Ok(opened)
    }

    async fn open_flat(
        &mut self,
        number: usize,
        line: &ExtentLine,
        start: u64,
    ) -> Result<Opened, ImageError> {
        let range =
            ByteRange::at(ByteOffset::new(line.start * SECTOR_BYTES), line.sectors * SECTOR_BYTES);
        let range = range.expect("checked to be far below 2^64");
        let key = PathBuf::from(&line.file);
        if !self.files.contains_key(&key) {
            let (place, file) = self.opener.extent(self.location, &line.file, self.access).await?;
            self.used.push(place.display());
            self.files.insert(key.clone(), (Arc::new(file), Vec::new()));
        }
        let (file, taken) = self.files.get_mut(&key).expect("it was just put there");
        let file = Arc::clone(file);
        if file.length() < range.end().bytes() {
            let value = format!("{} bytes long", file.length());
            let expected = format!("at least {} bytes", range.end().bytes());
            return self.fail(number, "file of an extent", value, expected);
        }
        if taken.iter().any(|other| other.overlaps(range)) {
            let expected = "bytes that no other extent has".to_owned();
            return self.fail(number, "file of an extent", format!("{range} again"), expected);
        }
        taken.push(range);
        let body = FlatExtent::new(file, range.start().bytes(), range.length());
        Ok(plain(start, line.clone(), Body::Flat(body)))
    }

    async fn open_sparse(
        &mut self,
        number: usize,
        line: ExtentLine,
        file: Arc<ImageFile>,
        start: u64,
    ) -> Result<Opened, ImageError> {
        let parent = window(self.parent.as_ref(), start);
        let capacity_is = |capacity: u64, expected: u64| {
            format!("{expected} sectors or fewer; its header has {capacity}")
        };
        let delta = if starts_with(&file, &cowd::MAGIC).await? {
            Some(DeltaTable::open_cowd(Arc::clone(&file)).await?)
        } else if line.kind == ExtentKind::SeSparse {
            Some(DeltaTable::open_sesparse(Arc::clone(&file)).await?)
        } else {
            None
        };
        if let Some(delta) = delta {
            if !self.access.is_read_only() {
                let what = format!("extent {number} is a delta of ESX, which is read only");
                return Err(ImageError::unsupported(self.location.display(), what));
            }
            if delta.capacity() < line.sectors {
                let expected = capacity_is(delta.capacity(), delta.capacity());
                return self.fail(number, "size of an extent", line.sectors.to_string(), expected);
            }
            return Ok(mapped(line, start, file, Arc::new(delta), parent));
        }
        if line.kind == ExtentKind::VmfsSparse {
            let problem = malformed("COWD header", 0, "magicNumber", "another", "\"COWD\"");
            return Err(ImageError::malformed(file.path(), problem));
        }
        let outline = Outline::read(&file, !self.access.is_read_only()).await?;
        let header = outline.header.clone();
        if header.capacity < line.sectors {
            let expected = capacity_is(header.capacity, header.capacity);
            return self.fail(number, "size of an extent", line.sectors.to_string(), expected);
        }
        if self.access.is_read_only() {
            let grain_bytes = Some(header.grain_bytes());
            let table: Arc<dyn Table> = if header.compressed {
                Arc::new(PackedTable::new(Arc::clone(&file), outline))
            } else {
                let space = Arc::new(Space::new(file.length(), 512, u64::MAX, FULL));
                Arc::new(SparseTable::new(Arc::clone(&file), space, outline))
            };
            let opened = mapped(line, start, file, table, parent);
            return Ok(Opened { grain_bytes, header: Some(header), ..opened });
        }
        open_writable(line, start, file, outline, parent).await
    }
}

fn plain(start: u64, line: ExtentLine, body: Body) -> Opened {
    let range = ByteRange::at(ByteOffset::new(start), line.sectors * SECTOR_BYTES);
    let range = range.expect("a descriptor has at most 64 TiB");
    let part = Part { range, line, body: Arc::new(body) };
    Opened { part, grain_bytes: None, header: None, table: None }
}

fn window(parent: Option<&Arc<dyn Disk>>, start: u64) -> Option<Arc<dyn Disk>> {
    let parent = parent?;
    Some(if start == 0 {
        Arc::clone(parent)
    } else {
        Arc::new(Window::behind(Arc::clone(parent), start))
    })
}

/// A disk that is only read, by any table.
fn mapped(
    line: ExtentLine,
    start: u64,
    file: Arc<ImageFile>,
    table: Arc<dyn Table>,
    parent: Option<Arc<dyn Disk>>,
) -> Opened {
    let grain_bytes = Some(table.shape().block_bytes);
    let space = Arc::new(Space::new(file.length(), 512, u64::MAX, FULL));
    let disk = put_together(&line, file, table, space, parent);
    Opened { grain_bytes, ..plain(start, line, Body::Mapped(Box::new(disk))) }
}

fn put_together(
    line: &ExtentLine,
    file: Arc<ImageFile>,
    table: Arc<dyn Table>,
    space: Arc<Space>,
    parent: Option<Arc<dyn Disk>>,
) -> MappedDisk {
    MappedDisk::new(Setup {
        table,
        file,
        space,
        parent,
        size_bytes: line.sectors * SECTOR_BYTES,
        logical_sector: 512,
        physical_sector: PHYSICAL_SECTOR,
    })
}

/// Opens a sparse extent for writing: finds out what of its file is free, and puts right what a crash left.
async fn open_writable(
    line: ExtentLine,
    start: u64,
    file: Arc<ImageFile>,
    outline: Outline,
    parent: Option<Arc<dyn Disk>>,
) -> Result<Opened, ImageError> {
    let header = outline.header.clone();
    let refuse = |what: &str| Err(ImageError::unsupported(file.path(), what));
    if header.compressed {
        return refuse("packed grains are read, and written as exports only");
    }
    if header.version == Version::Three {
        return refuse(
            "version 3 may be tracked for changes, which other writers break; it is read only",
        );
    }
    if header.redundant && outline.redundant.is_none() {
        return refuse("its header asks for redundant grain tables, but has no place of them");
    }
    if !outline.metadata.is_apart() {
        return refuse("its directories and tables overlap; it is read only");
    }
    let length = needed_length(&file, &outline).await?;
    let grain = header.grain_bytes();
    let limit = MAX_SPARSE_SECTORS * SECTOR_BYTES;
    // Before the file gets any longer: a grain whose end is missing must not seem to have one of zeroes.
    let looking = Arc::new(Space::new(file.length(), grain, limit, FULL));
    let table = SparseTable::new(Arc::clone(&file), looking, outline.clone());
    let usage = scan(&table, header.grains(), length, &structures(&outline)).await?;
    if let Some(conflict) = usage.conflicts.first() {
        let problem = malformed(
            "VMDK grain table",
            0,
            "grains",
            describe(conflict),
            "grains apart from each other",
        );
        return Err(ImageError::malformed(file.path(), problem));
    }
    if length > file.length() {
        file.set_length(length).await?;
    }
    let space = Arc::new(usage.space(length, grain, limit, FULL));
    let table = Arc::new(SparseTable::new(Arc::clone(&file), Arc::clone(&space), outline));
    if header.unclean_shutdown {
        table.recover().await?;
    }
    table.complete_tables().await?;
    if let Some(stretch) = header.descriptor {
        let count = stretch.count * SECTOR_BYTES;
        let place = ByteRange::at(ByteOffset::new(stretch.start * SECTOR_BYTES), count);
        let bytes = file.read(place.expect("checked")).await?;
        table.settle_descriptor(&bytes).await?;
    }
    let disk = put_together(&line, file, Arc::clone(&table) as Arc<dyn Table>, space, parent);
    let opened = plain(start, line, Body::Mapped(Box::new(disk)));
    Ok(Opened { grain_bytes: Some(grain), header: Some(header), table: Some(table), ..opened })
}

/// Bytes of a file that is long enough for all of the last grain, which others may have cut where the disk ends, and a whole number
/// of blocks.
async fn needed_length(file: &Arc<ImageFile>, outline: &Outline) -> Result<u64, ImageError> {
    let grain = outline.header.grain_bytes();
    let last = outline.header.grains() - 1;
    let entries = u64::from(outline.header.table_entries);
    let space = Arc::new(Space::new(file.length(), grain, u64::MAX, FULL));
    let table = SparseTable::new(Arc::clone(file), space, outline.clone());
    let places = table.load(last / entries).await?;
    let place = places[usize::try_from(last % entries).expect("small")];
    let end = match place {
        Place::At(offset) => offset + grain,
        _ => 0,
    };
    Ok(file.length().max(end).next_multiple_of(4096))
}

/// A conflict in words.
pub(super) fn describe(conflict: &Conflict) -> String {
    match conflict {
        Conflict::WithStructure { block, extent, structure } => {
            format!("grain {block} at {} in the {structure}", extent.offset)
        }
        Conflict::BetweenBlocks { blocks: (one, other), extent } => {
            format!("grain {other} at {} in grain {one}", extent.offset)
        }
        Conflict::PastTheEnd { block, extent } => {
            format!("grain {block} at {} past the end of the file", extent.offset)
        }
    }
}

/// Makes another extent for a disk that grows, like the one in `line` but with the next free name, and opens it for writing.
pub(super) async fn next_extent(
    location: &Location,
    mut line: ExtentLine,
    start: u64,
    parent: Option<&Arc<dyn Disk>>,
) -> Result<Part, ImageError> {
    let folder = &*location.folder;
    let (path, file) = loop {
        let Some(next) = create::next_name(&line.file) else {
            let what = format!("{:?} is no name that others can follow", line.file);
            return Err(ImageError::unsupported(location.display(), what));
        };
        line.file = next;
        let path = create::beside(location, &line.file);
        // A crash may have left one that no descriptor tells of.
        match create::extent_file(folder, &path, &line, None).await {
            Ok(file) => break (path, file),
            Err(ImageError::File(FileError::Exists { .. })) => {}
            Err(error) => return Err(error),
        }
    };
    file.publish(folder, &path).await?;
    let file = Arc::new(file);
    if line.kind != ExtentKind::Sparse {
        let body = FlatExtent::new(file, 0, line.sectors * SECTOR_BYTES);
        return Ok(plain(start, line, Body::Flat(body)).part);
    }
    let outline = Outline::read(&file, true).await?;
    Ok(open_writable(line, start, file, outline, window(parent, start)).await?.part)
}
