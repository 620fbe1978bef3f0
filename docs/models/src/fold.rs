//! Fold: what lies at or below a new floor moves into the images. `retention/src/fold/mod.rs`.

use crate::state::{
    BLOCKS, Block, Content, Fault, Fold, FoldStep, Place, Sequence, State, Up, resolve,
};
use crate::{Action, Retention, Rule};

impl Retention {
    pub(crate) fn folds(&self, state: &State, up: &Up, actions: &mut Vec<Action>) {
        if state.left.pins > 0 && state.manifest.pin.is_none() {
            actions.extend((up.start.0..=up.tail.0).map(|point| Action::Pin(Sequence(point))));
        }
        if up.fold.is_some() {
            actions.push(Action::GoOnFolding);
            return;
        }
        let unfinished = self.all_floors(&up.floors).any(|floor| floor < up.start);
        if unfinished && self.holds(Rule::FoldRepeated) {
            actions.push(Action::RepeatFold);
        }
        if state.left.folds == 0 {
            return;
        }
        let viewed = up.view.as_ref().map(|view| view.point);
        for to in (up.start.0 + 1..=up.tail.0).map(Sequence) {
            let held = [viewed, state.manifest.pin].into_iter().flatten().any(|held| held < to);
            if !held || !self.holds(Rule::HoldersAskedFirst) {
                actions.push(Action::StartFold(to));
            }
        }
    }

    /// Nothing below `to` opens from here on, and that is durable.
    pub(crate) fn start_fold(&self, state: &mut State, to: Sequence) {
        state.left.folds -= 1;
        if self.holds(Rule::DroppedBeforeFoldStarted) {
            state.up_mut().start = to;
        }
        if self.holds(Rule::FoldStartedBeforeImage) {
            state.manifest.start = to;
        }
        state.repeat_fold();
        if !self.holds(Rule::DroppedBeforeFoldStarted) && state.up_mut().fold.is_none() {
            state.up_mut().fold = Some(Fold { disk: 0, step: FoldStep::Write(Block(0)) });
        }
    }

    /// Where the fold that is under way goes to.
    fn target(&self, state: &State) -> Sequence {
        let start = state.up().expect("somebody folds").start;
        start.max(state.manifest.start)
    }

    pub(crate) fn go_on_folding(&self, state: &mut State) {
        let fold = state.up_mut().fold.expect("one is under way");
        let disk = usize::from(fold.disk);
        let step = match fold.step {
            FoldStep::Write(block) => {
                if self.disk_of(block) == disk {
                    self.fold_block(state, block);
                }
                if block.0 + 1 < BLOCKS {
                    FoldStep::Write(Block(block.0 + 1))
                } else if self.holds(Rule::ImageFlushedBeforeFoldDone) {
                    FoldStep::Flush
                } else {
                    FoldStep::Log
                }
            }
            FoldStep::Flush => {
                let of_disk = Block::all().filter(|block| self.disk_of(*block) == disk);
                of_disk.for_each(|block| state.image[block.at()].flush());
                FoldStep::Log
            }
            FoldStep::Log => {
                let to = self.target(state);
                state.manifest.start = to;
                state.manifest.floors[disk] = to;
                let up = state.up_mut();
                up.start = to;
                up.floors[disk] = to;
                let next = fold.disk + 1;
                let step = FoldStep::Write(Block(0));
                up.fold = (next < self.disks).then_some(Fold { disk: next, step });
                return;
            }
        };
        state.up_mut().fold = Some(Fold { step, ..fold });
    }

    /// The newest version above the old floor and up to the new one, from the journal into the image.
    fn fold_block(&self, state: &mut State, block: Block) {
        let (to, floor) = (self.target(state), state.up_mut().floors[self.disk_of(block)]);
        let place = resolve(state.index.current.of_block(block), floor, to);
        if place == Place::Image {
            return;
        }
        match state.fetch(place, block) {
            Some(content) => state.image[block.at()].pending = Some(content),
            None => state.note(Fault::WrongBytes),
        }
    }

    /// Up to where the image may hold something: its floor, or the start of history if a fold to there is logged.
    pub(crate) fn image_may_hold(&self, state: &State, block: Block) -> Sequence {
        state.manifest.floors[self.disk_of(block)].max(state.manifest.start)
    }
}

impl State {
    /// Somebody keeps a point for good.
    pub(crate) fn pin(&mut self, point: Sequence) {
        self.left.pins -= 1;
        self.manifest.pin = Some(point);
    }

    /// Begins at the first disk; one that has the floor already is written again, to the same bytes.
    pub(crate) fn repeat_fold(&mut self) {
        let up = self.up_mut();
        if up.floors.iter().any(|floor| *floor < up.start) {
            up.fold = Some(Fold { disk: 0, step: FoldStep::Write(Block(0)) });
        }
    }

    /// Where in history a content came from; `None` if nobody was ever shown it.
    pub(crate) fn sequence_of(&self, content: Content) -> Option<Sequence> {
        if content == Content::default() {
            return Some(Sequence::default());
        }
        let at = self.history.iter().position(|(_, shown)| *shown == content)?;
        u8::try_from(at + 1).ok().map(Sequence)
    }
}
