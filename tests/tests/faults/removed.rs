//! An export whose removal stalls, and whoever asked for it goes meanwhile: it is removed all the same, and its sessions end.

use landfall_protocols::iscsi::wire::notice::Event;
use landfall_tests::harness::{Initiator, MIB, Mount, Settings, Target};
use std::fs;
use std::process::Stdio;
use std::thread::sleep;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(20);

/// Threads of the target that the kernel keeps from going on, as it does those that write to a frozen volume.
fn stuck(target: &Target) -> usize {
    let threads = fs::read_dir(format!("/proc/{}/task", target.pid())).expect("it runs");
    let state = |path: std::path::PathBuf| {
        // One that has ended meanwhile is not stuck.
        let stat = fs::read_to_string(path.join("stat")).unwrap_or_default();
        stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('D'))
    };
    threads.filter(|thread| state(thread.as_ref().expect("listed").path())).count()
}

#[track_caller]
fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < PATIENCE, "{what}");
        sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_removal_goes_on_when_whoever_asked_for_it_has_gone() {
    let folder = tempfile::tempdir().expect("a folder");
    let volume = Mount::ext4(folder.path(), 256 * MIB);
    let (data, journal) = (volume.at().join("data"), folder.path().join("journal"));
    let (data, journal) = (Some(data), Some(journal));
    let mut target = Target::with(&Settings { data, journal, ..Settings::default() });
    let source = super::machine(&target, 16 * MIB);
    super::replicate(&target, &source);
    let add = ["export", "add", "web@latest", "--iscsi", "--writable", "--branch", "b", "--json"];
    let export = target.json(&add);
    let portal = export["iscsi"]["portal"].as_str().expect("open").parse().expect("an address");
    let name = export["iscsi"]["name"].as_str().expect("a name");
    let mut initiator = Initiator::login(portal, name, 1);
    // The first write of a branch that may be aborted is on record in the manifest.
    let first = initiator.write(0, &[0x10; 512]);
    assert_eq!(initiator.sense(&first), None);

    let frozen = volume.freeze();
    assert_eq!(stuck(&target), 0);
    let remove = ["export", "remove", &export["id"].to_string()];
    let mut asks = target.command(&remove).stdout(Stdio::null()).spawn().expect("it starts");
    until("it does not begin", || stuck(&target) > 0);
    asks.kill().expect("it waits");
    asks.wait().expect("it was killed");
    // Nothing has been removed yet, and the target is told of who went before this is answered.
    let listed = target.json(&["export", "list", "--json"]);
    assert_eq!(listed["exports"].as_array().map(Vec::len), Some(1), "{listed}");
    let write = initiator.write(0, &[0x11; 512]);
    assert_eq!(initiator.sense(&write), None, "its export is still there");
    drop(frozen);

    until("it is never removed", || {
        let listed = target.json(&["export", "list", "--json"]);
        listed["exports"].as_array().is_some_and(Vec::is_empty)
    });
    // It is removed before its units go: by a moment.
    until("writes go on", || {
        let write = initiator.write(0, &[0x22; 512]);
        initiator.sense(&write) == Some((5, 0x25, 0))
    });
    let told = initiator.until_closed();
    assert!(matches!(told[..], [Event::LogoutWanted { .. }, ..]), "{told:?}");
    until("sessions stay", || target.metrics().get("landfall_iscsi_sessions") == 0.0);
    target.stop();
    drop(target);
    drop(volume);
}
