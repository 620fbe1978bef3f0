//! Machines that are fed by jobs of QEMU's block layer: mirrors, backups, bitmaps, and the script that runs them.
//!
//! What a guest would write is written by `qemu-io` through an export of QEMU itself, so mirrors and bitmaps see it.

use crate::ingest::{shown, wait_for_points, web};
use crate::machine::{points, same};
use landfall_tests::harness::{MIB, Qmp, Source, Target, newer, run};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// QEMU with the source as its node `disk`, through which a guest would write.
struct Hypervisor {
    qemu: Qmp,
    uri: String,
    folder: PathBuf,
}

impl Hypervisor {
    fn of(folder: &Path, source: &Source) -> Self {
        Self::over(Qmp::system(folder), folder, source)
    }

    /// The newer generation, which has no guest at all.
    fn newer(folder: &Path, source: &Source) -> Self {
        Self::over(Qmp::storage_daemon_of(&newer("qemu-storage-daemon"), folder), folder, source)
    }

    fn over(mut qemu: Qmp, folder: &Path, source: &Source) -> Self {
        qemu.add_file("disk", source.path());
        let uri = qemu.serve("disk", folder);
        Self { qemu, uri, folder: folder.to_owned() }
    }

    /// Writes as a guest would.
    fn write(&self, commands: &[&str]) {
        let commands: Vec<&str> = commands.iter().flat_map(|one| ["-c", *one]).collect();
        run("qemu-io", &[&["-f", "raw"][..], &commands, &["-c", "flush", &self.uri]].concat());
    }

    fn mirror(&mut self, target: &Target) {
        self.qemu.mirror(&target.socket(), "web/os");
    }

    fn end(&mut self) {
        self.qemu.ok("block-job-cancel", &json!({ "device": "feed" }));
        assert_eq!(self.qemu.conclude("feed"), None);
        self.drop_replica();
    }

    fn drop_replica(&mut self) {
        self.qemu.ok("blockdev-del", &json!({ "node-name": "replica" }));
    }

    /// The script, with `what` it is asked to do.
    fn script(&self, target: &Target, what: &[&str]) -> Command {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/feed-from-qemu");
        let landfall = target.command(&[]);
        let words = std::iter::once(landfall.get_program()).chain(landfall.get_args());
        let landfall: Vec<&str> = words.map(|word| word.to_str().expect("text")).collect();
        let mut command = Command::new("/usr/bin/python3");
        command.arg(path).arg(what[0]).arg("--qmp").arg(self.folder.join("monitor"));
        command.args(["--to", "web/os", "--device", "disk", "--landfall", &landfall.join(" ")]);
        command.arg("--nbd").arg(target.socket()).args(&what[1..]).stdin(Stdio::null());
        command
    }
}

fn head(target: &Target) -> u64 {
    shown(target)["head"].as_u64().expect("a number")
}

#[test]
fn a_mirror_that_is_ended_in_sync_is_a_point_and_begun_again_costs_nothing() {
    let (target, source) = web("nbd");
    let mut hypervisor = Hypervisor::of(target.folder(), &source);
    hypervisor.mirror(&target);
    hypervisor.write(&["write -P 7 100k 300k", "write -z 9M 1M"]);
    assert_eq!(points(&target, "web").len(), 0, "a point while it is being written");
    hypervisor.end();
    wait_for_points(&target, 1);
    same(source.path(), &target.uri("web/os@latest"));
    // A second full mirror writes everything again, and the target has it.
    let before = head(&target);
    hypervisor.mirror(&target);
    assert_eq!(head(&target), before, "what was there was written again");
    hypervisor.write(&["write -P 8 100k 64k"]);
    hypervisor.end();
    wait_for_points(&target, 2);
    assert!(head(&target) <= before + 4, "one write and a point: {}", head(&target) - before);
    same(source.path(), &target.uri("web/os@latest"));
}

#[test]
fn zeroing_everything_first_costs_a_few_records() {
    let (target, source) = web("nbd");
    let mut hypervisor = Hypervisor::of(target.folder(), &source);
    hypervisor.mirror(&target);
    hypervisor.end();
    wait_for_points(&target, 1);
    let before = head(&target);
    run("qemu-io", &["-f", "raw", "-c", "write -z -u 0 24M", "-c", "flush", &target.uri("web/os")]);
    wait_for_points(&target, 2);
    assert!(head(&target) - before <= 3, "{} records", head(&target) - before);
    // And what was there before comes back.
    hypervisor.mirror(&target);
    hypervisor.end();
    wait_for_points(&target, 3);
    same(source.path(), &target.uri("web/os@latest"));
}

#[test]
fn a_mirror_that_is_cut_off_is_no_point() {
    let (target, source) = web("nbd");
    target.log().expect("without a disconnect");
    let mut hypervisor = Hypervisor::of(target.folder(), &source);
    hypervisor.qemu.add_nbd("replica", &target.socket(), "web/os", 0);
    let slow = json!({
        "job-id": "feed", "device": "disk", "target": "replica", "sync": "full", "speed": MIB,
        "auto-dismiss": false,
    });
    hypervisor.qemu.ok("blockdev-mirror", &slow);
    std::thread::sleep(Duration::from_millis(500));
    let mut stop = hypervisor.script(&target, &["stop"]);
    // Under the script's names nothing is there: it says so, and touches nothing.
    assert!(!stop.output().expect("it starts").status.success());
    let instances = json!({ "instances": [{ "type": "block-node", "node-name": "replica" }] });
    hypervisor.qemu.ok("yank", &instances);
    hypervisor.qemu.ok("block-job-cancel", &json!({ "device": "feed", "force": true }));
    hypervisor.qemu.conclude("feed");
    hypervisor.drop_replica();
    target.log().wait_for(1, &["no longer fed over NBD", "without a disconnect"]);
    assert_eq!(points(&target, "web").len(), 0);
}

#[test]
fn nightly_backups_with_a_bitmap_bring_what_changed() {
    let (target, source) = web("nbd");
    let hypervisor = Hypervisor::of(target.folder(), &source);
    let backup = |what: &[&str]| {
        let output = hypervisor.script(&target, what).output().expect("it starts");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    backup(&["backup", "--bitmap", "nightly"]);
    wait_for_points(&target, 1);
    same(source.path(), &target.uri("web/os@latest"));
    for (night, commands) in
        [["write -P 1 1M 128k", "discard 3M 1M"], ["write -P 2 20M 64k", "read 0 4k"]]
            .iter()
            .enumerate()
    {
        hypervisor.write(commands);
        let before = head(&target);
        backup(&["backup", "--bitmap", "nightly"]);
        wait_for_points(&target, night + 2);
        assert!(head(&target) - before < 30, "more than what changed");
        same(source.path(), &target.uri("web/os@latest"));
    }
    // A backup that fails makes no point, and the next one brings what it did not.
    hypervisor.write(&["write -P 3 8M 4M"]);
    let mut target = target;
    target.log().expect("ended");
    let before = points(&target, "web").len();
    let busy =
        landfall_tests::harness::legacy::Legacy::open(&target.socket(), "web/os").expect("opened");
    let output =
        hypervisor.script(&target, &["backup", "--bitmap", "nightly"]).output().expect("it starts");
    assert!(!output.status.success(), "two clients of one disk");
    drop(busy);
    target.kill();
    target.start_again();
    let output =
        hypervisor.script(&target, &["backup", "--bitmap", "nightly"]).output().expect("it starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    wait_for_points(&target, before + 1);
    same(source.path(), &target.uri("web/os@latest"));
}

/// The script in the foreground, and what it says.
struct Mirroring {
    child: Child,
    lines: BufReader<std::process::ChildStdout>,
}

impl Mirroring {
    fn begin(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).spawn().expect("it starts");
        let lines = BufReader::new(child.stdout.take().expect("piped"));
        Self { child, lines }
    }

    #[track_caller]
    fn wait_for(&mut self, part: &str) {
        let mut line = String::new();
        while !line.contains(part) {
            line.clear();
            assert!(
                self.lines.read_line(&mut line).expect("text") > 0,
                "it ended without {part:?}"
            );
        }
    }

    fn end(mut self) {
        run("kill", &["-TERM", &self.child.id().to_string()]);
        assert!(self.child.wait().expect("it ends").success());
    }
}

impl Drop for Mirroring {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn instants(target: &Target) -> Vec<Value> {
    let streams = target.json(&["stream", "list", "--json"]);
    streams["streams"][0]["instants"].as_array().expect("a list").clone()
}

#[test]
fn order_begins_with_a_mirror_in_sync_and_again_after_the_target_was_gone() {
    let (mut target, source) = web("nbd=ordered");
    target.log().expect("order has ended");
    target.log().expect("without a disconnect");
    let hypervisor = Hypervisor::of(target.folder(), &source);
    let mut mirroring = Mirroring::begin(hypervisor.script(&target, &["mirror"]));
    mirroring.wait_for("in sync, and marked");
    assert_eq!(shown(&target)["ingest"]["in_order"], true);
    let first = head(&target);
    for byte in 1..=5 {
        hypervisor.write(&[&format!("write -P {byte} 64k 4k")]);
    }
    let last = head(&target);
    assert!(last >= first + 5, "five writes in {first}..{last}");
    // Each is a moment of its own: the last five are the five writes.
    for (byte, sequence) in (1u8..=5).zip(last - 4..=last) {
        let name = format!("web/os@seq:{sequence}");
        let read = format!("read -P {byte} 64k 4k");
        run("qemu-io", &["-r", "-f", "raw", "-c", &read, &target.uri(&name)]);
    }
    target.kill();
    target.start_again();
    assert_eq!(instants(&target).last().expect("some")["grows"], false);
    // What was written while nobody was there waits, and order begins anew when the mirror is in sync again.
    mirroring.wait_for("in sync, and marked");
    hypervisor.write(&["write -P 6 64k 4k"]);
    assert_eq!(instants(&target).last().expect("some")["grows"], true);
    let before = points(&target, "web").len();
    mirroring.end();
    wait_for_points(&target, before + 1);
    same(source.path(), &target.uri("web/os@latest"));
    let begun = Instant::now();
    while shown(&target)["stream"] != json!(null) {
        assert!(begun.elapsed() < Duration::from_secs(10), "somebody feeds it still");
    }
}

/// From 8.2 on QEMU says itself when nothing that was written is on its way any more.
#[test]
fn a_newer_mirror_says_when_it_is_in_sync_and_its_writes_are_moments() {
    let (target, source) = web("nbd=ordered");
    target.log().expect("order has ended");
    let mut hypervisor = Hypervisor::newer(target.folder(), &source);
    hypervisor.mirror(&target);
    let begun = Instant::now();
    loop {
        let jobs = hypervisor.qemu.ok("query-block-jobs", &json!({}));
        let synced = jobs[0]["actively-synced"].as_bool().expect("it says so");
        if synced {
            break;
        }
        assert!(begun.elapsed() < Duration::from_secs(30), "it does not get in sync: {jobs}");
        std::thread::sleep(Duration::from_millis(10));
    }
    target.landfall(&["point", "mark", "web"]).ok();
    assert_eq!(shown(&target)["ingest"]["in_order"], true);
    for byte in 1..=5 {
        hypervisor.write(&[&format!("write -P {byte} 64k 4k")]);
    }
    let last = head(&target);
    for (byte, sequence) in (1u8..=5).zip(last - 4..=last) {
        let name = format!("web/os@seq:{sequence}");
        let read = format!("read -P {byte} 64k 4k");
        run("qemu-io", &["-r", "-f", "raw", "-c", &read, &target.uri(&name)]);
    }
    let before = points(&target, "web").len();
    hypervisor.end();
    wait_for_points(&target, before + 1);
    same(source.path(), &target.uri("web/os@latest"));
}

#[test]
fn backup_jobs_of_a_newer_generation_bring_all_and_then_what_changed() {
    let (target, source) = web("nbd");
    let mut hypervisor = Hypervisor::newer(target.folder(), &source);
    let bitmap = json!({ "node": "disk", "name": "nightly" });
    hypervisor.qemu.ok("block-dirty-bitmap-add", &bitmap);
    let backup = |hypervisor: &mut Hypervisor, how: &Value| {
        hypervisor.qemu.add_nbd("replica", &target.socket(), "web/os", 0);
        let mut job = json!({
            "job-id": "feed", "device": "disk", "target": "replica", "auto-dismiss": false,
        });
        job.as_object_mut().expect("one").extend(how.as_object().expect("one").clone());
        hypervisor.qemu.ok("blockdev-backup", &job);
        assert_eq!(hypervisor.qemu.conclude("feed"), None);
        hypervisor.drop_replica();
    };
    backup(&mut hypervisor, &json!({ "sync": "full" }));
    wait_for_points(&target, 1);
    same(source.path(), &target.uri("web/os@latest"));
    hypervisor.write(&["write -P 1 1M 128k", "write -z 9M 1M"]);
    let before = head(&target);
    let changed = json!({ "sync": "bitmap", "bitmap": "nightly", "bitmap-mode": "on-success" });
    backup(&mut hypervisor, &changed);
    wait_for_points(&target, 2);
    assert!(head(&target) - before < 30, "more than what changed");
    same(source.path(), &target.uri("web/os@latest"));
}
