//! Standby files of a running target: what a person finds in their folder, and what hypervisors make of them.

use crate::harness::{Target, metric, metrics, noise, qemu_img};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const MIB: usize = 1 << 20;

fn sidecar(file: &Path) -> String {
    let mut name = file.as_os_str().to_owned();
    name.push(".landfall");
    std::fs::read_to_string(name).expect("a sidecar")
}

/// A target whose machine has a standby of this format in `standby/`, brought to its one point.
fn with_standby(content: &[u8], format: &str) -> (Target, PathBuf) {
    let target = Target::start().with_machine(content);
    let added = target
        .run(&["standby", "add", "web", "--dir", "standby", "--format", format, "--every", "10s"]);
    assert!(added.contains("landfall standby sync web"), "{added}");
    target.run(&["standby", "sync", "web"]);
    let file = target.path("standby").join(format!("web-os.{format}"));
    (target, file)
}

/// Waits until the standby does what `what` says of it.
fn until(target: &Target, what: &str, is: impl Fn(&serde_json::Value) -> bool) {
    let begun = Instant::now();
    loop {
        let standby = target.json(&["standby", "show", "web"]);
        if is(&standby) {
            return;
        }
        assert!(begun.elapsed() < Duration::from_secs(120), "not {what}: {standby}");
        std::thread::sleep(Duration::from_millis(200));
    }
}

#[test]
fn a_hypervisor_finds_the_point_in_a_file_of_every_format() {
    for format in ["raw", "vmdk", "vhdx"] {
        let mut content = noise(1, 8 * MIB);
        content[MIB..3 * MIB].fill(0);
        let (target, file) = with_standby(&content, format);
        let path = file.to_str().expect("text");
        let source = target.path("disk.raw");
        for round in 0..3 {
            if round > 0 {
                content[4 * MIB..4 * MIB + 65536].copy_from_slice(&noise(round, 65536));
                content[5 * MIB..6 * MIB].fill(0);
                std::fs::write(&source, &content).expect("written");
                target.replicate();
                target.run(&["standby", "sync", "web"]);
            }
            // The point itself, read through journal and image by somebody else's client.
            let nbd = target.data().join("nbd.sock");
            let point = format!("nbd+unix:///web/os@latest?socket={}", nbd.display());
            let said = qemu_img(&["compare", "-f", "raw", "-F", format, &point, path]);
            assert!(said.contains("identical"), "{format}: {said}");
            assert!(target.read("web/os").expect("it opens").0 == content);
            let text = sidecar(&file);
            let sequence = target.points().last().expect("a point")["sequence"].clone();
            assert!(text.contains(&format!("(seq:{sequence}, crash)")), "{text}");
            assert!(text.contains("It may be booted."), "{text}");
        }
        if format != "raw" {
            qemu_img(&["check", "-f", format, path]);
        }
        let standby = target.json(&["standby", "show", "web"]);
        assert_eq!(standby["last"]["compared"], serde_json::json!([]));
        let written = standby["last"]["written_bytes"].as_u64().expect("a number");
        assert!(written < 2 * MIB as u64, "only what changed: {written}");
        assert_eq!(standby["state"], "current");
    }
}

#[test]
fn it_follows_by_itself_and_after_every_kind_of_end() {
    let mut content = noise(2, 4 * MIB);
    let (mut target, file) = with_standby(&content, "raw");
    for round in 0..3 {
        content[..4096].copy_from_slice(&noise(round, 4096));
        std::fs::write(target.path("disk.raw"), &content).expect("written");
        target.replicate();
        match round {
            0 => {}
            1 => {
                target.stop();
                target.resume();
            }
            _ => {
                target.kill();
                target.resume();
            }
        }
        let newest = target.points().last().expect("a point")["sequence"].clone();
        let name = format!("web@seq:{newest}");
        until(&target, "there", |standby| standby["holds"] == name.as_str());
        assert!(std::fs::read(&file).expect("readable") == content);
    }
    let text = metrics(&target);
    for line in [
        "landfall_standby_lag_points{machine=\"web\"} 0",
        "landfall_standby_lag_seconds{machine=\"web\"} 0",
        "landfall_standby_whole{machine=\"web\"} 1",
        "landfall_standby_failing{machine=\"web\"} 0",
        "landfall_standby_paused{machine=\"web\"} 0",
    ] {
        assert!(text.contains(line), "no {line} in\n{text}");
    }
    assert_eq!(metric(&target, "landfall_standby_compared_files_total"), 0, "nothing was unsure");
    let list = target.run(&["standby", "list"]);
    assert!(list.contains("current") && list.contains("none"), "{list}");
}

#[test]
fn an_older_point_is_held_until_somebody_resumes() {
    let first = noise(3, 2 * MIB);
    let (target, file) = with_standby(&first, "vhdx");
    let mut second = first.clone();
    second[MIB..MIB + 4096].fill(7);
    std::fs::write(target.path("disk.raw"), &second).expect("written");
    target.replicate();
    target.run(&["standby", "sync", "web"]);
    let oldest = target.points()[0]["sequence"].clone();
    let said = target.run(&["standby", "sync", &format!("web@seq:{oldest}")]);
    assert!(said.contains("paused; to go on: landfall standby resume web"), "{said}");
    assert!(sidecar(&file).contains(&format!("(seq:{oldest}, ")));
    let older = target.path("older.raw");
    std::fs::write(&older, &first).expect("written");
    let of = [older.to_str().expect("text"), file.to_str().expect("text")];
    qemu_img(&["compare", "-f", "raw", "-F", "vhdx", of[0], of[1]]);
    target.run(&["standby", "resume", "web"]);
    until(&target, "at the newest", |standby| standby["lag_points"] == 0);
    target.run(&["standby", "pause", "web"]);
    assert!(target.run(&["standby", "list"]).contains("current, paused"));
}

#[test]
fn whoever_boots_from_it_is_noticed_and_not_overwritten() {
    let mut content = noise(4, 2 * MIB);
    let (mut target, file) = with_standby(&content, "raw");
    target.expect_log("was written by somebody else");
    std::thread::sleep(Duration::from_millis(20));
    let mut booted = std::fs::read(&file).expect("readable");
    booted[MIB..MIB + 5].copy_from_slice(b"guest");
    std::fs::write(&file, &booted).expect("written");
    let shown = target.run(&["standby", "show", "web"]);
    assert!(shown.contains("whole; written by somebody else since"), "{shown}");
    content[..4096].fill(1);
    std::fs::write(target.path("disk.raw"), &content).expect("written");
    target.replicate();
    let refused = target.refused(&["standby", "sync", "web"]);
    assert!(refused.contains("a hypervisor that booted from it perhaps"), "{refused}");
    until(&target, "failing", |standby| standby["state"] == "failing");
    assert!(std::fs::read(&file).expect("readable") == booted, "it was touched");
    let said = target.run(&["standby", "sync", "web", "--overwrite"]);
    assert!(said.contains("compared as a whole: os"), "{said}");
    assert!(std::fs::read(&file).expect("readable") == content);
}

#[test]
fn scrub_finds_what_nobody_wrote_to_it_and_writes_it_anew() {
    let content = noise(6, 2 * MIB);
    let (mut target, file) = with_standby(&content, "raw");
    let sound = target.run(&["scrub"]);
    assert!(sound.contains("1 standby file holds what it should"), "{sound}");
    target.expect_log("bytes differ");
    target.expect_log("was written anew where it differed");
    let modified = std::fs::metadata(&file).and_then(|found| found.modified()).expect("a time");
    let opened = std::fs::OpenOptions::new().write(true).open(&file).expect("it is there");
    // As a medium does: nothing says that it was written to.
    opened.write_all_at(&[!content[MIB]], MIB as u64).expect("written");
    opened.set_modified(modified).expect("its owner may");
    let said = target.run(&["scrub"]);
    let differs = "web-os.raw: 4 KiB were not those of 20";
    assert!(said.contains(differs) && said.contains("): written anew"), "{said}");
    assert!(std::fs::read(&file).expect("readable") == content);
    let last = &target.json(&["scrub", "--status"])["last"]["standbys"][0];
    assert_eq!((&last["found"], &last["written_anew"]), (&"differs".into(), &true.into()));
    let sound = target.run(&["scrub"]);
    assert!(sound.contains("1 standby file holds what it should"), "{sound}");
    // What somebody wrote is theirs.
    opened.write_all_at(b"guest", 0).expect("written");
    let said = target.run(&["scrub"]);
    assert!(said.contains("not looked at: it is not as it was left"), "{said}");
    assert_eq!(std::fs::read(&file).expect("readable")[..5], *b"guest");
}

#[test]
fn a_hypervisor_that_has_it_open_is_left_alone() {
    let mut content = noise(5, 2 * MIB);
    let (mut target, file) = with_standby(&content, "raw");
    let socket = target.path("qemu.sock");
    let mut qemu = std::process::Command::new("qemu-nbd")
        .args(["-f", "raw", "--persistent", "-k"])
        .args([&socket, &file])
        .spawn()
        .expect("qemu-nbd is installed");
    let begun = Instant::now();
    while !socket.exists() {
        assert!(begun.elapsed() < Duration::from_secs(60), "qemu-nbd does not come up");
        std::thread::sleep(Duration::from_millis(20));
    }
    target.expect_log("in use by another process");
    content[..4096].fill(1);
    std::fs::write(target.path("disk.raw"), &content).expect("written");
    target.replicate();
    let refused = target.refused(&["standby", "sync", "web"]);
    assert!(refused.contains("in use by another process"), "{refused}");
    qemu.kill().expect("it runs");
    qemu.wait().expect("it ends");
    target.run(&["standby", "sync", "web"]);
    assert!(std::fs::read(&file).expect("readable") == content);
}

#[test]
fn wrong_folders_and_wishes_are_refused_with_what_to_do() {
    let target = Target::start().with_machine(&noise(6, MIB));
    let add = |arguments: &[&str]| {
        target.refused(&[&["standby", "add", "web", "--dir"], arguments].concat())
    };
    let data = target.data();
    let inside = data.join("standby");
    assert!(add(&[inside.to_str().expect("text")]).contains("the target's own"));
    let images = data.join("images/web");
    let refused = add(&[images.to_str().expect("text")]);
    assert!(refused.contains("--beside-images"), "{refused}");
    assert!(add(&["a/b/c"]).contains("make the folder first"));
    assert!(add(&["standby", "--format", "vhd"]).contains("raw, VMDK or VHDX"));
    assert!(add(&["standby", "--format", "qcow2"]).contains("raw, vmdk or vhdx"));
    assert!(add(&["standby", "--every", "1s"]).contains("every 10 seconds"));
    std::fs::create_dir_all(target.path("standby")).expect("a folder");
    std::fs::write(target.path("standby/web-os.raw"), b"mine").expect("written");
    let refused = add(&["standby"]);
    assert!(refused.contains("nothing beside it says that it is a standby"), "{refused}");
    for verb in ["show", "sync", "pause", "resume", "remove"] {
        let refused = target.refused(&["standby", verb, "web"]);
        assert!(refused.contains("landfall standby add web --dir DIR"), "{verb}: {refused}");
        assert!(target.refused(&["standby", verb, "nobody"]).contains("machines: web"), "{verb}");
    }
    assert!(target.run(&["standby", "list"]).contains("no standbys"));
    std::fs::remove_file(target.path("standby/web-os.raw")).expect("it is there");
    target.run(&["standby", "add", "web", "--dir", "standby"]);
    assert!(target.refused(&["standby", "sync", "web/os"]).contains("all disks of a machine"));
    let twice = add(&["elsewhere"]);
    assert!(twice.contains("landfall standby remove web"), "{twice}");
}

#[test]
fn a_folder_that_is_not_mounted_is_not_filled() {
    let (mut target, file) = with_standby(&noise(7, MIB), "raw");
    target.expect_log("is its file system mounted?");
    target.expect_log("no such file");
    let folder = target.path("standby");
    let away = target.path("away");
    target.run(&["standby", "pause", "web"]);
    std::fs::rename(&folder, &away).expect("moved");
    assert!(target.run(&["standby", "list"]).contains("failing"));
    assert!(target.refused(&["standby", "sync", "web"]).contains("no such file"));
    std::fs::create_dir(&folder).expect("a folder");
    let refused = target.refused(&["standby", "sync", "web"]);
    assert!(refused.contains("is its file system mounted?"), "{refused}");
    assert!(std::fs::read_dir(&folder).expect("it is there").next().is_none());
    std::fs::remove_dir(&folder).expect("it is empty");
    std::fs::rename(&away, &folder).expect("moved");
    target.run(&["standby", "sync", "web"]);
    let said = target.run(&["standby", "remove", "web", "--delete-files"]);
    assert!(said.contains("1 file removed"), "{said}");
    assert!(!file.exists() && std::fs::read_dir(&folder).expect("there").next().is_none());
}
