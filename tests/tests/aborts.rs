//! Long commands on the disk of a branch, aborted at every moment: all of one is there, or nothing.

use landfall_disks::faults::Seed;
use landfall_disks::{
    Buffer, ByteOffset, ByteRange, Change, Disk, DiskError, Durability, Ticket, ZeroMode,
};
use landfall_retention::{JournalSettings, Settings};
use landfall_tests::web::{add_web, mark, put, request, with_settings};
use landfall_tests::world::{World, moment, name};
use std::collections::BTreeMap;
use std::sync::Arc;

const SIZE: u64 = 4 << 20;
/// More than two records of the journal.
const LONG: usize = (2 << 20) + 8192;
/// Polls of the whole after which the last write has long been done.
const LAST: u64 = 60;

fn settings() -> Settings {
    let journal = JournalSettings { segment_bytes: 16 << 20, reserve_bytes: 0 };
    Settings { journal, ..World::settings() }
}

fn range(start: u64, length: u64) -> ByteRange {
    ByteRange::at(ByteOffset::new(start), length).expect("small")
}

/// A store with machine `web`, all ones, and a branch of it.
fn branched() -> World {
    let world = World::new(&mut Seed::new(3));
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

/// A command of two changes: a long write that is not whole blocks at its ends, then zeroes.
async fn command(disk: &dyn Disk, ticket: &Ticket) -> Result<(), DiskError> {
    let (at, data) = (ByteOffset::new(100), Buffer::copy_of(&vec![2; LONG]));
    let durability = Durability::Durable;
    disk.change(Change::Write { at, data, durability }, ticket).await?;
    let range = range(3 << 20, 5000);
    disk.change(Change::WriteZeroes { range, mode: ZeroMode::Unmap, durability }, ticket).await
}

fn expected(there: bool) -> Vec<u8> {
    let mut bytes = vec![1; 4 << 20];
    if there {
        bytes[100..][..LONG].fill(2);
        bytes[3 << 20..][..5000].fill(0);
    }
    bytes
}

/// Aborts a command after so many polls; whether that was in time, and how many records say so.
fn abort_after(world: &World, polls: u64) -> (bool, u64) {
    with_settings(world, settings(), |store, _| {
        Box::pin(async move {
            let disk = store.branch_disk(&name("web"), &name("b"), &name("os"));
            let disk: Arc<dyn Disk> = disk.expect("a branch");
            let ticket = Ticket::default();
            let abort = async {
                for _ in 0..polls {
                    tokio::task::yield_now().await;
                }
                ticket.abort()
            };
            let (ended, in_time) =
                futures_util::future::join(command(&*disk, &ticket), abort).await;
            match ended {
                Ok(()) => assert!(!in_time, "after {polls} polls"),
                Err(DiskError::Aborted) => assert!(in_time, "after {polls} polls"),
                Err(error) => panic!("{error}"),
            }
            let read = disk.read(range(0, SIZE)).await.expect("read");
            assert!(read[..] == expected(!in_time)[..], "after {polls} polls, in time: {in_time}");
            let journal = store.journal().await.expect("its status");
            (in_time, journal.lanes.iter().map(|lane| lane.aborts).sum())
        })
    })
}

#[test]
fn a_command_of_many_records_is_there_wholly_or_not_at_all() {
    let mut seen = BTreeMap::new();
    for polls in 0..LAST {
        let world = branched();
        let (in_time, records) = abort_after(&world, polls);
        *seen.entry((in_time, records)).or_insert(0) += 1;
        with_settings(&world.without_index(), settings(), |store, _| {
            Box::pin(async move {
                let disk = store.branch_disk(&name("web"), &name("b"), &name("os"));
                let read = disk.expect("a branch").read(range(0, SIZE)).await.expect("read");
                assert!(read[..] == expected(!in_time)[..], "rebuilt, after {polls} polls");
            })
        });
    }
    let kinds: Vec<_> = seen.keys().copied().collect();
    let wanted = [(false, 0), (true, 0), (true, 1)];
    assert_eq!(kinds, wanted, "too late, before it was written, on its way: {seen:?}");
}
