//! The index in RocksDB.
//!
//! No write-ahead log: the journal is the log, and one column family makes every flush a prefix of the writes. Index and
//! filter blocks are partitioned and the top level pinned, in a cache that is not cut into shards smaller than a block
//! (a sharded LRU cache whose shard is smaller than a filter block makes every look-up read megabytes).
//!
//! What is forgotten goes when compaction comes by, without a tombstone: deleting a million old versions of a block one by
//! one, or by ranges, would leave as many marks in the way of its next look-up. Cursors keep the files they were opened on.

mod checkpoints;

pub use checkpoints::{Checkpoints, Restored};

use super::forgotten::{Forgotten, Pass};
use super::{Cursor, IndexBatch, IndexError, IndexStore};
use parking_lot::RwLock;
use rocksdb::compaction_filter::{CompactionFilter, Decision};
use rocksdb::compaction_filter_factory::{CompactionFilterContext, CompactionFilterFactory};
use rocksdb::{
    BlockBasedIndexType, BlockBasedOptions, BottommostLevelCompaction, Cache, CompactOptions, DB,
    DBCompressionType, DBRawIterator, ErrorKind, FlushOptions, Options, ReadOptions, WriteBatch,
    WriteOptions,
};
use std::ffi::CStr;
use std::path::Path;
use std::sync::Arc;

/// Memory that RocksDB may use.
#[derive(Clone, Copy, Debug)]
pub struct RocksSettings {
    /// Cache of blocks, indexes and filters, in bytes.
    pub cache_bytes: usize,
    /// Entries held in memory before they are written out, in bytes.
    pub write_buffer_bytes: usize,
}

impl Default for RocksSettings {
    fn default() -> Self {
        Self { cache_bytes: 256 << 20, write_buffer_bytes: 64 << 20 }
    }
}

/// The store.
pub struct RocksIndex {
    database: DB,
    forgotten: Shared,
}

/// What may vanish, as a compaction that begins finds it.
type Shared = Arc<RwLock<Arc<Forgotten>>>;

/// Gives each compaction its filter.
struct Forgetting(Shared);

/// Lets go of what was forgotten when the compaction began. Keys come in order; of what is not part of this compaction it knows
/// nothing, and leaves it alone.
struct ForgettingFilter(Pass);

impl CompactionFilterFactory for Forgetting {
    type Filter = ForgettingFilter;

    fn create(&mut self, _: CompactionFilterContext) -> Self::Filter {
        ForgettingFilter(self.0.read().pass())
    }

    fn name(&self) -> &CStr {
        c"landfall.forgotten"
    }
}

impl CompactionFilter for ForgettingFilter {
    fn filter(&mut self, _: u32, key: &[u8], _: &[u8]) -> Decision {
        if self.0.goes(key) { Decision::Remove } else { Decision::Keep }
    }

    fn name(&self) -> &CStr {
        c"landfall.forgotten"
    }
}

impl RocksIndex {
    /// Opens the index in the folder `path`, or makes a new one.
    pub fn open(path: &Path, settings: RocksSettings) -> Result<Self, IndexError> {
        let forgotten = Shared::default();
        let mut options = options(settings);
        options.set_compaction_filter_factory(Forgetting(Arc::clone(&forgotten)));
        let database = DB::open(&options, path).map_err(|e| failed("open", &e))?;
        Ok(Self { database, forgotten })
    }

    /// Reads every entry, and checks every checksum. Blocks.
    fn read_through(&self) -> Result<(), IndexError> {
        let mut options = ReadOptions::default();
        options.fill_cache(false);
        options.set_verify_checksums(true);
        options.set_readahead_size(4 << 20);
        let mut iterator = self.database.raw_iterator_opt(options);
        iterator.seek_to_first();
        while iterator.valid() {
            iterator.next();
        }
        iterator.status().map_err(|e| failed("read", &e))
    }

    /// How much was ever written to it: the same number means that nothing was since.
    pub fn written(&self) -> u64 {
        self.database.latest_sequence_number()
    }

    /// Removes the index in the folder `path`; it is rebuilt from the journal.
    pub fn destroy(path: &Path) -> Result<(), IndexError> {
        DB::destroy(&Options::default(), path).map_err(|e| failed("remove", &e))
    }
}

fn options(settings: RocksSettings) -> Options {
    let mut table = BlockBasedOptions::default();
    // An estimate of 0 lets the cache size its table for blocks of any charge.
    table.set_block_cache(&Cache::new_hyper_clock_cache(settings.cache_bytes, 0));
    table.set_block_size(8 << 10);
    table.set_index_type(BlockBasedIndexType::TwoLevelIndexSearch);
    table.set_partition_filters(true);
    table.set_metadata_block_size(4 << 10);
    table.set_cache_index_and_filter_blocks(true);
    table.set_pin_top_level_index_and_filter(true);
    table.set_pin_l0_filter_and_index_blocks_in_cache(true);
    table.set_format_version(6);
    let mut options = Options::default();
    options.create_if_missing(true);
    options.set_block_based_table_factory(&table);
    options.set_compression_type(DBCompressionType::Lz4);
    options.set_bottommost_compression_type(DBCompressionType::Zstd);
    options.set_write_buffer_size(settings.write_buffer_bytes);
    options.set_max_write_buffer_number(3);
    options.set_level_compaction_dynamic_level_bytes(true);
    options.set_max_background_jobs(2);
    options.set_bytes_per_sync(1 << 20);
    options.set_keep_log_file_num(4);
    options.set_max_open_files(1024);
    options
}

fn failed(operation: &'static str, error: &rocksdb::Error) -> IndexError {
    let message = error.to_string();
    match error.kind() {
        ErrorKind::Corruption => IndexError::Corrupt { operation, message },
        _ => IndexError::Store { operation, message },
    }
}

impl IndexStore for RocksIndex {
    fn write(&self, batch: IndexBatch) -> Result<(), IndexError> {
        let mut writes = WriteBatch::default();
        for (start, end) in &batch.removed_ranges {
            writes.delete_range(start, end);
        }
        for (key, value) in &batch.puts {
            writes.put(key, value);
        }
        let mut options = WriteOptions::default();
        options.disable_wal(true);
        self.database.write_opt(writes, &options).map_err(|e| failed("write", &e))
    }

    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, IndexError> {
        self.database.get(key).map_err(|e| failed("read", &e))
    }

    fn cursor(&self) -> Box<dyn Cursor + '_> {
        Box::new(RocksCursor { iterator: self.database.raw_iterator() })
    }

    fn flush(&self) -> Result<(), IndexError> {
        let mut options = FlushOptions::default();
        options.set_wait(true);
        self.database.flush_opt(&options).map_err(|e| failed("flush", &e))
    }

    fn set_forgotten(&self, forgotten: Forgotten) {
        *self.forgotten.write() = Arc::new(forgotten);
    }

    fn compact(&self) -> Result<(), IndexError> {
        self.flush()?;
        let mut options = CompactOptions::default();
        // The last level as well: most of what was forgotten has sunk there.
        options.set_bottommost_level_compaction(BottommostLevelCompaction::Force);
        self.database.compact_range_opt(None::<&[u8]>, None::<&[u8]>, &options);
        Ok(())
    }

    fn size_bytes(&self) -> u64 {
        let property = |name| self.database.property_int_value(name).ok().flatten().unwrap_or(0);
        property("rocksdb.total-sst-files-size") + property("rocksdb.cur-size-all-mem-tables")
    }
}

struct RocksCursor<'a> {
    iterator: DBRawIterator<'a>,
}

impl RocksCursor<'_> {
    fn status(&self) -> Result<(), IndexError> {
        self.iterator.status().map_err(|e| failed("read", &e))
    }
}

impl Cursor for RocksCursor<'_> {
    fn seek(&mut self, key: &[u8]) -> Result<(), IndexError> {
        self.iterator.seek(key);
        self.status()
    }

    fn seek_back(&mut self, key: &[u8]) -> Result<(), IndexError> {
        self.iterator.seek_for_prev(key);
        self.status()
    }

    fn advance(&mut self) -> Result<(), IndexError> {
        if self.iterator.valid() {
            self.iterator.next();
        }
        self.status()
    }

    fn entry(&self) -> Option<(&[u8], &[u8])> {
        self.iterator.item()
    }
}

#[cfg(test)]
mod tests;
