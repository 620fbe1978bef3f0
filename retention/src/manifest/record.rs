//! What the manifest records: one variant per fact that cannot be derived from the journal.
//!
//! A kind number is never used twice; a new field means a new kind. Folding the records in order gives
//! [`super::state::ManifestState`], and the state can be written out as records again (a snapshot).

use super::compacted::{CompactedEntry, SEGMENT_COMPACTED};
use super::format::{FrameError, Reader, Writer};
use super::history::HistoryStart;
use super::integrity::ScrubEntry;
use super::keys::KeyRecord;
use super::lineage::Inherited;
use super::released::ReleasedLine;
use super::standby::{HeldMoment, StandbyKept};
use super::streams::StreamChange;
use crate::ids::{
    ContentId, DiskId, ExportId, Generation, GroupId, LaneId, LaneSequence, LineId, MachineId,
    SegmentId, Sequence, StreamId,
};
use crate::name::Name;
use crate::policy::{ClockAlarm, Policy};
use crate::time::Timestamp;
use landfall_disks::MAX_DISK_SIZE;
use std::sync::Arc;

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

mod kind {
    pub(super) const MACHINE_ADDED: u16 = 1;
    pub(super) const MACHINE_REMOVED: u16 = 2;
    pub(super) const DISK_ADDED: u16 = 3;
    pub(super) const SEED_FINISHED: u16 = 4;
    pub(super) const IMAGE_LOST: u16 = 5;
    pub(super) const BRANCH_ADDED: u16 = 6;
    pub(super) const BRANCH_DISCARDED: u16 = 7;
    pub(super) const GENERATION_RAISED: u16 = 8;
    pub(super) const SEGMENT_BORN: u16 = 9;
    pub(super) const SEGMENT_ENDED: u16 = 10;
    pub(super) const EXPORT_ADDED: u16 = 11;
    pub(super) const EXPORT_REMOVED: u16 = 12;
    pub(super) const POINT_PINNED: u16 = 13;
    pub(super) const POINT_UNPINNED: u16 = 14;
    pub(super) const IDS_GIVEN: u16 = 15;
    pub(super) const CONTENT_NAMED: u16 = 16;
    pub(super) const FOLD_STARTED: u16 = 32;
    pub(super) const FOLD_DONE: u16 = 33;
    pub(super) const SEGMENT_RELEASED: u16 = 34;
    pub(super) const RECORDS_RELEASED: u16 = 35;
    pub(super) const LINE_RELEASED: u16 = 36;
    pub(super) const SCRUBBED: u16 = 56;
    pub(super) const MACHINE_SCRUBBED: u16 = 57;
}

/// What an export without a fixed moment stores in its sequence field.
const NO_SEQUENCE: u64 = u64::MAX;

impl ManifestRecord {
    pub(super) fn encode(&self, to: &mut Writer<'_>) {
        match self {
            Self::MachineAdded { machine, name, display_name, group, trunk, lane } => {
                to.u16(kind::MACHINE_ADDED);
                to.u32(machine.number());
                to.text(name.as_str());
                to.text(display_name);
                to.u32(group.number());
                to.u32(trunk.number());
                to.u16(lane.number());
            }
            Self::MachineRemoved { machine } => {
                to.u16(kind::MACHINE_REMOVED);
                to.u32(machine.number());
            }
            Self::DiskAdded { disk, machine, name, size_bytes, format, image } => {
                to.u16(kind::DISK_ADDED);
                to.u32(disk.number());
                to.u32(machine.number());
                to.text(name.as_str());
                to.u64(*size_bytes);
                to.text(format);
                to.text(image);
            }
            Self::SeedFinished { disk, floor } => {
                to.u16(kind::SEED_FINISHED);
                to.u32(disk.number());
                to.u64(floor.number());
            }
            Self::ImageLost { disk, reason } => {
                to.u16(kind::IMAGE_LOST);
                to.u32(disk.number());
                to.text(reason);
            }
            Self::ContentNamed { disk, sequence, content } => {
                to.u16(kind::CONTENT_NAMED);
                to.u32(disk.number());
                to.u64(sequence.number());
                to.array(content.bytes());
            }
            other => other.encode_lines(to),
        }
    }

    fn encode_lines(&self, to: &mut Writer<'_>) {
        match self {
            Self::BranchAdded { line, name, parent, origin, origin_time } => {
                to.u16(kind::BRANCH_ADDED);
                to.u32(line.number());
                to.text(name.as_str());
                to.u32(parent.number());
                to.u64(origin.number());
                to.u64(origin_time.nanoseconds());
            }
            Self::BranchDiscarded { line } => {
                to.u16(kind::BRANCH_DISCARDED);
                to.u32(line.number());
            }
            Self::GenerationRaised { line, generation, oldest_welcome, stream } => {
                to.u16(kind::GENERATION_RAISED);
                to.u32(line.number());
                to.u64(generation.number());
                to.u64(oldest_welcome.number());
                to.array(stream.bytes());
            }
            Self::PointPinned { line, sequence } => {
                to.u16(kind::POINT_PINNED);
                to.u32(line.number());
                to.u64(sequence.number());
            }
            Self::PointUnpinned { line, sequence } => {
                to.u16(kind::POINT_UNPINNED);
                to.u32(line.number());
                to.u64(sequence.number());
            }
            Self::FoldStarted { line, start } => {
                to.u16(kind::FOLD_STARTED);
                to.u32(line.number());
                start.encode(to);
            }
            Self::FoldDone { disk, floor } => {
                to.u16(kind::FOLD_DONE);
                to.u32(disk.number());
                to.u64(floor.number());
            }
            other => other.encode_storage(to),
        }
    }

    fn encode_storage(&self, to: &mut Writer<'_>) {
        match self {
            Self::SegmentBorn { segment, lane, salt, first, size_bytes } => {
                to.u16(kind::SEGMENT_BORN);
                to.u32(segment.number());
                to.u16(lane.number());
                to.u64(*salt);
                to.u64(first.number());
                to.u64(*size_bytes);
            }
            Self::SegmentEnded { segment, end, next } => {
                to.u16(kind::SEGMENT_ENDED);
                to.u32(segment.number());
                to.u64(*end);
                to.u64(next.number());
            }
            Self::SegmentReleased { segment } => {
                to.u16(kind::SEGMENT_RELEASED);
                to.u32(segment.number());
            }
            Self::SegmentCompacted(entry) => entry.encode(to),
            Self::RecordsReleased { lane, first, next } => {
                to.u16(kind::RECORDS_RELEASED);
                to.u16(lane.number());
                to.u64(first.number());
                to.u64(next.number());
            }
            Self::LineReleased { lane, at, line, released } => {
                to.u16(kind::LINE_RELEASED);
                to.u16(lane.number());
                to.u64(at.number());
                to.u32(line.number());
                released.encode(to);
            }
            Self::ExportAdded { export, name, line, sequence, writable } => {
                to.u16(kind::EXPORT_ADDED);
                to.u32(export.number());
                to.text(name);
                to.u32(line.number());
                to.u64(sequence.map_or(NO_SEQUENCE, Sequence::number));
                to.u8(u8::from(*writable));
            }
            Self::ExportRemoved { export } => {
                to.u16(kind::EXPORT_REMOVED);
                to.u32(export.number());
            }
            Self::IdsGiven(given) => {
                to.u16(kind::IDS_GIVEN);
                to.u32(given.machine.number());
                to.u32(given.group.number());
                to.u32(given.disk.number());
                to.u32(given.line.number());
                to.u32(given.segment.number());
                to.u32(given.export.number());
            }
            Self::Scrubbed(entry) => {
                to.u16(kind::SCRUBBED);
                entry.encode(to);
            }
            Self::MachineScrubbed { machine, ended } => {
                to.u16(kind::MACHINE_SCRUBBED);
                to.u32(machine.number());
                to.u64(ended.nanoseconds());
            }
            other => {
                let encoded = other.encode_keeping(to)
                    || other.encode_disks(to)
                    || other.encode_streams(to)
                    || other.encode_lineage(to)
                    || other.encode_keys(to)
                    || other.encode_standby(to);
                assert!(encoded, "{other:?} is encoded nowhere");
            }
        }
    }

    pub(super) fn decode(from: &mut Reader<'_>) -> Result<Self, FrameError> {
        let kind = from.u16()?;
        match kind {
            kind::MACHINE_ADDED => Ok(Self::MachineAdded {
                machine: MachineId::new(from.u32()?),
                name: name(from)?,
                display_name: from.text()?.to_owned(),
                group: GroupId::new(from.u32()?),
                trunk: LineId::new(from.u32()?),
                lane: LaneId::new(from.u16()?),
            }),
            kind::MACHINE_REMOVED => {
                Ok(Self::MachineRemoved { machine: MachineId::new(from.u32()?) })
            }
            kind::DISK_ADDED => Ok(Self::DiskAdded {
                disk: DiskId::new(from.u32()?),
                machine: MachineId::new(from.u32()?),
                name: name(from)?,
                size_bytes: size(from)?,
                format: from.text()?.to_owned(),
                image: from.text()?.to_owned(),
            }),
            kind::SEED_FINISHED => Ok(Self::SeedFinished {
                disk: DiskId::new(from.u32()?),
                floor: Sequence::new(from.u64()?),
            }),
            kind::IMAGE_LOST => Ok(Self::ImageLost {
                disk: DiskId::new(from.u32()?),
                reason: from.text()?.to_owned(),
            }),
            kind::CONTENT_NAMED => Ok(Self::ContentNamed {
                disk: DiskId::new(from.u32()?),
                sequence: Sequence::new(from.u64()?),
                content: ContentId::new(from.array()?),
            }),
            _ => Self::decode_lines(kind, from),
        }
    }

    fn decode_lines(kind: u16, from: &mut Reader<'_>) -> Result<Self, FrameError> {
        match kind {
            kind::BRANCH_ADDED => Ok(Self::BranchAdded {
                line: LineId::new(from.u32()?),
                name: name(from)?,
                parent: LineId::new(from.u32()?),
                origin: Sequence::new(from.u64()?),
                origin_time: Timestamp::from_nanoseconds(from.u64()?),
            }),
            kind::BRANCH_DISCARDED => Ok(Self::BranchDiscarded { line: LineId::new(from.u32()?) }),
            kind::GENERATION_RAISED => Ok(Self::GenerationRaised {
                line: LineId::new(from.u32()?),
                generation: Generation::new(from.u64()?),
                oldest_welcome: Generation::new(from.u64()?),
                stream: StreamId::new(from.array()?),
            }),
            kind::POINT_PINNED => Ok(Self::PointPinned {
                line: LineId::new(from.u32()?),
                sequence: Sequence::new(from.u64()?),
            }),
            kind::POINT_UNPINNED => Ok(Self::PointUnpinned {
                line: LineId::new(from.u32()?),
                sequence: Sequence::new(from.u64()?),
            }),
            kind::FOLD_STARTED => Ok(Self::FoldStarted {
                line: LineId::new(from.u32()?),
                start: HistoryStart::decode(from)?,
            }),
            kind::FOLD_DONE => Ok(Self::FoldDone {
                disk: DiskId::new(from.u32()?),
                floor: Sequence::new(from.u64()?),
            }),
            _ => Self::decode_storage(kind, from),
        }
    }

    fn decode_storage(kind: u16, from: &mut Reader<'_>) -> Result<Self, FrameError> {
        match kind {
            kind::SEGMENT_BORN => Ok(Self::SegmentBorn {
                segment: SegmentId::new(from.u32()?),
                lane: LaneId::new(from.u16()?),
                salt: from.u64()?,
                first: LaneSequence::new(from.u64()?),
                size_bytes: from.u64()?,
            }),
            kind::SEGMENT_ENDED => Ok(Self::SegmentEnded {
                segment: SegmentId::new(from.u32()?),
                end: from.u64()?,
                next: LaneSequence::new(from.u64()?),
            }),
            kind::SEGMENT_RELEASED => {
                Ok(Self::SegmentReleased { segment: SegmentId::new(from.u32()?) })
            }
            SEGMENT_COMPACTED => Ok(Self::SegmentCompacted(CompactedEntry::decode(from)?)),
            kind::RECORDS_RELEASED => Ok(Self::RecordsReleased {
                lane: LaneId::new(from.u16()?),
                first: LaneSequence::new(from.u64()?),
                next: LaneSequence::new(from.u64()?),
            }),
            kind::LINE_RELEASED => Ok(Self::LineReleased {
                lane: LaneId::new(from.u16()?),
                at: LaneSequence::new(from.u64()?),
                line: LineId::new(from.u32()?),
                released: ReleasedLine::decode(from)?,
            }),
            kind::EXPORT_ADDED => Ok(Self::ExportAdded {
                export: ExportId::new(from.u32()?),
                name: from.text()?.to_owned(),
                line: LineId::new(from.u32()?),
                sequence: match from.u64()? {
                    NO_SEQUENCE => None,
                    number => Some(Sequence::new(number)),
                },
                writable: match from.u8()? {
                    0 => false,
                    1 => true,
                    _ => return Err(FrameError::Field("writable")),
                },
            }),
            kind::EXPORT_REMOVED => Ok(Self::ExportRemoved { export: ExportId::new(from.u32()?) }),
            kind::SCRUBBED => Ok(Self::Scrubbed(Arc::new(ScrubEntry::decode(from)?))),
            kind::MACHINE_SCRUBBED => Ok(Self::MachineScrubbed {
                machine: MachineId::new(from.u32()?),
                ended: Timestamp::from_nanoseconds(from.u64()?),
            }),
            kind::IDS_GIVEN => Ok(Self::IdsGiven(GivenIds {
                machine: MachineId::new(from.u32()?),
                group: GroupId::new(from.u32()?),
                disk: DiskId::new(from.u32()?),
                line: LineId::new(from.u32()?),
                segment: SegmentId::new(from.u32()?),
                export: ExportId::new(from.u32()?),
            })),
            _ => Self::decode_keeping(kind, from),
        }
    }
}

fn name(from: &mut Reader<'_>) -> Result<Name, FrameError> {
    Name::parse(from.text()?).map_err(|_| FrameError::Field("name"))
}

fn size(from: &mut Reader<'_>) -> Result<u64, FrameError> {
    let size = from.u64()?;
    if size > MAX_DISK_SIZE { Err(FrameError::Field("size_bytes")) } else { Ok(size) }
}

#[cfg(test)]
mod tests;
