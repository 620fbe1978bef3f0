//! Initiators that dawdle, vanish, flood or lie.

use super::initiator::{Initiator, Opening};
use super::*;
use crate::iscsi::wire::control::NopOut;
use crate::iscsi::wire::data::DataOut;
use crate::iscsi::wire::header::DataLength;
use crate::iscsi::wire::login::{LoginStatus, Stage};
use crate::iscsi::wire::notice::RejectReason;
use crate::iscsi::wire::number::{
    CmdSn, DataSn, InitiatorTaskTag, LunField, StatSn, TargetTransferTag,
};
use crate::iscsi::wire::pdu::{Request, Response};

#[test]
fn half_a_login_is_over_some_time() {
    let settings = Settings { login_time: Duration::from_millis(100), ..brisk() };
    let server = Server::start(settings);
    let mut silent = Initiator::connect(server.address);
    assert!(silent.next_pdu().is_none());
    let mut half = Initiator::connect(server.address);
    let request = half.login_request(&Opening::default(), Stage::Operational, None);
    let header = Request::Login(request).encode(DataLength::new(100).expect("short"));
    half.send_bytes(&header, b"", None);
    assert!(half.next_pdu().is_none());
    assert_eq!(server.service.counters.logins_failed.load(Relaxed), 2);
    server.stop();
}

#[test]
fn the_oldest_login_makes_way() {
    let settings = Settings { logging_in: 2, ..brisk() };
    let server = Server::start(settings);
    let mut crowd: Vec<_> = (0..3).map(|_| Initiator::connect(server.address)).collect();
    assert!(crowd[0].next_pdu().is_none());
    let session = Initiator::in_session(server.address, &Opening::default());
    session.logout();
    server.stop();
}

#[test]
fn there_are_no_more_sessions_than_may_be() {
    let settings = Settings { sessions: 1, discoveries: 1, ..brisk() };
    let server = Server::start(settings);
    let refused = |opening: &Opening| {
        let mut initiator = Initiator::connect(server.address);
        assert_eq!(initiator.login(opening).0.status, LoginStatus::OutOfResources);
        assert!(initiator.next_pdu().is_none(), "the connection is closed");
    };
    let with = |isid, target: Option<&str>| {
        let target = target.map(str::to_owned);
        Opening { isid, target, ..Opening::default() }
    };
    let mut session = Initiator::in_session(server.address, &Opening::default());
    refused(&with(2, Some(TARGET)));
    // Discovery has places of its own.
    let discovers = Initiator::logged_in(server.address, &with(3, None));
    refused(&with(4, None));
    // Whoever comes again takes the place that it had.
    let again = Initiator::in_session(server.address, &Opening::default());
    assert!(matches!(session.receive(), (Response::Async(_), _)));
    again.logout();
    discovers.logout();
    server.until(|counters| counters.connections.open.load(Relaxed) == 0);
    assert_eq!(server.service.counters.connections.refused.load(Relaxed), 2);
    Initiator::in_session(server.address, &with(2, Some(TARGET))).logout();
    server.stop();
}

#[test]
fn discovery_is_over_some_time() {
    let settings = Settings { discovery_time: Duration::from_millis(300), ..brisk() };
    let server = Server::start(settings);
    let opening = Opening { target: None, ..Opening::default() };
    let began = Instant::now();
    let mut discovers = Initiator::logged_in(server.address, &opening);
    // Also for one that has always one more question.
    let mut asked = 0;
    while discovers.asks("SendTargets=All\0").is_some() {
        asked += 1;
        assert!(began.elapsed() < PATIENCE, "it goes on and on");
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(asked > 0);
    server.until(|counters| counters.connections.open.load(Relaxed) == 0);
    assert_eq!(server.service.counters.sessions_broken.load(Relaxed), 0, "that is no breach");
    server.stop();
}

#[test]
fn commands_of_sessions_that_are_gone_count() {
    let server = Server::start(Settings { sessions: 1, ..brisk() });
    let mut initiator = Initiator::in_session(server.address, &Opening::default());
    assert_eq!(server.disk.reads.forget_permits(disk::OPEN), disk::OPEN);
    let command = initiator.read_command(0, 1);
    initiator.start(&command, &[]);
    server.until(|counters| counters.commands.load(Relaxed) == 1);
    drop(initiator);
    server.until(|counters| counters.connections.open.load(Relaxed) == 0);
    assert_eq!(server.service.counters.sessions_lingering.load(Relaxed), 1);
    let mut next = Initiator::connect(server.address);
    assert_eq!(next.login(&Opening::default()).0.status, LoginStatus::OutOfResources);
    server.disk.reads.add_permits(disk::OPEN);
    server.until(|counters| counters.sessions_lingering.load(Relaxed) == 0);
    Initiator::in_session(server.address, &Opening::default()).logout();
    server.stop();
}

#[test]
fn who_takes_slowly_is_there() {
    let idle_time = Duration::from_secs(1);
    let server = Server::start(Settings { idle_time, ..brisk() });
    let mut initiator = Initiator::in_session(server.address, &Opening::default());
    // 32 MiB, more than sockets hold, at 8 KiB in a millisecond or two.
    for _ in 0..128 {
        let command = initiator.read_command(0, 512);
        initiator.start(&command, &[]);
    }
    let (mut done, began) = (0, Instant::now());
    while done < 128 {
        let (answer, _) = initiator.next_pdu().expect("it takes what it gets");
        match answer {
            Response::Data(pdu) => done += u32::from(pdu.end.is_some()),
            Response::Nop(_) => {}
            other => panic!("{other:?}"),
        }
        if began.elapsed() < idle_time * 4 {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    assert_eq!(server.service.counters.sessions_broken.load(Relaxed), 0);
    drop(initiator);
    server.stop();
}

#[test]
fn who_answers_pings_stays_and_who_does_not_goes() {
    let settings = Settings { idle_time: Duration::from_millis(50), ..brisk() };
    let server = Server::start(settings);
    let mut initiator = Initiator::in_session(server.address, &Opening::default());
    for _ in 0..3 {
        let (Response::Nop(ping), _) = initiator.receive() else { panic!("no ping") };
        initiator.pong(ping.transfer_tag);
    }
    // One ping more, which nobody answers.
    let mut last = None;
    for _ in 0..9 {
        let Some((answer, _)) = initiator.next_pdu() else { break };
        last = Some(answer);
    }
    assert!(initiator.next_pdu().is_none(), "it goes on and on");
    assert!(matches!(last, Some(Response::Nop(_))), "it was asked before: {last:?}");
    assert_eq!(server.service.counters.sessions_broken.load(Relaxed), 1);
    server.stop();
}

#[test]
fn who_does_not_read_is_not_read_from_and_loses_nothing() {
    let settings = Settings { bytes_in_flight: 64 << 10, ..brisk() };
    let server = Server::start(settings);
    let data = pattern(1 << 20, 11);
    let mut initiator = Initiator::in_session(server.address, &Opening::default());
    for lba in (0..2048).step_by(128) {
        let at = lba as usize * 512;
        initiator.write(lba, &data[at..at + 65536]);
    }
    // 16 MiB are asked for before anything is read.
    let mut commands = Vec::new();
    for round in 0..128 {
        let command = initiator.read_command(round % 8 * 256, 256);
        initiator.start(&command, &[]);
        commands.push((command, round as usize % 8 * 131_072));
    }
    for (command, at) in commands {
        let done = initiator.finish(&command, &[]);
        assert!(done.status == 0 && done.data == data[at..at + 131_072]);
    }
    initiator.logout();
    server.stop();
}

#[test]
fn a_flood_of_pings_is_answered_as_fast_as_it_is_read() {
    let server = Server::start(brisk());
    let mut initiator = Initiator::in_session(server.address, &Opening::default());
    for round in 0..2000u32 {
        let ping = NopOut {
            immediate: true,
            lun: LunField::default(),
            task_tag: InitiatorTaskTag::new(round),
            transfer_tag: TargetTransferTag::RESERVED,
            cmd_sn: CmdSn::new(initiator.cmd_sn),
            exp_stat_sn: StatSn::new(0),
        };
        initiator.send(&Request::Nop(ping), &pattern(64, 3));
    }
    for round in 0..2000 {
        let (Response::Nop(pong), data) = initiator.receive() else { panic!("no pong") };
        assert_eq!((pong.task_tag.number(), data), (round, pattern(64, 3)));
    }
    initiator.logout();
    server.stop();
}

#[test]
fn who_sends_long_pings_and_does_not_read_is_not_read_from() {
    let server = Server::start(brisk());
    let keys = Opening::with_keys("MaxRecvDataSegmentLength=16777215");
    let mut initiator = Initiator::in_session(server.address, &keys);
    let long = pattern(1 << 20, 3);
    // More than two sockets hold, and the server may: somewhere on the way it stops.
    let sent = initiator.sends_until_stuck(64, |initiator, round| {
        let ping = NopOut {
            immediate: true,
            lun: LunField::default(),
            task_tag: InitiatorTaskTag::new(round),
            transfer_tag: TargetTransferTag::RESERVED,
            cmd_sn: CmdSn::new(initiator.cmd_sn),
            exp_stat_sn: StatSn::new(0),
        };
        (Request::Nop(ping), long.clone())
    });
    assert!(sent < 64, "64 MiB of pings were taken and none was read");
    server.stop();
}

#[test]
fn digests_that_are_wrong_cost_the_pdu_or_the_connection() {
    let server = Server::start(brisk());
    let keys = Opening::with_keys("HeaderDigest=CRC32C DataDigest=CRC32C");
    let mut initiator = Initiator::in_session(server.address, &keys);
    let command = initiator.write_command(5, 1);
    let header = Request::Command(command).encode(DataLength::new(512).expect("short"));
    initiator.send_bytes(&header, &pattern(512, 3), Some("data"));
    let (Response::Reject(reject), rejected) = initiator.receive() else { panic!("no reject") };
    assert_eq!((reject.reason, rejected), (RejectReason::DataDigest, header.to_vec()));
    // It comes again, under its own number.
    initiator.send_bytes(&header, &pattern(512, 3), None);
    assert_eq!(initiator.finish(&command, &[]).status, 0);
    assert_eq!(initiator.read(5, 1), pattern(512, 3));
    // Data that was asked for and is damaged ends its command.
    let command = initiator.write_command(5, 1);
    initiator.start(&command, &[]);
    let (Response::Ready(ready), _) = initiator.receive() else { panic!("no R2T") };
    let pdu = DataOut {
        is_final: true,
        lun: ready.lun,
        task_tag: ready.task_tag,
        transfer_tag: ready.transfer_tag,
        exp_stat_sn: StatSn::new(0),
        data_sn: DataSn::new(0),
        offset: 0,
    };
    let header = Request::Data(pdu).encode(DataLength::new(512).expect("short"));
    initiator.send_bytes(&header, &pattern(512, 9), Some("data"));
    assert!(matches!(initiator.receive(), (Response::Reject(_), _)));
    let done = initiator.finish(&command, &[]);
    assert_eq!((done.status, done.sense), (2, Some((0x0b, 0x47, 0x05))));
    assert_eq!(initiator.read(5, 1), pattern(512, 3), "nothing was written");
    let command = initiator.read_command(0, 1);
    let header = Request::Command(command).encode(DataLength::NONE);
    initiator.send_bytes(&header, b"", Some("header"));
    assert!(initiator.next_pdu().is_none());
    assert_eq!(server.service.counters.sessions_broken.load(Relaxed), 1);
    server.stop();
}

#[test]
fn a_segment_that_is_too_long_ends_the_connection() {
    let server = Server::start(brisk());
    let mut initiator = Initiator::in_session(server.address, &Opening::default());
    let command = initiator.write_command(0, 1);
    let length = Settings::default().offer.max_receive_segment as usize + 1;
    let header = Request::Command(command).encode(DataLength::new(length).expect("24 bits"));
    initiator.send_bytes(&header, b"", None);
    assert!(initiator.next_pdu().is_none());
    // In a login, what was not negotiated yet is what the standard has.
    let mut early = Initiator::connect(server.address);
    let request = early.login_request(&Opening::default(), Stage::Operational, None);
    let header = Request::Login(request).encode(DataLength::new(8193).expect("short"));
    early.send_bytes(&header, b"", None);
    assert!(early.next_pdu().is_none());
    server.stop();
}

#[test]
fn additional_headers_are_stepped_over() {
    let server = Server::start(brisk());
    let mut initiator =
        Initiator::in_session(server.address, &Opening::with_keys("HeaderDigest=None"));
    let command = initiator.make(&[0; 6], 0, 0);
    let mut header = Request::Command(command).encode(DataLength::NONE).to_vec();
    header[4] = 2;
    header.extend([0, 5, 2, 0, 1, 2, 3, 4]);
    initiator.send_raw(&header);
    assert_eq!(initiator.finish(&command, &[]).status, 0);
    initiator.logout();
    server.stop();
}
