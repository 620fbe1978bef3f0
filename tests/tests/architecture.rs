//! The shape of the workspace, held by tests.
//!
//! Who may depend on whom, where unsafe code may stand, what the top of the repository looks like:
//! rules that no compiler checks and that one convenient line in a `Cargo.toml` would end. Each
//! test reads the repository itself (cargo's metadata, git's list of files), never a copy of it.
//!
//! ```text
//!   vhdx-parse ◀── disks ◀─┬─ retention ◀─┐
//!                          └─ protocols ◀─┴─ landfall ◀── perf, tests
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use cargo_metadata::{DependencyKind, Metadata, MetadataCommand, Package};

/// The most one package may use of the others: itself, and what its code may depend on.
const MAY_USE: &[(&str, &[&str])] = &[
    ("vhdx-parse", &[]),
    ("landfall-disks", &["vhdx-parse"]),
    ("landfall-retention", &["landfall-disks"]),
    ("landfall-protocols", &["landfall-disks"]),
    ("landfall", &["landfall-disks", "landfall-retention", "landfall-protocols"]),
    ("landfall-perf", &["landfall", "landfall-disks", "landfall-retention", "landfall-protocols"]),
    ("landfall-tests", &["landfall", "landfall-disks", "landfall-retention", "landfall-protocols"]),
];

/// Who may have `landfall-disks` with its `testing` feature as a dev-dependency.
const MAY_TEST_WITH_DISKS: &[&str] =
    &["landfall-disks", "landfall-retention", "landfall-protocols"];

/// The top level of the repository; files whose name starts with a dot may stand beside these.
const TOP_LEVEL: &[&str] = &[
    "CHANGELOG.md",
    "Cargo.lock",
    "Cargo.toml",
    "LICENSE",
    "Makefile",
    "README.md",
    "disks",
    "docs",
    "perf",
    "protocols",
    "retention",
    "scripts",
    "target",
    "tests",
];

/// Names that say nothing about what lies behind them.
const EMPTY_NAMES: &[&str] = &["common", "util", "utils", "helper", "helpers", "misc", "base"];

fn repository() -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().expect("tests/ lies inside the repository").to_path_buf()
}

fn metadata() -> Metadata {
    MetadataCommand::new()
        .current_dir(repository())
        .no_deps()
        .other_options(["--locked".to_owned(), "--offline".to_owned()])
        .exec()
        .expect("cargo metadata of the workspace")
}

/// Every file git tracks, relative to the top of the repository.
fn tracked_files() -> Vec<String> {
    let output = Command::new("git")
        .args(["ls-files", "-z"])
        .current_dir(repository())
        .output()
        .expect("git is installed");
    assert!(output.status.success(), "git ls-files: {}", String::from_utf8_lossy(&output.stderr));
    let listing = String::from_utf8(output.stdout).expect("file names are UTF-8");
    let files: Vec<String> = listing.split_terminator('\0').map(str::to_owned).collect();
    assert!(!files.is_empty(), "git tracks no file at all in {}", repository().display());
    files
}

fn read(file: &str) -> String {
    let path = repository().join(file);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The dependencies of `package` on packages of this workspace.
fn arrows<'a>(
    package: &'a Package,
    ours: &'a BTreeSet<String>,
) -> impl Iterator<Item = &'a cargo_metadata::Dependency> {
    package.dependencies.iter().filter(|dependency| ours.contains(&dependency.name))
}

#[test]
fn packages_depend_on_each_other_only_as_designed() {
    let table: BTreeMap<&str, &[&str]> = MAY_USE.iter().copied().collect();
    let metadata = metadata();
    let ours: BTreeSet<String> =
        metadata.workspace_packages().iter().map(|package| package.name.to_string()).collect();
    assert!(ours.contains("landfall"), "cargo metadata does not list the workspace: {ours:?}");

    let mut wrong = Vec::new();
    for package in metadata.workspace_packages() {
        let name = package.name.as_str();
        let Some(may_use) = table.get(name) else {
            wrong.push(format!("{name} is not in the table of the design"));
            continue;
        };
        for dependency in arrows(package, &ours) {
            let testing = dependency.kind == DependencyKind::Development
                && dependency.name == "landfall-disks"
                && dependency.features.iter().any(|feature| feature == "testing")
                && MAY_TEST_WITH_DISKS.contains(&name);
            if !may_use.contains(&dependency.name.as_str()) && !testing {
                wrong.push(format!("{name} → {} ({})", dependency.name, dependency.kind));
            }
        }
    }
    assert!(wrong.is_empty(), "arrows that the design does not have:\n{}", wrong.join("\n"));
}

#[test]
fn only_tests_ask_for_the_testing_feature() {
    let metadata = metadata();
    for package in metadata.workspace_packages() {
        if package.name.as_str() == "landfall-tests" {
            continue;
        }
        for dependency in &package.dependencies {
            assert!(
                dependency.kind == DependencyKind::Development
                    || !dependency.features.iter().any(|feature| feature == "testing"),
                "{} ships with {}'s testing feature",
                package.name,
                dependency.name
            );
        }
    }
}

#[test]
fn fuzz_targets_never_reach_rocksdb() {
    let lock = read("tests/fuzz/Cargo.lock");
    assert!(
        lock.contains("name = \"libfuzzer-sys\""),
        "this is not the lock file of the fuzz crate"
    );
    assert!(!lock.contains("rocksdb"), "the fuzz crate would compile RocksDB");
}

#[test]
fn models_run_none_of_the_code_and_never_reach_rocksdb() {
    let lock = read("docs/models/Cargo.lock");
    assert!(lock.contains("name = \"stateright\""), "this is not the lock file of the models");
    for package in ["rocksdb", "landfall-retention", "landfall-disks"] {
        assert!(!lock.contains(&format!("name = \"{package}\"")), "the models use {package}");
    }
}

#[test]
fn the_source_folder_named_target_is_no_build_folder() {
    let files = tracked_files();
    assert!(
        files.iter().any(|file| file == "target/src/main.rs"),
        "target/src/main.rs is not tracked: is /target ignored?"
    );
    for folder in ["target/debug", "target/release"] {
        assert!(
            !repository().join(folder).exists(),
            "{folder} exists: something built into the source folder"
        );
    }
}

#[test]
fn the_top_level_is_the_one_of_the_design() {
    let found: BTreeSet<String> = tracked_files()
        .iter()
        .map(|file| file.split('/').next().unwrap_or_default().to_owned())
        .filter(|name| !name.starts_with('.'))
        .collect();
    let designed: BTreeSet<String> = TOP_LEVEL.iter().map(|name| (*name).to_owned()).collect();
    assert_eq!(found, designed);
}

#[test]
fn nothing_is_called_common_or_util() {
    for package in metadata().workspace_packages() {
        let last = package.name.rsplit('-').next().unwrap_or_default().to_owned();
        assert!(!EMPTY_NAMES.contains(&last.as_str()), "package {} says nothing", package.name);
    }
    for file in tracked_files().iter().filter(|file| file.ends_with(".rs")) {
        for part in file.trim_end_matches(".rs").split('/') {
            assert!(!EMPTY_NAMES.contains(&part), "{file}: '{part}' says nothing");
        }
    }
}

/// The lines of the dependency tables of a manifest, whatever their kind (`dev-`, `build-`).
fn dependency_lines(manifest: &str) -> Vec<&str> {
    let mut inside = false;
    let mut lines = Vec::new();
    for line in manifest.lines() {
        if line.starts_with('[') {
            inside = line.trim_end().ends_with("dependencies]");
        } else if inside && line.starts_with(|first: char| first.is_ascii_alphanumeric()) {
            lines.push(line);
        }
    }
    lines
}

#[test]
fn every_dependency_says_what_it_is_for() {
    let manifest = read("Cargo.toml");
    let lines = dependency_lines(&manifest);
    assert!(lines.len() > 20, "the table of workspace dependencies was not found: {lines:?}");
    for line in lines {
        if line.starts_with("landfall-") || line.starts_with("vhdx-parse") {
            continue;
        }
        let reason = line.split_once("# ").map(|(_, reason)| reason.trim()).unwrap_or_default();
        assert!(reason.len() > 4, "no reason beside: {line}");
    }
}

#[test]
fn versions_live_in_the_workspace_manifest_only() {
    let manifests: Vec<String> = metadata()
        .workspace_packages()
        .iter()
        .map(|package| package.manifest_path.to_string())
        .collect();
    for manifest in manifests {
        let text = std::fs::read_to_string(&manifest).expect("manifest of a workspace package");
        for line in dependency_lines(&text) {
            assert!(
                line.contains("workspace = true") || line.contains("path = "),
                "{manifest}: a version outside the workspace manifest: {line}"
            );
        }
    }
}

/// Whether a line of code opens something unsafe, or lifts the lint that forbids it. Prose and
/// strings may say the word.
fn opens_unsafe(line: &str) -> bool {
    let code = line.split("//").next().unwrap_or_default();
    let word = "unsafe";
    let block = code.match_indices(word).any(|(at, _)| {
        let before = code[..at].chars().next_back();
        let after = code[at + word.len()..].trim_start();
        before.is_none_or(|c| !c.is_alphanumeric() && c != '_' && c != '"')
            && ["{", "fn ", "impl", "extern", "trait ", "("].iter().any(|s| after.starts_with(s))
    });
    let lifted =
        ["allow", "expect"].iter().any(|level| code.contains(&format!("{level}({word}_code")));
    block || lifted
}

#[test]
fn unsafe_code_stands_only_in_the_io_uring_engine_and_its_yardstick() {
    // The words are put together so that this file does not accuse itself.
    for line in ["un|safe { read() }", "pub un|safe fn f() {}", "#![allow(un|safe_code)]"] {
        assert!(opens_unsafe(&line.replace('|', "")), "not seen: {line}");
    }
    for line in ["// un|safe { in prose }", "un|safe_code = 1", "let says = \"un|safe\";"] {
        assert!(!opens_unsafe(&line.replace('|', "")), "wrongly seen: {line}");
    }
    for file in tracked_files() {
        let engine = file.starts_with("disks/src/uring/");
        // The bare loop that the engine is measured against, never a part of the product.
        if !file.ends_with(".rs") || engine || file == "perf/src/limit.rs" {
            continue;
        }
        for (number, line) in read(&file).lines().enumerate() {
            assert!(!opens_unsafe(line), "{file}:{}: {}", number + 1, line.trim());
        }
    }
}
