//! Blocks of a disk of a branch that somebody writes: who holds them, and where an aborted write is not decided yet.
//!
//! ```text
//!   write ── on its way ── aborted ──── in doubt ─┬─ void, durably: read as before
//!                            ▲ answered here      ├─ it was too late: read as written
//!                                                 └─ the journal failed: nobody knows until it is opened again
//! ```
//!
//! As long as nothing durable says that an aborted write is void, a crash may still make it true. **Invariant:** nobody reads the
//! blocks of an aborted write before it has ended: so nobody has seen it missing that comes to be, nor there that does not.

use landfall_disks::range_locks::RangeLocks;
use landfall_disks::{BLOCK_SIZE, ByteRange, DiskError, Ticket};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Shared by everybody who has a disk of a branch open.
#[derive(Default)]
pub(crate) struct BranchBlocks {
    /// Held by writes, until they are decided.
    pub(crate) locks: RangeLocks,
    /// Bytes, held while a command of a client moves them: taken before the blocks.
    pub(crate) commands: RangeLocks,
    changes: Mutex<Changes>,
    /// How many there are of those: without any, readers need not look.
    count: AtomicUsize,
}

/// Changes under way that may be aborted.
#[derive(Default)]
struct Changes {
    given: u64,
    under_way: BTreeMap<u64, Abortable>,
}

struct Abortable {
    range: ByteRange,
    ticket: Ticket,
    /// Whether it can never be known any more.
    lost: bool,
}

/// A change that is under way. Dropped when it has ended.
pub(crate) struct OnItsWay {
    blocks: Arc<BranchBlocks>,
    number: u64,
}

impl BranchBlocks {
    /// Notes a change of `range`, whose blocks are held, or waited for, by whoever makes it.
    pub(crate) fn note(self: &Arc<Self>, range: ByteRange, ticket: Ticket) -> OnItsWay {
        let mut changes = self.changes.lock();
        changes.given += 1;
        let number = changes.given;
        changes.under_way.insert(number, Abortable { range, ticket, lost: false });
        self.count.store(changes.under_way.len(), Ordering::SeqCst);
        OnItsWay { blocks: Arc::clone(self), number }
    }

    /// Whether something of `range` was aborted and is not decided.
    pub(crate) fn is_in_doubt(&self, range: ByteRange) -> bool {
        !matches!(self.doubt(range), Ok(false))
    }

    /// Waits until nothing that was aborted can come to be in `range` any more.
    pub(crate) async fn decided(&self, range: ByteRange) -> Result<(), DiskError> {
        while self.doubt(range)? {
            drop(self.locks.lock_exclusive(range.widen(BLOCK_SIZE)).await);
        }
        Ok(())
    }

    fn doubt(&self, range: ByteRange) -> Result<bool, DiskError> {
        if self.count.load(Ordering::SeqCst) == 0 {
            return Ok(false);
        }
        let range = range.widen(BLOCK_SIZE);
        let changes = self.changes.lock();
        let aborted = |one: &&Abortable| one.range.overlaps(range) && one.ticket.is_unwanted();
        let mut doubt = false;
        for one in changes.under_way.values().filter(aborted) {
            if one.lost {
                let why = "the journal failed over a write that was aborted; restart the service";
                return Err(DiskError::Failed(why.to_owned()));
            }
            doubt = true;
        }
        Ok(doubt)
    }
}

impl OnItsWay {
    /// The journal failed, and does not say what it has of it.
    pub(crate) fn lost(self) {
        if let Some(change) = self.blocks.changes.lock().under_way.get_mut(&self.number) {
            change.lost = true;
        }
    }
}

impl Drop for OnItsWay {
    fn drop(&mut self) {
        let mut changes = self.blocks.changes.lock();
        let lost = |change: &Abortable| change.lost && change.ticket.is_unwanted();
        if !changes.under_way.get(&self.number).is_some_and(lost) {
            changes.under_way.remove(&self.number);
        }
        self.blocks.count.store(changes.under_way.len(), Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;
    use landfall_disks::ByteOffset;

    fn range(start: u64, length: u64) -> ByteRange {
        ByteRange::at(ByteOffset::new(start), length).expect("small")
    }

    #[test]
    fn readers_wait_for_what_was_aborted_and_for_nothing_else() {
        let blocks = Arc::new(BranchBlocks::default());
        let written = range(4096, 8192);
        let held = blocks.locks.lock_shared(written).now_or_never().expect("nobody holds it");
        let ticket = Ticket::default();
        let change = blocks.note(written, ticket.clone());
        let read = |of| blocks.decided(of).now_or_never();
        assert!(read(written).is_some(), "whether it comes to be is for its writer");
        assert!(ticket.abort());
        assert!(blocks.is_in_doubt(range(12_000, 1)) && !blocks.is_in_doubt(range(0, 4096)));
        assert!(read(range(0, 4096)).is_some());
        let mut waiting = Box::pin(blocks.decided(range(12_000, 1)));
        assert!(waiting.as_mut().now_or_never().is_none());
        drop(change);
        assert!(waiting.as_mut().now_or_never().is_none(), "its blocks are held");
        drop(held);
        assert!(matches!(waiting.now_or_never(), Some(Ok(()))));
        assert!(!blocks.is_in_doubt(written));
    }

    #[test]
    fn what_will_never_be_known_is_not_read() {
        let blocks = Arc::new(BranchBlocks::default());
        let (one, two) = (Ticket::default(), Ticket::default());
        assert!(one.commit() && !one.abort() && two.commit());
        blocks.note(range(0, 4096), one).lost();
        blocks.note(range(4096, 4096), two).lost();
        let failed = blocks.decided(range(100, 1)).now_or_never();
        assert!(matches!(failed, Some(Err(DiskError::Failed(_)))), "{failed:?}");
        assert!(matches!(blocks.decided(range(4096, 1)).now_or_never(), Some(Ok(()))));
    }
}
