//! Task management (sections 11.5 and 11.6).

use super::header::{DataLength, FINAL, Lead, request};
use super::number::{
    CmdSn, DataSn, InitiatorTaskTag, LunField, ResponseNumbers, ResponseNumbersLayout, StatSn,
};
use super::pdu::{TASK_REQUEST, TASK_RESPONSE};
use super::{HeaderBytes, layout};
use zerocopy::big_endian::U32;

layout! {
    struct RequestLayout {
        lead: Lead,
        lun: [u8; 8],
        task_tag: U32,
        referenced_tag: U32,
        cmd_sn: U32,
        exp_stat_sn: U32,
        referenced_cmd_sn: U32,
        exp_data_sn: U32,
        reserved: [u8; 8],
    }
}

layout! {
    struct ResponseLayout {
        lead: Lead,
        reserved: [u8; 8],
        task_tag: U32,
        reserved_too: U32,
        numbers: ResponseNumbersLayout,
        reserved_last: [u8; 12],
    }
}

/// What to do (section 11.5.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Function {
    /// `ABORT TASK`
    AbortTask,
    /// `ABORT TASK SET`
    AbortTaskSet,
    /// `CLEAR ACA`
    ClearAca,
    /// `CLEAR TASK SET`
    ClearTaskSet,
    /// `LOGICAL UNIT RESET`
    LogicalUnitReset,
    /// `TARGET WARM RESET`
    TargetWarmReset,
    /// `TARGET COLD RESET`
    TargetColdReset,
    /// `TASK REASSIGN`
    TaskReassign,
    /// Any other number, of seven bits.
    Unknown(u8),
}

impl Function {
    const fn parse(number: u8) -> Self {
        match number & !FINAL {
            1 => Self::AbortTask,
            2 => Self::AbortTaskSet,
            3 => Self::ClearAca,
            4 => Self::ClearTaskSet,
            5 => Self::LogicalUnitReset,
            6 => Self::TargetWarmReset,
            7 => Self::TargetColdReset,
            8 => Self::TaskReassign,
            other => Self::Unknown(other),
        }
    }

    const fn number(self) -> u8 {
        match self {
            Self::AbortTask => 1,
            Self::AbortTaskSet => 2,
            Self::ClearAca => 3,
            Self::ClearTaskSet => 4,
            Self::LogicalUnitReset => 5,
            Self::TargetWarmReset => 6,
            Self::TargetColdReset => 7,
            Self::TaskReassign => 8,
            Self::Unknown(number) => number,
        }
    }
}

/// A request for task management.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TaskRequest {
    /// Outside the order of commands.
    pub immediate: bool,
    /// What to do.
    pub function: Function,
    /// To which logical unit.
    pub lun: LunField,
    /// The request's own name.
    pub task_tag: InitiatorTaskTag,
    /// The task that it is about, if it is about one.
    pub referenced_tag: InitiatorTaskTag,
    /// Its number.
    pub cmd_sn: CmdSn,
    /// What the initiator has got.
    pub exp_stat_sn: StatSn,
    /// The number of the task it is about.
    pub referenced_cmd_sn: CmdSn,
    /// For `TASK REASSIGN`.
    pub exp_data_sn: DataSn,
}

impl TaskRequest {
    pub(super) fn parse(bytes: &HeaderBytes) -> Self {
        let layout = RequestLayout::of(bytes);
        Self {
            immediate: layout.lead.immediate(),
            function: Function::parse(layout.lead.flags),
            lun: LunField(layout.lun),
            task_tag: layout.task_tag.into(),
            referenced_tag: layout.referenced_tag.into(),
            cmd_sn: layout.cmd_sn.into(),
            exp_stat_sn: layout.exp_stat_sn.into(),
            referenced_cmd_sn: layout.referenced_cmd_sn.into(),
            exp_data_sn: layout.exp_data_sn.into(),
        }
    }

    pub(super) fn encode(&self) -> HeaderBytes {
        let opcode = request(TASK_REQUEST, self.immediate);
        RequestLayout {
            lead: Lead::new(opcode, FINAL | self.function.number(), DataLength::NONE),
            lun: self.lun.0,
            task_tag: self.task_tag.into(),
            referenced_tag: self.referenced_tag.into(),
            cmd_sn: self.cmd_sn.into(),
            exp_stat_sn: self.exp_stat_sn.into(),
            referenced_cmd_sn: self.referenced_cmd_sn.into(),
            exp_data_sn: self.exp_data_sn.into(),
            reserved: [0; 8],
        }
        .to_bytes()
    }
}

/// How task management went (section 11.6.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TaskAnswer {
    /// Done.
    Complete,
    /// There is no such task.
    NoSuchTask,
    /// There is no such logical unit.
    NoSuchUnit,
    /// The task still belongs to another connection.
    StillAllegiant,
    /// Tasks cannot be moved to another connection here.
    ReassignmentNotSupported,
    /// There is no such function here.
    NotSupported,
    /// The initiator may not.
    NotAuthorized,
    /// Refused.
    Rejected,
    /// Any other number.
    Unknown(u8),
}

impl TaskAnswer {
    const fn parse(number: u8) -> Self {
        match number {
            0 => Self::Complete,
            1 => Self::NoSuchTask,
            2 => Self::NoSuchUnit,
            3 => Self::StillAllegiant,
            4 => Self::ReassignmentNotSupported,
            5 => Self::NotSupported,
            6 => Self::NotAuthorized,
            255 => Self::Rejected,
            other => Self::Unknown(other),
        }
    }

    const fn number(self) -> u8 {
        match self {
            Self::Complete => 0,
            Self::NoSuchTask => 1,
            Self::NoSuchUnit => 2,
            Self::StillAllegiant => 3,
            Self::ReassignmentNotSupported => 4,
            Self::NotSupported => 5,
            Self::NotAuthorized => 6,
            Self::Rejected => 255,
            Self::Unknown(number) => number,
        }
    }
}

/// The answer to a request for task management.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TaskResponse {
    /// How it went.
    pub answer: TaskAnswer,
    /// The request's.
    pub task_tag: InitiatorTaskTag,
    /// Its numbers.
    pub numbers: ResponseNumbers,
}

impl TaskResponse {
    pub(super) fn parse(bytes: &HeaderBytes) -> Self {
        let layout = ResponseLayout::of(bytes);
        let [answer, _] = layout.lead.specific;
        Self {
            answer: TaskAnswer::parse(answer),
            task_tag: layout.task_tag.into(),
            numbers: layout.numbers.into(),
        }
    }

    pub(super) fn encode(&self) -> HeaderBytes {
        let lead = Lead::new(TASK_RESPONSE, FINAL, DataLength::NONE);
        ResponseLayout {
            lead: Lead { specific: [self.answer.number(), 0], ..lead },
            reserved: [0; 8],
            task_tag: self.task_tag.into(),
            reserved_too: U32::ZERO,
            numbers: self.numbers.into(),
            reserved_last: [0; 12],
        }
        .to_bytes()
    }
}
