//! What media do to bytes that lie on them: found, refused, and never returned.

mod images;
mod scrub;
mod scrub_crashes;

use futures_util::future::LocalBoxFuture;
use landfall_disks::faults::{Seed, run};
use landfall_disks::{BLOCK_SIZE, Buffer, ByteOffset, ByteRange, DiskError};
use landfall_retention::ids::{Generation, Position, Sequence, StreamId};
use landfall_retention::time::Timestamp;
use landfall_retention::{
    BlockHash, FoldPace, ImageSpec, NewDisk, NewMachine, Retention, Stream, StreamContent,
    StreamExtent, StreamRequest,
};
use landfall_tests::web::{IMAGE, mark, read, with_store};
use landfall_tests::world::{World, name};
use std::sync::Arc;

/// A disk of more than one page of block hashes, ending within a block.
const SIZE: u64 = (3 << 20) + 512;

fn content() -> Vec<u8> {
    (0..SIZE).map(|at| u8::try_from((at / 100 + at / BLOCK_SIZE) % 251).expect("small")).collect()
}

/// A store with machine `web` of one disk `os`, as [`content`] at its first point.
fn seeded(adopt: bool) -> World {
    let world = World::new(&mut Seed::new(3));
    if adopt {
        make_image(&world);
    }
    with_store(&world, move |store, _| {
        Box::pin(async move {
            let image = ImageSpec { format: "raw".into(), path: IMAGE.into(), size_bytes: SIZE };
            let disks = vec![NewDisk { name: name("os"), image, adopt }];
            let machine = NewMachine { name: name("web"), display_name: String::new(), disks };
            store.add_machine(machine).await.expect("a new machine");
            let stream = open(&store).await;
            let next = compare(&stream, 1).await;
            mark(&stream, next).await;
            store.close().await.expect("closed");
        })
    });
    world
}

/// The image of a machine that was somewhere else before, all but two blocks.
fn make_image(world: &World) {
    use landfall_disks::file::{Caching, Folder as _, OpenMode};
    let folder = world.folder.clone();
    run(&mut Seed::new(1), |_| async move {
        let path = std::path::Path::new(IMAGE);
        let file = folder.open(path, OpenMode::CreateNew, Caching::Buffered).await.expect("made");
        let mut bytes = content();
        bytes[8192..16384].fill(9);
        file.write_at(0, Buffer::copy_of(&bytes)).await.expect("written");
        file.flush().await.expect("flushed");
        folder.sync(std::path::Path::new("")).await.expect("synced");
    });
}

async fn open(store: &Retention) -> Stream {
    let request = StreamRequest {
        machine: name("web"),
        stream: StreamId::new([1; 16]),
        generation: Generation::new(0),
        disks: vec![(name("os"), SIZE)],
        peer: "source".into(),
    };
    store.open_stream(request).await.expect("nobody streams")
}

/// Sends what differs from [`content`]; the position that follows.
async fn compare(stream: &Stream, first: u64) -> u64 {
    let (content, disk) = (content(), stream.disks()[0].id);
    let whole = ByteRange::up_to(SIZE);
    let hashes = stream.hashes(disk, whole).await.expect("hashes");
    let mut at = first;
    for (range, hash) in whole.chunks(64 << 10).zip(hashes) {
        let data = &content[index(range.start().bytes())..index(range.end().bytes())];
        if hash == BlockHash::Known(*blake3::hash(data).as_bytes()) {
            continue;
        }
        put(stream, at, range.start().bytes(), data).await;
        at += 1;
    }
    at
}

fn index(offset: u64) -> usize {
    usize::try_from(offset).expect("small")
}

async fn put(stream: &Stream, at: u64, offset: u64, data: &[u8]) {
    let range = ByteRange::at(ByteOffset::new(offset), data.len() as u64).expect("a range");
    let hash = *blake3::hash(data).as_bytes();
    let content = StreamContent::Data { bytes: Buffer::copy_of(data), hash };
    let extents = vec![StreamExtent { range, content }];
    let disk = stream.disks()[0].id;
    let applied = stream.apply(Position::new(at), disk, Timestamp::default(), extents).await;
    applied.expect("applied");
}

async fn fold_to(store: &Retention, floor: Sequence) {
    let line = store.trunk(&name("web")).expect("it is there");
    let sleep = |_| -> LocalBoxFuture<'static, ()> { Box::pin(std::future::ready(())) };
    let pace = FoldPace { bytes_per_second: None, sleep: &sleep };
    store.fold_to(line, floor, &pace).await.expect("folded");
}

fn block(index: u64) -> ByteRange {
    let start = index * BLOCK_SIZE;
    let end = (start + BLOCK_SIZE).min(SIZE);
    ByteRange::new(ByteOffset::new(start), ByteOffset::new(end)).expect("on the disk")
}

fn is_good(range: ByteRange, read: &Result<Vec<u8>, DiskError>) -> bool {
    let content = &content()[index(range.start().bytes())..index(range.end().bytes())];
    read.as_ref().is_ok_and(|read| read == content)
}

fn is_damaged(range: ByteRange, read: &Result<Vec<u8>, DiskError>) -> bool {
    matches!(read, Err(DiskError::Damaged { range: at, .. }) if at.overlaps(range))
}
