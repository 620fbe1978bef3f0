//! Sizes and ages as people write and read them.
//!
//! ```text
//!   40GiB  512 MiB  1.5TiB  4096         powers of two; K M G T alone mean them too
//!   40GB   500MB                         powers of ten
//! ```
//!
//! What is read is exact or refused: `1.5KiB` is 1536 bytes, `0.3B` is an error. What is printed for people is rounded;
//! programs get bytes and seconds.

use serde::{Deserialize, Deserializer};
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// A number of bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub(crate) struct ByteSize(u64);

/// Why a text is not a size.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{text:?} is not a size: write bytes or a unit, such as 40GiB, 512MiB or 10737418240")]
pub(crate) struct SizeError {
    text: String,
}

const UNITS: [(&str, u64); 18] = [
    ("", 1),
    ("b", 1),
    ("k", 1 << 10),
    ("kib", 1 << 10),
    ("kb", 1_000),
    ("m", 1 << 20),
    ("mib", 1 << 20),
    ("mb", 1_000_000),
    ("g", 1 << 30),
    ("gib", 1 << 30),
    ("gb", 1_000_000_000),
    ("t", 1 << 40),
    ("tib", 1 << 40),
    ("tb", 1_000_000_000_000),
    ("p", 1 << 50),
    ("pib", 1 << 50),
    ("pb", 1_000_000_000_000_000),
    ("bytes", 1),
];

/// Digits after the point that are looked at; more would not fit the arithmetic.
const MAX_FRACTION: usize = 9;

impl ByteSize {
    /// So many bytes.
    pub(crate) const fn new(bytes: u64) -> Self {
        Self(bytes)
    }

    /// The number of bytes.
    pub(crate) const fn bytes(self) -> u64 {
        self.0
    }
}

impl FromStr for ByteSize {
    type Err = SizeError;

    fn from_str(text: &str) -> Result<Self, SizeError> {
        parse(text).map(Self).ok_or_else(|| SizeError { text: text.chars().take(80).collect() })
    }
}

fn parse(text: &str) -> Option<u64> {
    let text = text.trim();
    let number = text.bytes().take_while(|b| b.is_ascii_digit() || *b == b'.').count();
    let (number, unit) = text.split_at(number);
    let unit = unit.trim().to_ascii_lowercase();
    let (_, scale) = UNITS.iter().find(|(name, _)| *name == unit)?;
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() || fraction.len() > MAX_FRACTION || number.ends_with('.') {
        return None;
    }
    let whole: u64 = whole.parse().ok()?;
    let mut total = whole.checked_mul(*scale)?;
    if !fraction.is_empty() {
        let digits: u128 = fraction.parse().ok()?;
        let divisor = 10u128.pow(u32::try_from(fraction.len()).ok()?);
        let part = digits * u128::from(*scale);
        if !part.is_multiple_of(divisor) {
            return None;
        }
        total = total.checked_add(u64::try_from(part / divisor).ok()?)?;
    }
    Some(total)
}

impl fmt::Display for ByteSize {
    /// Rounded to a digit where a unit does not fit exactly.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
        let mut step = 0;
        while step + 1 < names.len() && self.0 >> (10 * (step + 1)) > 0 {
            step += 1;
        }
        let unit = 1u64 << (10 * step);
        let text = if self.0.is_multiple_of(unit) {
            format!("{} {}", self.0 / unit, names[step])
        } else {
            let tenths = u128::from(self.0) * 10 / u128::from(unit);
            format!("{}.{} {}", tenths / 10, tenths % 10, names[step])
        };
        f.pad(&text)
    }
}

impl<'de> Deserialize<'de> for ByteSize {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged, expecting = "a size such as \"64MiB\", or a number of bytes")]
        enum Written {
            Number(u64),
            Text(String),
        }
        match Written::deserialize(deserializer)? {
            Written::Number(bytes) => Ok(Self(bytes)),
            Written::Text(text) => text.parse().map_err(serde::de::Error::custom),
        }
    }
}

/// A stretch of time for people: `12 s`, `3 min`, `2 h 5 min`, `4 d 3 h`.
pub(crate) struct Span(pub(crate) Duration);

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.as_secs();
        let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
        let pair = |large: u64, unit: &str, small: u64, smaller: &str| match small {
            0 => format!("{large} {unit}"),
            small => format!("{large} {unit} {small} {smaller}"),
        };
        let text = match seconds {
            0 => format!("{} ms", self.0.as_millis()),
            1..=119 => format!("{seconds} s"),
            120..=7199 => format!("{minutes} min"),
            7200..=172_799 => pair(hours, "h", minutes % 60, "min"),
            _ => pair(days, "d", hours % 24, "h"),
        };
        f.pad(&text)
    }
}

/// How often something happens: `30s`, `5m`, `1h30m`, `1d`; not never.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Period(pub(crate) Duration);

impl FromStr for Period {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let seconds = seconds(text).filter(|seconds| *seconds > 0);
        let duration = seconds.map(|seconds| Self(Duration::from_secs(seconds)));
        duration.ok_or_else(|| format!("{text:?} is not a time: write 30s, 5m, 1h or 1h30m"))
    }
}

fn seconds(text: &str) -> Option<u64> {
    let mut total = 0u64;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let number: u64 = rest[..digits].parse().ok()?;
        let unit = match rest.as_bytes().get(digits)? {
            b's' => 1,
            b'm' => 60,
            b'h' => 3600,
            b'd' => 86_400,
            _ => return None,
        };
        total = total.checked_add(number.checked_mul(unit)?)?;
        rest = &rest[digits + 1..];
    }
    Some(total)
}

/// `1 point`, `3 points`.
pub(crate) fn counted(count: impl Into<u64>, noun: &str) -> String {
    match count.into() {
        1 => format!("1 {noun}"),
        count => format!("{count} {noun}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size(text: &str) -> Option<u64> {
        text.parse::<ByteSize>().ok().map(ByteSize::bytes)
    }

    #[test]
    fn sizes_are_read_exactly() {
        assert_eq!(size("40GiB"), Some(40 << 30));
        assert_eq!(size(" 512 MiB "), Some(512 << 20));
        assert_eq!(size("1.5K"), Some(1536));
        assert_eq!(size("2GB"), Some(2_000_000_000));
        assert_eq!(size("2.5gb"), Some(2_500_000_000));
        assert_eq!(size("4096"), Some(4096));
        assert_eq!(size("0"), Some(0));
    }

    #[test]
    fn what_is_no_size_is_refused() {
        for bad in ["", "GiB", "-1", "1 2", "1..5K", "1.K", ".5K", "0.3B", "12XiB", "1e9", "4０"] {
            assert_eq!(size(bad), None, "{bad:?} passed");
        }
        assert_eq!(size("18446744073709551616"), None);
        assert_eq!(size("16384PiB"), None);
    }

    #[test]
    fn sizes_are_printed_short() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1 KiB"),
            (1536, "1.5 KiB"),
            (40 << 30, "40 GiB"),
            (u64::MAX, "16383.9 PiB"),
        ] {
            assert_eq!(ByteSize::new(bytes).to_string(), text);
        }
    }

    #[test]
    fn periods_are_whole_seconds() {
        let period = |text: &str| text.parse::<Period>().ok().map(|period| period.0.as_secs());
        assert_eq!(period("30s"), Some(30));
        assert_eq!(period("1h30m"), Some(5400));
        for bad in ["", "0s", "30", "5 m", "1.5h", "-1s", "99999999999999999999d", "5m\u{e9}"] {
            assert_eq!(period(bad), None, "{bad:?} passed");
        }
    }

    #[test]
    fn spans_keep_two_units_at_most() {
        for (seconds, text) in [
            (0, "0 ms"),
            (59, "59 s"),
            (119, "119 s"),
            (120, "2 min"),
            (7200, "2 h"),
            (7500, "2 h 5 min"),
            (172_800, "2 d"),
            (200_000, "2 d 7 h"),
        ] {
            assert_eq!(Span(Duration::from_secs(seconds)).to_string(), text);
        }
    }
}
