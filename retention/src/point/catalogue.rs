//! The marked points of one line, in memory: millions of them at some 20 bytes each, any of them found in microseconds.
//!
//! ```text
//!   chunks   [ 256 points ][ 256 points ] … [ 256 points ][ up to 256 points ◀ new ones ]
//!   labels   sequence ↔ label, only for points that have one
//! ```
//!
//! A look-up halves the list of chunks, then the rows of one. Looking for a kind skips chunks that have none of it.
//! **Invariants:** chunks are sorted and never empty; every label belongs to a point that is there.

use super::chunk::{CHUNK_POINTS, Chunk, Plain};
use super::{KindSet, Point, PointHead, PointKind, PointOrder, PointQuery};
use crate::ids::Sequence;
use crate::name::Label;
use crate::time::Timestamp;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;

/// The marked points of one line, by sequence.
#[derive(Debug, Default, Clone)]
pub struct Catalogue {
    chunks: Vec<Chunk>,
    count: usize,
    labels: BTreeMap<Sequence, Label>,
    labelled: BTreeMap<Label, BTreeSet<Sequence>>,
}

/// A place between points: row `row` of chunk `chunk` is the first behind it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Place {
    chunk: usize,
    row: usize,
}

impl Catalogue {
    /// Adds a point; a point that is there already stays as it was.
    pub fn insert(&mut self, point: Point) {
        let plain = Plain::of(&point);
        let appended = match self.chunks.last_mut() {
            None => None,
            Some(last) if plain.sequence <= last.last().sequence => {
                if !self.insert_within(&plain) {
                    return;
                }
                Some(())
            }
            Some(last) => last.takes(&plain).then(|| last.push(&plain)),
        };
        if appended.is_none() {
            self.chunks.push(Chunk::starting_with(&plain));
        }
        self.count += 1;
        if let Some(label) = point.label {
            self.labelled.entry(label.clone()).or_default().insert(point.sequence);
            self.labels.insert(point.sequence, label);
        }
    }

    /// Adds a point before the last one; `false` if it is there.
    fn insert_within(&mut self, plain: &Plain) -> bool {
        let at = self.at_or_above(plain.sequence);
        if self.plain(at).is_some_and(|there| there.sequence == plain.sequence) {
            return false;
        }
        let mut points: Vec<Plain> = self.chunks[at.chunk].points().collect();
        points.insert(at.row, *plain);
        self.chunks.splice(at.chunk..=at.chunk, Chunk::pack(&points));
        true
    }

    /// Takes away the points in `range` that `stays` does not want; how many went.
    pub fn retain(
        &mut self,
        range: RangeInclusive<Sequence>,
        mut stays: impl FnMut(Sequence) -> bool,
    ) -> usize {
        let from = self.at_or_above(range.start().number());
        let touches = |chunk: &Chunk| chunk.first().sequence <= range.end().number();
        let end = self.chunks[from.chunk..].partition_point(touches) + from.chunk;
        if from.chunk >= end {
            return 0;
        }
        let mut gone = Vec::new();
        let mut left = Vec::new();
        for point in self.chunks[from.chunk..end].iter().flat_map(Chunk::points) {
            if range.contains(&point.sequence()) && !stays(point.sequence()) {
                gone.push(point.sequence());
            } else {
                left.push(point);
            }
        }
        if gone.is_empty() {
            return 0;
        }
        // What thinning leaves of chunks is put together, or a line would end up with a chunk per few points.
        let mut start = from.chunk;
        if let Some(before) = start.checked_sub(1)
            && self.chunks[before].len() + left.len() <= CHUNK_POINTS
        {
            left.splice(..0, self.chunks[before].points());
            start = before;
        }
        self.chunks.splice(start..end, Chunk::pack(&left));
        self.count -= gone.len();
        gone.iter().for_each(|sequence| self.forget_label(*sequence));
        gone.len()
    }

    /// Takes away every point below `sequence`.
    pub fn drop_below(&mut self, sequence: Sequence) {
        if let Some(last) = sequence.number().checked_sub(1) {
            self.retain(Sequence::default()..=Sequence::new(last), |_| false);
        }
    }

    fn forget_label(&mut self, sequence: Sequence) {
        let Some(label) = self.labels.remove(&sequence) else { return };
        if let Some(points) = self.labelled.get_mut(&label) {
            points.remove(&sequence);
            if points.is_empty() {
                self.labelled.remove(&label);
            }
        }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Bytes of memory it takes, labels not counted.
    pub fn size_bytes(&self) -> usize {
        let spare = self.chunks.capacity() - self.chunks.len();
        self.chunks.iter().map(Chunk::size_bytes).sum::<usize>() + spare * size_of::<Chunk>()
    }

    /// All, oldest first.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = Point> {
        self.chunks.iter().flat_map(Chunk::points).map(|plain| self.whole(&plain))
    }

    /// The sequences of all, in order.
    pub fn sequences(&self) -> impl Iterator<Item = Sequence> {
        self.chunks.iter().flat_map(Chunk::points).map(|plain| plain.sequence())
    }

    /// The point at exactly this sequence.
    pub fn at(&self, sequence: Sequence) -> Option<Point> {
        let found = self.plain(self.at_or_above(sequence.number()))?;
        (found.sequence() == sequence).then(|| self.whole(&found))
    }

    /// The newest consistent point.
    pub fn latest(&self) -> Option<Point> {
        self.newest_of(KindSet::from_iter([PointKind::App, PointKind::Crash]), self.end())
    }

    /// The newest app point.
    pub fn app(&self) -> Option<Point> {
        self.newest_of(KindSet::from_iter([PointKind::App]), self.end())
    }

    /// The newest point committed at or before `time`. A fuzzy point is chosen only if that is its very time.
    pub fn at_or_before(&self, time: Timestamp) -> Option<Point> {
        let behind = self.behind_time(time);
        match self.before(behind) {
            Some(newest) if newest.commit_time() == time => Some(self.whole(&newest)),
            _ => self.newest_of(KindSet::from_iter([PointKind::App, PointKind::Crash]), behind),
        }
    }

    /// The newest point with this label.
    pub fn labelled(&self, label: &Label) -> Option<Point> {
        self.at(*self.labelled.get(label)?.last()?)
    }

    /// The oldest point.
    pub fn oldest(&self) -> Option<Point> {
        self.chunks.first().map(|chunk| self.whole(&chunk.first()))
    }

    /// The newest point of any kind.
    pub fn newest(&self) -> Option<Point> {
        self.chunks.last().map(|chunk| self.whole(&chunk.last()))
    }

    /// The newest point below `sequence` and the oldest one above it.
    pub fn neighbours(&self, sequence: Sequence) -> (Option<Point>, Option<Point>) {
        let at = self.at_or_above(sequence.number());
        let above = match sequence.number().checked_add(1) {
            Some(next) => self.plain(self.at_or_above(next)),
            None => None,
        };
        let whole = |plain: Plain| self.whole(&plain);
        (self.before(at).map(whole), above.map(whole))
    }

    /// A page of a listing.
    pub fn list(&self, query: &PointQuery) -> Vec<Point> {
        let from = self.at_or_after_time(query.from);
        let to = self.behind_time(query.to);
        let newest_first = query.order == PointOrder::NewestFirst;
        let (from, to) = match query.after {
            None => (from, to),
            Some(last) if newest_first => (from, to.min(self.at_or_above(last.number()))),
            Some(last) => {
                let next = last.number().checked_add(1);
                (from.max(next.map_or(self.end(), |next| self.at_or_above(next))), to)
            }
        };
        let chunks = from.chunk..self.chunks.len().min(to.chunk + 1);
        if from >= to || chunks.is_empty() {
            return Vec::new();
        }
        let wanted = |index: &usize| {
            PointKind::ALL
                .iter()
                .any(|kind| query.kinds.has(*kind) && self.chunks[*index].has(*kind))
        };
        let rows = |index: usize| {
            let first = if index == from.chunk { from.row } else { 0 };
            let last = if index == to.chunk { to.row } else { self.chunks[index].len() };
            (first..last).map(move |row| self.chunks[index].get(row))
        };
        let fits = |plain: &Plain| query.kinds.has(plain.kind);
        let whole = |plain: Plain| self.whole(&plain);
        let chunks = chunks.filter(wanted);
        if newest_first {
            let points = chunks.rev().flat_map(|index| rows(index).rev());
            points.filter(fits).take(query.limit).map(whole).collect()
        } else {
            chunks.flat_map(rows).filter(fits).take(query.limit).map(whole).collect()
        }
    }

    /// What a policy looks at in the points committed from `from` to before `to`, oldest first.
    pub fn heads(&self, from: Timestamp, to: Timestamp) -> impl Iterator<Item = PointHead> {
        let start = self.at_or_after_time(from);
        let behind = self.at_or_after_time(to);
        let chunks = self.chunks.iter().enumerate().skip(start.chunk);
        let chunks = chunks.take_while(move |(index, _)| *index <= behind.chunk);
        chunks.flat_map(move |(index, chunk)| {
            let first = if index == start.chunk { start.row } else { 0 };
            let last = if index == behind.chunk { behind.row } else { chunk.len() };
            (first..last).map(|row| self.head(&chunk.get(row)))
        })
    }

    /// How many points of each kind there are, in the order of [`PointKind::ALL`].
    pub fn counts(&self) -> [usize; 3] {
        PointKind::ALL.map(|kind| self.chunks.iter().map(|chunk| chunk.count(kind)).sum())
    }

    /// The newest point of one of `kinds` before `place`.
    fn newest_of(&self, kinds: KindSet, place: Place) -> Option<Point> {
        let has =
            |chunk: &Chunk| PointKind::ALL.iter().any(|kind| kinds.has(*kind) && chunk.has(*kind));
        for index in (0..self.chunks.len().min(place.chunk + 1)).rev() {
            let chunk = &self.chunks[index];
            if !has(chunk) {
                continue;
            }
            let rows = if index == place.chunk { place.row } else { chunk.len() };
            let mut points = (0..rows).rev().map(|row| chunk.get(row));
            if let Some(found) = points.find(|plain| kinds.has(plain.kind)) {
                return Some(self.whole(&found));
            }
        }
        None
    }

    fn end(&self) -> Place {
        Place { chunk: self.chunks.len(), row: 0 }
    }

    fn plain(&self, place: Place) -> Option<Plain> {
        self.chunks.get(place.chunk).map(|chunk| chunk.get(place.row))
    }

    /// The last point before `place`.
    fn before(&self, place: Place) -> Option<Plain> {
        match place.row.checked_sub(1) {
            Some(row) => Some(self.chunks[place.chunk].get(row)),
            None => Some(self.chunks[place.chunk.checked_sub(1)?].last()),
        }
    }

    /// The first point at or above `sequence`, or the end.
    fn at_or_above(&self, sequence: u64) -> Place {
        let chunk = self.chunks.partition_point(|chunk| chunk.last().sequence < sequence);
        let row = self.chunks.get(chunk).map_or(0, |chunk| chunk.row_at_or_above(sequence));
        Place { chunk, row }
    }

    /// The first point committed at or after `time`, or the end.
    fn at_or_after_time(&self, time: Timestamp) -> Place {
        let time = time.nanoseconds();
        let chunk = self.chunks.partition_point(|chunk| chunk.last().commit < time);
        let row = self.chunks.get(chunk).map_or(0, |chunk| chunk.row_at_or_after(time));
        Place { chunk, row }
    }

    /// The first point committed after `time`, or the end.
    fn behind_time(&self, time: Timestamp) -> Place {
        match time.nanoseconds().checked_add(1) {
            Some(next) => self.at_or_after_time(Timestamp::from_nanoseconds(next)),
            None => self.end(),
        }
    }

    fn whole(&self, plain: &Plain) -> Point {
        Point {
            sequence: plain.sequence(),
            commit_time: plain.commit_time(),
            source_time: Timestamp::from_nanoseconds(plain.source),
            kind: plain.kind,
            label: self.labels.get(&plain.sequence()).cloned(),
        }
    }

    fn head(&self, plain: &Plain) -> PointHead {
        PointHead {
            sequence: plain.sequence(),
            commit_time: plain.commit_time(),
            kind: plain.kind,
            labelled: self.labels.contains_key(&plain.sequence()),
        }
    }
}
