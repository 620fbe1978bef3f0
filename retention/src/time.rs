//! Wall-clock time as history records it, and the clock that is passed in.
//!
//! A [`Timestamp`] is nanoseconds since 1970 in UTC. Text is RFC 3339 with a zone; what is printed reads back to the
//! same nanosecond.

use std::fmt;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// Nanoseconds since the Unix epoch, UTC.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp(u64);

/// Why a text is not a time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TimeError {
    /// Not RFC 3339, or without a zone.
    #[error("{text:?} is not a time: write RFC 3339 with a zone, such as 2026-11-21T14:03:05Z")]
    NotATime {
        /// What was written.
        text: String,
    },
    /// Before 1970 or after 2554.
    #[error("{text} lies outside the years 1970 to 2554")]
    OutOfRange {
        /// What was written.
        text: String,
    },
}

impl Timestamp {
    /// The moment `nanoseconds` after the epoch.
    pub const fn from_nanoseconds(nanoseconds: u64) -> Self {
        Self(nanoseconds)
    }

    /// Nanoseconds since the epoch.
    pub const fn nanoseconds(self) -> u64 {
        self.0
    }

    /// One nanosecond later.
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }

    /// The moment `ago` earlier; the epoch if that lies before it.
    pub fn earlier(self, ago: Duration) -> Self {
        Self(self.0.saturating_sub(u64::try_from(ago.as_nanos()).unwrap_or(u64::MAX)))
    }

    /// How long ago `earlier` was; zero if it is not earlier.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    /// Reads RFC 3339 with a zone.
    pub fn parse(text: &str) -> Result<Self, TimeError> {
        let time: jiff::Timestamp =
            text.parse().map_err(|_| TimeError::NotATime { text: text.to_owned() })?;
        u64::try_from(time.as_nanosecond())
            .map(Self)
            .map_err(|_| TimeError::OutOfRange { text: text.to_owned() })
    }
}

impl fmt::Display for Timestamp {
    /// RFC 3339 in UTC with as many digits as are needed to read back the same nanosecond.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time = jiff::Timestamp::from_nanosecond(i128::from(self.0)).map_err(|_| fmt::Error)?;
        write!(f, "{time}")
    }
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Where the present comes from.
pub trait Clock: Send + Sync {
    /// The present. May step backwards, as wall clocks do.
    fn now(&self) -> Timestamp;

    /// Time since some moment of this run. Grows evenly, whatever is done to the wall clock.
    fn uptime(&self) -> Duration;
}

/// The clock of the machine.
#[derive(Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        let since_epoch = std::time::SystemTime::now()
            .duration_since(std::time::SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        Timestamp(u64::try_from(since_epoch.as_nanos()).unwrap_or(u64::MAX))
    }

    fn uptime(&self) -> Duration {
        static FIRST_ASKED: OnceLock<Instant> = OnceLock::new();
        FIRST_ASKED.get_or_init(Instant::now).elapsed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_time_without_a_zone_is_refused() {
        assert!(matches!(Timestamp::parse("2026-11-21T14:03:05"), Err(TimeError::NotATime { .. })));
        assert!(matches!(Timestamp::parse("yesterday"), Err(TimeError::NotATime { .. })));
        assert!(matches!(
            Timestamp::parse("1969-01-01T00:00:00Z"),
            Err(TimeError::OutOfRange { .. })
        ));
    }

    #[test]
    fn zones_are_honoured() {
        assert_eq!(
            Timestamp::parse("2026-11-21T15:00:00+01:00"),
            Timestamp::parse("2026-11-21T14:00:00Z")
        );
    }

    proptest! {
        #[test]
        fn text_reads_back_to_the_same_nanosecond(nanoseconds in 0u64..=18_000_000_000_000_000_000) {
            let time = Timestamp::from_nanoseconds(nanoseconds);
            prop_assert_eq!(Timestamp::parse(&time.to_string()), Ok(time));
        }
    }
}
