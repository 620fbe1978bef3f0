//! Replies to options (section "Option reply types").
//!
//! The server encodes them and a client parses them, both here, so that neither can drift. A client must tolerate reply
//! and information types it does not know; they stay `Unknown`.

use super::fields::{Fields, length_of, no_data, put_counted, text};
use super::handshake::{InfoKind, OptionKind, OptionReplyHeader, TransmissionFlags};
use super::option::OptionError;
use super::{MAX_STRING, OPTION_REPLY_MAGIC};
use zerocopy::big_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy)]
#[repr(C)]
struct InfoExport {
    kind: U16,
    size: U64,
    flags: U16,
}
const _: () = assert!(size_of::<InfoExport>() == 2 + 8 + 2);

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy)]
#[repr(C)]
struct InfoBlockSize {
    kind: U16,
    minimum: U32,
    preferred: U32,
    maximum_payload: U32,
}
const _: () = assert!(size_of::<InfoBlockSize>() == 2 + 4 + 4 + 4);

/// Why the server refuses an option.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// `NBD_REP_ERR_UNSUP`: not known here.
    Unsupported,
    /// `NBD_REP_ERR_POLICY`: known, but not allowed.
    Policy,
    /// `NBD_REP_ERR_INVALID`: malformed, or not at this time.
    Invalid,
    /// `NBD_REP_ERR_PLATFORM`: not on this platform.
    Platform,
    /// `NBD_REP_ERR_TLS_REQD`: only over TLS.
    TlsRequired,
    /// `NBD_REP_ERR_UNKNOWN`: no such export.
    Unknown,
    /// `NBD_REP_ERR_SHUTDOWN`: the server is stopping.
    Shutdown,
    /// `NBD_REP_ERR_BLOCK_SIZE_REQD`: only with block sizes negotiated.
    BlockSizeRequired,
    /// `NBD_REP_ERR_TOO_BIG`: larger than the server is willing to process.
    TooBig,
    /// `NBD_REP_ERR_EXT_HEADER_REQD`: only with extended headers, or not any more once they are in use.
    ExtendedHeadersRequired,
    /// Any other number with the error bit.
    Other(u32),
}

const ERROR_BIT: u32 = 1 << 31;

impl Refusal {
    /// As on the wire.
    pub const fn number(self) -> u32 {
        ERROR_BIT
            | match self {
                Self::Unsupported => 1,
                Self::Policy => 2,
                Self::Invalid => 3,
                Self::Platform => 4,
                Self::TlsRequired => 5,
                Self::Unknown => 6,
                Self::Shutdown => 7,
                Self::BlockSizeRequired => 8,
                Self::TooBig => 9,
                Self::ExtendedHeadersRequired => 10,
                Self::Other(number) => number,
            }
    }

    fn from_number(number: u32) -> Self {
        match number & !ERROR_BIT {
            1 => Self::Unsupported,
            2 => Self::Policy,
            3 => Self::Invalid,
            4 => Self::Platform,
            5 => Self::TlsRequired,
            6 => Self::Unknown,
            7 => Self::Shutdown,
            8 => Self::BlockSizeRequired,
            9 => Self::TooBig,
            10 => Self::ExtendedHeadersRequired,
            other => Self::Other(other),
        }
    }
}

/// What the server says of an export.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Info {
    /// `NBD_INFO_EXPORT`
    Export {
        /// Size in bytes.
        size_bytes: u64,
        /// What it can do.
        flags: TransmissionFlags,
    },
    /// `NBD_INFO_NAME`: the canonical name.
    Name(String),
    /// `NBD_INFO_DESCRIPTION`: for people.
    Description(String),
    /// `NBD_INFO_BLOCK_SIZE`
    BlockSize(BlockSizes),
    /// An item this code has not heard of.
    Unknown(u16),
}

/// The sizes requests should keep to, in bytes (section "Size constraints").
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BlockSizes {
    /// Smallest unit.
    pub minimum: u32,
    /// Unit that needs no reading around it.
    pub preferred: u32,
    /// Largest payload.
    pub maximum_payload: u32,
}

/// A reply to an option.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum OptionReply {
    /// `NBD_REP_ACK`: done.
    Ack,
    /// `NBD_REP_SERVER`: one export of a list.
    Server {
        /// Its name.
        name: String,
        /// For people; may be empty.
        description: String,
    },
    /// `NBD_REP_INFO`
    Info(Info),
    /// `NBD_REP_META_CONTEXT`
    MetaContext {
        /// Number the context has in block status replies.
        id: u32,
        /// Its name.
        name: String,
    },
    /// The option was refused.
    Refused {
        /// Why, for programs.
        refusal: Refusal,
        /// Why, for people.
        message: String,
    },
    /// A reply this code has not heard of.
    Unknown(u32),
}

impl OptionReply {
    /// The meaning of `data`, which came with a reply header of type `kind`.
    pub fn parse(kind: u32, data: &[u8]) -> Result<Self, OptionError> {
        if kind & ERROR_BIT != 0 {
            // The message is for people: cut and mended rather than refused.
            let cut = &data[..data.len().min(MAX_STRING)];
            let message = String::from_utf8_lossy(cut).into_owned();
            return Ok(Self::Refused { refusal: Refusal::from_number(kind), message });
        }
        let mut fields = Fields::new(data);
        match kind {
            1 => no_data(data, Self::Ack),
            2 => {
                let name = fields.counted_text()?;
                Ok(Self::Server { name, description: text(fields.rest())? })
            }
            3 => Ok(Self::Info(Info::parse(data)?)),
            4 => {
                let id = fields.u32()?;
                Ok(Self::MetaContext { id, name: text(fields.rest())? })
            }
            other => Ok(Self::Unknown(other)),
        }
    }

    fn number(&self) -> u32 {
        match self {
            Self::Ack => 1,
            Self::Server { .. } => 2,
            Self::Info(_) => 3,
            Self::MetaContext { .. } => 4,
            Self::Refused { refusal, .. } => refusal.number(),
            Self::Unknown(number) => *number,
        }
    }

    /// Whether nothing more follows for the same option.
    pub fn is_final(&self) -> bool {
        matches!(self, Self::Ack | Self::Refused { .. })
    }

    /// Appends the reply to `option`, header and data, to `out`.
    pub fn encode(&self, option: OptionKind, out: &mut Vec<u8>) {
        let mut data = Vec::new();
        match self {
            Self::Ack | Self::Unknown(_) => {}
            Self::Server { name, description } => {
                put_counted(&mut data, name);
                data.extend(description.as_bytes());
            }
            Self::Info(info) => info.encode(&mut data),
            Self::MetaContext { id, name } => {
                data.extend(id.to_be_bytes());
                data.extend(name.as_bytes());
            }
            Self::Refused { message, .. } => data.extend(message.as_bytes()),
        }
        let header = OptionReplyHeader {
            magic: OPTION_REPLY_MAGIC.into(),
            option: option.number().into(),
            kind: self.number().into(),
            length: length_of(data.len()).into(),
        };
        out.extend(header.as_bytes());
        out.extend(data);
    }
}

impl Info {
    fn parse(data: &[u8]) -> Result<Self, OptionError> {
        let truncated = |wanted| OptionError::Truncated { at: 0, wanted, length: data.len() };
        let mut fields = Fields::new(data);
        match InfoKind::from(fields.u16()?) {
            InfoKind::Export => {
                let info = InfoExport::read_from_bytes(data)
                    .map_err(|_| truncated(size_of::<InfoExport>()))?;
                let flags = TransmissionFlags::from_bits(info.flags.get());
                Ok(Self::Export { size_bytes: info.size.get(), flags })
            }
            InfoKind::Name => Ok(Self::Name(text(fields.rest())?)),
            InfoKind::Description => Ok(Self::Description(text(fields.rest())?)),
            InfoKind::BlockSize => {
                let info = InfoBlockSize::read_from_bytes(data)
                    .map_err(|_| truncated(size_of::<InfoBlockSize>()))?;
                Ok(Self::BlockSize(BlockSizes {
                    minimum: info.minimum.get(),
                    preferred: info.preferred.get(),
                    maximum_payload: info.maximum_payload.get(),
                }))
            }
            InfoKind::Unknown(number) => Ok(Self::Unknown(number)),
        }
    }

    fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Export { size_bytes, flags } => {
                let (size, flags) = ((*size_bytes).into(), flags.bits().into());
                out.extend(
                    InfoExport { kind: InfoKind::Export.number().into(), size, flags }.as_bytes(),
                );
            }
            Self::Name(name) => {
                out.extend(InfoKind::Name.number().to_be_bytes());
                out.extend(name.as_bytes());
            }
            Self::Description(description) => {
                out.extend(InfoKind::Description.number().to_be_bytes());
                out.extend(description.as_bytes());
            }
            Self::BlockSize(sizes) => {
                let info = InfoBlockSize {
                    kind: InfoKind::BlockSize.number().into(),
                    minimum: sizes.minimum.into(),
                    preferred: sizes.preferred.into(),
                    maximum_payload: sizes.maximum_payload.into(),
                };
                out.extend(info.as_bytes());
            }
            Self::Unknown(number) => out.extend(number.to_be_bytes()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn reply() -> impl Strategy<Value = OptionReply> {
        let string = "[a-z0-9 é]{0,40}";
        let info = prop_oneof![
            (any::<u64>(), any::<u16>()).prop_map(|(size_bytes, flags)| Info::Export {
                size_bytes,
                flags: TransmissionFlags::from_bits(flags)
            }),
            string.prop_map(Info::Name),
            string.prop_map(Info::Description),
            any::<[u32; 3]>().prop_map(|[minimum, preferred, maximum_payload]| {
                Info::BlockSize(BlockSizes { minimum, preferred, maximum_payload })
            }),
            (4u16..).prop_map(Info::Unknown),
        ];
        prop_oneof![
            Just(OptionReply::Ack),
            (string, string)
                .prop_map(|(name, description)| OptionReply::Server { name, description }),
            info.prop_map(OptionReply::Info),
            (any::<u32>(), string).prop_map(|(id, name)| OptionReply::MetaContext { id, name }),
            (0u32..20, string).prop_map(|(number, message)| OptionReply::Refused {
                refusal: Refusal::from_number(number),
                message
            }),
            (5u32..ERROR_BIT).prop_map(OptionReply::Unknown),
        ]
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_parsed(reply in reply()) {
            let mut encoded = Vec::new();
            reply.encode(OptionKind::Go, &mut encoded);
            let (header, data) = OptionReplyHeader::read_from_prefix(&encoded).expect("a header");
            prop_assert_eq!(header.magic.get(), OPTION_REPLY_MAGIC);
            prop_assert_eq!(header.length.get() as usize, data.len());
            prop_assert_eq!(header.option.get(), OptionKind::Go.number());
            prop_assert_eq!(OptionReply::parse(header.kind.get(), data), Ok(reply));
        }

        #[test]
        fn any_bytes_are_refused_or_mean_something(
            kind in prop_oneof![0u32..8, any::<u32>()],
            data in prop::collection::vec(any::<u8>(), 0..64),
        ) {
            let refused = kind & ERROR_BIT != 0;
            if let Ok(reply) = OptionReply::parse(kind, &data) {
                prop_assert_eq!(matches!(reply, OptionReply::Refused { .. }), refused);
            }
        }
    }

    #[test]
    fn an_error_message_is_mended_rather_than_refused() {
        let refused = OptionReply::parse(Refusal::Unknown.number(), b"no such \xff export");
        assert_eq!(
            refused,
            Ok(OptionReply::Refused {
                refusal: Refusal::Unknown,
                message: "no such \u{fffd} export".into()
            })
        );
    }
}
