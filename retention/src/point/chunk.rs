//! A run of points, packed: 20 bytes each, none of them an allocation of its own.
//!
//! ```text
//!   first sequence 8 │ points per kind 3 × 2 │ rows
//!   row              sequence − first, 30 bits │ kind, 2 bits │ commit time 8 │ source time 8
//! ```
//!
//! Rows are made of 32-bit words so that nothing is spent on alignment. **Invariants:** rows are sorted by sequence and
//! so by commit time; a chunk is never empty and has at most [`CHUNK_POINTS`] rows.

use super::{Point, PointKind};
use crate::ids::Sequence;
use crate::time::Timestamp;

/// Most points of a chunk.
pub(super) const CHUNK_POINTS: usize = 256;
/// Sequences of a chunk lie less than this apart.
const SPAN: u64 = 1 << 30;

/// A point without what is rare.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Plain {
    pub(super) sequence: u64,
    pub(super) commit: u64,
    pub(super) source: u64,
    pub(super) kind: PointKind,
}

#[derive(Clone, Copy, Debug)]
struct Row([u32; 5]);

/// A run of points.
#[derive(Clone, Debug)]
pub(super) struct Chunk {
    first: u64,
    /// How many there are of each kind, in the order of [`PointKind::ALL`].
    counts: [u16; 3],
    rows: Vec<Row>,
}

impl Plain {
    pub(super) fn of(point: &Point) -> Self {
        Self {
            sequence: point.sequence.number(),
            commit: point.commit_time.nanoseconds(),
            source: point.source_time.nanoseconds(),
            kind: point.kind,
        }
    }

    pub(super) fn sequence(&self) -> Sequence {
        Sequence::new(self.sequence)
    }

    pub(super) fn commit_time(&self) -> Timestamp {
        Timestamp::from_nanoseconds(self.commit)
    }
}

const fn place(kind: PointKind) -> usize {
    match kind {
        PointKind::App => 0,
        PointKind::Crash => 1,
        PointKind::Fuzzy => 2,
    }
}

const fn halves(number: u64) -> (u32, u32) {
    let bytes = number.to_le_bytes();
    let [a, b, c, d, e, f, g, h] = bytes;
    (u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h]))
}

fn whole(low: u32, high: u32) -> u64 {
    u64::from(low) | u64::from(high) << 32
}

impl Row {
    fn new(first: u64, plain: &Plain) -> Self {
        let offset = u32::try_from(plain.sequence - first).expect("within the span of a chunk");
        let kind = u32::try_from(place(plain.kind)).expect("one of three");
        let (commit_low, commit_high) = halves(plain.commit);
        let (source_low, source_high) = halves(plain.source);
        Self([offset << 2 | kind, commit_low, commit_high, source_low, source_high])
    }

    fn offset(self) -> u64 {
        u64::from(self.0[0] >> 2)
    }

    fn commit(self) -> u64 {
        whole(self.0[1], self.0[2])
    }

    fn plain(self, first: u64) -> Plain {
        Plain {
            sequence: first + self.offset(),
            commit: self.commit(),
            source: whole(self.0[3], self.0[4]),
            kind: PointKind::ALL[(self.0[0] & 3) as usize],
        }
    }
}

impl Chunk {
    /// The chunks of these points, which are sorted. None is allocated larger than it is.
    pub(super) fn pack(points: &[Plain]) -> Vec<Self> {
        let mut chunks: Vec<Self> = Vec::with_capacity(points.len().div_ceil(CHUNK_POINTS));
        for point in points {
            match chunks.last_mut() {
                Some(last) if last.takes(point) => last.push(point),
                _ => chunks.push(Self::starting_with(point)),
            }
        }
        chunks.iter_mut().for_each(|chunk| chunk.rows.shrink_to_fit());
        chunks
    }

    /// A chunk of one point.
    pub(super) fn starting_with(point: &Plain) -> Self {
        let mut chunk = Self { first: point.sequence, counts: [0; 3], rows: Vec::new() };
        chunk.push(point);
        chunk
    }

    /// Whether a point that follows all of it fits behind them.
    pub(super) fn takes(&self, point: &Plain) -> bool {
        self.rows.len() < CHUNK_POINTS && point.sequence - self.first < SPAN
    }

    pub(super) fn push(&mut self, point: &Plain) {
        self.counts[place(point.kind)] += 1;
        self.rows.push(Row::new(self.first, point));
    }

    pub(super) fn len(&self) -> usize {
        self.rows.len()
    }

    pub(super) fn get(&self, row: usize) -> Plain {
        self.rows[row].plain(self.first)
    }

    pub(super) fn first(&self) -> Plain {
        self.get(0)
    }

    pub(super) fn last(&self) -> Plain {
        self.get(self.rows.len() - 1)
    }

    pub(super) fn has(&self, kind: PointKind) -> bool {
        self.counts[place(kind)] > 0
    }

    pub(super) fn count(&self, kind: PointKind) -> usize {
        usize::from(self.counts[place(kind)])
    }

    /// The first row at or above `sequence`; the number of rows if there is none.
    pub(super) fn row_at_or_above(&self, sequence: u64) -> usize {
        let Some(offset) = sequence.checked_sub(self.first) else { return 0 };
        self.rows.partition_point(|row| row.offset() < offset)
    }

    /// The first row committed at or after `commit`; the number of rows if there is none.
    pub(super) fn row_at_or_after(&self, commit: u64) -> usize {
        self.rows.partition_point(|row| row.commit() < commit)
    }

    pub(super) fn points(&self) -> impl DoubleEndedIterator<Item = Plain> {
        self.rows.iter().map(|row| row.plain(self.first))
    }

    /// Bytes it takes, with what is reserved.
    pub(super) fn size_bytes(&self) -> usize {
        size_of::<Self>() + self.rows.capacity() * size_of::<Row>()
    }
}
