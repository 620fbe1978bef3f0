//! Numbers that have to lie between two others.

use super::ConfigError;
use std::ops::RangeInclusive;

/// `value`, if it lies within `range`; `words` says what a value is called.
pub(super) fn within<T: PartialOrd + Copy>(
    key: &'static str,
    value: T,
    range: &RangeInclusive<T>,
    words: impl Fn(T) -> String,
) -> Result<T, ConfigError> {
    if range.contains(&value) {
        return Ok(value);
    }
    let (least, most) = (words(*range.start()), words(*range.end()));
    let what = format!("{} is not between {least} and {most}", words(value));
    Err(ConfigError::Value { key, what })
}
