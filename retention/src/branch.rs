//! The disk of a branch: reads see its head, writes become batches of its line.
//!
//! Every completed write is durable and a boundary of its own, so a flush has nothing left to do and any instant of a
//! branch can be opened afterwards. **Invariant:** a write that is not whole blocks reads the rest of its blocks while it
//! holds them, and no other write touches them until it is part of the line. What was aborted is held until it is certain that nobody will
//! ever see it, and read and written by nobody meanwhile (`doubts`). **Invariant:** what was aborted gets no place in the order any more, so
//! nothing of it comes to lie over what was written after the abort.

use crate::doubts::BranchBlocks;
use crate::index::IndexError;
use crate::journal::draft::{AppendError, Draft, DraftContent, DraftExtent, DraftOrigin};
use crate::journal::format::RecordKind;
use crate::journal::lane::LaneHandle;
use crate::sealing::SealError;
use crate::time::Clock;
use crate::view::View;
use landfall_disks::uring::offload;
use landfall_disks::{
    BLOCK_SIZE, Buffer, ByteOffset, ByteRange, Change, Disk, DiskError, Durability, Geometry,
    IoFuture, MAX_DISK_SIZE, MappedRange, Ticket, ZeroMode,
};
use std::sync::Arc;
use tokio::sync::oneshot;

/// Bodies longer than this are hashed off the I/O core.
const HASH_INLINE_BYTES: usize = 64 << 10;

/// Most bytes of a write that become one record: any segment a configuration allows has room for it.
const RECORD_DATA_BYTES: usize = 1 << 20;

/// A writable disk of a branch.
pub(crate) struct BranchDisk {
    head: View,
    lane: LaneHandle,
    clock: Arc<dyn Clock>,
    /// Shared by everybody who has this disk of this branch open.
    blocks: Arc<BranchBlocks>,
}

impl BranchDisk {
    pub(crate) fn new(
        head: View,
        lane: LaneHandle,
        clock: Arc<dyn Clock>,
        blocks: Arc<BranchBlocks>,
    ) -> Self {
        Self { head, lane, clock, blocks }
    }

    /// Makes a change, unless it is aborted before the lane has decided about it, or about an earlier one of the same ticket: of
    /// records that are one command, the first decides, and an abort that comes later ends it with those that are queued.
    async fn make(&self, change: Change, ticket: Option<&Ticket>) -> Result<(), DiskError> {
        let geometry = self.geometry();
        let range = match &change {
            Change::Write { at, data, .. } => {
                DiskError::written(&geometry, *at, data.len() as u64)?
            }
            Change::WriteZeroes { range, .. } | Change::Discard(range) => *range,
        };
        DiskError::check_range(&geometry, range)?;
        let touched = match &change {
            Change::Discard(_) => Self::split_at_blocks(range).1,
            Change::Write { .. } | Change::WriteZeroes { .. } => range,
        };
        self.check_open()?;
        self.blocks.decided(touched).await?;
        let on_its_way = ticket.map(|ticket| self.blocks.note(touched, ticket.clone()));
        let changed = match change {
            Change::Write { data, .. } => self.write_range(range, data, ticket).await,
            Change::WriteZeroes { .. } => self.zero_range(range, ticket).await,
            Change::Discard(_) => self.zero_blocks(touched, ticket).await,
        };
        if let (Some(on_its_way), Err(DiskError::Failed(_))) = (on_its_way, &changed) {
            on_its_way.lost();
        }
        changed?;
        // Also where there was nothing to do.
        if ticket.is_none_or(Ticket::commit) { Ok(()) } else { Err(DiskError::Aborted) }
    }

    async fn write_range(
        &self,
        range: ByteRange,
        data: Buffer,
        ticket: Option<&Ticket>,
    ) -> Result<(), DiskError> {
        if range.is_empty() {
            return Ok(());
        }
        let whole = range.widen(BLOCK_SIZE);
        let _guard = if Self::covers_blocks(range) {
            self.blocks.locks.lock_shared(whole).await
        } else {
            self.blocks.locks.lock_exclusive(whole).await
        };
        let blocks = if range == whole { data } else { self.widen(range, whole, &data).await? };
        let mut rest = blocks;
        let mut start = whole.start();
        while !rest.is_empty() {
            let tail = rest.split_off(rest.len().min(RECORD_DATA_BYTES));
            let piece = ByteRange::at(start, rest.len() as u64).expect("within the disk");
            start = piece.end();
            let content = data_of(rest).await;
            self.append(vec![(piece, content)], ticket).await?;
            rest = tail;
        }
        Ok(())
    }

    /// Whether only whole blocks are written. One that the disk's end cuts is not: the disk may have grown since it was opened.
    fn covers_blocks(range: ByteRange) -> bool {
        range.start().bytes().is_multiple_of(BLOCK_SIZE)
            && range.end().bytes().is_multiple_of(BLOCK_SIZE)
    }

    /// The blocks of `whole` with `data` laid over what is there.
    async fn widen(
        &self,
        range: ByteRange,
        whole: ByteRange,
        data: &[u8],
    ) -> Result<Buffer, DiskError> {
        let mut blocks = Buffer::zeroed(usize::try_from(whole.length()).expect("a request"));
        if !Self::covers_blocks(range) {
            // Only the first and the last block can have bytes that stay.
            for edge in edges(whole) {
                let old = self.head.read_blocks(edge).await?;
                let skip = edge.start().bytes() - whole.start().bytes();
                let skip = usize::try_from(skip).expect("a request");
                blocks[skip..skip + old.len()].copy_from_slice(&old);
            }
        }
        let skip = usize::try_from(range.start().bytes() - whole.start().bytes()).expect("a block");
        blocks[skip..skip + data.len()].copy_from_slice(data);
        Ok(blocks)
    }

    /// One record, whatever the alignment: the blocks at the ends keep what lies outside the range.
    async fn zero_range(&self, range: ByteRange, ticket: Option<&Ticket>) -> Result<(), DiskError> {
        let (head, middle, tail) = Self::split_at_blocks(range);
        if head.is_empty() && tail.is_empty() {
            return self.zero_blocks(middle, ticket).await;
        }
        let _guard = self.blocks.locks.lock_exclusive(range.widen(BLOCK_SIZE)).await;
        let mut extents = Vec::with_capacity(3);
        for edge in [head, tail].into_iter().filter(|edge| !edge.is_empty()) {
            let zeroes = Buffer::zeroed(usize::try_from(edge.length()).expect("below a block"));
            let whole = edge.widen(BLOCK_SIZE);
            let content = data_of(self.widen(edge, whole, &zeroes).await?).await;
            extents.push((whole, content));
        }
        if !middle.is_empty() {
            extents.push((middle.widen(BLOCK_SIZE), DraftContent::Zero));
        }
        self.append(extents, ticket).await
    }

    async fn zero_blocks(
        &self,
        blocks: ByteRange,
        ticket: Option<&Ticket>,
    ) -> Result<(), DiskError> {
        if blocks.is_empty() {
            return Ok(());
        }
        let whole = blocks.widen(BLOCK_SIZE);
        let _guard = self.blocks.locks.lock_shared(whole).await;
        self.append(vec![(whole, DraftContent::Zero)], ticket).await
    }

    /// `range` as the part before its first whole block, its whole blocks, and the part after them. A range within one
    /// block is all head.
    fn split_at_blocks(range: ByteRange) -> (ByteRange, ByteRange, ByteRange) {
        let first = range.start().bytes().next_multiple_of(BLOCK_SIZE).min(range.end().bytes());
        let last = (range.end().bytes() / BLOCK_SIZE * BLOCK_SIZE).max(first);
        let (head, rest) = range.split_at(ByteOffset::new(first));
        let (middle, tail) = rest.split_at(ByteOffset::new(last));
        (head, middle, tail)
    }

    /// Appends one record, unless it was aborted; the caller holds its blocks.
    async fn append(
        &self,
        changes: Vec<(ByteRange, DraftContent)>,
        ticket: Option<&Ticket>,
    ) -> Result<(), DiskError> {
        // Nothing is waited for from here to its place in the order.
        if ticket.is_some_and(Ticket::is_unwanted) {
            return Err(DiskError::Aborted);
        }
        let disk = self.head.disk().id();
        let extent = |(range, content)| DraftExtent { disk, range, content };
        let (reply, answer) = oneshot::channel();
        let draft = Draft {
            line: Arc::clone(self.head.line()),
            origin: DraftOrigin::Local,
            kind: RecordKind::Batch,
            boundary: true,
            source_time: self.clock.now(),
            extents: changes.into_iter().map(extent).collect(),
            ticket: ticket.cloned(),
            reply,
        };
        self.lane.append(draft, answer).await.map_err(append_failed)?;
        Ok(())
    }

    fn check_open(&self) -> Result<(), DiskError> {
        if self.head.line().is_closed() {
            return Err(append_failed(AppendError::LineGone));
        }
        Ok(())
    }
}

/// First and last block of a range; one of them if they are the same.
fn edges(range: ByteRange) -> impl Iterator<Item = ByteRange> {
    let blocks = range.chunks(BLOCK_SIZE);
    let first = range.chunks(BLOCK_SIZE).next();
    let last = blocks.last().filter(|last| Some(*last) != first);
    first.into_iter().chain(last)
}

/// Bytes with their hash.
pub(crate) async fn data_of(bytes: Buffer) -> DraftContent {
    let (bytes, hash) = hash_of(bytes).await;
    DraftContent::Data { bytes, hash }
}

/// Bytes and their BLAKE3.
pub(crate) async fn hash_of(bytes: Buffer) -> (Buffer, [u8; 32]) {
    if bytes.len() <= HASH_INLINE_BYTES {
        let hash = *blake3::hash(&bytes).as_bytes();
        return (bytes, hash);
    }
    offload(move || {
        let hash = *blake3::hash(&bytes).as_bytes();
        (bytes, hash)
    })
    .await
}

/// What a refused append means to whoever writes to a disk.
pub(crate) fn append_failed(error: AppendError) -> DiskError {
    match error {
        AppendError::JournalFull { .. } | AppendError::QuotaUsedUp(_) => {
            DiskError::NoSpace(error.to_string())
        }
        AppendError::Aborted => DiskError::Aborted,
        AppendError::LineGone
        | AppendError::Promoted
        | AppendError::Sealed(SealError::Destroyed { .. }) => DiskError::Gone(error.to_string()),
        AppendError::Stopping | AppendError::Sealed(_) => DiskError::Unavailable(error.to_string()),
        _ => DiskError::Failed(error.to_string()),
    }
}

impl From<IndexError> for AppendError {
    fn from(error: IndexError) -> Self {
        Self::Failed(error.to_string())
    }
}

impl Disk for BranchDisk {
    fn geometry(&self) -> Geometry {
        Geometry { read_only: false, ..self.head.geometry() }
    }

    fn read(&self, range: ByteRange) -> IoFuture<'_, Buffer> {
        if !self.blocks.is_in_doubt(range) {
            return self.head.read(range);
        }
        Box::pin(async move {
            self.blocks.decided(range).await?;
            self.head.read(range).await
        })
    }

    fn write(&self, at: ByteOffset, data: Buffer, durability: Durability) -> IoFuture<'_, ()> {
        Box::pin(self.make(Change::Write { at, data, durability }, None))
    }

    fn write_zeroes(
        &self,
        range: ByteRange,
        mode: ZeroMode,
        durability: Durability,
    ) -> IoFuture<'_, ()> {
        Box::pin(self.make(Change::WriteZeroes { range, mode, durability }, None))
    }

    fn discard(&self, range: ByteRange) -> IoFuture<'_, ()> {
        Box::pin(self.make(Change::Discard(range), None))
    }

    fn change<'a>(&'a self, change: Change, ticket: &Ticket) -> IoFuture<'a, ()> {
        let ticket = ticket.clone();
        Box::pin(async move { self.make(change, Some(&ticket)).await })
    }

    fn flush(&self) -> IoFuture<'_, ()> {
        Box::pin(async { self.check_open() })
    }

    fn map(&self, range: ByteRange) -> IoFuture<'_, Vec<MappedRange>> {
        Box::pin(async move {
            self.blocks.decided(range).await?;
            self.head.map(range).await
        })
    }

    fn version(&self, range: ByteRange) -> Option<u64> {
        // What was read before an abort must not be shown again before that is decided.
        if self.blocks.is_in_doubt(range) { None } else { self.head.version(range) }
    }

    fn resize(&self, size_bytes: u64) -> IoFuture<'_, ()> {
        let from_bytes = self.head.size_bytes();
        debug_assert!(from_bytes <= MAX_DISK_SIZE);
        Box::pin(async move { Err(DiskError::Resize { from_bytes, to_bytes: size_bytes }) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::KeyId;
    use crate::time::Timestamp;

    #[test]
    fn what_is_gone_for_good_is_told_from_what_comes_back() {
        let (key, at) = (KeyId::new(1), Timestamp::from_nanoseconds(0));
        let destroyed = AppendError::Sealed(SealError::Destroyed { key, at });
        for error in [AppendError::LineGone, AppendError::Promoted, destroyed] {
            assert!(matches!(append_failed(error), DiskError::Gone(_)));
        }
        for error in [AppendError::Stopping, AppendError::Sealed(SealError::Damaged { key })] {
            assert!(matches!(append_failed(error), DiskError::Unavailable(_)));
        }
    }
}
