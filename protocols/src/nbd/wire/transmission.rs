//! Transmission: requests, simple replies and structured reply chunks (section "Transmission phase").
//!
//! ```text
//!   C  RequestHeader [payload of a write]
//!   S  SimpleReply [payload of a read]          or      ChunkHeader, payload   (one or more, the last one DONE)
//! ```
//!
//! A [`Request`] holds its length in 64 bits although these headers have 32, so that nothing above changes with the
//! [`extended`](super::extended) ones.

use super::{REQUEST_MAGIC, SIMPLE_REPLY_MAGIC, STRUCTURED_REPLY_MAGIC};
use zerocopy::big_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Start of a request.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy, Debug)]
#[repr(C)]
pub struct RequestHeader {
    /// [`REQUEST_MAGIC`].
    pub magic: U32,
    /// [`CommandFlags`].
    pub flags: U16,
    /// [`Command`].
    pub command: U16,
    /// The client's name for the request.
    pub cookie: U64,
    /// First byte, from the start of the export.
    pub offset: U64,
    /// Bytes.
    pub length: U32,
}
const _: () = assert!(size_of::<RequestHeader>() == 4 + 2 + 2 + 8 + 8 + 4);

/// Length of a request without its payload, in bytes.
pub const REQUEST_HEADER: usize = size_of::<RequestHeader>();

/// A reply that is not structured.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy, Debug)]
#[repr(C)]
pub struct SimpleReply {
    /// [`SIMPLE_REPLY_MAGIC`].
    pub magic: U32,
    /// Zero, or an [`ErrorCode`].
    pub error: U32,
    /// Of the request.
    pub cookie: U64,
}
const _: () = assert!(size_of::<SimpleReply>() == 4 + 4 + 8);

/// Start of a chunk of a structured reply.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy, Debug)]
#[repr(C)]
pub struct ChunkHeader {
    /// [`STRUCTURED_REPLY_MAGIC`].
    pub magic: U32,
    /// [`CHUNK_DONE`].
    pub flags: U16,
    /// [`ChunkKind`].
    pub kind: U16,
    /// Of the request.
    pub cookie: U64,
    /// Bytes that follow.
    pub length: U32,
}
const _: () = assert!(size_of::<ChunkHeader>() == 4 + 2 + 2 + 8 + 4);

/// Chunk flag `NBD_REPLY_FLAG_DONE`: the last chunk of its reply.
pub const CHUNK_DONE: u16 = 1 << 0;

/// Start of the payload of an `NBD_REPLY_TYPE_OFFSET_DATA` chunk; the data follows.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy, Debug)]
#[repr(C)]
pub struct OffsetData {
    /// Where the data lies.
    pub offset: U64,
}
const _: () = assert!(size_of::<OffsetData>() == 8);

/// Payload of an `NBD_REPLY_TYPE_OFFSET_HOLE` chunk.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy, Debug)]
#[repr(C)]
pub struct OffsetHole {
    /// Where the hole starts.
    pub offset: U64,
    /// Its length; not zero.
    pub length: U32,
}
const _: () = assert!(size_of::<OffsetHole>() == 8 + 4);

/// One entry of an `NBD_REPLY_TYPE_BLOCK_STATUS` chunk, behind the context's 32-bit number.
#[derive(
    FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy, PartialEq, Eq, Debug,
)]
#[repr(C)]
pub struct Descriptor {
    /// Bytes; not zero.
    pub length: U32,
    /// Meaning by context.
    pub status: U32,
}
const _: () = assert!(size_of::<Descriptor>() == 4 + 4);

/// Start of the payload of an error chunk; the message follows, and behind it the offset of an error with one.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy, Debug)]
#[repr(C)]
pub struct ErrorHead {
    /// [`ErrorCode`]; not zero.
    pub error: U32,
    /// Bytes of message.
    pub message_length: U16,
}
const _: () = assert!(size_of::<ErrorHead>() == 4 + 2);

/// Status of `base:allocation`: not allocated.
pub const STATE_HOLE: u32 = 1 << 0;
/// Status of `base:allocation`: reads as zeroes.
pub const STATE_ZERO: u32 = 1 << 1;

/// The client's name for a request in flight; opaque to the server.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Cookie(u64);

impl Cookie {
    /// The cookie of this number.
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    /// As on the wire.
    pub const fn number(self) -> u64 {
        self.0
    }
}

/// Flags of a request (section "Command flags").
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct CommandFlags(u16);

impl CommandFlags {
    /// No flag.
    pub const NONE: Self = Self(0);
    /// `NBD_CMD_FLAG_FUA`: durable before the reply.
    pub const FUA: Self = Self(1 << 0);
    /// `NBD_CMD_FLAG_NO_HOLE`: zeroed space stays allocated.
    pub const NO_HOLE: Self = Self(1 << 1);
    /// `NBD_CMD_FLAG_DF`: at most one content chunk.
    pub const DF: Self = Self(1 << 2);
    /// `NBD_CMD_FLAG_REQ_ONE`: one descriptor per context.
    pub const REQ_ONE: Self = Self(1 << 3);
    /// `NBD_CMD_FLAG_FAST_ZERO`: fail rather than write zeroes out.
    pub const FAST_ZERO: Self = Self(1 << 4);
    /// `NBD_CMD_FLAG_PAYLOAD_LEN`: the length is that of a payload. With extended headers only.
    pub const PAYLOAD_LENGTH: Self = Self(1 << 5);

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

    /// These flags but for `other`.
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Whether every flag of `other` is set.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

/// What a request asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Command {
    /// `NBD_CMD_READ`
    Read,
    /// `NBD_CMD_WRITE`
    Write,
    /// `NBD_CMD_DISC`
    Disconnect,
    /// `NBD_CMD_FLUSH`
    Flush,
    /// `NBD_CMD_TRIM`
    Trim,
    /// `NBD_CMD_CACHE`
    Cache,
    /// `NBD_CMD_WRITE_ZEROES`
    WriteZeroes,
    /// `NBD_CMD_BLOCK_STATUS`
    BlockStatus,
    /// Any other number.
    Unknown(u16),
}

impl From<u16> for Command {
    fn from(number: u16) -> Self {
        match number {
            0 => Self::Read,
            1 => Self::Write,
            2 => Self::Disconnect,
            3 => Self::Flush,
            4 => Self::Trim,
            5 => Self::Cache,
            6 => Self::WriteZeroes,
            7 => Self::BlockStatus,
            other => Self::Unknown(other),
        }
    }
}

impl Command {
    /// As on the wire.
    pub const fn number(self) -> u16 {
        match self {
            Self::Read => 0,
            Self::Write => 1,
            Self::Disconnect => 2,
            Self::Flush => 3,
            Self::Trim => 4,
            Self::Cache => 5,
            Self::WriteZeroes => 6,
            Self::BlockStatus => 7,
            Self::Unknown(number) => number,
        }
    }
}

/// Error of a request, as on the wire (section "Error values").
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ErrorCode {
    /// `NBD_EPERM`
    NotPermitted,
    /// `NBD_EIO`
    Io,
    /// `NBD_ENOMEM`
    NoMemory,
    /// `NBD_EINVAL`
    Invalid,
    /// `NBD_ENOSPC`
    NoSpace,
    /// `NBD_EOVERFLOW`
    Overflow,
    /// `NBD_ENOTSUP`
    NotSupported,
    /// `NBD_ESHUTDOWN`
    Shutdown,
}

impl ErrorCode {
    /// As on the wire.
    pub const fn number(self) -> u32 {
        match self {
            Self::NotPermitted => 1,
            Self::Io => 5,
            Self::NoMemory => 12,
            Self::Invalid => 22,
            Self::NoSpace => 28,
            Self::Overflow => 75,
            Self::NotSupported => 95,
            Self::Shutdown => 108,
        }
    }

    /// The error of this number. What is not defined counts as `NBD_EINVAL`, as the specification asks of clients.
    pub const fn from_number(number: u32) -> Self {
        match number {
            1 => Self::NotPermitted,
            5 => Self::Io,
            12 => Self::NoMemory,
            28 => Self::NoSpace,
            75 => Self::Overflow,
            95 => Self::NotSupported,
            108 => Self::Shutdown,
            _ => Self::Invalid,
        }
    }
}

/// Type of a structured reply chunk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ChunkKind {
    /// `NBD_REPLY_TYPE_NONE`
    None,
    /// `NBD_REPLY_TYPE_OFFSET_DATA`
    OffsetData,
    /// `NBD_REPLY_TYPE_OFFSET_HOLE`
    OffsetHole,
    /// `NBD_REPLY_TYPE_BLOCK_STATUS`
    BlockStatus,
    /// `NBD_REPLY_TYPE_BLOCK_STATUS_EXT`
    ExtendedBlockStatus,
    /// `NBD_REPLY_TYPE_ERROR`
    Error,
    /// `NBD_REPLY_TYPE_ERROR_OFFSET`
    ErrorOffset,
    /// Any other number.
    Unknown(u16),
}

const ERROR_BIT: u16 = 1 << 15;

impl From<u16> for ChunkKind {
    fn from(number: u16) -> Self {
        match number {
            0 => Self::None,
            1 => Self::OffsetData,
            2 => Self::OffsetHole,
            5 => Self::BlockStatus,
            6 => Self::ExtendedBlockStatus,
            0x8001 => Self::Error,
            0x8002 => Self::ErrorOffset,
            other => Self::Unknown(other),
        }
    }
}

impl ChunkKind {
    /// As on the wire.
    pub const fn number(self) -> u16 {
        match self {
            Self::None => 0,
            Self::OffsetData => 1,
            Self::OffsetHole => 2,
            Self::BlockStatus => 5,
            Self::ExtendedBlockStatus => 6,
            Self::Error => ERROR_BIT | 1,
            Self::ErrorOffset => ERROR_BIT | 2,
            Self::Unknown(number) => number,
        }
    }

    /// Whether the chunk reports an error, also when its exact type is unknown.
    pub const fn is_error(self) -> bool {
        self.number() & ERROR_BIT != 0
    }
}

/// A request without its payload.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Request {
    /// What to do.
    pub command: Command,
    /// How.
    pub flags: CommandFlags,
    /// What the reply must carry.
    pub cookie: Cookie,
    /// First byte, from the start of the export. Not checked against its size yet.
    pub offset: u64,
    /// Bytes.
    pub length: u64,
}

/// The bytes where a request should start do not start one; nothing after them can be understood.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("a request starts with {0:#010x}, not with NBD_REQUEST_MAGIC")]
pub struct BadRequestMagic(pub u32);

impl Request {
    /// The meaning of a request's first bytes.
    pub fn parse(bytes: &[u8; REQUEST_HEADER]) -> Result<Self, BadRequestMagic> {
        let header = RequestHeader::read_from_bytes(bytes).expect("the array has this very length");
        if header.magic.get() != REQUEST_MAGIC {
            return Err(BadRequestMagic(header.magic.get()));
        }
        Ok(Self {
            command: Command::from(header.command.get()),
            flags: CommandFlags::from_bits(header.flags.get()),
            cookie: Cookie::new(header.cookie.get()),
            offset: header.offset.get(),
            length: u64::from(header.length.get()),
        })
    }

    /// As on the wire; `None` when the length needs more than the 32 bits it has there.
    pub fn encode(&self) -> Option<[u8; REQUEST_HEADER]> {
        let header = RequestHeader {
            magic: REQUEST_MAGIC.into(),
            flags: self.flags.bits().into(),
            command: self.command.number().into(),
            cookie: self.cookie.number().into(),
            offset: self.offset.into(),
            length: u32::try_from(self.length).ok()?.into(),
        };
        Some(header.as_bytes().try_into().expect("the structure has this very length"))
    }
}

impl SimpleReply {
    /// Success, or an error.
    pub fn new(cookie: Cookie, error: Option<ErrorCode>) -> Self {
        Self {
            magic: SIMPLE_REPLY_MAGIC.into(),
            error: error.map_or(0, ErrorCode::number).into(),
            cookie: cookie.number().into(),
        }
    }
}

impl ChunkHeader {
    /// The start of a chunk with `length` bytes of payload.
    pub fn new(cookie: Cookie, kind: ChunkKind, flags: u16, length: u32) -> Self {
        Self {
            magic: STRUCTURED_REPLY_MAGIC.into(),
            flags: flags.into(),
            kind: kind.number().into(),
            cookie: cookie.number().into(),
            length: length.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_request_survives_the_wire(
            command in any::<u16>(),
            flags in any::<u16>(),
            cookie in any::<u64>(),
            offset in any::<u64>(),
            length in any::<u32>(),
        ) {
            let request = Request {
                command: Command::from(command),
                flags: CommandFlags::from_bits(flags),
                cookie: Cookie::new(cookie),
                offset,
                length: u64::from(length),
            };
            let encoded = request.encode().expect("a length of 32 bits");
            prop_assert_eq!(Request::parse(&encoded), Ok(request));
            prop_assert_eq!(request.command.number(), command);
        }

        #[test]
        fn chunk_kinds_keep_their_number(number in any::<u16>()) {
            prop_assert_eq!(ChunkKind::from(number).number(), number);
            prop_assert_eq!(ChunkKind::from(number).is_error(), number >= 0x8000);
        }
    }

    #[test]
    fn a_request_is_laid_out_as_specified() {
        let request = Request {
            command: Command::BlockStatus,
            flags: CommandFlags::REQ_ONE,
            cookie: Cookie::new(0x0102_0304_0506_0708),
            offset: 0x1000,
            length: 0x200,
        };
        let expected = [
            0x25, 0x60, 0x95, 0x13, 0, 8, 0, 7, 1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 0, 0, 0, 0, 0x10, 0,
            0, 0, 2, 0,
        ];
        assert_eq!(request.encode(), Some(expected));
    }

    #[test]
    fn what_is_no_request_is_refused() {
        assert_eq!(Request::parse(&[0; REQUEST_HEADER]), Err(BadRequestMagic(0)));
    }

    #[test]
    fn a_length_of_more_than_32_bits_has_no_place_on_the_wire() {
        let request = Request {
            command: Command::Trim,
            flags: CommandFlags::NONE,
            cookie: Cookie::new(1),
            offset: 0,
            length: 1 << 32,
        };
        assert_eq!(request.encode(), None);
    }

    #[test]
    fn error_codes_keep_their_number_and_strangers_are_invalid() {
        for number in [1, 5, 12, 22, 28, 75, 95, 108] {
            assert_eq!(ErrorCode::from_number(number).number(), number);
        }
        assert_eq!(ErrorCode::from_number(4711), ErrorCode::Invalid);
    }
}
