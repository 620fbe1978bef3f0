//! Mode pages.
use super::sense::SenseFormat;

#[derive(Debug, Default)]
pub(super) struct Modes;

impl Modes {
    pub(super) fn sense_format(&self) -> SenseFormat {
        SenseFormat::Fixed
    }
}
