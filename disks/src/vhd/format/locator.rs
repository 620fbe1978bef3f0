//! Names of parents, as different systems write them ("Parent Locator Entry", "Platform Code").

use std::borrow::Cow;

/// How a name of the parent is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Platform {
    /// No name.
    None,
    /// `W2ru`: relative to the child, UTF-16 with the low byte first.
    WindowsRelative,
    /// `W2ku`: absolute, UTF-16 with the low byte first.
    WindowsAbsolute,
    /// `MacX`: a file URL in UTF-8.
    MacUrl,
    /// `Wi2r`: relative, in the characters of one country; no longer written.
    OldRelative,
    /// `Wi2k`: absolute, in the characters of one country; no longer written.
    OldAbsolute,
    /// Anything else, a Mac OS alias among it, which is no name.
    Unknown([u8; 4]),
}

impl Platform {
    /// Those that are names, the best first: a relative name is still true where a machine was moved as a whole.
    pub const NAMES: [Self; 5] = [
        Self::WindowsRelative,
        Self::WindowsAbsolute,
        Self::MacUrl,
        Self::OldRelative,
        Self::OldAbsolute,
    ];

    pub(super) fn of(code: [u8; 4]) -> Self {
        match &code {
            [0, 0, 0, 0] => Self::None,
            b"W2ru" => Self::WindowsRelative,
            b"W2ku" => Self::WindowsAbsolute,
            b"MacX" => Self::MacUrl,
            b"Wi2r" => Self::OldRelative,
            b"Wi2k" => Self::OldAbsolute,
            _ => Self::Unknown(code),
        }
    }

    pub(super) fn code(self) -> [u8; 4] {
        match self {
            Self::None => [0; 4],
            Self::WindowsRelative => *b"W2ru",
            Self::WindowsAbsolute => *b"W2ku",
            Self::MacUrl => *b"MacX",
            Self::OldRelative => *b"Wi2r",
            Self::OldAbsolute => *b"Wi2k",
            Self::Unknown(code) => code,
        }
    }

    /// The name that `bytes` are; `None` if they are none.
    pub fn decode(self, bytes: &[u8]) -> Option<String> {
        let text = match self {
            Self::WindowsRelative | Self::WindowsAbsolute => utf16(bytes, u16::from_le_bytes)?,
            Self::MacUrl => decode_url(until_zero(bytes))?,
            // Of those characters only ASCII is the same everywhere.
            Self::OldRelative | Self::OldAbsolute => {
                let bytes = until_zero(bytes);
                bytes.is_ascii().then(|| String::from_utf8_lossy(bytes).into_owned())?
            }
            Self::None | Self::Unknown(_) => return None,
        };
        (!text.is_empty()).then_some(text)
    }

    /// The name in a dynamic header, which has the high bytes first.
    pub(super) fn decode_big_endian(bytes: &[u8]) -> Option<String> {
        utf16(bytes, u16::from_be_bytes).filter(|text| !text.is_empty())
    }
}

/// Text up to a zero or the end. Unpaired surrogates, which Windows allows, are in no name that could be opened here.
fn utf16(bytes: &[u8], unit: impl Fn([u8; 2]) -> u16) -> Option<String> {
    let (pairs, _) = bytes.as_chunks::<2>();
    let units = pairs.iter().map(|pair| unit(*pair)).take_while(|unit| *unit != 0);
    char::decode_utf16(units).collect::<Result<String, _>>().ok()
}

fn until_zero(bytes: &[u8]) -> &[u8] {
    bytes.split(|byte| *byte == 0).next().unwrap_or_default()
}

/// The path of a file URL (RFC 2396): escapes are bytes of UTF-8.
fn decode_url(bytes: &[u8]) -> Option<String> {
    let path = bytes.strip_prefix(b"file://localhost").or(bytes.strip_prefix(b"file://"))?;
    let mut plain = Vec::with_capacity(path.len());
    let mut rest = path;
    while let [first, after @ ..] = rest {
        rest = after;
        if *first != b'%' {
            plain.push(*first);
            continue;
        }
        let (digits, after) = rest.split_at_checked(2)?;
        let digits: Cow<'_, str> = String::from_utf8_lossy(digits);
        plain.push(u8::from_str_radix(&digits, 16).ok()?);
        rest = after;
    }
    String::from_utf8(plain).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn little_endian(text: &str) -> Vec<u8> {
        text.encode_utf16().flat_map(u16::to_le_bytes).collect()
    }

    #[test]
    fn names_are_read_as_their_systems_wrote_them() {
        let text = |platform: Platform, bytes: &[u8]| platform.decode(bytes);
        let (relative, absolute) = (".\\Basis ä.vhd", "C:\\vms\\basis.vhd");
        for (platform, bytes, name) in [
            (Platform::WindowsRelative, little_endian(relative), Some(relative)),
            (Platform::WindowsAbsolute, little_endian(absolute), Some(absolute)),
            (Platform::WindowsAbsolute, little_endian("a\0b"), Some("a")),
            (Platform::WindowsAbsolute, vec![0x00, 0xd8], None),
            (Platform::WindowsAbsolute, vec![], None),
            (Platform::MacUrl, b"file://localhost/a%20b.vhd\0x".to_vec(), Some("/a b.vhd")),
            (Platform::MacUrl, b"file:///%c3%a4.vhd".to_vec(), Some("/ä.vhd")),
            (Platform::MacUrl, b"file:///%c3".to_vec(), None),
            (Platform::MacUrl, b"file:///%4".to_vec(), None),
            (Platform::MacUrl, b"http://a/b.vhd".to_vec(), None),
            (Platform::OldAbsolute, b"C:\\a.vhd\0".to_vec(), Some("C:\\a.vhd")),
            (Platform::OldRelative, b"\xe4.vhd".to_vec(), None),
            (Platform::Unknown(*b"Mac "), b"alias".to_vec(), None),
        ] {
            assert_eq!(text(platform, &bytes).as_deref(), name, "{platform:?} {bytes:?}");
        }
    }

    #[test]
    fn the_header_has_the_high_byte_first() {
        let name: Vec<u8> = "b.vhd\0".encode_utf16().flat_map(u16::to_be_bytes).collect();
        assert_eq!(Platform::decode_big_endian(&name).as_deref(), Some("b.vhd"));
        assert_eq!(Platform::decode_big_endian(&[0; 512]), None);
    }

    proptest! {
        #[test]
        fn codes_are_kept(code: [u8; 4]) {
            prop_assert_eq!(Platform::of(code).code(), code);
        }

        #[test]
        fn any_bytes_are_judged(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            for platform in Platform::NAMES {
                let _ = platform.decode(&bytes);
            }
            let url = [&b"file://"[..], &bytes].concat();
            let _ = Platform::MacUrl.decode(&url);
        }
    }
}
