//! The server: sockets and disks around the [`session`](super::session), on the io_uring engine.
//!
//! ```text
//!   serve ──accept──▶ connection (a task on one of the cores)
//!                       negotiate      one option at a time, TLS on the way, within a time limit
//!                       receive loop   header, budget, payload ──spawn──▶ execute (disk) ──▶ outbox
//!                       outbox.pump    everything that is ready goes out in one send
//! ```
//!
//! **Invariants**
//! - A connection never holds more requests or bytes than its budget; what a slow client does not read stops it from
//!   being asked more, and nobody else.
//! - Requests of a connection run at the same time and are answered in the order they finish.
//! - A connection ends only after the replies to everything it has accepted were sent, unless the socket failed or the
//!   time for draining is over.

mod connection;
mod execute;
mod link;
mod negotiate;
mod outbox;

use self::link::FAREWELL;
use super::counters::Counters;
use super::export::{Exports, OpenError};
use super::tls::Security;
use super::wire::MAX_REQUEST;
use crate::admission::Admission;
use crate::door::{Door, Stopping};
use landfall_disks::uring::net::Listener;
use landfall_disks::uring::{Core, sleep};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

/// Limits of a server. What it may hold in memory for the clients of a listener is at most `connections` times
/// `bytes_in_flight`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Settings {
    /// Connections of a listener that are served at a time. One more is closed at once.
    pub connections: u64,
    /// Connections of a listener that negotiate at a time. With one more, the oldest of them is closed.
    pub negotiating: usize,
    /// Requests of a connection that are worked on, or answered and not sent yet.
    pub requests_in_flight: u32,
    /// Bytes of payload those requests may hold in either direction; at least [`MAX_REQUEST`].
    pub bytes_in_flight: u32,
    /// Time for negotiation, from the accepted connection to the first request.
    pub handshake_time: Duration,
    /// Time, from the stop of the server on, in which clients hear of it: what they ask is answered with an error that
    /// says so, and they may take their leave. Then their connections are closed.
    pub parting_time: Duration,
    /// Time that requests in flight get to finish once a connection or the server is to end. Whoever says that it leaves is
    /// answered in full, unless it takes nothing of the answers for so long.
    pub drain_time: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            connections: 128,
            negotiating: 64,
            requests_in_flight: 256,
            bytes_in_flight: MAX_REQUEST,
            handshake_time: Duration::from_secs(10),
            parting_time: Duration::from_millis(250),
            drain_time: Duration::from_secs(10),
        }
    }
}

/// What all connections of a server share.
pub struct Service {
    exports: Arc<dyn Exports>,
    settings: Settings,
    counters: Arc<Counters>,
    stopping: Stopping,
}

impl Service {
    /// A service for `exports`, not listening anywhere yet.
    pub fn new(exports: Arc<dyn Exports>, settings: Settings) -> Self {
        let settings = Settings {
            // A request of the announced size must fit, or it would wait for ever.
            bytes_in_flight: settings.bytes_in_flight.max(MAX_REQUEST),
            requests_in_flight: settings.requests_in_flight.max(1),
            ..settings
        };
        let counters = Arc::new(Counters::default());
        Self { exports, settings, counters, stopping: Stopping::new() }
    }

    /// What it has done so far.
    pub fn counters(&self) -> &Arc<Counters> {
        &self.counters
    }

    /// Ends it, from any thread: no connection is accepted any more, requests in flight are answered, and those that come
    /// after them with `NBD_ESHUTDOWN`; [`serve`] returns when all connections have ended.
    pub fn stop(&self) {
        self.stopping.begin();
    }

    fn is_stopping(&self) -> bool {
        self.stopping.has_begun()
    }

    /// Why nobody else is served.
    fn is_full(&self) -> OpenError {
        let connections = self.settings.connections;
        OpenError::Failed(format!("all {connections} connections of this listener are taken"))
    }

    /// Returns when clients have had their time to part.
    fn parted(&self) -> impl Future<Output = ()> + 'static {
        let (stopped, parting_time) = (self.stopping.begun(), self.settings.parting_time);
        async move {
            stopped.await;
            sleep(parting_time).await;
        }
    }
}

/// Accepts connections on `listener` and deals them out to `cores`, or keeps them on the current core if there are none.
/// Each has to do what `security` says. Runs on an I/O core. Returns after [`Service::stop`], when the connections it
/// accepted have ended.
pub async fn serve(listener: Listener, security: Security, service: Arc<Service>, cores: &[Core]) {
    let Settings { connections, negotiating, parting_time, drain_time, .. } = service.settings;
    let door = Door {
        protocol: "NBD",
        admission: Admission::new(connections, negotiating),
        counters: Arc::clone(&service.counters.connections),
        drain_time: parting_time + drain_time + FAREWELL,
    };
    let serving = Arc::clone(&service);
    let connection = move |stream, peer, place| {
        let (service, security) = (Arc::clone(&serving), security.clone());
        async move { connection::run(stream, peer, &security, place, &service).await }
    };
    door.accept(listener, &service.stopping, cores, connection).await;
}
