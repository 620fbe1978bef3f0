//! Disks that grow, on the trunk of their machine or on a branch alone.
//!
//! ```text
//!   trunk   ─▶ DiskGrown above the tail       ─▶ every later moment has the new size ─▶ a point ─▶ a fold grows the image
//!   branch  ─▶ BranchDiskGrown above its tail ─▶ every later moment of it has it     ─▶ a point ─▶ promoted: as above
//! ```
//!
//! **Invariant:** sizes only grow along a line, and what a moment has never changes. What lies beyond the old end is zero until
//! somebody writes there.

use crate::change::{ChangeError, check_size};
use crate::ids::Sequence;
use crate::line::Line;
use crate::manifest::record::ManifestRecord;
use crate::manifest::state::ManifestState;
use crate::moment::line_name;
use crate::name::Name;
use crate::point::{Point, PointKind};
use crate::replica::{Image, ReplicaDisk};
use crate::retention::Retention;
use landfall_disks::image::ImageError;

/// What growing did.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct GrownDisk {
    /// Its size before, in bytes.
    pub from_bytes: u64,
    /// Its size now.
    pub to_bytes: u64,
    /// The first point that has it. None in the middle of a pass, whose point will have it, and while there are no points.
    pub point: Option<Point>,
}

impl Retention {
    /// Makes a disk larger, from the next point on. Older points keep the size they had, and so do branches that start at
    /// them. The image grows when such a point is folded into it. Durable on return.
    pub async fn grow_disk(
        &self,
        machine: &Name,
        disk: &Name,
        size_bytes: u64,
    ) -> Result<GrownDisk, ChangeError> {
        let shaping = self.shaping(machine)?;
        let _opening = shaping.slot.opening.lock().await;
        shaping.check_idle(machine)?;
        let replica = self.present_disk(machine, disk)?;
        let mut grown = self.check_growth(&replica, replica.size_bytes(), size_bytes)?;
        if grown.from_bytes == size_bytes {
            return Ok(grown);
        }
        {
            let _shape = shaping.line.shared().shape.write().await;
            self.log_growth(&shaping.line, &replica, size_bytes).await?;
        }
        match replica.floor() {
            None => self.grow_image_without_history(&replica, size_bytes).await?,
            Some(_) if shaping.line.is_in_pass() => {}
            Some(_) => grown.point = Some(self.mark(machine, None, PointKind::Crash, None).await?),
        }
        Ok(grown)
    }

    /// Makes a disk larger on a branch alone, from its next point on, which it makes. Moments of the branch up to now keep the
    /// size they had, and so do the trunk and all other branches. Who writes to the branch meanwhile goes on with the size it
    /// had when he opened it. Durable on return.
    pub async fn grow_branch_disk(
        &self,
        machine: &Name,
        branch: &Name,
        disk: &Name,
        size_bytes: u64,
    ) -> Result<GrownDisk, ChangeError> {
        let line = self.line_named(machine, Some(branch))?;
        self.check_not_destroyed(machine)?;
        let replica = self.disk_named(machine, disk)?;
        self.check_there(&replica, &line, Sequence::MAX)?;
        let mut grown = {
            let _shape = line.shared().shape.write().await;
            let from_bytes = replica.size_in(&line.place(Sequence::MAX));
            let grown = self.check_growth(&replica, from_bytes, size_bytes)?;
            if from_bytes == size_bytes {
                return Ok(grown);
            }
            self.log_branch_growth((&line, machine, branch), &replica, size_bytes).await?;
            grown
        };
        grown.point = Some(self.mark(machine, Some(branch), PointKind::Crash, None).await?);
        Ok(grown)
    }

    /// That a disk of this size may have that size.
    fn check_growth(
        &self,
        replica: &ReplicaDisk,
        from_bytes: u64,
        to_bytes: u64,
    ) -> Result<GrownDisk, ChangeError> {
        check_size(replica.name(), to_bytes)?;
        if to_bytes < from_bytes {
            let disk = replica.name().clone();
            return Err(ChangeError::Shrink { disk, from_bytes, to_bytes });
        }
        if to_bytes > from_bytes {
            self.check_image_may_grow(replica, to_bytes)?;
        }
        Ok(GrownDisk { from_bytes, to_bytes, point: None })
    }

    /// A fold that is to come must not find that the image cannot become that large.
    fn check_image_may_grow(
        &self,
        replica: &ReplicaDisk,
        size_bytes: u64,
    ) -> Result<(), ChangeError> {
        let Image::Present(image) = replica.image() else { return Ok(()) };
        if !size_bytes.is_multiple_of(u64::from(image.geometry().logical_sector)) {
            return Err(ChangeError::Size { disk: replica.name().clone(), size_bytes });
        }
        let checked = self.surroundings.images.check_growth(replica.spec(), size_bytes);
        let path = || replica.spec().path.clone();
        checked.map_err(|source| ChangeError::Image { path: path(), source: Box::new(source) })
    }

    async fn log_growth(
        &self,
        line: &Line,
        replica: &ReplicaDisk,
        size_bytes: u64,
    ) -> Result<(), ChangeError> {
        let disk = replica.id();
        let decide = |_: &ManifestState| {
            let above = line.tail().sequence;
            Ok((vec![ManifestRecord::DiskGrown { disk, above, size_bytes }], ()))
        };
        self.manifest.change::<_, ChangeError>(decide).await?;
        self.refresh_span(replica);
        Ok(())
    }

    async fn log_branch_growth(
        &self,
        (line, machine, branch): (&Line, &Name, &Name),
        replica: &ReplicaDisk,
        size_bytes: u64,
    ) -> Result<(), ChangeError> {
        let disk = replica.id();
        let decide = |state: &ManifestState| {
            let entry = state.lines.get(&line.id());
            // Discarded or promoted since; what was the trunk takes nothing more.
            if entry.is_none_or(|entry| entry.origin.is_none() || entry.sealed) {
                return Err(ChangeError::NotWritable(line_name(machine, Some(branch))));
            }
            let (line, above) = (line.id(), line.tail().sequence);
            Ok((vec![ManifestRecord::BranchDiskGrown { line, disk, above, size_bytes }], ()))
        };
        self.manifest.change::<_, ChangeError>(decide).await?;
        self.refresh_span(replica);
        Ok(())
    }

    /// Should a crash come first, opening does it.
    async fn grow_image_without_history(
        &self,
        replica: &ReplicaDisk,
        size_bytes: u64,
    ) -> Result<(), ChangeError> {
        let Image::Present(image) = replica.image() else { return Ok(()) };
        let grown = match image.resize(size_bytes).await {
            Ok(()) => image.flush().await,
            Err(error) => Err(error),
        };
        grown.map_err(|error| ChangeError::Image {
            path: replica.spec().path.clone(),
            source: Box::new(ImageError::Disk(error)),
        })
    }
}
