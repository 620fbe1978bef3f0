//! What two sides of a session have agreed upon (section 13), and what this side offers.

use crate::iscsi::wire::{DEFAULT_SEGMENT, LONGEST_SEGMENT};

/// Most data of a command in one sequence that is agreed to, in bytes.
pub const MAX_BURST: u32 = LONGEST_SEGMENT;

/// Least that `MaxRecvDataSegmentLength`, `MaxBurstLength` and `FirstBurstLength` may be, in bytes.
pub const MIN_LENGTH: u32 = 512;

/// What this side has to offer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Offer {
    /// Longest data segment that is received, in bytes.
    pub max_receive_segment: u32,
    /// Most data in one sequence, in bytes.
    pub max_burst: u32,
    /// Most data that comes without being asked for, in bytes.
    pub first_burst: u32,
    /// Most transfers of a command that are asked for at a time.
    pub max_outstanding_r2t: u16,
    /// Commands that may be under way.
    pub window: u32,
}

impl Default for Offer {
    fn default() -> Self {
        Self {
            max_receive_segment: 1 << 20,
            max_burst: MAX_BURST,
            first_burst: 256 << 10,
            max_outstanding_r2t: 4,
            window: 128,
        }
    }
}

impl Offer {
    /// The same, within what the standard permits.
    #[must_use]
    pub fn clamped(self) -> Self {
        let max_burst = self.max_burst.clamp(MIN_LENGTH, MAX_BURST);
        Self {
            max_receive_segment: self.max_receive_segment.clamp(DEFAULT_SEGMENT, LONGEST_SEGMENT),
            max_burst,
            first_burst: self.first_burst.clamp(MIN_LENGTH, max_burst),
            max_outstanding_r2t: self.max_outstanding_r2t.max(1),
            window: self.window.clamp(1, 1 << 16),
        }
    }
}

/// What holds in a session. Begins with the defaults of the standard.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Terms {
    /// Headers have digests.
    pub header_digest: bool,
    /// Data segments have digests.
    pub data_digest: bool,
    /// Longest data segment this side receives, in bytes.
    pub max_receive_segment: u32,
    /// Longest data segment the initiator receives, in bytes.
    pub max_send_segment: u32,
    /// Most data in one sequence, in bytes.
    pub max_burst: u32,
    /// Most data that comes without being asked for, in bytes.
    pub first_burst: u32,
    /// Data-Out comes only when it is asked for.
    pub initial_r2t: bool,
    /// Commands bring data along.
    pub immediate_data: bool,
    /// Most transfers of a command that are asked for at a time.
    pub max_outstanding_r2t: u16,
    /// Seconds to wait before coming again.
    pub time_to_wait: u16,
}

impl Default for Terms {
    fn default() -> Self {
        Self {
            header_digest: false,
            data_digest: false,
            max_receive_segment: DEFAULT_SEGMENT,
            max_send_segment: DEFAULT_SEGMENT,
            max_burst: 262_144,
            first_burst: 65_536,
            initial_r2t: true,
            immediate_data: true,
            max_outstanding_r2t: 1,
            time_to_wait: 2,
        }
    }
}
