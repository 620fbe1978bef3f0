//! The contract of [`Disk`] as a suite that every implementation runs.
//!
//! Bytes are compared with a plain `Vec<u8>`; what differs from run to run follows from a seed. The suite needs no
//! engine of its own: it runs on whatever executor the disk needs.
//!
//! ```text
//!   writable(seed, make)    requests ─ alignments ─ random operations ─ concurrency ─ dropped writes ─ growth
//!   read_only(seed, make)   reads of every alignment, refusals, map
//! ```
//!
//! Both are for disks of 512-byte sectors that grow; [`writable_as`] and [`read_only_as`] take the others.

mod model;
mod parallel;

use self::model::Model;
use crate::block::{ByteOffset, ByteRange};
use crate::disk::{Content, Disk, DiskError, Durability, MappedRange, ZeroMode};
use crate::faults::Seed;
use crate::ticket::{Change, Ticket};
use crate::uring::buffer::Buffer;
use std::sync::Arc;

/// What is particular about an implementation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Profile {
    /// Its logical sector, in bytes.
    pub logical_sector: u32,
    /// Whether it can become larger.
    pub grows: bool,
}

impl Default for Profile {
    fn default() -> Self {
        Self { logical_sector: 512, grows: true }
    }
}

impl Profile {
    fn sector(self) -> u64 {
        u64::from(self.logical_sector)
    }

    /// Sizes the suite asks for, in bytes: a sector, some, a short tail, several operations of a megabyte.
    fn sizes(self) -> [u64; 4] {
        let sector = self.sector();
        [sector, (2 * sector).max(4096), 5 * 4096 + 3 * sector, (3 << 20) + sector]
    }

    fn check(self, disk: &dyn Disk, size: u64) {
        assert_eq!(disk.geometry().size_bytes, size);
        assert_eq!(disk.geometry().logical_sector, self.logical_sector);
    }
}

/// Starts and lengths around the edges of sectors and blocks.
const EDGES: [u64; 9] = [0, 1, 511, 512, 513, 4095, 4096, 4097, 8192];

/// Checks a writable implementation; `make` gives a new disk of zeroes of the size it is called with.
///
/// Panics at the first promise that is not kept.
pub async fn writable(seed: &mut Seed, make: impl AsyncFn(u64) -> Arc<dyn Disk>) {
    writable_as(Profile::default(), seed, make).await;
}

/// Checks a writable implementation, as [`writable`] does.
pub async fn writable_as(
    profile: Profile,
    seed: &mut Seed,
    make: impl AsyncFn(u64) -> Arc<dyn Disk>,
) {
    for size in profile.sizes() {
        let disk = make(size).await;
        profile.check(&*disk, size);
        assert!(!disk.geometry().read_only);
        let mut model = Model::of_zeroes(size);
        model.compare(&*disk).await;
        out_of_range_is_refused(&*disk).await;
        nothing_is_something(&*disk).await;
        model.compare(&*disk).await;
        every_alignment(&*disk, &mut model, seed).await;
        random_operations(&*disk, &mut model, seed, 300).await;
        parallel::writes_into_one_block_keep_all_bytes(&disk, &mut model, seed).await;
        parallel::overlapping_writes_leave_bytes_of_one(&disk, &mut model, seed).await;
        parallel::reads_see_old_or_new(&disk, &mut model, seed).await;
        parallel::dropped_writes_leave_old_or_new(&disk, &mut model, seed).await;
        aborted_changes_leave_no_trace(&*disk, &mut model).await;
        random_operations(&*disk, &mut model, seed, 50).await;
        growth(profile, &*disk, &mut model, seed).await;
        if profile.grows {
            let sector = profile.sector();
            parallel::requests_beside_a_growth_are_kept(&disk, &mut model, seed, sector).await;
        }
        random_operations(&*disk, &mut model, seed, 50).await;
    }
}

/// Checks a read-only implementation; `make` gives a disk with the content it is called with.
///
/// Panics at the first promise that is not kept.
pub async fn read_only(seed: &mut Seed, make: impl AsyncFn(Vec<u8>) -> Arc<dyn Disk>) {
    read_only_as(Profile::default(), seed, make).await;
}

/// Checks a read-only implementation, as [`read_only`] does.
pub async fn read_only_as(
    profile: Profile,
    seed: &mut Seed,
    make: impl AsyncFn(Vec<u8>) -> Arc<dyn Disk>,
) {
    for size in profile.sizes() {
        let mut model = Model::of_zeroes(size);
        model.scatter(seed);
        let disk = make(model.bytes().to_vec()).await;
        profile.check(&*disk, size);
        assert!(disk.geometry().read_only);
        model.compare(&*disk).await;
        out_of_range_is_refused(&*disk).await;
        for range in edge_ranges(size) {
            model.compare_range(&*disk, range).await;
        }
        let whole = disk.geometry().whole();
        let zeroes = disk.write_zeroes(whole, ZeroMode::Unmap, Durability::Cached).await;
        let refusals = [
            disk.write(whole.start(), Buffer::zeroed(512), Durability::Cached).await,
            zeroes,
            disk.discard(whole).await,
            disk.resize(size * 2).await,
        ];
        for refused in refusals {
            assert!(matches!(refused, Err(DiskError::ReadOnly)), "{refused:?}");
        }
        disk.flush().await.expect("there is nothing to flush");
        model.compare(&*disk).await;
    }
}

fn range(start: u64, length: u64) -> ByteRange {
    ByteRange::at(ByteOffset::new(start), length).expect("small")
}

/// Every range of the edges that fits the disk.
fn edge_ranges(size: u64) -> impl Iterator<Item = ByteRange> {
    let from_end = EDGES.into_iter().filter_map(move |edge| size.checked_sub(edge));
    let starts: Vec<u64> = EDGES.into_iter().chain(from_end).collect();
    starts.into_iter().flat_map(move |start| {
        EDGES
            .into_iter()
            .map(move |length| range(start, length))
            .filter(move |range| range.end().bytes() <= size)
    })
}

/// What was aborted before it began never comes to be; what was done cannot be aborted any more.
async fn aborted_changes_leave_no_trace(disk: &dyn Disk, model: &mut Model) {
    let size = disk.geometry().size_bytes;
    let (at, zeroes) = (range(0, size.min(9000)), range(size / 2, size.min(8192) / 2));
    let changes = || {
        let data = Buffer::copy_of(&vec![0xab; model::length(at)]);
        let (mode, durability) = (ZeroMode::Unmap, Durability::Durable);
        [
            Change::Write { at: at.start(), data, durability },
            Change::WriteZeroes { range: zeroes, mode, durability },
        ]
    };
    let (aborted, open) = (Ticket::default(), Ticket::default());
    assert!(aborted.abort());
    for change in changes().into_iter().chain([Change::Discard(at)]) {
        let refused = disk.change(change, &aborted).await;
        assert!(matches!(refused, Err(DiskError::Aborted)), "{refused:?}");
        model.compare(disk).await;
    }
    for change in changes() {
        disk.change(change, &open).await.expect("nobody aborts it");
        assert!(!open.is_unwanted(), "it goes on");
    }
    assert!(!open.abort(), "it is done");
    let refused = disk.change(Change::Discard(at), &open).await;
    assert!(matches!(refused, Err(DiskError::Aborted)), "nothing more of it begins: {refused:?}");
    model.set(at, &vec![0xab; model::length(at)]);
    model.set(zeroes, &vec![0; model::length(zeroes)]);
    model.compare(disk).await;
}

/// A range that reaches past the end changes nothing and says so.
async fn out_of_range_is_refused(disk: &dyn Disk) {
    let geometry = disk.geometry();
    let size = geometry.size_bytes;
    for outside in [range(size, 1), range(size - 1, 2), range(size + 512, 0), range(1 << 62, 512)] {
        let at = outside.start();
        let data = Buffer::copy_of(&vec![0xee; model::length(outside)]);
        let mut refusals =
            vec![disk.read(outside).await.map(drop), disk.map(outside).await.map(drop)];
        if !geometry.read_only {
            refusals.push(disk.write(at, data, Durability::Cached).await);
            refusals.push(disk.discard(outside).await);
            for mode in [ZeroMode::Unmap, ZeroMode::Allocate] {
                refusals.push(disk.write_zeroes(outside, mode, Durability::Cached).await);
            }
        }
        for refused in refusals {
            let Err(DiskError::OutOfRange { size_bytes, .. }) = refused else {
                panic!("{outside} of a disk of {size}: {refused:?}")
            };
            assert_eq!(size_bytes, size);
        }
    }
    if !geometry.read_only {
        let end = ByteOffset::new(u64::MAX);
        let wraps = disk.write(end, Buffer::zeroed(512), Durability::Cached).await;
        assert!(matches!(wraps, Err(DiskError::OutOfRange { .. })), "{wraps:?}");
    }
}

/// Empty ranges are no error, wherever they lie.
async fn nothing_is_something(disk: &dyn Disk) {
    let size = disk.geometry().size_bytes;
    for at in [0, 1, 511, size - 1, size] {
        let nothing = range(at, 0);
        assert!(disk.read(nothing).await.expect("read").is_empty());
        assert!(disk.map(nothing).await.expect("mapped").is_empty());
        disk.write(nothing.start(), Buffer::zeroed(0), Durability::Durable).await.expect("written");
        disk.discard(nothing).await.expect("discarded");
        for mode in [ZeroMode::Unmap, ZeroMode::Allocate] {
            disk.write_zeroes(nothing, mode, Durability::Cached).await.expect("zeroed");
        }
    }
}

/// Writes, zeroes and reads at every combination of edges.
async fn every_alignment(disk: &dyn Disk, model: &mut Model, seed: &mut Seed) {
    for range in edge_ranges(disk.geometry().size_bytes) {
        model.write(disk, range, seed).await;
        model.compare_range(disk, range).await;
    }
    model.compare(disk).await;
    for mode in [ZeroMode::Unmap, ZeroMode::Allocate] {
        for range in edge_ranges(disk.geometry().size_bytes) {
            model.write(disk, range.widen(512).intersection(disk.geometry().whole()), seed).await;
            model.zero(disk, range, mode).await;
            model.compare_range(disk, range).await;
        }
        model.compare(disk).await;
    }
    for range in edge_ranges(disk.geometry().size_bytes) {
        model.write(disk, range, seed).await;
        model.discard(disk, range).await;
    }
    model.compare(disk).await;
}

/// Operations of all kinds at random, each compared with the model.
async fn random_operations(disk: &dyn Disk, model: &mut Model, seed: &mut Seed, count: usize) {
    for _ in 0..count {
        let range = model.any_range(seed);
        match seed.below(10) {
            0..4 => model.write(disk, range, seed).await,
            4 => model.zero(disk, range, ZeroMode::Unmap).await,
            5 => model.zero(disk, range, ZeroMode::Allocate).await,
            6 => model.discard(disk, range).await,
            7 => disk.flush().await.expect("flushed"),
            8 => map_is_true(disk, model, range).await,
            _ => model.compare_range(disk, range).await,
        }
    }
    model.compare(disk).await;
    map_is_true(disk, model, disk.geometry().whole()).await;
}

/// What is called zero is zero; answers cover the range in order.
async fn map_is_true(disk: &dyn Disk, model: &Model, range: ByteRange) {
    let mut at = range.start();
    while at < range.end() {
        let rest = ByteRange::new(at, range.end()).expect("in order");
        let found = disk.map(rest).await.expect("mapped");
        assert!(!found.is_empty(), "no answer for {rest}");
        for MappedRange { range: part, content } in found {
            assert_eq!(part.start(), at, "a gap or a step back");
            assert!(!part.is_empty() && rest.contains(part), "{part} of {rest}");
            if content != Content::Data {
                assert!(model.is_zero(part), "{part} is said to be {content:?}");
            }
            at = part.end();
        }
    }
}

/// New bytes read as zeroes, old ones stay; nothing else is accepted.
async fn growth(profile: Profile, disk: &dyn Disk, model: &mut Model, seed: &mut Seed) {
    let sector = profile.sector();
    let size = disk.geometry().size_bytes;
    disk.resize(size).await.expect("it has that size");
    let larger = (!profile.grows).then_some(size + sector);
    for refused in [size - sector, size + 1, u64::MAX].into_iter().chain(larger) {
        let result = disk.resize(refused).await;
        let Err(DiskError::Resize { from_bytes, to_bytes }) = result else {
            panic!("from {size} to {refused}: {result:?}")
        };
        assert_eq!((from_bytes, to_bytes), (size, refused));
    }
    let steps: &[u64] = if profile.grows { &[1, 7, 8, 81] } else { &[] };
    for step in steps {
        let before = disk.geometry().size_bytes;
        let after = before + step * sector;
        let end = range(before - sector, sector);
        model.write(disk, end, seed).await;
        disk.resize(after).await.expect("grown");
        assert_eq!(disk.geometry().size_bytes, after);
        model.grow(after);
        model.compare(disk).await;
    }
}
