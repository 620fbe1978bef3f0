//! One connection, from its first byte to its last.
//!
//! ```text
//!   negotiate ─▶ receive loop ─▶ drain ─▶ closed
//!        │            │            └── every accepted request answered, or the time for that over
//!        │            └── DISC, end of stream, breach, server stopped a while ago, sending failed
//!        └── leave taken, breach, time over, server stopped a while ago
//! ```

use super::Service;
use super::execute::{HoleSense, Served, Source, execute, failure};
use super::link::{Incoming, Link};
use super::negotiate::{Entered, NegotiationError, negotiate};
use super::outbox::{Outbox, Permits};
use crate::admission::Place;
use crate::nbd::counters::{Counters, add, count};
use crate::nbd::export::{Export, Leaving, Visitor};
use crate::nbd::session::{
    Action, Answer, Extents, Failure, RequestError, StatusExtent, Transmission,
};
use crate::nbd::tls::Security;
use crate::nbd::wire::MAX_DESCRIPTORS;
use crate::nbd::wire::extended::ExtendedDescriptor;
use crate::nbd::wire::transmission::{BadRequestMagic, Request};
use futures_util::FutureExt;
use futures_util::future::{Either, select};
use landfall_disks::uring::net::{Peer, Stream};
use landfall_disks::uring::{spawn, timeout};
use landfall_disks::{Buffer, DiskError};
use std::cell::Cell;
use std::io;
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use tokio::sync::Semaphore;

/// Disk errors of one connection that are logged one by one; the others are told as a number when it ends.
const MAX_LOGGED: u64 = 8;

/// Bytes that the answer to a block status may take, as it is collected and as it is sent.
const LONGEST_DESCRIPTION: u64 =
    (MAX_DESCRIPTORS * (size_of::<StatusExtent>() + size_of::<ExtendedDescriptor>())) as u64;

/// Bytes of an unwanted payload that are read, and thrown away, at a time.
const SKIP_AT_A_TIME: u64 = 1 << 20;

/// Serves the connection until it ends.
pub(super) async fn run(
    stream: Stream,
    peer: Peer,
    security: &Security,
    place: Place,
    service: &Service,
) {
    let (receiver, sender) = stream.split();
    // Out of the reach of whatever ends negotiation: it ends in good order, TLS before the connection.
    let mut link = Some(Link::plain(receiver, sender));
    let outcome = negotiate_in_time(&mut link, &peer, security, place, service).await;
    if let Err(error) = &outcome {
        count(&service.counters.handshakes_failed);
        tracing::debug!(%peer, %error, "NBD negotiation failed");
    }
    let Some(Link { mut incoming, mut outgoing }) = link else { return };
    let Ok(Some(entered)) = outcome else { return outgoing.shutdown().await };
    let Entered { visitor, negotiated, export, sources, served: _served } = entered;
    tracing::debug!(%visitor, asked = negotiated.name, export = export.name, "NBD export opened");
    let rules = negotiated.transmission;
    let connection = Rc::new(Connection::new((export, sources), rules, visitor, service));
    let ended = {
        let work = pin!(connection.receive_then_drain(&mut incoming, service));
        match select(work, pin!(connection.outbox.pump(&mut outgoing))).await {
            Either::Left((ended, _)) => ended,
            // The receive loop has been told; requests in flight finish and their replies are dropped.
            Either::Right((error, work)) => {
                work.await;
                Ended::Socket(error)
            }
        }
    };
    connection.take_leave(&ended).await;
    // Counted before the client can know of it.
    connection.farewell(&ended);
    outgoing.shutdown().await;
}

/// Negotiates, for as long as that may take; nothing, if the client took leave or the server is to stop.
async fn negotiate_in_time(
    link: &mut Option<Link>,
    peer: &Peer,
    security: &Security,
    mut place: Place,
    service: &Service,
) -> Result<Option<Entered>, NegotiationError> {
    let (parted, cut_off) = (pin!(service.parted()), pin!(place.cut_off()));
    let visitor = Visitor { peer: peer.clone(), certificate: None };
    let work = negotiate(link, security, service, visitor, &place);
    let limited = pin!(timeout(service.settings.handshake_time, work));
    match select(limited, select(parted, cut_off)).await {
        Either::Left((Ok(outcome), _)) => outcome,
        Either::Left((Err(_elapsed), _)) => {
            Err(NegotiationError::Socket(io::ErrorKind::TimedOut.into()))
        }
        Either::Right((Either::Left(_), _)) => Ok(None),
        Either::Right((Either::Right(_), _)) => Err(NegotiationError::CutOff),
    }
}

/// How transmission came to its end.
#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error("the client disconnected")]
    Disconnected,
    #[error("the client disconnected and did not take the answers to all it had asked for")]
    Unanswered,
    #[error("the client closed the connection without a disconnect")]
    Closed,
    #[error("the server stops")]
    Stopped,
    #[error("sending failed")]
    SendFailed,
    #[error(transparent)]
    Magic(#[from] BadRequestMagic),
    #[error("a payload of {0} bytes is too long even to be refused")]
    Payload(u64),
    #[error(transparent)]
    Socket(io::Error),
}

impl From<io::Error> for Ended {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => Self::Closed,
            _ => Self::Socket(error),
        }
    }
}

/// What the requests of a connection share.
struct Connection {
    export: Export,
    rules: Transmission,
    /// One for each context of the rules.
    sources: Vec<Source>,
    visitor: Visitor,
    counters: Arc<Counters>,
    outbox: Outbox,
    requests: Arc<Semaphore>,
    bytes: Arc<Semaphore>,
    requests_in_flight: u32,
    holes: HoleSense,
    disk_errors: Cell<u64>,
}

impl Connection {
    fn new(
        (export, sources): (Export, Vec<Source>),
        rules: Transmission,
        visitor: Visitor,
        service: &Service,
    ) -> Self {
        let settings = &service.settings;
        let semaphore = |permits: u32| {
            Arc::new(Semaphore::new(usize::try_from(permits).expect("32 bits fit a usize")))
        };
        Self {
            export,
            outbox: Outbox::new(rules.replies),
            rules,
            sources,
            visitor,
            counters: Arc::clone(&service.counters),
            requests: semaphore(settings.requests_in_flight),
            bytes: semaphore(settings.bytes_in_flight),
            requests_in_flight: settings.requests_in_flight,
            holes: HoleSense::default(),
            disk_errors: Cell::new(0),
        }
    }

    async fn receive_then_drain(
        self: &Rc<Self>,
        incoming: &mut Incoming,
        service: &Service,
    ) -> Ended {
        let ended = self.receive(incoming, service).await;
        match (self.drain(&ended, service).await, ended) {
            (false, Ended::Disconnected) => Ended::Unanswered,
            (_, ended) => ended,
        }
    }

    /// Waits until every accepted request was answered, and says whether that was so. Whoever took its leave is answered in
    /// full, however long that takes, as long as it takes what it is sent and the server is not to stop.
    async fn drain(&self, ended: &Ended, service: &Service) -> bool {
        // All permits are back when every reply was sent.
        let mut drained = pin!(self.requests.acquire_many(self.requests_in_flight));
        loop {
            let before = self.outbox.waits_at();
            if timeout(service.settings.drain_time, drained.as_mut()).await.is_ok() {
                return true;
            }
            let stuck = before.is_some() && before == self.outbox.waits_at();
            if stuck || service.is_stopping() || !matches!(ended, Ended::Disconnected) {
                return false;
            }
        }
    }

    /// Takes requests off the socket until there are no more to be taken.
    async fn receive(self: &Rc<Self>, incoming: &mut Incoming, service: &Service) -> Ended {
        let mut parted = pin!(service.parted());
        let mut broken = pin!(self.outbox.broken());
        let mut ending = pin!(select(parted.as_mut(), broken.as_mut()));
        loop {
            match select(pin!(self.receive_one(incoming, service)), ending.as_mut()).await {
                Either::Left((Ok(()), _)) => {}
                Either::Left((Err(ended), _)) => return ended,
                Either::Right((Either::Left(_), _)) => return Ended::Stopped,
                Either::Right((Either::Right(_), _)) => return Ended::SendFailed,
            }
        }
    }

    async fn receive_one(
        self: &Rc<Self>,
        incoming: &mut Incoming,
        service: &Service,
    ) -> Result<(), Ended> {
        let header = incoming.read_exact(self.rules.replies.request_header()).await?;
        let request = self.rules.replies.parse_request(&header)?;
        let payload = self.rules.payload(&request);
        let decided = match self.rules.decide(&request) {
            Ok(Action::Disconnect) => return Err(Ended::Disconnected),
            _ if service.is_stopping() => {
                self.skip(incoming, payload).await?;
                Err(RequestError::Stopping)
            }
            Ok(Action::FilteredStatus) => {
                let filter = incoming.read_exact(length_of(payload)).await?;
                self.rules.decide_filtered(&request, &filter)
            }
            Err(error) => {
                self.skip(incoming, payload).await?;
                Err(error)
            }
            decided => decided,
        };
        let action = match decided {
            Ok(action) => action,
            Err(error) => {
                self.refuse(&request, &error).await;
                return Ok(());
            }
        };
        let permits = self.permits(bytes_held(&action)).await;
        let payload = match &action {
            Action::Write { .. } => Some(incoming.read_exact(length_of(payload)).await?),
            _ => None,
        };
        let connection = Rc::clone(self);
        spawn(async move { connection.answer(request, action, payload, permits).await });
        Ok(())
    }

    /// Answers a request that breaks a rule. Its payload has been taken.
    async fn refuse(&self, request: &Request, error: &RequestError) {
        tracing::debug!(visitor = %self.visitor, %error, "NBD request refused");
        let permits = self.permits(0).await;
        let counters = self.counters.of(request.command);
        count(&counters.requests);
        count(&counters.refused);
        let failure = Failure { code: error.code(), message: error.to_string(), at: None };
        self.outbox.push(request, Answer::Failed(failure), permits);
    }

    /// Reads the payload of a refused request, so that the next one is found behind it.
    async fn skip(&self, incoming: &mut Incoming, payload: u64) -> Result<(), Ended> {
        if payload > self.rules.longest_unwanted_payload() {
            return Err(Ended::Payload(payload));
        }
        let mut left = payload;
        while left > 0 {
            let part = left.min(SKIP_AT_A_TIME);
            incoming.read_exact(length_of(part)).await?;
            left -= part;
        }
        Ok(())
    }

    /// Waits until the request fits the budget of the connection.
    async fn permits(&self, bytes: u64) -> Permits {
        let bytes = u32::try_from(bytes).expect("at most the maximum request");
        let request = Arc::clone(&self.requests).acquire_owned().await;
        let bytes = Arc::clone(&self.bytes).acquire_many_owned(bytes).await;
        Permits {
            _request: request.expect("the semaphore is never closed"),
            _bytes: bytes.expect("the semaphore is never closed"),
        }
    }

    async fn answer(
        &self,
        request: Request,
        action: Action,
        payload: Option<Buffer>,
        permits: Permits,
    ) {
        let served = Served {
            disk: &*self.export.disk,
            rules: &self.rules,
            sources: &self.sources,
            holes: &self.holes,
        };
        // A client that got no answer at all would wait for ever. What the request was about is of
        // others, and they say themselves what a panic leaves unusable.
        let work = AssertUnwindSafe(execute(&served, action, payload)).catch_unwind();
        let outcome = work.await.unwrap_or_else(|_panic| {
            tracing::error!(
                visitor = %self.visitor,
                export = self.export.name,
                command = ?request.command,
                "an NBD request met a defect; it is answered with an error"
            );
            Err(DiskError::Failed("the server met a defect; its log says where".into()))
        });
        let counters = self.counters.of(request.command);
        count(&counters.requests);
        let answer = match outcome {
            Ok(answer) => {
                match action {
                    Action::Read { range, .. } => add(&self.counters.bytes_read, range.length()),
                    Action::Write { range, .. } => {
                        add(&self.counters.bytes_written, range.length());
                    }
                    _ => {}
                }
                answer
            }
            Err(error) => {
                count(&counters.failed);
                self.log(&request, &error);
                Answer::Failed(failure(&error, &action))
            }
        };
        self.outbox.push(&request, answer, permits);
    }

    fn log(&self, request: &Request, error: &DiskError) {
        let before = self.disk_errors.get();
        self.disk_errors.set(before + 1);
        // A disk that is gone, full or read-only is an ordinary answer; what is left is trouble of our own.
        let ordinary = matches!(
            error,
            DiskError::Gone(_)
                | DiskError::Unavailable(_)
                | DiskError::NoSpace(_)
                | DiskError::ReadOnly
                | DiskError::OutOfRange { .. }
        );
        let (visitor, export, command) = (&self.visitor, &self.export.name, request.command);
        if ordinary || before >= MAX_LOGGED {
            tracing::debug!(%visitor, export, ?command, %error, "NBD request failed");
        } else {
            tracing::warn!(%visitor, export, ?command, %error, "NBD request failed");
        }
    }

    /// Tells whoever has to know how the client left.
    async fn take_leave(&self, ended: &Ended) {
        let Some(usage) = &self.export.usage else { return };
        let how = match ended {
            Ended::Disconnected => Leaving::InOrder,
            other => Leaving::Broken(other.to_string()),
        };
        usage.leave(how).await;
    }

    fn farewell(&self, ended: &Ended) {
        match ended {
            Ended::Disconnected | Ended::Unanswered | Ended::Closed | Ended::Stopped => {}
            Ended::SendFailed | Ended::Magic(_) | Ended::Payload(_) | Ended::Socket(_) => {
                count(&self.counters.connections_broken);
            }
        }
        let disk_errors = self.disk_errors.get();
        tracing::debug!(visitor = %self.visitor, %ended, disk_errors, "NBD connection ended");
    }
}

/// Bytes of payload a request holds, in either direction.
fn bytes_held(action: &Action) -> u64 {
    match action {
        Action::Read { range, .. } | Action::Write { range, .. } => range.length(),
        Action::BlockStatus { extents: Extents::Many, .. } => LONGEST_DESCRIPTION,
        _ => 0,
    }
}

fn length_of(payload: u64) -> usize {
    usize::try_from(payload).expect("at most the maximum request")
}
