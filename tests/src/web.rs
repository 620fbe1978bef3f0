//! A machine `web` with one disk `os` in a store: what many tests do with it.

use crate::world::{World, moment, name};
use futures_util::future::LocalBoxFuture;
use landfall_disks::faults::{Seed, run};
use landfall_disks::{Buffer, ByteOffset, ByteRange, DiskError};
use landfall_retention::ids::{Generation, Position, StreamId};
use landfall_retention::point::{Point, PointKind};
use landfall_retention::time::Timestamp;
use landfall_retention::{
    ChangeError, ImageSpec, NewDisk, NewMachine, OpenReport, Opened, Retention, Settings, Stream,
    StreamContent, StreamError, StreamExtent, StreamRequest,
};
use std::sync::Arc;

/// Where its image lies.
pub const IMAGE: &str = "web-os.raw";

/// Opens the store in `world` and hands it to `test`.
///
/// # Panics
///
/// If it does not open.
pub fn with_store<T>(
    world: &World,
    test: impl FnOnce(Arc<Retention>, OpenReport) -> LocalBoxFuture<'static, T>,
) -> T {
    with_settings(world, World::settings(), test)
}

/// The same, set up in another way.
///
/// # Panics
///
/// If it does not open.
pub fn with_settings<T>(
    world: &World,
    settings: Settings,
    test: impl FnOnce(Arc<Retention>, OpenReport) -> LocalBoxFuture<'static, T>,
) -> T {
    run(&mut Seed::new(7), |spawner| async move {
        let opened = Retention::open(world.surroundings(), settings).await;
        let Opened { retention, lanes, report } = opened.expect("the store opens");
        lanes.into_iter().for_each(|lane| spawner.spawn(lane.run()));
        test(retention, report).await
    })
}

/// Adds the machine, its disk of `size_bytes`.
pub async fn add_web(store: &Retention, size_bytes: u64) -> Result<(), ChangeError> {
    let image = ImageSpec { format: "raw".into(), path: IMAGE.into(), size_bytes };
    let disks = vec![NewDisk { name: name("os"), image, adopt: false }];
    let machine = NewMachine { name: name("web"), display_name: String::new(), disks };
    store.add_machine(machine).await
}

/// What a source says of itself that feeds the machine, its disk of `size_bytes`.
pub fn request(stream: u8, generation: u64, size_bytes: u64) -> StreamRequest {
    StreamRequest {
        machine: name("web"),
        stream: StreamId::new([stream; 16]),
        generation: Generation::new(generation),
        disks: vec![(name("os"), size_bytes)],
        peer: format!("source {stream}"),
    }
}

/// Writes `data` at byte `offset`, at the stream's position `at`.
///
/// # Panics
///
/// If it is longer than any disk.
pub async fn put(stream: &Stream, at: u64, offset: u64, data: Vec<u8>) -> Result<(), StreamError> {
    let range = ByteRange::at(ByteOffset::new(offset), data.len() as u64).expect("a range");
    let hash = *blake3::hash(&data).as_bytes();
    let content = StreamContent::Data { bytes: Buffer::copy_of(&data), hash };
    let extents = vec![StreamExtent { range, content }];
    stream.apply(Position::new(at), stream.disks()[0].id, Timestamp::default(), extents).await
}

/// Marks a crash point at the stream's position `at`.
///
/// # Panics
///
/// If that is refused.
pub async fn mark(stream: &Stream, at: u64) -> Point {
    let marked = stream.mark(Position::new(at), PointKind::Crash, None, Timestamp::default()).await;
    marked.expect("a point")
}

/// What `range` holds at a moment such as `web@seq:3`.
///
/// # Panics
///
/// If there is no such moment.
pub async fn read(store: &Retention, at: &str, range: ByteRange) -> Result<Vec<u8>, DiskError> {
    let moment = store.resolve(&moment(at)).await.expect(at);
    let view = store.view(&moment, &name("os")).expect(at);
    view.read(range).await.map(|bytes| bytes.to_vec())
}
