//! Images that QEMU made: of every kind and with every option that changes what is in the file.

use crate::image::{self, Folder, landfall, same};
use crate::qemu;
use landfall_tests::harness::run;

const SIZE: u64 = 24 << 20;

/// What our map and QEMU's have to do with each other.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Maps {
    /// The same stretches are data.
    Equal,
    /// QEMU calls whole blocks data, or everything; what we call data is among it.
    Within,
}

/// Small writes and large ones, across blocks of every size; zeroes, discards, and a write over both.
const SCRIPT: &[&str] = &[
    "write -P 0x11 0 512",
    "write -P 0x22 1M 3M",
    "write -P 0x33 2097051 1000",
    "write -z 5M 1M",
    "write -P 0x44 10000k 10k",
    "write -z 2M 128k",
    "discard 3M 1M",
    "write -P 0x55 3145000 70000",
    "write -z -u 1M 64k",
    "write -P 0x66 23M 1M",
];

/// Everything that is asked of an image of theirs.
#[track_caller]
fn read_as_they_do(image: &str, maps: Maps) {
    image::check(image);
    let theirs = qemu::read(image);
    same(&image::read(image), &theirs, image);
    let (told, expected) = (image::info(image), qemu::info(image));
    assert_eq!(told["size_bytes"], expected["virtual-size"], "{told} {expected}");
    assert_eq!(told["size_bytes"], theirs.len() as u64);
    let (ours, qemus) = (image::data(image, &[]), qemu::data(image));
    match maps {
        Maps::Equal => assert_eq!(ours, qemus, "{image}"),
        Maps::Within => {
            for (start, end) in &ours {
                let around = qemus.iter().any(|other| other.0 <= *start && *end <= other.1);
                assert!(around, "{image}: {start}..{end} is not in {qemus:?}");
            }
        }
    }
    // What is nobody's data is zeroes, whoever says so.
    let mut end = 0;
    for (start, next) in ours.iter().copied().chain([(theirs.len() as u64, 0)]) {
        let gap = &theirs[usize::try_from(end).unwrap()..usize::try_from(start).unwrap()];
        assert!(gap.iter().all(|byte| *byte == 0), "{image}: data within {end}..{start}");
        end = next;
    }
}

/// An image made and filled by them.
fn made(name: &str, options: &str, size: u64) -> (Folder, String) {
    let folder = Folder::new();
    let image = folder.at(name);
    qemu::create(&image, options, size);
    // As it is when nobody has written anything.
    image::check(&image);
    assert!(image::read(&image).iter().all(|byte| *byte == 0), "{options}: not empty");
    qemu::io(&image, SCRIPT);
    (folder, image)
}

#[test]
fn vmdk_of_every_kind() {
    for kind in ["monolithicSparse", "monolithicFlat", "twoGbMaxExtentSparse", "twoGbMaxExtentFlat"]
    {
        let (_folder, image) = made("disk.vmdk", &format!("subformat={kind}"), SIZE);
        read_as_they_do(&image, Maps::Equal);
        assert_eq!(image::info(&image)["kind"], kind);
    }
}

#[test]
fn vmdk_with_every_option() {
    for (options, name, value) in [
        ("adapter_type=ide", "adapter", "ide"),
        ("adapter_type=lsilogic", "adapter", "lsilogic"),
        ("adapter_type=buslogic", "adapter", "buslogic"),
        ("adapter_type=legacyESX", "adapter", "legacyESX"),
        ("zeroed_grain=on", "header version", "2"),
        ("hwversion=13", "hardware version", "13"),
        ("compat6=on", "hardware version", "6"),
        ("toolsversion=10000", "tools version", "10000"),
        ("subformat=twoGbMaxExtentSparse,zeroed_grain=on", "adapter", "ide"),
    ] {
        let (_folder, image) = made("disk.vmdk", options, SIZE);
        read_as_they_do(&image, Maps::Equal);
        let told = image::info(&image);
        assert_eq!(told["details"][name], value, "{options}: {told}");
        let cid = &qemu::info(&image)["format-specific"]["data"]["cid"];
        let cid = format!("{:08x}", cid.as_u64().expect("a number"));
        assert_eq!(told["identity"]["value"], cid.as_str(), "{options}");
    }
}

#[test]
fn vmdk_extents_of_two_gibibytes_and_a_rest() {
    for kind in ["twoGbMaxExtentSparse", "twoGbMaxExtentFlat"] {
        let folder = Folder::new();
        let image = folder.at("disk.vmdk");
        qemu::create(&image, &format!("subformat={kind}"), (4 << 30) + (3 << 20));
        let borders = ["write -P 1 2047M 2M", "write -P 2 4095M 2M", "write -P 3 4098M 1M"];
        qemu::io(&image, &borders);
        image::check(&image);
        assert_eq!(image::data(&image, &[]), qemu::data(&image), "{kind}");
        let copy = folder.at("copy.raw");
        landfall(&["convert", &image, &copy]).ok();
        qemu::compare(&image, &copy);
        assert!(image::info(&image)["files"].as_array().map_or(0, Vec::len) >= 4, "{kind}");
    }
}

#[test]
fn vmdk_stream_optimized() {
    let folder = Folder::new();
    let raw = folder.raw("disk.raw", &image::content(24 * image::MIB, 3));
    let image = folder.at("disk.vmdk");
    let options = ["convert", "-f", "raw", "-O", "vmdk", "-o", "subformat=streamOptimized"];
    run("qemu-img", &[&options[..], &[&raw, &image]].concat());
    read_as_they_do(&image, Maps::Equal);
    assert_eq!(image::info(&image)["kind"], "streamOptimized");
}

#[test]
fn vhdx_with_blocks_of_every_size() {
    for mebibytes in [1, 2, 4, 8, 16, 32, 64, 128, 256] {
        let (_folder, image) = made("disk.vhdx", &format!("block_size={mebibytes}M"), SIZE);
        read_as_they_do(&image, Maps::Within);
        assert_eq!(image::info(&image)["block_bytes"], mebibytes << 20);
    }
}

#[test]
fn vhdx_with_every_option() {
    for (options, kind) in [
        ("subformat=dynamic", "dynamic"),
        ("subformat=fixed", "fixed"),
        ("subformat=fixed,block_size=1M", "fixed"),
        ("subformat=dynamic,log_size=2M", "dynamic"),
        ("subformat=dynamic,log_size=16M,block_size=1M", "dynamic"),
        ("subformat=dynamic,block_state_zero=on", "dynamic"),
        ("subformat=dynamic,block_state_zero=off", "dynamic"),
        ("subformat=fixed,block_state_zero=off", "fixed"),
    ] {
        let (_folder, image) = made("disk.vhdx", options, SIZE);
        read_as_they_do(&image, Maps::Within);
        let told = image::info(&image);
        assert_eq!(told["kind"], kind, "{options}: {told}");
        assert!(told["details"]["creator"].as_str().is_some_and(|name| name.contains("QEMU")));
    }
}

#[test]
fn vhd_whose_size_is_counted_either_way() {
    for (options, maps) in [
        ("subformat=dynamic", Maps::Within),
        ("subformat=dynamic,force_size=on", Maps::Within),
        ("subformat=fixed", Maps::Equal),
        ("subformat=fixed,force_size=on", Maps::Equal),
    ] {
        // The second is no whole number of cylinders: without force_size QEMU takes a few sectors more.
        for size in [SIZE, SIZE + 512 * 77] {
            let (_folder, image) = made("disk.vhd", options, size);
            read_as_they_do(&image, maps);
            let told = image::info(&image);
            let as_asked = told["size_bytes"] == size;
            assert!(as_asked || !options.contains("force_size"), "{options}: {told}");
        }
    }
}

#[test]
fn raw_with_holes() {
    for size in [SIZE, SIZE + 512] {
        let (_folder, image) = made("disk.raw", "", size);
        read_as_they_do(&image, Maps::Equal);
    }
}

#[test]
fn raw_that_looks_like_something_else_is_raw_if_one_says_so() {
    let folder = Folder::new();
    let image = folder.at("disk.raw");
    qemu::create(&image, "", SIZE);
    qemu::io(&image, &["write -P 0x4b 0 1M"]);
    let inner = folder.at("inner.vhdx");
    qemu::create(&inner, "", SIZE);
    // The guest's own doing: its disk begins as an image of another format does.
    let mut bytes = std::fs::read(&image).expect("read");
    bytes[..image::MIB].copy_from_slice(&std::fs::read(&inner).expect("read")[..image::MIB]);
    std::fs::write(&image, &bytes).expect("written");
    let told = landfall(&["info", "--json", "--source-format", "raw", &image]).json();
    assert_eq!(told["chain"][0]["format"], "raw");
    assert_eq!(told["chain"][0]["size_bytes"], SIZE);
    let copy = folder.at("copy.raw");
    landfall(&["convert", "--source-format", "raw", &image, &copy]).ok();
    same(&std::fs::read(&copy).expect("read"), &bytes, "a raw disk");
}
