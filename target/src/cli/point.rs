//! `landfall point`: the moments that can be returned to.

use super::machine::ago;
use super::table::Table;
use super::{Format, Place};
use crate::http::client::{Control, escaped};
use crate::http::messages::{Moment, Named, Point, PointMark, Points};
use crate::units::counted;
use clap::ValueEnum;

/// List, mark, pin and unpin recovery points
#[derive(clap::Subcommand)]
pub(super) enum PointVerb {
    /// List the points of a machine or branch, oldest first
    List {
        /// MACHINE or MACHINE~BRANCH
        name: String,
        #[command(flatten)]
        format: Format,
    },
    /// Make a point of what is there now
    ///
    /// Replication makes a point at the end of every pass by itself; this is for giving the present one a name, and for
    /// branches.
    Mark {
        /// MACHINE or MACHINE~BRANCH
        name: String,
        /// A label, to be found as NAME@tag:LABEL
        #[arg(long, value_name = "LABEL")]
        label: Option<String>,
        /// What it promises
        #[arg(long, value_enum, default_value_t = Kind::Crash)]
        kind: Kind,
        #[command(flatten)]
        format: Format,
    },
    /// Keep a point until it is unpinned
    Pin {
        /// MACHINE@WHEN
        name: String,
        #[command(flatten)]
        format: Format,
    },
    /// Let a pinned point go when its time comes
    Unpin {
        /// MACHINE@WHEN
        name: String,
        #[command(flatten)]
        format: Format,
    },
}

/// What a mark may promise.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(super) enum Kind {
    /// What a power cut at this moment would leave
    Crash,
    /// Applications were quiesced
    App,
}

impl PointVerb {
    pub(super) fn run(self, place: &Place) -> anyhow::Result<()> {
        let control = place.control()?;
        match self {
            Self::List { name, format } => {
                let points: Points = control.get(&format!("/v1/points?name={}", escaped(&name)))?;
                format.print(&points, list);
            }
            Self::Mark { name, label, kind, format } => {
                let kind = match kind {
                    Kind::Crash => "crash",
                    Kind::App => "app",
                };
                let wanted = PointMark { name, kind: kind.to_owned(), label };
                let point: Point = control.post("/v1/points", &wanted)?;
                format.print(&point, |point| {
                    format!("{} is a {} point now: {}", point.name, point.kind, point.time)
                });
            }
            Self::Pin { name, format } => pin(&control, name, format, true)?,
            Self::Unpin { name, format } => pin(&control, name, format, false)?,
        }
        Ok(())
    }
}

fn pin(control: &Control, name: String, format: Format, pinned: bool) -> anyhow::Result<()> {
    let (path, word) = if pinned { ("pin", "pinned") } else { ("unpin", "not pinned any more") };
    let moment: Moment = control.post(&format!("/v1/points/{path}"), &Named { name })?;
    format.print(&moment, |moment| format!("{} ({}) is {word}", moment.name, moment.time));
    Ok(())
}

fn list(points: &Points) -> String {
    let line = match &points.branch {
        None => points.machine.clone(),
        Some(branch) => format!("{}~{branch}", points.machine),
    };
    let Some(newest) = points.points.last() else {
        return match &points.branch {
            None => format!("{line} has no points yet: the first copy must end first"),
            Some(_) => format!("nobody marked a point of {line}; any instant of it can be opened"),
        };
    };
    let mut table = Table::new(&["TIME", "AGE", "KIND", "NAME", "LABEL", "PINNED"]);
    for point in &points.points {
        table.row(vec![
            point.time.clone(),
            ago(point.age_seconds),
            point.kind.clone(),
            point.name.clone(),
            point.label.clone().unwrap_or_default(),
            if point.pinned { "pinned".to_owned() } else { String::new() },
        ]);
    }
    let mut text = table.text();
    let count = counted(points.points.len() as u64, "point");
    text.push_str(&format!("\n{count}; a time from this list names its point: {line}@TIME\n"));
    if let Some(uri) = newest.uris.first() {
        text.push_str(&format!("read the newest: {uri}\n"));
    }
    text
}
