//! The source's end of a stream: keeps what is not acknowledged, and goes on exactly where the target stopped.
//!
//! The session outlives its connections. Batches and marks get their position when they are pushed and stay until the
//! target has acknowledged them; after a break they are sent again, byte for byte, from where the `Welcome` says.
//!
//! **Invariants**
//! - `kept` holds the positions `acked + 1 ..= last`, without a gap.
//! - Never more bytes of batches are under way than the target gave credit for.
//! - At most one mark is unanswered.
//! - When positions cannot be trusted, everything kept is dropped and [`SessionEvent::PositionLost`] says so: the caller
//!   begins its pass again by comparing.

use super::{MAX_HASH_REQUESTS, MIN_BATCH_BYTES, MIN_CREDIT_BYTES};
use crate::delta::identity::{ContentId, Generation, Name, Position, StreamId, Timestamp};
use crate::delta::pack::PackedBatch;
use crate::delta::refusal::Retry;
use crate::delta::wire::{
    Ack, Bye, DiskEntry, Features, FrameError, FrameKind, HashRequest, Hashes, Hello,
    MAX_BATCH_BYTES, MAX_HASHES_BODY, MAX_VERSION, MIN_VERSION, Mark, MarkKind, Marked, PassBegin,
    Ping, RawFrame, Refused, StreamMode, Welcome, WriteOrder,
};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Time the target has to answer a `Hello`: it may have to wait for the end of an older connection.
const GREETING: Duration = Duration::from_secs(60);

/// Who the source is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Profile {
    /// Id of the stream.
    pub stream: StreamId,
    /// The machine.
    pub machine: Name,
    /// Its disks; 1 to 64.
    pub disks: Vec<DiskEntry>,
    /// What it offers.
    pub features: Features,
}

/// What the session tells its driver.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum SessionEvent {
    /// The target admitted a stream that held no position.
    Welcomed(Welcome),
    /// The stream goes on after a break.
    Resumed {
        /// Everything up to here is durable.
        position: Position,
        /// Batches and marks that are sent again.
        resent: usize,
    },
    /// Everything up to here is durable.
    Acked(Position),
    /// The mark became a point. The answer is missing when it was lost in a break and the target no longer knows it:
    /// the point is durable all the same.
    Marked(Option<Marked>),
    /// Hashes that were asked for.
    Hashes(Hashes),
    /// Unacknowledged batches, marks and requests were dropped; the pass has to begin again. The target's present word
    /// is given when it has welcomed the stream already.
    PositionLost(Option<Welcome>),
    /// The target refused.
    Refused(Refused),
    /// The target took the farewell; everything sent is durable.
    Left,
    /// The target is going away; connect again later.
    PeerLeaves,
}

/// Why a connection is of no more use. The session goes on with the next one.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SessionError {
    /// Not a frame.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// A frame at the wrong time.
    #[error("{0:?} is out of place")]
    OutOfOrder(FrameKind),
    /// The target acknowledged what was not sent, or less than before.
    #[error("position {got} acknowledged, {acked} to {sent} possible")]
    Acknowledged {
        /// What it said.
        got: Position,
        /// Acknowledged before.
        acked: Position,
        /// Sent so far.
        sent: Position,
    },
    /// The `Welcome` contradicts the `Hello` or the rules.
    #[error("the target's welcome is not acceptable: {0}")]
    Welcome(&'static str),
    /// An answer to a question nobody asked.
    #[error("answer to a {0:?} that was not sent")]
    Unasked(FrameKind),
    /// Nothing was heard for too long.
    #[error("nothing was heard from the target for {0:?}")]
    Silent(Duration),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Apart,
    Greeting,
    Streaming,
    Leaving,
    Over,
}

#[derive(Debug)]
struct Kept {
    position: Position,
    frame: Arc<Vec<u8>>,
    /// Zero for marks.
    cost_bytes: u64,
    plain_bytes: u64,
    /// What the target must be able to do.
    needs: Features,
}

/// One stream, seen from the source.
#[derive(Debug)]
pub struct ClientSession {
    profile: Profile,
    state: State,
    generation: Option<Generation>,
    features: Features,
    acked: Position,
    /// Highest position that was ever handed out for sending.
    sent: Position,
    kept: VecDeque<Kept>,
    kept_bytes: u64,
    /// How many of `kept` were sent on this connection.
    sent_here: usize,
    credit_bytes: u64,
    window_bytes: u64,
    mark: Option<Position>,
    requests: VecDeque<HashRequest>,
    pass: Option<PassBegin>,
    leave: Option<Bye>,
    queue: VecDeque<Vec<u8>>,
    events: VecDeque<SessionEvent>,
    idle: Duration,
    heard: Instant,
    pinged: Instant,
}

impl ClientSession {
    /// A stream that has not connected yet.
    pub fn new(profile: Profile, now: Instant) -> Self {
        Self {
            features: profile.features,
            profile,
            state: State::Apart,
            generation: None,
            acked: Position::default(),
            sent: Position::default(),
            kept: VecDeque::new(),
            kept_bytes: 0,
            sent_here: 0,
            credit_bytes: 0,
            window_bytes: 0,
            mark: None,
            requests: VecDeque::new(),
            pass: None,
            leave: None,
            queue: VecDeque::new(),
            events: VecDeque::new(),
            idle: GREETING,
            heard: now,
            pinged: now,
        }
    }

    /// A connection is there: the session greets.
    pub fn connected(&mut self, now: Instant) {
        assert_eq!(self.state, State::Apart, "one connection at a time");
        let hello = Hello {
            min_version: MIN_VERSION,
            max_version: MAX_VERSION,
            features: self.profile.features,
            mode: StreamMode::Passes,
            stream: self.profile.stream,
            generation: self.generation,
            machine: self.profile.machine.clone(),
            disks: self.profile.disks.clone(),
        };
        self.queue.clear();
        self.queue.push_back(hello.encode());
        self.sent_here = 0;
        self.idle = GREETING;
        (self.heard, self.pinged) = (now, now);
        self.state = State::Greeting;
    }

    /// The connection is gone, for whatever reason.
    pub fn disconnected(&mut self) {
        if self.state != State::Over {
            self.state = State::Apart;
        }
        self.queue.clear();
        self.sent_here = 0;
        self.credit_bytes = 0;
    }

    /// Whether batches, marks and requests can be pushed.
    pub fn is_ready(&self) -> bool {
        self.generation.is_some() && self.leave.is_none()
    }

    /// Whether another batch should be pushed now, rather than after more has been acknowledged.
    pub fn has_room(&self) -> bool {
        self.is_ready() && self.kept_bytes < self.window_bytes
    }

    /// Whether another hash request can be pushed.
    pub fn can_request(&self) -> bool {
        self.is_ready() && self.requests.len() < MAX_HASH_REQUESTS
    }

    /// Whether a mark can be pushed.
    pub fn can_mark(&self) -> bool {
        self.is_ready() && self.mark.is_none()
    }

    /// Whether everything pushed is durable at the target.
    pub fn is_settled(&self) -> bool {
        self.kept.is_empty() && self.mark.is_none()
    }

    /// Largest body that is accepted.
    pub fn body_limit(&self) -> usize {
        MAX_HASHES_BODY
    }

    /// A pass begins.
    pub fn begin_pass(&mut self, pass: PassBegin) {
        assert!(self.is_ready(), "a pass on a stream without a position");
        if self.state == State::Streaming {
            self.queue.push_back(pass.encode());
        }
        self.pass = Some(pass);
    }

    /// Puts a batch at the end of the stream.
    pub fn push_batch(&mut self, batch: PackedBatch) -> Position {
        assert!(self.is_ready(), "a batch on a stream without a position");
        let position = self.next_position();
        let kept = Kept {
            position,
            cost_bytes: batch.cost_bytes(),
            plain_bytes: batch.plain_bytes(),
            needs: Features { lz4: batch.is_compressed(), ..Features::NONE },
            frame: Arc::new(batch.into_frame(position)),
        };
        self.kept_bytes += kept.cost_bytes;
        self.kept.push_back(kept);
        position
    }

    /// Puts a mark at the end of the stream: completes the pass.
    ///
    /// `contents` are what the source calls what its disks hold now: one per disk, or none at all. A target that cannot
    /// remember them is not told.
    pub fn push_mark(
        &mut self,
        kind: MarkKind,
        label: &str,
        source_time: Timestamp,
        contents: Vec<Option<ContentId>>,
    ) -> Position {
        assert!(self.can_mark(), "one mark at a time");
        assert!([0, self.profile.disks.len()].contains(&contents.len()), "one content per disk");
        let position = self.next_position();
        let told = self.features.contents && contents.iter().any(Option::is_some);
        let contents = if told { contents } else { Vec::new() };
        let (label, order) = (label.to_owned(), None);
        let mark = Mark { position, source_time, kind, label, contents, order };
        self.keep_mark(&mark, Features { contents: told, ..Features::NONE })
    }

    /// Whether the target takes marks that begin such order.
    pub fn takes_order(&self, order: WriteOrder) -> bool {
        let Features { order: any, synchronous, .. } = self.features;
        any && (synchronous || order == WriteOrder::Asynchronous)
    }

    /// Puts a mark at the end of the stream after which every batch is a moment.
    pub fn push_mark_in_order(
        &mut self,
        kind: MarkKind,
        label: &str,
        source_time: Timestamp,
        order: WriteOrder,
    ) -> Position {
        let taken = self.takes_order(order);
        assert!(self.can_mark() && taken, "one mark at a time, where it is taken");
        let (position, contents) = (self.next_position(), Vec::new());
        let label = label.to_owned();
        let synchronous = order == WriteOrder::Synchronous;
        let order = Some(order);
        let mark = Mark { position, source_time, kind, label, contents, order };
        self.keep_mark(&mark, Features { order: true, synchronous, ..Features::NONE })
    }

    fn keep_mark(&mut self, mark: &Mark, needs: Features) -> Position {
        self.kept.push_back(Kept {
            position: mark.position,
            frame: Arc::new(mark.encode()),
            cost_bytes: 0,
            plain_bytes: 0,
            needs,
        });
        self.mark = Some(mark.position);
        mark.position
    }

    /// Asks for hashes.
    pub fn request_hashes(&mut self, request: HashRequest) {
        assert!(self.can_request(), "at most {MAX_HASH_REQUESTS} requests at once");
        if self.state == State::Streaming {
            self.queue.push_back(request.encode());
        }
        self.requests.push_back(request);
    }

    /// Leaves: at once with [`Bye::Stopping`], after everything is acknowledged with [`Bye::Done`].
    pub fn leave(&mut self, how: Bye) {
        self.leave = Some(how);
    }

    /// Whether the stream is to be left without waiting for anything.
    pub fn is_stopping(&self) -> bool {
        self.leave == Some(Bye::Stopping)
    }

    /// Bytes have arrived, whatever they are.
    pub fn heard(&mut self, now: Instant) {
        self.heard = now;
    }

    /// Takes a frame. After an error the connection has to be dropped.
    pub fn handle_frame(&mut self, frame: &RawFrame, now: Instant) -> Result<(), SessionError> {
        let (kind, body) = (frame.header.kind, &frame.body);
        match (self.state, kind) {
            (State::Greeting, FrameKind::Welcome) => self.welcome(Welcome::parse(body)?, now),
            (State::Greeting | State::Streaming | State::Leaving, FrameKind::Refused) => {
                self.refused(Refused::parse(body)?);
                Ok(())
            }
            (State::Streaming | State::Leaving, _) => self.streaming_frame(kind, body),
            _ => Err(SessionError::OutOfOrder(kind)),
        }
    }

    /// What has happened since the last call.
    pub fn poll_event(&mut self) -> Option<SessionEvent> {
        self.events.pop_front()
    }

    /// The next bytes to send, if any can be sent now.
    pub fn poll_transmit(&mut self) -> Option<Arc<Vec<u8>>> {
        if let Some(frame) = self.queue.pop_front() {
            return Some(Arc::new(frame));
        }
        if self.state != State::Streaming {
            return None;
        }
        if self.leave != Some(Bye::Stopping)
            && let Some(next) = self.kept.get(self.sent_here)
        {
            if next.cost_bytes > self.credit_bytes {
                return None;
            }
            self.credit_bytes -= next.cost_bytes;
            self.sent_here += 1;
            self.sent = self.sent.max(next.position);
            return Some(Arc::clone(&next.frame));
        }
        let leave = self.leave.filter(|how| *how == Bye::Stopping || self.is_settled())?;
        self.state = State::Leaving;
        Some(Arc::new(leave.encode()))
    }

    /// When to call [`ClientSession::handle_timeout`].
    pub fn next_timeout(&self) -> Option<Instant> {
        match self.state {
            State::Apart | State::Over => None,
            State::Greeting | State::Leaving => Some(self.heard + self.idle),
            State::Streaming => Some((self.heard + self.idle).min(self.pinged + self.idle / 3)),
        }
    }

    /// Keeps the connection alive, or gives it up when the target is silent.
    pub fn handle_timeout(&mut self, now: Instant) -> Result<(), SessionError> {
        if self.next_timeout().is_none_or(|due| due > now) {
            return Ok(());
        }
        if self.heard + self.idle <= now {
            return Err(SessionError::Silent(self.idle));
        }
        self.pinged = now;
        self.queue.push_back(Ping { token: self.sent.number() }.encode());
        Ok(())
    }

    fn next_position(&self) -> Position {
        let last = self.kept.back().map_or(self.acked, |kept| kept.position);
        last.next().expect("no stream has 2^64 batches")
    }

    fn welcome(&mut self, welcome: Welcome, now: Instant) -> Result<(), SessionError> {
        self.check_welcome(&welcome)?;
        self.state = State::Streaming;
        self.credit_bytes = welcome.credit_bytes;
        self.window_bytes = welcome.credit_bytes;
        self.idle = Duration::from_millis(welcome.idle_ms.into());
        (self.heard, self.pinged) = (now, now);
        let held = self.generation.replace(welcome.generation);
        self.features = welcome.features;
        if held.is_none() {
            self.settle_at(welcome.position);
            self.events.push_back(SessionEvent::Welcomed(welcome));
        } else if held == Some(welcome.generation) && self.can_resume(&welcome) {
            self.resume(&welcome);
        } else {
            self.settle_at(welcome.position);
            self.events.push_back(SessionEvent::PositionLost(Some(welcome)));
        }
        Ok(())
    }

    fn check_welcome(&self, welcome: &Welcome) -> Result<(), SessionError> {
        let rule =
            |holds: bool, what| if holds { Ok(()) } else { Err(SessionError::Welcome(what)) };
        let versions = MIN_VERSION..=MAX_VERSION;
        rule(versions.contains(&welcome.version), "a version that was not offered")?;
        let common = welcome.features.common(self.profile.features);
        rule(common == welcome.features, "a feature that was not offered")?;
        rule(welcome.credit_bytes >= MIN_CREDIT_BYTES, "less credit than two batches")?;
        let batch = welcome.max_batch_bytes;
        rule(batch >= MIN_BATCH_BYTES, "batches smaller than 64 KiB")?;
        rule(batch as usize <= MAX_BATCH_BYTES, "batches larger than 4 MiB")?;
        rule(welcome.idle_ms >= 1000, "an idle time below a second")?;
        let sizes = welcome.disks.iter().map(|disk| disk.size_bytes);
        rule(sizes.eq(self.profile.disks.iter().map(|disk| disk.size_bytes)), "other disks")
    }

    /// Whether what is kept can go on from the target's position, within the target's present limits.
    fn can_resume(&self, welcome: &Welcome) -> bool {
        let fits = |kept: &Kept| {
            kept.plain_bytes <= welcome.max_batch_bytes.into()
                && welcome.features.common(kept.needs) == kept.needs
        };
        (self.acked..=self.sent.max(self.acked)).contains(&welcome.position)
            && self.kept.iter().all(fits)
    }

    fn resume(&mut self, welcome: &Welcome) {
        self.drop_kept(welcome.position);
        let position = welcome.position;
        self.events.push_back(SessionEvent::Resumed { position, resent: self.kept.len() });
        if self.mark.is_some_and(|mark| mark <= position) {
            let answer = welcome.last_mark.filter(|last| Some(last.position) == self.mark);
            self.finish_mark(answer);
        }
        self.queue.extend(self.pass.as_ref().map(PassBegin::encode));
        self.queue.extend(self.requests.iter().map(HashRequest::encode));
    }

    /// Forgets everything that is not acknowledged, and goes on at `position`.
    fn settle_at(&mut self, position: Position) {
        self.kept.clear();
        self.kept_bytes = 0;
        self.sent_here = 0;
        (self.acked, self.sent) = (position, position);
        self.mark = None;
        self.pass = None;
        self.requests.clear();
    }

    fn refused(&mut self, refused: Refused) {
        self.state = State::Apart;
        self.queue.clear();
        let afresh = refused.retry == Retry::Afresh && self.generation.is_some();
        self.events.push_back(SessionEvent::Refused(refused));
        if afresh {
            self.generation = None;
            self.settle_at(Position::default());
            self.events.push_back(SessionEvent::PositionLost(None));
        }
    }

    fn streaming_frame(&mut self, kind: FrameKind, body: &[u8]) -> Result<(), SessionError> {
        match kind {
            FrameKind::Ack => {
                let ack = Ack::parse(body)?;
                self.acknowledge(ack.position)?;
                self.credit_bytes = self.credit_bytes.saturating_add(ack.credit_bytes);
                self.events.push_back(SessionEvent::Acked(ack.position));
            }
            FrameKind::Marked => {
                let marked = Marked::parse(body)?;
                if self.mark != Some(marked.position) {
                    return Err(SessionError::Unasked(FrameKind::Mark));
                }
                self.acknowledge(marked.position)?;
                self.finish_mark(Some(marked));
            }
            FrameKind::Hashes => {
                let hashes = Hashes::parse(body)?;
                let asked = self.requests.iter().position(|asked| *asked == hashes.request);
                let asked = asked.ok_or(SessionError::Unasked(FrameKind::HashRequest))?;
                self.requests.remove(asked);
                self.events.push_back(SessionEvent::Hashes(hashes));
            }
            FrameKind::Ping => self.queue.push_back(Ping::parse(kind, body)?.encode_pong()),
            FrameKind::Pong => {
                Ping::parse(kind, body)?;
            }
            FrameKind::Bye => self.bye(Bye::parse(body)?),
            _ => return Err(SessionError::OutOfOrder(kind)),
        }
        Ok(())
    }

    fn bye(&mut self, bye: Bye) {
        if self.state == State::Leaving && bye == Bye::Done {
            self.state = State::Over;
            self.events.push_back(SessionEvent::Left);
        } else {
            self.state = State::Apart;
            self.events.push_back(SessionEvent::PeerLeaves);
        }
    }

    fn acknowledge(&mut self, position: Position) -> Result<(), SessionError> {
        if !(self.acked..=self.sent).contains(&position) {
            let (acked, sent) = (self.acked, self.sent);
            return Err(SessionError::Acknowledged { got: position, acked, sent });
        }
        self.drop_kept(position);
        Ok(())
    }

    fn drop_kept(&mut self, position: Position) {
        while self.kept.front().is_some_and(|kept| kept.position <= position) {
            let kept = self.kept.pop_front().expect("looked at above");
            self.kept_bytes -= kept.cost_bytes;
            self.sent_here = self.sent_here.saturating_sub(1);
        }
        self.acked = position;
    }

    fn finish_mark(&mut self, answer: Option<Marked>) {
        self.mark = None;
        self.pass = None;
        self.events.push_back(SessionEvent::Marked(answer));
    }
}
