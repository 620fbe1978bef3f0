//! Exports over iSCSI: libiscsi's tools and QEMU's own initiator.

use crate::machine::{Web, text};
use landfall_tests::harness::{MIB, Target, attempt, run};
use serde_json::Value;
use std::thread;
use std::time::{Duration, Instant};

/// How long a target may take to count whom it has refused.
const PATIENCE: Duration = Duration::from_secs(10);

/// Adds an export over iSCSI; what is said of it.
#[track_caller]
pub(crate) fn export(target: &Target, arguments: &[&str]) -> Value {
    let words = [&["export", "add"], arguments, &["--iscsi", "--json"]].concat();
    target.landfall(&words).json()
}

/// Where the units of an export are, for whoever has these credentials: `USER%SECRET@`, or nothing.
pub(crate) fn units(export: &Value, credentials: &str) -> Vec<String> {
    let target = &export["iscsi"];
    let (portal, name) = (target["portal"].as_str(), target["name"].as_str());
    let (portal, name) = (portal.expect("open"), name.expect("a name"));
    let units = target["units"].as_array().expect("a list").iter().enumerate();
    units.map(|(number, _)| format!("iscsi://{credentials}{portal}/{name}/{number}")).collect()
}

/// The first of them.
pub(crate) fn uri(export: &Value, credentials: &str) -> String {
    units(export, credentials).swap_remove(0)
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
    let branch = export(&web.target, &["web@latest", "--writable", "--branch", "b"]);
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
    let serial = |unit: &str| run("iscsi-inq", &["-e", "1", "-c", "128", unit]);
    let moment = export(&web.target, &["web@latest"]);
    // A moment is another disk than the branch (decision 0029).
    assert_ne!(serial(&unit), serial(&uri(&moment, "")));
    assert!(serial(&unit).contains("Unit Serial Number:["), "{}", serial(&unit));
    assert!(run("iscsi-swp", &[&unit]).contains("SWP:0"));

    let writes = ["-f", "raw", "-c", "write -P 0x5a 1M 64k", "-c", "write -z -u 2M 1M"];
    run("qemu-io", &[&writes[..], &["-c", "flush", &unit]].concat());
    // What was unmapped is told as such.
    let map = run("qemu-img", &["map", "-f", "raw", "--output=json", &unit]);
    let map: Value = serde_json::from_str(&map).expect("JSON");
    let unmapped = |piece: &Value| {
        let number = |name: &str| piece[name].as_u64().expect("a number");
        let (start, end) = (number("start"), number("start") + number("length"));
        piece["data"] == false && start <= 2 * MIB && end >= 3 * MIB
    };
    assert!(map.as_array().expect("a list").iter().any(unmapped), "{map}");
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
fn discovery_tells_targets_and_their_units() {
    let web = Web::with_points(1);
    let export = export(&web.target, &["web@latest", "--writable"]);
    let portal = export["iscsi"]["portal"].as_str().expect("open");
    let name = export["iscsi"]["name"].as_str().expect("a name");
    let listed = run("iscsi-ls", &["-s", &format!("iscsi://{portal}")]);
    let expected =
        format!("Target:{name} Portal:{portal},1\nLun:0    Type:DIRECT_ACCESS (Size:23M)\n");
    // It shows a megabyte less, since it divides the address of the last block.
    assert_eq!(listed, expected);
}

#[test]
fn a_unit_describes_itself() {
    let web = Web::with_points(1);
    let unit = uri(&export(&web.target, &["web@latest", "--writable"]), "");
    let inquiry = |page: &str| run("iscsi-inq", &["-e", "1", "-c", page, &unit]);
    let has = |said: &str, lines: &[&str]| {
        for line in lines {
            assert!(said.lines().any(|one| one.trim_end() == *line), "{line} is not in\n{said}");
        }
    };
    has(
        &run("iscsi-inq", &[&unit]),
        &["Vendor:LANDFALL", "Product:DISK", "CmdQue:1", "Removable:0"],
    );
    has(&inquiry("0"), &["Page:0x80 UNIT_SERIAL_NUMBER", "Page:0xb2 LOGICAL_BLOCK_PROVISIONING"]);
    has(&inquiry("131"), &["Designator Type:(3) NAA", "Designator Type:(1) T10_VENDORT_ID"]);
    // Blocks of 4 KiB are what is given back, and what is best written.
    let limits = ["optimal unmap granularity:8", "optimal transfer length granularity:8", "wsnz:0"];
    has(&inquiry("176"), &limits);
    has(&inquiry("178"), &["lbpu:1", "lbpws:1", "lbpws10:1", "provisioning type:2"]);
    let capacity = run("iscsi-readcapacity16", &[&unit]);
    let physical = "P_I_EXPONENT:0 LOGICAL BLOCKS PER PHYSICAL BLOCK EXPONENT:0";
    has(&capacity, &["LOGICAL BLOCK LENGTH IN BYTES:512", "LBPME:1 LBPRZ:1", physical]);
}

/// Mode parameters are of the unit for as long as its export is there, though nobody has it between two commands.
#[test]
fn software_write_protection_holds_for_everybody() {
    let web = Web::with_points(1);
    let unit = uri(&export(&web.target, &["web@latest", "--writable"]), "");
    let swp = |arguments: &[&str]| run("iscsi-swp", &[arguments, &[&unit]].concat());
    let writes = || {
        let said = attempt("qemu-io", &["-f", "raw", "-c", "write 0 4k", &unit]);
        said.out.contains("wrote 4096/4096")
    };
    assert!(swp(&[]).contains("SWP:0") && writes());
    swp(&["--swp=on"]);
    assert!(swp(&[]).contains("SWP:1") && !writes());
    swp(&["--swp=off"]);
    assert!(swp(&[]).contains("SWP:0") && writes());
}

#[test]
fn qemu_img_copies_both_ways() {
    let web = Web::with_points(1);
    let branch = uri(&export(&web.target, &["web@latest", "--writable"]), "");
    let copy = text(&web.kept[0].copy);
    let folder = web.target.folder();
    let at = |name: &str| text(&folder.join(name)).to_owned();
    let info = run("qemu-img", &["info", "-f", "raw", &branch]);
    assert!(info.contains("virtual size: 24 MiB (25165824 bytes)"), "{info}");

    // Out, into a format of its own, and what that says of itself.
    let out = at("out.qcow2");
    run("qemu-img", &["convert", "-f", "raw", "-O", "qcow2", &branch, &out]);
    assert!(run("qemu-img", &["check", &out]).contains("No errors were found"));
    run("qemu-img", &["compare", "-f", "qcow2", "-F", "raw", &out, copy]);
    // A hole is told as one, so a copy has it.
    let map = run("qemu-img", &["map", "-f", "raw", "--output=json", &branch]);
    assert!(map.contains(r#""zero": true, "data": false"#), "{map}");

    // And in, over what is there.
    let mut other = std::fs::read(copy).expect("the copy");
    other.reverse();
    std::fs::write(at("other.raw"), &other).expect("written");
    let other = at("other.raw");
    run("qemu-img", &["convert", "-n", "-f", "raw", "-O", "raw", &other, &branch]);
    run("qemu-img", &["compare", "-f", "raw", "-F", "raw", &other, &branch]);
    // History stays as it was.
    crate::machine::same(&web.kept[0].copy, &web.target.uri("web/os"));
}

#[test]
fn a_moment_is_write_protected() {
    let web = Web::with_points(1);
    let unit = uri(&export(&web.target, &["web@latest"]), "");
    run("qemu-img", &["compare", "-f", "raw", "-F", "raw", text(&web.kept[0].copy), &unit]);
    let refused = attempt("qemu-io", &["-f", "raw", "-c", "write 0 4k", &unit]);
    let said = format!("{}{}", refused.out, refused.err);
    assert!(!said.contains("wrote 4096/4096"), "{said}");
    run("qemu-img", &["compare", "-f", "raw", "-F", "raw", text(&web.kept[0].copy), &unit]);
}

#[test]
fn a_target_opens_to_those_it_is_for_also_after_a_restart() {
    let mut web = Web::with_points(1);
    web.target.log().expect("an iSCSI initiator did not prove who it is");
    let (host, target) =
        (secret(&web, "host", "secret-of-the-host"), secret(&web, "own", "secret-of-ours"));
    let by_chap = ["web@latest", "--chap", "host", "--chap-secret-file", &host];
    export(
        &web.target,
        &[&by_chap[..], &["--mutual-chap", "landfall", "--mutual-chap-secret-file", &target]]
            .concat(),
    );
    export(&web.target, &["web@latest", "--initiator", "iqn.2026-11.example:friend"]);
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
    // What guests and hypervisors know it by: name of the target, serial number, identification (VPD 80h, 83h).
    let names = |web: &Web| {
        let listed = web.target.json(&["export", "list", "--json"]);
        let (by_chap, by_name) = (&listed["exports"][0], &listed["exports"][1]);
        let unit = uri(by_name, "");
        let page = |page: &str| {
            let friend = "iqn.2026-11.example:friend";
            run("iscsi-inq", &["-i", friend, "-e", "1", "-c", page, &unit])
        };
        let targets = [by_chap, by_name].map(|export| export["iscsi"]["name"].to_string());
        (targets, page("128"), page("131"))
    };
    check(&web);
    let before = names(&web);
    web.target.kill();
    web.target.start_again();
    check(&web);
    assert_eq!(names(&web), before);
}

/// Waits until the target has refused as many initiators that did not prove who they are: it counts them once they are told.
#[track_caller]
fn has_refused(target: &Target, initiators: f64) {
    let begun = Instant::now();
    loop {
        let refused = target.metrics().get("landfall_iscsi_authentications_failed_total");
        if refused == initiators {
            return;
        }
        let in_time = refused < initiators && begun.elapsed() < PATIENCE;
        assert!(in_time, "{refused} initiators were refused, not {initiators}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// Whoever refuses says so itself: libiscsi checks what the target proves, the target counts who proves nothing to it.
#[test]
fn initiator_and_target_prove_who_they_are_to_each_other() {
    let web = Web::with_points(1);
    web.target.log().expect("an iSCSI initiator did not prove who it is");
    let (host, own) =
        (secret(&web, "host", "secret-of-the-host"), secret(&web, "own", "secret-of-ours"));
    let one_way = ["web@latest", "--chap", "host", "--chap-secret-file", &host];
    let both_ways = ["--mutual-chap", "landfall", "--mutual-chap-secret-file", &own];
    let mutual = export(&web.target, &[&one_way[..], &both_ways].concat());
    let one_way = export(&web.target, &one_way);
    // What is said to an initiator with this secret, that wants this proof of the target.
    let logs_in = |export: &Value, secret: &str, proof: &str| {
        let unit = uri(export, &format!("host%{secret}@"));
        attempt("iscsi-inq", &[&format!("{unit}?{proof}")])
    };
    let right = "secret-of-the-host";
    let ours = "target_user=landfall&target_password=secret-of-ours";
    assert!(logs_in(&mutual, right, ours).ok().contains("Vendor:LANDFALL"));

    // The initiator refuses: no target that it knows has this secret, or this name.
    for (proof, complaint) in [
        ("target_user=landfall&target_password=secret-of-a-guess", "Invalid CHAP_R response"),
        ("target_user=else&target_password=secret-of-ours", "Wrong CHAP targetname"),
    ] {
        let said = logs_in(&mutual, right, proof);
        assert!(said.code != Some(0) && said.err.contains(complaint), "{said:?}");
    }
    has_refused(&web.target, 0.0);
    // The target refuses: a secret that is nobody's, its own for the initiator's, and where it has none to prove itself with.
    for (export, secret, refused) in [
        (&mutual, "secret-of-a-guess", 1.0),
        (&mutual, "secret-of-ours", 2.0),
        (&one_way, right, 3.0),
    ] {
        let said = logs_in(export, secret, ours);
        assert!(said.code != Some(0) && said.err.contains("Authentication failure"), "{said:?}");
        has_refused(&web.target, refused);
    }
    // None of that is asked for by who wants no proof.
    logs_in(&mutual, right, "").ok();
    logs_in(&one_way, right, "").ok();
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
