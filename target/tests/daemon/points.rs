//! Points: listed in pages, narrowed, named so that the names can be pasted.

use crate::harness::{Target, control, noise};
use serde_json::{Value, json};

const MIB: usize = 1 << 20;

fn sequences(listed: &Value) -> Vec<u64> {
    let points = listed["points"].as_array().expect("a list");
    points.iter().map(|point| point["sequence"].as_u64().expect("a number")).collect()
}

#[test]
fn a_listing_is_narrowed_and_its_names_and_times_mean_its_points() {
    let target = Target::start().with_machine(&noise(1, MIB));
    for (label, kind) in [("a", "app"), ("b", "crash"), ("c", "app"), ("d", "crash")] {
        target.run(&["point", "mark", "web", "--label", label, "--kind", kind]);
    }
    let all = target.points();
    let list =
        |options: &[&str]| sequences(&target.json(&[&["point", "list", "web"], options].concat()));
    let numbers: Vec<u64> = all.iter().map(|p| p["sequence"].as_u64().unwrap()).collect();
    assert_eq!(numbers.len(), 5);
    assert_eq!(list(&["--kind", "app"]), [numbers[1], numbers[3]]);
    assert_eq!(list(&["--kind", "crash,fuzzy"]), [numbers[0], numbers[2], numbers[4]]);
    assert_eq!(list(&["--limit", "2"]), numbers[3..]);
    assert_eq!(list(&["--kind", "app", "--limit", "1"]), [numbers[3]]);
    let time = |index: usize| all[index]["time"].as_str().unwrap();
    assert_eq!(list(&["--from", time(1), "--to", time(3)]), numbers[1..4]);
    assert_eq!(list(&["--to", "-1h"]), [0; 0]);
    assert_eq!(list(&["--from", "-1h"]), numbers);
    for point in &all {
        let by_time = format!("web@{}", point["time"].as_str().unwrap());
        for name in [point["name"].as_str().unwrap(), &by_time] {
            let pinned = target.json(&["point", "pin", name]);
            assert_eq!(pinned["sequence"], point["sequence"], "{name} is another point");
        }
    }
    let text = target.run(&["point", "list", "web", "--kind", "app"]);
    assert!(text.contains("2 points") && text.contains("KIND"), "{text}");
    let none = target.run(&["point", "list", "web", "--kind", "fuzzy"]);
    assert!(none.contains("no point of web is like that"), "{none}");
    assert!(target.refused(&["point", "list", "web", "--kind", "good"]).contains("app, crash or"));
    assert!(target.refused(&["point", "list", "web", "--from", "seq:1"]).contains("not a time"));
}

#[test]
fn a_long_listing_comes_in_pages_and_is_whole() {
    const MARKS: usize = 2100;
    let target = Target::start().with_machine(&noise(1, MIB));
    control(
        &target,
        (0..MARKS).map(|_| ("POST", "/v1/points", json!({"name": "web", "kind": "crash"}))),
    );
    let all: Vec<u64> = sequences(&target.json(&["point", "list", "web"]));
    assert_eq!(all.len(), MARKS + 1);
    assert!(all.is_sorted_by(|one, two| one < two), "not in order");
    let newest = sequences(&target.json(&["point", "list", "web", "--limit", "1500"]));
    assert_eq!(newest, all[MARKS + 1 - 1500..]);
    let text = target.run(&["point", "list", "web"]);
    assert_eq!(text.lines().filter(|line| line.contains("web@seq:")).count(), MARKS + 1);
    assert_eq!(text.matches("KIND").count(), 1);
    let page = control(&target, [("GET", "/v1/points?name=web&limit=9999", Value::Null)]);
    let page: Value = serde_json::from_str(&page[0]).expect("JSON");
    assert_eq!(sequences(&page).len(), 1000);
    assert_eq!(page["next"], all[999]);
}
