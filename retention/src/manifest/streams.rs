//! The records about streams: what that of a trunk is at, and which stretches of the trunk came in order.
//!
//! **Invariants:** only trunks have a stream, and what was a trunk keeps its stretches. A state changes as [`StreamState::check_change`] allows. A stretch begins
//! and ends with the state: it is open exactly while that is ORDERED.

use super::format::{FrameError, Reader, Writer};
use super::record::ManifestRecord;
use super::state::{LineEntry, ManifestState, Misfit};
use crate::ids::{LineId, Sequence};
use crate::ordered::{Ordered, Stretch};
use crate::stream::StreamState;
use crate::time::Timestamp;
use std::sync::Arc;

mod kind {
    pub(super) const STREAM_CHANGED: u16 = 80;
    pub(super) const STRETCH_ORDERED: u16 = 81;
}

/// The stream of a trunk, as it is on record.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct StreamEntry {
    /// What it is at; nothing before it was opened for the first time.
    pub state: Option<StreamChange>,
    /// Which stretches of the trunk came in order. Shared, so that a change elsewhere does not copy them.
    pub ordered: Arc<Ordered>,
}

/// A state, and since when.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StreamChange {
    /// What the stream became.
    pub state: StreamState,
    /// Where on the trunk: the first boundary in order, or the last record of the state before.
    pub at: Sequence,
    /// When, by the target's clock.
    pub time: Timestamp,
}

impl ManifestRecord {
    /// Encodes the kinds of this module; `false` for any other.
    pub(super) fn encode_streams(&self, to: &mut Writer<'_>) -> bool {
        match self {
            Self::StreamChanged { line, change } => {
                to.u16(kind::STREAM_CHANGED);
                to.u32(line.number());
                to.u8(match change.state {
                    StreamState::Seed => 1,
                    StreamState::Resync => 2,
                    StreamState::Catchup => 3,
                    StreamState::Ordered => 4,
                });
                to.u64(change.at.number());
                to.u64(change.time.nanoseconds());
            }
            Self::StretchOrdered { line, first, last } => {
                to.u16(kind::STRETCH_ORDERED);
                to.u32(line.number());
                to.u64(first.number());
                to.u64(last.number());
            }
            _ => return false,
        }
        true
    }

    /// Decodes the kinds of this module.
    pub(super) fn decode_streams(kind: u16, from: &mut Reader<'_>) -> Result<Self, FrameError> {
        match kind {
            kind::STREAM_CHANGED => Ok(Self::StreamChanged {
                line: LineId::new(from.u32()?),
                change: StreamChange {
                    state: match from.u8()? {
                        1 => StreamState::Seed,
                        2 => StreamState::Resync,
                        3 => StreamState::Catchup,
                        4 => StreamState::Ordered,
                        _ => return Err(FrameError::Field("state of a stream")),
                    },
                    at: Sequence::new(from.u64()?),
                    time: Timestamp::from_nanoseconds(from.u64()?),
                },
            }),
            kind::STRETCH_ORDERED => Ok(Self::StretchOrdered {
                line: LineId::new(from.u32()?),
                first: Sequence::new(from.u64()?),
                last: Sequence::new(from.u64()?),
            }),
            _ => Self::decode_lineage(kind, from),
        }
    }
}

impl ManifestState {
    /// Applies the kinds of this module; `false` for any other.
    pub(super) fn apply_streams(&mut self, record: &ManifestRecord) -> Result<bool, Misfit> {
        match record {
            ManifestRecord::StreamChanged { line, change } => {
                self.trunk_mut(*line, "StreamChanged")?.change_stream(*change)?;
            }
            ManifestRecord::StretchOrdered { line, first, last } => {
                let entry = self.trunk_mut(*line, "StretchOrdered")?;
                let ordered = Arc::make_mut(&mut entry.stream_entry.ordered);
                if !(ordered.begin(*first) && ordered.end(*last)) {
                    let what = format!("{first:?} to {last:?} does not follow what there is");
                    return Err(Misfit { record: "StretchOrdered", what });
                }
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn trunk_mut(&mut self, line: LineId, record: &'static str) -> Result<&mut LineEntry, Misfit> {
        let entry = self.line_mut(line, record)?;
        match entry.origin.filter(|_| !entry.sealed) {
            None => Ok(entry),
            Some(_) => Err(Misfit { record, what: format!("{line:?} is a branch") }),
        }
    }
}

impl LineEntry {
    fn change_stream(&mut self, change: StreamChange) -> Result<(), Misfit> {
        let misfit = |what: String| Misfit { record: "StreamChanged", what };
        let before = self.stream_entry.state.map(|before| before.state);
        if let Some(before) = before {
            before.check_change(change.state).map_err(|error| misfit(error.to_string()))?;
        }
        let ordered = Arc::make_mut(&mut self.stream_entry.ordered);
        let fits = match (before, change.state) {
            (_, StreamState::Ordered) => ordered.begin(change.at),
            (Some(StreamState::Ordered), _) => ordered.end(change.at),
            _ => true,
        };
        if !fits {
            let what = format!("{} at {:?} does not follow what there is", change.state, change.at);
            return Err(misfit(what));
        }
        self.stream_entry.state = Some(change);
        Ok(())
    }

    /// Forgets stretches of which no moment is left.
    pub(super) fn forget_stretches(&mut self) {
        let start = self.start.as_ref().map(|start| start.sequence).unwrap_or_default();
        if !self.stream_entry.ordered.is_empty() {
            let ordered = Arc::make_mut(&mut self.stream_entry.ordered);
            ordered.forget_below(start);
            ordered.forget_dropped(&self.dropped);
        }
    }

    /// Records of what this module adds to a line.
    pub(super) fn stream_records(&self, into: &mut Vec<ManifestRecord>) {
        let stretch = |Stretch { first, last }: &Stretch| ManifestRecord::StretchOrdered {
            line: self.id,
            first: *first,
            last: *last,
        };
        into.extend(self.stream_entry.ordered.ended().iter().map(stretch));
        let state = self.stream_entry.state;
        into.extend(state.map(|change| ManifestRecord::StreamChanged { line: self.id, change }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{GroupId, LaneId, MachineId};
    use crate::manifest::history::HistoryStart;
    use crate::name::Name;

    const TRUNK: LineId = LineId::new(1);

    fn changed(state: StreamState, at: u64) -> ManifestRecord {
        let (at, time) = (Sequence::new(at), Timestamp::from_nanoseconds(at));
        ManifestRecord::StreamChanged { line: TRUNK, change: StreamChange { state, at, time } }
    }

    fn state(records: &[ManifestRecord]) -> ManifestState {
        let mut state = ManifestState::default();
        let machine = ManifestRecord::MachineAdded {
            machine: MachineId::new(1),
            name: Name::parse("m").expect("a name"),
            display_name: String::new(),
            group: GroupId::new(1),
            trunk: TRUNK,
            lane: LaneId::new(0),
        };
        state.apply(&machine).expect("it fits");
        records.iter().for_each(|record| state.apply(record).expect("it fits"));
        state
    }

    fn stretches(state: &ManifestState) -> Vec<(u64, u64)> {
        let ordered = &state.lines[&TRUNK].stream_entry.ordered;
        let all = ordered.stretches(Sequence::new(99));
        all.map(|one| (one.first.number(), one.last.number())).collect()
    }

    fn flapping() -> Vec<ManifestRecord> {
        use StreamState::{Catchup, Ordered, Resync, Seed};
        vec![
            changed(Seed, 0),
            changed(Catchup, 4),
            changed(Ordered, 5),
            changed(Catchup, 9),
            changed(Ordered, 12),
            changed(Catchup, 19),
            changed(Resync, 19),
            changed(Catchup, 25),
            changed(Ordered, 30),
        ]
    }

    #[test]
    fn a_snapshot_has_the_stretches_and_the_last_state() {
        let state = state(&flapping());
        assert_eq!(stretches(&state), [(5, 9), (12, 19), (30, 99)]);
        let mut again = ManifestState::default();
        state.records().iter().for_each(|record| again.apply(record).expect("it fits"));
        assert_eq!(again, state);
    }

    #[test]
    fn states_that_do_not_follow_each_other_do_not_fit() {
        use StreamState::{Catchup, Ordered, Resync, Seed};
        let mut state = state(&flapping());
        let branch = ManifestRecord::BranchAdded {
            line: LineId::new(2),
            name: Name::parse("b").expect("a name"),
            parent: TRUNK,
            origin: Sequence::new(30),
            origin_time: Timestamp::default(),
        };
        state.apply(&branch).expect("it fits");
        assert_eq!(state.lines[&LineId::new(2)].stream_entry, StreamEntry::default());
        let change =
            StreamChange { state: Seed, at: Sequence::default(), time: Timestamp::default() };
        let (first, last) = (Sequence::new(40), Sequence::new(50));
        for record in [
            changed(Ordered, 31),
            changed(Resync, 31),
            changed(Seed, 31),
            changed(Catchup, 29),
            ManifestRecord::StreamChanged { line: LineId::new(2), change },
            ManifestRecord::StreamChanged { line: LineId::new(3), change },
            ManifestRecord::StretchOrdered { line: TRUNK, first, last },
        ] {
            assert!(state.clone().apply(&record).is_err(), "{record:?}");
        }
        state.apply(&changed(Catchup, 30)).expect("it fits");
        assert!(state.apply(&changed(Ordered, 30)).is_err(), "it would overlap");
    }

    #[test]
    fn stretches_go_with_the_last_of_their_moments() {
        let mut state = state(&flapping());
        let dropped = |last: u64, kept: &[u64]| ManifestRecord::PointsDropped {
            line: TRUNK,
            first: Sequence::default(),
            last: Sequence::new(last),
            kept: kept.iter().copied().map(Sequence::new).collect(),
        };
        state.apply(&dropped(15, &[7])).expect("it fits");
        assert_eq!(stretches(&state), [(5, 9), (12, 19), (30, 99)], "7 is left, and 16 to 19");
        state.apply(&dropped(15, &[])).expect("it fits");
        assert_eq!(stretches(&state), [(12, 19), (30, 99)]);
        let start = HistoryStart {
            sequence: Sequence::new(20),
            commit_time: Timestamp::default(),
            source_time: Timestamp::default(),
            kind: None,
            label: None,
        };
        let begins = ManifestRecord::FoldStarted { line: TRUNK, start };
        state.apply(&begins).expect("it fits");
        assert_eq!(stretches(&state), [(30, 99)]);
    }
}
