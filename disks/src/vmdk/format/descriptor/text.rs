//! The encodings of descriptors.
//!
//! A descriptor names its own encoding. Hosts in the west write UTF-8 or windows-1252; names of files are all that can go beyond
//! ASCII. Anything else is read as long as it keeps to ASCII.

use super::super::malformed;
use super::DESCRIPTOR;
use crate::image::Malformed;

/// How the text is stored.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Encoding {
    /// The default.
    Utf8,
    /// One byte a character.
    Windows1252,
    /// Any other, of which only the part that is ASCII is read.
    Ascii(String),
}

/// The characters of windows-1252 from 0x80 to 0x9f; the undefined ones are controls, as on the web.
const HIGH: [char; 32] = [
    '\u{20ac}', '\u{81}', '\u{201a}', '\u{192}', '\u{201e}', '\u{2026}', '\u{2020}', '\u{2021}',
    '\u{2c6}', '\u{2030}', '\u{160}', '\u{2039}', '\u{152}', '\u{8d}', '\u{17d}', '\u{8f}',
    '\u{90}', '\u{2018}', '\u{2019}', '\u{201c}', '\u{201d}', '\u{2022}', '\u{2013}', '\u{2014}',
    '\u{2dc}', '\u{2122}', '\u{161}', '\u{203a}', '\u{153}', '\u{9d}', '\u{17e}', '\u{178}',
];

impl Encoding {
    /// The encoding that a descriptor names.
    pub(super) fn named_in(bytes: &[u8]) -> Self {
        let lines = bytes.split(|byte| *byte == b'\n');
        let values = lines.filter_map(|line| {
            let text = std::str::from_utf8(line).ok()?;
            let (key, value) = text.split_once('=')?;
            key.trim().eq_ignore_ascii_case("encoding").then(|| value.trim().trim_matches('"'))
        });
        match values.map(str::to_ascii_lowercase).next().as_deref() {
            None | Some("utf-8" | "utf8") => Self::Utf8,
            Some("windows-1252" | "cp1252" | "iso-8859-1") => Self::Windows1252,
            Some(other) => Self::Ascii(other.to_owned()),
        }
    }

    /// The text that `bytes`, which stand `offset` bytes into their file, mean.
    pub(super) fn decode(&self, bytes: &[u8], offset: u64) -> Result<String, Malformed> {
        let fail = |at: usize, expected: String| {
            let offset = offset + at as u64;
            let value = format!("{:#04x}", bytes.get(at).copied().unwrap_or(0));
            Err(malformed(DESCRIPTOR, offset, "character", value, expected))
        };
        match self {
            Self::Windows1252 => Ok(bytes
                .iter()
                .map(|byte| match byte {
                    0x80..=0x9f => HIGH[usize::from(byte - 0x80)],
                    byte => char::from(*byte),
                })
                .collect()),
            Self::Utf8 => match std::str::from_utf8(bytes) {
                Ok(text) => Ok(text.to_owned()),
                Err(error) => fail(error.valid_up_to(), "UTF-8".to_owned()),
            },
            Self::Ascii(name) => match bytes.iter().position(|byte| !byte.is_ascii()) {
                None => Ok(bytes.iter().copied().map(char::from).collect()),
                Some(at) => fail(at, format!("ASCII, as the encoding {name} is not known")),
            },
        }
    }

    /// The bytes of `text`.
    pub(super) fn encode(&self, text: &str) -> Result<Vec<u8>, Malformed> {
        let one = |character: char| match (self, u8::try_from(character)) {
            (_, Ok(byte)) if byte.is_ascii() => Some(byte),
            (Self::Windows1252, Ok(byte @ 0xa0..)) => Some(byte),
            (Self::Windows1252, _) => {
                let place = HIGH.iter().position(|high| *high == character)?;
                u8::try_from(place).ok().map(|place| 0x80 + place)
            }
            _ => None,
        };
        if *self == Self::Utf8 {
            return Ok(text.as_bytes().to_vec());
        }
        let encoded = text.chars().map(|character| {
            one(character).ok_or_else(|| {
                malformed(DESCRIPTOR, 0, "character", character, "one of the encoding it names")
            })
        });
        encoded.collect()
    }
}
