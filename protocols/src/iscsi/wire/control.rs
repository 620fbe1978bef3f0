//! What keeps a session going and ends it: NOP, text, logout and SNACK (sections 11.10, 11.11,
//! 11.14 to 11.16, 11.18 and 11.19).

use super::header::{CONTINUE, DataLength, FINAL, Lead, request};
use super::number::{
    Cid, CmdSn, InitiatorTaskTag, LunField, ResponseNumbers, ResponseNumbersLayout, StatSn,
    TargetTransferTag,
};
use super::pdu::{
    LOGOUT_REQUEST, LOGOUT_RESPONSE, NOP_IN, NOP_OUT, SNACK, TEXT_REQUEST, TEXT_RESPONSE,
};
use super::{HeaderBytes, layout};
use zerocopy::big_endian::{U16, U32};

layout! {
    /// NOP-Out and text requests.
    struct OutLayout {
        lead: Lead,
        lun: [u8; 8],
        task_tag: U32,
        transfer_tag: U32,
        cmd_sn: U32,
        exp_stat_sn: U32,
        reserved: [u8; 16],
    }
}

layout! {
    /// NOP-In and text responses.
    struct InLayout {
        lead: Lead,
        lun: [u8; 8],
        task_tag: U32,
        transfer_tag: U32,
        numbers: ResponseNumbersLayout,
        reserved: [u8; 12],
    }
}

layout! {
    struct LogoutRequestLayout {
        lead: Lead,
        reserved: [u8; 8],
        task_tag: U32,
        cid: U16,
        reserved_too: U16,
        cmd_sn: U32,
        exp_stat_sn: U32,
        reserved_last: [u8; 16],
    }
}

layout! {
    struct LogoutResponseLayout {
        lead: Lead,
        reserved: [u8; 8],
        task_tag: U32,
        reserved_too: U32,
        numbers: ResponseNumbersLayout,
        reserved_more: U32,
        time_to_wait: U16,
        time_to_retain: U16,
        reserved_last: U32,
    }
}

layout! {
    struct SnackLayout {
        lead: Lead,
        lun: [u8; 8],
        task_tag: U32,
        transfer_tag: U32,
        reserved: U32,
        exp_stat_sn: U32,
        reserved_too: U32,
        reserved_more: U32,
        begin: U32,
        length: U32,
    }
}

/// A ping of the initiator, or its answer to one of the target's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NopOut {
    /// Outside the order of commands.
    pub immediate: bool,
    /// As in the ping it answers.
    pub lun: LunField,
    /// Its name if it wants an answer; reserved otherwise.
    pub task_tag: InitiatorTaskTag,
    /// That of the ping it answers; reserved otherwise.
    pub transfer_tag: TargetTransferTag,
    /// Its number, or that of the next command.
    pub cmd_sn: CmdSn,
    /// What the initiator has got.
    pub exp_stat_sn: StatSn,
}

impl NopOut {
    pub(super) fn parse(bytes: &HeaderBytes) -> Self {
        let layout = OutLayout::of(bytes);
        Self {
            immediate: layout.lead.immediate(),
            lun: LunField(layout.lun),
            task_tag: layout.task_tag.into(),
            transfer_tag: layout.transfer_tag.into(),
            cmd_sn: layout.cmd_sn.into(),
            exp_stat_sn: layout.exp_stat_sn.into(),
        }
    }

    pub(super) fn encode(&self, data: DataLength) -> HeaderBytes {
        OutLayout {
            lead: Lead::new(request(NOP_OUT, self.immediate), FINAL, data),
            lun: self.lun.0,
            task_tag: self.task_tag.into(),
            transfer_tag: self.transfer_tag.into(),
            cmd_sn: self.cmd_sn.into(),
            exp_stat_sn: self.exp_stat_sn.into(),
            reserved: [0; 16],
        }
        .to_bytes()
    }
}

/// A ping of the target, or its answer to one of the initiator's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NopIn {
    /// To be repeated in the answer.
    pub lun: LunField,
    /// That of the ping it answers; reserved in one of the target's own.
    pub task_tag: InitiatorTaskTag,
    /// Its name if it wants an answer; reserved otherwise.
    pub transfer_tag: TargetTransferTag,
    /// Its numbers.
    pub numbers: ResponseNumbers,
}

impl NopIn {
    pub(super) fn parse(bytes: &HeaderBytes) -> Self {
        let layout = InLayout::of(bytes);
        Self {
            lun: LunField(layout.lun),
            task_tag: layout.task_tag.into(),
            transfer_tag: layout.transfer_tag.into(),
            numbers: layout.numbers.into(),
        }
    }

    pub(super) fn encode(&self, data: DataLength) -> HeaderBytes {
        InLayout {
            lead: Lead::new(NOP_IN, FINAL, data),
            lun: self.lun.0,
            task_tag: self.task_tag.into(),
            transfer_tag: self.transfer_tag.into(),
            numbers: self.numbers.into(),
            reserved: [0; 12],
        }
        .to_bytes()
    }
}

/// Text of the initiator.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TextRequest {
    /// Outside the order of commands.
    pub immediate: bool,
    /// The initiator has nothing more to say.
    pub is_final: bool,
    /// Its text goes on in the next request.
    pub continues: bool,
    /// As in the response it goes on from.
    pub lun: LunField,
    /// Its name.
    pub task_tag: InitiatorTaskTag,
    /// That of the response it goes on from; reserved in the first.
    pub transfer_tag: TargetTransferTag,
    /// Its number.
    pub cmd_sn: CmdSn,
    /// What the initiator has got.
    pub exp_stat_sn: StatSn,
}

impl TextRequest {
    pub(super) fn parse(bytes: &HeaderBytes) -> Self {
        let layout = OutLayout::of(bytes);
        Self {
            immediate: layout.lead.immediate(),
            is_final: layout.lead.is_final(),
            continues: layout.lead.continues(),
            lun: LunField(layout.lun),
            task_tag: layout.task_tag.into(),
            transfer_tag: layout.transfer_tag.into(),
            cmd_sn: layout.cmd_sn.into(),
            exp_stat_sn: layout.exp_stat_sn.into(),
        }
    }

    pub(super) fn encode(&self, data: DataLength) -> HeaderBytes {
        let opcode = request(TEXT_REQUEST, self.immediate);
        OutLayout {
            lead: Lead::new(opcode, text_flags(self.is_final, self.continues), data),
            lun: self.lun.0,
            task_tag: self.task_tag.into(),
            transfer_tag: self.transfer_tag.into(),
            cmd_sn: self.cmd_sn.into(),
            exp_stat_sn: self.exp_stat_sn.into(),
            reserved: [0; 16],
        }
        .to_bytes()
    }
}

fn text_flags(is_final: bool, continues: bool) -> u8 {
    let flag = |bit, set| if set { bit } else { 0 };
    flag(FINAL, is_final) | flag(CONTINUE, continues)
}

/// Text of the target.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TextResponse {
    /// The target has nothing more to say.
    pub is_final: bool,
    /// Its text goes on in the next response.
    pub continues: bool,
    /// To be repeated by who goes on.
    pub lun: LunField,
    /// The request's.
    pub task_tag: InitiatorTaskTag,
    /// To be repeated by who goes on; reserved at the end.
    pub transfer_tag: TargetTransferTag,
    /// Its numbers.
    pub numbers: ResponseNumbers,
}

impl TextResponse {
    pub(super) fn parse(bytes: &HeaderBytes) -> Self {
        let layout = InLayout::of(bytes);
        Self {
            is_final: layout.lead.is_final(),
            continues: layout.lead.continues(),
            lun: LunField(layout.lun),
            task_tag: layout.task_tag.into(),
            transfer_tag: layout.transfer_tag.into(),
            numbers: layout.numbers.into(),
        }
    }

    pub(super) fn encode(&self, data: DataLength) -> HeaderBytes {
        InLayout {
            lead: Lead::new(TEXT_RESPONSE, text_flags(self.is_final, self.continues), data),
            lun: self.lun.0,
            task_tag: self.task_tag.into(),
            transfer_tag: self.transfer_tag.into(),
            numbers: self.numbers.into(),
            reserved: [0; 12],
        }
        .to_bytes()
    }
}

/// What a logout closes (section 11.14.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LogoutReason {
    /// The session.
    CloseSession,
    /// One connection.
    CloseConnection,
    /// One connection, to be recovered.
    RemoveForRecovery,
    /// Any other number, of seven bits.
    Unknown(u8),
}

/// A request to log out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LogoutRequest {
    /// Outside the order of commands.
    pub immediate: bool,
    /// What it closes.
    pub reason: LogoutReason,
    /// Its name.
    pub task_tag: InitiatorTaskTag,
    /// The connection, if it is about one.
    pub cid: Cid,
    /// Its number.
    pub cmd_sn: CmdSn,
    /// What the initiator has got.
    pub exp_stat_sn: StatSn,
}

impl LogoutRequest {
    pub(super) fn parse(bytes: &HeaderBytes) -> Self {
        let layout = LogoutRequestLayout::of(bytes);
        Self {
            immediate: layout.lead.immediate(),
            reason: match layout.lead.flags & !FINAL {
                0 => LogoutReason::CloseSession,
                1 => LogoutReason::CloseConnection,
                2 => LogoutReason::RemoveForRecovery,
                other => LogoutReason::Unknown(other),
            },
            task_tag: layout.task_tag.into(),
            cid: layout.cid.into(),
            cmd_sn: layout.cmd_sn.into(),
            exp_stat_sn: layout.exp_stat_sn.into(),
        }
    }

    pub(super) fn encode(&self) -> HeaderBytes {
        let reason = match self.reason {
            LogoutReason::CloseSession => 0,
            LogoutReason::CloseConnection => 1,
            LogoutReason::RemoveForRecovery => 2,
            LogoutReason::Unknown(number) => number,
        };
        let opcode = request(LOGOUT_REQUEST, self.immediate);
        LogoutRequestLayout {
            lead: Lead::new(opcode, FINAL | reason, DataLength::NONE),
            reserved: [0; 8],
            task_tag: self.task_tag.into(),
            cid: self.cid.into(),
            reserved_too: U16::ZERO,
            cmd_sn: self.cmd_sn.into(),
            exp_stat_sn: self.exp_stat_sn.into(),
            reserved_last: [0; 16],
        }
        .to_bytes()
    }
}

/// How a logout went (section 11.15.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LogoutAnswer {
    /// It is closed.
    Closed,
    /// There is no such connection.
    NoSuchConnection,
    /// Connections are not recovered here.
    RecoveryNotSupported,
    /// Cleaning up failed, or any other number.
    Failed(u8),
}

/// The answer to a request to log out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LogoutResponse {
    /// How it went.
    pub answer: LogoutAnswer,
    /// The request's.
    pub task_tag: InitiatorTaskTag,
    /// Its numbers.
    pub numbers: ResponseNumbers,
    /// Seconds to wait before coming again.
    pub time_to_wait: u16,
    /// Seconds that tasks are kept.
    pub time_to_retain: u16,
}

impl LogoutResponse {
    pub(super) fn parse(bytes: &HeaderBytes) -> Self {
        let layout = LogoutResponseLayout::of(bytes);
        Self {
            answer: match layout.lead.specific[0] {
                0 => LogoutAnswer::Closed,
                1 => LogoutAnswer::NoSuchConnection,
                2 => LogoutAnswer::RecoveryNotSupported,
                other => LogoutAnswer::Failed(other),
            },
            task_tag: layout.task_tag.into(),
            numbers: layout.numbers.into(),
            time_to_wait: layout.time_to_wait.get(),
            time_to_retain: layout.time_to_retain.get(),
        }
    }

    pub(super) fn encode(&self) -> HeaderBytes {
        let answer = match self.answer {
            LogoutAnswer::Closed => 0,
            LogoutAnswer::NoSuchConnection => 1,
            LogoutAnswer::RecoveryNotSupported => 2,
            LogoutAnswer::Failed(number) => number,
        };
        let lead = Lead::new(LOGOUT_RESPONSE, FINAL, DataLength::NONE);
        LogoutResponseLayout {
            lead: Lead { specific: [answer, 0], ..lead },
            reserved: [0; 8],
            task_tag: self.task_tag.into(),
            reserved_too: U32::ZERO,
            numbers: self.numbers.into(),
            reserved_more: U32::ZERO,
            time_to_wait: self.time_to_wait.into(),
            time_to_retain: self.time_to_retain.into(),
            reserved_last: U32::ZERO,
        }
        .to_bytes()
    }
}

/// A request to send something again, or the word that data has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Snack {
    /// What is asked for: seven bits (section 11.16.1).
    pub kind: u8,
    /// The logical unit.
    pub lun: LunField,
    /// The task.
    pub task_tag: InitiatorTaskTag,
    /// The transfer.
    pub transfer_tag: TargetTransferTag,
    /// What the initiator has got.
    pub exp_stat_sn: StatSn,
    /// The first that is missing.
    pub begin: u32,
    /// How many are.
    pub length: u32,
}

impl Snack {
    pub(super) fn parse(bytes: &HeaderBytes) -> Self {
        let layout = SnackLayout::of(bytes);
        Self {
            kind: layout.lead.flags & !FINAL,
            lun: LunField(layout.lun),
            task_tag: layout.task_tag.into(),
            transfer_tag: layout.transfer_tag.into(),
            exp_stat_sn: layout.exp_stat_sn.into(),
            begin: layout.begin.get(),
            length: layout.length.get(),
        }
    }

    pub(super) fn encode(&self) -> HeaderBytes {
        SnackLayout {
            lead: Lead::new(SNACK, FINAL | self.kind, DataLength::NONE),
            lun: self.lun.0,
            task_tag: self.task_tag.into(),
            transfer_tag: self.transfer_tag.into(),
            reserved: U32::ZERO,
            exp_stat_sn: self.exp_stat_sn.into(),
            reserved_too: U32::ZERO,
            reserved_more: U32::ZERO,
            begin: self.begin.into(),
            length: self.length.into(),
        }
        .to_bytes()
    }
}
