//! Scrub and verify: what a medium did is found, said, and refused until it is healed; history is held against heads.

use crate::harness::{Target, metric, metrics, noise};
use serde_json::Value;
use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

const MIB: usize = 1 << 20;

fn flip(path: &Path, at: u64) {
    let file = OpenOptions::new().read(true).write(true).open(path).expect("it is there");
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).expect("read");
    file.write_all_at(&[!byte[0]], at).expect("written");
}

fn segments(target: &Target) -> Vec<PathBuf> {
    let lanes = std::fs::read_dir(target.data().join("journal")).expect("lanes");
    let files = lanes.flat_map(|lane| std::fs::read_dir(lane.expect("a lane").path()));
    let files = files.flatten().map(|file| file.expect("a file").path());
    files.filter(|path| path.extension().is_some_and(|extension| extension == "seg")).collect()
}

#[test]
fn a_sound_target_has_nothing_to_say() {
    let mut target = Target::start().with_machine(&noise(1, MIB));
    let text = target.run(&["scrub"]);
    assert!(text.contains("nothing is known to be damaged"), "{text}");
    let scrub = target.json(&["scrub", "--status"]);
    assert_eq!(scrub["last"]["complete"], true);
    assert_eq!(scrub["last"]["image_bytes"], MIB);
    assert!(scrub["running"].is_null() && scrub["ended"].is_string());
    assert_eq!(metric(&target, "landfall_scrub_rounds_total"), 1);
    assert_eq!(metric(&target, "landfall_damaged_places"), 0);
    target.kill();
    target.resume();
    let scrub = target.json(&["scrub", "--status"]);
    assert!(scrub["last"].is_null() && scrub["ended"].is_string(), "it is remembered: {scrub}");
}

#[test]
fn damage_of_an_image_is_found_said_and_healed_by_what_the_next_pass_sends() {
    let mut target = Target::start().with_machine(&noise(1, MIB));
    for text in ["scrub found damage", "scrub healed damage", "NBD", "damaged"] {
        target.expect_log(text);
    }
    target.stop();
    flip(&target.data().join("images/web/os.raw"), 70_000);
    target.resume();
    let said = target.refused(&["scrub"]);
    assert!(said.contains("1 place damaged"), "{said}");
    assert_eq!(metric(&target, "landfall_scrub_damage_found_total"), 1);
    let scrub = target.json(&["scrub", "--status"]);
    let damage = &scrub["damage"][0];
    assert_eq!((&damage["machine"], &damage["disk"]), (&"web".into(), &"os".into()));
    assert_eq!((&damage["start"], &damage["length"]), (&69_632.into(), &4096.into()));
    assert_eq!((&damage["points"], &damage["head"]), (&1.into(), &true.into()));
    assert_eq!(metric(&target, "landfall_damaged_places"), 1);
    let status = target.run(&["status"]);
    assert!(status.contains("damaged") && status.contains("web/os"), "{status}");
    assert!(target.read("web/os").is_err(), "it was served");
    target.replicate();
    assert_eq!(target.read("web/os").expect("whole").0, noise(1, MIB));
    // The pass sent what the image was told to hold, as its hash says, so the first point is whole again, too.
    let text = target.run(&["scrub"]);
    assert!(text.contains("healed") && text.contains("from the journal"), "{text}");
    assert!(target.json(&["scrub", "--status"])["damage"].as_array().is_some_and(Vec::is_empty));
    let first = target.points()[0]["sequence"].as_u64().expect("a number");
    let first = target.read(&format!("web/os@seq:{first}"));
    assert_eq!(first.expect("whole").0, noise(1, MIB));
}

#[test]
fn heads_that_were_written_down_prove_history() {
    let mut target = Target::start().with_machine(&noise(1, MIB));
    target.run(&["point", "mark", "web", "--label", "a"]);
    let file = target.path("heads.json");
    let file = file.to_str().expect("a path of ours").to_owned();
    target.run(&["verify", "--export", &file]);
    assert!(target.refused(&["verify", "--export", &file]).contains("exists"), "overwritten");
    target.run(&["point", "mark", "web", "--label", "b"]);
    let text = target.run(&["verify", "--head", &file]);
    assert!(text.contains("one chain") && text.contains("is the same history"), "{text}");

    let text = std::fs::read_to_string(&file).expect("it is there");
    let mut heads: Value = serde_json::from_str(&text).expect("JSON");
    let chain = heads["lines"][0]["chain"].as_str().expect("a chain").to_owned();
    heads["lines"][0]["chain"] = chain.chars().rev().collect::<String>().into();
    let other = target.path("other.json");
    // Every byte of the file counts: each tenth of them, changed.
    for at in (0..text.len()).step_by(10) {
        let mut bytes = text.clone().into_bytes();
        bytes[at] ^= 1;
        std::fs::write(&other, &bytes).expect("written");
        let name = other.to_str().expect("a path of ours");
        let same: Result<Value, _> = serde_json::from_slice(&bytes);
        let proves = |heads: &Value| {
            let whole: Value = serde_json::from_str(&text).expect("JSON");
            let line = |heads: &Value| {
                let line = &heads["lines"][0];
                (line["line"].clone(), line["sequence"].clone(), line["chain"].clone())
            };
            line(heads) == line(&whole)
        };
        // What is for people is not compared: the name, and when it was.
        if !same.is_ok_and(|heads| proves(&heads)) {
            target.refused(&["verify", "--head", name]);
        }
    }
    std::fs::write(&other, heads.to_string()).expect("written");
    let other = other.to_str().expect("a path of ours").to_owned();
    let said = target.refused(&["verify", "--head", &other]);
    assert!(said.contains("1 line not as it was"), "{said}");
    heads["data"] = "00".repeat(16).into();
    std::fs::write(&other, heads.to_string()).expect("written");
    assert!(target.refused(&["verify", "--head", &other]).contains("another target"));
    target.expect_log("scrub found damage");
    target.expect_log("damaged");
    target.stop();
    // The head of the first record after that of the segment.
    let hit = segments(&target).into_iter().filter(|path| {
        let bytes = std::fs::read(path).expect("read");
        bytes.get(4096..4100) == Some(b"LFRC")
    });
    let hit: Vec<_> = hit.collect();
    assert!(!hit.is_empty(), "no record anywhere");
    hit.iter().for_each(|path| flip(path, 4096 + 200));
    target.resume();
    let said = target.refused(&["verify", "--head", &file]);
    assert!(said.contains("cannot be read") || said.contains("not as it was"), "{said}");
}

/// A scrub of so many bytes a second, once it has begun.
fn slow_scrub(target: &Target, rate: &str) -> Child {
    let mut slow = target.command(&["scrub", "--rate", rate]);
    let slow = slow.stderr(Stdio::piped()).stdout(Stdio::null());
    let slow = slow.spawn().expect("the binary starts");
    wait_for(target, |running| !running.is_null());
    slow
}

/// Waits until what is under way is as wanted.
fn wait_for(target: &Target, wanted: impl Fn(&Value) -> bool) -> Value {
    let begun = Instant::now();
    loop {
        let running = target.json(&["scrub", "--status"])["running"].clone();
        if wanted(&running) {
            return running;
        }
        assert!(begun.elapsed().as_secs() < 60, "it does not come to that: {running}");
        sleep(Duration::from_millis(20));
    }
}

fn number(value: &Value) -> u64 {
    value.as_u64().expect("a number")
}

#[test]
fn a_scrub_can_be_stopped_and_there_is_one_at_a_time() {
    let target = Target::start().with_machine(&noise(1, 4 * MIB));
    let slow = slow_scrub(&target, "256KiB");
    assert!(target.refused(&["scrub"]).contains("under way already"));
    assert!(target.refused(&["verify"]).contains("under way already"));
    target.run(&["scrub", "--stop"]);
    let ended = slow.wait_with_output().expect("it ends");
    let said = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert!(!ended.status.success() && said.contains("stopped"), "{said}");
    assert_eq!(target.json(&["scrub", "--status"])["unfinished"], true);
    target.run(&["scrub"]);
    assert_eq!(target.json(&["scrub", "--status"])["unfinished"], false);
}

#[test]
fn a_scrub_keeps_to_its_rate_and_says_how_far_it_is() {
    let target = Target::start().with_machine(&noise(1, 4 * MIB));
    let begun = Instant::now();
    let mut slow = slow_scrub(&target, "1MiB");
    let in_the_image =
        |running: &Value| running["at"].as_str().is_some_and(|at| at.contains("image of disk os"));
    let running = wait_for(&target, in_the_image);
    let (done, total) = (number(&running["done_bytes"]), number(&running["total_bytes"]));
    assert!(done > 0 && done < total && total > 4 << 20, "{running}");
    let counted = metrics(&target);
    assert!(counted.contains("landfall_scrub_running 1"), "{counted}");
    assert!(metric(&target, "landfall_scrub_done_bytes") >= done);
    assert!(slow.wait().expect("it ends").success());
    // The image alone, but for its last piece, which is waited for at the end.
    let took = begun.elapsed();
    assert!(took >= Duration::from_millis(3500), "4 MiB at 1 MiB a second in {took:?}");
    let counted = metrics(&target);
    assert!(counted.contains("landfall_scrub_running 0"), "{counted}");
    let at = metric(&target, "landfall_machine_scrub_last_end_timestamp_seconds{machine=\"web\"}");
    assert!(at > 1_700_000_000, "{at}");
    let quick = Instant::now();
    target.run(&["scrub"]);
    assert!(quick.elapsed() * 2 < took, "unbounded it is quick: {:?}", quick.elapsed());
}

#[test]
fn a_scrub_goes_on_where_it_was_when_the_target_was_stopped() {
    let mut target = Target::start().with_machine(&noise(1, 4 * MIB));
    let mut slow = slow_scrub(&target, "1MiB");
    wait_for(&target, |running| {
        running["at"].as_str().is_some_and(|at| at.contains("image of disk os"))
    });
    target.stop();
    assert!(!slow.wait().expect("it ends").success(), "it was cut off");
    target.resume();
    let status = target.json(&["scrub", "--status"]);
    assert_eq!((&status["unfinished"], &status["ended"]), (&true.into(), &Value::Null));
    assert!(target.run(&["scrub", "--status"]).contains("the next one goes on where it was"));
    target.run(&["scrub"]);
    let status = target.json(&["scrub", "--status"]);
    assert_eq!((&status["unfinished"], &status["last"]["complete"]), (&false.into(), &true.into()));
    let read = number(&status["last"]["image_bytes"]);
    assert!(read > 0 && read < 4 << 20, "{read} bytes of the image");
    assert_eq!(status["last"]["journal_bytes"], 0, "the journal was looked at before");
    assert_eq!(status["machines"][0]["machine"], "web");
}
