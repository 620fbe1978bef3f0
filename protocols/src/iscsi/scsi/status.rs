//! How a command ended.

/// Status codes, SAM-5 5.3.1.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Status {
    /// Done.
    Good = 0x00,
    /// Refused or failed: sense data says why.
    CheckCondition = 0x02,
    /// Done, and the condition of the command holds (PRE-FETCH).
    ConditionMet = 0x04,
    /// Not now; try again.
    Busy = 0x08,
    /// Another nexus has it reserved.
    ReservationConflict = 0x18,
    /// No room for another command.
    TaskSetFull = 0x28,
    /// An auto contingent allegiance is in the way.
    AcaActive = 0x30,
    /// Another nexus aborted it.
    TaskAborted = 0x40,
}

impl Status {
    /// As it stands in a response.
    pub const fn byte(self) -> u8 {
        self as u8
    }
}
