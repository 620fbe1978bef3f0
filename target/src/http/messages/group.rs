//! Groups of several machines, and the points that these have in common.

use super::Branch;
use serde::{Deserialize, Serialize};

/// A group to be made.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct GroupAdd {
    /// Its name.
    pub(crate) name: String,
    /// Machines to be put into it.
    #[serde(default)]
    pub(crate) machines: Vec<String>,
    /// How its barriers are made.
    #[serde(default)]
    pub(crate) barriers: BarriersGiven,
}

/// How barriers of a group are to be made; what is not given stays as it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct BarriersGiven {
    /// How far apart; zero: none unless somebody asks.
    #[serde(default)]
    pub(crate) every_ms: Option<u64>,
    /// How long one waits for its machines.
    #[serde(default)]
    pub(crate) patience_ms: Option<u64>,
}

/// Barriers of a group that are to be made otherwise.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct GroupSet {
    /// The group.
    pub(crate) name: String,
    /// How.
    pub(crate) barriers: BarriersGiven,
}

/// A machine that is to join or to leave a group.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct GroupMember {
    /// The group.
    pub(crate) name: String,
    /// The machine.
    pub(crate) machine: String,
}

/// All groups that have a name.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Groups {
    /// By name.
    pub(crate) groups: Vec<Group>,
}

/// A group.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Group {
    /// Its name.
    pub(crate) name: String,
    /// Its machines, by name.
    pub(crate) machines: Vec<GroupMachine>,
    /// How far apart its barriers are; zero: none unless somebody asks.
    pub(crate) every_ms: u64,
    /// How long a barrier waits for its machines.
    pub(crate) patience_ms: u64,
    /// How many common points it has.
    pub(crate) points: u64,
    /// The oldest of them.
    pub(crate) oldest: Option<CommonPoint>,
    /// The newest of them.
    pub(crate) newest: Option<CommonPoint>,
    /// The newest is the state of all machines until then, as nothing was written since.
    pub(crate) holds_until: Option<String>,
    /// How old the newest moment is that all machines have in common.
    pub(crate) age_seconds: Option<u64>,
    /// Why the last barrier failed, if it did.
    pub(crate) error: Option<String>,
}

/// A machine of a group.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct GroupMachine {
    /// Its name.
    pub(crate) machine: String,
    /// Why a barrier could not be made of it now, for people.
    pub(crate) late: Option<String>,
}

/// Common points of a group.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct CommonPoints {
    /// The newest first.
    pub(crate) points: Vec<CommonPoint>,
    /// How many there are, shown or not.
    pub(crate) total: u64,
}

/// A moment that the machines of a group have in common.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct CommonPoint {
    /// Its name: `GROUP@seq:NUMBER`.
    pub(crate) name: String,
    /// Its number in the group.
    pub(crate) number: u64,
    /// When it was made.
    pub(crate) time: String,
    /// `app` or `crash`.
    pub(crate) kind: String,
    /// Its label.
    pub(crate) label: Option<String>,
    /// What it is called on each machine.
    pub(crate) moments: Vec<String>,
}

/// A common point to be made.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct GroupMark {
    /// The group.
    pub(crate) name: String,
    /// `app` or `crash`.
    pub(crate) kind: String,
    /// Its label.
    #[serde(default)]
    pub(crate) label: Option<String>,
    /// Moments of all machines, `MACHINE@WHEN`, that somebody knows to be one; without any, a barrier makes them.
    #[serde(default)]
    pub(crate) moments: Vec<String>,
}

/// A common point that was made.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct GroupMarked {
    /// It.
    pub(crate) point: CommonPoint,
    /// It was there: nothing was written since.
    pub(crate) unchanged: bool,
    /// For how long writes were held back, in microseconds.
    pub(crate) held_us: u64,
}

/// Branches of all machines of a group to be made.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct GroupBranch {
    /// Where they start, `GROUP[@WHEN]`.
    pub(crate) origin: String,
    /// What each is called.
    pub(crate) name: String,
}

/// Branches of all machines of a group.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct GroupBranched {
    /// Where they start.
    pub(crate) point: CommonPoint,
    /// The branches, by machine.
    pub(crate) branches: Vec<Branch>,
}
