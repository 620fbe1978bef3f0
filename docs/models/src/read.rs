//! A read, step by step, while the rest goes on. `retention/src/view.rs`, `leaf.rs`, `turn.rs`.

use crate::state::{Block, Fault, ReadStep, Sequence, State, Up, View, resolve};
use crate::{Action, Retention, Rule};

impl Retention {
    pub(crate) fn reads(&self, state: &State, up: &Up, actions: &mut Vec<Action>) {
        match &up.view {
            None if state.left.reads > 0 => {
                for point in (up.start.0..=up.tail.0).map(Sequence) {
                    actions.extend(Block::all().map(|block| Action::OpenView(point, block)));
                }
            }
            Some(view) if view.read.is_some() => actions.push(Action::Read),
            Some(_) => {
                actions.push(Action::CloseView);
                if state.left.reads > 0 {
                    actions.push(Action::Read);
                }
            }
            None => {}
        }
    }

    pub(crate) fn read(&self, state: &mut State) {
        let mut view = state.up_mut().view.take().expect("a view is open");
        let disk = self.disk_of(view.block);
        let floor = state.up_mut().floors[disk];
        view.read = match view.read.take() {
            None => {
                state.left.reads -= 1;
                let early = (!self.holds(Rule::FloorAfterCursor)).then_some(floor);
                Some(view.leaf.map_or(ReadStep::Begun(early), ReadStep::Found))
            }
            Some(ReadStep::Begun(early)) => {
                let shown = state.index.current.of_block(view.block).collect();
                Some(ReadStep::Looking(early, shown))
            }
            Some(ReadStep::Looking(early, shown)) => {
                Some(ReadStep::Decided(resolve(shown, early.unwrap_or(floor), view.point)))
            }
            Some(ReadStep::Decided(place)) => {
                view.leaf = Some(place);
                Some(ReadStep::Found(place))
            }
            Some(ReadStep::Found(place)) => {
                if state.fetch(place, view.block) != Some(state.truth(view.point, view.block)) {
                    state.note(Fault::WrongBytes);
                }
                if let Some(release) = &mut state.up_mut().release {
                    release.waits = false;
                }
                None
            }
        };
        state.up_mut().view = Some(view);
    }
}

impl State {
    pub(crate) fn open_view(&mut self, point: Sequence, block: Block) {
        self.up_mut().view = Some(View { point, block, leaf: None, read: None });
    }

    pub(crate) fn close_view(&mut self) {
        self.up_mut().view = None;
        // Views that are opened and closed and never read must end somewhere too.
        self.left.reads = self.left.reads.saturating_sub(1);
    }
}
