//! Extended headers: requests, chunks and block status with lengths of 64 bits (section "Extended reply chunk message").
//!
//! ```text
//!   C  ExtendedRequestHeader [payload, if flagged]      S  ExtendedChunkHeader, payload   (one or more, the last one DONE)
//!   C  … of a block status: StatusFilter                S  … of a block status: ExtendedStatusHead, ExtendedDescriptors
//! ```
//!
//! The length of a request is that of its payload where [`CommandFlags::PAYLOAD_LENGTH`] is set, and otherwise how much of
//! the export it is about. Content and errors of a reply look as they do in [`transmission`](super::transmission).

use super::transmission::{BadRequestMagic, ChunkKind, Command, CommandFlags, Cookie, Request};
use super::{EXTENDED_REPLY_MAGIC, EXTENDED_REQUEST_MAGIC, MAX_QUERIES};
use zerocopy::big_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Start of a request.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy, Debug)]
#[repr(C)]
pub struct ExtendedRequestHeader {
    /// [`EXTENDED_REQUEST_MAGIC`].
    pub magic: U32,
    /// [`CommandFlags`].
    pub flags: U16,
    /// [`Command`].
    pub command: U16,
    /// The client's name for the request.
    pub cookie: U64,
    /// First byte, from the start of the export.
    pub offset: U64,
    /// Bytes: of payload if it is flagged, else of the export.
    pub length: U64,
}
const _: () = assert!(size_of::<ExtendedRequestHeader>() == 4 + 2 + 2 + 8 + 8 + 8);

/// Length of an extended request without its payload, in bytes.
pub const EXTENDED_REQUEST_HEADER: usize = size_of::<ExtendedRequestHeader>();

/// Start of a chunk of a reply.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy, Debug)]
#[repr(C)]
pub struct ExtendedChunkHeader {
    /// [`EXTENDED_REPLY_MAGIC`].
    pub magic: U32,
    /// [`CHUNK_DONE`](super::transmission::CHUNK_DONE).
    pub flags: U16,
    /// [`ChunkKind`].
    pub kind: U16,
    /// Of the request.
    pub cookie: U64,
    /// Of the request.
    pub offset: U64,
    /// Bytes that follow.
    pub length: U64,
}
const _: () = assert!(size_of::<ExtendedChunkHeader>() == 4 + 2 + 2 + 8 + 8 + 8);

/// Start of the payload of an `NBD_REPLY_TYPE_BLOCK_STATUS_EXT` chunk; the descriptors follow.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy, Debug)]
#[repr(C)]
pub struct ExtendedStatusHead {
    /// Number of the context.
    pub context: U32,
    /// Descriptors that follow; not zero.
    pub count: U32,
}
const _: () = assert!(size_of::<ExtendedStatusHead>() == 4 + 4);

/// One entry of an `NBD_REPLY_TYPE_BLOCK_STATUS_EXT` chunk.
#[derive(
    FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy, PartialEq, Eq, Debug,
)]
#[repr(C)]
pub struct ExtendedDescriptor {
    /// Bytes; not zero.
    pub length: U64,
    /// Meaning by context.
    pub status: U64,
}
const _: () = assert!(size_of::<ExtendedDescriptor>() == 8 + 8);

impl ExtendedChunkHeader {
    /// The start of a chunk with `length` bytes of payload, in the reply to `request`.
    pub fn new(request: &Request, kind: ChunkKind, flags: u16, length: u64) -> Self {
        Self {
            magic: EXTENDED_REPLY_MAGIC.into(),
            flags: flags.into(),
            kind: kind.number().into(),
            cookie: request.cookie.number().into(),
            offset: request.offset.into(),
            length: length.into(),
        }
    }
}

impl Request {
    /// The meaning of an extended request's first bytes.
    pub fn parse_extended(bytes: &[u8; EXTENDED_REQUEST_HEADER]) -> Result<Self, BadRequestMagic> {
        let header =
            ExtendedRequestHeader::read_from_bytes(bytes).expect("the array has this very length");
        if header.magic.get() != EXTENDED_REQUEST_MAGIC {
            return Err(BadRequestMagic(header.magic.get()));
        }
        Ok(Self {
            command: Command::from(header.command.get()),
            flags: CommandFlags::from_bits(header.flags.get()),
            cookie: Cookie::new(header.cookie.get()),
            offset: header.offset.get(),
            length: header.length.get(),
        })
    }

    /// As on the wire with extended headers.
    pub fn encode_extended(&self) -> [u8; EXTENDED_REQUEST_HEADER] {
        let header = ExtendedRequestHeader {
            magic: EXTENDED_REQUEST_MAGIC.into(),
            flags: self.flags.bits().into(),
            command: self.command.number().into(),
            cookie: self.cookie.number().into(),
            offset: self.offset.into(),
            length: self.length.into(),
        };
        header.as_bytes().try_into().expect("the structure has this very length")
    }
}

/// Longest payload of a block status that is looked at, in bytes: every context there can be, once.
pub const MAX_STATUS_FILTER: u64 = 8 + 4 * MAX_QUERIES as u64;

/// Payload of an `NBD_CMD_BLOCK_STATUS` that asks for some of the selected contexts.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StatusFilter {
    /// How much of the export is meant, in bytes.
    pub length: u64,
    /// Numbers of contexts, as the client gave them.
    pub contexts: Vec<u32>,
}

impl StatusFilter {
    /// The meaning of `payload`; `None` if its length is not that of a filter or beyond [`MAX_STATUS_FILTER`].
    pub fn parse(payload: &[u8]) -> Option<Self> {
        let (length, rest) = payload.split_first_chunk::<8>()?;
        let (contexts, odd) = rest.as_chunks::<4>();
        let long = u64::try_from(payload.len()).is_ok_and(|length| length > MAX_STATUS_FILTER);
        (odd.is_empty() && !long).then(|| Self {
            length: u64::from_be_bytes(*length),
            contexts: contexts.iter().map(|number| u32::from_be_bytes(*number)).collect(),
        })
    }

    /// As on the wire.
    pub fn encode(&self) -> Vec<u8> {
        let numbers = self.contexts.iter().flat_map(|number| number.to_be_bytes());
        self.length.to_be_bytes().into_iter().chain(numbers).collect()
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
            length in any::<u64>(),
        ) {
            let request = Request {
                command: Command::from(command),
                flags: CommandFlags::from_bits(flags),
                cookie: Cookie::new(cookie),
                offset,
                length,
            };
            prop_assert_eq!(Request::parse_extended(&request.encode_extended()), Ok(request));
        }

        #[test]
        fn a_filter_survives_the_wire(
            length in any::<u64>(),
            contexts in prop::collection::vec(any::<u32>(), 0..128),
        ) {
            let filter = StatusFilter { length, contexts };
            let mut encoded = filter.encode();
            prop_assert_eq!(StatusFilter::parse(&encoded), Some(filter));
            encoded.push(0);
            prop_assert_eq!(StatusFilter::parse(&encoded), None);
        }
    }

    #[test]
    fn a_request_is_laid_out_as_specified() {
        let request = Request {
            command: Command::BlockStatus,
            flags: CommandFlags::REQ_ONE.with(CommandFlags::PAYLOAD_LENGTH),
            cookie: Cookie::new(0x0102_0304_0506_0708),
            offset: 0x1000,
            length: 0x2_0000_0000,
        };
        let expected = [
            0x21, 0xe4, 0x1c, 0x71, 0, 0x28, 0, 7, 1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 0, 0, 0, 0, 0x10,
            0, 0, 0, 0, 2, 0, 0, 0, 0,
        ];
        assert_eq!(request.encode_extended(), expected);
    }

    #[test]
    fn a_compact_request_is_none() {
        let mut bytes = [0; EXTENDED_REQUEST_HEADER];
        bytes[..4].copy_from_slice(&super::super::REQUEST_MAGIC.to_be_bytes());
        let magic = super::super::REQUEST_MAGIC;
        assert_eq!(Request::parse_extended(&bytes), Err(BadRequestMagic(magic)));
    }

    #[test]
    fn a_filter_has_a_length_and_a_limit() {
        assert_eq!(StatusFilter::parse(&[0; 7]), None);
        let empty = StatusFilter { length: 0, contexts: Vec::new() };
        assert_eq!(StatusFilter::parse(&[0; 8]), Some(empty));
        let most = usize::try_from(MAX_STATUS_FILTER).expect("small");
        assert!(StatusFilter::parse(&vec![0; most]).is_some());
        assert_eq!(StatusFilter::parse(&vec![0; most + 4]), None);
    }
}
