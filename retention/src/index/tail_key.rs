//! Where lines and lanes stand: tails (key kind 4), progress (key kind 5) and what compaction moved (key kind 8).
//!
//! ```text
//!   tail      4 │ line 4  →  sequence 8 │ commit time 8 │ generation 8 │ stream 16 │ position 8 │ chain 32
//!   progress  5 │ lane 2  →  lane sequence 8
//!   moved     8 │ lane 2  →  segment 4
//! ```
//!
//! The first two are part of every write of the index, so after a crash they say exactly what the index holds; recovery goes
//! on from there with the journal. The third says up to which compacted segment the index leads into them: one that is
//! older, from a checkpoint, still leads to what was copied.

use super::{IndexBatch, IndexError, IndexStore, damaged};
use crate::ids::{
    Generation, LaneId, LaneSequence, LineId, Position, SegmentId, Sequence, StreamId,
};
use crate::journal::format::Chain;
use crate::time::Timestamp;

const TAIL: u8 = 4;
const PROGRESS: u8 = 5;
const MOVED: u8 = 8;

/// The end of a line: what the next record continues.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct LineTail {
    /// Last sequence given.
    pub sequence: Sequence,
    /// Its commit time.
    pub commit_time: Timestamp,
    /// Generation of the last record that came from a stream.
    pub generation: Generation,
    /// Stream of that record.
    pub stream: StreamId,
    /// Position of that record.
    pub position: Position,
    /// Chain value after the last record.
    pub chain: Chain,
}

impl LineTail {
    /// Last position the line has of this stream in this generation; zero if it has none.
    pub fn position_of(&self, generation: Generation, stream: StreamId) -> Position {
        if self.generation == generation && self.stream == stream {
            self.position
        } else {
            Position::default()
        }
    }
}

fn tail_key(line: LineId) -> [u8; 5] {
    let mut key = [TAIL; 5];
    key[1..].copy_from_slice(&line.number().to_be_bytes());
    key
}

fn lane_key(kind: u8, lane: LaneId) -> [u8; 3] {
    let mut key = [kind; 3];
    key[1..].copy_from_slice(&lane.number().to_be_bytes());
    key
}

/// The range that holds nothing but the tail of a line.
pub fn tail_range(line: LineId) -> (Vec<u8>, Vec<u8>) {
    (tail_key(line).to_vec(), tail_key(LineId::new(line.number().strict_add(1))).to_vec())
}

/// Sets the tail of a line.
pub fn put_tail(batch: &mut IndexBatch, line: LineId, tail: &LineTail) {
    let mut value = Vec::with_capacity(80);
    value.extend_from_slice(&tail.sequence.number().to_be_bytes());
    value.extend_from_slice(&tail.commit_time.nanoseconds().to_be_bytes());
    value.extend_from_slice(&tail.generation.number().to_be_bytes());
    value.extend_from_slice(&tail.stream.bytes());
    value.extend_from_slice(&tail.position.number().to_be_bytes());
    value.extend_from_slice(&tail.chain.0);
    batch.put(tail_key(line), value);
}

/// The tail of a line; that of an empty line if it has none.
pub fn read_tail(store: &dyn IndexStore, line: LineId) -> Result<LineTail, IndexError> {
    let key = tail_key(line);
    let Some(value) = store.get(&key)? else { return Ok(LineTail::default()) };
    parse_tail(&value).ok_or_else(|| damaged(&key))
}

fn parse_tail(value: &[u8]) -> Option<LineTail> {
    let value: &[u8; 80] = value.try_into().ok()?;
    let number = |at: usize| value[at..at + 8].try_into().map(u64::from_be_bytes).ok();
    Some(LineTail {
        sequence: Sequence::new(number(0)?),
        commit_time: Timestamp::from_nanoseconds(number(8)?),
        generation: Generation::new(number(16)?),
        stream: StreamId::new(value[24..40].try_into().ok()?),
        position: Position::new(number(40)?),
        chain: Chain(value[48..80].try_into().ok()?),
    })
}

/// Sets how far a lane is indexed.
pub fn put_progress(batch: &mut IndexBatch, lane: LaneId, through: LaneSequence) {
    batch.put(lane_key(PROGRESS, lane), through.number().to_be_bytes());
}

/// How far a lane is indexed; zero if nothing is.
pub fn read_progress(store: &dyn IndexStore, lane: LaneId) -> Result<LaneSequence, IndexError> {
    let key = lane_key(PROGRESS, lane);
    match store.get(&key)? {
        None => Ok(LaneSequence::default()),
        Some(value) => {
            let bytes = value.as_slice().try_into().map_err(|_| damaged(&key))?;
            Ok(LaneSequence::new(u64::from_be_bytes(bytes)))
        }
    }
}

/// Sets the newest compacted segment of a lane that the index leads into.
pub fn put_moved(batch: &mut IndexBatch, lane: LaneId, newest: SegmentId) {
    batch.put(lane_key(MOVED, lane), newest.number().to_be_bytes());
}

/// The newest compacted segment of a lane that the index leads into, segment 0 if it leads into none. Nothing is said by an
/// index from before this was noted, which leads into all there are.
pub fn read_moved(store: &dyn IndexStore, lane: LaneId) -> Result<Option<SegmentId>, IndexError> {
    let key = lane_key(MOVED, lane);
    let Some(value) = store.get(&key)? else { return Ok(None) };
    let bytes = value.as_slice().try_into().map_err(|_| damaged(&key))?;
    Ok(Some(SegmentId::new(u32::from_be_bytes(bytes))))
}

#[cfg(test)]
mod tests {
    use super::super::memory::MemoryIndex;
    use super::*;

    #[test]
    fn tails_progress_and_what_was_moved_read_back() {
        let store = MemoryIndex::default();
        let line = LineId::new(3);
        let tail = LineTail {
            sequence: Sequence::new(1),
            commit_time: Timestamp::from_nanoseconds(2),
            generation: Generation::new(3),
            stream: StreamId::new([4; 16]),
            position: Position::new(5),
            chain: Chain([6; 32]),
        };
        let mut batch = IndexBatch::default();
        put_tail(&mut batch, line, &tail);
        put_progress(&mut batch, LaneId::new(1), LaneSequence::new(9));
        put_moved(&mut batch, LaneId::new(1), SegmentId::new(70));
        store.write(batch).unwrap();
        assert_eq!(read_moved(&store, LaneId::new(1)).unwrap(), Some(SegmentId::new(70)));
        assert_eq!(read_moved(&store, LaneId::new(0)).unwrap(), None);
        assert_eq!(read_tail(&store, line).unwrap(), tail);
        assert_eq!(read_tail(&store, LineId::new(4)).unwrap(), LineTail::default());
        assert_eq!(read_progress(&store, LaneId::new(1)).unwrap(), LaneSequence::new(9));
        assert_eq!(read_progress(&store, LaneId::new(0)).unwrap(), LaneSequence::new(0));
    }
}
