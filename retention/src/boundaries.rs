//! Boundaries and marks of a line, wherever in its history: each lies in the index under the line that wrote it. These block.

use crate::ids::Sequence;
use crate::index::moment_key::{self, Boundary};
use crate::index::{IndexError, IndexStore};
use crate::line::Line;
use crate::time::Timestamp;

impl Line {
    /// Whether `sequence` is a boundary of it, and when it was committed.
    pub(crate) fn boundary_at(
        &self,
        index: &dyn IndexStore,
        sequence: Sequence,
    ) -> Result<Option<Boundary>, IndexError> {
        match self.ancestry().writer(sequence) {
            Some(writer) => moment_key::boundary_at(index, writer, sequence),
            None => Ok(None),
        }
    }

    /// Whether a record made `sequence` a point of it: those that thinning makes of instants are on no record.
    pub(crate) fn is_marked(
        &self,
        index: &dyn IndexStore,
        sequence: Sequence,
    ) -> Result<bool, IndexError> {
        match self.ancestry().writer(sequence) {
            Some(writer) => Ok(moment_key::point_at(index, writer, sequence)?.is_some()),
            None => Ok(false),
        }
    }

    /// The newest boundary at or below `sequence`.
    pub(crate) fn boundary_at_or_below(
        &self,
        index: &dyn IndexStore,
        sequence: Sequence,
    ) -> Result<Option<Boundary>, IndexError> {
        for stretch in self.ancestry().down_from(sequence) {
            let found = moment_key::boundary_at_or_below(index, stretch.line, stretch.up_to)?;
            if let Some(found) = found.filter(|found| found.sequence > stretch.above) {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    /// The newest boundary, at or below `newest`, that was committed at or before `time`.
    pub(crate) fn boundary_at_or_before(
        &self,
        index: &dyn IndexStore,
        newest: Sequence,
        time: Timestamp,
    ) -> Result<Option<Boundary>, IndexError> {
        for stretch in self.ancestry().down_from(newest) {
            let (line, up_to) = (stretch.line, stretch.up_to);
            let found = moment_key::boundary_at_or_before(index, line, up_to, time)?;
            if let Some(found) = found.filter(|found| found.sequence > stretch.above) {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }
}
