//! Streams, and the instants they give.

use serde::{Deserialize, Serialize};

/// The streams of all machines.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Streams {
    /// By name of the machine.
    pub(crate) streams: Vec<StreamAt>,
}

/// What the stream of a machine is at; nothing before it was opened for the first time.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct StreamAt {
    /// The machine.
    pub(crate) machine: String,
    /// `seed`, `resync`, `catchup` or `ordered`.
    pub(crate) state: Option<String>,
    /// What that means for points, for people.
    pub(crate) meaning: Option<String>,
    /// Since when.
    pub(crate) since: Option<String>,
    /// Where on the trunk it began.
    pub(crate) at_sequence: Option<u64>,
    /// Who sends, if somebody does.
    pub(crate) peer: Option<String>,
    /// Since when they do.
    pub(crate) peer_since: Option<String>,
    /// Last durable position.
    pub(crate) position: Option<u64>,
    /// Where any instant can be chosen, oldest first.
    pub(crate) instants: Vec<Instants>,
}

/// Instants without a gap.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Instants {
    /// When the first was committed.
    pub(crate) from: String,
    /// When the last was.
    pub(crate) to: String,
    /// Its sequence.
    pub(crate) from_sequence: u64,
    /// Its sequence.
    pub(crate) to_sequence: u64,
    /// Whether more come to be.
    pub(crate) grows: bool,
}
