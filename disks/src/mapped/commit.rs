//! Flushes: the data first, then the table that points at it, then the space that it no longer points at.

use super::disk::MappedDisk;
use super::resolve::Presence;
use super::space::Extent;
use super::table::{Changes, Page, PageChange, PresenceChange};
use crate::block::{ByteOffset, ByteRange, MAX_DISK_SIZE};
use crate::disk::{Disk, DiskError, ZeroMode};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Changes that were taken to be committed. They are changes again unless the commit was done.
struct Attempt<'a> {
    disk: &'a MappedDisk,
    pages: BTreeMap<u64, Arc<Page>>,
    presence: BTreeMap<u64, Arc<Presence>>,
    freed: Vec<Extent>,
}

impl<'a> Attempt<'a> {
    /// The order matters: space is free only with the entries that give it up, and entries are stored only with their bits.
    fn take(disk: &'a MappedDisk) -> Self {
        let freed = std::mem::take(&mut *disk.freed.lock());
        let pages = disk.pages.take_changed();
        let presence = disk.presence.take_changed();
        Self { disk, pages, presence, freed }
    }

    /// The entries and bits as they are now. What is set later is in the next commit, too.
    fn changes(&self) -> Changes {
        let page = |(page, content): (&u64, &Arc<Page>)| PageChange {
            page: *page,
            entries: content.places(),
        };
        let bits = |(block, presence): (&u64, &Arc<Presence>)| PresenceChange {
            block: *block,
            bits: presence.bits(),
        };
        Changes {
            pages: self.pages.iter().map(page).collect(),
            presence: self.presence.iter().map(bits).collect(),
        }
    }

    fn done(mut self) {
        self.pages.clear();
        self.presence.clear();
        self.disk.generations.release(std::mem::take(&mut self.freed));
    }
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        self.disk.pages.not_stored(std::mem::take(&mut self.pages));
        self.disk.presence.not_stored(std::mem::take(&mut self.presence));
        self.disk.freed.lock().append(&mut self.freed);
    }
}

impl MappedDisk {
    /// Makes everything durable that was completed before this was called. Those who wait while one commit runs share the next.
    pub(super) async fn commit(&self) -> Result<(), DiskError> {
        let ticket = self.asked.fetch_add(1, Ordering::SeqCst) + 1;
        let _alone = self.committing.lock().await;
        if self.covered.load(Ordering::SeqCst) >= ticket {
            return Ok(());
        }
        let covers = self.asked.load(Ordering::SeqCst);
        self.commit_alone().await?;
        self.covered.store(covers, Ordering::SeqCst);
        Ok(())
    }

    async fn commit_alone(&self) -> Result<(), DiskError> {
        let attempt = Attempt::take(self);
        // Before the flush: what the entries point to by now is written.
        let changes = attempt.changes();
        self.file.flush().await?;
        if !changes.is_empty() {
            self.table.commit(&changes).await?;
        }
        attempt.done();
        Ok(())
    }

    /// Makes the disk larger, durably. Reads and writes go on meanwhile: nothing that has a place is moved, and what is written in
    /// between is committed afterwards, to wherever the table is then.
    pub(super) async fn change_size(&self, to_bytes: u64) -> Result<(), DiskError> {
        let _alone = self.committing.lock().await;
        let geometry = self.geometry();
        let from_bytes = geometry.size_bytes;
        let whole = to_bytes.is_multiple_of(u64::from(geometry.logical_sector));
        if to_bytes < from_bytes || to_bytes > MAX_DISK_SIZE || !whole {
            return Err(DiskError::Resize { from_bytes, to_bytes });
        }
        if to_bytes == from_bytes {
            return Ok(());
        }
        self.begin().await?;
        let _nothing_given_up = self.resizing.write().await;
        self.zero_past_the_end(from_bytes).await?;
        self.commit_alone().await?;
        let last = from_bytes.checked_sub(1).map(|last| self.block_of(ByteOffset::new(last)));
        // Held, so that nobody loads it while the table changes.
        let page = match last {
            Some(last) => Some((last, self.page(self.entry_of(last).0).await?)),
            None => None,
        };
        self.table.resize(to_bytes).await?;
        if let Some((last, page)) = page {
            self.see_new_blocks(last, &page).await?;
        }
        self.size_bytes.store(to_bytes, Ordering::Release);
        Ok(())
    }

    /// Blocks behind `last`, the one that was the last, may have got places from the table; `page` is from before.
    async fn see_new_blocks(&self, last: u64, page: &Page) -> Result<(), DiskError> {
        let (number, index) = self.entry_of(last);
        let stored = self.table.load(number).await?;
        for (index, place) in stored.into_iter().enumerate().skip(index + 1) {
            // No request has reached them yet.
            let replaced = page.replace(index, page.get(index), place);
            assert!(replaced, "the entry of a block past the end changed");
        }
        Ok(())
    }

    /// Bytes of the last block past the end of the disk are about to be seen; whoever wrote the image may have left something.
    async fn zero_past_the_end(&self, size_bytes: u64) -> Result<(), DiskError> {
        let end = ByteOffset::new(size_bytes);
        let within = self.within_block(end);
        if within == 0 {
            return Ok(());
        }
        let block = self.block_of(end);
        let (number, index) = self.entry_of(block);
        let Some(offset) = self.page(number).await?.get(index).offset() else { return Ok(()) };
        let past = ByteRange::at(ByteOffset::new(offset + within), self.shape.block_bytes - within);
        let past = past.expect("it lies in the file");
        let there = past.intersection(ByteRange::up_to(self.file.length()));
        self.file.zero(there, ZeroMode::Unmap).await
    }
}
