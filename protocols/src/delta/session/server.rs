//! The target's end of a stream: decides what each frame may do.
//!
//! Knows nothing of sockets, disks or threads. A frame goes in, at most one [`Request`] comes out; when the request has
//! been carried out, the session is told and has something to send.
//!
//! **Invariants**
//! - Requests come out in order of position, each position once.
//! - `durable <= accepted`, and an `Ack` never names more than `durable`.
//! - After a refusal nothing comes out but the `Refused` frame.

use super::{MAX_HASH_REQUESTS, MIN_BATCH_BYTES, MIN_CREDIT_BYTES};
use crate::delta::HASH_BLOCK_SIZE;
use crate::delta::identity::{DiskSlot, Generation, Name, Position};
use crate::delta::refusal::Refusal;
use crate::delta::replicas::{StreamDisk, StreamHello};
use crate::delta::wire::{
    Ack, BatchFrame, BlockHash, Bye, DiskEntry, Features, FrameKind, HashRequest, Hashes, Hello,
    MAX_BATCH_BYTES, MAX_CONTROL_BODY, MAX_VERSION, MIN_VERSION, Mark, MarkKind, Marked, PassBegin,
    Ping, RawFrame, Refused, Welcome, WelcomeDisk, WriteOrder,
};
use landfall_disks::{BLOCK_SIZE, ByteOffset, ByteRange};
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// What the target allows a stream.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SessionLimits {
    /// Bytes of batch frames that may be unacknowledged; at least [`MIN_CREDIT_BYTES`].
    pub credit_bytes: u64,
    /// Most bytes of content in a batch; [`MIN_BATCH_BYTES`] to [`MAX_BATCH_BYTES`].
    pub max_batch_bytes: u32,
    /// Time until the first frame has to be there.
    pub greeting: Duration,
    /// Time without a byte after which the source counts as gone.
    pub idle: Duration,
}

impl Default for SessionLimits {
    fn default() -> Self {
        Self {
            credit_bytes: 16 << 20,
            max_batch_bytes: 1 << 20,
            greeting: Duration::from_secs(10),
            idle: Duration::from_secs(30),
        }
    }
}

impl SessionLimits {
    /// The same, with every number inside what the protocol allows.
    pub fn clamped(self) -> Self {
        let largest = u32::try_from(MAX_BATCH_BYTES).expect("4 MiB");
        Self {
            credit_bytes: self.credit_bytes.max(MIN_CREDIT_BYTES),
            max_batch_bytes: self.max_batch_bytes.clamp(MIN_BATCH_BYTES, largest),
            ..self
        }
    }
}

/// What a frame asks the target to do.
#[derive(Debug)]
pub enum Request {
    /// Admit the stream; answer with [`ServerSession::opened`].
    Open(StreamHello),
    /// Take note of a pass; no answer.
    PassBegin(PassBegin),
    /// Check and apply a batch; answer with [`ServerSession::durable`].
    Apply(BatchFrame),
    /// Make a point; answer with [`ServerSession::marked`].
    Mark(Mark),
    /// Look hashes up; answer with [`ServerSession::hashes`].
    Hashes(HashRequest),
    /// A batch or mark that was applied before: nothing to do, it is acknowledged already.
    Replayed,
    /// The source leaves. The session is over once [`ServerSession::is_over`].
    Leave(Bye),
}

#[derive(Debug)]
enum State {
    Greeting,
    Opening {
        hello: Hello,
    },
    Streaming(Streaming),
    /// Bye received; what is under way ends first.
    Leaving(Streaming),
    Over,
}

#[derive(Debug)]
struct Streaming {
    machine: Name,
    disks: Vec<DiskEntry>,
    accepted: Position,
    durable: Position,
    /// Positions between `durable` and `accepted`, with their cost in credit.
    under_way: VecDeque<(Position, u64)>,
    mark: Option<Position>,
    /// Credit the source has spent and not been given back in an `Ack` that was sent.
    used_bytes: u64,
    /// Credit that the next `Ack` gives back.
    owed_bytes: u64,
    ack_due: bool,
    hash_requests: usize,
}

/// One connection, seen from the target.
#[derive(Debug)]
pub struct ServerSession {
    limits: SessionLimits,
    features: Features,
    state: State,
    queue: VecDeque<Vec<u8>>,
    deadline: Instant,
}

impl ServerSession {
    /// A connection that was just accepted.
    pub fn new(limits: SessionLimits, now: Instant) -> Self {
        let limits = limits.clamped();
        Self {
            limits,
            features: Features::ALL,
            state: State::Greeting,
            queue: VecDeque::new(),
            deadline: now + limits.greeting,
        }
    }

    /// Largest body the session takes in its present state, in bytes.
    pub fn body_limit(&self) -> usize {
        match self.state {
            State::Streaming(_) => {
                let slack = crate::delta::wire::MAX_BATCH_BODY - MAX_BATCH_BYTES;
                slack + self.limits.max_batch_bytes as usize
            }
            _ => MAX_CONTROL_BODY,
        }
    }

    /// Bytes have arrived, whatever they are.
    pub fn heard(&mut self, now: Instant) {
        if !matches!(self.state, State::Greeting) {
            self.deadline = now + self.limits.idle;
        }
    }

    /// Takes a frame. A refusal has been queued for the source when it is returned.
    pub fn handle_frame(&mut self, frame: RawFrame) -> Result<Option<Request>, Refusal> {
        let outcome = match frame.header.kind {
            FrameKind::Hello => self.hello(&frame.body).map(Some),
            _ => self.streaming_frame(frame),
        };
        outcome.inspect_err(|refusal| self.refuse(refusal))
    }

    /// Ends the session with a reason.
    pub fn refuse(&mut self, refusal: &Refusal) {
        if matches!(self.state, State::Over) {
            return;
        }
        if let State::Streaming(streaming) | State::Leaving(streaming) = &mut self.state {
            self.queue.extend(streaming.take_ack());
        }
        let (code, message) = (refusal.code(), refusal.to_string());
        self.queue.push_back(Refused { code, retry: code.retry(), message }.encode());
        self.state = State::Over;
    }

    /// The stream was admitted: `position` is durable.
    pub fn opened(
        &mut self,
        generation: Generation,
        position: Position,
        last_mark: Option<Marked>,
        disks: &[StreamDisk],
        now: Instant,
    ) {
        let State::Opening { hello } = std::mem::replace(&mut self.state, State::Over) else {
            panic!("opened without a hello");
        };
        assert_eq!(disks.len(), hello.disks.len(), "one answer for each disk");
        self.features = self.features.common(hello.features);
        let welcome = Welcome {
            version: MAX_VERSION.min(hello.max_version),
            features: self.features,
            generation,
            position,
            credit_bytes: self.limits.credit_bytes,
            max_batch_bytes: self.limits.max_batch_bytes,
            idle_ms: u32::try_from(self.limits.idle.as_millis()).unwrap_or(u32::MAX),
            last_mark,
            disks: disks
                .iter()
                .map(|disk| WelcomeDisk {
                    size_bytes: disk.size_bytes,
                    state: disk.state,
                    content: disk.content.filter(|_| self.features.contents),
                })
                .collect(),
        };
        self.queue.push_back(welcome.encode());
        self.deadline = now + self.limits.idle;
        self.state = State::Streaming(Streaming {
            machine: hello.machine,
            disks: hello.disks,
            accepted: position,
            durable: position,
            under_way: VecDeque::new(),
            mark: None,
            used_bytes: 0,
            owed_bytes: 0,
            ack_due: false,
            hash_requests: 0,
        });
    }

    /// Everything up to `position` is durable.
    pub fn durable(&mut self, position: Position) {
        if let State::Streaming(streaming) | State::Leaving(streaming) = &mut self.state {
            streaming.durable(position);
            self.leave_if_settled();
        }
    }

    /// A mark became a point.
    pub fn marked(&mut self, marked: Marked) {
        if let State::Streaming(streaming) | State::Leaving(streaming) = &mut self.state {
            assert_eq!(streaming.mark, Some(marked.position), "answer to a mark nobody made");
            streaming.mark = None;
            streaming.durable(marked.position);
            self.queue.push_back(marked.encode());
            self.leave_if_settled();
        }
    }

    /// The answer to a hash request.
    pub fn hashes(&mut self, request: HashRequest, blocks: Vec<BlockHash>) {
        if let State::Streaming(streaming) | State::Leaving(streaming) = &mut self.state {
            streaming.hash_requests -= 1;
            self.queue.push_back(Hashes { request, blocks }.encode());
            self.leave_if_settled();
        }
    }

    /// The next bytes to send, if any.
    pub fn poll_transmit(&mut self) -> Option<Vec<u8>> {
        self.queue.pop_front().or_else(|| match &mut self.state {
            State::Streaming(streaming) | State::Leaving(streaming) => streaming.take_ack(),
            _ => None,
        })
    }

    /// When to call [`ServerSession::handle_timeout`]; none while the target itself is at work.
    pub fn next_timeout(&self) -> Option<Instant> {
        match self.state {
            State::Greeting | State::Streaming(_) => Some(self.deadline),
            State::Opening { .. } | State::Leaving(_) | State::Over => None,
        }
    }

    /// Refuses a source that was silent for too long.
    pub fn handle_timeout(&mut self, now: Instant) -> Result<(), Refusal> {
        let Some(deadline) = self.next_timeout().filter(|deadline| *deadline <= now) else {
            return Ok(());
        };
        debug_assert!(deadline <= now);
        let limit = match self.state {
            State::Greeting => self.limits.greeting,
            _ => self.limits.idle,
        };
        let refusal = Refusal::Silent { seconds: limit.as_secs() };
        self.refuse(&refusal);
        Err(refusal)
    }

    /// Whether nothing more will come out but what [`ServerSession::poll_transmit`] still gives.
    pub fn is_over(&self) -> bool {
        matches!(self.state, State::Over)
    }

    fn hello(&mut self, body: &[u8]) -> Result<Request, Refusal> {
        if !matches!(self.state, State::Greeting) {
            return Err(out_of_order("a second Hello"));
        }
        let hello = Hello::parse(body)?;
        if hello.max_version < MIN_VERSION || hello.min_version > MAX_VERSION {
            return Err(Refusal::NoCommonVersion {
                theirs_min: hello.min_version,
                theirs_max: hello.max_version,
                ours_min: MIN_VERSION,
                ours_max: MAX_VERSION,
            });
        }
        let request = StreamHello {
            stream: hello.stream,
            generation: hello.generation,
            machine: hello.machine.clone(),
            disks: hello.disks.clone(),
        };
        self.state = State::Opening { hello };
        Ok(Request::Open(request))
    }

    fn streaming_frame(&mut self, frame: RawFrame) -> Result<Option<Request>, Refusal> {
        let kind = frame.header.kind;
        let body = &frame.body;
        let State::Streaming(streaming) = &mut self.state else {
            return Err(out_of_order(&format!("{kind:?}")));
        };
        match kind {
            FrameKind::Batch => {
                let batch = BatchFrame::parse(frame.body)?;
                streaming.batch(batch, &self.limits).map(Some)
            }
            FrameKind::Mark => {
                let mark = Mark::parse(body)?;
                streaming.check_contents(&mark, self.features)?;
                check_order(&mark, self.features)?;
                streaming.mark(mark).map(Some)
            }
            FrameKind::HashRequest => streaming.hash_request(HashRequest::parse(body)?).map(Some),
            FrameKind::PassBegin => Ok(Some(Request::PassBegin(PassBegin::parse(body)?))),
            FrameKind::Ping => {
                self.queue.push_back(Ping::parse(kind, body)?.encode_pong());
                Ok(None)
            }
            FrameKind::Pong => Ping::parse(kind, body).map(|_| None).map_err(Refusal::from),
            FrameKind::Bye => {
                let bye = Bye::parse(body)?;
                self.start_leaving();
                Ok(Some(Request::Leave(bye)))
            }
            FrameKind::Hello
            | FrameKind::Welcome
            | FrameKind::Refused
            | FrameKind::Ack
            | FrameKind::Marked
            | FrameKind::Hashes => Err(out_of_order(&format!("{kind:?} from a source"))),
        }
    }

    fn start_leaving(&mut self) {
        if let State::Streaming(streaming) = std::mem::replace(&mut self.state, State::Over) {
            self.state = State::Leaving(streaming);
        }
        self.leave_if_settled();
    }

    fn leave_if_settled(&mut self) {
        let State::Leaving(streaming) = &mut self.state else { return };
        if streaming.under_way.is_empty() && streaming.hash_requests == 0 {
            self.queue.extend(streaming.take_ack());
            self.queue.push_back(Bye::Done.encode());
            self.state = State::Over;
        }
    }

    /// The target is being stopped: what is under way ends, then the source is told.
    pub fn stop(&mut self) {
        self.refuse(&Refusal::Stopping);
    }
}

/// Order begins where the disks are consistent, and only if that was agreed.
fn check_order(mark: &Mark, features: Features) -> Result<(), Refusal> {
    let Some(order) = mark.order else { return Ok(()) };
    if !features.order {
        return Err(Refusal::BadFrame("a Mark that begins order, which was not agreed".to_owned()));
    }
    if order == WriteOrder::Synchronous && !features.synchronous {
        return Err(Refusal::BadFrame("a synchronous Mark, which was not agreed".to_owned()));
    }
    if mark.kind == MarkKind::Fuzzy {
        return Err(Refusal::BadFrame("a fuzzy Mark that begins order".to_owned()));
    }
    Ok(())
}

impl Streaming {
    fn batch(&mut self, batch: BatchFrame, limits: &SessionLimits) -> Result<Request, Refusal> {
        let cost = batch.cost_bytes();
        if self.used_bytes + cost > limits.credit_bytes {
            return Err(Refusal::CreditOverrun {
                sent: self.used_bytes + cost,
                credit: limits.credit_bytes,
            });
        }
        if batch.plain_bytes > limits.max_batch_bytes as usize {
            return Err(Refusal::OversizedFrame {
                length: batch.plain_bytes as u64,
                limit: limits.max_batch_bytes.into(),
            });
        }
        let disk = self.disk(batch.disk)?;
        for extent in &batch.extents {
            check_range(disk, extent.range)?;
        }
        self.used_bytes += cost;
        if !self.accept(batch.position)? {
            self.owed_bytes += cost;
            self.ack_due = true;
            return Ok(Request::Replayed);
        }
        self.under_way.push_back((batch.position, cost));
        Ok(Request::Apply(batch))
    }

    /// Contents are named for every disk or for none, and only if that was agreed.
    fn check_contents(&self, mark: &Mark, features: Features) -> Result<(), Refusal> {
        let named = mark.contents.len();
        if named == 0 || (features.contents && named == self.disks.len()) {
            return Ok(());
        }
        let disks = self.disks.len();
        Err(Refusal::BadFrame(format!("a Mark with {named} contents for {disks} disks")))
    }

    fn mark(&mut self, mark: Mark) -> Result<Request, Refusal> {
        if !self.accept(mark.position)? {
            self.ack_due = true;
            return Ok(Request::Replayed);
        }
        if self.mark.is_some() {
            return Err(out_of_order("a Mark before the answer to the last one"));
        }
        self.mark = Some(mark.position);
        self.under_way.push_back((mark.position, 0));
        Ok(Request::Mark(mark))
    }

    /// Whether `position` is new; one that was accepted before is not.
    fn accept(&mut self, position: Position) -> Result<bool, Refusal> {
        if position <= self.accepted {
            return Ok(false);
        }
        match self.accepted.next() {
            Some(expected) if expected == position => {
                self.accepted = position;
                Ok(true)
            }
            expected => Err(Refusal::SkippedPosition {
                expected: expected.unwrap_or(self.accepted),
                got: position,
            }),
        }
    }

    fn hash_request(&mut self, request: HashRequest) -> Result<Request, Refusal> {
        let disk = self.disk(request.disk)?;
        let blocks = disk.size_bytes.div_ceil(HASH_BLOCK_SIZE);
        let end = request.first.checked_add(request.count.into());
        if end.is_none_or(|end| end > blocks) {
            let start = request.first.saturating_mul(HASH_BLOCK_SIZE);
            let length = u64::from(request.count) * HASH_BLOCK_SIZE;
            let start = ByteOffset::new(start.min(u64::MAX - length));
            let range = ByteRange::at(start, length).expect("moved below the end of numbers");
            return Err(past_the_end(disk, range));
        }
        if self.hash_requests == MAX_HASH_REQUESTS {
            return Err(out_of_order("one hash request too many"));
        }
        self.hash_requests += 1;
        Ok(Request::Hashes(request))
    }

    fn disk(&self, slot: DiskSlot) -> Result<&DiskEntry, Refusal> {
        self.disks.get(slot.index()).ok_or_else(|| Refusal::UnknownDisk {
            machine: self.machine.to_string(),
            disk: format!("in slot {}", slot.number()),
            known: self.disks.iter().map(|disk| disk.name.to_string()).collect(),
        })
    }

    fn durable(&mut self, position: Position) {
        assert!(position <= self.accepted, "{position} is durable before it was accepted");
        while let Some((under_way, cost)) = self.under_way.front() {
            if *under_way > position {
                break;
            }
            self.owed_bytes += cost;
            self.under_way.pop_front();
        }
        if position > self.durable {
            self.durable = position;
            self.ack_due = true;
        }
    }

    fn take_ack(&mut self) -> Option<Vec<u8>> {
        if !std::mem::take(&mut self.ack_due) {
            return None;
        }
        let credit_bytes = std::mem::take(&mut self.owed_bytes);
        self.used_bytes -= credit_bytes;
        Some(Ack { position: self.durable, credit_bytes }.encode())
    }
}

/// Whole blocks within the disk; only the disk's own end may cut one.
fn check_range(disk: &DiskEntry, range: ByteRange) -> Result<(), Refusal> {
    let end = range.end().bytes();
    if end > disk.size_bytes {
        return Err(past_the_end(disk, range));
    }
    if !end.is_multiple_of(BLOCK_SIZE) && end != disk.size_bytes {
        return Err(Refusal::BadFrame(format!("extent {range} ends within a block")));
    }
    Ok(())
}

fn past_the_end(disk: &DiskEntry, range: ByteRange) -> Refusal {
    Refusal::OutOfRange { disk: disk.name.to_string(), range, size_bytes: disk.size_bytes }
}

fn out_of_order(what: &str) -> Refusal {
    Refusal::OutOfOrder { what: what.to_owned() }
}
