//! Crashes at every flush: what was flushed is there, the file is consistent, and reading it without replaying the log in the
//! file gives the same as opening it for writing.

use super::{Sort, at, filled, guids, make, open, range, read_all};
use crate::disk::{Disk, Durability, ZeroMode};
use crate::faults::{FaultFolder, Seed, run};
use crate::file::{Caching, Folder, OpenMode};
use crate::image::{Access, Location};
use crate::vhdx::check_with;
use crate::{Buffer, ByteOffset};
use std::cell::RefCell;
use std::path::Path;
use vhdx_parse::{CurrentHeader, HEADER_BYTES, Header, HeaderSlot, LogEntry};

const SIZE: u64 = (3 << 20) + 4096;
const PATH: &str = "image.vhdx";

/// What each sector may hold: what it had at the last flush, and everything that was written since.
struct Promise {
    flushed: Vec<u8>,
    /// Sectors that were touched since, by number.
    touched: Vec<bool>,
    now: Vec<u8>,
}

impl Promise {
    fn new() -> Self {
        let size = usize::try_from(SIZE).expect("small");
        Self { flushed: vec![0; size], touched: vec![false; size / 512], now: vec![0; size] }
    }

    fn set(&mut self, start: u64, bytes: &[u8]) {
        let start = usize::try_from(start).expect("small");
        self.now[start..start + bytes.len()].copy_from_slice(bytes);
        for sector in start / 512..(start + bytes.len()).div_ceil(512) {
            self.touched[sector] = true;
        }
    }

    fn flushed(&mut self) {
        self.flushed.clone_from(&self.now);
        self.touched.fill(false);
    }

    /// Sectors that were not touched since the last flush are as they were then.
    fn check(&self, found: &[u8], what: &str) {
        for (number, touched) in self.touched.iter().enumerate() {
            let sector = number * 512..(number + 1) * 512;
            if !touched && sector.end <= found.len() {
                assert!(
                    found[sector.clone()] == self.flushed[sector],
                    "{what}: sector {number} was lost"
                );
            }
        }
    }
}

async fn step(disk: &dyn Disk, seed: &mut Seed, promise: &RefCell<Promise>) -> Result<(), ()> {
    let unit = *seed.pick(&[512, 4096, 65_536]);
    let start = seed.below(SIZE / unit) * unit;
    let longest = *seed.pick(&[1, 8, 64]);
    let length = ((seed.below(longest) + 1) * unit).min(SIZE - start) / 4096 * 4096;
    let length = length.max(512).min(SIZE - start);
    let (start, length) = if disk.geometry().logical_sector == 4096 {
        (start / 4096 * 4096, length.next_multiple_of(4096).min(SIZE - start / 4096 * 4096))
    } else {
        (start, length)
    };
    let size = usize::try_from(length).expect("small");
    let zeroes = vec![0; size];
    match seed.below(10) {
        0..5 => {
            let mut data = vec![0; size];
            seed.fill(&mut data);
            promise.borrow_mut().set(start, &data);
            let data = Buffer::copy_of(&data);
            disk.write(ByteOffset::new(start), data, Durability::Cached).await.map_err(drop)
        }
        5 => {
            promise.borrow_mut().set(start, &zeroes);
            let mode = *seed.pick(&[ZeroMode::Unmap, ZeroMode::Allocate]);
            disk.write_zeroes(range(start, length), mode, Durability::Cached).await.map_err(drop)
        }
        6 => {
            // Whole 4 KiB become zeroes, here; the rest stays.
            let whole = range(start, length).whole_blocks();
            let bytes = usize::try_from(whole.length()).expect("small");
            promise.borrow_mut().set(whole.start().bytes(), &zeroes[..bytes]);
            disk.discard(range(start, length)).await.map_err(drop)
        }
        _ => {
            disk.flush().await.map_err(drop)?;
            promise.borrow_mut().flushed();
            Ok(())
        }
    }
}

/// Writes until the power goes at the given flush; `false` if that was never reached.
fn until_the_crash(sort: (Sort, u32), number: u64, flush: u64) -> bool {
    let mut seed = Seed::new(number);
    let mut choices = seed.fork();
    let folder = FaultFolder::new(seed.fork());
    let promise = RefCell::new(Promise::new());
    run(&mut seed, |_| async {
        let location = make(&folder, PATH, sort, SIZE).await;
        let image = open(&location, Access::Write).await.expect("opened");
        folder.crash_after_flushes(flush);
        for _ in 0..24 {
            if step(&*image.disk, &mut choices, &promise).await.is_err() {
                assert!(folder.is_dead(), "nothing else was ordered");
                return;
            }
        }
    });
    let reached = folder.is_dead();
    let next = match number % 2 {
        0 => folder.crash(&mut seed),
        _ => folder.crash_losing_one(&mut seed),
    };
    let what = format!("{sort:?}, seed {number}, flush {flush}");
    run(&mut seed, |_| after_the_crash(&next, &promise, &what));
    reached
}

async fn after_the_crash(folder: &FaultFolder, promise: &RefCell<Promise>, what: &str) {
    let location = at(folder, PATH);
    let report = check_with(&location, false, &guids()).await.expect(what);
    // One header may be torn; nothing else may be wrong.
    for finding in &report.findings {
        assert_eq!(finding.problem.structure, "VHDX header", "{what}: {}", finding.problem);
    }
    let image = open(&location, Access::Read).await.expect(what);
    let in_memory = read_all(&*image.disk).await;
    drop(image);
    promise.borrow().check(&in_memory, what);
    let image = open(&location, Access::Write).await.expect(what);
    let replayed = read_all(&*image.disk).await;
    assert!(in_memory == replayed, "{what}: the log in memory and in the file differ");
    // And it can be used.
    image.disk.write(ByteOffset::new(0), filled(4096, 9), Durability::Durable).await.expect(what);
    drop(image);
    let image = open(&location, Access::Read).await.expect(what);
    let found = read_all(&*image.disk).await;
    assert!(found[..4096].iter().all(|byte| *byte == 9) && found[4096..] == replayed[4096..]);
}

#[test]
fn what_was_flushed_survives_a_crash_at_any_flush() {
    for sort in super::SORTS {
        for number in 0..10 {
            let mut flush = 1;
            while until_the_crash(sort, number, flush) {
                flush += 1;
            }
            assert!(flush > 5, "{sort:?}: only {flush} flushes");
        }
    }
}

/// Makes of an image whose last commit is complete one in which it is in the log only: the entry of the BAT that it wrote is
/// gone, and the header names the log. Gives whether there was an entry to do that with.
pub(super) fn put_back_into_the_log(file: &mut [u8]) -> bool {
    let header_at = |slot: HeaderSlot| usize::try_from(slot.offset()).expect("small");
    let part = |file: &[u8], slot| file[header_at(slot)..header_at(slot) + HEADER_BYTES].to_vec();
    let [one, two] = [HeaderSlot::First, HeaderSlot::Second].map(|slot| part(file, slot));
    let current = CurrentHeader::choose(&one, &two).expect("one is whole");
    assert!(current.header.log_guid.is_zero(), "the log was not emptied");
    let log = usize::try_from(current.header.log_offset).expect("small");
    let length = usize::try_from(current.header.log_length).expect("small");
    let ring = &file[log..log + length];
    // The newest entry, whatever log it belonged to.
    let entries = (0..length).step_by(4096).filter_map(|place| {
        let size = u32::from_le_bytes(ring[place + 8..place + 12].try_into().expect("four"));
        let end = place.checked_add(usize::try_from(size).ok()?)?;
        LogEntry::parse(ring.get(place..end)?, 0, current.header.log_length).ok()
    });
    let Some(newest) = entries.max_by_key(|entry| entry.header.sequence_number) else {
        return false;
    };
    for change in &newest.changes {
        let (offset, bytes) = change.range();
        let start = usize::try_from(offset).expect("small");
        file[start..start + usize::try_from(bytes).expect("small")].fill(0);
    }
    let header = Header { log_guid: newest.header.log_guid, ..current.header };
    let next = current.updated(header);
    let start = header_at(next.slot);
    file[start..start + HEADER_BYTES].copy_from_slice(&next.header.encode());
    !newest.changes.is_empty()
}

/// An image whose last commit is in its log only, laid into a folder that can lose power.
async fn lay_unreplayed(folder: &FaultFolder) -> Location {
    let location = make(folder, PATH, (Sort::Child, 512), SIZE).await;
    let image = open(&location, Access::Write).await.expect("opened");
    for at in [4096, 2 << 20] {
        let data = filled(4096, 5);
        image.disk.write(ByteOffset::new(at), data, Durability::Cached).await.expect("written");
    }
    image.disk.flush().await.expect("flushed");
    drop(image);
    let mode = OpenMode::ReadWrite;
    let file = folder.open(Path::new(PATH), mode, Caching::Buffered).await.expect("there");
    let length = usize::try_from(file.length().await.expect("measured")).expect("small");
    let mut bytes = file.read_at(0, Buffer::zeroed(length)).await.expect("read");
    assert!(put_back_into_the_log(&mut bytes), "the last commit is in the log");
    file.write_at(0, bytes).await.expect("written");
    file.flush().await.expect("flushed");
    location
}

#[test]
fn a_replay_that_is_interrupted_is_made_again() {
    for number in 0..12 {
        for flush in 1..4 {
            let mut seed = Seed::new(number);
            let folder = FaultFolder::new(seed.fork());
            run(&mut seed, |_| async {
                let location = lay_unreplayed(&folder).await;
                folder.crash_after_flushes(flush);
                let opened = open(&location, Access::Write).await;
                assert!(opened.is_err(), "it takes three flushes and more");
            });
            let next = folder.crash(&mut seed);
            run(&mut seed, |_| async {
                let location = at(&next, PATH);
                for access in [Access::Read, Access::Write, Access::Read] {
                    let image = open(&location, access).await.expect("opened");
                    let found = read_all(&*image.disk).await;
                    let fives = found.iter().filter(|byte| **byte == 5).count();
                    assert_eq!(fives, 8192, "seed {number}, flush {flush}, {access:?}");
                }
            });
        }
    }
}
