//! Policies, and what they would keep.

use serde::{Deserialize, Serialize};

/// How long and how densely points of a machine are kept.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Policy {
    /// The machine.
    pub(crate) machine: String,
    /// The policy, in its one form.
    pub(crate) policy: String,
    /// Whether it was set for this machine; otherwise it is the default.
    pub(crate) own: bool,
    /// The group that the machine is in: the policy is that of all its machines.
    pub(crate) group: Option<GroupConcerned>,
    /// How old the newest point may be.
    pub(crate) rpo_seconds: u64,
    /// How old the newest app point may be.
    pub(crate) app_every_seconds: u64,
}

/// A group of several machines, and who is in it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct GroupConcerned {
    /// Its name.
    pub(crate) name: String,
    /// Its machines.
    pub(crate) machines: Vec<String>,
}

/// A policy to be set.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PolicySet {
    /// The machine.
    pub(crate) name: String,
    /// The policy.
    pub(crate) policy: String,
}

/// A policy that was set, and what went by it at once.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Thinned {
    /// The policy.
    pub(crate) policy: Policy,
    /// Points of the machine that went, those of its branches among them.
    pub(crate) dropped: u64,
    /// Whether nothing may go because of the clock.
    pub(crate) suspended: bool,
}

/// A policy to be tried; without one, the one that the machine has.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PolicyAsked {
    /// The machine.
    pub(crate) name: String,
    /// The policy.
    pub(crate) policy: Option<String>,
}

/// What a policy would keep of the points on record.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Simulation {
    /// The machine.
    pub(crate) machine: String,
    /// The policy.
    pub(crate) policy: String,
    /// Points on record.
    pub(crate) recorded: Kept,
    /// Those that would stay.
    pub(crate) kept: Kept,
    /// What keeps them; a point may have several reasons.
    pub(crate) by: Vec<KeptBy>,
    /// How many would go.
    pub(crate) dropped: u64,
    /// What that would take.
    pub(crate) space: SimulationSpace,
    /// How far back the policy reaches; nothing if for ever.
    pub(crate) reach_seconds: Option<u64>,
    /// Its quota.
    pub(crate) quota_bytes: Option<u64>,
}

/// Some points.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Kept {
    /// How many.
    pub(crate) points: u64,
    /// When the oldest of them was committed.
    pub(crate) oldest: Option<String>,
}

/// What a part of a policy keeps.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct KeptBy {
    /// The part as text; `held` for what somebody holds whatever the policy says.
    pub(crate) rule: String,
    /// What it keeps.
    #[serde(flatten)]
    pub(crate) kept: Kept,
}

/// Bytes of data in the journal, counted from the index.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct SimulationSpace {
    /// Bytes that kept points and the head would need from it.
    pub(crate) needed_bytes: u64,
    /// Bytes of all versions that were looked at.
    pub(crate) recorded_bytes: u64,
    /// Entries that were looked at.
    pub(crate) entries: u64,
    /// Whether those were all.
    pub(crate) complete: bool,
}
