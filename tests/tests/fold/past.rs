//! A machine with some history, and what every point of it must read as.

use futures_util::future::LocalBoxFuture;
use landfall_disks::faults::{FaultFolder, Seed, Spawner, run};
use landfall_disks::file::{Caching, Folder as _, OpenMode};
use landfall_disks::{BLOCK_SIZE, Buffer, ByteOffset, ByteRange, DiskError};
use landfall_retention::ids::{Generation, LineId, Position, Sequence, StreamId};
use landfall_retention::name::{Label, Name};
use landfall_retention::point::{PointKind, PointQuery};
use landfall_retention::time::Timestamp;
use landfall_retention::{
    FoldError, FoldPace, FoldReport, ImageSpec, NewDisk, NewMachine, Opened, ResolveError,
    Retention, Stream, StreamContent, StreamExtent, StreamRequest,
};
use landfall_tests::world::World;
pub(crate) use landfall_tests::world::{moment, name};
use std::cell::Cell;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// One disk crosses leaves and ends within a block, one is small.
pub(crate) const SIZES: [u64; 2] = [(2 << 20) + (64 << 10) + 512, 80 << 10];
const STREAM: StreamId = StreamId::new([1; 16]);

/// Content of all disks.
pub(crate) type Content = Vec<Vec<u8>>;

/// Points by sequence, oldest first, and what they hold.
pub(crate) type Points = Vec<(u64, Content)>;

fn disk_name(index: usize) -> Name {
    name(&format!("d{index}"))
}

/// Opens the store of `world`, runs its lanes, and hands it to `test`.
pub(crate) fn with_store<T>(
    world: &World,
    test: impl AsyncFnOnce(Arc<Retention>, Spawner) -> T,
) -> Option<T> {
    run(&mut Seed::new(7), |spawner| async move {
        let opened = Retention::open(world.surroundings(), World::settings()).await;
        let Opened { retention, lanes, report } = match opened {
            Ok(opened) => opened,
            Err(_) if world.folder.is_dead() => return None,
            Err(error) => panic!("the store does not open: {error}"),
        };
        assert_eq!(report.damage, Vec::<String>::new());
        lanes.into_iter().for_each(|lane| spawner.spawn(lane.run()));
        Some(test(retention, spawner).await)
    })
}

/// A machine `web` with `count` points after its first copy.
pub(crate) fn past(seed: u64, count: usize) -> (World, Points) {
    let world = World::new(&mut Seed::new(seed));
    let points = with_store(&world, async |store, _| {
        let mut random = Seed::new(seed);
        add_machine(&store).await;
        let stream = open_stream(&store, 0).await;
        let mut content: Content = SIZES.map(|size| random_bytes(size, &mut random)).into();
        let mut position = 0;
        for (disk, bytes) in content.iter().enumerate() {
            for (start, chunk) in (0..).step_by(64 << 10).zip(bytes.chunks(64 << 10)) {
                position += 1;
                apply(&stream, position, disk, vec![(start, Some(chunk.to_vec()))]).await;
            }
        }
        let mut points = Vec::new();
        for number in 0..=count {
            if number > 0 {
                for _ in 0..10 {
                    position += 1;
                    change(&stream, position, &mut content, &mut random).await;
                }
            }
            position += 1;
            points.push((mark(&stream, position, number).await, content.clone()));
        }
        points
    });
    (world, points.expect("no power cut"))
}

async fn add_machine(store: &Retention) {
    let disk = |index: usize| {
        let (path, size_bytes) = (image_path(index), SIZES[index]);
        let image = ImageSpec { format: "raw".into(), path, size_bytes };
        NewDisk { name: disk_name(index), image, adopt: false }
    };
    let disks = (0..SIZES.len()).map(disk).collect();
    let machine = NewMachine { name: name("web"), display_name: String::new(), disks };
    store.add_machine(machine).await.expect("a new machine");
}

pub(crate) fn image_path(disk: usize) -> String {
    format!("disk-{disk}.raw")
}

fn random_bytes(size: u64, random: &mut Seed) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(size).expect("small")];
    random.fill(&mut bytes);
    bytes
}

/// Opens the stream of `web`; generation 0 is a new one.
pub(crate) async fn open_stream(store: &Retention, generation: u64) -> Stream {
    let disks = SIZES.iter().enumerate().map(|(index, size)| (disk_name(index), *size)).collect();
    let request = StreamRequest {
        machine: name("web"),
        stream: STREAM,
        generation: Generation::new(generation),
        disks,
        peer: "source".into(),
    };
    store.open_stream(request).await.expect("nobody streams")
}

/// Applies a batch of ranges: bytes, or zeroes of a length.
pub(crate) async fn apply(
    stream: &Stream,
    position: u64,
    disk: usize,
    changes: Vec<(u64, Option<Vec<u8>>)>,
) {
    let extent = |(start, bytes): (u64, Option<Vec<u8>>)| {
        let length = bytes.as_ref().map_or(8 * BLOCK_SIZE, |bytes| bytes.len() as u64);
        let range = ByteRange::at(ByteOffset::new(start), length).expect("small");
        let content = match bytes {
            None => StreamContent::Zero,
            Some(bytes) => {
                let hash = *blake3::hash(&bytes).as_bytes();
                StreamContent::Data { bytes: Buffer::copy_of(&bytes), hash }
            }
        };
        StreamExtent { range, content }
    };
    let id = stream.disks()[disk].id;
    let extents = changes.into_iter().map(extent).collect();
    let applied = stream.apply(Position::new(position), id, Timestamp::default(), extents).await;
    applied.expect("a batch");
}

/// Changes a random place of a random disk, in the content and through the stream.
pub(crate) async fn change(
    stream: &Stream,
    position: u64,
    content: &mut Content,
    random: &mut Seed,
) {
    let disk = random.index(SIZES.len());
    let size = SIZES[disk];
    // Few places, so that blocks have many versions; the last one ends with the disk.
    let start = random.below(size.div_ceil(BLOCK_SIZE)) / 3 * 3 * BLOCK_SIZE;
    let longest = if random.chance(1, 4) { 40 } else { 2 };
    let zeroes = random.chance(1, 4) && start + 8 * BLOCK_SIZE <= size;
    let blocks = if zeroes { 8 } else { 1 + random.below(longest) };
    let end = (start + blocks * BLOCK_SIZE).min(size);
    let bytes = (!zeroes).then(|| random_bytes(end - start, random));
    let at = usize::try_from(start).expect("small")..usize::try_from(end).expect("small");
    match &bytes {
        Some(bytes) => content[disk][at].copy_from_slice(bytes),
        None => content[disk][at].fill(0),
    }
    apply(stream, position, disk, vec![(start, bytes)]).await;
}

/// Marks a point `p<number>`; gives its sequence.
pub(crate) async fn mark(stream: &Stream, position: u64, number: usize) -> u64 {
    let label = Some(Label::parse(&format!("p{number}")).expect("a label"));
    let position = Position::new(position);
    let marked = stream.mark(position, PointKind::Crash, label, Timestamp::default()).await;
    marked.expect("a point").sequence.number()
}

pub(crate) fn trunk(store: &Retention) -> LineId {
    store.trunk(&name("web")).expect("it is there")
}

/// Folds as fast as it goes.
pub(crate) async fn fold(store: &Retention, floor: u64) -> Result<FoldReport, FoldError> {
    fold_with(store, floor, &|_| Box::pin(std::future::ready(()))).await
}

/// Folds; before every window of writes `between` is run.
pub(crate) async fn fold_with(
    store: &Retention,
    floor: u64,
    between: &dyn Fn(Duration) -> LocalBoxFuture<'static, ()>,
) -> Result<FoldReport, FoldError> {
    let pace = FoldPace { bytes_per_second: Some(1 << 30), sleep: between };
    store.fold_to(trunk(store), Sequence::new(floor), &pace).await
}

/// Content of a disk at a moment such as `web@seq:3`.
pub(crate) async fn read(store: &Retention, at: &str, disk: usize) -> Result<Vec<u8>, DiskError> {
    let moment = store.resolve(&moment(at)).await.expect(at);
    let view = store.view(&moment, &disk_name(disk)).expect(at);
    view.read(ByteRange::up_to(SIZES[disk])).await.map(|bytes| bytes.to_vec())
}

/// Blocks of points that are refused; all others are what they were.
pub(crate) async fn refused(store: &Retention, points: &Points) -> usize {
    let mut refused = 0;
    for (sequence, content) in points {
        let found = store.resolve(&moment(&format!("web@seq:{sequence}"))).await;
        let found = found.expect("a point");
        for (disk, content) in content.iter().enumerate() {
            let view = store.view(&found, &disk_name(disk)).expect("a disk");
            for (at, block) in (0..).step_by(4096).zip(content.chunks(4096)) {
                let range = ByteRange::at(ByteOffset::new(at), block.len() as u64);
                match view.read(range.expect("on the disk")).await {
                    Ok(read) => assert!(read[..] == *block, "d{disk} at {at}, seq:{sequence}"),
                    Err(DiskError::Damaged { .. }) => refused += 1,
                    Err(error) => panic!("{error}"),
                }
            }
        }
    }
    refused
}

/// Every point from `start` on reads as it did; those before it cannot be opened and are not listed.
pub(crate) async fn check(store: &Retention, points: &Points, start: u64) {
    let listed = store.points(&name("web"), None, &PointQuery::all(100)).expect("it is there");
    let listed: Vec<u64> = listed.iter().map(|point| point.point.sequence.number()).collect();
    let kept = points.iter().map(|(sequence, _)| *sequence).filter(|sequence| *sequence >= start);
    assert_eq!(listed, kept.collect::<Vec<_>>());
    for (sequence, content) in points {
        let at = format!("web@seq:{sequence}");
        if *sequence < start {
            let gone = store.resolve(&moment(&at)).await;
            assert!(matches!(gone, Err(ResolveError::BeforeHistory { .. })), "{at}: {gone:?}");
            continue;
        }
        for (disk, expected) in content.iter().enumerate() {
            let found = read(store, &at, disk).await.expect(&at);
            assert!(found == *expected, "disk {disk} of {at} differs");
        }
    }
}

/// The image files hold `content`.
pub(crate) async fn check_images(folder: &FaultFolder, content: &Content) {
    for (disk, expected) in content.iter().enumerate() {
        let path = image_path(disk);
        let file = folder.open(Path::new(&path), OpenMode::Read, Caching::Buffered).await;
        let file = file.expect("the image is there");
        let bytes = file.read_at(0, Buffer::zeroed(expected.len())).await.expect("readable");
        assert!(bytes[..] == expected[..], "image {disk} differs");
    }
}

/// Somebody who reads the first disk at `points` again and again, and finds it as it was.
pub(crate) struct Reader {
    store: Arc<Retention>,
    reads: Rc<Cell<usize>>,
    points: usize,
}

impl Reader {
    /// Begins. Leaves are resolved once; most of the time it is in the midst of a read.
    pub(crate) fn start(
        store: &Arc<Retention>,
        spawner: &Spawner,
        points: &[(u64, Content)],
    ) -> Self {
        let reads = Rc::new(Cell::new(0));
        let (own, counted, points) = (Arc::clone(store), Rc::clone(&reads), points.to_vec());
        let count = points.len();
        spawner.spawn(async move {
            loop {
                for (sequence, content) in &points {
                    let at = format!("web@seq:{sequence}");
                    let found = read(&own, &at, 0).await.expect(&at);
                    assert!(found == content[0], "{at} differs");
                    counted.set(counted.get() + 1);
                }
            }
        });
        Self { store: Arc::clone(store), reads, points: count }
    }

    /// Waits until all points were read `times` more.
    pub(crate) async fn has_read(&self, times: usize) {
        let until = self.reads.get() + times * self.points;
        while self.reads.get() < until {
            // Goes through a lane, so that others have their turn.
            self.store.tick().await;
        }
    }
}
