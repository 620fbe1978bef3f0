//! What the manifest's records add up to. Pure: records in, state out, and back to records for a snapshot.

use super::compacted::CompactedEntry;
use super::dropped::Dropped;
use super::groups::GroupEntry;
use super::history::HistoryStart;
use super::integrity::ScrubEntry;
use super::iscsi::IscsiAccess;
use super::keeping::ClockEntry;
use super::keys::Keys;
use super::lineage::Inherited;
use super::record::{GivenIds, ManifestRecord};
use super::released::Released;
use super::standby::StandbyEntry;
use super::streams::StreamEntry;
use crate::ids::{
    ContentId, DiskId, ExportId, Generation, GroupId, LaneId, LaneSequence, LineId, MachineId,
    SegmentId, Sequence, StreamId,
};
use crate::ingest::IngestMode;
use crate::name::Name;
use crate::policy::Policy;
use crate::replica::span::DiskSpan;
use crate::time::Timestamp;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

/// A protected machine.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Machine {
    /// Its id.
    pub id: MachineId,
    /// Its name.
    pub name: Name,
    /// Free text for people.
    pub display_name: String,
    /// Its group.
    pub group: GroupId,
    /// The trunk of the group.
    pub trunk: LineId,
    /// Its disks, in the order they were added.
    pub disks: Vec<DiskId>,
}

/// A disk of a machine.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DiskEntry {
    /// Its id.
    pub id: DiskId,
    /// Whose it is.
    pub machine: MachineId,
    /// Its name.
    pub name: Name,
    /// Where along the trunk it is there, and its size there.
    pub span: DiskSpan,
    /// Format of its image.
    pub format: String,
    /// Where its image is.
    pub image: String,
    /// Versions at or below it are in the image; `None` until the first copy is complete.
    pub floor: Option<Sequence>,
    /// Why the image is lost, if it is.
    pub lost: Option<String>,
    /// What the source called the content at a point of the trunk: the last it named.
    pub content: Option<(Sequence, ContentId)>,
}

/// A line.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LineEntry {
    /// Its id.
    pub id: LineId,
    /// The machine it belongs to.
    pub machine: MachineId,
    /// Its group.
    pub group: GroupId,
    /// The lane it is written through.
    pub lane: LaneId,
    /// Name of the branch; `None` for the trunk.
    pub branch: Option<Name>,
    /// Where it starts; `None` for the trunk.
    pub origin: Option<(LineId, Sequence)>,
    /// Where its history begins: at its origin, and at zero for a trunk. Branches that were made before branches were
    /// numbered on from their origins begin at zero, too.
    pub base: Sequence,
    /// What it took over of other lines, the oldest first.
    pub inherited: Vec<Inherited>,
    /// It was a trunk until a branch was promoted, and takes no more records.
    pub sealed: bool,
    /// When what its own records follow was committed; zero for a trunk that never was a branch.
    pub born: Timestamp,
    /// Generation of its stream.
    pub generation: Generation,
    /// Oldest generation whose stream may start over.
    pub oldest_welcome: Generation,
    /// Who holds its stream.
    pub stream: StreamId,
    /// Pinned points.
    pub pins: BTreeSet<Sequence>,
    /// Where its history begins, once something of it was folded; only trunks are.
    pub start: Option<HistoryStart>,
    /// Locked points, and until when; some of the dates may be past.
    pub locks: BTreeMap<Sequence, Timestamp>,
    /// Moments that were dropped. Shared, so that a change elsewhere does not copy it.
    pub dropped: Arc<Dropped>,
    /// Its stream; that of a branch says nothing.
    pub stream_entry: StreamEntry,
}

/// A segment of the journal.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SegmentEntry {
    /// Its number.
    pub id: SegmentId,
    /// Its lane.
    pub lane: LaneId,
    /// Its salt.
    pub salt: u64,
    /// Lane sequence of its first record.
    pub first: LaneSequence,
    /// Length of its file.
    pub size_bytes: u64,
    /// Valid bytes and the lane sequence that follows, once logged.
    pub ended: Option<(u64, LaneSequence)>,
}

/// An export set up by hand.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ExportEntry {
    /// Its id.
    pub id: ExportId,
    /// Name it is served under, without the disk.
    pub name: String,
    /// The line.
    pub line: LineId,
    /// A fixed moment, or the head.
    pub sequence: Option<Sequence>,
    /// Whether writes are allowed.
    pub writable: bool,
    /// What it is over iSCSI, if it is.
    pub iscsi: Option<Arc<IscsiAccess>>,
}

/// The sum of all records.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ManifestState {
    /// Machines by id.
    pub machines: BTreeMap<MachineId, Machine>,
    /// Disks by id.
    pub disks: BTreeMap<DiskId, DiskEntry>,
    /// Lines by id, trunks and branches.
    pub lines: BTreeMap<LineId, LineEntry>,
    /// Segments by number, oldest first.
    pub segments: BTreeMap<SegmentId, SegmentEntry>,
    /// Compacted segments by number.
    pub compacted: BTreeMap<SegmentId, CompactedEntry>,
    /// What is kept of records that are gone.
    pub released: Released,
    /// Data keys.
    pub keys: Keys,
    /// Exports by id.
    pub exports: BTreeMap<ExportId, ExportEntry>,
    /// Groups that have a name; any other is of one machine.
    pub groups: BTreeMap<GroupId, GroupEntry>,
    /// Policies of groups that were given one.
    pub policies: BTreeMap<GroupId, Policy>,
    /// The clock.
    pub clock: ClockEntry,
    /// Standby files of machines that have some.
    pub standbys: BTreeMap<MachineId, StandbyEntry>,
    /// Machines that are fed through writable disks, and how.
    pub ingests: BTreeMap<MachineId, IngestMode>,
    /// Whether the journal may have records that abort something.
    pub has_aborts: bool,
    /// What is remembered of scrubbing.
    pub scrubbed: Arc<ScrubEntry>,
    /// When everything of a machine was last looked at, of those where it ever was.
    pub machines_scrubbed: BTreeMap<MachineId, Timestamp>,
    /// Ids given out so far: none is used twice, not even after a removal.
    pub given: GivenIds,
}

/// A record that does not fit what went before.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("record {record}: {what}")]
pub struct Misfit {
    /// Which record.
    pub record: &'static str,
    /// What does not fit.
    pub what: String,
}

impl Misfit {
    pub(super) fn missing(record: &'static str, id: impl fmt::Debug) -> Self {
        Self { record, what: format!("{id:?} does not exist") }
    }

    /// That `free`: ids are never used twice.
    pub(super) fn unless_new(
        free: bool,
        record: &'static str,
        id: impl fmt::Debug,
    ) -> Result<(), Self> {
        if free { Ok(()) } else { Err(Self { record, what: format!("{id:?} was there before") }) }
    }
}

impl ManifestState {
    /// Takes one more record into account.
    pub fn apply(&mut self, record: &ManifestRecord) -> Result<(), Misfit> {
        match record {
            ManifestRecord::MachineAdded { machine, name, display_name, group, trunk, lane } => {
                let free = !self.machines.contains_key(machine) && !self.is_written_as(*trunk);
                Misfit::unless_new(free, "MachineAdded", (machine, trunk))?;
                self.add_machine(*machine, name, display_name, *group, *trunk, *lane);
            }
            ManifestRecord::MachineRemoved { machine } => self.remove_machine(*machine)?,
            ManifestRecord::DiskAdded { disk, machine, name, size_bytes, format, image } => {
                Misfit::unless_new(!self.disks.contains_key(disk), "DiskAdded", disk)?;
                let owner = self
                    .machines
                    .get_mut(machine)
                    .ok_or_else(|| Misfit::missing("DiskAdded", machine))?;
                owner.disks.push(*disk);
                self.given.disk = self.given.disk.max(*disk);
                let entry = DiskEntry {
                    id: *disk,
                    machine: *machine,
                    name: name.clone(),
                    span: DiskSpan::new(*size_bytes),
                    format: format.clone(),
                    image: image.clone(),
                    floor: None,
                    lost: None,
                    content: None,
                };
                self.disks.insert(*disk, entry);
            }
            ManifestRecord::SeedFinished { disk, floor } => {
                let entry = self.disk_mut(*disk, "SeedFinished")?;
                entry.floor = Some(*floor);
                entry.span.settle(*floor);
            }
            ManifestRecord::ImageLost { disk, reason } => {
                self.disk_mut(*disk, "ImageLost")?.lost = Some(reason.clone());
            }
            ManifestRecord::ContentNamed { disk, sequence, content } => {
                self.disk_mut(*disk, "ContentNamed")?.content = Some((*sequence, *content));
            }
            ManifestRecord::SegmentBorn { segment, lane, salt, first, size_bytes } => {
                let free = !self.segments.contains_key(segment);
                Misfit::unless_new(free, "SegmentBorn", segment)?;
                self.given.segment = self.given.segment.max(*segment);
                let entry = SegmentEntry {
                    id: *segment,
                    lane: *lane,
                    salt: *salt,
                    first: *first,
                    size_bytes: *size_bytes,
                    ended: None,
                };
                self.segments.insert(*segment, entry);
            }
            ManifestRecord::SegmentEnded { segment, end, next } => {
                let entry = self
                    .segments
                    .get_mut(segment)
                    .ok_or_else(|| Misfit::missing("SegmentEnded", segment))?;
                entry.ended = Some((*end, *next));
            }
            ManifestRecord::SegmentReleased { segment } => self.release_segment(*segment)?,
            ManifestRecord::Key(record) => self.apply_key(record)?,
            ManifestRecord::SegmentCompacted(entry) => self.add_compacted(entry)?,
            ManifestRecord::RecordsReleased { lane, first, next } => {
                self.released.add(*lane, *first, *next)?;
            }
            ManifestRecord::LineReleased { lane, at, line, released } => {
                if !self.is_written_as(*line) {
                    return Err(Misfit::missing("LineReleased", line));
                }
                self.released.note_line(*lane, *at, *line, *released)?;
            }
            other => self.apply_lines(other)?,
        }
        Ok(())
    }

    fn apply_lines(&mut self, record: &ManifestRecord) -> Result<(), Misfit> {
        match record {
            ManifestRecord::BranchAdded { line, name, parent, origin, origin_time } => {
                let at = (*parent, *origin, *origin_time);
                self.start_branch("BranchAdded", *line, name, at, Sequence::default())?;
            }
            ManifestRecord::BranchDiscarded { line } => {
                let is_trunk = self.line_mut(*line, "BranchDiscarded")?.origin.is_none();
                let starts_here =
                    |other: &LineEntry| other.origin.is_some_and(|(parent, _)| parent == *line);
                self.check_unlocked("BranchDiscarded", |entry| entry.id == *line)?;
                if is_trunk || self.lines.values().any(starts_here) {
                    let what = format!("{line:?} is a trunk or a branch starts from it");
                    return Err(Misfit { record: "BranchDiscarded", what });
                }
                self.lines.remove(line);
                if !self.is_written_as(*line) {
                    self.released.retain_lines(|left| left != *line);
                }
                self.disks.values_mut().for_each(|disk| disk.span.forget_branch(*line));
                self.exports.retain(|_, export| export.line != *line);
                self.lose_common_points(|member| member.line == *line);
            }
            ManifestRecord::GenerationRaised { line, generation, oldest_welcome, stream } => {
                let entry = self.line_mut(*line, "GenerationRaised")?;
                if *generation <= entry.generation {
                    let what =
                        format!("{line:?} is at {:?}, not below {generation:?}", entry.generation);
                    return Err(Misfit { record: "GenerationRaised", what });
                }
                entry.generation = *generation;
                entry.oldest_welcome = *oldest_welcome;
                entry.stream = *stream;
            }
            ManifestRecord::PointPinned { line, sequence } => {
                let entry = self.line_mut(*line, "PointPinned")?;
                entry.check_begun(*sequence, "PointPinned")?;
                entry.check_within_history("PointPinned", *sequence)?;
                entry.check_there(*sequence, "PointPinned")?;
                entry.pins.insert(*sequence);
            }
            ManifestRecord::PointUnpinned { line, sequence } => {
                self.line_mut(*line, "PointUnpinned")?.pins.remove(sequence);
            }
            ManifestRecord::ExportAdded { export, name, line, sequence, writable } => {
                let entry = self.line_mut(*line, "ExportAdded")?;
                entry.check_within_history("ExportAdded", sequence.unwrap_or(Sequence::MAX))?;
                sequence.map_or(Ok(()), |at| {
                    entry.check_begun(at, "ExportAdded")?;
                    entry.check_there(at, "ExportAdded")
                })?;
                Misfit::unless_new(!self.exports.contains_key(export), "ExportAdded", export)?;
                self.given.export = self.given.export.max(*export);
                let entry = ExportEntry {
                    id: *export,
                    name: name.clone(),
                    line: *line,
                    sequence: *sequence,
                    writable: *writable,
                    iscsi: None,
                };
                self.exports.insert(*export, entry);
            }
            ManifestRecord::ExportRemoved { export } => {
                self.exports
                    .remove(export)
                    .ok_or_else(|| Misfit::missing("ExportRemoved", export))?;
            }
            ManifestRecord::FoldStarted { line, start } => self.begin_history(*line, start)?,
            ManifestRecord::FoldDone { disk, floor } => self.raise_floor(*disk, *floor)?,
            ManifestRecord::Scrubbed(entry) => {
                entry.check()?;
                self.scrubbed = Arc::clone(entry);
            }
            ManifestRecord::MachineScrubbed { machine, ended } => {
                if !self.machines.contains_key(machine) {
                    return Err(Misfit::missing("MachineScrubbed", machine));
                }
                self.machines_scrubbed.insert(*machine, *ended);
            }
            ManifestRecord::IdsGiven(given) => self.given = *given,
            other => self.apply_keeping(other)?,
        }
        Ok(())
    }

    fn add_machine(
        &mut self,
        machine: MachineId,
        name: &Name,
        display_name: &str,
        group: GroupId,
        trunk: LineId,
        lane: LaneId,
    ) {
        self.given.machine = self.given.machine.max(machine);
        self.given.group = self.given.group.max(group);
        self.given.line = self.given.line.max(trunk);
        let entry = Machine {
            id: machine,
            name: name.clone(),
            display_name: display_name.to_owned(),
            group,
            trunk,
            disks: Vec::new(),
        };
        self.machines.insert(machine, entry);
        let line = LineEntry::new(trunk, machine, group, lane);
        self.lines.insert(trunk, line);
    }

    fn remove_machine(&mut self, machine: MachineId) -> Result<(), Misfit> {
        self.check_unlocked("MachineRemoved", |entry| entry.machine == machine)?;
        let removed = self.machines.remove(&machine);
        let removed = removed.ok_or_else(|| Misfit::missing("MachineRemoved", machine))?;
        self.leave_group(removed.group);
        self.keys.forget_machine(machine);
        self.machines_scrubbed.remove(&machine);
        self.standbys.remove(&machine);
        self.ingests.remove(&machine);
        self.disks.retain(|_, disk| disk.machine != machine);
        let gone: Vec<LineId> = self
            .lines
            .extract_if(.., |_, line| line.machine == machine)
            .map(|(id, _)| id)
            .collect();
        self.forget_members(|line| gone.contains(&line));
        let lines = &self.lines;
        self.exports.retain(|_, export| lines.contains_key(&export.line));
        let written = self.written(None);
        self.released.retain_lines(|line| written.contains_key(&line));
        Ok(())
    }

    /// Moves the start of a trunk's history up. Nothing that was asked to be kept may lie below it.
    fn begin_history(&mut self, line: LineId, start: &HistoryStart) -> Result<(), Misfit> {
        let below = |sequence: Sequence| sequence < start.sequence;
        let branched = self
            .lines
            .values()
            .any(|other| other.origin.is_some_and(|(parent, at)| parent == line && below(at)));
        let exported = self
            .exports
            .values()
            .any(|export| export.line == line && export.sequence.is_some_and(below));
        let seen = self.clock.seen;
        let entry = self.line_mut(line, "FoldStarted")?;
        let kept = !entry.may_begin_at(start.sequence, seen);
        let pinned = entry.pins.iter().copied().any(below);
        let back = entry.start.as_ref().is_some_and(|old| old.sequence >= start.sequence);
        if entry.origin.is_some() || back || branched || exported || pinned || kept {
            let what = format!("{line:?} does not begin at {:?}", start.sequence);
            return Err(Misfit { record: "FoldStarted", what });
        }
        entry.start = Some(start.clone());
        entry.forget_below(start.sequence);
        self.lose_common_points(|member| member.line == line && below(member.sequence));
        Ok(())
    }

    fn raise_floor(&mut self, disk: DiskId, floor: Sequence) -> Result<(), Misfit> {
        let entry = self.disk_mut(disk, "FoldDone")?.clone();
        let trunk = self.machines.get(&entry.machine).and_then(|m| self.lines.get(&m.trunk));
        let started = trunk.and_then(|line| line.start.as_ref()).map(|start| start.sequence);
        if started.is_none_or(|started| floor > started)
            || entry.floor.is_none_or(|old| old >= floor)
        {
            let what = format!("{disk:?} with floor {:?} has none of {floor:?}", entry.floor);
            return Err(Misfit { record: "FoldDone", what });
        }
        let entry = self.disk_mut(disk, "FoldDone")?;
        entry.floor = Some(floor);
        entry.span.settle(floor);
        Ok(())
    }

    pub(super) fn disk_mut(
        &mut self,
        disk: DiskId,
        record: &'static str,
    ) -> Result<&mut DiskEntry, Misfit> {
        self.disks.get_mut(&disk).ok_or_else(|| Misfit::missing(record, disk))
    }

    pub(super) fn line_mut(
        &mut self,
        line: LineId,
        record: &'static str,
    ) -> Result<&mut LineEntry, Misfit> {
        self.lines.get_mut(&line).ok_or_else(|| Misfit::missing(record, line))
    }

    /// Records that add up to this state: a snapshot.
    pub fn records(&self) -> Vec<ManifestRecord> {
        let mut records = Vec::new();
        for machine in self.machines.values() {
            let lane = self.lines[&machine.trunk].lane;
            records.push(ManifestRecord::MachineAdded {
                machine: machine.id,
                name: machine.name.clone(),
                display_name: machine.display_name.clone(),
                group: machine.group,
                trunk: machine.trunk,
                lane,
            });
            machine.disks.iter().for_each(|disk| self.disks[disk].records(&mut records));
        }
        // What a line inherits may have the name of one that is still there, so those come before.
        let lines = self.lines_in_order();
        lines.iter().for_each(|line| line.birth_record(&mut records));
        for line in &lines {
            self.lineage_records(line, &mut records);
            line.records(&mut records);
        }
        self.disks.values().for_each(|disk| disk.branch_span_records(&mut records));
        self.group_records(&mut records);
        self.ingest_records(&mut records);
        self.keeping_records(&mut records);
        self.key_records(&mut records);
        for segment in self.segments.values() {
            let SegmentEntry { id, lane, salt, first, size_bytes, ended } = *segment;
            records.push(ManifestRecord::SegmentBorn {
                segment: id,
                lane,
                salt,
                first,
                size_bytes,
            });
            if let Some((end, next)) = ended {
                records.push(ManifestRecord::SegmentEnded { segment: id, end, next });
            }
        }
        self.compacted_records(&mut records);
        for (lane, first, run) in self.released.iter() {
            records.push(ManifestRecord::RecordsReleased { lane, first, next: run.next });
            let of_line = |(line, released): (&LineId, &_)| ManifestRecord::LineReleased {
                lane,
                at: first,
                line: *line,
                released: *released,
            };
            records.extend(run.lines.iter().map(of_line));
        }
        records.extend(self.exports.values().map(|export| ManifestRecord::ExportAdded {
            export: export.id,
            name: export.name.clone(),
            line: export.line,
            sequence: export.sequence,
            writable: export.writable,
        }));
        self.iscsi_records(&mut records);
        self.abort_records(&mut records);
        if *self.scrubbed != ScrubEntry::default() {
            records.push(ManifestRecord::Scrubbed(Arc::clone(&self.scrubbed)));
        }
        self.common_point_records(&mut records);
        self.standby_records(&mut records);
        let scrubbed = self.machines_scrubbed.iter();
        records.extend(scrubbed.map(|(machine, ended)| ManifestRecord::MachineScrubbed {
            machine: *machine,
            ended: *ended,
        }));
        records.push(ManifestRecord::IdsGiven(self.given));
        records
    }

    /// The machine of this name.
    pub fn machine_named(&self, name: &Name) -> Option<&Machine> {
        self.machines.values().find(|machine| machine.name == *name)
    }

    /// The disk of this name of a machine.
    pub fn disk_named(&self, machine: MachineId, name: &Name) -> Option<&DiskEntry> {
        self.disks.values().find(|disk| disk.machine == machine && disk.name == *name)
    }

    /// The branch of this name of a machine.
    pub fn branch_named(&self, machine: MachineId, name: &Name) -> Option<&LineEntry> {
        self.lines
            .values()
            .find(|line| line.machine == machine && line.branch.as_ref() == Some(name))
    }
}

impl DiskEntry {
    fn records(&self, into: &mut Vec<ManifestRecord>) {
        into.push(ManifestRecord::DiskAdded {
            disk: self.id,
            machine: self.machine,
            name: self.name.clone(),
            size_bytes: self.span.first_bytes,
            format: self.format.clone(),
            image: self.image.clone(),
        });
        if let Some(floor) = self.floor {
            into.push(ManifestRecord::SeedFinished { disk: self.id, floor });
        }
        if let Some(reason) = &self.lost {
            into.push(ManifestRecord::ImageLost { disk: self.id, reason: reason.clone() });
        }
        if let Some((sequence, content)) = self.content {
            into.push(ManifestRecord::ContentNamed { disk: self.id, sequence, content });
        }
        self.span_records(into);
    }
}

impl LineEntry {
    pub(super) fn check_within_history(
        &self,
        record: &'static str,
        at: Sequence,
    ) -> Result<(), Misfit> {
        match &self.start {
            Some(start) if at < start.sequence => {
                let what = format!("{:?} begins at {:?}, after {at:?}", self.id, start.sequence);
                Err(Misfit { record, what })
            }
            _ => Ok(()),
        }
    }

    /// A trunk.
    pub(crate) fn new(id: LineId, machine: MachineId, group: GroupId, lane: LaneId) -> Self {
        Self {
            id,
            machine,
            group,
            lane,
            branch: None,
            origin: None,
            base: Sequence::default(),
            inherited: Vec::new(),
            sealed: false,
            born: Timestamp::default(),
            generation: Generation::default(),
            oldest_welcome: Generation::default(),
            stream: StreamId::NONE,
            pins: BTreeSet::new(),
            start: None,
            locks: BTreeMap::new(),
            dropped: Arc::default(),
            stream_entry: StreamEntry::default(),
        }
    }

    /// The record that makes it, if it is a branch.
    fn birth_record(&self, into: &mut Vec<ManifestRecord>) {
        let (Some(name), Some((parent, origin))) = (&self.branch, self.origin) else { return };
        let (line, name, origin_time) = (self.id, name.clone(), self.born);
        into.push(if self.base == origin {
            ManifestRecord::BranchStarted { line, name, parent, origin, origin_time }
        } else {
            ManifestRecord::BranchAdded { line, name, parent, origin, origin_time }
        });
    }

    fn records(&self, into: &mut Vec<ManifestRecord>) {
        if self.generation != Generation::default() {
            into.push(ManifestRecord::GenerationRaised {
                line: self.id,
                generation: self.generation,
                oldest_welcome: self.oldest_welcome,
                stream: self.stream,
            });
        }
        if let Some(start) = self.start.clone() {
            into.push(ManifestRecord::FoldStarted { line: self.id, start });
        }
        let pinned = |sequence| ManifestRecord::PointPinned { line: self.id, sequence };
        into.extend(self.pins.iter().copied().map(pinned));
        self.keeping_records(into);
        self.stream_records(into);
    }
}
