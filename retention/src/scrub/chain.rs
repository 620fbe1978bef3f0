//! The chain of each line, put together from records in whatever order they are found. Pure.
//!
//! ```text
//!   span   17..=40, chain before 17, chain after 40        records and what was kept of released ones are spans alike
//!          two that touch must agree on the chain between them; if they do they become one
//! ```
//!
//! What is kept in memory grows with the holes of a line, not with its records. Records that compaction kept lie in holes:
//! they are held against each other, and against what is known of either end of what was released.

use crate::ids::Sequence;
use crate::journal::format::{Chain, Record};
use crate::manifest::released::ReleasedLine;
use std::collections::{BTreeMap, BTreeSet};

/// Where a line is not what it should be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ChainBreak {
    /// This record does not follow the one before it: one of them, or what lay between, is not what was written.
    Parts(Sequence),
    /// These records are not there, and nothing was kept of them.
    Missing {
        /// The first.
        first: Sequence,
        /// The last.
        last: Sequence,
    },
    /// The journal ends before what is known of the line.
    Short {
        /// Its last record.
        last: Sequence,
        /// Where it should end.
        expected: Sequence,
    },
}

/// What became of a head that somebody wrote down.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HeadVerdict {
    /// The line has the same chain there.
    Same,
    /// The line has another chain there: up to this sequence it is not the history it was.
    Differs,
    /// The records around it are gone, given back or lost; the chain is known before and after it.
    Unknown {
        /// The last sequence at or below it whose chain is known.
        before: Sequence,
        /// The first above it.
        after: Sequence,
    },
    /// The line does not go so far.
    Beyond {
        /// Where it ends.
        last: Sequence,
    },
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Span {
    before: Chain,
    last: Sequence,
    after: Chain,
    /// Whether it is of records that are gone, one span of them and nothing else.
    released: bool,
}

/// Stretches of a line whose chain is known.
#[derive(Debug, Default)]
struct Spans {
    /// By first sequence; they do not touch but where they contradict each other.
    spans: BTreeMap<Sequence, Span>,
    breaks: BTreeSet<Sequence>,
}

/// The chain of what one line wrote.
#[derive(Debug, Default)]
pub(crate) struct LineChain {
    /// What its first record follows: that of a branch follows its origin.
    base: Sequence,
    all: Spans,
    /// Records of segments that were compacted.
    kept: Spans,
    /// Chain after some sequences, as it was noted when the records up to there or from there on were released.
    edges: BTreeMap<Sequence, Chain>,
    /// Heads to be looked at, and what was found.
    heads: BTreeMap<Sequence, (Chain, Option<HeadVerdict>)>,
}

impl ChainBreak {
    /// Where it begins.
    pub(super) fn first(&self) -> Sequence {
        match self {
            Self::Parts(at) => *at,
            Self::Missing { first, .. } => *first,
            Self::Short { last, .. } => last.next(),
        }
    }
}

impl Spans {
    fn add(&mut self, first: Sequence, span: Span) {
        let covered = self.spans.range(..=first).next_back();
        if covered.is_some_and(|(_, there)| there.last >= first) {
            // A copy: where a record lies twice, each was checked by itself.
            return;
        }
        let (mut start, mut joined) = (first, span);
        if let Some((at, before)) = self.spans.range(..first).next_back().map(|(at, s)| (*at, *s))
            && before.last.next() == first
        {
            if before.after == span.before {
                self.spans.remove(&at);
                start = at;
                joined = Span { before: before.before, released: false, ..joined };
            } else {
                self.breaks.insert(first);
            }
        }
        let next = joined.last.next();
        if let Some(after) = self.spans.get(&next).copied() {
            if after.before == joined.after {
                self.spans.remove(&next);
                joined = Span { last: after.last, after: after.after, released: false, ..joined };
            } else {
                self.breaks.insert(next);
            }
        }
        self.spans.insert(start, joined);
    }
}

impl LineChain {
    /// One that begins after `base` and looks out for heads.
    pub(crate) fn new(base: Sequence, heads: impl IntoIterator<Item = (Sequence, Chain)>) -> Self {
        let heads = heads.into_iter().map(|(at, chain)| (at, (chain, None))).collect();
        Self { base, heads, ..Self::default() }
    }

    /// What its first record follows.
    pub(crate) fn base(&self) -> Sequence {
        self.base
    }

    /// A record of the line.
    pub(crate) fn take(&mut self, record: &Record) {
        let (first, span) = span_of(record);
        self.look_at_heads(first, &span);
        self.all.add(first, span);
    }

    /// A record that was kept when its segment was compacted.
    pub(crate) fn take_kept(&mut self, record: &Record) {
        let (first, span) = span_of(record);
        self.take_kept_span(first, span);
    }

    fn take_kept_span(&mut self, first: Sequence, span: Span) {
        self.look_at_heads(first, &span);
        let before = first.previous();
        let fits = |at: Sequence, chain| self.edges.get(&at).is_none_or(|known| *known == chain);
        if !fits(before, span.before) || !fits(span.last, span.after) {
            self.kept.breaks.insert(first);
        }
        self.kept.add(first, span);
    }

    /// What was kept of records that were gone when the round began.
    pub(crate) fn take_released(&mut self, gone: &ReleasedLine) {
        let (last, after) = (gone.tail.sequence, gone.tail.chain);
        let before = gone.first.previous();
        self.edges.insert(before, gone.chain_before);
        self.edges.insert(last, after);
        let span = Span { before: gone.chain_before, last, after, released: true };
        self.look_at_heads(gone.first, &span);
        self.all.add(gone.first, span);
    }

    /// The same at the end of the round: some of it may have gone since it was read, some before.
    pub(crate) fn take_released_since(&mut self, gone: &ReleasedLine) {
        let (mut due, mut before) = (gone.first, gone.chain_before);
        while due <= gone.tail.sequence {
            let spans = &self.all.spans;
            let covers = spans.range(..=due).next_back().filter(|(_, there)| there.last >= due);
            if let Some((_, there)) = covers {
                (due, before) = (there.last.next(), there.after);
                continue;
            }
            let next = spans.range(due..).next().filter(|(at, _)| **at <= gone.tail.sequence);
            let (last, after) = match next {
                Some((at, there)) => (Sequence::new(at.number() - 1), there.before),
                None => (gone.tail.sequence, gone.tail.chain),
            };
            let span = Span { before, last, after, released: true };
            self.look_at_heads(due, &span);
            self.all.add(due, span);
        }
    }

    fn look_at_heads(&mut self, first: Sequence, span: &Span) {
        for (at, (chain, verdict)) in self.heads.range_mut(first..=span.last) {
            if *at == span.last {
                let same = *chain == span.after;
                *verdict = Some(if same { HeadVerdict::Same } else { HeadVerdict::Differs });
            } else if verdict.is_none() && span.released {
                let before = first.previous();
                *verdict = Some(HeadVerdict::Unknown { before, after: span.last });
            }
        }
    }

    /// Where it is broken, given that it begins with nothing behind its base and goes up to `tail`.
    pub(crate) fn breaks(&self, tail: Sequence) -> Vec<ChainBreak> {
        let parts = self.all.breaks.union(&self.kept.breaks).copied();
        let mut breaks: Vec<_> = parts.map(ChainBreak::Parts).collect();
        let mut due = self.base.next();
        for (first, span) in &self.all.spans {
            if *first > due {
                let last = Sequence::new(first.number() - 1);
                breaks.push(ChainBreak::Missing { first: due, last });
            } else if *first == self.base.next() && span.before != Chain::default() {
                breaks.push(ChainBreak::Parts(*first));
            }
            due = span.last.next();
        }
        if due <= tail {
            let last = Sequence::new(due.number() - 1);
            breaks.push(ChainBreak::Short { last, expected: tail });
        }
        breaks
    }

    /// What became of each head.
    pub(crate) fn heads(&self) -> Vec<(Sequence, HeadVerdict)> {
        let last = self.all.spans.values().next_back().map_or(self.base, |span| span.last);
        let verdict = |(at, (chain, verdict)): (&Sequence, &(Chain, Option<HeadVerdict>))| {
            let nothing_yet = *at == self.base;
            let verdict = match verdict {
                Some(verdict) => *verdict,
                None if nothing_yet && *chain == Chain::default() => HeadVerdict::Same,
                None if *at > last => HeadVerdict::Beyond { last },
                None => self.hole_around(*at),
            };
            (*at, verdict)
        };
        self.heads.iter().map(verdict).collect()
    }

    fn hole_around(&self, at: Sequence) -> HeadVerdict {
        let before = self.all.spans.range(..=at).next_back().map(|(_, span)| span.last);
        let after = self.all.spans.range(at..).next().map(|(first, _)| *first);
        HeadVerdict::Unknown { before: before.unwrap_or(self.base), after: after.unwrap_or(at) }
    }
}

fn span_of(record: &Record) -> (Sequence, Span) {
    let (before, after) = (record.previous_chain, record.chain());
    (record.sequence, Span { before, last: record.sequence, after, released: false })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::index::tail_key::LineTail;
    use proptest::prelude::*;

    fn at(number: u64) -> Sequence {
        Sequence::new(number)
    }

    fn chain(number: u64) -> Chain {
        Chain([u8::try_from(number).expect("small"); 32])
    }

    /// Sequences `first..=last` of a line whose chain after sequence n is n.
    fn span(first: u64, last: u64) -> (Sequence, Span) {
        let (before, after) = (chain(first - 1), chain(last));
        (at(first), Span { before, last: at(last), after, released: false })
    }

    fn of(spans: &[(u64, u64)], heads: &[(u64, u64)]) -> LineChain {
        let heads = heads.iter().map(|(sequence, value)| (at(*sequence), chain(*value)));
        let mut line = LineChain::new(Sequence::default(), heads);
        for (first, last) in spans {
            let (first, span) = span(*first, *last);
            line.all.add(first, span);
            line.look_at_heads(first, &span);
        }
        line
    }

    #[test]
    fn holes_and_a_missing_end_are_named() {
        assert_eq!(of(&[(1, 3), (4, 9)], &[]).breaks(at(9)), []);
        assert_eq!(of(&[(4, 9), (1, 3)], &[]).all.spans.len(), 1);
        let holes = of(&[(3, 4), (7, 7)], &[]).breaks(at(9));
        let missing = |first, last| ChainBreak::Missing { first: at(first), last: at(last) };
        let short = ChainBreak::Short { last: at(7), expected: at(9) };
        assert_eq!(holes, [missing(1, 2), missing(5, 6), short]);
        assert_eq!(of(&[], &[]).breaks(at(0)), []);
    }

    #[test]
    fn a_branch_begins_behind_its_origin() {
        let at_origin = [(at(4), chain(0)), (at(5), chain(5))];
        let begun = |spans: &[(u64, u64)]| {
            let mut line = LineChain::new(at(4), at_origin);
            for (first, last) in spans {
                let (at_first, span) = span(*first, *last);
                let before = if *first == 5 { chain(0) } else { span.before };
                let span = Span { before, ..span };
                line.look_at_heads(at_first, &span);
                line.all.add(at_first, span);
            }
            line
        };
        assert_eq!(begun(&[]).breaks(at(4)), []);
        assert_eq!(begun(&[]).heads()[0], (at(4), HeadVerdict::Same));
        let whole = begun(&[(5, 5), (6, 9)]);
        assert_eq!(whole.breaks(at(9)), []);
        assert_eq!(whole.heads(), at_origin.map(|(at, _)| (at, HeadVerdict::Same)));
        let missing = ChainBreak::Missing { first: at(5), last: at(5) };
        assert_eq!(begun(&[(6, 9)]).breaks(at(9)), [missing]);
    }

    #[test]
    fn what_does_not_follow_is_named() {
        let mut line = of(&[(1, 3)], &[]);
        let (first, good) = span(4, 5);
        line.all.add(first, Span { before: chain(77), ..good });
        assert_eq!(line.breaks(at(5)), [ChainBreak::Parts(at(4))]);
        let mut line = LineChain::default();
        let (first, good) = span(1, 2);
        line.all.add(first, Span { before: chain(9), ..good });
        assert_eq!(line.breaks(at(2)), [ChainBreak::Parts(at(1))]);
    }

    #[test]
    fn heads_are_compared_where_the_chain_is_known() {
        let mut line =
            of(&[(1, 1), (2, 2), (9, 9)], &[(0, 0), (2, 2), (1, 7), (5, 5), (8, 8), (20, 20)]);
        let tail = LineTail { sequence: at(8), chain: chain(8), ..LineTail::default() };
        line.take_released(&ReleasedLine { first: at(3), chain_before: chain(2), tail });
        assert_eq!(line.breaks(at(9)), []);
        let released = HeadVerdict::Unknown { before: at(2), after: at(8) };
        let beyond = HeadVerdict::Beyond { last: at(9) };
        let expected = [
            (at(0), HeadVerdict::Same),
            (at(1), HeadVerdict::Differs),
            (at(2), HeadVerdict::Same),
            (at(5), released),
            (at(8), HeadVerdict::Same),
            (at(20), beyond),
        ];
        assert_eq!(line.heads(), expected);
    }

    fn released(first: u64, last: u64) -> ReleasedLine {
        let tail = LineTail { sequence: at(last), chain: chain(last), ..LineTail::default() };
        ReleasedLine { first: at(first), chain_before: chain(first - 1), tail }
    }

    #[test]
    fn what_was_released_while_it_was_read_leaves_no_hole() {
        let mut line = of(&[(1, 2), (5, 6), (11, 12)], &[(4, 4), (8, 8)]);
        line.take_released_since(&released(2, 10));
        assert_eq!(line.breaks(at(12)), []);
        assert_eq!(line.all.spans.len(), 1);
        let inside = |before, after| HeadVerdict::Unknown { before: at(before), after: at(after) };
        // What lies before a record that was read has the chain that the record names.
        assert_eq!(line.heads(), [(at(4), HeadVerdict::Same), (at(8), inside(6, 10))]);
        let mut line = of(&[(1, 2), (11, 12)], &[]);
        let wrong = ReleasedLine { chain_before: chain(99), ..released(3, 10) };
        line.take_released_since(&wrong);
        assert_eq!(line.breaks(at(12)), [ChainBreak::Parts(at(3))]);
    }

    #[test]
    fn records_that_were_kept_are_held_against_what_was_noted_of_the_others() {
        let kept = |spans: &[(u64, Span)]| {
            let mut line = of(&[(1, 2), (9, 9)], &[(5, 5), (6, 7)]);
            line.take_released(&released(3, 8));
            for (first, span) in spans {
                line.take_kept_span(at(*first), *span);
            }
            (line.breaks(at(9)), line.heads())
        };
        let one = |number| span(number, number).1;
        let good: Vec<_> = [3, 5, 6, 8].map(|number| (number, one(number))).into();
        let verdicts = vec![(at(5), HeadVerdict::Same), (at(6), HeadVerdict::Differs)];
        assert_eq!(kept(&good), (vec![], verdicts));
        let edges =
            [(3, Span { before: chain(77), ..one(3) }), (8, Span { after: chain(77), ..one(8) })];
        for (number, bad) in edges {
            assert_eq!(kept(&[(number, bad)]).0, [ChainBreak::Parts(at(number))]);
        }
        let parted = [(5, one(5)), (6, Span { before: chain(77), ..one(6) })];
        assert_eq!(kept(&parted).0, [ChainBreak::Parts(at(6))]);
    }

    proptest! {
        #[test]
        fn the_order_in_which_records_are_found_is_of_no_matter(
            cuts in proptest::collection::btree_set(2u64..60, 0..12),
            order in any::<u64>(),
        ) {
            let mut firsts: Vec<u64> = cuts.iter().copied().collect();
            firsts.insert(0, 1);
            let mut spans: Vec<_> = firsts
                .iter()
                .enumerate()
                .map(|(index, first)| (*first, firsts.get(index + 1).map_or(60, |next| next - 1)))
                .collect();
            let length = spans.len();
            let mut state = order;
            for index in 0..length {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                spans.swap(index, usize::try_from(state >> 33).expect("31 bits") % length);
            }
            let line = of(&spans, &[(60, 60)]);
            prop_assert_eq!(line.breaks(at(60)), []);
            prop_assert_eq!(line.all.spans.len(), 1);
            prop_assert_eq!(line.heads(), [(at(60), HeadVerdict::Same)]);
        }
    }
}
