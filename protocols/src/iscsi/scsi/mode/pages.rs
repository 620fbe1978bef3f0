//! Mode pages as bytes.
//!
//! **Invariant:** a page has the same length whatever its values; a bit differs between two values of a page only if it is set in
//! its changeable values.

use super::Modes;

/// Mode pages there are, by their codes. None has subpages.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(super) enum Page {
    /// SPC-4 7.5.13.
    DisconnectReconnect = 0x02,
    /// SBC-4 6.5.6.
    Caching = 0x08,
    /// SPC-4 7.5.10.
    Control = 0x0a,
    /// SBC-4 6.5.8.
    InformationalExceptions = 0x1c,
}

/// Which values are asked for (PC, SPC-4 table 171).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Values {
    /// Those in force.
    Current,
    /// Ones where they can be changed.
    Changeable,
    /// Those of a unit that was just attached.
    Default,
}

const WCE: u8 = 0x04;
const D_SENSE: u8 = 0x04;
const SWP: u8 = 0x08;
/// GLTSD: log parameters are not saved by themselves.
const GLTSD: u8 = 0x02;
/// QUEUE ALGORITHM MODIFIER: commands may be reordered freely.
const UNRESTRICTED: u8 = 0x10;
/// DEXCPT: informational exceptions are not reported.
const DEXCPT: u8 = 0x08;

impl Page {
    /// In the order of their codes.
    pub(super) const ALL: [Self; 4] =
        [Self::DisconnectReconnect, Self::Caching, Self::Control, Self::InformationalExceptions];

    pub(super) fn of_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|page| *page as u8 == code)
    }

    /// The page with its header of two bytes.
    pub(super) fn encode(self, values: Values, current: &Modes) -> Vec<u8> {
        match values {
            Values::Current => self.of(current),
            Values::Default => self.of(&current.defaults()),
            Values::Changeable => self.changeable(),
        }
    }

    const fn length(self) -> u8 {
        match self {
            Self::DisconnectReconnect => 0x0e,
            Self::Caching => 0x12,
            Self::Control | Self::InformationalExceptions => 0x0a,
        }
    }

    fn empty(self) -> Vec<u8> {
        let mut bytes = vec![0; usize::from(self.length()) + 2];
        bytes[0] = self as u8;
        bytes[1] = self.length();
        bytes
    }

    fn of(self, modes: &Modes) -> Vec<u8> {
        let bit = |set: bool, mask: u8| if set { mask } else { 0 };
        let mut bytes = self.empty();
        match self {
            Self::DisconnectReconnect => {}
            Self::Caching => bytes[2] = bit(modes.cached, WCE),
            Self::Control => {
                bytes[2] = GLTSD | bit(modes.descriptors, D_SENSE);
                bytes[3] = UNRESTRICTED;
                bytes[4] = bit(modes.protected, SWP);
            }
            Self::InformationalExceptions => bytes[2] = DEXCPT,
        }
        bytes
    }

    fn changeable(self) -> Vec<u8> {
        let mut bytes = self.empty();
        match self {
            Self::DisconnectReconnect | Self::InformationalExceptions => {}
            Self::Caching => bytes[2] = WCE,
            Self::Control => {
                bytes[2] = D_SENSE;
                bytes[4] = SWP;
            }
        }
        bytes
    }

    /// What `modes` become with the values of `page`, which has the right length and only changes what can be.
    pub(super) fn apply(self, page: &[u8], modes: &mut Modes) {
        match self {
            Self::DisconnectReconnect | Self::InformationalExceptions => {}
            Self::Caching => modes.cached = page[2] & WCE != 0,
            Self::Control => {
                modes.descriptors = page[2] & D_SENSE != 0;
                modes.protected = page[4] & SWP != 0;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn every_modes() -> impl Iterator<Item = Modes> {
        (0..16).map(|bits| Modes {
            descriptors: bits & 1 != 0,
            protected: bits & 2 != 0,
            cached: bits & 4 != 0,
            volatile: bits & 8 != 0,
        })
    }

    #[test]
    fn pages_differ_only_where_they_can_be_changed() {
        for page in Page::ALL {
            let default = page.encode(Values::Default, &Modes::new(true));
            let changeable = page.encode(Values::Changeable, &Modes::new(true));
            assert_eq!(Page::of_code(default[0]), Some(page));
            assert_eq!(changeable[..2], default[..2]);
            for modes in every_modes() {
                let current = page.encode(Values::Current, &modes);
                assert_eq!(current.len(), default.len());
                let bytes = current.iter().zip(&default).zip(&changeable).skip(2);
                for ((current, default), changeable) in bytes {
                    assert_eq!((current ^ default) & !changeable, 0);
                }
            }
        }
    }

    #[test]
    fn what_is_encoded_is_applied() {
        for modes in every_modes() {
            let mut found = Modes::new(modes.volatile);
            for page in Page::ALL {
                page.apply(&page.encode(Values::Current, &modes), &mut found);
            }
            assert_eq!(found, modes);
        }
    }
}
