//! Policies: shown, tried, set; what they drop cannot be opened, and what somebody holds stays.

use crate::harness::{Target, metric, noise};
use landfall_protocols::nbd::client::Client;
use serde_json::Value;
use std::time::{Duration, Instant};

const MIB: usize = 1 << 20;

/// A machine with five points, of which the third is pinned.
fn with_points(target: Target) -> Target {
    let target = target.with_machine(&noise(1, MIB));
    for label in ["b", "c", "d", "e"] {
        target.run(&["point", "mark", "web", "--label", label]);
    }
    target.run(&["point", "pin", "web@tag:c"]);
    target
}

fn sequences(points: &[Value]) -> Vec<u64> {
    points.iter().map(|point| point["sequence"].as_u64().expect("a number")).collect()
}

#[test]
fn a_policy_is_shown_tried_and_set() {
    let mut target = with_points(Target::start());
    let shown = target.json(&["policy", "show", "web"]);
    assert_eq!(shown["policy"], "keep all for 2h, minutely for 24h");
    assert_eq!((&shown["own"], &shown["rpo_seconds"]), (&Value::Bool(false), &Value::from(900)));
    let all = sequences(&target.points());

    let tried = target.json(&["policy", "simulate", "web", "keep all for 0s"]);
    assert_eq!((&tried["kept"]["points"], &tried["dropped"]), (&Value::from(2), &Value::from(3)));
    assert_eq!(tried["by"][1]["rule"], "held");
    assert_eq!(tried["by"][1]["points"], 1);
    assert_eq!(tried["space"]["complete"], true);
    let text = target.run(&["policy", "simulate", "web"]);
    assert!(text.contains("5 points on record") && text.contains("0 of them would go"), "{text}");
    assert_eq!(sequences(&target.points()), all, "a simulation dropped something");

    let set = target.json(&["policy", "set", "web", "keep all for 0s"]);
    assert_eq!((&set["dropped"], &set["policy"]["own"]), (&Value::from(3), &Value::Bool(true)));
    let left = [all[2], all[4]];
    assert_eq!(sequences(&target.points()), left);
    assert_eq!(metric(&target, "landfall_points_dropped_total"), 3);
    assert_eq!(metric(&target, "landfall_clock_alarm"), 0);
    let log = std::fs::read_to_string(target.path("log")).expect("a log");
    assert!(log.contains("dropped 3 points of web between"), "{log}");
    let gone = target.read(&format!("web/os@seq:{}", all[3])).expect_err("it was dropped");
    let near = format!("the nearest points left are seq:{} (", all[2]);
    assert!(gone.contains(&near), "{gone}");
    assert!(target.refused(&["restore", "web@tag:b", "--output", "x"]).contains("no point"));

    target.kill();
    target.resume();
    assert_eq!(sequences(&target.points()), left);
    assert_eq!(target.json(&["policy", "show", "web"])["policy"], "keep all for 0s");
    for (policy, part) in [
        ("hourly", "begins with"),
        ("keep all for 2h, hourly for 1h", "keeps nothing"),
        ("keep all, quota 0GiB hold", "quota"),
    ] {
        let refused = target.refused(&["policy", "set", "web", policy]);
        assert!(refused.contains(part), "{policy}: {refused}");
    }
    assert!(target.refused(&["policy", "show", "web~x"]).contains("name web"));
    assert!(target.refused(&["policy", "show", "db"]).contains("no machine db"));
}

#[test]
fn the_default_policy_is_that_of_the_configuration() {
    let config = "[policy]\nkeep = 'keep all for 3h'\nrpo = '1s'";
    let target = Target::with_config(config).with_machine(&noise(1, MIB));
    let shown = target.run(&["policy", "show", "web"]);
    assert!(shown.contains("keep all for 3h") && shown.contains("the default"), "{shown}");
    let begun = Instant::now();
    let overdue = || target.run(&["status"]).contains("the newest point of web is");
    while !overdue() {
        assert!(begun.elapsed() < Duration::from_secs(20), "nobody misses a point");
        std::thread::sleep(Duration::from_millis(200));
    }
}

#[test]
fn a_locked_point_cannot_be_dropped_unlocked_or_removed() {
    let target = with_points(Target::start());
    let all = sequences(&target.points());
    target.run(&["point", "lock", "web@tag:b", "--for", "30d"]);
    let until = target.points()[1]["locked_until"].as_str().expect("a time").to_owned();
    for (verb, part) in [
        (&["point", "unlock", "web@tag:b"][..], "is locked until"),
        (&["point", "lock", "web@tag:b", "--for", "1d"], "is locked until"),
        (&["point", "lock", "web@tag:d", "--until", "2001-01-01T00:00:00Z"], "would hold nothing"),
        (&["machine", "remove", "web"], "is locked until"),
    ] {
        let refused = target.refused(verb);
        assert!(refused.contains(part), "{verb:?}: {refused}");
    }
    target.run(&["policy", "set", "web", "keep all for 0s"]);
    assert_eq!(sequences(&target.points()), [all[1], all[2], all[4]]);
    assert!(target.run(&["point", "list", "web"]).contains(&format!("locked until {until}")));
    assert!(target.run(&["point", "unlock", "web@tag:c"]).contains("is not locked"));
    // What is gone cannot be locked; the newest can.
    target.refused(&["point", "lock", &format!("web@seq:{}", all[3]), "--for", "1d"]);
    target.run(&["point", "lock", "web@tag:e", "--for", "1d"]);
}

#[test]
fn a_point_stays_while_somebody_has_it_open() {
    let target = with_points(Target::start());
    let all = sequences(&target.points());
    // What is older than a pin is not folded, so what goes here goes by thinning alone.
    target.run(&["point", "pin", &format!("web@seq:{}", all[0])]);
    let content = target.read("web/os").expect("it opens").0;
    let name = format!("web/os@seq:{}", all[1]);
    target.with_clients(&name, 1, async |clients: &[Client]| {
        target.run(&["policy", "set", "web", "keep all for 0s"]);
        assert_eq!(sequences(&target.points()), [all[0], all[1], all[2], all[4]]);
        let whole = landfall_disks::ByteRange::up_to(clients[0].size_bytes());
        assert!(*clients[0].read(whole).await.expect("it is held") == content);
    });
    let begun = Instant::now();
    while sequences(&target.points()).contains(&all[1]) {
        assert!(begun.elapsed() < Duration::from_secs(20), "the point never goes");
        target.run(&["policy", "set", "web", "keep all for 0s"]);
    }
    assert_eq!(sequences(&target.points()), [all[0], all[2], all[4]]);
    target.read(&name).expect_err("it was dropped");
}
