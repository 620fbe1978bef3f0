//! Data in both directions, and the target's requests for it (sections 11.7 and 11.8).

use super::command::Residual;
use super::header::{DataLength, FINAL, Lead};
use super::number::{
    CmdSn, DataSn, InitiatorTaskTag, LunField, ResponseNumbers, ResponseNumbersLayout, StatSn,
    TargetTransferTag,
};
use super::pdu::{DATA_IN, DATA_OUT, HeaderError, R2T};
use super::{HeaderBytes, layout};
use zerocopy::big_endian::U32;

const ACKNOWLEDGE: u8 = 0x40;
const STATUS: u8 = 0x01;

layout! {
    struct DataOutLayout {
        lead: Lead,
        lun: [u8; 8],
        task_tag: U32,
        transfer_tag: U32,
        reserved: U32,
        exp_stat_sn: U32,
        reserved_too: U32,
        data_sn: U32,
        offset: U32,
        reserved_last: U32,
    }
}

layout! {
    struct DataInLayout {
        lead: Lead,
        lun: [u8; 8],
        task_tag: U32,
        transfer_tag: U32,
        numbers: ResponseNumbersLayout,
        data_sn: U32,
        offset: U32,
        residual: U32,
    }
}

layout! {
    struct R2tLayout {
        lead: Lead,
        lun: [u8; 8],
        task_tag: U32,
        transfer_tag: U32,
        numbers: ResponseNumbersLayout,
        r2t_sn: U32,
        offset: U32,
        length: U32,
    }
}

/// Data of a command, from the initiator.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DataOut {
    /// The last of its sequence.
    pub is_final: bool,
    /// The logical unit, if it was asked for.
    pub lun: LunField,
    /// The command's.
    pub task_tag: InitiatorTaskTag,
    /// That of the R2T it answers; reserved if nobody asked.
    pub transfer_tag: TargetTransferTag,
    /// What the initiator has got.
    pub exp_stat_sn: StatSn,
    /// Its place in its sequence.
    pub data_sn: DataSn,
    /// Where its bytes belong, from the start of the command's data.
    pub offset: u32,
}

impl DataOut {
    pub(super) fn parse(bytes: &HeaderBytes) -> Self {
        let layout = DataOutLayout::of(bytes);
        Self {
            is_final: layout.lead.is_final(),
            lun: LunField(layout.lun),
            task_tag: layout.task_tag.into(),
            transfer_tag: layout.transfer_tag.into(),
            exp_stat_sn: layout.exp_stat_sn.into(),
            data_sn: layout.data_sn.into(),
            offset: layout.offset.get(),
        }
    }

    pub(super) fn encode(&self, data: DataLength) -> HeaderBytes {
        DataOutLayout {
            lead: Lead::new(DATA_OUT, if self.is_final { FINAL } else { 0 }, data),
            lun: self.lun.0,
            task_tag: self.task_tag.into(),
            transfer_tag: self.transfer_tag.into(),
            reserved: U32::ZERO,
            exp_stat_sn: self.exp_stat_sn.into(),
            reserved_too: U32::ZERO,
            data_sn: self.data_sn.into(),
            offset: self.offset.into(),
            reserved_last: U32::ZERO,
        }
        .to_bytes()
    }
}

/// The end of a command that comes with its last data (section 11.7.3).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DataStatus {
    /// What the logical unit says.
    pub status: u8,
    /// What was not transferred.
    pub residual: Residual,
    /// Its number.
    pub stat_sn: StatSn,
}

/// Data of a command, to the initiator. It has a number of its own only where it is the end
/// (section 11.7.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DataIn {
    /// The last of its sequence.
    pub is_final: bool,
    /// The command's.
    pub task_tag: InitiatorTaskTag,
    /// The end of the command, if this is it.
    pub end: Option<DataStatus>,
    /// The next command.
    pub exp_cmd_sn: CmdSn,
    /// The last command that may come.
    pub max_cmd_sn: CmdSn,
    /// Its place among what is sent for the command.
    pub data_sn: DataSn,
    /// Where its bytes belong.
    pub offset: u32,
}

impl DataIn {
    pub(super) fn parse(bytes: &HeaderBytes) -> Result<Self, HeaderError> {
        let layout = DataInLayout::of(bytes);
        let flags = layout.lead.flags;
        if flags & ACKNOWLEDGE != 0 {
            // Only beyond ErrorRecoveryLevel 0 (section 11.7.2).
            return Err(HeaderError::Field("the A bit"));
        }
        let numbers = ResponseNumbers::from(layout.numbers);
        let end = (flags & STATUS != 0)
            .then(|| {
                let residual = Residual::parse(flags, layout.residual.get())?;
                let [_, status] = layout.lead.specific;
                Ok(DataStatus { status, residual, stat_sn: numbers.stat_sn })
            })
            .transpose()?;
        Ok(Self {
            is_final: layout.lead.is_final(),
            task_tag: layout.task_tag.into(),
            end,
            exp_cmd_sn: numbers.exp_cmd_sn,
            max_cmd_sn: numbers.max_cmd_sn,
            data_sn: layout.data_sn.into(),
            offset: layout.offset.get(),
        })
    }

    pub(super) fn encode(&self, data: DataLength) -> HeaderBytes {
        let (mut flags, mut status, mut residual) = (0, 0, 0);
        let mut stat_sn = StatSn::default();
        if let Some(end) = self.end {
            let (bits, count) = end.residual.encode();
            (flags, status, residual, stat_sn) = (bits | STATUS, end.status, count, end.stat_sn);
        }
        flags |= if self.is_final { FINAL } else { 0 };
        let Self { exp_cmd_sn, max_cmd_sn, .. } = *self;
        DataInLayout {
            lead: Lead { specific: [0, status], ..Lead::new(DATA_IN, flags, data) },
            lun: [0; 8],
            task_tag: self.task_tag.into(),
            transfer_tag: TargetTransferTag::RESERVED.into(),
            numbers: ResponseNumbers { stat_sn, exp_cmd_sn, max_cmd_sn }.into(),
            data_sn: self.data_sn.into(),
            offset: self.offset.into(),
            residual: residual.into(),
        }
        .to_bytes()
    }
}

/// Ready to transfer: the target asks for data of a command.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ReadyToTransfer {
    /// The logical unit.
    pub lun: LunField,
    /// The command's.
    pub task_tag: InitiatorTaskTag,
    /// The target's name for the transfer.
    pub transfer_tag: TargetTransferTag,
    /// Its numbers.
    pub numbers: ResponseNumbers,
    /// Its place among the R2Ts of the command.
    pub r2t_sn: DataSn,
    /// From where.
    pub offset: u32,
    /// How many bytes; not zero.
    pub length: u32,
}

impl ReadyToTransfer {
    pub(super) fn parse(bytes: &HeaderBytes) -> Self {
        let layout = R2tLayout::of(bytes);
        Self {
            lun: LunField(layout.lun),
            task_tag: layout.task_tag.into(),
            transfer_tag: layout.transfer_tag.into(),
            numbers: layout.numbers.into(),
            r2t_sn: layout.r2t_sn.into(),
            offset: layout.offset.get(),
            length: layout.length.get(),
        }
    }

    pub(super) fn encode(&self) -> HeaderBytes {
        R2tLayout {
            lead: Lead::new(R2T, FINAL, DataLength::NONE),
            lun: self.lun.0,
            task_tag: self.task_tag.into(),
            transfer_tag: self.transfer_tag.into(),
            numbers: self.numbers.into(),
            r2t_sn: self.r2t_sn.into(),
            offset: self.offset.into(),
            length: self.length.into(),
        }
        .to_bytes()
    }
}
