//! The records about standby files: where those of a machine are, how they are kept, and what they may hold.
//!
//! **Invariants:** a machine has one standby at most, and it goes with its machine. Before a file is changed it is on record
//! what any of the files may hold from then on: so a file that says anything else is not the one that was written here.

use super::format::{FrameError, Reader, Writer};
use super::record::ManifestRecord;
use super::state::{ManifestState, Misfit};
use crate::ids::{LineId, MachineId, Sequence};
use crate::time::Timestamp;
use landfall_disks::image::Format;
use std::path::Path;
use std::time::Duration;

mod kind {
    pub(super) const STANDBY_ADDED: u16 = 74;
    pub(super) const STANDBY_REMOVED: u16 = 75;
    pub(super) const STANDBY_PAUSED: u16 = 76;
    pub(super) const STANDBY_MOVES: u16 = 77;
}

/// Most moments that the files of a machine may hold: each disk another one, and the one they are brought to.
pub const MAX_HELD: usize = crate::change::MAX_DISKS + 1;
/// Longest path of a folder, in bytes: what Linux takes.
pub const MAX_FOLDER_BYTES: usize = 4096;

/// How the standby files of a machine are kept.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StandbyKept {
    /// The folder they are in: an absolute path.
    pub folder: String,
    /// Their format.
    pub format: Format,
    /// How often they are brought forward; whole seconds, at least one.
    pub every: Duration,
    /// Only to app points.
    pub app_only: bool,
}

/// A moment of a line that a file may hold.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct HeldMoment {
    /// The line.
    pub line: LineId,
    /// Where in it.
    pub sequence: Sequence,
    /// When that was committed.
    pub time: Timestamp,
}

/// The standby of a machine.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StandbyEntry {
    /// How it is kept.
    pub kept: StandbyKept,
    /// Whether it stays as it is until somebody says otherwise.
    pub paused: bool,
    /// What its files may hold, in order; nothing before the first of them was written.
    pub may_hold: Vec<HeldMoment>,
}

impl ManifestRecord {
    /// Encodes the kinds of this module; `false` for any other.
    pub(super) fn encode_standby(&self, to: &mut Writer<'_>) -> bool {
        match self {
            Self::StandbyAdded { machine, kept } => {
                to.u16(kind::STANDBY_ADDED);
                to.u32(machine.number());
                to.text(&kept.folder);
                to.text(kept.format.name());
                to.u32(u32::try_from(kept.every.as_secs()).expect("checked when it was asked for"));
                to.u8(u8::from(kept.app_only));
            }
            Self::StandbyRemoved { machine } => {
                to.u16(kind::STANDBY_REMOVED);
                to.u32(machine.number());
            }
            Self::StandbyPaused { machine, paused } => {
                to.u16(kind::STANDBY_PAUSED);
                to.u32(machine.number());
                to.u8(u8::from(*paused));
            }
            Self::StandbyMoves { machine, may_hold } => {
                to.u16(kind::STANDBY_MOVES);
                to.u32(machine.number());
                assert!(may_hold.len() <= MAX_HELD, "{} moments in a record", may_hold.len());
                to.u16(u16::try_from(may_hold.len()).expect("far fewer"));
                for held in may_hold {
                    to.u32(held.line.number());
                    to.u64(held.sequence.number());
                    to.u64(held.time.nanoseconds());
                }
            }
            _ => return false,
        }
        true
    }

    /// Decodes the kinds of this module.
    pub(super) fn decode_standby(kind: u16, from: &mut Reader<'_>) -> Result<Self, FrameError> {
        let machine = |from: &mut Reader<'_>| from.u32().map(MachineId::new);
        match kind {
            kind::STANDBY_ADDED => {
                let machine = machine(from)?;
                let folder = from.text()?.to_owned();
                if !Path::new(&folder).is_absolute() || folder.len() > MAX_FOLDER_BYTES {
                    return Err(FrameError::Field("folder of a standby"));
                }
                let format = from.text()?.parse();
                let format = format.map_err(|_| FrameError::Field("format of a standby"))?;
                let every = match from.u32()? {
                    0 => return Err(FrameError::Field("interval of a standby")),
                    seconds => Duration::from_secs(seconds.into()),
                };
                let app_only = flag(from)?;
                let kept = StandbyKept { folder, format, every, app_only };
                Ok(Self::StandbyAdded { machine, kept })
            }
            kind::STANDBY_REMOVED => Ok(Self::StandbyRemoved { machine: machine(from)? }),
            kind::STANDBY_PAUSED => {
                Ok(Self::StandbyPaused { machine: machine(from)?, paused: flag(from)? })
            }
            kind::STANDBY_MOVES => {
                let machine = machine(from)?;
                let count = usize::from(from.u16()?);
                if count > MAX_HELD {
                    return Err(FrameError::Field("moments of a standby"));
                }
                let mut may_hold = Vec::with_capacity(count);
                for _ in 0..count {
                    may_hold.push(HeldMoment {
                        line: LineId::new(from.u32()?),
                        sequence: Sequence::new(from.u64()?),
                        time: Timestamp::from_nanoseconds(from.u64()?),
                    });
                }
                Ok(Self::StandbyMoves { machine, may_hold })
            }
            _ => Self::decode_groups(kind, from),
        }
    }
}

fn flag(from: &mut Reader<'_>) -> Result<bool, FrameError> {
    match from.u8()? {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(FrameError::Field("yes or no of a standby")),
    }
}

impl ManifestState {
    /// Applies the kinds of this module; `false` for any other.
    pub(super) fn apply_standby(&mut self, record: &ManifestRecord) -> Result<bool, Misfit> {
        match record {
            ManifestRecord::StandbyAdded { machine, kept } => {
                let misfit = |what: String| Misfit { record: "StandbyAdded", what };
                if !self.machines.contains_key(machine) {
                    return Err(Misfit::missing("StandbyAdded", machine));
                }
                if self.standbys.contains_key(machine) {
                    return Err(misfit(format!("{machine:?} has a standby")));
                }
                let entry =
                    StandbyEntry { kept: kept.clone(), paused: false, may_hold: Vec::new() };
                self.standbys.insert(*machine, entry);
            }
            ManifestRecord::StandbyRemoved { machine } => {
                let removed = self.standbys.remove(machine);
                removed.ok_or_else(|| Misfit::missing("StandbyRemoved", machine))?;
            }
            ManifestRecord::StandbyPaused { machine, paused } => {
                self.standby_mut(*machine, "StandbyPaused")?.paused = *paused;
            }
            ManifestRecord::StandbyMoves { machine, may_hold } => {
                let entry = self.standby_mut(*machine, "StandbyMoves")?;
                if may_hold.is_empty() || may_hold.windows(2).any(|pair| pair[0] >= pair[1]) {
                    let what = "no moments, or some out of order".to_owned();
                    return Err(Misfit { record: "StandbyMoves", what });
                }
                entry.may_hold.clone_from(may_hold);
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn standby_mut(
        &mut self,
        machine: MachineId,
        record: &'static str,
    ) -> Result<&mut StandbyEntry, Misfit> {
        self.standbys.get_mut(&machine).ok_or_else(|| Misfit::missing(record, machine))
    }

    /// Records of what this module adds to a state; after the machines.
    pub(super) fn standby_records(&self, into: &mut Vec<ManifestRecord>) {
        for (machine, entry) in &self.standbys {
            let (machine, kept) = (*machine, entry.kept.clone());
            into.push(ManifestRecord::StandbyAdded { machine, kept });
            if entry.paused {
                into.push(ManifestRecord::StandbyPaused { machine, paused: true });
            }
            if !entry.may_hold.is_empty() {
                let may_hold = entry.may_hold.clone();
                into.push(ManifestRecord::StandbyMoves { machine, may_hold });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::format::{encode_frame, parse_frame};
    use super::*;
    use crate::ids::{GroupId, LaneId};
    use crate::name::Name;

    const MACHINE: MachineId = MachineId::new(1);

    fn added(folder: &str) -> ManifestRecord {
        let every = Duration::from_secs(300);
        let kept =
            StandbyKept { folder: folder.into(), format: Format::Vmdk, every, app_only: true };
        ManifestRecord::StandbyAdded { machine: MACHINE, kept }
    }

    fn held(sequence: u64) -> HeldMoment {
        let time = Timestamp::from_nanoseconds(sequence);
        HeldMoment { line: LineId::new(1), sequence: Sequence::new(sequence), time }
    }

    fn moves(sequences: &[u64]) -> ManifestRecord {
        let may_hold = sequences.iter().copied().map(held).collect();
        ManifestRecord::StandbyMoves { machine: MACHINE, may_hold }
    }

    fn paused(paused: bool) -> ManifestRecord {
        ManifestRecord::StandbyPaused { machine: MACHINE, paused }
    }

    fn state(records: &[ManifestRecord]) -> ManifestState {
        let mut state = ManifestState::default();
        let machine = ManifestRecord::MachineAdded {
            machine: MACHINE,
            name: Name::parse("web").expect("a name"),
            display_name: String::new(),
            group: GroupId::new(1),
            trunk: LineId::new(1),
            lane: LaneId::new(0),
        };
        state.apply(&machine).expect("it fits");
        records.iter().for_each(|record| state.apply(record).expect("it fits"));
        let mut again = ManifestState::default();
        state.records().iter().for_each(|record| again.apply(record).expect("our own"));
        assert_eq!(again, state, "a snapshot adds up to the state");
        state
    }

    #[test]
    fn a_standby_is_what_its_records_say_and_goes_with_its_machine() {
        let state_of = state(&[added("/srv/standby"), moves(&[3]), moves(&[3, 9]), paused(true)]);
        let entry = &state_of.standbys[&MACHINE];
        assert!(entry.paused && entry.kept.app_only);
        assert_eq!(entry.may_hold, [held(3), held(9)]);
        assert!(!state(&[added("/a"), paused(true), paused(false)]).standbys[&MACHINE].paused);
        let gone = [added("/a"), ManifestRecord::StandbyRemoved { machine: MACHINE }];
        assert_eq!(state(&gone).standbys.len(), 0);
        let removed = [added("/a"), ManifestRecord::MachineRemoved { machine: MACHINE }];
        assert_eq!(state(&removed).standbys.len(), 0);
    }

    #[test]
    fn what_does_not_follow_does_not_fit() {
        let removed = ManifestRecord::StandbyRemoved { machine: MACHINE };
        for wrong in [moves(&[1]), paused(true), removed] {
            assert!(state(&[]).apply(&wrong).is_err(), "{wrong:?}");
        }
        for wrong in [added("/b"), moves(&[]), moves(&[2, 1]), moves(&[2, 2])] {
            assert!(state(&[added("/a")]).apply(&wrong).is_err(), "{wrong:?}");
        }
        let mut empty = ManifestState::default();
        assert!(empty.apply(&added("/a")).is_err(), "no machine");
    }

    #[test]
    fn records_read_back_and_nonsense_is_refused() {
        let frame = |record: &ManifestRecord| {
            let mut frame = Vec::new();
            encode_frame(0, std::slice::from_ref(record), &mut frame);
            parse_frame(&frame, 0).map(|(records, _)| records)
        };
        let removed = ManifestRecord::StandbyRemoved { machine: MACHINE };
        for record in [added("/srv"), moves(&[1, 2]), paused(true), paused(false), removed] {
            assert_eq!(frame(&record), Ok(vec![record]));
        }
        assert_eq!(frame(&added("srv")), Err(FrameError::Field("folder of a standby")));
        let ManifestRecord::StandbyAdded { machine, mut kept } = added("/srv") else {
            unreachable!("it is what was made")
        };
        kept.every = Duration::ZERO;
        let never = ManifestRecord::StandbyAdded { machine, kept };
        assert_eq!(frame(&never), Err(FrameError::Field("interval of a standby")));
    }
}
