//! A disk in memory that fails on request, and a server for it on a Unix socket.

use crate::contexts::Tellers;
use futures_util::FutureExt;
use futures_util::future::LocalBoxFuture;
use landfall_disks::uring::net::{Listener, Peer};
use landfall_disks::uring::{Engine, EngineSettings};
use landfall_disks::{
    BLOCK_BYTES, BLOCK_SIZE, Buffer, ByteOffset, ByteRange, Content, Disk, DiskError, Durability,
    Geometry, IoFuture, MappedRange, ZeroMode,
};
use landfall_protocols::nbd::serve::{Service, Settings, serve};
use landfall_protocols::nbd::tls::Security;
use landfall_protocols::nbd::{Export, ExportEntry, Exports, Leaving, OpenError, Usage, Visitor};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::mpsc;
use std::time::Duration;
use tokio::sync::Semaphore;

/// How long a test waits for something that must happen.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Blocks in memory. What was never written, or was unmapped, is a hole.
pub(crate) struct MemoryDisk {
    size_bytes: u64,
    read_only: bool,
    blocks: Mutex<BTreeMap<u64, Vec<u8>>>,
    /// Reads that touch it fail.
    pub(crate) damaged: Mutex<Option<ByteRange>>,
    /// Reads that touch it meet a defect of the disk's own.
    pub(crate) cursed: Mutex<Option<ByteRange>>,
    /// Blocks that may be allocated.
    pub(crate) room: AtomicU64,
    /// Flushes and durable writes so far.
    pub(crate) flushes: AtomicU64,
    /// Reads take a permit each, and give it back, before they start.
    pub(crate) gate: Semaphore,
    /// Reads that have come to the gate so far.
    pub(crate) arrived: AtomicU64,
    /// What makes durable takes a permit, and gives it back, before that is so.
    pub(crate) flush_gate: Semaphore,
}

impl MemoryDisk {
    pub(crate) fn new(size_bytes: u64, read_only: bool) -> Self {
        Self {
            size_bytes,
            read_only,
            blocks: Mutex::default(),
            damaged: Mutex::new(None),
            cursed: Mutex::new(None),
            room: AtomicU64::new(u64::MAX),
            flushes: AtomicU64::new(0),
            gate: Semaphore::new(1_000_000),
            arrived: AtomicU64::new(0),
            flush_gate: Semaphore::new(1_000_000),
        }
    }

    /// Stores `bytes` at `at` without asking anybody.
    pub(crate) fn put(&self, at: u64, bytes: &[u8]) {
        let mut blocks = self.blocks.lock();
        let mut done = 0;
        let range = ByteRange::at(ByteOffset::new(at), bytes.len() as u64).expect("small");
        for part in range.chunks(BLOCK_SIZE) {
            let block =
                blocks.entry(part.start().block().index()).or_insert_with(|| vec![0; BLOCK_BYTES]);
            let inside = (part.start().bytes() % BLOCK_SIZE) as usize;
            let length = part.length() as usize;
            block[inside..inside + length].copy_from_slice(&bytes[done..done + length]);
            done += length;
        }
    }

    pub(crate) fn content(&self) -> Vec<u8> {
        let mut content = vec![0; self.size_bytes as usize];
        for (index, block) in &*self.blocks.lock() {
            let at = (index * BLOCK_SIZE) as usize;
            let length = (content.len() - at).min(BLOCK_BYTES);
            content[at..at + length].copy_from_slice(&block[..length]);
        }
        content
    }

    /// Whether something is stored for the block, be it zeroes.
    pub(crate) fn holds(&self, block: u64) -> bool {
        self.blocks.lock().contains_key(&block)
    }

    async fn settle(&self, durability: Durability) {
        if durability == Durability::Durable {
            drop(self.flush_gate.acquire().await);
            self.flushes.fetch_add(1, SeqCst);
        }
    }

    fn zero(&self, range: ByteRange, mode: ZeroMode) {
        for part in range.chunks(BLOCK_SIZE) {
            if part.length() == BLOCK_SIZE && mode == ZeroMode::Unmap {
                self.blocks.lock().remove(&part.start().block().index());
            } else {
                self.put(part.start().bytes(), &vec![0; part.length() as usize]);
            }
        }
    }
}

impl Disk for MemoryDisk {
    fn geometry(&self) -> Geometry {
        Geometry {
            size_bytes: self.size_bytes,
            logical_sector: 512,
            physical_sector: 4096,
            read_only: self.read_only,
        }
    }

    fn read(&self, range: ByteRange) -> IoFuture<'_, Buffer> {
        async move {
            DiskError::check_range(&self.geometry(), range)?;
            self.arrived.fetch_add(1, SeqCst);
            drop(self.gate.acquire().await);
            let cursed = *self.cursed.lock();
            assert!(!cursed.is_some_and(|cursed| cursed.overlaps(range)), "a defect at {range}");
            if let Some(damaged) = *self.damaged.lock()
                && damaged.overlaps(range)
            {
                return Err(DiskError::Damaged { range: damaged, what: "checksum".into() });
            }
            let mut buffer = Buffer::zeroed(range.length() as usize);
            for part in range.chunks(BLOCK_SIZE) {
                if let Some(block) = self.blocks.lock().get(&part.start().block().index()) {
                    let from = (part.start().bytes() % BLOCK_SIZE) as usize;
                    let to = (part.start().bytes() - range.start().bytes()) as usize;
                    let length = part.length() as usize;
                    buffer[to..to + length].copy_from_slice(&block[from..from + length]);
                }
            }
            Ok(buffer)
        }
        .boxed_local()
    }

    fn write(&self, at: ByteOffset, data: Buffer, durability: Durability) -> IoFuture<'_, ()> {
        async move {
            let range = ByteRange::at(at, data.len() as u64).expect("small");
            DiskError::check_writable(&self.geometry(), range)?;
            let blocks = range.chunks(BLOCK_SIZE).count() as u64;
            if self.room.load(SeqCst) < blocks {
                return Err(DiskError::NoSpace("no room in memory".into()));
            }
            self.room.fetch_sub(blocks, SeqCst);
            self.put(at.bytes(), &data);
            self.settle(durability).await;
            Ok(())
        }
        .boxed_local()
    }

    fn write_zeroes(
        &self,
        range: ByteRange,
        mode: ZeroMode,
        durability: Durability,
    ) -> IoFuture<'_, ()> {
        async move {
            DiskError::check_writable(&self.geometry(), range)?;
            self.zero(range, mode);
            self.settle(durability).await;
            Ok(())
        }
        .boxed_local()
    }

    fn discard(&self, range: ByteRange) -> IoFuture<'_, ()> {
        async move {
            DiskError::check_writable(&self.geometry(), range)?;
            self.zero(range, ZeroMode::Unmap);
            Ok(())
        }
        .boxed_local()
    }

    fn flush(&self) -> IoFuture<'_, ()> {
        async move {
            self.settle(Durability::Durable).await;
            Ok(())
        }
        .boxed_local()
    }

    fn map(&self, range: ByteRange) -> IoFuture<'_, Vec<MappedRange>> {
        async move {
            DiskError::check_range(&self.geometry(), range)?;
            let blocks = self.blocks.lock();
            let mapped = range.chunks(BLOCK_SIZE).map(|part| {
                let held = blocks.contains_key(&part.start().block().index());
                let content = if held { Content::Data } else { Content::Hole };
                MappedRange { range: part, content }
            });
            // Stops early, as an implementation may.
            Ok(mapped.take(1000).collect())
        }
        .boxed_local()
    }

    fn resize(&self, size_bytes: u64) -> IoFuture<'_, ()> {
        let from_bytes = self.size_bytes;
        async move { Err(DiskError::Resize { from_bytes, to_bytes: size_bytes }) }.boxed_local()
    }
}

/// Who uses the export `seat`, which is for one at a time.
#[derive(Default)]
pub(crate) struct Seat {
    taken: AtomicBool,
    /// How everybody left who was on it, one after the other.
    pub(crate) left: Mutex<Vec<Leaving>>,
}

impl Usage for Seat {
    fn enter(&self) -> LocalBoxFuture<'_, Result<(), OpenError>> {
        let entered = match self.taken.swap(true, SeqCst) {
            false => Ok(()),
            true => Err(OpenError::Failed("the seat is taken".into())),
        };
        std::future::ready(entered).boxed_local()
    }

    fn leave(&self, how: Leaving) -> LocalBoxFuture<'_, ()> {
        self.left.lock().push(how);
        self.taken.store(false, SeqCst);
        std::future::ready(()).boxed_local()
    }
}

/// Disks by name; the first is the default export.
pub(crate) struct Shelf {
    pub(crate) seat: Arc<Seat>,
    disks: Vec<(String, Arc<MemoryDisk>)>,
    /// How often each name was resolved.
    pub(crate) opened: Mutex<Vec<String>>,
    /// Lives in every context that is open.
    pub(crate) contexts: Arc<()>,
}

impl Exports for Shelf {
    fn list<'a>(&'a self, _visitor: &'a Visitor) -> LocalBoxFuture<'a, Vec<ExportEntry>> {
        let entry = |(name, _): &(String, _)| ExportEntry {
            name: name.clone(),
            description: format!("the disk {name}"),
        };
        std::future::ready(self.disks.iter().map(entry).collect()).boxed_local()
    }

    fn open<'a>(
        &'a self,
        name: &'a str,
        visitor: &'a Visitor,
    ) -> LocalBoxFuture<'a, Result<Export, OpenError>> {
        let certificate = visitor.certificate.as_ref();
        if let Some(stranger) = certificate.filter(|subject| subject.name != "friend") {
            let error = OpenError::NotAllowed(format!("nothing is for {}", stranger.name));
            return std::future::ready(Err(error)).boxed_local();
        }
        let mut opened = self.opened.lock();
        opened.push(name.to_owned());
        let moment = opened.len();
        // As many names as a test wants lead to the same disk. The seat is not listed, and is the first one, too.
        let seat = name == "seat";
        let found = match name.split('#').next().unwrap_or_default() {
            "" | "seat" => self.disks.first(),
            name => self.disks.iter().find(|(held, _)| held == name),
        };
        let outcome = match found {
            Some((name, disk)) => Ok(Export {
                disk: Arc::clone(disk) as Arc<dyn Disk>,
                name: format!("{name}@{moment}"),
                description: format!("the disk {name}"),
                multi_conn: true,
                contexts: Arc::new(Tellers { open: Arc::clone(&self.contexts) }),
                usage: seat.then(|| Arc::clone(&self.seat) as Arc<dyn Usage>),
            }),
            None => Err(OpenError::Unknown(format!("no disk {name}; there is disk"))),
        };
        std::future::ready(outcome).boxed_local()
    }
}

/// A server with the exports `disk` (writable), `frozen` (read-only), and `seat`, which is `disk` for one at a time.
pub(crate) struct Server {
    pub(crate) disk: Arc<MemoryDisk>,
    pub(crate) frozen: Arc<MemoryDisk>,
    pub(crate) shelf: Arc<Shelf>,
    pub(crate) service: Arc<Service>,
    pub(crate) folder: tempfile::TempDir,
    pub(crate) address: SocketAddr,
    finished: mpsc::Receiver<()>,
    engine: Engine,
}

impl Server {
    pub(crate) fn start(size_bytes: u64) -> Self {
        Self::with_settings(size_bytes, Settings::default())
    }

    pub(crate) fn with_settings(size_bytes: u64, settings: Settings) -> Self {
        Self::listening(size_bytes, settings, Security::Plain)
    }

    /// With `security` on its Unix socket and on a port of TCP.
    pub(crate) fn listening(size_bytes: u64, settings: Settings, security: Security) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let disk = Arc::new(MemoryDisk::new(size_bytes, false));
        let frozen = Arc::new(MemoryDisk::new(size_bytes, true));
        let disks = vec![
            ("disk".to_owned(), Arc::clone(&disk)),
            ("frozen".to_owned(), Arc::clone(&frozen)),
        ];
        let shelf = Arc::new(Shelf {
            seat: Arc::default(),
            disks,
            opened: Mutex::default(),
            contexts: Arc::default(),
        });
        let exports = Arc::clone(&shelf) as Arc<dyn Exports>;
        let service = Arc::new(Service::new(exports, settings));
        let engine = Engine::start(EngineSettings { cores: 2, ..EngineSettings::default() })
            .expect("an engine");
        let unix = Listener::unix(&folder.path().join("nbd.sock"), 0o600).expect("a listener");
        let tcp = Listener::tcp("127.0.0.1:0".parse().expect("an address")).expect("a listener");
        let Peer::Tcp(address) = tcp.local().clone() else { panic!("not TCP") };
        let (done, finished) = mpsc::channel();
        let (served, cores) = (Arc::clone(&service), engine.cores().to_vec());
        engine.cores()[0].spawn(move || async move {
            let both = futures_util::future::join(
                serve(unix, security.clone(), Arc::clone(&served), &cores),
                serve(tcp, security, served, &cores),
            );
            both.await;
            // The test may have ended without waiting.
            let _ = done.send(());
        });
        Self { disk, frozen, shelf, service, folder, address, finished, engine }
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.folder.path().join("nbd.sock")
    }

    /// As peers want it.
    pub(crate) fn uri(&self, export: &str) -> String {
        format!("nbd+unix:///{export}?socket={}", self.socket().display())
    }

    /// Stops, and waits until every connection has ended.
    pub(crate) fn stop(self) {
        self.service.stop();
        self.finished.recv_timeout(PATIENCE).expect("serving ends after a stop");
        assert_eq!(self.service.counters().connections.open.load(SeqCst), 0);
        self.engine.stop();
    }
}
