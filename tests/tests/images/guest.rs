//! Copies of an image that a guest writes to: Linux boots from it over NBD, and works on its root file system meanwhile.
//!
//! ```text
//!   guest   a file │ sync │ its checksum │ sync │ "round N" │ fstrim │ the next
//!   test                                            └─▶ cp --reflink of the image, the guest goes on
//!   copy    sound, as any; its ext4 is after a replay of the journal; N checksums and more are in it, and all are right
//! ```
//!
//! A copy is what a power cut would leave to the guest: what it flushed is there, and what it wrote since may be in any part,
//! which is what the journal of its file system counts on.

use crate::image::{self, Folder, landfall};
use crate::qemu;
use crate::server::Server;
use crate::verdict::Found;
use landfall_disks::faults::Seed;
use landfall_tests::harness::{Mount, run};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

/// Size of the file system; the file behind it has holes.
const SPACE: u64 = 2 << 30;

/// What the guest does, in the words of its shell.
const WORK: &str = r#"
n=1
while [ $n -le 6 ]; do
    dd if=/dev/urandom of=/data/round-$n.bin bs=64k count=$((n % 4 * 6 + 2)) 2>/dev/null
    dd if=/dev/urandom of=/tmp/scratch-$n bs=64k count=24 2>/dev/null
    rm -f /tmp/scratch-$((n - 2))
    sync
    (cd /data && sha256sum ./round-$n.bin >>SHA256SUMS)
    sync
    echo "landfall-guest: round $n"
    fstrim / && echo "landfall-guest: trimmed"
    n=$((n + 1))
done
"#;

fn script(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts").join(name);
    path.to_str().expect("text").to_owned()
}

/// A guest that runs; the script that runs it ends its emulator.
struct Guest(Child);

impl Guest {
    fn boot(uri: &str) -> Self {
        let mut command = Command::new(script("boot-guest"));
        command.arg(uri).stdout(Stdio::piped()).stderr(Stdio::piped());
        Self(command.spawn().expect("it can be started"))
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        if matches!(self.0.try_wait(), Ok(None)) {
            // Politely: it ends the emulator before itself.
            let process = rustix::process::Pid::from_child(&self.0);
            let _ = rustix::process::kill_process(process, rustix::process::Signal::TERM);
            let _ = self.0.wait();
        }
    }
}

/// The number of rounds whose files the guest's disk vouches for; all that it vouches for is right.
#[track_caller]
fn rounds(raw: &str) -> usize {
    assert_eq!(run(&script("guest-files"), &[raw, "check"]), "data ok\n");
    let sums = run(&script("guest-files"), &[raw, "read", "/data/SHA256SUMS"]);
    sums.lines().filter(|line| line.contains("./round-")).count()
}

#[track_caller]
fn copies(name: &str, options: &[&str]) {
    let folder = Folder::new();
    let mount = Mount::xfs(Path::new(&folder.at("")), SPACE);
    let at = |name: &str| mount.at().join(name).to_str().expect("text").to_owned();
    let (image, boot, work) = (at(name), at("boot.raw"), at("work"));
    std::fs::write(&work, WORK).expect("written");
    run(&script("boot-disk"), &[&boot, "--work", &work]);
    landfall(&[&["convert", &boot, &image], options].concat()).ok();
    let server = Server::start(&image, &at("socket"), &[]);
    let mut guest = Guest::boot(server.uri());
    let (mut seen, mut trimmed, mut copies) = (0, 0, Vec::new());
    let mut random = Seed::new(11);
    for line in BufReader::new(guest.0.stdout.take().expect("a pipe")).lines() {
        let line = line.expect("text");
        trimmed += usize::from(line == "landfall-guest: trimmed");
        if let Some(number) = line.strip_prefix("landfall-guest: round ") {
            seen = number.parse().expect("a number");
        } else if !line.starts_with("landfall-guest: booted") {
            continue;
        }
        // Also in the middle of what it does next.
        sleep(Duration::from_micros(random.below(400_000)));
        let copy = PathBuf::from(at(&format!("copy-{seen}-{name}")));
        run("cp", &["--reflink=always", &image, copy.to_str().expect("text")]);
        copies.push((copy, seen));
    }
    let ended = guest.0.wait().expect("waited for");
    assert!(
        ended.success() && seen == 6 && trimmed == 6,
        "{ended}, {seen} rounds, {trimmed} trims"
    );
    let end = at("end.raw");
    run("nbdcopy", &[server.uri(), &end]);
    server.close();

    let mut found = Found::default();
    for (copy, seen) in &copies {
        let copy = copy.to_str().expect("text");
        let raw = image::as_raw(copy);
        found.judge(copy, &raw, true);
        let kept = rounds(&raw);
        assert!(kept >= *seen, "{copy}: the guest had synced {seen} rounds, {kept} are there");
    }
    println!("{name} {options:?}: {found:?}");
    image::check(&image);
    qemu::check(&image);
    qemu::compare(&image, &end);
    assert_eq!(rounds(&end), seen);
}

#[test]
fn copies_of_vhdx_under_a_guest() {
    copies("disk.vhdx", &["--block-size", "1MiB"]);
}

#[test]
fn copies_of_sparse_vmdk_under_a_guest() {
    copies("disk.vmdk", &[]);
}
