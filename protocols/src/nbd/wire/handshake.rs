//! What negotiation is made of: greeting, headers, flags and numbers (sections "Handshake", "Values").
//!
//! ```text
//!   S  Greeting                    C  client flags (4 bytes)
//!   C  OptionHeader, data    →     S  OptionReplyHeader, data   (one or more, the last one final)
//!   C  NBD_OPT_EXPORT_NAME   →     S  ExportNameReply [124 zeroes]    or the connection ends
//! ```
//!
//! What the data after the headers means stands in [`option`](super::option) and [`reply`](super::reply). Numbers this
//! code has not heard of are kept as `Unknown`: each side must tolerate the other's extensions.

use super::{MAGIC, OPTION_MAGIC};
use zerocopy::big_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Handshake flag: the server speaks fixed newstyle. The client echoes it.
pub const FLAG_FIXED_NEWSTYLE: u16 = 1 << 0;
/// Handshake flag: the 124 zeroes after `NBD_OPT_EXPORT_NAME` can be left out. The client echoes it.
pub const FLAG_NO_ZEROES: u16 = 1 << 1;
/// Zeroes that follow [`ExportNameReply`] unless both sides agreed to leave them out.
pub const EXPORT_NAME_ZEROES: usize = 124;

/// First message of the server.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy, Debug)]
#[repr(C)]
pub struct Greeting {
    /// [`MAGIC`].
    pub magic: U64,
    /// [`OPTION_MAGIC`]: newstyle.
    pub option_magic: U64,
    /// `FLAG_*`.
    pub flags: U16,
}
const _: () = assert!(size_of::<Greeting>() == 8 + 8 + 2);

/// Start of an option.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy, Debug)]
#[repr(C)]
pub struct OptionHeader {
    /// [`OPTION_MAGIC`].
    pub magic: U64,
    /// Which option.
    pub option: U32,
    /// Bytes of data that follow.
    pub length: U32,
}
const _: () = assert!(size_of::<OptionHeader>() == 8 + 4 + 4);

/// Start of a reply to an option.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy, Debug)]
#[repr(C)]
pub struct OptionReplyHeader {
    /// [`OPTION_REPLY_MAGIC`](super::OPTION_REPLY_MAGIC).
    pub magic: U64,
    /// The option this answers.
    pub option: U32,
    /// Which reply.
    pub kind: U32,
    /// Bytes of data that follow.
    pub length: U32,
}
const _: () = assert!(size_of::<OptionReplyHeader>() == 8 + 4 + 4 + 4);

/// Answer to `NBD_OPT_EXPORT_NAME`.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy, Debug)]
#[repr(C)]
pub struct ExportNameReply {
    /// Size of the export in bytes.
    pub size: U64,
    /// [`TransmissionFlags`].
    pub flags: U16,
}
const _: () = assert!(size_of::<ExportNameReply>() == 8 + 2);

impl Greeting {
    /// What this project's server says.
    pub fn newstyle() -> Self {
        Self {
            magic: MAGIC.into(),
            option_magic: OPTION_MAGIC.into(),
            flags: (FLAG_FIXED_NEWSTYLE | FLAG_NO_ZEROES).into(),
        }
    }
}

/// What an export can do (section "Transmission flags").
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct TransmissionFlags(u16);

impl TransmissionFlags {
    /// Always set.
    pub const HAS_FLAGS: Self = Self(1 << 0);
    /// Writes are refused.
    pub const READ_ONLY: Self = Self(1 << 1);
    /// `NBD_CMD_FLUSH`.
    pub const SEND_FLUSH: Self = Self(1 << 2);
    /// `NBD_CMD_FLAG_FUA`.
    pub const SEND_FUA: Self = Self(1 << 3);
    /// `NBD_CMD_TRIM`.
    pub const SEND_TRIM: Self = Self(1 << 5);
    /// `NBD_CMD_WRITE_ZEROES` and `NBD_CMD_FLAG_NO_HOLE`.
    pub const SEND_WRITE_ZEROES: Self = Self(1 << 6);
    /// `NBD_CMD_FLAG_DF`.
    pub const SEND_DF: Self = Self(1 << 7);
    /// A flush on one connection covers all of them.
    pub const CAN_MULTI_CONN: Self = Self(1 << 8);
    /// `NBD_CMD_CACHE`.
    pub const SEND_CACHE: Self = Self(1 << 10);
    /// `NBD_CMD_FLAG_FAST_ZERO`.
    pub const SEND_FAST_ZERO: Self = Self(1 << 11);
    /// `NBD_CMD_BLOCK_STATUS` with a payload that says for which contexts.
    pub const BLOCK_STATUS_PAYLOAD: Self = Self(1 << 12);

    /// The flags with these bits.
    pub const fn from_bits(bits: u16) -> Self {
        Self(bits)
    }

    /// As a number.
    pub const fn bits(self) -> u16 {
        self.0
    }

    /// These flags and `other`.
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether every flag of `other` is set.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

/// Number of an option.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OptionKind {
    /// `NBD_OPT_EXPORT_NAME`
    ExportName,
    /// `NBD_OPT_ABORT`
    Abort,
    /// `NBD_OPT_LIST`
    List,
    /// `NBD_OPT_STARTTLS`
    StartTls,
    /// `NBD_OPT_INFO`
    Info,
    /// `NBD_OPT_GO`
    Go,
    /// `NBD_OPT_STRUCTURED_REPLY`
    StructuredReply,
    /// `NBD_OPT_LIST_META_CONTEXT`
    ListMetaContext,
    /// `NBD_OPT_SET_META_CONTEXT`
    SetMetaContext,
    /// `NBD_OPT_EXTENDED_HEADERS`
    ExtendedHeaders,
    /// Any other number.
    Unknown(u32),
}

impl From<u32> for OptionKind {
    fn from(number: u32) -> Self {
        match number {
            1 => Self::ExportName,
            2 => Self::Abort,
            3 => Self::List,
            5 => Self::StartTls,
            6 => Self::Info,
            7 => Self::Go,
            8 => Self::StructuredReply,
            9 => Self::ListMetaContext,
            10 => Self::SetMetaContext,
            11 => Self::ExtendedHeaders,
            other => Self::Unknown(other),
        }
    }
}

impl OptionKind {
    /// As on the wire.
    pub const fn number(self) -> u32 {
        match self {
            Self::ExportName => 1,
            Self::Abort => 2,
            Self::List => 3,
            Self::StartTls => 5,
            Self::Info => 6,
            Self::Go => 7,
            Self::StructuredReply => 8,
            Self::ListMetaContext => 9,
            Self::SetMetaContext => 10,
            Self::ExtendedHeaders => 11,
            Self::Unknown(number) => number,
        }
    }
}

/// Number of an information item of `NBD_OPT_INFO` and `NBD_OPT_GO`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum InfoKind {
    /// `NBD_INFO_EXPORT`
    Export,
    /// `NBD_INFO_NAME`
    Name,
    /// `NBD_INFO_DESCRIPTION`
    Description,
    /// `NBD_INFO_BLOCK_SIZE`
    BlockSize,
    /// Any other number.
    Unknown(u16),
}

impl From<u16> for InfoKind {
    fn from(number: u16) -> Self {
        match number {
            0 => Self::Export,
            1 => Self::Name,
            2 => Self::Description,
            3 => Self::BlockSize,
            other => Self::Unknown(other),
        }
    }
}

impl InfoKind {
    /// As on the wire.
    pub const fn number(self) -> u16 {
        match self {
            Self::Export => 0,
            Self::Name => 1,
            Self::Description => 2,
            Self::BlockSize => 3,
            Self::Unknown(number) => number,
        }
    }
}
