//! Groups of several machines, and the points that these have in common.
//!
//! ```text
//!   web   ──●────●──▶ trunk      common point 7 = { web's trunk at seq:41, db's trunk at seq:17 }:
//!   db    ────●──●──▶ trunk      one moment of both
//! ```
//!
//! Each machine has a group of its own, without a name, until it joins one that has. Policies are of groups. A common point
//! names a moment of each member, and is there as long as each of these can be chosen: a member whose moment is dropped takes
//! it away from the group. What a promotion makes of the lines, the common points follow.

use super::format::{FrameError, Reader, Writer};
use super::record::ManifestRecord;
use super::state::{ManifestState, Misfit};
use crate::ids::{GroupId, LineId, MachineId, Sequence};
use crate::name::{Label, Name};
use crate::point::PointKind;
use crate::time::Timestamp;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// Most machines of a common point.
pub const MAX_MEMBERS: usize = 256;

mod kind {
    pub(super) const GROUP_ADDED: u16 = 82;
    pub(super) const GROUP_REMOVED: u16 = 83;
    pub(super) const GROUP_SET: u16 = 84;
    pub(super) const MACHINE_GROUPED: u16 = 85;
    pub(super) const COMMON_POINT_MADE: u16 = 86;
}

/// How barriers are made for a group.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Barriers {
    /// How often, in whole milliseconds; never unless somebody asks.
    pub every: Option<Duration>,
    /// How long one waits for its members, in whole milliseconds.
    pub patience: Duration,
}

/// A moment that the machines of a group have in common.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CommonPoint {
    /// Its number in the group; none is used twice.
    pub number: u64,
    /// When it was made.
    pub time: Timestamp,
    /// What it is for its members.
    pub kind: PointKind,
    /// Its label.
    pub label: Option<Label>,
    /// The moments, by line.
    pub members: Vec<CommonMember>,
}

/// The moment of one member.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct CommonMember {
    /// The line it is of.
    pub line: LineId,
    /// Where on it.
    pub sequence: Sequence,
}

/// A group that has a name.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct GroupEntry {
    /// Its id.
    pub id: GroupId,
    /// Its name, unique among groups.
    pub name: Name,
    /// How barriers are made for it.
    pub barriers: Barriers,
    /// The highest number that a common point of it ever had.
    pub last: u64,
    /// Its common points by number. Shared, so that a change elsewhere does not copy them.
    pub points: Arc<BTreeMap<u64, Arc<CommonPoint>>>,
}

impl ManifestRecord {
    /// Encodes the kinds of this module; `false` for any other.
    pub(super) fn encode_groups(&self, to: &mut Writer<'_>) -> bool {
        match self {
            Self::GroupAdded { group, name, barriers, last } => {
                to.u16(kind::GROUP_ADDED);
                to.u32(group.number());
                to.text(name.as_str());
                barriers.encode(to);
                to.u64(*last);
            }
            Self::GroupRemoved { group } => {
                to.u16(kind::GROUP_REMOVED);
                to.u32(group.number());
            }
            Self::GroupSet { group, barriers } => {
                to.u16(kind::GROUP_SET);
                to.u32(group.number());
                barriers.encode(to);
            }
            Self::MachineGrouped { machine, group } => {
                to.u16(kind::MACHINE_GROUPED);
                to.u32(machine.number());
                to.u32(group.number());
            }
            Self::CommonPointMade { group, point } => {
                to.u16(kind::COMMON_POINT_MADE);
                to.u32(group.number());
                point.encode(to);
            }
            _ => return false,
        }
        true
    }

    /// Decodes the kinds of this module.
    pub(super) fn decode_groups(kind: u16, from: &mut Reader<'_>) -> Result<Self, FrameError> {
        let group = |from: &mut Reader<'_>| from.u32().map(GroupId::new);
        match kind {
            kind::GROUP_ADDED => Ok(Self::GroupAdded {
                group: group(from)?,
                name: Name::parse(from.text()?).map_err(|_| FrameError::Field("name"))?,
                barriers: Barriers::decode(from)?,
                last: from.u64()?,
            }),
            kind::GROUP_REMOVED => Ok(Self::GroupRemoved { group: group(from)? }),
            kind::GROUP_SET => {
                Ok(Self::GroupSet { group: group(from)?, barriers: Barriers::decode(from)? })
            }
            kind::MACHINE_GROUPED => {
                let machine = MachineId::new(from.u32()?);
                Ok(Self::MachineGrouped { machine, group: group(from)? })
            }
            kind::COMMON_POINT_MADE => {
                let group = group(from)?;
                Ok(Self::CommonPointMade { group, point: Arc::new(CommonPoint::decode(from)?) })
            }
            _ => Self::decode_ingest(kind, from),
        }
    }
}

impl Barriers {
    fn encode(self, to: &mut Writer<'_>) {
        let milliseconds = |time: Duration| {
            u32::try_from(time.as_millis()).expect("checked when it was asked for")
        };
        to.u32(self.every.map_or(0, milliseconds));
        to.u32(milliseconds(self.patience));
    }

    fn decode(from: &mut Reader<'_>) -> Result<Self, FrameError> {
        let milliseconds = |from: &mut Reader<'_>| {
            from.u32().map(|milliseconds| Duration::from_millis(milliseconds.into()))
        };
        let every = Some(milliseconds(from)?).filter(|every| !every.is_zero());
        let patience = milliseconds(from)?;
        if patience.is_zero() {
            return Err(FrameError::Field("patience of barriers"));
        }
        Ok(Self { every, patience })
    }
}

impl CommonPoint {
    fn encode(&self, to: &mut Writer<'_>) {
        to.u64(self.number);
        to.u64(self.time.nanoseconds());
        to.u8(match self.kind {
            PointKind::App => 1,
            PointKind::Crash => 2,
            PointKind::Fuzzy => unreachable!("a common point is consistent"),
        });
        to.text(self.label.as_ref().map_or("", Label::as_str));
        assert!(self.members.len() <= MAX_MEMBERS, "{} members in a record", self.members.len());
        to.u16(u16::try_from(self.members.len()).expect("far fewer"));
        for member in &self.members {
            to.u32(member.line.number());
            to.u64(member.sequence.number());
        }
    }

    fn decode(from: &mut Reader<'_>) -> Result<Self, FrameError> {
        let number = from.u64()?;
        let time = Timestamp::from_nanoseconds(from.u64()?);
        let kind = match from.u8()? {
            1 => PointKind::App,
            2 => PointKind::Crash,
            _ => return Err(FrameError::Field("kind of a common point")),
        };
        let label = match from.text()? {
            "" => None,
            text => Some(Label::parse(text).map_err(|_| FrameError::Field("label"))?),
        };
        let count = usize::from(from.u16()?);
        if count > MAX_MEMBERS {
            return Err(FrameError::Field("members of a common point"));
        }
        let mut members = Vec::with_capacity(count);
        for _ in 0..count {
            let line = LineId::new(from.u32()?);
            members.push(CommonMember { line, sequence: Sequence::new(from.u64()?) });
        }
        Ok(Self { number, time, kind, label, members })
    }
}

impl ManifestState {
    /// Applies the kinds of this module; `false` for any other.
    pub(super) fn apply_groups(&mut self, record: &ManifestRecord) -> Result<bool, Misfit> {
        match record {
            ManifestRecord::GroupAdded { group, name, barriers, last } => {
                let free = !self.groups.contains_key(group) && self.group_named(name).is_none();
                Misfit::unless_new(free, "GroupAdded", (group, name))?;
                self.given.group = self.given.group.max(*group);
                let (id, name, barriers) = (*group, name.clone(), *barriers);
                let points = Arc::default();
                let entry = GroupEntry { id, name, barriers, last: *last, points };
                self.groups.insert(*group, entry);
            }
            ManifestRecord::GroupRemoved { group } => {
                if self.machines.values().any(|machine| machine.group == *group) {
                    let what = format!("{group:?} has machines");
                    return Err(Misfit { record: "GroupRemoved", what });
                }
                let removed = self.groups.remove(group);
                removed.ok_or_else(|| Misfit::missing("GroupRemoved", group))?;
                self.policies.remove(group);
            }
            ManifestRecord::GroupSet { group, barriers } => {
                self.group_mut(*group, "GroupSet")?.barriers = *barriers;
            }
            ManifestRecord::MachineGrouped { machine, group } => {
                self.move_machine(*machine, *group)?;
            }
            ManifestRecord::CommonPointMade { group, point } => {
                self.add_common_point(*group, point)?;
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn move_machine(&mut self, machine: MachineId, group: GroupId) -> Result<(), Misfit> {
        let misfit = |what: String| Misfit { record: "MachineGrouped", what };
        let taken = self.machines.values().any(|other| other.group == group);
        if taken && !self.groups.contains_key(&group) {
            return Err(misfit(format!("{group:?} is the own group of another machine")));
        }
        let entry = self.machines.get_mut(&machine);
        let entry = entry.ok_or_else(|| Misfit::missing("MachineGrouped", machine))?;
        let left = std::mem::replace(&mut entry.group, group);
        let lines = self.lines.values_mut().filter(|line| line.machine == machine);
        lines.for_each(|line| line.group = group);
        self.given.group = self.given.group.max(group);
        self.leave_group(left);
        Ok(())
    }

    /// A machine has left a group: one without a name is gone with its last machine.
    pub(super) fn leave_group(&mut self, group: GroupId) {
        let somebody = self.machines.values().any(|machine| machine.group == group);
        if !somebody && !self.groups.contains_key(&group) {
            self.policies.remove(&group);
        }
    }

    fn add_common_point(&mut self, group: GroupId, point: &Arc<CommonPoint>) -> Result<(), Misfit> {
        let misfit = |what: String| Misfit { record: "CommonPointMade", what };
        let apart = point.members.windows(2).all(|pair| pair[0].line < pair[1].line);
        if point.members.len() < 2 || !apart {
            return Err(misfit("fewer than two members, or not in the order of lines".to_owned()));
        }
        for CommonMember { line, sequence } in &point.members {
            let entry = self.line_mut(*line, "CommonPointMade")?;
            entry.check_begun(*sequence, "CommonPointMade")?;
            entry.check_within_history("CommonPointMade", *sequence)?;
            entry.check_there(*sequence, "CommonPointMade")?;
        }
        let entry = self.group_mut(group, "CommonPointMade")?;
        let free = !entry.points.contains_key(&point.number);
        Misfit::unless_new(free, "CommonPointMade", point.number)?;
        entry.last = entry.last.max(point.number);
        Arc::make_mut(&mut entry.points).insert(point.number, Arc::clone(point));
        Ok(())
    }

    /// Takes away the common points that a member no longer has the moment of.
    pub(super) fn lose_common_points(&mut self, lost: impl Fn(&CommonMember) -> bool) {
        for group in self.groups.values_mut() {
            let loses = |point: &Arc<CommonPoint>| point.members.iter().any(&lost);
            if group.points.values().any(loses) {
                Arc::make_mut(&mut group.points).retain(|_, point| !loses(point));
            }
        }
    }

    /// Takes lines that are gone with their machine out of the common points; the others had the moment in common still.
    pub(super) fn forget_members(&mut self, gone: impl Fn(LineId) -> bool) {
        self.change_common_points(|members| {
            let before = members.len();
            members.retain(|member| !gone(member.line));
            members.len() < before
        });
    }

    /// Common points go with what a promotion made the history of `line`: that of each of `way` up to where it was left.
    pub(super) fn promote_common_points(&mut self, line: LineId, way: &[(LineId, Sequence)]) {
        self.change_common_points(|members| {
            let taken = |member: &CommonMember| {
                way.iter().any(|(of, left)| *of == member.line && member.sequence <= *left)
            };
            let mut changed = false;
            for member in members.iter_mut().filter(|member| taken(member)) {
                member.line = line;
                changed = true;
            }
            members.sort_unstable();
            changed
        });
    }

    /// Changes the members of common points; `change` says whether it did.
    fn change_common_points(&mut self, change: impl Fn(&mut Vec<CommonMember>) -> bool) {
        for group in self.groups.values_mut() {
            let changed = |point: &Arc<CommonPoint>| {
                let mut members = point.members.clone();
                change(&mut members).then(|| (point.number, members))
            };
            let changes: Vec<_> = group.points.values().filter_map(changed).collect();
            if changes.is_empty() {
                continue;
            }
            let points = Arc::make_mut(&mut group.points);
            for (number, members) in changes {
                if members.len() < 2 {
                    points.remove(&number);
                } else if let Some(point) = points.get_mut(&number) {
                    Arc::make_mut(point).members = members;
                }
            }
        }
    }

    /// The group of this name.
    pub fn group_named(&self, name: &Name) -> Option<&GroupEntry> {
        self.groups.values().find(|group| group.name == *name)
    }

    fn group_mut(
        &mut self,
        group: GroupId,
        record: &'static str,
    ) -> Result<&mut GroupEntry, Misfit> {
        self.groups.get_mut(&group).ok_or_else(|| Misfit::missing(record, group))
    }

    /// Records of groups; before their policies.
    pub(super) fn group_records(&self, into: &mut Vec<ManifestRecord>) {
        into.extend(self.groups.values().map(|group| ManifestRecord::GroupAdded {
            group: group.id,
            name: group.name.clone(),
            barriers: group.barriers,
            last: group.last,
        }));
    }

    /// Records of common points; after everything that says which moments can be chosen.
    pub(super) fn common_point_records(&self, into: &mut Vec<ManifestRecord>) {
        for group in self.groups.values() {
            let record = |point: &Arc<CommonPoint>| ManifestRecord::CommonPointMade {
                group: group.id,
                point: Arc::clone(point),
            };
            into.extend(group.points.values().map(record));
        }
    }
}

impl GroupEntry {
    /// The newest common point in time: one that was declared may be of an earlier moment than those numbered before it.
    pub fn newest(&self) -> Option<&Arc<CommonPoint>> {
        self.points.values().max_by_key(|point| point.age())
    }

    /// The oldest in time.
    pub fn oldest(&self) -> Option<&Arc<CommonPoint>> {
        self.points.values().min_by_key(|point| point.age())
    }
}

impl CommonPoint {
    /// By what common points follow each other.
    pub fn age(&self) -> (Timestamp, u64) {
        (self.time, self.number)
    }
}

#[cfg(test)]
mod tests;
