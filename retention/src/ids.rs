//! Numbers that mean something: one type each, so that none can be taken for another.
//!
//! All of them are stored little-endian in journal and manifest and big-endian in index keys (so that keys sort).

use std::fmt;
use std::str::FromStr;

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($inner:ty), $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name($inner);

        impl $name {
            /// The value that stands for `number`.
            pub const fn new(number: $inner) -> Self {
                Self(number)
            }

            /// The bare number, for formats and listings.
            pub const fn number(self) -> $inner {
                self.0
            }

            /// The one after this.
            pub const fn next(self) -> Self {
                Self(self.0.strict_add(1))
            }

            /// The one before this; zero has none, and stays.
            pub const fn previous(self) -> Self {
                Self(self.0.saturating_sub(1))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "{}"), self.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}", self.0)
            }
        }
    };
}

number!(
    /// A protected machine.
    MachineId(u32),
    "machine#"
);
number!(
    /// Machines with common points.
    GroupId(u32),
    "group#"
);
number!(
    /// A disk of a machine. Never used twice, not even after its machine is removed.
    DiskId(u32),
    "disk#"
);
number!(
    /// A writable history: the trunk of a group or a branch. Never used twice.
    LineId(u32),
    "line#"
);
number!(
    /// Position in a line; grows by one per accepted batch. Zero is "before the first".
    Sequence(u64),
    "seq:"
);
number!(
    /// Raised when the holder of a line's stream changes or its position cannot be vouched for.
    Generation(u64),
    "generation "
);
number!(
    /// Position in a stream, within one generation; grows by one per batch or mark. Zero is "nothing yet".
    Position(u64),
    "position "
);
number!(
    /// An append-only lane of the journal; bound to one I/O core.
    LaneId(u16),
    "lane "
);
number!(
    /// Position in a lane; grows by one per record of any kind.
    LaneSequence(u64),
    "lane sequence "
);
number!(
    /// A segment file of the journal, unique over all lanes. Never used twice.
    SegmentId(u32),
    "segment "
);
number!(
    /// An export that was set up by hand.
    ExportId(u32),
    "export#"
);

number!(
    /// A data key. Never used twice; zero is none.
    KeyId(u32),
    "key#"
);

impl Sequence {
    /// Above every sequence that is given.
    pub const MAX: Self = Self::new(u64::MAX);
}

/// What a disk is called in the images that are made for it: the same in each, so that a guest finds the disk it knows.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct DiskIdentity([u8; 16]);

impl DiskIdentity {
    /// The identity of `disk` of the data folder with this id. No other disk has it, in whatever folder.
    pub fn of(folder_id: [u8; 16], disk: DiskId) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key("landfall disk identity 1");
        hasher.update(&folder_id).update(&disk.number().to_le_bytes());
        let mut bytes = [0; 16];
        hasher.finalize_xof().fill(&mut bytes);
        Self(bytes)
    }

    /// The identity with these bytes.
    pub const fn new(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// Its bytes.
    pub const fn bytes(self) -> [u8; 16] {
        self.0
    }
}

impl fmt::Display for DiskIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// The text is no identity.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("an identity of a disk is 32 hexadecimal digits")]
pub struct NotAnIdentity;

impl FromStr for DiskIdentity {
    type Err = NotAnIdentity;

    fn from_str(text: &str) -> Result<Self, NotAnIdentity> {
        let digits = text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        let number = u128::from_str_radix(text, 16).ok().filter(|_| digits);
        number.map(|number| Self(number.to_be_bytes())).ok_or(NotAnIdentity)
    }
}

/// Sixteen random bytes by which a source process names its stream. All zero: no stream (branch writes).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct StreamId([u8; 16]);

impl StreamId {
    /// What writes that come from no stream carry.
    pub const NONE: Self = Self([0; 16]);

    /// The id with these bytes.
    pub const fn new(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// Its bytes, as sent and stored.
    pub const fn bytes(self) -> [u8; 16] {
        self.0
    }
}

impl fmt::Display for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "stream {self}")
    }
}

/// What a source says a disk held, in a form that only sources understand: equal ids stand for equal content.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ContentId([u8; 32]);

impl ContentId {
    /// The id with these bytes.
    pub const fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Its bytes, as sent and stored.
    pub const fn bytes(self) -> [u8; 32] {
        self.0
    }
}

impl fmt::Debug for ContentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("content ")?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_is_called_the_same_for_ever_and_no_other_is() {
        let identity = DiskIdentity::of([7; 16], DiskId::new(3));
        let text = identity.to_string();
        assert_eq!(text, "df190267f62d0ac53117a3401bb00494", "images that exist have it");
        assert_eq!(text.parse(), Ok(identity));
        assert_eq!(text[1..].parse::<DiskIdentity>(), Err(NotAnIdentity));
        assert_ne!(identity, DiskIdentity::of([7; 16], DiskId::new(4)));
        assert_ne!(identity, DiskIdentity::of([8; 16], DiskId::new(3)));
    }
}
