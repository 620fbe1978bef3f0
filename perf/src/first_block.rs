//! The first block of an export: from `connect` until it is there.

use anyhow::Context;
use landfall_disks::{BLOCK_SIZE, Buffer, ByteOffset, ByteRange};
use landfall_protocols::nbd::client::negotiate;
use std::path::Path;
use std::time::{Duration, Instant};
use tokio::net::UnixStream;
use tokio::runtime::Runtime;

/// 4 KiB at `offset` of an export, and the time from `connect` until they were there.
pub(crate) fn first_block(
    runtime: &Runtime,
    socket: &Path,
    export: &str,
    offset: u64,
) -> anyhow::Result<(Buffer, Duration)> {
    let range = ByteRange::at(ByteOffset::new(offset), BLOCK_SIZE).context("within the disk")?;
    runtime.block_on(async {
        let begun = Instant::now();
        let stream = UnixStream::connect(socket).await.context("connecting")?;
        let (client, connection) =
            negotiate(stream, export).await.with_context(|| format!("export {export:?}"))?;
        let reading = async {
            let block = client.read(range).await;
            let took = begun.elapsed();
            drop(client);
            block.map(|block| (block, took))
        };
        let (read, ran) = futures_util::future::join(reading, connection.run()).await;
        let (block, took) = read.with_context(|| format!("first block of {export:?}"))?;
        ran.context("disconnecting")?;
        Ok((block, took))
    })
}
