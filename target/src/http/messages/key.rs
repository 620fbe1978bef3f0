//! Data keys of machines.

use serde::{Deserialize, Serialize};

/// The data keys of machines.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct DataKeys {
    /// In the order in which they came to be.
    pub(crate) keys: Vec<DataKey>,
}

/// A data key. Nothing says what it is.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct DataKey {
    /// Its number.
    pub(crate) key: u32,
    /// The machine whose history it seals.
    pub(crate) machine: String,
    /// Since when.
    pub(crate) added: String,
    /// `writing` (seals what is written), `reading` (opens what was), `locked` (what wraps it was not given), `damaged`, or
    /// `destroyed`.
    pub(crate) state: String,
    /// Id of the key-encryption key that wraps it.
    pub(crate) wrapped_with: Option<String>,
    /// When it was destroyed, if it was.
    pub(crate) destroyed: Option<String>,
}
