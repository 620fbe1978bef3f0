//! What is known of the lines of a lane while its journal is read backwards. Pure.
//!
//! ```text
//!   lane   │ segment 3 │ released │ segment 7 │ segment 8 │ segment 9 │
//!                                  ◀──────────── read, the newest first
//!   line A       ?           ?      12 … 15                 16 … 20      its tail is 20, nothing above 11 is missing
//!   line B       ?           ?        ?           ?            ?         nothing is known of it yet
//! ```
//!
//! **Invariant:** whatever a line wrote above its `indexed_above` is in the index, or needed by nobody. It is the same that
//! reading forwards finds in the end: tails, and gaps where a line's next record does not follow the one before it.

use crate::ids::{LaneSequence, LineId, Sequence, StreamId};
use crate::index::gap_key::Lost;
use crate::index::tail_key::LineTail;
use crate::manifest::released::ReleasedRun;
use std::collections::BTreeMap;

/// What a stretch of a lane has of a line.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Within {
    /// Its first record there.
    pub(crate) first: Sequence,
    /// Where it stood after the last; the stream is zero if none of them came from one.
    pub(crate) tail: LineTail,
    /// Whether something was lost behind its last record.
    pub(crate) lost_behind: bool,
}

/// What a stretch of a lane has.
#[derive(Debug, Default)]
pub(crate) struct Stretch {
    /// Of each line that it has records of.
    pub(crate) lines: BTreeMap<LineId, Within>,
    /// Whether something was lost there, which may have been of any line.
    pub(crate) lost: bool,
}

/// What is known of all lines.
pub(crate) struct Lines {
    lines: BTreeMap<LineId, Known>,
    /// Records that are gone, among which may be some that were kept elsewhere and are not indexed yet: from where on.
    unsure: Option<(LaneSequence, Vec<(LineId, Sequence)>)>,
}

struct Known {
    /// Where it stood before everything that is to be read.
    before: LineTail,
    /// Where it stands now.
    tail: Option<LineTail>,
    /// Whether that says how far its stream was.
    positioned: bool,
    /// Whether that comes from a record that is there.
    from_record: bool,
    /// Something was lost, and no later record of it was met.
    suspect: bool,
    /// Its lowest record that was met.
    lowest: Option<Sequence>,
    /// All it wrote above this is in the index.
    indexed_above: Sequence,
}

impl Lines {
    /// Nothing was read yet; each line with where it stood before all that.
    pub(crate) fn new(lines: impl IntoIterator<Item = (LineId, LineTail)>) -> Self {
        let known = |before| Known {
            before,
            tail: None,
            positioned: false,
            from_record: false,
            suspect: false,
            lowest: None,
            indexed_above: Sequence::MAX,
        };
        Self {
            lines: lines.into_iter().map(|(line, before)| (line, known(before))).collect(),
            unsure: None,
        }
    }

    /// Those whose records have something to say.
    pub(crate) fn all(&self) -> impl Iterator<Item = LineId> {
        self.lines.keys().copied()
    }

    /// Takes what a segment has, which is older than everything before and in the index by now. Gives what was lost.
    pub(crate) fn take_segment(&mut self, found: &Stretch) -> Vec<Lost> {
        let mut gaps = Vec::new();
        for (line, known) in &mut self.lines {
            match found.lines.get(line) {
                Some(within) => {
                    known.from_record |= known.lowest.is_none();
                    let lost = within.lost_behind;
                    gaps.extend(known.join(*line, within.first, &within.tail, lost));
                    known.indexed_above = known.indexed_above.min(within.first.previous());
                }
                None => known.suspect |= found.lost && known.lowest.is_none(),
            }
        }
        gaps
    }

    /// Takes what the manifest keeps of records that are gone: everything behind them is in the index. Gives what was lost.
    pub(crate) fn take_released(&mut self, first: LaneSequence, run: &ReleasedRun) -> Vec<Lost> {
        let mut gaps = Vec::new();
        let mut unsure = Vec::new();
        for (line, released) in &run.lines {
            let Some(known) = self.lines.get_mut(line) else { continue };
            let tail = &released.tail;
            gaps.extend(known.join(*line, released.first, tail, false));
            known.indexed_above = known.indexed_above.min(tail.sequence);
            unsure.push((*line, released.first.previous()));
        }
        self.unsure = Some((first, unsure));
        gaps
    }

    /// Whatever is to be read from here on lies at or before `end` of the lane; nothing is left if there is none.
    pub(crate) fn goes_on_at(&mut self, end: Option<LaneSequence>) {
        let Some((first, _)) = &self.unsure else { return };
        if end.is_some_and(|end| end >= *first) {
            return;
        }
        for (line, above) in self.unsure.take().into_iter().flat_map(|(_, lines)| lines) {
            if let Some(known) = self.lines.get_mut(&line) {
                known.indexed_above = known.indexed_above.min(above);
            }
        }
    }

    /// Everything was read. Gives what was lost.
    pub(crate) fn finish(&mut self) -> Vec<Lost> {
        let mut gaps = Vec::new();
        for (line, known) in &mut self.lines {
            let (before, first) = (known.before, known.before.sequence.next());
            match known.lowest {
                // What was met may be older than what was known before: then it is not joined to anything.
                Some(lowest) if lowest > first => {
                    gaps.push(Lost { line: *line, first, last: lowest.previous() });
                }
                Some(_) => {}
                None => gaps.extend(known.settle(*line, before)),
            }
            // So it does not end lower either: a gap may stand for what was lost at its end.
            if known.tail.is_some_and(|tail| tail.sequence < before.sequence) {
                known.tail = Some(before);
            }
            known.position(&before);
            known.positioned = true;
            known.indexed_above = Sequence::default();
        }
        gaps
    }

    /// Where a line stands, if a record says so, and how far its stream was if that is asked for.
    pub(crate) fn tail(&self, line: LineId, with_position: bool) -> Option<LineTail> {
        let known = self.lines.get(&line)?;
        let sure = known.from_record || known.indexed_above == Sequence::default();
        known.tail.filter(|_| sure && (known.positioned || !with_position))
    }

    /// Above what everything that a line wrote is in the index.
    pub(crate) fn indexed_above(&self, line: LineId) -> Sequence {
        // A line that came since wrote nothing that was to be read.
        self.lines.get(&line).map(|known| known.indexed_above).unwrap_or_default()
    }

    /// Where each line stands, once everything was read.
    pub(crate) fn tails(&self) -> impl Iterator<Item = (LineId, LineTail)> {
        self.lines.iter().filter_map(|(line, known)| Some((*line, known.tail?)))
    }
}

impl Known {
    /// What was met until now follows records from `first` on that ended in `tail`; what was lost in between.
    fn join(
        &mut self,
        line: LineId,
        first: Sequence,
        tail: &LineTail,
        lost_behind: bool,
    ) -> Option<Lost> {
        let gap = match self.lowest {
            Some(lowest) => {
                let after = tail.sequence.next();
                let lost = Lost { line, first: after, last: lowest.previous() };
                (lowest > after).then_some(lost)
            }
            None => {
                self.suspect |= lost_behind;
                self.settle(line, *tail)
            }
        };
        self.position(tail);
        self.lowest = Some(self.lowest.map_or(first, |lowest| lowest.min(first)));
        gap
    }

    /// Nothing of it comes after `tail`, but what may have been lost: a gap of one sequence stands for that.
    fn settle(&mut self, line: LineId, mut tail: LineTail) -> Option<Lost> {
        if self.suspect {
            tail.sequence = tail.sequence.next();
        }
        self.tail = Some(tail);
        let lost = tail.sequence;
        self.suspect.then_some(Lost { line, first: lost, last: lost })
    }

    /// Takes over how far its stream was, from the newest record that came from one.
    fn position(&mut self, older: &LineTail) {
        let Some(tail) = self.tail.as_mut().filter(|_| !self.positioned) else { return };
        if older.stream == StreamId::NONE {
            return;
        }
        let LineTail { generation, stream, position, .. } = *older;
        *tail = LineTail { generation, stream, position, ..*tail };
        self.positioned = true;
    }
}
