//! Second opinions on what we write: libvmdk and libvhdi, by their tools, as FUSE mounts, and from Debian's Python.
//!
//! `vmdkmount` knows no monolithicFlat; the library does, so that one is read by its binding.
//!
//! For differencing VHDX and for sectors of 4096 bytes there is no other peer. `vhdimount` finds no parent of a VHDX (it reads
//! no parent locator: "unable to retrieve parent filename size"), so chains of VHDX are put together by `set_parent` of the
//! Python binding of the same library. What libvhdi does not do at all is replay a log; ours is empty in a file at rest.

use crate::image::{self, Folder, MIB, landfall, same};
use crate::writer::Writer;
use landfall_disks::faults::Seed;
use landfall_tests::churn::{Deed, Model, Operation, round, tag};
use landfall_tests::harness::run;
use std::path::PathBuf;

/// An image as a file, for as long as this lives.
struct Mount {
    at: String,
}

impl Mount {
    /// By `vmdkmount` or `vhdimount`.
    #[track_caller]
    fn of(folder: &Folder, image: &str) -> Self {
        let at = folder.inner(&format!("mount-{}", Seed::new(image.len() as u64).next_u64()));
        let program = if image.ends_with("vmdk") { "vmdkmount" } else { "vhdimount" };
        run(program, &[image, &at]);
        Self { at }
    }

    /// All of the disk: of a chain the file of the highest number is the topmost image.
    #[track_caller]
    fn read(&self) -> Vec<u8> {
        let entries = std::fs::read_dir(&self.at).expect("a mount");
        let files: Vec<PathBuf> = entries.map(|entry| entry.expect("readable").path()).collect();
        let topmost = files.iter().max().expect("at least one disk");
        std::fs::read(topmost).expect("readable")
    }

    fn end(self) {
        run("fusermount", &["-u", &self.at]);
        std::fs::remove_dir(&self.at).expect("empty again");
        std::mem::forget(self);
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // Only after a failure: a mount would keep the folder of the test from being removed.
        let _ = std::process::Command::new("fusermount").args(["-u", "-z", &self.at]).status();
    }
}

/// The value behind a name in what `vmdkinfo` or `vhdiinfo` prints.
#[track_caller]
fn told<'a>(said: &'a str, name: &str) -> &'a str {
    let line = said.lines().find_map(|line| line.trim().strip_prefix(name));
    let (_, value) = line.and_then(|line| line.split_once(':')).unwrap_or_else(|| panic!("{said}"));
    value.trim()
}

/// Reads a chain of VHD or VHDX images, the topmost first, as far as the parents are given.
const READ_CHAIN: &str = "
import sys, pyvhdi
chain = [pyvhdi.file() for _ in sys.argv[2:]]
for image, path in zip(chain, sys.argv[2:]):
    image.open(path)
for child, parent in zip(chain, chain[1:]):
    assert child.parent_identifier == parent.identifier, (child.parent_identifier, parent.identifier)
    child.set_parent(parent)
with open(sys.argv[1], 'wb') as out:
    at = 0
    while at < chain[0].media_size:
        part = chain[0].read_buffer_at_offset(min(1 << 20, chain[0].media_size - at), at)
        assert part, at
        out.write(part)
        at += len(part)
";

/// Reads a VMDK.
const READ_VMDK: &str = "
import sys, pyvmdk
image = pyvmdk.handle()
image.open(sys.argv[2])
image.open_extent_data_files()
with open(sys.argv[1], 'wb') as out:
    at = 0
    while at < image.media_size:
        part = image.read_buffer_at_offset(min(1 << 20, image.media_size - at), at)
        assert part, at
        out.write(part)
        at += len(part)
";

/// What libvmdk reads.
#[track_caller]
fn read_vmdk(image: &str) -> Vec<u8> {
    let copy = format!("{image}.read-by-libvmdk");
    run("/usr/bin/python3", &["-c", READ_VMDK, &copy, image]);
    image::take(&copy)
}

/// What libvhdi reads of a chain.
#[track_caller]
pub(crate) fn read_chain(chain: &[&str]) -> Vec<u8> {
    let copy = format!("{}.read-by-libvhdi", chain[0]);
    // The bindings belong to Debian's own interpreter, whatever comes first in PATH.
    run("/usr/bin/python3", &[&["-c", READ_CHAIN, &copy], chain].concat());
    image::take(&copy)
}

#[test]
fn vmdk_of_every_kind() {
    for (kind, name) in [
        ("monolithicSparse", "Monolithic sparse"),
        ("monolithicFlat", "Monolithic flat"),
        ("vmfs", "VMFS flat"),
        ("twoGbMaxExtentSparse", "2GB extent sparse"),
        ("twoGbMaxExtentFlat", "2GB extent flat"),
        ("streamOptimized", "Stream optimized"),
    ] {
        let folder = Folder::new();
        let content = image::content(8 * MIB, 21);
        let raw = folder.raw("disk.raw", &content);
        let image = folder.at("disk.vmdk");
        landfall(&["convert", &raw, &image, "--kind", kind]).ok();
        let said = run("vmdkinfo", &[&image]);
        assert_eq!(told(&said, "Disk type"), name);
        assert_eq!(told(&said, "Media size"), "8.0 MiB (8388608 bytes)");
        let cid = image::info(&image)["identity"]["value"].as_str().map(|cid| format!("0x{cid}"));
        assert_eq!(Some(told(&said, "Content identifier")), cid.as_deref());
        assert_eq!(told(&said, "Parent content identifier"), "0xffffffff");
        if kind == "monolithicFlat" {
            // vmdkmount: "Unsupported disk type", also of one that QEMU made.
            same(&read_vmdk(&image), &content, kind);
            continue;
        }
        let mount = Mount::of(&folder, &image);
        same(&mount.read(), &content, kind);
        mount.end();
    }
}

#[test]
fn vmdk_chain() {
    let folder = Folder::new();
    let content = image::content(8 * MIB, 22);
    let raw = folder.raw("disk.raw", &content);
    let (base, child) = (folder.at("base.vmdk"), folder.at("child.vmdk"));
    landfall(&["convert", &raw, &base]).ok();
    landfall(&["create", &child, "--parent", &base]).ok();
    let mut writer = Writer::open(&child);
    for line in ["write 300 1000 3", "write 16000 1 3", "zero 2048 2048 0"] {
        writer.tell(line);
    }
    writer.close();
    let said = run("vmdkinfo", &[&child]);
    assert_eq!(told(&said, "Parent filename"), "base.vmdk");
    let cid = image::info(&base)["identity"]["value"].as_str().map(|cid| format!("0x{cid}"));
    assert_eq!(Some(told(&said, "Parent content identifier")), cid.as_deref());
    let ours = image::read(&child);
    assert!(ours != content, "nothing was written");
    let mount = Mount::of(&folder, &child);
    same(&mount.read(), &ours, "a chain");
    mount.end();
}

#[test]
fn vhdx_and_vhd_of_every_kind() {
    for (name, options, kind, sector) in [
        ("disk.vhdx", &[][..], "Dynamic", "512 bytes"),
        ("disk.vhdx", &["--block-size", "1MiB"], "Dynamic", "512 bytes"),
        ("disk.vhdx", &["--block-size", "256MiB"], "Dynamic", "512 bytes"),
        ("disk.vhdx", &["--kind", "fixed"], "Fixed", "512 bytes"),
        ("disk.vhdx", &["--sector", "4096"], "Dynamic", "4096 bytes"),
        ("disk.vhdx", &["--sector", "4096", "--block-size", "1MiB"], "Dynamic", "4096 bytes"),
        ("disk.vhdx", &["--sector", "4096", "--kind", "fixed"], "Fixed", "4096 bytes"),
        ("disk.vhd", &[], "Dynamic", "512 bytes"),
        ("disk.vhd", &["--kind", "fixed"], "Fixed", "512 bytes"),
    ] {
        let folder = Folder::new();
        let content = image::content(8 * MIB, 23);
        let raw = folder.raw("disk.raw", &content);
        let image = folder.at(name);
        landfall(&[&["convert", &raw, &image], options].concat()).ok();
        let said = run("vhdiinfo", &[&image]);
        assert_eq!(told(&said, "Disk type"), kind, "{options:?}");
        assert_eq!(told(&said, "Media size"), "8.0 MiB (8388608 bytes)", "{options:?}");
        assert_eq!(told(&said, "Bytes per sector"), sector, "{options:?}");
        let ours = image::info(&image);
        assert_eq!(told(&said, "Identifier"), ours["identity"]["value"], "{options:?}");
        let mount = Mount::of(&folder, &image);
        same(&mount.read(), &content, name);
        mount.end();
        same(&image::read(&image), &content, "by us");
    }
}

/// Writes and zeroes without overlaps, aligned to `unit` sectors.
fn operations(session: u32, unit: u64) -> Vec<Operation> {
    let rounds = round(session, 0, (8 * MIB / 512) as u64).into_iter();
    let aligned = rounds.filter(|one| one.start % unit == 0 && one.count % unit == 0);
    aligned.filter(|one| one.deed != Deed::Discard).collect()
}

/// Three generations of VHDX with `sector` bytes a sector, written by us and read by libvhdi.
fn vhdx_chain(sector: &str, block: &str) {
    let folder = Folder::new();
    let images = ["base.vhdx", "child.avhdx", "grandchild.avhdx"].map(|name| folder.at(name));
    let [base, child, grandchild] = &images;
    let shape = ["--sector", sector, "--block-size", block];
    landfall(&[&["create", base, "--size", "8MiB"], &shape[..]].concat()).ok();
    let unit = sector.parse::<u64>().expect("a number") / 512;
    let mut model = Model::zeroes(8 * MIB / 512);
    for (session, image) in (1..).zip([base, child, grandchild]) {
        if let Some(parent) = images.iter().take_while(|one| *one != image).last() {
            let create = ["create", image, "--parent", parent, "--block-size", block];
            landfall(&create).ok();
        }
        let operations = operations(session, unit);
        assert!(operations.len() > 3, "hardly anything is written");
        let mut writer = Writer::open(image);
        writer.perform(&operations, tag(session, 0));
        writer.close();
        model.done(&operations, tag(session, 0));
        image::check(image);
        let ours = image::read(image);
        model.check(&ours).unwrap_or_else(|broken| panic!("{image}: {broken}"));
        let upwards: Vec<&str> = match session {
            1 => vec![base],
            2 => vec![child, base],
            _ => vec![grandchild, child, base],
        };
        same(&read_chain(&upwards), &ours, image);
        if session > 1 {
            assert_eq!(own(image), written(&operations), "{image}");
        }
    }
    let said = run("vhdiinfo", &[grandchild]);
    assert_eq!(told(&said, "Disk type"), "Differential");
    assert_eq!(told(&said, "Bytes per sector"), format!("{sector} bytes"));
    assert_eq!(told(&said, "Parent identifier"), image::info(child)["identity"]["value"]);
}

/// Everything that a child has itself: data and zeroes.
fn own(image: &str) -> Vec<(u64, u64)> {
    let told = landfall(&["map", "--own", "--json", image]).json();
    let number = |range: &serde_json::Value, name: &str| range[name].as_u64().expect("a number");
    let ranges = told["ranges"].as_array().expect("a list").iter();
    image::joined(
        ranges.map(|range| {
            (number(range, "offset"), number(range, "offset") + number(range, "length"))
        }),
    )
}

fn written(operations: &[Operation]) -> Vec<(u64, u64)> {
    let mut all: Vec<(u64, u64)> =
        operations.iter().map(|one| (one.start * 512, (one.start + one.count) * 512)).collect();
    all.sort_unstable();
    image::joined(all.into_iter())
}

#[test]
fn vhdx_chain_of_512_byte_sectors() {
    vhdx_chain("512", "1MiB");
    vhdx_chain("512", "2MiB");
}

#[test]
fn vhdx_chain_of_4096_byte_sectors() {
    vhdx_chain("4096", "1MiB");
    vhdx_chain("4096", "4MiB");
}
