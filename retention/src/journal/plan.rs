//! What a lane does next, decided without I/O: drafts become records with sequences, places and chain values.
//!
//! Writes of a branch that wait together become one record as long as they do not overlap: they were concurrent, so
//! any order of them is one the client must expect. Everything else is a record of its own.

use super::deciding::Party;
use super::draft::{
    AppendError, Committed, Draft, DraftContent, DraftExtent, DraftOrigin, StreamOrigin,
};
use super::format::{ExtentContent, MAX_BODY_BYTES, MAX_EXTENTS, Record, RecordExtent, RecordKind};
use super::indexing::{block_checksums, point, tail_after, unit_of};
use super::sealed::{GroupPlace, Sealing};
use crate::ids::{KeyId, LaneSequence, LineId, StreamId};
use crate::index::block_key::VersionSeal;
use crate::index::tail_key::LineTail;
use crate::leaf::{HeadChange, HeadData};
use crate::line::Line;
use crate::point::Point;
use crate::sealing::{DataKey, Keyring};
use crate::time::Timestamp;
use landfall_disks::BLOCK_SIZE;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Records that are written and flushed together.
pub(super) struct Plan {
    now: Timestamp,
    room: u64,
    planned: Vec<Planned>,
    bytes: u64,
    keys: Arc<Keyring>,
}

struct Planned {
    line: Arc<Line>,
    /// What its bodies are sealed by, if they are.
    key: Option<(KeyId, Arc<DataKey>)>,
    kind: RecordKind,
    boundary: bool,
    stream: StreamOrigin,
    source_time: Timestamp,
    extents: Vec<DraftExtent>,
    /// Whose extents those are, in their order.
    parties: Vec<Party>,
}

/// What became of offering a draft to a plan.
pub(super) enum Taken {
    /// It is part of the plan, or was refused and answered.
    Yes,
    /// It does not fit any more.
    Full(Draft),
}

/// A plan with everything decided.
pub(super) struct Layout {
    pub(super) records: Vec<LaidRecord>,
    pub(super) tails: BTreeMap<LineId, (Arc<Line>, LineTail)>,
    pub(super) bytes: u64,
    pub(super) now: Timestamp,
}

/// One record of a layout.
pub(super) struct LaidRecord {
    pub(super) record: Record,
    /// From the start of the group.
    pub(super) offset: u64,
    pub(super) extents: Vec<DraftExtent>,
    pub(super) checksums: Vec<Vec<u32>>,
    pub(super) parties: Vec<Party>,
}

impl Plan {
    /// An empty plan for at most `room` bytes.
    pub(super) fn new(now: Timestamp, room: u64, keys: Arc<Keyring>) -> Self {
        Self { now, room, planned: Vec::new(), bytes: 0, keys }
    }

    /// Bytes that laying it out will seal.
    pub(super) fn sealed_bytes(&self) -> u64 {
        let sealed = self.planned.iter().filter(|planned| planned.key.is_some());
        sealed.map(|planned| body_bytes(&planned.extents)).sum()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.planned.is_empty()
    }

    /// Takes a draft into the plan.
    pub(super) fn take(&mut self, draft: Draft) -> Taken {
        if draft.is_aborted() {
            draft.refuse(AppendError::Aborted);
            return Taken::Yes;
        }
        if let Err(refusal) = self.check(&draft) {
            draft.refuse(refusal);
            return Taken::Yes;
        }
        let key = match self.keys.writing(draft.line.machine()) {
            Ok(key) => key,
            Err(sealed) => {
                draft.refuse(sealed.into());
                return Taken::Yes;
            }
        };
        let Some(draft) = self.merge(draft) else { return Taken::Yes };
        let bytes = draft.room_bytes(key.is_some());
        if self.bytes + bytes > self.room {
            return Taken::Full(draft);
        }
        self.bytes += bytes;
        let stream = match draft.origin {
            DraftOrigin::Stream(origin) => origin,
            DraftOrigin::Local | DraftOrigin::Mark | DraftOrigin::Promotion => {
                StreamOrigin::default()
            }
        };
        self.planned.push(Planned {
            line: draft.line,
            key,
            kind: draft.kind,
            boundary: draft.boundary,
            stream,
            source_time: draft.source_time,
            parties: vec![Party {
                extents: draft.extents.len(),
                ticket: draft.ticket,
                reply: draft.reply,
            }],
            extents: draft.extents,
        });
        Taken::Yes
    }

    /// Generation and position are checked here and nowhere else: the lane alone knows what is ahead of a draft.
    fn check(&self, draft: &Draft) -> Result<(), AppendError> {
        if draft.line.is_closed() {
            return Err(AppendError::LineGone);
        }
        if let Some(refusal) = draft.line.refusal(draft.origin) {
            return Err(refusal);
        }
        // Marks pass: a pass that is under way is to end in a point.
        if draft.kind == RecordKind::Batch
            && let Some(why) = draft.line.allowance().and_then(|allowance| allowance.refusal())
        {
            return Err(AppendError::QuotaUsedUp(why));
        }
        let origin = match draft.origin {
            DraftOrigin::Stream(origin) => origin,
            DraftOrigin::Local | DraftOrigin::Promotion => return Ok(()),
            DraftOrigin::Mark => return self.check_mark(&draft.line),
        };
        let (current, epoch) = draft.line.stream_turn();
        if origin.generation != current {
            return Err(AppendError::OldGeneration { sent: origin.generation, current });
        }
        if origin.epoch != epoch {
            return Err(AppendError::TakenOver);
        }
        let of_stream =
            |p: &&Planned| p.line.id() == draft.line.id() && p.stream.stream == origin.stream;
        let tail = draft.line.tail();
        let last = match self.planned.iter().rev().find(of_stream) {
            Some(planned) => planned.stream.position,
            None => tail.position_of(origin.generation, origin.stream),
        };
        if origin.previous != last || origin.position <= last {
            return Err(AppendError::OutOfOrder { sent: origin.position, last });
        }
        Ok(())
    }

    /// A mark that comes from no stream must follow a boundary.
    fn check_mark(&self, line: &Line) -> Result<(), AppendError> {
        let ahead = self.planned.iter().rev().find(|planned| planned.line.id() == line.id());
        let between = ahead.map_or_else(|| line.is_in_pass(), |planned| !planned.boundary);
        if between { Err(AppendError::InPass) } else { Ok(()) }
    }

    /// Joins a branch write with the record planned last, if both are the same line's and do not overlap; otherwise
    /// gives it back.
    fn merge(&mut self, draft: Draft) -> Option<Draft> {
        let Some(last) = self.planned.last_mut() else { return Some(draft) };
        let mergeable = last.line.id() == draft.line.id()
            && last.kind == RecordKind::Batch
            && draft.kind == RecordKind::Batch
            && last.boundary
            && draft.boundary
            && last.stream.stream == StreamId::NONE
            && matches!(draft.origin, DraftOrigin::Local)
            && last.extents.len() + draft.extents.len() <= MAX_EXTENTS;
        let overlapping = || {
            let hits = |new: &DraftExtent| {
                last.extents.iter().any(|old| old.disk == new.disk && old.range.overlaps(new.range))
            };
            draft.extents.iter().any(hits)
        };
        let bodies = body_bytes(&last.extents) + body_bytes(&draft.extents);
        if !mergeable || bodies > MAX_BODY_BYTES || overlapping() {
            return Some(draft);
        }
        let abort = |extents: usize, may: bool| if may { abort_bytes(extents) } else { 0 };
        let before = record_bytes(&last.kind, &last.extents, last.key.is_some())
            + abort(last.extents.len(), last.may_be_aborted());
        let extents = last.extents.len() + draft.extents.len();
        let tags = if last.key.is_some() { blocks(bodies) } else { 0 };
        let after = Record::sealed_head_bytes(extents, 0, tags)
            + bodies
            + abort(extents, last.may_be_aborted() || draft.ticket.is_some());
        if self.bytes - before + after > self.room {
            return Some(draft);
        }
        self.bytes = self.bytes - before + after;
        let Draft { extents, ticket, reply, .. } = draft;
        last.parties.push(Party { extents: extents.len(), ticket, reply });
        last.extents.extend(extents);
        None
    }

    /// Gives every record its sequence, its lane sequence and its place, and seals it for that place.
    pub(super) fn lay_out(
        self,
        (first, durable_through): (LaneSequence, LaneSequence),
        place: GroupPlace,
    ) -> Layout {
        let (records, tails) = (Vec::new(), BTreeMap::new());
        let mut layout = Layout { records, tails, bytes: 0, now: self.now };
        let mut lane_sequence = first;
        for planned in self.planned {
            let line = Arc::clone(&planned.line);
            let tail = layout.tails.get(&line.id()).map_or_else(|| line.tail(), |(_, tail)| *tail);
            let offset = (layout.bytes, place);
            let laid = planned.lay(tail, self.now, (lane_sequence, durable_through), offset);
            layout.bytes += laid.record.length_bytes();
            if let Some(allowance) = line.allowance() {
                allowance.spend(laid.record.length_bytes());
            }
            layout.tails.insert(line.id(), (line, tail_after(&tail, &laid.record)));
            layout.records.push(laid);
            lane_sequence = lane_sequence.next();
        }
        layout
    }
}

impl Planned {
    fn may_be_aborted(&self) -> bool {
        self.parties.iter().any(|party| party.ticket.is_some())
    }

    fn lay(
        mut self,
        tail: LineTail,
        now: Timestamp,
        (lane_sequence, durable_through): (LaneSequence, LaneSequence),
        (offset, place): (u64, GroupPlace),
    ) -> LaidRecord {
        let label = label_bytes(&self.kind);
        let key = self.key.take().filter(|_| body_bytes(&self.extents) > 0);
        let tags = key.as_ref().map_or(0, |_| blocks(body_bytes(&self.extents)));
        let mut body = Record::sealed_head_bytes(self.extents.len(), label, tags);
        let (sequence, unit) = (tail.sequence.next(), unit_of(place.offset + offset));
        let mut sealing = key
            .as_ref()
            .map(|(id, key)| Sealing::new((*id, key), place, unit, (self.line.id(), sequence)));
        let mut checksums = Vec::with_capacity(self.extents.len());
        let mut extents = Vec::with_capacity(self.extents.len());
        for extent in &mut self.extents {
            let content = match &mut extent.content {
                DraftContent::Zero => {
                    checksums.push(Vec::new());
                    ExtentContent::Zero
                }
                DraftContent::Data { bytes, hash } => {
                    let start = u32::try_from(body).expect("a record is far below 4 GiB");
                    if let Some(sealing) = &mut sealing {
                        *hash = sealing.seal(extent.disk, extent.range, start, bytes);
                    }
                    checksums.push(block_checksums(bytes));
                    body += bytes.len() as u64;
                    ExtentContent::Data { body: start, hash: *hash }
                }
            };
            extents.push(RecordExtent { disk: extent.disk, range: extent.range, content });
        }
        let StreamOrigin { generation, stream, position, .. } = self.stream;
        let record = Record {
            kind: self.kind,
            boundary: self.boundary,
            lane_sequence,
            durable_through,
            group: self.line.group(),
            line: self.line.id(),
            sequence,
            generation,
            stream,
            position,
            source_time: self.source_time,
            commit_time: now.max(tail.commit_time.next()),
            previous_chain: tail.chain,
            extents,
            seal: sealing.map(Sealing::finish),
        };
        LaidRecord { record, offset, extents: self.extents, checksums, parties: self.parties }
    }
}

impl Layout {
    /// Writes the group's bytes from byte `from` on, where a record starts.
    pub(super) fn encode(&self, from: u64, salt: u64, into: &mut [u8]) {
        for laid in self.records.iter().filter(|laid| laid.offset >= from) {
            let start = position(laid.offset - from);
            laid.record.encode(salt, &mut into[start..]);
            for (extent, draft) in laid.record.extents.iter().zip(&laid.extents) {
                if let (ExtentContent::Data { body, .. }, DraftContent::Data { bytes, .. }) =
                    (extent.content, &draft.content)
                {
                    let at = start + position(u64::from(body));
                    into[at..at + bytes.len()].copy_from_slice(bytes);
                }
            }
        }
    }

    /// What the head of `line` learns from the group, now that it is at its place.
    pub(super) fn news_of(&self, line: LineId, place: GroupPlace) -> (Vec<Point>, Vec<HeadChange>) {
        let of_line = || self.records.iter().filter(|laid| laid.record.line == line);
        let points = of_line().filter_map(|laid| point(&laid.record)).collect();
        let mut changes = Vec::new();
        for laid in of_line() {
            let sealed = |extent: usize| {
                let (origin, tags) = laid.record.seal_of(extent, 0, place.salt)?;
                let tags = tags[..laid.checksums[extent].len()].to_vec();
                Some((line, laid.record.sequence, VersionSeal { origin, tags }))
            };
            for (number, extent) in laid.record.extents.iter().enumerate() {
                let data = match extent.content {
                    ExtentContent::Abort { .. } | ExtentContent::Void { .. } => continue,
                    ExtentContent::Zero => None,
                    ExtentContent::Data { body, .. } => {
                        let unit = unit_of(place.offset + laid.offset + u64::from(body));
                        let checksums = laid.checksums[number].clone();
                        let place = (place.segment, unit);
                        Some(HeadData { place, checksums, seal: sealed(number) })
                    }
                };
                changes.push(HeadChange { disk: extent.disk, range: extent.range, data });
            }
        }
        (points, changes)
    }

    /// Answers every draft with what it became.
    pub(super) fn acknowledge(self) {
        for laid in self.records {
            let committed =
                Committed { sequence: laid.record.sequence, commit_time: laid.record.commit_time };
            for party in laid.parties {
                let answer =
                    if party.is_aborted() { Err(AppendError::Aborted) } else { Ok(committed) };
                // A sender that went away does not take its write back.
                let _ = party.reply.send(answer);
            }
        }
    }

    /// Whether somebody may abort some of it, or may have.
    pub(super) fn may_be_aborted(&self) -> bool {
        self.records.iter().flat_map(|laid| &laid.parties).any(|party| party.ticket.is_some())
    }

    /// Answers everything with the same error. Unless the journal failed, what was aborted is certain never to be seen.
    pub(super) fn refuse(self, error: &AppendError) {
        let certain = !matches!(error, AppendError::Failed(_));
        for laid in self.records {
            for party in laid.parties {
                let aborted = certain && party.is_aborted();
                let error = if aborted { AppendError::Aborted } else { error.clone() };
                // A sender that went away needs no answer.
                let _ = party.reply.send(Err(error));
            }
        }
    }
}

fn body_bytes(extents: &[DraftExtent]) -> u64 {
    extents.iter().map(DraftExtent::body_bytes).sum()
}

fn label_bytes(kind: &RecordKind) -> usize {
    match kind {
        RecordKind::Mark { label: Some(label), .. } => label.as_str().len(),
        _ => 0,
    }
}

/// Bytes of the record that `extents` make.
pub(super) fn record_bytes(kind: &RecordKind, extents: &[DraftExtent], sealed: bool) -> u64 {
    let bodies = body_bytes(extents);
    let tags = if sealed { blocks(bodies) } else { 0 };
    Record::sealed_head_bytes(extents.len(), label_bytes(kind), tags) + bodies
}

/// Bytes of the record that aborts as many extents of another.
pub(super) fn abort_bytes(extents: usize) -> u64 {
    Record::head_bytes(extents, 0)
}

fn blocks(bytes: u64) -> usize {
    usize::try_from(bytes / BLOCK_SIZE).expect("a record is far below 4 GiB")
}

fn position(offset: u64) -> usize {
    usize::try_from(offset).expect("a group fits memory")
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::ids::SegmentId;
    use crate::ids::{DiskId, Generation, GroupId, LaneId, MachineId, Position, Sequence};
    use crate::line::LineState;
    use crate::manifest::state::LineEntry;
    use landfall_disks::{Block, Buffer, ByteRange};
    use tokio::sync::oneshot;

    pub(in crate::journal) const PLACE: GroupPlace =
        GroupPlace { segment: SegmentId::new(1), salt: 2, offset: 4096 };
    const STREAM: StreamId = StreamId::new([1; 16]);

    fn line(id: u32) -> Arc<Line> {
        let (group, lane) = (GroupId::new(1), LaneId::new(0));
        let entry = LineEntry::new(LineId::new(id), MachineId::new(1), group, lane);
        let tail = LineTail { sequence: Sequence::new(10), ..LineTail::default() };
        Arc::new(Line::new(&entry, None, LineState { tail, ..LineState::default() }))
    }

    /// A branch of another line, with no record of its own.
    pub(in crate::journal) fn branch(id: u32) -> Arc<Line> {
        let (parent, origin) = (line(id + 100), Sequence::new(10));
        let (group, lane) = (GroupId::new(1), LaneId::new(0));
        let entry = LineEntry {
            origin: Some((parent.id(), origin)),
            base: origin,
            ..LineEntry::new(LineId::new(id), MachineId::new(1), group, lane)
        };
        Arc::new(Line::new(&entry, Some(&parent), LineState::default()))
    }

    pub(in crate::journal) type Answer = oneshot::Receiver<Result<Committed, AppendError>>;

    pub(in crate::journal) fn draft(
        line: &Arc<Line>,
        origin: DraftOrigin,
        first: u64,
        blocks: u64,
    ) -> (Draft, Answer) {
        let (reply, answer) = oneshot::channel();
        let range = ByteRange::at(Block::new(first).offset(), blocks * BLOCK_SIZE).unwrap();
        let bytes = Buffer::zeroed(usize::try_from(range.length()).unwrap());
        let hash = *blake3::hash(&bytes).as_bytes();
        let content = DraftContent::Data { bytes, hash };
        let draft = Draft {
            line: Arc::clone(line),
            origin,
            kind: RecordKind::Batch,
            boundary: matches!(origin, DraftOrigin::Local),
            source_time: Timestamp::default(),
            extents: vec![DraftExtent { disk: DiskId::new(1), range, content }],
            ticket: None,
            reply,
        };
        (draft, answer)
    }

    fn streamed(position: u64, previous: u64) -> DraftOrigin {
        DraftOrigin::Stream(StreamOrigin {
            generation: Generation::default(),
            stream: STREAM,
            position: Position::new(position),
            previous: Position::new(previous),
            epoch: 0,
        })
    }

    pub(in crate::journal) fn plan() -> Plan {
        Plan::new(Timestamp::from_nanoseconds(5), 1 << 20, Arc::default())
    }

    fn sequences(plan: Plan) -> Vec<(u32, u64, usize)> {
        let layout = plan.lay_out((LaneSequence::new(100), LaneSequence::new(99)), PLACE);
        let of = |laid: &LaidRecord| {
            let record = &laid.record;
            (record.line.number(), record.sequence.number(), record.extents.len())
        };
        layout.records.iter().map(of).collect()
    }

    #[test]
    fn branch_writes_that_wait_together_become_one_record_unless_they_overlap() {
        let (one, two) = (branch(1), branch(2));
        let mut plan = plan();
        for (line, first) in [(&one, 0), (&one, 4), (&one, 4), (&two, 0), (&one, 9)] {
            let (draft, _) = draft(line, DraftOrigin::Local, first, 2);
            assert!(matches!(plan.take(draft), Taken::Yes));
        }
        assert_eq!(sequences(plan), [(1, 11, 2), (1, 12, 1), (2, 11, 1), (1, 13, 1)]);
    }

    #[test]
    fn a_batch_after_one_that_failed_is_refused() {
        let line = line(1);
        let mut plan = plan();
        let (first, _) = draft(&line, streamed(1, 0), 0, 1);
        assert!(matches!(plan.take(first), Taken::Yes));
        // Position 2 was refused elsewhere and never came here; 3 says that it follows 2.
        let (third, mut answer) = draft(&line, streamed(3, 2), 1, 1);
        assert!(matches!(plan.take(third), Taken::Yes));
        let refused = answer.try_recv().expect("answered");
        assert!(matches!(refused, Err(AppendError::OutOfOrder { .. })));
        let (again, mut answer) = draft(&line, streamed(1, 0), 0, 1);
        assert!(matches!(plan.take(again), Taken::Yes));
        assert!(matches!(answer.try_recv(), Ok(Err(AppendError::OutOfOrder { .. }))));
        assert_eq!(sequences(plan), [(1, 11, 1)]);
    }

    #[test]
    fn what_an_earlier_opening_or_generation_sends_is_refused() {
        let line = line(1);
        let mut plan = plan();
        let (old, mut answer) = draft(&line, streamed(1, 0), 0, 1);
        line.begin_epoch();
        plan.take(old);
        assert_eq!(answer.try_recv(), Ok(Err(AppendError::TakenOver)));
        line.set_generation(Generation::new(1));
        let (old, mut answer) = draft(&line, streamed(1, 0), 0, 1);
        plan.take(old);
        assert!(matches!(answer.try_recv(), Ok(Err(AppendError::OldGeneration { .. }))));
        assert!(plan.is_empty());
    }

    /// Whoever has a branch open when it is promoted, or feeds what was the trunk, is refused in the lane: no record comes in
    /// between, and none afterwards.
    #[test]
    fn lines_that_are_promoted_or_held_back_for_that_take_nothing() {
        let (branch, trunk) = (branch(1), line(2));
        let taken = |line: &Arc<Line>, origin| {
            let mut plan = plan();
            let (draft, mut answer) = draft(line, origin, 0, 1);
            plan.take(draft);
            match answer.try_recv() {
                Ok(Err(refusal)) => assert_eq!(refusal, AppendError::Promoted),
                other => assert!(other.is_err(), "answered before it was written"),
            }
            !plan.is_empty()
        };
        assert!(taken(&branch, DraftOrigin::Local) && taken(&trunk, streamed(1, 0)));
        assert!(!taken(&trunk, DraftOrigin::Local), "a trunk is written by streams alone");
        branch.hold_back(true);
        assert!(!taken(&branch, DraftOrigin::Local) && taken(&branch, DraftOrigin::Promotion));
        branch.hold_back(false);
        assert!(taken(&branch, DraftOrigin::Local));
    }

    #[test]
    fn a_plan_takes_no_more_than_its_room() {
        let line = line(1);
        let mut plan = Plan::new(Timestamp::default(), 5 * BLOCK_SIZE, Arc::default());
        assert!(matches!(plan.take(draft(&line, streamed(1, 0), 0, 2).0), Taken::Yes));
        assert!(matches!(plan.take(draft(&line, streamed(2, 1), 4, 2).0), Taken::Full(_)));
        assert!(matches!(plan.take(draft(&line, streamed(2, 1), 4, 1).0), Taken::Yes));
        assert_eq!(
            plan.lay_out((LaneSequence::new(1), LaneSequence::new(0)), PLACE).bytes,
            5 * BLOCK_SIZE
        );
    }

    #[test]
    fn commit_times_grow_even_when_the_clock_does_not() {
        let line = line(1);
        let mut plan = plan();
        for position in 1..4 {
            plan.take(draft(&line, streamed(position, position - 1), 0, 1).0);
        }
        let layout = plan.lay_out((LaneSequence::new(1), LaneSequence::new(0)), PLACE);
        let times: Vec<u64> =
            layout.records.iter().map(|laid| laid.record.commit_time.nanoseconds()).collect();
        assert_eq!(times, [5, 6, 7]);
    }
}
