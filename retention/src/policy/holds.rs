//! What keeps a moment of a line whatever the policy says.

use crate::ids::Sequence;
use crate::time::Timestamp;
use std::collections::BTreeMap;
use std::fmt;
use std::ops::RangeInclusive;

/// One reason to keep a moment.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[non_exhaustive]
pub enum Hold {
    /// It is locked until a date that has not come.
    Lock,
    /// Somebody pinned it.
    Pin,
    /// A branch starts there.
    Branch,
    /// An export shows it.
    Export,
    /// Somebody has it open.
    Lease,
    /// History begins there.
    Floor,
    /// The machines of its group have it in common, and the policy keeps it.
    Common,
}

impl Hold {
    /// Every reason.
    pub const ALL: [Self; 7] =
        [Self::Lock, Self::Pin, Self::Branch, Self::Export, Self::Lease, Self::Floor, Self::Common];

    const fn bit(self) -> u8 {
        match self {
            Self::Lock => 1,
            Self::Pin => 2,
            Self::Branch => 4,
            Self::Export => 8,
            Self::Lease => 16,
            Self::Floor => 32,
            Self::Common => 64,
        }
    }
}

impl fmt::Display for Hold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Lock => "locked",
            Self::Pin => "pinned",
            Self::Branch => "a branch starts there",
            Self::Export => "exported",
            Self::Lease => "being read",
            Self::Floor => "history begins there",
            Self::Common => "common to its group",
        })
    }
}

/// The moments of a line that are held.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Holds {
    held: BTreeMap<Sequence, u8>,
}

impl Holds {
    /// Holds `sequence` for this reason.
    pub fn add(&mut self, sequence: Sequence, why: Hold) {
        *self.held.entry(sequence).or_default() |= why.bit();
    }

    /// Holds what is locked until a time that has not come yet. `now` is the trusted time, or the last there was.
    pub fn add_locks(&mut self, locks: &BTreeMap<Sequence, Timestamp>, now: Timestamp) {
        let standing = locks.iter().filter(|(_, until)| **until > now);
        standing.for_each(|(sequence, _)| self.add(*sequence, Hold::Lock));
    }

    /// Nobody holds `sequence` any more.
    pub fn let_go(&mut self, sequence: Sequence) {
        self.held.remove(&sequence);
    }

    /// What is held here and not by `others`.
    pub fn beyond<'a>(&'a self, others: &'a Self) -> impl Iterator<Item = Sequence> + 'a {
        self.held.keys().copied().filter(|sequence| !others.holds(*sequence))
    }

    /// Whether it is held at all.
    pub fn holds(&self, sequence: Sequence) -> bool {
        self.held.contains_key(&sequence)
    }

    /// Why it is held.
    pub fn reasons(&self, sequence: Sequence) -> impl Iterator<Item = Hold> {
        let bits = self.held.get(&sequence).copied().unwrap_or(0);
        Hold::ALL.into_iter().filter(move |hold| bits & hold.bit() != 0)
    }

    /// What is held in `range`, in order.
    pub fn within(&self, range: RangeInclusive<Sequence>) -> impl Iterator<Item = Sequence> {
        self.held.range(range).map(|(sequence, _)| *sequence)
    }

    /// Whether nothing is held.
    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
    }
}
