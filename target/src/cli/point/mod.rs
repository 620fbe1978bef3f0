//! `landfall point`: the moments that can be returned to.

mod list;

use super::{Format, Place};
use crate::http::client::Control;
use crate::http::messages::{Moment, Named, Point, PointLock, PointMark};
use crate::units::Period;
use clap::ValueEnum;
use landfall_retention::time::{Clock, SystemClock, Timestamp};
use std::time::Duration;

/// List, mark, pin and lock recovery points
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
    /// Lock a point: nobody can drop or unlock it before a date
    ///
    /// A lock can be made longer and not shorter; its machine and branch cannot be removed while it stands.
    Lock {
        /// MACHINE@WHEN
        name: String,
        #[command(flatten)]
        end: LockEnd,
        #[command(flatten)]
        format: Format,
    },
    /// Say whether the lock of a point has ended; refused while it stands
    Unlock {
        /// MACHINE@WHEN
        name: String,
        #[command(flatten)]
        format: Format,
    },
}

/// When a lock ends.
#[derive(clap::Args)]
#[group(required = true, multiple = false)]
pub(super) struct LockEnd {
    /// At this time: RFC 3339 with a zone
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    /// So long from now: 12h, 30d
    #[arg(long = "for", value_name = "TIME")]
    length: Option<Period>,
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
            Self::Lock { name, end, format } => {
                let until = end.time();
                let wanted = PointLock { name, until: until.clone() };
                let moment: Moment = control.post("/v1/points/lock", &wanted)?;
                format.print(&moment, |moment| {
                    format!("{} ({}) is locked until {until}", moment.name, moment.time)
                });
            }
            Self::Unlock { name, format } => {
                let moment: Moment = control.post("/v1/points/unlock", &Named { name })?;
                format.print(&moment, |moment| {
                    format!("{} ({}) is not locked", moment.name, moment.time)
                });
            }
        }
        Ok(())
    }
}

impl LockEnd {
    fn time(self) -> String {
        match (self.until, self.length) {
            (Some(until), _) => until,
            (None, length) => {
                let length = length.map_or(Duration::ZERO, |length| length.0);
                let nanoseconds = u64::try_from(length.as_nanos()).unwrap_or(u64::MAX);
                let now = SystemClock.now().nanoseconds();
                Timestamp::from_nanoseconds(now.saturating_add(nanoseconds)).to_string()
            }
        }
    }
}

fn pin(control: &Control, name: String, format: Format, pinned: bool) -> anyhow::Result<()> {
    let (path, word) = if pinned { ("pin", "pinned") } else { ("unpin", "not pinned any more") };
    let moment: Moment = control.post(&format!("/v1/points/{path}"), &Named { name })?;
    format.print(&moment, |moment| format!("{} ({}) is {word}", moment.name, moment.time));
    Ok(())
}
