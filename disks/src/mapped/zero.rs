//! Zeroes and discards: whole blocks lose their home, parts of blocks become holes of the file.

use super::disk::MappedDisk;
use super::home::Home;
use super::resolve::length;
use super::space::Extent;
use super::table::{Page, Place};
use crate::block::{ByteOffset, ByteRange};
use crate::disk::{DiskError, ZeroMode};
use crate::uring::buffer::Buffer;
use std::sync::Arc;

impl MappedDisk {
    pub(super) async fn zero_range(
        &self,
        range: ByteRange,
        mode: ZeroMode,
    ) -> Result<(), DiskError> {
        let _no_growth = self.resizing.read().await;
        for (count, chunk) in range.chunks(self.shape.block_bytes).enumerate() {
            if count % 1024 == 1023 {
                // A discard of a whole disk must not hold up the core.
                tokio::task::yield_now().await;
            }
            self.zero_chunk(chunk, mode).await?;
        }
        Ok(())
    }

    /// Zeroes a part of one block, or all of it.
    async fn zero_chunk(&self, chunk: ByteRange, mode: ZeroMode) -> Result<(), DiskError> {
        let block = self.block_of(chunk.start());
        let page = self.page(self.entry_of(block).0).await?;
        let whole = chunk == self.block_on_disk(block);
        if whole && mode == ZeroMode::Unmap && self.clear(&page, block).await? {
            return Ok(());
        }
        let place = page.get(self.entry_of(block).1);
        let zero = place == Place::Zero || place == Place::Absent && self.parent.is_none();
        if zero && mode == ZeroMode::Unmap {
            return Ok(());
        }
        match self.home(&page, block, &mut self.nothing_reserved()).await? {
            Home::At(offset) => self.file.zero(self.in_file(offset, chunk), mode).await,
            Home::Merge => self.write_merged(chunk, Buffer::zeroed(length(chunk))).await,
        }
    }

    /// Takes the block's home away, so that it reads as zeroes; `false` if the format cannot say so.
    async fn clear(&self, page: &Arc<Page>, block: u64) -> Result<bool, DiskError> {
        let (number, index) = self.entry_of(block);
        // Without a parent, an absent block is one of zeroes, in every format.
        let empty = match &self.parent {
            None => Place::Absent,
            Some(_) if self.shape.stores_zero => Place::Zero,
            Some(_) => return Ok(false),
        };
        let _alone = match &self.parent {
            None => None,
            Some(_) => Some(self.locks.lock_exclusive(self.block_range(block)).await),
        };
        loop {
            let place = page.get(index);
            if place == Place::Zero || place == empty {
                return Ok(true);
            }
            if page.replace(index, place, empty) {
                self.pages.changed(number, page);
                self.give_up(block, place);
                return self.punch(place).await.map(|()| true);
            }
        }
    }

    /// Notes that the space of a block is free once the table without it is durable. Called after the change of the table.
    pub(super) fn give_up(&self, block: u64, place: Place) {
        if matches!(place, Place::Partial(_)) {
            self.presence.remove(block);
        }
        if let Some(offset) = place.offset() {
            let offset = offset - self.shape.lead_bytes;
            self.freed.lock().push(Extent { offset, length: self.shape.space_bytes() });
        }
    }

    /// Gives the space of a block back to the file system. If the change of the table is lost in a crash, the block is one of
    /// zeroes where it was, which is what was asked for.
    async fn punch(&self, place: Place) -> Result<(), DiskError> {
        let Some(offset) = place.offset() else { return Ok(()) };
        let space = ByteRange::at(ByteOffset::new(offset), self.shape.block_bytes);
        let space = space.expect("it lies in the file");
        let there = space.intersection(ByteRange::up_to(self.file.length()));
        self.file.discard(there).await
    }
}
