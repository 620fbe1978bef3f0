//! The log (section 2.3): changes of metadata and BAT that were begun, so that they can be
//! finished.
//!
//! ```text
//!   log   │ … stale … │ entry 7 │ entry 8 │ entry 9 │ … stale …        a ring of 4 KiB sectors
//!                     ▲ tail              ▲ head: names the tail
//!   entry │ header, descriptors │ data sector │ data sector │ …
//! ```
//!
//! [`LogRing`] looks at the bytes of a whole log; [`LogRing::active`] finds the entries to be
//! replayed, and
//! [`ActiveLog::replay`] says what they do to the file. [`LogEntry::encode`] makes a new one.
//!
//! Nothing in an entry is trusted before its checksum, its GUID and the sequence numbers of all of
//! its parts agree: an entry
//! that was torn by a power cut is no entry.

mod active;
mod entry;
mod replay;

pub use self::active::{ActiveLog, LogRing};
pub use self::entry::{
    DESCRIPTORS_IN_FIRST_SECTOR, LOG_SECTOR_BYTES, LogChange, LogEntry, LogEntryHeader,
};
pub use self::replay::{Patch, Replay};

/// A sequence as if it had been found.
#[cfg(test)]
fn active_for_tests(entries: Vec<LogEntry>, offset: u64, length: u32) -> ActiveLog {
    ActiveLog { entries, end: 0, offset, length }
}
