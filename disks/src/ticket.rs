//! Changes that may be taken back as long as nobody can see them: what an aborted command of a client is for a disk.
//!
//! ```text
//!            ┌─ abort ──▶ aborted       nothing of it is ever seen
//!   open ────┤
//!            └─ commit ─▶ committed     what was begun of it comes to be; aborting it is too late
//!                             └─ abort ─▶ unwanted    nothing more of it is begun
//! ```
//!
//! One ticket goes with all changes of a command. **Invariant:** it is decided once, for all of them: a command that was aborted in time
//! leaves nothing. One that was aborted too late ends with what has its place in the order of writes by then: whatever came later would
//! lie over what others have written since the abort.

use crate::block::{ByteOffset, ByteRange};
use crate::disk::{Durability, ZeroMode};
use crate::uring::buffer::Buffer;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

const OPEN: u8 = 0;
const ABORTED: u8 = 1;
const COMMITTED: u8 = 2;
const UNWANTED: u8 = 3;

/// Whether changes that are under way may still be taken back. Clones are the same ticket.
#[derive(Clone, Debug, Default)]
pub struct Ticket(Arc<AtomicU8>);

impl Ticket {
    /// Takes back what it stands for. False if that is too late: then what was begun of it comes to be.
    pub fn abort(&self) -> bool {
        let aborted = |state| match state {
            OPEN => Some(ABORTED),
            COMMITTED => Some(UNWANTED),
            _ => None,
        };
        self.change(aborted) == ABORTED
    }

    /// What was begun of it comes to be, from here on whatever happens. False if it was aborted.
    ///
    /// A disk calls this once the change is out of its hands, and before anybody can see any of it.
    pub fn commit(&self) -> bool {
        self.change(|state| (state == OPEN).then_some(COMMITTED)) != ABORTED
    }

    /// Whether it was aborted, in time.
    pub fn is_aborted(&self) -> bool {
        self.0.load(Ordering::SeqCst) == ABORTED
    }

    /// Whether somebody tried to abort it, in time or not: nothing more of it may begin.
    pub fn is_unwanted(&self) -> bool {
        matches!(self.0.load(Ordering::SeqCst), ABORTED | UNWANTED)
    }

    /// Gives the state after `next`, which says what follows a state, if something does. In one order with what else says whether
    /// something is under way: of a change that begins and a look for changes that were aborted, one sees the other.
    fn change(&self, next: impl Fn(u8) -> Option<u8>) -> u8 {
        match self.0.fetch_update(Ordering::SeqCst, Ordering::SeqCst, &next) {
            Ok(before) => next(before).unwrap_or(before),
            Err(state) => state,
        }
    }
}

/// One change of a disk.
#[derive(Debug)]
pub enum Change {
    /// [`Disk::write`](crate::Disk::write).
    Write {
        /// Where.
        at: ByteOffset,
        /// What.
        data: Buffer,
        /// How much must be on stable storage at the end.
        durability: Durability,
    },
    /// [`Disk::write_zeroes`](crate::Disk::write_zeroes).
    WriteZeroes {
        /// Where.
        range: ByteRange,
        /// How.
        mode: ZeroMode,
        /// How much must be on stable storage at the end.
        durability: Durability,
    },
    /// [`Disk::discard`](crate::Disk::discard).
    Discard(ByteRange),
}

impl Change {
    /// Bytes it carries.
    pub fn data_bytes(&self) -> u64 {
        match self {
            Self::Write { data, .. } => data.len() as u64,
            Self::WriteZeroes { .. } | Self::Discard(_) => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ticket_is_decided_once() {
        let (aborted, committed) = (Ticket::default(), Ticket::default());
        assert!(!aborted.is_aborted());
        assert!(aborted.clone().abort() && aborted.abort() && aborted.is_aborted());
        assert!(!aborted.commit());
        assert!(committed.commit() && committed.commit());
        assert!(!committed.is_unwanted());
        assert!(!committed.abort() && !committed.abort() && !committed.is_aborted());
        assert!(committed.commit() && committed.is_unwanted() && aborted.is_unwanted());
    }
}
