//! The feed of one machine: its stream while somebody writes to its disks, and what becomes of their writes.
//!
//! ```text
//!   first client ─▶ stream opened ─▶ writes of all clients, at whatever position is next ─▶ last one gone: stream closed
//!                        ▲                         │
//!                        └── a write was refused ◀─┘ whoever writes next opens it anew
//! ```
//!
//! A stream of which one batch failed takes no more, since a source with positions would send it again. Clients of disks
//! do not, and learn of each write by itself: so it is opened anew. **Invariants:** it is closed and opened only while no
//! write is under way. Order ends, on record, before anything that is no moment is taken. Lock order: `turn`, `stream`,
//! `state`; the last is never held across an await.

use super::round::{Ended, Round, Writer};
use super::{IngestError, IngestMode};
use crate::branch::append_failed;
use crate::ids::{DiskId, Generation, MachineId, StreamId};
use crate::journal::draft::AppendError;
use crate::name::{Label, Name};
use crate::opening::Source;
use crate::point::{Point, PointKind};
use crate::replica::{DiskState, Image, ReplicaDisk};
use crate::retention::Retention;
use crate::stream::{Stream, StreamError, StreamExtent, StreamRequest};
use crate::time::Timestamp;
use landfall_disks::file::FileError;
use landfall_disks::range_locks::RangeLocks;
use landfall_disks::{Disk, DiskError};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use tokio::sync::{RwLock, RwLockReadGuard};

/// What the stream of every such machine is called in its history.
const STREAM: StreamId = StreamId::new(*b"landfall-ingest\0");
/// Who holds a stream that was opened for a mark alone.
const BY_HAND: &str = "a mark by hand";

/// How a machine is being fed through its disks.
#[derive(Clone, Debug)]
pub struct FeedStatus {
    /// What its writes mean for its moments.
    pub mode: IngestMode,
    /// Whether every write is a moment now.
    pub in_order: bool,
    /// Its disks.
    pub disks: Vec<FedDiskStatus>,
    /// What last went wrong, and when: order ended with it, or a point that was due was not made.
    pub trouble: Option<(Timestamp, String)>,
}

/// A disk of such a machine.
#[derive(Clone, Debug)]
pub struct FedDiskStatus {
    /// Its name.
    pub name: Name,
    /// Who writes to it.
    pub writer: Option<Writer>,
    /// Why what was last brought to it is no moment, if so: the next client that leaves in good order, or a mark by hand,
    /// settles it.
    pub broken: Option<String>,
    /// Whether what was brought since the last point is whole: one comes when that of all disks is.
    pub is_whole: bool,
    /// Whether a point of the machine waits for it: it had nobody since the last one.
    pub is_awaited: bool,
}

/// The feed of a machine.
pub(crate) struct Feed {
    machine: MachineId,
    name: Name,
    /// Held by whoever comes, goes or marks.
    turn: tokio::sync::Mutex<()>,
    /// Held shared by writes under way.
    stream: RwLock<Option<Arc<Open>>>,
    /// Somebody went without a word, and the stream may not go on as if they had not.
    abandoned: AtomicBool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    round: Round,
    in_order: bool,
    trouble: Option<(Timestamp, String)>,
    blocks: BTreeMap<DiskId, Arc<RangeLocks>>,
    flushes: BTreeMap<DiskId, Arc<SharedFlush>>,
}

/// One opening of the stream.
struct Open {
    stream: Stream,
    /// Why the first write failed that did; others failed because of it.
    cause: Mutex<Option<Cause>>,
}

/// What a failure means to whoever wrote.
#[derive(Clone)]
enum Cause {
    NoSpace(String),
    Gone(String),
    Failed(String),
}

/// Flushes of an image that many wait for and few are made of.
#[derive(Default)]
struct SharedFlush {
    asked: AtomicU64,
    done: tokio::sync::Mutex<u64>,
}

impl Feed {
    pub(super) fn new(machine: MachineId, name: Name) -> Self {
        Self {
            machine,
            name,
            turn: tokio::sync::Mutex::default(),
            stream: RwLock::default(),
            abandoned: AtomicBool::new(false),
            state: Mutex::default(),
        }
    }

    /// The locks of a disk, shared by all who have it open.
    pub(super) fn blocks(&self, disk: DiskId) -> Arc<RangeLocks> {
        Arc::clone(self.state.lock().blocks.entry(disk).or_default())
    }

    /// Lets a client write to a disk.
    pub(super) async fn enter(
        &self,
        retention: &Retention,
        disk: &ReplicaDisk,
        writer: Writer,
    ) -> Result<(), IngestError> {
        let _turn = self.turn.lock().await;
        let entered = self.state.lock().round.enter(disk.id(), writer.clone());
        entered.map_err(|writer| {
            let (machine, disk) = (self.name.clone(), disk.name().clone());
            IngestError::Busy { machine, disk, writer }
        })?;
        match self.open_stream(retention, &writer.peer).await {
            Ok(_) => {
                tracing::info!(machine = %self.name, disk = %disk.name(), peer = writer.peer, "fed over NBD");
                Ok(())
            }
            Err(error) => {
                self.state.lock().round.turn_away(disk.id());
                Err(error.into())
            }
        }
    }

    /// A client has gone. Makes the point that is due then.
    pub(super) async fn leave(
        &self,
        retention: &Retention,
        disk: &ReplicaDisk,
        ended: Ended,
    ) -> Result<Option<Point>, IngestError> {
        let _turn = self.turn.lock().await;
        tracing::info!(machine = %self.name, disk = %disk.name(), ended = ended.words(), "no longer fed over NBD");
        if let Ended::Broken(why) = &ended {
            self.note_trouble(retention.now(), &format!("disk {}: {why}", disk.name()));
        }
        self.state.lock().round.leave(disk.id(), ended);
        // What comes next, by whomever, is not what this one vouched for.
        let ended = self.end_order().await;
        let all: Vec<DiskId> = retention.fed_disks(self.machine).iter().map(|d| d.id()).collect();
        let marked = match ended {
            Ok(()) if self.state.lock().round.is_due(&all) => {
                self.mark_held(retention, PointKind::Crash, None, false).await.map(Some)
            }
            Ok(()) => Ok(None),
            Err(error) => Err(error.into()),
        };
        if let Err(error) = &marked {
            tracing::warn!(machine = %self.name, %error, "no point could be made");
            self.note_trouble(retention.now(), &format!("no point could be made: {error}"));
        }
        self.close_if_idle().await;
        marked
    }

    /// A client is gone without its leave being taken.
    pub(super) fn abandon(&self, now: Timestamp, disk: &ReplicaDisk, ended: Ended) {
        self.note_trouble(now, &format!("disk {}: {}", disk.name(), ended.words()));
        {
            let mut state = self.state.lock();
            state.round.leave(disk.id(), ended);
            state.in_order = false;
        }
        self.abandoned.store(true, Ordering::Release);
        if let Ok(mut stream) = self.stream.try_write() {
            *stream = None;
        }
    }

    /// Makes a point because somebody asked for it.
    pub(super) async fn mark(
        &self,
        retention: &Retention,
        kind: PointKind,
        label: Option<Label>,
    ) -> Result<Point, IngestError> {
        let _turn = self.turn.lock().await;
        let disks = retention.fed_disks(self.machine);
        for disk in &disks {
            let there = disk.condition() != DiskState::Empty;
            if !there && !self.state.lock().round.was_there(disk.id()) {
                let (machine, disk) = (self.name.clone(), disk.name().clone());
                return Err(IngestError::NotCopied { machine, disk });
            }
        }
        let ordered = retention.ingest_mode(&self.name) == Some(IngestMode::Ordered)
            && self.state.lock().round.has_writers();
        if ordered && disks.len() > 1 {
            let (machine, disks) = (self.name.clone(), disks.len());
            return Err(IngestError::OrderOfSeveral { machine, disks });
        }
        let marked = self.mark_held(retention, kind, label, ordered).await;
        self.close_if_idle().await;
        marked
    }

    async fn mark_held(
        &self,
        retention: &Retention,
        kind: PointKind,
        label: Option<Label>,
        ordered: bool,
    ) -> Result<Point, IngestError> {
        let point = {
            let open = self.open_stream(retention, BY_HAND).await?;
            let stream = &stream_of(&open).stream;
            match ordered {
                true => stream.order_next(kind, label).await,
                false => stream.mark_next(kind, label).await,
            }?
        };
        let mut state = self.state.lock();
        state.round.marked();
        state.in_order |= ordered;
        let sequence = point.sequence;
        tracing::info!(machine = %self.name, %sequence, kind = %point.kind, ordered, "new point");
        Ok(point)
    }

    /// Makes changes of a disk part of its history. Durable on return, in a first copy too.
    pub(super) async fn apply(
        &self,
        retention: &Retention,
        disk: &ReplicaDisk,
        extents: Vec<StreamExtent>,
    ) -> Result<(), DiskError> {
        let applied = {
            let writer = self.state.lock().round.writer(disk.id());
            let peer = writer.map_or_else(String::new, |writer| writer.peer);
            match self.open_stream(retention, &peer).await {
                Err(error) => Err((None, Cause::of(&error))),
                Ok(open) => {
                    let open = Arc::clone(stream_of(&open));
                    // The guard lives as long as `applied` is being made.
                    match open.stream.apply_next(disk.id(), extents).await {
                        Ok(()) => Ok(()),
                        Err(error) if is_collateral(&error) => Err((Some(open), Cause::of(&error))),
                        Err(error) => {
                            let cause = Cause::of(&error);
                            open.cause.lock().get_or_insert_with(|| cause.clone());
                            Err((None, cause))
                        }
                    }
                }
            }
        };
        let failed = match applied {
            // What went to an image is durable when that is flushed; what went to the journal is.
            Ok(()) if disk.floor().is_none() => match self.flush_image(disk).await {
                Ok(()) => return Ok(()),
                Err(error) => Cause::of(&StreamError::Disk(error)),
            },
            Ok(()) => return Ok(()),
            Err((None, cause)) => cause,
            Err((Some(open), cause)) => {
                // All that were under way have been answered then, that one among them which failed first.
                let _all = self.stream.write().await;
                let first = open.cause.lock().clone();
                first.unwrap_or(cause)
            }
        };
        self.refuse(retention.now(), disk, &failed);
        Err(failed.into())
    }

    fn refuse(&self, now: Timestamp, disk: &ReplicaDisk, cause: &Cause) {
        let (machine, what) = (&self.name, format!("disk {}: {}", disk.name(), cause.words()));
        let mut state = self.state.lock();
        if std::mem::take(&mut state.in_order) {
            tracing::warn!(%machine, what, "order has ended: a write was refused");
        } else {
            tracing::debug!(%machine, what, "a write was refused");
        }
        state.trouble = Some((now, what));
    }

    /// The stream, opened if it is not, or failed.
    async fn open_stream(
        &self,
        retention: &Retention,
        peer: &str,
    ) -> Result<RwLockReadGuard<'_, Option<Arc<Open>>>, StreamError> {
        let is_good = |open: &Option<Arc<Open>>| {
            let good = open.as_ref().is_some_and(|open| !open.stream.has_failed());
            good && !self.abandoned.load(Ordering::Acquire)
        };
        let shared = self.stream.read().await;
        if is_good(&shared) {
            return Ok(shared);
        }
        drop(shared);
        let mut whole = self.stream.write().await;
        if !is_good(&whole) {
            // What was in order has ended with the opening before, on record, before this one takes anything.
            self.state.lock().in_order = false;
            *whole = None;
            let stream = self.open_anew(retention, peer).await?;
            self.abandoned.store(false, Ordering::Release);
            *whole = Some(Arc::new(Open { stream, cause: Mutex::default() }));
        }
        Ok(whole.downgrade())
    }

    async fn open_anew(&self, retention: &Retention, peer: &str) -> Result<Stream, StreamError> {
        let disks = retention.fed_disks(self.machine);
        let line = retention
            .line_named(&self.name, None)
            .map_err(|_| StreamError::NotFedByWrites { machine: self.name.clone() })?;
        let request = |generation| StreamRequest {
            machine: self.name.clone(),
            stream: STREAM,
            generation,
            disks: disks.iter().map(|disk| (disk.name().clone(), disk.size_bytes())).collect(),
            peer: peer.to_owned(),
        };
        // Everything that was answered is there, so it goes on where it was; unless the target cannot vouch for that.
        let current = line.generation();
        if current != Generation::default() {
            match retention.open_stream_of(request(current), Source::Writes).await {
                Err(StreamError::OldGeneration { .. } | StreamError::FailedOver { .. }) => {}
                opened => return opened,
            }
        }
        retention.open_stream_of(request(Generation::default()), Source::Writes).await
    }

    /// Ends order, if it stands, on record.
    async fn end_order(&self) -> Result<(), StreamError> {
        if !std::mem::take(&mut self.state.lock().in_order) {
            return Ok(());
        }
        match &*self.stream.read().await {
            Some(open) if !open.stream.has_failed() => open.stream.end_order().await,
            // Whoever opens it next ends it.
            _ => Ok(()),
        }
    }

    async fn close_if_idle(&self) {
        let mut stream = self.stream.write().await;
        if !self.state.lock().round.has_writers() {
            *stream = None;
        }
    }

    async fn flush_image(&self, disk: &ReplicaDisk) -> Result<(), DiskError> {
        let Image::Present(image) = disk.image() else { return Ok(()) };
        let flush = Arc::clone(self.state.lock().flushes.entry(disk.id()).or_default());
        flush.of(&*image).await
    }

    /// Notes what went wrong, for who asks; and in the log where something ends that somebody counted on.
    fn note_trouble(&self, now: Timestamp, what: &str) {
        let mut state = self.state.lock();
        if state.in_order {
            tracing::warn!(machine = %self.name, what, "order has ended");
        }
        state.trouble = Some((now, what.to_owned()));
    }

    /// How it stands.
    pub(super) fn status(&self, mode: IngestMode, disks: &[Arc<ReplicaDisk>]) -> FeedStatus {
        let state = self.state.lock();
        let of = |disk: &Arc<ReplicaDisk>| FedDiskStatus {
            name: disk.name().clone(),
            writer: state.round.writer(disk.id()),
            broken: state.round.broken(disk.id()),
            is_whole: state.round.is_whole(disk.id()),
            is_awaited: !state.round.was_there(disk.id()),
        };
        FeedStatus {
            mode,
            in_order: state.in_order,
            disks: disks.iter().map(of).collect(),
            trouble: state.trouble.clone(),
        }
    }
}

fn stream_of<'a>(open: &'a RwLockReadGuard<'_, Option<Arc<Open>>>) -> &'a Arc<Open> {
    open.as_ref().expect("it was opened, and is not closed while it is looked at")
}

/// Whether a write failed because another one did.
fn is_collateral(error: &StreamError) -> bool {
    matches!(
        error,
        StreamError::Failed(_)
            | StreamError::TakenOver
            | StreamError::SkippedPosition { .. }
            | StreamError::Append(AppendError::OutOfOrder { .. } | AppendError::TakenOver)
    )
}

impl Cause {
    fn of(error: &StreamError) -> Self {
        let as_disk = match error {
            StreamError::Append(error) => append_failed(error.clone()),
            StreamError::Disk(DiskError::NoSpace(what)) => DiskError::NoSpace(what.clone()),
            StreamError::Disk(error @ DiskError::File(FileError::NoSpace { .. })) => {
                DiskError::NoSpace(error.to_string())
            }
            StreamError::UnknownMachine { .. }
            | StreamError::UnknownDisk { .. }
            | StreamError::NotFedByWrites { .. }
            | StreamError::FailedOver { .. }
            | StreamError::Busy { .. } => DiskError::Gone(error.to_string()),
            _ => DiskError::Failed(error.to_string()),
        };
        match as_disk {
            DiskError::NoSpace(what) => Self::NoSpace(what),
            DiskError::Gone(what) | DiskError::Unavailable(what) => Self::Gone(what),
            _ => Self::Failed(error.to_string()),
        }
    }

    fn words(&self) -> &str {
        match self {
            Self::NoSpace(what) | Self::Gone(what) | Self::Failed(what) => what,
        }
    }
}

impl From<Cause> for DiskError {
    fn from(cause: Cause) -> Self {
        match cause {
            Cause::NoSpace(what) => Self::NoSpace(what),
            Cause::Gone(what) => Self::Gone(what),
            Cause::Failed(what) => Self::Failed(what),
        }
    }
}

impl SharedFlush {
    /// Flushes what was written to `image` before the call; one flush serves all who wait for one.
    async fn of(&self, image: &dyn Disk) -> Result<(), DiskError> {
        let mine = self.asked.fetch_add(1, Ordering::SeqCst) + 1;
        let mut done = self.done.lock().await;
        if *done >= mine {
            return Ok(());
        }
        let all = self.asked.load(Ordering::SeqCst);
        image.flush().await?;
        *done = all;
        Ok(())
    }
}
