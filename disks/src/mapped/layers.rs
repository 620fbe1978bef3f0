//! What a disk holds itself, as opposed to what it reads from its parent: the change that a snapshot is.

use super::disk::MappedDisk;
use super::resolve::Source;
use crate::block::ByteRange;
use crate::disk::{Content, Disk, DiskError, IoFuture};

/// Most parts of one answer.
const MAX_ENTRIES: usize = 1024;

/// A stretch of a disk that is its own or its parent's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OwnRange {
    /// Where.
    pub range: ByteRange,
    /// What the disk itself has there; `None` if it reads from its parent.
    pub content: Option<Content>,
}

/// A disk that may stand on a parent.
pub trait Layer: Disk {
    /// Which parts of `range` the disk itself has: consecutive, non-empty, in order, covering a non-empty prefix of it.
    fn own(&self, range: ByteRange) -> IoFuture<'_, Vec<OwnRange>>;
}

impl Layer for MappedDisk {
    fn own(&self, range: ByteRange) -> IoFuture<'_, Vec<OwnRange>> {
        Box::pin(async move {
            DiskError::check_range(&self.geometry(), range)?;
            let pieces = self.resolve(range, MAX_ENTRIES).await?;
            let own = pieces.into_iter().map(|piece| OwnRange {
                range: piece.range,
                content: match piece.source {
                    Source::Parent => None,
                    Source::Zeroes => Some(Content::Hole),
                    Source::File(_) | Source::Packed(_) => Some(Content::Data),
                },
            });
            Ok(own.collect())
        })
    }
}
