//! Accept: the lane writes a group, flushes it, indexes it, shows it. `retention/src/journal/lane.rs`.

use crate::state::{
    Block, Content, Group, Place, Record, SLOTS, SegmentEntry, SegmentId, State, Up,
};
use crate::{Action, Retention, Rule};

impl Retention {
    pub(crate) fn accepts(&self, state: &State, up: &Up, actions: &mut Vec<Action>) {
        match &up.group {
            None if state.left.writes > 0 => {
                for first in Block::all() {
                    actions.push(Action::Append(first, None));
                    if self.group > 1 && state.left.writes > 1 {
                        let second = Block::all().map(|second| Action::Append(first, Some(second)));
                        actions.extend(second);
                    }
                }
            }
            Some(group) if !group.flushed => {
                actions.push(Action::FlushJournal);
                if !self.holds(Rule::FlushedBeforeAcknowledged) {
                    actions.push(Action::Index);
                }
            }
            Some(_) => actions.push(Action::Index),
            None => {}
        }
        if state.index.durable != state.index.current {
            actions.push(Action::FlushIndex);
        }
    }

    /// Decide and write: sequences are given, a full segment is ended and a new one born.
    pub(crate) fn append(&self, state: &mut State, first: Block, second: Option<Block>) {
        let blocks: Vec<Block> = std::iter::once(first).chain(second).collect();
        let length = u8::try_from(blocks.len()).expect("a group is small");
        let next = state.up_mut().tail.next();
        let (segment, first_slot) = match state.up_mut().segment {
            Some((segment, used)) if used + length <= SLOTS => (segment, used),
            full => {
                if let Some((full, _)) = full {
                    let entry = state.manifest.segments.get_mut(&full).expect("it was born");
                    entry.ended = Some(next);
                }
                state.manifest.given += 1;
                let born = SegmentId(state.manifest.given);
                state.manifest.segments.insert(born, SegmentEntry { first: next, ended: None });
                state.journal.insert(born, Default::default());
                (born, 0)
            }
        };
        let mut records = Vec::new();
        let mut sequence = next;
        for (block, slot) in blocks.into_iter().zip(first_slot..) {
            let content = Content(self.writes - state.left.writes + 1);
            state.left.writes -= 1;
            let record = Record { sequence, block, content };
            let file = state.journal.get_mut(&segment).expect("it is open");
            file[usize::from(slot)].pending = Some(Some(record));
            records.push(record);
            sequence = sequence.next();
        }
        let up = state.up_mut();
        up.segment = Some((segment, first_slot + length));
        up.group = Some(Group { first_slot, records, flushed: false });
    }

    /// All entries of the group in one write; then readers see it and its senders are answered.
    pub(crate) fn index(&self, state: &mut State) {
        let up = state.up_mut();
        let (segment, _) = up.segment.expect("the group lies there");
        let group = up.group.take().expect("there is one");
        let last = group.records.last().expect("a group is not empty").sequence;
        up.tail = last;
        for (record, slot) in group.records.iter().zip(group.first_slot..) {
            let place = Place::Journal(segment, slot);
            state.index.current.versions.insert((record.block, record.sequence), place);
            state.history.push((record.block, record.content));
        }
        state.index.current.through = last;
        if !self.holds(Rule::ProgressWithItsEntries) {
            state.index.durable.through = last;
        }
    }
}

impl State {
    pub(crate) fn flush_journal(&mut self) {
        let (segment, _) = self.up_mut().segment.expect("something was written");
        let file = self.journal.get_mut(&segment).expect("it is open");
        file.iter_mut().for_each(|slot| slot.flush());
        self.up_mut().group.as_mut().expect("something was written").flushed = true;
    }
}
