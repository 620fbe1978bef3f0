//! VERIFY, WRITE AND VERIFY, and the write that both kinds of writes end in (SBC-4 5.32, 5.38).
//!
//! BYTCHK says what is compared: nothing (the blocks are read, and damage is found), each byte of
//! data-out, or one block of data-out with every block.

use super::decide::{Request, Step};
use super::execute::Run;
use super::failure::Failure;
use super::limits::{MAX_TRANSFER_BYTES, STRIDE};
use super::operation::Operation;
use super::sense::{Additional, Sense, SenseKey};
use landfall_disks::{Buffer, ByteOffset, ByteRange, Change, Durability};

/// What blocks are compared with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Against {
    /// Their own checksums.
    Medium,
    /// Data-out, byte by byte.
    Bytes,
    /// One block of data-out.
    OneBlock,
}

/// What follows a write.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum WriteCheck {
    /// Nothing.
    None,
    /// The blocks are read.
    Medium,
    /// The blocks are read and compared.
    Bytes,
}

/// BYTCHK, two bits of the second byte.
fn byte_check(request: &Request<'_>) -> u8 {
    (request.cdb.byte(1) >> 1) & 3
}

/// Where BYTCHK stands.
const BYTCHK: Sense = Sense::invalid_field(1, 2);

pub(super) fn verify(request: &Request<'_>) -> Result<Step, Sense> {
    let against = match byte_check(request) {
        0 => Against::Medium,
        1 => Against::Bytes,
        3 => Against::OneBlock,
        _ => return Err(BYTCHK),
    };
    let range = request.cdb.extent().transfer(&request.geometry, MAX_TRANSFER_BYTES)?;
    match against {
        // No blocks are no error, and have no data (SBC-4 5.32).
        Against::OneBlock if range.is_empty() => return Ok(Step::GOOD),
        Against::OneBlock => request.announced_exactly(request.unit.block_length())?,
        Against::Medium | Against::Bytes => {}
    }
    Ok(Step::Do(Operation::Verify { range, against }))
}

pub(super) fn write_and_verify(request: &Request<'_>) -> Result<Step, Sense> {
    let check = match byte_check(request) {
        0 => WriteCheck::Medium,
        1 => WriteCheck::Bytes,
        _ => return Err(BYTCHK),
    };
    let range = request.cdb.extent().transfer(&request.geometry, MAX_TRANSFER_BYTES)?;
    // What is verified is the medium, not a cache.
    Ok(Step::Do(Operation::Write { range, durability: Durability::Durable, check }))
}

/// The part of `range` for which there are `bytes` of data-out: whole blocks.
fn provided(run: &Run<'_>, range: ByteRange, bytes: usize) -> Result<ByteRange, Failure> {
    if !bytes.is_multiple_of(run.unit.block_length()) {
        return Err(Sense::illegal(Additional::INVALID_INFORMATION_UNIT).into());
    }
    let length = u64::try_from(bytes).expect("transfers are limited");
    Ok(ByteRange::at(range.start(), length).expect("within the range"))
}

pub(super) async fn perform_write(
    run: &Run<'_>,
    range: ByteRange,
    data_out: Buffer,
    durability: Durability,
    check: WriteCheck,
) -> Result<(), Failure> {
    let range = provided(run, range, data_out.len())?;
    if range.is_empty() {
        return Ok(());
    }
    let written = (check == WriteCheck::Bytes).then(|| Buffer::copy_of(&data_out));
    let _held = match check {
        WriteCheck::Bytes => run.exclusive(range).await,
        WriteCheck::None | WriteCheck::Medium => run.shared(range).await,
    };
    run.change(Change::Write { at: range.start(), data: data_out, durability }, range).await?;
    match (check, written) {
        (WriteCheck::None, _) => Ok(()),
        (_, Some(written)) => compare(run, range, &written).await,
        (_, None) => look(run, range).await,
    }
}

pub(super) async fn perform_verify(
    run: &Run<'_>,
    range: ByteRange,
    data_out: &[u8],
    against: Against,
) -> Result<(), Failure> {
    let range = match against {
        Against::Bytes => provided(run, range, data_out.len())?,
        Against::Medium | Against::OneBlock => range,
    };
    let _held = run.shared(range).await;
    match against {
        Against::Medium => look(run, range).await,
        Against::Bytes => compare(run, range, data_out).await,
        Against::OneBlock => {
            each(run, range, |_, bytes| {
                let blocks = bytes.chunks(data_out.len()).enumerate();
                let differs = |(at, block): (usize, &[u8])| {
                    difference(block, data_out).map(|byte| at * data_out.len() + byte)
                };
                blocks.map(differs).find_map(|found| found)
            })
            .await
        }
    }
}

/// Reads all of `range`.
async fn look(run: &Run<'_>, range: ByteRange) -> Result<(), Failure> {
    each(run, range, |_, _| None).await
}

/// Compares `range` with as many bytes.
async fn compare(run: &Run<'_>, range: ByteRange, with: &[u8]) -> Result<(), Failure> {
    each(run, range, |at, bytes| difference(bytes, &with[at..at + bytes.len()])).await
}

/// Reads `range` in strides; `differs` is given the place of each from the start, and its bytes,
/// and says where in it is something else than expected.
async fn each(
    run: &Run<'_>,
    range: ByteRange,
    differs: impl Fn(usize, &[u8]) -> Option<usize>,
) -> Result<(), Failure> {
    for stride in strides(range, STRIDE) {
        run.proceed()?;
        let bytes = run.disk().read(stride).await.map_err(|error| run.failure(&error, stride))?;
        let at = distance(range.start(), stride.start());
        if let Some(byte) = differs(at, &bytes) {
            return Err(miscompare(at + byte).into());
        }
    }
    Ok(())
}

/// MISCOMPARE, with the offset of the first byte that differs.
pub(super) fn miscompare(offset: usize) -> Sense {
    Sense::new(SenseKey::Miscompare, Additional::MISCOMPARE)
        .with_information(u64::try_from(offset).expect("64 bits"))
}

/// Where two pieces of one length differ first.
pub(super) fn difference(one: &[u8], other: &[u8]) -> Option<usize> {
    if one == other {
        return None;
    }
    one.iter().zip(other).position(|(one, other)| one != other)
}

/// `range` in pieces of `stride` bytes from its start.
pub(super) fn strides(range: ByteRange, stride: u64) -> impl Iterator<Item = ByteRange> {
    let mut rest = range;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let end = ByteOffset::new((rest.start().bytes() + stride).min(rest.end().bytes()));
        let (piece, after) = rest.split_at(end);
        rest = after;
        Some(piece)
    })
}

fn distance(from: ByteOffset, to: ByteOffset) -> usize {
    usize::try_from(to.bytes() - from.bytes()).expect("transfers are limited")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strides_tile_from_the_start() {
        let range = ByteRange::new(ByteOffset::new(512), ByteOffset::new(5000)).expect("ordered");
        let pieces: Vec<_> = strides(range, 2048).collect();
        let ends: Vec<_> = pieces.iter().map(|piece| piece.end().bytes()).collect();
        assert_eq!(ends, [2560, 4608, 5000]);
        assert_eq!(pieces[0].start(), range.start());
        assert_eq!(strides(ByteRange::up_to(0), 1).count(), 0);
    }

    #[test]
    fn the_first_difference_counts() {
        assert_eq!(difference(b"abcd", b"abxy"), Some(2));
        assert_eq!(difference(b"abcd", b"abcd"), None);
    }
}
