//! A start with an index that lacks much of the journal: what needs nothing of the rest is served at once.

use crate::harness::{Target, get, metric, noise};
use std::thread::sleep;
use std::time::{Duration, Instant};

const MIB: usize = 1 << 20;

/// One lane, one segment at a start.
const FREE: &str =
    "[engine]\ncores = 1\n[index]\nsegments_at_start = 1\ncheckpoint_every = \"off\"\n";
/// Whatever folds or reads in the background takes a second for each MiB.
const SLOW: &str = "[fold]\nrate = \"1MiB\"\n";
/// So many of them hold the first segment back.
const OLD: usize = 32 * MIB;

/// `old` has three segments of history, the last of them long, and `web` came after that; the index is gone.
fn without_index() -> (Target, Vec<u8>, Vec<u8>) {
    let mut target = Target::with_config(&format!("{FREE}{SLOW}"));
    let mut old = noise(1, OLD);
    target.run(&["machine", "add", "old", "--disk", &format!("name=os,size={OLD}")]);
    for (round, changed) in [(10, 65536), (11, 65536), (12, OLD)] {
        old[..changed].copy_from_slice(&noise(round, changed));
        std::fs::write(target.path("old.raw"), &old).unwrap();
        target.run(&["replicate", "old", "--disk", "os=old.raw", "--once"]);
        // A lane goes on in a new segment.
        target.stop();
        target.resume();
    }
    let web = noise(2, MIB);
    target = target.with_machine(&web);
    target.kill();
    std::fs::remove_dir_all(target.data().join("index")).unwrap();
    (target, old, web)
}

#[test]
fn what_came_last_is_served_while_the_rest_of_the_index_is_held_back() {
    let (mut target, old, mut web) = without_index();
    target.resume();
    assert!(target.greeting.contains("3 segments left for later"), "{}", target.greeting);
    assert_eq!(metric(&target, "landfall_index_segments_left"), 3);
    // All of the newest machine is there: its moments, new ones, branches.
    assert!(target.read("web/os").unwrap().0 == web);
    web[..4096].fill(3);
    std::fs::write(target.path("disk.raw"), &web).unwrap();
    target.replicate();
    assert!(target.read("web/os").unwrap().0 == web);
    target.run(&["branch", "add", "web@latest", "--name", "test"]);
    target.run(&["export", "add", "web~test", "--writable"]);
    target.write("web~test/os", 0, &[9; 4096]).unwrap();
    // Of the other one nothing is served that is not known, and everybody says so.
    let refused = target.read("old/os").expect_err("it is not known");
    assert!(refused.contains("3 segments are left to be read"), "{refused}");
    for refused in [
        target.refused(&["point", "list", "old"]),
        target.refused(&["restore", "old", "--output", "old.out"]),
        target.refused(&["scrub"]),
    ] {
        assert!(refused.contains("the index is being built"), "{refused}");
    }
    let status = target.json(&["status"]);
    assert_eq!((&status["index"]["segments"], &status["index"]["left"]), (&4.into(), &3.into()));
    let warning = status["warnings"][0].as_str().expect("a warning");
    assert!(warning.starts_with("old: its moments cannot be opened"), "{warning}");
    assert!(target.run(&["status"]).contains("being built, 3 of 4 segments left"));
    assert!(get(&target, "/healthz").0 == 200);
    // Cut off there, and again: it begins again, and nothing that came meanwhile is lost.
    target.kill();
    target.resume();
    let until = Instant::now() + Duration::from_secs(30);
    let read = loop {
        // There is one more segment since, and the one before it is short.
        match target.read("web/os") {
            Ok((read, _)) => break read,
            Err(error) => assert!(Instant::now() < until, "{error}"),
        }
        sleep(Duration::from_millis(50));
    };
    assert!(read == web);
    assert!(target.read("old/os").is_err());
    target.stop();
    std::fs::write(target.data().join("landfall.toml"), FREE).unwrap();
    target.resume();
    let until = Instant::now() + Duration::from_secs(60);
    while target.json(&["status"])["index"] != serde_json::Value::Null {
        assert!(Instant::now() < until, "the index is not built");
        sleep(Duration::from_millis(50));
    }
    assert_eq!(metric(&target, "landfall_index_segments_left"), 0);
    assert!(target.read("old/os").unwrap().0 == old);
    assert!(target.read("web/os").unwrap().0 == web);
    assert_eq!(target.read("web~test/os").unwrap().0[..4096], [9; 4096]);
    let points = target.json(&["point", "list", "old"]);
    assert_eq!(points["points"].as_array().expect("a list").len(), 3);
    // The next start has it all.
    target.stop();
    target.resume();
    assert!(target.greeting.contains("nothing to recover"), "{}", target.greeting);
    assert!(target.read("old/os").unwrap().0 == old);
}
