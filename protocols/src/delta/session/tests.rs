//! Both sessions joined in memory: a source with disks, a target that keeps them, and a wire that breaks at any byte.

use super::*;
use crate::delta::HASH_BLOCK_SIZE;
use crate::delta::identity::{DiskSlot, Generation, Name, Position, StreamId, Timestamp};
use crate::delta::pack::{Compression, PackedBatch, PlainContent, pack, unpack};
use crate::delta::refusal::{Refusal, RefusalCode, Retry};
use crate::delta::replicas::{ExtentContent, StreamDisk, StreamHello};
use crate::delta::wire::{
    BatchFrame, BlockHash, Bye, DiskEntry, DiskState, Features, FrameReader, HashRequest, Header,
    Hello, Mark, MarkKind, Marked, PassBegin, PassKind, RawFrame, StreamMode, Welcome,
};
use landfall_disks::{ByteOffset, ByteRange};
use proptest::prelude::*;
use std::collections::VecDeque;
use std::time::{Duration, Instant};

const DISK_BYTES: usize = 5 * 64 * 1024 + 3 * 4096 + 512;

/// Small, fast and the same on every machine.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % limit as u64).expect("below a usize")
    }

    fn chance(&mut self, percent: u64) -> bool {
        self.next() % 100 < percent
    }
}

/// The target: what is durable, and the proof that nothing was applied twice.
struct Target {
    generation: u64,
    position: Position,
    last_mark: Option<Marked>,
    disk: Vec<u8>,
    applied: Vec<(u64, Position)>,
    points: Vec<Vec<u8>>,
}

impl Target {
    fn new() -> Self {
        Self {
            generation: 1,
            position: Position::default(),
            last_mark: None,
            disk: vec![0; DISK_BYTES],
            applied: Vec::new(),
            points: Vec::new(),
        }
    }

    fn carry_out(&mut self, request: Request, session: &mut ServerSession) {
        match request {
            Request::Apply(frame) => {
                let batch = unpack(&frame).expect("hashes match");
                for extent in batch.extents {
                    let start = usize::try_from(extent.range.start().bytes()).expect("small");
                    let end = usize::try_from(extent.range.end().bytes()).expect("small");
                    match extent.content {
                        ExtentContent::Zero => self.disk[start..end].fill(0),
                        ExtentContent::Data { bytes, .. } => {
                            self.disk[start..end].copy_from_slice(&bytes);
                        }
                    }
                }
                self.advance(frame.position);
                session.durable(frame.position);
            }
            Request::Mark(mark) => {
                self.advance(mark.position);
                self.points.push(self.disk.clone());
                let marked = Marked {
                    position: mark.position,
                    sequence: self.points.len() as u64,
                    commit_time: Timestamp::from_nanoseconds(1),
                    kind: mark.kind,
                };
                self.last_mark = Some(marked);
                session.marked(marked);
            }
            Request::Hashes(request) => {
                let blocks = (0..u64::from(request.count))
                    .map(|index| block_hash(block(&self.disk, request.first + index)))
                    .collect();
                session.hashes(request, blocks);
            }
            Request::PassBegin(_) | Request::Leave(_) => {}
            Request::Replayed => panic!("sent again although the welcome told it was durable"),
            Request::Open(_) => panic!("opened by the wire"),
        }
    }

    fn advance(&mut self, position: Position) {
        assert_eq!(Some(position), self.position.next(), "positions come one by one");
        self.position = position;
        self.applied.push((self.generation, position));
    }
}

fn block(disk: &[u8], index: u64) -> &[u8] {
    let size = usize::try_from(HASH_BLOCK_SIZE).expect("64 KiB");
    let start = usize::try_from(index).expect("small") * size;
    &disk[start..(start + size).min(disk.len())]
}

fn block_hash(bytes: &[u8]) -> BlockHash {
    if bytes.iter().all(|byte| *byte == 0) {
        BlockHash::Zero
    } else {
        BlockHash::Hash(*blake3::hash(bytes).as_bytes())
    }
}

fn profile() -> Profile {
    Profile {
        stream: StreamId::from_bytes([3; 16]),
        machine: Name::new("web").expect("a name"),
        disks: vec![DiskEntry {
            name: Name::new("os").expect("a name"),
            size_bytes: DISK_BYTES as u64,
        }],
        features: Features { lz4: true },
    }
}

fn batch(start: usize, bytes: Option<&[u8]>, length: usize) -> PackedBatch {
    let range = ByteRange::at(ByteOffset::new(start as u64), length as u64).expect("small");
    let content = bytes.map_or(PlainContent::Zero, PlainContent::Data);
    pack(Timestamp::default(), DiskSlot::new(0), &[(range, content)], Compression::Lz4)
}

/// One connection as long as it lasts.
struct Wire {
    server: ServerSession,
    server_reader: FrameReader,
    client_reader: FrameReader,
    to_server: Vec<u8>,
    to_client: Vec<u8>,
    waiting: VecDeque<Request>,
}

struct Joined {
    now: Instant,
    random: Random,
    client: ClientSession,
    target: Target,
    wire: Option<Wire>,
}

impl Joined {
    fn new(seed: u64) -> Self {
        let now = Instant::now();
        Self {
            now,
            random: Random(seed),
            client: ClientSession::new(profile(), now),
            target: Target::new(),
            wire: None,
        }
    }

    fn connect(&mut self) {
        self.client.connected(self.now);
        self.wire = Some(Wire {
            server: ServerSession::new(SessionLimits::default(), self.now),
            server_reader: FrameReader::default(),
            client_reader: FrameReader::default(),
            to_server: Vec::new(),
            to_client: Vec::new(),
            waiting: VecDeque::new(),
        });
    }

    /// Breaks the connection: bytes under way are lost, of what the target was asked a part is still done.
    fn cut(&mut self) {
        let Some(mut wire) = self.wire.take() else { return };
        let done = self.random.below(wire.waiting.len() + 1);
        for request in wire.waiting.drain(..done) {
            self.target.carry_out(request, &mut wire.server);
        }
        self.client.disconnected();
    }

    /// One random thing happens. Returns what the client has to say.
    fn step(&mut self) -> Vec<SessionEvent> {
        let Some(wire) = &mut self.wire else {
            self.connect();
            return Vec::new();
        };
        match self.random.below(5) {
            0 => {
                if let Some(bytes) = self.client.poll_transmit() {
                    wire.to_server.extend_from_slice(&bytes);
                }
            }
            1 => {
                if let Some(bytes) = wire.server.poll_transmit() {
                    wire.to_client.extend_from_slice(&bytes);
                }
            }
            2 => self.deliver_to_server(),
            3 => {
                if let Some(request) = wire.waiting.pop_front() {
                    self.target.carry_out(request, &mut wire.server);
                }
            }
            _ => self.deliver_to_client(),
        }
        std::iter::from_fn(|| self.client.poll_event()).collect()
    }

    fn deliver_to_server(&mut self) {
        let wire = self.wire.as_mut().expect("connected");
        let count = self.random.below(wire.to_server.len() + 1);
        let bytes: Vec<u8> = wire.to_server.drain(..count).collect();
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let limit = wire.server.body_limit();
            let frame = wire.server_reader.feed(&mut rest, limit).expect("well formed");
            let Some(frame) = frame else { continue };
            match wire.server.handle_frame(frame).expect("the client keeps the rules") {
                Some(Request::Open(hello)) => {
                    assert!(wire.waiting.is_empty(), "greeted first");
                    if hello.generation.is_some_and(|held| held.number() != self.target.generation)
                    {
                        wire.server.refuse(&Refusal::OldGeneration {
                            current: Generation::new(self.target.generation).expect("above zero"),
                            got: hello.generation.expect("checked"),
                        });
                        return;
                    }
                    wire.server.opened(
                        Generation::new(self.target.generation).expect("above zero"),
                        self.target.position,
                        self.target.last_mark,
                        &[StreamDisk {
                            size_bytes: DISK_BYTES as u64,
                            state: DiskState::NeedsResync,
                        }],
                        self.now,
                    );
                }
                Some(request) => wire.waiting.push_back(request),
                None => {}
            }
        }
    }

    fn deliver_to_client(&mut self) {
        let wire = self.wire.as_mut().expect("connected");
        let count = self.random.below(wire.to_client.len() + 1);
        let bytes: Vec<u8> = wire.to_client.drain(..count).collect();
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let frame = wire.client_reader.feed(&mut rest, 1 << 20).expect("well formed");
            if let Some(frame) = frame {
                self.client.handle_frame(&frame, self.now).expect("the server keeps the rules");
            }
        }
    }

    /// Lets things happen until `wanted` does, over an unbroken wire.
    fn until<T>(&mut self, mut wanted: impl FnMut(SessionEvent) -> Option<T>) -> T {
        for _ in 0..10_000 {
            for event in self.step() {
                if let Some(found) = wanted(event) {
                    return found;
                }
            }
        }
        panic!("did not happen");
    }
}

/// A source that brings the target's disk up to date by comparing, then marks; over a wire that breaks and a target that
/// now and then no longer vouches for positions.
fn replicate(seed: u64, break_percent: u64, renew_percent: u64) {
    let mut joined = Joined::new(seed);
    let mut source = vec![0; DISK_BYTES];
    let mut stale = joined.random.below(3);
    for _ in 0..3 {
        for _ in 0..joined.random.below(4) {
            let start = joined.random.below(DISK_BYTES / 4096) * 4096;
            let length = (joined.random.below(30_000) + 1).min(DISK_BYTES - start);
            let fill = [0, 7, 9][joined.random.below(3)];
            source[start..start + length].fill(fill);
        }
        pass(&mut joined, &source, break_percent, renew_percent);
        assert_eq!(joined.target.points.last(), Some(&source), "the point is not the source");
        stale = stale.saturating_sub(1);
    }
    let mut seen = joined.target.applied.clone();
    seen.dedup();
    assert_eq!(seen.len(), joined.target.applied.len(), "applied twice");
}

fn pass(joined: &mut Joined, source: &[u8], break_percent: u64, renew_percent: u64) {
    let blocks = u32::try_from(DISK_BYTES.div_ceil(64 * 1024)).expect("small");
    let mut begun = false;
    let mut asked = 0;
    let mut answered = 0;
    let mut to_send: VecDeque<u64> = VecDeque::new();
    let mut marked = false;
    for _ in 0..200_000 {
        if joined.random.next() % 1000 < break_percent * 10 && joined.random.chance(20) {
            joined.cut();
            if joined.random.chance(renew_percent) {
                joined.target.generation += 1;
                joined.target.position = Position::default();
                joined.target.last_mark = None;
            }
        }
        for event in joined.step() {
            match event {
                SessionEvent::Marked(answer) => {
                    let expected = joined.target.points.len() as u64;
                    assert_eq!(answer.map(|marked| marked.sequence), Some(expected));
                    return;
                }
                SessionEvent::Hashes(hashes) => {
                    answered += hashes.request.count;
                    for (index, theirs) in (hashes.request.first..).zip(hashes.blocks) {
                        if theirs != block_hash(block(source, index)) {
                            to_send.push_back(index);
                        }
                    }
                }
                SessionEvent::PositionLost(_) => {
                    (begun, asked, answered, marked) = (false, 0, 0, false);
                    to_send.clear();
                }
                SessionEvent::Refused(_) => joined.cut(),
                _ => {}
            }
        }
        if !joined.client.is_ready() {
            continue;
        }
        if !begun {
            begun = true;
            let bytes_total = DISK_BYTES as u64;
            joined.client.begin_pass(PassBegin { pass: 1, bytes_total, kind: PassKind::Compare });
        }
        if asked < blocks && joined.client.can_request() {
            let count =
                u32::try_from(1 + joined.random.below(3)).expect("small").min(blocks - asked);
            let disk = DiskSlot::new(0);
            joined.client.request_hashes(HashRequest { disk, first: asked.into(), count });
            asked += count;
        } else if let Some(index) = to_send.pop_front() {
            let bytes = block(source, index);
            let start = usize::try_from(index).expect("small") * 64 * 1024;
            let zero = block_hash(bytes) == BlockHash::Zero;
            joined.client.push_batch(batch(start, (!zero).then_some(bytes), bytes.len()));
        } else if answered == blocks && !marked && joined.client.can_mark() {
            joined.client.push_mark(MarkKind::Crash, "", Timestamp::default());
            marked = true;
        }
    }
    panic!("the pass did not end");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn an_unbroken_stream_arrives(seed: u64) {
        replicate(seed, 0, 0);
    }

    #[test]
    fn a_breaking_stream_arrives_once_and_in_order(seed: u64) {
        replicate(seed, 4, 0);
    }

    #[test]
    fn a_target_that_forgets_positions_is_compared(seed: u64) {
        replicate(seed, 3, 30);
    }

    #[test]
    fn no_frames_make_the_server_panic(seed: u64, bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let mut random = Random(seed);
        let (mut session, _) = streaming();
        for _ in 0..4 {
            let kind = crate::delta::wire::FrameKind::ALL[random.below(13)];
            let body = bytes[..random.below(bytes.len() + 1)].to_vec();
            let header = Header { kind, version: 1, length: body.len() };
            if let Ok(Some(Request::Hashes(request))) = session.handle_frame(RawFrame { header, body }) {
                session.hashes(request, vec![BlockHash::Zero; request.count as usize]);
            }
            while session.poll_transmit().is_some() {}
        }
    }
}

fn frames(bytes: &[u8]) -> Vec<RawFrame> {
    let mut reader = FrameReader::default();
    let mut rest = bytes;
    let mut frames = Vec::new();
    while !rest.is_empty() {
        frames.extend(reader.feed(&mut rest, usize::MAX).expect("well formed"));
    }
    frames
}

fn one(bytes: &[u8]) -> RawFrame {
    frames(bytes).pop().expect("a whole frame")
}

fn hello() -> Hello {
    Hello {
        min_version: 1,
        max_version: 1,
        features: Features { lz4: true },
        mode: StreamMode::Passes,
        stream: profile().stream,
        generation: None,
        machine: profile().machine,
        disks: profile().disks,
    }
}

/// A server session past its handshake at position 4, and the moment it began.
fn streaming() -> (ServerSession, Instant) {
    let now = Instant::now();
    let mut session = ServerSession::new(SessionLimits::default(), now);
    let request = session.handle_frame(one(&hello().encode()));
    assert!(matches!(request, Ok(Some(Request::Open(StreamHello { .. })))));
    let disks = [StreamDisk { size_bytes: DISK_BYTES as u64, state: DiskState::InSync }];
    let generation = Generation::new(1).expect("above zero");
    session.opened(generation, Position::new(4), None, &disks, now);
    let welcome = session.poll_transmit().expect("a welcome");
    assert_eq!(Welcome::parse(&one(&welcome).body).expect("a welcome").position, Position::new(4));
    (session, now)
}

fn batch_at(position: u64, start: u64, length: u64) -> RawFrame {
    let range = ByteRange::at(ByteOffset::new(start), length).expect("small");
    let extents = [(range, PlainContent::Zero)];
    let packed = pack(Timestamp::default(), DiskSlot::new(0), &extents, Compression::Off);
    one(&packed.into_frame(Position::new(position)))
}

fn refused_with(session: &mut ServerSession, frame: RawFrame) -> Refusal {
    let refusal = session.handle_frame(frame).expect_err("refused");
    let mut sent = Vec::new();
    while let Some(bytes) = session.poll_transmit() {
        sent.extend(bytes);
    }
    let last = frames(&sent).pop().expect("the source is told");
    let told = crate::delta::wire::Refused::parse(&last.body).expect("a refusal");
    assert_eq!((told.code, told.message), (refusal.code(), refusal.to_string()));
    assert!(session.is_over());
    refusal
}

#[test]
fn a_skipped_position_is_refused() {
    let (mut session, _) = streaming();
    let refusal = refused_with(&mut session, batch_at(6, 0, 4096));
    let (expected, got) = (Position::new(5), Position::new(6));
    assert_eq!(refusal, Refusal::SkippedPosition { expected, got });
}

#[test]
fn a_replayed_position_is_acknowledged_and_not_applied() {
    let (mut session, _) = streaming();
    assert!(matches!(session.handle_frame(batch_at(4, 0, 4096)), Ok(Some(Request::Replayed))));
    let ack = crate::delta::wire::Ack::parse(&one(&session.poll_transmit().expect("an ack")).body);
    let ack = ack.expect("an ack");
    assert_eq!(ack.position, Position::new(4));
    assert_eq!(ack.credit_bytes, 16 + 32 + 56);
}

#[test]
fn acknowledgements_wait_for_durability() {
    let (mut session, _) = streaming();
    assert!(matches!(session.handle_frame(batch_at(5, 0, 4096)), Ok(Some(Request::Apply(_)))));
    assert!(session.poll_transmit().is_none());
    // The same again while the first is under way: neither applied nor acknowledged as durable.
    assert!(matches!(session.handle_frame(batch_at(5, 0, 4096)), Ok(Some(Request::Replayed))));
    let ack = crate::delta::wire::Ack::parse(&one(&session.poll_transmit().expect("credit")).body);
    assert_eq!(ack.expect("an ack").position, Position::new(4));
    session.durable(Position::new(5));
    let ack = crate::delta::wire::Ack::parse(&one(&session.poll_transmit().expect("an ack")).body);
    assert_eq!(ack.expect("an ack").position, Position::new(5));
}

#[test]
fn ranges_and_slots_are_checked_against_the_disks() {
    let end = DISK_BYTES as u64;
    let tail = end / 4096 * 4096;
    let (mut session, _) = streaming();
    let last = session.handle_frame(batch_at(5, tail, end - tail));
    assert!(matches!(last, Ok(Some(Request::Apply(_)))), "the end of the disk is within it");
    let refusal = refused_with(&mut session, batch_at(6, tail, end - tail + 1));
    assert_eq!(refusal.code(), RefusalCode::OutOfRange);
    assert!(refusal.to_string().contains("disk os"));
    let (mut session, _) = streaming();
    assert_eq!(refused_with(&mut session, batch_at(5, 0, 100)).code(), RefusalCode::BadFrame);
    let requests = [
        (1, 0, 1, RefusalCode::UnknownDisk),
        (0, 5, 2, RefusalCode::OutOfRange),
        (0, u64::MAX, 4, RefusalCode::OutOfRange),
    ];
    for (slot, first, count, code) in requests {
        let (mut session, _) = streaming();
        let request = HashRequest { disk: DiskSlot::new(slot), first, count };
        assert_eq!(refused_with(&mut session, one(&request.encode())).code(), code);
    }
}

#[test]
fn credit_is_counted() {
    let (mut session, _) = streaming();
    let bytes = vec![1; 1 << 20];
    let big = |position| {
        let disk = DiskSlot::new(0);
        let range = ByteRange::at(ByteOffset::new(0), 5 * 64 * 1024).expect("small");
        let content = PlainContent::Data(&bytes[..5 * 64 * 1024]);
        let packed = pack(Timestamp::default(), disk, &[(range, content)], Compression::Off);
        one(&packed.into_frame(Position::new(position)))
    };
    let cost = 5 * 64 * 1024 + 16 + 32 + 56;
    let fits = SessionLimits::default().credit_bytes / cost;
    for position in 5..5 + fits {
        assert!(matches!(session.handle_frame(big(position)), Ok(Some(Request::Apply(_)))));
    }
    session.durable(Position::new(5));
    assert_eq!(session.poll_transmit().map(|bytes| frames(&bytes).len()), Some(1));
    assert!(matches!(session.handle_frame(big(5 + fits)), Ok(Some(Request::Apply(_)))));
    let refusal = refused_with(&mut session, big(6 + fits));
    assert_eq!(refusal.code(), RefusalCode::CreditOverrun);
}

#[test]
fn a_batch_past_the_announced_size_is_refused() {
    let (mut session, _) = streaming();
    let bytes = vec![1; (1 << 20) + 4096];
    let range = ByteRange::up_to(bytes.len() as u64);
    let extents = [(range, PlainContent::Data(&bytes))];
    let packed = pack(Timestamp::default(), DiskSlot::new(0), &extents, Compression::Lz4);
    let refusal = refused_with(&mut session, one(&packed.into_frame(Position::new(5))));
    assert_eq!(refusal.code(), RefusalCode::OversizedFrame);
}

#[test]
fn frames_out_of_place_are_refused() {
    let now = Instant::now();
    let mut session = ServerSession::new(SessionLimits::default(), now);
    assert_eq!(refused_with(&mut session, batch_at(1, 0, 4096)).code(), RefusalCode::OutOfOrder);
    let (mut session, _) = streaming();
    let again = refused_with(&mut session, one(&hello().encode()));
    assert_eq!(again.code(), RefusalCode::OutOfOrder);
    let mark = |position| Mark {
        position: Position::new(position),
        source_time: Timestamp::default(),
        kind: MarkKind::Crash,
        label: String::new(),
    };
    let (mut session, _) = streaming();
    assert!(matches!(session.handle_frame(one(&mark(5).encode())), Ok(Some(Request::Mark(_)))));
    let second = refused_with(&mut session, one(&mark(6).encode()));
    assert_eq!(second.code(), RefusalCode::OutOfOrder);
}

#[test]
fn hash_requests_are_limited() {
    let (mut session, _) = streaming();
    let request = HashRequest { disk: DiskSlot::new(0), first: 0, count: 1 };
    for _ in 0..MAX_HASH_REQUESTS {
        assert!(matches!(session.handle_frame(one(&request.encode())), Ok(Some(_))));
    }
    let refusal = refused_with(&mut session, one(&request.encode()));
    assert_eq!(refusal.code(), RefusalCode::OutOfOrder);
}

#[test]
fn versions_have_to_meet() {
    let mut session = ServerSession::new(SessionLimits::default(), Instant::now());
    let newer = Hello { min_version: 2, max_version: 9, ..hello() };
    let refusal = refused_with(&mut session, one(&newer.encode()));
    assert_eq!(refusal.code(), RefusalCode::NoCommonVersion);
}

#[test]
fn silence_ends_a_session_on_both_sides() {
    let (mut session, now) = streaming();
    let idle = SessionLimits::default().idle;
    session.heard(now + idle / 2);
    assert_eq!(session.handle_timeout(now + idle), Ok(()));
    let silent = session.handle_timeout(now + idle + idle / 2);
    assert_eq!(silent, Err(Refusal::Silent { seconds: 30 }));

    let mut joined = Joined::new(1);
    joined.connect();
    joined.until(|event| matches!(event, SessionEvent::Welcomed(_)).then_some(()));
    let start = joined.now;
    assert_eq!(joined.client.handle_timeout(start + idle / 3), Ok(()));
    assert!(joined.client.poll_transmit().is_some(), "a ping");
    assert!(joined.client.handle_timeout(start + idle + Duration::from_millis(1)).is_err());
}

#[test]
fn both_leave_when_everything_is_durable() {
    let mut joined = Joined::new(5);
    joined.connect();
    joined.until(|event| matches!(event, SessionEvent::Welcomed(_)).then_some(()));
    joined.client.push_batch(batch(0, Some(&[1; 4096]), 4096));
    joined.client.leave(Bye::Done);
    joined.until(|event| matches!(event, SessionEvent::Left).then_some(()));
    assert_eq!(joined.target.position, Position::new(1));
    assert!(joined.wire.expect("still there").server.is_over());
}

#[test]
fn a_refusal_reaches_the_source_with_its_advice() {
    let mut joined = Joined::new(9);
    joined.connect();
    joined.until(|event| matches!(event, SessionEvent::Welcomed(_)).then_some(()));
    let full = Refusal::JournalFull("12 MiB left".to_owned());
    joined.wire.as_mut().expect("connected").server.refuse(&full);
    let refused = joined.until(|event| match event {
        SessionEvent::Refused(refused) => Some(refused),
        _ => None,
    });
    assert_eq!((refused.code, refused.retry), (RefusalCode::JournalFull, Retry::Later));
    assert_eq!(refused.message, "the journal is full: 12 MiB left");
}

#[test]
fn the_answer_to_a_mark_survives_a_break() {
    let mut joined = Joined::new(2);
    joined.connect();
    joined.until(|event| matches!(event, SessionEvent::Welcomed(_)).then_some(()));
    joined.client.push_mark(MarkKind::App, "nightly", Timestamp::default());
    while joined.target.points.is_empty() {
        joined.step();
    }
    // The point is durable, its answer is still at the target.
    joined.cut();
    let answer = joined.until(|event| match event {
        SessionEvent::Marked(answer) => Some(answer),
        _ => None,
    });
    assert_eq!(answer.map(|marked| (marked.sequence, marked.kind)), Some((1, MarkKind::App)));
    assert_eq!(joined.target.points.len(), 1);
}

#[test]
fn a_table_that_contradicts_itself_is_a_bad_frame() {
    let (mut session, _) = streaming();
    let mut frame = batch_at(5, 0, 4096);
    frame.body[32 + 8] = 0;
    frame.body[32 + 9] = 0;
    assert!(BatchFrame::parse(frame.body.clone()).is_err());
    assert_eq!(refused_with(&mut session, frame).code(), RefusalCode::BadFrame);
}
