//! Groups of several machines: who is in them, what moments they have in common, and branches of all of them at one.
//!
//! ```text
//!   barrier ─▶ common point { web@seq:41, db@seq:17 } ─▶ policy keeps them together ─▶ web~test, db~test at one moment
//! ```
//!
//! A machine keeps its line, its points and its source; the group adds the points that its machines have in common
//! ([`Retention::make_barrier`], [`Retention::declare_common`]). The policy of the group is that of each of its machines, a
//! quota included: it is of each, not of all.

mod barrier;
mod error;
mod keeping;
mod points;

pub(crate) use barrier::OfGroup;
pub use barrier::{BarrierMade, LateMember, Lateness};
pub use error::GroupError;
pub(crate) use keeping::hold_common;
use points::moment;
pub use points::{CommonMoment, GroupBranch};

use crate::change::ChangeError;
use crate::ids::{GroupId, MachineId};
use crate::manifest::groups::{Barriers, GroupEntry, MAX_MEMBERS};
use crate::manifest::record::ManifestRecord;
use crate::manifest::state::{Machine, ManifestState};
use crate::name::Name;
use crate::retention::Retention;
use crate::time::Timestamp;
use std::time::Duration;

/// How barriers are made for groups of which nobody said it.
pub const DEFAULT_BARRIERS: Barriers =
    Barriers { every: Some(Duration::from_secs(10)), patience: Duration::from_secs(2) };
/// The most that barriers can be apart.
const MOST_APART: Duration = Duration::from_secs(24 * 3600);
/// The least that barriers can be apart: each is a record of every member.
const LEAST_APART: Duration = Duration::from_secs(1);
/// The longest that a barrier holds back the writes of those that are there already.
const MOST_PATIENCE: Duration = Duration::from_secs(30);

/// A group, for listings.
#[derive(Clone, Debug)]
pub struct GroupStatus {
    /// Its name.
    pub name: Name,
    /// How barriers are made for it.
    pub barriers: Barriers,
    /// Its machines, by name, and why a barrier could not be made of each now.
    pub members: Vec<(Name, Option<Lateness>)>,
    /// How many common points there are.
    pub points: usize,
    /// The oldest of them.
    pub oldest: Option<CommonMoment>,
    /// The newest of them.
    pub newest: Option<CommonMoment>,
    /// Until when the newest is known to be the state of all members: nothing was written since.
    pub holds_until: Option<Timestamp>,
}

impl Retention {
    /// Makes a group. It has no machines yet.
    pub async fn add_group(&self, name: &Name, barriers: Barriers) -> Result<(), GroupError> {
        check_barriers(barriers)?;
        self.manifest
            .change(|state| {
                if state.group_named(name).is_some() {
                    let name = name.clone();
                    return Err(ChangeError::Exists { what: "group", name }.into());
                }
                let (group, name) = (state.given.group.next(), name.clone());
                Ok((vec![ManifestRecord::GroupAdded { group, name, barriers, last: 0 }], ()))
            })
            .await
    }

    /// Forgets a group that has no machines, with its policy and its common points.
    pub async fn remove_group(&self, name: &Name) -> Result<(), GroupError> {
        let removed = self
            .manifest
            .change(|state| {
                let group = group_of(state, name)?;
                let members = members_of(state, group.id);
                if !members.is_empty() {
                    let members = members.into_iter().map(|machine| machine.name.clone());
                    let (group, members) = (name.clone(), members.collect());
                    return Err(GroupError::HasMachines { group, members });
                }
                Ok((vec![ManifestRecord::GroupRemoved { group: group.id }], group.id))
            })
            .await?;
        self.barriers.lock().remove(&removed);
        Ok(())
    }

    /// Says how barriers are made for a group.
    pub async fn set_barriers(&self, name: &Name, barriers: Barriers) -> Result<(), GroupError> {
        check_barriers(barriers)?;
        self.manifest
            .change(|state| {
                let group = group_of(state, name)?.id;
                Ok((vec![ManifestRecord::GroupSet { group, barriers }], ()))
            })
            .await
    }

    /// Puts a machine into a group; what it kept by a policy of its own it keeps by that of the group from now on.
    pub async fn join_group(&self, name: &Name, machine: &Name) -> Result<(), GroupError> {
        let id = self.machine_id(machine)?;
        let moved = self.manifest.change(|state| {
            let group = group_of(state, name)?;
            let there = present(state, id, machine)?;
            let members = members_of(state, group.id);
            if there.group == group.id {
                let (machine, group) = (machine.clone(), name.clone());
                return Err(GroupError::InGroup { machine, group });
            }
            if let Some(other) = state.groups.get(&there.group) {
                let (machine, group) = (machine.clone(), other.name.clone());
                return Err(GroupError::InGroup { machine, group });
            }
            if members.len() >= MAX_MEMBERS {
                return Err(GroupError::TooMany { group: name.clone() });
            }
            Ok((vec![ManifestRecord::MachineGrouped { machine: id, group: group.id }], ()))
        });
        moved.await?;
        self.show_group_of(id);
        Ok(())
    }

    /// Takes a machine out of its group. It keeps what it has, by a copy of the policy; common points stay.
    pub async fn leave_group(&self, name: &Name, machine: &Name) -> Result<(), GroupError> {
        let id = self.machine_id(machine)?;
        let moved = self.manifest.change(|state| {
            let group = group_of(state, name)?;
            if present(state, id, machine)?.group != group.id {
                let (machine, group) = (machine.clone(), name.clone());
                return Err(GroupError::NotInGroup { machine, group });
            }
            let own = state.given.group.next();
            let mut records = vec![ManifestRecord::MachineGrouped { machine: id, group: own }];
            let policy = state.policies.get(&group.id).cloned();
            records.extend(policy.map(|policy| ManifestRecord::PolicySet { group: own, policy }));
            Ok((records, ()))
        });
        moved.await?;
        self.show_group_of(id);
        Ok(())
    }

    /// What lines write into their records is the group their machine is in.
    fn show_group_of(&self, id: MachineId) {
        let state = self.manifest.state();
        let Some(group) = state.machines.get(&id).map(|machine| machine.group) else { return };
        let machines = self.machines.read();
        machines.lines.values().filter(|line| line.machine() == id).for_each(|line| {
            line.set_group(group);
        });
    }

    /// The groups that have a name, by it.
    pub fn groups(&self) -> Vec<GroupStatus> {
        let state = self.manifest.state();
        let mut groups: Vec<_> =
            state.groups.values().map(|group| self.group_status(&state, group)).collect();
        groups.sort_by(|a, b| a.name.cmp(&b.name));
        groups
    }

    /// Those of which barriers are to be made by themselves: how often, and how long each waits.
    pub fn groups_with_barriers(&self) -> Vec<(Name, Duration, Duration)> {
        let state = self.manifest.state();
        let due = |group: &GroupEntry| {
            let Barriers { every, patience } = group.barriers;
            let several = members_of(&state, group.id).len() > 1;
            Some((group.name.clone(), every.filter(|_| several)?, patience))
        };
        state.groups.values().filter_map(due).collect()
    }

    /// One of them.
    pub fn group(&self, name: &Name) -> Result<GroupStatus, GroupError> {
        let state = self.manifest.state();
        Ok(self.group_status(&state, group_of(&state, name)?))
    }

    /// The group that a machine is in, if that has a name.
    pub fn group_of_machine(&self, machine: &Name) -> Option<Name> {
        let state = self.manifest.state();
        let group = state.machine_named(machine)?.group;
        state.groups.get(&group).map(|group| group.name.clone())
    }

    fn group_status(&self, state: &ManifestState, group: &GroupEntry) -> GroupStatus {
        let mut members: Vec<_> = members_of(state, group.id)
            .into_iter()
            .map(|machine| (machine.name.clone(), self.lateness(state, machine)))
            .collect();
        members.sort_by(|a, b| a.0.cmp(&b.0));
        GroupStatus {
            name: group.name.clone(),
            barriers: group.barriers,
            members,
            points: group.points.len(),
            oldest: group.oldest().map(|point| moment(state, point)),
            newest: group.newest().map(|point| moment(state, point)),
            holds_until: self.barriers.lock().get(&group.id).and_then(|of| of.holds_until()),
        }
    }
}

/// The group of this name.
fn group_of<'a>(state: &'a ManifestState, name: &Name) -> Result<&'a GroupEntry, GroupError> {
    state.group_named(name).ok_or_else(|| unknown(state, name))
}

fn unknown(state: &ManifestState, group: &Name) -> GroupError {
    let known = state.groups.values().map(|group| group.name.clone()).collect();
    GroupError::Unknown { group: group.clone(), known }
}

/// Its machines.
fn members_of(state: &ManifestState, group: GroupId) -> Vec<&Machine> {
    state.machines.values().filter(|machine| machine.group == group).collect()
}

fn present<'a>(
    state: &'a ManifestState,
    id: MachineId,
    name: &Name,
) -> Result<&'a Machine, GroupError> {
    let there = state.machines.get(&id);
    there.ok_or_else(|| GroupError::Resolve(Retention::unknown_machine(state, name)))
}

fn check_barriers(barriers: Barriers) -> Result<(), GroupError> {
    let Barriers { every, patience } = barriers;
    let whole = |time: Duration| time.subsec_nanos().is_multiple_of(1_000_000);
    let apart = every.is_none_or(|every| {
        (LEAST_APART..=MOST_APART).contains(&every) && whole(every) && patience < every
    });
    let patient = !patience.is_zero() && patience <= MOST_PATIENCE && whole(patience);
    if apart && patient { Ok(()) } else { Err(GroupError::Barriers) }
}
