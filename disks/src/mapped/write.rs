//! Writes: every block gets a home, then the data goes there; what has to be merged with a parent goes block by block.

use super::disk::MappedDisk;
use super::home::Home;
use super::resolve::{Presence, length};
use super::table::{Page, Place};
use crate::block::{ByteOffset, ByteRange};
use crate::disk::DiskError;
use crate::uring::buffer::Buffer;
use futures_util::future::join_all;
use std::sync::Arc;

/// Neighbouring blocks that are written the same way.
struct Run {
    range: ByteRange,
    home: Home,
}

/// Adds a block, joined with the last run where it goes on from it.
fn push(runs: &mut Vec<Run>, range: ByteRange, home: Home) {
    if let (Some(last), Home::At(offset)) = (runs.last_mut(), home)
        && let Home::At(start) = last.home
        && start + last.range.length() == offset
    {
        last.range = ByteRange::new(last.range.start(), range.end()).expect("in order");
        return;
    }
    runs.push(Run { range, home });
}

impl MappedDisk {
    pub(super) async fn write_range(
        &self,
        range: ByteRange,
        data: Buffer,
    ) -> Result<(), DiskError> {
        let block = self.block_of(range.start());
        if self.block_range(block).contains(range)
            && let Some(Place::At(offset)) = self.known_place(block)
        {
            return self.file.write(self.in_file(offset, range).start(), data).await;
        }
        // Apart, so that the usual case does not carry its state about.
        Box::pin(self.write_runs(range, data)).await
    }

    async fn write_runs(&self, range: ByteRange, data: Buffer) -> Result<(), DiskError> {
        let mut runs = Vec::new();
        let mut reserved = self.reserve(range).await?;
        for chunk in range.chunks(self.shape.block_bytes) {
            let block = self.block_of(chunk.start());
            let page = self.page(self.entry_of(block).0).await?;
            let home = match self.home(&page, block, &mut reserved).await? {
                Home::At(offset) => Home::At(offset + self.within_block(chunk.start())),
                Home::Merge => Home::Merge,
            };
            push(&mut runs, chunk, home);
        }
        drop(reserved);
        let mut rest = data;
        let mut writes = Vec::with_capacity(runs.len());
        for run in runs {
            let tail = rest.split_off(length(run.range));
            writes.push(self.write_run(run, rest));
            rest = tail;
        }
        // All end before this does, also after a failure.
        join_all(writes).await.into_iter().collect()
    }

    async fn write_run(&self, run: Run, data: Buffer) -> Result<(), DiskError> {
        match run.home {
            Home::At(offset) => self.file.write(ByteOffset::new(offset), data).await,
            Home::Merge => self.write_merged(run.range, data).await,
        }
    }

    /// Writes into a block of which the parent has the rest. `range` lies in one block.
    pub(super) async fn write_merged(
        &self,
        range: ByteRange,
        data: Buffer,
    ) -> Result<(), DiskError> {
        let block = self.block_of(range.start());
        let _alone = self.locks.lock_exclusive(self.block_range(block)).await;
        let (number, index) = self.entry_of(block);
        let page = self.page(number).await?;
        // Somebody may have been here before.
        let mut reserved = self.nothing_reserved();
        if let Home::At(offset) = self.home_locked(&page, block, &mut reserved).await? {
            return self.file.write(self.in_file(offset, range).start(), data).await;
        }
        let place = page.get(index);
        let by_sector = self.shape.presence_unit.is_some() && !matches!(place, Place::Packed(_));
        if by_sector && range != self.block_on_disk(block) {
            self.write_sectors(&page, place, range, data).await
        } else {
            self.replace_block(&page, place, range, data).await
        }
    }

    /// Writes a whole block to new space: `data` and, around it, what the block reads as.
    async fn replace_block(
        &self,
        page: &Arc<Page>,
        place: Place,
        range: ByteRange,
        data: Buffer,
    ) -> Result<(), DiskError> {
        let block = self.block_of(range.start());
        let (number, index) = self.entry_of(block);
        let whole = self.block_on_disk(block);
        let content = self.overlay(whole, range, data).await?;
        // Bytes of the last block past the end of the disk are not written, so they have to be zeroes already.
        let mut reserved = self.nothing_reserved();
        let taken = if whole == self.block_range(block) {
            self.take(&mut reserved).await?.0
        } else {
            self.take_zeroed(&mut reserved).await?
        };
        self.file.write(ByteOffset::new(taken.data()), content).await?;
        let replaced = page.replace(index, place, Place::At(taken.data()));
        assert!(replaced, "a block that needs merging changes only under its lock");
        taken.published();
        self.pages.changed(number, page);
        self.give_up(block, place);
        Ok(())
    }

    /// Writes the sectors of `range` and marks them as present.
    async fn write_sectors(
        &self,
        page: &Arc<Page>,
        place: Place,
        range: ByteRange,
        data: Buffer,
    ) -> Result<(), DiskError> {
        let block = self.block_of(range.start());
        let (number, index) = self.entry_of(block);
        let unit = self.presence_unit();
        let sectors = range.widen(unit);
        let content = self.overlay(sectors, range, data).await?;
        let (offset, taken) = match place {
            Place::Partial(offset) => (offset, None),
            _ => {
                let (taken, _) = self.take(&mut self.nothing_reserved()).await?;
                (taken.data(), Some(taken))
            }
        };
        let at = self.in_file(offset, sectors).start();
        self.file.write(at, content).await?;
        let presence = match taken {
            None => self.presence(block).await?,
            Some(taken) => {
                // Marked as changed before the entry is, so that no commit has the entry without the bits.
                let count = self.shape.block_bytes / unit;
                let presence = self.presence.insert(block, Presence::none(count));
                self.presence.changed(block, &presence);
                let replaced = page.replace(index, place, Place::Partial(offset));
                assert!(replaced, "a block that needs merging changes only under its lock");
                taken.published();
                self.pages.changed(number, page);
                presence
            }
        };
        let start = self.block_range(block).start().bytes();
        let first = (sectors.start().bytes() - start) / unit;
        let last = (sectors.end().bytes() - start) / unit;
        let full = presence.set(first..last);
        self.presence.changed(block, &presence);
        if full {
            let replaced = page.replace(index, Place::Partial(offset), Place::At(offset));
            assert!(replaced, "a block that needs merging changes only under its lock");
            self.pages.changed(number, page);
        }
        Ok(())
    }

    /// What `whole` reads as, with `data` in place of `range`.
    async fn overlay(
        &self,
        whole: ByteRange,
        range: ByteRange,
        data: Buffer,
    ) -> Result<Buffer, DiskError> {
        if whole == range {
            return Ok(data);
        }
        let mut content = self.read_range(whole).await?;
        let start = length(
            ByteRange::new(whole.start(), range.start()).expect("the range lies in the whole"),
        );
        content[start..start + data.len()].copy_from_slice(&data);
        Ok(content)
    }
}
