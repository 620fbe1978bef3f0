//! Checking: everything that is wrong with a file, and putting right what loses nothing.

use super::fixed::FixedDisk;
use super::format::Kind;
use super::found::Found;
use super::open::{put_in_order, references};
use super::sparse::{Sparse, space_of};
use crate::image::{
    Access, Finding, ImageError, ImageFile, Location, Malformed, Opener, Repair, Report,
};
use crate::mapped::Table;
use std::sync::Arc;

/// Checks the VHD at `location` by itself, without its parent. With `repair`, a footer that is missing or differs from its copy,
/// and what a growth left that was cut short, are put right, durably.
pub async fn check(
    _opener: &mut Opener<'_>,
    location: &Location,
    repair: bool,
) -> Result<Report, ImageError> {
    let access = if repair { Access::Write } else { Access::Read };
    let file = ImageFile::open(&*location.folder, &location.path, access).await?;
    let file = Arc::new(file);
    let mut report = Report::default();
    match examine(&file, repair, &mut report).await {
        // Nothing behind it can be told, so this is the last finding.
        Err(ImageError::Malformed { path, problem }) => {
            report.add(Finding { file: path, problem, repair: Repair::Impossible });
        }
        other => other?,
    }
    Ok(report)
}

async fn examine(
    file: &Arc<ImageFile>,
    repair: bool,
    report: &mut Report,
) -> Result<(), ImageError> {
    let found = Found::in_file(file).await?;
    if found.footer.kind == Kind::Fixed {
        let problems = found.problems.clone();
        let end = file.length();
        report.unused_bytes = end.saturating_sub(found.footer.size_bytes() + 512);
        if repair {
            FixedDisk::open(Arc::clone(file), found).await?;
        }
        add(report, file, problems, repaired(repair));
        return Ok(());
    }
    let (footer, tail) = (found.footer.clone(), found.tail);
    let sparse = Sparse::read(Arc::clone(file), found).await?;
    let names = references(&sparse).await;
    let end = sparse.data_end();
    let (table, usage, problems, harmless) = sparse.examine().await?;
    report.blocks = table.blocks();
    report.placed = usage.placed;
    if problems.is_empty() {
        report.unused_bytes = space_of(&usage, end, table.shape().lead_bytes).free_bytes();
        if repair && !harmless.is_empty() {
            put_in_order(file, &footer, tail).await?;
        }
        add(report, file, harmless, repaired(repair));
    } else {
        // A file whose blocks are in conflict is not written to.
        add(report, file, harmless, Repair::Possible);
        add(report, file, problems, Repair::Impossible);
    }
    names.map(drop)
}

fn repaired(repair: bool) -> Repair {
    if repair { Repair::Done } else { Repair::Possible }
}

fn add(report: &mut Report, file: &ImageFile, problems: Vec<Malformed>, repair: Repair) {
    for problem in problems {
        report.add(Finding { file: file.path().to_owned(), problem, repair });
    }
}
