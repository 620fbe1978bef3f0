//! The record that the journal has aborts. A program that does not know them would take one for a torn tail or for damage; as it does not
//! know this record either, it refuses to start.

use super::format::{FrameError, Writer};
use super::record::ManifestRecord;
use super::state::ManifestState;

mod kind {
    pub(super) const ABORTS_BEGUN: u16 = 37;
}

impl ManifestRecord {
    /// Encodes the kinds of this module; `false` for any other.
    pub(super) fn encode_aborts(&self, to: &mut Writer<'_>) -> bool {
        let begun = *self == Self::AbortsBegun;
        if begun {
            to.u16(kind::ABORTS_BEGUN);
        }
        begun
    }

    /// Decodes the kinds of this module.
    pub(super) fn decode_aborts(kind: u16) -> Result<Self, FrameError> {
        match kind {
            kind::ABORTS_BEGUN => Ok(Self::AbortsBegun),
            _ => Err(FrameError::Kind(kind)),
        }
    }
}

impl ManifestState {
    /// Applies the kinds of this module; `false` for any other.
    pub(super) fn apply_aborts(&mut self, record: &ManifestRecord) -> bool {
        let begun = *record == ManifestRecord::AbortsBegun;
        self.has_aborts |= begun;
        begun
    }

    /// Records of what this module adds to a state.
    pub(super) fn abort_records(&self, into: &mut Vec<ManifestRecord>) {
        into.extend(self.has_aborts.then_some(ManifestRecord::AbortsBegun));
    }
}
