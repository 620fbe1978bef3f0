//! Streams: how a source's batches become history, each exactly once.
//!
//! ```text
//!   batch of a disk without history ─▶ image           (seed: the mark that ends the pass makes it count)
//!   any other batch                 ─▶ lane ─▶ journal
//!   mark ─▶ seeds done? ─▶ images flushed ─▶ their hashes flushed ─▶ floor logged ─▶ mark record ─▶ point
//! ```
//!
//! What the batches mean for the moments of the line is the [state](StreamState) of the stream: while a source delivers
//! its writes in order (`order`), every batch is a boundary.
//!
//! **Invariants:** positions are applied in order, none twice and none after a failed one; at most one opening of a
//! line's stream is accepted, and what an earlier one still has under way is refused by the lane. A seed is
//! acknowledged before it is durable: should the target lose it, the generation is over and the source compares.

mod hashes;
pub(crate) mod order;
mod report;
mod request;
mod seed;
pub(crate) mod state;

pub use hashes::{BlockHash, HASH_BLOCK_BYTES};
pub use order::WriteOrder;
pub use report::{Instants, StreamReport};
pub use request::{StreamContent, StreamDisk, StreamError, StreamExtent, StreamRequest};
pub use state::StreamState;

use crate::branch::data_of;
use crate::ids::{ContentId, DiskId, Generation, Position, Sequence, StreamId};
use crate::journal::draft::{
    AppendError, Committed, Draft, DraftContent, DraftExtent, DraftOrigin, StreamOrigin,
};
use crate::journal::format::RecordKind;
use crate::journal::lane::LaneHandle;
use crate::line::Line;
use crate::manifest::Manifest;
use crate::manifest::record::ManifestRecord;
use crate::name::{Label, Name};
use crate::point::{Point, PointKind};
use crate::reading::Reading;
use crate::replica::{DiskState, Image, ReplicaDisk};
use crate::status::StreamStatus;
use crate::time::{Clock, Timestamp};
use landfall_disks::{BLOCK_SIZE, Buffer, ByteRange};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::{Mutex, RwLock, oneshot};

/// What retention remembers of a line's stream between openings.
#[derive(Default)]
pub(crate) struct StreamSlot {
    pub(crate) inner: parking_lot::Mutex<SlotState>,
    /// Held by whoever opens the stream.
    pub(crate) opening: Mutex<()>,
}

impl StreamSlot {
    /// Who has it open, and how far they are.
    pub(crate) fn status(&self) -> Option<StreamStatus> {
        let slot = self.inner.lock();
        let Holder { peer, since, .. } = slot.holder.clone()?;
        Some(StreamStatus { peer, since, position: slot.applied })
    }
}

/// The present holder.
#[derive(Default, Clone)]
pub(crate) struct SlotState {
    pub(crate) holder: Option<Holder>,
    /// Highest position up to which everything was applied, of `stream` in `generation`.
    pub(crate) applied: Position,
    pub(crate) stream: StreamId,
    pub(crate) generation: Generation,
}

/// Who streams at the moment.
#[derive(Clone)]
pub(crate) struct Holder {
    pub(crate) peer: String,
    pub(crate) since: Timestamp,
    pub(crate) stream: StreamId,
    pub(crate) epoch: u64,
    /// That of its [`Stream`]: whoever has it locked keeps batches from the lane.
    pub(crate) order: Arc<Mutex<Order>>,
}

/// One opening of a machine's stream. Calls come in order of position; several may be under way.
pub struct Stream {
    pub(crate) parts: StreamParts,
    pub(crate) order: Arc<Mutex<Order>>,
    /// Seed writes under way hold it shared; what must come after them takes it whole.
    pub(crate) seeds: Arc<RwLock<()>>,
    pub(crate) failed: AtomicBool,
}

pub(crate) struct StreamParts {
    pub(crate) line: Arc<Line>,
    pub(crate) lane: LaneHandle,
    pub(crate) slot: Arc<StreamSlot>,
    pub(crate) manifest: Arc<Manifest>,
    pub(crate) reading: Arc<Reading>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) machine: Name,
    pub(crate) disks: Vec<Arc<ReplicaDisk>>,
    pub(crate) stream: StreamId,
    pub(crate) generation: Generation,
    pub(crate) epoch: u64,
    pub(crate) start: Position,
}

/// What a mark says.
struct Mark {
    kind: PointKind,
    label: Option<Label>,
    source_time: Timestamp,
}

/// Where the stream is, in the order in which positions came.
pub(crate) struct Order {
    pub(crate) next: Position,
    /// Last position that went to the lane.
    pub(crate) last_in_lane: Position,
    /// Positions applied out of turn, above the slot's.
    pub(crate) applied: BTreeSet<Position>,
    /// Whether every batch is a boundary, and what the source said of its writes then.
    pub(crate) in_order: Option<WriteOrder>,
    /// Whether anything went to the lane since a barrier of its group.
    pub(crate) since_barrier: bool,
}

impl Stream {
    /// Generation of its positions.
    pub fn generation(&self) -> Generation {
        self.parts.generation
    }

    /// Last position applied when it was opened.
    pub fn position(&self) -> Position {
        self.parts.start
    }

    /// Last position up to which everything is applied now.
    pub fn applied(&self) -> Position {
        self.parts.slot.inner.lock().applied
    }

    /// The point its last position made, if that was a mark.
    pub fn last_mark(&self) -> Option<(Position, Point)> {
        let tail = self.parts.line.tail();
        let position = tail.position_of(self.parts.generation, self.parts.stream);
        let newest = self.parts.line.points(|points| points.at(tail.sequence));
        newest.filter(|_| position > Position::default()).map(|point| (position, point))
    }

    /// The disks it was opened for, in that order, as they stand now.
    pub fn disks(&self) -> Vec<StreamDisk> {
        let entry = |disk: &Arc<ReplicaDisk>| StreamDisk {
            id: disk.id(),
            name: disk.name().clone(),
            size_bytes: disk.size_bytes(),
            state: disk.condition(),
            content: self.content_of(disk),
        };
        self.parts.disks.iter().map(entry).collect()
    }

    /// The source's id of what the disk holds: only while nothing has come to the line since, it has not grown, and nothing
    /// was lost.
    fn content_of(&self, disk: &ReplicaDisk) -> Option<ContentId> {
        let (sequence, content) = self.parts.manifest.state().disks.get(&disk.id())?.content?;
        let line = &self.parts.line;
        let holds = line.is_indexed()
            && line.tail().sequence == sequence
            && disk.size_at(sequence) == disk.size_bytes()
            && !line.has_gaps()
            && disk.condition() == DiskState::Ready;
        holds.then_some(content)
    }

    /// Notes what the source calls the content of disks at a point that its last mark made. Durable on return.
    pub async fn name_contents(
        &self,
        point: Sequence,
        contents: &[(DiskId, ContentId)],
    ) -> Result<(), StreamError> {
        let record = |(disk, content): &(DiskId, ContentId)| ManifestRecord::ContentNamed {
            disk: *disk,
            sequence: point,
            content: *content,
        };
        let named = contents.iter().map(record).collect();
        let noted = self.parts.manifest.append(named).await.map_err(StreamError::from);
        self.note_failure(noted.map(|_| ()))
    }

    /// Applies a batch of one disk.
    pub async fn apply(
        &self,
        position: Position,
        disk: DiskId,
        source_time: Timestamp,
        extents: Vec<StreamExtent>,
    ) -> Result<(), StreamError> {
        let applied = self.apply_in_turn(Some(position), disk, source_time, extents).await;
        self.note_failure(applied)
    }

    /// Applies a batch at whatever position is next: of a source that keeps none.
    pub(crate) async fn apply_next(
        &self,
        disk: DiskId,
        extents: Vec<StreamExtent>,
    ) -> Result<(), StreamError> {
        let now = self.parts.clock.now();
        let applied = self.apply_in_turn(None, disk, now, extents).await;
        self.note_failure(applied)
    }

    /// Makes a point at whatever position is next.
    pub(crate) async fn mark_next(
        &self,
        kind: PointKind,
        label: Option<Label>,
    ) -> Result<Point, StreamError> {
        let now = self.parts.clock.now();
        let marked = self.mark_in_turn(None, kind, label, now).await;
        let settled = match marked {
            Ok(point) => self.note_mark().await.map(|()| point),
            Err(error) => Err(error),
        };
        self.note_failure(settled)
    }

    /// Whether a call failed: nothing more is taken, and the stream has to be opened anew.
    pub(crate) fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Acquire)
    }

    /// Makes a point of everything so far, and ends the first copy of disks that had none.
    pub async fn mark(
        &self,
        position: Position,
        kind: PointKind,
        label: Option<Label>,
        source_time: Timestamp,
    ) -> Result<Point, StreamError> {
        let marked = self.mark_in_turn(Some(position), kind, label, source_time).await;
        let settled = match marked {
            Ok(point) => self.note_mark().await.map(|()| point),
            Err(error) => Err(error),
        };
        self.note_failure(settled)
    }

    fn note_failure<T>(&self, result: Result<T, StreamError>) -> Result<T, StreamError> {
        if result.is_err() {
            self.failed.store(true, Ordering::Release);
        }
        result
    }

    async fn apply_in_turn(
        &self,
        position: Option<Position>,
        disk: DiskId,
        source_time: Timestamp,
        extents: Vec<StreamExtent>,
    ) -> Result<(), StreamError> {
        let mut order = self.order.lock().await;
        let position = position.unwrap_or(order.next);
        self.take_turn(&mut order, position)?;
        let disk = self.disk(disk)?;
        for extent in &extents {
            check_extent(disk, extent)?;
        }
        if disk.floor().is_none() && matches!(disk.image(), Image::Present(_)) {
            let under_way = Arc::clone(&self.seeds).read_owned().await;
            drop(order);
            seed::write(disk, extents).await?;
            drop(under_way);
        } else {
            // A record of the journal stands for everything before it, so seeds must be done first.
            let seeds_done = self.seeds.write().await;
            drop(seeds_done);
            let origin = self.origin(&mut order, position);
            let mut drafts = Vec::with_capacity(extents.len());
            for extent in extents {
                drafts.push(draft_extent(disk, extent).await);
            }
            Draft::check_shape(&drafts)?;
            let (reply, answer) = oneshot::channel();
            let draft = Draft {
                line: Arc::clone(&self.parts.line),
                origin,
                kind: RecordKind::Batch,
                boundary: order.in_order.is_some(),
                source_time,
                extents: drafts,
                ticket: None,
                reply,
            };
            let answer = self.parts.lane.enqueue(draft, answer).await?;
            drop(order);
            answer.await?;
        }
        self.note_applied(position).await;
        Ok(())
    }

    async fn mark_in_turn(
        &self,
        position: Option<Position>,
        kind: PointKind,
        label: Option<Label>,
        source_time: Timestamp,
    ) -> Result<Point, StreamError> {
        let mut order = self.order.lock().await;
        if !kind.is_consistent() {
            // The source says that it is not sure: what comes after it stands alone no more.
            self.leave_order(&mut order).await?;
        }
        let position = position.unwrap_or(order.next);
        let mark = Mark { kind, label: label.clone(), source_time };
        let answer = self.enqueue_mark(&mut order, position, mark).await?;
        drop(order);
        let committed = answer.await?;
        self.note_applied(position).await;
        let Committed { sequence, commit_time } = committed;
        Ok(Point { sequence, commit_time, source_time, kind, label })
    }

    /// Puts a mark in its place; what it gives answers when it is a point.
    async fn enqueue_mark(
        &self,
        order: &mut Order,
        position: Position,
        mark: Mark,
    ) -> Result<impl Future<Output = Result<Committed, AppendError>> + use<>, StreamError> {
        self.take_turn(order, position)?;
        let seeds_done = self.seeds.write().await;
        self.finish_seeds().await?;
        drop(seeds_done);
        let origin = self.origin(order, position);
        let (reply, answer) = oneshot::channel();
        let Mark { kind, label, source_time } = mark;
        let draft = Draft {
            line: Arc::clone(&self.parts.line),
            origin,
            kind: RecordKind::Mark { kind, label },
            boundary: kind.is_consistent(),
            source_time,
            extents: Vec::new(),
            ticket: None,
            reply,
        };
        Ok(self.parts.lane.enqueue(draft, answer).await?)
    }

    /// Checks that it is this position's turn and moves on.
    fn take_turn(&self, order: &mut Order, position: Position) -> Result<(), StreamError> {
        if self.failed.load(Ordering::Acquire) {
            return Err(StreamError::Failed("a batch before it was refused".into()));
        }
        if self.parts.line.stream_turn() != (self.parts.generation, self.parts.epoch) {
            return Err(StreamError::TakenOver);
        }
        if position != order.next {
            return Err(StreamError::SkippedPosition { expected: order.next, sent: position });
        }
        order.next = position.next();
        Ok(())
    }

    fn origin(&self, order: &mut Order, position: Position) -> DraftOrigin {
        order.since_barrier = true;
        let previous = std::mem::replace(&mut order.last_in_lane, position);
        DraftOrigin::Stream(StreamOrigin {
            generation: self.parts.generation,
            stream: self.parts.stream,
            position,
            previous,
            epoch: self.parts.epoch,
        })
    }

    /// Notes a position as done; the slot's position moves over everything that is done without a hole.
    async fn note_applied(&self, position: Position) {
        self.note_applied_in(&mut *self.order.lock().await, position);
    }

    fn note_applied_in(&self, order: &mut Order, position: Position) {
        order.applied.insert(position);
        let mut slot = self.parts.slot.inner.lock();
        if slot.generation != self.parts.generation || slot.stream != self.parts.stream {
            return;
        }
        while order.applied.remove(&slot.applied.next()) {
            slot.applied = slot.applied.next();
        }
    }

    /// Makes the first copies of this stream's disks count: image durable first, then the floor.
    async fn finish_seeds(&self) -> Result<(), StreamError> {
        let floor = self.parts.line.tail().sequence;
        let mut finished = Vec::new();
        for disk in self.parts.disks.iter().filter(|disk| disk.floor().is_none()) {
            if let Image::Present(image) = disk.image() {
                disk.touch();
                image.flush().await?;
                disk.hashes().update().await.finish(floor, disk.size_bytes()).await?;
                finished.push(disk);
            }
        }
        let done =
            |disk: &&Arc<ReplicaDisk>| ManifestRecord::SeedFinished { disk: disk.id(), floor };
        // What there is of the line already was without these disks.
        let joins =
            |disk: &&&Arc<ReplicaDisk>| floor > Sequence::default() && disk.span().since.is_none();
        let joined =
            |disk: &&Arc<ReplicaDisk>| ManifestRecord::DiskJoined { disk: disk.id(), since: floor };
        let records = finished.iter().map(done);
        let records = records.chain(finished.iter().filter(joins).map(joined)).collect();
        self.parts.manifest.append(records).await?;
        for disk in finished {
            disk.set_floor(floor);
            let state = self.parts.manifest.state();
            state.disks.get(&disk.id()).into_iter().for_each(|e| disk.set_span(e.span.clone()));
        }
        Ok(())
    }

    fn disk(&self, id: DiskId) -> Result<&Arc<ReplicaDisk>, StreamError> {
        let found = self.parts.disks.iter().find(|disk| disk.id() == id);
        found.ok_or_else(|| StreamError::Failed(format!("{id:?} is not part of this stream")))
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let mut slot = self.parts.slot.inner.lock();
        if slot.holder.as_ref().is_some_and(|holder| holder.epoch == self.parts.epoch) {
            slot.holder = None;
        }
    }
}

fn check_extent(disk: &ReplicaDisk, extent: &StreamExtent) -> Result<(), StreamError> {
    let (range, size_bytes) = (extent.range, disk.size_bytes());
    let inside = ByteRange::up_to(size_bytes).contains(range) && !range.is_empty();
    let starts = range.start().bytes().is_multiple_of(BLOCK_SIZE);
    let ends = range.end().bytes() == size_bytes || range.end().bytes().is_multiple_of(BLOCK_SIZE);
    let full = match &extent.content {
        StreamContent::Data { bytes, .. } => bytes.len() as u64 == range.length(),
        StreamContent::Zero => true,
    };
    if inside && starts && ends && full {
        Ok(())
    } else {
        Err(StreamError::BadRange { disk: disk.name().clone(), range, size_bytes })
    }
}

/// An extent in whole blocks: a last one that the disk's end cuts is filled up with zeroes.
async fn draft_extent(disk: &ReplicaDisk, extent: StreamExtent) -> DraftExtent {
    let range = extent.range.widen(BLOCK_SIZE);
    let content = match extent.content {
        StreamContent::Zero => DraftContent::Zero,
        StreamContent::Data { bytes, hash } if range == extent.range => {
            DraftContent::Data { bytes, hash }
        }
        StreamContent::Data { bytes, .. } => {
            let mut padded =
                Buffer::zeroed(usize::try_from(range.length()).expect("at most 8 MiB"));
            padded[..bytes.len()].copy_from_slice(&bytes);
            data_of(padded).await
        }
    };
    DraftExtent { disk: disk.id(), range, content }
}
