//! The records about what is kept and for how long: policies, locks, dropped moments, the clock.
//!
//! **Invariants:** no record drops what is pinned, locked, branched from or exported, and none takes hold of what is dropped:
//! such records do not fit, whoever writes them. A lock ends by the time that is on record here, and only a look at a clock
//! that can be trusted, or somebody who says that it can, puts a later one there.

use super::dropped::MAX_KEPT;
use super::format::{FrameError, Reader, Writer};
use super::record::ManifestRecord;
use super::state::{LineEntry, ManifestState, Misfit};
use crate::ids::{GroupId, LineId, Sequence};
use crate::policy::ClockAlarm;
use crate::time::Timestamp;
use std::sync::Arc;

pub(super) mod kind {
    pub(in super::super) const POLICY_SET: u16 = 17;
    pub(in super::super) const POINT_LOCKED: u16 = 18;
    pub(in super::super) const POINTS_DROPPED: u16 = 19;
    pub(in super::super) const CLOCK_SEEN: u16 = 20;
    pub(in super::super) const CLOCK_ALARM_RAISED: u16 = 21;
    pub(in super::super) const CLOCK_ALARM_ACKNOWLEDGED: u16 = 22;
}

/// What is on record about the clock.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ClockEntry {
    /// The newest time that could be trusted.
    pub seen: Timestamp,
    /// The alarm that stands.
    pub alarm: Option<ClockAlarm>,
}

impl ManifestRecord {
    /// Encodes the kinds of this module; `false` for any other.
    pub(super) fn encode_keeping(&self, to: &mut Writer<'_>) -> bool {
        match self {
            Self::PolicySet { group, policy } => {
                to.u16(kind::POLICY_SET);
                to.u32(group.number());
                to.text(&policy.to_string());
            }
            Self::PointLocked { line, sequence, until } => {
                to.u16(kind::POINT_LOCKED);
                to.u32(line.number());
                to.u64(sequence.number());
                to.u64(until.nanoseconds());
            }
            Self::PointsDropped { line, first, last, kept } => {
                to.u16(kind::POINTS_DROPPED);
                to.u32(line.number());
                to.u64(first.number());
                to.u64(last.number());
                assert!(kept.len() <= MAX_KEPT, "{} kept points in a record", kept.len());
                to.u16(u16::try_from(kept.len()).expect("far fewer"));
                let mut due = first.number();
                for kept in kept {
                    to.varint(kept.number() - due);
                    due = kept.number().wrapping_add(1);
                }
            }
            Self::ClockSeen { time } => {
                to.u16(kind::CLOCK_SEEN);
                to.u64(time.nanoseconds());
            }
            Self::ClockAlarmRaised(alarm) => {
                to.u16(kind::CLOCK_ALARM_RAISED);
                to.u64(alarm.expected.nanoseconds());
                to.u64(alarm.found.nanoseconds());
            }
            Self::ClockAlarmAcknowledged { time } => {
                to.u16(kind::CLOCK_ALARM_ACKNOWLEDGED);
                to.u64(time.nanoseconds());
            }
            _ => return false,
        }
        true
    }

    /// Decodes the kinds of this module.
    pub(super) fn decode_keeping(kind: u16, from: &mut Reader<'_>) -> Result<Self, FrameError> {
        let time = |from: &mut Reader<'_>| from.u64().map(Timestamp::from_nanoseconds);
        match kind {
            kind::POLICY_SET => {
                let group = GroupId::new(from.u32()?);
                let text = from.text()?;
                let read = text.parse::<crate::policy::Policy>().ok();
                // Only the one form that is written: what is read is written again byte for byte.
                let policy = read.filter(|policy| policy.to_string() == text);
                Ok(Self::PolicySet { group, policy: policy.ok_or(FrameError::Field("policy"))? })
            }
            kind::POINT_LOCKED => Ok(Self::PointLocked {
                line: LineId::new(from.u32()?),
                sequence: Sequence::new(from.u64()?),
                until: time(from)?,
            }),
            kind::POINTS_DROPPED => decode_dropped(from),
            kind::CLOCK_SEEN => Ok(Self::ClockSeen { time: time(from)? }),
            kind::CLOCK_ALARM_RAISED => {
                Ok(Self::ClockAlarmRaised(ClockAlarm { expected: time(from)?, found: time(from)? }))
            }
            kind::CLOCK_ALARM_ACKNOWLEDGED => {
                Ok(Self::ClockAlarmAcknowledged { time: time(from)? })
            }
            _ => Self::decode_disks(kind, from),
        }
    }
}

fn decode_dropped(from: &mut Reader<'_>) -> Result<ManifestRecord, FrameError> {
    let line = LineId::new(from.u32()?);
    let (first, last) = (from.u64()?, from.u64()?);
    if first > last {
        return Err(FrameError::Field("last"));
    }
    let count = usize::from(from.u16()?);
    if count > MAX_KEPT {
        return Err(FrameError::Field("kept"));
    }
    let mut kept = Vec::with_capacity(count);
    let mut due = Some(first);
    for _ in 0..count {
        let skip = from.varint()?;
        let next = due.and_then(|due| due.checked_add(skip)).filter(|next| *next <= last);
        let next = next.ok_or(FrameError::Field("kept"))?;
        kept.push(Sequence::new(next));
        due = next.checked_add(1);
    }
    let (first, last) = (Sequence::new(first), Sequence::new(last));
    Ok(ManifestRecord::PointsDropped { line, first, last, kept })
}

impl ManifestState {
    /// Applies the kinds of this module.
    pub(super) fn apply_keeping(&mut self, record: &ManifestRecord) -> Result<(), Misfit> {
        match record {
            ManifestRecord::PolicySet { group, policy } => {
                let own = self.machines.values().any(|machine| machine.group == *group);
                if !own && !self.groups.contains_key(group) {
                    return Err(Misfit::missing("PolicySet", group));
                }
                self.policies.insert(*group, policy.clone());
            }
            ManifestRecord::PointLocked { line, sequence, until } => {
                let entry = self.line_mut(*line, "PointLocked")?;
                entry.check_begun(*sequence, "PointLocked")?;
                entry.check_within_history("PointLocked", *sequence)?;
                entry.check_there(*sequence, "PointLocked")?;
                let lock = entry.locks.get(sequence).copied().unwrap_or_default();
                if *until <= lock {
                    let what = format!("{sequence:?} is locked until {lock} already");
                    return Err(Misfit { record: "PointLocked", what });
                }
                entry.locks.insert(*sequence, *until);
            }
            ManifestRecord::PointsDropped { line, first, last, kept } => {
                self.drop_points(*line, *first, *last, kept)?;
            }
            ManifestRecord::ClockSeen { time } => {
                if let Some(alarm) = self.clock.alarm {
                    let what = format!("the alarm of {} stands", alarm.found);
                    return Err(Misfit { record: "ClockSeen", what });
                }
                self.clock.seen = self.clock.seen.max(*time);
            }
            ManifestRecord::ClockAlarmRaised(alarm) => self.clock.alarm = Some(*alarm),
            ManifestRecord::ClockAlarmAcknowledged { time } => {
                self.clock = ClockEntry { seen: *time, alarm: None };
            }
            other => {
                let applied = self.apply_streams(other)?
                    || self.apply_standby(other)?
                    || self.apply_groups(other)?
                    || self.apply_ingest(other)?
                    || self.apply_iscsi(other)?
                    || self.apply_aborts(other);
                if !applied {
                    self.apply_disks(other)?;
                }
            }
        }
        Ok(())
    }

    fn drop_points(
        &mut self,
        line: LineId,
        first: Sequence,
        last: Sequence,
        kept: &[Sequence],
    ) -> Result<(), Misfit> {
        let goes = |at: &Sequence| (first..=last).contains(at) && kept.binary_search(at).is_err();
        let refuse = |at: Sequence, why: &str| {
            let what = format!("{at:?} of {line:?} is {why}");
            Err(Misfit { record: "PointsDropped", what })
        };
        let origins = self.lines.values().filter_map(|other| other.origin);
        if let Some((_, at)) = origins.filter(|(of, _)| *of == line).find(|(_, at)| goes(at)) {
            return refuse(at, "where a branch starts");
        }
        let exports = self.exports.values().filter(|export| export.line == line);
        if let Some(at) = exports.filter_map(|export| export.sequence).find(goes) {
            return refuse(at, "exported");
        }
        let seen = self.clock.seen;
        let entry = self.line_mut(line, "PointsDropped")?;
        if let Some(start) = entry.start.as_ref().filter(|start| goes(&start.sequence)) {
            return refuse(start.sequence, "where history begins");
        }
        if let Some(at) = entry.pins.range(first..=last).copied().find(goes) {
            return refuse(at, "pinned");
        }
        let standing = |(at, until): &(&Sequence, &Timestamp)| goes(at) && **until > seen;
        if let Some((at, _)) = entry.locks.range(first..=last).find(standing) {
            return refuse(*at, "locked");
        }
        entry.locks.retain(|at, _| !goes(at));
        Arc::make_mut(&mut entry.dropped).drop_all_but(first, last, kept);
        entry.forget_stretches();
        self.lose_common_points(|member| member.line == line && goes(&member.sequence));
        Ok(())
    }

    /// That no lock stands on the lines that `of` picks.
    pub(super) fn check_unlocked(
        &self,
        record: &'static str,
        of: impl Fn(&LineEntry) -> bool,
    ) -> Result<(), Misfit> {
        let seen = self.clock.seen;
        let standing = |line: &&LineEntry| line.locks.values().any(|until| *until > seen);
        match self.lines.values().filter(|line| of(line)).find(standing) {
            None => Ok(()),
            Some(line) => {
                Err(Misfit { record, what: format!("a point of {:?} is locked", line.id) })
            }
        }
    }

    /// Records of what this module adds to a state.
    pub(super) fn keeping_records(&self, into: &mut Vec<ManifestRecord>) {
        if self.clock.seen != Timestamp::default() {
            into.push(ManifestRecord::ClockSeen { time: self.clock.seen });
        }
        into.extend(self.clock.alarm.map(ManifestRecord::ClockAlarmRaised));
        into.extend(self.policies.iter().map(|(group, policy)| ManifestRecord::PolicySet {
            group: *group,
            policy: policy.clone(),
        }));
    }
}

impl LineEntry {
    /// Whether history may begin at `start`, as far as locks and dropped moments go.
    pub(super) fn may_begin_at(&self, start: Sequence, seen: Timestamp) -> bool {
        let locked = self.locks.range(..start).any(|(_, until)| *until > seen);
        !locked && !self.dropped.contains(start)
    }

    /// Forgets what is on record of moments below the start of history.
    pub(super) fn forget_below(&mut self, start: Sequence) {
        self.locks.retain(|at, _| *at >= start);
        if !self.dropped.is_empty() {
            Arc::make_mut(&mut self.dropped).forget_below(start);
        }
        self.forget_stretches();
    }

    /// That `sequence` was not dropped.
    pub(super) fn check_there(
        &self,
        sequence: Sequence,
        record: &'static str,
    ) -> Result<(), Misfit> {
        if self.dropped.contains(sequence) {
            let what = format!("{sequence:?} of {:?} was dropped", self.id);
            return Err(Misfit { record, what });
        }
        Ok(())
    }

    /// The lock that stands at `now`, the trusted time.
    pub fn lock_at(&self, sequence: Sequence, now: Timestamp) -> Option<Timestamp> {
        self.locks.get(&sequence).copied().filter(|until| *until > now)
    }

    pub(super) fn keeping_records(&self, into: &mut Vec<ManifestRecord>) {
        into.extend(self.locks.iter().map(|(sequence, until)| ManifestRecord::PointLocked {
            line: self.id,
            sequence: *sequence,
            until: *until,
        }));
        self.dropped.records(self.id, into);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{ExportId, LaneId, MachineId};
    use crate::name::Name;

    const TRUNK: LineId = LineId::new(1);

    fn time(nanoseconds: u64) -> Timestamp {
        Timestamp::from_nanoseconds(nanoseconds)
    }

    fn dropped(first: u64, last: u64, kept: &[u64]) -> ManifestRecord {
        let kept = kept.iter().copied().map(Sequence::new).collect();
        let (first, last) = (Sequence::new(first), Sequence::new(last));
        ManifestRecord::PointsDropped { line: TRUNK, first, last, kept }
    }

    fn pinned(sequence: u64) -> ManifestRecord {
        ManifestRecord::PointPinned { line: TRUNK, sequence: Sequence::new(sequence) }
    }

    fn locked(sequence: u64, until: u64) -> ManifestRecord {
        let sequence = Sequence::new(sequence);
        ManifestRecord::PointLocked { line: TRUNK, sequence, until: time(until) }
    }

    fn branched(line: u32, origin: u64) -> ManifestRecord {
        ManifestRecord::BranchAdded {
            line: LineId::new(line),
            name: Name::parse("b").unwrap(),
            parent: TRUNK,
            origin: Sequence::new(origin),
            origin_time: time(1),
        }
    }

    fn exported(export: u32, sequence: u64) -> ManifestRecord {
        ManifestRecord::ExportAdded {
            export: ExportId::new(export),
            name: "m@seq".into(),
            line: TRUNK,
            sequence: Some(Sequence::new(sequence)),
            writable: false,
        }
    }

    fn removed() -> ManifestRecord {
        ManifestRecord::MachineRemoved { machine: MachineId::new(1) }
    }

    fn alarm() -> ManifestRecord {
        ManifestRecord::ClockAlarmRaised(ClockAlarm { expected: time(50), found: time(900) })
    }

    fn policy(group: u32) -> ManifestRecord {
        let policy = "keep all for 2h, daily for 30d".parse().unwrap();
        ManifestRecord::PolicySet { group: GroupId::new(group), policy }
    }

    fn apply(state: &mut ManifestState, records: &[ManifestRecord]) {
        records.iter().for_each(|record| state.apply(record).expect("it fits"));
    }

    /// A machine with something held of every kind, and something dropped around it.
    fn state() -> ManifestState {
        let machine = ManifestRecord::MachineAdded {
            machine: MachineId::new(1),
            name: Name::parse("m").unwrap(),
            display_name: String::new(),
            group: GroupId::new(1),
            trunk: TRUNK,
            lane: LaneId::new(0),
        };
        let held = [pinned(10), locked(20, 100), branched(2, 30), exported(1, 40)];
        let mut state = ManifestState::default();
        apply(&mut state, &[machine, policy(1), ManifestRecord::ClockSeen { time: time(50) }]);
        apply(&mut state, &held);
        apply(&mut state, &[dropped(0, 60, &[10, 20, 30, 35, 40])]);
        state
    }

    #[test]
    fn a_snapshot_of_what_is_kept_and_dropped_adds_up() {
        let mut before = state();
        apply(&mut before, &[alarm()]);
        let mut after = ManifestState::default();
        apply(&mut after, &before.records());
        assert_eq!(after, before);
        assert!(after.lines[&TRUNK].dropped.contains(Sequence::new(34)));
        assert!(!after.lines[&TRUNK].dropped.contains(Sequence::new(35)));
    }

    /// Each would drop what is held, hold what is dropped, or end a lock before its time.
    #[test]
    fn records_that_break_a_promise_do_not_fit() {
        let state = state();
        for record in [
            dropped(5, 15, &[]),
            dropped(10, 10, &[]),
            dropped(15, 25, &[]),
            dropped(25, 35, &[35]),
            dropped(36, 60, &[41]),
            pinned(9),
            locked(9, 1000),
            locked(20, 100),
            locked(20, 99),
            locked(35, 0),
            branched(3, 9),
            exported(2, 9),
            removed(),
            policy(2),
        ] {
            let mut tried = state.clone();
            let refused = tried.apply(&record);
            assert!(refused.is_err(), "{record:?}");
            assert_eq!(tried, state, "{record:?} changed something");
        }
        let mut alarmed = state.clone();
        apply(&mut alarmed, &[alarm()]);
        alarmed.apply(&ManifestRecord::ClockSeen { time: time(950) }).expect_err("an alarm stands");
    }

    #[test]
    fn a_lock_ends_when_a_time_after_it_is_on_record() {
        let drop = dropped(15, 25, &[]);
        for (seen, goes) in [(99, false), (100, true)] {
            let mut state = state();
            apply(&mut state, &[ManifestRecord::ClockSeen { time: time(seen) }]);
            assert_eq!(state.apply(&drop).is_ok(), goes, "at {seen}");
            assert_eq!(state.lines[&TRUNK].locks.is_empty(), goes);
        }
        // Without the export of a branch, nothing else stands in the way of a machine.
        let mut state = state();
        apply(&mut state, &[ManifestRecord::ClockAlarmAcknowledged { time: time(100) }, removed()]);
        assert!(state.policies.is_empty() && state.lines.is_empty());
    }
}
