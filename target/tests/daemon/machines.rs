//! Machines, replication, points and restore: what goes in comes out.

use crate::harness::{Target, allocated, get, metric, metrics, noise};
use serde_json::json;
use std::fs;

const MIB: usize = 1 << 20;

/// Eight MiB, of which the second is data.
fn sparse(seed: u64) -> Vec<u8> {
    let mut disk = vec![0; 8 * MIB];
    disk[MIB..2 * MIB].copy_from_slice(&noise(seed, MIB));
    disk
}

#[test]
fn every_point_is_restored_as_it_was() {
    let first = sparse(1);
    let target = Target::start().with_machine(&first);
    let mut second = first.clone();
    second[5 * MIB..5 * MIB + 4096].copy_from_slice(&noise(2, 4096));
    fs::write(target.path("disk.raw"), &second).unwrap();
    target.replicate();

    let points = target.points();
    assert_eq!(points.len(), 2);
    for (point, content) in points.iter().zip([&first, &second]) {
        assert_eq!(point["kind"], "crash");
        let by_time = format!("web@{}", point["time"].as_str().unwrap());
        for name in [point["name"].as_str().unwrap(), &by_time] {
            target.run(&["restore", name, "--output", "restored.raw", "--force"]);
            let restored = target.path("restored.raw");
            assert!(fs::read(&restored).unwrap() == *content, "{name} is not what it was");
            assert!(allocated(&restored) < 3 * MIB as u64, "holes were filled");
        }
    }
    assert!(!target.path("restored.raw.partial").exists());
}

#[test]
fn a_machine_is_listed_shown_and_removed() {
    let target = Target::start().with_machine(&sparse(1));
    let machines = target.json(&["machine", "list"]);
    assert_eq!(machines["machines"][0]["name"], "web");
    assert_eq!(machines["machines"][0]["points"], 1);
    let machine = target.json(&["machine", "show", "web"]);
    assert_eq!(machine["disks"][0]["state"], "ready");
    let image = target.data().join("images/web/os.raw");
    assert_eq!(machine["disks"][0]["image"], json!(image));

    target.run(&["machine", "remove", "web"]);
    assert!(image.exists(), "image files stay");
    assert!(target.run(&["machine", "list"]).contains("no machines yet"));
    // The file is in the way until somebody decides what to do with it.
    let refused = target.refused(&["machine", "add", "web", "--disk", "name=os,size=8MiB"]);
    assert!(refused.contains("adopt it with path="), "{refused}");
    let path = format!("name=os,path={}", image.display());
    target.run(&["machine", "add", "web", "--disk", &path]);
    assert_eq!(target.json(&["machine", "show", "web"])["disks"][0]["size_bytes"], 8 * MIB);
}

#[test]
fn several_disks_are_one_machine() {
    let target = Target::start();
    let (os, data) = (noise(1, MIB), noise(2, 3 * MIB));
    fs::write(target.path("os"), &os).unwrap();
    fs::write(target.path("data.img"), &data).unwrap();
    let add = ["machine", "add", "db", "--disk", "name=os,size=1MiB"];
    target.run(&[&add[..], &["--disk", "name=data,size=3MiB"]].concat());
    let disks = ["--disk", "os=os", "--disk", "data=data.img"];
    target.run(&[&["replicate", "db"], &disks[..]].concat());
    target.run(&["restore", "db", "--output", "out/"]);
    assert!(fs::read(target.path("out/os.raw")).unwrap() == os);
    assert!(fs::read(target.path("out/data.raw")).unwrap() == data);
    target.run(&["restore", "db", "--disk", "data", "--output", "one.raw"]);
    assert!(fs::read(target.path("one.raw")).unwrap() == data);
    assert_eq!(target.json(&["export", "add", "db"])["uris"].as_array().map(Vec::len), Some(2));
}

#[test]
fn an_adopted_file_gets_only_what_differs() {
    let target = Target::start();
    let mut content = noise(1, 4 * MIB);
    fs::write(target.path("old.raw"), &content).unwrap();
    content[..65536].copy_from_slice(&noise(2, 65536));
    fs::write(target.path("disk.raw"), &content).unwrap();
    target.run(&["machine", "add", "web", "--disk", "name=os,path=old.raw"]);
    target.replicate();
    assert!(target.read("web/os").unwrap().0 == content);
    assert_eq!(metric(&target, "landfall_delta_content_bytes_total"), 65536);
}

#[test]
fn points_are_marked_pinned_and_found_by_label() {
    let target = Target::start().with_machine(&noise(1, MIB));
    let marked =
        target.json(&["point", "mark", "web", "--label", "before the update", "--kind", "app"]);
    assert_eq!(marked["kind"], "app");
    let name = marked["name"].as_str().unwrap();
    for other in ["web@app", "web@tag:before the update", "web@latest", "web"] {
        let restored = target.run(&["restore", other, "--output", "x.raw", "--force"]);
        assert!(restored.starts_with(name), "{other} means {restored}");
    }
    target.run(&["point", "pin", "web@app"]);
    assert_eq!(target.points()[1]["pinned"], true);
    target.run(&["point", "unpin", name]);
    assert_eq!(target.points()[1]["pinned"], false);
}

#[test]
fn metrics_and_health_are_all_that_http_tells() {
    let target = Target::start().with_machine(&noise(1, MIB));
    let text = metrics(&target);
    for line in [
        "landfall_machines 1",
        "landfall_points{machine=\"web\"} 1",
        "landfall_image_lost{disk=\"os\",machine=\"web\"} 0",
        "landfall_delta_marks_total 1",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} is missing in\n{text}");
    }
    assert!(text.contains("landfall_newest_point_age_seconds{machine=\"web\"}"));
    assert_eq!(get(&target, "/healthz").0, 200);
    assert_eq!(get(&target, "/v1/status").0, 404);
}
