//! How many bytes a line has taken in the journal, sampled as it grows (key kind 7).
//!
//! ```text
//!   7 │ line 4 │ sequence 8  →  bytes 8        of all records of the line up to and with this one
//! ```
//!
//! What a stretch of history takes is the difference of two samples, so it costs two seeks however long it is, and it is
//! right to [`SAMPLE_BYTES`]. What follows the newest sample when the target stops is not counted: a line that is started
//! anew a thousand times is a GiB short.

use super::{IndexBatch, IndexError, IndexStore, damaged};
use crate::ids::{LineId, Sequence};
use std::collections::HashMap;

const USAGE: u8 = 7;
/// Bytes between two samples of a line, unless a record is longer.
pub const SAMPLE_BYTES: u64 = 1 << 20;

fn key(line: LineId, sequence: Sequence) -> [u8; 13] {
    let mut key = [USAGE; 13];
    key[1..5].copy_from_slice(&line.number().to_be_bytes());
    key[5..].copy_from_slice(&sequence.number().to_be_bytes());
    key
}

/// The range that holds nothing but the samples of a line.
pub fn line_range(line: LineId) -> (Vec<u8>, Vec<u8>) {
    let next = LineId::new(line.number().strict_add(1));
    (key(line, Sequence::default()).to_vec(), key(next, Sequence::default()).to_vec())
}

/// The bytes of the newest sample of a line at or below `sequence`; zero if there is none. Blocks.
pub fn bytes_at(
    store: &dyn IndexStore,
    line: LineId,
    sequence: Sequence,
) -> Result<u64, IndexError> {
    let mut cursor = store.cursor();
    cursor.seek_back(&key(line, sequence))?;
    sample(&*cursor, line)
}

/// The bytes before the first sample of a line above `sequence`: what forgotten samples had counted. Blocks.
fn bytes_after(
    store: &dyn IndexStore,
    line: LineId,
    sequence: Sequence,
) -> Result<u64, IndexError> {
    let mut cursor = store.cursor();
    cursor.seek(&key(line, Sequence::new(sequence.number().saturating_add(1))))?;
    Ok(sample(&*cursor, line)?.saturating_sub(SAMPLE_BYTES))
}

/// Bytes that the records of a line above `after` and up to `through` took. Blocks.
pub fn bytes_between(
    store: &dyn IndexStore,
    line: LineId,
    after: Sequence,
    through: Sequence,
) -> Result<u64, IndexError> {
    let end = bytes_at(store, line, through)?;
    let mut start = bytes_at(store, line, after)?;
    if start == 0 && after > Sequence::default() {
        start = bytes_after(store, line, after)?;
    }
    Ok(end.saturating_sub(start))
}

fn sample(cursor: &dyn super::Cursor, line: LineId) -> Result<u64, IndexError> {
    let (start, end) = line_range(line);
    match cursor.entry() {
        Some((key, value)) if (start.as_slice()..end.as_slice()).contains(&key) => {
            let value: [u8; 8] = value.try_into().map_err(|_| damaged(key))?;
            Ok(u64::from_be_bytes(value))
        }
        _ => Ok(0),
    }
}

/// Counts the bytes of lines and takes samples.
#[derive(Debug, Default)]
pub(crate) struct Sampler {
    lines: HashMap<LineId, Counted>,
}

#[derive(Debug, Clone, Copy)]
struct Counted {
    bytes: u64,
    sampled: u64,
}

impl Sampler {
    /// A record of a line is indexed: adds a sample to the batch if one is due. Blocks.
    pub(crate) fn note(
        &mut self,
        store: &dyn IndexStore,
        batch: &mut IndexBatch,
        (line, sequence): (LineId, Sequence),
        bytes: u64,
    ) -> Result<(), IndexError> {
        let counted = match self.lines.entry(line) {
            std::collections::hash_map::Entry::Occupied(entry) => entry.into_mut(),
            std::collections::hash_map::Entry::Vacant(entry) => {
                let before = bytes_at(store, line, Sequence::new(u64::MAX))?;
                entry.insert(Counted { bytes: before, sampled: before })
            }
        };
        counted.bytes = counted.bytes.saturating_add(bytes);
        if counted.bytes - counted.sampled >= SAMPLE_BYTES {
            counted.sampled = counted.bytes;
            batch.put(key(line, sequence), counted.bytes.to_be_bytes());
        }
        Ok(())
    }
}

/// Bytes that the records of a line took, up to a sequence and after the entry before.
pub(crate) type Taken = (LineId, Sequence, u64);

/// Bytes of lines while they cannot be counted on from what the index has: an entry a sample that will be due.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    taken: Vec<Taken>,
    /// Which entry is the last of a line.
    last: HashMap<LineId, usize>,
}

impl Tally {
    /// A record of a line was indexed.
    pub(crate) fn note(&mut self, (line, sequence): (LineId, Sequence), bytes: u64) {
        if let Some(last) = self.last.get(&line).map(|last| &mut self.taken[*last])
            && last.2 < SAMPLE_BYTES
        {
            *last = (line, sequence, last.2.saturating_add(bytes));
            return;
        }
        self.last.insert(line, self.taken.len());
        self.taken.push((line, sequence, bytes));
    }

    /// What was noted, of each line in order.
    pub(crate) fn into_taken(self) -> Vec<Taken> {
        self.taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::index::memory::MemoryIndex;

    const LINE: LineId = LineId::new(3);
    const KIB: u64 = 1 << 10;

    /// A record of 256 KiB at each of these sequences, each in a batch of its own, counted by `sampler`.
    fn grow(index: &MemoryIndex, sampler: &mut Sampler, sequences: std::ops::RangeInclusive<u64>) {
        for sequence in sequences {
            for line in [LINE, LineId::new(4)] {
                let mut batch = IndexBatch::default();
                let at = (line, Sequence::new(sequence));
                sampler.note(index, &mut batch, at, 256 * KIB).expect("in memory");
                index.write(batch).expect("in memory");
            }
        }
    }

    fn between(index: &MemoryIndex, after: u64, through: u64) -> u64 {
        bytes_between(index, LINE, Sequence::new(after), Sequence::new(through)).expect("sound")
    }

    #[test]
    fn a_stretch_is_the_difference_of_two_samples() {
        let index = MemoryIndex::default();
        grow(&index, &mut Sampler::default(), 1..=42);
        // Samples at 4, 8 … 40.
        assert_eq!(between(&index, 0, 42), 10 << 20);
        assert_eq!(between(&index, 8, 16), 2 << 20);
        assert_eq!(between(&index, 9, 18), 2 << 20);
        assert_eq!(between(&index, 9, 11), 0);
        assert_eq!(between(&index, 0, 3), 0);
        // Counted on from the newest sample after a restart.
        grow(&index, &mut Sampler::default(), 43..=46);
        assert_eq!(between(&index, 40, u64::MAX), 1 << 20);
    }

    #[test]
    fn samples_that_were_forgotten_are_not_missed() {
        let index = MemoryIndex::default();
        grow(&index, &mut Sampler::default(), 1..=40);
        let mut batch = IndexBatch::default();
        batch.remove_range(key(LINE, Sequence::default()), key(LINE, Sequence::new(20)));
        index.write(batch).expect("in memory");
        assert_eq!(between(&index, 18, 40), 6 << 20);
        let (start, end) = line_range(LINE);
        let mut batch = IndexBatch::default();
        batch.remove_range(start, end);
        index.write(batch).expect("in memory");
        assert_eq!(between(&index, 0, 40), 0);
        let other = bytes_at(&index, LineId::new(4), Sequence::new(40)).expect("sound");
        assert_eq!(other, 10 << 20);
    }
}
