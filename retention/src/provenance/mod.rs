//! Provenance: where each block of a disk comes from at a moment, or at the head of a branch, and since when it is there.
//!
//! ```text
//!   depth   1  journal: what the line wrote           the branch, for one
//!           2  journal: what the line above it wrote  … each line one deeper, the trunk last
//!           n  image
//!           0  nowhere: a hole of the image
//!   age     from the first moment, still known, that has the block to what is shown
//! ```
//!
//! No content is read. A fold moves blocks from the journal into the image: that changes where a block comes from and how far
//! its age is known, never what it reads as.

mod ages;
mod walk;

#[cfg(test)]
mod tests;

use crate::ids::Sequence;
use crate::moment::{Moment, ResolveError};
use crate::name::Name;
use crate::retention::Retention;
use crate::time::{Clock, Timestamp};
use crate::view::{Showing, View, index_failed};
use ages::{Ages, Spell};
use landfall_disks::uring::offload;
use landfall_disks::{ByteRange, Content, DiskError};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use walk::{Look, Parts, Written, walk};

/// How often the image is asked for its map in one look; each answer may end early.
const MAPS_AT_ONCE: usize = 64;

/// What somebody looks at.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Shown {
    /// A moment.
    Moment(Moment),
    /// The head of a branch, which may be written to meanwhile.
    Head {
        /// The machine.
        machine: Name,
        /// The branch.
        branch: Name,
    },
}

impl Shown {
    /// Whose it is.
    pub fn machine(&self) -> &Name {
        match self {
            Self::Moment(moment) => &moment.machine,
            Self::Head { machine, .. } => machine,
        }
    }
}

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Moment(moment) => f.write_str(&moment.absolute_name(None)),
            Self::Head { machine, branch } => write!(f, "the head of {machine}~{branch}"),
        }
    }
}

/// Where the blocks of a disk come from. What is shown stays while this is open.
pub struct Provenance {
    view: View,
    /// When what is shown was committed; `None` for a head, which is as it is now.
    committed: Option<Timestamp>,
    clock: Arc<dyn Clock>,
}

impl Retention {
    /// Opens the provenance of a disk. Costs no look at the index.
    pub fn provenance(&self, shown: &Shown, disk: &Name) -> Result<Provenance, ResolveError> {
        let reading = Arc::clone(&self.reading);
        let (view, committed) = match shown {
            Shown::Moment(moment) => {
                let (line, replica, lease) = self.hold(moment, disk)?;
                let view = View::new(reading, replica, line, Showing::Fixed(moment.sequence));
                (view.holding(lease), Some(moment.commit_time))
            }
            Shown::Head { machine, .. } => {
                let (line, showing) = self.line_shown(shown)?;
                let replica = self.disk_named(machine, disk)?;
                self.check_there(&replica, &line, Sequence::MAX)?;
                (View::new(reading, replica, line, showing), None)
            }
        };
        Ok(Provenance { view, committed, clock: Arc::clone(&self.surroundings.clock) })
    }
}

impl Provenance {
    /// How deep the blocks of a prefix of `range` lie, which lies within the disk: parts in address order, neighbours
    /// different. Not empty, unless `range` is.
    pub async fn depths(&self, range: ByteRange) -> Result<Vec<(ByteRange, u32)>, DiskError> {
        let _turn = self.view.looks().0.turns.begin();
        let look = self.look();
        let image_depth = look.image_depth();
        let parts = self.parts(range, look, |written, depth| written.map(|_| depth));
        let mut depths = Parts::default();
        let mut maps = 0;
        for (part, depth) in parts.await? {
            let mut rest = match depth {
                Some(depth) => {
                    depths.push(part, depth);
                    continue;
                }
                None => part,
            };
            while !rest.is_empty() {
                if maps == MAPS_AT_ONCE {
                    return Ok(depths.into_inner());
                }
                maps += 1;
                let map = self.view.map_image(rest).await?;
                let end = map.last().map_or(rest.start(), |last| last.range.end().min(rest.end()));
                for mapped in map {
                    let hole = mapped.content == Content::Hole;
                    let depth = if hole { 0 } else { image_depth };
                    depths.push(mapped.range.intersection(rest), depth);
                }
                if end == rest.start() {
                    // What it says nothing of is there: reading it will tell.
                    depths.push(rest, image_depth);
                    break;
                }
                rest = rest.split_at(end).1;
            }
        }
        Ok(depths.into_inner())
    }

    /// How long before what is shown the blocks of a prefix of `range` were written, in whole seconds: by the first moment
    /// that has them and is still known, so they are at least as old. `None` where that lies before what the journal has. Parts
    /// in address order, neighbours different; not empty, unless `range` is.
    pub async fn ages(
        &self,
        range: ByteRange,
    ) -> Result<Vec<(ByteRange, Option<Duration>)>, DiskError> {
        let until = self.committed.unwrap_or_else(|| self.clock.now());
        let look = self.look();
        let index = Arc::clone(&self.view.looks().0.index);
        let mut ages = Ages::new(Spell::of(&look.depths, until));
        let written = self.parts(range, look, |written, _| written).await?;
        let told = offload(move || {
            let mut told = Parts::default();
            for (part, written) in written {
                let since = match written {
                    Some(Written { line, sequence, lost: false, .. }) => {
                        Some(ages.first_moment(&*index, line, sequence)?)
                    }
                    _ => None,
                };
                let age = since.map(|since| Duration::from_secs(until.since(since).as_secs()));
                told.push(part, age);
            }
            Ok(told.into_inner())
        });
        told.await.map_err(|error| index_failed(range, &error))
    }

    fn look(&self) -> Look {
        let (_, newest) = self.view.looks();
        Look::new(self.view.line().depths(newest))
    }

    /// What was written where in a prefix of `range`, as `say` has it of that and how deep it lies.
    async fn parts<T: PartialEq + Send + 'static>(
        &self,
        range: ByteRange,
        look: Look,
        say: impl Fn(Option<Written>, u32) -> T + Send + 'static,
    ) -> Result<Vec<(ByteRange, T)>, DiskError> {
        self.view.check_open()?;
        self.view.check_indexed(range)?;
        let (index, disk) = (Arc::clone(&self.view.looks().0.index), Arc::clone(self.view.disk()));
        let found = offload(move || {
            let floor = || disk.floor().unwrap_or_default();
            walk(&*index, &look, floor, (disk.id(), range), say)
        });
        let found = found.await.map_err(|error| index_failed(range, &error))?;
        // The index forgets a discarded line after it was closed: what was found since must not be believed.
        self.view.check_open()?;
        Ok(found)
    }
}
