//! `landfall point`: the moments that can be returned to.

mod list;

use super::{Format, Place};
use crate::http::client::Control;
use crate::http::messages::{Moment, Named, Point, PointMark};
use clap::ValueEnum;

/// List, mark, pin and unpin recovery points
#[derive(clap::Subcommand)]
pub(super) enum PointVerb {
    /// List the points of a machine or branch, oldest first
    List(list::List),
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
            Self::List(verb) => verb.run(&control)?,
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
