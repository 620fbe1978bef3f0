//! Reading of files whose medium may fail: what cannot be read is left out, and named.
//!
//! ```text
//!   1 MiB ─▶ read ─▶ the medium fails ─▶ 4 KiB at a time ─▶ what fails still: filled with something nobody wrote
//! ```
//!
//! A medium that fails everywhere is no damage of places: then the round ends with what the kernel said.

use crate::ids::SegmentId;
use crate::journal::format::UNIT;
use crate::journal::segment::Segments;
use landfall_disks::Buffer;
use landfall_disks::file::{FileError, FileIo};

/// Bytes that are read together.
const READ_BYTES: u64 = 1 << 20;
/// Units of one file that may be unreadable before it is the medium as a whole.
const MAX_UNREADABLE: usize = 1024;
/// What stands for bytes that cannot be read. No sum of anything that is kept is of this; if one were, it reads as damaged to
/// everybody else and good here.
const UNREADABLE: u8 = 0xd5;

/// What the kernel says of a medium that lost something: `EIO`, `ENODATA`, `EBADMSG`, `EILSEQ`, `EREMOTEIO`.
const MEDIUM_ERRORS: [i32; 5] = [5, 61, 74, 84, 121];

/// Whether the medium did not give what lies there.
pub(super) fn is_medium(error: &FileError) -> bool {
    match error {
        FileError::Os { source, .. } => {
            source.raw_os_error().is_some_and(|number| MEDIUM_ERRORS.contains(&number))
        }
        _ => false,
    }
}

/// A segment up to `end`, or as much of it as there is: a file that is gone has nothing.
pub(super) async fn read_segment(
    segments: &Segments,
    segment: SegmentId,
    end: u64,
) -> Result<Buffer, FileError> {
    let file = match segments.file(segment).await {
        Err(FileError::NotFound { .. }) => return Ok(Buffer::zeroed(0)),
        file => file?,
    };
    let length = file.length().await?.min(end) / UNIT * UNIT;
    let mut whole = Buffer::zeroed(usize::try_from(length).expect("segments are small"));
    let mut unreadable = 0;
    let mut at = 0;
    while at < length {
        let piece = (length - at).min(READ_BYTES);
        let into = Buffer::for_overwriting(usize::try_from(piece).expect("a MiB"));
        let place = usize::try_from(at).expect("as above");
        match file.read_at(at, into).await {
            Ok(bytes) => whole[place..place + bytes.len()].copy_from_slice(&bytes),
            Err(error) if is_medium(&error) => {
                let into = &mut whole[place..place + usize::try_from(piece).expect("a MiB")];
                unreadable += read_units(&*file, at, into).await?;
                if unreadable > MAX_UNREADABLE {
                    return Err(error);
                }
            }
            // Somebody made it shorter just now: the rest is not there.
            Err(FileError::Ended { .. }) => {
                whole.narrow(0..place);
                return Ok(whole);
            }
            Err(error) => return Err(error),
        }
        at += piece;
    }
    Ok(whole)
}

/// Reads unit by unit; how many of them cannot be read.
async fn read_units(file: &dyn FileIo, at: u64, into: &mut [u8]) -> Result<usize, FileError> {
    let mut unreadable = 0;
    let unit = usize::try_from(UNIT).expect("4096");
    for (number, into) in (0..).zip(into.chunks_mut(unit)) {
        match file.read_at(at + number * UNIT, Buffer::for_overwriting(into.len())).await {
            Ok(bytes) => into.copy_from_slice(&bytes),
            Err(error) if is_medium(&error) => {
                into.fill(UNREADABLE);
                unreadable += 1;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(unreadable)
}
