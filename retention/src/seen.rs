//! What of history can still be looked at, over all lines: by it the index forgets, and segments are compacted.
//!
//! **Invariant:** it is taken from what is durable, or published: a drop that is under way counts when it is on record, a
//! record when its line has been told. Whoever opens a moment afterwards opens one of these, or a later one.

use crate::ids::{LineId, Sequence};
use crate::index::forgotten::Forgotten;
use crate::manifest::state::ManifestState;
use crate::moments::Moments;
use crate::retention::Retention;
use std::collections::BTreeMap;

impl Retention {
    /// The moments of every line there is.
    pub(crate) fn moments(&self) -> BTreeMap<LineId, Moments> {
        let state = self.manifest.state();
        self.moments_in(&state)
    }

    fn moments_in(&self, state: &ManifestState) -> BTreeMap<LineId, Moments> {
        let mut held: BTreeMap<LineId, Vec<Sequence>> = BTreeMap::new();
        let origins = state.lines.values().filter_map(|line| line.origin);
        let exports = state.exports.values().filter_map(|one| Some((one.line, one.sequence?)));
        for (line, sequence) in origins.chain(exports) {
            held.entry(line).or_default().push(sequence);
        }
        let machines = self.machines.read();
        let of_line = |entry: &crate::manifest::state::LineEntry| {
            // Of one that the index does not have all of, moments are missing: nothing of it may go.
            let line = machines.lines.get(&entry.id).filter(|line| line.is_indexed())?;
            let held = held.get(&entry.id).into_iter().flatten().copied();
            Some((entry.id, line.moments(entry, held)))
        };
        state.lines.values().filter_map(of_line).collect()
    }

    /// Tells the index what it may lose from now on.
    pub(crate) fn refresh_forgotten(&self) {
        let forgotten = {
            let state = self.manifest.state();
            Forgotten::of(&state).seeing(self.moments_in(&state))
        };
        self.surroundings.index.set_forgotten(forgotten);
    }
}
