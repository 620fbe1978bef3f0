//! Exports.

use serde::{Deserialize, Serialize};

/// An export to be set up.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ExportAdd {
    /// `MACHINE@WHEN` or `MACHINE~BRANCH`.
    pub(crate) name: String,
    /// Whether it can be written; makes a branch unless `name` is one.
    #[serde(default)]
    pub(crate) writable: bool,
    /// Name of the branch that is made.
    #[serde(default)]
    pub(crate) branch: Option<String>,
}

/// Exports.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Exports {
    /// By id.
    pub(crate) exports: Vec<Export>,
}

/// An export that was set up.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Export {
    /// Its id.
    pub(crate) id: u32,
    /// What it shows.
    pub(crate) name: String,
    /// Whether it can be written.
    pub(crate) writable: bool,
    /// Where its disks are, one after the other.
    pub(crate) uris: Vec<String>,
}
