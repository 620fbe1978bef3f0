//! Commands and their data: what is started when, and what is answered.

use super::*;

#[test]
fn a_command_is_started_and_answered() {
    let mut pair = Pair::new();
    let command = pair.command(READ, 512);
    let (key, task, data) = pair.started().expect("it is begun at once");
    assert_eq!((task, data.len()), (command.cdb, 0));
    assert!(pair.answers().is_empty());
    pair.session.completed(key, good(&bytes(0, 512)));
    let (answer, data) = pair.one();
    let Response::Data(DataIn { is_final, task_tag, end, exp_cmd_sn, max_cmd_sn, .. }) = answer
    else {
        panic!("{answer:?}")
    };
    assert_eq!((is_final, task_tag, data), (true, command.task_tag, bytes(0, 512)));
    let end = end.expect("the status comes with the last data");
    assert_eq!((end.status, end.residual, end.stat_sn), (0, Residual::None, StatSn::new(1)));
    assert_eq!((exp_cmd_sn, max_cmd_sn), (CmdSn::new(11), CmdSn::new(18)));
}

#[test]
fn what_is_read_is_cut_into_segments_and_bursts() {
    let terms = Terms { max_send_segment: 600, max_burst: 1000, ..Terms::default() };
    let mut pair = Pair::with(terms);
    pair.command(READ, 2300);
    let (key, ..) = pair.started().expect("begun");
    pair.session.completed(key, good(&bytes(0, 2300)));
    let mut whole = Vec::new();
    let mut found = Vec::new();
    for (answer, data) in pair.answers() {
        let Response::Data(pdu) = answer else { panic!("{answer:?}") };
        assert_eq!(pdu.offset as usize, whole.len());
        assert_eq!(pdu.data_sn.number() as usize, found.len());
        found.push((data.len(), pdu.is_final, pdu.end.is_some()));
        whole.extend(data);
    }
    let expected = [
        (600, false, false),
        (400, true, false),
        (600, false, false),
        (400, true, false),
        (300, true, true),
    ];
    assert_eq!((found, whole), (expected.to_vec(), bytes(0, 2300)));
}

#[test]
fn what_was_not_expected_is_a_residual() {
    for (expected, length, sent, residual) in
        [(10_000, 512, 512, Residual::Underflow(9488)), (200, 512, 200, Residual::Overflow(312))]
    {
        let mut pair = Pair::new();
        let mut command = pair.make(READ, length);
        command.expected_length = expected;
        pair.send(&Request::Command(command), &[]);
        let (key, ..) = pair.started().expect("begun");
        pair.session.completed(key, good(&bytes(0, length)));
        let (answer, data) = pair.one();
        let Response::Data(DataIn { end: Some(end), .. }) = answer else { panic!("{answer:?}") };
        assert_eq!((data.len(), end.residual), (sent, residual));
    }
    // Without room for any data there is a response of its own.
    let mut pair = Pair::new();
    let mut command = pair.make(READ, 512);
    command.expected_length = 0;
    pair.send(&Request::Command(command), &[]);
    let (key, ..) = pair.started().expect("begun");
    pair.session.completed(key, good(&bytes(0, 512)));
    assert_eq!(pair.response().0.residual, Residual::Overflow(512));
    // In the other direction: fewer bytes than the command would take, or more.
    for (expected, length, needed, residual) in
        [(200, 512, 200, Residual::Overflow(312)), (600, 512, 512, Residual::Underflow(88))]
    {
        let mut pair = Pair::new();
        let mut command = pair.make(WRITE, length);
        command.expected_length = expected;
        pair.send(&Request::Command(command), &bytes(0, expected));
        let (key, _, data) = pair.started().expect("begun");
        assert_eq!(data, bytes(0, needed));
        pair.session.completed(key, good(&[]));
        assert_eq!(pair.response().0.residual, residual);
    }
}

#[test]
fn sense_has_its_length_in_front() {
    let mut pair = Pair::new();
    pair.command(REFUSE, 0);
    let (response, data) = pair.response();
    assert_eq!((response.status, response.response), (2, ScsiResponse::COMPLETED));
    assert_eq!(data, [0, 2, 0x70, 0x20]);
    pair.command(READ, 4);
    let (key, ..) = pair.started().expect("begun");
    let outcome = Outcome { data: Buffer::copy_of(b"ab"), ..check(0x11) };
    pair.session.completed(key, outcome);
    let answers = pair.answers();
    assert!(matches!(&answers[0].0, Response::Data(DataIn { end: None, is_final: true, .. })));
    let Response::Command(response) = &answers[1].0 else { panic!("{answers:?}") };
    assert_eq!(response.exp_data_sn, DataSn::new(1));
    assert_eq!(response.residual, Residual::Underflow(2));
}

#[test]
fn data_is_asked_for_some_at_a_time() {
    let mut pair =
        Pair::with(Terms { max_burst: 1000, max_outstanding_r2t: 2, ..Terms::default() });
    let command = pair.command(WRITE, 2500);
    let ready = pair.ready();
    let places: Vec<_> =
        ready.iter().map(|one| (one.r2t_sn.number(), one.offset, one.length)).collect();
    assert_eq!(places, [(0, 0, 1000), (1, 1000, 1000)]);
    assert_eq!(ready[0].numbers.stat_sn, StatSn::new(1), "they do not count");
    pair.data(&command, ready[0].transfer_tag, (0, 0), false, &bytes(0, 600));
    assert!(pair.answers().is_empty());
    pair.data(&command, ready[0].transfer_tag, (1, 600), true, &bytes(600, 400));
    let third = pair.ready();
    assert_eq!((third[0].offset, third[0].length), (2000, 500));
    pair.data(&command, ready[1].transfer_tag, (0, 1000), true, &bytes(1000, 1000));
    assert!(pair.started().is_none());
    pair.data(&command, third[0].transfer_tag, (0, 2000), true, &bytes(2000, 500));
    let (key, _, data) = pair.started().expect("all is here");
    assert_eq!(data, bytes(0, 2500));
    pair.session.completed(key, good(&[]));
    let (response, _) = pair.response();
    assert_eq!((response.exp_data_sn, response.residual), (DataSn::new(3), Residual::None));
}

#[test]
fn data_is_asked_for_under_the_address_of_the_command() {
    let mut pair = Pair::with(Terms::default());
    for lun in [UNIT, SAME_UNIT, OTHER] {
        let mut command = pair.make(WRITE, 512);
        command.lun = lun;
        pair.send(&Request::Command(command), &[]);
        assert_eq!(pair.ready()[0].lun, lun);
    }
}

#[test]
fn spoilt_data_spoils_the_command() {
    let mut pair = Pair::with(Terms { max_outstanding_r2t: 1, ..Terms::default() });
    let command = pair.command(WRITE, 600);
    let tag = pair.ready()[0].transfer_tag;
    pair.data(&command, tag, (1, 0), false, &bytes(0, 300));
    pair.data(&command, tag, (0, 300), true, &bytes(300, 300));
    assert!(pair.started().is_none(), "nothing is written");
    let (response, sense) = pair.response();
    assert_eq!((response.status, sense[3]), (2, 0x47));
    // A wrong digest is told at once, and ends the command with its data.
    let command = pair.command(WRITE, 600);
    let tag = pair.ready()[0].transfer_tag;
    let pdu = DataOut {
        is_final: false,
        lun: UNIT,
        task_tag: command.task_tag,
        transfer_tag: tag,
        exp_stat_sn: StatSn::new(0),
        data_sn: DataSn::new(0),
        offset: 0,
    };
    let header = Request::Data(pdu).encode(DataLength::new(300).expect("short"));
    pair.session.received(&header, None, &Units);
    assert_eq!(pair.rejected(), RejectReason::DataDigest);
    pair.data(&command, tag, (1, 300), true, &bytes(300, 300));
    assert_eq!(pair.response().1[3], 0x47);
}

#[test]
fn a_refused_command_takes_its_data_first() {
    let mut pair = Pair::new();
    let mut command = pair.make(REFUSE, 600);
    (command.writes, command.is_final) = (true, false);
    pair.send(&Request::Command(command), &bytes(0, 100));
    assert!(pair.answers().is_empty());
    pair.data(&command, TargetTransferTag::RESERVED, (0, 100), true, &bytes(100, 500));
    let (response, _) = pair.response();
    assert_eq!((response.status, response.residual), (2, Residual::Underflow(600)));
    assert_eq!(pair.session.under_way(), 0);
}

#[test]
fn data_of_nobody_is_thrown_away_and_wrong_tags_are_told() {
    let mut pair = Pair::with(Terms::default());
    let mut nobody = pair.make(WRITE, 10);
    pair.cmd_sn -= 1;
    nobody.task_tag = InitiatorTaskTag::new(99);
    pair.data(&nobody, TargetTransferTag::new(5), (0, 0), true, &bytes(0, 10));
    assert!(pair.answers().is_empty());
    let command = pair.command(WRITE, 10);
    let tag = pair.ready()[0].transfer_tag;
    let wrong = TargetTransferTag::new(tag.number() + 1);
    pair.data(&command, wrong, (0, 0), true, &bytes(0, 10));
    assert_eq!(pair.rejected(), RejectReason::InvalidField);
    pair.data(&command, tag, (0, 0), true, &bytes(0, 10));
    assert!(pair.started().is_some());
}

#[test]
fn commands_outside_the_window_are_ignored() {
    let mut pair = Pair::new();
    for wrong in [9, 18, 1000, u32::MAX] {
        let mut command = pair.make(0, 0);
        pair.cmd_sn -= 1;
        command.cmd_sn = CmdSn::new(wrong);
        pair.send(&Request::Command(command), &[]);
        assert!(pair.answers().is_empty(), "{wrong}");
    }
    pair.command(0, 0);
    assert_eq!(pair.response().0.numbers.exp_cmd_sn, CmdSn::new(11));
}

#[test]
fn commands_are_taken_in_their_order() {
    let mut pair = Pair::new();
    let (first, mut second, third) = (pair.make(0, 0), pair.make(WRITE, 20), pair.make(0, 0));
    second.is_final = false;
    pair.send(&Request::Command(third), &[]);
    pair.send(&Request::Command(second), &bytes(0, 5));
    pair.send(&Request::Command(second), &bytes(7, 5));
    pair.data(&second, TargetTransferTag::RESERVED, (0, 5), true, &bytes(5, 15));
    assert!(pair.answers().is_empty());
    pair.send(&Request::Command(first), &[]);
    let (_, _, data) = pair.started().expect("the second has its data");
    assert_eq!(data, bytes(0, 20));
    let tags: Vec<_> = pair
        .answers()
        .into_iter()
        .map(|(answer, _)| match answer {
            Response::Command(response) => response.task_tag,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(tags, [first.task_tag, third.task_tag]);
}

/// What is kept of the command numbered `of` that came early: PDUs of data, and bytes.
fn kept(pair: &Pair, of: &ScsiCommand) -> (usize, usize) {
    let Some(Waiting::Pdu(early)) = pair.session.early.get(&of.cmd_sn) else {
        panic!("it is not kept")
    };
    let length = |(_, data): &(_, Option<Buffer>)| data.as_ref().map_or(0, |data| data.len());
    let following: usize = early.following.iter().map(length).sum();
    (early.following.len(), early.data.len() + following)
}

#[test]
fn little_is_kept_of_the_data_of_a_command_that_came_early() {
    let first_burst = 2048;
    let terms = Terms { initial_r2t: false, first_burst, ..Terms::default() };
    for (last, length, pdus) in [(true, 0, 1), (false, 0, 5), (false, 512, 5), (true, 512, 1)] {
        let mut pair = Pair::with(terms);
        let (missing, mut early) = (pair.make(0, 0), pair.make(WRITE, 4096));
        early.is_final = false;
        pair.send(&Request::Command(early), &bytes(0, 1000));
        for number in 0..1000 {
            let place = (number, 1000 + number * length);
            pair.data(&early, TargetTransferTag::RESERVED, place, last, &bytes(0, length));
        }
        let (found, bytes) = kept(&pair, &early);
        assert_eq!(found, pdus, "{last} {length}");
        assert!(bytes <= first_burst as usize, "{bytes} bytes, {last} {length}");
        // One that ends it, wherever it comes.
        pair.data(&early, TargetTransferTag::RESERVED, (1000, 0), true, &[]);
        pair.send(&Request::Command(missing), &[]);
        assert!(pair.started().is_none());
        let answers = pair.answers();
        let asked_for = last && matches!(answers.last(), Some((Response::Ready(_), _)));
        let spoilt = !last && matches!(answers.last(), Some((Response::Command(_), _)));
        assert!(asked_for || spoilt, "{last} {length}: {answers:?}");
    }
}

#[test]
fn the_window_closes_when_all_slots_are_taken() {
    let mut pair = Pair::new();
    let mut keys = Vec::new();
    for _ in 0..8 {
        pair.command(READ, 1);
        keys.push(pair.started().expect("begun").0);
    }
    pair.command(READ, 1);
    assert!(pair.started().is_none(), "it is outside the window");
    pair.cmd_sn -= 1;
    for key in keys {
        pair.session.completed(key, good(b"a"));
    }
    let last = pair.answers().pop().expect("eight");
    let Response::Data(DataIn { exp_cmd_sn, max_cmd_sn, .. }) = last.0 else { panic!("{last:?}") };
    assert_eq!((exp_cmd_sn, max_cmd_sn), (CmdSn::new(18), CmdSn::new(25)));
}

#[test]
fn immediate_commands_stand_beside_the_window() {
    let mut pair = Pair::new();
    for count in 0..=MAX_IMMEDIATE {
        let mut command = pair.make(READ, 1);
        pair.cmd_sn -= 1;
        command.immediate = true;
        pair.send(&Request::Command(command), &[]);
        if count < MAX_IMMEDIATE {
            assert!(pair.started().is_some());
        }
    }
    assert_eq!(pair.rejected(), RejectReason::TooManyImmediate);
    pair.command(0, 0);
    assert_eq!(pair.response().0.numbers.max_cmd_sn, CmdSn::new(18));
}

#[test]
fn a_tag_is_used_by_one_task_at_a_time() {
    let mut pair = Pair::new();
    let first = pair.command(READ, 1);
    let mut second = pair.make(READ, 1);
    second.task_tag = first.task_tag;
    pair.send(&Request::Command(second), &[]);
    assert_eq!(pair.rejected(), RejectReason::TaskInProgress);
    pair.cmd_sn -= 1;
    let (key, ..) = pair.started().expect("the first");
    assert!(pair.started().is_none());
    pair.session.completed(key, good(b"a"));
    pair.answers();
    let mut third = pair.make(READ, 1);
    assert_eq!(third.cmd_sn, second.cmd_sn, "the number did not come");
    third.task_tag = first.task_tag;
    pair.send(&Request::Command(third), &[]);
    assert!(pair.started().is_some(), "it is free again");
}

#[test]
fn the_number_of_what_is_rejected_may_come_again() {
    let (immediate, cid, exp_stat_sn) = (false, Cid::new(7), StatSn::new(0));
    let nop = |pair: &Pair| {
        let (task_tag, transfer_tag) = (InitiatorTaskTag::RESERVED, TargetTransferTag::RESERVED);
        let cmd_sn = CmdSn::new(pair.cmd_sn);
        Request::Nop(NopOut { immediate, lun: UNIT, task_tag, transfer_tag, cmd_sn, exp_stat_sn })
    };
    let logout = |pair: &Pair| {
        let (reason, task_tag) = (LogoutReason::Unknown(9), InitiatorTaskTag::new(90));
        let cmd_sn = CmdSn::new(pair.cmd_sn);
        Request::Logout(LogoutRequest { immediate, reason, task_tag, cid, cmd_sn, exp_stat_sn })
    };
    let text = |pair: &Pair| {
        Request::Text(TextRequest {
            immediate,
            is_final: true,
            continues: false,
            lun: UNIT,
            task_tag: InitiatorTaskTag::new(91),
            transfer_tag: TargetTransferTag::RESERVED,
            cmd_sn: CmdSn::new(pair.cmd_sn),
            exp_stat_sn,
        })
    };
    let command = |pair: &Pair| {
        let (task_tag, cmd_sn) = (InitiatorTaskTag::RESERVED, CmdSn::new(pair.cmd_sn));
        Request::Command(ScsiCommand { task_tag, cmd_sn, ..Pair::new().make(WRITE, 9) })
    };
    let wrong: [&dyn Fn(&Pair) -> Request; 4] = [&nop, &logout, &text, &command];
    for make in wrong {
        // In its turn, and before it.
        for early in [false, true] {
            let mut pair = Pair::new();
            let before = pair.make(0, 0);
            let rejected = make(&pair);
            let (instead, after) = (pair.make(0, 0), pair.make(0, 0));
            if !early {
                pair.send(&Request::Command(before), &[]);
                pair.response();
            }
            pair.send(&rejected, b"no pair");
            pair.send(&Request::Command(after), &[]);
            if early {
                assert!(pair.answers().is_empty());
                pair.send(&Request::Command(before), &[]);
            }
            let last = pair.answers().pop().expect("an answer").0;
            let Response::Reject(reject) = last else { panic!("{last:?}") };
            assert_eq!(reject.numbers.exp_cmd_sn, instead.cmd_sn, "{rejected:?}");
            pair.send(&Request::Command(instead), &[]);
            assert_eq!(pair.answers().len(), 2, "that and what waited for it: {rejected:?}");
        }
    }
}

#[test]
fn what_is_held_fits_whatever_direction_was_announced() {
    let mut pair = Pair::of(target(), Terms { initial_r2t: false, ..Terms::default() }, 1000);
    let mut running = Vec::new();
    for flags in 0..4 {
        // A read that says it writes, both, or neither.
        let mut command = pair.make(READ, 800);
        (command.reads, command.writes) = (flags & 1 != 0, flags & 2 != 0);
        pair.send(&Request::Command(command), &[]);
        running.extend(pair.started());
    }
    assert_eq!(running.len(), 1, "one read fits");
    // Data that came by itself does not start its command either.
    let write = pair.make(WRITE, 500);
    pair.send(&Request::Command(write), &bytes(0, 500));
    assert!(pair.started().is_none());
    for last in [false, false, false, true] {
        pair.session.completed(running.pop().expect("one").0, good(&[]));
        pair.answers();
        let (key, task, data) = pair.started().expect("there is room for the next");
        assert!(pair.started().is_none());
        assert_eq!(data, if last { bytes(0, 500) } else { Vec::new() });
        running.push((key, task, data));
    }
    pair.session.completed(running.pop().expect("the write").0, good(&[]));
    pair.answers();
    assert_eq!((pair.session.under_way(), pair.session.budget.held), (0, 0));
}

#[test]
fn a_large_read_has_its_turn_beside_small_ones() {
    let mut pair = Pair::of(target(), Terms::default(), 1000);
    pair.command(READ, 400);
    let mut small = pair.started().expect("there is room").0;
    pair.command(READ, 1000);
    assert!(pair.started().is_none(), "it has to be alone");
    let mut large = None;
    for _ in 0..3 {
        // One more comes before the one before it ends.
        pair.command(READ, 400);
        pair.session.completed(small, good(&bytes(0, 400)));
        pair.answers();
        let (key, task, _) = pair.started().expect("one is started");
        if task[1..5] == 1000u32.to_be_bytes() {
            large = Some(key);
            break;
        }
        small = key;
    }
    let large = large.expect("it has its turn before those that came later");
    assert!(pair.started().is_none());
    pair.session.completed(large, good(&bytes(0, 1000)));
    pair.answers();
    assert!(pair.started().is_some(), "now the small one");
}

#[test]
fn those_who_do_not_fit_stand_in_line() {
    let mut pair = Pair::of(target(), Terms::default(), 1000);
    pair.command(READ, 2000);
    let (large, ..) = pair.started().expect("alone, everything fits");
    pair.command(READ, 500);
    let write = pair.command(WRITE, 500);
    pair.command(READ, 100);
    assert!(pair.started().is_none() && pair.answers().is_empty(), "nothing is asked for either");
    pair.command(0, 0);
    pair.response();
    pair.session.completed(large, good(&bytes(0, 2000)));
    assert!(pair.started().is_none(), "it was not sent yet");
    pair.answers();
    let (second, ..) = pair.started().expect("there is room for it");
    let tag = pair.ready()[0].transfer_tag;
    assert!(pair.started().is_none());
    pair.data(&write, tag, (0, 0), true, &bytes(0, 500));
    let (third, ..) = pair.started().expect("its data is here");
    pair.session.completed(third, good(&[]));
    assert!(pair.started().is_some(), "a write holds nothing when it is done");
    pair.session.completed(second, good(&bytes(0, 500)));
    pair.answers();
    assert_eq!(pair.session.under_way(), 1);
}
