//! Aborts: what a record took back of an earlier one, before anybody could see it.
//!
//! ```text
//!   ├ group: record 7 (data a, data b), record 8 ┤├ abort record 9: b of 7 ┤├ next group …
//!                                  nobody is answered, nothing is indexed up to here ┘
//! ```
//!
//! **Invariant:** an abort record stands in the segment of what it aborts, right behind the group that has it; a compacted segment that
//! keeps a record keeps its abort record. So whoever has read the records of a segment knows what is void, in whichever
//! order segments are read.

use super::format::{ExtentContent, Record};
use std::collections::BTreeSet;

/// Marks what the records of a segment take back of each other: it is void, and nobody indexes, copies or heals it.
pub(crate) fn apply_aborts<T>(records: &mut [T], record: impl Fn(&mut T) -> &mut Record) {
    let mut aborted = BTreeSet::new();
    for one in &mut *records {
        let one = record(one);
        for extent in &one.extents {
            if let ExtentContent::Abort { of } = extent.content {
                aborted.insert((
                    one.line,
                    of,
                    extent.disk,
                    extent.range.start(),
                    extent.range.end(),
                ));
            }
        }
    }
    if aborted.is_empty() {
        return;
    }
    for one in records {
        let one = record(one);
        for extent in &mut one.extents {
            let (start, end) = (extent.range.start(), extent.range.end());
            if aborted.contains(&(one.line, one.sequence, extent.disk, start, end)) {
                extent.content = extent.content.voided();
            }
        }
    }
}
