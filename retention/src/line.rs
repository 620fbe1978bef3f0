//! Lines: the trunk of a group and its branches, as they stand now.
//!
//! A line's tail moves only in its lane, after a record is durable and indexed; everything else reads it. Where it hangs
//! changes when a branch is promoted, and then reads on it see what they saw. Lock order: `state` of a branch before that of
//! the lines below it, `state` before `ancestry` and the slots of `head`; none is held across an await.

use crate::ancestry::Ancestry;
use crate::fold::FoldProgress;
use crate::ids::{Generation, GroupId, LaneId, LineId, MachineId, Sequence};
use crate::index::tail_key::LineTail;
use crate::journal::draft::{AppendError, DraftOrigin};
use crate::leaf::{HeadChange, HeadLeaves, Layer};
use crate::lease::{Gone, Holder};
use crate::manifest::dropped::Dropped;
use crate::manifest::history::HistoryStart;
use crate::manifest::lineage::Stretch;
use crate::manifest::state::LineEntry;
use crate::moments::Moments;
use crate::ordered::Ordered;
use crate::point::{Catalogue, Point};
use crate::policy::DropRange;
use crate::rebuild::{Lacking, NotIndexed};
use crate::replica::span::Place;
use crate::space::Allowance;
use crate::time::Timestamp;
use parking_lot::{Mutex, RwLock};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// A writable history.
pub struct Line {
    id: LineId,
    machine: MachineId,
    group: AtomicU32,
    lane: LaneId,
    ancestry: RwLock<Ancestry>,
    state: Mutex<LineState>,
    pub(crate) head: HeadLeaves,
    shared: Arc<LineShared>,
}

/// What all lines of a machine have together.
#[derive(Default)]
pub(crate) struct LineShared {
    /// Held by the one fold there may be.
    pub(crate) folding: tokio::sync::Mutex<()>,
    /// Held shared by whoever marks by hand, and whole while a disk grows or goes, or a branch is promoted: that happens
    /// between two points.
    pub(crate) shape: tokio::sync::RwLock<()>,
    fold_progress: Mutex<Option<FoldProgress>>,
    /// What the group may still take, where it has a quota.
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
    /// Set while a promotion is under way, which must not miss a record.
    pub(crate) held: bool,
    /// Where its history begins, if not with its first record.
    pub(crate) start: Option<HistoryStart>,
    /// Moments that somebody has open, and how many do.
    pub(crate) readers: BTreeMap<Sequence, usize>,
    /// What the index lacks of it, if it does.
    pub(crate) lacking: Option<Lacking>,
}

impl LineState {
    /// Adds points that history reaches back to and that were not dropped.
    fn add_points(&mut self, points: impl IntoIterator<Item = Point>) {
        let Self { catalogue, dropped, start, .. } = self;
        let start = start.as_ref().map(|start| start.sequence).unwrap_or_default();
        let there = |point: &Point| point.sequence >= start && !dropped.contains(point.sequence);
        points.into_iter().filter(there).for_each(|point| catalogue.insert(point));
    }

    /// Takes points, readers and gaps up to `left` from another line.
    fn take_up_to(&mut self, left: Sequence, other: &mut Self) {
        let after = left.next();
        let later = other.readers.split_off(&after);
        for (sequence, count) in std::mem::replace(&mut other.readers, later) {
            *self.readers.entry(sequence).or_default() += count;
        }
        let points = other.catalogue.iter().take_while(|point| point.sequence <= left);
        points.for_each(|point| self.catalogue.insert(point));
        other.catalogue.drop_below(after);
        let later = other.gaps.partition_point(|gap| *gap <= left);
        self.gaps.extend(other.gaps.drain(..later));
    }
}

impl Line {
    /// A line as the manifest has it; `parent` is the line it starts from.
    pub(crate) fn new(entry: &LineEntry, parent: Option<&Arc<Line>>, mut state: LineState) -> Self {
        state.tail.sequence = state.tail.sequence.max(entry.own_above());
        state.tail.commit_time = state.tail.commit_time.max(entry.born);
        Self {
            id: entry.id,
            machine: entry.machine,
            group: AtomicU32::new(entry.group.number()),
            lane: entry.lane,
            ancestry: RwLock::new(Ancestry::of(entry, parent)),
            state: Mutex::new(state),
            head: HeadLeaves::default(),
            shared: parent.map(|parent| Arc::clone(&parent.shared)).unwrap_or_default(),
        }
    }

    /// It starts from another line now, where what it started from is now; nothing else changes.
    pub(crate) fn hang(&self, entry: &LineEntry, parent: Option<&Arc<Line>>) {
        *self.ancestry.write() = Ancestry::of(entry, parent);
    }

    pub(crate) fn ancestry(&self) -> Ancestry {
        self.ancestry.read().clone()
    }

    /// What all lines of its machine have together.
    pub(crate) fn shared(&self) -> &LineShared {
        &self.shared
    }

    /// What its group may still take, where it has a quota.
    pub(crate) fn allowance(&self) -> Option<Arc<Allowance>> {
        self.shared.allowance.lock().clone()
    }

    /// Its group counts down `allowance` from now on.
    pub(crate) fn set_allowance(&self, allowance: Arc<Allowance>) {
        *self.shared.allowance.lock() = Some(allowance);
    }

    /// Its group has no quota.
    pub(crate) fn lift_allowance(&self) {
        *self.shared.allowance.lock() = None;
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
        GroupId::new(self.group.load(Ordering::Relaxed))
    }

    /// Its machine is in this group from now on.
    pub(crate) fn set_group(&self, group: GroupId) {
        self.group.store(group.number(), Ordering::Relaxed);
    }

    /// The lane it is written through.
    pub fn lane(&self) -> LaneId {
        self.lane
    }

    /// Where it starts; `None` for a trunk.
    pub fn origin(&self) -> Option<(LineId, Sequence)> {
        self.ancestry.read().origin.as_ref().map(|(parent, at)| (parent.id, *at))
    }

    /// Where its history begins: at its origin, or at zero.
    pub(crate) fn base(&self) -> Sequence {
        self.ancestry.read().base
    }

    /// Where a moment of it lies in the tree of lines.
    pub(crate) fn place(&self, moment: Sequence) -> Place {
        let mut place = Vec::new();
        let (mut id, mut ancestry, mut moment) = (self.id, self.ancestry(), moment);
        loop {
            let above = ancestry.above(moment);
            if moment >= ancestry.base || above.is_none() {
                place.push((id, moment));
            }
            let Some((parent, left)) = above else { return Place::new(place) };
            (id, moment, ancestry) = (parent.id, left, parent.ancestry());
        }
    }

    /// When the moment it starts from was committed; zero for a trunk.
    pub fn born(&self) -> Timestamp {
        self.ancestry.read().born
    }

    /// Whether it is a branch.
    pub fn is_branch(&self) -> bool {
        self.ancestry.read().origin.is_some()
    }

    /// Whether it was a trunk until a branch was promoted, and takes no more records.
    pub fn is_sealed(&self) -> bool {
        self.ancestry.read().sealed
    }

    /// Takes no records of its own, marks aside, until it is let go.
    pub(crate) fn hold_back(&self, held: bool) {
        self.state.lock().held = held;
    }

    /// Why it takes no record of this kind, if that is so.
    pub(crate) fn refusal(&self, origin: DraftOrigin) -> Option<AppendError> {
        let (held, sealed) = (self.state.lock().held, self.is_sealed());
        if sealed || (held && !matches!(origin, DraftOrigin::Promotion)) {
            return Some(AppendError::Promoted);
        }
        let local = matches!(origin, DraftOrigin::Local) && !self.is_branch();
        local.then_some(AppendError::Promoted)
    }

    /// The end of it: last sequence, its time, stream position.
    pub fn tail(&self) -> LineTail {
        self.state.lock().tail
    }

    /// That the index has all that any moment of it needs. It stays so.
    pub(crate) fn check_indexed(&self) -> Result<(), NotIndexed> {
        self.state.lock().lacking.as_ref().map_or(Ok(()), |lacking| Err(lacking.error()))
    }

    /// Whether the index has all that any moment of it needs.
    pub(crate) fn is_indexed(&self) -> bool {
        self.state.lock().lacking.is_none()
    }

    /// That it is known where it ends: whoever does not look back can go on there.
    pub(crate) fn check_tail(&self) -> Result<(), NotIndexed> {
        let state = self.state.lock();
        let lacking = state.lacking.as_ref().filter(|lacking| !lacking.tail_known);
        lacking.map_or(Ok(()), |lacking| Err(lacking.error()))
    }

    /// It was found where it ends; `found` has that, and points there are. Nothing is written to it until
    /// [`Self::tail_is_known`].
    pub(crate) fn set_tail(&self, entry: &LineEntry, found: LineState) {
        let mut state = self.state.lock();
        state.tail = found.tail;
        state.tail.sequence = state.tail.sequence.max(entry.own_above());
        state.tail.commit_time = state.tail.commit_time.max(entry.born);
        state.add_points(found.catalogue.iter());
    }

    /// Whoever does not look back can go on at its end.
    pub(crate) fn tail_is_known(&self) {
        if let Some(lacking) = &mut self.state.lock().lacking {
            lacking.tail_known = true;
        }
    }

    /// The index has all of it now; `found` is what that says. What came meanwhile stays.
    pub(crate) fn set_indexed(&self, found: &LineState) {
        let mut state = self.state.lock();
        state.add_points(found.catalogue.iter());
        state.gaps.clone_from(&found.gaps);
        state.gaps.sort_unstable();
        state.lacking = None;
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
        if let Some(parent) = self.whose(sequence) {
            drop(state);
            return parent.note_reader(sequence);
        }
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
        if let Some(parent) = self.whose(sequence) {
            drop(state);
            return parent.forget_reader(sequence);
        }
        let Some(readers) = state.readers.get_mut(&sequence) else { return };
        *readers -= 1;
        if *readers == 0 {
            state.readers.remove(&sequence);
        }
    }

    /// Whether a moment that was found on it is gone with it, or with the line that took that over.
    pub(crate) fn is_gone(&self, sequence: Sequence) -> bool {
        match self.whose(sequence) {
            Some(parent) => parent.is_gone(sequence),
            None => self.is_closed(),
        }
    }

    /// The line that took over a moment which was one of this, and the branch's origin, which is the other's moment.
    pub(crate) fn whose(&self, sequence: Sequence) -> Option<Arc<Line>> {
        let ancestry = self.ancestry.read();
        let (parent, at) = ancestry.origin.as_ref()?;
        (ancestry.base == *at && sequence <= *at).then(|| Arc::clone(parent))
    }

    /// It is the trunk from now on, as the manifest says. What the lines on the way down to the old one had up to where they
    /// were left is its own, and they start from it; the old trunk comes first.
    pub(crate) fn become_trunk(
        self: &Arc<Self>,
        entry: &LineEntry,
        way: &[(Arc<Self>, Sequence, &LineEntry)],
    ) {
        let mut state = self.state.lock();
        // First of all: nobody may find two lines that start from each other.
        *self.ancestry.write() = Ancestry::of(entry, None);
        for (ancestor, left, entry) in way {
            let mut above = ancestor.state.lock();
            state.take_up_to(*left, &mut above);
            above.dropped = Arc::clone(&entry.dropped);
            above.ordered = Arc::clone(&entry.stream_entry.ordered);
            above.start = None;
            above.held = false;
            *ancestor.ancestry.write() = Ancestry::of(entry, Some(self));
        }
        state.gaps.sort_unstable();
        state.dropped = Arc::clone(&entry.dropped);
        state.ordered = Arc::clone(&entry.stream_entry.ordered);
        state.start = entry.start.clone();
        state.generation = entry.generation;
        state.epoch += 1;
        state.held = false;
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
        self.shared.fold_progress.lock().clone()
    }

    pub(crate) fn note_fold(&self, progress: Option<FoldProgress>) {
        *self.shared.fold_progress.lock() = progress;
    }

    /// Takes the points below the start off the catalogue, once the move is durable.
    pub(crate) fn drop_folded_points(&self) {
        let mut state = self.state.lock();
        if let Some(start) = state.start.clone() {
            state.catalogue.drop_below(start.sequence);
        }
    }

    /// Whether there are more moments than points: every write of a branch can be returned to, also when it has become the
    /// trunk, and every one of an ordered stretch of a trunk.
    pub(crate) fn has_instants(&self) -> bool {
        (self.is_branch() && !self.is_sealed()) || !self.state.lock().ordered.is_empty()
    }

    /// The moments of it that can be looked at; `entry` says what was durably dropped, and `held` has those that the manifest
    /// keeps for others. Of a trunk, or what was one, every moment is a point, one where its history begins, held, or an
    /// instant of an ordered stretch.
    pub(crate) fn moments(
        &self,
        entry: &LineEntry,
        held: impl Iterator<Item = Sequence>,
    ) -> Moments {
        let state = self.state.lock();
        let through = state.tail.sequence;
        if entry.origin.is_some() && !entry.sealed {
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
        self.state.lock().add_points(points);
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
        joined(self.depths(newest).into_iter().flat_map(|depth| depth.layers).collect())
    }

    /// The same, a line at a time; lines that the look passes over are not among them.
    pub(crate) fn depths(&self, newest: Sequence) -> Vec<Depth> {
        let mut depths = Vec::new();
        let (layers, ancestry): (Vec<_>, _) = {
            // What was lost moves together with where it hangs.
            let state = self.state.lock();
            let ancestry = self.ancestry();
            let stretches = ancestry.stretches.iter().rev().filter(|one| one.above < newest);
            let layer = |stretch: &Stretch| {
                let newest = newest.min(stretch.up_to);
                let gap = state.gaps.iter().rev().find(|gap| **gap <= newest).copied();
                let gap = gap.filter(|gap| *gap > stretch.above);
                let Stretch { line, above, .. } = *stretch;
                let folded = ancestry.origin.is_none();
                Layer { line, above, newest, gap, folded }
            };
            (stretches.map(layer).collect(), ancestry)
        };
        let above = ancestry.above(newest);
        if newest >= ancestry.base || above.is_none() || !layers.is_empty() {
            depths.push(Depth { layers, born: ancestry.born });
        }
        if let Some((parent, left)) = above {
            depths.extend(parent.depths(left));
        }
        depths
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

/// What of one line a look sees.
pub(crate) struct Depth {
    /// Its stretches, the newest first.
    pub(crate) layers: Vec<Layer>,
    /// When the moment it starts from was committed; zero for a trunk.
    pub(crate) born: Timestamp,
}

/// Layers of one line that follow each other are one.
pub(crate) fn joined(layers: Vec<Layer>) -> Vec<Layer> {
    let mut joined: Vec<Layer> = Vec::with_capacity(layers.len());
    for below in layers {
        match joined.last_mut() {
            Some(last) if last.line == below.line && last.above == below.newest => {
                last.gap = last.gap.or(below.gap);
                (last.above, last.folded) = (below.above, below.folded);
            }
            _ => joined.push(below),
        }
    }
    joined
}
