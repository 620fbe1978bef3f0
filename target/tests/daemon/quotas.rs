//! What the history of a machine takes is counted, and a quota shortens it or holds its streams, and says so.

use crate::folding::{Churned, SMALL, log, wait_until};
use crate::harness::{metric, metrics};
use serde_json::Value;

const MIB: u64 = 1 << 20;

impl Churned {
    fn space(&self) -> Value {
        self.history()["space"].clone()
    }

    fn used(&self) -> u64 {
        self.space()["used_bytes"].as_u64().expect("a look was taken")
    }

    fn set_policy(&self, policy: &str) {
        self.target.run(&["policy", "set", "web", policy]);
    }
}

#[test]
fn what_history_takes_is_counted_and_a_restart_does_not_forget_it() {
    let mut machine = Churned::with_config(SMALL);
    (0..3).for_each(|_| machine.churn());
    machine.set_policy("keep all");
    let near = |used: u64| (10 * MIB..=13 * MIB).contains(&used);
    wait_until("it is counted", || machine.space() != Value::Null && near(machine.used()));
    let used = machine.used();
    let line = format!("landfall_history_bytes{{machine=\"web\"}} {used}");
    assert!(metrics(&machine.target).contains(&line), "{line}");
    machine.target.kill();
    machine.target.resume();
    wait_until("it is looked at again", || machine.space() != Value::Null);
    assert!(near(machine.used()), "{} after {used}", machine.used());
}

#[test]
fn a_quota_gives_up_the_oldest_points_with_a_line_each() {
    let mut machine = Churned::with_config("[journal]\nsegment = '2MiB'\nreserve = '1MiB'\n");
    machine.target.expect_log("was given up before its time: the quota of 12 MiB is used up");
    (0..5).for_each(|_| machine.churn());
    let all = machine.check();
    machine.set_policy("keep all, quota 12MiB shorten");
    wait_until("it fits", || machine.space() != Value::Null && machine.used() <= 12 * MIB);
    let left = machine.check();
    assert!(left.len() >= 2 && all.ends_with(&left) && left.len() < all.len(), "{all:?} {left:?}");
    let said = log(&machine.target);
    let gone = all.len() - left.len();
    assert_eq!(said.matches("was given up before its time").count(), gone, "{said}");
    assert!(said.contains("its quota of 12 MiB has no room for more"), "{said}");
    let freed = || metric(&machine.target, "landfall_released_bytes_total") >= 4 * MIB;
    wait_until("space comes back", freed);
    // More comes, and older points make room for it.
    (0..2).for_each(|_| machine.churn());
    wait_until("it fits again", || machine.used() <= 12 * MIB);
    let newest = machine.check();
    assert!(newest.last() > left.last());
    assert_eq!(machine.space()["held"], Value::Null);
}

#[test]
fn a_quota_that_cannot_be_kept_holds_streams_and_says_who_is_in_the_way() {
    let mut machine = Churned::with_config(SMALL);
    machine.target.expect_log("nothing more is taken of web");
    machine.target.expect_log("NBD request failed");
    (0..2).for_each(|_| machine.churn());
    machine.target.run(&["export", "add", "web", "--writable", "--branch", "b"]);
    machine.target.write("web~b/os", 0, &[1; 4096]).expect("there is room");
    for policy in ["keep all, quota 6MiB hold", "keep all, quota 6MiB shorten"] {
        let first = machine.check()[0];
        if policy.ends_with("shorten") {
            machine.target.run(&["point", "pin", &format!("web@seq:{first}")]);
        }
        machine.set_policy(policy);
        let held = |machine: &Churned| machine.space()["held"].as_str().map(str::to_owned);
        wait_until("it is held", || held(&machine).is_some());
        let why = held(&machine).expect("a reason");
        let part = if policy.ends_with("hold") { "says to hold" } else { "is pinned" };
        assert!(why.contains("the quota of web is used up") && why.contains(part), "{why}");
        let refused = machine.target.write("web~b/os", 4096, &[2; 4096]).expect_err("held");
        assert!(refused.to_lowercase().contains("no space"), "{refused}");
        let status = machine.target.run(&["status"]);
        assert!(status.contains("warning: nothing more is taken of web"), "{status}");
        assert!(metrics(&machine.target).contains("landfall_quota_held{machine=\"web\"} 1"));
        // What is there reads on, and a mark passes.
        machine.check();
        machine.set_policy("keep all");
        wait_until("it goes on", || machine.target.write("web~b/os", 0, &[3; 4096]).is_ok());
    }
    machine.churn();
    machine.check();
}
