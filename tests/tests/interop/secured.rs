//! NBD over TLS from the real binary, what a certificate opens, and several connections to one branch.

use crate::machine::{SIZE, Web, same, text};
use landfall_tests::harness::{MIB, Settings, Target, attempt, run};
use std::path::PathBuf;

/// A certificate for `name`, in a folder as libnbd and QEMU want it.
pub(crate) fn certificate(target: &Target, name: &str) -> PathBuf {
    let folder = target.folder().join(name);
    target.landfall(&["pki", "issue", name, "--output", text(&folder)]).ok();
    for (ours, theirs) in [
        ("ca.pem", "ca-cert.pem"),
        ("client.pem", "client-cert.pem"),
        ("client.key", "client-key.pem"),
    ] {
        std::fs::rename(folder.join(ours), folder.join(theirs)).expect("renamed");
    }
    folder
}

#[test]
fn a_certificate_opens_the_machines_it_was_granted_and_no_others() {
    let more = "[nbd]\ntls = 'required'\n[nbd.allow]\nbackup = ['web']\nnobody = []";
    let mut web = Web::on(Target::with(&Settings { more, ..Settings::default() }));
    web.point();
    web.target.landfall(&["machine", "add", "db", "--disk", "name=os,size=24MiB"]).ok();
    let source = web.source.as_disk("os");
    web.target.landfall(&["replicate", "db", "--disk", &source, "--once"]).ok();

    let [backup, nobody, stranger] =
        ["backup", "nobody", "stranger"].map(|name| certificate(&web.target, name));
    let uri = |export: &str, folder: &PathBuf| {
        let plain = web.target.tcp_uri(export).replacen("nbd:", "nbds:", 1);
        format!("{plain}?tls-certificates={}", folder.display())
    };
    let copy = web.target.folder().join("copy.raw");
    run("nbdcopy", &[&uri("web/os", &backup), text(&copy)]);
    assert!(std::fs::read(&copy).unwrap() == std::fs::read(&web.kept[0].copy).unwrap());
    // A list shows what opens, and nothing of the others.
    let list = run("nbdinfo", &["--list", &uri("", &backup)]);
    assert!(list.contains("export=\"web/os") && !list.contains("\"db/"), "{list}");
    for (export, folder, others) in [
        ("db/os", &backup, "machines: web"),
        ("none/os", &backup, "machines: web"),
        ("web/os", &nobody, "there are none"),
        ("web/os", &stranger, "there are none"),
    ] {
        let (machine, _) = export.split_once('/').expect("a machine");
        let said = format!("{machine} is not for the owner of this certificate; {others}");
        assert_eq!(refusal(&uri(export, folder)), said, "{export} for {}", folder.display());
    }
    // In the clear there is nothing over TCP, and everything over the socket, which is for the owner.
    let plain = attempt("nbdinfo", &["--size", &web.target.tcp_uri("web/os")]);
    assert_ne!(plain.code, Some(0), "{plain:?}");
    assert_eq!(run("nbdinfo", &["--size", &web.target.uri("web/os")]).trim(), SIZE.to_string());
    // What a person is told to paste says how.
    let listed = web.target.landfall(&["point", "list", "web", "--json"]).ok();
    assert!(listed.contains("nbds://127.0.0.1") && !listed.contains("\"nbd://"), "{listed}");
}

/// What the server says to whoever is not to have an export. libnbd shows it to those who look.
#[track_caller]
fn refusal(uri: &str) -> String {
    let refused = attempt("env", &["LIBNBD_DEBUG=1", "nbdinfo", "--size", uri]);
    assert_eq!(refused.code, Some(1), "{uri} opened");
    let said = refused.err.lines().find_map(|line| line.split_once("server error message: "));
    said.unwrap_or_else(|| panic!("no words in\n{}", refused.err)).1.to_owned()
}

/// What a certificate was not granted is not spoken of: neither that there is such a machine, nor what it has, nor what others
/// there are.
#[test]
fn a_certificate_learns_nothing_of_machines_it_was_not_granted() {
    let more = "[nbd]\ntls = 'required'\n[nbd.allow]\nbackup = ['web', 'gone']\n\
                [nbd.feed]\nfeeder = ['db', 'lost']";
    let mut web = Web::on(Target::with(&Settings { more, ..Settings::default() }));
    web.point();
    let disks = ["--disk", "name=secret,size=24MiB", "--disk", "name=hidden,size=24MiB"];
    let fed = [&["machine", "add", "db"][..], &disks, &["--ingest", "nbd"]].concat();
    web.target.landfall(&fed).ok();
    let [backup, feeder] = ["backup", "feeder"].map(|name| certificate(&web.target, name));
    let uri = |export: &str, folder: &PathBuf| {
        let plain = web.target.tcp_uri(export).replacen("nbd:", "nbds:", 1);
        format!("{plain}?tls-certificates={}", folder.display())
    };
    // The same words whether it is there or not, whether it is fed, and whether a disk is named.
    for name in ["db", "db/secret", "db/none", "none", "none/os", "db@latest"] {
        let machine = name.split(['/', '@']).next().expect("a machine");
        let said = format!("{machine} is not for the owner of this certificate; machines: web");
        assert_eq!(refusal(&uri(name, &backup)), said, "{name}");
    }
    // What was granted and is not there.
    for name in ["gone", "gone/os", "gone/os@latest"] {
        assert_eq!(refusal(&uri(name, &backup)), "no machine gone; machines: web", "{name}");
    }
    // Who feeds learns of what it feeds, and of nothing else.
    let several = refusal(&uri("db", &feeder));
    assert!(several.contains("secret") && several.contains("hidden"), "{several}");
    for name in ["web", "web/os", "lost/os"] {
        let said = refusal(&uri(name, &feeder));
        assert!(
            said.ends_with("is not for the owner of this certificate; there are none"),
            "{said}"
        );
    }
    let list = run("nbdinfo", &["--list", &uri("", &feeder)]);
    assert!(list.contains("\"db/secret\"") && !list.contains("web"), "{list}");
}

/// Writes over one connection, flushes over another, reads over a third, at once and again and again.
const SHARED: &str = r#"
import sys
uri = sys.argv[1]
one, two, three = (nbd.NBD() for _ in range(3))
for handle in (one, two, three):
    handle.connect_uri(uri)
    assert handle.can_multi_conn()
for round in range(50):
    data = bytes([round + 1]) * 65536
    at = round * 70000
    one.pwrite(data, at)
    two.flush()
    assert three.pread(65536, at) == data, round
    two.zero(512, at + 512, nbd.CMD_FLAG_FUA)
    assert three.pread(1536, at) == data[:512] + bytes(512) + data[:512], round
"#;

/// Writes the same block over two connections at once, and then two parts of it.
const TOGETHER: &str = r#"
import sys
one, two = nbd.NBD(), nbd.NBD()
for handle in (one, two):
    handle.connect_uri(sys.argv[1])
def both(at, first, other_at, second):
    asked = [(one, one.aio_pwrite(nbd.Buffer.from_bytearray(bytearray(first)), at)),
             (two, two.aio_pwrite(nbd.Buffer.from_bytearray(bytearray(second)), other_at))]
    for handle, cookie in asked:
        while not handle.aio_command_completed(cookie):
            handle.poll(-1)
for round in range(400):
    at = 4096 * (round % 7)
    first, second = bytes([round % 200 + 1]) * 4096, bytes([round % 200 + 2]) * 4096
    both(at, first, at, second)
    is_now = one.pread(4096, at)
    assert is_now in (first, second), "a mixture of two writes"
    assert two.pread(4096, at) == is_now, "two truths"
    both(at + 100, b"\xfe" * 700, at + 2000, b"\xff" * 900)
    expected = bytearray(is_now)
    expected[100:800] = b"\xfe" * 700
    expected[2000:2900] = b"\xff" * 900
    assert two.pread(4096, at) == expected, "one of two parts was lost"
one.flush()
"#;

#[test]
fn writes_of_one_block_over_two_connections_lose_nothing() {
    let web = Web::with_points(1);
    web.target.landfall(&["export", "add", "web@latest", "--writable", "--branch", "b"]).ok();
    let script = format!("import nbd\n{TOGETHER}");
    run("/usr/bin/python3", &["-c", &script, &web.target.uri("web~b/os")]);
}

#[test]
fn connections_to_a_branch_share_what_is_written_and_flushed() {
    let mut web = Web::with_points(1);
    web.target.landfall(&["export", "add", "web@latest", "--writable", "--branch", "b"]).ok();
    let uri = web.target.uri("web~b/os");
    let script = format!("import nbd\n{SHARED}");
    run("/usr/bin/python3", &["-c", &script, &uri]);
    // What was flushed over one connection outlives the process, whoever wrote it.
    web.target.kill();
    web.target.start_again();
    let mut expected = std::fs::read(&web.kept[0].copy).expect("the copy");
    for round in 0..50u8 {
        let at = usize::from(round) * 70_000;
        expected[at..at + 65_536].fill(round + 1);
        expected[at + 512..at + 1024].fill(0);
    }
    let head = web.target.folder().join("expected.raw");
    std::fs::write(&head, &expected).expect("written");
    same(&head, &uri);
    assert!(expected.len() as u64 > 3 * MIB);
}
