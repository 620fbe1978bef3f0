//! What the server has done, as plain numbers. How they are published is somebody else's concern.
//!
//! All counters only grow, but for the number of open connections. They are read one by one, so two of them may be a
//! request apart.

use super::wire::transmission::Command;
use crate::door::ConnectionCounters;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Counters of a server, shared by its connections on every core.
#[derive(Debug, Default)]
pub struct Counters {
    /// Connections.
    pub connections: Arc<ConnectionCounters>,
    /// Connections that ended during negotiation without the client taking leave.
    pub handshakes_failed: AtomicU64,
    /// Connections ended by a breach of the protocol or a failed socket after negotiation.
    pub connections_broken: AtomicU64,
    /// Bytes of disk content sent, holes included.
    pub bytes_read: AtomicU64,
    /// Bytes of payload stored.
    pub bytes_written: AtomicU64,
    read: CommandCounters,
    write: CommandCounters,
    flush: CommandCounters,
    trim: CommandCounters,
    cache: CommandCounters,
    write_zeroes: CommandCounters,
    block_status: CommandCounters,
    unknown: CommandCounters,
}

/// Counters of one kind of request.
#[derive(Debug, Default)]
pub struct CommandCounters {
    /// Requests answered, with success or not.
    pub requests: AtomicU64,
    /// Requests refused by the rules of the protocol: the client's doing.
    pub refused: AtomicU64,
    /// Requests the disk failed.
    pub failed: AtomicU64,
}

/// Counters of one kind of request at one moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Reading {
    /// Name of the kind, as a metric label.
    pub command: &'static str,
    /// Requests answered.
    pub requests: u64,
    /// Requests refused.
    pub refused: u64,
    /// Requests failed.
    pub failed: u64,
}

impl Counters {
    /// The counters of requests of kind `command`.
    pub fn of(&self, command: Command) -> &CommandCounters {
        match command {
            Command::Read => &self.read,
            Command::Write => &self.write,
            Command::Flush => &self.flush,
            Command::Trim => &self.trim,
            Command::Cache => &self.cache,
            Command::WriteZeroes => &self.write_zeroes,
            Command::BlockStatus => &self.block_status,
            Command::Disconnect | Command::Unknown(_) => &self.unknown,
        }
    }

    /// All kinds of requests.
    pub fn commands(&self) -> [Reading; 8] {
        [
            ("read", &self.read),
            ("write", &self.write),
            ("flush", &self.flush),
            ("trim", &self.trim),
            ("cache", &self.cache),
            ("write_zeroes", &self.write_zeroes),
            ("block_status", &self.block_status),
            ("unknown", &self.unknown),
        ]
        .map(|(command, counters)| Reading {
            command,
            requests: counters.requests.load(Relaxed),
            refused: counters.refused.load(Relaxed),
            failed: counters.failed.load(Relaxed),
        })
    }
}

/// Adds one.
pub(super) fn count(counter: &AtomicU64) {
    add(counter, 1);
}

/// Adds `amount`.
pub(super) fn add(counter: &AtomicU64, amount: u64) {
    counter.fetch_add(amount, Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_is_counted_under_its_own_name() {
        let counters = Counters::default();
        for number in 0..9 {
            count(&counters.of(Command::from(number)).requests);
        }
        let readings = counters.commands();
        let of = |name| readings.iter().find(|one| one.command == name).map(|one| one.requests);
        // Disconnect (2) and the unknown command 8 share a counter.
        assert_eq!(of("unknown"), Some(2));
        assert!(readings.iter().all(|one| one.command == "unknown" || one.requests == 1));
    }
}
