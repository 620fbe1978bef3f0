//! Targets that an initiator may not have beside each other: it is asked whether it is still at the
//! one.

use super::initiator::{HOST, Initiator, OTHER, Opening};
use super::*;
use crate::iscsi::wire::login::LoginStatus;
use crate::iscsi::wire::pdu::Response;

fn other() -> Opening {
    Opening { target: Some(OTHER.into()), ..Opening::default() }
}

/// The answer to a login at [`OTHER`], and how long that took.
fn tried(address: SocketAddr) -> (LoginStatus, Duration) {
    let began = Instant::now();
    let mut initiator = Initiator::connect(address);
    let status = initiator.login(&other()).0.status;
    (status, began.elapsed())
}

#[test]
fn who_is_there_is_kept_out_elsewhere() {
    let server = Server::start(brisk());
    let address = server.address;
    let mut there = Initiator::in_session(server.address, &Opening::default());
    std::thread::scope(|scope| {
        let login = scope.spawn(|| tried(address));
        let (Response::Nop(ping), _) = there.receive() else { panic!("no ping") };
        there.pong(ping.transfer_tag);
        assert_eq!(login.join().expect("no panic").0, LoginStatus::AuthorizationFailure);
    });
    assert_eq!(server.service.kept_out.left_out_before(Instant::now()), None, "it was logged");
    // Somebody else is not asked about.
    let initiator = "iqn.2026-11.com.example:else".into();
    Initiator::logged_in(server.address, &Opening { initiator, ..other() }).logout();
    there.logout();
    Initiator::logged_in(server.address, &other()).logout();
    server.stop();
}

#[test]
fn who_is_silent_is_out_soon_and_told_to_try_again_until_then() {
    // A little more than one login waits, and less than two.
    let idle_time = login::PROOF_TIME + login::PROOF_TIME / 2;
    let server = Server::start(Settings { idle_time, ..brisk() });
    let address = server.address;
    let silent = Initiator::in_session(server.address, &Opening::default());
    let (status, took) = tried(address);
    assert_eq!(status, LoginStatus::ServiceUnavailable);
    assert!(took >= login::PROOF_TIME && took < Duration::from_secs(5), "{took:?}");
    // That somebody asks again gives the silent one no more time.
    let (status, took) = tried(address);
    assert_eq!(status, LoginStatus::Success);
    assert!(took < login::PROOF_TIME, "{took:?}");
    assert_eq!(server.service.counters.sessions_broken.load(Relaxed), 1, "it was silent");
    drop(silent);
    server.stop();
}

#[test]
fn who_has_logged_out_is_not_there_though_its_commands_run() {
    let server = Server::start(brisk());
    let address = server.address;
    let mut initiator = Initiator::in_session(server.address, &Opening::default());
    assert_eq!(server.disk.writes.forget_permits(disk::OPEN), disk::OPEN);
    let command = initiator.write_command(0, 1);
    initiator.start(&command, &pattern(512, 9));
    server.until(|counters| counters.commands.load(Relaxed) == 1);
    assert!(server.offered.device.has_initiator(HOST));
    initiator.is_logged_out();
    assert!(!server.offered.device.has_initiator(HOST), "it was answered");
    let (status, took) = tried(address);
    assert!(status == LoginStatus::Success && took < AT_ONCE, "{status:?} after {took:?}");
    server.disk.writes.add_permits(disk::OPEN);
    server.until(|counters| counters.sessions_lingering.load(Relaxed) == 0);
    server.stop();
}
