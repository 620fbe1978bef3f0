//! Naming time: every form of WHEN, by command line and over NBD, and errors that say what exists.

use crate::machine::{Web, points, same};
use landfall_tests::harness::{Target, attempt};
use std::time::Duration;

/// The sequence that the command line takes `name` for.
#[track_caller]
fn sequence_of(target: &Target, name: &str) -> u64 {
    let moment = target.json(&["point", "pin", name, "--json"]);
    target.landfall(&["point", "unpin", name]).ok();
    moment["sequence"].as_u64().expect("a number")
}

/// A time that lies between a point and the next one.
fn a_nanosecond_after(time: &str) -> String {
    let (whole, fraction) = time.trim_end_matches('Z').split_once('.').unwrap_or((time, "0"));
    let nanoseconds: u32 = format!("{fraction:0<9}").parse().expect("digits");
    format!("{}.{:09}Z", whole.trim_end_matches('Z'), (nanoseconds + 1).min(999_999_999))
}

#[test]
fn every_form_of_when_means_the_same_to_both() {
    let mut web = Web::with_points(2);
    let mark = ["point", "mark", "web", "--kind", "app", "--label", "before update", "--json"];
    let app = web.target.json(&mark)["sequence"].as_u64().expect("a number");
    // The marked point holds what the last pass left.
    let second = web.kept[1].sequence;
    let app_copy = web.kept[1].copy.clone();
    std::thread::sleep(Duration::from_millis(2500));
    web.source.change(9);
    web.kept.push(crate::machine::Kept { time: String::new(), sequence: app, copy: app_copy });
    web.point();
    let newest = &web.kept[3];
    let oldest = &web.kept[0];
    let between = a_nanosecond_after(&web.kept[1].time);
    for (when, sequence, copy) in [
        ("", newest.sequence, &newest.copy),
        ("@latest", newest.sequence, &newest.copy),
        ("@app", app, &web.kept[2].copy),
        ("@tag:before update", app, &web.kept[2].copy),
        ("@-2s", app, &web.kept[2].copy),
        ("@2s-ago", app, &web.kept[2].copy),
        (&format!("@seq:{}", oldest.sequence), oldest.sequence, &oldest.copy),
        (&format!("@{}", oldest.time), oldest.sequence, &oldest.copy),
        (&format!("@{}", web.kept[1].time), second, &web.kept[1].copy),
        (&format!("@{between}"), second, &web.kept[1].copy),
        ("@2500-01-01T00:00:00+02:00", newest.sequence, &newest.copy),
    ] {
        assert_eq!(sequence_of(&web.target, &format!("web{when}")), sequence, "web{when}");
        // The URI that carries it, spaces and plus signs escaped as URIs want it.
        let escaped = when.replace(' ', "%20").replace('+', "%2B");
        same(copy, &web.target.uri(&format!("web/os{escaped}")));
    }
}

#[test]
fn what_does_not_exist_is_answered_with_what_does() {
    let web = Web::with_points(2);
    let (oldest, newest) = (&web.kept[0].time, &web.kept[1].time);
    web.target.landfall(&["branch", "add", "web", "--name", "try"]).ok();
    let range = format!("points go from {oldest} to {newest}");
    for (name, parts) in [
        ("wbe/os", vec!["no machine wbe", "machines: web"]),
        ("web/data", vec!["machine web has no disk data", "its disks: os"]),
        ("web~tyr/os", vec!["no branch tyr", "its branches: try"]),
        ("web/os@2001-01-01T00:00:00Z", vec!["no point 2001-01-01T00:00:00Z", &range]),
        ("web/os@-15m", vec!["no point", &range]),
        ("web/os@app", vec!["no point app", &range]),
        ("web/os@tag:never", vec!["no point tag:never", &range]),
        ("web/os@seq:9999", vec!["seq:9999 is not a point", "nearest is seq:"]),
        ("web/os@", vec!["nothing follows the @"]),
        ("web/os@yesterday", vec!["is not a moment", "-15m"]),
        ("web/os@2026-11-21T14:00:00", vec!["2026-11-21T14:00:00"]),
        ("Web/os", vec!["is not a name"]),
    ] {
        let output = web.target.folder().join("never.raw");
        let restore = ["restore", name, "--output", output.to_str().unwrap()];
        web.target.landfall(&restore).refused(&parts);
        assert!(!output.exists(), "{name} left a file");
        let said = attempt("qemu-img", &["info", &web.target.uri(name)]);
        assert_eq!(said.code, Some(1), "{name}");
        for part in parts {
            assert!(said.err.contains(part), "{name}: {part:?} is not in\n{}", said.err);
        }
    }
    // None of that was the target's failure.
    assert_eq!(points(&web.target, "web").len(), 2);
}

#[test]
fn a_machine_without_points_says_so() {
    let web = Web::empty();
    let said = attempt("qemu-img", &["info", &web.target.uri("web/os")]);
    assert!(said.err.contains("web has no points yet"), "{}", said.err);
    web.target.landfall(&["branch", "add", "web", "--name", "b"]).refused(&["has no points yet"]);
    let none = web.target.landfall(&["machine", "add", "web", "--disk", "name=os,size=1MiB"]);
    none.refused(&["machine web exists already"]);
    let disk = web.source.as_disk("os");
    let wrong = web.target.landfall(&["replicate", "wbe", "--disk", &disk, "--once"]);
    wrong.refused(&["unknown machine wbe", "machines: web"]);
    let wrong = web.target.landfall(&["replicate", "web", "--disk", &disk.replace("os=", "so=")]);
    wrong.refused(&["no disk so", "its disks: os"]);
    web.target.log().expect("unknown machine wbe");
    web.target.log().expect("no disk so");
}
