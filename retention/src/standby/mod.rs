//! Standby files: a second plain file of each disk, brought forward from point to point, that a hypervisor boots from without
//! this program.
//!
//! ```text
//!   files at P ─▶ "between P and Q" beside each ─▶ what changed between P and Q ─▶ flush ─▶ "at Q" beside each
//!                 sidecar/                          copying.rs                              sidecar/
//! ```
//!
//! All disks of a machine move as one set. Nothing of history is ever read from a standby, and none holds history back: where
//! history no longer has what a file holds, the file is compared with the point it is to hold, and what differs is written.
//! `docs/decisions/0018-standby-files.md` says why.
//!
//! **Invariants:** a sidecar that names a point stands beside a file that durably is that point. A file that somebody else wrote
//! is not written to unless somebody says so. Where anything is not sure, all of the file is looked at.

mod checking;
mod copying;
mod keeping;
mod known;
mod moving;
mod place;
pub mod sidecar;
mod status;

pub use checking::{NotChecked, StandbyChecked, StandbyFound};
pub use known::NotOurs;
pub use moving::{StandbyOrder, StandbyProgress, StandbyReport};
pub use place::StandbyPlaces;
pub use status::{StandbyFile, StandbyLag, StandbyStatus};

use crate::changes::ChangesError;
use crate::ids::MachineId;
use crate::manifest::ManifestError;
use crate::manifest::standby::StandbyEntry;
use crate::manifest::state::Machine;
use crate::moment::ResolveError;
use crate::name::Name;
use crate::retention::Retention;
use known::Owner;
use landfall_disks::DiskError;
use landfall_disks::file::FileError;
use landfall_disks::image::ImageError;
use parking_lot::Mutex;
use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Standby files are not brought forward more often.
pub const LEAST_INTERVAL: Duration = Duration::from_secs(10);
/// Nor is less often a standby.
pub const MOST_INTERVAL: Duration = Duration::from_secs(30 * 86_400);

/// Why standby files were not brought to a moment, or are not kept.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StandbyError {
    /// The machine has none.
    #[error("machine {machine} has no standby; add one: landfall standby add {machine} --dir DIR")]
    None {
        /// The machine.
        machine: Name,
    },
    /// The machine has some.
    #[error(
        "machine {machine} has a standby in {folder}; remove it first: landfall standby remove {machine}"
    )]
    Exists {
        /// The machine.
        machine: Name,
        /// Where.
        folder: String,
    },
    /// Something that no standby can be.
    #[error("{0}")]
    Impossible(String),
    /// They are being brought to a moment.
    #[error(
        "the standby of {machine} is being written already; landfall standby show {machine} tells how far it is"
    )]
    UnderWay {
        /// The machine.
        machine: Name,
    },
    /// A moment that no standby is to hold.
    #[error("{0}")]
    WrongMoment(String),
    /// There is no such moment, or not for the machine's disks.
    #[error(transparent)]
    Resolve(#[from] ResolveError),
    /// What changed cannot be told.
    #[error(transparent)]
    Changes(ChangesError),
    /// A file that is not written to.
    #[error("{path}: {why}")]
    NotOurs {
        /// Which.
        path: PathBuf,
        /// Why.
        why: NotOurs,
    },
    /// Files were written there, and none is left.
    #[error(
        "{folder}: its files are gone, all of them; is its file system mounted? \
         If they were removed on purpose: landfall standby sync {machine} --overwrite"
    )]
    Emptied {
        /// The machine.
        machine: Name,
        /// Where.
        folder: String,
    },
    /// A file that cannot become what it is to be.
    #[error(
        "{path}: it has {has_bytes} bytes and the point has {wanted_bytes}: a standby does not shrink; \
         restore the point instead, or remove the file with its .landfall file"
    )]
    Shrinks {
        /// Which.
        path: PathBuf,
        /// What it has.
        has_bytes: u64,
        /// What it is to have.
        wanted_bytes: u64,
    },
    /// The folder cannot be used.
    #[error("the folder of the standby: {0}")]
    Folder(#[from] FileError),
    /// An image cannot be made or opened.
    #[error("{}", named(.path, .source))]
    Image {
        /// Which.
        path: PathBuf,
        /// Why.
        source: Box<ImageError>,
    },
    /// An image cannot be written.
    #[error("{}", named(.path, .source))]
    Write {
        /// Which.
        path: PathBuf,
        /// Why.
        source: DiskError,
    },
    /// History cannot be read.
    #[error("disk {disk} cannot be read at {moment}: {source}")]
    Read {
        /// Which disk.
        disk: Name,
        /// At which moment.
        moment: String,
        /// Why.
        source: DiskError,
    },
    /// The machine was removed meanwhile.
    #[error("the machine or its standby was removed")]
    Gone,
    /// The manifest failed.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
}

/// What is wrong, with the file that it is wrong with; some say that themselves.
fn named(path: &Path, source: &dyn fmt::Display) -> String {
    let (path, source) = (path.display().to_string(), source.to_string());
    if source.contains(&path) { source } else { format!("{path}: {source}") }
}

impl StandbyError {
    /// Whether another process has a file, for now.
    pub fn is_locked(&self) -> bool {
        let Self::Image { source, .. } = self else { return false };
        matches!(
            **source,
            ImageError::File(FileError::Locked { .. })
                | ImageError::Disk(DiskError::File(FileError::Locked { .. }))
        )
    }
}

/// Machines whose files are being written.
#[derive(Default)]
pub(crate) struct UnderWay(Mutex<BTreeSet<MachineId>>);

/// One of them, until it is dropped.
struct Moves<'a> {
    under_way: &'a UnderWay,
    machine: MachineId,
}

impl UnderWay {
    fn begin(&self, machine: MachineId) -> Option<Moves<'_>> {
        let free = self.0.lock().insert(machine);
        free.then_some(Moves { under_way: self, machine })
    }
}

impl Drop for Moves<'_> {
    fn drop(&mut self) {
        self.under_way.0.lock().remove(&self.machine);
    }
}

impl Retention {
    fn standby_of(&self, machine: &Name) -> Result<(MachineId, StandbyEntry), StandbyError> {
        let id = self.machine_id(machine)?;
        let entry = self.manifest.state().standbys.get(&id).cloned();
        let entry = entry.ok_or_else(|| StandbyError::None { machine: machine.clone() })?;
        Ok((id, entry))
    }

    /// The disks of a machine, and whose their files are to be.
    fn standby_disks(&self, id: MachineId) -> Vec<(Name, Owner)> {
        let target = self.manifest.folder_id();
        let state = self.manifest.state();
        let disks = state.machines.get(&id).map(|machine: &Machine| machine.disks.clone());
        let named = disks.into_iter().flatten().filter_map(|disk| {
            let owner = Owner { target, machine: id, disk };
            Some((state.disks.get(&disk)?.name.clone(), owner))
        });
        named.collect()
    }
}
