//! Stock tools, one after the other.

use crate::machine::{Kept, SIZE, Web, same, text};
use landfall_tests::harness::{MIB, Unmounter, is_mounted, legacy, newer, run};
use serde_json::Value;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error} in\n{text}"))
}

#[test]
fn nbdinfo_tells_what_a_point_is() {
    let web = Web::with_points(2);
    let uri = web.target.uri(&web.by_time(0));
    assert_eq!(run("nbdinfo", &["--size", &uri]).trim(), SIZE.to_string());

    let told = json(&run("nbdinfo", &["--json", &uri]));
    assert_eq!(told["structured"], true, "{told}");
    let export = &told["exports"][0];
    // The absolute name, whatever the point was asked for by.
    let absolute = format!("web/os@seq:{}", web.kept[0].sequence);
    assert_eq!(export["export-name"], absolute.as_str());
    assert_eq!(export["export-size"], SIZE);
    assert_eq!(export["is_read_only"], true);
    assert_eq!(export["can_multi_conn"], true);
    assert_eq!(export["contexts"][0], "base:allocation");
    let description = export["description"].as_str().expect("a description");
    let Kept { time, sequence, .. } = &web.kept[0];
    assert_eq!(description, format!("crash point of {time}, sequence {sequence}"));

    // A name that will mean something else tomorrow must not be opened over several connections.
    let told = json(&run("nbdinfo", &["--json", &web.target.uri("web/os@latest")]));
    assert_eq!(told["exports"][0]["can_multi_conn"], false, "{told}");

    let map = run("nbdinfo", &["--map", "--totals", &uri]);
    assert!(map.contains("data") && map.contains("hole,zero"), "{map}");
}

#[test]
fn lists_name_every_point() {
    let web = Web::with_points(3);
    web.target
        .landfall(&["point", "mark", "web", "--label", "before update", "--kind", "app"])
        .ok();
    web.target.landfall(&["export", "add", "web@latest", "--writable", "--branch", "try"]).ok();
    let list = run("nbdinfo", &["--list", &web.target.uri("")]);
    let socket = web.target.socket();
    let qemu = run("qemu-nbd", &["--list", "-k", text(&socket)]);
    let mut names: Vec<String> =
        web.kept.iter().map(|kept| format!("web/os@seq:{}", kept.sequence)).collect();
    names.push("web~try/os".to_owned());
    for name in &names {
        assert!(list.contains(&format!("export=\"{name}\"")), "{name} is not in\n{list}");
        assert!(qemu.contains(&format!("export: '{name}'")), "{name} is not in\n{qemu}");
    }
    for time in web.kept.iter().map(|kept| &kept.time) {
        assert!(qemu.contains(&format!("crash point of {time}")), "{time} is not in\n{qemu}");
    }
    assert!(qemu.contains(", labelled \"before update\""), "{qemu}");
    // What a list says of a name is what is said when it is opened.
    let listed = json(&run("nbdinfo", &["--list", "--json", &web.target.uri("")]));
    let listed = listed["exports"].as_array().expect("a list").clone();
    assert!(listed.len() >= 6, "{listed:?}");
    let lines: Vec<&str> = qemu.lines().map(str::trim).collect();
    for export in &listed {
        let name = export["export-name"].as_str().expect("a name");
        let told = json(&run("nbdinfo", &["--json", &web.target.uri(name)]));
        let description = told["exports"][0]["description"].as_str().expect("a description");
        let at = lines.iter().position(|line| *line == format!("export: '{name}'"));
        let at = at.unwrap_or_else(|| panic!("{name} is not in\n{qemu}"));
        assert_eq!(lines[at + 1], format!("description: {description}"), "{name}");
    }
    assert!(qemu.contains("base:allocation"), "{qemu}");
    assert!(qemu.contains(&format!("size:  {SIZE}")), "{qemu}");
}

#[test]
fn nbdcopy_and_qemu_img_take_copies() {
    let web = Web::with_points(3);
    for (index, kept) in web.kept.iter().enumerate() {
        let copy = web.target.folder().join(format!("nbdcopy-{index}.raw"));
        run("nbdcopy", &[&web.target.uri(&web.by_time(index)), text(&copy)]);
        assert!(std::fs::read(&copy).unwrap() == std::fs::read(&kept.copy).unwrap(), "{index}");

        let copy = web.target.folder().join(format!("convert-{index}.qcow2"));
        let uri = web.target.tcp_uri(&web.by_time(index));
        run("qemu-img", &["convert", "-f", "raw", "-O", "qcow2", &uri, text(&copy)]);
        let (kept, copy) = (text(&kept.copy), text(&copy));
        let said = run("qemu-img", &["compare", "-f", "raw", "-F", "qcow2", kept, copy]);
        assert!(said.contains("identical"), "{said}");
    }
}

#[test]
fn fio_verifies_a_writable_branch() {
    let web = Web::with_points(1);
    let export = web.target.json(&[
        "export",
        "add",
        "web@latest",
        "--writable",
        "--branch",
        "fio",
        "--json",
    ]);
    for uri in export["uris"].as_array().expect("a list") {
        let uri = format!("--uri={}", uri.as_str().expect("text"));
        let state = format!("--aux-path={}", text(web.target.folder()));
        for mix in [
            ["--name=random", "--rw=randwrite", "--bs=4k", "--iodepth=32"],
            ["--name=mixed", "--rw=randrw", "--bssplit=512/30:8k/40:64k/20:1m/10", "--iodepth=8"],
        ] {
            let mut arguments = mix.to_vec();
            arguments.extend(["--ioengine=nbd", &uri, &state, "--size=16m", "--fsync=100"]);
            let verify = ["--verify=crc32c", "--verify_fatal=1", "--do_verify=1", "--randseed=7"];
            arguments.extend(verify);
            let said = run("fio", &arguments);
            assert!(said.contains("err= 0"), "{said}");
        }
    }
    // All that went to the branch and nowhere else.
    same(&web.kept[0].copy, &web.target.uri("web/os"));
    assert_eq!(web.target.metrics().sum("landfall_nbd_connections_broken_total"), 0.0);
}

#[test]
fn a_legacy_client_without_options_reads_points_and_writes_a_branch() {
    let web = Web::with_points(2);
    let socket = web.target.socket();
    let mut point = legacy::Legacy::open(&socket, &web.by_time(0)).expect("opened");
    assert_eq!((point.size, point.readonly), (SIZE, true));
    let copy = std::fs::read(&web.kept[0].copy).expect("the copy");
    assert!(point.read(0, copy.len()).expect("read") == copy, "the point differs");
    assert!(point.write(0, &[1; 512]).is_err(), "a point was written");

    web.target.landfall(&["export", "add", "web@latest", "--writable", "--branch", "old"]).ok();
    let mut branch = legacy::Legacy::open(&socket, "web~old/os").expect("opened");
    assert!(!branch.readonly);
    branch.write(MIB - 100, &[0xab; 1000]).expect("written");
    drop(branch);
    let mut expected = web.source.content().to_vec();
    let at = usize::try_from(MIB).unwrap() - 100;
    expected[at..at + 1000].fill(0xab);
    assert!(legacy::read_all(&socket, "web~old/os").expect("read") == expected);
}

/// Needs `/dev/fuse` and the rights of root.
#[test]
fn nbdfuse_shows_a_point_as_a_file() {
    let web = Web::with_points(2);
    let expected = std::fs::read(&web.kept[0].copy).expect("the copy");
    for (number, nbdfuse) in [(1, "/usr/bin/nbdfuse".to_owned()), (2, newer("nbdfuse"))] {
        let at = web.target.folder().join(format!("nbdfuse-{number}"));
        std::fs::create_dir(&at).expect("made");
        // Ends the process, too, if the test ends before.
        let _unmounter = Unmounter::of(&at);
        let (file, uri) = (at.join("os.raw"), web.target.uri(&web.by_time(0)));
        let mut command = Command::new(&nbdfuse);
        command.args(["-r", text(&file), &uri]).stdin(Stdio::null());
        let mut child = command.spawn().expect("it starts");
        let begun = Instant::now();
        while !is_mounted(&at) {
            assert_eq!(child.try_wait().expect("asked"), None, "{nbdfuse} has ended");
            assert!(begun.elapsed() < Duration::from_secs(30), "{nbdfuse} does not mount");
            sleep(Duration::from_millis(5));
        }
        assert!(std::fs::read(&file).expect("read") == expected, "{nbdfuse} reads something else");
        run("umount", &[text(&at)]);
        assert!(child.wait().expect("it ends").success(), "{nbdfuse}");
    }
}
