//! Restoring into images of formats; `qemu-img` says what is in them.

use crate::harness::{Target, allocated, noise, qemu_img};
use std::fs;

const MIB: usize = 1 << 20;

/// A machine with a disk of 16 MiB, of which the second, and a little at the end, is data.
fn with_machine() -> (Target, Vec<u8>) {
    let mut content = vec![0; 16 * MIB];
    content[MIB..2 * MIB].copy_from_slice(&noise(1, MIB));
    content[16 * MIB - 512..].copy_from_slice(&noise(2, 512));
    (Target::start().with_machine(&content), content)
}

/// That `qemu-img` finds `disk.raw` in the image.
fn holds(target: &Target, image: &str, known_as: &str) {
    let (raw, image) = (target.path("disk.raw"), target.path(image));
    let (raw, image) = (raw.to_str().unwrap(), image.to_str().unwrap());
    qemu_img(&["compare", "-f", "raw", "-F", known_as, raw, image]);
}

/// The identity of a disk that a guest of VMware sees.
fn uuid(descriptor: &[u8]) -> String {
    let text = String::from_utf8_lossy(descriptor);
    let line = text.lines().find(|line| line.starts_with("ddb.uuid "));
    line.unwrap_or_else(|| panic!("no uuid in {text}")).to_owned()
}

#[test]
fn a_point_is_restored_into_every_kind_of_every_format() {
    let (target, _) = with_machine();
    for (format, known_as, kinds) in [
        (
            "vmdk",
            "vmdk",
            &[
                "vmfs",
                "monolithicSparse",
                "monolithicFlat",
                "twoGbMaxExtentSparse",
                "twoGbMaxExtentFlat",
                "streamOptimized",
            ][..],
        ),
        ("vhdx", "vhdx", &["dynamic", "fixed"]),
        ("vhd", "vpc", &["dynamic", "fixed"]),
        ("raw", "raw", &["raw"]),
    ] {
        for kind in kinds {
            let file = format!("{kind}.{format}");
            let how = ["--format", format, "--kind", kind, "--output", &file];
            let said = target.run(&[&["restore", "web"], &how[..]].concat());
            assert!(said.contains(&file), "{said}");
            holds(&target, &file, known_as);
            if format == "vhdx" {
                qemu_img(&["check", "-f", "vhdx", target.path(&file).to_str().unwrap()]);
            }
            assert!(!target.path(&format!("{file}.partial")).exists(), "{file}");
        }
    }
    let flat = target.path("vmfs-flat.vmdk");
    assert!(allocated(&flat) < 3 * MIB as u64, "holes were filled");
    assert!(allocated(&target.path("dynamic.vhdx")) < 8 * MIB as u64, "holes were filled");
    let stream = qemu_img(&["info", target.path("streamOptimized.vmdk").to_str().unwrap()]);
    assert!(stream.contains("streamOptimized"), "{stream}");
}

#[test]
fn a_guest_finds_the_disk_it_knows() {
    let (target, _) = with_machine();
    for output in ["one.vmdk", "two.vmdk"] {
        target.run(&["restore", "web", "--format", "vmdk", "--output", output]);
    }
    let one = uuid(&fs::read(target.path("one.vmdk")).unwrap());
    assert_eq!(one, uuid(&fs::read(target.path("two.vmdk")).unwrap()));
    assert!(one.contains("60 00 c2 9"), "{one}");

    // A machine whose image is a VMDK shows the same disk in its image and in what is restored of it.
    target.run(&["machine", "add", "vm", "--disk", "name=os,size=16MiB,format=vmdk"]);
    target.run(&["replicate", "vm", "--disk", "os=disk.raw"]);
    target.run(&["restore", "vm", "--format", "vmdk", "--output", "vm.vmdk"]);
    let own = uuid(&fs::read(target.data().join("images/vm/os.vmdk")).unwrap());
    assert_eq!(own, uuid(&fs::read(target.path("vm.vmdk")).unwrap()));
    assert_ne!(own, one, "another disk");
}

fn restore<'a>(more: &[&'a str]) -> Vec<&'a str> {
    [&["restore", "web", "--format", "vmdk"][..], more].concat()
}

#[test]
fn what_is_there_is_replaced_only_when_somebody_says_so() {
    let (target, _) = with_machine();
    fs::write(target.path("a-flat.vmdk"), "precious").unwrap();
    let refused = target.refused(&restore(&["--output", "a.vmdk"]));
    assert!(refused.contains("a-flat.vmdk exists"), "{refused}");
    assert_eq!(fs::read(target.path("a-flat.vmdk")).unwrap(), b"precious");
    assert!(!target.path("a.vmdk").exists() && !target.path("a.vmdk.partial").exists());
    target.run(&restore(&["--output", "a.vmdk", "--force"]));
    holds(&target, "a.vmdk", "vmdk");
    let refused = target.refused(&restore(&["--output", "a.vmdk"]));
    assert!(refused.contains("--force replaces it"), "{refused}");
    let refused = target.refused(&restore(&["--kind", "thin", "--output", "b.vmdk"]));
    assert!(refused.contains("there are vmfs, monolithicSparse"), "{refused}");
    target.run(&["restore", "web", "--format", "vhdx", "--output", "out/"]);
    holds(&target, "out/os.vhdx", "vhdx");
}
