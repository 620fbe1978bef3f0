//! Checking a disk, and putting right what can be.
//!
//! ```text
//!   finding                                     repair
//!   redundant tables differ from primary ones   copied from the primary ones
//!   a primary table is broken, its copy is not  copied from the redundant ones
//!   unclean shutdown                            tables brought in step, flag off
//!   the long content id does not end in the CID the long one follows
//!   a child of another content                  none: only its owner knows whether the parent was changed on purpose
//!   grains that share bytes or lie outside      none
//! ```

use super::extents;
use super::format::descriptor::{Descriptor, ExtentKind};
use super::format::tables::Metadata;
use super::format::{SECTOR_BYTES, malformed};
use super::open::Look;
use super::sparse::{Copy, Outline, SparseTable, copy_tables, read_table, structures};
use crate::block::ByteOffset;
use crate::image::{
    Access, Finding, ImageError, ImageFile, Location, Malformed, Opener, Repair, Report,
};
use crate::mapped::{Space, scan};
use crate::uring::buffer::Buffer;
use parking_lot::RwLock;
use std::sync::Arc;

/// Checks the disk at `location`; with `repair`, puts right what can be without loss.
///
/// What keeps the disk from being understood at all is an error; what is wrong in it, a finding.
pub async fn check(
    opener: &mut Opener<'_>,
    location: &Location,
    repair: bool,
) -> Result<Report, ImageError> {
    let mut report = Report::default();
    let access = if repair { Access::Write } else { Access::Read };
    let file = ImageFile::open(&*location.folder, &location.path, access).await?;
    let look = Look::at(&file).await?;
    let file = Arc::new(file);
    check_identity(&file, &look, repair, &mut report).await?;
    if let Some(header) = &look.embedded {
        let sectors = look.descriptor.extents().next().map_or(0, |line| line.sectors);
        check_sparse(&file, sectors, header.compressed, repair, &mut report).await?;
    } else {
        for line in look.descriptor.extents() {
            match line.kind {
                ExtentKind::Sparse => {
                    let (_, file) = opener.extent(location, &line.file, access).await?;
                    let file = Arc::new(file);
                    let compressed = super::sparse::read_header(&file).await?.compressed;
                    check_sparse(&file, line.sectors, compressed, repair, &mut report).await?;
                }
                ExtentKind::Other(_) | ExtentKind::Zero => {}
                ExtentKind::Flat | ExtentKind::Vmfs => {
                    report.blocks += line.sectors;
                    report.placed += line.sectors;
                }
                ExtentKind::VmfsSparse | ExtentKind::SeSparse => {}
            }
        }
    }
    drop(file);
    check_as_a_whole(opener, location, &look.descriptor, &mut report).await?;
    Ok(report)
}

fn add(report: &mut Report, file: &ImageFile, problem: Malformed, repair: Repair) {
    report.add(Finding { file: file.path().to_owned(), problem, repair });
}

/// All files are there, the parent has the content that the child was made of, and deltas of ESX can be read through.
async fn check_as_a_whole(
    opener: &mut Opener<'_>,
    location: &Location,
    descriptor: &Descriptor,
    report: &mut Report,
) -> Result<(), ImageError> {
    let deltas = descriptor
        .extents()
        .any(|line| matches!(line.kind, ExtentKind::VmfsSparse | ExtentKind::SeSparse));
    let opened = opener.open(location, Some(crate::image::Format::Vmdk), Access::Read).await;
    let image = match opened {
        Ok(image) => image,
        Err(ImageError::ParentMismatch { path, parent, found, expected, .. }) => {
            let value = format!("{expected}, but {} has {found}", parent.display());
            let problem =
                malformed("VMDK descriptor", 0, "parentCID", value, "the CID of the parent");
            report.add(Finding { file: path, problem, repair: Repair::Impossible });
            return Ok(());
        }
        Err(ImageError::Missing { path, reference, .. })
            if descriptor.parent_hint() == Some(reference.as_str()) =>
        {
            let expected = "the name of a file that is there";
            let problem =
                malformed("VMDK descriptor", 0, "parentFileNameHint", reference, expected);
            report.add(Finding { file: path, problem, repair: Repair::Impossible });
            return Ok(());
        }
        Err(error) => return Err(error),
    };
    if !deltas {
        return Ok(());
    }
    let whole = image.disk.geometry().whole();
    let mut at = whole.start();
    while at < whole.end() {
        let rest = crate::block::ByteRange::new(at, whole.end()).expect("before the end");
        match image.disk.own(rest).await {
            Ok(own) => {
                for part in own {
                    at = part.range.end();
                    let sectors = part.range.length() / SECTOR_BYTES;
                    report.blocks += sectors;
                    report.placed += if part.content.is_some() { sectors } else { 0 };
                }
            }
            Err(crate::disk::DiskError::Damaged { what, range }) => {
                let expected = "a table that can be read";
                let problem =
                    malformed("ESX delta", range.start().bytes(), "grains", what, expected);
                let file = location.display();
                report.add(Finding { file, problem, repair: Repair::Impossible });
                at = range.end();
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// The two identities of the content say the same.
async fn check_identity(
    file: &ImageFile,
    look: &Look,
    repair: bool,
    report: &mut Report,
) -> Result<(), ImageError> {
    let Some(long) = look.descriptor.setting("ddb.longContentID") else { return Ok(()) };
    let cid = look.descriptor.cid().to_string();
    if long.len() != 32 || !long.is_ascii() || long.ends_with(&cid) {
        return Ok(());
    }
    let expected = format!("a number that ends in the CID {cid}");
    let problem = malformed("VMDK descriptor", look.offset, "ddb.longContentID", long, expected);
    let right = format!("{}{cid}", &long[..24]);
    let mut state = Repair::Possible;
    if repair {
        let mut descriptor = look.descriptor.clone();
        descriptor.set("ddb.longContentID", &right);
        let bytes =
            descriptor.print().map_err(|problem| ImageError::malformed(file.path(), problem))?;
        // As long as it was, and within the lines that were there.
        file.write(ByteOffset::new(look.offset), Buffer::copy_of(&bytes)).await?;
        file.flush().await?;
        state = Repair::Done;
    }
    add(report, file, problem, state);
    Ok(())
}

async fn check_sparse(
    file: &Arc<ImageFile>,
    sectors: u64,
    compressed: bool,
    repair: bool,
    report: &mut Report,
) -> Result<(), ImageError> {
    let outline = match Outline::read(file, true).await {
        Ok(outline) => outline,
        Err(ImageError::Malformed { problem, .. }) => {
            // Broken in the redundant directory alone, it can still be read.
            let outline = Outline::read(file, false).await?;
            add(report, file, problem, Repair::Impossible);
            outline
        }
        Err(error) => return Err(error),
    };
    if outline.header.capacity < sectors {
        let found = outline.header.capacity;
        let expected = format!("{sectors} sectors, as in the descriptor");
        add(
            report,
            file,
            malformed("VMDK sparse header", 0, "capacity", found, expected),
            Repair::Impossible,
        );
    }
    let repair = repair && !compressed;
    check_tables(file, &outline, repair, report).await?;
    check_grains(file, &outline, report).await?;
    if outline.header.unclean_shutdown {
        let problem = malformed("VMDK sparse header", 0, "uncleanShutdown", 1, "0");
        let state = if repair { Repair::Done } else { Repair::Possible };
        if repair {
            let space = Arc::new(Space::new(file.length(), 512, u64::MAX, super::sparse::FULL));
            SparseTable::new(Arc::clone(file), space, outline).recover().await?;
            file.flush().await?;
        }
        add(report, file, problem, state);
    }
    Ok(())
}

/// Each primary table can be read, or its copy can; and both copies are the same.
async fn check_tables(
    file: &Arc<ImageFile>,
    outline: &Outline,
    repair: bool,
    report: &mut Report,
) -> Result<(), ImageError> {
    let shared = RwLock::new(outline.clone());
    let redundant = outline.redundant.as_deref().map_or(&[][..], |all| &all[..]);
    for (number, primary) in (0u64..).zip(outline.tables.iter()) {
        let broken = match read_table(file, &shared, number, *primary).await {
            Ok(_) => None,
            Err(ImageError::Malformed { problem, .. }) => Some(problem),
            Err(error) => return Err(error),
        };
        let copy = usize::try_from(number).ok().and_then(|number| redundant.get(number));
        let copy = copy.copied().filter(|sector| *sector > 1 && *primary > 1);
        let Some(copy) = copy else {
            if let Some(problem) = broken {
                add(report, file, problem, Repair::Impossible);
            }
            continue;
        };
        let one = Outline {
            tables: Arc::new(vec![*primary]),
            redundant: Some(Arc::new(vec![copy])),
            ..outline.clone()
        };
        let (problem, direction) = match broken {
            Some(problem) => {
                if read_table(file, &shared, number, copy).await.is_err() {
                    add(report, file, problem, Repair::Impossible);
                    continue;
                }
                (problem, Copy::RedundantToPrimary)
            }
            None if !tables_differ(file, &one).await? => continue,
            None => {
                let offset = u64::from(copy) * SECTOR_BYTES;
                let value =
                    format!("not that of table {number} at {}", u64::from(*primary) * SECTOR_BYTES);
                let structure = "VMDK redundant grain table";
                (
                    malformed(structure, offset, "content", value, "the same"),
                    Copy::PrimaryToRedundant,
                )
            }
        };
        if repair {
            copy_tables(file, &one, direction).await?;
            file.flush().await?;
        }
        add(report, file, problem, if repair { Repair::Done } else { Repair::Possible });
    }
    Ok(())
}

async fn tables_differ(file: &ImageFile, one: &Outline) -> Result<bool, ImageError> {
    let Some(redundant) = &one.redundant else { return Ok(false) };
    let count = one.header.table_sectors();
    let primary = file.read(super::sparse::sectors(one.tables[0].into(), count)).await?;
    let other = file.read(super::sparse::sectors(redundant[0].into(), count)).await?;
    Ok(*primary != *other)
}

/// No two grains share bytes, and none lies outside.
async fn check_grains(
    file: &Arc<ImageFile>,
    outline: &Outline,
    report: &mut Report,
) -> Result<(), ImageError> {
    let header = &outline.header;
    report.blocks += header.grains();
    if header.compressed {
        return check_packed(file, outline, report).await;
    }
    let space = Arc::new(Space::new(file.length(), 512, u64::MAX, super::sparse::FULL));
    // Tables that cannot be read are findings already; the others are looked at without them.
    let shared = RwLock::new(outline.clone());
    let mut tables = outline.tables.to_vec();
    for (number, sector) in (0u64..).zip(tables.iter_mut()) {
        if read_table(file, &shared, number, *sector).await.is_err() {
            *sector = 0;
        }
    }
    let all = outline.tables.iter().chain(outline.redundant.iter().flat_map(|all| all.iter()));
    let metadata = Metadata::of(header, outline.directory, all);
    let readable = Outline { tables: Arc::new(tables), metadata, ..outline.clone() };
    let table = SparseTable::new(Arc::clone(file), space, readable);
    let usage = scan(&table, header.grains(), file.length(), &structures(outline)).await?;
    report.placed += usage.placed;
    let space = usage.space(file.length(), 512, u64::MAX, super::sparse::FULL);
    report.unused_bytes += space.free_bytes();
    for conflict in &usage.conflicts {
        // The last grain may be cut where the disk ends; entries past the end of the file are findings of their tables.
        if matches!(conflict, crate::mapped::Conflict::PastTheEnd { .. }) {
            continue;
        }
        let problem =
            malformed("VMDK grain table", 0, "grains", extents::describe(conflict), "grains apart");
        add(report, file, problem, Repair::Impossible);
    }
    Ok(())
}

/// Every packed grain can be unpacked.
async fn check_packed(
    file: &Arc<ImageFile>,
    outline: &Outline,
    report: &mut Report,
) -> Result<(), ImageError> {
    use crate::disk::DiskError;
    use crate::mapped::{Place, Table};
    let table = super::packed::PackedTable::new(Arc::clone(file), outline.clone());
    let entries = u64::from(outline.header.table_entries);
    for page in 0..outline.header.tables() {
        // A table that cannot be read is a finding already.
        let Ok(places) = table.load(page).await else { continue };
        for (block, place) in (page * entries..).zip(places) {
            let Place::Packed(offset) = place else { continue };
            report.placed += 1;
            match table.unpack(block, offset).await {
                Ok(_) => {}
                Err(DiskError::Damaged { what, .. }) => {
                    let problem =
                        malformed("VMDK packed grain", offset, "content", what, "a grain");
                    add(report, file, problem, Repair::Impossible);
                }
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(())
}
