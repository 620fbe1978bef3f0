//! What initiators are told when space becomes little, and when there is none: the machine that has none, and nobody else.

use crate::iscsi::export;
use crate::machine::Web;
use landfall_tests::harness::{Initiator, Target};
use serde_json::Value;
use std::time::{Duration, Instant};

/// How long a policy may take to be applied.
const PATIENCE: Duration = Duration::from_secs(30);
const MIB: usize = 1 << 20;

/// Sense key and additional code when less than the threshold is left (SBC-3, 4.7.3.5: THIN PROVISIONING SOFT THRESHOLD REACHED).
const LITTLE: (u8, u8, u8) = (6, 0x38, 0x07);
/// When nothing is (SPACE ALLOCATION FAILED WRITE PROTECT): ESXi pauses the VM that wrote.
const NONE: (u8, u8, u8) = (7, 0x27, 0x07);

fn login(export: &Value, number: u8) -> Initiator {
    let target = &export["iscsi"];
    let (portal, name) = (target["portal"].as_str(), target["name"].as_str());
    let portal = portal.expect("open").parse().expect("an address");
    Initiator::login(portal, name.expect("a name"), number)
}

/// What the history of the machine takes, once somebody has looked.
fn used(target: &Target) -> u64 {
    until("it was looked at", || {
        let shown = target.json(&["machine", "show", "web", "--json"]);
        shown["history"]["space"]["used_bytes"].as_u64()
    })
}

fn until<T>(what: &str, look: impl Fn() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(begun.elapsed() < PATIENCE, "{what}: not within {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn set_quota(target: &Target, bytes: u64) {
    let policy = format!("keep all, quota {bytes}B hold");
    target.landfall(&["policy", "set", "web", &policy]).ok();
}

/// A megabyte of `byte` at the `nth` megabyte; what is said of it.
fn write(initiator: &mut Initiator, nth: u32, byte: u8) -> Option<(u8, u8, u8)> {
    let sent = initiator.write(nth * 2048, &vec![byte; MIB]);
    initiator.sense(&sent)
}

#[test]
fn initiators_are_told_of_little_space_and_of_none() {
    let web = Web::with_points(1);
    let target = &web.target;
    target.log().expect("nothing more is taken of web");
    target.log().expect("space");
    let branch = export(target, &["web@latest", "--writable", "--branch", "b"]);
    let mut one = login(&branch, 1);
    for nth in 0..8 {
        assert_eq!(write(&mut one, nth, 0x11), None, "there is space");
    }
    set_quota(target, 1 << 30);
    let taken = used(target);
    assert!(taken >= 8 * MIB as u64, "{taken}");

    // A twentieth is left, less than a sixteenth.
    set_quota(target, taken + taken / 19);
    let begun = Instant::now();
    let told = loop {
        let read = one.read(0, 512);
        match one.sense(&read) {
            Some(sense) => break sense,
            None => assert!(begun.elapsed() < PATIENCE, "nobody was told"),
        }
        std::thread::sleep(Duration::from_millis(50));
    };
    assert_eq!(told, LITTLE);
    let read = one.read(0, 512);
    assert_eq!(one.finish(&read), (0, vec![0x11; 512]), "told once");
    let mut two = login(&branch, 2);
    let read = two.read(0, 512);
    assert_eq!(two.sense(&read), Some(LITTLE), "whoever comes is told as he comes");
    two.logout();

    set_quota(target, 6 * MIB as u64);
    let held = || {
        target.json(&["machine", "show", "web", "--json"])["history"]["space"]["held"]
            .as_str()
            .map(str::to_owned)
    };
    until("it is held", held);
    assert_eq!(write(&mut one, 0, 0x22), Some(NONE));
    let read = one.read(0, MIB);
    assert_eq!(one.finish(&read), (0, vec![0x11; MIB]), "it lives, and nothing was written");
    target.landfall(&["policy", "set", "web", "keep all"]).ok();
    until("it goes on", || held().is_none().then_some(()));
    assert_eq!(write(&mut one, 0, 0x33), None);
    let read = one.read(0, MIB);
    assert_eq!(one.finish(&read), (0, vec![0x33; MIB]));
    one.logout();
}
