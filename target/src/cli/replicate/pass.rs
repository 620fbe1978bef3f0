//! One pass over all disks of a machine: read, compare or copy, send, mark.
//!
//! ```text
//!   stretches of 32 MiB ──hashes asked two ahead──▶ windows of 1 MiB
//!   window: read (io_uring) ─▶ hash, compare, compress (threads) ─▶ send
//!           └────────────── eight at once, sent in order ──────────┘
//! ```
//!
//! Holes are never read: they are zeroes. Of an image that stands on what the target holds, only what the images above have of
//! their own is read, and nothing is asked.

use super::chain::Change;
use super::plan::{self, Piece, Theirs};
use super::report::{Passing, Report};
use super::source::{OpenSource, SourceEngine, SourceFile};
use super::way::{Held, Way};
use futures_util::{Stream, StreamExt, TryStreamExt, stream};
use landfall_disks::ByteRange;
use landfall_protocols::delta::pack::{Compression, PackedBatch, PlainContent, pack};
use landfall_protocols::delta::wire::{DiskEntry, DiskState, MarkKind, Marked, PassKind, Welcome};
use landfall_protocols::delta::{Client, ClientError, ContentId, DiskSlot, Pass, Timestamp};
use std::cell::RefCell;
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
    pub(super) file: SourceFile,
}

/// What may be believed of what the target holds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Known {
    /// What it said when it welcomed the stream: nothing was sent since.
    Welcomed,
    /// It was told what it holds when the last pass was marked; nothing was sent since.
    Marked(Vec<Option<ContentId>>),
    /// A pass was begun since and not completed.
    Nothing,
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
    /// How it was found what to send, for disks that stand on others: one line each.
    pub(super) ways: Vec<String>,
    /// What the target holds now.
    pub(super) contents: Vec<Option<ContentId>>,
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

/// What a pass goes by: sources, the engine that reads images, and what is known of the target.
pub(super) struct Plan<'a> {
    pub(super) sources: &'a [Source],
    pub(super) engine: &'a SourceEngine,
    pub(super) known: Known,
}

/// Brings all disks up to date and marks a point.
pub(super) async fn run(
    client: &Client,
    plan: &Plan<'_>,
    report: &Rc<Report>,
) -> Result<Point, PassError> {
    let welcome = client.ready().await?;
    let mut open = Vec::with_capacity(plan.sources.len());
    let mut ways = Vec::new();
    for (index, source) in plan.sources.iter().enumerate() {
        let size_bytes = source.disk.size_bytes;
        let opened = OpenSource::open(&source.file, size_bytes, plan.engine).await?;
        let way = Way::choose(&opened, plan.held(&welcome, index)).await?;
        open.push((Rc::new(opened), way));
    }
    for (source, (_, way)) in plan.sources.iter().zip(&open) {
        ways.extend(way.in_words(&source.disk.name));
    }
    let bytes = |(source, way): (&Source, &Way)| way.bytes(source.disk.size_bytes);
    let total = plan.sources.iter().zip(open.iter().map(|(_, way)| way)).map(bytes).sum();
    let copies = open.iter().all(|(_, way)| matches!(way, Way::Copy));
    let kind = if copies { PassKind::Copy } else { PassKind::Compare };
    let passing = report.begin(total);
    let pass = client.begin_pass(kind, total).await?;
    if client.ready().await?.generation != welcome.generation {
        // What was chosen rests on a word that no longer holds.
        return Err(ClientError::PositionLost.into());
    }
    for (index, (source, way)) in open.iter().enumerate() {
        let slot = DiskSlot::new(u16::try_from(index).expect("at most 64 disks"));
        let size_bytes = plan.sources[index].disk.size_bytes;
        let disk = DiskPass { pass: &pass, slot, source, size_bytes, welcome: &welcome };
        match way {
            Way::Copy => disk.scan(true, &passing).await?,
            Way::Compare { .. } => disk.scan(false, &passing).await?,
            Way::Chain(changes) => disk.changes(changes, &passing).await?,
        }
    }
    let kind = stillness(&open, report)?;
    let consistent = kind != MarkKind::Fuzzy;
    let contents: Vec<_> =
        open.iter().map(|(source, _)| source.content().filter(|_| consistent)).collect();
    let marked = pass.mark(kind, "", now(), contents.clone()).await?;
    let kind = marked.map_or(kind, |marked| marked.kind);
    let (sums, took) = (passing.sums(), passing.elapsed());
    Ok(Point { marked, kind, sums, took, ways, contents })
}

impl Plan<'_> {
    /// What the target holds of a disk, as far as that may be believed.
    fn held(&self, welcome: &Welcome, index: usize) -> Held {
        match &self.known {
            Known::Welcomed => Held {
                empty: welcome.disks[index].state == DiskState::Empty,
                content: welcome.disks[index].content,
            },
            Known::Marked(contents) => Held { empty: false, content: contents[index] },
            Known::Nothing => Held { empty: false, content: None },
        }
    }
}

/// The kind of point these files allow.
fn stillness(sources: &[(Rc<OpenSource>, Way)], report: &Report) -> anyhow::Result<MarkKind> {
    let mut kind = MarkKind::Crash;
    for (source, _) in sources {
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

/// The pass over one disk.
struct DiskPass<'a> {
    pass: &'a Pass,
    slot: DiskSlot,
    source: &'a Rc<OpenSource>,
    size_bytes: u64,
    welcome: &'a Welcome,
}

impl DiskPass<'_> {
    /// All of the disk: copied if the target's is `empty`, else compared.
    async fn scan(&self, empty: bool, passing: &Passing) -> Result<(), PassError> {
        let data = self.source.data().await?;
        let window_bytes = window_bytes(self.welcome);
        let whole = ByteRange::up_to(self.size_bytes);
        let (pass, slot) = (self.pass, self.slot);
        let stretches = stream::iter(whole.chunks(STRETCH_BYTES).map(|stretch| async move {
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
        self.send(windows, passing).await
    }

    /// What is known to have changed, and nothing else.
    async fn changes(&self, changes: &[Change], passing: &Passing) -> Result<(), PassError> {
        let works = works(changes, window_bytes(self.welcome));
        self.send(stream::iter(works.map(Ok)), passing).await
    }

    /// Looks at windows, several at once, and sends what is found in their order.
    async fn send(
        &self,
        windows: impl Stream<Item = Result<Work, PassError>>,
        passing: &Passing,
    ) -> Result<(), PassError> {
        let lz4 = self.welcome.features.lz4;
        let compression = if lz4 { Compression::Lz4 } else { Compression::Off };
        let spare = Rc::new(RefCell::new(Vec::new()));
        let look =
            |work| look(self.slot, Rc::clone(self.source), work, compression, Rc::clone(&spare));
        let mut seen = std::pin::pin!(windows.map_ok(look).try_buffered(WINDOWS_UNDER_WAY));
        while let Some(Seen { window, packed }) = seen.try_next().await? {
            let (sent, wire) =
                packed.as_ref().map_or((0, 0), |(batch, sent)| (*sent, batch.cost_bytes()));
            if let Some((batch, _)) = packed {
                self.pass.send(batch).await?;
            }
            passing.add(Sums { examined: window.length(), sent, wire });
        }
        Ok(())
    }
}

/// The windows of what has changed.
fn works(changes: &[Change], window_bytes: u64) -> impl Iterator<Item = Work> {
    changes.iter().flat_map(move |change| {
        change.range.chunks(window_bytes).map(|window| Work {
            window,
            hole: change.zero,
            theirs: Theirs::Unknown,
        })
    })
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
        Theirs::Unknown => Theirs::Unknown,
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

#[cfg(test)]
mod tests {
    use super::super::chain::Changes;
    use super::super::source::ImageSource;
    use super::*;
    use landfall_disks::mapped::{Layer, OwnRange};
    use landfall_disks::uring::{Engine, EngineSettings};
    use landfall_disks::{Buffer, ByteOffset, Content, Disk, Geometry, IoFuture, MappedRange};
    use std::sync::{Arc, Mutex};

    const SIZE: u64 = 64 << 20;

    /// An image that holds the same byte everywhere and notes what is read of it.
    struct Noting {
        own: Vec<OwnRange>,
        read: Mutex<Vec<ByteRange>>,
    }

    impl Disk for Noting {
        fn geometry(&self) -> Geometry {
            Geometry {
                size_bytes: SIZE,
                logical_sector: 512,
                physical_sector: 4096,
                read_only: true,
            }
        }

        fn read(&self, range: ByteRange) -> IoFuture<'_, Buffer> {
            self.read.lock().expect("no panic").push(range);
            let length = usize::try_from(range.length()).expect("small");
            Box::pin(async move { Ok(Buffer::copy_of(&vec![7; length])) })
        }

        fn flush(&self) -> IoFuture<'_, ()> {
            Box::pin(async { Ok(()) })
        }

        fn map(&self, _: ByteRange) -> IoFuture<'_, Vec<MappedRange>> {
            unreachable!("the whole disk is not asked for")
        }
    }

    impl Layer for Noting {
        fn own(&self, range: ByteRange) -> IoFuture<'_, Vec<OwnRange>> {
            let cut = |own: &OwnRange| OwnRange { range: own.range.intersection(range), ..*own };
            let parts = self.own.iter().map(cut).filter(|own| !own.range.is_empty());
            // One at a time: whoever asks has to go on.
            let first = parts.take(1).collect();
            Box::pin(async move { Ok(first) })
        }
    }

    fn own(start: u64, end: u64, content: Option<Content>) -> OwnRange {
        let range = ByteRange::new(ByteOffset::new(start), ByteOffset::new(end));
        OwnRange { range: range.expect("ordered"), content }
    }

    #[test]
    fn of_a_chain_nothing_is_read_but_what_the_upper_images_have() {
        let engine = Engine::start(EngineSettings { cores: 1, ..EngineSettings::default() });
        let engine = engine.expect("an engine");
        let data = own(8 << 20, (11 << 20) + 8192, Some(Content::Data));
        let top = Arc::new(Noting {
            own: vec![
                own(0, 1 << 20, None),
                own(1 << 20, 4 << 20, Some(Content::Hole)),
                own(4 << 20, 8 << 20, None),
                data,
                own(data.range.end().bytes(), SIZE, None),
            ],
            read: Mutex::default(),
        });
        let base = Arc::new(Noting { own: vec![own(0, SIZE, None)], read: Mutex::default() });
        let held = ContentId::new([1; 32]);
        let layers: Vec<(Arc<dyn Layer>, _)> = vec![(top.clone(), None), (base.clone(), held)];
        let source = ImageSource::over(engine.cores()[0].clone(), layers, SIZE);
        let source = Rc::new(OpenSource::Image(source));
        tokio_uring::start(async move {
            let changes = source.changes_since(held).await.expect("known");
            let Changes::Known(changes) = changes else { panic!("{changes:?}") };
            let spare = Spare::default();
            let mut sent = 0;
            for work in works(&changes, WINDOW_BYTES) {
                let (slot, off) = (DiskSlot::new(0), Compression::Off);
                let seen = look(slot, Rc::clone(&source), work, off, Rc::clone(&spare)).await;
                sent += seen.expect("looked at").packed.map_or(0, |(_, bytes)| bytes);
            }
            assert_eq!(sent, (3 << 20) + data.range.length(), "zeroes are told, not read");
        });
        let read = top.read.lock().expect("no panic").clone();
        assert!(read.iter().all(|range| data.range.contains(*range)), "{read:?}");
        let bytes: u64 = read.iter().map(|range| range.length()).sum();
        assert_eq!(bytes, data.range.length(), "once");
        assert!(base.read.lock().expect("no panic").is_empty());
        engine.stop();
    }
}
