//! Moments of a line: boundaries (key kind 2) and marked points (key kind 3).
//!
//! ```text
//!   boundary  2 │ line 4 │ sequence 8   →  commit time 8
//!   point     3 │ line 4 │ sequence 8   →  kind 1 │ commit time 8 │ source time 8 │ label …
//! ```
//!
//! Every sequence that may be a point has a boundary; those that somebody marked have a point too. Commit times grow
//! along a line, so a time is found by halving the range of sequences.

use super::{Cursor, IndexBatch, IndexError, IndexStore, damaged};
use crate::ids::{LineId, Sequence};
use crate::name::Label;
use crate::point::{Catalogue, Point, PointKind};
use crate::time::Timestamp;

const BOUNDARY: u8 = 2;
const POINT: u8 = 3;
const KEY_BYTES: usize = 13;

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
pub fn boundary_at_or_before(
    store: &dyn IndexStore,
    line: LineId,
    newest: Sequence,
    time: Timestamp,
) -> Result<Option<Boundary>, IndexError> {
    let mut cursor = store.cursor();
    // Invariant: everything above `high` is too new; `best` is the newest known to be old enough.
    let (mut low, mut high) = (0u64, newest.number());
    let mut best = None;
    while low <= high {
        let middle = low + (high - low).div_ceil(2);
        match boundary_below(&mut *cursor, line, Sequence::new(middle))? {
            Some(boundary) if boundary.commit_time <= time => {
                low = middle.saturating_add(1);
                best = Some(boundary);
                if middle == u64::MAX {
                    break;
                }
            }
            Some(boundary) => {
                let Some(below) = boundary.sequence.number().checked_sub(1) else { break };
                high = below;
            }
            None => low = middle.saturating_add(1),
        }
    }
    Ok(best)
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
            steps in proptest::collection::vec((1u64..4, 0u64..3), 0..50),
            time in 0u64..120,
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
