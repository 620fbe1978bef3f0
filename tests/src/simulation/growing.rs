//! Disks that grow, at any time: between passes, in the middle of one, before the first copy, on branches, and while the power
//! goes.

use super::life::{Alive, Life, disk_name, machine, pick};
use super::model::SIZES;
use landfall_retention::Stream;
use landfall_retention::name::Name;
use landfall_retention::point::PointKind;
use std::sync::Arc;

/// What a disk grows by at most, all told.
const MOST_GROWTH: u64 = 512 << 10;

impl Life<'_> {
    /// A disk grows at its source, and then here.
    pub(super) async fn grow(&mut self, stream: Stream) -> Alive<Stream> {
        // Nothing may feed the machine meanwhile.
        drop(stream);
        let index = self.choices.index(SIZES.len());
        let sectors = *self.choices.pick(&[3, 40, 300]);
        let size = self.model.size(index) + 512 * (1 + self.choices.below(sectors));
        if size > SIZES[index] + MOST_GROWTH {
            return self.resume().await;
        }
        self.model.maybe_grown = Some((index, size));
        let grown = self.retention.grow_disk(&machine(), &disk_name(index), size).await;
        let grown = self.alive(grown, "grow")?;
        self.model.maybe_grown = None;
        assert_eq!((grown.from_bytes, grown.to_bytes), (self.model.size(index), size));
        self.model.grow(index, size);
        if let Some(point) = &grown.point {
            self.model.points.insert(point.sequence.number(), self.model.snapshot());
        }
        let point = grown.point.map(|point| point.sequence);
        self.model.say(format!("disk {index} grew to {size}, point {point:?}"));
        self.resume().await
    }

    /// A disk of a branch grows; those who replicate the machine go on.
    pub(super) async fn grow_branch(&mut self) -> Alive<()> {
        let Some((branch, held)) = pick(&self.model.branches, self.choices) else { return Ok(()) };
        let index = self.choices.index(SIZES.len());
        let sectors = *self.choices.pick(&[3, 40, 300]);
        let from = held.content[index].len() as u64;
        let size = from + 512 * (1 + self.choices.below(sectors));
        if held.sealed || size > SIZES[index] + MOST_GROWTH {
            return Ok(());
        }
        self.model.maybe_branch_grown = Some((branch.clone(), index, size));
        let name = Name::parse(&branch).expect("a name");
        let (of, disk) = (machine(), disk_name(index));
        let grown = self.retention.grow_branch_disk(&of, &name, &disk, size).await;
        let grown = self.alive(grown, "grow on a branch")?;
        self.model.maybe_branch_grown = None;
        assert_eq!((grown.from_bytes, grown.to_bytes), (from, size));
        let point = grown.point.expect("a branch has no passes").sequence.number();
        self.model.grow_branch(&branch, index, size, point);
        Ok(())
    }

    /// Whether a disk of a branch grew before the power went. Its point may be missing.
    pub(super) async fn settle_branch_growth(&mut self) -> Alive<()> {
        let Some((branch, index, size)) = self.model.maybe_branch_grown.clone() else {
            return Ok(());
        };
        let name = Name::parse(&branch).expect("a name");
        let disk = self.retention.branch_disk(&machine(), &name, &disk_name(index));
        let found = self.alive(disk, "branch disk")?.geometry().size_bytes;
        let from = self.model.branches[&branch].content[index].len() as u64;
        assert!(found == size || found == from, "{branch}: a size nobody gave it");
        if found == size {
            let of = machine();
            let marked = self.retention.mark(&of, Some(&name), PointKind::Crash, None).await;
            let point = self.alive(marked, "mark a branch")?;
            self.model.grow_branch(&branch, index, size, point.sequence.number());
        }
        self.model.maybe_branch_grown = None;
        Ok(())
    }

    /// Whether a disk grew before the power went.
    pub(super) fn settle_growth(&mut self) {
        let Some((index, size)) = self.model.maybe_grown.take() else { return };
        let machines = self.retention.machines();
        let found = machines[0].disks[index].size_bytes;
        if found == size {
            self.model.grow(index, size);
            self.model.grown_point = Some(Arc::clone(&self.model.snapshot()));
            self.model.say(format!("disk {index} had grown to {size}"));
        } else {
            assert_eq!(found, self.model.size(index), "disk {index} has a size nobody gave it");
        }
    }
}
