//! What the documentation says of kinds and peers, against what is there.

use crate::image::landfall;
use landfall_tests::harness::run;
use std::collections::BTreeSet;
use std::path::Path;

fn page() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/formats/images.md");
    std::fs::read_to_string(path).expect("the page is there")
}

/// The table of kinds: format, kind, and whether it can be created.
fn rows(page: &str) -> Vec<Vec<&str>> {
    let formats = ["| vmdk |", "| vhdx |", "| vhd |", "| raw |"];
    let lines = page.lines().filter(|line| formats.iter().any(|start| line.starts_with(start)));
    lines.map(|line| line.trim_matches('|').split('|').map(str::trim).collect()).collect()
}

#[test]
fn the_versions_of_the_peers_are_those_that_are_installed() {
    let page = page();
    for (program, arguments, name) in [
        ("qemu-img", &["--version"][..], "QEMU"),
        ("vmdkinfo", &["-V"], "libvmdk"),
        ("vhdiinfo", &["-V"], "libvhdi"),
    ] {
        let said = run(program, arguments);
        let version = said
            .split_whitespace()
            .find(|word| word.starts_with(|letter: char| letter.is_ascii_digit()))
            .expect("a version");
        assert!(page.contains(&format!("{name} {version}")), "the page has another {name}: {said}");
    }
}

#[test]
fn kinds_that_can_be_created_are_those_of_the_command() {
    let page = page();
    let rows = rows(&page);
    assert!(rows.len() > 12, "the table of kinds is not found");
    let help = landfall(&["create", "--help"]).ok();
    let words: BTreeSet<&str> =
        help.split(|letter: char| !letter.is_ascii_alphanumeric()).collect();
    for row in rows {
        let [format, kind, _, write, create, ..] = row[..] else { panic!("{row:?}") };
        let Some(kind) = kind.strip_prefix('`').and_then(|rest| rest.split('`').next()) else {
            continue;
        };
        assert!(words.contains(format), "--format {format}");
        // A differencing image is asked for by its parent, a raw one has no kinds.
        if create == "yes" && !["differencing", "raw"].contains(&kind) {
            assert!(words.contains(kind), "{format} {kind} can be created, says the page");
        }
        assert!(create == "yes" || write == "no", "{format} {kind} is written and not created");
    }
}
