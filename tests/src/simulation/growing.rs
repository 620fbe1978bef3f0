//! Disks that grow, at any time: between passes, in the middle of one, before the first copy, and while the power goes.

use super::life::{Alive, Life, disk_name, machine};
use super::model::SIZES;
use landfall_retention::Stream;
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
