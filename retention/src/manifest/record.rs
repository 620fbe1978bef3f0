//! What the manifest records: one variant per fact that cannot be derived from the journal. `format` has the bytes of
//! most of them, and the modules beside it those of their subjects.
//!
//! A kind number is never used twice; a new field means a new kind. Folding the records in order gives
//! [`super::state::ManifestState`], and the state can be written out as records again (a snapshot).

use super::compacted::CompactedEntry;
use super::groups::{Barriers, CommonPoint};
use super::history::HistoryStart;
use super::integrity::ScrubEntry;
use super::iscsi::IscsiAccess;
use super::keys::KeyRecord;
use super::lineage::Inherited;
use super::released::ReleasedLine;
use super::standby::{HeldMoment, StandbyKept};
use super::streams::StreamChange;
use crate::ids::{
    ContentId, DiskId, ExportId, Generation, GroupId, LaneId, LaneSequence, LineId, MachineId,
    SegmentId, Sequence, StreamId,
};
use crate::ingest::IngestMode;
use crate::name::Name;
use crate::policy::{ClockAlarm, Policy};
use crate::time::Timestamp;
use std::sync::Arc;

mod format;

/// One fact.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ManifestRecord {
    /// A machine is protected from now on; its group and trunk line are new with it.
    MachineAdded {
        /// Its id.
        machine: MachineId,
        /// Its name, unique among machines.
        name: Name,
        /// Free text for people.
        display_name: String,
        /// The group it is in.
        group: GroupId,
        /// The group's trunk.
        trunk: LineId,
        /// The lane the group is bound to.
        lane: LaneId,
    },
    /// A machine is no longer protected; its lines and disks go with it.
    MachineRemoved {
        /// Which.
        machine: MachineId,
    },
    /// A disk of a machine; its image holds nothing of ours yet.
    DiskAdded {
        /// Its id.
        disk: DiskId,
        /// Whose.
        machine: MachineId,
        /// Its name, unique within the machine.
        name: Name,
        /// Its size.
        size_bytes: u64,
        /// Format of its image, as in `--disk format=`.
        format: String,
        /// Where its image is.
        image: String,
    },
    /// The first copy of a disk is complete and durable in the image.
    SeedFinished {
        /// Which disk.
        disk: DiskId,
        /// Head of the trunk at that moment: versions at or below it are in the image.
        floor: Sequence,
    },
    /// The image of a disk is missing or is not ours; what lay only there is unknown.
    ImageLost {
        /// Which disk.
        disk: DiskId,
        /// How it was noticed.
        reason: String,
    },
    /// At a point, a disk holds what its source knows by an id.
    ContentNamed {
        /// Which disk.
        disk: DiskId,
        /// The point, on the trunk.
        sequence: Sequence,
        /// The source's id of the content.
        content: ContentId,
    },
    /// A branch.
    BranchAdded {
        /// The new line.
        line: LineId,
        /// Its name, unique among the branches of the machine.
        name: Name,
        /// The line it starts from.
        parent: LineId,
        /// Where on that line.
        origin: Sequence,
        /// When that was committed.
        origin_time: Timestamp,
    },
    /// A branch was discarded.
    BranchDiscarded {
        /// Which line.
        line: LineId,
    },
    /// A line's stream has a new holder or lost its position.
    GenerationRaised {
        /// Which line.
        line: LineId,
        /// From now on.
        generation: Generation,
        /// Oldest generation whose stream may come back and start over by comparing.
        oldest_welcome: Generation,
        /// Who holds it.
        stream: StreamId,
    },
    /// A segment of the journal may hold records from now on.
    SegmentBorn {
        /// Its number.
        segment: SegmentId,
        /// Its lane.
        lane: LaneId,
        /// Its salt.
        salt: u64,
        /// Lane sequence of its first record.
        first: LaneSequence,
        /// Length of its file.
        size_bytes: u64,
    },
    /// Bytes of a segment at or beyond `end` are never parsed again.
    SegmentEnded {
        /// Which.
        segment: SegmentId,
        /// Its valid bytes.
        end: u64,
        /// Lane sequence that follows its last record.
        next: LaneSequence,
    },
    /// An export set up by hand.
    ExportAdded {
        /// Its id.
        export: ExportId,
        /// Name under which it is served, without the disk.
        name: String,
        /// The line it serves.
        line: LineId,
        /// A moment of it, or its head when writable.
        sequence: Option<Sequence>,
        /// Whether writes are allowed.
        writable: bool,
    },
    /// An export was removed.
    ExportRemoved {
        /// Which.
        export: ExportId,
    },
    /// Somebody wants a point kept.
    PointPinned {
        /// On which line.
        line: LineId,
        /// Which sequence.
        sequence: Sequence,
    },
    /// Nobody wants it kept any more.
    PointUnpinned {
        /// On which line.
        line: LineId,
        /// Which sequence.
        sequence: Sequence,
    },
    /// A fold begins: from here on nothing of a trunk below its start can be opened.
    FoldStarted {
        /// Which trunk.
        line: LineId,
        /// The oldest moment that stays.
        start: HistoryStart,
    },
    /// The image of a disk durably holds everything up to a new floor.
    FoldDone {
        /// Which disk.
        disk: DiskId,
        /// Versions at or below it are in the image.
        floor: Sequence,
    },
    /// How long and how densely the points of a group are kept.
    PolicySet {
        /// Which group.
        group: GroupId,
        /// Its policy from now on.
        policy: Policy,
    },
    /// A point cannot be dropped by anybody before a date.
    PointLocked {
        /// On which line.
        line: LineId,
        /// Which sequence.
        sequence: Sequence,
        /// Until when, by trusted time; later than a date that was set before.
        until: Timestamp,
    },
    /// Moments of a line cannot be chosen any more.
    PointsDropped {
        /// Of which line.
        line: LineId,
        /// The first that may be dropped.
        first: Sequence,
        /// The last that may be dropped.
        last: Sequence,
        /// Those in between that stay as they are, in order; at most [`super::dropped::MAX_KEPT`].
        kept: Vec<Sequence>,
    },
    /// A time that could be trusted.
    ClockSeen {
        /// The time.
        time: Timestamp,
    },
    /// The clock was moved: nothing is dropped and no lock ends until somebody acknowledges it.
    ClockAlarmRaised(ClockAlarm),
    /// Somebody says that the clock is right.
    ClockAlarmAcknowledged {
        /// What it shows.
        time: Timestamp,
    },
    /// A disk is larger from here on.
    DiskGrown {
        /// Which.
        disk: DiskId,
        /// The last moment of the trunk with the size it had.
        above: Sequence,
        /// Its size at every later one.
        size_bytes: u64,
    },
    /// A disk was added to a machine that had points.
    DiskJoined {
        /// Which.
        disk: DiskId,
        /// The last moment of the trunk that does not have it.
        since: Sequence,
    },
    /// A disk is no longer protected; earlier moments keep it.
    DiskRemoved {
        /// Which.
        disk: DiskId,
        /// The last moment of the trunk that has it.
        until: Sequence,
    },
    /// No moment is left that has a removed disk.
    DiskForgotten {
        /// Which.
        disk: DiskId,
    },
    /// The stream of a trunk is at something else from here on.
    StreamChanged {
        /// Which trunk.
        line: LineId,
        /// What it became.
        change: StreamChange,
    },
    /// A stretch of a trunk that came in order, and has ended: of a snapshot.
    StretchOrdered {
        /// Which trunk.
        line: LineId,
        /// The point that order began with.
        first: Sequence,
        /// The last instant.
        last: Sequence,
    },
    /// A branch; its first record follows its origin.
    BranchStarted {
        /// The new line.
        line: LineId,
        /// Its name, unique among the branches of the machine.
        name: Name,
        /// The line it starts from.
        parent: LineId,
        /// Where on that line.
        origin: Sequence,
        /// When that was committed.
        origin_time: Timestamp,
    },
    /// A branch is the trunk of its machine from now on; what was the trunk is sealed.
    BranchPromoted {
        /// Which branch.
        line: LineId,
        /// What the old trunk is called, as the branch that it becomes.
        old: Name,
        /// Its last sequence: all it wrote up to there stays moments.
        instants: Sequence,
        /// Generation of the new trunk's stream: sources of an earlier one may not go on.
        generation: Generation,
    },
    /// The next stretch of a line's history was written as another line.
    LineInherits {
        /// Whose history.
        line: LineId,
        /// The stretch.
        stretch: Inherited,
    },
    /// What promotions made of a line, in a snapshot.
    LineSettled {
        /// Which.
        line: LineId,
        /// Whether it takes no more records.
        sealed: bool,
        /// When what its own records follow was committed.
        born: Timestamp,
    },
    /// A disk is larger on a branch from here on.
    BranchDiskGrown {
        /// The branch.
        line: LineId,
        /// Which disk.
        disk: DiskId,
        /// The last moment of the branch with the size it had.
        above: Sequence,
        /// Its size at every later one.
        size_bytes: u64,
    },
    /// Which moments of a branch have a disk, where that is not as on the line it starts from.
    BranchDiskEnds {
        /// The branch.
        line: LineId,
        /// Which disk.
        disk: DiskId,
        /// The last moment that does not have it yet, if what the branch starts from has not.
        since: Option<Sequence>,
        /// The last moment that has it, if later ones have not.
        until: Option<Sequence>,
    },
    /// A segment is gone: nobody needs a record of it.
    SegmentReleased {
        /// Which.
        segment: SegmentId,
    },
    /// What is kept of segments was written anew.
    SegmentCompacted(CompactedEntry),
    /// Records of a lane that are gone.
    RecordsReleased {
        /// The lane.
        lane: LaneId,
        /// Lane sequence of the first.
        first: LaneSequence,
        /// Lane sequence that follows the last.
        next: LaneSequence,
    },
    /// What is kept of the records of one line that are gone.
    LineReleased {
        /// The lane.
        lane: LaneId,
        /// Lane sequence of one of the records that are gone.
        at: LaneSequence,
        /// The line.
        line: LineId,
        /// What is kept.
        released: ReleasedLine,
    },
    /// Of data keys.
    Key(KeyRecord),
    /// Standby files of a machine are kept from here on.
    StandbyAdded {
        /// Of which.
        machine: MachineId,
        /// How.
        kept: StandbyKept,
    },
    /// Standby files of a machine are kept no longer.
    StandbyRemoved {
        /// Of which.
        machine: MachineId,
    },
    /// The standby files of a machine stay as they are, or do no longer.
    StandbyPaused {
        /// Of which.
        machine: MachineId,
        /// Whether they do.
        paused: bool,
    },
    /// Each standby file of a machine holds one of these from here on, or is on its way from one to another.
    StandbyMoves {
        /// Of which.
        machine: MachineId,
        /// The moments, in order; at most [`super::standby::MAX_HELD`].
        may_hold: Vec<HeldMoment>,
    },
    /// A group that machines may join.
    GroupAdded {
        /// Its id.
        group: GroupId,
        /// Its name, unique among groups.
        name: Name,
        /// How barriers are made for it.
        barriers: Barriers,
        /// The highest number that a common point of it ever had.
        last: u64,
    },
    /// A group without machines is gone, with its policy and its common points.
    GroupRemoved {
        /// Which.
        group: GroupId,
    },
    /// Barriers of a group are made like this from here on.
    GroupSet {
        /// Which.
        group: GroupId,
        /// How.
        barriers: Barriers,
    },
    /// A machine is in this group from here on: one that has a name, or one of its own.
    MachineGrouped {
        /// Which machine.
        machine: MachineId,
        /// Which group.
        group: GroupId,
    },
    /// The members of a group have a moment in common.
    CommonPointMade {
        /// Which group.
        group: GroupId,
        /// The point.
        point: Arc<CommonPoint>,
    },
    /// A machine is fed through writable disks from here on, or no longer.
    IngestSet {
        /// Which machine.
        machine: MachineId,
        /// How, if it is.
        mode: Option<IngestMode>,
    },
    /// An export is a target of iSCSI from here on.
    IscsiSet {
        /// Which export.
        export: ExportId,
        /// What it is, and to whom.
        access: Arc<IscsiAccess>,
    },
    /// The journal has records that abort something, or is about to have the first.
    AbortsBegun,
    /// What is remembered of scrubbing from here on.
    Scrubbed(Arc<ScrubEntry>),
    /// Everything of a machine was looked at.
    MachineScrubbed {
        /// Which.
        machine: MachineId,
        /// When that came to its end.
        ended: Timestamp,
    },
    /// The highest ids given out when a snapshot was written, so that none is used twice.
    IdsGiven(GivenIds),
}

/// The highest id given out, per kind.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct GivenIds {
    /// Machines.
    pub machine: MachineId,
    /// Groups.
    pub group: GroupId,
    /// Disks.
    pub disk: DiskId,
    /// Lines.
    pub line: LineId,
    /// Segments.
    pub segment: SegmentId,
    /// Exports.
    pub export: ExportId,
}

#[cfg(test)]
mod tests;
