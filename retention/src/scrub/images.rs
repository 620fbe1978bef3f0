//! Images: blocks against what is known of them.
//!
//! ```text
//!   1 MiB ─▶ its turn (no fold writes) ─▶ blocks a fold may have begun to write: left out
//!         ─▶ read ─▶ CRC32C, BLAKE3 ─▶ as known: good ─▶ hash noted if it was not
//!                                   ├▶ not known: known from here on
//!                                   └▶ differs: a version of the journal with that checksum? written anew : damage
//! ```
//!
//! An image has a size of its own: a disk that has grown since history began is larger than its image, until that is folded.

use super::round::{Going, Round};
use super::{HealedFrom, ScrubError};
use crate::ids::{DiskId, Sequence};
use crate::image_hashes::format::GRANULE_BLOCKS;
use crate::image_hashes::{
    GRANULE_SIZE, PAGE_SPAN, Page, PageNumber, Sums, Update, block_checksum, granule_hash,
    zero_checksum,
};
use crate::leaf::{BlockPlace, LEAF_BYTES, LeafIndex, resolve};
use crate::line::Line;
use crate::manifest::integrity::{DamagedPlace, ScrubPosition};
use crate::replica::{Image, ReplicaDisk};
use landfall_disks::uring::offload;
use landfall_disks::{
    BLOCK_BYTES, BLOCK_SIZE, Block, Buffer, ByteOffset, ByteRange, Content, Disk, DiskError,
    Durability, ZeroMode,
};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Holes at least this long are passed over in one step.
const LONG_HOLE: u64 = 16 << 20;

/// A disk that is looked at.
struct Looking {
    disk: Arc<ReplicaDisk>,
    image: Arc<dyn Disk>,
}

/// What a stretch of an image turned out to be.
#[derive(Default)]
struct Compared {
    /// Blocks that differ from what is known, and the checksum that is.
    bad: Vec<(ByteRange, u32)>,
    /// Granules whose blocks are right and whose hash is not; blocks that cannot be read and of which nothing is known.
    hopeless: Vec<ByteRange>,
    /// What becomes known.
    notes: Vec<Sums>,
    noted_bytes: u64,
}

impl Round<'_> {
    pub(super) async fn images(
        &mut self,
        first: DiskId,
        from: ByteOffset,
    ) -> Result<Going, ScrubError> {
        let mut from = from;
        for disk in self.disks().into_iter().filter(|disk| disk.id() >= first) {
            if disk.id() != first {
                from = ByteOffset::new(0);
            }
            if self.image(disk, from).await? == Going::Stopped {
                return Ok(Going::Stopped);
            }
        }
        Ok(Going::On)
    }

    async fn image(
        &mut self,
        disk: Arc<ReplicaDisk>,
        from: ByteOffset,
    ) -> Result<Going, ScrubError> {
        let Image::Present(image) = disk.image() else { return Ok(Going::On) };
        let looking = Looking { disk: Arc::clone(&disk), image };
        let mut at = from;
        while at.bytes() < looking.image.geometry().size_bytes {
            let failed = |source: DiskError| ScrubError::Disk { disk: disk.name().clone(), source };
            let done = self.stretch(&looking, at, &failed).await?;
            at = done.end();
            self.move_to(ScrubPosition::Image(disk.id(), at));
            let name = format!("image of disk {}", disk.name());
            if self.step(name, done.length()).await? == Going::Stopped {
                return Ok(Going::Stopped);
            }
        }
        let mut update = disk.hashes().update().await;
        if self.order.heal {
            let stored = update.store().await;
            stored.map_err(|source| ScrubError::Disk { disk: disk.name().clone(), source })?;
        }
        drop(update);
        self.move_to(ScrubPosition::Image(disk.id().next(), ByteOffset::new(0)));
        Ok(Going::On)
    }

    /// Looks at what follows `at`; gives how much that was.
    async fn stretch(
        &mut self,
        of: &Looking,
        at: ByteOffset,
        failed: &dyn Fn(DiskError) -> ScrubError,
    ) -> Result<ByteRange, ScrubError> {
        let size_bytes = of.image.geometry().size_bytes;
        // It may stand where the image ended before it grew, in the middle of a block.
        let at = ByteOffset::new(at.bytes() / GRANULE_SIZE * GRANULE_SIZE);
        let rest = ByteRange::up_to(size_bytes).split_at(at).1;
        let hole = of.image.map(rest).await.map_err(failed)?.first().copied();
        let hole = hole.filter(|part| part.content != Content::Data).map(|part| part.range);
        if let Some(hole) = hole.filter(|hole| hole.length() >= LONG_HOLE)
            && let Some(passed) = self.long_hole(of, hole, size_bytes).await.map_err(failed)?
        {
            return Ok(passed);
        }
        let window = rest.intersection(LeafIndex::of(at).range());
        self.window(of, window, size_bytes, failed).await?;
        // Whether it was stopped meanwhile is asked for again where that can be done.
        let _ = self.pay(window.length(), &|| 0).await;
        Ok(window)
    }

    /// Passes over a hole of which nothing is noted, or that it is zero.
    async fn long_hole(
        &mut self,
        of: &Looking,
        hole: ByteRange,
        size_bytes: u64,
    ) -> Result<Option<ByteRange>, DiskError> {
        let mut update = of.disk.hashes().update().await;
        let known = update.without_pages(hole).await?;
        if known.length() < LONG_HOLE {
            return Ok(None);
        }
        if self.order.heal && update.zero_pages() <= PageNumber::of(known.end()) {
            update.take(&[Sums::zeroes(known, size_bytes)]).await?;
            update.pass(known, size_bytes).await?;
            update.settle().await?;
        }
        Ok(Some(known))
    }

    async fn window(
        &mut self,
        of: &Looking,
        window: ByteRange,
        size_bytes: u64,
        failed: &dyn Fn(DiskError) -> ScrubError,
    ) -> Result<(), ScrubError> {
        let mut update = of.disk.hashes().update().await;
        // Nobody folds while this is held.
        let left_out = self.left_out(of, window).await.map_err(failed)?;
        let (bytes, unreadable) = read_window(&*of.image, window).await.map_err(failed)?;
        let pages = self.pages(&mut update, window).await.map_err(failed)?;
        let window_of = Window { range: window, pages, left_out, unreadable, size_bytes };
        let compared = offload(move || {
            let compared = compare(&window_of, &bytes);
            drop(bytes);
            compared
        })
        .await;
        self.found.image_bytes += window.length();
        if self.order.heal {
            update.take(&compared.notes).await.map_err(failed)?;
            update.pass(window, size_bytes).await.map_err(failed)?;
            update.settle().await.map_err(failed)?;
            self.found.noted_bytes += compared.noted_bytes;
        }
        let mut still = compared.hopeless;
        let mut healed = Vec::new();
        for (block, checksum) in compared.bad {
            match self.heal_block(of, block, checksum).await? {
                Some(from) => healed.push((block, from)),
                None => still.push(block),
            }
        }
        drop(update);
        for (block, from) in healed {
            let (start, length) = (block.start(), block.length());
            self.healed(DamagedPlace::Image { disk: of.disk.id(), start, length }, from);
        }
        still.sort_by_key(|range| range.start());
        self.note(of, window, super::healing::runs(&still));
        Ok(())
    }

    /// Notes what is damaged in a window, and that nothing else is.
    fn note(&mut self, of: &Looking, window: ByteRange, still: Vec<ByteRange>) {
        let id = of.disk.id();
        let place = |range: &ByteRange| {
            let (start, length) = (range.start(), range.length());
            DamagedPlace::Image { disk: id, start, length }
        };
        let still: BTreeSet<_> = still.iter().map(place).collect();
        let looked_at = |place: &DamagedPlace| match place {
            DamagedPlace::Image { disk, .. } => {
                *disk == id && place.range().is_some_and(|range| window.contains(range))
            }
            _ => false,
        };
        self.look_again(looked_at, &still);
        still.into_iter().for_each(|place| self.damaged(place));
    }

    /// The trunk that images are folded from now: another one after a promotion.
    pub(super) fn trunk_of(&self, disk: &ReplicaDisk) -> Option<Arc<Line>> {
        let state = self.retention.manifest.state();
        self.retention.line(state.machines.get(&disk.machine())?.trunk)
    }

    /// Blocks that a fold may have begun to write: those with a version above the floor and up to the start of history.
    async fn left_out(&self, of: &Looking, window: ByteRange) -> Result<Vec<bool>, DiskError> {
        let blocks = usize::try_from(window.length().div_ceil(BLOCK_SIZE)).expect("1 MiB");
        let nothing = vec![false; blocks];
        let Some(trunk) = self.trunk_of(&of.disk) else { return Ok(nothing) };
        let floor = of.disk.floor().unwrap_or_default();
        let start = trunk.start().map_or(Sequence::default(), |start| start.sequence);
        if start <= floor {
            return Ok(nothing);
        }
        let layers = trunk.layers(start);
        let index = Arc::clone(&self.retention.surroundings.index);
        let (disk, leaf) = (of.disk.id(), LeafIndex::of(window.start()));
        let resolved = offload(move || resolve(&*index, &layers, || floor, disk, leaf)).await;
        let leaf = resolved.map_err(|error| DiskError::Failed(error.to_string()))?;
        let first = window.start().block().index();
        let written =
            |block: usize| leaf.place(Block::new(first + block as u64)) != BlockPlace::Image;
        Ok((0..blocks).map(written).collect())
    }

    async fn pages(
        &self,
        update: &mut Update<'_>,
        window: ByteRange,
    ) -> Result<BTreeMap<PageNumber, Box<Page>>, DiskError> {
        let mut pages = BTreeMap::new();
        let first = PageNumber::of(window.start()).number();
        let last = (window.end().bytes() - 1) / PAGE_SPAN;
        for number in (first..=last).map(PageNumber::new) {
            pages.insert(number, update.look(number).await?);
        }
        Ok(pages)
    }

    /// Writes a block anew whose content is still to be had.
    async fn heal_block(
        &self,
        of: &Looking,
        block: ByteRange,
        checksum: u32,
    ) -> Result<Option<HealedFrom>, ScrubError> {
        if !self.order.heal {
            return Ok(None);
        }
        let written = if checksum == zero_checksum() {
            let zeroed = of.image.write_zeroes(block, ZeroMode::Unmap, Durability::Durable).await;
            zeroed.map(|()| HealedFrom::Zeroes)
        } else {
            let found = self.plain_block(&of.disk, block, checksum).await?;
            let Some(mut bytes) = found else { return Ok(None) };
            bytes.narrow(0..usize::try_from(block.length()).expect("a block"));
            let written = of.image.write(block.start(), bytes, Durability::Durable).await;
            written.map(|()| HealedFrom::Journal)
        };
        self.retention.reading.cache.image_changed(of.disk.id(), block);
        let from = match written {
            Ok(from) => from,
            Err(error) => {
                tracing::error!(%error, disk = %of.disk.name(), "what is damaged cannot be written anew");
                return Ok(None);
            }
        };
        let read = of.image.read(block).await;
        Ok(read.is_ok_and(|read| block_checksum(&read) == checksum).then_some(from))
    }
}

/// Reads a window. What the medium does not give is zero in it, and named.
async fn read_window(
    image: &dyn Disk,
    window: ByteRange,
) -> Result<(Buffer, BTreeSet<Block>), DiskError> {
    let is_medium = |error: &DiskError| {
        matches!(error, DiskError::Damaged { .. } | DiskError::Unknown { .. } | DiskError::File(_))
    };
    match image.read(window).await {
        Err(error) if is_medium(&error) => {}
        read => return Ok((read?, BTreeSet::new())),
    }
    let mut bytes = Buffer::zeroed(usize::try_from(window.length()).expect("1 MiB"));
    let mut unreadable = BTreeSet::new();
    for block in window.chunks(BLOCK_SIZE) {
        let at = usize::try_from(block.start().bytes() - window.start().bytes()).expect("1 MiB");
        match image.read(block).await {
            Ok(read) => bytes[at..at + read.len()].copy_from_slice(&read),
            Err(error) if is_medium(&error) => {
                unreadable.insert(block.start().block());
            }
            Err(error) => return Err(error),
        }
    }
    Ok((bytes, unreadable))
}

/// A stretch of an image, and what is known of it.
struct Window {
    range: ByteRange,
    pages: BTreeMap<PageNumber, Box<Page>>,
    /// Per block: a fold may have begun to write it.
    left_out: Vec<bool>,
    unreadable: BTreeSet<Block>,
    size_bytes: u64,
}

/// Holds a window against what is known of it.
fn compare(window: &Window, bytes: &[u8]) -> Compared {
    let mut compared = Compared::default();
    for granule in window.range.chunks(GRANULE_SIZE) {
        let from = granule.start().bytes() - window.range.start().bytes();
        let from = usize::try_from(from).expect("1 MiB");
        let bytes = &bytes[from..from + usize::try_from(granule.length()).expect("64 KiB")];
        compare_granule(&mut compared, window, granule, bytes);
    }
    compared
}

fn compare_granule(compared: &mut Compared, window: &Window, granule: ByteRange, bytes: &[u8]) {
    let number = PageNumber::of(granule.start());
    let page = &window.pages[&number];
    let in_page = (granule.start().bytes() - number.range().start().bytes()) / GRANULE_SIZE;
    let in_page = usize::try_from(in_page).expect("below 40");
    let skip = (granule.start().bytes() - window.range.start().bytes()) / BLOCK_SIZE;
    let left_out = &window.left_out[usize::try_from(skip).expect("below 256")..];
    let (mut unknown, mut skipped, mut bad) = (0, false, false);
    for (at, block) in bytes.chunks(BLOCK_BYTES).enumerate() {
        if left_out[at] {
            skipped = true;
            continue;
        }
        let start = ByteOffset::new(granule.start().bytes() + at as u64 * BLOCK_SIZE);
        let range = ByteRange::at(start, block.len() as u64).expect("on the disk");
        let readable = !window.unreadable.contains(&start.block());
        match page.checksum(in_page * GRANULE_BLOCKS + at) {
            Some(known) if readable && known == block_checksum(block) => {}
            Some(known) => {
                compared.bad.push((range, known));
                bad = true;
            }
            None if readable => unknown += block.len() as u64,
            None => {
                compared.hopeless.push(range);
                bad = true;
            }
        }
    }
    if skipped || bad {
        return;
    }
    match page.hash(in_page) {
        Some(hash) if hash != granule_hash(bytes) => compared.hopeless.push(granule),
        Some(_) => {}
        None => {
            compared.notes.push(Sums::of(granule.start(), bytes, window.size_bytes));
            compared.noted_bytes += unknown;
        }
    }
}

const _: () = assert!(LEAF_BYTES.is_multiple_of(GRANULE_SIZE));
