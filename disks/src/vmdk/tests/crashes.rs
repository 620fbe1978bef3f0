//! Power cuts at every flush, with torn and reordered writes: what was flushed is there, what was not is old or new.

use super::*;

const SIZE: u64 = 3 << 20;
const SECTOR: usize = 512;

/// What each sector may hold: the byte of the last flush, and of every operation since.
struct Sectors(Vec<Vec<u8>>);

impl Sectors {
    fn of(&mut self, range: ByteRange) -> &mut [Vec<u8>] {
        let [start, end] = [range.start(), range.end()]
            .map(|offset| usize::try_from(offset.bytes()).expect("small") / SECTOR);
        &mut self.0[start..end]
    }

    fn change(&mut self, range: ByteRange, byte: u8) {
        for sector in self.of(range) {
            sector.push(byte);
        }
    }

    fn flushed(&mut self) {
        for sector in &mut self.0 {
            *sector = vec![*sector.last().expect("it holds something")];
        }
    }

    /// Takes what was found for what is there, if it may be.
    fn settle(&mut self, content: &[u8], context: &str) {
        for (number, (found, allowed)) in content.chunks(SECTOR).zip(&mut self.0).enumerate() {
            let byte = found[0];
            let one = found.iter().all(|other| *other == byte);
            assert!(
                one && allowed.contains(&byte),
                "{context}: sector {number} holds {byte} (all: {one}), allowed: {allowed:?}"
            );
            *allowed = vec![byte];
        }
    }
}

fn any_range(seed: &mut Seed, size: u64) -> ByteRange {
    let sectors = size / SECTOR as u64;
    let start = seed.below(sectors);
    let most = if seed.chance(1, 4) { 600 } else { 24 };
    let count = 1 + seed.below(most.min(sectors - start));
    range(start * SECTOR as u64, count * SECTOR as u64)
}

/// One operation; one that fails may have been done in part.
async fn step(
    disk: &dyn Disk,
    sectors: &mut Sectors,
    seed: &mut Seed,
    byte: u8,
) -> Result<(), DiskError> {
    let size = disk.geometry().size_bytes;
    let range = any_range(seed, size);
    match seed.below(12) {
        0..5 => {
            sectors.change(range, byte);
            let data = filled(usize::try_from(range.length()).expect("small"), byte);
            write(disk, range.start().bytes(), data).await
        }
        5 => {
            sectors.change(range, 0);
            disk.write_zeroes(range, ZeroMode::Unmap, Durability::Cached).await
        }
        6 => {
            sectors.change(range.whole_blocks(), 0);
            disk.discard(range).await
        }
        7 if size < 2 * SIZE => {
            // Durable with everything before, once it is done; before, the disk has either size.
            let grown = size + 512 * (1 + seed.below(300));
            sectors.0.resize(usize::try_from(grown / 512).expect("small"), vec![0]);
            disk.resize(grown).await
        }
        _ => {
            disk.flush().await?;
            sectors.flushed();
            Ok(())
        }
    }
}

/// Lives that end in a power cut, one after another on what the last one left.
fn lives(kind: &CreateType, child: bool, number: u64) {
    let mut seed = Seed::new(number);
    let mut choices = seed.fork();
    let mut folder = FaultFolder::new(seed.fork());
    // A header is changed in place, and the format has no checksum that would tell half of one.
    folder.keep_sectors_whole();
    let mut sectors = Sectors(vec![vec![0]; usize::try_from(SIZE).expect("small") / SECTOR]);
    let shared = |folder: &FaultFolder| -> Arc<dyn Folder> { Arc::new(folder.clone()) };
    run(&mut seed, |_| async {
        let folder = shared(&folder);
        let mut recipe = Recipe::new(kind.clone(), SIZE);
        recipe.zeroed_grains = number % 2 == 1;
        if child {
            recipe.parent = Some(chains::zero_parent(&folder, SIZE).await);
        }
        create(&at(&folder, "disk.vmdk"), &recipe).await.expect("created");
    });
    for life in 0..5_u32 {
        folder.crash_after_flushes(1 + choices.below(14));
        run(&mut seed, |_| async {
            let context = format!("{kind:?}, child {child}, seed {number}, life {life}");
            let location = at(&shared(&folder), "disk.vmdk");
            let image = match open(&location, Access::Write).await {
                Ok(image) => image,
                Err(error) => {
                    assert!(folder.is_dead(), "{context}: {error}");
                    return;
                }
            };
            for operation in 0..60_u32 {
                let byte = u8::try_from(1 + (life * 60 + operation) % 250).expect("small");
                let done = step(&*image.disk, &mut sectors, &mut choices, byte).await;
                if let Err(error) = done {
                    assert!(folder.is_dead(), "{context}: {error}");
                    break;
                }
            }
        });
        folder = match seed.below(3) {
            0 => folder.crash_losing_one(&mut seed),
            _ => folder.crash(&mut seed),
        };
        run(&mut seed, |_| async {
            let context = format!("{kind:?}, child {child}, seed {number}, life {life}");
            let location = at(&shared(&folder), "disk.vmdk");
            let image = open(&location, Access::Read).await;
            let image = image.unwrap_or_else(|error| panic!("{context}: {error}"));
            // Growth that was not told to be done may be lost.
            let size = image.disk.geometry().size_bytes;
            let found = read(&*image.disk, 0, size).await;
            sectors.0.truncate(found.len() / SECTOR);
            sectors.settle(&found, &context);
            drop(image);
            let report = look(&location, false).await;
            let lost = report
                .findings
                .iter()
                .find(|finding| finding.repair == crate::image::Repair::Impossible);
            assert_eq!(lost, None, "{context}");
        });
    }
}

#[test]
fn what_was_flushed_is_there_after_a_power_cut() {
    for (kind, sparse) in writable_kinds() {
        for number in 0..24 {
            lives(&kind, false, number);
            if sparse {
                lives(&kind, true, number);
            }
        }
    }
}

#[test]
fn a_disk_is_made_as_a_whole_or_not_at_all() {
    for (kind, _) in writable_kinds() {
        for cut in 1..12 {
            let mut seed = Seed::new(cut);
            let folder = FaultFolder::new(seed.fork());
            folder.keep_sectors_whole();
            folder.crash_after_flushes(cut);
            let shared = |folder: &FaultFolder| -> Arc<dyn Folder> { Arc::new(folder.clone()) };
            let recipe = Recipe::new(kind.clone(), SIZE);
            let made = run(&mut seed, |_| async {
                create(&at(&shared(&folder), "disk.vmdk"), &recipe).await
            });
            assert_eq!(made.is_err(), folder.is_dead(), "{made:?}");
            let next = folder.crash(&mut seed);
            run(&mut seed, |_| async {
                let location = at(&shared(&next), "disk.vmdk");
                match open(&location, Access::Write).await {
                    Ok(image) => {
                        assert!(read(&*image.disk, 0, SIZE).await.iter().all(|byte| *byte == 0))
                    }
                    Err(ImageError::File(crate::file::FileError::NotFound { .. })) => {
                        assert!(made.is_err(), "{kind:?}: a disk that was made is there");
                    }
                    Err(error) => panic!("{kind:?}, cut {cut}: {error}"),
                }
            });
        }
    }
}
