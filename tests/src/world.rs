//! Everything outside a store under test: files, index, clock and random numbers that follow a seed.

use futures_util::future::LocalBoxFuture;
use landfall_disks::Disk;
use landfall_disks::faults::{FaultFolder, Seed};
use landfall_disks::image::ImageError;
use landfall_disks::raw::RawDisk;
use landfall_retention::ids::DiskIdentity;
use landfall_retention::index::IndexStore;
use landfall_retention::index::memory::MemoryIndex;
use landfall_retention::name::{MomentName, Name};
use landfall_retention::time::{Clock, Timestamp};
use landfall_retention::{ImageSpec, ImageStore, JournalSettings, Random, Settings, Surroundings};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What survives a power cut, and what the store is given.
pub struct World {
    /// Manifest, journal and images.
    pub folder: FaultFolder,
    /// The index, which forgets what was not flushed.
    pub index: Arc<MemoryIndex>,
    /// The time.
    pub clock: Arc<SteppingClock>,
    random: Arc<SeededRandom>,
    /// The last checkpoint of the index.
    checkpoint: Mutex<Option<MemoryIndex>>,
}

impl World {
    /// An empty one.
    pub fn new(seed: &mut Seed) -> Self {
        Self {
            folder: FaultFolder::new(seed.fork()),
            index: Arc::new(MemoryIndex::default()),
            clock: Arc::new(SteppingClock(
                AtomicU64::new(1_700_000_000_000_000_000),
                AtomicU64::new(0),
            )),
            random: Arc::new(SeededRandom(Mutex::new(seed.fork()))),
            checkpoint: Mutex::default(),
        }
    }

    /// What a power cut leaves of it.
    pub fn crash(self, seed: &mut Seed) -> Self {
        let kept = seed.index(self.index.unflushed() + 1);
        let index = Arc::new(self.index.after_crash(kept));
        Self { folder: self.folder.crash(seed), index, ..self }
    }

    /// The same with an index folder that somebody removed.
    pub fn without_index(self) -> Self {
        Self { index: Arc::new(MemoryIndex::default()), ..self }
    }

    /// Makes a checkpoint of the index.
    pub fn checkpoint_index(&self) {
        *self.checkpoint.lock().expect("no panic") = Some(self.index.checkpoint());
    }

    /// The same with the index as the last checkpoint has it; without one, with none.
    pub fn with_index_of_checkpoint(self) -> Self {
        let checkpoint = self.checkpoint.into_inner().expect("no panic").unwrap_or_default();
        let kept = Mutex::new(Some(checkpoint.checkpoint()));
        Self { index: Arc::new(checkpoint), checkpoint: kept, ..self }
    }

    /// It as a store takes it.
    pub fn surroundings(&self) -> Surroundings {
        Surroundings {
            data: Arc::new(self.folder.clone()),
            journal: Arc::new(self.folder.clone()),
            images: Arc::new(Images(self.folder.clone())),
            index: Arc::clone(&self.index) as Arc<dyn IndexStore>,
            clock: Arc::clone(&self.clock) as Arc<dyn Clock>,
            random: Arc::clone(&self.random) as Arc<dyn Random>,
        }
    }

    /// Segments so short that a life goes through several.
    pub fn settings() -> Settings {
        let journal = JournalSettings { segment_bytes: 512 << 10, reserve_bytes: 0 };
        // All of it at once: those who want it otherwise say so.
        let index_at_once = usize::MAX;
        let (leaf_cache_bytes, read_cache_bytes) = (16 << 20, 1 << 20);
        let settings = Settings { leaf_cache_bytes, read_cache_bytes, ..Settings::default() };
        Settings { journal, lanes: 2, index_at_once, ..settings }
    }
}

/// A clock that moves a little each time it is asked, and may be set: the time, and how much of it went by.
pub struct SteppingClock(AtomicU64, AtomicU64);

impl SteppingClock {
    /// Sets it back.
    pub fn set_back(&self, nanoseconds: u64) {
        self.0.fetch_sub(nanoseconds, Ordering::Relaxed);
    }
}

impl SteppingClock {
    /// Time goes by.
    pub fn pass(&self, time: Duration) {
        let nanoseconds = u64::try_from(time.as_nanos()).expect("some years");
        self.0.fetch_add(nanoseconds, Ordering::Relaxed);
        self.1.fetch_add(nanoseconds, Ordering::Relaxed);
    }

    /// Somebody sets it forward.
    pub fn set_forward(&self, time: Duration) {
        let nanoseconds = u64::try_from(time.as_nanos()).expect("some years");
        self.0.fetch_add(nanoseconds, Ordering::Relaxed);
    }
}

impl Clock for SteppingClock {
    fn now(&self) -> Timestamp {
        self.1.fetch_add(1_000_003, Ordering::Relaxed);
        Timestamp::from_nanoseconds(self.0.fetch_add(1_000_003, Ordering::Relaxed))
    }

    fn uptime(&self) -> Duration {
        Duration::from_nanos(self.1.load(Ordering::Relaxed))
    }
}

struct SeededRandom(Mutex<Seed>);

impl Random for SeededRandom {
    fn fill(&self, bytes: &mut [u8]) {
        self.0.lock().expect("nothing panics while it is held").fill(bytes);
    }
}

/// Raw images in the faulty folder.
struct Images(FaultFolder);

impl ImageStore for Images {
    fn create<'a>(
        &'a self,
        spec: &'a ImageSpec,
        _: DiskIdentity,
    ) -> LocalBoxFuture<'a, Result<Arc<dyn Disk>, ImageError>> {
        Box::pin(async move {
            let made = RawDisk::create(&self.0, Path::new(&spec.path), spec.size_bytes).await?;
            Ok(Arc::new(made) as Arc<dyn Disk>)
        })
    }

    fn open<'a>(
        &'a self,
        spec: &'a ImageSpec,
    ) -> LocalBoxFuture<'a, Result<Arc<dyn Disk>, ImageError>> {
        Box::pin(async move {
            let (path, size) = (Path::new(&spec.path), Some(spec.size_bytes));
            Ok(Arc::new(RawDisk::open(&self.0, path, size, false).await?) as Arc<dyn Disk>)
        })
    }
}

/// The name that `text` is.
pub fn name(text: &str) -> Name {
    Name::parse(text).expect("a name")
}

/// The moment that `text` names.
pub fn moment(text: &str) -> MomentName {
    MomentName::parse(text).expect("a moment")
}

/// Lets other tasks run once.
pub async fn yield_now() {
    let mut yielded = false;
    std::future::poll_fn(|context| {
        if std::mem::replace(&mut yielded, true) {
            return std::task::Poll::Ready(());
        }
        context.waker().wake_by_ref();
        std::task::Poll::Pending
    })
    .await;
}
