//! `MANIFEST`: the small, flushed log of everything that cannot be derived from the journal.
//!
//! ```text
//!   append: frame → write → flush → state        open: snapshot + frames → state, a torn last frame is cut off
//!   snapshot: MANIFEST.new → flush → rename over MANIFEST → sync folder
//! ```
//!
//! **Invariants:** the state in memory never holds a record that is not durable. A damaged frame that is followed by
//! an undamaged one is media damage and refuses to open; only a torn last frame, which nobody was told of, is cut off.
//! After a failed write the manifest refuses further ones until it is reopened. A change that takes a wrapped key away ends
//! with a file that does not have it, and with the one before overwritten.

mod aborts;
pub mod compacted;
mod disks;
pub mod dropped;
pub mod format;
pub mod groups;
pub mod history;
mod ingest;
pub mod integrity;
pub mod iscsi;
mod keeping;
pub mod keys;
pub mod lineage;
pub mod record;
pub mod released;
pub mod standby;
pub mod state;
pub mod streams;

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
/// The log is rewritten as a snapshot when it is longer than this and than [`SNAPSHOT_GROWTH`] snapshots.
const SNAPSHOT_BYTES: u64 = 1 << 20;
/// How many times as long as its snapshot the log may be.
const SNAPSHOT_GROWTH: u64 = 4;
/// Records of a snapshot that share a frame: far below the limit of a frame.
const SNAPSHOT_FRAME_RECORDS: usize = 64;
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
    /// What a change rests on was removed while it was being decided.
    #[error("another change came first: {0}")]
    Overtaken(Misfit),
    /// The file is longer than any manifest.
    #[error("MANIFEST has {0} bytes, more than any manifest")]
    TooLong(u64),
    /// Keys are out of use, and a file still has them.
    #[error(
        "the keys are out of use, but MANIFEST could not be rewritten without them: {source}; \
         a restart does it as soon as there is space"
    )]
    NotErased {
        /// Why.
        source: Box<ManifestError>,
    },
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
    /// The log is rewritten when it is longer than this.
    snapshot_at: u64,
    /// Never below this.
    snapshot_from: u64,
    poisoned: bool,
}

impl Manifest {
    /// Opens the manifest in `folder`, or makes one for a new data folder that is called `new_folder_id`.
    pub async fn open(
        folder: Arc<dyn Folder>,
        new_folder_id: [u8; 16],
    ) -> Result<Self, ManifestError> {
        Self::open_rewriting(folder, new_folder_id, SNAPSHOT_BYTES).await
    }

    /// Opens it; the log is rewritten only when it is longer than `snapshot_from` bytes.
    async fn open_rewriting(
        folder: Arc<dyn Folder>,
        new_folder_id: [u8; 16],
        snapshot_from: u64,
    ) -> Result<Self, ManifestError> {
        let path = Path::new(FILE_NAME);
        match folder.open(path, OpenMode::ReadWrite, Caching::Buffered).await {
            Ok(file) => Self::load(folder, file, snapshot_from).await,
            Err(FileError::NotFound { .. }) => {
                let state = ManifestState::default();
                let log = write_snapshot(&*folder, new_folder_id, &state, snapshot_from).await?;
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

    async fn load(
        folder: Arc<dyn Folder>,
        file: Arc<dyn FileIo>,
        snapshot_from: u64,
    ) -> Result<Self, ManifestError> {
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
        let mut erases = false;
        let (mut at, mut number) = (HEADER_BYTES, 0);
        while at < bytes.len() {
            match format::parse_frame(&bytes[at..], number) {
                Ok((records, frame)) => {
                    for record in &records {
                        erases |= record.erases(&state);
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
        let snapshot_bytes = encode_snapshot(folder_id, &state).0.len() as u64;
        let log = Log::new(file, at as u64, number, snapshot_bytes, snapshot_from);
        let manifest = Self::assemble(folder, folder_id, state, log);
        if erases {
            // A crash came between a change that takes keys away and the end of it.
            let mut log = manifest.log.lock().await;
            match manifest.erase(&mut log).await {
                Err(ManifestError::File(FileError::NoSpace { .. })) => {
                    tracing::warn!("no space to rewrite MANIFEST without keys that are out of use");
                }
                erased => erased?,
            }
        }
        Ok(manifest)
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
        let mut erases = false;
        for record in &records {
            erases |= record.erases(&after);
            after.apply(record).map_err(|source| E::from(ManifestError::Overtaken(source)))?;
        }
        log.append(&records).await.map_err(E::from)?;
        *self.state.write() = after;
        if erases {
            let erased = self.erase(&mut log).await;
            erased.map_err(|source| ManifestError::NotErased { source: Box::new(source) })?;
        } else if log.length > log.snapshot_at {
            self.rewrite(&mut log).await.map_err(E::from)?;
        }
        Ok(answer)
    }

    /// Appends records that depend on nothing.
    pub async fn append(&self, records: Vec<ManifestRecord>) -> Result<(), ManifestError> {
        self.change(|_| Ok((records, ()))).await
    }

    /// Rewrites the log, and overwrites what it was: some of it must not stay.
    async fn erase(&self, log: &mut Log) -> Result<(), ManifestError> {
        let state = self.state.read().clone();
        let snapshot =
            write_snapshot(&*self.folder, self.folder_id, &state, log.snapshot_from).await?;
        log.poisoned = true;
        install_snapshot(&*self.folder).await?;
        let before = std::mem::replace(log, snapshot);
        // It has no name any more. On media that write in place this takes what was in it; nothing rests on it.
        let zeroes = Buffer::zeroed(usize::try_from(before.length).expect("it was in memory"));
        if let Err(error) = before.file.write_at(0, zeroes).await {
            tracing::info!(%error, "what MANIFEST was cannot be overwritten");
            return Ok(());
        }
        before.file.flush().await?;
        Ok(())
    }

    async fn rewrite(&self, log: &mut Log) -> Result<(), ManifestError> {
        let state = self.state.read().clone();
        match write_snapshot(&*self.folder, self.folder_id, &state, log.snapshot_from).await {
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
    fn new(
        file: Arc<dyn FileIo>,
        length: u64,
        next_number: u64,
        snapshot_bytes: u64,
        snapshot_from: u64,
    ) -> Self {
        let snapshot_at = (snapshot_bytes * SNAPSHOT_GROWTH).max(snapshot_from);
        Self { file, length, next_number, snapshot_at, snapshot_from, poisoned: false }
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
    snapshot_from: u64,
) -> Result<Log, ManifestError> {
    let new_path = Path::new(NEW_FILE_NAME);
    match folder.remove(new_path).await {
        Ok(()) | Err(FileError::NotFound { .. }) => {}
        Err(error) => return Err(error.into()),
    }
    let (bytes, number) = encode_snapshot(folder_id, state);
    let file = folder.open(new_path, OpenMode::CreateNew, Caching::Buffered).await?;
    file.write_at(0, Buffer::copy_of(&bytes)).await?;
    file.flush().await?;
    let length = bytes.len() as u64;
    Ok(Log::new(file, length, number, length, snapshot_from))
}

/// The bytes of a manifest that holds nothing but `state`, and the number of the frame that follows them.
fn encode_snapshot(folder_id: [u8; 16], state: &ManifestState) -> (Vec<u8>, u64) {
    let mut bytes = format::encode_header(folder_id).to_vec();
    let mut number = 0;
    for records in state.records().chunks(SNAPSHOT_FRAME_RECORDS) {
        format::encode_frame(number, records, &mut bytes);
        number += 1;
    }
    (bytes, number)
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
mod tests;
