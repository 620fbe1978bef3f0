//! Starting peers: those that this system's packages have, and the next generation beside them.
//!
//! A peer that is not there is a failure: the system packages that the tests need are named by `scripts/install-packages`,
//! and `scripts/newer-peers` brings the next generation.

use crate::memory::Server;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

pub(crate) const MIB: u64 = 1 << 20;
pub(crate) const SIZE: u64 = 64 * MIB;

/// Bytes that no codec or checksum takes for something else.
pub(crate) fn noise(length: u64, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    (0..length).map(|_| next()).collect()
}

/// A server whose disks hold noise with holes between.
pub(crate) fn server() -> Server {
    let server = Server::start(SIZE);
    for disk in [&server.disk, &server.frozen] {
        disk.put(0, &noise(5 * MIB, 1));
        disk.put(20 * MIB + 4096, &noise(3 * MIB, 2));
        disk.put(SIZE - 70_000, &noise(70_000, 3));
    }
    server
}

pub(crate) fn attempt(program: &str, arguments: &[&str]) -> Output {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null());
    match command.output() {
        Ok(output) => output,
        Err(error) => panic!("the peer {program} cannot be started: {error}"),
    }
}

/// What `program` says on success.
pub(crate) fn run(program: &str, arguments: &[&str]) -> String {
    let output = attempt(program, arguments);
    let (said, complained) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {}\n{said}\n{complained}",
        output.status
    );
    said.into_owned()
}

pub(crate) fn text(path: &Path) -> &str {
    path.to_str().expect("a path of the tests is text")
}

pub(crate) fn same_bytes(path: &PathBuf, expected: &[u8]) -> bool {
    fs::read(path).expect("the copy") == expected
}

/// Where the newer generation was unpacked.
pub(crate) fn newer_root() -> PathBuf {
    let cache = std::env::var_os("LANDFALL_CACHE").map(PathBuf::from).unwrap_or_else(|| {
        let folder = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
        let home = || PathBuf::from(std::env::var_os("HOME").expect("a home")).join(".cache");
        folder.unwrap_or_else(home).join("landfall")
    });
    cache.join("trixie")
}

/// The newer generation's `program`.
pub(crate) fn newer(program: &str) -> String {
    let path = newer_root().join("peers").join(program);
    assert!(path.exists(), "no {}: run scripts/newer-peers", path.display());
    text(&path).to_owned()
}
