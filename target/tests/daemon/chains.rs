//! Replicating images of formats, and of snapshots: what stands on what was sent is not compared.

use crate::harness::{Target, make_child, make_vhdx, metric, noise, qemu_img, write_image};
use std::fs;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, SystemTime};

const MIB: usize = 1 << 20;

/// Replicates `web` from a file once; what it said of the point.
fn replicate(target: &Target, file: &str) -> String {
    target.run(&["replicate", "web", "--disk", &format!("os={file}")])
}

/// A target that holds `base.vhdx`, of 16 MiB with data in the first two; and what is in it.
fn with_base() -> (Target, Vec<u8>) {
    let target = Target::start();
    let base = target.path("base.vhdx");
    make_vhdx(&base, 16 << 20);
    let mut content = vec![0; 16 * MIB];
    content[..2 * MIB].copy_from_slice(&noise(1, 2 * MIB));
    write_image(&base, 0, &content[..2 * MIB]);
    target.run(&["machine", "add", "web", "--disk", "name=os,size=16MiB"]);
    let said = replicate(&target, "base.vhdx");
    assert!(said.contains("crash point") && !said.contains("chain"), "{said}");
    assert!(target.read("web/os").unwrap().0 == content);
    (target, content)
}

/// Changes a part of an image and of what is known to be in it.
fn change(target: &Target, image: &str, content: &mut [u8], at: usize, bytes: &[u8]) {
    write_image(&target.path(image), at as u64, bytes);
    content[at..at + bytes.len()].copy_from_slice(bytes);
}

#[test]
fn the_image_of_a_snapshot_is_sent_without_comparing() {
    let (mut target, mut content) = with_base();
    make_child(&target.path("base.vhdx"), &target.path("one.avhdx"));
    change(&target, "one.avhdx", &mut content, 4096, &noise(2, 8192));
    change(&target, "one.avhdx", &mut content, 10 * MIB, &noise(3, 65536));
    change(&target, "one.avhdx", &mut content, MIB, &vec![0; 131_072]);
    let said = replicate(&target, "one.avhdx");
    assert!(said.contains("os delta by snapshot chain: 3 ranges, 200 KiB"), "{said}");
    assert!(said.contains("skipped 0 B"), "{said}");
    assert_eq!(metric(&target, "landfall_delta_hash_blocks_total"), 0, "something was compared");
    assert!(target.read("web/os").unwrap().0 == content);

    // The name is kept where the history is: another source, after a restart of the target, goes on from it.
    target.stop();
    target.resume();
    make_child(&target.path("one.avhdx"), &target.path("two.avhdx"));
    change(&target, "two.avhdx", &mut content, 15 * MIB, &noise(4, 4096));
    let said = replicate(&target, "two.avhdx");
    assert!(said.contains("os delta by snapshot chain: 1 range, 4 KiB"), "{said}");
    let said = replicate(&target, "two.avhdx");
    assert!(said.contains("os delta by snapshot chain: 0 ranges"), "{said}");
    assert!(target.read("web/os").unwrap().0 == content);
    assert_eq!(target.points().len(), 4);
    assert_eq!(metric(&target, "landfall_delta_hash_blocks_total"), 0, "something was compared");
}

#[test]
fn two_snapshots_at_once_are_sent_together() {
    let (target, mut content) = with_base();
    make_child(&target.path("base.vhdx"), &target.path("one.avhdx"));
    change(&target, "one.avhdx", &mut content, 0, &noise(2, 16384));
    make_child(&target.path("one.avhdx"), &target.path("two.avhdx"));
    change(&target, "two.avhdx", &mut content, 8192, &noise(3, 4096));
    change(&target, "two.avhdx", &mut content, 5 * MIB + 512, &noise(4, 512));
    let said = replicate(&target, "two.avhdx");
    assert!(said.contains("os delta by snapshot chain: 2 ranges, 20 KiB"), "{said}");
    assert!(target.read("web/os").unwrap().0 == content);
}

#[test]
fn whatever_is_not_sure_is_compared() {
    let (target, mut content) = with_base();
    make_child(&target.path("base.vhdx"), &target.path("one.avhdx"));
    change(&target, "one.avhdx", &mut content, 4096, &noise(2, 8192));
    // The base keeps what the format calls it, and is another file all the same.
    let touched = fs::File::options().write(true).open(target.path("base.vhdx")).unwrap();
    touched.set_modified(SystemTime::now() - Duration::from_secs(3600)).unwrap();
    let said = replicate(&target, "one.avhdx");
    assert!(said.contains("os compared by hash: the chain's base is not what was sent"), "{said}");
    assert!(target.read("web/os").unwrap().0 == content);

    // Something else came in between.
    fs::write(target.path("other.raw"), &content).unwrap();
    write_image(&target.path("other.raw"), 3 << 20, &noise(5, 4096));
    replicate(&target, "other.raw");
    make_child(&target.path("one.avhdx"), &target.path("two.avhdx"));
    let said = replicate(&target, "two.avhdx");
    assert!(said.contains("os compared by hash: the target does not know what it holds"), "{said}");
    assert!(target.read("web/os").unwrap().0 == content);
}

#[test]
fn a_file_is_what_its_content_says_unless_somebody_says_otherwise() {
    let (mut target, _) = with_base();
    target.expect_log("stream refused");
    let file = fs::read(target.path("base.vhdx")).unwrap();
    let disk = format!("name=os,size={}", file.len());
    target.run(&["machine", "add", "plain", "--disk", &disk]);
    let refused = target.refused(&["replicate", "plain", "--disk", "os=base.vhdx"]);
    assert!(refused.contains("16777216"), "the size of the disk in it: {refused}");
    target.run(&["replicate", "plain", "--disk", "os=base.vhdx,format=raw"]);
    assert!(target.read("plain/os").unwrap().0 == file);
    let refused = target.refused(&["replicate", "web", "--disk", "os=landfall.nothing"]);
    assert!(refused.contains("landfall.nothing"), "{refused}");
}

#[test]
fn a_delta_of_vmware_is_sent_without_comparing() {
    let target = Target::start();
    let path = |name: &str| target.path(name).to_str().unwrap().to_owned();
    let mut content = noise(1, 4 * MIB);
    fs::write(target.path("base.raw"), &content).unwrap();
    let flat = ["-O", "vmdk", "-o", "subformat=monolithicFlat"];
    qemu_img(&[&["convert"], &flat[..], &[&path("base.raw"), &path("base.vmdk")]].concat());
    target.run(&["machine", "add", "web", "--disk", "name=os,size=4MiB"]);
    replicate(&target, "base.vmdk");
    let parent = ["-f", "vmdk", "-b", "base.vmdk", "-F", "vmdk"];
    qemu_img(&[&["create"], &parent[..], &[&path("base-000001.vmdk")]].concat());
    // A grain of 64 KiB, which QEMU fills up from the parent.
    change(&target, "base-000001.vmdk", &mut content, 65536, &noise(2, 65536));
    let said = replicate(&target, "base-000001.vmdk");
    assert!(said.contains("os delta by snapshot chain: 1 range, 64 KiB"), "{said}");
    assert!(target.read("web/os").unwrap().0 == content);

    // The flat extent of the base is a file of its own, and is watched like the others.
    fs::File::options()
        .write(true)
        .open(target.path("base-flat.vmdk"))
        .and_then(|file| file.set_modified(SystemTime::now() - Duration::from_secs(3600)))
        .unwrap();
    let said = replicate(&target, "base-000001.vmdk");
    assert!(said.contains("os compared by hash: the chain's base is not what was sent"), "{said}");
}

/// QEMU with an image open for writing.
struct Writer(Child);

impl Writer {
    fn of(target: &Target, image: &str, format: &str) -> Self {
        let mut child = Command::new("qemu-io")
            .args(["-f", format, target.path(image).to_str().unwrap()])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .expect("qemu-io is installed");
        std::thread::sleep(Duration::from_millis(500));
        assert!(child.try_wait().expect("asked").is_none(), "it has ended");
        Self(child)
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        let ended = self.0.kill().and_then(|()| self.0.wait());
        ended.expect("it was started here");
    }
}

#[test]
fn an_image_in_use_is_refused_and_a_raw_file_in_use_is_read() {
    let mut target = Target::start();
    target.expect_log("stream refused");
    let path = |name: &str| target.path(name).to_str().unwrap().to_owned();
    qemu_img(&["create", "-f", "vhdx", &path("busy.vhdx"), "8M"]);
    qemu_img(&["create", "-f", "raw", &path("busy.raw"), "8M"]);
    target.run(&["machine", "add", "web", "--disk", "name=os,size=8MiB"]);
    let _writers =
        (Writer::of(&target, "busy.vhdx", "vhdx"), Writer::of(&target, "busy.raw", "raw"));
    let refused = target.refused(&["replicate", "web", "--disk", "os=busy.vhdx"]);
    assert!(refused.contains("replicate a snapshot"), "{refused}");
    replicate(&target, "busy.raw");
}
