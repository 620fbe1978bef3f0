//! The index in RocksDB.
//!
//! No write-ahead log: the journal is the log, and one column family makes every flush a prefix of the writes. Index and
//! filter blocks are partitioned and the top level pinned, in a cache that is not cut into shards smaller than a block
//! (a sharded LRU cache whose shard is smaller than a filter block makes every look-up read megabytes).
//!
//! What is forgotten goes when compaction comes by, without a tombstone: deleting a million old versions of a block one by
//! one, or by ranges, would leave as many marks in the way of its next look-up. Cursors keep the files they were opened on.

use super::forgotten::{Forgotten, Pass};
use super::{Cursor, IndexBatch, IndexError, IndexStore};
use parking_lot::RwLock;
use rocksdb::compaction_filter::{CompactionFilter, Decision};
use rocksdb::compaction_filter_factory::{CompactionFilterContext, CompactionFilterFactory};
use rocksdb::{
    BlockBasedIndexType, BlockBasedOptions, BottommostLevelCompaction, Cache, CompactOptions, DB,
    DBCompressionType, DBRawIterator, FlushOptions, Options, WriteBatch, WriteOptions,
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
mod tests {
    use super::super::block_key::{put_data, put_zeroes};
    use super::super::memory::MemoryIndex;
    use super::super::moment_key::{Boundary, boundary_at_or_before, put_boundary};
    use super::*;
    use crate::ids::{DiskId, GroupId, LaneId, LineId, MachineId, SegmentId, Sequence};
    use crate::leaf::{BlockPlace, Layer, LeafIndex, resolve};
    use crate::manifest::history::HistoryStart;
    use crate::manifest::record::ManifestRecord;
    use crate::manifest::state::ManifestState;
    use crate::moments::Moments;
    use crate::name::Name;
    use crate::time::Timestamp;
    use landfall_disks::faults::Seed;
    use landfall_disks::{BLOCK_SIZE, Block, ByteOffset, ByteRange};

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

    const LINE: LineId = LineId::new(1);
    const DISK: DiskId = DiskId::new(2);

    fn open(folder: &Path) -> RocksIndex {
        // So little memory that what is written goes through files and compactions.
        let settings = RocksSettings { cache_bytes: 8 << 20, write_buffer_bytes: 64 << 10 };
        RocksIndex::open(folder, settings).unwrap()
    }

    fn floor(at: u64) -> Forgotten {
        let mut state = ManifestState::default();
        let machine = MachineId::new(1);
        let name = |text: &str| Name::parse(text).unwrap();
        let start = HistoryStart {
            sequence: Sequence::new(at),
            commit_time: Timestamp::default(),
            source_time: Timestamp::default(),
            kind: None,
            label: None,
        };
        let records = [
            ManifestRecord::MachineAdded {
                machine,
                name: name("m"),
                display_name: String::new(),
                group: GroupId::new(1),
                trunk: LINE,
                lane: LaneId::new(0),
            },
            ManifestRecord::DiskAdded {
                disk: DISK,
                machine,
                name: name("d"),
                size_bytes: 1 << 30,
                format: "raw".into(),
                image: "d".into(),
            },
            ManifestRecord::SeedFinished { disk: DISK, floor: Sequence::new(0) },
            ManifestRecord::FoldStarted { line: LINE, start },
            ManifestRecord::FoldDone { disk: DISK, floor: Sequence::new(at) },
        ];
        records.iter().for_each(|record| state.apply(record).unwrap());
        Forgotten::of(&state)
    }

    /// The same, and of what lies above the floor nothing is looked at but these moments.
    fn seen(at: u64, moments: &[u64], through: u64) -> Forgotten {
        let moments = moments.iter().copied().map(Sequence::new).collect();
        floor(at).seeing([(LINE, Moments::these(moments, Sequence::new(through)))])
    }

    fn layer(newest: u64) -> Layer {
        let (above, newest) = (Sequence::default(), Sequence::new(newest));
        Layer { line: LINE, above, newest, gap: None, folded: true }
    }

    /// The same history in both stores, folded again and again, compacted here and losing entries at random there: every
    /// leaf at every moment from the floor on is the same.
    #[test]
    fn both_stores_find_the_same_whatever_of_the_forgotten_is_left() {
        let folder = tempfile::tempdir().unwrap();
        let (rocks, memory) = (open(folder.path()), MemoryIndex::default());
        let mut random = Seed::new(3);
        let (mut forgotten, mut through, mut moments) = (0, 0, Vec::new());
        for sequence in 1..=600_u64 {
            let mut batch = IndexBatch::default();
            let blocks = 1 + random.below(40);
            let first = random.below(600 - blocks);
            let range = ByteRange::at(Block::new(first).offset(), blocks * BLOCK_SIZE).unwrap();
            let version = (LINE, DISK, Sequence::new(sequence));
            if random.chance(1, 4) {
                put_zeroes(&mut batch, version, range);
            } else {
                let unit = u32::try_from(sequence).unwrap();
                let sums: Vec<u32> = (0..blocks).map(|_| unit).collect();
                put_data(&mut batch, version, range, (SegmentId::new(unit / 50), unit), &sums);
            }
            put_boundary(
                &mut batch,
                LINE,
                Boundary {
                    sequence: Sequence::new(sequence),
                    commit_time: Timestamp::from_nanoseconds(sequence),
                },
            );
            rocks.write(batch.clone()).unwrap();
            memory.write(batch).unwrap();
            if sequence % 97 == 0 {
                forgotten = sequence - 40;
                through = sequence - 10;
                moments = (forgotten..=through).filter(|_| random.chance(1, 5)).collect();
                rocks.set_forgotten(seen(forgotten, &moments, through));
                memory.set_forgotten(seen(forgotten, &moments, through));
                memory.vanish(|_| random.chance(1, 2));
                rocks.compact().unwrap();
            }
            if sequence % 20 != 0 {
                continue;
            }
            let late = through.max(forgotten);
            let at = match random.chance(1, 2) {
                true if !moments.is_empty() => *random.pick(&moments),
                _ => late + random.below(sequence - late + 1),
            };
            let floor = || Sequence::new(forgotten);
            for leaf in [0, 1, 2].map(|leaf| LeafIndex::of(ByteOffset::new(leaf << 20))) {
                let of_rocks = resolve(&rocks, &[layer(at)], floor, DISK, leaf).unwrap();
                let of_memory = resolve(&memory, &[layer(at)], floor, DISK, leaf).unwrap();
                assert_eq!(of_rocks, of_memory, "at {at} of {sequence}, floor {forgotten}");
            }
            let time = Timestamp::from_nanoseconds(at);
            let boundary = |store: &dyn IndexStore| {
                boundary_at_or_before(store, LINE, Sequence::new(sequence), time)
            };
            let found = boundary(&rocks).unwrap().unwrap();
            assert_eq!((found.sequence.number(), Some(found)), (at, boundary(&memory).unwrap()));
        }
        let left = |store: &dyn IndexStore| {
            let mut cursor = store.cursor();
            cursor.seek(&[1]).unwrap();
            let mut left = 0;
            while cursor.entry().is_some() {
                left += 1;
                cursor.advance().unwrap();
            }
            left
        };
        rocks.compact().unwrap();
        memory.compact().unwrap();
        assert_eq!(left(&rocks), left(&memory));
    }

    /// Block 7 in versions 1 to `last`, each in the unit of its number.
    fn rewrite(store: &RocksIndex, last: u32) {
        for sequence in 1..=last {
            let mut batch = IndexBatch::default();
            let range = ByteRange::at(Block::new(7).offset(), BLOCK_SIZE).unwrap();
            let place = (SegmentId::new(1), sequence);
            put_data(&mut batch, (LINE, DISK, Sequence::new(sequence.into())), range, place, &[1]);
            store.write(batch).unwrap();
        }
    }

    /// The versions that are left, newest first.
    fn versions(store: &RocksIndex) -> Vec<u64> {
        let mut cursor = store.cursor();
        cursor.seek(&[1]).unwrap();
        let mut versions = Vec::new();
        while let Some((key, _)) = cursor.entry() {
            versions.push(super::super::block_key::parse_key(key).unwrap().sequence.number());
            cursor.advance().unwrap();
        }
        versions
    }

    /// A block with a hundred thousand versions, nearly all of them forgotten, costs as many steps as one with none.
    #[test]
    fn forgotten_versions_are_not_in_the_way_of_a_look_up() {
        let folder = tempfile::tempdir().unwrap();
        let store = open(folder.path());
        let last = 100_000;
        rewrite(&store, last);
        store.flush().unwrap();
        let before = store.size_bytes();
        store.set_forgotten(floor(u64::from(last) - 10));
        store.compact().unwrap();
        assert!(store.size_bytes() * 20 < before, "{} of {before} bytes left", store.size_bytes());
        assert_eq!(versions(&store).len(), 10);
    }

    /// What lies between kept points is forgotten too, and every point sees what it saw.
    #[test]
    fn versions_between_kept_points_are_not_in_the_way_either() {
        let folder = tempfile::tempdir().unwrap();
        let store = open(folder.path());
        let last = 100_000;
        rewrite(&store, last);
        let kept = [25_000, 60_000, 99_000];
        store.set_forgotten(seen(1000, &kept, u64::from(last) - 1));
        store.compact().unwrap();
        let [newest, kept_back] = [last, last - 1].map(u64::from);
        assert_eq!(versions(&store), [newest, kept_back, 99_000, 60_000, 25_000]);
        for point in kept {
            let floor = || Sequence::new(1000);
            let leaf =
                resolve(&store, &[layer(point)], floor, DISK, LeafIndex::of(ByteOffset::new(0)));
            let unit = u32::try_from(point).unwrap();
            let place = BlockPlace::Journal { segment: SegmentId::new(1), unit, checksum: 1 };
            assert_eq!(leaf.unwrap().place(Block::new(7)), place);
        }
    }
}
