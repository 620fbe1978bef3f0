//! The record about machines that are fed through writable disks instead of a stream.
//!
//! **Invariant:** a promotion ends it. Whoever wrote to the disks of the trunk that was is not asked whether they know of
//! it, as a stream is by its generation; so they are let in anew by somebody who knows, or not at all.

use super::format::{FrameError, Reader, Writer};
use super::record::ManifestRecord;
use super::state::{ManifestState, Misfit};
use crate::ids::MachineId;
use crate::ingest::IngestMode;

mod kind {
    pub(super) const INGEST_SET: u16 = 87;
}

impl ManifestRecord {
    /// Encodes the kinds of this module; `false` for any other.
    pub(super) fn encode_ingest(&self, to: &mut Writer<'_>) -> bool {
        let Self::IngestSet { machine, mode } = self else { return false };
        to.u16(kind::INGEST_SET);
        to.u32(machine.number());
        to.u8(match mode {
            None => 0,
            Some(IngestMode::Sync) => 1,
            Some(IngestMode::Ordered) => 2,
        });
        true
    }

    /// Decodes the kinds of this module.
    pub(super) fn decode_ingest(kind: u16, from: &mut Reader<'_>) -> Result<Self, FrameError> {
        if kind != kind::INGEST_SET {
            return Self::decode_iscsi(kind, from);
        }
        let machine = MachineId::new(from.u32()?);
        let mode = match from.u8()? {
            0 => None,
            1 => Some(IngestMode::Sync),
            2 => Some(IngestMode::Ordered),
            _ => return Err(FrameError::Field("mode of ingest")),
        };
        Ok(Self::IngestSet { machine, mode })
    }
}

impl ManifestState {
    /// Applies the kinds of this module; `false` for any other.
    pub(super) fn apply_ingest(&mut self, record: &ManifestRecord) -> Result<bool, Misfit> {
        let ManifestRecord::IngestSet { machine, mode } = record else { return Ok(false) };
        if !self.machines.contains_key(machine) {
            return Err(Misfit::missing("IngestSet", machine));
        }
        match mode {
            Some(mode) => self.ingests.insert(*machine, *mode),
            None => self.ingests.remove(machine),
        };
        Ok(true)
    }

    /// Records of what this module adds to a state.
    pub(super) fn ingest_records(&self, into: &mut Vec<ManifestRecord>) {
        into.extend(self.ingests.iter().map(|(machine, mode)| ManifestRecord::IngestSet {
            machine: *machine,
            mode: Some(*mode),
        }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{Generation, GroupId, LaneId, LineId, Sequence};
    use crate::name::Name;
    use crate::time::Timestamp;

    const WEB: MachineId = MachineId::new(1);

    fn name(text: &str) -> Name {
        Name::parse(text).expect("a name")
    }

    fn fed(mode: Option<IngestMode>) -> ManifestRecord {
        ManifestRecord::IngestSet { machine: WEB, mode }
    }

    fn state() -> ManifestState {
        let mut state = ManifestState::default();
        let machine = ManifestRecord::MachineAdded {
            machine: WEB,
            name: name("web"),
            display_name: String::new(),
            group: GroupId::new(1),
            trunk: LineId::new(1),
            lane: LaneId::new(0),
        };
        state.apply(&machine).expect("it fits");
        state.apply(&fed(Some(IngestMode::Ordered))).expect("it fits");
        state
    }

    #[test]
    fn it_stays_until_somebody_ends_it_or_the_machine_goes() {
        let mut again = ManifestState::default();
        state().records().iter().for_each(|record| again.apply(record).expect("it fits"));
        assert_eq!(again, state());
        assert_eq!(again.ingests.get(&WEB), Some(&IngestMode::Ordered));
        let mut ended = state();
        ended.apply(&fed(None)).expect("it fits");
        assert!(ended.ingests.is_empty());
        again.apply(&ManifestRecord::MachineRemoved { machine: WEB }).expect("it fits");
        assert!(again.ingests.is_empty());
        assert!(again.apply(&fed(Some(IngestMode::Sync))).is_err(), "of no machine");
    }

    #[test]
    fn a_promotion_ends_it() {
        let mut state = state();
        let branch = ManifestRecord::BranchStarted {
            line: LineId::new(2),
            name: name("b"),
            parent: LineId::new(1),
            origin: Sequence::default(),
            origin_time: Timestamp::default(),
        };
        state.apply(&branch).expect("it fits");
        let promoted = ManifestRecord::BranchPromoted {
            line: LineId::new(2),
            old: name("before"),
            instants: Sequence::default(),
            generation: Generation::new(1),
        };
        state.apply(&promoted).expect("it fits");
        assert!(state.ingests.is_empty());
    }
}
