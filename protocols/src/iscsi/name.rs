//! iSCSI names (section 4.2.7): `iqn.`, `eui.` and `naa.`, which world-wide say who somebody is.
//!
//! A [`Name`] is normalised: letters are small. Names beyond ASCII, which the standard permits after stringprep (RFC 3722), are
//! refused: nobody was seen to use them, and one name that can be written in two ways would open what the other may not.

use std::fmt;
use std::sync::Arc;

/// Longest name in bytes (section 4.2.7.2).
pub const MAX_NAME: usize = 223;

/// Why something is no name.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum NameError {
    /// Longer than [`MAX_NAME`].
    #[error("an iSCSI name has {0} bytes, and may have {MAX_NAME}")]
    TooLong(usize),
    /// A character that no name has.
    #[error("{0:?} may not stand in an iSCSI name: letters, digits, '-', '.' and ':' may")]
    Character(char),
    /// None of the three forms.
    #[error("an iSCSI name begins with iqn., eui. or naa.")]
    Form,
    /// An `iqn.` without a month and a domain.
    #[error("after iqn. come a year and month (2026-11), a dot, and a reversed domain name")]
    Qualified,
    /// An `eui.` or `naa.` without as many hexadecimal digits as it has.
    #[error("after eui. come 16 hexadecimal digits, after naa. 16 or 32")]
    Digits,
}

/// An iSCSI name. Cheap to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(Arc<str>);

impl Name {
    /// The name that `text` is.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        if text.len() > MAX_NAME {
            return Err(NameError::TooLong(text.len()));
        }
        let allowed = |letter: &char| letter.is_ascii_alphanumeric() || "-.:".contains(*letter);
        if let Some(wrong) = text.chars().find(|letter| !allowed(letter)) {
            return Err(NameError::Character(wrong));
        }
        let name = text.to_ascii_lowercase();
        match name.split_at_checked(4) {
            Some(("iqn.", rest)) => qualified(rest)?,
            Some(("eui.", rest)) => hexadecimal(rest, &[16])?,
            Some(("naa.", rest)) => hexadecimal(rest, &[16, 32])?,
            _ => return Err(NameError::Form),
        }
        Ok(Self(name.into()))
    }

    /// The name of what is called `own` under the prefix `prefix`, such as `iqn.2026-11.internal.landfall:`.
    pub fn under(prefix: &str, own: &str) -> Result<Self, NameError> {
        Self::parse(&format!("{prefix}{own}"))
    }

    /// As it is written.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// `2026-11.internal.landfall`, and more behind a colon.
fn qualified(rest: &str) -> Result<(), NameError> {
    let (date, authority) = rest.split_once('.').ok_or(NameError::Qualified)?;
    let (year, month) = date.split_once('-').ok_or(NameError::Qualified)?;
    let digits =
        |text: &str, count| text.len() == count && text.bytes().all(|b| b.is_ascii_digit());
    let month_is_one = matches!(month.parse(), Ok(1..=12u8));
    if !digits(year, 4) || !digits(month, 2) || !month_is_one {
        return Err(NameError::Qualified);
    }
    let domain = authority.split(':').next().unwrap_or_default();
    let label = |label: &str| !label.is_empty();
    if domain.split('.').all(label) { Ok(()) } else { Err(NameError::Qualified) }
}

fn hexadecimal(digits: &str, lengths: &[usize]) -> Result<(), NameError> {
    let right =
        lengths.contains(&digits.len()) && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
    if right { Ok(()) } else { Err(NameError::Digits) }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_three_forms() {
        for name in [
            "iqn.2026-11.internal.landfall:web",
            "iqn.1998-01.com.vmware:host-5f3a",
            "iqn.2001-04.com.example",
            "iqn.2001-04.com.example:storage:diskarrays-sn-a8675309",
            "eui.02004567a425678d",
            "naa.52004567ba64678d",
            "naa.62004567ba64678d0123456789abcdef",
        ] {
            assert_eq!(Name::parse(name).map(|name| name.to_string()), Ok(name.to_owned()));
        }
    }

    #[test]
    fn letters_are_made_small() {
        let name = Name::parse("IQN.1991-05.com.microsoft:HOST").expect("a name");
        assert_eq!(name.as_str(), "iqn.1991-05.com.microsoft:host");
        assert_eq!(Ok(name), Name::parse("iqn.1991-05.com.microsoft:Host"));
    }

    #[test]
    fn what_is_no_name() {
        for (text, error) in [
            ("", NameError::Form),
            ("host", NameError::Form),
            ("iqn.", NameError::Qualified),
            ("iqn.2026.com.example", NameError::Qualified),
            ("iqn.2026-13.com.example", NameError::Qualified),
            ("iqn.2026-00.com.example", NameError::Qualified),
            ("iqn.26-11.com.example", NameError::Qualified),
            ("iqn.2026-11.", NameError::Qualified),
            ("iqn.2026-11.com..example", NameError::Qualified),
            ("iqn.2026-11.:own", NameError::Qualified),
            ("iqn.2026-11.com.example:a b", NameError::Character(' ')),
            ("iqn.2026-11.com.example:a/b", NameError::Character('/')),
            ("iqn.2026-11.com.example:a_b", NameError::Character('_')),
            ("iqn.2026-11.com.example:ü", NameError::Character('ü')),
            ("eui.02004567a425678", NameError::Digits),
            ("eui.02004567a425678x", NameError::Digits),
            ("naa.62004567ba64678d01234567", NameError::Digits),
        ] {
            assert_eq!(Name::parse(text), Err(error), "{text}");
        }
        let long = format!("iqn.2026-11.com.example:{}", "a".repeat(MAX_NAME));
        assert_eq!(Name::parse(&long[..MAX_NAME]).map(|name| name.as_str().len()), Ok(MAX_NAME));
        assert_eq!(Name::parse(&long[..=MAX_NAME]), Err(NameError::TooLong(MAX_NAME + 1)));
    }

    proptest! {
        #[test]
        fn a_name_is_its_own_normal_form(text in "(iqn\\.[0-9]{4}-[0-1][0-9]\\.[a-zA-Z.]{1,9}:[a-zA-Z0-9.:-]{0,40}|.{0,50})") {
            if let Ok(name) = Name::parse(&text) {
                prop_assert_eq!(Name::parse(name.as_str()), Ok(name.clone()));
                prop_assert!(name.as_str().eq_ignore_ascii_case(&text));
            }
        }
    }
}
