//! What is kept of records that are gone: where in their lane they stood, and for each line the chain before and after
//! them and how far its stream was.
//!
//! ```text
//!   lane   │ segment 4 │ released: 100..260 │ segment 7 │ released: 300..420 │ segment 9 …
//!                        line 2: 17..=40, chain before 17, tail after 40
//! ```
//!
//! By it a rebuild of the index knows the tails of lines whose last records are gone, and the chain stays checkable on
//! either side. Neighbours become one, so what is kept grows with the holes, not with history.

use super::format::{FrameError, Reader, Writer};
use super::state::Misfit;
use crate::ids::{Generation, LaneId, LaneSequence, LineId, Position, Sequence, StreamId};
use crate::index::tail_key::LineTail;
use crate::journal::format::Chain;
use crate::time::Timestamp;
use std::collections::BTreeMap;

/// What is kept of the records of one line.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ReleasedLine {
    /// Its first record that is gone.
    pub first: Sequence,
    /// Value of its chain before that.
    pub chain_before: Chain,
    /// Where the line stood after its last record that is gone. The stream is zero if none of them came from one.
    pub tail: LineTail,
}

impl ReleasedLine {
    /// The tail of the line after these records, when it was `before` ahead of them.
    pub(crate) fn tail_after(&self, before: &LineTail) -> LineTail {
        if self.tail.stream != StreamId::NONE {
            return self.tail;
        }
        let LineTail { sequence, commit_time, chain, .. } = self.tail;
        LineTail { sequence, commit_time, chain, ..*before }
    }

    /// What is kept of the records of both, whichever came first. Generations grow along a line and positions within one, so
    /// the higher of both is the later.
    fn joined(self, other: Self) -> Self {
        let (early, late) = if self.first <= other.first { (self, other) } else { (other, self) };
        let last = if early.tail.sequence > late.tail.sequence { early.tail } else { late.tail };
        let streamed = [early.tail, late.tail].into_iter().filter(|t| t.stream != StreamId::NONE);
        let LineTail { generation, stream, position, .. } =
            streamed.max_by_key(|tail| (tail.generation, tail.position)).unwrap_or(last);
        let tail = LineTail { generation, stream, position, ..last };
        Self { first: early.first, chain_before: early.chain_before, tail }
    }

    pub(super) fn encode(&self, to: &mut Writer<'_>) {
        to.u64(self.first.number());
        to.array(self.chain_before.0);
        to.u64(self.tail.sequence.number());
        to.u64(self.tail.commit_time.nanoseconds());
        to.u64(self.tail.generation.number());
        to.array(self.tail.stream.bytes());
        to.u64(self.tail.position.number());
        to.array(self.tail.chain.0);
    }

    pub(super) fn decode(from: &mut Reader<'_>) -> Result<Self, FrameError> {
        let first = Sequence::new(from.u64()?);
        let chain_before = Chain(from.array()?);
        let tail = LineTail {
            sequence: Sequence::new(from.u64()?),
            commit_time: Timestamp::from_nanoseconds(from.u64()?),
            generation: Generation::new(from.u64()?),
            stream: StreamId::new(from.array()?),
            position: Position::new(from.u64()?),
            chain: Chain(from.array()?),
        };
        if tail.sequence < first {
            return Err(FrameError::Field("last sequence"));
        }
        Ok(Self { first, chain_before, tail })
    }
}

/// Consecutive records of a lane that are gone.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ReleasedRun {
    /// Lane sequence that follows them.
    pub next: LaneSequence,
    /// What is kept of each line that had some.
    pub lines: BTreeMap<LineId, ReleasedLine>,
}

/// Everything that is gone, by lane and first lane sequence. Runs never touch each other.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Released {
    runs: BTreeMap<(LaneId, LaneSequence), ReleasedRun>,
}

impl Released {
    /// The runs of a lane, with their first lane sequence, in order.
    pub fn of_lane(&self, lane: LaneId) -> impl Iterator<Item = (LaneSequence, &ReleasedRun)> {
        let all = (lane, LaneSequence::default())..=(lane, LaneSequence::new(u64::MAX));
        self.runs.range(all).map(|((_, first), run)| (*first, run))
    }

    /// A run as it is.
    #[cfg(test)]
    pub(crate) fn insert(&mut self, lane: LaneId, first: LaneSequence, run: ReleasedRun) {
        self.runs.insert((lane, first), run);
    }

    /// All runs, with lane and first lane sequence.
    pub(super) fn iter(&self) -> impl Iterator<Item = (LaneId, LaneSequence, &ReleasedRun)> {
        self.runs.iter().map(|((lane, first), run)| (*lane, *first, run))
    }

    /// The lanes that have lost something.
    pub fn lanes(&self) -> impl Iterator<Item = LaneId> {
        self.runs.keys().map(|(lane, _)| *lane)
    }

    /// Adds `first..next` of a lane, none of which was gone before.
    pub(super) fn add(
        &mut self,
        lane: LaneId,
        first: LaneSequence,
        next: LaneSequence,
    ) -> Result<(), Misfit> {
        let misfit = |what: &str| Misfit {
            record: "RecordsReleased",
            what: format!("{lane:?}, {first:?} to {next:?}: {what}"),
        };
        if first >= next {
            return Err(misfit("they end before they begin"));
        }
        let before = self.runs.range(..(lane, next)).next_back();
        let before = before.filter(|((of, _), _)| *of == lane);
        if before.is_some_and(|((_, at), run)| run.next > first || *at >= first) {
            return Err(misfit("some were gone already"));
        }
        let mut added = ReleasedRun { next, lines: BTreeMap::new() };
        let mut start = first;
        if let Some((key, _)) = before.filter(|(_, run)| run.next == first) {
            start = key.1;
            let earlier = self.runs.remove(&(lane, start)).expect("it was just found");
            added.lines = earlier.lines;
        }
        if let Some(later) = self.runs.remove(&(lane, next)) {
            added.next = later.next;
            for (line, of_line) in later.lines {
                join(&mut added.lines, line, of_line);
            }
        }
        self.runs.insert((lane, start), added);
        Ok(())
    }

    /// Notes what is kept of a line within the run that holds `at`.
    pub(super) fn note_line(
        &mut self,
        lane: LaneId,
        at: LaneSequence,
        line: LineId,
        released: ReleasedLine,
    ) -> Result<(), Misfit> {
        let run = self.runs.range_mut(..=(lane, at)).next_back();
        let run = run.filter(|((of, _), run)| *of == lane && at < run.next);
        let Some((_, run)) = run else {
            let what = format!("{at:?} of {lane:?} is not gone");
            return Err(Misfit { record: "LineReleased", what });
        };
        join(&mut run.lines, line, released);
        Ok(())
    }

    /// Takes out lines that are no more.
    pub(super) fn retain_lines(&mut self, stays: impl Fn(LineId) -> bool) {
        for run in self.runs.values_mut() {
            run.lines.retain(|line, _| stays(*line));
        }
    }
}

fn join(lines: &mut BTreeMap<LineId, ReleasedLine>, line: LineId, other: ReleasedLine) {
    let joined = lines.get(&line).map_or(other, |there| there.joined(other));
    lines.insert(line, joined);
}

#[cfg(test)]
mod tests {
    use super::*;

    const LANE: LaneId = LaneId::new(1);
    const LINE: LineId = LineId::new(2);

    fn released(first: u64, last: u64, stream: u8) -> ReleasedLine {
        let byte = |number: u64| u8::try_from(number).expect("small");
        let tail = LineTail {
            sequence: Sequence::new(last),
            commit_time: Timestamp::from_nanoseconds(last),
            generation: Generation::new(u64::from(stream)),
            stream: StreamId::new([stream; 16]),
            position: Position::new(if stream == 0 { 0 } else { last }),
            chain: Chain([byte(last); 32]),
        };
        ReleasedLine {
            first: Sequence::new(first),
            chain_before: Chain([byte(first) - 1; 32]),
            tail,
        }
    }

    fn of(pieces: &[(u64, u64, ReleasedLine)]) -> Released {
        let mut all = Released::default();
        for (first, next, line) in pieces {
            let (first, next) = (LaneSequence::new(*first), LaneSequence::new(*next));
            all.add(LANE, first, next).expect("it is there");
            all.note_line(LANE, first, LINE, *line).expect("it is gone");
        }
        all
    }

    #[test]
    fn neighbours_become_one_in_any_order() {
        let [a, b, c] =
            [(10, 20, released(1, 5, 9)), (20, 30, released(6, 8, 9)), (30, 40, released(9, 9, 0))];
        let whole = of(&[a, b, c]);
        assert_eq!(whole.runs.len(), 1);
        for order in [[a, c, b], [b, a, c], [b, c, a], [c, a, b], [c, b, a]] {
            assert_eq!(of(&order), whole, "{order:?}");
        }
        let (first, run) = whole.of_lane(LANE).next().expect("one");
        assert_eq!((first, run.next), (LaneSequence::new(10), LaneSequence::new(40)));
        let line = run.lines[&LINE];
        assert_eq!((line.first, line.chain_before), (Sequence::new(1), Chain([0; 32])));
        assert_eq!((line.tail.sequence, line.tail.chain), (Sequence::new(9), Chain([9; 32])));
        // The last record of the stream was the eighth.
        assert_eq!(line.tail.position, Position::new(8));
    }

    #[test]
    fn what_is_gone_does_not_go_twice() {
        let mut all = of(&[(10, 20, released(1, 5, 9))]);
        for (first, next) in [(10, 20), (5, 11), (19, 25), (12, 13), (5, 30), (9, 8), (30, 30)] {
            let added = all.add(LANE, LaneSequence::new(first), LaneSequence::new(next));
            assert!(added.is_err(), "{first}..{next}");
        }
        let elsewhere = all.note_line(LANE, LaneSequence::new(20), LINE, released(6, 7, 9));
        assert!(elsewhere.is_err());
        let elsewhere =
            all.note_line(LaneId::new(2), LaneSequence::new(12), LINE, released(6, 7, 9));
        assert!(elsewhere.is_err());
    }
}
