//! Numbers that tell disks and contents apart.

use std::fmt;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::str::FromStr;

/// A number that was most probably never used before. It identifies, and is no secret.
pub(super) fn fresh_number() -> u64 {
    // Keyed anew from the system's randomness, as hash maps are.
    RandomState::new().build_hasher().finish()
}

/// The identity of a disk that guests see (`ddb.uuid`, with `disk.EnableUUID`): the page 0x83 identifier of a VMware disk.
///
/// ```text
///   60 00 C2 9x xx xx xx xx-xx xx xx xx xx xx xx xx      NAA 6, VMware's company id 00 0C 29, then what tells disks apart
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct DiskUuid([u8; 16]);

impl DiskUuid {
    /// The identity that follows from `seed`: the same for the same seed. The first 28 bits are VMware's.
    pub fn from_seed(seed: [u8; 16]) -> Self {
        let mut bytes = seed;
        bytes[..3].copy_from_slice(&[0x60, 0x00, 0xc2]);
        bytes[3] = 0x90 | bytes[3] & 0x0f;
        Self(bytes)
    }

    /// A new identity.
    pub fn random() -> Self {
        let mut seed = [0; 16];
        seed[..8].copy_from_slice(&fresh_number().to_le_bytes());
        seed[8..].copy_from_slice(&fresh_number().to_le_bytes());
        Self::from_seed(seed)
    }

    /// The bytes, in the order in which they are written.
    pub fn bytes(self) -> [u8; 16] {
        self.0
    }
}

impl fmt::Display for DiskUuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, byte) in self.0.iter().enumerate() {
            let before = match place {
                0 => "",
                8 => "-",
                _ => " ",
            };
            write!(f, "{before}{byte:02x}")?;
        }
        Ok(())
    }
}

/// A text that is no identity of a disk.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0:?} is no uuid of a VMware disk: 16 bytes as \"60 00 c2 9x xx xx xx xx-xx ...\"")]
pub struct UnknownUuid(pub String);

impl FromStr for DiskUuid {
    type Err = UnknownUuid;

    fn from_str(text: &str) -> Result<Self, UnknownUuid> {
        let digits: String = text.chars().filter(|one| !matches!(one, ' ' | '-')).collect();
        let number = u128::from_str_radix(&digits, 16);
        match number {
            Ok(number) if digits.len() == 32 && !digits.starts_with('+') => {
                Ok(Self(number.to_be_bytes()))
            }
            _ => Err(UnknownUuid(text.to_owned())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uuid_follows_from_its_seed_and_is_read_as_it_is_written() {
        let uuid = DiskUuid::from_seed([0xab; 16]);
        assert_eq!(uuid.to_string(), "60 00 c2 9b ab ab ab ab-ab ab ab ab ab ab ab ab");
        assert_eq!(uuid.to_string().parse(), Ok(uuid));
        assert_ne!(DiskUuid::random(), DiskUuid::random());
        for wrong in ["", "60 00", "+0 00 c2 9b ab ab ab ab-ab ab ab ab ab ab ab ab", "x"] {
            wrong.parse::<DiskUuid>().expect_err(wrong);
        }
    }
}
