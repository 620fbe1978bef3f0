//! SCSI commands and their responses (sections 11.3 and 11.4).

use super::header::{DataLength, FINAL, Lead, request};
use super::number::{
    CmdSn, DataSn, InitiatorTaskTag, LunField, ResponseNumbers, ResponseNumbersLayout, StatSn,
};
use super::pdu::{HeaderError, SCSI_COMMAND, SCSI_RESPONSE};
use super::{CDB, HeaderBytes, layout};
use zerocopy::big_endian::U32;

const READ: u8 = 0x40;
const WRITE: u8 = 0x20;
const ATTRIBUTE: u8 = 0x07;
const OVERFLOW: u8 = 0x04;
const UNDERFLOW: u8 = 0x02;

layout! {
    struct CommandLayout {
        lead: Lead,
        lun: [u8; 8],
        task_tag: U32,
        expected_length: U32,
        cmd_sn: U32,
        exp_stat_sn: U32,
        cdb: [u8; CDB],
    }
}

layout! {
    struct ResponseLayout {
        lead: Lead,
        reserved: [u8; 8],
        task_tag: U32,
        snack_tag: U32,
        numbers: ResponseNumbersLayout,
        exp_data_sn: U32,
        read_residual: U32,
        residual: U32,
    }
}

/// How a command stands to others of its logical unit (section 11.3.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Attribute {
    /// None said.
    Untagged,
    /// Any order.
    Simple,
    /// After all before it, before all behind it.
    Ordered,
    /// Before all others.
    HeadOfQueue,
    /// Auto contingent allegiance.
    Aca,
}

const ATTRIBUTES: [Attribute; 5] = [
    Attribute::Untagged,
    Attribute::Simple,
    Attribute::Ordered,
    Attribute::HeadOfQueue,
    Attribute::Aca,
];

/// A SCSI command.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ScsiCommand {
    /// Outside the order of commands.
    pub immediate: bool,
    /// No unsolicited Data-Out follows.
    pub is_final: bool,
    /// Data may go to the initiator.
    pub reads: bool,
    /// Data may come from the initiator.
    pub writes: bool,
    /// How it stands to others.
    pub attribute: Attribute,
    /// Its logical unit.
    pub lun: LunField,
    /// The initiator's name for it.
    pub task_tag: InitiatorTaskTag,
    /// Bytes the initiator has room for, or has to give.
    pub expected_length: u32,
    /// Its number.
    pub cmd_sn: CmdSn,
    /// What the initiator has got.
    pub exp_stat_sn: StatSn,
    /// The first 16 bytes of the CDB.
    pub cdb: [u8; CDB],
}

impl ScsiCommand {
    pub(super) fn parse(bytes: &HeaderBytes) -> Result<Self, HeaderError> {
        let layout = CommandLayout::of(bytes);
        let flags = layout.lead.flags;
        let attribute = ATTRIBUTES.get(usize::from(flags & ATTRIBUTE));
        Ok(Self {
            immediate: layout.lead.immediate(),
            is_final: layout.lead.is_final(),
            reads: flags & READ != 0,
            writes: flags & WRITE != 0,
            attribute: *attribute.ok_or(HeaderError::Field("a task attribute"))?,
            lun: LunField(layout.lun),
            task_tag: layout.task_tag.into(),
            expected_length: layout.expected_length.get(),
            cmd_sn: layout.cmd_sn.into(),
            exp_stat_sn: layout.exp_stat_sn.into(),
            cdb: layout.cdb,
        })
    }

    pub(super) fn encode(&self, data: DataLength) -> HeaderBytes {
        let attribute = ATTRIBUTES.iter().zip(0u8..).find(|(known, _)| **known == self.attribute);
        let mut flags = attribute.expect("every attribute is in the table").1;
        for (bit, set) in [(FINAL, self.is_final), (READ, self.reads), (WRITE, self.writes)] {
            flags |= if set { bit } else { 0 };
        }
        CommandLayout {
            lead: Lead::new(request(SCSI_COMMAND, self.immediate), flags, data),
            lun: self.lun.0,
            task_tag: self.task_tag.into(),
            expected_length: self.expected_length.into(),
            cmd_sn: self.cmd_sn.into(),
            exp_stat_sn: self.exp_stat_sn.into(),
            cdb: self.cdb,
        }
        .to_bytes()
    }
}

/// What a transfer came to, beside what the initiator expected (section 11.4.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Residual {
    /// Exactly what was expected.
    #[default]
    None,
    /// So many bytes less.
    Underflow(u32),
    /// So many bytes could not be transferred, since they were not expected.
    Overflow(u32),
}

impl Residual {
    /// Of a transfer of `expected` bytes where `wanted` would have been right.
    pub fn of(expected: u32, wanted: u64) -> Self {
        let count = |bytes: u64| u32::try_from(bytes).unwrap_or(u32::MAX);
        match wanted.cmp(&u64::from(expected)) {
            std::cmp::Ordering::Equal => Self::None,
            std::cmp::Ordering::Less => Self::Underflow(count(u64::from(expected) - wanted)),
            std::cmp::Ordering::Greater => Self::Overflow(count(wanted - u64::from(expected))),
        }
    }

    pub(super) fn parse(flags: u8, count: u32) -> Result<Self, HeaderError> {
        match (flags & OVERFLOW != 0, flags & UNDERFLOW != 0) {
            (false, false) => Ok(Self::None),
            (false, true) => Ok(Self::Underflow(count)),
            (true, false) => Ok(Self::Overflow(count)),
            (true, true) => Err(HeaderError::Field("residual flags")),
        }
    }

    /// Flags and count.
    pub(super) const fn encode(self) -> (u8, u32) {
        match self {
            Self::None => (0, 0),
            Self::Underflow(count) => (UNDERFLOW, count),
            Self::Overflow(count) => (OVERFLOW, count),
        }
    }
}

/// The end of a SCSI command.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ScsiResponse {
    /// What was not transferred.
    pub residual: Residual,
    /// What the service says: zero, unless the target could not even try (section 11.4.3).
    pub response: u8,
    /// What the logical unit says (SAM-5, 5.3).
    pub status: u8,
    /// The command's.
    pub task_tag: InitiatorTaskTag,
    /// Its numbers.
    pub numbers: ResponseNumbers,
    /// Data-In and R2T PDUs that were sent for it.
    pub exp_data_sn: DataSn,
}

impl ScsiResponse {
    /// The command was completed; the status says how.
    pub const COMPLETED: u8 = 0;

    pub(super) fn parse(bytes: &HeaderBytes) -> Result<Self, HeaderError> {
        let layout = ResponseLayout::of(bytes);
        let [response, status] = layout.lead.specific;
        Ok(Self {
            residual: Residual::parse(layout.lead.flags, layout.residual.get())?,
            response,
            status,
            task_tag: layout.task_tag.into(),
            numbers: layout.numbers.into(),
            exp_data_sn: layout.exp_data_sn.into(),
        })
    }

    pub(super) fn encode(&self, data: DataLength) -> HeaderBytes {
        let (flags, residual) = self.residual.encode();
        let lead = Lead {
            specific: [self.response, self.status],
            ..Lead::new(SCSI_RESPONSE, FINAL | flags, data)
        };
        ResponseLayout {
            lead,
            reserved: [0; 8],
            task_tag: self.task_tag.into(),
            snack_tag: U32::ZERO,
            numbers: self.numbers.into(),
            exp_data_sn: self.exp_data_sn.into(),
            read_residual: U32::ZERO,
            residual: residual.into(),
        }
        .to_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn residuals_are_what_is_left_over_on_either_side() {
        assert_eq!(Residual::of(512, 512), Residual::None);
        assert_eq!(Residual::of(10_000, 512), Residual::Underflow(9488));
        assert_eq!(Residual::of(200, 512), Residual::Overflow(312));
        assert_eq!(Residual::of(0, 1 << 40), Residual::Overflow(u32::MAX));
    }
}
