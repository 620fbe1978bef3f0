//! A folder of images, our command line, and disks worth copying.

use landfall_disks::faults::Seed;
use landfall_tests::harness::{Said, attempt, binary};
use serde_json::Value;
use std::path::Path;
use tempfile::TempDir;

/// Bytes of a mebibyte, as a length in memory.
pub(crate) const MIB: usize = 1 << 20;

/// A folder that is gone with the test.
pub(crate) struct Folder(TempDir);

impl Folder {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().expect("a folder"))
    }

    /// Where a file of that name is or will be.
    pub(crate) fn at(&self, name: &str) -> String {
        let path = self.0.path().join(name);
        path.to_str().expect("a path of the tests is text").to_owned()
    }

    /// A folder in it.
    pub(crate) fn inner(&self, name: &str) -> String {
        let path = self.at(name);
        std::fs::create_dir(&path).expect("a new folder");
        path
    }

    /// A raw file that holds `bytes`, with holes where they are zeroes.
    pub(crate) fn raw(&self, name: &str, bytes: &[u8]) -> String {
        use std::os::unix::fs::FileExt;
        let path = self.at(name);
        let file = std::fs::File::create_new(&path).expect("a new file");
        file.set_len(bytes.len() as u64).expect("that long");
        for (at, part) in (0..).step_by(4096).zip(bytes.chunks(4096)) {
            if part.iter().any(|byte| *byte != 0) {
                file.write_all_at(part, at).expect("written");
            }
        }
        path
    }
}

/// `landfall image` and its arguments.
pub(crate) fn landfall(arguments: &[&str]) -> Said {
    let binary = binary();
    let program = binary.to_str().expect("a path that is text");
    attempt(program, &[&["image"], arguments].concat())
}

/// What `landfall image info` tells of the topmost image.
#[track_caller]
pub(crate) fn info(image: &str) -> Value {
    landfall(&["info", "--json", image]).json()["chain"][0].clone()
}

/// `landfall image check` finds nothing.
#[track_caller]
pub(crate) fn check(image: &str) {
    let report = landfall(&["check", "--json", image]).json();
    assert_eq!(report["findings"].as_array().map(Vec::len), Some(0), "{report}");
}

/// `landfall image check` of what QEMU wrote to: nothing but that it left `ddb.longContentID` of a VMDK as it was, whose end is
/// the CID, which it changed. A repair puts that right.
#[track_caller]
pub(crate) fn check_behind_qemu(image: &str) {
    let checked = landfall(&["check", "--json", image]);
    if checked.code == Some(0) {
        return;
    }
    let report: Value = serde_json::from_str(&checked.out).expect("JSON");
    let findings = report["findings"].as_array().expect("a list");
    assert!(image.ends_with("vmdk") && findings.len() == 1, "{report}");
    assert_eq!(findings[0]["field"], "ddb.longContentID", "{report}");
    assert_eq!(findings[0]["repair"], "possible", "{report}");
    landfall(&["check", "--repair", image]).ok();
    check(image);
}

/// A raw file of what an image holds, made by `landfall image convert`.
#[track_caller]
pub(crate) fn as_raw(image: &str) -> String {
    let copy = format!("{image}.read-by-us.raw");
    landfall(&["convert", image, &copy]).ok();
    copy
}

/// All of an image, read by `landfall image convert`.
#[track_caller]
pub(crate) fn read(image: &str) -> Vec<u8> {
    take(&as_raw(image))
}

/// What a file holds, which is removed.
#[track_caller]
pub(crate) fn take(file: &str) -> Vec<u8> {
    let bytes = std::fs::read(file).expect("written before");
    std::fs::remove_file(file).expect("removed");
    bytes
}

/// The stretches that `landfall image map` calls data, as start and end.
#[track_caller]
pub(crate) fn data(image: &str, more: &[&str]) -> Vec<(u64, u64)> {
    let told = landfall(&[&["map", "--json", image], more].concat()).json();
    let ranges = told["ranges"].as_array().expect("a list").iter();
    joined(ranges.filter(|range| range["content"] == "data").map(|range| {
        let number = |name: &str| range[name].as_u64().expect("a number");
        (number("offset"), number("offset") + number("length"))
    }))
}

/// The same stretches with those that touch made one.
pub(crate) fn joined(ranges: impl Iterator<Item = (u64, u64)>) -> Vec<(u64, u64)> {
    let mut all: Vec<(u64, u64)> = Vec::new();
    for (start, end) in ranges {
        match all.last_mut() {
            Some(last) if last.1 == start => last.1 = end,
            _ => all.push((start, end)),
        }
    }
    all
}

/// The blocks of `unit` bytes that the stretches touch.
pub(crate) fn widened(ranges: &[(u64, u64)], unit: u64) -> Vec<(u64, u64)> {
    let mut end = 0;
    joined(ranges.iter().map(|range| {
        let start = (range.0 / unit * unit).max(end);
        end = range.1.next_multiple_of(unit);
        (start, end)
    }))
}

/// Two disks are equal, or the first place where they are not.
#[track_caller]
pub(crate) fn same(one: &[u8], other: &[u8], what: &str) {
    let differs = one.iter().zip(other).position(|(one, other)| one != other);
    assert_eq!(differs, None, "{what}: the first byte that differs");
    assert_eq!(one.len(), other.len(), "{what}: length");
}

/// A disk with noise, text that packs well, single sectors and much that is zero.
pub(crate) fn content(size: usize, seed: u64) -> Vec<u8> {
    let mut seed = Seed::new(seed);
    let mut bytes = vec![0; size];
    for _ in 0..12 {
        let span = (512 << seed.index(12)).min(size / 4);
        let at = seed.index((size - span) / 512 + 1) * 512;
        match seed.below(3) {
            0 => bytes[at..at + span].fill(b'x'),
            _ => seed.fill(&mut bytes[at..at + span]),
        }
    }
    // Both ends matter: partition tables stand there, and the last block may be a part of one.
    bytes[..512].fill(0x11);
    let end = size - 512;
    bytes[end..].fill(0x22);
    bytes
}

/// Files of a folder whose name starts with `start`, sorted.
pub(crate) fn files_of(folder: &str, start: &str) -> Vec<String> {
    let entries = std::fs::read_dir(Path::new(folder)).expect("a folder");
    let names = entries.map(|entry| entry.expect("readable").file_name());
    let mut names: Vec<String> = names.map(|name| name.into_string().expect("text")).collect();
    names.retain(|name| name.starts_with(start));
    names.sort();
    names
}
