//! Generates a history: through the stream, the lane and the index, as a source would, but with next to no bodies.
//!
//! ```text
//!   batch   a thousand changes of 4 KiB of one disk; half of them in its first sixteenth; one in 256 has a body
//!   mark    a point after each batch; the points lie evenly over thirty days
//! ```
//!
//! What is zeroed has an entry in the index as what is written has, so a hundred million entries take some ten gigabytes of
//! journal and not four hundred. **Invariant:** what some blocks, the *witnesses*, hold at every point is remembered here
//! and nowhere else, so what is read later is compared with what was sent.

use super::store::Store;
use anyhow::{Context, ensure};
use futures_util::future::{join_all, try_join};
use landfall_disks::{BLOCK_BYTES, BLOCK_SIZE, Block, Buffer, ByteRange};
use landfall_retention::ids::{DiskId, Generation, Position, Sequence, StreamId};
use landfall_retention::index::IndexStore;
use landfall_retention::name::Name;
use landfall_retention::point::PointKind;
use landfall_retention::time::{Clock, SystemClock, Timestamp};
use landfall_retention::{
    ImageSpec, NewDisk, NewMachine, Retention, Stream, StreamContent, StreamExtent, StreamRequest,
};
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The machine whose history it is.
pub(crate) const MACHINE: &str = "site";
/// Time the points lie over.
const SPAN: Duration = Duration::from_secs(30 * 86_400);
/// Batches under way at once.
const AT_ONCE: u64 = 8;
/// Changes of a batch, at most: the table of a record has room for 1024.
pub(super) const MAX_CHANGES: u64 = 1000;
/// Of this part of a disk, at its start, are half of the changes.
const HOT_PART: u64 = 16;
/// One block in so many is a witness.
const WITNESS_EVERY: u64 = 4096;

/// How much history there is to be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    /// Entries of the index for versions of blocks.
    pub(crate) entries: u64,
    /// Points, a batch before each.
    pub(crate) points: u64,
    /// Disks of the machine.
    pub(crate) disks: u32,
    /// Bytes of each.
    pub(crate) disk_bytes: u64,
    /// One change in so many has a body.
    pub(crate) body_every: u64,
}

/// What a witness became.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Change {
    batch: u64,
    body: bool,
}

/// A block of a disk.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Witness {
    pub(super) disk: u32,
    pub(super) block: u64,
}

/// What a generated history holds.
#[derive(Default)]
pub(crate) struct History {
    /// The point after each batch.
    pub(super) points: Vec<(Sequence, Timestamp)>,
    changes: BTreeMap<Witness, Vec<Change>>,
    entries: u64,
}

/// A history that was generated, and what it took.
pub(crate) struct Filled {
    pub(super) history: History,
    pub(super) seconds: f64,
    /// Bytes of records.
    pub(super) journal_bytes: u64,
    /// Bytes of the index, flushed.
    pub(super) index_bytes: u64,
}

impl History {
    /// The blocks whose content is known.
    pub(super) fn witnesses(&self) -> Vec<Witness> {
        self.changes.keys().copied().collect()
    }

    /// Whether `witness` was changed after the point of batch `after`, up to that of `through`.
    pub(super) fn is_changed(&self, witness: Witness, after: u64, through: u64) -> bool {
        let changes = self.changes.get(&witness).map_or(&[][..], Vec::as_slice);
        changes.iter().any(|change| change.batch > after && change.batch <= through)
    }

    /// Refuses bytes that are not what `witness` held at the point after `batch`.
    pub(super) fn check(&self, witness: Witness, batch: u64, found: &[u8]) -> anyhow::Result<()> {
        let changes = self.changes.get(&witness).map_or(&[][..], Vec::as_slice);
        let newest = changes.iter().rev().find(|change| change.batch <= batch);
        let expected = match newest {
            Some(Change { batch, body: true }) => body(*batch, witness),
            _ => vec![0; BLOCK_BYTES],
        };
        ensure!(
            *found == expected,
            "{witness:?} after batch {batch} is not what it was: {newest:?}"
        );
        Ok(())
    }
}

/// What a change with a body writes: different for every block and batch.
fn body(batch: u64, witness: Witness) -> Vec<u8> {
    let mut body = Vec::with_capacity(BLOCK_BYTES);
    while body.len() < BLOCK_BYTES {
        for number in [batch + 1, u64::from(witness.disk), witness.block, body.len() as u64] {
            body.extend_from_slice(&number.to_le_bytes());
        }
    }
    body
}

/// Numbers that look random: splitmix64.
pub(crate) struct Numbers(pub(crate) u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    /// Below `end`.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }
}

pub(crate) fn disk_name(disk: u32) -> String {
    format!("d{disk:02}")
}

fn name(text: &str) -> anyhow::Result<Name> {
    Ok(Name::parse(text)?)
}

/// Adds the machine, with empty disks that have a first point.
pub(crate) fn add_machine(store: &Store, shape: Shape) -> anyhow::Result<()> {
    let disk = |disk: u32| {
        let path = format!("{MACHINE}/{}.raw", disk_name(disk));
        let image = ImageSpec { format: "raw".into(), path, size_bytes: shape.disk_bytes };
        anyhow::Ok(NewDisk { name: name(&disk_name(disk))?, image, adopt: false })
    };
    let disks = (0..shape.disks).map(disk).collect::<anyhow::Result<_>>()?;
    let machine = NewMachine { name: name(MACHINE)?, display_name: String::new(), disks };
    let retention = Arc::clone(&store.retention);
    let adding = move || async move { retention.add_machine(machine).await };
    Ok(store.core().block_on(adding).context("the I/O core ended")??)
}

/// Opens the stream anew, as a source that holds no positions.
pub(crate) async fn open_stream(retention: &Retention, shape: Shape) -> anyhow::Result<Stream> {
    let named = |disk| anyhow::Ok((name(&disk_name(disk))?, shape.disk_bytes));
    let request = StreamRequest {
        machine: name(MACHINE)?,
        stream: StreamId::new([7; 16]),
        generation: Generation::default(),
        disks: (0..shape.disks).map(named).collect::<anyhow::Result<_>>()?,
        peer: "landfall-perf".into(),
    };
    Ok(retention.open_stream(request).await?)
}

/// Fills the machine of an open store; `say` hears how far it is.
pub(crate) fn fill(store: &Store, shape: Shape, say: fn(&str)) -> anyhow::Result<Filled> {
    let (retention, clock) = (Arc::clone(&store.retention), Arc::clone(&store.clock));
    let index = Arc::clone(&store.index);
    let filling = move || async move {
        let begun = Instant::now();
        let start = SystemClock.now().earlier(SPAN);
        let apart = SPAN / u32::try_from(shape.points + 1).unwrap_or(u32::MAX);
        let at = |batch: u64| {
            start.nanoseconds() + (batch + 1) * u64::try_from(apart.as_nanos()).unwrap_or(0)
        };
        clock.set(start);
        let stream = open_stream(&retention, shape).await?;
        let disks: Vec<DiskId> = stream.disks().iter().map(|disk| disk.id).collect();
        let first = stream.position().next();
        stream.mark(first, PointKind::Crash, None, start).await?;
        let mut filler = Filler { shape, numbers: Numbers(1), history: History::default() };
        let mut position = first;
        for batch in (0..shape.points).step_by(usize::try_from(AT_ONCE)?) {
            clock.set(Timestamp::from_nanoseconds(at(batch)));
            let mut under_way = Vec::new();
            for batch in batch..(batch + AT_ONCE).min(shape.points) {
                let (disk, extents) = filler.batch(batch);
                let (changed, marked) = (position.next(), position.next().next());
                position = marked;
                under_way.push(apply(&stream, (changed, marked), disks[disk as usize], extents));
            }
            for point in join_all(under_way).await {
                filler.history.points.push(point?);
            }
            if batch.is_multiple_of(2000) && batch > 0 {
                let entries = filler.history.entries;
                say(&format!("{entries} entries after {:.0} s", begun.elapsed().as_secs_f64()));
            }
        }
        retention.close().await?;
        let journal_bytes = retention.journal().await?.lanes.iter().map(|lane| lane.bytes).sum();
        Ok(Filled {
            history: filler.history,
            seconds: begun.elapsed().as_secs_f64(),
            journal_bytes,
            index_bytes: index.size_bytes(),
        })
    };
    store.core().block_on(filling).context("the I/O core ended")?
}

/// A batch and the mark after it; where that is. Its turn among others is taken when it is first polled.
pub(super) async fn apply(
    stream: &Stream,
    (changed, marked): (Position, Position),
    disk: DiskId,
    extents: Vec<StreamExtent>,
) -> anyhow::Result<(Sequence, Timestamp)> {
    let time = Timestamp::default();
    let (applied, marking) = (
        stream.apply(changed, disk, time, extents),
        stream.mark(marked, PointKind::Crash, None, time),
    );
    let ((), point) = try_join(applied, marking).await?;
    Ok((point.sequence, point.commit_time))
}

struct Filler {
    shape: Shape,
    numbers: Numbers,
    history: History,
}

impl Filler {
    /// The disk and the changes of a batch; no block twice.
    fn batch(&mut self, batch: u64) -> (u32, Vec<StreamExtent>) {
        let Shape { entries, points, disks, disk_bytes, body_every } = self.shape;
        let disk = u32::try_from(batch % u64::from(disks)).expect("below a number of disks");
        let blocks = disk_bytes / BLOCK_SIZE;
        let count = entries / points + u64::from(batch < entries % points);
        let mut taken = HashSet::new();
        let mut extents = Vec::new();
        while (taken.len() as u64) < count {
            let part = if self.numbers.below(2) == 0 { blocks / HOT_PART } else { blocks };
            let block = self.numbers.below(part);
            if !taken.insert(block) {
                continue;
            }
            let has_body = self.numbers.below(body_every) == 0;
            let witness = Witness { disk, block };
            if witness.block % WITNESS_EVERY == u64::from(disk) {
                let change = Change { batch, body: has_body };
                self.history.changes.entry(witness).or_default().push(change);
            }
            let content = if has_body { data(&body(batch, witness)) } else { StreamContent::Zero };
            extents.push(StreamExtent { range: range_of(block), content });
        }
        self.history.entries += count;
        (disk, extents)
    }
}

pub(super) fn range_of(block: u64) -> ByteRange {
    ByteRange::at(Block::new(block).offset(), BLOCK_SIZE).expect("disks end far below")
}

/// Bytes as a stream brings them.
pub(crate) fn data(bytes: &[u8]) -> StreamContent {
    StreamContent::Data { bytes: Buffer::copy_of(bytes), hash: *blake3::hash(bytes).as_bytes() }
}
