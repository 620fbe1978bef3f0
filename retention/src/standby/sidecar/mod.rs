//! What stands beside a standby file: which moment of which disk it holds, or that it holds none.
//!
//! ```text
//!   web-os.vmdk  web-os-flat.vmdk  web-os.vmdk.landfall      a line of what it means for people, then fields (text.rs)
//! ```
//!
//! It is text, so that somebody without this program can read it in the middle of a night. See `docs/formats/standby.md`.
//! **Invariant:** it never says that a file holds a moment unless the file durably does. What it says is trusted only if it is
//! whole, and if the file is the one that was written then, as far as its file system tells ([`FileStamp`]).

mod text;

#[cfg(test)]
mod tests;

use crate::ids::{DiskId, MachineId};
use crate::manifest::standby::HeldMoment;
use crate::moment::Moment;
use crate::name::{Label, Name};
use crate::point::PointKind;
use crate::time::Timestamp;
use landfall_disks::image::Format;
use std::fmt;

pub use text::{MAX_BYTES, MAX_FILES, SidecarFault};

/// What is put behind the name of a file.
pub const SUFFIX: &str = ".landfall";

/// What a sidecar says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Sidecar {
    /// Data folder of the target that writes the file.
    pub target: [u8; 16],
    /// The machine.
    pub machine: Name,
    /// Its id.
    pub machine_id: MachineId,
    /// The disk.
    pub disk: Name,
    /// Its id.
    pub disk_id: DiskId,
    /// Format of the file.
    pub format: Format,
    /// Names of the files of all disks of the machine at the moment; the machine boots only from all of them.
    pub set: Vec<String>,
    /// When this was written, by the target's clock.
    pub written: Timestamp,
    /// What the file holds.
    pub holds: Holds,
}

/// What a standby file holds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Holds {
    /// Exactly a moment.
    Moment {
        /// Which.
        moment: HeldPoint,
        /// Size of the disk then, in bytes.
        size_bytes: u64,
        /// What the format calls the content, if it does.
        content: Option<String>,
        /// The files it consists of, its own first, as they were left.
        files: Vec<FileStamp>,
    },
    /// Something between two moments: what differs between them may be of either.
    Between {
        /// What it held.
        from: HeldPoint,
        /// What it is to hold.
        to: HeldPoint,
    },
    /// Nothing that is known.
    Unknown {
        /// What it is to hold.
        to: HeldPoint,
    },
}

/// A moment that a file holds, as it is called.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HeldPoint {
    /// Which.
    pub at: HeldMoment,
    /// Kind of the point, if it is a marked one.
    pub kind: Option<PointKind>,
    /// Its label.
    pub label: Option<Label>,
}

/// A file as its file system has it: whoever writes to it changes that.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FileStamp {
    /// Its name in the folder.
    pub name: String,
    /// Its number in the file system.
    pub inode: u64,
    /// Its length, in bytes.
    pub length_bytes: u64,
    /// When its content was changed, in nanoseconds since 1970.
    pub modified: u64,
    /// When its content or anything about it was changed, in nanoseconds since 1970.
    pub changed: u64,
}

/// How a file differs from what it was when it was left.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum StampChange {
    /// Not at all.
    None,
    /// It was moved, copied, or given to somebody else: nothing says that its content changed, or that it did not.
    Moved,
    /// Its content was changed.
    Written,
}

impl FileStamp {
    /// How `now` differs from what was noted.
    pub fn compare(&self, now: &Self) -> StampChange {
        let content = |stamp: &Self| (stamp.length_bytes, stamp.modified);
        if content(self) != content(now) {
            StampChange::Written
        } else if (self.inode, self.changed) != (now.inode, now.changed) {
            StampChange::Moved
        } else {
            StampChange::None
        }
    }
}

impl HeldPoint {
    /// That of a moment.
    pub fn of(moment: &Moment) -> Self {
        let Moment { line, sequence, commit_time, .. } = *moment;
        let at = HeldMoment { line, sequence, time: commit_time };
        Self { at, kind: moment.kind, label: moment.label.clone() }
    }
}

impl fmt::Display for HeldPoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = self.kind.map_or("instant", PointKind::word);
        write!(f, "{} (seq:{}, {kind}", self.at.time, self.at.sequence)?;
        if let Some(label) = &self.label {
            write!(f, ", {}", label.as_str())?;
        }
        f.write_str(")")
    }
}

impl Sidecar {
    /// The moment that the file durably holds, if it holds one.
    pub fn moment(&self) -> Option<&HeldPoint> {
        match &self.holds {
            Holds::Moment { moment, .. } => Some(moment),
            Holds::Between { .. } | Holds::Unknown { .. } => None,
        }
    }
}
