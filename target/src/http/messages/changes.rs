//! Changes of a disk between two moments.

use serde::{Deserialize, Serialize};

/// Changes of a disk between two moments that are asked for, page by page.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ChangesAsked {
    /// `MACHINE[~BRANCH]/DISK`.
    pub(crate) disk: String,
    /// `WHEN` on that line, or `MACHINE[~BRANCH]@WHEN`.
    pub(crate) from: String,
    /// The same.
    pub(crate) to: String,
    /// The `next` of the page before.
    pub(crate) after: Option<u64>,
    /// At most so many ranges, and never more than a page.
    pub(crate) limit: Option<usize>,
}

/// A page of changes.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Changes {
    /// The disk at the one moment, by the name that always means that.
    pub(crate) from: String,
    /// When that was committed.
    pub(crate) from_time: String,
    /// The disk at the other moment.
    pub(crate) to: String,
    /// When that was committed.
    pub(crate) to_time: String,
    /// Its size there; no change lies beyond.
    pub(crate) size_bytes: u64,
    /// In address order.
    pub(crate) ranges: Vec<ChangedRange>,
    /// Where the next page goes on; nothing if this was the last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) next: Option<u64>,
}

/// Bytes that may read otherwise at the other moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct ChangedRange {
    /// The first of them.
    pub(crate) offset: u64,
    /// How many.
    pub(crate) length: u64,
    /// Whether they were written; otherwise a record that may have changed them was lost.
    pub(crate) written: bool,
}
