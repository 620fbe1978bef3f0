//! A lane: one append-only history, written by one task on one I/O core.
//!
//! ```text
//!   drafts ─▶ queue ─▶ plan ─▶ write ─▶ flush ─▶ index ─▶ publish to lines ─▶ acknowledge
//!                       ▲ one group at a time: everything that waits goes into the next group
//! ```
//!
//! **Invariants:** a group is acknowledged only when it and every earlier one is durable and indexed. What was aborted of it is void by
//! a durable record before anything of it is indexed (`deciding`). A full disk
//! refuses drafts and harms nothing: a segment gets its space before anything is written to it. Should there be none all the same,
//! the segment ends before the group, durably, before anybody hears that nothing of it is there. Any other failed write
//! or flush poisons the lane until the journal is opened again, because what reached the medium is not known.

use super::draft::{AppendError, Committed, Draft};
use super::format::{MAX_SEGMENT_BYTES, Record, SEGMENT_HEADER_BYTES};
use super::indexing::index_record;
use super::plan::{Layout, Plan, Taken};
use super::rebuild::Ending;
use super::sealed::GroupPlace;
use super::segment::{Segments, new_entry};
use crate::ids::{LaneId, LaneSequence, LineId};
use crate::index::tail_key::{LineTail, put_progress, put_tail};
use crate::index::usage_key::{Sampler, Tally};
use crate::index::{IndexBatch, IndexStore};
use crate::manifest::record::ManifestRecord;
use crate::manifest::state::SegmentEntry;
use crate::manifest::{Manifest, ManifestError};
use crate::sealing::Keyring;
use crate::time::Clock;
use landfall_disks::file::{FileError, FileIo};
use landfall_disks::uring::offload;
use landfall_disks::{BLOCK_SIZE, Buffer};
use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use tokio::sync::{mpsc, oneshot};

/// Most bytes that are written and flushed together.
const GROUP_BYTES: u64 = 16 << 20;
/// Drafts that may wait for a lane before senders wait too.
const QUEUE_DRAFTS: usize = 256;
/// Bytes that are sealed on the I/O core: that takes less than handing them over does.
const SEAL_INLINE_BYTES: u64 = 64 << 10;

/// Limits of the journal.
#[derive(Clone, Copy, Debug)]
pub struct JournalSettings {
    /// Length of a segment file.
    pub segment_bytes: u64,
    /// Space of the file system that new segments leave alone, for manifest and index.
    pub reserve_bytes: u64,
}

impl Default for JournalSettings {
    fn default() -> Self {
        Self { segment_bytes: 64 << 20, reserve_bytes: 256 << 20 }
    }
}

impl JournalSettings {
    /// The settings with segments of whole blocks within the limits of the format. Segments shorter than
    /// [`MIN_SEGMENT_BYTES`](super::format::MIN_SEGMENT_BYTES) refuse batches that do not fit.
    pub(crate) fn checked(self) -> Self {
        let shortest = SEGMENT_HEADER_BYTES * 16;
        let segment_bytes = self.segment_bytes.clamp(shortest, MAX_SEGMENT_BYTES);
        Self { segment_bytes: segment_bytes.next_multiple_of(BLOCK_SIZE), ..self }
    }
}

/// What a lane has done since it was opened, for metrics.
#[derive(Debug, Default)]
pub struct LaneCounters {
    /// Records written.
    pub records: AtomicU64,
    /// Groups flushed.
    pub flushes: AtomicU64,
    /// Nanoseconds from taking groups up to acknowledging them, of all groups that were.
    pub busy_nanoseconds: AtomicU64,
    /// Bytes written.
    pub bytes: AtomicU64,
    /// Records written that abort others.
    pub aborts: AtomicU64,
    /// Drafts refused because the journal is full.
    pub refused_full: AtomicU64,
    /// Why the lane refuses everything, once it does.
    pub failed: OnceLock<String>,
}

/// The way into a lane. Cheap to clone.
#[derive(Clone)]
pub(crate) struct LaneHandle {
    queue: mpsc::Sender<Work>,
    counters: Arc<LaneCounters>,
}

enum Work {
    Append(Draft),
    /// Write an empty record if the last group has none that vouches for it.
    Vouch(oneshot::Sender<Result<(), AppendError>>),
    /// The index has all that was written before the lane went on.
    Indexed(Box<Ending>, oneshot::Sender<Result<(), AppendError>>),
}

impl LaneHandle {
    /// Appends; answers when the change is durable, indexed and visible.
    pub(crate) async fn append(
        &self,
        draft: Draft,
        answer: oneshot::Receiver<Result<Committed, AppendError>>,
    ) -> Result<Committed, AppendError> {
        self.enqueue(draft, answer).await?.await
    }

    /// Queues a draft; once this returns its place in the order is taken. The future it gives answers when the change
    /// is durable, indexed and visible.
    pub(crate) async fn enqueue(
        &self,
        draft: Draft,
        answer: oneshot::Receiver<Result<Committed, AppendError>>,
    ) -> Result<impl Future<Output = Result<Committed, AppendError>> + use<>, AppendError> {
        self.queue.send(Work::Append(draft)).await.map_err(|_| AppendError::Stopping)?;
        Ok(async move { answer.await.map_err(|_| AppendError::Stopping)? })
    }

    /// Vouches for the last group of an idle lane, so that damage to it cannot pass for a torn tail. Everything that was
    /// queued before is decided when this returns.
    pub(crate) async fn vouch(&self) -> Result<(), AppendError> {
        let (reply, answer) = oneshot::channel();
        self.queue.send(Work::Vouch(reply)).await.map_err(|_| AppendError::Stopping)?;
        answer.await.map_err(|_| AppendError::Stopping)?
    }

    /// Everything the index lacked was put there: from here on it says that it has all of the lane.
    pub(crate) async fn indexed(&self, ending: Ending) -> Result<(), AppendError> {
        let (reply, answer) = oneshot::channel();
        let work = Work::Indexed(Box::new(ending), reply);
        self.queue.send(work).await.map_err(|_| AppendError::Stopping)?;
        answer.await.map_err(|_| AppendError::Stopping)?
    }

    /// Drafts that wait for the lane to take them.
    pub(crate) fn waiting(&self) -> usize {
        self.queue.max_capacity() - self.queue.capacity()
    }

    pub(crate) fn counters(&self) -> &LaneCounters {
        &self.counters
    }
}

/// What a lane works with.
pub(crate) struct LaneParts {
    pub(crate) lane: LaneId,
    pub(crate) next: LaneSequence,
    pub(crate) segments: Arc<Segments>,
    pub(crate) manifest: Arc<Manifest>,
    pub(crate) index: Arc<dyn IndexStore>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) settings: JournalSettings,
    pub(crate) keys: Arc<Keyring>,
    pub(crate) salts: Box<dyn FnMut() -> u64 + Send>,
    /// Whether the index lacks some of what comes before `next`: then it must not be told how far the lane is.
    pub(crate) behind: bool,
}

/// What the lane wrote while the index lacked something before it.
#[derive(Default)]
struct Behind {
    tails: BTreeMap<LineId, LineTail>,
    tally: Tally,
}

/// The task that owns a lane. [`LaneTask::run`] ends when every handle is gone.
pub struct LaneTask {
    parts: LaneParts,
    queue: mpsc::Receiver<Work>,
    counters: Arc<LaneCounters>,
    pending: VecDeque<Draft>,
    segment: Option<OpenSegment>,
    /// A segment the manifest knows but whose file could not be made yet.
    unmade: Option<SegmentEntry>,
    /// Lane sequence of the last record known durable.
    durable: LaneSequence,
    /// Whether a record on the medium knows of that.
    vouched: bool,
    usage: Sampler,
    behind: Option<Behind>,
}

struct OpenSegment {
    entry: SegmentEntry,
    file: Arc<dyn FileIo>,
    /// Where the next record goes.
    end: u64,
    /// Bytes beyond `end` may hold a torn group: nothing more is written here.
    spoiled: bool,
}

impl LaneTask {
    pub(crate) fn new(parts: LaneParts) -> (Self, LaneHandle) {
        let (sender, queue) = mpsc::channel(QUEUE_DRAFTS);
        let counters = Arc::new(LaneCounters::default());
        let handle = LaneHandle { queue: sender, counters: Arc::clone(&counters) };
        let durable = LaneSequence::new(parts.next.number().strict_sub(1));
        let behind = parts.behind.then(Behind::default);
        let task = Self {
            parts,
            behind,
            queue,
            counters,
            pending: VecDeque::new(),
            segment: None,
            unmade: None,
            durable,
            vouched: true,
            usage: Sampler::default(),
        };
        (task, handle)
    }

    /// Works until every handle is gone.
    pub async fn run(mut self) {
        loop {
            if self.pending.is_empty() {
                match self.queue.recv().await {
                    Some(work) => self.receive(work).await,
                    None => return,
                }
            }
            while let Ok(work) = self.queue.try_recv() {
                self.receive(work).await;
                if self.pending.len() >= QUEUE_DRAFTS {
                    break;
                }
            }
            if !self.pending.is_empty() {
                self.write_group().await;
            }
        }
    }

    async fn receive(&mut self, work: Work) {
        match work {
            Work::Append(draft) => self.pending.push_back(draft),
            Work::Vouch(reply) => {
                while !self.pending.is_empty() {
                    self.write_group().await;
                }
                let done = self.write_vouch().await;
                // Whoever asked may have gone away.
                let _ = reply.send(done);
            }
            Work::Indexed(ending, reply) => {
                let told = self.catch_up(*ending).await;
                // As above.
                let _ = reply.send(told);
            }
        }
    }

    /// Tells the index of the lane what was left out while it lacked something, all at once.
    async fn catch_up(&mut self, ending: Ending) -> Result<(), AppendError> {
        if let Some(reason) = self.counters.failed.get() {
            return Err(AppendError::Failed(reason.clone()));
        }
        let Some(behind) = self.behind.take() else { return Ok(()) };
        let (lane, durable, index) = (self.parts.lane, self.durable, Arc::clone(&self.parts.index));
        let since = behind.tally.into_taken();
        let told = offload(move || {
            let (mut batch, usage) = ending.entries(&*index, &since)?;
            for (line, tail) in &behind.tails {
                put_tail(&mut batch, *line, tail);
            }
            put_progress(&mut batch, lane, durable);
            index.write(batch).map(|()| usage)
        });
        self.usage = told.await.map_err(|error| self.poison(&error))?;
        Ok(())
    }

    /// Decide, do, complete: one group.
    async fn write_group(&mut self) {
        self.begin_aborts().await;
        if self.pending.is_empty() {
            return;
        }
        let needed = self
            .pending
            .front()
            .map_or(0, |draft| draft.room_bytes(self.parts.keys.seals(draft.line.machine())));
        match self.make_room(needed).await {
            Ok(()) => {}
            Err(AppendError::Shape) => {
                if let Some(draft) = self.pending.pop_front() {
                    draft.refuse(AppendError::Shape);
                }
                return;
            }
            Err(error) => {
                self.refuse_pending(&error);
                return;
            }
        }
        let room = self.segment.as_ref().map_or(0, OpenSegment::room).min(GROUP_BYTES);
        let mut plan = Plan::new(self.parts.clock.now(), room, Arc::clone(&self.parts.keys));
        while let Some(draft) = self.pending.pop_front() {
            if let Taken::Full(draft) = plan.take(draft) {
                self.pending.push_front(draft);
                break;
            }
        }
        if plan.is_empty() {
            return;
        }
        let begun = self.parts.clock.uptime();
        let mut layout = self.lay_out(plan).await;
        match self.write_layout(&mut layout).await {
            Ok(offset) => self.complete(layout, offset).await,
            Err(error) => return layout.refuse(&error),
        }
        let took = self.parts.clock.uptime().saturating_sub(begun);
        let took = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.counters.busy_nanoseconds.fetch_add(took, Ordering::Relaxed);
    }

    /// Seals what is to be sealed, off the I/O core if it is much.
    async fn lay_out(&self, plan: Plan) -> Layout {
        let (first, durable) = (self.durable.next(), self.durable);
        let place = self.segment.as_ref().expect("room was made").place();
        if plan.sealed_bytes() <= SEAL_INLINE_BYTES {
            return plan.lay_out((first, durable), place);
        }
        offload(move || plan.lay_out((first, durable), place)).await
    }

    fn refuse_pending(&mut self, error: &AppendError) {
        self.refuse_those(error, |_| true);
    }

    /// Refuses those that wait and are `refused`; the others wait on.
    fn refuse_those(&mut self, error: &AppendError, refused: impl Fn(&Draft) -> bool) {
        for draft in std::mem::take(&mut self.pending) {
            if !refused(&draft) {
                self.pending.push_back(draft);
                continue;
            }
            if matches!(error, AppendError::JournalFull { .. }) {
                self.counters.refused_full.fetch_add(1, Ordering::Relaxed);
            }
            draft.refuse(error.clone());
        }
    }

    /// Writes and flushes the group, and what aborts some of it; gives its offset in the segment. Both stand in it, or neither does:
    /// the group has no end before what was aborted is void.
    async fn write_layout(&mut self, layout: &mut Layout) -> Result<u64, AppendError> {
        self.write_durably(layout, 0).await?;
        let (group, written) = (layout.bytes, layout.records.len() as u64);
        let last = LaneSequence::new(self.durable.number() + written);
        if layout.decide((last.next(), last)) {
            self.write_durably(layout, group).await?;
        }
        let records = layout.records.len() as u64;
        let segment = self.segment.as_mut().expect("room was made");
        let offset = segment.end;
        segment.end += layout.bytes;
        self.durable = LaneSequence::new(self.durable.number() + records);
        self.vouched = false;
        self.counters.bytes.fetch_add(layout.bytes, Ordering::Relaxed);
        self.counters.records.fetch_add(records, Ordering::Relaxed);
        self.counters.aborts.fetch_add(records - written, Ordering::Relaxed);
        Ok(offset)
    }

    /// Writes and flushes the records of the group from byte `from` on.
    async fn write_durably(&mut self, layout: &Layout, from: u64) -> Result<(), AppendError> {
        let segment = self.segment.as_mut().expect("room was made");
        let length = usize::try_from(layout.bytes - from).expect("a group fits memory");
        let mut bytes = Buffer::zeroed(length);
        layout.encode(from, segment.entry.salt, &mut bytes);
        let written = match segment.file.write_at(segment.end + from, bytes).await {
            Ok(_) => segment.file.flush().await,
            Err(error) => Err(error),
        };
        match written {
            Ok(()) => {
                self.counters.flushes.fetch_add(1, Ordering::Relaxed);
                Ok(())
            }
            Err(FileError::NoSpace { .. }) => Err(self.spoil(layout).await),
            Err(error) => Err(self.poison(&error)),
        }
    }

    /// Some of the group may be on the medium, and there is no space for the rest. Whoever has aborted some of it goes on as if that had
    /// never been: so it must be certain that no start takes it for written.
    async fn spoil(&mut self, layout: &Layout) -> AppendError {
        let segment = self.segment.as_mut().expect("room was made");
        let ended = self.parts.manifest.append(vec![segment.ended(self.durable)]).await;
        match ended {
            Ok(()) => {
                self.segment = None;
                self.vouched = true;
            }
            Err(ManifestError::File(FileError::NoSpace { .. })) if !layout.may_be_aborted() => {
                segment.spoiled = true;
            }
            Err(error) => return self.poison(&error),
        }
        self.journal_full().await
    }

    /// Programs that do not know aborts must not read a journal that has one: said before the first group of which something can be
    /// aborted, while nothing of it is on the medium.
    async fn begin_aborts(&mut self) {
        let may_be_aborted = |draft: &Draft| draft.ticket.is_some();
        let failed = self.counters.failed.get().is_some();
        let due = !failed && self.pending.iter().any(may_be_aborted);
        if !due || self.parts.manifest.state().has_aborts {
            return;
        }
        let error = match self.parts.manifest.append(vec![ManifestRecord::AbortsBegun]).await {
            Ok(()) => return,
            Err(ManifestError::File(FileError::NoSpace { .. })) => self.journal_full().await,
            Err(error) => self.poison(&error),
        };
        self.refuse_those(&error, may_be_aborted);
    }

    /// Indexes the durable group, shows it to its lines, acknowledges it.
    async fn complete(&mut self, layout: Layout, offset: u64) {
        let place = self.segment.as_ref().expect("it was just written to").place();
        let place = GroupPlace { offset, ..place };
        let mut batch = IndexBatch::default();
        for laid in &layout.records {
            let at = offset + laid.offset;
            let segment = (place.segment, place.salt);
            index_record(&mut batch, &laid.record, segment, at, &laid.checksums);
        }
        let sizes = layout
            .records
            .iter()
            .map(|laid| ((laid.record.line, laid.record.sequence), laid.record.length_bytes()));
        let mut noted = Vec::new();
        let tails = layout.tails.iter().map(|(line, (_, tail))| (*line, *tail));
        match &mut self.behind {
            Some(behind) => {
                behind.tails.extend(tails);
                sizes.for_each(|(at, bytes)| behind.tally.note(at, bytes));
            }
            None => {
                tails.for_each(|(line, tail)| put_tail(&mut batch, line, &tail));
                put_progress(&mut batch, self.parts.lane, self.durable);
                noted.extend(sizes);
            }
        }
        let index = Arc::clone(&self.parts.index);
        let mut usage = std::mem::take(&mut self.usage);
        let indexed = offload(move || {
            let counted = noted
                .into_iter()
                .try_for_each(|(at, bytes)| usage.note(&*index, &mut batch, at, bytes));
            (counted.and_then(|()| index.write(batch)), usage)
        });
        let (indexed, usage) = indexed.await;
        self.usage = usage;
        if let Err(error) = indexed {
            let error = self.poison(&error);
            layout.refuse(&error);
            return;
        }
        for (id, (line, tail)) in &layout.tails {
            let (points, changes) = layout.news_of(*id, place);
            line.publish(*tail, points, &changes);
        }
        layout.acknowledge();
    }

    async fn write_vouch(&mut self) -> Result<(), AppendError> {
        if let Some(reason) = self.counters.failed.get() {
            return Err(AppendError::Failed(reason.clone()));
        }
        if self.vouched {
            return Ok(());
        }
        let Some(segment) = self.segment.as_ref().filter(|segment| !segment.spoiled) else {
            return Ok(());
        };
        let record = Record::vouch(self.durable.next(), self.durable);
        let length = record.length_bytes();
        if segment.room() < length {
            // The segment is all but full; its logged end will vouch for it.
            return Ok(());
        }
        let mut bytes = Buffer::zeroed(usize::try_from(length).expect("one block"));
        record.encode(segment.entry.salt, &mut bytes);
        let written = match segment.file.write_at(segment.end, bytes).await {
            Ok(_) => segment.file.flush().await,
            Err(error) => Err(error),
        };
        if let Err(error) = written {
            return Err(self.poison(&error));
        }
        if let Some(segment) = &mut self.segment {
            segment.end += length;
        }
        self.durable = self.durable.next();
        self.vouched = true;
        Ok(())
    }

    /// Sees to it that the open segment has room for `bytes`.
    async fn make_room(&mut self, bytes: u64) -> Result<(), AppendError> {
        if let Some(reason) = self.counters.failed.get() {
            return Err(AppendError::Failed(reason.clone()));
        }
        let fits = |segment: &OpenSegment| !segment.spoiled && segment.room() >= bytes;
        if self.segment.as_ref().is_some_and(fits) {
            return Ok(());
        }
        if bytes > self.parts.settings.segment_bytes - SEGMENT_HEADER_BYTES {
            return Err(AppendError::Shape);
        }
        let needed = self.parts.settings.segment_bytes + self.parts.settings.reserve_bytes;
        let free = self.parts.segments.folder().free_bytes().await.map_err(|e| self.poison(&e))?;
        if free < needed {
            return Err(AppendError::JournalFull { free_bytes: free, needed_bytes: needed });
        }
        let entry = match self.unmade {
            Some(entry) => entry,
            None => self.log_new_segment().await?,
        };
        match self.parts.segments.create(&entry, self.parts.clock.now()).await {
            Ok(file) => {
                self.unmade = None;
                let end = SEGMENT_HEADER_BYTES;
                self.segment = Some(OpenSegment { entry, file, end, spoiled: false });
                Ok(())
            }
            Err(FileError::NoSpace { .. }) => Err(self.journal_full().await),
            Err(error) => Err(self.poison(&error)),
        }
    }

    /// Logs the end of the present segment and the birth of the next: from here on nothing beyond the end is parsed.
    async fn log_new_segment(&mut self) -> Result<SegmentEntry, AppendError> {
        let ended = self.segment.as_ref().map(|segment| segment.ended(self.durable));
        let (lane, first) = (self.parts.lane, self.durable.next());
        let (size_bytes, salt) = (self.parts.settings.segment_bytes, (self.parts.salts)());
        let logged = self.parts.manifest.change(|state| {
            let entry = new_entry(state.given.segment.next(), lane, first, size_bytes, salt);
            let born =
                ManifestRecord::SegmentBorn { segment: entry.id, lane, salt, first, size_bytes };
            let records = ended.into_iter().chain([born]).collect();
            Ok::<_, ManifestError>((records, entry))
        });
        match logged.await {
            Ok(entry) => {
                self.segment = None;
                self.vouched = true;
                self.unmade = Some(entry);
                Ok(entry)
            }
            Err(ManifestError::File(FileError::NoSpace { .. })) => Err(self.journal_full().await),
            Err(error) => Err(self.poison(&error)),
        }
    }

    async fn journal_full(&mut self) -> AppendError {
        let needed = self.parts.settings.segment_bytes + self.parts.settings.reserve_bytes;
        match self.parts.segments.folder().free_bytes().await {
            Ok(free) => AppendError::JournalFull { free_bytes: free, needed_bytes: needed },
            Err(error) => self.poison(&error),
        }
    }

    fn poison(&mut self, error: &dyn std::fmt::Display) -> AppendError {
        let reason = error.to_string();
        tracing::error!(lane = %self.parts.lane, %reason, "journal lane failed, refusing writes");
        // The first failure is the one that matters; later ones follow from it.
        AppendError::Failed(self.counters.failed.get_or_init(|| reason).clone())
    }
}

impl OpenSegment {
    /// Where the next group goes.
    fn place(&self) -> GroupPlace {
        GroupPlace { segment: self.entry.id, salt: self.entry.salt, offset: self.end }
    }

    /// What says that it ends behind `durable`.
    fn ended(&self, durable: LaneSequence) -> ManifestRecord {
        ManifestRecord::SegmentEnded { segment: self.entry.id, end: self.end, next: durable.next() }
    }

    fn room(&self) -> u64 {
        self.entry.size_bytes - self.end
    }
}
