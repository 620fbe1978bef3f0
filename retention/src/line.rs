//! Lines: the trunk of a group and its branches, as they stand now.
//!
//! A line's tail moves only in its lane, after a record is durable and indexed; everything else reads it. Lock order:
//! `state` before the slots of `head`; neither is held across an await.

use crate::ids::{Generation, GroupId, LaneId, LineId, MachineId, Sequence};
use crate::index::tail_key::LineTail;
use crate::leaf::{HeadChange, HeadLeaves, Layer};
use crate::point::{Catalogue, Point};
use crate::time::Timestamp;
use parking_lot::Mutex;
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
}

/// What changes as the line grows.
#[derive(Debug, Default, Clone)]
pub(crate) struct LineState {
    pub(crate) tail: LineTail,
    pub(crate) catalogue: Catalogue,
    /// Lost sequences, in order.
    pub(crate) gaps: Vec<Sequence>,
    /// Generation whose stream may write.
    pub(crate) generation: Generation,
    /// Raised each time the stream is opened: drafts of an earlier opening are refused.
    pub(crate) epoch: u64,
    /// Set when the line was discarded.
    pub(crate) closed: bool,
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
        }
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
        let at_point = state.catalogue.at(state.tail.sequence);
        !self.is_branch() && !at_point.is_some_and(|point| point.kind.is_consistent())
    }

    /// Whether records of it were lost: what they wrote is not known.
    pub(crate) fn has_gaps(&self) -> bool {
        !self.state.lock().gaps.is_empty()
    }

    /// A question to its catalogue of points.
    pub fn points<T>(&self, ask: impl FnOnce(&Catalogue) -> T) -> T {
        ask(&self.state.lock().catalogue)
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
