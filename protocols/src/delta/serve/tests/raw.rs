//! Peers that break the rules, and what the server makes of them.

use super::*;

/// A peer that sends what it is told to, whatever the rules.
struct RawPeer {
    tls: rustls::StreamOwned<rustls::ClientConnection, TcpStream>,
    frames: FrameReader,
}

impl RawPeer {
    fn connect(site: &Site, name: &str) -> Self {
        let tcp = TcpStream::connect(site.address).expect("the server listens");
        tcp.set_read_timeout(Some(Duration::from_secs(10))).expect("set");
        let host = "localhost".try_into().expect("a name");
        let tls = rustls::ClientConnection::new(site.client_tls(name), host).expect("usable");
        Self { tls: rustls::StreamOwned::new(tls, tcp), frames: FrameReader::default() }
    }

    fn open(site: &Site, name: &str, stream: u8) -> Self {
        let mut peer = Self::connect(site, name);
        peer.send(&hello(stream));
        peer
    }

    fn send(&mut self, bytes: &[u8]) {
        self.tls.write_all(bytes).expect("sent");
        self.tls.flush().expect("sent");
    }

    fn frame(&mut self) -> Option<RawFrame> {
        loop {
            let count = self.tls.read(self.frames.space()).ok().filter(|count| *count > 0)?;
            if let Some(frame) = self.frames.advance(count, usize::MAX).expect("well formed") {
                return Some(frame);
            }
        }
    }

    fn welcome(&mut self) -> Welcome {
        let frame = self.frame().expect("an answer");
        assert_eq!(frame.header.kind, FrameKind::Welcome);
        Welcome::parse(&frame.body).expect("well formed")
    }

    /// The refusal that ends the stream.
    fn refused(&mut self) -> Refused {
        loop {
            let frame = self.frame().expect("a refusal");
            if frame.header.kind == FrameKind::Refused {
                return Refused::parse(&frame.body).expect("well formed");
            }
        }
    }
}

fn hello(stream: u8) -> Vec<u8> {
    Hello {
        min_version: 1,
        max_version: 1,
        features: Features { lz4: true, ..Features::NONE },
        mode: StreamMode::Passes,
        stream: StreamId::from_bytes([stream; 16]),
        generation: None,
        machine: web(),
        disks: disks(),
    }
    .encode()
}

fn batch_at(position: u64, start: usize, bytes: &[u8]) -> Vec<u8> {
    packed(start, bytes).into_frame(Position::new(position))
}

#[test]
fn misbehaving_peers_are_refused_and_others_go_on() {
    let site = Site::start(ServerSettings::default());
    type Act = Box<dyn Fn(&mut RawPeer)>;
    let refusals: [(&str, RefusalCode, Act); 6] = [
        (
            "skipped",
            RefusalCode::SkippedPosition,
            Box::new(|peer| {
                peer.send(&batch_at(9, 0, &[1; 4096]));
            }),
        ),
        (
            "wrong hash",
            RefusalCode::WrongHash,
            Box::new(|peer| {
                let mut bytes = batch_at(1, 0, &content(7)[..4096]);
                *bytes.last_mut().expect("not empty") ^= 1;
                peer.send(&bytes);
            }),
        ),
        (
            "range",
            RefusalCode::OutOfRange,
            Box::new(|peer| {
                peer.send(&batch_at(1, DISK_BYTES, &[1; 4096]));
            }),
        ),
        (
            "oversized",
            RefusalCode::OversizedFrame,
            Box::new(|peer| {
                let mut bytes = batch_at(1, 0, &[1; 4096]);
                bytes[8..12].fill(0xff);
                peer.send(&bytes);
            }),
        ),
        ("garbage in TLS", RefusalCode::BadFrame, Box::new(|peer| peer.send(&[0x55; 64]))),
        ("order", RefusalCode::OutOfOrder, Box::new(|peer| peer.send(&hello(1)))),
    ];
    for (count, (what, code, act)) in (0u64..).zip(refusals) {
        let mut peer = RawPeer::open(&site, "one", 1);
        peer.welcome();
        act(&mut peer);
        let refused = peer.refused();
        assert_eq!(refused.code, code, "{what}: {}", refused.message);
        assert!(peer.frame().is_none(), "{what}: more after the refusal");
        drop(peer);
        let values = site.until(|values| values.refused_for(code) == 1);
        assert_eq!(values.refused.iter().map(|(_, times)| times).sum::<u64>(), count + 1);
        site.until(|values| values.streams_open == 0);
    }
    assert!(site.memory.0.lock().applied.is_empty(), "nothing of it was applied");
    let source = content(8);
    let (result, _) =
        with_client(site.settings(site.address), async |client| compare(&client, &source).await);
    assert!(result.is_ok());
}

#[test]
fn what_is_not_our_tls_is_counted_and_dropped() {
    let settings =
        ServerSettings { handshake: Duration::from_millis(300), ..ServerSettings::default() };
    let site = Site::start(settings);
    let mut beside = RawPeer::open(&site, "one", 1);
    beside.welcome();
    // A TLS 1.2 ClientHello without the extension that names newer versions.
    let mut old = vec![0x16, 3, 1, 0, 47, 1, 0, 0, 43, 3, 3];
    old.extend([7; 32]);
    old.extend([0, 0, 4, 0xc0, 0x2f, 0xc0, 0x2b, 1, 0]);
    let garbage: [&[u8]; 4] = [b"GET / HTTP/1.0\r\n\r\n", &[0; 300], &old, b""];
    for (times, bytes) in (1u64..).zip(garbage) {
        let mut tcp = TcpStream::connect(site.address).expect("the server listens");
        tcp.set_read_timeout(Some(Duration::from_secs(10))).expect("set");
        tcp.write_all(bytes).expect("sent");
        let mut answer = Vec::new();
        // A reset is as good an end as a close.
        let _ = tcp.read_to_end(&mut answer);
        assert!(answer.len() < 20, "an alert at most");
        site.until(|values| values.tls_failures == times);
    }
    beside.send(&batch_at(1, 0, &[1; 4096]));
    let ack = beside.frame().expect("still served");
    assert_eq!(Ack::parse(&ack.body).expect("an ack").position, Position::new(1));
}

#[test]
fn a_second_stream_is_told_who_is_there() {
    let site = Site::start(ServerSettings::default());
    let mut first = RawPeer::open(&site, "one", 1);
    first.welcome();
    let refused = RawPeer::open(&site, "two", 2).refused();
    assert_eq!(refused.code, RefusalCode::StreamBusy);
    assert!(refused.message.contains("fed by one (127.0.0.1:"), "{}", refused.message);
    // The id alone is not enough: another certificate cannot take the stream over.
    assert_eq!(RawPeer::open(&site, "two", 1).refused().code, RefusalCode::StreamBusy);
    first.send(&Bye::Done.encode());
    assert_eq!(first.frame().expect("an answer").header.kind, FrameKind::Bye);
    site.until(|values| values.streams_open == 0);
    RawPeer::open(&site, "two", 2).welcome();
}

#[test]
fn the_same_stream_takes_over_at_once() {
    let site = Site::start(ServerSettings::default());
    site.memory.0.lock().pause = Some(Duration::from_millis(200));
    let mut old = RawPeer::open(&site, "one", 1);
    old.welcome();
    for position in 1..=20 {
        old.send(&batch_at(position, 0, &[1; 4096]));
    }
    std::thread::sleep(Duration::from_millis(50));
    let mut new = RawPeer::open(&site, "one", 1);
    let settled = new.welcome().position.number();
    for position in 1..=20 {
        new.send(&batch_at(position, 0, &[1; 4096]));
    }
    let mut acked = 0;
    while acked < 20 {
        let frame = new.frame().expect("an ack");
        acked = Ack::parse(&frame.body).expect("an ack").position.number();
    }
    assert!(settled > 0, "what was being applied was applied");
    let machine = site.memory.0.lock();
    assert_eq!(machine.applied, (1..=20).map(Position::new).collect::<Vec<_>>());
    assert_eq!(machine.closed, [Closed::TakenOver]);
    drop(machine);
    site.until(|values| (values.takeovers, values.replayed) == (1, settled));
}

#[test]
fn credit_is_enforced_over_the_wire() {
    let mut settings = ServerSettings::default();
    settings.limits.credit_bytes = MIN_CREDIT_BYTES;
    let site = Site::start(settings);
    site.memory.0.lock().pause = Some(Duration::from_secs(1));
    let mut peer = RawPeer::open(&site, "one", 1);
    let credit = peer.welcome().credit_bytes;
    assert_eq!(credit, MIN_CREDIT_BYTES);
    let bytes = content(9);
    let mut all = Vec::new();
    for position in 1..40 {
        all.extend(batch_at(position, 0, &bytes[..1 << 20]));
    }
    // The server stops reading once it has refused, so the rest may not be taken.
    let _ = peer.tls.write_all(&all);
    assert_eq!(peer.refused().code, RefusalCode::CreditOverrun);
}

#[test]
fn silent_crowded_and_stopping() {
    let mut settings = ServerSettings { max_connections: 1, ..ServerSettings::default() };
    settings.limits.idle = Duration::from_secs(1);
    settings.limits.greeting = Duration::from_millis(200);
    let site = Site::start(settings);
    let mut mute = RawPeer::connect(&site, "one");
    mute.tls.flush().expect("handshake");
    assert_eq!(mute.refused().code, RefusalCode::Silent);
    drop(mute);
    site.until(|values| values.connections_open == 0);
    let mut quiet = RawPeer::open(&site, "one", 1);
    quiet.welcome();
    assert_eq!(quiet.refused().code, RefusalCode::Silent);
    drop(quiet);
    site.until(|values| values.connections_open == 0);

    let mut first = RawPeer::open(&site, "one", 1);
    first.welcome();
    let _idle = TcpStream::connect(site.address).expect("the server listens");
    site.until(|values| values.connections_open == 2);
    assert_eq!(RawPeer::open(&site, "two", 2).refused().code, RefusalCode::TooManyConnections);
    let stopped = std::thread::spawn(move || {
        site.stop();
        site
    });
    assert_eq!(first.refused().code, RefusalCode::Stopping);
    drop(first);
    let site = stopped.join().expect("stops");
    assert_eq!(site.server.counters().connections_open, 0);
}

/// Who has no certificate keeps nobody out who has one, however many they are.
#[test]
fn strangers_make_way_for_sources() {
    let settings = ServerSettings { strangers: 4, max_connections: 4, ..ServerSettings::default() };
    let site = Site::start(settings);
    let connect = || TcpStream::connect(site.address).expect("the server listens");
    let mut strangers: Vec<_> = (0..20).map(|_| connect()).collect();
    site.until(|values| values.connections_open == 4);
    let mut source = RawPeer::open(&site, "one", 1);
    source.welcome();
    strangers.extend((0..20).map(|_| connect()));
    site.until(|values| values.connections_open == 5 && values.tls_failures >= 36);
    assert!(site.server.counters().refused.iter().all(|(_, count)| *count == 0));
    drop((strangers, source));
    site.stop();
}

#[test]
fn forbidden_paused_and_mismatched_are_passed_on() {
    let site = Site::start(ServerSettings::default());
    let who = "one".to_owned();
    for refusal in [
        Refusal::Forbidden { who, machine: "web".to_owned() },
        Refusal::Paused("by an operator".to_owned()),
        Refusal::UnknownDisk {
            machine: "web".to_owned(),
            disk: "data".to_owned(),
            known: vec!["os".to_owned()],
        },
    ] {
        site.memory.0.lock().refuse_open = Some(refusal.clone());
        let told = RawPeer::open(&site, "one", 1).refused();
        assert_eq!((told.code, told.message), (refusal.code(), refusal.to_string()));
    }
    let mut peer = RawPeer::connect(&site, "one");
    let mut other = disks();
    other[0].size_bytes = 4096;
    peer.send(
        &Hello {
            min_version: 1,
            max_version: 1,
            features: Features::default(),
            mode: StreamMode::Passes,
            stream: StreamId::from_bytes([1; 16]),
            generation: None,
            machine: web(),
            disks: other,
        }
        .encode(),
    );
    assert_eq!(peer.refused().code, RefusalCode::SizeMismatch);
}
