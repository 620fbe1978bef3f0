//! What changed on a disk since a moment, up to what somebody looks at: a later moment, or the head of a branch as it is when
//! they ask.
//!
//! ```text
//!   WHEN ─▶ a moment in the past of what is shown, held ─▶ any part of the disk: written since, or not, or not known
//! ```
//!
//! A moment lies in the past of what is shown if it is one of its line at or before it, or one of the line that this branched
//! from, at or before the moment where it did, and so on. **Invariant:** WHEN is resolved once and held as long as this is
//! open; nothing that differs is told as the same.

use super::page::{PageLimits, page};
use super::windows::Between;
use super::{ChangesError, with_lost};
use crate::ids::DiskId;
use crate::index::IndexStore;
use crate::lease::Lease;
use crate::line::Line;
use crate::moment::{Moment, ResolveError, resolve_on_line};
use crate::name::{MomentName, Name, When};
use crate::point::{Point, PointOrder, PointQuery};
use crate::provenance::Shown;
use crate::retention::Retention;
use crate::view::{Showing, index_failed};
use landfall_disks::uring::offload;
use landfall_disks::{ByteRange, DiskError};
use std::sync::Arc;

/// Entries of the index that one look is for, about: a hundredth of a second or two.
const LOOK_EFFORT: u64 = 50_000;

/// What is known of a block since a moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Change {
    /// It reads as it did.
    None,
    /// It was written.
    Written,
    /// It was not written as far as is known, but a record that may have done so was lost to media damage.
    Unknown,
}

/// What changed since a moment that stays while this is open.
pub struct ChangesSince {
    from: (Moment, Arc<Line>),
    to: (Arc<Line>, Showing),
    disk: DiskId,
    index: Arc<dyn IndexStore>,
    _leases: (Lease, Option<Lease>),
}

impl Retention {
    /// Opens what changed on a disk between the moment `when` of the past of what is shown and that.
    pub async fn changes_since(
        &self,
        shown: &Shown,
        when: &When,
        disk: &Name,
    ) -> Result<ChangesSince, ChangesError> {
        let to = self.line_shown(shown)?;
        let from = self.moment_before(shown, &to, when).await?;
        let to_lease = match shown {
            Shown::Moment(moment) => Some(self.hold(moment, disk)?.2),
            Shown::Head { .. } => None,
        };
        let (line, replica, lease) = self.hold(&from, disk)?;
        Ok(ChangesSince {
            from: (from, line),
            to,
            disk: replica.id(),
            index: Arc::clone(&self.surroundings.index),
            _leases: (lease, to_lease),
        })
    }

    /// The newest marked points of the past of what is shown at which the disk was there, at most `most`.
    pub fn points_before(
        &self,
        shown: &Shown,
        disk: &Name,
        most: usize,
    ) -> Result<Vec<Point>, ResolveError> {
        let replica = self.disk_named(shown.machine(), disk)?;
        let (line, showing) = self.line_shown(shown)?;
        let mut points: Vec<Point> = Vec::new();
        let (mut line, mut newest) = (Some(line), showing.newest());
        let mut shown_itself = Some(newest);
        while let Some(there) = line.filter(|_| points.len() < most) {
            let query = PointQuery { order: PointOrder::NewestFirst, ..PointQuery::all(most + 1) };
            // A listing goes on behind a point that need not be there: after the moment itself, or with where the branch left.
            let after = shown_itself.take().unwrap_or_else(|| newest.next());
            let found =
                there.points(|points| points.list(&PointQuery { after: Some(after), ..query }));
            let is_there =
                |point: &Point| self.check_there(&replica, &there, point.sequence).is_ok();
            points.extend(found.into_iter().filter(is_there));
            let above = there.ancestry();
            let above = above.above(newest).map(|(parent, left)| (Arc::clone(parent), left));
            (line, newest) = above.map_or((None, newest), |(parent, left)| (Some(parent), left));
        }
        points.truncate(most);
        Ok(points)
    }

    /// The line of what is shown, and which moment of it that is.
    pub(crate) fn line_shown(&self, shown: &Shown) -> Result<(Arc<Line>, Showing), ResolveError> {
        Ok(match shown {
            Shown::Moment(moment) => (self.line_of(moment)?, Showing::Fixed(moment.sequence)),
            Shown::Head { machine, branch } => {
                (self.line_named(machine, Some(branch))?, Showing::Head)
            }
        })
    }

    /// The moment that `when` means on the line that is shown, or else on those it branched from.
    async fn moment_before(
        &self,
        shown: &Shown,
        (line, showing): &(Arc<Line>, Showing),
        when: &When,
    ) -> Result<Moment, ChangesError> {
        let (mut line, mut newest) = (Arc::clone(line), showing.newest());
        let mut first_error = None;
        loop {
            let found = self.moment_on(shown.machine(), &line, when).await;
            let error = match found {
                Ok(moment) if moment.sequence <= newest => return Ok(moment),
                Ok(moment) => {
                    let (from, shown) = (moment.absolute_name(None), shown.to_string());
                    return Err(first_error.unwrap_or(ChangesError::NotBefore { from, shown }));
                }
                Err(error) => error,
            };
            let elsewhere = matches!(
                error,
                ResolveError::NoPoints { .. }
                    | ResolveError::NoSuchPoint { .. }
                    | ResolveError::NotABoundary { .. }
            );
            let error = first_error.unwrap_or(ChangesError::Resolve(error));
            let ancestry = line.ancestry();
            match ancestry.above(newest).filter(|_| elsewhere) {
                Some((parent, left)) => (line, newest) = (Arc::clone(parent), left),
                None => return Err(error),
            }
            first_error = Some(error);
        }
    }

    async fn moment_on(
        &self,
        machine: &Name,
        line: &Arc<Line>,
        when: &When,
    ) -> Result<Moment, ResolveError> {
        let branch = {
            let state = self.manifest.state();
            state.lines.get(&line.id()).and_then(|entry| entry.branch.clone())
        };
        let name = MomentName { machine: machine.clone(), branch, disk: None, when: when.clone() };
        let (index, line) = (Arc::clone(&self.surroundings.index), Arc::clone(line));
        let now = self.surroundings.clock.now();
        offload(move || resolve_on_line(&*index, &line, &name, now)).await
    }
}

impl ChangesSince {
    /// Since when.
    pub fn from(&self) -> &Moment {
        &self.from.0
    }

    /// What changed in a prefix of `range`, which lies within the disk: parts in address order, neighbours different. Not
    /// empty, unless `range` is.
    pub async fn within(&self, range: ByteRange) -> Result<Vec<(ByteRange, Change)>, DiskError> {
        self.check_there(range)?;
        let (moment, from) = &self.from;
        let (to, showing) = &self.to;
        let layers = [from.layers(moment.sequence), to.layers(showing.newest())];
        let between = Between::of(&layers[0], &layers[1]);
        let between = between.ok_or_else(|| self.gone())?;
        let (index, disk) = (Arc::clone(&self.index), self.disk);
        let limits = PageLimits { ranges: usize::MAX, effort: LOOK_EFFORT };
        let windows = between.windows;
        let found = offload(move || page(&*index, &windows, (disk, range), limits)).await;
        let found = found.map_err(|error| index_failed(range, &error))?;
        // The index forgets a discarded line after it was closed: what was found since must not be believed.
        self.check_there(range)?;
        let told = range.split_at(found.next.unwrap_or(range.end())).0;
        let mut parts = Vec::with_capacity(2 * found.ranges.len() + 1);
        let mut rest = told;
        for changed in with_lost(found, range, between.lost).ranges {
            let (before, after) = rest.split_at(changed.range.start());
            if !before.is_empty() {
                parts.push((before, Change::None));
            }
            let change = if changed.written { Change::Written } else { Change::Unknown };
            parts.push((changed.range, change));
            rest = after.split_at(changed.range.end()).1;
        }
        if !rest.is_empty() {
            parts.push((rest, Change::None));
        }
        Ok(parts)
    }

    fn check_there(&self, range: ByteRange) -> Result<(), DiskError> {
        let (moment, from) = &self.from;
        let (to, showing) = &self.to;
        let gone = match showing {
            Showing::Fixed(sequence) => to.is_gone(*sequence),
            Showing::Head => to.is_closed(),
        };
        if gone || from.is_gone(moment.sequence) {
            return Err(self.gone());
        }
        let lacks = from.check_indexed().and_then(|()| to.check_indexed()).err();
        lacks.map_or(Ok(()), |lacks| Err(DiskError::Unknown { range, what: lacks.to_string() }))
    }

    fn gone(&self) -> DiskError {
        DiskError::Gone(ChangesError::Gone(self.from.0.absolute_name(None)).to_string())
    }
}
