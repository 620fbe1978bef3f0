//! Commands at the same time: what is compared and written is so against everything, and what was aborted stays invisible.

use crate::model::disk::{BLOCK, Blocks, MemoryDisk};
use landfall_disks::faults::{Seed, run};
use landfall_disks::{
    Buffer, ByteOffset, ByteRange, Disk, Durability, Geometry, IoFuture, Locked, MappedRange,
    RangeLocks, ZeroMode,
};
use landfall_protocols::iscsi::scsi::{
    Additional, Completion, Decision, Device, Identity, InitiatorPort, Lun, LunNumber, Nexus,
    Sense, Status, Task, Unit,
};
use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use tokio::sync::Semaphore;

/// Every read and write takes its time, in the middle of which others run; writes are of single blocks, one after the other.
struct SlowDisk {
    below: MemoryDisk,
    /// Writes and flushes take a permit, and give it back.
    gate: Semaphore,
}

impl Disk for SlowDisk {
    fn geometry(&self) -> Geometry {
        self.below.geometry()
    }

    fn read(&self, range: ByteRange) -> IoFuture<'_, Buffer> {
        Box::pin(async move {
            let mut all = Buffer::zeroed(range.length() as usize);
            for (block, into) in range.chunks(BLOCK as u64).zip(all.chunks_mut(BLOCK)) {
                tokio::task::yield_now().await;
                into.copy_from_slice(&self.below.read(block).await?);
            }
            Ok(all)
        })
    }

    fn write(&self, at: ByteOffset, data: Buffer, durability: Durability) -> IoFuture<'_, ()> {
        Box::pin(async move {
            drop(self.gate.acquire().await);
            for (place, block) in data.chunks(BLOCK).enumerate() {
                tokio::task::yield_now().await;
                let at = ByteOffset::new(at.bytes() + (place * BLOCK) as u64);
                self.below.write(at, Buffer::copy_of(block), durability).await?;
            }
            Ok(())
        })
    }

    fn write_zeroes(
        &self,
        range: ByteRange,
        mode: ZeroMode,
        durability: Durability,
    ) -> IoFuture<'_, ()> {
        Box::pin(async move {
            drop(self.gate.acquire().await);
            self.below.write_zeroes(range, mode, durability).await
        })
    }

    fn flush(&self) -> IoFuture<'_, ()> {
        Box::pin(async move {
            drop(self.gate.acquire().await);
            self.below.flush().await
        })
    }

    fn map(&self, range: ByteRange) -> IoFuture<'_, Vec<MappedRange>> {
        self.below.map(range)
    }
}

const UNIT: [u8; 8] = [0; 8];

fn slow() -> (Arc<SlowDisk>, Arc<Device>) {
    let below = MemoryDisk::new(Blocks::new(16));
    let disk = Arc::new(SlowDisk { below, gate: Semaphore::new(1000) });
    let device = target(&disk, &RangeLocks::new());
    (disk, device)
}

/// A target with `disk` as its unit.
fn target(disk: &Arc<SlowDisk>, locks: &RangeLocks) -> Arc<Device> {
    let device = Device::new("iqn.2026-11.internal.landfall:slow");
    let mut unit = Unit::new(Arc::clone(disk) as Arc<dyn Disk>, Identity::new("slow"));
    unit.locks = locks.clone();
    unit.removable = true;
    device.attach(LunNumber::default(), unit).expect("it is free");
    device
}

fn initiator(device: &Arc<Device>, who: u8) -> Nexus {
    let nexus = device.nexus(InitiatorPort { name: "iqn.test".into(), isid: [who; 6] });
    let Decision::Answer(told) = nexus.decide(Lun::from_bytes(UNIT), &[0; 6], 0) else {
        panic!("TEST UNIT READY is answered at once");
    };
    assert_eq!(told.sense.expect("it is new").additional, Additional::POWER_ON);
    nexus
}

fn task(nexus: &Nexus, cdb: &[u8], announced: usize) -> Task {
    match nexus.decide(Lun::from_bytes(UNIT), cdb, announced as u32) {
        Decision::Do(task) => task,
        Decision::Answer(completion) => panic!("{completion:?}"),
    }
}

async fn send(nexus: &Nexus, cdb: &[u8], data: &[u8]) -> Completion {
    let task = task(nexus, cdb, data.len());
    nexus.execute(&task, Buffer::copy_of(data)).await
}

/// Two blocks that hold the same number.
fn pair(number: u64) -> Vec<u8> {
    number.to_be_bytes().repeat(2 * BLOCK / 8)
}

const READ_PAIR: [u8; 16] = [0x88, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0];
const COMPARE_PAIR: [u8; 16] = [0x89, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0];

/// Two initiators of each of two targets that have the same disk.
#[test]
fn a_counter_that_is_compared_and_written_counts() {
    for number in 0..60 {
        let mut seed = Seed::new(number);
        let (disk, _) = slow();
        let locks = RangeLocks::new();
        let targets = [target(&disk, &locks), target(&disk, &locks)];
        run(&mut seed, |spawner| async move {
            let counted = Rc::new(Cell::new(0));
            let (done, mut finished) = tokio::sync::mpsc::channel::<()>(1);
            for who in 0..4 {
                let device = &targets[usize::from(who % 2)];
                let (nexus, counted, done) =
                    (initiator(device, who), Rc::clone(&counted), done.clone());
                spawner.spawn(async move {
                    for _ in 0..5 {
                        let read = send(&nexus, &READ_PAIR, &[]).await;
                        let found = read.data_in.as_slice().to_vec();
                        let first = u64::from_be_bytes(*found.first_chunk().expect("two blocks"));
                        assert_eq!(found, pair(first), "a read saw half of a write");
                        let both = [found, pair(first + 1)].concat();
                        let swapped = send(&nexus, &COMPARE_PAIR, &both).await;
                        match swapped.status {
                            Status::Good => counted.set(counted.get() + 1),
                            _ => assert_eq!(
                                swapped.sense.expect("why").additional,
                                Additional::MISCOMPARE
                            ),
                        }
                    }
                    drop(done);
                });
            }
            drop(done);
            assert_eq!(finished.recv().await, None);
            let held = disk.below.0.lock().expect("no panic");
            assert_eq!(held.bytes[..2 * BLOCK], pair(counted.get()));
            assert!(counted.get() > 0);
        });
    }
}

/// Somebody who has the disk without being an initiator writes while others compare and write.
#[test]
fn what_another_protocol_writes_is_compared_or_kept() {
    /// Numbers of the other writer begin here.
    const OTHERS: u64 = 1 << 32;
    for number in 0..60 {
        let (disk, _) = slow();
        let locks = RangeLocks::new();
        let device = target(&disk, &locks);
        let other = Locked::new(Arc::clone(&disk) as Arc<dyn Disk>, locks);
        run(&mut Seed::new(number), |spawner| async move {
            let (done, mut finished) = tokio::sync::mpsc::channel::<()>(1);
            let writing = done.clone();
            spawner.spawn(async move {
                for round in 1..=10 {
                    let at = ByteOffset::new(0);
                    let bytes = Buffer::copy_of(&pair(OTHERS * round));
                    other.write(at, bytes, Durability::Durable).await.expect("there is room");
                    let pair_of = ByteRange::at(at, 2 * BLOCK as u64).expect("small");
                    let found = other.read(pair_of).await.expect("nothing is damaged");
                    let (one, two) = found.split_at(BLOCK);
                    assert_eq!(one, two, "it saw half of a write");
                    let first = u64::from_be_bytes(*found.first_chunk().expect("two blocks"));
                    assert!(first >= OTHERS * round, "what it wrote was overwritten unseen");
                }
                drop(writing);
            });
            let nexus = initiator(&device, 0);
            spawner.spawn(async move {
                for _ in 0..10 {
                    // What is read may be half of what the other one is writing.
                    let read = send(&nexus, &READ_PAIR, &[]).await;
                    let found = read.data_in.as_slice();
                    let first = u64::from_be_bytes(*found.first_chunk().expect("two blocks"));
                    let both = [pair(first), pair(first + 1)].concat();
                    send(&nexus, &COMPARE_PAIR, &both).await;
                }
                drop(done);
            });
            assert_eq!(finished.recv().await, None);
        });
    }
}

#[test]
fn bits_that_are_written_together_are_all_there() {
    for number in 0..60 {
        let (disk, device) = slow();
        run(&mut Seed::new(number), |spawner| async move {
            let (done, mut finished) = tokio::sync::mpsc::channel::<()>(1);
            for who in 0..8 {
                let (nexus, done) = (initiator(&device, who), done.clone());
                spawner.spawn(async move {
                    let cdb = [0x8b, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0];
                    let written = send(&nexus, &cdb, &[1 << who; 2 * BLOCK]).await;
                    assert_eq!(written.status, Status::Good);
                    drop(done);
                });
            }
            drop(done);
            assert_eq!(finished.recv().await, None);
            let held = disk.below.0.lock().expect("no panic");
            assert_eq!(held.bytes[..2 * BLOCK], [0xff; 2 * BLOCK]);
        });
    }
}

/// A write that waits for another one when it is aborted never reaches the disk; and its end hinders nobody.
#[test]
fn an_aborted_write_that_had_not_begun_stays_invisible() {
    let (disk, device) = slow();
    run(&mut Seed::new(1), |spawner| {
        let disk = Arc::clone(&disk);
        async move {
            let nexus = Rc::new(initiator(&device, 0));
            // The gate is shut: the first one holds its blocks and waits for the disk.
            let permits = disk.gate.acquire_many(1000).await.expect("it is never closed");
            let first = task(&nexus, &COMPARE_PAIR, 4 * BLOCK);
            let second = Rc::new(task(&nexus, &COMPARE_PAIR, 4 * BLOCK));
            let ticket = second.ticket();
            let (done, mut finished) = tokio::sync::mpsc::channel::<Status>(2);
            let (own, end) = (Rc::clone(&nexus), done.clone());
            spawner.spawn(async move {
                let swap = [pair(0), pair(1)].concat();
                let completion = own.execute(&first, Buffer::copy_of(&swap)).await;
                end.send(completion.status).await.expect("somebody listens");
            });
            let own = Rc::clone(&nexus);
            spawner.spawn(async move {
                let swap = [pair(1), pair(2)].concat();
                let completion = own.execute(&second, Buffer::copy_of(&swap)).await;
                done.send(completion.status).await.expect("somebody listens");
            });
            for _ in 0..100 {
                tokio::task::yield_now().await;
            }
            assert!(ticket.abort());
            drop(permits);
            let mut ends = vec![finished.recv().await, finished.recv().await];
            ends.sort_by_key(|end| end.map(Status::byte));
            assert_eq!(ends, [Some(Status::Good), Some(Status::TaskAborted)]);
            let after = send(&nexus, &READ_PAIR, &[]).await;
            assert_eq!(after.data_in.as_slice(), pair(1));
        }
    });
}

/// What an initiator writes after its abort was answered must not be unmapped by what is left of the command.
#[test]
fn a_command_that_is_aborted_in_its_middle_does_no_more() {
    let block = |lba: u8| [&[0; 7][..], &[lba], &[0, 0, 0, 2], &[0; 4]].concat();
    let ranges = [&[0, 38, 0, 32, 0, 0, 0, 0][..], &block(0), &block(8)].concat();
    let write = |lba: u8| [0x8a, 0, 0, 0, 0, 0, 0, 0, 0, lba, 0, 0, 0, 2, 0, 0];
    let (disk, device) = slow();
    run(&mut Seed::new(1), |_| async move {
        let nexus = initiator(&device, 0);
        for lba in [0, 8] {
            assert_eq!(send(&nexus, &write(lba), &pair(7)).await.status, Status::Good);
        }
        let permits = disk.gate.acquire_many(1000).await.expect("it is never closed");
        let unmap = task(&nexus, &[0x42, 0, 0, 0, 0, 0, 0, 0, 40, 0], ranges.len());
        let mut done = std::pin::pin!(nexus.execute(&unmap, Buffer::copy_of(&ranges)));
        assert!(futures_util::poll!(done.as_mut()).is_pending());
        assert!(!unmap.ticket().abort(), "its first change has begun");
        drop(permits);
        assert_eq!(send(&nexus, &write(8), &pair(9)).await.status, Status::Good);
        assert_eq!(done.await.status, Status::TaskAborted);
        let held = disk.below.0.lock().expect("no panic");
        assert_eq!(held.bytes[..2 * BLOCK], pair(0), "that was begun");
        assert_eq!(held.bytes[8 * BLOCK..10 * BLOCK], pair(9), "that came later");
    });
}

/// The medium stays where it is, also if the flush before that ends well.
#[test]
fn an_aborted_eject_does_not_eject() {
    let (disk, device) = slow();
    run(&mut Seed::new(1), |_| async move {
        let nexus = initiator(&device, 0);
        let permits = disk.gate.acquire_many(1000).await.expect("it is never closed");
        let eject = task(&nexus, &[0x1b, 0, 0, 0, 2, 0], 0);
        let mut done = std::pin::pin!(nexus.execute(&eject, Buffer::zeroed(0)));
        assert!(futures_util::poll!(done.as_mut()).is_pending());
        eject.ticket().abort();
        drop(permits);
        assert_eq!(done.await.status, Status::TaskAborted);
        let Decision::Answer(ready) = nexus.decide(Lun::from_bytes(UNIT), &[0; 6], 0) else {
            panic!("TEST UNIT READY is answered at once");
        };
        assert_eq!(ready.status, Status::Good, "{:?}", ready.sense);
    });
}

/// A cache that is switched off is empty when that is answered, and stays on if that was aborted before.
#[test]
fn modes_that_need_a_flush_change_after_it() {
    let list = [&[0, 0, 0, 0, 0x08, 0x12][..], &[0; 18]].concat();
    for abort in [false, true] {
        let (disk, device) = slow();
        run(&mut Seed::new(1), |_| async {
            let nexus = initiator(&device, 0);
            let cached = || {
                let caching = [0x1a, 0x08, 0x08, 0, 0xff, 0];
                let Decision::Answer(told) = nexus.decide(Lun::from_bytes(UNIT), &caching, 0)
                else {
                    panic!("MODE SENSE is answered at once");
                };
                told.data_in.as_slice()[6] & 0x04 != 0
            };
            let permits = disk.gate.acquire_many(1000).await.expect("it is never closed");
            let select = task(&nexus, &[0x15, 0x10, 0, 0, 24, 0], list.len());
            let mut done = std::pin::pin!(nexus.execute(&select, Buffer::copy_of(&list)));
            assert!(futures_util::poll!(done.as_mut()).is_pending());
            assert!(cached(), "it is not flushed yet");
            if abort {
                select.ticket().abort();
            }
            drop(permits);
            let ended = done.await.status;
            assert_eq!(ended, if abort { Status::TaskAborted } else { Status::Good });
            assert_eq!(cached(), abort);
        });
    }
}

/// A target that is no more does nothing that it had not begun, and has no units.
#[test]
fn what_waits_when_units_go_does_nothing() {
    let (disk, device) = slow();
    run(&mut Seed::new(1), |_| async move {
        let nexus = initiator(&device, 0);
        let first = task(&nexus, &COMPARE_PAIR, 4 * BLOCK);
        let second = task(&nexus, &COMPARE_PAIR, 4 * BLOCK);
        let permits = disk.gate.acquire_many(1000).await.expect("it is never closed");
        let swap = |from, to| Buffer::copy_of(&[pair(from), pair(to)].concat());
        let mut begun = std::pin::pin!(nexus.execute(&first, swap(0, 1)));
        let mut waiting = std::pin::pin!(nexus.execute(&second, swap(1, 2)));
        for _ in 0..10 {
            assert!(futures_util::poll!(begun.as_mut()).is_pending());
            assert!(futures_util::poll!(waiting.as_mut()).is_pending());
        }
        device.detach_all();
        drop(permits);
        assert_eq!(begun.await.status, Status::Good);
        let lost = Sense::illegal(Additional::NOT_SUPPORTED_LUN);
        assert_eq!(waiting.await.sense, Some(lost));
        assert_eq!(disk.below.0.lock().expect("no panic").bytes[..2 * BLOCK], pair(1));
        let Decision::Answer(ready) = nexus.decide(Lun::from_bytes(UNIT), &[0; 6], 0) else {
            panic!("TEST UNIT READY is answered at once");
        };
        assert_eq!(ready.sense, Some(lost));
    });
}
