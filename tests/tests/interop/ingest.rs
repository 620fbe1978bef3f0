//! Machines that are fed over NBD by tools that know nothing of it: what they copied is what the point holds.

use crate::machine::{SIZE, points, same, text};
use landfall_tests::harness::{MIB, Qmp, Said, Settings, Source, Target, attempt, run};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// A target with the machine `web` that is fed in `mode`, and what it is fed from.
pub(crate) fn web(mode: &str) -> (Target, Source) {
    let target = Target::start();
    let source = Source::create(target.folder(), "web.raw", SIZE, 11);
    let disk = format!("name=os,size={SIZE}");
    target.landfall(&["machine", "add", "web", "--disk", &disk, "--ingest", mode]).ok();
    (target, source)
}

/// `qemu-img convert` into the machine.
fn convert(target: &Target, source: &Source) -> Said {
    let from = ["convert", "-n", "-f", "raw", "-O", "raw", text(source.path())];
    attempt("qemu-img", &[&from[..], &[&target.uri("web/os")]].concat())
}

/// Waits until there are so many points: a client may have gone before its farewell was heard.
#[track_caller]
pub(crate) fn wait_for_points(target: &Target, count: usize) {
    let begun = Instant::now();
    loop {
        let found = points(target, "web").len();
        if found == count {
            return;
        }
        let late = begun.elapsed() > Duration::from_secs(30);
        assert!(
            found < count && !late,
            "{found} points instead of {count}:\n{}",
            target.log().text()
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}

pub(crate) fn shown(target: &Target) -> Value {
    target.json(&["machine", "show", "web", "--json"])
}

fn kept(target: &Target, source: &Source, name: &str) -> PathBuf {
    let copy = target.folder().join(name);
    source.keep(&copy);
    copy
}

#[test]
fn copies_make_points_that_equal_what_was_copied() {
    let (target, mut source) = web("nbd");
    assert!(target.landfall(&["status"]).ok().contains("web"));
    convert(&target, &source).ok();
    let first = kept(&target, &source, "first.raw");
    wait_for_points(&target, 1);
    same(&first, &target.uri("web@latest"));

    source.change(12);
    run("nbdcopy", &["--flush", text(source.path()), &target.uri("web/os")]);
    let second = kept(&target, &source, "second.raw");
    wait_for_points(&target, 2);
    let older = target.uri(&format!("web/os@seq:{}", points(&target, "web")[0]["sequence"]));
    same(&first, &older);
    same(&second, &target.uri("web/os@latest"));

    // Blocks that another client writes as they come, of any size.
    let writes = ["-f", "raw", "-c", "write -P 0x5a 1000 5000", "-c", "write -z -u 2M 1M"];
    let more = ["-c", "write -P 0x77 20M 256k", "-c", "discard 5M 64k", "-c", "flush"];
    run("qemu-io", &[&writes[..], &more[..], &[&target.uri("web/os")]].concat());
    source.write(1000, &[0x5a; 5000]);
    source.punch(2 * MIB, MIB);
    source.write(20 * MIB, &vec![0x77; 256 << 10]);
    source.punch(5 * MIB, 64 << 10);
    let third = kept(&target, &source, "third.raw");
    same(&third, &target.uri("web/os@latest"));
    same(&third, &target.uri("web/os"));
    wait_for_points(&target, 3);
}

#[test]
fn who_does_not_flush_makes_no_point_and_somebody_may() {
    let (target, source) = web("nbd");
    target.log().expect("left without a flush");
    run("nbdcopy", &[text(source.path()), &target.uri("web/os")]);
    target.log().wait_for(1, &["left without a flush"]);
    assert_eq!(points(&target, "web").len(), 0);
    let said = target.landfall(&["machine", "show", "web"]).ok();
    assert!(said.contains("left without a flush"), "{said}");
    target.landfall(&["point", "mark", "web"]).ok();
    same(source.path(), &target.uri("web/os@latest"));
    let ingest = &shown(&target)["ingest"];
    assert_eq!((&ingest["mode"], &ingest["disks"][0]["broken"]), (&json!("sync"), &json!(null)));
}

#[test]
fn a_second_client_is_told_and_readers_are_not_in_the_way() {
    let (target, source) = web("nbd");
    convert(&target, &source).ok();
    let script = format!(
        "import nbd, subprocess\none = nbd.NBD()\none.connect_uri({uri:?})\n\
         assert not one.can_multi_conn() and not one.is_read_only()\n\
         one.pwrite(b'x' * 4096, 0)\n\
         info = subprocess.run(['qemu-img', 'info', {uri:?}], capture_output=True, text=True)\n\
         assert info.returncode != 0 and 'web/os is being written by' in info.stderr, info\n\
         subprocess.run(['nbdinfo', '--size', {latest:?}], check=True)\n\
         lists = subprocess.run(['nbdinfo', '--list', {root:?}], capture_output=True, text=True)\n\
         assert lists.returncode == 0 and 'feeds web (sync)' in lists.stdout, lists\n\
         one.flush()\none.shutdown()\n",
        uri = target.uri("web/os"),
        latest = target.uri("web/os@latest"),
        root = target.uri(""),
    );
    run("/usr/bin/python3", &["-c", &script]);
    wait_for_points(&target, 2);
    // An agent is refused, in words; and is let in once somebody says so.
    let disk = source.as_disk("os");
    let agent = ["replicate", "web", "--disk", &disk, "--once"];
    target.log().expect("stream refused");
    target.landfall(&agent).refused(&["fed over NBD", "landfall ingest set web off"]);
    target.landfall(&["ingest", "set", "web", "off"]).ok();
    let before = points(&target, "web").len();
    target.landfall(&agent).ok();
    wait_for_points(&target, before + 1);
    same(source.path(), &target.uri("web/os"));
}

#[test]
fn what_was_answered_outlives_the_target_and_the_client_goes_on() {
    let (mut target, source) = web("nbd");
    let mut qemu = Qmp::storage_daemon(target.folder());
    qemu.add_file("source", source.path());
    qemu.add_nbd("replica", &target.socket(), "web/os", 60);
    // Slow enough to be killed in the middle.
    let job = json!({
        "job-id": "copy", "device": "source", "target": "replica", "sync": "full",
        "speed": 8 * MIB, "auto-dismiss": false,
    });
    qemu.ok("blockdev-backup", &job);
    for _ in 0..3 {
        std::thread::sleep(Duration::from_millis(400));
        target.kill();
        target.start_again();
    }
    assert_eq!(qemu.conclude("copy"), None);
    assert_eq!(points(&target, "web").len(), 0, "a point before the client has left");
    let seeding = &shown(&target)["stream"]["state"];
    assert_eq!(seeding, "seed");
    qemu.ok("blockdev-del", &json!({ "node-name": "replica" }));
    target.log().wait_for(1, &["new point"]);
    same(source.path(), &target.uri("web/os@latest"));
}

#[test]
fn a_full_target_says_enospc_and_the_client_goes_on_later() {
    use landfall_tests::harness::Mount;
    let folder = tempfile::tempdir().expect("a folder");
    let mount = Mount::ext4(folder.path(), 96 * MIB);
    {
        let journal = mount.at().join("journal");
        std::fs::create_dir(&journal).expect("made");
        let settings = Settings { journal: Some(journal), reserve: "1MiB", ..Settings::default() };
        let target = Target::with(&settings);
        let mut source = Source::create(target.folder(), "web.raw", SIZE, 11);
        let disk = format!("name=os,size={SIZE}");
        target.landfall(&["machine", "add", "web", "--disk", &disk, "--ingest", "nbd"]).ok();
        convert(&target, &source).ok();
        wait_for_points(&target, 1);
        // Nothing but what is there already: nothing is needed.
        let filler = mount.at().join("filler");
        target.log().expect("the journal is full");
        target.log().expect("a write was refused");
        target.log().expect("was refused, and not made again");
        fill(&filler);
        convert(&target, &source).ok();
        source.write_noise(0, 20 * MIB);
        let refused = convert(&target, &source);
        assert!(refused.code == Some(1) && refused.err.contains("No space left"), "{refused:?}");
        std::fs::remove_file(&filler).expect("removed");
        let before = points(&target, "web").len();
        convert(&target, &source).ok();
        wait_for_points(&target, before + 1);
        same(source.path(), &target.uri("web/os@latest"));
    }
}

/// A block that is not a hole may lack room all the same: what is written anew goes into the journal. The specification allows
/// that where the definition of another context says so, and that of `landfall:age` does.
const NO_ROOM: &str = r#"
import errno, os, sys
handle = nbd.NBD()
for context in ("base:allocation", "landfall:age"):
    handle.add_meta_context(context)
handle.connect_uri(sys.argv[1])
assert handle.can_meta_context("landfall:age")
told = {}
def status(name, offset, entries, error):
    told[name] = entries
def refused(at):
    try:
        handle.pwrite(os.urandom(1 << 20), at)
    except nbd.Error as error:
        assert error.errnum == errno.ENOSPC, error
        return True
    return False
assert any(refused((round % 16) << 20) for round in range(200)), "it is never full"
handle.block_status(4096, 0, status, nbd.CMD_FLAG_REQ_ONE)
assert told["base:allocation"][1] == 0, told
assert refused(0), "where the hole bit is clear"
# The connection goes on.
handle.pread(4096, 0)
handle.shutdown()
"#;

#[test]
fn a_branch_without_room_says_enospc_wherever_it_is_written() {
    use landfall_tests::harness::Mount;
    let folder = tempfile::tempdir().expect("a folder");
    let mount = Mount::ext4(folder.path(), 96 * MIB);
    {
        let journal = mount.at().join("journal");
        std::fs::create_dir(&journal).expect("made");
        let settings = Settings { journal: Some(journal), reserve: "1MiB", ..Settings::default() };
        let target = Target::with(&settings);
        let source = Source::create(target.folder(), "web.raw", SIZE, 11);
        let disk = format!("name=os,size={SIZE}");
        target.landfall(&["machine", "add", "web", "--disk", &disk, "--ingest", "nbd"]).ok();
        convert(&target, &source).ok();
        wait_for_points(&target, 1);
        target.landfall(&["export", "add", "web@latest", "--writable", "--branch", "b"]).ok();
        target.log().expect("the journal is full");
        target.log().expect("a write was refused");
        let script = format!("import nbd\n{NO_ROOM}");
        run("/usr/bin/python3", &["-c", &script, &target.uri("web~b/os")]);
        let metrics = target.metrics();
        assert_eq!(metrics.sum("landfall_nbd_connections_broken_total"), 0.0);
    }
}

/// Takes all the room that is left.
fn fill(path: &std::path::Path) {
    use std::io::Write;
    let mut file = std::fs::File::create(path).expect("made");
    let mebibyte = vec![1; 1 << 20];
    while file.write_all(&mebibyte).is_ok() {}
}

#[test]
fn fio_verifies_what_it_wrote() {
    let (target, _) = web("nbd");
    let uri = format!("--uri={}", target.uri("web/os"));
    let size = format!("--size={SIZE}");
    let state = format!("--aux-path={}", target.folder().display());
    run(
        "fio",
        &[
            "--name=verify",
            "--ioengine=nbd",
            &uri,
            &state,
            "--rw=randwrite",
            "--bsrange=4k-64k",
            &size,
            "--iodepth=16",
            "--verify=crc32c",
            "--randseed=5",
            "--output-format=terse",
        ],
    );
}

#[test]
fn a_certificate_feeds_what_it_was_granted_and_reading_is_no_grant() {
    use crate::secured::certificate;
    let more = "[nbd]\ntls = 'required'\n[nbd.allow]\nreader = ['web']\n[nbd.feed]\nesx = ['web']";
    let target = Target::with(&Settings { more, ..Settings::default() });
    let source = Source::create(target.folder(), "web.raw", SIZE, 11);
    let disk = format!("name=os,size={SIZE}");
    target.landfall(&["machine", "add", "web", "--disk", &disk, "--ingest", "nbd"]).ok();
    let [reader, feeder] = ["reader", "esx"].map(|name| certificate(&target, name));
    let uri = |export: &str, folder: &PathBuf| {
        let plain = target.tcp_uri(export).replacen("nbd:", "nbds:", 1);
        format!("{plain}?tls-certificates={}", folder.display())
    };
    let copy =
        |folder| attempt("nbdcopy", &["--flush", text(source.path()), &uri("web/os", folder)]);
    assert_ne!(copy(&reader).code, Some(0), "a reader feeds");
    copy(&feeder).ok();
    wait_for_points(&target, 1);
    let read = |folder| attempt("nbdinfo", &["--size", &uri("web/os@latest", folder)]);
    assert_ne!(read(&feeder).code, Some(0), "who feeds reads");
    read(&reader).ok();
    same(source.path(), &target.uri("web/os@latest"));
}
