//! A model of accept, fold, forget and recover: one line, few blocks, few points, a power cut at any step.
//!
//! ```text
//!   append ─▶ flush ─▶ index ═▶ visible       start ─▶ write image ─▶ flush ─▶ done ─▶ versions vanish, segments go
//!      │        │        │                       │          │           │        │
//!      └────────┴────────┴──── power cut ────────┴──────────┴───────────┴────────┘
//!                                  └─▶ replay ─▶ flush index ─▶ log ends ─▶ up
//! ```
//!
//! It is not the code: it has the order in which the code makes things durable, and nothing else. Which code each step
//! stands for is in `README.md`. Journal, index, image and manifest have each a durable state and what is on top of it;
//! a power cut leaves any part of what was not flushed. [`Rule`] names every order that matters; each can be broken, and
//! the checker then has to find the steps that lead to harm.
//!
//! **Invariant:** every step uses something up, so no path is endless, and a state without a next step is an end.

mod accept;
mod fold;
mod forget;
mod properties;
mod read;
mod recover;
mod rule;
mod state;

pub use rule::Rule;
pub use state::{Block, Fault, Sequence, State};

use stateright::{Model, Property};

/// How much may happen, and which rule is broken.
#[derive(Clone, Debug)]
pub struct Retention {
    /// Disks the two blocks lie on, 1 or 2: a disk has an image and a floor of its own.
    pub disks: u8,
    /// Writes that sources send.
    pub writes: u8,
    /// Writes of one flush at most.
    pub group: u8,
    /// Power cuts.
    pub crashes: u8,
    /// Folds that somebody asks for; repeating one that was cut off is not counted.
    pub folds: u8,
    /// Reads of a view.
    pub reads: u8,
    /// Pins that somebody sets.
    pub pins: u8,
    /// Whether the index is flushed before a segment is released. The code does not do it.
    pub flush_before_release: bool,
    /// The rule that does not hold.
    pub broken: Option<Rule>,
}

impl Retention {
    pub(crate) fn holds(&self, rule: Rule) -> bool {
        self.broken != Some(rule)
    }
}

/// One step of somebody.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Action {
    /// The lane writes a group of changes, one block each.
    Append(Block, Option<Block>),
    /// The lane flushes its segment.
    FlushJournal,
    /// The lane indexes the group, shows it and acknowledges it.
    Index,
    /// The index flushes what it has in memory.
    FlushIndex,
    /// Somebody pins a point.
    Pin(Sequence),
    /// Somebody asks for a fold.
    StartFold(Sequence),
    /// A fold that was cut off is begun again.
    RepeatFold,
    /// The fold does its next step.
    GoOnFolding,
    /// The version of a block vanishes from the index.
    Vanish(Block, Sequence),
    /// A segment is released.
    Release(state::SegmentId),
    /// The release does its next step.
    GoOnReleasing,
    /// Somebody opens a block of a point.
    OpenView(Sequence, Block),
    /// A read begins, or does its next step.
    Read,
    /// The view is closed.
    CloseView,
    /// The power fails; of what was not flushed to journal and image, these parts are there.
    Crash {
        /// A bit per write of the group that is under way.
        journal: u8,
        /// A bit per block.
        image: u8,
    },
    /// The next step of a start.
    Recover,
}

impl Model for Retention {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![State::new(self)]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        self.crashes(state, actions);
        let Some(up) = state.up() else {
            actions.push(Action::Recover);
            return;
        };
        self.accepts(state, up, actions);
        self.folds(state, up, actions);
        self.forgets(state, up, actions);
        self.reads(state, up, actions);
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        match action {
            Action::Append(first, second) => self.append(&mut state, first, second),
            Action::FlushJournal => state.flush_journal(),
            Action::Index => self.index(&mut state),
            Action::FlushIndex => state.index.durable = state.index.current.clone(),
            Action::Pin(point) => state.pin(point),
            Action::StartFold(to) => self.start_fold(&mut state, to),
            Action::RepeatFold => state.repeat_fold(),
            Action::GoOnFolding => self.go_on_folding(&mut state),
            Action::Vanish(block, sequence) => state.vanish(block, sequence),
            Action::Release(segment) => self.release(&mut state, segment),
            Action::GoOnReleasing => self.go_on_releasing(&mut state),
            Action::OpenView(point, block) => state.open_view(point, block),
            Action::Read => self.read(&mut state),
            Action::CloseView => state.close_view(),
            Action::Crash { journal, image } => state.crash(journal, image),
            Action::Recover => self.recover(&mut state),
        }
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        properties::all()
    }
}
