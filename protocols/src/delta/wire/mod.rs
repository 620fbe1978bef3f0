//! Frames of the delta stream: bytes to meaning and back, without I/O.
//!
//! ```text
//!   ┌────────────── 16 bytes ──────────────┐┌──────── length bytes ────────┐
//!   │ magic version kind flags length rsvd ││ body: fixed part, then tables │
//!   └──────────────────────────────────────┘└──────────────────────────────┘
//! ```
//!
//! All integers are little-endian. TLS already vouches for every byte, so frames carry no checksum of their own; extents
//! carry the BLAKE3 of their content because that is what the target stores and scrubs by.
//!
//! **Invariants**
//! - A header is checked completely (magic, version, kind, flags, reserved bytes, length against the limit of its
//!   kind) before a byte of its body is allocated.
//! - Reserved bytes and unknown flag bits are written zero and refused otherwise.
//! - `parse` of each body accepts exactly what `encode` can produce, and never panics.

mod batch;
mod control;
mod handshake;
mod reader;

pub use batch::{
    BatchFrame, Codec, ExtentEntry, ExtentKind, begin_batch, encode_batch, finish_batch,
    set_position,
};
pub use control::{
    Ack, BlockHash, Bye, HashRequest, Hashes, Mark, MarkKind, Marked, PassBegin, PassKind, Ping,
    WriteOrder,
};
pub use handshake::{
    DiskEntry, DiskState, Features, Hello, Refused, StreamMode, Welcome, WelcomeDisk,
};
pub use reader::FrameReader;

use zerocopy::little_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// First bytes of every frame.
pub const MAGIC: [u8; 4] = *b"LFDS";

/// Version of the layout of `Hello`, `Welcome` and `Refused`. It never changes: these frames are exchanged before a
/// version has been agreed on.
pub const HANDSHAKE_VERSION: u16 = 1;

/// Versions of the protocol, one line each.
///
/// - 1: first version: passes, hash exchange, marks, lz4.
pub const MIN_VERSION: u16 = 1;
/// Newest version spoken here.
pub const MAX_VERSION: u16 = 1;

/// Largest body of any frame but `Batch` and `Hashes`, in bytes.
pub const MAX_CONTROL_BODY: usize = 16 * 1024;
/// Most extents in one batch.
pub const MAX_EXTENTS: usize = 1024;
/// Most bytes of content, before compression, in one batch; a target may announce less.
pub const MAX_BATCH_BYTES: usize = 4 << 20;
/// Largest body of a `Batch`, in bytes: fixed part, table and stored content.
pub const MAX_BATCH_BODY: usize =
    batch::HEAD_BYTES + MAX_EXTENTS * batch::ENTRY_BYTES + MAX_BATCH_BYTES;
/// Most blocks in one hash exchange: 256 MiB of disk.
pub const MAX_HASH_BLOCKS: u32 = 4096;
/// Largest body of a `Hashes` frame, in bytes.
pub const MAX_HASHES_BODY: usize =
    control::HASHES_HEAD_BYTES + (MAX_HASH_BLOCKS as usize) * (1 + HASH_BYTES);
/// Most disks in one stream.
pub const MAX_DISKS: usize = 64;
/// Longest label of a mark, in bytes of UTF-8.
pub const MAX_LABEL: usize = 128;
/// Longest message of a refusal, in bytes of UTF-8.
pub const MAX_MESSAGE: usize = 2048;
/// Bytes of a BLAKE3 hash.
pub const HASH_BYTES: usize = 32;
/// Bytes of a frame header.
pub const HEADER_BYTES: usize = 16;

/// A frame header as it stands on the wire.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy)]
#[repr(C)]
struct RawHeader {
    magic: [u8; 4],
    version: U16,
    kind: u8,
    /// Reserved for marking compressed or continued frames.
    flags: u8,
    length: U32,
    reserved: U32,
}

// 4 magic + 2 version + 1 kind + 1 flags + 4 length + 4 reserved
const _: () = assert!(size_of::<RawHeader>() == HEADER_BYTES);

/// What a frame is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum FrameKind {
    /// Source to target: who I am, what I send, where I stopped.
    Hello,
    /// Target to source: go on from here, within these limits.
    Welcome,
    /// Target to source: no, and why; the last frame of the target.
    Refused,
    /// Source to target: a pass over the disks begins.
    PassBegin,
    /// Source to target: changed blocks of one disk.
    Batch,
    /// Target to source: durable up to here, and credit for more.
    Ack,
    /// Source to target: the disks are consistent here.
    Mark,
    /// Target to source: the point that became of a mark.
    Marked,
    /// Source to target: which content do you hold?
    HashRequest,
    /// Target to source: hashes of blocks.
    Hashes,
    /// Either way: are you there?
    Ping,
    /// Either way: yes.
    Pong,
    /// Either way: I leave in good order.
    Bye,
}

impl FrameKind {
    /// Every kind, in the order of their numbers.
    pub const ALL: [Self; 13] = [
        Self::Hello,
        Self::Welcome,
        Self::Refused,
        Self::PassBegin,
        Self::Batch,
        Self::Ack,
        Self::Mark,
        Self::Marked,
        Self::HashRequest,
        Self::Hashes,
        Self::Ping,
        Self::Pong,
        Self::Bye,
    ];

    /// Its number on the wire, from 1.
    pub fn number(self) -> u8 {
        let index = Self::ALL.iter().position(|kind| *kind == self).expect("ALL holds every kind");
        u8::try_from(index + 1).expect("thirteen kinds")
    }

    fn from_number(number: u8) -> Option<Self> {
        usize::from(number).checked_sub(1).and_then(|index| Self::ALL.get(index)).copied()
    }

    /// Largest body it may have, in bytes.
    pub fn body_limit(self) -> usize {
        match self {
            Self::Batch => MAX_BATCH_BODY,
            Self::Hashes => MAX_HASHES_BODY,
            _ => MAX_CONTROL_BODY,
        }
    }

    /// Whether it belongs to the handshake, whose layout is the same in every version.
    pub fn is_handshake(self) -> bool {
        matches!(self, Self::Hello | Self::Welcome | Self::Refused)
    }
}

/// A frame header that passed every check.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    /// What the body is.
    pub kind: FrameKind,
    /// Version the frame is laid out in.
    pub version: u16,
    /// Bytes of body that follow.
    pub length: usize,
}

impl Header {
    /// Checks a header. `limit` is how much body the receiver is ready for in its present state, on top of the limit
    /// of the kind.
    pub fn parse(bytes: &[u8; HEADER_BYTES], limit: usize) -> Result<Self, FrameError> {
        let raw = RawHeader::read_from_bytes(bytes).expect("a header is sixteen bytes");
        if raw.magic != MAGIC {
            return Err(FrameError::Magic(raw.magic));
        }
        let kind = FrameKind::from_number(raw.kind).ok_or(FrameError::UnknownKind(raw.kind))?;
        let version = raw.version.get();
        let newest = if kind.is_handshake() { HANDSHAKE_VERSION } else { MAX_VERSION };
        if version == 0 || version > newest {
            return Err(FrameError::Version { kind, version });
        }
        if raw.flags != 0 || raw.reserved.get() != 0 {
            return Err(FrameError::Reserved { kind, what: "header" });
        }
        let length = raw.length.get() as usize;
        let limit = limit.min(kind.body_limit());
        if length > limit {
            return Err(FrameError::Oversized { kind, length, limit });
        }
        Ok(Self { kind, version, length })
    }

    /// The header of a `kind` frame with `length` bytes of body.
    pub fn encode(kind: FrameKind, length: usize) -> [u8; HEADER_BYTES] {
        assert!(length <= kind.body_limit(), "{kind:?} of {length} bytes passes our own limit");
        let version = if kind.is_handshake() { HANDSHAKE_VERSION } else { MAX_VERSION };
        let raw = RawHeader {
            magic: MAGIC,
            version: version.into(),
            kind: kind.number(),
            flags: 0,
            length: u32::try_from(length).expect("below the limit of its kind").into(),
            reserved: 0.into(),
        };
        zerocopy::transmute!(raw)
    }
}

/// A whole frame: its header and the bytes of its body.
#[derive(Clone, PartialEq, Eq)]
pub struct RawFrame {
    /// What it is.
    pub header: Header,
    /// `header.length` bytes.
    pub body: Vec<u8>,
}

impl std::fmt::Debug for RawFrame {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?} of {} bytes", self.header.kind, self.body.len())
    }
}

/// Header and `body`, ready to send.
fn frame(kind: FrameKind, body: &[&[u8]]) -> Vec<u8> {
    let length = body.iter().map(|part| part.len()).sum();
    let mut bytes = Vec::with_capacity(HEADER_BYTES + length);
    bytes.extend_from_slice(&Header::encode(kind, length));
    body.iter().for_each(|part| bytes.extend_from_slice(part));
    bytes
}

/// Reads a fixed structure from the front of `body`.
fn take<T: FromBytes + KnownLayout + Immutable + Unaligned>(
    kind: FrameKind,
    body: &[u8],
) -> Result<(&T, &[u8]), FrameError> {
    T::ref_from_prefix(body).map_err(|_| FrameError::Short {
        kind,
        length: body.len(),
        needed: size_of::<T>(),
    })
}

/// Checks that nothing follows.
fn finished(kind: FrameKind, rest: &[u8]) -> Result<(), FrameError> {
    if rest.is_empty() { Ok(()) } else { Err(FrameError::Long { kind, extra: rest.len() }) }
}

/// Checks that reserved bytes are zero.
fn zero(kind: FrameKind, what: &'static str, bytes: &[u8]) -> Result<(), FrameError> {
    if bytes.iter().all(|byte| *byte == 0) {
        Ok(())
    } else {
        Err(FrameError::Reserved { kind, what })
    }
}

/// Why bytes are not a frame.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    /// Not the start of a frame.
    #[error("frame starts with {0:02x?} instead of the magic")]
    Magic([u8; 4]),
    /// A kind number nobody has defined.
    #[error("unknown frame kind {0}")]
    UnknownKind(u8),
    /// A frame of a version that is not spoken here.
    #[error("{kind:?} frame of version {version}")]
    Version {
        /// Its kind.
        kind: FrameKind,
        /// What it says.
        version: u16,
    },
    /// A reserved byte or flag is set.
    #[error("{kind:?} frame with reserved bits set in its {what}")]
    Reserved {
        /// Its kind.
        kind: FrameKind,
        /// Which part.
        what: &'static str,
    },
    /// More body than the receiver takes.
    #[error("{kind:?} frame of {length} bytes, limit {limit}")]
    Oversized {
        /// Its kind.
        kind: FrameKind,
        /// Bytes it announces.
        length: usize,
        /// Bytes that are allowed.
        limit: usize,
    },
    /// The body ends too early.
    #[error("{kind:?} body ends after {length} bytes, {needed} needed")]
    Short {
        /// Its kind.
        kind: FrameKind,
        /// Bytes there are.
        length: usize,
        /// Bytes needed at that place.
        needed: usize,
    },
    /// Bytes follow the end of the body's meaning.
    #[error("{kind:?} body has {extra} bytes too many")]
    Long {
        /// Its kind.
        kind: FrameKind,
        /// How many.
        extra: usize,
    },
    /// A field has a value that is not allowed there.
    #[error("{kind:?} frame with {field} = {value}")]
    Value {
        /// Its kind.
        kind: FrameKind,
        /// Which field.
        field: &'static str,
        /// What it says.
        value: u64,
    },
    /// Text that is not what it should be.
    #[error("{kind:?} frame with a malformed {field}")]
    Text {
        /// Its kind.
        kind: FrameKind,
        /// Which field.
        field: &'static str,
    },
    /// Extent number `index` contradicts itself or its neighbours.
    #[error("extent {index} of a batch: {what}")]
    Extent {
        /// Its place in the table.
        index: usize,
        /// The rule it breaks.
        what: &'static str,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(kind: u8, length: u32) -> [u8; HEADER_BYTES] {
        let raw = RawHeader {
            magic: MAGIC,
            version: 1.into(),
            kind,
            flags: 0,
            length: length.into(),
            reserved: 0.into(),
        };
        zerocopy::transmute!(raw)
    }

    #[test]
    fn numbers_of_kinds_are_fixed() {
        let numbers: Vec<u8> = FrameKind::ALL.iter().map(|kind| kind.number()).collect();
        assert_eq!(numbers, (1..=13).collect::<Vec<u8>>());
        assert_eq!(FrameKind::Hello.number(), 1);
        assert_eq!(FrameKind::Batch.number(), 5);
        assert_eq!(FrameKind::Bye.number(), 13);
    }

    #[test]
    fn a_header_is_refused_for_each_of_its_fields() {
        let good = header(5, 100);
        let kind = FrameKind::Batch;
        let expected = Header { kind, version: 1, length: 100 };
        assert_eq!(Header::parse(&good, usize::MAX), Ok(expected));
        let broken = |at: usize, byte: u8| {
            let mut bytes = good;
            bytes[at] = byte;
            Header::parse(&bytes, usize::MAX).expect_err("refused")
        };
        assert_eq!(broken(0, b'X'), FrameError::Magic(*b"XFDS"));
        assert_eq!(broken(4, 2), FrameError::Version { kind, version: 2 });
        assert_eq!(broken(4, 0), FrameError::Version { kind, version: 0 });
        assert_eq!(broken(6, 0), FrameError::UnknownKind(0));
        assert_eq!(broken(6, 14), FrameError::UnknownKind(14));
        assert_eq!(broken(7, 1), FrameError::Reserved { kind, what: "header" });
        assert_eq!(broken(15, 1), FrameError::Reserved { kind, what: "header" });
        assert!(matches!(broken(11, 0xff), FrameError::Oversized { .. }));
    }

    #[test]
    fn the_receivers_limit_counts_beside_that_of_the_kind() {
        let oversized = Header::parse(&header(5, 100), 99);
        assert_eq!(
            oversized,
            Err(FrameError::Oversized { kind: FrameKind::Batch, length: 100, limit: 99 })
        );
        assert!(Header::parse(&header(11, 100_000), usize::MAX).is_err());
    }
}
