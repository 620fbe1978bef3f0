//! Recovery points: the sequences at which all disks of a group are consistent.
//!
//! A point is born with a mark record of the journal and kept in the index; this module says what it is, and the
//! [`Catalogue`] answers which one a [`When`](crate::name::When) names. It holds the marked points of one line in
//! memory; boundaries that nobody marked (every write of a branch is one) are looked up in the index.
//!
//! **Invariant:** commit times grow along a line, by a nanosecond at least, so a time names one sequence, and the newest
//! point at or before a time is also the one with the highest sequence.

mod catalogue;
mod chunk;
mod query;

pub use catalogue::Catalogue;
pub use query::{KindSet, PointOrder, PointQuery};

use crate::ids::Sequence;
use crate::name::Label;
use crate::time::Timestamp;

/// What a point promises.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum PointKind {
    /// The source quiesced its applications.
    App,
    /// What a power cut at that moment would have left.
    Crash,
    /// A scan of something that was changing; kept and marked, never chosen by `latest`.
    Fuzzy,
}

impl PointKind {
    /// Every kind, the best first.
    pub const ALL: [Self; 3] = [Self::App, Self::Crash, Self::Fuzzy];

    /// The word for listings and formats.
    pub const fn word(self) -> &'static str {
        match self {
            Self::App => "app",
            Self::Crash => "crash",
            Self::Fuzzy => "fuzzy",
        }
    }

    /// The kind of this word.
    pub fn of_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.word() == word)
    }

    /// Whether all disks are one moment: what `latest` and a bare time may choose.
    pub const fn is_consistent(self) -> bool {
        !matches!(self, Self::Fuzzy)
    }
}

impl std::fmt::Display for PointKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.word())
    }
}

/// A marked recovery point of a line.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Point {
    /// Where in its line.
    pub sequence: Sequence,
    /// When the target committed it; later than that of the sequence before.
    pub commit_time: Timestamp,
    /// When the source says it was.
    pub source_time: Timestamp,
    /// What it promises.
    pub kind: PointKind,
    /// A name somebody gave it.
    pub label: Option<Label>,
}

/// What a policy looks at in a point.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PointHead {
    /// Where in its line.
    pub sequence: Sequence,
    /// When the target committed it.
    pub commit_time: Timestamp,
    /// What it promises.
    pub kind: PointKind,
    /// Whether somebody gave it a name.
    pub labelled: bool,
}

#[cfg(test)]
mod tests;
