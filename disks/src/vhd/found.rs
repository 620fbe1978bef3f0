//! Finding the footer of a file, which a crash may have taken from its place.
//!
//! ```text
//!   A   in the last sector                                      it counts
//!   B   not there, but a copy in the first sector               dynamic, differencing: the copy counts
//!   C   not there, but in the last sector that is not zeroes    fixed: a growth was cut short, the old size counts
//!   D   in the last sector, and one of the same disk where      fixed: a growth was cut short, the new size counts;
//!       the disk ended before                                   the sector of the old one is zeroes
//! ```
//!
//! A guest can write a footer anywhere into its disk. So the last sector is asked first: a guest never writes there. In B the
//! first sector of a fixed disk would be asked, which is the guest's; but a fixed disk always has A or C.

use super::format::{FOOTER_BYTES, Footer, HEADER_BYTES, Kind, OLD_FOOTER_BYTES, SECTOR_BYTES};
use crate::block::{ByteOffset, ByteRange};
use crate::disk::{Content, DiskError};
use crate::image::{ImageError, ImageFile, Malformed};
use crate::uring::buffer::Buffer;
use std::collections::VecDeque;

/// [`FOOTER_BYTES`] as a length in a file.
pub(super) const FOOTER: u64 = FOOTER_BYTES as u64;
const _: () = assert!(FOOTER == SECTOR_BYTES);

/// Most parts of a file that are asked about to find its last data.
const MAX_LOOKS: usize = 1 << 16;
/// Of those with data, so many are kept.
const MAX_STRETCHES: usize = 64;
/// Bytes of zeroes at the end of a file that are passed over, and how many at once.
const MAX_LOOK_BYTES: u64 = 16 << 20;
const LOOK_BYTES: u64 = 64 << 10;

/// Where the footer at the end of the file is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Tail {
    /// In the last sector, which starts here.
    There(u64),
    /// In the last 511 bytes, as old programs wrote it.
    Old,
    /// Nowhere: the copy counts.
    Missing,
    /// Not at the end, but here.
    Early(u64),
}

/// The footer that counts, and what is wrong with the others.
pub(super) struct Found {
    pub(super) footer: Footer,
    pub(super) tail: Tail,
    /// A sector of a fixed disk that holds a footer from before its last growth, and should be zeroes.
    pub(super) stale: Option<u64>,
    /// What is wrong with the last sector or the copy, though the disk can be read.
    pub(super) problems: Vec<Malformed>,
}

pub(super) fn stretch(start: u64, length: u64) -> ByteRange {
    ByteRange::at(ByteOffset::new(start), length).expect("a file ends far below 2^64")
}

async fn parse_at(
    file: &ImageFile,
    at: u64,
    length: u64,
) -> Result<Result<Footer, Malformed>, DiskError> {
    Ok(Footer::parse(&file.read(stretch(at, length)).await?, at))
}

impl Found {
    /// Looks for the footer of `file`.
    pub(super) async fn in_file(file: &ImageFile) -> Result<Self, ImageError> {
        let length = file.length();
        let old = OLD_FOOTER_BYTES as u64;
        let malformed = |problem| ImageError::malformed(file.path(), problem);
        if length < old {
            return Err(malformed(Footer::parse(&[], 0).expect_err("nothing is no footer")));
        }
        let (tail, found) = if length % SECTOR_BYTES == old {
            (Tail::Old, parse_at(file, length - old, old).await?)
        } else {
            let at = length.saturating_sub(FOOTER);
            (Tail::There(at), parse_at(file, at, length.min(FOOTER)).await?)
        };
        let problem = match found {
            Ok(footer) => match Self::at_the_end(file, footer, tail).await? {
                Ok(found) => return Ok(found),
                Err(problem) => problem,
            },
            Err(problem) => problem,
        };
        if length >= FOOTER + HEADER_BYTES as u64
            && let Ok(footer) = parse_at(file, 0, FOOTER).await?
            && footer.kind != Kind::Fixed
        {
            let problems = vec![problem];
            return Ok(Self { footer, tail: Tail::Missing, stale: None, problems });
        }
        if let Some((footer, at)) = Self::last_data(file).await? {
            let problems = vec![problem];
            return Ok(Self { footer, tail: Tail::Early(at), stale: None, problems });
        }
        Err(malformed(problem))
    }

    /// Judges a footer in the last sector: cases A and D.
    async fn at_the_end(
        file: &ImageFile,
        footer: Footer,
        tail: Tail,
    ) -> Result<Result<Self, Malformed>, DiskError> {
        let mut problems = Vec::new();
        let mut stale = None;
        let end = match tail {
            Tail::There(at) => at,
            _ => file.length() - OLD_FOOTER_BYTES as u64,
        };
        if footer.kind == Kind::Fixed {
            if footer.size_bytes() > end {
                return Ok(Err(Malformed {
                    structure: "VHD footer",
                    offset: end,
                    field: "current size",
                    value: footer.size_bytes().to_string(),
                    expected: format!("at most {end}, the bytes before the footer").into(),
                }));
            }
            stale = Self::before_growth(file, &footer).await?;
            problems.extend(stale.map(|offset| Malformed {
                structure: "VHD footer",
                offset,
                field: "place",
                value: "inside the disk, which has grown since".to_owned(),
                expected: "zeroes".into(),
            }));
        } else {
            // QEMU reads the copy alone.
            match parse_at(file, 0, FOOTER).await? {
                Ok(copy) if copy == footer => {}
                Ok(copy) => problems.push(Malformed {
                    structure: "VHD copy of the footer",
                    offset: 0,
                    field: "content",
                    value: format!("that of disk {} of {}", copy.unique_id, copy.size_bytes()),
                    expected: "the same as the footer".into(),
                }),
                Err(problem) => problems.push(problem),
            }
        }
        Ok(Ok(Self { footer, tail, stale, problems }))
    }

    /// The sector in which a fixed disk had its footer before it grew, if it still has it there.
    async fn before_growth(file: &ImageFile, footer: &Footer) -> Result<Option<u64>, DiskError> {
        let at = footer.original_bytes;
        let inside = at.checked_add(FOOTER).is_some_and(|end| end <= footer.size_bytes());
        if !inside || !at.is_multiple_of(SECTOR_BYTES) {
            return Ok(None);
        }
        let same = |old: &Footer| {
            old.unique_id == footer.unique_id && old.kind == Kind::Fixed && old.size_bytes() <= at
        };
        Ok(parse_at(file, at, FOOTER).await?.is_ok_and(|old| same(&old)).then_some(at))
    }

    /// The footer of a fixed disk in the last sector that is not zeroes, if it is of a disk that ends there.
    async fn last_data(file: &ImageFile) -> Result<Option<(Footer, u64)>, DiskError> {
        let mut looked = 0;
        for range in data_of(file).await?.into_iter().rev() {
            let mut end = range.end();
            while end > range.start() && looked < MAX_LOOK_BYTES {
                let start = end.bytes().saturating_sub(LOOK_BYTES).max(range.start().bytes());
                let piece = stretch(start, end.bytes() - start);
                looked += piece.length();
                let bytes = file.read(piece).await?;
                let used = bytes.iter().rposition(|byte| *byte != 0);
                let Some(used) = used else {
                    end = piece.start();
                    continue;
                };
                let at = (start + used as u64) / SECTOR_BYTES * SECTOR_BYTES;
                let ends_here =
                    |footer: &Footer| footer.kind == Kind::Fixed && footer.size_bytes() <= at;
                if at + FOOTER > file.length() {
                    return Ok(None);
                }
                let footer = parse_at(file, at, FOOTER).await?.ok();
                return Ok(footer.filter(ends_here).map(|footer| (footer, at)));
            }
        }
        Ok(None)
    }
}

/// The last stretches of a file that have data.
async fn data_of(file: &ImageFile) -> Result<VecDeque<ByteRange>, DiskError> {
    let length = file.length();
    let mut found = VecDeque::new();
    let (mut at, mut looks) = (0, 0);
    while at < length && looks < MAX_LOOKS {
        let parts = file.map(stretch(at, length - at)).await?;
        looks += parts.len();
        at = parts.last().map_or(length, |part| part.range.end().bytes());
        let data = parts.into_iter().filter(|part| part.content == Content::Data);
        found.extend(data.map(|part| part.range));
        found.drain(..found.len().saturating_sub(MAX_STRETCHES));
    }
    if at < length {
        // Too many to find the last one.
        found.clear();
    }
    Ok(found)
}

/// Writes `footer` into the sector at `at`.
pub(super) async fn write_footer(
    file: &ImageFile,
    footer: &Footer,
    at: u64,
) -> Result<(), DiskError> {
    file.write(ByteOffset::new(at), Buffer::copy_of(&footer.encode())).await
}
