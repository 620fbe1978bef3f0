//! A logical unit as whoever embeds the target describes it: a disk, and what it is called.

use super::mode::Modes;
use landfall_disks::{Disk, RangeLocks};
use parking_lot::Mutex;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// A disk that is offered as a logical unit.
#[derive(Clone)]
pub struct Unit {
    /// The blocks. Its logical sector is the logical block; a disk that is read-only makes a write
    /// protected unit.
    pub disk: Arc<dyn Disk>,
    /// Bytes of a physical block, as initiators are told: whole logical blocks, and no more than
    /// hints where writes are best cut.
    pub physical_block: u32,
    /// Held by commands for the blocks they touch, alone where bytes are read in order to be
    /// written. Everybody else who writes to the disk has to hold what they touch in the same
    /// locks.
    pub locks: RangeLocks,
    /// Answered writes may be lost with the power until a flush, as [`Disk`] allows.
    pub volatile_cache: bool,
    /// What it is called.
    pub identity: Identity,
    /// Refuses writes although the disk would take them.
    pub write_protected: bool,
    /// Says that its medium can be removed, and ejects it when told to.
    pub removable: bool,
    /// Who knows how much space is left, if somebody does.
    pub space: Option<Arc<dyn Space>>,
    /// What initiators have set, for as long as the unit is offered, whether or not somebody is
    /// there.
    pub settings: Settings,
}

impl Unit {
    /// A fixed, writable unit (if the disk is) with the disk's physical blocks and a volatile
    /// cache, that nobody else writes to, and of which nobody knows how much space is left.
    pub fn new(disk: Arc<dyn Disk>, identity: Identity) -> Self {
        Self {
            physical_block: disk.geometry().physical_sector,
            disk,
            locks: RangeLocks::new(),
            volatile_cache: true,
            identity,
            write_protected: false,
            removable: false,
            space: None,
            settings: Settings::default(),
        }
    }
}

/// What initiators have set of a unit: mode pages, and whether its medium was ejected. Clones are
/// the same settings.
///
/// Losing all nexuses changes nothing of it (SAM-5 6.3.4): whoever makes a unit anew for those who
/// come later hands over those of the one before, which is no more by then.
#[derive(Clone, Debug, Default)]
pub struct Settings(Arc<Mutex<Option<Kept>>>);

/// Values that are kept.
#[derive(Clone, Copy, Debug)]
pub(super) struct Kept {
    pub(super) modes: Modes,
    pub(super) ejected: bool,
}

impl Settings {
    /// What was kept, if anything was set.
    pub(super) fn kept(&self) -> Option<Kept> {
        *self.0.lock()
    }

    pub(super) fn keep(&self, kept: Kept) {
        *self.0.lock() = Some(kept);
    }
}

impl fmt::Debug for Unit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Unit({})", self.identity.serial)
    }
}

/// How much space there is for what is written to a unit.
pub trait Space: Send + Sync {
    /// What is known now, if anything is yet. Called for LOG SENSE, MODE SENSE and whoever comes;
    /// must not wait, nor touch a device.
    fn left(&self) -> Option<SpaceLeft>;
}

/// Space, in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SpaceLeft {
    /// What may still be allocated.
    pub available_bytes: u64,
    /// What is allocated.
    pub used_bytes: u64,
    /// Where no more than that is available, initiators are told once that it is little.
    pub threshold_bytes: u64,
}

impl SpaceLeft {
    /// Whether it is so little that initiators are told.
    pub const fn is_little(self) -> bool {
        self.available_bytes <= self.threshold_bytes
    }
}

/// A company's 24-bit identifier, as the IEEE assigns it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Oui([u8; 3]);

impl Oui {
    /// The identifier with these bytes.
    pub const fn new(bytes: [u8; 3]) -> Self {
        Self(bytes)
    }

    /// Its bytes.
    pub const fn bytes(self) -> [u8; 3] {
        self.0
    }
}

/// What is no company's identifier.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum NotAnOui {
    /// Not three bytes.
    #[error("an OUI is six hexadecimal digits, as in a0b1c2 or A0-B1-C2")]
    Digits,
    /// The first byte has a bit that says that it is a group's (I/G) or was made up locally (U/L).
    #[error(
        "the IEEE assigns no OUI whose first byte is {0:02x}: its last two bits have to be zero"
    )]
    Unassigned(u8),
}

impl FromStr for Oui {
    type Err = NotAnOui;

    fn from_str(text: &str) -> Result<Self, NotAnOui> {
        let digits = match text.as_bytes() {
            [a, b, mark @ (b'-' | b':'), c, d, again, e, f] if mark == again => [a, b, c, d, e, f],
            [a, b, c, d, e, f] => [a, b, c, d, e, f],
            _ => return Err(NotAnOui::Digits),
        };
        let digit = |byte: &u8| char::from(*byte).to_digit(16);
        let mut number = 0;
        for byte in digits {
            number = number << 4 | digit(byte).ok_or(NotAnOui::Digits)?;
        }
        let [_, a, b, c] = number.to_be_bytes();
        if a & 3 == 0 { Ok(Self([a, b, c])) } else { Err(NotAnOui::Unassigned(a)) }
    }
}

/// Which kind of world wide name a unit has (SPC-4 7.8.6.6).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Naming {
    /// NAA 3, locally assigned: 60 bits that nobody vouches for.
    #[default]
    Local,
    /// NAA 6 of a company: 100 bits.
    Registered(Oui),
}

/// What a unit is called. The same disk keeps its identity for ever, since guests know it by that.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Identity {
    /// Eight ASCII characters at most; longer ones are cut.
    pub vendor: String,
    /// Sixteen ASCII characters at most.
    pub product: String,
    /// Four ASCII characters at most.
    pub revision: String,
    /// Up to [`Identity::MAX_SERIAL`] ASCII characters; two disks never have the same.
    pub serial: String,
    /// The kind of its world wide name, which follows from the serial number.
    pub naming: Naming,
}

impl Identity {
    /// Longest serial number, in characters.
    pub const MAX_SERIAL: usize = 64;

    /// Of landfall, with a locally assigned name.
    pub fn new(serial: impl Into<String>) -> Self {
        Self {
            vendor: "LANDFALL".into(),
            product: "DISK".into(),
            revision: "1".into(),
            serial: serial.into(),
            naming: Naming::Local,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn companies_are_written_in_three_ways() {
        for text in ["a0b1c4", "A0-B1-C4", "a0:b1:C4"] {
            assert_eq!(text.parse(), Ok(Oui::new([0xa0, 0xb1, 0xc4])));
        }
        for text in ["", "a0b1c", "a0b1c42", "a0-b1:c4", "a0b1cg", "a0 b1 c4", "+0b1c4"] {
            assert_eq!(text.parse::<Oui>(), Err(NotAnOui::Digits), "{text:?}");
        }
        for (text, first) in [("01b1c4", 0x01), ("02b1c4", 0x02), ("ffffff", 0xff)] {
            assert_eq!(text.parse::<Oui>(), Err(NotAnOui::Unassigned(first)));
        }
    }
}
