//! Order: a source that delivers its writes in the order in which they were made, and what it is told by whom.
//!
//! ```text
//!   mark that begins order ─▶ point ─▶ ORDERED on record ─▶ batches, each a boundary ─▶ …
//!                                                                     │ a pass, a fuzzy mark, a break, an error
//!   batches that are none  ◀─ CATCHUP on record ◀─ all before decided ┘
//! ```
//!
//! Each batch is taken for the writes of one instant: what the disks hold after it, they held at the source. **Invariant:**
//! no batch goes to the lane between a mark that begins order and the record of that, nor between the end of order and
//! its record. So whatever the state on record calls ordered are boundaries, through every crash; should the source be
//! gone before it could say that order has ended, whoever opens the stream next, or the next start, does.

use super::state::{Opening, StreamState};
use super::{Mark, Order, Stream, StreamError};
use crate::ids::{LineId, Position, Sequence};
use crate::journal::draft::Committed;
use crate::line::Line;
use crate::manifest::record::ManifestRecord;
use crate::manifest::state::ManifestState;
use crate::manifest::streams::StreamChange;
use crate::manifest::{Manifest, ManifestError};
use crate::name::Label;
use crate::point::{Point, PointKind};
use crate::time::Timestamp;

/// When a source that delivers its writes in order tells whoever made them that they are done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WriteOrder {
    /// Whenever it likes; the target comes behind. Such a stream says nothing about when those of others were made.
    Asynchronous,
    /// After the target has acknowledged them, as a synchronous mirror does. Whatever somebody made because of such a write
    /// comes here after it, by whichever stream: so a barrier may hold several of them at one moment.
    Synchronous,
}

impl Stream {
    /// Makes a point like [`Self::mark`]. From there on the source delivers every write, in order, and puts together in one
    /// batch only what may come to be at once: each batch is a boundary until order ends.
    pub async fn mark_in_order(
        &self,
        position: Position,
        kind: PointKind,
        label: Option<Label>,
        source_time: Timestamp,
        write_order: WriteOrder,
    ) -> Result<Point, StreamError> {
        let mark = Mark { kind, label, source_time };
        self.note_failure(self.begin_order(Some(position), mark, write_order).await)
    }

    /// The same at whatever position is next, of writes that are done when the target has them.
    pub(crate) async fn order_next(
        &self,
        kind: PointKind,
        label: Option<Label>,
    ) -> Result<Point, StreamError> {
        let mark = Mark { kind, label, source_time: self.parts.clock.now() };
        self.note_failure(self.begin_order(None, mark, WriteOrder::Synchronous).await)
    }

    /// Ends order, if it stands: batches from here on are parts of a pass. Durable on return.
    pub async fn end_order(&self) -> Result<(), StreamError> {
        let mut order = self.order.lock().await;
        let ended = self.leave_order(&mut order).await;
        self.note_failure(ended)
    }

    /// What the stream is at.
    pub fn state(&self) -> Option<StreamState> {
        let state = self.parts.manifest.state();
        let change = state.lines.get(&self.parts.line.id())?.stream_entry.state?;
        Some(change.state)
    }

    async fn begin_order(
        &self,
        position: Option<Position>,
        mark: Mark,
        write_order: WriteOrder,
    ) -> Result<Point, StreamError> {
        if !mark.kind.is_consistent() {
            return Err(StreamError::OrderAtFuzzy);
        }
        self.check_whole()?;
        let Mark { kind, label, source_time } = &mark;
        let (kind, label, source_time) = (*kind, label.clone(), *source_time);
        // Held until it is on record: a batch that came in between would be no boundary.
        let mut order = self.order.lock().await;
        let position = position.unwrap_or(order.next);
        let Committed { sequence, commit_time } =
            self.enqueue_mark(&mut order, position, mark).await?.await?;
        self.note_applied_in(&mut order, position);
        if order.in_order.is_none() {
            self.change_state(&[StreamState::Catchup, StreamState::Ordered], sequence).await?;
        }
        order.in_order = Some(write_order);
        Ok(Point { sequence, commit_time, source_time, kind, label })
    }

    /// That every disk of the machine comes with the stream.
    fn check_whole(&self) -> Result<(), StreamError> {
        let state = self.parts.manifest.state();
        let mine = |id| self.parts.disks.iter().any(|disk| disk.id() == id);
        let machine = self.parts.line.machine();
        let there = state.disks.values().filter(|disk| disk.machine == machine);
        let mut there = there.filter(|disk| disk.span.until.is_none());
        match there.find(|disk| !mine(disk.id)) {
            Some(disk) => Err(StreamError::OrderWithout { disk: disk.name.clone() }),
            None => Ok(()),
        }
    }

    /// Ends order before anything else goes to the lane.
    pub(super) async fn leave_order(&self, order: &mut Order) -> Result<(), StreamError> {
        if order.in_order.is_none() {
            return Ok(());
        }
        // Should it fail, the stream has failed with it, and nothing follows.
        order.in_order = None;
        // Everything that was queued in order is decided when this returns.
        self.parts.lane.vouch().await?;
        let last = self.parts.line.tail().sequence;
        self.change_state(&[StreamState::Catchup], last).await
    }

    /// A mark was made: a pass has ended.
    pub(super) async fn note_mark(&self) -> Result<(), StreamError> {
        match self.state() {
            Some(StreamState::Catchup | StreamState::Ordered) => Ok(()),
            _ => {
                let at = self.parts.line.tail().sequence;
                self.change_state(&[StreamState::Catchup], at).await
            }
        }
    }

    /// Puts the states that the stream passes through on record. One that was taken over has nothing to say any more.
    async fn change_state(&self, to: &[StreamState], at: Sequence) -> Result<(), StreamError> {
        let (line, now) = (&self.parts.line, self.parts.clock.now());
        let turn = (self.parts.generation, self.parts.epoch);
        let changed = self.parts.manifest.change(|state| {
            if line.stream_turn() != turn {
                return Err(StreamError::TakenOver);
            }
            Ok((changes(state, line.id(), to, (at, now))?, ()))
        });
        changed.await?;
        take_over(&self.parts.manifest, line);
        Ok(())
    }
}

/// Records of a stream that comes to be at one state after another.
fn changes(
    state: &ManifestState,
    line: LineId,
    to: &[StreamState],
    (at, time): (Sequence, Timestamp),
) -> Result<Vec<ManifestRecord>, StreamError> {
    let entry = state.lines.get(&line).and_then(|entry| entry.stream_entry.state);
    let mut present = entry.map(|entry| entry.state);
    let mut records = Vec::new();
    for to in to.iter().copied() {
        if present == Some(to) {
            continue;
        }
        present.map_or(Ok(()), |present| present.check_change(to))?;
        let change = StreamChange { state: to, at, time };
        records.push(ManifestRecord::StreamChanged { line, change });
        present = Some(to);
    }
    Ok(records)
}

/// The line learns what is on record of its ordered stretches.
fn take_over(manifest: &Manifest, line: &Line) {
    if let Some(entry) = manifest.state().lines.get(&line.id()) {
        line.set_ordered(entry);
    }
}

/// Records that the order of a trunk has ended, if it stands: `last` is its newest boundary.
pub(crate) async fn settle_order(
    manifest: &Manifest,
    line: &Line,
    last: Option<Sequence>,
    now: Timestamp,
) -> Result<(), ManifestError> {
    manifest
        .change(|state| {
            let entry = state.lines.get(&line.id()).map(|entry| &entry.stream_entry);
            let open = entry.and_then(|entry| entry.ordered.open_since());
            let record = open.map(|first| ManifestRecord::StreamChanged {
                line: line.id(),
                change: StreamChange {
                    state: StreamState::Catchup,
                    at: last.map_or(first, |last| last.max(first)),
                    time: now,
                },
            });
            Ok::<_, ManifestError>((record.into_iter().collect(), ()))
        })
        .await?;
    take_over(manifest, line);
    Ok(())
}

/// Records what a stream is at when a source has opened it.
pub(crate) async fn note_opening(
    manifest: &Manifest,
    line: &Line,
    opening: Opening,
    now: Timestamp,
) -> Result<(), StreamError> {
    let at = line.tail().sequence;
    manifest
        .change(|state| {
            let entry = state.lines.get(&line.id()).and_then(|entry| entry.stream_entry.state);
            let opened = StreamState::when_opened(entry.map(|entry| entry.state), opening);
            Ok((changes(state, line.id(), &[opened], (at, now))?, ()))
        })
        .await
}
