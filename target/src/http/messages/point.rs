//! Points, moments and what is asked of them.

use super::Instants;
use serde::{Deserialize, Serialize};

/// Which points of a line are wanted; all but the name may be left out.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct PointsAsked {
    /// `MACHINE` or `MACHINE~BRANCH`.
    pub(crate) name: String,
    /// Committed at or after: a time as in `@WHEN`.
    pub(crate) from: Option<String>,
    /// Committed at or before: a time as in `@WHEN`.
    pub(crate) to: Option<String>,
    /// Kinds with commas between them.
    pub(crate) kind: Option<String>,
    /// `oldest` or `newest`, which to begin with.
    pub(crate) first: Option<String>,
    /// What the page before called `next`.
    pub(crate) after: Option<u64>,
    /// At most so many, and never more than a page.
    pub(crate) limit: Option<usize>,
}

/// A page of the points of a line.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Points {
    /// The machine.
    pub(crate) machine: String,
    /// The branch, if it is one.
    pub(crate) branch: Option<String>,
    /// Oldest first, unless it was asked for otherwise.
    pub(crate) points: Vec<Point>,
    /// Where the next page goes on; nothing if this was the last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) next: Option<u64>,
    /// Where any instant can be chosen beside the points; with the first page alone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) instants: Vec<Instants>,
}

/// A recovery point.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Point {
    /// The name that always means this point.
    pub(crate) name: String,
    /// Its sequence.
    pub(crate) sequence: u64,
    /// When the target committed it; reads back to this very point.
    pub(crate) time: String,
    /// How long ago that is.
    pub(crate) age_seconds: u64,
    /// When the source says it was.
    pub(crate) source_time: String,
    /// `app`, `crash` or `fuzzy`.
    pub(crate) kind: String,
    /// A name somebody gave it.
    pub(crate) label: Option<String>,
    /// Whether it is pinned.
    pub(crate) pinned: bool,
    /// Until when it is locked.
    #[serde(default)]
    pub(crate) locked_until: Option<String>,
    /// Where each of its disks can be read over NBD.
    pub(crate) uris: Vec<String>,
}

/// A point to be made of the present head.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PointMark {
    /// `MACHINE` or `MACHINE~BRANCH`.
    pub(crate) name: String,
    /// `crash` or `app`.
    pub(crate) kind: String,
    /// A name for it.
    #[serde(default)]
    pub(crate) label: Option<String>,
}

/// A point that nobody can drop before a date.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PointLock {
    /// `MACHINE@WHEN`.
    pub(crate) name: String,
    /// An RFC 3339 time.
    pub(crate) until: String,
}

/// The moment that a name means now.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Moment {
    /// The name that always means this moment.
    pub(crate) name: String,
    /// The machine.
    pub(crate) machine: String,
    /// The branch, if it is one.
    pub(crate) branch: Option<String>,
    /// Its sequence.
    pub(crate) sequence: u64,
    /// When the target committed it.
    pub(crate) time: String,
    /// `app`, `crash` or `fuzzy`; nothing for a moment that nobody marked.
    pub(crate) kind: Option<String>,
    /// A name somebody gave it.
    pub(crate) label: Option<String>,
    /// The disks that were asked for.
    pub(crate) disks: Vec<MomentDisk>,
    /// The NBD socket of the target.
    pub(crate) nbd_socket: Option<String>,
    /// The NBD address of the target.
    pub(crate) nbd: Option<String>,
}

/// A disk at a moment.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct MomentDisk {
    /// Its name.
    pub(crate) name: String,
    /// Its size.
    pub(crate) size_bytes: u64,
    /// The name of the NBD export.
    pub(crate) nbd_name: String,
    /// What guests know the disk by, in images that are made for it: 16 bytes, in hexadecimal digits.
    #[serde(default)]
    pub(crate) identity: String,
    /// The file that is the image of the disk byte for byte, if it is raw and complete. It holds most of any moment, and what
    /// it holds of this one only a comparison tells.
    #[serde(default)]
    pub(crate) image: Option<String>,
    /// The format of its image.
    #[serde(default)]
    pub(crate) format: String,
}
