//! What an export tells of its blocks, against the bytes of the moments themselves, and backups by it.

use crate::machine::{SIZE, Web, same, text};
use landfall_tests::harness::{MIB, Qmp, attempt, nbd_node, newer, run};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What a machine went through: passes with writes, zeroes and holes, a disk that grew, branches that were written to and
/// trimmed, of the trunk and of each other.
struct History {
    web: Web,
    /// Moments of one way each, the oldest first: a name of the line, and the WHEN of each there.
    ways: Vec<(String, Vec<String>)>,
}

const GROWN: u64 = SIZE + 2 * MIB + 512;

impl History {
    fn generated() -> Self {
        let mut web = Web::with_points(1);
        for pass in 0..4 {
            // Ages have to differ by whole seconds.
            std::thread::sleep(Duration::from_millis(1100));
            web.source.change(9);
            web.source.punch(MIB * (3 + pass), 300_000);
            if pass == 2 {
                web.source.grow(GROWN);
                let size = GROWN.to_string();
                web.target.landfall(&["disk", "grow", "web/os", "--size", &size]).ok();
                web.source.write_noise(SIZE - 5000, 20_000);
            }
            let disk = web.source.as_disk("os");
            web.target.landfall(&["replicate", "web", "--disk", &disk, "--once"]).ok();
        }
        let points = crate::machine::points(&web.target, "web");
        let when = |point: &Value| format!("seq:{}", point["sequence"]);
        let trunk: Vec<String> = points.iter().map(when).collect();
        let mut ways = vec![("web/os".to_owned(), trunk.clone())];
        let middle = trunk.len() / 2;
        for (parent, name, at) in
            [("web", "one", &trunk[middle]), ("web~one", "two", &"latest".to_owned())]
        {
            web.target.landfall(&["branch", "add", &format!("{parent}@{at}"), "--name", name]).ok();
            web.target.landfall(&["export", "add", &format!("web~{name}"), "--writable"]).ok();
            let uri = web.target.uri(&format!("web~{name}/os"));
            let seed = name.len() + at.len();
            let work = format!(
                "import nbd, random\nh = nbd.NBD()\nh.connect_uri({uri:?})\nrandom.seed({seed})\n{BRANCH}"
            );
            run("/usr/bin/python3", &["-c", &work]);
        }
        // A branch knows the moments of its own, and those of the trunk up to where it starts.
        let way = |name: &str, before: &[String]| {
            let mut whens = before.to_vec();
            whens.push("latest".to_owned());
            (format!("web~{name}/os"), whens)
        };
        ways.push(way("one", &trunk[..=middle]));
        ways.push(way("two", &trunk[..=middle]));
        Self { web, ways }
    }
}

/// Writes, zeroes and trims on a branch.
const BRANCH: &str = r#"
size = h.get_size()
for number in range(40):
    at = random.randrange(size - 70000)
    length = random.choice([512, 4096, 5000, 65536])
    work = random.choice(["write", "write", "zero", "trim"])
    if work == "write":
        h.pwrite(random.randbytes(length), at)
    elif work == "zero":
        h.zero(length, at)
    else:
        h.trim(length, at)
h.flush()
h.shutdown()
"#;

/// Everything that is told of everything, against reads of the moments: run by both generations of libnbd.
const COMPARE: &str = r#"
import json, sys
import nbd

BLOCK = 4096
UNIT = 16

def opened(uri, contexts=()):
    handle = nbd.NBD()
    for context in contexts:
        handle.add_meta_context(context)
    handle.connect_uri(uri)
    for context in contexts:
        assert handle.can_meta_context(context), (uri, context)
    return handle

def content(uri):
    handle = opened(uri)
    size = handle.get_size()
    data = b"".join(handle.pread(min(4 << 20, size - at), at) for at in range(0, size, 4 << 20))
    handle.shutdown()
    return data

def status(handle, size, contexts, step, flags=0):
    """Of each context the meaning of every block, asked for in steps from any offset."""
    told = {context: [] for context in contexts}
    at = 0
    while at < size:
        ends = set()
        def entries(name, offset, extents, error):
            lengths = 0
            if name not in told:
                return
            if not wide:
                extents = list(zip(extents[::2], extents[1::2]))
            for length, meaning in extents:
                told[name].append((offset + lengths, length, meaning))
                lengths += length
            if flags:
                assert len(extents) == 1, extents
            assert 0 < lengths <= count
            ends.add(offset + lengths)
        count = min(step, size - at)
        wide = hasattr(handle, "block_status_64")
        ask = handle.block_status_64 if wide else handle.block_status
        ask(count, at, entries, flags)
        # What one context told more of than another is told again.
        at = min(ends)
    blocks = {}
    for context, parts in told.items():
        meanings = [None] * -(-size // BLOCK)
        for offset, length, meaning in parts:
            for block in range(offset // BLOCK, -(-(offset + length) // BLOCK)):
                assert meanings[block] in (None, meaning), (context, block, meanings[block], meaning)
                meanings[block] = meaning
        assert None not in meanings, context
        blocks[context] = meanings
    return blocks

def split(data, size):
    data = data + bytes(size - len(data))
    return [data[at:at + BLOCK] for at in range(0, size, BLOCK)]

compared = 0
for way in json.load(sys.stdin):
    contents = [content(uri) for uri in way["uris"]]
    for newer, (uri, whens) in enumerate(zip(way["uris"], way["before"])):
        size = len(contents[newer])
        is_now = split(contents[newer], size)
        contexts = ["qemu:allocation-depth", "base:allocation"]
        contexts += ["qemu:dirty-bitmap:" + when for when in whens]
        contexts += ["landfall:changed-since:" + when for when in whens]
        handle = opened(uri, contexts + ["landfall:age"])
        age = status(handle, size, ["landfall:age"], 1 << 30)["landfall:age"]
        if way["trunk"]:
            # What can be written to grows older from question to question.
            contexts.append("landfall:age")
        told = status(handle, size, contexts, 1 << 30)
        assert told == status(handle, size, contexts, 3 << 20), "in steps"
        few = contexts[:3]
        one = status(handle, size, few, 1 << 30, nbd.CMD_FLAG_REQ_ONE)
        assert one == {context: told[context] for context in few}, "one at a time"
        handle.shutdown()
        dirty = [told["qemu:dirty-bitmap:" + when] for when in whens]
        for older, when in enumerate(whens):
            was = split(contents[older][:size], size)
            differs = [old != new for old, new in zip(was, is_now)]
            missed = [block for block, (d, t) in enumerate(zip(differs, dirty[older])) if d and t != 1]
            assert not missed, (uri, when, missed)
            assert told["landfall:changed-since:" + when] == dirty[older]
            assert set(dirty[older]) <= {0, 1}
            if newer == older:
                assert not any(dirty[older]), (uri, when)
            elif way["trunk"]:
                # A pass compares and sends 64 KiB at a time.
                units = {block // UNIT for block, differ in enumerate(differs) if differ}
                between = range(older, newer)
                for step in between:
                    steps = zip(split(contents[step][:size], size), split(contents[step + 1][:size], size))
                    units |= {block // UNIT for block, (old, new) in enumerate(steps) if old != new}
                more = [block for block, t in enumerate(dirty[older]) if t and block // UNIT not in units]
                assert not more, (uri, when, more)
            compared += 1
        depth = told["qemu:allocation-depth"]
        assert told.get("landfall:age", age) == age
        for block, data in enumerate(is_now):
            # The first copy lies in the image, all later passes in the journal, one deeper for each branch.
            in_journal = dirty[0][block] == 1
            assert (1 <= depth[block] < way["image"][newer]) == in_journal, (uri, block, depth[block])
            if not in_journal:
                assert depth[block] in (0, way["image"][newer]), (uri, block)
                hole = told["base:allocation"][block] == 3
                assert (depth[block] == 0) == hole, (uri, block)
            if depth[block] == 0:
                assert not any(data), (uri, block)
            # The first moment since which nothing was written: that is how old it is.
            since = next(older for older in range(len(whens)) if not dirty[older][block])
            if since == 0:
                assert age[block] == (1 << 32) - 1, (uri, block, age[block])
            elif way["trunk"]:
                seconds = (way["times"][newer] - way["times"][since]) // 1000000000
                assert age[block] == seconds, (uri, block, age[block], seconds)
            else:
                assert age[block] < 3600, (uri, block, age[block])
        if not way["trunk"] and newer == len(way["uris"]) - 1:
            own = [t == 1 for t in dirty[newer - 1]]
            assert [d < way["image"][newer] - 1 for d in map(lambda d: d or 99, depth)] == own, uri
            assert any(own)
print(compared)
"#;

/// Nanoseconds since 1970 of what `point list --json` prints.
fn nanoseconds(time: &Value) -> u64 {
    let time = time.as_str().expect("text");
    landfall_retention::time::Timestamp::parse(time).expect(time).nanoseconds()
}

#[test]
fn contexts_say_what_a_comparison_of_the_moments_finds() {
    let history = History::generated();
    let target = &history.web.target;
    let times: Vec<u64> = crate::machine::points(target, "web")
        .iter()
        .map(|point| nanoseconds(&point["time"]))
        .collect();
    let ways = history.ways.iter().enumerate().map(|(depth, (line, whens))| {
        let at = |when: &String| match when.as_str() {
            // What is written to a branch is served under its plain name; the moments before it are the trunk's.
            "latest" => target.uri(line),
            when => target.uri(&format!("web/os@{when}")),
        };
        let uris: Vec<String> = whens.iter().map(at).collect();
        let before: Vec<&[String]> = (1..=whens.len()).map(|count| &whens[..count]).collect();
        // Journal and image, and each line that was branched off on the way.
        let image: Vec<usize> =
            whens.iter().map(|when| if when == "latest" { 2 + depth } else { 2 }).collect();
        serde_json::json!({
            "uris": uris, "before": before, "image": image, "times": times, "trunk": depth == 0,
        })
    });
    let ways = Value::Array(ways.collect());
    let input = target.folder().join("ways.json");
    std::fs::write(&input, ways.to_string()).expect("written");
    let script = format!("import sys\nsys.stdin = open({:?})\n{COMPARE}", text(&input));
    for python in ["/usr/bin/python3".to_owned(), newer("python3")] {
        let said = run(&python, &["-c", &script]);
        assert!(said.trim().parse::<usize>().expect("a number") >= 20, "{said}");
    }
    assert_eq!(target.metrics().sum("landfall_nbd_connections_broken_total"), 0.0);
}

/// The script of this project, run by both generations of libnbd.
#[test]
fn a_copy_is_brought_on_by_what_changed() {
    let web = Web::with_points(4);
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/incremental-backup");
    for python in ["/usr/bin/python3".to_owned(), newer("python3")] {
        let copy = web.target.folder().join("copy.raw");
        run("nbdcopy", &[&web.target.uri(&web.by_time(0)), text(&copy)]);
        let bring = |to: usize, since: &str| {
            let uri = web.target.uri(&web.by_time(to));
            attempt(&python, &[text(&script), &uri, text(&copy), "--since", since, "--verify"])
        };
        let whens = [
            format!("seq:{}", web.kept[0].sequence),
            web.kept[1].time.clone(),
            format!("seq:{}", web.kept[2].sequence),
        ];
        for (number, since) in whens.iter().enumerate() {
            let said = bring(number + 1, since).ok();
            let kept = &web.kept[number + 1];
            assert!(said.contains("verified"), "{said}");
            assert!(said.contains(&format!("holds web/os@seq:{}", kept.sequence)), "{said}");
            assert!(std::fs::read(&copy).unwrap() == std::fs::read(&kept.copy).unwrap());
            let copied: u64 = said.split(' ').next().and_then(|n| n.parse().ok()).expect("bytes");
            assert!(copied > 0 && copied < SIZE / 2, "{said}");
        }
        // Neither moments that are not there nor later ones.
        for since in ["seq:999999", "tag:none", "nonsense"] {
            let refused = bring(1, since);
            assert_ne!(refused.code, Some(0), "{since}");
            assert!(refused.err.contains("does not offer qemu:dirty-bitmap:"), "{}", refused.err);
        }
        assert_ne!(bring(1, &whens[2]).code, Some(0), "a later moment");
        // A copy that is not what it should be is told by a comparison.
        let mut bent = std::fs::read(&copy).unwrap();
        bent[0] ^= 1;
        std::fs::write(&copy, bent).unwrap();
        let latest = format!("seq:{}", web.kept[3].sequence);
        let told = bring(3, &latest);
        assert!(told.code == Some(1) && told.err.contains("differs"), "{}{}", told.out, told.err);
        std::fs::remove_file(&copy).unwrap();
    }
    let said = web.target.log().text();
    assert!(said.contains("NBD context not offered") && said.contains("seq:999999"), "{said}");
}

/// QEMU alone: a map of what is dirty, an overlay that reads through to the moment, and its base put in the place of that.
#[test]
fn qemu_takes_an_incremental_backup_without_knowing_whose_bitmap_it_is() {
    let web = Web::with_points(3);
    let socket = web.target.socket();
    for [qemu_img, qemu_io] in [
        ["/usr/bin/qemu-img".to_owned(), "/usr/bin/qemu-io".to_owned()],
        [newer("qemu-img"), newer("qemu-io")],
    ] {
        let file = |name: &str| -> PathBuf { web.target.folder().join(name) };
        let (full, step) = (file("full.qcow2"), file("step.qcow2"));
        let uri =
            |point: usize| web.target.uri(&format!("web/os@seq:{}", web.kept[point].sequence));
        run(&qemu_img, &["convert", "-f", "raw", "-O", "qcow2", &uri(0), text(&full)]);
        let source = format!(
            "driver=nbd,server.type=unix,server.path={},export=web/os@seq:{},\
             x-dirty-bitmap=qemu:dirty-bitmap:seq:{}",
            text(&socket),
            web.kept[2].sequence,
            web.kept[0].sequence
        );
        let map = run(&qemu_img, &["map", "--output=json", "--image-opts", &source]);
        let map: Value = serde_json::from_str(&map).expect("JSON");
        run(&qemu_img, &["create", "-f", "qcow2", "-F", "raw", "-b", &uri(2), text(&step)]);
        // What a bitmap says is dirty shows as data that is not there: bit 0 is that of a hole elsewhere.
        let dirty = map.as_array().expect("a list").iter().filter(|part| part["data"] == false);
        let reads: Vec<String> =
            dirty.map(|part| format!("read {} {}", part["start"], part["length"])).collect();
        assert!(!reads.is_empty(), "{map}");
        for read in &reads {
            run(&qemu_io, &["-f", "qcow2", "-C", "-c", read, text(&step)]);
        }
        run(
            &qemu_img,
            &["rebase", "-u", "-f", "qcow2", "-F", "qcow2", "-b", text(&full), text(&step)],
        );
        let said = run(&qemu_img, &["compare", "-f", "qcow2", "-F", "raw", text(&step), &uri(2)]);
        assert!(said.contains("identical"), "{said}");
        let taken = std::fs::metadata(&step).expect("it is there").len();
        let all = std::fs::metadata(&full).expect("it is there").len();
        assert!(taken < all / 2, "{taken} of {all}: it holds more than what changed");
        std::fs::remove_file(&full).and_then(|()| std::fs::remove_file(&step)).expect("removed");
    }
}

/// A backup job takes a bitmap of its own. What is dirty becomes one by being written, as zeroes, to a disk that is not there.
#[test]
fn a_backup_job_of_qemu_pulls_what_changed() {
    let web = Web::with_points(3);
    let socket = web.target.socket();
    let [first, last] = [0, 2].map(|point: usize| web.kept[point].sequence);
    for program in ["/usr/bin/qemu-storage-daemon".to_owned(), newer("qemu-storage-daemon")] {
        let copy = web.target.folder().join("copy.raw");
        run("nbdcopy", &[&web.target.uri(&format!("web/os@seq:{first}")), text(&copy)]);
        let mut qemu = Qmp::storage_daemon_of(&program, web.target.folder());
        let mut moment = nbd_node("moment", &socket, &format!("web/os@seq:{last}"), 0);
        moment["read-only"] = json!(true);
        qemu.ok("blockdev-add", &moment);
        qemu.add_file("copy", &copy);
        let nowhere = json!({ "driver": "null-co", "node-name": "nowhere", "size": SIZE });
        qemu.ok("blockdev-add", &nowhere);
        for node in ["moment", "nowhere"] {
            qemu.ok("block-dirty-bitmap-add", &json!({ "node": node, "name": "changed" }));
        }
        let uri = qemu.serve("nowhere", web.target.folder());
        let context = format!(
            "driver=nbd,server.type=unix,server.path={},export=web/os@seq:{last},\
             x-dirty-bitmap=qemu:dirty-bitmap:seq:{first}",
            text(&socket),
        );
        let map = run("qemu-img", &["map", "--output=json", "--image-opts", &context]);
        let map: Value = serde_json::from_str(&map).expect("JSON");
        let dirty = map.as_array().expect("a list").iter().filter(|part| part["data"] == false);
        let writes: Vec<String> =
            dirty.map(|part| format!("write -z {} {}", part["start"], part["length"])).collect();
        let mut arguments = vec!["-f", "raw"];
        arguments.extend(writes.iter().flat_map(|write| ["-c", write]));
        run("qemu-io", &[&arguments[..], &[&uri]].concat());
        let from = json!([{ "node": "nowhere", "name": "changed" }]);
        let merge = json!({ "node": "moment", "target": "changed", "bitmaps": from });
        qemu.ok("block-dirty-bitmap-merge", &merge);
        let job = json!({
            "job-id": "pull", "device": "moment", "target": "copy", "auto-dismiss": false,
            "sync": "bitmap", "bitmap": "changed", "bitmap-mode": "on-success",
        });
        qemu.ok("blockdev-backup", &job);
        let done = qemu.event("BLOCK_JOB_COMPLETED");
        assert_eq!(qemu.conclude("pull"), None);
        let moved = done["len"].as_u64().expect("a number");
        assert!(moved > 0 && moved < SIZE / 2, "{moved} bytes were moved");
        drop(qemu);
        same(&web.kept[2].copy, text(&copy));
        std::fs::remove_file(&copy).expect("removed");
    }
}

#[test]
fn lists_name_contexts_of_the_newest_points() {
    let web = Web::with_points(3);
    let newest = web.target.uri(&format!("web/os@seq:{}", web.kept[2].sequence));
    for nbdinfo in ["/usr/bin/nbdinfo".to_owned(), newer("nbdinfo")] {
        let told: Value = serde_json::from_str(&run(&nbdinfo, &["--json", &newest])).expect("JSON");
        let told = told["exports"][0]["contexts"].as_array().expect("a list").clone();
        let mut expected = ["base:allocation", "qemu:allocation-depth"].map(str::to_owned).to_vec();
        let since = |kind: &str| {
            [1, 0].map(|point: usize| format!("{kind}:seq:{}", web.kept[point].sequence))
        };
        expected.extend(since("qemu:dirty-bitmap"));
        for namespace in ["landfall", "x-landfall"] {
            expected.push(format!("{namespace}:age"));
            expected.extend(since(&format!("{namespace}:changed-since")));
        }
        assert_eq!(told, expected);
        // By any name it has, and not by one that is not there.
        for (map, lines) in [
            (format!("qemu:dirty-bitmap:{}", web.kept[0].time), true),
            (format!("landfall:changed-since:seq:{}", web.kept[1].sequence), true),
            ("qemu:allocation-depth".to_owned(), true),
            ("landfall:age".to_owned(), true),
            ("x-landfall:age".to_owned(), true),
            (format!("x-landfall:changed-since:seq:{}", web.kept[1].sequence), true),
            ("qemu:dirty-bitmap:seq:999".to_owned(), false),
            ("landfall:changed-since:".to_owned(), false),
        ] {
            let said = attempt(&nbdinfo, &[&format!("--map={map}"), &newest]);
            assert_eq!(said.code == Some(0), lines, "{map}: {}{}", said.out, said.err);
        }
    }
}
