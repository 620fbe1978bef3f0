//! What keeps a moment of a line: somebody reads it, pinned it, branched from it or exports it.
//!
//! ```text
//!   opening a view ─▶ Lease ──┐
//!   pins, branches, exports ──┴▶ holders_below(floor) ─▶ none? ─▶ the start of history moves up
//! ```
//!
//! **Invariant:** opening and moving the start exclude each other: a lease is counted under the lock of its line, and the
//! start moves under that lock only if no lease lies below it. What the manifest keeps is looked at while the manifest
//! decides nothing else. So whoever holds a moment keeps it readable, and nobody takes hold of one that is gone.

use crate::ids::Sequence;
use crate::line::Line;
use crate::manifest::history::HistoryStart;
use crate::manifest::state::{LineEntry, ManifestState};
use crate::name::Name;
use crate::time::Timestamp;
use std::fmt;
use std::sync::Arc;

/// Why history cannot begin later: somebody holds an older moment.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Holder {
    /// It is pinned.
    Pin(Sequence),
    /// It is locked.
    Lock {
        /// The moment.
        sequence: Sequence,
        /// Until when.
        until: Timestamp,
    },
    /// A branch starts there.
    Branch {
        /// Its name.
        name: Name,
        /// Where it starts.
        origin: Sequence,
    },
    /// An export shows it.
    Export {
        /// Name it is served under.
        name: String,
        /// The moment.
        sequence: Sequence,
    },
    /// Somebody has it open.
    Reader(Sequence),
}

impl Holder {
    /// The moment that is held.
    pub fn sequence(&self) -> Sequence {
        match self {
            Self::Pin(sequence) | Self::Reader(sequence) => *sequence,
            Self::Branch { origin, .. } => *origin,
            Self::Export { sequence, .. } | Self::Lock { sequence, .. } => *sequence,
        }
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pin(sequence) => write!(f, "seq:{sequence} is pinned"),
            Self::Lock { sequence, until } => write!(f, "seq:{sequence} is locked until {until}"),
            Self::Branch { name, origin } => write!(f, "branch {name} starts at seq:{origin}"),
            Self::Export { name, .. } => write!(f, "{name} is exported"),
            Self::Reader(sequence) => write!(f, "seq:{sequence} is being read"),
        }
    }
}

/// Everybody who holds a moment of the trunk `entry` below `floor`, readers not counted.
pub(crate) fn recorded_holders(
    state: &ManifestState,
    entry: &LineEntry,
    floor: Sequence,
) -> Vec<Holder> {
    let pins = entry.pins.range(..floor).copied().map(Holder::Pin);
    let locks = entry.locks.range(..floor).filter(|(_, until)| **until > state.clock.seen);
    let locks = locks.map(|(sequence, until)| Holder::Lock { sequence: *sequence, until: *until });
    let branches = state.lines.values().filter_map(|other| {
        let (parent, origin) = other.origin?;
        let name = other.branch.clone()?;
        (parent == entry.id && origin < floor).then_some(Holder::Branch { name, origin })
    });
    let exports = state.exports.values().filter_map(|export| {
        let sequence = export.sequence.filter(|at| export.line == entry.id && *at < floor)?;
        Some(Holder::Export { name: export.name.clone(), sequence })
    });
    pins.chain(locks).chain(branches).chain(exports).collect()
}

/// Why a moment cannot be taken hold of.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Gone {
    /// History begins after it.
    BeforeHistory(HistoryStart),
    /// The policy did not keep it.
    Dropped,
}

/// Keeps a moment of a line readable until it is dropped.
pub(crate) struct Lease {
    line: Arc<Line>,
    sequence: Sequence,
}

impl Lease {
    /// Takes hold of a moment, unless it is gone.
    pub(crate) fn take(line: &Arc<Line>, sequence: Sequence) -> Result<Self, Gone> {
        line.note_reader(sequence)?;
        Ok(Self { line: Arc::clone(line), sequence })
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.line.forget_reader(self.sequence);
    }
}
