//! What becomes of drafts that somebody may have aborted, decided once their group is durable and before anybody sees it.
//!
//! ```text
//!   ticket not aborted ─▶ committed: aborting it is too late, it is indexed and acknowledged
//!   ticket aborted     ─▶ its extents are void; a record behind the group says so
//! ```

use super::draft::{AppendError, Committed};
use super::format::{ExtentContent, Record, RecordExtent, RecordKind};
use super::indexing::tail_after;
use super::plan::{LaidRecord, Layout};
use crate::ids::{Generation, LaneSequence, Position, StreamId};
use crate::index::tail_key::LineTail;
use crate::time::Timestamp;
use landfall_disks::Ticket;
use tokio::sync::oneshot;

/// A draft within a record: the next so many of its extents.
pub(super) struct Party {
    pub(super) extents: usize,
    pub(super) ticket: Option<Ticket>,
    pub(super) reply: oneshot::Sender<Result<Committed, AppendError>>,
}

impl Party {
    /// Whether it was aborted, once that is decided.
    pub(super) fn is_aborted(&self) -> bool {
        self.ticket.as_ref().is_some_and(Ticket::is_aborted)
    }
}

impl Layout {
    /// Decides of every draft whether it comes to be. `next` and `durable` are the lane sequences due behind the group, which is durable, and
    /// of its last record. Appends a record for each of which something was aborted; whether there are any.
    pub(super) fn decide(&mut self, (next, durable): (LaneSequence, LaneSequence)) -> bool {
        let mut lane_sequence = next;
        for number in 0..self.records.len() {
            let aborted = self.records[number].decide();
            if aborted.is_empty() {
                continue;
            }
            let of = &self.records[number].record;
            let (line, tail) = self.tails.get_mut(&of.line).expect("it has grown");
            let record = abort_record(of, *tail, aborted, self.now, (lane_sequence, durable));
            if let Some(allowance) = line.allowance() {
                allowance.spend(record.length_bytes());
            }
            *tail = tail_after(tail, &record);
            let (offset, checksums) = (self.bytes, vec![Vec::new(); record.extents.len()]);
            self.bytes += record.length_bytes();
            let (extents, parties) = (Vec::new(), Vec::new());
            self.records.push(LaidRecord { record, offset, extents, checksums, parties });
            lane_sequence = lane_sequence.next();
        }
        lane_sequence != next
    }
}

impl LaidRecord {
    /// Marks what was aborted of it as void, and gives what has to say so.
    fn decide(&mut self) -> Vec<RecordExtent> {
        let of = self.record.sequence;
        let mut aborted = Vec::new();
        let mut rest = &mut self.record.extents[..];
        for party in &self.parties {
            let (extents, behind) = rest.split_at_mut(party.extents);
            rest = behind;
            if party.ticket.as_ref().is_none_or(Ticket::commit) {
                continue;
            }
            for extent in extents {
                aborted.push(RecordExtent { content: ExtentContent::Abort { of }, ..*extent });
                extent.content = extent.content.voided();
            }
        }
        aborted
    }
}

/// A moment of its own, at which the line is what it would be without what was aborted.
fn abort_record(
    of: &Record,
    tail: LineTail,
    extents: Vec<RecordExtent>,
    now: Timestamp,
    (lane_sequence, durable_through): (LaneSequence, LaneSequence),
) -> Record {
    Record {
        kind: RecordKind::Batch,
        boundary: true,
        lane_sequence,
        durable_through,
        group: of.group,
        line: of.line,
        sequence: tail.sequence.next(),
        generation: Generation::default(),
        stream: StreamId::NONE,
        position: Position::default(),
        source_time: now,
        commit_time: now.max(tail.commit_time.next()),
        previous_chain: tail.chain,
        extents,
        seal: None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::draft::DraftOrigin;
    use super::super::plan::tests::{Answer, PLACE, branch, draft, plan};
    use super::super::plan::{Plan, Taken};
    use super::*;
    use crate::ids::Sequence;
    use crate::line::Line;
    use landfall_disks::BLOCK_SIZE;
    use std::sync::Arc;

    const FIRST: LaneSequence = LaneSequence::new(100);

    /// A plan of writes of two blocks each, and the tickets and answers of those.
    fn planned(writes: &[(&Arc<Line>, u64)]) -> (Plan, Vec<(Ticket, Answer)>) {
        let mut plan = plan();
        let offer = |(line, first): &(&Arc<Line>, u64)| {
            let (mut draft, answer) = draft(line, DraftOrigin::Local, *first, 2);
            let ticket = Ticket::default();
            draft.ticket = Some(ticket.clone());
            assert!(matches!(plan.take(draft), Taken::Yes));
            (ticket, answer)
        };
        let parties = writes.iter().map(offer).collect();
        (plan, parties)
    }

    fn lay_out(plan: Plan) -> Layout {
        plan.lay_out((FIRST, LaneSequence::new(99)), PLACE)
    }

    /// Decides, as after a flush.
    fn decide(layout: &mut Layout) -> bool {
        let next = FIRST.number() + layout.records.len() as u64;
        layout.decide((LaneSequence::new(next), LaneSequence::new(next - 1)))
    }

    fn starts(record: &Record) -> Vec<(u64, bool, Option<u64>)> {
        let of = |extent: &RecordExtent| {
            let of = match extent.content {
                ExtentContent::Abort { of } => Some(of.number()),
                _ => None,
            };
            let void = matches!(extent.content, ExtentContent::Void { .. });
            (extent.range.start().block().index(), void, of)
        };
        record.extents.iter().map(of).collect()
    }

    #[test]
    fn what_is_aborted_before_its_turn_is_not_written() {
        let line = branch(1);
        let mut plan = plan();
        let (mut first, mut answer) = draft(&line, DraftOrigin::Local, 0, 2);
        let ticket = Ticket::default();
        assert!(ticket.abort());
        first.ticket = Some(ticket);
        assert!(matches!(plan.take(first), Taken::Yes) && plan.is_empty());
        assert_eq!(answer.try_recv(), Ok(Err(AppendError::Aborted)));
    }

    #[test]
    fn a_draft_of_a_record_that_was_aborted_on_its_way_is_void_and_the_others_stand() {
        let (one, two) = (branch(1), branch(2));
        let (plan, mut parties) = planned(&[(&one, 0), (&one, 4), (&one, 8), (&two, 0), (&one, 4)]);
        let mut layout = lay_out(plan);
        let (bytes, chain) = (layout.bytes, layout.records[2].record.chain());
        for late in [1, 3] {
            assert!(parties[late].0.abort());
        }
        assert!(decide(&mut layout));
        assert!(!parties[0].0.abort(), "it was decided");
        let found: Vec<_> = layout
            .records
            .iter()
            .map(|laid| (laid.record.line.number(), laid.record.sequence.number()))
            .collect();
        assert_eq!(found, [(1, 11), (2, 11), (1, 12), (1, 13), (2, 12)]);
        let all: Vec<_> = layout.records.iter().map(|laid| starts(&laid.record)).collect();
        let (stands, void, abort) = (|at| (at, false, None), (4, true, None), (4, false, Some(11)));
        assert_eq!(all[0], [stands(0), void, stands(8)]);
        assert_eq!((&all[1][..], &all[2][..]), (&[(0, true, None)][..], &[stands(4)][..]));
        assert_eq!((&all[3][..], &all[4][..]), (&[abort][..], &[(0, false, Some(11))][..]));

        let last = &layout.records[3];
        assert_eq!((last.offset, last.record.previous_chain), (bytes, chain));
        assert_eq!(last.record.lane_sequence, LaneSequence::new(103));
        assert_eq!(last.record.durable_through, LaneSequence::new(102), "its group is durable");
        assert!(last.record.commit_time > layout.records[2].record.commit_time);
        assert_eq!(layout.tails[&one.id()].1.sequence, Sequence::new(13));
        assert_eq!(layout.bytes, bytes + 2 * BLOCK_SIZE);
        let (_, changes) = layout.news_of(one.id(), PLACE);
        let seen: Vec<_> =
            changes.iter().map(|change| change.range.start().block().index()).collect();
        assert_eq!(seen, [0, 8, 4], "heads learn of what stands");

        layout.acknowledge();
        let answers = parties.iter_mut().map(|(_, answer)| answer.try_recv().expect("answered"));
        let sequences: Vec<_> =
            answers.map(|answer| answer.map(|committed| committed.sequence.number())).collect();
        let aborted = Err(AppendError::Aborted);
        assert_eq!(sequences, [Ok(11), aborted.clone(), Ok(11), aborted, Ok(12)]);
    }

    #[test]
    fn without_an_abort_nothing_is_written_behind_a_group() {
        let line = branch(1);
        let (plan, parties) = planned(&[(&line, 0), (&line, 4)]);
        let mut layout = lay_out(plan);
        let bytes = layout.bytes;
        assert!(!decide(&mut layout) && layout.bytes == bytes && layout.records.len() == 1);
        assert!(parties.iter().all(|(ticket, _)| !ticket.abort()), "it is too late");
    }

    /// The record that aborts must lie in the segment of what it aborts.
    #[test]
    fn a_plan_keeps_room_for_aborting_all_of_it() {
        let line = branch(1);
        let taken = |room: u64, ticket: Option<Ticket>| {
            let mut plan = Plan::new(Timestamp::default(), room, Arc::default());
            let (mut draft, _answer) = draft(&line, DraftOrigin::Local, 0, 2);
            draft.ticket = ticket;
            matches!(plan.take(draft), Taken::Yes)
        };
        assert!(taken(3 * BLOCK_SIZE, None));
        assert!(!taken(3 * BLOCK_SIZE, Some(Ticket::default())));
        assert!(taken(4 * BLOCK_SIZE, Some(Ticket::default())));
        // 47 extents are what fits one block beside the header.
        let mut plan = Plan::new(Timestamp::default(), 1 << 20, Arc::default());
        for write in 0..48 {
            let (mut draft, _answer) = draft(&line, DraftOrigin::Local, 2 * write, 1);
            draft.ticket = Some(Ticket::default());
            plan.take(draft);
        }
        let mut layout = lay_out(plan);
        layout.records[0].parties.iter().for_each(|party| {
            party.ticket.as_ref().expect("it has one").abort();
        });
        let before = layout.bytes;
        assert!(decide(&mut layout));
        assert_eq!(layout.bytes - before, super::super::plan::abort_bytes(48));
    }
}
