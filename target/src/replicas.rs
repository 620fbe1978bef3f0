//! Streams of the delta protocol, joined to retention: names for names, errors for refusals.
//!
//! Nothing is decided here. What a refused source should do next follows from the code of the refusal, so the mapping in
//! `refusal` is the one place to look at.

use futures_util::future::LocalBoxFuture;
use landfall_disks::ByteRange;
use landfall_protocols::delta::wire::{
    BlockHash, DiskState, HashRequest, Mark, MarkKind, Marked, PassBegin, WriteOrder,
};
use landfall_protocols::delta::{
    self, Applied, Batch, Closed, HASH_BLOCK_SIZE, OpenedStream, PeerIdentity, Refusal,
    ReplicaSink, Replicas, StreamDisk, StreamHello,
};
use landfall_retention as retention;
use landfall_retention::AppendError;
use landfall_retention::ids::{ContentId, DiskId, Generation, Position, StreamId};
use landfall_retention::name::{Label, Name};
use landfall_retention::point::{Point, PointKind};
use landfall_retention::time::Timestamp;
use landfall_retention::{Retention, StreamError, StreamState};
use std::cell::Cell;
use std::sync::Arc;

/// The machines of a retention.
pub(crate) struct RetentionReplicas {
    retention: Arc<Retention>,
}

impl RetentionReplicas {
    /// The machines of `retention`.
    pub(crate) fn new(retention: Arc<Retention>) -> Self {
        Self { retention }
    }
}

impl Replicas for RetentionReplicas {
    fn open<'a>(
        &'a self,
        hello: StreamHello,
        peer: PeerIdentity,
    ) -> LocalBoxFuture<'a, Result<OpenedStream, Refusal>> {
        Box::pin(async move {
            let machine = name(&hello.machine);
            let request = retention::StreamRequest {
                machine: machine.clone(),
                stream: StreamId::new(hello.stream.bytes()),
                generation: Generation::new(hello.generation.map_or(0, delta::Generation::number)),
                disks: hello.disks.iter().map(|d| (name(&d.name), d.size_bytes)).collect(),
                peer: peer.to_string(),
            };
            let to_refusal = Refusals { machine: machine.clone() };
            let stream = self.retention.open_stream(request).await.map_err(|e| to_refusal.of(e))?;
            opened(stream, to_refusal)
        })
    }
}

/// Names of both sides follow the same rule.
fn name(name: &delta::Name) -> Name {
    Name::parse(name.as_str()).expect("the delta stream checks names by the same rule")
}

fn opened(stream: retention::Stream, refusals: Refusals) -> Result<OpenedStream, Refusal> {
    let generation = delta::Generation::new(stream.generation().number())
        .ok_or_else(|| Refusal::Failed("the stream was given no generation".to_owned()))?;
    let disks = stream.disks();
    let sink = Sink {
        disks: disks.iter().map(|disk| (disk.id, disk.size_bytes)).collect(),
        stream,
        refusals,
        said: Cell::new(None),
    };
    sink.say_state();
    let stream = &sink.stream;
    Ok(OpenedStream {
        generation,
        position: delta::Position::new(stream.position().number()),
        last_mark: stream.last_mark().map(|(position, point)| marked(position, &point)),
        disks: disks
            .iter()
            .map(|disk| StreamDisk {
                size_bytes: disk.size_bytes,
                state: state(&disk.state),
                content: disk.content.and_then(|content| delta::ContentId::new(content.bytes())),
            })
            .collect(),
        sink: Box::new(sink),
    })
}

fn state(state: &retention::DiskState) -> DiskState {
    match state {
        retention::DiskState::Empty => DiskState::Empty,
        retention::DiskState::Seeding => DiskState::Seeding,
        retention::DiskState::Ready => DiskState::InSync,
        retention::DiskState::NeedsResync(_) => DiskState::NeedsResync,
    }
}

fn marked(position: Position, point: &Point) -> Marked {
    Marked {
        position: delta::Position::new(position.number()),
        sequence: point.sequence.number(),
        commit_time: delta::Timestamp::from_nanoseconds(point.commit_time.nanoseconds()),
        kind: match point.kind {
            PointKind::App => MarkKind::App,
            PointKind::Crash => MarkKind::Crash,
            PointKind::Fuzzy => MarkKind::Fuzzy,
        },
    }
}

/// One opening of a machine's stream.
struct Sink {
    stream: retention::Stream,
    /// Id and size of each disk, by slot.
    disks: Vec<(DiskId, u64)>,
    refusals: Refusals,
    /// The state that the log has.
    said: Cell<Option<StreamState>>,
}

impl Sink {
    /// Says in the log what the stream is at, once per change.
    fn say_state(&self) {
        let state = self.stream.state();
        if let Some(state) = state.filter(|_| self.said.replace(state) != state) {
            let machine = &self.refusals.machine;
            tracing::info!(%machine, %state, means = state.meaning(), "state of the stream");
        }
    }

    /// Remembers what the source calls what its disks hold at `point`.
    async fn name_contents(
        &self,
        point: &Point,
        contents: &[Option<delta::ContentId>],
    ) -> Result<(), Refusal> {
        let disks = self.disks.iter().zip(contents);
        let named: Vec<(DiskId, ContentId)> = disks
            .filter_map(|((disk, _), content)| Some((*disk, ContentId::new((*content)?.bytes()))))
            .collect();
        // Content that was changing while it was read is none that could be found again.
        if named.is_empty() || !point.kind.is_consistent() {
            return Ok(());
        }
        let noted = self.stream.name_contents(point.sequence, &named).await;
        noted.map_err(|error| self.refusals.of(error))
    }

    fn disk(&self, slot: delta::DiskSlot) -> Result<(DiskId, u64), Refusal> {
        let found = self.disks.get(slot.index()).copied();
        found.ok_or_else(|| Refusal::BadFrame(format!("there is no disk {}", slot.number())))
    }
}

impl ReplicaSink for Sink {
    fn apply(&self, position: delta::Position, batch: Batch) -> LocalBoxFuture<'_, Applied> {
        Box::pin(async move {
            let (disk, _) = self.disk(batch.disk)?;
            let source_time = Timestamp::from_nanoseconds(batch.source_time.nanoseconds());
            let extents = batch.extents.into_iter().map(extent).collect();
            let position = Position::new(position.number());
            let applied = self.stream.apply(position, disk, source_time, extents).await;
            applied.map_err(|error| self.refusals.of(error))
        })
    }

    fn mark(&self, mark: Mark) -> LocalBoxFuture<'_, Result<Marked, Refusal>> {
        Box::pin(async move {
            let kind = match mark.kind {
                MarkKind::App => PointKind::App,
                MarkKind::Crash => PointKind::Crash,
                MarkKind::Fuzzy => PointKind::Fuzzy,
            };
            let label = match mark.label.as_str() {
                "" => None,
                text => Some(Label::parse(text).map_err(|e| Refusal::BadFrame(e.to_string()))?),
            };
            let source_time = Timestamp::from_nanoseconds(mark.source_time.nanoseconds());
            let position = Position::new(mark.position.number());
            let stream = &self.stream;
            let point = match mark.order.map(order_of) {
                Some(order) => {
                    stream.mark_in_order(position, kind, label, source_time, order).await
                }
                None => stream.mark(position, kind, label, source_time).await,
            };
            self.say_state();
            let point = point.map_err(|error| self.refusals.of(error))?;
            self.name_contents(&point, &mark.contents).await?;
            tracing::info!(
                machine = %self.refusals.machine, sequence = %point.sequence, kind = %point.kind,
                "new point"
            );
            Ok(marked(position, &point))
        })
    }

    fn hashes(&self, request: HashRequest) -> LocalBoxFuture<'_, Result<Vec<BlockHash>, Refusal>> {
        Box::pin(async move {
            let (disk, size_bytes) = self.disk(request.disk)?;
            let range = hash_range(request, size_bytes)
                .ok_or_else(|| Refusal::BadFrame("hashes past the end of the disk".to_owned()))?;
            let hashes = self.stream.hashes(disk, range).await;
            let hashes = hashes.map_err(|error| self.refusals.of(error))?;
            Ok(hashes
                .into_iter()
                .map(|hash| match hash {
                    retention::BlockHash::Known(hash) => BlockHash::Hash(hash),
                    retention::BlockHash::Zero => BlockHash::Zero,
                    retention::BlockHash::Unknown => BlockHash::Unknown,
                })
                .collect())
        })
    }

    fn pass_begin(&self, pass: PassBegin) -> LocalBoxFuture<'_, Applied> {
        Box::pin(async move {
            tracing::debug!(
                machine = %self.refusals.machine, pass = pass.pass, bytes = pass.bytes_total,
                kind = ?pass.kind, "pass begins"
            );
            let ended = self.stream.end_order().await;
            self.say_state();
            ended.map_err(|error| self.refusals.of(error))
        })
    }

    fn closed(&self, why: Closed) -> LocalBoxFuture<'_, ()> {
        Box::pin(async move {
            // The protocol tells of it in the log; the stream itself ends when it is dropped. What could not be recorded now
            // is by whoever opens it next, or by the next start.
            if let Err(error) = self.stream.end_order().await {
                tracing::debug!(machine = %self.refusals.machine, %error, "order ends later");
            }
            self.say_state();
            tracing::debug!(machine = %self.refusals.machine, %why, "sink closed");
        })
    }
}

/// The bytes a request for hashes covers; nothing if it reaches past the disk.
fn hash_range(request: HashRequest, size_bytes: u64) -> Option<ByteRange> {
    let start = request.first.checked_mul(HASH_BLOCK_SIZE)?;
    let length = u64::from(request.count).checked_mul(HASH_BLOCK_SIZE)?;
    let end = start.checked_add(length)?;
    // Only the last block may be cut by the end of the disk.
    if request.count == 0 || end >= size_bytes.checked_add(HASH_BLOCK_SIZE)? {
        return None;
    }
    ByteRange::new(
        landfall_disks::ByteOffset::new(start),
        landfall_disks::ByteOffset::new(end.min(size_bytes)),
    )
}

fn extent(extent: delta::Extent) -> retention::StreamExtent {
    let content = match extent.content {
        delta::ExtentContent::Data { bytes, hash } => {
            retention::StreamContent::Data { bytes, hash }
        }
        delta::ExtentContent::Zero => retention::StreamContent::Zero,
    };
    retention::StreamExtent { range: extent.range, content }
}

/// Turns errors of a machine's stream into refusals.
struct Refusals {
    machine: Name,
}

impl Refusals {
    fn of(&self, error: StreamError) -> Refusal {
        let texts = |names: Vec<Name>| names.iter().map(Name::to_string).collect();
        match error {
            StreamError::UnknownMachine { machine, known } => {
                Refusal::UnknownMachine { machine: machine.to_string(), known: texts(known) }
            }
            StreamError::UnknownDisk { machine, disk, known } => Refusal::UnknownDisk {
                machine: machine.to_string(),
                disk: disk.to_string(),
                known: texts(known),
            },
            StreamError::SizeMismatch { disk, ours, theirs } => {
                Refusal::SizeMismatch { disk: disk.to_string(), ours, yours: theirs }
            }
            StreamError::OldGeneration { sent, current } => old_generation(sent, current),
            StreamError::FailedOver { machine, .. } => {
                let who = format!(
                    "a source from before a branch of {machine} was promoted \
                     (start it anew to make {machine} what it has)"
                );
                Refusal::Forbidden { who, machine: machine.to_string() }
            }
            StreamError::FedByWrites { machine } => {
                let who = format!(
                    "a stream while {machine} is fed over NBD \
                     (to let it: landfall ingest set {machine} off)"
                );
                Refusal::Forbidden { who, machine: machine.to_string() }
            }
            StreamError::Busy { machine, peer } => {
                Refusal::StreamBusy { machine: machine.to_string(), peer }
            }
            StreamError::TakenOver => self.taken_over(),
            StreamError::SkippedPosition { expected, sent } => skipped(expected, sent),
            StreamError::BadRange { disk, range, size_bytes } => {
                Refusal::OutOfRange { disk: disk.to_string(), range, size_bytes }
            }
            StreamError::Append(error) => self.of_append(&error),
            StreamError::NotIndexed { .. } => Refusal::Paused(error.to_string()),
            StreamError::OrderAtFuzzy => Refusal::BadFrame(error.to_string()),
            other => Refusal::Failed(other.to_string()),
        }
    }

    fn of_append(&self, error: &AppendError) -> Refusal {
        match error {
            AppendError::JournalFull { .. } | AppendError::QuotaUsedUp(_) => {
                Refusal::JournalFull(error.to_string())
            }
            AppendError::OldGeneration { sent, current } => old_generation(*sent, *current),
            AppendError::OutOfOrder { sent, last } => skipped(last.next(), *sent),
            AppendError::TakenOver => self.taken_over(),
            AppendError::Shape => Refusal::BadFrame(error.to_string()),
            AppendError::Stopping => Refusal::Stopping,
            _ => Refusal::Failed(error.to_string()),
        }
    }

    fn taken_over(&self) -> Refusal {
        let peer = "a newer connection of the same stream".to_owned();
        Refusal::StreamBusy { machine: self.machine.to_string(), peer }
    }
}

fn skipped(expected: Position, sent: Position) -> Refusal {
    Refusal::SkippedPosition {
        expected: delta::Position::new(expected.number()),
        got: delta::Position::new(sent.number()),
    }
}

fn old_generation(sent: Generation, current: Generation) -> Refusal {
    let generation = |one: Generation| delta::Generation::new(one.number());
    match (generation(sent), generation(current)) {
        (Some(got), Some(current)) => Refusal::OldGeneration { current, got },
        _ => Refusal::Failed(format!("{sent:?} has ended, {current:?} is current")),
    }
}

fn order_of(order: WriteOrder) -> retention::WriteOrder {
    match order {
        WriteOrder::Asynchronous => retention::WriteOrder::Asynchronous,
        WriteOrder::Synchronous => retention::WriteOrder::Synchronous,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use landfall_protocols::delta::{DiskSlot, RefusalCode};

    #[test]
    fn hashes_are_asked_for_within_the_disk() {
        let request = |first, count| HashRequest { disk: DiskSlot::new(0), first, count };
        let size = 3 * HASH_BLOCK_SIZE + 512;
        let range = |first, count| hash_range(request(first, count), size);
        assert_eq!(range(0, 4), Some(ByteRange::up_to(size)));
        assert_eq!(range(1, 1).map(|range| range.start().bytes()), Some(HASH_BLOCK_SIZE));
        assert_eq!(range(3, 2), None);
        assert_eq!(range(0, 0), None);
        assert_eq!(range(u64::MAX, 1), None);
        assert_eq!(hash_range(request(2, 2), 3 * HASH_BLOCK_SIZE), None);
    }

    #[test]
    fn a_source_is_told_the_rule_it_broke() {
        let refusals = Refusals { machine: Name::parse("web").unwrap() };
        let full = AppendError::JournalFull { free_bytes: 1, needed_bytes: 2 };
        for (error, code) in [
            (StreamError::Append(full), RefusalCode::JournalFull),
            (StreamError::TakenOver, RefusalCode::StreamBusy),
            (StreamError::Append(AppendError::Stopping), RefusalCode::Stopping),
            (
                StreamError::OldGeneration {
                    sent: Generation::new(1),
                    current: Generation::new(2),
                },
                RefusalCode::OldGeneration,
            ),
            (
                StreamError::SkippedPosition { expected: Position::new(4), sent: Position::new(6) },
                RefusalCode::SkippedPosition,
            ),
            (StreamError::Failed("x".to_owned()), RefusalCode::Failed),
        ] {
            assert_eq!(refusals.of(error).code(), code);
        }
    }
}
