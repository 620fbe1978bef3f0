//! What stands where: the answers behind listings and metrics. Plain data, taken at one moment.

use crate::branch::BranchDisk;
use crate::ids::{
    DiskId, DiskIdentity, ExportId, Generation, LineId, MachineId, Position, Sequence,
};
use crate::journal::lane::LaneHandle;
use crate::lease::{Gone, Lease};
use crate::line::Line;
use crate::manifest::iscsi::IscsiAccess;
use crate::manifest::state::{ExportEntry, Machine, ManifestState};
use crate::manifest::streams::StreamChange;
use crate::moment::{Moment, ResolveError, before_history, dropped, line_name, resolve_on_line};
use crate::name::{MomentName, Name, When};
use crate::point::{Point, PointQuery};
use crate::read_cache::ReadCacheStatus;
use crate::rebuild::NotIndexed;
use crate::replica::span::{DiskSpan, Place};
use crate::replica::{DiskState, ReplicaDisk};
use crate::retention::{Machines, Retention};
use crate::stream::StreamState;
use crate::time::Timestamp;
use crate::view::{Showing, View};
use landfall_disks::file::FileError;
use landfall_disks::uring::offload;
use landfall_disks::{Disk, Locked, RangeLocks};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// A machine.
#[derive(Clone, Debug)]
pub struct MachineStatus {
    /// Its name.
    pub name: Name,
    /// Free text for people.
    pub display_name: String,
    /// Its disks, in the order they were added.
    pub disks: Vec<DiskStatus>,
    /// Last sequence of the trunk.
    pub head: Sequence,
    /// Generation of its stream.
    pub generation: Generation,
    /// Who replicates it at the moment.
    pub stream: Option<StreamStatus>,
    /// What that stream is at, whether it is open or not; nothing before it was opened for the first time.
    pub stream_state: Option<StreamChange>,
    /// When the newest moment was committed that `latest` means: the newest consistent point, or a later instant.
    pub newest_moment: Option<Timestamp>,
    /// Marked points of the trunk.
    pub points: usize,
    /// The newest consistent one.
    pub newest: Option<Point>,
    /// The newest app point.
    pub newest_app: Option<Point>,
    /// The oldest one.
    pub oldest: Option<Point>,
    /// Its branches.
    pub branches: Vec<BranchStatus>,
    /// What of it waits for the index, if anything does. Then points are those that are known, and the head may be older than it
    /// is.
    pub waits: Option<MachineWaits>,
}

/// What waits for an index that lacks part of the journal.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MachineWaits {
    /// Why: how much it lacks.
    pub why: NotIndexed,
    /// Whether moments of the trunk can be looked at all the same.
    pub trunk_opens: bool,
    /// Whether its stream can go on where it was.
    pub stream_goes_on: bool,
}

/// A disk of a machine.
#[derive(Clone, Debug)]
pub struct DiskStatus {
    /// Its id.
    pub id: DiskId,
    /// Its name.
    pub name: Name,
    /// Its size at the head of the trunk.
    pub size_bytes: u64,
    /// Format of its image.
    pub format: String,
    /// Where its image is.
    pub image: String,
    /// Where along the trunk it is there, and its size there.
    pub span: DiskSpan,
    /// What it is good for.
    pub state: DiskState,
    /// Whether every block of the image is checked when it is read; else some are taken as they are.
    pub checked: bool,
    /// What guests know it by, in images that are made for it.
    pub identity: DiskIdentity,
}

/// A stream that is open.
#[derive(Clone, Debug)]
pub struct StreamStatus {
    /// Who.
    pub peer: String,
    /// Since when.
    pub since: Timestamp,
    /// How far it is.
    pub position: Position,
}

/// A branch.
#[derive(Clone, Debug)]
pub struct BranchStatus {
    /// Its name.
    pub name: Name,
    /// Its line.
    pub line: LineId,
    /// Where it starts on its parent.
    pub origin: Sequence,
    /// When that was committed.
    pub origin_time: Timestamp,
    /// Last sequence of its own.
    pub head: Sequence,
    /// When that was committed.
    pub head_time: Timestamp,
    /// It was the trunk until another branch was promoted, and takes no writes.
    pub sealed: bool,
}

/// A point of a listing.
#[derive(Clone, Debug)]
pub struct PointStatus {
    /// The point.
    pub point: Point,
    /// Whether somebody wants it kept.
    pub pinned: bool,
    /// Until when it is locked, if it is.
    pub locked_until: Option<Timestamp>,
}

/// An export that was set up.
#[derive(Clone, Debug)]
pub struct ExportStatus {
    /// Its id.
    pub id: ExportId,
    /// Name it is served under, without the disk.
    pub name: String,
    /// Its line.
    pub line: LineId,
    /// A fixed moment, or the head.
    pub sequence: Option<Sequence>,
    /// Whether writes are allowed.
    pub writable: bool,
    /// What it is over iSCSI, if it is.
    pub iscsi: Option<Arc<IscsiAccess>>,
}

/// The journal and the index.
#[derive(Clone, Debug, Default)]
pub struct JournalStatus {
    /// Segment files.
    pub segments: usize,
    /// Bytes they take.
    pub segment_bytes: u64,
    /// Bytes free in their file system.
    pub free_bytes: u64,
    /// Bytes the index takes.
    pub index_bytes: u64,
    /// Per lane, since the start.
    pub lanes: Vec<LaneStatus>,
}

/// One lane since the start.
#[derive(Clone, Debug, Default)]
pub struct LaneStatus {
    /// Records written.
    pub records: u64,
    /// Those of them that abort others.
    pub aborts: u64,
    /// Groups flushed.
    pub flushes: u64,
    /// Bytes written.
    pub bytes: u64,
    /// Batches refused because the journal was full.
    pub refused_full: u64,
    /// Why it refuses all writes until the service is restarted, if it does.
    pub failed: Option<String>,
}

/// What all lanes together have done since the start, for whoever paces work beside them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct LaneLoad {
    /// Groups of records that were written, flushed and indexed.
    pub groups: u64,
    /// The time that took.
    pub busy: Duration,
}

impl MachineStatus {
    /// Whether somebody delivers its writes in order at this moment: any instant up to now can be chosen.
    pub fn is_fed_in_order(&self) -> bool {
        let ordered = |change: StreamChange| change.state == StreamState::Ordered;
        self.stream.is_some() && self.stream_state.is_some_and(ordered)
    }
}

impl BranchStatus {
    pub(crate) fn new(name: Name, line: &Line) -> Self {
        let tail = line.tail();
        Self {
            name,
            line: line.id(),
            origin: line.origin().map_or(Sequence::default(), |(_, at)| at),
            origin_time: line.born(),
            head: tail.sequence,
            head_time: tail.commit_time,
            sealed: line.is_sealed(),
        }
    }
}

impl ExportStatus {
    pub(crate) fn new(entry: &ExportEntry) -> Self {
        Self {
            id: entry.id,
            name: entry.name.clone(),
            line: entry.line,
            sequence: entry.sequence,
            writable: entry.writable,
            iscsi: entry.iscsi.clone(),
        }
    }
}

impl Retention {
    /// All machines, by name.
    pub fn machines(&self) -> Vec<MachineStatus> {
        let state = self.manifest.state();
        let mut machines: Vec<_> =
            state.machines.values().filter_map(|m| self.machine_status(&state, m)).collect();
        machines.sort_by(|a, b| a.name.cmp(&b.name));
        machines
    }

    fn machine_status(&self, state: &ManifestState, machine: &Machine) -> Option<MachineStatus> {
        let machines = self.machines.read();
        let line = machines.lines.get(&machine.trunk)?;
        let disks = machine.disks.iter().filter_map(|disk| machines.disks.get(disk));
        let branches = state.lines.values().filter(|entry| entry.machine == machine.id);
        let branches = branches.filter_map(|entry| {
            Some(BranchStatus::new(entry.branch.clone()?, machines.lines.get(&entry.id)?))
        });
        let stream = machines.streams.get(&machine.id).and_then(|slot| slot.status());
        let waits = self.waits(&machines, machine.id, line);
        let state = state.lines.get(&machine.trunk).and_then(|line| line.stream_entry.state);
        let (points, newest, newest_app, oldest) =
            line.points(|points| (points.len(), points.latest(), points.app(), points.oldest()));
        Some(MachineStatus {
            name: machine.name.clone(),
            display_name: machine.display_name.clone(),
            disks: disks.map(|disk| disk_status(disk, self.manifest.folder_id())).collect(),
            head: line.tail().sequence,
            generation: line.generation(),
            stream,
            stream_state: state,
            newest_moment: line.newest_moment(),
            points,
            newest,
            newest_app,
            oldest,
            branches: branches.collect(),
            waits,
        })
    }

    fn waits(&self, machines: &Machines, id: MachineId, trunk: &Line) -> Option<MachineWaits> {
        let mut lines = machines.lines.values().filter(|line| line.machine() == id);
        let why = lines.find_map(|line| line.check_indexed().err())?;
        let (trunk_opens, stream_goes_on) = (trunk.is_indexed(), trunk.check_tail().is_ok());
        Some(MachineWaits { why, trunk_opens, stream_goes_on })
    }

    /// A page of the marked points of a line.
    pub fn points(
        &self,
        machine: &Name,
        branch: Option<&Name>,
        query: &PointQuery,
    ) -> Result<Vec<PointStatus>, ResolveError> {
        let line = self.line_named(machine, branch)?;
        let points = line.points(|points| points.list(query));
        let state = self.manifest.state();
        let entry = state.lines.get(&line.id());
        let seen = state.clock.seen;
        let status = |point: Point| PointStatus {
            pinned: entry.is_some_and(|entry| entry.pins.contains(&point.sequence)),
            locked_until: entry.and_then(|entry| entry.lock_at(point.sequence, seen)),
            point,
        };
        Ok(points.into_iter().map(status).collect())
    }

    /// The moment a name means now.
    pub async fn resolve(&self, name: &MomentName) -> Result<Moment, ResolveError> {
        let line = self.line_named(&name.machine, name.branch.as_ref())?;
        self.check_not_destroyed(&name.machine)?;
        let (index, name) = (Arc::clone(&self.surroundings.index), name.clone());
        let now = self.surroundings.clock.now();
        offload(move || resolve_on_line(&*index, &line, &name, now)).await
    }

    /// A disk at a moment, read-only.
    pub fn view(&self, moment: &Moment, disk: &Name) -> Result<Arc<dyn Disk>, ResolveError> {
        let (line, replica, lease) = self.hold(moment, disk)?;
        let showing = Showing::Fixed(moment.sequence);
        let view = View::new(Arc::clone(&self.reading), replica, line, showing);
        Ok(Arc::new(view.holding(lease)))
    }

    /// Takes hold of a disk at a moment: line and disk, if it can be read there.
    pub(crate) fn hold(
        &self,
        moment: &Moment,
        disk: &Name,
    ) -> Result<(Arc<Line>, Arc<ReplicaDisk>, Lease), ResolveError> {
        let line = self.line_of(moment)?;
        self.check_not_destroyed(&moment.machine)?;
        let replica = self.disk_named(&moment.machine, disk)?;
        let lease = Lease::take(&line, moment.sequence).map_err(|gone| {
            let name = line_name(&moment.machine, moment.branch.as_ref());
            match gone {
                Gone::BeforeHistory(start) => {
                    before_history(name, When::Sequence(moment.sequence), &start)
                }
                Gone::Dropped => dropped(name, &line, moment.sequence),
            }
        })?;
        self.check_there(&replica, &line, moment.sequence)?;
        Ok((line, replica, lease))
    }

    /// That the machine had the disk, all of it, at a moment of a line.
    pub(crate) fn check_there(
        &self,
        disk: &ReplicaDisk,
        line: &Line,
        sequence: Sequence,
    ) -> Result<(), ResolveError> {
        let (place, span) = (line.place(sequence), disk.span());
        // The floor of a disk that only a branch has is one of its lineage.
        let presence = span.presence(&place);
        if presence.zip(disk.floor()).is_some_and(|(at, floor)| floor <= at) {
            return Ok(());
        }
        let (name, line) = (disk.name().clone(), self.name_of_line(line));
        Err(match span.ended_before(&place) {
            Some(until) => ResolveError::DiskRemoved { disk: name, line, until },
            None => ResolveError::NotSeeded { disk: name, line, sequence },
        })
    }

    /// `web`, or `web~test`.
    fn name_of_line(&self, line: &Line) -> String {
        let state = self.manifest.state();
        let machine = state.machines.get(&line.machine()).map(|machine| &machine.name);
        let branch = state.lines.get(&line.id()).and_then(|entry| entry.branch.as_ref());
        machine.map_or_else(|| "?".to_owned(), |machine| line_name(machine, branch))
    }

    /// The writable head of a disk of a branch. Its operations wait for whoever holds what they touch in the locks of
    /// [`branch_disk_to_lock`](Self::branch_disk_to_lock).
    pub fn branch_disk(
        &self,
        machine: &Name,
        branch: &Name,
        disk: &Name,
    ) -> Result<Arc<dyn Disk>, ResolveError> {
        let (disk, locks) = self.branch_disk_to_lock(machine, branch, disk)?;
        Ok(Arc::new(Locked::new(disk, locks)))
    }

    /// The same for those who read in order to write, and take part in the locks of all who have the disk open: they hold shared what
    /// they read or write, and alone what they read in order to write it. The disk itself asks nobody.
    pub fn branch_disk_to_lock(
        &self,
        machine: &Name,
        branch: &Name,
        disk: &Name,
    ) -> Result<(Arc<dyn Disk>, RangeLocks), ResolveError> {
        let line = self.line_named(machine, Some(branch))?;
        self.check_not_destroyed(machine)?;
        let replica = self.disk_named(machine, disk)?;
        self.check_there(&replica, &line, Sequence::MAX)?;
        let blocks = {
            let mut blocks = self.branch_blocks.lock();
            Arc::clone(blocks.entry((line.id(), replica.id())).or_default())
        };
        let lane = self.lane(line.lane()).clone();
        let head = View::new(Arc::clone(&self.reading), replica, line, Showing::Head);
        let clock = Arc::clone(&self.surroundings.clock);
        let commands = blocks.commands.clone();
        Ok((Arc::new(BranchDisk::new(head, lane, clock, blocks)), commands))
    }

    /// Where a moment of a line lies: by that, the span of a disk says whether it is there, and how large.
    pub fn place(
        &self,
        machine: &Name,
        branch: Option<&Name>,
        sequence: Sequence,
    ) -> Result<Place, ResolveError> {
        Ok(self.line_there(machine, branch)?.place(sequence))
    }

    /// Exports that were set up.
    pub fn exports(&self) -> Vec<ExportStatus> {
        self.manifest.state().exports.values().map(ExportStatus::new).collect()
    }

    /// How often reads of views and branches found what they wanted in memory, and what is there.
    pub fn read_cache(&self) -> ReadCacheStatus {
        self.reading.cache.status()
    }

    /// What the lanes have done since the start.
    pub fn lane_load(&self) -> LaneLoad {
        self.lanes.iter().map(LaneHandle::counters).fold(LaneLoad::default(), |load, lane| {
            let busy = lane.busy_nanoseconds.load(Ordering::Relaxed);
            LaneLoad {
                groups: load.groups + lane.flushes.load(Ordering::Relaxed),
                busy: load.busy + Duration::from_nanos(busy),
            }
        })
    }

    /// All lines there are: trunks and branches.
    pub fn line_ids(&self) -> BTreeSet<LineId> {
        self.machines.read().lines.keys().copied().collect()
    }

    /// The journal and the index as they are.
    pub async fn journal(&self) -> Result<JournalStatus, FileError> {
        let lanes = self.lanes.iter().map(|lane| {
            let counters = lane.counters();
            LaneStatus {
                records: counters.records.load(Ordering::Relaxed),
                aborts: counters.aborts.load(Ordering::Relaxed),
                flushes: counters.flushes.load(Ordering::Relaxed),
                bytes: counters.bytes.load(Ordering::Relaxed),
                refused_full: counters.refused_full.load(Ordering::Relaxed),
                failed: counters.failed.get().cloned(),
            }
        });
        let lanes = lanes.collect();
        let index = Arc::clone(&self.surroundings.index);
        // Not held across an await: whoever changes the manifest on this core would wait for ever.
        let segments = {
            let state = self.manifest.state();
            state.segments.len() + state.compacted.len()
        };
        Ok(JournalStatus {
            segments,
            segment_bytes: self.reading.segments.size_bytes(),
            free_bytes: self.surroundings.journal.free_bytes().await?,
            index_bytes: offload(move || index.size_bytes()).await,
            lanes,
        })
    }

    pub(crate) fn machine_id(&self, name: &Name) -> Result<MachineId, ResolveError> {
        let state = self.manifest.state();
        let found = state.machine_named(name).map(|machine| machine.id);
        found.ok_or_else(|| Self::unknown_machine(&state, name))
    }

    /// The error for a machine that is not there.
    pub(crate) fn unknown_machine(state: &ManifestState, name: &Name) -> ResolveError {
        let mut known: Vec<_> = state.machines.values().map(|m| m.name.clone()).collect();
        known.sort();
        ResolveError::UnknownMachine { machine: name.clone(), known }
    }

    /// A line all of whose moments can be looked at.
    pub(crate) fn line_named(
        &self,
        machine: &Name,
        branch: Option<&Name>,
    ) -> Result<Arc<Line>, ResolveError> {
        let line = self.line_there(machine, branch)?;
        line.check_indexed().map_err(|source| {
            let line = line_name(machine, branch);
            ResolveError::NotIndexed { line, source }
        })?;
        Ok(line)
    }

    /// A line, whether or not the index has all of it.
    pub(crate) fn line_there(
        &self,
        machine: &Name,
        branch: Option<&Name>,
    ) -> Result<Arc<Line>, ResolveError> {
        let id = self.machine_id(machine)?;
        let state = self.manifest.state();
        let line = match branch {
            None => state.machines.get(&id).map(|machine| machine.trunk),
            Some(branch) => state.branch_named(id, branch).map(|line| line.id),
        };
        let unknown = || {
            let lines = state.lines.values().filter(|line| line.machine == id);
            ResolveError::UnknownBranch {
                machine: machine.clone(),
                branch: branch.unwrap_or(machine).clone(),
                known: lines.filter_map(|line| line.branch.clone()).collect(),
            }
        };
        line.and_then(|line| self.line(line)).ok_or_else(unknown)
    }

    pub(crate) fn line_of(&self, moment: &Moment) -> Result<Arc<Line>, ResolveError> {
        match self.line(moment.line) {
            Some(line) => {
                line.check_indexed().map_err(|source| {
                    let line = line_name(&moment.machine, moment.branch.as_ref());
                    ResolveError::NotIndexed { line, source }
                })?;
                Ok(line)
            }
            None => self.line_named(&moment.machine, moment.branch.as_ref()),
        }
    }

    pub(crate) fn disk_named(
        &self,
        machine: &Name,
        disk: &Name,
    ) -> Result<Arc<ReplicaDisk>, ResolveError> {
        let id = self.machine_id(machine)?;
        let state = self.manifest.state();
        let found = state.disk_named(id, disk).map(|entry| entry.id);
        let unknown = || {
            let disks = state.disks.values().filter(|disk| disk.machine == id);
            ResolveError::UnknownDisk {
                machine: machine.clone(),
                disk: disk.clone(),
                known: disks.map(|disk| disk.name.clone()).collect(),
            }
        };
        found.and_then(|id| self.machines.read().disks.get(&id).cloned()).ok_or_else(unknown)
    }

    /// Who replicates a machine at the moment.
    pub(crate) fn stream_holder(&self, machine: MachineId) -> Option<String> {
        let slot = self.machines.read().streams.get(&machine).cloned()?;
        let slot = slot.inner.lock();
        slot.holder.as_ref().map(|holder| holder.peer.clone())
    }
}

fn disk_status(disk: &ReplicaDisk, folder_id: [u8; 16]) -> DiskStatus {
    DiskStatus {
        id: disk.id(),
        name: disk.name().clone(),
        size_bytes: disk.size_bytes(),
        format: disk.spec().format.clone(),
        image: disk.spec().path.clone(),
        span: disk.span(),
        state: disk.condition(),
        checked: disk.hashes().is_complete() && !disk.hashes().lost_some(),
        identity: DiskIdentity::of(folder_id, disk.id()),
    }
}
