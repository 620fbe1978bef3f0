//! A lost machine boots from a recovery point over iSCSI: with the initiator of QEMU, and with those of firmware and of Linux.
//!
//! ```text
//!   version 1 ─▶ point │ version 2, then a bad day ─▶ points │ export of the first ─▶ a guest that finds version 1 whole
//!
//!   QEMU's own:   libiscsi in the emulator; the guest has a virtio disk
//!   firmware:     iPXE, in the network card's ROM, DHCP, sanboot ─▶ GRUB through INT 13h ─▶ Linux logs in again itself (iBFT)
//! ```
//!
//! The guest (`scripts/boot-disk`) checks its data, writes a file on its root, and powers off: all of it over iSCSI. What it wrote
//! is in the branch afterwards and nowhere else.

use crate::iscsi::{export, uri};
use crate::machine::{points, text};
use landfall_tests::harness::{Target, run};
use std::path::Path;

fn script(name: &str, arguments: &[&str]) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts").join(name);
    run(text(&path), arguments)
}

/// A machine whose disk boots with `option`, as it was at its first point and is no longer.
#[track_caller]
fn ruined(option: &[&str]) -> Target {
    let target = Target::start();
    let disk = target.folder().join("boot.raw");
    let disk = text(&disk);
    script("boot-disk", &[&[disk, "--size-mib", "96"], option].concat());
    target.landfall(&["machine", "add", "web", "--disk", "name=os,size=96MiB"]).ok();
    let pass = || {
        let disk = format!("os={disk}");
        target.landfall(&["replicate", "web", "--disk", &disk, "--once"]).ok();
    };
    pass();
    script("guest-files", &[disk, "version", "2"]);
    script("guest-files", &[disk, "bad-day"]);
    pass();
    assert_eq!(points(&target, "web").len(), 2);
    target
}

/// Boots a branch from the first point; what the guest said.
#[track_caller]
fn boot(target: &Target, options: &[&str]) -> String {
    let first = points(target, "web")[0]["sequence"].as_u64().expect("a number");
    let branch = export(target, &[&format!("web@seq:{first}"), "--writable", "--branch", "b"]);
    let unit = uri(&branch, "");
    let said = script("boot-guest", &[&[&*unit, "--timeout", "240"], options].concat());
    for line in ["booted version 1", "data ok", "wrote /var/written-by-guest"] {
        let line = format!("landfall-guest: {line}");
        assert!(said.lines().any(|one| one == line), "{line} is not in\n{said}");
    }
    // What it wrote is in the branch; the point that it began from never heard of it.
    let written = |name: &str| {
        let copy = target.folder().join("copy.raw");
        run("qemu-img", &["convert", "-f", "raw", "-O", "raw", &target.uri(name), text(&copy)]);
        assert_eq!(script("guest-files", &[text(&copy), "check"]), "data ok\n", "{name}");
        let lookup = ["-R", "stat /var/written-by-guest"];
        run("debugfs", &[&lookup[..], &[&format!("{}?offset=1048576", text(&copy))]].concat())
    };
    assert!(written("web~b/os").contains("Type: regular"));
    assert!(!written(&format!("web/os@seq:{first}")).contains("Type: regular"));
    said
}

#[test]
fn a_guest_boots_from_a_branch() {
    boot(&ruined(&[]), &[]);
}

#[test]
fn firmware_boots_from_a_branch_and_linux_goes_on() {
    let target = ruined(&["--iscsi"]);
    let said = boot(&target, &["--firmware"]);
    // The root is where the firmware said: there is no other disk in that guest.
    let name = "landfall-guest: iSCSI iqn.2026-11.internal.landfall:web:1";
    assert!(said.lines().any(|line| line == name), "{said}");
}
