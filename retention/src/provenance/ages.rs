//! Since when a version is there: the first moment that has it. Pure but for the index it asks.
//!
//! A version has no time of its own in the index, only a sequence. Moments have both. Where every write is a moment (branches,
//! and sources in order) that is the time of the write; else it is when the pass ended that brought it. Moments that a policy
//! dropped may be gone from the index: then the next one counts, and the version is older than is told.

use crate::ids::{LineId, Sequence};
use crate::index::moment_key::boundary_at_or_above;
use crate::index::{IndexError, IndexStore};
use crate::line::Depth;
use crate::time::Timestamp;
use std::collections::BTreeMap;

/// A stretch of history that is looked through, and when the last moment of it was that counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Spell {
    pub(super) line: LineId,
    pub(super) above: Sequence,
    pub(super) newest: Sequence,
    pub(super) until: Timestamp,
}

impl Spell {
    /// Those of a look at what was committed at `until`.
    pub(super) fn of(depths: &[Depth], mut until: Timestamp) -> Vec<Self> {
        let mut spells = Vec::new();
        for depth in depths {
            spells.extend(depth.layers.iter().map(|layer| Self {
                line: layer.line,
                above: layer.above,
                newest: layer.newest,
                until,
            }));
            // What lies below is seen up to where this line starts.
            until = until.min(depth.born);
        }
        spells
    }
}

/// First moments that were looked up, so that versions of one pass cost one look.
pub(super) struct Ages {
    spells: Vec<Spell>,
    /// By line and the last sequence it is the first moment of: the first such sequence that was looked up, and when it was.
    known: BTreeMap<(LineId, Sequence), (Sequence, Timestamp)>,
}

impl Ages {
    pub(super) fn new(spells: Vec<Spell>) -> Self {
        Self { spells, known: BTreeMap::new() }
    }

    /// When the first moment was that has what `line` wrote at `sequence`.
    pub(super) fn first_moment(
        &mut self,
        index: &dyn IndexStore,
        line: LineId,
        sequence: Sequence,
    ) -> Result<Timestamp, IndexError> {
        let holds = |spell: &&Spell| {
            spell.line == line && spell.above < sequence && sequence <= spell.newest
        };
        let spell = self.spells.iter().find(holds).copied();
        let spell = spell.expect("a version is seen through one of the layers");
        let known = self.known.range((line, sequence)..=(line, spell.newest)).next();
        if let Some((_, (first, time))) = known
            && *first <= sequence
        {
            return Ok(*time);
        }
        let found = boundary_at_or_above(index, line, sequence)?;
        let found = found.filter(|found| found.sequence <= spell.newest);
        let (last, time) = match found {
            Some(found) => (found.sequence, found.commit_time.min(spell.until)),
            None => (spell.newest, spell.until),
        };
        let known = self.known.entry((line, last)).or_insert((sequence, time));
        known.0 = known.0.min(sequence);
        Ok(time)
    }
}
