//! Commands on the disk of a branch, aborted at every moment: nothing of one that was aborted in time is there, and of any other
//! nothing comes to be behind what was written after its abort.

mod served;

use landfall_disks::faults::{Fault, Seed};
use landfall_disks::{
    Buffer, ByteOffset, ByteRange, Change, Disk, DiskError, Durability, Ticket, ZeroMode,
};
use landfall_retention::{JournalSettings, Settings};
use landfall_tests::web::{add_web, mark, put, request, with_settings};
use landfall_tests::world::{World, moment, name};
use std::collections::BTreeSet;
use std::sync::Arc;

const SIZE: u64 = 4 << 20;
/// More than two records of the journal.
const LONG: usize = (2 << 20) + 8192;
/// Polls of the whole after which the last write has long been done.
const LAST: u64 = 60;
/// Parts that a long command comes to be in: three records of a write, and zeroes.
const PARTS: usize = 4;

fn settings() -> Settings {
    let journal = JournalSettings { segment_bytes: 16 << 20, reserve_bytes: 0 };
    Settings { journal, ..World::settings() }
}

fn range(start: u64, length: u64) -> ByteRange {
    ByteRange::at(ByteOffset::new(start), length).expect("small")
}

/// A store with machine `web`, all ones, and a branch of it.
fn branched(seed: u64) -> World {
    let world = World::new(&mut Seed::new(seed));
    with_settings(&world, settings(), |store, _| {
        Box::pin(async move {
            add_web(&store, SIZE).await.expect("a new machine");
            let stream = store.open_stream(request(1, 0, SIZE)).await.expect("nobody streams");
            put(&stream, 1, 0, vec![1; 4 << 20]).await.expect("a seed");
            mark(&stream, 2).await;
            let latest = store.resolve(&moment("web@latest")).await.expect("a point");
            store.add_branch(&latest, name("b")).await.expect("a new branch");
        })
    });
    world
}

/// What the branch's disk holds when the store is opened.
fn reopened(world: &World, range: ByteRange) -> Vec<u8> {
    with_settings(world, settings(), |store, _| {
        Box::pin(async move {
            let disk = store.branch_disk(&name("web"), &name("b"), &name("os"));
            disk.expect("a branch").read(range).await.expect("read").to_vec()
        })
    })
}

async fn pause(polls: u64) {
    for _ in 0..polls {
        tokio::task::yield_now().await;
    }
}

fn write(at: u64, data: Vec<u8>) -> Change {
    let (at, data) = (ByteOffset::new(at), Buffer::copy_of(&data));
    Change::Write { at, data, durability: Durability::Durable }
}

/// A command of two changes: a long write of twos from `start`, then zeroes.
async fn command(disk: &dyn Disk, start: u64, ticket: &Ticket) -> Result<(), DiskError> {
    disk.change(write(start, vec![2; LONG]), ticket).await?;
    let (range, durability) = (range(3 << 20, 5000), Durability::Durable);
    disk.change(Change::WriteZeroes { range, mode: ZeroMode::Unmap, durability }, ticket).await
}

/// The disk with the first `parts` of a command from `start`, which begins a record.
fn expected(start: u64, parts: usize) -> Vec<u8> {
    let mut bytes = vec![1; 4 << 20];
    let first = usize::try_from(start).expect("small");
    let record = first / 4096 * 4096;
    let end = match parts {
        0 => first,
        1 | 2 => record + (parts << 20),
        _ => first + LONG,
    };
    bytes[first..end].fill(2);
    if parts == PARTS {
        bytes[3 << 20..][..5000].fill(0);
    }
    bytes
}

/// How many parts of a command from `start` are there, from its first.
fn parts_of(start: u64, read: &[u8]) -> Option<usize> {
    (0..=PARTS).find(|parts| read == expected(start, *parts))
}

/// Aborts a command that is not whole blocks at its ends, after so many polls; whether that was in time, how much of it is there, and how
/// many records say so.
fn abort_after(world: &World, polls: u64) -> (bool, usize, u64) {
    with_settings(world, settings(), |store, _| {
        Box::pin(async move {
            let disk = store.branch_disk(&name("web"), &name("b"), &name("os"));
            let disk: Arc<dyn Disk> = disk.expect("a branch");
            let ticket = Ticket::default();
            let abort = async {
                pause(polls).await;
                let in_time = ticket.abort();
                (in_time, disk.read(range(0, SIZE)).await.expect("read"))
            };
            let (ended, (in_time, read)) =
                futures_util::future::join(command(&*disk, 100, &ticket), abort).await;
            let parts = parts_of(100, &read).expect("some of its records, from the first");
            match ended {
                Ok(()) => assert!(!in_time && parts == PARTS, "after {polls} polls: {parts}"),
                Err(DiskError::Aborted) if in_time => assert_eq!(parts, 0, "after {polls} polls"),
                Err(DiskError::Aborted) => assert!(parts > 0, "after {polls} polls"),
                Err(error) => panic!("{error}"),
            }
            let later = disk.read(range(0, SIZE)).await.expect("read");
            assert!(read[..] == later[..], "it came to be after it was read, after {polls} polls");
            let journal = store.journal().await.expect("its status");
            (in_time, parts, journal.lanes.iter().map(|lane| lane.aborts).sum())
        })
    })
}

#[test]
fn what_was_read_after_an_abort_stays() {
    let mut seen = BTreeSet::new();
    for polls in 0..LAST {
        let world = branched(3);
        let (in_time, parts, records) = abort_after(&world, polls);
        seen.insert((in_time, parts, records));
        let read = reopened(&world.without_index(), range(0, SIZE));
        assert!(read == expected(100, parts), "rebuilt, after {polls} polls");
    }
    let wanted = [(true, 0, 0), (true, 0, 1), (false, PARTS, 0)];
    let missing: Vec<_> = wanted.iter().filter(|kind| !seen.contains(kind)).collect();
    assert!(missing.is_empty(), "not aborted at each moment: {missing:?} of {seen:?}");
    let ended = |(_, parts, _): &(bool, usize, u64)| (1..PARTS).contains(parts);
    assert!(seen.iter().any(ended), "never aborted in its middle: {seen:?}");
}

/// Records of whole blocks are written beside each other: what is aborted too late must not come behind what is written afterwards.
#[test]
fn what_is_written_after_an_abort_stays() {
    const START: u64 = 4096;
    // In the last record, and in the zeroes behind it.
    const AGAIN: [u64; 2] = [START + (2 << 20), 3 << 20];
    let mut late = BTreeSet::new();
    for polls in 0..LAST {
        let world = branched(3);
        let (in_time, ended) = with_settings(&world, settings(), |store, _| {
            Box::pin(async move {
                let disk = store.branch_disk(&name("web"), &name("b"), &name("os"));
                let disk: Arc<dyn Disk> = disk.expect("a branch");
                let ticket = Ticket::default();
                let again = async {
                    pause(polls).await;
                    let in_time = ticket.abort();
                    for at in AGAIN {
                        let written = disk.change(write(at, vec![3; 4096]), &Ticket::default());
                        written.await.expect("acknowledged");
                    }
                    in_time
                };
                let (ended, in_time) =
                    futures_util::future::join(command(&*disk, START, &ticket), again).await;
                let read = disk.read(range(0, SIZE)).await.expect("read");
                for at in AGAIN {
                    let at = usize::try_from(at).expect("small");
                    assert!(read[at..][..4096] == [3; 4096], "{at}, after {polls} polls");
                }
                (in_time, ended.is_ok())
            })
        });
        if !in_time {
            late.insert(ended);
        }
        let world = world.without_index();
        for at in AGAIN {
            assert!(reopened(&world, range(at, 4096)) == [3; 4096], "{at}, after {polls} polls");
        }
    }
    assert_eq!(late, BTreeSet::from([false, true]), "aborted in its middle, and when it was done");
}

/// What became of a write that was aborted while there was no space.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Spaceless {
    in_time: bool,
    /// NoSpace was its answer, or none at all.
    refused: Option<bool>,
    /// What was read after it had ended, if that could be read.
    read: Option<u8>,
}

/// Aborts a write after so many polls; the next writes to files find no space after some others.
fn spaceless(world: &World, (abort, full, times): (u64, u64, u64)) -> Spaceless {
    let folder = world.folder.clone();
    with_settings(world, settings(), |store, _| {
        Box::pin(async move {
            let disk = store.branch_disk(&name("web"), &name("b"), &name("os"));
            let disk: Arc<dyn Disk> = disk.expect("a branch");
            // Its segment is there: what finds no space is what follows.
            let first = disk.write(ByteOffset::new(0), Buffer::zeroed(4096), Durability::Durable);
            first.await.expect("there is space");
            let ticket = Ticket::default();
            let (change, block) = (write(8192, vec![2; 4096]), range(8192, 4096));
            let order = async {
                pause(full).await;
                (0..times).for_each(|_| folder.fail_next(Fault::Full));
            };
            let abort = async {
                pause(abort).await;
                (ticket.abort(), disk.read(block).await)
            };
            let (written, (in_time, early), ()) =
                futures_util::future::join3(disk.change(change, &ticket), abort, order).await;
            let late = disk.read(block).await;
            if let (Ok(early), Ok(late)) = (&early, &late) {
                assert!(early[..] == late[..], "it changed after the abort");
            }
            let refused = match written {
                Ok(()) => None,
                Err(DiskError::Aborted) => Some(false),
                Err(DiskError::NoSpace(_) | DiskError::Failed(_)) => Some(true),
                Err(error) => panic!("{error}"),
            };
            Spaceless { in_time, refused, read: late.or(early).ok().map(|bytes| bytes[0]) }
        })
    })
}

#[test]
fn what_was_aborted_while_there_was_no_space_stays_away() {
    let mut seen = BTreeSet::new();
    for (times, seed) in [(1, 3), (2, 3), (1, 4), (2, 4), (2, 5)] {
        for abort in (0..20).step_by(2) {
            for full in 0..20 {
                let world = branched(seed);
                let found = spaceless(&world, (abort, full, times));
                let read = found.read;
                let after = world.crash(&mut Seed::new(abort + full));
                let after = reopened(&after.without_index(), range(8192, 4096));
                if let Some(read) = read {
                    let place =
                        format!("abort {abort}, full {full} x {times}, seed {seed}: {found:?}");
                    assert!(after == [read; 4096], "{} after a crash, {place}", after[0]);
                }
                seen.insert(found);
            }
        }
    }
    let (in_time, ones) = (true, Some(1));
    let wanted = [
        Spaceless { in_time, refused: Some(false), read: ones },
        Spaceless { in_time, refused: Some(true), read: None },
        Spaceless { in_time: false, refused: None, read: Some(2) },
    ];
    let missing: Vec<_> = wanted.iter().filter(|kind| !seen.contains(kind)).collect();
    assert!(missing.is_empty(), "no space at each moment: {missing:?} of {seen:?}");
}
