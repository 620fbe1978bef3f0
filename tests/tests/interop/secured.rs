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
    for (export, folder) in
        [("db/os", &backup), ("web/os", &nobody), ("web/os", &stranger), ("none/os", &backup)]
    {
        let refused = attempt("nbdinfo", &["--size", &uri(export, folder)]);
        assert_ne!(refused.code, Some(0), "{export} opened for {}", folder.display());
    }
    // In the clear there is nothing over TCP, and everything over the socket, which is for the owner.
    let plain = attempt("nbdinfo", &["--size", &web.target.tcp_uri("web/os")]);
    assert_ne!(plain.code, Some(0), "{plain:?}");
    assert_eq!(run("nbdinfo", &["--size", &web.target.uri("web/os")]).trim(), SIZE.to_string());
    // What a person is told to paste says how.
    let listed = web.target.landfall(&["point", "list", "web", "--json"]).ok();
    assert!(listed.contains("nbds://127.0.0.1") && !listed.contains("\"nbd://"), "{listed}");
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
