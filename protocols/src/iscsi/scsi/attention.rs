//! Unit attentions: what an initiator is told before its next command is done (SAM-5 5.14).
//!
//! They are kept per logical unit and nexus. One is told at a time, the gravest first, and is gone
//! once it has been told; a reset makes what was pending pointless. The set is bounded by the
//! number of kinds.

use super::sense::{Additional, Sense, SenseKey};

/// What has happened to a logical unit.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Attention {
    /// The nexus is new, or the device started again.
    PowerOn,
    /// The target was reset.
    TargetReset,
    /// The logical unit was reset.
    UnitReset,
    /// The session was replaced.
    NexusLoss,
    /// Another nexus cleared the task set, and commands of this one in it.
    CommandsCleared,
    /// A medium was loaded.
    MediumChanged,
    /// Units came or went.
    ReportedLunsChanged,
    /// The disk has another size.
    CapacityChanged,
    /// Another nexus changed mode parameters.
    ModeParametersChanged,
    /// Little space is left for a thin unit.
    SoftThreshold,
}

impl Attention {
    const ALL: [Self; 10] = [
        Self::PowerOn,
        Self::TargetReset,
        Self::UnitReset,
        Self::NexusLoss,
        Self::CommandsCleared,
        Self::MediumChanged,
        Self::ReportedLunsChanged,
        Self::CapacityChanged,
        Self::ModeParametersChanged,
        Self::SoftThreshold,
    ];

    /// As it is told.
    pub const fn sense(self) -> Sense {
        let additional = match self {
            Self::PowerOn => Additional::POWER_ON,
            Self::TargetReset => Additional::TARGET_RESET,
            Self::UnitReset => Additional::UNIT_RESET,
            Self::NexusLoss => Additional::NEXUS_LOSS,
            Self::CommandsCleared => Additional::COMMANDS_CLEARED,
            Self::MediumChanged => Additional::MEDIUM_CHANGED,
            Self::ReportedLunsChanged => Additional::REPORTED_LUNS_CHANGED,
            Self::CapacityChanged => Additional::CAPACITY_CHANGED,
            Self::ModeParametersChanged => Additional::MODE_PARAMETERS_CHANGED,
            Self::SoftThreshold => Additional::SOFT_THRESHOLD,
        };
        Sense::new(SenseKey::UnitAttention, additional)
    }

    /// Whether everything else is told by it: the initiator asks for everything anew.
    const fn covers_all(self) -> bool {
        matches!(self, Self::PowerOn | Self::TargetReset | Self::UnitReset | Self::NexusLoss)
    }

    const fn bit(self) -> u16 {
        1 << self as u16
    }
}

/// What a nexus still has to be told of a logical unit.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Pending(u16);

impl Pending {
    pub(super) const fn of(attention: Attention) -> Self {
        Self(attention.bit())
    }

    pub(super) fn add(&mut self, attention: Attention) {
        if attention.covers_all() {
            self.0 = 0;
        }
        self.0 |= attention.bit();
    }

    pub(super) fn remove(&mut self, attention: Attention) {
        self.0 &= !attention.bit();
    }

    /// The gravest.
    pub(super) fn first(self) -> Option<Attention> {
        Attention::ALL.into_iter().find(|one| self.0 & one.bit() != 0)
    }

    /// The gravest, which is told by that.
    pub(super) fn take(&mut self) -> Option<Attention> {
        let first = self.first()?;
        self.remove(first);
        Some(first)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gravest_is_told_first_and_once() {
        let mut pending = Pending::default();
        pending.add(Attention::ModeParametersChanged);
        pending.add(Attention::CapacityChanged);
        pending.add(Attention::CapacityChanged);
        assert_eq!(pending.take(), Some(Attention::CapacityChanged));
        assert_eq!(pending.take(), Some(Attention::ModeParametersChanged));
        assert_eq!(pending.take(), None);
    }

    #[test]
    fn a_reset_makes_the_others_pointless() {
        let mut pending = Pending::of(Attention::PowerOn);
        pending.add(Attention::ModeParametersChanged);
        pending.add(Attention::UnitReset);
        assert_eq!(pending.take(), Some(Attention::UnitReset));
        assert_eq!(pending.take(), None);
    }

    #[test]
    fn every_attention_has_a_place_of_its_own() {
        for (place, one) in Attention::ALL.into_iter().enumerate() {
            assert_eq!(one as usize, place);
            assert_eq!(one.sense().key, SenseKey::UnitAttention);
        }
    }
}
