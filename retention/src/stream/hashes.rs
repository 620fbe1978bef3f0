//! What the target holds, as hashes: a source compares them with its own and sends only what differs.

use super::seed::note;
use super::{Stream, StreamError};
use crate::ids::DiskId;
use crate::image_hashes::Sums;
use crate::replica::Image;
use crate::view::{Showing, View};
use futures_util::future::join_all;
use landfall_disks::uring::offload;
use landfall_disks::{BLOCK_SIZE, ByteRange, Content, Disk, DiskError};
use std::sync::Arc;

/// Bytes a block hash covers.
pub const HASH_BLOCK_BYTES: u64 = 64 << 10;
/// Bytes of a disk that are read at once to be hashed.
const HASH_READ_BYTES: u64 = 1 << 20;
/// Reads for hashing that are under way at once.
const HASH_READS: usize = 4;

/// What the target holds of a 64 KiB block.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BlockHash {
    /// BLAKE3 of the bytes on the disk.
    Known([u8; 32]),
    /// All zero.
    Zero,
    /// Lost; it has to be sent.
    Unknown,
}

impl Stream {
    /// What the target holds of the 64 KiB blocks of `range`, which starts at one and may end with the disk. Refused while the
    /// index lacks part of it.
    pub async fn hashes(
        &self,
        disk: DiskId,
        range: ByteRange,
    ) -> Result<Vec<BlockHash>, StreamError> {
        let disk = self.disk(disk)?;
        self.parts.line.check_indexed().map_err(|source| {
            let machine = self.parts.machine.clone();
            StreamError::NotIndexed { machine, source }
        })?;
        let size_bytes = disk.size_bytes();
        let whole = ByteRange::up_to(size_bytes);
        let to_end = range.end().bytes() == size_bytes;
        let starts = range.start().bytes().is_multiple_of(HASH_BLOCK_BYTES);
        let ends = to_end || range.end().bytes().is_multiple_of(HASH_BLOCK_BYTES);
        if !whole.contains(range) || !starts || !ends {
            let disk = disk.name().clone();
            return Err(StreamError::BadRange { disk, range, size_bytes });
        }
        let (reading, line) = (Arc::clone(&self.parts.reading), Arc::clone(&self.parts.line));
        // What is damaged is to be sent again, also where memory has it still.
        let head = View::new(reading, Arc::clone(disk), line, Showing::Head).past_cache();
        let pieces: Vec<ByteRange> = range.chunks(HASH_READ_BYTES).collect();
        let mut hashes = Vec::new();
        for some in pieces.chunks(HASH_READS) {
            for part in join_all(some.iter().map(|piece| hash_piece(&head, *piece))).await {
                hashes.extend(part?);
            }
        }
        Ok(hashes)
    }
}

/// Hashes of the blocks of at most [`HASH_READ_BYTES`]. Stretches known to be zero are not read; where a part cannot
/// be read its blocks are unknown, so that the source sends them.
async fn hash_piece(head: &View, piece: ByteRange) -> Result<Vec<BlockHash>, StreamError> {
    let disk = head.disk();
    // An image that nobody has counted on yet, and that becomes what counts once the source finds no difference.
    let seeding = disk.floor().is_none() && matches!(disk.image(), Image::Present(_));
    let _held = match seeding {
        true => Some(disk.hashes().seeding.lock_exclusive(piece.widen(BLOCK_SIZE)).await),
        false => None,
    };
    if is_known_zero(head, piece).await? {
        if seeding {
            note(disk, &[Sums::zeroes(piece, disk.size_bytes())]).await?;
        }
        return Ok(piece.chunks(HASH_BLOCK_BYTES).map(|_| BlockHash::Zero).collect());
    }
    match head.read(piece).await {
        Ok(bytes) => {
            let size_bytes = disk.size_bytes();
            let (hashes, sums) = offload(move || {
                let sums = seeding.then(|| Sums::of(piece.start(), &bytes, size_bytes));
                (hash_blocks(&bytes), sums)
            })
            .await;
            if let Some(sums) = sums {
                note(disk, &[sums]).await?;
                disk.hashes().trust(piece);
            }
            Ok(hashes)
        }
        Err(DiskError::Unknown { .. } | DiskError::Damaged { .. }) => {
            let mut hashes = Vec::new();
            for block in piece.chunks(HASH_BLOCK_BYTES) {
                hashes.push(match head.read(block).await {
                    Ok(bytes) => hash_block(&bytes),
                    Err(DiskError::Unknown { .. } | DiskError::Damaged { .. }) => {
                        BlockHash::Unknown
                    }
                    Err(error) => return Err(error.into()),
                });
            }
            Ok(hashes)
        }
        Err(error) => Err(error.into()),
    }
}

async fn is_known_zero(head: &View, piece: ByteRange) -> Result<bool, StreamError> {
    let mut rest = piece;
    while !rest.is_empty() {
        let mapped = head.map(rest).await?;
        if mapped.iter().any(|part| part.content == Content::Data) {
            return Ok(false);
        }
        let Some(last) = mapped.last() else { return Ok(false) };
        rest = rest.split_at(last.range.end()).1;
    }
    Ok(true)
}

fn hash_blocks(bytes: &[u8]) -> Vec<BlockHash> {
    let block = usize::try_from(HASH_BLOCK_BYTES).expect("64 KiB");
    bytes.chunks(block).map(hash_block).collect()
}

fn hash_block(bytes: &[u8]) -> BlockHash {
    if bytes.iter().all(|byte| *byte == 0) {
        BlockHash::Zero
    } else {
        BlockHash::Known(*blake3::hash(bytes).as_bytes())
    }
}
