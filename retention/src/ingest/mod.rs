//! Ingest: machines that are fed by whoever writes to their disks, as a hypervisor's mirror does, without a word of
//! positions, passes or points.
//!
//! ```text
//!   client ─▶ FedDisk ─▶ what differs ─▶ stream of the machine ─▶ image (first copy) │ journal
//!                │
//!                └─ flush, farewell, error ─▶ round: are the disks one moment? ─▶ point │ order ends
//! ```
//!
//! Everything below is a stream as any other: seeds, records, order and points are those of `stream`. What is decided here
//! is what a client of a disk cannot say: that a write was made before, and when the disks of a machine are one moment
//! (`round`). **Invariants:** a write is answered when it is durable, in a first copy too. One client at a time writes to a
//! disk. A machine is fed so or by a stream with positions, never by both; a promotion ends it.

mod compare;
mod disk;
mod feed;
mod refused;
mod round;

pub use disk::FedDisk;
pub use feed::{FedDiskStatus, FeedStatus};
pub use round::Writer;

use crate::change::ChangeError;
use crate::ids::MachineId;
use crate::manifest::record::ManifestRecord;
use crate::moment::ResolveError;
use crate::name::{Label, Name};
use crate::point::{Point, PointKind};
use crate::replica::ReplicaDisk;
use crate::retention::Retention;
use crate::stream::StreamError;
use crate::time::Timestamp;
pub(crate) use feed::Feed;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// What the writes of a machine that is fed through its disks mean for its moments.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum IngestMode {
    /// They come in any order. What the disks hold is a moment when all clients have left in good order, or when somebody
    /// says so.
    Sync,
    /// Somebody vouches that they come in the order in which they were made, and are done for whoever made them when they
    /// were answered. From a mark on every one of them is a moment, until anything goes wrong.
    Ordered,
}

impl IngestMode {
    /// The word for listings, the API and the command line.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Sync => "sync",
            Self::Ordered => "ordered",
        }
    }
}

impl fmt::Display for IngestMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.word())
    }
}

impl FromStr for IngestMode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let modes = [Self::Sync, Self::Ordered];
        let found = modes.into_iter().find(|mode| mode.word() == text);
        found.ok_or_else(|| format!("{text:?} is no mode of ingest: write sync or ordered"))
    }
}

/// Why nobody is let in, or no point is made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IngestError {
    /// Somebody writes to the disk.
    #[error("{machine}/{disk} is being written by {} since {}; one client at a time does", .writer.peer, .writer.since)]
    Busy {
        /// The machine.
        machine: Name,
        /// The disk.
        disk: Name,
        /// Who it is.
        writer: Writer,
    },
    /// The machine or disk does not exist.
    #[error(transparent)]
    Resolve(#[from] ResolveError),
    /// The machine takes nothing.
    #[error(transparent)]
    Stream(#[from] StreamError),
    /// A disk of the machine was never written to: what it holds is no copy of anything.
    #[error(
        "disk {disk} of machine {machine} was not copied yet, and a point is of all disks; copy it first"
    )]
    NotCopied {
        /// The machine.
        machine: Name,
        /// The disk.
        disk: Name,
    },
    /// Several connections have no order among each other that could be vouched for here.
    #[error(
        "machine {machine} has {disks} disks: should one of several mirrors fail, the others go on for a while, and what came \
         then is no moment; order over NBD is for machines with one disk"
    )]
    OrderOfSeveral {
        /// The machine.
        machine: Name,
        /// How many it has.
        disks: usize,
    },
}

impl Retention {
    /// How a machine is fed through its disks, if it is.
    pub fn ingest_mode(&self, machine: &Name) -> Option<IngestMode> {
        let state = self.manifest.state();
        let id = state.machine_named(machine)?.id;
        state.ingests.get(&id).copied()
    }

    /// Has a machine be fed through its disks from now on, or no longer. Nobody may be feeding it. Durable on return.
    pub async fn set_ingest(
        &self,
        machine: &Name,
        mode: Option<IngestMode>,
    ) -> Result<(), ChangeError> {
        let shaping = self.shaping(machine)?;
        let _opening = shaping.slot.opening.lock().await;
        shaping.check_idle(machine)?;
        let id = shaping.id;
        self.manifest
            .change(|state| {
                if !state.machines.contains_key(&id) {
                    return Err(ChangeError::from(Self::unknown_machine(state, machine)));
                }
                let there = |disk: &&crate::manifest::state::DiskEntry| {
                    disk.machine == id && disk.span.until.is_none()
                };
                let disks = state.disks.values().filter(there).count();
                if mode == Some(IngestMode::Ordered) && disks > 1 {
                    let machine = machine.clone();
                    return Err(IngestError::OrderOfSeveral { machine, disks }.into());
                }
                let changes = state.ingests.get(&id).copied() != mode;
                let record = ManifestRecord::IngestSet { machine: id, mode };
                Ok((changes.then_some(record).into_iter().collect(), ()))
            })
            .await
    }

    /// A disk of a machine that is fed through its disks, for a client that `peer` says who it is. It reads as the disk is
    /// now; writes are taken between [`FedDisk::enter`] and [`FedDisk::leave`].
    pub fn fed_disk(
        self: &Arc<Self>,
        machine: &Name,
        disk: &Name,
        peer: String,
    ) -> Result<Arc<FedDisk>, IngestError> {
        let id = self.machine_id(machine)?;
        let line = self.line_named(machine, None)?;
        self.check_not_destroyed(machine)?;
        let replica = self.disk_named(machine, disk)?;
        if let Some(until) = replica.span().until {
            let (disk, line) = (disk.clone(), machine.to_string());
            return Err(ResolveError::DiskRemoved { disk, line, until }.into());
        }
        Ok(Arc::new(FedDisk::new(self, self.feed(id, machine), (line, replica), peer)))
    }

    /// Makes a point of what the disks of such a machine hold: whoever asks says that it is one moment of all of them. Where
    /// the machine is fed in order, that order begins with it.
    pub async fn mark_fed(
        &self,
        machine: &Name,
        kind: PointKind,
        label: Option<Label>,
    ) -> Result<Point, IngestError> {
        let id = self.machine_id(machine)?;
        self.feed(id, machine).mark(self, kind, label).await
    }

    /// How a machine is being fed through its disks, if it is such a one.
    pub fn feed_status(&self, machine: &Name) -> Option<FeedStatus> {
        let mode = self.ingest_mode(machine)?;
        let id = self.machine_id(machine).ok()?;
        Some(self.feed(id, machine).status(mode, &self.fed_disks(id)))
    }

    fn feed(&self, machine: MachineId, name: &Name) -> Arc<Feed> {
        let mut feeds = self.feeds.lock();
        if !feeds.contains_key(&machine) {
            let state = self.manifest.state();
            feeds.retain(|machine, _| state.machines.contains_key(machine));
        }
        let made = || Arc::new(Feed::new(machine, name.clone()));
        Arc::clone(feeds.entry(machine).or_insert_with(made))
    }

    /// The disks that a machine has now.
    fn fed_disks(&self, machine: MachineId) -> Vec<Arc<ReplicaDisk>> {
        let machines = self.machines.read();
        let there =
            |disk: &&Arc<ReplicaDisk>| disk.machine() == machine && disk.span().until.is_none();
        machines.disks.values().filter(there).cloned().collect()
    }

    /// A time for whoever reads of what happened.
    fn now(&self) -> Timestamp {
        self.surroundings.clock.now()
    }
}
