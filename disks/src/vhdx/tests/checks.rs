//! What a check finds, and what a repair does about it.

use super::{Sort, filled, guids, in_memory, make, open, open_disk, read_all, write};
use crate::Buffer;
use crate::faults::FaultFolder;
use crate::file::{Caching, OpenMode};
use crate::image::{Access, ImageError, Location, Repair, Report};
use crate::vhdx::check_with;

const BAT: u64 = 3 << 20;

async fn check(location: &Location, repair: bool) -> Report {
    check_with(location, repair, &guids()).await.expect("it can be opened")
}

/// An image with two blocks.
async fn image(folder: &FaultFolder) -> Location {
    let image = make(folder, "image.vhdx", (Sort::Dynamic, 512), 8 << 20).await;
    let disk = open_disk(&image, Access::Write).await;
    write(&*disk, 0, filled(2 << 20, 1)).await.expect("written");
    disk.flush().await.expect("flushed");
    image
}

async fn patch(location: &Location, offset: u64, bytes: &[u8]) {
    let file = location.folder.open(&location.path, OpenMode::ReadWrite, Caching::Buffered).await;
    let file = file.expect("it is there");
    file.write_at(offset, Buffer::copy_of(bytes)).await.expect("written");
}

#[test]
fn one_broken_copy_is_written_anew() {
    in_memory(1, async |folder| {
        let image = image(folder).await;
        for (offset, structure) in [
            (64 << 10, "VHDX header"),
            (128 << 10, "VHDX header"),
            (192 << 10, "VHDX region table"),
            (256 << 10, "VHDX region table"),
        ] {
            folder.corrupt("image.vhdx", offset, 100);
            let report = check(&image, false).await;
            assert_eq!(report.findings.len(), 1, "{:?}", report.findings);
            let finding = &report.findings[0];
            assert_eq!((finding.problem.structure, finding.problem.offset), (structure, offset));
            assert_eq!(finding.repair, Repair::Possible);
            // Opening it for the repair may have written the header already.
            let repaired = check(&image, true).await;
            assert!(repaired.findings.iter().all(|finding| finding.repair == Repair::Done));
            assert!(repaired.is_clean() && repaired.findings.len() <= 1);
            assert!(check(&image, false).await.findings.is_empty());
        }
        let found = read_all(&*open_disk(&image, Access::Read).await).await;
        assert!(found[..2 << 20].iter().all(|byte| *byte == 1));
    });
}

#[test]
fn what_is_behind_the_last_block_is_cut() {
    in_memory(1, async |folder| {
        let image = image(folder).await;
        let before = check(&image, false).await;
        assert!(before.is_clean());
        let disk = open_disk(&image, Access::Write).await;
        write(&*disk, 5 << 20, filled(2 << 20, 1)).await.expect("written");
        disk.flush().await.expect("flushed");
        disk.discard(super::range(5 << 20, 2 << 20)).await.expect("discarded");
        disk.flush().await.expect("flushed");
        drop(disk);
        assert!(check(&image, false).await.unused_bytes >= 2 << 20);
        let repaired = check(&image, true).await;
        assert_eq!(repaired.unused_bytes, 0);
        let after = check(&image, false).await;
        assert_eq!((after.unused_bytes, after.placed), (0, 2));
    });
}

#[test]
fn entries_that_cannot_be_right_are_named_and_left_alone() {
    in_memory(1, async |folder| {
        let image = image(folder).await;
        let entry = |offset_mib: u64, state: u64| ((offset_mib << 20) | state).to_le_bytes();
        let cases = [
            (entry(4, 6), "FileOffsetMB", "4"),
            (entry(1, 6), "FileOffsetMB", "1"),
            (entry(1 << 20, 6), "FileOffsetMB", "1048576"),
            (entry(5, 7), "State", "7"),
            (entry(0, 5), "State", "5"),
            (entry(0, 8), "Reserved", "0x8"),
        ];
        for (bytes, field, value) in cases {
            patch(&image, BAT + 24, &bytes).await;
            let report = check(&image, false).await;
            let found: Vec<_> = report
                .findings
                .iter()
                .map(|f| (f.problem.field, f.problem.value.as_str(), f.repair))
                .collect();
            assert_eq!(found, [(field, value, Repair::Impossible)]);
            let Err(ImageError::Malformed { problem, .. }) = open(&image, Access::Write).await
            else {
                panic!("{field} {value}: opened for writing")
            };
            assert_eq!(problem, report.findings[0].problem);
        }
        // For reading, the other blocks are there still.
        patch(&image, BAT + 24, &entry(1 << 20, 6)).await;
        let disk = open_disk(&image, Access::Read).await;
        let error = disk.read(super::range(3 << 20, 512)).await.map(drop);
        assert!(error.expect_err("damaged").to_string().contains("FileOffsetMB is 1048576"));
    });
}
