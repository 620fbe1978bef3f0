//! A store opened in this process: the very code of the daemon, on a data folder laid out as the daemon's.
//!
//! The index counts what it is asked; the clock says what it is told, so that a month of history takes as long as its bytes.

use anyhow::Context;
use futures_util::future::LocalBoxFuture;
use landfall_disks::Disk;
use landfall_disks::file::Folder;
use landfall_disks::image::ImageError;
use landfall_disks::raw::RawDisk;
use landfall_disks::uring::{Core, Directory, Engine, EngineSettings};
use landfall_retention::ids::DiskIdentity;
use landfall_retention::index::forgotten::Forgotten;
use landfall_retention::index::rocks::{RocksIndex, RocksSettings};
use landfall_retention::index::{Cursor, IndexBatch, IndexError, IndexStore};
use landfall_retention::time::{Clock, SystemClock, Timestamp};
use landfall_retention::{ImageSpec, ImageStore, Random, Retention, Settings, Surroundings};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// An open store and the core it runs on.
pub(crate) struct Store {
    engine: Engine,
    pub(crate) retention: Arc<Retention>,
    pub(crate) index: Arc<CountingIndex>,
    pub(crate) clock: Arc<SetClock>,
}

impl Store {
    /// Opens the store in the data folder `data`, or makes one there.
    pub(crate) fn open(data: &Path) -> anyhow::Result<Self> {
        for folder in ["journal", "index", "images"] {
            std::fs::create_dir_all(data.join(folder)).context("making the data folder")?;
        }
        let settings = EngineSettings { cores: 1, ..EngineSettings::default() };
        let engine = Engine::start(settings).context("starting io_uring")?;
        let rocks = RocksIndex::open(&data.join("index"), RocksSettings::default())?;
        let index = Arc::new(CountingIndex { rocks, asked: AtomicU64::new(0) });
        let clock = Arc::new(SetClock::default());
        let folder = |path: &Path| Directory::open(path).map(Arc::new);
        let surroundings = Surroundings {
            data: folder(data)?,
            journal: folder(&data.join("journal"))?,
            images: Arc::new(RawImages { root: Directory::open(data.join("images"))? }),
            index: Arc::clone(&index) as Arc<dyn IndexStore>,
            clock: Arc::clone(&clock) as Arc<dyn Clock>,
            random: Arc::new(KernelRandom),
        };
        let opening =
            move || async move { Retention::open(surroundings, Settings::default()).await };
        let opened = engine.cores()[0].block_on(opening).context("the I/O core ended")??;
        for (lane, core) in opened.lanes.into_iter().zip(engine.cores().iter().cycle()) {
            core.spawn(move || lane.run());
        }
        Ok(Self { engine, retention: opened.retention, index, clock })
    }

    /// Where its calls run.
    pub(crate) fn core(&self) -> &Core {
        &self.engine.cores()[0]
    }

    /// Closes it as the daemon does: nothing is left to be replayed.
    pub(crate) fn close(self) -> anyhow::Result<()> {
        let Self { engine, retention, index, .. } = self;
        let closing = move || async move { retention.close().await };
        engine.cores()[0].block_on(closing).context("the I/O core ended")??;
        engine.stop();
        drop(index);
        Ok(())
    }
}

/// RocksDB, and how often it was asked for a place or an entry.
pub(crate) struct CountingIndex {
    rocks: RocksIndex,
    asked: AtomicU64,
}

impl CountingIndex {
    /// Seeks and steps of cursors, and keys that were got, since it was opened.
    pub(crate) fn asked(&self) -> u64 {
        self.asked.load(Ordering::Relaxed)
    }

    fn count(&self) {
        self.asked.fetch_add(1, Ordering::Relaxed);
    }
}

impl IndexStore for CountingIndex {
    fn write(&self, batch: IndexBatch) -> Result<(), IndexError> {
        self.rocks.write(batch)
    }

    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, IndexError> {
        self.count();
        self.rocks.get(key)
    }

    fn cursor(&self) -> Box<dyn Cursor + '_> {
        Box::new(CountingCursor { cursor: self.rocks.cursor(), index: self })
    }

    fn flush(&self) -> Result<(), IndexError> {
        self.rocks.flush()
    }

    fn set_forgotten(&self, forgotten: Forgotten) {
        self.rocks.set_forgotten(forgotten);
    }

    fn compact(&self) -> Result<(), IndexError> {
        self.rocks.compact()
    }

    fn size_bytes(&self) -> u64 {
        self.rocks.size_bytes()
    }
}

struct CountingCursor<'a> {
    cursor: Box<dyn Cursor + 'a>,
    index: &'a CountingIndex,
}

impl Cursor for CountingCursor<'_> {
    fn seek(&mut self, key: &[u8]) -> Result<(), IndexError> {
        self.index.count();
        self.cursor.seek(key)
    }

    fn seek_back(&mut self, key: &[u8]) -> Result<(), IndexError> {
        self.index.count();
        self.cursor.seek_back(key)
    }

    fn advance(&mut self) -> Result<(), IndexError> {
        self.index.count();
        self.cursor.advance()
    }

    fn entry(&self) -> Option<(&[u8], &[u8])> {
        self.cursor.entry()
    }
}

/// The clock of the machine until it is set; from then on what it was set to.
#[derive(Default)]
pub(crate) struct SetClock(AtomicU64);

impl SetClock {
    pub(crate) fn set(&self, now: Timestamp) {
        self.0.store(now.nanoseconds(), Ordering::Relaxed);
    }
}

impl Clock for SetClock {
    fn now(&self) -> Timestamp {
        match self.0.load(Ordering::Relaxed) {
            0 => SystemClock.now(),
            set => Timestamp::from_nanoseconds(set),
        }
    }

    fn uptime(&self) -> Duration {
        SystemClock.uptime()
    }
}

struct KernelRandom;

impl Random for KernelRandom {
    fn fill(&self, bytes: &mut [u8]) {
        // At most 16 bytes are asked for; the kernel gives up to 256 at once or none.
        let filled = rustix::rand::getrandom(&mut *bytes, rustix::rand::GetRandomFlags::empty());
        assert_eq!(filled, Ok(bytes.len()), "the kernel has no random numbers");
    }
}

/// Raw images below a folder.
struct RawImages {
    root: Directory,
}

impl ImageStore for RawImages {
    fn create<'a>(
        &'a self,
        spec: &'a ImageSpec,
        _: DiskIdentity,
    ) -> LocalBoxFuture<'a, Result<Arc<dyn Disk>, ImageError>> {
        Box::pin(async move {
            let path = Path::new(&spec.path);
            if let Some(parent) = path.parent() {
                self.root.create_folder(parent).await?;
            }
            let disk = RawDisk::create(&self.root, path, spec.size_bytes).await?;
            Ok(Arc::new(disk) as Arc<dyn Disk>)
        })
    }

    fn open<'a>(
        &'a self,
        spec: &'a ImageSpec,
    ) -> LocalBoxFuture<'a, Result<Arc<dyn Disk>, ImageError>> {
        Box::pin(async move {
            let path = Path::new(&spec.path);
            let disk = RawDisk::open(&self.root, path, Some(spec.size_bytes), false).await?;
            Ok(Arc::new(disk) as Arc<dyn Disk>)
        })
    }
}
