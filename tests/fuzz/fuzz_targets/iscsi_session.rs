//! A session of iSCSI, against an initiator that does anything at all, and a model of what it may expect.
//!
//! Oracle: a command is begun at most once, and only one that was sent; a write is begun with the bytes that were sent for it; a
//! command is answered at most once, and never after its abort was answered with success; what is read comes whole and in order; the
//! window never goes back, and responses are numbered one by one; what is being done holds no more than the budget, or is alone; when all
//! has ended nothing is under way. No panic, and no more memory than the sanitizer allows.

#![no_main]

use arbitrary::Arbitrary;
use landfall_disks::Buffer;
use landfall_protocols::iscsi::name::Name;
use landfall_protocols::iscsi::session::collection::Fault;
use landfall_protocols::iscsi::session::full::{
    Effect, Logical, Outcome, Scope, Session, TaskKey, Verdict, Work,
};
use landfall_protocols::iscsi::session::login::{Entered, Entering, Want};
use landfall_protocols::iscsi::session::terms::{Offer, Terms};
use landfall_protocols::iscsi::wire::command::{Attribute, ScsiCommand};
use landfall_protocols::iscsi::wire::data::DataOut;
use landfall_protocols::iscsi::wire::header::{DataLength, Lengths, padding};
use landfall_protocols::iscsi::wire::number::{
    Cid, CmdSn, DataSn, InitiatorTaskTag, Isid, LunField, ResponseNumbers, StatSn,
    TargetTransferTag, Tsih,
};
use landfall_protocols::iscsi::wire::pdu::{Request, Response};
use landfall_protocols::iscsi::wire::task::{Function, TaskAnswer, TaskRequest};
use landfall_protocols::iscsi::wire::{CDB, HEADER, HeaderBytes};
use libfuzzer_sys::fuzz_target;
use std::collections::{BTreeMap, BTreeSet};

const READ: u8 = 1;
const WRITE: u8 = 2;

/// Bytes that commands may hold at a time.
const BUDGET: u64 = 40_000;

#[derive(Arbitrary, Debug)]
struct Input {
    immediate_data: bool,
    initial_r2t: bool,
    outstanding: u8,
    segment: u16,
    burst: u16,
    steps: Vec<Step>,
}

#[derive(Arbitrary, Debug)]
enum Step {
    /// A command, `skip` numbers ahead, with some of its data.
    Command {
        kind: u8,
        length: u16,
        announced: Option<u16>,
        along: u16,
        last: bool,
        skip: u8,
        at_once: bool,
    },
    /// Data for one of the last commands: what is expected, or something else.
    Data {
        of: u8,
        wrong: Option<(i8, i8)>,
        length: u16,
        last: Option<bool>,
        spoilt: bool,
    },
    Abort {
        of: u8,
    },
    Reset,
    /// One of the commands that were begun is done.
    Done {
        which: u8,
        fails: bool,
    },
    /// Everything that is ready is sent.
    Send,
    /// Bytes that may be anything.
    Raw {
        header: [u8; HEADER],
        data: Vec<u8>,
    },
    Ping,
}

/// One unit, whose commands say how many bytes they want.
struct Unit;

impl Logical for Unit {
    type Task = [u8; CDB];

    fn decide(&self, _: LunField, cdb: &[u8; CDB], announced: u32) -> Verdict<Self::Task> {
        let length = u32::from(u16::from_be_bytes([cdb[1], cdb[2]]));
        let (wanted, data_in) = match cdb[0] {
            READ => (0, length),
            WRITE => (length, 0),
            _ => return Verdict::Answer(outcome(2, 0)),
        };
        let needed = wanted.min(announced);
        Verdict::Do(Work { task: *cdb, needed, wanted: wanted.into(), data_in: data_in.into() })
    }

    fn unit(&self, lun: LunField) -> Option<LunField> {
        (lun == LunField::default()).then_some(lun)
    }

    fn spoilt(&self, _: LunField, _: Fault) -> Outcome {
        outcome(2, 0)
    }
}

fn outcome(status: u8, length: usize) -> Outcome {
    let sense = if status == 0 { Vec::new() } else { vec![0x70; 18] };
    let data: Vec<u8> = (0..length).map(|at| at as u8).collect();
    Outcome { status, sense, data: Buffer::copy_of(&data) }
}

/// The byte of a command's data at `at`.
fn byte(tag: u32, at: u32) -> u8 {
    (tag.wrapping_mul(31) ^ at ^ (at >> 8)) as u8
}

/// A sequence of data that is under way.
#[derive(Clone, Copy)]
struct Open {
    tag: TargetTransferTag,
    next: u32,
    at: u32,
    end: u32,
}

struct Model {
    session: Session<[u8; CDB]>,
    terms: Terms,
    cmd_sn: u32,
    commands: Vec<ScsiCommand>,
    open: BTreeMap<u32, Vec<Open>>,
    begun: BTreeSet<u32>,
    /// What is being done, with the bytes that it holds.
    running: Vec<(TaskKey, [u8; CDB], u64)>,
    aborted: BTreeSet<u32>,
    /// Requests for task management.
    requests: u32,
    /// Those that abort a command, and which.
    asked: BTreeMap<u32, u32>,
    answered: BTreeSet<u32>,
    read: BTreeMap<u32, u32>,
    last: Option<CmdSn>,
    stat_sn: StatSn,
    raw: bool,
}

impl Model {
    fn new(input: &Input) -> Self {
        let terms = Terms {
            immediate_data: input.immediate_data,
            initial_r2t: input.initial_r2t,
            max_outstanding_r2t: u16::from(input.outstanding % 4) + 1,
            max_send_segment: u32::from(input.segment).max(512),
            max_burst: u32::from(input.burst).max(512),
            first_burst: u32::from(input.burst).max(512).min(8192),
            ..Terms::default()
        };
        let entering = Entering {
            initiator: Name::parse("iqn.2026-11.com.example:host").expect("a name"),
            user: None,
            want: Want::Target(Name::parse("iqn.2026-11.com.example:web").expect("a name")),
            isid: Isid::default(),
            tsih: Tsih::new(1),
            cid: Cid::new(1),
        };
        let (cmd_sn, stat_sn) = (CmdSn::new(u32::MAX - 3), StatSn::new(u32::MAX - 5));
        let entered = Entered { entering, terms, cmd_sn, stat_sn };
        let offer = Offer { window: 8, ..Offer::default() };
        Self {
            session: Session::new(&entered, offer, BUDGET),
            terms,
            cmd_sn: cmd_sn.number(),
            commands: Vec::new(),
            open: BTreeMap::new(),
            begun: BTreeSet::new(),
            running: Vec::new(),
            aborted: BTreeSet::new(),
            requests: 0,
            asked: BTreeMap::new(),
            answered: BTreeSet::new(),
            read: BTreeMap::new(),
            last: None,
            stat_sn,
            raw: false,
        }
    }

    fn give(&mut self, request: &Request, data: Option<&[u8]>) {
        let length = DataLength::new(data.map_or(0, <[u8]>::len)).expect("short");
        self.session.received(&request.encode(length), data.map(Buffer::copy_of), &Unit);
        self.effects();
    }

    fn command(&mut self, step: &Step) {
        let Step::Command { kind, length, announced, along, last, skip, at_once } = step else {
            return;
        };
        let tag = u32::try_from(self.commands.len()).expect("few");
        let mut cdb = [0; CDB];
        cdb[0] = kind % 3;
        cdb[1..3].copy_from_slice(&length.to_be_bytes());
        // So that what is begun says which it is.
        cdb[3..7].copy_from_slice(&tag.to_be_bytes());
        let command = ScsiCommand {
            immediate: *at_once,
            is_final: *last,
            reads: cdb[0] == READ,
            writes: cdb[0] == WRITE,
            attribute: Attribute::Simple,
            lun: LunField::default(),
            task_tag: InitiatorTaskTag::new(tag),
            expected_length: u32::from(announced.unwrap_or(*length)),
            cmd_sn: CmdSn::new(self.cmd_sn.wrapping_add(u32::from(skip % 3))),
            exp_stat_sn: StatSn::new(0),
            cdb,
        };
        if !at_once && skip % 3 == 0 {
            self.cmd_sn = self.cmd_sn.wrapping_add(1);
        }
        self.commands.push(command);
        let along = if command.writes { u32::from(*along).min(command.expected_length) } else { 0 };
        let data: Vec<u8> = (0..along).map(|at| byte(tag, at)).collect();
        if command.writes && !command.is_final {
            let end = self.terms.first_burst.min(command.expected_length);
            let open = Open { tag: TargetTransferTag::RESERVED, next: 0, at: along, end };
            self.open.entry(tag).or_default().push(open);
        }
        self.give(&Request::Command(command), Some(&data));
    }

    fn data(&mut self, step: &Step) {
        let Step::Data { of, wrong, length, last, spoilt } = step else { return };
        let Some(tag) = self.pick(*of).map(|command| command.task_tag.number()) else { return };
        let open = self.open.entry(tag).or_default();
        let mut one = open.first().copied().unwrap_or(Open {
            tag: TargetTransferTag::new(99),
            next: 0,
            at: 0,
            end: 100,
        });
        let length = u32::from(*length).min(one.end.saturating_sub(one.at));
        let ends = last.unwrap_or(one.at + length == one.end);
        let (skew, jump) = wrong.unwrap_or_default();
        let pdu = DataOut {
            is_final: ends,
            lun: LunField::default(),
            task_tag: InitiatorTaskTag::new(tag),
            transfer_tag: one.tag,
            exp_stat_sn: StatSn::new(0),
            data_sn: DataSn::new(one.next.wrapping_add_signed(skew.into())),
            offset: one.at.wrapping_add_signed(jump.into()),
        };
        let data: Vec<u8> = (one.at..one.at + length).map(|at| byte(tag, at)).collect();
        (one.at, one.next) = (one.at + length, one.next + 1);
        match open.first_mut() {
            Some(_) if ends => drop(open.remove(0)),
            Some(first) => *first = one,
            None => {}
        }
        self.give(&Request::Data(pdu), (!spoilt).then_some(&data[..]));
    }

    fn pick(&self, of: u8) -> Option<&ScsiCommand> {
        // The last few are of interest.
        let back = usize::from(of) % self.commands.len().clamp(1, 12);
        self.commands.iter().rev().nth(back)
    }

    fn manage(&mut self, function: Function, of: Option<ScsiCommand>) {
        self.requests += 1;
        let tag = 1_000_000 + self.requests;
        if let Some(of) = of {
            self.asked.insert(tag, of.task_tag.number());
        }
        let request = TaskRequest {
            immediate: true,
            function,
            lun: LunField::default(),
            task_tag: InitiatorTaskTag::new(tag),
            referenced_tag: of.map_or(InitiatorTaskTag::RESERVED, |of| of.task_tag),
            cmd_sn: CmdSn::new(self.cmd_sn),
            exp_stat_sn: StatSn::new(0),
            referenced_cmd_sn: of.map_or(CmdSn::default(), |of| of.cmd_sn),
            exp_data_sn: DataSn::default(),
        };
        self.give(&Request::Task(request), Some(&[]));
    }

    fn effects(&mut self) {
        while let Some(effect) = self.session.effect() {
            match effect {
                Effect::Start { key, task, data } => {
                    let tag = u32::from_be_bytes([task[3], task[4], task[5], task[6]]);
                    let length = u32::from(u16::from_be_bytes([task[1], task[2]]));
                    let read = if task[0] == READ { length } else { 0 };
                    let held = u64::from(read).max(u64::try_from(data.len()).expect("small"));
                    self.running.push((key, task, held));
                    self.fits(held);
                    if self.raw {
                        continue;
                    }
                    assert!(self.begun.insert(tag), "{tag} is begun twice");
                    let command = self.commands[usize::try_from(tag).expect("small")];
                    if task[0] == WRITE {
                        let needed = length.min(command.expected_length);
                        assert_eq!(data.len(), usize::try_from(needed).expect("small"));
                        assert!(
                            (0u32..).zip(data.iter()).all(|(at, found)| *found == byte(tag, at))
                        );
                    }
                }
                Effect::Manage(management) => {
                    self.session.managed(management.tag, TaskAnswer::Complete);
                }
                Effect::Discover(_) => self.session.discovered(b"TargetName=x\0"),
                Effect::Abort(key) => assert!(self.running.iter().any(|(known, ..)| *known == key)),
                Effect::Close(_) => {}
            }
        }
    }

    /// Something was begun that holds so many bytes.
    fn fits(&self, begun: u64) {
        let held: u64 = self.running.iter().map(|(.., held)| held).sum();
        assert!(begun == 0 || held == begun || held <= BUDGET, "{held} bytes are under way");
    }

    fn done(&mut self, which: u8, fails: bool) {
        if self.running.is_empty() {
            return;
        }
        let (key, task, _) = self.running.remove(usize::from(which) % self.running.len());
        let length = usize::from(u16::from_be_bytes([task[1], task[2]]));
        let length = if task[0] == READ { length } else { 0 };
        self.session.completed(key, if fails { outcome(2, 0) } else { outcome(0, length) });
        self.effects();
    }

    fn send(&mut self) {
        let batch = self.session.take_output();
        let held = batch.held();
        let sent: Vec<u8> = batch.into_parts().iter().flat_map(|part| part.to_vec()).collect();
        self.session.sent(held);
        self.effects();
        let mut rest = &sent[..];
        while !rest.is_empty() {
            let header = HeaderBytes::try_from(&rest[..HEADER]).expect("48 bytes");
            let length = Lengths::of(&header).data.bytes() as usize;
            let data = &rest[HEADER..HEADER + length];
            rest = &rest[HEADER + length + padding(length)..];
            self.answer(&Response::parse(&header).expect("it has a meaning"), data);
        }
    }

    fn answer(&mut self, response: &Response, data: &[u8]) {
        let counted = |numbers: ResponseNumbers| (numbers.max_cmd_sn, Some(numbers.stat_sn));
        let (max_cmd_sn, stat_sn) = match response {
            Response::Command(pdu) => counted(pdu.numbers),
            Response::Data(pdu) => (pdu.max_cmd_sn, pdu.end.map(|end| end.stat_sn)),
            Response::Task(pdu) => counted(pdu.numbers),
            Response::Ready(pdu) => (pdu.numbers.max_cmd_sn, None),
            Response::Reject(pdu) => counted(pdu.numbers),
            Response::Text(pdu) => counted(pdu.numbers),
            Response::Logout(pdu) => counted(pdu.numbers),
            Response::Nop(pdu) if pdu.task_tag == InitiatorTaskTag::RESERVED => {
                (pdu.numbers.max_cmd_sn, None)
            }
            Response::Nop(pdu) => counted(pdu.numbers),
            Response::Async(_) | Response::Login(_) => panic!("nobody asked for {response:?}"),
        };
        assert!(self.last.is_none_or(|last| !max_cmd_sn.precedes(last)), "the window goes back");
        self.last = Some(max_cmd_sn);
        if let Some(found) = stat_sn {
            assert_eq!(found, self.stat_sn, "responses are numbered one by one");
            self.stat_sn = found.next();
        }
        if self.raw {
            return;
        }
        match response {
            Response::Ready(pdu) => {
                let (tag, at) = (pdu.task_tag.number(), pdu.offset);
                assert!(pdu.length > 0 && pdu.length <= self.terms.max_burst);
                let open = Open { tag: pdu.transfer_tag, next: 0, at, end: at + pdu.length };
                self.open.entry(tag).or_default().push(open);
            }
            Response::Task(pdu) => {
                if let (TaskAnswer::Complete, Some(of)) =
                    (pdu.answer, self.asked.get(&pdu.task_tag.number()))
                {
                    self.aborted.insert(*of);
                }
            }
            Response::Data(pdu) => {
                let tag = pdu.task_tag.number();
                let at = self.read.entry(tag).or_default();
                assert_eq!(pdu.offset, *at);
                assert!((pdu.offset..).zip(data).all(|(at, found)| *found == at as u8));
                assert!(data.len() <= self.terms.max_send_segment as usize);
                *at += u32::try_from(data.len()).expect("small");
                if pdu.end.is_some() {
                    self.answered(tag);
                }
            }
            Response::Command(pdu) => self.answered(pdu.task_tag.number()),
            _ => {}
        }
    }

    fn answered(&mut self, tag: u32) {
        assert!(self.answered.insert(tag), "{tag} is answered twice");
        assert!(!self.aborted.contains(&tag), "{tag} was aborted");
    }

    fn end(mut self) {
        self.session.abort(Scope::All);
        self.effects();
        while !self.running.is_empty() {
            self.done(0, false);
        }
        self.send();
        assert_eq!(self.session.under_way(), 0);
    }
}

fuzz_target!(|input: Input| {
    let mut model = Model::new(&input);
    for step in input.steps.iter().take(200) {
        match step {
            Step::Command { .. } => model.command(step),
            Step::Data { .. } => model.data(step),
            Step::Abort { of } => {
                if let Some(command) = model.pick(*of).copied() {
                    model.manage(Function::AbortTask, Some(command));
                }
            }
            Step::Reset => model.manage(Function::LogicalUnitReset, None),
            Step::Done { which, fails } => model.done(*which, *fails),
            Step::Send => model.send(),
            Step::Ping => {
                model.session.ping();
            }
            Step::Raw { header, data } => {
                // From here on the model knows less.
                model.raw = true;
                let data = &data[..data.len().min(4096)];
                model.session.received(header, Some(Buffer::copy_of(data)), &Unit);
                model.effects();
            }
        }
    }
    model.end();
});
