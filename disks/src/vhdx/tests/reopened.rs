//! Random reads, writes, discards and growth, with the image closed and opened again in between, against plain bytes.

use super::{SORTS, Sort, guids, in_memory, make, open_disk, read_all};
use crate::disk::{Disk, Durability, ZeroMode};
use crate::faults::Seed;
use crate::image::Access;
use crate::vhdx::check_with;
use crate::{BLOCK_SIZE, Buffer, ByteOffset};

async fn step(disk: &dyn Disk, seed: &mut Seed, model: &mut Vec<u8>) {
    let size = model.len() as u64;
    let sector = u64::from(disk.geometry().logical_sector);
    let unit = *seed.pick(&[1, sector, BLOCK_SIZE]);
    let start = seed.below(size) / unit * unit;
    let longest = *seed.pick(&[100, 10_000, 2 << 20]);
    let range = super::range(start, (seed.below(longest) + 1).min(size - start));
    let index = |offset: ByteOffset| usize::try_from(offset.bytes()).expect("small");
    let target = index(range.start())..index(range.end());
    match seed.below(12) {
        0..6 => {
            seed.fill(&mut model[target.clone()]);
            let data = Buffer::copy_of(&model[target]);
            let durability = *seed.pick(&[Durability::Cached, Durability::Durable]);
            disk.write(range.start(), data, durability).await.expect("written");
        }
        6 | 7 => {
            model[target].fill(0);
            let mode = *seed.pick(&[ZeroMode::Unmap, ZeroMode::Allocate]);
            disk.write_zeroes(range, mode, Durability::Cached).await.expect("zeroed");
        }
        8 => {
            let whole = range.whole_blocks();
            model[index(whole.start())..index(whole.end())].fill(0);
            disk.discard(range).await.expect("discarded");
        }
        9 => {
            let larger = size + (seed.below(600) + 1) * sector;
            disk.resize(larger).await.expect("grown");
            model.resize(usize::try_from(larger).expect("small"), 0);
        }
        10 => disk.flush().await.expect("flushed"),
        _ => assert!(*disk.read(range).await.expect("read") == model[target], "{range}"),
    }
}

#[test]
fn content_survives_every_way_of_use() {
    for (number, sort) in (0..).zip(SORTS) {
        in_memory(number, async |folder| {
            let mut seed = Seed::new(number + 100);
            let mut model = vec![0; 5 << 20];
            let image = make(folder, "image.vhdx", sort, model.len() as u64).await;
            for round in 0..8 {
                let disk = open_disk(&image, Access::Write).await;
                for _ in 0..40 {
                    step(&*disk, &mut seed, &mut model).await;
                }
                disk.flush().await.expect("flushed");
                drop(disk);
                let report = check_with(&image, false, &guids()).await.expect("checked");
                assert!(report.is_clean(), "{sort:?}, round {round}: {:?}", report.findings);
                let disk = open_disk(&image, Access::Read).await;
                assert!(read_all(&*disk).await == model, "{sort:?}, round {round}");
            }
            if sort.0 != Sort::Fixed {
                let disk = open_disk(&image, Access::Write).await;
                disk.discard(disk.geometry().whole()).await.expect("discarded");
                disk.flush().await.expect("flushed");
                drop(disk);
                let report = check_with(&image, false, &guids()).await.expect("checked");
                assert!(report.placed <= 1, "{sort:?}: {} blocks are left", report.placed);
            }
        });
    }
}
