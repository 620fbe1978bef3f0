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
    let folder = match name.split('/').next() {
        Some("session" | "wire" | "serve") => "protocols/src/nbd",
        Some("nbd") => "protocols/tests",
        Some("interop") => "tests/tests",
        Some("config") => "target/src",
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

/// Programs that tests start.
fn peers() -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for file in ["interop.rs", "newer.rs", "tls.rs"] {
        let text = read(&repository().join("protocols/tests/nbd").join(file));
        for start in ["run(\"", "attempt(\"", "newer(\""] {
            for call in text.split(start).skip(1) {
                let name = call.split('"').next().expect("a name");
                found.insert(name.rsplit('/').next().expect("a name").to_owned());
            }
        }
    }
    assert!(found.contains("nbdcopy") && found.contains("qemu-io"), "{found:?}");
    found
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
