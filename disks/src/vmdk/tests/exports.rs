//! Stream-optimised disks: written once, read anywhere.

use super::*;
use crate::image::Format;
use crate::vmdk::format::stream::Level;
use crate::vmdk::{DiskUuid, export};

/// A disk with data here and there.
async fn source(folder: &Arc<dyn Folder>, size: u64, seed: &mut Seed) -> (Image, Vec<u8>) {
    let location = at(folder, "source.vmdk");
    let image = new_disk(&location, &Recipe::new(CreateType::MonolithicSparse, size)).await;
    let mut bytes = vec![0; usize::try_from(size).expect("small")];
    for _ in 0..12 {
        let start = seed.below(size / 512) * 512;
        let length = (seed.below(300) * 512).min(size - start);
        let [from, to] = [start, start + length].map(|at| usize::try_from(at).expect("small"));
        seed.fill(&mut bytes[from..to]);
        write(&*image.disk, start, Buffer::copy_of(&bytes[from..to])).await.expect("written");
    }
    image.disk.flush().await.expect("flushed");
    (image, bytes)
}

#[test]
fn an_export_reads_as_its_source() {
    for number in 0..6 {
        in_memory(number, async |folder, _| {
            let mut seed = Seed::new(number);
            let size = 512 * (1 + seed.below(90_000));
            let (image, bytes) = source(&folder, size, &mut seed).await;
            let location = at(&folder, "export.vmdk");
            let uuid = DiskUuid::from_seed([9; 16]);
            let recipe = Recipe { uuid: Some(uuid), ..Recipe::new(CreateType::StreamOptimized, 0) };
            let level = Level::new(1).expect("there is one");
            let mut last = 0;
            let progress = |done| {
                assert!(done >= last, "progress goes on");
                last = done;
            };
            export(&*image.disk, &location, &recipe, level, progress).await.expect("exported");
            let copy = open(&location, Access::Read).await.expect("opened");
            assert_eq!((copy.format, copy.kind.as_str()), (Format::Vmdk, "streamOptimized"));
            assert!(copy.details.contains(&("uuid", uuid.to_string())));
            assert!(read(&*copy.disk, 0, size).await == bytes, "seed {number}");
            for _ in 0..50 {
                let start = seed.below(size);
                let length = seed.below((size - start).min(200_000) + 1);
                let [from, to] =
                    [start, start + length].map(|at| usize::try_from(at).expect("small"));
                assert!(read(&*copy.disk, start, length).await == bytes[from..to]);
            }
            drop(copy);
            assert_eq!(look(&location, false).await.findings, []);
            let refused = open(&location, Access::Write).await.err().expect("read only");
            assert!(refused.to_string().contains("exports only"), "{refused}");
        });
    }
}

#[test]
fn an_export_conforms_read_only() {
    in_memory(2, async |folder, _| {
        let made = Cell::new(0);
        conformance::read_only(&mut Seed::new(5), async |content: Vec<u8>| {
            made.set(made.get() + 1);
            let source = at(&folder, &format!("source{}.vmdk", made.get()));
            let recipe = Recipe::new(CreateType::MonolithicFlat, content.len() as u64);
            let image = new_disk(&source, &recipe).await;
            write(&*image.disk, 0, Buffer::copy_of(&content)).await.expect("written");
            let location = at(&folder, &format!("export{}.vmdk", made.get()));
            let done = export(&*image.disk, &location, &recipe, Level::DEFAULT, |_| {}).await;
            done.expect("exported");
            open(&location, Access::Read).await.expect("opened").disk as Arc<dyn Disk>
        })
        .await;
    });
}

#[test]
fn an_export_that_was_cut_off_is_no_disk() {
    for cut in 1..4 {
        let mut seed = Seed::new(cut);
        let memory = FaultFolder::new(seed.fork());
        let mut choices = seed.fork();
        run(&mut seed, |_| async {
            let folder: Arc<dyn Folder> = Arc::new(memory.clone());
            let (image, _) = source(&folder, 1 << 20, &mut choices).await;
            memory.crash_after_flushes(cut);
            let location = at(&folder, "export.vmdk");
            let recipe = Recipe::new(CreateType::StreamOptimized, 0);
            let done = export(&*image.disk, &location, &recipe, Level::DEFAULT, |_| {}).await;
            assert_eq!(done.is_err(), memory.is_dead(), "{done:?}");
        });
        let next = memory.crash(&mut seed);
        run(&mut seed, |_| async {
            let folder: Arc<dyn Folder> = Arc::new(next);
            match open(&at(&folder, "export.vmdk"), Access::Read).await {
                Ok(image) => {
                    let whole = image.disk.geometry().whole();
                    image.disk.read(whole).await.expect("it has its name, so it is whole");
                }
                Err(error) => {
                    let missing =
                        matches!(error, ImageError::File(crate::file::FileError::NotFound { .. }));
                    assert!(missing, "{error}");
                }
            }
        });
    }
}
