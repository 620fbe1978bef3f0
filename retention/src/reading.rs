//! Reading: what all views read through, and how blocks come out of the journal.
//!
//! **Invariant:** a block of the journal is handed out only if its checksum matches, and if it is sealed, its tag.

use crate::ids::{DiskId, LineId, SegmentId, Sequence};
use crate::index::IndexStore;
use crate::journal::segment::Segments;
use crate::leaf::{BlockPlace, Leaf, LeafIndex};
use crate::read_cache::ReadCache;
use crate::sealing::{BlockSeal, Keyring, OPEN_INLINE_BYTES, open_blocks};
use crate::turn::Turns;
use landfall_disks::file::FileError;
use landfall_disks::uring::offload;
use landfall_disks::{BLOCK_BYTES, BLOCK_SIZE, Buffer, ByteOffset, ByteRange, DiskError};
use quick_cache::Weighter;
use quick_cache::sync::Cache;
use std::collections::BTreeSet;
use std::sync::Arc;

/// What all views read through.
pub(crate) struct Reading {
    pub(crate) index: Arc<dyn IndexStore>,
    pub(crate) segments: Arc<Segments>,
    /// Reads that are under way.
    pub(crate) turns: Turns,
    /// What opens blocks that are sealed.
    pub(crate) keys: Arc<Keyring>,
    /// Blocks that were read.
    pub(crate) cache: ReadCache,
    /// Leaves of fixed moments.
    pub(crate) leaves: Cache<LeafKey, Arc<Leaf>, LeafWeight>,
}

/// Memory for what is read, in bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ReadingMemory {
    /// For leaves of fixed moments.
    pub(crate) leaf_cache_bytes: usize,
    /// For blocks.
    pub(crate) read_cache_bytes: usize,
}

type LeafKey = (LineId, Sequence, DiskId, LeafIndex);

/// Leaves with sealed blocks take several times what others do.
#[derive(Clone)]
pub(crate) struct LeafWeight;

impl Weighter<LeafKey, Arc<Leaf>> for LeafWeight {
    fn weight(&self, _: &LeafKey, leaf: &Arc<Leaf>) -> u64 {
        leaf.size_bytes()
    }
}

impl Reading {
    pub(crate) fn new(
        index: Arc<dyn IndexStore>,
        segments: Arc<Segments>,
        keys: Arc<Keyring>,
        memory: ReadingMemory,
    ) -> Self {
        let leaf_bytes = size_of::<[BlockPlace; 256]>();
        let leaves = (memory.leaf_cache_bytes / leaf_bytes).max(16);
        let capacity = (leaves * leaf_bytes) as u64;
        let leaves = Cache::with_weighter(leaves, capacity, LeafWeight);
        let cache = ReadCache::new(memory.read_cache_bytes);
        Self { index, segments, turns: Turns::default(), keys, cache, leaves }
    }

    /// Drops leaves of fixed moments that name one of these segments.
    pub(crate) fn drop_leaves_naming(&self, segments: &BTreeSet<SegmentId>) {
        self.leaves.retain(|_, leaf| !leaf.names(segments));
    }

    /// Drops all leaves of fixed moments.
    pub(crate) fn drop_leaves(&self) {
        self.leaves.clear();
    }

    /// Reads blocks of a disk from a segment, and opens them if they are sealed; what fails its checksum or is not proven by
    /// its tag is never returned.
    pub(crate) async fn read_journal(
        &self,
        (disk, range): (DiskId, ByteRange),
        (segment, unit): (SegmentId, u32),
        checksums: &[u32],
        seals: &[BlockSeal],
        into: Buffer,
    ) -> Result<Buffer, DiskError> {
        let damaged = |range, what: String| DiskError::Damaged {
            range,
            what: format!("segment {segment} of the journal: {what}"),
        };
        let read = match self.segments.file(segment).await {
            Ok(file) => file.read_at(u64::from(unit) * BLOCK_SIZE, into).await,
            Err(error) => Err(error),
        };
        let bytes = match read {
            Ok(bytes) => bytes,
            // What was acknowledged is not there: that is damage, whatever the kernel calls it.
            Err(error @ (FileError::NotFound { .. } | FileError::Ended { .. })) => {
                return Err(damaged(range, error.to_string()));
            }
            Err(error) => return Err(error.into()),
        };
        for (index, (block, checksum)) in bytes.chunks(BLOCK_BYTES).zip(checksums).enumerate() {
            if crc32c::crc32c(block) != *checksum {
                let start = range.start().bytes() + index as u64 * BLOCK_SIZE;
                let block = ByteRange::at(ByteOffset::new(start), BLOCK_SIZE).expect("on the disk");
                return Err(damaged(block, "checksum does not match".into()));
            }
        }
        if seals.is_empty() {
            Ok(bytes)
        } else {
            self.open_sealed((disk, range), seals, bytes).await
        }
    }

    async fn open_sealed(
        &self,
        (disk, range): (DiskId, ByteRange),
        seals: &[BlockSeal],
        mut bytes: Buffer,
    ) -> Result<Buffer, DiskError> {
        let first = range.start().block();
        if bytes.len() <= OPEN_INLINE_BYTES {
            open_blocks(&self.keys, disk, first, seals, &mut bytes)?;
            return Ok(bytes);
        }
        let (keys, seals) = (Arc::clone(&self.keys), seals.to_vec());
        let opened =
            offload(move || open_blocks(&keys, disk, first, &seals, &mut bytes).map(|()| bytes));
        opened.await
    }
}
