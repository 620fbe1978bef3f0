//! Sessions, with units that do what their CDB says.

#![allow(clippy::cast_possible_truncation, reason = "the numbers of these tests are small")]

mod anything;
mod commands;
mod management;
mod talk;

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
