//! Server and client over loopback: real TLS, real sockets, connections that break, and peers that misbehave.

use super::*;
use crate::delta::pack::{Compression, PackedBatch, PlainContent, pack};
use crate::delta::session::MIN_CREDIT_BYTES;
use crate::delta::wire::{
    Ack, BlockHash, Bye, DiskEntry, DiskState, Features, FrameKind, FrameReader, HashRequest,
    Hello, Mark, MarkKind, Marked, PassBegin, PassKind, RawFrame, Refused, StreamMode, Welcome,
};
use crate::delta::{
    Applied, Batch, Client, ClientError, ClientEvent, ClientSettings, Closed, DiskSlot,
    ExtentContent, Generation, HASH_BLOCK_SIZE, Name, OpenedStream, PeerIdentity, Position,
    Refusal, RefusalCode, ReplicaSink, StreamDisk, StreamHello, StreamId, Timestamp, tls,
};
use crate::pki::{Authority, Credentials, Validity};
use futures_util::future::{FutureExt, LocalBoxFuture};
use landfall_disks::uring::net::Peer;
use landfall_disks::uring::{Engine, EngineSettings};
use landfall_disks::{ByteOffset, ByteRange};
use std::cell::{Cell, RefCell};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::rc::Rc;

const DISK_BYTES: usize = 3 << 20;

/// A machine that is kept in memory.
struct Machine {
    generation: u64,
    stream: Option<StreamId>,
    position: Position,
    last_mark: Option<Marked>,
    disk: Vec<u8>,
    applied: Vec<Position>,
    points: Vec<Vec<u8>>,
    closed: Vec<Closed>,
    /// The next batch is refused with this.
    refuse: Option<Refusal>,
    /// Batches take so long.
    pause: Option<Duration>,
    applying: usize,
    /// Batches that were dropped before they were done.
    abandoned: usize,
    /// The next opening is refused with this.
    refuse_open: Option<Refusal>,
}

#[derive(Clone)]
struct Memory(Arc<Mutex<Machine>>);

impl Replicas for Memory {
    fn open<'a>(
        &'a self,
        hello: StreamHello,
        _peer: PeerIdentity,
    ) -> LocalBoxFuture<'a, Result<OpenedStream, Refusal>> {
        async move {
            let mut machine = self.0.lock();
            assert_eq!(machine.applying, 0, "opened before the last connection had settled");
            if let Some(refusal) = machine.refuse_open.take() {
                return Err(refusal);
            }
            if hello.machine.as_str() != "web" {
                let known = vec!["web".to_owned()];
                let machine = hello.machine.to_string();
                return Err(Refusal::UnknownMachine { machine, known });
            }
            if hello.disks[0].size_bytes != DISK_BYTES as u64 {
                let disk = hello.disks[0].name.to_string();
                let yours = hello.disks[0].size_bytes;
                return Err(Refusal::SizeMismatch { disk, ours: DISK_BYTES as u64, yours });
            }
            let current = Generation::new(machine.generation).expect("above zero");
            if let Some(got) = hello.generation.filter(|got| *got != current) {
                return Err(Refusal::OldGeneration { current, got });
            }
            if machine.stream.replace(hello.stream) != Some(hello.stream) {
                machine.position = Position::default();
                machine.last_mark = None;
            }
            let empty = machine.applied.is_empty();
            let state = if empty { DiskState::Empty } else { DiskState::InSync };
            Ok(OpenedStream {
                generation: current,
                position: machine.position,
                last_mark: machine.last_mark,
                disks: vec![StreamDisk { size_bytes: DISK_BYTES as u64, state }],
                sink: Box::new(MemorySink {
                    machine: Arc::clone(&self.0),
                    failed: Cell::new(false),
                }),
            })
        }
        .boxed_local()
    }
}

struct MemorySink {
    machine: Arc<Mutex<Machine>>,
    failed: Cell<bool>,
}

/// A batch between the first poll of its future and its end.
struct UnderWay {
    machine: Arc<Mutex<Machine>>,
    done: bool,
}

impl UnderWay {
    fn begin(machine: &Arc<Mutex<Machine>>) -> Self {
        machine.lock().applying += 1;
        Self { machine: Arc::clone(machine), done: false }
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        let mut machine = self.machine.lock();
        machine.applying -= 1;
        machine.abandoned += usize::from(!self.done);
    }
}

impl ReplicaSink for MemorySink {
    fn apply(&self, position: Position, batch: Batch) -> LocalBoxFuture<'_, Applied> {
        async move {
            let pause = {
                let mut machine = self.machine.lock();
                if let Some(refusal) = machine.refuse.take() {
                    self.failed.set(true);
                    return Err(refusal);
                }
                if self.failed.get() {
                    return Err(Refusal::Failed("after an earlier failure".to_owned()));
                }
                assert_eq!(Some(position), machine.position.next(), "applied in order");
                machine.position = position;
                machine.applied.push(position);
                for extent in &batch.extents {
                    let start = usize::try_from(extent.range.start().bytes()).expect("small");
                    let end = usize::try_from(extent.range.end().bytes()).expect("small");
                    match &extent.content {
                        ExtentContent::Zero => machine.disk[start..end].fill(0),
                        ExtentContent::Data { bytes, .. } => {
                            machine.disk[start..end].copy_from_slice(bytes);
                        }
                    }
                }
                // Later ones end before earlier ones: answers have to wait for each other.
                let short = Duration::from_millis(3 - position.number() % 3);
                machine.pause.unwrap_or(short)
            };
            let mut under_way = UnderWay::begin(&self.machine);
            uring::sleep(pause).await;
            under_way.done = true;
            Ok(())
        }
        .boxed_local()
    }

    fn mark(&self, mark: Mark) -> LocalBoxFuture<'_, Result<Marked, Refusal>> {
        async move {
            let mut machine = self.machine.lock();
            assert_eq!(Some(mark.position), machine.position.next(), "marked in order");
            machine.position = mark.position;
            let point = machine.disk.clone();
            machine.points.push(point);
            let marked = Marked {
                position: mark.position,
                sequence: machine.points.len() as u64,
                commit_time: Timestamp::from_nanoseconds(5),
                kind: mark.kind,
            };
            machine.last_mark = Some(marked);
            Ok(marked)
        }
        .boxed_local()
    }

    fn hashes(&self, request: HashRequest) -> LocalBoxFuture<'_, Result<Vec<BlockHash>, Refusal>> {
        async move {
            let machine = self.machine.lock();
            let blocks = request.first..request.first + u64::from(request.count);
            Ok(blocks.map(|index| hash_of(block(&machine.disk, index))).collect())
        }
        .boxed_local()
    }

    fn pass_begin(&self, _pass: PassBegin) -> LocalBoxFuture<'_, Applied> {
        async { Ok(()) }.boxed_local()
    }

    fn closed(&self, why: Closed) -> LocalBoxFuture<'_, ()> {
        let mut machine = self.machine.lock();
        assert_eq!((machine.applying, machine.abandoned), (0, 0), "closed before it had settled");
        machine.closed.push(why);
        async {}.boxed_local()
    }
}

fn block(disk: &[u8], index: u64) -> &[u8] {
    let size = usize::try_from(HASH_BLOCK_SIZE).expect("64 KiB");
    let start = usize::try_from(index).expect("small") * size;
    &disk[start..(start + size).min(disk.len())]
}

fn hash_of(bytes: &[u8]) -> BlockHash {
    if bytes.iter().all(|byte| *byte == 0) {
        BlockHash::Zero
    } else {
        BlockHash::Hash(*blake3::hash(bytes).as_bytes())
    }
}

/// A server with its certificates, listening on a free port.
struct Site {
    folder: tempfile::TempDir,
    authority: Authority,
    memory: Memory,
    server: Arc<Server>,
    address: SocketAddr,
    engine: Engine,
}

impl Site {
    fn start(settings: ServerSettings) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let authority = Authority::create(&folder.path().join("pki"), Validity::default());
        let authority = authority.expect("made");
        let credentials = authority.ensure_server(&[]).expect("issued");
        let memory = Memory(Arc::new(Mutex::new(Machine {
            generation: 1,
            stream: None,
            position: Position::default(),
            last_mark: None,
            disk: vec![0; DISK_BYTES],
            applied: Vec::new(),
            points: Vec::new(),
            closed: Vec::new(),
            refuse: None,
            pause: None,
            applying: 0,
            abandoned: 0,
            refuse_open: None,
        })));
        let server = Server::new(
            settings,
            tls::server_config(credentials).expect("usable"),
            Arc::new(memory.clone()),
        );
        let sizes = EngineSettings { cores: 2, ring_entries: 64, blocking_threads: 2 };
        let engine = Engine::start(sizes).expect("an engine");
        let listener = Listener::tcp("127.0.0.1:0".parse().expect("an address")).expect("bound");
        let Peer::Tcp(address) = listener.local() else { panic!("TCP") };
        let (accepting, cores) = (Arc::clone(&server), engine.cores().to_vec());
        engine.cores()[0].spawn(move || accepting.accept(listener, cores));
        Self { folder, authority, memory, server, address, engine }
    }

    fn client_tls(&self, name: &str) -> Arc<rustls::ClientConfig> {
        let folder = self.authority.ensure_client(name).expect("issued");
        tls::client_config(Credentials::load_client(&folder).expect("complete")).expect("usable")
    }

    fn settings(&self, address: SocketAddr) -> ClientSettings {
        ClientSettings {
            first_pause: Duration::from_millis(2),
            longest_pause: Duration::from_millis(20),
            ..ClientSettings::new(address.to_string(), self.client_tls("one"), web(), disks())
        }
    }

    fn stop(&self) {
        let server = Arc::clone(&self.server);
        self.engine.cores()[0].block_on(move || async move { server.stop().await }).expect("runs");
    }

    /// Waits until `wanted` holds of the counters.
    fn until(&self, wanted: impl Fn(&CounterValues) -> bool) -> CounterValues {
        for _ in 0..500 {
            let values = self.server.counters();
            if wanted(&values) {
                return values;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("did not happen: {:?}", self.server.counters());
    }
}

fn web() -> Name {
    Name::new("web").expect("a name")
}

fn disks() -> Vec<DiskEntry> {
    vec![DiskEntry { name: Name::new("os").expect("a name"), size_bytes: DISK_BYTES as u64 }]
}

fn packed(start: usize, bytes: &[u8]) -> PackedBatch {
    let range = ByteRange::at(ByteOffset::new(start as u64), bytes.len() as u64).expect("small");
    let extents = [(range, PlainContent::Data(bytes))];
    pack(Timestamp::default(), DiskSlot::new(0), &extents, Compression::Lz4)
}

fn content(seed: u8) -> Vec<u8> {
    let mut bytes = vec![0; DISK_BYTES];
    blake3::Hasher::new().update(&[seed]).finalize_xof().fill(&mut bytes[..DISK_BYTES / 2]);
    bytes
}

/// Runs `work` with a client beside its driver, on one thread.
fn with_client<T>(
    settings: ClientSettings,
    work: impl AsyncFnOnce(Client) -> T,
) -> (T, Vec<ClientEvent>) {
    let events = Rc::new(RefCell::new(Vec::new()));
    let seen = Rc::clone(&events);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let value =
        runtime.expect("a runtime").block_on(tokio::task::LocalSet::new().run_until(async move {
            let observer = Box::new(move |event| seen.borrow_mut().push(event));
            let (client, driver) = Client::new(settings, observer);
            tokio::task::spawn_local(driver);
            tokio::time::timeout(Duration::from_secs(60), work(client)).await.expect("in time")
        }));
    (value, events.take())
}

/// Brings the target to `source` by comparing, and marks.
async fn compare(client: &Client, source: &[u8]) -> Result<Option<Marked>, ClientError> {
    let pass = client.begin_pass(PassKind::Compare, source.len() as u64).await?;
    let blocks = (source.len() as u64).div_ceil(HASH_BLOCK_SIZE);
    for first in (0..blocks).step_by(7) {
        let count = u32::try_from((blocks - first).min(7)).expect("small");
        let theirs = pass.hashes(DiskSlot::new(0), first, count).await?;
        for (index, theirs) in (first..).zip(theirs) {
            let ours = block(source, index);
            if hash_of(ours) != theirs {
                let start = usize::try_from(index * HASH_BLOCK_SIZE).expect("small");
                pass.send(packed(start, ours)).await?;
            }
        }
    }
    pass.mark(MarkKind::Crash, "", Timestamp::default()).await
}

#[test]
fn a_disk_is_copied_compared_and_marked() {
    let site = Site::start(ServerSettings::default());
    let (first, second) = (content(1), content(2));
    let (result, events) = with_client(site.settings(site.address), async |client| {
        let welcome = client.ready().await?;
        assert_eq!(welcome.disks[0].state, DiskState::Empty);
        let pass = client.begin_pass(PassKind::Copy, DISK_BYTES as u64).await?;
        for start in (0..DISK_BYTES / 2).step_by(1 << 18) {
            pass.send(packed(start, &first[start..start + (1 << 18)])).await?;
        }
        let marked = pass.mark(MarkKind::App, "first", Timestamp::default()).await?;
        assert_eq!(marked.map(|marked| (marked.sequence, marked.kind)), Some((1, MarkKind::App)));
        compare(&client, &first).await?;
        compare(&client, &second).await?;
        client.leave(Bye::Done).await
    });
    assert_eq!(result, Ok(()));
    assert_eq!(events, [ClientEvent::Connected]);
    let machine = site.memory.0.lock();
    assert_eq!(machine.points.len(), 3);
    assert!(machine.points[0] == first && machine.points[1] == first);
    assert!(machine.points[2] == second);
    // 6 of the copy, none of the unchanged pass, 24 of the changed one, three marks.
    assert_eq!(machine.position, Position::new(6 + 24 + 3));
    drop(machine);
    let values = site.until(|values| values.connections_open == 0);
    assert_eq!((values.batches, values.marks, values.hash_blocks), (30, 3, 96));
    assert_eq!(values.plain_bytes, DISK_BYTES as u64);
    assert_eq!(site.memory.0.lock().closed, [Closed::Finished]);
}

/// Forwards connections, and cuts each after some bytes; how many says `cuts`, the last one never.
fn breaking_proxy(target: SocketAddr, cuts: Vec<usize>) -> SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("bound");
    let address = listener.local_addr().expect("bound");
    std::thread::spawn(move || {
        for (index, from) in listener.incoming().enumerate() {
            let from = from.expect("accepted");
            let to = TcpStream::connect(target).expect("the target listens");
            let limit = cuts.get(index).copied().unwrap_or(usize::MAX);
            let half = |mut from: TcpStream, mut to: TcpStream, mut left: usize| {
                std::thread::spawn(move || {
                    let mut bytes = [0; 4096];
                    while left > 0 {
                        let wanted = left.min(bytes.len());
                        match from.read(&mut bytes[..wanted]) {
                            Ok(0) | Err(_) => break,
                            Ok(count) if to.write_all(&bytes[..count]).is_err() => break,
                            Ok(count) => left -= count,
                        }
                    }
                    // Both directions end at once, with whatever was under way.
                    let _ = from.shutdown(std::net::Shutdown::Both);
                    let _ = to.shutdown(std::net::Shutdown::Both);
                })
            };
            let (from_too, to_too) = (from.try_clone().expect("fd"), to.try_clone().expect("fd"));
            half(from, to, limit);
            half(to_too, from_too, usize::MAX);
        }
    });
    address
}

#[test]
fn a_stream_survives_connections_that_break_anywhere() {
    let site = Site::start(ServerSettings::default());
    // Handshakes, greetings, tables, contents and marks are all hit by one of these.
    let cuts = [100, 1500, 2100, 2600, 3000, 20_000, 66_000, 70_001, 131_072, 300_000, 500_000];
    let proxy = breaking_proxy(site.address, cuts.to_vec());
    let source = content(3);
    let (result, events) = with_client(site.settings(proxy), async |client| {
        compare(&client, &source).await?;
        client.leave(Bye::Done).await
    });
    assert_eq!(result, Ok(()));
    let machine = site.memory.0.lock();
    assert!(machine.points.last() == Some(&source));
    let expected: Vec<Position> = (1..=24).map(Position::new).collect();
    assert_eq!(machine.applied, expected, "each block was applied once, in order");
    assert!(events.iter().any(|event| matches!(event, ClientEvent::Resumed { .. })), "{events:?}");
    assert!(events.iter().filter(|event| matches!(event, ClientEvent::Lost { .. })).count() >= 8);
}

#[test]
fn a_new_generation_is_met_by_comparing() {
    let site = Site::start(ServerSettings::default());
    let source = content(4);
    let memory = site.memory.clone();
    let (result, events) = with_client(site.settings(site.address), async |client| {
        compare(&client, &source).await?;
        {
            let mut machine = memory.0.lock();
            machine.generation = 2;
            machine.stream = None;
            machine.disk[..100_000].fill(9);
            machine.refuse = Some(Refusal::Failed("the journal was replaced".to_owned()));
        }
        let changed = content(5);
        assert_eq!(compare(&client, &changed).await, Err(ClientError::PositionLost));
        compare(&client, &changed).await
    });
    assert_eq!(result.map(|marked| marked.map(|marked| marked.sequence)), Ok(Some(2)));
    assert!(site.memory.0.lock().points[1] == content(5));
    let refused = |wanted| {
        events
            .iter()
            .any(|event| matches!(event, ClientEvent::Refused { code, .. } if *code == wanted))
    };
    assert!(refused(RefusalCode::Failed) && refused(RefusalCode::OldGeneration), "{events:?}");
    assert!(events.contains(&ClientEvent::PositionLost));
}

#[test]
fn a_full_journal_holds_the_stream_until_there_is_space() {
    let site = Site::start(ServerSettings::default());
    site.memory.0.lock().refuse = Some(Refusal::JournalFull("0 bytes left".to_owned()));
    let source = content(6);
    let (result, events) = with_client(site.settings(site.address), async |client| {
        compare(&client, &source).await?;
        client.leave(Bye::Done).await
    });
    assert_eq!(result, Ok(()));
    assert!(site.memory.0.lock().points[0] == source);
    assert!(matches!(
        &events[1],
        ClientEvent::Refused { code: RefusalCode::JournalFull, message, .. }
            if message == "the journal is full: 0 bytes left"
    ));
    assert!(matches!(events[2], ClientEvent::Resumed { .. }), "{events:?}");
}

#[test]
fn the_client_gives_up_only_on_what_cannot_change() {
    let site = Site::start(ServerSettings::default());
    let mut settings = site.settings(site.address);
    settings.machine = Name::new("wbe").expect("a name");
    let (result, _) = with_client(settings, async |client| client.ready().await.map(|_| ()));
    let message = "unknown machine wbe; machines: web".to_owned();
    assert_eq!(result, Err(ClientError::Refused { code: RefusalCode::UnknownMachine, message }));

    let other = Authority::create(&site.folder.path().join("other"), Validity::default());
    let folder = other.expect("made").ensure_client("eve").expect("issued");
    let mut credentials = Credentials::load_client(&folder).expect("complete");
    let untrusted_target = ClientSettings {
        tls: tls::client_config(credentials.clone()).expect("usable"),
        ..site.settings(site.address)
    };
    let (result, _) = with_client(untrusted_target, async |client| client.ready().await);
    assert!(matches!(result, Err(ClientError::Untrusted(_))), "{result:?}");
    // A stranger who trusts the target: it is the target that says no.
    let ours = Credentials::load_client(&site.authority.ensure_client("one").expect("issued"));
    credentials.authorities = ours.expect("complete").authorities;
    let stranger = ClientSettings {
        tls: tls::client_config(credentials).expect("usable"),
        ..site.settings(site.address)
    };
    let (result, _) = with_client(stranger, async |client| client.ready().await);
    assert!(matches!(result, Err(ClientError::Untrusted(_))), "{result:?}");
    assert_eq!(site.until(|values| values.tls_failures == 2).streams_open, 0);
}

#[test]
fn stopping_ends_a_client_that_has_no_connection() {
    let site = Site::start(ServerSettings::default());
    let settings = site.settings("127.0.0.1:1".parse().expect("an address"));
    let patient = ClientSettings { first_pause: Duration::from_secs(30), ..settings };
    let start = Instant::now();
    let (result, _) = with_client(patient, async |client| {
        tokio::time::sleep(Duration::from_millis(50)).await;
        client.leave(Bye::Stopping).await
    });
    assert_eq!(result, Err(ClientError::Ended));
    assert!(start.elapsed() < Duration::from_secs(10));
}

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
        features: Features { lz4: true },
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
    let mut settings = ServerSettings { max_connections: 2, ..ServerSettings::default() };
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
