//! Where a line hangs, and what its history was written as. Pure.
//!
//! ```text
//!   base ──── inherited ────┬──── inherited ────┬──── its own ────▶
//!     │       L1            │     L4            │     L7
//!   origin on the parent: what lies at or below it is the parent's
//! ```

use crate::ids::{LineId, Sequence};
use crate::line::Line;
use crate::manifest::lineage::Stretch;
use crate::manifest::state::LineEntry;
use crate::time::Timestamp;
use std::sync::Arc;

/// Where a line hangs.
#[derive(Clone)]
pub(crate) struct Ancestry {
    /// Where it starts; `None` for a trunk.
    pub(crate) origin: Option<(Arc<Line>, Sequence)>,
    /// Where its history begins.
    pub(crate) base: Sequence,
    /// What its history was written as, the oldest first; the last is what it writes itself.
    pub(crate) stretches: Vec<Stretch>,
    pub(crate) sealed: bool,
    pub(crate) born: Timestamp,
}

impl Ancestry {
    /// As the manifest has it; `parent` is the line it starts from.
    pub(crate) fn of(entry: &LineEntry, parent: Option<&Arc<Line>>) -> Self {
        let origin = parent.zip(entry.origin);
        Self {
            origin: origin.map(|(parent, (_, at))| (Arc::clone(parent), at)),
            base: entry.base,
            stretches: entry.stretches().collect(),
            sealed: entry.sealed,
            born: entry.born,
        }
    }

    /// The line it starts from, and what of it a look from `newest` sees.
    pub(crate) fn above(&self, newest: Sequence) -> Option<(&Arc<Line>, Sequence)> {
        let (parent, at) = self.origin.as_ref()?;
        Some((parent, if newest < self.base { newest } else { *at }))
    }

    /// The stretches that lie at or below `newest`, the newest first, cut off there.
    pub(crate) fn down_from(&self, newest: Sequence) -> impl Iterator<Item = Stretch> {
        let there = self.stretches.iter().rev().filter(move |one| one.above < newest);
        there.map(move |one| Stretch { up_to: one.up_to.min(newest), ..*one })
    }

    /// The line that wrote `sequence`, if it is of this history.
    pub(crate) fn writer(&self, sequence: Sequence) -> Option<LineId> {
        let holds = |one: &&Stretch| one.above < sequence && sequence <= one.up_to;
        self.stretches.iter().find(holds).map(|one| one.line)
    }
}
