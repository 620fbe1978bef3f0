//! Exports over iSCSI that are removed under their initiators, and those that keep each other out.

use crate::iscsi::export;
use crate::machine::{Web, text};
use landfall_protocols::iscsi::wire::login::LoginStatus;
use landfall_protocols::iscsi::wire::notice::Event;
use landfall_tests::harness::{Initiator, Target, run};
use serde_json::Value;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

/// How long something may take that has to happen.
const PATIENCE: Duration = Duration::from_secs(30);
/// There is no unit any more.
const NO_UNIT: (u8, u8, u8) = (5, 0x25, 0);

/// Where a target is, and its name.
pub(crate) fn place(export: &Value) -> (SocketAddr, &str) {
    let (portal, name) = (&export["iscsi"]["portal"], &export["iscsi"]["name"]);
    let portal = portal.as_str().expect("open").parse().expect("an address");
    (portal, name.as_str().expect("a name"))
}

fn try_login(export: &Value, number: u8) -> Result<Initiator, LoginStatus> {
    let (portal, name) = place(export);
    Initiator::try_login(portal, name, number)
}

/// Waits until nothing is left of any session.
#[track_caller]
pub(crate) fn no_session_is_left(target: &Target) {
    let begun = Instant::now();
    loop {
        let metrics = target.metrics();
        let left = ["sessions", "sessions_lingering"].map(|name| {
            let name = format!("landfall_iscsi_{name}");
            metrics.get(&name)
        });
        if left == [0.0; 2] {
            return;
        }
        assert!(begun.elapsed() < PATIENCE, "{left:?} stay");
        thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn an_export_is_removed_under_a_session_that_writes() {
    let web = Web::with_points(1);
    let first = export(&web.target, &["web@latest", "--writable", "--branch", "a"]);
    let second = export(&web.target, &["web@latest", "--writable", "--branch", "b"]);
    let (portal, name) = place(&first);
    let idle = Initiator::login(portal, name, 2);
    let mut writes = Initiator::login(portal, name, 1);
    let done = AtomicU32::new(0);
    let (done_at_removal, last, sense, told) = thread::scope(|scope| {
        let writer = scope.spawn(|| {
            loop {
                let number = done.load(SeqCst) + 1;
                let write = writes.write(0, &number.to_be_bytes().repeat(1024));
                if let Some(sense) = writes.sense(&write) {
                    return (sense, writes.until_closed());
                }
                done.store(number, SeqCst);
            }
        });
        let begun = Instant::now();
        while done.load(SeqCst) < 10 {
            assert!(begun.elapsed() < PATIENCE, "it does not write");
            thread::sleep(Duration::from_millis(1));
        }
        web.target.landfall(&["export", "remove", &first["id"].to_string()]).ok();
        let done_at_removal = done.load(SeqCst);
        // While its session at the first one still ends.
        let other = try_login(&second, 1).expect("it has no other branch any more");
        other.logout();
        let (sense, told) = writer.join().expect("no panic");
        (done_at_removal, done.load(SeqCst), sense, told)
    });
    assert_eq!(sense, NO_UNIT);
    // What was on its way when the command was answered may have been done.
    assert!(last <= done_at_removal + 1, "{last} writes, {done_at_removal} before the answer");
    let asked = |told: &[Event]| matches!(told, [Event::LogoutWanted { within: 1 }, ..]);
    assert!(asked(&told), "{told:?}");
    assert!(asked(&idle.until_closed()));
    for number in [1, 2] {
        assert_eq!(try_login(&first, number).err(), Some(LoginStatus::NotFound));
    }
    no_session_is_left(&web.target);
    // All that was answered is there, and nothing else.
    let head = web.target.folder().join("head.raw");
    let uri = web.target.uri("web~a/os");
    run("qemu-img", &["convert", "-f", "raw", "-O", "raw", &uri, text(&head)]);
    let head = std::fs::read(&head).expect("converted");
    let found = u32::from_be_bytes(head[..4].try_into().expect("four"));
    assert!((last..=last + 1).contains(&found), "{found} was written, {last} was answered");
    web.target.landfall(&["branch", "discard", "web~a"]).ok();
}

#[test]
fn an_initiator_has_one_writable_target_of_a_machine() {
    let web = Web::with_points(1);
    web.target.log().expect("may not have both");
    let first = export(&web.target, &["web@latest", "--writable", "--branch", "a"]);
    let again = export(&web.target, &["web~a", "--writable"]);
    let other = export(&web.target, &["web@latest", "--writable", "--branch", "b"]);
    let moment = export(&web.target, &["web@latest"]);
    let (portal, name) = place(&first);
    let mut there = Initiator::login(portal, name, 1);
    let leaves = AtomicBool::new(false);
    let statuses = thread::scope(|scope| {
        // It answers pings, and does something.
        let living = scope.spawn(|| {
            while !leaves.load(SeqCst) {
                assert_eq!(there.test_unit_ready(), 0);
            }
            there.logout();
        });
        // Nothing is checked before it has been told to leave.
        let logins = [(&again, 1), (&again, 2), (&other, 1), (&other, 2), (&moment, 1)];
        let statuses = logins.map(|(export, number)| try_login(export, number).err());
        leaves.store(true, SeqCst);
        living.join().expect("no panic");
        statuses
    });
    let refused = Some(LoginStatus::AuthorizationFailure);
    assert_eq!(statuses, [refused, None, refused, None, None]);
    for free in [&again, &other] {
        try_login(free, 1).expect("it has logged out").logout();
    }
    no_session_is_left(&web.target);
}
