//! What depends on a disk being large: how much one command may do, and what it keeps from others meanwhile.

use landfall_disks::faults::{Seed, run};
use landfall_disks::{
    Buffer, ByteOffset, ByteRange, Disk, Durability, Geometry, IoFuture, MappedRange, RangeLocks,
    ZeroMode,
};
use landfall_protocols::iscsi::scsi::{
    Decision, Device, Identity, InitiatorPort, Lun, LunNumber, Nexus, Sense, Status, Unit,
};
use std::pin::pin;
use std::sync::Arc;
use tokio::sync::Semaphore;

const SIZE_BYTES: u64 = 4 << 30;
const BLOCKS: u64 = SIZE_BYTES / 512;
/// Most blocks of WRITE SAME.
const MOST: u32 = 1 << 19;

/// Nothing but zeroes. Each write and each zeroing uses up a permit.
struct Vast(Semaphore);

impl Vast {
    fn permitted(&self) -> IoFuture<'_, ()> {
        Box::pin(async move {
            self.0.acquire().await.expect("it is never closed").forget();
            Ok(())
        })
    }
}

impl Disk for Vast {
    fn geometry(&self) -> Geometry {
        let (logical_sector, physical_sector) = (512, 4096);
        Geometry { size_bytes: SIZE_BYTES, logical_sector, physical_sector, read_only: false }
    }

    fn read(&self, range: ByteRange) -> IoFuture<'_, Buffer> {
        let length = usize::try_from(range.length()).expect("a stride");
        Box::pin(async move { Ok(Buffer::zeroed(length)) })
    }

    fn write(&self, _: ByteOffset, _: Buffer, _: Durability) -> IoFuture<'_, ()> {
        self.permitted()
    }

    fn write_zeroes(&self, _: ByteRange, _: ZeroMode, _: Durability) -> IoFuture<'_, ()> {
        self.permitted()
    }

    fn flush(&self) -> IoFuture<'_, ()> {
        Box::pin(async { Ok(()) })
    }

    fn map(&self, _: ByteRange) -> IoFuture<'_, Vec<MappedRange>> {
        Box::pin(async { Ok(Vec::new()) })
    }
}

fn vast() -> (Arc<Vast>, RangeLocks, Nexus) {
    let disk = Arc::new(Vast(Semaphore::new(0)));
    let device = Device::new("iqn.2026-11.internal.landfall:vast");
    let unit = Unit::new(Arc::clone(&disk) as Arc<dyn Disk>, Identity::new("vast"));
    let locks = unit.locks.clone();
    device.attach(LunNumber::default(), unit).expect("it is free");
    let nexus = device.nexus(InitiatorPort { name: "iqn.test".into(), isid: [1; 6] });
    let Decision::Answer(_) = decide(&nexus, &[0; 6], 0) else { panic!("it is new") };
    (disk, locks, nexus)
}

fn decide(nexus: &Nexus, cdb: &[u8], announced: usize) -> Decision {
    nexus.decide(Lun::from_bytes([0; 8]), cdb, u32::try_from(announced).expect("little"))
}

fn write_same(lba: u64, count: u32) -> Vec<u8> {
    let mut cdb = vec![0x93, 0];
    cdb.extend(lba.to_be_bytes());
    cdb.extend(count.to_be_bytes());
    cdb.extend([0, 0]);
    cdb
}

#[test]
fn write_same_has_a_limit() {
    let (_, _, nexus) = vast();
    let wrong = Sense::invalid_field(10, 7);
    for (lba, count, fits) in [
        (0, MOST, true),
        (0, MOST + 1, false),
        (BLOCKS - u64::from(MOST), 0, true),
        (BLOCKS - u64::from(MOST) - 1, 0, false),
        (0, 0, false),
    ] {
        match decide(&nexus, &write_same(lba, count), 512) {
            Decision::Do(task) => assert!(fits, "{task:?}"),
            Decision::Answer(answer) => assert_eq!((answer.sense, fits), (Some(wrong), false)),
        }
    }
}

#[test]
fn long_commands_hold_what_they_are_at_and_no_more() {
    let mut list = vec![0, 22, 0, 16, 0, 0, 0, 0];
    list.extend([0; 8]);
    list.extend((3_u32 << 21).to_be_bytes());
    list.extend([0; 4]);
    let unmap = vec![0x42, 0, 0, 0, 0, 0, 0, 0, 24, 0];
    // Strides of a MiB that are written, and of a GiB that are zeroed.
    for (cdb, data, stride) in
        [(write_same(0, 3 << 11), vec![1; 512], 1 << 20), (unmap, list, 1 << 30)]
    {
        let (disk, locks, nexus) = vast();
        let Decision::Do(task) = decide(&nexus, &cdb, data.len()) else { panic!("{cdb:02x?}") };
        run(&mut Seed::new(0), |_| async {
            let mut done = pin!(nexus.execute(&task, Buffer::copy_of(&data)));
            let first = ByteRange::up_to(stride);
            let second = ByteRange::at(first.end(), stride).expect("small");
            assert!(futures_util::poll!(done.as_mut()).is_pending());
            assert!(futures_util::poll!(pin!(locks.lock_exclusive(first))).is_pending());
            disk.0.add_permits(1);
            assert!(futures_util::poll!(done.as_mut()).is_pending());
            assert!(futures_util::poll!(pin!(locks.lock_exclusive(second))).is_pending());
            let free = futures_util::poll!(pin!(locks.lock_exclusive(first))).is_ready();
            assert!(free, "{cdb:02x?} holds what it is done with");
            disk.0.add_permits(2);
            assert_eq!(done.await.status, Status::Good);
        });
    }
}
