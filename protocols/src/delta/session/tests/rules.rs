//! The rules of the stream, one by one.

use super::*;

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
        features: Features::ALL,
        mode: StreamMode::Passes,
        stream: profile().stream,
        generation: None,
        machine: profile().machine,
        disks: profile().disks,
    }
}

/// A server session past its handshake at position 4, and the moment it began.
pub(super) fn streaming() -> (ServerSession, Instant) {
    let now = Instant::now();
    let (session, welcome) = streaming_from(now, &hello(), None);
    assert_eq!(welcome.position, Position::new(4));
    (session, now)
}

/// The same, for a source that says `hello`, with what it once called the content of its disk.
fn streaming_to(hello: &Hello, content: Option<ContentId>) -> (ServerSession, Welcome) {
    streaming_from(Instant::now(), hello, content)
}

fn streaming_from(
    now: Instant,
    hello: &Hello,
    content: Option<ContentId>,
) -> (ServerSession, Welcome) {
    let mut session = ServerSession::new(SessionLimits::default(), now);
    let request = session.handle_frame(one(&hello.encode()));
    assert!(matches!(request, Ok(Some(Request::Open(StreamHello { .. })))));
    let (size_bytes, state) = (DISK_BYTES as u64, DiskState::InSync);
    let generation = Generation::new(1).expect("above zero");
    let disks = [StreamDisk { size_bytes, state, content }];
    session.opened(generation, Position::new(4), None, &disks, now);
    let welcome = session.poll_transmit().expect("a welcome");
    let welcome = Welcome::parse(&one(&welcome).body).expect("a welcome");
    (session, welcome)
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
    let ack = Ack::parse(&one(&session.poll_transmit().expect("an ack")).body);
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
    let ack = Ack::parse(&one(&session.poll_transmit().expect("credit")).body);
    assert_eq!(ack.expect("an ack").position, Position::new(4));
    session.durable(Position::new(5));
    let ack = Ack::parse(&one(&session.poll_transmit().expect("an ack")).body);
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
fn the_client_sends_what_it_has_credit_for_and_no_more() {
    let mut joined = Joined::new(3);
    joined.connect();
    joined.until(|event| matches!(event, SessionEvent::Welcomed(_)).then_some(()));
    let bytes = Random(1).bytes(5 * 64 * 1024);
    let mut pushed = 0;
    while joined.client.has_room() {
        joined.client.push_batch(batch(0, Some(&bytes), bytes.len()));
        pushed += 1;
    }
    let cost = bytes.len() as u64 + 16 + 32 + 56;
    let credit = SessionLimits::default().credit_bytes;
    assert_eq!(pushed, credit.div_ceil(cost), "room ends where credit ends");
    let mut sent = 0;
    while joined.client.poll_transmit().is_some() {
        sent += 1;
    }
    assert_eq!(sent, credit / cost);
    let ack = Ack { position: Position::new(1), credit_bytes: cost };
    joined.client.handle_frame(&one(&ack.encode()), joined.now).expect("an ack");
    assert!(joined.client.poll_transmit().is_some(), "credit came back");
    assert!(joined.client.poll_transmit().is_none());
    let beyond = Ack { position: Position::new(99), credit_bytes: 0 };
    let refused = joined.client.handle_frame(&one(&beyond.encode()), joined.now);
    assert!(matches!(refused, Err(SessionError::Acknowledged { .. })));
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
        contents: Vec::new(),
        order: None,
    };
    let (mut session, _) = streaming();
    assert!(matches!(session.handle_frame(one(&mark(5).encode())), Ok(Some(Request::Mark(_)))));
    let second = refused_with(&mut session, one(&mark(6).encode()));
    assert_eq!(second.code(), RefusalCode::OutOfOrder);
}

#[test]
fn contents_are_named_where_that_was_agreed_for_every_disk() {
    let named = |contents: Vec<Option<ContentId>>| {
        let (source_time, kind) = (Timestamp::default(), MarkKind::Crash);
        let label = String::new();
        let (position, order) = (Position::new(5), None);
        Mark { position, source_time, kind, label, contents, order }
    };
    let content = ContentId::new([7; 32]);
    let (mut session, _) = streaming();
    let taken = session.handle_frame(one(&named(vec![content]).encode()));
    let Ok(Some(Request::Mark(mark))) = taken else { panic!("{taken:?}") };
    assert_eq!(mark.contents, [content]);
    let (mut session, _) = streaming();
    let refusal = refused_with(&mut session, one(&named(vec![content, None]).encode()));
    assert_eq!(refusal.code(), RefusalCode::BadFrame);

    let old = Hello { features: Features { lz4: true, ..Features::NONE }, ..hello() };
    let (mut session, welcome) = streaming_to(&old, content);
    assert_eq!(welcome.disks[0].content, None, "it would not be understood");
    let refusal = refused_with(&mut session, one(&named(vec![content]).encode()));
    assert_eq!(refusal.code(), RefusalCode::BadFrame);
    let (_, welcome) = streaming_to(&hello(), content);
    assert_eq!(welcome.disks[0].content, content);
}

#[test]
fn order_begins_where_that_was_agreed_and_the_disks_are_consistent() {
    let asynchronous = WriteOrder::Asynchronous;
    let in_order = |kind, order| Mark {
        position: Position::new(5),
        source_time: Timestamp::default(),
        kind,
        label: String::new(),
        contents: Vec::new(),
        order: Some(order),
    };
    let (mut session, _) = streaming();
    let taken = session.handle_frame(one(&in_order(MarkKind::App, asynchronous).encode()));
    assert!(matches!(&taken, Ok(Some(Request::Mark(mark))) if mark.order.is_some()), "{taken:?}");
    let (mut session, _) = streaming();
    let fuzzy = refused_with(&mut session, one(&in_order(MarkKind::Fuzzy, asynchronous).encode()));
    assert_eq!(fuzzy.code(), RefusalCode::BadFrame);
    let old = Hello { features: Features { order: false, ..Features::ALL }, ..hello() };
    let (mut session, welcome) = streaming_to(&old, None);
    assert!(!welcome.features.order);
    let mark = in_order(MarkKind::Crash, asynchronous);
    assert_eq!(refused_with(&mut session, one(&mark.encode())).code(), RefusalCode::BadFrame);
    let older = Hello { features: Features { synchronous: false, ..Features::ALL }, ..hello() };
    let (mut session, _) = streaming_to(&older, None);
    let mark = in_order(MarkKind::Crash, WriteOrder::Synchronous);
    assert_eq!(refused_with(&mut session, one(&mark.encode())).code(), RefusalCode::BadFrame);
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
    joined.client.push_mark(MarkKind::App, "nightly", Timestamp::default(), Vec::new());
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
