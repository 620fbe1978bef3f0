//! Which PDU it is (section 11.2.1.2), in both directions.
//!
//! The length of the data segment and of additional headers is not part of the meaning:
//! [`Lengths`](super::header::Lengths) has it.

use super::HeaderBytes;
use super::command::{ScsiCommand, ScsiResponse};
use super::control::{
    LogoutRequest, LogoutResponse, NopIn, NopOut, Snack, TextRequest, TextResponse,
};
use super::data::{DataIn, DataOut, ReadyToTransfer};
use super::header::{DataLength, OPCODE};
use super::login::{LoginRequest, LoginResponse};
use super::notice::{AsyncMessage, Reject};
use super::task::{TaskRequest, TaskResponse};

pub(super) const NOP_OUT: u8 = 0x00;
pub(super) const SCSI_COMMAND: u8 = 0x01;
pub(super) const TASK_REQUEST: u8 = 0x02;
pub(super) const LOGIN_REQUEST: u8 = 0x03;
pub(super) const TEXT_REQUEST: u8 = 0x04;
pub(super) const DATA_OUT: u8 = 0x05;
pub(super) const LOGOUT_REQUEST: u8 = 0x06;
pub(super) const SNACK: u8 = 0x10;
pub(super) const NOP_IN: u8 = 0x20;
pub(super) const SCSI_RESPONSE: u8 = 0x21;
pub(super) const TASK_RESPONSE: u8 = 0x22;
pub(super) const LOGIN_RESPONSE: u8 = 0x23;
pub(super) const TEXT_RESPONSE: u8 = 0x24;
pub(super) const DATA_IN: u8 = 0x25;
pub(super) const LOGOUT_RESPONSE: u8 = 0x26;
pub(super) const R2T: u8 = 0x31;
pub(super) const ASYNC: u8 = 0x32;
pub(super) const REJECT: u8 = 0x3f;

/// Why a header has no meaning.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum HeaderError {
    /// There is no such PDU, or not in this direction.
    #[error("opcode {0:#04x} is none that comes from this side")]
    Opcode(u8),
    /// A field has a value that means nothing.
    #[error("{0} has a value that means nothing")]
    Field(&'static str),
}

/// A PDU of the initiator.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Request {
    /// NOP-Out.
    Nop(NopOut),
    /// SCSI command.
    Command(ScsiCommand),
    /// Task management.
    Task(TaskRequest),
    /// Login.
    Login(LoginRequest),
    /// Text.
    Text(TextRequest),
    /// Data-Out.
    Data(DataOut),
    /// Logout.
    Logout(LogoutRequest),
    /// SNACK.
    Snack(Snack),
}

impl Request {
    /// The meaning of a header.
    pub fn parse(bytes: &HeaderBytes) -> Result<Self, HeaderError> {
        Ok(match bytes[0] & OPCODE {
            NOP_OUT => Self::Nop(NopOut::parse(bytes)),
            SCSI_COMMAND => Self::Command(ScsiCommand::parse(bytes)?),
            TASK_REQUEST => Self::Task(TaskRequest::parse(bytes)),
            LOGIN_REQUEST => Self::Login(LoginRequest::parse(bytes)?),
            TEXT_REQUEST => Self::Text(TextRequest::parse(bytes)),
            DATA_OUT => Self::Data(DataOut::parse(bytes)),
            LOGOUT_REQUEST => Self::Logout(LogoutRequest::parse(bytes)),
            SNACK => Self::Snack(Snack::parse(bytes)),
            other => return Err(HeaderError::Opcode(other)),
        })
    }

    /// As on the wire, with a data segment of this length where the PDU may have one.
    pub fn encode(&self, data: DataLength) -> HeaderBytes {
        match self {
            Self::Nop(pdu) => pdu.encode(data),
            Self::Command(pdu) => pdu.encode(data),
            Self::Task(pdu) => pdu.encode(),
            Self::Login(pdu) => pdu.encode(data),
            Self::Text(pdu) => pdu.encode(data),
            Self::Data(pdu) => pdu.encode(data),
            Self::Logout(pdu) => pdu.encode(),
            Self::Snack(pdu) => pdu.encode(),
        }
    }
}

/// A PDU of the target.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Response {
    /// NOP-In.
    Nop(NopIn),
    /// SCSI response.
    Command(ScsiResponse),
    /// Task management.
    Task(TaskResponse),
    /// Login.
    Login(LoginResponse),
    /// Text.
    Text(TextResponse),
    /// Data-In.
    Data(DataIn),
    /// Logout.
    Logout(LogoutResponse),
    /// R2T.
    Ready(ReadyToTransfer),
    /// Asynchronous message.
    Async(AsyncMessage),
    /// Reject.
    Reject(Reject),
}

impl Response {
    /// The meaning of a header.
    pub fn parse(bytes: &HeaderBytes) -> Result<Self, HeaderError> {
        Ok(match bytes[0] & OPCODE {
            NOP_IN => Self::Nop(NopIn::parse(bytes)),
            SCSI_RESPONSE => Self::Command(ScsiResponse::parse(bytes)?),
            TASK_RESPONSE => Self::Task(TaskResponse::parse(bytes)),
            LOGIN_RESPONSE => Self::Login(LoginResponse::parse(bytes)?),
            TEXT_RESPONSE => Self::Text(TextResponse::parse(bytes)),
            DATA_IN => Self::Data(DataIn::parse(bytes)?),
            LOGOUT_RESPONSE => Self::Logout(LogoutResponse::parse(bytes)),
            R2T => Self::Ready(ReadyToTransfer::parse(bytes)),
            ASYNC => Self::Async(AsyncMessage::parse(bytes)),
            REJECT => Self::Reject(Reject::parse(bytes)),
            other => return Err(HeaderError::Opcode(other)),
        })
    }

    /// As on the wire, with a data segment of this length where the PDU may have one.
    pub fn encode(&self, data: DataLength) -> HeaderBytes {
        match self {
            Self::Nop(pdu) => pdu.encode(data),
            Self::Command(pdu) => pdu.encode(data),
            Self::Task(pdu) => pdu.encode(),
            Self::Login(pdu) => pdu.encode(data),
            Self::Text(pdu) => pdu.encode(data),
            Self::Data(pdu) => pdu.encode(data),
            Self::Logout(pdu) => pdu.encode(),
            Self::Ready(pdu) => pdu.encode(),
            Self::Async(pdu) => pdu.encode(data),
            Self::Reject(pdu) => pdu.encode(data),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::iscsi::wire::header::Lengths;
    use crate::iscsi::wire::number::{
        CmdSn, InitiatorTaskTag, LunField, ResponseNumbers, StatSn, TargetTransferTag,
    };
    use crate::iscsi::wire::{HEADER, command::Attribute, notice::Event};
    use proptest::prelude::*;

    /// Headers with an opcode that there is, and anything else in them.
    fn headers(opcodes: &'static [u8]) -> impl Strategy<Value = HeaderBytes> {
        let rest = prop::collection::vec(any::<u8>(), HEADER - 1);
        (prop::sample::select(opcodes), any::<bool>(), rest).prop_map(|(opcode, bit, rest)| {
            let mut header = [0; HEADER];
            header[0] = if bit { opcode | 0x40 } else { opcode };
            header[1..].copy_from_slice(&rest);
            header
        })
    }

    const REQUESTS: &[u8] = &[0, 1, 2, 3, 4, 5, 6, 0x10];
    const RESPONSES: &[u8] = &[0x20, 0x21, 0x22, 0x23, 0x24, 0x25, 0x26, 0x31, 0x32, 0x3f];

    proptest! {
        #[test]
        fn what_a_request_means_is_what_is_written(header in headers(REQUESTS)) {
            let data = Lengths::of(&header).data;
            if let Ok(request) = Request::parse(&header) {
                let written = request.encode(data);
                prop_assert_eq!(Request::parse(&written), Ok(request));
                prop_assert_eq!(Request::parse(&written).map(|again| again.encode(data)), Ok(written));
            }
        }

        #[test]
        fn what_a_response_means_is_what_is_written(header in headers(RESPONSES)) {
            let data = Lengths::of(&header).data;
            if let Ok(response) = Response::parse(&header) {
                let written = response.encode(data);
                prop_assert_eq!(Response::parse(&written), Ok(response));
            }
        }

        #[test]
        fn nothing_is_both_a_request_and_a_response(opcode: u8) {
            let mut header = [0; HEADER];
            header[0] = opcode;
            let [request, response] =
                [Request::parse(&header).is_ok(), Response::parse(&header).is_ok()];
            prop_assert!(!(request && response));
            prop_assert_eq!(request, REQUESTS.contains(&(opcode & 0x3f)));
            prop_assert_eq!(response, RESPONSES.contains(&(opcode & 0x3f)));
        }
    }

    #[test]
    fn a_command_lies_as_the_standard_has_it() {
        let command = ScsiCommand {
            immediate: true,
            is_final: true,
            reads: false,
            writes: true,
            attribute: Attribute::Ordered,
            lun: LunField([1, 2, 3, 4, 5, 6, 7, 8]),
            task_tag: InitiatorTaskTag::new(0x1112_1314),
            expected_length: 0x2122_2324,
            cmd_sn: CmdSn::new(0x3132_3334),
            exp_stat_sn: StatSn::new(0x4142_4344),
            cdb: [9; 16],
        };
        let data = DataLength::new(0x01_0203).expect("24 bits");
        let mut expected = vec![0x41, 0xa2, 0, 0, 0, 1, 2, 3, 1, 2, 3, 4, 5, 6, 7, 8];
        expected.extend([0x11, 0x12, 0x13, 0x14, 0x21, 0x22, 0x23, 0x24]);
        expected.extend([0x31, 0x32, 0x33, 0x34, 0x41, 0x42, 0x43, 0x44]);
        expected.extend([9; 16]);
        assert_eq!(Request::Command(command).encode(data).to_vec(), expected);
    }

    #[test]
    fn parameters_of_an_event_lie_where_it_has_them() {
        let message = |event| {
            let numbers = ResponseNumbers {
                stat_sn: StatSn::new(5),
                exp_cmd_sn: CmdSn::new(6),
                max_cmd_sn: CmdSn::new(7),
            };
            let message = AsyncMessage { event, lun: LunField::default(), numbers };
            Response::Async(message).encode(DataLength::NONE)
        };
        let wanted = message(Event::LogoutWanted { within: 0x0102 });
        assert_eq!(wanted[16..20], [0xff; 4]);
        assert_eq!(wanted[24..36], [0, 0, 0, 5, 0, 0, 0, 6, 0, 0, 0, 7]);
        assert_eq!(wanted[36..44], [1, 0, 0, 0, 0, 0, 1, 2]);
        let dropped = message(Event::SessionDropped { time_to_wait: 2, time_to_retain: 3 });
        assert_eq!(dropped[36..44], [3, 0, 0, 0, 0, 2, 0, 3]);
    }

    #[test]
    fn a_header_that_means_nothing_is_refused() {
        let mut header = [0; HEADER];
        header[0] = 0x01;
        header[1] = 0x87;
        assert_eq!(Request::parse(&header), Err(HeaderError::Field("a task attribute")));
        header[0] = 0x43;
        header[1] = 0x82;
        assert_eq!(Request::parse(&header), Err(HeaderError::Field("a stage of a login")));
        header[0] = 0x25;
        header[1] = 0x07;
        assert_eq!(Response::parse(&header), Err(HeaderError::Field("residual flags")));
        assert_eq!(TargetTransferTag::RESERVED.number(), u32::MAX);
    }
}
