//! The target's end of the delta stream on the I/O cores.
//!
//! ```text
//!   accept ──▶ connection (one task, on the next core in turn)
//!                transport   TLS over the socket, frames out of it
//!                session     decides (no I/O)
//!                pipeline    checks hashes off the core, applies in order, several at once
//!                registry    one stream per machine; the same stream takes its older connection over
//! ```
//!
//! **Invariants**
//! - A connection can end only itself: whatever a peer sends is counted, logged once, and answered with a `Refused` frame
//!   where TLS allows.
//! - [`Replicas::open`] is called for a machine only after the last connection that fed it has called
//!   [`ReplicaSink::closed`](super::ReplicaSink::closed).

mod connection;
mod pipeline;
mod registry;
#[cfg(test)]
mod tests;
mod transport;

use super::counters::{CounterValues, Counters};
use super::replicas::Replicas;
use super::session::SessionLimits;
use crate::admission::Admission;
use futures_util::future::{Either, select};
use landfall_disks::uring::net::Listener;
use landfall_disks::uring::{self, Core};
use parking_lot::Mutex;
use registry::Registry;
use rustls::ServerConfig;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// How a server treats its connections.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ServerSettings {
    /// Limits of each stream.
    pub limits: SessionLimits,
    /// Time for TLS until the peer's certificate is accepted.
    pub handshake: Duration,
    /// Connections served at once. Whoever comes then, with a certificate, is told so.
    pub max_connections: usize,
    /// Connections at once of which it is not known who they are. With one more, the oldest of them is closed.
    pub strangers: usize,
}

impl Default for ServerSettings {
    fn default() -> Self {
        Self {
            limits: SessionLimits::default(),
            handshake: Duration::from_secs(10),
            max_connections: 256,
            strangers: 64,
        }
    }
}

/// Serves streams to a [`Replicas`].
pub struct Server {
    settings: ServerSettings,
    tls: Arc<ServerConfig>,
    replicas: Arc<dyn Replicas>,
    counters: Counters,
    registry: Registry,
    admission: Arc<Admission>,
    log: LogBudget,
    stopping: watch::Sender<bool>,
    open: watch::Sender<usize>,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl Server {
    /// A server that listens nowhere yet.
    pub fn new(
        settings: ServerSettings,
        tls: Arc<ServerConfig>,
        replicas: Arc<dyn Replicas>,
    ) -> Arc<Self> {
        Arc::new(Self {
            settings,
            tls,
            replicas,
            counters: Counters::default(),
            registry: Registry::default(),
            admission: Admission::new(settings.max_connections as u64, settings.strangers),
            log: LogBudget::default(),
            stopping: watch::Sender::new(false),
            open: watch::Sender::new(0),
        })
    }

    /// The present counters.
    pub fn counters(&self) -> CounterValues {
        self.counters.read()
    }

    /// Accepts connections and deals them out to `cores` until [`Server::stop`]. Runs on an I/O core.
    pub async fn accept(self: Arc<Self>, listener: Listener, cores: Vec<Core>) {
        assert!(!cores.is_empty(), "connections need a core");
        let mut turn = cores.iter().cycle();
        let mut stopping = self.stopping.subscribe();
        loop {
            let accepted = {
                let accept = pin!(listener.accept());
                let stop = pin!(stopping.wait_for(|stopping| *stopping));
                match select(accept, stop).await {
                    Either::Left((accepted, _)) => accepted,
                    Either::Right(_) => return,
                }
            };
            match accepted {
                Ok((stream, peer)) => {
                    let (open, place) = (self.open(), self.admission.admit());
                    let server = Arc::clone(&self);
                    let core = turn.next().expect("a cycle over at least one core");
                    core.spawn(move || connection::serve(server, stream, peer, (open, place)));
                }
                Err(error) => {
                    self.log.spend(|| tracing::warn!(%error, "cannot accept a connection"));
                    // Out of descriptors, most likely: give connections time to end.
                    uring::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }

    /// Stops accepting, refuses what is open, and waits until all of it has ended. What was being applied is applied.
    pub async fn stop(&self) {
        self.stopping.send_replace(true);
        let mut open = self.open.subscribe();
        // The sender is part of `self`, so the channel cannot be closed.
        let _ = open.wait_for(|open| *open == 0).await;
    }

    /// Counts a connection in.
    fn open(self: &Arc<Self>) -> OpenConnection {
        Counters::add(&self.counters.connections_accepted, 1);
        Counters::add(&self.counters.connections_open, 1);
        self.open.send_modify(|open| *open += 1);
        OpenConnection { server: Arc::clone(self) }
    }
}

/// A connection that is counted in while it lives.
struct OpenConnection {
    server: Arc<Server>,
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.server.counters.connections_closed();
        self.server.open.send_modify(|open| *open -= 1);
    }
}

/// Lines a stranger may cause in the log: a few, then one that says how many were left out.
#[derive(Default)]
struct LogBudget {
    spent: Mutex<Spent>,
}

#[derive(Default)]
struct Spent {
    since: Option<Instant>,
    lines: u32,
    left_out: u64,
}

const BUDGET_LINES: u32 = 20;
const BUDGET_PERIOD: Duration = Duration::from_secs(10);

impl LogBudget {
    fn spend(&self, line: impl FnOnce()) {
        let mut spent = self.spent.lock();
        let now = Instant::now();
        if spent.since.is_none_or(|since| now.duration_since(since) >= BUDGET_PERIOD) {
            let left_out = std::mem::take(&mut spent.left_out);
            *spent = Spent { since: Some(now), lines: 0, left_out: 0 };
            if left_out > 0 {
                tracing::warn!(left_out, "lines about connections were left out");
            }
        }
        if spent.lines < BUDGET_LINES {
            spent.lines += 1;
            drop(spent);
            line();
        } else {
            spent.left_out += 1;
        }
    }
}
