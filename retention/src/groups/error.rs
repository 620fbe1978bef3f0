//! Why something was not done with a group.

use super::barrier::LateMember;
use super::{LEAST_APART, MOST_APART, MOST_PATIENCE};
use crate::change::ChangeError;
use crate::index::IndexError;
use crate::manifest::ManifestError;
use crate::manifest::groups::MAX_MEMBERS;
use crate::moment::{ResolveError, existing};
use crate::name::{MomentName, Name, When};
use crate::time::Timestamp;

/// Why something was not done with a group.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GroupError {
    /// No such group.
    #[error("no group {group}; {}", existing("groups", .known))]
    Unknown {
        /// What was asked for.
        group: Name,
        /// What exists.
        known: Vec<Name>,
    },
    /// A group is removed when its machines have left it.
    #[error("group {group} has machines: {}", in_words(.members))]
    HasMachines {
        /// The group.
        group: Name,
        /// They.
        members: Vec<Name>,
    },
    /// A machine is in one group.
    #[error("machine {machine} is in group {group} already")]
    InGroup {
        /// The machine.
        machine: Name,
        /// Its group.
        group: Name,
    },
    /// It is in another one, or alone.
    #[error("machine {machine} is not in group {group}")]
    NotInGroup {
        /// The machine.
        machine: Name,
        /// The group.
        group: Name,
    },
    /// More machines than a common point can name.
    #[error("group {group} has {MAX_MEMBERS} machines, the most there can be")]
    TooMany {
        /// The group.
        group: Name,
    },
    /// Barriers that cannot be made so.
    #[error(
        "barriers are {LEAST_APART:?} to {MOST_APART:?} apart, in whole milliseconds, and wait for less than that and \
         at most {MOST_PATIENCE:?}"
    )]
    Barriers,
    /// There is nothing to have in common.
    #[error("group {group} has fewer than two machines: {}", in_words(.members))]
    Alone {
        /// The group.
        group: Name,
        /// Its machine, if it has one.
        members: Vec<Name>,
    },
    /// A barrier was given up: no common point was made, and nobody is held back any more.
    #[error("no common point of group {group}: {}", late_in_words(.late))]
    Late {
        /// The group.
        group: Name,
        /// Who was late, and why.
        late: Vec<LateMember>,
    },
    /// Another one took all of its patience.
    #[error("another barrier of group {group} is under way")]
    BarrierUnderWay {
        /// The group.
        group: Name,
    },
    /// A fuzzy point is one moment of nobody.
    #[error("a common point is of kind app or crash")]
    Fuzzy,
    /// What was declared to be one moment does not name each machine once.
    #[error("a common point of group {group} names a moment of each of its machines, once: {}", in_words(.members))]
    NotEachOnce {
        /// The group.
        group: Name,
        /// Its machines.
        members: Vec<Name>,
    },
    /// A moment of a disk alone, or of a branch.
    #[error("{name} is not a moment of a machine as a whole; name it MACHINE@WHEN")]
    NotAMachine {
        /// What was asked for.
        name: MomentName,
    },
    /// Its disks are not even one moment of that machine.
    #[error(
        "{name} is fuzzy: its source changed while it was copied, so it is one moment of nothing"
    )]
    FuzzyMoment {
        /// Which.
        name: String,
    },
    /// No common point yet, or none any more.
    #[error(
        "group {group} has no common points; a barrier, or somebody who says what is one moment, makes them"
    )]
    NoPoints {
        /// The group.
        group: Name,
    },
    /// None of them answers to this WHEN.
    #[error("group {group} has no common point {when}; they go from {oldest} to {newest}")]
    NoSuchPoint {
        /// The group.
        group: Name,
        /// What was asked for.
        when: When,
        /// When the oldest was made.
        oldest: Timestamp,
        /// When the newest was made.
        newest: Timestamp,
    },
    /// A moment or a machine that is not there.
    #[error(transparent)]
    Resolve(#[from] ResolveError),
    /// A change that was refused.
    #[error(transparent)]
    Change(#[from] ChangeError),
    /// The manifest refused.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// The index failed.
    #[error(transparent)]
    Index(#[from] IndexError),
}

fn in_words(names: &[Name]) -> String {
    match names {
        [] => "none".to_owned(),
        names => names.iter().map(Name::as_str).collect::<Vec<_>>().join(", "),
    }
}

fn late_in_words(late: &[LateMember]) -> String {
    let words = |late: &LateMember| format!("{} {}", late.machine, late.why);
    late.iter().map(words).collect::<Vec<_>>().join("; ")
}
