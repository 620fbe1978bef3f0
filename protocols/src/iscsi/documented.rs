//! `docs/interop-iscsi.md` says of sessions what tests hold: each that it names is there.

use std::path::Path;

/// The page.
const PAGE: &str = include_str!("../../../docs/interop-iscsi.md");

/// Fewer names than this mean that they are written in another way now.
const LEAST: usize = 40;

#[test]
fn every_test_that_the_page_names_is_there() {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    let workspace = package.join("..");
    let peers = workspace.join("tests/tests/interop");
    let folders = [package.join("src/iscsi"), peers, workspace];
    let mut names = 0;
    for quoted in PAGE.split('`') {
        let Some((file, test)) = quoted.split_once(".rs::") else { continue };
        let file = format!("{file}.rs");
        let mut found = folders.iter().map(|folder| std::fs::read_to_string(folder.join(&file)));
        let text = found.find_map(Result::ok);
        let text = text.unwrap_or_else(|| panic!("there is no {file}"));
        assert!(text.contains(&format!("fn {test}(")), "{file} has no test {test}");
        names += 1;
    }
    assert!(names >= LEAST, "{names} tests are named");
}
