//! Machines, and what is asked to protect one.

use super::{Branch, Disk, History, Ingest, Point};
use serde::{Deserialize, Serialize};

/// A machine to be protected.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct MachineAdd {
    /// Its name.
    pub(crate) name: String,
    /// Free text for people.
    #[serde(default)]
    pub(crate) display_name: String,
    /// Its disks.
    pub(crate) disks: Vec<DiskAdd>,
    /// The group it joins.
    #[serde(default)]
    pub(crate) group: Option<String>,
    /// How it is fed over NBD, if it is: `sync` or `ordered`.
    #[serde(default)]
    pub(crate) ingest: Option<String>,
}

/// A disk of a machine to be protected.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct DiskAdd {
    /// Its name.
    pub(crate) name: String,
    /// Its size; a file that is adopted has one.
    #[serde(default)]
    pub(crate) size_bytes: Option<u64>,
    /// Format of its image. Without one, a file that is adopted is what its content says, and a new one is what the extension
    /// of its path says, or raw.
    #[serde(default)]
    pub(crate) format: Option<String>,
    /// Absolute path of its image; the target chooses one if there is none. An existing file is adopted.
    #[serde(default)]
    pub(crate) path: Option<String>,
}

/// All machines.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Machines {
    /// By name.
    pub(crate) machines: Vec<Machine>,
}

/// A machine.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Machine {
    /// Its name.
    pub(crate) name: String,
    /// Free text for people.
    pub(crate) display_name: String,
    /// The group it is in, if that has a name.
    #[serde(default)]
    pub(crate) group: Option<String>,
    /// Its disks.
    pub(crate) disks: Vec<Disk>,
    /// Sequence of the trunk's head.
    pub(crate) head: u64,
    /// Generation of its stream.
    pub(crate) generation: u64,
    /// The stream that feeds it now.
    pub(crate) stream: Option<Stream>,
    /// How it is fed over NBD, if it is.
    #[serde(default)]
    pub(crate) ingest: Option<Ingest>,
    /// How many points the trunk has.
    pub(crate) points: u64,
    /// The oldest of them.
    pub(crate) oldest: Option<Point>,
    /// The newest of them.
    pub(crate) newest: Option<Point>,
    /// Its branches.
    pub(crate) branches: Vec<Branch>,
    /// Where its history begins, and who holds it back.
    #[serde(default)]
    pub(crate) history: History,
    /// What of it waits for the index, if anything does.
    #[serde(default)]
    pub(crate) waits: Option<String>,
}

/// A stream that feeds a machine.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Stream {
    /// Who sends.
    pub(crate) peer: String,
    /// Since when.
    pub(crate) since: String,
    /// Last durable position.
    pub(crate) position: u64,
    /// What it is at: `seed`, `resync`, `catchup` or `ordered`.
    #[serde(default)]
    pub(crate) state: Option<String>,
}
