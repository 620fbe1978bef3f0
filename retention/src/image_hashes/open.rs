//! Making, opening and removing files of block hashes.
//!
//! ```text
//!   no history yet        a new file: an image made just now is zeroes, any other is not known
//!   history               log finished, header fits ─▶ as it is      else ─▶ a new file that knows nothing, and a warning
//! ```

use super::format::{HashesError, Header, LOG_OFFSET, LogHeader, PAGE_BYTES};
use super::update::place;
use super::{ImageHashes, PageCache, PageNumber, Pending};
use crate::ids::{DiskId, Sequence};
use landfall_disks::Buffer;
use landfall_disks::file::{Caching, FileError, FileIo, Folder, OpenMode};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Where the files are, in the data folder.
const FOLDER: &str = "image-hashes";
const SUFFIX: &str = ".hashes";

/// Whose image is described.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Described {
    /// The disk.
    pub(crate) disk: DiskId,
    /// The data folder it belongs to.
    pub(crate) folder: [u8; 16],
}

impl Described {
    fn header(self, zero_pages: PageNumber, floor: Sequence) -> Header {
        Header { disk: self.disk, folder: self.folder, zero_pages, floor }
    }
}

/// Why what was known is not used.
#[derive(Debug, thiserror::Error)]
enum Unusable {
    #[error(transparent)]
    File(#[from] FileError),
    #[error("the file is damaged: {0}")]
    Damaged(#[from] HashesError),
    #[error("it describes another disk")]
    Another,
    #[error("it describes the image up to seq:{found}, which holds everything up to seq:{due}")]
    Behind { found: Sequence, due: Sequence },
}

fn path_of(disk: DiskId) -> PathBuf {
    Path::new(FOLDER).join(format!("{}{SUFFIX}", disk.number()))
}

/// Removes what is known of an image, if anything is.
pub(crate) async fn remove(folder: &dyn Folder, disk: DiskId) -> Result<(), FileError> {
    match folder.remove(&path_of(disk)).await {
        Ok(()) => folder.sync(Path::new(FOLDER)).await,
        Err(FileError::NotFound { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Removes files of disks that are gone: a crash came between the change and the removal.
pub(crate) async fn remove_unknown(
    folder: &dyn Folder,
    stays: impl Fn(DiskId) -> bool,
) -> Result<(), FileError> {
    let names = match folder.list(Path::new(FOLDER)).await {
        Err(FileError::NotFound { .. }) => return Ok(()),
        names => names?,
    };
    let number = |name: &String| name.strip_suffix(SUFFIX)?.parse().ok().map(DiskId::new);
    for disk in names.iter().filter_map(number).filter(|disk| !stays(*disk)) {
        remove(folder, disk).await?;
    }
    Ok(())
}

impl ImageHashes {
    /// A new file for an image that is all zero, or of which nothing is known. What cannot be made is done without.
    pub(crate) async fn create(
        folder: &dyn Folder,
        of: Described,
        zeroes: bool,
        cache: &Arc<PageCache>,
    ) -> Self {
        let zero_pages = if zeroes { PageNumber::MAX } else { PageNumber::default() };
        Self::make(folder, of.header(zero_pages, Sequence::default()), cache).await
    }

    async fn make(folder: &dyn Folder, header: Header, cache: &Arc<PageCache>) -> Self {
        match create(folder, &header).await {
            Ok(file) => Self::new(Some(file), header, cache),
            Err(error) => {
                tracing::warn!(disk = ?header.disk, %error, "no block hashes: what the image gives is not checked");
                Self::new(None, header, cache)
            }
        }
    }

    /// What is known of an image that holds everything up to `floor`. A file that does not fit is made anew and knows
    /// nothing: so it is for machines that were there before there were such files.
    pub(crate) async fn open(
        folder: &dyn Folder,
        of: Described,
        floor: Sequence,
        cache: &Arc<PageCache>,
    ) -> Self {
        let reason = match open(folder, of, floor).await {
            Ok((file, header)) => return Self::new(Some(file), header, cache),
            Err(Unusable::File(FileError::NotFound { .. })) => None,
            Err(reason) => Some(reason),
        };
        match reason {
            Some(reason) => {
                tracing::warn!(disk = ?of.disk, %reason, "block hashes cannot be used; a scrub makes them anew");
            }
            None => tracing::info!(disk = ?of.disk, "no block hashes yet; a scrub makes them"),
        }
        Self::make(folder, of.header(PageNumber::default(), floor), cache).await
    }

    /// Knows nothing, and never will: the image is lost.
    pub(crate) fn none(of: Described, cache: &Arc<PageCache>) -> Self {
        Self::new(None, of.header(PageNumber::default(), Sequence::default()), cache)
    }

    fn new(file: Option<Arc<dyn FileIo>>, header: Header, cache: &Arc<PageCache>) -> Self {
        let pending = Pending { header, stored_header: header, pages: BTreeMap::new() };
        Self {
            disk: header.disk,
            file,
            cache: Arc::clone(cache),
            placing: tokio::sync::RwLock::default(),
            pending: tokio::sync::Mutex::new(pending),
            zero_pages: header.zero_pages.number().into(),
            failed: std::sync::OnceLock::new(),
            page_damaged: false.into(),
            seeding: landfall_disks::range_locks::RangeLocks::new(),
            doubts: parking_lot::Mutex::default(),
        }
    }
}

async fn create(folder: &dyn Folder, header: &Header) -> Result<Arc<dyn FileIo>, FileError> {
    let path = path_of(header.disk);
    folder.create_folder(Path::new(FOLDER)).await?;
    match folder.remove(&path).await {
        Ok(()) | Err(FileError::NotFound { .. }) => {}
        Err(error) => return Err(error),
    }
    let file = folder.open(&path, OpenMode::CreateNew, Caching::Direct).await?;
    let mut blocks = Buffer::zeroed(2 * PAGE_BYTES);
    header.encode(&mut blocks[..PAGE_BYTES]);
    file.write_at(0, blocks).await?;
    file.flush().await?;
    folder.sync(Path::new(FOLDER)).await?;
    Ok(file)
}

async fn open(
    folder: &dyn Folder,
    of: Described,
    floor: Sequence,
) -> Result<(Arc<dyn FileIo>, Header), Unusable> {
    let file = folder.open(&path_of(of.disk), OpenMode::ReadWrite, Caching::Direct).await?;
    finish_log(&*file).await?;
    let block = file.read_at(0, Buffer::for_overwriting(PAGE_BYTES)).await?;
    let header = Header::parse(&block)?;
    if header.disk != of.disk || header.folder != of.folder {
        return Err(Unusable::Another);
    }
    if header.floor < floor {
        return Err(Unusable::Behind { found: header.floor, due: floor });
    }
    Ok((file, header))
}

/// Ends what a crash cut off: pages that the log has whole are put in their places, durably.
async fn finish_log(file: &dyn FileIo) -> Result<(), Unusable> {
    let block = file.read_at(LOG_OFFSET, Buffer::for_overwriting(PAGE_BYTES)).await?;
    // A log that is not whole was being written: none of its pages was touched yet.
    let Ok(Some(log)) = LogHeader::parse(&block) else { return Ok(()) };
    let length = log.targets.len() * PAGE_BYTES;
    let blocks =
        match file.read_at(LOG_OFFSET + PAGE_BYTES as u64, Buffer::for_overwriting(length)).await {
            Err(FileError::Ended { .. }) => return Ok(()),
            blocks => blocks?,
        };
    if crc32c::crc32c(&blocks) != log.pages_checksum {
        return Ok(());
    }
    place(file, &log.targets, &blocks).await?;
    file.flush().await?;
    file.write_at(LOG_OFFSET, Buffer::zeroed(PAGE_BYTES)).await?;
    Ok(())
}
