//! Mode parameters: MODE SENSE, MODE SELECT and the pages behind them (SPC-4 6.11 to 6.14, 7.5;
//! SBC-4 6.5).
//!
//! ```text
//!   Modes    what initiators can change: three bits
//!   Contents the same with what the unit knows of its space
//!   pages    pages of them, as bytes: current, changeable and default values
//!   sense    header, block descriptor and pages for an initiator
//!   select   the way back: checked as a whole, then taken as a whole
//! ```
//!
//! Nothing is saved (SPC-4 7.5.1): after a reset, and when whoever offers the unit starts again, it
//! has the default values. Sessions that come and go change nothing of them.

mod pages;
mod select;
mod sense;

pub(super) use pages::Threshold;
pub(super) use select::{SelectForm, perform as perform_select, select6, select10};
pub(super) use sense::{sense6, sense10};

use super::sense::SenseFormat;

/// What initiators can change of a unit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Modes {
    /// D_SENSE: descriptor format sense data.
    descriptors: bool,
    /// SWP: software write protect.
    protected: bool,
    /// WCE: writes may be answered before they are durable.
    cached: bool,
    /// What WCE is to begin with: whether the disk has such a cache at all.
    volatile: bool,
}

impl Modes {
    /// Of a unit that was just attached; its disk has a `volatile` cache or none.
    pub(super) fn new(volatile: bool) -> Self {
        Self { descriptors: false, protected: false, cached: volatile, volatile }
    }

    /// As they were to begin with.
    pub(super) fn defaults(&self) -> Self {
        Self::new(self.volatile)
    }

    /// Whether `after` may be in force only once all that was written is durable: where the cache
    /// is switched off (SBC-3 6.5.5) and where writes begin to be refused (SPC-4 7.5.8).
    fn needs_flush(&self, after: &Self) -> bool {
        self.cached && !after.cached || !self.protected && after.protected
    }

    /// The format of sense data.
    pub(super) fn sense_format(&self) -> SenseFormat {
        if self.descriptors { SenseFormat::Descriptor } else { SenseFormat::Fixed }
    }

    /// Whether writes are refused.
    pub(super) fn protects(&self) -> bool {
        self.protected
    }

    /// Whether writes may be answered before they are durable.
    pub(super) fn caches_writes(&self) -> bool {
        self.cached
    }
}
