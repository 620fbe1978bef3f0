//! A guest that works while its disk is mirrored, and everything is killed at once: Linux appends to a checksummed log, QEMU
//! mirrors what it writes to a target in order, and both processes end between two instructions.
//!
//! ```text
//!   guest   entry, its checksum │ sync │ "entry N" ─▶ console                    ╳
//!   QEMU    mirror, write-blocking ─▶ in sync ─▶ mark: order begins              ╳  the next life mirrors again
//!   target  every write a moment                                                 ╳  started again: any of them opens
//! ```
//!
//! **Held:** the file system of every moment tried is sound after a replay of its journal, entries have no hole and no
//! wrong checksum, and the newest moment has every entry that the console ever told of.
//!
//! `LANDFALL_LIVE_LIVES` says how often they are killed, `LANDFALL_LIVE_SECONDS` after how long.

use crate::machine::text;
use landfall_disks::faults::Seed;
use landfall_tests::harness::{Qmp, Target, run};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// How often everything is killed, and after how many seconds of work, unless the environment says otherwise.
const LIVES: usize = 3;
const WORK_SECONDS: u64 = 20;
/// How long a guest may take to boot: it is emulated, on a machine with other things to do.
const BOOT_TIME: Duration = Duration::from_secs(180);
/// How long a start may take to build what its index lacks.
const INDEX_TIME: Duration = Duration::from_secs(60);
/// Moments that are tried after each life, beside the newest.
const TRIED: u64 = 4;

/// What the guest does, in the words of its shell, until it is killed.
const WORK: &str = r#"
life=1
while [ -e /data/log-$life ]; do life=$((life + 1)); done
echo "landfall-guest: life $life"
n=1
while true; do
    text="$n $(head -c 60 /dev/urandom | sha256sum | cut -c1-64)"
    echo "$text $(echo "$text" | sha256sum | cut -c1-64)" >>/data/log-$life
    [ $((n % 8)) != 0 ] || dd if=/dev/urandom of=/data/scratch bs=64k count=8 2>/dev/null
    sync
    echo "landfall-guest: entry $n"
    n=$((n + 1))
done
"#;

fn script(name: &str, arguments: &[&str]) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts").join(name);
    run(text(&path), arguments)
}

/// A guest, and the highest entry that it told of.
struct Guest {
    qemu: Qmp,
    told: Arc<AtomicU64>,
    console: JoinHandle<()>,
}

impl Guest {
    fn boot(folder: &Path, disk: &Path, life: usize) -> Self {
        let (monitor, serial) = (folder.join(format!("m{life}")), folder.join(format!("s{life}")));
        let listen = |path: &Path| format!("unix:{},server=on,wait=off", path.display());
        let node =
            format!("driver=raw,node-name=disk,file.driver=file,file.filename={}", disk.display());
        let mut command = Command::new("qemu-system-x86_64");
        command.args(["-accel", "tcg", "-m", "256", "-display", "none", "-nodefaults", "-S"]);
        command.args(["-no-reboot", "-blockdev", &node, "-device", "virtio-blk-pci,drive=disk"]);
        command.args(["-serial", &listen(&serial), "-qmp", &listen(&monitor)]);
        let mut qemu = Qmp::start(command, &monitor);
        let stream = UnixStream::connect(&serial).expect("it listens");
        let told = Arc::<AtomicU64>::default();
        let telling = Arc::clone(&told);
        let console = thread::spawn(move || {
            for line in BufReader::new(stream).lines().map_while(Result::ok) {
                if let Some((_, number)) = line.trim().rsplit_once("landfall-guest: entry ") {
                    telling.store(number.parse().expect("a number"), Ordering::SeqCst);
                }
            }
        });
        qemu.ok("cont", &json!({}));
        Self { qemu, told, console }
    }

    fn entries(&self) -> u64 {
        self.told.load(Ordering::SeqCst)
    }

    #[track_caller]
    fn wait_for_entries(&self, count: u64) {
        let begun = Instant::now();
        while self.entries() < count {
            assert!(begun.elapsed() < BOOT_TIME, "the guest told of {} entries", self.entries());
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Mirrors the disk, and begins order where the mirror is in sync and the guest stands still.
    fn mirror_in_order(&mut self, target: &Target) {
        self.qemu.mirror(&target.socket(), "web/os");
        self.qemu.ok("stop", &json!({}));
        let begun = Instant::now();
        while !self.is_in_sync() {
            assert!(begun.elapsed() < BOOT_TIME, "the mirror does not get in sync");
            thread::sleep(Duration::from_millis(10));
        }
        target.landfall(&["point", "mark", "web"]).ok();
        self.qemu.ok("cont", &json!({}));
    }

    fn is_in_sync(&mut self) -> bool {
        let jobs = self.qemu.ok("query-block-jobs", &json!({}));
        let job = jobs.as_array().and_then(|jobs| jobs.first()).expect("it runs").clone();
        job["ready"] == true && job["len"] == job["offset"]
    }

    /// Kills it, and gives the highest entry that it told of.
    fn kill(self) -> u64 {
        let Self { qemu, told, console } = self;
        kill(qemu.pid());
        drop(qemu);
        console.join().expect("the console does not panic");
        told.load(Ordering::SeqCst)
    }
}

fn kill(process: u32) {
    let process = i32::try_from(process).ok().and_then(Pid::from_raw).expect("a process id");
    kill_process(process, Signal::KILL).expect("it ran");
}

/// Entries of a log, all of which are right and follow each other; the last line may be torn.
#[track_caller]
fn entries(log: &str) -> u64 {
    let whole = log.rfind('\n').map_or("", |end| &log[..end]);
    let mut count = 0;
    for line in whole.lines() {
        let (said, checksum) = line.rsplit_once(' ').expect("three words");
        let expected = {
            use std::io::Write;
            let mut sum = Command::new("sha256sum")
                .stdin(std::process::Stdio::piped())
                .stdout(std::process::Stdio::piped())
                .spawn()
                .expect("it starts");
            writeln!(sum.stdin.take().expect("piped"), "{said}").expect("it reads");
            let output = sum.wait_with_output().expect("it ends");
            String::from_utf8_lossy(&output.stdout)[..64].to_owned()
        };
        assert_eq!(checksum, expected, "{said}");
        count += 1;
        assert!(said.starts_with(&format!("{count} ")), "{said} in the place of {count}");
    }
    count
}

/// The disk at a moment, copied out, found sound after a replay; the entries of a life that it has.
#[track_caller]
fn entries_at(target: &Target, moment: &str, life: usize) -> u64 {
    let copy = target.folder().join("moment.raw");
    run("qemu-img", &["convert", "-f", "raw", "-O", "raw", &target.uri(moment), text(&copy)]);
    assert_eq!(script("guest-files", &[text(&copy), "check"]), "data ok\n", "{moment}");
    let log = script("guest-files", &[text(&copy), "read", &format!("/data/log-{life}")]);
    std::fs::remove_file(&copy).expect("removed");
    entries(&log)
}

/// After a start whose index lacks much, the machine is there when the index is.
fn wait_for_index(target: &Target) {
    let begun = Instant::now();
    while !target.json(&["status", "--json"])["index"].is_null() {
        assert!(begun.elapsed() < INDEX_TIME, "the index is not built");
        thread::sleep(Duration::from_millis(20));
    }
}

fn last_instants(target: &Target) -> (u64, u64) {
    wait_for_index(target);
    let streams = target.json(&["stream", "list", "--json"]);
    let instants = streams["streams"][0]["instants"].as_array().expect("a list").clone();
    let last: &Value = instants.last().expect("order began");
    let number = |name: &str| last[name].as_u64().expect("a sequence");
    (number("from_sequence"), number("to_sequence"))
}

fn boot_disk(folder: &Path) -> PathBuf {
    let (disk, work) = (folder.join("disk.raw"), folder.join("work"));
    std::fs::write(&work, WORK).expect("written");
    script("boot-disk", &[text(&disk), "--work", text(&work), "--size-mib", "96"]);
    disk
}

#[test]
fn a_guest_and_its_target_that_are_killed_together_lose_no_entry() {
    let mut target = Target::start();
    target.log().expect("order has ended");
    let folder = tempfile::tempdir().expect("a folder with a short name");
    let disk = boot_disk(folder.path());
    let size = format!("name=os,size={}", std::fs::metadata(&disk).expect("made").len());
    target.landfall(&["machine", "add", "web", "--disk", &size, "--ingest", "nbd=ordered"]).ok();
    let number = |name| std::env::var(name).ok().map(|text| text.parse().expect("a number"));
    let lives = number("LANDFALL_LIVE_LIVES").map_or(LIVES, landfall_tests::harness::length);
    let work_time = Duration::from_secs(number("LANDFALL_LIVE_SECONDS").unwrap_or(WORK_SECONDS));
    assert!(lives > 0, "nobody lives");
    let mut seed = Seed::new(23);
    for life in 1..=lives {
        let mut guest = Guest::boot(folder.path(), &disk, life);
        guest.wait_for_entries(2);
        guest.mirror_in_order(&target);
        let before = guest.entries();
        thread::sleep(work_time + Duration::from_micros(seed.below(300_000)));
        target.kill();
        let told = guest.kill();
        assert!(told > before + 10, "{before} entries before it was mirrored, {told} at the end");
        target.start_again();

        let (from, to) = last_instants(&target);
        let newest = entries_at(&target, "web/os@latest", life);
        assert!(newest >= told, "life {life}: {told} entries were told, the newest has {newest}");
        let mut tried: Vec<u64> = (0..TRIED).map(|_| from + seed.below(to - from + 1)).collect();
        tried.sort_unstable();
        let mut most = 0;
        for sequence in tried {
            let found = entries_at(&target, &format!("web/os@seq:{sequence}"), life);
            assert!((most..=newest).contains(&found), "{found} entries at seq:{sequence}");
            most = found;
        }
        println!("life {life}: {told} entries told, {newest} there, {} moments", to - from + 1);
    }
}
