//! Changes of what is protected: machines, branches, marks, pins and exports; each durable when its call returns.

use crate::ids::{DiskId, DiskIdentity, ExportId, GroupId, LaneId, LineId, MachineId, Sequence};
use crate::image_hashes::{self, Described, ImageHashes};
use crate::index::IndexBatch;
use crate::index::block_key;
use crate::index::gap_key;
use crate::index::moment_key;
use crate::index::tail_key;
use crate::index::usage_key;
use crate::ingest::IngestError;
use crate::journal::draft::{AppendError, Draft, DraftOrigin};
use crate::journal::format::RecordKind;
use crate::keeping::check_unlocked;
use crate::line::{Line, LineState};
use crate::manifest::ManifestError;
use crate::manifest::iscsi::IscsiAccess;
use crate::manifest::record::ManifestRecord;
use crate::manifest::state::ManifestState;
use crate::moment::{Moment, ResolveError, before_history, line_name};
use crate::name::{Label, MomentName, Name, When};
use crate::point::{Point, PointKind};
use crate::replica::opening::make_image;
use crate::replica::{Image, ImageSpec, ReplicaDisk};
use crate::retention::Retention;
use crate::status::{BranchStatus, ExportStatus};
use crate::time::Timestamp;
use landfall_disks::image::ImageError;
use landfall_disks::uring::offload;
use landfall_disks::{Disk, MAX_DISK_SIZE};
use std::sync::Arc;
use tokio::sync::oneshot;

/// Most disks of a machine.
pub const MAX_DISKS: usize = 256;
/// Longest path of an image, in bytes: what Linux takes.
pub(crate) const MAX_PATH_BYTES: usize = 4096;
/// Longest display name and longest name of a format, in bytes.
pub(crate) const MAX_TEXT_BYTES: usize = 1024;
const SECTOR: u64 = 512;

/// A machine to be protected.
#[derive(Clone, Debug)]
pub struct NewMachine {
    /// Its name.
    pub name: Name,
    /// Free text for people.
    pub display_name: String,
    /// Its disks.
    pub disks: Vec<NewDisk>,
}

/// One of its disks.
#[derive(Clone, Debug)]
pub struct NewDisk {
    /// Its name.
    pub name: Name,
    /// Format, place and size of its image.
    pub image: ImageSpec,
    /// The image exists; what differs from the source is sent.
    pub adopt: bool,
}

/// An export to be set up.
#[derive(Clone, Debug)]
pub struct NewExport {
    /// The machine.
    pub machine: Name,
    /// The branch, or the trunk.
    pub branch: Option<Name>,
    /// A fixed moment; the head if there is none.
    pub sequence: Option<Sequence>,
    /// Whether writes are allowed: branches only, and no fixed moment.
    pub writable: bool,
    /// What it is over iSCSI, if it is.
    pub iscsi: Option<Arc<IscsiAccess>>,
}

/// Why a change was not made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ChangeError {
    /// There is one of that name.
    #[error("{what} {name} exists already")]
    Exists {
        /// Machine, disk or branch.
        what: &'static str,
        /// The name.
        name: Name,
    },
    /// A machine needs disks, and not too many.
    #[error("a machine has 1 to {MAX_DISKS} disks, not {0}")]
    DiskCount(usize),
    /// A size no disk has.
    #[error(
        "disk {disk} cannot have {size_bytes} bytes: a size is whole 512-byte sectors, up to {MAX_DISK_SIZE}"
    )]
    Size {
        /// The disk.
        disk: Name,
        /// The size.
        size_bytes: u64,
    },
    /// Disks only grow: what lies beyond a smaller end may be what a guest has there, and older points have it.
    #[error(
        "disk {disk} has {from_bytes} bytes and does not shrink to {to_bytes}: what lies beyond would be lost; \
         make the smaller disk on the source, add it under another name, and remove this one"
    )]
    Shrink {
        /// The disk.
        disk: Name,
        /// The size it has.
        from_bytes: u64,
        /// The size that was asked for.
        to_bytes: u64,
    },
    /// A machine without disks is none.
    #[error("{disk} is the only disk of machine {machine}; remove the machine")]
    LastDisk {
        /// The machine.
        machine: Name,
        /// Its disk.
        disk: Name,
    },
    /// It was removed, and older points still have it.
    #[error(
        "disk {disk} was removed at seq:{until} and older points still have it; \
         its name is free again when the history of the machine begins after that"
    )]
    RemovedDisk {
        /// The disk.
        disk: Name,
        /// The last moment that has it.
        until: Sequence,
    },
    /// A text that the manifest does not take.
    #[error("{what} has {bytes} bytes, more than {limit}")]
    TooLong {
        /// Which text.
        what: &'static str,
        /// Its length.
        bytes: usize,
        /// The most it may have.
        limit: usize,
    },
    /// Two disks share an image.
    #[error("image {path} belongs to disk {disk} already")]
    ImageTaken {
        /// The path.
        path: String,
        /// Whose it is.
        disk: Name,
    },
    /// The name asked for means nothing.
    #[error(transparent)]
    Resolve(#[from] ResolveError),
    /// An image could not be made or opened.
    #[error("image {path}: {source}")]
    Image {
        /// Its path.
        path: String,
        /// Why.
        source: Box<ImageError>,
    },
    /// It is locked.
    #[error("{what} is locked until {until}: nobody can remove or unlock it before")]
    Locked {
        /// The point, branch or machine.
        what: String,
        /// Until when.
        until: Timestamp,
    },
    /// A lock that would end at once.
    #[error("a lock until {until} would hold nothing: it is {now} already")]
    LockInThePast {
        /// The date.
        until: Timestamp,
        /// What time it is.
        now: Timestamp,
    },
    /// The machine is being replicated, or a writable export is open.
    #[error("{what} is in use: {by}")]
    InUse {
        /// The machine or branch.
        what: String,
        /// What uses it.
        by: String,
    },
    /// Between two points there is nothing to mark.
    #[error(
        "{line} is in the middle of a pass; its point comes when the pass ends, nothing is marked before"
    )]
    InPass {
        /// The machine.
        line: String,
    },
    /// Only branches are written to.
    #[error("{0} is not a branch that takes writes; only the head of one can be written")]
    NotWritable(String),
    /// Its promotion has no good outcome.
    #[error("{branch} cannot be promoted: {why}")]
    NotPromotable {
        /// The branch.
        branch: String,
        /// Why.
        why: String,
    },
    /// It cannot be fed through its disks like that.
    #[error(transparent)]
    Ingest(Box<IngestError>),
    /// No export of that id.
    #[error("no export {0}")]
    UnknownExport(ExportId),
    /// The journal refused.
    #[error(transparent)]
    Append(#[from] AppendError),
    /// The manifest refused.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
}

impl From<IngestError> for ChangeError {
    fn from(error: IngestError) -> Self {
        Self::Ingest(Box::new(error))
    }
}

impl Retention {
    /// Protects a machine: it is recorded, and its images are made, or opened to be adopted.
    ///
    /// Recorded first: after a crash in between, opening makes the images that are missing.
    pub async fn add_machine(&self, machine: NewMachine) -> Result<(), ChangeError> {
        let lanes = u32::try_from(self.lanes.len()).expect("a lane per core");
        let new_key = self.draw_key();
        let (id, key) = self
            .manifest
            .change(|state| {
                check_new_machine(state, &machine)?;
                let (id, key) = (state.given.machine.next(), state.keys.next());
                let mut records = machine_records(state, &machine, id, lanes);
                records.extend(new_key.as_ref().map(|new| new.record(id, key)));
                Ok::<_, ChangeError>((records, (id, key)))
            })
            .await?;
        if let Some(new) = new_key {
            self.use_key(id, key, new);
        }
        let ids = self.manifest.state().machines[&id].disks.clone();
        let mut images = Vec::new();
        for (disk, id_of_disk) in machine.disks.iter().zip(ids) {
            let identity = DiskIdentity::of(self.manifest.folder_id(), id_of_disk);
            let store = &*self.surroundings.images;
            match make_image(store, &disk.image, identity, disk.adopt).await {
                Ok(image) => images.push(image),
                Err(source) => {
                    self.manifest
                        .append(vec![ManifestRecord::MachineRemoved { machine: id }])
                        .await?;
                    self.keys().remove(id, &[key]);
                    let path = disk.image.path.clone();
                    return Err(ChangeError::Image { path, source: Box::new(source) });
                }
            }
        }
        let mut made = Vec::with_capacity(images.len());
        let ids = self.manifest.state().machines[&id].disks.clone();
        for ((disk, image), new) in ids.into_iter().zip(images).zip(&machine.disks) {
            let of = Described { disk, folder: self.manifest.folder_id() };
            let data = &*self.surroundings.data;
            let hashes = ImageHashes::create(data, of, !new.adopt, &self.hash_cache).await;
            made.push((image, hashes));
        }
        self.show_machine(id, made, &machine.disks);
        Ok(())
    }

    fn show_machine(
        &self,
        id: MachineId,
        images: Vec<(Arc<dyn Disk>, ImageHashes)>,
        new: &[NewDisk],
    ) {
        let state = self.manifest.state();
        let entry = &state.machines[&id];
        let mut machines = self.machines.write();
        let line = Line::new(&state.lines[&entry.trunk], None, LineState::default());
        machines.lines.insert(entry.trunk, Arc::new(line));
        machines.streams.insert(id, Arc::default());
        for ((disk, (image, hashes)), new) in entry.disks.iter().zip(images).zip(new) {
            let image = Image::Present(image);
            let replica = ReplicaDisk::new(&state.disks[disk], image, !new.adopt, hashes);
            machines.disks.insert(*disk, Arc::new(replica));
        }
    }

    /// Protects a machine no longer. Its points are gone; its image files stay where they are, and its part of the
    /// journal is not given back.
    pub async fn remove_machine(&self, name: &Name) -> Result<(), ChangeError> {
        let id = self.machine_id(name)?;
        if let Some(holder) = self.stream_holder(id) {
            let what = format!("machine {name}");
            return Err(ChangeError::InUse { what, by: format!("replication from {holder}") });
        }
        let lines: Vec<LineId> = {
            let state = self.manifest.state();
            let of_machine = state.lines.values().filter(|line| line.machine == id);
            // What it was written as may have the name of a line that is gone.
            of_machine.flat_map(|line| line.stretches().map(|stretch| stretch.line)).collect()
        };
        let keys: Vec<_> = {
            let state = self.manifest.state();
            state.keys.of_machine(id).map(|key| key.id).collect()
        };
        let removed = self
            .manifest
            .change(|state| {
                check_unlocked(state, id, |_| true, || format!("a point of {name}"))?;
                Ok::<_, ChangeError>((vec![ManifestRecord::MachineRemoved { machine: id }], ()))
            })
            .await;
        // The machine is gone then, too; that a file has its keys still is said at the end.
        let unfinished = match removed {
            Err(ChangeError::Manifest(error @ ManifestError::NotErased { .. })) => Some(error),
            removed => {
                removed?;
                None
            }
        };
        self.keys().remove(id, &keys);
        if !keys.is_empty() {
            self.forget_read().await;
        }
        let disks: Vec<DiskId> = {
            let mut machines = self.machines.write();
            machines.streams.remove(&id);
            let disks = machines.disks.values().filter(|disk| disk.machine() == id);
            let disks = disks.map(|disk| disk.id()).collect();
            machines.disks.retain(|_, disk| disk.machine() != id);
            machines.lines.retain(|_, line| {
                let stays = line.machine() != id;
                if !stays {
                    line.close();
                    self.branch_blocks.lock().retain(|(of, _), _| *of != line.id());
                }
                stays
            });
            disks
        };
        for disk in disks {
            if let Err(error) = image_hashes::remove(&*self.surroundings.data, disk).await {
                tracing::warn!(?disk, %error, "its block hashes stay until the next start");
            }
        }
        self.forget_lines(lines).await?;
        unfinished.map_or(Ok(()), |error| Err(error.into()))
    }

    /// Marks a point at the head of a line, where its disks are consistent.
    pub async fn mark(
        &self,
        machine: &Name,
        branch: Option<&Name>,
        kind: PointKind,
        label: Option<Label>,
    ) -> Result<Point, ChangeError> {
        let line = self.line_named(machine, branch)?;
        self.check_markable(&line, machine, branch)?;
        // A disk that grows or goes does so between two points.
        let _shape = line.shared().shape.read().await;
        let source_time = self.surroundings.clock.now();
        let (reply, answer) = oneshot::channel();
        let draft = Draft {
            line: Arc::clone(&line),
            origin: DraftOrigin::Mark,
            kind: RecordKind::Mark { kind, label: label.clone() },
            boundary: true,
            source_time,
            extents: Vec::new(),
            ticket: None,
            reply,
        };
        let committed = match self.lane(line.lane()).append(draft, answer).await {
            Err(AppendError::InPass) => {
                return Err(ChangeError::InPass { line: line_name(machine, branch) });
            }
            committed => committed?,
        };
        Ok(Point {
            sequence: committed.sequence,
            commit_time: committed.commit_time,
            source_time,
            kind,
            label,
        })
    }

    fn check_markable(
        &self,
        line: &Line,
        machine: &Name,
        branch: Option<&Name>,
    ) -> Result<(), ChangeError> {
        let nothing_yet = !line.is_branch() && line.points(crate::point::Catalogue::is_empty);
        if nothing_yet {
            let line = line_name(machine, branch);
            return Err(ResolveError::NoPoints { line }.into());
        }
        Ok(())
    }

    /// Keeps a point until it is unpinned.
    pub async fn pin(&self, name: &MomentName) -> Result<Moment, ChangeError> {
        let moment = self.resolve(name).await?;
        let (line, sequence) = (moment.line, moment.sequence);
        self.manifest
            .change(|state| {
                check_start(state, &moment)?;
                Ok::<_, ChangeError>((vec![ManifestRecord::PointPinned { line, sequence }], ()))
            })
            .await?;
        Ok(moment)
    }

    /// Lets a point go when its time comes.
    pub async fn unpin(&self, name: &MomentName) -> Result<Moment, ChangeError> {
        let moment = self.resolve(name).await?;
        let (line, sequence) = (moment.line, moment.sequence);
        self.manifest.append(vec![ManifestRecord::PointUnpinned { line, sequence }]).await?;
        Ok(moment)
    }

    /// Starts a branch at a moment. Costs one record, whatever the size.
    pub async fn add_branch(
        &self,
        moment: &Moment,
        name: Name,
    ) -> Result<BranchStatus, ChangeError> {
        let parent = self.line_of(moment)?;
        let started = self.start_branches(&[(parent, moment.clone())], &name).await?;
        Ok(started.into_iter().next().expect("one for each moment"))
    }

    /// Throws a branch away.
    pub async fn discard_branch(&self, machine: &Name, branch: &Name) -> Result<(), ChangeError> {
        let line = self.line_named(machine, Some(branch))?;
        let id = line.id();
        let what = || format!("branch {machine}~{branch}");
        self.manifest
            .change(|state| {
                if let Some(export) = state.exports.values().find(|export| export.line == id) {
                    let by = format!("export {} ({})", export.id, export.name);
                    return Err(ChangeError::InUse { what: what(), by });
                }
                let child = |line: &&crate::manifest::state::LineEntry| {
                    line.origin.is_some_and(|(parent, _)| parent == id)
                };
                if let Some(child) = state.lines.values().find(child) {
                    let name = child.branch.as_ref().map_or("?", Name::as_str);
                    let by = format!("branch {machine}~{name} starts from it");
                    return Err(ChangeError::InUse { what: what(), by });
                }
                let point = || format!("a point of {machine}~{branch}");
                check_unlocked(state, line.machine(), |entry| entry.id == id, point)?;
                Ok((vec![ManifestRecord::BranchDiscarded { line: id }], ()))
            })
            .await?;
        line.close();
        self.machines.write().lines.remove(&id);
        self.branch_blocks.lock().retain(|(of, _), _| *of != id);
        self.refresh_spans(line.machine());
        self.forget_lines(vec![id]).await?;
        Ok(())
    }

    /// Sets up an export.
    pub async fn add_export(&self, export: NewExport) -> Result<ExportStatus, ChangeError> {
        let line = self.line_named(&export.machine, export.branch.as_ref())?;
        let mut name = line_name(&export.machine, export.branch.as_ref());
        let unwritable = !line.is_branch() || line.is_sealed() || export.sequence.is_some();
        if export.writable && unwritable {
            return Err(ChangeError::NotWritable(name));
        }
        if let Some(sequence) = export.sequence {
            name = format!("{name}@seq:{sequence}");
        }
        let NewExport { sequence, writable, iscsi, .. } = &export;
        let (sequence, writable) = (*sequence, *writable);
        let (machine, branch) = (&export.machine, export.branch.as_ref());
        let id = self
            .manifest
            .change(|state| {
                let start = state.lines.get(&line.id()).and_then(|line| line.start.as_ref());
                if let Some((start, at)) = start.zip(sequence)
                    && at < start.sequence
                {
                    let line = line_name(machine, branch);
                    return Err(before_history(line, When::Sequence(at), start).into());
                }
                let export = state.given.export.next();
                let (name, line) = (name.clone(), line.id());
                let added = ManifestRecord::ExportAdded { export, name, line, sequence, writable };
                let set = iscsi.clone().map(|access| ManifestRecord::IscsiSet { export, access });
                Ok::<_, ChangeError>((std::iter::once(added).chain(set).collect(), export))
            })
            .await?;
        Ok(ExportStatus::new(&self.manifest.state().exports[&id]))
    }

    /// Removes an export, from the manifest: nobody finds it any more. Who has it open is whoever serves it to see to.
    pub async fn remove_export(&self, export: ExportId) -> Result<(), ChangeError> {
        self.manifest
            .change(|state| {
                if !state.exports.contains_key(&export) {
                    return Err(ChangeError::UnknownExport(export));
                }
                Ok((vec![ManifestRecord::ExportRemoved { export }], ()))
            })
            .await
    }

    /// Removes what the index has of lines that are gone. A crash before it leaves entries that nobody asks for.
    async fn forget_lines(&self, lines: Vec<LineId>) -> Result<(), AppendError> {
        let mut batch = IndexBatch::default();
        for line in lines {
            // Should another history still need a part, the rest goes when the index is compacted.
            if self.manifest.state().is_written_as(line) {
                continue;
            }
            let (start, end) = block_key::line_range(line);
            batch.remove_range(start, end);
            for (start, end) in moment_key::line_ranges(line) {
                batch.remove_range(start, end);
            }
            let (start, end) = tail_key::tail_range(line);
            batch.remove_range(start, end);
            let (start, end) = gap_key::line_range(line);
            batch.remove_range(start, end);
            let (start, end) = usage_key::line_range(line);
            batch.remove_range(start, end);
        }
        // What a crash leaves of them, or somebody writes who did not know yet, goes when the index is compacted.
        self.refresh_forgotten();
        let index = Arc::clone(&self.surroundings.index);
        offload(move || index.write(batch)).await?;
        Ok(())
    }
}

/// History still reaches back to `moment`.
pub(crate) fn check_start(state: &ManifestState, moment: &Moment) -> Result<(), ResolveError> {
    let start = state.lines.get(&moment.line).and_then(|line| line.start.as_ref());
    match start.filter(|start| moment.sequence < start.sequence) {
        None => Ok(()),
        Some(start) => {
            let line = line_name(&moment.machine, moment.branch.as_ref());
            Err(before_history(line, When::Sequence(moment.sequence), start))
        }
    }
}

fn check_new_machine(state: &ManifestState, machine: &NewMachine) -> Result<(), ChangeError> {
    if state.machine_named(&machine.name).is_some() {
        return Err(ChangeError::Exists { what: "machine", name: machine.name.clone() });
    }
    if !(1..=MAX_DISKS).contains(&machine.disks.len()) {
        return Err(ChangeError::DiskCount(machine.disks.len()));
    }
    check_length("the display name", &machine.display_name, MAX_TEXT_BYTES)?;
    for (index, disk) in machine.disks.iter().enumerate() {
        check_new_disk(state, disk)?;
        let earlier = &machine.disks[..index];
        if earlier.iter().any(|other| other.name == disk.name) {
            return Err(ChangeError::Exists { what: "disk", name: disk.name.clone() });
        }
        let path = &disk.image.path;
        if let Some(own) = earlier.iter().find(|other| other.image.path == *path) {
            return Err(ChangeError::ImageTaken { path: path.clone(), disk: own.name.clone() });
        }
    }
    Ok(())
}

/// That a disk can be protected, as far as it alone says.
pub(crate) fn check_new_disk(state: &ManifestState, disk: &NewDisk) -> Result<(), ChangeError> {
    check_length("the format", &disk.image.format, MAX_TEXT_BYTES)?;
    check_length("the path of an image", &disk.image.path, MAX_PATH_BYTES)?;
    check_size(&disk.name, disk.image.size_bytes)?;
    let path = &disk.image.path;
    match state.disks.values().find(|other| other.image == *path) {
        None => Ok(()),
        Some(other) => {
            Err(ChangeError::ImageTaken { path: path.clone(), disk: other.name.clone() })
        }
    }
}

/// That a disk can have this size.
pub(crate) fn check_size(disk: &Name, size_bytes: u64) -> Result<(), ChangeError> {
    if size_bytes == 0 || size_bytes > MAX_DISK_SIZE || !size_bytes.is_multiple_of(SECTOR) {
        return Err(ChangeError::Size { disk: disk.clone(), size_bytes });
    }
    Ok(())
}

fn check_length(what: &'static str, text: &str, limit: usize) -> Result<(), ChangeError> {
    let bytes = text.len();
    if bytes > limit { Err(ChangeError::TooLong { what, bytes, limit }) } else { Ok(()) }
}

fn machine_records(
    state: &ManifestState,
    machine: &NewMachine,
    id: MachineId,
    lanes: u32,
) -> Vec<ManifestRecord> {
    let group: GroupId = state.given.group.next();
    let lane = u16::try_from(group.number() % lanes).expect("below the number of lanes");
    let mut records = vec![ManifestRecord::MachineAdded {
        machine: id,
        name: machine.name.clone(),
        display_name: machine.display_name.clone(),
        group,
        trunk: state.given.line.next(),
        lane: LaneId::new(lane),
    }];
    let mut disk: DiskId = state.given.disk;
    for new in &machine.disks {
        disk = disk.next();
        records.push(disk_record(id, disk, new));
    }
    records
}

/// The record of a new disk.
pub(crate) fn disk_record(machine: MachineId, disk: DiskId, new: &NewDisk) -> ManifestRecord {
    ManifestRecord::DiskAdded {
        disk,
        machine,
        name: new.name.clone(),
        size_bytes: new.image.size_bytes,
        format: new.image.format.clone(),
        image: new.image.path.clone(),
    }
}
