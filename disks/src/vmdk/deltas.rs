//! Deltas of ESX, read only: the tables of COWD and seSparse extents.
//!
//! Nobody but ESX writes them: a snapshot that is written here would have to be understood by a hypervisor whose format is not
//! documented. What is read here becomes another kind of disk.

use super::format::cowd::{self, CowdHeader};
use super::format::sesparse::{self, SeGrain, SeSparseHeader};
use super::format::{SECTOR_BYTES, entry_u32, entry_u64, malformed};
use super::sparse::{damaged, sectors};
use crate::block::{ByteOffset, ByteRange};
use crate::disk::{DiskError, IoFuture};
use crate::image::{ImageError, ImageFile, Malformed};
use crate::mapped::{Changes, Place, Shape, Table};
use std::sync::Arc;

/// What differs between the two formats.
enum Kind {
    Cowd { header: CowdHeader, tables: Vec<u32> },
    SeSparse { header: SeSparseHeader, tables: Vec<Option<u64>> },
}

/// The grain tables of a delta.
pub(super) struct DeltaTable {
    file: Arc<ImageFile>,
    kind: Kind,
}

fn read_only() -> IoFuture<'static, ()> {
    Box::pin(std::future::ready(Err(DiskError::ReadOnly)))
}

/// Reads a structure of `length` bytes from sector `start` on, or says which field leads past the end of the file.
async fn read_at(
    file: &ImageFile,
    (structure, field): (&'static str, &'static str),
    start: u64,
    length: u64,
) -> Result<crate::Buffer, ImageError> {
    let at = ByteOffset::new(start * SECTOR_BYTES);
    let range = ByteRange::at(at, length).expect("places are checked to be far below 2^64");
    if range.end().bytes() > file.length() {
        let expected = format!("{length} bytes within {} of the file", file.length());
        let problem = malformed(structure, 0, field, start, expected);
        return Err(ImageError::malformed(file.path(), problem));
    }
    Ok(file.read(range).await?)
}

impl DeltaTable {
    /// Opens a COWD extent.
    pub(super) async fn open_cowd(file: Arc<ImageFile>) -> Result<Self, ImageError> {
        let fail = |problem| ImageError::malformed(file.path(), problem);
        let start = read_at(&file, ("COWD header", "header"), 0, 512).await?;
        let header = CowdHeader::parse(&start).map_err(fail)?;
        let place = ("COWD header", "gdOffset");
        let bytes = read_at(&file, place, header.directory, header.tables() * 4).await?;
        let count = usize::try_from(header.tables()).expect("limited by the header");
        let tables: Vec<u32> = (0..count).map(|index| entry_u32(&bytes, index)).collect();
        let end = (file.length() / SECTOR_BYTES).saturating_sub(TABLE_SECTORS_COWD);
        for (index, sector) in tables.iter().enumerate() {
            if *sector != 0 && u64::from(*sector) > end {
                let offset = header.directory * SECTOR_BYTES + index as u64 * 4;
                let expected = format!("0, or a sector up to {end}");
                let problem = malformed("COWD grain directory", offset, "entry", sector, expected);
                return Err(fail(problem));
            }
        }
        let offset = header.directory * SECTOR_BYTES;
        let places = tables.iter().map(|sector| u64::from(*sector));
        check_apart("COWD grain directory", offset, 4, places, TABLE_SECTORS_COWD).map_err(fail)?;
        drop(start);
        Ok(Self { kind: Kind::Cowd { header, tables }, file })
    }

    /// Opens a seSparse extent.
    pub(super) async fn open_sesparse(file: Arc<ImageFile>) -> Result<Self, ImageError> {
        const HEADER: &str = "seSparse const header";
        let fail = |problem| ImageError::malformed(file.path(), problem);
        let start = read_at(&file, (HEADER, "header"), 0, SECTOR_BYTES).await?;
        let header = SeSparseHeader::parse(&start).map_err(fail)?;
        let place = (HEADER, "volatileHeaderOffset");
        let volatile = read_at(&file, place, header.volatile_header, SECTOR_BYTES).await?;
        header.check_volatile(&volatile).map_err(fail)?;
        let count = header.directory_entries();
        let bytes = read_at(&file, (HEADER, "grainDirOffset"), header.directory, count * 8).await?;
        let tables: Result<Vec<Option<u64>>, Malformed> = (0..count)
            .map(|index| {
                let entry =
                    entry_u64(&bytes, usize::try_from(index).expect("limited by the header"));
                let sector = header.table_sector(index, entry)?;
                let end = (file.length() / SECTOR_BYTES).saturating_sub(sesparse::TABLE_SECTORS);
                if sector.is_some_and(|sector| sector > end) {
                    let offset = header.directory * SECTOR_BYTES + index * 8;
                    let value = format!("{entry:#018x}");
                    let expected = format!("a table up to sector {end} of the file");
                    let structure = "seSparse grain directory entry";
                    return Err(malformed(structure, offset, "entry", value, expected));
                }
                Ok(sector)
            })
            .collect();
        let tables = tables.map_err(fail)?;
        let offset = header.directory * SECTOR_BYTES;
        let places = tables.iter().map(|sector| sector.unwrap_or(0));
        check_apart("seSparse grain directory", offset, 8, places, sesparse::TABLE_SECTORS)
            .map_err(fail)?;
        drop((start, volatile));
        Ok(Self { kind: Kind::SeSparse { header, tables }, file })
    }

    /// Size of the part of the disk that the extent holds, in sectors.
    pub(super) fn capacity(&self) -> u64 {
        match &self.kind {
            Kind::Cowd { header, .. } => header.capacity,
            Kind::SeSparse { header, .. } => header.capacity,
        }
    }

    fn grain_sectors(&self) -> u64 {
        match &self.kind {
            Kind::Cowd { header, .. } => header.grain_sectors,
            Kind::SeSparse { .. } => sesparse::GRAIN_SECTORS,
        }
    }

    fn page_entries(&self) -> u64 {
        match &self.kind {
            Kind::Cowd { .. } => cowd::TABLE_ENTRIES,
            Kind::SeSparse { .. } => sesparse::TABLE_ENTRIES,
        }
    }

    /// Where table `page` is.
    fn table_sector(&self, page: u64) -> Option<u64> {
        let number = usize::try_from(page).expect("a directory is in memory");
        match &self.kind {
            Kind::Cowd { tables, .. } => {
                tables.get(number).map(|sector| u64::from(*sector)).filter(|sector| *sector != 0)
            }
            Kind::SeSparse { tables, .. } => tables.get(number).copied().flatten(),
        }
    }

    /// What entry `index` of table `page`, which is at `sector`, says.
    fn parse_entry(
        &self,
        bytes: &[u8],
        page: u64,
        sector: u64,
        index: usize,
    ) -> Result<Place, Malformed> {
        let block = page * self.page_entries() + index as u64;
        let first = block * self.grain_sectors();
        if first >= self.capacity() {
            return Ok(Place::Absent);
        }
        let (grain, offset, value) = match &self.kind {
            Kind::Cowd { .. } => match entry_u32(bytes, index) {
                0 => return Ok(Place::Absent),
                entry => {
                    (u64::from(entry), sector * SECTOR_BYTES + index as u64 * 4, entry.to_string())
                }
            },
            Kind::SeSparse { header, .. } => {
                let entry = entry_u64(bytes, index);
                let offset = sector * SECTOR_BYTES + index as u64 * 8;
                match header.grain(entry, offset)? {
                    SeGrain::Absent => return Ok(Place::Absent),
                    SeGrain::Zero => return Ok(Place::Zero),
                    SeGrain::At(grain) => (grain, offset, format!("{entry:#018x}")),
                }
            }
        };
        let there = (self.capacity() - first).min(self.grain_sectors());
        let file = self.file.length() / SECTOR_BYTES;
        if grain + there > file {
            let structure = match &self.kind {
                Kind::Cowd { .. } => "COWD grain table",
                Kind::SeSparse { .. } => "seSparse grain table entry",
            };
            let expected = format!("a grain within the {file} sectors of the file");
            return Err(malformed(structure, offset, "entry", value, expected));
        }
        Ok(Place::At(grain * SECTOR_BYTES))
    }
}

/// Sectors of a grain table of a COWD extent.
const TABLE_SECTORS_COWD: u64 = cowd::TABLE_ENTRIES * 4 / SECTOR_BYTES;

/// That no two entries lead to the same sectors.
fn check_apart(
    structure: &'static str,
    offset: u64,
    entry_bytes: u64,
    tables: impl Iterator<Item = u64>,
    count: u64,
) -> Result<(), Malformed> {
    let mut sorted: Vec<(u64, u64)> = tables.zip(0..).filter(|(sector, _)| *sector != 0).collect();
    sorted.sort_unstable();
    for pair in sorted.windows(2) {
        let ((one, _), (other, index)) = (pair[0], pair[1]);
        if other - one < count {
            let expected = format!("a table apart from the one at sector {one}");
            let offset = offset + index * entry_bytes;
            return Err(malformed(structure, offset, "entry", other, expected));
        }
    }
    Ok(())
}

impl Table for DeltaTable {
    fn shape(&self) -> Shape {
        Shape {
            block_bytes: self.grain_sectors() * SECTOR_BYTES,
            page_entries: self.page_entries(),
            lead_bytes: 0,
            stores_zero: matches!(self.kind, Kind::SeSparse { .. }),
            presence_unit: None,
        }
    }

    fn load(&self, page: u64) -> IoFuture<'_, Vec<Place>> {
        Box::pin(async move {
            let entries = usize::try_from(self.page_entries()).expect("small");
            let Some(sector) = self.table_sector(page) else {
                return Ok(vec![Place::Absent; entries]);
            };
            let entry_bytes = match &self.kind {
                Kind::Cowd { .. } => 4,
                Kind::SeSparse { .. } => 8,
            };
            let count = self.page_entries() * entry_bytes / SECTOR_BYTES;
            let bytes = self.file.read(sectors(sector, count)).await?;
            let places: Result<Vec<Place>, Malformed> =
                (0..entries).map(|index| self.parse_entry(&bytes, page, sector, index)).collect();
            places.map_err(|problem| {
                let length = self.page_entries() * self.grain_sectors() * SECTOR_BYTES;
                let range = ByteRange::at(ByteOffset::new(page * length), length);
                let whole = ByteRange::up_to(self.capacity() * SECTOR_BYTES);
                let range = range.expect("a disk ends far below 2^64").intersection(whole);
                damaged(range, ImageError::malformed(self.file.path(), problem))
            })
        })
    }

    fn begin_changes(&self) -> IoFuture<'_, ()> {
        read_only()
    }

    fn commit<'a>(&'a self, _changes: &'a Changes) -> IoFuture<'a, ()> {
        read_only()
    }

    fn resize(&self, _size_bytes: u64) -> IoFuture<'_, ()> {
        read_only()
    }
}
