//! A branch that becomes the machine, as an operator does it after a failover that is to stay.

use crate::folding::{SMALL, log, wait_until};
use crate::harness::{Target, noise};
use std::time::Duration;

const MIB: usize = 1 << 20;

#[test]
fn the_machine_is_what_the_branch_was_and_its_past_reads_on() {
    let mut target = Target::with_config(SMALL).with_machine(&noise(1, 4 * MIB));
    target.expect_log("branch promoted");
    let first = target.points()[0]["name"].as_str().expect("a name").replace('@', "/os@");
    std::fs::write(target.path("disk.raw"), noise(2, 4 * MIB)).expect("written");
    target.replicate();
    let second = target.points()[1]["sequence"].as_u64().expect("a number");
    let origin = first.replace("/os", "");
    target.run(&["branch", "add", &origin, "--name", "recovered"]);
    let export = target.json(&["export", "add", "web~recovered", "--writable"]);
    target.write("web~recovered/os", 8192, &[7; 4096]).expect("a writable export");
    let mut content = noise(1, 4 * MIB);
    content[8192..12288].fill(7);

    let promote = ["branch", "promote", "web~recovered", "--keep", "attacked"];
    let refused = target.refused(&promote);
    let advice = format!("landfall export remove {}", export["id"]);
    assert!(refused.contains(&advice), "{refused}");
    target.run(&["export", "remove", &export["id"].to_string()]);
    assert!(target.refused(&["branch", "promote", "web"]).contains("web~BRANCH"));
    let promoted = target.json(&promote);
    assert_eq!(promoted["old"]["name"], "web~attacked");
    assert_eq!(promoted["old"]["sealed"], true);

    let old = format!("web~attacked/os@seq:{second}");
    for _ in 0..2 {
        let read = |name: &str| target.read(name).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(read("web/os") == (content.clone(), false), "latest is what the branch was");
        assert!(read("web/os@latest").0 == content);
        assert!(read(&first).0 == noise(1, 4 * MIB), "its past is that of the machine");
        assert!(read(&old).0 == noise(2, 4 * MIB), "and what was given up reads on");
        assert!(target.read("web~recovered/os").is_err(), "it is a branch no more");
        target.stop();
        target.resume();
    }
    let listed = target.run(&["branch", "list"]);
    assert!(listed.contains("web~attacked") && listed.contains("sealed"), "{listed}");
    let refused = target.refused(&["export", "add", "web~attacked", "--writable"]);
    assert!(refused.contains("takes writes"), "{refused}");

    // A source that is started anew compares and goes on; its history is folded into the image once nothing holds it.
    content[MIB..2 * MIB].copy_from_slice(&noise(3, MIB));
    std::fs::write(target.path("disk.raw"), &content).expect("written");
    target.replicate();
    assert!(target.read("web/os").expect("it opens").0 == content);
    std::thread::sleep(Duration::from_secs(2));
    // The old trunk holds history at the origin, until it is discarded.
    let begins = |target: &Target| {
        target.json(&["machine", "show", "web"])["history"]["begins"]["sequence"].clone()
    };
    target.run(&["policy", "set", "web", "keep all for 1s"]);
    wait_until("who holds it is told", || {
        target.run(&["status"]).contains("attacked")
            || target.json(&["machine", "show", "web"])["history"]["held_by"]
                .as_array()
                .is_some_and(|holders| !holders.is_empty())
    });
    assert!(begins(&target).is_null() || begins(&target) == promoted["origin_sequence"]);
    target.run(&["branch", "discard", "web~attacked"]);
    content[..MIB].copy_from_slice(&noise(4, MIB));
    std::fs::write(target.path("disk.raw"), &content).expect("written");
    target.replicate();
    let newest = target.points().last().expect("some")["sequence"].clone();
    std::thread::sleep(Duration::from_secs(2));
    // A policy that is set is applied at once.
    target.run(&["policy", "set", "web", "keep all for 1s"]);
    wait_until("it is folded", || begins(&target) == newest);
    let image = target.data().join("images/web/os.raw");
    wait_until("the image holds the new trunk", || {
        std::fs::read(&image).is_ok_and(|image| image == content)
    });
    assert!(target.read("web/os").expect("it opens").0 == content);
    target.stop();
    assert!(std::fs::read(&image).expect("an image") == content);
    assert!(log(&target).contains("branch promoted"));
}
