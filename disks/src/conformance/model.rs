//! The bytes a disk should have.

use crate::block::{BLOCK_SIZE, ByteOffset, ByteRange};
use crate::disk::{Disk, Durability, ZeroMode};
use crate::faults::Seed;
use crate::uring::buffer::Buffer;
use std::ops::Range;

/// A plain copy of a disk.
pub(super) struct Model {
    bytes: Vec<u8>,
}

pub(super) fn length(range: ByteRange) -> usize {
    usize::try_from(range.length()).expect("a test disk fits memory")
}

pub(super) fn indices(range: ByteRange) -> Range<usize> {
    let start = usize::try_from(range.start().bytes()).expect("a test disk fits memory");
    start..start + length(range)
}

impl Model {
    pub(super) fn of_zeroes(size: u64) -> Self {
        Self { bytes: vec![0; length(ByteRange::up_to(size))] }
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Fills some stretches, and leaves others zero.
    pub(super) fn scatter(&mut self, seed: &mut Seed) {
        for _ in 0..20 {
            let range = self.any_range(seed);
            seed.fill(&mut self.bytes[indices(range)]);
        }
    }

    pub(super) fn grow(&mut self, size: u64) {
        self.bytes.resize(length(ByteRange::up_to(size)), 0);
    }

    /// A range at random: anywhere, or near blocks; mostly short, sometimes all there is.
    pub(super) fn any_range(&self, seed: &mut Seed) -> ByteRange {
        let size = self.bytes.len() as u64;
        let unit = *seed.pick(&[1, 512, BLOCK_SIZE]);
        let start = seed.below(size + 1) / unit * unit;
        let longest = *seed.pick(&[3, 1024, 3 * BLOCK_SIZE, 64 << 10, size]);
        let length = seed.below(longest + 1) / unit * unit;
        let length = length.min(size - start);
        ByteRange::at(ByteOffset::new(start), length).expect("within the disk")
    }

    pub(super) fn is_zero(&self, range: ByteRange) -> bool {
        self.bytes[indices(range)].iter().all(|byte| *byte == 0)
    }

    /// Sets what a request that is known to have been made should have left.
    pub(super) fn set(&mut self, range: ByteRange, bytes: &[u8]) {
        self.bytes[indices(range)].copy_from_slice(bytes);
    }

    pub(super) async fn write(&mut self, disk: &dyn Disk, range: ByteRange, seed: &mut Seed) {
        let target = &mut self.bytes[indices(range)];
        seed.fill(target);
        let mut data = Buffer::copy_of(target);
        if seed.chance(1, 3) {
            // Memory that starts anywhere, as a request behind its header does.
            let skipped = seed.index(64);
            data = Buffer::zeroed(skipped + target.len());
            data.narrow(skipped..skipped + target.len());
            data.copy_from_slice(target);
        }
        let durability = *seed.pick(&[Durability::Cached, Durability::Cached, Durability::Durable]);
        disk.write(range.start(), data, durability).await.expect("written");
    }

    pub(super) async fn zero(&mut self, disk: &dyn Disk, range: ByteRange, mode: ZeroMode) {
        self.bytes[indices(range)].fill(0);
        disk.write_zeroes(range, mode, Durability::Cached).await.expect("zeroed");
    }

    /// Discards, and takes over what was left: in each block zeroes or what there was.
    pub(super) async fn discard(&mut self, disk: &dyn Disk, range: ByteRange) {
        disk.discard(range).await.expect("discarded");
        for part in range.chunks(BLOCK_SIZE) {
            let left = disk.read(part).await.expect("read");
            let target = &mut self.bytes[indices(part)];
            assert!(
                left.iter().all(|byte| *byte == 0) || *left == *target,
                "{part} is neither zero nor as it was"
            );
            target.copy_from_slice(&left);
        }
    }

    /// Reads `range` and compares.
    pub(super) async fn compare_range(&self, disk: &dyn Disk, range: ByteRange) {
        let found = disk.read(range).await.expect("read");
        assert_eq!(found.len(), length(range));
        let expected = &self.bytes[indices(range)];
        if let Some(place) = found.iter().zip(expected).position(|(found, should)| found != should)
        {
            panic!(
                "reading {range}: byte {} is {:#04x} and should be {:#04x}",
                range.start().bytes() + place as u64,
                found[place],
                expected[place]
            );
        }
    }

    /// Compares the whole disk.
    pub(super) async fn compare(&self, disk: &dyn Disk) {
        assert_eq!(disk.geometry().size_bytes, self.bytes.len() as u64);
        self.compare_range(disk, disk.geometry().whole()).await;
    }
}
