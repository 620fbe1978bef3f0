//! From an NBD export into a file: holes are skipped, data is read several requests at a time.
//!
//! ```text
//!   block status ─▶ pieces of data ─▶ reads (16 at once) ─▶ all zero? skip : write
//! ```

use super::output::Output;
use crate::cli::progress::Progress;
use anyhow::Context;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use landfall_disks::{ByteRange, Content, is_zero};
use landfall_protocols::nbd::client::{Client, ClientError};
use std::collections::VecDeque;

/// Bytes of a read.
const PIECE: u64 = 1 << 20;
/// Reads and writes under way at once.
const IN_FLIGHT: usize = 16;
/// Bytes a question for block status covers.
const STATUS: u64 = 1 << 30;

/// What a copy amounted to.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Copied {
    /// Bytes that were written; the rest is holes.
    pub(super) data_bytes: u64,
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
            let known = look_ahead(client, &mut rest, &mut pieces).await?;
            progress.add(known);
        }
        while running.len() < IN_FLIGHT
            && let Some(piece) = pieces.pop_front()
        {
            running.push(copy_piece(client, output, piece));
        }
        match running.next().await {
            Some(moved) => {
                let (piece, written): (ByteRange, u64) = moved?;
                copied.data_bytes += written;
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
            Content::Zero | Content::Hole => holes += range.length(),
        }
        *rest = rest.split_at(range.end()).1;
    }
    Ok(holes)
}

/// Copies one piece; how many bytes of it had to be written.
async fn copy_piece(
    client: &Client,
    output: &Output,
    piece: ByteRange,
) -> anyhow::Result<(ByteRange, u64)> {
    let bytes = client.read(piece).await.with_context(|| format!("reading {piece}"))?;
    if is_zero(&bytes) {
        return Ok((piece, 0));
    }
    output.write(piece.start().bytes(), bytes.to_vec()).await?;
    Ok((piece, piece.length()))
}
