//! The disk that a client writes to: whole blocks out of any bytes, without those that are there already.
//!
//! **Invariant:** what a write changes is decided on what the disk holds while no other write touches its blocks, and they
//! are held until it is part of the history.

use super::feed::Feed;
use super::round::Session;
use super::{IngestError, Writer};
use crate::branch::hash_of;
use crate::line::Line;
use crate::point::Point;
use crate::replica::ReplicaDisk;
use crate::retention::Retention;
use crate::stream::{StreamContent, StreamExtent};
use crate::view::{Showing, View};
use futures_util::future::join_all;
use landfall_disks::range_locks::RangeLocks;
use landfall_disks::{
    BLOCK_SIZE, Buffer, ByteOffset, ByteRange, Disk, DiskError, Durability, Geometry, IoFuture,
    MappedRange, ZeroMode,
};
use parking_lot::Mutex;
use std::sync::Arc;

/// Most bytes of a write that become one record: any segment a configuration allows has room for it.
const RECORD_DATA_BYTES: u64 = 1 << 20;
/// Most parts of a piece that are told apart; with more, all of it is written.
const PARTS_TOLD_APART: usize = 32;

/// A disk of a machine that is fed by writing to its disks, as one client has it.
pub struct FedDisk {
    retention: Arc<Retention>,
    feed: Arc<Feed>,
    head: View,
    /// Shared by everybody who has this disk open.
    blocks: Arc<RangeLocks>,
    peer: String,
    /// Between entering and leaving.
    session: Mutex<Option<Session>>,
}

impl FedDisk {
    pub(super) fn new(
        retention: &Arc<Retention>,
        feed: Arc<Feed>,
        (line, replica): (Arc<Line>, Arc<ReplicaDisk>),
        peer: String,
    ) -> Self {
        let blocks = feed.blocks(replica.id());
        // What is damaged differs from what a client writes, also where memory has it still.
        let reading = Arc::clone(&retention.reading);
        let head = View::new(reading, replica, line, Showing::Head).past_cache();
        let retention = Arc::clone(retention);
        Self { retention, feed, head, blocks, peer, session: Mutex::default() }
    }

    /// Lets the client write, if nobody else does and the machine takes something.
    pub async fn enter(&self) -> Result<(), IngestError> {
        let since = self.retention.surroundings.clock.now();
        let writer = Writer { peer: self.peer.clone(), since };
        self.feed.enter(&self.retention, self.head.disk(), writer).await?;
        *self.session.lock() = Some(Session::default());
        Ok(())
    }

    /// The client has gone, `broken` by what if not in good order. The point that this made, if it made one.
    pub async fn leave(&self, broken: Option<&str>) -> Result<Option<Point>, IngestError> {
        let Some(session) = self.session.lock().take() else { return Ok(None) };
        let ended = session.end(broken);
        self.feed.leave(&self.retention, self.head.disk(), ended).await
    }

    async fn write_range(
        &self,
        at: ByteOffset,
        data: Buffer,
        durability: Durability,
    ) -> Result<(), DiskError> {
        let range = ByteRange::at(at, data.len() as u64).ok_or(DiskError::OutOfRange {
            range: ByteRange::up_to(u64::MAX),
            size_bytes: self.head.size_bytes(),
        })?;
        self.check(range)?;
        if range.is_empty() {
            return Ok(());
        }
        let _guard = self.blocks.lock_exclusive(range.widen(BLOCK_SIZE)).await;
        let written = self.write_held(range, data).await;
        self.note(range, durability, written)
    }

    /// Writes `range`, whose blocks are held.
    async fn write_held(&self, range: ByteRange, data: Buffer) -> Result<(), DiskError> {
        let whole = self.widened(range);
        let mut rest =
            if whole == range { data } else { self.lay_over(whole, range, &data).await? };
        let mut pieces = Vec::new();
        for piece in whole.chunks(RECORD_DATA_BYTES) {
            let tail = rest.split_off(length(piece.length()));
            pieces.push((piece, std::mem::replace(&mut rest, tail)));
        }
        let writes = pieces.into_iter().map(|(piece, data)| self.write_piece(piece, data));
        join_all(writes).await.into_iter().collect()
    }

    async fn write_piece(&self, piece: ByteRange, data: Buffer) -> Result<(), DiskError> {
        let parts = self.changed(piece, &data).await?;
        let mut extents = Vec::with_capacity(parts.len());
        match parts.as_slice() {
            [] => return Ok(()),
            [all] if *all == piece => extents.push(data_extent(piece, data).await),
            parts => {
                for part in parts {
                    let start = length(part.start().bytes() - piece.start().bytes());
                    let bytes = &data[start..start + length(part.length())];
                    extents.push(data_extent(*part, Buffer::copy_of(bytes)).await);
                }
            }
        }
        self.feed.apply(&self.retention, self.head.disk(), extents).await
    }

    /// What of `piece` is not there yet.
    async fn changed(&self, piece: ByteRange, data: &[u8]) -> Result<Vec<ByteRange>, DiskError> {
        // A first copy goes where it belongs, and nothing is kept of what was there.
        if self.head.disk().floor().is_none() {
            return Ok(vec![piece]);
        }
        let parts = self.head.differing(piece, data).await?;
        if parts.len() > PARTS_TOLD_APART {
            return Ok(vec![piece]);
        }
        Ok(parts)
    }

    async fn zero_range(&self, range: ByteRange, durability: Durability) -> Result<(), DiskError> {
        self.check(range)?;
        if range.is_empty() {
            return Ok(());
        }
        let _guard = self.blocks.lock_exclusive(range.widen(BLOCK_SIZE)).await;
        let zeroed = self.zero_held(range).await;
        self.note(range, durability, zeroed)
    }

    /// Zeroes `range`, whose blocks are held: one record, however long it is.
    async fn zero_held(&self, range: ByteRange) -> Result<(), DiskError> {
        let (head, middle, tail) = self.split_at_blocks(range);
        let mut extents = Vec::with_capacity(3);
        for edge in [head, tail].into_iter().filter(|edge| !edge.is_empty()) {
            let (whole, zeroes) = (self.widened(edge), Buffer::zeroed(length(edge.length())));
            extents.push(data_extent(whole, self.lay_over(whole, edge, &zeroes).await?).await);
        }
        if !middle.is_empty() && !self.is_zero(middle).await? {
            extents.push(StreamExtent { range: middle, content: StreamContent::Zero });
        }
        if extents.is_empty() {
            return Ok(());
        }
        self.feed.apply(&self.retention, self.head.disk(), extents).await
    }

    /// Whether `range` is zero, and its writing need not be remembered.
    async fn is_zero(&self, range: ByteRange) -> Result<bool, DiskError> {
        if self.head.disk().floor().is_none() {
            return Ok(false);
        }
        self.head.is_known_zero(range).await
    }

    /// Whole blocks around `range`; the last may be cut by the end of the disk.
    fn widened(&self, range: ByteRange) -> ByteRange {
        range.widen(BLOCK_SIZE).intersection(ByteRange::up_to(self.head.size_bytes()))
    }

    /// `range` as the part before its first whole block, its whole blocks, and the part after them.
    fn split_at_blocks(&self, range: ByteRange) -> (ByteRange, ByteRange, ByteRange) {
        let (start, end) = (range.start().bytes(), range.end().bytes());
        let first = start.next_multiple_of(BLOCK_SIZE).min(end);
        let last = if end == self.head.size_bytes() { end } else { end / BLOCK_SIZE * BLOCK_SIZE };
        let (head, rest) = range.split_at(ByteOffset::new(first));
        let (middle, tail) = rest.split_at(ByteOffset::new(last.max(first)));
        (head, middle, tail)
    }

    /// What `whole` holds with `data` laid over it in `range`.
    async fn lay_over(
        &self,
        whole: ByteRange,
        range: ByteRange,
        data: &[u8],
    ) -> Result<Buffer, DiskError> {
        let mut bytes = Buffer::zeroed(length(whole.length()));
        let place = |at: ByteRange| {
            let start = length(at.start().bytes() - whole.start().bytes());
            start..start + length(at.length())
        };
        let first = whole.chunks(BLOCK_SIZE).next();
        let last = whole.chunks(BLOCK_SIZE).last().filter(|last| Some(*last) != first);
        for edge in first.into_iter().chain(last) {
            // What is written from end to end need not be read, and may be damaged.
            if range.intersection(edge) != edge {
                bytes[place(edge)].copy_from_slice(&self.head.read(edge).await?);
            }
        }
        bytes[place(range)].copy_from_slice(data);
        Ok(bytes)
    }

    fn check(&self, range: ByteRange) -> Result<(), DiskError> {
        DiskError::check_range(&self.geometry(), range)?;
        match *self.session.lock() {
            Some(_) => Ok(()),
            None => Err(DiskError::Gone("the client was not let in, or has left".to_owned())),
        }
    }

    /// Notes what was answered to a write.
    fn note(
        &self,
        range: ByteRange,
        durability: Durability,
        answer: Result<(), DiskError>,
    ) -> Result<(), DiskError> {
        if let Some(session) = &mut *self.session.lock() {
            match &answer {
                Ok(()) => session.wrote(range, durability == Durability::Durable),
                Err(_) => session.refused(range),
            }
        }
        answer
    }
}

impl Drop for FedDisk {
    fn drop(&mut self) {
        if let Some(session) = self.session.get_mut().take() {
            let ended = session.end(Some("the connection went away"));
            self.feed.abandon(self.retention.surroundings.clock.now(), self.head.disk(), ended);
        }
    }
}

async fn data_extent(range: ByteRange, bytes: Buffer) -> StreamExtent {
    let (bytes, hash) = hash_of(bytes).await;
    StreamExtent { range, content: StreamContent::Data { bytes, hash } }
}

fn length(bytes: u64) -> usize {
    usize::try_from(bytes).expect("requests are limited far below")
}

impl Disk for FedDisk {
    fn geometry(&self) -> Geometry {
        Geometry { read_only: false, ..self.head.geometry() }
    }

    fn read(&self, range: ByteRange) -> IoFuture<'_, Buffer> {
        self.head.read(range)
    }

    fn write(&self, at: ByteOffset, data: Buffer, durability: Durability) -> IoFuture<'_, ()> {
        Box::pin(self.write_range(at, data, durability))
    }

    fn write_zeroes(
        &self,
        range: ByteRange,
        _: ZeroMode,
        durability: Durability,
    ) -> IoFuture<'_, ()> {
        Box::pin(self.zero_range(range, durability))
    }

    fn discard(&self, range: ByteRange) -> IoFuture<'_, ()> {
        Box::pin(async move {
            self.check(range)?;
            let (_, middle, _) = self.split_at_blocks(range);
            self.zero_range(middle, Durability::Cached).await
        })
    }

    /// Everything that was answered is durable, so this says what it means for the next point, and nothing else.
    fn flush(&self) -> IoFuture<'_, ()> {
        Box::pin(async {
            self.session.lock().iter_mut().for_each(Session::flushed);
            Ok(())
        })
    }

    fn map(&self, range: ByteRange) -> IoFuture<'_, Vec<MappedRange>> {
        self.head.map(range)
    }

    fn resize(&self, size_bytes: u64) -> IoFuture<'_, ()> {
        let from_bytes = self.head.size_bytes();
        Box::pin(async move { Err(DiskError::Resize { from_bytes, to_bytes: size_bytes }) })
    }
}
