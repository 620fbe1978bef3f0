//! Numbers about the delta stream of a target, since its start. Read by whoever exposes metrics.

use super::refusal::RefusalCode;
use std::sync::atomic::{AtomicU64, Ordering};

/// Shared by all connections of a server.
#[derive(Debug)]
pub struct Counters {
    pub(super) connections_accepted: AtomicU64,
    pub(super) connections_open: AtomicU64,
    pub(super) streams_open: AtomicU64,
    pub(super) tls_failures: AtomicU64,
    pub(super) connections_lost: AtomicU64,
    pub(super) takeovers: AtomicU64,
    pub(super) batches: AtomicU64,
    pub(super) replayed: AtomicU64,
    pub(super) wire_bytes: AtomicU64,
    pub(super) plain_bytes: AtomicU64,
    pub(super) zero_bytes: AtomicU64,
    pub(super) marks: AtomicU64,
    pub(super) hash_blocks: AtomicU64,
    refused: Vec<AtomicU64>,
}

/// A reading of [`Counters`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CounterValues {
    /// Connections accepted, whatever became of them.
    pub connections_accepted: u64,
    /// Connections open now.
    pub connections_open: u64,
    /// Streams past their handshake now.
    pub streams_open: u64,
    /// Connections that ended before a certificate was accepted: no TLS, an old version, an untrusted certificate.
    pub tls_failures: u64,
    /// Streams that broke without a farewell.
    pub connections_lost: u64,
    /// Connections replaced by a newer one of the same stream.
    pub takeovers: u64,
    /// Batches applied.
    pub batches: u64,
    /// Batches and marks that had been applied before and were acknowledged again.
    pub replayed: u64,
    /// Bytes of batch frames, as received.
    pub wire_bytes: u64,
    /// Bytes of content in them, decompressed.
    pub plain_bytes: u64,
    /// Bytes they zeroed.
    pub zero_bytes: u64,
    /// Marks that became points.
    pub marks: u64,
    /// Blocks answered in hash exchanges.
    pub hash_blocks: u64,
    /// Streams refused, by code.
    pub refused: Vec<(RefusalCode, u64)>,
}

impl Default for Counters {
    fn default() -> Self {
        let zero = || AtomicU64::new(0);
        Self {
            connections_accepted: zero(),
            connections_open: zero(),
            streams_open: zero(),
            tls_failures: zero(),
            connections_lost: zero(),
            takeovers: zero(),
            batches: zero(),
            replayed: zero(),
            wire_bytes: zero(),
            plain_bytes: zero(),
            zero_bytes: zero(),
            marks: zero(),
            hash_blocks: zero(),
            refused: RefusalCode::ALL.iter().map(|_| zero()).collect(),
        }
    }
}

impl Counters {
    /// The present values.
    pub fn read(&self) -> CounterValues {
        let value = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        CounterValues {
            connections_accepted: value(&self.connections_accepted),
            connections_open: value(&self.connections_open),
            streams_open: value(&self.streams_open),
            tls_failures: value(&self.tls_failures),
            connections_lost: value(&self.connections_lost),
            takeovers: value(&self.takeovers),
            batches: value(&self.batches),
            replayed: value(&self.replayed),
            wire_bytes: value(&self.wire_bytes),
            plain_bytes: value(&self.plain_bytes),
            zero_bytes: value(&self.zero_bytes),
            marks: value(&self.marks),
            hash_blocks: value(&self.hash_blocks),
            refused: RefusalCode::ALL.iter().copied().zip(self.refused.iter().map(value)).collect(),
        }
    }

    /// Adds `amount`.
    pub(super) fn add(counter: &AtomicU64, amount: u64) {
        counter.fetch_add(amount, Ordering::Relaxed);
    }

    /// Counts an open connection out.
    pub(super) fn connections_closed(&self) {
        self.connections_open.fetch_sub(1, Ordering::Relaxed);
    }

    /// Counts a refusal.
    pub(super) fn refused(&self, code: RefusalCode) {
        if let Some(index) = RefusalCode::ALL.iter().position(|known| *known == code) {
            Self::add(&self.refused[index], 1);
        }
    }
}

/// Counts something that is open: up when made, down when dropped.
pub(super) struct OpenCount<'a>(&'a AtomicU64);

impl<'a> OpenCount<'a> {
    pub(super) fn new(counter: &'a AtomicU64) -> Self {
        counter.fetch_add(1, Ordering::Relaxed);
        Self(counter)
    }
}

impl Drop for OpenCount<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl CounterValues {
    /// How often a stream was refused for `code`.
    pub fn refused_for(&self, code: RefusalCode) -> u64 {
        self.refused.iter().find(|(known, _)| *known == code).map_or(0, |(_, count)| *count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_counted_by_code() {
        let counters = Counters::default();
        counters.refused(RefusalCode::WrongHash);
        counters.refused(RefusalCode::WrongHash);
        counters.refused(RefusalCode::Paused);
        counters.refused(RefusalCode::Unknown(999));
        let values = counters.read();
        assert_eq!(values.refused_for(RefusalCode::WrongHash), 2);
        assert_eq!(values.refused_for(RefusalCode::Paused), 1);
        assert_eq!(values.refused.iter().map(|(_, count)| count).sum::<u64>(), 3);
    }

    #[test]
    fn what_is_open_is_counted_while_it_lives() {
        let counters = Counters::default();
        let open = OpenCount::new(&counters.streams_open);
        assert_eq!(counters.read().streams_open, 1);
        drop(open);
        assert_eq!(counters.read().streams_open, 0);
    }
}
