//! Images as a moment left them: copied while a writer is at work, or after `kill -9` of it.
//!
//! ```text
//!   writer    round 0 │ flush 0 ‖ round 1 │ flush 1 ‖ round 2 │ …
//!   test              "flushed N" … freeze ─▶ copy of all files ─▶ thaw            or kill
//!   copy      check: nothing is wrong, or it can be put right without loss
//!             QEMU and we read the same; rounds up to N are in it, N + 1 and N + 2 in any part, and nothing else
//! ```
//!
//! A copy of a file that takes time holds different moments, which no format survives: so the writer is frozen for as long as
//! the copy takes, as a snapshot of the file system below would do it.

use crate::image::{self, Folder, files_of, landfall, same};
use crate::qemu;
use crate::verdict::Found;
use crate::writer::Writer;
use landfall_disks::faults::Seed;
use landfall_tests::churn::Model;
use landfall_tests::harness::run;
use std::process::{Command, Stdio};
use std::time::Duration;

const SIZE: &str = "8MiB";
const COPIES: u32 = 8;
const KILLS: u32 = 20;

/// An image that holds zeroes.
fn created(folder: &str, name: &str, options: &[&str]) -> String {
    let image = format!("{folder}/{name}");
    landfall(&[&["create", &image, "--size", SIZE], options].concat()).ok();
    image
}

/// Whether the image keeps what was promised; `model` says what. Answers what it holds.
#[track_caller]
fn judge(image: &str, model: &Model, found: &mut Found) -> Vec<u8> {
    let raw = image::as_raw(image);
    let alone = !image.contains("child");
    found.judge(image, &raw, alone || image.ends_with("vmdk"));
    let bytes = image::take(&raw);
    model.check(&bytes).unwrap_or_else(|broken| panic!("{image}: {broken}"));
    bytes
}

fn model(image: &str) -> Model {
    Model::of(&image::read(image)).unwrap_or_else(|broken| panic!("{image}: {broken}"))
}

/// Copies of an image at work.
fn copies(name: &str, options: &[&str], base: Option<&str>) {
    let folder = Folder::new();
    let work = folder.inner("work");
    let image = match base {
        Some(base) => child(&work, name, base),
        None => created(&work, name, options),
    };
    let before = model(&image);
    let (mut random, mut found) = (Seed::new(17), Found::default());
    let mut writer = Writer::open(&image);
    writer.churn(1);
    for number in 0..COPIES {
        let seen = writer.flushed();
        writer.wait_past(seen);
        std::thread::sleep(Duration::from_micros(random.below(20_000)));
        writer.freeze();
        let last = writer.flushed();
        let copy = folder.inner(&format!("copy-{number}"));
        for file in files_of(&work, "") {
            std::fs::copy(format!("{work}/{file}"), format!("{copy}/{file}")).expect("copied");
        }
        writer.thaw();
        let mut promised = before.clone();
        promised.after(1, last);
        judge(&format!("{copy}/{name}"), &promised, &mut found);
    }
    let last = writer.kill();
    let mut promised = before;
    promised.after(1, last);
    judge(&image, &promised, &mut found);
    println!("{name} {options:?}: {found:?}, {last:?} rounds");
    assert!(last > Some(COPIES), "the writer did next to nothing");
}

/// A child of an image that holds a session of its own.
fn child(folder: &str, name: &str, base: &str) -> String {
    let parent = created(folder, base, &[]);
    let mut writer = Writer::open(&parent);
    writer.churn(9);
    writer.wait_past(Some(3));
    writer.kill();
    // Whoever opens it next puts right what the kill left.
    Writer::open(&parent).close();
    let image = format!("{folder}/{name}");
    landfall(&["create", &image, "--parent", &parent]).ok();
    image
}

/// `kill -9`, again and again, of who writes to one image.
fn killed(name: &str, options: &[&str]) {
    let folder = Folder::new();
    let image = created(&folder.inner("work"), name, options);
    let mut found = Found::default();
    let mut random = Seed::new(23);
    let mut before = Model::zeroes(8 << 11);
    let mut rounds = 0;
    for session in 1..=KILLS {
        let mut writer = Writer::open(&image);
        writer.churn(session);
        std::thread::sleep(Duration::from_micros(random.below(150_000)));
        let last = writer.kill();
        rounds += last.map_or(0, |last| last + 1);
        before.after(session, last);
        let bytes = judge(&image, &before, &mut found);
        before = Model::of(&bytes).expect("judged");
    }
    println!("{name} {options:?}: {found:?}, {rounds} rounds");
    assert!(rounds > KILLS, "the kills came before anything was durable");
    qemu::io(&image, &["write -P 0 0 64k"]);
    image::check_behind_qemu(&image);
}

#[test]
fn copies_of_sparse_vmdk() {
    copies("disk.vmdk", &[], None);
    copies("disk.vmdk", &["--kind", "twoGbMaxExtentSparse"], None);
}

#[test]
fn copies_of_flat_vmdk() {
    copies("disk.vmdk", &["--kind", "monolithicFlat"], None);
    copies("disk.vmdk", &["--kind", "vmfs"], None);
}

#[test]
fn copies_of_dynamic_vhdx() {
    copies("disk.vhdx", &["--block-size", "1MiB"], None);
    copies("disk.vhdx", &["--block-size", "4MiB"], None);
}

#[test]
fn copies_of_fixed_vhdx() {
    copies("disk.vhdx", &["--kind", "fixed"], None);
}

#[test]
fn copies_of_vhd() {
    copies("disk.vhd", &[], None);
    copies("disk.vhd", &["--kind", "fixed"], None);
}

#[test]
fn copies_of_children() {
    copies("child.vmdk", &[], Some("base.vmdk"));
    copies("child.vhdx", &[], Some("base.vhdx"));
}

#[test]
fn vmdk_killed() {
    killed("disk.vmdk", &[]);
}

#[test]
fn vhdx_killed() {
    killed("disk.vhdx", &["--block-size", "1MiB"]);
}

#[test]
fn vhd_killed() {
    killed("disk.vhd", &[]);
}

/// A VHDX whose log is not empty, because a QEMU that allocated blocks was killed while it brought its log home.
fn killed_in_the_middle(folder: &Folder, random: &mut Seed) -> String {
    for attempt_number in 0..100 {
        let image = folder.at(&format!("killed-{attempt_number}.vhdx"));
        qemu::create(&image, "block_size=1M,log_size=1M", 256 << 20);
        let mut command = Command::new("qemu-io");
        command.args(["-f", "vhdx"]).stdout(Stdio::null());
        for block in 0..256 {
            command.args(["-c".to_owned(), format!("write -P {} {block}M 4k", block % 250 + 1)]);
        }
        let mut writer = command.arg(&image).spawn().expect("qemu-io is installed");
        std::thread::sleep(Duration::from_micros(30_000 + random.below(150_000)));
        writer.kill().expect("ours");
        writer.wait().expect("waited for");
        if qemu::checked(&image).err.contains("needs to be replayed") {
            return image;
        }
        std::fs::remove_file(image).expect("removed");
    }
    panic!("of 100 kills none came between log and place");
}

#[test]
fn what_a_kill_left_of_qemu_is_replayed() {
    let (folder, mut random) = (Folder::new(), Seed::new(31));
    for _ in 0..2 {
        let image = killed_in_the_middle(&folder, &mut random);
        // We read it as it is, without a change to the file.
        let untouched = std::fs::read(&image).expect("read");
        assert_eq!(image::info(&image)["details"]["log entries replayed"], "1");
        let ours = image::read(&image);
        assert!(std::fs::read(&image).expect("read") == untouched, "reading changed the file");
        let copy = format!("{image}.copy.vhdx");
        std::fs::copy(&image, &copy).expect("copied");
        run("qemu-img", &["check", "-q", "-f", "vhdx", "-r", "all", &copy]);
        same(&qemu::read(&copy), &ours, "replayed by QEMU, and in memory by us");
        assert_eq!(ours[0], 1, "the first block was written long before");

        // And we replay it for good.
        landfall(&["check", "--repair", &image]).ok();
        image::check(&image);
        qemu::check(&image);
        same(&qemu::read(&image), &ours, "replayed by us");
        for file in [image, copy] {
            std::fs::remove_file(file).expect("removed");
        }
    }
}
