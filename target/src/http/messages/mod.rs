//! What the control API and `--json` say, version 1. Fields are only ever added.
//!
//! ```text
//!   GET    /v1/status                               Status
//!   GET    /v1/machines        POST MachineAdd      Machines, Machine
//!   GET    /v1/machines/NAME   DELETE               Machine, Nothing
//!   POST   /v1/disks           DELETE ?name=        Machine, DiskLeft        (body: DiskJoin)
//!   POST   /v1/disks/grow                           DiskGrown                (body: DiskGrow)
//!   GET    /v1/changes?disk=…                       Changes                  (query: ChangesAsked)
//!   GET    /v1/moment?name=                         Moment
//!   GET    /v1/points?name=…   POST PointMark       Points, Point            (query: PointsAsked)
//!   POST   /v1/points/pin      /v1/points/unpin     Moment                   (body: Named)
//!   POST   /v1/points/lock     /v1/points/unlock    Moment                   (body: PointLock, Named)
//!   GET    /v1/streams                              Streams
//!   GET    /v1/groups          POST GroupAdd        Groups, Group
//!   GET    /v1/groups/NAME     DELETE ?name=        Group, Nothing
//!   GET    /v1/groups/NAME/points?limit=            CommonPoints
//!   POST   /v1/groups/set      /v1/groups/join /leave  Group                 (body: GroupSet, GroupMember)
//!   POST   /v1/groups/mark                          GroupMarked              (body: GroupMark)
//!   POST   /v1/groups/branch                        GroupBranched            (body: GroupBranch)
//!   GET    /v1/policy?name=    POST PolicySet       Policy, Thinned
//!   GET    /v1/policy/simulate?name=&policy=        Simulation
//!   GET    /v1/keys            DELETE ?name=        DataKeys, DataKeys
//!   POST   /v1/keys/rotate                          DataKey                  (body: Named)
//!   POST   /v1/clock/acknowledge                    Nothing                  (body: Nothing)
//!   GET    /v1/branches        POST BranchAdd       Branches, Branch
//!   DELETE /v1/branches?name=                       Nothing
//!   POST   /v1/branches/promote                     BranchPromoted           (body: BranchPromote)
//!   GET    /v1/exports         POST ExportAdd       Exports, Export
//!   DELETE /v1/exports/ID                           Nothing
//!   GET    /v1/standbys        POST StandbyAdd      StandbyList, Standby
//!   GET    /v1/standbys/NAME                        Standby
//!   DELETE /v1/standbys?machine=&delete_files=      StandbyRemoved
//!   POST   /v1/standbys/sync                        StandbyBegun             (body: StandbySync)
//!   POST   /v1/ingest                     Machine                            (body: IngestSet)
//!   POST   /v1/standbys/pause  /v1/standbys/resume  Standby                  (body: Named)
//! ```
//!
//! An answer other than 2xx carries a [`Problem`]. Times are RFC 3339 in UTC, to the nanosecond; sizes are bytes.

mod branch;
mod changes;
mod disk;
mod export;
mod group;
mod history;
mod ingest;
mod key;
mod machine;
mod point;
mod policy;
mod standby;
mod status;
mod stream;

pub(crate) use branch::{Branch, BranchAdd, BranchPromote, BranchPromoted, Branches};
pub(crate) use changes::{ChangedRange, Changes, ChangesAsked};
pub(crate) use disk::{Disk, DiskGrow, DiskGrown, DiskJoin, DiskLeft};
pub(crate) use export::{Account, Export, ExportAdd, Exports, IscsiAdd, IscsiTarget};
pub(crate) use group::{
    BarriersGiven, CommonPoint, CommonPoints, Group, GroupAdd, GroupBranch, GroupBranched,
    GroupMachine, GroupMark, GroupMarked, GroupMember, GroupSet, Groups,
};
pub(crate) use history::{FoldUnderWay, History, HistoryMoment, HistorySpace};
pub(crate) use ingest::{Ingest, IngestDisk, IngestSet};
pub(crate) use key::{DataKey, DataKeys};
pub(crate) use machine::{DiskAdd, Machine, MachineAdd, Machines, Stream};
pub(crate) use point::{Moment, MomentDisk, Point, PointLock, PointMark, Points, PointsAsked};
pub(crate) use policy::{
    GroupConcerned, Kept, KeptBy, Policy, PolicyAsked, PolicySet, Simulation, SimulationSpace,
    Thinned,
};
use serde::{Deserialize, Serialize};
pub(crate) use standby::{
    Standby, StandbyAdd, StandbyBegun, StandbyFile, StandbyLast, StandbyList, StandbyRemoved,
    StandbySync, StandbyWriting,
};
pub(crate) use status::{Folding, IndexBuild, Journal, Listening, Status};
pub(crate) use stream::{Instants, StreamAt, Streams};

/// Why a request was refused.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Problem {
    /// For people: what was wrong, where, and what exists.
    pub(crate) error: String,
}

/// Done, nothing to say.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Nothing {}

/// The name of a moment, `MACHINE[~BRANCH][/DISK]@WHEN`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Named {
    /// The name.
    pub(crate) name: String,
}
