//! One file of a chain, opened: what its headers, region tables and metadata say.
//!
//! ```text
//!   headers ─▶ log ─▶ (write) replay it in the file   ─▶ region tables ─▶ metadata
//!                  └▶ (read)  lay it over the file    ─┘
//! ```
//!
//! Everything behind the headers is read only after the log is accounted for: before that it may be half changed.

use super::{Guids, replayed};
use crate::block::{ByteOffset, ByteRange};
use crate::disk::DiskError;
use crate::image::{Access, ImageError, ImageFile, Malformed};
use crate::mapped::Extent;
use crate::uring::buffer::Buffer;
use std::path::PathBuf;
use std::sync::Arc;
use vhdx_parse::{
    ActiveLog, BatLayout, CurrentHeader, FILE_IDENTIFIER_BYTES, FileIdentifier, Guid,
    HEADER_1_OFFSET, HEADER_2_OFFSET, HEADER_BYTES, HEADER_SECTION_BYTES, Header, KnownItem,
    LogRing, METADATA_TABLE_BYTES, Metadata, MetadataTable, REGION_TABLE_1_OFFSET,
    REGION_TABLE_2_OFFSET, REGION_TABLE_BYTES, RegionTable,
};

/// A file whose log is accounted for.
pub(super) struct Container {
    pub(super) file: Arc<ImageFile>,
    /// The place it was opened at, as a person would name it.
    pub(super) path: PathBuf,
    pub(super) identifier: FileIdentifier,
    pub(super) current: CurrentHeader,
    pub(super) regions: RegionTable,
    pub(super) metadata: Metadata,
    /// Where in the file the size of the disk is stored.
    pub(super) size_place: u64,
    /// Log entries that were replayed, or are laid over the file.
    pub(super) replayed_entries: usize,
}

/// Reads parts of the file and says which of them are not there.
pub(super) struct Reader<'a> {
    pub(super) file: &'a ImageFile,
    pub(super) path: &'a PathBuf,
}

impl Reader<'_> {
    /// Says in which file a structure is malformed.
    pub(super) fn malformed(&self, problem: impl Into<Malformed>) -> ImageError {
        ImageError::malformed(self.path, problem.into())
    }

    /// `length` bytes of a structure at `offset`.
    pub(super) async fn read(
        &self,
        structure: &'static str,
        offset: u64,
        length: usize,
    ) -> Result<Buffer, ImageError> {
        let range = ByteRange::at(ByteOffset::new(offset), length as u64);
        let inside = range.filter(|range| range.end().bytes() <= self.file.length());
        let Some(range) = inside else {
            return Err(self.malformed(Malformed {
                structure,
                offset,
                field: "length",
                value: length.to_string(),
                expected: format!("an end within the file, {} bytes", self.file.length()).into(),
            }));
        };
        Ok(self.file.read(range).await?)
    }
}

/// Both headers as they are stored.
pub(super) async fn read_headers(reader: &Reader<'_>) -> Result<[Buffer; 2], ImageError> {
    let [one, two] = [HEADER_1_OFFSET, HEADER_2_OFFSET]
        .map(|offset| reader.read("VHDX header", offset, HEADER_BYTES));
    Ok([one.await?, two.await?])
}

/// Both region tables as they are stored.
pub(super) async fn read_region_tables(reader: &Reader<'_>) -> Result<[Buffer; 2], ImageError> {
    let [one, two] = [REGION_TABLE_1_OFFSET, REGION_TABLE_2_OFFSET]
        .map(|offset| reader.read("VHDX region table", offset, REGION_TABLE_BYTES));
    Ok([one.await?, two.await?])
}

impl Container {
    /// Accounts for the log of a file. If it may be written, the log is replayed, and `guids` give its next `FileWriteGuid`.
    pub(super) async fn open(file: ImageFile, guids: &Guids) -> Result<Self, ImageError> {
        let path = file.path().to_owned();
        let access = file.access();
        let mut file = Arc::new(file);
        let reader = Reader { file: &file, path: &path };
        let start = reader.read("VHDX file type identifier", 0, FILE_IDENTIFIER_BYTES).await?;
        let identifier = FileIdentifier::parse(&start).map_err(|p| reader.malformed(p))?;
        let [one, two] = read_headers(&reader).await?;
        let mut current = CurrentHeader::choose(&one, &two).map_err(|p| reader.malformed(p))?;
        let active = find_log(&reader, &current.header).await?;
        let replayed_entries = active.as_ref().map_or(0, |log| log.entries().len());
        if let Some(log) = active {
            let replay = log.replay(file.length()).map_err(|p| reader.malformed(p))?;
            match access {
                Access::Write => {
                    // The contents of the file are about to change.
                    let header = Header { file_write_guid: guids(), ..current.header };
                    current = write_header(&file, current.updated(header)).await?;
                    file.flush().await?;
                    replayed::make(&file, &replay).await?;
                }
                _ => file = Arc::new(replayed::lay_over(file, replay)),
            }
        }
        if access == Access::Write && !current.header.log_guid.is_zero() {
            let header =
                Header { file_write_guid: guids(), log_guid: Guid::ZERO, ..current.header };
            current = write_header(&file, current.updated(header)).await?;
            file.flush().await?;
        }
        let reader = Reader { file: &file, path: &path };
        let (regions, metadata, size_place) = read_regions(&reader, &current.header).await?;
        Ok(Self {
            file,
            path,
            identifier,
            current,
            regions,
            metadata,
            size_place,
            replayed_entries,
        })
    }

    /// The arithmetic of the BAT.
    pub(super) fn layout(&self) -> BatLayout {
        let Metadata { disk_bytes, block_bytes, logical_sector, .. } = self.metadata;
        BatLayout::new(disk_bytes, block_bytes, logical_sector)
    }

    /// Whether there is a parent.
    pub(super) fn is_differencing(&self) -> bool {
        self.metadata.parent.is_some()
    }

    /// To read more of the file.
    pub(super) fn reader(&self) -> Reader<'_> {
        Reader { file: &self.file, path: &self.path }
    }

    /// The parts of the file that are no blocks.
    pub(super) fn structures(&self) -> Vec<(Extent, &'static str)> {
        structures(&self.current.header, &self.regions)
    }
}

/// The parts of a file that are no blocks.
pub(super) fn structures(header: &Header, regions: &RegionTable) -> Vec<(Extent, &'static str)> {
    let log = Extent { offset: header.log_offset, length: header.log_length.into() };
    let mut all = vec![
        (Extent { offset: 0, length: HEADER_SECTION_BYTES }, "the header section"),
        (log, "the log"),
    ];
    for region in regions.all() {
        let name = match region.guid {
            vhdx_parse::BAT_REGION => "the BAT",
            vhdx_parse::METADATA_REGION => "the metadata",
            _ => "another region",
        };
        all.push((Extent { offset: region.offset, length: region.length.into() }, name));
    }
    all
}

/// Writes a header to the slot it belongs to. Not durable before the next flush.
pub(super) async fn write_header(
    file: &ImageFile,
    next: CurrentHeader,
) -> Result<CurrentHeader, DiskError> {
    let bytes = Buffer::copy_of(&next.header.encode());
    file.write(ByteOffset::new(next.slot.offset()), bytes).await?;
    Ok(next)
}

async fn find_log(reader: &Reader<'_>, header: &Header) -> Result<Option<ActiveLog>, ImageError> {
    if header.log_guid.is_zero() {
        return Ok(None);
    }
    let length = usize::try_from(header.log_length).expect("a log is in memory");
    let bytes = reader.read("VHDX log", header.log_offset, length).await?;
    LogRing::new(&bytes, header).active().map_err(|problem| reader.malformed(problem))
}

async fn read_regions(
    reader: &Reader<'_>,
    header: &Header,
) -> Result<(RegionTable, Metadata, u64), ImageError> {
    let [one, two] = read_region_tables(reader).await?;
    let regions = RegionTable::choose(&one, &two).map_err(|p| reader.malformed(p))?;
    check_regions(reader, header, &regions)?;
    let region = regions.metadata();
    let bytes = reader.read("VHDX metadata table", region.offset, METADATA_TABLE_BYTES).await?;
    let table = MetadataTable::parse(&bytes, region).map_err(|p| reader.malformed(p))?;
    let mut items = Vec::new();
    for item in KnownItem::ALL {
        if let Some((offset, length)) = table.find(item) {
            let length = usize::try_from(length).expect("an item is in memory");
            items.push((item, reader.read(item.structure(), offset, length).await?));
        }
    }
    let content = |item: KnownItem| {
        items.iter().find(|(found, _)| *found == item).map(|(_, bytes)| bytes.to_vec())
    };
    let metadata = Metadata::parse(&table, content).map_err(|p| reader.malformed(p))?;
    let layout = BatLayout::new(metadata.disk_bytes, metadata.block_bytes, metadata.logical_sector);
    let needed = layout.table_bytes(metadata.parent.is_some());
    let bat = regions.bat();
    if u64::from(bat.length) < needed {
        return Err(reader.malformed(Malformed {
            structure: "VHDX BAT region",
            offset: bat.offset,
            field: "Length",
            value: bat.length.to_string(),
            expected: format!("at least {needed} bytes for a disk of {}", metadata.disk_bytes)
                .into(),
        }));
    }
    let (size_place, _) = table.find(KnownItem::VirtualDiskSize).expect("it was read");
    Ok((regions, metadata, size_place))
}

/// That the known regions are inside the file, and that the log is not in any of them.
fn check_regions(
    reader: &Reader<'_>,
    header: &Header,
    regions: &RegionTable,
) -> Result<(), ImageError> {
    let malformed = |offset: u64, field, value: u64, expected: String| {
        Err(reader.malformed(Malformed {
            structure: "VHDX region",
            offset,
            field,
            value: value.to_string(),
            expected: expected.into(),
        }))
    };
    let log_end = header.log_offset + u64::from(header.log_length);
    for region in regions.all() {
        if region.offset < log_end && header.log_offset < region.end() {
            let expected = format!("a place outside the log, {}..{log_end}", header.log_offset);
            return malformed(region.offset, "FileOffset", region.offset, expected);
        }
    }
    for region in [regions.bat(), regions.metadata()] {
        if region.end() > reader.file.length() {
            let expected = format!("an end within the file, {} bytes", reader.file.length());
            return malformed(region.offset, "Length", region.length.into(), expected);
        }
    }
    Ok(())
}
