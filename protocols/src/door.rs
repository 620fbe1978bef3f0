//! The door of a listener: whoever comes is dealt out to the cores, until the service stops.
//!
//! **Invariants**
//! - One more than may be served is closed at once, and counted.
//! - [`Door::accept`] returns when all connections it let in have ended, or their time is over.

use crate::admission::{Admission, Place};
use futures_util::future::{Either, select};
use landfall_disks::uring::net::{Listener, Peer, Stream};
use landfall_disks::uring::{Core, sleep, spawn, timeout};
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;
use tokio::sync::{mpsc, watch};

/// How long accepting pauses after an error: a shortage of descriptors ends when a connection does.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Counters of the connections of a server.
#[derive(Debug, Default)]
pub struct ConnectionCounters {
    /// Open now.
    pub open: AtomicU64,
    /// Accepted.
    pub accepted: AtomicU64,
    /// Closed at once because too many were open.
    pub refused: AtomicU64,
}

/// Whether a service is to end. Told from any thread.
pub(crate) struct Stopping(watch::Sender<bool>);

impl Stopping {
    pub(crate) fn new() -> Self {
        Self(watch::Sender::new(false))
    }

    pub(crate) fn begin(&self) {
        self.0.send_replace(true);
    }

    pub(crate) fn has_begun(&self) -> bool {
        *self.0.borrow()
    }

    /// Returns when it has begun.
    pub(crate) fn begun(&self) -> impl Future<Output = ()> + 'static {
        let mut stopping = self.0.subscribe();
        async move {
            // An error means that the service itself is gone, which is as final.
            let _ = stopping.wait_for(|stopping| *stopping).await;
        }
    }
}

/// That of a listener.
pub(crate) struct Door {
    /// What is spoken behind it, for the log.
    pub(crate) protocol: &'static str,
    pub(crate) admission: Arc<Admission>,
    pub(crate) counters: Arc<ConnectionCounters>,
    /// How long connections may take to end when the service stops.
    pub(crate) drain_time: Duration,
}

/// An open connection, counted while it lives.
struct Open {
    counters: Arc<ConnectionCounters>,
    /// How [`Door::accept`] learns that its last connection has ended.
    _last: mpsc::Sender<()>,
}

impl Open {
    fn new(counters: &Arc<ConnectionCounters>, last: &mpsc::Sender<()>) -> Self {
        counters.accepted.fetch_add(1, Relaxed);
        counters.open.fetch_add(1, Relaxed);
        Self { counters: Arc::clone(counters), _last: last.clone() }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.counters.open.fetch_sub(1, Relaxed);
    }
}

impl Door {
    /// Runs `connection` for whoever connects to `listener`, on `cores` in turn, or on the current core if there are none,
    /// until `stopping`. Runs on an I/O core.
    pub(crate) async fn accept<F, T>(
        &self,
        listener: Listener,
        stopping: &Stopping,
        cores: &[Core],
        connection: F,
    ) where
        F: Fn(Stream, Peer, Place) -> T + Clone + Send + 'static,
        T: Future<Output = ()> + 'static,
    {
        let (last, mut all_closed) = mpsc::channel(1);
        let mut turn = cores.iter().cycle();
        let mut stopped = pin!(stopping.begun());
        let protocol = self.protocol;
        loop {
            match select(pin!(listener.accept()), stopped.as_mut()).await {
                Either::Left((Ok((_, peer)), _)) if self.admission.is_full() => {
                    self.counters.refused.fetch_add(1, Relaxed);
                    tracing::debug!(%peer, protocol, "connection refused: too many are open");
                }
                Either::Left((Ok((stream, peer)), _)) => {
                    let (place, open) = (self.admission.admit(), Open::new(&self.counters, &last));
                    let connection = connection.clone();
                    let run = move || async move {
                        connection(stream, peer, place).await;
                        drop(open);
                    };
                    match turn.next() {
                        Some(core) => core.spawn(run),
                        None => spawn(run()),
                    }
                }
                Either::Left((Err(error), _)) => {
                    tracing::warn!(%error, protocol, "cannot accept a connection");
                    sleep(ACCEPT_PAUSE).await;
                }
                Either::Right(_) => break,
            }
        }
        // Nobody is to connect while the last requests are answered.
        drop((listener, last));
        if timeout(self.drain_time + ACCEPT_PAUSE, all_closed.recv()).await.is_err() {
            tracing::warn!(protocol, "connections were open when the time for draining was over");
        }
    }
}
