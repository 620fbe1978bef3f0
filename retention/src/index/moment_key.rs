//! Moments of a line: boundaries (key kind 2) and marked points (key kind 3).
//!
//! ```text
//!   boundary  2 │ line 4 │ sequence 8   →  commit time 8
//!   point     3 │ line 4 │ sequence 8   →  kind 1 │ commit time 8 │ source time 8 │ label …
//! ```
//!
//! Every sequence that may be a point has a boundary; those that somebody marked have a point too. Commit times grow
//! along a line, so a time is found by computing where it should be.

use super::{Cursor, IndexBatch, IndexError, IndexStore, damaged};
use crate::ids::{LineId, Sequence};
use crate::name::Label;
use crate::point::{Catalogue, Point, PointKind};
use crate::time::Timestamp;

const BOUNDARY: u8 = 2;
const POINT: u8 = 3;
const KEY_BYTES: usize = 13;
/// Boundaries that are walked over from where a time is thought to be: a step costs far less than a look.
const NEIGHBOURS: u64 = 8;

/// A sequence that may be a point.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Boundary {
    /// Where in the line.
    pub sequence: Sequence,
    /// When it was committed.
    pub commit_time: Timestamp,
}

fn key(kind: u8, line: LineId, sequence: Sequence) -> [u8; KEY_BYTES] {
    let mut key = [kind; KEY_BYTES];
    key[1..5].copy_from_slice(&line.number().to_be_bytes());
    key[5..].copy_from_slice(&sequence.number().to_be_bytes());
    key
}

/// Ranges of keys of a line, to be removed with it.
pub fn line_ranges(line: LineId) -> [(Vec<u8>, Vec<u8>); 2] {
    let after = LineId::new(line.number().strict_add(1));
    let first = Sequence::default();
    [BOUNDARY, POINT]
        .map(|kind| (key(kind, line, first).to_vec(), key(kind, after, first).to_vec()))
}

/// Adds a boundary.
pub fn put_boundary(batch: &mut IndexBatch, line: LineId, boundary: Boundary) {
    batch.put(
        key(BOUNDARY, line, boundary.sequence),
        boundary.commit_time.nanoseconds().to_be_bytes(),
    );
}

/// Adds a marked point.
pub fn put_point(batch: &mut IndexBatch, line: LineId, point: &Point) {
    let mut value = vec![match point.kind {
        PointKind::App => 1,
        PointKind::Crash => 2,
        PointKind::Fuzzy => 3,
    }];
    value.extend_from_slice(&point.commit_time.nanoseconds().to_be_bytes());
    value.extend_from_slice(&point.source_time.nanoseconds().to_be_bytes());
    value.extend_from_slice(point.label.as_ref().map_or("", Label::as_str).as_bytes());
    batch.put(key(POINT, line, point.sequence), value);
}

/// Reads all marked points of a line.
pub fn read_points(store: &dyn IndexStore, line: LineId) -> Result<Catalogue, IndexError> {
    let mut catalogue = Catalogue::default();
    let first = key(POINT, line, Sequence::default());
    let mut cursor = store.cursor();
    cursor.seek(&first)?;
    while let Some((at, value)) = cursor.entry() {
        if at.get(..5) != Some(&first[..5]) {
            break;
        }
        catalogue.insert(parse_point(at, value).ok_or_else(|| damaged(at))?);
        cursor.advance()?;
    }
    Ok(catalogue)
}

fn parse_point(key: &[u8], value: &[u8]) -> Option<Point> {
    let kind = match value.first()? {
        1 => PointKind::App,
        2 => PointKind::Crash,
        3 => PointKind::Fuzzy,
        _ => return None,
    };
    let time = |at: usize| Some(Timestamp::from_nanoseconds(number(value.get(at..at + 8)?)?));
    let label = match std::str::from_utf8(value.get(17..)?).ok()? {
        "" => None,
        text => Some(Label::parse(text).ok()?),
    };
    Some(Point {
        sequence: Sequence::new(number(key.get(5..KEY_BYTES)?)?),
        commit_time: time(1)?,
        source_time: time(9)?,
        kind,
        label,
    })
}

/// The marked point of the line at `sequence`, whether or not it was dropped.
pub fn point_at(
    store: &dyn IndexStore,
    line: LineId,
    sequence: Sequence,
) -> Result<Option<Point>, IndexError> {
    let key = key(POINT, line, sequence);
    let Some(value) = store.get(&key)? else { return Ok(None) };
    Ok(Some(parse_point(&key, &value).ok_or_else(|| damaged(&key))?))
}

/// Whether `sequence` is a boundary of the line, and when it was committed.
pub fn boundary_at(
    store: &dyn IndexStore,
    line: LineId,
    sequence: Sequence,
) -> Result<Option<Boundary>, IndexError> {
    let key = key(BOUNDARY, line, sequence);
    let Some(value) = store.get(&key)? else { return Ok(None) };
    let time = number(&value).ok_or_else(|| damaged(&key))?;
    Ok(Some(Boundary { sequence, commit_time: Timestamp::from_nanoseconds(time) }))
}

/// The newest boundary of the line at or below `sequence`.
pub fn boundary_at_or_below(
    store: &dyn IndexStore,
    line: LineId,
    sequence: Sequence,
) -> Result<Option<Boundary>, IndexError> {
    boundary_below(&mut *store.cursor(), line, sequence)
}

/// The oldest boundary of the line at or above `sequence`.
pub fn boundary_at_or_above(
    store: &dyn IndexStore,
    line: LineId,
    sequence: Sequence,
) -> Result<Option<Boundary>, IndexError> {
    let mut cursor = store.cursor();
    let key = key(BOUNDARY, line, sequence);
    cursor.seek(&key)?;
    parse_boundary(&*cursor, &key)
}

fn boundary_below(
    cursor: &mut dyn Cursor,
    line: LineId,
    sequence: Sequence,
) -> Result<Option<Boundary>, IndexError> {
    let key = key(BOUNDARY, line, sequence);
    cursor.seek_back(&key)?;
    parse_boundary(cursor, &key)
}

/// The boundary at which a cursor stands, if it is one of the line of `key`.
fn parse_boundary(cursor: &dyn Cursor, key: &[u8]) -> Result<Option<Boundary>, IndexError> {
    match cursor.entry() {
        Some((at, value)) if at.get(..5) == Some(&key[..5]) => {
            let parsed = number(&at[5..]).zip(number(value));
            let (sequence, time) = parsed.ok_or_else(|| damaged(at))?;
            Ok(Some(Boundary {
                sequence: Sequence::new(sequence),
                commit_time: Timestamp::from_nanoseconds(time),
            }))
        }
        _ => Ok(None),
    }
}

/// The newest boundary of the line, at or below `newest`, that was committed at or before `time`.
///
/// Times of a source that is at work lie evenly, so where the time should be is computed from the ends of what is left, and
/// a few neighbours are looked at. Every third step halves what is left: a line with long rests costs a few times its
/// logarithm at most.
pub fn boundary_at_or_before(
    store: &dyn IndexStore,
    line: LineId,
    newest: Sequence,
    time: Timestamp,
) -> Result<Option<Boundary>, IndexError> {
    let mut cursor = store.cursor();
    let Some(last) = boundary_below(&mut *cursor, line, newest)? else { return Ok(None) };
    if last.commit_time <= time {
        return Ok(Some(last));
    }
    let first = key(BOUNDARY, line, Sequence::default());
    cursor.seek(&first)?;
    let first = parse_boundary(&*cursor, &first)?.filter(|first| first.commit_time <= time);
    let Some(first) = first else { return Ok(None) };
    let mut left = Left { best: first, above: first.sequence.number(), high: last };
    for step in 0.. {
        let Some(middle) = left.next(time, step) else { break };
        let found = boundary_below(&mut *cursor, line, Sequence::new(middle))?;
        let Some(found) = found.filter(|found| found.sequence > left.best.sequence) else {
            left.above = middle;
            continue;
        };
        if found.commit_time > time {
            left.high = found;
            continue;
        }
        left.best = found;
        left.above = middle;
        for _ in 0..NEIGHBOURS {
            cursor.advance()?;
            let key = key(BOUNDARY, line, left.best.sequence);
            match parse_boundary(&*cursor, &key)? {
                Some(next) if next.commit_time <= time => left.best = next,
                _ => return Ok(Some(left.best)),
            }
        }
        left.above = left.above.max(left.best.sequence.number());
    }
    Ok(Some(left.best))
}

/// Where a boundary of a time may still be.
struct Left {
    /// The newest that is known to be old enough.
    best: Boundary,
    /// There is none between `best` and this sequence, nor at it.
    above: u64,
    /// The oldest that is known to be too new.
    high: Boundary,
}

impl Left {
    /// The sequence to look at next; nothing once there is none between the two.
    fn next(&self, time: Timestamp, step: u32) -> Option<u64> {
        let (lowest, highest) = (self.above.checked_add(1)?, self.high.sequence.number() - 1);
        if lowest > highest {
            return None;
        }
        if step % 3 == 2 {
            return Some(lowest + (highest - lowest) / 2);
        }
        let nanoseconds = |of: Timestamp| u128::from(of.nanoseconds());
        let begins = nanoseconds(self.best.commit_time);
        let takes = nanoseconds(self.high.commit_time) - begins;
        let from = self.best.sequence.number();
        let sequences = u128::from(self.high.sequence.number() - from);
        let part = sequences * (nanoseconds(time) - begins) / takes;
        // A little too early: neighbours are looked at upwards.
        let part = u64::try_from(part).expect("a part of it").saturating_sub(NEIGHBOURS / 2);
        Some((from + part).clamp(lowest, highest))
    }
}

fn number(bytes: &[u8]) -> Option<u64> {
    bytes.try_into().map(u64::from_be_bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::super::memory::MemoryIndex;
    use super::*;
    use proptest::prelude::*;

    const LINE: LineId = LineId::new(7);

    #[test]
    fn points_read_back() {
        let store = MemoryIndex::default();
        let mut batch = IndexBatch::default();
        let point = Point {
            sequence: Sequence::new(5),
            commit_time: Timestamp::from_nanoseconds(6),
            source_time: Timestamp::from_nanoseconds(4),
            kind: PointKind::App,
            label: Some(Label::parse("before patch").unwrap()),
        };
        put_point(&mut batch, LINE, &point);
        put_point(&mut batch, LineId::new(8), &Point { kind: PointKind::Fuzzy, ..point.clone() });
        store.write(batch).unwrap();
        let read = read_points(&store, LINE).unwrap();
        assert_eq!(read.iter().collect::<Vec<_>>(), [point]);
    }

    proptest! {
        #[test]
        fn a_time_finds_what_a_walk_finds(
            steps in proptest::collection::vec((1u64..4, prop_oneof![0u64..3, 0u64..3, 40u64..50]), 0..60),
            time in 0u64..600,
            newest in 0u64..200,
        ) {
            let store = MemoryIndex::default();
            let mut batch = IndexBatch::default();
            let (mut sequence, mut commit) = (0, 0);
            let mut boundaries = Vec::new();
            for (skip, later) in steps {
                sequence += skip;
                commit += later;
                let boundary = Boundary {
                    sequence: Sequence::new(sequence),
                    commit_time: Timestamp::from_nanoseconds(commit),
                };
                put_boundary(&mut batch, LINE, boundary);
                boundaries.push(boundary);
            }
            store.write(batch).unwrap();
            let time = Timestamp::from_nanoseconds(time);
            let newest = Sequence::new(newest);
            let above = boundaries.iter().find(|b| b.sequence >= newest).copied();
            prop_assert_eq!(boundary_at_or_above(&store, LINE, newest).unwrap(), above);
            let walked = boundaries.into_iter().rev()
                .find(|b| b.sequence <= newest && b.commit_time <= time);
            prop_assert_eq!(boundary_at_or_before(&store, LINE, newest, time).unwrap(), walked);
        }
    }
}
