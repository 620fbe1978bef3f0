//! The state of a machine's stream: what its batches mean for the moments one can go back to. Pure.
//!
//! ```text
//!               ┌──────── a disk without a first copy ◀───────┐
//!               ▼                                             │
//!   first ─▶  SEED ──mark──▶ CATCHUP ──mark that begins order──▶ ORDERED
//!               │              ▲  ▲ └───── positions lost ──┐     │
//!               └─ begun anew ─┼──┼──────────▶ RESYNC ◀─────┘     │
//!                              │  └─ mark ───────┘                │
//!                              └── a pass, a break, an error ─────┘
//! ```
//!
//! | state | moments that come to be | `latest` |
//! |---|---|---|
//! | SEED | none: the first copy is under way | there is none, or an older one |
//! | RESYNC | none until it ends; older ones stay | the newest before it |
//! | CATCHUP | the ends of passes: `crash` or `app`, or `fuzzy` where the source moved | the newest crash or app point |
//! | ORDERED | every sequence | the head |
//!
//! **Invariant:** ORDERED begins at a consistent point alone, and what ends it is on record before any batch that is not
//! a moment of its own.

use std::fmt;

/// What the stream of a machine is at.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum StreamState {
    /// The first copy of a disk is under way.
    Seed,
    /// Positions were lost: what differs is found by hash and sent.
    Resync,
    /// Passes follow one another, each from where the last one ended.
    Catchup,
    /// The source delivers its writes in the order in which they were made.
    Ordered,
}

/// A change of state that does not exist.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("a stream in {from} does not become {to}")]
pub struct IllegalTransition {
    /// What it is at.
    pub from: StreamState,
    /// What it was to become.
    pub to: StreamState,
}

impl StreamState {
    /// Every state, in the order of a stream that nothing happens to.
    pub const ALL: [Self; 4] = [Self::Seed, Self::Resync, Self::Catchup, Self::Ordered];

    /// The word for listings, the API and metrics.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Seed => "seed",
            Self::Resync => "resync",
            Self::Catchup => "catchup",
            Self::Ordered => "ordered",
        }
    }

    /// What it means for whoever wants to go back to a moment.
    pub const fn meaning(self) -> &'static str {
        match self {
            Self::Seed => "the first copy is under way; its end is the first point",
            Self::Resync => "what differs is compared and sent; no new point until that ends",
            Self::Catchup => {
                "points are the ends of passes; latest is the newest crash or app point"
            }
            Self::Ordered => "any instant can be chosen; latest is the newest one",
        }
    }

    /// Checks a change of state. Staying what it is is none.
    pub fn check_change(self, to: Self) -> Result<(), IllegalTransition> {
        let legal = match self {
            Self::Seed => matches!(to, Self::Catchup | Self::Resync),
            Self::Resync => matches!(to, Self::Catchup | Self::Seed),
            Self::Catchup => matches!(to, Self::Ordered | Self::Resync | Self::Seed),
            Self::Ordered => matches!(to, Self::Catchup),
        };
        if legal { Ok(()) } else { Err(IllegalTransition { from: self, to }) }
    }

    /// What it is at when a source opens it. `before` is what it was at; an order that was has ended.
    pub(crate) fn when_opened(before: Option<Self>, opening: Opening) -> Self {
        match (opening, before) {
            (Opening { seeding: true, .. }, _) => Self::Seed,
            (Opening { resumed: false, .. }, _) => Self::Resync,
            (Opening { at_mark: false, .. }, Some(Self::Resync)) => Self::Resync,
            _ => Self::Catchup,
        }
    }
}

/// How a stream is opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Opening {
    /// A disk of it has no complete first copy.
    pub(crate) seeding: bool,
    /// It goes on exactly where it stopped.
    pub(crate) resumed: bool,
    /// Nothing came to the line since a point.
    pub(crate) at_mark: bool,
}

impl fmt::Display for StreamState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.word())
    }
}

#[cfg(test)]
mod tests {
    use super::StreamState::{Catchup, Ordered, Resync, Seed};
    use super::*;

    #[test]
    fn order_begins_and_ends_in_catchup_alone() {
        let legal = |from: StreamState| {
            StreamState::ALL.into_iter().filter(move |to| from.check_change(*to).is_ok())
        };
        let table = StreamState::ALL.map(|from| legal(from).collect::<Vec<_>>());
        assert_eq!(
            table,
            [
                vec![Resync, Catchup],
                vec![Seed, Catchup],
                vec![Seed, Resync, Ordered],
                vec![Catchup],
            ]
        );
        let refused = Resync.check_change(Ordered).unwrap_err();
        assert_eq!(refused.to_string(), "a stream in resync does not become ordered");
    }

    #[test]
    fn what_an_opening_makes_of_it() {
        let opening = |seeding, resumed, at_mark| Opening { seeding, resumed, at_mark };
        for before in [None, Some(Seed), Some(Resync), Some(Catchup), Some(Ordered)] {
            let opened = |opening| StreamState::when_opened(before, opening);
            assert_eq!(opened(opening(true, true, false)), Seed);
            assert_eq!(opened(opening(false, false, true)), Resync);
            assert_eq!(opened(opening(false, true, true)), Catchup);
            let within = if before == Some(Resync) { Resync } else { Catchup };
            assert_eq!(opened(opening(false, true, false)), within);
        }
    }
}
