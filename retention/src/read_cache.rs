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
//! **Invariants**
//! - A cached block is what its place holds. In the journal that never changes. In an image it does, by folds and scrubs; whoever
//!   writes to one says so when the write has ended ([`ReadCache::image_changed`]), and what was read meanwhile is not kept. Nobody
//!   reads what a fold is writing (see [`fold`](crate::fold)).
//! - It was proven. A block of an image of which no checksum is known yet, or which is being copied for the first time, is not
//!   kept: what is known tomorrow could not take it back.
//! - Whoever looks for damage reads past it (`View::past_cache`).

use crate::ids::{DiskId, SegmentId};
use landfall_disks::{BLOCK_BYTES, BLOCK_SIZE, Block, ByteRange};
use quick_cache::UnitWeighter;
use quick_cache::sync::{Cache, DefaultLifecycle};
use std::hash::{BuildHasherDefault, DefaultHasher};
use std::sync::Arc;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::sync::atomic::{AtomicBool, AtomicU64};

/// Longest read that is looked up and kept, in bytes: 128 KiB, at any sector.
const LONGEST_READ: u64 = (128 << 10) + BLOCK_SIZE;
/// Counters of changes to images; disks with the same remainder share one.
const IMAGE_COUNTERS: u64 = 64;
/// Blocks of a change from which on all of the cache is looked through, instead of each looked up.
const MANY_BLOCKS: u64 = 4096;
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
    /// Raised when everything goes.
    cleared: AtomicU64,
    images: Box<[ImageChanges]>,
    hits: AtomicU64,
    misses: AtomicU64,
}

/// What happened to the images of some disks.
#[derive(Default)]
struct ImageChanges {
    /// Raised with every change.
    changes: AtomicU64,
    /// Whether a block of them was ever kept.
    kept: AtomicBool,
}

/// A read of a disk that begins: what it finds is kept only if it has not gone since.
#[derive(Clone, Copy)]
pub(crate) struct Beginning {
    cleared: u64,
    image: u64,
}

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
            cleared: AtomicU64::new(0),
            images: (0..IMAGE_COUNTERS).map(|_| ImageChanges::default()).collect(),
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
        counter.fetch_add(1, Relaxed);
    }

    fn images_of(&self, disk: DiskId) -> &ImageChanges {
        let index = u64::from(disk.number()) % IMAGE_COUNTERS;
        &self.images[usize::try_from(index).expect("below 64")]
    }

    /// To be called before something of a disk is read that is to be kept.
    pub(crate) fn begin(&self, disk: DiskId) -> Beginning {
        Beginning {
            cleared: self.cleared.load(SeqCst),
            image: self.images_of(disk).changes.load(SeqCst),
        }
    }

    /// Whether what was read at a place since `beginning` is there still.
    fn stands(&self, beginning: Beginning, place: &CachePlace) -> bool {
        let image_stands = match place {
            CachePlace::Journal { .. } => true,
            CachePlace::Image { disk, .. } => {
                self.images_of(*disk).changes.load(SeqCst) == beginning.image
            }
        };
        image_stands && self.cleared.load(SeqCst) == beginning.cleared
    }

    /// Keeps blocks that were read since `beginning`.
    pub(crate) fn keep<'a>(
        &self,
        beginning: Beginning,
        found: impl Iterator<Item = (CachePlace, &'a [u8])>,
    ) {
        let Some(blocks) = &self.blocks else { return };
        for (place, block) in found {
            if !self.stands(beginning, &place) || blocks.peek(&place).is_some() {
                continue;
            }
            if let CachePlace::Image { disk, .. } = place {
                self.images_of(disk).kept.store(true, SeqCst);
            }
            blocks.insert(place, Arc::from(block));
            // Once more: what goes from here on finds what was put in.
            if !self.stands(beginning, &place) {
                blocks.remove(&place);
            }
        }
    }

    /// Drops what it holds of `range` of an image, which was written, whole or in part.
    pub(crate) fn image_changed(&self, disk: DiskId, range: ByteRange) {
        let Some(blocks) = &self.blocks else { return };
        let images = self.images_of(disk);
        images.changes.fetch_add(1, SeqCst);
        if !images.kept.load(SeqCst) {
            return;
        }
        let range = range.widen(BLOCK_SIZE);
        let numbers = range.start().block().index()..range.end().block().index();
        if range.length() / BLOCK_SIZE < MANY_BLOCKS {
            for number in numbers {
                blocks.remove(&CachePlace::Image { disk, block: Block::new(number) });
            }
        } else {
            blocks.retain(|place, _| match place {
                CachePlace::Image { disk: of, block } => {
                    *of != disk || !numbers.contains(&block.index())
                }
                CachePlace::Journal { .. } => true,
            });
        }
    }

    /// Drops everything. Takes its time: off the I/O cores.
    pub(crate) fn clear(&self) {
        let Some(blocks) = &self.blocks else { return };
        self.cleared.fetch_add(1, SeqCst);
        blocks.clear();
    }

    pub(crate) fn status(&self) -> ReadCacheStatus {
        let blocks = self.blocks.as_ref().map_or(0, Blocks::len) as u64;
        ReadCacheStatus {
            hits: self.hits.load(Relaxed),
            misses: self.misses.load(Relaxed),
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
        let block = [byte; BLOCK_BYTES];
        cache.keep(beginning, places.iter().map(|place| (*place, &block[..])));
    }

    fn has(cache: &ReadCache, place: CachePlace) -> bool {
        cache.get(&place).is_some()
    }

    #[test]
    fn what_is_written_to_an_image_goes_and_nothing_else() {
        let cache = ReadCache::new(1 << 20);
        keep(&cache, cache.begin(DISK), &[image(0), image(1), image(2), image(3), journal(1)], 1);
        // Parts of blocks count as blocks.
        let written = ByteRange::at(ByteOffset::new(BLOCK_SIZE + 512), BLOCK_SIZE).expect("small");
        cache.image_changed(DISK, written);
        assert!(has(&cache, image(0)) && has(&cache, image(3)) && has(&cache, journal(1)));
        assert!(!has(&cache, image(1)) && !has(&cache, image(2)));
        for disk in [DiskId::new(8), DiskId::new(7 + 64)] {
            cache.image_changed(disk, range(0, 2 * MANY_BLOCKS));
            assert!(has(&cache, image(0)), "of another disk");
        }
        cache.image_changed(DISK, range(3, MANY_BLOCKS));
        assert!(has(&cache, image(0)) && has(&cache, journal(1)) && !has(&cache, image(3)));
    }

    #[test]
    fn what_was_read_while_an_image_was_written_is_not_kept() {
        let cache = ReadCache::new(1 << 20);
        let beginning = cache.begin(DISK);
        cache.image_changed(DISK, range(0, 1));
        keep(&cache, beginning, &[image(0), journal(4)], 1);
        assert!(!has(&cache, image(0)) && has(&cache, journal(4)));
        keep(&cache, cache.begin(DISK), &[image(0)], 2);
        assert_eq!(cache.get(&image(0)).expect("kept")[0], 2);
    }

    #[test]
    fn what_was_read_before_all_is_dropped_is_not_kept_after_it() {
        let cache = ReadCache::new(1 << 20);
        keep(&cache, cache.begin(DISK), &[journal(1)], 1);
        let beginning = cache.begin(DISK);
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
            keep(&cache, cache.begin(DISK), &[journal(unit)], 1);
        }
        let held = cache.status().bytes;
        assert!(held > 0 && held <= bytes as u64, "{held}");
    }

    #[test]
    fn without_memory_and_for_long_reads_there_is_none() {
        let cache = ReadCache::new(1 << 20);
        assert!(cache.takes(range(0, 33)) && !cache.takes(range(0, 34)));
        let none = ReadCache::new(0);
        assert!(!none.takes(range(0, 1)));
        keep(&none, none.begin(DISK), &[image(0)], 1);
        assert!(!has(&none, image(0)));
    }
}
