//! Checkpoints: older states of the index, from which one that is lost or damaged is brought up to date in seconds instead of
//! being built from the whole journal.
//!
//! ```text
//!   <index>.checkpoints/0000000007   made by hard links; never written again
//!                       0000000008
//!   index lost, or RocksDB calls it corrupt ─▶ newest checkpoint that reads wholly ─▶ <index> ─▶ replay of what came since
//!                                                └ none ─▶ an empty index ─▶ replay of everything
//! ```
//!
//! A checkpoint is like an index after a crash that forgot a long tail: progress says which records it has, and what was
//! compacted since is taken from the tables of compacted segments (`journal/replay.rs`). Files are shared with the index, so
//! damage of the medium may be in both: a checkpoint is read from end to end, checksums and all, before it is believed.
//!
//! **Invariant:** under its number a checkpoint is whole or not there (RocksDB makes it beside and renames it); under the
//! name of the index there is a whole one or nothing.

use super::{RocksIndex, RocksSettings, failed};
use crate::index::IndexError;
use rocksdb::checkpoint::Checkpoint;
use std::io;
use std::path::{Path, PathBuf};

/// Checkpoints that are kept. Two, so that damage in what the newest shares with the index may spare the other.
const KEPT: usize = 2;

/// Where checkpoints of an index are.
#[derive(Clone, Debug)]
pub struct Checkpoints {
    index: PathBuf,
    folder: PathBuf,
}

/// What became of an index that was opened.
#[derive(Debug)]
pub enum Restored {
    /// It was there, or there has never been one.
    No,
    /// It is what a checkpoint was.
    From {
        /// The checkpoint.
        checkpoint: PathBuf,
        /// Why; nothing if the index was gone.
        damage: Option<IndexError>,
    },
    /// It is empty, though there was one, or a checkpoint.
    Nothing {
        /// Why; nothing if the index was gone.
        damage: Option<IndexError>,
    },
}

impl Checkpoints {
    /// Those of the index in the folder `index`: beside it, so that files can be shared.
    pub fn of(index: &Path) -> Self {
        let mut folder = index.as_os_str().to_owned();
        folder.push(".checkpoints");
        Self { index: index.to_owned(), folder: folder.into() }
    }

    /// The folder of the index.
    pub fn index(&self) -> &Path {
        &self.index
    }

    /// Their folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Makes one of everything that `index` has now, and removes those that are too many. Blocks.
    pub fn make(&self, index: &RocksIndex) -> Result<(), IndexError> {
        std::fs::create_dir_all(&self.folder).map_err(|e| file("make", &self.folder, &e))?;
        let there = self.list()?;
        let number = there.last().map_or(1, |(number, _)| number + 1);
        let path = self.folder.join(format!("{number:010}"));
        let made = Checkpoint::new(&index.database).and_then(|new| new.create_checkpoint(&path));
        made.map_err(|e| failed("make a checkpoint of", &e))?;
        sync(&self.folder)?;
        let too_many = (there.len() + 1).saturating_sub(KEPT);
        for (_, old) in there.into_iter().take(too_many) {
            std::fs::remove_dir_all(&old).map_err(|e| file("remove", &old, &e))?;
        }
        Ok(())
    }

    /// Removes them all. Blocks.
    pub fn remove_all(&self) -> Result<(), IndexError> {
        remove(&self.folder)
    }

    /// Opens the index. If it is gone, or RocksDB finds it corrupt, it is what the newest good checkpoint was; without one it
    /// is empty. Blocks, for as long as it takes to read a checkpoint if one is needed.
    pub fn open(&self, settings: RocksSettings) -> Result<(RocksIndex, Restored), IndexError> {
        let mut damage = None;
        // RocksDB names its files there: without it there is no index.
        if self.index.join("CURRENT").exists() {
            match RocksIndex::open(&self.index, settings) {
                Err(error @ IndexError::Corrupt { .. }) => damage = Some(error),
                opened => return Ok((opened?, Restored::No)),
            }
        }
        let checkpoints = self.list()?;
        if damage.is_none() && checkpoints.is_empty() {
            return Ok((RocksIndex::open(&self.index, settings)?, Restored::No));
        }
        remove(&self.index)?;
        for (_, checkpoint) in checkpoints.into_iter().rev() {
            match self.restore(&checkpoint, settings) {
                Ok(index) => return Ok((index, Restored::From { checkpoint, damage })),
                Err(error @ IndexError::Corrupt { .. }) => {
                    let checkpoint = checkpoint.display();
                    tracing::error!(%checkpoint, %error, "a checkpoint of the index is damaged");
                }
                Err(error) => return Err(error),
            }
        }
        Ok((RocksIndex::open(&self.index, settings)?, Restored::Nothing { damage }))
    }

    fn restore(
        &self,
        checkpoint: &Path,
        settings: RocksSettings,
    ) -> Result<RocksIndex, IndexError> {
        let mut beside = self.index.as_os_str().to_owned();
        beside.push(".restoring");
        let beside = PathBuf::from(beside);
        remove(&beside)?;
        share(checkpoint, &beside)?;
        let read = RocksIndex::open(&beside, settings)?.read_through();
        if let Err(error) = read {
            remove(&beside)?;
            return Err(error);
        }
        std::fs::rename(&beside, &self.index).map_err(|e| file("rename", &beside, &e))?;
        self.index.parent().map_or(Ok(()), sync)?;
        RocksIndex::open(&self.index, settings)
    }

    /// Those there are, oldest first.
    fn list(&self) -> Result<Vec<(u64, PathBuf)>, IndexError> {
        let entries = match std::fs::read_dir(&self.folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(|e| file("read", &self.folder, &e))?,
        };
        let mut found = Vec::new();
        for entry in entries {
            let path = entry.map_err(|e| file("read", &self.folder, &e))?.path();
            let number = path.file_name().and_then(|name| name.to_str()?.parse().ok());
            found.extend(number.map(|number: u64| (number, path)));
        }
        found.sort_unstable();
        Ok(found)
    }
}

/// Makes `to` the same as `from`. What RocksDB never writes again is shared.
fn share(from: &Path, to: &Path) -> Result<(), IndexError> {
    std::fs::create_dir_all(to).map_err(|e| file("make", to, &e))?;
    for entry in std::fs::read_dir(from).map_err(|e| file("read", from, &e))? {
        let path = entry.map_err(|e| file("read", from, &e))?.path();
        let Some(name) = path.file_name() else { continue };
        let copy = to.join(name);
        let done = if path.extension().is_some_and(|kind| kind == "sst") {
            std::fs::hard_link(&path, &copy)
        } else {
            std::fs::copy(&path, &copy).and_then(|_| std::fs::File::open(&copy)?.sync_all())
        };
        done.map_err(|e| file("copy", &path, &e))?;
    }
    sync(to)
}

fn remove(folder: &Path) -> Result<(), IndexError> {
    match std::fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(file("remove", folder, &error))
        }
        _ => Ok(()),
    }
}

fn sync(folder: &Path) -> Result<(), IndexError> {
    let synced = std::fs::File::open(folder).and_then(|folder| folder.sync_all());
    synced.map_err(|e| file("flush", folder, &e))
}

fn file(operation: &'static str, path: &Path, error: &io::Error) -> IndexError {
    IndexError::Store { operation, message: format!("{}: {error}", path.display()) }
}
