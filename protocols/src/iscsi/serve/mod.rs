//! The server: sockets and disks around the [`session`](super::session), on the io_uring engine.
//!
//! ```text
//!   serve ──accept──▶ connection (a task on one of the cores)
//!                       login       one PDU at a time, within a time limit; a seat among sessions
//!                       receive     PDU by PDU into the session
//!                                     ──Start──▶ a task of its own (disk) ──▶ session
//!                       pump        everything that is ready goes out in one send
//!                       follow      what other sessions want of this one
//!                       keep_alive  a ping when nothing comes, the end when nobody answers it
//! ```
//!
//! **Invariants**
//! - Nothing that a session does waits for a disk, but the task of the command itself: task
//!   management is answered whatever the disks do.
//! - A session never holds more commands or bytes than its budget, and a share for those that wait
//!   for it. An initiator that does not read its answers is not read from, once so many of them
//!   wait.
//! - A command's future runs to its end, also when it was aborted or its session is gone. Sessions
//!   that are gone and have some are counted, and nobody enters while there are too many.

mod connection;
mod incoming;
mod login;
mod running;
mod seats;
mod seldom;
mod units;

use self::incoming::IncomingError;
use self::seats::{Capacity, Order, Seats};
use self::seldom::Seldom;
use super::counters::Counters;
use super::name::Name;
use super::session::full::Closing;
use super::session::terms::Offer;
use super::targets::Targets;
use super::wire::number::{PortalGroup, Tsih};
use crate::admission::Admission;
use crate::door::{Door, Stopping};
use landfall_disks::uring::Core;
use landfall_disks::uring::net::Listener;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

/// How long a session has to send its last words.
const FAREWELL: Duration = Duration::from_secs(1);

/// How long others have to follow an order: a core that is busy is late by milliseconds.
const ORDER_TIME: Duration = Duration::from_millis(500);

/// The group of portals. All listeners of a server lead to the same sessions.
const PORTAL_GROUP: PortalGroup = PortalGroup::new(1);

/// Limits of a server. What commands may hold in memory is at most `sessions` times twice
/// `bytes_in_flight` (for a session that is there, and for one that is gone whose commands still
/// run) and the window times `FirstBurstLength`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Settings {
    /// Sessions of targets at a time. One more is refused at its login, unless it replaces one. As
    /// many may be gone that have commands which still run.
    pub sessions: u64,
    /// Sessions of discovery at a time.
    pub discoveries: u64,
    /// Connections of a listener that log in at a time. With one more, the oldest of them is
    /// closed.
    pub logging_in: usize,
    /// What is offered to initiators.
    pub offer: Offer,
    /// Bytes that the commands of a session may hold in either direction. A single command may hold
    /// more when it is alone.
    pub bytes_in_flight: u64,
    /// Time for a login, from the accepted connection to the first command.
    pub login_time: Duration,
    /// Time without a word after which an initiator is asked whether it is there, and after which
    /// it is not, if it does not answer.
    pub idle_time: Duration,
    /// Time for discovery, from the login on.
    pub discovery_time: Duration,
    /// Time, from the stop of the server on, in which initiators are asked to log out, and served
    /// until they do.
    pub parting_time: Duration,
    /// Time that commands under way get to finish after that.
    pub drain_time: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            sessions: 128,
            discoveries: 32,
            logging_in: 64,
            offer: Offer::default(),
            bytes_in_flight: 32 << 20,
            login_time: Duration::from_secs(10),
            idle_time: Duration::from_secs(30),
            discovery_time: Duration::from_secs(30),
            parting_time: Duration::from_secs(1),
            drain_time: Duration::from_secs(10),
        }
    }
}

/// How a session came to its end.
#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error(transparent)]
    Closing(Closing),
    #[error("the initiator closed the connection without a logout")]
    Closed,
    #[error("the server stops")]
    Stopped,
    #[error("the initiator does not answer")]
    Silent,
    #[error("the time for discovery was over")]
    Discovered,
    #[error("the export was removed")]
    Removed,
    #[error("the initiator logged in again")]
    Replaced,
    #[error("the target was reset")]
    Reset,
    #[error(transparent)]
    Incoming(IncomingError),
    #[error("sending failed: {0}")]
    Sending(io::Error),
}

impl From<IncomingError> for Ended {
    fn from(error: IncomingError) -> Self {
        match error {
            IncomingError::Socket(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                Self::Closed
            }
            other => Self::Incoming(other),
        }
    }
}

/// What all connections of a server share.
pub struct Service {
    targets: Arc<dyn Targets>,
    settings: Settings,
    counters: Arc<Counters>,
    seats: Arc<Seats>,
    unproven: Seldom,
    not_opened: Seldom,
    kept_out: Seldom,
    late: Seldom,
    stopping: Stopping,
}

impl Service {
    /// A service for `targets`, not listening anywhere yet.
    pub fn new(targets: Arc<dyn Targets>, settings: Settings) -> Self {
        let settings = Settings { offer: settings.offer.clamped(), ..settings };
        let Settings { sessions, discoveries, .. } = settings;
        let capacity = Capacity { sessions, discoveries };
        Self {
            targets,
            settings,
            counters: Arc::default(),
            seats: Arc::new(Seats::new(capacity)),
            unproven: Seldom::default(),
            not_opened: Seldom::default(),
            kept_out: Seldom::default(),
            late: Seldom::default(),
            stopping: Stopping::new(),
        }
    }

    /// What it has done so far.
    pub fn counters(&self) -> &Arc<Counters> {
        &self.counters
    }

    /// Ends it, from any thread: no connection is accepted any more, initiators are asked to log
    /// out, and dropped when they do not; [`serve`] returns when all connections have ended.
    pub fn stop(&self) {
        self.stopping.begin();
    }

    /// Ends the sessions of a target that is no more, from any thread: their initiators are asked
    /// to log out, and dropped when they do not. Whoever wants commands to come to nothing
    /// meanwhile has detached its units before.
    pub fn dismiss(&self, target: &Name) {
        self.seats.tell(target, Tsih::NEW, || Order::RequestLogout);
    }

    /// Whether as many sessions have gone and left commands that still run as there may be
    /// sessions.
    fn is_haunted(&self) -> bool {
        self.counters.sessions_lingering.load(Relaxed) >= self.settings.sessions
    }
}

/// Accepts connections on `listener` and deals them out to `cores`, or keeps them on the current
/// core if there are none. Runs on an I/O core. Returns after [`Service::stop`], when the
/// connections it accepted have ended.
pub async fn serve(listener: Listener, service: Arc<Service>, cores: &[Core]) {
    let Settings { logging_in, parting_time, drain_time, .. } = service.settings;
    let door = Door {
        protocol: "iSCSI",
        // How many sessions there may be is said at the login, which may replace one.
        admission: Admission::new(u64::MAX, logging_in),
        counters: Arc::clone(&service.counters.connections),
        drain_time: parting_time + drain_time + FAREWELL,
    };
    let serving = Arc::clone(&service);
    let connection =
        move |stream, peer, place| connection::run(stream, peer, place, Arc::clone(&serving));
    door.accept(listener, &service.stopping, cores, connection).await;
}

#[cfg(test)]
mod tests;
