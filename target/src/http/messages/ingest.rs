//! Machines that are fed over NBD.

use serde::{Deserialize, Serialize};

/// How a machine is to be fed from now on.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct IngestSet {
    /// The machine.
    pub(crate) machine: String,
    /// `sync` or `ordered`; none: not over NBD.
    pub(crate) mode: Option<String>,
}

/// How a machine is fed over NBD.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Ingest {
    /// `sync` or `ordered`.
    pub(crate) mode: String,
    /// Whether every write is a moment now.
    pub(crate) in_order: bool,
    /// Its disks.
    pub(crate) disks: Vec<IngestDisk>,
    /// What last went wrong.
    pub(crate) trouble: Option<String>,
    /// When.
    pub(crate) trouble_time: Option<String>,
}

/// A disk that a machine is fed through.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct IngestDisk {
    /// Its name.
    pub(crate) disk: String,
    /// Who writes to it, if somebody does.
    pub(crate) writer: Option<String>,
    /// Since when.
    pub(crate) writer_since: Option<String>,
    /// Why what was last brought is no moment, if so.
    pub(crate) broken: Option<String>,
    /// Whether what was brought since the last point is whole: one comes when that of every disk is.
    pub(crate) whole: bool,
    /// Whether nobody had it since the last point, which the next one waits for.
    pub(crate) awaited: bool,
    /// Where it is written to.
    pub(crate) uris: Vec<String>,
}
