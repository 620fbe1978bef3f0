//! Why a stream is refused: one code per rule, the same on the wire, in counters and in log lines.
//!
//! A refusal ends its stream and no other. Its text is for people and names what exists.

use super::identity::{Generation, Position};
use super::wire::FrameError;
use landfall_disks::ByteRange;

/// A checked fact that ends a stream.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// No such machine.
    #[error("unknown machine {machine}; {}", existing("machines", .known))]
    UnknownMachine {
        /// What was asked for.
        machine: String,
        /// What exists.
        known: Vec<String>,
    },
    /// The machine has no such disk.
    #[error("machine {machine} has no disk {disk}; {}", existing("its disks", .known))]
    UnknownDisk {
        /// The machine.
        machine: String,
        /// What was asked for.
        disk: String,
        /// What exists.
        known: Vec<String>,
    },
    /// A disk has another size here.
    #[error("disk {disk} has {ours} bytes here and {yours} bytes at the source{}", advice(disk, *ours, *yours))]
    SizeMismatch {
        /// The disk.
        disk: String,
        /// Its size at the target.
        ours: u64,
        /// Its size at the source.
        yours: u64,
    },
    /// A range reaches past the end of its disk.
    #[error("range {range} reaches past the end of disk {disk} ({size_bytes} bytes)")]
    OutOfRange {
        /// The disk.
        disk: String,
        /// The range.
        range: ByteRange,
        /// Where the disk ends.
        size_bytes: u64,
    },
    /// Content does not have the hash its extent states.
    #[error("position {position}: the content of {range} does not have the hash that came with it")]
    WrongHash {
        /// The batch.
        position: Position,
        /// The extent.
        range: ByteRange,
    },
    /// A position was left out.
    #[error("position {got} came where {expected} was due")]
    SkippedPosition {
        /// The next one in order.
        expected: Position,
        /// The one that came.
        got: Position,
    },
    /// The source holds positions of a generation that has ended.
    #[error(
        "positions of generation {got} are not vouched for any more, generation {current} is current; compare and go on"
    )]
    OldGeneration {
        /// The one that counts.
        current: Generation,
        /// The one the source holds.
        got: Generation,
    },
    /// Another stream feeds the machine.
    #[error("machine {machine} is fed by {peer} at this moment")]
    StreamBusy {
        /// The machine.
        machine: String,
        /// Who holds it.
        peer: String,
    },
    /// A frame larger than its limit.
    #[error("frame of {length} bytes, limit {limit}")]
    OversizedFrame {
        /// Bytes it announced.
        length: u64,
        /// Bytes allowed.
        limit: u64,
    },
    /// A frame that breaks the format.
    #[error("malformed frame: {0}")]
    BadFrame(String),
    /// A frame that has no place in the present state of the stream.
    #[error("{what} is out of place here")]
    OutOfOrder {
        /// What came.
        what: String,
    },
    /// No common version.
    #[error(
        "versions {theirs_min} to {theirs_max} are spoken there, {ours_min} to {ours_max} here"
    )]
    NoCommonVersion {
        /// Oldest of the source.
        theirs_min: u16,
        /// Newest of the source.
        theirs_max: u16,
        /// Oldest here.
        ours_min: u16,
        /// Newest here.
        ours_max: u16,
    },
    /// More was sent than there was credit for.
    #[error("{sent} bytes are unacknowledged, credit was given for {credit}")]
    CreditOverrun {
        /// Bytes under way.
        sent: u64,
        /// Bytes allowed.
        credit: u64,
    },
    /// The certificate is good, but not for this machine.
    #[error("{who} may not send to machine {machine}")]
    Forbidden {
        /// Name in the certificate.
        who: String,
        /// The machine.
        machine: String,
    },
    /// No space for more history. The stream may go on when there is some.
    #[error("the journal is full: {0}")]
    JournalFull(String),
    /// Somebody paused replication of the machine.
    #[error("replication is paused: {0}")]
    Paused(String),
    /// Nothing was heard for too long.
    #[error("nothing was heard for {seconds} seconds")]
    Silent {
        /// The limit.
        seconds: u64,
    },
    /// Too many connections at once.
    #[error("{limit} connections are open, which is the limit")]
    TooManyConnections {
        /// The limit.
        limit: usize,
    },
    /// The target is being stopped.
    #[error("the target is being stopped")]
    Stopping,
    /// Something failed at the target.
    #[error("the target failed: {0}")]
    Failed(String),
}

fn advice(disk: &str, ours: u64, yours: u64) -> String {
    if yours > ours {
        format!("; let it grow here too: landfall disk grow MACHINE/{disk} --size {yours}")
    } else {
        String::new()
    }
}

fn existing(what: &str, names: &[String]) -> String {
    if names.is_empty() { format!("{what}: none") } else { format!("{what}: {}", names.join(", ")) }
}

impl Refusal {
    /// Its code.
    pub fn code(&self) -> RefusalCode {
        match self {
            Self::UnknownMachine { .. } => RefusalCode::UnknownMachine,
            Self::UnknownDisk { .. } => RefusalCode::UnknownDisk,
            Self::SizeMismatch { .. } => RefusalCode::SizeMismatch,
            Self::OutOfRange { .. } => RefusalCode::OutOfRange,
            Self::WrongHash { .. } => RefusalCode::WrongHash,
            Self::SkippedPosition { .. } => RefusalCode::SkippedPosition,
            Self::OldGeneration { .. } => RefusalCode::OldGeneration,
            Self::StreamBusy { .. } => RefusalCode::StreamBusy,
            Self::OversizedFrame { .. } => RefusalCode::OversizedFrame,
            Self::BadFrame(_) => RefusalCode::BadFrame,
            Self::OutOfOrder { .. } => RefusalCode::OutOfOrder,
            Self::NoCommonVersion { .. } => RefusalCode::NoCommonVersion,
            Self::CreditOverrun { .. } => RefusalCode::CreditOverrun,
            Self::Forbidden { .. } => RefusalCode::Forbidden,
            Self::JournalFull(_) => RefusalCode::JournalFull,
            Self::Paused(_) => RefusalCode::Paused,
            Self::Silent { .. } => RefusalCode::Silent,
            Self::TooManyConnections { .. } => RefusalCode::TooManyConnections,
            Self::Stopping => RefusalCode::Stopping,
            Self::Failed(_) => RefusalCode::Failed,
        }
    }
}

impl From<FrameError> for Refusal {
    fn from(error: FrameError) -> Self {
        match error {
            FrameError::Oversized { length, limit, .. } => {
                Self::OversizedFrame { length: length as u64, limit: limit as u64 }
            }
            other => Self::BadFrame(other.to_string()),
        }
    }
}

/// What a refused source does next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Retry {
    /// Nothing: the same again would be refused again.
    Never,
    /// The same again, later.
    Later,
    /// Connect again holding no position, and compare.
    Afresh,
}

impl Retry {
    /// Number on the wire.
    pub(super) fn number(self) -> u8 {
        match self {
            Self::Never => 0,
            Self::Later => 1,
            Self::Afresh => 2,
        }
    }

    /// The one with this number.
    pub(super) fn from_number(number: u8) -> Option<Self> {
        [Self::Never, Self::Later, Self::Afresh].get(usize::from(number)).copied()
    }
}

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $number:literal, $text:literal, $retry:ident;)*) => {
        /// Code of a [`Refusal`].
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        #[non_exhaustive]
        pub enum RefusalCode {
            $($(#[$doc])* $name,)*
            /// A code of a newer version.
            Unknown(u16),
        }

        impl RefusalCode {
            /// Every code defined here.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            /// Number on the wire.
            pub fn number(self) -> u16 {
                match self {
                    $(Self::$name => $number,)*
                    Self::Unknown(number) => number,
                }
            }

            /// The one with this number.
            pub fn from_number(number: u16) -> Self {
                match number {
                    $($number => Self::$name,)*
                    other => Self::Unknown(other),
                }
            }

            /// Short text for counters and log fields.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                    Self::Unknown(_) => "unknown",
                }
            }

            /// What the source should do.
            pub fn retry(self) -> Retry {
                match self {
                    $(Self::$name => Retry::$retry,)*
                    Self::Unknown(_) => Retry::Later,
                }
            }
        }
    };
}

codes! {
    /// No such machine.
    UnknownMachine = 1, "unknown_machine", Never;
    /// No such disk.
    UnknownDisk = 2, "unknown_disk", Never;
    /// Sizes differ.
    SizeMismatch = 3, "size_mismatch", Never;
    /// Past the end of a disk.
    OutOfRange = 4, "out_of_range", Never;
    /// Content and hash differ.
    WrongHash = 5, "wrong_hash", Later;
    /// A position was left out.
    SkippedPosition = 6, "skipped_position", Afresh;
    /// The generation has ended.
    OldGeneration = 7, "old_generation", Afresh;
    /// Another stream feeds the machine.
    StreamBusy = 8, "stream_busy", Later;
    /// A frame past its limit.
    OversizedFrame = 9, "oversized_frame", Never;
    /// A malformed frame.
    BadFrame = 10, "bad_frame", Never;
    /// A frame at the wrong time.
    OutOfOrder = 11, "out_of_order", Never;
    /// No common version.
    NoCommonVersion = 12, "no_common_version", Never;
    /// More sent than allowed.
    CreditOverrun = 13, "credit_overrun", Never;
    /// Not with this certificate.
    Forbidden = 14, "forbidden", Never;
    /// No space.
    JournalFull = 15, "journal_full", Later;
    /// Paused by somebody.
    Paused = 16, "paused", Later;
    /// Nothing heard.
    Silent = 17, "silent", Later;
    /// Too many connections.
    TooManyConnections = 18, "too_many_connections", Later;
    /// The target is being stopped.
    Stopping = 19, "stopping", Later;
    /// The target failed.
    Failed = 20, "failed", Later;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_keep_their_numbers() {
        let numbers: Vec<u16> = RefusalCode::ALL.iter().map(|code| code.number()).collect();
        assert_eq!(numbers, (1..=20).collect::<Vec<u16>>());
        for number in 0..300 {
            assert_eq!(RefusalCode::from_number(number).number(), number);
        }
        assert_eq!(RefusalCode::from_number(15), RefusalCode::JournalFull);
    }

    #[test]
    fn an_unknown_name_is_answered_with_what_exists() {
        let known = vec!["db".to_owned(), "web".to_owned()];
        let refusal = Refusal::UnknownMachine { machine: "wbe".to_owned(), known };
        assert_eq!(refusal.to_string(), "unknown machine wbe; machines: db, web");
        let none = Refusal::UnknownMachine { machine: "x".to_owned(), known: Vec::new() };
        assert_eq!(none.to_string(), "unknown machine x; machines: none");
    }
}
