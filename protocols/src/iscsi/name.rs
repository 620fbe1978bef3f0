//! iSCSI names (section 4.2.7): `iqn.`, `eui.` and `naa.`, which world-wide say who somebody is.
//!
//! A [`Name`] is normalised: letters are small. Names beyond ASCII, which the standard permits
//! after stringprep (RFC 3722), are refused: nobody was seen to use them, and one name that can be
//! written in two ways would open what the other may not.
//!
//! What this side names has the characters of the standard. What initiators call themselves is
//! taken as it is, as long as it is printable ASCII without blanks: QEMU and iPXE make names of
//! what a virtual machine or a host is called, underscores and all.

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
    /// Nothing at all.
    #[error("an iSCSI name is not empty")]
    Empty,
    /// A character that not even an initiator has.
    #[error("{0:?} may not stand in the name of an initiator: printable ASCII but blanks may")]
    Unprintable(char),
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

    /// What an initiator calls itself.
    pub fn of_initiator(text: &str) -> Result<Self, NameError> {
        if text.len() > MAX_NAME {
            return Err(NameError::TooLong(text.len()));
        }
        if let Some(wrong) = text.chars().find(|letter| !letter.is_ascii_graphic()) {
            return Err(NameError::Unprintable(wrong));
        }
        if text.is_empty() {
            return Err(NameError::Empty);
        }
        Ok(Self(text.to_ascii_lowercase().into()))
    }

    /// The same, if it has at least the beginning of a name: whoever lists initiators means one
    /// that names itself as one.
    pub fn formed(self) -> Result<Self, NameError> {
        let formed = ["iqn.", "eui.", "naa."].iter().any(|form| self.0.starts_with(form));
        if formed { Ok(self) } else { Err(NameError::Form) }
    }

    /// The name of what is called `own` under the prefix `prefix`, such as
    /// `iqn.2026-11.internal.landfall:`.
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

    #[test]
    fn initiators_call_themselves_as_they_like() {
        for name in ["iqn.2008-11.org.linux-kvm:web_1", "iqn.2010-04.org.ipxe:a/b", "host"] {
            let found = Name::of_initiator(&name.to_ascii_uppercase());
            assert_eq!(found.map(|name| name.to_string()), Ok(name.to_owned()));
            assert!(Name::parse(name).is_err());
            let formed = Name::of_initiator(name).and_then(Name::formed);
            assert_eq!(formed.is_ok(), name.starts_with("iqn."));
        }
        for (text, error) in [
            ("", NameError::Empty),
            ("iqn.2008-11.org.linux-kvm:web 1", NameError::Unprintable(' ')),
            ("iqn.2008-11.org.linux-kvm:web\t", NameError::Unprintable('\t')),
            ("iqn.2008-11.org.linux-kvm:\u{e9}", NameError::Unprintable('\u{e9}')),
        ] {
            assert_eq!(Name::of_initiator(text), Err(error), "{text:?}");
        }
        let long = "a".repeat(MAX_NAME + 1);
        assert_eq!(Name::of_initiator(&long), Err(NameError::TooLong(MAX_NAME + 1)));
        assert!(Name::of_initiator(&long[1..]).is_ok());
    }

    proptest! {
        #[test]
        fn a_name_is_its_own_normal_form(text in "(iqn\\.[0-9]{4}-[0-1][0-9]\\.[a-zA-Z.]{1,9}:[a-zA-Z0-9.:-]{0,40}|.{0,50})") {
            if let Ok(name) = Name::parse(&text) {
                prop_assert_eq!(Name::parse(name.as_str()), Ok(name.clone()));
                prop_assert!(name.as_str().eq_ignore_ascii_case(&text));
                prop_assert_eq!(Name::of_initiator(&text), Ok(name));
            }
        }
    }
}
