//! Who may open an image while somebody else has it open: between us and QEMU as between two of QEMU.
//!
//! | has it open | QEMU to read | QEMU to write | QEMU `-U` | we to read | we to write | we `--shared` |
//! |---|---|---|---|---|---|---|
//! | QEMU to read | | | | yes | no | yes |
//! | QEMU to write | | | | no | no | yes |
//! | we to read | yes | no | yes | yes | no | yes |
//! | we to write | no | no | yes | no | no | yes |

use crate::image::{Folder, info, landfall};
use crate::qemu;
use crate::writer::Writer;
use landfall_tests::harness::attempt;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};

const IMAGES: &[(&str, &[&str])] = &[
    ("disk.vmdk", &[]),
    ("disk.vmdk", &["--kind", "monolithicFlat"]),
    ("disk.vmdk", &["--kind", "twoGbMaxExtentSparse"]),
    ("disk.vhdx", &[]),
    ("disk.vhd", &[]),
    ("disk.vhd", &["--kind", "fixed"]),
    ("disk.raw", &[]),
];

/// A `qemu-io` that has an image open.
struct Holder(Child);

impl Holder {
    fn open(image: &str, more: &[&str]) -> Self {
        let mut command = Command::new("qemu-io");
        command.args(["-f", qemu::format_of(image)]).args(more).arg(image);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("qemu-io is installed");
        let mut input = child.stdin.take().expect("a pipe");
        writeln!(input, "read 0 512").expect("it listens");
        let mut lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
        let opened = lines.any(|line| line.expect("text").contains("read 512/512"));
        assert!(opened, "qemu-io could not open {image}");
        child.stdin = Some(input);
        Self(child)
    }

    fn close(mut self) {
        drop(self.0.stdin.take());
        self.0.wait().expect("waited for");
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        // A test that fails leaves nobody behind; one that is done has waited for it already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn each(test: impl Fn(&str)) {
    for (name, options) in IMAGES {
        let folder = Folder::new();
        let image = folder.at(name);
        landfall(&[&["create", &image, "--size", "8MiB"], *options].concat()).ok();
        test(&image);
        // Nothing is left behind: whoever comes next may write.
        Writer::open(&image).close();
        Holder::open(&image, &[]).close();
    }
}

#[track_caller]
fn qemu_is_refused(image: &str, program: &str, arguments: &[&str]) {
    let format = qemu::format_of(image);
    let said = attempt(program, &[arguments, &["-f", format, image]].concat());
    // "Failed to get \"write\" lock", or "Failed to lock byte 201".
    assert!(said.err.contains("Failed to") && said.err.contains("lock"), "{program}: {said:?}");
}

#[track_caller]
fn we_are_refused(image: &str) {
    let copy = format!("{image}.never.raw");
    landfall(&["info", image]).refused(&["--shared"]);
    landfall(&["check", image]).refused(&["--shared"]);
    landfall(&["convert", image, &copy]).refused(&["--shared"]);
    assert!(!std::path::Path::new(&copy).exists(), "a refused copy left a file");
    landfall(&["info", "--shared", image]).ok();
    landfall(&["map", "--shared", image]).ok();
}

#[test]
fn while_qemu_writes_we_stay_out() {
    each(|image| {
        let holder = Holder::open(image, &[]);
        we_are_refused(image);
        Writer::is_refused(image);
        holder.close();
        info(image);
    });
}

#[test]
fn while_qemu_reads_we_may_read() {
    each(|image| {
        let holder = Holder::open(image, &["-r"]);
        info(image);
        landfall(&["check", image]).ok();
        Writer::is_refused(image);
        holder.close();
    });
}

#[test]
fn while_we_write_qemu_stays_out() {
    each(|image| {
        let writer = Writer::open(image);
        // Not `info`, which of a raw file reads nothing and so locks nothing, also between two of QEMU.
        qemu_is_refused(image, "qemu-img", &["map"]);
        qemu_is_refused(image, "qemu-io", &["-c", "read 0 512"]);
        qemu_is_refused(image, "qemu-io", &["-r", "-c", "read 0 512"]);
        attempt("qemu-img", &["info", "-U", "-f", qemu::format_of(image), image]).ok();
        we_are_refused(image);
        Writer::is_refused(image);
        writer.close();
        qemu::info(image);
    });
}

#[test]
fn a_parent_that_we_read_may_be_read_and_not_written() {
    for name in ["base.vmdk", "base.vhdx"] {
        let folder = Folder::new();
        let (base, child) = (folder.at(name), folder.at(&name.replace("base", "child")));
        landfall(&["create", &base, "--size", "8MiB"]).ok();
        landfall(&["create", &child, "--parent", &base]).ok();
        let writer = Writer::open(&child);
        qemu::info(&base);
        info(&base);
        qemu_is_refused(&base, "qemu-io", &["-c", "write 0 512"]);
        Writer::is_refused(&base);
        writer.close();
        qemu::io(&base, &["write 0 512"]);
    }
}
