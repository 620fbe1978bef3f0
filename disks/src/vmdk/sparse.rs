//! Hosted sparse extents that may be written: grain tables as the table of a [`MappedDisk`](crate::mapped::MappedDisk).
//!
//! ```text
//!   commit   [unclean flag, redundant tables] flush [primary tables] flush [flag off]
//!   growth   [new directories and tables, at the end of the file] flush [header: one sector] flush
//! ```
//!
//! The grains are durable before (`mapped` sees to it), so every entry that a crash leaves, old or new, leads to a whole grain; and
//! one copy of each table is not being written at any time. What a crash in between leaves is redundant tables that are ahead of the
//! primary ones; the flag tells the next opening to bring them together.
//!
//! **The flag.** The specification has it set when an extent is opened and cleared when it is closed; qemu never touches it. Here
//! it is durable before the first table is written after an opening, and off again when all that was flushed is in both copies, since
//! nobody closes a disk whose process was killed. It is off with the next flush at the latest, so at rest an extent is clean.

use super::format::header::{Directory, SparseHeader, Stretch, UNCLEAN_SHUTDOWN_OFFSET};
use super::format::stream::{FOOTER_BYTES, check_footer, parse_footer};
use super::format::tables::{
    Bounds, Grain, Metadata, check_apart, encode_directory, parse_directory,
};
use super::format::{MAX_SPARSE_SECTORS, SECTOR_BYTES, SECTOR_LENGTH, malformed};
use crate::block::{ByteOffset, ByteRange};
use crate::disk::{DiskError, IoFuture, ZeroMode};
use crate::image::{ImageError, ImageFile, Malformed};
use crate::mapped::{Changes, Extent, Place, Shape, Space, Table};
use crate::uring::buffer::Buffer;
use futures_util::future::join_all;
use parking_lot::RwLock;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Why a sparse extent cannot hold more.
pub(super) const FULL: &str =
    "a sparse VMDK extent ends at 2 TiB: entries of its grain tables are sector numbers of 32 bits";

/// The bytes of `count` sectors from `start` on.
pub(super) fn sectors(start: u64, count: u64) -> ByteRange {
    ByteRange::at(ByteOffset::new(start * SECTOR_BYTES), count * SECTOR_BYTES)
        .expect("places are checked to be far below 2^64")
}

/// What is known of an extent without its grain tables.
#[derive(Clone, Debug)]
pub(super) struct Outline {
    /// The header; of a stream, the footer, with the embedded descriptor of the header.
    pub(super) header: SparseHeader,
    /// First sector of the grain directory.
    pub(super) directory: u64,
    /// The grain tables.
    pub(super) tables: Arc<Vec<u32>>,
    /// The redundant grain tables, if they were asked for and are in use.
    pub(super) redundant: Option<Arc<Vec<u32>>>,
    /// Everything that is no grain.
    pub(super) metadata: Metadata,
}

/// Reads the header of an extent; of a stream, its footer.
pub(super) async fn read_header(file: &ImageFile) -> Result<SparseHeader, ImageError> {
    let fail = |problem| ImageError::malformed(file.path(), problem);
    let length = file.length();
    if length < SECTOR_BYTES {
        let problem =
            malformed("VMDK sparse header", 0, "file length", length, "512 bytes or more");
        return Err(fail(problem));
    }
    let header = SparseHeader::parse(&file.read(ByteRange::up_to(SECTOR_BYTES)).await?, 0);
    let header = header.map_err(fail)?;
    if header.directory != Directory::InFooter {
        return Ok(header);
    }
    let Some(start) = length.checked_sub(FOOTER_BYTES).filter(|start| *start >= SECTOR_BYTES)
    else {
        let problem = malformed("VMDK footer", 0, "file length", length, "2048 bytes or more");
        return Err(fail(problem));
    };
    let range = ByteRange::at(ByteOffset::new(start), FOOTER_BYTES).expect("within the file");
    let mut footer = parse_footer(&file.read(range).await?, start).map_err(fail)?;
    check_footer(&header, &footer, start + SECTOR_BYTES).map_err(fail)?;
    footer.descriptor = header.descriptor;
    Ok(footer)
}

impl Outline {
    pub(super) fn shape(&self) -> Shape {
        Shape {
            block_bytes: self.header.grain_bytes(),
            page_entries: self.header.table_entries.into(),
            lead_bytes: 0,
            stores_zero: self.header.zeroed_grains,
            presence_unit: None,
        }
    }

    /// Reads header and directories of the extent; the redundant one only if that is asked for.
    pub(super) async fn read(file: &ImageFile, redundant: bool) -> Result<Self, ImageError> {
        let header = read_header(file).await?;
        let Directory::At(directory) = header.directory else {
            unreachable!("the footer says where the directory is, or is refused")
        };
        let tables = read_directory(file, &header, directory, "gdOffset").await?;
        let second = header.redundant_directory.filter(|_| redundant && header.redundant);
        let second = match second {
            Some(start) => Some(read_directory(file, &header, start, "rgdOffset").await?),
            None => None,
        };
        let all = tables.iter().chain(second.iter().flatten());
        let metadata = Metadata::of(&header, directory, all);
        let redundant = second.map(Arc::new);
        Ok(Self { header, directory, tables: Arc::new(tables), redundant, metadata })
    }

    /// What entries of tables are held against.
    pub(super) fn bounds(&self, file: &ImageFile) -> Bounds<'_> {
        let file_sectors = file.length() / SECTOR_BYTES;
        Bounds { header: &self.header, metadata: &self.metadata, file_sectors }
    }
}

async fn read_directory(
    file: &ImageFile,
    header: &SparseHeader,
    start: u64,
    field: &'static str,
) -> Result<Vec<u32>, ImageError> {
    let fail = |problem: Malformed| ImageError::malformed(file.path(), problem);
    let bytes = header.tables() * 4;
    let offset = start * SECTOR_BYTES;
    if offset + bytes > file.length() {
        let expected = format!("a directory of {bytes} bytes within {} of the file", file.length());
        return Err(fail(malformed("VMDK sparse header", 0, field, start, expected)));
    }
    let range = ByteRange::at(ByteOffset::new(offset), bytes).expect("within the file");
    let entries = file.read(range).await?;
    let file_sectors = file.length() / SECTOR_BYTES;
    let tables = parse_directory(header, &entries, start, file_sectors).map_err(fail)?;
    check_apart(header, &tables, start).map_err(fail)?;
    Ok(tables)
}

/// Reads and checks grain table `table`, which is at `sector`.
pub(super) async fn read_table(
    file: &ImageFile,
    outline: &RwLock<Outline>,
    table: u64,
    sector: u32,
) -> Result<Vec<Grain>, ImageError> {
    let count = {
        let outline = outline.read();
        let grains = outline.bounds(file).grains_of(table);
        match sector {
            0 => return Ok(vec![Grain::Absent; grains]),
            1 if outline.header.zeroed_grains => return Ok(vec![Grain::Zero; grains]),
            _ => outline.header.table_sectors(),
        }
    };
    let bytes = file.read(sectors(sector.into(), count)).await?;
    let outline = outline.read();
    let parsed = outline.bounds(file).parse_table(table, sector, &bytes);
    parsed.map_err(|problem| ImageError::malformed(file.path(), problem))
}

/// The places of grain table `table`; `at` makes one of the offset of a grain.
pub(super) async fn load_table(
    file: &ImageFile,
    outline: &RwLock<Outline>,
    table: u64,
    at: fn(u64) -> Place,
) -> Result<Vec<Place>, DiskError> {
    let number = usize::try_from(table).expect("a directory is in memory");
    let (sector, header) = {
        let outline = outline.read();
        (outline.tables.get(number).copied().unwrap_or(0), outline.header.clone())
    };
    let grains = read_table(file, outline, table, sector).await;
    let grains = grains.map_err(|error| damaged(table_range(&header, table), error))?;
    let place = |grain| match grain {
        Grain::Absent => Place::Absent,
        Grain::Zero => Place::Zero,
        Grain::At(sector) => at(u64::from(sector) * SECTOR_BYTES),
    };
    let mut places: Vec<Place> = grains.into_iter().map(place).collect();
    places.resize(usize::try_from(header.table_entries).expect("small"), Place::Absent);
    Ok(places)
}

/// What a reader of the disk is told when a table is damaged.
pub(super) fn damaged(range: ByteRange, error: ImageError) -> DiskError {
    match error {
        ImageError::Disk(error) => error,
        ImageError::File(error) => DiskError::File(error),
        error => DiskError::Damaged { range, what: error.to_string() },
    }
}

/// The part of the extent that a table is about.
fn table_range(header: &SparseHeader, table: u64) -> ByteRange {
    let length = u64::from(header.table_entries) * header.grain_bytes();
    let start = ByteOffset::new(table * length);
    let range = ByteRange::at(start, length).expect("a disk ends far below 2^64");
    range.intersection(ByteRange::up_to(header.capacity * SECTOR_BYTES))
}

fn entry(place: Place) -> u32 {
    let grain = match place {
        Place::Absent => Grain::Absent,
        Place::Zero => Grain::Zero,
        Place::At(offset) => {
            let sector = u32::try_from(offset / SECTOR_BYTES);
            Grain::At(sector.expect("space ends where entries end"))
        }
        Place::Partial(_) | Place::Packed(_) => unreachable!("the format has no such place"),
    };
    grain.entry()
}

/// The grain tables of an extent.
pub(super) struct SparseTable {
    file: Arc<ImageFile>,
    space: Arc<Space>,
    outline: RwLock<Outline>,
    /// Since this opening the flag was durable once.
    flagged: AtomicBool,
}

impl SparseTable {
    pub(super) fn new(file: Arc<ImageFile>, space: Arc<Space>, outline: Outline) -> Self {
        Self { file, space, outline: RwLock::new(outline), flagged: AtomicBool::new(false) }
    }

    /// The header as it is.
    pub(super) fn header(&self) -> SparseHeader {
        self.outline.read().header.clone()
    }

    async fn write(&self, sector: u64, bytes: &[u8]) -> Result<(), DiskError> {
        let at = ByteOffset::new(sector * SECTOR_BYTES);
        self.file.write(at, Buffer::copy_of(bytes)).await
    }

    async fn write_header(&self, header: &SparseHeader) -> Result<(), DiskError> {
        self.write(0, &header.encode()).await
    }

    /// Notes on the medium whether the extent is in order; durable with the next flush.
    async fn write_flag(&self, unclean: bool) -> Result<(), DiskError> {
        let at = ByteOffset::new(UNCLEAN_SHUTDOWN_OFFSET);
        self.file.write(at, Buffer::copy_of(&[unclean.into()])).await
    }

    /// Space for metadata of `count` sectors that reads as zeroes.
    async fn take_zeroed(&self, count: u64) -> Result<u64, DiskError> {
        let (extent, fresh) = self.space.take(count * SECTOR_BYTES)?;
        if self.file.length() < extent.end() {
            self.file.set_length(extent.end()).await?;
        }
        if !fresh {
            let range = ByteRange::at(ByteOffset::new(extent.offset), extent.length);
            self.file.zero(range.expect("within the file"), ZeroMode::Unmap).await?;
        }
        Ok(extent.offset / SECTOR_BYTES)
    }

    /// Writes tables to one copy. Neighbours in the file go in one piece.
    async fn write_tables(&self, tables: &[u32], changes: &Changes) -> Result<(), DiskError> {
        let mut runs: Vec<(u64, Vec<u8>)> = Vec::new();
        for change in &changes.pages {
            let number = usize::try_from(change.page).expect("a directory is in memory");
            let sector = u64::from(tables[number]);
            let bytes = change.entries.iter().flat_map(|place| entry(*place).to_le_bytes());
            match runs.last_mut() {
                Some((start, run)) if *start + run.len() as u64 / SECTOR_BYTES == sector => {
                    run.extend(bytes);
                }
                _ => runs.push((sector, bytes.collect())),
            }
        }
        let writes = runs.iter().map(|(sector, bytes)| self.write(*sector, bytes));
        join_all(writes).await.into_iter().collect()
    }

    async fn commit_tables(&self, changes: &Changes) -> Result<(), DiskError> {
        let (primary, redundant) = {
            let outline = self.outline.read();
            (Arc::clone(&outline.tables), outline.redundant.clone())
        };
        self.write_flag(true).await?;
        if !self.flagged.load(Ordering::Acquire) || redundant.is_none() {
            self.file.flush().await?;
            self.flagged.store(true, Ordering::Release);
        }
        if let Some(redundant) = redundant {
            self.write_tables(&redundant, changes).await?;
            self.file.flush().await?;
        }
        self.write_tables(&primary, changes).await?;
        self.file.flush().await?;
        self.write_flag(false).await
    }

    /// Gives every table that is missing its place, so that any grain can get an entry.
    pub(super) async fn complete_tables(&self) -> Result<(), ImageError> {
        let mut next = self.outline.read().clone();
        let count = next.header.table_sectors();
        let directories = [
            (next.header.redundant_directory, next.redundant.as_mut()),
            (Some(next.directory), Some(&mut next.tables)),
        ];
        let mut changed = false;
        for (start, tables) in directories {
            let (Some(start), Some(tables)) = (start, tables.map(Arc::make_mut)) else { continue };
            if tables.contains(&1) {
                let what = "grain tables that stand for zeroes as a whole are read only";
                return Err(ImageError::unsupported(self.file.path(), what));
            }
            let missing = tables.iter().filter(|sector| **sector == 0).count() as u64;
            if missing == 0 {
                continue;
            }
            let first = self.take_zeroed(missing * count).await?;
            let empty = tables.iter_mut().filter(|sector| **sector == 0);
            for (sector, place) in
                empty.zip((first..).step_by(usize::try_from(count).expect("small")))
            {
                *sector = u32::try_from(place).expect("space ends where entries end");
            }
            // Tables of nothing first, then what leads to them.
            self.file.flush().await?;
            let sectors = next.header.directory_sectors();
            let entries = encode_directory(tables, sectors);
            let used = usize::try_from(next.header.tables() * 4).expect("a directory is in memory");
            self.write(start, &entries[..used]).await?;
            self.file.flush().await?;
            changed = true;
        }
        if changed {
            let all = next.tables.iter().chain(next.redundant.iter().flat_map(|all| all.iter()));
            next.metadata = Metadata::of(&next.header, next.directory, all);
            *self.outline.write() = next;
        }
        Ok(())
    }

    /// Brings the redundant tables in step with the primary ones after a crash, and takes the flag off. How many differed.
    pub(super) async fn recover(&self) -> Result<u64, ImageError> {
        let outline = self.outline.read().clone();
        let differing = copy_tables(&self.file, &outline, Copy::PrimaryToRedundant).await?;
        self.file.flush().await?;
        self.write_flag(false).await?;
        self.outline.write().header.unclean_shutdown = false;
        Ok(differing)
    }

    /// Makes room for `capacity` sectors: the header is changed last, and in one sector.
    async fn grow(&self, capacity: u64) -> Result<(), DiskError> {
        if capacity > MAX_SPARSE_SECTORS {
            return Err(DiskError::NoSpace(FULL.to_owned()));
        }
        let mut next = self.outline.read().clone();
        let (before, sectors_before) = (next.header.tables(), next.header.directory_sectors());
        self.clear_past_the_end(&next).await?;
        next.header.capacity = capacity;
        let added = next.header.tables() - before;
        let wider = next.header.directory_sectors() > sectors_before;
        let count = next.header.table_sectors();
        let mut moved = [next.header.redundant_directory.unwrap_or(0), next.directory];
        for (place, tables) in
            moved.iter_mut().zip([next.redundant.as_mut(), Some(&mut next.tables)])
        {
            let Some(tables) = tables.filter(|_| added > 0).map(Arc::make_mut) else { continue };
            let first = self.take_zeroed(added * count).await?;
            tables.extend((0..added).map(|number| {
                u32::try_from(first + number * count).expect("space ends where entries end")
            }));
            let directory_sectors = next.header.directory_sectors();
            if wider {
                *place = self.take_zeroed(directory_sectors).await?;
            }
            // Entries behind the present end of the directory mean nothing until the header says so.
            self.write(*place, &encode_directory(tables, directory_sectors)).await?;
        }
        let all = next.tables.iter().chain(next.redundant.iter().flat_map(|all| all.iter()));
        next.metadata = Metadata::of(&next.header, moved[1], all);
        next.header.redundant_directory = next.header.redundant_directory.map(|_| moved[0]);
        next.header.directory = Directory::At(moved[1]);
        next.directory = moved[1];
        self.file.flush().await?;
        self.write_header(&next.header).await?;
        self.file.flush().await?;
        *self.outline.write() = next;
        Ok(())
    }

    /// Entries of the last table past the end of the disk are about to count; whoever wrote the extent may have left something.
    async fn clear_past_the_end(&self, outline: &Outline) -> Result<(), DiskError> {
        let last = outline.header.tables() - 1;
        let used = outline.bounds(&self.file).grains_of(last);
        let entries = usize::try_from(outline.header.table_entries).expect("small");
        let zeroes = vec![0; (entries - used) * 4];
        let number = usize::try_from(last).expect("a directory is in memory");
        let copies = [Some(&outline.tables), outline.redundant.as_ref()];
        for tables in copies.into_iter().flatten().filter(|_| used < entries) {
            let at = u64::from(tables[number]) * SECTOR_BYTES + used as u64 * 4;
            self.file.write(ByteOffset::new(at), Buffer::copy_of(&zeroes)).await?;
        }
        Ok(())
    }

    /// Replaces the embedded descriptor, which has room for `bytes`.
    ///
    /// It is more than a sector, so it is not written where it is: a crash would leave parts of both. It goes to free space first, and
    /// the header leads there while the place where everybody looks is written.
    pub(super) async fn replace_descriptor(&self, bytes: &[u8]) -> Result<(), DiskError> {
        let header = self.header();
        let Some(home) = header.descriptor else { return Ok(()) };
        let length = usize::try_from(home.count * SECTOR_BYTES).expect("a descriptor is in memory");
        let mut padded = bytes.to_vec();
        padded.resize(length.max(bytes.len()), 0);
        let copy = self.take_zeroed(home.count).await?;
        self.write(copy, &padded).await?;
        self.file.flush().await?;
        let aside = Stretch { start: copy, count: home.count };
        self.lead_to_descriptor(aside).await?;
        self.write(home.start, &padded).await?;
        self.file.flush().await?;
        self.lead_to_descriptor(home).await?;
        let extent = Extent { offset: copy * SECTOR_BYTES, length: padded.len() as u64 };
        self.space.give_back(extent);
        Ok(())
    }

    /// Moves a descriptor that a crash left aside back to where everybody looks.
    pub(super) async fn settle_descriptor(&self, bytes: &[u8]) -> Result<(), DiskError> {
        let (header, first) = {
            let outline = self.outline.read();
            let tables =
                outline.tables.iter().chain(outline.redundant.iter().flat_map(|all| all.iter()));
            let tables = tables.filter(|sector| **sector > 1).map(|sector| u64::from(*sector));
            let directories = [Some(outline.directory), outline.header.redundant_directory];
            (outline.header.clone(), tables.chain(directories.into_iter().flatten()).min())
        };
        let Some(aside) = header.descriptor.filter(|stretch| stretch.start >= header.overhead)
        else {
            return Ok(());
        };
        // Others put the descriptor where they like, and leave it there.
        if first.is_some_and(|first| first < 1 + aside.count) || header.overhead < 1 + aside.count {
            return Ok(());
        }
        let mut padded = bytes.to_vec();
        padded.resize(usize::try_from(aside.count * SECTOR_BYTES).expect("in memory"), 0);
        self.write(1, &padded).await?;
        self.file.flush().await?;
        self.lead_to_descriptor(Stretch { start: 1, count: aside.count }).await
    }

    async fn lead_to_descriptor(&self, stretch: Stretch) -> Result<(), DiskError> {
        let mut header = self.header();
        header.descriptor = Some(stretch);
        self.write_header(&header).await?;
        self.file.flush().await?;
        self.outline.write().header = header;
        Ok(())
    }
}

impl Table for SparseTable {
    fn shape(&self) -> Shape {
        self.outline.read().shape()
    }

    fn load(&self, page: u64) -> IoFuture<'_, Vec<Place>> {
        Box::pin(load_table(&self.file, &self.outline, page, Place::At))
    }

    fn begin_changes(&self) -> IoFuture<'_, ()> {
        // The disk, of which this is a part, has noted it in the descriptor.
        Box::pin(std::future::ready(Ok(())))
    }

    fn commit<'a>(&'a self, changes: &'a Changes) -> IoFuture<'a, ()> {
        Box::pin(self.commit_tables(changes))
    }

    fn resize(&self, size_bytes: u64) -> IoFuture<'_, ()> {
        Box::pin(self.grow(size_bytes / SECTOR_BYTES))
    }
}

/// Which copy of the grain tables is taken for the right one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Copy {
    PrimaryToRedundant,
    RedundantToPrimary,
}

/// Copies the grain tables that differ from one copy to the other. How many did.
pub(super) async fn copy_tables(
    file: &ImageFile,
    outline: &Outline,
    copy: Copy,
) -> Result<u64, ImageError> {
    let Some(redundant) = &outline.redundant else { return Ok(0) };
    let mut differing = 0;
    for (primary, redundant) in outline.tables.iter().zip(redundant.iter()) {
        let (from, to) = match copy {
            Copy::PrimaryToRedundant => (*primary, *redundant),
            Copy::RedundantToPrimary => (*redundant, *primary),
        };
        if from <= 1 || to <= 1 {
            continue;
        }
        let count = outline.header.table_sectors();
        let right = file.read(sectors(from.into(), count)).await?;
        let other = file.read(sectors(to.into(), count)).await?;
        if *right != *other {
            differing += 1;
            file.write(sectors(to.into(), count).start(), right).await?;
        }
    }
    Ok(differing)
}

/// The stretches of an extent that are no grains, as the scan of a table wants them.
pub(super) fn structures(outline: &Outline) -> Vec<(Extent, &'static str)> {
    let stretches = outline.metadata.stretches().iter();
    stretches
        .map(|stretch| Extent {
            offset: stretch.start * SECTOR_BYTES,
            length: stretch.count * SECTOR_BYTES,
        })
        .map(|extent| (extent, "header, descriptor, grain directory or grain table"))
        .collect()
}

const _: () = assert!(SECTOR_LENGTH == 512);
