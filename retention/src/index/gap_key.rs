//! Gaps of a line (key kind 6): the first and the last of sequences that were lost to media damage.
//!
//! ```text
//!   6 │ line 4 │ sequence 8  →  nothing
//! ```
//!
//! A block whose newest version lies below a gap may have been changed by what is lost; it reads as damaged until it is
//! written again. The first tells that to moments among those that were lost, the last to those behind them.

use super::{IndexBatch, IndexError, IndexStore, damaged};
use crate::ids::{LineId, Sequence};

const KIND: u8 = 6;
const KEY_BYTES: usize = 13;

fn key(line: LineId, sequence: Sequence) -> [u8; KEY_BYTES] {
    let mut key = [KIND; KEY_BYTES];
    key[1..5].copy_from_slice(&line.number().to_be_bytes());
    key[5..].copy_from_slice(&sequence.number().to_be_bytes());
    key
}

/// Sequences of a line, one after the other, that were lost.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Lost {
    /// The line that wrote them.
    pub line: LineId,
    /// The first of them.
    pub first: Sequence,
    /// The last of them.
    pub last: Sequence,
}

impl Lost {
    /// Adds its gaps.
    pub fn put(&self, batch: &mut IndexBatch) {
        put_gap(batch, self.line, self.first);
        put_gap(batch, self.line, self.last);
    }
}

pub(super) fn put_gap(batch: &mut IndexBatch, line: LineId, sequence: Sequence) {
    batch.put(key(line, sequence), []);
}

/// The range that holds the gaps of a line.
pub fn line_range(line: LineId) -> (Vec<u8>, Vec<u8>) {
    let after = LineId::new(line.number().strict_add(1));
    (key(line, Sequence::default()).to_vec(), key(after, Sequence::default()).to_vec())
}

/// All gaps of a line, in order.
pub fn read_gaps(store: &dyn IndexStore, line: LineId) -> Result<Vec<Sequence>, IndexError> {
    let first = key(line, Sequence::default());
    let mut gaps = Vec::new();
    let mut cursor = store.cursor();
    cursor.seek(&first)?;
    while let Some((at, _)) = cursor.entry() {
        if at.get(..5) != Some(&first[..5]) {
            break;
        }
        let number = at[5..].try_into().map(u64::from_be_bytes).map_err(|_| damaged(at))?;
        gaps.push(Sequence::new(number));
        cursor.advance()?;
    }
    Ok(gaps)
}
