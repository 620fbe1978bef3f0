//! What people say about keeping: policies of groups, and locks that nobody can take back.
//!
//! **Invariant:** a lock ends by trusted time alone. It can be made longer, never shorter; while it stands its point, its
//! branch and its machine cannot be removed.

use crate::change::ChangeError;
use crate::ids::MachineId;
use crate::manifest::record::ManifestRecord;
use crate::manifest::state::{LineEntry, ManifestState};
use crate::moment::{Moment, ResolveError};
use crate::name::{MomentName, Name};
use crate::policy::Policy;
use crate::retention::Retention;
use crate::time::Timestamp;

/// The policy of a machine's group.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PolicyStatus {
    /// What applies.
    pub policy: Policy,
    /// Whether somebody set it for this group; otherwise it is the one of all that were given none.
    pub own: bool,
}

impl Retention {
    /// How long and how densely points of a machine are kept.
    pub fn policy(&self, machine: &Name) -> Result<PolicyStatus, ResolveError> {
        let id = self.machine_id(machine)?;
        let state = self.manifest.state();
        let group = state.machines.get(&id).map(|machine| machine.group);
        let own = group.and_then(|group| state.policies.get(&group).cloned());
        Ok(match own {
            Some(policy) => PolicyStatus { policy, own: true },
            None => PolicyStatus { policy: self.default_policy.clone(), own: false },
        })
    }

    /// Sets the policy of a machine's group. What it no longer keeps goes with the next pass of [`Self::thin`].
    pub async fn set_policy(&self, machine: &Name, policy: Policy) -> Result<(), ChangeError> {
        let id = self.machine_id(machine)?;
        self.manifest
            .change(|state| {
                let Some(entry) = state.machines.get(&id) else {
                    return Err(ChangeError::from(Self::unknown_machine(state, machine)));
                };
                let record = ManifestRecord::PolicySet { group: entry.group, policy };
                Ok((vec![record], ()))
            })
            .await
    }

    /// Locks a point: until then nobody can drop it, nor unlock it.
    pub async fn lock(&self, name: &MomentName, until: Timestamp) -> Result<Moment, ChangeError> {
        let now = self.newest_time();
        if until <= now {
            return Err(ChangeError::LockInThePast { until, now });
        }
        let moment = self.resolve(name).await?;
        let (line, sequence) = (moment.line, moment.sequence);
        self.manifest
            .change(|state| {
                let entry = state.lines.get(&line);
                let stands = entry.and_then(|entry| entry.locks.get(&sequence).copied());
                if let Some(stands) = stands.filter(|stands| *stands >= until) {
                    let point = moment.absolute_name(None);
                    return Err(ChangeError::Locked { what: point, until: stands });
                }
                Ok((vec![ManifestRecord::PointLocked { line, sequence, until }], ()))
            })
            .await?;
        Ok(moment)
    }

    /// Refuses to end a lock before its date; the moment, if none stands.
    pub async fn unlock(&self, name: &MomentName) -> Result<Moment, ChangeError> {
        let moment = self.resolve(name).await?;
        let state = self.manifest.state();
        let entry = state.lines.get(&moment.line);
        let seen = state.clock.seen;
        match entry.and_then(|entry| entry.lock_at(moment.sequence, seen)) {
            None => Ok(moment),
            Some(until) => Err(ChangeError::Locked { what: moment.absolute_name(None), until }),
        }
    }

    /// The later of the clock and the newest time on record: a clock that was set back must not make a lock shorter.
    fn newest_time(&self) -> Timestamp {
        self.surroundings.clock.now().max(self.manifest.state().clock.seen)
    }
}

/// That no lock stands on a line of `machine` that `of` picks, by the time on record.
pub(crate) fn check_unlocked(
    state: &ManifestState,
    machine: MachineId,
    of: impl Fn(&LineEntry) -> bool,
    what: impl FnOnce() -> String,
) -> Result<(), ChangeError> {
    let seen = state.clock.seen;
    let lines = state.lines.values().filter(|line| line.machine == machine && of(line));
    let last = lines.flat_map(|line| line.locks.values().copied()).max();
    match last.filter(|until| *until > seen) {
        Some(until) => Err(ChangeError::Locked { what: what(), until }),
        None => Ok(()),
    }
}
