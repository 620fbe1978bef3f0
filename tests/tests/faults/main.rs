//! What goes wrong around a target: a full disk, flipped bytes, strangers at the door; and what must stay small.

mod late;
mod removed;
mod stalled;

use landfall_tests::harness::{MIB, Mount, Settings, Source, Target, attempt, run};
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

fn text(path: &Path) -> &str {
    path.to_str().expect("a path of ours")
}

/// A machine `web` with one disk, and its source.
fn machine(target: &Target, size: u64) -> Source {
    let source = Source::create(target.folder(), "web.raw", size, 7);
    let disk = format!("name=os,size={size}");
    target.landfall(&["machine", "add", "web", "--disk", &disk]).ok();
    source
}

fn replicate(target: &Target, source: &Source) -> String {
    target.landfall(&["replicate", "web", "--disk", &source.as_disk("os"), "--once"]).ok()
}

/// Times of the points there are.
fn points(target: &Target) -> Vec<String> {
    let list = target.json(&["point", "list", "web", "--json"]);
    let list = list.as_array().or_else(|| list["points"].as_array()).expect("a list").clone();
    list.iter().map(|point| point["time"].as_str().expect("a time").to_owned()).collect()
}

#[test]
fn a_full_journal_refuses_streams_keeps_points_and_goes_on_when_there_is_space() {
    let folder = tempfile::tempdir().expect("a folder");
    let small = Mount::ext4(folder.path(), 96 * MIB);
    let settings = Settings {
        segment: "4MiB",
        reserve: "4MiB",
        journal: Some(small.at().join("journal")),
        ..Settings::default()
    };
    let mut target = Target::with(&settings);
    let mut source = machine(&target, 16 * MIB);
    replicate(&target, &source);
    let copy = target.folder().join("copy.raw");
    source.keep(&copy);
    source.write_noise(0, MIB);
    replicate(&target, &source);

    let filler = small.at().join("filler");
    let free = run("df", &["--output=avail", "-B1", text(small.at())]);
    let free: u64 = free.lines().last().and_then(|n| n.trim().parse().ok()).expect("a number");
    run("fallocate", &["-l", &(free - 6 * MIB).to_string(), text(&filler)]);
    target.log().expect("journal");
    source.write_noise(0, 14 * MIB);
    let mut waiting = target
        .command(&["replicate", "web", "--disk", &source.as_disk("os"), "--once"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary starts");
    let begun = Instant::now();
    while target.metrics().sum("landfall_lane_refused_full_total") < 1.0 {
        assert!(begun.elapsed() < Duration::from_secs(30), "nothing was refused");
        assert!(waiting.try_wait().expect("asked").is_none(), "it waits for space");
        std::thread::sleep(Duration::from_millis(50));
    }
    let status = target.landfall(&["status"]).ok();
    assert!(status.contains("the journal is full"), "{status}");
    for time in points(&target).iter().take(1) {
        let uri = target.uri(&format!("web/os@{time}"));
        run("qemu-img", &["compare", "-f", "raw", "-F", "raw", text(&copy), &uri]);
    }

    std::fs::remove_file(&filler).expect("removed");
    let ended = waiting.wait_with_output().expect("it ends");
    let said = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert!(ended.status.success(), "{said}");
    assert!(said.contains("journal is full"), "the source says why it waits:\n{said}");
    source.keep(&copy);
    run("qemu-img", &["compare", "-f", "raw", "-F", "raw", text(&copy), &target.uri("web/os")]);
    assert_eq!(points(&target).len(), 3);
    target.stop();
    drop(target);
    drop(small);
}

#[test]
fn a_flipped_byte_in_the_journal_is_an_error_and_never_data() {
    let mut target = Target::start();
    let mut source = machine(&target, 8 * MIB);
    replicate(&target, &source);
    let noise = [0x5Au8; 4096];
    source.write(MIB, &noise);
    replicate(&target, &source);
    target.stop();
    let mut hit = 0;
    for lane in std::fs::read_dir(target.data().join("journal")).expect("lanes") {
        for segment in std::fs::read_dir(lane.expect("a lane").path()).into_iter().flatten() {
            let path = segment.expect("a segment").path();
            let bytes = std::fs::read(&path).expect("read");
            let body = bytes.chunks(4096).position(|block| *block == noise);
            if let Some(block) = body {
                let file = std::fs::OpenOptions::new().write(true).open(&path).expect("opened");
                file.write_all_at(&[0], block as u64 * 4096 + 100).expect("written");
                hit += 1;
            }
        }
    }
    assert_eq!(hit, 1, "the block lies in the journal once");
    target.log().expect("damage");
    target.start_again();
    let uri = target.uri("web/os");
    let read = attempt("nbdcopy", &["--", &uri, "null:"]);
    assert_ne!(read.code, Some(0), "the block was returned");
    let io = ["-r", "-f", "raw", "-c", "read 0 1M", &uri];
    assert!(!run("qemu-io", &io).contains("failed"), "blocks beside it are good");
    // The next pass finds the block unreadable and sends it again.
    replicate(&target, &source);
    let copy = target.folder().join("copy.raw");
    source.keep(&copy);
    run("qemu-img", &["compare", "-f", "raw", "-F", "raw", text(&copy), &target.uri("web/os")]);
}

#[test]
fn strangers_are_refused_counted_and_disturb_nobody() {
    let target = Target::start();
    let source = machine(&target, 8 * MIB);
    replicate(&target, &source);
    target.log().expect("was not admitted");
    let mut garbage = TcpStream::connect(target.delta()).expect("it listens");
    garbage.write_all(&[0x16; 600]).expect("sent");
    garbage.set_read_timeout(Some(Duration::from_secs(10))).expect("set");
    let mut answer = Vec::new();
    // Whatever it says, it ends the connection.
    let ended = garbage.read_to_end(&mut answer);
    assert!(ended.is_ok() || ended.is_err_and(|e| e.kind() != std::io::ErrorKind::WouldBlock));

    let other = Target::start();
    let stranger = other.data().join("pki/clients/local");
    assert!(stranger.join("client.pem").exists(), "{}", stranger.display());
    let (disk, to) = (source.as_disk("os"), target.delta().to_string());
    let pki = text(&stranger);
    let mut foreign =
        other.command(&["replicate", "web", "--disk", &disk, "--to", &to, "--pki", pki]);
    let said = foreign.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
    let said = wait_at_most(said, Duration::from_secs(20));
    assert!(said.is_none_or(|success| !success), "a foreign certificate was let in");
    replicate(&target, &source);
    assert_eq!(points(&target).len(), 2);
    let failures = target.metrics().sum("landfall_delta_tls_failures_total");
    assert!(failures >= 2.0, "{failures} failures are counted");
}

/// How a process ended; killed if it goes on for longer.
fn wait_at_most(mut child: std::process::Child, most: Duration) -> Option<bool> {
    let begun = Instant::now();
    while begun.elapsed() < most {
        if let Some(status) = child.try_wait().expect("asked") {
            return Some(status.success());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    child.kill().expect("killed");
    child.wait().expect("ended");
    None
}

/// Passes connections on and counts their bytes, both ways.
struct Relay {
    address: SocketAddr,
    moved: Arc<AtomicU64>,
}

impl Relay {
    fn to(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
        let address = listener.local_addr().expect("bound");
        let moved = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&moved);
        std::thread::spawn(move || {
            for near in listener.incoming().map_while(Result::ok) {
                let far = TcpStream::connect(target).expect("it listens");
                pass(&near, &far, &count);
                pass(&far, &near, &count);
            }
        });
        Self { address, moved }
    }
}

fn pass(from: &TcpStream, to: &TcpStream, count: &Arc<AtomicU64>) {
    let (mut from, mut to) = (from.try_clone().expect("cloned"), to.try_clone().expect("cloned"));
    let count = Arc::clone(count);
    std::thread::spawn(move || {
        let mut bytes = [0; 64 << 10];
        while let Ok(length @ 1..) = from.read(&mut bytes) {
            count.fetch_add(length as u64, Ordering::Relaxed);
            if to.write_all(&bytes[..length]).is_err() {
                break;
            }
        }
        // The other side may be gone already.
        let _ = to.shutdown(Shutdown::Write);
    });
}

#[test]
fn an_unchanged_image_of_512_mib_moves_at_most_one() {
    let target = Target::start();
    let mut source = machine(&target, 512 * MIB);
    source.write_noise(0, 512 * MIB);
    let relay = Relay::to(target.delta());
    let (disk, to) = (source.as_disk("os"), relay.address.to_string());
    let pass = || {
        let before = relay.moved.load(Ordering::Relaxed);
        target.landfall(&["replicate", "web", "--disk", &disk, "--to", &to, "--once"]).ok();
        relay.moved.load(Ordering::Relaxed) - before
    };
    let first = pass();
    assert!(first > 512 * MIB, "the first copy is counted: {first} bytes");
    let later = pass();
    println!("first copy {first} bytes, unchanged pass {later} bytes");
    assert!(later > 0 && later <= MIB, "{later} bytes moved for nothing");
}
