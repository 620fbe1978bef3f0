//! Bytes of `MANIFEST`, version 1: a header and a log of framed records. See `docs/formats/manifest.md`.
//!
//! ```text
//!   header  magic 8 │ version 2 │ reserved 2 │ checksum 4 │ folder id 16          = 32 bytes
//!   frame   length 4 │ checksum 4 │ number 8 │ record … record, zeroes to a multiple of 8
//!   record  kind 2 │ fields …
//! ```
//!
//! The records of one frame happen together or not at all. Frames are numbered without a gap, so a frame of an older
//! file or a lost one is noticed. The checksum (CRC32C) covers number and records. Integers are little-endian, texts
//! are UTF-8 behind a 16-bit length.

use super::record::ManifestRecord;

/// Bytes before the first frame.
pub const HEADER_BYTES: usize = 32;
/// Bytes of a frame before its body.
pub const FRAME_HEAD_BYTES: usize = 16;
/// Most bytes of records in a frame. A machine of 256 disks, each with the longest path, is one frame of half of it.
pub const MAX_BODY_BYTES: usize = 2 << 20;

const MAGIC: [u8; 8] = *b"LFMANFST";
const VERSION: u16 = 1;

/// Why bytes are not a manifest, or not one this program understands.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum FrameError {
    /// The bytes end inside the header or a frame.
    #[error("cut off")]
    Short,
    /// The file is something else.
    #[error("not a landfall manifest")]
    Magic,
    /// A version this program does not know.
    #[error("manifest version {0} is not known here")]
    Version(u16),
    /// Damaged bytes.
    #[error("checksum does not match")]
    Checksum,
    /// A frame that does not follow its predecessor.
    #[error("frame number {found} where {expected} is due")]
    Number {
        /// Number it carries.
        found: u64,
        /// Number that is due.
        expected: u64,
    },
    /// A field outside its limits.
    #[error("field `{0}` is out of its limits")]
    Field(&'static str),
    /// A record this version does not know.
    #[error("record kind {0} is not known here")]
    Kind(u16),
}

/// The header of a manifest of the data folder `folder`.
pub fn encode_header(folder: [u8; 16]) -> [u8; HEADER_BYTES] {
    let mut header = [0; HEADER_BYTES];
    header[..8].copy_from_slice(&MAGIC);
    header[8..10].copy_from_slice(&VERSION.to_le_bytes());
    header[16..].copy_from_slice(&folder);
    let checksum = crc32c::crc32c(&header);
    header[12..16].copy_from_slice(&checksum.to_le_bytes());
    header
}

/// Reads the header; gives the id of the data folder.
pub fn parse_header(bytes: &[u8]) -> Result<[u8; 16], FrameError> {
    let header: [u8; HEADER_BYTES] =
        bytes.get(..HEADER_BYTES).and_then(|b| b.try_into().ok()).ok_or(FrameError::Short)?;
    if header[..8] != MAGIC {
        return Err(FrameError::Magic);
    }
    let mut unsealed = header;
    unsealed[12..16].fill(0);
    if crc32c::crc32c(&unsealed).to_le_bytes() != header[12..16] {
        return Err(FrameError::Checksum);
    }
    let version = u16::from_le_bytes([header[8], header[9]]);
    if version != VERSION {
        return Err(FrameError::Version(version));
    }
    if header[10..12] != [0; 2] {
        return Err(FrameError::Field("reserved"));
    }
    let mut folder = [0; 16];
    folder.copy_from_slice(&header[16..]);
    Ok(folder)
}

/// Appends the frame of `records` to `into`.
pub fn encode_frame(number: u64, records: &[ManifestRecord], into: &mut Vec<u8>) {
    let start = into.len();
    into.extend_from_slice(&[0; 8]);
    into.extend_from_slice(&number.to_le_bytes());
    let mut writer = Writer { bytes: into };
    records.iter().for_each(|record| record.encode(&mut writer));
    let body = into.len() - start - FRAME_HEAD_BYTES;
    assert!((1..=MAX_BODY_BYTES).contains(&body), "a manifest frame of {body} bytes");
    let length = u32::try_from(body).expect("checked above");
    let checksum = crc32c::crc32c(&into[start + 8..]);
    into[start..start + 4].copy_from_slice(&length.to_le_bytes());
    into[start + 4..start + 8].copy_from_slice(&checksum.to_le_bytes());
    into.resize(start + frame_bytes(body), 0);
}

/// Reads the frame at the start of `bytes`; gives its records and the bytes it takes.
pub fn parse_frame(
    bytes: &[u8],
    expected: u64,
) -> Result<(Vec<ManifestRecord>, usize), FrameError> {
    let (found, mut reader, length) = checked_frame(bytes)?;
    if found != expected {
        return Err(FrameError::Number { found, expected });
    }
    let mut records = Vec::new();
    while !reader.bytes.is_empty() {
        records.push(ManifestRecord::decode(&mut reader)?);
    }
    Ok((records, length))
}

/// The number of the frame at the start of `bytes`, if there is a whole and undamaged one.
pub fn frame_number(bytes: &[u8]) -> Option<u64> {
    checked_frame(bytes).ok().map(|(number, _, _)| number)
}

fn checked_frame(bytes: &[u8]) -> Result<(u64, Reader<'_>, usize), FrameError> {
    let head = bytes.get(..FRAME_HEAD_BYTES).ok_or(FrameError::Short)?;
    let length = u32::from_le_bytes([head[0], head[1], head[2], head[3]]) as usize;
    if !(1..=MAX_BODY_BYTES).contains(&length) {
        return Err(FrameError::Field("length"));
    }
    let end = FRAME_HEAD_BYTES + length;
    let whole = bytes.get(..frame_bytes(length)).ok_or(FrameError::Short)?;
    if crc32c::crc32c(&whole[8..end]).to_le_bytes() != head[4..8] {
        return Err(FrameError::Checksum);
    }
    let mut reader = Reader { bytes: &whole[8..end] };
    let number = reader.u64()?;
    Ok((number, reader, frame_bytes(length)))
}

fn frame_bytes(body: usize) -> usize {
    (FRAME_HEAD_BYTES + body).next_multiple_of(8)
}

/// Appends fields to a frame.
pub(super) struct Writer<'a> {
    bytes: &'a mut Vec<u8>,
}

impl Writer<'_> {
    pub(super) fn u8(&mut self, value: u8) {
        self.bytes.push(value);
    }

    pub(super) fn u16(&mut self, value: u16) {
        self.bytes.extend_from_slice(&value.to_le_bytes());
    }

    pub(super) fn u32(&mut self, value: u32) {
        self.bytes.extend_from_slice(&value.to_le_bytes());
    }

    pub(super) fn u64(&mut self, value: u64) {
        self.bytes.extend_from_slice(&value.to_le_bytes());
    }

    /// Seven bits a byte, the lowest first; the last byte has its high bit clear.
    pub(super) fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.bytes.push(value.to_le_bytes()[0] | 0x80);
            value >>= 7;
        }
        self.bytes.push(value.to_le_bytes()[0]);
    }

    pub(super) fn array<const N: usize>(&mut self, value: [u8; N]) {
        self.bytes.extend_from_slice(&value);
    }

    pub(super) fn text(&mut self, value: &str) {
        self.u16(u16::try_from(value.len()).expect("texts are names and paths"));
        self.bytes.extend_from_slice(value.as_bytes());
    }
}

/// Takes fields from a frame.
pub(super) struct Reader<'a> {
    bytes: &'a [u8],
}

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8], FrameError> {
        let (taken, rest) = self.bytes.split_at_checked(length).ok_or(FrameError::Short)?;
        self.bytes = rest;
        Ok(taken)
    }

    fn fixed<const N: usize>(&mut self) -> Result<[u8; N], FrameError> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    /// A number in the one form that it is written in.
    pub(super) fn varint(&mut self) -> Result<u64, FrameError> {
        let mut value = 0u64;
        for shift in (0..u64::BITS).step_by(7) {
            let byte = self.u8()?;
            let bits = u64::from(byte & 0x7f);
            let too_large = bits << shift >> shift != bits;
            let not_shortest = byte == 0 && shift > 0;
            if too_large || not_shortest {
                return Err(FrameError::Field("number"));
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(FrameError::Field("number"))
    }

    pub(super) fn u8(&mut self) -> Result<u8, FrameError> {
        Ok(self.fixed::<1>()?[0])
    }

    pub(super) fn u16(&mut self) -> Result<u16, FrameError> {
        self.fixed().map(u16::from_le_bytes)
    }

    pub(super) fn u32(&mut self) -> Result<u32, FrameError> {
        self.fixed().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64, FrameError> {
        self.fixed().map(u64::from_le_bytes)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], FrameError> {
        self.fixed()
    }

    pub(super) fn text(&mut self) -> Result<&'a str, FrameError> {
        let length = usize::from(self.u16()?);
        std::str::from_utf8(self.take(length)?).map_err(|_| FrameError::Field("text"))
    }
}
