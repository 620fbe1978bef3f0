//! The first bytes of the file (section 2.2.1): what it is, and who made it.

use crate::error::{At, Malformed};

/// Where the file type identifier lies.
pub const FILE_IDENTIFIER_OFFSET: u64 = 0;

/// Bytes of the identifier that mean something: the signature and the creator.
pub const FILE_IDENTIFIER_BYTES: usize = 8 + CREATOR_BYTES;

/// The first eight bytes of every VHDX file.
pub const FILE_SIGNATURE: &[u8; 8] = b"vhdxfile";

const CREATOR_BYTES: usize = 512;

/// File type identifier. The creator is for diagnosis only: nothing may depend on it.
///
/// ```
/// use vhdx_parse::FileIdentifier;
///
/// let identifier = FileIdentifier { creator: "example 1.0".to_owned() };
/// assert_eq!(FileIdentifier::parse(&identifier.encode()).unwrap(), identifier);
/// ```
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FileIdentifier {
    /// Who made the file. Cut after 256 UTF-16 units when encoded; what is no UTF-16 is replaced
    /// when parsed.
    pub creator: String,
}

impl FileIdentifier {
    /// Reads the first [`FILE_IDENTIFIER_BYTES`] of a file.
    pub fn parse(bytes: &[u8]) -> Result<Self, Malformed> {
        let at = At::new("VHDX file type identifier", FILE_IDENTIFIER_OFFSET);
        at.signature(bytes, FILE_SIGNATURE)?;
        let creator = &at.take(bytes, FILE_IDENTIFIER_BYTES)?[FILE_SIGNATURE.len()..];
        let units: Vec<u16> = utf16_units(creator).take_while(|unit| *unit != 0).collect();
        Ok(Self { creator: String::from_utf16_lossy(&units) })
    }

    /// The bytes to store at offset 0.
    pub fn encode(&self) -> [u8; FILE_IDENTIFIER_BYTES] {
        let mut bytes = [0; FILE_IDENTIFIER_BYTES];
        bytes[..8].copy_from_slice(FILE_SIGNATURE);
        for (place, unit) in bytes[8..].chunks_exact_mut(2).zip(self.creator.encode_utf16()) {
            place.copy_from_slice(&unit.to_le_bytes());
        }
        bytes
    }
}

/// UTF-16 units of little-endian bytes; an odd last byte is ignored.
pub(crate) fn utf16_units(bytes: &[u8]) -> impl Iterator<Item = u16> {
    bytes.chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn round_trip(creator in "[^\0]{0,100}") {
            let identifier = FileIdentifier { creator };
            prop_assert_eq!(FileIdentifier::parse(&identifier.encode()), Ok(identifier));
        }

        #[test]
        fn any_bytes(bytes: Vec<u8>) {
            let _ = FileIdentifier::parse(&bytes);
            let _ = FileIdentifier::parse(&[FILE_SIGNATURE.to_vec(), bytes].concat());
        }
    }

    #[test]
    fn a_long_creator_is_cut() {
        let identifier = FileIdentifier { creator: "x".repeat(300) };
        let found = FileIdentifier::parse(&identifier.encode()).expect("a signature");
        assert_eq!(found.creator, "x".repeat(256));
    }
}
