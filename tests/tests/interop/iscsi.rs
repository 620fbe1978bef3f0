//! Exports over iSCSI: libiscsi's tools and QEMU's own initiator.

use crate::machine::{Web, text};
use landfall_tests::harness::{MIB, attempt, run};
use serde_json::Value;

/// Adds an export over iSCSI; what is said of it.
#[track_caller]
fn export(web: &Web, arguments: &[&str]) -> Value {
    let words = [&["export", "add"], arguments, &["--iscsi", "--json"]].concat();
    web.target.landfall(&words).json()
}

/// Where unit 0 of an export is, for whoever has these credentials: `USER%SECRET@`, or nothing.
fn uri(export: &Value, credentials: &str) -> String {
    let target = &export["iscsi"];
    let (portal, name) = (target["portal"].as_str(), target["name"].as_str());
    format!("iscsi://{credentials}{}/{}/0", portal.expect("open"), name.expect("a name"))
}

/// A file with a secret.
fn secret(web: &Web, name: &str, text: &str) -> String {
    let path = web.target.folder().join(name);
    std::fs::write(&path, format!("{text}\n")).expect("written");
    crate::machine::text(&path).to_owned()
}

#[test]
fn a_unit_is_the_disk_and_what_is_written_is_the_branch() {
    let web = Web::with_points(1);
    let branch = export(&web, &["web@latest", "--writable", "--branch", "b"]);
    let unit = uri(&branch, "");
    let copy = text(&web.kept[0].copy);
    let same = |file: &str| {
        run("qemu-img", &["compare", "-f", "raw", "-F", "raw", file, &unit]);
    };
    same(copy);
    let capacity = run("iscsi-readcapacity16", &[&unit]);
    assert!(capacity.contains("RETURNED LOGICAL BLOCK ADDRESS:49151"), "{capacity}");
    assert!(capacity.contains("LBPME:1"), "{capacity}");
    let inquiry = run("iscsi-inq", &[&unit]);
    assert!(inquiry.contains("Vendor:LANDFALL"), "{inquiry}");
    // A guest finds the disk it knows, whichever export of it it is given.
    let serial = |unit: &str| run("iscsi-inq", &["-e", "1", "-c", "128", unit]);
    let moment = export(&web, &["web@latest"]);
    assert_eq!(serial(&unit), serial(&uri(&moment, "")));
    assert!(serial(&unit).contains("Unit Serial Number:["), "{}", serial(&unit));
    assert!(run("iscsi-swp", &[&unit]).contains("SWP:0"));

    let writes = ["-f", "raw", "-c", "write -P 0x5a 1M 64k", "-c", "write -z -u 2M 1M"];
    run("qemu-io", &[&writes[..], &["-c", "flush", &unit]].concat());
    let mut expected = std::fs::read(copy).expect("the copy");
    let mib = usize::try_from(MIB).expect("small");
    expected[mib..][..64 << 10].fill(0x5a);
    expected[2 * mib..3 * mib].fill(0);
    let head = web.target.folder().join("expected.raw");
    std::fs::write(&head, expected).expect("written");
    same(text(&head));
    crate::machine::same(&head, &web.target.uri("web~b/os"));
    crate::machine::same(&web.kept[0].copy, &web.target.uri("web/os"));
}

#[test]
fn a_moment_is_write_protected() {
    let web = Web::with_points(1);
    let unit = uri(&export(&web, &["web@latest"]), "");
    run("qemu-img", &["compare", "-f", "raw", "-F", "raw", text(&web.kept[0].copy), &unit]);
    let refused = attempt("qemu-io", &["-f", "raw", "-c", "write 0 4k", &unit]);
    let said = format!("{}{}", refused.out, refused.err);
    assert!(!said.contains("wrote 4096/4096"), "{said}");
    run("qemu-img", &["compare", "-f", "raw", "-F", "raw", text(&web.kept[0].copy), &unit]);
}

#[test]
fn a_target_opens_to_those_it_is_for_also_after_a_restart() {
    let mut web = Web::with_points(1);
    let (host, target) =
        (secret(&web, "host", "secret-of-the-host"), secret(&web, "own", "secret-of-ours"));
    let by_chap = ["web@latest", "--chap", "host", "--chap-secret-file", &host];
    export(
        &web,
        &[&by_chap[..], &["--mutual-chap", "landfall", "--mutual-chap-secret-file", &target]]
            .concat(),
    );
    export(&web, &["web@latest", "--initiator", "iqn.2026-11.example:friend"]);
    let check = |web: &Web| {
        let listed = web.target.json(&["export", "list", "--json"]);
        assert!(!listed.to_string().contains("secret-of"), "{listed}");
        let (by_chap, by_name) = (&listed["exports"][0], &listed["exports"][1]);
        assert_eq!(by_chap["iscsi"]["chap_user"], "host");
        let opens = |uri: &str, initiator: &str| {
            attempt("iscsi-readcapacity16", &["-i", initiator, uri]).code == Some(0)
        };
        let (friend, other) = ("iqn.2026-11.example:friend", "iqn.2026-11.example:other");
        assert!(opens(&uri(by_chap, "host%secret-of-the-host@"), other));
        assert!(!opens(&uri(by_chap, "host%secret-of-a-guess@"), other), "another secret");
        assert!(!opens(&uri(by_chap, "else%secret-of-the-host@"), other), "another user");
        assert!(!opens(&uri(by_chap, ""), other), "no secret");
        assert!(opens(&uri(by_name, ""), friend));
        assert!(!opens(&uri(by_name, ""), other), "another initiator");
        // Who may not have a target does not hear of it.
        let portal = by_name["iscsi"]["portal"].as_str().expect("open");
        let told =
            |initiator: &str| run("iscsi-ls", &["-i", initiator, &format!("iscsi://{portal}")]);
        let name = by_name["iscsi"]["name"].as_str().expect("a name");
        assert!(told(friend).contains(name) && !told(other).contains(name));
    };
    check(&web);
    web.target.kill();
    web.target.start_again();
    check(&web);
}

#[test]
fn what_would_open_a_door_to_everybody_is_refused() {
    let web = Web::with_points(1);
    let short = secret(&web, "short", "short");
    let refused = |arguments: &[&str], parts: &[&str]| {
        let words = [&["export", "add", "web@latest", "--iscsi"], arguments].concat();
        web.target.landfall(&words).refused(parts);
    };
    refused(&["--chap", "host", "--chap-secret-file", &short], &["at least 12 characters"]);
    refused(&["--initiator", "esx1"], &["esx1", "iqn."]);
    let same = secret(&web, "same", "the-same-secret");
    let both = ["--chap", "a", "--chap-secret-file", &same, "--mutual-chap", "b"];
    refused(&[&both[..], &["--mutual-chap-secret-file", &same]].concat(), &["must differ"]);
    let metrics = web.target.landfall(&["export", "list", "--json"]).json();
    assert_eq!(metrics["exports"].as_array().map(Vec::len), Some(0));
}
