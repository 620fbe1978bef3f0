//! Identifiers as Microsoft stores and writes them.

use std::fmt;
use std::str::FromStr;

/// A GUID in its stored form: the first three groups little-endian, the rest in order.
///
/// ```
/// use vhdx_parse::Guid;
///
/// let guid: Guid = "{2dc27766-f623-4200-9d64-115e9bfd4a08}".parse().unwrap();
/// assert_eq!(guid.stored()[..4], [0x66, 0x77, 0xc2, 0x2d]);
/// assert_eq!(guid.to_string(), "2dc27766-f623-4200-9d64-115e9bfd4a08");
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Guid([u8; 16]);

/// Where in the stored bytes each byte of the text lies.
const TEXT_ORDER: [usize; 16] = [3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15];

impl Guid {
    /// All zeroes: "none" wherever the format has an optional GUID.
    pub const ZERO: Self = Self([0; 16]);

    /// From the bytes as stored.
    pub const fn from_stored(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// A random GUID (version 4) out of 16 random bytes.
    ///
    /// Never [`Guid::ZERO`], whatever the bytes.
    pub const fn from_random(mut bytes: [u8; 16]) -> Self {
        // The version is in the most significant digit of the third group, the variant in the top
        // bits of the fourth.
        bytes[7] = bytes[7] & 0x0f | 0x40;
        bytes[8] = bytes[8] & 0x3f | 0x80;
        Self(bytes)
    }

    /// From the groups of its text form.
    pub const fn from_groups(one: u32, two: u16, three: u16, rest: [u8; 8]) -> Self {
        let (a, b, c) = (one.to_le_bytes(), two.to_le_bytes(), three.to_le_bytes());
        Self([
            a[0], a[1], a[2], a[3], b[0], b[1], c[0], c[1], rest[0], rest[1], rest[2], rest[3],
            rest[4], rest[5], rest[6], rest[7],
        ])
    }

    /// The bytes as stored.
    pub const fn stored(&self) -> &[u8; 16] {
        &self.0
    }

    /// Whether it is [`Guid::ZERO`].
    pub fn is_zero(&self) -> bool {
        *self == Self::ZERO
    }
}

impl fmt::Display for Guid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, stored) in TEXT_ORDER.into_iter().enumerate() {
            if [4, 6, 8, 10].contains(&place) {
                f.write_str("-")?;
            }
            write!(f, "{:02x}", self.0[stored])?;
        }
        Ok(())
    }
}

impl fmt::Debug for Guid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{{{self}}}")
    }
}

/// The text is no GUID.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "{text:?} is no GUID: 32 hexadecimal digits in groups of 8-4-4-4-12, with or without braces"
)]
pub struct GuidError {
    text: String,
}

impl FromStr for Guid {
    type Err = GuidError;

    fn from_str(text: &str) -> Result<Self, GuidError> {
        parse(text).ok_or_else(|| GuidError { text: text.chars().take(64).collect() })
    }
}

fn parse(text: &str) -> Option<Guid> {
    let inner = match text.strip_prefix('{') {
        Some(rest) => rest.strip_suffix('}')?,
        None => text,
    };
    let groups: Vec<&str> = inner.split('-').collect();
    if groups.iter().map(|group| group.len()).ne([8, 4, 4, 4, 12]) {
        return None;
    }
    let digits = groups.concat();
    if !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    let mut bytes = [0; 16];
    for (place, stored) in TEXT_ORDER.into_iter().enumerate() {
        bytes[stored] = u8::from_str_radix(&digits[place * 2..place * 2 + 2], 16).ok()?;
    }
    Some(Guid(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn text_and_back(bytes: [u8; 16]) {
            let guid = Guid::from_stored(bytes);
            prop_assert_eq!(guid.to_string().parse(), Ok(guid));
            prop_assert_eq!(format!("{guid:?}").to_uppercase().parse(), Ok(guid));
        }

        #[test]
        fn any_text_is_refused_or_read(text in "\\PC{0,50}") {
            let _ = text.parse::<Guid>();
        }
    }

    #[test]
    fn what_is_no_guid() {
        for text in [
            "",
            "{2dc27766-f623-4200-9d64-115e9bfd4a08",
            "2dc27766-f623-4200-9d64-115e9bfd4a08}",
            "2dc27766f62342009d64115e9bfd4a08",
            "2dc27766-f623-4200-9d64-115e9bfd4a0g",
            "2dc27766-f623-4200-9d64-115e9bfd4aö",
        ] {
            assert!(text.parse::<Guid>().is_err(), "{text}");
        }
    }

    #[test]
    fn random_ones_say_so() {
        assert_eq!(Guid::from_random([0; 16]).to_string(), "00000000-0000-4000-8000-000000000000");
        assert!(!Guid::from_random([0; 16]).is_zero());
    }
}
