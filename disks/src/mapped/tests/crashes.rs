//! Power cuts at every flush: what was flushed is there, what was not is old or new, sector by sector.

use super::toy::{self, Kind};
use super::{KINDS, zero_parent};
use crate::disk::{Disk, DiskError, Durability, ZeroMode};
use crate::faults::{FaultFolder, Seed, run};
use crate::image::Access;
use crate::{Buffer, ByteOffset, ByteRange};
use std::path::Path;

const SIZE: u64 = 2 << 20;
const SECTOR: usize = 512;

/// What each sector may hold: the byte of the last flush, and of every operation since.
struct Model {
    sectors: Vec<Vec<u8>>,
}

impl Model {
    fn change(&mut self, range: ByteRange, byte: u8) {
        for sector in self.of(range) {
            sector.push(byte);
        }
    }

    fn flushed(&mut self) {
        for sector in &mut self.sectors {
            let last = *sector.last().expect("it holds something");
            *sector = vec![last];
        }
    }

    fn of(&mut self, range: ByteRange) -> &mut [Vec<u8>] {
        let [start, end] = [range.start(), range.end()]
            .map(|offset| usize::try_from(offset.bytes()).expect("small") / SECTOR);
        &mut self.sectors[start..end]
    }

    fn check(&self, content: &[u8], context: &str) {
        for (number, (sector, allowed)) in content.chunks(SECTOR).zip(&self.sectors).enumerate() {
            let byte = sector[0];
            let one = sector.iter().all(|other| *other == byte);
            assert!(
                one && allowed.contains(&byte),
                "{context}: sector {number} holds {byte} (all: {one}), allowed: {allowed:?}"
            );
        }
    }
}

fn any_range(seed: &mut Seed) -> ByteRange {
    let sectors = SIZE / SECTOR as u64;
    let start = seed.below(sectors);
    let most = if seed.chance(1, 4) { 600 } else { 24 };
    let count = 1 + seed.below(most.min(sectors - start));
    ByteRange::at(ByteOffset::new(start * SECTOR as u64), count * SECTOR as u64).expect("small")
}

/// One operation; a failed one may have been done in part.
async fn step(
    disk: &dyn Disk,
    model: &mut Model,
    seed: &mut Seed,
    byte: u8,
) -> Result<(), DiskError> {
    let range = any_range(seed);
    match seed.below(8) {
        0..4 => {
            model.change(range, byte);
            let mut data = Buffer::zeroed(usize::try_from(range.length()).expect("small"));
            data.fill(byte);
            disk.write(range.start(), data, Durability::Cached).await
        }
        4 => {
            model.change(range, 0);
            disk.write_zeroes(range, ZeroMode::Unmap, Durability::Cached).await
        }
        5 => {
            model.change(range.whole_blocks(), 0);
            disk.discard(range).await
        }
        _ => {
            disk.flush().await?;
            model.flushed();
            Ok(())
        }
    }
}

fn crash_and_look(kind: Kind, child: bool, number: u64) {
    let mut seed = Seed::new(number);
    let mut choices = seed.fork();
    let mut folder = FaultFolder::new(seed.fork());
    folder.keep_sectors_whole();
    let mut model =
        Model { sectors: vec![vec![0]; usize::try_from(SIZE).expect("small") / SECTOR] };
    let path = Path::new("image");
    run(&mut seed, |_| async {
        if child {
            zero_parent(&folder, "image", SIZE).await;
        }
        toy::create(&folder, path, kind, SIZE, None).await;
    });
    for life in 0..6_u32 {
        folder.crash_after_flushes(1 + choices.below(12));
        run(&mut seed, |_| async {
            let parent = if child { Some(open_parent(&folder).await) } else { None };
            let disk = toy::open(&folder, path, kind, Access::Write, parent).await;
            for operation in 0..60_u32 {
                let byte = u8::try_from(1 + (life * 60 + operation) % 250).expect("small");
                if step(&disk, &mut model, &mut choices, byte).await.is_err() {
                    assert!(folder.is_dead(), "seed {number}: a failure without a cause");
                    break;
                }
            }
        });
        folder = match seed.below(3) {
            0 => folder.crash_losing_one(&mut seed),
            _ => folder.crash(&mut seed),
        };
        run(&mut seed, |_| async {
            let parent = if child { Some(open_parent(&folder).await) } else { None };
            let disk = toy::open(&folder, path, kind, Access::Read, parent).await;
            let content = disk.read(disk.geometry().whole()).await.expect("read");
            model.check(&content, &format!("{kind:?}, child {child}, seed {number}, life {life}"));
            // What was found stays.
            for (sector, found) in model.sectors.iter_mut().zip(content.chunks(SECTOR)) {
                *sector = vec![found[0]];
            }
        });
    }
}

async fn open_parent(folder: &FaultFolder) -> std::sync::Arc<dyn Disk> {
    let path = Path::new("image.parent");
    let parent = crate::raw::RawDisk::open(folder, path, None, true).await;
    std::sync::Arc::new(parent.expect("opened"))
}

#[test]
fn what_was_flushed_is_there_after_a_power_cut() {
    for kind in KINDS {
        for child in [false, true] {
            for number in 0..40 {
                crash_and_look(kind, child, number);
            }
        }
    }
}
