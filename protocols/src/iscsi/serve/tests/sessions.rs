//! Logins, sessions beside each other, and how they end.

use super::initiator::{Initiator, Opening, TARGET};
use super::*;
use crate::iscsi::wire::data::DataOut;
use crate::iscsi::wire::login::{LoginStatus, Stage};
use crate::iscsi::wire::notice::Event;
use crate::iscsi::wire::number::{DataSn, StatSn, TargetTransferTag};
use crate::iscsi::wire::pdu::{Request, Response};
use std::sync::atomic::Ordering::SeqCst;

#[test]
fn what_is_written_is_read_under_all_terms() {
    let server = Server::start(brisk());
    for (round, keys) in [
        "InitialR2T=Yes ImmediateData=No",
        "InitialR2T=Yes ImmediateData=Yes",
        "InitialR2T=No ImmediateData=Yes FirstBurstLength=8192",
        "InitialR2T=Yes HeaderDigest=CRC32C,None DataDigest=CRC32C,None",
        "MaxBurstLength=1024 MaxRecvDataSegmentLength=512 MaxOutstandingR2T=8 DataDigest=CRC32C",
    ]
    .into_iter()
    .enumerate()
    {
        let mut initiator = Initiator::in_session(server.address, &Opening::with_keys(keys));
        let data = pattern(96 * 1024, round * 2 + 3);
        let mut command = initiator.write_command(7, 192);
        let along = if keys.contains("ImmediateData=Yes") { 4096 } else { 0 };
        if keys.contains("InitialR2T=No") {
            command.is_final = false;
            initiator.start(&command, &data[..along]);
            for (number, at) in [(0u32, 4096u32), (1, 6144)] {
                let pdu = DataOut {
                    is_final: number == 1,
                    lun: command.lun,
                    task_tag: command.task_tag,
                    transfer_tag: TargetTransferTag::RESERVED,
                    exp_stat_sn: StatSn::new(0),
                    data_sn: DataSn::new(number),
                    offset: at,
                };
                let at = at as usize;
                initiator.send(&Request::Data(pdu), &data[at..at + 2048]);
            }
        } else {
            initiator.start(&command, &data[..along]);
        }
        assert_eq!(initiator.finish(&command, &data).status, 0, "{keys}");
        assert!(initiator.read(7, 192) == data, "{keys}");
        assert!(server.disk.content()[7 * 512..][..data.len()] == data);
        initiator.logout();
    }
    assert_eq!(server.service.counters.sessions_broken.load(Relaxed), 0);
    server.stop();
}

#[test]
fn discovery_tells_where_targets_are() {
    let server = Server::start(brisk());
    let opening = Opening { target: None, ..Opening::default() };
    let mut initiator = Initiator::logged_in(server.address, &opening);
    let said = format!("TargetName={TARGET}\0TargetAddress={},1\0", server.address);
    assert_eq!(initiator.text("SendTargets=All\0"), said);
    assert_eq!(initiator.text(&format!("SendTargets={TARGET}\0")), said);
    assert_eq!(initiator.text("SendTargets=iqn.2026-11.com.example:other\0"), "");
    initiator.logout();
    let stranger = Opening { initiator: "iqn.2026-11.com.example:stranger".into(), ..opening };
    let mut initiator = Initiator::logged_in(server.address, &stranger);
    assert_eq!(initiator.text("SendTargets=All\0"), "");
    server.stop();
}

#[test]
fn who_may_not_enter_is_told_why() {
    let server = Server::start(brisk());
    let other = |change: fn(&mut Opening)| {
        let mut opening = Opening::default();
        change(&mut opening);
        opening
    };
    for (opening, status) in [
        (other(|it| it.target = Some(TARGET.replace("web", "db"))), LoginStatus::NotFound),
        (
            other(|it| it.initiator = "iqn.2026-11.com.example:stranger".into()),
            LoginStatus::AuthorizationFailure,
        ),
        (other(|it| it.tsih = 77), LoginStatus::SessionDoesNotExist),
    ] {
        let mut initiator = Initiator::connect(server.address);
        assert_eq!(initiator.login(&opening).0.status, status);
        assert!(initiator.next_pdu().is_none(), "the connection is closed");
    }
    server.until(|counters| counters.logins_failed.load(Relaxed) == 3);
    server.stop();
}

#[test]
fn challenges_are_fresh_and_secrets_are_needed() {
    let server = Server::with(brisk(), true);
    let mut challenges = Vec::new();
    for _ in 0..2 {
        let mut initiator = Initiator::connect(server.address);
        let opening = Opening::with_keys("AuthMethod=CHAP");
        let request = initiator.login_request(&opening, Stage::Security, None);
        let names = format!("InitiatorName={}\0TargetName={TARGET}\0", opening.initiator);
        let (_, said) = initiator.ask_login(request, &format!("{names}AuthMethod=CHAP\0"));
        assert!(said.contains("AuthMethod=CHAP"), "{said}");
        let (_, said) = initiator.ask_login(request, "CHAP_A=7,5\0");
        assert!(said.starts_with("CHAP_A=7\0"), "{said}");
        challenges.push(said);
        let (response, _) = initiator.ask_login(request, "CHAP_N=host\0CHAP_R=0x00\0");
        assert_eq!(response.status, LoginStatus::AuthenticationFailure);
        assert!(initiator.next_pdu().is_none());
    }
    assert_ne!(challenges[0], challenges[1]);
    let mut without = Initiator::connect(server.address);
    let (response, _) = without.login(&Opening::default());
    assert_eq!(response.status, LoginStatus::AuthenticationFailure);
    server.until(|counters| counters.authentications_failed.load(Relaxed) == 3);
    let seldom = server.service.unproven.left_out_before(Instant::now());
    assert_eq!(seldom, None, "one of them was logged just now");
    server.stop();
}

#[test]
fn many_sessions_of_a_target_see_the_same_disk() {
    let server = Server::start(brisk());
    let mut sessions: Vec<_> = (1..9)
        .map(|isid| Initiator::in_session(server.address, &Opening { isid, ..Opening::default() }))
        .collect();
    for (index, session) in sessions.iter_mut().enumerate() {
        session.write(index as u32, &pattern(512, index));
    }
    for (index, session) in sessions.iter_mut().rev().enumerate() {
        assert_eq!(session.read(index as u32, 1), pattern(512, index));
    }
    assert_eq!(server.service.counters.sessions_open.load(Relaxed), 8);
    sessions.into_iter().for_each(Initiator::logout);
    server.stop();
}

#[test]
fn who_logs_in_again_replaces_itself() {
    let server = Server::start(brisk());
    let mut old = Initiator::in_session(server.address, &Opening::default());
    let mut beside =
        Initiator::in_session(server.address, &Opening { isid: 2, ..Opening::default() });
    let mut new = Initiator::logged_in(server.address, &Opening::default());
    assert!(matches!(
        old.receive(),
        (Response::Async(message), _) if matches!(message.event, Event::SessionDropped { .. })
    ));
    assert!(old.next_pdu().is_none());
    assert_eq!(new.attention(), Some((6, 0x29)), "the nexus was lost");
    assert_eq!(new.attention(), None);
    assert_eq!(beside.attention(), None, "another session is none of its business");
    assert_eq!(server.service.counters.sessions_replaced.load(Relaxed), 1);
    // By its name: the same connection comes again, another one is one too many.
    let tsih = new.tsih.number();
    let mut second = Initiator::connect(server.address);
    let opening = Opening { tsih, cid: 2, ..Opening::default() };
    assert_eq!(second.login(&opening).0.status, LoginStatus::TooManyConnections);
    assert_eq!(new.attention(), None);
    let again = Initiator::in_session(server.address, &Opening { tsih, ..Opening::default() });
    assert_eq!(again.tsih.number(), tsih);
    assert!(matches!(new.receive(), (Response::Async(_), _)));
    server.stop();
}

/// A session whose only command waits for the disk.
fn with_a_write_that_hangs(server: &Server) -> Initiator {
    let mut initiator = Initiator::in_session(server.address, &Opening::default());
    assert_eq!(server.disk.writes.forget_permits(disk::OPEN), disk::OPEN);
    let command = initiator.write_command(0, 1);
    initiator.start(&command, &pattern(512, 9));
    server.until(|counters| counters.commands.load(Relaxed) == 1);
    initiator
}

#[test]
fn tasks_of_a_session_that_is_replaced_are_aborted() {
    let server = Server::start(brisk());
    let mut old = with_a_write_that_hangs(&server);
    let mut new = Initiator::logged_in(server.address, &Opening::default());
    assert_eq!(server.service.counters.commands_dropped.load(Relaxed), 1);
    assert_eq!(server.service.counters.commands_aborted.load(Relaxed), 0, "nobody did that");
    assert!(matches!(old.receive(), (Response::Async(_), _)), "and nothing of the command");
    assert!(old.next_pdu().is_none());
    server.disk.writes.add_permits(disk::OPEN);
    server.until(|_| server.disk.decided.load(SeqCst) == 1);
    assert_eq!(server.disk.content()[..512], [0; 512], "nothing came of what was aborted");
    assert_eq!(new.attention(), Some((6, 0x29)));
    new.logout();
    server.stop();
}

#[test]
fn tasks_of_a_connection_that_is_made_anew_are_aborted() {
    let server = Server::start(brisk());
    let mut old = with_a_write_that_hangs(&server);
    let opening = Opening { tsih: old.tsih.number(), ..Opening::default() };
    let new = Initiator::in_session(server.address, &opening);
    assert_eq!(new.tsih, old.tsih);
    assert_eq!(server.service.counters.commands_dropped.load(Relaxed), 1);
    assert!(matches!(old.receive(), (Response::Async(_), _)), "and nothing of the command");
    assert!(old.next_pdu().is_none());
    server.disk.writes.add_permits(disk::OPEN);
    new.logout();
    server.stop();
}

#[test]
fn a_target_that_is_removed_while_it_is_opened_is_not_there() {
    let server = Server::start(brisk());
    server.offered.vanishes.store(true, Relaxed);
    let mut initiator = Initiator::connect(server.address);
    let (response, _) = initiator.login(&Opening::default());
    assert_eq!(response.status, LoginStatus::TargetRemoved);
    assert!(initiator.next_pdu().is_none());
    server.stop();
}

#[test]
fn sessions_of_a_target_that_is_removed_end() {
    let settings = Settings { parting_time: Duration::from_millis(500), ..Settings::default() };
    let server = Server::start(settings);
    let mut one = Initiator::in_session(server.address, &Opening::default());
    let mut other =
        Initiator::in_session(server.address, &Opening { isid: 2, ..Opening::default() });
    server.service.dismiss(&Name::parse(&TARGET.replace("web", "db")).expect("a name"));
    assert!(one.hears_nothing(Duration::from_millis(50)), "that is another target");
    // As whoever removes one does: its units go first.
    server.offered.device.detach_all();
    server.service.dismiss(&Name::parse(TARGET).expect("a name"));
    for initiator in [&mut one, &mut other] {
        let (Response::Async(message), _) = initiator.receive() else { panic!("no message") };
        assert_eq!(message.event, Event::LogoutWanted { within: 1 });
        let write = initiator.write_command(3, 1);
        initiator.start(&write, &pattern(512, 5));
        let done = initiator.finish(&write, &[]);
        assert_eq!((done.status, done.sense), (2, Some((5, 0x25, 0))), "it has no units");
    }
    assert!(server.disk.content().iter().all(|byte| *byte == 0), "nothing was written");
    one.logout();
    let (Response::Async(message), _) = other.receive() else { panic!("no message") };
    assert!(matches!(message.event, Event::SessionDropped { .. }), "it stayed");
    assert!(other.next_pdu().is_none());
    server.stop();
}

#[test]
fn a_server_that_stops_asks_initiators_to_leave() {
    let settings = Settings { parting_time: PATIENCE, ..Settings::default() };
    let server = Server::start(settings);
    let mut one = Initiator::in_session(server.address, &Opening::default());
    let mut other =
        Initiator::in_session(server.address, &Opening { isid: 2, ..Opening::default() });
    server.service.stop();
    for initiator in [&mut one, &mut other] {
        let (Response::Async(message), _) = initiator.receive() else { panic!("no message") };
        assert_eq!(message.event, Event::LogoutWanted { within: PATIENCE.as_secs() as u16 });
        // What it has still to do is done.
        initiator.write(3, &pattern(1024, 5));
    }
    one.logout();
    other.logout();
    server.stop();
}

#[test]
fn a_server_that_stops_answers_what_it_has_begun() {
    let server = Server::start(brisk());
    let mut initiator = Initiator::in_session(server.address, &Opening::default());
    server.disk.writes.forget_permits(disk::OPEN);
    let command = initiator.write_command(0, 1);
    initiator.start(&command, &pattern(512, 9));
    server.until(|counters| counters.commands.load(Relaxed) == 1);
    server.service.stop();
    assert!(matches!(initiator.receive(), (Response::Async(_), _)));
    assert!(initiator.hears_nothing(brisk().parting_time * 2), "it waits for the disk");
    server.disk.writes.add_permits(1);
    assert_eq!(initiator.finish(&command, &[]).status, 0);
    let (Response::Async(message), _) = initiator.receive() else { panic!("no message") };
    assert!(matches!(message.event, Event::SessionDropped { .. }));
    assert!(initiator.next_pdu().is_none());
    server.stop();
}
