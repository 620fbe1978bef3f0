//! What must hold in every state, and what must happen in some so that the former says something.

use crate::Retention;
use crate::state::{Block, Fault, Process, Sequence, State, Up, resolve};
use stateright::{Model, Property};

/// All of them. The names are part of the tests.
pub(crate) fn all() -> Vec<Property<Retention>> {
    vec![
        Property::always("acknowledged is in every later point", acknowledged_stays),
        Property::always("a point reads as it did", points_read_as_they_did),
        Property::always("what is kept can be opened", kept_can_be_opened),
        Property::always("an image holds nothing newer than its floor", images_are_old),
        Property::always("what began gets done", what_began_gets_done),
        Property::sometimes("a fold is repeated", a_fold_is_repeated),
        Property::sometimes("an older version outlives a newer one", older_outlives),
        Property::sometimes("records are gone that the index never had", gone_unindexed),
        Property::sometimes("everything was folded and let go", all_let_go),
    ]
}

fn with_up(state: &State, check: impl FnOnce(&Up) -> bool) -> bool {
    state.up().is_some_and(check)
}

fn acknowledged_stays(_: &Retention, state: &State) -> bool {
    let lost = [Fault::AcknowledgedLost, Fault::CameBack, Fault::Damage];
    !state.fault.is_some_and(|fault| lost.contains(&fault))
}

/// Every block of every moment that can be opened, looked at in one instant; and what reads saw that took their time.
fn points_read_as_they_did(model: &Retention, state: &State) -> bool {
    let right = |up: &Up, point: Sequence, block: Block| {
        let floor = up.floors[model.disk_of(block)];
        let place = resolve(state.index.current.of_block(block), floor, point);
        state.fetch(place, block) == Some(state.truth(point, block))
    };
    let all = |up: &Up| {
        let mut points = (up.start.0..=up.tail.0).map(Sequence);
        points.all(|point| Block::all().all(|block| right(up, point, block)))
    };
    state.fault != Some(Fault::WrongBytes) && state.up().is_none_or(all)
}

fn kept_can_be_opened(_: &Retention, state: &State) -> bool {
    let pinned = state.manifest.pin.is_none_or(|pin| pin >= state.manifest.start);
    let viewed = |up: &Up| up.view.as_ref().is_none_or(|view| view.point >= up.start);
    pinned && state.up().is_none_or(viewed)
}

fn images_are_old(model: &Retention, state: &State) -> bool {
    let old = |block: Block, content| {
        state.sequence_of(content).is_some_and(|at| at <= model.image_may_hold(state, block))
    };
    Block::all().all(|block| {
        let cell = state.image[block.at()];
        old(block, cell.durable) && old(block, cell.now())
    })
}

/// Where nothing more can happen, nothing is half done.
fn what_began_gets_done(model: &Retention, state: &State) -> bool {
    let mut actions = Vec::new();
    model.actions(state, &mut actions);
    let done = |up: &Up| {
        let folded = model.all_floors(&up.floors).all(|floor| floor == up.start);
        folded && up.fold.is_none() && up.release.is_none() && up.group.is_none()
    };
    !actions.is_empty() || with_up(state, done)
}

/// After a power cut, without anybody asking again.
fn a_fold_is_repeated(model: &Retention, state: &State) -> bool {
    let repeats = |up: &Up| up.fold.is_some() && up.start > up.floors[0];
    state.left.crashes < model.crashes && with_up(state, repeats)
}

fn gone_unindexed(_: &Retention, state: &State) -> bool {
    let gone = state.manifest.released.values().filter_map(|run| run.tail).max();
    state.process == Process::Down && gone > Some(state.index.current.through)
}

fn all_let_go(_: &Retention, state: &State) -> bool {
    let folded = |up: &Up| up.tail.0 > 1 && up.floors[0] == up.tail;
    let ended = state.journal.len() <= 1 && !state.manifest.released.is_empty();
    with_up(state, folded) && ended && state.index.current.versions.is_empty()
}

fn older_outlives(model: &Retention, state: &State) -> bool {
    let left = &state.index.current.versions;
    let outlived = |(at, (of, _)): (usize, &(Block, crate::state::Content))| {
        let at = u8::try_from(at + 1).map_or(Sequence::default(), Sequence);
        let floor = state.manifest.floors[model.disk_of(*of)];
        at <= floor
            && !left.contains_key(&(*of, at))
            && left.keys().any(|(block, older)| block == of && *older < at)
    };
    state.history.iter().enumerate().any(outlived)
}
