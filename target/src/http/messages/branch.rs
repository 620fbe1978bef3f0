//! Branches.

use serde::{Deserialize, Serialize};

/// A branch to be made.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct BranchAdd {
    /// Where it starts, `MACHINE@WHEN`.
    pub(crate) origin: String,
    /// Its name.
    pub(crate) name: String,
}

/// Branches.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Branches {
    /// By machine and name.
    pub(crate) branches: Vec<Branch>,
}

/// A branch.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Branch {
    /// `MACHINE~BRANCH`.
    pub(crate) name: String,
    /// The machine.
    pub(crate) machine: String,
    /// The branch alone.
    pub(crate) branch: String,
    /// Sequence of the line it starts from.
    pub(crate) origin_sequence: u64,
    /// When that was committed.
    pub(crate) origin_time: String,
    /// Its last sequence: where it starts as long as nothing was written, and counted on from there.
    pub(crate) head: u64,
    /// When that was committed.
    pub(crate) head_time: String,
    /// It was the trunk until another branch was promoted, and takes no writes.
    #[serde(default)]
    pub(crate) sealed: bool,
}

/// A branch that is to become the trunk.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct BranchPromote {
    /// `MACHINE~BRANCH`.
    pub(crate) name: String,
    /// What the old trunk is called from then on; without it a name is found.
    #[serde(default)]
    pub(crate) keep: Option<String>,
}

/// A branch that became the trunk.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct BranchPromoted {
    /// The machine.
    pub(crate) machine: String,
    /// The branch that it was.
    pub(crate) branch: String,
    /// Up to here its history is that of the old trunk.
    pub(crate) origin_sequence: u64,
    /// Its newest moment.
    pub(crate) head: u64,
    /// The generation of its stream.
    pub(crate) generation: u64,
    /// What the old trunk had above the origin.
    pub(crate) old: Branch,
}
