//! Large transfers as several operations at once.

use crate::block::{ByteOffset, ByteRange};
use crate::file::{FileError, FileIo};
use crate::uring::buffer::Buffer;
use futures_util::future::join_all;

/// Most bytes of one operation: large enough for full speed, small enough that others get their turn.
const OPERATION_BYTES: usize = 1 << 20;

/// Cuts `buffer` into pieces of at most [`OPERATION_BYTES`], with the offsets they belong to.
fn cut(mut buffer: Buffer, offset: u64) -> Vec<(u64, Buffer)> {
    let mut pieces = Vec::with_capacity(buffer.len().div_ceil(OPERATION_BYTES));
    let mut at = offset;
    while buffer.len() > OPERATION_BYTES {
        let rest = buffer.split_off(OPERATION_BYTES);
        pieces.push((at, buffer));
        at += OPERATION_BYTES as u64;
        buffer = rest;
    }
    pieces.push((at, buffer));
    pieces
}

/// Fills `into` from `offset`.
pub(super) async fn read(
    file: &dyn FileIo,
    offset: u64,
    into: Buffer,
) -> Result<Buffer, FileError> {
    if into.len() <= OPERATION_BYTES {
        return file.read_at(offset, into).await;
    }
    Box::pin(read_pieces(file, offset, into)).await
}

async fn read_pieces(file: &dyn FileIo, offset: u64, into: Buffer) -> Result<Buffer, FileError> {
    let reads = cut(into, offset).into_iter().map(|(at, piece)| file.read_at(at, piece));
    let mut pieces = join_all(reads).await.into_iter();
    let mut whole = pieces.next().expect("at least one piece")?;
    for piece in pieces {
        whole.unsplit(piece?);
    }
    Ok(whole)
}

/// Writes all of `from` at `offset`. All pieces end before this does, also after a failure.
pub(super) async fn write(file: &dyn FileIo, offset: u64, from: Buffer) -> Result<(), FileError> {
    if from.len() <= OPERATION_BYTES {
        return file.write_at(offset, from).await.map(drop);
    }
    Box::pin(write_pieces(file, offset, from)).await
}

async fn write_pieces(file: &dyn FileIo, offset: u64, from: Buffer) -> Result<(), FileError> {
    let writes = cut(from, offset).into_iter().map(|(at, piece)| file.write_at(at, piece));
    join_all(writes).await.into_iter().try_for_each(|written| written.map(drop))
}

/// Writes zeroes to `range`, piece after piece.
pub(super) async fn write_zeroes(file: &dyn FileIo, range: ByteRange) -> Result<(), FileError> {
    let mut zeroes = Buffer::zeroed(length(range).min(OPERATION_BYTES));
    let mut at = range.start();
    while at < range.end() {
        let rest = ByteRange::new(at, range.end()).expect("the loop ends at the end");
        let piece = length(rest).min(zeroes.len());
        let mut window = zeroes;
        let cut = window.split_off(piece);
        zeroes = file.write_at(at.bytes(), window).await?;
        zeroes.unsplit(cut);
        at = ByteOffset::new(at.bytes() + piece as u64);
    }
    Ok(())
}

/// The length of a range that is held in memory.
pub(super) fn length(range: ByteRange) -> usize {
    usize::try_from(range.length()).expect("a length of 64 bits is an address on 64-bit machines")
}
