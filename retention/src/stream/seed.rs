//! The first copy of a disk: straight into its image, and what it holds into the image's hashes.
//!
//! ```text
//!   extent ─▶ range held ─▶ image ─▶ hashes noted ─▶ range free        broken off: nothing is known of it
//! ```
//!
//! Nothing counts on a first copy before the mark that ends it. After a crash all that is known of its image is thrown
//! away, so the order in which image and hashes reach the medium is of no matter until then.

use super::request::{StreamContent, StreamExtent};
use crate::image_hashes::{ImageHashes, Sums};
use crate::replica::{Image, ReplicaDisk};
use futures_util::future::join_all;
use landfall_disks::uring::offload;
use landfall_disks::{
    BLOCK_SIZE, Buffer, ByteOffset, ByteRange, Disk, DiskError, Durability, ZeroMode,
};

/// Bytes from which on hashes are made off the I/O core.
const HASH_INLINE_BYTES: usize = 32 << 10;

/// Writes a batch of a first copy.
pub(super) async fn write(disk: &ReplicaDisk, extents: Vec<StreamExtent>) -> Result<(), DiskError> {
    let Image::Present(image) = disk.image() else { unreachable!("the caller saw it present") };
    disk.touch();
    let writes = extents.into_iter().map(|extent| write_extent(disk, &*image, extent));
    join_all(writes).await.into_iter().collect()
}

async fn write_extent(
    disk: &ReplicaDisk,
    image: &dyn Disk,
    extent: StreamExtent,
) -> Result<(), DiskError> {
    let (hashes, range) = (disk.hashes(), extent.range);
    let _held = hashes.seeding.lock_exclusive(range.widen(BLOCK_SIZE)).await;
    let under_way = UnderWay { hashes, range, done: false };
    let sums = match extent.content {
        StreamContent::Data { bytes, .. } => {
            let (bytes, sums) = sums_of(range.start(), bytes, disk.size_bytes()).await;
            image.write(range.start(), bytes, Durability::Cached).await?;
            sums
        }
        StreamContent::Zero => {
            image.write_zeroes(range, ZeroMode::Unmap, Durability::Cached).await?;
            Sums::zeroes(range, disk.size_bytes())
        }
    };
    note(disk, &[sums]).await?;
    under_way.finish();
    Ok(())
}

/// Notes what the image of a disk without history holds.
pub(super) async fn note(disk: &ReplicaDisk, sums: &[Sums]) -> Result<(), DiskError> {
    let mut update = disk.hashes().update().await;
    update.take(sums).await?;
    update.settle().await
}

async fn sums_of(start: ByteOffset, bytes: Buffer, size_bytes: u64) -> (Buffer, Sums) {
    if bytes.len() <= HASH_INLINE_BYTES {
        let sums = Sums::of(start, &bytes, size_bytes);
        return (bytes, sums);
    }
    offload(move || {
        let sums = Sums::of(start, &bytes, size_bytes);
        (bytes, sums)
    })
    .await
}

/// A write that may be broken off at any place.
struct UnderWay<'a> {
    hashes: &'a ImageHashes,
    range: ByteRange,
    done: bool,
}

impl UnderWay<'_> {
    fn finish(mut self) {
        self.hashes.trust(self.range);
        self.done = true;
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        if !self.done {
            self.hashes.doubt(self.range);
        }
    }
}
