//! Differencing images and their chains.

use super::{
    Sort, at, child_of, create_at, filled, in_memory, make, open, open_disk, range, read_all, write,
};
use crate::Durability;
use crate::disk::{Content, ZeroMode};
use crate::file::Folder;
use crate::image::{Access, ImageError, Location, Opener};
use crate::vhdx::{CreateOptions, Kind, ParentReference, info};
use std::path::Path;

const SIZE: u64 = (5 << 20) + 4096;

/// A base of ones, and two generations of children of it.
async fn three(folder: &crate::faults::FaultFolder, sector: u32) -> [Location; 3] {
    let base = make(folder, "base.vhdx", (Sort::Dynamic, sector), SIZE).await;
    let disk = open_disk(&base, Access::Write).await;
    write(&*disk, 0, filled(4 << 20, 1)).await.expect("written");
    disk.flush().await.expect("flushed");
    drop(disk);
    let first = create_at(folder, "first.avhdx", &child_of(&base).await).await;
    let disk = open_disk(&first, Access::Write).await;
    write(&*disk, 8192, filled(8192, 2)).await.expect("written");
    write(&*disk, (1 << 20) - 4096, filled(8192, 2)).await.expect("written");
    disk.flush().await.expect("flushed");
    drop(disk);
    let second = create_at(folder, "second.avhdx", &child_of(&first).await).await;
    [base, first, second]
}

#[test]
fn each_generation_adds_to_the_one_before() {
    for sector in [512, 4096] {
        in_memory(sector.into(), async |folder| {
            let [_, _, second] = three(folder, sector).await;
            let mut expected = vec![0; usize::try_from(SIZE).expect("small")];
            expected[..4 << 20].fill(1);
            expected[8192..16_384].fill(2);
            expected[(1 << 20) - 4096..(1 << 20) + 4096].fill(2);
            let image = open(&second, Access::Write).await.expect("opened");
            assert_eq!(image.chain().count(), 3);
            assert_eq!(image.kind, "differencing");
            assert!(read_all(&*image.disk).await == expected);
            write(&*image.disk, 12_288, filled(4096, 3)).await.expect("written");
            expected[12_288..16_384].fill(3);
            // A whole block of zeroes, and a part of one.
            let zeroes = range(2 << 20, (1 << 20) + 4096);
            let zeroed = image.disk.write_zeroes(zeroes, ZeroMode::Unmap, Durability::Cached);
            zeroed.await.expect("zeroed");
            expected[2 << 20..(3 << 20) + 4096].fill(0);
            assert!(read_all(&*image.disk).await == expected);
            image.disk.flush().await.expect("flushed");
            drop(image);
            let image = open(&second, Access::Read).await.expect("opened");
            assert!(read_all(&*image.disk).await == expected);
        });
    }
}

#[test]
fn a_child_lists_what_it_changes_to_the_sector() {
    for sector in [512u32, 4096] {
        in_memory(sector.into(), async |folder| {
            let [_, first, second] = three(folder, sector).await;
            let own = async |location: &Location| {
                let image = open(location, Access::Read).await.expect("opened");
                let whole = image.disk.geometry().whole();
                let parts = image.disk.own(whole).await.expect("listed");
                assert_eq!(parts.last().map(|part| part.range.end()), Some(whole.end()));
                let own = parts.into_iter().filter_map(|part| Some((part.range, part.content?)));
                own.collect::<Vec<_>>()
            };
            let edge = (1 << 20) - 4096;
            let changed = [range(8192, 8192), range(edge, 8192)];
            assert_eq!(own(&first).await, changed.map(|range| (range, Content::Data)));
            assert_eq!(own(&second).await, []);
            let disk = open_disk(&second, Access::Write).await;
            disk.discard(range(1 << 20, 2 << 20)).await.expect("discarded");
            write(&*disk, 7, filled(1, 9)).await.expect("written");
            disk.flush().await.expect("flushed");
            drop(disk);
            let expected = [
                (range(0, sector.into()), Content::Data),
                (range(1 << 20, 2 << 20), Content::Hole),
            ];
            assert_eq!(own(&second).await, expected);
        });
    }
}

#[test]
fn a_parent_that_changed_is_refused() {
    in_memory(1, async |folder| {
        let [base, first, second] = three(folder, 512).await;
        // Opening alone changes nothing.
        drop(open(&base, Access::Write).await.expect("opened"));
        drop(open(&second, Access::Read).await.expect("opened"));
        let before = info(&base).await.expect("an image");
        let disk = open_disk(&base, Access::Write).await;
        write(&*disk, 0, filled(512, 9)).await.expect("written");
        disk.flush().await.expect("flushed");
        drop(disk);
        let after = info(&base).await.expect("an image");
        assert_ne!(before.data_write_guid, after.data_write_guid);
        assert_ne!(before.file_write_guid, after.file_write_guid);
        for child in [&first, &second] {
            let Err(ImageError::ParentMismatch { kind, expected, found, .. }) =
                open(child, Access::Read).await
            else {
                panic!("the base is another one now")
            };
            assert_eq!(kind, "DataWriteGuid");
            assert_eq!(expected, before.data_write_guid.to_string());
            assert_eq!(found, after.data_write_guid.to_string());
        }
    });
}

#[test]
fn a_parent_is_looked_for_under_all_its_names() {
    in_memory(1, async |folder| {
        let base = make(folder, "base.vhdx", (Sort::Dynamic, 512), SIZE).await;
        let guid = info(&base).await.expect("an image").data_write_guid;
        let reference = |relative: &str, absolute: Option<&str>| ParentReference {
            data_write_guid: guid,
            relative_path: relative.to_owned(),
            absolute_win32_path: absolute.map(str::to_owned),
            volume_path: None,
        };
        let child = async |name: &str, reference: ParentReference| {
            let kind = Kind::Differencing(reference);
            let options = CreateOptions { kind, ..CreateOptions::dynamic(SIZE) };
            create_at(folder, name, &options).await
        };
        let moved = reference(".\\gone.vhdx", Some("C:\\vms\\base.vhdx"));
        let moved = child("moved.avhdx", moved).await;
        assert_eq!(open(&moved, Access::Read).await.expect("found").chain().count(), 2);
        let gone = child("gone.avhdx", reference(".\\gone.vhdx", None)).await;
        let error = open(&gone, Access::Read).await.err().expect("it is not there");
        assert!(matches!(error, ImageError::Missing { .. }), "{error}");
        let outside = child("outside.avhdx", reference("..\\..\\etc\\base.vhdx", None)).await;
        let error = open(&outside, Access::Read).await.err().expect("it is outside");
        assert!(matches!(error, ImageError::Refused { .. }), "{error}");
    });
}

#[test]
fn a_chain_that_comes_back_is_refused() {
    in_memory(1, async |folder| {
        let base = make(folder, "base.vhdx", (Sort::Dynamic, 512), SIZE).await;
        let mut options = child_of(&base).await;
        if let Kind::Differencing(parent) = &mut options.kind {
            parent.relative_path = ".\\itself.avhdx".to_owned();
        }
        let itself = create_at(folder, "itself.avhdx", &options).await;
        let mut opener = Opener::new(&crate::image::BesideTheImage);
        let error = opener.open(&itself, None, Access::Read).await.err().expect("a loop");
        assert!(matches!(error, ImageError::ChainLoop { .. }), "{error}");
    });
}

#[test]
fn sectors_of_parent_and_child_are_the_same() {
    in_memory(1, async |folder| {
        let base = make(folder, "base.vhdx", (Sort::Dynamic, 4096), SIZE).await;
        let options = CreateOptions { logical_sector: 512, ..child_of(&base).await };
        let child = create_at(folder, "child.avhdx", &options).await;
        let error = open(&child, Access::Read).await.err().expect("they differ");
        assert!(error.to_string().contains("LogicalSectorSize is 512"), "{error}");
    });
}

#[test]
fn a_smaller_parent_ends_in_zeroes() {
    in_memory(1, async |folder| {
        let [base, ..] = three(folder, 512).await;
        let options = CreateOptions { disk_bytes: SIZE * 2, ..child_of(&base).await };
        let child = create_at(folder, "larger.avhdx", &options).await;
        let disk = open_disk(&child, Access::Write).await;
        write(&*disk, SIZE - 512, filled(1024, 5)).await.expect("written");
        let found = read_all(&*disk).await;
        let end = usize::try_from(SIZE).expect("small");
        assert!(found[..4 << 20].iter().all(|byte| *byte == 1));
        assert!(found[end - 512..end + 512].iter().all(|byte| *byte == 5));
        assert!(found[end + 512..].iter().all(|byte| *byte == 0));
        assert!(!folder.list(Path::new("")).await.expect("listed").is_empty());
    });
}

#[test]
fn a_child_keeps_the_identity_of_the_disk() {
    in_memory(1, async |folder| {
        let [base, first, _] = three(folder, 512).await;
        let [base, first] = [&base, &first].map(info);
        let (base, first) = (base.await.expect("an image"), first.await.expect("an image"));
        assert_eq!(base.disk_id, first.disk_id);
        assert_ne!(base.data_write_guid, first.data_write_guid);
        assert_eq!((base.kind(), first.kind()), ("dynamic", "differencing"));
        let _ = at(folder, "base.vhdx");
    });
}
