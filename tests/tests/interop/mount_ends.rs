//! `landfall mount`: how it ends, what it does when something is damaged or gone, and where it does not begin. Needs `/dev/fuse` and
//! the rights of root.

use crate::machine::{Web, text};
use landfall_tests::harness::{MIB, Mounted, Target, Unmounter, is_mounted, run};
use rustix::fs::OFlags;
use rustix::process::{Pid, Signal, kill_process};
use std::fs::File;
use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::process::Stdio;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(30);

/// Waits until nobody has an export open.
#[track_caller]
fn wait_until_released(target: &Target) {
    let begun = Instant::now();
    while target.metrics().sum("landfall_nbd_connections") > 0.0 {
        assert!(begun.elapsed() < PATIENCE, "the moment is still held");
        thread::sleep(Duration::from_millis(10));
    }
}

/// A file that is read past the page cache, and memory to read it into.
fn direct(path: &str) -> File {
    let flags = i32::try_from(OFlags::DIRECT.bits()).expect("low bits");
    File::options().read(true).custom_flags(flags).open(path).expect("opened")
}

#[test]
fn a_signal_ends_it_and_lets_the_moment_go() {
    for signal in [Signal::TERM, Signal::INT] {
        let web = Web::with_points(1);
        let mounted = Mounted::start(&web.target, "web", &web.target.folder().join("at"), &[]);
        assert_eq!(std::fs::read(mounted.file("os.raw")).expect("read"), web.source.content());
        assert!(web.target.metrics().sum("landfall_nbd_connections") > 0.0, "nothing holds it");
        mounted.signal(signal);
        mounted.ends_well();
        wait_until_released(&web.target);
    }
}

/// A process that a signal ends on the spot leaves a mount that nobody answers.
#[test]
fn a_signal_may_come_as_soon_as_it_is_mounted() {
    let web = Web::with_points(1);
    for number in 0..5 {
        let at = web.target.folder().join(format!("at-{number}"));
        std::fs::create_dir(&at).expect("made");
        let _unmounter = Unmounter::of(&at);
        let mut command = web.target.command(&["mount", "web", text(&at)]);
        let mut child = command.stdout(Stdio::null()).spawn().expect("it starts");
        let begun = Instant::now();
        while !is_mounted(&at) {
            assert!(begun.elapsed() < PATIENCE, "it is never mounted");
        }
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).expect("a process id");
        kill_process(pid, Signal::TERM).expect("it runs");
        let ended = child.wait().expect("ours");
        assert!(ended.success(), "{ended}");
        assert!(!is_mounted(&at), "it is still mounted");
    }
}

#[test]
fn what_is_open_when_it_ends_is_read_to_its_end() {
    let web = Web::with_points(1);
    let at = web.target.folder().join("at");
    let mut mounted = Mounted::start(&web.target, "web", &at, &[]);
    let mut file = File::open(mounted.file("os.raw")).expect("opened");
    mounted.signal(Signal::TERM);
    let begun = Instant::now();
    while is_mounted(&at) {
        assert!(begun.elapsed() < PATIENCE, "it stays mounted");
        thread::sleep(Duration::from_millis(5));
    }
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).expect("read");
    assert!(bytes == web.source.content(), "it is read to its end");
    assert!(mounted.is_running(), "somebody reads");
    drop(file);
    let said = mounted.ends_well();
    assert!(said.contains("is in use"), "{said}");
    wait_until_released(&web.target);
    // A second signal ends it for whoever does not let go.
    std::fs::remove_dir(&at).expect("an empty folder again");
    let mounted = Mounted::start(&web.target, "web", &at, &[]);
    let mut file = File::open(mounted.file("os.raw")).expect("opened");
    mounted.signal(Signal::TERM);
    let begun = Instant::now();
    while is_mounted(&at) {
        assert!(begun.elapsed() < PATIENCE, "it stays mounted");
        thread::sleep(Duration::from_millis(5));
    }
    mounted.signal(Signal::TERM);
    mounted.ends_well();
    file.seek(SeekFrom::Start(20 * MIB)).expect("a position is the reader's own");
    assert!(file.read(&mut [0; 512]).is_err(), "nobody is there to answer");
}

#[test]
fn reads_fail_when_the_target_goes_and_it_ends_well_all_the_same() {
    let mut web = Web::with_points(1);
    let at = web.target.folder().join("at");
    let mounted = Mounted::start(&web.target, "web", &at, &[]);
    let reads = AtomicU32::new(0);
    let raw = mounted.file("os.raw");
    thread::scope(|scope| {
        let readers: Vec<_> = (0..3_u64)
            .map(|reader| {
                let (raw, reads) = (&raw, &reads);
                scope.spawn(move || {
                    let file = direct(raw);
                    let mut buffer = landfall_disks::Buffer::zeroed(64 << 10);
                    let begun = Instant::now();
                    for step in reader.. {
                        assert!(begun.elapsed() < 2 * PATIENCE, "it can be read for ever");
                        match file.read_at(&mut buffer, step * (64 << 10) % (16 * MIB)) {
                            Ok(length) => assert_eq!(length, 64 << 10),
                            Err(error) => return error,
                        }
                        reads.fetch_add(1, Ordering::Relaxed);
                    }
                    unreachable!("it reads for ever");
                })
            })
            .collect();
        let begun = Instant::now();
        while reads.load(Ordering::Relaxed) < 50 {
            assert!(begun.elapsed() < PATIENCE, "nothing is read");
            thread::sleep(Duration::from_millis(1));
        }
        web.target.kill();
        for reader in readers {
            let error = reader.join().expect("it does not panic");
            assert_eq!(error.raw_os_error(), Some(5), "EIO: {error}");
        }
    });
    assert_eq!(std::fs::metadata(&raw).expect("names are still there").len(), web.source.size());
    // The target is there again; what was mounted is not opened anew.
    web.target.start_again();
    let mut block = landfall_disks::Buffer::zeroed(4096);
    assert!(direct(&raw).read_at(&mut block, 0).is_err(), "it is read again");
    run("umount", &[text(&at)]);
    let said = mounted.ends_well();
    assert!(said.contains("reads fail from now on"), "{said}");
}

#[test]
fn a_damaged_block_cannot_be_read_and_all_others_can() {
    let web = Web::with_points(1);
    web.target.log().expect("damage");
    let image = web.target.data().join("images/web/os.raw");
    let bad = 3 * MIB + 8192;
    File::options().write(true).open(image).unwrap().write_all_at(&[1, 2, 3], bad + 50).unwrap();
    let at = web.target.folder().join("at");
    let mounted = Mounted::start(&web.target, "web", &at, &[]);
    let file = File::open(mounted.file("os.raw")).expect("opened");
    let mut block = [0; 4096];
    let mut failed = Vec::new();
    for offset in (0..web.source.size()).step_by(4096) {
        match file.read_exact_at(&mut block, offset) {
            Ok(()) => {
                let from = usize::try_from(offset).unwrap();
                assert!(block == web.source.content()[from..from + 4096], "block at {offset}");
            }
            Err(error) => {
                assert_eq!(error.raw_os_error(), Some(5), "EIO: {error}");
                assert_ne!(error.kind(), ErrorKind::UnexpectedEof);
                failed.push(offset);
            }
        }
    }
    assert_eq!(failed, [bad]);
    drop(file);
    mounted.signal(Signal::TERM);
    let said = mounted.ends_well();
    assert!(said.contains("cannot be read") && said.contains("os.raw"), "{said}");
}

/// How many processes have `word` among the words they were started with.
fn processes_with(word: &str) -> usize {
    let folders = std::fs::read_dir("/proc").expect("it is there");
    let commands = folders.filter_map(|one| std::fs::read(one.ok()?.path().join("cmdline")).ok());
    commands.filter(|command| command.split(|b| *b == 0).any(|one| one == word.as_bytes())).count()
}

#[test]
fn in_the_background_it_is_mounted_when_the_command_returns() {
    let web = Web::with_points(1);
    let at = web.target.folder().join("at");
    std::fs::create_dir(&at).expect("made");
    let _unmounter = Unmounter::of(&at);
    let said = web.target.landfall(&["mount", "web", text(&at), "--daemon"]).ok();
    assert!(said.contains("is mounted on") && said.contains("os.raw"), "{said}");
    assert!(is_mounted(&at));
    assert_eq!(processes_with(text(&at)), 1, "one that answers");
    assert!(std::fs::read(at.join("os.raw")).expect("read") == web.source.content());
    run("umount", &[text(&at)]);
    let begun = Instant::now();
    while processes_with(text(&at)) > 0 {
        assert!(begun.elapsed() < PATIENCE, "it stays");
        thread::sleep(Duration::from_millis(5));
    }
    wait_until_released(&web.target);
    // What goes wrong before that is said once, and is the command's end.
    let lost = web.target.landfall(&["mount", "nobody", text(&at), "--daemon"]);
    lost.refused(&["nobody"]);
    assert!(!is_mounted(&at));
}

#[test]
fn it_does_not_begin_where_something_would_be_hidden_or_nothing_is_named() {
    let web = Web::with_points(1);
    let folder = |name: &str| web.target.folder().join(name);
    let mount = |name: &str, at: &Path, more: &[&str]| {
        web.target.landfall(&[&["mount", name, text(at)], more].concat())
    };
    std::fs::create_dir(folder("full")).expect("made");
    std::fs::write(folder("full").join("x"), "x").expect("written");
    std::fs::create_dir(folder("empty")).expect("made");
    mount("web", &folder("full"), &[]).refused(&["is not empty", "hidden"]);
    mount("web", &folder("none"), &[]).refused(&["does not exist", "make an empty folder"]);
    mount("web", &folder("full").join("x"), &[]).refused(&["is no folder"]);
    mount("web@seq:77", &folder("empty"), &[]).refused(&["77"]);
    mount("web/data", &folder("empty"), &[]).refused(&["data"]);
    // Whoever is below stays: the folder was the root of another file system.
    let at = folder("empty");
    let _unmounter = Unmounter::of(&at);
    run("mount", &["-t", "tmpfs", "none", text(&at)]);
    web.target.landfall(&["mount", "web", text(&at), "--daemon"]).ok();
    run("umount", &[text(&at)]);
    wait_until_released(&web.target);
    assert!(is_mounted(&at), "what was below is gone, too");
}
