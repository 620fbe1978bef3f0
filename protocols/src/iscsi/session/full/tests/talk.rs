//! Pings, text, logouts, digests, and what is refused.

use super::*;

#[test]
fn what_is_not_done_here_is_said_so() {
    let mut pair = Pair::new();
    let command = pair.command(READ, 1);
    for (function, answer) in [
        (Function::TaskReassign, TaskAnswer::ReassignmentNotSupported),
        (Function::ClearAca, TaskAnswer::NotSupported),
        (Function::Unknown(99), TaskAnswer::NotSupported),
    ] {
        pair.manage(function, UNIT, &command);
        assert_eq!(pair.task_answer(), answer);
    }
    pair.send(
        &Request::Snack(Snack {
            kind: 0,
            lun: UNIT,
            task_tag: command.task_tag,
            transfer_tag: TargetTransferTag::RESERVED,
            exp_stat_sn: StatSn::new(0),
            begin: 0,
            length: 1,
        }),
        &[],
    );
    assert_eq!(pair.rejected(), RejectReason::Snack);
    let mut header = [0; HEADER];
    header[0] = 0x1c;
    pair.session.received(&header, Some(Buffer::zeroed(0)), &Units);
    assert_eq!(pair.rejected(), RejectReason::NotSupported);
    (header[0], header[1]) = (0x01, 0x87);
    pair.session.received(&header, Some(Buffer::zeroed(0)), &Units);
    assert_eq!(pair.rejected(), RejectReason::InvalidField);
    pair.session.received(&Request::Command(command).encode(DataLength::NONE), None, &Units);
    assert_eq!(pair.rejected(), RejectReason::DataDigest);
}

fn nop(pair: &Pair, immediate: bool, task_tag: u32, transfer_tag: TargetTransferTag) -> Request {
    Request::Nop(NopOut {
        immediate,
        lun: UNIT,
        task_tag: InitiatorTaskTag::new(task_tag),
        transfer_tag,
        cmd_sn: CmdSn::new(pair.cmd_sn),
        exp_stat_sn: StatSn::new(0),
    })
}

#[test]
fn pings_go_both_ways() {
    let mut pair = Pair::with(Terms { max_send_segment: 512, ..Terms::default() });
    let ping = nop(&pair, false, 5, TargetTransferTag::RESERVED);
    pair.send(&ping, &bytes(0, 600));
    let (answer, data) = pair.one();
    let Response::Nop(NopIn { task_tag, transfer_tag, numbers, .. }) = answer else {
        panic!("{answer:?}")
    };
    assert_eq!((task_tag.number(), transfer_tag), (5, TargetTransferTag::RESERVED));
    assert_eq!((numbers.exp_cmd_sn, numbers.stat_sn), (CmdSn::new(11), StatSn::new(1)));
    assert_eq!(data, bytes(0, 512));
    pair.cmd_sn += 1;
    assert!(pair.session.ping());
    let (answer, _) = pair.one();
    let Response::Nop(asked) = answer else { panic!("{answer:?}") };
    assert_eq!(
        (asked.task_tag, asked.numbers.stat_sn),
        (InitiatorTaskTag::RESERVED, StatSn::new(2))
    );
    assert!(!pair.session.ping(), "nobody answered");
    let wrong = nop(&pair, true, u32::MAX, TargetTransferTag::new(77));
    pair.send(&wrong, &[]);
    assert!(!pair.session.ping());
    let right = nop(&pair, true, u32::MAX, asked.transfer_tag);
    pair.send(&right, &[]);
    assert!(pair.answers().is_empty() && pair.session.ping());
    pair.answers();
    let odd = nop(&pair, false, u32::MAX, TargetTransferTag::RESERVED);
    pair.send(&odd, &[]);
    assert_eq!(pair.rejected(), RejectReason::Protocol);
}

#[test]
fn a_long_ping_that_came_early_comes_back_as_it_was() {
    let mut pair = Pair::with(Terms { max_send_segment: 1 << 20, ..Terms::default() });
    let missing = pair.make(0, 0);
    let long = bytes(0, 100_000);
    let ping = nop(&pair, false, 5, TargetTransferTag::RESERVED);
    pair.send(&ping, &long);
    pair.send(&Request::Command(missing), &[]);
    let (answer, data) = pair.answers().pop().expect("two");
    assert!(matches!(answer, Response::Nop(_)));
    assert_eq!(data, long[..65_537], "as much as is kept of anything that comes early");
}

#[test]
fn pings_that_nobody_takes_back_are_not_received_for_ever() {
    // Long ones, and many.
    for (length, most) in [(100_000, 12), (0, 513)] {
        let mut pair = Pair::with(Terms { max_send_segment: 1 << 20, ..Terms::default() });
        let mut count = 0;
        while !pair.session.is_congested() {
            let ping = nop(&pair, true, 5, TargetTransferTag::RESERVED);
            pair.send(&ping, &bytes(0, length));
            count += 1;
            assert!(count <= most, "{count} pings of {length} bytes");
        }
        assert_eq!(pair.answers().len(), count);
        assert!(!pair.session.is_congested());
    }
    // What was read has been charged.
    let mut pair = Pair::with(Terms { max_send_segment: 1 << 20, ..Terms::default() });
    for _ in 0..3 {
        pair.command(READ, 1 << 20);
        let (key, ..) = pair.started().expect("begun");
        pair.session.completed(key, good(&bytes(0, 1 << 20)));
        assert!(!pair.session.is_congested());
        pair.answers();
    }
}

#[test]
fn a_logout_ends_the_session() {
    for (reason, cid, answer) in [
        (LogoutReason::CloseSession, 0, LogoutAnswer::Closed),
        (LogoutReason::CloseConnection, 7, LogoutAnswer::Closed),
        (LogoutReason::CloseConnection, 8, LogoutAnswer::NoSuchConnection),
        (LogoutReason::RemoveForRecovery, 7, LogoutAnswer::RecoveryNotSupported),
    ] {
        let mut pair = Pair::new();
        pair.command(READ, 1);
        pair.started();
        let logout = LogoutRequest {
            immediate: false,
            reason,
            task_tag: InitiatorTaskTag::new(50),
            cid: Cid::new(cid),
            cmd_sn: CmdSn::new(pair.cmd_sn),
            exp_stat_sn: StatSn::new(0),
        };
        pair.send(&Request::Logout(logout), &[]);
        let (response, _) = pair.one();
        assert!(
            matches!(response, Response::Logout(said) if said.answer == answer),
            "{response:?}"
        );
        if answer == LogoutAnswer::Closed {
            assert!(matches!(pair.session.effect(), Some(Effect::Abort(_))));
            assert!(matches!(pair.session.effect(), Some(Effect::Close(Closing::LoggedOut))));
            pair.cmd_sn += 1;
            pair.command(0, 0);
            assert!(pair.answers().is_empty(), "it is over");
        } else {
            assert!(pair.session.effect().is_none());
        }
    }
}

/// Sends text; the response to it.
fn text(
    pair: &mut Pair,
    next: Option<TargetTransferTag>,
    (last, continues): (bool, bool),
    text: &str,
) -> (TextResponse, String) {
    let request = TextRequest {
        immediate: false,
        is_final: last,
        continues,
        lun: UNIT,
        task_tag: InitiatorTaskTag::new(70),
        transfer_tag: next.unwrap_or(TargetTransferTag::RESERVED),
        cmd_sn: CmdSn::new(pair.cmd_sn),
        exp_stat_sn: StatSn::new(0),
    };
    pair.cmd_sn += 1;
    pair.send(&Request::Text(request), text.as_bytes());
    if let Some(effect) = pair.session.effect() {
        let Effect::Discover(which) = effect else { panic!("{effect:?}") };
        pair.session.discovered(format!("TargetName={which:?}\0").as_bytes());
    }
    match pair.one() {
        (Response::Text(response), data) => (response, String::from_utf8(data).expect("text")),
        other => panic!("{other:?}"),
    }
}

#[test]
fn targets_are_told_where_they_may_be() {
    let own = "iqn.2026-11.com.example:web";
    for (want, value, said) in [
        (Want::Discovery, "All", "TargetName=All\0".to_owned()),
        (Want::Discovery, own, format!("TargetName=Named({own:?})\0")),
        (Want::Discovery, "", "SendTargets=Reject\0".to_owned()),
        (target(), "All", "SendTargets=Reject\0".to_owned()),
        (target(), "", "TargetName=Own\0".to_owned()),
        (target(), own, "TargetName=Own\0".to_owned()),
        (target(), "iqn.2026-11.com.example:other", "SendTargets=Reject\0".to_owned()),
    ] {
        let mut pair = Pair::of(want, Terms::default(), 1000);
        let (response, found) =
            text(&mut pair, None, (true, false), &format!("SendTargets={value}\0"));
        assert_eq!(found, said, "{value}");
        assert!(response.is_final && response.transfer_tag == TargetTransferTag::RESERVED);
    }
}

#[test]
fn long_text_goes_in_several_pdus_both_ways() {
    let mut pair =
        Pair::of(Want::Discovery, Terms { max_send_segment: 10, ..Terms::default() }, 1000);
    let (response, said) = text(&mut pair, None, (false, true), "SendTar");
    assert!(!response.is_final && said.is_empty());
    let next = Some(response.transfer_tag);
    let (response, mut whole) = text(&mut pair, next, (true, false), "gets=All\0X-a=1\0");
    assert!(response.continues && !response.is_final);
    let mut response = response;
    while response.continues {
        let more;
        (response, more) = text(&mut pair, Some(response.transfer_tag), (true, false), "");
        assert!(more.len() <= 10);
        whole += &more;
    }
    assert_eq!(whole, "X-a=NotUnderstood\0TargetName=All\0");
    assert!(response.is_final);
}

#[test]
fn a_segment_length_that_was_declared_holds_afterwards() {
    let mut pair = Pair::new();
    let (_, said) = text(&mut pair, None, (true, false), "MaxRecvDataSegmentLength=512\0");
    assert_eq!(said, "");
    assert_eq!(pair.session.terms().max_send_segment, 512);
}

#[test]
fn discovery_has_text_and_logout_and_nothing_else() {
    let mut pair = Pair::of(Want::Discovery, Terms::default(), 1000);
    let command = pair.command(0, 0);
    assert_eq!(pair.rejected(), RejectReason::Protocol);
    pair.data(&command, TargetTransferTag::RESERVED, (0, 0), true, b"a");
    assert_eq!(pair.rejected(), RejectReason::Protocol);
    pair.manage(Function::TargetColdReset, UNIT, &command);
    assert_eq!(pair.rejected(), RejectReason::Protocol);
    assert!(!pair.session.ping());
}

#[test]
fn the_target_has_something_to_say() {
    let mut pair = Pair::new();
    pair.session.request_logout(5);
    pair.session.say_dropped();
    let answers = pair.answers();
    let events: Vec<_> = answers
        .iter()
        .map(|(answer, _)| match answer {
            Response::Async(AsyncMessage { event, numbers, .. }) => {
                (*event, numbers.stat_sn.number())
            }
            other => panic!("{other:?}"),
        })
        .collect();
    let dropped = Event::SessionDropped { time_to_wait: 2, time_to_retain: 0 };
    assert_eq!(events, [(Event::LogoutWanted { within: 5 }, 1), (dropped, 2)]);
}

#[test]
fn digests_are_sent_where_they_were_agreed() {
    let terms = Terms { header_digest: true, data_digest: true, ..Terms::default() };
    let mut pair = Pair::with(terms);
    pair.command(READ, 5);
    let (key, ..) = pair.started().expect("begun");
    pair.session.completed(key, good(b"abcde"));
    assert_eq!(pair.one().1, b"abcde");
}
