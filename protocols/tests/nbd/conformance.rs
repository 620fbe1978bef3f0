//! `docs/interop-nbd.md` stays true: what it names exists, and what exists it names.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("a package of it").to_owned()
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Every text between backticks.
fn quoted(page: &str) -> impl Iterator<Item = &str> {
    page.split('`').skip(1).step_by(2)
}

/// The file a test on the page stands in.
fn file_of(name: &str) -> PathBuf {
    if let Some(of_disks) = name.strip_prefix("disks/") {
        return repository().join("disks/src").join(of_disks);
    }
    let folder = match name.split('/').next() {
        Some("session" | "wire" | "serve") => "protocols/src/nbd",
        Some("nbd") => "protocols/tests",
        Some("interop") => "tests/tests",
        Some("config" | "exports") => "target/src",
        Some("daemon") => "target/tests",
        _ => panic!("the page does not say where {name} is"),
    };
    repository().join(folder).join(name)
}

/// Names of the protocol that this project's sources give to their numbers, such as `NBD_OPT_GO`.
fn constants() -> BTreeSet<String> {
    let wire = repository().join("protocols/src/nbd/wire");
    let mut found = BTreeSet::new();
    for file in fs::read_dir(wire).expect("a folder") {
        let text = read(&file.expect("a file").path());
        for name in quoted(&text).filter(|name| name.starts_with("NBD_")) {
            let is_name = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
            if name.chars().all(is_name) {
                found.insert(name.to_owned());
            }
        }
    }
    assert!(found.len() > 40, "only {found:?}");
    found
}

/// Programs that tests start and that speak no NBD.
const TOOLS: [&str; 10] =
    ["cp", "date", "env", "kill", "mkfs.ext4", "mount", "setpriv", "sh", "sha256sum", "umount"];

/// Files of tests that are not about NBD, or have the words that are looked for here.
const OTHERS: [&str; 7] = [
    "iscsi.rs",
    "iscsi_boot.rs",
    "iscsi_conformance.rs",
    "iscsi_exposure.rs",
    "iscsi_space.rs",
    "iscsi_transfer.rs",
    "conformance.rs",
];

/// Programs that tests start, of this server alone and of the whole target.
fn peers() -> BTreeSet<String> {
    let mut files = vec![repository().join("tests/src/harness/qmp.rs")];
    for folder in ["protocols/tests/nbd", "tests/tests/interop"] {
        let folder = fs::read_dir(repository().join(folder)).expect("a folder");
        let paths = folder.map(|file| file.expect("a file").path());
        let is_other = |path: &PathBuf| OTHERS.iter().any(|name| path.ends_with(name));
        files.extend(paths.filter(|path| path.is_file() && !is_other(path)));
    }
    let mut found = BTreeSet::new();
    for file in files {
        let text = read(&file);
        for start in ["run(\"", "attempt(\"", "newer(\"", "Command::new(\""] {
            for call in text.split(start).skip(1) {
                let name = call.split('"').next().expect("a name");
                found.insert(name.rsplit('/').next().expect("a name").to_owned());
            }
        }
    }
    found.retain(|name| !TOOLS.contains(&name.as_str()));
    for known in ["nbdcopy", "qemu-io", "qemu-system-x86_64", "qemu-storage-daemon", "fio"] {
        assert!(found.contains(known), "{known} is not among {found:?}");
    }
    found
}

/// Sections of `doc/proto.md` that have rules for servers.
const SECTIONS: [&str; 33] = [
    "Conventions",
    "Protocol phases",
    "Oldstyle negotiation",
    "Newstyle negotiation",
    "Fixed newstyle negotiation",
    "Termination of the session during option haggling",
    "Ordering of messages and writes",
    "Request message",
    "Simple reply message",
    "Structured reply chunk message",
    "Terminating the transmission phase",
    "Certificates, authentication and authorisation",
    "Server-side requirements",
    "NOTLS mode",
    "FORCEDTLS mode",
    "SELECTIVETLS mode",
    "TLS versions",
    "Size constraints",
    "Metadata querying",
    "The `base:` metadata namespace",
    "`base:allocation` metadata context",
    "Handshake flags",
    "Client flags",
    "Transmission flags",
    "Option types",
    "Option reply types",
    "Command flags",
    "Structured reply flags",
    "Structured reply types",
    "Request types",
    "Error values",
    "Experimental extensions",
    "Baseline",
];

/// Tables of rules of the specification; their columns.
const RULES: &str = "| rule | section | here | test |";

#[test]
fn every_rule_says_where_it_stands() {
    let page = read(&repository().join("docs/interop-nbd.md"));
    let (mut rules, mut sections, mut in_table) = (0, BTreeSet::new(), false);
    for line in page.lines() {
        in_table = line == RULES || in_table && line.starts_with('|');
        if !in_table || line == RULES || line.starts_with("|---") {
            continue;
        }
        let cells: Vec<&str> = line.trim_matches('|').split(" | ").map(str::trim).collect();
        let [rule, section, here, _tests] = cells.as_slice() else { panic!("columns of {line}") };
        assert!(SECTIONS.contains(section), "{rule:?} stands in no section {section:?}");
        assert!(!rule.is_empty() && !here.is_empty(), "{line}");
        sections.insert(*section);
        rules += 1;
    }
    assert!(rules > 80, "only {rules} rules");
    // What has rules for servers has some here.
    let without: Vec<_> = SECTIONS.iter().filter(|name| !sections.contains(*name)).collect();
    assert!(without.is_empty(), "no rule of {without:?}");
}

#[test]
fn the_page_names_every_constant_peer_and_test() {
    let page = read(&repository().join("docs/interop-nbd.md"));
    let mut tests = 0;
    for (file, test) in quoted(&page).filter_map(|text| text.split_once("::")) {
        let text = read(&file_of(file));
        assert!(text.contains(&format!("fn {test}(")), "the page names {file}::{test}");
        tests += 1;
    }
    assert!(tests > 80, "only {tests} tests are named");
    let named: BTreeSet<&str> = quoted(&page).collect();
    let missing: Vec<_> =
        constants().into_iter().filter(|name| !named.contains(name.as_str())).collect();
    assert!(missing.is_empty(), "the page says nothing of {missing:?}");
    let strangers: Vec<_> =
        peers().into_iter().filter(|name| !named.contains(name.as_str())).collect();
    assert!(strangers.is_empty(), "the page says nothing of the peers {strangers:?}");
}
