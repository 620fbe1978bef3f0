//! What the target says without being asked: asynchronous messages and rejects (sections 11.9 and
//! 11.17).

use super::header::{DataLength, FINAL, Lead};
use super::number::{Cid, DataSn, LunField, ResponseNumbers, ResponseNumbersLayout};
use super::pdu::{ASYNC, REJECT};
use super::{HeaderBytes, layout};
use zerocopy::big_endian::{U16, U32};

layout! {
    struct AsyncLayout {
        lead: Lead,
        lun: [u8; 8],
        all_ones: U32,
        reserved: U32,
        numbers: ResponseNumbersLayout,
        event: u8,
        vendor: u8,
        parameters: [U16; 3],
        reserved_last: U32,
    }
}

layout! {
    struct RejectLayout {
        lead: Lead,
        reserved: [u8; 8],
        all_ones: U32,
        reserved_too: U32,
        numbers: ResponseNumbersLayout,
        data_sn: U32,
        reserved_last: [u8; 8],
    }
}

/// What an asynchronous message says (section 11.9.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event {
    /// Sense data of a logical unit comes with it.
    Scsi,
    /// The initiator is to log out within so many seconds.
    LogoutWanted {
        /// Seconds.
        within: u16,
    },
    /// The target drops this connection.
    ConnectionDropped {
        /// Which.
        cid: Cid,
        /// Seconds to wait before coming again.
        time_to_wait: u16,
        /// Seconds that tasks are kept.
        time_to_retain: u16,
    },
    /// The target drops all connections of the session.
    SessionDropped {
        /// Seconds to wait before coming again.
        time_to_wait: u16,
        /// Seconds that tasks are kept.
        time_to_retain: u16,
    },
    /// The initiator is to negotiate anew within so many seconds.
    NegotiationWanted {
        /// Seconds.
        within: u16,
    },
    /// Any other number, with its three parameters.
    Unknown(u8, [u16; 3]),
}

impl Event {
    const fn parse(event: u8, parameters: [u16; 3]) -> Self {
        let [first, second, third] = parameters;
        match event {
            0 => Self::Scsi,
            1 => Self::LogoutWanted { within: third },
            2 => Self::ConnectionDropped {
                cid: Cid::new(first),
                time_to_wait: second,
                time_to_retain: third,
            },
            3 => Self::SessionDropped { time_to_wait: second, time_to_retain: third },
            4 => Self::NegotiationWanted { within: third },
            other => Self::Unknown(other, parameters),
        }
    }

    const fn encode(self) -> (u8, [u16; 3]) {
        match self {
            Self::Scsi => (0, [0; 3]),
            Self::LogoutWanted { within } => (1, [0, 0, within]),
            Self::ConnectionDropped { cid, time_to_wait, time_to_retain } => {
                (2, [cid.number(), time_to_wait, time_to_retain])
            }
            Self::SessionDropped { time_to_wait, time_to_retain } => {
                (3, [0, time_to_wait, time_to_retain])
            }
            Self::NegotiationWanted { within } => (4, [0, 0, within]),
            Self::Unknown(number, parameters) => (number, parameters),
        }
    }
}

/// A message nobody asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AsyncMessage {
    /// What it says.
    pub event: Event,
    /// The logical unit, if it is about one.
    pub lun: LunField,
    /// Its numbers.
    pub numbers: ResponseNumbers,
}

impl AsyncMessage {
    pub(super) fn parse(bytes: &HeaderBytes) -> Self {
        let layout = AsyncLayout::of(bytes);
        Self {
            event: Event::parse(layout.event, layout.parameters.map(U16::get)),
            lun: LunField(layout.lun),
            numbers: layout.numbers.into(),
        }
    }

    pub(super) fn encode(&self, data: DataLength) -> HeaderBytes {
        let (event, parameters) = self.event.encode();
        AsyncLayout {
            lead: Lead::new(ASYNC, FINAL, data),
            lun: self.lun.0,
            all_ones: u32::MAX.into(),
            reserved: U32::ZERO,
            numbers: self.numbers.into(),
            event,
            vendor: 0,
            parameters: parameters.map(U16::new),
            reserved_last: U32::ZERO,
        }
        .to_bytes()
    }
}

/// Why a PDU is rejected (section 11.17.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RejectReason {
    /// The digest of its data is wrong; it may come again.
    DataDigest,
    /// There are no SNACKs here.
    Snack,
    /// It has no place here.
    Protocol,
    /// There is no such command here.
    NotSupported,
    /// Too many immediate commands.
    TooManyImmediate,
    /// A task of this name is under way.
    TaskInProgress,
    /// A field says what it must not say.
    InvalidField,
    /// A negotiation went wrong, and starts anew.
    NegotiationReset,
    /// Nothing new before the logout that was asked for.
    WaitingForLogout,
    /// Any other number.
    Unknown(u8),
}

const REASONS: [(RejectReason, u8); 9] = [
    (RejectReason::DataDigest, 2),
    (RejectReason::Snack, 3),
    (RejectReason::Protocol, 4),
    (RejectReason::NotSupported, 5),
    (RejectReason::TooManyImmediate, 6),
    (RejectReason::TaskInProgress, 7),
    (RejectReason::InvalidField, 9),
    (RejectReason::NegotiationReset, 0x0b),
    (RejectReason::WaitingForLogout, 0x0c),
];

impl RejectReason {
    fn parse(number: u8) -> Self {
        let known = REASONS.iter().find(|(_, known)| *known == number);
        known.map_or(Self::Unknown(number), |(reason, _)| *reason)
    }

    fn number(self) -> u8 {
        if let Self::Unknown(number) = self {
            return number;
        }
        let known = REASONS.iter().find(|(reason, _)| *reason == self);
        known.expect("every other reason is in the table").1
    }
}

/// A PDU is not accepted; its header comes along as data.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Reject {
    /// Why.
    pub reason: RejectReason,
    /// Its numbers.
    pub numbers: ResponseNumbers,
    /// For rejected SNACKs.
    pub data_sn: DataSn,
}

impl Reject {
    pub(super) fn parse(bytes: &HeaderBytes) -> Self {
        let layout = RejectLayout::of(bytes);
        Self {
            reason: RejectReason::parse(layout.lead.specific[0]),
            numbers: layout.numbers.into(),
            data_sn: layout.data_sn.into(),
        }
    }

    pub(super) fn encode(&self, data: DataLength) -> HeaderBytes {
        RejectLayout {
            lead: Lead { specific: [self.reason.number(), 0], ..Lead::new(REJECT, FINAL, data) },
            reserved: [0; 8],
            all_ones: u32::MAX.into(),
            reserved_too: U32::ZERO,
            numbers: self.numbers.into(),
            data_sn: self.data_sn.into(),
            reserved_last: [0; 8],
        }
        .to_bytes()
    }
}
