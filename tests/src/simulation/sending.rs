//! What the source sends: it resumes, compares, sends batches and marks points.

use super::life::{Alive, Life, PowerCut, disk_name, machine};
use super::model::{Change, SIZES, Sent, Snapshot, bytes};
use crate::world::yield_now;
use futures_util::future::{join, join_all};
use landfall_disks::{Buffer, ByteRange};
use landfall_retention::ids::{ContentId, Generation, Position, Sequence};
use landfall_retention::point::PointKind;
use landfall_retention::time::Timestamp;
use landfall_retention::{
    BlockHash, HASH_BLOCK_BYTES, Stream, StreamContent, StreamError, StreamExtent, StreamRequest,
    StreamState,
};
use std::collections::BTreeMap;
use std::sync::Arc;

/// What is sent, by the position of each.
type Batches = BTreeMap<Position, Sent>;

impl Life<'_> {
    pub(super) fn request(&self, generation: Generation) -> StreamRequest {
        StreamRequest {
            machine: machine(),
            stream: self.model.stream,
            generation,
            disks: (0..SIZES.len()).map(|i| (disk_name(i), self.model.size(i))).collect(),
            peer: "simulation".into(),
        }
    }

    /// Opens the stream and brings the target to where the source is.
    pub(super) async fn resume(&mut self) -> Alive<Stream> {
        self.model.in_order = false;
        // Whoever was cut off while comparing has to begin again.
        let held = match self.model.comparing {
            true => Generation::default(),
            false => self.model.generation,
        };
        let stream = match self.retention.open_stream(self.request(held)).await {
            Ok(stream) if held != Generation::default() => {
                self.model.say(format!("resumed at {:?}", stream.position()));
                self.check_contents(&stream).await?;
                return self.resend(stream).await;
            }
            Err(StreamError::OldGeneration { .. } | StreamError::FailedOver { .. }) => {
                let anew = self.retention.open_stream(self.request(Generation::default())).await;
                self.alive(anew, "open stream anew")?
            }
            opened => self.alive(opened, "open stream")?,
        };
        self.model.generation = stream.generation();
        self.model.unacknowledged.clear();
        self.model.maybe_point = self.model.pending_mark.take().or(self.model.maybe_point.take());
        self.model.say(format!("compares in {:?}", stream.generation()));
        self.check_contents(&stream).await?;
        self.compare(stream).await
    }

    pub(super) async fn resend(&mut self, mut stream: Stream) -> Alive<Stream> {
        let position = stream.position();
        self.model.unacknowledged.retain(|sent, _| *sent > position);
        if let Some((at, snapshot)) = self.model.pending_mark.take() {
            if at <= position {
                let (marked, point) = stream.last_mark().expect("the mark was accepted");
                assert_eq!(marked, at);
                self.model.points.insert(point.sequence.number(), snapshot);
                self.model.seeded = true;
            } else {
                self.model.pending_mark = Some((at, snapshot));
            }
        }
        for (at, sent) in self.model.unacknowledged.clone() {
            self.apply(&stream, at, &sent).await?;
        }
        if let Some((at, snapshot)) = self.model.pending_mark.clone() {
            stream = self.mark_at(stream, at, snapshot, PointKind::Crash).await?;
        }
        Ok(stream)
    }

    /// A disk that is said to hold what the source once named holds just that.
    async fn check_contents(&mut self, stream: &Stream) -> Alive<()> {
        for disk in stream.disks() {
            let Some(content) = disk.content else { continue };
            let whole = ByteRange::up_to(disk.size_bytes);
            let hashes = self.alive(stream.hashes(disk.id, whole).await, "hashes")?;
            assert_eq!(content_of(hashes), content, "{:?} holds something else", disk.id);
            self.model.say(format!("{:?} holds what it is known by", disk.id));
        }
        Ok(())
    }

    /// Names what the disks hold at a point.
    async fn name_contents(&mut self, stream: &Stream, point: Sequence) -> Alive<()> {
        let hash = |block: &[u8]| match block.iter().all(|byte| *byte == 0) {
            true => BlockHash::Zero,
            false => BlockHash::Known(*blake3::hash(block).as_bytes()),
        };
        let block = usize::try_from(HASH_BLOCK_BYTES).expect("64 KiB");
        let snapshot = &self.model.points[&point.number()];
        let contents: Vec<_> = stream
            .disks()
            .iter()
            .map(|disk| disk.id)
            .zip(snapshot.iter().map(|content| content_of(content.chunks(block).map(hash))))
            .collect();
        let named = stream.name_contents(point, &contents).await;
        self.alive(named, "name contents")
    }

    /// Sends what differs, by the target's hashes.
    async fn compare(&mut self, stream: Stream) -> Alive<Stream> {
        self.model.comparing = true;
        let mut position = stream.position();
        for (index, disk) in stream.disks().iter().enumerate() {
            let whole = ByteRange::up_to(disk.size_bytes);
            let hashes = self.alive(stream.hashes(disk.id, whole).await, "hashes")?;
            for (block, hash) in whole.chunks(HASH_BLOCK_BYTES).zip(hashes) {
                let content = self.model.source[index][bytes(block)].to_vec();
                let zero = content.iter().all(|byte| *byte == 0);
                let same = match hash {
                    BlockHash::Zero => zero,
                    BlockHash::Known(hash) => *blake3::hash(&content).as_bytes() == hash,
                    BlockHash::Unknown => panic!("nothing was lost"),
                };
                if !same {
                    position = position.next();
                    let change = if zero { Change::Zero } else { Change::Data(content) };
                    let sent = Sent { disk: index, changes: vec![(block, change)] };
                    self.model.unacknowledged.insert(position, sent.clone());
                    self.apply(&stream, position, &sent).await?;
                }
            }
        }
        self.model.comparing = false;
        let snapshot = self.model.snapshot();
        self.mark_at(stream, position.next(), snapshot, PointKind::Crash).await
    }

    async fn apply(&mut self, stream: &Stream, position: Position, sent: &Sent) -> Alive<()> {
        let disk = stream.disks()[sent.disk].id;
        let now = Timestamp::from_nanoseconds(1);
        let applied = stream.apply(position, disk, now, extents(sent)).await;
        self.alive(applied, "apply")?;
        self.model.unacknowledged.remove(&position);
        Ok(())
    }

    pub(super) fn next_position(&self, stream: &Stream) -> Position {
        let sent = self.model.unacknowledged.keys().next_back().copied();
        sent.unwrap_or_else(|| stream.applied()).max(stream.applied()).next()
    }

    /// Changes the source `count` times. What that gives is not acknowledged yet, and each of them may become an instant.
    fn change_and_remember(&mut self, first: Position, head: u64, count: u64) -> Batches {
        let (mut sent, mut after, mut position) = (BTreeMap::new(), Vec::new(), first);
        for _ in 0..count {
            sent.insert(position, self.model.change_source(self.choices));
            after.push(self.model.snapshot());
            position = position.next();
        }
        self.expect_instants(head, &after);
        self.model.unacknowledged.extend(sent.clone());
        sent
    }

    /// Several batches at once, acknowledged in any order.
    pub(super) async fn send_batches(&mut self, stream: Stream) -> Alive<Stream> {
        let (head, first) = (self.head(), self.next_position(&stream));
        let count = 1 + self.choices.below(4);
        let sent = self.change_and_remember(first, head, count);
        let applied = join_all(applies(&stream, &sent)).await;
        for (at, applied) in sent.keys().zip(applied) {
            self.alive(applied, "apply")?;
            self.model.unacknowledged.remove(at);
        }
        self.note_instants(head, sent.len() as u64);
        self.model.say(format!("{} batches from {first:?}", sent.len()));
        Ok(stream)
    }

    /// Batches that come while the disk is full, which ends while some of them wait: those after a refused one must be
    /// refused too. Afterwards the source resumes and nothing is missing or applied twice.
    pub(super) async fn send_while_full(&mut self, stream: Stream) -> Alive<Stream> {
        let (head, first) = (self.head(), self.next_position(&stream));
        let sent = self.change_and_remember(first, head, 8);
        let (folder, turns) = (&self.world.folder, self.choices.below(200));
        folder.set_capacity(Some(0));
        let space_returns = async {
            for _ in 0..turns {
                yield_now().await;
            }
            folder.set_capacity(None);
        };
        let (applied, ()) = join(join_all(applies(&stream, &sent)), space_returns).await;
        let mut refused = 0u64;
        for (at, applied) in sent.keys().zip(applied) {
            match applied {
                Ok(()) => {
                    assert_eq!(refused, 0, "{at:?} was accepted after one before it was refused");
                    self.model.unacknowledged.remove(at);
                }
                Err(_) if folder.is_dead() => return Err(PowerCut),
                Err(_) => refused += 1,
            }
        }
        self.note_instants(head, 8 - refused);
        self.model.say(format!("{refused} of 8 batches from {first:?} refused on a full disk"));
        drop(stream);
        self.resume().await
    }

    pub(super) async fn send_mark(&mut self, stream: Stream) -> Alive<Stream> {
        let position = self.next_position(&stream);
        let kind = *self.choices.pick(&[PointKind::Crash, PointKind::App, PointKind::Fuzzy]);
        let snapshot = self.model.snapshot();
        self.mark_at(stream, position, snapshot, kind).await
    }

    async fn mark_at(
        &mut self,
        stream: Stream,
        position: Position,
        snapshot: Snapshot,
        kind: PointKind,
    ) -> Alive<Stream> {
        self.model.pending_mark = Some((position, Arc::clone(&snapshot)));
        let marked = stream.mark(position, kind, None, Timestamp::from_nanoseconds(1)).await;
        let point = self.alive(marked, "mark")?;
        self.model.pending_mark = None;
        self.model.seeded = true;
        self.model.in_order &= kind.is_consistent();
        let ordered = stream.state() == Some(StreamState::Ordered);
        assert_eq!(ordered, self.model.in_order);
        self.model.points.insert(point.sequence.number(), snapshot);
        self.model.say(format!("{kind} point {:?} at {}", point.sequence, point.commit_time));
        if kind.is_consistent() && self.choices.chance(1, 2) {
            self.name_contents(&stream, point.sequence).await?;
        }
        Ok(stream)
    }
}

fn applies<'a>(
    stream: &'a Stream,
    sent: &'a Batches,
) -> impl Iterator<Item = impl Future<Output = Result<(), StreamError>> + 'a> {
    let now = Timestamp::from_nanoseconds(1);
    let disks = stream.disks();
    sent.iter().map(move |(at, sent)| stream.apply(*at, disks[sent.disk].id, now, extents(sent)))
}

fn extents(sent: &Sent) -> Vec<StreamExtent> {
    let extent = |(range, change): &(ByteRange, Change)| {
        let content = match change {
            Change::Zero => StreamContent::Zero,
            Change::Data(data) => {
                let hash = *blake3::hash(data).as_bytes();
                StreamContent::Data { bytes: Buffer::copy_of(data), hash }
            }
        };
        StreamExtent { range: *range, content }
    };
    sent.changes.iter().map(extent).collect()
}

/// What the simulated source calls a content.
fn content_of(blocks: impl IntoIterator<Item = BlockHash>) -> ContentId {
    let mut hasher = blake3::Hasher::new();
    for block in blocks {
        match block {
            BlockHash::Known(hash) => hasher.update(&hash),
            BlockHash::Zero => hasher.update(&[0; 32]),
            BlockHash::Unknown => panic!("nothing was lost"),
        };
    }
    ContentId::new(*hasher.finalize().as_bytes())
}
