//! Blocks of a disk of a branch that somebody writes: who holds them, and where an aborted write is not decided yet.
//!
//! ```text
//!   write ── on its way ── aborted ──── in doubt ─┬─ void, durably: read as before
//!                            ▲ answered here      ├─ it was too late: read as written
//!                                                 └─ the journal failed: nobody knows until it is opened again
//! ```
//!
//! As long as nothing durable says that an aborted write is void, a crash may still make it true. **Invariant:** nobody reads the
//! blocks of an aborted write before it has ended: so nobody has seen it missing that comes to be, nor there that does not. Nobody
//! writes them either: what comes after an abort lies over all that was aborted.
//!
//! **Lock order:** whoever waits for the end of others has noted nothing itself and holds no blocks; whoever has noted something waits for
//! blocks and for the lane alone. Bytes of a command (`commands`) may be held by both, and are never waited for by either.

use landfall_disks::range_locks::RangeLocks;
use landfall_disks::{BLOCK_SIZE, ByteRange, DiskError, Ticket};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::sync::Notify;

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
    /// Told when it has ended, or is lost. There once somebody waits.
    ended: Option<Arc<Notify>>,
}

/// A change that is under way. Dropped when it has ended.
pub(crate) struct OnItsWay {
    blocks: Arc<BranchBlocks>,
    number: u64,
}

impl BranchBlocks {
    /// Notes a change of `range`, before its blocks are waited for.
    pub(crate) fn note(self: &Arc<Self>, range: ByteRange, ticket: Ticket) -> OnItsWay {
        let mut changes = self.changes.lock();
        changes.given += 1;
        let number = changes.given;
        changes.under_way.insert(number, Abortable { range, ticket, lost: false, ended: None });
        self.count.store(changes.under_way.len(), Ordering::SeqCst);
        OnItsWay { blocks: Arc::clone(self), number }
    }

    /// Whether something of `range` was aborted and is not decided.
    pub(crate) fn is_in_doubt(&self, range: ByteRange) -> bool {
        self.any() && !matches!(self.changes.lock().doubt(range), Ok(None))
    }

    /// Waits until nothing that was aborted can come to be in `range` any more.
    pub(crate) async fn decided(&self, range: ByteRange) -> Result<(), DiskError> {
        while self.any() {
            let ended;
            let waiting = {
                let mut changes = self.changes.lock();
                let Some(one) = changes.doubt(range)? else { break };
                ended = Arc::clone(one.ended.get_or_insert_default());
                // It hears of an end that comes before it waits.
                ended.notified()
            };
            waiting.await;
        }
        Ok(())
    }

    fn any(&self) -> bool {
        self.count.load(Ordering::SeqCst) > 0
    }
}

impl Changes {
    /// A change in `range` that was aborted and is not decided.
    fn doubt(&mut self, range: ByteRange) -> Result<Option<&mut Abortable>, DiskError> {
        let range = range.widen(BLOCK_SIZE);
        let mut doubt = None;
        for one in self.under_way.values_mut() {
            if !one.ticket.is_unwanted() || !one.range.widen(BLOCK_SIZE).overlaps(range) {
                continue;
            }
            if one.lost {
                let why = "the journal failed over a write that was aborted; restart the service";
                return Err(DiskError::Failed(why.to_owned()));
            }
            doubt = Some(one);
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
        let ended = changes.under_way.get_mut(&self.number).and_then(|one| one.ended.take());
        let lost = |change: &Abortable| change.lost && change.ticket.is_unwanted();
        if !changes.under_way.get(&self.number).is_some_and(lost) {
            changes.under_way.remove(&self.number);
        }
        self.blocks.count.store(changes.under_way.len(), Ordering::SeqCst);
        drop(changes);
        if let Some(ended) = ended {
            ended.notify_waiters();
        }
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
        assert!(matches!(waiting.now_or_never(), Some(Ok(()))));
        assert!(!blocks.is_in_doubt(written));
    }

    /// What waits holds nothing: a stall of one block is not one of the disk.
    #[test]
    fn who_waits_for_an_end_is_in_nobodys_way() {
        let blocks = Arc::new(BranchBlocks::default());
        let (one, two) = (Ticket::default(), Ticket::default());
        let first = blocks.note(range(100, 50), one.clone());
        let second = blocks.note(range(8192, 4096), two.clone());
        assert!(one.abort() && two.abort());
        let mut all = Box::pin(blocks.decided(range(0, 1 << 20)));
        let mut edge = Box::pin(blocks.decided(range(0, 50)));
        assert!(all.as_mut().now_or_never().is_none() && edge.as_mut().now_or_never().is_none());
        let elsewhere = blocks.locks.lock_exclusive(range(4096, 4096)).now_or_never();
        assert!(elsewhere.is_some(), "nobody holds what is not in doubt");
        drop(first);
        assert!(edge.now_or_never().is_some() && all.as_mut().now_or_never().is_none());
        second.lost();
        let failed = all.now_or_never();
        assert!(matches!(failed, Some(Err(DiskError::Failed(_)))), "{failed:?}");
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
