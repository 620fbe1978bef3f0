//! Login (sections 11.12 and 11.13).

use super::header::{CONTINUE, DataLength, Lead, OPCODE};
use super::number::{
    Cid, CmdSn, InitiatorTaskTag, Isid, ResponseNumbers, ResponseNumbersLayout, StatSn, Tsih,
};
use super::pdu::{HeaderError, LOGIN_REQUEST, LOGIN_RESPONSE};
use super::{HeaderBytes, layout};
use zerocopy::big_endian::{U16, U32};

/// The T bit: on to the next stage.
const TRANSIT: u8 = 0x80;

layout! {
    struct RequestLayout {
        lead: Lead,
        isid: [u8; 6],
        tsih: U16,
        task_tag: U32,
        cid: U16,
        reserved: U16,
        cmd_sn: U32,
        exp_stat_sn: U32,
        reserved_too: [u8; 16],
    }
}

layout! {
    struct ResponseLayout {
        lead: Lead,
        isid: [u8; 6],
        tsih: U16,
        task_tag: U32,
        reserved: U32,
        numbers: ResponseNumbersLayout,
        status: [u8; 2],
        reserved_too: [u8; 10],
    }
}

/// A stage of a connection (section 11.12.3).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Stage {
    /// Who is there.
    Security,
    /// How to talk.
    Operational,
    /// The session itself.
    FullFeature,
}

impl Stage {
    fn parse(bits: u8) -> Result<Self, HeaderError> {
        match bits & 3 {
            0 => Ok(Self::Security),
            1 => Ok(Self::Operational),
            3 => Ok(Self::FullFeature),
            _ => Err(HeaderError::Field("a stage of a login")),
        }
    }

    const fn bits(self) -> u8 {
        match self {
            Self::Security => 0,
            Self::Operational => 1,
            Self::FullFeature => 3,
        }
    }
}

/// A request to log in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LoginRequest {
    /// The initiator wants to go on to this stage.
    pub transit: Option<Stage>,
    /// Its text goes on in the next request.
    pub continues: bool,
    /// The stage it is in.
    pub stage: Stage,
    /// Highest version it speaks.
    pub version_max: u8,
    /// Lowest version it speaks.
    pub version_min: u8,
    /// Its part of the session's name.
    pub isid: Isid,
    /// The target's part: of an existing session, or new.
    pub tsih: Tsih,
    /// Its name for the login.
    pub task_tag: InitiatorTaskTag,
    /// Number of the connection.
    pub cid: Cid,
    /// Of the first command to come.
    pub cmd_sn: CmdSn,
    /// What it expects.
    pub exp_stat_sn: StatSn,
}

/// How a login stands (section 11.13.5): class and detail.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LoginStatus {
    /// So far, so good.
    Success,
    /// The initiator did something wrong.
    InitiatorError,
    /// It could not be authenticated.
    AuthenticationFailure,
    /// It may not have this target.
    AuthorizationFailure,
    /// There is no such target.
    NotFound,
    /// There was one.
    TargetRemoved,
    /// It speaks no version that is spoken here.
    UnsupportedVersion,
    /// The session has as many connections as it may.
    TooManyConnections,
    /// A key is missing.
    MissingParameter,
    /// A connection that this session cannot have.
    CantIncludeInSession,
    /// A kind of session that there is not.
    SessionTypeNotSupported,
    /// The session to join is not there.
    SessionDoesNotExist,
    /// Anything but a login before its end.
    InvalidDuringLogin,
    /// Trouble of the target's own.
    TargetError,
    /// Not now.
    ServiceUnavailable,
    /// Something has run out.
    OutOfResources,
    /// Any other.
    Unknown(u8, u8),
}

const STATUSES: [(LoginStatus, [u8; 2]); 16] = [
    (LoginStatus::Success, [0, 0]),
    (LoginStatus::InitiatorError, [2, 0]),
    (LoginStatus::AuthenticationFailure, [2, 1]),
    (LoginStatus::AuthorizationFailure, [2, 2]),
    (LoginStatus::NotFound, [2, 3]),
    (LoginStatus::TargetRemoved, [2, 4]),
    (LoginStatus::UnsupportedVersion, [2, 5]),
    (LoginStatus::TooManyConnections, [2, 6]),
    (LoginStatus::MissingParameter, [2, 7]),
    (LoginStatus::CantIncludeInSession, [2, 8]),
    (LoginStatus::SessionTypeNotSupported, [2, 9]),
    (LoginStatus::SessionDoesNotExist, [2, 10]),
    (LoginStatus::InvalidDuringLogin, [2, 11]),
    (LoginStatus::TargetError, [3, 0]),
    (LoginStatus::ServiceUnavailable, [3, 1]),
    (LoginStatus::OutOfResources, [3, 2]),
];

impl LoginStatus {
    fn parse(bytes: [u8; 2]) -> Self {
        let known = STATUSES.iter().find(|(_, known)| *known == bytes);
        known.map_or(Self::Unknown(bytes[0], bytes[1]), |(status, _)| *status)
    }

    /// Class and detail, as on the wire.
    pub fn to_bytes(self) -> [u8; 2] {
        if let Self::Unknown(class, detail) = self {
            return [class, detail];
        }
        let known = STATUSES.iter().find(|(status, _)| *status == self);
        known.expect("every other status is in the table").1
    }
}

/// The answer to a request to log in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LoginResponse {
    /// The target agrees to go on to this stage.
    pub transit: Option<Stage>,
    /// Its text goes on in the next response.
    pub continues: bool,
    /// The stage it is in.
    pub stage: Stage,
    /// Highest version it speaks.
    pub version_max: u8,
    /// The version that is spoken.
    pub version_active: u8,
    /// As in the request.
    pub isid: Isid,
    /// The session's name, once there is one.
    pub tsih: Tsih,
    /// As in the request.
    pub task_tag: InitiatorTaskTag,
    /// Its numbers.
    pub numbers: ResponseNumbers,
    /// How it stands.
    pub status: LoginStatus,
}

/// Flags: T, C, and the two stages.
fn flags(transit: Option<Stage>, continues: bool, stage: Stage) -> u8 {
    let next = transit.map_or(0, |next| TRANSIT | next.bits());
    next | if continues { CONTINUE } else { 0 } | stage.bits() << 2
}

fn stages(lead: &Lead) -> Result<(Option<Stage>, Stage), HeaderError> {
    // Without T the next stage is reserved.
    let transit = (lead.flags & TRANSIT != 0).then(|| Stage::parse(lead.flags)).transpose()?;
    Ok((transit, Stage::parse(lead.flags >> 2)?))
}

impl LoginRequest {
    pub(super) fn parse(bytes: &HeaderBytes) -> Result<Self, HeaderError> {
        let (transit, stage) = stages(&RequestLayout::of(bytes).lead)?;
        Ok(Self { transit, stage, ..Self::without_stage(bytes) })
    }

    /// Whether a header says that it is one, though its stages may be none.
    pub fn is_one(bytes: &HeaderBytes) -> bool {
        RequestLayout::of(bytes).lead.opcode & OPCODE == LOGIN_REQUEST
    }

    /// A request as far as it can be understood whatever its stages are: what an answer needs.
    pub fn without_stage(bytes: &HeaderBytes) -> Self {
        let layout = RequestLayout::of(bytes);
        let [version_max, version_min] = layout.lead.specific;
        Self {
            transit: None,
            continues: layout.lead.continues(),
            stage: Stage::Security,
            version_max,
            version_min,
            isid: Isid(layout.isid),
            tsih: layout.tsih.into(),
            task_tag: layout.task_tag.into(),
            cid: layout.cid.into(),
            cmd_sn: layout.cmd_sn.into(),
            exp_stat_sn: layout.exp_stat_sn.into(),
        }
    }

    pub(super) fn encode(&self, data: DataLength) -> HeaderBytes {
        // A login is always immediate (section 11.12).
        let opcode = super::header::request(LOGIN_REQUEST, true);
        let lead = Lead {
            specific: [self.version_max, self.version_min],
            ..Lead::new(opcode, flags(self.transit, self.continues, self.stage), data)
        };
        RequestLayout {
            lead,
            isid: self.isid.0,
            tsih: self.tsih.into(),
            task_tag: self.task_tag.into(),
            cid: self.cid.into(),
            reserved: U16::ZERO,
            cmd_sn: self.cmd_sn.into(),
            exp_stat_sn: self.exp_stat_sn.into(),
            reserved_too: [0; 16],
        }
        .to_bytes()
    }
}

impl LoginResponse {
    pub(super) fn parse(bytes: &HeaderBytes) -> Result<Self, HeaderError> {
        let layout = ResponseLayout::of(bytes);
        let (transit, stage) = stages(&layout.lead)?;
        let [version_max, version_active] = layout.lead.specific;
        Ok(Self {
            transit,
            continues: layout.lead.continues(),
            stage,
            version_max,
            version_active,
            isid: Isid(layout.isid),
            tsih: layout.tsih.into(),
            task_tag: layout.task_tag.into(),
            numbers: layout.numbers.into(),
            status: LoginStatus::parse(layout.status),
        })
    }

    pub(super) fn encode(&self, data: DataLength) -> HeaderBytes {
        let lead = Lead {
            specific: [self.version_max, self.version_active],
            ..Lead::new(LOGIN_RESPONSE, flags(self.transit, self.continues, self.stage), data)
        };
        ResponseLayout {
            lead,
            isid: self.isid.0,
            tsih: self.tsih.into(),
            task_tag: self.task_tag.into(),
            reserved: U32::ZERO,
            numbers: self.numbers.into(),
            status: self.status.to_bytes(),
            reserved_too: [0; 10],
        }
        .to_bytes()
    }
}
