//! Copies of an image that fio writes to through our NBD server: at its flushes, and at any moment.
//!
//! ```text
//!   disk    │ kept: written once │ churn: random writes of 4 to 64 KiB, flushes, trims │ log: a flush behind each write │
//!
//!   fio ─NBD─▶ landfall image serve ─▶ image on xfs ──cp --reflink──▶ copies, while it runs and when it has flushed
//!
//!   copy    qemu-img check: nothing is wrong, nothing leaks; our check: the same, or repaired without loss
//!           kept is as it was; every block is zeroes or what fio wrote there; of the log a start, without gaps
//!           and after the last flush: the very content of the disk, read over NBD
//! ```
//!
//! A reflink copy is one moment of a file, as a snapshot of a storage system is: it waits for writes that are under way, and
//! holds off others. So the writer is not stopped. The files of an image of several are copied one after the other; each is
//! a moment of its own, and every one of them has to be sound whatever the others are.

use crate::image::{self, Folder, files_of, landfall};
use crate::qemu;
use crate::server::Server;
use crate::stamps::{BLOCK, written};
use crate::verdict::Found;
use landfall_disks::faults::Seed;
use landfall_tests::harness::{MIB, Mount, run};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Size of the file system; the file behind it has holes.
const SPACE: u64 = 2 << 30;
/// How long fio may take.
const PATIENCE: Duration = Duration::from_secs(60);
const ROUNDS: u64 = 3;
/// Copies of a round that are taken while fio is at work.
const COPIES: u64 = 3;
/// Mebibytes of a round's log.
const LOG: u64 = 8;

/// An image, and what is done where; all in mebibytes.
struct Subject {
    name: &'static str,
    options: &'static [&'static str],
    size: u64,
    start: u64,
    kept: u64,
    churn: u64,
    /// What is trimmed at once: blocks of the format have to come free, to be used for something else.
    trim: u64,
}

impl Subject {
    const SMALL: Self = Self {
        name: "disk.vhdx",
        options: &["--block-size", "1MiB"],
        size: 96,
        start: 8,
        kept: 12,
        churn: 36,
        trim: 2,
    };

    /// The part of a round's log, in blocks.
    fn log(&self, round: u64) -> Range<u64> {
        let start = self.start + self.kept + self.churn + round * LOG;
        blocks(start, start + LOG)
    }
}

fn blocks(from_mib: u64, to_mib: u64) -> Range<u64> {
    from_mib * MIB / BLOCK..to_mib * MIB / BLOCK
}

/// An image that is served, on a file system of its own. Dropped in this order.
struct Live {
    server: Server,
    work: String,
    image: String,
    mount: Mount,
    _folder: Folder,
    subject: Subject,
}

impl Live {
    #[track_caller]
    fn start(subject: Subject) -> Self {
        let folder = Folder::new();
        let mount = Mount::xfs(Path::new(&folder.at("")), SPACE);
        let at = |name: &str| mount.at().join(name).to_str().expect("text").to_owned();
        let work = at("work");
        std::fs::create_dir(&work).expect("a new folder");
        let image = format!("{work}/{}", subject.name);
        let size = format!("{}MiB", subject.size);
        landfall(&[&["create", &image, "--size", &size], subject.options].concat()).ok();
        let server = Server::start(&image, &at("socket"), &[]);
        Self { server, work, image, mount, _folder: folder, subject }
    }

    /// fio with jobs, each of which flushes at its end.
    fn fio(&self, seed: u64, jobs: &[&[&str]]) -> Child {
        let mut command = Command::new("fio");
        command.args(["--ioengine=nbd", &format!("--uri={}", self.server.uri())]);
        command.args(["--verify=crc32c", "--verify_interval=4096", "--do_verify=0"]);
        command.args(["--verify_state_save=0", "--norandommap", "--end_fsync=1"]);
        command.arg(format!("--randseed={seed}"));
        command.args(jobs.concat()).current_dir(self.mount.at());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().expect("the peer fio can be started")
    }

    /// Copies all files of the image; none of them stands still.
    fn copy(&self, name: &str) -> String {
        let to = self.mount.at().join(name).to_str().expect("text").to_owned();
        std::fs::create_dir(&to).expect("a new folder");
        let files = files_of(&self.work, "");
        let files: Vec<String> = files.iter().map(|file| format!("{}/{file}", self.work)).collect();
        let files: Vec<&str> = files.iter().map(String::as_str).collect();
        run("cp", &[&["--reflink=always", "--target-directory", &to], &files[..]].concat());
        format!("{to}/{}", self.subject.name)
    }

    /// A copy holds what is served at the moment, while nobody writes.
    #[track_caller]
    fn is_served(&self, copy: &str) {
        let raw = format!("{copy}.served.raw");
        run("nbdcopy", &[self.server.uri(), &raw]);
        qemu::compare(copy, &raw);
        std::fs::remove_file(raw).expect("removed");
    }

    /// What is to be kept, of a raw file.
    fn kept(&self, raw: &str) -> Vec<u8> {
        let mut bytes = vec![0; usize::try_from(self.subject.kept * MIB).expect("small")];
        let file = std::fs::File::open(raw).expect("a raw file");
        file.read_exact_at(&mut bytes, self.subject.start * MIB).expect("as long as the disk");
        bytes
    }

    /// Writes what stays.
    #[track_caller]
    fn write_kept(&self) {
        let Subject { start, kept, .. } = &self.subject;
        let place = [format!("--offset={start}m"), format!("--size={kept}m")];
        let job = ["--name=kept", "--rw=randwrite", "--bsrange=4k-64k", "--fsync=16"];
        ended(self.fio(1, &[&job, &[&place[0], &place[1], "--iodepth=8"]]));
    }

    fn begin_round(&self, round: u64) -> Child {
        let Subject { start, kept, churn, trim, .. } = &self.subject;
        let churned = [format!("--offset={}m", start + kept), format!("--size={churn}m")];
        let log = self.subject.log(round).start * BLOCK;
        let log = [format!("--offset={log}"), format!("--size={LOG}m")];
        let trim = format!("--bs={trim}m");
        let time = ["--time_based", "--runtime=1"];
        let write = ["--name=write", "--rw=randwrite", "--bsrange=4k-64k", "--fsync=16"];
        let free = ["--name=trim", "--rw=randtrim", &trim, "--rate_iops=20"];
        let follow = ["--name=log", "--rw=write", "--bs=32k", "--fsync=1", "--iodepth=1"];
        let jobs: [&[&str]; 8] = [
            &write,
            &time,
            &[&churned[0], &churned[1], "--iodepth=8"],
            &free,
            &time,
            &[&churned[0], &churned[1]],
            &follow,
            // Not to its end in time: it stops where it is.
            &[&log[0], &log[1], "--time_based=0", "--runtime=1"],
        ];
        self.fio(2 + round, &jobs)
    }

    /// A copy is sound, and holds what it may. `so_far` is the round it was taken in.
    #[track_caller]
    fn judge(&self, copy: &str, kept: &[u8], so_far: u64, found: &mut Found) {
        let raw = image::as_raw(copy);
        found.judge(copy, &raw, true);
        image::same(&self.kept(&raw), kept, "what was flushed before the round");
        let written = written(&raw);
        let Subject { start, kept, churn, .. } = &self.subject;
        let mut allowed = vec![blocks(*start, start + kept + churn)];
        for round in 0..=so_far {
            let log = self.subject.log(round);
            let there = written.iter().filter(|block| log.contains(block));
            let gap = there.zip(log.clone()).find(|(block, expected)| *block != expected);
            assert_eq!(gap, None, "{copy}: of the log of round {round}, the first that is missing");
            allowed.push(log);
        }
        let stray = written.iter().find(|block| !allowed.iter().any(|part| part.contains(block)));
        assert_eq!(stray, None, "{copy}: a block that nobody wrote");
    }

    /// One round: copies while fio is at work, and one when it has flushed.
    #[track_caller]
    fn round(&self, round: u64, kept: &[u8], random: &mut Seed, found: &mut Found) {
        let mut fio = self.begin_round(round);
        // It starts its processes first.
        sleep(Duration::from_millis(350));
        let mut copies = Vec::new();
        for number in 0..COPIES {
            sleep(Duration::from_micros(random.below(300_000)));
            copies.push(self.copy(&format!("copy-{round}-{number}")));
        }
        let ended_before = fio.try_wait().expect("waited for");
        assert_eq!(ended_before, None, "fio had ended before the copies were taken");
        ended(fio);
        // fio flushes what it wrote, and leaves trims as they are.
        run("qemu-io", &["-f", "raw", "-c", "flush", self.server.uri()]);
        let last = self.copy(&format!("flushed-{round}"));
        self.is_served(&last);
        // At rest there is nothing to be replayed or repaired.
        image::check(&last);
        if qemu::has_check(&last) {
            qemu::check(&last);
        }
        copies.push(last);
        for copy in copies {
            self.judge(&copy, kept, round, found);
            let folder = Path::new(&copy).parent().expect("a folder of its own");
            std::fs::remove_dir_all(folder).expect("removed");
        }
    }
}

#[track_caller]
fn ended(mut fio: Child) {
    let begun = Instant::now();
    while fio.try_wait().expect("waited for").is_none() {
        if begun.elapsed() > PATIENCE {
            // It waits for ever for a server that lost a request.
            fio.kill().expect("ours");
            break;
        }
        sleep(Duration::from_millis(5));
    }
    let output = fio.wait_with_output().expect("waited for");
    let said = String::from_utf8_lossy(&output.stdout);
    let complained = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "fio failed:\n{said}{complained}");
}

fn copies(subject: Subject) {
    let live = Live::start(subject);
    let (mut random, mut found) = (Seed::new(5), Found::default());
    live.write_kept();
    let first = live.copy("first");
    live.is_served(&first);
    let raw = image::as_raw(&first);
    let kept = live.kept(&raw);
    std::fs::remove_file(&raw).expect("removed");
    live.judge(&first, &kept, 0, &mut found);
    for round in 0..ROUNDS {
        live.round(round, &kept, &mut random, &mut found);
    }
    println!("{} {:?}: {found:?}", live.subject.name, live.subject.options);
    let Live { server, image, mount: _mount, _folder, .. } = live;
    let end = format!("{image}.end.raw");
    run("nbdcopy", &[server.uri(), &end]);
    server.close();
    image::check(&image);
    qemu::compare(&image, &end);
}

#[test]
fn copies_of_vhdx_under_fio() {
    copies(Subject::SMALL);
}

#[test]
fn copies_of_vhdx_with_large_blocks_under_fio() {
    let options = &["--block-size", "32MiB"];
    copies(Subject {
        options,
        size: 256,
        start: 32,
        kept: 32,
        churn: 96,
        trim: 32,
        ..Subject::SMALL
    });
}

#[test]
fn copies_of_sparse_vmdk_under_fio() {
    copies(Subject { name: "disk.vmdk", options: &[], ..Subject::SMALL });
}

/// The churn lies on both sides of the end of the first extent, which has 2047 MiB.
#[test]
fn copies_of_split_vmdk_under_fio() {
    let options = &["--kind", "twoGbMaxExtentSparse"];
    copies(Subject { name: "disk.vmdk", options, size: 2112, start: 2024, ..Subject::SMALL });
}

#[test]
fn copies_of_dynamic_vhd_under_fio() {
    copies(Subject { name: "disk.vhd", options: &[], trim: 4, ..Subject::SMALL });
}
