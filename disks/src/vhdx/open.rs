//! Opening an image: the file, its parent if it names one, and both as a disk.

use super::Guids;
use super::container::Container;
use super::survey::survey;
use super::table::VhdxTable;
use crate::block::{ByteOffset, ByteRange, Geometry};
use crate::disk::{Disk, DiskError, Durability, IoFuture, MappedRange, ZeroMode};
use crate::image::{
    Access, Format, Identity, Image, ImageError, ImageFile, Location, Malformed, Opener,
};
use crate::mapped::{Layer, MappedDisk, OwnRange, Setup, Space};
use crate::uring::buffer::Buffer;
use std::path::PathBuf;
use std::sync::Arc;
use vhdx_parse::{Guid, MAX_FILE_BYTES, MIB, ParentLocator};

/// What the `DataWriteGuid` is called as the identity of a content.
const IDENTITY: &str = "DataWriteGuid";

/// What an image says of itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VhdxInfo {
    /// Where it was found.
    pub path: PathBuf,
    /// Who made it, for diagnosis.
    pub creator: String,
    /// Blocks keep their space.
    pub fixed: bool,
    /// How it names its parent, if it is a differencing image.
    pub parent: Option<ParentLocator>,
    /// Size of the disk.
    pub disk_bytes: u64,
    /// Size of a block.
    pub block_bytes: u32,
    /// Bytes of the guest's sectors.
    pub logical_sector: u32,
    /// Bytes of the sectors of the medium, as the guest is told.
    pub physical_sector: u32,
    /// Identity of the disk, the same in parent and child.
    pub disk_id: Guid,
    /// Changes with the first change of each opening.
    pub file_write_guid: Guid,
    /// Changes with the first change of each opening that a guest could see; children name their parent by it.
    pub data_write_guid: Guid,
    /// Length of the file.
    pub file_bytes: u64,
    /// Log entries that had to be replayed when it was opened, in the file or in memory.
    pub replayed_entries: usize,
    /// Where the size of the sectors is stored, for messages.
    sector_place: u64,
}

impl VhdxInfo {
    pub(super) fn of(container: &Container) -> Self {
        let (metadata, header) = (&container.metadata, &container.current.header);
        Self {
            path: container.path.clone(),
            creator: container.identifier.creator.clone(),
            fixed: metadata.leave_blocks_allocated,
            parent: metadata.parent.clone(),
            disk_bytes: metadata.disk_bytes,
            block_bytes: metadata.block_bytes,
            logical_sector: metadata.logical_sector,
            physical_sector: metadata.physical_sector,
            disk_id: metadata.disk_id,
            file_write_guid: header.file_write_guid,
            data_write_guid: header.data_write_guid,
            file_bytes: container.file.length(),
            replayed_entries: container.replayed_entries,
            sector_place: container.regions.metadata().offset,
        }
    }

    /// Fixed, dynamic or differencing.
    pub fn kind(&self) -> &'static str {
        match (&self.parent, self.fixed) {
            (Some(_), _) => "differencing",
            (None, true) => "fixed",
            (None, false) => "dynamic",
        }
    }

    fn details(&self) -> Vec<(&'static str, String)> {
        let mut details = vec![
            ("creator", self.creator.clone()),
            ("disk id", self.disk_id.to_string()),
            ("file write id", self.file_write_guid.to_string()),
            ("log entries replayed", self.replayed_entries.to_string()),
        ];
        if let Some(parent) = &self.parent {
            details.push(("parent linkage", parent.linkage().to_string()));
            details.extend(parent.paths().map(|path| (path.kind.key(), path.text.to_owned())));
        }
        details
    }
}

/// What the image at `location` says of itself. Its parent is not looked for.
pub async fn info(location: &Location) -> Result<VhdxInfo, ImageError> {
    let file = ImageFile::open(&*location.folder, &location.path, Access::Read).await?;
    Ok(VhdxInfo::of(&Container::open(file, &super::no_guids()).await?))
}

/// Opens the image in `file`, which was found at `location`, and its parents.
///
/// For writing, a log that was left behind is replayed in the file; for reading, in memory. An image that is opened for
/// writing gets a new `DataWriteGuid` with its first change, after which differencing children of it are worthless. The file
/// does not tell whether there are any: who opens it for writing has to know.
pub async fn open(
    opener: &mut Opener<'_>,
    location: &Location,
    file: ImageFile,
    access: Access,
) -> Result<Image, ImageError> {
    open_with(opener, location, file, access, &super::kernel_guids()).await
}

/// As [`open`], with GUIDs from somewhere else.
pub async fn open_with(
    opener: &mut Opener<'_>,
    location: &Location,
    file: ImageFile,
    access: Access,
    guids: &Guids,
) -> Result<Image, ImageError> {
    let container = Container::open(file, guids).await?;
    let info = VhdxInfo::of(&container);
    let parent = match &info.parent {
        Some(locator) => Some(open_parent(opener, location, access, &info, locator).await?),
        None => None,
    };
    let below = parent.as_ref().map(|parent| Arc::clone(&parent.disk) as Arc<dyn Disk>);
    let mapped = mapped(&container, below, guids).await?;
    Ok(Image {
        format: Format::Vhdx,
        kind: info.kind().to_owned(),
        files: vec![info.path.clone()],
        identity: Some(identity(info.data_write_guid)),
        block_bytes: Some(info.block_bytes.into()),
        details: info.details(),
        disk: Arc::new(VhdxDisk { mapped, fixed: info.fixed }),
        parent: parent.map(Box::new),
    })
}

fn identity(data_write_guid: Guid) -> Identity {
    Identity { kind: IDENTITY, value: data_write_guid.to_string() }
}

/// Opens the first file under the names in `locator` that is the parent by its GUID.
async fn open_parent(
    opener: &mut Opener<'_>,
    location: &Location,
    access: Access,
    child: &VhdxInfo,
    locator: &ParentLocator,
) -> Result<Image, ImageError> {
    let names: Vec<String> = locator.paths().map(|path| path.text.to_owned()).collect();
    let accept = |parent: &Image| {
        let linkages = [Some(locator.linkage()), locator.linkage_2()];
        let named = linkages.into_iter().flatten().map(|guid| Some(identity(guid)));
        let path = parent.files.first().cloned().unwrap_or_default();
        if !named.into_iter().any(|identity| identity == parent.identity) {
            let found = parent.identity.as_ref().map(|identity| identity.value.clone());
            return Err(ImageError::ParentMismatch {
                path: child.path.clone(),
                parent: path,
                kind: IDENTITY,
                expected: locator.linkage().to_string(),
                found: found.unwrap_or_else(|| "none".to_owned()),
            });
        }
        // The bits of the child count its sectors, so they must be those of the parent.
        let (ours, theirs) = (child.logical_sector, parent.disk.geometry().logical_sector);
        if ours == theirs {
            return Ok(());
        }
        let problem = Malformed {
            structure: "VHDX logical sector size",
            offset: child.sector_place,
            field: "LogicalSectorSize",
            value: ours.to_string(),
            expected: format!("{theirs}, as in the parent {}", path.display()).into(),
        };
        Err(ImageError::malformed(&child.path, problem))
    };
    opener.parent(location, &names, access, accept).await
}

/// The disk of one file.
async fn mapped(
    container: &Container,
    parent: Option<Arc<dyn Disk>>,
    guids: &Guids,
) -> Result<MappedDisk, ImageError> {
    let file = &container.file;
    let space = if file.access() == Access::Write {
        let survey = survey(container).await?;
        survey.refuse(container)?;
        survey.space(file.length())
    } else {
        Space::new(file.length(), MIB, MAX_FILE_BYTES, "the file is open for reading")
    };
    let space = Arc::new(space);
    let table = VhdxTable::new(container, guids);
    table.set_space(Arc::clone(&space));
    Ok(MappedDisk::new(Setup {
        table: Arc::new(table),
        file: Arc::clone(file),
        space,
        parent,
        size_bytes: container.metadata.disk_bytes,
        logical_sector: container.metadata.logical_sector,
        physical_sector: container.metadata.physical_sector,
    }))
}

/// The blocks of a VHDX image, and what its parents have.
struct VhdxDisk {
    mapped: MappedDisk,
    fixed: bool,
}

impl VhdxDisk {
    /// Blocks of a fixed disk keep their space.
    fn mode(&self, mode: ZeroMode) -> ZeroMode {
        if self.fixed { ZeroMode::Allocate } else { mode }
    }
}

impl Disk for VhdxDisk {
    fn geometry(&self) -> Geometry {
        self.mapped.geometry()
    }

    fn read(&self, range: ByteRange) -> IoFuture<'_, Buffer> {
        self.mapped.read(range)
    }

    fn write(&self, at: ByteOffset, data: Buffer, durability: Durability) -> IoFuture<'_, ()> {
        self.mapped.write(at, data, durability)
    }

    fn write_zeroes(
        &self,
        range: ByteRange,
        mode: ZeroMode,
        durability: Durability,
    ) -> IoFuture<'_, ()> {
        self.mapped.write_zeroes(range, self.mode(mode), durability)
    }

    fn discard(&self, range: ByteRange) -> IoFuture<'_, ()> {
        if !self.fixed {
            return self.mapped.discard(range);
        }
        Box::pin(async move {
            DiskError::check_writable(&self.geometry(), range)?;
            let whole = range.whole_blocks();
            self.mapped.write_zeroes(whole, ZeroMode::Allocate, Durability::Cached).await
        })
    }

    fn flush(&self) -> IoFuture<'_, ()> {
        self.mapped.flush()
    }

    fn map(&self, range: ByteRange) -> IoFuture<'_, Vec<MappedRange>> {
        self.mapped.map(range)
    }

    fn resize(&self, size_bytes: u64) -> IoFuture<'_, ()> {
        self.mapped.resize(size_bytes)
    }
}

impl Layer for VhdxDisk {
    fn own(&self, range: ByteRange) -> IoFuture<'_, Vec<OwnRange>> {
        self.mapped.own(range)
    }
}
