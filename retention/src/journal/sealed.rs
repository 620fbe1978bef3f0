//! Sealing of the bodies of a record that is about to be written. Pure.
//!
//! It happens once the place of the record is decided, as that is what its nonces are made of, and before the record is hashed:
//! what a head says of bodies it says of the bytes that are stored. So everything that reads the journal without handing out
//! what is in it needs no key.

use super::format::RecordSeal;
use crate::ids::{DiskId, KeyId, LineId, SegmentId, Sequence};
use crate::sealing::{BlockIdentity, DataKey, SegmentCipher};
use landfall_disks::{BLOCK_BYTES, Block, ByteRange};

/// Where a group is written.
#[derive(Clone, Copy, Debug)]
pub(super) struct GroupPlace {
    pub(super) segment: SegmentId,
    pub(super) salt: u64,
    /// From the start of the segment.
    pub(super) offset: u64,
}

/// The sealing of one record.
pub(super) struct Sealing {
    cipher: SegmentCipher,
    line: LineId,
    sequence: Sequence,
    seal: RecordSeal,
}

impl Sealing {
    /// Of a record that will start at `unit` of the segment of `place`.
    pub(super) fn new(
        (key, data): (KeyId, &DataKey),
        place: GroupPlace,
        unit: u32,
        (line, sequence): (LineId, Sequence),
    ) -> Self {
        let cipher = SegmentCipher::new(data, place.segment, place.salt);
        let seal = RecordSeal { key, segment: place.segment, unit, tags: Vec::new() };
        Self { cipher, line, sequence, seal }
    }

    /// Seals a body that starts `body` bytes behind the start of the record; gives its hash.
    pub(super) fn seal(
        &mut self,
        disk: DiskId,
        range: ByteRange,
        body: u32,
        bytes: &mut [u8],
    ) -> [u8; 32] {
        let Self { line, sequence, .. } = *self;
        let (first, unit) = (range.start().block().index(), self.seal.unit + body / UNIT_BYTES);
        for (at, bytes) in (0u32..).zip(bytes.chunks_mut(BLOCK_BYTES)) {
            let block = Block::new(first + u64::from(at));
            let identity = BlockIdentity { line, sequence, disk, block };
            self.seal.tags.push(self.cipher.seal(unit + at, &identity, bytes));
        }
        *blake3::hash(bytes).as_bytes()
    }

    /// What the head of the record says of it.
    pub(super) fn finish(self) -> RecordSeal {
        self.seal
    }
}

#[expect(clippy::cast_possible_truncation, reason = "4096")]
const UNIT_BYTES: u32 = BLOCK_BYTES as u32;
