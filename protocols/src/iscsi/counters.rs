//! What the server has done, as plain numbers. How they are published is somebody else's concern.
//!
//! All counters only grow, but for those of what is open. They are read one by one, so two of them
//! may be a command apart.

use crate::door::ConnectionCounters;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Counters of a server, shared by its connections on every core.
#[derive(Debug, Default)]
pub struct Counters {
    /// Connections.
    pub connections: Arc<ConnectionCounters>,
    /// Sessions open now, discovery among them.
    pub sessions_open: AtomicU64,
    /// Sessions that are gone and have commands which still run.
    pub sessions_lingering: AtomicU64,
    /// Logins that led nowhere.
    pub logins_failed: AtomicU64,
    /// Those of them whose initiator did not prove who it is.
    pub authentications_failed: AtomicU64,
    /// Sessions ended by a breach of the protocol, a silent initiator or a failed socket; not those
    /// whose initiator just went.
    pub sessions_broken: AtomicU64,
    /// Sessions that made way for another one of the same initiator port.
    pub sessions_replaced: AtomicU64,
    /// Commands that were started on a disk.
    pub commands: AtomicU64,
    /// Commands that ended with another status than GOOD, of those that were started.
    pub commands_failed: AtomicU64,
    /// Commands that initiators aborted, one by one or by a reset, after they were started.
    pub commands_aborted: AtomicU64,
    /// Those of them that were decided before: what they had begun is there.
    pub aborts_too_late: AtomicU64,
    /// Commands that were aborted because their session ended while they ran.
    pub commands_dropped: AtomicU64,
    /// Bytes that commands read.
    pub bytes_read: AtomicU64,
    /// Bytes that commands were given.
    pub bytes_written: AtomicU64,
}

/// Adds one.
pub(super) fn count(counter: &AtomicU64) {
    add(counter, 1);
}

/// Adds `amount`.
pub(super) fn add(counter: &AtomicU64, amount: usize) {
    counter.fetch_add(u64::try_from(amount).unwrap_or(u64::MAX), Relaxed);
}
