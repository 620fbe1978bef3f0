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
    /// Last sequence of its own; zero as long as nothing was written.
    pub(crate) head: u64,
    /// When that was committed.
    pub(crate) head_time: String,
}
