//! What was acknowledged is there after every kind of end.

use crate::harness::{Target, metric, noise};
use std::os::unix::fs::PermissionsExt;
use std::thread::sleep;
use std::time::{Duration, Instant};

const MIB: usize = 1 << 20;

#[test]
fn a_stopped_target_comes_back_as_it_was() {
    let content = noise(1, MIB);
    let mut target = Target::start().with_machine(&content);
    target.run(&["point", "pin", "web"]);
    target.run(&["export", "add", "web", "--writable"]);
    target.write("web~export-1/os", 0, &[9; 4096]).unwrap();
    let before = (target.points(), target.json(&["export", "list"]));
    target.stop();
    assert!(!target.data().join("landfall.sock").exists());
    assert!(!target.data().join("nbd.sock").exists());
    target.resume();
    let mut after = (target.points(), target.json(&["export", "list"]));
    // Time has passed.
    after.0[0]["age_seconds"] = before.0[0]["age_seconds"].clone();
    assert_eq!(after, before);
    assert!(target.read("web/os").unwrap().0 == content);
    assert_eq!(target.read("web~export-1/os").unwrap().0[..4096], [9; 4096]);
    target.write("web~export-1/os", 4096, &[8; 4096]).unwrap();
}

#[test]
fn a_killed_target_has_lost_nothing() {
    let mut target = Target::start().with_machine(&noise(1, MIB));
    let mut content = noise(1, MIB);
    for round in 0..3 {
        content[..65536].copy_from_slice(&noise(10 + round, 65536));
        std::fs::write(target.path("disk.raw"), &content).unwrap();
        target.replicate();
        target.kill();
        target.resume();
        assert!(target.read("web/os").unwrap().0 == content);
    }
    assert_eq!(target.points().len(), 4);
}

#[test]
fn an_index_that_is_gone_is_rebuilt() {
    let content = noise(1, MIB);
    let mut target = Target::start().with_machine(&content);
    let mut second = content.clone();
    second[..4096].fill(3);
    std::fs::write(target.path("disk.raw"), &second).unwrap();
    target.replicate();
    let points = target.points().len();
    target.stop();
    std::fs::remove_dir_all(target.data().join("index")).unwrap();
    target.resume();
    assert_eq!(target.points().len(), points);
    assert!(target.read("web/os").unwrap().0 == second);
}

/// A target that makes checkpoints all the time, with a second point that is newer than the first checkpoint.
fn with_checkpoints(second: &[u8]) -> Target {
    let config = "[index]\ncheckpoint_every = \"1s\"\n";
    let target = Target::with_config(config).with_machine(&noise(1, MIB));
    let until = Instant::now() + Duration::from_secs(30);
    while metric(&target, "landfall_index_checkpoints_total") == 0 {
        assert!(Instant::now() < until, "no checkpoint was made");
        sleep(Duration::from_millis(100));
    }
    std::fs::write(target.path("disk.raw"), second).unwrap();
    target.replicate();
    target
}

#[test]
fn a_checkpoint_takes_the_place_of_an_index_that_is_gone_or_damaged() {
    let mut second = noise(1, MIB);
    second[..4096].fill(3);
    let mut target = with_checkpoints(&second);
    let points = target.points().len();
    target.expect_log("the index is gone: checkpoint");
    target.expect_log("the index is damaged: checkpoint");
    for gone in [true, false] {
        target.kill();
        let index = target.data().join("index");
        if gone {
            std::fs::remove_dir_all(index).unwrap();
        } else {
            std::fs::write(index.join("CURRENT"), "nonsense").unwrap();
        }
        target.resume();
        assert_eq!(metric(&target, "landfall_index_restored"), 1);
        assert_eq!(target.points().len(), points);
        assert!(target.read("web/os").unwrap().0 == second);
    }
    target.stop();
    target.resume();
    assert_eq!(metric(&target, "landfall_index_restored"), 0);
}

#[test]
fn an_index_of_another_target_is_refused() {
    let mut one = Target::start().with_machine(&noise(1, MIB));
    let mut other = Target::start().with_machine(&noise(2, MIB));
    one.stop();
    other.stop();
    let index = one.data().join("index");
    std::fs::remove_dir_all(&index).unwrap();
    std::fs::rename(other.data().join("index"), &index).unwrap();
    let refused = one.refused(&["serve", "--delta", "off", "--nbd", "off", "--http", "off"]);
    assert!(refused.contains("belongs to another data folder"), "{refused}");
    std::fs::remove_dir_all(&index).unwrap();
    one.resume();
    assert!(one.read("web/os").unwrap().0 == noise(1, MIB));
}

#[test]
fn a_lost_image_is_said_and_never_invented() {
    let mut target = Target::start().with_machine(&noise(1, MIB));
    target.expect_log("an image is lost");
    target.expect_log("NBD request failed");
    target.stop();
    std::fs::remove_file(target.data().join("images/web/os.raw")).unwrap();
    target.resume();
    let status = target.json(&["status"]);
    let warning = status["warnings"][0].as_str().expect("a warning");
    assert!(warning.contains("web/os needs resync"), "{warning}");
    assert!(target.read("web/os").is_err(), "the content was invented");
    let refused = target.refused(&["restore", "web", "--output", "x.raw"]);
    assert!(refused.contains("lost"), "{refused}");
    assert!(!target.path("x.raw").exists() && !target.path("x.raw.partial").exists());
    // A resync heals what comes, not what was.
    let lost = target.points()[0]["sequence"].clone();
    target.replicate();
    assert!(target.read("web/os").unwrap().0 == noise(1, MIB));
    assert!(target.read(&format!("web/os@seq:{lost}")).is_err());
}

#[test]
fn a_data_folder_has_one_target() {
    let target = Target::start();
    let refused = target.refused(&["serve", "--delta", "off", "--nbd", "off", "--http", "off"]);
    assert!(refused.contains(&format!("in use by process {}", target.pid())), "{refused}");
}

#[test]
fn a_journal_has_one_target_too() {
    let folder = tempfile::tempdir().unwrap();
    let config = format!(
        "[paths]\njournal = {:?}\n[volumes]\nallow = ['journal-beside-images']\n",
        folder.path()
    );
    let target = Target::with_config(&config).with_machine(&noise(1, MIB));
    assert!(folder.path().read_dir().unwrap().count() > 1, "the journal is elsewhere");
    let other = target.path("other");
    std::fs::create_dir(&other).unwrap();
    std::fs::write(other.join("landfall.toml"), config).unwrap();
    let refused = target.refused(&["serve", "--data", "other", "--delta", "off", "--nbd", "off"]);
    assert!(refused.contains("in use by process"), "{refused}");
}

#[test]
fn a_volume_that_history_is_not_safe_on_is_refused_with_a_way_out() {
    let serve = ["serve", "--delta", "off", "--nbd", "off", "--http", "off"];
    let folder = tempfile::tempdir().unwrap();
    let mut target = Target::start();
    target.stop();
    let set_mode = |mode: u32| {
        let permissions = std::fs::Permissions::from_mode(mode);
        std::fs::set_permissions(target.data(), permissions).unwrap();
    };
    set_mode(0o777);
    let refused = target.refused(&serve);
    assert!(refused.contains("may be written by others") && refused.contains("chmod go-w"));
    set_mode(0o700);
    let config = target.data().join("landfall.toml");
    std::fs::write(&config, format!("[paths]\njournal = {:?}\n", folder.path())).unwrap();
    let refused = target.refused(&serve);
    assert!(refused.contains("same volume as the images"), "{refused}");
    // What is in memory is gone after a restart of the host; every Linux has this one.
    let memory = tempfile::tempdir_in("/dev/shm").unwrap();
    let text = format!("[paths]\njournal = {:?}\n", memory.path());
    std::fs::write(&config, &text).unwrap();
    let refused = target.refused(&serve);
    assert!(refused.contains("lies on tmpfs, which is gone after a restart"), "{refused}");
    std::fs::write(&config, text + "[volumes]\nallow = ['any-file-system']\n").unwrap();
    target.resume();
    target.stop();
    std::fs::write(&config, "").unwrap();
    target.resume();
}

#[test]
fn a_port_that_is_taken_is_named() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let mut target = Target::start();
    target.stop();
    let refused = target.refused(&["serve", "--delta", "off", "--nbd", &address, "--http", "off"]);
    assert!(refused.contains(&address) && refused.contains("listen.nbd"), "{refused}");
    target.resume();
}

#[test]
fn only_the_owner_may_use_what_has_no_password() {
    let target = Target::start();
    for (name, mode) in [("landfall.sock", 0o600), ("nbd.sock", 0o600), ("pki/ca.key", 0o600)] {
        let found = std::fs::metadata(target.data().join(name)).unwrap().permissions().mode();
        assert_eq!(found & 0o777, mode, "{name}");
    }
    assert!(target.greeting.contains("nothing to recover"), "{}", target.greeting);
}
