//! Read-ahead: whoever reads one piece after the other finds the next one read already.
//!
//! ```text
//!   reader      ──r──r──r──r──┤
//!   windows                   ├── being read ──┼── being read ──┤      64 KiB at first, doubled up to 1 MiB
//! ```
//!
//! Images and journals are read past the page cache, so a reader that waits for each answer before it asks again pays the
//! device's latency every time. One of these stands between a connection and its disk. It looks for reads that begin where
//! the one before ended, and begins to read behind them, two windows ahead. Whoever keeps many requests in flight needs no
//! such help, and gets none.
//!
//! **Invariant:** what is served from a window is what the disk would have given: a window counts only if the disk's
//! [`Disk::version`] is what it was before the window was begun. What could not be read ahead is read again when it is
//! asked for, so an error is told to whoever asked for those bytes, and to nobody else.

use crate::block::{ByteOffset, ByteRange, Geometry};
use crate::disk::{Disk, DiskError, Durability, IoFuture, MappedRange, ZeroMode};
use crate::image::ImageFile;
use crate::ticket::{Change, Ticket};
use crate::uring::buffer::Buffer;
use crate::uring::spawn;
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::sync::Arc;
use tokio::sync::watch;

/// Bytes of the first window that is read ahead, and of the largest.
const FIRST_WINDOW: u64 = 64 << 10;
const LARGEST_WINDOW: u64 = 1 << 20;
/// Windows that are kept: one that is being used up, and those ahead of it. With the largest window, what a reader holds.
const WINDOWS: usize = 3;
/// Reads in a row, each where the one before ended, after which the next is foreseen.
const IN_A_ROW: u32 = 2;
/// Requests in flight with which a reader keeps the device busy by itself.
const BUSY: u32 = 4;

/// A disk with read-ahead for one reader.
pub struct ReadAhead {
    disk: Arc<dyn Disk>,
    state: Mutex<State>,
}

/// What is known of the reader.
#[derive(Default)]
struct State {
    /// Where the last read ended.
    next: u64,
    /// Reads in a row that began where the one before ended.
    in_a_row: u32,
    in_flight: u32,
    /// In order, without gaps.
    windows: VecDeque<Window>,
    /// Bytes of the last window that was begun.
    window_bytes: u64,
}

/// A stretch that is being read, or was.
#[derive(Clone)]
struct Window {
    range: ByteRange,
    /// Of the disk when it was begun.
    version: u64,
    /// What was read; the sender is gone without it if that failed.
    read: watch::Receiver<Option<Arc<Buffer>>>,
}

/// Counts a request while it lives.
struct InFlight<'a>(&'a ReadAhead);

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.state.lock().in_flight -= 1;
    }
}

impl State {
    /// Takes note of a read: the windows that cover it, if they do, and those to begin.
    fn note(
        &mut self,
        range: ByteRange,
        size_bytes: impl FnOnce() -> u64,
    ) -> (Option<Vec<Window>>, Vec<ByteRange>) {
        self.in_flight += 1;
        if range.start().bytes() != self.next || range.is_empty() {
            self.next = range.end().bytes();
            self.in_a_row = 0;
            self.forget();
            return (None, Vec::new());
        }
        self.next = range.end().bytes();
        self.in_a_row += 1;
        // What lies behind the reader is not asked for again.
        while self.windows.front().is_some_and(|window| window.range.end() <= range.start()) {
            self.windows.pop_front();
        }
        let covering = self.covering(range);
        let begin = self.in_a_row >= IN_A_ROW && self.in_flight < BUSY;
        (covering, if begin { self.ahead(range, size_bytes()) } else { Vec::new() })
    }

    /// The windows to begin behind a read and those that were begun.
    fn ahead(&mut self, range: ByteRange, size_bytes: u64) -> Vec<ByteRange> {
        let mut begin = Vec::new();
        let end = range.end();
        let last = self.windows.back().map_or(end, |last| last.range.end().max(end)).bytes();
        let mut ahead = last;
        while self.windows.len() + begin.len() < WINDOWS && ahead < size_bytes {
            self.window_bytes = (self.window_bytes * 2).clamp(FIRST_WINDOW, LARGEST_WINDOW);
            // Windows end where multiples of their length do, so that later ones begin aligned.
            let length = self.window_bytes - ahead % self.window_bytes;
            let window = ByteRange::at(ByteOffset::new(ahead), length.min(size_bytes - ahead));
            let Some(window) = window else { break };
            ahead = window.end().bytes();
            begin.push(window);
        }
        begin
    }

    /// Nothing that was read ahead counts any more.
    fn forget(&mut self) {
        self.windows.clear();
        self.window_bytes = 0;
    }

    /// The windows that cover `range` whole, if they do.
    fn covering(&self, range: ByteRange) -> Option<Vec<Window>> {
        let reaches = |window: &&Window| window.range.overlaps(range);
        let covering: Vec<Window> = self.windows.iter().filter(reaches).cloned().collect();
        let (first, last) = (covering.first()?, covering.last()?);
        let whole = first.range.start() <= range.start() && range.end() <= last.range.end();
        whole.then_some(covering)
    }
}

impl ReadAhead {
    /// Read-ahead for one reader of `disk`.
    pub fn new(disk: Arc<dyn Disk>) -> Self {
        Self { disk, state: Mutex::default() }
    }

    async fn read_range(&self, range: ByteRange) -> Result<Buffer, DiskError> {
        let (covering, begin) = self.state.lock().note(range, || self.disk.geometry().size_bytes);
        let _in_flight = InFlight(self);
        for window in begin {
            let Some(version) = self.disk.version(window) else { break };
            self.begin(window, version);
        }
        if let Some(windows) = covering {
            if let Some(bytes) = self.assemble(range, windows).await {
                return Ok(bytes);
            }
            self.state.lock().forget();
        }
        self.disk.read(range).await
    }

    /// Begins to read a window.
    fn begin(&self, range: ByteRange, version: u64) {
        let (read, receiver) = watch::channel(None);
        self.state.lock().windows.push_back(Window { range, version, read: receiver });
        let disk = Arc::clone(&self.disk);
        spawn(async move {
            match disk.read(range).await {
                // Nobody waits for it any more when the reader has gone elsewhere.
                Ok(bytes) => drop(read.send(Some(Arc::new(bytes)))),
                Err(error) => tracing::trace!(%error, %range, "not read ahead"),
            }
        });
    }

    /// The bytes of `range` out of windows that cover it; none if one of them failed, or no longer counts.
    async fn assemble(&self, range: ByteRange, windows: Vec<Window>) -> Option<Buffer> {
        let length = usize::try_from(range.length()).expect("requests are limited far below");
        let mut whole = Buffer::for_overwriting(length);
        let mut filled = 0;
        for mut window in windows {
            let read = window.read.wait_for(Option::is_some).await.ok()?.clone()?;
            let part = window.range.intersection(range);
            let from = usize::try_from(part.start().bytes() - window.range.start().bytes());
            let (from, count) = (from.ok()?, usize::try_from(part.length()).ok()?);
            whole[filled..filled + count].copy_from_slice(&read[from..from + count]);
            filled += count;
            // A write that was answered before this read came is not older than the window.
            if self.disk.version(window.range) != Some(window.version) {
                return None;
            }
        }
        Some(whole)
    }
}

impl Disk for ReadAhead {
    fn geometry(&self) -> Geometry {
        self.disk.geometry()
    }

    fn read(&self, range: ByteRange) -> IoFuture<'_, Buffer> {
        Box::pin(self.read_range(range))
    }

    fn write(&self, at: ByteOffset, data: Buffer, durability: Durability) -> IoFuture<'_, ()> {
        self.disk.write(at, data, durability)
    }

    fn write_zeroes(
        &self,
        range: ByteRange,
        mode: ZeroMode,
        durability: Durability,
    ) -> IoFuture<'_, ()> {
        self.disk.write_zeroes(range, mode, durability)
    }

    fn discard(&self, range: ByteRange) -> IoFuture<'_, ()> {
        self.disk.discard(range)
    }

    fn change<'a>(&'a self, change: Change, ticket: &Ticket) -> IoFuture<'a, ()> {
        self.disk.change(change, ticket)
    }

    fn flush(&self) -> IoFuture<'_, ()> {
        self.disk.flush()
    }

    fn map(&self, range: ByteRange) -> IoFuture<'_, Vec<MappedRange>> {
        self.disk.map(range)
    }

    fn resize(&self, size_bytes: u64) -> IoFuture<'_, ()> {
        self.disk.resize(size_bytes)
    }

    fn file(&self) -> Option<&ImageFile> {
        self.disk.file()
    }

    fn version(&self, range: ByteRange) -> Option<u64> {
        self.disk.version(range)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::uring::{Engine, EngineSettings};
    use futures_util::future::join_all;
    use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
    use tokio::sync::Semaphore;

    const SIZE: u64 = 8 << 20;

    /// Bytes that are the number of their block, plus the version.
    struct Source {
        version: AtomicU64,
        reads: Mutex<Vec<ByteRange>>,
        /// Reads of this byte fail.
        bad: Option<ByteOffset>,
        /// Reads take a permit each, and give it back, before they look.
        gate: Semaphore,
    }

    fn range(start: u64, length: u64) -> ByteRange {
        ByteRange::at(ByteOffset::new(start), length).expect("small")
    }

    fn expected(at: ByteRange, version: u64) -> Vec<u8> {
        (at.start().bytes()..at.end().bytes())
            .map(|byte| (byte / 512 + version).to_le_bytes()[0])
            .collect()
    }

    impl Source {
        fn new(bad: Option<u64>) -> Arc<Self> {
            Arc::new(Self {
                version: AtomicU64::new(0),
                reads: Mutex::default(),
                bad: bad.map(ByteOffset::new),
                gate: Semaphore::new(1000),
            })
        }
    }

    impl Disk for Source {
        fn geometry(&self) -> Geometry {
            let (logical_sector, physical_sector) = (512, 4096);
            Geometry { size_bytes: SIZE, logical_sector, physical_sector, read_only: true }
        }

        fn read(&self, range: ByteRange) -> IoFuture<'_, Buffer> {
            Box::pin(async move {
                self.reads.lock().push(range);
                drop(self.gate.acquire().await);
                match self.bad {
                    Some(bad) if range.start() <= bad && bad < range.end() => {
                        Err(DiskError::Damaged { range, what: "bad".into() })
                    }
                    _ => Ok(Buffer::copy_of(&expected(range, self.version.load(SeqCst)))),
                }
            })
        }

        fn flush(&self) -> IoFuture<'_, ()> {
            Box::pin(async { Ok(()) })
        }

        fn map(&self, _: ByteRange) -> IoFuture<'_, Vec<MappedRange>> {
            Box::pin(async { Ok(Vec::new()) })
        }

        fn version(&self, _: ByteRange) -> Option<u64> {
            Some(self.version.load(SeqCst))
        }
    }

    fn run(source: &Arc<Source>, work: impl AsyncFnOnce(ReadAhead, Arc<Source>) + Send + 'static) {
        let settings = EngineSettings { cores: 1, ..EngineSettings::default() };
        let engine = Engine::start(settings).expect("an engine");
        let source = Arc::clone(source);
        let work = move || async move {
            work(ReadAhead::new(Arc::clone(&source) as Arc<dyn Disk>), source).await;
        };
        engine.cores()[0].block_on(work).expect("the core runs");
        engine.stop();
    }

    /// Reads a piece, which has to be what the disk holds.
    async fn check(ahead: &ReadAhead, piece: ByteRange, version: u64) {
        let read = ahead.read(piece).await.expect("read");
        assert!(*read == *expected(piece, version), "{piece} of version {version}");
    }

    #[test]
    fn who_reads_on_finds_it_read() {
        let source = Source::new(None);
        run(&source, async |ahead, source| {
            for piece in range(0, SIZE).chunks(4096) {
                check(&ahead, piece, 0).await;
            }
            let reads = source.reads.lock();
            let own = reads.iter().filter(|read| read.length() == 4096).count();
            assert!(own <= 4, "{own} reads went to the disk themselves");
            assert!(reads.len() < 24, "{} reads", reads.len());
            let read: u64 = reads.iter().map(|read| read.length()).sum();
            assert_eq!(read, SIZE, "nothing was read twice");
        });
    }

    #[test]
    fn pieces_of_any_length_are_put_together() {
        let source = Source::new(None);
        run(&source, async |ahead, source| {
            let mut at = 0;
            for length in [512, 4096, 100_000, 65_536, 300_000, 1, 7, 2_000_000].repeat(3) {
                check(&ahead, range(at, length), 0).await;
                at += length;
            }
            assert!(source.reads.lock().len() < 24);
        });
    }

    #[test]
    fn who_jumps_about_or_is_busy_gets_none() {
        let source = Source::new(None);
        run(&source, async |ahead, source| {
            for index in 0..200 {
                check(&ahead, range(index * 7919 % 2000 * 4096, 4096), 0).await;
            }
            assert!(source.reads.lock().iter().all(|read| read.length() == 4096), "jumping");
            source.reads.lock().clear();
            let all: Vec<_> = range(0, 1 << 20).chunks(4096).collect();
            for some in all.chunks(32) {
                // More at once than it takes to keep a device busy; only the first few are foreseen.
                join_all(some.iter().map(|piece| check(&ahead, *piece, 0))).await;
            }
        });
    }

    #[test]
    fn a_disk_that_changed_is_read_again() {
        let source = Source::new(None);
        run(&source, async |ahead, source| {
            for (index, piece) in range(0, SIZE).chunks(4096).enumerate() {
                let version = index as u64 / 5;
                source.version.store(version, SeqCst);
                check(&ahead, piece, version).await;
            }
        });
    }

    #[test]
    fn damage_ahead_is_told_to_whoever_reads_it() {
        let source = Source::new(Some(1 << 20));
        run(&source, async |ahead, _| {
            for piece in range(0, 4 << 20).chunks(4096) {
                let read = ahead.read(piece).await;
                let damaged = piece.start().bytes() == 1 << 20;
                assert_eq!(read.is_err(), damaged, "{piece}");
            }
        });
    }

    #[test]
    fn who_leaves_in_the_middle_leaves_nothing_behind() {
        let source = Source::new(None);
        run(&source, async |ahead, source| {
            for piece in range(0, 64 << 10).chunks(4096) {
                check(&ahead, piece, 0).await;
            }
            source.gate.forget_permits(1000);
            check_in_flight(&ahead, 0);
            drop(futures_util::poll!(ahead.read(range(3 << 20, 4096))));
            check_in_flight(&ahead, 0);
        });
        assert_eq!(Arc::strong_count(&source), 1);
    }

    fn check_in_flight(ahead: &ReadAhead, expected: u32) {
        assert_eq!(ahead.state.lock().in_flight, expected);
    }
}
