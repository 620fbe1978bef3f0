//! Turns of reading: how whoever takes something away learns that every read begun before has ended.
//!
//! ```text
//!   read ─▶ begin() ─▶ its turn ──────────────▶ dropped
//!   take away ─▶ names go ─▶ ended() waits for all turns so far ─▶ the thing goes
//! ```
//!
//! Reads never wait for anything here.

use parking_lot::RwLock;
use std::sync::Arc;
use tokio::sync::{Mutex, oneshot};

/// What a read holds while it is under way.
pub(crate) struct Turn {
    /// Closed when the last read of the turn ends.
    _ends: oneshot::Sender<()>,
}

/// The turns there are.
pub(crate) struct Turns {
    present: RwLock<Present>,
    /// Turns that are over for new reads, oldest first, to be waited for.
    past: Mutex<Vec<oneshot::Receiver<()>>>,
}

struct Present {
    turn: Arc<Turn>,
    ended: oneshot::Receiver<()>,
}

impl Present {
    fn new() -> Self {
        let (ends, ended) = oneshot::channel();
        Self { turn: Arc::new(Turn { _ends: ends }), ended }
    }
}

impl Default for Turns {
    fn default() -> Self {
        Self { present: RwLock::new(Present::new()), past: Mutex::default() }
    }
}

impl Turns {
    /// A read begins; what it finds stays until it drops what it gets here.
    pub(crate) fn begin(&self) -> Arc<Turn> {
        Arc::clone(&self.present.read().turn)
    }

    /// Waits until every read that began before has ended.
    pub(crate) async fn ended(&self) {
        let mut past = self.past.lock().await;
        let before = std::mem::replace(&mut *self.present.write(), Present::new());
        past.push(before.ended);
        drop(before.turn);
        // Taken off the list only when it has ended: whoever gives up waiting leaves it to the next one.
        while let Some(ended) = past.last_mut() {
            // An error is what it waits for: the sender is gone.
            let _ = ended.await;
            past.pop();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    #[test]
    fn reads_that_began_before_are_waited_for_and_later_ones_are_not() {
        let turns = Turns::default();
        assert!(turns.ended().now_or_never().is_some(), "nobody reads");
        let (early, also) = (turns.begin(), turns.begin());
        let mut waits = Box::pin(turns.ended());
        assert!(waits.as_mut().now_or_never().is_none());
        let late = turns.begin();
        drop(early);
        assert!(waits.as_mut().now_or_never().is_none());
        drop(also);
        assert!(waits.as_mut().now_or_never().is_some());
        drop(late);
    }

    #[test]
    fn who_gives_up_waiting_leaves_it_to_the_next() {
        let turns = Turns::default();
        let early = turns.begin();
        assert!(turns.ended().now_or_never().is_none());
        assert!(turns.ended().now_or_never().is_none(), "the early read goes on");
        drop(early);
        assert!(turns.ended().now_or_never().is_some());
    }
}
