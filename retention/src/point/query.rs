//! Which points of a line a listing asks for.

use super::PointKind;
use crate::ids::Sequence;
use crate::time::Timestamp;

/// Some kinds of points.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct KindSet(u8);

/// Where a listing starts.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum PointOrder {
    /// With the oldest.
    #[default]
    OldestFirst,
    /// With the newest.
    NewestFirst,
}

/// A page of a listing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PointQuery {
    /// Committed at or after this.
    pub from: Timestamp,
    /// Committed at or before this.
    pub to: Timestamp,
    /// Of these kinds.
    pub kinds: KindSet,
    /// Where to start.
    pub order: PointOrder,
    /// The last point of the page before: the listing goes on behind it.
    pub after: Option<Sequence>,
    /// At most so many.
    pub limit: usize,
}

impl KindSet {
    /// Every kind.
    pub const ALL: Self = Self(0b111);
    /// No kind.
    pub const NONE: Self = Self(0);

    /// These and `kind`.
    #[must_use]
    pub fn with(self, kind: PointKind) -> Self {
        Self(self.0 | Self::bit(kind))
    }

    /// Whether `kind` is one of them.
    pub fn has(self, kind: PointKind) -> bool {
        self.0 & Self::bit(kind) != 0
    }

    const fn bit(kind: PointKind) -> u8 {
        match kind {
            PointKind::App => 1,
            PointKind::Crash => 2,
            PointKind::Fuzzy => 4,
        }
    }
}

impl FromIterator<PointKind> for KindSet {
    fn from_iter<I: IntoIterator<Item = PointKind>>(kinds: I) -> Self {
        kinds.into_iter().fold(Self::NONE, Self::with)
    }
}

impl PointQuery {
    /// All points, oldest first, `limit` at a time.
    pub fn all(limit: usize) -> Self {
        Self {
            from: Timestamp::default(),
            to: Timestamp::from_nanoseconds(u64::MAX),
            kinds: KindSet::ALL,
            order: PointOrder::OldestFirst,
            after: None,
            limit,
        }
    }
}
