//! What policies let go gives its space back by itself: after a pass of thinning, after `kill -9` in the middle of it, and not
//! where somebody holds what is older.

use crate::harness::{Target, metric, metrics, noise};
use serde_json::Value;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

const MIB: usize = 1 << 20;
pub(crate) const SMALL: &str =
    "[journal]\nsegment = '2MiB'\nreserve = '1MiB'\n[fold]\nevery = '1s'\n";

/// A machine of 8 MiB and what its points hold.
pub(crate) struct Churned {
    pub(crate) target: Target,
    content: Vec<u8>,
    points: Vec<(u64, Vec<u8>)>,
    rounds: u64,
}

impl Churned {
    pub(crate) fn with_config(config: &str) -> Self {
        let content = noise(1, 8 * MIB);
        let target = Target::with_config(config).with_machine(&content);
        let mut churned = Self { target, content, points: Vec::new(), rounds: 1 };
        churned.take_points();
        churned
    }

    /// Half of the disk changes, and a pass sends it.
    pub(crate) fn churn(&mut self) {
        self.rounds += 1;
        let at = usize::try_from(self.rounds % 3).expect("small") * MIB;
        self.content[at..at + 4 * MIB].copy_from_slice(&noise(self.rounds, 4 * MIB));
        // A stretch that is zeroed and one that is left alone.
        self.content[at + MIB..at + MIB + 65536].fill(0);
        std::fs::write(self.target.path("disk.raw"), &self.content).expect("written");
        self.target.replicate();
        self.take_points();
    }

    fn take_points(&mut self) {
        for point in sequences(&self.target) {
            if self.points.iter().all(|(known, _)| *known != point) {
                self.points.push((point, self.content.clone()));
            }
        }
    }

    /// Every point that is listed reads as it was, unless it was given up meanwhile; which they are.
    pub(crate) fn check(&self) -> Vec<u64> {
        let mut listed = sequences(&self.target);
        listed.retain(|point| {
            let name = format!("web/os@seq:{point}");
            let content = self.points.iter().find(|(known, _)| known == point);
            let read = match self.target.read(&name) {
                Ok((read, _)) => read,
                Err(error) => {
                    let is_there = sequences(&self.target).contains(point);
                    assert!(!is_there, "{name} is listed and does not open: {error}");
                    return false;
                }
            };
            assert!(read == content.expect("it was made here").1, "{name} differs");
            true
        });
        listed
    }

    pub(crate) fn history(&self) -> Value {
        self.target.json(&["machine", "show", "web"])["history"].clone()
    }
}

fn sequences(target: &Target) -> Vec<u64> {
    let points = target.points();
    points.iter().map(|point| point["sequence"].as_u64().expect("a number")).collect()
}

/// Bytes that the files of the journal take.
fn journal_bytes(target: &Target) -> u64 {
    fn below(folder: &Path) -> u64 {
        let entries = std::fs::read_dir(folder).expect("a folder");
        let bytes = entries.map(|entry| {
            let path = entry.expect("readable").path();
            if path.is_dir() { below(&path) } else { crate::harness::allocated(&path) }
        });
        bytes.sum()
    }
    below(&target.data().join("journal"))
}

pub(crate) fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !done() {
        assert!(begun.elapsed() < Duration::from_secs(60), "{what}: not within a minute");
        sleep(Duration::from_millis(100));
    }
}

pub(crate) fn log(target: &Target) -> String {
    std::fs::read_to_string(target.path("log")).expect("a log")
}

#[test]
fn what_a_policy_lets_go_gives_its_space_back_and_the_rest_reads_as_before() {
    let mut machine = Churned::with_config(SMALL);
    (0..5).for_each(|_| machine.churn());
    let old = sequences(&machine.target);
    let full = journal_bytes(&machine.target);
    assert!(full > 18 << 20, "{full} bytes show nothing");
    assert_eq!(machine.history()["begins"], Value::Null);
    sleep(Duration::from_secs(10));
    (0..2).for_each(|_| machine.churn());
    machine.target.run(&["policy", "set", "web", "keep all for 10s"]);
    wait_until("space comes back", || journal_bytes(&machine.target) < full * 3 / 4);
    // Counted when all that can go has gone.
    let released = || metric(&machine.target, "landfall_released_bytes_total");
    wait_until("what came back is counted", || released() >= 8 << 20);
    let kept = machine.check();
    assert!(!kept.is_empty() && kept.iter().all(|point| !old.contains(point)), "{kept:?}");

    let begins = machine.history()["begins"]["sequence"].as_u64().expect("it was folded");
    assert!(begins > *old.last().expect("some") && begins <= kept[0], "begins at {begins}");
    let said = log(&machine.target);
    let line = format!("(seq:{begins}) from now on, no longer at its first copy");
    assert!(said.contains(&line) && said.contains("(keep all for 10s)"), "{said}");
    assert!(said.contains("released") && said.contains("of the journal"), "{said}");
    assert!(metric(&machine.target, "landfall_folds_total") >= 1);
    assert!(metric(&machine.target, "landfall_folded_bytes_total") >= 4 << 20);
    let text = metrics(&machine.target);
    assert!(text.contains("landfall_fold_last_duration_seconds{machine=\"web\"}"), "{text}");
    let status = machine.target.json(&["status"]);
    assert!(status["folding"]["released_segments"].as_u64() >= Some(4), "{status}");
    let gone = machine.target.read(&format!("web/os@seq:{}", old[1])).expect_err("it is folded");
    assert!(gone.contains("its history now begins at"), "{gone}");

    machine.target.kill();
    machine.target.resume();
    assert_eq!(machine.check(), kept);
    machine.churn();
    machine.check();
}

#[test]
fn a_fold_that_was_killed_is_ended_by_the_next_start() {
    let slow = format!("{SMALL}rate = '1MiB'\n");
    let mut machine = Churned::with_config(&slow);
    (0..3).for_each(|_| machine.churn());
    machine.target.run(&["policy", "set", "web", "keep all for 0s"]);
    let under_way = |machine: &Churned| machine.history()["folding"]["done_bytes"].as_u64();
    wait_until("a fold is under way", || under_way(&machine).is_some_and(|done| done > 0));
    let status = machine.target.run(&["status"]);
    assert!(status.contains("folding: web/os to seq:"), "{status}");
    machine.target.kill();
    let config = machine.target.data().join("landfall.toml");
    std::fs::write(config, SMALL).expect("written");
    machine.target.resume();
    // While it is not ended, and afterwards.
    let kept = machine.check();
    assert_eq!(kept.len(), 1, "the newest stays");
    wait_until("the fold is ended", || metric(&machine.target, "landfall_folds_total") == 1);
    assert!(log(&machine.target).contains("that was cut off"), "{}", log(&machine.target));
    assert_eq!(machine.check(), kept);
    let freed = || metric(&machine.target, "landfall_released_bytes_total") > 8 << 20;
    wait_until("space comes back", freed);
    // One that is stopped in good order does not wait for a fold.
    std::fs::write(machine.target.data().join("landfall.toml"), slow).expect("written");
    machine.target.stop();
    machine.target.resume();
    sleep(Duration::from_millis(1100));
    (0..2).for_each(|_| machine.churn());
    machine.target.run(&["policy", "set", "web", "keep all for 0s"]);
    wait_until("another fold is under way", || under_way(&machine).is_some());
    let begun = Instant::now();
    machine.target.stop();
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    machine.target.resume();
    machine.check();
}

#[test]
fn what_is_pinned_holds_history_back_and_is_named() {
    let mut machine = Churned::with_config(SMALL);
    machine.churn();
    let held = *sequences(&machine.target).last().expect("a point");
    machine.target.run(&["point", "pin", &format!("web@seq:{held}")]);
    (0..2).for_each(|_| machine.churn());
    // Further behind the pin than a fold is worth it.
    sleep(Duration::from_millis(1100));
    machine.churn();
    let full = journal_bytes(&machine.target);
    machine.target.run(&["policy", "set", "web", "keep all for 0s"]);
    let begins = |machine: &Churned| machine.history()["begins"]["sequence"].as_u64();
    wait_until("history begins at the pin", || begins(&machine) == Some(held));
    let newest = machine.check();
    assert_eq!(newest.len(), 2, "{newest:?}");
    let pinned = format!("seq:{held} is pinned");
    assert_eq!(machine.history()["held_by"][0], Value::from(pinned.as_str()));
    let status = machine.target.run(&["status"]);
    assert!(status.contains("held: history of web reaches") && status.contains(&pinned));
    assert!(log(&machine.target).contains(&format!("history of web is held back: {pinned}")));
    let counted = "landfall_history_holders{machine=\"web\",reason=\"pin\"} 1";
    assert!(metrics(&machine.target).contains(counted));
    let compacted = || metric(&machine.target, "landfall_compacted_segments_total");
    wait_until("what nobody sees beside the pin goes", || compacted() > 0);

    machine.target.run(&["point", "unpin", &format!("web@seq:{held}")]);
    machine.target.run(&["policy", "set", "web", "keep all for 0s"]);
    wait_until("history goes on", || begins(&machine) == Some(newest[1]));
    wait_until("and gives space back", || journal_bytes(&machine.target) + (8 << 20) < full);
    assert_eq!(machine.check(), newest[1..]);
    assert_eq!(machine.history()["held_by"], Value::Array(Vec::new()));
}

#[test]
fn what_a_removed_machine_had_is_given_back() {
    let mut machine = Churned::with_config(SMALL);
    (0..3).for_each(|_| machine.churn());
    let full = journal_bytes(&machine.target);
    machine.target.run(&["machine", "add", "other", "--disk", "name=os,size=1MiB"]);
    machine.target.run(&["machine", "remove", "web"]);
    // Any policy that is set has a look taken.
    machine.target.run(&["policy", "set", "other", "keep all for 1h"]);
    wait_until("space comes back", || journal_bytes(&machine.target) < full / 2);
}
