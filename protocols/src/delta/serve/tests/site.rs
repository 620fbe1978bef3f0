//! A server on loopback with its certificates, and clients beside their drivers.

use super::*;

/// A server with its certificates, listening on a free port.
pub(super) struct Site {
    pub(super) folder: tempfile::TempDir,
    pub(super) authority: Authority,
    pub(super) memory: Memory,
    pub(super) server: Arc<Server>,
    pub(super) address: SocketAddr,
    pub(super) engine: Engine,
}

impl Site {
    pub(super) fn start(settings: ServerSettings) -> Self {
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

    pub(super) fn client_tls(&self, name: &str) -> Arc<rustls::ClientConfig> {
        let folder = self.authority.ensure_client(name).expect("issued");
        tls::client_config(Credentials::load_client(&folder).expect("complete")).expect("usable")
    }

    pub(super) fn settings(&self, address: SocketAddr) -> ClientSettings {
        ClientSettings {
            first_pause: Duration::from_millis(2),
            longest_pause: Duration::from_millis(20),
            ..ClientSettings::new(address.to_string(), self.client_tls("one"), web(), disks())
        }
    }

    pub(super) fn stop(&self) {
        let server = Arc::clone(&self.server);
        self.engine.cores()[0].block_on(move || async move { server.stop().await }).expect("runs");
    }

    /// Waits until `wanted` holds of the counters.
    pub(super) fn until(&self, wanted: impl Fn(&CounterValues) -> bool) -> CounterValues {
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

pub(super) fn web() -> Name {
    Name::new("web").expect("a name")
}

pub(super) fn disks() -> Vec<DiskEntry> {
    vec![DiskEntry { name: Name::new("os").expect("a name"), size_bytes: DISK_BYTES as u64 }]
}

pub(super) fn packed(start: usize, bytes: &[u8]) -> PackedBatch {
    let range = ByteRange::at(ByteOffset::new(start as u64), bytes.len() as u64).expect("small");
    let extents = [(range, PlainContent::Data(bytes))];
    pack(Timestamp::default(), DiskSlot::new(0), &extents, Compression::Lz4)
}

pub(super) fn content(seed: u8) -> Vec<u8> {
    let mut bytes = vec![0; DISK_BYTES];
    blake3::Hasher::new().update(&[seed]).finalize_xof().fill(&mut bytes[..DISK_BYTES / 2]);
    bytes
}

/// Runs `work` with a client beside its driver, on one thread.
pub(super) fn with_client<T>(
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
pub(super) async fn compare(client: &Client, source: &[u8]) -> Result<Option<Marked>, ClientError> {
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
    pass.mark(MarkKind::Crash, "", Timestamp::default(), Vec::new()).await
}

/// Forwards connections, and cuts each after some bytes; how many says `cuts`, the last one never.
pub(super) fn breaking_proxy(target: SocketAddr, cuts: Vec<usize>) -> SocketAddr {
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
