//! One pass over all disks of a machine: read, compare or copy, send, mark.
//!
//! ```text
//!   stretches of 32 MiB ──hashes asked two ahead──▶ windows of 1 MiB
//!   window: read (io_uring) ─▶ hash, compare, compress (threads) ─▶ send
//!           └────────────── eight at once, sent in order ──────────┘
//! ```
//!
//! Holes are never read: they are zeroes.

use super::plan::{self, Piece, Theirs};
use super::report::{Passing, Report};
use super::source::OpenSource;
use futures_util::{StreamExt, TryStreamExt, stream};
use landfall_disks::ByteRange;
use landfall_protocols::delta::pack::{Compression, PackedBatch, PlainContent, pack};
use landfall_protocols::delta::wire::{
    DiskEntry, DiskState, MarkKind, Marked, PassKind, Welcome, WelcomeDisk,
};
use landfall_protocols::delta::{Client, ClientError, DiskSlot, Pass, Timestamp};
use std::cell::RefCell;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Bytes read, looked at and sent at once.
const WINDOW_BYTES: u64 = 1 << 20;
/// Bytes whose hashes are asked for at once.
const STRETCH_BYTES: u64 = 32 << 20;
/// Stretches asked for ahead of the one that is worked on.
const STRETCHES_AHEAD: usize = 2;
/// Windows under way at once.
const WINDOWS_UNDER_WAY: usize = 8;

/// A disk and the file it is read from.
#[derive(Clone, Debug)]
pub(super) struct Source {
    pub(super) disk: DiskEntry,
    pub(super) path: PathBuf,
}

/// Why a pass ended without a point.
#[derive(Debug)]
pub(super) enum PassError {
    /// The stream cannot go on, or the pass has to begin again.
    Stream(ClientError),
    /// A file cannot be read.
    Source(anyhow::Error),
}

impl From<ClientError> for PassError {
    fn from(error: ClientError) -> Self {
        Self::Stream(error)
    }
}

impl From<anyhow::Error> for PassError {
    fn from(error: anyhow::Error) -> Self {
        Self::Source(error)
    }
}

/// A point that is durable at the target.
#[derive(Clone, Debug)]
pub(super) struct Point {
    /// What the target says of it; nothing if its answer was lost in a break.
    pub(super) marked: Option<Marked>,
    pub(super) kind: MarkKind,
    pub(super) sums: Sums,
    pub(super) took: Duration,
}

/// What became of the bytes of a pass.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Sums {
    /// Bytes looked at, holes included.
    pub(super) examined: u64,
    /// Bytes of data and zeroes the target was told.
    pub(super) sent: u64,
    /// Bytes that took on the wire.
    pub(super) wire: u64,
}

/// Brings all disks up to date and marks a point. `may_copy` says that a disk the target calls empty still is.
pub(super) async fn run(
    client: &Client,
    sources: &[Source],
    may_copy: bool,
    report: &Rc<Report>,
) -> Result<Point, PassError> {
    let welcome = client.ready().await?;
    let mut open = Vec::with_capacity(sources.len());
    for source in sources {
        open.push(Rc::new(OpenSource::open(&source.path, source.disk.size_bytes).await?));
    }
    let total = sources.iter().map(|source| source.disk.size_bytes).sum();
    let empty = |disk: &WelcomeDisk| may_copy && disk.state == DiskState::Empty;
    let copies = welcome.disks.iter().all(empty);
    let kind = if copies { PassKind::Copy } else { PassKind::Compare };
    let passing = report.begin(total);
    let pass = client.begin_pass(kind, total).await?;
    for (index, (source, disk)) in open.iter().zip(&welcome.disks).enumerate() {
        let slot = DiskSlot::new(u16::try_from(index).expect("at most 64 disks"));
        disk_pass(&pass, slot, source, empty(disk), &welcome, &passing).await?;
    }
    let kind = stillness(&open, report)?;
    let marked = pass.mark(kind, "", now(), Vec::new()).await?;
    let kind = marked.map_or(kind, |marked| marked.kind);
    Ok(Point { marked, kind, sums: passing.sums(), took: passing.elapsed() })
}

/// The kind of point these files allow.
fn stillness(sources: &[Rc<OpenSource>], report: &Report) -> anyhow::Result<MarkKind> {
    let mut kind = MarkKind::Crash;
    for source in sources {
        if let Some(movement) = source.movement()? {
            report.warn(&format!("{movement}: the point is fuzzy"));
            kind = MarkKind::Fuzzy;
        }
    }
    Ok(kind)
}

fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_nanoseconds(u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
}

/// A window on its way: what it is, and what it comes to.
struct Work {
    window: ByteRange,
    hole: bool,
    theirs: Theirs,
}

/// A window that has been looked at.
struct Seen {
    window: ByteRange,
    packed: Option<(PackedBatch, u64)>,
}

async fn disk_pass(
    pass: &Pass,
    slot: DiskSlot,
    source: &Rc<OpenSource>,
    empty: bool,
    welcome: &Welcome,
    passing: &Passing,
) -> Result<(), PassError> {
    let data = source.data().await?;
    let window_bytes = window_bytes(welcome);
    let compression = if welcome.features.lz4 { Compression::Lz4 } else { Compression::Off };
    let spare = Rc::new(RefCell::new(Vec::new()));
    let stretches = stream::iter(source.whole().chunks(STRETCH_BYTES).map(|stretch| async move {
        if empty {
            return Ok::<_, PassError>((stretch, Theirs::Empty));
        }
        let (first, count) = plan::blocks_of(stretch);
        Ok((stretch, Theirs::Blocks(pass.hashes(slot, first, count).await?)))
    }))
    .buffered(STRETCHES_AHEAD);
    let windows = stretches
        .map_ok(|(stretch, theirs)| {
            let works: Vec<Work> = stretch
                .chunks(window_bytes)
                .map(|window| Work {
                    window,
                    hole: !plan::holds_data(&data, window),
                    theirs: part(&theirs, stretch, window),
                })
                .collect();
            stream::iter(works.into_iter().map(Ok::<_, PassError>))
        })
        .try_flatten();
    let mut seen = std::pin::pin!(
        windows
            .map_ok(|work| look(slot, Rc::clone(source), work, compression, Rc::clone(&spare)))
            .try_buffered(WINDOWS_UNDER_WAY)
    );
    while let Some(Seen { window, packed }) = seen.try_next().await? {
        let (sent, wire) =
            packed.as_ref().map_or((0, 0), |(batch, sent)| (*sent, batch.cost_bytes()));
        if let Some((batch, _)) = packed {
            pass.send(batch).await?;
        }
        passing.add(Sums { examined: window.length(), sent, wire });
    }
    Ok(())
}

/// The largest window a target takes, in whole blocks of the hash exchange.
fn window_bytes(welcome: &Welcome) -> u64 {
    let most = u64::from(welcome.max_batch_bytes).min(WINDOW_BYTES);
    // The protocol promises at least one block.
    1 << most.ilog2()
}

/// What is known of `window`, which lies in `stretch`.
fn part(theirs: &Theirs, stretch: ByteRange, window: ByteRange) -> Theirs {
    match theirs {
        Theirs::Empty => Theirs::Empty,
        Theirs::Blocks(blocks) => {
            let (stretch_first, _) = plan::blocks_of(stretch);
            let (first, count) = plan::blocks_of(window);
            let start = usize::try_from(first - stretch_first).expect("a stretch has few blocks");
            Theirs::Blocks(blocks[start..start + count as usize].to_vec())
        }
    }
}

/// Memory of windows that were looked at, for those to come.
type Spare = Rc<RefCell<Vec<Vec<u8>>>>;

/// Reads a window unless it is a hole, and finds what has to be sent of it.
async fn look(
    slot: DiskSlot,
    source: Rc<OpenSource>,
    work: Work,
    compression: Compression,
    spare: Spare,
) -> Result<Seen, PassError> {
    let Work { window, hole, theirs } = work;
    let time = now();
    if hole {
        let pieces = plan::differing_hole(window, &theirs);
        let packed = pack_pieces(time, slot, window, &[], &pieces, compression);
        return Ok(Seen { window, packed });
    }
    let length = usize::try_from(window.length()).expect("a window fits in memory");
    let mut memory: Vec<u8> = spare.borrow_mut().pop().unwrap_or_default();
    memory.resize(length, 0);
    let bytes = source.read(window.start().bytes(), memory).await?;
    let looking = tokio::task::spawn_blocking(move || {
        let pieces = plan::differing(window, &bytes, &theirs);
        (pack_pieces(time, slot, window, &bytes, &pieces, compression), bytes)
    });
    let (packed, bytes) = looking.await.map_err(anyhow::Error::from)?;
    spare.borrow_mut().push(bytes);
    Ok(Seen { window, packed })
}

/// The batch that carries `pieces`, and how many bytes of the disk it covers; nothing when there are none.
fn pack_pieces(
    time: Timestamp,
    slot: DiskSlot,
    window: ByteRange,
    bytes: &[u8],
    pieces: &[Piece],
    compression: Compression,
) -> Option<(PackedBatch, u64)> {
    if pieces.is_empty() {
        return None;
    }
    let extents: Vec<(ByteRange, PlainContent<'_>)> = pieces
        .iter()
        .map(|piece| {
            let content = if piece.zero {
                PlainContent::Zero
            } else {
                PlainContent::Data(plan::slice(window, bytes, piece.range))
            };
            (piece.range, content)
        })
        .collect();
    let covered = pieces.iter().map(|piece| piece.range.length()).sum();
    Some((pack(time, slot, &extents, compression), covered))
}
