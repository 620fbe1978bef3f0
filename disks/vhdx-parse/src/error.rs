//! The one error of this package: a structure of the file breaks a rule of the specification.

use std::borrow::Cow;
use std::fmt;

/// A structure that cannot be what the specification describes: which one, where, which field, what
/// it holds, and what
/// it should hold.
///
/// ```
/// use vhdx_parse::{Header, HEADER_BYTES};
///
/// let problem = Header::parse(&[0; HEADER_BYTES], 65_536).unwrap_err();
/// assert_eq!(
///     problem.to_string(),
///     "VHDX header at 65536: Signature is 00000000; expected 68656164 (\"head\")"
/// );
/// ```
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{structure} at {offset}: {field} is {value}; expected {expected}")]
pub struct Malformed {
    /// Name of the structure, as in "VHDX header".
    pub structure: &'static str,
    /// Where the structure lies in the file, in bytes.
    pub offset: u64,
    /// The field, as the specification names it.
    pub field: &'static str,
    /// What it holds.
    pub value: String,
    /// What it should hold.
    pub expected: Cow<'static, str>,
}

/// A structure at its place in the file, to make errors from.
#[derive(Clone, Copy)]
pub(crate) struct At {
    pub(crate) structure: &'static str,
    pub(crate) offset: u64,
}

impl At {
    pub(crate) const fn new(structure: &'static str, offset: u64) -> Self {
        Self { structure, offset }
    }

    pub(crate) fn malformed(
        self,
        field: &'static str,
        value: impl fmt::Display,
        expected: impl Into<Cow<'static, str>>,
    ) -> Malformed {
        Malformed {
            structure: self.structure,
            offset: self.offset,
            field,
            value: value.to_string(),
            expected: expected.into(),
        }
    }

    /// `Ok` if `holds`, else the error.
    pub(crate) fn expect(
        self,
        holds: bool,
        field: &'static str,
        value: impl fmt::Display,
        expected: impl Into<Cow<'static, str>>,
    ) -> Result<(), Malformed> {
        if holds { Ok(()) } else { Err(self.malformed(field, value, expected)) }
    }

    /// The first `length` bytes of a structure that must have as many.
    pub(crate) fn take(self, bytes: &[u8], length: usize) -> Result<&[u8], Malformed> {
        bytes.get(..length).ok_or_else(|| {
            self.malformed("length", bytes.len(), format!("at least {length} bytes"))
        })
    }

    /// That the first bytes are `signature`.
    pub(crate) fn signature(self, bytes: &[u8], signature: &[u8]) -> Result<(), Malformed> {
        let found = self.take(bytes, signature.len())?;
        if found == signature {
            return Ok(());
        }
        let expected = format!("{} ({:?})", hex(signature), String::from_utf8_lossy(signature));
        Err(self.malformed("Signature", hex(found), expected))
    }

    /// That the CRC-32C stored at byte 4 is that of all bytes with those four as zeroes.
    pub(crate) fn checksum(self, bytes: &[u8]) -> Result<(), Malformed> {
        let stored = stored_checksum(bytes);
        let computed = checksum(bytes);
        self.expect(
            stored == computed,
            "Checksum",
            format_args!("{stored:#010x}"),
            format!("{computed:#010x}"),
        )
    }
}

fn hex(bytes: &[u8]) -> String {
    use fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn stored_checksum(bytes: &[u8]) -> u32 {
    u32::from_le_bytes(bytes[4..8].try_into().expect("four bytes"))
}

/// CRC-32C of a structure whose checksum field, bytes 4 to 8, counts as zero.
pub(crate) fn checksum(bytes: &[u8]) -> u32 {
    let head = crc32c::crc32c(&bytes[..4]);
    crc32c::crc32c_append(crc32c::crc32c_append(head, &[0; 4]), &bytes[8..])
}

/// Stores the checksum of a structure at its byte 4.
pub(crate) fn seal(bytes: &mut [u8]) {
    let sum = checksum(bytes);
    bytes[4..8].copy_from_slice(&sum.to_le_bytes());
}
