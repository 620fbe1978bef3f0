//! Machines that are fed by writing to their disks, on a store: what is answered is durable, what was there already costs
//! nothing, and a point comes when, and only when, the disks are one moment.

#![allow(clippy::cast_possible_truncation, reason = "the numbers of these tests are small")]

mod model;
mod moments;
mod writes;

use landfall_disks::{Buffer, ByteOffset, ByteRange, Disk, DiskError, Durability, ZeroMode};
use landfall_retention::point::Point;
use landfall_retention::{
    FedDisk, FeedStatus, ImageSpec, IngestError, IngestMode, NewDisk, NewMachine, Retention,
};
use landfall_tests::world::{moment, name};
use std::sync::Arc;

/// Bytes of a disk: the last block is cut by its end.
const SIZE: u64 = (1 << 20) + 1536;

/// Adds the machine `web` with `disks`, fed in `mode`.
async fn add_web(store: &Retention, disks: &[&str], mode: IngestMode) {
    let disk = |disk: &&str| NewDisk {
        name: name(disk),
        image: ImageSpec { format: "raw".into(), path: format!("{disk}.raw"), size_bytes: SIZE },
        adopt: false,
    };
    let disks = disks.iter().map(disk).collect();
    let machine = NewMachine { name: name("web"), display_name: String::new(), disks };
    store.add_machine(machine).await.expect("a new machine");
    store.set_ingest(&name("web"), Some(mode)).await.expect("nobody feeds it");
}

fn open(store: &Arc<Retention>, disk: &str) -> Arc<FedDisk> {
    store.fed_disk(&name("web"), &name(disk), "a client".to_owned()).expect("it is there")
}

async fn enter(store: &Arc<Retention>, disk: &str) -> Arc<FedDisk> {
    let disk = open(store, disk);
    disk.enter().await.expect("nobody writes to it");
    disk
}

/// Adds the machine `web` with the disk `os`, which somebody feeds from now on.
async fn fed_web(store: &Arc<Retention>) -> Arc<FedDisk> {
    add_web(store, &["os"], IngestMode::Sync).await;
    enter(store, "os").await
}

fn range(at: u64, length: u64) -> ByteRange {
    ByteRange::at(ByteOffset::new(at), length).expect("a range")
}

async fn write(disk: &FedDisk, at: u64, data: &[u8]) -> Result<(), DiskError> {
    disk.write(ByteOffset::new(at), Buffer::copy_of(data), Durability::Cached).await
}

async fn zero(disk: &FedDisk, at: u64, length: u64) -> Result<(), DiskError> {
    disk.write_zeroes(range(at, length), ZeroMode::Unmap, Durability::Cached).await
}

/// Leaves in good order, after a flush.
async fn leave(disk: &FedDisk) -> Result<Option<Point>, IngestError> {
    disk.flush().await.expect("it always does");
    disk.leave(None).await
}

async fn read(disk: &dyn Disk) -> Vec<u8> {
    disk.read(ByteRange::up_to(SIZE)).await.expect("it reads").to_vec()
}

/// What a disk holds at a moment of `web`.
async fn at(store: &Retention, when: &str, disk: &str) -> Vec<u8> {
    let when = format!("web{when}");
    let found =
        store.resolve(&moment(&when)).await.unwrap_or_else(|error| panic!("{when}: {error}"));
    let view = store.view(&found, &name(disk)).unwrap_or_else(|error| panic!("{when}: {error}"));
    read(&*view).await
}

fn points(store: &Retention) -> usize {
    store.machines()[0].points
}

fn head(store: &Retention) -> u64 {
    store.machines()[0].head.number()
}

fn status(store: &Retention) -> FeedStatus {
    store.feed_status(&name("web")).expect("it is fed")
}
