//! The target as a whole.

use super::{Export, Machine};
use serde::{Deserialize, Serialize};

/// How the target is.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Status {
    /// Version of landfall.
    pub(crate) version: String,
    /// Process id.
    pub(crate) pid: u32,
    /// How long it has been running.
    pub(crate) uptime_seconds: u64,
    /// The data folder.
    pub(crate) data: String,
    /// Where it listens.
    pub(crate) listen: Listening,
    /// The journal.
    pub(crate) journal: Journal,
    /// The machines.
    pub(crate) machines: Vec<Machine>,
    /// Exports that were set up.
    pub(crate) exports: Vec<Export>,
    /// What was folded and given back since the start.
    #[serde(default)]
    pub(crate) folding: Folding,
    /// How far the index is, while it is being built.
    #[serde(default)]
    pub(crate) index: Option<IndexBuild>,
    /// What needs attention.
    pub(crate) warnings: Vec<String>,
}

/// An index that is being built from the journal.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct IndexBuild {
    /// Segments that it lacked when the target started.
    pub(crate) segments: u64,
    /// Those that are left.
    pub(crate) left: u64,
    /// Why it does not go on, if it does not.
    pub(crate) failure: Option<String>,
}

/// What was folded and given back since the start.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Folding {
    /// Folds that ended well.
    pub(crate) folds: u64,
    /// Folds that failed.
    pub(crate) failures: u64,
    /// Bytes moved into images.
    pub(crate) folded_bytes: u64,
    /// Segments of the journal that are gone.
    pub(crate) released_segments: u64,
    /// Their bytes.
    pub(crate) released_bytes: u64,
    /// Segments that were needed in part and are gone.
    pub(crate) compacted_segments: u64,
    /// Bytes they had.
    pub(crate) compacted_bytes: u64,
    /// Bytes written anew for what was needed of them.
    pub(crate) moved_bytes: u64,
}

/// Where a target listens; nothing where it does not.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Listening {
    /// The delta stream.
    pub(crate) delta: Option<String>,
    /// NBD over TCP.
    pub(crate) nbd: Option<String>,
    /// NBD over a Unix socket.
    pub(crate) nbd_socket: Option<String>,
    /// iSCSI, once something is exported over it.
    pub(crate) iscsi: Option<String>,
    /// Metrics.
    pub(crate) http: Option<String>,
    /// This API.
    pub(crate) control: String,
}

/// The journal in numbers.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Journal {
    /// Its files.
    pub(crate) segments: u64,
    /// Their bytes.
    pub(crate) bytes: u64,
    /// Bytes that are free on its file system.
    pub(crate) free_bytes: u64,
    /// Bytes of the index.
    pub(crate) index_bytes: u64,
}
