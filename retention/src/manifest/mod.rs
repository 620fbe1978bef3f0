//! `MANIFEST`: the small, flushed log of everything that cannot be derived from the journal.
//!
//! ```text
//!   append: frame → write → flush → state        open: snapshot + frames → state, a torn last frame is cut off
//!   snapshot: MANIFEST.new → flush → rename over MANIFEST → sync folder
//! ```
//!
//! **Invariants:** the state in memory never holds a record that is not durable. A damaged frame that is followed by
//! an undamaged one is media damage and refuses to open; only a torn last frame, which nobody was told of, is cut off.
//! After a failed write the manifest refuses further ones until it is reopened.

pub mod format;
pub mod record;
pub mod state;

use crate::manifest::format::{FrameError, HEADER_BYTES};
use crate::manifest::record::ManifestRecord;
use crate::manifest::state::{ManifestState, Misfit};
use landfall_disks::Buffer;
use landfall_disks::file::{Caching, FileError, FileIo, Folder, OpenMode};
use parking_lot::{RwLock, RwLockReadGuard};
use std::path::Path;
use std::sync::Arc;
use tokio::sync::Mutex;

/// File name in the data folder.
pub const FILE_NAME: &str = "MANIFEST";
const NEW_FILE_NAME: &str = "MANIFEST.new";
/// The log is rewritten as a snapshot when it is longer than this and the snapshot would be a quarter of it.
const SNAPSHOT_BYTES: u64 = 1 << 20;
/// Longest manifest that is read: millions of machines.
const MAX_MANIFEST_BYTES: u64 = 4 << 30;

/// Why the manifest cannot be opened or written.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// The file below failed.
    #[error(transparent)]
    File(#[from] FileError),
    /// The header or a frame that others follow is damaged.
    #[error(
        "MANIFEST is damaged at byte {offset}: {source}; restore it from a copy, nothing was changed"
    )]
    Damaged {
        /// Where.
        offset: u64,
        /// What is wrong there.
        source: FrameError,
    },
    /// Records that contradict each other.
    #[error("MANIFEST contradicts itself at byte {offset}: {source}")]
    Misfit {
        /// Where.
        offset: u64,
        /// What does not fit.
        source: Misfit,
    },
    /// The file is longer than any manifest.
    #[error("MANIFEST has {0} bytes, more than any manifest")]
    TooLong(u64),
    /// An earlier write failed.
    #[error("an earlier write to MANIFEST failed; the service must be restarted")]
    Poisoned,
}

/// The open manifest.
pub struct Manifest {
    folder: Arc<dyn Folder>,
    folder_id: [u8; 16],
    state: RwLock<ManifestState>,
    log: Mutex<Log>,
}

/// The end of the log, held by whoever appends.
struct Log {
    file: Arc<dyn FileIo>,
    length: u64,
    next_number: u64,
    snapshot_at: u64,
    poisoned: bool,
}

impl Manifest {
    /// Opens the manifest in `folder`, or makes one for a new data folder that is called `new_folder_id`.
    pub async fn open(
        folder: Arc<dyn Folder>,
        new_folder_id: [u8; 16],
    ) -> Result<Self, ManifestError> {
        let path = Path::new(FILE_NAME);
        match folder.open(path, OpenMode::ReadWrite, Caching::Buffered).await {
            Ok(file) => Self::load(folder, file).await,
            Err(FileError::NotFound { .. }) => {
                let state = ManifestState::default();
                let log = write_snapshot(&*folder, new_folder_id, &state).await?;
                install_snapshot(&*folder).await?;
                Ok(Self::assemble(folder, new_folder_id, state, log))
            }
            Err(error) => Err(error.into()),
        }
    }

    fn assemble(
        folder: Arc<dyn Folder>,
        folder_id: [u8; 16],
        state: ManifestState,
        log: Log,
    ) -> Self {
        Self { folder, folder_id, state: RwLock::new(state), log: Mutex::new(log) }
    }

    async fn load(folder: Arc<dyn Folder>, file: Arc<dyn FileIo>) -> Result<Self, ManifestError> {
        let length = file.length().await?;
        if length > MAX_MANIFEST_BYTES {
            return Err(ManifestError::TooLong(length));
        }
        let size = usize::try_from(length).map_err(|_| ManifestError::TooLong(length))?;
        let bytes = file.read_at(0, Buffer::zeroed(size)).await?;
        let damaged =
            |offset: usize, source| ManifestError::Damaged { offset: offset as u64, source };
        let folder_id = format::parse_header(&bytes).map_err(|source| damaged(0, source))?;
        let mut state = ManifestState::default();
        let (mut at, mut number) = (HEADER_BYTES, 0);
        while at < bytes.len() {
            match format::parse_frame(&bytes[at..], number) {
                Ok((records, frame)) => {
                    for record in &records {
                        state.apply(record).map_err(|source| ManifestError::Misfit {
                            offset: at as u64,
                            source,
                        })?;
                    }
                    at += frame;
                    number += 1;
                }
                Err(FrameError::Short | FrameError::Checksum | FrameError::Field("length"))
                    if !frame_follows(&bytes[at..], number) =>
                {
                    break;
                }
                Err(source) => return Err(damaged(at, source)),
            }
        }
        if number == 0 {
            return Err(damaged(HEADER_BYTES, FrameError::Short));
        }
        if at < bytes.len() {
            tracing::info!(offset = at, "cut a torn last frame off MANIFEST");
            file.set_length(at as u64).await?;
            file.flush().await?;
        }
        Ok(Self::assemble(folder, folder_id, state, Log::new(file, at as u64, number)))
    }

    /// What all records so far add up to.
    pub fn state(&self) -> RwLockReadGuard<'_, ManifestState> {
        self.state.read()
    }

    /// Sixteen random bytes by which this data folder is told from others.
    pub fn folder_id(&self) -> [u8; 16] {
        self.folder_id
    }

    /// Appends what `decide` makes of the present state; durable when this returns. Changes follow one another, so
    /// what `decide` saw is still true when its records are written. No records: nothing happens.
    pub async fn change<T, E>(
        &self,
        decide: impl FnOnce(&ManifestState) -> Result<(Vec<ManifestRecord>, T), E>,
    ) -> Result<T, E>
    where
        E: From<ManifestError>,
    {
        let mut log = self.log.lock().await;
        let (records, answer) = decide(&self.state.read())?;
        if records.is_empty() {
            return Ok(answer);
        }
        let mut after = self.state.read().clone();
        for record in &records {
            let applied = after.apply(record);
            assert!(applied.is_ok(), "decided on a record that does not fit: {applied:?}");
        }
        log.append(&records).await.map_err(E::from)?;
        *self.state.write() = after;
        if log.length > log.snapshot_at {
            self.rewrite(&mut log).await.map_err(E::from)?;
        }
        Ok(answer)
    }

    /// Appends records that depend on nothing.
    pub async fn append(&self, records: Vec<ManifestRecord>) -> Result<(), ManifestError> {
        self.change(|_| Ok((records, ()))).await
    }

    async fn rewrite(&self, log: &mut Log) -> Result<(), ManifestError> {
        let state = self.state.read().clone();
        match write_snapshot(&*self.folder, self.folder_id, &state).await {
            Ok(snapshot) => {
                // Should the rename fail, which file is MANIFEST is not known: nothing may be appended to either.
                log.poisoned = true;
                install_snapshot(&*self.folder).await?;
                *log = snapshot;
            }
            Err(error) => {
                tracing::warn!(%error, "MANIFEST could not be rewritten as a snapshot; it goes on growing");
                log.snapshot_at = log.snapshot_at.saturating_mul(2);
            }
        }
        Ok(())
    }
}

impl Log {
    fn new(file: Arc<dyn FileIo>, length: u64, next_number: u64) -> Self {
        let snapshot_at = (length * 4).max(SNAPSHOT_BYTES);
        Self { file, length, next_number, snapshot_at, poisoned: false }
    }

    async fn append(&mut self, records: &[ManifestRecord]) -> Result<(), ManifestError> {
        if self.poisoned {
            return Err(ManifestError::Poisoned);
        }
        let mut frame = Vec::new();
        format::encode_frame(self.next_number, records, &mut frame);
        // Until it is durable the frame may or may not come back after a crash: no second one may follow it.
        self.poisoned = true;
        match self.file.write_at(self.length, Buffer::copy_of(&frame)).await {
            Ok(_) => self.file.flush().await?,
            Err(FileError::NoSpace { path }) => {
                self.file.set_length(self.length).await?;
                self.file.flush().await?;
                self.poisoned = false;
                return Err(FileError::NoSpace { path }.into());
            }
            Err(error) => return Err(error.into()),
        }
        self.poisoned = false;
        self.length += frame.len() as u64;
        self.next_number += 1;
        Ok(())
    }
}

/// Writes the state as `MANIFEST.new`; gives the log that goes on after it.
async fn write_snapshot(
    folder: &dyn Folder,
    folder_id: [u8; 16],
    state: &ManifestState,
) -> Result<Log, ManifestError> {
    let new_path = Path::new(NEW_FILE_NAME);
    match folder.remove(new_path).await {
        Ok(()) | Err(FileError::NotFound { .. }) => {}
        Err(error) => return Err(error.into()),
    }
    let mut bytes = format::encode_header(folder_id).to_vec();
    let mut number = 0;
    for records in state.records().chunks(64) {
        format::encode_frame(number, records, &mut bytes);
        number += 1;
    }
    let file = folder.open(new_path, OpenMode::CreateNew, Caching::Buffered).await?;
    file.write_at(0, Buffer::copy_of(&bytes)).await?;
    file.flush().await?;
    Ok(Log::new(file, bytes.len() as u64, number))
}

/// Puts `MANIFEST.new` in place.
async fn install_snapshot(folder: &dyn Folder) -> Result<(), ManifestError> {
    folder.rename(Path::new(NEW_FILE_NAME), Path::new(FILE_NAME)).await?;
    folder.sync(Path::new("")).await?;
    Ok(())
}

/// Whether an undamaged frame with a later number stands somewhere in `bytes` after its start.
fn frame_follows(bytes: &[u8], number: u64) -> bool {
    (8..bytes.len())
        .step_by(8)
        .filter_map(|at| format::frame_number(&bytes[at..]))
        .any(|found| found > number)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{GroupId, LaneId, LineId, MachineId};
    use crate::name::Name;
    use landfall_disks::faults::{FaultFolder, Seed, run};

    fn machine(number: u32) -> ManifestRecord {
        ManifestRecord::MachineAdded {
            machine: MachineId::new(number),
            name: Name::parse(&format!("m{number}")).unwrap(),
            display_name: String::new(),
            group: GroupId::new(number),
            trunk: LineId::new(number),
            lane: LaneId::new(0),
        }
    }
}
