//! Tags, sequence numbers and names of sessions, each a type of its own.
//!
//! Sequence numbers count in a circle (section 4.2.2: serial number arithmetic of RFC 1982): one
//! comes before another if the way from it is shorter than half the circle.

use std::fmt;
use zerocopy::big_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($plain:ty, $wire:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
        pub struct $name($plain);

        impl $name {
            /// The one of this number.
            pub const fn new(number: $plain) -> Self {
                Self(number)
            }

            /// As on the wire.
            pub const fn number(self) -> $plain {
                self.0
            }
        }

        impl From<$wire> for $name {
            fn from(number: $wire) -> Self {
                Self(number.get())
            }
        }

        impl From<$name> for $wire {
            fn from(number: $name) -> Self {
                Self::new(number.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:#x}", self.0)
            }
        }
    };
}

macro_rules! serial {
    ($name:ident) => {
        impl $name {
            /// The one after it.
            pub const fn next(self) -> Self {
                self.plus(1)
            }

            /// `count` further on.
            pub const fn plus(self, count: u32) -> Self {
                Self(self.0.wrapping_add(count))
            }

            /// How far it is from `earlier` to here; half the circle or more means that it is not
            /// later at all.
            pub const fn since(self, earlier: Self) -> u32 {
                self.0.wrapping_sub(earlier.0)
            }

            /// Whether it comes before `other`.
            pub const fn precedes(self, other: Self) -> bool {
                let way = other.since(self);
                way != 0 && way < 1 << 31
            }
        }
    };
}

number! {
    /// The initiator's name for a task (section 11.2.1.8).
    InitiatorTaskTag(u32, U32)
}
number! {
    /// The target's name for a transfer it asked for, or for a ping of its own (section 11.7.4).
    TargetTransferTag(u32, U32)
}
number! {
    /// Number of a command within its session (section 4.2.2.1).
    CmdSn(u32, U32)
}
number! {
    /// Number of a response within its connection (section 4.2.2.2).
    StatSn(u32, U32)
}
number! {
    /// Number of a data PDU or R2T within its transfer (section 4.2.2.4).
    DataSn(u32, U32)
}
number! {
    /// The target's part of a session's name; zero asks for a new session (section 11.12.6).
    Tsih(u16, U16)
}
number! {
    /// Number of a connection within its session (section 11.12.7).
    Cid(u16, U16)
}
number! {
    /// Number of a group of portals of a target (section 4.4.1).
    PortalGroup(u16, U16)
}
serial!(CmdSn);
serial!(StatSn);
serial!(DataSn);

impl InitiatorTaskTag {
    /// No task.
    pub const RESERVED: Self = Self(u32::MAX);
}

impl TargetTransferTag {
    /// No transfer.
    pub const RESERVED: Self = Self(u32::MAX);
}

impl Tsih {
    /// That of a session that is not there yet.
    pub const NEW: Self = Self(0);
}

/// What every response says of the order of PDUs (section 4.2.2), in twelve bytes that are always
/// in the same place.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ResponseNumbers {
    /// Its own number; that of the next response if it does not count.
    pub stat_sn: StatSn,
    /// The next command.
    pub exp_cmd_sn: CmdSn,
    /// The last command that may come.
    pub max_cmd_sn: CmdSn,
}

/// The same on the wire.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy, Debug)]
#[repr(C)]
pub(super) struct ResponseNumbersLayout {
    stat_sn: U32,
    exp_cmd_sn: U32,
    max_cmd_sn: U32,
}
const _: () = assert!(size_of::<ResponseNumbersLayout>() == 4 + 4 + 4);

impl From<ResponseNumbersLayout> for ResponseNumbers {
    fn from(layout: ResponseNumbersLayout) -> Self {
        let ResponseNumbersLayout { stat_sn, exp_cmd_sn, max_cmd_sn } = layout;
        Self {
            stat_sn: stat_sn.into(),
            exp_cmd_sn: exp_cmd_sn.into(),
            max_cmd_sn: max_cmd_sn.into(),
        }
    }
}

impl From<ResponseNumbers> for ResponseNumbersLayout {
    fn from(numbers: ResponseNumbers) -> Self {
        let ResponseNumbers { stat_sn, exp_cmd_sn, max_cmd_sn } = numbers;
        Self {
            stat_sn: stat_sn.into(),
            exp_cmd_sn: exp_cmd_sn.into(),
            max_cmd_sn: max_cmd_sn.into(),
        }
    }
}

/// The initiator's part of a session's name (section 11.12.5).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Isid(pub [u8; 6]);

impl fmt::Display for Isid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// The eight bytes that name a logical unit (SAM-5, 4.7). What they mean is the business of SCSI.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct LunField(pub [u8; 8]);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn numbers_count_in_a_circle() {
        let last = CmdSn::new(u32::MAX);
        assert_eq!(last.next(), CmdSn::new(0));
        assert!(last.precedes(CmdSn::new(0)) && !CmdSn::new(0).precedes(last));
        assert!(!last.precedes(last));
        assert_eq!(CmdSn::new(3).since(last), 4);
    }

    proptest! {
        #[test]
        fn of_two_at_most_one_precedes(one: u32, other: u32) {
            let (one, other) = (StatSn::new(one), StatSn::new(other));
            prop_assert!(!(one.precedes(other) && other.precedes(one)));
            prop_assert_eq!(one == other || one.precedes(other) || other.precedes(one),
                other.since(one) != 1 << 31);
        }
    }
}
