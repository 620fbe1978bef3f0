//! Block hashes of images: by them a block that lies only in an image is told from what a medium made of it.
//!
//! ```text
//!   seed, fold ─▶ image ─▶ Sums ─▶ pages in memory ─▶ log ─▶ pages of the file ─▶ SeedFinished, FoldDone
//!   read       ─▶ image ─▶ CRC32C of each block = that of its page?  no: an error, never the data
//!   scrub      ─▶ image ─▶ CRC32C and BLAKE3; what is not known becomes known
//! ```
//!
//! A file per disk, `<data>/image-hashes/<disk>.hashes`; its bytes are `format`, and `docs/formats/image-hashes.md` says
//! why a crash at any moment leaves neither a false alarm nor damage that goes unnoticed.
//!
//! **Invariants**
//! - What is noted of a block is what the image was told to hold, or nothing. It is not looked at for blocks that the
//!   trunk has a version of above the disk's floor and up to the start of history: those a fold may be writing.
//! - The log goes before its pages: after a crash every page is the old or the new one.
//! - Whoever changes pages holds `Update`; readers see what is in the file, which differs from it only in blocks that
//!   nobody reads from the image.

pub mod format;
mod open;
mod page;
mod sums;
#[cfg(test)]
mod tests;
mod update;

pub(crate) use open::{Described, remove, remove_unknown};
pub(crate) use page::{GRANULE_SIZE, PAGE_SPAN, zero_checksum};
pub use page::{Page, PageNumber};
pub(crate) use sums::{Sums, block_checksum, granule_hash};
pub(crate) use update::Update;

use crate::ids::DiskId;
use format::{Header, PAGE_BLOCKS, PAGE_BYTES, PAGE_GRANULES, page_offset, parse_page};
use futures_util::future::try_join_all;
use landfall_disks::file::{FileError, FileIo};
use landfall_disks::range_locks::RangeLocks;
use landfall_disks::{BLOCK_BYTES, BLOCK_SIZE, Block, Buffer, ByteOffset, ByteRange};
use page::{blocks_within, pages_of};
use parking_lot::Mutex;
use quick_cache::sync::Cache;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Checksums of pages that reads have asked for, of all disks; bounded.
pub(crate) struct PageCache(Cache<(DiskId, PageNumber), Checks>);

impl PageCache {
    /// One of about `bytes`.
    pub(crate) fn new(bytes: usize) -> Self {
        let page = size_of::<KnownChecks>() + 64;
        Self(Cache::new((bytes / page).max(16)))
    }
}

/// What reads have to know of a page.
#[derive(Clone)]
enum Checks {
    Zeroes,
    Unknown,
    Known(Arc<KnownChecks>),
}

struct KnownChecks {
    known: [u16; PAGE_GRANULES],
    checksums: [u32; PAGE_BLOCKS],
}

/// What is known of the image of one disk.
pub(crate) struct ImageHashes {
    disk: DiskId,
    /// None where it could not be opened or made: then nothing is known.
    file: Option<Arc<dyn FileIo>>,
    cache: Arc<PageCache>,
    /// Held shared by who reads pages of the file, alone by who writes them.
    placing: tokio::sync::RwLock<()>,
    pending: tokio::sync::Mutex<Pending>,
    /// As in the header of the file: pages that are not there and lie below are zeroes.
    zero_pages: AtomicU64,
    /// Why no page is written any more, once it is so.
    failed: OnceLock<String>,
    /// A page was found damaged: what it said is not known any more.
    page_damaged: AtomicBool,
    /// First copies hold what they write, from before the image is written until its sums are noted.
    pub(crate) seeding: RangeLocks,
    /// Ranges whose writing, by a first copy, was broken off.
    doubts: Mutex<Vec<ByteRange>>,
}

/// What is noted and not yet in the file.
struct Pending {
    header: Header,
    stored_header: Header,
    pages: BTreeMap<PageNumber, Box<Page>>,
}

impl ImageHashes {
    /// Whether anything may be known of the image.
    pub(crate) fn is_there(&self) -> bool {
        self.file.is_some()
    }

    /// Whether everything was looked at once: what is still unknown was damaged or could not be read.
    pub(crate) fn is_complete(&self) -> bool {
        self.file.is_some() && self.zero_pages.load(Ordering::Acquire) == PageNumber::MAX.number()
    }

    /// Whether some of what was known is lost: a scrub makes it known again.
    pub(crate) fn lost_some(&self) -> bool {
        self.file.is_none() || self.page_damaged.load(Ordering::Relaxed)
    }

    /// The first block of `range` (which starts at a block, and ends at one or with the disk) whose bytes are not those
    /// that the image was told to hold. Blocks of which nothing is known are taken as they are.
    pub(crate) async fn mismatch(&self, range: ByteRange, bytes: &[u8]) -> Option<ByteRange> {
        let file = self.file.as_ref()?;
        for number in pages_of(range) {
            let checks = match self.cache.0.get(&(self.disk, number)) {
                Some(checks) => checks,
                None => self.fill(&**file, number).await?,
            };
            let found = first_mismatch(&checks, number, range, bytes);
            if found.is_some() {
                return found;
            }
        }
        None
    }

    /// Whether `bytes` are known to be what the image was told to hold in `block`, by what is in memory.
    pub(crate) fn proves(&self, block: Block, bytes: &[u8]) -> bool {
        let number = PageNumber::of(block.offset());
        let range = ByteRange::at(block.offset(), bytes.len() as u64).expect("on the disk");
        let Some(checks) = self.cache.0.get(&(self.disk, number)) else { return false };
        let within = blocks_within(number, range).next().expect("one of its blocks");
        checks.known(within).is_some_and(|known| known == block_checksum(bytes))
    }

    /// Brings the pages of `range` into the cache, so that whoever reads meanwhile does not wait for them afterwards.
    pub(crate) async fn prefetch(&self, range: ByteRange) {
        let Some(file) = &self.file else { return };
        let missing = pages_of(range).filter(|number| !self.is_cached(*number));
        // Whatever is wrong is found again, and treated, when it is needed.
        let fills = missing.map(|number| async move { self.fill(&**file, number).await.ok_or(()) });
        let _ = try_join_all(fills).await;
    }

    fn is_cached(&self, number: PageNumber) -> bool {
        self.cache.0.peek(&(self.disk, number)).is_some()
    }

    /// Whether all pages of `range` are in the cache.
    pub(crate) fn has_cached(&self, range: ByteRange) -> bool {
        pages_of(range).all(|number| self.is_cached(number))
    }

    /// A page from the file. None if the file cannot be read: what it says is not known.
    async fn fill(&self, file: &dyn FileIo, number: PageNumber) -> Option<Checks> {
        let _shared = self.placing.read().await;
        let page = match read_page(file, number).await {
            Ok(page) => page,
            Err(error) => {
                tracing::warn!(disk = ?self.disk, %error, "block hashes cannot be read");
                return None;
            }
        };
        let checks = match page {
            StoredPage::Absent if number.number() < self.zero_pages.load(Ordering::Acquire) => {
                Checks::Zeroes
            }
            StoredPage::Absent => Checks::Unknown,
            StoredPage::There(page) => Checks::of(&page),
            StoredPage::Damaged(reason) => {
                self.note_damaged_page(number, &reason);
                // Not kept: it may be read well the next time, and what a scrub finds by it then must not be served.
                return Some(Checks::Unknown);
            }
        };
        self.cache.0.insert((self.disk, number), checks.clone());
        Some(checks)
    }

    fn note_damaged_page(&self, number: PageNumber, reason: &format::HashesError) {
        if !self.page_damaged.swap(true, Ordering::Relaxed) {
            let range = number.range();
            tracing::warn!(disk = ?self.disk, %range, %reason, "block hashes are damaged; a scrub makes them anew");
        }
    }

    /// Notes that a first copy stopped while it wrote `range`.
    pub(crate) fn doubt(&self, range: ByteRange) {
        self.doubts.lock().push(range);
    }

    /// Notes that `range` was written whole.
    pub(crate) fn trust(&self, range: ByteRange) {
        self.doubts.lock().retain(|doubt| !range.contains(*doubt));
    }
}

impl Checks {
    fn of(page: &Page) -> Self {
        Self::Known(Arc::new(KnownChecks { known: page.known, checksums: page.checksums }))
    }

    /// CRC32C of a block of the page, if it is known.
    fn known(&self, block: usize) -> Option<u32> {
        match self {
            Self::Unknown => None,
            Self::Zeroes => Some(zero_checksum()),
            Self::Known(page) => {
                let granule = page.known[block / format::GRANULE_BLOCKS];
                let is_known = granule >> (block % format::GRANULE_BLOCKS) & 1 == 1;
                is_known.then(|| page.checksums[block])
            }
        }
    }
}

/// A page as it is in the file.
enum StoredPage {
    Absent,
    There(Box<Page>),
    Damaged(format::HashesError),
}

async fn read_page(file: &dyn FileIo, number: PageNumber) -> Result<StoredPage, FileError> {
    match file.read_at(page_offset(number), Buffer::for_overwriting(PAGE_BYTES)).await {
        Ok(block) => Ok(match parse_page(number, &block) {
            Ok(None) => StoredPage::Absent,
            Ok(Some(page)) => StoredPage::There(page),
            Err(reason) => StoredPage::Damaged(reason),
        }),
        // Nothing was written there, or behind it.
        Err(FileError::Ended { .. }) => Ok(StoredPage::Absent),
        Err(error) => Err(error),
    }
}

/// The first block of `range` in a page that differs from what is known of it.
fn first_mismatch(
    checks: &Checks,
    number: PageNumber,
    range: ByteRange,
    bytes: &[u8],
) -> Option<ByteRange> {
    let first = number.range().start().bytes();
    let differs = |block: &usize| {
        let at = first + *block as u64 * BLOCK_SIZE - range.start().bytes();
        let at = usize::try_from(at).expect("a request");
        let block_bytes = &bytes[at..bytes.len().min(at + BLOCK_BYTES)];
        checks.known(*block).is_some_and(|known| block_checksum(block_bytes) != known)
    };
    let found = blocks_within(number, range).find(differs)?;
    let start = ByteOffset::new(first + found as u64 * BLOCK_SIZE);
    ByteRange::at(start, BLOCK_SIZE)
}
