//! Mode pages as bytes.
//!
//! **Invariant:** a page has the same length whatever its values; a bit differs between two values
//! of a page only if it is set in its changeable values, or belongs to a threshold, which is
//! nobody's to change.

use super::Modes;

/// Mode pages there are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Page {
    /// SBC-3 6.5.8.
    ErrorRecovery,
    /// SPC-4 7.5.13.
    DisconnectReconnect,
    /// SBC-4 6.5.6.
    Caching,
    /// SPC-4 7.5.10.
    Control,
    /// SBC-4 6.5.8.
    InformationalExceptions,
    /// SBC-3 6.5.9: thresholds of space.
    Provisioning,
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

/// Whether, and where, initiators are told that space has become little.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::iscsi::scsi) enum Threshold {
    /// Nobody knows how much space there is.
    None,
    /// Somebody will.
    Unknown,
    /// When no more threshold sets than that are left.
    At(u32),
}

/// What pages are made of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Contents {
    pub(super) modes: Modes,
    pub(super) threshold: Threshold,
}

/// SPF: the page is a subpage, and has a longer header.
pub(super) const SUBPAGE_FORMAT: u8 = 0x40;

const WCE: u8 = 0x04;
const D_SENSE: u8 = 0x04;
const SWP: u8 = 0x08;
/// GLTSD: log parameters are not saved by themselves.
const GLTSD: u8 = 0x02;
/// QUEUE ALGORITHM MODIFIER: commands may be reordered freely.
const UNRESTRICTED: u8 = 0x10;
/// DEXCPT: informational exceptions are not reported.
const DEXCPT: u8 = 0x08;
/// LBPERE: that a threshold was reached is told.
const THRESHOLDS_TOLD: u8 = 0x80;
/// A threshold that is ENABLED, soft, and reached from above; of available resources.
const ENABLED: u8 = 0x80;
const DECREASING: u8 = 0x02;
const AVAILABLE: u8 = 0x01;

impl Page {
    /// In the order of their codes.
    const ALL: [Self; 6] = [
        Self::ErrorRecovery,
        Self::DisconnectReconnect,
        Self::Caching,
        Self::Control,
        Self::InformationalExceptions,
        Self::Provisioning,
    ];

    pub(super) const fn code(self) -> u8 {
        match self {
            Self::ErrorRecovery => 0x01,
            Self::DisconnectReconnect => 0x02,
            Self::Caching => 0x08,
            Self::Control => 0x0a,
            Self::InformationalExceptions | Self::Provisioning => 0x1c,
        }
    }

    /// Zero for what is no subpage.
    pub(super) const fn subpage(self) -> u8 {
        match self {
            Self::Provisioning => 0x02,
            _ => 0,
        }
    }

    /// Bytes in front of its values; the last of them say how many follow.
    pub(super) const fn header_bytes(self) -> usize {
        if self.subpage() == 0 { 2 } else { 4 }
    }

    const fn length(self) -> u8 {
        match self {
            Self::DisconnectReconnect => 0x0e,
            Self::Caching => 0x12,
            Self::ErrorRecovery | Self::Control | Self::InformationalExceptions => 0x0a,
            // SITUA and what is reserved, and a threshold.
            Self::Provisioning => 0x14,
        }
    }

    fn empty(self) -> Vec<u8> {
        let mut bytes = match self.subpage() {
            0 => vec![self.code(), self.length()],
            subpage => vec![SUBPAGE_FORMAT | self.code(), subpage, 0, self.length()],
        };
        bytes.resize(bytes.len() + usize::from(self.length()), 0);
        bytes
    }

    fn of(self, contents: &Contents) -> Vec<u8> {
        let Contents { modes, threshold } = contents;
        let bit = |set: bool, mask: u8| if set { mask } else { 0 };
        let mut bytes = self.empty();
        match self {
            Self::DisconnectReconnect => {}
            Self::ErrorRecovery => bytes[7] = bit(*threshold != Threshold::None, THRESHOLDS_TOLD),
            Self::Caching => bytes[2] = bit(modes.cached, WCE),
            Self::Control => {
                bytes[2] = GLTSD | bit(modes.descriptors, D_SENSE);
                bytes[3] = UNRESTRICTED;
                bytes[4] = bit(modes.protected, SWP);
            }
            Self::InformationalExceptions => bytes[2] = DEXCPT,
            Self::Provisioning => {
                bytes[16] = DECREASING;
                bytes[17] = AVAILABLE;
                if let Threshold::At(sets) = threshold {
                    bytes[16] |= ENABLED;
                    bytes[20..24].copy_from_slice(&sets.to_be_bytes());
                }
            }
        }
        bytes
    }

    fn changeable(self) -> Vec<u8> {
        let mut bytes = self.empty();
        match self {
            Self::ErrorRecovery
            | Self::DisconnectReconnect
            | Self::InformationalExceptions
            | Self::Provisioning => {}
            Self::Caching => bytes[2] = WCE,
            Self::Control => {
                bytes[2] = D_SENSE;
                bytes[4] = SWP;
            }
        }
        bytes
    }

    /// What `modes` become with the values of `page`, which has the right length and only changes
    /// what can be.
    pub(super) fn apply(self, page: &[u8], modes: &mut Modes) {
        match self {
            Self::ErrorRecovery
            | Self::DisconnectReconnect
            | Self::InformationalExceptions
            | Self::Provisioning => {}
            Self::Caching => modes.cached = page[2] & WCE != 0,
            Self::Control => {
                modes.descriptors = page[2] & D_SENSE != 0;
                modes.protected = page[4] & SWP != 0;
            }
        }
    }
}

impl Contents {
    /// The pages there are, in the order of their codes. Thresholds are there where somebody knows
    /// of space.
    pub(super) fn pages(&self) -> impl Iterator<Item = Page> {
        let known = self.threshold != Threshold::None;
        Page::ALL.into_iter().filter(move |page| known || *page != Page::Provisioning)
    }

    /// The page with its header.
    pub(super) fn encode(&self, page: Page, values: Values) -> Vec<u8> {
        match values {
            Values::Current => page.of(self),
            Values::Default => page.of(&Self { modes: self.modes.defaults(), ..*self }),
            Values::Changeable => page.changeable(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn every_contents() -> impl Iterator<Item = Contents> {
        let thresholds = [Threshold::None, Threshold::Unknown, Threshold::At(7)];
        (0..16).zip(thresholds.into_iter().cycle()).map(|(bits, threshold)| Contents {
            modes: Modes {
                descriptors: bits & 1 != 0,
                protected: bits & 2 != 0,
                cached: bits & 4 != 0,
                volatile: bits & 8 != 0,
            },
            threshold,
        })
    }

    #[test]
    fn pages_differ_only_where_they_can_be_changed() {
        for contents in every_contents() {
            for page in contents.pages() {
                let [current, default, changeable] =
                    [Values::Current, Values::Default, Values::Changeable]
                        .map(|values| contents.encode(page, values));
                let header = page.header_bytes();
                assert_eq!(
                    (default[..header].to_vec(), default.len()),
                    (current[..header].to_vec(), current.len())
                );
                assert_eq!(changeable[..header], default[..header]);
                assert_eq!(usize::from(default[header - 1]), default.len() - header);
                let bytes = current.iter().zip(&default).zip(&changeable).skip(header);
                for ((current, default), changeable) in bytes {
                    assert_eq!((current ^ default) & !changeable, 0);
                }
            }
        }
    }

    #[test]
    fn what_is_encoded_is_applied() {
        for contents in every_contents() {
            let mut found = Modes::new(contents.modes.volatile);
            for page in contents.pages() {
                page.apply(&contents.encode(page, Values::Current), &mut found);
            }
            assert_eq!(found, contents.modes);
        }
    }

    #[test]
    fn a_threshold_is_told_where_somebody_knows_it() {
        let of = |threshold| Contents { modes: Modes::new(true), threshold };
        let mut page = vec![0x5c, 0x02, 0, 0x14];
        page.extend([0; 12]);
        page.extend([0x82, 0x01, 0, 0, 0, 0, 1, 2]);
        let encoded = of(Threshold::At(0x0102)).encode(Page::Provisioning, Values::Current);
        assert_eq!(encoded, page);
        page[16] = 0x02;
        page[20..].fill(0);
        let encoded = of(Threshold::Unknown).encode(Page::Provisioning, Values::Current);
        assert_eq!(encoded, page);
        for (threshold, told) in [(Threshold::None, 0), (Threshold::Unknown, 0x80)] {
            let recovery = of(threshold).encode(Page::ErrorRecovery, Values::Current);
            assert_eq!(recovery, [0x01, 0x0a, 0, 0, 0, 0, 0, told, 0, 0, 0, 0]);
            let has = of(threshold).pages().any(|page| page == Page::Provisioning);
            assert_eq!(has, told != 0);
        }
    }
}
