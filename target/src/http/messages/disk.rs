//! Disks of machines that are there already.

use super::DiskAdd;
use serde::{Deserialize, Serialize};

/// A disk to be added to a machine that is there.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct DiskJoin {
    /// The machine.
    pub(crate) machine: String,
    /// The disk.
    pub(crate) disk: DiskAdd,
}

/// A disk to be made larger.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct DiskGrow {
    /// `MACHINE/DISK`, or `MACHINE~BRANCH/DISK`.
    pub(crate) name: String,
    /// Its new size.
    pub(crate) size_bytes: u64,
}

/// A disk that was made larger.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct DiskGrown {
    /// `MACHINE/DISK`, or `MACHINE~BRANCH/DISK`.
    pub(crate) name: String,
    /// Its size before.
    pub(crate) from_bytes: u64,
    /// Its size now.
    pub(crate) size_bytes: u64,
    /// The first point that has it; nothing if that is still to come.
    pub(crate) point: Option<String>,
}

/// A disk that was removed.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct DiskLeft {
    /// `MACHINE/DISK`.
    pub(crate) name: String,
    /// Whether no point had it, so that it is gone at once.
    pub(crate) forgotten: bool,
}

/// A disk of a machine.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Disk {
    /// Its name.
    pub(crate) name: String,
    /// Its size.
    pub(crate) size_bytes: u64,
    /// Format of its image.
    pub(crate) format: String,
    /// File of its image.
    pub(crate) image: String,
    /// `empty`, `seeding`, `ready` or `needs-resync`.
    pub(crate) state: String,
    /// Why it needs a resync.
    pub(crate) reason: Option<String>,
}
