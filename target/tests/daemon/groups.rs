//! Groups of a running target: barriers by themselves and when asked for, who is late, branches of all machines at one moment.

use crate::harness::{Target, metric};
use crate::sources::{MIB, as_sources, begin_order, beside, write};
use landfall_protocols::delta::wire::PassKind;
use serde_json::Value;
use std::time::{Duration, Instant};

/// A target with the machines `web` and `db` in the group `shop`, whose barriers come every other second.
fn shop() -> Target {
    let mut target = Target::start();
    target.expect_log("no common point of group shop");
    let size = format!("name=os,size={MIB}");
    target.run(&["group", "add", "shop", "--every", "2s", "--patience", "1s"]);
    target.run(&["machine", "add", "web", "--disk", &size, "--group", "shop"]);
    target.run(&["machine", "add", "db", "--disk", &size]);
    target.run(&["group", "join", "shop", "db"]);
    target
}

fn group(target: &Target) -> Value {
    target.json(&["group", "show", "shop"])
}

/// Waits until the group is as `is` says.
fn until(target: &Target, what: &str, is: impl Fn(&Value) -> bool) -> Value {
    let begun = Instant::now();
    loop {
        let group = group(target);
        if is(&group) {
            return group;
        }
        assert!(begun.elapsed() < Duration::from_secs(60), "not {what}: {group}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn first_byte(target: &Target, name: &str) -> u8 {
    target.read(name).unwrap_or_else(|error| panic!("{name}: {error}")).0[0]
}

#[test]
fn machines_of_a_group_have_points_in_common_and_branch_there_together() {
    let mut target = shop();
    let late = until(&target, "late", |group| !group["error"].is_null());
    let why = late["machines"][0]["late"].as_str().expect("nobody feeds it");
    assert!(why.contains("no source"), "{why}");
    let status = target.run(&["status"]);
    let failing = status.contains("no common point of group shop:")
        && status.contains("db is fed by no source");
    assert!(failing, "{status}");
    let set = target.run(&["policy", "set", "db", "keep all for 3h"]);
    assert!(set.starts_with("group shop (db, web): keep all for 3h"), "{set}");
    let shown = target.run(&["policy", "show", "web"]);
    assert!(shown.starts_with("group shop (db, web): keep all for 3h\n"), "{shown}");
    as_sources(&target, &["web", "db"], async |clients| {
        let mut passes = Vec::new();
        for client in clients {
            let pass = client.begin_pass(PassKind::Compare, 0).await.expect("a pass");
            pass.send(write(1)).await.expect("it is taken");
            begin_order(&pass).await;
            passes.push(pass);
        }
        beside(|| {
            let made = until(&target, "common", |group| group["points"].as_u64() > Some(0));
            assert!(made["machines"][0]["late"].is_null(), "{made}");
            let label = ["group", "mark", "shop", "--label", "before"];
            let marked = target.json(&label);
            assert_eq!(marked["point"]["moments"].as_array().map(Vec::len), Some(2), "{marked}");
        });
        for pass in &passes {
            pass.send(write(2)).await.expect("it is taken");
            pass.settled().await.expect("it is durable");
        }
        beside(|| {
            let points = target.json(&["group", "points", "shop"]);
            let before = points["points"].as_array().expect("a list").iter();
            let mut before = before.filter(|point| point["label"] == "before");
            let number = before.next().expect("it is there")["number"].as_u64();
            let newer =
                until(&target, "newer", |group| group["newest"]["number"].as_u64() > number);
            // Nothing is written: no point comes to be, and the newest grows no older.
            std::thread::sleep(Duration::from_millis(5000));
            let idle = group(&target);
            assert_eq!(idle["newest"]["number"], newer["newest"]["number"]);
            assert!(idle["age_seconds"].as_u64() <= Some(3), "{idle}");
            let drill = ["group", "branch", "shop@tag:before", "--name", "drill"];
            let text = target.run(&drill);
            assert!(text.contains("web~drill") && text.contains("db~drill"), "{text}");
            for machine in ["web", "db"] {
                assert_eq!(first_byte(&target, &format!("{machine}~drill/os")), 1);
                assert_eq!(first_byte(&target, &format!("{machine}/os")), 2);
            }
            assert_eq!(metric(&target, "landfall_group_late_machines{group=\"shop\"}"), 0);
            let made = "landfall_group_barriers_total{group=\"shop\",outcome=\"made\"}";
            assert!(metric(&target, made) >= 2);
        });
    });
    until(&target, "late again", |group| !group["machines"][1]["late"].is_null());
    let refused = target.refused(&["group", "mark", "shop"]);
    assert!(refused.contains("web is fed by no source"), "{refused}");
    let before = target.json(&["group", "points", "shop"]);
    target.stop();
    target.resume();
    assert_eq!(target.json(&["group", "points", "shop"]), before);
    // Whoever stopped both may say that they stand at one moment.
    let declared =
        target.json(&["group", "mark", "shop", "--at", "web@latest", "--at", "db@latest"]);
    assert_eq!(declared["point"]["kind"], "crash", "{declared}");
    target.stop();
}
