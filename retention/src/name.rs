//! How moments are named: `MACHINE/DISK@WHEN`, `MACHINE@WHEN`, `MACHINE~BRANCH…`.
//!
//! ```text
//!   web                 machine web at latest        web~test           head of its branch `test`
//!   web@-15m            fifteen minutes ago           web~test@seq:9     a moment of that branch
//!   web/os@tag:before   disk os at label `before`     web~test/os        disk os at that branch's head
//! ```
//!
//! This is only the reading of names; which moment a [`When`] is, the catalogue of points decides. Nothing after `@`
//! is an error, never a default.

use crate::ids::Sequence;
use crate::time::{TimeError, Timestamp};
use std::fmt;
use std::time::Duration;

/// Longest name of a machine, disk or branch, in bytes.
pub const MAX_NAME_BYTES: usize = 63;
/// Longest label of a point, in bytes.
pub const MAX_LABEL_BYTES: usize = 128;

/// Name of a machine, disk or branch: `[a-z0-9][a-z0-9.-]{0,62}`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(Box<str>);

/// Label of a point: 1 to 128 bytes of printable text without spaces at its ends.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Label(Box<str>);

/// Which moment of a line is meant.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum When {
    /// Newest crash or app point; on a branch, its head.
    Latest,
    /// Newest app point.
    App,
    /// Newest point at or before this time, by the target's clock.
    At(Timestamp),
    /// Newest point at or before so long ago.
    Ago(Duration),
    /// Exactly this sequence, which must be a boundary.
    Sequence(Sequence),
    /// The newest point with this label.
    Tag(Label),
}

/// A name as a person or an NBD client writes it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MomentName {
    /// The machine.
    pub machine: Name,
    /// The branch, or the trunk.
    pub branch: Option<Name>,
    /// The disk, or all of them.
    pub disk: Option<Name>,
    /// The moment; [`When::Latest`] when the name has no `@`.
    pub when: When,
}

/// Why a name cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Not a name of a machine, disk or branch.
    #[error("{text:?} is not a name: 1 to 63 of a-z 0-9 . -, starting with a letter or digit")]
    NotAName {
        /// What was written.
        text: String,
    },
    /// Not a label.
    #[error("{text:?} is not a label: 1 to 128 bytes of printable text, no space at its ends")]
    NotALabel {
        /// What was written.
        text: String,
    },
    /// Nothing follows the `@`.
    #[error("{text:?}: nothing follows the @; leave it out for @latest")]
    NothingAfterAt {
        /// What was written.
        text: String,
    },
    /// None of the forms of WHEN.
    #[error(
        "{text:?} is not a moment: latest, app, an RFC 3339 time with zone, -15m or 15m-ago, \
         seq:NUMBER or tag:LABEL"
    )]
    NotAMoment {
        /// What was written.
        text: String,
    },
    /// A time that cannot be read.
    #[error(transparent)]
    Time(#[from] TimeError),
}

impl Name {
    /// Reads a name.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        let first =
            text.bytes().next().is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        let rest = text
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'.' || b == b'-');
        if first && rest && text.len() <= MAX_NAME_BYTES {
            Ok(Self(text.into()))
        } else {
            Err(NameError::NotAName { text: shortened(text) })
        }
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Label {
    /// Reads a label.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        let fits = (1..=MAX_LABEL_BYTES).contains(&text.len());
        if fits && text.trim() == text && !text.chars().any(char::is_control) {
            Ok(Self(text.into()))
        } else {
            Err(NameError::NotALabel { text: shortened(text) })
        }
    }

    /// The label as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl When {
    /// Reads what stands after the `@`.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        let not_a_moment = || NameError::NotAMoment { text: shortened(text) };
        match text {
            "latest" => return Ok(Self::Latest),
            "app" => return Ok(Self::App),
            _ => {}
        }
        if let Some(number) = text.strip_prefix("seq:") {
            let digits = !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit());
            let number = digits.then(|| number.parse().ok()).flatten().ok_or_else(not_a_moment)?;
            return Ok(Self::Sequence(Sequence::new(number)));
        }
        if let Some(label) = text.strip_prefix("tag:") {
            return Ok(Self::Tag(Label::parse(label)?));
        }
        let ago = text.strip_prefix('-').or_else(|| text.strip_suffix("-ago"));
        if let Some(ago) = ago {
            return parse_duration(ago).map(Self::Ago).ok_or_else(not_a_moment);
        }
        if text.len() >= 10 && text.as_bytes()[0].is_ascii_digit() {
            return Ok(Self::At(Timestamp::parse(text)?));
        }
        Err(not_a_moment())
    }
}

impl MomentName {
    /// Reads a whole name.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        let (place, when) = match text.split_once('@') {
            None => (text, When::Latest),
            Some((_, "")) => return Err(NameError::NothingAfterAt { text: shortened(text) }),
            Some((place, when)) => (place, When::parse(when)?),
        };
        let (owner, disk) = match place.split_once('/') {
            None => (place, None),
            Some((owner, disk)) => (owner, Some(Name::parse(disk)?)),
        };
        let (machine, branch) = match owner.split_once('~') {
            None => (owner, None),
            Some((machine, branch)) => (machine, Some(Name::parse(branch)?)),
        };
        Ok(Self { machine: Name::parse(machine)?, branch, disk, when })
    }
}

/// A whole number and a unit: `90s`, `15m`, `4h`, `2d`, `1w`; several may follow each other (`1h30m`).
fn parse_duration(text: &str) -> Option<Duration> {
    let mut seconds = 0u64;
    let mut rest = text;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let number: u64 = rest[..digits].parse().ok()?;
        let unit = match rest.as_bytes().get(digits)? {
            b's' => 1,
            b'm' => 60,
            b'h' => 3600,
            b'd' => 86_400,
            b'w' => 604_800,
            _ => return None,
        };
        seconds = seconds.checked_add(number.checked_mul(unit)?)?;
        rest = &rest[digits + 1..];
    }
    Some(Duration::from_secs(seconds))
}

/// What somebody wrote, cut so that an error message stays one line.
fn shortened(text: &str) -> String {
    text.chars().take(80).collect()
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

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &*self.0)
    }
}

impl fmt::Display for When {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Latest => f.write_str("latest"),
            Self::App => f.write_str("app"),
            Self::At(time) => write!(f, "{time}"),
            Self::Ago(ago) => write!(f, "-{}s", ago.as_secs()),
            Self::Sequence(sequence) => write!(f, "seq:{sequence}"),
            Self::Tag(label) => write!(f, "tag:{label}"),
        }
    }
}

impl fmt::Display for MomentName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.machine)?;
        if let Some(branch) = &self.branch {
            write!(f, "~{branch}")?;
        }
        if let Some(disk) = &self.disk {
            write!(f, "/{disk}")?;
        }
        write!(f, "@{}", self.when)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn when(text: &str) -> When {
        MomentName::parse(&format!("web@{text}")).expect(text).when
    }

    #[test]
    fn every_form_of_when() {
        assert_eq!(MomentName::parse("web").expect("no @").when, When::Latest);
        assert_eq!(when("latest"), When::Latest);
        assert_eq!(when("app"), When::App);
        assert_eq!(when("-15m"), When::Ago(Duration::from_secs(900)));
        assert_eq!(when("15m-ago"), When::Ago(Duration::from_secs(900)));
        assert_eq!(when("-1h30m"), When::Ago(Duration::from_secs(5400)));
        assert_eq!(when("seq:1234"), When::Sequence(Sequence::new(1234)));
        assert_eq!(when("tag:before patch"), When::Tag(Label::parse("before patch").unwrap()));
        assert!(matches!(when("2026-11-21T14:03:05.5Z"), When::At(_)));
    }

    #[test]
    fn places_are_told_apart() {
        let name = MomentName::parse("web~test/os@seq:9").expect("a full name");
        assert_eq!(name.machine.as_str(), "web");
        assert_eq!(name.branch.as_ref().map(Name::as_str), Some("test"));
        assert_eq!(name.disk.as_ref().map(Name::as_str), Some("os"));
        assert_eq!(name.to_string(), "web~test/os@seq:9");
    }

    #[test]
    fn what_is_refused() {
        assert!(matches!(MomentName::parse("web@"), Err(NameError::NothingAfterAt { .. })));
        for text in [
            "seq:",
            "seq:+1",
            "seq:99999999999999999999999",
            "-15",
            "-m",
            "noon",
            "-99999999999999999w",
        ] {
            assert!(
                matches!(When::parse(text), Err(NameError::NotAMoment { .. })),
                "{text} was read"
            );
        }
        assert!(matches!(When::parse("2026-11-21T14:03:05"), Err(NameError::Time(_))));
        assert!(matches!(When::parse("tag:"), Err(NameError::NotALabel { .. })));
        for text in ["", "Web", "-web", "web/../x", "w b", &"a".repeat(64)] {
            assert!(
                matches!(Name::parse(text), Err(NameError::NotAName { .. })),
                "{text} was read"
            );
        }
    }

    proptest! {
        #[test]
        fn nothing_written_can_panic(text in ".{0,100}") {
            let _ = MomentName::parse(&text);
            let _ = When::parse(&text);
        }

        #[test]
        fn what_is_printed_reads_back(seconds in 0u64..1_000_000, sequence in 0u64..u64::MAX) {
            for when in [When::Ago(Duration::from_secs(seconds)), When::Sequence(Sequence::new(sequence))] {
                prop_assert_eq!(When::parse(&when.to_string()), Ok(when));
            }
        }
    }
}
