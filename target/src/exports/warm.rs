//! A disk whose boot is foreseen: what an earlier boot of it read is read when this one begins.
//!
//! ```text
//!   read ─▶ in a piece that is there, and the disk has not changed since ─▶ memory
//!      └──▶ disk; if it is the first of a boot: read the set, eight pieces at a time,
//!           in the order of the last boot
//! ```
//!
//! What a connection reads is watched, too, and makes the set of the next boot.
//!
//! **Invariants**
//! - What is served from memory is what the disk would have given, as with read-ahead: by
//!   [`Disk::version`].
//! - All that is kept for all connections takes no more than [`WARM_BYTES`], and is let go when the
//!   boot is over.

use super::boot_set::{BOOT, BootSets, PIECE_BYTES, Piece, Recorder, begins};
use futures_util::{StreamExt, stream};
use landfall_disks::image::ImageFile;
use landfall_disks::uring::{Core, offload, sleep, spawn};
use landfall_disks::{
    Buffer, ByteOffset, ByteRange, Change, Disk, DiskError, Durability, Geometry, IoFuture,
    MappedRange, Ticket, ZeroMode,
};
use landfall_retention::name::Name;
use parking_lot::Mutex;
use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Instant;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Memory for the boot sets of everybody who boots, in bytes.
const WARM_BYTES: u64 = 256 << 20;
/// Pieces that are read at once.
const AT_ONCE: usize = 8;

/// Pieces that are remembered as read: beyond that some are read twice.
const MOST_PASSED: usize = 1 << 16;

/// What all who boot share.
pub(super) struct Warmth {
    sets: BootSets,
    /// Where boots are remembered: the last who has a disk may let go of it anywhere.
    core: Core,
    /// A permit for each piece.
    room: Arc<Semaphore>,
    /// Reads that were served from memory.
    hits: Arc<AtomicU64>,
}

impl Warmth {
    pub(super) fn new(sets: BootSets, hits: Arc<AtomicU64>, core: Core) -> Self {
        let pieces = usize::try_from(WARM_BYTES / PIECE_BYTES).expect("4096");
        Self { sets, core, room: Arc::new(Semaphore::new(pieces)), hits }
    }
}

/// The disk of a connection.
pub(super) struct WarmDisk(Arc<Warming>);

struct Warming {
    disk: Arc<dyn Disk>,
    shared: Arc<Warmth>,
    machine: Name,
    name: Name,
    phase: AtomicU8,
    state: Mutex<State>,
}

/// Nothing was read yet.
const NEW: u8 = 0;
/// The first read was that of a boot.
const BOOTING: u8 = 1;
/// It was none, or is over: reads go straight to the disk.
const OVER: u8 = 2;

#[derive(Default)]
struct State {
    recorder: Recorder,
    pieces: HashMap<Piece, Kept>,
    /// What was read from the disk since the boot began need not be read ahead.
    passed: HashSet<Piece>,
}

/// A piece in memory.
struct Kept {
    bytes: Arc<Buffer>,
    /// Of the disk, before it was read.
    version: u64,
    _room: OwnedSemaphorePermit,
}

impl WarmDisk {
    /// `disk`, which is `name` of `machine`.
    pub(super) fn new(
        disk: Arc<dyn Disk>,
        (machine, name): (&Name, &Name),
        shared: Arc<Warmth>,
    ) -> Self {
        let (machine, name) = (machine.clone(), name.clone());
        let (phase, state) = (AtomicU8::new(NEW), Mutex::default());
        Self(Arc::new(Warming { disk, shared, machine, name, phase, state }))
    }
}

impl Drop for WarmDisk {
    fn drop(&mut self) {
        let booted = self.0.state.lock().recorder.finish();
        self.0.keep(booted);
    }
}

impl Warming {
    async fn read(self: &Arc<Self>, range: ByteRange) -> Result<Buffer, DiskError> {
        if self.is_booting(range) {
            let (kept, booted) = {
                let mut state = self.state.lock();
                let booted = state.recorder.read(range, Instant::now());
                (state.kept(range), booted)
            };
            if booted.is_some() {
                self.end();
            }
            self.keep(booted);
            if let Some(kept) = kept
                && let Some(bytes) = self.assemble(range, &kept)
            {
                self.shared.hits.fetch_add(1, Ordering::Relaxed);
                return Ok(bytes);
            }
        }
        self.disk.read(range).await
    }

    /// Whether a boot is under way; the first read says if one begins.
    fn is_booting(self: &Arc<Self>, range: ByteRange) -> bool {
        match self.phase.load(Ordering::Relaxed) {
            OVER => false,
            BOOTING => true,
            _ if begins(range) => {
                self.phase.store(BOOTING, Ordering::Relaxed);
                spawn(warm(Arc::downgrade(self)));
                true
            }
            _ => {
                self.phase.store(OVER, Ordering::Relaxed);
                false
            }
        }
    }

    /// The boot is over: lets go of what was kept for it.
    fn end(&self) {
        self.phase.store(OVER, Ordering::Relaxed);
        let mut state = self.state.lock();
        state.pieces.clear();
        state.passed.clear();
    }

    /// The bytes of `range`, all of which is in memory, unless the disk has changed there.
    fn assemble(&self, range: ByteRange, kept: &[(Piece, Arc<Buffer>, u64)]) -> Option<Buffer> {
        let length = usize::try_from(range.length()).expect("requests are limited far below");
        let mut whole = Buffer::for_overwriting(length);
        let mut filled = 0;
        for (piece, bytes, version) in kept {
            let of = piece.range(self.disk.geometry().size_bytes);
            if self.disk.version(of) != Some(*version) {
                self.state.lock().pieces.remove(piece);
                return None;
            }
            let part = of.intersection(range);
            let from = usize::try_from(part.start().bytes() - of.start().bytes()).ok()?;
            let count = usize::try_from(part.length()).ok()?;
            whole[filled..filled + count].copy_from_slice(&bytes[from..from + count]);
            filled += count;
        }
        (filled == length).then_some(whole)
    }

    /// Has what a boot read be remembered.
    fn keep(&self, booted: Option<Vec<Piece>>) {
        let Some(pieces) = booted else { return };
        let (sets, machine, disk) =
            (self.shared.sets.clone(), self.machine.clone(), self.name.clone());
        self.shared.core.spawn(move || async move {
            let saved = offload(move || {
                let count = pieces.len();
                let saved = sets.save(&machine, &disk, &pieces);
                tracing::debug!(%machine, %disk, count, "a boot was remembered");
                saved
            });
            if let Err(error) = saved.await {
                tracing::warn!(%error, "cannot keep what a boot has read");
            }
        });
    }

    /// Reads a piece into memory, unless the guest was faster or there is no room; whether to go
    /// on.
    async fn warm_one(&self, piece: Piece) -> bool {
        let range = piece.range(self.disk.geometry().size_bytes);
        if range.is_empty() || self.state.lock().passed.contains(&piece) {
            return true;
        }
        let Ok(room) = Arc::clone(&self.shared.room).try_acquire_owned() else { return false };
        let Some(version) = self.disk.version(range) else { return false };
        match self.disk.read(range).await {
            Ok(bytes) => {
                let kept = Kept { bytes: Arc::new(bytes), version, _room: room };
                self.state.lock().pieces.insert(piece, kept);
                true
            }
            // Whoever asks for it will be told.
            Err(error) => {
                tracing::debug!(%error, %range, "a piece of a boot was not read ahead");
                true
            }
        }
    }
}

impl State {
    /// The pieces of `range`, if all of them are in memory.
    fn kept(&mut self, range: ByteRange) -> Option<Vec<(Piece, Arc<Buffer>, u64)>> {
        let of = |piece: Piece| {
            let kept = self.pieces.get(&piece)?;
            Some((piece, Arc::clone(&kept.bytes), kept.version))
        };
        let found: Option<Vec<_>> = Piece::of(range).map(of).collect();
        if found.is_none() && self.passed.len() < MOST_PASSED {
            self.passed.extend(Piece::of(range));
        }
        found
    }
}

/// Reads the set of the last boot, in its order, and lets go of it when this one must be over.
async fn warm(warming: Weak<Warming>) {
    let begun = Instant::now();
    let Some(disk) = warming.upgrade() else { return };
    let (sets, machine, name) = (disk.shared.sets.clone(), disk.machine.clone(), disk.name.clone());
    drop(disk);
    let set = offload(move || sets.load(&machine, &name)).await;
    let one = |piece| {
        let warming = Weak::clone(&warming);
        async move {
            match warming.upgrade() {
                Some(warming) => warming.warm_one(piece).await,
                None => false,
            }
        }
    };
    let goes_on = |goes_on: &bool| std::future::ready(*goes_on);
    let count = stream::iter(set).map(one).buffered(AT_ONCE).take_while(goes_on).count().await;
    tracing::debug!(count, "pieces of an earlier boot were read");
    sleep(BOOT.saturating_sub(begun.elapsed())).await;
    if let Some(warming) = warming.upgrade() {
        let booted = warming.state.lock().recorder.finish();
        warming.end();
        warming.keep(booted);
    }
}

impl Disk for WarmDisk {
    fn geometry(&self) -> Geometry {
        self.0.disk.geometry()
    }

    fn read(&self, range: ByteRange) -> IoFuture<'_, Buffer> {
        Box::pin(self.0.read(range))
    }

    fn write(&self, at: ByteOffset, data: Buffer, durability: Durability) -> IoFuture<'_, ()> {
        self.0.state.lock().recorder.wrote();
        self.0.disk.write(at, data, durability)
    }

    fn write_zeroes(
        &self,
        range: ByteRange,
        mode: ZeroMode,
        durability: Durability,
    ) -> IoFuture<'_, ()> {
        self.0.state.lock().recorder.wrote();
        self.0.disk.write_zeroes(range, mode, durability)
    }

    fn discard(&self, range: ByteRange) -> IoFuture<'_, ()> {
        self.0.disk.discard(range)
    }

    fn change<'a>(&'a self, change: Change, ticket: &Ticket) -> IoFuture<'a, ()> {
        if !matches!(change, Change::Discard(_)) {
            self.0.state.lock().recorder.wrote();
        }
        self.0.disk.change(change, ticket)
    }

    fn flush(&self) -> IoFuture<'_, ()> {
        self.0.disk.flush()
    }

    fn map(&self, range: ByteRange) -> IoFuture<'_, Vec<MappedRange>> {
        self.0.disk.map(range)
    }

    fn resize(&self, size_bytes: u64) -> IoFuture<'_, ()> {
        self.0.disk.resize(size_bytes)
    }

    fn file(&self) -> Option<&ImageFile> {
        self.0.disk.file()
    }

    fn version(&self, range: ByteRange) -> Option<u64> {
        self.0.disk.version(range)
    }
}
