//! `qemu-img` and `qemu-io`, told which format a file has: QEMU takes a fixed VHD for a raw file.

use crate::image::{joined, take};
use landfall_tests::harness::{Said, attempt, run};
use serde_json::Value;

/// QEMU's name for the format that a file name ends with.
pub(crate) fn format_of(image: &str) -> &'static str {
    match image.rsplit('.').next() {
        Some("vmdk") => "vmdk",
        Some("vhdx") => "vhdx",
        Some("vhd") => "vpc",
        Some("raw") => "raw",
        _ => panic!("{image} has no format"),
    }
}

/// `qemu-img create` with options in its words, and the size.
#[track_caller]
pub(crate) fn create(image: &str, options: &str, size: u64) {
    let mut arguments = vec!["create", "-q", "-f", format_of(image)];
    if !options.is_empty() {
        arguments.extend(["-o", options]);
    }
    let size = size.to_string();
    run("qemu-img", &[&arguments[..], &[image, &size]].concat());
}

/// `qemu-io` commands, one after the other. QEMU 7.2 answers a failure of one with exit code 0 or 1, but always in words.
#[track_caller]
pub(crate) fn io(image: &str, commands: &[&str]) {
    let mut arguments = vec!["-f", format_of(image)];
    arguments.extend(commands.iter().flat_map(|command| ["-c", command]));
    arguments.push(image);
    let said = attempt("qemu-io", &arguments);
    let wrong = said.out.lines().any(|line| line.contains("failed") || line.contains("rror"));
    assert!(said.code == Some(0) && !wrong, "{said:?}");
}

/// What `qemu-img info` tells.
#[track_caller]
pub(crate) fn info(image: &str) -> Value {
    attempt("qemu-img", &["info", "--output=json", "-f", format_of(image), image]).json()
}

/// All of an image, read by `qemu-img convert`.
#[track_caller]
pub(crate) fn read(image: &str) -> Vec<u8> {
    let copy = format!("{image}.read-by-qemu");
    run("qemu-img", &["convert", "-f", format_of(image), "-O", "raw", image, &copy]);
    take(&copy)
}

/// `qemu-img compare` with a raw file.
#[track_caller]
pub(crate) fn compare(image: &str, raw: &str) {
    let arguments = ["compare", "-f", format_of(image), "-F", "raw", image, raw];
    let said = run("qemu-img", &arguments);
    assert!(said.contains("Images are identical."), "{image}: {said}");
}

/// `qemu-img check`, for the formats that it checks.
pub(crate) fn checked(image: &str) -> Said {
    attempt("qemu-img", &["check", "--output=json", "-f", format_of(image), image])
}

/// `qemu-img check` finds nothing, not even a leak.
#[track_caller]
pub(crate) fn check(image: &str) {
    let told = checked(image).json();
    assert_eq!(told["check-errors"], 0, "{told}");
    for bad in ["corruptions", "leaks"] {
        assert!(told.get(bad).is_none_or(|count| count == 0), "{told}");
    }
}

/// Whether QEMU has a check for the format. It has none for VHD, nor for raw files.
pub(crate) fn has_check(image: &str) -> bool {
    ["vmdk", "vhdx"].contains(&format_of(image))
}

/// The stretches that `qemu-img map` does not know to be zeroes, as start and end.
#[track_caller]
pub(crate) fn data(image: &str) -> Vec<(u64, u64)> {
    let told = attempt("qemu-img", &["map", "--output=json", "-f", format_of(image), image]).json();
    let ranges = told.as_array().expect("a list").iter();
    joined(ranges.filter(|range| range["zero"] == false).map(|range| {
        let number = |name: &str| range[name].as_u64().expect("a number");
        (number("start"), number("start") + number("length"))
    }))
}
