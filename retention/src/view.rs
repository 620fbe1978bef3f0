//! Views: a disk as it is at one moment of a line, or at the line's head.
//!
//! ```text
//!   read ─▶ leaves ─▶ runs of blocks that lie together ─▶ journal │ image │ zero ─▶ checksums ─▶ one buffer
//! ```
//!
//! Opening a view costs nothing: leaves are resolved when they are read, and kept. **Invariants:** a block from the
//! journal is returned only if its checksum matches, and if it is sealed, its tag; a block whose content is not known is an
//! error, never zeroes.

use crate::ids::Sequence;
use crate::image_hashes::ImageHashes;
use crate::index::IndexError;
use crate::leaf::{BlockPlace, LEAF_BYTES, Layer, Leaf, LeafIndex, next_written_leaf, resolve};
use crate::lease::Lease;
use crate::line::Line;
use crate::read_cache::CachePlace;
use crate::reading::Reading;
use crate::rebuild::NotIndexed;
use crate::replica::{Image, ReplicaDisk};
use crate::runs::{Run, add_block};
use futures_util::future::{join, try_join_all};
use landfall_disks::uring::offload;
use landfall_disks::{
    BLOCK_BYTES, BLOCK_SIZE, Block, Buffer, ByteOffset, ByteRange, Content, Disk, DiskError,
    Geometry, IoFuture, MappedRange,
};
use std::sync::Arc;

/// Most runs of a request that are read at the same time.
const RUNS_AT_ONCE: usize = 64;

/// Which moment of its line a view shows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Showing {
    /// Always the same.
    Fixed(Sequence),
    /// Whatever was acknowledged.
    Head,
}

impl Showing {
    /// The newest moment that counts.
    pub(crate) fn newest(self) -> Sequence {
        match self {
            Self::Fixed(sequence) => sequence,
            Self::Head => Sequence::MAX,
        }
    }
}

/// A disk at a moment, read-only.
pub(crate) struct View {
    reading: Arc<Reading>,
    disk: Arc<ReplicaDisk>,
    line: Arc<Line>,
    showing: Showing,
    /// What the disk has at that moment.
    size_bytes: u64,
    /// Whether reads look only at what is stored.
    past_cache: bool,
    /// Keeps the moment while it is open.
    _lease: Option<Lease>,
}

impl View {
    pub(crate) fn new(
        reading: Arc<Reading>,
        disk: Arc<ReplicaDisk>,
        line: Arc<Line>,
        showing: Showing,
    ) -> Self {
        let size_bytes = disk.size_in(&line.place(showing.newest()));
        Self { reading, disk, line, showing, size_bytes, past_cache: false, _lease: None }
    }

    /// The view, which reads what is stored, whatever memory has of it: for those who look for what is damaged.
    pub(crate) fn past_cache(self) -> Self {
        Self { past_cache: true, ..self }
    }

    /// The view, which keeps its moment as long as it lives.
    pub(crate) fn holding(self, lease: Lease) -> Self {
        Self { _lease: Some(lease), ..self }
    }

    pub(crate) fn line(&self) -> &Arc<Line> {
        &self.line
    }

    /// Size of the disk at its moment.
    pub(crate) fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    pub(crate) fn disk(&self) -> &Arc<ReplicaDisk> {
        &self.disk
    }

    /// What is read through, and the newest moment of the line that counts.
    pub(crate) fn looks(&self) -> (&Arc<Reading>, Sequence) {
        (&self.reading, self.showing.newest())
    }

    fn layers(&self) -> Vec<Layer> {
        self.line.layers(self.showing.newest())
    }

    async fn leaf(&self, index: LeafIndex) -> Result<Arc<Leaf>, DiskError> {
        match self.showing {
            Showing::Fixed(sequence) => {
                let key = (self.line.id(), sequence, self.disk.id(), index);
                if let Some(leaf) = self.reading.leaves.get(&key) {
                    return Ok(leaf);
                }
                let leaf = self.resolve(index).await?;
                self.reading.leaves.insert(key, Arc::clone(&leaf));
                Ok(leaf)
            }
            Showing::Head => {
                let head = &self.line.head;
                if let Some(leaf) = head.get_or_begin(self.disk.id(), index) {
                    return Ok(leaf);
                }
                let fill = Fill { view: self, index, resolved: None };
                fill.finish(self.resolve(index).await)
            }
        }
    }

    async fn resolve(&self, leaf: LeafIndex) -> Result<Arc<Leaf>, DiskError> {
        let index = Arc::clone(&self.reading.index);
        self.check_indexed(leaf.range())?;
        let (layers, disk) = (self.layers(), Arc::clone(&self.disk));
        let resolved = offload(move || {
            let floor = || disk.floor().unwrap_or_default();
            resolve(&*index, &layers, floor, disk.id(), leaf)
        });
        resolved.await.map(Arc::new).map_err(|error| index_failed(leaf.range(), &error))
    }

    /// Nobody is given a view of a line that the index lacks something of: this is should it happen all the same.
    pub(crate) fn check_indexed(&self, range: ByteRange) -> Result<(), DiskError> {
        let what = |lacks: NotIndexed| DiskError::Unknown { range, what: lacks.to_string() };
        self.line.check_indexed().map_err(what)
    }

    /// The runs that make up `range` (whole blocks), in order. Where blocks lie may have changed when it returns; whoever
    /// wants to read them reads through the view.
    pub(crate) async fn runs_of(
        &self,
        range: ByteRange,
    ) -> Result<Vec<(ByteRange, Run)>, DiskError> {
        let _turn = self.reading.turns.begin();
        self.check_open()?;
        self.runs(range).await
    }

    /// The runs that make up `range` (whole blocks), in order.
    async fn runs(&self, range: ByteRange) -> Result<Vec<(ByteRange, Run)>, DiskError> {
        let mut runs: Vec<(ByteRange, Run)> = Vec::new();
        for piece in range.chunks(LEAF_BYTES) {
            let leaf = self.leaf(LeafIndex::of(piece.start())).await?;
            for block in piece.start().block().index()..piece.end().block().index() {
                let block = Block::new(block);
                add_block(&mut runs, block, leaf.place(block), leaf.seal(block));
            }
        }
        Ok(runs)
    }

    async fn read_range(&self, range: ByteRange) -> Result<Buffer, DiskError> {
        DiskError::check_range(&self.geometry(), range)?;
        let whole = range.widen(BLOCK_SIZE);
        let mut buffer = self.read_blocks(whole).await?;
        let skip = length(range.start().bytes() - whole.start().bytes());
        buffer.narrow(skip..skip + length(range.length()));
        Ok(buffer)
    }

    /// Reads whole blocks, the last one beyond the end of the disk, too: what it had grown by since it was opened, or zeroes.
    pub(crate) async fn read_blocks(&self, whole: ByteRange) -> Result<Buffer, DiskError> {
        let _turn = self.reading.turns.begin();
        self.check_open()?;
        let buffer = match self.read_whole(whole).await {
            // Its places were resolved before a fold, perhaps, and the image has by now what is damaged there.
            Err(DiskError::Damaged { .. }) => {
                self.drop_leaves(whole);
                self.read_whole(whole).await?
            }
            read => read?,
        };
        // The index forgets a discarded line after it was closed: what was resolved since must not be believed.
        self.check_open()?;
        Ok(buffer)
    }

    /// Reads whole blocks, from the cache if it has all of them.
    async fn read_whole(&self, whole: ByteRange) -> Result<Buffer, DiskError> {
        let cache = &self.reading.cache;
        if self.past_cache || !cache.takes(whole) {
            return self.read_stored(whole, self.runs(whole).await?).await;
        }
        let cached = self.read_cached(whole).await?;
        cache.count(cached.is_some());
        if let Some(bytes) = cached {
            return Ok(bytes);
        }
        let (beginning, runs) = (cache.begin(self.disk.id()), self.runs(whole).await?);
        let places = self.places(&runs);
        let bytes = self.read_stored(whole, runs).await?;
        let found = places.into_iter().zip(bytes.chunks(BLOCK_BYTES));
        let found = found.filter_map(|(place, bytes)| Some((place?, bytes)));
        cache.keep(beginning, found.filter(|(place, bytes)| self.is_proven(place, bytes)));
        Ok(bytes)
    }

    /// Reads whole blocks from where they are stored.
    async fn read_stored(
        &self,
        whole: ByteRange,
        runs: Vec<(ByteRange, Run)>,
    ) -> Result<Buffer, DiskError> {
        if let [(_, Run::Image)] = runs.as_slice() {
            self.read_image(whole).await
        } else {
            self.read_runs(whole, runs).await
        }
    }

    /// Whole blocks, if all of them are zeroes or in the cache.
    async fn read_cached(&self, whole: ByteRange) -> Result<Option<Buffer>, DiskError> {
        let mut bytes: Option<Buffer> = None;
        let mut at = 0;
        for piece in whole.chunks(LEAF_BYTES) {
            let leaf = self.leaf(LeafIndex::of(piece.start())).await?;
            for block in piece.start().block().index()..piece.end().block().index() {
                let block = Block::new(block);
                let place = match leaf.place(block) {
                    BlockPlace::Zero => None,
                    BlockPlace::Lost => return Ok(None),
                    BlockPlace::Image => Some(CachePlace::Image { disk: self.disk.id(), block }),
                    BlockPlace::Journal { segment, unit, checksum } => {
                        Some(CachePlace::Journal { segment, unit, checksum })
                    }
                };
                let cached = place.map(|place| self.reading.cache.get(&place));
                let buffer = || Buffer::for_overwriting(length(whole.length()));
                match cached {
                    Some(None) => return Ok(None),
                    Some(Some(cached)) => bytes.get_or_insert_with(buffer)[at..at + BLOCK_BYTES]
                        .copy_from_slice(&cached),
                    None => bytes.get_or_insert_with(buffer)[at..at + BLOCK_BYTES].fill(0),
                }
                at += BLOCK_BYTES;
            }
        }
        Ok(bytes)
    }

    /// Whether a block is known to be what its place was told to hold. Those of the journal were checked when they were read.
    fn is_proven(&self, place: &CachePlace, bytes: &[u8]) -> bool {
        match place {
            CachePlace::Journal { .. } => true,
            CachePlace::Image { block, .. } => {
                self.disk.checked_by().is_some_and(|hashes| hashes.proves(*block, bytes))
            }
        }
    }

    /// Where the cache keeps the blocks of runs, of each that it can keep.
    fn places(&self, runs: &[(ByteRange, Run)]) -> Vec<Option<CachePlace>> {
        let disk = self.disk.id();
        let mut places = Vec::new();
        for (range, run) in runs {
            let blocks = range.start().block().index()..range.end().block().index();
            match run {
                Run::Zero | Run::Lost => places.extend(blocks.map(|_| None)),
                Run::Image => places.extend(
                    blocks.map(|block| Some(CachePlace::Image { disk, block: Block::new(block) })),
                ),
                Run::Journal { segment, unit, checksums, .. } => {
                    let places_of = (*unit..).zip(checksums).map(|(unit, checksum)| {
                        let (segment, checksum) = (*segment, *checksum);
                        Some(CachePlace::Journal { segment, unit, checksum })
                    });
                    places.extend(places_of);
                }
            }
        }
        places
    }

    /// Has the places of what lies in `range` be resolved anew.
    fn drop_leaves(&self, range: ByteRange) {
        for piece in range.chunks(LEAF_BYTES) {
            let (disk, index) = (self.disk.id(), LeafIndex::of(piece.start()));
            match self.showing {
                Showing::Fixed(sequence) => {
                    self.reading.leaves.remove(&(self.line.id(), sequence, disk, index));
                }
                Showing::Head => self.line.head.drop_one(disk, index),
            }
        }
    }

    pub(crate) fn check_open(&self) -> Result<(), DiskError> {
        let gone = match self.showing {
            Showing::Fixed(sequence) => self.line.is_gone(sequence),
            Showing::Head => self.line.is_closed(),
        };
        if gone {
            return Err(DiskError::Gone("its branch was discarded or its machine removed".into()));
        }
        Ok(())
    }

    async fn read_runs(
        &self,
        whole: ByteRange,
        runs: Vec<(ByteRange, Run)>,
    ) -> Result<Buffer, DiskError> {
        // Every run overwrites its part, or the read fails.
        let mut rest = Buffer::for_overwriting(length(whole.length()));
        let mut parts = Vec::with_capacity(runs.len());
        for (range, run) in runs {
            let tail = rest.split_off(length(range.length()));
            parts.push((range, run, rest));
            rest = tail;
        }
        let mut filled: Option<Buffer> = None;
        let mut parts = parts.into_iter().peekable();
        while parts.peek().is_some() {
            let some = parts.by_ref().take(RUNS_AT_ONCE);
            let reads = some.map(|(range, run, into)| self.read_run(range, run, into));
            for part in try_join_all(reads).await? {
                match &mut filled {
                    Some(head) => head.unsplit(part),
                    None => filled = Some(part),
                }
            }
        }
        Ok(filled.unwrap_or(rest))
    }

    async fn read_run(
        &self,
        range: ByteRange,
        run: Run,
        mut into: Buffer,
    ) -> Result<Buffer, DiskError> {
        match run {
            Run::Zero => {
                into.fill(0);
                Ok(into)
            }
            Run::Lost => Err(DiskError::Damaged {
                range,
                what: "a record that may have changed it was lost to media damage".into(),
            }),
            Run::Image => {
                let image = self.read_image(range).await?;
                into.copy_from_slice(&image);
                Ok(into)
            }
            Run::Journal { segment, unit, checksums, seals } => {
                let (of, place) = ((self.disk.id(), range), (segment, unit));
                self.reading.read_journal(of, place, &checksums, &seals, into).await
            }
        }
    }

    /// Reads whole blocks from the image; what lies beyond its end is zero.
    async fn read_image(&self, range: ByteRange) -> Result<Buffer, DiskError> {
        let image = match self.disk.image() {
            Image::Present(image) => image,
            Image::Lost(reason) => {
                return Err(DiskError::Unknown {
                    range,
                    what: format!("the image of disk {} is lost ({reason})", self.disk.name()),
                });
            }
        };
        // It may be smaller than the disk is: what lies beyond was never folded into it.
        let image_bytes = image.geometry().size_bytes;
        if range.start().bytes() >= image_bytes {
            return Ok(Buffer::zeroed(length(range.length())));
        }
        let inside = ByteRange::up_to(image_bytes).intersection(range);
        let mut bytes = match self.disk.checked_by() {
            Some(hashes) => self.read_checked(&*image, hashes, inside).await?,
            None => image.read(inside).await?,
        };
        if inside.length() < range.length() {
            let mut padded = Buffer::zeroed(length(range.length()));
            padded[..bytes.len()].copy_from_slice(&bytes);
            bytes = padded;
        }
        Ok(bytes)
    }

    /// Reads from the image what it was told to hold, or fails.
    async fn read_checked(
        &self,
        image: &dyn Disk,
        hashes: &ImageHashes,
        range: ByteRange,
    ) -> Result<Buffer, DiskError> {
        let bytes = if hashes.has_cached(range) {
            image.read(range).await?
        } else {
            join(image.read(range), hashes.prefetch(range)).await.0?
        };
        match hashes.mismatch(range, &bytes).await {
            None => Ok(bytes),
            Some(block) => Err(DiskError::Damaged {
                range: block,
                what: format!("image of disk {}: checksum does not match", self.disk.name()),
            }),
        }
    }

    async fn map_range(&self, range: ByteRange) -> Result<Vec<MappedRange>, DiskError> {
        DiskError::check_range(&self.geometry(), range)?;
        if range.is_empty() {
            return Ok(Vec::new());
        }
        let _turn = self.reading.turns.begin();
        self.check_open()?;
        self.check_indexed(range)?;
        let first = LeafIndex::of(range.start());
        let next = {
            let (index, layers) = (Arc::clone(&self.reading.index), self.layers());
            let disk = self.disk.id();
            let found = offload(move || next_written_leaf(&*index, &layers, disk, first)).await;
            found.map_err(|error| index_failed(range, &error))?
        };
        // Before the next leaf that was ever written, the image alone decides.
        let untouched = match next {
            None => range,
            Some(next) if next == first => return self.map_leaf(range, first).await,
            Some(next) => range.intersection(ByteRange::up_to(next.range().start().bytes())),
        };
        self.map_image(untouched).await
    }

    async fn map_leaf(
        &self,
        range: ByteRange,
        leaf: LeafIndex,
    ) -> Result<Vec<MappedRange>, DiskError> {
        let range = range.intersection(leaf.range());
        let mut mapped = Vec::new();
        for (piece, run) in self.runs(range.widen(BLOCK_SIZE)).await? {
            let piece = piece.intersection(range);
            match run {
                Run::Zero => push(&mut mapped, piece, Content::Zero),
                Run::Journal { .. } | Run::Lost => push(&mut mapped, piece, Content::Data),
                Run::Image => {
                    let mut rest = piece;
                    while !rest.is_empty() {
                        let part = self.map_image(rest).await?;
                        let end = part.last().map_or(rest.end(), |last| last.range.end());
                        part.iter().for_each(|p| push(&mut mapped, p.range, p.content));
                        rest = rest.split_at(end).1;
                    }
                }
            }
        }
        Ok(mapped)
    }

    /// What the image has of `range`, or of a prefix of it.
    pub(crate) async fn map_image(&self, range: ByteRange) -> Result<Vec<MappedRange>, DiskError> {
        match self.disk.image() {
            Image::Present(image) => map_with_end(&*image, range).await,
            // Reading it will say what is wrong; it must not pass for a hole.
            Image::Lost(_) => Ok(vec![MappedRange { range, content: Content::Data }]),
        }
    }
}

/// What an image knows of `range`; beyond its end there is nothing.
async fn map_with_end(image: &dyn Disk, range: ByteRange) -> Result<Vec<MappedRange>, DiskError> {
    let end = ByteOffset::new(image.geometry().size_bytes).clamp(range.start(), range.end());
    let (inside, beyond) = range.split_at(end);
    let mut mapped = if inside.is_empty() { Vec::new() } else { image.map(inside).await? };
    if mapped.last().map_or(inside.start(), |last| last.range.end()) == inside.end() {
        push(&mut mapped, beyond, Content::Hole);
    }
    Ok(mapped)
}

/// Ends the fill of a head leaf even when the reader is dropped half-way.
struct Fill<'a> {
    view: &'a View,
    index: LeafIndex,
    resolved: Option<Arc<Leaf>>,
}

impl Fill<'_> {
    fn finish(mut self, resolved: Result<Arc<Leaf>, DiskError>) -> Result<Arc<Leaf>, DiskError> {
        let leaf = resolved?;
        self.resolved = Some(Arc::clone(&leaf));
        Ok(leaf)
    }
}

impl Drop for Fill<'_> {
    fn drop(&mut self) {
        let disk = self.view.disk.id();
        self.view.line.head.filled(disk, self.index, self.resolved.as_ref());
    }
}

fn push(mapped: &mut Vec<MappedRange>, range: ByteRange, content: Content) {
    if range.is_empty() {
        return;
    }
    match mapped.last_mut() {
        Some(last) if last.content == content && last.range.end() == range.start() => {
            last.range = ByteRange::new(last.range.start(), range.end()).expect("in order");
        }
        _ => mapped.push(MappedRange { range, content }),
    }
}

fn length(bytes: u64) -> usize {
    usize::try_from(bytes).expect("requests are limited far below")
}

pub(crate) fn index_failed(range: ByteRange, error: &IndexError) -> DiskError {
    DiskError::Damaged { range, what: error.to_string() }
}

impl Disk for View {
    fn geometry(&self) -> Geometry {
        Geometry {
            size_bytes: self.size_bytes,
            logical_sector: 512,
            physical_sector: 4096,
            read_only: true,
        }
    }

    fn read(&self, range: ByteRange) -> IoFuture<'_, Buffer> {
        Box::pin(self.read_range(range))
    }

    fn flush(&self) -> IoFuture<'_, ()> {
        Box::pin(async { Ok(()) })
    }

    fn map(&self, range: ByteRange) -> IoFuture<'_, Vec<MappedRange>> {
        Box::pin(self.map_range(range))
    }

    fn version(&self, range: ByteRange) -> Option<u64> {
        self.check_open().ok()?;
        Some(match self.showing {
            Showing::Fixed(_) => 0,
            Showing::Head => self.line.head.version(range),
        })
    }
}
