//! Sessions, with units that do what their CDB says.

#![allow(clippy::cast_possible_truncation, reason = "the numbers of these tests are small")]

use super::*;
use crate::iscsi::name::Name;
use crate::iscsi::session::login::Entering;
use crate::iscsi::wire::HEADER;
use crate::iscsi::wire::command::{Attribute, Residual, ScsiCommand, ScsiResponse};
use crate::iscsi::wire::control::{NopIn, Snack, TextRequest, TextResponse};
use crate::iscsi::wire::data::{DataIn, ReadyToTransfer};
use crate::iscsi::wire::header::{DataLength, Lengths, padding};
use crate::iscsi::wire::notice::AsyncMessage;
use crate::iscsi::wire::number::{DataSn, Isid, Tsih};
use crate::iscsi::wire::pdu::Response;
use crate::iscsi::wire::task::TaskRequest;
use proptest::prelude::*;

const UNIT: LunField = LunField([0; 8]);
const SAME_UNIT: LunField = LunField([0x40, 0, 0, 0, 0, 0, 0, 0]);
const OTHER: LunField = LunField([0, 1, 0, 0, 0, 0, 0, 0]);
const NOWHERE: LunField = LunField([0, 9, 0, 0, 0, 0, 0, 0]);

const READ: u8 = 1;
const WRITE: u8 = 2;
const REFUSE: u8 = 3;

/// Units 0 and 1.
struct Units;

impl Logical for Units {
    type Task = [u8; CDB];

    fn decide(&self, _: LunField, cdb: &[u8; CDB], announced: u32) -> Verdict<Self::Task> {
        let length = u32::from_be_bytes([cdb[1], cdb[2], cdb[3], cdb[4]]);
        let (needed, data_in) = match cdb[0] {
            READ => (0, length),
            WRITE => (length, 0),
            REFUSE => return Verdict::Answer(check(0x20)),
            _ => return Verdict::Answer(good(&[])),
        };
        let wanted = u64::from(needed);
        let needed = needed.min(announced);
        Verdict::Do(Work { task: *cdb, needed, wanted, data_in: u64::from(data_in) })
    }

    fn unit(&self, lun: LunField) -> Option<LunField> {
        match lun {
            UNIT | SAME_UNIT => Some(UNIT),
            OTHER => Some(OTHER),
            _ => None,
        }
    }

    fn spoilt(&self, _: LunField, fault: Fault) -> Outcome {
        check(match fault {
            Fault::Damaged => 0x47,
            Fault::Unexpected | Fault::Amount => 0x0c,
        })
    }
}

fn good(data: &[u8]) -> Outcome {
    Outcome { status: 0, sense: Vec::new(), data: Buffer::copy_of(data) }
}

fn check(code: u8) -> Outcome {
    Outcome { status: 2, sense: vec![0x70, code], data: Buffer::zeroed(0) }
}

fn bytes(from: u32, length: u32) -> Vec<u8> {
    (from..from + length).map(|at| (at % 251) as u8).collect()
}

/// An initiator and its session.
struct Pair {
    session: Session<[u8; CDB]>,
    cmd_sn: u32,
    tag: u32,
}

fn entered(want: Want, terms: Terms) -> Entered {
    let entering = Entering {
        initiator: Name::parse("iqn.2026-11.com.example:host").expect("a name"),
        user: None,
        want,
        isid: Isid::default(),
        tsih: Tsih::new(1),
        cid: Cid::new(7),
    };
    Entered { entering, terms, cmd_sn: CmdSn::new(10), stat_sn: StatSn::new(1) }
}

fn target() -> Want {
    Want::Target(Name::parse("iqn.2026-11.com.example:web").expect("a name"))
}

impl Pair {
    fn new() -> Self {
        Self::with(Terms { initial_r2t: false, max_outstanding_r2t: 2, ..Terms::default() })
    }

    fn with(terms: Terms) -> Self {
        Self::of(target(), terms, 1 << 20)
    }

    fn of(want: Want, terms: Terms, budget: u64) -> Self {
        let offer = Offer { window: 8, ..Offer::default() };
        let session = Session::new(&entered(want, terms), offer, budget);
        Self { session, cmd_sn: 10, tag: 0 }
    }

    fn send(&mut self, request: &Request, data: &[u8]) {
        let length = DataLength::new(data.len()).expect("short");
        let header = request.encode(length);
        self.session.received(&header, Some(Buffer::copy_of(data)), &Units);
    }

    /// A command of the next number and a new tag.
    fn make(&mut self, kind: u8, length: u32) -> ScsiCommand {
        self.cmd_sn += 1;
        self.tag += 1;
        let mut cdb = [0; CDB];
        cdb[0] = kind;
        cdb[1..5].copy_from_slice(&length.to_be_bytes());
        ScsiCommand {
            immediate: false,
            is_final: true,
            reads: kind == READ,
            writes: kind == WRITE,
            attribute: Attribute::Simple,
            lun: UNIT,
            task_tag: InitiatorTaskTag::new(self.tag),
            expected_length: length,
            cmd_sn: CmdSn::new(self.cmd_sn - 1),
            exp_stat_sn: StatSn::new(0),
            cdb,
        }
    }

    /// Sends a command of the next number.
    fn command(&mut self, kind: u8, length: u32) -> ScsiCommand {
        let command = self.make(kind, length);
        self.send(&Request::Command(command), &[]);
        command
    }

    fn manage(&mut self, function: Function, lun: LunField, of: &ScsiCommand) {
        self.tag += 1;
        self.send(
            &Request::Task(TaskRequest {
                immediate: true,
                function,
                lun,
                task_tag: InitiatorTaskTag::new(self.tag),
                referenced_tag: of.task_tag,
                cmd_sn: CmdSn::new(self.cmd_sn),
                exp_stat_sn: StatSn::new(0),
                referenced_cmd_sn: of.cmd_sn,
                exp_data_sn: DataSn::default(),
            }),
            &[],
        );
    }

    fn data(
        &mut self,
        of: &ScsiCommand,
        tag: TargetTransferTag,
        place: (u32, u32),
        last: bool,
        data: &[u8],
    ) {
        let (data_sn, offset) = place;
        self.send(
            &Request::Data(DataOut {
                is_final: last,
                lun: UNIT,
                task_tag: of.task_tag,
                transfer_tag: tag,
                exp_stat_sn: StatSn::new(0),
                data_sn: DataSn::new(data_sn),
                offset,
            }),
            data,
        );
    }

    fn started(&mut self) -> Option<(TaskKey, [u8; CDB], Vec<u8>)> {
        match self.session.effect()? {
            Effect::Start { key, task, data } => Some((key, task, data.to_vec())),
            other => panic!("{other:?}"),
        }
    }

    /// What was sent, in order.
    fn answers(&mut self) -> Vec<(Response, Vec<u8>)> {
        let digests = self.session.digests();
        let batch = self.session.take_output();
        let held = batch.held();
        let sent: Vec<u8> = batch.into_parts().iter().flat_map(|part| part.to_vec()).collect();
        self.session.sent(held);
        let mut rest = &sent[..];
        let mut answers = Vec::new();
        while !rest.is_empty() {
            let header: HeaderBytes = rest[..HEADER].try_into().expect("48 bytes");
            let length = Lengths::of(&header).data.bytes() as usize;
            let after = HEADER + if digests.header { 4 } else { 0 };
            let data = rest[after..after + length].to_vec();
            let tail = if digests.data && length > 0 { 4 } else { 0 };
            rest = &rest[after + length + padding(length) + tail..];
            answers.push((Response::parse(&header).expect("it has a meaning"), data));
        }
        answers
    }

    fn one(&mut self) -> (Response, Vec<u8>) {
        let mut answers = self.answers();
        assert_eq!(answers.len(), 1, "{answers:?}");
        answers.remove(0)
    }

    fn response(&mut self) -> (ScsiResponse, Vec<u8>) {
        match self.one() {
            (Response::Command(response), data) => (response, data),
            other => panic!("{other:?}"),
        }
    }

    fn ready(&mut self) -> Vec<ReadyToTransfer> {
        let ready = |(answer, _)| match answer {
            Response::Ready(ready) => ready,
            other => panic!("{other:?}"),
        };
        self.answers().into_iter().map(ready).collect()
    }

    fn rejected(&mut self) -> RejectReason {
        match self.one() {
            (Response::Reject(reject), header) => {
                assert_eq!(header.len(), HEADER, "the header comes along");
                reject.reason
            }
            other => panic!("{other:?}"),
        }
    }

    fn task_answer(&mut self) -> TaskAnswer {
        match self.one() {
            (Response::Task(response), _) => response.answer,
            other => panic!("{other:?}"),
        }
    }
}

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
    assert_eq!(ready[0].stat_sn, StatSn::new(1), "they do not count");
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
    assert_eq!(pair.response().0.exp_cmd_sn, CmdSn::new(11));
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
    assert_eq!(pair.response().0.max_cmd_sn, CmdSn::new(18));
}

#[test]
fn a_tag_is_used_by_one_task_at_a_time() {
    let mut pair = Pair::new();
    let first = pair.command(READ, 1);
    let mut second = pair.make(READ, 1);
    second.task_tag = first.task_tag;
    pair.send(&Request::Command(second), &[]);
    assert_eq!(pair.rejected(), RejectReason::TaskInProgress);
    let (key, ..) = pair.started().expect("the first");
    assert!(pair.started().is_none());
    pair.session.completed(key, good(b"a"));
    pair.answers();
    let mut third = pair.make(READ, 1);
    third.task_tag = first.task_tag;
    pair.send(&Request::Command(third), &[]);
    assert!(pair.started().is_some(), "it is free again, and the number was used up");
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

#[test]
fn an_aborted_task_is_never_told_of() {
    let mut pair = Pair::new();
    let command = pair.command(READ, 512);
    let (key, ..) = pair.started().expect("begun");
    pair.manage(Function::AbortTask, UNIT, &command);
    assert_eq!(pair.task_answer(), TaskAnswer::Complete);
    assert!(matches!(pair.session.effect(), Some(Effect::Abort(aborted)) if aborted == key));
    assert_eq!(pair.session.under_way(), 1, "it has its slot until it ends");
    pair.session.completed(key, good(&bytes(0, 512)));
    assert!(pair.answers().is_empty());
    assert_eq!(pair.session.under_way(), 0);
    pair.manage(Function::AbortTask, UNIT, &command);
    assert_eq!(pair.task_answer(), TaskAnswer::NoSuchTask);
}

#[test]
fn a_task_that_waits_for_data_is_aborted_for_good() {
    let mut pair = Pair::with(Terms::default());
    let command = pair.command(WRITE, 512);
    let tag = pair.ready()[0].transfer_tag;
    pair.manage(Function::AbortTask, UNIT, &command);
    assert_eq!(pair.task_answer(), TaskAnswer::Complete);
    assert!(pair.session.effect().is_none());
    pair.data(&command, tag, (0, 0), true, &bytes(0, 512));
    assert!(pair.session.effect().is_none() && pair.answers().is_empty());
}

#[test]
fn a_task_that_has_not_come_is_aborted_before_it_does() {
    let mut pair = Pair::new();
    let (missing, next) = (pair.make(READ, 1), pair.make(0, 0));
    pair.send(&Request::Command(next), &[]);
    assert!(pair.answers().is_empty(), "it is not its turn");
    pair.manage(Function::AbortTask, UNIT, &missing);
    let answers = pair.answers();
    assert!(matches!(&answers[0].0, Response::Task(task) if task.answer == TaskAnswer::Complete));
    assert!(matches!(&answers[1].0, Response::Command(done) if done.task_tag == next.task_tag));
    pair.send(&Request::Command(missing), &[]);
    assert!(pair.started().is_none(), "its number is over");
}

#[test]
fn a_unit_is_cleared_by_any_of_its_addresses() {
    for function in [Function::AbortTaskSet, Function::ClearTaskSet, Function::LogicalUnitReset] {
        let mut pair = Pair::new();
        let mine = pair.command(READ, 1);
        pair.started();
        let mut elsewhere = pair.make(READ, 1);
        elsewhere.lun = OTHER;
        pair.send(&Request::Command(elsewhere), &[]);
        pair.started();
        pair.manage(function, SAME_UNIT, &mine);
        assert!(matches!(pair.session.effect(), Some(Effect::Abort(_))));
        if function == Function::AbortTaskSet {
            assert_eq!(pair.task_answer(), TaskAnswer::Complete);
        } else {
            assert!(pair.answers().is_empty(), "others have to know first");
            let Some(Effect::Manage(management)) = pair.session.effect() else {
                panic!("{function:?}")
            };
            assert_eq!((management.function, management.lun), (function, UNIT));
            pair.session.managed(management.tag, TaskAnswer::Complete);
            assert_eq!(pair.task_answer(), TaskAnswer::Complete);
        }
        assert!(pair.session.effect().is_none(), "the other unit goes on");
        pair.manage(function, NOWHERE, &mine);
        assert_eq!(pair.task_answer(), TaskAnswer::NoSuchUnit);
    }
}

#[test]
fn a_reset_of_the_target_ends_all_tasks() {
    for function in [Function::TargetWarmReset, Function::TargetColdReset] {
        let mut pair = Pair::new();
        let command = pair.command(READ, 1);
        let mut elsewhere = pair.make(READ, 1);
        elsewhere.lun = OTHER;
        pair.send(&Request::Command(elsewhere), &[]);
        pair.started();
        pair.started();
        pair.manage(function, NOWHERE, &command);
        assert!(matches!(pair.session.effect(), Some(Effect::Abort(_))));
        assert!(matches!(pair.session.effect(), Some(Effect::Abort(_))));
        assert!(matches!(pair.session.effect(), Some(Effect::Manage(_))));
    }
}

#[test]
fn nobody_floods_others_with_resets() {
    let mut pair = Pair::new();
    let command = pair.command(READ, 1);
    pair.started();
    for _ in 0..MAX_IMMEDIATE {
        pair.manage(Function::LogicalUnitReset, UNIT, &command);
        assert!(pair.answers().is_empty());
    }
    pair.manage(Function::LogicalUnitReset, UNIT, &command);
    assert_eq!(pair.task_answer(), TaskAnswer::Rejected);
    let tags = std::iter::from_fn(|| match pair.session.effect()? {
        Effect::Manage(management) => Some(Some(management.tag)),
        _ => Some(None),
    });
    let tags: Vec<_> = tags.flatten().collect();
    assert_eq!(tags.len(), MAX_IMMEDIATE as usize);
    pair.session.managed(tags[0], TaskAnswer::Complete);
    pair.answers();
    pair.manage(Function::LogicalUnitReset, UNIT, &command);
    assert!(pair.answers().is_empty(), "there is room for another one");
}

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
    let Response::Nop(NopIn { task_tag, transfer_tag, exp_cmd_sn, stat_sn, .. }) = answer else {
        panic!("{answer:?}")
    };
    assert_eq!((task_tag.number(), transfer_tag), (5, TargetTransferTag::RESERVED));
    assert_eq!((exp_cmd_sn, stat_sn, data), (CmdSn::new(11), StatSn::new(1), bytes(0, 512)));
    pair.cmd_sn += 1;
    assert!(pair.session.ping());
    let (answer, _) = pair.one();
    let Response::Nop(asked) = answer else { panic!("{answer:?}") };
    assert_eq!((asked.task_tag, asked.stat_sn), (InitiatorTaskTag::RESERVED, StatSn::new(2)));
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
    pair.session.ask_to_leave(5);
    pair.session.say_dropped();
    let answers = pair.answers();
    let events: Vec<_> = answers
        .iter()
        .map(|(answer, _)| match answer {
            Response::Async(AsyncMessage { event, stat_sn, .. }) => (*event, stat_sn.number()),
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

proptest! {
    /// Whatever comes: no panic, every command is answered at most once, and what is held is given back.
    #[test]
    fn a_session_survives_whatever_comes(
        steps in prop::collection::vec((0u8..9, 0u32..6, 0u32..3000, any::<bool>(), 0u32..5), 0..80),
    ) {
        let terms = Terms { max_burst: 1000, first_burst: 600, initial_r2t: false, max_outstanding_r2t: 2,
            max_send_segment: 512, ..Terms::default() };
        let mut pair = Pair::of(target(), terms, 4000);
        let mut commands: Vec<ScsiCommand> = Vec::new();
        let mut running = Vec::new();
        let mut answered = std::collections::BTreeSet::new();
        for (step, pick, length, flag, skew) in steps {
            let one = commands.get(pick as usize % commands.len().max(1)).copied();
            match (step, one) {
                (0..=2, _) => {
                    let mut command = pair.make([READ, WRITE, REFUSE][usize::from(step)], length);
                    command.is_final = flag;
                    command.writes = step > 0;
                    command.cmd_sn = command.cmd_sn.plus(if skew == 4 { 1 } else { 0 });
                    let along = if step > 0 { length.min(skew * 200) } else { 0 };
                    pair.send(&Request::Command(command), &bytes(0, along));
                    commands.push(command);
                }
                (3, Some(command)) => {
                    let tag = if flag { TargetTransferTag::RESERVED } else { TargetTransferTag::new(pick) };
                    pair.data(&command, tag, (skew % 2, length), flag, &bytes(0, length.min(500)));
                }
                (4, Some(command)) => pair.manage(Function::AbortTask, UNIT, &command),
                (5, Some(command)) => pair.manage(Function::LogicalUnitReset, UNIT, &command),
                (6, _) if !running.is_empty() => {
                    let (key, length) = running.remove(pick as usize % running.len());
                    pair.session.completed(key, if flag { good(&bytes(0, length)) } else { check(3) });
                }
                (7, _) => { pair.session.ping(); }
                _ => {
                    for (answer, _) in pair.answers() {
                        let tag = match answer {
                            Response::Command(response) => response.task_tag,
                            Response::Data(DataIn { task_tag, end: Some(_), .. }) => task_tag,
                            _ => continue,
                        };
                        prop_assert!(answered.insert(tag.number()), "{} was answered twice", tag);
                    }
                }
            }
            while let Some(effect) = pair.session.effect() {
                match effect {
                    Effect::Start { key, task, data } => {
                        let length = u32::from_be_bytes([task[1], task[2], task[3], task[4]]);
                        prop_assert!(task[0] != WRITE || data.len() as u32 == length);
                        running.push((key, if task[0] == READ { length } else { 0 }));
                    }
                    Effect::Manage(management) => {
                        pair.session.managed(management.tag, TaskAnswer::Complete);
                    }
                    _ => {}
                }
            }
        }
        pair.session.abort(Scope::All);
        for (key, _) in running {
            pair.session.completed(key, good(b""));
        }
        pair.answers();
        prop_assert_eq!(pair.session.under_way(), 0);
        prop_assert_eq!(pair.session.budget.held, 0);
        prop_assert_eq!(pair.session.immediate, 0);
    }
}
