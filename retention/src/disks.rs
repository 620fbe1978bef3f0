//! Disks that change while history goes on: they join a machine, and leave it. How they grow is in `growth.rs`.
//!
//! ```text
//!   add    ─▶ DiskAdded ─▶ first copy ─▶ DiskJoined: every later moment has it
//!   remove ─▶ DiskRemoved at the tail ─▶ no later moment has it ─▶ a fold past it: DiskForgotten
//! ```
//!
//! **Invariant:** what a moment has, it keeps. So each of these happens between two points, while
//! nobody feeds the machine; older moments stay as they are until history begins after them.

use crate::change::{ChangeError, MAX_DISKS, NewDisk, check_new_disk, disk_record};
use crate::ids::{DiskId, DiskIdentity, MachineId, Sequence};
use crate::image_hashes::{self, Described, ImageHashes};
use crate::index::block_key::disk_range;
use crate::index::{IndexBatch, IndexError};
use crate::line::Line;
use crate::manifest::ManifestError;
use crate::manifest::record::ManifestRecord;
use crate::manifest::state::{DiskEntry, ManifestState};
use crate::moment::ResolveError;
use crate::name::Name;
use crate::replica::opening::make_image;
use crate::replica::{Image, ReplicaDisk};
use crate::retention::Retention;
use crate::stream::StreamSlot;
use landfall_disks::uring::offload;
use std::sync::Arc;

/// Keeps streams away from a machine while its disks change.
pub(crate) struct Shaping {
    pub(crate) id: MachineId,
    pub(crate) line: Arc<Line>,
    pub(crate) slot: Arc<StreamSlot>,
}

impl Retention {
    /// Takes over what the manifest says now, of all disks of a machine.
    pub(crate) fn refresh_spans(&self, machine: MachineId) {
        let machines = self.machines.read();
        let of_machine = machines.disks.values().filter(|disk| disk.machine() == machine);
        of_machine.for_each(|disk| self.refresh_span(disk));
    }

    /// Takes over what the manifest says now.
    pub(crate) fn refresh_span(&self, replica: &ReplicaDisk) {
        let span = self.manifest.state().disks.get(&replica.id()).map(|entry| entry.span.clone());
        span.into_iter().for_each(|span| replica.set_span(span));
    }

    /// Adds a disk to a machine that may have points. Those do not have it; the first that does is the one that ends its
    /// first copy. Recorded first: after a crash in between, opening makes the image.
    pub async fn add_disk(&self, machine: &Name, new: NewDisk) -> Result<(), ChangeError> {
        let shaping = self.shaping(machine)?;
        let id = shaping.id;
        let decide = |state: &ManifestState| {
            check_joining(state, id, &new)?;
            let disk = state.given.disk.next();
            Ok((vec![disk_record(id, disk, &new)], disk))
        };
        let disk = self.manifest.change::<_, ChangeError>(decide).await?;
        let identity = DiskIdentity::of(self.manifest.folder_id(), disk);
        let store = &*self.surroundings.images;
        match make_image(store, &new.image, identity, new.adopt).await {
            Ok(image) => {
                let of = Described { disk, folder: self.manifest.folder_id() };
                let data = &*self.surroundings.data;
                let hashes = ImageHashes::create(data, of, !new.adopt, &self.hash_cache).await;
                let state = self.manifest.state();
                // The machine may have been removed meanwhile.
                if let Some(entry) = state.disks.get(&disk) {
                    let image = Image::Present(image);
                    let replica = ReplicaDisk::new(entry, image, !new.adopt, hashes);
                    self.machines.write().disks.insert(disk, Arc::new(replica));
                }
                Ok(())
            }
            Err(source) => {
                let until = Sequence::default();
                let removed = ManifestRecord::DiskRemoved { disk, until };
                let forgotten = ManifestRecord::DiskForgotten { disk };
                self.manifest.append(vec![removed, forgotten]).await?;
                let path = new.image.path.clone();
                Err(ChangeError::Image { path, source: Box::new(source) })
            }
        }
    }

    /// Protects a disk no longer. Moments up to now keep it until history begins after them; its image file stays where it
    /// is, and belongs to the target until then. True if it is gone at once, since it had no complete copy.
    pub async fn remove_disk(&self, machine: &Name, disk: &Name) -> Result<bool, ChangeError> {
        let shaping = self.shaping(machine)?;
        let _opening = shaping.slot.opening.lock().await;
        shaping.check_idle(machine)?;
        let replica = self.present_disk(machine, disk)?;
        let _shape = shaping.line.shared().shape.write().await;
        let gone = replica.floor().is_none();
        let decide = |state: &ManifestState| {
            let others = present(state, shaping.id).filter(|other| other.id != replica.id());
            if others.count() == 0 {
                let (machine, disk) = (machine.clone(), disk.clone());
                return Err(ChangeError::LastDisk { machine, disk });
            }
            let (disk, until) = (replica.id(), shaping.line.tail().sequence);
            let mut records = vec![ManifestRecord::DiskRemoved { disk, until }];
            records.extend(gone.then_some(ManifestRecord::DiskForgotten { disk }));
            Ok((records, ()))
        };
        self.manifest.change(decide).await?;
        match gone {
            true => {
                self.machines.write().disks.remove(&replica.id());
                self.remove_hashes(replica.id()).await;
            }
            false => self.refresh_span(&replica),
        }
        Ok(gone)
    }

    /// Lets go of removed disks that no moment from `start` on has. A crash in between leaves entries of the index that
    /// nobody asks for.
    pub(crate) async fn forget_disks(
        &self,
        line: &Line,
        start: Sequence,
    ) -> Result<(), ForgetDisksError> {
        let machine = line.machine();
        let decide = |state: &ManifestState| {
            let gone = |disk: &&DiskEntry| {
                disk.machine == machine && disk.span.until.is_some_and(|until| until < start)
            };
            let gone: Vec<DiskId> = state.disks.values().filter(gone).map(|disk| disk.id).collect();
            let record = |disk: &DiskId| ManifestRecord::DiskForgotten { disk: *disk };
            Ok((gone.iter().map(record).collect(), gone))
        };
        let gone = self.manifest.change::<_, ManifestError>(decide).await?;
        if gone.is_empty() {
            return Ok(());
        }
        self.machines.write().disks.retain(|disk, _| !gone.contains(disk));
        let mut batch = IndexBatch::default();
        for disk in gone {
            self.remove_hashes(disk).await;
            for stretch in line.ancestry().stretches {
                let (start, end) = disk_range(stretch.line, disk);
                batch.remove_range(start, end);
            }
        }
        let index = Arc::clone(&self.surroundings.index);
        offload(move || index.write(batch)).await?;
        Ok(())
    }

    async fn remove_hashes(&self, disk: DiskId) {
        if let Err(error) = image_hashes::remove(&*self.surroundings.data, disk).await {
            tracing::warn!(?disk, %error, "its block hashes stay until the next start");
        }
    }

    pub(crate) fn shaping(&self, machine: &Name) -> Result<Shaping, ChangeError> {
        let id = self.machine_id(machine)?;
        let line = self.line_named(machine, None)?;
        let slot = self.machines.read().streams.get(&id).cloned();
        // It was removed since.
        let gone = || Self::unknown_machine(&self.manifest.state(), machine);
        Ok(Shaping { id, line, slot: slot.ok_or_else(gone)? })
    }

    /// A disk that was not removed.
    pub(crate) fn present_disk(
        &self,
        machine: &Name,
        disk: &Name,
    ) -> Result<Arc<ReplicaDisk>, ChangeError> {
        let replica = self.disk_named(machine, disk)?;
        match replica.span().until {
            None => Ok(replica),
            Some(until) => {
                let (disk, line) = (disk.clone(), machine.to_string());
                Err(ResolveError::DiskRemoved { disk, line, until }.into())
            }
        }
    }
}

impl Shaping {
    /// Nobody feeds the machine. The slot must be locked against openings.
    pub(crate) fn check_idle(&self, machine: &Name) -> Result<(), ChangeError> {
        match &self.slot.inner.lock().holder {
            None => Ok(()),
            Some(holder) => Err(ChangeError::InUse {
                what: format!("machine {machine}"),
                by: format!("replication from {}; stop it first", holder.peer),
            }),
        }
    }
}

/// Why removed disks were not forgotten.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ForgetDisksError {
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    #[error(transparent)]
    Index(#[from] IndexError),
}

/// The disks a machine has now.
fn present(state: &ManifestState, machine: MachineId) -> impl Iterator<Item = &DiskEntry> {
    let there = move |disk: &&DiskEntry| disk.machine == machine && disk.span.until.is_none();
    state.disks.values().filter(there)
}

fn check_joining(state: &ManifestState, id: MachineId, new: &NewDisk) -> Result<(), ChangeError> {
    match state.disk_named(id, &new.name).map(|entry| entry.span.until) {
        None => {}
        Some(None) => return Err(ChangeError::Exists { what: "disk", name: new.name.clone() }),
        Some(Some(until)) => {
            return Err(ChangeError::RemovedDisk { disk: new.name.clone(), until });
        }
    }
    let count = state.disks.values().filter(|disk| disk.machine == id).count() + 1;
    if count > MAX_DISKS {
        return Err(ChangeError::DiskCount(count));
    }
    check_new_disk(state, new)
}
