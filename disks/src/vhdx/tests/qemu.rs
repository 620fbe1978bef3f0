//! QEMU as the second opinion on fixed and dynamic images with sectors of 512 bytes; it knows no others.
//!
//! A missing `qemu-img` or `qemu-io` fails these tests.

use super::{at, create_at, make, on_the_ring, open, open_disk, range, read_all, write};
use crate::disk::{Disk, ZeroMode};
use crate::faults::Seed;
use crate::image::Access;
use crate::vhdx::{CreateOptions, Kind};
use crate::{Buffer, Durability};
use std::path::Path;
use std::process::Command;

const SIZE: u64 = (70 << 20) + 512 * 3;

/// Runs a program of QEMU, which must be content.
fn qemu(folder: &Path, program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).current_dir(folder).output();
    let output = output.unwrap_or_else(|error| panic!("{program} is needed: {error}"));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {text}{errors}");
    text
}

/// That QEMU finds the image clean and reads it as `expected`.
fn agrees(folder: &Path, image: &str, expected: &[u8]) {
    let checked = qemu(folder, "qemu-img", &["check", "-f", "vhdx", image]);
    assert!(checked.contains("No errors"), "{checked}");
    std::fs::write(folder.join("expected.raw"), expected).expect("written");
    qemu(folder, "qemu-img", &["compare", "-f", "vhdx", "-F", "raw", image, "expected.raw"]);
}

/// Writes here and there, and says what should be there.
async fn scribble(disk: &dyn Disk, seed: &mut Seed, expected: &mut [u8]) {
    let size = disk.geometry().size_bytes;
    for _ in 0..60 {
        let unit = *seed.pick(&[1, 512, 4096]);
        let start = seed.below(size / unit) * unit;
        let longest = *seed.pick(&[512, 100_000, 3 << 20]);
        let length = seed.below(longest).min(size - start);
        let (at, end) = (usize::try_from(start), usize::try_from(start + length));
        let target = &mut expected[at.expect("small")..end.expect("small")];
        match seed.below(8) {
            0 => {
                target.fill(0);
                let zeroed =
                    disk.write_zeroes(range(start, length), ZeroMode::Unmap, Durability::Cached);
                zeroed.await.expect("zeroed");
            }
            1 => disk.flush().await.expect("flushed"),
            _ => {
                seed.fill(target);
                write(disk, start, Buffer::copy_of(target)).await.expect("written");
            }
        }
    }
}

#[test]
fn qemu_reads_what_is_written_here() {
    on_the_ring(async |root, folder| {
        let mut seed = Seed::new(1);
        for (kind, block) in
            [(Kind::Dynamic, 1), (Kind::Dynamic, 32), (Kind::Dynamic, 256), (Kind::Fixed, 2)]
        {
            let options =
                CreateOptions { kind, block_bytes: block << 20, ..CreateOptions::dynamic(SIZE) };
            let name = format!("ours-{block}.vhdx");
            let location = create_at(&root, &name, &options).await;
            let mut expected = vec![0; usize::try_from(SIZE).expect("small")];
            agrees(&folder, &name, &expected);
            for round in 0..3 {
                let disk = open_disk(&location, Access::Write).await;
                scribble(&*disk, &mut seed, &mut expected).await;
                disk.flush().await.expect("flushed");
                if round == 1 {
                    let larger = disk.geometry().size_bytes + (200 << 20);
                    disk.resize(larger).await.expect("grown");
                    expected.resize(usize::try_from(larger).expect("small"), 0);
                    scribble(&*disk, &mut seed, &mut expected).await;
                    disk.flush().await.expect("flushed");
                }
                // A copy that is taken now, while the image is open, is whole.
                std::fs::copy(folder.join(&name), folder.join("copy.vhdx")).expect("copied");
                agrees(&folder, "copy.vhdx", &expected);
                drop(disk);
                agrees(&folder, &name, &expected);
            }
        }
    });
}

#[test]
fn what_qemu_writes_is_read_here() {
    on_the_ring(async |root, folder| {
        for (subformat, block) in [("dynamic", 1), ("dynamic", 8), ("dynamic", 256), ("fixed", 16)]
        {
            let name = format!("theirs-{subformat}-{block}.vhdx");
            let options = format!("subformat={subformat},block_size={}", block << 20);
            let size = SIZE.to_string();
            let create = ["create", "-q", "-f", "vhdx", "-o", &options, &name, &size];
            qemu(&folder, "qemu-img", &create);
            let write = |pattern: u8, at: u64, length: u64| {
                let command = format!("write -P {pattern} {at} {length}");
                qemu(&folder, "qemu-io", &["-f", "vhdx", "-c", &command, &name]);
            };
            let both = async |expected: &mut Vec<u8>| {
                qemu(&folder, "qemu-img", &["convert", "-f", "vhdx", "-O", "raw", &name, "raw"]);
                *expected = std::fs::read(folder.join("raw")).expect("converted");
                let disk = open_disk(&at(&root, &name), Access::Read).await;
                assert!(read_all(&*disk).await == *expected, "{name}");
            };
            let mut expected = Vec::new();
            both(&mut expected).await;
            write(0xa1, 4096, 8192);
            write(0xb2, (33 << 20) + 512, 5 << 20);
            write(0xc3, SIZE - 512, 512);
            both(&mut expected).await;
            // And both write in turn.
            let disk = open_disk(&at(&root, &name), Access::Write).await;
            scribble(&*disk, &mut Seed::new(7), &mut expected).await;
            disk.flush().await.expect("flushed");
            drop(disk);
            agrees(&folder, &name, &expected);
            write(0xd4, 1 << 20, 40 << 20);
            both(&mut expected).await;
        }
    });
}

#[test]
fn qemu_replays_our_log_and_we_replay_it_the_same() {
    on_the_ring(async |root, folder| {
        let location = make(&root, "image.vhdx", (super::Sort::Dynamic, 512), 8 << 20).await;
        let disk = open_disk(&location, Access::Write).await;
        write(&*disk, 5 << 20, super::filled(4096, 7)).await.expect("written");
        disk.flush().await.expect("flushed");
        drop(disk);
        // As if the power had gone before the change was made in place: the log is in use, the BAT is as it was.
        let path = folder.join("image.vhdx");
        let mut bytes = std::fs::read(&path).expect("read");
        let used = super::crashes::put_back_into_the_log(&mut bytes);
        std::fs::write(&path, &bytes).expect("written");
        assert!(used, "the last commit is in the log");
        let image = open(&location, Access::Read).await.expect("opened");
        let replayed = image.details.iter().find(|(name, _)| *name == "log entries replayed");
        assert_eq!(replayed.map(|(_, count)| count.as_str()), Some("1"));
        let mut expected = vec![0; 8 << 20];
        expected[5 << 20..(5 << 20) + 4096].fill(7);
        assert!(read_all(&*image.disk).await == expected);
        assert!(std::fs::read(&path).expect("read") == bytes, "reading changes nothing");
        drop(image);
        qemu(&folder, "qemu-img", &["check", "-q", "-r", "all", "-f", "vhdx", "image.vhdx"]);
        agrees(&folder, "image.vhdx", &expected);
        std::fs::write(&path, &bytes).expect("written");
        drop(open(&location, Access::Write).await.expect("opened"));
        agrees(&folder, "image.vhdx", &expected);
    });
}

/// QEMU looks for the newest entry for ever where entries reach the end of the log: it begins anew before.
#[test]
fn qemu_finds_the_newest_entry_however_many_there_were() {
    const BLOCKS: u64 = 150;
    on_the_ring(async |root, folder| {
        let sort = (super::Sort::Dynamic, 512);
        let location = make(&root, "image.vhdx", sort, BLOCKS << 20).await;
        let disk = open_disk(&location, Access::Write).await;
        let mut expected = vec![0; usize::try_from(BLOCKS << 20).expect("small")];
        // Each first write to a block is a commit, of 8 KiB in a log of 1 MiB.
        for block in 0..BLOCKS {
            write(&*disk, block << 20, super::filled(4096, 7)).await.expect("written");
            disk.flush().await.expect("flushed");
            let start = usize::try_from(block << 20).expect("small");
            expected[start..start + 4096].fill(7);
            if block < 100 {
                continue;
            }
            let mut bytes = std::fs::read(folder.join("image.vhdx")).expect("read");
            assert!(super::crashes::put_back_into_the_log(&mut bytes), "it is in the log");
            std::fs::write(folder.join("copy.vhdx"), bytes).expect("written");
            let check = ["20", "qemu-img", "check", "-q", "-r", "all", "-f", "vhdx", "copy.vhdx"];
            qemu(&folder, "timeout", &check);
            if block % 10 == 9 {
                agrees(&folder, "copy.vhdx", &expected);
            }
        }
    });
}
