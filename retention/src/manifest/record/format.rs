//! Bytes of records: a kind, then its fields (docs/formats/manifest.md).

use super::super::compacted::{CompactedEntry, SEGMENT_COMPACTED};
use super::super::format::{FrameError, Reader, Writer};
use super::super::history::HistoryStart;
use super::super::integrity::ScrubEntry;
use super::super::released::ReleasedLine;
use super::{GivenIds, ManifestRecord};
use crate::ids::{
    ContentId, DiskId, ExportId, Generation, GroupId, LaneId, LaneSequence, LineId, MachineId,
    SegmentId, Sequence, StreamId,
};
use crate::name::Name;
use crate::time::Timestamp;
use landfall_disks::MAX_DISK_SIZE;
use std::sync::Arc;

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
    pub(in crate::manifest) fn encode(&self, to: &mut Writer<'_>) {
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
                    || other.encode_standby(to)
                    || other.encode_groups(to)
                    || other.encode_ingest(to)
                    || other.encode_iscsi(to)
                    || other.encode_aborts(to);
                assert!(encoded, "{other:?} is encoded nowhere");
            }
        }
    }

    pub(in crate::manifest) fn decode(from: &mut Reader<'_>) -> Result<Self, FrameError> {
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
