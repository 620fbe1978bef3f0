//! Digests: CRC32C over a header or a data segment (section 13.1), computed by the processor's own
//! instruction where it has one.
//!
//! The padding of a segment counts, the digest itself does not. It is sent least significant byte
//! first: RFC 7143 has the polynomial reflected, and its examples (appendix A.4) are the test here.

/// Length of a digest in bytes.
pub const DIGEST: usize = 4;

/// What a digest is computed over, piece by piece.
#[derive(Clone, Copy, Default)]
pub struct Digest(u32);

impl Digest {
    /// That of one piece.
    pub fn of(bytes: &[u8]) -> Self {
        Self::default().with(bytes)
    }

    /// Goes on with the next piece.
    #[must_use]
    pub fn with(self, bytes: &[u8]) -> Self {
        Self(crc32c::crc32c_append(self.0, bytes))
    }

    /// As on the wire.
    pub fn to_bytes(self) -> [u8; DIGEST] {
        self.0.to_le_bytes()
    }

    /// Whether `found`, which came from the wire, is this one.
    pub fn is(self, found: &[u8]) -> bool {
        found == self.to_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_examples_of_the_standard() {
        let rising: Vec<u8> = (0..32).collect();
        let falling: Vec<u8> = (0..32).rev().collect();
        for (bytes, digest) in [
            (vec![0; 32], [0xaa, 0x36, 0x91, 0x8a]),
            (vec![0xff; 32], [0x43, 0xab, 0xa8, 0x62]),
            (rising, [0x4e, 0x79, 0xdd, 0x46]),
            (falling, [0x5c, 0xdb, 0x3f, 0x11]),
        ] {
            assert_eq!(Digest::of(&bytes).to_bytes(), digest);
            assert_eq!(Digest::of(&bytes[..9]).with(&bytes[9..]).to_bytes(), digest);
        }
        assert!(!Digest::of(b"data").is(&Digest::of(b"date").to_bytes()));
    }
}
