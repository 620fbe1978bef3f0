//! `landfall disk`: disks that change while history goes on.

use super::machine::DiskGiven;
use super::{Format, Place, say};
use crate::http::client::escaped;
use crate::http::messages::{DiskGrow, DiskGrown, DiskJoin, DiskLeft, Machine};
use crate::units::ByteSize;

/// Add disks to a machine, make them larger, remove them
#[derive(clap::Subcommand)]
pub(super) enum DiskVerb {
    /// Add a disk to a machine that is protected already
    ///
    /// Points that there are do not have it; the first that does ends its first copy.
    #[command(after_help = "\
Example:
  landfall disk add web --disk name=data,size=2TiB
  landfall replicate web --disk os=/images/web.raw --disk data=/images/web-data.raw --once")]
    Add {
        /// The machine
        machine: String,
        /// The disk, as in `landfall machine add`: name=NAME,size=SIZE and, where wanted, format=raw and path=FILE
        #[arg(long, value_name = "KEY=VALUE,…")]
        disk: DiskGiven,
        #[command(flatten)]
        format: Format,
    },
    /// Make a disk larger, as it was made at its source, or on a branch alone
    ///
    /// Older points keep the size they had. Nothing may replicate the machine meanwhile. A disk of a branch grows for that
    /// branch, also while somebody writes to it: who has it open sees the new size when he opens it again. Disks do not shrink.
    #[command(after_help = "\
Examples:
  landfall disk grow web/os --size 80GiB
  landfall disk grow web~test/os --size 80GiB")]
    Grow {
        /// MACHINE/DISK, or MACHINE~BRANCH/DISK
        name: String,
        /// Its new size
        #[arg(long, value_name = "SIZE")]
        size: ByteSize,
        #[command(flatten)]
        format: Format,
    },
    /// Protect a disk no longer
    ///
    /// Points up to now keep it, until the history of the machine begins after them. Nothing may replicate the machine
    /// meanwhile. Its image file stays where it is.
    Remove {
        /// MACHINE/DISK
        name: String,
    },
}

impl DiskVerb {
    pub(super) fn run(self, place: &Place) -> anyhow::Result<()> {
        let control = place.control()?;
        match self {
            Self::Add { machine, disk, format } => {
                let disk = disk.complete()?;
                let name = disk.name.clone();
                let machine: Machine = control.post("/v1/disks", &DiskJoin { machine, disk })?;
                format.print(&machine, |machine| {
                    format!(
                        "disk {name} added to {}; points will have it once it was replicated with the others",
                        machine.name
                    )
                });
            }
            Self::Grow { name, size, format } => {
                let wanted = DiskGrow { name, size_bytes: size.bytes() };
                let grown: DiskGrown = control.post("/v1/disks/grow", &wanted)?;
                format.print(&grown, in_words);
            }
            Self::Remove { name } => {
                let left: DiskLeft =
                    control.delete(&format!("/v1/disks?name={}", escaped(&name)))?;
                say(&match left.forgotten {
                    true => format!("disk {name} removed; no point had it"),
                    false => format!("disk {name} removed; points up to now keep it"),
                });
            }
        }
        Ok(())
    }
}

fn in_words(grown: &DiskGrown) -> String {
    let size = ByteSize::new(grown.size_bytes);
    if grown.from_bytes == grown.size_bytes {
        return format!("{} has {size} already", grown.name);
    }
    let from = ByteSize::new(grown.from_bytes);
    let point = match &grown.point {
        Some(point) => format!("; {point} is the first point that has it"),
        None => "; the next point will have it".to_owned(),
    };
    format!("{} grew from {from} to {size}{point}", grown.name)
}
