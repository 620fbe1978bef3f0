//! Logical unit numbers: eight bytes that address a unit (SAM-5 4.7).
//!
//! ```text
//!   byte 0       1        2..8
//!   00 | bus 0   number   0      peripheral device addressing: numbers up to 255
//!   01 | high    low      0      flat space addressing: 14 bits
//!   C1           01       0      well known logical unit REPORT LUNS
//! ```
//!
//! Both ways to address a small number are understood; what is told to others uses the shortest
//! one.

use std::fmt;

/// Largest number that has an address here: flat space addressing has 14 bits.
const MAX_NUMBER: u16 = (1 << 14) - 1;
/// Largest number of peripheral device addressing.
const MAX_PERIPHERAL: u16 = 255;

/// The number of a logical unit within its target.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct LunNumber(u16);

impl LunNumber {
    /// Number `number`, which must fit 14 bits.
    pub const fn new(number: u16) -> Option<Self> {
        if number <= MAX_NUMBER { Some(Self(number)) } else { None }
    }

    /// The number.
    pub const fn number(self) -> u16 {
        self.0
    }
}

impl fmt::Display for LunNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The field of eight bytes in which a command names its logical unit. Any bytes are a `Lun`; few
/// address something.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Lun([u8; 8]);

/// What a [`Lun`] addresses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Addressed {
    /// A logical unit, if there is one of that number.
    Unit(LunNumber),
    /// The well known logical unit REPORT LUNS (SPC-4 8.2).
    ReportLuns,
    /// Nothing: an addressing method, or more levels than one, that are not used here.
    Nothing,
}

impl Lun {
    /// The well known logical unit REPORT LUNS.
    pub const REPORT_LUNS: Self = Self([0xc1, 1, 0, 0, 0, 0, 0, 0]);

    /// The field as it was received.
    pub const fn from_bytes(bytes: [u8; 8]) -> Self {
        Self(bytes)
    }

    /// The field as it is sent.
    pub const fn to_bytes(self) -> [u8; 8] {
        self.0
    }

    /// What it addresses.
    pub fn addressed(self) -> Addressed {
        if self == Self::REPORT_LUNS {
            return Addressed::ReportLuns;
        }
        if self.0[2..].iter().any(|byte| *byte != 0) {
            return Addressed::Nothing;
        }
        match self.0[0] {
            0 => Addressed::Unit(LunNumber(u16::from(self.0[1]))),
            high @ 0x40..=0x7f => {
                Addressed::Unit(LunNumber(u16::from_be_bytes([high & 0x3f, self.0[1]])))
            }
            _ => Addressed::Nothing,
        }
    }
}

impl From<LunNumber> for Lun {
    fn from(LunNumber(number): LunNumber) -> Self {
        let [high, low] = number.to_be_bytes();
        let method = if number <= MAX_PERIPHERAL { 0 } else { 0x40 };
        Self([method | high, low, 0, 0, 0, 0, 0, 0])
    }
}

impl fmt::Display for Lun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.addressed() {
            Addressed::Unit(number) => number.fmt(f),
            Addressed::ReportLuns => f.write_str("REPORT LUNS"),
            Addressed::Nothing => write!(f, "{:016x}", u64::from_be_bytes(self.0)),
        }
    }
}

impl fmt::Debug for Lun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Lun({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn small_numbers_have_two_addresses() {
        let peripheral = Lun::from_bytes([0, 7, 0, 0, 0, 0, 0, 0]);
        let flat = Lun::from_bytes([0x40, 7, 0, 0, 0, 0, 0, 0]);
        assert_eq!(peripheral.addressed(), flat.addressed());
        assert_eq!(Lun::from(LunNumber(7)), peripheral);
        assert_eq!(Lun::from(LunNumber(256)).to_bytes(), [0x41, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(LunNumber::new(1 << 14), None);
    }

    #[test]
    fn what_is_not_understood_addresses_nothing() {
        for bytes in [
            [1, 7, 0, 0, 0, 0, 0, 0],
            [0, 7, 0, 1, 0, 0, 0, 0],
            [0x80, 7, 0, 0, 0, 0, 0, 0],
            [0xc1, 2, 0, 0, 0, 0, 0, 0],
        ] {
            assert_eq!(Lun::from_bytes(bytes).addressed(), Addressed::Nothing);
        }
        assert_eq!(Lun::REPORT_LUNS.addressed(), Addressed::ReportLuns);
    }

    proptest! {
        #[test]
        fn a_number_is_what_its_address_says(number in 0..=MAX_NUMBER) {
            let number = LunNumber::new(number).expect("14 bits");
            prop_assert_eq!(Lun::from(number).addressed(), Addressed::Unit(number));
        }
    }
}
