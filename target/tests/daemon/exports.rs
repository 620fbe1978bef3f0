//! Exports: any moment by name, writes only where somebody said so.

use crate::harness::{Target, noise};
use landfall_disks::{Buffer, ByteOffset, ByteRange, Durability};
use landfall_protocols::nbd::client::Client;

const MIB: usize = 1 << 20;

#[test]
fn a_moment_opens_by_any_of_its_names_and_cannot_be_written() {
    let content = noise(1, MIB);
    let target = Target::start().with_machine(&content);
    let point = &target.points()[0];
    let time = format!("web/os@{}", point["time"].as_str().unwrap());
    let sequence = format!("web/os@seq:{}", point["sequence"]);
    for name in ["web/os", "web/os@latest", "web", "web@latest", &time, &sequence] {
        let (bytes, writable) = target.read(name).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert!(bytes == content, "{name} is something else");
        assert!(!writable, "{name} can be written");
    }
    assert!(target.write("web/os", 0, &[1; 4096]).is_err());
}

#[test]
fn what_is_not_there_names_what_is() {
    let target = Target::start().with_machine(&noise(1, MIB));
    for (name, part) in [
        ("", "machines: web"),
        ("nope/os", "machines: web"),
        ("web/data", "its disks: os"),
        ("web/os@", "nothing follows the @"),
        ("web/os@yesterday", "is not a moment"),
        ("web/os@2001-01-01T00:00:00Z", "points go from"),
        ("web~gone/os", "branch"),
    ] {
        let error = target.read(name).expect_err(name);
        assert!(error.contains(part), "{name:?}: {error}");
    }
}

#[test]
fn writes_go_to_a_branch_and_nowhere_else() {
    let content = noise(1, MIB);
    let target = Target::start().with_machine(&content);
    let export = target.json(&["export", "add", "web@latest", "--nbd", "--writable"]);
    assert_eq!(export["name"], "web~export-1");
    assert_eq!(export["writable"], true);
    let uri = export["uris"][0].as_str().unwrap();
    let socket = target.data().join("nbd.sock");
    assert_eq!(uri, format!("nbd+unix:///web~export-1/os?socket={}", socket.display()));

    target.write("web~export-1/os", 8192, &[7; 4096]).expect("a writable export");
    let mut changed = content.clone();
    changed[8192..12288].fill(7);
    assert!(target.read("web~export-1/os").unwrap() == (changed.clone(), true));
    assert!(target.read("web/os").unwrap().0 == content, "the trunk has moved");

    // Replicating goes on beside it.
    target.replicate();
    assert!(target.read("web~export-1/os").unwrap().0 == changed);

    let refused = target.refused(&["branch", "discard", "web~export-1"]);
    assert!(refused.contains("export 1"), "{refused}");
    target.run(&["export", "remove", "1"]);
    assert!(!target.read("web~export-1/os").unwrap().1, "writable without an export");
    assert!(target.write("web~export-1/os", 0, &[1; 4096]).is_err());
    target.run(&["branch", "discard", "web~export-1"]);
    assert!(target.read("web~export-1/os").is_err());
    assert!(target.refused(&["export", "remove", "1"]).contains("no export 1"));
}

#[test]
fn a_branch_is_added_exported_and_branched_again() {
    let content = noise(1, MIB);
    let target = Target::start().with_machine(&content);
    let branch = target.json(&["branch", "add", "web", "--name", "test"]);
    assert_eq!(branch["name"], "web~test");
    let twice = target.refused(&["branch", "add", "web", "--name", "test"]);
    assert!(twice.contains("exists already"), "{twice}");
    target.run(&["export", "add", "web~test", "--writable"]);
    target.write("web~test/os", 0, &[1; 4096]).unwrap();
    // A moment of a branch is where the next one starts; the one before goes on.
    let written = branch["origin_sequence"].as_u64().expect("a number") + 1;
    let written = format!("web~test@seq:{written}");
    target.run(&["export", "add", &written, "--writable", "--branch", "again"]);
    target.write("web~test/os", 0, &[2; 4096]).unwrap();
    assert_eq!(target.read("web~again/os").unwrap().0[0], 1);
    assert_eq!(target.read("web~test/os").unwrap().0[0], 2);
    let listed = target.json(&["export", "list"]);
    assert_eq!(listed["exports"].as_array().map(Vec::len), Some(2));
    assert!(target.refused(&["machine", "remove", "web"]).contains("is exported"));
}

#[test]
fn a_read_only_export_stays_what_it_was() {
    let content = noise(1, MIB);
    let target = Target::start().with_machine(&content);
    let export = target.json(&["export", "add", "web@latest"]);
    let name = export["name"].as_str().unwrap().to_owned();
    assert!(name.starts_with("web@seq:"), "{name}");
    std::fs::write(target.path("disk.raw"), noise(2, MIB)).unwrap();
    target.replicate();
    let (_, when) = name.split_once('@').unwrap();
    assert!(target.read(&format!("web/os@{when}")).unwrap().0 == content);
    assert!(target.read("web/os").unwrap().0 != content);
}

/// Numbers that look random and are the same in every run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}

#[test]
fn a_read_sees_every_write_that_was_acknowledged_before() {
    const SIZE: u64 = 8 << 20;
    let mut model = noise(1, usize::try_from(SIZE).unwrap());
    let target = Target::start().with_machine(&model);
    target.run(&["export", "add", "web", "--writable", "--branch", "busy"]);
    let name = "web~busy/os";
    target.with_clients(name, 4, async |clients: &[Client]| {
        let mut dice = Dice(7);
        for round in 0..300 {
            // Readers fill caches from both sides while writes change what they read.
            let at = dice.below(SIZE / 512 - 256) * 512;
            let length = (1 + dice.below(40)) * 512;
            let bytes = noise(round, usize::try_from(length).unwrap());
            let start = usize::try_from(at).unwrap();
            model[start..start + bytes.len()].copy_from_slice(&bytes);
            let data = Buffer::copy_of(&bytes);
            let around = ByteRange::at(ByteOffset::new(at & !0xf_ffff), 1 << 20).unwrap();
            let (written, one, two) = tokio::join!(
                clients[0].write(ByteOffset::new(at), data, Durability::Cached),
                clients[1].read(around),
                clients[2].read(around),
            );
            written.unwrap();
            one.unwrap();
            two.unwrap();
            let first = usize::try_from(around.start().bytes()).unwrap();
            let seen = clients[3].read(around).await.unwrap();
            assert!(*seen == model[first..first + seen.len()], "round {round}: a stale read");
        }
    });
    assert!(target.read(name).unwrap().0 == model);
}
