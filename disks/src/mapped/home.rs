//! Homes: giving a block space in the file.

use super::disk::MappedDisk;
use super::space::{Extent, Space};
use super::table::{Page, Place};
use crate::block::{ByteOffset, ByteRange};
use crate::disk::{DiskError, ZeroMode};
use std::sync::Arc;

/// Where a block can be written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Home {
    /// Straight at this offset of the file.
    At(u64),
    /// Only together with what it does not hold itself.
    Merge,
}

/// Space that was taken and is given back unless an entry points at it.
pub(super) struct Taken {
    space: Arc<Space>,
    extent: Extent,
    lead_bytes: u64,
    published: bool,
}

impl Taken {
    /// Where the block's data starts.
    pub(super) fn data(&self) -> u64 {
        self.extent.offset + self.lead_bytes
    }

    /// An entry points at it.
    pub(super) fn published(mut self) {
        self.published = true;
    }
}

/// Space taken ahead for the blocks of one request, so that they lie side by side whatever takes space meanwhile. What is left
/// over is given back.
pub(super) struct Reserved {
    space: Arc<Space>,
    rest: Extent,
    fresh: bool,
}

impl Reserved {
    fn pop(&mut self, length: u64) -> Option<(Extent, bool)> {
        let rest = self.rest.length.checked_sub(length)?;
        let extent = Extent { offset: self.rest.offset, length };
        self.rest = Extent { offset: extent.end(), length: rest };
        Some((extent, self.fresh))
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        self.space.give_back(self.rest);
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        if !self.published {
            self.space.give_back(self.extent);
        }
    }
}

impl MappedDisk {
    /// Finds the home of a block, or gives it one of zeroes where its content is zeroes: of `reserved`, while that lasts.
    pub(super) async fn home(
        &self,
        page: &Arc<Page>,
        block: u64,
        reserved: &mut Reserved,
    ) -> Result<Home, DiskError> {
        if let Some(home) = self.present_home(page, block) {
            return Ok(home);
        }
        // One at a time: many writes into one new block would each take the space of a block, and the file would grow by that.
        let _alone = self.locks.lock_exclusive(self.block_range(block)).await;
        self.home_locked(page, block, reserved).await
    }

    /// The same for a caller that holds the lock of the block.
    pub(super) async fn home_locked(
        &self,
        page: &Arc<Page>,
        block: u64,
        reserved: &mut Reserved,
    ) -> Result<Home, DiskError> {
        let (number, index) = self.entry_of(block);
        loop {
            if let Some(home) = self.present_home(page, block) {
                return Ok(home);
            }
            let place = page.get(index);
            let taken = self.take_zeroed(reserved).await?;
            let offset = taken.data();
            if page.replace(index, place, Place::At(offset)) {
                taken.published();
                self.pages.changed(number, page);
                return Ok(Home::At(offset));
            }
            // It was discarded meanwhile, which needs no lock without a parent; the space goes back.
        }
    }

    /// The home of a block unless it is one of zeroes that has none.
    fn present_home(&self, page: &Page, block: u64) -> Option<Home> {
        match page.get(self.entry_of(block).1) {
            Place::At(offset) => Some(Home::At(offset)),
            Place::Absent if self.parent.is_some() => Some(Home::Merge),
            Place::Partial(_) | Place::Packed(_) => Some(Home::Merge),
            Place::Absent | Place::Zero => None,
        }
    }

    /// For requests that need at most one home: nothing is taken ahead.
    pub(super) fn nothing_reserved(&self) -> Reserved {
        Reserved {
            space: Arc::clone(&self.space),
            rest: Extent { offset: 0, length: 0 },
            fresh: false,
        }
    }

    /// Space for the blocks of `range` that have no home yet, if there is enough of it in one piece.
    pub(super) async fn reserve(&self, range: ByteRange) -> Result<Reserved, DiskError> {
        let mut reserved = self.nothing_reserved();
        let mut homeless = 0;
        for chunk in range.chunks(self.shape.block_bytes) {
            let block = self.block_of(chunk.start());
            let page = self.page(self.entry_of(block).0).await?;
            homeless += u64::from(self.present_home(&page, block).is_none());
        }
        if homeless > 1
            && let Some((extent, fresh)) = self.space.take_run(self.shape.space_bytes(), homeless)
        {
            (reserved.rest, reserved.fresh) = (extent, fresh);
            self.lengthen(extent.end()).await?;
        }
        Ok(reserved)
    }

    /// Space for a block that reads as zeroes.
    pub(super) async fn take_zeroed(&self, reserved: &mut Reserved) -> Result<Taken, DiskError> {
        let (taken, fresh) = self.take(reserved).await?;
        if !fresh {
            let extent = taken.extent;
            let range = ByteRange::at(ByteOffset::new(extent.offset), extent.length);
            self.file.zero(range.expect("it lies in the file"), ZeroMode::Unmap).await?;
        }
        Ok(taken)
    }

    /// Space for a block, and whether it is fresh. If not, it may hold old bytes.
    pub(super) async fn take(&self, reserved: &mut Reserved) -> Result<(Taken, bool), DiskError> {
        let length = self.shape.space_bytes();
        let (extent, fresh) = match reserved.pop(length) {
            Some(found) => found,
            None => self.space.take(length)?,
        };
        let space = Arc::clone(&self.space);
        let lead_bytes = self.shape.lead_bytes;
        let taken = Taken { space, extent, lead_bytes, published: false };
        self.lengthen(extent.end()).await?;
        Ok((taken, fresh))
    }

    /// Makes the file at least `end` bytes long.
    async fn lengthen(&self, end: u64) -> Result<(), DiskError> {
        if self.file.length() >= end {
            return Ok(());
        }
        let _alone = self.growth.lock().await;
        if self.file.length() < end {
            self.table.lengthen(&self.file, end).await?;
        }
        Ok(())
    }
}
