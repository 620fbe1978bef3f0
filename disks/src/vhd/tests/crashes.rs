//! Power cuts at every flush: what was flushed is there, what was not is old or new, sector by sector; and QEMU finds the same.

use super::{KIB, KINDS, foreign, location, open_disk, recipe, reference};
use crate::disk::{Disk, DiskError, Durability, ZeroMode};
use crate::faults::{FaultFolder, Seed, run};
use crate::image::{Access, Location};
use crate::vhd::{NewKind, create};
use crate::{Buffer, ByteOffset, ByteRange};

const SIZE: u64 = 1 << 20;
const SECTOR: usize = 512;

/// What each sector may hold: the byte of the last flush, and of every operation since; and which sizes the disk may have.
struct Model {
    sectors: Vec<Vec<u8>>,
    /// The size that was reported, and one that was asked for and not reported.
    reported: usize,
    asked: Option<usize>,
}

impl Model {
    fn change(&mut self, range: ByteRange, byte: u8) {
        for sector in &mut self.sectors[places(range)] {
            sector.push(byte);
        }
    }

    fn flushed(&mut self) {
        for sector in &mut self.sectors {
            *sector = vec![*sector.last().expect("it holds something")];
        }
    }

    fn check(&mut self, content: &[u8], context: &str) {
        let sectors = content.len() / SECTOR;
        let fits = sectors == self.reported || Some(sectors) == self.asked;
        assert!(fits, "{context}: {sectors} sectors of {} or {:?}", self.reported, self.asked);
        self.sectors.resize(sectors, vec![0]);
        for (number, (sector, allowed)) in content.chunks(SECTOR).zip(&self.sectors).enumerate() {
            let byte = sector[0];
            let one = sector.iter().all(|other| *other == byte);
            assert!(
                one && allowed.contains(&byte),
                "{context}: sector {number} holds {byte} (all: {one}), allowed: {allowed:?}"
            );
        }
    }

    /// What was found stays.
    fn settle(&mut self, content: &[u8]) {
        self.sectors = content.chunks(SECTOR).map(|sector| vec![sector[0]]).collect();
        (self.reported, self.asked) = (self.sectors.len(), None);
    }
}

fn places(range: ByteRange) -> std::ops::Range<usize> {
    let [start, end] = [range.start(), range.end()]
        .map(|offset| usize::try_from(offset.bytes()).expect("small") / SECTOR);
    start..end
}

fn sectors(start: u64, count: u64) -> ByteRange {
    let sector = SECTOR as u64;
    ByteRange::at(ByteOffset::new(start * sector), count * sector).expect("small")
}

/// One operation; a failed one may have been done in part.
async fn step(
    disk: &dyn Disk,
    model: &mut Model,
    seed: &mut Seed,
    byte: u8,
) -> Result<(), DiskError> {
    let all = model.reported as u64;
    let start = seed.below(all);
    let range = sectors(start, 1 + seed.below((all - start).min(40)));
    match seed.below(10) {
        0..5 => {
            model.change(range, byte);
            let mut data = Buffer::zeroed(usize::try_from(range.length()).expect("small"));
            data.fill(byte);
            disk.write(range.start(), data, Durability::Cached).await
        }
        5 => {
            model.change(range, 0);
            let mode = *seed.pick(&[ZeroMode::Unmap, ZeroMode::Allocate]);
            disk.write_zeroes(range, mode, Durability::Cached).await
        }
        6 => {
            model.change(range.whole_blocks(), 0);
            disk.discard(range).await
        }
        7 => {
            let asked = model.reported + 1 + seed.index(300);
            model.asked = Some(asked);
            disk.resize((asked * SECTOR) as u64).await?;
            model.sectors.resize(asked, vec![0]);
            (model.reported, model.asked) = (asked, None);
            Ok(())
        }
        _ => {
            disk.flush().await?;
            model.flushed();
            Ok(())
        }
    }
}

/// What QEMU reads is what is read here, but for a size of which one footer knows. It has nothing but the last footer of a fixed
/// disk, which may be on its way.
fn check_as_qemu(bytes: &[u8], content: &[u8], kind: Option<NewKind>, context: &str) {
    let Some(found) = reference::read_as_qemu(bytes) else {
        assert_eq!(kind, Some(NewKind::Fixed), "{context}: QEMU does not open it");
        return;
    };
    let both = found.len().min(content.len());
    // Of a growth that was cut short QEMU sees what the old footer left; it was never reported.
    assert!(found[..both] == content[..both] || kind == Some(NewKind::Fixed), "{context}: QEMU");
    assert!(content[both..].iter().all(|byte| *byte == 0), "{context}: QEMU lacks content");
}

async fn look(location: &Location, model: &mut Model, kind: Option<NewKind>, context: &str) {
    let disk = open_disk(location, Access::Read).await;
    let content = disk.read(disk.geometry().whole()).await.expect("read");
    drop(disk);
    model.check(&content, context);
    check_as_qemu(&super::bytes_of(location).await, &content, kind, context);
    // Opened for writing it is put in order, and reads the same.
    let disk = open_disk(location, Access::Write).await;
    let again = disk.read(disk.geometry().whole()).await.expect("read");
    assert!(*again == *content, "{context}: opening it changed it");
    drop(disk);
    let bytes = super::bytes_of(location).await;
    assert!(reference::read(&bytes).is_some_and(|read| read == *content), "{context}: the file");
    assert!(reference::read_as_qemu(&bytes).is_some_and(|read| read == *content), "{context}");
    assert!(super::examine(location, false).await.findings.is_empty(), "{context}");
    model.settle(&content);
}

/// Gives how many power cuts there were.
fn crash_and_look(kind: Option<NewKind>, number: u64) -> u32 {
    let mut seed = Seed::new(number);
    let mut choices = seed.fork();
    let mut folder = FaultFolder::new(seed.fork());
    folder.keep_sectors_whole();
    let all = usize::try_from(SIZE).expect("small") / SECTOR;
    let mut model = Model { sectors: vec![vec![0]; all], reported: all, asked: None };
    run(&mut seed, |_| async {
        let location = location(&folder, "image");
        match kind {
            Some(kind) => create(&location, &recipe(kind, SIZE)).await.expect("created"),
            None => foreign(&location, 8 * KIB, SIZE).await,
        }
    });
    let mut cuts = 0;
    for life in 0..6_u32 {
        folder.crash_after_flushes(1 + choices.below(16));
        run(&mut seed, |_| async {
            let disk = open_disk(&location(&folder, "image"), Access::Write).await;
            for operation in 0..60_u32 {
                let byte = u8::try_from(1 + (life * 60 + operation) % 250).expect("small");
                if let Err(error) = step(&*disk, &mut model, &mut choices, byte).await {
                    assert!(folder.is_dead(), "seed {number}: a failure without a cause: {error}");
                    break;
                }
            }
        });
        cuts += u32::from(folder.is_dead());
        folder = match seed.below(3) {
            0 => folder.crash_losing_one(&mut seed),
            _ => folder.crash(&mut seed),
        };
        let context = format!("{kind:?}, seed {number}, life {life}");
        run(&mut seed, |_| async {
            look(&location(&folder, "image"), &mut model, kind, &context).await;
        });
    }
    cuts
}

#[test]
fn what_was_flushed_is_there_after_a_power_cut() {
    for kind in KINDS.map(Some).into_iter().chain([None]) {
        let cuts: u32 = (0..40).map(|number| crash_and_look(kind, number)).sum();
        assert!(cuts > 100, "{kind:?}: {cuts} power cuts");
    }
}
