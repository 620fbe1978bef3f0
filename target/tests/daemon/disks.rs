//! Disks that grow, join a machine and leave it, as an administrator does it.

use crate::harness::{Target, noise};

const MIB: usize = 1 << 20;

#[test]
fn a_disk_grows_with_its_source_and_older_points_keep_their_size() {
    let mut target = Target::start().with_machine(&noise(1, MIB));
    target.expect_log("stream refused: disk os has");
    let old = target.points()[0]["name"].as_str().expect("a name").replace('@', "/os@");
    let grown = [noise(1, MIB), noise(2, MIB + 512)].concat();
    std::fs::write(target.path("disk.raw"), &grown).expect("written");
    let replicate = ["replicate", "web", "--disk", "os=disk.raw", "--once"];
    let refused = target.refused(&replicate);
    let advice = format!("landfall disk grow MACHINE/os --size {}", grown.len());
    assert!(refused.contains(&advice), "{refused}");
    for (size, part) in [("512KiB", "does not shrink"), ("1000", "512-byte sectors")] {
        let refused = target.refused(&["disk", "grow", "web/os", "--size", size]);
        assert!(refused.contains(part), "{refused}");
    }
    let size = grown.len().to_string();
    let said = target.json(&["disk", "grow", "web/os", "--size", &size]);
    let point = said["point"].as_str().expect("a point").replace('@', "/os@");
    let read = |target: &Target, export: &str| target.read(export).expect("it opens").0;
    let mut blank = noise(1, MIB);
    blank.resize(grown.len(), 0);
    assert!(read(&target, &point) == blank, "the new end reads as zeroes");
    target.replicate();
    for _ in 0..2 {
        assert!(read(&target, "web/os") == grown);
        assert!(read(&target, &old) == noise(1, MIB), "an old point has its old size");
        target.stop();
        target.resume();
    }
    let said = target.run(&["disk", "grow", "web/os", "--size", &size]);
    assert!(said.contains("already"), "{said}");
    let older = old.replace("/os", "");
    target.run(&["restore", &older, "--output", "old.raw"]);
    assert_eq!(std::fs::read(target.path("old.raw")).expect("restored"), noise(1, MIB));
    target.run(&["restore", "web@latest", "--format", "vhdx", "--output", "new.vhdx"]);
    target.run(&["image", "convert", "new.vhdx", "new.raw"]);
    assert!(std::fs::read(target.path("new.raw")).expect("converted") == grown);
    let told = target.json(&["changes", "web/os", "--from", &older, "--to", "latest"]);
    assert_eq!(told["size_bytes"], grown.len());
    assert_eq!(told["ranges"][0]["offset"], MIB);
}

#[test]
fn a_disk_of_a_branch_grows_under_its_writers_and_with_it_the_machine_it_becomes() {
    let mut target = Target::start().with_machine(&noise(1, MIB));
    target.expect_log("branch promoted");
    target.run(&["branch", "add", "web", "--name", "test"]);
    target.run(&["export", "add", "web~test", "--writable"]);
    target.write("web~test/os", 0, &[7; 4096]).expect("a writable export");
    let refused = target.refused(&["disk", "grow", "web~test", "--size", "2MiB"]);
    assert!(refused.contains("MACHINE/DISK"), "{refused}");
    let refused = target.refused(&["disk", "grow", "web~test/os", "--size", "512KiB"]);
    assert!(refused.contains("does not shrink"), "{refused}");
    let said = target.json(&["disk", "grow", "web~test/os", "--size", "2MiB"]);
    assert_eq!(
        (said["name"].as_str(), said["size_bytes"].as_u64()),
        (Some("web~test/os"), Some(2 << 20))
    );
    let point = said["point"].as_str().expect("a point").replace('@', "/os@");
    let end = 2 * MIB as u64 - 4096;
    target.write("web~test/os", end, &[9; 4096]).expect("the new end");
    let mut blank = noise(1, MIB);
    blank[..4096].fill(7);
    blank.resize(2 * MIB, 0);
    let mut content = blank.clone();
    content[2 * MIB - 4096..].fill(9);
    let read = |target: &Target, name: &str| target.read(name).expect("it opens").0;
    for _ in 0..2 {
        assert!(read(&target, "web~test/os") == content);
        assert!(read(&target, &point) == blank, "the new end reads as zeroes");
        assert!(read(&target, "web/os") == noise(1, MIB), "the machine has the size it had");
        target.stop();
        target.resume();
    }
    let exports = target.json(&["export", "list"]);
    target.run(&["export", "remove", &exports["exports"][0]["id"].to_string()]);
    target.run(&["branch", "promote", "web~test", "--keep", "old"]);
    assert!(read(&target, "web/os") == content);
    let refused = target.refused(&["disk", "grow", "web~old/os", "--size", "4MiB"]);
    assert!(refused.contains("takes writes"), "{refused}");
    target.run(&["restore", "web@latest", "--output", "new.raw"]);
    assert!(std::fs::read(target.path("new.raw")).expect("restored") == content);
}

#[test]
fn disks_join_and_leave_a_machine_that_has_points() {
    let mut target = Target::start().with_machine(&noise(1, MIB));
    let first = target.points()[0]["name"].as_str().expect("a name").to_owned();
    std::fs::write(target.path("data.raw"), noise(2, MIB)).expect("written");
    target.run(&["disk", "add", "web", "--disk", "name=data,size=1MiB,format=vhdx"]);
    let both = ["replicate", "web", "--disk", "os=disk.raw", "--disk", "data=data.raw", "--once"];
    target.run(&both);
    let second = target.points()[1]["name"].as_str().expect("a name").to_owned();
    let at = |point: &str, disk: &str| point.replace('@', &format!("/{disk}@"));
    assert_eq!(target.read(&at(&second, "data")).expect("it opens").0, noise(2, MIB));
    let refused = target.read(&at(&first, "data")).expect_err("it was not there yet");
    assert!(refused.contains("no complete copy"), "{refused}");
    let points = target.points();
    let uris = |index: usize| points[index]["uris"].as_array().expect("a list").len();
    assert_eq!(uris(1), 2 * uris(0), "a point lists the disks it has");
    let said = target.run(&["disk", "remove", "web/os"]);
    assert!(said.contains("points up to now keep it"), "{said}");
    assert!(target.run(&["machine", "show", "web"]).contains("removed"));
    let refused = target.refused(&["disk", "remove", "web/data"]);
    assert!(refused.contains("remove the machine"), "{refused}");
    target.run(&["replicate", "web", "--disk", "data=data.raw", "--once"]);
    for _ in 0..2 {
        let refused = target.read("web/os").expect_err("it was removed");
        assert!(refused.contains("was removed at seq:"), "{refused}");
        assert_eq!(target.read(&at(&second, "os")).expect("it opens").0, noise(1, MIB));
        target.stop();
        target.resume();
    }
    std::fs::create_dir(target.path("out")).expect("a folder");
    target.run(&["restore", "web@latest", "--output", "out"]);
    let files: Vec<_> = std::fs::read_dir(target.path("out")).expect("a folder").collect();
    assert_eq!(files.len(), 1, "{files:?}");
    let refused = target.refused(&["disk", "add", "web", "--disk", "name=os,size=1MiB"]);
    assert!(refused.contains("older points still have it"), "{refused}");
}
