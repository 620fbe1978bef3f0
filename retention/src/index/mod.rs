//! The index: where in the journal each version of each block lies, and which sequences are boundaries and points.
//!
//! ```text
//!   key                                          value                                  module
//!   1 line disk class block  descending sequence place of the version                   block_key
//!   2 line sequence                              commit time of a boundary              moment_key
//!   3 line sequence                              a marked point                         moment_key
//!   4 line                                       tail: sequence, chain, stream position tail_key
//!   5 lane                                       how far the lane is indexed            tail_key
//!   6 line sequence                              records lost to media damage           gap_key
//!   7 line sequence                              bytes of the line's records so far     usage_key
//!   8 lane                                       compacted segments it leads into       tail_key
//!   9                                            whose index it is                      owner_key
//! ```
//!
//! Keys are big-endian so that they sort; see `docs/formats/index.md`. There is no log of the index's own: the journal
//! is the log. What is written together becomes visible together and survives a crash together, and the crash may
//! forget any suffix of what was not flushed; the lane's progress, part of each write, says where to go on.

pub mod block_key;
pub mod forgotten;
pub mod gap_key;
pub mod memory;
pub mod moment_key;
pub(crate) mod owner_key;
#[cfg(feature = "rocksdb")]
pub mod rocks;
pub mod tail_key;
pub mod usage_key;
pub(crate) mod written;

use self::forgotten::Forgotten;

/// Why the index cannot answer.
#[derive(Debug, Clone, thiserror::Error)]
pub enum IndexError {
    /// The store below failed.
    #[error("index: {operation} failed: {message}")]
    Store {
        /// What was asked, as a verb.
        operation: &'static str,
        /// What the store said.
        message: String,
    },
    /// The store below is not what it was.
    #[error(
        "index: {operation} failed: {message}; remove the index folder and restart: a checkpoint of it takes its place"
    )]
    Corrupt {
        /// What was asked, as a verb.
        operation: &'static str,
        /// What the store said.
        message: String,
    },
    /// It is the index of another data folder.
    #[error(
        "the index belongs to another data folder; remove it, and its checkpoints, if that is gone: it is built anew"
    )]
    Foreign,
    /// An entry cannot be read.
    #[error("index: entry {key} is damaged; remove the index folder and restart to rebuild it")]
    Damaged {
        /// Its key, in hexadecimal.
        key: String,
    },
}

/// Entries that are written together.
#[derive(Debug, Default, Clone)]
pub struct IndexBatch {
    pub(crate) puts: Vec<(Vec<u8>, Vec<u8>)>,
    pub(crate) removed_ranges: Vec<(Vec<u8>, Vec<u8>)>,
}

impl IndexBatch {
    /// Sets `key` to `value`.
    pub fn put(&mut self, key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) {
        self.puts.push((key.into(), value.into()));
    }

    /// Removes all keys in `start..end`; done before the puts of the same batch.
    pub fn remove_range(&mut self, start: impl Into<Vec<u8>>, end: impl Into<Vec<u8>>) {
        self.removed_ranges.push((start.into(), end.into()));
    }

    /// How many entries it sets.
    pub fn len(&self) -> usize {
        self.puts.len()
    }

    /// Whether it changes nothing.
    pub fn is_empty(&self) -> bool {
        self.puts.is_empty() && self.removed_ranges.is_empty()
    }
}

/// An ordered map of bytes with atomic writes, without a log of its own. Calls may block.
pub trait IndexStore: Send + Sync {
    /// Applies the batch: all of it or nothing, visible to every cursor opened afterwards.
    fn write(&self, batch: IndexBatch) -> Result<(), IndexError>;

    /// The value of `key`.
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, IndexError>;

    /// A cursor over the entries as they are now, nowhere yet.
    fn cursor(&self) -> Box<dyn Cursor + '_>;

    /// Makes everything written so far survive a crash.
    fn flush(&self) -> Result<(), IndexError>;

    /// Says what may vanish from now on, each entry at any time and for itself, from what is durable too. It only grows.
    fn set_forgotten(&self, forgotten: Forgotten);

    /// Lets go of everything that may vanish, and of the space it took. Blocks for as long as it takes to write what is
    /// left anew; look-ups and writes go on.
    fn compact(&self) -> Result<(), IndexError>;

    /// Bytes on disk, as far as the store knows.
    fn size_bytes(&self) -> u64;
}

/// A position between entries of an [`IndexStore`], in key order.
pub trait Cursor {
    /// Goes to the first entry at or after `key`.
    fn seek(&mut self, key: &[u8]) -> Result<(), IndexError>;

    /// Goes to the last entry at or before `key`.
    fn seek_back(&mut self, key: &[u8]) -> Result<(), IndexError>;

    /// Goes to the next entry.
    fn advance(&mut self) -> Result<(), IndexError>;

    /// Where it stands; `None` before the first seek and past the last entry.
    fn entry(&self) -> Option<(&[u8], &[u8])>;
}

/// The error for an entry that does not parse.
pub(crate) fn damaged(key: &[u8]) -> IndexError {
    IndexError::Damaged { key: key.iter().map(|byte| format!("{byte:02x}")).collect() }
}
