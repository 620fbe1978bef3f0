//! The index in RocksDB.
//!
//! No write-ahead log: the journal is the log, and one column family makes every flush a prefix of the writes. Index and
//! filter blocks are partitioned and the top level pinned, in a cache that is not cut into shards smaller than a block
//! (a sharded LRU cache whose shard is smaller than a filter block makes every look-up read megabytes).

use super::{Cursor, IndexBatch, IndexError, IndexStore};
use rocksdb::{
    BlockBasedIndexType, BlockBasedOptions, Cache, DB, DBCompressionType, DBRawIterator,
    FlushOptions, Options, WriteBatch, WriteOptions,
};
use std::path::Path;

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
}

impl RocksIndex {
    /// Opens the index in the folder `path`, or makes a new one.
    pub fn open(path: &Path, settings: RocksSettings) -> Result<Self, IndexError> {
        let database = DB::open(&options(settings), path).map_err(|e| failed("open", &e))?;
        Ok(Self { database })
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
    IndexError::Store { operation, message: error.to_string() }
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
mod tests {
    use super::*;

    fn batch(keys: &[&[u8]]) -> IndexBatch {
        let mut batch = IndexBatch::default();
        for key in keys {
            batch.put(*key, b"v");
        }
        batch
    }

    #[test]
    fn what_was_flushed_is_there_after_reopening() {
        let folder = tempfile::tempdir().unwrap();
        let store = RocksIndex::open(folder.path(), RocksSettings::default()).unwrap();
        store.write(batch(&[b"a", b"b", b"c"])).unwrap();
        let mut gone = IndexBatch::default();
        gone.remove_range(*b"b", *b"c");
        store.write(gone).unwrap();
        store.flush().unwrap();
        drop(store);
        let store = RocksIndex::open(folder.path(), RocksSettings::default()).unwrap();
        assert!(store.get(b"a").unwrap().is_some());
        assert!(store.get(b"b").unwrap().is_none());
        let mut cursor = store.cursor();
        cursor.seek_back(b"bb").unwrap();
        assert_eq!(cursor.entry().map(|(key, _)| key.to_vec()), Some(b"a".to_vec()));
        cursor.seek(b"bb").unwrap();
        assert_eq!(cursor.entry().map(|(key, _)| key.to_vec()), Some(b"c".to_vec()));
        cursor.advance().unwrap();
        assert!(cursor.entry().is_none());
    }
}
