//! From an NBD export into a file: holes are skipped, data is read several requests at a time.
//!
//! ```text
//!   block status ─▶ pieces of data ─▶ reads (16 at once) ─▶ all zero? skip : write
//! ```
//!
//! A file that started with the blocks of an image keeps those that are right: pieces are compared before they are written, and
//! what is zeroes becomes a hole.

use super::output::Output;
use crate::cli::progress::Progress;
use crate::units::ByteSize;
use anyhow::Context;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use landfall_disks::{BLOCK_BYTES, ByteRange, Content, is_zero};
use landfall_protocols::nbd::client::{Client, ClientError};
use std::collections::VecDeque;
use std::ops::Range;

/// Bytes of a read.
const PIECE: u64 = 1 << 20;
/// Reads and writes under way at once.
const IN_FLIGHT: usize = 16;
/// Bytes a question for block status covers.
const STATUS: u64 = 1 << 30;

/// What a copy amounted to.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Copied {
    /// Bytes that were written.
    pub(super) data_bytes: u64,
    /// Bytes that were there already, in blocks shared with the image. The rest is holes.
    pub(super) shared_bytes: u64,
}

impl Copied {
    /// For people; of a disk of `size_bytes`.
    pub(super) fn in_words(self, size_bytes: u64) -> String {
        let Self { data_bytes, shared_bytes } = self;
        let holes = ByteSize::new(size_bytes - data_bytes - shared_bytes);
        let data = ByteSize::new(data_bytes);
        match shared_bytes {
            0 => format!("{data} of data, {holes} of holes"),
            shared => {
                let shared = ByteSize::new(shared);
                format!("{data} of data, {shared} shared with the image, {holes} of holes")
            }
        }
    }
}

/// Copies a disk into `output`.
pub(super) async fn run(
    client: &Client,
    output: &Output,
    progress: &Progress,
) -> anyhow::Result<Copied> {
    let mut copied = Copied::default();
    let mut rest = ByteRange::up_to(client.size_bytes());
    let mut pieces = VecDeque::new();
    let mut running = FuturesUnordered::new();
    loop {
        while pieces.is_empty() && !rest.is_empty() {
            let known = look_ahead(client, output, &mut rest, &mut pieces).await?;
            progress.add(known);
        }
        while running.len() < IN_FLIGHT
            && let Some(piece) = pieces.pop_front()
        {
            running.push(copy_piece(client, output, piece));
        }
        match running.next().await {
            Some(moved) => {
                let (piece, moved): (ByteRange, Copied) = moved?;
                copied.data_bytes += moved.data_bytes;
                copied.shared_bytes += moved.shared_bytes;
                progress.add(piece.length());
            }
            None if pieces.is_empty() && rest.is_empty() => return Ok(copied),
            None => {}
        }
    }
}

/// Takes what the server knows of the start of `rest` off it; data becomes pieces. How many bytes were holes.
async fn look_ahead(
    client: &Client,
    output: &Output,
    rest: &mut ByteRange,
    pieces: &mut VecDeque<ByteRange>,
) -> anyhow::Result<u64> {
    let length = rest.length().min(STATUS);
    let asked = ByteRange::at(rest.start(), length).expect("part of a range");
    let piece = PIECE.min(client.maximum_payload()).max(1);
    let piece = 1 << piece.ilog2();
    let status = match client.block_status(asked).await {
        Ok(status) => status,
        Err(ClientError::NoBlockStatus) => {
            pieces.extend(asked.chunks(piece));
            *rest = rest.split_at(asked.end()).1;
            return Ok(0);
        }
        Err(error) => return Err(error.into()),
    };
    let mut holes = 0;
    for mapped in status {
        let range = rest.intersection(mapped.range);
        match mapped.content {
            Content::Data => pieces.extend(range.chunks(piece)),
            Content::Zero | Content::Hole => {
                if output.is_taken_over() && !range.is_empty() {
                    output.punch(range.start().bytes(), range.length()).await?;
                }
                holes += range.length();
            }
        }
        *rest = rest.split_at(range.end()).1;
    }
    Ok(holes)
}

/// Copies one piece; what became of its bytes.
async fn copy_piece(
    client: &Client,
    output: &Output,
    piece: ByteRange,
) -> anyhow::Result<(ByteRange, Copied)> {
    let bytes = client.read(piece).await.with_context(|| format!("reading {piece}"))?;
    let start = piece.start().bytes();
    if is_zero(&bytes) {
        if output.is_taken_over() {
            output.punch(start, piece.length()).await?;
        }
        return Ok((piece, Copied::default()));
    }
    if !output.is_taken_over() {
        output.write(start, bytes.to_vec()).await?;
        return Ok((piece, Copied { data_bytes: piece.length(), shared_bytes: 0 }));
    }
    let before = output.read(start, bytes.len()).await?;
    let mut data_bytes = 0;
    for run in differing(&bytes, &before) {
        data_bytes += run.len() as u64;
        output.write(start + run.start as u64, bytes[run].to_vec()).await?;
    }
    Ok((piece, Copied { data_bytes, shared_bytes: piece.length() - data_bytes }))
}

/// Where two buffers of one length differ: whole blocks, neighbours joined.
fn differing(new: &[u8], old: &[u8]) -> Vec<Range<usize>> {
    let mut runs: Vec<Range<usize>> = Vec::new();
    let blocks = new.chunks(BLOCK_BYTES).zip(old.chunks(BLOCK_BYTES));
    for (number, (new, old)) in blocks.enumerate() {
        let start = number * BLOCK_BYTES;
        match runs.last_mut() {
            _ if new == old => {}
            Some(last) if last.end == start => last.end += new.len(),
            _ => runs.push(start..start + new.len()),
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_blocks_that_differ_are_written() {
        let old = vec![7; 10 * BLOCK_BYTES + 512];
        let mut new = old.clone();
        assert!(differing(&new, &old).is_empty());
        for at in [0, BLOCK_BYTES, 2 * BLOCK_BYTES - 1, 5 * BLOCK_BYTES + 9, 10 * BLOCK_BYTES] {
            new[at] = 8;
        }
        let blocks = |from: usize, to: usize| from * BLOCK_BYTES..to * BLOCK_BYTES;
        let tail = 10 * BLOCK_BYTES..10 * BLOCK_BYTES + 512;
        assert_eq!(differing(&new, &old), [blocks(0, 2), blocks(5, 6), tail]);
    }

    #[test]
    fn what_is_shared_is_said() {
        let copied = Copied { data_bytes: 1 << 20, shared_bytes: 0 };
        assert_eq!(copied.in_words(3 << 20), "1 MiB of data, 2 MiB of holes");
        let copied = Copied { shared_bytes: 1 << 20, ..copied };
        let said = copied.in_words(3 << 20);
        assert_eq!(said, "1 MiB of data, 1 MiB shared with the image, 1 MiB of holes");
    }
}
