//! The read cache: blocks that views have read, whole and checked, for whoever reads them next.
//!
//! ```text
//!   read ─▶ leaves ─▶ places ─▶ all in the cache? ─ yes ──────────────────────────────▶ copied
//!                                     └─ no ─▶ journal, image ─▶ checksums, tags ─▶ cached, and answered
//! ```
//!
//! Images and journals are read past the kernel's page cache, which would take what memory it finds and keep blocks that
//! nobody has checked. This one is of a size, and holds what may be handed out: checked, and opened where it is sealed. Blocks
//! are known by their *place*, not by the moment that they were read of, so all moments and branches of a disk share them:
//! whoever boots one moment after the other, in search of the last good one, reads most of it once.
//!
//! Reads of more than [`LONGEST_READ`] pass by: copies and restores see every block once, and would drive out what guests
//! come back to.
//!
//! **Invariant:** a cached block is what its place holds. In the journal that never changes. In an image it does, by folds and
//! scrubs; whoever writes to one says so when the write has ended ([`ReadCache::image_changed`]), and what was read meanwhile is not
//! kept. Nobody reads what a fold is writing (see [`fold`](crate::fold)). An image without a floor is not cached at all.

use crate::ids::{DiskId, SegmentId};
use landfall_disks::{BLOCK_BYTES, BLOCK_SIZE, Block, ByteRange};
use quick_cache::UnitWeighter;
use quick_cache::sync::{Cache, DefaultLifecycle};
use std::hash::{BuildHasherDefault, DefaultHasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Longest read that is looked up and kept, in bytes.
const LONGEST_READ: u64 = 128 << 10;
/// Memory that a block takes besides its bytes: key, value, place in the queue, header of the allocation.
const OVERHEAD_BYTES: usize = 128;

/// Where a block lies.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum CachePlace {
    /// In a segment of the journal; the checksum is of what is stored.
    Journal { segment: SegmentId, unit: u32, checksum: u32 },
    /// In the image of a disk.
    Image { disk: DiskId, block: Block },
}

/// Hashed without a random seed: which blocks go is the same in every run of a simulation.
type Blocks = Cache<CachePlace, Arc<[u8]>, UnitWeighter, BuildHasherDefault<DefaultHasher>>;

/// Blocks by place.
pub(crate) struct ReadCache {
    /// None if it was given no memory.
    blocks: Option<Blocks>,
    /// Raised whenever something goes.
    changes: AtomicU64,
    hits: AtomicU64,
    misses: AtomicU64,
}

/// A read that begins: what it finds is kept only if nothing went since.
#[derive(Clone, Copy)]
pub(crate) struct Beginning(u64);

/// What a cache has done since the start, and holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ReadCacheStatus {
    /// Reads that were answered from it.
    pub hits: u64,
    /// Reads that were looked up and not answered from it, or not wholly.
    pub misses: u64,
    /// Bytes of blocks in it.
    pub bytes: u64,
}

impl ReadCache {
    /// One of about `bytes`; of none, if that is less than a block.
    pub(crate) fn new(bytes: usize) -> Self {
        let blocks = bytes / (BLOCK_BYTES + OVERHEAD_BYTES);
        let hasher = BuildHasherDefault::default();
        let cache = || {
            Cache::with(blocks, blocks as u64, UnitWeighter, hasher, DefaultLifecycle::default())
        };
        Self {
            blocks: (blocks > 0).then(cache),
            changes: AtomicU64::new(0),
            hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
        }
    }

    /// Whether reads of `range` are looked up and kept.
    pub(crate) fn takes(&self, range: ByteRange) -> bool {
        self.blocks.is_some() && range.length() <= LONGEST_READ
    }

    pub(crate) fn get(&self, place: &CachePlace) -> Option<Arc<[u8]>> {
        self.blocks.as_ref()?.get(place)
    }

    /// Counts a read that was looked up.
    pub(crate) fn count(&self, hit: bool) {
        let counter = if hit { &self.hits } else { &self.misses };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// To be called before something is read that is to be kept.
    pub(crate) fn begin(&self) -> Beginning {
        Beginning(self.changes.load(Ordering::SeqCst))
    }

    /// Keeps blocks that were read since `beginning`, where they have a place.
    pub(crate) fn keep(
        &self,
        beginning: Beginning,
        places: impl Iterator<Item = Option<CachePlace>> + Clone,
        bytes: &[u8],
    ) {
        let Some(blocks) = &self.blocks else { return };
        let found = places.zip(bytes.chunks(BLOCK_BYTES));
        let found = found.filter_map(|(place, block)| Some((place?, block)));
        for (place, block) in found.clone() {
            blocks.insert(place, Arc::from(block));
        }
        // Looked at only now: what goes later finds what was put in here.
        if self.changes.load(Ordering::SeqCst) != beginning.0 {
            found.for_each(|(place, _)| drop(blocks.remove(&place)));
        }
    }

    /// Drops what it holds of `range` of an image, which was written, whole or in part.
    pub(crate) fn image_changed(&self, disk: DiskId, range: ByteRange) {
        let Some(blocks) = &self.blocks else { return };
        self.changes.fetch_add(1, Ordering::SeqCst);
        let range = range.widen(BLOCK_SIZE);
        for block in range.start().block().index()..range.end().block().index() {
            blocks.remove(&CachePlace::Image { disk, block: Block::new(block) });
        }
    }

    /// Drops everything.
    pub(crate) fn clear(&self) {
        let Some(blocks) = &self.blocks else { return };
        self.changes.fetch_add(1, Ordering::SeqCst);
        blocks.clear();
    }

    pub(crate) fn status(&self) -> ReadCacheStatus {
        let blocks = self.blocks.as_ref().map_or(0, Blocks::len) as u64;
        ReadCacheStatus {
            hits: self.hits.load(Ordering::Relaxed),
            misses: self.misses.load(Ordering::Relaxed),
            bytes: blocks * BLOCK_SIZE,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use landfall_disks::ByteOffset;

    const DISK: DiskId = DiskId::new(7);

    fn image(block: u64) -> CachePlace {
        CachePlace::Image { disk: DISK, block: Block::new(block) }
    }

    fn journal(unit: u32) -> CachePlace {
        CachePlace::Journal { segment: SegmentId::new(1), unit, checksum: 5 }
    }

    fn range(first: u64, blocks: u64) -> ByteRange {
        ByteRange::at(Block::new(first).offset(), blocks * BLOCK_SIZE).expect("small")
    }

    fn keep(cache: &ReadCache, beginning: Beginning, places: &[CachePlace], byte: u8) {
        let bytes = vec![byte; places.len() * BLOCK_BYTES];
        cache.keep(beginning, places.iter().copied().map(Some), &bytes);
    }

    fn has(cache: &ReadCache, place: CachePlace) -> bool {
        cache.get(&place).is_some()
    }

    #[test]
    fn what_is_written_to_an_image_goes_and_nothing_else() {
        let cache = ReadCache::new(1 << 20);
        keep(&cache, cache.begin(), &[image(0), image(1), image(2), image(3), journal(1)], 1);
        // Parts of blocks count as blocks.
        let written = ByteRange::at(ByteOffset::new(BLOCK_SIZE + 512), BLOCK_SIZE).expect("small");
        cache.image_changed(DISK, written);
        assert!(has(&cache, image(0)) && has(&cache, image(3)) && has(&cache, journal(1)));
        assert!(!has(&cache, image(1)) && !has(&cache, image(2)));
        cache.image_changed(DiskId::new(8), range(0, 4));
        assert!(has(&cache, image(0)), "of another disk");
    }

    #[test]
    fn what_was_read_while_an_image_was_written_is_not_kept() {
        let cache = ReadCache::new(1 << 20);
        let beginning = cache.begin();
        cache.image_changed(DISK, range(0, 1));
        keep(&cache, beginning, &[image(0)], 1);
        assert!(!has(&cache, image(0)));
        keep(&cache, cache.begin(), &[image(0)], 2);
        assert_eq!(cache.get(&image(0)).expect("kept")[0], 2);
    }

    #[test]
    fn what_was_read_before_all_is_dropped_is_not_kept_after_it() {
        let cache = ReadCache::new(1 << 20);
        keep(&cache, cache.begin(), &[journal(1)], 1);
        let beginning = cache.begin();
        cache.clear();
        keep(&cache, beginning, &[journal(2)], 1);
        assert!(!has(&cache, journal(1)) && !has(&cache, journal(2)));
        assert_eq!(cache.status().bytes, 0);
    }

    #[test]
    fn its_memory_is_limited() {
        let bytes = 1 << 20;
        let cache = ReadCache::new(bytes);
        for unit in 0..10_000 {
            keep(&cache, cache.begin(), &[journal(unit)], 1);
        }
        let held = cache.status().bytes;
        assert!(held > 0 && held <= bytes as u64, "{held}");
    }

    #[test]
    fn without_memory_and_for_long_reads_there_is_none() {
        let cache = ReadCache::new(1 << 20);
        assert!(cache.takes(range(0, 32)) && !cache.takes(range(0, 33)));
        let none = ReadCache::new(0);
        assert!(!none.takes(range(0, 1)));
        keep(&none, none.begin(), &[image(0)], 1);
        assert!(!has(&none, image(0)));
    }
}
