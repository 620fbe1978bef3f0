//! Checking an image, and repairing what can be repaired without guessing.
//!
//! | what is wrong | repair |
//! |---|---|
//! | the log was not replayed | replay it |
//! | one header, or one region table, is broken | write it anew from the other |
//! | the file is longer than what it uses | cut it |
//! | an entry of the BAT names no place, or one that something else has | none: which block is right is not known |

use super::Guids;
use super::container::{Container, read_headers, read_region_tables, write_header};
use super::survey::{Survey, survey};
use crate::block::ByteOffset;
use crate::image::{
    Access, Finding, ImageError, ImageFile, Location, Malformed, Opener, Repair, Report,
};
use crate::uring::buffer::Buffer;
use vhdx_parse::{
    Header, HeaderSlot, MIB, REGION_TABLE_1_OFFSET, REGION_TABLE_2_OFFSET, RegionTable,
};

/// Checks the image at `location`, and repairs what can be repaired if that is wanted. An error says that it cannot be opened
/// at all. Parents are not looked for.
///
/// A log that was not replayed is no fault: whoever opens the image for writing replays it, and so does a repair.
pub async fn check(
    _opener: &mut Opener<'_>,
    location: &Location,
    repair: bool,
) -> Result<Report, ImageError> {
    check_with(location, repair, &super::kernel_guids()).await
}

/// As [`check`], with GUIDs from somewhere else.
pub async fn check_with(
    location: &Location,
    repair: bool,
    guids: &Guids,
) -> Result<Report, ImageError> {
    let access = if repair { Access::Write } else { Access::Read };
    let file = ImageFile::open(&*location.folder, &location.path, access).await?;
    let container = Container::open(file, guids).await?;
    let survey = survey(&container).await?;
    let broken = broken_copies(&container).await?;
    let mut report = summarize(&container, &survey);
    if repair {
        mend(&container, &survey, &broken, guids, &mut report).await?;
    }
    for (problem, _) in broken {
        let repair = if repair { Repair::Done } else { Repair::Possible };
        report.add(Finding { file: container.path.clone(), problem, repair });
    }
    Ok(report)
}

fn summarize(container: &Container, survey: &Survey) -> Report {
    let mut report = Report {
        blocks: container.layout().payload_blocks(),
        placed: survey.placed,
        unused_bytes: survey.unused(container.file.length()),
        ..Report::default()
    };
    for problem in &survey.problems {
        report.add(Finding {
            file: container.path.clone(),
            problem: problem.clone(),
            repair: Repair::Impossible,
        });
    }
    report
}

/// Writes broken copies anew, and cuts what is behind everything in use.
async fn mend(
    container: &Container,
    survey: &Survey,
    broken: &[(Malformed, Copy)],
    guids: &Guids,
    report: &mut Report,
) -> Result<(), ImageError> {
    let file: &ImageFile = &container.file;
    // With entries that are wrong, it is not known where what is in use ends.
    let end = if survey.problems.is_empty() {
        survey.end().next_multiple_of(MIB).min(file.length())
    } else {
        file.length()
    };
    if broken.is_empty() && end == file.length() {
        return Ok(());
    }
    let header = Header { file_write_guid: guids(), ..container.current.header };
    let current = write_header(file, container.current.updated(header)).await?;
    file.flush().await?;
    // The other slot holds an older state or garbage; now it holds this one.
    write_header(file, current.updated(current.header)).await?;
    for (_, copy) in broken {
        if let Copy::RegionTable(offset) = copy {
            let bytes = Buffer::copy_of(&container.regions.encode());
            file.write(ByteOffset::new(*offset), bytes).await?;
        }
    }
    report.unused_bytes -= file.length() - end;
    file.set_length(end).await?;
    Ok(file.flush().await?)
}

/// One of two copies of something.
enum Copy {
    Header,
    RegionTable(u64),
}

/// Copies that are broken; the file could be opened by the other ones.
async fn broken_copies(container: &Container) -> Result<Vec<(Malformed, Copy)>, ImageError> {
    let reader = &container.reader();
    let mut broken = Vec::new();
    let slots = [HeaderSlot::First, HeaderSlot::Second];
    for (slot, bytes) in slots.into_iter().zip(read_headers(reader).await?) {
        if let Err(problem) = Header::parse(&bytes, slot.offset()) {
            broken.push((problem.into(), Copy::Header));
        }
    }
    let offsets = [REGION_TABLE_1_OFFSET, REGION_TABLE_2_OFFSET];
    for (offset, bytes) in offsets.into_iter().zip(read_region_tables(reader).await?) {
        match RegionTable::parse(&bytes, offset) {
            Ok(table) if table == container.regions => {}
            Ok(table) => {
                let problem = Malformed {
                    structure: "VHDX region table",
                    offset,
                    field: "entries",
                    value: format!("a BAT at {}", table.bat().offset),
                    expected: "the same as in the other copy".into(),
                };
                broken.push((problem, Copy::RegionTable(offset)));
            }
            Err(problem) => broken.push((problem.into(), Copy::RegionTable(offset))),
        }
    }
    Ok(broken)
}
