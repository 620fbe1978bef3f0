//! Forget: versions vanish from the index, segments from the journal. `retention/src/index/forgotten.rs`,
//! `retention/src/forget.rs`.

use crate::state::{
    Block, Place, Release, ReleaseStep, ReleasedRun, SegmentEntry, SegmentId, Sequence, State, Up,
};
use crate::{Action, Retention, Rule};

impl Retention {
    pub(crate) fn forgets(&self, state: &State, up: &Up, actions: &mut Vec<Action>) {
        for (block, at) in state.index.current.versions.keys() {
            let floor = match self.holds(Rule::ForgottenAfterFoldDone) {
                true => up.floors[self.disk_of(*block)],
                false => up.start,
            };
            if *at <= floor {
                actions.push(Action::Vanish(*block, *at));
            }
        }
        if let Some(release) = up.release {
            if !release.waits {
                actions.push(Action::GoOnReleasing);
            }
            return;
        }
        let bound = match self.holds(Rule::ReleasedByFloors) {
            true => self.all_floors(&up.floors).min().unwrap_or_default(),
            false => up.start,
        };
        let free = |entry: &SegmentEntry| entry.ended.is_some_and(|next| next.0 <= bound.0 + 1);
        let segments = state.manifest.segments.iter().filter(|(_, entry)| free(entry));
        actions.extend(segments.map(|(segment, _)| Action::Release(*segment)));
    }

    /// The manifest says that the segment is gone and where the line stood after it, in one frame.
    pub(crate) fn release(&self, state: &mut State, segment: SegmentId) {
        if !self.holds(Rule::LoggedBeforeUnlinked) {
            state.journal.remove(&segment);
            let step = ReleaseStep::Unlinked;
            state.up_mut().release = Some(Release { segment, step, waits: false });
            return;
        }
        if self.flush_before_release {
            state.index.durable = state.index.current.clone();
        }
        self.log_release(state, segment);
        let reading = state.is_reading();
        let waits = reading && self.holds(Rule::ReadsEndedBeforeLeavesDropped);
        let step = ReleaseStep::Logged;
        state.up_mut().release = Some(Release { segment, step, waits });
    }

    fn log_release(&self, state: &mut State, segment: SegmentId) {
        let entry = state.manifest.segments.remove(&segment).expect("it was there");
        let next = entry.ended.expect("only ended ones go");
        let last = Sequence(next.0 - 1);
        let tail = self.holds(Rule::TailKept).then_some(last);
        if entry.first < next {
            state.manifest.released.insert(entry.first, ReleasedRun { next, tail });
        }
    }

    pub(crate) fn go_on_releasing(&self, state: &mut State) {
        let mut release = state.up_mut().release.expect("one is under way");
        match release.step {
            ReleaseStep::Logged => {
                let gone = |place: &mut Place| matches!(place, Place::Journal(of, _) if *of == release.segment);
                if let Some(view) = &mut state.up_mut().view
                    && self.holds(Rule::LeavesDropped)
                {
                    view.leaf.take_if(gone);
                }
                release.step = ReleaseStep::LeavesDropped;
                release.waits = state.is_reading() && self.holds(Rule::ReadsEndedBeforeUnlinked);
                state.up_mut().release = Some(release);
            }
            ReleaseStep::LeavesDropped => {
                state.journal.remove(&release.segment);
                state.up_mut().release = None;
            }
            ReleaseStep::Unlinked => {
                self.log_release(state, release.segment);
                state.up_mut().release = None;
            }
        }
    }
}

impl State {
    /// From what is durable too, in any order.
    pub(crate) fn vanish(&mut self, block: Block, at: Sequence) {
        self.index.current.versions.remove(&(block, at));
        self.index.durable.versions.remove(&(block, at));
    }

    fn is_reading(&self) -> bool {
        self.up().and_then(|up| up.view.as_ref()).is_some_and(|view| view.read.is_some())
    }
}
