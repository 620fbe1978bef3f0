//! A power cut, and the start after it. `retention/src/retention.rs` (`open`), `retention/src/journal/replay.rs`.

use crate::state::{Fault, Place, Process, Record, SegmentEntry, SegmentId, Sequence, State, Up};
use crate::{Action, Retention, Rule};

/// What is at a stretch of the lane.
enum Piece {
    Segment(SegmentId, SegmentEntry),
    Released { next: Sequence, tail: Option<Sequence> },
}

impl Retention {
    /// Every power cut there may be here: any part of what is not flushed lands.
    pub(crate) fn crashes(&self, state: &State, actions: &mut Vec<Action>) {
        if state.left.crashes == 0 || state.process == Process::Down {
            return;
        }
        let pending = |set: u8, (bit, pending): (usize, bool)| set | u8::from(pending) << bit;
        let slots = state.written_slots().map(|(_, slot)| slot.pending.is_some());
        let journal = slots.enumerate().fold(0, pending);
        let blocks = state.image.iter().map(|cell| cell.pending.is_some());
        let image = blocks.enumerate().fold(0, pending);
        for journal in subsets(journal) {
            actions.extend(subsets(image).map(|image| Action::Crash { journal, image }));
        }
    }

    /// The next step of a start.
    pub(crate) fn recover(&self, state: &mut State) {
        match state.process.clone() {
            Process::Down => self.replay(state),
            Process::Replayed { tail, open, flushed: false } => {
                state.index.durable = state.index.current.clone();
                state.process = Process::Replayed { tail, open, flushed: true };
            }
            Process::Replayed { tail, open, flushed: true } => self.log_end(state, tail, open),
            Process::Up(_) => unreachable!("it is up"),
        }
    }

    /// What the index has not is read from the journal.
    fn replay(&self, state: &mut State) {
        let known: Vec<SegmentId> = state.manifest.segments.keys().copied().collect();
        state.journal.retain(|segment, _| known.contains(segment));
        let progress = state.index.current.through;
        let mut tail = progress;
        let mut open = None;
        for piece in state.pieces() {
            match piece {
                Piece::Released { tail: None, .. } => {}
                Piece::Released { next, tail: Some(released) } => {
                    debug_assert!(released < next);
                    tail = tail.max(released);
                }
                Piece::Segment(_, entry)
                    if entry.ended.is_some_and(|next| next <= progress.next()) => {}
                Piece::Segment(segment, entry) => {
                    let records = state.records_of(segment, entry);
                    if entry.ended.is_none() {
                        open = Some((segment, u8::try_from(records.len()).expect("two slots")));
                    }
                    for (record, slot) in records.iter().zip(0..) {
                        tail = state.take_record(record, Place::Journal(segment, slot), tail);
                    }
                }
            }
        }
        state.index.current.through = tail;
        if usize::from(tail.0) < state.history.len() {
            state.note(Fault::AcknowledgedLost);
        }
        let given = self.writes - state.left.writes;
        let found = |number: u8| state.history.iter().any(|(_, content)| content.0 == number);
        let lost: Vec<_> = (1..=given).filter(|number| !found(*number)).collect();
        state.lost = lost.into_iter().map(crate::state::Content).collect();
        state.process = Process::Replayed { tail, open, flushed: false };
    }

    /// Nothing beyond this end is ever parsed again.
    fn log_end(&self, state: &mut State, tail: Sequence, open: Option<(SegmentId, u8)>) {
        let mut segment = None;
        if self.holds(Rule::EndLoggedBeforeGoingOn) {
            for entry in state.manifest.segments.values_mut() {
                entry.ended.get_or_insert(tail.next());
            }
        } else {
            segment = open;
        }
        let (start, floors) = (state.manifest.start, state.manifest.floors);
        state.process = Process::Up(Up { tail, segment, start, floors, ..Up::default() });
    }
}

impl State {
    fn written_slots(
        &self,
    ) -> impl Iterator<Item = (SegmentId, &crate::state::Cell<Option<Record>>)> {
        self.journal.iter().rev().take(1).flat_map(|(id, file)| file.iter().map(|slot| (*id, slot)))
    }

    pub(crate) fn crash(&mut self, journal: u8, image: u8) {
        self.left.crashes -= 1;
        for file in self.journal.values_mut().rev() {
            for (bit, slot) in file.iter_mut().enumerate() {
                slot.settle(journal >> bit & 1 == 1);
            }
        }
        for (bit, cell) in self.image.iter_mut().enumerate() {
            cell.settle(image >> bit & 1 == 1);
        }
        self.index.current = self.index.durable.clone();
        self.process = Process::Down;
    }

    /// What is left of the lane and what is gone, in order.
    fn pieces(&self) -> Vec<Piece> {
        let segments = self.manifest.segments.iter();
        let released = self.manifest.released.iter();
        let mut pieces: Vec<_> =
            segments.map(|(id, entry)| (entry.first, Piece::Segment(*id, *entry))).collect();
        pieces.extend(
            released
                .map(|(first, run)| (*first, Piece::Released { next: run.next, tail: run.tail })),
        );
        pieces.sort_by_key(|(first, _)| *first);
        pieces.into_iter().map(|(_, piece)| piece).collect()
    }

    /// The records of a segment, as long as they follow each other; up to its logged end, all must be there.
    fn records_of(&mut self, segment: SegmentId, entry: SegmentEntry) -> Vec<Record> {
        let mut due = entry.first;
        let mut records = Vec::new();
        for slot in self.journal.get(&segment).into_iter().flatten() {
            match slot.durable {
                Some(record) if record.sequence == due && entry.ended != Some(due) => {
                    records.push(record);
                    due = due.next();
                }
                _ => break,
            }
        }
        if entry.ended.is_some_and(|next| due < next) {
            self.note(Fault::Damage);
        }
        records
    }

    /// Indexes a record that was found; gives the tail after it.
    fn take_record(&mut self, record: &Record, place: Place, tail: Sequence) -> Sequence {
        let shown = self.history.get(usize::from(record.sequence.0) - 1).copied();
        match shown {
            Some(shown) if shown != (record.block, record.content) => {
                self.note(Fault::AcknowledgedLost);
            }
            Some(_) => {}
            None if self.lost.contains(&record.content) => self.note(Fault::CameBack),
            None => self.history.push((record.block, record.content)),
        }
        if record.sequence <= self.index.current.through {
            return tail;
        }
        if record.sequence > tail.next() {
            self.note(Fault::Damage);
        }
        self.index.current.versions.insert((record.block, record.sequence), place);
        record.sequence
    }
}

/// Every subset of the bits of `set`.
fn subsets(set: u8) -> impl Iterator<Item = u8> + Clone {
    (0..=set).filter(move |subset| subset & !set == 0)
}
