//! Where the history of a machine begins, and what it takes.

use serde::{Deserialize, Serialize};

/// Where the history of a machine begins, and whether that moves.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(crate) struct History {
    /// The oldest moment that can be opened, once anything older was folded.
    pub(crate) begins: Option<HistoryMoment>,
    /// The oldest moment that its policy keeps; nothing before the first look.
    pub(crate) wanted: Option<HistoryMoment>,
    /// Who holds something older, one line each.
    pub(crate) held_by: Vec<String>,
    /// By how much history reaches further back because of them.
    pub(crate) held_seconds: u64,
    /// A fold that is under way.
    pub(crate) folding: Option<FoldUnderWay>,
    /// Why the last fold failed; it is tried again.
    pub(crate) failure: Option<String>,
    /// How long the last fold since the start took, rests included.
    pub(crate) last_fold_milliseconds: Option<u64>,
    /// Bytes it wrote to images.
    pub(crate) last_fold_bytes: Option<u64>,
    /// What it takes of the journal; nothing before the first look.
    #[serde(default)]
    pub(crate) space: Option<HistorySpace>,
}

/// What the history of a machine takes of the journal.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct HistorySpace {
    /// Bytes of its records that are needed, branches included.
    pub(crate) used_bytes: u64,
    /// The quota of its policy.
    pub(crate) quota_bytes: Option<u64>,
    /// Bytes an hour that come in, over the last hour; nothing before enough was seen.
    pub(crate) bytes_per_hour: Option<u64>,
    /// In how long the quota is used up at that rate.
    pub(crate) full_in_seconds: Option<u64>,
    /// How far back history reaches then.
    pub(crate) reaches_seconds: Option<u64>,
    /// Why nothing more is taken, if that is so.
    pub(crate) held: Option<String>,
}

/// A moment of a trunk.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct HistoryMoment {
    /// Its sequence.
    pub(crate) sequence: u64,
    /// When it was committed.
    pub(crate) time: String,
}

/// How far a fold is.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct FoldUnderWay {
    /// Where history begins.
    pub(crate) floor: u64,
    /// The disk it is at.
    pub(crate) disk: String,
    /// Up to where that is done.
    pub(crate) done_bytes: u64,
    /// Its size.
    pub(crate) size_bytes: u64,
    /// It waits for a disk that does not answer.
    pub(crate) stalled: bool,
}
