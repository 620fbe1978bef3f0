//! The records about disks that change while history goes on: they grow, join a machine that has points, and leave it.
//!
//! **Invariants:** sizes grow along the trunk and never where somebody may have seen another one: at or above the floor of
//! the disk, in order. A disk that was removed changes no more, and is forgotten only after that.

use super::format::{FrameError, Reader, Writer};
use super::record::ManifestRecord;
use super::state::{DiskEntry, ManifestState, Misfit};
use crate::ids::{DiskId, Sequence};
use landfall_disks::MAX_DISK_SIZE;

mod kind {
    pub(super) const DISK_GROWN: u16 = 64;
    pub(super) const DISK_JOINED: u16 = 65;
    pub(super) const DISK_REMOVED: u16 = 66;
    pub(super) const DISK_FORGOTTEN: u16 = 67;
}

impl ManifestRecord {
    /// Encodes the kinds of this module; `false` for any other.
    pub(super) fn encode_disks(&self, to: &mut Writer<'_>) -> bool {
        match self {
            Self::DiskGrown { disk, above, size_bytes } => {
                to.u16(kind::DISK_GROWN);
                to.u32(disk.number());
                to.u64(above.number());
                to.u64(*size_bytes);
            }
            Self::DiskJoined { disk, since } => {
                to.u16(kind::DISK_JOINED);
                to.u32(disk.number());
                to.u64(since.number());
            }
            Self::DiskRemoved { disk, until } => {
                to.u16(kind::DISK_REMOVED);
                to.u32(disk.number());
                to.u64(until.number());
            }
            Self::DiskForgotten { disk } => {
                to.u16(kind::DISK_FORGOTTEN);
                to.u32(disk.number());
            }
            _ => return false,
        }
        true
    }

    /// Decodes the kinds of this module.
    pub(super) fn decode_disks(kind: u16, from: &mut Reader<'_>) -> Result<Self, FrameError> {
        let disk = |from: &mut Reader<'_>| from.u32().map(DiskId::new);
        let sequence = |from: &mut Reader<'_>| from.u64().map(Sequence::new);
        match kind {
            kind::DISK_GROWN => {
                let (disk, above, size_bytes) = (disk(from)?, sequence(from)?, from.u64()?);
                if size_bytes > MAX_DISK_SIZE {
                    return Err(FrameError::Field("size_bytes"));
                }
                Ok(Self::DiskGrown { disk, above, size_bytes })
            }
            kind::DISK_JOINED => Ok(Self::DiskJoined { disk: disk(from)?, since: sequence(from)? }),
            kind::DISK_REMOVED => {
                Ok(Self::DiskRemoved { disk: disk(from)?, until: sequence(from)? })
            }
            kind::DISK_FORGOTTEN => Ok(Self::DiskForgotten { disk: disk(from)? }),
            _ => Self::decode_streams(kind, from),
        }
    }
}

impl ManifestState {
    /// Applies the kinds of this module.
    pub(super) fn apply_disks(&mut self, record: &ManifestRecord) -> Result<(), Misfit> {
        match record {
            ManifestRecord::DiskGrown { disk, above, size_bytes } => {
                self.disk_mut(*disk, "DiskGrown")?.grow(*above, *size_bytes)
            }
            ManifestRecord::DiskJoined { disk, since } => {
                let entry = self.disk_mut(*disk, "DiskJoined")?;
                if entry.span.since.is_some() || entry.span.until.is_some() {
                    let what = format!("{disk:?} joined or left before");
                    return Err(Misfit { record: "DiskJoined", what });
                }
                entry.span.since = Some(*since);
                Ok(())
            }
            ManifestRecord::DiskRemoved { disk, until } => {
                let entry = self.disk_mut(*disk, "DiskRemoved")?;
                if entry.span.until.is_some() {
                    let what = format!("{disk:?} was removed before");
                    return Err(Misfit { record: "DiskRemoved", what });
                }
                entry.span.until = Some(*until);
                Ok(())
            }
            ManifestRecord::DiskForgotten { disk } => self.forget_disk(*disk),
            other => self.apply_lineage(other),
        }
    }

    fn forget_disk(&mut self, disk: DiskId) -> Result<(), Misfit> {
        let removed = self.disk_mut(disk, "DiskForgotten")?.span.until.is_some();
        if !removed {
            let what = format!("{disk:?} was not removed");
            return Err(Misfit { record: "DiskForgotten", what });
        }
        self.disks.remove(&disk);
        self.machines.values_mut().for_each(|machine| machine.disks.retain(|one| *one != disk));
        Ok(())
    }
}

impl DiskEntry {
    fn grow(&mut self, above: Sequence, size_bytes: u64) -> Result<(), Misfit> {
        let seen = self.floor.is_some_and(|floor| above < floor);
        if seen || !self.span.may_grow(above, size_bytes) {
            let what = format!("{:?} does not grow to {size_bytes} bytes above {above:?}", self.id);
            return Err(Misfit { record: "DiskGrown", what });
        }
        match self.floor {
            Some(_) => {
                self.span.grown.insert(above, size_bytes);
            }
            // It has no history: nobody has seen it with another size.
            None => self.span.first_bytes = size_bytes,
        }
        Ok(())
    }

    /// Records of what this module adds to a disk; after its floor.
    pub(super) fn span_records(&self, into: &mut Vec<ManifestRecord>) {
        let disk = self.id;
        let grown = |(above, size_bytes): (&Sequence, &u64)| ManifestRecord::DiskGrown {
            disk,
            above: *above,
            size_bytes: *size_bytes,
        };
        into.extend(self.span.grown.iter().map(grown));
        into.extend(self.span.since.map(|since| ManifestRecord::DiskJoined { disk, since }));
        into.extend(self.span.until.map(|until| ManifestRecord::DiskRemoved { disk, until }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{GroupId, LaneId, LineId, MachineId};
    use crate::manifest::history::HistoryStart;
    use crate::name::Name;
    use crate::time::Timestamp;

    const DISK: DiskId = DiskId::new(2);
    const TRUNK: LineId = LineId::new(1);

    fn at(sequence: u64) -> Sequence {
        Sequence::new(sequence)
    }

    fn grown(above: u64, size_bytes: u64) -> ManifestRecord {
        ManifestRecord::DiskGrown { disk: DISK, above: at(above), size_bytes }
    }

    fn folded(floor: u64) -> [ManifestRecord; 2] {
        let start = HistoryStart {
            sequence: at(floor),
            commit_time: Timestamp::default(),
            source_time: Timestamp::default(),
            kind: None,
            label: None,
        };
        let done = ManifestRecord::FoldDone { disk: DISK, floor: at(floor) };
        [ManifestRecord::FoldStarted { line: TRUNK, start }, done]
    }

    fn state(records: &[ManifestRecord]) -> ManifestState {
        let machine = MachineId::new(1);
        let name = |text: &str| Name::parse(text).expect("a name");
        let mut state = ManifestState::default();
        let first = [
            ManifestRecord::MachineAdded {
                machine,
                name: name("m"),
                display_name: String::new(),
                group: GroupId::new(1),
                trunk: TRUNK,
                lane: LaneId::new(0),
            },
            ManifestRecord::DiskAdded {
                disk: DISK,
                machine,
                name: name("d"),
                size_bytes: 4096,
                format: "raw".into(),
                image: "d".into(),
            },
        ];
        for record in first.iter().chain(records) {
            state.apply(record).expect("it fits");
        }
        let mut again = ManifestState::default();
        state.records().iter().for_each(|record| again.apply(record).expect("our own"));
        assert_eq!(again, state, "a snapshot adds up to something else");
        state
    }

    const SEEDED: ManifestRecord =
        ManifestRecord::SeedFinished { disk: DISK, floor: Sequence::new(3) };

    #[test]
    fn sizes_are_those_of_their_moments_until_these_are_folded() {
        let size = |state: &ManifestState, moment: u64| state.disks[&DISK].span.size_at(at(moment));
        let before = state(&[SEEDED, grown(5, 8192), grown(9, 16384)]);
        assert_eq!([5, 6, 9, 10].map(|at| size(&before, at)), [4096, 8192, 8192, 16384]);
        let mut records = vec![SEEDED, grown(5, 8192), grown(9, 16384)];
        records.extend(folded(7));
        let after = state(&records);
        assert_eq!(after.disks[&DISK].span.first_bytes, 8192);
        assert_eq!([7, 9, 10].map(|at| size(&after, at)), [8192, 8192, 16384]);
        // Without history there is only one size.
        let new = state(&[grown(0, 8192), SEEDED]);
        assert_eq!((size(&new, 3), new.disks[&DISK].span.grown.len()), (8192, 0));
    }

    #[test]
    fn records_that_would_change_what_somebody_saw_do_not_fit() {
        let removed = ManifestRecord::DiskRemoved { disk: DISK, until: at(9) };
        let joined = ManifestRecord::DiskJoined { disk: DISK, since: at(1) };
        let forgotten = ManifestRecord::DiskForgotten { disk: DISK };
        let there = state(&[SEEDED, grown(5, 8192), joined.clone()]);
        for record in
            [grown(4, 16384), grown(9, 8192), grown(9, 4096), joined.clone(), forgotten.clone()]
        {
            let mut tried = there.clone();
            tried.apply(&record).expect_err("it does not fit");
            assert_eq!(tried, there, "{record:?} changed something");
        }
        // Moments at the floor and above it were seen with the size they have.
        let seeded = state(&[SEEDED]);
        seeded.clone().apply(&grown(2, 8192)).expect_err("below the floor");
        seeded.clone().apply(&grown(3, 8192)).expect("above the floor");
        let gone = state(&[SEEDED, removed.clone()]);
        for record in [grown(9, 8192), joined, removed] {
            let mut tried = gone.clone();
            tried.apply(&record).expect_err("it does not fit");
            assert_eq!(tried, gone, "{record:?} changed something");
        }
        let mut forgot = gone;
        forgot.apply(&forgotten).expect("it was removed");
        assert!(forgot.disks.is_empty() && forgot.machines[&MachineId::new(1)].disks.is_empty());
    }
}
