//! Every retained point, opened by its time, equals the copy of the source kept at that moment.

use crate::machine::{Web, points, same, text};
use landfall_tests::harness::{MIB, Source, Target, attempt, legacy};
use rustix::process::{Pid, Signal};
use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

#[test]
fn every_point_opened_by_time_equals_the_copy_kept_then() {
    let mut web = Web::with_points(3);
    // What sources like to do: wipe a part, fill a hole, write the very end, write nothing at all.
    web.source.punch(MIB + 17, 2 * MIB);
    web.point();
    web.source.write_noise(8 * MIB, 3 * MIB);
    let end = web.source.size() - 1;
    web.source.write(end, &[0xee]);
    web.point();
    web.point();
    let check = |web: &Web, first: usize| {
        for (index, kept) in web.kept.iter().enumerate().skip(first) {
            let name = web.by_time(index);
            let uri =
                if index % 2 == 0 { web.target.uri(&name) } else { web.target.tcp_uri(&name) };
            same(&kept.copy, &uri);
        }
    };
    check(&web, 0);
    // The comparison can tell.
    let (old, new) = (&web.kept[0].copy, web.target.uri(&web.by_time(3)));
    let differ = attempt("qemu-img", &["compare", "-f", "raw", "-F", "raw", text(old), &new]);
    assert_eq!(differ.code, Some(1), "{differ:?}");
    // The same after a stop in good order, after a kill, and with more history.
    web.target.stop();
    web.target.start_again();
    check(&web, 0);
    web.source.change(20);
    web.point();
    web.target.kill();
    web.target.start_again();
    check(&web, 0);
    assert_eq!(points(&web.target, "web").len(), 7);
}

#[test]
fn a_point_of_several_disks_is_one_moment() {
    let target = Target::start();
    let mut os = Source::create(target.folder(), "os.raw", 12 * MIB, 1);
    // Not a whole number of blocks, let alone of the blocks of the hash exchange.
    let mut data = Source::create(target.folder(), "data.raw", 5 * MIB + 512, 2);
    let sizes = [format!("name=os,size={}", os.size()), format!("name=data,size={}", data.size())];
    target.landfall(&["machine", "add", "db", "--disk", &sizes[0], "--disk", &sizes[1]]).ok();
    let mut kept = Vec::new();
    for round in 0..3 {
        if round > 0 {
            os.change(8);
            data.change(8);
        }
        let (first, second) = (os.as_disk("os"), data.as_disk("data"));
        // The order of the disks on the command line is the source's own affair.
        let disks = if round == 1 { [&second, &first] } else { [&first, &second] };
        let pass = ["replicate", "db", "--disk", disks[0], "--disk", disks[1], "--once"];
        target.landfall(&pass).ok();
        let copies = ["os", "data"].map(|d| target.folder().join(format!("{d}-{round}.raw")));
        os.keep(&copies[0]);
        data.keep(&copies[1]);
        kept.push(copies);
    }
    let points = points(&target, "db");
    assert_eq!(points.len(), 3);
    for (point, copies) in points.iter().zip(&kept) {
        let time = point["time"].as_str().expect("a time");
        same(&copies[0], &target.uri(&format!("db/os@{time}")));
        same(&copies[1], &target.uri(&format!("db/data@{time}")));
        assert_eq!(point["uris"].as_array().map(Vec::len), Some(4), "{point}");
    }
    let unclear = attempt("qemu-img", &["info", &target.uri("db@latest")]);
    assert!(unclear.err.contains("MACHINE/DISK: os, data"), "{}", unclear.err);
}

#[test]
fn an_adopted_disk_is_brought_up_to_date_by_what_differs() {
    let target = Target::start();
    let mut source = Source::create(target.folder(), "web.raw", 32 * MIB, 3);
    let image = target.folder().join("adopted.raw");
    source.keep(&image);
    source.write_noise(5 * MIB, 4096);
    source.write_noise(30 * MIB, 70_000);
    let disk = format!("name=os,path={}", image.display());
    target.landfall(&["machine", "add", "web", "--disk", &disk]).ok();
    target.landfall(&["replicate", "web", "--disk", &source.as_disk("os"), "--once"]).ok();
    same(source.path(), &target.uri("web/os"));
    let moved = target.metrics().get("landfall_delta_wire_bytes_total");
    assert!(moved > 70_000.0 && moved < 400_000.0, "{moved} bytes moved");
}

#[test]
fn a_source_that_changes_meanwhile_makes_a_fuzzy_point_that_latest_never_means() {
    let mut web = Web::with_points(1);
    let done = AtomicBool::new(false);
    let said = std::thread::scope(|scope| {
        scope.spawn(|| {
            let file = std::fs::OpenOptions::new().write(true).open(web.source.path());
            let file = file.expect("opened");
            while !done.load(Ordering::Relaxed) {
                std::os::unix::fs::FileExt::write_all_at(&file, b"x", 9000).expect("written");
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        let disk = web.source.as_disk("os");
        let said = web.target.landfall(&["replicate", "web", "--disk", &disk, "--once"]);
        done.store(true, Ordering::Relaxed);
        said
    });
    assert!(said.err.contains("changed while it was read: the point is fuzzy"), "{}", said.err);
    assert!(said.ok().contains("web: fuzzy point "));
    let points = points(&web.target, "web");
    let kinds: Vec<&str> = points.iter().map(|point| point["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["crash", "fuzzy"]);
    same(&web.kept[0].copy, &web.target.uri("web/os@latest"));
    // Asked for by name it can be opened, marked as what it is.
    web.source.write(9000, b"x");
    let fuzzy = format!("web/os@seq:{}", points[1]["sequence"]);
    same(web.source.path(), &web.target.uri(&fuzzy));
}

#[test]
fn replication_goes_on_by_itself_until_it_is_interrupted() {
    let mut web = Web::empty();
    let disk = web.source.as_disk("os");
    let mut command = web.target.command(&["replicate", "web", "--disk", &disk, "--every", "1s"]);
    let mut every = command.stdout(Stdio::piped()).spawn().expect("the binary starts");
    let mut lines = BufReader::new(every.stdout.take().expect("piped")).lines();
    let mut kept = Vec::new();
    for round in 0..3 {
        let line = lines.next().expect("a line per point").expect("text");
        assert!(line.starts_with("web: crash point "), "{line}");
        kept.push((
            line.split(' ').nth(3).expect("a time").to_owned(),
            web.source.content().to_vec(),
        ));
        if round < 2 {
            // Between two passes: the next one begins a second after this one began.
            web.source.change(3);
        }
    }
    let pid = i32::try_from(every.id()).ok().and_then(Pid::from_raw).expect("a process id");
    let asked = Instant::now();
    rustix::process::kill_process(pid, Signal::INT).expect("signalled");
    assert_eq!(every.wait().expect("ended").code(), Some(0));
    assert!(asked.elapsed() < Duration::from_secs(5), "it took {:?}", asked.elapsed());
    for (time, content) in kept {
        let read = legacy::read_all(&web.target.socket(), &format!("web/os@{time}")).expect("read");
        assert!(read == content, "the point of {time} differs");
    }
    assert_eq!(
        web.target.json(&["status", "--json"])["machines"][0]["stream"],
        serde_json::Value::Null
    );
}
