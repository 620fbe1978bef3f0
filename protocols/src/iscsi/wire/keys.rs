//! `key=value` text of login and text PDUs (sections 6.1 and 6.2).
//!
//! ```text
//!   InitiatorName=iqn.2005-03.org.example:host\0SessionType=Normal\0
//! ```
//!
//! What is sent in several PDUs (C bit) is put together before it is parsed, up to [`MAX_TEXT`].

use std::fmt;

/// Longest name of a key in bytes (section 6.1: standard-label).
pub const MAX_KEY: usize = 63;

/// Longest value of a key in bytes (section 6.1: text-value), but for binary ones, of which the
/// longest is a CHAP challenge.
pub const MAX_VALUE: usize = 8192;

/// Longest text that is put together, in bytes.
pub const MAX_TEXT: usize = 16 << 10;

/// Most pairs in one text. There are some forty keys.
pub const MAX_PAIRS: usize = 96;

/// Why a text has no meaning.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum TextError {
    /// A pair without `=`, or a key that is no label.
    #[error("a pair of the text has no key")]
    NoKey,
    /// Other than UTF-8, or with control characters.
    #[error("a pair of the text is not text")]
    NotText,
    /// The last pair does not end.
    #[error("the text does not end with a zero byte")]
    Unterminated,
    /// A key or value is too long.
    #[error("a key or value of the text is too long")]
    TooLong,
    /// More than [`MAX_PAIRS`].
    #[error("the text has more than {MAX_PAIRS} pairs")]
    TooMany,
}

/// One pair, as it came.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Pair<'a> {
    /// The key; letters are as they came, and matter.
    pub key: &'a str,
    /// Its value.
    pub value: &'a str,
}

impl fmt::Debug for Pair<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Values of CHAP are nobody's business.
        let value = if self.key.starts_with("CHAP") { "…" } else { self.value };
        write!(f, "{}={value}", self.key)
    }
}

/// The pairs of a text, in order.
pub fn parse(text: &[u8]) -> Result<Vec<Pair<'_>>, TextError> {
    let Some((last, _)) = text.split_last() else { return Ok(Vec::new()) };
    if *last != 0 {
        return Err(TextError::Unterminated);
    }
    let mut pairs = Vec::new();
    // Some initiators fill the segment up with zeroes and count them: an empty pair is none.
    for pair in text.split(|byte| *byte == 0).filter(|pair| !pair.is_empty()) {
        if pairs.len() == MAX_PAIRS {
            return Err(TextError::TooMany);
        }
        pairs.push(parse_pair(pair)?);
    }
    Ok(pairs)
}

fn parse_pair(pair: &[u8]) -> Result<Pair<'_>, TextError> {
    let pair = str::from_utf8(pair).map_err(|_| TextError::NotText)?;
    let (key, value) = pair.split_once('=').ok_or(TextError::NoKey)?;
    if key.len() > MAX_KEY || value.len() > MAX_VALUE {
        return Err(TextError::TooLong);
    }
    let label = |byte: u8| byte.is_ascii_alphanumeric() || b".-+@_#".contains(&byte);
    if !key.bytes().next().is_some_and(|first| first.is_ascii_alphabetic())
        || !key.bytes().all(label)
    {
        return Err(TextError::NoKey);
    }
    if value.chars().any(char::is_control) {
        return Err(TextError::NotText);
    }
    Ok(Pair { key, value })
}

/// Appends a pair to a text.
pub fn append(text: &mut Vec<u8>, key: &str, value: &str) {
    text.extend_from_slice(key.as_bytes());
    text.push(b'=');
    text.extend_from_slice(value.as_bytes());
    text.push(0);
}

/// A number of a value: decimal, or hexadecimal behind `0x` (section 6.1: numerical-value).
pub fn number(value: &str) -> Option<u64> {
    let digits = value.strip_prefix("0x").or_else(|| value.strip_prefix("0X"));
    match digits {
        Some(digits) => all(digits, |byte| byte.is_ascii_hexdigit())
            .then(|| u64::from_str_radix(digits, 16).ok())
            .flatten(),
        None => all(value, |byte| byte.is_ascii_digit()).then(|| value.parse().ok()).flatten(),
    }
}

fn all(digits: &str, is: impl Fn(u8) -> bool) -> bool {
    !digits.is_empty() && digits.bytes().all(is)
}

/// Bytes of a value: hexadecimal behind `0x` or base64 behind `0b`, at most `most` (section 6.1:
/// binary-value).
pub fn binary(value: &str, most: usize) -> Option<Vec<u8>> {
    let (form, digits) = value.split_at_checked(2)?;
    let bytes = match form {
        "0x" | "0X" if digits.len() <= 2 * most => hexadecimal(digits)?,
        "0b" | "0B" if digits.len() <= most.div_ceil(3) * 4 => base64(digits)?,
        _ => return None,
    };
    (!bytes.is_empty() && bytes.len() <= most).then_some(bytes)
}

fn hexadecimal(digits: &str) -> Option<Vec<u8>> {
    let values: Option<Vec<u8>> =
        digits.chars().map(|digit| u8::try_from(digit.to_digit(16)?).ok()).collect();
    let values = values?;
    // An odd digit in front is a byte of its own.
    let (first, rest) = values.split_at(values.len() % 2);
    let (pairs, _) = rest.as_chunks::<2>();
    Some(first.iter().copied().chain(pairs.iter().map(|[high, low]| high << 4 | low)).collect())
}

const BASE64: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

fn base64(digits: &str) -> Option<Vec<u8>> {
    let (groups, rest) = digits.as_bytes().as_chunks::<4>();
    if !rest.is_empty() {
        return None;
    }
    let mut bytes = Vec::with_capacity(groups.len() * 3);
    for (index, group) in groups.iter().enumerate() {
        let filled = group.iter().rev().take_while(|digit| **digit == b'=').count();
        if filled > 2 || (filled > 0 && index + 1 != groups.len()) {
            return None;
        }
        let mut bits = 0u32;
        for digit in &group[..4 - filled] {
            let value = BASE64.iter().position(|known| known == digit)?;
            bits = bits << 6 | u32::try_from(value).ok()?;
        }
        let [_, three @ ..] = (bits << (6 * filled)).to_be_bytes();
        bytes.extend_from_slice(&three[..3 - filled]);
    }
    Some(bytes)
}

/// Bytes as a value: hexadecimal behind `0x`, which every initiator reads.
pub fn to_hexadecimal(bytes: &[u8]) -> String {
    use fmt::Write;
    let mut value = String::with_capacity(2 + 2 * bytes.len());
    value.push_str("0x");
    for byte in bytes {
        write!(value, "{byte:02x}").expect("a string takes everything");
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn pairs_are_found_and_padding_is_none() {
        let pairs = parse(b"A=1\0X-com.example=a=b\0\0\0").expect("text");
        let found: Vec<_> = pairs.iter().map(|pair| (pair.key, pair.value)).collect();
        assert_eq!(found, [("A", "1"), ("X-com.example", "a=b")]);
        assert_eq!(parse(b""), Ok(Vec::new()));
    }

    #[test]
    fn what_is_no_text_is_refused() {
        for (text, error) in [
            (&b"A=1"[..], TextError::Unterminated),
            (b"A\0", TextError::NoKey),
            (b"=1\0", TextError::NoKey),
            (b"1A=1\0", TextError::NoKey),
            (b"A B=1\0", TextError::NoKey),
            (b"A=\xff\0", TextError::NotText),
            (b"A=a\nb\0", TextError::NotText),
        ] {
            assert_eq!(parse(text), Err(error), "{text:?}");
        }
        let long = format!("{}=1\0", "k".repeat(MAX_KEY + 1));
        assert_eq!(parse(long.as_bytes()), Err(TextError::TooLong));
        let many = "A=1\0".repeat(MAX_PAIRS + 1);
        assert_eq!(parse(many.as_bytes()), Err(TextError::TooMany));
        assert_eq!(parse(&many.as_bytes()[4..]).map(|pairs| pairs.len()), Ok(MAX_PAIRS));
    }

    #[test]
    fn numbers_are_decimal_or_hexadecimal() {
        assert_eq!(number("262144"), Some(262_144));
        assert_eq!(number("0x40000"), Some(262_144));
        for none in ["", "-1", "+1", "0x", "1k", "0x+1", "99999999999999999999999"] {
            assert_eq!(number(none), None, "{none}");
        }
    }

    #[test]
    fn bytes_are_hexadecimal_or_base64() {
        assert_eq!(binary("0x0aFf", 9), Some(vec![0x0a, 0xff]));
        assert_eq!(binary("0xaff", 9), Some(vec![0x0a, 0xff]));
        assert_eq!(binary("0bTWE=", 9).as_deref(), Some(&b"Ma"[..]));
        assert_eq!(binary("0bTQ==", 9).as_deref(), Some(&b"M"[..]));
        assert_eq!(binary("0bTWFu", 9).as_deref(), Some(&b"Man"[..]));
        for none in ["", "0", "0x", "0b", "12", "0xzz", "0bTQ=", "0bT===", "0bTQ==TWFu", "0bT Fu"] {
            assert_eq!(binary(none, 9), None, "{none}");
        }
        assert_eq!(binary("0x00112233", 3), None, "longer than is allowed");
    }

    #[test]
    fn secrets_are_not_shown() {
        let pairs = parse(b"CHAP_R=0xsecret\0").expect("text");
        assert_eq!(format!("{pairs:?}"), "[CHAP_R=…]");
    }

    proptest! {
        #[test]
        fn what_is_written_is_what_is_read(
            pairs in prop::collection::vec(("[A-Za-z][A-Za-z0-9.+@_#-]{0,62}", "[ -~]{0,99}"), 0..20),
        ) {
            let mut text = Vec::new();
            for (key, value) in &pairs {
                append(&mut text, key, value);
            }
            let read = parse(&text).expect("it was written here");
            let read: Vec<_> = read.iter().map(|pair| (pair.key.to_owned(), pair.value.to_owned())).collect();
            prop_assert_eq!(read, pairs);
        }

        #[test]
        fn bytes_survive_hexadecimal(bytes in prop::collection::vec(any::<u8>(), 1..99)) {
            prop_assert_eq!(binary(&to_hexadecimal(&bytes), 99), Some(bytes));
        }
    }
}
