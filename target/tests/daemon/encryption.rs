//! Encryption at rest, as an administrator does it: keys outside the data folder, rotated, missing and destroyed.

use crate::harness::{Target, metrics, noise};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

const MIB: usize = 1 << 20;
/// What nobody who has the volume may find.
const SECRET: &[u8] = b"four score and seven years ago, ";

fn key_file(folder: &Path, name: &str, digits: &str) -> PathBuf {
    let path = folder.join(name);
    std::fs::write(&path, digits.repeat(8)).expect("written");
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).expect("ours");
    path
}

fn config(text: &str) -> String {
    format!("[encryption]\n{text}\n")
}

/// How often the secret stands in the files below a folder.
fn found(folder: &Path) -> usize {
    let mut found = 0;
    for entry in std::fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        found += match path.is_dir() {
            true => self::found(&path),
            false => {
                let bytes = std::fs::read(&path).expect("ours");
                bytes.windows(SECRET.len()).filter(|some| *some == SECRET).count()
            }
        };
    }
    found
}

/// A machine `NAME` with a first copy of noise, whose second point is full of the secret.
fn replicate(target: &Target, name: &str, seed: u64) -> Vec<u8> {
    let file = format!("{name}.raw");
    let source = format!("os={file}");
    std::fs::write(target.path(&file), noise(seed, MIB)).expect("written");
    target.run(&["machine", "add", name, "--disk", "name=os,size=1MiB"]);
    target.run(&["replicate", name, "--disk", &source, "--once"]);
    let mut content = SECRET.repeat(MIB / SECRET.len());
    content[..8].copy_from_slice(&seed.to_le_bytes());
    std::fs::write(target.path(&file), &content).expect("written");
    target.run(&["replicate", name, "--disk", &source, "--once"]);
    content
}

fn states(target: &Target) -> Vec<(String, String)> {
    let keys = target.json(&["key", "list"])["keys"].as_array().expect("a list").clone();
    let text = |key: &serde_json::Value, field: &str| key[field].as_str().expect("text").to_owned();
    keys.iter().map(|key| (text(key, "machine"), text(key, "state"))).collect()
}

#[test]
fn what_was_replicated_is_on_no_volume_but_that_of_the_images() {
    let keys = tempfile::tempdir().expect("a folder");
    let key = key_file(keys.path(), "kek", "01234567");
    for sealed in [false, true] {
        let text = config(&format!("key = {{ file = {key:?} }}"));
        let mut target = Target::with_config(if sealed { &text } else { "" });
        let content = replicate(&target, "web", 1);
        assert_eq!(target.read("web/os").expect("a point").0, content);
        target.stop();
        for folder in ["journal", "index"] {
            let found = found(&target.data().join(folder));
            // The index never has content.
            assert_eq!(found > 0, !sealed && folder == "journal", "{folder}, sealed: {sealed}");
        }
    }
}

#[test]
fn a_destroyed_key_takes_one_history_for_good() {
    let keys = tempfile::tempdir().expect("a folder");
    let key = key_file(keys.path(), "kek", "89abcdef");
    let text = config(&format!("key = {{ command = [\"cat\", {key:?}] }}"));
    let mut target = Target::with_config(&text);
    replicate(&target, "web", 1);
    let other = replicate(&target, "db", 2);
    target.run(&["key", "rotate", "db"]);
    let refused = target.refused(&["key", "destroy", "web"]);
    assert!(refused.contains("--yes-destroy-history"), "{refused}");
    let said = target.run(&["key", "destroy", "web", "--yes-destroy-history"]);
    assert!(said.contains("cannot be read any more"), "{said}");
    for _ in 0..2 {
        let expected = [("web", "destroyed"), ("db", "reading"), ("db", "writing")];
        assert_eq!(states(&target), expected.map(|(m, s)| (m.to_owned(), s.to_owned())));
        assert!(metrics(&target).contains("landfall_data_keys{state=\"destroyed\"} 1"));
        let refused = target.refused(&["restore", "web@latest", "--output", "web.out"]);
        assert!(refused.contains("destroyed with its keys"), "{refused}");
        assert_eq!(target.read("db/os").expect("another key").0, other);
        target.stop();
        target.resume();
    }
    let refused = target.refused(&["key", "rotate", "web"]);
    assert!(refused.contains("destroyed"), "{refused}");
    target.run(&["machine", "remove", "web"]);
    assert_eq!(states(&target).len(), 2);
}
