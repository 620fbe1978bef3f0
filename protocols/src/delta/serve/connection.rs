//! One connection, from its first byte to its last.
//!
//! ```text
//!   TLS ──▶ greeting ──▶ claim the machine ──▶ open ──▶ streaming ──▶ settle ──▶ closed ──▶ claim given back
//!    │          │               │               │           │
//!    └──────────┴───────────────┴───────────────┴───────────┴──▶ refused: told, counted, logged once
//! ```

use super::pipeline::{Done, Pipeline};
use super::registry::Claim;
use super::transport::{Transport, TransportError};
use super::{OpenConnection, Server};
use crate::admission::Place;
use crate::delta::counters::{Counters, OpenCount};
use crate::delta::refusal::Refusal;
use crate::delta::replicas::{
    Closed, OpenedStream, PeerIdentity, ReplicaSink, StreamDisk, StreamHello,
};
use crate::delta::session::{Request, ServerSession};
use crate::delta::wire::{BatchFrame, ExtentKind};
use crate::pki::Subject;
use futures_util::future::FutureExt;
use landfall_disks::uring;
use landfall_disks::uring::net::{Peer, Stream};
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Serves a connection that was just accepted.
pub(super) async fn serve(
    server: Arc<Server>,
    stream: Stream,
    peer: Peer,
    (open, mut place): (OpenConnection, Place),
) {
    let mut transport = match Transport::new(stream, Arc::clone(&server.tls)) {
        Ok(transport) => transport,
        Err(error) => return not_admitted(&server, &peer, &error.to_string()),
    };
    let mut stopping = server.stopping.subscribe();
    let subject = futures_util::select_biased! {
        _ = pin!(stopping.wait_for(|stopping| *stopping).fuse()) => return,
        () = pin!(place.cut_off().fuse()) => {
            return not_admitted(&server, &peer, "too many others came before it said who it is");
        }
        subject = pin!(handshake(&mut transport, server.settings.handshake).fuse()) => subject,
    };
    let identity = match subject {
        Ok(Subject { name, fingerprint }) => {
            PeerIdentity { name, fingerprint, address: peer.to_string() }
        }
        Err(why) => {
            not_admitted(&server, &peer, &why);
            return transport.close().await;
        }
    };
    let session = ServerSession::new(server.settings.limits, Instant::now());
    let served = place.serve();
    drop(place);
    let mut connection = Connection { server, transport, session, identity };
    let end = connection.run(served.is_none()).await;
    connection.report(&end);
    connection.transport.close().await;
    drop(open);
}

async fn handshake(transport: &mut Transport, limit: Duration) -> Result<Subject, String> {
    match uring::timeout(limit, transport.handshake()).await {
        Ok(Ok(certificate)) => Subject::of(&certificate).map_err(|error| error.to_string()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(uring::Elapsed) => Err("TLS handshake timed out".to_owned()),
    }
}

fn not_admitted(server: &Server, peer: &Peer, why: &str) {
    Counters::add(&server.counters.tls_failures, 1);
    server.log.spend(|| tracing::warn!(%peer, why, "a connection was not admitted"));
}

struct Connection {
    server: Arc<Server>,
    transport: Transport,
    session: ServerSession,
    identity: PeerIdentity,
}

/// How a connection ended, and for which machine.
struct End {
    machine: Option<String>,
    why: Closed,
}

/// What the wait of a stream ended with.
enum Woken {
    Received(Result<(), TransportError>),
    Done(Done),
    Timeout,
    Wanted,
    Stopping,
}

impl Connection {
    async fn run(&mut self, crowded: bool) -> End {
        if crowded {
            let limit = self.server.settings.max_connections;
            return self.refuse(None, Refusal::TooManyConnections { limit }).await;
        }
        let hello = match self.greeting().await {
            Ok(hello) => hello,
            Err(why) => return self.ended(None, why).await,
        };
        let machine = hello.machine.to_string();
        let server = Arc::clone(&self.server);
        let claim = match server.registry.claim(&hello, &self.identity).await {
            Ok(claim) => claim,
            Err(refusal) => return self.refuse(Some(machine), refusal).await,
        };
        if claim.has_taken_over() {
            Counters::add(&server.counters.takeovers, 1);
        }
        let stream = hello.stream;
        match server.replicas.open(hello, self.identity.clone()).await {
            Err(refusal) => self.refuse(Some(machine), refusal).await,
            Ok(opened) => {
                let OpenedStream { generation, position, last_mark, disks, sink } = opened;
                let disks: Vec<StreamDisk> = disks;
                self.session.opened(generation, position, last_mark, &disks, Instant::now());
                tracing::info!(
                    peer = %self.identity, machine, %stream, %generation, %position,
                    "stream opened"
                );
                let _open = OpenCount::new(&server.counters.streams_open);
                let why = self.stream(sink.as_ref(), &claim).await;
                sink.closed(why.clone()).await;
                drop(claim);
                End { machine: Some(machine), why }
            }
        }
    }

    /// Waits for the `Hello`.
    async fn greeting(&mut self) -> Result<StreamHello, Closed> {
        let mut stopping = self.server.stopping.subscribe();
        loop {
            match self.take_requests() {
                Err(why) => return Err(why),
                Ok(requests) => {
                    for request in requests {
                        if let Request::Open(hello) = request {
                            return Ok(hello);
                        }
                    }
                }
            }
            let left = self.time_left();
            let woken = futures_util::select_biased! {
                received = pin!(self.transport.receive().fuse()) => Woken::Received(received),
                _ = pin!(uring::sleep(left).fuse()) => Woken::Timeout,
                _ = pin!(stopping.wait_for(|stopping| *stopping).fuse()) => Woken::Stopping,
            };
            self.woken(woken)?;
        }
    }

    /// Everything between `Welcome` and the end. What was begun has ended when it returns.
    async fn stream(&mut self, sink: &dyn ReplicaSink, claim: &Claim) -> Closed {
        let mut pipeline = Pipeline::new(sink);
        let why = self.exchange(&mut pipeline, claim).await;
        // The source hears the reason at once; what was begun may take its time.
        self.say_goodbye().await;
        pipeline.settle().await;
        why
    }

    async fn exchange(&mut self, pipeline: &mut Pipeline<'_>, claim: &Claim) -> Closed {
        let mut stopping = self.server.stopping.subscribe();
        loop {
            match self.take_requests() {
                Err(why) => return why,
                Ok(requests) => requests.into_iter().for_each(|one| self.begin(one, pipeline)),
            }
            if let Err(why) = self.transmit(claim).await {
                return why;
            }
            if self.session.is_over() {
                return Closed::Finished;
            }
            let left = self.time_left();
            let woken = futures_util::select_biased! {
                _ = pin!(claim.wanted().fuse()) => Woken::Wanted,
                _ = pin!(stopping.wait_for(|stopping| *stopping).fuse()) => Woken::Stopping,
                done = pin!(pipeline.next().fuse()) => Woken::Done(done),
                received = pin!(self.transport.receive().fuse()) => Woken::Received(received),
                _ = pin!(uring::sleep(left).fuse()) => Woken::Timeout,
            };
            if let Err(why) = self.woken(woken) {
                return why;
            }
        }
    }

    /// Carries what was waited for into the session.
    fn woken(&mut self, woken: Woken) -> Result<(), Closed> {
        match woken {
            Woken::Received(Ok(())) => {
                self.session.heard(Instant::now());
                Ok(())
            }
            Woken::Received(Err(error)) => Err(self.lost(error)),
            Woken::Done(Done::Applied(position)) => {
                Counters::add(&self.server.counters.batches, 1);
                self.session.durable(position);
                Ok(())
            }
            Woken::Done(Done::Marked(marked)) => {
                Counters::add(&self.server.counters.marks, 1);
                self.session.marked(marked);
                Ok(())
            }
            Woken::Done(Done::Hashes(request, blocks)) => {
                Counters::add(&self.server.counters.hash_blocks, blocks.len() as u64);
                self.session.hashes(request, blocks);
                Ok(())
            }
            Woken::Done(Done::Refused(refusal)) => {
                self.session.refuse(&refusal);
                Err(Closed::Refused(refusal))
            }
            Woken::Timeout => self.session.handle_timeout(Instant::now()).map_err(Closed::Refused),
            Woken::Wanted => Err(Closed::TakenOver),
            Woken::Stopping => {
                self.session.refuse(&Refusal::Stopping);
                Err(Closed::Refused(Refusal::Stopping))
            }
        }
    }

    /// Takes every frame that has arrived.
    fn take_requests(&mut self) -> Result<Vec<Request>, Closed> {
        let mut requests = Vec::new();
        loop {
            match self.transport.next_frame(self.session.body_limit()) {
                Ok(None) => return Ok(requests),
                Ok(Some(frame)) => {
                    requests.extend(self.session.handle_frame(frame).map_err(Closed::Refused)?);
                }
                Err(error) => return Err(self.lost(error)),
            }
        }
    }

    fn begin(&self, request: Request, pipeline: &mut Pipeline<'_>) {
        let counters = &self.server.counters;
        match request {
            Request::Apply(batch) => {
                let (plain, zero) = content(&batch);
                Counters::add(&counters.wire_bytes, batch.cost_bytes());
                Counters::add(&counters.plain_bytes, plain);
                Counters::add(&counters.zero_bytes, zero);
                pipeline.batch(batch);
            }
            Request::Mark(mark) => pipeline.mark(mark),
            Request::PassBegin(pass) => pipeline.pass_begin(pass),
            Request::Hashes(request) => pipeline.hashes(request),
            Request::Replayed => Counters::add(&counters.replayed, 1),
            Request::Leave(_) => {}
            Request::Open(_) => unreachable!("the session takes one Hello"),
        }
    }

    /// Sends what the session has to say, unless the peer takes too long or a newer connection comes.
    async fn transmit(&mut self, claim: &Claim) -> Result<(), Closed> {
        let frames: Vec<Vec<u8>> = std::iter::from_fn(|| self.session.poll_transmit()).collect();
        if frames.is_empty() {
            return Ok(());
        }
        let idle = self.server.settings.limits.idle;
        let sent = futures_util::select_biased! {
            sent = pin!(uring::timeout(idle, self.transport.send(&frames)).fuse()) => sent,
            () = pin!(claim.wanted().fuse()) => return Err(Closed::TakenOver),
        };
        match sent {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(self.lost(error)),
            Err(uring::Elapsed) => Err(Closed::Lost("the source does not read".to_owned())),
        }
    }

    /// What a failed transport means: bytes that are no frame are refused, anything else is a broken connection.
    fn lost(&mut self, error: TransportError) -> Closed {
        match error {
            TransportError::Frame(error) => {
                let refusal = Refusal::from(error);
                self.session.refuse(&refusal);
                Closed::Refused(refusal)
            }
            other => Closed::Lost(other.to_string()),
        }
    }

    async fn refuse(&mut self, machine: Option<String>, refusal: Refusal) -> End {
        self.session.refuse(&refusal);
        self.ended(machine, Closed::Refused(refusal)).await
    }

    async fn ended(&mut self, machine: Option<String>, why: Closed) -> End {
        self.say_goodbye().await;
        End { machine, why }
    }

    /// Sends what is left to say. The end is reported by whoever decided it, so a failure here is no news.
    async fn say_goodbye(&mut self) {
        let frames: Vec<Vec<u8>> = std::iter::from_fn(|| self.session.poll_transmit()).collect();
        if frames.is_empty() {
            return;
        }
        let sent = uring::timeout(Duration::from_secs(5), self.transport.send(&frames)).await;
        if !matches!(sent, Ok(Ok(()))) {
            tracing::debug!(peer = %self.identity, "the peer did not take the last frame");
        }
    }

    fn time_left(&self) -> Duration {
        let far = Duration::from_secs(3600);
        self.session.next_timeout().map_or(far, |due| due.saturating_duration_since(Instant::now()))
    }

    /// Counts the end and logs it, once.
    fn report(&self, end: &End) {
        let End { machine, why } = end;
        let machine = machine.as_deref().unwrap_or("-");
        let (peer, counters) = (&self.identity, &self.server.counters);
        match why {
            Closed::Finished | Closed::TakenOver => {
                tracing::info!(%peer, machine, %why, "stream closed");
            }
            Closed::Lost(_) => {
                Counters::add(&counters.connections_lost, 1);
                self.server.log.spend(|| tracing::info!(%peer, machine, %why, "stream closed"));
            }
            Closed::Refused(refusal) => {
                counters.refused(refusal.code());
                let code = refusal.code().as_str();
                self.server.log.spend(|| {
                    tracing::warn!(%peer, machine, code, "stream refused: {refusal}");
                });
            }
        }
    }
}

/// Bytes of content and of zeroes in a batch.
fn content(batch: &BatchFrame) -> (u64, u64) {
    batch.extents.iter().fold((0, 0), |(plain, zero), extent| match extent.kind {
        ExtentKind::Data { .. } => (plain + extent.range.length(), zero),
        ExtentKind::Zero => (plain, zero + extent.range.length()),
    })
}
