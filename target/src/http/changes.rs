//! The part of the control API that tells what changed on a disk between two moments, page by page.
//!
//! Nothing is kept between two pages: the first answer has names that always mean the same moments, and whoever asks
//! for the next page names those.

use super::control::Answer;
use super::messages::{ChangedRange, Changes, ChangesAsked};
use super::problem::Problem;
use crate::service::Target;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::routing::get;
use axum::{Json, Router};
use landfall_disks::ByteOffset;
use landfall_retention::name::{MomentName, Name, When};
use landfall_retention::{ChangesError, Retention};
use std::sync::Arc;

/// Most ranges of a page: some hundred kilobytes of text.
const PAGE: usize = 10_000;

/// Everything under `/v1/changes`.
pub(super) fn router() -> Router<Arc<Target>> {
    Router::new().route("/v1/changes", get(changes))
}

impl From<ChangesError> for Problem {
    fn from(error: ChangesError) -> Self {
        let text = error.to_string();
        match error {
            ChangesError::Resolve(error) => error.into(),
            ChangesError::NothingInCommon { .. } => Self::bad(text),
            ChangesError::Gone(_) => Self::unknown(text),
            _ => Self::failed(text),
        }
    }
}

async fn changes(
    State(target): State<Arc<Target>>,
    asked: Result<Query<ChangesAsked>, QueryRejection>,
) -> Answer<Changes> {
    let Query(asked) = asked.map_err(|error| Problem::bad(error.body_text()))?;
    let (line, disk) = read_disk(&asked.disk)?;
    let from = read_moment(&asked.from, &line, &disk)?;
    let to = read_moment(&asked.to, &line, &disk)?;
    if asked.limit == Some(0) {
        return Err(Problem::bad("limit=0 asks for nothing"));
    }
    let most = asked.limit.unwrap_or(PAGE).min(PAGE);
    let after = ByteOffset::new(asked.after.unwrap_or_default());
    let page = move |retention: Arc<Retention>| async move {
        page_of(&retention, [from, to], &disk, (after, most)).await
    };
    Ok(Json(target.on_core(page).await?))
}

async fn page_of(
    retention: &Retention,
    [from, to]: [MomentName; 2],
    disk: &Name,
    (after, most): (ByteOffset, usize),
) -> Result<Changes, ChangesError> {
    let (from, to) = (retention.resolve(&from).await?, retention.resolve(&to).await?);
    let changes = retention.changes(from, to, disk)?;
    let page = changes.page(after, most).await?;
    let range = |changed: &landfall_retention::ChangedRange| ChangedRange {
        offset: changed.range.start().bytes(),
        length: changed.range.length(),
        written: changed.written,
    };
    Ok(Changes {
        from: changes.from().absolute_name(Some(disk)),
        from_time: changes.from().commit_time.to_string(),
        to: changes.to().absolute_name(Some(disk)),
        to_time: changes.to().commit_time.to_string(),
        size_bytes: changes.size_bytes(),
        ranges: page.ranges.iter().map(range).collect(),
        next: page.next.map(ByteOffset::bytes),
    })
}

/// A disk of a machine or branch, without a moment.
fn read_disk(text: &str) -> Result<(MomentName, Name), Problem> {
    let name = MomentName::parse(text)?;
    match (&name.disk, text.contains('@')) {
        (Some(disk), false) => {
            let disk = disk.clone();
            Ok((name, disk))
        }
        _ => Err(Problem::bad(format!(
            "{text:?}: name a disk here, as MACHINE/DISK or MACHINE~BRANCH/DISK, without @WHEN"
        ))),
    }
}

/// `WHEN` on `line`, or a moment of another line of its machine, with the disk or without.
fn read_moment(text: &str, line: &MomentName, disk: &Name) -> Result<MomentName, Problem> {
    if !text.contains('@') {
        return Ok(MomentName { when: When::parse(text)?, ..line.clone() });
    }
    let name = MomentName::parse(text)?;
    if name.machine != line.machine || name.disk.as_ref().is_some_and(|other| other != disk) {
        return Err(Problem::bad(format!(
            "{text:?} is not a moment of {}/{disk}: changes are told between moments of one disk",
            line.machine
        )));
    }
    Ok(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_those_of_the_line_unless_they_name_another_of_its_machine() {
        let (line, disk) = read_disk("web~test/os").expect("a disk");
        let read = |text: &str| read_moment(text, &line, &disk);
        let name = |text: &str| MomentName::parse(text).expect("a name");
        assert_eq!(read("seq:7").expect("a moment"), name("web~test/os@seq:7"));
        assert_eq!(read("-15m").expect("a moment"), name("web~test/os@-15m"));
        assert_eq!(read("web@latest").expect("a moment"), name("web@latest"));
        assert_eq!(read("web~b/os@app").expect("a moment"), name("web~b/os@app"));
        for wrong in ["db@latest", "web/data@latest", "web@", "yesterday", ""] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
        for wrong in ["web", "web/os@latest", "web~test", ""] {
            assert!(read_disk(wrong).is_err(), "{wrong}");
        }
    }
}
