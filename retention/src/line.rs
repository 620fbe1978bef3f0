//! Lines: the trunk of a group and its branches, as they stand now.
//!
//! A line's tail moves only in its lane, after a record is durable and indexed; everything else reads it. Lock order:
//! `state` before the slots of `head`; neither is held across an await.

use crate::fold::FoldProgress;
use crate::ids::{Generation, GroupId, LaneId, LineId, MachineId, Sequence};
use crate::index::tail_key::LineTail;
use crate::leaf::{HeadChange, HeadLeaves, Layer};
use crate::lease::{Gone, Holder};
use crate::manifest::dropped::Dropped;
use crate::manifest::history::HistoryStart;
use crate::manifest::state::LineEntry;
use crate::moments::Moments;
use crate::ordered::Ordered;
use crate::point::{Catalogue, Point};
use crate::policy::DropRange;
use crate::space::Allowance;
use crate::time::Timestamp;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;

/// A writable history.
pub struct Line {
    id: LineId,
    machine: MachineId,
    group: GroupId,
    lane: LaneId,
    /// Where it starts; `None` for a trunk.
    origin: Option<(Arc<Line>, Sequence)>,
    born: Timestamp,
    state: Mutex<LineState>,
    pub(crate) head: HeadLeaves,
    /// Held by the one fold there may be.
    pub(crate) folding: tokio::sync::Mutex<()>,
    /// Held shared by whoever marks by hand, and whole while a disk grows or goes: that happens between two points.
    pub(crate) shape: tokio::sync::RwLock<()>,
    fold_progress: Mutex<Option<FoldProgress>>,
    /// Of a trunk: what its group may still take, where it has a quota.
    allowance: Mutex<Option<Arc<Allowance>>>,
}

/// What changes as the line grows.
#[derive(Debug, Default, Clone)]
pub(crate) struct LineState {
    pub(crate) tail: LineTail,
    pub(crate) catalogue: Catalogue,
    /// Lost sequences, in order.
    pub(crate) gaps: Vec<Sequence>,
    /// Moments that cannot be chosen any more: those of the manifest, and what is just being dropped.
    pub(crate) dropped: Arc<Dropped>,
    /// Stretches of a trunk that came in order: those of the manifest.
    pub(crate) ordered: Arc<Ordered>,
    /// Generation whose stream may write.
    pub(crate) generation: Generation,
    /// Raised each time the stream is opened: drafts of an earlier opening are refused.
    pub(crate) epoch: u64,
    /// Set when the line was discarded.
    pub(crate) closed: bool,
    /// Where its history begins, if not with its first record.
    pub(crate) start: Option<HistoryStart>,
    /// Moments that somebody has open, and how many do.
    pub(crate) readers: BTreeMap<Sequence, usize>,
}

/// Who a line is and where it hangs.
pub(crate) struct LineIdentity {
    pub(crate) id: LineId,
    pub(crate) machine: MachineId,
    pub(crate) group: GroupId,
    pub(crate) lane: LaneId,
    pub(crate) origin: Option<(Arc<Line>, Sequence)>,
    pub(crate) born: Timestamp,
}

impl Line {
    pub(crate) fn new(identity: LineIdentity, mut state: LineState) -> Self {
        state.tail.commit_time = state.tail.commit_time.max(identity.born);
        let LineIdentity { id, machine, group, lane, origin, born } = identity;
        Self {
            id,
            machine,
            group,
            lane,
            origin,
            born,
            state: Mutex::new(state),
            head: HeadLeaves::default(),
            folding: tokio::sync::Mutex::default(),
            shape: tokio::sync::RwLock::default(),
            fold_progress: Mutex::default(),
            allowance: Mutex::default(),
        }
    }

    /// What its group may still take, where it has a quota: that of the trunk counts for its branches.
    pub(crate) fn allowance(&self) -> Option<Arc<Allowance>> {
        match &self.origin {
            Some((parent, _)) => parent.allowance(),
            None => self.allowance.lock().clone(),
        }
    }

    /// Its group counts down `allowance` from now on. Of a trunk.
    pub(crate) fn set_allowance(&self, allowance: Arc<Allowance>) {
        *self.allowance.lock() = Some(allowance);
    }

    /// Its group has no quota. Of a trunk.
    pub(crate) fn lift_allowance(&self) {
        *self.allowance.lock() = None;
    }

    /// Its id.
    pub fn id(&self) -> LineId {
        self.id
    }

    /// The machine it belongs to.
    pub fn machine(&self) -> MachineId {
        self.machine
    }

    /// Its group.
    pub fn group(&self) -> GroupId {
        self.group
    }

    /// The lane it is written through.
    pub fn lane(&self) -> LaneId {
        self.lane
    }

    /// Where it starts; `None` for a trunk.
    pub fn origin(&self) -> Option<(LineId, Sequence)> {
        self.origin.as_ref().map(|(parent, at)| (parent.id, *at))
    }

    /// What a moment of it rests on: itself on a trunk, on a branch where the trunk was left.
    pub(crate) fn on_trunk(&self, moment: Sequence) -> Sequence {
        match &self.origin {
            None => moment,
            Some((parent, origin)) => parent.on_trunk(*origin),
        }
    }

    /// When the moment it starts from was committed; zero for a trunk.
    pub fn born(&self) -> Timestamp {
        self.born
    }

    /// Whether it is a branch.
    pub fn is_branch(&self) -> bool {
        self.origin.is_some()
    }

    /// The end of it: last sequence, its time, stream position.
    pub fn tail(&self) -> LineTail {
        self.state.lock().tail
    }

    /// Generation whose stream may write.
    pub fn generation(&self) -> Generation {
        self.state.lock().generation
    }

    /// Generation and opening whose drafts the lane accepts.
    pub(crate) fn stream_turn(&self) -> (Generation, u64) {
        let state = self.state.lock();
        (state.generation, state.epoch)
    }

    /// Begins a new opening of the stream; drafts of earlier ones are refused from here on.
    pub(crate) fn begin_epoch(&self) -> u64 {
        let mut state = self.state.lock();
        state.epoch += 1;
        state.epoch
    }

    pub(crate) fn set_generation(&self, generation: Generation) {
        self.state.lock().generation = generation;
    }

    /// Whether it was discarded.
    pub fn is_closed(&self) -> bool {
        self.state.lock().closed
    }

    pub(crate) fn close(&self) {
        self.state.lock().closed = true;
    }

    /// Whether its last record is no boundary: the disks are between two states.
    pub(crate) fn is_in_pass(&self) -> bool {
        let state = self.state.lock();
        let tail = state.tail.sequence;
        let at_point = state.catalogue.at(tail).is_some_and(|point| point.kind.is_consistent());
        !self.is_branch() && !at_point && !state.ordered.contains(tail)
    }

    /// Whether nothing came to it since a point, of whatever kind.
    pub(crate) fn is_at_mark(&self) -> bool {
        let state = self.state.lock();
        state.catalogue.at(state.tail.sequence).is_some()
    }

    /// When the newest moment of a trunk was committed, as far as it is known without the index.
    pub(crate) fn newest_moment(&self) -> Option<Timestamp> {
        let state = self.state.lock();
        let tail = state.tail;
        if state.ordered.contains(tail.sequence) {
            return Some(tail.commit_time);
        }
        state.catalogue.latest().map(|point| point.commit_time)
    }

    /// Stretches of it that came in order.
    pub(crate) fn ordered(&self) -> Arc<Ordered> {
        Arc::clone(&self.state.lock().ordered)
    }

    /// Takes over what is on record of its ordered stretches.
    pub(crate) fn set_ordered(&self, entry: &LineEntry) {
        self.state.lock().ordered = Arc::clone(&entry.stream_entry.ordered);
    }

    /// Whether records of it were lost: what they wrote is not known.
    pub(crate) fn has_gaps(&self) -> bool {
        !self.state.lock().gaps.is_empty()
    }

    /// A question to its catalogue of points.
    pub fn points<T>(&self, ask: impl FnOnce(&Catalogue) -> T) -> T {
        ask(&self.state.lock().catalogue)
    }

    /// Where its history begins, if anything older was folded.
    pub(crate) fn start(&self) -> Option<HistoryStart> {
        self.state.lock().start.clone()
    }

    /// Counts a reader of `sequence`, unless it is gone.
    pub(crate) fn note_reader(&self, sequence: Sequence) -> Result<(), Gone> {
        let mut state = self.state.lock();
        if let Some(start) = state.start.as_ref().filter(|start| sequence < start.sequence) {
            return Err(Gone::BeforeHistory(start.clone()));
        }
        if state.dropped.contains(sequence) {
            return Err(Gone::Dropped);
        }
        *state.readers.entry(sequence).or_default() += 1;
        Ok(())
    }

    pub(crate) fn forget_reader(&self, sequence: Sequence) {
        let mut state = self.state.lock();
        let Some(readers) = state.readers.get_mut(&sequence) else { return };
        *readers -= 1;
        if *readers == 0 {
            state.readers.remove(&sequence);
        }
    }

    /// Those who read moments below `floor`.
    pub(crate) fn readers_below(&self, floor: Sequence) -> Vec<Holder> {
        self.state.lock().readers.range(..floor).map(|(at, _)| Holder::Reader(*at)).collect()
    }

    /// Moves the start of history up if nobody reads what lies below it: from here on nobody can open that.
    pub(crate) fn move_start(&self, start: HistoryStart) -> Result<(), Vec<Holder>> {
        let mut state = self.state.lock();
        let readers: Vec<_> =
            state.readers.range(..start.sequence).map(|(at, _)| Holder::Reader(*at)).collect();
        if !readers.is_empty() {
            return Err(readers);
        }
        state.start = Some(start);
        Ok(())
    }

    /// Puts the start where it durably is, should a move have failed.
    pub(crate) fn reset_start(&self, start: Option<HistoryStart>) {
        self.state.lock().start = start;
    }

    /// How far the fold that is under way is.
    pub(crate) fn fold_progress(&self) -> Option<FoldProgress> {
        self.fold_progress.lock().clone()
    }

    pub(crate) fn note_fold(&self, progress: Option<FoldProgress>) {
        *self.fold_progress.lock() = progress;
    }

    /// Takes the points below the start off the catalogue, once the move is durable.
    pub(crate) fn drop_folded_points(&self) {
        let mut state = self.state.lock();
        if let Some(start) = state.start.clone() {
            state.catalogue.drop_below(start.sequence);
        }
    }

    /// Whether there are more moments than points: every write of a branch can be returned to, and every one of an ordered
    /// stretch of a trunk.
    pub(crate) fn has_instants(&self) -> bool {
        self.is_branch() || !self.state.lock().ordered.is_empty()
    }

    /// The moments of it that can be looked at; `entry` says what was durably dropped, and `held` has those that the manifest
    /// keeps for others. Of a trunk every moment is a point, one where its history begins, held, or an instant of an ordered
    /// stretch.
    pub(crate) fn moments(
        &self,
        entry: &LineEntry,
        held: impl Iterator<Item = Sequence>,
    ) -> Moments {
        let state = self.state.lock();
        let through = state.tail.sequence;
        if self.is_branch() {
            return Moments::all_but(Arc::clone(&entry.dropped), through);
        }
        let start = state.start.as_ref().map(|start| start.sequence);
        let recorded = entry.start.as_ref().map(|start| start.sequence);
        let points = state.catalogue.sequences().chain(start).chain(recorded);
        let all = points.chain(entry.pins.iter().copied()).chain(state.readers.keys().copied());
        let all = all.chain(held).collect();
        // A stretch is on record before the first record of it, and ends there after the last.
        let ordered = Arc::clone(&entry.stream_entry.ordered);
        if ordered.is_empty() {
            return Moments::these(all, through);
        }
        let from = recorded.unwrap_or_default();
        Moments::these_and(all, (ordered, from), Arc::clone(&entry.dropped), through)
    }

    /// Moments that cannot be chosen any more.
    pub(crate) fn dropped(&self) -> Arc<Dropped> {
        Arc::clone(&self.state.lock().dropped)
    }

    /// Adds points that no record made: instants that are kept.
    pub(crate) fn add_points(&self, points: Vec<Point>) {
        let mut state = self.state.lock();
        let LineState { catalogue, dropped, start, .. } = &mut *state;
        let start = start.as_ref().map(|start| start.sequence).unwrap_or_default();
        let there = |point: &Point| point.sequence >= start && !dropped.contains(point.sequence);
        let there = points.into_iter().filter(there);
        there.for_each(|point| catalogue.insert(point));
    }

    /// The moments that somebody has open.
    pub(crate) fn readers(&self) -> Vec<Sequence> {
        self.state.lock().readers.keys().copied().collect()
    }

    /// Makes moments impossible to choose: from here on nobody can open them. `false`, and nothing done, if somebody
    /// has one of them open.
    pub(crate) fn begin_drop(&self, ranges: &[DropRange]) -> bool {
        let mut state = self.state.lock();
        let goes = |at: &Sequence| ranges.iter().any(|range| range.drops(*at));
        if state.readers.keys().any(goes) {
            return false;
        }
        let dropped = Arc::make_mut(&mut state.dropped);
        ranges.iter().for_each(|range| dropped.drop_all_but(range.first, range.last, &range.kept));
        true
    }

    /// Takes dropped points off the catalogue, once it is durable that they are.
    pub(crate) fn finish_drop(&self, ranges: &[DropRange]) {
        let mut state = self.state.lock();
        for range in ranges {
            let stays = |sequence| range.kept.binary_search(&sequence).is_ok();
            state.catalogue.retain(range.first..=range.last, stays);
        }
    }

    /// Puts what is dropped back to what durably is, should dropping more have failed.
    pub(crate) fn reset_dropped(&self, dropped: Option<&Arc<Dropped>>) {
        self.state.lock().dropped = dropped.cloned().unwrap_or_default();
    }

    /// What a look from `newest` sees: this line, then the ones it branched from.
    pub(crate) fn layers(&self, newest: Sequence) -> Vec<Layer> {
        let gap = {
            let state = self.state.lock();
            state.gaps.iter().rev().find(|gap| **gap <= newest).copied()
        };
        let mut layers = vec![Layer { line: self.id, newest, gap }];
        if let Some((parent, at)) = &self.origin {
            layers.extend(parent.layers(*at));
        }
        layers
    }

    /// Takes durable, indexed records into account: after this, reads of the head see them.
    pub(crate) fn publish(&self, tail: LineTail, points: Vec<Point>, changes: &[HeadChange]) {
        for change in changes {
            self.head.apply(change);
        }
        let mut state = self.state.lock();
        state.tail = tail;
        points.into_iter().for_each(|point| state.catalogue.insert(point));
    }
}
