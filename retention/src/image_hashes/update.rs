//! Changes of what is known of an image: noted in memory, then written through the log.
//!
//! ```text
//!   take(sums) ─▶ pages in memory ─▶ space allocated ─▶ log, flush ─▶ pages in place, cache ─▶ flush ─▶ … ─▶ log emptied
//! ```
//!
//! **Invariant:** a log is overwritten only when the pages it tells of are durable in their places. After a failed write
//! or flush nothing is written until the next start, which finishes what the log tells of.

use super::format::{
    LOG_OFFSET, LOG_PAGES, LogHeader, PAGE_BYTES, PAGES_OFFSET, Target, encode_page,
};
use super::page::{PAGE_SPAN, Page, PageNumber, blocks_within, pages_of};
use super::{Checks, ImageHashes, Pending, StoredPage, Sums, read_page};
use crate::ids::Sequence;
use futures_util::future::try_join_all;
use landfall_disks::file::{FileError, FileIo};
use landfall_disks::{Buffer, ByteRange, DiskError, is_zero};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::sync::MutexGuard;

/// Pages that are read at once.
const READS_AT_ONCE: usize = 32;
/// Pages in memory from which on they are written.
const PAGES_KEPT: usize = LOG_PAGES - 1;
/// Longest range of which pages are made only to say that nothing is known.
const FORGOTTEN_ONE_BY_ONE: u64 = 1024 * PAGE_SPAN;

/// The right to change what is known of an image; nobody else changes the image or its hashes meanwhile but first copies.
pub(crate) struct Update<'a> {
    hashes: &'a ImageHashes,
    pending: MutexGuard<'a, Pending>,
}

impl ImageHashes {
    /// Waits for its turn to change what is known.
    pub(crate) async fn update(&self) -> Update<'_> {
        Update { hashes: self, pending: self.pending.lock().await }
    }
}

impl Update<'_> {
    /// Notes what the image holds, once it does.
    pub(crate) async fn take(&mut self, sums: &[Sums]) -> Result<(), DiskError> {
        let Some(file) = self.hashes.file.clone() else { return Ok(()) };
        for some in sums {
            let pages = match some {
                Sums::Zeroes(range) => self.zeroed_pages(&*file, *range).await?,
                Sums::Data(_) => some.pages().collect(),
            };
            self.load(&*file, &pages).await?;
            for number in pages {
                some.note(number, self.page(number));
            }
        }
        Ok(())
    }

    /// Nothing is known of `range` (whole blocks) any more.
    pub(crate) async fn forget(&mut self, range: ByteRange) -> Result<(), DiskError> {
        let Some(file) = self.hashes.file.clone() else { return Ok(()) };
        if range.length() > FORGOTTEN_ONE_BY_ONE {
            self.pending.header.zero_pages = PageNumber::default();
            let present = self.present_pages(&*file, ByteRange::up_to(u64::MAX)).await?;
            for number in present {
                self.pending.pages.insert(number, Box::new(Page::unknown()));
            }
            return Ok(());
        }
        let pages: Vec<_> = pages_of(range).collect();
        self.load(&*file, &pages).await?;
        for number in pages {
            let page = self.page(number);
            blocks_within(number, range).for_each(|block| page.forget_block(block));
        }
        Ok(())
    }

    /// At the end of a disk nothing is left that a page that is not there could mean but zeroes.
    fn note_end(&mut self, size_bytes: u64) {
        let header = &mut self.pending.header;
        if header.zero_pages.number() >= size_bytes.div_ceil(PAGE_SPAN) {
            header.zero_pages = PageNumber::MAX;
        }
    }

    /// What is known of a page now.
    pub(crate) async fn look(&mut self, number: PageNumber) -> Result<Box<Page>, DiskError> {
        if let Some(page) = self.pending.pages.get(&number) {
            return Ok(page.clone());
        }
        let unknown = || Box::new(Page::unknown());
        let Some(file) = &self.hashes.file else { return Ok(unknown()) };
        Ok(match read_page(&**file, number).await? {
            StoredPage::There(page) => page,
            StoredPage::Absent if number < self.pending.header.zero_pages => {
                Box::new(Page::zeroes())
            }
            StoredPage::Absent => unknown(),
            StoredPage::Damaged(reason) => {
                self.hashes.note_damaged_page(number, &reason);
                unknown()
            }
        })
    }

    /// How much of `hole`, of which the image has nothing, is known to be zero or is known of by nothing at all.
    pub(crate) async fn without_pages(&self, hole: ByteRange) -> Result<ByteRange, DiskError> {
        let Some(file) = &self.hashes.file else { return Ok(hole) };
        let present = self.present_pages(&**file, hole).await?;
        let first = present.first().map_or(hole.end(), |page| page.range().start());
        let end = first.max(hole.start()).min(hole.end());
        Ok(ByteRange::new(hole.start(), end).expect("in order"))
    }

    /// Everything of `window` was looked at, and so was all before it: what its pages say is known, or cannot be.
    pub(crate) async fn pass(
        &mut self,
        window: ByteRange,
        size_bytes: u64,
    ) -> Result<(), DiskError> {
        let Some(file) = self.hashes.file.clone() else { return Ok(()) };
        let done = if window.end().bytes() >= size_bytes {
            PageNumber::new(size_bytes.div_ceil(PAGE_SPAN))
        } else {
            PageNumber::of(window.end())
        };
        while (PageNumber::of(window.start())..done).contains(&self.pending.header.zero_pages) {
            let number = self.pending.header.zero_pages;
            self.load(&*file, &[number]).await?;
            self.page(number);
        }
        self.note_end(size_bytes);
        Ok(())
    }

    /// How far pages that are not there mean zeroes.
    pub(crate) fn zero_pages(&self) -> PageNumber {
        self.pending.header.zero_pages
    }

    /// Writes what is noted if it is much.
    pub(crate) async fn settle(&mut self) -> Result<(), DiskError> {
        if self.pending.pages.len() >= PAGES_KEPT { self.store().await } else { Ok(()) }
    }

    /// Makes what is noted durable, and that it describes everything up to `floor` of a disk of `size_bytes`.
    pub(crate) async fn finish(
        &mut self,
        floor: Sequence,
        size_bytes: u64,
    ) -> Result<(), DiskError> {
        let doubts = std::mem::take(&mut *self.hashes.doubts.lock());
        for doubt in doubts {
            self.forget(doubt.widen(landfall_disks::BLOCK_SIZE)).await?;
        }
        self.note_end(size_bytes);
        self.pending.header.floor = self.pending.header.floor.max(floor);
        self.store().await
    }

    /// Makes what is noted durable.
    pub(crate) async fn store(&mut self) -> Result<(), DiskError> {
        let Some(file) = self.hashes.file.clone() else {
            self.pending.pages.clear();
            return Ok(());
        };
        if let Some(reason) = self.hashes.failed.get() {
            return Err(DiskError::Failed(reason.clone()));
        }
        while !self.pending.pages.is_empty() || self.pending.header != self.pending.stored_header {
            self.store_some(&file).await?;
        }
        Ok(())
    }

    /// Writes as many pages as the log takes; the header with the last of them, as it speaks of all.
    async fn store_some(&mut self, file: &Arc<dyn FileIo>) -> Result<(), DiskError> {
        let numbers: Vec<_> = self.pending.pages.keys().take(PAGES_KEPT).copied().collect();
        let last = numbers.len() == self.pending.pages.len();
        let mut targets: Vec<_> = numbers.iter().copied().map(Target::Page).collect();
        targets.extend(last.then_some(Target::Header));
        let blocks = self.encode(&numbers, last);
        // Before the log: once it is written, what it tells of must not fail for want of space.
        for (at, stretch) in stretches(&targets, &blocks).filter(|(_, some)| !is_zero(some)) {
            file.allocate(at, stretch.len() as u64).await?;
        }
        file.allocate(LOG_OFFSET, (PAGE_BYTES + blocks.len()) as u64).await?;
        let hashes = self.hashes;
        let failed = |error: FileError| {
            let reason = hashes.failed.get_or_init(|| error.to_string()).clone();
            tracing::error!(disk = ?hashes.disk, reason, "block hashes cannot be written, refusing changes of the image");
            DiskError::from(error)
        };
        let log = LogHeader { targets: targets.clone(), pages_checksum: crc32c::crc32c(&blocks) };
        let mut record = Buffer::zeroed(PAGE_BYTES + blocks.len());
        log.encode(&mut record[..PAGE_BYTES]);
        record[PAGE_BYTES..].copy_from_slice(&blocks);
        file.write_at(LOG_OFFSET, record).await.map_err(failed)?;
        file.flush().await.map_err(failed)?;
        {
            let _alone = hashes.placing.write().await;
            place(&**file, &targets, &blocks).await.map_err(failed)?;
            self.show(&numbers, last);
        }
        file.flush().await.map_err(failed)?;
        if last {
            // Should it not reach the medium, the pages are written once more at the next start.
            file.write_at(LOG_OFFSET, Buffer::zeroed(PAGE_BYTES)).await.map_err(failed)?;
        }
        Ok(())
    }

    fn encode(&self, numbers: &[PageNumber], header: bool) -> Vec<u8> {
        let Pending { pages, header: present, .. } = &*self.pending;
        let zero_pages =
            if header { present.zero_pages } else { self.pending.stored_header.zero_pages };
        let mut blocks = vec![0; (numbers.len() + usize::from(header)) * PAGE_BYTES];
        for (number, block) in numbers.iter().zip(blocks.chunks_mut(PAGE_BYTES)) {
            let page = &pages[number];
            // What a page that is not there says need not be there.
            if !(page.is_zero() && *number < zero_pages) {
                encode_page(*number, page, block);
            }
        }
        if header {
            let at = blocks.len() - PAGE_BYTES;
            present.encode(&mut blocks[at..]);
        }
        blocks
    }

    /// Lets readers see what is in the file now.
    fn show(&mut self, numbers: &[PageNumber], header: bool) {
        let hashes = self.hashes;
        for number in numbers {
            let page = self.pending.pages.remove(number).expect("it was just written");
            hashes.cache.0.insert((hashes.disk, *number), Checks::of(&page));
        }
        if header {
            self.pending.stored_header = self.pending.header;
            let zero_pages = self.pending.header.zero_pages.number();
            if hashes.zero_pages.swap(zero_pages, Ordering::AcqRel) != zero_pages {
                // Of pages that are not there the cache says what they meant before.
                hashes.cache.0.retain(|(disk, _), checks| {
                    *disk != hashes.disk || matches!(checks, Checks::Known(_))
                });
            }
        }
    }

    /// The page in memory; one that is not there means what the header says. It must have been loaded.
    fn page(&mut self, number: PageNumber) -> &mut Page {
        let Pending { header, pages, .. } = &mut *self.pending;
        let zeroes = number < header.zero_pages;
        let absent = || Box::new(if zeroes { Page::zeroes() } else { Page::unknown() });
        pages.entry(number).or_insert_with(absent);
        // It is there from now on, so what its absence means is no question any more.
        while pages.contains_key(&header.zero_pages) {
            header.zero_pages = header.zero_pages.next();
        }
        pages.get_mut(&number).expect("it was just put there")
    }

    /// Sees to it that pages which are in the file are in memory.
    async fn load(&mut self, file: &dyn FileIo, numbers: &[PageNumber]) -> Result<(), DiskError> {
        let missing = numbers.iter().filter(|number| !self.pending.pages.contains_key(number));
        let missing: Vec<_> = missing.copied().collect();
        for some in missing.chunks(READS_AT_ONCE) {
            let reads = some.iter().map(|number| read_page(file, *number));
            for (number, page) in some.iter().zip(try_join_all(reads).await?) {
                match page {
                    StoredPage::Absent => {}
                    StoredPage::There(page) => {
                        self.pending.pages.insert(*number, page);
                    }
                    StoredPage::Damaged(reason) => {
                        self.hashes.note_damaged_page(*number, &reason);
                        self.pending.pages.insert(*number, Box::new(Page::unknown()));
                    }
                }
            }
        }
        Ok(())
    }

    /// The pages that zeroes in `range` have to be noted in. Those that lie wholly within, and are not there, mean zeroes
    /// already or are left unknown: nobody needs a page for each 2.5 MiB of an empty disk.
    async fn zeroed_pages(
        &mut self,
        file: &dyn FileIo,
        range: ByteRange,
    ) -> Result<Vec<PageNumber>, DiskError> {
        let first = PageNumber::new(range.start().bytes().div_ceil(PAGE_SPAN));
        let end = PageNumber::of(range.end());
        if first >= end {
            return Ok(pages_of(range).collect());
        }
        let inner = ByteRange::new(first.range().start(), end.range().start()).expect("in order");
        for number in self.present_pages(file, inner).await? {
            self.pending.pages.insert(number, Box::new(Page::zeroes()));
        }
        let header = &mut self.pending.header;
        if (first..end).contains(&header.zero_pages) {
            header.zero_pages = end;
        }
        let (head, rest) = range.split_at(inner.start());
        let tail = rest.split_at(inner.end()).1;
        Ok(pages_of(head).chain(pages_of(tail)).collect())
    }

    /// The pages of `range` that are in memory or may be in the file.
    async fn present_pages(
        &self,
        file: &dyn FileIo,
        range: ByteRange,
    ) -> Result<BTreeSet<PageNumber>, DiskError> {
        let end = PageNumber::new(range.end().bytes().div_ceil(PAGE_SPAN));
        let mut next = PageNumber::of(range.start());
        let mut present: BTreeSet<_> =
            self.pending.pages.range(next..end).map(|(number, _)| *number).collect();
        while next < end {
            let offset = super::format::page_offset(next);
            let Some((from, to)) = file.next_data(offset).await? else { break };
            let page = |offset: u64| offset.saturating_sub(PAGES_OFFSET) / PAGE_BYTES as u64;
            let until = page(to.next_multiple_of(PAGE_BYTES as u64)).min(end.number());
            present.extend((page(from).max(next.number())..until).map(PageNumber::new));
            next = PageNumber::new(until.max(next.number() + 1));
        }
        Ok(present)
    }
}

/// Blocks that follow each other in the file, with where the first of them goes. Zeroes are apart from others.
fn stretches<'a>(targets: &'a [Target], blocks: &'a [u8]) -> impl Iterator<Item = (u64, &'a [u8])> {
    let block = |index: usize| &blocks[index * PAGE_BYTES..][..PAGE_BYTES];
    let mut next = 0;
    std::iter::from_fn(move || {
        let first = next;
        let start = targets.get(first)?.offset();
        let zero = is_zero(block(first));
        next += 1;
        while targets.get(next).is_some_and(|target| {
            target.offset() == start + ((next - first) * PAGE_BYTES) as u64
                && is_zero(block(next)) == zero
        }) {
            next += 1;
        }
        Some((start, &blocks[first * PAGE_BYTES..next * PAGE_BYTES]))
    })
}

/// Puts blocks in their places. Those of zeroes take no space.
pub(super) async fn place(
    file: &dyn FileIo,
    targets: &[Target],
    blocks: &[u8],
) -> Result<(), FileError> {
    let writes = stretches(targets, blocks).map(|(at, stretch)| async move {
        // Where holes cannot be made, zeroes say the same and take space.
        let holes = is_zero(stretch) && file.punch_hole(at, stretch.len() as u64).await.is_ok();
        if holes { Ok(()) } else { file.write_at(at, Buffer::copy_of(stretch)).await.map(|_| ()) }
    });
    try_join_all(writes).await.map(|_| ())
}
