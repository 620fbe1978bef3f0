//! Changes: which parts of a disk differ between two moments, exact to the block, without reading any content.
//!
//! ```text
//!   from, to ─▶ what lies between them (windows) ─▶ blocks with a version in there (page) ─▶ ranges, page by page
//! ```
//!
//! Any two moments of a machine will do: either may be the older one, and they may lie on different lines. A block counts
//! if it was **written** on the way from one to the other, whatever it held before: what was rewritten with the same
//! bytes counts. So changes are the same in both directions, and those from A to C are never more than those from A to B
//! and from B to C together. What does not count reads the same at both moments.
//!
//! Both moments are held while it is open, so that they can be read as well. **Invariant:** nothing that differs is left
//! out. Where records between the moments were lost to media damage, what they wrote is not known, and every other part
//! of the disk is given as such.

mod page;
mod since;
mod windows;

#[cfg(test)]
pub(crate) mod model;
#[cfg(test)]
mod tests;

use crate::ids::DiskId;
use crate::index::{IndexError, IndexStore};
use crate::lease::Lease;
use crate::line::Line;
use crate::moment::{Moment, ResolveError};
use crate::name::Name;
use crate::retention::Retention;
use landfall_disks::uring::offload;
use landfall_disks::{ByteOffset, ByteRange};
use page::{Page, PageLimits, page};
use std::sync::Arc;
use windows::Between;

pub use since::{Change, ChangesSince};

/// Entries of the index that a page looks at, about: some tenths of a second at worst.
const PAGE_EFFORT: u64 = 200_000;

/// Why changes cannot be told.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ChangesError {
    /// A moment is not there, or the disk is not there at that moment.
    #[error(transparent)]
    Resolve(#[from] ResolveError),
    /// The moments are of two machines.
    #[error("{from} and {to} have no history in common")]
    NothingInCommon {
        /// One.
        from: String,
        /// The other.
        to: String,
    },
    /// It is not in the past of what is looked at.
    #[error("{from} is not in the past of {shown}")]
    NotBefore {
        /// The moment.
        from: String,
        /// What is looked at.
        shown: String,
    },
    /// A branch of one of them was discarded, or the machine removed, meanwhile.
    #[error("{0} is gone: its branch was discarded or its machine removed")]
    Gone(String),
    /// The index failed.
    #[error(transparent)]
    Index(#[from] IndexError),
}

/// A part of a disk that may read otherwise at the other moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ChangedRange {
    /// Which bytes.
    pub range: ByteRange,
    /// Whether it was written. If not, a record that may have changed it was lost to media damage.
    pub written: bool,
}

/// Some changes, in address order and apart from each other.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ChangesPage {
    /// The ranges. The last one may go on in the next page.
    pub ranges: Vec<ChangedRange>,
    /// Where the next page starts; `None` at the end of the disk.
    pub next: Option<ByteOffset>,
}

/// What changed on a disk between two moments, both of which stay while this is open.
pub struct Changes {
    from: Moment,
    to: Moment,
    disk: DiskId,
    size_bytes: u64,
    between: Arc<Between>,
    index: Arc<dyn IndexStore>,
    lines: [Arc<Line>; 2],
    _leases: [Lease; 2],
}

impl Retention {
    /// Opens the changes of a disk between two moments. Costs no look at the index.
    pub fn changes(&self, from: Moment, to: Moment, disk: &Name) -> Result<Changes, ChangesError> {
        let (line_from, replica, lease_from) = self.hold(&from, disk)?;
        let (line_to, replica_to, lease_to) = self.hold(&to, disk)?;
        let layers = [line_from.layers(from.sequence), line_to.layers(to.sequence)];
        let between =
            Between::of(&layers[0], &layers[1]).filter(|_| replica.id() == replica_to.id());
        let between = between.ok_or_else(|| ChangesError::NothingInCommon {
            from: from.absolute_name(Some(disk)),
            to: to.absolute_name(Some(disk)),
        })?;
        Ok(Changes {
            disk: replica.id(),
            size_bytes: replica.size_in(&line_to.place(to.sequence)),
            between: Arc::new(between),
            index: Arc::clone(&self.surroundings.index),
            lines: [line_from, line_to],
            _leases: [lease_from, lease_to],
            from,
            to,
        })
    }
}

impl Changes {
    /// Where it starts.
    pub fn from(&self) -> &Moment {
        &self.from
    }

    /// Where it leads.
    pub fn to(&self) -> &Moment {
        &self.to
    }

    /// Size of the disk at the moment it leads to, in bytes. No change lies beyond.
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// The changes at and after `from`, at most `most` written ranges of them. A page may be empty and not the last: what one
    /// costs is bounded, however much there is that did not change.
    pub async fn page(&self, from: ByteOffset, most: usize) -> Result<ChangesPage, ChangesError> {
        self.check_there()?;
        let from = from.min(ByteOffset::new(self.size_bytes));
        let whole = ByteRange::up_to(self.size_bytes).split_at(from).1;
        let limits = PageLimits { ranges: most.max(1), effort: PAGE_EFFORT };
        let (index, between) = (Arc::clone(&self.index), Arc::clone(&self.between));
        let of = (self.disk, whole);
        let found = offload(move || page(&*index, &between.windows, of, limits)).await?;
        // The index forgets a discarded line after it was closed: what was found since must not be believed.
        self.check_there()?;
        Ok(with_lost(found, whole, self.between.lost))
    }

    fn check_there(&self) -> Result<(), ChangesError> {
        for (line, moment) in self.lines.iter().zip([&self.from, &self.to]) {
            if line.is_gone(moment.sequence) {
                return Err(ChangesError::Gone(moment.absolute_name(None)));
            }
        }
        Ok(())
    }
}

/// The page of `whole`, and what lies between its ranges if any of that may have changed too.
fn with_lost(page: Page, whole: ByteRange, lost: bool) -> ChangesPage {
    let mut ranges = Vec::with_capacity(page.ranges.len());
    let mut rest = whole;
    for range in page.ranges {
        let (before, _) = rest.split_at(range.start());
        if lost && !before.is_empty() {
            ranges.push(ChangedRange { range: before, written: false });
        }
        ranges.push(ChangedRange { range, written: true });
        rest = rest.split_at(range.end()).1;
    }
    let (before, _) = rest.split_at(page.next.unwrap_or(whole.end()));
    if lost && !before.is_empty() {
        ranges.push(ChangedRange { range: before, written: false });
    }
    ChangesPage { ranges, next: page.next }
}
