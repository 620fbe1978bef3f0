//! Malformed samples: each is refused with the structure, its offset in the file, the field and its value.
//!
//! They were written from the specification, without the code here. Rows are `offset times hex`, as in all fixtures.

use super::{at, guids, in_memory, open, open_disk, read_all};
use crate::Buffer;
use crate::faults::FaultFolder;
use crate::file::{Caching, Folder, OpenMode};
use crate::image::{Access, ImageError, Malformed};
use crate::vhdx::check_with;
use std::path::{Path, PathBuf};

/// Name of the sample, and what it is refused with.
const REFUSED: &[(&str, &str)] = &[
    ("bat-in-headers", "VHDX BAT entry at 3145728: FileOffsetMB is 0"),
    ("bat-on-metadata", "VHDX BAT entry at 3145728: FileOffsetMB is 2"),
    ("bat-partial-without-parent", "VHDX BAT entry at 3145728: State is 7"),
    ("bat-past-the-end", "VHDX BAT entry at 3145736: FileOffsetMB is 5"),
    ("bat-reserved", "VHDX BAT entry at 3145728: Reserved is 0x40"),
    ("bat-state", "VHDX BAT entry at 3145728: State is 5"),
    ("bat-too-short", "VHDX BAT region at 3145728: Length is 1048576"),
    ("bat-twice", "VHDX BAT entry at 3145744: FileOffsetMB is 4"),
    ("bitmap-missing", "VHDX BAT entry of a sector bitmap at 3178496: State is 0"),
    ("bitmap-past-the-end", "VHDX BAT entry of a sector bitmap at 3178496: FileOffsetMB is 5"),
    ("bitmap-state", "VHDX BAT entry of a sector bitmap at 3178496: State is 2"),
    ("block-size", "VHDX file parameters at 2162688: BlockSize is 3145728"),
    ("disk-size", "VHDX virtual disk size at 2162696: VirtualDiskSize is 70368744178176"),
    ("disk-size-part", "VHDX virtual disk size at 2162696: VirtualDiskSize is 1048676"),
    ("header-log-length", "VHDX header at 131072: LogLength is 4293918720"),
    ("header-log-offset", "VHDX header at 131072: LogOffset is 1052672"),
    ("header-log-version", "VHDX header at 131072: LogVersion is 1"),
    ("header-sequence", "VHDX header at 131072: SequenceNumber is 2"),
    ("header-version", "VHDX header at 131072: Version is 2"),
    ("headers-torn", "VHDX header at 65536: Checksum is 0x17486481"),
    ("locator-count", "VHDX parent locator at 2162728: KeyValueCount is 300"),
    ("locator-linkage", "VHDX parent locator at 2162728: parent_linkage is {nobody}"),
    ("locator-missing", "VHDX metadata table at 2097152: entries is a table without it"),
    ("locator-no-linkage", "VHDX parent locator at 2162728: parent_linkage is absent"),
    ("locator-no-path", "VHDX parent locator at 2162728: paths is absent"),
    ("locator-offset", "VHDX parent locator at 2162728: KeyOffset is 2147483648"),
    (
        "locator-type",
        "VHDX parent locator at 2162728: LocatorType is 00000005-0000-4000-8000-000000000000",
    ),
    ("log-far-away", "VHDX log entry at 1048576: LastFileOffset is 1152921504606846976"),
    ("log-file-cut", "VHDX log entry at 1048576: FlushedFileOffset is 67108864"),
    ("log-on-headers", "VHDX log descriptor at 1048576: FileOffset is 65536"),
    ("log-on-itself", "VHDX log descriptor at 1048576: FileOffset is 1114112"),
    ("log-torn", "VHDX log at 1048576: LogGuid is 00000003-0000-4000-8000-000000000000"),
    ("metadata-count", "VHDX metadata table at 2097152: EntryCount is 2048"),
    ("metadata-missing", "VHDX metadata table at 2097152: entries is a table without it"),
    ("metadata-outside", "VHDX metadata table entry at 2097216: Offset is 1048572"),
    ("metadata-overlap", "VHDX metadata table at 2097152: Offset is 65540"),
    ("metadata-signature", "VHDX metadata table at 2097152: Signature is 6d65746164617462"),
    (
        "metadata-twice",
        "VHDX metadata table at 2097152: ItemId is beca12ab-b2e6-4523-93ef-c309e000c746",
    ),
    (
        "metadata-unknown",
        "VHDX metadata table entry at 2097344: ItemId is 00000005-0000-4000-8000-000000000000",
    ),
    ("not-a-vhdx", "VHDX file type identifier at 0: Signature is 7668647866696c66"),
    ("physical-sector-size", "VHDX physical sector size at 2162724: PhysicalSectorSize is 8192"),
    ("region-count", "VHDX region table at 196608: EntryCount is 2048"),
    ("region-missing", "VHDX region table at 196608: entries is a table without it"),
    ("region-on-log", "VHDX region at 1048576: FileOffset is 1048576"),
    ("region-outside", "VHDX region at 67108864: Length is 1048576"),
    ("region-overlap", "VHDX region at 2097152: FileOffset is 2097152"),
    ("region-twice", "VHDX region at 4194304: Guid is 2dc27766-f623-4200-9d64-115e9bfd4a08"),
    ("region-unaligned", "VHDX region table entry at 196624: FileOffset is 3146240"),
    (
        "region-unknown",
        "VHDX region table entry at 196688: Guid is 00000005-0000-4000-8000-000000000000",
    ),
    ("regions-torn", "VHDX region table at 196608: Checksum is 0xc66b8cae"),
    ("sector-size", "VHDX logical sector size at 2162720: LogicalSectorSize is 1024"),
    ("truncated", "VHDX header at 131072: length is 4096"),
];

fn samples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/images/vhdx")
}

fn bytes_of(hex: &str) -> Vec<u8> {
    let byte = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).expect("hexadecimal");
    (0..hex.len()).step_by(2).map(byte).collect()
}

/// Lays the sample into the folder, under its own name.
async fn lay(folder: &FaultFolder, name: &str) {
    let text = std::fs::read_to_string(samples().join(name).with_extension("hex"));
    let text = text.unwrap_or_else(|error| panic!("{name}: {error}"));
    let mut lines = text.lines();
    let length = lines.next().and_then(|line| line.parse().ok()).expect("a length");
    let path = Path::new(name);
    let file = folder.open(path, OpenMode::CreateNew, Caching::Buffered).await.expect("new");
    file.set_length(length).await.expect("resized");
    for line in lines {
        let mut words = line.split(' ');
        let mut number = || words.next().and_then(|word| word.parse().ok()).expect("a number");
        let (offset, times): (u64, u64) = (number(), number());
        let row = bytes_of(words.next().expect("a row"));
        for time in 0..times {
            let place = offset + time * row.len() as u64;
            file.write_at(place, Buffer::copy_of(&row)).await.expect("written");
        }
    }
}

/// What is wrong with an image: it cannot be opened, or the check finds it.
async fn problem(folder: &FaultFolder, name: &str) -> Option<Malformed> {
    match check_with(&at(folder, name), false, &guids()).await {
        Ok(report) => report.findings.into_iter().next().map(|finding| finding.problem),
        Err(ImageError::Malformed { problem, .. }) => Some(problem),
        Err(other) => panic!("{name}: {other}"),
    }
}

#[test]
fn each_sample_is_refused_with_what_is_wrong() {
    let mut there: Vec<String> = std::fs::read_dir(samples())
        .expect("the samples are there")
        .map(|entry| entry.expect("read").path().file_stem().expect("named").to_owned())
        .map(|name| name.to_string_lossy().into_owned())
        .filter(|name| !name.starts_with("sound"))
        .collect();
    there.sort();
    let listed: Vec<&str> = REFUSED.iter().map(|(name, _)| *name).collect();
    assert_eq!(there, listed, "every sample has its line, and every line its sample");
    in_memory(1, async |folder| {
        for (name, expected) in REFUSED {
            lay(folder, name).await;
            let found = problem(folder, name).await;
            let found = found.unwrap_or_else(|| panic!("{name} is accepted")).to_string();
            let (fact, rule) = found.split_once("; expected ").expect("a rule");
            assert_eq!(fact, *expected, "{name}");
            assert!(!rule.is_empty(), "{name}");
            let opened = open(&at(folder, name), Access::Write).await;
            assert!(opened.is_err(), "{name} was opened for writing");
        }
    });
}

#[test]
fn sound_samples_are_read() {
    in_memory(1, async |folder| {
        for name in ["sound", "sound-log"] {
            lay(folder, name).await;
            for access in [Access::Read, Access::Write, Access::Read] {
                let disk = open_disk(&at(folder, name), access).await;
                let found = read_all(&*disk).await;
                assert_eq!(found.len(), 4 << 20);
                assert!(found.starts_with(b"block 0 of the sample\0"), "{name}, {access:?}");
                assert!(found[21..].iter().all(|byte| *byte == 0), "{name}, {access:?}");
            }
        }
    });
}
